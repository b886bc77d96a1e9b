//! `heterosis eval` and `heterosis rescore`: scores, with a model and without.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Failure, LONGEST_INPUT, Outcome, environment, print, print_json, replacement::Replacement, runtime};
use crate::{
    checkpoint,
    cli::{EvalArgs, ProfileArg, RescoreArgs, SamplingArgs},
    eval::{
        self, Answer, Chat, Profile, Question, Samples, Split, Task, TaskOptions, TaskScore, Think,
        rescore::{self, Judged},
    },
};

#[derive(Serialize)]
struct Scores<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    profile: String,
    tasks: Vec<TaskScore>,
    /// Means over the tasks of a group, by their numbers of questions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<TaskScore>,
    elapsed_ms: u64,
    generated_tokens: u64,
}

/// A line of `--answers`.
#[derive(Serialize)]
struct Line<'a> {
    task: &'a str,
    lang: &'a str,
    #[serde(skip_serializing_if = "Judged::is_usual")]
    judged: &'a Judged,
    #[serde(flatten)]
    answer: &'a Answer,
}

pub(super) fn profile(arg: ProfileArg) -> Profile {
    match arg {
        ProfileArg::Parity => Profile::Parity,
        ProfileArg::Fitness => Profile::Fitness,
    }
}

pub fn eval(args: EvalArgs) -> Outcome {
    let clock = environment::stopwatch();
    let split = runtime::split(&args.split, &Split::ALL)?;
    let (mut tasks, mut judged) = (Vec::new(), Judged::default());
    if let Some(twice) = args
        .tasks
        .iter()
        .enumerate()
        .find(|(i, name)| args.tasks[..*i].contains(name))
    {
        return Err(anyhow::anyhow!("--task {}: it is named twice, and would count twice", twice.1).into());
    }
    if args.limit == Some(0) {
        return Err(anyhow::anyhow!("--limit 0 asks nothing; leave it out to ask all").into());
    }
    for (flag, n) in [("--samples", args.samples), ("--max-new-tokens", args.max_new_tokens)] {
        if n == Some(0) {
            return Err(anyhow::anyhow!("{flag} 0 leaves no answer; it is at least 1").into());
        }
    }
    for name in &args.tasks {
        for (name, lang) in eval::expand(name, args.lang.as_deref())? {
            let options = TaskOptions {
                lang: Some(lang),
                shots: args.shots,
                profile: profile(args.profile),
                limit: args.limit,
                max_new_tokens: args.max_new_tokens,
                chat: chat(&args)?,
                samples: samples(&args)?,
                think: args.think.then(|| Think {
                    budget: args.think_budget,
                    ..Think::default()
                }),
                score: args.score.clone(),
            };
            judged = Judged::by(&options);
            let task = Task::load(&name, &options, &environment::data_dirs())?;
            let questions = task.some_questions(split)?;
            tasks.push((task, questions));
        }
    }
    let answers_file = args.answers.as_deref().map(answers_file).transpose()?;
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
    let scored: Vec<TaskScore> = tasks
        .iter()
        .zip(&answered)
        .map(|((task, _), answers)| TaskScore::of(task, answers))
        .collect();
    let scores = Scores {
        model: Some(&args.model),
        profile: profile(args.profile).to_string(),
        groups: groups(&args.tasks, &scored)?,
        tasks: scored,
        elapsed_ms: clock().as_millis() as u64,
        generated_tokens: answered
            .iter()
            .flatten()
            .filter(|a| a.log_likelihood.is_none())
            .map(|a| a.token_count as u64)
            .sum(),
    };
    if let Some(file) = answers_file {
        let judged = &judged;
        let lines = tasks.iter().zip(&answered).flat_map(|((task, _), answers)| {
            answers.iter().map(move |answer| Line {
                task: task.name(),
                lang: task.lang(),
                judged,
                answer,
            })
        });
        write_lines(file, lines).map_err(Failure::Work)?;
    }
    show(&scores, args.json);
    Ok(())
}

/// How the model is spoken to.
fn chat(args: &EvalArgs) -> Result<Option<Chat>> {
    let variables = match &args.chat_template_kwargs {
        Some(json) => serde_json::from_str(json).context("--chat-template-kwargs: a JSON object is expected")?,
        None => serde_json::Map::new(),
    };
    Ok(runtime::chat(&args.chat).map(|chat| Chat { variables, ..chat }))
}

/// Several answers to each question, where they are asked for.
fn samples(args: &EvalArgs) -> Result<Option<Samples>> {
    let SamplingArgs {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
    } = args.sampling;
    let says_how = temperature.is_some() || top_k.is_some() || top_p.is_some() || min_p.is_some();
    let Some(n) = args.samples.or(says_how.then_some(1)) else {
        return Ok(None);
    };
    let usual = Samples::new(n.max(1));
    let samples = Samples {
        temperature: temperature.unwrap_or(usual.temperature),
        top_k: top_k.unwrap_or(usual.top_k),
        top_p: top_p.unwrap_or(usual.top_p),
        min_p: min_p.unwrap_or(usual.min_p),
        seed,
        ..usual
    };
    samples
        .checked()
        .map(Some)
        .map_err(|e| anyhow::anyhow!("--samples: {e}"))
}

/// The scores of the groups that were asked for by one name.
fn groups(names: &[String], scored: &[TaskScore]) -> Result<Vec<TaskScore>> {
    let mut groups = Vec::new();
    for name in names {
        for (group, members) in eval::groups(name)? {
            let of_group: Vec<&TaskScore> = scored.iter().filter(|score| members.contains(&score.task)).collect();
            groups.extend(TaskScore::pooled(&group, &of_group));
        }
    }
    Ok(groups)
}

pub fn rescore(args: RescoreArgs) -> Outcome {
    if args.answers_in.is_dir() {
        return super::rescore::rescore(&args);
    }
    let clock = environment::stopwatch();
    let name = args.answers_in.display();
    let text = checkpoint::read_text(&args.answers_in, LONGEST_INPUT)
        .with_context(|| format!("cannot read the answers {name}"))?;
    let mut stored = rescore::parse(&text).with_context(|| name.to_string())?;
    if let Some(arg) = args.profile {
        let profile = Some(profile(arg)).filter(|profile| *profile != Profile::default());
        stored.iter_mut().for_each(|line| line.judged.profile = profile);
    }
    // What it leaves out of each line, and lines of other tasks, would be gone.
    let is_itself = |out: &Path| {
        out.canonicalize()
            .is_ok_and(|out| args.answers_in.canonicalize().is_ok_and(|read| out == read))
    };
    if let Some(out) = args.answers.as_deref().filter(|out| is_itself(out)) {
        return Err(anyhow::anyhow!(
            "--answers {}: that is the file that is read; name another one",
            out.display()
        )
        .into());
    }
    let answers_file = args.answers.as_deref().map(answers_file).transpose()?;
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
        ..TaskOptions::default()
    };
    let outcome = rescore::rescore(stored, &tasks, &options, &environment::data_dirs())?;
    if outcome.left_out > 0 {
        tracing::warn!(
            "{name}: {} lines of other tasks or languages are left out",
            outcome.left_out
        );
    }
    let mut profiles: Vec<String> = Vec::new();
    for line in &outcome.lines {
        let profile = line.stored.judged.profile.unwrap_or_default().to_string();
        if !profiles.contains(&profile) {
            profiles.push(profile);
        }
    }
    if let Some(file) = answers_file {
        write_lines(file, &outcome.lines).map_err(Failure::Work)?;
    }
    let scores = Scores {
        model: None,
        profile: profiles.join(" and "),
        tasks: outcome.scores,
        groups: Vec::new(),
        elapsed_ms: clock().as_millis() as u64,
        generated_tokens: 0,
    };
    show(&scores, args.json);
    Ok(())
}

/// A file for answers. One of answers may be replaced, as scripts do; what else is there is somebody's.
fn answers_file(path: &Path) -> Result<Replacement> {
    if path.is_file() {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = BufReader::new(file.take(LONGEST_INPUT)).lines();
        if !lines.all(|line| line.is_ok_and(|line| rescore::parse(&line).is_ok())) {
            bail!(
                "--answers {}: it is there already, and no file of answers; remove it, or take another name",
                path.display()
            );
        }
    }
    let file = Replacement::create(path)?;
    if let Some(partial) = file.partial() {
        environment::remove_on_signal(partial)?;
    }
    Ok(file)
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
    for task in scores.tasks.iter().chain(&scores.groups) {
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
