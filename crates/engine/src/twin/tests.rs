//! The twin against transformers, against the engine, and its gradient against central differences of the engine.

use crate::device::Device;

use super::{LinearInput, LinearMap, Shares, Text, Twin, Weights, remote::Remote};
use crate::Error;
use crate::engine::{Engine, EngineOptions, ScoreRequest};
use crate::spec::{DecoderSpec, Router};
use crate::tests::{Small, device, engine, hashed_weight, relative_error};
use crate::{DType, decoder::Decoder};

fn size(spec: &DecoderSpec, name: &str) -> usize {
    let names = spec.tensor_names();
    let (_, shape) = names.iter().find(|(known, _)| known == name).unwrap();
    shape.iter().product()
}

fn twin(small: &Small, name: &str) -> Twin {
    twin_of(small.spec(name))
}

fn twin_of(spec: DecoderSpec) -> Twin {
    let known = spec.clone();
    Twin::load(spec, Device::Cpu, &mut |name| Ok(weight_of(&known, name))).unwrap()
}

/// The same with the operations that other devices compute with.
fn composed(small: &Small, name: &str) -> Twin {
    let spec = small.spec(name);
    let known = spec.clone();
    let weights = Weights::Device(Remote::new(&candle_core::Device::Cpu));
    Twin::load_to(spec, weights, &mut |name| Ok(weight_of(&known, name))).unwrap()
}

fn weight_of(spec: &DecoderSpec, name: &str) -> Vec<f32> {
    hashed_weight(name, size(spec, name), spec.norm_plus_one)
}

#[test]
fn every_family_and_rope_scaling_gives_the_logits_of_transformers() {
    let small = Small::open();
    let ids = small.ids("ids");
    for name in small.names() {
        let twin = twin(&small, name);
        let vocab = twin.spec().vocab;
        for (len, key) in [(ids.len(), "logits"), (24, "short_logits")] {
            let got = twin.logits(&ids[..len]).unwrap();
            let error = relative_error(&got[(len - 8) * vocab..], &small.floats(&format!("{name}.{key}")));
            assert!(error <= 2e-5, "{name}.{key}: {error}");
        }
    }
}

/// Texts of several lengths and weights, one of which is to become less likely.
fn texts(ids: &[u32]) -> Vec<Text> {
    let text = |from: usize, len: usize, first: usize, weight: f64| Text {
        tokens: ids[from..from + len].to_vec(),
        from: first,
        weight,
        expected: Vec::new(),
    };
    vec![
        text(0, 20, 1, 1.0),
        text(5, 33, 30, 0.5),
        text(3, 9, 4, -0.25),
        text(11, 20, 7, 1.0),
    ]
}

#[test]
fn log_likelihoods_are_those_of_the_engine() {
    let small = Small::open();
    let texts = texts(&small.ids("ids"));
    for name in [
        "llama",
        "gemma2",
        "qwen3",
        "phi3_longrope_partial",
        "smollm3",
        "olmo2",
        "granite",
        "qwen3_next",
        "qwen3_5_odd",
        "lfm2_odd",
        "granite4_dense",
        "gemma4",
        "olmo_clip",
    ] {
        if !small.names().any(|there| there == name) {
            continue; // not by this device
        }
        let loss = twin(&small, name).loss(&texts).unwrap();
        let requests: Vec<ScoreRequest> = texts
            .iter()
            .map(|text| ScoreRequest {
                tokens: text.tokens.clone(),
                from: text.from,
            })
            .collect();
        let scores = engine(small.decoder(name), EngineOptions::default())
            .score(&requests)
            .unwrap();
        for (got, score) in loss.log_likelihoods.iter().zip(&scores) {
            assert!(
                (got - score.log_likelihood).abs() < 1e-4 * score.log_likelihood.abs(),
                "{name}"
            );
        }
        let of = |(text, score): (&Text, &crate::Score)| -text.weight * score.log_likelihood;
        let total: f64 = texts
            .iter()
            .map(|t| t.weight.abs() * (t.tokens.len() - t.from) as f64)
            .sum();
        let expected = texts.iter().zip(&scores).map(of).sum::<f64>() / total;
        assert!((loss.mean - expected).abs() < 1e-4, "{name}: {} {expected}", loss.mean);
    }
}

/// What a layer noted going forward stands for what it would note if it were computed again: of all layers, of the last one,
/// and of none, whatever the family is made of, the gradients have the same bits.
#[test]
fn kept_notes_give_the_bits_of_layers_computed_again() {
    let small = Small::open();
    let texts = texts(&small.ids("ids"));
    for name in small.names() {
        let gradient = |kept: usize| {
            let mut twin = twin(&small, name);
            twin.kept = kept;
            let mut found = Vec::new();
            let mut take = |tensor: &str, gradient: Vec<f32>| {
                found.push((tensor.to_string(), gradient));
                Ok::<(), Error>(())
            };
            let loss = twin.gradient(&texts, &mut take).unwrap();
            (loss, found)
        };
        let spec = small.spec(name);
        // Texts of 33 tokens at most, filled up, in one batch.
        let tokens = texts.len() * 32;
        let one_layer = super::noted_of_a_token(&spec) * tokens;
        assert_eq!(super::kept_layers(&spec, tokens, one_layer), 1, "{name}");
        let again = gradient(0);
        assert_eq!(gradient(one_layer), again, "{name}");
        assert_eq!(gradient(super::KEPT), again, "{name}");
    }
}

#[test]
fn operations_composed_by_candle_give_the_same_logits_loss_and_gradient() {
    let small = Small::open();
    let ids = small.ids("ids");
    let texts = texts(&ids);
    for name in small.names() {
        let of = |twin: Twin| {
            let mut found: Vec<(String, Vec<f32>)> = Vec::new();
            let mut take = |tensor: &str, gradient: Vec<f32>| {
                found.push((tensor.to_string(), gradient));
                Ok::<(), Error>(())
            };
            let loss = twin.gradient(&texts, &mut take).unwrap();
            assert_eq!(loss, twin.loss(&texts).unwrap());
            (twin.logits(&ids[..24]).unwrap(), loss.mean, found)
        };
        let (logits, loss, kernels) = of(twin(&small, name));
        let (same_logits, same_loss, candle) = of(composed(&small, name));
        assert!(relative_error(&logits, &same_logits) < 2e-5, "{name}");
        assert!((loss - same_loss).abs() < 1e-5, "{name}: {loss} {same_loss}");
        assert_eq!(kernels.len(), candle.len());
        let largest = |x: &[f32]| x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let scale = kernels
            .iter()
            .map(|(_, gradient)| largest(gradient))
            .fold(0.0, f32::max);
        for ((tensor, a), (other, b)) in kernels.iter().zip(&candle) {
            assert_eq!(tensor, other);
            // A bias that all keys get alike has none at all, nor has a factor before a norm: what is left is rounding.
            let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            let error = largest(&difference) / largest(b).max(1e-4 * scale);
            // That of a single number is a sum over all tokens, much of which cancels, as does most of what keys get alike.
            let cancels = b.len() == 1 || tensor.ends_with("k_proj.bias");
            let most = if cancels { 1e-3 } else { 2e-4 };
            assert!(error < most, "{name} {tensor}: {error}");
        }
    }
}

/// A text with what a teacher expects in the place of each token says more than the tokens: one that expects the tokens alone is
/// a text without, a model that is its own teacher has nothing to learn, and both ways to compute it agree.
#[test]
fn what_a_teacher_expects_is_learned() {
    let small = Small::open();
    let texts = texts(&small.ids("ids"));
    for name in ["llama", "gemma2", "granite"] {
        let of = |twin: &Twin, expected: &dyn Fn(&Text, usize) -> Vec<Shares>| {
            let texts: Vec<Text> = texts
                .iter()
                .enumerate()
                .map(|(i, text)| Text {
                    expected: expected(text, i),
                    ..text.clone()
                })
                .collect();
            let mut found: Vec<f32> = Vec::new();
            let mut take = |_: &str, gradient: Vec<f32>| {
                found.extend(gradient);
                Ok::<(), Error>(())
            };
            let loss = twin.gradient(&texts, &mut take).unwrap();
            assert_eq!(loss, twin.loss(&texts).unwrap());
            (loss, found)
        };
        let (kernels, candle) = (twin(&small, name), composed(&small, name));
        let largest = |x: &[f32]| x.iter().fold(0.0f32, |m, x| m.max(x.abs()));

        let plain = of(&kernels, &|_, _| Vec::new());
        let alone = |text: &Text, _| {
            text.tokens[text.from..]
                .iter()
                .map(|token| vec![(*token, 1.0)])
                .collect()
        };
        assert_eq!(of(&kernels, &alone), plain, "{name}");

        let vocab = kernels.spec().vocab;
        let own = kernels.expectations(&texts, vocab).unwrap();
        for (text, expected) in texts.iter().zip(&own) {
            assert_eq!(expected.len(), text.tokens.len() - text.from);
            assert!(
                expected
                    .iter()
                    .all(|e| e.len() == vocab && (e.iter().map(|(_, p)| p).sum::<f32>() - 1.0).abs() < 1e-4)
            );
        }
        let (_, nothing) = of(&kernels, &|_, i| own[i].clone());
        assert!(
            largest(&nothing) < 1e-4 * largest(&plain.1),
            "{name}: {}",
            largest(&nothing)
        );

        // Of a few tokens each, and other ones than it expects itself.
        let few = kernels.expectations(&texts, 5).unwrap();
        let others = |_: &Text, i: usize| -> Vec<Shares> {
            let next = |shares: &Shares| {
                shares
                    .iter()
                    .map(|(token, p)| ((token + 1) % vocab as u32, *p))
                    .collect()
            };
            few[i].iter().map(next).collect()
        };
        let ((loss, ours), (same_loss, theirs)) = (of(&kernels, &others), of(&candle, &others));
        assert!(
            (loss.mean - same_loss.mean).abs() < 1e-5,
            "{name}: {} {}",
            loss.mean,
            same_loss.mean
        );
        let difference: Vec<f32> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
        assert!(largest(&difference) < 2e-4 * largest(&ours), "{name}");
        assert!(largest(&ours) > 0.1 * largest(&plain.1), "{name}");
    }
    let one = Text {
        expected: vec![vec![(1, 1.0)]],
        ..texts[0].clone()
    };
    let refused = twin(&small, "llama").loss(&[one]).unwrap_err().to_string();
    assert!(
        refused.contains("has 19 tokens to learn") && refused.contains("the place of 1"),
        "{refused}"
    );
}

/// The weighted loss of `texts` by the engine, whose forward pass shares nothing with the twin's.
fn engine_loss(engine: &mut Engine, texts: &[Text]) -> f64 {
    let requests: Vec<ScoreRequest> = texts
        .iter()
        .map(|text| ScoreRequest {
            tokens: text.tokens.clone(),
            from: text.from,
        })
        .collect();
    let scores = engine.score(&requests).unwrap();
    let total: f64 = texts
        .iter()
        .map(|t| t.weight.abs() * (t.tokens.len() - t.from) as f64)
        .sum();
    let sum = texts
        .iter()
        .zip(&scores)
        .map(|(t, s)| -t.weight * s.log_likelihood)
        .sum::<f64>();
    sum / total
}

/// A model whose loss is smooth: each token goes to all experts, so that none is left for another on the way. (Phi-MoE's
/// router has edges even so; what it gives is differentiated in `routing`, and by candle.)
fn smooth(mut spec: DecoderSpec) -> Option<DecoderSpec> {
    if let Some(experts) = &mut spec.experts {
        experts.per_token = experts.count;
        match &mut experts.router {
            Router::Softmax => {}
            Router::Sigmoid { groups, best } => *best = *groups,
            Router::SparseMixer { .. } => return None,
        }
    }
    Some(spec)
}

/// Of every tensor, the derivative along a direction of its own, for all families.
#[test]
fn the_gradient_of_every_tensor_agrees_with_central_differences_of_the_engine() {
    let small = Small::open();
    let texts = texts(&small.ids("ids"));
    for name in small.names() {
        let Some(spec) = smooth(small.spec(name)) else {
            continue;
        };
        let mut found: Vec<(String, Vec<f32>)> = Vec::new();
        let twin = twin_of(spec.clone());
        let mut take = |tensor: &str, gradient: Vec<f32>| {
            found.push((tensor.to_string(), gradient));
            Ok::<(), Error>(())
        };
        let loss = twin.gradient(&texts, &mut take).unwrap();
        assert_eq!(loss, twin.loss(&texts).unwrap());
        assert_eq!(found.len(), spec.tensor_names().len(), "{name}: each tensor once");
        // The layers of one model are alike: the first and the last.
        let last = format!("layers.{}.", spec.layers.len() - 1);
        found.retain(|(tensor, _)| {
            !tensor.contains("layers.") || tensor.contains("layers.0.") || tensor.contains(&last)
        });
        let mut read = |name: &str| Ok(weight_of(&spec, name));
        let decoder = Decoder::load(spec.clone(), device(), DType::F32, &mut read).unwrap();
        let mut engine = engine(decoder, EngineOptions::default());
        for (tensor, gradient) in &found {
            let own = hashed_weight(tensor, gradient.len(), spec.norm_plus_one);
            // Along its own sign: nothing cancels.
            let expected: f64 = gradient.iter().map(|g| f64::from(g.abs())).sum();
            // Far enough for f32 to see a difference in the loss, near enough for the loss to be straight.
            let step = (0.002 / expected).min(2e-3) as f32;
            let mut at = |step: f32| {
                let along = own.iter().zip(gradient);
                let moved = along.map(|(w, g)| w + step * g.signum() * f32::from(*g != 0.0));
                let moved: Vec<f32> = moved.collect();
                engine.decoder_mut().set_tensor(tensor, &moved).unwrap();
                engine_loss(&mut engine, &texts)
            };
            let got = (at(step) - at(-step)) / (2.0 * f64::from(step));
            engine.decoder_mut().set_tensor(tensor, &own).unwrap();
            assert!(
                (got - expected).abs() < 1e-2 * expected.abs() + 2e-4,
                "{name} {tensor}: {got} {expected}"
            );
        }
    }
}

#[test]
fn many_texts_are_computed_in_several_batches_with_one_gradient() {
    let small = Small::open();
    let ids = small.ids("ids");
    let text = |i: usize| Text {
        tokens: ids[i % 20..i % 20 + 60].to_vec(),
        from: 20,
        weight: 1.0,
        expected: Vec::new(),
    };
    let (few, many): (Vec<Text>, Vec<Text>) = ((0..20).map(text).collect(), (0..80).map(text).collect());
    let twin = twin(&small, "llama_tied_mqa");
    let gradient = |texts: &[Text]| {
        let mut all = Vec::new();
        let mut take = |name: &str, gradient: Vec<f32>| {
            all.push((name.to_string(), gradient));
            Ok::<(), Error>(())
        };
        (twin.gradient(texts, &mut take).unwrap().mean, all)
    };
    // Eighty texts are twenty, four times: the same mean, the same gradient.
    let ((few_loss, few), (many_loss, many)) = (gradient(&few), gradient(&many));
    assert!((few_loss - many_loss).abs() < 1e-6);
    for ((name, few), (_, many)) in few.iter().zip(&many) {
        assert!(relative_error(many, few) < 1e-4, "{name}");
    }
}

#[test]
fn nothing_to_learn_and_tokens_beyond_the_vocabulary_are_refused() {
    let small = Small::open();
    let mut twin = twin(&small, "llama");
    let text = |tokens: &[u32], from: usize| Text {
        tokens: tokens.to_vec(),
        from,
        weight: 1.0,
        expected: Vec::new(),
    };
    let refused = |text: Text| twin.loss(&[text]).unwrap_err().to_string();
    assert!(refused(text(&[1, 2], 0)).contains("token 0"));
    assert!(refused(text(&[1, 2], 2)).contains("nothing to score"));
    assert!(refused(text(&[1, 2000], 1)).contains("vocabulary"));
    assert!(matches!(
        twin.set_tensor("lm_head.bias", &[]),
        Err(Error::UnknownTensor { .. })
    ));
    assert!(matches!(
        twin.set_tensor("model.norm.weight", &[1.0]),
        Err(Error::TensorSize { .. })
    ));
}

/// A vector that no row has a part in: noise less what lies along the rows.
fn beside(rows: &[f32], columns: usize, seed: u32) -> Vec<f64> {
    let mut found: Vec<Vec<f64>> = Vec::new();
    let noise =
        (0..columns as u32).map(|i| f64::from((i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) / 1e7 - 0.8);
    let wide = rows
        .chunks(columns)
        .map(|row| row.iter().map(|x| f64::from(*x)).collect());
    let mut last = Vec::new();
    for mut vector in wide.chain([noise.collect::<Vec<f64>>()]) {
        // Twice, so that what rounding leaves goes too.
        for known in found.iter().chain(&found.clone()) {
            let along: f64 = known.iter().zip(&vector).map(|(a, b)| a * b).sum();
            vector.iter_mut().zip(known).for_each(|(v, k)| *v -= along * k);
        }
        let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|v| *v /= length.max(1e-9));
        last = vector.clone();
        found.push(vector);
    }
    last
}

/// Adds the vector, by a factor of each output's own, to the weights of one map, where the file has them.
fn disturbed(weights: &[f32], map: &LinearMap, vector: &[f64]) -> Vec<f32> {
    let mut changed = weights.to_vec();
    let (part, parts) = map.part.unwrap_or((0, 1));
    let (len, inputs) = (weights.len() / parts, vector.len());
    let outputs = len / inputs;
    for output in 0..outputs {
        for (input, v) in vector.iter().enumerate() {
            let at = if map.turned {
                input * outputs + output
            } else {
                output * inputs + input
            };
            // Not alike: a norm about the mean takes that away again.
            changed[part * len + at] += ((output * 7919 % 13) as f32 / 6.0 - 1.1) * *v as f32;
        }
    }
    changed
}

/// A Gram matrix of anything else than what a map reads would make a merge that fits other inputs: a map may be changed wherever its
/// inputs have no part, and the model says the same; a change along an input is seen. So for each map of each family: names, layouts
/// of files, experts, what is shared.
#[test]
fn a_map_can_be_changed_where_it_reads_nothing() {
    let small = Small::open();
    let ids = &small.ids("ids")[..3];
    let text = Text {
        tokens: ids.iter().copied().chain([0]).collect(),
        from: 3,
        weight: 1.0,
        expected: Vec::new(),
    };
    let (mut maps_seen, mut shared, mut turned, mut parts, mut idle) = (0, 0, 0, 0, 0);
    for name in small.names() {
        let mut twin = twin(&small, name);
        let spec = twin.spec().clone();
        let before = twin.logits(ids).unwrap();
        let mut reading = twin.begin(std::slice::from_ref(&text)).unwrap();
        assert_eq!(reading.tokens(), 3);
        let mut seen: Vec<(LinearMap, Vec<f32>, usize)> = Vec::new();
        for index in 0..spec.layers.len() {
            let mut see = |input: &LinearInput<'_>| {
                shared += usize::from(input.maps.len() > 1);
                for map in &input.maps {
                    seen.push((map.clone(), input.rows.to_vec(), input.columns));
                }
            };
            twin.show(index, &reading, &mut see).unwrap();
            twin.advance(index, &mut reading).unwrap();
        }
        let known: std::collections::HashSet<&str> = seen.iter().map(|(map, ..)| map.tensor.as_str()).collect();
        let linear = |name: &str| name.contains("_proj.weight") && !name.contains("conv") && name.contains("layers.");
        for (tensor, _) in spec.tensor_names().iter().filter(|(tensor, _)| linear(tensor)) {
            assert!(
                known.contains(tensor.as_str()),
                "{name}: nobody was shown what {tensor} reads"
            );
        }
        for (i, (map, rows, columns)) in seen.iter().enumerate() {
            let own = weight_of(&spec, &map.tensor);
            let mut off = |vector: &[f64]| {
                twin.set_tensor(&map.tensor, &disturbed(&own, map, vector)).unwrap();
                let after = twin.logits(ids).unwrap();
                twin.set_tensor(&map.tensor, &own).unwrap();
                relative_error(&after, &before)
            };
            let unseen = off(&beside(rows, *columns, i as u32));
            assert!(unseen < 1e-4, "{name} {map:?}: {unseen}");
            let Some(row) = rows.chunks(*columns).next_back() else {
                idle += 1;
                continue;
            };
            let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let along: Vec<f64> = row.iter().map(|x| f64::from(*x) / length).collect();
            // A router that moves all its logits alike chooses as before.
            let is_router = spec
                .experts
                .as_ref()
                .is_some_and(|e| map.tensor.contains(e.names.router));
            let seen = off(&along);
            assert!(
                is_router || (seen > 1e-5 && seen > 10.0 * unseen),
                "{name} {map:?}: {seen} {unseen}"
            );
            maps_seen += 1;
            turned += usize::from(map.turned);
            parts += usize::from(map.part.is_some());
        }
    }
    assert!(
        maps_seen > 100 && shared > 20 && turned > 0 && parts > 0 && idle > 0,
        "{maps_seen} {shared} {turned} {parts} {idle}"
    );
}
