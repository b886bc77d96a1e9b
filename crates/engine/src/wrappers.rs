//! Models with other senses around a language model: whose config has a `text_config`, and whose files have its tensors behind
//! a prefix, beside a vision tower and a projector.
//!
//! A text without pictures is what the language half alone computes, so that half is the decoder here, and the rest of the
//! file is passed over. Rules are those of transformers 5.24, for files of its own and of those before it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::families::{Family, Names};

/// A model with a language model in it.
#[derive(Debug, PartialEq)]
pub struct Wrapper {
    /// The `model_type` in config.json.
    name: &'static str,
    layouts: &'static [Layout],
    /// The `model_type` of its language model where `text_config` does not say so.
    text: &'static str,
    ties: Ties,
    /// Whether its head caps logits as the language model's own does; of others it is a bare product, without the caps and
    /// scales of Gemma's, Cohere's and Granite's own heads.
    keeps_cap: bool,
}

/// Where a file has the language model.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    embeddings: &'static str,
    layers: &'static str,
    norm: &'static str,
    head: &'static str,
}

/// Whose `tie_word_embeddings` counts where the file leaves it open.
#[derive(Debug, PartialEq)]
enum Ties {
    /// The wrapper's, or else true.
    OrYes,
    /// The wrapper's or the language model's.
    Either,
}

/// As transformers 4 began, and as transformers 5 saves again.
const OLD: Layout = Layout {
    embeddings: "language_model.model.embed_tokens",
    layers: "language_model.model.layers.",
    norm: "language_model.model.norm",
    head: "language_model.lm_head",
};

/// As transformers computes with them, and saved in between.
const NEW: Layout = Layout {
    embeddings: "model.language_model.embed_tokens",
    layers: "model.language_model.layers.",
    norm: "model.language_model.norm",
    head: "lm_head",
};

/// A language model as if it stood alone, with the rest beside it.
const BARE: Layout = Layout {
    embeddings: "model.embed_tokens",
    layers: "model.layers.",
    norm: "model.norm",
    head: "lm_head",
};

const TEXT_MODEL: Layout = Layout {
    embeddings: "model.text_model.embed_tokens",
    layers: "model.text_model.layers.",
    norm: "model.text_model.norm",
    head: "lm_head",
};

const LLAVA: Wrapper = Wrapper {
    name: "llava",
    layouts: &[OLD, NEW],
    text: "llama",
    ties: Ties::Either,
    keeps_cap: false,
};

const QWEN2_5_VL: Wrapper = Wrapper {
    name: "qwen2_5_vl",
    layouts: &[BARE, NEW],
    text: "qwen2_5_vl_text",
    ties: Ties::Either,
    keeps_cap: false,
};

const SMOLVLM: Wrapper = Wrapper {
    name: "smolvlm",
    layouts: &[TEXT_MODEL],
    ..LLAVA
};

const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        name: "gemma3",
        text: "gemma3_text",
        ties: Ties::OrYes,
        ..LLAVA
    },
    Wrapper {
        name: "gemma4",
        layouts: &[NEW],
        text: "gemma4_text",
        ties: Ties::OrYes,
        keeps_cap: true,
    },
    Wrapper {
        name: "mistral3",
        text: "mistral",
        ties: Ties::OrYes,
        ..LLAVA
    },
    Wrapper {
        name: "qwen2_vl",
        text: "qwen2_vl_text",
        ..QWEN2_5_VL
    },
    QWEN2_5_VL,
    Wrapper {
        name: "qwen3_vl",
        layouts: &[NEW],
        text: "qwen3_vl_text",
        ..QWEN2_5_VL
    },
    Wrapper {
        name: "qwen3_vl_moe",
        layouts: &[NEW],
        text: "qwen3_vl_moe_text",
        ..QWEN2_5_VL
    },
    Wrapper {
        name: "qwen3_5",
        layouts: &[NEW],
        text: "qwen3_5_text",
        ..QWEN2_5_VL
    },
    Wrapper {
        name: "qwen3_5_moe",
        layouts: &[NEW],
        text: "qwen3_5_moe_text",
        ..QWEN2_5_VL
    },
    Wrapper {
        name: "lfm2_vl",
        layouts: &[Layout {
            norm: "model.language_model.embedding_norm",
            ..NEW
        }],
        text: "lfm2",
        ..QWEN2_5_VL
    },
    LLAVA,
    Wrapper {
        name: "llava_next",
        ..LLAVA
    },
    Wrapper {
        name: "llava_onevision",
        text: "qwen2",
        ..LLAVA
    },
    Wrapper {
        name: "internvl",
        text: "qwen2",
        ties: Ties::OrYes,
        ..LLAVA
    },
    Wrapper {
        name: "aya_vision",
        text: "cohere2",
        ties: Ties::OrYes,
        ..LLAVA
    },
    SMOLVLM,
    Wrapper {
        name: "idefics3",
        ..SMOLVLM
    },
];

/// What configuration classes mean where a `text_config` leaves out a size, as those of the first Gemma 3 and LLaVA do.
const SIZES: &[(&str, &str)] = &[
    (
        "llama",
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}"#,
    ),
    (
        "mistral",
        r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}"#,
    ),
    (
        "qwen2",
        r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32}"#,
    ),
    (
        "gemma3_text",
        r#"{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}"#,
    ),
    ("qwen2_vl_text", r#"{"max_window_layers": 80}"#),
    ("qwen2_5_vl_text", r#"{"max_window_layers": 80}"#),
];

const HYBRID: &str = "a hybrid or state-space model: of their mixers the decoder knows Gated DeltaNet as Qwen3-Next and Qwen 3.5 \
     have it, Mamba-2 as Granite 4 has it, and the short convolutions of LFM2";

/// Models and wrappers that the decoder does not compute, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "gemma3n",
        "Gemma 3n has four streams of hidden states and embeddings for every layer",
    ),
    (
        "gemma3n_text",
        "Gemma 3n has four streams of hidden states and embeddings for every layer",
    ),
    ("paligemma", "PaliGemma reads its prompt in both directions"),
    ("mllama", "its layers look at the picture between those of the text"),
    ("mamba", HYBRID),
    ("mamba2", HYBRID),
    ("falcon_mamba", HYBRID),
    ("rwkv", HYBRID),
    ("falcon_h1", HYBRID),
    ("bamba", HYBRID),
    ("zamba", HYBRID),
    ("zamba2", HYBRID),
    ("jamba", HYBRID),
    ("nemotron_h", HYBRID),
    ("kimi_linear", HYBRID),
    ("minimax", HYBRID),
    ("olmo_hybrid", HYBRID),
    ("recurrent_gemma", HYBRID),
];

impl Wrapper {
    /// All that are known, in the order of `heterosis families`.
    pub fn all() -> &'static [Wrapper] {
        WRAPPERS
    }

    /// The `model_type` that `config.json` says.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn keeps_cap(&self) -> bool {
        self.keeps_cap
    }

    pub(super) fn layouts(&self) -> &'static [Layout] {
        self.layouts
    }

    /// The config of the language model; in old files of Qwen's it stands beside that of the tower.
    pub(super) fn text<'c>(&self, config: &'c Value) -> Cow<'c, Value> {
        let (own, is_flat) = match config.get("text_config").and_then(Value::as_object) {
            Some(text) => (text.clone(), false),
            None => (config.as_object().cloned().unwrap_or_default(), true),
        };
        let model_type = match own.get("model_type").and_then(Value::as_str) {
            Some(word) if !is_flat && word != self.name => word,
            _ => self.text,
        };
        let sizes = SIZES.iter().find(|(name, _)| *name == model_type);
        let mut text: Map<String, Value> = sizes
            .and_then(|(_, sizes)| serde_json::from_str(sizes).ok())
            .unwrap_or_default();
        let model_type = Value::from(model_type);
        text.extend(own);
        text.insert("model_type".into(), model_type);
        Cow::Owned(Value::Object(text))
    }

    /// Whether the head is the embeddings, by the config alone.
    pub(super) fn ties(&self, config: &Value, text_ties: bool) -> bool {
        let own = config.get("tie_word_embeddings").and_then(Value::as_bool);
        match self.ties {
            Ties::OrYes => own.unwrap_or(true),
            Ties::Either => own.unwrap_or(false) || text_ties,
        }
    }
}

impl Layout {
    /// The names of a family within such a file.
    pub(super) fn names(&self, of_family: &Names) -> Names {
        Names {
            embeddings: self.embeddings,
            layers: self.layers,
            norm: self.norm,
            head: self.head,
            ..*of_family
        }
    }
}

/// The wrapper of a `model_type`.
pub(super) fn find(model_type: &str) -> Option<&'static Wrapper> {
    WRAPPERS.iter().find(|wrapper| wrapper.name == model_type)
}

/// The names of all, in one line.
pub(super) fn known() -> String {
    let names: Vec<&str> = WRAPPERS.iter().map(|wrapper| wrapper.name).collect();
    names.join(", ")
}

/// Why a model is not among them, where there is more to say than that.
pub(super) fn why_not(model_type: &str) -> String {
    let known = REFUSED.iter().find(|(name, _)| *name == model_type);
    known.map_or(String::new(), |(_, why)| format!(" ({why})"))
}

/// Whether a family's tensors are called so that a wrapper's file can have them behind its prefix.
pub(super) fn takes(family: &Family) -> bool {
    const LFM2: &str = "model.embedding_norm";
    let has_norm = [BARE.norm, LFM2].contains(&family.names.norm);
    family.names.embeddings == BARE.embeddings && has_norm && family.names.head == BARE.head
}

/// Whether a tensor of a wrapper's file is the language model's.
pub(super) fn is_language(names: &Names, tensor: &str) -> bool {
    // The prefix ends where the embeddings' own name begins.
    let prefix = names.embeddings.trim_end_matches("embed_tokens");
    let is_beside = [
        "model.visual.",
        "model.vision",
        "model.multi_modal_projector.",
        "model.image_newline",
    ];
    let is_beside = is_beside.iter().any(|word| tensor.starts_with(word));
    tensor.starts_with(names.head) || (tensor.starts_with(prefix) && !is_beside)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::spec::DecoderSpec;
    use super::*;

    fn read(config: &Value) -> DecoderSpec {
        DecoderSpec::from_config(config).unwrap()
    }

    /// google/gemma-3-4b-it and llava-1.5-7b-hf say but what their classes do not.
    #[test]
    fn the_first_configs_leave_out_whole_sizes() {
        let gemma = json!({"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {"hidden_size": 2560,
            "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
        let spec = read(&gemma);
        assert_eq!(
            (spec.vocab, spec.heads, spec.kv_heads, spec.head_dim),
            (262_208, 8, 4, 256)
        );
        assert_eq!((spec.layers.len(), spec.layers[0].window), (34, Some(1024)));
        assert!(spec.tie_embeddings);
        assert_eq!(spec.eos_token_ids, [1, 106]);
        let llava = json!({"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "vocab_size": 32064}});
        let spec = read(&llava);
        assert_eq!((spec.hidden, spec.layers.len(), spec.vocab), (4096, 32, 32_064));
        assert!(!spec.tie_embeddings);
    }

    /// Qwen2.5-VL's own files have one flat config, and M-RoPE by its old name: in a text all three of its places are one.
    #[test]
    fn flat_configs_and_sections_of_a_rotation() {
        let flat = json!({"model_type": "qwen2_5_vl", "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 32768,
            "use_sliding_window": false, "tie_word_embeddings": true, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {"hidden_size": 32}});
        let nested = json!({"model_type": "qwen2_5_vl", "tie_word_embeddings": true, "text_config": {"vocab_size": 99, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}});
        assert_eq!(read(&flat), read(&nested));
        // A language model alone has no such rotation.
        let mut alone = flat.clone();
        alone["model_type"] = "qwen2".into();
        assert!(
            DecoderSpec::from_config(&alone)
                .unwrap_err()
                .to_string()
                .contains("mrope")
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        for (config, reason) in [
            (
                json!({"model_type": "gemma3n", "text_config": {}}),
                "embeddings for every layer",
            ),
            (json!({"model_type": "paligemma"}), "in both directions"),
            (json!({"model_type": "falcon_h1"}), "a hybrid or state-space model"),
            (
                json!({"model_type": "llava", "text_config": {"model_type": "gpt_neox", "vocab_size": 9}}),
                "llava with a text_config of gpt_neox",
            ),
            (
                json!({"model_type": "mistral3", "text_config": {"model_type": "gemma3n_text"}}),
                "four streams",
            ),
        ] {
            let message = DecoderSpec::from_config(&config).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
    }
}
