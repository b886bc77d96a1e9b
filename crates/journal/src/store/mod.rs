//! What survives a crash: the journal, which is the truth of a run, and the cache of answers, which runs share.
//!
//! [`RunDir`] names the files of a run directory and keeps two processes from writing to one run. The journal is
//! append-only JSON lines; the cache is sled, named in `cache.rs` and nowhere else, and may vanish at any time.

mod cache;
mod journal;
mod line;
mod medium;
mod run_dir;

use std::path::PathBuf;

pub use cache::{Cache, Day, Holds, Places, clear, look, prune};
pub use journal::{Cut, Journal, Opening, Records, Span, Tail, cut_damaged, read, records};
#[cfg(any(test, feature = "testing"))]
pub use medium::crash::{CrashMedium, Left};
#[cfg(any(test, feature = "testing"))]
pub use run_dir::holder;
pub use run_dir::{Holder, RunDir, RunLock};

use line::Fault;

/// What can go wrong on disk.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// A file or directory could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The cache of answers is damaged, or another program's.
    #[error("{}: the answers of earlier runs cannot be used: {reason}", path.display())]
    Cache { path: PathBuf, reason: String },
    /// A new run was asked for where one stands.
    #[error("{} already holds a run; go on with `heterosis resume {}` or choose another --run directory", dir.display(), dir.display())]
    RunExists { dir: PathBuf },
    /// A run was asked for where none is.
    #[error("{} holds no run: there is no journal.jsonl in it", dir.display())]
    NoRun { dir: PathBuf },
    /// A directory in which no run ever began.
    #[error(
        "{} holds no run yet: the search that made it was interrupted before it began. Begin again with `heterosis search \
         SPACE.yaml --run {}`",
        dir.display(), dir.display()
    )]
    NotBegun { dir: PathBuf },
    /// Another process writes to the run.
    #[error("{} is being written by {holder}; watch it with `heterosis watch {}`", dir.display(), dir.display())]
    Busy { dir: PathBuf, holder: String },
    /// A line that is no record; its number is counted from 1.
    #[error(
        "{}:{line}: this line of the journal is damaged ({reason}). What stands before it is whole: `heterosis resume {} \
         --truncate-damaged` copies the journal, cuts it before this line and goes on from there",
        path.display(), path.parent().unwrap_or(std::path::Path::new(".")).display()
    )]
    BadLine { path: PathBuf, line: usize, reason: String },
    /// The journal was changed by another program while this one wrote to it.
    #[error(
        "{}: at byte {at} stands another line than a moment ago: something else writes to this journal; stop it, then go on with \
         `heterosis resume {}`",
        path.display(), path.parent().unwrap_or(std::path::Path::new(".")).display()
    )]
    ChangedMeanwhile { path: PathBuf, at: u64 },
    /// A journal of a schema that this build does not know.
    #[error(
        "{}:{line}: a newer heterosis wrote this (schema version {version}, this one reads up to {}); use that one, or update",
        path.display(), crate::event::SCHEMA_VERSION
    )]
    Newer { path: PathBuf, line: usize, version: u32 },
}

impl Error {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    fn line(path: &std::path::Path, line: usize, fault: Fault) -> Self {
        let path = path.to_path_buf();
        match fault {
            Fault::Damaged(reason) => Self::BadLine { path, line, reason },
            Fault::Newer(version) => Self::Newer { path, line, version },
        }
    }
}
