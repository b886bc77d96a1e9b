//! The decoder and the engine against what transformers computed, and against themselves in other batches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use safetensors::SafeTensors;

use super::decoder::{Chunk, DType, Decoder, Step};
use super::engine::{Engine, EngineOptions, Finish, Request, ScoreRequest};
use super::kv::{Pool, Segment};
use super::spec::DecoderSpec;
use super::tokenizer::{Tokenizer, TokenizerFiles};

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
        let spec = DecoderSpec::from_config(&self.config).unwrap();
        let tensors = SafeTensors::deserialize(&self.weights).unwrap();
        let mut read = |name: &str| {
            let tensor = tensors.tensor(name).map_err(|e| e.to_string())?;
            Ok(tensor
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect())
        };
        Decoder::load(spec, &Device::Cpu, DType::F32, &mut read).unwrap()
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
    let mut own: Vec<Segment> = rows.iter().map(|row| pool.segment(row.len()).unwrap()).collect();
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
        let states = decoder.forward(&mut chunks);
        let logits = decoder.logits(&states);
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

fn engine(decoder: Decoder, options: EngineOptions) -> Engine {
    let tokenizer = words(decoder.spec().vocab);
    Engine::new(decoder, tokenizer, options)
}

fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_new_tokens,
        stop: Arc::new([]),
        stop_when: None,
        loop_guard: false,
    }
}

/// Largest difference over the largest magnitude of what is expected.
fn relative_error(got: &[f32], expected: &[f32]) -> f32 {
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
