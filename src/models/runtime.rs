//! Where and how a model runs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{DType, Device, EngineOptions, NoGpu};

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// By its number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        let cuda = |word: &str| word.strip_prefix("cuda:")?.parse().ok();
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => cuda(word)
                .map(Self::Cuda)
                .ok_or_else(|| Error::NoSuchDevice { word: word.into() }),
        }
    }
}

/// What somebody wants of a [`Runtime`]; what is left out is chosen.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    pub device: DeviceChoice,
    /// What weights are rounded to; f32 on the CPU and bf16 on a GPU where nothing is said.
    pub dtype: Option<DType>,
    /// Room for keys and values; 1 GiB, on a GPU what is free there, where nothing is said.
    pub kv_memory_bytes: Option<u64>,
}

/// Where and how a model runs: the device is open.
pub struct Runtime {
    pub device: Device,
    pub dtype: DType,
    pub options: EngineOptions,
}

impl Runtime {
    /// # Errors
    /// A GPU was asked for, and there is none, or a library that it takes is missing.
    pub fn new(wanted: &RuntimeOptions) -> Result<Self, Error> {
        let device = device(wanted.device)?;
        let mut options = EngineOptions::for_device(device);
        options.kv_memory_bytes = wanted.kv_memory_bytes.unwrap_or(options.kv_memory_bytes);
        let usual = if device.is_cpu() { DType::F32 } else { DType::Bf16 };
        Ok(Self {
            device,
            dtype: wanted.dtype.unwrap_or(usual),
            options,
        })
    }

    pub fn computed(&self) -> Computed {
        Computed {
            device: self.device.to_string(),
            dtype: self.dtype.name().into(),
        }
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
    /// What is wanted, and where nothing was said, the same computation again: answers in another precision are other
    /// answers.
    pub fn again(&self, wanted: &RuntimeOptions) -> RuntimeOptions {
        let mut options = wanted.clone();
        options.dtype = options.dtype.or(self.dtype.parse().ok());
        if options.device == DeviceChoice::Auto {
            let same = self.device.parse().unwrap_or_default();
            match device(same) {
                Err(e) => tracing::warn!(
                    "this was computed on {}, which cannot be used now; some answers may differ on the CPU: {e}",
                    self.device
                ),
                Ok(_) => options.device = same,
            }
        }
        options
    }
}

fn device(wanted: DeviceChoice) -> Result<Device, Error> {
    let cuda = |ordinal| {
        let device = Device::Cuda(ordinal);
        device.check().map(|()| device)
    };
    match wanted {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => Ok(cuda(ordinal)?),
        // Most machines have no GPU, and nobody asked for one; one that is there and cannot be used is worth a word.
        DeviceChoice::Auto => Ok(cuda(0).unwrap_or_else(|e| {
            if matches!(e, NoGpu::NoLibrary { .. }) {
                tracing::warn!("computing on the CPU: {e}");
            }
            Device::Cpu
        })),
    }
}
