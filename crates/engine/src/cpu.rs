//! The forward pass's arithmetic on the CPU, in f32.

use heterosis_isa::Isa;

use super::Error;
use super::arithmetic::{Arithmetic, HeadSettings, MixerWeights, Mixture, PerLayerWeights, Settings};
use super::attention::{Attention, RowView};
use super::decoder::Chunk;
use super::kernels::{self, Linear, Matrix, PackedRows, Threads};
use super::kv::{BLOCK, KvShape};
use super::mixture;
use super::recurrence;
use super::spec::{Activation, DecoderSpec, NormKind, QkNorm};

/// A norm: its weight, of length 0 where there is none at all, and its bias, where it has one.
pub(super) struct Norm {
    kind: NormKind,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn apply(&self, isa: Isa, x: &mut Matrix, eps: f32) {
        match self.kind {
            NormKind::Rms | NormKind::RmsAsStored => kernels::rms_norm(isa, x, &self.weight, eps),
            NormKind::Layer { .. } => kernels::layer_norm(isa, x, &self.weight, &self.bias, eps),
        }
    }

    /// Norms each stretch of `x`. There are weights for all of them, or those of one serve all.
    fn apply_to_stretches(&self, isa: Isa, x: &mut [f32], stretch: usize, eps: f32) {
        let weights = self.weight.chunks_exact(stretch).cycle();
        for (x, weight) in x.chunks_exact_mut(stretch).zip(weights) {
            if matches!(self.kind, NormKind::Layer { .. }) {
                kernels::centre(isa, x);
            }
            kernels::rms_norm_row(isa, x, weight, eps);
        }
        if !self.bias.is_empty() {
            x.iter_mut().zip(self.bias.iter().cycle()).for_each(|(x, b)| *x += b);
        }
    }
}

/// Buffers of one thread's, or all threads', share of a batch.
pub(super) struct Cpu {
    isa: Isa,
    pub threads: Threads,
    packed: PackedRows,
    branch: Matrix,
    /// Of the batch that is being computed.
    attention: Option<Attention>,
    rotations: Vec<Vec<f32>>,
    /// By which each token's queries are scaled; empty where they are not.
    growth: Vec<f32>,
    shape: Option<KvShape>,
    recurrence: recurrence::Scratch,
}

impl Arithmetic for Cpu {
    type Device = Isa;
    type Linear = Linear;
    type Norm = Norm;
    type Numbers = Vec<f32>;
    type Matrix = Matrix;

    const ROUNDS_ROWS: bool = false;
    const EXPERTS_IN_ONE: bool = false;

    fn linear(isa: &Isa, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, Error> {
        Ok(Linear::zeros(*isa, inputs, outputs, bias))
    }

    fn set_rows(_: &Isa, linear: &mut Linear, first: usize, weight: &[f32]) -> Result<(), Error> {
        linear.set_rows(first, weight);
        Ok(())
    }

    fn set_bias(_: &Isa, linear: &mut Linear, first: usize, bias: &[f32]) -> Result<(), Error> {
        linear.set_bias(first, bias);
        Ok(())
    }

    fn norm_of(_: &Isa, kind: NormKind, len: usize) -> Result<Norm, Error> {
        let (has_weight, has_bias) = kind.learns();
        Ok(Norm {
            kind,
            weight: vec![if has_weight { 0.0 } else { 1.0 }; len],
            bias: vec![0.0; if has_bias { len } else { 0 }],
        })
    }

    fn set_norm(_: &Isa, norm: &mut Norm, first: usize, weight: &[f32]) -> Result<(), Error> {
        norm.weight[first..first + weight.len()].copy_from_slice(weight);
        Ok(())
    }

    fn set_norm_bias(_: &Isa, norm: &mut Norm, first: usize, bias: &[f32]) -> Result<(), Error> {
        norm.bias[first..first + bias.len()].copy_from_slice(bias);
        Ok(())
    }

    fn numbers(_: &Isa, len: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; len])
    }

    fn set_numbers(_: &Isa, numbers: &mut Vec<f32>, data: &[f32]) -> Result<(), Error> {
        numbers.copy_from_slice(data);
        Ok(())
    }

    fn new(isa: &Isa) -> Result<Self, Error> {
        Ok(Cpu {
            isa: *isa,
            threads: Threads(1),
            packed: PackedRows::default(),
            branch: Matrix::default(),
            attention: None,
            rotations: Vec::new(),
            growth: Vec::new(),
            shape: None,
            recurrence: recurrence::Scratch::default(),
        })
    }

    fn begin(
        &mut self,
        spec: &DecoderSpec,
        shape: KvShape,
        chunks: &[Chunk],
        rotations: Vec<Vec<f32>>,
    ) -> Result<(), Error> {
        let rows = chunks
            .iter()
            .map(|chunk| (chunk.prefix, chunk.start(), chunk.tokens.len()));
        self.attention = Some(Attention::new(shape.clone(), spec.heads, rows));
        self.rotations = rotations;
        self.growth = growth(spec, chunks);
        self.shape = Some(shape);
        Ok(())
    }

    fn embed(
        &mut self,
        table: &Linear,
        learned: Option<&Linear>,
        chunks: &[Chunk],
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let rows = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        h.reshape(rows, table.inputs);
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in h.data.chunks_exact_mut(table.inputs).zip(tokens) {
            table.copy_row(*token as usize, row);
        }
        self.scale(h, scale)?;
        if let Some(learned) = learned {
            let mut of_position = vec![0.0; learned.inputs];
            for (row, position) in h.data.chunks_exact_mut(learned.inputs).zip(positions(chunks)) {
                learned.copy_row(position, &mut of_position);
                row.iter_mut().zip(&of_position).for_each(|(x, p)| *x += p);
            }
        }
        Ok(())
    }

    fn scale(&mut self, h: &mut Matrix, factor: f32) -> Result<(), Error> {
        kernels::scale(self.isa, &mut h.data, factor);
        Ok(())
    }

    fn norm(&mut self, h: &Matrix, norm: &Norm, eps: f32, x: &mut Matrix) -> Result<(), Error> {
        x.reshape(h.rows, h.cols);
        x.data.copy_from_slice(&h.data);
        norm.apply(self.isa, x, eps);
        Ok(())
    }

    fn product(&mut self, linear: &Linear, x: &Matrix, out: &mut Matrix) -> Result<(), Error> {
        self.packed.set(x, self.threads);
        linear.apply(&self.packed, out, self.threads);
        Ok(())
    }

    fn add_product(
        &mut self,
        linear: &Linear,
        x: &Matrix,
        (norm, eps): (&Norm, f32),
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        self.packed.set(x, self.threads);
        linear.apply(&self.packed, &mut self.branch, self.threads);
        norm.apply(self.isa, &mut self.branch, eps);
        kernels::add_scaled(self.isa, h, &self.branch, scale);
        Ok(())
    }

    fn heads(
        &mut self,
        spec: &DecoderSpec,
        heads: HeadSettings<'_, Norm>,
        chunks: &mut [Chunk],
        qkv: &mut Matrix,
    ) -> Result<(), Error> {
        let rotations = heads.rotation.map(|rotation| &self.rotations[rotation]);
        norm_and_rotate(self.isa, spec, qkv, &heads, rotations);
        let queries = spec.heads * heads.of.head_dim;
        for (row, factor) in qkv.data.chunks_exact_mut(qkv.cols).zip(&self.growth) {
            row[..queries].iter_mut().for_each(|x| *x *= factor);
        }
        if let Some(shape) = self.shape.as_ref().filter(|_| heads.of.has_keys()) {
            keep_keys_and_values(qkv, (heads.layer, queries), shape, chunks);
        }
        Ok(())
    }

    fn gate_heads(&mut self, qkv: &Matrix, attended: &mut Matrix) -> Result<(), Error> {
        let width = attended.cols;
        for (row, out) in qkv
            .data
            .chunks_exact(qkv.cols)
            .zip(attended.data.chunks_exact_mut(width))
        {
            kernels::weigh(self.isa, out, &row[qkv.cols - width..]);
        }
        Ok(())
    }

    fn remember(
        &mut self,
        spec: &DecoderSpec,
        weights: &MixerWeights<Cpu>,
        stop: usize,
        chunks: &mut [Chunk],
        inputs: &Matrix,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let Some(mixer) = &spec.mixer else {
            return Ok(());
        };
        let layer = recurrence::Layer {
            isa: self.isa,
            mixer,
            weights,
            eps: spec.norm_eps,
        };
        let state = stop * mixer.state_len()..(stop + 1) * mixer.state_len();
        let rows = chunks.iter_mut().filter_map(|chunk| {
            let own = chunk.own.state.as_mut()?;
            Some((chunk.tokens.len(), &mut own.values[state.clone()]))
        });
        self.recurrence.run(&layer, rows, inputs, out, self.threads);
        Ok(())
    }

    fn attend(
        &mut self,
        qkv: &Matrix,
        chunks: &[Chunk],
        settings: Settings<'_, Vec<f32>>,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let rows: Vec<RowView> = chunks.iter().map(Chunk::view).collect();
        if let Some(attention) = &mut self.attention {
            attention.attend(qkv, &rows, &settings, out, self.threads);
        }
        Ok(())
    }

    fn embed_in_layer(
        &mut self,
        per_layer: &PerLayerWeights<Cpu>,
        (norm, eps): (&Norm, f32),
        chunks: &[Chunk],
        x: &Matrix,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        self.product(&per_layer.projection, x, out)?;
        self.scale(out, (x.cols as f32).powf(-0.5))?;
        norm.apply(self.isa, out, eps);
        let (root, half) = ((out.cols as f32).sqrt(), 0.5f32.sqrt());
        let mut of_token = vec![0.0; out.cols];
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in out.data.chunks_exact_mut(per_layer.table.inputs).zip(tokens) {
            per_layer.table.copy_row(*token as usize, &mut of_token);
            row.iter_mut()
                .zip(&of_token)
                .for_each(|(x, t)| *x = (*x + root * t) * half);
        }
        Ok(())
    }

    fn add_normed(
        &mut self,
        branch: &Matrix,
        (norm, eps): (&Norm, f32),
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        self.branch.reshape(branch.rows, branch.cols);
        self.branch.data.copy_from_slice(&branch.data);
        norm.apply(self.isa, &mut self.branch, eps);
        kernels::add_scaled(self.isa, h, &self.branch, scale);
        Ok(())
    }

    fn zeros_like(&mut self, x: &Matrix, out: &mut Matrix) -> Result<(), Error> {
        out.reshape(x.rows, x.cols);
        out.data.fill(0.0);
        Ok(())
    }

    fn times(&mut self, x: &mut Matrix, by: &Matrix) -> Result<(), Error> {
        x.data.iter_mut().zip(&by.data).for_each(|(x, by)| *x *= by);
        Ok(())
    }

    fn keep_wanted(&mut self, chunks: &[Chunk], x: &mut Matrix) -> Result<(), Error> {
        x.keep_rows(wanted_rows(chunks));
        Ok(())
    }

    fn gated(&mut self, gate_up: &Matrix, activation: Activation, out: &mut Matrix) -> Result<(), Error> {
        kernels::gated(self.isa, gate_up, activation, out, self.threads);
        Ok(())
    }

    fn activated(&mut self, x: &Matrix, activation: Activation, out: &mut Matrix) -> Result<(), Error> {
        kernels::activated(self.isa, x, activation, out, self.threads);
        Ok(())
    }

    fn add_mixture(
        &mut self,
        spec: &DecoderSpec,
        mixture: &Mixture<Cpu>,
        (x, routed): (&Matrix, Option<&Matrix>),
        (norm, eps): (&Norm, f32),
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let Some(experts) = &spec.experts else {
            return Ok(());
        };
        self.packed.set(routed.unwrap_or(x), self.threads);
        let mut logits = Matrix::default();
        mixture.router.apply(&self.packed, &mut logits, self.threads);
        if routed.is_some() {
            self.packed.set(x, self.threads);
        }
        mixture::compute(
            self.isa,
            (experts, mixture, spec.activation),
            (x, &self.packed, &logits),
            &mut self.branch,
            self.threads,
        );
        norm.apply(self.isa, &mut self.branch, eps);
        kernels::add_scaled(self.isa, h, &self.branch, spec.residual_scale);
        Ok(())
    }
}

/// Where each token of a batch stands in its row.
pub(super) fn positions(chunks: &[Chunk]) -> impl Iterator<Item = usize> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.start()..chunk.start() + chunk.tokens.len())
}

/// By which each token's queries are scaled; empty where they are not.
pub(super) fn growth(spec: &DecoderSpec, chunks: &[Chunk]) -> Vec<f32> {
    match spec.query_growth {
        Some(growth) => positions(chunks).map(|position| growth.at(position)).collect(),
        None => Vec::new(),
    }
}

/// The rows of the batch whose hidden states are wanted.
pub(super) fn wanted_rows(chunks: &[Chunk]) -> impl Iterator<Item = usize> {
    let mut row = 0;
    chunks.iter().flat_map(move |chunk| {
        let first = row;
        row += chunk.tokens.len();
        first + chunk.wanted_from.min(chunk.tokens.len())..row
    })
}

fn norm_and_rotate(
    isa: Isa,
    spec: &DecoderSpec,
    qkv: &mut Matrix,
    heads: &HeadSettings<'_, Norm>,
    rotations: Option<&Vec<f32>>,
) {
    let (q_norm, k_norm, d) = (heads.q_norm, heads.k_norm, heads.of.head_dim);
    let q = spec.heads * d;
    let kv = if heads.of.has_keys() { heads.of.kv_heads * d } else { 0 };
    let width = rotations.map_or(0, |rows| rows.len() / qkv.rows.max(1));
    let norm = |x: &mut [f32], stretch: usize, norm: &Norm| norm.apply_to_stretches(isa, x, stretch, spec.norm_eps);
    let ones = vec![1.0; if spec.family.norms_values { d } else { 0 }];
    for (i, row) in qkv.data.chunks_exact_mut(qkv.cols).enumerate() {
        let (queries, keys) = row[..q + kv].split_at_mut(q);
        match spec.qk_norm {
            QkNorm::None | QkNorm::PerHeadRotated => {}
            QkNorm::PerHead | QkNorm::EachHead => {
                norm(queries, d, q_norm);
                norm(keys, d, k_norm);
            }
            QkNorm::FullWidth => {
                norm(queries, q, q_norm);
                norm(keys, kv, k_norm);
            }
        }
        if spec.family.norms_values {
            let values = row[q + kv..q + 2 * kv].chunks_exact_mut(d);
            values.for_each(|head| kernels::rms_norm_row(isa, head, &ones, spec.norm_eps));
        }
        if let Some(limit) = spec.qkv_limit {
            row[..q + 2 * kv].iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
        }
        if let Some(rotations) = rotations {
            let (cos, sin) = rotations[i * width..(i + 1) * width].split_at(width / 2);
            kernels::rotate(isa, &mut row[..q + kv], d, cos, sin);
        }
        if spec.qk_norm == QkNorm::PerHeadRotated {
            let (queries, keys) = row[..q + kv].split_at_mut(q);
            norm(queries, d, q_norm);
            norm(keys, d, k_norm);
        }
    }
}

/// Writes the batch's keys and values of one layer, which stand behind so many columns of queries, into the chunks' own
/// segments.
fn keep_keys_and_values(qkv: &Matrix, (layer, q): (usize, usize), shape: &KvShape, chunks: &mut [Chunk]) {
    let kv = shape.layers[layer].kv_heads * shape.layers[layer].head_dim;
    let mut rows = qkv.data.chunks_exact(qkv.cols);
    for chunk in chunks {
        for (t, row) in (chunk.own.len..).zip(rows.by_ref().take(chunk.tokens.len())) {
            shape.write(
                &mut chunk.own.blocks[t / BLOCK].values,
                layer,
                t % BLOCK,
                &row[q..q + kv],
                &row[q + kv..q + 2 * kv],
            );
        }
    }
}
