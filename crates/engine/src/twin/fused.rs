//! Operations of the twin that are one kernel forward and one back, on the CPU.
//!
//! What candle composes of a dozen passes over memory (a norm, a rotation, attention, a gate, a cross-entropy) is one loop
//! here, with its derivative written out; other devices use the composition, and the tests hold one against the other.
//! Rows are independent of each other going forward; whatever is summed over rows is summed in their order, or in blocks
//! that no thread decides, so threads change no bit.

use std::borrow::Cow;
use std::ops::Range;

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use heterosis_isa::{Isa, Set, with_set};
use rayon::prelude::*;

use super::{Shares, batch::Rotation};
use crate::{
    kernels::{self, exp, fma, sigmoid, tanh},
    spec::{Activation, Xielu},
};

/// Rows that one thread takes at least.
fn at_least(row: usize) -> usize {
    (1usize << 14).div_ceil(row.max(1))
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let (blocks_a, blocks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = blocks_a.remainder().iter().zip(blocks_b.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in blocks_a.zip(blocks_b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0] + rest
}

/// Rows and columns of a product that are computed together: what is multiplied by is packed once for as many rows.
const ROWS: usize = 1024;
const COLUMNS: usize = 256;
/// Rows of a weight's gradient that are computed together.
const WEIGHT_ROWS: usize = 160;

/// `x · weightᵀ`: `[n, inputs]`, `[outputs, inputs]` → `[n, outputs]`.
pub(super) fn product_transposed(x: &[f32], weight: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / inputs * outputs];
    let weight = MatRef::from_row_major_slice(weight, outputs, inputs);
    multiply(x, weight.transpose(), Accum::Replace, &mut out);
    out
}

/// `out += slope · weight`: `[n, outputs]`, `[outputs, inputs]` → `[n, inputs]`.
pub(super) fn add_product(slope: &[f32], weight: &[f32], inputs: usize, outputs: usize, out: &mut [f32]) {
    multiply(
        slope,
        MatRef::from_row_major_slice(weight, outputs, inputs),
        Accum::Add,
        out,
    );
}

/// `out (+)= x · by`, in blocks that no thread decides.
fn multiply(x: &[f32], by: MatRef<'_, f32>, accum: Accum, out: &mut [f32]) {
    let (inputs, outputs) = (by.nrows(), by.ncols());
    let blocks = out.par_chunks_mut(ROWS * outputs).zip(x.par_chunks(ROWS * inputs));
    blocks.for_each(|(out, x)| {
        let n = x.len() / inputs;
        let (out, x) = (
            MatMut::from_row_major_slice_mut(out, n, outputs),
            MatRef::from_row_major_slice(x, n, inputs),
        );
        multiply_columns(x, by, accum, out);
    });
}

fn multiply_columns(x: MatRef<'_, f32>, by: MatRef<'_, f32>, accum: Accum, out: MatMut<'_, f32>) {
    if by.ncols() <= COLUMNS {
        return matmul(out, accum, x, by, 1.0, Par::Seq);
    }
    let half = by.ncols().div_ceil(COLUMNS) / 2 * COLUMNS;
    let (left, right) = by.split_at_col(half);
    let (out_left, out_right) = out.split_at_col_mut(half);
    rayon::join(
        || multiply_columns(x, left, accum, out_left),
        || multiply_columns(x, right, accum, out_right),
    );
}

/// `out += slopeᵀ · x`: `[n, outputs]`, `[n, inputs]` → `[outputs, inputs]`.
pub(super) fn add_outer(slope: &[f32], x: &[f32], inputs: usize, outputs: usize, out: &mut [f32]) {
    let n = x.len() / inputs;
    let x = MatRef::from_row_major_slice(x, n, inputs);
    let slope = MatRef::from_row_major_slice(slope, n, outputs);
    let blocks = out.par_chunks_mut(WEIGHT_ROWS * inputs).enumerate();
    blocks.for_each(|(block, out)| {
        let rows = out.len() / inputs;
        let slope = slope.subcols(block * WEIGHT_ROWS, rows);
        let out = MatMut::from_row_major_slice_mut(out, rows, inputs);
        matmul(out, Accum::Add, slope.transpose(), x, 1.0, Par::Seq);
    });
}

/// `out += Σ rows`.
pub(super) fn add_rows(rows: &[f32], out: &mut [f32]) {
    rows.chunks(out.len()).for_each(|row| add(out, row, 1.0));
}

/// `Σ a · b`.
pub(super) fn product(a: &[f32], b: &[f32]) -> f32 {
    Isa::best().run(
        #[inline(always)]
        || dot(a, b),
    )
}

/// `to += factor · from`.
pub(super) fn add(to: &mut [f32], from: &[f32], factor: f32) {
    kernels::add_row(Isa::best(), to, from, factor);
}

/// `len` columns of rows of so many.
pub(super) fn columns(x: &[f32], cols: usize, from: usize, len: usize) -> Vec<f32> {
    let rows = x.chunks(cols).flat_map(|row| &row[from..from + len]);
    rows.copied().collect()
}

/// Writes columns of rows of so many, from one on.
pub(super) fn set_columns(x: &mut [f32], cols: usize, from: usize, columns: &[f32], len: usize) {
    for (row, columns) in x.chunks_mut(cols).zip(columns.chunks(len)) {
        row[from..from + len].copy_from_slice(columns);
    }
}

/// `a · b` on each element.
pub(super) fn times(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// `x = factor · x`.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    kernels::scale(Isa::best(), x, factor);
}

/// A norm of rows as long as its weight: `x / √(mean(x²) + ε) · weight + bias`, of x less its mean where it is about that.
pub(super) struct Norm<'a> {
    pub weight: Vec<f32>,
    pub bias: Option<&'a [f32]>,
    pub about_mean: bool,
    pub eps: f32,
}

impl Norm<'_> {
    /// What is squared: x, or x less its mean.
    fn centred<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match self.about_mean {
            false => Cow::Borrowed(x),
            true => Cow::Owned(centred(x, self.weight.len())),
        }
    }

    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (isa, n) = (Isa::best(), self.weight.len());
        let mut out = self.centred(x).into_owned();
        out.par_chunks_mut(n).with_min_len(at_least(n)).for_each(|row| {
            kernels::rms_norm_row(isa, row, &self.weight, self.eps);
            if let Some(bias) = self.bias {
                add(row, bias, 1.0);
            }
        });
        out
    }

    /// The derivative of x; the weight's is added to `of_weight`. (The bias's is the sum of the slopes.)
    pub fn back(&self, x: &[f32], slope: &[f32], of_weight: &mut [f32]) -> Vec<f32> {
        let of_centred = norm_back(&self.centred(x), &self.weight, self.eps, slope, of_weight);
        match self.about_mean {
            false => of_centred,
            // x − mean(x) is a projection, and its own transpose.
            true => centred(&of_centred, self.weight.len()),
        }
    }
}

/// Each stretch of n numbers less its mean.
fn centred(x: &[f32], n: usize) -> Vec<f32> {
    let isa = Isa::best();
    let mut out = x.to_vec();
    let rows = out.par_chunks_mut(n).with_min_len(at_least(n));
    rows.for_each(|row| kernels::centre(isa, row));
    out
}

#[inline(always)]
fn norm_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// With r the scale of a row: ∂x = r·(g∘w) − x·r³·⟨g∘w, x⟩ / n; `of_weight` += Σ r·(g∘x).
fn norm_back(x: &[f32], weight: &[f32], eps: f32, slope: &[f32], of_weight: &mut [f32]) -> Vec<f32> {
    let (isa, n) = (Isa::best(), weight.len());
    let mut of_x = vec![0.0; x.len()];
    let rows = of_x.par_chunks_mut(n).zip(x.par_chunks(n)).zip(slope.par_chunks(n));
    rows.with_min_len(at_least(n)).for_each(|((out, x), slope)| {
        isa.run(
            #[inline(always)]
            || {
                for ((out, g), w) in out.iter_mut().zip(slope).zip(weight) {
                    *out = g * w;
                }
                let r = norm_scale(x, eps);
                let along = r * r * dot(out, x) / n as f32;
                for (out, x) in out.iter_mut().zip(x) {
                    *out = r * (*out - along * x);
                }
            },
        );
    });
    isa.run(
        #[inline(always)]
        || {
            for (x, slope) in x.chunks(n).zip(slope.chunks(n)) {
                let r = norm_scale(x, eps);
                for ((to, x), g) in of_weight.iter_mut().zip(x).zip(slope) {
                    *to += r * x * g;
                }
            }
        },
    );
    of_x
}

/// Rotates the heads of each token by its angles, or back: a rotation's transpose.
pub(super) fn rotate(x: &mut [f32], head_dim: usize, rotation: &Rotation, tokens: usize, back: bool) {
    let (isa, n, half) = (Isa::best(), x.len() / tokens, rotation.cos.len() / tokens);
    let angles = rotation.cos.par_chunks(half).zip(rotation.sin.par_chunks(half));
    let rows = x.par_chunks_mut(n).zip(angles);
    rows.with_min_len(at_least(n)).for_each(|(row, (cos, sin))| match back {
        false => kernels::rotate(isa, row, head_dim, cos, sin),
        true => {
            let sin: Vec<f32> = sin.iter().map(|x| -x).collect();
            kernels::rotate(isa, row, head_dim, cos, &sin);
        }
    });
}

/// Causal attention of queries `[rows, width, heads · d]` to keys and values `[rows, width, kv_heads · d]`.
#[derive(Clone, Copy)]
pub(super) struct Attend {
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
}

/// Where one head's numbers stand among those of a row of tokens.
#[derive(Clone, Copy)]
struct Head {
    from: usize,
    stride: usize,
    dim: usize,
}

impl Head {
    #[inline(always)]
    fn at(self, token: usize) -> Range<usize> {
        let from = token * self.stride + self.from;
        from..from + self.dim
    }

    /// The head's numbers of some tokens.
    #[inline(always)]
    fn rows(self, x: &[f32], tokens: Range<usize>) -> Rows<'_> {
        Rows {
            numbers: &x[tokens.start * self.stride + self.from..],
            stride: self.stride,
            count: tokens.len(),
        }
    }
}

/// Rows that stand `stride` apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    numbers: &'a [f32],
    stride: usize,
    count: usize,
}

/// Queries whose weights are held at a time going back.
const TILE: usize = 32;

/// One head's numbers of all tokens, `[dim, width]`, so that products with all of them are computed side by side.
struct Turned {
    numbers: Vec<f32>,
    /// The width, and room for a last stretch that is not full.
    stride: usize,
}

impl Turned {
    /// Products that are computed side by side.
    const STRETCH: usize = 32;

    fn new(x: &[f32], head: Head, width: usize) -> Self {
        let stride = width + Self::STRETCH;
        let mut numbers = vec![0.0; head.dim * stride];
        for token in 0..width {
            for (row, x) in numbers.chunks_mut(stride).zip(&x[head.at(token)]) {
                row[token] = *x;
            }
        }
        Turned { numbers, stride }
    }

    /// `Σ by · x` of as many tokens as `out` is long, from `first` on.
    #[inline(always)]
    fn products<S: Set>(&self, by: &[f32], first: usize, out: &mut [f32]) {
        for (stretch, out) in out.chunks_mut(Self::STRETCH).enumerate() {
            let at = first + stretch * Self::STRETCH;
            let mut sums = [0.0f32; Self::STRETCH];
            for (row, by) in self.numbers.chunks_exact(self.stride).zip(by) {
                let row = &row[at..][..Self::STRETCH];
                for i in 0..Self::STRETCH {
                    sums[i] = fma::<S>(*by, row[i], sums[i]);
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// `out += Σ weights · rows`; the weights stand some numbers apart.
#[inline(always)]
fn add_weighted<S: Set>(out: &mut [f32], weights: (&[f32], usize), rows: Rows<'_>) {
    let mut from = 0;
    while out.len() - from >= 64 {
        add_columns::<S, 64, 1>(out, from, weights, rows);
        from += 64;
    }
    if out.len() - from >= 32 {
        add_columns::<S, 32, 2>(out, from, weights, rows);
        from += 32;
    }
    if out.len() - from >= 16 {
        add_columns::<S, 16, 4>(out, from, weights, rows);
        from += 16;
    }
    for column in from..out.len() {
        add_columns::<S, 1, 4>(out, column, weights, rows);
    }
}

/// `N` columns of a sum of rows, in `WAYS` sums that do not wait for each other.
#[inline(always)]
fn add_columns<S: Set, const N: usize, const WAYS: usize>(
    out: &mut [f32],
    from: usize,
    (weights, apart): (&[f32], usize),
    rows: Rows<'_>,
) {
    let mut sums = [[0.0f32; N]; WAYS];
    let weighed = |i: usize| (weights[i * apart], &rows.numbers[i * rows.stride + from..][..N]);
    let even = rows.count / WAYS * WAYS;
    for i in (0..even).step_by(WAYS) {
        for (way, sum) in sums.iter_mut().enumerate() {
            add_row::<S, N>(sum, weighed(i + way));
        }
    }
    for i in even..rows.count {
        add_row::<S, N>(&mut sums[0], weighed(i));
    }
    for c in 0..N {
        for sum in &sums {
            out[from + c] += sum[c];
        }
    }
}

#[inline(always)]
fn add_row<S: Set, const N: usize>(sum: &mut [f32; N], (weight, row): (f32, &[f32])) {
    for c in 0..N {
        sum[c] = fma::<S>(weight, row[c], sum[c]);
    }
}

/// The largest of some numbers and of one more, in lanes that do not wait for each other.
#[inline(always)]
fn largest(x: &[f32], or: f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [or; LANES];
    let blocks = x.chunks_exact(LANES);
    for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane = if *x > *lane { *x } else { *lane };
    }
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().fold(or, f32::max)
}

#[inline(always)]
fn total(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let blocks = x.chunks_exact(LANES);
    for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane += x;
    }
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += block[i];
        }
    }
    lanes.into_iter().sum()
}

impl Attend {
    fn queries(&self, head: usize) -> Head {
        Head {
            from: head * self.head_dim,
            stride: self.heads * self.head_dim,
            dim: self.head_dim,
        }
    }

    /// Query heads that share a key head stand one after the other.
    fn keys(&self, head: usize) -> Head {
        Head {
            from: head / self.shared() * self.head_dim,
            stride: self.kv_heads * self.head_dim,
            dim: self.head_dim,
        }
    }

    /// Query heads that share a key head.
    fn shared(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Keys or values by key head.
    fn turned(&self, x: &[f32]) -> Vec<Turned> {
        let heads = (0..self.heads).step_by(self.shared());
        heads.map(|head| Turned::new(x, self.keys(head), self.width)).collect()
    }

    /// The keys that a query sees.
    fn seen(&self, query: usize) -> Range<usize> {
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))..query + 1
    }

    /// Numbers of a row of queries, and of keys.
    fn sizes(&self) -> (usize, usize) {
        let of = |heads: usize| self.width * heads * self.head_dim;
        (of(self.heads), of(self.kv_heads))
    }

    /// The weights of the keys that a query sees, beside the score of the head's own if it has one, whose weight is given
    /// back; with a cap, `caps` holds the derivative of each capped score.
    #[inline(always)]
    fn weigh<S: Set>(
        &self,
        query: &[f32],
        keys: &Turned,
        (i, sink): (usize, Option<f32>),
        weights: &mut [f32],
        caps: &mut Vec<f32>,
    ) -> f32 {
        keys.products::<S>(query, self.seen(i).start, weights);
        weights.iter_mut().for_each(|score| *score *= self.scale);
        caps.clear();
        if let Some(cap) = self.softcap {
            for score in weights.iter_mut() {
                let t = tanh::<S>(*score / cap);
                caps.push(1.0 - t * t);
                *score = t * cap;
            }
        }
        let largest = largest(weights, sink.unwrap_or(f32::NEG_INFINITY));
        let of_sink = sink.map_or(0.0, |sink| exp::<S>(sink - largest));
        weights.iter_mut().for_each(|x| *x = exp::<S>(*x - largest));
        let part = 1.0 / (total(weights) + of_sink);
        weights.iter_mut().for_each(|x| *x *= part);
        of_sink * part
    }

    #[inline(always)]
    fn row<S: Set>(&self, [q, k, v]: [&[f32]; 3], sinks: &[f32], out: &mut [f32]) {
        let (mut weights, mut caps) = (vec![0.0; self.width], Vec::new());
        let keys = self.turned(k);
        for head in 0..self.heads {
            let (of_query, of_key) = (self.queries(head), self.keys(head));
            let keys = &keys[head / self.shared()];
            for i in 0..self.width {
                let (sink, seen) = (sinks.get(head).copied(), self.seen(i));
                let weights = &mut weights[..seen.len()];
                self.weigh::<S>(&q[of_query.at(i)], keys, (i, sink), weights, &mut caps);
                add_weighted::<S>(&mut out[of_query.at(i)], (weights, 1), of_key.rows(v, seen));
            }
        }
    }

    /// With P the weights, G the derivative of the output: ∂V = PᵀG, ∂P = GVᵀ, ∂S = P∘(∂P − Σ P∘∂P), ∂Q = ∂S·K, ∂K = ∂SᵀQ.
    /// A score that no value stands behind has a ∂P of 0. P and ∂S are held of a tile of queries, with zeros where one does not see a
    /// key, so that what they add to a key's derivatives is added at once.
    #[inline(always)]
    fn row_back<S: Set>(
        &self,
        [q, k, v, grad]: [&[f32]; 4],
        sinks: &[f32],
        [of_q, of_k, of_v, of_sinks]: [&mut [f32]; 4],
    ) {
        let width = self.width;
        let (mut weights, mut slopes) = (vec![0.0; TILE * width], vec![0.0; TILE * width]);
        let (keys, values, mut caps) = (self.turned(k), self.turned(v), Vec::new());
        for head in 0..self.heads {
            let (of_query, of_key) = (self.queries(head), self.keys(head));
            let (keys, values) = (&keys[head / self.shared()], &values[head / self.shared()]);
            for first in (0..width).step_by(TILE) {
                let tile = first..(first + TILE).min(width);
                weights.fill(0.0);
                slopes.fill(0.0);
                for i in tile.clone() {
                    let (sink, seen) = (sinks.get(head).copied(), self.seen(i));
                    let of_row = (i - first) * width + seen.start..(i - first) * width + seen.end;
                    let (weights, slopes) = (&mut weights[of_row.clone()], &mut slopes[of_row]);
                    let of_sink = self.weigh::<S>(&q[of_query.at(i)], keys, (i, sink), weights, &mut caps);
                    values.products::<S>(&grad[of_query.at(i)], seen.start, slopes);
                    let usual = dot(slopes, weights);
                    if let Some(of_head) = of_sinks.get_mut(head) {
                        *of_head -= of_sink * usual;
                    }
                    for (slope, weight) in slopes.iter_mut().zip(&*weights) {
                        *slope = self.scale * weight * (*slope - usual);
                    }
                    for (slope, cap) in slopes.iter_mut().zip(&caps) {
                        *slope *= cap;
                    }
                    add_weighted::<S>(&mut of_q[of_query.at(i)], (slopes, 1), of_key.rows(k, seen));
                }
                let queries = of_query.rows(q, tile.clone());
                let grads = of_query.rows(grad, tile.clone());
                for j in self.seen(first).start..tile.end {
                    add_weighted::<S>(&mut of_k[of_key.at(j)], (&slopes[j..], width), queries);
                    add_weighted::<S>(&mut of_v[of_key.at(j)], (&weights[j..], width), grads);
                }
            }
        }
    }

    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], sinks: &[f32]) -> Vec<f32> {
        let (isa, (of_q, of_k)) = (Isa::best(), self.sizes());
        let mut out = vec![0.0; q.len()];
        let rows = out.par_chunks_mut(of_q).zip(q.par_chunks(of_q));
        let rows = rows.zip(k.par_chunks(of_k).zip(v.par_chunks(of_k)));
        rows.for_each(|((out, q), (k, v))| with_set!(isa, S => self.row::<S>([q, k, v], sinks, out)));
        out
    }

    /// The derivatives of queries, keys and values, and of the heads' own scores.
    pub fn back(&self, [q, k, v, slope]: [&[f32]; 4], sinks: &[f32]) -> ([Vec<f32>; 3], Vec<f32>) {
        let (isa, (of_q, of_k)) = (Isa::best(), self.sizes());
        let mut back = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
        let mut back_sinks = vec![0.0; q.len() / of_q * sinks.len()];
        let [back_q, back_k, back_v] = &mut back;
        let out = back_q
            .par_chunks_mut(of_q)
            .zip(back_k.par_chunks_mut(of_k))
            .zip(back_v.par_chunks_mut(of_k));
        let inputs = q
            .par_chunks(of_q)
            .zip(slope.par_chunks(of_q))
            .zip(k.par_chunks(of_k).zip(v.par_chunks(of_k)));
        // By row, so that they are added in one order.
        let mut of_sinks: Vec<&mut [f32]> = match sinks.is_empty() {
            true => (0..q.len() / of_q).map(|_| <&mut [f32]>::default()).collect(),
            false => back_sinks.chunks_mut(sinks.len()).collect(),
        };
        out.zip(inputs).zip(of_sinks.par_iter_mut()).for_each(
            |((((back_q, back_k), back_v), ((q, slope), (k, v))), of_sinks)| {
                let out = [back_q, back_k, back_v, of_sinks];
                with_set!(isa, S => self.row_back::<S>([q, k, v, slope], sinks, out));
            },
        );
        let mut sum = vec![0.0; sinks.len()];
        if !sinks.is_empty() {
            add_rows(&back_sinks, &mut sum);
        }
        (back, sum)
    }
}

/// An activation and its derivative.
#[inline(always)]
fn activate<S: Set>(activation: Activation, x: f32) -> (f32, f32) {
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + exp::<S>(-x));
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            const SQRT_2_OVER_PI: f32 = 0.797_884_6;
            let t = tanh::<S>(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x));
            let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
        }
        Activation::GeluErf => {
            const SQRT_2_PI: f32 = 2.506_628_3;
            let part = 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
            (x * part, part + x * exp::<S>(-0.5 * x * x) / SQRT_2_PI)
        }
        Activation::Relu => (x.max(0.0), f32::from(u8::from(x > 0.0))),
        Activation::Relu2 => (x.max(0.0) * x.max(0.0), 2.0 * x.max(0.0)),
        Activation::Clamped { alpha, limit } => {
            let (held, is_free) = (x.min(limit), f32::from(u8::from(x <= limit)));
            let s = 1.0 / (1.0 + exp::<S>(-alpha * held));
            (held * s, is_free * s * (1.0 + alpha * held * (1.0 - s)))
        }
        Activation::Xielu(numbers) => {
            let [p, n] = numbers.curves();
            let slope = match (x > 0.0, x < numbers.eps) {
                (true, _) => 2.0 * p * x,
                (false, true) => n * (exp::<S>(x) - 1.0),
                (false, false) => -n,
            };
            (kernels::xielu::<S>(x, [p, n], numbers), numbers.beta + slope)
        }
    }
}

/// What multiplies the activation, and its derivative by `up`.
#[inline(always)]
fn raised(activation: Activation, up: f32) -> (f32, f32) {
    match activation {
        Activation::Clamped { limit, .. } => (up.clamp(-limit, limit) + 1.0, f32::from(u8::from(up.abs() <= limit))),
        _ => (up, 1.0),
    }
}

/// Calls `visit` with each number's place, activation and slope, in a loop in which the activation is known.
#[inline(always)]
fn each<S: Set>(activation: Activation, gate: &[f32], visit: impl FnMut(usize, (f32, f32))) {
    #[inline(always)]
    fn all<S: Set>(activation: Activation, gate: &[f32], mut visit: impl FnMut(usize, (f32, f32))) {
        for (i, x) in gate.iter().enumerate() {
            visit(i, activate::<S>(activation, *x));
        }
    }
    match activation {
        Activation::Silu => all::<S>(Activation::Silu, gate, visit),
        Activation::GeluTanh => all::<S>(Activation::GeluTanh, gate, visit),
        Activation::GeluErf => all::<S>(Activation::GeluErf, gate, visit),
        Activation::Relu => all::<S>(Activation::Relu, gate, visit),
        Activation::Relu2 => all::<S>(Activation::Relu2, gate, visit),
        Activation::Clamped { .. } | Activation::Xielu(_) => all::<S>(activation, gate, visit),
    }
}

/// Numbers that one thread takes at a time where each stands alone.
const STRETCH: usize = 1 << 12;

/// `act(gate) · up`.
pub(super) fn gate(activation: Activation, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let isa = Isa::best();
    let mut out = vec![0.0; gate.len()];
    let inputs = gate.par_chunks(STRETCH).zip(up.par_chunks(STRETCH));
    out.par_chunks_mut(STRETCH).zip(inputs).for_each(|(out, (gate, up))| {
        with_set!(isa, S => each::<S>(activation, gate, #[inline(always)] |i, (a, _)| out[i] = a * raised(activation, up[i]).0));
    });
    out
}

/// `act(x)`.
pub(super) fn activated(activation: Activation, x: &[f32]) -> Vec<f32> {
    let isa = Isa::best();
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(STRETCH)
        .zip(x.par_chunks(STRETCH))
        .for_each(|(out, x)| {
            with_set!(isa, S => each::<S>(activation, x, #[inline(always)] |i, (a, _)| out[i] = a));
        });
    out
}

/// The derivative of x, in place of that of `act(x)`.
pub(super) fn activated_back(activation: Activation, x: &[f32], slope: &mut [f32]) {
    let isa = Isa::best();
    slope
        .par_chunks_mut(STRETCH)
        .zip(x.par_chunks(STRETCH))
        .for_each(|(slope, x)| {
            with_set!(isa, S => each::<S>(activation, x, #[inline(always)] |i, (_, bend)| slope[i] *= bend));
        });
}

/// The derivative of x, in place of that of its xIELU; gives those of the four numbers.
pub(super) fn xielu_back(numbers: Xielu, x: &[f32], slope: &mut [f32]) -> [f32; 4] {
    let [_, n] = numbers.curves();
    let (mut of_p, mut of_n, mut of_beta, mut of_eps) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (x, slope) in x.iter().zip(&*slope) {
        let slope = f64::from(*slope);
        of_beta += slope * f64::from(*x);
        match *x > 0.0 {
            true => of_p += slope * f64::from(x * x),
            false => of_n += slope * f64::from(x.min(numbers.eps).exp_m1() - x),
        }
        if *x <= 0.0 && *x > numbers.eps {
            of_eps += slope * f64::from(n * numbers.eps.exp());
        }
    }
    activated_back(Activation::Xielu(numbers), x, slope);
    let (of_alpha_p, of_alpha_n) = (sigmoid(numbers.alpha_p), sigmoid(numbers.alpha_n));
    [
        of_p as f32 * of_alpha_p,
        of_n as f32 * of_alpha_n,
        (of_beta + of_n) as f32,
        of_eps as f32,
    ]
}

/// Scales each token's row by a factor of its place: `[rows, width, n]`.
pub(super) fn scale_by_place(x: &mut [f32], n: usize, width: usize, factor: impl Fn(usize) -> f32) {
    for (token, row) in x.chunks_mut(n).enumerate() {
        scale(row, factor(token % width));
    }
}

/// The derivatives of gate and up.
pub(super) fn gate_back(activation: Activation, gate: &[f32], up: &[f32], slope: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let isa = Isa::best();
    let (mut of_gate, mut of_up) = (vec![0.0; gate.len()], vec![0.0; up.len()]);
    let out = of_gate.par_chunks_mut(STRETCH).zip(of_up.par_chunks_mut(STRETCH));
    let inputs = gate
        .par_chunks(STRETCH)
        .zip(up.par_chunks(STRETCH))
        .zip(slope.par_chunks(STRETCH));
    out.zip(inputs).for_each(|((of_gate, of_up), ((gate, up), slope))| {
        with_set!(isa, S => each::<S>(
            activation,
            gate,
            #[inline(always)]
            |i, (a, bend)| {
                let (up, of_raised) = raised(activation, up[i]);
                of_gate[i] = slope[i] * up * bend;
                of_up[i] = slope[i] * a * of_raised;
            },
        ));
    });
    (of_gate, of_up)
}

/// `Σ share · log softmax(logits)[token]` of each row.
pub(super) fn log_probabilities(logits: &[f32], targets: &[Shares]) -> Vec<f32> {
    let (isa, n) = (Isa::best(), logits.len() / targets.len());
    let rows = logits.par_chunks(n).zip(targets.par_iter()).with_min_len(at_least(n));
    let of_row = |(row, target): (&[f32], &Shares)| {
        let Some((first, _)) = target.first() else { return 0.0 };
        let of_first = kernels::log_probability(isa, row, *first as usize);
        let above = |token: u32| f64::from(row[token as usize]) - f64::from(row[*first as usize]);
        let of_all = target
            .iter()
            .map(|(token, share)| f64::from(*share) * (of_first + above(*token)));
        of_all.sum::<f64>() as f32
    };
    rows.map(of_row).collect()
}

/// ∂logits = slope · (shares − softmax), in place of the logits; shares sum to 1.
pub(super) fn log_probabilities_back(logits: &mut [f32], targets: &[Shares], slopes: &[f32]) {
    let (isa, n) = (Isa::best(), logits.len() / targets.len());
    let rows = logits.par_chunks_mut(n).zip(slopes.par_iter().zip(targets.par_iter()));
    rows.with_min_len(at_least(n)).for_each(|(row, (slope, target))| {
        kernels::softmax(isa, row);
        kernels::scale(isa, row, -slope);
        for (token, share) in target {
            row[*token as usize] += slope * share;
        }
    });
}

/// `cap · tanh(x / cap)` in place; gives the derivative of each.
pub(super) fn softcap(x: &mut [f32], cap: f32) -> Vec<f32> {
    let isa = Isa::best();
    let mut bends = vec![0.0; x.len()];
    x.par_chunks_mut(STRETCH)
        .zip(bends.par_chunks_mut(STRETCH))
        .for_each(|(x, bends)| {
            with_set!(isa, S => {
                for (x, bend) in x.iter_mut().zip(bends) {
                    let t = tanh::<S>(*x / cap);
                    (*x, *bend) = (t * cap, 1.0 - t * t);
                }
            });
        });
    bends
}
