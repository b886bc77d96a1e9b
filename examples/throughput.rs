//! How fast the engine answers on this machine: random weights of a known shape, prompts with a shared prefix.
//!
//! ```text
//! cargo run --release --example throughput -- tiny --questions 1000 --prefix 0 --prompt 60 --new 40
//! cargo run --release --example throughput -- smollm2 --questions 64 --prefix 900 --prompt 100 --new 128
//! cargo run --release --example throughput -- qwen-1.5b --device cuda --prefix 800 --prompt 120 --new 200
//! ```
//!
//! No question ends early, so the figures are a floor. `--bandwidth 4300` (GB/s) says what share of the time of a step that
//! only generates goes into what cannot be avoided: reading the weights once, each row's own keys and values, and the
//! prefix's once. `--block 24` asks that many questions at a time, as a race does;
//! `score` as the last word measures scoring instead of generating; `learn` what one step of learning from these texts costs
//! beside scoring them (the last `--new` tokens of each are learned), and how much memory it takes.

use std::sync::Arc;
use std::time::Instant;

use heterosis::model::tokenizer::TokenizerFiles;
use heterosis::model::{
    DType, Decoder, DecoderSpec, Device, Engine, EngineOptions, Request, ScoreRequest, Text, Tokenizer, Twin,
};
use rand::{RngExt, SeedableRng};

#[path = "shared/processor.rs"]
mod processor;

use processor::processor;

fn shape(name: &str) -> anyhow::Result<serde_json::Value> {
    let (hidden, inner, layers, heads, kv_heads, vocab) = match name {
        "tiny" => (96, 320, 8, 6, 6, 234), // the embedded family
        "15m" => (288, 768, 6, 6, 6, 32_000),
        "smollm2" => (576, 1536, 30, 9, 3, 49_152),
        "qwen-0.5b" => (896, 4864, 24, 14, 2, 151_936),
        "qwen-1.5b" => (1536, 8960, 28, 12, 2, 151_936),
        other => anyhow::bail!("{other} is not one of tiny, 15m, smollm2, qwen-0.5b, qwen-1.5b"),
    };
    Ok(serde_json::json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 8192, "tie_word_embeddings": true
    }))
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("tiny", String::as_str);
    let number = |flag: &str, default: usize| -> anyhow::Result<usize> {
        match args.iter().position(|arg| arg == flag) {
            Some(at) => Ok(args.get(at + 1).map_or("", String::as_str).parse()?),
            None => Ok(default),
        }
    };
    let (questions, prefix) = (number("--questions", 250)?, number("--prefix", 0)?);
    let (prompt, new) = (number("--prompt", 60)?, number("--new", 40)?);
    let (device, dtype) = match args.iter().position(|arg| arg == "--device") {
        Some(at) if args.get(at + 1).is_some_and(|device| device == "cuda") => (Device::Cuda(0), DType::Bf16),
        _ => (Device::Cpu, DType::F32),
    };

    let spec = DecoderSpec::from_config(&shape(name)?)?;
    println!("{name}: {:.1}M weights", spec.parameters() as f64 / 1e6);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let sizes: std::collections::HashMap<String, usize> = spec
        .tensor_names()
        .into_iter()
        .map(|(name, shape)| (name, shape.iter().product()))
        .collect();
    let names: Vec<String> = spec.tensor_names().into_iter().map(|(name, _)| name).collect();
    let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| 0.05 * (rng.random::<f32>() - 0.5)).collect() };
    let weights: std::collections::HashMap<&str, Vec<f32>> =
        names.iter().map(|name| (name.as_str(), random(sizes[name]))).collect();
    let vocab = spec.vocab as u32;
    let start = Instant::now();
    let weight_bytes = (spec.parameters() * dtype.size_bytes()) as f64;
    let mut decoder = Decoder::load(spec, device, dtype, &mut |name| Ok(weights[name].clone()))?;
    let built = start.elapsed();
    for (name, data) in &weights {
        decoder.set_tensor(name, data)?;
    }
    let set = start.elapsed() - built;
    println!(
        "decoder built in {:.1} ms, all tensors replaced in {:.1} ms",
        built.as_secs_f64() * 1e3,
        set.as_secs_f64() * 1e3
    );
    let kv_bytes = decoder.kv_bytes_per_token() as f64;
    let mut engine = Engine::new(decoder, Arc::new(words(vocab)?), EngineOptions::for_device(device));

    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let shared: Vec<u32> = (0..prefix).map(|_| rng.random_range(3..vocab)).collect();
    let prompts: Vec<Vec<u32>> = (0..questions)
        .map(|_| {
            let own = prompt / 2 + rng.random_range(0..=prompt.max(1));
            shared
                .iter()
                .copied()
                .chain((0..own.max(1)).map(|_| rng.random_range(3..vocab)))
                .collect()
        })
        .collect();
    let last_word = args.last().map_or("", String::as_str);
    if matches!(last_word, "score" | "learn") {
        let from = |tokens: &Vec<u32>| match last_word {
            "score" => prefix.max(1),
            _ => tokens.len().saturating_sub(new).max(1),
        };
        let requests: Vec<ScoreRequest> = prompts
            .iter()
            .filter(|tokens| tokens.len() > 1)
            .map(|tokens| ScoreRequest {
                from: from(tokens),
                tokens: tokens.clone(),
            })
            .collect();
        let (start, busy) = (Instant::now(), processor());
        let tokens: usize = engine.score(&requests)?.iter().map(|score| score.tokens).sum();
        let (seconds, scoring) = (start.elapsed().as_secs_f64(), processor() - busy);
        println!(
            "{tokens} tokens scored in {seconds:.2} s, {scoring:.2} s of the processor: {:.0} tokens/s",
            tokens as f64 / seconds
        );
        if last_word == "learn" {
            let spec = engine.decoder().spec().clone();
            drop(engine);
            learn(spec, device, &weights, requests, scoring)?;
        }
        return Ok(());
    }
    // A stop string that never comes: looking for it is part of the work.
    let stop: Arc<[String]> = Arc::new(["Question:".to_string()]);
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            stop: stop.clone(),
            ..Request::new(prompt.clone(), new)
        })
        .collect();
    let start = Instant::now();
    let (mut generated, mut prompt_tokens, mut steps) = (0, 0, Vec::new());
    for block in requests.chunks(number("--block", questions)?.max(1)) {
        let (mut last, mut at) = (heterosis::model::Progress::default(), Instant::now());
        let answers = engine.generate(block, &mut |progress| {
            // All rows generate, nothing else happens.
            let tokens = progress.generated_tokens - last.generated_tokens;
            if progress.prompt_tokens == last.prompt_tokens && tokens as usize == block.len() {
                steps.push(at.elapsed().as_secs_f64());
            }
            (last, at) = (progress, Instant::now());
        })?;
        generated += answers.iter().map(|answer| answer.token_ids.len()).sum::<usize>();
        prompt_tokens += last.prompt_tokens;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{questions} questions in {seconds:.2} s: {:.0} questions/min, {:.0} tokens/s generated, {prompt_tokens} prompt tokens computed",
        questions as f64 * 60.0 / seconds,
        generated as f64 / seconds,
    );
    steps.sort_by(f64::total_cmp);
    if let Some(step) = steps.get(steps.len() / 2) {
        println!(
            "a step that only generates: {:.2} ms (median of {})",
            step * 1e3,
            steps.len()
        );
        let bandwidth = number("--bandwidth", 0)? as f64 * 1e9;
        if bandwidth > 0.0 {
            let own: usize = prompts.iter().map(|prompt| prompt.len() - prefix + new / 2).sum();
            let floor = (weight_bytes + kv_bytes * (prefix + own) as f64) / bandwidth;
            println!(
                "reading weights, keys and values takes {:.2} ms: {:.0} %",
                floor * 1e3,
                100.0 * floor / step
            );
        }
    }
    Ok(())
}

/// One step: the loss of all texts and its derivative with respect to every weight, each dropped as it comes.
fn learn(
    spec: DecoderSpec,
    device: Device,
    weights: &std::collections::HashMap<&str, Vec<f32>>,
    requests: Vec<ScoreRequest>,
    scoring: f64,
) -> anyhow::Result<()> {
    let twin = Twin::load(spec, device, &mut |name| Ok(weights[name].clone()))?;
    let texts: Vec<Text> = requests
        .into_iter()
        .map(|request| Text {
            tokens: request.tokens,
            from: request.from,
            weight: 1.0,
            expected: Vec::new(),
        })
        .collect();
    let before = memory();
    for _ in 0..2 {
        let (start, busy) = (Instant::now(), processor());
        let loss = twin.gradient(&texts, &mut |_, _| Ok::<(), heterosis::model::Error>(()))?;
        let (seconds, work) = (start.elapsed().as_secs_f64(), processor() - busy);
        println!(
            "loss {:.3}; one step of learning in {seconds:.2} s, {work:.2} s of the processor: {:.1} times scoring; {:.0} MB \
             at most beside the weights",
            loss.mean,
            work / scoring,
            (memory().1 - before.0).max(0.0)
        );
    }
    Ok(())
}

/// Megabytes that are resident, and that were at most; zeros where the system does not say.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        number.unwrap_or(0.0) / 1024.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn words(vocab: u32) -> anyhow::Result<Tokenizer> {
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
    Ok(Tokenizer::new(files)?)
}
