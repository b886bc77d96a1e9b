//! Why a candidate has no score: its own fault, or the machine's. Whoever evaluates says which.

use std::fmt::Display;

use crate::{eval, learn, merge, model, programs, store};

/// Why a candidate has no score.
///
/// A candidate's own fault is a verdict, kept for ever: it is journalled, ranks last, and the search goes on. A fault of the
/// machine says nothing of the candidate: it is never journalled as the candidate's, the run stops, and `resume` asks again.
/// Where nobody can tell, an evaluator should say `Machine`: a night that stops is not a wrong winner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unscored {
    /// It cannot be merged, it has collapsed, its answers cannot be scored.
    #[error("{reason}")]
    Candidate { reason: String },
    /// What was to score it failed: a full disk, a file that went away, a GPU without memory, a command that is not there.
    #[error("{reason}")]
    Machine { reason: String },
    /// A program broke down over it: it died, or hung. Whose fault that is shows when others are asked, see `failures.rs`.
    #[error("{reason}")]
    Breakdown { reason: String },
}

impl Unscored {
    pub fn candidate(reason: impl Display) -> Self {
        Self::Candidate {
            reason: reason.to_string(),
        }
    }

    pub fn machine(reason: impl Display) -> Self {
        Self::Machine {
            reason: reason.to_string(),
        }
    }

    pub fn breakdown(reason: impl Display) -> Self {
        Self::Breakdown {
            reason: reason.to_string(),
        }
    }

    pub fn is_machine(&self) -> bool {
        matches!(self, Self::Machine { .. })
    }
}

impl From<merge::Error> for Unscored {
    fn from(e: merge::Error) -> Self {
        match e {
            merge::Error::Read { .. } => Self::machine(e),
            _ => Self::candidate(e),
        }
    }
}

impl From<model::Error> for Unscored {
    fn from(e: model::Error) -> Self {
        use model::Error as E;
        match e {
            E::Read { .. }
            | E::Unreadable { .. }
            | E::Device { .. }
            | E::NoGpu(_)
            | E::Gpu { .. }
            | E::GpuMemory { .. } => Self::machine(e),
            // How much there is of it is the machine's and the caller's, whatever the candidate asks for.
            E::KvMemory { .. } | E::Candle(_) => Self::machine(e),
            E::UnknownFamily { .. }
            | E::UnusedTensors { .. }
            | E::Config { .. }
            | E::UnknownTensor { .. }
            | E::TensorSize { .. }
            | E::Path { .. }
            | E::PathWithoutKeys { .. }
            | E::EmptyPrompt { .. }
            | E::TokenOutOfRange { .. }
            | E::ScoreFromZero { .. }
            | E::NothingToScore { .. }
            | E::Expectations { .. }
            | E::Positions { .. }
            | E::Tokenizer { .. }
            | E::ChatTemplate { .. }
            | E::NoChatTemplate { .. } => Self::candidate(e),
        }
    }
}

impl From<learn::Error> for Unscored {
    fn from(e: learn::Error) -> Self {
        match e {
            learn::Error::Merge(e) => e.into(),
            learn::Error::Model(e) => e.into(),
            learn::Error::NothingToMove { .. }
            | learn::Error::TooFewTexts { .. }
            | learn::Error::InputNotFinite { .. }
            | learn::Error::MixedInputs { .. }
            | learn::Error::NotFinite { .. } => Self::candidate(e),
        }
    }
}

impl From<eval::Error> for Unscored {
    fn from(e: eval::Error) -> Self {
        match e {
            eval::Error::Model(e) => e.into(),
            eval::Error::Read { .. } | eval::Error::NoEngine { .. } => Self::machine(e),
            eval::Error::EngineBroke { .. } => Self::breakdown(e),
            _ => Self::candidate(e),
        }
    }
}

impl From<programs::Error> for Unscored {
    fn from(e: programs::Error) -> Self {
        eval::Error::from(e).into()
    }
}

impl From<store::Error> for Unscored {
    fn from(e: store::Error) -> Self {
        Self::machine(e)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A full disk and a mount that broke became verdicts on candidates, for ever, and another one won.
    #[test]
    fn a_fault_of_the_machine_is_never_the_candidates() {
        let gone = || io::Error::other("the mount is gone");
        let machine: [Unscored; 5] = [
            merge::Error::Read {
                tensor: "t".into(),
                model: "m".into(),
                message: "gone".into(),
            }
            .into(),
            model::Error::Unreadable {
                file: "tokenizer.json".into(),
                source: gone(),
            }
            .into(),
            eval::Error::from(model::Error::GpuMemory { doing: "merge".into() }).into(),
            eval::Error::Read {
                file: "t.yaml".into(),
                source: gone(),
            }
            .into(),
            store::Error::Io {
                path: "journal.jsonl".into(),
                source: gone(),
            }
            .into(),
        ];
        assert!(machine.iter().all(Unscored::is_machine), "{machine:?}");
        let candidate: [Unscored; 2] = [
            merge::Error::NoTensors { model: "m".into() }.into(),
            model::Error::Path { layer: 9, layers: 4 }.into(),
        ];
        assert!(!candidate.iter().any(Unscored::is_machine), "{candidate:?}");
    }
}
