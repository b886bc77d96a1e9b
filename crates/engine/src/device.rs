//! Where a model is computed.

use std::{fmt, path::PathBuf, sync::OnceLock};

/// A place to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, on all of its cores.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
}

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum NoGpu {
    /// The feature `cuda` is off.
    #[error("this program was built without CUDA (`--no-default-features`); build it with the feature `cuda`")]
    NotBuilt,
    /// No driver is loaded, or it does not answer.
    #[error("no NVIDIA driver answers ({reason})")]
    NoDriver { reason: String },
    /// A number beyond those of the machine's GPUs.
    #[error("there is no GPU with the number {ordinal}; the driver counts {count}")]
    NoDevice { ordinal: usize, count: usize },
    /// cuBLAS or NVRTC, which come apart from the driver.
    #[error(
        "the driver is there, but {library} is not. It comes with the CUDA toolkit, or without one as a Python package \
         ({package}); name its folder in LD_LIBRARY_PATH"
    )]
    NoLibrary {
        library: &'static str,
        package: &'static str,
    },
}

impl Device {
    /// Whether nothing has to be copied to a GPU.
    pub fn is_cpu(self) -> bool {
        self == Device::Cpu
    }

    /// `cpu` or `cuda`; which of several equal GPUs changes no answer.
    pub fn kind(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
        }
    }

    /// Whether it can be used here; nothing is opened. A program that was built for GPUs runs where there is none.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(self) -> Result<(), NoGpu> {
        match self {
            Device::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => super::cuda::check(ordinal),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(NoGpu::NotBuilt),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

static KERNELS: OnceLock<PathBuf> = OnceLock::new();

/// Keeps compiled GPU kernels in this folder, so that the next program that needs the same ones need not compile them. Only the
/// first call counts; without one they are compiled each time.
pub fn keep_kernels_in(folder: PathBuf) {
    let _ = KERNELS.set(folder);
}

#[cfg(feature = "cuda")]
pub(super) fn kernels_folder() -> Option<&'static std::path::Path> {
    KERNELS.get().map(PathBuf::as_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_the_name_that_it_is_asked_for_by() {
        assert_eq!(
            (Device::Cpu.to_string(), Device::Cuda(3).to_string()),
            ("cpu".into(), "cuda:3".into())
        );
        assert_eq!((Device::Cpu.kind(), Device::Cuda(3).kind()), ("cpu", "cuda"));
        assert_eq!(Device::Cpu.check(), Ok(()));
    }

    /// A program that was built for GPUs did not start, or ended in a panic, where there is no driver.
    #[test]
    fn a_gpu_that_is_not_there_is_told_in_words() {
        if std::env::var_os("HETEROSIS_TEST_DEVICE").is_none() {
            let Err(e) = Device::Cuda(99).check() else {
                panic!("a hundredth GPU");
            };
            assert!(!e.to_string().is_empty());
        }
    }
}
