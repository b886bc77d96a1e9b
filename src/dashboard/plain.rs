//! The run as lines of text, for pipes, logs and terminals that can do no more; the dashboard's log says the same.

use std::fmt::Write;

use super::reasons::{Reasons, in_short};
use crate::event::changes::in_words;
use crate::event::exam::Exam;
use crate::event::freshness::{Freshness, Part};
use crate::event::run::{Run, State, counts, origin_name};
use crate::event::verdict::{flips, forgotten, is_hopeless, told, told_without_test, verdict};
use crate::event::words::{budget, count, counted, duration, parent_name, shell_word, task_name};
use crate::event::{
    Advice, Candidate, EndReason, Event, ExamAnswered, ExamStarted, FinalPlan, Learned, Level, Origin, Phase, Record,
    RunStarted, Worker, WorkerState,
};

/// Folds records and writes one timestamped line for each that a reader wants to know of.
#[derive(Debug, Default)]
pub struct PlainLines {
    run: Run,
    reasons: Reasons,
    /// Offset of the reader's clock from UTC.
    utc_offset_s: i32,
}

impl PlainLines {
    pub fn new(utc_offset_s: i32) -> Self {
        Self {
            run: Run::default(),
            reasons: Reasons::default(),
            utc_offset_s,
        }
    }

    /// `23:04:10  c0012  58.1 ± 3.2 …`, or nothing for what is only worth seeing live.
    pub fn line(&mut self, record: &Record) -> Option<String> {
        let described = describe(&self.run, record);
        self.run.apply(record);
        let (level, message) = described?;
        let message = self.once(record, message);
        let flag = match level {
            Level::Info => "",
            Level::Warning => "warning: ",
            Level::Error => "error: ",
        };
        Some(format!("{}  {flag}{message}", clock(record.time_ms, self.utc_offset_s)))
    }

    /// A line with the reason of a failure left out, if one before it has told it.
    fn once(&mut self, record: &Record, message: String) -> String {
        if let Some(reason) = self.reasons.again(record) {
            return in_short(record, reason).unwrap_or(message);
        }
        match (&record.event, self.reasons.within(&message)) {
            (Event::RunFailed { .. }, Some(reason)) => message.replace(&reason.text, "for the reason told above"),
            _ => message,
        }
    }

    /// What the lines so far add up to.
    pub fn run(&self) -> &Run {
        &self.run
    }
}

/// `23:04:10`, or with the date where the caller's clock has no zone: always 8 columns.
pub fn clock(time_ms: u64, utc_offset_s: i32) -> String {
    let s = (time_ms / 1000) as i64 + i64::from(utc_offset_s);
    let s = s.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
}

/// That a worker has come, gone or been turned away; what it does is worth no line.
fn worker_line(before: &Run, worker: &Worker) -> Option<(Level, String)> {
    let known = before.workers.iter().find(|known| known.worker.worker == worker.worker);
    let is_there = |state| matches!(state, WorkerState::Idle | WorkerState::Working);
    let was_there = known.is_some_and(|known| is_there(known.worker.state));
    let Worker {
        worker: name,
        host,
        device,
        dtype,
        reason,
        ..
    } = worker;
    let who = format!("worker {name} ({host}, {device} {dtype})");
    match worker.state {
        WorkerState::Idle | WorkerState::Working if was_there => None,
        WorkerState::Idle | WorkerState::Working => Some((Level::Info, format!("{who} has come"))),
        WorkerState::Left => Some((Level::Info, format!("{who} has gone: {reason}"))),
        WorkerState::Lost => Some((Level::Warning, format!("{who} is lost: {reason}"))),
        WorkerState::Refused => Some((Level::Warning, format!("{who} does not fit this run: {reason}"))),
    }
}

/// One record in words, given the run before it.
pub fn describe(before: &Run, record: &Record) -> Option<(Level, String)> {
    let info = |text: String| Some((Level::Info, text));
    match &record.event {
        Event::RunStarted(started) => info(opening(started)),
        Event::RunChanged { changes } => Some((
            Level::Warning,
            format!("goes on although it is not what it was: {}", in_words(changes)),
        )),
        Event::RunResumed { engine_version, .. } => info(format!(
            "resumed after {} evaluations (heterosis {engine_version})",
            before.evals
        )),
        Event::QuestionsCompared(compared) => {
            let level = match compared.is_clean() && compared.warning().is_none() {
                true => Level::Info,
                false => Level::Warning,
            };
            let told = [Some(compared.in_words()), compared.warning()];
            Some((level, told.into_iter().flatten().collect::<Vec<_>>().join("; ")))
        }
        Event::PhaseStarted { phase } => info(phase_line(before, *phase).to_owned()),
        Event::StageStarted(stage) => info(format!(
            "searching {} of {} genes with {}",
            stage.stage.replace('_', " "),
            stage.genes.len(),
            stage.optimizer
        )),
        Event::Learned(learned) => learned_line(learned).map(|line| (Level::Info, line)),
        Event::CandidateScored(candidate) => info(scored_line(before, candidate)),
        Event::CandidateFailed { id, reason, .. } => Some((Level::Warning, format!("{id} failed: {reason}"))),
        Event::GenerationEnded(g) => {
            let unit = before.unit();
            let mut line = format!("generation {}: ", g.generation);
            // Without a score in it there are no quantiles, and its zeros are nobody's.
            let is_scored = before
                .scored
                .iter()
                .any(|s| s.candidate.generation == Some(g.generation));
            let _ = match is_scored || g.failed == 0 {
                true => write!(
                    line,
                    "best {}, middle half {} to {}",
                    unit.full_value(g.best),
                    unit.value(g.lower_quartile),
                    unit.full_value(g.upper_quartile)
                ),
                false => write!(line, "nobody was scored"),
            };
            if g.failed > 0 {
                let _ = write!(line, ", {} failed", g.failed);
            }
            if let Some(block) = g.block {
                let _ = write!(line, ", {block} questions");
            }
            if let Some(tau) = g.tau {
                let _ = write!(line, ", τ {tau:.2}");
            }
            if let Some(sigma) = g.sigma {
                let _ = write!(line, ", sigma {sigma:.3}");
            }
            info(line)
        }
        Event::ExamStarted(started) => info(exam_line(before, started)),
        Event::ExamAnswered(answered) => info(examinee_line(before, answered)),
        Event::FinalPlanned(plan) => before.planned.and_then(|_| info(plan_line(plan))),
        Event::SearchEnded { reason, evals } => {
            let of_final = before
                .final_left_ms()
                .map(|ms| format!("; the final takes about {}", duration(ms as u64)));
            let of_final = of_final.unwrap_or_default();
            info(format!(
                "search ended after {evals} evaluations: {}{of_final}",
                end(*reason)
            ))
        }
        Event::Selected(s) => {
            let winner = s.finalists.iter().find(|f| f.id == s.best);
            let fresh = winner.map(|f| {
                let score = before.unit().full_score(&f.fresh);
                match before.is_scored_by_command() {
                    true => format!(", {score}"),
                    false => {
                        let n = before.distinct(Part::Selection, f.fresh.n);
                        format!(", {score} on {}", Freshness::of(before).selection(n))
                    }
                }
            });
            // A centre or a learned point may stand before one with a higher score.
            let is_highest = winner.is_none_or(|w| s.finalists.iter().all(|f| f.fresh.value <= w.fresh.value));
            let is = if is_highest { "is the best" } else { "is chosen" };
            let (n, score) = (s.finalists.len(), fresh.unwrap_or_default());
            info(format!("{} {is} of {n} finalists{score}", s.best))
        }
        Event::TestRead(reading) => info(verdict(before, reading).sentence),
        Event::HeldOutRead(reading) => {
            let mut run = before.clone();
            run.held_out = Some(reading.clone());
            Some((Level::Info, forgotten(&run)?))
        }
        Event::Worker(worker) => worker_line(before, worker),
        Event::RunStopped { reason } => info(format!("stopped: {reason}")),
        Event::RunDone {
            evals,
            answers,
            elapsed_ms,
        } => info(format!(
            "done: {} evaluations, {} answers, {}",
            count(*evals),
            count(*answers),
            duration(*elapsed_ms)
        )),
        Event::RunFailed { reason } => Some((Level::Error, format!("the run failed: {reason}"))),
        Event::Log { level, message } => Some((*level, message.clone())),
        Event::Advised(advice) => advice_line(advice),
        Event::Scaled { .. } => info("tasks are weighed by the first model's standard errors".into()),
        Event::CandidateStarted { .. }
        | Event::QuestionTexts(_)
        | Event::Progress(_)
        | Event::Learning(_)
        | Event::Answers(_)
        | Event::Scores(_) => None,
    }
}

/// What a language model's advice came to; that nobody replied stands in the log.
fn advice_line(advice: &Advice) -> Option<(Level, String)> {
    let (generation, seconds) = (advice.generation, advice.took_ms as f64 / 1000.0);
    advice.reply.as_ref()?;
    Some(match &advice.refused {
        None => (
            Level::Info,
            format!("a language model's advice is taken for generation {generation} ({seconds:.1} s)"),
        ),
        Some(reason) => (
            Level::Warning,
            format!("a language model's advice for generation {generation} is refused: {reason}"),
        ),
    })
}

/// What a round of learning did to the texts that taught and to those that were held back; a round without a result has
/// said so in the log.
fn learned_line(learned: &Learned) -> Option<String> {
    let change = |[before, after]: [f64; 2]| format!("{before:.3} → {after:.3}");
    learned.failed.is_none().then(|| {
        format!(
            "{:<8} learned from {}: taught {}, held back {} nats a token ({} of {})",
            learned.id,
            counted(learned.texts, "text"),
            change(learned.taught),
            change(learned.held_back),
            counted(learned.best_step, "step"),
            learned.steps
        )
    })
}

fn opening(started: &RunStarted) -> String {
    let models: Vec<&str> = started.models.iter().map(|m| m.name.as_str()).collect();
    let tasks: Vec<String> = started.tasks.iter().map(|t| task_name(&t.task, &t.lang)).collect();
    let mut line = format!(
        "{}: {} over {} genes",
        started.name,
        started.optimizer,
        started.genes.len()
    );
    if !models.is_empty() {
        let _ = write!(line, "; models {}", models.join(", "));
    }
    if !tasks.is_empty() {
        let _ = write!(line, "; tasks {}", tasks.join(", "));
    }
    let _ = write!(
        line,
        "; budget {}; seed {}; {}",
        budget(started),
        started.seed,
        started.answered_by()
    );
    line
}

fn phase_line(run: &Run, phase: Phase) -> &'static str {
    let freshness = Freshness::of(run);
    // A function of numbers has no parents, and answers nothing.
    let is_function = run.started.as_ref().is_some_and(|s| s.models.is_empty());
    match phase {
        Phase::Baselines if is_function => "scoring what nobody searched for",
        Phase::Baselines => "scoring the parents and the unsearched baselines",
        Phase::Search => "searching",
        Phase::Selection if is_function => "finalists are scored once more",
        Phase::Selection => freshness.selection_begins(),
        Phase::Test => freshness.test_begins(),
        Phase::HeldOut => freshness.held_out_begins(),
    }
}

/// `13 finalists answer 400 questions each, about 12 min`.
fn exam_line(before: &Run, started: &ExamStarted) -> String {
    let who = match started.phase {
        Phase::Selection => "finalist",
        _ => "model",
    };
    let mut line = counted(started.examinees.len(), who);
    if started.questions > 0 {
        let _ = write!(line, " to answer {} each", counted(started.questions, "question"));
    }
    let mut run = before.clone();
    run.exam = Some(Exam::new(started));
    if let Some(ms) = run.final_left_ms() {
        let _ = write!(line, "; the final ends in about {}", duration(ms as u64));
    }
    line
}

/// `finalist 3 of 13: c0012 52.3 ± 2.5`.
fn examinee_line(before: &Run, answered: &ExamAnswered) -> String {
    let (turn, of) = before.exam.as_ref().map_or((0, 0), |e| (e.turn(), e.examinees.len()));
    let (what, done) = match answered.phase {
        Phase::Selection => ("finalist", ""),
        Phase::HeldOut => ("held out", " has answered"),
        _ => ("test", " has answered"),
    };
    let score = answered
        .score
        .map(|score| format!(" {}", before.unit().full_score(&score)));
    let tail = score.unwrap_or_else(|| done.into());
    format!("{what} {turn} of {of}: {}{tail}", parent_name(&answered.id))
}

/// Only where it changes.
fn plan_line(plan: &FinalPlan) -> String {
    format!(
        "the final now asks {} in the selection and {} in the test",
        counted(plan.selection.questions, "question"),
        counted(plan.test.questions, "question")
    )
}

fn scored_line(before: &Run, candidate: &Candidate) -> String {
    let unit = before.unit();
    let mut line = format!("{:<8} {}", candidate.id, unit.full(candidate.fitness, candidate.stderr));
    if candidate.n > 1 {
        let _ = write!(line, " (n={})", candidate.n);
    }
    let _ = write!(line, "  {}", origin_name(&candidate.origin));
    if let Some(generation) = candidate.generation.filter(|_| counts(&candidate.origin)) {
        let _ = write!(line, " g{generation}");
    }
    if candidate.cached {
        line += ", from the cache";
    }
    if candidate.eliminated {
        return line + ", out of its race";
    }
    let is_child = counts(&candidate.origin);
    match before.best() {
        Some(best) if is_child && before.worth_of(candidate) > best.worth => {
            let lead = unit.lead(before.worth_of(candidate) - best.worth);
            let _ = write!(line, "  ★ new best, {lead}");
        }
        None if is_child => line += "  ★ first child",
        _ => {}
    }
    line
}

fn end(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Evals => "the budget of evaluations is used",
        EndReason::Time => "the time is up",
        EndReason::Stopped => "stop was asked for",
        EndReason::Converged => "the optimizer has nothing left to ask",
    }
}

/// The last words of a run: what came out and what to do next. `directory` is the run's, as the user would type it.
pub fn summary(run: &Run, directory: &str) -> String {
    let mut out = String::new();
    match &run.reading {
        Some(reading) => {
            let _ = writeln!(out, "{}.", verdict(run, reading).sentence);
            for sentence in told(run).into_iter().chain(flips(reading)) {
                let _ = writeln!(out, "{sentence}");
            }
        }
        None => out += &without_reading(run),
    }
    if let Some(forgotten) = forgotten(run) {
        let _ = writeln!(out, "{forgotten}");
    }
    if run.reading.is_none() {
        for sentence in told_without_test(run) {
            let _ = writeln!(out, "{sentence}");
        }
    }
    out += &next_steps(run, directory);
    out
}

fn without_reading(run: &Run) -> String {
    let unit = run.unit();
    let Some(best) = run.winner() else {
        return "No child was scored.\n".into();
    };
    let when = if run.state == State::Done {
        "Best"
    } else {
        "Best so far"
    };
    // Of those whom the final has asked what it says, beside nobody whom it has not.
    let score = |candidate: &Candidate| Some(unit.full_score(&run.score_before_test(candidate)?));
    let of_best = score(best).unwrap_or_else(|| unit.full(best.fitness, best.stderr));
    let mut out = format!("{when}: {} with {of_best}", best.id);
    if let Some((parent, score)) = run.best_parent().and_then(|parent| Some((parent, score(parent)?))) {
        let _ = write!(out, "; the best parent, {}, has {score}", parent_name(&parent.id));
    }
    let unsearched = run.best_unsearched().filter(|merge| merge.id != best.id);
    if let Some((merge, score)) = unsearched.and_then(|merge| Some((merge, score(merge)?))) {
        let _ = write!(out, "; the best unsearched merge, {}, has {score}", merge.id);
    }
    out += ".\n";
    if run.is_scored_by_command() {
        return out;
    }
    let not_read = Freshness::of(run).test_not_read();
    let whose = if best.origin == Origin::Baseline {
        "the best"
    } else {
        "the child's"
    };
    out + &match &run.selection {
        None => format!("All on the questions that the search chose by, so {whose} score is flattering; {not_read}.\n"),
        Some(_) => format!("All on the selection questions, by which it was chosen; {not_read}.\n"),
    }
}

fn next_steps(run: &Run, directory: &str) -> String {
    let (mut steps, directory) = (Vec::new(), shell_word(directory));
    let makes_models = run.started.as_ref().is_none_or(|s| !s.models.is_empty());
    match run.state {
        State::Done => steps.push((format!("heterosis report {directory}"), "the whole story with pictures")),
        _ => steps.push((format!("heterosis resume {directory}"), "go on where it stopped")),
    }
    let is_hopeless = run.reading.as_ref().is_some_and(|reading| is_hopeless(run, reading));
    if run.best().is_some() && !is_hopeless {
        let step = match makes_models {
            true => (
                format!("heterosis export {directory} best OUT"),
                "the merged model, its card and provenance",
            ),
            false => (format!("cat {directory}/best.json"), "the best genes"),
        };
        steps.insert(0, step);
    }
    let widest = steps.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let lines: Vec<String> = steps
        .iter()
        .map(|(command, what)| format!("  {command:widest$}   {what}\n"))
        .collect();
    format!("Next:\n{}", lines.concat())
}

/// One line about the candidates and answers so far.
pub fn totals(run: &Run) -> String {
    let failed = if run.failed.is_empty() {
        String::new()
    } else {
        format!(", {} failed", run.failed.len())
    };
    format!(
        "{} evaluations{failed}, {} answers, {} tokens",
        count(run.evals),
        count(run.answers),
        count(run.generated_tokens)
    )
}
