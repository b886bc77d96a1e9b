//! The differentiable twin of the decoder: the same [`DecoderSpec`], the same numbers, and the gradient of a loss with
//! respect to every weight.
//!
//! Texts are read, never generated: the loss is the mean cross-entropy of the tokens that are to be learned, given what is
//! before them. Operations and their derivatives are candle's autograd. Memory is bounded: going forward, only the input of
//! each layer is kept; going back, one layer at a time is computed again with its derivatives, its weights' gradients are
//! handed to the caller, and all of it is dropped. So a pass holds the weights, one layer's gradients, and of each text
//! `tokens × hidden × layers` numbers.
//!
//! What it does not do: keys and values kept from one token to the next, shared prefixes, generation. [`Engine`] does those,
//! and the tests hold the two together.
//!
//! [`Engine`]: super::Engine

use std::{collections::HashMap, sync::Arc};

use candle_core::{D, DType, Device, Tensor, Var};

use super::Error;
use super::rope::RopeTable;
use super::spec::{Activation, DecoderSpec, QkNorm};

mod fused;
#[cfg(test)]
mod tests;

/// A token sequence of which `tokens[from..]` is to be made likelier, given what is before it; `from` is at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    pub tokens: Vec<u32>,
    pub from: usize,
    /// How much each of its tokens counts; negative for what is to be made less likely.
    pub weight: f64,
}

/// What a batch of texts costs under the twin's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Σ weight · −log p over the tokens that are learned, divided by Σ |weight|.
    pub mean: f64,
    /// By text: its summed natural log-likelihood.
    pub log_likelihoods: Vec<f64>,
}

/// Takes what one tensor's gradient is; called for each tensor once.
pub type TakeGradient<'a, E> = &'a mut dyn FnMut(&str, Vec<f32>) -> Result<(), E>;

/// Tokens of texts, filled up to their longest, that go through a layer together.
const BATCH_TOKENS: usize = 2048;
/// Rows of logits that are alive at one time, in numbers.
const LOGITS: usize = 1 << 23;

/// A model whose loss can be differentiated.
pub struct Twin {
    spec: DecoderSpec,
    device: Device,
    /// By Hugging Face name.
    weights: HashMap<String, Tensor>,
    ropes: Vec<RopeTable>,
    /// Whether operations are the CPU's own kernels (`fused`) or composed of candle's.
    is_fused: bool,
}

impl Twin {
    /// Builds the twin and reads every tensor of [`DecoderSpec::tensor_names`] with `read`.
    ///
    /// # Errors
    /// A tensor that cannot be read or has another size than config.json says.
    pub fn load(
        spec: DecoderSpec,
        device: &Device,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        for rope in &spec.ropes {
            rope.validate(spec.head_dim)?;
        }
        let names = spec.tensor_names();
        let mut twin = Twin {
            ropes: spec.ropes.iter().cloned().map(RopeTable::new).collect(),
            device: device.clone(),
            is_fused: device.is_cpu(),
            weights: HashMap::new(),
            spec,
        };
        for (name, shape) in names {
            let data = read(&name).map_err(|reason| Error::Read {
                tensor: name.clone(),
                reason,
            })?;
            twin.put(&name, shape, &data)?;
        }
        Ok(twin)
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Whether `name` is one of the twin's tensors; a tied `lm_head.weight` is not.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Replaces one tensor, by its Hugging Face name.
    ///
    /// # Errors
    /// An unknown name, a wrong number of elements.
    pub fn set_tensor(&mut self, name: &str, data: &[f32]) -> Result<(), Error> {
        let shape = self.weights.get(name).map(|known| known.dims().to_vec());
        let shape = shape.ok_or_else(|| Error::UnknownTensor {
            tensor: name.into(),
            family: self.spec.family.name(),
            layers: self.spec.layers.len(),
        })?;
        self.put(name, shape, data)
    }

    fn put(&mut self, name: &str, shape: Vec<usize>, data: &[f32]) -> Result<(), Error> {
        let expected = shape.iter().product();
        if data.len() != expected {
            return Err(Error::TensorSize {
                tensor: name.into(),
                shape,
                expected,
                got: data.len(),
            });
        }
        let tensor = Tensor::from_slice(data, shape, &self.device)?;
        self.weights.insert(name.into(), tensor);
        Ok(())
    }

    /// The loss of `texts`, without its gradient.
    ///
    /// # Errors
    /// A text with nothing to learn or with tokens beyond the vocabulary; a device that is full.
    pub fn loss(&self, texts: &[Text]) -> Result<Loss, Error> {
        let batches = self.batches(texts)?;
        let mut loss = Sum::new(texts);
        for batch in &batches {
            let mut h = self.embed(batch)?;
            for layer in 0..self.spec.layers.len() {
                h = self.layer(&Layer::of(self, layer), batch, &h)?;
            }
            self.head(batch, &h, &Head::of(self)?, &mut loss, |_| Ok(()))?;
        }
        Ok(loss.finish())
    }

    /// The loss of `texts`; `take` is handed its derivative with respect to each tensor, row by row.
    ///
    /// # Errors
    /// As [`Twin::loss`], and whatever `take` says.
    pub fn gradient<E: From<Error>>(&self, texts: &[Text], take: TakeGradient<'_, E>) -> Result<Loss, E> {
        let batches = self.batches(texts)?;
        let mut inputs = self.forward(&batches)?;
        let mut loss = Sum::new(texts);
        let (mut upstream, mut table) = self.head_backward(&batches, &mut inputs, &mut loss, take)?;
        for layer in (0..self.spec.layers.len()).rev() {
            let gradients = self.layer_backward(layer, &batches, &mut inputs, &mut upstream)?;
            for (name, gradient) in gradients {
                take(&name, flat(&gradient)?)?;
            }
        }
        for (batch, upstream) in batches.iter().zip(upstream) {
            table = self.embed_backward(batch, &upstream, table)?;
        }
        take(EMBEDDINGS, flat(&table)?)?;
        Ok(loss.finish())
    }

    /// The input of every layer and the last one's output, for each batch.
    fn forward(&self, batches: &[Batch]) -> Result<Vec<Vec<Tensor>>, Error> {
        let of_batch = |batch: &Batch| {
            let mut inputs = vec![self.embed(batch)?];
            for layer in 0..self.spec.layers.len() {
                let h = self.layer(&Layer::of(self, layer), batch, &inputs[layer])?;
                inputs.push(h);
            }
            Ok(inputs)
        };
        batches.iter().map(of_batch).collect()
    }

    /// From the last layer's output to the loss and back: the derivative with respect to that output, for each batch, and
    /// the head's own where the embeddings share its tensor (else zeros).
    fn head_backward<E: From<Error>>(
        &self,
        batches: &[Batch],
        inputs: &mut [Vec<Tensor>],
        loss: &mut Sum,
        take: TakeGradient<'_, E>,
    ) -> Result<(Vec<Tensor>, Tensor), E> {
        let head = Head::variable(self)?;
        let (mut norm, mut table) = (head.norm.zeros_like().map_err(Error::from)?, zeros(&head.table)?);
        let mut upstream = Vec::new();
        for (batch, inputs) in batches.iter().zip(inputs) {
            let h = Var::from_tensor(&inputs.pop().unwrap_or_else(|| norm.clone())).map_err(Error::from)?;
            let mut of_input = zeros(h.as_tensor())?;
            self.head(batch, h.as_tensor(), &head, loss, |nll| {
                let gradients = nll.backward()?;
                let of = |tensor: &Tensor| gradients.get(tensor);
                if let Some(g) = of(&head.norm) {
                    norm = (&norm + g)?;
                }
                if let Some(g) = of(&head.table) {
                    table = (&table + g)?;
                }
                if let Some(g) = of(h.as_tensor()) {
                    of_input = (&of_input + g)?;
                }
                Ok(())
            })?;
            upstream.push(of_input);
        }
        take(FINAL_NORM, flat(&norm)?)?;
        if self.spec.tie_embeddings {
            return Ok((upstream, table));
        }
        take(HEAD, flat(&table)?)?;
        Ok((upstream, zeros(self.weight(EMBEDDINGS)?)?))
    }

    /// One layer again, with derivatives: `upstream` goes from its output to its input; its weights' gradients.
    fn layer_backward(
        &self,
        layer: usize,
        batches: &[Batch],
        inputs: &mut [Vec<Tensor>],
        upstream: &mut [Tensor],
    ) -> Result<Vec<(String, Tensor)>, Error> {
        let (weights, variables) = Layer::variable(self, layer)?;
        let mut gradients: HashMap<&str, Tensor> = HashMap::new();
        for ((batch, inputs), upstream) in batches.iter().zip(inputs).zip(upstream) {
            let Some(input) = inputs.pop() else { continue };
            let h = Var::from_tensor(&input)?;
            let out = self.layer(&weights, batch, h.as_tensor())?;
            let of_batch = (out * &*upstream)?.sum_all()?.backward()?;
            for (name, variable) in &variables {
                let Some(gradient) = of_batch.get(variable.as_tensor()) else {
                    continue;
                };
                let sum = match gradients.get(name.as_str()) {
                    Some(known) => (known + gradient)?,
                    None => gradient.clone(),
                };
                gradients.insert(name, sum);
            }
            *upstream = match of_batch.get(h.as_tensor()) {
                Some(gradient) => gradient.clone(),
                None => zeros(&input)?,
            };
        }
        let mut named: Vec<(String, Tensor)> = gradients.into_iter().map(|(n, g)| (n.to_string(), g)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(named)
    }

    fn weight(&self, name: &str) -> Result<&Tensor, Error> {
        self.weights.get(name).ok_or_else(|| Error::UnknownTensor {
            tensor: name.into(),
            family: self.spec.family.name(),
            layers: self.spec.layers.len(),
        })
    }

    // ---- batches ----

    /// Texts of like length side by side, each filled up at its end, where no token looks at it.
    fn batches(&self, texts: &[Text]) -> Result<Vec<Batch>, Error> {
        for (request, text) in texts.iter().enumerate() {
            self.check(request, text)?;
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| texts[*i].tokens.len());
        let mut batches = Vec::new();
        let mut members: Vec<usize> = Vec::new();
        for i in order {
            // The last token predicts nothing.
            let width = texts[i].tokens.len() - 1;
            if !members.is_empty() && (members.len() + 1) * width > BATCH_TOKENS {
                batches.push(self.batch(texts, std::mem::take(&mut members))?);
            }
            members.push(i);
        }
        if !members.is_empty() {
            batches.push(self.batch(texts, members)?);
        }
        Ok(batches)
    }

    fn check(&self, request: usize, text: &Text) -> Result<(), Error> {
        if text.from == 0 {
            return Err(Error::ScoreFromZero { request });
        }
        if text.from >= text.tokens.len() {
            return Err(Error::NothingToScore {
                tokens: text.tokens.len(),
            });
        }
        let vocab = self.spec.vocab;
        match text.tokens.iter().find(|token| **token as usize >= vocab) {
            Some(token) => Err(Error::TokenOutOfRange {
                request,
                token: *token,
                vocab,
            }),
            None => Ok(()),
        }
    }

    fn batch(&self, texts: &[Text], members: Vec<usize>) -> Result<Batch, Error> {
        let width = members.iter().map(|i| texts[*i].tokens.len() - 1).max().unwrap_or(1);
        let mut batch = Batch {
            rows: members.len(),
            width,
            ids: vec![0; members.len() * width],
            wanted: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            rotations: Vec::new(),
            masks: Vec::new(),
        };
        for (row, i) in members.iter().enumerate() {
            let Text { tokens, from, .. } = &texts[*i];
            batch.ids[row * width..][..tokens.len() - 1].copy_from_slice(&tokens[..tokens.len() - 1]);
            for (place, token) in tokens.iter().enumerate().skip(*from) {
                batch.wanted.push((row * width + place - 1) as u32);
                batch.targets.push(*token);
                batch.owners.push(*i);
            }
        }
        for rope in &self.ropes {
            batch.rotations.push(self.rotation(rope, texts, &members, width)?);
        }
        let masked = if self.is_fused { &[] } else { &self.spec.layers[..] };
        for layer in masked {
            if batch.masks.iter().all(|(window, _)| *window != layer.window) {
                batch.masks.push((layer.window, self.mask(layer.window, width)?));
            }
        }
        Ok(batch)
    }

    /// cos and sin, `[rows, 1, width, half]`: rows of one batch may rotate differently, by their length.
    fn rotation(
        &self,
        rope: &RopeTable,
        texts: &[Text],
        members: &[usize],
        width: usize,
    ) -> Result<Rotation, Error> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        let mut angles = Vec::new();
        for i in members {
            for position in 0..width {
                angles.clear();
                rope.append(position, texts[*i].tokens.len() - 1, &mut angles);
                let (c, s) = angles.split_at(angles.len() / 2);
                cos.extend_from_slice(c);
                sin.extend_from_slice(s);
            }
        }
        let half = cos.len() / (members.len() * width).max(1);
        let shape = (members.len(), 1, width, half);
        Ok(match self.is_fused {
            true => Rotation::Numbers(cos.into(), sin.into()),
            false => Rotation::Tensors(
                Tensor::from_vec(cos, shape, &self.device)?,
                Tensor::from_vec(sin, shape, &self.device)?,
            ),
        })
    }

    /// What is added to the scores of a query (row) with a key (column).
    fn mask(&self, window: Option<usize>, width: usize) -> Result<Tensor, Error> {
        const NEVER: f32 = -1e30;
        let sees = |q: usize, k: usize| k <= q && window.is_none_or(|window| q < k + window);
        let cells = (0..width * width).map(|i| if sees(i / width, i % width) { 0.0 } else { NEVER });
        Ok(Tensor::from_vec(cells.collect(), (width, width), &self.device)?)
    }

    // ---- the forward pass ----

    fn embed(&self, batch: &Batch) -> Result<Tensor, Error> {
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let rows = self.weight(EMBEDDINGS)?.index_select(&ids, 0)?;
        let h = rows.reshape((batch.rows, batch.width, self.spec.hidden))?;
        Ok(scaled(h, self.spec.embed_scale)?)
    }

    /// Adds the embeddings' gradient to `table`.
    fn embed_backward(&self, batch: &Batch, upstream: &Tensor, table: Tensor) -> Result<Tensor, Error> {
        let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
        let rows = upstream.reshape((batch.ids.len(), self.spec.hidden))?.contiguous()?;
        Ok(table.index_add(&ids, &scaled(rows, self.spec.embed_scale)?, 0)?)
    }

    /// `[rows, width, hidden]` → the same.
    fn layer(&self, layer: &Layer, batch: &Batch, h: &Tensor) -> Result<Tensor, Error> {
        let norms = self.spec.layer_norms();
        let x = self.norm(layer, norms[0], h)?;
        let branch = self.attention(layer, batch, &x)?;
        let branch = self.norm(layer, norms[1], &branch)?;
        let h = (h + scaled(branch, self.spec.residual_scale)?)?;
        let x = self.norm(layer, norms[2], &h)?;
        let branch = self.mlp(layer, &x)?;
        let branch = self.norm(layer, norms[3], &branch)?;
        Ok((h + scaled(branch, self.spec.residual_scale)?)?)
    }

    fn norm(&self, layer: &Layer, name: Option<&str>, x: &Tensor) -> Result<Tensor, Error> {
        match name {
            None => Ok(x.clone()),
            Some(name) => self.rms_norm(x, layer.get(&format!("{name}.weight"))?),
        }
    }

    /// `x / √(mean(x²) + ε) · weight`, along the last axis.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor, Error> {
        if self.is_fused {
            let eps = self.spec.norm_eps;
            let weight = match self.spec.norm_plus_one {
                true => (weight + 1.0)?,
                false => weight.clone(),
            };
            return Ok(x.contiguous()?.apply_op2(&weight, fused::Norm { eps })?);
        }
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / weight.elem_count() as f64)?;
        let x = x.broadcast_div(&(mean + f64::from(self.spec.norm_eps))?.sqrt()?)?;
        let weight = match self.spec.norm_plus_one {
            true => (weight + 1.0)?,
            false => weight.clone(),
        };
        Ok(x.broadcast_mul(&weight)?)
    }

    fn attention(&self, layer: &Layer, batch: &Batch, x: &Tensor) -> Result<Tensor, Error> {
        let spec = &self.spec;
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let [queries, keys, values] = match spec.fused {
            true => {
                let all = layer.linear("self_attn.qkv_proj", x)?;
                [(0, q), (q, kv), (q + kv, kv)].map(|(from, len)| Ok(all.narrow(D::Minus1, from, len)?))
            }
            false => ["q_proj", "k_proj", "v_proj"].map(|name| layer.linear(&format!("self_attn.{name}"), x)),
        };
        let queries = self.heads(layer, "q_norm", batch, queries?, spec.heads)?;
        let keys = self.heads(layer, "k_norm", batch, keys?, spec.kv_heads)?;
        let window = spec.layers[layer.index].window;
        if self.is_fused {
            let attend = fused::Attend {
                width: batch.width,
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                scale: spec.attention_scale,
                softcap: spec.attention_softcap,
                window,
            };
            let out = queries.apply_op3(&keys, &values?.contiguous()?, attend)?;
            return layer.linear("self_attn.o_proj", &out);
        }
        let values = split_heads(&values?, batch, spec.kv_heads)?;
        // Query heads that share a key head stand one after the other.
        let group = spec.heads / spec.kv_heads;
        let queries = queries.reshape((batch.rows, spec.kv_heads, group * batch.width, spec.head_dim))?;
        let scores = scaled(queries.matmul(&keys.t()?)?, spec.attention_scale)?;
        let scores = softcapped(scores, spec.attention_softcap)?;
        let scores = scores.reshape((batch.rows * spec.heads, batch.width, batch.width))?;
        let weights = softmax(&scores.broadcast_add(batch.mask(window))?)?;
        let weights = weights.reshape((batch.rows, spec.kv_heads, group * batch.width, batch.width))?;
        let out = weights.matmul(&values)?;
        let out = out.reshape((batch.rows, spec.heads, batch.width, spec.head_dim))?;
        let out = out
            .transpose(1, 2)?
            .contiguous()?
            .reshape((batch.rows, batch.width, q))?;
        layer.linear("self_attn.o_proj", &out)
    }

    /// Queries or keys: normed where the family does, and rotated; `[rows, width, heads · head_dim]` where attention is fused,
    /// else `[rows, heads, width, head_dim]`.
    fn heads(&self, layer: &Layer, norm: &str, batch: &Batch, x: Tensor, heads: usize) -> Result<Tensor, Error> {
        let weight = || layer.get(&format!("self_attn.{norm}.weight"));
        let x = match self.spec.qk_norm {
            QkNorm::FullWidth => self.rms_norm(&x, weight()?)?,
            QkNorm::None | QkNorm::PerHead => x,
        };
        let x = match self.is_fused {
            // A norm of the CPU's goes over stretches as long as its weight, whatever the shape.
            true => x.contiguous()?,
            false => split_heads(&x, batch, heads)?,
        };
        let x = match self.spec.qk_norm {
            QkNorm::PerHead => self.rms_norm(&x, weight()?)?,
            QkNorm::None | QkNorm::FullWidth => x,
        };
        match self.spec.layers[layer.index].rope {
            Some(rope) => self.rotated(&x, batch, &batch.rotations[rope]),
            None => Ok(x),
        }
    }

    /// Rotates the pairs `(i, i + half)` of each head's first `2 · half` dimensions.
    fn rotated(&self, x: &Tensor, batch: &Batch, rotation: &Rotation) -> Result<Tensor, Error> {
        let (cos, sin) = match rotation {
            Rotation::Tensors(cos, sin) => (cos, sin),
            Rotation::Numbers(cos, sin) => {
                let rotate = fused::Rotate {
                    head_dim: self.spec.head_dim,
                    cos: cos.clone(),
                    sin: sin.clone(),
                    tokens: batch.rows * batch.width,
                };
                return Ok(x.apply_op1(rotate)?);
            }
        };
        let (d, half) = (x.dim(D::Minus1)?, cos.dim(D::Minus1)?);
        let part = |from: usize, len: usize| x.narrow(D::Minus1, from, len);
        let (a, b) = (part(0, half)?.contiguous()?, part(half, half)?.contiguous()?);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        let mut parts = vec![first, second];
        if 2 * half < d {
            parts.push(part(2 * half, d - 2 * half)?);
        }
        Ok(Tensor::cat(&parts, D::Minus1)?)
    }

    fn mlp(&self, layer: &Layer, x: &Tensor) -> Result<Tensor, Error> {
        let inner = self.spec.intermediate;
        let [gate, up] = match self.spec.fused {
            true => {
                let both = layer.linear("mlp.gate_up_proj", x)?;
                [0, inner].map(|from| Ok(both.narrow(D::Minus1, from, inner)?.contiguous()?))
            }
            false => ["mlp.gate_proj", "mlp.up_proj"].map(|name| layer.linear(name, x)),
        };
        if self.is_fused {
            let out = gate?.apply_op2(&up?, fused::Gate(self.spec.activation))?;
            return layer.linear("mlp.down_proj", &out);
        }
        let gate = match self.spec.activation {
            Activation::Silu => gate?.silu(),
            Activation::GeluTanh => gate?.gelu(),
            Activation::GeluErf => gate?.gelu_erf(),
            Activation::Relu => gate?.relu(),
        };
        layer.linear("mlp.down_proj", &(gate? * up?)?)
    }

    /// Adds the loss of the wanted tokens to `loss`; `part` is handed each stretch of them with its share of the loss, a
    /// scalar that can be differentiated.
    fn head(
        &self,
        batch: &Batch,
        h: &Tensor,
        head: &Head,
        loss: &mut Sum,
        mut part: impl FnMut(&Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let rows_at_once = (LOGITS / self.spec.vocab).max(16);
        let h = h.reshape((batch.rows * batch.width, self.spec.hidden))?;
        for from in (0..batch.wanted.len()).step_by(rows_at_once) {
            let rows = from..(from + rows_at_once).min(batch.wanted.len());
            let wanted = Tensor::from_slice(&batch.wanted[rows.clone()], rows.len(), &self.device)?;
            let x = self.rms_norm(&h.index_select(&wanted, 0)?, &head.norm)?;
            let logits = x.matmul(&head.table.t()?)?;
            let logits = scaled(logits, 1.0 / self.spec.logits_divisor)?;
            let logits = softcapped(logits, self.spec.final_softcap)?;
            let found = self.log_probabilities(&logits, &batch.targets[rows.clone()])?;
            let weights = loss.add(&batch.owners[rows.clone()], &found.flatten_all()?.to_vec1::<f32>()?);
            let weights = Tensor::from_vec(weights, (rows.len(), 1), &self.device)?;
            part(&(found * weights)?.sum_all()?)?;
        }
        Ok(())
    }

    /// `[rows, vocab]` and a token for each row → `[rows, 1]`.
    fn log_probabilities(&self, logits: &Tensor, targets: &[u32]) -> Result<Tensor, Error> {
        if self.is_fused {
            return Ok(logits.apply_op1(fused::LogProbability(targets.into()))?);
        }
        let places = Tensor::from_slice(targets, (targets.len(), 1), &self.device)?;
        Ok(candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(&places, D::Minus1)?)
    }

    /// Logits after every token of each text, `[tokens, vocab]` row by row.
    #[cfg(test)]
    pub(super) fn logits(&self, text: &[u32]) -> Result<Vec<f32>, Error> {
        // One token more, which is predicted and not read.
        let tokens: Vec<u32> = text.iter().copied().chain([0]).collect();
        let texts = [Text {
            from: tokens.len() - 1,
            tokens,
            weight: 1.0,
        }];
        let batch = &self.batches(&texts)?[0];
        let mut h = self.embed(batch)?;
        for layer in 0..self.spec.layers.len() {
            h = self.layer(&Layer::of(self, layer), batch, &h)?;
        }
        let head = Head::of(self)?;
        let x = self.rms_norm(&h.reshape((text.len(), self.spec.hidden))?, &head.norm)?;
        let logits = scaled(x.matmul(&head.table.t()?)?, 1.0 / self.spec.logits_divisor)?;
        flat(&softcapped(logits, self.spec.final_softcap)?)
    }
}

const EMBEDDINGS: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// Texts that are computed side by side.
struct Batch {
    rows: usize,
    width: usize,
    /// `[rows, width]`.
    ids: Vec<u32>,
    /// Places in `ids` after which a token is learned, that token, and whose it is.
    wanted: Vec<u32>,
    targets: Vec<u32>,
    owners: Vec<usize>,
    /// By kind of rotation.
    rotations: Vec<Rotation>,
    /// By window.
    masks: Vec<(Option<usize>, Tensor)>,
}

/// cos and sin of every token, for operations of both kinds.
enum Rotation {
    /// `tokens × half`.
    Numbers(Arc<[f32]>, Arc<[f32]>),
    /// `[rows, 1, width, half]`.
    Tensors(Tensor, Tensor),
}

impl Batch {
    fn mask(&self, window: Option<usize>) -> &Tensor {
        let found = self.masks.iter().find(|(known, _)| *known == window);
        &found.expect("a batch has a mask for each layer's window").1
    }
}

/// The weights of one layer, by their names within it.
struct Layer {
    index: usize,
    weights: HashMap<String, Tensor>,
}

impl Layer {
    fn prefix(index: usize) -> String {
        format!("model.layers.{index}.")
    }

    fn named(twin: &Twin, index: usize) -> impl Iterator<Item = (&str, &Tensor)> {
        let prefix = Self::prefix(index);
        let of_layer = move |(name, tensor)| Some((str::strip_prefix(name, prefix.as_str())?, tensor));
        twin.weights.iter().map(|(n, t)| (n.as_str(), t)).filter_map(of_layer)
    }

    fn of(twin: &Twin, index: usize) -> Self {
        let weights = Self::named(twin, index).map(|(name, tensor)| (name.to_string(), tensor.clone()));
        Layer {
            index,
            weights: weights.collect(),
        }
    }

    /// The same as variables, and these by their whole names.
    fn variable(twin: &Twin, index: usize) -> Result<(Self, Vec<(String, Var)>), Error> {
        let (mut weights, mut variables) = (HashMap::new(), Vec::new());
        for (name, tensor) in Self::named(twin, index) {
            let variable = Var::from_tensor(tensor)?;
            weights.insert(name.to_string(), variable.as_tensor().clone());
            variables.push((Self::prefix(index) + name, variable));
        }
        Ok((Layer { index, weights }, variables))
    }

    fn get(&self, name: &str) -> Result<&Tensor, Error> {
        self.weights.get(name).ok_or_else(|| Error::Read {
            tensor: Self::prefix(self.index) + name,
            reason: "the layer has no such tensor".into(),
        })
    }

    /// `x · weightᵀ + bias` along the last axis.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.get(&format!("{name}.weight"))?;
        let (rows, width, inputs) = x.dims3()?;
        let out = x.reshape((rows * width, inputs))?.matmul(&weight.t()?)?;
        let out = match self.weights.get(&format!("{name}.bias")) {
            Some(bias) => out.broadcast_add(bias)?,
            None => out,
        };
        Ok(out.reshape((rows, width, weight.dim(0)?))?)
    }
}

/// The final norm and the output head.
struct Head {
    norm: Tensor,
    table: Tensor,
}

impl Head {
    fn of(twin: &Twin) -> Result<Self, Error> {
        let table = if twin.spec.tie_embeddings { EMBEDDINGS } else { HEAD };
        Ok(Head {
            norm: twin.weight(FINAL_NORM)?.clone(),
            table: twin.weight(table)?.clone(),
        })
    }

    fn variable(twin: &Twin) -> Result<Self, Error> {
        let head = Self::of(twin)?;
        let variable = |tensor: &Tensor| Ok::<_, Error>(Var::from_tensor(tensor)?.into_inner());
        Ok(Head {
            norm: variable(&head.norm)?,
            table: variable(&head.table)?,
        })
    }
}

/// The loss while it is added up.
struct Sum {
    /// By text: the factor of each of its log-likelihoods in the loss.
    factors: Vec<f64>,
    log_likelihoods: Vec<f64>,
}

impl Sum {
    fn new(texts: &[Text]) -> Self {
        let of_text = |text: &Text| text.weight.abs() * (text.tokens.len() - text.from.min(text.tokens.len())) as f64;
        let total: f64 = texts.iter().map(of_text).sum();
        Sum {
            factors: texts
                .iter()
                .map(|text| -text.weight / total.max(f64::MIN_POSITIVE))
                .collect(),
            log_likelihoods: vec![0.0; texts.len()],
        }
    }

    /// Takes the log-likelihoods of some tokens; gives their factors.
    fn add(&mut self, owners: &[usize], found: &[f32]) -> Vec<f32> {
        for (owner, found) in owners.iter().zip(found) {
            self.log_likelihoods[*owner] += f64::from(*found);
        }
        owners.iter().map(|owner| self.factors[*owner] as f32).collect()
    }

    fn finish(self) -> Loss {
        let shares = self.factors.iter().zip(&self.log_likelihoods);
        Loss {
            mean: shares.map(|(factor, log_likelihood)| factor * log_likelihood).sum(),
            log_likelihoods: self.log_likelihoods,
        }
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn zeros(like: &Tensor) -> Result<Tensor, Error> {
    Ok(Tensor::zeros(like.shape(), like.dtype(), like.device())?)
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

/// `[rows, width, heads · d]` → `[rows, heads, width, d]`.
fn split_heads(x: &Tensor, batch: &Batch, heads: usize) -> Result<Tensor, Error> {
    let d = x.dim(D::Minus1)? / heads;
    let x = x.contiguous()?.reshape((batch.rows, batch.width, heads, d))?;
    Ok(x.transpose(1, 2)?.contiguous()?)
}
