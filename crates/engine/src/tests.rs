//! The decoder and the engine against what transformers computed, and against themselves in other batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use heterosis_isa::{DType, Isa};
use safetensors::SafeTensors;

use super::Error;
use super::decoder::{Chunk, Decoder, Step};
use super::device::Device;
#[cfg(feature = "cuda")]
use super::engine::Score;
use super::engine::{Engine, EngineOptions, Finish, Request, ScoreRequest, repeats};
use super::kv::{Pool, Segment};
use super::sampling::Sampling;
use super::spec::DecoderSpec;
use super::tokenizer::{Tokenizer, TokenizerFiles};

/// `HETEROSIS_TEST_DEVICE=cuda` (in a build for it) runs these tests there; what must hold bit for bit is then left out.
pub(super) fn device() -> Device {
    match std::env::var("HETEROSIS_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        _ => Device::Cpu,
    }
}

/// Whose kernels to compute with: each set that the machine has, where it is the host that computes.
fn sets() -> Vec<Isa> {
    match device() {
        Device::Cpu => Isa::available(),
        _ => vec![Isa::best()],
    }
}

/// A checkpoint directory as `hf_goldens.py` writes it: config.json, model.safetensors, golden.safetensors.
struct Golden {
    config: serde_json::Value,
    weights: Vec<u8>,
    expected: Vec<u8>,
}

impl Golden {
    fn open(dir: &Path) -> Self {
        let read = |file: &str| std::fs::read(dir.join(file)).unwrap();
        Golden {
            config: serde_json::from_slice(&read("config.json")).unwrap(),
            weights: read("model.safetensors"),
            expected: read("golden.safetensors"),
        }
    }

    fn decoder(&self) -> Decoder {
        let tensors = SafeTensors::deserialize(&self.weights).unwrap();
        let there = tensors.iter().map(|(name, tensor)| (name, tensor.shape().to_vec()));
        let there: Vec<(&str, Vec<usize>)> = there.collect();
        let there = || there.iter().map(|(name, shape)| (*name, shape.as_slice()));
        let spec = DecoderSpec::from_config(&self.config).unwrap().stored_as(there());
        spec.check_tensors(there()).unwrap();
        let mut read = |name: &str| {
            let tensor = tensors.tensor(name).map_err(|e| e.to_string())?;
            Ok(tensor
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect())
        };
        Decoder::load(spec, device(), DType::F32, &mut read).unwrap()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.expected).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let tensors = SafeTensors::deserialize(&self.expected).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let ids: Vec<u32> = tensor
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect();
        ids.chunks(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
    }
}

/// Logits of every token of each row, computed together in chunks of at most `step` tokens.
fn logits(decoder: &mut Decoder, rows: &[&[u32]], step: usize) -> Vec<Vec<f32>> {
    decoder.prepare(rows.iter().map(|row| row.len()).max().unwrap());
    let mut pool = Pool::new(decoder.kv_shape(), 1 << 30, None);
    let mut own: Vec<Segment> = rows.iter().map(|row| pool.segment(row.len(), &[]).unwrap()).collect();
    let mut out = vec![Vec::new(); rows.len()];
    let longest = rows.iter().map(|row| row.len()).max().unwrap();
    for from in (0..longest).step_by(step) {
        let mut chunks = Vec::new();
        let mut counts = Vec::new();
        for (row, own) in rows.iter().zip(&mut own) {
            let tokens = &row[from.min(row.len())..(from + step).min(row.len())];
            counts.push(tokens.len());
            if !tokens.is_empty() {
                chunks.push(Chunk {
                    tokens,
                    prefix: &[],
                    own,
                    length: row.len(),
                    wanted_from: 0,
                });
            }
        }
        let states = decoder.forward(&mut chunks).unwrap();
        let logits = decoder.logits(&states).unwrap();
        let mut values = logits.data.chunks(logits.cols);
        for (out, count) in out.iter_mut().zip(counts) {
            values.by_ref().take(count).for_each(|row| out.extend_from_slice(row));
        }
    }
    out
}

/// A tokenizer of `vocab` words that never ends a sequence.
fn words(vocab: usize) -> Arc<Tokenizer> {
    let vocab: serde_json::Map<String, serde_json::Value> = (0..vocab).map(|i| (format!("w{i}"), i.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"}
    });
    let files = TokenizerFiles {
        name: "words".into(),
        tokenizer_json: json.to_string().into_bytes(),
        ..Default::default()
    };
    Arc::new(Tokenizer::new(files).unwrap())
}

pub(super) fn engine(decoder: Decoder, options: EngineOptions) -> Engine {
    let tokenizer = words(decoder.spec().vocab);
    Engine::new(decoder, tokenizer, options)
}

fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request::new(prompt.to_vec(), max_new_tokens)
}

/// Largest difference over the largest magnitude of what is expected.
pub(super) fn relative_error(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    got.iter()
        .zip(expected)
        .fold(0.0f32, |m, (a, b)| if (a - b).abs() <= m { m } else { (a - b).abs() })
        / largest
}

fn check_golden(dir: &Path) -> f32 {
    let golden = Golden::open(dir);
    let mut decoder = golden.decoder();
    let vocab = decoder.spec().vocab;
    let (ids, mask) = (golden.ids("input_ids"), golden.ids("attention_mask"));
    let prompts: Vec<&[u32]> = ids
        .iter()
        .zip(&mask)
        .map(|(ids, mask)| &ids[mask.iter().filter(|m| **m == 0).count()..])
        .collect();
    let expected = golden.floats("logits");
    let mut worst = 0.0f32;
    for (row, got) in logits(&mut decoder, &prompts, 1000).iter().enumerate() {
        let padding = ids[row].len() - prompts[row].len();
        let expected = &expected[(row * ids[row].len() + padding) * vocab..(row + 1) * ids[row].len() * vocab];
        worst = worst.max(relative_error(got, expected));
    }
    let single = golden.ids("single_ids");
    let expected = golden.floats("single_logits");
    for step in [1000, 37] {
        let got = logits(&mut decoder, &[&single[0]], step);
        worst = worst.max(relative_error(&got[0], &expected));
    }
    let generated = golden.ids("generated");
    let requests: Vec<Request> = prompts
        .iter()
        .map(|p| request(p, generated[0].len() - ids[0].len()))
        .collect();
    let answers = engine(decoder, EngineOptions::default())
        .generate(&requests, &mut |_| {})
        .unwrap();
    for (row, answer) in answers.iter().enumerate() {
        assert_eq!(
            answer.token_ids,
            generated[row][ids[row].len()..],
            "{} row {row}",
            dir.display()
        );
        assert_eq!(answer.finish, Finish::Length);
    }
    worst
}

/// Set `HETEROSIS_GOLDENS` to a directory of checkpoints with goldens to check more than the repository holds.
#[test]
fn more_families_agree_with_transformers() {
    let Ok(root) = std::env::var("HETEROSIS_GOLDENS") else {
        return;
    };
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    dirs.sort();
    let mut failed = false;
    for dir in dirs.iter().filter(|dir| dir.join("golden.safetensors").exists()) {
        let result = std::panic::catch_unwind(|| check_golden(dir));
        failed |= !matches!(result, Ok(error) if error <= 2e-4);
        println!(
            "{:24} {:?}",
            dir.file_name().unwrap().display(),
            result.map_err(|_| "failed")
        );
    }
    assert!(!failed);
}

/// The repository's goldens, whose weights are a hash of name and index (see `tests/data/generate.py`).
pub(super) struct Small {
    pub(super) configs: serde_json::Map<String, serde_json::Value>,
    expected: Vec<u8>,
}

impl Small {
    pub(super) fn open() -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let configs = serde_json::from_slice(&std::fs::read(dir.join("goldens.json")).unwrap()).unwrap();
        Small {
            configs,
            expected: std::fs::read(dir.join("goldens.safetensors")).unwrap(),
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.configs.keys()
    }

    /// A case whose name ends so has the tensors of all experts in one.
    pub(super) fn spec(&self, name: &str) -> DecoderSpec {
        let spec = DecoderSpec::from_config(&self.configs[name]).unwrap();
        match name.ends_with("_fused") {
            true => spec.stored_as([("model.layers.0.mlp.experts.gate_up_proj", &[][..])]),
            false => spec,
        }
    }

    pub(super) fn decoder(&self, name: &str) -> Decoder {
        let (spec, mut read) = hashed_as(self.spec(name));
        Decoder::load(spec, device(), DType::F32, &mut read).unwrap()
    }

    fn decoder_for(&self, isa: Isa, name: &str) -> Decoder {
        if !device().is_cpu() {
            return self.decoder(name);
        }
        let (spec, mut read) = hashed_as(self.spec(name));
        Decoder::load_for(isa, spec, DType::F32, &mut read).unwrap()
    }

    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.expected).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub(super) fn ids(&self, name: &str) -> Vec<u32> {
        let tensors = SafeTensors::deserialize(&self.expected).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    }
}

fn decoder(config: &serde_json::Value, dtype: DType, device: Device) -> Decoder {
    let (spec, mut read) = hashed(config);
    Decoder::load(spec, device, dtype, &mut read).unwrap()
}

/// A model of hashed weights, and how its tensors are read.
fn hashed(config: &serde_json::Value) -> (DecoderSpec, impl FnMut(&str) -> Result<Vec<f32>, String> + use<>) {
    hashed_as(DecoderSpec::from_config(config).unwrap())
}

fn hashed_as(spec: DecoderSpec) -> (DecoderSpec, impl FnMut(&str) -> Result<Vec<f32>, String> + use<>) {
    let gemma = spec.norm_plus_one;
    let sizes: std::collections::HashMap<String, usize> = spec
        .tensor_names()
        .into_iter()
        .map(|(name, shape)| (name, shape.iter().product()))
        .collect();
    (spec, move |name| Ok(hashed_weight(name, sizes[name], gemma)))
}

pub(super) fn hashed_weight(name: &str, len: usize, gemma: bool) -> Vec<f32> {
    if name.ends_with(".act_fn.eps") {
        return vec![-1e-6];
    }
    let seed = name.bytes().fold(0x811C_9DC5u32, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let is_norm = name.ends_with("norm.weight") && (!gemma || name.ends_with("linear_attn.norm.weight"));
    let shift = if is_norm || name.ends_with("layer_scalar") {
        1.0
    } else {
        0.0
    };
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
        x ^= x >> 15;
        x = x.wrapping_mul(0x2C1B_3C6D);
        x ^= x >> 12;
        x = x.wrapping_mul(0x297A_2D39);
        x ^= x >> 15;
        ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.5 + shift
    };
    (0..len as u32).map(value).collect()
}

/// How far logits may be from transformers'. In seven layers each scaled by a number of its own, sums in a GPU's order make a little more.
fn most_of(name: &str, device: Device) -> f32 {
    match name {
        "gemma4_odd" if !device.is_cpu() => 4e-5,
        _ => 2e-5,
    }
}

#[test]
fn every_family_and_rope_scaling_agrees_with_transformers() {
    let small = Small::open();
    let ids = small.ids("ids");
    for (name, isa) in small
        .names()
        .flat_map(|name| sets().into_iter().map(move |isa| (name, isa)))
    {
        let mut decoder = small.decoder_for(isa, name);
        let vocab = decoder.spec().vocab;
        for (len, key) in [(ids.len(), "logits"), (24, "short_logits")] {
            let got = logits(&mut decoder, &[&ids[..len]], 41).remove(0);
            let error = relative_error(&got[(len - 8) * vocab..], &small.floats(&format!("{name}.{key}")));
            assert!(error <= most_of(name, device()), "{name}.{key}, {isa}: {error}");
        }
        let answers = engine(decoder, EngineOptions::default())
            .generate(&[request(&ids[..27], 12)], &mut |_| {})
            .unwrap();
        let expected = small.ids(&format!("{name}.generated"));
        assert_eq!(answers[0].token_ids, expected, "{name}, {isa}");
    }
}

/// Models that also see: what they make of a text is what their language half makes of it, whatever their files call it.
#[test]
fn the_language_halves_of_wrappers_agree_with_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let cases: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(dir.join("wrappers.json")).unwrap()).unwrap();
    let small = Small {
        configs: serde_json::Map::new(),
        expected: std::fs::read(dir.join("wrappers.safetensors")).unwrap(),
    };
    let ids = small.ids("ids");
    for (name, case) in &cases {
        let tensors: Vec<(&str, Vec<usize>)> = case["tensors"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| (name.as_str(), serde_json::from_value(shape.clone()).unwrap()))
            .collect();
        let there = || tensors.iter().map(|(name, shape)| (*name, shape.as_slice()));
        let spec = DecoderSpec::from_config(&case["config"]).unwrap().stored_as(there());
        spec.check_tensors(there()).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What is not the tower's must be the decoder's.
        let prefix = spec.names.layers;
        let odd = format!("{prefix}0.self_attn.gate.weight");
        let message = spec
            .check_tensors(there().chain([(odd.as_str(), [1].as_slice())]))
            .unwrap_err();
        assert!(message.to_string().contains(&odd), "{name}: {message}");
        let (spec, mut read) = hashed_as(spec);
        let mut decoder = Decoder::load(spec, device(), DType::F32, &mut read).unwrap();
        let vocab = decoder.spec().vocab;
        let got = logits(&mut decoder, &[&ids], 23).remove(0);
        let error = relative_error(
            &got[(ids.len() - 8) * vocab..],
            &small.floats(&format!("{name}.logits")),
        );
        assert!(error <= 2e-5, "{name}: {error}");
        let answers = engine(decoder, EngineOptions::default()).generate(&[request(&ids[..27], 8)], &mut |_| {});
        let expected = small.ids(&format!("{name}.generated"));
        assert_eq!(answers.unwrap()[0].token_ids, expected, "{name}");
    }
    for wrapper in super::Wrapper::all() {
        let mut types = cases.values().map(|case| &case["config"]["model_type"]);
        assert!(types.any(|name| name == wrapper.name()), "{}", wrapper.name());
    }
}

#[test]
fn every_family_has_goldens_of_its_own() {
    let small = Small::open();
    for family in super::Family::all() {
        let mut types = small.configs.values().map(|config| &config["model_type"]);
        assert!(types.any(|name| name == family.name()), "{}", family.name());
    }
}

#[test]
fn what_the_kernels_of_a_gpu_lack_is_refused_by_name() {
    if device().is_cpu() {
        return;
    }
    let small = Small::open();
    let mut config = small.configs["llama_biases_head_dim"].clone();
    config["head_dim"] = 514.into();
    let (spec, mut read) = hashed(&config);
    let error = Decoder::load(spec, device(), DType::F32, &mut read).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("a head of 514 dimensions (at most 512)"), "{error}");
}

#[test]
fn a_text_beyond_the_learned_positions_is_refused() {
    let small = Small::open();
    let ids = small.ids("ids");
    let long = [&ids[..], &ids[..]].concat();
    let mut engine = engine(small.decoder("gpt2"), EngineOptions::default());
    engine.generate(&[request(&ids[..29], 100)], &mut |_| {}).unwrap();
    let refused = |error: Error| assert!(matches!(error, Error::Positions { positions: 128, .. }), "{error}");
    refused(engine.generate(&[request(&ids[..30], 100)], &mut |_| {}).unwrap_err());
    refused(
        engine
            .score(&[ScoreRequest {
                tokens: long,
                from: 150,
            }])
            .unwrap_err(),
    );
}

/// `cargo install` once built another program than the checkout: kernels were chosen by the compiler's flags, so that a
/// binary answered in other bits, and slowly, under the same name.
#[test]
fn instruction_sets_agree_and_those_with_fused_operations_bit_for_bit() {
    if !device().is_cpu() {
        return;
    }
    let small = Small::open();
    let ids = small.ids("ids");
    let mut config = small.configs["llama_biases_head_dim"].clone();
    // Heads of which AVX-512 puts 64, 32 or 16 dimensions side by side.
    for head_dim in [64, 32, 20] {
        config["head_dim"] = head_dim.into();
        let of = |isa: Isa| {
            let (spec, mut read) = hashed(&config);
            let mut decoder = Decoder::load_for(isa, spec, DType::F32, &mut read).unwrap();
            logits(&mut decoder, &[&ids, &ids[..30]], 41).concat()
        };
        let results: Vec<Vec<f32>> = sets().into_iter().map(of).collect();
        let (generic, fused) = (&results[0], &results[1..]);
        assert!(
            fused.iter().all(|got| relative_error(got, generic) < 2e-5),
            "{head_dim}"
        );
        assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "{head_dim}");
    }
    for name in ["qwen3_5_odd", "lfm2", "granite4"] {
        let of = |isa: Isa| logits(&mut small.decoder_for(isa, name), &[&ids, &ids[..30]], 41).concat();
        let results: Vec<Vec<f32>> = sets().into_iter().map(of).collect();
        assert!(results[1..].windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
    assert_eq!(super::instruction_set(), Isa::best().name());
}

/// Prompts of many lengths, some with a common beginning.
fn prompts(ids: &[u32]) -> Vec<Vec<u32>> {
    let mut prompts: Vec<Vec<u32>> = (1..20).map(|i| ids[i * 3..i * 3 + 1 + (i * 7) % 31].to_vec()).collect();
    prompts.extend((0..9).map(|i| [&ids[..40], &ids[50 + i..55 + 2 * i]].concat()));
    prompts.extend((0..3).map(|i| [&ids[..40], &ids[60..90], &ids[i..i + 2]].concat()));
    prompts.push(prompts[20].clone());
    prompts
}

#[test]
fn a_row_gives_the_same_bits_alone_and_in_any_batch() {
    if !device().is_cpu() {
        return;
    }
    let small = Small::open();
    let ids = small.ids("ids");
    let prompts = prompts(&ids);
    let names = [
        "llama",
        "gemma2",
        "qwen3",
        "phi3_longrope_partial",
        "dynamic",
        "smollm3",
        "ministral3",
        "gpt2",
        "gpt_neox",
        "qwen3_next",
        "qwen3_5_odd",
        "lfm2_odd",
        "granite4",
        "cohere_qk_norm",
        "gemma4",
        "gemma4_large",
    ];
    // One family says what the others do of another instruction set.
    let others = sets().into_iter().filter(|isa| *isa != Isa::best());
    let all = names.map(|name| (name, Isa::best())).into_iter();
    let others = others.flat_map(|isa| [("gemma2", isa), ("qwen3_5_odd", isa), ("gemma4", isa)]);
    for (name, isa) in all.chain(others) {
        let requests: Vec<ScoreRequest> = prompts
            .iter()
            .filter(|tokens| tokens.len() > 1)
            .map(|tokens| ScoreRequest {
                tokens: tokens.clone(),
                from: tokens.len() - 1,
            })
            .collect();
        let mut alone = engine(small.decoder_for(isa, name), EngineOptions::default());
        alone.decoder_mut().set_threads(1);
        let expected: Vec<_> = requests
            .iter()
            .map(|r| alone.score(std::slice::from_ref(r)).unwrap()[0])
            .collect();
        let generated: Vec<_> = prompts
            .iter()
            .map(|p| alone.generate(&[request(p, 9)], &mut |_| {}).unwrap().remove(0))
            .collect();
        let layouts = [(384, 256, 1), (64, 256, 2), (384, 5, 2), (33, 3, 3)];
        for (step_tokens, max_rows, threads) in layouts {
            let options = EngineOptions {
                step_tokens,
                max_rows,
                ..Default::default()
            };
            let mut together = engine(small.decoder_for(isa, name), options);
            together.decoder_mut().set_threads(threads);
            let got = together.score(&requests).unwrap();
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(
                    got.log_likelihood.to_bits(),
                    expected.log_likelihood.to_bits(),
                    "{name}, {isa}"
                );
            }
            let requests: Vec<Request> = prompts.iter().map(|p| request(p, 9)).collect();
            assert_eq!(
                together.generate(&requests, &mut |_| {}).unwrap(),
                generated,
                "{name}, {isa}"
            );
        }
    }
}

#[test]
fn little_memory_gives_the_same_answers_later_and_too_little_says_so() {
    let small = Small::open();
    let requests: Vec<Request> = prompts(&small.ids("ids")).iter().map(|p| request(p, 9)).collect();
    let mut roomy = engine(small.decoder("llama"), EngineOptions::default());
    let expected = roomy.generate(&requests, &mut |_| {}).unwrap();
    let block = roomy.decoder().kv_shape().block_bytes();
    let mut prompt_tokens = Vec::new();
    for blocks in [40, 8, 5] {
        let options = EngineOptions {
            kv_memory_bytes: blocks * block,
            ..Default::default()
        };
        let mut last = Default::default();
        let got = engine(small.decoder("llama"), options)
            .generate(&requests, &mut |p| last = p)
            .unwrap();
        assert_eq!(got, expected);
        assert_eq!((last.done, last.total), (requests.len(), requests.len()));
        prompt_tokens.push(last.prompt_tokens);
    }
    let all: usize = requests.iter().map(|r| r.prompt.len()).sum();
    assert!(
        prompt_tokens[0] < all as u64 - 300,
        "the shared prefix is computed once: {prompt_tokens:?} of {all}"
    );
    let options = EngineOptions {
        kv_memory_bytes: 2 * block,
        ..Default::default()
    };
    let error = engine(small.decoder("llama"), options)
        .generate(&requests, &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, Error::KvMemory { .. }), "{error}");
    assert!(error.to_string().contains("--kv-memory"));
}

/// A candidate's answers must not see anything of the candidate before it: keys and values of old weights served to new ones
/// are a fault that has come back again and again in serving systems.
#[test]
fn nothing_survives_a_change_of_weights() {
    nothing_survives_in("llama");
    if device().is_cpu() {
        for name in ["qwen3_next", "qwen3_5", "lfm2_odd", "granite4"] {
            nothing_survives_in(name);
        }
    }
}

fn nothing_survives_in(name: &str) {
    let small = Small::open();
    let requests: Vec<Request> = prompts(&small.ids("ids")).iter().map(|p| request(p, 6)).collect();
    let spec = small.decoder(name).spec().clone();
    let plus_one = spec.norm_plus_one;
    let other = |name: &str, len: usize| hashed_weight(&format!("other.{name}"), len, plus_one);
    let set_other = |engine: &mut Engine| {
        for (name, shape) in spec.tensor_names() {
            engine
                .decoder_mut()
                .set_tensor(&name, &other(&name, shape.iter().product()))
                .unwrap();
        }
    };
    let set_first = |engine: &mut Engine| {
        for (name, shape) in spec.tensor_names() {
            let data = hashed_weight(&name, shape.iter().product(), plus_one);
            engine.decoder_mut().set_tensor(&name, &data).unwrap();
        }
    };
    let mut fresh = engine(small.decoder(name), EngineOptions::default());
    let first = fresh.generate(&requests, &mut |_| {}).unwrap();
    let mut fresh = engine(small.decoder(name), EngineOptions::default());
    set_other(&mut fresh);
    let second = fresh.generate(&requests, &mut |_| {}).unwrap();
    assert_ne!(first, second);
    let mut both = engine(small.decoder(name), EngineOptions::default());
    for _ in 0..2 {
        let epoch = both.decoder().epoch();
        assert_eq!(both.generate(&requests, &mut |_| {}).unwrap(), first);
        set_other(&mut both);
        assert!(both.decoder().epoch() > epoch);
        assert_eq!(both.generate(&requests, &mut |_| {}).unwrap(), second);
        set_first(&mut both);
    }
}

#[test]
fn a_tied_head_changes_with_the_embeddings() {
    let small = Small::open();
    let mut decoder = small.decoder("llama_tied_mqa");
    assert!(!decoder.has_tensor("lm_head.weight"));
    let before = logits(&mut decoder, &[&[5, 6, 7]], 10).remove(0);
    let spec = decoder.spec().clone();
    let mut embeddings = hashed_weight("model.embed_tokens.weight", spec.vocab * spec.hidden, false);
    // Token 90 is not in the input: doubling its embedding doubles its logit and changes nothing else.
    embeddings[90 * spec.hidden..91 * spec.hidden]
        .iter_mut()
        .for_each(|x| *x *= 2.0);
    decoder.set_tensor("model.embed_tokens.weight", &embeddings).unwrap();
    let after = logits(&mut decoder, &[&[5, 6, 7]], 10).remove(0);
    for (i, (a, b)) in before.iter().zip(&after).enumerate() {
        assert_eq!(if i % spec.vocab == 90 { 2.0 * a } else { *a }, *b);
    }
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let small = Small::open();
    let mut decoder = small.decoder("llama");
    for name in [
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.01.mlp.up_proj.weight",
        "lm_head.bias",
        "x",
    ] {
        let error = decoder.set_tensor(name, &[0.0]).unwrap_err();
        assert!(
            matches!(&error, Error::UnknownTensor { tensor, .. } if tensor == name),
            "{error}"
        );
    }
    let error = decoder.set_tensor("model.norm.weight", &[0.0; 31]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TensorSize {
                expected: 32,
                got: 31,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn the_layer_path_repeats_and_scales() {
    let small = Small::open();
    let ids = &small.ids("ids")[..20];
    let mut decoder = small.decoder("llama");
    let plain = logits(&mut decoder, &[ids], 100).remove(0);
    let step = |layer, input_scale| Step { layer, input_scale };
    decoder
        .set_path(vec![step(0, 1.0), step(1, 1.0), step(1, 1.0), step(2, 1.0)])
        .unwrap();
    assert_ne!(logits(&mut decoder, &[ids], 100).remove(0), plain);
    decoder
        .set_path(vec![step(0, 0.5), step(1, 1.0), step(2, 1.0)])
        .unwrap();
    assert_ne!(logits(&mut decoder, &[ids], 100).remove(0), plain);
    decoder
        .set_path((0..3).map(|layer| step(layer, 1.0)).collect())
        .unwrap();
    assert_eq!(logits(&mut decoder, &[ids], 100).remove(0), plain);
    assert!(matches!(
        decoder.set_path(vec![step(3, 1.0)]),
        Err(Error::Path { layer: 3, layers: 3 })
    ));
}

/// State belongs to the stop on the path: a layer that comes twice remembers twice, as in a model that has it twice.
#[test]
fn a_path_of_layers_that_remember_is_the_model_with_these_layers() {
    let small = Small::open();
    let ids = small.ids("ids");
    let path = [0, 2, 1, 1, 2, 0, 2];
    for name in ["qwen3_next", "qwen3_5", "lfm2_odd", "granite4", "granite4_dense"] {
        let mut config = small.configs[name].clone();
        config["num_hidden_layers"] = path.len().into();
        let types = &small.configs[name]["layer_types"];
        config["layer_types"] = path.iter().map(|layer| types[*layer].clone()).collect();
        let (whole, known) = (DecoderSpec::from_config(&config).unwrap(), small.spec(name));
        let mut read = |name: &str| {
            let source = match known.split_layer(name) {
                Some((layer, rest)) => format!("{}{}.{rest}", known.names().layers, path[layer]),
                None => name.to_string(),
            };
            let len = known.tensor(&source).unwrap().shape.iter().product();
            Ok(hashed_weight(&source, len, known.norm_plus_one))
        };
        let whole = Decoder::load(whole, device(), DType::F32, &mut read).unwrap();
        let mut parts = small.decoder(name);
        let steps = path.map(|layer| Step {
            layer,
            input_scale: 1.0,
        });
        parts.set_path(steps.to_vec()).unwrap();
        assert_eq!(parts.kv_shape(), whole.kv_shape(), "{name}");
        let (mut whole, mut parts) = (
            engine(whole, EngineOptions::default()),
            engine(parts, EngineOptions::default()),
        );
        let requests: Vec<Request> = prompts(&ids).iter().map(|p| request(p, 6)).collect();
        let expected = whole.generate(&requests, &mut |_| {}).unwrap();
        assert_eq!(parts.generate(&requests, &mut |_| {}).unwrap(), expected, "{name}");
        assert_ne!(
            engine(small.decoder(name), EngineOptions::default())
                .generate(&requests, &mut |_| {})
                .unwrap(),
            expected
        );
    }
}

/// A layer that takes another's keys and values keeps none; it comes after that one, wherever a path has both.
#[test]
fn layers_that_share_keys_keep_none_and_come_after_those_that_do() {
    let small = Small::open();
    let mut decoder = small.decoder("gemma4");
    assert_eq!((decoder.spec().layers.len(), decoder.kv_shape().layers.len()), (5, 3));
    assert!(
        decoder
            .spec()
            .fixed_layers()
            .is_some_and(|why| why.contains("every layer"))
    );
    assert!(small.decoder("llama").spec().fixed_layers().is_none());
    let path = |layers: &[usize]| {
        let step = |layer: &usize| Step {
            layer: *layer,
            input_scale: 1.0,
        };
        layers.iter().map(step).collect::<Vec<_>>()
    };
    // Layers 3 and 4 take the keys of 2 and 1.
    let error = decoder.set_path(path(&[0, 1, 3])).unwrap_err();
    assert!(
        matches!(
            error,
            Error::PathWithoutKeys {
                layer: 3,
                source_layer: 2
            }
        ),
        "{error}"
    );
    decoder.set_path(path(&[0, 1, 2, 3])).unwrap();
    assert_eq!(decoder.kv_shape().layers.len(), 3);
}

/// What rows remember takes more memory than their keys: unseen by the budget, 256 rows of a Qwen 3.5 took 4.8 GB beside it.
#[test]
fn states_are_within_the_memory_of_keys_and_values() {
    if !device().is_cpu() {
        return;
    }
    let small = Small::open();
    let requests: Vec<Request> = prompts(&small.ids("ids")).iter().map(|p| request(p, 9)).collect();
    for name in ["qwen3_5", "lfm2", "granite4"] {
        let mut roomy = engine(small.decoder(name), EngineOptions::default());
        let expected = roomy.generate(&requests, &mut |_| {}).unwrap();
        let shape = roomy.decoder().kv_shape();
        assert!(shape.state_len > 0 && roomy.take_kv_peak_bytes() >= 8 * shape.state_bytes());
        // Of one row, and of a prefix with it.
        let of_a_row = 3 + shape.state_blocks() as u64;
        for rows in [8, 3, 1] {
            let options = EngineOptions {
                kv_memory_bytes: rows * of_a_row * shape.block_bytes(),
                ..Default::default()
            };
            let mut tight = engine(small.decoder(name), options);
            assert_eq!(tight.generate(&requests, &mut |_| {}).unwrap(), expected, "{name}");
            assert!(tight.take_kv_peak_bytes() <= options.kv_memory_bytes);
            assert!(tight.kv_held_bytes() <= options.kv_memory_bytes, "{name}");
        }
        let options = EngineOptions {
            kv_memory_bytes: shape.state_bytes(),
            ..Default::default()
        };
        let error = engine(small.decoder(name), options).generate(&requests, &mut |_| {});
        match error.unwrap_err() {
            Error::KvMemory { needed_bytes, .. } => assert!(needed_bytes > shape.state_bytes()),
            other => panic!("{other}"),
        }
        assert_eq!(small.decoder("llama").kv_shape().state_len, 0);
    }
}

#[test]
fn half_precision_rounds_the_weights_only() {
    let small = Small::open();
    let ids = small.ids("ids");
    let exact = logits(&mut small.decoder("llama"), &[&ids], 100).remove(0);
    for (dtype, tolerance) in [(DType::F16, 2e-3), (DType::Bf16, 2e-2)] {
        let rounded = logits(&mut decoder(&small.configs["llama"], dtype, device()), &[&ids], 100).remove(0);
        let error = relative_error(&rounded, &exact);
        assert!(error > 0.0 && error < tolerance, "{dtype:?} {error}");
    }
}

#[test]
fn rows_end_by_stop_strings_conditions_length_and_loops() {
    let small = Small::open();
    let ids = small.ids("ids");
    // Greedy: w40 w88 w88 w88 w88 w88 w88 w6 w14 …; words are joined by spaces.
    let mut engine = engine(small.decoder("llama"), EngineOptions::default());
    let prompt = &ids[..27];
    let mut run = |r: Request| engine.generate(&[r], &mut |_| {}).unwrap().remove(0);
    let plain = run(request(prompt, 12));
    assert_eq!(plain.finish, Finish::Length);
    assert!(plain.text.starts_with("w40 w88 w88"), "{}", plain.text);

    let stopped = run(Request {
        stop: Arc::new(["w6".into(), "".into()]),
        ..request(prompt, 12)
    });
    assert_eq!((stopped.finish, stopped.token_ids.len()), (Finish::Stop, 8));
    assert_eq!(stopped.text, "w40 w88 w88 w88 w88 w88 w88 ");
    let across_tokens = run(Request {
        stop: Arc::new(["8 w6".into()]),
        ..request(prompt, 12)
    });
    assert_eq!(across_tokens.text, "w40 w88 w88 w88 w88 w88 w8");

    let three = |text: &str| text.matches("w88").count() == 3;
    let answered = run(Request {
        stop_when: Some(Arc::new(three)),
        ..request(prompt, 12)
    });
    assert_eq!(
        (answered.finish, answered.text.as_str()),
        (Finish::Stop, "w40 w88 w88 w88")
    );

    let nothing = run(request(prompt, 0));
    assert_eq!((nothing.finish, nothing.token_ids.len()), (Finish::Length, 0));
    // A decoder of zeros says the same token for ever.
    let mut zeros = small.decoder("llama");
    for (name, shape) in zeros.spec().tensor_names() {
        zeros.set_tensor(&name, &vec![0.0; shape.iter().product()]).unwrap();
    }
    let mut zeros = self::engine(zeros, EngineOptions::default());
    let guarded = Request {
        loop_guard: true,
        ..request(&ids[..60], 400)
    };
    let answers = zeros
        .generate(&[guarded, request(&ids[..60], 400)], &mut |_| {})
        .unwrap();
    assert_eq!((answers[0].finish, answers[0].token_ids.len()), (Finish::Loop, 48));
    assert_eq!((answers[1].finish, answers[1].token_ids.len()), (Finish::Length, 400));
    assert!(repeats(&[1; 48]) && !repeats(&[1; 47]));
    // A period of 20 has to come four times.
    let periodic: Vec<u32> = (0..80).map(|i| i % 20).collect();
    assert!(repeats(&periodic) && !repeats(&periodic[1..]));
    let broken: Vec<u32> = periodic
        .iter()
        .enumerate()
        .map(|(i, t)| if i == 30 { 99 } else { *t })
        .collect();
    assert!(!repeats(&broken));
}

#[test]
fn an_end_of_sequence_token_ends_the_row_and_is_kept() {
    let small = Small::open();
    let ids = small.ids("ids");
    let decoder = small.decoder("llama");
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": {"a": 40, "</s>": 88}, "unk_token": "a"}
    });
    let files = TokenizerFiles {
        name: "t".into(),
        tokenizer_json: json.to_string().into_bytes(),
        tokenizer_config: Some(serde_json::json!({"eos_token": {"content": "</s>"}})),
        ..Default::default()
    };
    let mut engine = Engine::new(
        decoder,
        Arc::new(Tokenizer::new(files).unwrap()),
        EngineOptions::default(),
    );
    let answer = engine
        .generate(&[request(&ids[..27], 12)], &mut |_| {})
        .unwrap()
        .remove(0);
    assert_eq!(
        (answer.finish, answer.token_ids, answer.text.as_str()),
        (Finish::Eos, vec![40, 88], "a")
    );
}

#[test]
fn scores_are_sums_of_log_probabilities() {
    let small = Small::open();
    let ids = small.ids("ids");
    let mut decoder = small.decoder("qwen2_windows_from_1");
    let vocab = decoder.spec().vocab;
    let all = logits(&mut decoder, &[&ids], 1000).remove(0);
    let log_probability = |i: usize| {
        let row = &all[(i - 1) * vocab..i * vocab];
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        f64::from(row[ids[i] as usize]) - total.ln()
    };
    let mut engine = engine(
        decoder,
        EngineOptions {
            step_tokens: 40,
            ..Default::default()
        },
    );
    let request = |tokens: &[u32], from| ScoreRequest {
        tokens: tokens.to_vec(),
        from,
    };
    let requests = [
        request(&ids, 1),
        request(&ids, 70),
        request(&ids[..71], 70),
        request(&ids, 100),
        request(&ids[..1], 1),
    ];
    let scores = engine.score(&requests).unwrap();
    for (score, range) in scores.iter().zip([1..100, 70..100, 70..71, 100..100, 1..1]) {
        assert_eq!(score.tokens, range.len());
        let expected: f64 = range.map(log_probability).sum();
        assert!((score.log_likelihood - expected).abs() < 1e-4, "{score:?} {expected}");
    }
    assert!(matches!(
        engine.score(&[request(&ids, 0)]),
        Err(Error::ScoreFromZero { request: 0 })
    ));

    let perplexity = engine.perplexity(&ids, 100).unwrap();
    assert_eq!(perplexity.tokens, 99);
    assert!((perplexity.nll_per_token + scores[0].log_likelihood / 99.0).abs() < 1e-12);
    // Windows of 40, 40 and 20 tokens, each with its first token unscored.
    let windows = engine.perplexity(&ids, 40).unwrap();
    assert_eq!(windows.tokens, 97);
    assert_eq!(windows.perplexity, windows.nll_per_token.exp());
    for (tokens, context) in [(&ids[..0], 40), (&ids[..1], 40), (&ids[..9], 1)] {
        assert!(matches!(
            engine.perplexity(tokens, context),
            Err(Error::NothingToScore { .. })
        ));
    }
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let small = Small::open();
    let mut engine = engine(small.decoder("llama"), EngineOptions::default());
    let empty = engine
        .generate(&[request(&[1], 1), request(&[], 1)], &mut |_| {})
        .unwrap_err();
    assert!(matches!(empty, Error::EmptyPrompt { request: 1 }));
    let beyond = engine.generate(&[request(&[1, 96], 1)], &mut |_| {}).unwrap_err();
    assert!(matches!(
        beyond,
        Error::TokenOutOfRange {
            request: 0,
            token: 96,
            vocab: 96
        }
    ));
    assert!(engine.generate(&[], &mut |_| {}).unwrap().is_empty());
    assert!(engine.score(&[]).unwrap().is_empty());
}

/// The sum over a text's tokens is its log-likelihood, and what is greedy is the likeliest.
#[test]
fn the_likelihoods_of_tokens_are_those_of_their_text() {
    let small = Small::open();
    let requests: Vec<ScoreRequest> = prompts(&small.ids("ids"))
        .into_iter()
        .map(|tokens| ScoreRequest {
            from: 1 + tokens.len() / 3,
            tokens,
        })
        .collect();
    for name in ["llama", "gemma2"] {
        let mut engine = engine(small.decoder(name), EngineOptions::default());
        let (whole, each) = (
            engine.score(&requests).unwrap(),
            engine.token_scores(&requests, 3).unwrap(),
        );
        for ((whole, each), request) in whole.iter().zip(&each).zip(&requests) {
            let sum: f64 = each.iter().map(|score| score.log_probability).sum();
            assert!(
                (sum - whole.log_likelihood).abs() < 1e-4 * (1.0 + sum.abs()),
                "{name}: {sum} {whole:?}"
            );
            assert_eq!(each.len(), whole.tokens);
            assert_eq!(each.iter().all(|score| score.top[0].0 == score.token), whole.greedy);
            for (score, token) in each
                .iter()
                .zip(&request.tokens[request.from.min(request.tokens.len())..])
            {
                assert_eq!(score.token, *token);
                assert!(score.top.len() == 3 && score.top.is_sorted_by(|a, b| a.1 >= b.1) && score.top[0].1 <= 0.0);
            }
        }
    }
}

/// What is drawn for a request is its own, whoever else is asked; and greedy rows beside it stay what they were.
#[test]
fn what_is_sampled_does_not_depend_on_the_batch() {
    let small = Small::open();
    let prompts = prompts(&small.ids("ids"));
    let drawn = |i: usize, seed: u64| Request {
        sampling: (!i.is_multiple_of(3)).then_some(Sampling {
            temperature: 1.5,
            top_k: 40,
            top_p: 0.95,
            seed,
            ..Sampling::default()
        }),
        ..request(&prompts[i % prompts.len()], 12)
    };
    for name in ["llama", "gemma2"] {
        let mut engine = engine(small.decoder(name), EngineOptions::default());
        let requests: Vec<Request> = (0..9).map(|i| drawn(i, i as u64)).collect();
        let together = engine.generate(&requests, &mut |_| {}).unwrap();
        for (i, (request, together)) in requests.iter().zip(&together).enumerate() {
            let alone = engine.generate(std::slice::from_ref(request), &mut |_| {}).unwrap();
            assert_eq!(alone[0], *together, "{name} {i}");
        }
        let greedy = engine
            .generate(&[request(&prompts[3 % prompts.len()], 12)], &mut |_| {})
            .unwrap();
        assert_eq!(greedy[0], together[3], "{name}");
        let others = engine.generate(&[drawn(1, 77), drawn(1, 78)], &mut |_| {}).unwrap();
        assert!(others[0] != others[1] && others[0] != together[1], "{name}: {others:?}");
    }
}

/// Heads of a multiple of 32 dimensions run on tensor cores in 16 bits; only those of 32 were ever tried.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_16_bits_differ_from_the_cpu_by_their_rounding() {
    let config = |family: &str, head_dim: usize| {
        serde_json::json!({"model_type": family, "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": head_dim,
        "query_pre_attn_scalar": 16, "attn_logit_softcapping": 0.5, "sliding_window": 24, "max_position_embeddings": 512})
    };
    let llamas = [32, 64, 128, 256].map(|dim| config("llama", dim));
    let capped = [64].map(|dim| config("gemma2", dim));
    // Norms about the mean, an MLP without a gate.
    let centred = [32].map(|dim| config("nemotron", dim));
    // All experts, so that none is chosen by a rounding.
    let mixtures = [("mixtral", 20), ("gpt_oss", 32)].map(|(family, head_dim)| {
        let mut config = config(family, head_dim);
        config["num_local_experts"] = 3.into();
        config["num_experts_per_tok"] = 3.into();
        config
    });
    let with = |family: &str, head_dim: usize, more: serde_json::Value| {
        let mut config = config(family, head_dim);
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    // Heads that tensor cores take beside heads that they do not, and other numbers of them.
    let types = serde_json::json!(["sliding_attention", "full_attention"]);
    let uneven = [(32, 320)].map(|(head_dim, global)| {
        let more = serde_json::json!({"global_head_dim": global, "num_global_key_value_heads": 1, "attention_k_eq_v": true,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128, "layer_types": types, "pad_token_id": 0});
        with("gemma4_text", head_dim, more)
    });
    // Keys that several threads share, and values that several blocks do.
    let types = serde_json::json!(["linear_attention", "full_attention"]);
    let hybrids = [
        serde_json::json!({"linear_key_head_dim": 40, "linear_value_head_dim": 136, "linear_num_key_heads": 1,
            "linear_num_value_heads": 2, "layer_types": types}),
    ]
    .map(|more| with("qwen3_5_text", 32, more));
    let mamba = serde_json::json!({"mamba_n_heads": 4, "mamba_d_state": 96, "mamba_d_head": 32, "mamba_expand": 2,
        "num_local_experts": 0, "shared_intermediate_size": 96, "layer_types": ["mamba", "attention"]});
    let mamba = [with("granitemoehybrid", 32, mamba)];
    let layers = [&llamas[..], &capped, &centred, &mixtures, &uneven, &hybrids, &mamba];
    let gpu = Device::Cuda(0);
    let ids: Vec<u32> = (0..110u32).map(|i| (i * i + 7 * i) % 128).collect();
    let rows = [&ids[..], &ids[40..57], &ids[..1], &ids[20..85]];
    for config in layers.into_iter().flatten() {
        let share = match config["model_type"].as_str() {
            // Each expert's result is rounded before they are added.
            Some("mixtral" | "gpt_oss") => 1.3,
            // Scores that nothing divides, and norms of what is small, make more of a rounding.
            Some("gemma4_text" | "qwen3_5_text" | "granitemoehybrid") => 6.0,
            _ => 1.0,
        };
        for (dtype, most) in [(DType::Bf16, 2e-2 * share), (DType::F16, 3e-3 * share)] {
            for step in [1000, 37] {
                let expected = logits(&mut decoder(config, dtype, Device::Cpu), &rows, step);
                let got = logits(&mut decoder(config, dtype, gpu), &rows, step);
                for (got, expected) in got.iter().zip(&expected) {
                    let error = relative_error(got, expected);
                    assert!(error < most && error > 0.0, "{dtype:?} {step} {config}: {error}");
                }
            }
        }
    }
}

/// Weights that come straight from a merge are copied while the next are made, from memory that is smaller than one of them here. The
/// emulated device copies as late as it may.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_weights_in_pieces_are_those_that_come_whole() {
    let small = Small::open();
    let ids = &small.ids("ids")[..40];
    let gpu = Device::Cuda(0);
    // GLM's three layers have the rows of queries and keys in another order than the file; gpt-oss' have two matrices of experts by
    // column, and their biases.
    let dense = [("llama", 0), ("glm", 2 * 3), ("gemma2", 0)];
    let mixtures = [("qwen2_moe", 0), ("gpt_oss", 4 * 3)];
    let all: &[DType] = &DType::ALL;
    let dense = dense.map(|(name, whole)| (name, whole, all));
    let mixtures = mixtures.map(|(name, whole)| (name, whole, &[DType::Bf16][..]));
    for (name, whole, dtypes) in dense.into_iter().chain(mixtures) {
        for &dtype in dtypes {
            let (spec, mut read) = hashed_as(small.spec(name));
            let mut pieces = Decoder::zeros(spec, gpu, dtype).unwrap();
            let mut refused = 0;
            for (tensor, shape) in pieces.spec().tensor_names() {
                let data = read(&tensor).unwrap();
                assert!(
                    DType::ALL
                        .iter()
                        .all(|d| *d == dtype || pieces.piece_bytes(&tensor, *d).is_none())
                );
                let Some(most) = pieces.piece_bytes(&tensor, dtype) else {
                    refused += usize::from(shape.len() > 1);
                    pieces.set_tensor(&tensor, &data).unwrap();
                    continue;
                };
                let mut bytes = vec![0; data.len() * dtype.size_bytes()];
                dtype.narrow(&data, &mut bytes);
                let most = most - 6;
                for (i, piece) in bytes.chunks(most).enumerate() {
                    let mut write = |to: &mut [u8]| to.copy_from_slice(piece);
                    pieces.set_piece(&tensor, i * most, piece.len(), &mut write).unwrap();
                }
                let beyond = pieces.set_piece(&tensor, usize::MAX - 1, 4, &mut |_| {}).unwrap_err();
                assert!(matches!(beyond, Error::Gpu { .. }), "{beyond}");
            }
            assert_eq!(refused, whole, "{name}");
            let (spec, mut read) = hashed_as(small.spec(name));
            let mut expected = Decoder::load(spec, gpu, dtype, &mut read).unwrap();
            assert_eq!(
                logits(&mut pieces, &[ids], 16),
                logits(&mut expected, &[ids], 16),
                "{name} {dtype}"
            );
        }
    }
}

/// Memory that ran out in mid-run was a candidate's failure, and then the next one's, all night. Takes all of the card's
/// memory, so it runs by itself.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator, and nobody beside it"]
fn alone_on_a_gpu_whose_memory_runs_out_fewer_rows_at_a_time_give_the_same_answers() {
    let small = Small::open();
    let requests: Vec<Request> = prompts(&small.ids("ids")).iter().map(|p| request(p, 9)).collect();
    let config = &small.configs["llama"];
    let mut cpu = engine(decoder(config, DType::F32, Device::Cpu), EngineOptions::default());
    let expected = cpu.generate(&requests, &mut |_| {}).unwrap();

    let options = EngineOptions::for_device(Device::Cuda(0));
    let mut gpu = engine(decoder(config, DType::F32, Device::Cuda(0)), options);
    let (room, limit) = (gpu.options().kv_memory_bytes, gpu.options().max_rows);
    let other = std::cell::RefCell::new(super::cuda::Hog::of_all_memory(0));
    let taken = other.borrow().bytes();
    assert!(room <= taken, "keys and values may take {room} bytes of {taken}");
    let mut starts = 0;
    let answers = gpu.generate(&requests, &mut |p| {
        starts += usize::from(p.prompt_tokens == 0);
        if starts == 2 {
            other.borrow_mut().let_go();
        }
    });
    assert_eq!(answers.unwrap(), expected);
    assert_eq!((starts, gpu.options().max_rows), (2, limit / 2));
    drop(gpu);

    // What lies beside the weights goes first, and does not come back.
    let parent = [("parent".to_string(), &vec![1; 160 << 20][..])];
    let mut weights = decoder(config, DType::F32, Device::Cuda(0));
    weights.make_room(&options);
    assert!(weights.hold(&parent).unwrap().is_some());
    assert_eq!(weights.held_bytes(), 160 << 20);
    let mut gpu = engine(weights, options);
    let other = super::cuda::Hog::of_all_memory(0);
    assert_eq!(gpu.generate(&requests, &mut |_| {}).unwrap(), expected);
    assert_eq!((gpu.decoder().held_bytes(), gpu.options().max_rows), (0, limit));
    assert_eq!(gpu.decoder_mut().hold(&parent).unwrap(), None);
    drop((other, gpu));

    let mut gpu = engine(decoder(config, DType::F32, Device::Cuda(0)), options);
    let _other = super::cuda::Hog::of_all_memory(0);
    let error = gpu.generate(&requests, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::GpuMemory { .. }), "{error}");
}

/// Rows that share prefixes, end at different steps and wait for memory: the scheduler that looks ahead gives what the one
/// that waits gives.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_answers_and_scores_are_those_of_the_cpu() {
    let small = Small::open();
    let prompts = prompts(&small.ids("ids"));
    // Some rows end by their length, some before they are full.
    let stop = Arc::new(["w1".to_string(), "w2".into()]);
    let requests = (0..).zip(&prompts).map(|(i, p)| Request {
        stop: if i % 2 == 0 { stop.clone() } else { Arc::default() },
        ..request(p, i % 9)
    });
    let requests: Vec<Request> = requests.collect();
    let scored = prompts
        .iter()
        .filter(|tokens| tokens.len() > 1)
        .map(|tokens| ScoreRequest {
            tokens: tokens.clone(),
            from: 1 + tokens.len() / 3,
        });
    let scored: Vec<ScoreRequest> = scored.collect();
    for name in ["llama", "gemma2", "phi3_longrope_partial"] {
        let config = &small.configs[name];
        let mut cpu = engine(decoder(config, DType::F32, Device::Cpu), EngineOptions::default());
        let expected = cpu.generate(&requests, &mut |_| {}).unwrap();
        let expected_scores = cpu.score(&scored).unwrap();
        for (step_tokens, max_rows, blocks) in [(384, 256, 1000), (40, 5, 1000), (384, 256, 9)] {
            let gpu = decoder(config, DType::F32, Device::Cuda(0));
            let options = EngineOptions {
                kv_memory_bytes: blocks * gpu.kv_shape().block_bytes(),
                step_tokens,
                max_rows,
                held_bytes: 0,
            };
            let mut gpu = engine(gpu, options);
            let mut last = Default::default();
            assert_eq!(gpu.generate(&requests, &mut |p| last = p).unwrap(), expected, "{name}");
            assert_eq!((last.done, last.total), (requests.len(), requests.len()));
            for (got, expected) in gpu.score(&scored).unwrap().iter().zip(&expected_scores) {
                assert!(
                    (got.log_likelihood - expected.log_likelihood).abs() < 1e-3,
                    "{name}: {got:?} {expected:?}"
                );
                assert_eq!((got.tokens, got.greedy), (expected.tokens, expected.greedy));
            }
        }
    }
}

/// One for each way in which norms, heads and activations differ; [`every_family_and_rope_scaling_agrees_with_transformers`] asks all.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_families_of_all_kinds_agree_with_transformers() {
    let small = Small::open();
    let ids = &small.ids("ids")[..24];
    for name in [
        "olmo",
        "stablelm_qk_norm",
        "phi_qk_norm",
        "cohere_qk_norm",
        "hunyuan",
        "apertus",
        "phimoe",
        "gpt2_odd",
        "gemma4_odd",
        "gemma4_moe",
        "qwen3_5_odd",
        "lfm2_moe",
        "granite4",
    ] {
        let mut decoder = decoder(&small.configs[name], DType::F32, Device::Cuda(0));
        let vocab = decoder.spec().vocab;
        let got = logits(&mut decoder, &[ids], 41).remove(0);
        let expected = small.floats(&format!("{name}.short_logits"));
        let error = relative_error(&got[(ids.len() - 8) * vocab..], &expected);
        assert!(error <= most_of(name, Device::Cuda(0)), "{name}: {error}");
    }
}

/// Steps of one shape are recorded once and then replayed, also with other weights and where tokens go to other experts; a change of
/// the path or of a buffer's place makes new recordings.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_recorded_steps_are_those_that_were_launched() {
    recorded_steps_are_those_that_were_launched(&["llama", "gemma2", "olmo2"]);
}

/// The same of layers that remember, and of layers that differ: in their heads, their keys, what they have of each token.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_recorded_steps_have_their_own_states_and_heads() {
    recorded_steps_are_those_that_were_launched(&["granite4", "gemma4"]);
}

/// The same of what a step's positions are looked up in and grow queries by, and of experts.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU, or tests/emulator"]
fn on_a_gpu_recorded_steps_have_their_own_positions_and_experts() {
    recorded_steps_are_those_that_were_launched(&["gpt2", "ministral3", "gpt_oss"]);
}

#[cfg(feature = "cuda")]
fn recorded_steps_are_those_that_were_launched(names: &[&str]) {
    let small = Small::open();
    let ids = small.ids("ids");
    let requests: Vec<Request> = (0..7).map(|i| request(&ids[i..20 + 3 * i], 12 + 5 * i)).collect();
    let longer = [request(&ids, 20), request(&ids[3..], 20)];
    for &name in names {
        let config = &small.configs[name];
        let on = |device: Device| engine(decoder(config, DType::F32, device), EngineOptions::default());
        let (mut cpu, mut gpu) = (on(Device::Cpu), on(Device::Cuda(0)));
        // One token each is scored: a step, recorded before anything was ever picked.
        let scored: Vec<ScoreRequest> = (0..7)
            .map(|last| ScoreRequest {
                tokens: [&ids[..30], &[last]].concat(),
                from: 30,
            })
            .collect();
        for _ in 0..4 {
            let (got, expected) = (gpu.score(&scored).unwrap(), cpu.score(&scored).unwrap());
            let near = |(a, b): (&Score, &Score)| (a.log_likelihood - b.log_likelihood).abs() < 1e-3;
            assert!(got.iter().zip(&expected).all(near), "{name}: {got:?} {expected:?}");
        }
        let mut replays = gpu.decoder().replays();
        assert!(replays > 0, "{name}");
        let mut same = |cpu: &mut Engine, gpu: &mut Engine, requests: &[Request]| {
            let expected = cpu.generate(requests, &mut |_| {}).unwrap();
            assert_eq!(gpu.generate(requests, &mut |_| {}).unwrap(), expected, "{name}");
            let before = std::mem::replace(&mut replays, gpu.decoder().replays());
            assert!(replays >= before + 10, "{name}: {} replays", replays - before);
        };
        same(&mut cpu, &mut gpu, &vec![request(&ids[..30], 15); 7]);
        same(&mut cpu, &mut gpu, &requests);
        same(&mut cpu, &mut gpu, &longer);
        // Eleven rows take the room of twelve.
        let more: Vec<Request> = (0..11).map(|i| request(&ids[2 * i..30 + i], 15)).collect();
        same(&mut cpu, &mut gpu, &more);
        same(&mut cpu, &mut gpu, &requests);
        let made = gpu.decoder().recordings();
        let names = gpu.decoder().spec().tensor_names();
        // What chooses experts, and what is beside scores and weights.
        let of_experts = [
            "mlp.gate.weight",
            "mlp.gate.e_score",
            "block_sparse_moe.gate.",
            "mlp.router.",
            "experts.1.down",
            "experts.down",
            "sinks",
        ];
        let place = |part: &&str| names.iter().position(|(name, _)| name.contains(part));
        let places = of_experts.iter().filter_map(place).zip((30..).map(|i| i as f32));
        let places: Vec<(usize, f32)> = places.collect();
        let few: Vec<Request> = (0..7).map(|i| request(&ids[i..30 + i], 15)).collect();
        for changed in [vec![(4, 90.0), (0, 50.0), (2, 70.0)], places] {
            for engine in [&mut cpu, &mut gpu] {
                for (place, divisor) in &changed {
                    let (tensor, shape) = engine.decoder().spec().tensor_names().swap_remove(*place);
                    let weight: Vec<f32> = (0..shape.iter().product())
                        .map(|i: usize| (i % 7) as f32 / divisor)
                        .collect();
                    engine.decoder_mut().set_tensor(&tensor, &weight).unwrap();
                }
            }
            same(&mut cpu, &mut gpu, &few);
        }
        assert_eq!(
            gpu.decoder().recordings(),
            made,
            "{name}: other weights need no other recordings"
        );
        for engine in [&mut cpu, &mut gpu] {
            let mut path = engine.decoder().path().to_vec();
            path.push(path[0]);
            engine.decoder_mut().set_path(path).unwrap();
        }
        same(&mut cpu, &mut gpu, &requests);
    }
}
