//! `config.json` → [`DecoderSpec`]: everything the one forward pass needs to know about a family.
//!
//! Both dialects are read: transformers 4 (`rope_theta`, `rope_scaling`) and transformers ≥ 5 (`rope_parameters`, for each
//! layer type where they differ, and `layer_types`). A key that is missing takes the default of its family's configuration
//! class in transformers, because published configs leave defaults out. Nothing here reads a tensor.

use std::collections::HashMap;

use serde_json::Value;

use super::Error;
use super::rope::{RopeScaling, RopeSpec};

/// The families, by their `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    Phi3,
    Olmo2,
    SmolLm3,
    Granite,
}

const FAMILIES: [(&str, Family); 11] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma", Family::Gemma),
    ("gemma2", Family::Gemma2),
    ("gemma3_text", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("olmo2", Family::Olmo2),
    ("smollm3", Family::SmolLm3),
    ("granite", Family::Granite),
];

impl Family {
    /// The `model_type` in config.json.
    pub fn name(self) -> &'static str {
        FAMILIES
            .iter()
            .find(|(_, family)| *family == self)
            .map_or("?", |(name, _)| name)
    }

    fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }
}

/// Whether queries and keys are normalised before the rotation, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Over each head (Qwen3, Gemma 3).
    PerHead,
    /// Over all heads at once (OLMo 2).
    FullWidth,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before attention and before the MLP.
    Pre,
    /// After them, on the branch (OLMo 2).
    Post,
    /// Both (Gemma 2 and 3).
    Sandwich,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu,
    GeluTanh,
    GeluErf,
    Relu,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// A query sees itself and the `window - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
    /// Index into [`DecoderSpec::ropes`]; `None`: no rotation in this layer (SmolLM3).
    pub rope: Option<usize>,
}

/// A decoder-only transformer, as far as arithmetic can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    pub family: Family,
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub layers: Vec<LayerSpec>,
    pub ropes: Vec<RopeSpec>,
    pub max_positions: usize,
    pub tie_embeddings: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// One tensor for q, k and v, one for gate and up (Phi-3).
    pub fused: bool,
    pub qk_norm: QkNorm,
    pub norm_place: NormPlace,
    pub norm_eps: f32,
    /// The norm multiplies by `1 + weight` (Gemma).
    pub norm_plus_one: bool,
    pub activation: Activation,
    pub attention_scale: f32,
    pub attention_softcap: Option<f32>,
    pub embed_scale: f32,
    pub residual_scale: f32,
    /// The logits are divided by this (Granite).
    pub logits_divisor: f32,
    pub final_softcap: Option<f32>,
    /// End-of-sequence tokens that config.json names.
    pub eos_token_ids: Vec<u32>,
}

/// The most layers, and the most of any other size that memory is asked for by. The largest published models stay below a
/// twentieth of each; what is larger is a damaged file. They keep every product of sizes below 2^64.
const MOST_LAYERS: usize = 1 << 12;
const MOST: usize = 1 << 22;

impl DecoderSpec {
    /// Reads a `config.json`.
    ///
    /// **Errors** name the field: an unknown `model_type` (with the list of known ones), a missing or misshapen number,
    /// heads that do not divide, an activation or RoPE scaling nobody wrote.
    pub fn from_config(config: &Value) -> Result<Self, Error> {
        let model_type = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_string();
        let family = FAMILIES
            .iter()
            .find(|(name, _)| *name == model_type)
            .map(|(_, family)| *family)
            .ok_or_else(|| Error::UnknownFamily {
                model_type: model_type.clone(),
                known: FAMILIES.map(|(name, _)| name).join(", "),
            })?;
        let c = Config(config);
        use Family::*;

        let hidden = c.size("hidden_size", MOST)?;
        let heads = c.size("num_attention_heads", MOST)?;
        let kv_default = match family {
            Mistral => 8,
            Gemma => 16,
            Gemma2 | Gemma3 | SmolLm3 => 4,
            Qwen2 | Qwen3 => 32,
            Llama | Phi3 | Olmo2 | Granite => heads,
        };
        let kv_heads = match config.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => c.size_or("num_key_value_heads", kv_default)?,
        };
        let head_dim = match (c.optional_size("head_dim")?, family) {
            (Some(d), _) => d,
            (None, Qwen3) => 128,
            (None, Gemma | Gemma2 | Gemma3) => 256,
            (None, _) if hidden % heads == 0 => hidden / heads,
            (None, _) => {
                return Err(c.error("hidden_size", format!("{hidden} is not a multiple of {heads} heads")));
            }
        };
        for (field, size) in [
            ("num_key_value_heads", kv_heads),
            ("head_dim", heads.saturating_mul(head_dim)),
        ] {
            if size > MOST {
                return Err(c.error(
                    field,
                    format!("{heads} heads of {head_dim} in all are more than {MOST}"),
                ));
            }
        }
        if heads % kv_heads != 0 {
            let problem = format!("{kv_heads} does not divide num_attention_heads = {heads}");
            return Err(c.error("num_key_value_heads", problem));
        }
        let layers = c.size("num_hidden_layers", MOST_LAYERS)?;
        let max_positions = match family {
            Llama | Olmo2 | Granite => 2048,
            Phi3 => 4096,
            Gemma | Gemma2 => 8192,
            Qwen2 | Qwen3 | SmolLm3 => 32_768,
            Mistral | Gemma3 => 131_072,
        };
        let max_positions = c.size_or("max_position_embeddings", max_positions)?;
        let attention_bias = c.flag("attention_bias", false)?;
        let query_scalar = || c.number_or("query_pre_attn_scalar", 256.0);
        let (ropes, layers) = layer_specs(&c, family, layers, head_dim, max_positions)?;

        let spec = DecoderSpec {
            family,
            vocab: c.size("vocab_size", MOST)?,
            hidden,
            intermediate: c.size("intermediate_size", MOST)?,
            heads,
            kv_heads,
            head_dim,
            layers,
            ropes,
            max_positions,
            tie_embeddings: c.flag("tie_word_embeddings", family.is_gemma() || family == SmolLm3)?,
            qkv_bias: match family {
                Qwen2 => true,
                Mistral | Phi3 => false,
                _ => attention_bias,
            },
            o_bias: !matches!(family, Qwen2 | Mistral | Phi3) && attention_bias,
            mlp_bias: matches!(family, Llama | SmolLm3 | Granite) && c.flag("mlp_bias", false)?,
            fused: family == Phi3,
            qk_norm: match family {
                Qwen3 | Gemma3 => QkNorm::PerHead,
                Olmo2 => QkNorm::FullWidth,
                _ => QkNorm::None,
            },
            norm_place: match family {
                Olmo2 => NormPlace::Post,
                Gemma2 | Gemma3 => NormPlace::Sandwich,
                _ => NormPlace::Pre,
            },
            norm_eps: c.number_or("rms_norm_eps", if matches!(family, Phi3 | Olmo2) { 1e-5 } else { 1e-6 })? as f32,
            norm_plus_one: family.is_gemma(),
            activation: activation(&c, family)?,
            attention_scale: match family {
                Gemma2 | Gemma3 => query_scalar()?.powf(-0.5),
                Granite => c.number_or("attention_multiplier", 1.0)?,
                _ => (head_dim as f64).powf(-0.5),
            } as f32,
            // Gemma 3 keeps the key in its config, but its attention does not use it.
            attention_softcap: match family {
                Gemma2 => c
                    .number_or_null("attn_logit_softcapping", Some(50.0))?
                    .map(|x| x as f32),
                _ => None,
            },
            embed_scale: match family {
                Gemma | Gemma2 | Gemma3 => (hidden as f64).sqrt(),
                Granite => c.number_or("embedding_multiplier", 1.0)?,
                _ => 1.0,
            } as f32,
            residual_scale: if family == Granite {
                c.number_or("residual_multiplier", 1.0)? as f32
            } else {
                1.0
            },
            logits_divisor: if family == Granite {
                c.number_or("logits_scaling", 1.0)? as f32
            } else {
                1.0
            },
            final_softcap: match family {
                Gemma2 => c
                    .number_or_null("final_logit_softcapping", Some(30.0))?
                    .map(|x| x as f32),
                Gemma3 => c.number_or_null("final_logit_softcapping", None)?.map(|x| x as f32),
                _ => None,
            },
            eos_token_ids: token_ids(config.get("eos_token_id")),
        };
        if config.get("use_bidirectional_attention").and_then(Value::as_bool) == Some(true) {
            return Err(c.error(
                "use_bidirectional_attention",
                "true: this decoder is causal only".into(),
            ));
        }
        Ok(spec)
    }

    /// The tensors that the decoder needs, by their Hugging Face names, with their shapes.
    pub fn tensor_names(&self) -> Vec<(String, Vec<usize>)> {
        let (h, q, kv) = (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut names = vec![("model.embed_tokens.weight".to_string(), vec![self.vocab, h])];
        for layer in 0..self.layers.len() {
            let mut add =
                |name: &str, shape: &[usize]| names.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            let mut linear = |name: &str, out: usize, inner: usize, bias: bool| {
                add(&format!("{name}.weight"), &[out, inner]);
                if bias {
                    add(&format!("{name}.bias"), &[out]);
                }
            };
            if self.fused {
                linear("self_attn.qkv_proj", q + 2 * kv, h, false);
                linear("mlp.gate_up_proj", 2 * self.intermediate, h, false);
            } else {
                linear("self_attn.q_proj", q, h, self.qkv_bias);
                linear("self_attn.k_proj", kv, h, self.qkv_bias);
                linear("self_attn.v_proj", kv, h, self.qkv_bias);
                linear("mlp.gate_proj", self.intermediate, h, self.mlp_bias);
                linear("mlp.up_proj", self.intermediate, h, self.mlp_bias);
            }
            linear("self_attn.o_proj", h, q, self.o_bias);
            linear("mlp.down_proj", h, self.intermediate, self.mlp_bias);
            match self.qk_norm {
                QkNorm::None => {}
                QkNorm::PerHead => {
                    add("self_attn.q_norm.weight", &[self.head_dim]);
                    add("self_attn.k_norm.weight", &[self.head_dim]);
                }
                QkNorm::FullWidth => {
                    add("self_attn.q_norm.weight", &[q]);
                    add("self_attn.k_norm.weight", &[kv]);
                }
            }
            for norm in self.layer_norms().into_iter().flatten() {
                add(&format!("{norm}.weight"), &[h]);
            }
        }
        names.push(("model.norm.weight".to_string(), vec![h]));
        if !self.tie_embeddings {
            names.push(("lm_head.weight".to_string(), vec![self.vocab, h]));
        }
        names
    }

    /// Refuses a model that is not what its config.json says: one that lacks a tensor of the decoder, has one of another
    /// size, or has one that the decoder does not use. To be asked before [`Decoder::load`](super::Decoder::load) makes room.
    ///
    /// **Errors** name the tensor.
    pub fn check_tensors<'a>(&self, there: impl IntoIterator<Item = (&'a str, &'a [usize])>) -> Result<(), Error> {
        let mut there: HashMap<&str, &[usize]> = there.into_iter().collect();
        for (tensor, shape) in self.tensor_names() {
            let Some(there) = there.remove(tensor.as_str()) else {
                let (family, layers) = (self.family.name(), self.layers.len());
                return Err(Error::UnknownTensor { tensor, family, layers });
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
        let unused = there.keys().filter(|name| !is_recomputed(name));
        match unused.clone().min() {
            None => Ok(()),
            Some(first) => Err(Error::UnusedTensors {
                tensor: (*first).into(),
                count: unused.count(),
                family: self.family.name(),
            }),
        }
    }

    /// Names of a layer's four possible norms: before and after attention, before and after the MLP.
    pub(super) fn layer_norms(&self) -> [Option<&'static str>; 4] {
        match self.norm_place {
            NormPlace::Pre => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
            NormPlace::Post => [
                None,
                Some("post_attention_layernorm"),
                None,
                Some("post_feedforward_layernorm"),
            ],
            NormPlace::Sandwich => [
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.tensor_names()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }
}

/// Whether a tensor holds what every loader computes anew: rotary tables and causal masks of old checkpoints.
fn is_recomputed(name: &str) -> bool {
    const TABLES: [&str; 6] = [
        "rotary_emb.inv_freq",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        ".attn.masked_bias",
        ".attention.masked_bias",
        ".attention.bias",
    ];
    let is_mask = name.starts_with("transformer.h.") || name.starts_with("h.");
    TABLES.iter().any(|table| name.ends_with(table)) || is_mask && name.ends_with(".attn.bias")
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

fn activation(c: &Config, family: Family) -> Result<Activation, Error> {
    let key = if matches!(family, Family::Gemma2 | Family::Gemma3) {
        "hidden_activation"
    } else {
        "hidden_act"
    };
    let default = if family.is_gemma() { "gelu_pytorch_tanh" } else { "silu" };
    match c.0.get(key).and_then(Value::as_str).unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
        // Gemma 1 was published with "gelu" and means the tanh form.
        "gelu" if family == Family::Gemma => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::GeluErf),
        "relu" => Ok(Activation::Relu),
        other => Err(c.error(
            key,
            format!("\"{other}\" is not one of silu, gelu, gelu_pytorch_tanh, relu"),
        )),
    }
}

/// Which layers look through a window, and how each layer rotates.
fn layer_specs(
    c: &Config,
    family: Family,
    count: usize,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<RopeSpec>, Vec<LayerSpec>), Error> {
    use Family::*;
    let window = match family {
        Mistral => c.size_or_null("sliding_window", Some(4096))?,
        Gemma2 | Gemma3 => c.size_or_null("sliding_window", Some(4096))?,
        Phi3 => c.size_or_null("sliding_window", None)?,
        Qwen2 | Qwen3 if c.flag("use_sliding_window", false)? => c.size_or_null("sliding_window", Some(4096))?,
        SmolLm3 => c.size_or_null("sliding_window", None)?,
        _ => None,
    };
    let no_rope = no_rope_layers(c, family, count)?;
    let has_types = matches!(family, Qwen2 | Qwen3 | Gemma2 | Gemma3 | SmolLm3);
    let types = if has_types { layer_types(c, count)? } else { None };
    let first_window_layer = c.number_or("max_window_layers", 28.0)?;
    let pattern = c.size_or("sliding_window_pattern", 6)?;
    let uses_window = c.flag("use_sliding_window", false)?;
    let is_sliding = |layer: usize| match (&types, family) {
        (Some(types), _) => types[layer],
        (None, Mistral | Phi3) => true,
        (None, Qwen2 | Qwen3) => layer as f64 >= first_window_layer,
        (None, Gemma2) => layer.is_multiple_of(2),
        (None, Gemma3) => !(layer + 1).is_multiple_of(pattern),
        (None, SmolLm3) => uses_window && !no_rope[layer],
        (None, _) => false,
    };
    let ropes = if family == Gemma3 {
        let full = RopeScaling::read_nested(c, "full_attention", "rope_theta", 1_000_000.0, max_positions)?;
        let sliding =
            RopeScaling::read_nested(c, "sliding_attention", "rope_local_base_freq", 10_000.0, max_positions)?;
        vec![
            full.spec(head_dim, max_positions),
            sliding.spec(head_dim, max_positions),
        ]
    } else {
        let theta = if family == SmolLm3 { 2_000_000.0 } else { 10_000.0 };
        vec![RopeScaling::read_flat(c, family == Phi3, theta, max_positions)?.spec(head_dim, max_positions)]
    };
    let mut layers = Vec::with_capacity(count);
    for (layer, &rotates) in no_rope.iter().enumerate() {
        let sliding = is_sliding(layer);
        let rope = if family == Gemma3 && sliding { 1 } else { 0 };
        layers.push(LayerSpec {
            window: window.filter(|_| sliding),
            rope: rotates.then_some(rope),
        });
    }
    Ok((ropes, layers))
}

/// For each layer, whether it rotates (SmolLM3's `no_rope_layers`: 1 = rotates).
fn no_rope_layers(c: &Config, family: Family, count: usize) -> Result<Vec<bool>, Error> {
    if family != Family::SmolLm3 {
        return Ok(vec![true; count]);
    }
    match c.0.get("no_rope_layers").filter(|v| !v.is_null()) {
        None => {
            let interval = c.size_or("no_rope_layer_interval", 4)?.max(1);
            Ok((0..count).map(|layer| (layer + 1) % interval != 0).collect())
        }
        Some(value) => {
            let flags: Vec<bool> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(|v| v.as_u64() != Some(0) && v.as_bool() != Some(false))
                .collect();
            if flags.len() < count {
                return Err(c.error(
                    "no_rope_layers",
                    format!("has {} entries for {count} layers", flags.len()),
                ));
            }
            Ok(flags[..count].to_vec())
        }
    }
}

/// `layer_types`, where given: for each layer, whether it looks through the window.
fn layer_types(c: &Config, count: usize) -> Result<Option<Vec<bool>>, Error> {
    let Some(list) = c.0.get("layer_types").and_then(Value::as_array) else {
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

/// Typed access to config.json with errors that name the field.
pub(super) struct Config<'a>(pub &'a Value);

impl Config<'_> {
    pub fn error(&self, field: &str, problem: String) -> Error {
        Error::Config {
            field: field.to_string(),
            problem,
        }
    }

    fn present(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.present(field) else {
            return Ok(None);
        };
        // A size of 2^32 and more is a damaged file; refusing it here keeps every product below in range.
        match value.as_u64().filter(|n| (1..1 << 32).contains(n)) {
            Some(n) => Ok(Some(n as usize)),
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
        if self.0.get(field).is_none() {
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

    fn number_or_null(&self, field: &str, default: Option<f64>) -> Result<Option<f64>, Error> {
        if self.0.get(field).is_none() {
            Ok(default)
        } else {
            self.number(field)
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, Error> {
        match self.present(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.error(field, format!("expected true or false, got {other}"))),
        }
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
