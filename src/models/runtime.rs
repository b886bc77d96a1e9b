//! Where and how a model runs.

use std::str::FromStr;

use candle_core::{Device, DeviceLocation};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{EngineOptions, decoder::DType};

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this program was built for one and it answers, else the CPU.
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
    /// Room for keys and values; 1 GiB, on a GPU 8 GiB, where nothing is said.
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
    /// A GPU was asked for, and this program is not built for one, or none answers.
    pub fn new(wanted: &RuntimeOptions) -> Result<Self, Error> {
        let device = device(wanted.device)?;
        let mut options = EngineOptions::for_device(&device);
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
            device: match self.device.location() {
                DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
                _ => "cpu".into(),
            },
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
        let same = [DType::F32, DType::Bf16, DType::F16]
            .into_iter()
            .find(|dtype| dtype.name() == self.dtype);
        options.dtype = options.dtype.or(same);
        if options.device == DeviceChoice::Auto {
            match self.device.starts_with("cuda") && !candle_core::utils::cuda_is_available() {
                true => tracing::warn!(
                    "this was computed on {}, which this heterosis is built without; some answers may differ on the CPU",
                    self.device
                ),
                false => options.device = self.device.parse().unwrap_or_default(),
            }
        }
        options
    }
}

fn device(wanted: DeviceChoice) -> Result<Device, Error> {
    let built_for_cuda = candle_core::utils::cuda_is_available();
    let cuda = |ordinal: usize| match built_for_cuda {
        true => Device::new_cuda(ordinal).map_err(|source| Error::NoDevice { source }),
        false => Err(Error::NotBuiltForCuda),
    };
    match wanted {
        DeviceChoice::Auto if built_for_cuda => Ok(cuda(0).unwrap_or_else(|e| {
            tracing::warn!("computing on the CPU: {e}");
            Device::Cpu
        })),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => cuda(ordinal),
    }
}
