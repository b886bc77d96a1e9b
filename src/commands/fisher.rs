//! `heterosis fisher`: how much a model minds a change of each of its weights, for `merge_method: fisher`.

use serde::Serialize;
use serde_json::json;

use super::{
    Failure, Outcome, environment,
    measuring::{self, Subject},
    print, print_json,
};
use crate::{
    cli::{FisherArgs, LabelsArg},
    learn::fisher::Fisher,
    merge::FISHER_KEY,
};

/// `--json`.
#[derive(Serialize)]
struct Document {
    out: String,
    labels: &'static str,
    texts: usize,
    /// Of all weights that the texts reached.
    mean: f64,
    elapsed_ms: u64,
}

pub fn fisher(args: FisherArgs) -> Outcome {
    let (clock, with) = (environment::stopwatch(), &args.with);
    let Subject {
        opened,
        runtime,
        texts,
        mut writer,
    } = Subject::new(&args.model, &args.out, with)?;
    let bar = environment::progress_bar(texts.len() as u64, "reading");
    let read = Fisher::measure(
        &opened.plan,
        &opened.parents,
        &texts,
        (runtime.device, runtime.dtype),
        &mut |done| {
            bar.set_position(done as u64);
            true
        },
    );
    bar.finish_and_clear();
    let fisher = read.map_err(Failure::work)?;
    let from = (&fisher as _, &opened.parents);
    measuring::write_as_it_is(&mut writer, fisher.model(), from, Some(args.store)).map_err(Failure::work)?;
    let asked = with.asked.tasks.iter().map(String::as_str);
    let provenance = measuring::provenance(with, &args.model, &opened.parents, asked, fisher.texts());
    let mut config = opened.plan.config().clone();
    config[FISHER_KEY] = json!({"measured": provenance});
    writer.json("config.json", &config)?;
    writer.finish().map_err(Failure::work)?;
    show(
        &Document {
            out: args.out.display().to_string(),
            labels: with.labels.word(),
            texts: fisher.texts(),
            mean: fisher.mean(),
            elapsed_ms: clock().as_millis() as u64,
        },
        &args,
    );
    Ok(())
}

fn show(document: &Document, args: &FisherArgs) {
    if args.with.json {
        print_json(document);
        return;
    }
    print(format_args!(
        "{}  ({} texts, {}; {:.3e} a weight; name it in a recipe with 'fisher: {}' beside 'model')",
        document.out,
        document.texts,
        match args.with.labels {
            LabelsArg::Sampled => "answers that the model drew",
            LabelsArg::Solutions => "worked solutions: the empirical Fisher information",
        },
        document.mean,
        document.out
    ));
}
