//! `heterosis merge`: one merge to disk.

use anyhow::Context;

use super::{
    Failure, Outcome, child, environment,
    models::{Opened, read_recipe},
    overwrite::{self, marked},
};
use crate::{checkpoint::parse_size, cli::MergeArgs, recipe::write};

pub fn merge(args: MergeArgs) -> Outcome {
    let shard_size = parse_size(&args.shard_size).context("--shard-size")?;
    let opened = Opened::recipe(&args.recipe)?;
    let recipe = read_recipe(&args.recipe)?;
    announce(&opened);
    let mut writer = overwrite::begin(&args.out, shard_size, args.overwrite)?;
    let bar = environment::progress_bar(opened.plan.outputs().len() as u64, "merging");
    let mut merge = || -> anyhow::Result<()> {
        child::write(&mut writer, &opened.plan, &opened.parents, &mut |done| {
            bar.set_position(done as u64)
        })?;
        writer.text("mergekit_config.yml", &marked(&write::to_yaml(&recipe)))?;
        Ok(())
    };
    let merged = merge().and_then(|()| Ok(writer.finish()?));
    bar.finish_and_clear();
    merged.map_err(Failure::Work)
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
