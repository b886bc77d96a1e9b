//! `heterosis init` and `breed`: from two model names to a search space, and on to a child.

use std::{fs, path::Path};

use anyhow::Context;

use super::{Outcome, environment, front, print, replacement::replace, runtime::runtime_options, search};
use crate::{
    cli::{BreedArgs, EngineArgs, InitArgs, ParentArgs},
    event::words::shell_word,
    session::{self, Proposal, Wanted},
};

pub fn init(args: InitArgs) -> Outcome {
    let wanted = wanted(&args.parents, args.duration.as_deref(), args.evals)?;
    let proposal = propose(&wanted, &args.parents, &args.engine)?;
    tell(&proposal);
    write(&proposal, &args.parents)?;
    let out = shell_word(&args.parents.out.display().to_string());
    print(format_args!(
        "next:      heterosis check {out}, then heterosis search {out}"
    ));
    Ok(())
}

pub fn breed(args: BreedArgs) -> Outcome {
    let watch = args.options.watch.clone();
    front::run(&watch, || Ok(()), || breed_here(args))
}

fn breed_here(args: BreedArgs) -> Outcome {
    front::part_from_terminal(&args.options.watch);
    let options = args.options;
    let wanted = wanted(&args.parents, options.duration.as_deref(), options.evals)?;
    let proposal = propose(&wanted, &args.parents, &options.engine)?;
    tell(&proposal);
    write(&proposal, &args.parents)?;
    search::begin(proposal.space, options)
}

fn wanted(parents: &ParentArgs, duration: Option<&str>, evals: Option<u64>) -> anyhow::Result<Wanted> {
    Ok(Wanted {
        models: parents.models.clone(),
        base: parents.base.clone(),
        tasks: parents.tasks.clone(),
        duration_ms: duration.map(search::duration_ms).transpose().context("--for")?,
        evals,
    })
}

/// Before anything is opened, a file of somebody's own is found in the way.
fn propose(wanted: &Wanted, parents: &ParentArgs, engine: &EngineArgs) -> anyhow::Result<Proposal> {
    let out = &parents.out;
    if out.exists() && !parents.overwrite && !is_ours(out) {
        anyhow::bail!(
            "{} exists; --overwrite replaces it, -o names another file",
            out.display()
        );
    }
    Ok(session::propose(
        wanted,
        out,
        &runtime_options(engine)?,
        &environment::host(),
    )?)
}

/// Whether it is as `init` wrote it: nobody's work is lost with it only if it is the same text again.
fn is_ours(out: &Path) -> bool {
    fs::read_to_string(out).is_ok_and(|text| text.starts_with("# Chosen by heterosis init."))
}

fn tell(proposal: &Proposal) {
    for (word, reason) in &proposal.reasons {
        print(format_args!("{word:<10} {reason}"));
    }
}

fn write(proposal: &Proposal, parents: &ParentArgs) -> anyhow::Result<()> {
    let out = &parents.out;
    let there = fs::read_to_string(out).ok();
    if there.as_ref().is_some_and(|there| *there != proposal.yaml) && !parents.overwrite {
        anyhow::bail!(
            "{} exists and says something else; --overwrite replaces it, -o names another file",
            out.display()
        );
    }
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    replace(out, &proposal.yaml)?;
    print(format_args!("wrote      {}", out.display()));
    Ok(())
}
