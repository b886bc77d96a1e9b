//! `heterosis align`: a model with its neurons and heads where another's stand that they are most like.

use std::path::Path;

use serde::Serialize;

use super::{Failure, Outcome, environment, measuring, print, print_json, runtime};
use crate::{cli::AlignArgs, models::Aligned};

/// `--json`.
#[derive(Serialize)]
struct Document {
    out: String,
    to: String,
    neurons: Moved,
    heads: Moved,
    /// Of the weights that belong to neurons and heads, from the other model's: the root of the sum of squares.
    distance_before: f64,
    distance_after: f64,
    elapsed_ms: u64,
}

#[derive(Serialize)]
struct Moved {
    moved: usize,
    of: usize,
}

impl From<(usize, usize)> for Moved {
    fn from((moved, of): (usize, usize)) -> Self {
        Moved { moved, of }
    }
}

pub fn align(args: AlignArgs) -> Outcome {
    let clock = environment::stopwatch();
    let (model, base) = (runtime::open(&args.model)?, runtime::open(&args.to)?);
    let mut writer = measuring::begin(&args.out)?;
    let layers = crate::merge::layer_count(model.plan.config()).unwrap_or_default();
    let bar = environment::progress_bar(layers as u64, "matching");
    let aligned = Aligned::new(&model, &base, &mut |layer| bar.set_position(layer as u64));
    bar.finish_and_clear();
    let aligned = aligned.map_err(Failure::work)?;
    let from = (&aligned as _, &model.parents);
    measuring::write_as_it_is(&mut writer, aligned.model(), from, None).map_err(Failure::work)?;
    writer.finish().map_err(Failure::work)?;
    let (moved, out): (_, &Path) = (aligned.moved, &args.out);
    show(
        &Document {
            out: out.display().to_string(),
            to: args.to.clone(),
            neurons: moved.neurons.into(),
            heads: moved.heads.into(),
            distance_before: moved.distance.0,
            distance_after: moved.distance.1,
            elapsed_ms: clock().as_millis() as u64,
        },
        args.json,
    );
    Ok(())
}

fn show(document: &Document, json: bool) {
    if json {
        print_json(document);
        return;
    }
    print(format_args!(
        "{}  ({} of {} neurons and {} of {} heads changed places; their weights are {:.4} from those of {}, before {:.4})",
        document.out,
        document.neurons.moved,
        document.neurons.of,
        document.heads.moved,
        document.heads.of,
        document.distance_after,
        document.to,
        document.distance_before
    ));
}
