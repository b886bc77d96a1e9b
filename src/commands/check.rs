//! `heterosis check`: whether a search space or a recipe can work, and what it costs, before a night is spent.

mod command;
mod cost;
mod sample;
mod settings;
mod show;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub use show::size;

use super::{Failure, Outcome, environment, print_json, runtime::runtime_options, search::duration_ms, standard_input};
use crate::{
    cli::CheckArgs,
    eval::{Kind, Split, Task},
    event::{
        FinalPlan, Phase,
        words::{MIXED_KINDS, counted},
    },
    merge::Plan,
    models::{Opened, Parents},
    recipe::read,
    search::FitnessTask,
    session::{self, Session},
    space::{ChatTemplate, Scale, Space},
    yaml,
};

/// The largest tensor that is merged to see how long a merge takes.
const SAMPLE_ELEMENTS: usize = 1 << 24;

#[derive(Default, Serialize)]
struct Findings {
    ok: bool,
    models: Vec<Model>,
    /// What the child takes from one of them.
    settings: Vec<settings::Setting>,
    tasks: Vec<TaskFinding>,
    genes: Vec<String>,
    /// Absent where there are no models.
    merge: Option<Merge>,
    /// Without the time of the disk.
    merge_seconds: Option<f64>,
    /// Candidates drawn from the space, and why some cannot be merged.
    sample: Option<sample::Sample>,
    command: Option<command::Probe>,
    /// Who answers instead of the engine of heterosis, as it said when it was started.
    engine: Option<String>,
    /// The most that a run holds; parents that are mapped count with what of them is read.
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    /// On the device, where it has memory of its own.
    device_memory_bytes: Option<u64>,
    /// What a run writes, roughly, and what is free where it writes.
    disk_bytes: Option<u64>,
    disk_free_bytes: Option<u64>,
    /// Of one candidate: merging and answering; of the whole search, with parents, unsearched merges and learning.
    candidate_seconds: Option<f64>,
    /// Candidates that the budget pays for.
    evals: Option<u64>,
    search_seconds: Option<f64>,
    /// Of one round of learning, where the space learns: its questions, answered, its steps, and what it makes, scored.
    learning_seconds: Option<f64>,
    /// As a rule; they are in `search_seconds`.
    learning_rounds: Option<usize>,
    /// A language model of this machine that gives advice; what it takes is in `memory_bytes` and `search_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    guide: Option<cost::GuideCost>,
    #[serde(rename = "final")]
    finale: Vec<PartCost>,
    final_seconds: Option<f64>,
    warnings: Vec<String>,
    /// Why a run would fail.
    problems: Vec<String>,
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
    /// Questions of each of its splits.
    questions: Vec<(String, usize)>,
    /// Of which a run asks so many: in each part that asks this task.
    asked: Vec<(&'static str, usize)>,
    seconds_per_question: Option<f64>,
    /// It is asked through each model's chat template.
    chat_template: bool,
}

/// A part of the final.
#[derive(Serialize)]
struct PartCost {
    phase: Phase,
    examinees: usize,
    /// That each of them is asked.
    questions: usize,
    seconds: f64,
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
    let file = standard_input(&args.file);
    // Read once: it may be a pipe.
    let text = yaml::read_text(&file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let documents = yaml::parse(&args.file, &text)?;
    let findings = match documents.first().and_then(yaml::Kind::of) {
        Some(yaml::Kind::Recipe) => check_recipe(&args.file, &text)?,
        // Whatever it lacks of a search space is said there.
        _ => check_space(&args, session::parse_space(&args.file, &text)?)?,
    };
    if args.json {
        print_json(&findings);
    } else {
        show::show(&findings);
    }
    match findings.ok {
        true => Ok(()),
        false => Err(Failure::work(anyhow::anyhow!("a run of this would fail"))),
    }
}

fn check_recipe(file: &Path, text: &str) -> Result<Findings> {
    let opened = Opened::of_recipe(&read::parse(file, text)?, file, &environment::hub_options())?;
    let mut models = Vec::new();
    for (name, checkpoint) in opened.parents.iter() {
        models.push(model(name, checkpoint)?);
    }
    let merge = merge(&opened.plan, &opened.parents);
    let mut warnings = opened.plan.warnings();
    let settings = settings::settings(&opened.plan, &opened.parents);
    warnings.extend(settings::warnings(&opened.plan, &opened.parents, &settings));
    Ok(Findings {
        ok: true,
        models,
        merge_seconds: Some(merge_seconds(&opened, &merge)?),
        merge: Some(merge),
        settings,
        warnings,
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

fn merge(plan: &Plan, parents: &Parents) -> Merge {
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

fn check_space(args: &CheckArgs, mut space: Space) -> Result<Findings> {
    let budget_ms = args.duration.as_deref().map(duration_ms).transpose().context("--for")?;
    space.search.evals = args.evals.unwrap_or(space.search.evals);
    let session = Session::open(space, &runtime_options(&args.engine)?, environment::host())?;
    session.refuse_contradictions()?;
    let mut findings = Findings {
        genes: session.genome().genes().iter().map(|g| g.name.clone()).collect(),
        ..Findings::default()
    };
    for (name, checkpoint) in session.parents().iter() {
        findings.models.push(model(name, checkpoint)?);
    }
    let (tasks, held_out) = (session.tasks(), session.held_out());
    // A split that is missing is told with the way out, by whoever opens them all.
    let compared = session.questions_compared();
    if let Ok(compared) = &compared {
        session.refuse_overlap(compared.as_ref())?;
    }
    findings.tasks = asked(session.space(), tasks, held_out)?;
    let compared = compared?;
    let likelihoods = tasks
        .iter()
        .filter(|task| task.task.kind() == Kind::LogLikelihood)
        .count();
    if (1..tasks.len()).contains(&likelihoods) && session.space().fitness.scale == Scale::None {
        findings.warnings.push(MIXED_KINDS.into());
    }
    findings.warnings.extend(no_chat(&session));
    let plan = final_plan(session.space(), &findings.tasks);

    let drawn = sample::draw(&session)?;
    findings
        .warnings
        .extend(sample::left_out(session.space(), &drawn.recipes));
    findings.problems.extend(drawn.sample.problem());
    findings.warnings.extend(drawn.sample.warning());
    merge_of_space(&session, &mut findings)?;
    let can_be_merged = findings.problems.is_empty();
    findings.sample = (!session.space().models.is_empty()).then_some(drawn.sample);

    let costs = match &session.space().fitness.command {
        Some(command) => {
            let probe = command::probe(command, &session, args.file.parent());
            findings.problems.extend(probe.problem.clone());
            let costs = cost::of_command(&session, &probe, findings.merge.as_ref(), args.file.parent());
            findings.command = Some(probe);
            costs
        }
        None if can_be_merged => Some(cost::measure(&session, drawn.recipes, &mut findings)?),
        None => None,
    };
    if let Some(mut costs) = costs {
        match cost::of_guide(&session, &mut findings) {
            Ok(guide) => costs.guide = guide,
            Err(e) => findings.problems.push(format!("search.guide: {}", super::in_words(&e))),
        }
        let nothing = session.teaches_nothing()?;
        let learning = session.learning_plan()?.filter(|_| nothing.is_none());
        let both = session.learned_and_scored()?;
        findings.warnings.extend(both.iter().filter(|_| learning.is_some()).map(|(task, n)| {
            format!(
                "search.learn: rounds after the first learn from {} of '{task}' that candidates are scored on, since its split has no others: \
                 the search's scores flatter what was learned (the final's do not); a smaller 'limit' leaves more of them",
                counted(*n, "question")
            )
        }));
        findings
            .warnings
            .extend(nothing.map(|reason| format!("search.learn: nothing will be learned before the search: {reason}")));
        costs.tell(&session, (&plan, learning.as_ref()), budget_ms, &mut findings);
    }
    if let Some(compared) = &compared {
        findings
            .warnings
            .extend(compared.refusal().map(|_| compared.in_words()));
        findings.warnings.extend(compared.warning());
    }
    findings.ok = findings.problems.is_empty();
    Ok(findings)
}

/// What one merge of the space is: of the last unsearched one, which mixes all experts.
fn merge_of_space(session: &Session, findings: &mut Findings) -> Result<()> {
    let Some((_, recipe)) = session.genome().baselines().pop() else {
        return Ok(());
    };
    let plan = Plan::new(&recipe, session.parents())?;
    findings.warnings.extend(plan.warnings());
    findings.settings = settings::settings(&plan, session.parents());
    let warnings = settings::warnings(&plan, session.parents(), &findings.settings);
    findings.warnings.extend(warnings);
    findings.merge = Some(merge(&plan, session.parents()));
    Ok(())
}

/// Every split that a run opens, opened.
fn asked(space: &Space, tasks: &[FitnessTask], held_out: &[FitnessTask]) -> Result<Vec<TaskFinding>> {
    let finale = &space.finale;
    let split = |name: &str| Split::from_name(name).with_context(|| format!("final: there is no split '{name}'"));
    let selection = (split(&finale.selection.split)?, finale.selection_limit().most());
    let test = (split(&finale.test.split)?, finale.test_limit().most());
    let mut findings = Vec::new();
    for task in tasks {
        let search = (task.split, task.limit);
        findings.push(finding(
            task,
            &[("search", search), ("selection", selection), ("test", test)],
        )?);
    }
    for task in held_out {
        findings.push(finding(task, &[("held out", (task.split, task.limit))])?);
    }
    Ok(findings)
}

fn finding(task: &FitnessTask, parts: &[(&'static str, (Split, Option<usize>))]) -> Result<TaskFinding> {
    let mut asked = Vec::new();
    for (part, (split, limit)) in parts {
        asked.push((*part, task.questions(*split, *limit)?.len()));
    }
    let task: &Task = &task.task;
    let mut questions = Vec::new();
    for split in task.splits() {
        questions.push((split.name().to_string(), task.questions(split)?.len()));
    }
    Ok(TaskFinding {
        task: task.name().into(),
        lang: task.lang().into(),
        questions,
        asked,
        seconds_per_question: None,
        chat_template: task.chat().is_some(),
    })
}

/// Some models bring a chat template, and are asked without.
fn no_chat(session: &Session) -> Option<String> {
    let fitness = &session.space().fitness;
    if fitness.command.is_some() || fitness.chat_template.unwrap_or_default() != ChatTemplate::Auto {
        return None;
    }
    let without = session.without_chat_template();
    let some_bring_one = (1..session.space().models.len()).contains(&without.len());
    some_bring_one.then(|| {
        let (names, brings) = (without.join(", "), if without.len() == 1 { "brings" } else { "bring" });
        format!(
            "{names} {brings} no chat template, so all are asked in plain text; chat_template: on (below fitness) asks the others \
             through theirs, and the child through that of the space's tokenizer"
        )
    })
}

/// As the run's journal will have it.
fn final_plan(space: &Space, tasks: &[TaskFinding]) -> FinalPlan {
    let questions = |part: &str| -> usize {
        let asked = tasks.iter().flat_map(|task| &task.asked);
        asked.filter(|(of, _)| *of == part).map(|(_, n)| n).sum()
    };
    let part = |limit: crate::space::Limit, name| crate::event::FinalPart {
        limit: limit.most(),
        questions: questions(name),
    };
    FinalPlan {
        finalists: space.finale.finalists + space.learned_finalists(),
        selection: part(space.finale.selection_limit(), "selection"),
        test: part(space.finale.test_limit(), "test"),
        held_out: questions("held out"),
    }
}
