//! The search: ask → decode → look up → merge → evaluate → tell → journal, until the budget ends; then the final.
//!
//! * [`run`] is the loop. It knows recipes and scores, and nothing of tensors: those are behind [`Evaluator`].
//! * `evaluator.rs` is the real one: merges in memory, asks the questions, caches every answer.
//! * `chronicle.rs` writes the journal, and on `resume` hands back what it already holds. The loop is deterministic, so
//!   going on is running it again from the start with every known score looked up instead of computed.
//! * `scoring.rs` turns answers into fitness and paired comparisons; `finale.rs` decides who won.

mod chronicle;
mod evaluator;
mod finale;
mod parents;
mod scoring;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

pub use chronicle::{Chronicle, Clock};
pub use evaluator::{ENGINE_VERSION, FitnessTask, MergeEvaluator, Resources, verbatim};
pub use parents::{Parents, checkpoint_dtype, recipe_dtype, tokenizer_files};
pub use scoring::{Exam, ExamTask};

use crate::{
    event::{self, EndReason, Event, Level, Origin, Phase},
    optim::{self, Domain, Gene, Optimizer, Outcome, Spread},
    recipe::Recipe,
    space::{self, Codec, GeneKind, Space},
    store,
};

/// What ends a search before its time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Space(#[from] space::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the optimizer cannot search this space: {0}")]
    Optimizer(#[from] optim::Error),
    #[error("{model}: {message}")]
    Model { model: String, message: String },
    #[error("the models do not fit each other: {message}")]
    Misfit { message: String },
    #[error(transparent)]
    Task(#[from] crate::eval::Error),
    #[error("the task '{task}' has no questions in its {split} split; name another split, or a task that has one")]
    NoQuestions { task: String, split: String },
    #[error("the model '{id}' cannot be scored: {reason}")]
    Parent { id: String, reason: String },
    #[error(
        "the journal says that {id} was made from recipe {journalled}, but this search arrives at {now}: the search space, a \
         model or heterosis itself has changed since. Start a new run"
    )]
    Diverged {
        id: String,
        journalled: String,
        now: String,
    },
    #[error("not one candidate could be scored; the log says why each failed")]
    NothingScored,
}

/// Who is to be scored.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A parent as it is, by its short name.
    Model(&'a str),
    Recipe(&'a Recipe),
}

/// The answers of one candidate to one exam.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// One for each of the exam's tasks, with the key under which they are cached.
    pub answers: Vec<(String, Vec<event::Answer>)>,
    /// No answer was generated for it.
    pub cached: bool,
    pub generated_tokens: u64,
    pub merge_ms: u64,
    pub evaluation_ms: u64,
}

/// What scores a candidate: the real one merges and generates, the tests' one computes a function.
pub trait Evaluator {
    /// # Errors
    /// The reason why this candidate has no score; the search goes on without it.
    fn evaluate(
        &mut self,
        subject: Subject<'_>,
        exam: &Exam,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, String>;
}

/// Requests from outside; each is looked at between two candidates.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// End after the candidate that is being evaluated; the run can be resumed.
    pub stop: Arc<AtomicBool>,
    pub pause: Arc<AtomicBool>,
}

/// What a search needs to know besides how to score.
#[derive(Clone, Debug)]
pub struct Plan {
    pub space: Space,
    pub codec: Codec,
    /// Known recipes handed to the optimizer: name and recipe.
    pub warm_starts: Vec<(String, Recipe)>,
    pub budget: event::Budget,
    /// End the search now and go to the final.
    pub finish: bool,
    /// The questions of the search, of the selection among finalists, and the sealed ones.
    pub search: Exam,
    pub selection: Exam,
    pub test: Exam,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum End {
    Done,
    Stopped,
}

/// Part of a time budget that is kept for the final.
const FINAL_SHARE: f64 = 0.12;

/// Runs or goes on with a search.
///
/// # Errors
/// A parent that cannot be scored, a disk that cannot be written, a journal that belongs to another search. A candidate
/// that cannot be scored is no error.
pub fn run(
    plan: &Plan,
    evaluator: &mut dyn Evaluator,
    chronicle: &mut Chronicle<'_>,
    control: &Control,
) -> Result<End, Error> {
    let mut run = Run {
        plan,
        evaluator,
        chronicle,
        control,
        scored: Vec::new(),
        evals: 0,
    };
    match run.whole() {
        Ok(()) => Ok(End::Done),
        Err(Interrupt::Stop) => {
            let reason = "asked to stop; `heterosis resume` goes on".into();
            run.chronicle.write(Event::RunStopped { reason })?;
            Ok(End::Stopped)
        }
        Err(Interrupt::Error(e)) => {
            run.chronicle.write(Event::RunFailed { reason: e.to_string() })?;
            Err(e)
        }
    }
}

/// Why the work does not go on.
enum Interrupt {
    Stop,
    Error(Error),
}

impl<E: Into<Error>> From<E> for Interrupt {
    fn from(e: E) -> Self {
        Self::Error(e.into())
    }
}

struct Run<'a, 'b> {
    plan: &'a Plan,
    evaluator: &'a mut dyn Evaluator,
    chronicle: &'a mut Chronicle<'b>,
    control: &'a Control,
    /// Everybody with a score on the search questions, in order.
    scored: Vec<event::Candidate>,
    /// Candidates that were evaluated on the search questions, failed ones included.
    evals: u64,
}

/// Who a candidate is, before it is scored.
struct Nomination<'a> {
    id: String,
    origin: Origin,
    generation: Option<u64>,
    genotype: &'a [f64],
    subject: Subject<'a>,
}

impl Run<'_, '_> {
    fn whole(&mut self) -> Result<(), Interrupt> {
        self.baselines()?;
        let mean = self.search()?;
        self.finale(mean)?;
        Ok(())
    }

    /// Parents and unsearched merges are the first candidates.
    fn baselines(&mut self) -> Result<(), Interrupt> {
        self.chronicle.phase(Phase::Baselines)?;
        let plan = self.plan;
        for (name, _) in &plan.space.models {
            let id = format!("parent-{name}");
            let nomination = Nomination {
                id: id.clone(),
                origin: Origin::Parent,
                generation: None,
                genotype: &[],
                subject: Subject::Model(name),
            };
            if let Err(reason) = self.candidate(nomination)? {
                return Err(Error::Parent { id, reason }.into());
            }
        }
        for (id, recipe) in &plan.codec.baselines() {
            let nomination = Nomination {
                id: id.clone(),
                origin: Origin::Baseline,
                generation: None,
                genotype: &[],
                subject: Subject::Recipe(recipe),
            };
            // A baseline that fails is in the journal with its reason; the search goes on.
            let _ = self.candidate(nomination)?;
        }
        Ok(())
    }

    /// Asks until the budget ends; gives the optimizer's own idea of the best.
    fn search(&mut self) -> Result<Option<Vec<f64>>, Interrupt> {
        self.chronicle.phase(Phase::Search)?;
        let (mut optimizer, warm) = self.optimizer()?;
        let reason = loop {
            if let Some(reason) = self.end_of_search()? {
                break reason;
            }
            let asks = optimizer.ask();
            let Some(generation) = asks.first().map(|a| a.generation) else {
                break EndReason::Converged;
            };
            let mut results = Vec::with_capacity(asks.len());
            for ask in &asks {
                if !results.is_empty() && self.end_of_search()?.is_some() {
                    break;
                }
                let recipe = self.plan.codec.decode(&ask.genotype);
                let nomination = Nomination {
                    id: format!("c{:04}", ask.id + 1),
                    origin: if warm.contains(&ask.genotype) {
                        Origin::WarmStart
                    } else {
                        Origin::Search
                    },
                    generation: Some(generation),
                    genotype: &ask.genotype,
                    subject: Subject::Recipe(&recipe),
                };
                let outcome = match self.candidate(nomination)? {
                    Ok(fitness) => Outcome::from_score(fitness),
                    Err(_) => Outcome::Failed,
                };
                results.push((ask.id, outcome));
            }
            if results.len() < asks.len() {
                continue; // the budget ended within the generation: the next look at it ends the search
            }
            optimizer.tell(&results).map_err(Error::from)?;
            self.generation_ended(generation, &results, &optimizer)?;
        };
        self.chronicle.search_ended(reason, self.evals)?;
        Ok(optimizer.mean())
    }

    fn optimizer(&self) -> Result<(Optimizer, Vec<Vec<f64>>), Error> {
        let plan = self.plan;
        let genes = plan.codec.genes().iter().map(|gene| match gene.kind {
            GeneKind::Real { low, high } => Gene::Real { low, high },
            GeneKind::Int { low, high } => Gene::Int { low, high },
            GeneKind::Choice { n } => Gene::Choice { n },
        });
        let domain = Domain::new(genes.collect())?;
        let kind = match plan.space.search.optimizer {
            space::Optimizer::CmaEs => optim::Kind::CmaEs,
            space::Optimizer::CmaEsMargin => optim::Kind::CmaEsMargin,
            space::Optimizer::Genetic => optim::Kind::Genetic,
            space::Optimizer::Random => optim::Kind::Random,
        };
        let options = optim::Options {
            seed: plan.space.search.seed,
            population_size: plan.space.search.population,
            noisy: true,
            ..optim::Options::default()
        };
        let mut optimizer = Optimizer::new(kind, domain, &options)?;
        let mut warm = Vec::new();
        for (_, recipe) in &plan.warm_starts {
            warm.push(plan.codec.encode(recipe)?);
        }
        if warm.is_empty() {
            warm.extend(self.best_baseline());
        }
        if let Some((first, others)) = warm.split_first() {
            optimizer.start_at(first, &Spread::OfRange(1.0 / 6.0))?;
            optimizer.inject(others.iter().cloned())?;
        }
        Ok((optimizer, warm))
    }

    /// Where a search starts that was told of no recipe: the unsearched merge that scored best, if the space has it.
    fn best_baseline(&self) -> Option<Vec<f64>> {
        let mut baselines: Vec<&event::Candidate> =
            self.scored.iter().filter(|c| c.origin == Origin::Baseline).collect();
        baselines.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
        baselines.iter().find_map(|c| {
            let recipe: Recipe = serde_json::from_value(c.recipe.clone()).ok()?;
            self.plan.codec.encode(&recipe).ok()
        })
    }

    /// Looks at the budget and at requests from outside.
    fn end_of_search(&mut self) -> Result<Option<EndReason>, Interrupt> {
        if let Some(reason) = self.chronicle.past_end_of_search(self.evals) {
            return Ok(Some(reason));
        }
        if self.chronicle.is_replaying() {
            return Ok(None);
        }
        self.pause_or_stop()?;
        if self.plan.finish {
            return Ok(Some(EndReason::Stopped));
        }
        let budget = &self.plan.budget;
        if budget.evals.is_some_and(|evals| self.evals >= evals) {
            return Ok(Some(EndReason::Evals));
        }
        let over = |ms: u64| self.chronicle.elapsed_ms() as f64 >= ms as f64 * (1.0 - FINAL_SHARE);
        Ok(budget.duration_ms.is_some_and(over).then_some(EndReason::Time))
    }

    fn pause_or_stop(&mut self) -> Result<(), Interrupt> {
        while self.control.pause.load(Ordering::Relaxed) && !self.control.stop.load(Ordering::Relaxed) {
            self.chronicle.wait();
        }
        if self.control.stop.load(Ordering::Relaxed) {
            return Err(Interrupt::Stop);
        }
        Ok(())
    }

    /// Scores one candidate on the search questions: looked up if the journal has it, evaluated and journalled if not.
    fn candidate(&mut self, nomination: Nomination<'_>) -> Result<Result<f64, String>, Interrupt> {
        let (recipe, recipe_digest) = match nomination.subject {
            Subject::Model(name) => (serde_json::json!({ "model": name }), format!("model:{name}")),
            Subject::Recipe(recipe) => {
                let json = serde_json::to_value(recipe).expect("a recipe is plain data");
                (json, recipe.digest())
            }
        };
        let outcome = match self.chronicle.past(&nomination.id, &recipe_digest)? {
            Some(outcome) => outcome,
            None => {
                self.pause_or_stop()?;
                self.evaluate(&nomination, recipe, recipe_digest)?
            }
        };
        self.evals += 1;
        match outcome {
            Ok(candidate) => {
                let fitness = candidate.fitness;
                self.scored.push(*candidate);
                Ok(Ok(fitness))
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    fn evaluate(
        &mut self,
        nomination: &Nomination<'_>,
        recipe: serde_json::Value,
        recipe_digest: String,
    ) -> Result<Result<Box<event::Candidate>, String>, Error> {
        let Nomination {
            id, origin, generation, ..
        } = nomination;
        self.chronicle.show(Event::CandidateStarted {
            id: id.clone(),
            origin: origin.clone(),
            generation: *generation,
        });
        let exam = &self.plan.search;
        let evaluation = self.sit(id, nomination.subject, exam);
        let scored = evaluation.and_then(|evaluation| {
            let (fitness, tasks) = exam.score(&evaluation.answers);
            if !fitness.value.is_finite() {
                return Err(format!("its fitness is {}", fitness.value));
            }
            Ok((evaluation, fitness, tasks))
        });
        let (evaluation, fitness, tasks) = match scored {
            Ok(scored) => scored,
            Err(reason) => {
                self.chronicle.write(Event::CandidateFailed {
                    id: id.clone(),
                    origin: origin.clone(),
                    generation: *generation,
                    recipe_digest,
                    reason: reason.clone(),
                })?;
                return Ok(Err(reason));
            }
        };
        self.chronicle.answers(id, exam, &evaluation)?;
        let candidate = Box::new(event::Candidate {
            id: id.clone(),
            origin: origin.clone(),
            generation: *generation,
            genotype: nomination.genotype.to_vec(),
            recipe,
            recipe_digest,
            fitness: fitness.value,
            stderr: fitness.stderr,
            n: fitness.n,
            tasks,
            cached: evaluation.cached,
            generated_tokens: evaluation.generated_tokens,
            merge_ms: evaluation.merge_ms,
            evaluation_ms: evaluation.evaluation_ms,
        });
        self.chronicle.write(Event::CandidateScored((*candidate).clone()))?;
        Ok(Ok(candidate))
    }

    /// Puts one candidate through one exam and shows how it goes.
    fn sit(&mut self, id: &str, subject: Subject<'_>, exam: &Exam) -> Result<Evaluation, String> {
        let chronicle = &*self.chronicle;
        self.evaluator.evaluate(subject, exam, &mut |progress| {
            chronicle.show(Event::Progress(event::Progress {
                id: id.to_string(),
                ..progress
            }));
        })
    }

    fn generation_ended(
        &mut self,
        generation: u64,
        results: &[(u64, Outcome)],
        optimizer: &Optimizer,
    ) -> Result<(), Error> {
        let mut fitness: Vec<f64> = results
            .iter()
            .filter_map(|(_, outcome)| match outcome {
                Outcome::Fitness(f) => Some(f.value()),
                _ => None,
            })
            .collect();
        fitness.sort_by(f64::total_cmp);
        let state = serde_json::to_vec(optimizer).expect("an optimizer is plain data");
        let ended = event::Generation {
            generation,
            best: quantile(&fitness, 1.0),
            upper_quartile: quantile(&fitness, 0.75),
            median: quantile(&fitness, 0.5),
            lower_quartile: quantile(&fitness, 0.25),
            failed: results.len() - fitness.len(),
            sigma: optimizer.status().sigma,
            state_digest: blake3::hash(&state).to_hex().to_string(),
        };
        if fitness.is_empty() {
            let message = format!("all {} candidates of generation {generation} failed", results.len());
            self.log(Level::Warning, message)?;
        } else if fitness.len() > 1 && fitness[0] == fitness[fitness.len() - 1] {
            let message = format!(
                "all candidates of generation {generation} scored the same ({:.4}); the search goes on. If this repeats, \
                 give the tasks more questions, or add a log-likelihood task",
                fitness[0]
            );
            self.log(Level::Warning, message)?;
        }
        Ok(self.chronicle.generation_ended(ended)?)
    }

    fn log(&mut self, level: Level, message: String) -> Result<(), Error> {
        if !self.chronicle.is_replaying() {
            self.chronicle.write(Event::Log { level, message })?;
        }
        Ok(())
    }
}

/// Linear interpolation between order statistics; 0 for no values at all.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let position = q * last as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}
