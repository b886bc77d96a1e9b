//! The recipe: the explicit, serialisable, hashable description of one merge, in mergekit's words.
//!
//! A recipe has one or several stages; a later stage may name an earlier one as a model (mergekit-multi's shape).
//! `read.rs` turns mergekit YAML into it, `write.rs` turns it back. It describes a merge and knows nothing of tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One merge, as a chain of stages; the last one is the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub stages: Vec<Stage>,
}

/// One document of mergekit YAML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name by which later stages may refer to this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    pub merge_method: Method,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base_model: Option<String>,
    #[serde(flatten)]
    pub body: Body,
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
    /// Every tensor is rounded to this dtype when it is read (mergekit); arithmetic is f32 whatever it says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dtype: Option<DType>,
    /// Dtype of the stored result; `dtype`, else the base's own, when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub out_dtype: Option<DType>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tokenizer_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chat_template: Option<String>,
    /// Seed of the random masks (DARE, DELLA).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<u64>,
}

/// Whole models side by side, or a stack of layer slices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Body {
    Models(Vec<Source>),
    Slices(Vec<Slice>),
}

/// Consecutive output layers that come from the same layer ranges of their sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    pub sources: Vec<Source>,
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
}

/// A model (or a half-open range of its layers) with its own parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub layer_range: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Parameters::is_empty", default)]
    pub parameters: Parameters,
}

/// Parameter name → value, in a fixed order.
pub type Parameters = BTreeMap<String, ParamValue>;

/// A parameter's value: one number (or switch), a gradient over layers, or a list of filters of which the first match wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamValue {
    Bool(bool),
    Number(f64),
    Text(String),
    Gradient(Vec<f64>),
    Filtered(Vec<Filtered>),
}

/// One entry of a filter list; `filter: None` (or `*`) matches every tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filtered {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<String>,
    /// A number, switch or gradient; never a filter list again.
    pub value: Box<ParamValue>,
}

/// Storage dtypes that checkpoints and recipes know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    #[serde(rename = "float32")]
    F32,
    #[serde(rename = "bfloat16")]
    Bf16,
    #[serde(rename = "float16")]
    F16,
}

/// Every merge method, by its YAML name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Linear,
    Slerp,
    Nuslerp,
    Multislerp,
    Karcher,
    TaskArithmetic,
    Ties,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    Breadcrumbs,
    BreadcrumbsTies,
    ModelStock,
    Sce,
    Nearswap,
    ArceeFusion,
    Ram,
    RamplusTl,
    Passthrough,
    Pcb,
    Opcm,
    LayerSwap,
    Tsv,
    IsoC,
    Knots,
    SparseSoup,
    AdapterMean,
}

impl Recipe {
    /// The stage whose output is the result.
    pub fn result(&self) -> &Stage {
        self.stages.last().expect("a recipe has at least one stage")
    }

    /// Content hash of the recipe: BLAKE3, in hex, of its canonical JSON.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a recipe is plain data");
        blake3::hash(&json).to_hex().to_string()
    }
}
