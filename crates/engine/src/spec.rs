//! `config.json` → [`DecoderSpec`]: everything the one forward pass needs to know about a model.
//!
//! Both dialects are read: transformers 4 (`rope_theta`, `rope_scaling`) and transformers ≥ 5 (`rope_parameters`, for each
//! layer type where they differ, and `layer_types`). A key that is missing takes the default of its family (`families`),
//! because published configs leave defaults out. Nothing here reads a tensor; `layout` says how those of the file stand.

use std::collections::HashMap;

use serde_json::Value;

use super::Error;
use super::families::{
    self, BesideMlp, Chosen, Dense, ExpertNames, Flag, Mixture, MlpWidth, Names, Only, Qkv, Scales, Shared, Stored,
    Windows,
};
use super::kernels::softplus;
use super::rope::{RopeScaling, RopeSpec};
use super::wrappers::{self, Wrapper};

pub use super::families::{Family, NormKind, QkNorm};
pub use super::mixer::{Inputs, Mixer, MixerKind};

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before attention and before the MLP, or before both at once.
    Pre,
    /// After them, on the branch (OLMo 2).
    Post,
    /// Both (Gemma 2 and 3).
    Sandwich,
}

/// What stands between an MLP's matrices; of an MLP with a gate, what is applied to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)`, Φ by its tanh approximation (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    GeluTanh,
    /// `x · Φ(x)`, Φ by the error function.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
    /// Of a gate no larger than `limit`, `gate · σ(alpha · gate) · (up + 1)`, and `up` within ±`limit` (gpt-oss).
    Clamped {
        /// Slope of the sigmoid.
        alpha: f32,
        /// The most that a gate may be.
        limit: f32,
    },
    /// With numbers that each layer has learned (Apertus).
    Xielu(Xielu),
}

/// `p · x² + beta · x` where x is positive, else `n · (exp(min(x, eps)) − 1 − x) + beta · x`; the curves p and n are kept
/// before a softplus.
///
/// **Source** Huang and Schlag, arXiv 2411.13010.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Xielu {
    /// Before its softplus, that is p.
    pub alpha_p: f32,
    /// Before its softplus, to which `beta` is added: n.
    pub alpha_n: f32,
    /// Slope at 0.
    pub beta: f32,
    /// A number just below 0, beyond which the exponential is not taken.
    pub eps: f32,
}

impl Xielu {
    /// p and n.
    pub fn curves(self) -> [f32; 2] {
        [softplus(self.alpha_p), self.beta + softplus(self.alpha_n)]
    }
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// A query sees itself and the `window - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`]; `None`: no rotation in this layer (SmolLM3).
    pub rope: Option<usize>,
    /// Whether [`DecoderSpec::experts`] stand in its MLP's place, or beside it.
    pub sparse: bool,
    /// Whether [`DecoderSpec::mixer`] stands in attention's place.
    pub recurrent: bool,
    /// Heads of keys and values; a divisor of [`DecoderSpec::heads`].
    pub kv_heads: usize,
    /// Numbers of a query, key or value.
    pub head_dim: usize,
    /// Where its keys and values come from.
    pub keys: Keys,
    /// The width of its MLP, where that is no mixture.
    pub intermediate: usize,
}

/// Where a layer's keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A product each.
    Own,
    /// One product for both.
    OneProduct,
    /// They are those of this layer, which comes before.
    Of(usize),
}

impl LayerSpec {
    /// Whether it computes keys and values.
    pub fn has_keys(&self) -> bool {
        !matches!(self.keys, Keys::Of(_))
    }
}

/// Embeddings that a token has in every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerLayer {
    /// Of a token in one layer.
    pub width: usize,
    /// Tokens that have such.
    pub vocab: usize,
}

/// The experts of a layer, and how a token is sent to some of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Of each sparse layer, the shared one left out.
    pub count: usize,
    /// How many a token goes to.
    pub per_token: usize,
    /// The width of each.
    pub width: usize,
    /// By which scores a token is sent to some of them.
    pub router: Router,
    /// Whether the weights of the chosen are made to sum to one.
    pub normalised: bool,
    /// What is added to that which they are then divided by.
    pub floor: f32,
    /// What the weights are multiplied by.
    pub scale: f32,
    /// The width of the expert that every token goes to; 0: there is none.
    pub shared: usize,
    /// Whether the shared expert is weighed by the token.
    pub shared_is_weighed: bool,
    /// Router and experts have biases.
    pub biases: bool,
    /// They stand beside the layer's one MLP, with norms and scales of these names.
    pub beside: Option<BesideMlp>,
    /// What the file calls them.
    pub names: &'static ExpertNames,
}

/// By which scores experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Router {
    /// The softmax over all.
    Softmax,
    /// The sigmoid of each, plus a correction where it is chosen; in `groups`, of which the `best` are looked into.
    Sigmoid {
        /// Groups of as many experts each; 1: all are looked into.
        groups: usize,
        /// The groups that are looked into, by the sum of their two highest scores.
        best: usize,
    },
    /// The best two, each weighed among those whose logits are within `2 · jitter` of it, relatively.
    SparseMixer {
        /// Half of the relative distance beyond which an expert is left out.
        jitter: f32,
    },
}

/// Queries are scaled by `1 + beta · ln(1 + ⌊position / original⌋)` (Ministral 3, after Llama 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryGrowth {
    /// How fast queries grow.
    pub beta: f32,
    /// Length that the model was first trained with, in tokens.
    pub original: usize,
}

impl QueryGrowth {
    /// By what the query at a position is scaled.
    pub fn at(self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + position / self.original) as f32).ln()
    }
}

/// A decoder-only transformer, as far as arithmetic can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Its row of the table, with everything that does not depend on the config.
    pub family: &'static Family,
    /// The model with other senses whose language half this is.
    pub wrapper: Option<&'static Wrapper>,
    pub(super) names: Names,
    /// Rows of the embeddings and of the head.
    pub vocab: usize,
    /// Width of the stream: `[tokens, hidden]`.
    pub hidden: usize,
    /// Width of an MLP, of layers that have no other; of sparse layers see [`Experts::width`].
    pub intermediate: usize,
    /// Heads of queries in each layer that attends.
    pub heads: usize,
    /// Heads of keys and values, of layers that have no other; a divisor of `heads`.
    pub kv_heads: usize,
    /// Numbers of a query, key or value, of layers that have no other.
    pub head_dim: usize,
    /// One for each layer, from the embeddings on.
    pub layers: Vec<LayerSpec>,
    /// Of the layers that are sparse.
    pub experts: Option<Experts>,
    /// Of the layers that do not attend.
    pub mixer: Option<Mixer>,
    /// Embeddings that go into every layer.
    pub per_layer: Option<PerLayer>,
    /// Kinds of rotation, to which [`LayerSpec::rope`] points.
    pub ropes: Vec<RopeSpec>,
    /// The longest sequence that the model was made for; with learned positions, that it can read.
    pub max_positions: usize,
    /// The head is the embeddings, transposed.
    pub tie_embeddings: bool,
    /// The head adds a bias to the logits.
    pub head_bias: bool,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Attention's last projection has a bias.
    pub o_bias: bool,
    /// An MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Attention and MLP read the same stream, and both are added to it.
    pub parallel: bool,
    /// Whether queries and keys are normalised.
    pub qk_norm: QkNorm,
    /// Queries, keys and values are held within ± this, before they are rotated.
    pub qkv_limit: Option<f32>,
    /// What the norms do.
    pub norm: NormKind,
    /// Where they stand.
    pub norm_place: NormPlace,
    /// Added to the mean square or variance under the root.
    pub norm_eps: f32,
    /// The norm multiplies by `1 + weight` (Gemma).
    pub norm_plus_one: bool,
    /// Between an MLP's matrices.
    pub activation: Activation,
    /// By which inner products of queries and keys are multiplied before the softmax; `1/√head_dim` as a rule.
    pub attention_scale: f32,
    /// `cap · tanh(x / cap)` of what goes into attention's softmax (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// Queries that grow with their position.
    pub query_growth: Option<QueryGrowth>,
    /// By which embeddings are multiplied (Gemma).
    pub embed_scale: f32,
    /// By which a branch is multiplied before it is added to the stream (Granite).
    pub residual_scale: f32,
    /// The logits are divided by this (Granite).
    pub logits_divisor: f32,
    /// `cap · tanh(x / cap)` of the logits (Gemma 2).
    pub final_softcap: Option<f32>,
    /// End-of-sequence tokens that config.json names.
    pub eos_token_ids: Vec<u32>,
}

/// The most layers, and the most of any other size that memory is asked for by. The largest published models stay below a
/// twentieth of each; what is larger is a damaged file. They keep every product of sizes below 2^64.
const MOST_LAYERS: usize = 1 << 12;
pub(super) const MOST: usize = 1 << 22;
const MOST_EXPERTS: usize = 1 << 12;
/// Experts of all layers: what a hostile config may have listed.
const MOST_EXPERTS_IN_ALL: usize = 1 << 17;

impl DecoderSpec {
    /// Reads a `config.json`.
    ///
    /// **Errors** name the field: an unknown `model_type` (with the list of known ones), a missing or misshapen number,
    /// heads that do not divide, an activation or RoPE scaling nobody wrote, a setting that the decoder does not have.
    pub fn from_config(config: &Value) -> Result<Self, Error> {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("");
        if let Some(wrapper) = wrappers::find(model_type) {
            return Self::from_wrapper(config, wrapper);
        }
        match families::find(model_type) {
            Some(family) => Self::of_family(config, family),
            None => Err(Error::UnknownFamily {
                model_type: model_type.to_string(),
                known: format!("{}; {} around them", families::known(), wrappers::known()),
                why: wrappers::why_not(model_type),
            }),
        }
    }

    /// The language model of a wrapper.
    fn from_wrapper(config: &Value, wrapper: &'static Wrapper) -> Result<Self, Error> {
        let text = wrapper.text(config);
        let model_type = text.get("model_type").and_then(Value::as_str).unwrap_or("");
        let unknown = || Error::UnknownFamily {
            model_type: format!("{} with a text_config of {model_type}", wrapper.name()),
            known: families::known(),
            why: wrappers::why_not(model_type),
        };
        let family = families::find_wrapped(model_type).filter(|family| wrappers::takes(family));
        let mut spec = Self::of_family(&text, family.ok_or_else(unknown)?)?;
        spec.wrapper = Some(wrapper);
        spec.names = wrapper.layouts()[0].names(spec.family.names);
        spec.tie_embeddings = wrapper.ties(config, spec.tie_embeddings);
        if !wrapper.keeps_cap() {
            (spec.logits_divisor, spec.final_softcap) = (1.0, None);
        }
        let ends = token_ids(config.get("eos_token_id"));
        if !ends.is_empty() {
            spec.eos_token_ids = ends;
        }
        Ok(spec)
    }

    fn of_family(config: &Value, family: &'static Family) -> Result<Self, Error> {
        let c = Config {
            value: config,
            keys: family.keys,
            older_keys: family.older_keys,
        };
        c.refuse_unknown_settings(family)?;
        let hidden = c.size("hidden_size", MOST)?;
        let (heads, kv_heads, head_dim) = head_sizes(&c, family, hidden)?;
        let max_positions = c.size_or("max_position_embeddings", family.max_positions)?;
        let usual = Usual {
            heads,
            kv_heads,
            head_dim,
            intermediate: intermediate(&c, family, hidden)?,
        };
        let (ropes, mut layers) = layer_specs(&c, family, &usual, max_positions)?;
        let experts = experts(&c, family, &mut layers)?;
        let mixer = mixer(&c, family, hidden, &mut layers)?;
        let numbers = c.scales(family, hidden, head_dim)?;
        let parallel = c.is(family.parallel)?;
        let vocab = c.size("vocab_size", MOST)?;
        Ok(DecoderSpec {
            family,
            wrapper: None,
            names: *family.names,
            vocab,
            hidden,
            intermediate: usual.intermediate,
            heads,
            kv_heads,
            head_dim,
            query_growth: RopeScaling::query_growth(&c, &family.rope)?,
            layers,
            experts,
            mixer,
            per_layer: per_layer(&c, family, vocab)?,
            ropes,
            max_positions,
            tie_embeddings: c.flag("tie_word_embeddings", family.tie)?,
            head_bias: c.is(family.head_bias)?,
            qkv_bias: c.is(family.qkv_bias)?,
            o_bias: c.is(family.o_bias)?,
            mlp_bias: c.is(family.mlp_bias)?,
            parallel,
            qk_norm: match c.is(family.has_qk_norm)? {
                true => family.qk_norm,
                false => QkNorm::None,
            },
            qkv_limit: qkv_limit(&c, family)?,
            norm: family.norm,
            norm_place: match family.names.norms {
                [None, ..] => NormPlace::Post,
                [_, Some(_), ..] => NormPlace::Sandwich,
                _ => NormPlace::Pre,
            },
            norm_eps: match c.number_or("rms_norm_eps", family.norm_eps)? {
                eps if eps < 0.0 => {
                    return Err(c.error("rms_norm_eps", format!("expected no negative number, got {eps}")));
                }
                eps => eps as f32,
            },
            norm_plus_one: family.norm_plus_one,
            activation: c.activation(family)?,
            attention_scale: numbers.attention as f32,
            attention_softcap: numbers.attention_cap.map(|cap| cap as f32),
            embed_scale: numbers.embeddings as f32,
            residual_scale: numbers.residual as f32,
            logits_divisor: numbers.logits_divisor as f32,
            final_softcap: numbers.logits_cap.map(|cap| cap as f32),
            eos_token_ids: token_ids(config.get("eos_token_id")),
        })
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether an MLP has a gate.
    pub fn gated(&self) -> bool {
        self.family.gated
    }

    /// Whether what heads attend to is weighed by gates.
    pub(super) fn gates_heads(&self) -> bool {
        self.family.gates_heads
    }

    /// The mixer of a layer that does not attend.
    pub fn mixer_of(&self, layer: usize) -> Option<&Mixer> {
        self.mixer.as_ref().filter(|_| self.layers[layer].recurrent)
    }

    /// The same model, whose tensors are called as in a file with these names and shapes: experts are stored in several ways, and
    /// so is the language half of a wrapper, whose head is the embeddings where the file has none.
    pub fn stored_as<'a>(mut self, tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Self {
        let tensors: Vec<(&str, &[usize])> = tensors.into_iter().collect();
        if let Some(wrapper) = self.wrapper {
            let has = |name: &str| tensors.iter().any(|(known, _)| *known == name);
            let stored = |layout: &Names| has(&format!("{}.weight", layout.embeddings));
            let mut layouts = wrapper.layouts().iter().map(|layout| layout.names(&self.names));
            if let Some(layout) = layouts.find(stored) {
                self.names = layout;
                self.tie_embeddings = !has(&format!("{}.weight", layout.head));
            }
        }
        let (Some(experts), Some(mixture)) = (&mut self.experts, self.family.experts) else {
            return self;
        };
        let is_of = |stored: &ExpertNames, name: &str| match stored.experts {
            Stored::Each { prefix, .. } => {
                let number = name.split_once(&format!(".{prefix}.")).map(|(_, rest)| rest);
                number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            }
            Stored::Fused { gate_up, .. } => name.ends_with(gate_up),
        };
        // What a file calls alike stands by row or by column; by row, where both fit.
        let [rows, columns] = [2 * experts.width, self.hidden];
        let fits = |stored: &ExpertNames, shape: &[usize]| match (stored.experts, shape) {
            (Stored::Fused { turned: false, .. }, [_, out, inner]) => [*out, *inner] == [rows, columns],
            (Stored::Fused { turned: true, .. }, [_, inner, out]) => [*out, *inner] == [rows, columns],
            _ => true,
        };
        let stored = |name: &str, shape: Option<&[usize]>| {
            let fits = |stored: &&ExpertNames| is_of(stored, name) && shape.is_none_or(|shape| fits(stored, shape));
            mixture.stored.iter().find(fits)
        };
        let fitting = tensors.iter().find_map(|(name, shape)| stored(name, Some(shape)));
        if let Some(found) = fitting.or_else(|| tensors.iter().find_map(|(name, _)| stored(name, None))) {
            experts.names = found;
        }
        self
    }

    /// What ends the branches of attention and MLP, by name: norms after them, or else their last projections.
    pub fn branch_ends(&self) -> [&'static str; 2] {
        let names = self.names();
        // A word that the last projections of all experts have in them, and of layers without any.
        let down = match self.experts.as_ref().map(|experts| experts.names.experts) {
            None => names.down,
            Some(Stored::Each { matrices, .. }) => matrices[2],
            Some(Stored::Fused { .. }) => last_word(names.down),
        };
        [names.norms[1].unwrap_or(names.o), names.norms[3].unwrap_or(down)]
    }

    /// What ends the branch that some layers have in attention's place.
    pub fn mixer_end(&self) -> Option<&'static str> {
        self.family.mixer.map(|row| row.output)
    }

    /// Refuses a model that is not what its config.json says: one that lacks a tensor of the decoder, has one of another
    /// size, or has one that the decoder does not use. To be asked before [`Decoder::load`](super::Decoder::load) makes room.
    ///
    /// **Errors** name the tensor.
    pub fn check_tensors<'a>(&self, there: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<(), Error> {
        let mut there: HashMap<&str, &[usize]> = there.into_iter().collect();
        for (tensor, shape) in self.tensor_names() {
            let Some(there) = there.remove(tensor.as_str()) else {
                return Err(self.unknown_tensor(&tensor));
            };
            let (expected, got) = (shape.iter().product(), there.iter().product());
            if expected != got {
                return Err(Error::TensorSize {
                    tensor,
                    shape,
                    expected,
                    got,
                });
            }
        }
        let is_ours = |name: &str| self.wrapper.is_none() || wrappers::is_language(&self.names, name);
        let is_passed_over = |name: &str| {
            let has_no_use = self.family.passed_over.is_some_and(|word| name.starts_with(word));
            has_no_use || self.is_of_keys_not_used(name)
        };
        let unused = there
            .keys()
            .filter(|name| is_ours(name) && !is_recomputed(name) && !is_passed_over(name));
        match unused.clone().min() {
            None => Ok(()),
            Some(first) => Err(Error::UnusedTensors {
                tensor: (*first).into(),
                count: unused.count(),
                family: self.family.name(),
            }),
        }
    }

    /// Whether a layer that takes the keys and values of another has this tensor for its own: published files have such.
    fn is_of_keys_not_used(&self, name: &str) -> bool {
        let names = self.names();
        let of_keys = [names.k, names.v, names.k_norm, "self_attn.v_norm"];
        self.split_layer(name).is_some_and(|(layer, rest)| {
            let module = rest.rsplit_once('.').map_or(rest, |(module, _)| module);
            self.layers.get(layer).is_some_and(|layer| !layer.has_keys()) && of_keys.contains(&module)
        })
    }

    /// Bytes of the keys and values of one token, at so many bytes a number: the least that a decoder takes for it.
    pub fn kv_bytes_per_token(&self, element_bytes: u64) -> u64 {
        let keeping = self.layers.iter().filter(|layer| !layer.recurrent && layer.has_keys());
        let numbers: usize = keeping.map(|layer| 2 * layer.kv_heads * layer.head_dim).sum();
        numbers as u64 * element_bytes
    }

    /// Why the layers of this model cannot come in another order, or more than once: a child made of them would be another
    /// model.
    pub fn fixed_layers(&self) -> Option<&'static str> {
        match self.per_layer {
            Some(_) => Some("each token has embeddings for every layer"),
            None if self.layers.iter().any(|layer| !layer.has_keys()) => Some("its layers share keys and values"),
            None if matches!(self.family.windows, Windows::ButLast { .. }) => {
                Some("whichever layer comes last is read as one that sees the whole text")
            }
            None => None,
        }
    }

    /// Refuses rotations that do not fit the heads.
    pub(super) fn check_ropes(&self) -> Result<(), Error> {
        let of_layer = |layer: &LayerSpec| match layer.rope {
            Some(rope) => self.ropes[rope].validate(layer.head_dim),
            None => Ok(()),
        };
        self.layers.iter().try_for_each(of_layer)
    }

    /// Whether another layer takes this one's keys and values.
    pub(super) fn lends_keys(&self, layer: usize) -> bool {
        self.layers.iter().any(|other| other.keys == Keys::Of(layer))
    }

    /// Refuses a sequence that reaches beyond the positions that a model has learned.
    pub(super) fn check_positions(&self, request: usize, tokens: usize) -> Result<(), Error> {
        match self.names().positions.is_some() && tokens > self.max_positions {
            true => Err(Error::Positions {
                request,
                tokens,
                positions: self.max_positions,
            }),
            false => Ok(()),
        }
    }

    pub(super) fn unknown_tensor(&self, name: &str) -> Error {
        Error::UnknownTensor {
            tensor: name.into(),
            family: self.family.name(),
            layers: self.layers.len(),
        }
    }

    /// Names of a layer's four possible norms: before and after attention, before and after the MLP.
    pub(super) fn layer_norms(&self) -> [Option<&'static str>; 4] {
        let mut norms = self.names().norms;
        if self.parallel && self.family.parallel_shares_norm {
            norms[2] = None;
        }
        norms
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensor_names()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    pub(super) fn fused_qkv(&self) -> bool {
        self.family.qkv != Qkv::Apart
    }
}

/// Whether a tensor holds what every loader computes anew: rotary tables and causal masks of old checkpoints.
fn is_recomputed(name: &str) -> bool {
    const TABLES: [&str; 7] = [
        "rotary_emb.inv_freq",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        ".attn.masked_bias",
        ".attn.bias",
        ".attention.masked_bias",
        ".attention.bias",
    ];
    TABLES.iter().any(|table| name.ends_with(table))
}

/// What stands behind the last dot.
pub(super) fn last_word(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// Token ids written as a number or a list of numbers, as in `eos_token_id`.
pub(super) fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Query heads, key heads, and the dimensions of each.
fn head_sizes(c: &Config, family: &Family, hidden: usize) -> Result<(usize, usize, usize), Error> {
    let heads = c.size("num_attention_heads", MOST)?;
    let kv_heads = match c.get("num_key_value_heads") {
        _ if !family.groups_heads => heads,
        Some(Value::Null) => heads,
        _ => c.size_or("num_key_value_heads", family.kv_heads.unwrap_or(heads))?,
    };
    let head_dim = match c.optional_size("head_dim")?.or(family.head_dim) {
        Some(d) => d,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(c.error("hidden_size", format!("{hidden} is not a multiple of {heads} heads"))),
    };
    for (field, size) in [
        ("num_key_value_heads", kv_heads),
        ("head_dim", heads.saturating_mul(head_dim)),
    ] {
        if size > MOST {
            let problem = format!("{heads} heads of {head_dim} in all are more than {MOST}");
            return Err(c.error(field, problem));
        }
    }
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} does not divide num_attention_heads = {heads}");
        return Err(c.error("num_key_value_heads", problem));
    }
    Ok((heads, kv_heads, head_dim))
}

/// Sizes of the layers that have no other.
struct Usual {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
}

/// The embeddings that a token has in every layer, where it has such.
fn per_layer(c: &Config, family: &Family, vocab: usize) -> Result<Option<PerLayer>, Error> {
    let Some(default) = family.per_layer_width else {
        return Ok(None);
    };
    let (key, is) = ("hidden_size_per_layer_input", |value: &Value| value.as_u64() == Some(0));
    // Null and 0 alike: none.
    if c.get(key).is_some_and(|value| value.is_null() || is(value)) {
        return Ok(None);
    }
    let of_layers = PerLayer {
        width: c.size_or(key, default)?.min(MOST),
        vocab: c.size_or("vocab_size_per_layer_input", 262_144)?.min(MOST),
    };
    match of_layers.vocab < vocab {
        true => {
            let problem = format!("{} is less than vocab_size = {vocab}", of_layers.vocab);
            Err(c.error("vocab_size_per_layer_input", problem))
        }
        false => Ok(Some(of_layers)),
    }
}

/// For each layer, its key heads and the dimensions of a head: those of layers without a window may be others. All layers of
/// a kind have the same, because they rotate alike.
fn heads_by_layer(c: &Config, family: &Family, usual: &Usual, slides: &[bool]) -> Result<Vec<(usize, usize)>, Error> {
    let mut heads = vec![(usual.kv_heads, usual.head_dim); slides.len()];
    let Some(default) = family.global_head_dim else {
        return Ok(heads);
    };
    if let Some(listed) = c.present("per_layer_config") {
        read_by_layer(c, listed, &mut heads)?;
    } else {
        let kv_heads = match c.flag("attention_k_eq_v", false)? {
            true => c.size_or("num_global_key_value_heads", usual.kv_heads)?,
            false => usual.kv_heads,
        };
        let full = (kv_heads, c.size_or("global_head_dim", default)?);
        let layers = heads.iter_mut().zip(slides).filter(|(_, slides)| !**slides);
        layers.for_each(|(heads, _)| *heads = full);
    }
    for kind in [true, false] {
        let mut of_kind = heads
            .iter()
            .zip(slides)
            .filter(|(_, slides)| **slides == kind)
            .map(|(heads, _)| *heads);
        let first = of_kind.next();
        if of_kind.any(|heads| Some(heads) != first) {
            let problem = "layers of one kind (layer_types) have heads of several sizes";
            return Err(c.error("per_layer_config", problem.into()));
        }
    }
    for (kv_heads, head_dim) in &heads {
        if !usual.heads.is_multiple_of(*kv_heads) || usual.heads.saturating_mul(*head_dim) > MOST {
            let problem = format!("{kv_heads} key heads of {head_dim} beside {} query heads", usual.heads);
            return Err(c.error("num_global_key_value_heads", problem));
        }
    }
    Ok(heads)
}

/// What `per_layer_config` says of some layers' heads, by their numbers.
fn read_by_layer(c: &Config, listed: &Value, heads: &mut [(usize, usize)]) -> Result<(), Error> {
    let wrong = |problem: String| c.error("per_layer_config", problem);
    let listed = listed
        .as_object()
        .ok_or_else(|| wrong(format!("{listed} is no table of layers")))?;
    for (layer, own) in listed {
        let place = layer.parse().ok().filter(|place: &usize| *place < heads.len());
        let (kv_heads, head_dim) = place
            .and_then(|place| heads.get_mut(place))
            .ok_or_else(|| wrong(format!("\"{layer}\" is no layer")))?;
        for (key, value) in own.as_object().into_iter().flatten() {
            let size = value.as_u64().filter(|size| (1..=MOST as u64).contains(size));
            let size = size.ok_or_else(|| wrong(format!("{key} of layer {layer} is {value}")))? as usize;
            match key.as_str() {
                "head_dim" => *head_dim = size,
                "num_key_value_heads" => *kv_heads = size,
                _ => {
                    return Err(wrong(format!(
                        "{key} of layer {layer}: the decoder knows head_dim and num_key_value_heads"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// For each layer, where its keys and values come from: the last few take those of the last layer of their kind before them.
fn keys_by_layer(c: &Config, family: &Family, slides: &[bool]) -> Result<Vec<Keys>, Error> {
    if family.global_head_dim.is_none() {
        return Ok(vec![Keys::Own; slides.len()]);
    }
    let key = "num_kv_shared_layers";
    let shared = match c.present(key).and_then(Value::as_u64) {
        Some(0) => 0,
        _ => c.optional_size(key)?.unwrap_or(0),
    };
    let first = slides.len().saturating_sub(shared);
    let one_product = c.flag("attention_k_eq_v", false)?;
    let of_layer = |layer: usize| match (layer < first, slides[layer]) {
        (true, false) if one_product => Ok(Keys::OneProduct),
        (true, _) => Ok(Keys::Own),
        (false, kind) => match slides[..first].iter().rposition(|other| *other == kind) {
            Some(source) => Ok(Keys::Of(source)),
            None => Err(c.error(
                key,
                format!("{shared}: no layer before layer {layer} has keys and values for it"),
            )),
        },
    };
    (0..slides.len()).map(of_layer).collect()
}

/// Within what queries, keys and values are held.
fn qkv_limit(c: &Config, family: &Family) -> Result<Option<f32>, Error> {
    if !family.clips_qkv {
        return Ok(None);
    }
    match c.number("clip_qkv")? {
        Some(limit) if limit <= 0.0 => Err(c.error("clip_qkv", format!("{limit} is not above 0"))),
        limit => Ok(limit.map(|limit| limit as f32)),
    }
}

/// The width of the MLP.
fn intermediate(c: &Config, family: &Family, hidden: usize) -> Result<usize, Error> {
    let default = match family.mlp_width {
        None if family.narrows_mlp => return narrowed(c, c.size("intermediate_size", MOST)?),
        None => return c.size("intermediate_size", MOST),
        Some(MlpWidth::Of(width)) => width,
        Some(MlpWidth::Times(times)) => times * hidden,
    };
    Ok(c.size_or("intermediate_size", default)?.min(MOST))
}

/// LFM2's MLPs are two thirds as wide as its config says, times a multiplier, and then a multiple of something.
fn narrowed(c: &Config, width: usize) -> Result<usize, Error> {
    if !c.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(width);
    }
    let narrow = (c.number_or("block_ffn_dim_multiplier", 1.0)? * (2 * width / 3) as f64) as usize;
    let narrow = narrow.next_multiple_of(c.size_or("block_multiple_of", 256)?);
    match (1..=MOST).contains(&narrow) {
        true => Ok(narrow),
        false => Err(c.error("block_ffn_dim_multiplier", format!("makes MLPs {narrow} wide"))),
    }
}

/// The mixer of a family that has one, and which of the layers do.
fn mixer(c: &Config, family: &Family, hidden: usize, layers: &mut [LayerSpec]) -> Result<Option<Mixer>, Error> {
    let Some(row) = family.mixer else {
        return Ok(None);
    };
    let (mixer, recurrent) = Mixer::read(c, row, hidden, layers.len())?;
    for (layer, recurrent) in layers.iter_mut().zip(recurrent) {
        if recurrent {
            *layer = LayerSpec {
                window: None,
                rope: None,
                recurrent,
                ..*layer
            };
        }
    }
    match c.activation(family)? {
        Activation::Silu => Ok(Some(mixer)),
        _ => Err(c.error(
            "hidden_act",
            "the decoder knows mixers of this family with silu only".into(),
        )),
    }
}

/// The experts of a family that has them, and which of the layers do.
fn experts(c: &Config, family: &Family, layers: &mut [LayerSpec]) -> Result<Option<Experts>, Error> {
    let Some(mixture) = family.experts else {
        return Ok(None);
    };
    if !c.is(mixture.are_there)? {
        return Ok(None);
    }
    for (layer, sparse) in layers.iter_mut().zip(sparse_layers(c, mixture)?) {
        layer.sparse = sparse;
    }
    const COUNTS: [&str; 3] = ["num_local_experts", "num_experts", "n_routed_experts"];
    let key = COUNTS.into_iter().find(|key| c.present(key).is_some());
    if key.is_some_and(|key| c.present(key).and_then(Value::as_u64) == Some(0)) {
        layers.iter_mut().for_each(|layer| layer.sparse = false);
        return Ok(None);
    }
    let (key, count) = match key {
        Some(key) => (key, c.size(key, MOST_EXPERTS)?),
        None => (COUNTS[0], mixture.count),
    };
    if count * layers.len() > MOST_EXPERTS_IN_ALL {
        let problem = format!(
            "{count} in each of {} layers are more than {MOST_EXPERTS_IN_ALL}",
            layers.len()
        );
        return Err(c.error(key, problem));
    }
    let width = match mixture.width {
        Some(width) => c.size_or("moe_intermediate_size", width)?.min(MOST),
        None => c.size("intermediate_size", MOST)?,
    };
    let per_token = c.size_or("num_experts_per_tok", mixture.per_token)?;
    if per_token > count {
        return Err(c.error("num_experts_per_tok", format!("{per_token} of {count} experts ({key})")));
    }
    let (shared, shared_is_weighed) = match mixture.shared {
        Shared::None => (0, false),
        Shared::Weighed(key, width) => (c.size_or(key, width)?.min(MOST), true),
        Shared::Plain(key, width) => (c.size_or(key, width)?.min(MOST), false),
        Shared::Widths(key, count) => (c.size_or(key, count)?.min(MOST_EXPERTS) * width, false),
    };
    Ok(Some(Experts {
        count,
        per_token,
        width,
        router: router(c, mixture, count, per_token)?,
        normalised: c.is(mixture.normalised)?,
        floor: mixture.floor,
        scale: match mixture.router {
            Chosen::Sigmoid => c.number_or("routed_scaling_factor", 1.0)? as f32,
            _ => 1.0,
        },
        shared,
        shared_is_weighed,
        biases: mixture.biases,
        beside: mixture.beside,
        names: &mixture.stored[0],
    }))
}

/// For each layer and beyond, whether it has experts.
fn sparse_layers(c: &Config, mixture: &Mixture) -> Result<Box<dyn Iterator<Item = bool>>, Error> {
    Ok(match mixture.dense {
        Dense::None => Box::new(std::iter::repeat(true)),
        Dense::First(key, default) => {
            // None is as good as any number here.
            let first = match c.present(key).and_then(Value::as_u64) {
                Some(0) => 0,
                _ => c.size_or(key, default)?,
            };
            Box::new((0..).map(move |layer: usize| layer >= first))
        }
        Dense::Listed => {
            let nth = c.size_or("decoder_sparse_step", 1)?;
            let listed = c.get("mlp_only_layers").and_then(Value::as_array);
            let listed: Vec<u64> = listed.into_iter().flatten().filter_map(Value::as_u64).collect();
            let is_sparse = move |layer: usize| (layer + 1).is_multiple_of(nth) && !listed.contains(&(layer as u64));
            Box::new((0..).map(is_sparse))
        }
    })
}

fn router(c: &Config, mixture: &Mixture, count: usize, per_token: usize) -> Result<Router, Error> {
    match mixture.router {
        Chosen::Softmax => Ok(Router::Softmax),
        Chosen::Sigmoid => {
            let groups = c.size_or("n_group", 1)?;
            let best = c.size_or("topk_group", 1)?;
            // A group is as good as its best two.
            if !count.is_multiple_of(groups)
                || count / groups < 2
                || best > groups
                || best * (count / groups) < per_token
            {
                let problem = format!("{per_token} of {count} experts from the best {best} of {groups} groups");
                return Err(c.error("n_group", problem));
            }
            Ok(Router::Sigmoid { groups, best })
        }
        Chosen::SparseMixer if per_token != 2 => {
            let problem = format!("{per_token}: this family's router chooses two");
            Err(c.error("num_experts_per_tok", problem))
        }
        Chosen::SparseMixer => Ok(Router::SparseMixer {
            jitter: c.number_or("router_jitter_noise", 0.01)? as f32,
        }),
    }
}

/// The numbers that stream, attention and logits are scaled by, and their caps.
struct Numbers {
    embeddings: f64,
    residual: f64,
    attention: f64,
    attention_cap: Option<f64>,
    logits_divisor: f64,
    logits_cap: Option<f64>,
}

/// Which layers look through a window, and how each layer rotates.
fn layer_specs(
    c: &Config,
    family: &Family,
    usual: &Usual,
    max_positions: usize,
) -> Result<(Vec<RopeSpec>, Vec<LayerSpec>), Error> {
    let count = c.size("num_hidden_layers", MOST_LAYERS)?;
    let rotates = rotating_layers(c, family, count)?;
    let (window, slides) = windows(c, family, &rotates)?;
    let heads = heads_by_layer(c, family, usual, &slides)?;
    let keys = keys_by_layer(c, family, &slides)?;
    let head_dim = |kind: bool| {
        let of_kind = heads.iter().zip(&slides).find(|(_, slides)| **slides == kind);
        of_kind.map_or(usual.head_dim, |((_, head_dim), _)| *head_dim)
    };
    let ropes = match family.rope.windowed {
        _ if family.names.positions.is_some() || !rotates_at_all(c, family) => Vec::new(),
        None => vec![RopeScaling::read_flat(c, &family.rope, usual.head_dim, max_positions)?],
        Some((windowed_theta, default)) => {
            let full = ("full_attention", Some("rope_theta"), family.rope.theta);
            let sliding = ("sliding_attention", windowed_theta, default);
            vec![
                RopeScaling::read_nested(c, &family.rope, full, head_dim(false), max_positions)?,
                RopeScaling::read_nested(c, &family.rope, sliding, head_dim(true), max_positions)?,
            ]
        }
    };
    let widens = c.flag("use_double_wide_mlp", false)? && family.global_head_dim.is_some();
    let layer = |index: usize| {
        let (slides, rotates) = (slides[index], rotates[index]);
        // Cohere 2 and EXAONE 4: where the model has windows, only layers with one know of order.
        let turns = rotates && (family.full_layers_rotate || slides || window.is_none());
        LayerSpec {
            window: window.filter(|_| slides),
            rope: (turns && !ropes.is_empty()).then(|| usize::from(slides && ropes.len() > 1)),
            sparse: false,
            recurrent: false,
            kv_heads: heads[index].0,
            head_dim: heads[index].1,
            keys: keys[index],
            intermediate: match keys[index] {
                Keys::Of(_) if widens => 2 * usual.intermediate,
                _ => usual.intermediate,
            },
        }
    };
    let layers = (0..count).map(layer).collect();
    Ok((ropes, layers))
}

/// Whether any layer rotates.
fn rotates_at_all(c: &Config, family: &Family) -> bool {
    let is_so = |(key, word): (&str, &str)| c.get(key).and_then(Value::as_str) == Some(word);
    family.rope.only_if.is_none_or(is_so)
}

/// For each layer, whether it rotates (SmolLM3's `no_rope_layers`: 1 = rotates).
fn rotating_layers(c: &Config, family: &Family, count: usize) -> Result<Vec<bool>, Error> {
    let Windows::Unrotated { nth } = family.windows else {
        return Ok(vec![true; count]);
    };
    let Some(value) = c.present("no_rope_layers") else {
        let interval = c.size_or("no_rope_layer_interval", nth)?;
        return Ok((0..count).map(|layer| (layer + 1) % interval != 0).collect());
    };
    let flags: Vec<bool> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_u64() != Some(0) && v.as_bool() != Some(false))
        .collect();
    if flags.len() < count {
        let problem = format!("has {} entries for {count} layers", flags.len());
        return Err(c.error("no_rope_layers", problem));
    }
    Ok(flags[..count].to_vec())
}

/// The size of a window, and for each layer, whether it looks through one.
fn windows(c: &Config, family: &Family, rotates: &[bool]) -> Result<(Option<usize>, Vec<bool>), Error> {
    let count = rotates.len();
    let size = |default| c.size_or_null("sliding_window", default);
    let listed = || layer_types(c, count);
    let by_rule = |is_sliding: &dyn Fn(usize) -> bool| (0..count).map(is_sliding).collect::<Vec<bool>>();
    Ok(match family.windows {
        Windows::Never => (None, vec![false; count]),
        Windows::All { default } => (size(default)?, vec![true; count]),
        Windows::AllUnlessListed { default } => (size(default)?, listed()?.unwrap_or_else(|| vec![true; count])),
        Windows::From => {
            let first = c.number_or("max_window_layers", 28.0)?;
            let window = match c.flag("use_sliding_window", false)? {
                true => size(Some(4096))?,
                false => None,
            };
            (
                window,
                listed()?.unwrap_or_else(|| by_rule(&|layer| layer as f64 >= first)),
            )
        }
        Windows::AlternatingUntil => {
            let until = c.number_or("max_window_layers", 28.0)?;
            let uses = c.flag("use_sliding_window", false)?;
            let window = if uses { size(Some(4096))? } else { None };
            let slides = |layer: usize| uses && layer.is_multiple_of(2) && (layer as f64) < until;
            (window, listed()?.unwrap_or_else(|| by_rule(&slides)))
        }
        Windows::AllIf => match c.flag("use_sliding_window", false)? {
            true => (size(Some(4096))?, vec![true; count]),
            false => (None, vec![false; count]),
        },
        Windows::Alternating => (
            size(Some(4096))?,
            listed()?.unwrap_or_else(|| by_rule(&|layer| layer.is_multiple_of(2))),
        ),
        Windows::AllBut { nth, size: default } => {
            let slides = match listed()? {
                Some(listed) => listed,
                None => {
                    let nth = c.size_or("sliding_window_pattern", nth)?;
                    by_rule(&|layer| !(layer + 1).is_multiple_of(nth))
                }
            };
            (size(Some(default))?, slides)
        }
        Windows::ButLast { nth, size: default } => {
            let by_place = || by_rule(&|layer| !(layer + 1).is_multiple_of(nth));
            let mut slides = listed()?.unwrap_or_else(by_place);
            if let Some(last) = slides.last_mut() {
                *last = false;
            }
            (size(Some(default))?, slides)
        }
        Windows::Unrotated { .. } => {
            let uses = c.flag("use_sliding_window", false)?;
            // transformers masks by the list, whether or not the flag says so.
            let slides = listed()?.unwrap_or_else(|| by_rule(&|layer| uses && !rotates[layer]));
            (size(None)?, slides)
        }
    })
}

/// `layer_types`, where given: for each layer, whether it looks through the window.
fn layer_types(c: &Config, count: usize) -> Result<Option<Vec<bool>>, Error> {
    let Some(list) = c.get("layer_types").and_then(Value::as_array) else {
        return Ok(None);
    };
    if list.len() != count {
        return Err(c.error("layer_types", format!("has {} entries for {count} layers", list.len())));
    }
    let sliding = |v: &Value| match v.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(c.error(
            "layer_types",
            format!("{v} is neither \"full_attention\" nor \"sliding_attention\""),
        )),
    };
    list.iter().map(sliding).collect::<Result<_, _>>().map(Some)
}

/// Typed access to config.json, in the words of its family, with errors that name the field.
pub(super) struct Config<'a> {
    pub value: &'a Value,
    /// (the decoder's word, config.json's).
    pub keys: &'static [(&'static str, &'static str)],
    /// The same, of older configs, whose words count before today's.
    pub older_keys: &'static [(&'static str, &'static str)],
}

impl<'a> Config<'a> {
    /// A part of a config, in the decoder's own words.
    pub fn part(value: &'a Value) -> Self {
        Config {
            value,
            keys: &[],
            older_keys: &[],
        }
    }

    /// What the file calls a field.
    fn key<'k>(&self, field: &'k str) -> &'k str {
        let is_older = |(here, there): &&(&str, &str)| *here == field && self.value.get(*there).is_some();
        let keys = self.older_keys.iter().find(is_older).into_iter().chain(self.keys);
        keys.into_iter()
            .find(|(here, _)| *here == field)
            .map_or(field, |(_, there)| there)
    }

    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.value.get(self.key(field))
    }

    pub fn error(&self, field: &str, problem: String) -> Error {
        Error::Config {
            field: self.key(field).to_string(),
            problem,
        }
    }

    fn present(&self, field: &str) -> Option<&'a Value> {
        self.get(field).filter(|v| !v.is_null())
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.present(field) else {
            return Ok(None);
        };
        // A size of 2^32 and more is a damaged file; refusing it here keeps every product below in range.
        match value.as_u64().filter(|n| (1..1 << 32).contains(n)) {
            Some(n) => Ok(Some(n as usize)),
            None if value.as_u64().is_some_and(|n| n > 0) => Err(self.error(
                field,
                format!("{value} is more than {}, and so is no model's", u32::MAX),
            )),
            None => Err(self.error(field, format!("expected a positive whole number, got {value}"))),
        }
    }

    /// A size that memory is asked for by: at most `most`.
    fn size(&self, field: &str, most: usize) -> Result<usize, Error> {
        match self.optional_size(field)? {
            None => Err(self.error(field, "is missing".into())),
            Some(size) if size > most => {
                Err(self.error(field, format!("{size} is more than {most}, and so is no model's")))
            }
            Some(size) => Ok(size),
        }
    }

    pub fn size_or(&self, field: &str, default: usize) -> Result<usize, Error> {
        Ok(self.optional_size(field)?.unwrap_or(default))
    }

    /// As transformers reads it: absent takes the default, `null` switches it off.
    fn size_or_null(&self, field: &str, default: Option<usize>) -> Result<Option<usize>, Error> {
        if self.get(field).is_none() {
            Ok(default)
        } else {
            self.optional_size(field)
        }
    }

    pub fn number(&self, field: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.present(field) else {
            return Ok(None);
        };
        match value.as_f64().filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(x)),
            None => Err(self.error(field, format!("expected a number, got {value}"))),
        }
    }

    pub fn number_or(&self, field: &str, default: f64) -> Result<f64, Error> {
        Ok(self.number(field)?.unwrap_or(default))
    }

    /// As transformers reads it: absent takes the default, `null` switches it off.
    fn cap(&self, field: &str, default: f64) -> Result<Option<f64>, Error> {
        match self.get(field) {
            None => Ok(Some(default).filter(|cap| cap.is_finite())),
            Some(_) => self.number(field),
        }
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool, Error> {
        match self.present(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.error(field, format!("expected true or false, got {other}"))),
        }
    }

    pub fn is(&self, flag: Flag) -> Result<bool, Error> {
        match flag {
            Flag::No => Ok(false),
            Flag::Yes => Ok(true),
            Flag::Key(key, default) => self.flag(key, default),
        }
    }

    fn refuse_unknown_settings(&self, family: &Family) -> Result<(), Error> {
        for (key, only) in family.only {
            let (is_known, known): (&dyn Fn(&Value) -> bool, String) = match only {
                Only::False => (&|value| *value == Value::Bool(false), "with false only".into()),
                Only::True => (&|value| *value == Value::Bool(true), "with true only".into()),
                Only::Not(word) => (&move |value| value != word, "with anything else".into()),
            };
            if let Some(other) = self.present(key).filter(|value| !is_known(value)) {
                let problem = format!("{other}: the decoder knows this family {known}");
                return Err(self.error(key, problem));
            }
        }
        Ok(())
    }

    fn activation(&self, family: &Family) -> Result<Activation, Error> {
        if family.activation == families::CLAMPED {
            // Whatever `hidden_act` says.
            return Ok(Activation::Clamped {
                alpha: self.number_or("swiglu_alpha", 1.702)? as f32,
                limit: self.number_or("swiglu_limit", 7.0)? as f32,
            });
        }
        match self
            .get("hidden_act")
            .and_then(Value::as_str)
            .unwrap_or(family.activation)
        {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
            // Gemma 1 was published with "gelu" and means the tanh form.
            "gelu" if family.gelu_is_tanh => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::GeluErf),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::Relu2),
            "xielu" if family.activation == "xielu" => Ok(Activation::Xielu(Xielu::default())),
            other => Err(self.error(
                "hidden_act",
                format!("\"{other}\" is not one of silu, gelu, gelu_pytorch_tanh, relu, relu2"),
            )),
        }
    }

    fn scales(&self, family: &Family, hidden: usize, head_dim: usize) -> Result<Numbers, Error> {
        let plain = Numbers {
            embeddings: 1.0,
            residual: 1.0,
            attention: (head_dim as f64).powf(-0.5),
            attention_cap: None,
            logits_divisor: 1.0,
            logits_cap: None,
        };
        let root = (hidden as f64).sqrt();
        Ok(match family.scales {
            Scales::Plain => plain,
            Scales::Gemma => Numbers {
                embeddings: root,
                ..plain
            },
            Scales::QueryScalar([attention_cap, logits_cap]) => Numbers {
                embeddings: root,
                attention: self.number_or("query_pre_attn_scalar", 256.0)?.powf(-0.5),
                attention_cap: match attention_cap {
                    None => None,
                    Some(default) => self.cap("attn_logit_softcapping", default)?,
                },
                logits_cap: match logits_cap {
                    None => None,
                    Some(default) => self.cap("final_logit_softcapping", default)?,
                },
                ..plain
            },
            Scales::Gemma4 => Numbers {
                embeddings: root,
                attention: 1.0,
                logits_cap: self.cap("final_logit_softcapping", f64::INFINITY)?,
                ..plain
            },
            Scales::Granite => Numbers {
                embeddings: self.number_or("embedding_multiplier", 1.0)?,
                residual: self.number_or("residual_multiplier", 1.0)?,
                attention: self.number_or("attention_multiplier", 1.0)?,
                logits_divisor: self.number_or("logits_scaling", 1.0)?,
                ..plain
            },
            Scales::Cohere => Numbers {
                logits_divisor: 1.0 / self.number_or("logit_scale", 0.0625)?,
                ..plain
            },
            Scales::Gpt2 => Numbers {
                attention: match self.flag("scale_attn_weights", true)? {
                    true => plain.attention,
                    false => 1.0,
                },
                ..plain
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::Scaling;
    use serde_json::json;

    fn with(extra: Value) -> Value {
        let mut config = json!({"model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn read(extra: Value) -> DecoderSpec {
        DecoderSpec::from_config(&with(extra)).unwrap()
    }

    fn problem(extra: Value) -> String {
        DecoderSpec::from_config(&with(extra)).unwrap_err().to_string()
    }

    #[test]
    fn both_dialects_mean_the_same() {
        let v4 = read(
            json!({"rope_theta": 5e5, "torch_dtype": "bfloat16", "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}}),
        );
        let v5 = read(
            json!({"dtype": "bfloat16", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}}),
        );
        assert_eq!(v4, v5);
        assert_eq!(v4.ropes[0].theta, 5e5);

        let v4 = read(
            json!({"model_type": "gemma3_text", "rope_theta": 2e6, "rope_local_base_freq": 3e4, "sliding_window": 16,
            "sliding_window_pattern": 2, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        );
        let v5 = read(json!({"model_type": "gemma3_text", "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 3e4}}}));
        assert_eq!(v4, v5);
        assert_eq!((v4.layers[0].rope, v4.layers[1].rope), (Some(1), Some(0)));
        assert_eq!(v4.ropes[1].scaling, Scaling::None);
    }

    #[test]
    fn the_old_name_of_a_scaling_is_known() {
        let spec = read(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}));
        assert_eq!(spec.ropes[0].scaling, Scaling::Linear { factor: 2.0 });
        assert_eq!(read(json!({"rope_scaling": null})).ropes[0].scaling, Scaling::None);
    }

    #[test]
    fn missing_keys_take_the_default_of_their_family() {
        assert_eq!(read(json!({"model_type": "mistral"})).layers[3].window, Some(4096));
        assert_eq!(
            read(json!({"model_type": "mistral", "sliding_window": null})).layers[3].window,
            None
        );
        assert_eq!(read(json!({"model_type": "qwen3"})).head_dim, 128);
        // Written as null where a family works it out (keras-hub #2729, vLLM #14139).
        assert_eq!(read(json!({"head_dim": null})), read(json!({})));
        assert_eq!(read(json!({"model_type": "smollm3"})).ropes[0].theta, 2e6);
        assert_eq!(read(json!({"model_type": "gemma2"})).attention_softcap, Some(50.0));
        assert_eq!(
            read(json!({"model_type": "gemma2", "attn_logit_softcapping": null})).attention_softcap,
            None
        );
        assert!(read(json!({"model_type": "gemma"})).tie_embeddings && !read(json!({})).tie_embeddings);
        assert_eq!(read(json!({"num_key_value_heads": null})).kv_heads, 4);
        let windows: Vec<bool> =
            read(json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 3}))
                .layers
                .iter()
                .map(|layer| layer.window.is_some())
                .collect();
        assert_eq!(windows, [false, false, false, true]);
        let all = read(json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 0}));
        assert!(all.layers.iter().all(|layer| layer.window == Some(4096)));
        assert_eq!(read(json!({"eos_token_id": [2, 7]})).eos_token_ids, [2, 7]);
    }

    /// Published configs leave out what their configuration class has by default.
    #[test]
    fn a_config_of_sizes_alone_means_what_transformers_makes_of_it() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/defaults.json");
        let all: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        for family in Family::all() {
            let known = &all[family.name()];
            let spec = |key: &str| {
                let mut spec = DecoderSpec::from_config(&known[key]).unwrap();
                spec.eos_token_ids.clear();
                spec
            };
            assert_eq!(spec("sizes"), spec("full"), "{}", family.name());
        }
    }

    #[test]
    fn an_unknown_family_lists_the_known_ones() {
        let message = problem(json!({"model_type": "mamba"}));
        assert!(
            message.contains("\"mamba\"") && message.contains("llama, mistral, qwen2"),
            "{message}"
        );
        assert!(problem(json!({"model_type": null})).contains("model_type \"\""));
        // It once said to change model_type: the way to another model.
        assert!(
            message.contains("can be merged") && !message.contains("change"),
            "{message}"
        );
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        for (extra, field) in [
            (json!({"hidden_size": null}), "hidden_size"),
            (json!({"hidden_size": 0}), "hidden_size"),
            (json!({"hidden_size": 18_446_744_073_709_551_615u64}), "hidden_size"),
            (json!({"hidden_size": 63}), "hidden_size"),
            // Memory was asked for by these before a tensor was looked at: SIGABRT.
            (json!({"hidden_size": 1u64 << 31}), "hidden_size"),
            (json!({"intermediate_size": 4_294_967_295u64}), "intermediate_size"),
            (json!({"num_attention_heads": 1u64 << 31}), "num_attention_heads"),
            (json!({"head_dim": 1u64 << 31}), "head_dim"),
            (json!({"vocab_size": 1u64 << 31}), "vocab_size"),
            (json!({"num_hidden_layers": 1u64 << 31}), "num_hidden_layers"),
            (json!({"num_key_value_heads": 1u64 << 31}), "num_key_value_heads"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"hidden_act": "swiglu"}), "hidden_act"),
            (json!({"rope_parameters": {"rope_type": "spiral"}}), "rope_type"),
            (json!({"rope_parameters": {"rope_type": "linear"}}), "factor"),
            (json!({"rope_theta": -1.0}), "rope_theta"),
            (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
            (json!({"rms_norm_eps": -1}), "rms_norm_eps"),
            (
                json!({"max_position_embeddings": 1_000_000_000_000_u64}),
                "is more than 4294967295",
            ),
            (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
            (
                json!({"model_type": "gemma2", "layer_types": ["full_attention"]}),
                "layer_types",
            ),
        ] {
            let message = problem(extra);
            assert!(message.contains(field), "{field}: {message}");
        }
    }

    #[test]
    fn hybrids_name_their_layers_in_several_ways_and_nonsense_is_refused() {
        let with = |extra: Value| {
            let mut extra = extra;
            for (key, value) in [
                ("linear_num_key_heads", 2),
                ("linear_num_value_heads", 4),
                ("mamba_n_heads", 8),
            ] {
                if extra.get(key).is_none() {
                    extra[key] = value.into();
                }
            }
            extra
        };
        let recurrent = |extra: Value| -> Vec<bool> {
            let layers = read(with(extra)).layers;
            layers.iter().map(|layer| layer.recurrent).collect()
        };
        let (yes, no) = (true, false);
        assert_eq!(recurrent(json!({"model_type": "qwen3_5_text"})), [yes, yes, yes, no]);
        assert_eq!(
            recurrent(json!({"model_type": "qwen3_next", "full_attention_interval": 2})),
            [yes, no, yes, no]
        );
        let words = ["mamba", "attention", "linear_attention", "full_attention"];
        for key in ["layer_types", "layers_block_type"] {
            assert_eq!(
                recurrent(json!({"model_type": "granitemoehybrid", key: words})),
                [yes, no, yes, no]
            );
        }
        assert_eq!(recurrent(json!({"model_type": "lfm2"})), [no; 4]);
        assert_eq!(
            recurrent(json!({"model_type": "lfm2", "full_attn_idxs": [2]})),
            [yes, yes, no, yes]
        );
        let lfm2 = read(
            json!({"model_type": "lfm2", "intermediate_size": 999, "block_ff_dim": 300, "tie_embedding": false,
            "block_multiple_of": 32}),
        );
        assert_eq!((lfm2.intermediate, lfm2.tie_embeddings), (224, false));
        assert!(
            read(json!({"model_type": "granitemoehybrid", "num_local_experts": 0}))
                .ropes
                .is_empty()
        );
        for (extra, field) in [
            (
                json!({"model_type": "qwen3_5_text", "linear_num_key_heads": 3}),
                "linear_num_key_heads",
            ),
            (
                json!({"model_type": "qwen3_5_text", "linear_key_head_dim": 1u64 << 31}),
                "linear_num_value_heads",
            ),
            (
                json!({"model_type": "qwen3_5_text", "linear_conv_kernel_dim": 1000}),
                "linear_conv_kernel_dim",
            ),
            (
                json!({"model_type": "qwen3_5_text", "hidden_act": "gelu"}),
                "hidden_act",
            ),
            (
                json!({"model_type": "qwen3_5_text", "layer_types": ["linear_attention"]}),
                "layer_types",
            ),
            (
                json!({"model_type": "qwen3_next", "layer_types": ["linear_attention", "sliding_attention", "conv", "conv"]}),
                "layer_types",
            ),
            (
                json!({"model_type": "granitemoehybrid", "mamba_n_groups": 2}),
                "mamba_n_groups",
            ),
            (
                json!({"model_type": "granitemoehybrid", "mamba_n_heads": 7}),
                "mamba_n_heads",
            ),
            (
                json!({"model_type": "granitemoehybrid", "mamba_d_head": 5}),
                "mamba_d_head",
            ),
            (
                json!({"model_type": "granitemoehybrid", "time_step_limit": [0.001, 0.1]}),
                "time_step_limit",
            ),
            (
                json!({"model_type": "lfm2", "block_ffn_dim_multiplier": 1e9}),
                "block_ffn_dim_multiplier",
            ),
        ] {
            let message = problem(with(extra));
            assert!(message.contains(field), "{field}: {message}");
        }
    }

    fn gemma4(extra: Value) -> Value {
        let mut config = json!({"model_type": "gemma4_text", "num_hidden_layers": 4, "hidden_size_per_layer_input": 0, "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]});
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    /// Published configs of Gemma 4 say how their layers differ in one way, those that transformers saves in another.
    #[test]
    fn heads_that_differ_from_layer_to_layer_are_read_in_both_ways() {
        let published =
            gemma4(json!({"global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": true}));
        let of_layer = json!({"head_dim": 16, "num_key_value_heads": 1});
        let saved = gemma4(json!({"attention_k_eq_v": true, "per_layer_config": {"1": of_layer, "3": of_layer}}));
        assert_eq!(read(published.clone()), read(saved));
        let layers = read(published).layers;
        let heads: Vec<_> = layers
            .iter()
            .map(|layer| (layer.kv_heads, layer.head_dim, layer.keys))
            .collect();
        let (near, far) = ((2, 8, Keys::Own), (1, 16, Keys::OneProduct));
        assert_eq!(heads, [near, far, near, far]);
        // The number of key heads is another only where one product is both.
        let layers = read(gemma4(json!({"global_head_dim": 16, "num_global_key_value_heads": 1}))).layers;
        assert_eq!((layers[1].kv_heads, layers[1].keys), (2, Keys::Own));
        // Whatever is listed, the last layer sees all.
        let sliding = json!([
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention"
        ]);
        assert_eq!(read(gemma4(json!({"layer_types": sliding}))).layers[3].window, None);
    }

    #[test]
    fn what_no_gemma_4_can_be_is_refused_by_field() {
        let of_layer = |own: Value| gemma4(json!({"per_layer_config": {"1": own}}));
        for (extra, field) in [
            (of_layer(json!({"head_dim": 16})), "per_layer_config"),
            (of_layer(json!({"sliding_window": 16})), "sliding_window of layer 1"),
            (of_layer(json!({"head_dim": 0})), "head_dim of layer 1"),
            (
                gemma4(json!({"per_layer_config": {"4": {"head_dim": 8}}})),
                "is no layer",
            ),
            (gemma4(json!({"per_layer_config": [8]})), "per_layer_config"),
            (
                gemma4(json!({"attention_k_eq_v": true, "num_global_key_value_heads": 3})),
                "num_global_key_value_heads",
            ),
            (gemma4(json!({"num_kv_shared_layers": 4})), "num_kv_shared_layers"),
            (gemma4(json!({"num_kv_shared_layers": 3})), "num_kv_shared_layers"),
            (
                gemma4(json!({"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 99})),
                "vocab_size_per_layer_input",
            ),
            (
                gemma4(json!({"use_bidirectional_attention": "all"})),
                "use_bidirectional_attention",
            ),
            (json!({"model_type": "olmo", "clip_qkv": 0.0}), "clip_qkv"),
        ] {
            let message = problem(extra);
            assert!(message.contains(field), "{field}: {message}");
        }
        read(gemma4(json!({"use_bidirectional_attention": "vision"})));
    }

    /// google/gemma-4-E2B-it has projections of keys and values in layers that take those of others.
    #[test]
    fn keys_that_nobody_uses_are_passed_over() {
        let spec = read(gemma4(json!({"num_kv_shared_layers": 2})));
        assert_eq!(spec.layers[3].keys, Keys::Of(1));
        let names = spec.tensor_names();
        let there = || names.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let more = |name: &'static str| spec.check_tensors(there().chain([(name, [16].as_slice())]));
        for name in ["k_proj", "v_proj", "k_norm", "v_norm"] {
            let of_layer = |layer: usize| format!("model.layers.{layer}.self_attn.{name}.weight");
            more(of_layer(2).leak()).unwrap();
            // A layer that has its own needs it; it has no weight for values.
            let is_known = names.iter().any(|(known, _)| *known == of_layer(1));
            assert!(
                is_known || (name == "v_norm" && more(of_layer(1).leak()).is_err()),
                "{name}"
            );
        }
        assert!(more("model.layers.3.self_attn.k_proj.bias").is_ok());
        assert!(more("model.layers.3.self_attn.q_proj.bias").is_err());
    }

    /// Heads that predict several tokens stand in Qwen3-Next's files, and the model is the same without them.
    #[test]
    fn tensors_that_predict_further_tokens_are_passed_over() {
        let spec = read(json!({"model_type": "qwen3_5_text", "linear_num_key_heads": 2, "linear_num_value_heads": 2}));
        let names = spec.tensor_names();
        let there = || names.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let more = |name: &'static str| spec.check_tensors(there().chain([(name, [3].as_slice())]));
        more("mtp.layers.0.mlp.up_proj.weight").unwrap();
        assert!(more("model.mtp.weight").is_err());
    }

    /// A config.json of many zeros too many: the decoder made room for it, and then looked at the tensors.
    #[test]
    fn sizes_are_compared_with_the_tensors_before_there_is_room_for_them() {
        let spec = read(json!({}));
        let names = spec.tensor_names();
        let there = || names.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        spec.check_tensors(there()).unwrap();
        let larger = read(json!({"intermediate_size": 1 << 22}));
        let message = larger.check_tensors(there()).unwrap_err().to_string();
        assert!(
            message.contains("model.layers.0.mlp.gate_proj.weight has 8192 elements"),
            "{message}"
        );
        let deeper = read(json!({"num_hidden_layers": 5}));
        let message = deeper.check_tensors(there()).unwrap_err().to_string();
        assert!(message.contains("no tensor named model.layers.4."), "{message}");
    }

    /// Hunyuan's query norms, StableLM's biases and Seed-OSS's were passed over where config.json said `llama`: another model
    /// was scored, without a word.
    #[test]
    fn a_tensor_that_the_decoder_does_not_use_is_an_error() {
        let spec = read(json!({}));
        let names = spec.tensor_names();
        let with = |extra: &[&'static str]| {
            let there = names.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
            spec.check_tensors(there.chain(extra.iter().map(|name| (*name, [16].as_slice()))))
        };
        with(&["model.layers.0.self_attn.rotary_emb.inv_freq"]).unwrap();
        for extra in [
            "model.layers.1.self_attn.query_layernorm.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "x",
        ] {
            let message = with(&["model.layers.3.zzz", extra]).unwrap_err().to_string();
            assert!(
                message.contains("2 tensors that a llama decoder does not use"),
                "{message}"
            );
            assert!(message.contains(extra.min("model.layers.3.zzz")), "{message}");
        }
    }

    /// transformers masks by the list of layer types, whether or not `use_sliding_window` says so.
    #[test]
    fn smollm3_looks_through_the_windows_that_its_layer_types_name() {
        let windows = |extra: Value| {
            let mut extra = extra;
            extra["model_type"] = "smollm3".into();
            extra["sliding_window"] = 16.into();
            let layers = read(extra).layers;
            layers.iter().map(|layer| layer.window.is_some()).collect::<Vec<_>>()
        };
        let types = [
            "sliding_attention",
            "full_attention",
            "full_attention",
            "sliding_attention",
        ];
        assert_eq!(windows(json!({"layer_types": types})), [true, false, false, true]);
        assert_eq!(windows(json!({})), [false; 4]);
        assert_eq!(
            windows(json!({"use_sliding_window": true})),
            [false, false, false, true]
        );
    }

    #[test]
    fn tensors_of_a_fused_family() {
        let names = read(json!({"model_type": "phi3"})).tensor_names();
        let shape = |name: &str| names.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        assert_eq!(shape("model.layers.3.self_attn.qkv_proj.weight"), Some(vec![128, 64]));
        assert_eq!(shape("model.layers.0.mlp.gate_up_proj.weight"), Some(vec![256, 64]));
        assert_eq!(shape("model.layers.0.self_attn.q_proj.weight"), None);
        assert_eq!(shape("lm_head.weight"), Some(vec![100, 64]));
    }
}
