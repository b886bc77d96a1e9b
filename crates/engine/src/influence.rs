//! Block influence: how much each layer changes the stream of hidden states, 1 − E[cos(input, output)].
//!
//! A layer that turns the stream little is one that a shorter model misses least. Measured on a few prompts: the model is
//! run once for each depth, so the cost is that of half as many whole passes as it has layers.
//!
//! **Source**: Men et al. 2024, ShortGPT, arXiv:2403.03853; Muralidharan et al. 2024, Minitron, arXiv:2407.14679.

use super::Error;
use super::decoder::{Chunk, Decoder, Step};
use super::kernels::Matrix;
use super::kv::Pool;

/// The influence of each layer, in the model's own order, over all tokens of `rows`; each in [0, 2]. The decoder is left
/// as it was.
///
/// **Errors** an empty list of rows, an empty row, a token that the model does not have.
pub fn block_influence(decoder: &mut Decoder, rows: &[&[u32]]) -> Result<Vec<f64>, Error> {
    check(decoder, rows)?;
    let depth = decoder.spec().layers.len();
    let layers: Vec<Step> = (0..depth)
        .map(|layer| Step {
            layer,
            input_scale: 1.0,
        })
        .collect();
    let path = decoder.path().to_vec();
    // Without the final norm, the states after a path are the stream itself.
    decoder.set_final_norm(false);
    let influence = measure(decoder, &layers, rows);
    decoder.set_final_norm(true);
    decoder.set_path(path)?;
    influence
}

fn check(decoder: &Decoder, rows: &[&[u32]]) -> Result<(), Error> {
    let vocab = decoder.spec().vocab;
    if rows.is_empty() {
        return Err(Error::NothingToScore { tokens: 0 });
    }
    for (request, row) in rows.iter().enumerate() {
        decoder.spec().check_positions(request, row.len())?;
        if row.is_empty() {
            return Err(Error::EmptyPrompt { request });
        }
        if let Some(&token) = row.iter().find(|token| **token as usize >= vocab) {
            return Err(Error::TokenOutOfRange { request, token, vocab });
        }
    }
    Ok(())
}

fn measure(decoder: &mut Decoder, layers: &[Step], rows: &[&[u32]]) -> Result<Vec<f64>, Error> {
    let mut before = states(decoder, &layers[..0], rows)?;
    let mut influence = Vec::with_capacity(layers.len());
    for depth in 1..=layers.len() {
        let after = states(decoder, &layers[..depth], rows)?;
        influence.push(1.0 - mean_cosine(&before, &after));
        before = after;
    }
    Ok(influence)
}

/// The stream of every token after a path.
fn states(decoder: &mut Decoder, path: &[Step], rows: &[&[u32]]) -> Result<Matrix, Error> {
    decoder.set_path(path.to_vec())?;
    decoder.prepare(rows.iter().map(|row| row.len()).max().unwrap_or(0));
    let mut pool = Pool::new(decoder.kv_shape(), u64::MAX, None);
    let mut own = Vec::new();
    for row in rows {
        own.extend(pool.segment(row.len(), &[]));
    }
    let mut chunks: Vec<Chunk<'_>> = rows
        .iter()
        .zip(&mut own)
        .map(|(row, own)| Chunk {
            tokens: row,
            prefix: &[],
            own,
            length: row.len(),
            wanted_from: 0,
        })
        .collect();
    decoder.forward(&mut chunks)?.into_host()
}

/// Over rows; a row without length points nowhere and is left out.
fn mean_cosine(a: &Matrix, b: &Matrix) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let (mut sum, mut count) = (0.0, 0.0);
    for (x, y) in a.data.chunks_exact(a.cols).zip(b.data.chunks_exact(b.cols)) {
        let lengths = (dot(x, x) * dot(y, y)).sqrt();
        if lengths > 0.0 {
            sum += dot(x, y) / lengths;
            count += 1.0;
        }
    }
    if count > 0.0 { sum / count } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{DType, DecoderSpec};
    use super::*;

    /// Three layers, of which those in `idle` add nothing to the stream.
    fn decoder(idle: &[usize]) -> Decoder {
        let config = json!({"model_type": "llama", "vocab_size": 24, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64});
        let spec = DecoderSpec::from_config(&config).unwrap();
        let sizes: std::collections::HashMap<String, usize> = spec
            .tensor_names()
            .into_iter()
            .map(|(name, shape)| (name, shape.iter().product()))
            .collect();
        let is_idle = |name: &str| {
            let adds = name.contains("o_proj") || name.contains("down_proj");
            adds && idle.iter().any(|layer| name.contains(&format!("layers.{layer}.")))
        };
        let mut read = |name: &str| {
            let value = |i: usize| ((i * 7919 + name.len() * 104_729) % 1000) as f32 / 1000.0 - 0.5;
            let scale = if is_idle(name) { 0.0 } else { 1.0 };
            Ok((0..sizes[name]).map(|i| value(i) * scale).collect())
        };
        Decoder::load(spec, crate::Device::Cpu, DType::F32, &mut read).unwrap()
    }

    #[test]
    fn a_layer_that_adds_nothing_has_no_influence() {
        let rows: [&[u32]; 2] = [&[1, 2, 3, 4, 5], &[7, 8, 9]];
        let influence = block_influence(&mut decoder(&[1]), &rows).unwrap();
        assert!(influence[1].abs() < 1e-9, "{influence:?}");
        assert!(influence[0] > 1e-3 && influence[2] > 1e-3, "{influence:?}");
        assert!(influence.iter().all(|bi| (0.0..=2.0).contains(&bi.abs())));
    }

    #[test]
    fn the_decoder_is_left_as_it_was() {
        let mut decoder = decoder(&[]);
        let path = vec![
            Step {
                layer: 2,
                input_scale: 0.5,
            },
            Step {
                layer: 0,
                input_scale: 1.0,
            },
        ];
        decoder.set_path(path.clone()).unwrap();
        let row: &[u32] = &[3, 1, 4, 1, 5];
        let before = states(&mut decoder, &path, &[row]).unwrap();
        block_influence(&mut decoder, &[row]).unwrap();
        assert_eq!(decoder.path(), path);
        assert_eq!(states(&mut decoder, &path, &[row]).unwrap().data, before.data);
    }

    #[test]
    fn rows_that_cannot_be_read_are_refused() {
        let mut decoder = decoder(&[]);
        assert!(block_influence(&mut decoder, &[]).is_err());
        assert!(block_influence(&mut decoder, &[&[]]).is_err());
        let error = block_influence(&mut decoder, &[&[1, 24]]).unwrap_err().to_string();
        assert!(error.contains("token 24"), "{error}");
    }
}
