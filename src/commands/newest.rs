//! Which run is meant where none is named: the one that was begun last below `runs/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::say;
use crate::store::{self, RunDir};

const RUNS: &str = "runs";

/// The run that was named, else the newest below `runs/`, which is told.
///
/// # Errors
/// There is none.
pub fn or_newest(run: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(run) = run {
        return Ok(run);
    }
    let newest = newest_below(Path::new(RUNS)).with_context(|| {
        format!("there is no run below {RUNS}/ here; name the directory of one, or begin one: heterosis demo")
    })?;
    say(format_args!("{}", newest.display()));
    Ok(newest)
}

/// The same without a word, if there is one.
pub fn named_or_newest(run: Option<PathBuf>) -> Option<PathBuf> {
    run.or_else(|| newest_below(Path::new(RUNS)))
}

/// By what its journal says; of two that began in one millisecond, the one whose name comes later.
fn newest_below(dir: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let runs = paths.filter_map(|path| Some((began_ms(&path)?, path)));
    runs.max().map(|(_, path)| path)
}

/// Milliseconds since 1970; `None` of what is no run, or of one whose journal cannot be read.
fn began_ms(run: &Path) -> Option<u64> {
    let dir = RunDir::open(run).ok()?;
    let first = store::records(&dir.journal()).ok()?.next()?.ok()?;
    Some(first.time_ms)
}
