//! `heterosis fisher`: how much a model minds a change of each of its weights, for `merge_method: fisher`.

use std::collections::HashMap;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Failure, Outcome, environment, learn, print, print_json, runtime};
use crate::{
    cli::{FisherArgs, LabelsArg},
    eval::{self, Question, Samples, Task},
    learn::fisher::Fisher,
    merge::Plan,
    model::{Engine, ScoreRequest, Text},
    models,
    session::SHARD_SIZE_BYTES,
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
    let clock = environment::stopwatch();
    let opened = runtime::open(&args.model)?;
    let tasks = learn::tasks(&args.asked, args.questions, samples(args.labels, args.seed))?;
    let runtime = runtime::runtime(&args.engine)?;
    // Before anything is asked: what stands there is refused at once.
    let mut writer = models::begin(&args.out, SHARD_SIZE_BYTES, false)?;
    environment::remove_on_signal(writer.partial())?;
    let texts = texts(args.labels, &args.model, &tasks, &mut opened.engine(&runtime)?)?;
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
    let mut recipe = models::verbatim(fisher.model());
    recipe
        .stages
        .iter_mut()
        .for_each(|stage| stage.out_dtype = Some(args.store));
    let plan = Plan::new(&recipe, &fisher).map_err(Failure::work)?;
    models::write_from(&mut writer, &plan, (&fisher, &opened.parents), &mut |_| {})
        .and_then(|()| Ok(writer.finish()?))
        .map_err(Failure::work)?;
    show(
        &Document {
            out: args.out.display().to_string(),
            labels: label(args.labels),
            texts: fisher.texts(),
            mean: fisher.mean(),
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
        "{}  ({} texts, {}; {:.3e} a weight; name it in a recipe with 'fisher: {}' beside 'model')",
        document.out,
        document.texts,
        match document.labels {
            "sampled" => "answers that the model drew",
            _ => "worked solutions: the empirical Fisher information",
        },
        document.mean,
        document.out
    ));
}

/// The word for them.
pub(super) fn label(labels: LabelsArg) -> &'static str {
    match labels {
        LabelsArg::Sampled => "sampled",
        LabelsArg::Solutions => "solutions",
    }
}

/// How answers are drawn, where a model answers for itself.
pub(super) fn samples(labels: LabelsArg, seed: u64) -> Option<Samples> {
    (labels == LabelsArg::Sampled).then(|| Samples {
        temperature: 1.0,
        seed,
        ..Samples::new(1)
    })
}

/// The questions with what follows them.
pub(super) fn texts(
    labels: LabelsArg,
    model: &str,
    tasks: &[(Task, Vec<Question>)],
    engine: &mut Engine,
) -> Result<Vec<Text>> {
    let mut requests: Vec<ScoreRequest> = Vec::new();
    for (task, questions) in tasks {
        requests.extend(match labels {
            LabelsArg::Sampled => drawn(engine, task, questions)?,
            LabelsArg::Solutions => solved(engine, task, questions)?,
        });
    }
    let texts = requests
        .into_iter()
        .filter(|request| request.from < request.tokens.len());
    let texts: Vec<Text> = texts
        .map(|request| Text {
            tokens: request.tokens,
            from: request.from,
            weight: 1.0,
            expected: Vec::new(),
        })
        .collect();
    if texts.is_empty() {
        bail!("{model} wrote nothing in answer to any question; measure it with --labels solutions");
    }
    Ok(texts)
}

fn solved(engine: &Engine, task: &Task, questions: &[Question]) -> Result<Vec<ScoreRequest>> {
    let solved = eval::solved(engine, task, questions)?;
    if solved.is_empty() {
        bail!(
            "the task '{}' has no worked solutions; let the model answer with --labels sampled",
            task.name()
        );
    }
    Ok(solved.into_iter().map(|(_, request)| request).collect())
}

/// An answer of the model's own to each question, drawn at temperature 1.
fn drawn(engine: &mut Engine, task: &Task, questions: &[Question]) -> Result<Vec<ScoreRequest>> {
    if task.kind().is_measured() {
        bail!(
            "the task '{}' measures what is given and draws no answers; use --labels solutions",
            task.name()
        );
    }
    let answers = eval::answer(engine, &[(task, questions)], &mut |_| {})?.concat();
    let by_id: HashMap<&str, &Question> = questions
        .iter()
        .map(|question| (question.id.as_str(), question))
        .collect();
    let outputs: Vec<(&Question, &str, bool)> = answers
        .iter()
        .filter(|answer| !answer.output.is_empty() || answer.finish == "eos")
        .filter_map(|answer| {
            let question = by_id.get(answer.question.as_str())?;
            Some((*question, answer.output.as_str(), answer.finish == "eos"))
        })
        .collect();
    Ok(eval::continued(engine, task, &outputs)?)
}
