//! The evaluation engine's time: matrix products of the shapes that decoding uses, and whole batches of a tiny model.
//!
//! `cargo bench --bench decoder`; throughput is in multiply-adds (products) and tokens (batches).

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heterosis::model::kernels::{Linear, Matrix, PackedRows, Threads};
use heterosis::model::tokenizer::TokenizerFiles;
use heterosis::model::{DType, Decoder, DecoderSpec, Engine, EngineOptions, Isa, Request, Tokenizer};

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (inputs, outputs) in [(576, 960), (576, 3072), (1536, 576), (576, 49_152)] {
        let mut linear = Linear::zeros(Isa::best(), inputs, outputs, false);
        linear.set_rows(0, &vec![0.01; inputs * outputs]);
        for rows in [1, 8, 32, 128] {
            let x = Matrix {
                rows,
                cols: inputs,
                data: vec![0.5; rows * inputs],
            };
            group.throughput(Throughput::Elements((rows * inputs * outputs) as u64));
            let (mut packed, mut out) = (PackedRows::default(), Matrix::default());
            let threads = Threads(rayon::current_num_threads());
            group.bench_function(BenchmarkId::new(format!("{inputs}x{outputs}"), rows), |b| {
                b.iter(|| {
                    packed.set(&x, threads);
                    linear.apply(&packed, &mut out, threads);
                })
            });
        }
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024, "tie_word_embeddings": true
    });
    let spec = DecoderSpec::from_config(&config).expect("a valid config");
    let sizes: std::collections::HashMap<String, usize> = spec
        .tensor_names()
        .into_iter()
        .map(|(name, shape)| (name, shape.iter().product()))
        .collect();
    let mut read = |name: &str| {
        Ok((0..sizes[name])
            .map(|i| ((i * 7919) % 101) as f32 / 1000.0 - 0.05)
            .collect())
    };
    let decoder =
        Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read).expect("all tensors are there");
    let mut engine = Engine::new(decoder, Arc::new(words(1024)), EngineOptions::default());
    let mut group = c.benchmark_group("generate");
    group.sample_size(10);
    for questions in [1, 16, 128] {
        let request = |i: u32| Request::new((0..60).map(|t| (i * 31 + t * 17) % 1000).collect(), 40);
        let requests: Vec<Request> = (0..questions).map(request).collect();
        group.throughput(Throughput::Elements(u64::from(questions) * 40));
        group.bench_function(BenchmarkId::new("tiny", questions), |b| {
            b.iter(|| engine.generate(&requests, &mut |_| {}).expect("the requests fit"))
        });
    }
    group.finish();
}

fn words(vocab: u32) -> Tokenizer {
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
    Tokenizer::new(files).expect("a valid tokenizer")
}

criterion_group!(benches, products, batches);
criterion_main!(benches);
