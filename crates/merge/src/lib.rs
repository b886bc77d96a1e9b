//! Merging: pure kernels, one method a file, and the engine that walks a recipe tensor by tensor.
//!
//! A [`Plan`] is made once for a recipe: it knows every tensor of the child, and refuses what does not fit before any
//! work is done. [`Plan::compute`] then makes one tensor, from a [`TensorSource`] that the caller passes in; [`run`]
//! streams all of them. The search uses [`Resident`], which keeps facts about the parents, redoes only what changed, and merges
//! on a [`Device`] where the parents lie there.
//!
//! The numeric contract: arithmetic in f32 in recipe order, reductions over elements in f64 over fixed blocks, one
//! rounding to the nearest even value of the output's dtype, ties in a top-k by the lower index, random masks by counter.
//! So neither threads nor the order of tensors change a bit, and what is scored is what is exported. A recipe's `dtype`
//! only names the output's type: mergekit casts its inputs to it first, which costs accuracy and gains nothing.
//!
//! What this room does not do: open files, print, know of models' meaning.
//!
//! ```
//! use std::{borrow::Cow, collections::BTreeMap, sync::Arc};
//!
//! use heterosis_merge::{Plan, TensorSource, Vocabulary, recipe::{DType, read}, run};
//!
//! /// Models of one norm each, in memory.
//! struct Norms {
//!     config: serde_json::Value,
//!     weights: BTreeMap<&'static str, Vec<f32>>,
//! }
//!
//! impl TensorSource for Norms {
//!     fn tensor_names(&self, model: &str) -> Vec<String> {
//!         self.weights.get(model).map(|_| "model.norm.weight".into()).into_iter().collect()
//!     }
//!     fn shape(&self, model: &str, _tensor: &str) -> Option<Vec<usize>> {
//!         Some(vec![self.weights.get(model)?.len()])
//!     }
//!     fn dtype(&self, model: &str, _tensor: &str) -> Option<DType> {
//!         self.weights.get(model).map(|_| DType::F32)
//!     }
//!     fn config(&self, _model: &str) -> Option<&serde_json::Value> {
//!         Some(&self.config)
//!     }
//!     fn read_f32(&self, model: &str, _tensor: &str) -> Result<Cow<'_, [f32]>, String> {
//!         self.weights.get(model).map(|w| w.into()).ok_or_else(|| format!("no model {model}"))
//!     }
//!     fn model_digest(&self, model: &str) -> String {
//!         model.into()
//!     }
//!     fn vocab(&self, _model: &str) -> Option<Arc<Vocabulary>> {
//!         None
//!     }
//! }
//!
//! let models = Norms {
//!     config: serde_json::json!({ "model_type": "llama" }),
//!     weights: [("base", vec![1.0, 1.0]), ("maths", vec![1.5, 1.0]), ("spanish", vec![1.0, 3.0])].into(),
//! };
//! let recipe = read::parse(
//!     "recipe.yaml".as_ref(),
//!     "merge_method: task_arithmetic\n\
//!      base_model: base\n\
//!      models: [{model: maths, parameters: {weight: 1.0}}, {model: spanish, parameters: {weight: 0.5}}]\n",
//! )?;
//! let plan = Plan::new(&recipe, &models)?;
//! assert_eq!(plan.compute(0, &models)?, [1.0 + 0.5, 1.0 + 0.5 * 2.0]);
//!
//! // The same as a stream of bytes.
//! let mut file = Vec::new();
//! run::<heterosis_merge::Error>(&plan, &models, &mut |piece| Ok(file.extend_from_slice(piece.bytes)), &mut |_| {})?;
//! assert_eq!(file, [1.5_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod adapter_mean;
mod anatomy;
mod arcee_fusion;
mod breadcrumbs;
mod child;
mod combine;
mod dare;
mod della;
mod device;
mod fisher;
mod fused;
#[cfg(test)]
mod golden;
mod gradient;
mod iso_c;
mod iso_cts;
mod kept;
mod knots;
mod layer_swap;
mod linear;
mod magnitude;
mod measured;
mod model_stock;
mod nearswap;
mod nuslerp;
mod opcm;
mod operation;
mod parents;
mod passthrough;
mod pcb;
mod plan;
mod ram;
mod random;
mod rebasin;
pub mod recipe;
mod regmean;
mod reports;
mod resident;
mod sce;
mod slerp;
mod sparse_soup;
mod spectral;
mod stage;
mod stream;
mod svc;
mod task_arithmetic;
mod task_sum;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod ties;
mod tsv;
mod view;
mod vocabulary;
mod wudi;

use std::{borrow::Cow, sync::Arc};

pub use child::{ChildTokenizer, add_tokens, layer_count};
pub use device::{Device, KERNEL_NAMES, KERNELS, ParentTensor, kernel_options};
pub use gradient::{Knob, Slopes};
pub use measured::FISHER_KEY;
pub use parents::Refusal;
pub use plan::{Cost, OutputTensor, Plan};
pub use rebasin::{Likeness, matched_heads};
pub use regmean::Grams;
pub use resident::{Cache, Resident};
pub use spectral::{decomposition_sample, low_rank};
pub use stream::{Piece, Progress, Sink, run};
pub use view::Put;
pub use vocabulary::Vocabulary;

use crate::recipe::DType;

/// Digest of the sources that merge: children of another build are other children.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

/// Where the parents' tensors come from. Models are the words that stand in the recipe.
pub trait TensorSource: Sync {
    /// Names of a model's tensors; empty if the model is not known.
    fn tensor_names(&self, model: &str) -> Vec<String>;
    /// Dimensions of a model's tensor, outermost first; `None` of one that it does not have.
    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>>;
    /// How it is stored; the child takes it over where the recipe names no dtype. `None` of a tensor that the model does
    /// not have.
    fn dtype(&self, model: &str, tensor: &str) -> Option<DType>;
    /// The model's `config.json`.
    fn config(&self, model: &str) -> Option<&serde_json::Value>;
    /// The tensor as f32.
    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String>;
    /// The tensor's little-endian bytes, where it lies in memory as it is; saves the copy that `read_f32` makes.
    fn raw(&self, _model: &str, _tensor: &str) -> Option<(DType, &[u8])> {
        None
    }
    /// Says that a stream is done with the tensor, so that its memory may go.
    fn release(&self, _model: &str, _tensor: &str) {}
    /// A digest of the model's content: the key of its random masks.
    fn model_digest(&self, model: &str) -> String;
    /// The model's tokens and their ids, if it has a tokenizer.
    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>>;
}

/// Why a recipe cannot be merged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// A model of which no tensor is known.
    #[error("the model '{model}' has no tensors; is it open?")]
    NoTensors { model: String },
    /// A layer is missing among others.
    #[error(
        "'{model}' has the tensor '{tensor}', but nothing of layer {layer}: layers are numbered from 0 without gaps; \
         the file is damaged, or shards of it are missing"
    )]
    LayerGap {
        model: String,
        layer: usize,
        tensor: String,
    },
    /// Slices of a model that has two stacks of layers.
    #[error(
        "'{model}' is an encoder-decoder: slices stack the layers of one stack, and it has two. Merge such models side by \
         side, with `models`"
    )]
    EncoderDecoder { model: String },
    /// A file of Gram matrices that is something else.
    #[error("'{model}' holds no Gram matrices; `heterosis grams MODEL {model} --task TASK` writes them")]
    NoGrams { model: String },
    /// What was measured of one model beside another.
    #[error(
        "'{measured}' was measured of another model than '{model}', as that is now; name the one that belongs to it, or measure it \
         again with `heterosis fisher` or `heterosis grams`"
    )]
    OfAnother { measured: String, model: String },
    /// What was measured of a model in the place of one.
    #[error(
        "'{model}' holds what was measured of a model, and is none itself: it belongs beside the model that it was measured of, under \
         'fisher' or 'grams'"
    )]
    MeasuredOnly { model: String },
    /// A Gram matrix of another size than the tensor that it belongs to.
    #[error(
        "the Gram matrix '{gram}' of '{model}' has the shape {shape:?}, and '{tensor}' needs {expected:?}: it was measured \
         with another model"
    )]
    GramShape {
        gram: String,
        model: String,
        shape: Box<[usize]>,
        tensor: String,
        expected: Box<[usize]>,
    },
    /// A model whose layers only make sense at their own places.
    #[error(
        "the layers of '{model}' cannot come to other places than their own: {why}. Merge such models side by side, with \
         `models`, or with slices that leave each layer where it is"
    )]
    FixedLayers { model: String, why: &'static str },
    /// A model without its configuration, where the child needs one.
    #[error("the model '{model}' has no config.json")]
    NoConfig { model: String },
    /// The recipe's models do not suit its method, in words.
    #[error("{message}")]
    Models { message: String },
    /// A slice of layers that its model does not have.
    #[error(
        "the layer range [{}, {}) of '{model}' goes beyond its {layers} layers; layers count from 0, and the end is exclusive",
        range[0], range[1]
    )]
    LayerRange {
        model: String,
        range: [usize; 2],
        layers: usize,
    },
    /// Models of different depth, side by side.
    #[error(
        "'{model}' has {layers} layers, '{other}' has {other_layers}: models of different depth are stacked with 'slices', not merged side by side"
    )]
    Depth {
        model: String,
        layers: usize,
        other: String,
        other_layers: usize,
    },
    /// Zones of layers that are more than there are.
    #[error("the zones of 'layer_swap' take {wanted} layers, the models have {layers}")]
    SwapZones { wanted: usize, layers: usize },
    /// A tensor that one model has and another lacks.
    #[error("the tensor '{tensor}' is in '{other}', but not in '{model}'; the two models are not of one architecture")]
    Missing {
        tensor: String,
        model: String,
        other: String,
    },
    /// A tensor of two shapes.
    #[error(
        "the tensor '{tensor}' has the shape {shape:?} in '{model}' and {other_shape:?} in '{other}'; {}",
        if *rows_only {
            "the vocabularies differ: add 'tokenizer_source: base' (or 'union', or a model) so that rows are matched by token"
        } else {
            "models of different size cannot be merged weight by weight"
        }
    )]
    Shape {
        tensor: String,
        model: String,
        shape: Box<[usize]>,
        other: String,
        other_shape: Box<[usize]>,
        /// Whether it is only the number of tokens that differs.
        rows_only: bool,
    },
    /// A parameter without a value, or with one that it cannot have.
    #[error(
        "the parameter '{parameter}' of '{method}' for the tensor '{tensor}'{}: {message}",
        model.as_ref().map(|m| format!(" of '{m}'")).unwrap_or_default()
    )]
    Parameter {
        method: &'static str,
        parameter: String,
        tensor: String,
        model: Option<String>,
        message: String,
    },
    /// What a method says of the tensors themselves.
    #[error("the tensor '{tensor}' cannot be merged by '{method}': {refusal}")]
    Refused {
        tensor: String,
        method: &'static str,
        refusal: Refusal,
    },
    /// NaN or infinity in a parent.
    #[error("the tensor '{tensor}' of '{model}' holds values that are not finite, so nothing can be merged from it")]
    ParentNotFinite { tensor: String, model: String },
    /// NaN or infinity in the child, after it is rounded to its dtype.
    #[error("the merged tensor '{tensor}' holds values that are not finite in {}; the recipe's factors are too large", dtype.torch_name())]
    NotFinite { tensor: String, dtype: DType },
    /// The source could not give a tensor.
    #[error("the tensor '{tensor}' of '{model}' cannot be read: {message}")]
    Read {
        tensor: String,
        model: String,
        message: String,
    },
    /// A tokenizer is asked of a model without one.
    #[error(
        "the recipe asks for the tokenizer of '{model}', but that model has none; add a tokenizer.json or leave out 'tokenizer_source'"
    )]
    NoTokenizer { model: String },
    /// An embedding is asked of a token or model that does not have it.
    #[error("the token '{token}' cannot get its embedding as the recipe says: {message}")]
    TokenRule { token: String, message: String },
}
