//! What layers that do not attend compute on the CPU: a short convolution of single channels, and for each head a matrix that
//! every token decays, writes to and reads.
//!
//! A row's tokens follow each other, in prompts as in generation, so that a row has the same bits however it is cut into
//! chunks and whoever else is in the batch. The values of a head are independent of each other: its matrix stands in panels
//! of [`PANEL`] of them, which stay in the first-level cache while the tokens of a chunk pass.

use heterosis_isa::{Isa, Set, with_set};
use rayon::prelude::*;

use super::arithmetic::MixerWeights;
use super::cpu::Cpu;
use super::kernels::{self, Matrix, Threads, fma, silu, softplus};
use super::mixer::{Mixer, MixerKind, PANEL};

/// A layer, and whose kernels compute it.
pub(super) struct Layer<'a> {
    pub isa: Isa,
    pub mixer: &'a Mixer,
    pub weights: &'a MixerWeights<Cpu>,
    pub eps: f32,
}

/// Buffers of one thread's, or all threads', share of a batch.
#[derive(Default)]
pub(super) struct Scratch {
    /// What goes through the convolution, and what comes out of it; `[rows, channels]`.
    mixed: Matrix,
    /// For each row and head: by how much the matrix is decayed, and how strongly it is written to.
    factors: Matrix,
    /// What each head reads, row by row of a chunk.
    read: Vec<f32>,
}

/// A head's matrix and the tokens of one chunk.
struct Task<'a> {
    first_row: usize,
    head: usize,
    matrix: &'a mut [f32],
    /// `[tokens, value_dim]`.
    read: &'a mut [f32],
}

impl Scratch {
    /// Computes a layer over a batch. Each chunk has so many rows of `inputs`, and its state.
    ///
    /// **Shapes** `inputs`: `[rows, input_columns]`; `out` becomes `[rows, width]`.
    pub fn run<'s>(
        &mut self,
        layer: &Layer,
        chunks: impl Iterator<Item = (usize, &'s mut [f32])>,
        inputs: &Matrix,
        out: &mut Matrix,
        threads: Threads,
    ) {
        let mixer = layer.mixer;
        self.mixed.reshape(inputs.rows, mixer.channels());
        self.read.resize(inputs.rows * mixer.width(), 0.0);
        let mut tasks: Vec<Task> = Vec::new();
        let (mut mixed, mut read) = (&mut self.mixed.data[..], &mut self.read[..]);
        let mut first_row = 0;
        for (tokens, state) in chunks {
            let (conv, matrices) = state.split_at_mut(mixer.conv_len());
            let own;
            (own, mixed) = mixed.split_at_mut(tokens * mixer.channels());
            let columns = &inputs.data[first_row * inputs.cols..][..tokens * inputs.cols];
            layer.convolve(columns, conv, own);
            if mixer.key_dim > 0 {
                let mut matrices = matrices.chunks_exact_mut(mixer.matrix_len());
                for head in 0..mixer.heads {
                    let of_head;
                    (of_head, read) = read.split_at_mut(tokens * mixer.value_dim);
                    tasks.extend(matrices.next().map(|matrix| Task {
                        first_row,
                        head,
                        matrix,
                        read: of_head,
                    }));
                }
            }
            first_row += tokens;
        }
        if mixer.key_dim == 0 {
            return layer.gate_convolved(inputs, &self.mixed, out);
        }
        layer.prepare(inputs, &mut self.mixed, &mut self.factors);
        let (mixed, factors) = (&self.mixed, &self.factors);
        match threads.0 > 1 && tasks.len() > 1 {
            true => tasks.par_iter_mut().for_each(|task| layer.pass(mixed, factors, task)),
            false => tasks.iter_mut().for_each(|task| layer.pass(mixed, factors, task)),
        }
        out.reshape(inputs.rows, mixer.width());
        for task in &tasks {
            let column = task.head * mixer.value_dim;
            for (row, read) in (task.first_row..).zip(task.read.chunks_exact(mixer.value_dim)) {
                out.row_mut(row)[column..column + mixer.value_dim].copy_from_slice(read);
            }
        }
        layer.finish(inputs, mixed, out);
    }
}

impl Layer<'_> {
    /// The causal convolution of a chunk's channels, each with the inputs before it, and its activation. The state holds the
    /// last inputs, and will.
    fn convolve(&self, inputs: &[f32], state: &mut [f32], mixed: &mut [f32]) {
        let (mixer, channels) = (self.mixer, self.mixer.channels());
        let rows = inputs.chunks_exact(mixer.input_columns());
        // Taken from the inputs: these are changed nowhere, and the convolution reads those of several tokens.
        let mut past: Vec<f32> = Vec::with_capacity(state.len() + mixed.len());
        past.extend_from_slice(state);
        for row in rows {
            match mixer.kind {
                MixerKind::DeltaNet => past.extend_from_slice(&row[..channels]),
                MixerKind::Mamba2 => past.extend_from_slice(&row[mixer.width()..][..channels]),
                MixerKind::ShortConv => past.extend(row.iter().zip(&row[2 * channels..]).map(|(b, x)| b * x)),
            }
        }
        state.copy_from_slice(&past[past.len() - state.len()..]);
        let has_activation = mixer.kind != MixerKind::ShortConv;
        with_set!(self.isa, S => {
            for (token, out) in mixed.chunks_exact_mut(channels).enumerate() {
                out.copy_from_slice(&self.weights.conv_bias);
                let seen = past[token * channels..].chunks_exact(channels);
                for (weights, x) in self.weights.conv.chunks_exact(channels).zip(seen) {
                    for ((out, w), x) in out.iter_mut().zip(weights).zip(x) {
                        *out = fma::<S>(*w, *x, *out);
                    }
                }
                if has_activation {
                    out.iter_mut().for_each(|x| *x = silu::<S>(*x));
                }
            }
        });
    }

    /// LFM2: `C · conv`.
    fn gate_convolved(&self, inputs: &Matrix, mixed: &Matrix, out: &mut Matrix) {
        let width = self.mixer.width();
        out.reshape(inputs.rows, width);
        let rows = inputs
            .data
            .chunks_exact(inputs.cols)
            .zip(mixed.data.chunks_exact(width));
        for (out, (inputs, mixed)) in out.data.chunks_exact_mut(width).zip(rows) {
            for ((out, c), x) in out.iter_mut().zip(&inputs[width..]).zip(mixed) {
                *out = c * x;
            }
        }
    }

    /// Queries and keys of unit length, queries scaled by the root of their length; each head's decay and strength.
    fn prepare(&self, inputs: &Matrix, mixed: &mut Matrix, factors: &mut Matrix) {
        let Mixer {
            kind,
            key_heads,
            heads,
            key_dim,
            ..
        } = *self.mixer;
        factors.reshape(inputs.rows, 2 * heads);
        let keys = key_heads * key_dim;
        for row in 0..inputs.rows {
            if kind == MixerKind::DeltaNet {
                let (queries, rest) = mixed.row_mut(row).split_at_mut(keys);
                for query in queries.chunks_exact_mut(key_dim) {
                    unit_length(self.isa, query, (key_dim as f32).powf(-0.5));
                }
                for key in rest[..keys].chunks_exact_mut(key_dim) {
                    unit_length(self.isa, key, 1.0);
                }
            }
            let numbers = &inputs.row(row)[self.mixer.input_columns() - heads * self.numbers_of_a_head()..];
            let of_row = factors.row_mut(row);
            for head in 0..heads {
                let rate = self.weights.decay[head].exp();
                let (strength, step) = match kind {
                    MixerKind::DeltaNet => {
                        let step = softplus(numbers[heads + head] + self.weights.step[head]);
                        (kernels::sigmoid(numbers[head]), step)
                    }
                    _ => {
                        let step = softplus(numbers[head] + self.weights.step[head]);
                        (step, step)
                    }
                };
                of_row[2 * head] = (-rate * step).exp();
                of_row[2 * head + 1] = strength;
            }
        }
    }

    /// At the end of the inputs: strengths and steps, or steps alone.
    fn numbers_of_a_head(&self) -> usize {
        if self.mixer.kind == MixerKind::DeltaNet { 2 } else { 1 }
    }

    /// The tokens of a chunk through one head's matrix.
    fn pass(&self, mixed: &Matrix, factors: &Matrix, task: &mut Task) {
        let Mixer {
            kind,
            key_heads,
            heads,
            key_dim,
            value_dim,
            ..
        } = *self.mixer;
        let (keys, key_head) = (key_heads * key_dim, task.head / (heads / key_heads));
        // Where queries, keys and values begin: DeltaNet's stand in this order, Mamba's in the opposite one.
        let (queries_at, keys_at, values_at) = match kind {
            MixerKind::DeltaNet => (0, keys, 2 * keys),
            _ => (self.mixer.width() + keys, self.mixer.width(), 0),
        };
        let panels = task.matrix.chunks_exact_mut(key_dim * PANEL);
        for (panel, matrix) in panels.enumerate() {
            let (from, to) = (panel * PANEL, (panel * PANEL + PANEL).min(value_dim));
            for (token, read) in task.read.chunks_exact_mut(value_dim).enumerate() {
                let row = mixed.row(task.first_row + token);
                let factors = &factors.row(task.first_row + token)[2 * task.head..];
                let mut values = [0.0; PANEL];
                values[..to - from].copy_from_slice(&row[values_at + task.head * value_dim..][from..to]);
                let token = Token {
                    query: &row[queries_at + key_head * key_dim..][..key_dim],
                    key: &row[keys_at + key_head * key_dim..][..key_dim],
                    values,
                    decay: factors[0],
                    strength: factors[1],
                };
                let out = match kind {
                    MixerKind::DeltaNet => with_set!(self.isa, S => token.write_and_read::<S, true>(matrix)),
                    _ => with_set!(self.isa, S => token.write_and_read::<S, false>(matrix)),
                };
                read[from..to].copy_from_slice(&out[..to - from]);
            }
        }
    }

    /// From what was read to what goes back to the stream: norms and gates.
    fn finish(&self, inputs: &Matrix, mixed: &Matrix, out: &mut Matrix) {
        let Mixer { kind, value_dim, .. } = *self.mixer;
        let (channels, width) = (self.mixer.channels(), self.mixer.width());
        for (row, out) in out.data.chunks_exact_mut(width).enumerate() {
            if kind == MixerKind::DeltaNet {
                for head in out.chunks_exact_mut(value_dim) {
                    kernels::rms_norm_row(self.isa, head, &self.weights.norm, self.eps);
                }
                gate(self.isa, out, &inputs.row(row)[channels..][..width]);
                continue;
            }
            let values = mixed.row(row)[..width].chunks_exact(value_dim);
            for ((out, values), skip) in out.chunks_exact_mut(value_dim).zip(values).zip(&self.weights.skip) {
                kernels::add_row(self.isa, out, values, *skip);
            }
            gate(self.isa, out, &inputs.row(row)[..width]);
            kernels::rms_norm_row(self.isa, out, &self.weights.norm, self.eps);
        }
    }
}

/// What a head gets of one token, of a panel of its values.
struct Token<'a> {
    query: &'a [f32],
    key: &'a [f32],
    values: [f32; PANEL],
    decay: f32,
    strength: f32,
}

impl Token<'_> {
    /// `S = λ·S + k ⊗ u` and `Sᵀq`, where u is the strength times the values, or times what they differ by from what the
    /// decayed matrix has for the key already (the delta rule).
    #[inline(always)]
    fn write_and_read<S: Set, const DELTA: bool>(&self, matrix: &mut [f32]) -> [f32; PANEL] {
        let mut written = self.values;
        if DELTA {
            let known = read::<S>(self.key, matrix);
            for (written, known) in written.iter_mut().zip(known) {
                *written -= self.decay * known;
            }
        }
        written.iter_mut().for_each(|x| *x *= self.strength);
        let (rows, _) = matrix.as_chunks_mut::<PANEL>();
        for (row, key) in rows.iter_mut().zip(self.key) {
            for (x, written) in row.iter_mut().zip(&written) {
                *x = fma::<S>(*key, *written, self.decay * *x);
            }
        }
        read::<S>(self.query, matrix)
    }
}

/// `Sᵀq`: the sum over the rows of a panel, every fourth to one of four sums that are added at the end.
#[inline(always)]
fn read<S: Set>(query: &[f32], matrix: &[f32]) -> [f32; PANEL] {
    const SUMS: usize = 4;
    let (rows, _) = matrix.as_chunks::<PANEL>();
    let mut sums = [[0.0f32; PANEL]; SUMS];
    let (fours, rest) = rows.as_chunks::<SUMS>();
    let (queries, last) = query.as_chunks::<SUMS>();
    for (rows, query) in fours.iter().zip(queries) {
        for i in 0..SUMS {
            for n in 0..PANEL {
                sums[i][n] = fma::<S>(query[i], rows[i][n], sums[i][n]);
            }
        }
    }
    for (i, (row, query)) in rest.iter().zip(last).enumerate() {
        for n in 0..PANEL {
            sums[i][n] = fma::<S>(*query, row[n], sums[i][n]);
        }
    }
    std::array::from_fn(
        #[inline(always)]
        |n| (sums[0][n] + sums[1][n]) + (sums[2][n] + sums[3][n]),
    )
}

/// What keeps a query or key of no length from a division by zero.
pub(super) const NO_LENGTH: f32 = 1e-6;

/// `factor · x / √(Σ x² + ε)`.
fn unit_length(isa: Isa, x: &mut [f32], factor: f32) {
    let squares = kernels::squares(isa, x);
    kernels::scale(isa, x, factor / (squares + NO_LENGTH).sqrt());
}

/// `x · silu(gate)` on each element.
fn gate(isa: Isa, x: &mut [f32], gates: &[f32]) {
    with_set!(isa, S => {
        x.iter_mut().zip(gates).for_each(|(x, gate)| *x *= silu::<S>(*gate));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixer::{Inputs, MixerPart};

    fn mixer(kind: MixerKind, kernel: usize, [key_dim, value_dim]: [usize; 2]) -> Mixer {
        Mixer {
            kind,
            name: "",
            conv: "",
            inputs: Inputs::One,
            key_heads: 1,
            heads: 1,
            key_dim,
            value_dim,
            kernel,
            conv_bias: true,
            bias: false,
        }
    }

    fn run(mixer: &Mixer, weights: &MixerWeights<Cpu>, rows: &[&[f32]], state: &mut [f32]) -> Vec<f32> {
        let layer = Layer {
            isa: Isa::best(),
            mixer,
            weights,
            eps: 0.0,
        };
        let inputs = Matrix {
            rows: rows.len(),
            cols: mixer.input_columns(),
            data: rows.concat(),
        };
        let mut out = Matrix::default();
        let chunks = [(rows.len(), state)].into_iter();
        Scratch::default().run(&layer, chunks, &inputs, &mut out, Threads(1));
        out.data
    }

    #[test]
    fn a_short_convolution_by_hand() {
        let mixer = mixer(MixerKind::ShortConv, 3, [0, 1]);
        let mut weights = MixerWeights::zeros(&Isa::best(), &mixer).unwrap();
        weights
            .set(&Isa::best(), (MixerPart::Conv, false), &[1.0, 10.0, 100.0])
            .unwrap();
        weights.set(&Isa::best(), (MixerPart::Conv, true), &[0.5]).unwrap();
        let mut state = vec![0.0; mixer.state_len()];
        // b · x is 6, 2, 3; c is 1, 1, 2.
        let first = run(&mixer, &weights, &[&[2.0, 1.0, 3.0], &[1.0, 1.0, 2.0]], &mut state);
        assert_eq!(first, [600.5, 260.5]);
        assert_eq!(state, [6.0, 2.0]);
        assert_eq!(
            run(&mixer, &weights, &[&[3.0, 2.0, 1.0]], &mut state),
            [2.0 * (0.5 + 6.0 + 20.0 + 300.0)]
        );
    }

    /// A key that comes again: the delta rule puts the new value in the place of the old one, Mamba adds it.
    #[test]
    fn what_is_written_to_a_matrix_by_hand() {
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let of = |kind: MixerKind| {
            let mixer = mixer(kind, 1, [1, 1]);
            let mut weights = MixerWeights::zeros(&Isa::best(), &mixer).unwrap();
            weights.set(&Isa::best(), (MixerPart::Conv, false), &[1.0; 3]).unwrap();
            weights.set(&Isa::best(), (MixerPart::Conv, true), &[0.0; 3]).unwrap();
            // No decay: e^−40 of a step.
            weights.set(&Isa::best(), (MixerPart::Decay, false), &[-40.0]).unwrap();
            weights.set(&Isa::best(), (MixerPart::Norm, false), &[1.0]).unwrap();
            let mut state = vec![0.0; mixer.state_len()];
            let rows: [&[f32]; 2] = match kind {
                // Query, key, value, gate, strength (σ(30) is 1), step.
                MixerKind::DeltaNet => [&[3.0, 2.0, 3.0, 1.0, 30.0, 0.0], &[3.0, 2.0, 5.0, 1.0, 30.0, 0.0]],
                // Gate, value, B, C, step: softplus(0) is ln 2.
                _ => [&[1.0, 3.0, 2.0, 3.0, 0.0], &[1.0, 5.0, 2.0, 3.0, 0.0]],
            };
            let read = run(&mixer, &weights, &rows, &mut state);
            // A norm over one number leaves its sign, and the gate.
            let gate = if kind == MixerKind::DeltaNet { silu(1.0) } else { 1.0 };
            read.iter().for_each(|x| assert!((x - gate).abs() < 1e-6, "{read:?}"));
            state[0]
        };
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
        // A key of length one.
        near(of(MixerKind::DeltaNet), silu(5.0));
        near(
            of(MixerKind::Mamba2),
            std::f32::consts::LN_2 * silu(2.0) * (silu(3.0) + silu(5.0)),
        );
    }
}
