//! What can go wrong with models.

use std::{io, path::PathBuf};

use crate::{
    checkpoint, merge,
    model::{self, NoGpu},
    recipe,
};

/// Why a model cannot be opened, run or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Merge(#[from] merge::Error),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    #[error("cannot read the recipe {}", file.display())]
    Unreadable { file: PathBuf, source: io::Error },
    /// A recipe that names something that cannot be opened.
    #[error("{}: '{word}'{}", file.display(), if *is_measured { " is to hold what `heterosis fisher` or `heterosis grams` measured" } else { "" })]
    OfRecipe {
        file: PathBuf,
        word: String,
        is_measured: bool,
        source: Box<Error>,
    },
    /// A recipe whose models do not fit each other.
    #[error("{}", file.display())]
    InRecipe { file: PathBuf, source: Box<merge::Error> },
    #[error("{file} of the tokenizer's model is no JSON: {reason}")]
    TokenizerJson { file: String, reason: serde_json::Error },
    #[error(
        "chat_template: '{name}' is not known; write auto (the tokenizer's own), {known}, or the Jinja template itself"
    )]
    ChatTemplate { name: String, known: String },
    #[error(
        "{file} is a recipe, and here a model is read that there is: `heterosis merge {} DIR` makes one, to be named as DIR",
        shlex::try_quote(file).unwrap_or_default()
    )]
    NotMerged { file: String },
    #[error("--device {word}: write auto, cpu, cuda, cuda:N, cuda:all, or several with commas between them")]
    NoSuchDevice { word: String },
    #[error("--device {word}: a GPU stands there twice")]
    SameDevice { word: String },
    #[error("--device {word}: processors and GPUs do not compute the same digits; name devices of one kind")]
    MixedDevices { word: String },
    #[error(
        "--device {word}: this is done on one device; several take a search on tasks, answered by heterosis itself"
    )]
    SeveralDevices { word: String },
    #[error("{0}; or use --device cpu")]
    NoDevice(#[from] NoGpu),
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is a file; --overwrite replaces only a directory that heterosis wrote", out.display())]
    IsAFile { out: PathBuf },
    #[error(
        "'{model}' and '{base}' are built differently in layer {layer}: only models of one architecture and size can be aligned"
    )]
    UnlikeUnits { model: String, base: String, layer: usize },
    #[error(
        "'{model}' is a mixture of experts, whose experts may change places as neurons may: only models without experts can be \
         aligned"
    )]
    MixtureUnits { model: String },
    #[error(
        "layer {layer} of '{model}' or '{base}' holds what is not finite, and cannot be matched; a file is damaged"
    )]
    NotMatched { model: String, base: String, layer: usize },
    #[error("'{model}' adds tokens to a vocabulary; `heterosis merge` it to a directory, and align that")]
    AddsTokens { model: String },
    #[error(
        "one adapter is laid over one model: '{other}' is made of {other_base}, '{model}' of {base}; export the whole model, \
         without --adapter"
    )]
    SeveralBases {
        model: String,
        base: String,
        other: String,
        other_base: String,
    },
    #[error(
        "no adapter of the child's parents has a part in it, so there is nothing to write; export the whole model, without \
         --adapter"
    )]
    NoAdapter,
    #[error(
        "'{model}' changes {tensor} by more than a product of two matrices (a bias, a whole layer, DoRA), which no LoRA holds; export \
         the whole model, without --adapter"
    )]
    NoLora { model: String, tensor: String },
    #[error(
        "'{method}' makes no plain sum of the adapters ({tensor}); --rank N writes the adapter of rank N that is next to the child, \
         and says how near it is"
    )]
    NoSum { method: &'static str, tensor: String },
    #[error(
        "the child differs from the model in {tensor}, which no adapter changes; export the whole model, without --adapter"
    )]
    BeyondAdapters { tensor: String },
    #[error("{tensor} cannot be brought to a lower rank: {reason}")]
    NotShortened { tensor: String, reason: String },
    #[error(
        "the adapter differs from the child by {error:.1e} of what it changes, and ought to be equal; please report this"
    )]
    AdapterDiffers { error: f64 },
    #[error(
        "{}: --overwrite would destroy {name}, which {}; choose another directory, or remove this one yourself",
        out.display(), if *is_changed { "is not as heterosis wrote it" } else { "heterosis did not write" }
    )]
    Foreign {
        out: PathBuf,
        name: String,
        is_changed: bool,
    },
    #[error("{} is there already, as heterosis wrote it: --overwrite replaces it; or take another name", out.display())]
    IsOurs { out: PathBuf },
    #[error("{} holds a model ({name}), whose recipe is its own; name a file for this one, RECIPE.yaml", out.display())]
    HasARecipe { out: PathBuf, name: &'static str },
    #[error("{} is there already, and is no recipe as heterosis wrote it; take another name, or remove it yourself", file.display())]
    NoRecipeOfOurs { file: PathBuf },
}

impl Error {
    /// The error itself, where it is only passed on from another room.
    pub fn passed_on(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Checkpoint(e) => Some(e),
            Self::Merge(e) => Some(e),
            Self::Model(e) => Some(e),
            Self::Recipe(e) => Some(e),
            _ => None,
        }
    }
}
