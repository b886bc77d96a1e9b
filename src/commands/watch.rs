//! `heterosis watch`, `status` and `runs`: looking at runs, through their journals only.

use std::{
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Outcome, environment, print, print_json};
use crate::{
    cli::{LogFormat, RunsArgs, StatusArgs, WatchArgs},
    dashboard::{self, Action, PlainLines},
    event::{Candidate, Event, Origin, Record},
    store::{self, RunDir, Tail},
};

pub fn watch(args: WatchArgs) -> Outcome {
    let dir = RunDir::open(&args.run)?;
    let now: Box<dyn Fn() -> u64>;
    let records = match &args.replay {
        Some(speed) => {
            let speed: f64 = speed
                .trim_end_matches('x')
                .parse()
                .with_context(|| format!("--replay {speed}: write how many times as fast, such as 60x"))?;
            let (records, clock) = dashboard::replay(store::read(&dir.journal())?, speed);
            now = Box::new(move || clock.load(std::sync::atomic::Ordering::Relaxed));
            records
        }
        None => {
            now = Box::new(environment::now_ms);
            follow(&dir)?
        }
    };
    if args.watch.headless || !environment::is_interactive() {
        let mut lines = Lines::new(args.watch.log_format);
        for record in records {
            lines.show(&record);
        }
        return Ok(());
    }
    let mut exports = Vec::new();
    let mut asked = |action: Action| match action {
        Action::RequestExport { id } => exports.push(id),
        action => request(&dir, action),
    };
    dashboard::run(&records, environment::appearance(), &*now, &mut asked)?;
    say_how_to_export(&dir, &exports);
    Ok(())
}

/// Sends a journal's records as they are written, until the run is over or nobody writes to it any more.
fn follow(dir: &RunDir) -> Result<Receiver<Record>> {
    let mut tail = Tail::open(&dir.journal())?;
    let (sender, receiver) = mpsc::channel();
    let dir = dir.clone();
    std::thread::spawn(move || {
        loop {
            let idle = !dir.is_locked();
            let Ok(records) = tail.poll() else { return };
            let none = records.is_empty();
            for record in records {
                let over = matches!(record.event, Event::RunDone { .. } | Event::RunFailed { .. });
                if sender.send(record).is_err() || over {
                    return;
                }
            }
            if idle && none {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    Ok(receiver)
}

/// Passes a wish on to the process that searches, through files that it looks at between two candidates.
pub fn request(dir: &RunDir, action: Action) {
    let done = match action {
        Action::RequestStop => std::fs::write(dir.stop_request(), ""),
        Action::RequestPause => std::fs::write(dir.pause_request(), ""),
        Action::RequestResume => std::fs::remove_file(dir.pause_request()),
        Action::CloseView | Action::Abort | Action::RequestExport { .. } => Ok(()),
    };
    if let Err(e) = done {
        tracing::warn!("{}: the request cannot be passed on: {e}", dir.path().display());
    }
}

/// An export needs a place to go to, which a key press does not give: the view's wishes are told as commands when it is left.
pub fn say_how_to_export(dir: &RunDir, ids: &[String]) {
    for id in ids {
        eprintln!("to export {id}: heterosis export {} {id} OUT", dir.path().display());
    }
}

/// Records as lines on stdout.
pub struct Lines {
    format: LogFormat,
    plain: PlainLines,
}

impl Lines {
    pub fn new(format: LogFormat) -> Self {
        Self {
            format,
            plain: PlainLines::new(environment::utc_offset_s()),
        }
    }

    pub fn show(&mut self, record: &Record) {
        let line = self.plain.line(record);
        match self.format {
            LogFormat::Text => {
                if let Some(line) = line {
                    print(line);
                }
            }
            // Answers are in the journal; a log of them would drown everything else.
            LogFormat::Json => {
                if !matches!(record.event, Event::Answers(_)) {
                    print(serde_json::to_string(record).expect("a record is plain data"));
                }
            }
        }
    }

    /// Takes note of a record without showing it.
    pub fn skip(&mut self, record: &Record) {
        self.plain.line(record);
    }

    /// What the run came to, and what to do next.
    pub fn summary(&self, directory: &str) -> String {
        dashboard::summary(self.plain.run(), directory)
    }
}

#[derive(Serialize)]
struct Status {
    run: String,
    name: String,
    state: &'static str,
    evals: u64,
    answers: u64,
    elapsed_ms: u64,
    best: Option<Best>,
    parents: Vec<ParentScore>,
    held_out: Option<HeldOut>,
}

#[derive(Serialize)]
struct Best {
    id: String,
    fitness: f64,
    stderr: f64,
    recipe: serde_json::Value,
}

#[derive(Serialize)]
struct ParentScore {
    model: String,
    fitness: f64,
    stderr: f64,
}

#[derive(Serialize)]
struct HeldOut {
    best: crate::event::TestScore,
    best_parent: crate::event::TestScore,
    difference: f64,
    p_value: f64,
}

impl Status {
    fn of(dir: &RunDir) -> Result<Self> {
        let records = store::read(&dir.journal())?;
        let mut status = Self {
            run: dir.path().display().to_string(),
            name: String::new(),
            state: "failed",
            evals: 0,
            answers: 0,
            elapsed_ms: 0,
            best: None,
            parents: Vec::new(),
            held_out: None,
        };
        let (mut candidates, mut chosen, mut state) = (Vec::<Candidate>::new(), None, None);
        for record in records {
            match record.event {
                Event::RunStarted(started) => status.name = started.name,
                Event::RunResumed { .. } => state = None,
                Event::CandidateScored(candidate) => {
                    status.evals += u64::from(candidate.origin != Origin::Mean);
                    candidates.push(candidate);
                }
                Event::CandidateFailed { .. } => status.evals += 1,
                Event::Answers(answers) => status.answers += answers.answers.len() as u64,
                Event::Selected(selection) => chosen = Some(selection.best),
                Event::TestRead(reading) => {
                    status.held_out = Some(HeldOut {
                        best: reading.best,
                        best_parent: reading.best_parent,
                        difference: reading.difference,
                        p_value: reading.p_value,
                    });
                }
                Event::RunDone { elapsed_ms, .. } => {
                    status.elapsed_ms = elapsed_ms;
                    state = Some("done");
                }
                Event::RunStopped { .. } => state = Some("paused"),
                Event::RunFailed { .. } => state = Some("failed"),
                _ => {}
            }
        }
        let running = match dir.pause_request().exists() {
            true => "paused",
            false => "running",
        };
        // A process that died left no last line; its run can be resumed, like one that was stopped.
        let interrupted = if dir.is_locked() { running } else { "paused" };
        status.state = state.unwrap_or(interrupted);
        let merged = candidates.iter().filter(|c| c.origin != Origin::Parent);
        let best = match chosen {
            Some(id) => candidates.iter().find(|c| c.id == id),
            None => merged.max_by(|a, b| a.fitness.total_cmp(&b.fitness)),
        };
        status.best = best.map(|c| Best {
            id: c.id.clone(),
            fitness: c.fitness,
            stderr: c.stderr,
            recipe: c.recipe.clone(),
        });
        let parents = candidates.iter().filter(|c| c.origin == Origin::Parent);
        status.parents = parents
            .map(|c| ParentScore {
                model: c.id.trim_start_matches("parent-").to_string(),
                fitness: c.fitness,
                stderr: c.stderr,
            })
            .collect();
        Ok(status)
    }
}

pub fn status(args: StatusArgs) -> Outcome {
    let status = Status::of(&RunDir::open(&args.run)?)?;
    if args.json {
        print_json(&status);
        return Ok(());
    }
    print(format_args!(
        "{} ({}): {}, {} evaluations, {} answers",
        status.name, status.run, status.state, status.evals, status.answers
    ));
    for parent in &status.parents {
        print(format_args!(
            "  parent {:<16} {:.4} ± {:.4} SE",
            parent.model, parent.fitness, parent.stderr
        ));
    }
    if let Some(best) = &status.best {
        print(format_args!(
            "  best   {:<16} {:.4} ± {:.4} SE (on the search questions)",
            best.id, best.fitness, best.stderr
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
        for path in paths {
            if let Ok(dir) = RunDir::open(&path) {
                runs.push(Status::of(&dir)?);
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
    for run in runs {
        let best = run.best.map_or(String::new(), |b| {
            format!("  best {} {:.4} ± {:.4} SE", b.id, b.fitness, b.stderr)
        });
        print(format_args!(
            "{:<44} {:<8} {:>6} evaluations{best}",
            run.run, run.state, run.evals
        ));
    }
    Ok(())
}
