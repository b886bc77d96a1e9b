//! Where people already look: the figures of a run as TensorBoard's files and as a run of MLflow's.
//!
//! A [`Curves`] makes points of a run's records; whoever writes them knows nothing of searches. A tracker is given all
//! records, those of before too: what it writes can be made again from a journal at any time.

mod curves;
mod error;
pub mod mlflow;
pub mod mlflow_server;
pub mod tensorboard;
mod wire;

pub use curves::{Curves, Point, parameters};
pub use error::Error;

use crate::event::{Record, run::Run};

/// Something that keeps a run's figures.
pub trait Tracker {
    /// What happened, and the run with it in it.
    ///
    /// # Errors
    /// What is kept cannot be written.
    fn see(&mut self, run: &Run, record: &Record) -> Result<(), Error>;
}
