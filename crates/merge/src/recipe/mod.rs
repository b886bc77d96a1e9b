//! The recipe: the explicit, serialisable, hashable description of one merge, in mergekit's words.
//!
//! A recipe has one or several stages; a later stage may name an earlier one as a model (mergekit-multi's shape).
//! `read.rs` turns mergekit YAML into it, `write.rs` turns it back, `method.rs` is the table of methods and their
//! parameters, `parameter.rs` says which value a tensor gets. It describes a merge and knows nothing of tensors.

mod method;
mod parameter;
pub mod read;
pub mod write;

use std::collections::BTreeMap;

pub use heterosis_isa::DType;
pub use method::{BaseRule, DefaultValue, Kind, Method, MethodInfo, ParameterInfo, Scope, methods};
pub use parameter::{Place, evaluate, spoken};

use serde::{Deserialize, Serialize};

/// One merge, as a chain of stages; the last one is the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// At least one; a later one may name an earlier one as a model.
    pub stages: Vec<Stage>,
}

/// One document of mergekit YAML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name by which later stages may refer to this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// What is done with the models.
    pub merge_method: Method,
    /// Task vectors are differences from this one; the child takes its config and tokenizer where nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_model: Option<String>,
    /// What is merged, and in which shape.
    #[serde(flatten)]
    pub body: Body,
    /// What stands beside a language model in a checkpoint with other senses and is not merged as `body` says, by mergekit's
    /// words for it ([`MODULES`]); a module that is missing here comes from the donor. Empty: all is merged as `body` says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub modules: BTreeMap<String, Module>,
    /// Of the whole stage; a slice's and a source's own go before them.
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
    /// Dtype of the result unless `out_dtype` says otherwise; arithmetic is f32 whatever it says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dtype: Option<DType>,
    /// Dtype of the stored result; `dtype`, else the parents' own (the wider one, where they differ), when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub out_dtype: Option<DType>,
    /// `union`, `base` or a model; absent: the donor's tokenizer, and rows are not matched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokenizer_source: Option<String>,
    /// The long form of `tokenizer_source`; never both.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokenizer: Option<Tokenizer>,
    /// `auto`, a name, or the template itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chat_template: Option<String>,
    /// Seed of the random masks (DARE, DELLA).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<u64>,
}

/// Whose vocabulary the child takes, and where single tokens get their embedding from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tokenizer {
    /// `union`, `base` or a model.
    pub source: String,
    /// By the token's text; a token that the vocabulary lacks is added.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tokens: BTreeMap<String, TokenRule>,
    /// The embeddings are padded to a multiple of so many rows, with the mean of the others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pad_to_multiple_of: Option<usize>,
}

/// Where one token of the child gets its embedding from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRule {
    /// Absent: the only model that has the token, else the base, else the mean of those that have it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<TokenSource>,
    /// Replace the embedding also in models that have the token.
    #[serde(default)]
    pub force: bool,
}

/// The donor of one embedding row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The same token in this model.
    Model(String),
    /// Another token of a model, by its text.
    ModelToken {
        /// Whose token.
        model: String,
        /// Its text.
        token: String,
    },
    /// Another token of a model, by its id.
    ModelTokenId {
        /// Whose token.
        model: String,
        /// Its row in that model's embeddings.
        token_id: u32,
    },
    /// Zeros.
    Zero,
}

/// Whole models side by side, or a stack of layer slices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    /// Of one depth, layer by layer.
    Models(Vec<Source>),
    /// One on top of the other.
    Slices(Vec<Slice>),
}

/// The modules of a model with other senses besides its `text_decoder`, in mergekit's words.
pub const MODULES: [&str; 2] = ["vision_tower", "multi_modal_projector"];

/// Which of [`MODULES`] a tensor of a model with other senses belongs to; `None`: its language model.
pub fn module_of(name: &str) -> Option<&'static str> {
    const PROJECTORS: [&str; 6] = [
        "multi_modal_projector.",
        "visual.merger.",
        "visual.deepstack_merger_list.",
        "connector.",
        "embed_vision.",
        "image_newline",
    ];
    const TOWERS: [&str; 4] = ["vision_tower.", "visual.", "vision_model.", "vision_embedder."];
    let inner = name.strip_prefix("model.").unwrap_or(name);
    let begins = |words: &[&str]| words.iter().any(|word| inner.starts_with(word));
    let [tower, projector] = MODULES;
    // Some projectors stand within their tower.
    match (begins(&PROJECTORS), begins(&TOWERS)) {
        (true, _) => Some(projector),
        (false, true) => Some(tower),
        (false, false) => None,
    }
}

/// A module of a model, by whole models side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// One model alone lends its own as it is, where nothing more than a weight of 1 is said of it, or the method needs two.
    pub models: Vec<Source>,
    /// All that hold in the module, those of the whole recipe among them.
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
}

/// Consecutive output layers that come from the same layer ranges of their sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The same number of layers of each; merged side by side within the slice.
    pub sources: Vec<Source>,
    /// Base of this slice, where it differs from the stage's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_model: Option<String>,
    /// Of this slice; a source's own go before them.
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
}

/// A model (or a half-open range of its layers) with its own parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// A model's word, or the name of an earlier stage.
    pub model: String,
    /// `[first, end)`, counted from 0; absent in whole models, which give all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub layer_range: Option<[usize; 2]>,
    /// The model's diagonal Fisher information, in the shape of a model: for [`Method::Fisher`] only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fisher: Option<String>,
    /// The Gram matrices of what the model's linear maps read: for [`Method::Regmean`] only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grams: Option<String>,
    /// Of this model alone.
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
}

/// What keeps a text from being a recipe.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// It is not YAML, or not a recipe's.
    #[error(transparent)]
    Yaml(#[from] heterosis_yaml::Error),
    /// A file without a document.
    #[error("{}: there is no recipe in this file; a recipe starts with 'merge_method:'", file.display())]
    Empty { file: std::path::PathBuf },
}

/// Parameter name → value, in a fixed order.
pub type Parameters = BTreeMap<String, ParamValue>;

/// A parameter's value: one number (or switch), a gradient over layers, or a list of filters of which the first match wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamValue {
    /// A switch.
    Bool(bool),
    /// The same for every tensor.
    Number(f64),
    /// A choice by its word.
    Text(String),
    /// Points over the depth of the stack, at even distances; between them the value is interpolated.
    Gradient(Vec<f64>),
    /// By the names of tensors.
    Filtered(Vec<Filtered>),
}

/// One entry of a filter list; `filter: None` (or `*`) matches every tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filtered {
    /// A part of a tensor's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// A number, switch or gradient; never a filter list again.
    pub value: Box<ParamValue>,
}

impl Recipe {
    /// The stage whose output is the result.
    pub fn result(&self) -> &Stage {
        self.stages.last().expect("a recipe has at least one stage")
    }

    /// The stages as a chain: every model word that names an earlier stage.
    pub fn stage_named(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|s| s.name.as_deref() == Some(name))
    }

    /// The models that have to be opened for this merge, each once, in the order in which the recipe names them.
    pub fn models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for stage in &self.stages {
            for model in stage.models() {
                if self.stage_named(model).is_none() && !names.contains(&model) {
                    names.push(model);
                }
            }
        }
        names
    }

    /// Whether a word is that of something measured of a model, which is read as a model is and is none.
    pub fn is_measured(&self, word: &str) -> bool {
        let mut sources = self.stages.iter().flat_map(Stage::sources);
        sources.any(|source| source.measured() == Some(word))
    }

    /// The same recipe with every model word replaced; names of stages, `union` and `base` are left alone.
    pub fn with_models(&self, word: impl Fn(&str) -> String) -> Recipe {
        let mut recipe = self.clone();
        let is_stage = |name: &str| self.stage_named(name).is_some();
        let change = |name: &mut String| {
            if !is_stage(name) {
                *name = word(name);
            }
        };
        let change_source = |source: &mut Source| {
            change(&mut source.model);
            source.fisher.iter_mut().chain(&mut source.grams).for_each(change);
        };
        for stage in &mut recipe.stages {
            stage.base_model.iter_mut().for_each(change);
            match &mut stage.body {
                Body::Models(sources) => sources.iter_mut().for_each(change_source),
                Body::Slices(slices) => {
                    for slice in slices {
                        slice.base_model.iter_mut().for_each(change);
                        slice.sources.iter_mut().for_each(change_source);
                    }
                }
            }
            let modules = stage.modules.values_mut().flat_map(|module| &mut module.models);
            modules.for_each(change_source);
            let keyword = |source: &&mut String| !matches!(source.as_str(), "union" | "base");
            stage.tokenizer_source.iter_mut().filter(keyword).for_each(change);
            if let Some(tokenizer) = &mut stage.tokenizer {
                Some(&mut tokenizer.source).into_iter().filter(keyword).for_each(change);
                for rule in tokenizer.tokens.values_mut() {
                    match &mut rule.source {
                        Some(
                            TokenSource::Model(model)
                            | TokenSource::ModelToken { model, .. }
                            | TokenSource::ModelTokenId { model, .. },
                        ) => change(model),
                        Some(TokenSource::Zero) | None => {}
                    }
                }
            }
        }
        recipe
    }

    /// Content hash of the recipe: BLAKE3, in hex, of its canonical JSON.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a recipe is plain data");
        blake3::hash(&json).to_hex().to_string()
    }
}

impl Source {
    /// What was measured of the model, where the method reads such a thing: Fisher information, or Gram matrices.
    pub fn measured(&self) -> Option<&str> {
        self.fisher.as_deref().or(self.grams.as_deref())
    }
}

impl Stage {
    /// Every source of this stage, those of slices and modules among them.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let (models, slices): (&[Source], &[Slice]) = match &self.body {
            Body::Models(models) => (models, &[]),
            Body::Slices(slices) => (&[], slices),
        };
        let in_modules = self.modules.values().flat_map(|module| &module.models);
        let in_slices = slices.iter().flat_map(|slice| &slice.sources);
        models.iter().chain(in_slices).chain(in_modules)
    }

    /// Every model that this stage names (stages and what was measured of models included), the base first, each once.
    pub fn models(&self) -> Vec<&str> {
        let mut words: Vec<&str> = self.base_model.iter().map(String::as_str).collect();
        match &self.body {
            Body::Models(models) => words.extend(models.iter().map(|m| m.model.as_str())),
            Body::Slices(slices) => {
                for slice in slices {
                    words.extend(slice.base_model.as_deref());
                    words.extend(slice.sources.iter().map(|s| s.model.as_str()));
                }
            }
        }
        let in_modules = self.modules.values().flat_map(|module| &module.models);
        words.extend(in_modules.map(|m| m.model.as_str()));
        let source = self.tokenizer_source.as_deref();
        let tokenizer = self.tokenizer.as_ref().map(|t| t.source.as_str());
        words.extend(source.or(tokenizer).filter(|s| !matches!(*s, "union" | "base")));
        words.extend(self.sources().filter_map(Source::measured));
        let mut names = Vec::new();
        for word in words {
            if !names.contains(&word) {
                names.push(word);
            }
        }
        names
    }

    /// Whose `config.json`, tokenizer and side files the child takes: the base, else the first model.
    pub fn donor(&self) -> &str {
        self.base_model.as_deref().unwrap_or_else(|| match &self.body {
            Body::Models(models) => &models[0].model,
            Body::Slices(slices) => &slices[0].sources[0].model,
        })
    }
}
