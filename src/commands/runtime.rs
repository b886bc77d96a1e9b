//! What `--device`, `--dtype` and `--kv-memory` mean.

use anyhow::{Context, Result};

use super::environment;
use crate::{
    checkpoint::parse_size,
    cli::{DTypeArg, EngineArgs},
    model::{Engine, decoder::DType},
    models::{Opened, Runtime, RuntimeOptions},
};

/// Where and how models are to run.
pub fn runtime_options(args: &EngineArgs) -> Result<RuntimeOptions> {
    Ok(RuntimeOptions {
        device: args.device.parse()?,
        dtype: args.dtype.map(|dtype| match dtype {
            DTypeArg::F32 => DType::F32,
            DTypeArg::Bf16 => DType::Bf16,
            DTypeArg::F16 => DType::F16,
        }),
        kv_memory_bytes: args
            .kv_memory
            .as_deref()
            .map(|size| parse_size(size).context("--kv-memory"))
            .transpose()?,
    })
}

/// Opens a device.
pub fn runtime(args: &EngineArgs) -> Result<Runtime> {
    Ok(Runtime::new(&runtime_options(args)?)?)
}

/// Opens what a MODEL word means, on this machine.
pub fn open(model: &str) -> Result<Opened> {
    Ok(Opened::open(model, &environment::hub_options())?)
}

/// Opens what a MODEL word means, and makes an engine of it.
pub fn engine(model: &str, args: &EngineArgs) -> Result<Engine> {
    Ok(open(model)?.engine(&runtime(args)?)?)
}
