//! What the commands share that read a model with some texts and write what they found as a directory of tensors.

use std::{collections::HashMap, path::Path};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::{environment, learn, runtime};
use crate::{
    checkpoint::Writer,
    cli::{LabelsArg, MeasuringArgs, TaskQuestionsArgs},
    eval::{self, Question, Samples, Task},
    isa::DType,
    merge::{Plan, TensorSource},
    model::{Engine, ScoreRequest, Text},
    models::{self, Opened, Parents, Runtime},
    session::SHARD_SIZE_BYTES,
};

/// Tasks with their questions.
pub(super) type Asked = Vec<(Task, Vec<Question>)>;

/// Begins a directory, before anything is asked: what stands there is refused at once.
pub(super) fn begin(out: &Path) -> Result<Writer> {
    let writer = Writer::create(out, SHARD_SIZE_BYTES)?;
    environment::remove_on_signal(writer.partial())?;
    Ok(writer)
}

/// Writes the tensors of one model of a source as they are, in this precision if one is named.
pub(super) fn write_as_it_is(
    writer: &mut Writer,
    model: &str,
    (source, parents): (&dyn TensorSource, &Parents),
    dtype: Option<DType>,
) -> Result<()> {
    let mut recipe = models::verbatim(model);
    for stage in &mut recipe.stages {
        stage.out_dtype = dtype.or(stage.out_dtype);
    }
    let plan = Plan::new(&recipe, source)?;
    Ok(models::write_from(writer, &plan, (source, parents), &mut |_| {})?)
}

/// A model with the texts that it is measured on, and where the outcome goes.
pub(super) struct Subject {
    pub opened: Opened,
    pub runtime: Runtime,
    pub texts: Vec<Text>,
    pub writer: Writer,
}

impl Subject {
    pub fn new(model: &str, out: &Path, with: &MeasuringArgs) -> Result<Self> {
        let opened = runtime::open(model)?;
        let tasks = tasks(with, &with.asked)?;
        let runtime = runtime::runtime(&with.engine)?;
        let writer = begin(out)?;
        let texts = texts(with.labels, model, &tasks, &mut opened.engine(&runtime)?)?;
        Ok(Self {
            opened,
            runtime,
            texts,
            writer,
        })
    }
}

/// The questions of some tasks, as many as are wanted of each.
pub(super) fn tasks(args: &MeasuringArgs, asked: &TaskQuestionsArgs) -> Result<Asked> {
    // Where a model answers for itself.
    let samples = (args.labels == LabelsArg::Sampled).then(|| Samples {
        temperature: 1.0,
        seed: args.seed,
        ..Samples::new(1)
    });
    learn::tasks(asked, args.questions, samples).map_err(|e| match e.downcast_ref() {
        Some(eval::Error::Samples { task, .. }) => anyhow!(
            "the task '{task}' has no answers that the model could write: it asks how likely given ones are. Read those: \
             --labels solutions"
        ),
        _ => e,
    })
}

/// With what a model was measured, for those who find the file later.
pub(super) fn provenance<'a>(
    args: &MeasuringArgs,
    model: &str,
    parents: &Parents,
    tasks: impl IntoIterator<Item = &'a str>,
    texts: usize,
) -> Value {
    json!({
        "model": model,
        "models": digests(parents),
        "tasks": tasks.into_iter().collect::<Vec<_>>(),
        "lang": args.asked.lang,
        "split": args.asked.split,
        "questions": args.questions,
        "labels": args.labels.word(),
        "seed": args.seed,
        "texts": texts,
        "heterosis": env!("CARGO_PKG_VERSION"),
    })
}

/// The models that were read, and digests of their content.
fn digests(parents: &Parents) -> Value {
    let of = |(name, _): (&str, _)| json!({"model": name, "digest": parents.model_digest(name)});
    parents.iter().map(of).collect()
}

/// The questions with what follows them.
pub(super) fn texts(labels: LabelsArg, model: &str, tasks: &Asked, engine: &mut Engine) -> Result<Vec<Text>> {
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
