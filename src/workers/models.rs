//! The hands of a real worker: its own models, found by their digests, in one resident decoder or in an engine of its own.

use std::sync::PoisonError;

use super::{
    desk::Now,
    found::Map,
    plan::{ModelAsked, Plan},
    worker::{Hands, Order, Orders},
};
use crate::{
    checkpoint::HubOptions,
    models::{self, Parents, Runtime},
    programs::{self, EngineProgram, Settings},
    search::{MergeEvaluator, Resources},
    store::Cache,
};

/// What a worker computes with.
pub struct OwnModels {
    pub map: Map,
    pub hub: HubOptions,
    pub runtime: Runtime,
    pub since_start: Now,
    pub engine: Option<OwnEngine>,
}

/// The engine that answers instead of this program's decoder.
pub struct OwnEngine {
    settings: Settings,
    /// In words, when it was started first: what it is must not change under a run.
    identity: String,
    /// Until the first run takes it.
    started: Option<EngineProgram>,
}

impl OwnEngine {
    /// Starts it, to learn who it is.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(settings: Settings) -> Result<Self, programs::Error> {
        let started = EngineProgram::start(settings.clone())?;
        Ok(Self {
            settings,
            identity: started.identity().words(),
            started: Some(started),
        })
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// One for another run, without anything of the run before.
    fn for_a_run(&mut self) -> Result<EngineProgram, String> {
        let started = self.started.take().map(Ok);
        let engine = started.unwrap_or_else(|| EngineProgram::start(self.settings.clone()));
        let engine = engine.map_err(|e| format!("its engine: {e}"))?;
        let now = engine.identity().words();
        match now == self.identity {
            true => Ok(engine),
            false => Err(format!(
                "its engine is {now} now and was {} when the worker was started: start it again",
                self.identity
            )),
        }
    }
}

impl OwnModels {
    /// All models of a plan, or what is wrong with each that is not as it should be.
    fn open(&self, plan: &Plan) -> Result<Parents, Vec<String>> {
        let (mut parents, mut reasons) = (Parents::default(), Vec::new());
        for model in &plan.models {
            if let Err(reason) = self.add(&mut parents, model) {
                reasons.push(reason);
            }
        }
        match reasons.is_empty() {
            true => Ok(parents),
            false => Err(reasons),
        }
    }

    fn add(&self, parents: &mut Parents, asked: &ModelAsked) -> Result<(), String> {
        let ModelAsked { name, word, .. } = asked;
        let found = self.map.find(&asked.digest, word, name).ok_or_else(|| {
            format!(
                "the model {name} ({word}) is not here: say where it is in a map, `{name}: DIRECTORY` in MAP.yaml and \
                 --models MAP.yaml, or start the worker where it lies"
            )
        })?;
        let opened = models::add(parents, name, &found, &self.hub);
        opened.map_err(|e| format!("the model {name}: {e}"))?;
        let checkpoint = parents
            .checkpoint(name)
            .ok_or_else(|| format!("the model {name} is not open"))?;
        let digest = checkpoint.digest().map_err(|e| format!("the model {name}: {e}"))?;
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        if digest != asked.digest {
            return Err(format!(
                "the model {name} at {found} is another one: its digest is {}, and the run asks for {}",
                short(&digest),
                short(&asked.digest)
            ));
        }
        match parents.tokenizer_digest(name) == asked.tokenizer_digest {
            true => Ok(()),
            false => Err(format!(
                "the model {name} at {found} has another tokenizer, chat template or generation config than the run's"
            )),
        }
    }
}

impl Hands for OwnModels {
    fn work(&mut self, plan: &Plan, mut orders: Orders) {
        let parents = match self.open(plan) {
            Ok(parents) => parents,
            Err(reasons) => return orders.unfit(reasons),
        };
        let (tasks, held_out) = match plan.tasks() {
            Ok(tasks) => tasks,
            Err(e) => return orders.unfit(vec![format!("a task of the run: {e}")]),
        };
        let engine = match self.engine.as_mut().map(OwnEngine::for_a_run).transpose() {
            Ok(engine) => engine,
            Err(reason) => return orders.unfit(vec![reason]),
        };
        let clock = self.since_start.clone();
        let evaluator = MergeEvaluator::new(Resources {
            parents: &parents,
            tasks,
            held_out,
            cache: Cache::in_memory(),
            device: self.runtime.device,
            dtype: self.runtime.dtype,
            options: self.runtime.options,
            guard: plan.guard(),
            since_start: Box::new(move || clock()),
        });
        let mut evaluator = match engine {
            Some(engine) => evaluator.with_engine(engine),
            None => evaluator,
        };
        orders.ready();
        while let Some(order) = orders.next() {
            match order {
                Order::List { task, split, questions } => evaluator.put_list(task, split, questions),
                Order::Do { work, progress, done } => {
                    // The coordinator keeps what was answered.
                    evaluator.set_cache(Cache::in_memory());
                    let given = evaluator.give(&work, &mut |step| {
                        *progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
                    });
                    // Whoever waited may have gone.
                    let _ = done.send(given);
                }
            }
        }
    }
}
