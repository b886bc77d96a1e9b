//! Evaluators elsewhere: a search hands its sittings to workers on other machines, by a NATS server with JetStream, or to other
//! devices of its own.
//!
//! * [`SideBySide`] is the near case: a thread for each device, or for each copy of an engine.
//! * [`Fleet`] is what a search sees: an evaluator with many hands. `desk.rs` is its side of the network, [`Leases`] decide who
//!   does what, by the coordinator's own clock. The queue is a doorbell and never the truth: it may be lost at any time.
//! * [`work`] is a worker, [`working`] one among many of a process; `models.rs` its hands, `found.rs` where its models lie.
//! * `plan.rs` is what a run asks of whoever joins: build, kind of machine, digests; `protocol.rs` every message, with bounds.
//! * `link.rs` is the way to the server: address, credentials, version, streams.
//!
//! tokio stays in this room: outside of it everything waits in plain threads. `docs/many-machines.md` is the page for users.

mod desk;
mod error;
mod fleet;
mod found;
mod leases;
mod link;
mod models;
mod plan;
pub mod protocol;
mod side_by_side;
mod worker;

pub use desk::Now;
pub use error::{Error, Refusal};
pub use fleet::{Fleet, Identity, Opening, Post};
pub use found::Map;
pub use leases::{Act, Job, Leases, Ready, Spent, Taken};
pub use link::Options;
pub use models::{OwnEngine, OwnModels};
pub use plan::{Asked, Library, Plan, can_be_told};
pub use protocol::{Ask, Came, Here, Kind, RunId, Sign, SignState, Subjects, Tell, Told, VERSION};
pub use side_by_side::SideBySide;
pub use worker::{Ended, Hands, Order, Orders, SIGN_EVERY, Seen, Settings, work, working};
