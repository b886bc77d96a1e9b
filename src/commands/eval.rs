//! `heterosis eval` and `heterosis rescore`: scores, with a model and without.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Failure, LONGEST_INPUT, Outcome, environment, print, print_json, replacement::Replacement, runtime};
use crate::{
    checkpoint,
    cli::{EvalArgs, ProfileArg, RescoreArgs},
    eval::{self, Answer, Profile, Question, Split, Task, TaskOptions, TaskScore, rescore},
};

#[derive(Serialize)]
struct Scores<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    profile: String,
    tasks: Vec<TaskScore>,
    elapsed_ms: u64,
    generated_tokens: u64,
}

/// A line of `--answers`.
#[derive(Serialize)]
struct Line<'a> {
    task: &'a str,
    lang: &'a str,
    #[serde(flatten)]
    answer: &'a Answer,
}

fn profile(arg: ProfileArg) -> Profile {
    match arg {
        ProfileArg::Parity => Profile::Parity,
        ProfileArg::Fitness => Profile::Fitness,
    }
}

pub fn eval(args: EvalArgs) -> Outcome {
    let clock = environment::stopwatch();
    let split = Split::from_name(&args.split).with_context(|| {
        let known = Split::ALL.map(Split::name).join(", ");
        format!("--split {}: write one of {known}", args.split)
    })?;
    let mut tasks = Vec::new();
    for name in &args.tasks {
        for (name, lang) in eval::expand(name, args.lang.as_deref())? {
            let options = TaskOptions {
                lang: Some(lang),
                shots: args.shots,
                profile: profile(args.profile),
                limit: args.limit,
                max_new_tokens: args.max_new_tokens,
                chat: runtime::chat(&args.chat),
                ..TaskOptions::default()
            };
            let task = Task::load(&name, &options, &environment::data_dirs())?;
            let questions = task.questions(split)?;
            tasks.push((task, questions));
        }
    }
    let answers_file = args.answers.as_deref().map(Replacement::create).transpose()?;
    let mut engine = runtime::engine(&args.model, &args.engine)?;
    let work: Vec<(&Task, &[Question])> = tasks
        .iter()
        .map(|(task, questions)| (task, questions.as_slice()))
        .collect();
    let total: usize = tasks.iter().map(|(_, questions)| questions.len()).sum();
    let bar = environment::progress_bar(total as u64, "answering");
    let answered = eval::answer(&mut engine, &work, &mut |progress| {
        bar.set_position(progress.done as u64)
    })
    .map_err(Failure::work)?;
    bar.finish_and_clear();
    let scores = Scores {
        model: Some(&args.model),
        profile: profile(args.profile).to_string(),
        tasks: tasks
            .iter()
            .zip(&answered)
            .map(|((task, _), answers)| TaskScore::of(task, answers))
            .collect(),
        elapsed_ms: clock().as_millis() as u64,
        generated_tokens: answered
            .iter()
            .flatten()
            .filter(|a| a.log_likelihood.is_none())
            .map(|a| a.token_count as u64)
            .sum(),
    };
    if let Some(file) = answers_file {
        let lines = tasks.iter().zip(&answered).flat_map(|((task, _), answers)| {
            answers.iter().map(|answer| Line {
                task: task.name(),
                lang: task.lang(),
                answer,
            })
        });
        write_lines(file, lines).map_err(Failure::Work)?;
    }
    show(&scores, args.json);
    Ok(())
}

pub fn rescore(args: RescoreArgs) -> Outcome {
    if args.answers_in.is_dir() {
        return super::rescore::rescore(&args);
    }
    let profile = profile(args.profile.unwrap_or(ProfileArg::Parity));
    let clock = environment::stopwatch();
    let name = args.answers_in.display();
    let text = checkpoint::read_text(&args.answers_in, LONGEST_INPUT)
        .with_context(|| format!("cannot read the answers {name}"))?;
    let stored = rescore::parse(&text).with_context(|| name.to_string())?;
    let tasks: Vec<String> = match &args.task {
        Some(task) => vec![task.clone()],
        None => {
            let mut named: Vec<String> = stored.iter().filter_map(|line| line.task.clone()).collect();
            named.sort();
            named.dedup();
            named
        }
    };
    if tasks.is_empty() {
        return Err(anyhow::anyhow!("{name}: no line names its task; say which with --task").into());
    }
    let options = TaskOptions {
        lang: args.lang.clone(),
        profile,
        ..TaskOptions::default()
    };
    let outcome = rescore::rescore(stored, &tasks, &options, &environment::data_dirs())?;
    if outcome.left_out > 0 {
        tracing::warn!(
            "{name}: {} lines of other tasks or languages are left out",
            outcome.left_out
        );
    }
    if let Some(path) = &args.answers {
        write_lines(Replacement::create(path)?, &outcome.lines).map_err(Failure::Work)?;
    }
    let scores = Scores {
        model: None,
        profile: profile.to_string(),
        tasks: outcome.scores,
        elapsed_ms: clock().as_millis() as u64,
        generated_tokens: 0,
    };
    show(&scores, args.json);
    Ok(())
}

fn write_lines<T: Serialize>(mut file: Replacement, lines: impl IntoIterator<Item = T>) -> Result<()> {
    for line in lines {
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.finish()
}

fn show(scores: &Scores<'_>, json: bool) {
    if json {
        print_json(scores);
        return;
    }
    for task in &scores.tasks {
        print(format_args!("{} ({}), n = {}", task.task, task.lang, task.n));
        for (name, estimate) in &task.scores {
            let mark = if *name == task.primary { "*" } else { " " };
            print(format_args!(
                "  {mark} {name:<24} {:.4} ± {:.4} SE",
                estimate.value, estimate.stderr
            ));
        }
    }
}
