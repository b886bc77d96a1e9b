//! The forward pass's arithmetic on the CPU, in f32.

use heterosis_isa::Isa;

use super::Error;
use super::arithmetic::{Arithmetic, HeadSettings, Settings};
use super::attention::{Attention, RowView};
use super::decoder::Chunk;
use super::kernels::{self, Linear, Matrix, PackedRows, Threads};
use super::kv::{BLOCK, KvShape};
use super::spec::{Activation, DecoderSpec, QkNorm};

/// Buffers of one thread's, or all threads', share of a batch.
pub(super) struct Cpu {
    isa: Isa,
    pub threads: Threads,
    packed: PackedRows,
    branch: Matrix,
    /// Of the batch that is being computed.
    attention: Option<Attention>,
    rotations: Vec<Vec<f32>>,
    shape: Option<KvShape>,
}

impl Arithmetic for Cpu {
    type Device = Isa;
    type Linear = Linear;
    type Norm = Vec<f32>;
    type Matrix = Matrix;

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

    fn norm_weight(_: &Isa, len: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![0.0; len])
    }

    fn set_norm(_: &Isa, norm: &mut Vec<f32>, weight: &[f32]) -> Result<(), Error> {
        norm.copy_from_slice(weight);
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
            shape: None,
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
        self.attention = Some(Attention::new(shape, spec.heads / spec.kv_heads, rows));
        self.rotations = rotations;
        self.shape = Some(shape);
        Ok(())
    }

    fn embed(&mut self, table: &Linear, chunks: &[Chunk], scale: f32, h: &mut Matrix) -> Result<(), Error> {
        let rows = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        h.reshape(rows, table.inputs);
        let tokens = chunks.iter().flat_map(|chunk| chunk.tokens);
        for (row, token) in h.data.chunks_exact_mut(table.inputs).zip(tokens) {
            table.copy_row(*token as usize, row);
        }
        self.scale(h, scale)
    }

    fn scale(&mut self, h: &mut Matrix, factor: f32) -> Result<(), Error> {
        kernels::scale(self.isa, &mut h.data, factor);
        Ok(())
    }

    fn norm(&mut self, h: &Matrix, weight: &Vec<f32>, eps: f32, x: &mut Matrix) -> Result<(), Error> {
        x.reshape(h.rows, h.cols);
        x.data.copy_from_slice(&h.data);
        kernels::rms_norm(self.isa, x, weight, eps);
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
        (norm, eps): (&Vec<f32>, f32),
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        self.packed.set(x, self.threads);
        linear.apply(&self.packed, &mut self.branch, self.threads);
        kernels::rms_norm(self.isa, &mut self.branch, norm, eps);
        kernels::add_scaled(self.isa, h, &self.branch, scale);
        Ok(())
    }

    fn heads(
        &mut self,
        spec: &DecoderSpec,
        heads: HeadSettings<'_, Vec<f32>>,
        chunks: &mut [Chunk],
        qkv: &mut Matrix,
    ) -> Result<(), Error> {
        let rotations = heads.rotation.map(|rotation| &self.rotations[rotation]);
        norm_and_rotate(self.isa, spec, qkv, (heads.q_norm, heads.k_norm), rotations);
        if let Some(shape) = &self.shape {
            keep_keys_and_values(qkv, heads.layer, shape, chunks);
        }
        Ok(())
    }

    fn attend(&mut self, qkv: &Matrix, chunks: &[Chunk], settings: Settings, out: &mut Matrix) -> Result<(), Error> {
        let rows: Vec<RowView> = chunks.iter().map(Chunk::view).collect();
        if let Some(attention) = &mut self.attention {
            attention.attend(qkv, &rows, settings, out, self.threads);
        }
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
    (q_norm, k_norm): (&[f32], &[f32]),
    rotations: Option<&Vec<f32>>,
) {
    let (d, q, kv) = (spec.head_dim, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let width = rotations.map_or(0, |rows| rows.len() / qkv.rows.max(1));
    for (i, row) in qkv.data.chunks_exact_mut(q + 2 * kv).enumerate() {
        let (queries, keys) = row[..q + kv].split_at_mut(q);
        match spec.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead => {
                queries
                    .chunks_exact_mut(d)
                    .for_each(|head| kernels::rms_norm_row(isa, head, q_norm, spec.norm_eps));
                keys.chunks_exact_mut(d)
                    .for_each(|head| kernels::rms_norm_row(isa, head, k_norm, spec.norm_eps));
            }
            QkNorm::FullWidth => {
                kernels::rms_norm_row(isa, queries, q_norm, spec.norm_eps);
                kernels::rms_norm_row(isa, keys, k_norm, spec.norm_eps);
            }
        }
        if let Some(rotations) = rotations {
            let (cos, sin) = rotations[i * width..(i + 1) * width].split_at(width / 2);
            kernels::rotate(isa, &mut row[..q + kv], d, cos, sin);
        }
    }
}

/// Writes the batch's keys and values of one layer into the chunks' own segments.
fn keep_keys_and_values(qkv: &Matrix, layer: usize, shape: &KvShape, chunks: &mut [Chunk]) {
    let kv = shape.kv_heads * shape.head_dim;
    let q = qkv.cols - 2 * kv;
    let mut rows = qkv.data.chunks_exact(qkv.cols);
    for chunk in chunks {
        for (t, row) in (chunk.own.len..).zip(rows.by_ref().take(chunk.tokens.len())) {
            shape.write(
                &mut chunk.own.blocks[t / BLOCK].values,
                layer,
                t % BLOCK,
                &row[q..q + kv],
                &row[q + kv..],
            );
        }
    }
}
