//! `heterosis merge`: one merge to disk.

use anyhow::Context;

use super::{Failure, Outcome, environment, say, standard_input};
use crate::{
    checkpoint::parse_size,
    cli::MergeArgs,
    models::{self, Opened, marked, read_recipe, without_prefix},
    recipe::write,
};

pub fn merge(args: MergeArgs) -> Outcome {
    let shard_size = parse_size(&args.shard_size).context("--shard-size")?;
    // Read once: it may be a pipe.
    let recipe = read_recipe(&standard_input(&args.recipe))?;
    let opened = Opened::of_recipe(&recipe, &args.recipe, &environment::hub_options())?;
    announce(&opened);
    let mut writer = models::begin(&args.out, shard_size, args.overwrite)?;
    environment::remove_on_signal(writer.partial())?;
    let bar = environment::progress_bar(opened.plan.outputs().len() as u64, "merging");
    let mut merge = || -> Result<(), models::Error> {
        models::write(&mut writer, &opened.plan, &opened.parents, &mut |done| {
            bar.set_position(done as u64)
        })?;
        Ok(writer.text(
            "mergekit_config.yml",
            &marked(&write::to_yaml(&recipe.with_models(without_prefix))),
        )?)
    };
    let merged = merge().and_then(|()| models::publish(writer.stage()?, &args.out, args.overwrite));
    bar.finish_and_clear();
    merged.map_err(Failure::work)?;
    say(format_args!("the merged model is in {}", args.out.display()));
    Ok(())
}

/// Singular value decompositions take minutes where everything else takes seconds: said before they start.
fn announce(opened: &Opened) {
    let flops = opened.plan.cost(&opened.parents).spectral_flops;
    if flops == 0 {
        return;
    }
    let seconds = environment::decomposition_seconds(flops);
    tracing::warn!(
        "singular value decompositions of {:.0} GFLOP will take about {} here",
        flops as f64 / 1e9,
        match seconds < 90.0 {
            true => format!("{seconds:.0} s"),
            false => format!("{:.0} minutes", seconds / 60.0),
        }
    );
}
