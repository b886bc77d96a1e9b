//! What computes an answer, besides the weights and the question.

use super::ENGINE_VERSION;
use crate::{
    checkpoint, eval, isa, merge, model,
    model::{DType, Device},
};

/// Everything about this program and this machine that can change a bit of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computation {
    /// Digest of the sources that compute; a version's number may stand still for months.
    pub build: String,
    /// What the kernels use of this processor.
    pub instruction_set: String,
    /// `cpu` or `cuda`; which of several equal GPUs changes nothing.
    pub device: &'static str,
    /// What weights are rounded to.
    pub dtype: DType,
    /// Who answers instead of the engine of this program, its version included.
    pub engine: Option<String>,
}

impl Computation {
    pub fn new(device: Device, dtype: DType) -> Self {
        Self {
            build: build(),
            instruction_set: model::instruction_set().into(),
            device: device.kind(),
            dtype,
            engine: None,
        }
    }

    /// Part of every cache key.
    pub fn digest(&self) -> String {
        let Self {
            build,
            instruction_set,
            device,
            dtype,
            engine,
        } = self;
        let mut text = format!("{ENGINE_VERSION}\0{build}\0{instruction_set}\0{device}\0{dtype:?}");
        if let Some(engine) = engine {
            text = format!("{text}\0{engine}");
        }
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
}

/// The sources that have a part in an answer: numbers as they are rounded, checkpoints as they are read, merges, the decoder, and
/// how it is asked.
const PARTS: [&str; 6] = [
    isa::BUILD,
    checkpoint::BUILD,
    merge::BUILD,
    model::BUILD,
    eval::BUILD,
    env!("HETEROSIS_BUILD"),
];

/// Digest of all sources that have a part in an answer.
pub fn build() -> String {
    blake3::hash(PARTS.concat().as_bytes()).to_hex()[..16].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of a GPU were handed back on the CPU, and those of another build of the engine by this one.
    #[test]
    fn answers_of_another_computation_have_another_key() {
        let this = || Computation::new(Device::Cpu, DType::F32);
        let engine = |engine: &str| Some(engine.to_string());
        let others = [
            Computation {
                device: "cuda",
                ..this()
            },
            Computation {
                dtype: DType::Bf16,
                ..this()
            },
            Computation {
                instruction_set: "another".into(),
                ..this()
            },
            Computation {
                build: "another".into(),
                ..this()
            },
            Computation {
                engine: engine("vllm (0.33.0) on cuda"),
                ..this()
            },
            Computation {
                engine: engine("vllm (0.34.0) on cuda"),
                ..this()
            },
        ];
        let mut digests: Vec<String> = others.iter().map(Computation::digest).collect();
        digests.push(this().digest());
        assert_eq!(this().digest(), this().digest());
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 7);
    }

    #[test]
    fn every_part_of_the_build_is_a_digest_of_its_own() {
        let mut parts = PARTS.to_vec();
        assert!(parts.iter().all(|part| part.len() == 32));
        parts.sort_unstable();
        parts.dedup();
        assert_eq!(parts.len(), PARTS.len());
    }
}
