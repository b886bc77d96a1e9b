//! What can go wrong with an engine that is a program.

use std::{io, path::PathBuf};

use super::protocol::PROTOCOL;

/// Why an engine gives no answers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the engine: {reason}")]
    CannotStart { reason: String },
    #[error(
        "the engine speaks version {version} of the protocol, and this heterosis version {PROTOCOL} (docs/engines.md); take the \
         scripts of this heterosis's own 'engines' folder"
    )]
    Version { version: u64 },
    #[error("the engine '{engine}' {lacks}; {way_out}")]
    Cannot {
        engine: String,
        lacks: String,
        way_out: &'static str,
    },
    #[error(
        "the engine was '{was}', and the one that was started instead is '{now}'; answers of two engines do not compare. Put \
         back the one that it was, or begin a new run"
    )]
    Another { was: String, now: String },
    #[error("{}: weights cannot be handed over there: {source}", path.display())]
    Handing { path: PathBuf, source: io::Error },
    /// It died, or said what is no answer; a second try may go well.
    #[error("{reason}")]
    Broke { reason: String },
    /// It said nothing in time.
    #[error("{reason}")]
    Stuck { reason: String },
    #[error(
        "the engine '{engine}' finds no number for how likely a text of {tokens} tokens is: not a number, infinite, or beyond ±1e100"
    )]
    NotFinite { engine: String, tokens: usize },
}

impl Error {
    /// Whether it broke down over what it was asked; else nobody can be asked at all.
    pub fn is_breakdown(&self) -> bool {
        matches!(self, Self::Broke { .. } | Self::Stuck { .. } | Self::NotFinite { .. })
    }
}
