//! What candidates are compared by, one axis each: the tasks of a run, or a command's scores, and the length of answers where
//! that is an objective.

use super::run::Run;
use super::words::{Unit, task_name};
use super::{Candidate, Score, TaskScore};

/// One thing that candidates are better or worse at.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// `gsm8k (sw)`, a command's score by its name, or `tokens`.
    pub name: String,
    /// How its values are written.
    pub unit: Unit,
    /// As of the length of answers, or of a command's score with a negative weight.
    pub less_is_better: bool,
    /// The task's index; `None`: the length of answers.
    task: Option<usize>,
}

/// The axes of a run, in the order of its tasks; the length of answers is the last.
pub fn axes(run: &Run) -> Vec<Axis> {
    let Some(started) = &run.started else { return Vec::new() };
    // A command's scores are known from what it gave first.
    let of_command = || {
        run.scored
            .first()
            .map(|s| s.candidate.tasks.as_slice())
            .unwrap_or_default()
    };
    let names: Vec<(&str, &str)> = match started.tasks.as_slice() {
        [] => of_command().iter().map(|t| (&*t.task, &*t.lang)).collect(),
        tasks => tasks.iter().map(|t| (&*t.task, &*t.lang)).collect(),
    };
    let of_task = |(index, (task, lang)): (usize, (&str, &str))| Axis {
        name: task_name(task, lang),
        unit: run.task_unit(task, lang),
        less_is_better: started.score_weights.get(task).is_some_and(|weight| *weight < 0.0),
        task: Some(index),
    };
    let tokens = started.counts_tokens.then(|| Axis {
        name: "answer length".into(),
        unit: Unit::Tokens,
        less_is_better: true,
        task: None,
    });
    names.into_iter().enumerate().map(of_task).chain(tokens).collect()
}

impl Axis {
    /// Where a candidate stands; `None` if that is not known.
    pub fn score(&self, run: &Run, candidate: &Candidate) -> Option<Score> {
        if let Some(index) = self.task {
            return candidate.tasks.get(index).map(|task| task.score);
        }
        let tasks = run.started.iter().flat_map(|started| &started.tasks);
        let weights: Vec<_> = tasks.map(|t| (&t.task, &t.lang, t.weight)).collect();
        let weight_of = |of: &TaskScore| {
            let known = weights
                .iter()
                .find(|(task, lang, _)| (*task, *lang) == (&of.task, &of.lang));
            known.map_or(1.0, |known| known.2)
        };
        let value = mean_tokens(&candidate.tasks, weight_of)?;
        let (stderr, n) = (0.0, candidate.n);
        Some(Score { value, stderr, n })
    }

    /// Whether a value is at least as good as another.
    pub fn is_as_good(&self, a: f64, b: f64) -> bool {
        if self.less_is_better { a <= b } else { a >= b }
    }
}

/// The mean number of tokens of an answer over the tasks that generate, by their weights; `None` where none does.
pub fn mean_tokens(tasks: &[TaskScore], weight_of: impl Fn(&TaskScore) -> f64) -> Option<f64> {
    let counted = tasks.iter().filter_map(|task| Some((weight_of(task), task.tokens?)));
    let (weights, sum) = counted.fold((0.0, 0.0), |(weights, sum), (weight, tokens)| {
        (weights + weight, sum + weight * tokens)
    });
    (weights != 0.0).then(|| sum / weights)
}

/// Which of these points no other beats on one axis without losing on the other.
pub fn front(points: &[(f64, f64)], x: &Axis, y: &Axis) -> Vec<usize> {
    let beats = |a: (f64, f64), b: (f64, f64)| x.is_as_good(a.0, b.0) && y.is_as_good(a.1, b.1) && a != b;
    let on_front = |p: (f64, f64)| !points.iter().any(|other| beats(*other, p));
    (0..points.len()).filter(|&i| on_front(points[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, rehearsal};

    /// A search for short answers was shown as one task against the next, or as a run with nothing to trade off.
    #[test]
    fn the_length_of_answers_is_an_axis_where_it_is_an_objective() {
        let mut records = rehearsal::journal();
        assert_eq!(axes(&Run::from_records(&records)).len(), 2);
        for record in &mut records {
            match &mut record.event {
                Event::RunStarted(started) => started.counts_tokens = true,
                Event::CandidateScored(candidate) => {
                    for (task, tokens) in candidate.tasks.iter_mut().zip([30.0, 60.0]) {
                        task.tokens = Some(tokens);
                    }
                }
                _ => {}
            }
        }
        let run = Run::from_records(&records);
        let axes = axes(&run);
        let [_, _, tokens] = axes.as_slice() else {
            panic!("{axes:?}")
        };
        assert!(tokens.less_is_better && tokens.unit == Unit::Tokens);
        // Weights of 1 and ½: (30 + ½ · 60) ÷ 1.5.
        assert_eq!(tokens.score(&run, &run.scored[0].candidate).unwrap().value, 40.0);
        let points = [(0.5, 40.0), (0.6, 50.0), (0.5, 50.0)];
        assert_eq!(front(&points, &axes[0], tokens), [0, 1]);
    }
}
