//! Writes a merged model as a directory that transformers, vLLM and llama.cpp's converter open.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Error, Parents, chat_templates::template, tokenizer_files, with_stops};
use crate::{
    checkpoint::{Checkpoint, TensorSpec, Writer},
    merge::{self, ChildTokenizer, Plan, TensorSource, add_tokens},
};

/// Files that go along with a tokenizer or make numbers of pictures, copied byte for byte.
const COPIED: [&str; 10] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
];

const GENERATION_CONFIG: &str = "generation_config.json";

/// Merges every tensor into the writer, with config and tokenizer files. `progress` is told how many tensors are done.
///
/// # Errors
/// The disk is full, a model cannot be read any more, or what the recipe says cannot be done to these tensors.
pub fn write(
    writer: &mut Writer,
    plan: &Plan,
    parents: &Parents,
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    write_from(writer, plan, (parents, parents), progress)
}

/// As [`write()`], with tensors from another source than the tokenizer.
///
/// # Errors
/// As [`write()`].
pub fn write_from(
    writer: &mut Writer,
    plan: &Plan,
    (source, parents): (&dyn TensorSource, &Parents),
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    let specs = plan.outputs().iter().map(|output| TensorSpec {
        name: output.name.clone(),
        dtype: output.dtype,
        shape: output.shape.clone(),
    });
    writer.declare(&specs.collect::<Vec<_>>())?;
    merge::run::<Error>(
        plan,
        source,
        &mut |piece| Ok(writer.put_part(&piece.output.name, piece.offset, piece.bytes)?),
        &mut |p| progress(p.tensors_done),
    )?;
    writer.json("config.json", plan.config())?;
    let tokenizer = plan.tokenizer();
    if let Some(donor) = parents.checkpoint(&tokenizer.donor) {
        write_tokenizer(writer, donor, &tokenizer)?;
        match parents.further_stops(&tokenizer) {
            Some(stops) => writer.json(GENERATION_CONFIG, &with_stops(generation_config(donor)?, &stops))?,
            None => copy(writer, donor, GENERATION_CONFIG)?,
        }
    }
    Ok(())
}

/// A file of the donor's, if it has it.
fn copy(writer: &mut Writer, donor: &Checkpoint, name: &str) -> Result<(), Error> {
    match donor.side_file(name) {
        Some(file) => copy_from(writer, name, &file),
        None => Ok(()),
    }
}

/// Links are followed: the Hub's cache is made of them. One that leads elsewhere puts a file into the child, and so perhaps to
/// where that is published, which nobody may have meant.
fn copy_from(writer: &mut Writer, name: &str, file: &Path) -> Result<(), Error> {
    if let Some(target) = outside(file) {
        tracing::warn!(
            "{} is a link to {}, out of the model's directory; what stands there goes into the child",
            file.display(),
            target.display()
        );
    }
    Ok(writer.copy(name, file)?)
}

/// Where a link leads, if that is not in its directory and not among the `blobs/` of the Hub's cache.
fn outside(file: &Path) -> Option<PathBuf> {
    let target = file.canonicalize().ok().filter(|_| file.is_symlink())?;
    let home = file.parent()?.canonicalize().ok()?;
    let is_blob = target.parent()?.ends_with("blobs");
    (!target.starts_with(home) && !is_blob).then_some(target)
}

fn generation_config(donor: &Checkpoint) -> Result<Option<Value>, Error> {
    let Some(text) = donor.side_text(GENERATION_CONFIG)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|reason| Error::TokenizerJson {
            file: GENERATION_CONFIG.into(),
            reason,
        })
}

/// The donor's tokenizer; a merge needs none, so a donor without one gives a child without one.
fn write_tokenizer(writer: &mut Writer, donor: &Checkpoint, child: &ChildTokenizer) -> Result<(), Error> {
    match donor.side_file("tokenizer.json") {
        Some(file) if child.added.is_empty() => copy_from(writer, "tokenizer.json", &file)?,
        None if child.added.is_empty() => match tokenizer_files(donor) {
            Ok(files) => writer.text("tokenizer.json", &String::from_utf8_lossy(&files.tokenizer_json))?,
            Err(e) => tracing::warn!("the merged model gets no tokenizer: {e}"),
        },
        _ => {
            let files = tokenizer_files(donor)?;
            let mut json: Value =
                serde_json::from_slice(&files.tokenizer_json).map_err(|reason| Error::TokenizerJson {
                    file: files.name.clone(),
                    reason,
                })?;
            add_tokens(&mut json, &child.added);
            writer.json("tokenizer.json", &json)?;
        }
    }
    for name in COPIED {
        copy(writer, donor, name)?;
    }
    let template = template(child.chat_template.as_deref())?;
    match (template, donor.side_file("chat_template.jinja")) {
        (Some(text), _) => writer.text("chat_template.jinja", text)?,
        (None, Some(file)) => copy_from(writer, "chat_template.jinja", &file)?,
        (None, None) => {}
    }
    Ok(())
}
