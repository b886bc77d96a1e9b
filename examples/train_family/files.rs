//! The family's checkpoints: their size, and reading and writing them.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use serde_json::json;
use tokenizers::Tokenizer;

use crate::decoder::{Size, Weights};
use crate::tokens;

pub fn size(tokenizer: &Tokenizer) -> Size {
    Size {
        vocabulary: tokenizer.get_vocab_size(true),
        hidden: 96,
        layers: 8,
        intermediate: 320,
    }
}

/// A checkpoint of the family, to be trained further.
pub fn load(dir: &Path, size: Size) -> Result<Weights> {
    let file = dir.join("model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
        .with_context(|| format!("{} is missing: is it trained?", file.display()))?;
    let values = size.tensors().into_iter().map(|(name, shape)| {
        let tensor = tensors
            .get(&name)
            .with_context(|| format!("{} lacks {name}", file.display()))?;
        let data = tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
        Ok((name, shape, data))
    });
    Weights::from_values(size, values.collect::<Result<Vec<_>>>()?)
}

/// The Hugging Face layout that transformers' `AutoModelForCausalLM` and `AutoTokenizer` load; the weights are rounded to 16
/// bits, since the family travels inside the program.
pub fn write(dir: &Path, weights: &Weights, tokenizer: &Tokenizer, tokenizer_json: &serde_json::Value) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .with_context(|| format!("the vocabulary lacks {token}"))
    };
    let (eos, pad) = (id(tokens::EOS)?, id(tokens::PAD)?);
    let write = |file: &str, value: &serde_json::Value| -> Result<()> {
        let text = serde_json::to_string_pretty(value)? + "\n";
        std::fs::write(dir.join(file), text).with_context(|| format!("cannot write {file} to {}", dir.display()))
    };
    write("config.json", &weights.size.config(eos, pad))?;
    write(
        "generation_config.json",
        &json!({"do_sample": false, "eos_token_id": eos, "pad_token_id": pad}),
    )?;
    write("tokenizer.json", tokenizer_json)?;
    write("tokenizer_config.json", &tokens::config())?;
    let views = weights
        .vars
        .iter()
        .map(|(name, var)| Ok((name.clone(), var.as_tensor().to_dtype(candle_core::DType::F16)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = Some(std::collections::HashMap::from([(
        "format".to_string(),
        "pt".to_string(),
    )]));
    safetensors::serialize_to_file(views, metadata, &dir.join("model.safetensors"))?;
    Ok(())
}
