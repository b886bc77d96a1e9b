//! Opens what a MODEL word means, and makes an engine of it.

use std::{collections::HashMap, path::Path, sync::Arc};

use super::{Error, Parents, Runtime, verbatim};
use crate::{
    checkpoint::{Checkpoint, HubOptions},
    merge::Plan,
    model::{Decoder, DecoderSpec, Engine},
    recipe::{Recipe, read},
};

/// A model that can be computed tensor by tensor: a checkpoint as it is, or a recipe merged in memory.
pub struct Opened {
    pub parents: Parents,
    pub plan: Plan,
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
        add(&mut parents, word, word, hub)?;
        let plan = Plan::new(&verbatim(word), &parents)?;
        Ok(Self { parents, plan })
    }

    /// Opens a recipe and all models that it names.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn recipe(file: &Path, hub: &HubOptions) -> Result<Self, Error> {
        let recipe = read_recipe(file)?;
        let mut parents = Parents::default();
        for model in recipe.models() {
            add(&mut parents, model, &beside(model, file), hub)?;
        }
        let plan = Plan::new(&recipe, &parents).map_err(|source| Error::InRecipe {
            file: file.into(),
            source: Box::new(source),
        })?;
        for warning in plan.warnings() {
            tracing::warn!("{}: {warning}", file.display());
        }
        Ok(Self { parents, plan })
    }

    /// Merges into a decoder.
    ///
    /// # Errors
    /// No decoder can be made of it, or a model cannot be read any more.
    pub fn engine(&self, runtime: &Runtime) -> Result<Engine, Error> {
        engine_of(&self.plan, &self.parents, runtime)
    }
}

/// Merges a plan of these models into a decoder.
///
/// # Errors
/// As [`Opened::engine`].
pub fn engine_of(plan: &Plan, parents: &Parents, runtime: &Runtime) -> Result<Engine, Error> {
    let tokenizer = Arc::new(parents.tokenizer(&plan.tokenizer())?);
    let spec = DecoderSpec::from_config(plan.config())?;
    let outputs = plan.outputs().iter().enumerate();
    let index: HashMap<&str, usize> = outputs.map(|(i, o)| (o.name.as_str(), i)).collect();
    spec.check_tensors(plan.outputs().iter().map(|o| (o.name.as_str(), o.shape.as_slice())))?;
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
    file.extension().is_some_and(|e| e == "yaml" || e == "yml")
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
    let checkpoint = Checkpoint::open_model(word, hub)?;
    Ok(parents.add(name, checkpoint)?)
}

/// A path as it stands, from the working directory; else from the file that names it.
pub fn beside(word: &str, file: &Path) -> String {
    if word.starts_with("hf:") {
        return word.to_string();
    }
    let from_file = |path: &str| {
        let joined = file.parent().unwrap_or(Path::new("")).join(path);
        (!Path::new(path).exists() && joined.exists()).then(|| joined.display().to_string())
    };
    match word.split_once('+') {
        Some((model, adapter)) if !Path::new(word).exists() => {
            let place = |path: &str| from_file(path).unwrap_or_else(|| path.to_string());
            format!("{}+{}", place(model), place(adapter))
        }
        _ => from_file(word).unwrap_or_else(|| word.to_string()),
    }
}
