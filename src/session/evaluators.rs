//! Who evaluates a run's candidates: our own decoder, several of them side by side, an engine or copies of it, the user's program.

use std::{path::Path, sync::Arc, time::Duration};

use super::{Error, SHARD_SIZE_BYTES, Session};
use crate::{
    checkpoint::Writer,
    host::day,
    merge::Plan,
    models::{self, Parents, Runtime},
    programs::{self, EngineProgram},
    recipe::Recipe,
    search::{Delivery, Endpoint, External, MergeEvaluator, Resources, Served, Unscored},
    serve::{self, Server},
    space,
    store::{self, Cache, RunDir},
    workers::SideBySide,
};

impl Session {
    /// What was answered before, by this run or by any other.
    pub(super) fn cache(&self, dir: &RunDir) -> Cache {
        Cache::of_run(store::Places {
            shared: self.host.answers.as_deref(),
            own: &dir.cache(),
            today: day((self.host.now_ms)()),
        })
    }

    /// The evaluator that merges and asks these tasks; without a guard it lets every merge in. Starts the engine that the
    /// space names.
    ///
    /// # Errors
    /// Such an engine cannot be started, or cannot do what the tasks take.
    pub fn evaluator(&self, cache: Cache, guard: Option<space::Guard>) -> Result<MergeEvaluator<'_>, Error> {
        let clock = Arc::clone(&self.host.since_start);
        let evaluator = MergeEvaluator::new(Resources {
            parents: &self.parents,
            tasks: self.tasks.clone(),
            held_out: self.held_out.clone(),
            cache,
            device: self.runtime.device,
            dtype: self.runtime.dtype,
            options: self.runtime.options,
            guard,
            since_start: Box::new(move || clock()),
        });
        Ok(match &self.space.fitness.engine {
            Some(engine) => evaluator.with_engine(self.start(engine, guard.is_some(), None)?),
            None => evaluator,
        })
    }

    /// Starts an engine that is to answer these tasks, or one of several copies.
    fn start(
        &self,
        engine: &space::EngineCommand,
        is_guarded: bool,
        worker: Option<usize>,
    ) -> Result<EngineProgram, Error> {
        let program = EngineProgram::start(programs::Settings {
            command: engine.command.clone(),
            timeout: Duration::from_secs_f64(engine.timeout),
            dtype: self.runtime.dtype,
            scratch: self.host.scratch.clone(),
            worker,
        })?;
        let mut tasks = self.tasks.iter().chain(&self.held_out).map(|task| &task.task);
        if is_guarded || tasks.clone().any(|task| task.kind().is_measured()) {
            let way_out = "without that there is no guard, and no task by log-likelihood: leave them out";
            program.must("score", way_out)?;
        }
        if tasks.any(|task| task.samples().is_some()) {
            program.must("sample", "leave 'samples' out")?;
        }
        Ok(program)
    }

    /// Whether several evaluators work at a time: devices of ours, or copies of an engine.
    pub(super) fn has_several_hands(&self) -> bool {
        let copies = self.space.fitness.engine.as_ref().map_or(1, |engine| engine.workers);
        copies > 1 || !self.runtime.others.is_empty()
    }

    /// Has a search work with every device of the runtime at a time, or with every copy of the engine, whose words go to `log`.
    ///
    /// # Errors
    /// A copy of the engine cannot be started, or is another one.
    pub(super) fn side_by_side<'s, T>(
        &'s self,
        local: MergeEvaluator<'s>,
        log: &Path,
        search: impl FnOnce(&mut SideBySide<'s>) -> T,
    ) -> Result<T, Error> {
        let Runtime { device, others, .. } = &self.runtime;
        let clock = || {
            let clock = Arc::clone(&self.host.since_start);
            Box::new(move || clock())
        };
        let hands: Vec<MergeEvaluator<'_>> = match &self.space.fitness.engine {
            Some(engine) => {
                let copies = self.copies(engine, &local, log)?;
                let hand = |copy| local.beside(*device, clock()).with_engine(copy);
                copies.into_iter().map(hand).collect()
            }
            None => {
                let devices = std::iter::once(device).chain(others);
                devices.map(|device| local.beside(*device, clock())).collect()
            }
        };
        Ok(std::thread::scope(|scope| {
            let (host, now) = (&self.host.holder.host, self.host.since_start.clone());
            search(&mut SideBySide::begin(scope, local, hands, host, now))
        }))
    }

    /// Starts all copies of an engine at once: to import what it takes may last.
    fn copies(
        &self,
        engine: &space::EngineCommand,
        local: &MergeEvaluator<'_>,
        log: &Path,
    ) -> Result<Vec<EngineProgram>, Error> {
        let is_guarded = self.space.fitness.guard.is_some();
        let started: Vec<Result<EngineProgram, Error>> = std::thread::scope(|scope| {
            let begin = |worker| scope.spawn(move || self.start(engine, is_guarded, Some(worker)));
            let begun: Vec<_> = (0..engine.workers).map(begin).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(started) => started,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            begun.into_iter().map(join).collect()
        });
        let expected = local.engine_elsewhere().map(EngineProgram::identity);
        let same = |copy: Result<EngineProgram, Error>| {
            let copy = copy?;
            copy.log_to(log)?;
            match expected.is_none_or(|expected| expected == copy.identity()) {
                true => Ok(copy),
                false => Err(programs::Error::Another {
                    was: expected.map(programs::Identity::words).unwrap_or_default(),
                    now: copy.identity().words(),
                }
                .into()),
            }
        };
        started.into_iter().map(same).collect()
    }

    /// Writes a candidate as a model, as it is done for a program that opens models itself.
    ///
    /// # Errors
    /// A recipe that cannot be merged, a directory that cannot be written.
    pub fn materialize(&self, recipe: &Recipe, out: &Path) -> Result<(), models::Error> {
        materialize(&self.parents, recipe, out)
    }

    /// The user's own program as evaluator, with its log and its models in a directory.
    pub fn external(&self, command: &space::Command, dir: &Path) -> External {
        // A program may work in a directory of its own.
        let candidates = std::path::absolute(dir.join("candidates")).unwrap_or_else(|_| dir.join("candidates"));
        // A process that was killed leaves those behind that it had out, and not all are asked again.
        let _ = std::fs::remove_dir_all(&candidates);
        let parents = Arc::clone(&self.parents);
        let delivery = match (command.materialize, command.serve) {
            (true, _) => Delivery::Directory(
                candidates,
                Arc::new(move |recipe, out| materialize(&parents, recipe, out).map_err(unwritten)),
            ),
            (_, true) => {
                let (runtime, now_ms) = (self.runtime.clone(), Arc::clone(&self.host.now_ms));
                Delivery::Endpoint(Arc::new(move |recipe, id| {
                    serve((recipe, id), &parents, &runtime, now_ms())
                }))
            }
            _ => Delivery::Nothing,
        };
        External::new(command.clone(), &self.space.models, &dir.join("command.log"), delivery)
    }
}

/// Merges a candidate in memory, and has it answer on this machine to whoever knows its key.
fn serve((recipe, id): (&Recipe, &str), parents: &Parents, runtime: &Runtime, now_ms: u64) -> Result<Served, Unscored> {
    let plan = Plan::new(recipe, parents)?;
    let engine = models::engine_of(&plan, parents, runtime).map_err(unwritten)?;
    let key = format!("{:032x}", rand::random::<u128>());
    let server = Server::new(
        engine,
        serve::Settings {
            name: id.into(),
            key: Some(key.clone()),
            created: now_ms / 1000,
        },
    );
    let standing = server.stand().map_err(Unscored::machine)?;
    Ok(Served {
        endpoint: Endpoint {
            base_url: standing.base_url(),
            api_key: key,
            model: id.into(),
        },
        standing: Box::new(standing),
    })
}

/// Writes a candidate as a model, for a program that opens models itself.
fn materialize(parents: &Parents, recipe: &Recipe, out: &Path) -> Result<(), models::Error> {
    let plan = Plan::new(recipe, parents)?;
    let mut writer = Writer::replace(out, SHARD_SIZE_BYTES)?;
    models::write(&mut writer, &plan, parents, &mut |_| {})?;
    Ok(writer.finish()?)
}

/// Why a merged model was not written or served: of what the merge itself refuses, the recipe is to blame, of all else the
/// machine.
fn unwritten(e: models::Error) -> Unscored {
    match e {
        models::Error::Merge(e) => e.into(),
        models::Error::Model(e) => e.into(),
        e => Unscored::machine(e),
    }
}
