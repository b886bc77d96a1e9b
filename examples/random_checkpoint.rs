//! Writes checkpoints with random weights in the shape of Qwen2.5-0.5B, bf16, about 1 GB each: food for speed comparisons.
//!
//! `cargo run --release --example random_checkpoint -- DIR [--seed N] [--layers N]` writes DIR/base, DIR/a and DIR/b; the
//! same seed gives the same bytes. a and b are base plus small noise, denser in some entries, as fine-tuning would leave it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use heterosis::checkpoint::{DType, TensorSpec, Writer};
use rayon::prelude::*;

const HIDDEN: usize = 896;
const INTERMEDIATE: usize = 4864;
const KEY_VALUE: usize = 128;
const VOCABULARY: usize = 151_936;
/// Elements that share one random stream.
const BLOCK: usize = 1 << 16;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (mut dir, mut seed, mut layers) = (None, 1u64, 24usize);
    while let Some(arg) = args.next() {
        let mut number = || {
            args.next()
                .context("a number is missing")?
                .parse::<u64>()
                .context(arg.clone())
        };
        match arg.as_str() {
            "--seed" => seed = number()?,
            "--layers" => layers = number()? as usize,
            _ if arg.starts_with("--") => bail!("{arg}: known are --seed and --layers"),
            _ => dir = Some(PathBuf::from(&arg)),
        }
    }
    let dir = dir.context("say where: random_checkpoint DIR [--seed N] [--layers N]")?;
    for (number, name) in ["base", "a", "b"].into_iter().enumerate() {
        write(&dir.join(name), seed, number as u64, layers)?;
        eprintln!("{}", dir.join(name).display());
    }
    Ok(())
}

/// One model; number 0 is the base.
fn write(out: &Path, seed: u64, number: u64, layers: usize) -> Result<()> {
    let specs = tensors(layers);
    let mut writer = Writer::create(out, u64::MAX)?;
    writer.declare(&specs)?;
    for (tensor, spec) in specs.iter().enumerate() {
        let values = values(spec, seed.wrapping_mul(1_000_003) + tensor as u64, number);
        writer.put_f32(&spec.name, &values)?;
    }
    writer.json(
        "config.json",
        &serde_json::json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16",
            "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers,
            "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "hidden_act": "silu",
            "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
            "tie_word_embeddings": true, "bos_token_id": 151_643, "eos_token_id": 151_643,
        }),
    )?;
    Ok(writer.finish()?)
}

fn tensors(layers: usize) -> Vec<TensorSpec> {
    let mut specs = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        specs.push(TensorSpec {
            name,
            dtype: DType::Bf16,
            shape: shape.to_vec(),
        });
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN]);
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm.weight", &[HIDDEN][..]),
            ("mlp.down_proj.weight", &[HIDDEN, INTERMEDIATE]),
            ("mlp.gate_proj.weight", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj.weight", &[INTERMEDIATE, HIDDEN]),
            ("post_attention_layernorm.weight", &[HIDDEN]),
            ("self_attn.k_proj.bias", &[KEY_VALUE]),
            ("self_attn.k_proj.weight", &[KEY_VALUE, HIDDEN]),
            ("self_attn.o_proj.weight", &[HIDDEN, HIDDEN]),
            ("self_attn.q_proj.bias", &[HIDDEN]),
            ("self_attn.q_proj.weight", &[HIDDEN, HIDDEN]),
            ("self_attn.v_proj.bias", &[KEY_VALUE]),
            ("self_attn.v_proj.weight", &[KEY_VALUE, HIDDEN]),
        ] {
            add(format!("model.layers.{layer}.{name}"), shape);
        }
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    specs
}

/// Base: about normal with deviation 0.02, around 1 for norms. The others: noise of 2 % of that, ten times as much in every
/// twentieth entry.
fn values(spec: &TensorSpec, seed: u64, number: u64) -> Vec<f32> {
    let mut values = vec![0.0f32; spec.shape.iter().product()];
    let centre = if spec.name.contains("norm") { 1.0 } else { 0.0 };
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        let mut base = Noise::new(seed, block as u64, 0);
        let mut own = Noise::new(seed, block as u64, number);
        for v in values {
            *v = centre + 0.02 * base.next();
            if number > 0 {
                let scale = if own.next() > 1.65 { 0.004 } else { 0.0004 };
                *v += scale * own.next();
            }
        }
    });
    values
}

/// A linear congruential stream (Knuth's MMIX); four uniform numbers add up to one that is about normal.
struct Noise(u64);

impl Noise {
    fn new(seed: u64, block: u64, model: u64) -> Self {
        let mut noise = Noise(seed ^ block.rotate_left(24) ^ model.rotate_left(56));
        noise.next();
        noise
    }

    fn next(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32;
        }
        // The variance of the sum is 4 / 12.
        (sum - 2.0) * 1.732
    }
}
