//! `heterosis rescore DIR`: every answer that a run has stored, judged another way, without a model or a generation.
//!
//! A candidate's new fitness is its old one plus what the new verdicts change on the search questions that it answered.
//! Where all were asked everything that is the plain mean of the new verdicts; in a race, where everybody's fitness is an
//! estimate from a few questions, it stays comparable.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Outcome, environment, print, print_json};
use crate::{
    cli::{ProfileArg, RescoreArgs},
    eval::{Answer, Kind, Task},
    event::{self, Event, Record, RunStarted, run::origin_name, words::task_name},
    search::FitnessTask,
    session::fitness_tasks,
    space::{Space, TaskRef},
    store::{self, RunDir},
};

#[derive(Serialize)]
struct Rescored {
    run: String,
    candidates: Vec<Row>,
}

/// A candidate before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    /// By the new fitness, from 1.
    rank: usize,
    old_rank: usize,
    id: String,
    origin: &'static str,
    old: f64,
    new: f64,
    /// Answers judged again, and how many of them got another score.
    answers: usize,
    changed: usize,
    eliminated: bool,
    tasks: Vec<Part>,
}

/// Mean scores of a candidate's answers to one task.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Part {
    task: String,
    lang: String,
    n: usize,
    old: f64,
    new: f64,
}

/// One of the run's tasks, and how its answers are judged now.
struct Judge<'a> {
    task: &'a event::Task,
    score: Score<'a>,
}

type Score<'a> = Box<dyn Fn(&event::Answer) -> Result<f64> + 'a>;

pub fn rescore(args: &RescoreArgs) -> Outcome {
    if args.answers.is_some() || args.lang.is_some() {
        let lines = anyhow::anyhow!("--answers and --lang are for a file of answers; leave them out for a run");
        return Err(lines.into());
    }
    let dir = RunDir::open(&args.answers_in)?;
    let mut records = store::records(&dir.journal())?;
    let first = records.next().transpose()?.map(|record| record.event);
    let Some(Event::RunStarted(started)) = first else {
        return Err(anyhow::anyhow!("{}: the journal does not begin with a run", dir.journal().display()).into());
    };
    let judges =
        judges(args, &Space::read(&dir.space())?, &started).with_context(|| dir.path().display().to_string())?;
    let rescored = Rescored {
        run: dir.path().display().to_string(),
        candidates: rows(records, &judges)?,
    };
    match args.json {
        true => print_json(&rescored),
        false => tell(&rescored),
    }
    Ok(())
}

/// How each task's answers are judged: by `--task` if it is that task's or the run's only one, else by the run's own.
fn judges<'a>(args: &RescoreArgs, space: &Space, started: &'a RunStarted) -> Result<Vec<Judge<'a>>> {
    if started.tasks.is_empty() {
        bail!("a command scored this run's candidates and kept its questions to itself: there are no answers to judge");
    }
    let mut names: Vec<&str> = started.tasks.iter().map(|t| t.task.as_str()).collect();
    names.dedup();
    let is_only = names.len() == 1;
    let (mut judges, mut replaced) = (Vec::new(), false);
    let mut tasks = started.tasks.as_slice();
    let data = environment::data_dirs();
    for reference in &space.fitness.tasks {
        let mut reference = reference.clone();
        if let Some(profile) = args.profile {
            reference.profile = Some(
                if profile == ProfileArg::Parity {
                    "parity"
                } else {
                    "fitness"
                }
                .into(),
            );
        }
        let replacement = args.task.as_ref().map(|word| {
            let task = word.clone();
            fitness_tasks(
                &TaskRef {
                    task,
                    ..reference.clone()
                },
                &data,
            )
        });
        let same = |new: &[FitnessTask]| {
            new.first()
                .zip(tasks.first())
                .is_some_and(|(n, t)| n.task.name() == t.task)
        };
        let loaded = match replacement {
            Some(Ok(new)) if is_only || same(&new) => {
                replaced = true;
                new
            }
            // Nothing else could use it.
            Some(Err(e)) if is_only => return Err(e.into()),
            _ => fitness_tasks(&reference, &data)?,
        };
        let n = loaded.len().min(tasks.len());
        judges.extend(loaded.into_iter().zip(tasks).map(|(loaded, task)| Judge {
            task,
            score: Box::new(move |answer: &event::Answer| verdict(&loaded.task, answer)),
        }));
        tasks = &tasks[n..];
    }
    match &args.task {
        Some(word) if !replaced => bail!("--task {word} is none of this run's tasks: {}", names.join(", ")),
        _ => Ok(judges),
    }
}

/// What is measured rather than written has no other verdict.
fn verdict(judge: &Task, answer: &event::Answer) -> Result<f64> {
    match judge.kind() {
        Kind::Generate => Ok(Answer::judged(judge, answer.out.clone(), &answer.gold)?.score),
        _ => Ok(answer.score),
    }
}

/// Everybody that was scored on the search questions, the new best first. Reads the journal once, and forgets the answers of
/// whoever has a score: those of a whole night would not fit in memory.
fn rows(records: impl Iterator<Item = Result<Record, store::Error>>, judges: &[Judge<'_>]) -> Result<Vec<Row>> {
    let mut stored: HashMap<String, Stored> = HashMap::new();
    let mut rows: Vec<Row> = Vec::new();
    for record in records {
        match record?.event {
            Event::Answers(answers) => {
                let name = (&answers.task, &answers.lang, &answers.split);
                let is_it = |judge: &Judge<'_>| (&judge.task.task, &judge.task.lang, &judge.task.split) == name;
                if let Some(i) = judges.iter().position(is_it) {
                    let known = stored.entry(answers.id).or_default().entry(i).or_default();
                    known.extend(answers.answers.into_iter().map(|a| (a.q.clone(), a)));
                }
            }
            Event::CandidateScored(candidate) => {
                let stored = stored.remove(&candidate.id).unwrap_or_default();
                rows.push(row(&candidate, &stored, judges)?);
            }
            _ => {}
        }
    }
    rank(&mut rows, |row| row.old, |row, at| row.old_rank = at);
    rank(&mut rows, |row| row.new, |row, at| row.rank = at);
    Ok(rows)
}

/// A candidate's answers by judge, then by question; in one order, so that sums are the same each time.
type Stored = HashMap<usize, BTreeMap<String, event::Answer>>;

fn row(candidate: &event::Candidate, stored: &Stored, judges: &[Judge<'_>]) -> Result<Row> {
    let weights: f64 = judges.iter().map(|judge| judge.task.weight).sum();
    let mut row = Row {
        rank: 0,
        old_rank: 0,
        id: candidate.id.clone(),
        origin: origin_name(&candidate.origin),
        old: candidate.fitness,
        new: candidate.fitness,
        answers: 0,
        changed: 0,
        eliminated: candidate.eliminated,
        tasks: Vec::new(),
    };
    for (i, judge) in judges.iter().enumerate() {
        let Some(answers) = stored.get(&i) else { continue };
        let (mut old, mut new, mut size) = (0.0, 0.0, 0.0);
        for answer in answers.values() {
            let score = (judge.score)(answer).with_context(|| answer.q.clone())?;
            row.changed += usize::from(score != answer.score);
            let tokens = if judge.task.metric == "log_likelihood" {
                answer.tokens as f64
            } else {
                1.0
            };
            old += answer.score * tokens;
            new += score * tokens;
            size += tokens;
        }
        row.answers += answers.len();
        row.new += judge.task.weight / weights * (new - old) / size;
        row.tasks.push(Part {
            task: judge.task.task.clone(),
            lang: judge.task.lang.clone(),
            n: answers.len(),
            old: old / size,
            new: new / size,
        });
    }
    Ok(row)
}

/// Sorts by fitness, and says who stands where. Who left a race early competes with nobody, and stands behind the others.
fn rank(rows: &mut [Row], fitness: fn(&Row) -> f64, place: fn(&mut Row, usize)) {
    rows.sort_by(|a, b| {
        let stayed_first = a.eliminated.cmp(&b.eliminated);
        stayed_first.then(fitness(b).total_cmp(&fitness(a)))
    });
    rows.iter_mut().zip(1..).for_each(|(row, at)| place(row, at));
}

fn tell(rescored: &Rescored) {
    let width = rescored
        .candidates
        .iter()
        .map(|row| row.id.len())
        .max()
        .unwrap_or(2)
        .max(9);
    print(format_args!(
        "{:>4}  {:<width$}  {:>7}  {:>7}  {:>7}  {:>4}  {:>7}  {:>7}",
        "rank", "candidate", "old", "new", "change", "was", "answers", "changed"
    ));
    for row in &rescored.candidates {
        print(format_args!(
            "{:>4}  {:<width$}  {:>7.4}  {:>7.4}  {:>+7.4}  {:>4}  {:>7}  {:>7}{}",
            row.rank,
            row.id,
            row.old,
            row.new,
            row.new - row.old,
            row.old_rank,
            row.answers,
            row.changed,
            if row.eliminated { "  left the race early" } else { "" }
        ));
        if row.tasks.len() > 1 {
            for part in &row.tasks {
                let name = task_name(&part.task, &part.lang);
                print(format_args!(
                    "      {name}: {:.4} → {:.4}, n = {}",
                    part.old, part.new, part.n
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(event: &serde_json::Value) -> Record {
        let mut line = serde_json::json!({"schema_version": 1, "seq": 0, "time_ms": 0});
        line.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        serde_json::from_value(line).unwrap()
    }

    fn answers(id: &str, outs: &[(&str, f64)]) -> Record {
        let answer = |(i, (out, score)): (usize, &(&str, f64))| {
            serde_json::json!({"q": format!("q{i}"), "out": out, "got": "", "gold": "4", "score": score, "finish": "eos",
                "tokens": 1})
        };
        let answers: Vec<_> = outs.iter().enumerate().map(answer).collect();
        record(
            &serde_json::json!({"event": "answers", "id": id, "task": "sums", "lang": "en", "split": "search", "key": "",
            "answers": answers}),
        )
    }

    fn scored(id: &str, fitness: f64, eliminated: bool) -> Record {
        record(&serde_json::json!({
            "event": "candidate_scored", "id": id, "origin": "search", "generation": 0, "genotype": [], "recipe": {},
            "recipe_digest": "", "fitness": fitness, "stderr": 0.0, "n": 2, "tasks": [], "eliminated": eliminated,
            "cached": false, "generated_tokens": 0, "merge_ms": 0, "evaluation_ms": 0
        }))
    }

    #[test]
    fn another_verdict_changes_the_order() {
        let task = event::Task {
            task: "sums".into(),
            lang: "en".into(),
            split: "search".into(),
            weight: 2.0,
            n: 2,
            digest: String::new(),
            metric: "exact_match".into(),
            description: String::new(),
        };
        let judge = Judge {
            task: &task,
            score: Box::new(|answer| Ok(f64::from(u8::from(answer.out.contains(&answer.gold))))),
        };
        let records = [
            answers("strict", &[("4", 1.0), ("no", 0.0)]),
            scored("strict", 0.5, false),
            // An estimate from two questions of many: it moves by what the verdicts change.
            answers("wordy", &[("it is 4", 0.0), ("4.", 0.0)]),
            scored("wordy", 0.1, false),
            answers("left", &[("4!", 0.0), ("4!", 0.0)]),
            scored("left", 0.3, true),
        ];
        let rows = rows(records.into_iter().map(Ok), &[judge]).unwrap();
        let told: Vec<_> = rows
            .iter()
            .map(|r| (r.id.as_str(), r.rank, r.old_rank, r.changed))
            .collect();
        assert_eq!(told, [("wordy", 1, 2, 2), ("strict", 2, 1, 0), ("left", 3, 3, 2)]);
        assert!((rows[0].new - 1.1).abs() < 1e-12 && rows[1].new == 0.5);
        assert_eq!(
            (rows[0].tasks[0].old, rows[0].tasks[0].new, rows[0].answers),
            (0.0, 1.0, 2)
        );
    }
}
