//! Layers that do not attend on the device: what every token decays, writes to and reads stays there, see `recurrence.cu`.

use super::super::Error;
use super::super::arithmetic::MixerWeights;
use super::super::mixer::{Mixer, MixerKind};
use super::gpu::{self, Address, Buffer, Gpu, launch};
use super::layout::Chunks;
use super::{Cuda, Kind, Matrix};

/// Rows of a head's matrix that a thread has, as `recurrence.cu` has it, and threads of a block.
const MATRIX_ROWS: usize = 32;
const THREADS: usize = 128;

/// The buffers of such layers.
#[derive(Default)]
pub struct Remembering {
    /// What comes out of the convolution, `[rows, channels]`.
    mixed: Buffer,
    /// For each row and head: by how much its matrix is decayed, and how strongly it is written to.
    factors: Buffer,
    /// What each head reads, `[rows, width]`.
    read: Buffer,
}

/// Floats that a row takes in the buffers of [`Remembering`].
pub fn row_floats(mixer: &Mixer) -> usize {
    mixer.channels() + 2 * mixer.heads + mixer.width()
}

/// A layer over a batch.
struct Pass<'a> {
    gpu: &'a Gpu,
    mixer: &'a Mixer,
    weights: &'a MixerWeights<Cuda>,
    by: gpu::Mixer,
    rows: usize,
    inputs: Address,
    mixed: Address,
    chunks: Chunks,
    states: Address,
    firsts: Address,
    chunk_of: Address,
}

impl Cuda {
    /// As [`super::super::arithmetic::Arithmetic::remember`] has it.
    pub(super) fn recur(
        &self,
        buffers: &mut Remembering,
        (mixer, weights, eps): (&Mixer, &MixerWeights<Cuda>, f32),
        stop: usize,
        inputs: &Matrix,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let (gpu, rows) = (&self.gpu, inputs.rows);
        let Some(chunks) = self.layout.chunks else {
            return Ok(());
        };
        let pass = Pass {
            gpu,
            mixer,
            weights,
            by: as_kernels_take(mixer, stop),
            rows,
            inputs: inputs.address(),
            mixed: buffers.mixed.reserve(gpu, rows * mixer.channels() * size_of::<f32>())?,
            chunks,
            states: self.word(chunks.states),
            firsts: self.word(chunks.firsts),
            chunk_of: self.word(chunks.of_row),
        };
        let to = out.reshape(gpu, rows, mixer.width(), Kind::Element)?;
        pass.convolve()?;
        if mixer.kind == MixerKind::ShortConv {
            return pass.gate_convolved(to);
        }
        let factors = buffers.factors.reserve(gpu, rows * mixer.heads * 8)?;
        let read = buffers.read.reserve(gpu, rows * mixer.width() * size_of::<f32>())?;
        pass.go_through_matrices(factors, read)?;
        pass.finish(read, eps, to)
    }
}

impl Pass<'_> {
    fn convolve(&self) -> Result<(), Error> {
        let columns = self.mixer.channels().div_ceil(256);
        let (inputs, by, states, firsts) = (self.inputs, self.by, self.states, self.firsts);
        let (weight, bias) = (
            self.weights.conv.address(self.gpu),
            self.weights.conv_bias.address(self.gpu),
        );
        launch!(
            self.gpu,
            "convolve",
            (self.rows, columns),
            256,
            inputs,
            by,
            states,
            firsts,
            self.chunk_of,
            weight,
            bias,
            self.mixed
        )?;
        let grid = (self.chunks.count, columns);
        launch!(self.gpu, "keep_inputs", grid, 256, inputs, by, states, firsts)
    }

    fn gate_convolved(&self, out: Address) -> Result<(), Error> {
        let count = self.rows * self.mixer.width();
        launch!(
            self.gpu,
            "finish_conv",
            Gpu::blocks_for(count),
            256,
            self.inputs,
            self.mixed,
            self.by,
            self.states,
            self.chunk_of,
            count as u64,
            out
        )
    }

    fn go_through_matrices(&self, factors: Address, read: Address) -> Result<(), Error> {
        let (gpu, mixer, weights, by) = (self.gpu, self.mixer, self.weights, self.by);
        if mixer.kind == MixerKind::DeltaNet {
            let grid = (self.rows, 2 * mixer.key_heads);
            launch!(gpu, "unit_length", grid, 32, by, self.mixed)?;
        }
        let count = self.rows * mixer.heads;
        launch!(
            gpu,
            "strengths",
            Gpu::blocks_for(count),
            256,
            self.inputs,
            by,
            weights.decay.address(gpu),
            weights.step.address(gpu),
            count as u32,
            factors
        )?;
        let lanes = mixer.key_dim.div_ceil(MATRIX_ROWS).next_power_of_two();
        let parts = mixer.value_dim.div_ceil(THREADS / lanes);
        launch!(
            gpu,
            "recur",
            (self.chunks.count, mixer.heads * parts),
            THREADS as u32,
            self.mixed,
            factors,
            by,
            lanes as u32,
            self.states,
            self.firsts,
            read
        )
    }

    fn finish(&self, read: Address, eps: f32, out: Address) -> Result<(), Error> {
        let (gpu, weights, by) = (self.gpu, self.weights, self.by);
        let norm = weights.norm.address(gpu);
        let (inputs, states, chunk_of) = (self.inputs, self.states, self.chunk_of);
        if self.mixer.kind == MixerKind::DeltaNet {
            let grid = (self.rows, self.mixer.heads);
            return launch!(
                gpu,
                "finish_delta",
                grid,
                128,
                inputs,
                read,
                by,
                states,
                chunk_of,
                norm,
                eps,
                out
            );
        }
        launch!(
            gpu,
            "finish_mamba",
            (self.rows, 1),
            256,
            inputs,
            self.mixed,
            read,
            by,
            states,
            chunk_of,
            weights.skip.address(gpu),
            norm,
            eps,
            out
        )
    }
}

fn as_kernels_take(mixer: &Mixer, stop: usize) -> gpu::Mixer {
    let kind = match mixer.kind {
        MixerKind::DeltaNet => 0,
        MixerKind::Mamba2 => 1,
        MixerKind::ShortConv => 2,
    };
    gpu::Mixer {
        kind,
        key_heads: mixer.key_heads as u32,
        heads: mixer.heads as u32,
        key_dim: mixer.key_dim as u32,
        value_dim: mixer.value_dim as u32,
        kernel: mixer.kernel as u32,
        channels: mixer.channels() as u32,
        cols: mixer.input_columns() as u32,
        matrix: mixer.matrix_len() as u32,
        start: (stop * mixer.state_len()) as u32,
        conv: mixer.conv_len() as u32,
    }
}
