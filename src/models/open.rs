//! Opens what a MODEL word means, and makes an engine of it.

use std::{collections::HashMap, io, path::Path, sync::Arc};

use super::{Error, Parents, Runtime, verbatim};
use crate::{
    checkpoint::{Checkpoint, HubOptions, split_adapter},
    merge::Plan,
    model::{self, Decoder, DecoderSpec, Engine},
    recipe::{Recipe, read},
};

/// A model that can be computed tensor by tensor: a checkpoint as it is, or a recipe merged in memory.
pub struct Opened {
    pub parents: Parents,
    pub plan: Plan,
    /// Of the recipe; `None` of a checkpoint as it is, whatever its name.
    recipe_digest: Option<String>,
}

impl Opened {
    /// Opens a MODEL word: a directory, `DIR+ADAPTER`, a `.gguf` file, `hf:owner/name[@revision]`, or a recipe.
    ///
    /// # Errors
    /// There is no such model, it cannot be read, or the models of a recipe do not fit each other.
    pub fn open(word: &str, hub: &HubOptions) -> Result<Self, Error> {
        if is_recipe(word) {
            return Self::recipe(Path::new(word), hub);
        }
        let mut parents = Parents::default();
        add(&mut parents, word, &beside(word, Path::new("")), hub)?;
        let plan = Plan::new(&verbatim(word), &parents)?;
        Ok(Self {
            parents,
            plan,
            recipe_digest: None,
        })
    }

    /// Opens a recipe and all models that it names.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn recipe(file: &Path, hub: &HubOptions) -> Result<Self, Error> {
        Self::of_recipe(&read_recipe(file)?, file, hub)
    }

    /// Opens all models that a recipe names, whose paths may be meant from the file that it was read from.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_recipe(recipe: &Recipe, file: &Path, hub: &HubOptions) -> Result<Self, Error> {
        let mut parents = Parents::default();
        for model in recipe.models() {
            add(&mut parents, model, &beside(model, file), hub).map_err(|source| Error::OfRecipe {
                file: file.into(),
                word: model.into(),
                is_measured: recipe.is_measured(model),
                source: Box::new(source),
            })?;
        }
        let plan = Plan::new(recipe, &parents).map_err(|source| Error::InRecipe {
            file: file.into(),
            source: Box::new(source),
        })?;
        for warning in plan.warnings() {
            tracing::warn!("{}: {warning}", file.display());
        }
        Ok(Self {
            parents,
            plan,
            recipe_digest: Some(recipe.digest()),
        })
    }

    /// BLAKE3 of all that decides what it writes: weights and tokenizers of its models, and what a recipe makes of them. Reads
    /// all weights.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn digest(&self) -> Result<String, Error> {
        let mut hasher = blake3::Hasher::new();
        for (name, checkpoint) in self.parents.iter() {
            hasher.update(checkpoint.digest()?.as_bytes());
            hasher.update(self.parents.tokenizer_digest(name).as_bytes());
        }
        hasher.update(self.recipe_digest.as_deref().unwrap_or_default().as_bytes());
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Merges into a decoder.
    ///
    /// # Errors
    /// No decoder can be made of it, or a model cannot be read any more.
    pub fn engine(&self, runtime: &Runtime) -> Result<Engine, Error> {
        engine_of(&self.plan, &self.parents, runtime)
    }
}

/// The decoder of a plan's child, its tensors called as the child's are.
///
/// # Errors
/// A config.json that no decoder here is for.
pub fn spec_of(plan: &Plan) -> Result<DecoderSpec, model::Error> {
    Ok(DecoderSpec::from_config(plan.config())?.stored_as(tensors(plan)))
}

/// Refuses a child that is not what its config.json says.
///
/// # Errors
/// A tensor that there is not, that nobody uses, or of another size.
pub fn check_spec(plan: &Plan, spec: &DecoderSpec) -> Result<(), model::Error> {
    spec.check_tensors(tensors(plan))
}

/// As [`spec_of`], of a child that has all the tensors of its decoder, and no others.
///
/// # Errors
/// As [`spec_of`] and [`check_spec`].
pub fn checked_spec_of(plan: &Plan) -> Result<DecoderSpec, model::Error> {
    let spec = spec_of(plan)?;
    check_spec(plan, &spec)?;
    Ok(spec)
}

fn tensors(plan: &Plan) -> impl Iterator<Item = (&str, &[usize])> {
    plan.outputs().iter().map(|o| (o.name.as_str(), o.shape.as_slice()))
}

/// Merges a plan of these models into a decoder.
///
/// # Errors
/// As [`Opened::engine`].
pub fn engine_of(plan: &Plan, parents: &Parents, runtime: &Runtime) -> Result<Engine, Error> {
    let tokenizer = Arc::new(parents.tokenizer(&plan.tokenizer())?);
    let spec = checked_spec_of(plan)?;
    let outputs = plan.outputs().iter().enumerate();
    let index: HashMap<&str, usize> = outputs.map(|(i, o)| (o.name.as_str(), i)).collect();
    let mut read = |name: &str| {
        let i = index.get(name).ok_or("the model has no such tensor")?;
        plan.compute(*i, parents).map_err(|e| e.to_string())
    };
    let decoder = Decoder::load(spec, runtime.device, runtime.dtype, &mut read)?;
    Ok(Engine::new(decoder, tokenizer, runtime.options))
}

/// Whether a MODEL word names a recipe.
pub fn is_recipe(word: &str) -> bool {
    let file = Path::new(word);
    file.extension().is_some_and(|e| e == "yaml" || e == "yml") && !file.is_dir()
}

/// Reads a recipe.
///
/// # Errors
/// The file cannot be read, or is no recipe; names file and line.
pub fn read_recipe(file: &Path) -> Result<Recipe, Error> {
    let text = crate::yaml::read_text(file).map_err(|source| Error::Unreadable {
        file: file.into(),
        source,
    })?;
    Ok(read::parse(file, &text)?)
}

/// Opens a MODEL word that is no recipe, and adds it under a name.
///
/// # Errors
/// There is no such model, or it cannot be read.
pub fn add(parents: &mut Parents, name: &str, word: &str, hub: &HubOptions) -> Result<(), Error> {
    if is_recipe(word) {
        return Err(Error::NotMerged { file: word.into() });
    }
    let checkpoint = Checkpoint::open_model(word, hub)?;
    Ok(parents.add(name, checkpoint)?)
}

/// A MODEL word with its parts found: a path as it stands, from the working directory; else from the file that names it (one
/// that begins with `./` or `../` is looked for there first); else, where `owner/name` is nothing of this machine,
/// `hf:owner/name`.
pub fn beside(word: &str, file: &Path) -> String {
    let folder = file.parent().unwrap_or(Path::new(""));
    let found = |part: &str| -> String {
        let joined = folder.join(part);
        match part {
            _ if part.starts_with("hf:") => part.into(),
            _ if part.starts_with('.') && joined.exists() => joined.display().to_string(),
            _ if Path::new(part).exists() => part.into(),
            _ if joined.exists() => joined.display().to_string(),
            _ if is_hub_name(part, folder) => format!("hf:{part}"),
            _ => part.into(),
        }
    };
    if folder.join(word).exists() {
        return found(word); // whatever it is called
    }
    match split_adapter(word) {
        (model, Some(adapter)) => format!("{}+{}", found(model), found(adapter)),
        (model, None) => found(model),
    }
}

/// [`beside`] with paths that mean the same from everywhere, for files that are read elsewhere.
///
/// # Errors
/// There is no working directory any more.
pub fn placed(word: &str, file: &Path) -> io::Result<String> {
    let place = |part: &str| match part.starts_with("hf:") {
        true => Ok(part.to_string()),
        false => std::path::absolute(part).map(|path| path.display().to_string()),
    };
    let found = beside(word, file);
    Ok(match split_adapter(&found) {
        _ if Path::new(&found).exists() => place(&found)?, // whatever it is called
        (model, Some(adapter)) => format!("{}+{}", place(model)?, place(adapter)?),
        (model, None) => place(model)?,
    })
}

/// `owner/name` or `owner/name@revision`, unless there is a folder `owner` here: then `name` is misspelt.
fn is_hub_name(word: &str, folder: &Path) -> bool {
    let plain = |part: &str| {
        let first = part.chars().next();
        first.is_some_and(|c| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let (repository, revision) = word.split_once('@').map_or((word, None), |(r, v)| (r, Some(v)));
    let Some((owner, name)) = repository.split_once('/') else {
        return false;
    };
    let is_file = [".gguf", ".yaml", ".yml", ".safetensors"]
        .iter()
        .any(|end| name.ends_with(end));
    let is_here = Path::new(owner).exists() || folder.join(owner).exists();
    plain(owner) && plain(name) && revision.is_none_or(|r| !r.is_empty()) && !is_file && !is_here
}

/// A MODEL word as mergekit and the Hub write it, without the `hf:` on either side of the `+`.
pub fn without_prefix(word: &str) -> String {
    let bare = |part: &str| part.strip_prefix("hf:").unwrap_or(part).to_string();
    match split_adapter(word) {
        (model, Some(adapter)) => format!("{}+{}", bare(model), bare(adapter)),
        (model, None) => bare(model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of eight recipes from the Hub none ran: they name models as the Hub does, and here only `hf:owner/name` was one.
    #[test]
    fn a_word_that_is_no_path_is_a_name_on_the_hub() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("kin/a+b")).unwrap();
        let file = tmp.path().join("r.yaml");
        let there = |path: &str| tmp.path().join(path).display().to_string();
        for (word, found) in [
            ("owner/name", "hf:owner/name".to_string()),
            ("owner/name@main", "hf:owner/name@main".into()),
            ("owner/name+other/lora", "hf:owner/name+hf:other/lora".into()),
            ("hf:owner/name", "hf:owner/name".into()),
            ("hf:owner/name+other/lora", "hf:owner/name+hf:other/lora".into()),
            ("kin", there("kin")),
            ("kin/a+b", there("kin/a+b")),
            ("owner/name+kin", format!("hf:owner/name+{}", there("kin"))),
            // Misspelt paths stay paths.
            ("kin/c", "kin/c".into()),
            ("./owner/name", "./owner/name".into()),
            ("/owner/name", "/owner/name".into()),
            ("owner/sub/name", "owner/sub/name".into()),
            ("owner/model.gguf", "owner/model.gguf".into()),
            ("name", "name".into()),
        ] {
            assert_eq!(beside(word, &file), found, "{word}");
        }
        assert_eq!(
            without_prefix("hf:owner/name@v1+hf:other/lora"),
            "owner/name@v1+other/lora"
        );
        assert_eq!(without_prefix("/m/hf:x"), "/m/hf:x");
    }
}
