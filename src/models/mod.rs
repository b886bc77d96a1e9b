//! The opened models, by the names that recipes use: what merges read, where tokenizers come from, and a merged model, in
//! memory or on disk.
//!
//! * `open.rs` opens what a MODEL word means; `runtime.rs` says where and how a model runs.
//! * `chat_templates.rs` has those that a recipe may name; `child.rs` writes a merged model, `adapter.rs` the child of adapters as
//!   one; `overwrite.rs` says what they may replace.
//! * `align.rs` has a model's neurons and heads in another's order.
//!
//! Nothing here knows of a search.

mod adapter;
mod align;
mod chat_templates;
mod child;
mod error;
mod open;
mod overwrite;
mod runtime;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

pub use adapter::{Wanted, Written, write_adapter};
pub use align::{Aligned, Moved};
pub use child::{write, write_from};
pub use error::Error;
pub use open::{
    Opened, add, beside, check_spec, checked_spec_of, engine_of, is_recipe, placed, read_recipe, spec_of,
    without_prefix,
};
pub use overwrite::{begin, marked, publish, refuse_for_recipe, refuse_foreign};
pub use runtime::{Computed, DeviceChoice, Runtime, RuntimeOptions};

use crate::{
    checkpoint::{self, Checkpoint},
    merge::{ChildTokenizer, TensorSource, Vocabulary, add_tokens},
    model::{self, Tokenizer, tokenizer::TokenizerFiles},
    recipe::{Body, DType, Method, Recipe, Source, Stage},
};

/// Opened checkpoints under the words that stand in a recipe.
#[derive(Default)]
pub struct Parents(BTreeMap<String, Parent>);

struct Parent {
    checkpoint: Checkpoint,
    tokenizer_digest: OnceLock<String>,
    spoken: OnceLock<Option<Spoken>>,
}

/// What is known of a model's tokenizer.
pub struct Spoken {
    pub vocabulary: Arc<Vocabulary>,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    pub has_chat_template: bool,
}

impl Spoken {
    /// How a token is written.
    pub fn text(&self, token: u32) -> Option<&str> {
        self.vocabulary
            .iter()
            .find(|(_, id)| **id == token)
            .map(|(text, _)| text.as_str())
    }
}

impl Parents {
    /// Adds a model under a name. Its digest is computed when it is asked for, which reads the whole model.
    ///
    /// # Errors
    /// None at present.
    pub fn add(&mut self, name: &str, checkpoint: Checkpoint) -> Result<(), checkpoint::Error> {
        let parent = Parent {
            checkpoint,
            tokenizer_digest: OnceLock::new(),
            spoken: OnceLock::new(),
        };
        self.0.insert(name.to_string(), parent);
        Ok(())
    }

    pub fn checkpoint(&self, name: &str) -> Option<&Checkpoint> {
        self.0.get(name).map(|p| &p.checkpoint)
    }

    /// Names and checkpoints.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Checkpoint)> {
        self.0.iter().map(|(name, p)| (name.as_str(), &p.checkpoint))
    }

    /// BLAKE3 of what a model's texts go through on their way to tokens and back: tokenizer, chat template and generation
    /// config. Empty for a model without a tokenizer.
    pub fn tokenizer_digest(&self, name: &str) -> String {
        let Some(parent) = self.0.get(name) else {
            return String::new();
        };
        let digest = || tokenizer_files(&parent.checkpoint).map_or_else(|_| String::new(), |files| digest_of(&files));
        parent.tokenizer_digest.get_or_init(digest).clone()
    }

    /// The tokens that end a text of the child: those of the model whose tokenizer it takes, and those that end a text of any
    /// model that it is made of, as far as its own vocabulary has them. A child with the weights of a base and its chat model
    /// that knew the base's only would never stop (mergekit #589).
    pub fn stop_tokens(&self, child: &ChildTokenizer) -> Vec<u32> {
        let Some(donor) = self.spoken(&child.donor) else {
            return Vec::new();
        };
        let mut stops = donor.ends.clone();
        let of_donor = self.tokenizer_digest(&child.donor);
        for model in child
            .models
            .iter()
            .filter(|model| self.tokenizer_digest(model) != of_donor)
        {
            let Some(other) = self.spoken(model) else { continue };
            for text in other.ends.iter().filter_map(|end| other.text(*end)) {
                let known = self.token_of_child(child, text);
                stops.extend(known.filter(|id| !stops.contains(id)));
            }
        }
        stops
    }

    /// The id that a token has in the child's vocabulary.
    pub fn token_of_child(&self, child: &ChildTokenizer, text: &str) -> Option<u32> {
        let added = child.added.iter().find(|(token, _)| token == text).map(|(_, id)| *id);
        self.spoken(&child.donor)?.vocabulary.get(text).copied().or(added)
    }

    /// [`Self::stop_tokens`], if they are more than the donor's own files say.
    fn further_stops(&self, child: &ChildTokenizer) -> Option<Vec<u32>> {
        if child.models.iter().all(|model| *model == child.donor) {
            return None; // a model as it is, whose tokenizer need not be read for that
        }
        let own = &self.spoken(&child.donor)?.ends;
        Some(self.stop_tokens(child)).filter(|stops| stops != own)
    }

    /// What is known of a model's tokenizer; `None` of one that has none, or a broken one, which is told.
    pub fn spoken(&self, model: &str) -> Option<&Spoken> {
        let parent = self.0.get(model)?;
        let read = || {
            if let Ok(None) = parent.checkpoint.tokenizer_json() {
                return None; // a model may have none
            }
            let tokenizer = tokenizer_files(&parent.checkpoint).and_then(Tokenizer::new);
            let broken = |e: &model::Error| tracing::warn!("{model}: {e}; it counts as a model without a tokenizer");
            let tokenizer = tokenizer.inspect_err(broken).ok()?;
            Some(Spoken {
                vocabulary: Arc::new(tokenizer.vocab()),
                ends: tokenizer.eos_token_ids().to_vec(),
                has_chat_template: tokenizer.has_chat_template(),
            })
        };
        parent.spoken.get_or_init(read).as_ref()
    }

    /// The tokenizer that a child takes.
    ///
    /// # Errors
    /// The donor has no usable tokenizer.
    pub fn tokenizer(&self, child: &ChildTokenizer) -> Result<Tokenizer, model::Error> {
        Tokenizer::new(self.tokenizer_files(child)?)
    }

    /// The texts of the tokenizer that a child takes.
    ///
    /// # Errors
    /// As [`Self::tokenizer`].
    pub fn tokenizer_files(&self, child: &ChildTokenizer) -> Result<TokenizerFiles, model::Error> {
        let fail = |reason: &str| model::Error::Tokenizer {
            file: child.donor.clone(),
            reason: reason.into(),
        };
        let checkpoint = self.checkpoint(&child.donor).ok_or_else(|| fail("no such model"))?;
        let mut files = tokenizer_files(checkpoint)?;
        if !child.added.is_empty() {
            let mut json: Value = serde_json::from_slice(&files.tokenizer_json).map_err(|e| fail(&e.to_string()))?;
            add_tokens(&mut json, &child.added);
            files.tokenizer_json = json.to_string().into_bytes();
        }
        if let Some(stops) = self.further_stops(child) {
            files.generation_config = Some(with_stops(files.generation_config, &stops));
        }
        if let Some(template) =
            chat_templates::template(child.chat_template.as_deref()).map_err(|e| fail(&e.to_string()))?
        {
            files.chat_template = Some(template.into());
        }
        Ok(files)
    }
}

/// A generation config whose texts end with any of these tokens.
fn with_stops(generation_config: Option<Value>, stops: &[u32]) -> Value {
    let mut config = generation_config
        .filter(Value::is_object)
        .unwrap_or_else(|| serde_json::json!({}));
    config["eos_token_id"] = stops.into();
    config
}

fn digest_of(files: &TokenizerFiles) -> String {
    let json = |value: &Option<Value>| value.as_ref().map_or_else(String::new, Value::to_string);
    let texts = [
        json(&files.tokenizer_config),
        json(&files.generation_config),
        files.chat_template.clone().unwrap_or_default(),
    ];
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&files.tokenizer_json[..]).chain(texts.iter().map(String::as_bytes)) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// A checkpoint's tokenizer, as transformers would load it.
///
/// # Errors
/// It has none, or one that cannot be read.
pub fn tokenizer_files(checkpoint: &Checkpoint) -> Result<TokenizerFiles, model::Error> {
    let path = checkpoint.path().join("tokenizer.json");
    let fail = |reason: String| model::Error::Tokenizer {
        file: path.display().to_string(),
        reason,
    };
    let read = |name: &str| -> Result<Option<String>, model::Error> {
        let Some(file) = checkpoint.side_file(name) else {
            return Ok(None);
        };
        let text = checkpoint::read_regular_text(&file, checkpoint::TEXT_LIMIT).map_err(|source| {
            model::Error::Unreadable {
                file: file.display().to_string(),
                source,
            }
        })?;
        Ok(Some(text))
    };
    let json = |name: &str| -> Result<Option<Value>, model::Error> {
        let Some(text) = read(name)? else { return Ok(None) };
        let wrong = |reason: String| model::Error::Tokenizer {
            file: checkpoint.path().join(name).display().to_string(),
            reason,
        };
        match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => match names_tokens(value.get("eos_token_id")) {
                true => Ok(Some(value)),
                false => Err(wrong(
                    "its eos_token_id is neither a number nor a list of numbers".into(),
                )),
            },
            Ok(_) => Err(wrong("it holds something else than an object".into())),
            Err(e) => Err(wrong(e.to_string())),
        }
    };
    let tokenizer_json = checkpoint
        .tokenizer_json()
        .map_err(|e| fail(e.to_string()))?
        .ok_or_else(|| fail("it is missing; text needs a tokenizer: put the model's tokenizer.json there".into()))?;
    Ok(TokenizerFiles {
        name: path.display().to_string(),
        tokenizer_json: tokenizer_json.into_bytes(),
        tokenizer_config: json("tokenizer_config.json")?,
        generation_config: json("generation_config.json")?,
        config: Some(checkpoint.config().clone()),
        chat_template: read("chat_template.jinja")?,
    })
}

/// Whether a value is what ends a text by its number: one token, several, or nobody says.
fn names_tokens(ids: Option<&Value>) -> bool {
    match ids {
        None | Some(Value::Null | Value::Number(_)) => true,
        Some(Value::Array(ids)) => ids.iter().all(Value::is_number),
        Some(_) => false,
    }
}

/// The recipe that is a model as it is.
pub fn verbatim(model: &str) -> Recipe {
    Recipe {
        stages: vec![Stage {
            name: None,
            modules: Default::default(),
            merge_method: Method::Passthrough,
            base_model: None,
            body: Body::Models(vec![Source {
                model: model.into(),
                layer_range: None,
                fisher: None,
                grams: None,
                parameters: Default::default(),
            }]),
            parameters: Default::default(),
            dtype: None,
            out_dtype: None,
            tokenizer_source: None,
            tokenizer: None,
            chat_template: None,
            seed: None,
        }],
    }
}

impl TensorSource for Parents {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        let checkpoint = self.checkpoint(model);
        checkpoint.map_or_else(Vec::new, |c| c.tensors().map(|(name, _)| name.to_string()).collect())
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        Some(self.checkpoint(model)?.info(tensor)?.shape.clone())
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        Some(self.checkpoint(model)?.info(tensor)?.dtype)
    }

    fn config(&self, model: &str) -> Option<&Value> {
        Some(self.checkpoint(model)?.config())
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let checkpoint = self
            .checkpoint(model)
            .ok_or_else(|| format!("the model '{model}' is not open"))?;
        checkpoint.read_f32_cow(tensor).map_err(|e| e.to_string())
    }

    fn raw(&self, model: &str, tensor: &str) -> Option<(DType, &[u8])> {
        let (bytes, dtype) = self.checkpoint(model)?.raw(tensor)?;
        Some((dtype, bytes))
    }

    fn release(&self, model: &str, tensor: &str) {
        if let Some(checkpoint) = self.checkpoint(model) {
            checkpoint.release(tensor);
        }
    }

    fn model_digest(&self, model: &str) -> String {
        let digest = self.checkpoint(model).and_then(|c| c.digest().ok());
        digest.unwrap_or_default()
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        Some(self.spoken(model)?.vocabulary.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    /// A model's generation config that was a list, a directory or a pipe was as good as none, and what ends its texts was
    /// another token; of a tokenizer that was a pipe it was said that it is missing.
    #[test]
    fn what_is_no_object_or_no_file_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base");
        for entry in fs::read_dir(root).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, home.path().join(file.file_name().unwrap())).unwrap();
        }
        let told = || {
            let checkpoint = Checkpoint::open(home.path()).unwrap();
            tokenizer_files(&checkpoint)
                .err()
                .map(|e| format!("{:#}", anyhow::Error::from(e)))
        };
        assert_eq!(told(), None);
        for name in [
            "generation_config.json",
            "tokenizer_config.json",
            "tokenizer.json",
            "chat_template.jinja",
        ] {
            let file = home.path().join(name);
            let before = fs::read(&file).ok();
            let refused = |what: &str| {
                let told = told().unwrap_or_else(|| panic!("{name} is taken: {what}"));
                assert!(told.contains(name) && told.contains(what), "{name}: {told}");
                assert!(!told.contains("missing"), "{name}: {told}");
            };
            if name.ends_with("_config.json") {
                for text in ["[]", "1", "null", "\"x\""] {
                    fs::write(&file, text).unwrap();
                    refused("object");
                }
                fs::write(&file, r#"{"eos_token_id": "x"}"#).unwrap();
                refused("eos_token_id");
            }
            let _ = fs::remove_file(&file);
            fs::create_dir(&file).unwrap();
            refused("directory");
            fs::remove_dir(&file).unwrap();
            assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
            refused("pipe");
            fs::remove_file(&file).unwrap();
            if let Some(before) = before {
                fs::write(&file, before).unwrap();
            }
        }
        assert_eq!(told(), None);
    }
}
