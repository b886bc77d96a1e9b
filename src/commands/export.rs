//! `heterosis export` and `verify`: a run's child as files, and whether they are still what was written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use super::{
    Failure, Outcome, environment, newest, print, print_json, replacement::replace, runtime::runtime_options, say,
};
use crate::{
    checkpoint::{GgufKind, parse_size},
    cli::{ExportArgs, GgufArg, VerifyArgs},
    event::{CandidateId, words::shell_word},
    models::{Runtime, is_recipe, marked, refuse_for_recipe},
    session::{Child, ExportOptions, ExportStep, Exported},
    store::RunDir,
};

/// The word for a run's winner.
const BEST: &str = "best";

pub fn export(args: ExportArgs) -> Outcome {
    let (run, id, out) = target(&args.target)?;
    let child = Child::find(&newest::or_newest(run)?, id)?;
    if args.recipe_only {
        return write_recipe(out, &child.mergekit_yaml(), args.overwrite);
    }
    if args.adapter {
        return write_adapter(&child, out, &args);
    }
    let options = ExportOptions {
        shard_size_bytes: parse_size(&args.shard_size).context("--shard-size")?,
        overwrite: args.overwrite,
        gguf: args.gguf.map(|kind| match kind {
            GgufArg::F16 => GgufKind::F16,
            GgufArg::Q8_0 => GgufKind::Q8_0,
        }),
        runtime: runtime_options(&args.engine)?,
    };
    let export = child.begin(out, &options, &environment::host())?;
    environment::remove_on_signal(export.partial())?;
    let (writing, gguf) = (
        environment::progress_bar(0, "writing"),
        environment::progress_bar(0, "gguf"),
    );
    let written = export.write(&mut |step| {
        let (bar, done, of) = match step {
            ExportStep::Written { done, of } => (&writing, done, of),
            ExportStep::Quantized { done, of } => (&gguf, done, of),
        };
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        if done == of {
            bar.finish_and_clear();
        }
    });
    writing.finish_and_clear();
    gguf.finish_and_clear();
    written.map_err(Failure::work)?;
    print(out.display());
    Ok(())
}

fn write_adapter(child: &Child, out: &Path, args: &ExportArgs) -> Outcome {
    let rank = args.rank.map(|rank| rank as usize);
    let begun = |partial: &Path| {
        if let Err(e) = environment::remove_on_signal(partial) {
            tracing::warn!("Ctrl-C would leave {}: {e}", partial.display());
        }
    };
    let written = child
        .write_adapter((out, args.overwrite), rank, &environment::host(), &begun)
        .map_err(Failure::work)?;
    let how = match written.is_exact {
        true => "the sum of its parents' adapters",
        false => "the nearest of that rank",
    };
    say(format_args!(
        "an adapter over {}: {} modules, rank {}, {how}; read from the disk, it differs from the child by {:.1e} of what the child \
         changes",
        written.base, written.modules, written.rank, written.error
    ));
    print(out.display());
    Ok(())
}

/// What `[DIR] [best|ID] OUT` means: which run (else the newest), which child of it, and where it goes.
fn target(words: &[String]) -> anyhow::Result<(Option<PathBuf>, &str, &Path)> {
    let is_run = |word: &str| word.contains('/') || Path::new(word).join("journal.jsonl").exists();
    let is_child =
        |word: &str| word == BEST || matches!(word.parse(), Ok(CandidateId::Search(_) | CandidateId::Learned(_)));
    match words {
        [out] if RunDir::open(Path::new(out)).is_ok() => {
            anyhow::bail!(
                "{out} is a run; where is its child to go? heterosis export {} OUT",
                shell_word(out)
            )
        }
        [child] if is_child(child) => {
            anyhow::bail!(
                "{child} is a child; where is it to go? heterosis export {child} OUT (a directory of that name: ./{child})"
            )
        }
        [out] => Ok((None, BEST, Path::new(out))),
        [run, child] if is_run(run) && is_child(child) => {
            anyhow::bail!(
                "{child} is a child; where is it to go? heterosis export {} {child} OUT (a directory of that name: ./{child})",
                shell_word(run)
            )
        }
        [run, out] if is_run(run) => Ok((Some(run.into()), BEST, Path::new(out))),
        [id, out] => Ok((None, id, Path::new(out))),
        [run, id, out] => Ok((Some(run.into()), id, Path::new(out))),
        _ => anyhow::bail!("export [DIR] [best|ID] OUT: the directory of the export is missing"),
    }
}

/// The recipe alone, to a file of that name or into a directory.
fn write_recipe(out: &Path, yaml: &str, overwrite: bool) -> Outcome {
    let file = match is_recipe(&out.display().to_string()) {
        true => out.to_owned(),
        false => out.join("mergekit_config.yml"),
    };
    refuse_for_recipe(&file, overwrite)?;
    if let Some(parent) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    replace(&file, &marked(yaml))?;
    print(file.display());
    Ok(())
}

#[derive(Serialize)]
struct Verified {
    ok: bool,
    checked: usize,
    problems: Vec<String>,
}

pub fn verify(args: VerifyArgs) -> Outcome {
    let export = Exported::open(&args.out)?;
    let mut problems = export.changed_files()?;
    let mut checked = export.files();
    if problems.is_empty() {
        let runtime = Runtime::new(&export.again(&runtime_options(&args.engine)?))?;
        problems = export.changed_answers(&runtime).map_err(Failure::work)?;
        checked += export.answers();
    }
    let verified = Verified {
        ok: problems.is_empty(),
        checked,
        problems,
    };
    if args.json {
        print_json(&verified);
    } else if verified.ok {
        print(format_args!(
            "{} files and {} answers are as they were exported",
            export.files(),
            export.answers()
        ));
    } else {
        verified.problems.iter().for_each(print);
    }
    match verified.ok {
        true => Ok(()),
        false => Err(Failure::work(anyhow::anyhow!(
            "{} is not as it was exported",
            args.out.display()
        ))),
    }
}
