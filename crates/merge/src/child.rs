//! The child's `config.json` and tokenizer: the donor's, with what the merge changed.

use serde_json::{Map, Value};

use super::{OutputTensor, anatomy};
use crate::recipe::DType;

/// Whose tokenizer files the child takes, and which tokens are added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildTokenizer {
    /// The model whose tokenizer files are copied.
    pub donor: String,
    /// Tokens that the donor lacks, with their ids (`tokenizer_source: union`, or tokens named in the recipe).
    pub added: Vec<(String, u32)>,
    /// mergekit's `chat_template`: `auto`, a name, or the template itself.
    pub chat_template: Option<String>,
    /// The models that the child is made of: what ends a text of one of them may end one of the child's.
    pub models: Vec<String>,
}

/// `tokenizer.json` with tokens appended, as transformers' `add_tokens` does it.
pub fn add_tokens(tokenizer: &mut Value, tokens: &[(String, u32)]) {
    let entries = tokens.iter().map(|(token, id)| {
        serde_json::json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false,
        })
    });
    if let Some(object) = tokenizer.as_object_mut() {
        let list = object.entry("added_tokens").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.extend(entries);
        }
    }
}

/// What the merge decides about the config.
pub(crate) struct Changes<'a> {
    /// For each layer of the child, the config and the layer that it comes from.
    pub layers: Vec<(Option<&'a Value>, usize)>,
    /// What the recipe says, or what all tensors have.
    pub dtype: Option<DType>,
    /// Rows of the embeddings, where they are known.
    pub vocab_size: Option<usize>,
    /// Rows of those that tokens have in every layer, where they have such.
    pub vocab_size_per_layer: Option<usize>,
    pub tied: Option<bool>,
}

const LAYER_COUNTS: &[&str] = &["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
/// Lists with one entry for each layer.
const LAYER_LISTS: &[&str] = &[
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "attention_layers",
];

/// Two words for one list: Granite 4's in its own words, and in those of transformers.
const SAME_LIST: &[(&str, &str)] = &[("layer_types", "layers_block_type")];

/// How many layers a `config.json` counts, in whatever words.
pub fn layer_count(config: &Value) -> Option<usize> {
    let count = |config: &Value| LAYER_COUNTS.iter().find_map(|key| config.get(*key)?.as_u64());
    count(config)
        .or_else(|| count(config.get("text_config")?))
        .map(|n| n as usize)
}

/// The donor's config with `changes` made. Language models inside of others have theirs under `text_config`.
pub(crate) fn config(donor: &Value, changes: &Changes<'_>) -> Value {
    let mut config = donor.clone();
    if let Some(object) = config.as_object_mut() {
        set_dtype(object, changes.dtype);
        change(object, changes);
        // Of a model with other senses loaders ask the outer config first.
        if let (Some(tied), true) = (changes.tied, object.contains_key("text_config")) {
            object.insert("tie_word_embeddings".into(), tied.into());
        }
    }
    config
}

fn change(object: &mut Map<String, Value>, changes: &Changes<'_>) {
    let nested = !LAYER_COUNTS.iter().any(|k| object.contains_key(*k));
    if nested && let Some(Value::Object(text)) = object.get_mut("text_config") {
        return change(text, changes);
    }
    for key in LAYER_COUNTS {
        if let Some(count) = object.get_mut(*key) {
            *count = changes.layers.len().into();
        }
    }
    let donor = Value::Object(object.clone());
    let moved = changes.moves(&donor);
    for key in LAYER_LISTS {
        match layer_list(&donor, key, changes, moved) {
            None => {}
            Some(Some(list)) => {
                object.insert(key.to_string(), list);
            }
            // A list of another length than the layers is refused by loaders; without it they take their default.
            Some(None) => {
                object.shift_remove(*key);
            }
        }
    }
    if moved {
        set_dense_layers(object, &donor, changes);
        set_attending_layers(object);
        set_heads_of_layers(object, &donor, changes);
    }
    if let Some(rows) = changes.vocab_size {
        object.insert("vocab_size".into(), rows.into());
    }
    if let Some(rows) = changes.vocab_size_per_layer {
        object.insert("vocab_size_per_layer_input".into(), rows.into());
    }
    if let Some(tied) = changes.tied {
        object.insert("tie_word_embeddings".into(), tied.into());
    }
}

/// Why the layers of a model cannot come to other places than their own, if they cannot: its config says things of them that
/// a child's could not.
pub(crate) fn fixed_layers(config: &Value) -> Option<&'static str> {
    let config = text(config);
    let number = |key: &str, default: u64| match config.get(key) {
        None => default,
        Some(value) => value.as_u64().unwrap_or(0),
    };
    let family = config.get("model_type").and_then(Value::as_str);
    let default = match family {
        Some("gemma4_text" | "gemma3n_text") => 256,
        _ => 0,
    };
    if number("hidden_size_per_layer_input", default) > 0 {
        return Some("its tokens have embeddings for every layer");
    }
    (number("num_kv_shared_layers", 0) > 0).then_some("its last layers take the keys and values of those before them")
}

/// Why a child's config cannot be meant as it stands.
pub(crate) fn misread(child: &Value) -> Option<&'static str> {
    let config = text(child);
    let family = config.get("model_type").and_then(Value::as_str);
    let last = config
        .get("layer_types")
        .and_then(Value::as_array)
        .and_then(|kinds| kinds.last());
    let slides = last.and_then(Value::as_str) == Some("sliding_attention");
    (family == Some("gemma4_text") && slides).then_some("its last layer is read as one that sees the whole text")
}

impl<'a> Changes<'a> {
    /// A model whose layer comes to another place, and its config, where a child has another number of layers or one that is
    /// not at its own place.
    pub fn moved(&self, donor: &'a Value) -> Option<&'a Value> {
        let counted = layer_count(donor).unwrap_or(self.layers.len());
        let at_other = |(place, (_, layer)): &(usize, &(Option<&Value>, usize))| place != layer;
        let elsewhere = self.layers.iter().enumerate().find(at_other);
        let of_layer = elsewhere.map(|(_, (config, _))| config.unwrap_or(donor));
        of_layer.or((counted != self.layers.len()).then_some(donor))
    }

    /// Whether any layer of the child stands at another place than in its own model, or comes from another model than the
    /// donor.
    fn moves(&self, donor: &Value) -> bool {
        let counted = layer_count(donor).unwrap_or(self.layers.len());
        let own = |config: &Option<&Value>| config.is_none_or(|c| text(c) == donor);
        let mut at = self.layers.iter().enumerate();
        counted != self.layers.len() || at.any(|(place, (config, layer))| place != *layer || !own(config))
    }
}

fn text(config: &Value) -> &Value {
    config.get("text_config").unwrap_or(config)
}

/// Says which of the child's layers have no experts, where its family says so by their places.
fn set_dense_layers(object: &mut Map<String, Value>, donor: &Value, changes: &Changes<'_>) {
    let of_layer = |(config, layer): &(Option<&Value>, usize)| is_dense(config.map_or(donor, text), *layer);
    let Some(dense) = changes.layers.iter().map(of_layer).collect::<Option<Vec<bool>>>() else {
        return;
    };
    let places: Vec<usize> = (0..dense.len()).filter(|place| dense[*place]).collect();
    match donor.get("model_type").and_then(Value::as_str) {
        Some("qwen2_moe" | "qwen3_moe" | "qwen3_next" | "qwen3_vl_moe_text") => {
            object.insert("mlp_only_layers".into(), places.into());
            object.insert("decoder_sparse_step".into(), 1.into());
        }
        // Only a beginning can be said; of another child, whoever reads it will miss a tensor.
        Some("lfm2_moe") if places.iter().enumerate().all(|(i, place)| i == *place) => {
            object.insert("num_dense_layers".into(), places.len().into());
        }
        Some("glm4_moe") if places.iter().enumerate().all(|(i, place)| i == *place) => {
            object.insert("first_k_dense_replace".into(), places.len().into());
        }
        _ => {}
    }
}

/// Says in LFM2's older words, where its config has them, which of the child's layers attend.
fn set_attending_layers(object: &mut Map<String, Value>) {
    let attends = |kind: &Value| kind == "full_attention";
    let kinds = object.get("layer_types").and_then(Value::as_array);
    let places = kinds.map(|kinds| {
        (0..kinds.len())
            .filter(|place| attends(&kinds[*place]))
            .collect::<Vec<_>>()
    });
    if let (Some(places), Some(listed)) = (places, object.get_mut("full_attn_idxs")) {
        *listed = places.into();
    }
}

/// Says where `per_layer_config` does what heads each of the child's layers has.
fn set_heads_of_layers(object: &mut Map<String, Value>, donor: &Value, changes: &Changes<'_>) {
    let Some(listed) = object.get_mut("per_layer_config") else {
        return;
    };
    let own = |(place, (config, layer)): (usize, &(Option<&Value>, usize))| {
        let of_model = config.map_or(donor, text).get("per_layer_config")?;
        Some((place.to_string(), of_model.get(layer.to_string())?.clone()))
    };
    let own: Map<String, Value> = changes.layers.iter().enumerate().filter_map(own).collect();
    *listed = own.into();
}

/// Whether the layer at a place has no experts, in the families of mixtures where that goes by the place.
fn is_dense(config: &Value, layer: usize) -> Option<bool> {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    match config.get("model_type")?.as_str()? {
        "qwen2_moe" | "qwen3_moe" | "qwen3_next" | "qwen3_vl_moe_text" => {
            let listed = config.get("mlp_only_layers").and_then(Value::as_array);
            let is_listed = listed.is_some_and(|list| list.iter().any(|l| l.as_u64() == Some(layer as u64)));
            let step = number("decoder_sparse_step").unwrap_or(1).max(1) as usize;
            Some(is_listed || !(layer + 1).is_multiple_of(step))
        }
        "lfm2_moe" => Some((layer as u64) < number("num_dense_layers").unwrap_or(2)),
        "glm4_moe" => Some((layer as u64) < number("first_k_dense_replace").unwrap_or(1)),
        _ => None,
    }
}

/// The list in the child's order of layers; each layer's entry comes from the layer's own model. Where a config has no
/// such list, a layer's kind goes by its place: a layer that comes to another place keeps what it was trained with, and
/// the child's config says so. `None` if the child needs no such list, `Some(None)` if a layer has no entry.
fn layer_list(donor: &Value, key: &str, changes: &Changes<'_>, moved: bool) -> Option<Option<Value>> {
    let other = SAME_LIST.iter().find_map(|(a, b)| match key {
        _ if key == *a => Some(*b),
        _ if key == *b => Some(*a),
        _ => None,
    });
    let keys = [Some(key), other].into_iter().flatten();
    let listed = |config: &Value| keys.clone().find_map(|key| config.get(key)?.as_array().cloned());
    if donor.get(key).is_none() && listed(donor).is_some() {
        return None;
    }
    let entry = |config: &Value, layer: usize| match listed(config) {
        Some(list) => list.get(layer).cloned(),
        None => kind_at(config, key, layer),
    };
    let of_layer = |(config, layer): &(Option<&Value>, usize)| {
        let own = config.map_or(donor, text);
        // A model that says nothing of its layers' kinds takes the donor's, place by place.
        let says_nothing = listed(own).is_none() && kind_at(own, key, *layer).is_none();
        entry(if says_nothing { donor } else { own }, *layer)
    };
    let is_written = donor.get(key).is_some_and(Value::is_array);
    if !is_written && !moved {
        return None;
    }
    let entries: Option<Vec<Value>> = changes.layers.iter().map(of_layer).collect();
    let by_place = |entries: &[Value]| {
        let at_its_place = |(place, entry): (usize, &Value)| kind_at(donor, key, place).as_ref() == Some(entry);
        entries.iter().enumerate().all(at_its_place)
    };
    match entries {
        None => is_written.then_some(None),
        Some(entries) if !is_written && by_place(&entries) => None,
        entries => Some(entries.map(Value::Array)),
    }
}

/// What a list of layer kinds would say of the layer at a place, in the families where that goes by the place; the rules
/// are those of their configuration classes in transformers 5.24.
fn kind_at(config: &Value, key: &str, layer: usize) -> Option<Value> {
    let number = |key: &str, default: u64| config.get(key).and_then(Value::as_u64).unwrap_or(default) as usize;
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let every = |n: usize| n == 0 || !(layer + 1).is_multiple_of(n);
    let rotates = || match config.get("no_rope_layers").and_then(Value::as_array) {
        Some(list) => list.get(layer).and_then(Value::as_u64).map(|rotates| rotates != 0),
        None => Some(every(number("no_rope_layer_interval", 4))),
    };
    let family = config.get("model_type")?.as_str()?;
    if key == "no_rope_layers" {
        return match family {
            "smollm3" => rotates().map(|rotates| Value::from(u8::from(rotates))),
            _ => None,
        };
    }
    if key != "layer_types" {
        return None;
    }
    let attends_or = |attends: bool, word: &str| Some(Value::from(if attends { "full_attention" } else { word }));
    match family {
        "qwen3_next" | "qwen3_5_text" | "qwen3_5_moe_text" => {
            return attends_or(!every(number("full_attention_interval", 4)), "linear_attention");
        }
        "lfm2" => {
            let listed = config.get("full_attn_idxs").and_then(Value::as_array);
            let is_listed = |list: &Vec<Value>| list.iter().any(|place| place.as_u64() == Some(layer as u64));
            return attends_or(listed.is_none_or(is_listed), "conv");
        }
        _ => {}
    }
    let slides = match family {
        "qwen2" | "qwen3" => flag("use_sliding_window") && layer >= number("max_window_layers", 28),
        "qwen2_moe" => flag("use_sliding_window") && layer.is_multiple_of(2) && layer < number("max_window_layers", 28),
        "gemma2" | "gpt_oss" => layer.is_multiple_of(2),
        "gemma3_text" => every(number("sliding_window_pattern", 6)),
        // The last is never one.
        "gemma4_text" => every(6) && layer_count(config) != Some(layer + 1),
        "cohere2" => every(number("sliding_window_pattern", 4)),
        "exaone4" => match config.get("sliding_window") {
            Some(Value::Null) => false,
            _ => every(number("sliding_window_pattern", 4)),
        },
        "olmo3" => every(4),
        "smollm3" => {
            let has_window = config.get("sliding_window").is_some_and(|window| !window.is_null());
            flag("use_sliding_window") && has_window && !rotates()?
        }
        _ => return None,
    };
    Some(Value::from(if slides { "sliding_attention" } else { "full_attention" }))
}

/// Both dialects: `torch_dtype` of old, `dtype` of transformers 5.
fn set_dtype(object: &mut Map<String, Value>, dtype: Option<DType>) {
    let Some(dtype) = dtype else { return };
    let keys = ["dtype", "torch_dtype"];
    if !keys.iter().any(|k| object.contains_key(*k)) {
        object.insert("torch_dtype".into(), dtype.torch_name().into());
    }
    for key in keys {
        if let Some(value) = object.get_mut(key) {
            *value = dtype.torch_name().into();
        }
    }
}

/// Rows of the child's embeddings.
pub(crate) fn embedding_rows(outputs: &[OutputTensor]) -> Option<usize> {
    let name = anatomy::embeddings(outputs.iter().map(|o| o.name.as_str()))?;
    outputs.iter().find(|o| o.name == name)?.shape.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layer_lists_follow_the_layers() {
        let (a, b) = (
            json!({"num_hidden_layers": 3, "layer_types": ["x", "y", "z"], "torch_dtype": "float32"}),
            json!({"num_hidden_layers": 2, "layer_types": ["p", "q"]}),
        );
        let changes = Changes {
            layers: vec![(Some(&a), 0), (Some(&b), 1), (Some(&a), 2), (Some(&a), 2)],
            dtype: Some(DType::Bf16),
            vocab_size: Some(7),
            vocab_size_per_layer: None,
            tied: None,
        };
        assert_eq!(
            config(&a, &changes),
            json!({"num_hidden_layers": 4, "layer_types": ["x", "q", "z", "z"], "torch_dtype": "bfloat16", "vocab_size": 7})
        );
    }

    /// Which layers have experts went by the place: a child of a path had experts asked for where its parent has none.
    #[test]
    fn a_layer_without_experts_stays_one_at_another_place() {
        let child = |donor: &Value, layers: &[usize]| {
            let changes = Changes {
                layers: layers.iter().map(|layer| (Some(donor), *layer)).collect(),
                dtype: None,
                vocab_size: None,
                vocab_size_per_layer: None,
                tied: None,
            };
            config(donor, &changes)
        };
        let qwen = json!({"model_type": "qwen3_moe", "num_hidden_layers": 3, "decoder_sparse_step": 2, "mlp_only_layers": [1]});
        assert_eq!(child(&qwen, &[0, 1, 2])["decoder_sparse_step"], 2);
        let moved = child(
            &json!({"model_type": "qwen2_moe", "num_hidden_layers": 3, "mlp_only_layers": [1]}),
            &[2, 1, 0, 1],
        );
        assert_eq!(
            (&moved["mlp_only_layers"], &moved["decoder_sparse_step"]),
            (&json!([1, 3]), &json!(1))
        );
        let glm = json!({"model_type": "glm4_moe", "num_hidden_layers": 4, "first_k_dense_replace": 1});
        assert_eq!(child(&glm, &[0, 0, 1, 2, 3])["first_k_dense_replace"], 2);
    }

    /// Qwen2's `max_window_layers` equals its number of layers, so that none looks through a window (transformers #35896);
    /// a child with more layers had windows on all beyond it.
    #[test]
    fn a_layer_keeps_its_window_at_another_place() {
        let qwen = |window_from: usize| json!({"model_type": "qwen2", "num_hidden_layers": 4, "use_sliding_window": true, "max_window_layers": window_from});
        let types = |donor: &Value, layers: &[usize]| {
            let changes = Changes {
                layers: layers.iter().map(|layer| (Some(donor), *layer)).collect(),
                dtype: None,
                vocab_size: None,
                vocab_size_per_layer: None,
                tied: None,
            };
            let child = config(donor, &changes);
            let windows = child.get("layer_types").and_then(Value::as_array).cloned();
            windows.map(|w| w.iter().map(|t| t == "sliding_attention").collect::<Vec<bool>>())
        };
        let (none, last, gemma) = (
            qwen(4),
            qwen(3),
            json!({"model_type": "gemma2", "num_hidden_layers": 4}),
        );
        assert_eq!(types(&none, &[0, 1, 2, 2, 3]), Some(vec![false; 5]));
        assert_eq!(types(&none, &[0, 1, 2, 3]), None);
        assert_eq!(types(&last, &[0, 3, 1]), Some(vec![false, true, false]));
        assert_eq!(types(&gemma, &[0, 2, 1]), Some(vec![true, true, false]));
        assert_eq!(types(&gemma, &[2, 1, 0, 3]), None);
        assert_eq!(
            types(&json!({"model_type": "llama", "num_hidden_layers": 2}), &[0, 0, 1]),
            None
        );
    }

    fn child(donor: &Value, layers: &[(&Value, usize)]) -> Value {
        let changes = Changes {
            layers: layers.iter().map(|(config, layer)| (Some(*config), *layer)).collect(),
            dtype: None,
            vocab_size: None,
            vocab_size_per_layer: None,
            tied: None,
        };
        config(donor, &changes)
    }

    /// A frankenmerge of SmolLM3s whose config counts its layers without RoPE by an interval had them at other layers than
    /// they were trained at; so had one of parents of which only the donor's config lists its layers' kinds.
    #[test]
    fn a_layer_keeps_its_kind_at_another_place() {
        let smol = json!({"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layer_interval": 2,
            "use_sliding_window": true, "sliding_window": 16});
        let moved = child(&smol, &[(&smol, 0), (&smol, 0), (&smol, 1), (&smol, 3)]);
        assert_eq!(moved["no_rope_layers"], json!([1, 1, 0, 0]));
        assert_eq!(
            moved["layer_types"],
            json!([
                "full_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention"
            ])
        );
        let same = child(&smol, &[(&smol, 0), (&smol, 1), (&smol, 2), (&smol, 3)]);
        assert_eq!(same, smol);
        let cohere = json!({"model_type": "cohere2", "num_hidden_layers": 5});
        let types = child(&cohere, &[(&cohere, 3), (&cohere, 4)])["layer_types"].clone();
        assert_eq!(types, json!(["full_attention", "sliding_attention"]));

        let new = json!({"model_type": "gemma2", "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"]});
        let old = json!({"model_type": "gemma2", "num_hidden_layers": 2});
        let mixed = child(&new, &[(&new, 0), (&old, 0), (&old, 1)]);
        assert_eq!(
            mixed["layer_types"],
            json!(["sliding_attention", "sliding_attention", "full_attention"])
        );
    }

    /// Which of a hybrid's layers attend goes by the place where the config has no list: a child whose layers moved would have
    /// had attention asked for where the file has a mixer.
    #[test]
    fn a_layer_of_a_hybrid_keeps_what_it_does_instead_of_attending() {
        let (linear, full) = ("linear_attention", "full_attention");
        for family in ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"] {
            let qwen = json!({"model_type": family, "num_hidden_layers": 4});
            let same = child(&qwen, &[(&qwen, 0), (&qwen, 1), (&qwen, 2), (&qwen, 3)]);
            assert_eq!(same, qwen);
            let moved = child(&qwen, &[(&qwen, 3), (&qwen, 0), (&qwen, 0)]);
            assert_eq!(moved["layer_types"], json!([full, linear, linear]), "{family}");
        }
        let next = json!({"model_type": "qwen3_next", "num_hidden_layers": 2, "mlp_only_layers": [1], "full_attention_interval": 2});
        let moved = child(&next, &[(&next, 1), (&next, 0), (&next, 1)]);
        assert_eq!(
            (&moved["mlp_only_layers"], &moved["layer_types"]),
            (&json!([0, 2]), &json!([full, linear, full]))
        );

        let lfm2 = json!({"model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [1]});
        let moved = child(&lfm2, &[(&lfm2, 1), (&lfm2, 2), (&lfm2, 1)]);
        assert_eq!(
            (&moved["layer_types"], &moved["full_attn_idxs"]),
            (&json!([full, "conv", full]), &json!([0, 2]))
        );

        // One of the parents as published, the other as transformers saved it.
        let published = json!({"model_type": "granitemoehybrid", "num_hidden_layers": 2, "layers_block_type": ["mamba", "attention"]});
        let saved = json!({"model_type": "granitemoehybrid", "num_hidden_layers": 2, "layer_types": [full, linear]});
        let mixed = child(&saved, &[(&saved, 0), (&published, 0), (&published, 1)]);
        assert_eq!(mixed["layer_types"], json!([full, "mamba", "attention"]));
        let mixed = child(&published, &[(&published, 1), (&saved, 0)]);
        assert_eq!(mixed["layers_block_type"], json!(["attention", full]));
    }

    #[test]
    fn the_text_model_inside_of_another() {
        let donor = json!({"dtype": "float32", "text_config": {"n_layer": 5}});
        let changes = Changes {
            layers: vec![(None, 0)],
            dtype: Some(DType::F16),
            vocab_size: None,
            vocab_size_per_layer: None,
            tied: Some(true),
        };
        assert_eq!(
            config(&donor, &changes),
            json!({"dtype": "float16", "text_config": {"n_layer": 1, "tie_word_embeddings": true}, "tie_word_embeddings": true})
        );
    }

    #[test]
    fn tokens_are_appended() {
        let mut tokenizer = json!({"added_tokens": [{"id": 0}]});
        add_tokens(&mut tokenizer, &[("<x>".into(), 9)]);
        assert_eq!(tokenizer["added_tokens"][1]["content"], "<x>");
    }
}
