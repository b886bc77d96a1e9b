//! Whose program a run directory may start: that of a run begun here, or one that was shown and confirmed.
//!
//! A run directory can come from anybody, and `fitness.command` (or `fitness.engine`) in it is any program at all. So `search` leaves a mark in
//! the user's own state directory, for this place and this command, and `resume` asks before it starts what has none.

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Outcome, environment};

/// The command of this run was written by whoever begins it here.
pub fn remember(dir: &Path, command: &[String]) {
    // Without a mark the user is asked; that is no reason not to search.
    if let Err(e) = mark(dir, command).and_then(|mark| leave(&mark)) {
        tracing::debug!("the run's command is not remembered: {}", super::in_words(&e));
    }
}

/// # Errors
/// The command is unknown here, and nobody said yes.
pub fn confirm(dir: &Path, command: &[String], yes: bool) -> Outcome {
    let known = mark(dir, command).is_ok_and(|mark| mark.exists());
    if known || yes || (environment::is_interactive() && asked(command)?) {
        remember(dir, command);
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "{}: this run starts a program, and was not begun here by you: {command:?}. If you trust it, repeat with --yes",
        dir.display()
    )
    .into())
}

/// Its name says the place and the command, so neither can change under it.
fn mark(dir: &Path, command: &[String]) -> Result<PathBuf> {
    let place = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let place = place.display().to_string();
    let text = serde_json::to_string(&(place, command))?;
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

fn asked(command: &[String]) -> Result<bool> {
    let mut stderr = std::io::stderr();
    // Quoted, so that nothing in it can move the cursor.
    write!(
        stderr,
        "This run starts a program, and was not begun here by you:\n  {command:?}\nStart it? [y/N] "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
