//! The architectures of GGUF files, a row each: llama.cpp's names for a family's modules, and what its layout changes.
//!
//! `gguf` reads by these rows and `gguf_write` writes by them. What llama.cpp takes for granted of a family, and no key says,
//! is here too: such a thing is written into the config on the way in, and refused on the way out where a model differs.
//!
//! Source: gguf-py's constants.py and llama.cpp's convert_hf_to_gguf.py for names and order, its models for the rest.

use serde_json::Value as Json;

/// An architecture of llama.cpp.
#[derive(Debug, PartialEq)]
pub(super) struct Architecture {
    /// llama.cpp's name of it.
    pub name: &'static str,
    /// transformers' name of it.
    pub model_type: &'static str,
    pub class: &'static str,
    /// llama.cpp's name of a layer's module, and transformers'.
    pub modules: &'static [(&'static str, &'static str)],
    /// Rows of q and k stand in pairs, since llama.cpp rotates neighbours.
    pub pairs: bool,
    /// Norms are stored with the one added that the model adds when it computes.
    pub norm_plus_one: bool,
    pub activation: &'static str,
    /// Layers without a window: each n-th; 0 where the architecture has no windows of this kind.
    pub full_each: usize,
    /// How many layers the model has whose attention is scaled by the width of the stream over the heads, and not by a head's.
    pub wide_scale_layers: usize,
}

/// A layer as Llama has it.
const LLAMA_MODULES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// With norms before and after both branches, or after them only.
const SANDWICH_MODULES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const PHI3_MODULES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const QWEN3_MOE_MODULES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate_inp", "mlp.gate"),
];

/// Tensors of all experts in one, `[experts, rows, columns]`: llama.cpp's name, and what stands behind an expert's number.
pub(super) const EXPERTS: [(&str, &str); 3] = [
    ("ffn_gate_exps", "gate_proj"),
    ("ffn_up_exps", "up_proj"),
    ("ffn_down_exps", "down_proj"),
];

/// What stands before an expert's number within a layer.
pub(super) const BEFORE_EXPERT: &str = "mlp.experts.";

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    modules: LLAMA_MODULES,
    pairs: true,
    norm_plus_one: false,
    activation: "silu",
    full_each: 0,
    wide_scale_layers: 0,
};

const GEMMA: Architecture = Architecture {
    name: "gemma",
    model_type: "gemma",
    class: "GemmaForCausalLM",
    pairs: false,
    norm_plus_one: true,
    activation: "gelu_pytorch_tanh",
    ..LLAMA
};

const GEMMA2: Architecture = Architecture {
    name: "gemma2",
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    modules: SANDWICH_MODULES,
    full_each: 2,
    wide_scale_layers: 46,
    ..GEMMA
};

pub(super) const ARCHITECTURES: [Architecture; 11] = [
    LLAMA,
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        pairs: false,
        ..LLAMA
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        pairs: false,
        ..LLAMA
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        modules: QWEN3_MOE_MODULES,
        pairs: false,
        ..LLAMA
    },
    GEMMA,
    GEMMA2,
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        full_each: 6,
        wide_scale_layers: 62,
        ..GEMMA2
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        modules: PHI3_MODULES,
        pairs: false,
        ..LLAMA
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        ..LLAMA
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        modules: SANDWICH_MODULES,
        pairs: false,
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        ..LLAMA
    },
];

/// Numbers of a config that llama.cpp keeps under keys of its own: its key, transformers', and what it is where the file does
/// not say.
pub(super) fn numbers(architecture: &str) -> &'static [(&'static str, &'static str, Option<f64>)] {
    match architecture {
        "granite" => &[
            ("embedding_scale", "embedding_multiplier", Some(1.0)),
            ("residual_scale", "residual_multiplier", Some(1.0)),
            ("attention.scale", "attention_multiplier", Some(1.0)),
            ("logit_scale", "logits_scaling", Some(1.0)),
        ],
        "gemma2" => &[
            ("attn_logit_softcapping", "attn_logit_softcapping", Some(50.0)),
            ("final_logit_softcapping", "final_logit_softcapping", Some(30.0)),
        ],
        "gemma3" => &[
            ("final_logit_softcapping", "final_logit_softcapping", None),
            ("rope.freq_base_swa", "rope_local_base_freq", Some(10_000.0)),
        ],
        _ => &[],
    }
}

impl Architecture {
    /// What attention divides by the root of, as llama.cpp decides it.
    pub fn query_scalar(&self, layers: usize, hidden: usize, heads: usize, head_dim: usize) -> usize {
        match layers == self.wide_scale_layers {
            true => hidden / heads,
            false => head_dim,
        }
    }

    /// Whether a layer looks through a window, where the architecture has windows.
    pub fn slides(&self, layer: usize) -> bool {
        self.full_each > 0 && !(layer + 1).is_multiple_of(self.full_each)
    }

    /// Whether the norms of a tensor's kind are stored with one added.
    pub fn adds_one(&self, name: &str) -> bool {
        self.norm_plus_one && name.ends_with("norm.weight")
    }
}

/// Whether a config's layers look through windows as the architecture's do; where it does not say, they do.
pub(super) fn has_usual_windows(architecture: &Architecture, config: &Json) -> bool {
    let types = config["layer_types"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_usual = |(layer, kind): (usize, &Json)| {
        let slides = kind == "sliding_attention";
        slides == architecture.slides(layer)
    };
    let pattern = config["sliding_window_pattern"].as_u64();
    types.iter().enumerate().all(is_usual) && pattern.is_none_or(|nth| nth == architecture.full_each as u64)
}
