//! The arithmetic of the CPU path over plain `f32` slices: packed matrix products, norms, activations, exp.
//!
//! Every function gives each output element its value in one fixed order of operations that does not depend on how many
//! rows are computed together or on how many threads share the work: a row's logits are the same bits alone and in any
//! batch. The loops run over fixed-size arrays, so that the compiler keeps accumulators in vector registers; there is no
//! `unsafe` and no intrinsic. They are compiled once for each instruction set, and the caller says which ([`Isa::best`]):
//! the sets with fused operations give the same bits, [`Isa::Generic`] rounds products as well.

use heterosis_isa::{Generic, Isa, Set, with_set};
use rayon::prelude::*;

use super::spec::{Activation, Xielu};

/// How wide the register tiles of an instruction set are: a product has [`MR`] rows of `COLUMNS`, scores have `MR` rows of
/// `KEYS`, so that the sums stay in registers.
pub(super) trait Tiles: Set {
    /// Columns of a weight panel.
    const COLUMNS: usize;
    /// Keys that stand side by side.
    const KEYS: usize;
    /// Dimensions of a value that may stand side by side, the widest first; each divides the ones before it.
    const VALUES: [usize; 3];
}

impl Tiles for Generic {
    const COLUMNS: usize = 8;
    const KEYS: usize = 8;
    const VALUES: [usize; 3] = [8, 8, 8];
}

#[cfg(target_arch = "x86_64")]
impl Tiles for heterosis_isa::Avx2 {
    const COLUMNS: usize = 16;
    const KEYS: usize = 16;
    const VALUES: [usize; 3] = [16, 16, 16];
}

#[cfg(target_arch = "x86_64")]
impl Tiles for heterosis_isa::Avx512 {
    const COLUMNS: usize = 64;
    const KEYS: usize = 32;
    const VALUES: [usize; 3] = [64, 32, 16];
}

#[cfg(target_arch = "aarch64")]
impl Tiles for heterosis_isa::Neon {
    const COLUMNS: usize = 16;
    const KEYS: usize = 16;
    const VALUES: [usize; 3] = [16, 16, 16];
}

/// Rows of a register tile.
pub const MR: usize = 6;
/// Depth of a block: a panel of `KC × NR` weights stays in the second-level cache while the rows pass over it.
const KC: usize = 512;
/// Rows of a block: `MC × KC` activations stay in the second-level cache as well.
const MC: usize = 96;

/// `a * b + c`, fused where the set can.
#[inline(always)]
pub(super) fn fma<S: Set>(a: f32, b: f32, c: f32) -> f32 {
    if S::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Activations, `[rows, cols]`, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Tokens, as a rule.
    pub rows: usize,
    /// Length of a row.
    pub cols: usize,
    /// Row by row, `rows · cols` numbers.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros, for what is going to be written into it.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Matrix {
            rows,
            cols,
            data: vec![0.0; rows * cols],
        }
    }

    /// Takes a new shape and keeps the memory; what the elements hold is left open.
    pub fn reshape(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        self.data.resize(rows * cols, 0.0);
    }

    /// Keeps the given rows, which must ascend.
    pub fn keep_rows(&mut self, rows: impl Iterator<Item = usize>) {
        let mut kept = 0;
        for row in rows {
            self.data
                .copy_within(row * self.cols..(row + 1) * self.cols, kept * self.cols);
            kept += 1;
        }
        self.reshape(kept, self.cols);
    }

    /// One row, from 0.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// One row, from 0, to be written.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..(row + 1) * self.cols]
    }
}

/// How many threads an operation may use. One, where the caller already splits the batch between threads.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub usize);

impl Threads {
    /// Splits `units` into at most `threads × per_thread` ranges of at least `least` units.
    fn ranges(self, units: usize, least: usize, per_thread: usize) -> Vec<std::ops::Range<usize>> {
        let parts = if self.0 <= 1 {
            1
        } else {
            (self.0 * per_thread).min(units / least.max(1)).max(1)
        };
        (0..parts).map(|i| units * i / parts..units * (i + 1) / parts).collect()
    }
}

/// A register tile: `acc[m][n] += Σ_k a[k][m] · b[k][n]`, k ascending.
#[inline(always)]
pub(super) fn tile<S: Set, const M: usize, const N: usize>(a: &[f32], b: &[f32], acc: &mut [[f32; N]; M]) {
    let mut sums = *acc;
    let (a, _) = a.as_chunks::<M>();
    let (b, _) = b.as_chunks::<N>();
    for (a, b) in a.iter().zip(b) {
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = fma::<S>(a[m], b[n], sums[m][n]);
            }
        }
    }
    *acc = sums;
}

/// Runs `$body` with `$M` bound to the constant that equals `$rows` (1 to [`MR`]).
macro_rules! with_rows {
    ($rows:expr, $M:ident => $body:expr) => {
        match $rows {
            1 => {
                const $M: usize = 1;
                $body
            }
            2 => {
                const $M: usize = 2;
                $body
            }
            3 => {
                const $M: usize = 3;
                $body
            }
            4 => {
                const $M: usize = 4;
                $body
            }
            5 => {
                const $M: usize = 5;
                $body
            }
            _ => {
                const $M: usize = 6;
                $body
            }
        }
    };
}
pub(super) use with_rows;

/// Rows repacked for `tile`: groups of `MR` rows (the last may have fewer), each group `[k][row]`.
#[derive(Default)]
pub struct PackedRows {
    rows: usize,
    depth: usize,
    data: Vec<f32>,
}

impl PackedRows {
    /// Takes the rows of `x`; the memory is used again.
    pub fn set(&mut self, x: &Matrix, threads: Threads) {
        (self.rows, self.depth) = (x.rows, x.cols);
        self.data.resize(x.data.len(), 0.0);
        let group = MR * x.cols.max(1);
        if threads.0 > 1 && x.data.len() > 1 << 15 {
            let pairs = x.data.par_chunks(group).zip(self.data.par_chunks_mut(group));
            pairs
                .with_min_len(2)
                .for_each(|(rows, out)| pack_rows(rows, x.cols, out));
        } else {
            let pairs = x.data.chunks(group).zip(self.data.chunks_mut(group));
            pairs.for_each(|(rows, out)| pack_rows(rows, x.cols, out));
        }
    }

    /// Group `g`, depths `from..to`, and how many rows it has.
    fn group(&self, g: usize, from: usize, to: usize) -> (&[f32], usize) {
        let rows = MR.min(self.rows - g * MR);
        let start = g * MR * self.depth;
        (&self.data[start + from * rows..start + to * rows], rows)
    }
}

/// `out[k][row] = rows[row][k]`.
fn pack_rows(rows: &[f32], depth: usize, out: &mut [f32]) {
    let count = rows.len() / depth;
    for (row, values) in rows.chunks_exact(depth).enumerate() {
        for (slot, value) in out[row..].iter_mut().step_by(count).zip(values) {
            *slot = *value;
        }
    }
}

/// A weight `[out, in]` as panels of `width` outputs, each panel `[in][width]`, with its bias.
pub struct Linear {
    /// Columns of what goes in.
    pub inputs: usize,
    /// Columns of what comes out.
    pub outputs: usize,
    isa: Isa,
    /// The set's [`Tiles::COLUMNS`].
    width: usize,
    panels: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// All weights zero, laid out for the products of `isa`.
    pub fn zeros(isa: Isa, inputs: usize, outputs: usize, with_bias: bool) -> Self {
        let width = with_set!(isa, S => S::COLUMNS);
        Linear {
            inputs,
            outputs,
            isa,
            width,
            panels: vec![0.0; outputs.next_multiple_of(width) * inputs],
            bias: with_bias.then(|| vec![0.0; outputs]),
        }
    }

    /// Writes `weight` (`[rows, in]`, row by row) into the outputs from `first` on.
    pub fn set_rows(&mut self, first: usize, weight: &[f32]) {
        let (inputs, width, rows) = (self.inputs, self.width, weight.len() / self.inputs);
        let write = |(p, panel): (usize, &mut [f32])| {
            let from = (p * width).max(first);
            let to = ((p + 1) * width).min(first + rows);
            for row in from..to {
                let values = &weight[(row - first) * inputs..(row - first + 1) * inputs];
                for (slot, value) in panel[row - p * width..].iter_mut().step_by(width).zip(values) {
                    *slot = *value;
                }
            }
        };
        let first_panel = first / width;
        let panels = self.panels.par_chunks_mut(width * inputs).enumerate().skip(first_panel);
        panels
            .take((first + rows).div_ceil(width) - first_panel)
            .for_each(write);
    }

    /// Writes the bias of the outputs from `first` on; nothing where the layer has none.
    pub fn set_bias(&mut self, first: usize, bias: &[f32]) {
        if let Some(own) = &mut self.bias {
            own[first..first + bias.len()].copy_from_slice(bias);
        }
    }

    /// Row `output` of the weight, as it was set.
    pub fn copy_row(&self, output: usize, out: &mut [f32]) {
        let panel = &self.panels[output / self.width * self.width * self.inputs..];
        for (value, slot) in out
            .iter_mut()
            .zip(panel[output % self.width..].iter().step_by(self.width))
        {
            *value = *slot;
        }
    }

    /// What the weights take in memory, without the bias.
    pub fn size_bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }

    fn count(&self) -> usize {
        self.outputs.div_ceil(self.width)
    }

    fn panel(&self, p: usize, from: usize, to: usize) -> &[f32] {
        let start = p * self.width * self.inputs;
        &self.panels[start + from * self.width..start + to * self.width]
    }

    /// `out = x · weightᵀ + bias`, `[rows, in] → [rows, out]`.
    pub fn apply(&self, x: &PackedRows, out: &mut Matrix, threads: Threads) {
        out.reshape(x.rows, self.outputs);
        let ranges = self.ranges(x.rows, threads);
        if ranges.len() == 1 {
            let mut rows: Vec<&mut [f32]> = out.data.chunks_mut(self.outputs).collect();
            self.columns(x, 0..self.count(), &mut rows);
            return;
        }
        // Each task owns a range of columns of every row.
        let mut tasks: Vec<Vec<&mut [f32]>> = ranges.iter().map(|_| Vec::with_capacity(x.rows)).collect();
        for mut row in out.data.chunks_mut(self.outputs) {
            for (task, range) in tasks.iter_mut().zip(&ranges) {
                let width = (range.end * self.width).min(self.outputs) - range.start * self.width;
                let (mine, rest) = row.split_at_mut(width);
                task.push(mine);
                row = rest;
            }
        }
        tasks
            .into_par_iter()
            .zip(ranges)
            .for_each(|(mut rows, range)| self.columns(x, range, &mut rows));
    }

    /// Ranges of panels worth a task of their own.
    fn ranges(&self, rows: usize, threads: Threads) -> Vec<std::ops::Range<usize>> {
        const LEAST_OPERATIONS: usize = 1 << 18;
        threads.ranges(
            self.count(),
            LEAST_OPERATIONS / (rows.max(1) * self.width * self.inputs).max(1),
            4,
        )
    }

    /// The columns of `panels`, written to `out`, whose rows begin at the first of these columns.
    fn columns(&self, x: &PackedRows, panels: std::ops::Range<usize>, out: &mut [&mut [f32]]) {
        with_set!(self.isa, S => self.columns_with::<S, { S::COLUMNS }>(x, panels, out));
    }

    #[inline(always)]
    fn columns_with<S: Set, const N: usize>(
        &self,
        x: &PackedRows,
        panels: std::ops::Range<usize>,
        out: &mut [&mut [f32]],
    ) {
        let first = panels.start * N;
        let groups_per_block = MC / MR;
        let groups = x.rows.div_ceil(MR);
        for block in (0..groups).step_by(groups_per_block) {
            for from in (0..self.inputs).step_by(KC) {
                let to = (from + KC).min(self.inputs);
                for p in panels.clone() {
                    let b = self.panel(p, from, to);
                    let column = p * N - first;
                    let width = N.min(self.outputs - p * N);
                    for g in block..(block + groups_per_block).min(groups) {
                        let (a, rows) = x.group(g, from, to);
                        let out = &mut out[g * MR..g * MR + rows];
                        with_rows!(rows, M => tile_into::<S, M, N>(a, b, from == 0, out, column, width));
                    }
                }
            }
        }
        if let Some(bias) = &self.bias {
            for row in out.iter_mut() {
                let bias = &bias[first..first + row.len()];
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }

    /// The index of the largest output of each row (the first of equals), without keeping the outputs.
    ///
    /// `finish` maps a row's outputs in place before they are compared (a softcap or a scale may merge two of them).
    pub fn argmax(&self, x: &PackedRows, finish: impl Fn(&mut [f32]) + Sync, threads: Threads) -> Vec<usize> {
        let (ranges, width) = (self.ranges(x.rows, threads), self.width);
        let best_of = |range: std::ops::Range<usize>| -> Vec<(usize, f32)> {
            let mut best = vec![(usize::MAX, f32::NEG_INFINITY); x.rows];
            let mut scratch = vec![0.0; x.rows * width];
            for p in range {
                let filled = width.min(self.outputs - p * width);
                let mut rows: Vec<&mut [f32]> = scratch.chunks_mut(width).map(|row| &mut row[..filled]).collect();
                self.columns(x, p..p + 1, &mut rows);
                for (row, best) in rows.iter_mut().zip(&mut best) {
                    finish(row);
                    let (index, value) = argmax(self.isa, row);
                    if best.0 == usize::MAX || value > best.1 {
                        *best = (p * width + index, value);
                    }
                }
            }
            best
        };
        let parts: Vec<Vec<(usize, f32)>> = if ranges.len() == 1 {
            ranges.into_iter().map(best_of).collect()
        } else {
            ranges.into_par_iter().map(best_of).collect()
        };
        let better = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
        (0..x.rows)
            .map(|row| {
                parts
                    .iter()
                    .map(|part| part[row])
                    .reduce(better)
                    .map_or(0, |best| best.0)
            })
            .collect()
    }
}

/// Writes a register tile to `out[..][column..column + width]`, or adds it to what the depths before have left there.
#[inline(always)]
fn tile_into<S: Set, const M: usize, const N: usize>(
    a: &[f32],
    b: &[f32],
    is_first: bool,
    out: &mut [&mut [f32]],
    column: usize,
    width: usize,
) {
    let mut acc = [[0.0; N]; M];
    if !is_first {
        for (acc, row) in acc.iter_mut().zip(out.iter()) {
            acc[..width].copy_from_slice(&row[column..column + width]);
        }
    }
    tile::<S, M, N>(a, b, &mut acc);
    for (acc, row) in acc.iter().zip(out.iter_mut()) {
        // A whole panel is the common case, and one that the compiler can copy without a call.
        match row[column..].first_chunk_mut::<N>() {
            Some(whole) if width == N => *whole = *acc,
            _ => row[column..column + width].copy_from_slice(&acc[..width]),
        }
    }
}

/// Index and value of the largest element, the first of equals.
pub fn argmax(isa: Isa, values: &[f32]) -> (usize, f32) {
    isa.run(
        #[inline(always)]
        || {
            let best = max(values);
            (values.iter().position(|v| *v == best).unwrap_or(0), best)
        },
    )
}

const LANES: usize = 16;

/// Largest element; NaN is passed over, nothing gives minus infinity.
#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *v);
        }
    }
    lanes
        .into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, larger)
}

/// Sum of `f` over lanes: element i goes to lane i mod 16, the lanes are added pairwise at the end. The last chunk is
/// filled up with `pad`, for which `f` must give nothing.
#[inline(always)]
fn lane_sum(slice: &[f32], pad: f32, f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = slice.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    let mut tail = [pad; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    for chunk in chunks.iter().chain((!rest.is_empty()).then_some(&tail)) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f(*v);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    lane_sum(
        values,
        0.0,
        #[inline(always)]
        |x| x,
    )
}

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f32 {
    lane_sum(
        values,
        0.0,
        #[inline(always)]
        |x| x * x,
    )
}

/// `Σ x²`.
pub fn squares(isa: Isa, x: &[f32]) -> f32 {
    isa.run(
        #[inline(always)]
        || sum_of_squares(x),
    )
}

/// Root mean square norm of a row in place: `x / √(mean(x²) + ε) · weight`.
pub fn rms_norm_row(isa: Isa, row: &mut [f32], weight: &[f32], eps: f32) {
    isa.run(
        #[inline(always)]
        || {
            let scale = 1.0 / (sum_of_squares(row) / row.len() as f32 + eps).sqrt();
            for (x, w) in row.iter_mut().zip(weight) {
                *x = *x * scale * w;
            }
        },
    );
}

/// [`rms_norm_row`] of each row in place; no weight, no norm.
pub fn rms_norm(isa: Isa, x: &mut Matrix, weight: &[f32], eps: f32) {
    if !weight.is_empty() {
        let rows = x.data.chunks_mut(x.cols);
        rows.for_each(|row| rms_norm_row(isa, row, weight, eps));
    }
}

/// Norm of each row in place about its mean: `(x − mean(x)) / √(var(x) + ε) · weight + bias`; no weight, no norm, and a bias
/// only where there is one.
pub fn layer_norm(isa: Isa, x: &mut Matrix, weight: &[f32], bias: &[f32], eps: f32) {
    if weight.is_empty() {
        return;
    }
    for row in x.data.chunks_mut(x.cols) {
        centre(isa, row);
        rms_norm_row(isa, row, weight, eps);
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

/// Takes its mean from a row.
pub fn centre(isa: Isa, row: &mut [f32]) {
    isa.run(
        #[inline(always)]
        || {
            let mean = sum(row) / row.len() as f32;
            row.iter_mut().for_each(|x| *x -= mean);
        },
    );
}

/// `x = factor · x`.
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    if factor != 1.0 {
        isa.run(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x *= factor),
        );
    }
}

/// `to += factor · from`.
pub fn add_row(isa: Isa, to: &mut [f32], from: &[f32], factor: f32) {
    isa.run(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from),
    );
}

/// `x · σ(gate)` on each element.
pub fn weigh(isa: Isa, x: &mut [f32], gates: &[f32]) {
    with_set!(isa, S => {
        x.iter_mut().zip(gates).for_each(|(x, gate)| *x /= 1.0 + exp::<S>(-gate));
    });
}

/// `1 / (1 + e^−x)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + eˣ)`.
pub fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `h += scale · x`.
pub fn add_scaled(isa: Isa, h: &mut Matrix, x: &Matrix, scale: f32) {
    isa.run(
        #[inline(always)]
        || {
            let pairs = h.data.iter_mut().zip(&x.data);
            if scale == 1.0 {
                pairs.for_each(|(h, x)| *h += x);
            } else {
                pairs.for_each(|(h, x)| *h += x * scale);
            }
        },
    );
}

/// Rotates the pairs `(i, i + half)` of the first `2 · half` dimensions of each head of `head_dim` in `heads`.
pub fn rotate(isa: Isa, heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    isa.run(
        #[inline(always)]
        || {
            for head in heads.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(cos.len());
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let (x, y) = (*a, *b);
                    *a = x * cos - y * sin;
                    *b = y * cos + x * sin;
                }
            }
        },
    );
}

/// `out = act(gate) · up` for rows `[gate × n, up × n]`.
pub fn gated(isa: Isa, gate_up: &Matrix, activation: Activation, out: &mut Matrix, threads: Threads) {
    let n = gate_up.cols / 2;
    out.reshape(gate_up.rows, n);
    let row = |(from, to): (&[f32], &mut [f32])| {
        let (gate, up) = from.split_at(n);
        with_set!(isa, S => gated_row::<S>(gate, up, activation, to));
    };
    if threads.0 > 1 && out.data.len() > 1 << 14 {
        let least = (1usize << 13).div_ceil(n);
        gate_up
            .data
            .par_chunks(2 * n)
            .zip(out.data.par_chunks_mut(n))
            .with_min_len(least)
            .for_each(row);
    } else {
        gate_up.data.chunks(2 * n).zip(out.data.chunks_mut(n)).for_each(row);
    }
}

/// Runs `$body` with `$f` bound to the function of an activation, so that the loop in it is compiled for each.
macro_rules! with_activation {
    ($S:ident, $activation:expr, $f:ident => $body:expr) => {
        match $activation {
            Activation::Silu => {
                let $f = silu::<$S>;
                $body
            }
            Activation::GeluTanh => {
                let $f = gelu_tanh::<$S>;
                $body
            }
            Activation::GeluErf => {
                let $f = gelu_erf;
                $body
            }
            Activation::Relu => {
                let $f = relu;
                $body
            }
            Activation::Relu2 => {
                let $f = relu2;
                $body
            }
            Activation::Clamped { alpha, limit } => {
                let $f = |x: f32| clamped::<$S>(x, alpha, limit);
                $body
            }
            Activation::Xielu(numbers) => {
                let curves = numbers.curves();
                let $f = |x: f32| xielu::<$S>(x, curves, numbers);
                $body
            }
        }
    };
}
/// `out = act(x)`.
pub fn activated(isa: Isa, x: &Matrix, activation: Activation, out: &mut Matrix, threads: Threads) {
    out.reshape(x.rows, x.cols);
    let stretch = |(from, to): (&[f32], &mut [f32])| {
        with_set!(isa, S => with_activation!(S, activation, f => {
            to.iter_mut().zip(from).for_each(|(to, x)| *to = f(*x));
        }));
    };
    const STRETCH: usize = 1 << 13;
    if threads.0 > 1 && out.data.len() > 1 << 14 {
        x.data
            .par_chunks(STRETCH)
            .zip(out.data.par_chunks_mut(STRETCH))
            .for_each(stretch);
    } else {
        stretch((&x.data[..], &mut out.data[..]));
    }
}

#[inline(always)]
fn gated_row<S: Set>(gate: &[f32], up: &[f32], activation: Activation, out: &mut [f32]) {
    if let Activation::Clamped { alpha, limit } = activation {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = clamped::<S>(*gate, alpha, limit) * (up.clamp(-limit, limit) + 1.0);
        }
        return;
    }
    with_activation!(S, activation, f => {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = f(*gate) * up;
        }
    });
}

/// A NaN stays one.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { x * 0.0 }
}

#[inline(always)]
fn relu2(x: f32) -> f32 {
    relu(x) * relu(x)
}

/// A gate no larger than `limit` times the sigmoid of its `alpha`-fold.
#[inline(always)]
fn clamped<S: Set>(x: f32, alpha: f32, limit: f32) -> f32 {
    let x = if x > limit { limit } else { x };
    x / (1.0 + exp::<S>(-alpha * x))
}

/// xIELU of one number, by p and n as [`Xielu::curves`] gives them.
#[inline(always)]
pub fn xielu<S: Set>(x: f32, [p, n]: [f32; 2], Xielu { beta, eps, .. }: Xielu) -> f32 {
    let below = expm1::<S>(if x < eps { x } else { eps }) - x;
    beta * x + if x > 0.0 { p * x * x } else { n * below }
}

#[inline(always)]
pub(super) fn silu<S: Set>(x: f32) -> f32 {
    x / (1.0 + exp::<S>(-x))
}

#[inline(always)]
fn gelu_tanh<S: Set>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh::<S>(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `tanh`, to an absolute error of about 1e-7.
#[inline(always)]
pub fn tanh<S: Set>(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp::<S>(2.0 * x))
}

/// `cap · tanh(x / cap)` on each element.
pub fn softcap(isa: Isa, values: &mut [f32], cap: f32) {
    with_set!(isa, S => values.iter_mut().for_each(|x| *x = tanh::<S>(*x / cap) * cap));
}

/// `eˣ` to within 2 units in the last place over the normal range; branch-free, so that a loop over it is vectorised.
///
/// **Source**: range reduction by `x = n·ln 2 + r` and the degree-6 minimax polynomial of Cephes (`expf.c`).
#[inline(always)]
pub fn exp<S: Set>(x: f32) -> f32 {
    let (y, two_to_n) = reduced::<S>(x);
    (y + 1.0) * two_to_n
}

/// `eˣ − 1`, as exact near zero as far from it.
#[inline(always)]
pub fn expm1<S: Set>(x: f32) -> f32 {
    let (y, two_to_n) = reduced::<S>(x);
    fma::<S>(y, two_to_n, two_to_n - 1.0)
}

/// With `x = n·ln 2 + r`: `eʳ − 1`, and `2ⁿ`.
#[inline(always)]
fn reduced<S: Set>(x: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = fma::<S>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<S>(n, 2.121_944_4e-4, fma::<S>(n, -0.693_359_4, x));
    let mut p = 1.987_569_1e-4;
    p = fma::<S>(p, r, 1.398_2e-3);
    p = fma::<S>(p, r, 8.333_452e-3);
    p = fma::<S>(p, r, 4.166_579_6e-2);
    p = fma::<S>(p, r, 1.666_666_5e-1);
    p = fma::<S>(p, r, 5.0e-1);
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    (fma::<S>(p, r * r, r), two_to_n)
}

/// Softmax in place; an empty slice stays empty.
pub fn softmax(isa: Isa, values: &mut [f32]) {
    with_set!(isa, S => {
        let largest = max(values);
        values.iter_mut().for_each(|x| *x = exp::<S>(*x - largest));
        let scale = 1.0 / sum(values);
        values.iter_mut().for_each(|x| *x *= scale);
    });
}

/// As [`softmax`], beside one more score, which takes its share of the weight and is not kept.
pub fn softmax_beside(isa: Isa, values: &mut [f32], sink: f32) {
    with_set!(isa, S => {
        let largest = max(values).max(sink);
        values.iter_mut().for_each(|x| *x = exp::<S>(*x - largest));
        let scale = 1.0 / (sum(values) + exp::<S>(sink - largest));
        values.iter_mut().for_each(|x| *x *= scale);
    });
}

/// Log-probability of `index` under the softmax of `logits`; the sum is f32 over lanes, its logarithm f64.
pub fn log_probability(isa: Isa, logits: &[f32], index: usize) -> f64 {
    let (largest, total) = with_set!(isa, S => {
        let largest = max(logits);
        (largest, lane_sum(logits, f32::NEG_INFINITY, #[inline(always)] |x| exp::<S>(x - largest)))
    });
    f64::from(logits[index]) - f64::from(largest) - f64::from(total).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let next = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(seed), next)
            .skip(1)
            .take(count)
            .map(|x| (x >> 8) as f32 / 8_388_608.0 - 1.0)
            .collect()
    }

    fn matrix(rows: usize, cols: usize, seed: u32) -> Matrix {
        Matrix {
            rows,
            cols,
            data: values(rows * cols, seed),
        }
    }

    fn product(linear: &Linear, x: &Matrix, threads: usize) -> Matrix {
        let (mut packed, mut out) = (PackedRows::default(), Matrix::default());
        packed.set(x, Threads(threads));
        linear.apply(&packed, &mut out, Threads(threads));
        out
    }

    fn exp_of(isa: Isa, x: f32) -> f32 {
        with_set!(isa, S => exp::<S>(x))
    }

    #[test]
    fn a_product_by_hand() {
        for isa in Isa::available() {
            let mut linear = Linear::zeros(isa, 2, 3, true);
            linear.set_rows(0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            linear.set_bias(0, &[0.5, 0.0, -1.0]);
            let x = Matrix {
                rows: 2,
                cols: 2,
                data: vec![1.0, 10.0, -1.0, 0.0],
            };
            let out = product(&linear, &x, 1);
            assert_eq!(out.data, [21.5, 43.0, 64.0, -0.5, -3.0, -6.0], "{isa}");
        }
    }

    #[test]
    fn products_agree_with_the_sum_in_f64_for_all_shapes_and_instruction_sets() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 700, 65),
            (5, 33, 130),
            (6, 64, 64),
            (13, 1100, 63),
            (200, 20, 200),
        ] {
            let (weight, x) = (values(inputs * outputs, 1), matrix(rows, inputs, 2));
            let mut fused = Vec::new();
            for isa in Isa::available() {
                let mut linear = Linear::zeros(isa, inputs, outputs, false);
                // In three pieces, as q, k and v come.
                let cuts = [0, outputs / 3, outputs / 2, outputs];
                for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
                    linear.set_rows(cut[0], &weight[cut[0] * inputs..cut[1] * inputs]);
                }
                let got = product(&linear, &x, 2);
                for (i, row) in got.data.chunks(outputs).enumerate() {
                    for (o, y) in row.iter().enumerate() {
                        let pairs = x.row(i).iter().zip(&weight[o * inputs..]);
                        let exact: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        assert!(
                            (f64::from(*y) - exact).abs() < 1e-5 * (inputs as f64).sqrt(),
                            "{isa}: {rows} {inputs} {outputs}"
                        );
                    }
                }
                let mut row = vec![0.0; inputs];
                linear.copy_row(outputs - 1, &mut row);
                assert_eq!(row, weight[(outputs - 1) * inputs..], "{isa}");
                if with_set!(isa, S => S::FUSED) {
                    fused.push(got);
                }
            }
            assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "the same bits");
        }
    }

    #[test]
    fn a_row_of_a_product_has_the_same_bits_in_any_company() {
        let (inputs, outputs) = (1300, 200);
        let x = matrix(131, inputs, 5);
        for isa in Isa::available() {
            let mut linear = Linear::zeros(isa, inputs, outputs, true);
            linear.set_rows(0, &values(inputs * outputs, 3));
            linear.set_bias(0, &values(outputs, 4));
            let together = product(&linear, &x, 3);
            for row in [0, 1, 5, 6, 95, 96, 130] {
                let one = Matrix {
                    rows: 1,
                    cols: inputs,
                    data: x.row(row).to_vec(),
                };
                assert_eq!(product(&linear, &one, 1).data, together.row(row), "{isa}");
            }
        }
    }

    #[test]
    fn argmax_is_that_of_the_product_and_the_first_of_equals() {
        let (inputs, outputs) = (40, 300);
        let x = matrix(9, inputs, 7);
        for isa in Isa::available() {
            let mut linear = Linear::zeros(isa, inputs, outputs, false);
            linear.set_rows(0, &values(inputs * outputs, 6));
            let (mut packed, out) = (PackedRows::default(), product(&linear, &x, 1));
            packed.set(&x, Threads(1));
            let expected: Vec<usize> = (0..9).map(|row| argmax(isa, out.row(row)).0).collect();
            for threads in [1, 2, 5] {
                assert_eq!(linear.argmax(&packed, |_| {}, Threads(threads)), expected);
                // All outputs equal: the first.
                let equal = linear.argmax(&packed, |row| row.fill(1.0), Threads(threads));
                assert_eq!(equal, vec![0; 9]);
            }
            assert_eq!(argmax(isa, &[1.0, 3.0, 3.0]), (1, 3.0));
            assert_eq!(argmax(isa, &[f32::NAN, 2.0]), (1, 2.0));
            assert_eq!(argmax(isa, &[f32::NAN]).0, 0);
        }
    }

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for isa in Isa::available() {
            for i in -86_000..88_000 {
                let x = i as f32 / 1000.0;
                let exact = f64::from(x).exp();
                assert!(
                    (f64::from(exp_of(isa, x)) - exact).abs() <= 2.5e-7 * exact,
                    "{isa}: {x}"
                );
            }
            assert_eq!(exp_of(isa, 0.0), 1.0);
            assert!(exp_of(isa, f32::NEG_INFINITY) < 1e-37 && exp_of(isa, -1000.0) < 1e-37);
            assert!(exp_of(isa, f32::NAN).is_nan());
            assert!(exp_of(isa, 1000.0) > 1e38);
        }
    }

    #[test]
    fn activations_by_known_values() {
        let gate_up = Matrix {
            rows: 1,
            cols: 4,
            data: vec![1.0, -2.0, 1.0, 10.0],
        };
        let mut out = Matrix::default();
        let mut check = |activation, expected: [f32; 2]| {
            for isa in Isa::available() {
                gated(isa, &gate_up, activation, &mut out, Threads(1));
                for (a, b) in out.data.iter().zip(expected) {
                    assert!((a - b).abs() < 2e-6, "{isa}, {activation:?}: {a} {b}");
                }
            }
        };
        check(Activation::Silu, [0.731_058_6, -2.384_058_4]);
        check(Activation::GeluTanh, [0.841_192, -0.454_023]);
        check(Activation::GeluErf, [0.841_344_7, -0.455_002_6]);
        check(Activation::Relu, [1.0, 0.0]);
        check(Activation::Relu2, [1.0, 0.0]);
        // 0.5 · σ(0.5) · (0.5 + 1) and −2 · σ(−2) · (0.5 + 1).
        let clamped = Activation::Clamped { alpha: 1.0, limit: 0.5 };
        check(clamped, [0.466_844_5, -0.357_608_8]);
        let x = Matrix {
            rows: 1,
            cols: 3,
            data: vec![3.0, -2.0, 1.0],
        };
        for isa in Isa::available() {
            activated(isa, &x, Activation::Relu2, &mut out, Threads(1));
            assert_eq!(out.data, [9.0, 0.0, 1.0], "{isa}");
            let numbers = Xielu {
                alpha_p: 2f32.exp_m1().ln(),
                alpha_n: 2.5f32.exp_m1().ln(),
                beta: 0.5,
                eps: -1e-6,
            };
            activated(isa, &x, Activation::Xielu(numbers), &mut out, Threads(1));
            // 2 · 9 + 1.5; 3 · (e⁻² − 1 + 2) − 1.
            assert!(
                (out.data[0] - 19.5).abs() < 1e-5 && (out.data[1] - 2.406_005_9).abs() < 1e-5,
                "{isa}"
            );
            activated(isa, &x, Activation::Silu, &mut out, Threads(1));
            assert!((out.data[2] - 0.731_058_6).abs() < 1e-6, "{isa}");
        }
    }

    #[test]
    fn a_norm_about_the_mean_by_hand() {
        for isa in Isa::available() {
            let mut x = Matrix {
                rows: 1,
                cols: 2,
                data: vec![5.0, 1.0],
            };
            // Mean 3, variance 4.
            layer_norm(isa, &mut x, &[1.0, 3.0], &[0.5, 0.0], 0.0);
            assert_eq!(x.data, [1.5, -3.0], "{isa}");
            layer_norm(isa, &mut x, &[], &[], 0.0);
            assert_eq!(x.data, [1.5, -3.0], "{isa}");
        }
    }

    #[test]
    fn norm_softmax_and_rotation_by_hand() {
        for isa in Isa::available() {
            let mut row = [3.0, 4.0];
            rms_norm_row(isa, &mut row, &[1.0, 2.0], 0.0);
            // mean square 25/2
            assert!((row[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6 && (row[1] - 8.0 / 12.5f32.sqrt()).abs() < 1e-6);
            let mut scores = [0.0, std::f32::consts::LN_2, f32::ln(5.0)];
            softmax(isa, &mut scores);
            for (got, expected) in scores.iter().zip([1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0]) {
                assert!((got - expected).abs() < 1e-6);
            }
            softmax(isa, &mut []);
            let mut beside = [0.0, std::f32::consts::LN_2];
            softmax_beside(isa, &mut beside, f32::ln(5.0));
            for (got, expected) in beside.iter().zip([1.0 / 8.0, 2.0 / 8.0]) {
                assert!((got - expected).abs() < 1e-6);
            }
            let p = log_probability(isa, &[0.0, std::f32::consts::LN_2, f32::ln(5.0)], 2);
            assert!((p - (5.0f64 / 8.0).ln()).abs() < 1e-6);
            let long: Vec<f32> = vec![1.0; 33];
            assert!((log_probability(isa, &long, 32) + 33f64.ln()).abs() < 1e-6);
            // A quarter turn of the pair (0, 2) of each head; the rest stays.
            let mut heads = [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0];
            rotate(isa, &mut heads, 4, &[0.0], &[1.0]);
            assert_eq!(heads, [-5.0, 1.0, 2.0, 6.0, -7.0, 3.0, 4.0, 8.0]);
        }
    }

    #[test]
    fn sums_and_maxima_of_odd_lengths() {
        for n in [0usize, 1, 15, 16, 17, 100] {
            let data: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&data), (n * n.saturating_sub(1) / 2) as f32);
            assert_eq!(max(&data), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }

    /// What the elementwise functions make of the same numbers.
    fn elementwise(isa: Isa) -> Vec<f32> {
        let weight = values(517, 11);
        let mut out = Vec::new();
        let gate_up = matrix(3, 2 * 517, 12);
        let mut inner = Matrix::default();
        for activation in [
            Activation::Silu,
            Activation::GeluTanh,
            Activation::GeluErf,
            Activation::Relu,
            Activation::Relu2,
        ] {
            gated(isa, &gate_up, activation, &mut inner, Threads(1));
            out.extend_from_slice(&inner.data);
        }
        rms_norm(isa, &mut inner, &weight, 1e-5);
        let mut h = matrix(3, 517, 13);
        add_scaled(isa, &mut h, &inner, 0.7);
        scale(isa, &mut h.data, 3.0);
        rotate(isa, &mut h.data[..512], 64, &weight[..16], &weight[16..32]);
        out.extend_from_slice(&h.data);
        softcap(isa, &mut h.data, 2.0);
        out.extend_from_slice(&h.data);
        out.push(log_probability(isa, &h.data, 100) as f32);
        softmax(isa, &mut h.data);
        out.extend_from_slice(&h.data);
        out
    }

    #[test]
    fn instruction_sets_agree_and_fused_ones_bit_for_bit() {
        let sets = Isa::available();
        let results: Vec<Vec<f32>> = sets.iter().map(|isa| elementwise(*isa)).collect();
        for (isa, result) in sets.iter().zip(&results) {
            let far = |(a, b): (&f32, &f32)| (a - b).abs() > 2e-6 * (1.0 + b.abs());
            let worst = result.iter().zip(&results[0]).position(far);
            assert_eq!(worst, None, "{isa}");
        }
        assert!(results[1..].windows(2).all(|pair| pair[0] == pair[1]));
    }
}
