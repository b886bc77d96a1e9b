//! The decoder: one forward pass for every family, over a packed batch of tokens from many rows.
//!
//! A batch is a list of `Chunk`s: consecutive new tokens of a row, the segments that the row shares with others, and the
//! segment it owns. There is no padding. Weights are repacked once when they are set; whoever changes one holds the decoder
//! alone (`&mut`), and keys and values never outlive a call of the engine, so nothing computed with old weights survives.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::Error;
use super::attention::{Attention, RowView, Settings};
use super::kernels::{self, Linear, Matrix, PackedRows, Threads};
use super::kv::{BLOCK, KvShape, Segment};
use super::rope::{RopeTable, Scaling};
use super::spec::{DecoderSpec, Family, QkNorm};

/// What weights are rounded to when they are set. The arithmetic of the CPU is f32 in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    Bf16,
    F16,
}

/// Models up to this size are computed with the batch split between threads (each runs all layers, no meeting points);
/// larger ones with each matrix split, so that their weights are read from memory once.
const SPLIT_BATCH_BELOW_BYTES: usize = 24 << 20;

/// A model in memory, ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    dtype: DType,
    /// `[vocab, hidden]`; empty when the head is tied, whose panels then serve both.
    embeddings: Vec<f32>,
    head: Linear,
    final_norm: Vec<f32>,
    layers: Vec<Layer>,
    ropes: Vec<RopeTable>,
    path: Vec<Step>,
    epoch: u64,
    threads: usize,
    /// Buffers of forward passes that are over, to be used again.
    workspaces: Mutex<Vec<Workspace>>,
}

/// What a forward pass keeps between operations.
#[derive(Default)]
struct Workspace {
    h: Matrix,
    x: Matrix,
    packed: PackedRows,
    qkv: Matrix,
    attended: Matrix,
    gate_up: Matrix,
    inner: Matrix,
    branch: Matrix,
}

struct Layer {
    qkv: Linear,
    o: Linear,
    gate_up: Linear,
    down: Linear,
    /// Empty where the family has none.
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    /// Before and after attention, before and after the MLP; empty where the family has none.
    norms: [Vec<f32>; 4],
}

/// One stop of the layer path: which layer, and by what its input is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub layer: usize,
    pub input_scale: f32,
}

/// New tokens of one row.
pub(super) struct Chunk<'a> {
    pub tokens: &'a [u32],
    /// What the row shares with others, in order; complete.
    pub prefix: &'a [Arc<Segment>],
    /// The row's own keys and values, with room for `tokens`.
    pub own: &'a mut Segment,
    /// Length of the sequence that decides on rotations that depend on it.
    pub length: usize,
    /// The first of `tokens` whose hidden state is wanted (`tokens.len()`: none).
    pub wanted_from: usize,
}

impl Chunk<'_> {
    fn own_start(&self) -> usize {
        self.prefix.iter().map(|segment| segment.len).sum()
    }

    fn start(&self) -> usize {
        self.own_start() + self.own.len
    }

    fn view(&self) -> RowView<'_> {
        RowView {
            prefix: self.prefix,
            own: &self.own.blocks,
            own_start: self.own_start(),
        }
    }
}

impl Decoder {
    /// Builds the decoder and reads every tensor of [`DecoderSpec::tensor_names`] with `read`.
    ///
    /// **Errors** name the tensor that is missing or has another size than config.json says.
    pub fn load(
        spec: DecoderSpec,
        device: &candle_core::Device,
        dtype: DType,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        if !device.is_cpu() {
            return Err(Error::Device {
                what: "the decoder".into(),
                device: format!("{:?}", device.location()),
            });
        }
        let mut decoder = Self::empty(spec, dtype)?;
        for (name, _) in decoder.spec.tensor_names() {
            let data = read(&name).map_err(|reason| Error::Read {
                tensor: name.clone(),
                reason,
            })?;
            decoder.set_tensor(&name, &data)?;
        }
        Ok(decoder)
    }

    /// A decoder with all weights zero.
    fn empty(spec: DecoderSpec, dtype: DType) -> Result<Self, Error> {
        for rope in &spec.ropes {
            rope.validate(spec.head_dim)?;
        }
        let (h, q, kv) = (spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let names = spec.layer_norms();
        let layer = || Layer {
            qkv: Linear::zeros(h, q + 2 * kv, spec.qkv_bias),
            o: Linear::zeros(q, h, spec.o_bias),
            gate_up: Linear::zeros(h, 2 * spec.intermediate, spec.mlp_bias),
            down: Linear::zeros(spec.intermediate, h, spec.mlp_bias),
            q_norm: vec![
                0.0;
                match spec.qk_norm {
                    QkNorm::None => 0,
                    QkNorm::PerHead => spec.head_dim,
                    QkNorm::FullWidth => q,
                }
            ],
            k_norm: vec![
                0.0;
                match spec.qk_norm {
                    QkNorm::None => 0,
                    QkNorm::PerHead => spec.head_dim,
                    QkNorm::FullWidth => kv,
                }
            ],
            norms: names.map(|name| vec![0.0; if name.is_some() { h } else { 0 }]),
        };
        Ok(Decoder {
            dtype,
            embeddings: vec![0.0; if spec.tie_embeddings { 0 } else { spec.vocab * h }],
            head: Linear::zeros(h, spec.vocab, false),
            final_norm: vec![0.0; h],
            layers: spec.layers.iter().map(|_| layer()).collect(),
            ropes: spec.ropes.iter().cloned().map(RopeTable::new).collect(),
            path: (0..spec.layers.len())
                .map(|layer| Step {
                    layer,
                    input_scale: 1.0,
                })
                .collect(),
            epoch: 0,
            threads: rayon::current_num_threads(),
            workspaces: Mutex::default(),
            spec,
        })
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// How often a weight or the path has changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether `name` is one of the decoder's tensors; a tied `lm_head.weight` and stored RoPE tables are not.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.shape_of(name).is_some()
    }

    /// Replaces one tensor, by its Hugging Face name, in place. A tied head changes with the embeddings.
    ///
    /// **Errors** an unknown name, a wrong number of elements.
    pub fn set_tensor(&mut self, name: &str, data: &[f32]) -> Result<(), Error> {
        let unknown = || Error::UnknownTensor {
            tensor: name.into(),
            family: self.spec.family.name(),
            layers: self.spec.layers.len(),
        };
        let shape = self.shape_of(name).ok_or_else(unknown)?;
        let expected = shape.iter().product();
        if data.len() != expected {
            return Err(Error::TensorSize {
                tensor: name.into(),
                shape,
                expected,
                got: data.len(),
            });
        }
        self.epoch += 1;
        let rounded;
        let data = match self.dtype {
            DType::F32 => data,
            DType::Bf16 => {
                rounded = data
                    .iter()
                    .map(|x| half::bf16::from_f32(*x).to_f32())
                    .collect::<Vec<_>>();
                &rounded
            }
            DType::F16 => {
                rounded = data
                    .iter()
                    .map(|x| half::f16::from_f32(*x).to_f32())
                    .collect::<Vec<_>>();
                &rounded
            }
        };
        self.write(name, data);
        Ok(())
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        // All layers have the same shapes: look the name up in a model of one layer.
        let (first, layer) = match split_layer(name) {
            Some((layer, rest)) => (format!("model.layers.0.{rest}"), layer),
            None => (name.to_string(), 0),
        };
        if layer >= self.spec.layers.len() {
            return None;
        }
        let one = DecoderSpec {
            layers: self.spec.layers[..1].to_vec(),
            ..self.spec.clone()
        };
        one.tensor_names()
            .into_iter()
            .find(|(known, _)| *known == first)
            .map(|(_, shape)| shape)
    }

    /// Writes rounded data whose name and size are known to be right.
    fn write(&mut self, name: &str, data: &[f32]) {
        let spec = &self.spec;
        let (q, kv, inter) = (
            spec.heads * spec.head_dim,
            spec.kv_heads * spec.head_dim,
            spec.intermediate,
        );
        let norm = |slot: &mut Vec<f32>| {
            let shift = if spec.norm_plus_one { 1.0 } else { 0.0 };
            slot.iter_mut().zip(data).for_each(|(slot, w)| *slot = shift + w);
        };
        let Some((layer, rest)) = split_layer(name) else {
            match name {
                "model.embed_tokens.weight" if spec.tie_embeddings => self.head.set_rows(0, data),
                "model.embed_tokens.weight" => self.embeddings.copy_from_slice(data),
                "lm_head.weight" => self.head.set_rows(0, data),
                _ => norm(&mut self.final_norm),
            }
            return;
        };
        let layer = &mut self.layers[layer];
        let (stem, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
        let mut linear = |which: fn(&mut Layer) -> &mut Linear, first: usize| match kind {
            "bias" => which(layer).set_bias(first, data),
            _ => which(layer).set_rows(first, data),
        };
        match stem {
            "self_attn.q_proj" | "self_attn.qkv_proj" => linear(|l| &mut l.qkv, 0),
            "self_attn.k_proj" => linear(|l| &mut l.qkv, q),
            "self_attn.v_proj" => linear(|l| &mut l.qkv, q + kv),
            "self_attn.o_proj" => linear(|l| &mut l.o, 0),
            "mlp.gate_proj" | "mlp.gate_up_proj" => linear(|l| &mut l.gate_up, 0),
            "mlp.up_proj" => linear(|l| &mut l.gate_up, inter),
            "mlp.down_proj" => linear(|l| &mut l.down, 0),
            "self_attn.q_norm" => norm(&mut layer.q_norm),
            "self_attn.k_norm" => norm(&mut layer.k_norm),
            _ => {
                if let Some(i) = spec.layer_norms().iter().position(|name| *name == Some(stem)) {
                    norm(&mut layer.norms[i]);
                }
            }
        }
    }

    /// Sets which layer comes after which (the data-flow space); a layer may come several times.
    pub fn set_path(&mut self, path: Vec<Step>) -> Result<(), Error> {
        let layers = self.layers.len();
        if let Some(step) = path.iter().find(|step| step.layer >= layers) {
            return Err(Error::Path {
                layer: step.layer,
                layers,
            });
        }
        self.path = path;
        self.epoch += 1;
        Ok(())
    }

    /// The path that is set.
    pub(super) fn path(&self) -> &[Step] {
        &self.path
    }

    /// Exchanges the final norm; an empty one is none.
    pub(super) fn swap_final_norm(&mut self, norm: &mut Vec<f32>) {
        std::mem::swap(&mut self.final_norm, norm);
    }

    /// How many threads to compute with; the result does not depend on it.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
    }

    pub(super) fn kv_shape(&self) -> KvShape {
        KvShape::new(self.path.len(), self.spec.kv_heads, self.spec.head_dim)
    }

    /// Bytes of keys and values that one token of context takes, not counting a half-filled block.
    pub fn kv_bytes_per_token(&self) -> u64 {
        self.kv_shape().block_bytes() / BLOCK as u64
    }

    /// Sequences of different regimes rotate differently and cannot share a prefix.
    pub(super) fn rope_regime(&self, length: usize) -> usize {
        self.ropes.iter().map(|rope| rope.regime(length)).max().unwrap_or(0)
    }

    /// The length beyond which a growing row is computed anew from its first token: Phi-3 never mixes short and long
    /// LongRoPE factors in one row.
    pub(super) fn recompute_beyond(&self) -> Option<usize> {
        match self.spec.ropes.first().map(|rope| &rope.scaling) {
            Some(Scaling::Long { original, .. }) if self.spec.family == Family::Phi3 => Some(*original),
            _ => None,
        }
    }

    /// Prepares the rotary tables for sequences of up to `positions` tokens.
    pub(super) fn prepare(&mut self, positions: usize) {
        self.ropes.iter_mut().for_each(|rope| rope.extend(positions));
    }

    /// Runs the layers over a batch and returns the normed hidden states of the wanted tokens, in order. Keys and values of
    /// all tokens are added to the chunks' own segments.
    pub(super) fn forward(&self, chunks: &mut [Chunk]) -> Matrix {
        let tokens: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if self.threads == 1 || !self.splits_batch() || tokens < 2 {
            return self.forward_part(chunks, Threads(self.threads));
        }
        // Cut where the tokens, in order, reach each thread's share.
        let mut parts: Vec<&mut [Chunk]> = Vec::new();
        let (mut rest, mut taken) = (chunks, 0);
        for part in 1..=self.threads {
            let target = tokens * part / self.threads;
            let count = rest
                .iter()
                .scan(taken, |sum, c| {
                    *sum += c.tokens.len();
                    Some(*sum)
                })
                .take_while(|sum| *sum <= target)
                .count();
            let (mine, others) = rest.split_at_mut(if part == self.threads { rest.len() } else { count });
            taken += mine.iter().map(|c| c.tokens.len()).sum::<usize>();
            parts.push(mine);
            rest = others;
        }
        parts.retain(|part| !part.is_empty());
        let states: Vec<Matrix> = parts
            .into_par_iter()
            .map(|part| self.forward_part(part, Threads(1)))
            .collect();
        let data: Vec<f32> = states.into_iter().flat_map(|part| part.data).collect();
        Matrix {
            rows: data.len() / self.spec.hidden,
            cols: self.spec.hidden,
            data,
        }
    }

    fn splits_batch(&self) -> bool {
        let layer = self.layers.first().map_or(0, |l| {
            l.qkv.size_bytes() + l.o.size_bytes() + l.gate_up.size_bytes() + l.down.size_bytes()
        });
        self.head.size_bytes() + layer * self.layers.len() <= SPLIT_BATCH_BELOW_BYTES
    }

    /// The forward pass, for all families.
    fn forward_part(&self, chunks: &mut [Chunk], threads: Threads) -> Matrix {
        let spec = &self.spec;
        let shape = self.kv_shape();
        let rotations = self.rotations(chunks);
        let rows = chunks
            .iter()
            .map(|chunk| (chunk.prefix, chunk.start(), chunk.tokens.len()));
        let mut attention = Attention::new(shape, spec.heads / spec.kv_heads, rows);
        let mut workspace = self.take_workspace();
        let Workspace {
            h,
            x,
            packed,
            qkv,
            attended,
            gate_up,
            inner,
            branch,
        } = &mut workspace;

        self.embed(chunks, h);
        for (index, step) in self.path.iter().enumerate() {
            let (layer, layer_spec) = (&self.layers[step.layer], &spec.layers[step.layer]);
            if step.input_scale != 1.0 {
                h.data.iter_mut().for_each(|x| *x *= step.input_scale);
            }

            self.norm(h, &layer.norms[0], x);
            packed.set(x, threads);
            layer.qkv.apply(packed, qkv, threads);
            self.norm_and_rotate(qkv, layer, layer_spec.rope.map(|rope| &rotations[rope]));
            self.keep_keys_and_values(qkv, index, &shape, chunks);
            let rows: Vec<RowView> = chunks.iter().map(Chunk::view).collect();
            let (window, scale, softcap) = (layer_spec.window, spec.attention_scale, spec.attention_softcap);
            attention.attend(
                qkv,
                &rows,
                Settings {
                    layer: index,
                    window,
                    scale,
                    softcap,
                },
                attended,
                threads,
            );
            if index + 1 == self.path.len() {
                // Nothing reads the other rows any more.
                h.keep_rows(wanted_rows(chunks));
                attended.keep_rows(wanted_rows(chunks));
            }
            packed.set(attended, threads);
            layer.o.apply(packed, branch, threads);
            kernels::rms_norm(branch, &layer.norms[1], spec.norm_eps);
            kernels::add_scaled(h, branch, spec.residual_scale);

            self.norm(h, &layer.norms[2], x);
            packed.set(x, threads);
            layer.gate_up.apply(packed, gate_up, threads);
            kernels::gated(gate_up, spec.activation, inner, threads);
            packed.set(inner, threads);
            layer.down.apply(packed, branch, threads);
            kernels::rms_norm(branch, &layer.norms[3], spec.norm_eps);
            kernels::add_scaled(h, branch, spec.residual_scale);
        }
        for chunk in chunks.iter_mut() {
            chunk.own.len += chunk.tokens.len();
        }
        let mut states = h.clone();
        kernels::rms_norm(&mut states, &self.final_norm, spec.norm_eps);
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(workspace);
        states
    }

    fn take_workspace(&self) -> Workspace {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default()
    }

    /// `x = norm(h)`; a copy where the family has no norm here.
    fn norm(&self, h: &Matrix, weight: &[f32], x: &mut Matrix) {
        x.reshape(h.rows, h.cols);
        x.data.copy_from_slice(&h.data);
        kernels::rms_norm(x, weight, self.spec.norm_eps);
    }

    fn embed(&self, chunks: &[Chunk], h: &mut Matrix) {
        let (hidden, scale) = (self.spec.hidden, self.spec.embed_scale);
        let rows = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        h.reshape(rows, hidden);
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in h.data.chunks_exact_mut(hidden).zip(tokens) {
            let token = *token as usize;
            match self.spec.tie_embeddings {
                true => self.head.copy_row(token, row),
                false => row.copy_from_slice(&self.embeddings[token * hidden..(token + 1) * hidden]),
            }
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    /// For each kind of rotation, `[cos × half, sin × half]` of every token in the batch.
    fn rotations(&self, chunks: &[Chunk]) -> Vec<Vec<f32>> {
        let table = |rope: &RopeTable| {
            let mut rows = Vec::new();
            for chunk in chunks {
                let start = chunk.start();
                (start..start + chunk.tokens.len()).for_each(|position| rope.append(position, chunk.length, &mut rows));
            }
            rows
        };
        self.ropes.iter().map(table).collect()
    }

    /// Normalises queries and keys where the family does, then rotates them, in place.
    fn norm_and_rotate(&self, qkv: &mut Matrix, layer: &Layer, rotations: Option<&Vec<f32>>) {
        let spec = &self.spec;
        let (d, q, kv) = (spec.head_dim, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let width = rotations.map_or(0, |rows| rows.len() / qkv.rows.max(1));
        for (i, row) in qkv.data.chunks_exact_mut(q + 2 * kv).enumerate() {
            let (queries, keys) = row[..q + kv].split_at_mut(q);
            match spec.qk_norm {
                QkNorm::None => {}
                QkNorm::PerHead => {
                    queries
                        .chunks_exact_mut(d)
                        .for_each(|head| kernels::rms_norm_row(head, &layer.q_norm, spec.norm_eps));
                    keys.chunks_exact_mut(d)
                        .for_each(|head| kernels::rms_norm_row(head, &layer.k_norm, spec.norm_eps));
                }
                QkNorm::FullWidth => {
                    kernels::rms_norm_row(queries, &layer.q_norm, spec.norm_eps);
                    kernels::rms_norm_row(keys, &layer.k_norm, spec.norm_eps);
                }
            }
            if let Some(rotations) = rotations {
                let (cos, sin) = rotations[i * width..(i + 1) * width].split_at(width / 2);
                row[..q + kv]
                    .chunks_exact_mut(d)
                    .for_each(|head| rotate(head, cos, sin));
            }
        }
    }

    /// Writes the batch's keys and values of one layer into the chunks' own segments.
    fn keep_keys_and_values(&self, qkv: &Matrix, layer: usize, shape: &KvShape, chunks: &mut [Chunk]) {
        let (q, kv) = (
            self.spec.heads * self.spec.head_dim,
            self.spec.kv_heads * self.spec.head_dim,
        );
        let mut rows = qkv.data.chunks_exact(q + 2 * kv);
        for chunk in chunks {
            for (t, row) in (chunk.own.len..).zip(rows.by_ref().take(chunk.tokens.len())) {
                shape.write(
                    &mut chunk.own.blocks[t / BLOCK],
                    layer,
                    t % BLOCK,
                    &row[q..q + kv],
                    &row[q + kv..],
                );
            }
        }
    }

    /// Logits of normed hidden states, `[rows, vocab]`.
    pub(super) fn logits(&self, states: &Matrix) -> Matrix {
        let (mut packed, mut logits) = (PackedRows::default(), Matrix::default());
        packed.set(states, Threads(1));
        self.head.apply(&packed, &mut logits, Threads(self.threads));
        self.finish_logits(&mut logits.data);
        logits
    }

    /// The most likely token after each of the normed hidden states; the lowest of equals.
    pub(super) fn next_tokens(&self, states: &Matrix) -> Vec<u32> {
        let mut packed = PackedRows::default();
        packed.set(states, Threads(1));
        let best = self
            .head
            .argmax(&packed, |logits| self.finish_logits(logits), Threads(self.threads));
        best.into_iter().map(|token| token as u32).collect()
    }

    fn finish_logits(&self, logits: &mut [f32]) {
        if self.spec.logits_divisor != 1.0 {
            logits.iter_mut().for_each(|x| *x /= self.spec.logits_divisor);
        }
        if let Some(cap) = self.spec.final_softcap {
            kernels::softcap(logits, cap);
        }
    }
}

/// `model.layers.7.mlp.up_proj.weight` → `(7, "mlp.up_proj.weight")`.
fn split_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    // A leading zero or sign would be another spelling of the same layer.
    let number: usize = layer.parse().ok()?;
    (number.to_string() == layer).then_some((number, rest))
}

/// Rotates the pairs `(i, i + half)` of a head's first `2 · half` dimensions.
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

/// The rows of the batch whose hidden states are wanted.
fn wanted_rows(chunks: &[Chunk]) -> impl Iterator<Item = usize> {
    let mut row = 0;
    chunks.iter().flat_map(move |chunk| {
        let first = row;
        row += chunk.tokens.len();
        first + chunk.wanted_from.min(chunk.tokens.len())..row
    })
}
