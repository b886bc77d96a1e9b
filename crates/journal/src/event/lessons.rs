//! Rounds of learning that are still to come, and how long they take.
//!
//! One estimate serves the dashboard, `status` and `check`. A round is no candidate: it takes minutes where a candidate takes
//! seconds, so it counts neither in the pace of the candidates nor in their number.

use super::{LearningPlan, exam::Speed, run::Run};

/// How much longer a text is read forward and backward than a question of its length is answered, at most: one reading for the
/// loss and three for its gradient; the answer's own tokens come one by one, and cost as much or more.
const FORWARD_AND_BACK: f64 = 4.0;

/// Milliseconds that the parts of a round take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundCost {
    /// The questions that teach, answered.
    pub questions_ms: f64,
    /// Forward and backward, over all steps and texts of a step.
    pub steps_ms: f64,
    /// What the round makes, scored.
    pub score_ms: f64,
}

impl RoundCost {
    /// Of so many rounds. A search's very first one learns from answers that are there already.
    pub fn of(&self, rounds: usize, has_first: bool) -> f64 {
        let asking = rounds.saturating_sub(usize::from(has_first));
        rounds as f64 * (self.steps_ms + self.score_ms) + asking as f64 * self.questions_ms
    }
}

impl LearningPlan {
    /// The steps of a round, at most, before any was timed.
    pub fn steps_ms(&self, speed: Speed) -> f64 {
        self.steps as f64 * (speed.merge_ms + self.batch as f64 * FORWARD_AND_BACK * speed.answer_ms)
    }

    /// All rounds, as a rule, of a run that has not begun.
    pub fn all_ms(&self, cost: RoundCost) -> f64 {
        cost.of(self.rounds + self.rounds_after, self.rounds > 0)
    }
}

impl Run {
    /// Milliseconds of the rounds of learning that are to come before the search ends: by those that were timed, or else by how
    /// fast questions are answered. `None` where nothing is learned, or nothing is known of it.
    pub fn learning_left_ms(&self) -> Option<f64> {
        let started = self.started.as_ref()?;
        let plan = started.learning.filter(|_| self.search_ended.is_none())?;
        let speed = Speed::of(self.scored.iter().map(|s| &s.candidate))?;
        let asked: usize = started.tasks.iter().map(|task| task.n).sum();
        let cost = RoundCost {
            questions_ms: plan.questions as f64 * speed.answer_ms,
            steps_ms: self.timed_steps_ms().unwrap_or_else(|| plan.steps_ms(speed)),
            score_ms: speed.merge_ms + asked as f64 * speed.answer_ms,
        };
        let all = cost.of(self.rounds_left(&plan), plan.rounds > 0 && self.learned.is_empty());
        Some((all - self.done_ms(cost)).max(0.0))
    }

    /// Rounds that are not over, the one that goes on among them.
    fn rounds_left(&self, plan: &LearningPlan) -> usize {
        let is_running = usize::from(self.learning.is_some());
        if !self.stages.is_empty() {
            let after = self.learned.len().saturating_sub(self.learned_first);
            return plan.rounds_after.saturating_sub(after).max(is_running);
        }
        let is_over = self.learned.last().is_some_and(|round| round.failed.is_some());
        let first = if is_over {
            0
        } else {
            plan.rounds.saturating_sub(self.learned.len())
        };
        first.max(is_running) + plan.rounds_after
    }

    /// Mean time of the rounds that went to their end.
    fn timed_steps_ms(&self) -> Option<f64> {
        let timed = self.learned.iter().filter(|round| round.failed.is_none());
        let (sum, n) = timed.fold((0, 0_u32), |(sum, n), round| (sum + round.elapsed_ms, n + 1));
        (n > 0).then(|| sum as f64 / f64::from(n))
    }

    /// What the round that goes on has behind it.
    fn done_ms(&self, cost: RoundCost) -> f64 {
        let Some((learning, _)) = &self.learning else {
            return 0.0;
        };
        let asked = if self.learned.is_empty() {
            0.0
        } else {
            cost.questions_ms
        };
        asked + cost.steps_ms * learning.point.step as f64 / learning.steps.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Learned, Learning, LearningStep, Record, StageStarted, rehearsal};

    /// Questions of 100 ms, merges of 50 ms.
    const PLAN: LearningPlan = LearningPlan {
        rounds: 3,
        rounds_after: 1,
        steps: 10,
        batch: 8,
        questions: 20,
    };

    /// The beginning of a night whose parents have their scores, and what happened after it.
    fn run_of(events: Vec<Event>) -> Run {
        let night = rehearsal::night();
        let is_scored = |r: &&Record| matches!(r.event, Event::CandidateScored(_));
        let mut records = vec![night[0].clone()];
        records.extend(night.iter().filter(is_scored).take(3).cloned());
        for record in &mut records {
            match &mut record.event {
                Event::RunStarted(started) => started.learning = Some(PLAN),
                Event::CandidateScored(candidate) => {
                    candidate.merge_ms = 50;
                    candidate.evaluation_ms = 100 * candidate.n as u64;
                }
                _ => {}
            }
        }
        let last = records[records.len() - 1].clone();
        records.extend(events.into_iter().map(|event| Record { event, ..last.clone() }));
        Run::from_records(&records)
    }

    fn learned(id: &str, elapsed_ms: u64) -> Event {
        Event::Learned(Learned {
            id: id.into(),
            elapsed_ms,
            ..Learned::default()
        })
    }

    /// What the round makes is scored on 120 questions.
    const SCORE_MS: f64 = 50.0 + 120.0 * 100.0;
    const QUESTIONS_MS: f64 = 20.0 * 100.0;

    /// The header said "search ends in 3 min" while half an hour of learning was still to come.
    #[test]
    fn rounds_to_come_are_told_from_how_fast_questions_are_answered() {
        let steps_ms = 10.0 * (50.0 + 8.0 * 4.0 * 100.0);
        let four = 4.0 * (steps_ms + SCORE_MS) + 3.0 * QUESTIONS_MS;
        assert_eq!(run_of(Vec::new()).learning_left_ms(), Some(four));
        let mut not_learning = run_of(Vec::new());
        not_learning.started.as_mut().unwrap().learning = None;
        assert_eq!(not_learning.learning_left_ms(), None);
    }

    #[test]
    fn a_round_that_was_timed_tells_of_the_others() {
        let three = 3.0 * (7000.0 + SCORE_MS + QUESTIONS_MS);
        let run = run_of(vec![learned("learned-1", 7000)]);
        assert_eq!(run.learning_left_ms(), Some(three));
        let half_way = Event::Learning(Learning {
            id: "learned-2".into(),
            from: "learned-1".into(),
            steps: 10,
            point: LearningStep {
                step: 5,
                ..LearningStep::default()
            },
            genotype: Vec::new(),
        });
        let run = run_of(vec![learned("learned-1", 7000), half_way]);
        assert_eq!(run.learning_left_ms(), Some(three - QUESTIONS_MS - 3500.0));
    }

    /// Rounds end early where one is told to be worse, so those before the optimizer are over when it begins.
    #[test]
    fn what_comes_after_a_stage_is_left_when_it_has_begun() {
        let began = Event::StageStarted(StageStarted {
            stage: "parameter_space".into(),
            optimizer: "cma-es".into(),
            genes: Vec::new(),
            evals: 0,
        });
        let one = 7000.0 + SCORE_MS + QUESTIONS_MS;
        let run = run_of(vec![learned("learned-1", 7000), began.clone()]);
        assert_eq!(run.learning_left_ms(), Some(one));
        let run = run_of(vec![learned("learned-1", 7000), began, learned("learned-2", 7000)]);
        assert_eq!(run.learning_left_ms(), Some(0.0));
    }

    #[test]
    fn a_round_that_taught_nothing_is_followed_by_none() {
        let failed = Event::Learned(Learned {
            failed: Some("too few texts".into()),
            ..Learned::default()
        });
        let after = 10.0 * (50.0 + 8.0 * 4.0 * 100.0) + SCORE_MS + QUESTIONS_MS;
        assert_eq!(run_of(vec![failed]).learning_left_ms(), Some(after));
    }
}
