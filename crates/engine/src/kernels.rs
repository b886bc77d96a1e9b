//! The arithmetic of the CPU path over plain `f32` slices: packed matrix products, norms, activations, exp.
//!
//! Every function gives each output element its value in one fixed order of operations that does not depend on how many
//! rows are computed together or on how many threads share the work: a row's logits are the same bits alone and in any
//! batch. The loops run over fixed-size arrays, so that the compiler keeps accumulators in vector registers; there is no
//! `unsafe` and no intrinsic.

use rayon::prelude::*;

use super::spec::Activation;

/// Columns of a weight panel: four vectors of 16 lanes with AVX-512, otherwise what keeps 6 × NR accumulators in registers.
pub const NR: usize = if cfg!(target_feature = "avx512f") { 64 } else { 16 };
/// Rows of a register tile.
pub const MR: usize = 6;
/// Depth of a block: a panel of `KC × NR` weights stays in the second-level cache while the rows pass over it.
const KC: usize = 512;
/// Rows of a block: `MC × KC` activations stay in the second-level cache as well.
const MC: usize = 96;

/// `a * b + c`, fused where the machine can.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Activations, `[rows, cols]`, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Matrix {
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

    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

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
pub(super) fn tile<const M: usize, const N: usize>(a: &[f32], b: &[f32], acc: &mut [[f32; N]; M]) {
    let mut sums = *acc;
    let (a, _) = a.as_chunks::<M>();
    let (b, _) = b.as_chunks::<N>();
    for (a, b) in a.iter().zip(b) {
        for m in 0..M {
            for n in 0..N {
                sums[m][n] = fma(a[m], b[n], sums[m][n]);
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

/// A weight `[out, in]` as panels of [`NR`] outputs, each panel `[in][NR]`, with its bias.
pub struct Linear {
    pub inputs: usize,
    pub outputs: usize,
    panels: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub fn zeros(inputs: usize, outputs: usize, with_bias: bool) -> Self {
        let panels = vec![0.0; outputs.div_ceil(NR) * NR * inputs];
        Linear {
            inputs,
            outputs,
            panels,
            bias: with_bias.then(|| vec![0.0; outputs]),
        }
    }

    /// Writes `weight` (`[rows, in]`, row by row) into the outputs from `first` on.
    pub fn set_rows(&mut self, first: usize, weight: &[f32]) {
        let (inputs, rows) = (self.inputs, weight.len() / self.inputs);
        let write = |(p, panel): (usize, &mut [f32])| {
            let from = (p * NR).max(first);
            let to = ((p + 1) * NR).min(first + rows);
            for row in from..to {
                let values = &weight[(row - first) * inputs..(row - first + 1) * inputs];
                for (slot, value) in panel[row - p * NR..].iter_mut().step_by(NR).zip(values) {
                    *slot = *value;
                }
            }
        };
        let first_panel = first / NR;
        let panels = self.panels.par_chunks_mut(NR * inputs).enumerate().skip(first_panel);
        panels.take((first + rows).div_ceil(NR) - first_panel).for_each(write);
    }

    pub fn set_bias(&mut self, first: usize, bias: &[f32]) {
        if let Some(own) = &mut self.bias {
            own[first..first + bias.len()].copy_from_slice(bias);
        }
    }

    /// Row `output` of the weight, as it was set.
    pub fn copy_row(&self, output: usize, out: &mut [f32]) {
        let panel = &self.panels[output / NR * NR * self.inputs..];
        for (value, slot) in out.iter_mut().zip(panel[output % NR..].iter().step_by(NR)) {
            *value = *slot;
        }
    }

    pub fn size_bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }

    fn count(&self) -> usize {
        self.outputs.div_ceil(NR)
    }

    fn panel(&self, p: usize, from: usize, to: usize) -> &[f32] {
        let start = p * NR * self.inputs;
        &self.panels[start + from * NR..start + to * NR]
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
                let width = (range.end * NR).min(self.outputs) - range.start * NR;
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
            LEAST_OPERATIONS / (rows.max(1) * NR * self.inputs).max(1),
            4,
        )
    }

    /// The columns of `panels`, written to `out`, whose rows begin at the first of these columns.
    fn columns(&self, x: &PackedRows, panels: std::ops::Range<usize>, out: &mut [&mut [f32]]) {
        let first = panels.start * NR;
        let groups_per_block = MC / MR;
        let groups = x.rows.div_ceil(MR);
        for block in (0..groups).step_by(groups_per_block) {
            for from in (0..self.inputs).step_by(KC) {
                let to = (from + KC).min(self.inputs);
                for p in panels.clone() {
                    let b = self.panel(p, from, to);
                    let column = p * NR - first;
                    let width = NR.min(self.outputs - p * NR);
                    for g in block..(block + groups_per_block).min(groups) {
                        let (a, rows) = x.group(g, from, to);
                        let out = &mut out[g * MR..g * MR + rows];
                        with_rows!(rows, M => tile_into::<M>(a, b, from == 0, out, column, width));
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
        let ranges = self.ranges(x.rows, threads);
        let best_of = |range: std::ops::Range<usize>| -> Vec<(usize, f32)> {
            let mut best = vec![(usize::MAX, f32::NEG_INFINITY); x.rows];
            let mut scratch = vec![0.0; x.rows * NR];
            for p in range {
                let width = NR.min(self.outputs - p * NR);
                let mut rows: Vec<&mut [f32]> = scratch.chunks_mut(NR).map(|row| &mut row[..width]).collect();
                self.columns(x, p..p + 1, &mut rows);
                for (row, best) in rows.iter_mut().zip(&mut best) {
                    finish(row);
                    let (index, value) = argmax(row);
                    if best.0 == usize::MAX || value > best.1 {
                        *best = (p * NR + index, value);
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
fn tile_into<const M: usize>(
    a: &[f32],
    b: &[f32],
    is_first: bool,
    out: &mut [&mut [f32]],
    column: usize,
    width: usize,
) {
    let mut acc = [[0.0; NR]; M];
    if !is_first {
        for (acc, row) in acc.iter_mut().zip(out.iter()) {
            acc[..width].copy_from_slice(&row[column..column + width]);
        }
    }
    tile::<M, NR>(a, b, &mut acc);
    for (acc, row) in acc.iter().zip(out.iter_mut()) {
        // A whole panel is the common case, and one that the compiler can copy without a call.
        match row[column..].first_chunk_mut::<NR>() {
            Some(whole) if width == NR => *whole = *acc,
            _ => row[column..column + width].copy_from_slice(&acc[..width]),
        }
    }
}

/// Index and value of the largest element, the first of equals.
pub fn argmax(values: &[f32]) -> (usize, f32) {
    let best = max(values);
    (values.iter().position(|v| *v == best).unwrap_or(0), best)
}

const LANES: usize = 16;

/// Largest element; NaN is passed over, nothing gives minus infinity.
pub fn max(values: &[f32]) -> f32 {
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

pub fn sum(values: &[f32]) -> f32 {
    lane_sum(values, 0.0, |x| x)
}

pub fn sum_of_squares(values: &[f32]) -> f32 {
    lane_sum(values, 0.0, |x| x * x)
}

/// Root mean square norm of a row in place: `x / √(mean(x²) + ε) · weight`.
pub fn rms_norm_row(row: &mut [f32], weight: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(row) / row.len() as f32 + eps).sqrt();
    for (x, w) in row.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

/// [`rms_norm_row`] of each row in place; no weight, no norm.
pub fn rms_norm(x: &mut Matrix, weight: &[f32], eps: f32) {
    if !weight.is_empty() {
        x.data.chunks_mut(x.cols).for_each(|row| rms_norm_row(row, weight, eps));
    }
}

/// `h += scale · x`.
pub fn add_scaled(h: &mut Matrix, x: &Matrix, scale: f32) {
    if scale == 1.0 {
        h.data.iter_mut().zip(&x.data).for_each(|(h, x)| *h += x);
    } else {
        h.data.iter_mut().zip(&x.data).for_each(|(h, x)| *h += x * scale);
    }
}

/// `out = act(gate) · up` for rows `[gate × n, up × n]`.
pub fn gated(gate_up: &Matrix, activation: Activation, out: &mut Matrix, threads: Threads) {
    let n = gate_up.cols / 2;
    out.reshape(gate_up.rows, n);
    let row = |(from, to): (&[f32], &mut [f32])| {
        let (gate, up) = from.split_at(n);
        match activation {
            Activation::Silu => gated_row(gate, up, to, silu),
            Activation::GeluTanh => gated_row(gate, up, to, gelu_tanh),
            Activation::GeluErf => gated_row(gate, up, to, gelu_erf),
            Activation::Relu => gated_row(gate, up, to, |x| if x > 0.0 { x } else { x * 0.0 }),
        }
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

#[inline(always)]
fn gated_row(gate: &[f32], up: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = f(*gate) * up;
    }
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `tanh`, to an absolute error of about 1e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// `cap · tanh(x / cap)` on each element.
pub fn softcap(values: &mut [f32], cap: f32) {
    values.iter_mut().for_each(|x| *x = tanh(*x / cap) * cap);
}

/// `eˣ` to within 2 units in the last place over the normal range; branch-free, so that a loop over it is vectorised.
///
/// **Source**: range reduction by `x = n·ln 2 + r` and the degree-6 minimax polynomial of Cephes (`expf.c`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, 2.121_944_4e-4, fma(n, -0.693_359_4, x));
    let mut p = 1.987_569_1e-4;
    p = fma(p, r, 1.398_2e-3);
    p = fma(p, r, 8.333_452e-3);
    p = fma(p, r, 4.166_579_6e-2);
    p = fma(p, r, 1.666_666_5e-1);
    p = fma(p, r, 5.0e-1);
    let y = fma(p, r * r, r) + 1.0;
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    y * two_to_n
}

/// Softmax in place; an empty slice stays empty.
pub fn softmax(values: &mut [f32]) {
    let largest = max(values);
    values.iter_mut().for_each(|x| *x = exp(*x - largest));
    let scale = 1.0 / sum(values);
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Log-probability of `index` under the softmax of `logits`; the sum is f32 over lanes, its logarithm f64.
pub fn log_probability(logits: &[f32], index: usize) -> f64 {
    let largest = max(logits);
    let total = lane_sum(logits, f32::NEG_INFINITY, |x| exp(x - largest));
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

    fn product(linear: &Linear, x: &Matrix, threads: usize) -> Matrix {
        let (mut packed, mut out) = (PackedRows::default(), Matrix::default());
        packed.set(x, Threads(threads));
        linear.apply(&packed, &mut out, Threads(threads));
        out
    }

    #[test]
    fn a_product_by_hand() {
        let mut linear = Linear::zeros(2, 3, true);
        linear.set_rows(0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        linear.set_bias(0, &[0.5, 0.0, -1.0]);
        let x = Matrix {
            rows: 2,
            cols: 2,
            data: vec![1.0, 10.0, -1.0, 0.0],
        };
        assert_eq!(product(&linear, &x, 1).data, [21.5, 43.0, 64.0, -0.5, -3.0, -6.0]);
    }

    #[test]
    fn products_agree_with_the_sum_in_f64_for_all_shapes() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 700, 65),
            (5, 33, 130),
            (6, 64, 64),
            (13, 1100, 63),
            (200, 20, 200),
        ] {
            let (weight, x) = (
                values(inputs * outputs, 1),
                Matrix {
                    rows,
                    cols: inputs,
                    data: values(rows * inputs, 2),
                },
            );
            let mut linear = Linear::zeros(inputs, outputs, false);
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
                        "{rows} {inputs} {outputs}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_of_a_product_has_the_same_bits_in_any_company() {
        let (inputs, outputs) = (1300, 200);
        let mut linear = Linear::zeros(inputs, outputs, true);
        linear.set_rows(0, &values(inputs * outputs, 3));
        linear.set_bias(0, &values(outputs, 4));
        let x = Matrix {
            rows: 131,
            cols: inputs,
            data: values(131 * inputs, 5),
        };
        let together = product(&linear, &x, 3);
        for row in [0, 1, 5, 6, 95, 96, 130] {
            let alone = product(
                &linear,
                &Matrix {
                    rows: 1,
                    cols: inputs,
                    data: x.row(row).to_vec(),
                },
                1,
            );
            assert_eq!(alone.data, together.row(row));
        }
    }

    #[test]
    fn argmax_is_that_of_the_product_and_the_first_of_equals() {
        let (inputs, outputs) = (40, 300);
        let mut linear = Linear::zeros(inputs, outputs, false);
        linear.set_rows(0, &values(inputs * outputs, 6));
        let x = Matrix {
            rows: 9,
            cols: inputs,
            data: values(9 * inputs, 7),
        };
        let (mut packed, out) = (PackedRows::default(), product(&linear, &x, 1));
        packed.set(&x, Threads(1));
        let expected: Vec<usize> = (0..9).map(|row| argmax(out.row(row)).0).collect();
        for threads in [1, 2, 5] {
            assert_eq!(linear.argmax(&packed, |_| {}, Threads(threads)), expected);
            // All outputs equal: the first.
            assert_eq!(
                linear.argmax(&packed, |row| row.fill(1.0), Threads(threads)),
                vec![0; 9]
            );
        }
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), (1, 3.0));
        assert_eq!(argmax(&[f32::NAN, 2.0]), (1, 2.0));
        assert_eq!(argmax(&[f32::NAN]).0, 0);
    }

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 2.5e-7 * exact, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(-1000.0) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(1000.0) > 1e38);
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
            gated(&gate_up, activation, &mut out, Threads(1));
            for (a, b) in out.data.iter().zip(expected) {
                assert!((a - b).abs() < 2e-6, "{activation:?}: {a} {b}");
            }
        };
        check(Activation::Silu, [0.731_058_6, -2.384_058_4]);
        check(Activation::GeluTanh, [0.841_192, -0.454_023]);
        check(Activation::GeluErf, [0.841_344_7, -0.455_002_6]);
        check(Activation::Relu, [1.0, 0.0]);
    }

    #[test]
    fn norm_and_softmax_by_hand() {
        let mut row = [3.0, 4.0];
        rms_norm_row(&mut row, &[1.0, 2.0], 0.0);
        // mean square 25/2
        assert!((row[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6 && (row[1] - 8.0 / 12.5f32.sqrt()).abs() < 1e-6);
        let mut scores = [0.0, std::f32::consts::LN_2, f32::ln(5.0)];
        softmax(&mut scores);
        for (got, expected) in scores.iter().zip([1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0]) {
            assert!((got - expected).abs() < 1e-6);
        }
        softmax(&mut []);
        let p = log_probability(&[0.0, std::f32::consts::LN_2, f32::ln(5.0)], 2);
        assert!((p - (5.0f64 / 8.0).ln()).abs() < 1e-6);
        let long: Vec<f32> = vec![1.0; 33];
        assert!((log_probability(&long, 32) + 33f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn sums_and_maxima_of_odd_lengths() {
        for n in [0usize, 1, 15, 16, 17, 100] {
            let data: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&data), (n * n.saturating_sub(1) / 2) as f32);
            assert_eq!(max(&data), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
