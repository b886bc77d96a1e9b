//! What the words mean that several commands take: where a model runs, how it is spoken to, which questions.

use std::path::Path;

use anyhow::{Context, Result};

use super::environment;
use crate::{
    checkpoint::parse_size,
    cli::{ChatArgs, EngineArgs, SamplingArgs},
    eval::{Chat, Split},
    model::{Engine, Sampling},
    models::{Opened, Runtime, RuntimeOptions},
    session::{self, Child},
    store,
};

/// The split of a `--split`.
pub fn split(name: &str, known: &[Split]) -> Result<Split> {
    Split::from_name(name).with_context(|| {
        let known: Vec<&str> = known.iter().map(|split| split.name()).collect();
        format!("--split {name}: write one of {}", known.join(", "))
    })
}

/// Where and how models are to run.
pub fn runtime_options(args: &EngineArgs) -> Result<RuntimeOptions> {
    Ok(RuntimeOptions {
        device: args.device.parse()?,
        dtype: args.dtype,
        kv_memory_bytes: args
            .kv_memory
            .as_deref()
            .map(|size| parse_size(size).context("--kv-memory"))
            .transpose()?,
        held_bytes: None,
    })
}

/// Opens one device.
pub fn runtime(args: &EngineArgs) -> Result<Runtime> {
    Ok(Runtime::new(&runtime_options(args)?)?.alone()?)
}

/// Opens what a MODEL word means, on this machine.
pub fn open(model: &str) -> Result<Opened> {
    Ok(Opened::open(model, &environment::hub_options())?)
}

/// How a model is to be spoken to; `None`: in plain text.
pub fn chat(args: &ChatArgs) -> Option<Chat> {
    args.apply_chat_template.then(|| Chat {
        system: args.system_instruction.clone(),
        ..Chat::default()
    })
}

/// How tokens are to be drawn for one of several prompts, each of which draws for itself; `None`: the likeliest.
pub fn sampling(args: &SamplingArgs, prompt: usize) -> Result<Option<Sampling>> {
    let given = args.temperature.is_some() || args.top_k.is_some() || args.top_p.is_some() || args.min_p.is_some();
    if !given {
        return Ok(None);
    }
    let usual = Sampling::default();
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(usual.temperature),
        top_k: args.top_k.unwrap_or(usual.top_k),
        top_p: args.top_p.unwrap_or(usual.top_p),
        min_p: args.min_p.unwrap_or(usual.min_p),
        seed: args.seed.wrapping_add(prompt as u64),
    };
    sampling.checked().map_err(|e| anyhow::anyhow!("--{e}"))
}

/// A model that can be talked to, and what people call it.
pub struct Talker {
    pub name: String,
    pub engine: Engine,
}

/// The child of a run, if the word names one.
pub fn child(word: &str) -> Result<Option<Child>> {
    match Child::find(Path::new(word), "best") {
        Err(session::Error::Store(store::Error::NoRun { .. })) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Opens a MODEL word, or a run's child.
pub fn talker(word: &str, args: &EngineArgs) -> Result<Talker> {
    match child(word)? {
        Some(child) => talking_child(&child, args),
        None => talking_model(word, args),
    }
}

pub fn talking_child(child: &Child, args: &EngineArgs) -> Result<Talker> {
    Ok(Talker {
        name: child.run_name().to_owned(),
        engine: child.engine(&runtime(args)?, &environment::host())?,
    })
}

/// Called as its directory is, or as its file is without what stands behind the dot.
pub fn talking_model(word: &str, args: &EngineArgs) -> Result<Talker> {
    let path = Path::new(word);
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    Ok(Talker {
        name: name.map_or(word.into(), |name| name.to_string_lossy().into_owned()),
        engine: engine(word, args)?,
    })
}

/// Opens what a MODEL word means, and makes an engine of it.
pub fn engine(model: &str, args: &EngineArgs) -> Result<Engine> {
    Ok(open(model)?.engine(&runtime(args)?)?)
}
