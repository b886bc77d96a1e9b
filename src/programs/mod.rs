//! Programs of the user's beside this one: a process with its pipes, and engines that decode instead of ours.
//!
//! * `process.rs` is one running program: its process group, the shell that guards it, its lines, its last words; `log.rs`
//!   is where its other words go. The evaluators of a search's own (`fitness.command`) are such processes too.
//! * [`EngineProgram`] is an engine: weights and token ids go out, tokens and log-likelihoods come back, over the protocol of
//!   `docs/engines.md`. `protocol.rs` has every message and the bounds of what comes back, `ring.rs` the way of the weights.
//!
//! Nothing here knows of merges or of a search: a fault is told, and whose fault it was is judged elsewhere.

mod engine;
mod error;
mod log;
mod process;
pub mod protocol;
mod ring;

pub use engine::{EngineProgram, Identity, Model, Settings};
pub use error::Error;
pub use log::Log;
pub use process::{MOST_LINE, Patience, Process, Silence, Start, beginning, leave, read_line};
pub use protocol::PROTOCOL;
