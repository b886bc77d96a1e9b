//! What survives a crash: the journal, which is the truth, and the cache, which can be rebuilt from it.
//!
//! [`RunDir`] names the files of a run directory and keeps two processes from writing to one run. The journal is
//! append-only JSON lines; the cache is sled, named in `cache.rs` and nowhere else.

mod cache;
mod journal;
mod run_dir;

use std::path::PathBuf;

pub use cache::Cache;
pub use journal::{Journal, Tail, read};
pub use run_dir::{RunDir, RunLock};

/// What can go wrong on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} already holds a run; go on with `heterosis resume {}` or choose another --run directory", dir.display(), dir.display())]
    RunExists { dir: PathBuf },
    #[error("{} holds no run: there is no journal.jsonl in it", dir.display())]
    NoRun { dir: PathBuf },
    #[error("{} is being written by another heterosis process; watch it with `heterosis watch {}`", dir.display(), dir.display())]
    Busy { dir: PathBuf },
    #[error("{}:{line}: this is no journal line of schema version {}: {reason}", path.display(), crate::event::SCHEMA_VERSION)]
    BadLine { path: PathBuf, line: usize, reason: String },
    #[error("{}: the cache cannot be used ({reason}); delete the folder, it is rebuilt from the journal", path.display())]
    Cache { path: PathBuf, reason: String },
}

impl Error {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
