//! Tasks of different kinds in one sum: accuracies are shares, log-likelihoods are nats, and whichever varies more decides.
//!
//! With `fitness.scale: standard_error` each task's weight is divided by the standard error that the first model's score has
//! on it, so that one standard error of each counts the same. It is measured once, before anything else, and journalled:
//! every later score of the run, the final's included, is weighed by the same numbers.

use super::{Error, Interrupt, Plan, Run, race::Entrant, scoring::ExamTask};
use crate::{
    event::{Answer, Phase},
    space::Scale,
};

/// The tasks' weights, one for each task of the fitness.
#[derive(Clone)]
pub(super) struct Scaled(pub Vec<f64>);

impl Run<'_, '_> {
    /// The plan with its weights scaled; `None` where the space wants them as they are.
    pub(super) fn scaled(&mut self) -> Result<Option<Plan>, Interrupt> {
        let plan = self.plan;
        if plan.space.fitness.scale == Scale::None {
            return Ok(None);
        }
        let Scaled(weights) = self.once(&(), Self::scale)?;
        Ok(Some(plan.weighing(&weights)))
    }

    fn scale(&mut self) -> Result<Scaled, Interrupt> {
        let plan = self.plan;
        self.chronicle.phase(Phase::Baselines)?;
        let first = Entrant::parent(&plan.space.models[0].0);
        let exam = self.standard.clone();
        let evaluation = match self.sit(&first, &exam)? {
            Ok(evaluation) => evaluation,
            Err(reason) => return Err(Error::Parent { id: first.id, reason }.into()),
        };
        let tasks = exam.tasks.iter().zip(&evaluation.answers);
        let weights: Result<Vec<f64>, Error> = tasks
            .map(|(task, (_, answers))| match standard_error(task, answers) {
                stderr if stderr > 0.0 && stderr.is_finite() => Ok(task.weight / stderr),
                _ => Err(Error::NoScale {
                    task: task.task.clone(),
                    model: plan.space.models[0].0.clone(),
                }),
            })
            .collect();
        Ok(Scaled(weights?))
    }
}

impl Plan {
    /// The same questions under other weights, one for each task of the fitness.
    fn weighing(&self, weights: &[f64]) -> Plan {
        let mut plan = self.clone();
        for exam in [&mut plan.search, &mut plan.selection, &mut plan.test] {
            for task in &mut exam.tasks {
                task.weight = weights.get(task.index).copied().unwrap_or(task.weight);
            }
        }
        plan
    }
}

/// Of a score on a task. One that nobody or everybody gets right has some all the same: half an answer is added to the right
/// ones, and one to all.
fn standard_error(task: &ExamTask, answers: &[Answer]) -> f64 {
    if task.is_likelihood {
        return task.score(answers).stderr;
    }
    let n = answers.len() as f64;
    let p = (answers.iter().map(|answer| answer.score).sum::<f64>() + 0.5) / (n + 1.0);
    (p * (1.0 - p) / n).sqrt()
}
