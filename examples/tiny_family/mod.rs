//! What the examples on the embedded tiny family share: the opened parents, its task, fresh problems, an evaluator, and one
//! exam.

use std::path::Path;

use anyhow::{Context, Result};
use heterosis::{
    checkpoint::Checkpoint,
    eval::{DataDirs, Profile, Split, Task, TaskOptions},
    event::Answer,
    model::{DType, EngineOptions},
    models::Parents,
    recipe::Recipe,
    search::{Evaluator, Exam, FitnessTask, MergeEvaluator, Resources, Sitting, Subject},
    store::Cache,
};

pub mod fresh;
#[allow(dead_code)] // the trainer uses the rest
#[path = "../train_family/language.rs"]
pub mod language;
#[allow(dead_code)]
#[path = "../train_family/problems.rs"]
pub mod problems;

pub fn parents() -> Result<Parents> {
    let mut parents = Parents::default();
    for (name, dir) in [
        ("base", "tiny-base"),
        ("maths", "tiny-maths-en"),
        ("spanish", "tiny-spanish"),
    ] {
        parents.add(name, Checkpoint::open(&Path::new("models").join(dir))?)?;
    }
    Ok(parents)
}

pub fn task(file: &Path) -> Result<Task> {
    let options = TaskOptions {
        profile: Profile::Fitness,
        ..TaskOptions::default()
    };
    let file = file.to_str().context("a path that is no text")?;
    Ok(Task::load(file, &options, &DataDirs::default())?)
}

pub fn evaluator<'a>(
    parents: &'a Parents,
    task: Task,
    limit: Option<usize>,
    cache: &Path,
) -> Result<MergeEvaluator<'a>> {
    evaluator_of(parents, vec![task], limit, cache)
}

/// Asks several tasks, each as many questions of its search split.
pub fn evaluator_of<'a>(
    parents: &'a Parents,
    tasks: Vec<Task>,
    limit: Option<usize>,
    cache: &Path,
) -> Result<MergeEvaluator<'a>> {
    let start = std::time::Instant::now();
    let of_fitness = |task| FitnessTask {
        task,
        weight: 1.0,
        limit,
        split: Split::Search,
    };
    Ok(MergeEvaluator::new(Resources {
        parents,
        tasks: tasks.into_iter().map(of_fitness).collect(),
        held_out: Vec::new(),
        cache: Cache::open(cache, 0),
        device: heterosis::model::Device::Cpu,
        dtype: DType::F32,
        options: EngineOptions::default(),
        guard: None,
        since_start: Box::new(move || start.elapsed()),
    }))
}

/// The score of each answer to the first task of an exam.
pub fn examine(evaluator: &mut MergeEvaluator<'_>, recipe: &Recipe, exam: &Exam) -> Result<Vec<f64>> {
    Ok(answered(evaluator, recipe, exam)?.swap_remove(0))
}

/// The score of each answer to each task of an exam.
pub fn answered(evaluator: &mut MergeEvaluator<'_>, recipe: &Recipe, exam: &Exam) -> Result<Vec<Vec<f64>>> {
    let sitting = Sitting {
        id: "merge",
        subject: Subject::Recipe(recipe),
        genotype: &[],
        genes: &[],
        exam,
    };
    let evaluation = evaluator.evaluate(&sitting, &mut |_| {})?;
    let scores = |answers: &[Answer]| answers.iter().map(|a| a.score).collect();
    Ok(evaluation.answers.iter().map(|(_, answers)| scores(answers)).collect())
}
