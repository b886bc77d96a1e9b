//! Which figures of a run are worth a curve, under which names, and over what.
//!
//! Values are as in the journal: shares of right answers from 0 to 1, log-likelihoods in nats a token. Everything stands over
//! the evaluations that were counted, but for learning, which stands over its steps.

use std::collections::BTreeMap;

use crate::event::{
    Event, Record,
    run::{Run, competes, counts},
    words::{budget, task_name},
};

/// One value of one curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// `search/best`.
    pub name: String,
    pub value: f64,
    pub step: u64,
    /// Wall clock, milliseconds since 1970.
    pub time_ms: u64,
}

/// Makes points of records.
#[derive(Debug, Default)]
pub struct Curves {
    /// Steps of the rounds of learning that are over.
    learned_steps: u64,
}

impl Curves {
    /// The points of a record that the run has taken in already.
    pub fn of(&mut self, run: &Run, record: &Record) -> Vec<Point> {
        let mut points: Vec<(String, f64, u64)> = Vec::new();
        let step = run.evals;
        let mut add = |name: &str, value: f64| points.push((name.into(), value, step));
        match &record.event {
            Event::CandidateScored(candidate) => {
                if counts(&candidate.origin) {
                    add("search/fitness", candidate.fitness);
                    for task in &candidate.tasks {
                        let name = format!("search/task/{}", task_name(&task.task, &task.lang));
                        add(&name, task.score.value);
                    }
                    add("cost/merge_seconds", candidate.merge_ms as f64 / 1000.0);
                    add("cost/answer_seconds", candidate.evaluation_ms as f64 / 1000.0);
                }
                if let Some(best) = run.best().filter(|_| competes(candidate)) {
                    add("search/best", best.worth);
                    let rivals = [("parent", run.best_parent()), ("unsearched", run.best_unsearched())];
                    for (name, rival) in rivals {
                        if let Some(rival) = rival {
                            add(&format!("search/lead_over_best_{name}"), best.worth - rival.fitness);
                        }
                    }
                }
            }
            Event::GenerationEnded(generation) => {
                add("generation/best", generation.best);
                add("generation/upper_quartile", generation.upper_quartile);
                add("generation/median", generation.median);
                add("generation/lower_quartile", generation.lower_quartile);
                add("generation/failed", generation.failed as f64);
                let known = [("sigma", generation.sigma), ("race_tau", generation.tau)];
                for (name, value) in known {
                    if let Some(value) = value {
                        add(&format!("generation/{name}"), value);
                    }
                }
            }
            Event::Selected(selection) => {
                if let Some(best) = selection.finalists.iter().find(|f| f.id == selection.best) {
                    add("final/selection", best.fresh.value);
                }
            }
            Event::TestRead(reading) => {
                add("final/test", reading.best.score.value);
                add("final/test_stderr", reading.best.score.stderr);
                add("final/best_parent", reading.best_parent.score.value);
                add("final/lead_over_best_parent", reading.difference);
                add("final/p_value", reading.p_value);
            }
            Event::Learned(learned) => {
                for point in &learned.curve {
                    let step = self.learned_steps + point.step as u64;
                    points.push(("learning/taught".into(), point.taught, step));
                    let held_back = point.held_back.map(|value| ("learning/held_back".into(), value, step));
                    points.extend(held_back);
                }
                self.learned_steps += learned.steps as u64;
            }
            _ => {}
        }
        let point = |(name, value, step)| Point {
            name,
            value,
            step,
            time_ms: record.time_ms,
        };
        let finite = points.into_iter().filter(|(_, value, _)| value.is_finite());
        finite.map(point).collect()
    }
}

/// What a run was begun with, by name.
pub fn parameters(run: &Run) -> BTreeMap<String, String> {
    let Some(started) = &run.started else {
        return BTreeMap::new();
    };
    let tasks: Vec<String> = started.tasks.iter().map(|t| task_name(&t.task, &t.lang)).collect();
    let mut all = BTreeMap::from([
        ("name".into(), started.name.clone()),
        ("heterosis".into(), started.engine_version.clone()),
        ("optimizer".into(), started.optimizer.clone()),
        ("population".into(), started.population.to_string()),
        ("genes".into(), started.genes.len().to_string()),
        ("seed".into(), started.seed.to_string()),
        ("budget".into(), budget(started)),
        ("tasks".into(), tasks.join(", ")),
        ("device".into(), format!("{} {}", started.device, started.dtype)),
        ("space_digest".into(), started.space_digest.clone()),
    ]);
    let models = started
        .models
        .iter()
        .map(|m| (format!("model.{}", m.name), m.model.clone()));
    all.extend(models);
    // An optimizer chooses a population of 0 itself.
    let says_something = |name: &str, value: &str| !value.is_empty() && (name, value) != ("population", "0");
    all.retain(|name, value| says_something(name, value));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    #[test]
    fn a_night_has_curves_from_its_first_child_to_its_test() {
        let (mut run, mut curves, mut points) = (Run::default(), Curves::default(), Vec::new());
        for record in rehearsal::journal() {
            run.apply(&record);
            points.extend(curves.of(&run, &record));
        }
        let of = |name: &str| points.iter().filter(|p| p.name == name).collect::<Vec<_>>();
        let best = of("search/best");
        assert!(
            best.windows(2)
                .all(|pair| pair[0].step <= pair[1].step && pair[0].value <= pair[1].value)
        );
        assert_eq!(best.last().unwrap().value, run.best().unwrap().worth);
        assert_eq!(of("generation/median").len(), run.generations.len());
        assert_eq!(of("search/task/arith-es").len(), of("search/fitness").len());
        let reading = run.reading.as_ref().unwrap();
        assert_eq!(of("final/test")[0].value, reading.best.score.value);
        assert_eq!(parameters(&run)["model.maths"], "models/tiny-maths");
    }
}
