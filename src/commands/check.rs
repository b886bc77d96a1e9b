//! `heterosis check`: whether a search space or a recipe can work, and what it costs, before a night is spent.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Outcome, environment,
    models::{Opened, is_recipe},
    print, print_json,
    search::{Prepared, resolve},
};
use crate::{
    cli::{CheckArgs, EngineArgs},
    eval::{self, Question, Task},
    merge::Plan,
    model::decoder::DType,
    search::verbatim,
    space::Space,
    yaml,
};

/// The largest tensor that is merged to see how long a merge takes.
const SAMPLE_ELEMENTS: usize = 1 << 24;

/// Questions of each task that are answered to see how long an evaluation takes.
const SAMPLE: usize = 8;

#[derive(Default, Serialize)]
struct Findings {
    ok: bool,
    models: Vec<Model>,
    tasks: Vec<TaskFinding>,
    genes: Vec<String>,
    /// Absent where there are no models.
    merge: Option<Merge>,
    /// Without the time of the disk.
    merge_seconds: Option<f64>,
    /// Weights of a child as deep as the first model, as they are computed with, and the most that keys and values may take.
    evaluation_memory_bytes: Option<u64>,
    /// Of one candidate: merging and answering; of the whole search.
    candidate_seconds: Option<f64>,
    search_seconds: Option<f64>,
    /// Of one round of learning, where the space learns: its questions, answered, and its steps.
    learning_seconds: Option<f64>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Model {
    name: String,
    tensors: usize,
    parameters: usize,
    digest: String,
}

#[derive(Serialize)]
struct TaskFinding {
    task: String,
    lang: String,
    questions: Vec<(String, usize)>,
}

#[derive(Serialize)]
struct Merge {
    tensors: usize,
    bytes_read: u64,
    bytes_written: u64,
    memory_bytes: u64,
    spectral_flops: u64,
    /// Of these decompositions, on this machine.
    spectral_seconds: f64,
}

pub fn check(args: CheckArgs) -> Outcome {
    let findings = match is_space(&args.file)? {
        true => check_space(&args.file, &args.engine)?,
        false => check_recipe(&args.file)?,
    };
    if args.json {
        print_json(&findings);
    } else {
        show(&findings);
    }
    Ok(())
}

/// A search space has the key `parameter_space` or `fitness`; a recipe has `merge_method`.
fn is_space(file: &Path) -> Result<bool> {
    if !is_recipe(&file.display().to_string()) {
        anyhow::bail!("{}: a search space or a recipe is a .yaml file", file.display());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let documents = yaml::parse(file, &text)?;
    let is_recipe = |node: &yaml::Node| node.map().is_ok_and(|m| m.optional("merge_method").is_some());
    Ok(!documents.first().is_some_and(is_recipe))
}

fn check_recipe(file: &Path) -> Result<Findings> {
    let opened = Opened::recipe(file)?;
    let mut models = Vec::new();
    for (name, checkpoint) in opened.parents.iter() {
        models.push(model(name, checkpoint)?);
    }
    let merge = merge(&opened.plan, &opened.parents);
    Ok(Findings {
        ok: true,
        models,
        merge_seconds: Some(merge_seconds(&opened, &merge)?),
        merge: Some(merge),
        warnings: opened.plan.warnings(),
        ..Findings::default()
    })
}

fn model(name: &str, checkpoint: &crate::checkpoint::Checkpoint) -> Result<Model> {
    Ok(Model {
        name: name.into(),
        tensors: checkpoint.tensors().len(),
        parameters: checkpoint.tensors().map(|(_, info)| info.len()).sum(),
        digest: checkpoint.digest()?,
    })
}

fn merge(plan: &Plan, parents: &crate::search::Parents) -> Merge {
    let cost = plan.cost(parents);
    Merge {
        tensors: plan.outputs().len(),
        bytes_read: cost.read_bytes,
        bytes_written: cost.written_bytes,
        memory_bytes: cost.peak_bytes,
        spectral_flops: cost.spectral_flops,
        spectral_seconds: match cost.spectral_flops {
            0 => 0.0,
            flops => environment::decomposition_seconds(flops),
        },
    }
}

/// From the decompositions, and for the rest from a tensor of middling size that needs none; reading from the disk comes on
/// top where it is slow.
fn merge_seconds(opened: &Opened, merge: &Merge) -> Result<f64> {
    let plan = &opened.plan;
    let outputs = plan.outputs().iter().enumerate();
    let cheap = outputs.filter(|(i, _)| !plan.decomposes(*i));
    let Some((sample, output)) = cheap
        .filter(|(_, o)| o.elements() <= SAMPLE_ELEMENTS)
        .max_by_key(|(_, o)| o.elements())
    else {
        return Ok(merge.spectral_seconds);
    };
    let mut bytes = vec![0; output.size_bytes()];
    let clock = environment::stopwatch();
    plan.compute_bytes(sample, &opened.parents, &mut bytes)?;
    let all: usize = plan.outputs().iter().map(|o| o.elements()).sum();
    Ok(merge.spectral_seconds + clock().as_secs_f64() * all as f64 / output.elements().max(1) as f64)
}

fn check_space(file: &Path, engine: &EngineArgs) -> Result<Findings> {
    let mut space = Space::read(file)?;
    resolve(&mut space, file)?;
    let prepared = Prepared::new(space, engine)?;
    let mut models = Vec::new();
    for (name, checkpoint) in prepared.parents.iter() {
        models.push(model(name, checkpoint)?);
    }
    let genes: Vec<String> = prepared.genome.genes().iter().map(|g| g.name.clone()).collect();
    let (tasks, held_out) = (prepared.tasks()?, prepared.held_out()?);
    let middle = prepared.genome.baselines();
    let plan = middle
        .last()
        .map(|(_, recipe)| Plan::new(recipe, &prepared.parents))
        .transpose()?;
    let mut findings = Findings {
        ok: true,
        models,
        genes,
        merge: plan.as_ref().map(|plan| merge(plan, &prepared.parents)),
        ..Findings::default()
    };
    let Some(plan) = plan.filter(|_| prepared.space.fitness.command.is_none()) else {
        // How long a command takes is its own affair.
        return Ok(findings);
    };

    // Nothing tells how long an evaluation takes like a small one: the first model answers a few questions.
    let name = &prepared.space.models[0].0;
    let as_it_is = Plan::new(&verbatim(name), &prepared.parents)?;
    let mut opened = Opened {
        parents: prepared.parents,
        plan,
    };
    findings.warnings = opened.plan.warnings();
    let merge_seconds = match &findings.merge {
        Some(merge) => merge_seconds(&opened, merge)?,
        None => 0.0,
    };
    opened.plan = as_it_is;
    let mut model_engine = opened.engine_on(&prepared.runtime)?;
    let (mut sample, mut asked_in_all) = (Vec::new(), 0);
    for fitness_task in &tasks {
        let task = &fitness_task.task;
        findings.tasks.push(finding(task)?);
        let mut asked = task.questions(fitness_task.split)?;
        asked.truncate(fitness_task.limit.unwrap_or(usize::MAX));
        asked_in_all += asked.len();
        asked.truncate(SAMPLE);
        sample.push((task, asked));
    }
    for task in &held_out {
        findings.tasks.push(finding(&task.task)?);
    }
    let work: Vec<(&Task, &[Question])> = sample.iter().map(|(task, asked)| (*task, asked.as_slice())).collect();
    let clock = environment::stopwatch();
    eval::answer(&mut model_engine, &work, &mut |_| {})?;
    let answered: usize = sample.iter().map(|(_, asked)| asked.len()).sum();
    let racing = prepared.space.search.racing.as_ref();
    let asked = racing.map_or(asked_in_all as f64, |racing| {
        racing.mean_questions().min(asked_in_all as f64)
    });
    let answer_seconds = clock().as_secs_f64() / answered.max(1) as f64;
    let candidate_seconds = merge_seconds + answer_seconds * asked;
    if let Some(learning) = &prepared.space.search.learn {
        let questions = (learning.questions * tasks.len()) as f64;
        // Reading a text forward and backward takes about as long as answering one.
        let steps = learning.steps as f64 * (merge_seconds + learning.batch as f64 * answer_seconds);
        findings.learning_seconds = Some(answer_seconds * questions + steps);
    }
    let runtime = &prepared.runtime;
    // The CPU rounds weights, but keeps them in f32.
    let kept = if runtime.device.is_cpu() {
        DType::F32
    } else {
        runtime.dtype
    };
    let weights = model_engine.decoder().spec().parameters() * kept.size_bytes();
    findings.merge_seconds = Some(merge_seconds);
    findings.evaluation_memory_bytes = Some(weights as u64 + runtime.options.kv_memory_bytes);
    findings.candidate_seconds = Some(candidate_seconds);
    findings.search_seconds = Some(candidate_seconds * prepared.space.search.evals as f64);
    Ok(findings)
}

fn finding(task: &Task) -> Result<TaskFinding> {
    let mut questions = Vec::new();
    for split in task.splits() {
        questions.push((split.name().to_string(), task.questions(split)?.len()));
    }
    Ok(TaskFinding {
        task: task.name().into(),
        lang: task.lang().into(),
        questions,
    })
}

fn show(findings: &Findings) {
    for model in &findings.models {
        print(format_args!(
            "model {:<16} {} tensors, {:.1}M parameters",
            model.name,
            model.tensors,
            model.parameters as f64 / 1e6
        ));
    }
    for task in &findings.tasks {
        let splits: Vec<String> = task.questions.iter().map(|(split, n)| format!("{split} {n}")).collect();
        print(format_args!(
            "task  {} ({}): {}",
            task.task,
            task.lang,
            splits.join(", ")
        ));
    }
    if !findings.genes.is_empty() {
        print(format_args!(
            "genes {}: {}",
            findings.genes.len(),
            findings.genes.join(", ")
        ));
    }
    let Some(merge) = &findings.merge else {
        return print("everything fits");
    };
    let mb = |bytes: u64| bytes as f64 / 1e6;
    print(format_args!(
        "merge {} tensors: reads {:.1} MB, writes {:.1} MB, holds {:.1} MB",
        merge.tensors,
        mb(merge.bytes_read),
        mb(merge.bytes_written),
        mb(merge.memory_bytes)
    ));
    if merge.spectral_flops > 0 {
        print(format_args!(
            "      singular value decompositions: {:.1} GFLOP, about {:.1} minutes here",
            merge.spectral_flops as f64 / 1e9,
            merge.spectral_seconds / 60.0
        ));
    }
    if let Some(seconds) = findings.merge_seconds {
        print(format_args!(
            "      takes about {seconds:.2} s and the time of the disk"
        ));
    }
    if let Some(bytes) = findings.evaluation_memory_bytes {
        print(format_args!(
            "answering holds about {:.1} MB (weights, and the most that keys and values may take)",
            mb(bytes)
        ));
    }
    if let (Some(candidate), Some(search)) = (findings.candidate_seconds, findings.search_seconds) {
        print(format_args!(
            "time  at most about {candidate:.1} s a candidate, {:.1} minutes for the search (from {SAMPLE} questions a task)",
            search / 60.0
        ));
    }
    if let Some(seconds) = findings.learning_seconds {
        print(format_args!("      and at most about {:.1} minutes for each round of learning", seconds / 60.0));
    }
    for warning in &findings.warnings {
        print(format_args!("warning: {warning}"));
    }
    print("everything fits");
}
