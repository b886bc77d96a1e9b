//! `heterosis completions`: what a shell and `man` know of the command line, made from its one description.

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Failure, Outcome, print};
use crate::cli::{Cli, CompletionsArgs, CompletionsFor};

pub fn completions(args: CompletionsArgs) -> Outcome {
    let shell = match args.kind {
        CompletionsFor::Man => return manual(args),
        CompletionsFor::Bash => Shell::Bash,
        CompletionsFor::Elvish => Shell::Elvish,
        CompletionsFor::Fish => Shell::Fish,
        CompletionsFor::Powershell => Shell::PowerShell,
        CompletionsFor::Zsh => Shell::Zsh,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "heterosis", &mut script);
    print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// `heterosis.1`, and a page for each command, as git has them.
fn manual(args: CompletionsArgs) -> Outcome {
    let dir = args.dir.context("name the directory of the manual pages")?;
    let write = || {
        std::fs::create_dir_all(&dir)?;
        clap_mangen::generate_to(Cli::command(), &dir)
    };
    write()
        .with_context(|| dir.display().to_string())
        .map_err(Failure::work)?;
    print(dir.join("heterosis.1").display());
    Ok(())
}
