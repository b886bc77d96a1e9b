//! What a run directory may have this machine do: of a run begun here, or after it was shown and confirmed.
//!
//! A run directory can come from anybody. `fitness.command` (or `fitness.engine`) in it is any program at all, and `search.guide` any
//! address, with any variable of the environment as its key. So `search` leaves a mark in the user's own state directory, for this
//! place and each of these, and `resume` asks before it does what has none.

use std::{
    fmt,
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Outcome, environment};
use crate::space::Space;

/// What somebody else may have written.
enum Foreign<'a> {
    Program(&'a [String]),
    Address { url: &'a str, key: Option<&'a str> },
}

impl fmt::Display for Foreign<'_> {
    /// Quoted, so that nothing in it can move the cursor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(command) => write!(f, "starts a program, {command:?}"),
            Self::Address { url, key: None } => write!(f, "tells what it finds to {url:?}"),
            Self::Address { url, key: Some(key) } => {
                write!(
                    f,
                    "tells what it finds, and the variable {key:?} of your environment, to {url:?}"
                )
            }
        }
    }
}

/// What answers or scores.
fn program(space: &Space) -> Option<Foreign<'_>> {
    space.fitness.program().map(Foreign::Program)
}

/// What a search does.
fn foreign(space: &Space) -> impl Iterator<Item = Foreign<'_>> {
    let address = space.search.guide.as_ref().and_then(|guide| {
        let (url, key) = (guide.endpoint.as_deref()?, guide.key.as_deref());
        Some(Foreign::Address { url, key })
    });
    program(space).into_iter().chain(address)
}

/// What this run does was written by whoever begins it here.
pub fn remember(dir: &Path, space: &Space) {
    foreign(space).for_each(|what| remember_one(dir, &what));
}

fn remember_one(dir: &Path, what: &Foreign<'_>) {
    // Without a mark the user is asked; that is no reason not to search.
    if let Err(e) = mark(dir, what).and_then(|mark| leave(&mark)) {
        tracing::debug!("what the run does is not remembered: {}", super::in_words(&e));
    }
}

/// Before a run is searched on.
///
/// # Errors
/// It does something that is unknown here, and nobody said yes.
pub fn confirm(dir: &Path, space: &Space, yes: bool) -> Outcome {
    confirm_each(dir, foreign(space), yes)
}

/// Before questions of a run are answered, for which no advice is asked.
///
/// # Errors
/// As [`confirm`].
pub fn confirm_program(dir: &Path, space: &Space, yes: bool) -> Outcome {
    confirm_each(dir, program(space).into_iter(), yes)
}

fn confirm_each<'a>(dir: &Path, foreign: impl Iterator<Item = Foreign<'a>>, yes: bool) -> Outcome {
    for what in foreign {
        let known = mark(dir, &what).is_ok_and(|mark| mark.exists());
        if !(known || yes || (environment::is_interactive() && asked(&what)?)) {
            return Err(anyhow::anyhow!(
                "{}: this run {what}, and was not begun here by you. If you trust it, repeat with --yes",
                dir.display()
            )
            .into());
        }
        remember_one(dir, &what);
    }
    Ok(())
}

/// Its name says the place and what is done, so neither can change under it.
fn mark(dir: &Path, what: &Foreign<'_>) -> Result<PathBuf> {
    let place = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let place = place.display().to_string();
    let text = match what {
        Foreign::Program(command) => serde_json::to_string(&(place, command))?,
        Foreign::Address { url, key } => serde_json::to_string(&(place, url, key))?,
    };
    let state = environment::state_dir().context("neither XDG_STATE_HOME nor HOME is set")?;
    Ok(state
        .join("commands")
        .join(blake3::hash(text.as_bytes()).to_hex().as_str()))
}

fn leave(mark: &Path) -> Result<()> {
    if let Some(dir) = mark.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(std::fs::write(mark, "")?)
}

fn asked(what: &Foreign<'_>) -> Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "This run {what}, and was not begun here by you.\nGo on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
