//! The families of decoders, a row each: what a config leaves out, and what is particular to its layers.
//!
//! A row says where a family differs from [`LLAMA`], in the words of the one forward pass. `spec` reads a config by its row;
//! nothing beyond the two knows a family by its name. Defaults and rules are those of the configuration classes of
//! transformers 5.24; a new row needs goldens (`tests/data/generate.py`).

use super::mixer::{Inputs, Layers, MixerKind, MixerRow};

/// A family of decoders.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// The `model_type` in config.json.
    name: &'static str,
    pub(super) names: &'static Names,
    /// Keys that config.json calls otherwise: (here, there).
    pub(super) keys: &'static [(&'static str, &'static str)],
    /// Keys of older configs, which count where both are there: (here, there).
    pub(super) older_keys: &'static [(&'static str, &'static str)],
    /// Settings that the decoder cannot do otherwise: the key, and the only value it may have if it is there.
    pub(super) only: &'static [(&'static str, Only)],
    /// Whether key heads may be fewer than query heads.
    pub(super) groups_heads: bool,
    /// `None`: as many as there are query heads.
    pub(super) kv_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) max_positions: usize,
    pub(super) tie: bool,
    pub(super) head_bias: Flag,
    pub(super) qkv_bias: Flag,
    pub(super) o_bias: Flag,
    pub(super) mlp_bias: Flag,
    /// One tensor for q, k and v; one for gate and up.
    pub(super) qkv: Qkv,
    pub(super) fused_gate_up: bool,
    /// How wide an MLP is where the config does not say; `None`: it must.
    pub(super) mlp_width: Option<MlpWidth>,
    /// An MLP is narrower than `intermediate_size` says, by two thirds, a multiplier and a multiple (LFM2).
    pub(super) narrows_mlp: bool,
    /// Whether an MLP has a gate; without, it is two matrices with an activation between.
    pub(super) gated: bool,
    /// The layers' MLPs are many, and a router chooses among them.
    pub(super) experts: Option<&'static Mixture>,
    /// What stands in attention's place in some of the layers.
    pub(super) mixer: Option<&'static MixerRow>,
    /// What each query head attends to is weighed by a gate, whose rows stand behind those of the head's query.
    pub(super) gates_heads: bool,
    /// What the names of tensors begin with that the decoder has no use for: heads that predict several tokens.
    pub(super) passed_over: Option<&'static str>,
    /// Attention and MLP read the same stream, and both are added to it.
    pub(super) parallel: Flag,
    /// A parallel layer has one norm for both branches.
    pub(super) parallel_shares_norm: bool,
    pub(super) qk_norm: QkNorm,
    pub(super) has_qk_norm: Flag,
    /// What the norms of queries and keys do.
    pub(super) qk_norm_kind: NormKind,
    /// Queries, keys and values are held within `clip_qkv`, where the config has it.
    pub(super) clips_qkv: bool,
    /// Values are normed over each head, by no weight.
    pub(super) norms_values: bool,
    /// Layers without a window have heads of a size of their own (`global_head_dim`, by default this) and of a number of their
    /// own (`num_global_key_value_heads`), or `per_layer_config` says so; one product may be keys and values of such a layer
    /// (`attention_k_eq_v`), and the last `num_kv_shared_layers` take those of a layer before them, with MLPs of twice the width
    /// if `use_double_wide_mlp`.
    pub(super) global_head_dim: Option<usize>,
    /// How wide the embeddings are by default that a token has in every layer; `None`: it has none.
    pub(super) per_layer_width: Option<usize>,
    /// What a layer gives is multiplied by a number of its own.
    pub(super) scales_layers: bool,
    /// Each query head has a score of its own beside those of the keys, which takes weight from them.
    pub(super) sinks: bool,
    pub(super) norm: NormKind,
    /// The norm multiplies by `1 + weight`.
    pub(super) norm_plus_one: bool,
    pub(super) norm_eps: f64,
    pub(super) activation: &'static str,
    /// "gelu" means the tanh form.
    pub(super) gelu_is_tanh: bool,
    pub(super) rope: Rope,
    pub(super) windows: Windows,
    /// Layers without a window do not rotate, where the model has windows.
    pub(super) full_layers_rotate: bool,
    pub(super) scales: Scales,
    /// Linear weights of the layers are stored `[in, out]`.
    pub(super) turned: bool,
}

impl Family {
    /// All that `config.json` can name alone, in the order of `heterosis families`.
    pub fn all() -> &'static [Family] {
        FAMILIES
    }

    /// The `model_type` that `config.json` says.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// The family of a `model_type`.
pub(super) fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == model_type)
}

/// The family of a `model_type` within a wrapper.
pub(super) fn find_wrapped(model_type: &str) -> Option<&'static Family> {
    let wrapped = WRAPPED.iter().find(|family| family.name == model_type);
    wrapped.or_else(|| find(model_type))
}

/// The names of all, in one line.
pub(super) fn known() -> String {
    let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
    names.join(", ")
}

/// In a name, what the number of a head stands for.
pub(super) const HEAD: &str = "{head}";

/// What a checkpoint calls its tensors; a weight's name goes on with `.weight`, a bias's with `.bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Names {
    pub embeddings: &'static str,
    pub positions: Option<&'static str>,
    /// What a layer's number stands behind.
    pub layers: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub qkv: &'static str,
    pub o: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub gate_up: &'static str,
    pub down: &'static str,
    /// With [`HEAD`] in them, a tensor for each head.
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    /// The norms before and after attention, before and after the MLP.
    pub norms: [Option<&'static str>; 4],
}

/// How a family's experts are chosen, and what its files call them. Where its layers are not all made of experts, the others
/// have one MLP, named as in other families.
#[derive(Debug, PartialEq)]
pub(super) struct Mixture {
    /// The ways in which checkpoints store them; the first is taken where nobody has looked.
    pub stored: &'static [ExpertNames],
    /// How many experts by default, by whichever key.
    pub count: usize,
    /// How many a token goes to by default.
    pub per_token: usize,
    /// `moe_intermediate_size` by default; `None`: `intermediate_size` is meant.
    pub width: Option<usize>,
    pub router: Chosen,
    /// Whether the weights of the chosen are made to sum to one.
    pub normalised: Flag,
    /// What is added to that which they are divided by.
    pub floor: f32,
    pub shared: Shared,
    pub dense: Dense,
    /// Router and experts have biases.
    pub biases: bool,
    /// Whether there are any.
    pub are_there: Flag,
    /// They stand beside a layer's one MLP, and not in its place.
    pub beside: Option<BesideMlp>,
}

/// What a checkpoint calls the norms and scales of experts that stand beside an MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BesideMlp {
    /// The norms after the MLP, before the experts, and after them.
    pub norms: [&'static str; 3],
    /// What the stream, normed, is multiplied by before the router reads it; whole names, like the next.
    pub router_scale: &'static str,
    /// What the weight of each expert is multiplied by.
    pub expert_scales: &'static str,
}

/// What a checkpoint calls a layer's router and experts.
#[derive(Debug, PartialEq)]
pub struct ExpertNames {
    pub router: &'static str,
    /// What is added to the scores when experts are chosen, and not when they are weighed; a whole name.
    pub correction: Option<&'static str>,
    pub experts: Stored,
    pub shared: &'static str,
    pub shared_gate: &'static str,
}

/// Experts in a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stored {
    /// `PREFIX.7.GATE.weight`: a tensor for each matrix of each expert.
    Each {
        prefix: &'static str,
        /// Gate, up and down.
        matrices: [&'static str; 3],
    },
    /// Two tensors for all, `[experts, 2 · width, hidden]` and `[experts, hidden, width]`; no `.weight` behind their names.
    Fused {
        gate_up: &'static str,
        down: &'static str,
        /// Each expert's matrices stand by column.
        turned: bool,
        /// Gate and up take turns, one row of the one after one of the other.
        in_turns: bool,
    },
}

/// By which scores experts are chosen and weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chosen {
    /// The softmax over all.
    Softmax,
    /// The sigmoid of each; in groups, of which the best few are looked into.
    Sigmoid,
    /// The best two, each weighed among those that are nearly as good (arXiv 2409.12136).
    SparseMixer,
}

/// The expert that every token goes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shared {
    None,
    /// Of a width by a key and its default; weighed by the sigmoid of a number that it is given by the token.
    Weighed(&'static str, usize),
    /// As wide as so many experts.
    Widths(&'static str, usize),
    /// Of a width by a key and its default.
    Plain(&'static str, usize),
}

/// How wide an MLP is where the config does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum MlpWidth {
    Of(usize),
    /// So many times as wide as the stream.
    Times(usize),
}

/// Which layers have no experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Dense {
    None,
    /// The first few.
    First(&'static str, usize),
    /// Those in `mlp_only_layers`, and all but each `decoder_sparse_step`-th.
    Listed,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Flag {
    No,
    Yes,
    /// As the config's key says, or by this default.
    Key(&'static str, bool),
}

/// The value of a setting with which the decoder computes a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Only {
    False,
    True,
    /// Anything but a word.
    Not(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Qkv {
    Apart,
    /// All queries, then all keys, then all values.
    Fused,
    /// Head by head its query, key and value.
    ByHead,
}

/// Whether queries and keys are normalised, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Neither is.
    None,
    /// Over each head, before the rotation (Qwen3, Gemma 3).
    PerHead,
    /// Over each head, by weights of its own, before the rotation (Command R+).
    EachHead,
    /// Over each head, after the rotation (Hunyuan).
    PerHeadRotated,
    /// Over all heads at once, before the rotation (OLMo 2).
    FullWidth,
}

/// What a norm of the stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) · weight`.
    Rms,
    /// The same, and the weight is meant as it stands where those of the family's other norms are about one.
    RmsAsStored,
    /// `(x − mean(x)) / √(var(x) + ε)`, times a weight and plus a bias where the family has them.
    Layer {
        /// Whether it is multiplied by a learned weight.
        weight: bool,
        /// Whether a learned bias is added.
        bias: bool,
    },
}

impl NormKind {
    /// Whether it has learned weights, and a learned bias.
    pub(super) fn learns(self) -> (bool, bool) {
        match self {
            NormKind::Rms | NormKind::RmsAsStored => (true, false),
            NormKind::Layer { weight, bias } => (weight, bias),
        }
    }
}

/// How a family's heads rotate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rope {
    pub theta: f64,
    /// What part of a head rotates by default; `None`: all of it, whatever the config says.
    pub partial: Option<f64>,
    /// How many dimensions of a head rotate: the key that says so, and its default.
    pub dim: Option<(&'static str, usize)>,
    /// The pairs are neighbours, `(2i, 2i + 1)`, and not `(i, i + half)`.
    pub neighbours: bool,
    /// Layers with and without a window have a base each: the key of old configs for that of the former, and its default.
    pub windowed: Option<(Option<&'static str>, f64)>,
    /// LongRoPE by Phi-MoE's rules: the short factors always, and cos and sin times `short_mscale` or `long_mscale`;
    /// recomputed as Phi-3's.
    pub mscales: bool,
    /// LongRoPE by Phi-3's rules: "yarn" means it too, and a row is computed anew when it grows beyond the original length.
    pub phi3: bool,
    /// "dynamic" with `alpha` stretches the base once and for all (Hunyuan).
    pub alpha: bool,
    /// Queries are scaled by `1 + β·ln(1 + ⌊position / original⌋)`, β being `llama_4_scaling_beta`.
    pub grows_queries: bool,
    /// "mrope": dimensions turn by the place in time, height or width, all of which are the position in a text.
    pub sections: bool,
    /// "proportional": the frequencies are those of whole heads, and only the first part of them turns.
    pub proportional: bool,
    /// What a config without any of it means.
    pub absent: Option<&'static str>,
    /// No layer rotates unless this key has this value.
    pub only_if: Option<(&'static str, &'static str)>,
}

impl Rope {
    /// Whether a row that grows beyond the original length is computed anew.
    pub fn recomputes(&self) -> bool {
        self.phi3 || self.mscales
    }
}

/// Which layers look through a window where `layer_types` does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Windows {
    /// None, and `layer_types` is not read.
    Never,
    /// All; `layer_types` is not read.
    All { default: Option<usize> },
    /// All but what `layer_types` says.
    AllUnlessListed { default: Option<usize> },
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    From,
    /// Every second, from the first on, before `max_window_layers`, if `use_sliding_window`.
    AlternatingUntil,
    /// All, if `use_sliding_window`.
    AllIf,
    /// Every second, from the first on.
    Alternating,
    /// All but each n-th, by `sliding_window_pattern`.
    AllBut { nth: usize, size: usize },
    /// All but each n-th, and never the last.
    ButLast { nth: usize, size: usize },
    /// Those that do not rotate (`no_rope_layers`, or each n-th by `no_rope_layer_interval`), if `use_sliding_window`.
    Unrotated { nth: usize },
}

/// Which numbers the stream, attention and logits are scaled by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scales {
    Plain,
    /// Embeddings by the root of their width.
    Gemma,
    /// The same; attention by a number of the config, and soft caps with these defaults (`None`: not read; attention, logits).
    QueryScalar([Option<f64>; 2]),
    /// Embeddings by the root of their width, attention not at all, and a soft cap of logits if the config has one.
    Gemma4,
    Granite,
    /// Logits by `logit_scale`.
    Cohere,
    /// Attention not at all, where `scale_attn_weights` is false.
    Gpt2,
}

const HF: Names = Names {
    embeddings: "model.embed_tokens",
    positions: None,
    layers: "model.layers.",
    norm: "model.norm",
    head: "lm_head",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    qkv: "self_attn.qkv_proj",
    o: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    gate_up: "mlp.gate_up_proj",
    down: "mlp.down_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    norms: [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
};

const POST: Names = Names {
    norms: [
        None,
        Some("post_attention_layernorm"),
        None,
        Some("post_feedforward_layernorm"),
    ],
    ..HF
};

const SANDWICH: Names = Names {
    norms: [
        Some("input_layernorm"),
        Some("post_attention_layernorm"),
        Some("pre_feedforward_layernorm"),
        Some("post_feedforward_layernorm"),
    ],
    ..HF
};

const GLM4_NAMES: Names = Names {
    norms: [
        Some("input_layernorm"),
        Some("post_self_attn_layernorm"),
        Some("post_attention_layernorm"),
        Some("post_mlp_layernorm"),
    ],
    ..HF
};

const ONE_NORM: Names = Names {
    norms: [Some("input_layernorm"), None, None, None],
    ..HF
};

const HUNYUAN_NAMES: Names = Names {
    q_norm: "self_attn.query_layernorm",
    k_norm: "self_attn.key_layernorm",
    ..HF
};

const STABLELM_NAMES: Names = Names {
    q_norm: "self_attn.q_layernorm.norms.{head}",
    k_norm: "self_attn.k_layernorm.norms.{head}",
    ..HF
};

const STARCODER2_NAMES: Names = Names {
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    ..HF
};

const PHI_NAMES: Names = Names {
    norm: "model.final_layernorm",
    o: "self_attn.dense",
    up: "mlp.fc1",
    down: "mlp.fc2",
    q_norm: "self_attn.q_layernorm",
    k_norm: "self_attn.k_layernorm",
    ..ONE_NORM
};

const NEOX_NAMES: Names = Names {
    embeddings: "gpt_neox.embed_in",
    layers: "gpt_neox.layers.",
    norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
    qkv: "attention.query_key_value",
    o: "attention.dense",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    ..HF
};

const GPTJ_NAMES: Names = Names {
    embeddings: "transformer.wte",
    layers: "transformer.h.",
    norm: "transformer.ln_f",
    q: "attn.q_proj",
    k: "attn.k_proj",
    v: "attn.v_proj",
    o: "attn.out_proj",
    up: "mlp.fc_in",
    down: "mlp.fc_out",
    norms: [Some("ln_1"), None, None, None],
    ..HF
};

const GPT2_NAMES: Names = Names {
    positions: Some("transformer.wpe"),
    qkv: "attn.c_attn",
    o: "attn.c_proj",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    norms: [Some("ln_1"), None, Some("ln_2"), None],
    ..GPTJ_NAMES
};

const APERTUS_NAMES: Names = Names {
    norms: [Some("attention_layernorm"), None, Some("feedforward_layernorm"), None],
    ..HF
};

const LFM2_NAMES: Names = Names {
    norm: "model.embedding_norm",
    o: "self_attn.out_proj",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    q_norm: "self_attn.q_layernorm",
    k_norm: "self_attn.k_layernorm",
    norms: [Some("operator_norm"), None, Some("ffn_norm"), None],
    ..HF
};

const GRANITE4_NAMES: Names = Names {
    gate_up: "shared_mlp.input_linear",
    down: "shared_mlp.output_linear",
    ..HF
};

/// A tensor for each matrix of each expert.
const EACH: ExpertNames = ExpertNames {
    router: "mlp.gate",
    correction: None,
    experts: Stored::Each {
        prefix: "mlp.experts",
        matrices: ["gate_proj", "up_proj", "down_proj"],
    },
    shared: "mlp.shared_expert",
    shared_gate: "mlp.shared_expert_gate",
};

/// As transformers 5 computes with them, and stores them if it is told to.
const FUSED: ExpertNames = ExpertNames {
    experts: Stored::Fused {
        gate_up: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
        turned: false,
        in_turns: false,
    },
    ..EACH
};

/// As Qwen3-VL's mixture was published: by column.
const FUSED_BY_COLUMN: ExpertNames = ExpertNames {
    experts: Stored::Fused {
        gate_up: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
        turned: true,
        in_turns: false,
    },
    ..EACH
};

const EACH_OF_MIXTRAL: ExpertNames = ExpertNames {
    router: "block_sparse_moe.gate",
    experts: Stored::Each {
        prefix: "block_sparse_moe.experts",
        matrices: ["w1", "w3", "w2"],
    },
    ..EACH
};

const EACH_OF_GLM: ExpertNames = ExpertNames {
    correction: Some("mlp.gate.e_score_correction_bias"),
    shared: "mlp.shared_experts",
    ..EACH
};

/// As published, and as transformers computes with them.
const FUSED_OF_GRANITE: [ExpertNames; 2] = [
    ExpertNames {
        router: "block_sparse_moe.router.layer",
        experts: Stored::Fused {
            gate_up: "block_sparse_moe.input_linear.weight",
            down: "block_sparse_moe.output_linear.weight",
            turned: false,
            in_turns: false,
        },
        shared: "shared_mlp",
        ..EACH
    },
    ExpertNames {
        router: "block_sparse_moe.router",
        experts: Stored::Fused {
            gate_up: "block_sparse_moe.experts.gate_up_proj",
            down: "block_sparse_moe.experts.down_proj",
            turned: false,
            in_turns: false,
        },
        shared: "shared_mlp",
        ..EACH
    },
];

const EACH_OF_LFM2: ExpertNames = ExpertNames {
    router: "feed_forward.gate",
    correction: Some("feed_forward.expert_bias"),
    experts: Stored::Each {
        prefix: "feed_forward.experts",
        matrices: ["w1", "w3", "w2"],
    },
    ..EACH
};

const QWEN_EXPERTS: Mixture = Mixture {
    stored: &[EACH, FUSED],
    count: 128,
    per_token: 8,
    width: Some(768),
    router: Chosen::Softmax,
    normalised: Flag::Key("norm_topk_prob", false),
    floor: 0.0,
    shared: Shared::None,
    dense: Dense::Listed,
    biases: false,
    are_there: Flag::Yes,
    beside: None,
};

const DELTA_NET: MixerRow = MixerRow {
    kind: MixerKind::DeltaNet,
    name: "linear_attn",
    conv: "conv1d",
    output: "linear_attn.out_proj",
    inputs: Inputs::Apart,
    layers: Layers::Nth("full_attention_interval", 4),
};

const ROPE: Rope = Rope {
    theta: 10_000.0,
    partial: None,
    dim: None,
    neighbours: false,
    windowed: None,
    mscales: false,
    phi3: false,
    alpha: false,
    grows_queries: false,
    sections: false,
    proportional: false,
    absent: None,
    only_if: None,
};

const LAYER_NORM: NormKind = NormKind::Layer {
    weight: true,
    bias: true,
};

const WEIGHTED_LAYER_NORM: NormKind = NormKind::Layer {
    weight: true,
    bias: false,
};

/// An activation that configs have no word for.
pub(super) const CLAMPED: &str = "clamped";

const ATTENTION_BIAS: Flag = Flag::Key("attention_bias", false);
const MLP_BIAS: Flag = Flag::Key("mlp_bias", false);

const LLAMA: Family = Family {
    name: "llama",
    names: &HF,
    keys: &[],
    older_keys: &[],
    only: &[],
    groups_heads: true,
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    tie: false,
    head_bias: Flag::No,
    qkv_bias: ATTENTION_BIAS,
    o_bias: ATTENTION_BIAS,
    mlp_bias: MLP_BIAS,
    qkv: Qkv::Apart,
    fused_gate_up: false,
    mlp_width: None,
    narrows_mlp: false,
    gated: true,
    experts: None,
    mixer: None,
    gates_heads: false,
    passed_over: None,
    parallel: Flag::No,
    parallel_shares_norm: false,
    qk_norm: QkNorm::None,
    has_qk_norm: Flag::Yes,
    qk_norm_kind: NormKind::Rms,
    clips_qkv: false,
    norms_values: false,
    global_head_dim: None,
    per_layer_width: None,
    scales_layers: false,
    sinks: false,
    norm: NormKind::Rms,
    norm_plus_one: false,
    norm_eps: 1e-6,
    activation: "silu",
    gelu_is_tanh: false,
    rope: ROPE,
    windows: Windows::Never,
    full_layers_rotate: true,
    scales: Scales::Plain,
    turned: false,
};

const MISTRAL: Family = Family {
    name: "mistral",
    kv_heads: Some(8),
    max_positions: 131_072,
    qkv_bias: Flag::No,
    o_bias: Flag::No,
    mlp_bias: Flag::No,
    windows: Windows::All { default: Some(4096) },
    ..LLAMA
};

const QWEN2: Family = Family {
    name: "qwen2",
    kv_heads: Some(32),
    max_positions: 32_768,
    qkv_bias: Flag::Yes,
    o_bias: Flag::No,
    mlp_bias: Flag::No,
    windows: Windows::From,
    ..LLAMA
};

const GEMMA: Family = Family {
    name: "gemma",
    only: &[("use_bidirectional_attention", Only::False)],
    kv_heads: Some(16),
    head_dim: Some(256),
    max_positions: 8192,
    tie: true,
    mlp_bias: Flag::No,
    norm_plus_one: true,
    activation: "gelu_pytorch_tanh",
    gelu_is_tanh: true,
    scales: Scales::Gemma,
    ..LLAMA
};

const GEMMA2: Family = Family {
    name: "gemma2",
    names: &SANDWICH,
    keys: &[("hidden_act", "hidden_activation")],
    kv_heads: Some(4),
    gelu_is_tanh: false,
    windows: Windows::Alternating,
    scales: Scales::QueryScalar([Some(50.0), Some(30.0)]),
    ..GEMMA
};

const OLMO2: Family = Family {
    name: "olmo2",
    names: &POST,
    mlp_bias: Flag::No,
    qk_norm: QkNorm::FullWidth,
    norm_eps: 1e-5,
    ..LLAMA
};

const GLM: Family = Family {
    name: "glm",
    kv_heads: Some(2),
    head_dim: Some(128),
    max_positions: 131_072,
    qkv_bias: Flag::Key("attention_bias", true),
    o_bias: Flag::No,
    mlp_bias: Flag::No,
    fused_gate_up: true,
    norm_eps: 1.5625e-7,
    rope: Rope {
        partial: Some(0.5),
        neighbours: true,
        ..ROPE
    },
    ..LLAMA
};

const COHERE: Family = Family {
    name: "cohere",
    names: &ONE_NORM,
    keys: &[("rms_norm_eps", "layer_norm_eps")],
    max_positions: 8192,
    tie: true,
    mlp_bias: Flag::No,
    parallel: Flag::Yes,
    qk_norm: QkNorm::EachHead,
    has_qk_norm: Flag::Key("use_qk_norm", false),
    qk_norm_kind: WEIGHTED_LAYER_NORM,
    norm: WEIGHTED_LAYER_NORM,
    norm_eps: 1e-5,
    rope: Rope {
        theta: 500_000.0,
        neighbours: true,
        ..ROPE
    },
    scales: Scales::Cohere,
    ..LLAMA
};

const GPTJ: Family = Family {
    name: "gptj",
    names: &GPTJ_NAMES,
    keys: &[
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("intermediate_size", "n_inner"),
        ("max_position_embeddings", "n_positions"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("hidden_act", "activation_function"),
    ],
    groups_heads: false,
    mlp_width: Some(MlpWidth::Times(4)),
    head_bias: Flag::Yes,
    qkv_bias: Flag::No,
    o_bias: Flag::No,
    mlp_bias: Flag::Yes,
    gated: false,
    parallel: Flag::Yes,
    norm: LAYER_NORM,
    norm_eps: 1e-5,
    activation: "gelu_new",
    rope: Rope {
        dim: Some(("rotary_dim", 64)),
        neighbours: true,
        ..ROPE
    },
    ..LLAMA
};

const QWEN3_5: Family = Family {
    name: "qwen3_5_text",
    kv_heads: Some(4),
    head_dim: Some(256),
    max_positions: 32_768,
    mlp_bias: Flag::No,
    mixer: Some(&DELTA_NET),
    gates_heads: true,
    passed_over: Some("mtp."),
    qk_norm: QkNorm::PerHead,
    norm_plus_one: true,
    rope: Rope {
        partial: Some(0.25),
        sections: true,
        ..ROPE
    },
    ..LLAMA
};

const LFM2: Family = Family {
    name: "lfm2",
    names: &LFM2_NAMES,
    keys: &[("rms_norm_eps", "norm_eps")],
    older_keys: &[
        ("intermediate_size", "block_ff_dim"),
        ("tie_word_embeddings", "tie_embedding"),
    ],
    kv_heads: Some(8),
    max_positions: 128_000,
    tie: true,
    qkv_bias: Flag::No,
    o_bias: Flag::No,
    mlp_bias: Flag::No,
    narrows_mlp: true,
    mixer: Some(&MixerRow {
        kind: MixerKind::ShortConv,
        name: "conv",
        conv: "conv",
        output: "conv.out_proj",
        inputs: Inputs::One,
        layers: Layers::Listed("full_attn_idxs"),
    }),
    qk_norm: QkNorm::PerHead,
    norm_eps: 1e-5,
    rope: Rope {
        theta: 1_000_000.0,
        ..ROPE
    },
    ..LLAMA
};

/// The language models of wrappers that no checkpoint has alone.
const WRAPPED: &[Family] = &[
    Family {
        name: "qwen2_vl_text",
        ..QWEN2_VL_TEXT
    },
    QWEN2_VL_TEXT,
    QWEN3_VL_TEXT,
    Family {
        name: "qwen3_vl_moe_text",
        kv_heads: Some(16),
        head_dim: None,
        tie: true,
        experts: Some(&Mixture {
            stored: &[FUSED, FUSED_BY_COLUMN],
            count: 60,
            per_token: 4,
            width: Some(1408),
            normalised: Flag::Yes,
            ..QWEN_EXPERTS
        }),
        ..QWEN3_VL_TEXT
    },
];

const QWEN3_VL_TEXT: Family = Family {
    name: "qwen3_vl_text",
    max_positions: 128_000,
    head_dim: Some(128),
    qkv_bias: ATTENTION_BIAS,
    o_bias: ATTENTION_BIAS,
    qk_norm: QkNorm::PerHead,
    rope: Rope {
        theta: 500_000.0,
        sections: true,
        ..ROPE
    },
    windows: Windows::Never,
    ..QWEN2
};

const QWEN2_VL_TEXT: Family = Family {
    name: "qwen2_5_vl_text",
    kv_heads: Some(8),
    norm_eps: 1e-5,
    rope: Rope {
        theta: 1_000_000.0,
        sections: true,
        ..ROPE
    },
    ..QWEN2
};

const FAMILIES: &[Family] = &[
    LLAMA,
    MISTRAL,
    QWEN2,
    Family {
        name: "qwen3",
        head_dim: Some(128),
        qkv_bias: ATTENTION_BIAS,
        o_bias: ATTENTION_BIAS,
        qk_norm: QkNorm::PerHead,
        ..QWEN2
    },
    GEMMA,
    GEMMA2,
    Family {
        name: "gemma3_text",
        max_positions: 131_072,
        qk_norm: QkNorm::PerHead,
        rope: Rope {
            theta: 1_000_000.0,
            windowed: Some((Some("rope_local_base_freq"), 10_000.0)),
            ..ROPE
        },
        windows: Windows::AllBut { nth: 6, size: 4096 },
        // It keeps the key for attention's cap in its config, but does not use it.
        scales: Scales::QueryScalar([None, Some(f64::INFINITY)]),
        ..GEMMA2
    },
    Family {
        name: "gemma4_text",
        keys: &[
            ("hidden_act", "hidden_activation"),
            ("num_experts_per_tok", "top_k_experts"),
        ],
        only: &[("use_bidirectional_attention", Only::Not("all"))],
        max_positions: 131_072,
        experts: Some(&Mixture {
            stored: &[ExpertNames {
                router: "router.proj",
                experts: Stored::Fused {
                    gate_up: "experts.gate_up_proj",
                    down: "experts.down_proj",
                    turned: false,
                    in_turns: false,
                },
                ..EACH
            }],
            width: Some(704),
            normalised: Flag::Yes,
            dense: Dense::None,
            are_there: Flag::Key("enable_moe_block", false),
            beside: Some(BesideMlp {
                norms: [
                    "post_feedforward_layernorm_1",
                    "pre_feedforward_layernorm_2",
                    "post_feedforward_layernorm_2",
                ],
                router_scale: "router.scale",
                expert_scales: "router.per_expert_scale",
            }),
            ..QWEN_EXPERTS
        }),
        norm_plus_one: false,
        qk_norm: QkNorm::PerHead,
        norms_values: true,
        global_head_dim: Some(512),
        per_layer_width: Some(256),
        scales_layers: true,
        rope: Rope {
            theta: 1_000_000.0,
            windowed: Some((None, 10_000.0)),
            proportional: true,
            absent: Some(
                r#"{"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}"#,
            ),
            ..ROPE
        },
        windows: Windows::ButLast { nth: 6, size: 512 },
        scales: Scales::Gemma4,
        ..GEMMA2
    },
    Family {
        name: "phi3",
        max_positions: 4096,
        qkv_bias: Flag::No,
        o_bias: Flag::No,
        mlp_bias: Flag::No,
        qkv: Qkv::Fused,
        fused_gate_up: true,
        norm_eps: 1e-5,
        rope: Rope {
            partial: Some(1.0),
            phi3: true,
            ..ROPE
        },
        windows: Windows::All { default: None },
        ..LLAMA
    },
    OLMO2,
    Family {
        name: "smollm3",
        kv_heads: Some(4),
        max_positions: 32_768,
        tie: true,
        rope: Rope {
            theta: 2_000_000.0,
            ..ROPE
        },
        windows: Windows::Unrotated { nth: 4 },
        ..LLAMA
    },
    Family {
        name: "granite",
        scales: Scales::Granite,
        ..LLAMA
    },
    Family {
        name: "ministral",
        windows: Windows::AllUnlessListed { default: Some(4096) },
        ..MISTRAL
    },
    Family {
        name: "ministral3",
        head_dim: Some(128),
        max_positions: 262_144,
        norm_eps: 1e-5,
        rope: Rope {
            grows_queries: true,
            absent: Some(
                r#"{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}"#,
            ),
            ..ROPE
        },
        windows: Windows::All { default: None },
        ..MISTRAL
    },
    Family {
        name: "seed_oss",
        kv_heads: Some(8),
        head_dim: Some(128),
        max_positions: 524_288,
        qkv_bias: Flag::Key("attention_bias", true),
        o_bias: Flag::Key("attention_out_bias", false),
        ..LLAMA
    },
    Family {
        name: "arcee",
        max_positions: 4096,
        gated: false,
        norm_eps: 1e-5,
        activation: "relu2",
        ..LLAMA
    },
    Family {
        name: "ernie4_5",
        kv_heads: Some(2),
        head_dim: Some(128),
        max_positions: 131_072,
        tie: true,
        qkv_bias: Flag::Key("use_bias", false),
        o_bias: Flag::Key("use_bias", false),
        mlp_bias: Flag::Key("use_bias", false),
        norm_eps: 1e-5,
        rope: Rope {
            theta: 500_000.0,
            neighbours: true,
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "hunyuan_v1_dense",
        names: &HUNYUAN_NAMES,
        mlp_bias: Flag::No,
        qk_norm: QkNorm::PerHeadRotated,
        norm_eps: 1e-5,
        rope: Rope { alpha: true, ..ROPE },
        ..LLAMA
    },
    Family {
        name: "olmo3",
        rope: Rope {
            theta: 500_000.0,
            windowed: Some((None, 500_000.0)),
            ..ROPE
        },
        windows: Windows::AllBut { nth: 4, size: 4096 },
        ..OLMO2
    },
    Family {
        name: "helium",
        kv_heads: Some(20),
        head_dim: Some(128),
        max_positions: 4096,
        o_bias: Flag::No,
        norm_eps: 1e-8,
        rope: Rope {
            theta: 100_000.0,
            neighbours: true,
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "exaone4",
        names: &POST,
        kv_heads: Some(32),
        qkv_bias: Flag::No,
        o_bias: Flag::No,
        mlp_bias: Flag::No,
        qk_norm: QkNorm::PerHead,
        norm_eps: 1e-5,
        windows: Windows::AllBut { nth: 4, size: 4096 },
        full_layers_rotate: false,
        ..LLAMA
    },
    GLM,
    Family {
        name: "glm4",
        names: &GLM4_NAMES,
        ..GLM
    },
    Family {
        name: "stablelm",
        names: &STABLELM_NAMES,
        keys: &[("rms_norm_eps", "layer_norm_eps")],
        kv_heads: Some(32),
        max_positions: 4096,
        qkv_bias: Flag::Key("use_qkv_bias", false),
        o_bias: Flag::No,
        mlp_bias: Flag::No,
        parallel: Flag::Key("use_parallel_residual", false),
        parallel_shares_norm: true,
        qk_norm: QkNorm::EachHead,
        has_qk_norm: Flag::Key("qk_layernorm", false),
        qk_norm_kind: WEIGHTED_LAYER_NORM,
        norm: LAYER_NORM,
        norm_eps: 1e-5,
        rope: Rope {
            partial: Some(0.25),
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "starcoder2",
        names: &STARCODER2_NAMES,
        keys: &[("rms_norm_eps", "norm_epsilon")],
        kv_heads: Some(2),
        max_positions: 4096,
        tie: true,
        qkv_bias: Flag::Key("use_bias", true),
        o_bias: Flag::Key("use_bias", true),
        mlp_bias: Flag::Key("use_bias", true),
        gated: false,
        norm: LAYER_NORM,
        norm_eps: 1e-5,
        activation: "gelu_pytorch_tanh",
        windows: Windows::All { default: None },
        ..LLAMA
    },
    COHERE,
    Family {
        name: "cohere2",
        has_qk_norm: Flag::No,
        rope: Rope {
            theta: 10_000.0,
            ..COHERE.rope
        },
        windows: Windows::AllBut { nth: 4, size: 4096 },
        full_layers_rotate: false,
        ..COHERE
    },
    Family {
        name: "nemotron",
        keys: &[("rms_norm_eps", "norm_eps")],
        max_positions: 4096,
        gated: false,
        norm: LAYER_NORM,
        norm_plus_one: true,
        norm_eps: 1e-5,
        activation: "relu2",
        rope: Rope {
            partial: Some(0.5),
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "olmo",
        mlp_bias: Flag::No,
        clips_qkv: true,
        norm: NormKind::Layer {
            weight: false,
            bias: false,
        },
        norm_eps: 1e-5,
        ..LLAMA
    },
    Family {
        name: "phi",
        names: &PHI_NAMES,
        keys: &[("rms_norm_eps", "layer_norm_eps")],
        head_bias: Flag::Yes,
        qkv_bias: Flag::Yes,
        o_bias: Flag::Yes,
        mlp_bias: Flag::Yes,
        gated: false,
        parallel: Flag::Yes,
        qk_norm: QkNorm::PerHead,
        has_qk_norm: Flag::Key("qk_layernorm", false),
        qk_norm_kind: LAYER_NORM,
        norm: LAYER_NORM,
        norm_eps: 1e-5,
        activation: "gelu_new",
        rope: Rope {
            partial: Some(0.5),
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "gpt_neox",
        names: &NEOX_NAMES,
        keys: &[
            ("rms_norm_eps", "layer_norm_eps"),
            ("partial_rotary_factor", "rotary_pct"),
            ("rope_theta", "rotary_emb_base"),
        ],
        groups_heads: false,
        qkv_bias: Flag::Key("attention_bias", true),
        o_bias: Flag::Key("attention_bias", true),
        mlp_bias: Flag::Yes,
        qkv: Qkv::ByHead,
        gated: false,
        parallel: Flag::Key("use_parallel_residual", true),
        norm: LAYER_NORM,
        norm_eps: 1e-5,
        activation: "gelu",
        rope: Rope {
            partial: Some(0.25),
            ..ROPE
        },
        ..LLAMA
    },
    GPTJ,
    Family {
        name: "gpt2",
        names: &GPT2_NAMES,
        only: &[
            ("scale_attn_by_inverse_layer_idx", Only::False),
            ("add_cross_attention", Only::False),
        ],
        max_positions: 1024,
        tie: true,
        head_bias: Flag::No,
        qkv_bias: Flag::Yes,
        o_bias: Flag::Yes,
        qkv: Qkv::Fused,
        parallel: Flag::No,
        scales: Scales::Gpt2,
        turned: true,
        rope: ROPE,
        ..GPTJ
    },
    Family {
        name: "apertus",
        names: &APERTUS_NAMES,
        max_positions: 65_536,
        mlp_bias: Flag::No,
        gated: false,
        qk_norm: QkNorm::PerHead,
        norm_eps: 1e-5,
        activation: "xielu",
        rope: Rope {
            theta: 12_000_000.0,
            absent: Some(
                r#"{"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0}"#,
            ),
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "mixtral",
        norm_eps: 1e-5,
        experts: Some(&Mixture {
            stored: &[EACH_OF_MIXTRAL, FUSED],
            count: 8,
            per_token: 2,
            width: None,
            normalised: Flag::Yes,
            dense: Dense::None,
            ..QWEN_EXPERTS
        }),
        rope: Rope {
            theta: 1_000_000.0,
            ..ROPE
        },
        windows: Windows::All { default: None },
        ..MISTRAL
    },
    Family {
        name: "qwen2_moe",
        kv_heads: Some(16),
        qkv_bias: Flag::Key("qkv_bias", true),
        experts: Some(&Mixture {
            count: 60,
            per_token: 4,
            width: Some(1408),
            shared: Shared::Weighed("shared_expert_intermediate_size", 5632),
            ..QWEN_EXPERTS
        }),
        windows: Windows::AlternatingUntil,
        ..QWEN2
    },
    Family {
        name: "qwen3_moe",
        kv_heads: Some(4),
        qkv_bias: ATTENTION_BIAS,
        o_bias: ATTENTION_BIAS,
        qk_norm: QkNorm::PerHead,
        experts: Some(&QWEN_EXPERTS),
        windows: Windows::AllIf,
        ..QWEN2
    },
    Family {
        name: "olmoe",
        max_positions: 4096,
        mlp_bias: Flag::No,
        clips_qkv: true,
        qk_norm: QkNorm::FullWidth,
        norm_eps: 1e-5,
        experts: Some(&Mixture {
            count: 64,
            width: None,
            dense: Dense::None,
            ..QWEN_EXPERTS
        }),
        ..LLAMA
    },
    Family {
        name: "glm4_moe",
        kv_heads: Some(8),
        max_positions: 131_072,
        o_bias: Flag::No,
        mlp_bias: Flag::No,
        qk_norm: QkNorm::PerHead,
        has_qk_norm: Flag::Key("use_qk_norm", false),
        norm_eps: 1e-5,
        experts: Some(&Mixture {
            stored: &[
                EACH_OF_GLM,
                ExpertNames {
                    experts: FUSED.experts,
                    ..EACH_OF_GLM
                },
            ],
            width: Some(1408),
            router: Chosen::Sigmoid,
            normalised: Flag::Key("norm_topk_prob", true),
            shared: Shared::Widths("n_shared_experts", 1),
            dense: Dense::First("first_k_dense_replace", 1),
            ..QWEN_EXPERTS
        }),
        rope: Rope {
            partial: Some(0.5),
            ..ROPE
        },
        ..LLAMA
    },
    Family {
        name: "phimoe",
        kv_heads: Some(8),
        max_positions: 131_072,
        mlp_bias: Flag::No,
        head_bias: Flag::Key("lm_head_bias", false),
        norm: LAYER_NORM,
        norm_eps: 1e-5,
        experts: Some(&Mixture {
            stored: &[
                EACH_OF_MIXTRAL,
                ExpertNames {
                    router: "mlp.router",
                    ..FUSED
                },
            ],
            count: 16,
            per_token: 2,
            width: None,
            router: Chosen::SparseMixer,
            normalised: Flag::No,
            dense: Dense::None,
            ..QWEN_EXPERTS
        }),
        rope: Rope {
            theta: 1_000_000.0,
            mscales: true,
            ..ROPE
        },
        windows: Windows::All { default: None },
        ..LLAMA
    },
    Family {
        name: "gpt_oss",
        kv_heads: Some(8),
        head_dim: Some(64),
        max_positions: 131_072,
        qkv_bias: Flag::Key("attention_bias", true),
        o_bias: Flag::Key("attention_bias", true),
        mlp_bias: Flag::No,
        sinks: true,
        norm_eps: 1e-5,
        activation: CLAMPED,
        experts: Some(&Mixture {
            stored: &[ExpertNames {
                router: "mlp.router",
                experts: Stored::Fused {
                    gate_up: "mlp.experts.gate_up_proj",
                    down: "mlp.experts.down_proj",
                    turned: true,
                    in_turns: true,
                },
                ..EACH
            }],
            per_token: 4,
            width: None,
            normalised: Flag::Yes,
            dense: Dense::None,
            biases: true,
            ..QWEN_EXPERTS
        }),
        rope: Rope {
            theta: 150_000.0,
            absent: Some(
                r#"{"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": false, "original_max_position_embeddings": 4096}"#,
            ),
            ..ROPE
        },
        windows: Windows::AllBut { nth: 2, size: 128 },
        ..LLAMA
    },
    Family {
        name: "qwen3_next",
        kv_heads: Some(2),
        mixer: Some(&MixerRow {
            inputs: Inputs::ByHead,
            ..DELTA_NET
        }),
        experts: Some(&Mixture {
            count: 512,
            per_token: 10,
            width: Some(512),
            normalised: Flag::Key("norm_topk_prob", true),
            shared: Shared::Weighed("shared_expert_intermediate_size", 512),
            ..QWEN_EXPERTS
        }),
        rope: Rope {
            partial: Some(0.25),
            ..ROPE
        },
        ..QWEN3_5
    },
    QWEN3_5,
    Family {
        name: "qwen3_5_moe_text",
        kv_heads: Some(2),
        experts: Some(&Mixture {
            count: 256,
            width: Some(512),
            normalised: Flag::Yes,
            shared: Shared::Weighed("shared_expert_intermediate_size", 512),
            dense: Dense::None,
            ..QWEN_EXPERTS
        }),
        // No layer has an MLP beside its experts.
        mlp_width: Some(MlpWidth::Times(4)),
        ..QWEN3_5
    },
    LFM2,
    Family {
        name: "lfm2_moe",
        older_keys: &[("tie_word_embeddings", "tie_embedding")],
        only: &[("use_expert_bias", Only::True)],
        narrows_mlp: false,
        experts: Some(&Mixture {
            stored: &[
                EACH_OF_LFM2,
                ExpertNames {
                    experts: Stored::Fused {
                        gate_up: "feed_forward.experts.gate_up_proj",
                        down: "feed_forward.experts.down_proj",
                        turned: false,
                        in_turns: false,
                    },
                    ..EACH_OF_LFM2
                },
            ],
            count: 32,
            per_token: 4,
            width: Some(1792),
            router: Chosen::Sigmoid,
            normalised: Flag::Key("norm_topk_prob", true),
            floor: 1e-6,
            dense: Dense::First("num_dense_layers", 2),
            ..QWEN_EXPERTS
        }),
        ..LFM2
    },
    Family {
        name: "granitemoehybrid",
        names: &GRANITE4_NAMES,
        keys: &[
            ("intermediate_size", "shared_intermediate_size"),
            ("moe_intermediate_size", "intermediate_size"),
        ],
        mlp_bias: Flag::No,
        fused_gate_up: true,
        mlp_width: Some(MlpWidth::Of(1024)),
        experts: Some(&Mixture {
            stored: &FUSED_OF_GRANITE,
            count: 8,
            per_token: 2,
            width: Some(11_008),
            normalised: Flag::Yes,
            shared: Shared::Plain("shared_intermediate_size", 1024),
            dense: Dense::None,
            ..QWEN_EXPERTS
        }),
        mixer: Some(&MixerRow {
            kind: MixerKind::Mamba2,
            name: "mamba",
            conv: "conv1d",
            output: "mamba.out_proj",
            inputs: Inputs::One,
            layers: Layers::None,
        }),
        rope: Rope {
            only_if: Some(("position_embedding_type", "rope")),
            ..ROPE
        },
        scales: Scales::Granite,
        ..LLAMA
    },
];
