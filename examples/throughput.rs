//! How fast the engine answers on this machine: random weights of a known shape, prompts with a shared prefix.
//!
//! ```text
//! cargo run --release --example throughput -- tiny --questions 1000 --prefix 0 --prompt 60 --new 40
//! cargo run --release --example throughput -- smollm2 --questions 64 --prefix 900 --prompt 100 --new 128
//! ```
//!
//! No question ends early, so the figures are a floor. `--block 24` asks that many questions at a time, as a race does;
//! `score` as the last word measures scoring instead of generating.

use std::sync::Arc;
use std::time::Instant;

use heterosis::model::tokenizer::TokenizerFiles;
use heterosis::model::{DType, Decoder, DecoderSpec, Engine, EngineOptions, Request, ScoreRequest, Tokenizer};
use rand::{RngExt, SeedableRng};

fn shape(name: &str) -> anyhow::Result<serde_json::Value> {
    let (hidden, inner, layers, heads, kv_heads, vocab) = match name {
        "tiny" => (96, 320, 8, 6, 6, 234), // the embedded family
        "15m" => (288, 768, 6, 6, 6, 32_000),
        "smollm2" => (576, 1536, 30, 9, 3, 49_152),
        "qwen-0.5b" => (896, 4864, 24, 14, 2, 151_936),
        other => anyhow::bail!("{other} is not one of tiny, 15m, smollm2, qwen-0.5b"),
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
    let mut decoder = Decoder::load(spec, &candle_core::Device::Cpu, DType::F32, &mut |name| {
        Ok(weights[name].clone())
    })?;
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
    let mut engine = Engine::new(decoder, Arc::new(words(vocab)?), EngineOptions::default());

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
    if args.last().is_some_and(|arg| arg == "score") {
        let requests: Vec<ScoreRequest> = prompts
            .iter()
            .map(|tokens| ScoreRequest {
                tokens: tokens.clone(),
                from: prefix.max(1),
            })
            .collect();
        let start = Instant::now();
        let tokens: usize = engine.score(&requests)?.iter().map(|score| score.tokens).sum();
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{tokens} tokens scored in {seconds:.2} s: {:.0} tokens/s",
            tokens as f64 / seconds
        );
        return Ok(());
    }
    // A stop string that never comes: looking for it is part of the work.
    let stop: Arc<[String]> = Arc::new(["Question:".to_string()]);
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request {
            prompt: prompt.clone(),
            max_new_tokens: new,
            stop: stop.clone(),
            stop_when: None,
            loop_guard: false,
        })
        .collect();
    let start = Instant::now();
    let (mut generated, mut prompt_tokens) = (0, 0);
    for block in requests.chunks(number("--block", questions)?.max(1)) {
        let mut last = heterosis::model::Progress::default();
        let answers = engine.generate(block, &mut |progress| last = progress)?;
        generated += answers.iter().map(|answer| answer.token_ids.len()).sum::<usize>();
        prompt_tokens += last.prompt_tokens;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{questions} questions in {seconds:.2} s: {:.0} questions/min, {:.0} tokens/s generated, {prompt_tokens} prompt tokens computed",
        questions as f64 * 60.0 / seconds,
        generated as f64 / seconds,
    );
    Ok(())
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
