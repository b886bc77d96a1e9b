//! Asking those who take part in the final, batch after batch, and what that costs.
//!
//! Between two batches everything answered so far is on the disk, and a request to stop or to pause is heard: the final
//! goes on there when it is resumed. What a model answers does not depend on what it is asked beside, so batches change no
//! result.

use super::{Error, Evaluation, Exam, Interrupt, Plan, Run, race::Entrant};
use crate::{
    event::{
        Candidate, ExamAnswered, ExamStarted, FinalPart, FinalPlan, Level, Origin, Phase, Score, exam::Speed,
        words::duration,
    },
    space::Limit,
};

/// Questions of a first batch.
const FIRST: usize = 32;

/// Batches grow until they take about this long: long enough to keep the engine busy, short enough to wait for.
const BATCH_MS: u64 = 20_000;

/// Part of a time budget that is kept for the final as long as nothing tells how long it takes.
const USUAL_SHARE: f64 = 0.12;

/// The most of a time budget that is kept for it: a final that needs more ends late, and the search has its half.
const MOST_SHARE: f64 = 0.5;

/// Added to what the final is expected to take: its answers are others than the search's.
const MARGIN: f64 = 1.1;

/// Where the questions that are being asked stand in the exam.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    /// Questions of the exam that come before.
    pub before: usize,
    /// Questions of the whole exam; `None` where it is asked at once.
    pub of: Option<usize>,
}

impl Plan {
    /// What the final asks, as the journal keeps it.
    pub(super) fn finale(&self) -> FinalPlan {
        let finale = &self.space.finale;
        let part = |limit: Limit, exam: &Exam| FinalPart {
            limit: limit.most(),
            questions: exam.n(),
        };
        FinalPlan {
            finalists: finale.finalists + self.space.learned_finalists(),
            selection: part(finale.selection_limit(), &self.selection),
            test: part(finale.test_limit(), &self.test),
            held_out: self.held_out.n(),
        }
    }
}

impl Run<'_, '_> {
    /// A part of the final begins.
    pub(super) fn exam_started(&mut self, phase: Phase, exam: &Exam, examinees: &[Candidate]) -> Result<(), Interrupt> {
        let ids = examinees.iter().map(|c| c.id.clone());
        let started = ExamStarted {
            phase,
            questions: exam.n(),
            examinees: ids.collect(),
        };
        Ok(self.chronicle.exam_started(started)?)
    }

    /// Somebody has answered all of it.
    pub(super) fn exam_answered(&mut self, phase: Phase, id: &str, score: Option<Score>) -> Result<(), Interrupt> {
        let answered = ExamAnswered {
            phase,
            id: id.into(),
            score,
        };
        self.chronicle.exam_answered(answered)?;
        let plan = self.plan;
        let exam = match phase {
            Phase::Selection => &plan.selection,
            Phase::Test => &plan.test,
            Phase::HeldOut => &plan.held_out,
            _ => &plan.search,
        };
        self.evaluator.told(id, &exam.split);
        Ok(())
    }

    /// As [`Run::sit`], in batches.
    pub(super) fn sit_in_batches(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
    ) -> Result<Result<Evaluation, String>, Interrupt> {
        // Several hands begin with whole exams, and a command asks its own questions.
        if exam.tasks.is_empty() || self.evaluator.crew().is_some() {
            return self.sit(entrant, exam);
        }
        let evaluation = self.batches(entrant, exam);
        self.batch = Batch::default();
        evaluation
    }

    fn batches(&mut self, entrant: &Entrant, exam: &Exam) -> Result<Result<Evaluation, String>, Interrupt> {
        let mut whole = Evaluation {
            cached: true,
            ..Evaluation::default()
        };
        self.batch.of = Some(exam.n());
        for task in &exam.tasks {
            let (mut key, mut answers) = (String::new(), Vec::new());
            let (mut at, mut size) = (0, FIRST);
            while at < task.items.len() {
                self.pause_or_stop()?;
                let items = task.items[at..(at + size).min(task.items.len())].to_vec();
                at += items.len();
                let batch = Exam {
                    split: exam.split.clone(),
                    tasks: vec![super::ExamTask { items, ..task.clone() }],
                };
                let begun = self.chronicle.elapsed_ms();
                let answered = match self.sit(entrant, &batch)? {
                    Ok(answered) => answered,
                    Err(reason) => return Ok(Err(reason)),
                };
                if at < task.items.len() {
                    self.chronicle.sync()?; // the last batch is, with whatever is written next
                }
                size = next_size(size, self.chronicle.elapsed_ms() - begun);
                self.batch.before += batch.n();
                whole.cached &= answered.cached;
                whole.generated_tokens += answered.generated_tokens;
                whole.merge_ms += answered.merge_ms;
                whole.evaluation_ms += answered.evaluation_ms;
                for (of_batch, more) in answered.answers {
                    key = of_batch;
                    answers.extend(more);
                }
            }
            whole.answers.push((key, answers));
        }
        Ok(Ok(whole))
    }

    /// Milliseconds of a time budget that belong to the final.
    pub(super) fn kept_for_final_ms(&self, budget_ms: u64) -> f64 {
        let usual = USUAL_SHARE * budget_ms as f64;
        let kept = self.final_ms().map_or(usual, |ms| MARGIN * ms);
        kept.min(MOST_SHARE * budget_ms as f64)
    }

    /// What the final takes, by what candidates have taken so far.
    fn final_ms(&self) -> Option<f64> {
        let of = |origin: Origin| self.scored.iter().filter(|c| c.origin == origin).count();
        let speed = match self.plan.search.tasks.is_empty() {
            true => {
                let rested = self.rested.as_millis() as u64;
                Speed::of_command(self.chronicle.elapsed_ms().saturating_sub(rested), self.scored.len())?
            }
            false => Speed::of(self.scored.iter())?,
        };
        let (parents, baselines) = (of(Origin::Parent), of(Origin::Baseline));
        Some(self.plan.finale().left_ms(speed, parents, baselines, None))
    }

    /// A budget of time is divided between search and final: into the log, when it can first be known.
    pub(super) fn say_what_is_kept(&mut self) -> Result<(), Error> {
        let (Some(budget), Some(ms)) = (self.plan.budget.duration_ms, self.final_ms()) else {
            return Ok(());
        };
        let (all, kept) = (duration(budget), self.kept_for_final_ms(budget));
        let kept = duration(kept as u64);
        let message = match MARGIN * ms > MOST_SHARE * budget as f64 {
            false => format!("of {all}, the last {kept} are kept for the final"),
            true => format!(
                "the final takes about {}; of {all}, {kept} are kept for it, so it ends late. It asks less with \
                 `final: {{selection: {{limit: N}}, test: {{limit: N}}}}`, in a run that exists with `heterosis resume \
                 --selection-limit N --test-limit N`",
                duration(ms as u64)
            ),
        };
        let level = if message.contains("ends late") {
            Level::Warning
        } else {
            Level::Info
        };
        self.log(level, message)
    }
}

/// Questions of the next batch, after one of this size took so long.
fn next_size(size: usize, took_ms: u64) -> usize {
    let fits = (size as u64).saturating_mul(BATCH_MS) / took_ms.max(1);
    let fits = usize::try_from(fits).unwrap_or(usize::MAX);
    fits.clamp(FIRST, size.saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_while_they_are_quick_and_never_below_the_first() {
        assert_eq!(next_size(32, 0), 128);
        assert_eq!(next_size(128, 10_000), 256);
        assert_eq!(next_size(256, 20_000), 256);
        assert_eq!(next_size(256, 3_600_000), 32);
        assert_eq!(next_size(32, 3_600_000), 32);
    }
}
