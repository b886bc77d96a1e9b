//! What survives a crash: the journal, which is the truth of a run, and the cache of answers, which runs share.
//!
//! [`RunDir`] names the files of a run directory and keeps two processes from writing to one run. The journal is
//! append-only JSON lines; the cache is sled, named in `cache.rs` and nowhere else, and may vanish at any time.

mod cache;
mod journal;
mod line;
mod medium;
mod run_dir;

use std::path::{Path, PathBuf};

pub use cache::{Cache, Day, Holds, Places, clear, look, prune};
pub use journal::{Cut, Journal, Opening, Records, Span, Tail, cut_damaged, read, records};
#[cfg(any(test, feature = "testing"))]
pub use medium::crash::{CrashMedium, Left};
#[cfg(any(test, feature = "testing"))]
pub use run_dir::holder;
pub use run_dir::{Holder, RunDir, RunLock};

use crate::event::words::shell_word;
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
    #[error("{} already holds a run; go on with `heterosis resume {}` or choose another --run directory", dir.display(), quoted(dir))]
    RunExists { dir: PathBuf },
    /// A new run was asked for in a directory of something else.
    #[error(
        "{} holds {name}, which no start of a run leaves, so it is not made a run; name another --run directory, one that is \
         empty or not there yet",
        dir.display()
    )]
    NotARun { dir: PathBuf, name: String },
    /// A new run was asked for where something else has the name.
    #[error("{} is a file, or a link to nothing, and a run is a directory; name another --run directory", dir.display())]
    NoDirectory { dir: PathBuf },
    /// What a run writes would go elsewhere.
    #[error(
        "{} is a link, and what a run writes stays in its directory; put the file itself in its place, or remove the link",
        path.display()
    )]
    Link { path: PathBuf },
    /// A run was asked for where none is.
    #[error("{} holds no run: there is no journal.jsonl in it", dir.display())]
    NoRun { dir: PathBuf },
    /// A directory in which no run ever began.
    #[error(
        "{} holds no run yet: the search that made it was interrupted before it began. Begin again with `heterosis search \
         SPACE.yaml --run {dir}`, the demo with `heterosis demo --run {dir}`",
        dir.display(), dir = quoted(dir)
    )]
    NotBegun { dir: PathBuf },
    /// Another process writes to the run.
    #[error("{} is being written by {holder}; watch it with `heterosis watch {}`", dir.display(), quoted(dir))]
    Busy { dir: PathBuf, holder: String },
    /// A line that is no record; its number is counted from 1.
    #[error("{}:{line}: this line of the journal is damaged ({reason}). {}", path.display(), way_out(path, *line))]
    BadLine { path: PathBuf, line: usize, reason: String },
    /// The journal was changed by another program while this one wrote to it.
    #[error(
        "{}: at byte {at} stands another line than a moment ago: something else writes to this journal; stop it, then go on with \
         `heterosis resume {}`",
        path.display(), quoted(path.parent().unwrap_or(Path::new(".")))
    )]
    ChangedMeanwhile { path: PathBuf, at: u64 },
    /// A journal of a schema that this build does not know.
    #[error(
        "{}:{line}: a newer heterosis wrote this (schema version {version}, this one reads up to {}); use that one, or update",
        path.display(), crate::event::SCHEMA_VERSION
    )]
    Newer { path: PathBuf, line: usize, version: u32 },
    /// A line that is whole, and holds what this build does not know.
    #[error(
        "{}:{line}: another heterosis, a later one most likely, wrote this: its checksum is right, and it says what this one does not know \
         ({reason}). Use that one, or update",
        path.display()
    )]
    Unknown { path: PathBuf, line: usize, reason: String },
}

/// How a run goes on whose journal is damaged.
fn way_out(journal: &Path, line: usize) -> String {
    let dir = quoted(journal.parent().unwrap_or(Path::new(".")));
    match line {
        1 => "With it the run begins, and nothing stands before it that could be gone on with: put back a copy of the journal, or \
              search anew in another directory"
            .into(),
        _ => format!(
            "What stands before it is whole: `heterosis resume {dir} --truncate-damaged` copies the journal, cuts it before this line \
             and goes on from there"
        ),
    }
}

fn quoted(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    fn line(path: &Path, line: usize, fault: Fault) -> Self {
        let path = path.to_path_buf();
        match fault {
            Fault::Damaged(reason) => Self::BadLine { path, line, reason },
            Fault::Newer(version) => Self::Newer { path, line, version },
            Fault::Unknown(reason) => Self::Unknown { path, line, reason },
        }
    }
}
