//! Writes a merged model as a directory that transformers, vLLM and llama.cpp's converter open.

use serde_json::Value;

use super::{Error, Parents, chat_templates::template, checkpoint_dtype, tokenizer_files};
use crate::{
    checkpoint::{Checkpoint, TensorSpec, Writer},
    merge::{self, ChildTokenizer, Plan, add_tokens},
};

/// Files that go along with a tokenizer, copied byte for byte.
const COPIED: [&str; 7] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "generation_config.json",
];

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
    let specs = plan.outputs().iter().map(|output| TensorSpec {
        name: output.name.clone(),
        dtype: checkpoint_dtype(output.dtype),
        shape: output.shape.clone(),
    });
    writer.declare(&specs.collect::<Vec<_>>())?;
    merge::run::<Error>(
        plan,
        parents,
        &mut |piece| Ok(writer.put_part(&piece.output.name, piece.offset, piece.bytes)?),
        &mut |p| progress(p.tensors_done),
    )?;
    writer.json("config.json", plan.config())?;
    let tokenizer = plan.tokenizer();
    if let Some(donor) = parents.checkpoint(&tokenizer.donor) {
        write_tokenizer(writer, donor, &tokenizer)?;
    }
    Ok(())
}

/// The donor's tokenizer; a merge needs none, so a donor without one gives a child without one.
fn write_tokenizer(writer: &mut Writer, donor: &Checkpoint, child: &ChildTokenizer) -> Result<(), Error> {
    match donor.side_file("tokenizer.json") {
        Some(file) if child.added.is_empty() => writer.copy("tokenizer.json", &file)?,
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
        if let Some(file) = donor.side_file(name) {
            writer.copy(name, &file)?;
        }
    }
    let template = template(child.chat_template.as_deref())?;
    match (template, donor.side_file("chat_template.jinja")) {
        (Some(text), _) => writer.text("chat_template.jinja", text)?,
        (None, Some(file)) => writer.copy("chat_template.jinja", &file)?,
        (None, None) => {}
    }
    Ok(())
}
