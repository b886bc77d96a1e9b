//! `heterosis status` and `runs`: where runs stand, in a few lines.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Outcome, print, print_json};
use crate::{
    cli::{RunsArgs, StatusArgs},
    event::{
        Candidate, Origin, TaskScore, TestScore,
        run::{Run, State},
        words::{duration, parent_name},
    },
    store::{self, RunDir},
};

/// Where a run stands, as its journal and the files beside it say.
#[derive(Serialize)]
pub struct Status {
    pub run: String,
    pub name: String,
    pub state: &'static str,
    pub evals: u64,
    pub answers: u64,
    pub elapsed_ms: u64,
    pub best: Option<Best>,
    pub parents: Vec<ParentScore>,
    pub held_out: Option<HeldOut>,
}

#[derive(Serialize)]
pub struct Best {
    pub id: String,
    pub fitness: f64,
    pub stderr: f64,
    /// For `compare`; scripts rely on the fields above and below.
    #[serde(skip)]
    pub n: usize,
    #[serde(skip)]
    pub tasks: Vec<TaskScore>,
    pub recipe: serde_json::Value,
}

#[derive(Serialize)]
pub struct ParentScore {
    pub model: String,
    pub fitness: f64,
    pub stderr: f64,
}

#[derive(Serialize)]
pub struct HeldOut {
    pub best: TestScore,
    pub best_parent: TestScore,
    pub difference: f64,
    pub p_value: f64,
}

impl Status {
    /// Of a run directory whose journal has been folded.
    pub fn of(dir: &RunDir, run: &Run) -> Self {
        let best = |c: &Candidate| Best {
            id: c.id.clone(),
            fitness: c.fitness,
            stderr: c.stderr,
            n: c.n,
            tasks: c.tasks.clone(),
            recipe: c.recipe.clone(),
        };
        let parent = |c: &Candidate| ParentScore {
            model: parent_name(&c.id).to_string(),
            fitness: c.fitness,
            stderr: c.stderr,
        };
        Self {
            run: dir.path().display().to_string(),
            name: run.started.as_ref().map(|s| s.name.clone()).unwrap_or_default(),
            state: state(dir, run),
            evals: run.evals,
            answers: run.answers,
            elapsed_ms: run.elapsed(run.last_ms),
            best: run.winner().map(best),
            parents: run.of_origin(Origin::Parent).map(parent).collect(),
            held_out: run.reading.as_ref().map(|reading| HeldOut {
                best: reading.best.clone(),
                best_parent: reading.best_parent.clone(),
                difference: reading.difference,
                p_value: reading.p_value,
            }),
        }
    }
}

/// `running`, `paused`, `done` or `failed`.
fn state(dir: &RunDir, run: &Run) -> &'static str {
    match run.state {
        State::Done => "done",
        State::Failed(_) => "failed",
        State::Stopped(_) => "paused",
        // A process that died left no last line; its run can be resumed, like one that was stopped.
        State::Waiting | State::Running if !dir.is_locked() || dir.pause_request().exists() => "paused",
        State::Waiting | State::Running => "running",
    }
}

/// A run directory and what its journal tells.
pub fn open(path: &Path) -> Result<(RunDir, Run)> {
    let dir = RunDir::open(path)?;
    let run = Run::from_records(&store::read(&dir.journal())?);
    Ok((dir, run))
}

pub fn status(args: StatusArgs) -> Outcome {
    let (dir, run) = open(&args.run)?;
    let status = Status::of(&dir, &run);
    if args.json {
        print_json(&status);
        return Ok(());
    }
    print(format_args!(
        "{} ({}): {}, {} evaluations, {} answers, {}",
        status.name,
        status.run,
        status.state,
        status.evals,
        status.answers,
        duration(status.elapsed_ms)
    ));
    for parent in &status.parents {
        print(format_args!(
            "  parent {:<16} {:.4} ± {:.4} SE",
            parent.model, parent.fitness, parent.stderr
        ));
    }
    if let Some(best) = &status.best {
        print(format_args!(
            "  best   {:<16} {:.4} ± {:.4} SE (on {} search questions)",
            best.id, best.fitness, best.stderr, best.n
        ));
    }
    if let Some(held_out) = &status.held_out {
        let (best, parent) = (&held_out.best.score, &held_out.best_parent.score);
        print(format_args!(
            "  sealed split: {:.4} ± {:.4} SE, best parent ({}) {:.4} ± {:.4} SE; difference {:+.4}, p = {:.2e}",
            best.value,
            best.stderr,
            held_out.best_parent.id,
            parent.value,
            parent.stderr,
            held_out.difference,
            held_out.p_value
        ));
    }
    Ok(())
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<Status>,
}

pub fn runs(args: RunsArgs) -> Outcome {
    let mut runs = Vec::new();
    if args.dir.is_dir() {
        let entries = std::fs::read_dir(&args.dir).with_context(|| args.dir.display().to_string())?;
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        for path in paths.into_iter().filter(|path| RunDir::open(path).is_ok()) {
            match open(&path) {
                Ok((dir, run)) => runs.push(Status::of(&dir, &run)),
                // One bad journal must not hide the other runs.
                Err(e) => tracing::warn!("{e:#}"),
            }
        }
    }
    if args.json {
        print_json(&Runs { runs });
        return Ok(());
    }
    if runs.is_empty() {
        print(format_args!("no runs below {}", args.dir.display()));
    }
    let width = runs.iter().map(|r| r.run.chars().count()).max().unwrap_or(0);
    for run in runs {
        let best = run.best.map_or(String::new(), |b| {
            format!("  best {} {:.4} ± {:.4} SE", b.id, b.fitness, b.stderr)
        });
        let lead = run.held_out.map_or(String::new(), |h| {
            format!(
                "  {:+.4} over {} on the sealed split",
                h.difference,
                parent_name(&h.best_parent.id)
            )
        });
        print(format_args!(
            "{:<width$}  {:<8} {:>6} evaluations{best}{lead}",
            run.run, run.state, run.evals
        ));
    }
    Ok(())
}
