//! Opens what a MODEL word means, and makes an engine of it.

use std::{collections::HashMap, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use candle_core::{Device, DeviceLocation};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::environment;
use crate::{
    checkpoint::{self, Checkpoint},
    cli::{DTypeArg, EngineArgs},
    event::RunStarted,
    merge::Plan,
    model::{Decoder, DecoderSpec, Engine, EngineOptions, decoder},
    recipe::{Recipe, read},
    search::{Parents, verbatim},
};

/// A model that can be computed tensor by tensor: a checkpoint as it is, or a recipe merged in memory.
pub struct Opened {
    pub parents: Parents,
    pub plan: Plan,
}

impl Opened {
    /// Opens a MODEL word.
    pub fn open(word: &str) -> Result<Self> {
        if is_recipe(word) {
            return Self::recipe(Path::new(word));
        }
        let mut parents = Parents::default();
        add(&mut parents, word, word)?;
        let plan = Plan::new(&verbatim(word), &parents)?;
        Ok(Self { parents, plan })
    }

    /// Opens a recipe and all models that it names.
    pub fn recipe(file: &Path) -> Result<Self> {
        let recipe = read_recipe(file)?;
        let mut parents = Parents::default();
        for model in recipe.models() {
            add(&mut parents, model, &beside(model, file))?;
        }
        let plan = Plan::new(&recipe, &parents).with_context(|| file.display().to_string())?;
        for warning in plan.warnings() {
            tracing::warn!("{}: {warning}", file.display());
        }
        Ok(Self { parents, plan })
    }

    /// Merges into a decoder.
    pub fn engine(&self, args: &EngineArgs) -> Result<Engine> {
        self.engine_on(&Runtime::new(args)?)
    }

    /// [`Self::engine`] where the device is open already.
    pub fn engine_on(&self, runtime: &Runtime) -> Result<Engine> {
        engine_of(&self.plan, &self.parents, runtime)
    }
}

/// Merges a plan of these models into a decoder.
pub fn engine_of(plan: &Plan, parents: &Parents, runtime: &Runtime) -> Result<Engine> {
    let tokenizer = Arc::new(parents.tokenizer(&plan.tokenizer())?);
    let spec = DecoderSpec::from_config(plan.config())?;
    let outputs = plan.outputs().iter().enumerate();
    let index: HashMap<&str, usize> = outputs.map(|(i, o)| (o.name.as_str(), i)).collect();
    spec.check_tensors(&|name| index.get(name).map(|i| plan.outputs()[*i].shape.clone()))?;
    let mut read = |name: &str| {
        let i = index.get(name).ok_or("the model has no such tensor")?;
        plan.compute(*i, parents).map_err(|e| e.to_string())
    };
    let decoder = Decoder::load(spec, &runtime.device, runtime.dtype, &mut read)?;
    Ok(Engine::new(decoder, tokenizer, runtime.options))
}

pub fn is_recipe(word: &str) -> bool {
    let file = Path::new(word);
    file.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

pub fn read_recipe(file: &Path) -> Result<Recipe> {
    let text = crate::yaml::read_text(file).with_context(|| format!("cannot read the recipe {}", file.display()))?;
    Ok(read::parse(file, &text)?)
}

/// Opens a MODEL word and adds it under a name.
pub fn add(parents: &mut Parents, name: &str, word: &str) -> Result<()> {
    let checkpoint = Checkpoint::open_model(word, &environment::hub_options())?;
    parents.add(name, checkpoint)?;
    Ok(())
}

/// A path as it stands, from the working directory; else from the file that names it.
pub fn beside(word: &str, file: &Path) -> String {
    if word.starts_with("hf:") {
        return word.to_string();
    }
    let from_file = |path: &str| {
        let joined = file.parent().unwrap_or(Path::new("")).join(path);
        (!Path::new(path).exists() && joined.exists()).then(|| joined.display().to_string())
    };
    match word.split_once('+') {
        Some((model, adapter)) if !Path::new(word).exists() => {
            let place = |path: &str| from_file(path).unwrap_or_else(|| path.to_string());
            format!("{}+{}", place(model), place(adapter))
        }
        _ => from_file(word).unwrap_or_else(|| word.to_string()),
    }
}

/// Where and how answers were computed, in the words of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// `f32`, `bf16` or `f16`.
    pub dtype: String,
}

impl Computed {
    pub fn of_run(started: &RunStarted) -> Self {
        Self {
            device: started.device.clone(),
            dtype: started.dtype.clone(),
        }
    }

    /// What was typed, and where nothing was, the same computation again: answers in another precision are other answers.
    pub fn again(&self, typed: &EngineArgs) -> EngineArgs {
        let mut engine = typed.clone();
        engine.dtype = engine.dtype.or(DTypeArg::from_str(&self.dtype, false).ok());
        if engine.device == "auto" {
            match self.device.starts_with("cuda") && !candle_core::utils::cuda_is_available() {
                true => tracing::warn!(
                    "this was computed on {}, which this heterosis is built without; some answers may differ on the CPU",
                    self.device
                ),
                false => engine.device.clone_from(&self.device),
            }
        }
        engine
    }
}

/// Where and how a model runs.
pub struct Runtime {
    pub device: Device,
    pub dtype: decoder::DType,
    pub options: EngineOptions,
}

impl Runtime {
    pub fn new(args: &EngineArgs) -> Result<Self> {
        let device = device(&args.device)?;
        let mut options = EngineOptions::for_device(&device);
        if let Some(size) = &args.kv_memory {
            options.kv_memory_bytes = checkpoint::parse_size(size).context("--kv-memory")?;
        }
        let usual = if device.is_cpu() { DTypeArg::F32 } else { DTypeArg::Bf16 };
        Ok(Self {
            device,
            dtype: match args.dtype.unwrap_or(usual) {
                DTypeArg::F32 => decoder::DType::F32,
                DTypeArg::Bf16 => decoder::DType::Bf16,
                DTypeArg::F16 => decoder::DType::F16,
            },
            options,
        })
    }

    pub fn computed(&self) -> Computed {
        Computed {
            device: match self.device.location() {
                DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
                _ => "cpu".into(),
            },
            dtype: self.dtype.name().into(),
        }
    }
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
fn device(word: &str) -> Result<Device> {
    let built_for_cuda = candle_core::utils::cuda_is_available();
    let cuda = |ordinal: usize| {
        if !built_for_cuda {
            bail!(
                "this heterosis was built without CUDA; build it with `cargo build --release --features cuda`, or use \
                 --device cpu"
            );
        }
        Device::new_cuda(ordinal).context("no CUDA device answers; use --device cpu")
    };
    match word {
        "cpu" => Ok(Device::Cpu),
        "auto" if built_for_cuda => Ok(cuda(0).unwrap_or_else(|e| {
            tracing::warn!("computing on the CPU: {}", super::in_words(&e));
            Device::Cpu
        })),
        "auto" => Ok(Device::Cpu),
        "cuda" => cuda(0),
        _ => match word.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(ordinal) => cuda(ordinal),
            None => bail!("--device {word}: write auto, cpu, cuda or cuda:N"),
        },
    }
}
