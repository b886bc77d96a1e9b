//! Where and how a model runs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{DType, Device, EngineOptions, NoGpu};

/// Where to compute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// Every GPU of this machine.
    AllCuda,
    /// At least one, all of one kind; the CPU may stand there several times.
    These(Vec<Device>),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        match word {
            "auto" => return Ok(Self::Auto),
            "cuda:all" => return Ok(Self::AllCuda),
            _ => {}
        }
        let unknown = |word: &str| Error::NoSuchDevice { word: word.into() };
        let mut devices: Vec<Device> = Vec::new();
        for one in word.split(',').map(str::trim) {
            let device = match one {
                "cpu" => Device::Cpu,
                "cuda" => Device::Cuda(0),
                _ => {
                    let ordinal = one.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                    Device::Cuda(ordinal.ok_or_else(|| unknown(one))?)
                }
            };
            if !device.is_cpu() && devices.contains(&device) {
                return Err(Error::SameDevice { word: word.into() });
            }
            if devices.first().is_some_and(|first| first.kind() != device.kind()) {
                return Err(Error::MixedDevices { word: word.into() });
            }
            devices.push(device);
        }
        Ok(Self::These(devices))
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
    /// Room for parents on a GPU, beside the weights that are merged from them; what is free there, where nothing is said.
    pub held_bytes: Option<u64>,
}

/// Where and how a model runs.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub device: Device,
    /// More of its kind, for whoever can do several things at a time.
    pub others: Vec<Device>,
    pub dtype: DType,
    pub options: EngineOptions,
}

impl Runtime {
    /// # Errors
    /// A GPU was asked for, and there is none, or a library that it takes is missing.
    pub fn new(wanted: &RuntimeOptions) -> Result<Self, Error> {
        let mut devices = devices(&wanted.device)?;
        let others = devices.split_off(1);
        let device = devices[0];
        let mut options = EngineOptions::for_device(device);
        options.kv_memory_bytes = wanted.kv_memory_bytes.unwrap_or(options.kv_memory_bytes);
        options.held_bytes = wanted.held_bytes.unwrap_or(options.held_bytes);
        let usual = if device.is_cpu() { DType::F32 } else { DType::Bf16 };
        Ok(Self {
            device,
            others,
            dtype: wanted.dtype.unwrap_or(usual),
            options,
        })
    }

    /// Of one device.
    ///
    /// # Errors
    /// There are several.
    pub fn alone(self) -> Result<Self, Error> {
        match self.others.is_empty() {
            true => Ok(self),
            false => Err(Error::SeveralDevices {
                word: self.devices_in_words(),
            }),
        }
    }

    /// Every device, in words that [`DeviceChoice`] reads.
    pub fn devices_in_words(&self) -> String {
        let all = std::iter::once(&self.device).chain(&self.others);
        all.map(Device::to_string).collect::<Vec<_>>().join(",")
    }

    pub fn computed(&self) -> Computed {
        Computed {
            device: self.devices_in_words(),
            dtype: self.dtype.name().into(),
        }
    }
}

/// Where and how answers were computed, in the words of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Computed {
    /// `cpu` or `cuda:N`; several with commas between them.
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
            match devices(&same) {
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

/// At least one.
fn devices(wanted: &DeviceChoice) -> Result<Vec<Device>, Error> {
    let usable = |device: Device| device.check().map(|()| device);
    match wanted {
        DeviceChoice::These(devices) => Ok(devices.iter().copied().map(usable).collect::<Result<_, _>>()?),
        DeviceChoice::AllCuda => {
            // Refused where there is none.
            let first = usable(Device::Cuda(0))?;
            let others = (1..).map(Device::Cuda).map_while(|device| usable(device).ok());
            Ok(std::iter::once(first).chain(others).collect())
        }
        // Most machines have no GPU, and nobody asked for one; one that is there and cannot be used is worth a word.
        DeviceChoice::Auto => Ok(vec![usable(Device::Cuda(0)).unwrap_or_else(|e| {
            if matches!(e, NoGpu::NoLibrary { .. }) {
                tracing::warn!("computing on the CPU: {e}");
            }
            Device::Cpu
        })]),
    }
}
