//! `heterosis status` and `runs`: where runs stand, in a few lines.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Outcome, environment, newest, print, print_json};
use crate::{
    cli::{RunsArgs, StatusArgs},
    dashboard::search_ends_in,
    event::{
        self, Candidate, Comparison, Origin, Phase, QuestionsCompared, Score, TaskScore, TestScore,
        changes::Change,
        freshness::{Freshness, Part},
        normalized,
        run::{Run, SeenWorker, State},
        verdict::{best_unsearched, strongest, told, verdict},
        words::{busy_share, duration, duration_range, parent_name, task_name, task_of, worker_words},
    },
    store::RunDir,
};

/// Where a run stands, as its journal and the files beside it say.
#[derive(Serialize)]
pub struct Status {
    pub run: String,
    pub name: String,
    pub state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub evals: u64,
    pub answers: u64,
    pub elapsed_ms: u64,
    pub best: Option<Best>,
    pub parents: Vec<ParentScore>,
    /// The test split.
    pub held_out: Option<HeldOut>,
    /// The best candidate by the best expert's score at each task of the fitness.
    pub normalized: Vec<normalized::HeldIn>,
    /// Winner and parents on tasks that are no part of the fitness.
    pub held_out_tasks: Vec<normalized::HeldOut>,
    /// What is another one than when the run began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Whether any question stands in two parts of the run; absent in runs of older builds.
    pub questions: Option<QuestionsCompared>,
    /// Whoever has evaluated for the run elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerStatus>,
    /// Milliseconds until the search ends, from and to, while it goes on and that is known; rounds of learning are in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_ends_in_ms: Option<(f64, f64)>,
    /// Milliseconds that the final takes from here, while the run goes on and that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_takes_ms: Option<f64>,
    /// What belongs to the verdict besides: who the winner is, luck, the front of several objectives, who is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<String>,
}

#[derive(Serialize)]
pub struct Best {
    pub id: String,
    pub fitness: f64,
    pub stderr: f64,
    /// On the selection questions, or of a command that the final has asked again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<Score>,
    /// For `compare`; scripts rely on the fields above and below.
    #[serde(skip)]
    pub n: usize,
    #[serde(skip)]
    pub tasks: Vec<TaskScore>,
    #[serde(skip)]
    pub is_scored_by_command: bool,
    pub recipe: serde_json::Value,
    /// Where it lies in the run directory, ready for `heterosis merge` or a script.
    pub file: Option<String>,
}

/// A worker as the journal last knew it.
#[derive(Serialize)]
pub struct WorkerStatus {
    #[serde(flatten)]
    pub worker: event::Worker,
    pub tokens_per_s: Option<f64>,
    /// Wall clock, milliseconds since 1970, of its last sign of life that was written down.
    pub seen_ms: u64,
}

impl WorkerStatus {
    fn of(seen: &SeenWorker) -> Self {
        Self {
            worker: seen.worker.clone(),
            tokens_per_s: seen.worker.doing.as_ref().map(|doing| doing.tokens_per_s),
            seen_ms: seen.time_ms,
        }
    }
}

#[derive(Serialize)]
pub struct ParentScore {
    pub model: String,
    pub fitness: f64,
    pub stderr: f64,
    /// As in [`Best::selection`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<Score>,
}

#[derive(Serialize)]
pub struct HeldOut {
    pub best: TestScore,
    pub best_parent: TestScore,
    pub difference: f64,
    pub p_value: f64,
    /// The best merge that nobody searched for, unless the winner is one; the winner's lead over it, p after Holm's correction.
    pub best_unsearched: Option<Comparison>,
    /// What the figures say.
    pub verdict: String,
    /// The run's own word for its test: of questions that nobody had used, or not.
    #[serde(skip)]
    pub test_word: &'static str,
    /// Over the strongest of parents and unsearched merges: by how much, and over whom.
    #[serde(skip)]
    pub lead: (f64, String),
}

/// A command gives a number and no error with it.
fn score_in_words(value: f64, stderr: f64, is_of_command: bool) -> String {
    match is_of_command {
        true => value.to_string(),
        false => format!("{value:.4} ± {stderr:.4} SE"),
    }
}

/// What the final says, behind what the search says.
fn in_final(selection: &Option<Score>, is_of_command: bool) -> String {
    let Some(score) = selection else { return String::new() };
    let again = score_in_words(score.value, score.stderr, is_of_command);
    match is_of_command {
        true => format!(" in the search, {again} in the final"),
        false => format!(", {again} (on {} selection questions)", score.n),
    }
}

impl Best {
    fn score(&self) -> String {
        score_in_words(self.fitness, self.stderr, self.is_scored_by_command)
    }
}

impl Status {
    /// Of a run directory whose journal has been folded.
    pub fn of(dir: &RunDir, run: &Run) -> Self {
        let selection = |c: &Candidate| run.selection.as_ref().and(run.score_before_test(c));
        let best = |c: &Candidate| Best {
            id: c.id.clone(),
            fitness: c.fitness,
            stderr: c.stderr,
            selection: selection(c),
            n: c.n,
            tasks: c.tasks.clone(),
            is_scored_by_command: run.is_scored_by_command(),
            recipe: c.recipe.clone(),
            file: [dir.best(), dir.best_genes()]
                .iter()
                .find(|file| file.is_file())
                .map(|file| file.display().to_string()),
        };
        let parent = |c: &Candidate| ParentScore {
            model: parent_name(&c.id).to_string(),
            fitness: c.fitness,
            stderr: c.stderr,
            selection: selection(c),
        };
        Self {
            run: dir.path().display().to_string(),
            name: run.started.as_ref().map(|s| s.name.clone()).unwrap_or_default(),
            state: state(dir, run),
            failure: match &run.state {
                State::Failed(reason) => Some(reason.clone()),
                _ => None,
            },
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
                best_unsearched: best_unsearched(run, reading).cloned(),
                verdict: verdict(run, reading).sentence,
                test_word: Freshness::of(run).test_word(),
                lead: strongest(run, reading)
                    .map(|rival| (rival.difference, rival.score.id.clone()))
                    .unwrap_or_default(),
            }),
            normalized: normalized::held_in(run),
            held_out_tasks: normalized::held_out(run),
            changes: run.changes.clone(),
            questions: run.questions.clone(),
            workers: run.workers.iter().map(WorkerStatus::of).collect(),
            search_ends_in_ms: None,
            final_takes_ms: None,
            told: told(run),
        }
    }
}

impl Status {
    /// With the time to come, if the run goes on.
    fn at(mut self, now_ms: u64, run: &Run) -> Self {
        if self.state == "running" {
            self.search_ends_in_ms = search_ends_in(run, now_ms);
            self.final_takes_ms = run.final_left_ms();
        }
        self
    }

    /// `the search ends in 3–4 min, then the final takes about 2 min`.
    fn to_come(&self) -> Option<String> {
        let about = |ms: f64| duration_range(ms, ms);
        match (self.search_ends_in_ms, self.final_takes_ms) {
            (Some((low, high)), of_final) => {
                let then = of_final.map_or(String::new(), |ms| {
                    format!(", then the final takes about {}", about(ms))
                });
                Some(format!("the search ends in {}{then}", duration_range(low, high)))
            }
            (None, Some(ms)) => Some(format!("the final takes about {} from here", about(ms))),
            (None, None) => None,
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
    let run = dir.run()?;
    Ok((dir, run))
}

pub fn status(args: StatusArgs) -> Outcome {
    let (dir, run) = open(&newest::or_newest(args.run)?)?;
    let status = Status::of(&dir, &run).at(environment::now_ms(), &run);
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
    if let Some(reason) = &status.failure {
        print(format_args!("  it failed: {reason}"));
    }
    if let Some(to_come) = status.to_come() {
        print(format_args!("  {to_come}"));
    }
    if let Some(exam) = run
        .exam
        .as_ref()
        .filter(|exam| !exam.is_over() && run.state != State::Done)
    {
        let phase = match exam.phase {
            Phase::Selection => "selection",
            Phase::Test => "test",
            _ => "held-out tasks",
        };
        let answered = exam.examinees.get(exam.turn() - 1).map_or(0, |e| e.answered);
        print(format_args!(
            "  final  {phase}: {} of {} at it, {answered} of {} questions answered",
            exam.turn(),
            exam.examinees.len(),
            exam.questions
        ));
    }
    for seen in &run.workers {
        let worker = &seen.worker;
        print(format_args!(
            "  worker {:<16} {}, {} answers, busy {:.0} %",
            worker.worker,
            worker_words(worker),
            worker.answers,
            100.0 * busy_share(worker)
        ));
    }
    for parent in &status.parents {
        let is_of_command = status.best.as_ref().is_some_and(|best| best.is_scored_by_command);
        let score = score_in_words(parent.fitness, parent.stderr, is_of_command);
        let again = in_final(&parent.selection, is_of_command);
        print(format_args!("  parent {:<16} {score}{again}", parent.model));
    }
    if let Some(best) = &status.best {
        let asked = match best.is_scored_by_command {
            true => String::new(),
            false => {
                let compared = status.questions.as_ref();
                let n = compared.map_or(best.n, |compared| compared.distinct(Part::Search, best.n));
                format!(" (on {n} search questions)")
            }
        };
        let again = in_final(&best.selection, best.is_scored_by_command);
        print(format_args!("  best   {:<16} {}{asked}{again}", best.id, best.score()));
        for (name, value) in best
            .recipe
            .get("genes")
            .and_then(|g| g.as_object())
            .into_iter()
            .flatten()
        {
            print(format_args!("    {name:<20} {value}"));
        }
        if let Some(file) = &best.file {
            print(format_args!("  in {file}"));
        }
    }
    if let Some(held_out) = &status.held_out {
        let (best, parent) = (&held_out.best.score, &held_out.best_parent.score);
        print(format_args!(
            "  {}: {:.4} ± {:.4} SE, best parent ({}) {:.4} ± {:.4} SE; difference {:+.4}, p = {:.2e}",
            held_out.test_word,
            best.value,
            best.stderr,
            parent_name(&held_out.best_parent.id),
            parent.value,
            parent.stderr,
            held_out.difference,
            held_out.p_value
        ));
        if let Some(merge) = &held_out.best_unsearched {
            let score = &merge.other.score;
            print(format_args!(
                "  best unsearched merge ({}) {:.4} ± {:.4} SE; difference {:+.4}, p = {:.2e} (Holm)",
                merge.other.id, score.value, score.stderr, merge.difference, merge.p_holm
            ));
        }
        print(format_args!("  {}", held_out.verdict));
    }
    status
        .told
        .iter()
        .for_each(|sentence| print(format_args!("  {sentence}")));
    for task in &status.normalized {
        let parts = [
            task.of_expert
                .map(|r| format!("{r} of the best expert ({})", parent_name(&task.expert))),
            task.of_gain.map(|r| format!("{r} of its gain over the base")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            let name = task_name(&task.task, &task.lang);
            print(format_args!("  {name}, {} questions: {}", task.split, parts.join(", ")));
        }
    }
    for task in &status.held_out_tasks {
        let score = &task.score.score;
        let of_base = task.of_base.map_or(String::new(), |r| format!(", {r} of the base"));
        print(format_args!(
            "  held out, {}: {} {:.4} ± {:.4} SE{of_base}",
            task_of(&task.score),
            parent_name(&task.id),
            score.value,
            score.stderr
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
                Err(e) => tracing::warn!("{}", super::in_words(&e)),
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
        let best = run
            .best
            .map_or(String::new(), |b| format!("  best {} {}", b.id, b.score()));
        let lead = run.held_out.map_or(String::new(), |h| {
            format!(
                "  {:+.4} over {} on the {}",
                h.lead.0,
                parent_name(&h.lead.1),
                h.test_word
            )
        });
        let changed = match run.changes.is_empty() {
            true => "",
            false => "  (changed since it began: its scores do not compare)",
        };
        print(format_args!(
            "{:<width$}  {:<8} {:>6} evaluations{best}{lead}{changed}",
            run.run, run.state, run.evals
        ));
    }
    Ok(())
}
