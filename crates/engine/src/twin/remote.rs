//! The twin on a device: candle's own operations, and its automatic differentiation.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Tensor, Var};

use super::{
    Back, Beside, Error, Gradients, Piece, Shares, Side, Sum, add_outer,
    batch::Batch,
    embeddings_name, head_bias_name, head_name,
    layer::{Algebra, Given, layer},
    logit_rows, pieces, positions_name,
    tape::{XIELU, has_weight},
    whole,
};
use crate::mixer::{Mixer, MixerKind};
use crate::recurrence::NO_LENGTH;
use crate::spec::{Activation, DecoderSpec, Experts, Keys, LayerSpec, NormKind, QueryGrowth, Router};

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
        self.tensor(format!("{name}.weight"))
    }

    fn tensor(&self, name: String) -> Result<&Tensor, Error> {
        self.weights.get(&name).ok_or(Error::Read {
            tensor: name,
            reason: "the layer has no such tensor".into(),
        })
    }

    fn ids(&self, rows: &[u32]) -> Result<Tensor, Error> {
        Ok(Tensor::from_slice(rows, rows.len(), self.device)?)
    }

    /// The chosen experts' weights as functions of the logits, `[n, experts]`, and 0 for the others. Which are chosen is a
    /// constant here.
    fn weights_of(&self, experts: &Experts, logits: &Tensor, chosen: &[Vec<usize>]) -> Result<Tensor, Error> {
        let count = experts.count;
        let mask = |is_in: &dyn Fn(usize, usize) -> bool| {
            let cells = (0..chosen.len() * count).map(|i| f32::from(u8::from(is_in(i / count, i % count))));
            Tensor::from_vec(cells.collect::<Vec<f32>>(), (chosen.len(), count), self.device)
        };
        let is_chosen = mask(&|row, expert| chosen[row].contains(&expert))?;
        if let Router::SparseMixer { jitter } = experts.router {
            let numbers: Vec<f32> = flat(logits)?;
            let mut sum = logits.zeros_like()?;
            for place in 0..experts.per_token {
                let is_in = |row: usize, expert: usize| {
                    let logits = &numbers[row * count..][..count];
                    crate::routing::is_nearly_as_good(logits, &chosen[row], place, expert, jitter)
                };
                let far = ((mask(&is_in)? - 1.0)? * 1e30)?;
                let shares = softmax(&(logits + far)?)?;
                sum = (sum + (shares * mask(&|row, expert| chosen[row][place] == expert)?)?)?;
            }
            return Ok(sum);
        }
        let scores = match experts.router {
            Router::Sigmoid { .. } => (logits.neg()?.exp()? + 1.0)?.recip()?,
            _ => softmax(logits)?,
        };
        let mut weights = (scores * is_chosen)?;
        if experts.normalised {
            let sum = (weights.sum_keepdim(D::Minus1)? + f64::from(experts.floor))?;
            weights = weights.broadcast_div(&sum)?;
        }
        Ok(scaled(weights, experts.scale)?)
    }

    /// `[rows, width, heads · d]` → `[rows, heads, width, d]`.
    fn heads(&self, x: &Tensor, heads: usize, d: usize) -> Result<Tensor, Error> {
        let (rows, width) = (self.batch.batch.rows, self.batch.batch.width);
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

    fn norm(&mut self, name: &str, kind: NormKind, x: &Tensor) -> Result<Tensor, Error> {
        let shape = x.dims3()?;
        let weight = match has_weight(kind) {
            true => Some(self.weight(name)?),
            false => None,
        };
        let n = weight.map_or(shape.2, Tensor::elem_count);
        let x = x.reshape((shape.0, shape.1, shape.2 / n, n))?;
        let bias = self.weights.get(&format!("{name}.bias"));
        Ok(normed(self.spec, kind, &x, weight, bias)?.reshape(shape)?)
    }

    fn norm_each(&mut self, names: &[String], kind: NormKind, d: usize, x: &Tensor) -> Result<Tensor, Error> {
        let shape = x.dims3()?;
        let weights = names.iter().map(|name| self.weight(name));
        let weights = match weights.collect::<Result<Vec<_>, _>>()? {
            none if none.is_empty() => None,
            weights => Some(Tensor::cat(&weights, 0)?.reshape(((), d))?),
        };
        let x = x.reshape((shape.0, shape.1, shape.2 / d, d))?;
        Ok(normed(self.spec, kind, &x, weights.as_ref(), None)?.reshape(shape)?)
    }

    fn token_rows(&mut self, table: &str) -> Result<Tensor, Error> {
        let Batch { rows, width, ids, .. } = self.batch.batch;
        let table = self.weight(table)?;
        let taken = table.index_select(&self.ids(ids)?, 0)?;
        Ok(taken.reshape((*rows, *width, table.dim(1)?))?)
    }

    fn scaled(&mut self, x: &Tensor, factor: f32) -> Result<Tensor, Error> {
        Ok(scaled(x.clone(), factor)?)
    }

    fn scaled_columns(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.broadcast_mul(self.tensor(name.into())?)?)
    }

    fn scaled_by(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.broadcast_mul(&self.tensor(name.into())?.reshape((1, 1, 1))?)?)
    }

    fn hold(&mut self, x: &Tensor, limit: f32) -> Result<Tensor, Error> {
        Ok(x.clamp(-limit, limit)?)
    }

    fn grow(&mut self, x: &Tensor, growth: QueryGrowth) -> Result<Tensor, Error> {
        let width = self.batch.batch.width;
        let factors: Vec<f32> = (0..width).map(|place| growth.at(place)).collect();
        Ok(x.broadcast_mul(&Tensor::from_vec(factors, (1, width, 1), self.device)?)?)
    }

    fn part(&mut self, x: &Tensor, from: usize, len: usize) -> Result<Tensor, Error> {
        Ok(x.narrow(D::Minus1, from, len)?.contiguous()?)
    }

    /// The pairs `(i, i + half)` of each head's first `2 · half` dimensions.
    fn rotate(&mut self, x: &Tensor, rope: usize, d: usize) -> Result<Tensor, Error> {
        let (cos, sin) = &self.batch.rotations[rope];
        let (shape, half) = (x.dims3()?, cos.dim(D::Minus1)?);
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

    fn attend(
        &mut self,
        layer: &LayerSpec,
        q: &Tensor,
        [k, v]: &[Tensor; 2],
        sinks: Option<&str>,
    ) -> Result<Tensor, Error> {
        let (spec, Batch { rows, width, .. }) = (self.spec, self.batch.batch);
        let (kv_heads, d) = (layer.kv_heads, layer.head_dim);
        let (queries, keys, values) = (
            self.heads(q, spec.heads, d)?,
            self.heads(k, kv_heads, d)?,
            self.heads(v, kv_heads, d)?,
        );
        // Query heads that share a key head stand one after the other.
        let group = spec.heads / kv_heads;
        let queries = queries.reshape((*rows, kv_heads, group * width, d))?;
        let scores = scaled(queries.matmul(&keys.t()?)?, spec.attention_scale)?;
        let scores = softcapped(scores, spec.attention_softcap)?;
        let scores = scores.reshape((rows * spec.heads, *width, *width))?;
        let scores = scores.broadcast_add(&self.batch.mask(layer.window, self.device)?)?;
        let weights = match sinks {
            None => softmax(&scores)?,
            Some(name) => {
                // A column more, which nothing stands behind.
                let sinks = self.tensor(name.into())?.reshape((1, spec.heads, 1, 1))?;
                let sinks = sinks.broadcast_as((*rows, spec.heads, *width, 1))?.contiguous()?;
                let sinks = sinks.reshape((rows * spec.heads, *width, 1))?;
                let weights = softmax(&Tensor::cat(&[&scores, &sinks], D::Minus1)?)?;
                weights.narrow(D::Minus1, 0, *width)?.contiguous()?
            }
        };
        let weights = weights.reshape((*rows, kv_heads, group * width, *width))?;
        let out = weights.matmul(&values)?;
        let out = out.reshape((*rows, spec.heads, *width, d))?;
        let out = out.transpose(1, 2)?.contiguous()?;
        Ok(out.reshape((*rows, *width, spec.heads * d))?)
    }

    fn gate(&mut self, gate: &Tensor, up: Option<&Tensor>) -> Result<Tensor, Error> {
        let gate = match self.spec.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu(),
            Activation::GeluErf => gate.gelu_erf(),
            Activation::Relu => gate.relu(),
            Activation::Relu2 => gate.relu()?.sqr(),
            Activation::Clamped { alpha, limit } => {
                let held = gate.minimum(f64::from(limit))?;
                let turned = (held.affine(f64::from(-alpha), 0.0)?.exp()? + 1.0)?;
                let up = match up {
                    Some(up) => (up.clamp(-limit, limit)? + 1.0)?,
                    None => held.ones_like()?,
                };
                return Ok((held / turned)?.mul(&up)?);
            }
            // It has numbers of its own.
            Activation::Xielu(_) => Ok(gate.clone()),
        }?;
        Ok(match up {
            Some(up) => (gate * up)?,
            None => gate,
        })
    }

    fn xielu(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let number = |i: usize| Ok::<_, Error>(self.tensor(format!("{name}.{}", XIELU[i]))?.reshape((1, 1, 1))?);
        let softplus = |x: Tensor| (x.exp()? + 1.0)?.log();
        let beta = number(2)?;
        let (p, n) = (softplus(number(0)?)?, (softplus(number(1)?)? + &beta)?);
        let is_above = x.gt(0.0)?.to_dtype(DType::F32)?;
        let is_below = (is_above.ones_like()? - &is_above)?;
        let held = x.broadcast_minimum(&number(3)?)?;
        let above = x.sqr()?.broadcast_mul(&p)?.mul(&is_above)?;
        let below = ((held.exp()? - 1.0)? - x)?.broadcast_mul(&n)?.mul(&is_below)?;
        Ok(((above + below)? + x.broadcast_mul(&beta)?)?)
    }

    fn route(
        &mut self,
        experts: &Experts,
        logits: &Tensor,
        correction: Option<&str>,
    ) -> Result<(Tensor, Vec<Vec<u32>>), Error> {
        let logits = logits.reshape(((), experts.count))?;
        let correction = match correction {
            None => Vec::new(),
            Some(name) => flat(self.tensor(name.into())?)?,
        };
        let isa = heterosis_isa::Isa::best();
        let numbers = flat(&logits)?;
        let routes = numbers
            .chunks(experts.count)
            .map(|row| experts.routes(isa, row, &correction));
        let chosen: Vec<Vec<usize>> = routes
            .map(|routes| routes.iter().map(|route| route.expert).collect())
            .collect();
        let mut by_expert = vec![Vec::new(); experts.count];
        for (row, chosen) in chosen.iter().enumerate() {
            chosen.iter().for_each(|expert| by_expert[*expert].push(row as u32));
        }
        Ok((self.weights_of(experts, &logits, &chosen)?, by_expert))
    }

    fn rows(&mut self, x: &Tensor, rows: &[u32]) -> Result<Tensor, Error> {
        let cols = x.dim(D::Minus1)?;
        let taken = x.reshape(((), cols))?.index_select(&self.ids(rows)?, 0)?;
        Ok(taken.reshape((1, rows.len(), cols))?)
    }

    fn mix(&mut self, weights: &Tensor, parts: Vec<(usize, Vec<u32>, Tensor)>) -> Result<Tensor, Error> {
        let Batch { rows, width, .. } = self.batch.batch;
        let cols = self.spec.hidden;
        let mut out = Tensor::zeros((rows * width, cols), DType::F32, self.device)?;
        for (expert, rows, part) in parts {
            let ids = self.ids(&rows)?;
            let weights = weights.narrow(1, expert, 1)?.contiguous()?.index_select(&ids, 0)?;
            let part = part.reshape((rows.len(), cols))?.broadcast_mul(&weights)?;
            out = out.index_add(&ids, &part, 0)?;
        }
        Ok(out.reshape((*rows, *width, cols))?)
    }

    fn weigh(&mut self, x: &Tensor, number: &Tensor) -> Result<Tensor, Error> {
        Ok(x.broadcast_div(&(number.neg()?.exp()? + 1.0)?)?)
    }

    fn convolve(&mut self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (rows, width, channels) = x.dims3()?;
        let weight = self.weight(name)?;
        let kernel = weight.elem_count() / channels;
        let weight = weight.reshape((channels, kernel))?;
        let before = Tensor::zeros((rows, kernel - 1, channels), DType::F32, self.device)?;
        let x = match kernel {
            1 => x.clone(),
            _ => Tensor::cat(&[&before, x], 1)?,
        };
        let mut sum = Tensor::zeros((rows, width, channels), DType::F32, self.device)?;
        for place in 0..kernel {
            let weight = weight.narrow(1, place, 1)?.reshape((1, 1, channels))?;
            sum = (sum + x.narrow(1, place, width)?.broadcast_mul(&weight)?)?;
        }
        Ok(match self.weights.get(&format!("{name}.bias")) {
            Some(bias) => sum.broadcast_add(bias)?,
            None => sum,
        })
    }

    fn remember(
        &mut self,
        mixer: &Mixer,
        name: &str,
        mixed: &Tensor,
        strengths: Option<&Tensor>,
        steps: &Tensor,
    ) -> Result<Tensor, Error> {
        let number = |number: &str| self.tensor(format!("{name}.{number}"));
        let (rows, width, _) = mixed.dims3()?;
        let (heads, keys, values) = (mixer.heads, mixer.key_heads * mixer.key_dim, mixer.width());
        let is_delta = mixer.kind == MixerKind::DeltaNet;
        let (queries_at, keys_at, values_at) = match is_delta {
            true => (0, keys, 2 * keys),
            false => (values + keys, values, 0),
        };
        let part = |from: usize, len: usize| mixed.narrow(D::Minus1, from, len)?.contiguous();
        let of_key_heads = |from: usize, factor: f64| {
            let shape = (rows, width, mixer.key_heads, 1, mixer.key_dim);
            let mut x = part(from, keys)?.reshape(shape)?;
            if is_delta {
                let squares = (x.sqr()?.sum_keepdim(D::Minus1)? + f64::from(NO_LENGTH))?;
                x = (x.broadcast_div(&squares.sqrt()?)? * factor)?;
            }
            let shared = (rows, width, mixer.key_heads, heads / mixer.key_heads, mixer.key_dim);
            x.broadcast_as(shared)?
                .contiguous()?
                .reshape((rows, width, heads, mixer.key_dim, 1))
        };
        let queries = of_key_heads(queries_at, (mixer.key_dim as f64).powf(-0.5))?;
        let keys = of_key_heads(keys_at, 1.0)?;
        let values = part(values_at, values)?.reshape((rows, width, heads, 1, mixer.value_dim))?;
        let steps = softplus(&steps.broadcast_add(number("dt_bias")?)?)?;
        let decays = steps.broadcast_mul(&number("A_log")?.exp()?)?.neg()?.exp()?;
        let strengths = match strengths {
            Some(strengths) => self.sigmoid(strengths)?,
            None => steps,
        };
        let by_head = |x: Tensor| x.reshape((rows, width, heads, 1, 1));
        let (decays, strengths) = (by_head(decays)?, by_head(strengths)?);
        let mut matrix = Tensor::zeros((rows, heads, mixer.key_dim, mixer.value_dim), DType::F32, self.device)?;
        let mut read = Vec::new();
        for place in 0..width {
            let at = |x: &Tensor| x.narrow(1, place, 1)?.squeeze(1);
            let (key, mut news) = (at(&keys)?, at(&values)?);
            matrix = matrix.broadcast_mul(&at(&decays)?)?;
            if is_delta {
                news = (news - matrix.broadcast_mul(&key)?.sum_keepdim(2)?)?;
            }
            let written = news.broadcast_mul(&at(&strengths)?)?;
            matrix = (matrix + key.broadcast_mul(&written)?)?;
            read.push(matrix.broadcast_mul(&at(&queries)?)?.sum_keepdim(2)?);
        }
        let mut read = Tensor::stack(&read, 1)?;
        if mixer.kind == MixerKind::Mamba2 {
            let skip = self.tensor(format!("{name}.D"))?.reshape((1, 1, heads, 1, 1))?;
            read = (read + values.broadcast_mul(&skip)?)?;
        }
        Ok(read.reshape((rows, width, mixer.width()))?)
    }

    fn times(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        Ok((a * b)?)
    }

    fn sigmoid(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok((x.neg()?.exp()? + 1.0)?.recip()?)
    }

    fn plus(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        Ok((a + b)?)
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

    /// The weights of a layer by their names within it, each through `f`.
    fn of_layer(
        &self,
        spec: &DecoderSpec,
        index: usize,
        f: impl Fn(&Tensor) -> Result<Tensor, Error>,
    ) -> Result<HashMap<String, Tensor>, Error> {
        let of_piece = |piece: Piece| {
            let whole = self.weight(&piece.tensor)?;
            let part = match &piece.range {
                None => whole.clone(),
                // All layers read it.
                Some(_) if whole.rank() == 1 => whole.clone(),
                // The first axis counts experts, or layers.
                Some(range) => whole.get(range.start / piece.len)?.contiguous()?,
            };
            Ok((piece.name, f(&part)?))
        };
        pieces(spec, index).into_iter().map(of_piece).collect()
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

    /// Final norm and head, each tensor through `f`.
    fn head_weights(
        &self,
        spec: &DecoderSpec,
        f: impl Fn(&Tensor) -> Result<Tensor, Error>,
    ) -> Result<HeadWeights, Error> {
        let norm = spec.names().norm;
        let bias = matches!(spec.norm, NormKind::Layer { bias: true, .. });
        let names = [
            has_weight(spec.norm).then(|| format!("{norm}.weight")),
            bias.then(|| format!("{norm}.bias")),
            head_bias_name(spec),
            Some(head_name(spec)),
        ];
        let named = |name: Option<String>| match name {
            None => Ok(None),
            Some(name) => Ok::<_, Error>(Some((f(self.weight(&name)?)?, name))),
        };
        let [norm, norm_bias, bias, table] = names;
        Ok(HeadWeights([
            named(norm)?,
            named(norm_bias)?,
            named(bias)?,
            named(table)?,
        ]))
    }

    /// Log-probabilities of a stretch's targets, each the sum over its shares, `[rows, 1]`.
    fn log_probabilities(
        &self,
        spec: &DecoderSpec,
        h: &Tensor,
        head: &HeadWeights,
        wanted: &[u32],
        targets: &[Shares],
    ) -> Result<Tensor, Error> {
        let logits = head.logits(spec, &self.rows_of(spec, h, wanted)?)?;
        // Rows as long as the longest; what fills one up has a share of 0.
        let most = targets.iter().map(Vec::len).max().unwrap_or(1);
        let filled = |target: &Shares| {
            target
                .iter()
                .copied()
                .chain([(0, 0.0)].into_iter().cycle())
                .take(most)
                .collect()
        };
        let filled: Vec<Shares> = targets.iter().map(filled).collect();
        let (tokens, shares): (Vec<u32>, Vec<f32>) = filled.concat().into_iter().unzip();
        let places = Tensor::from_vec(tokens, (targets.len(), most), &self.device)?;
        let shares = Tensor::from_vec(shares, (targets.len(), most), &self.device)?;
        let found = candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&places, D::Minus1)?;
        Ok((found * shares)?.sum_keepdim(D::Minus1)?)
    }

    fn rows_of(&self, spec: &DecoderSpec, h: &Tensor, wanted: &[u32]) -> Result<Tensor, Error> {
        let wanted = Tensor::from_slice(wanted, wanted.len(), &self.device)?;
        Ok(h.reshape(((), spec.hidden))?.index_select(&wanted, 0)?)
    }
}

/// The final norm's weight and bias, the head's bias and its table, where there are such, with their names.
struct HeadWeights([Option<(Tensor, String)>; 4]);

impl HeadWeights {
    fn logits(&self, spec: &DecoderSpec, h: &Tensor) -> Result<Tensor, Error> {
        let [norm, norm_bias, bias, table] = self.0.each_ref().map(|known| known.as_ref().map(|(tensor, _)| tensor));
        let mut logits = normed(spec, spec.norm, h, norm, norm_bias)?;
        if let Some(table) = table {
            logits = logits.matmul(&table.t()?)?;
        }
        if let Some(bias) = bias {
            logits = logits.broadcast_add(bias)?;
        }
        Ok(softcapped(
            scaled(logits, 1.0 / spec.logits_divisor)?,
            spec.final_softcap,
        )?)
    }

    fn iter(&self) -> impl Iterator<Item = &(Tensor, String)> {
        self.0.iter().flatten()
    }
}

impl Side for Remote {
    type State = Tensor;
    type Noted = Tensor;

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
        let rows = self.weight(&embeddings_name(spec))?.index_select(&ids, 0)?;
        let h = scaled(rows.reshape((batch.rows, batch.width, spec.hidden))?, spec.embed_scale)?;
        match positions_name(spec) {
            None => Ok(h),
            Some(name) => Ok(h.broadcast_add(&self.weight(&name)?.narrow(0, 0, batch.width)?)?),
        }
    }

    fn layer(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: &Tensor,
        beside: &mut Beside<Tensor>,
    ) -> Result<Tensor, Error> {
        let weights = self.of_layer(spec, index, |tensor| Ok(tensor.clone()))?;
        let given = given(spec, index, h, beside, |tensor| Ok(tensor.clone()))?;
        let out = layer(spec, index, &mut self.composed(spec, batch, &weights)?, given)?;
        if let Some(both) = out.keys_and_values.filter(|_| spec.lends_keys(index)) {
            beside.lent.insert(index, both);
        }
        Ok(out.h)
    }

    fn layer_noted(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: Tensor,
        beside: &mut Beside<Tensor>,
        _: bool,
    ) -> Result<(Tensor, Tensor), Error> {
        let out = self.layer(spec, index, batch, &h, beside)?;
        Ok((h, out))
    }

    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        inputs: Vec<Tensor>,
        back: &mut Back<'_, Tensor>,
    ) -> Result<Gradients, Error> {
        let weights = self.of_layer(spec, index, variable)?;
        let mut gradients: HashMap<&str, Tensor> = HashMap::new();
        for (i, (batch, input)) in batches.iter().zip(inputs).enumerate() {
            let given = given(spec, index, &input, &back.beside[i], variable)?;
            let (h, embedded, others) = (given.h.clone(), given.embedded.clone(), given.keys_and_values.clone());
            let out = layer(spec, index, &mut self.composed(spec, batch, &weights)?, given)?;
            let of_beside = &mut back.of_beside[i];
            let mut along = (out.h * &back.upstream[i])?.sum_all()?;
            if let (Some(both), Some(of_both)) = (out.keys_and_values, of_beside.lent.remove(&index)) {
                for (lent, of_lent) in both.iter().zip(&of_both) {
                    along = (along + (lent * of_lent)?.sum_all()?)?;
                }
            }
            let of_batch = along.backward()?;
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
            let of_given = |x: &Tensor| match of_batch.get(x) {
                Some(gradient) => Ok(gradient.clone()),
                None => x.zeros_like(),
            };
            back.upstream[i] = of_given(&h)?;
            if let Some(embedded) = embedded {
                let of_embedded = of_given(&embedded)?;
                of_beside.embedded = Some(match of_beside.embedded.take() {
                    Some(sum) => (sum + of_embedded)?,
                    None => of_embedded,
                });
            }
            if let (Some([k, v]), Keys::Of(source)) = (others, spec.layers[index].keys) {
                let [of_k, of_v] = [of_given(&k)?, of_given(&v)?];
                let of_both = match of_beside.lent.remove(&source) {
                    Some([k, v]) => [(k + of_k)?, (v + of_v)?],
                    None => [of_k, of_v],
                };
                of_beside.lent.insert(source, of_both);
            }
        }
        let named = gradients
            .into_iter()
            .map(|(name, gradient)| Ok((name.to_string(), flat(&gradient)?)));
        let mut named: HashMap<String, Vec<f32>> = named.collect::<Result<_, Error>>()?;
        let pieces = pieces(spec, index);
        add_outer(spec, &pieces, &mut named, back.outer);
        Ok(whole(&pieces, named))
    }

    fn sum(&self, a: Tensor, b: Tensor) -> Result<Tensor, Error> {
        Ok((a + b)?)
    }

    fn logits_after(&self, spec: &DecoderSpec, h: &Tensor, wanted: &[u32]) -> Result<Vec<f32>, Error> {
        let head = self.head_weights(spec, |tensor| Ok(tensor.clone()))?;
        flat(&head.logits(spec, &self.rows_of(spec, h, wanted)?)?)
    }

    fn head(&self, spec: &DecoderSpec, batch: &Batch, h: &Tensor, sum: &mut Sum) -> Result<(), Error> {
        let head = self.head_weights(spec, |tensor| Ok(tensor.clone()))?;
        for rows in logit_rows(spec, batch) {
            let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
            let found = self.log_probabilities(spec, h, &head, wanted, targets)?;
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
        let head = self.head_weights(spec, variable)?;
        let zeros = head.iter().map(|(weight, _)| weight.zeros_like());
        let mut of_head = zeros.collect::<candle_core::Result<Vec<Tensor>>>()?;
        let mut upstream = Vec::new();
        for (batch, h) in batches.iter().zip(outputs) {
            let h = variable(&h)?;
            let mut of_h = h.zeros_like()?;
            for rows in logit_rows(spec, batch) {
                let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
                let found = self.log_probabilities(spec, &h, &head, wanted, targets)?;
                let slopes = sum.add(&batch.owners[rows], &flat(&found)?);
                let slopes = Tensor::from_vec(slopes, found.shape(), &self.device)?;
                let gradients = (found * slopes)?.sum_all()?.backward()?;
                let weights = head.iter().map(|(weight, _)| weight);
                for (sum, of) in of_head.iter_mut().zip(weights).chain([(&mut of_h, &h)]) {
                    if let Some(gradient) = gradients.get(of) {
                        *sum = (&*sum + gradient)?;
                    }
                }
            }
            upstream.push(of_h);
        }
        let named = head
            .iter()
            .zip(&of_head)
            .map(|((_, name), of)| Ok((name.clone(), flat(of)?)));
        Ok((upstream, named.collect::<Result<_, Error>>()?))
    }

    fn embed_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        upstream: Vec<Tensor>,
        table: Option<Vec<f32>>,
    ) -> Result<Gradients, Error> {
        let shape = (spec.vocab, spec.hidden);
        let mut table = match table {
            Some(table) => Tensor::from_vec(table, shape, &self.device)?,
            None => Tensor::zeros(shape, DType::F32, &self.device)?,
        };
        let mut learned = positions_name(spec).map(|_| vec![0.0; spec.max_positions * spec.hidden]);
        for (batch, upstream) in batches.iter().zip(upstream) {
            if let Some(learned) = &mut learned {
                let of_rows = flat(&upstream.sum(0)?)?;
                learned.iter_mut().zip(of_rows).for_each(|(sum, x)| *sum += x);
            }
            let ids = Tensor::from_slice(&batch.ids, batch.ids.len(), &self.device)?;
            let rows = upstream.reshape((batch.ids.len(), spec.hidden))?.contiguous()?;
            table = table.index_add(&ids, &scaled(rows, spec.embed_scale)?, 0)?;
        }
        let table = [(embeddings_name(spec), flat(&table)?)];
        Ok(table.into_iter().chain(positions_name(spec).zip(learned)).collect())
    }
}

/// What goes into a layer, each tensor through `f`.
fn given(
    spec: &DecoderSpec,
    index: usize,
    h: &Tensor,
    beside: &Beside<Tensor>,
    f: impl Fn(&Tensor) -> Result<Tensor, Error>,
) -> Result<Given<Tensor>, Error> {
    Ok(Given {
        h: f(h)?,
        embedded: beside.embedded.as_ref().map(&f).transpose()?,
        keys_and_values: match beside.lent_to(&spec.layers[index]) {
            Some([k, v]) => Some([f(k)?, f(v)?]),
            None => None,
        },
    })
}

fn variable(tensor: &Tensor) -> Result<Tensor, Error> {
    Ok(Var::from_tensor(tensor)?.into_inner())
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// A norm along the last axis: `x / √(mean(x²) + ε) · weight + bias`, of x less its mean where it is about that.
fn normed(
    spec: &DecoderSpec,
    kind: NormKind,
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Tensor, Error> {
    let x = match kind {
        NormKind::Rms | NormKind::RmsAsStored => x.clone(),
        NormKind::Layer { .. } => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
    };
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
    let mut x = x.broadcast_div(&(mean + f64::from(spec.norm_eps))?.sqrt()?)?;
    if let Some(weight) = weight {
        x = match spec.norm_plus_one && kind != NormKind::RmsAsStored {
            true => x.broadcast_mul(&(weight + 1.0)?)?,
            false => x.broadcast_mul(weight)?,
        };
    }
    Ok(match bias {
        Some(bias) => x.broadcast_add(bias)?,
        None => x,
    })
}

/// `ln(1 + eˣ)`.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
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
