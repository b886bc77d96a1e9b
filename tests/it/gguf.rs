//! Families as GGUF files: written, read again, and answering as the checkpoint that they were made of.

use std::path::Path;
use std::sync::Arc;

use heterosis::checkpoint::{Checkpoint, DType, GgufKind, Writer, write_gguf};
use heterosis::model::{
    self, Decoder, DecoderSpec, Device, Engine, EngineOptions, ScoreRequest, Tokenizer, tokenizer::TokenizerFiles,
};
use serde_json::{Value, json};

/// Small models of each family that goes to GGUF and back, each with what llama.cpp takes for granted of it.
fn families() -> Vec<Value> {
    let factors = |stretch: f64| -> Vec<f64> { (0..4).map(|i| stretch * (1.0 + 0.25 * f64::from(i))).collect() };
    let qwen = json!({"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "norm_topk_prob": true});
    vec![
        json!({"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh"}),
        json!({"model_type": "gemma2", "num_hidden_layers": 4, "query_pre_attn_scalar": 16, "sliding_window": 8,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
        json!({"model_type": "gemma3_text", "num_hidden_layers": 7, "query_pre_attn_scalar": 16, "sliding_window": 8,
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
        json!({"model_type": "phi3", "sliding_window": 12}),
        json!({"model_type": "phi3", "hidden_size": 64, "original_max_position_embeddings": 16, "sliding_window": null,
            "rope_scaling": {"type": "longrope", "short_factor": factors(1.0), "long_factor": factors(3.0)},
            "partial_rotary_factor": 0.5}),
        json!({"model_type": "granite", "embedding_multiplier": 12.0, "attention_multiplier": 0.1, "residual_multiplier": 0.22,
            "logits_scaling": 8.0}),
        json!({"model_type": "olmo2", "rope_theta": 5e5}),
        json!({"model_type": "smollm3", "num_hidden_layers": 5, "rope_theta": 5e6}),
        qwen,
    ]
}

fn whole(family: &Value) -> Value {
    let mut config = json!({"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "float32"});
    for (key, value) in family.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A checkpoint with hashed weights, its matrices as f16 holds them.
fn checkpoint(dir: &Path, family: &Value) -> Checkpoint {
    let donor = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/checkpoint/tests/data/gguf/plain.gguf");
    let donor = Checkpoint::open(&donor).unwrap();
    let mut config = whole(family);
    config["vocab_size"] = donor.info("model.embed_tokens.weight").unwrap().shape[0].into();
    let spec = DecoderSpec::from_config(&config).unwrap();
    let mut writer = Writer::create(dir, 1 << 30).unwrap();
    writer.json("config.json", &config).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        writer.text(file, &donor.side_text(file).unwrap().unwrap()).unwrap();
    }
    for (i, (name, shape)) in spec.tensor_names().into_iter().enumerate() {
        let shift = if name.ends_with("norm.weight") && !spec.norm_plus_one {
            1.0
        } else {
            0.0
        };
        let value = |k: usize| (((k * 7919 + i * 104_729) % 2003) as f32 / 1001.0 - 1.0) * 0.3 + shift;
        let mut values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        if shape.len() > 1 {
            DType::F16.round(&mut values);
        }
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        writer.tensor(&name, DType::F32, &shape, &bytes).unwrap();
    }
    writer.finish().unwrap();
    Checkpoint::open(dir).unwrap()
}

/// Log-probabilities of 40 tokens.
fn answers(checkpoint: &Checkpoint) -> Vec<f64> {
    let there = || checkpoint.tensors().map(|(name, info)| (name, info.shape.as_slice()));
    let spec = DecoderSpec::from_config(checkpoint.config()).unwrap();
    let spec = spec.stored_as(there());
    spec.check_tensors(there()).unwrap();
    let mut read = |name: &str| checkpoint.read_f32(name).map_err(|e| e.to_string());
    let decoder = Decoder::load(spec, Device::Cpu, model::DType::F32, &mut read).unwrap();
    let files = TokenizerFiles {
        name: "tokenizer.json".into(),
        tokenizer_json: checkpoint.tokenizer_json().unwrap().unwrap().into_bytes(),
        ..TokenizerFiles::default()
    };
    let mut engine = Engine::new(
        decoder,
        Arc::new(Tokenizer::new(files).unwrap()),
        EngineOptions::default(),
    );
    let tokens: Vec<u32> = (0..40).map(|i| 3 + i * 37 % 280).collect();
    let request = |to: usize| ScoreRequest {
        tokens: tokens[..to].to_vec(),
        from: to - 1,
    };
    let requests: Vec<ScoreRequest> = (2..=40).map(request).collect();
    engine
        .score(&requests)
        .unwrap()
        .iter()
        .map(|score| score.log_likelihood)
        .collect()
}

/// `HETEROSIS_GGUF_OUT` names a folder in which checkpoints and files are left for another program to compare.
#[test]
fn every_family_answers_as_gguf_as_it_does_as_a_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("HETEROSIS_GGUF_OUT");
    let folder = kept.as_ref().map_or(temporary.path(), Path::new);
    for (i, family) in families().iter().enumerate() {
        let dir = folder.join(format!("{i}-{}", family["model_type"].as_str().unwrap()));
        let original = checkpoint(&dir, family);
        let out = dir.join("model.gguf");
        write_gguf(&original, &out, GgufKind::F16, &mut |_, _| {}).unwrap();
        let back = Checkpoint::open(&out).unwrap();
        let names = |checkpoint: &Checkpoint| -> Vec<String> { checkpoint.tensors().map(|(n, _)| n.into()).collect() };
        assert_eq!(names(&back), names(&original), "{family}");
        for name in names(&original) {
            let (a, b) = (original.read_f32(&name).unwrap(), back.read_f32(&name).unwrap());
            let worst = a.iter().zip(&b).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
            // A norm that is stored with one added loses the bits that one has no room for.
            assert!(a.len() == b.len() && worst <= 1e-7, "{family} {name}: {worst}");
        }
        let (ours, theirs) = (answers(&back), answers(&original));
        let worst = ours
            .iter()
            .zip(&theirs)
            .fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 2e-5, "{family}: {worst}");
        let quantised = dir.join("q8_0.gguf");
        write_gguf(&original, &quantised, GgufKind::Q8_0, &mut |_, _| {}).unwrap();
        let near = answers(&Checkpoint::open(&quantised).unwrap());
        let worst = near
            .iter()
            .zip(&theirs)
            .fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 0.5, "{family} in Q8_0: {worst}");
    }
}

#[test]
fn what_llama_cpp_takes_for_granted_is_refused_where_a_model_has_it_otherwise() {
    let refused = |i: usize, key: &str, value: Value, word: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut family = families().swap_remove(i);
        family[key] = value;
        let original = checkpoint(&dir.path().join("model"), &family);
        let out = dir.path().join("model.gguf");
        let error = write_gguf(&original, &out, GgufKind::F16, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    refused(1, "query_pre_attn_scalar", json!(24), "query_pre_attn_scalar");
    refused(1, "layer_types", json!(vec!["full_attention"; 4]), "windowed");
    refused(1, "attn_logit_softcapping", Value::Null, "attn_logit_softcapping");
    refused(5, "hidden_act", json!("gelu"), "gelu");
    refused(7, "no_rope_layers", json!([1, 1, 1, 1, 0]), "each fourth");
    refused(8, "norm_topk_prob", json!(false), "norm_topk_prob");
    refused(8, "decoder_sparse_step", json!(2), "no experts");
}
