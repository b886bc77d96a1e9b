//! Scores measured by those of the models that went in.
//!
//! **Source**: Yadav et al., What Matters for Model Merging at Scale? (arXiv 2410.03617): tasks that the experts were made
//! for are divided by the expert's score, all others by the base's. Beside it stands the share of the best expert's gain
//! over the base that the child has, which does not flatter where the base is good already.
//!
//! Standard errors take the two scores for independent. They are of the same questions, so they err on the large side.

use std::fmt;

use serde::Serialize;

use super::run::Run;
use super::words::Unit;
use super::{Candidate, Origin, Score, TaskScore};

/// A ratio of two scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// 1 is as good as what it is divided by.
    pub value: f64,
    /// Of the quotient, to first order (delta method), both scores taken for independent.
    pub stderr: f64,
}

impl fmt::Display for Ratio {
    /// `92 ± 4 %`; `92 %` of scores whose error nobody knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stderr == 0.0 {
            return write!(f, "{:.0} %", 100.0 * self.value);
        }
        write!(f, "{:.0} ± {:.0} %", 100.0 * self.value, 100.0 * self.stderr)
    }
}

/// The child on one task of the fitness.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldIn {
    /// As in [`Task::task`](super::Task::task).
    pub task: String,
    /// As in [`Task::lang`](super::Task::lang).
    pub lang: String,
    /// As in [`Task::split`](super::Task::split).
    pub split: String,
    /// Id of the parent, other than the base, that is best at this task.
    pub expert: String,
    /// Child ÷ best expert; absent where scores have no zero (log-likelihoods) or the expert has none right.
    pub of_expert: Option<Ratio>,
    /// (child − base) ÷ (best expert − base); absent without a base, or where the expert hardly leaves it.
    pub of_gain: Option<Ratio>,
}

/// One candidate on one held-out task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// As in [`Candidate::id`].
    pub id: String,
    /// As it was measured; the fields stand in the same object.
    #[serde(flatten)]
    pub score: TaskScore,
    /// Candidate ÷ base; absent for the base itself, without a base, and where scores have no zero.
    pub of_base: Option<Ratio>,
}

/// An expert must leave the base by this many standard errors before its gain is divided by.
const CLEARLY: f64 = 2.0;

/// The winner on each task: on the test split if it was read, else on the search's questions.
pub fn held_in(run: &Run) -> Vec<HeldIn> {
    let Some(winner) = run.winner() else { return Vec::new() };
    let parents: Vec<&Candidate> = run.of_origin(Origin::Parent).collect();
    let tested = |id: &str| {
        let reading = run.reading.as_ref()?;
        let all = [&reading.best, &reading.best_parent]
            .into_iter()
            .chain(reading.others.iter().map(|o| &o.other));
        all.into_iter().find(|t| t.id == id).map(|t| t.tasks.as_slice())
    };
    match tested(&winner.id) {
        Some(child) => {
            let parents = parents.iter().filter_map(|p| Some((p.id.as_str(), tested(&p.id)?)));
            tasks(run, child, &parents.collect::<Vec<_>>())
        }
        None => held_in_of(run, winner),
    }
}

/// Any candidate on each task, on the search's questions.
pub fn held_in_of(run: &Run, candidate: &Candidate) -> Vec<HeldIn> {
    let parents = run
        .of_origin(Origin::Parent)
        .map(|p| (p.id.as_str(), p.tasks.as_slice()));
    tasks(run, &candidate.tasks, &parents.collect::<Vec<_>>())
}

fn tasks(run: &Run, child: &[TaskScore], parents: &[(&str, &[TaskScore])]) -> Vec<HeldIn> {
    let base = run.base_id();
    let of = |task: &TaskScore, scores: &[TaskScore]| {
        let same = |s: &&TaskScore| (&s.task, &s.lang) == (&task.task, &task.lang);
        scores.iter().find(same).map(|s| s.score)
    };
    let one = |task: &TaskScore| {
        let experts = parents.iter().filter(|(id, _)| Some(*id) != base.as_deref());
        let (expert, best) = experts
            .filter_map(|(id, scores)| Some((*id, of(task, scores)?)))
            .reduce(|a, b| if b.1.value > a.1.value { b } else { a })?;
        let has_zero = run.task_unit(&task.task, &task.lang) == Unit::Percent;
        let base = parents.iter().find(|(id, _)| Some(*id) == base.as_deref());
        let base = base.and_then(|(_, scores)| of(task, scores));
        Some(HeldIn {
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: task.split.clone(),
            expert: expert.into(),
            of_expert: has_zero.then(|| ratio(task.score, best)).flatten(),
            of_gain: base.and_then(|base| share_of_gain(task.score, best, base)),
        })
    };
    child.iter().filter_map(one).collect()
}

/// Everybody on the held-out tasks, in the reading's order: the winner first.
pub fn held_out(run: &Run) -> Vec<HeldOut> {
    let Some(reading) = &run.held_out else {
        return Vec::new();
    };
    let base = run.base_id();
    let of_base = |task: &TaskScore| {
        let base = reading.scores.iter().find(|s| Some(&s.id) == base.as_ref())?;
        let same = |s: &&TaskScore| (&s.task, &s.lang, &s.split) == (&task.task, &task.lang, &task.split);
        base.tasks.iter().find(same).map(|s| s.score)
    };
    let has_zero = |task: &TaskScore| run.task_unit(&task.task, &task.lang) == Unit::Percent;
    let all = reading
        .scores
        .iter()
        .flat_map(|s| s.tasks.iter().map(move |task| (&s.id, task)));
    all.map(|(id, task)| HeldOut {
        id: id.clone(),
        score: task.clone(),
        of_base: of_base(task)
            .filter(|_| Some(id) != base.as_ref() && has_zero(task))
            .and_then(|base| ratio(task.score, base)),
    })
    .collect()
}

/// `a ÷ b` with the error of a ratio to first order; `None` where nothing can be divided by.
fn ratio(a: Score, b: Score) -> Option<Ratio> {
    let value = a.value / b.value;
    let stderr = (a.stderr.powi(2) + (value * b.stderr).powi(2)).sqrt() / b.value.abs();
    (b.value > 0.0 && value.is_finite()).then_some(Ratio { value, stderr })
}

fn share_of_gain(child: Score, expert: Score, base: Score) -> Option<Ratio> {
    let gain = expert.value - base.value;
    if gain <= CLEARLY * expert.stderr.hypot(base.stderr) || gain <= 0.0 {
        return None;
    }
    let value = (child.value - base.value) / gain;
    // The base stands in both: d/d(base) of the share is (value − 1) ÷ gain.
    let parts = [child.stderr, value * expert.stderr, (value - 1.0) * base.stderr];
    let stderr = parts.iter().map(|x| x * x).sum::<f64>().sqrt() / gain;
    Some(Ratio { value, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    fn score(value: f64, stderr: f64) -> Score {
        Score { value, stderr, n: 100 }
    }

    #[test]
    fn ratios_by_hand() {
        // 0.3 ÷ 0.6 = 1/2; errors √(0.03² + (½·0.04)²) ÷ 0.6.
        let half = ratio(score(0.3, 0.03), score(0.6, 0.04)).unwrap();
        assert_eq!((half.value, half.to_string().as_str()), (0.5, "50 ± 6 %"));
        assert!((half.stderr - (0.0009_f64 + 0.0004).sqrt() / 0.6).abs() < 1e-12);
        assert_eq!(ratio(score(0.3, 0.03), score(0.0, 0.0)), None);
        // (0.7 − 0.2) ÷ (0.6 − 0.2) = 5/4.
        let more = share_of_gain(score(0.7, 0.01), score(0.6, 0.01), score(0.2, 0.01)).unwrap();
        assert!((more.value - 1.25).abs() < 1e-12);
        // An expert within two standard errors of the base has no gain to speak of, a worse one even less.
        assert_eq!(
            share_of_gain(score(0.7, 0.01), score(0.22, 0.01), score(0.2, 0.01)),
            None
        );
        assert_eq!(share_of_gain(score(0.7, 0.0), score(0.1, 0.0), score(0.2, 0.0)), None);
    }

    #[test]
    fn the_winner_is_measured_by_the_best_expert_of_each_task() {
        let run = Run::from_records(&rehearsal::journal());
        let held_in = held_in(&run);
        let experts: Vec<&str> = held_in.iter().map(|t| t.expert.as_str()).collect();
        assert_eq!(experts, ["parent-spanish", "parent-maths"]);
        let reading = run.reading.as_ref().unwrap();
        let spanish = reading.others.iter().find(|o| o.other.id == "parent-spanish").unwrap();
        let expected = reading.best.tasks[0].score.value / spanish.other.tasks[0].score.value;
        assert!((held_in[0].of_expert.unwrap().value - expected).abs() < 1e-12);
        assert!(held_in.iter().all(|t| t.split == "test"));
    }

    #[test]
    fn log_likelihoods_have_no_ratio() {
        let run = Run::from_records(&rehearsal::stopped());
        let held_in = held_in(&run);
        assert!(!held_in.is_empty() && held_in.iter().all(|t| t.of_expert.is_none()));
    }

    #[test]
    fn what_was_forgotten_is_measured_by_the_base() {
        let run = Run::from_records(&rehearsal::held_out());
        let held_out = held_out(&run);
        let of = |id: &str| held_out.iter().find(|h| h.id == id).unwrap().of_base;
        assert_eq!(of("parent-base"), None, "the base is what is divided by");
        // 0.30 of the child against 0.40 of the base.
        let winner = run.winner().unwrap().id.clone();
        assert!((of(&winner).unwrap().value - 0.75).abs() < 1e-12);
    }
}
