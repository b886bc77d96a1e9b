//! The twin on a device: candle's own operations, and its automatic differentiation.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor, Var};

use super::{
    EMBEDDINGS, Error, FINAL_NORM, Gradients, Side, Sum,
    batch::Batch,
    head_name,
    layer::{Algebra, layer},
    logit_rows,
};
use crate::spec::{Activation, DecoderSpec};

/// The weights, by Hugging Face name.
pub(super) struct Remote {
    device: Device,
    weights: HashMap<String, Tensor>,
}

/// A batch's masks and angles as tensors.
struct Tensors<'a> {
    batch: &'a Batch,
    /// cos and sin by kind of rotation, `[rows, width, 1, half]`.
    rotations: Vec<(Tensor, Tensor)>,
}

impl<'a> Tensors<'a> {
    fn new(batch: &'a Batch, device: &Device) -> Result<Self, Error> {
        let of = |numbers: &[f32]| {
            let half = numbers.len() / batch.tokens();
            Tensor::from_slice(numbers, (batch.rows, batch.width, 1, half), device)
        };
        let rotations = batch.rotations.iter();
        let rotations = rotations.map(|rotation| Ok((of(&rotation.cos)?, of(&rotation.sin)?)));
        Ok(Tensors {
            rotations: rotations.collect::<Result<_, Error>>()?,
            batch,
        })
    }

    /// What is added to the scores of a query (row) with a key (column).
    fn mask(&self, window: Option<usize>, device: &Device) -> Result<Tensor, Error> {
        const NEVER: f32 = -1e30;
        let width = self.batch.width;
        let sees = |q: usize, k: usize| k <= q && window.is_none_or(|window| q < k + window);
        let cells = (0..width * width).map(|i| if sees(i / width, i % width) { 0.0 } else { NEVER });
        Ok(Tensor::from_vec(cells.collect(), (width, width), device)?)
    }
}

/// One layer's weights, by their names within it, and the batch that goes through.
struct Composed<'a> {
    spec: &'a DecoderSpec,
    device: &'a Device,
    batch: Tensors<'a>,
    weights: &'a HashMap<String, Tensor>,
}

impl Composed<'_> {
    fn weight(&self, name: &str) -> Result<&Tensor, Error> {
        let name = format!("{name}.weight");
        self.weights.get(&name).ok_or(Error::Read {
            tensor: name,
            reason: "the layer has no such tensor".into(),
        })
    }

    /// `[rows, width, heads · d]` → `[rows, heads, width, d]`.
    fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor, Error> {
        let (rows, width, d) = (self.batch.batch.rows, self.batch.batch.width, self.spec.head_dim);
        let x = x.contiguous()?.reshape((rows, width, heads, d))?;
        Ok(x.transpose(1, 2)?.contiguous()?)
    }
}

impl Algebra for Composed<'_> {
    type Value = Tensor;

    fn linear(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.weight(name)?;
        let (rows, width, inputs) = x.dims3()?;
        let out = x.reshape((rows * width, inputs))?.matmul(&weight.t()?)?;
        let out = match self.weights.get(&format!("{name}.bias")) {
            Some(bias) => out.broadcast_add(bias)?,
            None => out,
        };
        Ok(out.reshape((rows, width, weight.dim(0)?))?)
    }

    fn norm(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (weight, shape) = (self.weight(name)?, x.dims3()?);
        let x = x.reshape((shape.0, shape.1, shape.2 / weight.elem_count(), weight.elem_count()))?;
        Ok(rms_norm(self.spec, &x, weight)?.reshape(shape)?)
    }

    fn part(&mut self, x: &Tensor, from: usize, len: usize) -> Result<Tensor, Error> {
        Ok(x.narrow(D::Minus1, from, len)?.contiguous()?)
    }

    /// The pairs `(i, i + half)` of each head's first `2 · half` dimensions.
    fn rotate(&mut self, x: &Tensor, rope: usize) -> Result<Tensor, Error> {
        let (cos, sin) = &self.batch.rotations[rope];
        let (shape, d, half) = (x.dims3()?, self.spec.head_dim, cos.dim(D::Minus1)?);
        let x = x.reshape((shape.0, shape.1, shape.2 / d, d))?;
        let part = |from: usize, len: usize| x.narrow(D::Minus1, from, len);
        let (a, b) = (part(0, half)?.contiguous()?, part(half, half)?.contiguous()?);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        let mut parts = vec![first, second];
        if 2 * half < d {
            parts.push(part(2 * half, d - 2 * half)?);
        }
        Ok(Tensor::cat(&parts, D::Minus1)?.reshape(shape)?)
    }

    fn attend(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor, Error> {
        let (spec, Batch { rows, width, .. }) = (self.spec, self.batch.batch);
        let (queries, keys, values) = (
            self.heads(q, spec.heads)?,
            self.heads(k, spec.kv_heads)?,
            self.heads(v, spec.kv_heads)?,
        );
        // Query heads that share a key head stand one after the other.
        let group = spec.heads / spec.kv_heads;
        let queries = queries.reshape((*rows, spec.kv_heads, group * width, spec.head_dim))?;
        let scores = scaled(queries.matmul(&keys.t()?)?, spec.attention_scale)?;
        let scores = softcapped(scores, spec.attention_softcap)?;
        let scores = scores.reshape((rows * spec.heads, *width, *width))?;
        let weights = softmax(&scores.broadcast_add(&self.batch.mask(window, self.device)?)?)?;
        let weights = weights.reshape((*rows, spec.kv_heads, group * width, *width))?;
        let out = weights.matmul(&values)?;
        let out = out.reshape((*rows, spec.heads, *width, spec.head_dim))?;
        let out = out.transpose(1, 2)?.contiguous()?;
        Ok(out.reshape((*rows, *width, spec.heads * spec.head_dim))?)
    }

    fn gate(&mut self, gate: &Tensor, up: &Tensor) -> Result<Tensor, Error> {
        let gate = match self.spec.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu(),
            Activation::GeluErf => gate.gelu_erf(),
            Activation::Relu => gate.relu(),
        };
        Ok((gate? * up)?)
    }

    fn add(&mut self, h: &Tensor, branch: &Tensor) -> Result<Tensor, Error> {
        Ok((h + scaled(branch.clone(), self.spec.residual_scale)?)?)
    }
}

impl Remote {
    #[cfg(any(test, feature = "learn-cuda"))]
    pub fn new(device: &Device) -> Self {
        Remote {
            device: device.clone(),
            weights: HashMap::new(),
        }
    }

    fn weight(&self, name: &str) -> Result<&Tensor, Error> {
        self.weights.get(name).ok_or_else(|| Error::Read {
            tensor: name.into(),
            reason: "it was not loaded".into(),
        })
    }

    fn prefix(index: usize) -> String {
        format!("model.layers.{index}.")
    }

    /// The weights of a layer by their names within it, each through `f`.
    fn of_layer(
        &self,
        index: usize,
        f: impl Fn(&Tensor) -> Result<Tensor, Error>,
    ) -> Result<HashMap<String, Tensor>, Error> {
        let prefix = Self::prefix(index);
        let of_layer =
            |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor.clone()));
        let weights = self.weights.iter().filter_map(of_layer);
        weights.map(|(name, tensor)| Ok((name, f(&tensor)?))).collect()
    }

    fn composed<'a>(
        &'a self,
        spec: &'a DecoderSpec,
        batch: &'a Batch,
        weights: &'a HashMap<String, Tensor>,
    ) -> Result<Composed<'a>, Error> {
        Ok(Composed {
            spec,
            device: &self.device,
            batch: Tensors::new(batch, &self.device)?,
            weights,
        })
    }

    /// Log-probabilities of a stretch's targets, `[rows, 1]`.
    fn log_probabilities(
        &self,
        spec: &DecoderSpec,
        (h, norm, table): (&Tensor, &Tensor, &Tensor),
        wanted: &[u32],
        targets: &[u32],
    ) -> Result<Tensor, Error> {
        let wanted = Tensor::from_slice(wanted, wanted.len(), &self.device)?;
        let h = h.reshape(((), spec.hidden))?.index_select(&wanted, 0)?;
        let logits = logits(spec, &h, norm, table)?;
        let places = Tensor::from_slice(targets, (targets.len(), 1), &self.device)?;
        Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&places, D::Minus1)?)
    }
}

impl Side for Remote {
    type State = Tensor;

    fn has_tensor(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn put(&mut self, name: &str, shape: Vec<usize>, data: &[f32]) -> Result<(), Error> {
        let tensor = Tensor::from_slice(data, shape, &self.device)?;
        self.weights.insert(name.into(), tensor);
        Ok(())
    }

    fn embed(&self, spec: &DecoderSpec, batch: &Batch) -> Result<Tensor, Error> {
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let rows = self.weight(EMBEDDINGS)?.index_select(&ids, 0)?;
        let h = rows.reshape((batch.rows, batch.width, spec.hidden))?;
        Ok(scaled(h, spec.embed_scale)?)
    }

    fn layer(&self, spec: &DecoderSpec, index: usize, batch: &Batch, h: &Tensor) -> Result<Tensor, Error> {
        let weights = self.of_layer(index, |tensor| Ok(tensor.clone()))?;
        layer(spec, index, &mut self.composed(spec, batch, &weights)?, h)
    }

    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        inputs: Vec<Tensor>,
        upstream: &mut [Tensor],
    ) -> Result<Gradients, Error> {
        let weights = self.of_layer(index, variable)?;
        let mut gradients: HashMap<&str, Tensor> = HashMap::new();
        for ((batch, input), upstream) in batches.iter().zip(inputs).zip(upstream) {
            let h = variable(&input)?;
            let out = layer(spec, index, &mut self.composed(spec, batch, &weights)?, &h)?;
            let of_batch = (out * &*upstream)?.sum_all()?.backward()?;
            for (name, variable) in &weights {
                let Some(gradient) = of_batch.get(variable) else {
                    continue;
                };
                let sum = match gradients.get(name.as_str()) {
                    Some(known) => (known + gradient)?,
                    None => gradient.clone(),
                };
                gradients.insert(name, sum);
            }
            *upstream = match of_batch.get(&h) {
                Some(gradient) => gradient.clone(),
                None => h.zeros_like()?,
            };
        }
        let named = gradients
            .into_iter()
            .map(|(name, gradient)| Ok((name.to_string(), flat(&gradient)?)));
        named.collect()
    }

    fn head(&self, spec: &DecoderSpec, batch: &Batch, h: &Tensor, sum: &mut Sum) -> Result<(), Error> {
        let (norm, table) = (self.weight(FINAL_NORM)?, self.weight(head_name(spec))?);
        for rows in logit_rows(spec, batch) {
            let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
            let found = self.log_probabilities(spec, (h, norm, table), wanted, targets)?;
            sum.add(&batch.owners[rows], &flat(&found)?);
        }
        Ok(())
    }

    fn head_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        outputs: Vec<Tensor>,
        sum: &mut Sum,
    ) -> Result<(Vec<Tensor>, Gradients), Error> {
        let (norm, table) = (
            variable(self.weight(FINAL_NORM)?)?,
            variable(self.weight(head_name(spec))?)?,
        );
        let (mut of_norm, mut of_table) = (norm.zeros_like()?, table.zeros_like()?);
        let mut upstream = Vec::new();
        for (batch, h) in batches.iter().zip(outputs) {
            let h = variable(&h)?;
            let mut of_h = h.zeros_like()?;
            for rows in logit_rows(spec, batch) {
                let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
                let found = self.log_probabilities(spec, (&h, &norm, &table), wanted, targets)?;
                let slopes = sum.add(&batch.owners[rows], &flat(&found)?);
                let slopes = Tensor::from_vec(slopes, found.shape(), &self.device)?;
                let gradients = (found * slopes)?.sum_all()?.backward()?;
                for (sum, of) in [(&mut of_norm, &norm), (&mut of_table, &table), (&mut of_h, &h)] {
                    if let Some(gradient) = gradients.get(of) {
                        *sum = (&*sum + gradient)?;
                    }
                }
            }
            upstream.push(of_h);
        }
        let gradients = vec![
            (FINAL_NORM.into(), flat(&of_norm)?),
            (head_name(spec).into(), flat(&of_table)?),
        ];
        Ok((upstream, gradients))
    }

    fn embed_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        upstream: Vec<Tensor>,
        table: Option<Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let shape = (spec.vocab, spec.hidden);
        let mut table = match table {
            Some(table) => Tensor::from_vec(table, shape, &self.device)?,
            None => Tensor::zeros(shape, DType::F32, &self.device)?,
        };
        for (batch, upstream) in batches.iter().zip(upstream) {
            let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
            let rows = upstream.reshape((batch.ids.len(), spec.hidden))?.contiguous()?;
            table = table.index_add(&ids, &scaled(rows, spec.embed_scale)?, 0)?;
        }
        flat(&table)
    }

    #[cfg(test)]
    fn logits(&self, spec: &DecoderSpec, h: &Tensor) -> Result<Vec<f32>, Error> {
        let h = h.reshape(((), spec.hidden))?;
        flat(&logits(
            spec,
            &h,
            self.weight(FINAL_NORM)?,
            self.weight(head_name(spec))?,
        )?)
    }
}

fn logits(spec: &DecoderSpec, h: &Tensor, norm: &Tensor, table: &Tensor) -> Result<Tensor, Error> {
    let x = rms_norm(spec, h, norm)?;
    let logits = scaled(x.matmul(&table.t()?)?, 1.0 / spec.logits_divisor)?;
    Ok(softcapped(logits, spec.final_softcap)?)
}

fn variable(tensor: &Tensor) -> Result<Tensor, Error> {
    Ok(Var::from_tensor(tensor)?.into_inner())
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// `x / √(mean(x²) + ε) · weight`, along the last axis.
fn rms_norm(spec: &DecoderSpec, x: &Tensor, weight: &Tensor) -> Result<Tensor, Error> {
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / weight.elem_count() as f64)?;
    let x = x.broadcast_div(&(mean + f64::from(spec.norm_eps))?.sqrt()?)?;
    let weight = match spec.norm_plus_one {
        true => (weight + 1.0)?,
        false => weight.clone(),
    };
    Ok(x.broadcast_mul(&weight)?)
}

fn scaled(x: Tensor, factor: f32) -> candle_core::Result<Tensor> {
    match factor == 1.0 {
        true => Ok(x),
        false => x.affine(f64::from(factor), 0.0),
    }
}

/// `cap · tanh(x / cap)`.
fn softcapped(x: Tensor, cap: Option<f32>) -> candle_core::Result<Tensor> {
    match cap {
        None => Ok(x),
        Some(cap) => x.affine(1.0 / f64::from(cap), 0.0)?.tanh()?.affine(f64::from(cap), 0.0),
    }
}

/// Along the last axis. The largest score is a constant here: it cancels out of the result and of its derivative.
fn softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    let largest = x.detach().max_keepdim(D::Minus1)?;
    let e = x.broadcast_sub(&largest)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}
