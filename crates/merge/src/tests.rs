//! The engine over models made up in memory: what a recipe becomes, what is refused, what must never change a bit.

use std::{
    borrow::Cow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Error, Plan, Resident, TensorSource, Vocabulary, run,
    testing::{Models, noise, sets, under_each},
};
use crate::recipe::{DType, Method, Recipe, methods, read};

const WORDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Three decoders of four layers: `base`, `a` and `b`; `deep` has six, `tied` has no head.
pub(crate) fn models() -> Models {
    let mut models = Models::default();
    models.decoder("base", 1, 4, &WORDS, false);
    models.decoder("a", 2, 4, &WORDS, false);
    models.decoder("b", 3, 4, &WORDS, false);
    models.decoder("deep", 4, 6, &WORDS, false);
    models.decoder("tied", 5, 4, &WORDS, true);
    for (fisher, seed) in [("fisher_a", 6), ("fisher_b", 7)] {
        models.decoder(fisher, seed, 4, &WORDS, false);
        for tensor in models.tensor_names(fisher) {
            let (shape, values) = (models.shape(fisher, &tensor).unwrap(), models.get(fisher, &tensor));
            let squares = values.iter().map(|x| x * x).collect();
            models.set(fisher, &tensor, &shape, squares);
        }
    }
    models.grams("grams_a", 8, 4);
    models.grams("grams_b", 9, 4);
    models
}

/// What the recipes of [`example`] name.
const NAMED: [&str; 7] = ["base", "a", "b", "fisher_a", "fisher_b", "grams_a", "grams_b"];

fn recipe(text: &str) -> Recipe {
    read::parse(Path::new("recipe.yaml"), text).unwrap()
}

fn plan(text: &str, source: &dyn TensorSource) -> Result<Plan, Error> {
    Plan::new(&recipe(text), source)
}

fn compute(plan: &Plan, source: &dyn TensorSource, name: &str) -> Vec<f32> {
    let i = plan.outputs().iter().position(|o| o.name == name).unwrap();
    plan.compute(i, source).unwrap()
}

const Q: &str = "self_attn.q_proj.weight";

fn layer(i: usize) -> String {
    format!("model.layers.{i}.{Q}")
}

/// A recipe of `method` over base, a and b with parameters that make it do something.
pub(crate) fn example(method: Method) -> String {
    let info = method.info();
    let mut text = format!("merge_method: {}\nseed: 3\n", info.name);
    if info.base != crate::recipe::BaseRule::Ignored {
        text += "base_model: base\n";
    }
    let shared = match method {
        Method::Slerp => "{t: 0.3}",
        Method::Nearswap => "{t: 0.4}",
        Method::LayerSwap => "{bottom: 1, top: 1}",
        Method::Sce => "{select_topk: 0.5}",
        _ => "{}",
    };
    text += &format!("parameters: {shared}\nmodels:\n");
    let one = matches!(
        method,
        Method::Slerp | Method::Nearswap | Method::ArceeFusion | Method::Passthrough
    );
    for (model, weight) in [("a", 0.7), ("b", 0.4)].iter().take(if one { 1 } else { 2 }) {
        let has = |name: &str| {
            info.parameter(name)
                .is_some_and(|p| p.scope != crate::recipe::Scope::Shared)
        };
        let mut own = Vec::new();
        for (name, value) in [("weight", *weight), ("density", 0.6), ("epsilon", 0.1), ("gamma", 0.1)] {
            if has(name) {
                own.push(format!("{name}: {value}"));
            }
        }
        text += &format!("- model: {model}\n  parameters: {{{}}}\n", own.join(", "));
        if method == Method::Fisher {
            text += &format!("  fisher: fisher_{model}\n");
        }
        if method == Method::Regmean {
            text += &format!("  grams: grams_{model}\n");
        }
    }
    text
}

#[test]
fn every_method_merges_a_whole_model() {
    let models = models();
    for info in methods() {
        let plan = plan(&example(info.method), &models).unwrap();
        assert_eq!(plan.outputs().len(), 11, "{}", info.name);
        for i in 0..plan.outputs().len() {
            let values = plan
                .compute(i, &models)
                .unwrap_or_else(|e| panic!("{}: {e}", info.name));
            assert_eq!(values.len(), plan.outputs()[i].elements());
            assert!(values.iter().all(|v| v.is_finite()));
        }
        assert_ne!(plan.cost(&models).written_bytes, 0);
    }
}

#[test]
fn lambda_zero_is_the_base() {
    let models = models();
    for info in methods().iter().filter(|m| m.parameter("lambda").is_some()) {
        let text = example(info.method).replace("parameters: {}", "parameters: {lambda: 0}");
        let plan = plan(&text, &models).unwrap();
        assert_eq!(
            compute(&plan, &models, &layer(2)),
            models.get("base", &layer(2)),
            "{}",
            info.name
        );
    }
}

/// Those that decompose matrices and keep what they find. They, and `regmean`, go by another library's order of operations.
fn spectral() -> [Method; 7] {
    use Method::*;
    [Opcm, Tsv, IsoC, IsoCts, Svc, Wudi, Knots]
}

#[test]
fn neither_threads_nor_memory_nor_a_cache_change_a_bit() {
    let mut models = models();
    // Large enough for several runs of chunks, and with ties.
    let shape = [300, 601];
    for (k, model) in NAMED.iter().enumerate() {
        let value = |i| ((i * (k + 3) * 7919) % 1009) as f32 / 1009.0 - 0.5;
        let values = (0..shape[0] * shape[1]).map(|i| if k < 3 { value(i) } else { value(i).abs() });
        models.set(model, &layer(1), &shape, values.collect());
    }
    let pools: Vec<_> = [1, 16]
        .iter()
        .map(|n| rayon::ThreadPoolBuilder::new().num_threads(*n).build().unwrap())
        .collect();
    let foreign = [&spectral()[..], &[Method::Regmean]].concat();
    for info in methods().iter().filter(|m| !foreign.contains(&m.method)) {
        let plan = plan(&example(info.method), &models).unwrap();
        let i = plan.outputs().iter().position(|o| o.name == layer(1)).unwrap();
        let bits = |values: Vec<f32>| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
        let [one, sixteen] = [0, 1].map(|p| bits(pools[p].install(|| plan.compute(i, &models)).unwrap()));
        assert_eq!(one, sixteen, "{}", info.name);
        let mut resident = Resident::new(&models, &NAMED);
        for _ in 0..2 {
            assert_eq!(bits(resident.compute(&plan, i).unwrap()), one, "{}", info.name);
        }
        let mut bytes = vec![0; plan.outputs()[i].size_bytes()];
        plan.compute_bytes(i, &models, &mut bytes).unwrap();
        let mut encoded = vec![0; bytes.len()];
        DType::F32.narrow(&plan.compute(i, &models).unwrap(), &mut encoded);
        assert_eq!(bytes, encoded, "{}", info.name);
        // Pieces of five chunks; a cut is made exact after the last of them.
        let most = 5 * 2048 * 4 + 3;
        for _ in 0..2 {
            let mut pieces = vec![0xff; bytes.len()];
            let put = &mut |first: usize, bytes: usize, write: &mut dyn FnMut(&mut [u8])| {
                assert!(bytes <= most);
                write(&mut pieces[first..first + bytes]);
                true
            };
            resident.compute_pieces(&plan, i, most, put).unwrap();
            assert_eq!(bytes, pieces, "{}", info.name);
        }
    }
}

/// A device that ran out of memory in the middle of a tensor held half of it, and the next candidate took it for whole.
#[test]
fn a_tensor_whose_pieces_were_not_all_wanted_has_changed() {
    let models = models();
    let plan = plan(&example(Method::Linear), &models).unwrap();
    let mut resident = Resident::new(&models, &["a", "b"]);
    let all: Vec<usize> = (0..plan.outputs().len()).collect();
    for i in &all {
        let wanted = *i != 3;
        resident
            .compute_pieces(&plan, *i, 1 << 20, &mut |_, bytes, write| {
                write(&mut vec![0; bytes]);
                wanted
            })
            .unwrap();
    }
    assert_eq!(resident.changed(&plan), [3]);
}

/// A binary for every machine chooses its instructions when it runs, and a child that was scored on one machine must be the
/// child that another exports.
#[test]
fn instruction_sets_change_no_bit() {
    let mut models = models();
    let shape = [300, 601];
    for (k, model) in NAMED.iter().enumerate() {
        let mut values = noise(k as u64, shape[0] * shape[1]);
        if k >= 3 {
            values.iter_mut().for_each(|x| *x = x.abs());
        }
        models.set(model, &layer(1), &shape, values);
    }
    let foreign = [&spectral()[..], &[Method::Regmean]].concat();
    for info in methods().iter().filter(|m| !foreign.contains(&m.method)) {
        let plan = plan(&example(info.method), &models).unwrap();
        let i = plan.outputs().iter().position(|o| o.name == layer(1)).unwrap();
        let bits = under_each(|_| -> Vec<u32> {
            let values = plan.compute(i, &models).unwrap();
            values.iter().map(|v| v.to_bits()).collect()
        });
        for (isa, of_set) in sets().iter().zip(&bits) {
            assert!(*of_set == bits[0], "{}, {isa}", info.name);
        }
    }
}

#[test]
fn an_index_of_magnitudes_cuts_exactly_at_any_density() {
    let mut models = models();
    let n = 20_000;
    for (k, model) in ["base", "a", "b"].iter().enumerate() {
        let values = (0..n).map(|i| ((i * (k + 2) * 104_729) % 257) as f32 / 256.0);
        models.set(model, &layer(0), &[n], values.collect());
    }
    let mut resident = Resident::new(&models, &["base", "a", "b"]);
    for step in 1..40 {
        let density = f64::from(step) / 40.0 + 0.000_37;
        let text = example(Method::Ties).replace("density: 0.6", &format!("density: {density}"));
        let plan = plan(&text, &models).unwrap();
        let i = plan.outputs().iter().position(|o| o.name == layer(0)).unwrap();
        assert_eq!(
            resident.compute(&plan, i),
            plan.compute(i, &models),
            "density {density}"
        );
    }
}

#[test]
fn only_what_a_recipe_changes_is_redone() {
    let models = models();
    let text = |weight| {
        format!(
            "merge_method: linear\nmodels:\n- model: a\n  parameters: {{weight: 1}}\n- model: b\n  parameters:\n    \
             weight:\n    - {{filter: layers.2., value: {weight}}}\n    - value: 0.5\n"
        )
    };
    let (first, second) = (plan(&text(0.1), &models).unwrap(), plan(&text(0.2), &models).unwrap());
    let mut resident = Resident::new(&models, &["a", "b"]);
    assert_eq!(resident.changed(&first).len(), 11);
    for i in 0..11 {
        resident.compute(&first, i).unwrap();
    }
    assert!(resident.changed(&first).is_empty());
    let changed = resident.changed(&second);
    assert!(changed.iter().all(|i| second.outputs()[*i].layer == Some(2)) && changed.len() == 2);
    resident.forget();
    assert_eq!(resident.changed(&first).len(), 11);
}

#[test]
fn slices_are_stacked_and_renumbered() {
    let mut models = models();
    models.config_mut("a")["layer_types"] = serde_json::json!(["p", "q", "r", "s"]);
    let plan = plan(
        "merge_method: passthrough\ndtype: bfloat16\nslices:\n- sources: [{model: a, layer_range: [0, 3]}]\n\
         - sources: [{model: deep, layer_range: [4, 6]}]\n- sources: [{model: a, layer_range: [3, 4]}]\n",
        &models,
    )
    .unwrap();
    assert_eq!(plan.config()["num_hidden_layers"], 6);
    assert_eq!(plan.config()["torch_dtype"], "bfloat16");
    // `deep` has no list of its own, and the donor's has no entry for its layers 4 and 5.
    assert_eq!(plan.config().get("layer_types"), None);
    let mut expected = models.get("deep", &layer(4)).to_vec();
    DType::Bf16.round(&mut expected);
    assert_eq!(compute(&plan, &models, &layer(3)), expected);
    let names: Vec<&str> = plan.outputs().iter().map(|o| o.name.as_str()).collect();
    assert_eq!(
        (names[0], names[13], names[14]),
        ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    );
}

/// Whisper with slices: its encoder got three layers, its decoder two, and the config said two of each.
#[test]
fn slices_of_an_encoder_decoder_are_refused() {
    let mut models = models();
    let text = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 3]}]}]\n";
    plan(text, &models).unwrap();
    models.config_mut("a")["is_encoder_decoder"] = true.into();
    let error = plan(text, &models).err().unwrap().to_string();
    assert!(error.contains("encoder-decoder"), "{error}");
    plan("merge_method: passthrough\nmodels: [{model: a}]\n", &models).unwrap();
}

/// Gemma 4: a child of some of its layers had embeddings for all of them, and keys of layers that were not there.
#[test]
fn layers_that_belong_to_their_places_are_not_moved() {
    let of = |range: &str| {
        format!(
            "merge_method: linear\nslices: [{{sources: [{{model: a, layer_range: {range}, parameters: {{weight: 1}}}}]}}]\n"
        )
    };
    for (key, value, why) in [
        ("hidden_size_per_layer_input", 256, "embeddings for every layer"),
        ("num_kv_shared_layers", 2, "keys and values"),
    ] {
        let mut models = models();
        models.config_mut("a")[key] = value.into();
        let error = plan(&of("[0, 3]"), &models).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
        // Where each stays at its place, nothing is moved.
        plan(&of("[0, 4]"), &models).unwrap();
        models.config_mut("a")[key] = 0.into();
        plan(&of("[0, 3]"), &models).unwrap();
    }
    let mut models = models();
    models.config_mut("a")["model_type"] = "gemma4_text".into();
    models.config_mut("a")["hidden_size_per_layer_input"] = 0.into();
    models.config_mut("a")["layer_types"] = [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "full_attention",
    ]
    .into();
    models.config_mut("a")["per_layer_config"] = serde_json::json!({"1": {"head_dim": 16}, "3": {"head_dim": 32}});
    let error = plan(&of("[1, 3]"), &models).err().unwrap().to_string();
    assert!(error.contains("sees the whole text"), "{error}");
    let child = plan(&of("[2, 4]"), &models).unwrap();
    assert_eq!(
        child.config()["per_layer_config"],
        serde_json::json!({"1": {"head_dim": 32}})
    );
}

#[test]
fn gradients_run_within_each_slice_and_stand_still_outside_of_the_layers() {
    let models = models();
    let slice = "{sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]}";
    let one = "{sources: [{model: a, layer_range: [3, 4]}, {model: b, layer_range: [3, 4]}]}";
    let text = format!("merge_method: slerp\nbase_model: a\nparameters: {{t: [0, 1]}}\nslices: [{slice}, {one}]\n");
    let plan = plan(&text, &models).unwrap();
    assert_eq!(compute(&plan, &models, &layer(0)), models.get("a", &layer(0)));
    assert_eq!(compute(&plan, &models, &layer(2)), models.get("b", &layer(2)));
    assert_eq!(
        compute(&plan, &models, &layer(3)),
        models.get("b", &layer(3)),
        "a slice of one layer has t = 1"
    );
    assert_eq!(
        compute(&plan, &models, "lm_head.weight"),
        models.get("a", "lm_head.weight"),
        "the head has t = 0"
    );
}

#[test]
fn tied_and_untied_heads_mix() {
    let models = models();
    let linear =
        |x, y| format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {x}}}, {{model: {y}}}]\n");
    let mixed = plan(&linear("tied", "a"), &models).unwrap();
    let (head, embeddings) = (
        models.get("a", "lm_head.weight"),
        models.get("tied", "model.embed_tokens.weight"),
    );
    let expected: Vec<f32> = embeddings.iter().zip(head).map(|(x, y)| (x + y) / 2.0).collect();
    assert_eq!(compute(&mixed, &models, "lm_head.weight"), expected);
    assert_eq!(mixed.config()["tie_word_embeddings"], false);
    let tied = plan("merge_method: passthrough\nmodels: [{model: tied}]\n", &models).unwrap();
    assert!(tied.outputs().iter().all(|o| o.name != "lm_head.weight"));
    assert_eq!(tied.config()["tie_word_embeddings"], true);
}

/// A head beside `tie_word_embeddings: true` was passed over by the decoder and kept in the file, where transformers takes
/// it: the child was another model there than the one that was scored.
#[test]
fn a_head_in_the_file_is_the_head() {
    let mut models = models();
    for says in [Some(true), None] {
        match says {
            Some(says) => models.config_mut("a")["tie_word_embeddings"] = says.into(),
            None => drop(
                models
                    .config_mut("a")
                    .as_object_mut()
                    .unwrap()
                    .remove("tie_word_embeddings"),
            ),
        }
        let plan = plan("merge_method: passthrough\nmodels: [{model: a}]\n", &models).unwrap();
        assert_eq!(plan.config()["tie_word_embeddings"], false);
        assert_eq!(
            compute(&plan, &models, "lm_head.weight"),
            models.get("a", "lm_head.weight")
        );
    }
    // In BART the flag ties the tables of encoder and decoder too: it stays as it is.
    models.config_mut("a")["is_encoder_decoder"] = true.into();
    let whole = plan("merge_method: passthrough\nmodels: [{model: a}]\n", &models).unwrap();
    assert_eq!(whole.config().get("tie_word_embeddings"), None);
}

#[test]
fn layers_are_swapped() {
    let models = models();
    let text = "merge_method: layer_swap\nparameters: {bottom: 1, top: 1, transition_top: 0, head: inner}\nmodels: [{model: a}, {model: b}]\n";
    let plan = plan(text, &models).unwrap();
    let (a, b) = (models.get("a", &layer(1)), models.get("b", &layer(1)));
    let blend: Vec<f32> = a.iter().zip(b).map(|(x, y)| 0.5 * x + 0.5 * y).collect();
    assert_eq!(compute(&plan, &models, &layer(0)), models.get("b", &layer(0)));
    assert_eq!(compute(&plan, &models, &layer(1)), blend);
    assert_eq!(compute(&plan, &models, &layer(2)), models.get("a", &layer(2)));
    assert_eq!(compute(&plan, &models, &layer(3)), models.get("b", &layer(3)));
    assert_eq!(
        compute(&plan, &models, "lm_head.weight"),
        models.get("a", "lm_head.weight")
    );
    assert_eq!(
        compute(&plan, &models, "model.embed_tokens.weight"),
        models.get("b", "model.embed_tokens.weight")
    );
}

#[test]
fn stages_feed_each_other() {
    let models = models();
    let plan = plan(
        "name: half\nmerge_method: linear\ndtype: bfloat16\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n---\n\
         merge_method: passthrough\nslices:\n- sources: [{model: half, layer_range: [0, 2]}]\n- sources: [{model: base, layer_range: [1, 3]}]\n",
        &models,
    )
    .unwrap();
    let mut expected: Vec<f32> = models
        .get("a", &layer(1))
        .iter()
        .zip(models.get("b", &layer(1)))
        .map(|(x, y)| (x + y) / 2.0)
        .collect();
    DType::Bf16.round(&mut expected);
    assert_eq!(compute(&plan, &models, &layer(1)), expected);
    assert_eq!(compute(&plan, &models, &layer(2)), models.get("base", &layer(1)));
    assert_eq!(plan.tokenizer().donor, "a");
    assert_eq!(plan.outputs()[1].dtype, DType::Bf16);
}

#[test]
fn misfits_are_refused_by_name() {
    let mut models = models();
    models.set("b", &layer(2), &[4, 3], vec![0.0; 12]);
    let side_by_side =
        |x, y| format!("merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {x}}}, {{model: {y}}}]\n");
    let refused = |text: &str| plan(text, &models).map(|_| ()).unwrap_err();
    let error = refused(&side_by_side("a", "b"));
    assert!(matches!(&error, Error::Shape { tensor, shape, other_shape, .. }
        if *tensor == layer(2) && **shape == [4, 4] && **other_shape == [4, 3]));
    assert!(matches!(
        refused(&side_by_side("a", "deep")),
        Error::Depth {
            layers: 4,
            other_layers: 6,
            ..
        }
    ));
    assert!(matches!(refused(&side_by_side("a", "nobody")), Error::NoTensors { .. }));
    let beyond = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 5]}]}]\n";
    assert!(matches!(
        refused(beyond),
        Error::LayerRange {
            layers: 4,
            range: [2, 5],
            ..
        }
    ));
    let no_weight = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: base}]\n";
    assert!(matches!(refused(no_weight), Error::Parameter { model: Some(m), .. } if m == "base"));
    let zones = "merge_method: layer_swap\nparameters: {bottom: 3, top: 2}\nmodels: [{model: a}, {model: base}]\n";
    assert_eq!(refused(zones), Error::SwapZones { wanted: 5, layers: 4 });
}

#[test]
fn weights_that_cancel_and_values_that_are_not_finite_are_reported() {
    let mut models = models();
    let text = |w: f64, x: &str| {
        format!(
            "merge_method: linear\ndtype: float16\nmodels: [{{model: a, parameters: {{weight: 1}}}}, {{model: {x}, parameters: {{weight: {w}}}}}]\nparameters: {{normalize: {}}}\n",
            w < 0.0
        )
    };
    let error = |models: &Models, text: &str| plan(text, models).unwrap().compute(0, models).unwrap_err();
    // Already when it is planned: no candidate of a search gets as far as its first tensor.
    assert!(matches!(plan(&text(-1.0, "b"), &models), Err(Error::Refused { .. })));
    assert!(matches!(
        error(&models, &text(1e9, "b")),
        Error::NotFinite { dtype: DType::F16, .. }
    ));
    let mut values = models.get("b", "model.embed_tokens.weight").to_vec();
    values[3] = f32::NAN;
    models.set("b", "model.embed_tokens.weight", &[5, 4], values);
    assert!(matches!(error(&models, &text(1.0, "b")), Error::ParentNotFinite { model, .. } if model == "b"));
}

#[test]
fn vocabularies_of_different_size_need_a_tokenizer() {
    let mut models = models();
    models.decoder("other", 9, 4, &["c", "a", "z"], false);
    let linear = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: other}]\n";
    let error = plan(linear, &models).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("tokenizer_source"));
    let aligned = plan(&format!("{linear}tokenizer_source: union\n"), &models).unwrap();
    assert_eq!(aligned.config()["vocab_size"], 6);
    assert_eq!(aligned.tokenizer().added, [("z".to_string(), 5)]);
    let rows = compute(&aligned, &models, "model.embed_tokens.weight");
    let (a, other) = (
        models.get("a", "model.embed_tokens.weight"),
        models.get("other", "model.embed_tokens.weight"),
    );
    assert_eq!(
        rows[0],
        (a[0] + other[4]) / 2.0,
        "token 'a' is row 0 of a and row 1 of other"
    );
    assert_eq!(rows[20..24], other[8..12], "only `other` has 'z'");
    models.forget_vocabulary("other");
    let assumed = plan(&format!("{linear}tokenizer_source: base\n"), &models).unwrap();
    assert!(assumed.warnings()[0].contains("'other' has no tokenizer"));
    models.forget_vocabulary("a");
    let none = plan(&format!("{linear}tokenizer_source: base\n"), &models)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(none, Error::NoTokenizer { model: "a".into() });
}

/// Gemma 4's tokens have embeddings in every layer, whose rows are tokens like those of the stream.
#[test]
fn embeddings_for_every_layer_follow_the_tokens() {
    let table = "model.embed_tokens_per_layer.weight";
    let mut models = models();
    models.decoder("other", 9, 4, &["c", "a", "z"], false);
    models.set("a", table, &[5, 2], (0..10).map(|x| x as f32).collect());
    models.set("other", table, &[3, 2], vec![20.0, 21.0, 30.0, 31.0, 40.0, 41.0]);
    let linear = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: other}]\n";
    let aligned = plan(&format!("{linear}tokenizer_source: union\n"), &models).unwrap();
    let rows = compute(&aligned, &models, table);
    assert_eq!(rows[..2], [15.0, 16.0], "token 'a' is row 0 of a and row 1 of other");
    assert_eq!(rows[10..], [40.0, 41.0], "only `other` has 'z'");
    assert_eq!(aligned.config()["vocab_size_per_layer_input"], 6);
}

/// mergekit cut Qwen's vocabulary from 152,064 rows to 151,665 without a word (its issue 425): rows are kept where nothing is
/// aligned, and named where they go.
#[test]
fn rows_without_a_token_are_kept_or_named() {
    let mut models = models();
    for (model, seed) in [("a", 21), ("b", 22)] {
        for tensor in ["model.embed_tokens.weight", "lm_head.weight"] {
            models.set(model, tensor, &[8, 4], noise(seed, 32));
        }
        models.config_mut(model)["vocab_size"] = 8.into();
    }
    let linear = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n";
    let kept = plan(linear, &models).unwrap();
    assert_eq!((&kept.config()["vocab_size"], kept.warnings().len()), (&8.into(), 0));
    assert_eq!(compute(&kept, &models, "lm_head.weight").len(), 32);
    for source in ["base", "union"] {
        let cut = plan(&format!("{linear}tokenizer_source: {source}\n"), &models).unwrap();
        assert_eq!(cut.config()["vocab_size"], 5);
        let warnings = cut.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("'a' has 8 rows of embeddings for 5 tokens, the child 5"),
            "{warnings:?}"
        );
    }
    let padded = plan(
        &format!("{linear}tokenizer: {{source: base, pad_to_multiple_of: 8}}\n"),
        &models,
    )
    .unwrap();
    assert_eq!(
        (&padded.config()["vocab_size"], padded.warnings().len()),
        (&8.into(), 0)
    );
}

/// Heads that predict several tokens are stored as layers beyond num_hidden_layers (GLM, DeepSeek, Qwen3-Next; mergekit's
/// issue 627). A merge took them for layers and wrote a config that counted them, a search left them out without a word.
#[test]
fn layers_that_the_config_does_not_count_are_left_out_and_named() {
    let mut models = models();
    models.decoder("mtp", 7, 5, &WORDS, false);
    models.set("mtp", "model.layers.4.eh_proj.weight", &[4, 8], noise(8, 32));
    models.config_mut("mtp")["num_hidden_layers"] = 4.into();
    let whole = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: mtp}, {model: a}]\n";
    let stacked = "merge_method: passthrough\nslices:\n- sources: [{model: mtp, layer_range: [0, 4]}]\n";
    for text in [whole, stacked] {
        let plan = plan(text, &models).unwrap();
        assert_eq!(plan.config()["num_hidden_layers"], 4);
        assert!(
            plan.outputs()
                .iter()
                .all(|o| !o.name.contains("layers.4") && !o.name.contains("eh_proj"))
        );
        let warnings = plan.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("'mtp' has 3 tensors in layers beyond the 4"),
            "{warnings:?}"
        );
        assert!(plan.outputs().iter().any(|o| o.name == layer(3)));
    }
    let beyond = plan(&stacked.replace("[0, 4]", "[3, 5]"), &models)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(beyond, Error::LayerRange { layers: 4, .. }), "{beyond}");
}

#[test]
fn filters_that_match_nothing_are_named() {
    let text = "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: [{filter: self_atn, value: 1}, {filter: q_proj, value: 2}, {value: 3}]}\n";
    let warnings = plan(text, &models()).unwrap().warnings();
    assert_eq!(warnings, ["the filter 'self_atn' matches no tensor"]);
}

#[test]
fn a_stream_gives_every_tensor_once_and_stops_at_the_first_error() {
    let models = models();
    let plan = plan(&example(Method::Ties), &models).unwrap();
    let (mut streamed, mut last) = (Vec::new(), None);
    run::<Error>(
        &plan,
        &models,
        &mut |piece| {
            assert_eq!(piece.offset, 0);
            streamed.push((piece.output.name.clone(), piece.bytes.to_vec()));
            Ok(())
        },
        &mut |progress| last = Some(progress),
    )
    .unwrap();
    for (i, output) in plan.outputs().iter().enumerate() {
        let mut bytes = vec![0; output.size_bytes()];
        plan.compute_bytes(i, &models, &mut bytes).unwrap();
        assert_eq!(streamed[i], (output.name.clone(), bytes));
    }
    let last = last.unwrap();
    assert_eq!((last.tensors_done, last.bytes_done), (last.tensors, last.bytes));
    let stop = Error::Models {
        message: "disk full".into(),
    };
    let stopped = run(&plan, &models, &mut |_| Err(stop.clone()), &mut |_| {});
    assert_eq!(stopped, Err(stop.clone()));
}

/// Five models go through the general passes, the same sum with a model of weight zero less through the fused loop.
#[test]
fn the_fused_loop_and_the_general_passes_agree() {
    let mut models = models();
    let shape = [70, 130];
    for (k, model) in ["base", "a", "b"].iter().enumerate() {
        let values = (0..shape[0] * shape[1]).map(|i| ((i * (k + 3) * 7919) % 509) as f32 / 509.0 - 0.5);
        models.set(model, &layer(1), &shape, values.collect());
    }
    for name in ["c", "d", "e"] {
        models.decoder(name, 1, 4, &WORDS, false);
        let base = models.get("base", &layer(1)).to_vec();
        models.set(name, &layer(1), &shape, base);
    }
    for method in [
        Method::TaskArithmetic,
        Method::Ties,
        Method::Breadcrumbs,
        Method::BreadcrumbsTies,
    ] {
        for normalize in [false, true] {
            let few = example(method).replace(
                "parameters: {}",
                &format!("parameters: {{normalize: {normalize}, lambda: 0.7}}"),
            );
            // Their task vectors are zero, so they change nothing but the path.
            let many = few.clone()
                + &["c", "d", "e"]
                    .map(|m| format!("- model: {m}\n  parameters: {{weight: 0}}\n"))
                    .concat();
            let [few, many] = [few, many].map(|text| compute(&plan(&text, &models).unwrap(), &models, &layer(1)));
            assert_eq!(few, many, "{method:?} {normalize}");
        }
    }
}

/// A source that counts what is read.
struct Counting<'a> {
    models: &'a Models,
    reads: AtomicUsize,
}

impl TensorSource for Counting<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        self.models.tensor_names(model)
    }
    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        self.models.shape(model, tensor)
    }
    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        self.models.dtype(model, tensor)
    }
    fn config(&self, model: &str) -> Option<&serde_json::Value> {
        self.models.config(model)
    }
    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.models.read_f32(model, tensor)
    }
    fn model_digest(&self, model: &str) -> String {
        self.models.model_digest(model)
    }
    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        self.models.vocab(model)
    }
}

/// Parameter space first, then data flow: one merge, and paths through its layers with scales.
fn hybrid(weight: f64, path: &[(usize, f64)]) -> String {
    let mut text = format!(
        "name: ps\nmerge_method: ties\nbase_model: base\ndtype: bfloat16\nmodels:\n- model: a\n  parameters: {{weight: \
         {weight}, density: 0.5}}\n- model: b\n  parameters: {{weight: 0.4, density: 0.7}}\n---\nmerge_method: \
         passthrough\ndtype: float32\nslices:\n"
    );
    for (layer, scale) in path {
        text += &format!(
            "- sources:\n  - model: ps\n    layer_range: [{layer}, {}]\n    parameters:\n      scale: [{{filter: q_proj, value: \
             {scale}}}, {{value: 1}}]\n",
            layer + 1
        );
    }
    text
}

#[test]
fn earlier_stages_are_merged_once_however_the_layers_are_laid() {
    let models = models();
    let source = Counting {
        models: &models,
        reads: AtomicUsize::new(0),
    };
    let mut resident = Resident::new(&source, &["base", "a", "b"]);
    let mut merge = |text: &str| {
        let plan = plan(text, &source).unwrap();
        for i in 0..plan.outputs().len() {
            let values = resident.compute(&plan, i).unwrap();
            assert_eq!(values, plan.compute(i, &models).unwrap(), "{}", plan.outputs()[i].name);
        }
        let reads = source.reads.swap(0, Ordering::Relaxed);
        (plan.outputs().len(), reads, resident.kept_bytes())
    };
    let first = merge(&hybrid(0.7, &[(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]));
    assert!(first.0 == 11 && first.1 > 0 && first.2 > 0);
    // Fewer layers, more layers, another order and other scales under the same names: nothing is read again.
    for path in [
        &[(3, 0.5), (0, 1.0)][..],
        &[(0, 1.0), (1, 2.0), (1, 0.25), (3, 1.5), (2, 1.0), (0, 1.0)],
    ] {
        let (outputs, reads, kept) = merge(&hybrid(0.7, path));
        assert_eq!((outputs, reads, kept), (2 * path.len() + 3, 0, first.2));
    }
    let other = merge(&hybrid(0.6, &[(0, 1.0)]));
    assert!(other.1 > 0, "another first stage is another merge");
}

#[test]
fn what_does_not_fit_is_merged_again_to_the_same() {
    let models = models();
    let plan = plan(&hybrid(0.7, &[(1, 0.5), (1, 2.0)]), &models).unwrap();
    // Room for a few of the eleven tensors of the first stage, which have 40 or 32 or 8 bytes each.
    for limit_bytes in [0, 50, 1 << 20] {
        let mut resident = Resident::new(&models, &["base", "a", "b"]).limit(limit_bytes);
        for _ in 0..2 {
            for i in 0..plan.outputs().len() {
                assert_eq!(resident.compute(&plan, i), plan.compute(i, &models));
            }
        }
        assert!(resident.kept_bytes() <= limit_bytes);
    }
}

#[test]
fn factors_are_kept_and_change_no_bit() {
    let mut models = models();
    let shape = [20, 30];
    for (k, model) in ["base", "a", "b"].iter().enumerate() {
        models.set(
            model,
            &layer(1),
            &shape,
            super::testing::noise(k as u64 + 77, shape[0] * shape[1]),
        );
    }
    for method in spectral() {
        let mut resident = Resident::new(&models, &["base", "a", "b"]);
        let mut kept = Vec::new();
        for weight in [0.7, 0.3] {
            let text = example(method).replace("weight: 0.7", &format!("weight: {weight}"));
            let plan = plan(&text, &models).unwrap();
            for i in 0..plan.outputs().len() {
                assert_eq!(resident.compute(&plan, i), plan.compute(i, &models), "{method:?}");
            }
            kept.push(resident.kept_bytes());
        }
        assert!(kept[0] > 0, "{method:?}");
        // These decompose the weighted sum, so other weights are other factors.
        let of_sum = matches!(method, Method::IsoC | Method::IsoCts | Method::Svc);
        assert_eq!(kept[0] == kept[1], !of_sum, "{method:?}");
    }
}

/// Fisher information is read as a model is, and is none: it has no part in the child's dtype, tokenizer or donor, and a recipe
/// that names none, or names some for another method, is refused before anything is read.
#[test]
fn fisher_information_goes_with_its_model_and_is_no_parent() {
    let mut models = models();
    models.dtype = Some(DType::Bf16);
    let text = example(Method::Fisher);
    let of = recipe(&text);
    assert_eq!(of.models(), ["a", "b", "fisher_a", "fisher_b"]);
    assert!(of.is_measured("fisher_b") && !of.is_measured("b"));
    assert_eq!(
        of.with_models(|word| format!("x/{word}")).models(),
        ["x/a", "x/b", "x/fisher_a", "x/fisher_b"]
    );
    let plan = plan(&text, &models).unwrap();
    assert_eq!(
        (plan.outputs()[1].dtype, plan.tokenizer().donor.as_str()),
        (DType::Bf16, "a")
    );
    let (a, b) = (models.get("a", &layer(2)), models.get("b", &layer(2)));
    let (of_a, of_b) = (models.get("fisher_a", &layer(2)), models.get("fisher_b", &layer(2)));
    for (i, x) in compute(&plan, &models, &layer(2)).iter().enumerate() {
        let expected = (0.7 * of_a[i] * a[i] + 0.4 * of_b[i] * b[i]) / (0.7 * of_a[i] + 0.4 * of_b[i]);
        assert!(
            (x - expected).abs() <= 0.01 * expected.abs().max(0.01),
            "{i}: {x} {expected}"
        );
    }
    let stacked = "merge_method: fisher\nslices:\n- sources:\n  - {model: a, fisher: fisher_a, layer_range: [2, 4]}\n  \
                   - {model: b, fisher: fisher_b, layer_range: [1, 3]}\n";
    let plan = super::Plan::new(&recipe(stacked), &models).unwrap();
    let (of_a, of_b) = (models.get("fisher_a", &layer(2)), models.get("fisher_b", &layer(1)));
    let (a, b) = (models.get("a", &layer(2)), models.get("b", &layer(1)));
    let expected = (of_a[3] * a[3] + of_b[3] * b[3]) / (of_a[3] + of_b[3]);
    let found = compute(&plan, &models, &layer(0))[3];
    assert!(
        (found - expected).abs() <= 0.01 * expected.abs().max(0.01),
        "{found} {expected}"
    );
    let negative = text.replace("fisher: fisher_b", "fisher: b");
    assert!(message(&negative, &models).contains("heterosis fisher"));
    let nobody = text
        .replace("weight: 0.7", "weight: 0")
        .replace("weight: 0.4", "weight: 0");
    assert!(message(&nobody, &models).contains("sum to zero"));
}

/// Gram matrices are no weights of the child, and go with the layer that they were measured at, wherever it comes to stand; what
/// has none is averaged. Those of another model, or a directory that holds none, would be merged into noise.
#[test]
fn gram_matrices_go_with_the_layers_of_their_model() {
    let mut models = models();
    models.dtype = Some(DType::Bf16);
    let text = example(Method::Regmean);
    let of = recipe(&text);
    assert_eq!(of.models(), ["a", "b", "grams_a", "grams_b"]);
    assert!(of.is_measured("grams_b") && !of.is_measured("b"));
    assert_eq!(of.with_models(|word| format!("x/{word}")).models()[2], "x/grams_a");
    let merged = plan(&text, &models).unwrap();
    assert_eq!(
        (merged.outputs()[1].dtype, merged.tokenizer().donor.as_str()),
        (DType::Bf16, "a")
    );
    assert!(merged.outputs().iter().all(|output| !output.name.ends_with("gram")));
    let norm = "model.layers.1.input_layernorm.weight";
    let (a, b) = (models.get("a", norm)[2], models.get("b", norm)[2]);
    let mean = (0.7 * a + 0.4 * b) / 1.1;
    assert!((compute(&merged, &models, norm)[2] - mean).abs() < 0.01 * mean.abs().max(0.1));
    models.dtype = None;
    // (0.7 G + 0.4 H) W = 0.7 G A + 0.4 H B, with the layers' own.
    let holds = |text: &str, of_child: usize, [of_a, of_b]: [usize; 2]| {
        let merged = plan(text, &models).unwrap();
        let found = compute(&merged, &models, &layer(of_child));
        let gram = |model: &str, at: usize| models.get(model, &layer(at).replace("weight", "gram")).to_vec();
        let (g, h) = (gram("grams_a", of_a), gram("grams_b", of_b));
        let (a, b) = (models.get("a", &layer(of_a)), models.get("b", &layer(of_b)));
        (0..16).all(|at| {
            let (out, input) = (at / 4, at % 4);
            let alpha = |j: usize| if j == input { 1.0 } else { 0.9 };
            let sum: f32 = (0..4)
                .map(|j| {
                    let (g, h) = (0.7 * alpha(j) * g[input * 4 + j], 0.4 * alpha(j) * h[input * 4 + j]);
                    g * (found[out * 4 + j] - a[out * 4 + j]) + h * (found[out * 4 + j] - b[out * 4 + j])
                })
                .sum();
            sum.abs() < 1e-4
        })
    };
    assert!(holds(&text, 2, [2, 2]) && !holds(&text, 2, [1, 2]));
    let stacked = "merge_method: regmean\nslices:\n- sources:\n  - {model: a, grams: grams_a, layer_range: [2, 4], parameters: {weight: 0.7}}\n  \
                   - {model: b, grams: grams_b, layer_range: [1, 3], parameters: {weight: 0.4}}\n";
    assert!(holds(stacked, 0, [2, 1]) && holds(stacked, 1, [3, 2]));
    let said = |grams: &str| message(&text.replace("grams: grams_b", &format!("grams: {grams}")), &models);
    assert!(said("b").contains("holds no Gram matrices"), "{}", said("b"));
    let nobody = text
        .replace("weight: 0.7", "weight: 0")
        .replace("weight: 0.4", "weight: 0");
    assert!(message(&nobody, &models).contains("sum to zero"));
    models.set("grams_b", &layer(1).replace("weight", "gram"), &[2, 2], vec![1.0; 4]);
    assert!(
        message(&text, &models).contains("measured with another model"),
        "{}",
        message(&text, &models)
    );
    models.set(
        "grams_b",
        &layer(1).replace("weight", "gram"),
        &[4, 4],
        vec![f32::NAN; 16],
    );
    let merged = plan(&text, &models).unwrap();
    let i = merged.outputs().iter().position(|o| o.name == layer(1)).unwrap();
    let broken = merged.compute(i, &models).unwrap_err().to_string();
    assert!(broken.contains("grams_b") && broken.contains("not finite"), "{broken}");
}

/// What a steps' number and a pull both given would mean, nobody can say.
#[test]
fn bad_numbers_of_the_spectral_methods_are_refused() {
    let models = models();
    for (method, parameters, words) in [
        ("wudi", "{steps: 300, ridge: 0.1}", "leave out one of the two"),
        ("wudi", "{steps: 1.5}", "whole number"),
        ("wudi", "{ridge: -1}", "outside"),
        ("iso_cts", "{common: 1.1}", "outside"),
        ("fisher", "{epsilon: 0}", "outside"),
        ("regmean", "{alpha: 1.1}", "outside"),
        ("svc", "{alpha: 0}", "outside"),
    ] {
        let method = Method::from_name(method).unwrap();
        let text = example(method).replace("parameters: {}", &format!("parameters: {parameters}"));
        let said = message(&text, &models);
        assert!(said.contains(words), "{parameters}: {said}");
    }
}

/// Where a child is a sum of its models, whoever writes it otherwise, as one adapter, has to know the factors.
#[test]
fn the_factors_of_a_sum_make_the_merge() {
    let models = models();
    let sums = |text: &str| {
        let plan = plan(text, &models).unwrap();
        (0..plan.outputs().len())
            .map(|i| {
                let sum = plan.combination(i)?;
                let name = &plan.outputs()[i].name;
                let mut expected = vec![0.0; plan.outputs()[i].elements()];
                for (model, factor) in sum {
                    let values = models.get(model, name).iter();
                    expected
                        .iter_mut()
                        .zip(values)
                        .for_each(|(e, x)| *e += factor * f64::from(*x));
                }
                let found = plan.compute(i, &models).unwrap();
                Some(
                    found
                        .iter()
                        .zip(&expected)
                        .all(|(x, e)| (f64::from(*x) - e).abs() < 1e-5),
                )
            })
            .collect::<Vec<Option<bool>>>()
    };
    let vectors =
        "base_model: base\nmodels: [{model: a, parameters: {weight: 0.7}}, {model: b, parameters: {weight: -0.2}}]\n";
    for text in [
        format!("merge_method: task_arithmetic\nparameters: {{lambda: 0.8}}\n{vectors}"),
        format!("merge_method: task_arithmetic\nparameters: {{normalize: true}}\n{vectors}"),
        format!("merge_method: dare_linear\n{vectors}"),
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 3}}, {model: b, parameters: {weight: 1}}]\n"
            .into(),
        "merge_method: adapter_mean\nparameters: {alpha: 0.3}\nmodels: [{model: a}, {model: b}, {model: base}]\n"
            .into(),
        "merge_method: passthrough\nmodels: [{model: b}]\n".into(),
    ] {
        assert_eq!(sums(&text), vec![Some(true); 11], "{text}");
    }
    for method in methods().iter().map(|m| m.method) {
        let found = sums(&example(method));
        assert!(found.iter().all(|whole| *whole != Some(false)), "{method:?}");
    }
    let trimmed = sums(&example(Method::Ties));
    assert_eq!(trimmed, vec![None; 11]);
}

#[test]
fn resident_memory_is_used_again_and_shrinks_and_grows_with_the_tensor() {
    let models = models();
    let plan = plan(&example(Method::Linear), &models).unwrap();
    let mut resident = Resident::new(&models, &["a", "b"]);
    for i in (0..plan.outputs().len()).chain([0, 1]) {
        let values = resident.with(&plan, i, <[f32]>::to_vec).unwrap();
        assert_eq!(values, plan.compute(i, &models).unwrap());
    }
}

/// The message of whatever refuses a recipe first: reading, planning, merging.
fn message(text: &str, models: &Models) -> String {
    let recipe = match read::parse(Path::new("recipe.yaml"), text) {
        Ok(recipe) => recipe,
        Err(e) => return e.to_string(),
    };
    let plan = match Plan::new(&recipe, models) {
        Ok(plan) => plan,
        Err(e) => return e.to_string(),
    };
    let mut all = 0..plan.outputs().len();
    let merged = all.try_for_each(|i| plan.compute(i, models).map(|_| ()));
    merged.map_err(|e| e.to_string()).err().unwrap_or_default()
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_the_way_out() {
    let mut models = models();
    let says = |models: &Models, text: &str, words: &[&str]| {
        let message = message(text, models);
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    };
    let ties = example(Method::Ties);
    for (density, words) in [("-0.1", "[0, 1]"), ("1.5", "[0, 1]")] {
        let text = ties.replacen("density: 0.6", &format!("density: {density}"), 1);
        says(&models, &text, &["density", words]);
    }
    let linear = |a: &str, b: &str| {
        format!(
            "merge_method: linear\nmodels:\n- {{model: a, parameters: {{weight: {a}}}}}\n- {{model: b, parameters: {{weight: {b}}}}}\n"
        )
    };
    says(
        &models,
        &linear("1", "-1"),
        &["model.embed_tokens.weight", "linear", "sum to zero"],
    );
    // 0.1 + 0.2 − 0.3 is not zero in any binary format, and is meant to be.
    let three = linear("0.1", "0.2") + "- {model: base, parameters: {weight: -0.3}}\n";
    says(&models, &three, &["sum to zero"]);
    let beyond = "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 5]}]}]\n";
    says(&models, beyond, &["[2, 5)", "'a'", "4 layers", "the end is exclusive"]);
    let twice = linear("1", "1").replace("model: b", "model: a");
    says(&models, &twice, &["'a'", "twice"]);
    let stages = "name: x\nmerge_method: passthrough\nmodels: [{model: a}]\n---\nname: x\nmerge_method: passthrough\nmodels: [{model: b}]\n";
    says(&models, stages, &["x"]);
    for nan in [f32::NAN, -f32::NAN, f32::INFINITY] {
        for method in [Method::Linear, Method::Ties, Method::TaskArithmetic, Method::Slerp] {
            let mut values = models.get("a", &layer(3)).to_vec();
            values[5] = nan;
            models.set("a", &layer(3), &[4, 4], values);
            says(&models, &example(method), &[&layer(3), "'a'", "not finite"]);
        }
    }
}
