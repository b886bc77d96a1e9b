//! `heterosis worker`: evaluates for a search on another machine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1},
    iterator::Signals,
};

use super::{Failure, Outcome, environment, runtime, say, search::duration_ms};
use crate::{
    cli::{NatsArgs, WorkerArgs},
    programs,
    search::{Computation, ENGINE_VERSION},
    space::SILENCE,
    workers::{self, Ended, Kind, Map, Options, OwnEngine, OwnModels, Settings},
};

/// The server, and who asks.
pub fn nats_options(url: &str, server: &NatsArgs) -> Options {
    Options {
        url: url.into(),
        creds: server.nats_creds.clone(),
        nkey: server.nats_nkey.clone(),
        ca: server.nats_ca.clone(),
    }
}

pub fn worker(args: WorkerArgs) -> Outcome {
    let idle_exit = args.idle_exit.as_deref().map(time).transpose().context("--idle-exit")?;
    let grace = time(&args.grace).context("--grace")?;
    let here = std::env::current_dir().context("the directory that the worker is started in")?;
    let map = match &args.models {
        Some(file) => Map::read(file, &here)?,
        None => Map::below(&here),
    };
    let host = environment::host();
    let runtime = runtime::runtime(&args.engine)?;
    let engine = match args.program.is_empty() {
        true => None,
        false => Some(OwnEngine::start(programs::Settings {
            command: args.program,
            timeout: Duration::from_secs_f64(SILENCE),
            dtype: runtime.dtype,
            scratch: host.scratch.clone(),
            worker: None,
        })?),
    };
    let computation = Computation {
        engine: engine.as_ref().map(|engine| engine.identity().into()),
        ..Computation::new(runtime.device, runtime.dtype)
    };
    let settings = Settings {
        nats: nats_options(&args.nats, &args.server),
        name: args.name.unwrap_or_else(|| usual_name(&host.holder.host)),
        host: host.holder.host.clone(),
        device: runtime.device.to_string(),
        kind: Kind::of(&computation),
        engine_version: ENGINE_VERSION.into(),
        idle_exit,
        grace,
        sign_every: workers::SIGN_EVERY,
    };
    let who = match &engine {
        Some(engine) => format!("{} (engine {})", settings.name, engine.identity()),
        None => settings.name.clone(),
    };
    say(format_args!(
        "worker {who} on {} {}; Ctrl-C ends it, and hands its work back",
        settings.device, settings.kind.dtype
    ));
    let hands = OwnModels {
        map,
        hub: host.hub.clone(),
        runtime,
        since_start: host.since_start.clone(),
        engine,
    };
    let stop = asked_to_end().map_err(Failure::work)?;
    match workers::work(settings, hands, stop, host.since_start, |line| say(line)) {
        Ok(Ended::Idle) => {
            say("nothing to do for a while; this worker ends");
            Ok(())
        }
        Ok(Ended::Asked) => Err(Failure::Interrupted),
        Err(e @ workers::Error::Broken { .. }) => Err(Failure::work(e)),
        Err(e) => Err(e.into()),
    }
}

fn time(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(duration_ms(text)?))
}

/// Counts the signals that ask for the end. SLURM sends SIGUSR1 before a job's time is up (`--signal=USR1@120`).
fn asked_to_end() -> Result<Arc<AtomicUsize>> {
    let stop = Arc::new(AtomicUsize::new(0));
    let (mut signals, times) = (Signals::new([SIGINT, SIGTERM, SIGUSR1])?, stop.clone());
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if times.fetch_add(1, Ordering::Relaxed) == 0 {
                say("ending: what is being worked on is finished or handed back · once more hands it back at once");
            }
        }
    });
    Ok(stop)
}

/// A host's name as a worker may be called, with the process's number.
fn usual_name(host: &str) -> String {
    let is_sound = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let host: String = host.chars().filter(|c| is_sound(*c)).take(40).collect();
    format!("{host}-{}", std::process::id())
}
