//! The twin on the CPU: plain numbers, the kernels of `fused`, and a tape for each layer.

use std::collections::HashMap;

use super::{
    EMBEDDINGS, Error, FINAL_NORM, Gradients, Side, Sum,
    batch::Batch,
    fused, head_name,
    layer::layer,
    logit_rows,
    tape::{Tape, Weights},
};
use crate::spec::DecoderSpec;

/// The weights, row by row, by Hugging Face name.
pub(super) struct Host {
    weights: HashMap<String, Vec<f32>>,
    /// By layer, the names of its tensors: whole, and where the name within the layer begins.
    layers: Vec<Vec<(String, usize)>>,
}

impl Host {
    pub fn new(spec: &DecoderSpec) -> Self {
        let names: Vec<String> = spec.tensor_names().into_iter().map(|(name, _)| name).collect();
        let of_layer = |index: usize| {
            let prefix = format!("model.layers.{index}.");
            let names = names.iter().filter(|name| name.starts_with(&prefix));
            names.map(|name| (name.clone(), prefix.len())).collect()
        };
        Host {
            weights: HashMap::new(),
            layers: (0..spec.layers.len()).map(of_layer).collect(),
        }
    }

    fn weight(&self, name: &str) -> Result<&[f32], Error> {
        let weight = self.weights.get(name);
        weight.map(Vec::as_slice).ok_or_else(|| Error::Read {
            tensor: name.into(),
            reason: "it was not loaded".into(),
        })
    }

    fn of_layer(&self, index: usize) -> Result<Weights<'_>, Error> {
        let names = self.layers[index].iter();
        names
            .map(|(name, prefix)| Ok((&name[*prefix..], self.weight(name)?)))
            .collect()
    }

    /// The final norm's factors, and the table of the output head.
    fn head_weights(&self, spec: &DecoderSpec) -> Result<(Vec<f32>, &[f32]), Error> {
        let norm = fused::norm_weight(self.weight(FINAL_NORM)?, spec.norm_plus_one);
        Ok((norm, self.weight(head_name(spec))?))
    }
}

/// Logits of some rows, and what is needed to go back from them.
struct Logits {
    /// Hidden states before and after the final norm.
    h: Vec<f32>,
    x: Vec<f32>,
    numbers: Vec<f32>,
    bends: Option<Vec<f32>>,
}

fn logits(spec: &DecoderSpec, norm: &[f32], table: &[f32], h: Vec<f32>) -> Logits {
    let x = fused::norm(&h, norm, spec.norm_eps);
    let mut numbers = fused::product_transposed(&x, table, spec.hidden, spec.vocab);
    fused::scale(&mut numbers, 1.0 / spec.logits_divisor);
    let bends = spec.final_softcap.map(|cap| fused::softcap(&mut numbers, cap));
    Logits { h, x, numbers, bends }
}

fn rows_of(h: &[f32], rows: &[u32], cols: usize) -> Vec<f32> {
    let rows = rows.iter().map(|row| &h[*row as usize * cols..][..cols]);
    rows.flatten().copied().collect()
}

impl Side for Host {
    type State = Vec<f32>;

    fn has_tensor(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn put(&mut self, name: &str, _: Vec<usize>, data: &[f32]) -> Result<(), Error> {
        self.weights.insert(name.into(), data.to_vec());
        Ok(())
    }

    fn embed(&self, spec: &DecoderSpec, batch: &Batch) -> Result<Vec<f32>, Error> {
        let mut h = rows_of(self.weight(EMBEDDINGS)?, &batch.ids, spec.hidden);
        fused::scale(&mut h, spec.embed_scale);
        Ok(h)
    }

    fn layer(&self, spec: &DecoderSpec, index: usize, batch: &Batch, h: &Vec<f32>) -> Result<Vec<f32>, Error> {
        let weights = self.of_layer(index)?;
        let mut tape = Tape::new(spec, batch, &weights, h.clone());
        let out = layer(spec, index, &mut tape, &0)?;
        Ok(tape.into_value(out))
    }

    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        inputs: Vec<Vec<f32>>,
        upstream: &mut [Vec<f32>],
    ) -> Result<Gradients, Error> {
        let weights = self.of_layer(index)?;
        let mut gradients = HashMap::new();
        for ((batch, input), upstream) in batches.iter().zip(inputs).zip(upstream) {
            let mut tape = Tape::new(spec, batch, &weights, input);
            layer(spec, index, &mut tape, &0)?;
            *upstream = tape.back(std::mem::take(upstream), &mut gradients)?;
        }
        Ok(gradients.into_iter().collect())
    }

    fn head(&self, spec: &DecoderSpec, batch: &Batch, h: &Vec<f32>, sum: &mut Sum) -> Result<(), Error> {
        let (norm, table) = self.head_weights(spec)?;
        for rows in logit_rows(spec, batch) {
            let targets = &batch.targets[rows.clone()];
            let logits = logits(spec, &norm, table, rows_of(h, &batch.wanted[rows.clone()], spec.hidden));
            let found = fused::log_probabilities(&logits.numbers, targets);
            sum.add(&batch.owners[rows], &found);
        }
        Ok(())
    }

    fn head_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        outputs: Vec<Vec<f32>>,
        sum: &mut Sum,
    ) -> Result<(Vec<Vec<f32>>, Gradients), Error> {
        let (norm, table) = self.head_weights(spec)?;
        let (mut of_norm, mut of_table) = (vec![0.0; norm.len()], vec![0.0; table.len()]);
        let mut upstream = Vec::new();
        for (batch, h) in batches.iter().zip(outputs) {
            let mut of_h = vec![0.0; h.len()];
            for rows in logit_rows(spec, batch) {
                let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
                let mut at = logits(spec, &norm, table, rows_of(&h, wanted, spec.hidden));
                let found = fused::log_probabilities(&at.numbers, targets);
                let slopes = sum.add(&batch.owners[rows], &found);
                fused::log_probabilities_back(&mut at.numbers, targets, &slopes);
                if let Some(bends) = &at.bends {
                    at.numbers.iter_mut().zip(bends).for_each(|(x, bend)| *x *= bend);
                }
                fused::scale(&mut at.numbers, 1.0 / spec.logits_divisor);
                fused::add_outer(&at.numbers, &at.x, spec.hidden, spec.vocab, &mut of_table);
                let mut of_x = vec![0.0; at.x.len()];
                fused::add_product(&at.numbers, table, spec.hidden, spec.vocab, &mut of_x);
                let of_rows = fused::norm_back(&at.h, &norm, spec.norm_eps, &of_x, &mut of_norm);
                for (row, slope) in wanted.iter().zip(of_rows.chunks(spec.hidden)) {
                    fused::add(&mut of_h[*row as usize * spec.hidden..][..spec.hidden], slope, 1.0);
                }
            }
            upstream.push(of_h);
        }
        let gradients = vec![(FINAL_NORM.into(), of_norm), (head_name(spec).into(), of_table)];
        Ok((upstream, gradients))
    }

    fn embed_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        upstream: Vec<Vec<f32>>,
        table: Option<Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let mut table = table.unwrap_or_else(|| vec![0.0; spec.vocab * spec.hidden]);
        for (batch, upstream) in batches.iter().zip(upstream) {
            for (id, slope) in batch.ids.iter().zip(upstream.chunks(spec.hidden)) {
                let row = &mut table[*id as usize * spec.hidden..][..spec.hidden];
                fused::add(row, slope, spec.embed_scale);
            }
        }
        Ok(table)
    }

    #[cfg(test)]
    fn logits(&self, spec: &DecoderSpec, h: &Vec<f32>) -> Result<Vec<f32>, Error> {
        let (norm, table) = self.head_weights(spec)?;
        Ok(logits(spec, &norm, table, h.clone()).numbers)
    }
}
