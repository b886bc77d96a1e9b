//! Operations of the twin that are one kernel forward and one back, on the CPU.
//!
//! What candle composes of a dozen passes over memory (a norm, a rotation, attention, a gate, a cross-entropy) is one loop
//! here, with its derivative written out. Other devices use the composition, and the tests hold one against the other.
//! Rows are independent of each other going forward; whatever is summed over rows is summed in their order, so threads
//! change no bit.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor};
use heterosis_isa::{Isa, Set, with_set};
use rayon::prelude::*;

use crate::{
    kernels::{self, exp, tanh},
    spec::Activation,
};

/// The numbers of a tensor that lies in one piece.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let numbers = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&numbers[from..to]),
        None => candle_core::bail!("a tensor that lies in pieces"),
    }
}

/// Calls `f` with the numbers of some tensors.
fn with_slices<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let whole: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [&[] as &[f32]; N];
    for (to, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *to = match &**storage {
            Storage::Cpu(storage) => slice(storage, layout)?,
            _ => candle_core::bail!("a kernel of the CPU on another device"),
        };
    }
    Ok(f(slices))
}

fn same_shape(numbers: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(numbers, like.shape(), like.device())
}

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

#[inline(always)]
fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// `x / √(mean(x²) + ε) · weight`, over stretches as long as the weight.
pub(super) struct Norm {
    pub eps: f32,
}

impl Norm {
    #[inline(always)]
    fn scale(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(s1, l1)?, slice(s2, l2)?);
        let (isa, n) = (Isa::best(), weight.len());
        let mut out = x.to_vec();
        out.par_chunks_mut(n)
            .with_min_len(at_least(n))
            .for_each(|row| kernels::rms_norm_row(isa, row, weight, self.eps));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// With r the scale of a row: ∂x = r·(g∘w) − x·r³·⟨g∘w, x⟩ / n; ∂w = Σ r·(g∘x).
    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let isa = Isa::best();
        let (of_x, of_weight) = with_slices([x, weight, grad], |[x, weight, grad]| {
            let n = weight.len();
            let mut of_x = vec![0.0; x.len()];
            let rows = of_x.par_chunks_mut(n).zip(x.par_chunks(n)).zip(grad.par_chunks(n));
            rows.with_min_len(at_least(n)).for_each(|((out, x), grad)| {
                isa.run(
                    #[inline(always)]
                    || {
                        for ((out, g), w) in out.iter_mut().zip(grad).zip(weight) {
                            *out = g * w;
                        }
                        let r = self.scale(x);
                        let along = r * r * dot(out, x) / n as f32;
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = r * (*out - along * x);
                        }
                    },
                );
            });
            let mut of_weight = vec![0.0; n];
            isa.run(
                #[inline(always)]
                || {
                    for (x, grad) in x.chunks(n).zip(grad.chunks(n)) {
                        let r = self.scale(x);
                        for ((to, x), g) in of_weight.iter_mut().zip(x).zip(grad) {
                            *to += r * x * g;
                        }
                    }
                },
            );
            (of_x, of_weight)
        })?;
        Ok((Some(same_shape(of_x, x)?), Some(same_shape(of_weight, weight)?)))
    }
}

/// Rotates the heads of each token (`[rows, width, heads · head_dim]`) by its angles.
pub(super) struct Rotate {
    pub head_dim: usize,
    /// By token.
    pub cos: Arc<[f32]>,
    pub sin: Arc<[f32]>,
    pub tokens: usize,
}

impl Rotate {
    fn run(&self, x: &[f32], back: bool) -> Vec<f32> {
        let (isa, n, half) = (Isa::best(), x.len() / self.tokens, self.cos.len() / self.tokens);
        let mut out = x.to_vec();
        let angles = self.cos.par_chunks(half).zip(self.sin.par_chunks(half));
        let rows = out.par_chunks_mut(n).zip(angles);
        rows.with_min_len(at_least(n)).for_each(|(row, (cos, sin))| match back {
            false => kernels::rotate(isa, row, self.head_dim, cos, sin),
            true => {
                let sin: Vec<f32> = sin.iter().map(|x| -x).collect();
                kernels::rotate(isa, row, self.head_dim, cos, &sin);
            }
        });
        out
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.run(slice(storage, layout)?, false);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// A rotation's transpose is the rotation back.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let out = with_slices([grad], |[grad]| self.run(grad, true))?;
        Ok(Some(same_shape(out, x)?))
    }
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
    fn at(self, token: usize) -> std::ops::Range<usize> {
        let from = token * self.stride + self.from;
        from..from + self.dim
    }
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
            from: head / (self.heads / self.kv_heads) * self.head_dim,
            stride: self.kv_heads * self.head_dim,
            dim: self.head_dim,
        }
    }

    /// The keys that a query sees.
    fn seen(&self, query: usize) -> std::ops::Range<usize> {
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))..query + 1
    }

    /// Numbers of a row of queries, and of keys.
    fn sizes(&self) -> (usize, usize) {
        let of = |heads: usize| self.width * heads * self.head_dim;
        (of(self.heads), of(self.kv_heads))
    }

    /// The weights of the keys that a query sees; with a cap, `caps` holds the derivative of each capped score.
    #[inline(always)]
    fn weigh<S: Set>(&self, query: &[f32], keys: &[f32], head: Head, i: usize, weights: &mut Vec<f32>, caps: &mut Vec<f32>) {
        weights.clear();
        weights.extend(self.seen(i).map(
            #[inline(always)]
            |j| self.scale * dot(query, &keys[head.at(j)]),
        ));
        caps.clear();
        if let Some(cap) = self.softcap {
            for score in weights.iter_mut() {
                let t = tanh::<S>(*score / cap);
                caps.push(1.0 - t * t);
                *score = t * cap;
            }
        }
        let largest = weights.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut total = 0.0;
        weights.iter_mut().for_each(|x| *x = exp::<S>(*x - largest));
        weights.iter().for_each(|x| total += x);
        weights.iter_mut().for_each(|x| *x /= total);
    }

    #[inline(always)]
    fn row<S: Set>(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
        let (mut weights, mut caps) = (Vec::new(), Vec::new());
        for head in 0..self.heads {
            let (of_query, of_key) = (self.queries(head), self.keys(head));
            for i in 0..self.width {
                self.weigh::<S>(&q[of_query.at(i)], k, of_key, i, &mut weights, &mut caps);
                let out = &mut out[of_query.at(i)];
                for (j, weight) in self.seen(i).zip(&weights) {
                    add_scaled(out, &v[of_key.at(j)], *weight);
                }
            }
        }
    }

    /// With P the weights, G the derivative of the output: ∂V = PᵀG, ∂P = GVᵀ, ∂S = P∘(∂P − Σ P∘∂P), ∂Q = ∂S·K, ∂K = ∂SᵀQ.
    #[inline(always)]
    fn row_back<S: Set>(&self, [q, k, v, grad]: [&[f32]; 4], [of_q, of_k, of_v]: [&mut [f32]; 3]) {
        let (mut weights, mut caps, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
        for head in 0..self.heads {
            let (of_query, of_key) = (self.queries(head), self.keys(head));
            for i in 0..self.width {
                let query = &q[of_query.at(i)];
                self.weigh::<S>(query, k, of_key, i, &mut weights, &mut caps);
                let grad = &grad[of_query.at(i)];
                slopes.clear();
                slopes.extend(self.seen(i).map(
                    #[inline(always)]
                    |j| dot(grad, &v[of_key.at(j)]),
                ));
                let usual = dot(&slopes, &weights);
                for (slope, weight) in slopes.iter_mut().zip(&weights) {
                    *slope = self.scale * weight * (*slope - usual);
                }
                for (slope, cap) in slopes.iter_mut().zip(&caps) {
                    *slope *= cap;
                }
                let of_query = &mut of_q[of_query.at(i)];
                for ((j, weight), slope) in self.seen(i).zip(&weights).zip(&slopes) {
                    let key = of_key.at(j);
                    add_scaled(of_query, &k[key.clone()], *slope);
                    add_scaled(&mut of_k[key.clone()], query, *slope);
                    add_scaled(&mut of_v[key], grad, *weight);
                }
            }
        }
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (isa, (of_q, of_k)) = (Isa::best(), self.sizes());
        let mut out = vec![0.0; q.len()];
        let rows = out.par_chunks_mut(of_q).zip(q.par_chunks(of_q));
        let rows = rows.zip(k.par_chunks(of_k).zip(v.par_chunks(of_k)));
        rows.for_each(|((out, q), (k, v))| with_set!(isa, S => self.row::<S>(q, k, v, out)));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (isa, (of_q, of_k)) = (Isa::best(), self.sizes());
        let back = with_slices([q, k, v, grad], |[q, k, v, grad]| {
            let mut back = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
            let [back_q, back_k, back_v] = &mut back;
            let out = back_q.par_chunks_mut(of_q).zip(back_k.par_chunks_mut(of_k)).zip(back_v.par_chunks_mut(of_k));
            let inputs = q.par_chunks(of_q).zip(grad.par_chunks(of_q)).zip(k.par_chunks(of_k).zip(v.par_chunks(of_k)));
            out.zip(inputs).for_each(|(((back_q, back_k), back_v), ((q, grad), (k, v)))| {
                with_set!(isa, S => self.row_back::<S>([q, k, v, grad], [back_q, back_k, back_v]));
            });
            back
        })?;
        let [back_q, back_k, back_v] = back;
        Ok((
            Some(same_shape(back_q, q)?),
            Some(same_shape(back_k, k)?),
            Some(same_shape(back_v, v)?),
        ))
    }
}

/// `act(gate) · up`.
pub(super) struct Gate(pub Activation);

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
    }
}

impl Gate {
    /// A stretch of one, where the activation is known at compile time in each loop.
    #[inline(always)]
    fn each<S: Set>(&self, visit: impl FnMut(usize, (f32, f32)), gate: &[f32]) {
        #[inline(always)]
        fn all<S: Set>(activation: Activation, gate: &[f32], mut visit: impl FnMut(usize, (f32, f32))) {
            for (i, x) in gate.iter().enumerate() {
                visit(i, activate::<S>(activation, *x));
            }
        }
        match self.0 {
            Activation::Silu => all::<S>(Activation::Silu, gate, visit),
            Activation::GeluTanh => all::<S>(Activation::GeluTanh, gate, visit),
            Activation::GeluErf => all::<S>(Activation::GeluErf, gate, visit),
            Activation::Relu => all::<S>(Activation::Relu, gate, visit),
        }
    }
}

/// Numbers that one thread takes at a time where each stands alone.
const STRETCH: usize = 1 << 12;

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up, isa) = (slice(s1, l1)?, slice(s2, l2)?, Isa::best());
        let mut out = vec![0.0; gate.len()];
        let parts = out.par_chunks_mut(STRETCH).zip(gate.par_chunks(STRETCH).zip(up.par_chunks(STRETCH)));
        parts.for_each(|(out, (gate, up))| {
            with_set!(isa, S => self.each::<S>(#[inline(always)] |i, (a, _)| out[i] = a * up[i], gate));
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let isa = Isa::best();
        let (of_gate, of_up) = with_slices([gate, up, grad], |[gate, up, grad]| {
            let (mut of_gate, mut of_up) = (vec![0.0; gate.len()], vec![0.0; up.len()]);
            let out = of_gate.par_chunks_mut(STRETCH).zip(of_up.par_chunks_mut(STRETCH));
            let inputs = gate.par_chunks(STRETCH).zip(up.par_chunks(STRETCH)).zip(grad.par_chunks(STRETCH));
            out.zip(inputs).for_each(|((of_gate, of_up), ((gate, up), grad))| {
                with_set!(isa, S => self.each::<S>(
                    #[inline(always)]
                    |i, (a, slope)| {
                        of_gate[i] = grad[i] * up[i] * slope;
                        of_up[i] = grad[i] * a;
                    },
                    gate,
                ));
            });
            (of_gate, of_up)
        })?;
        Ok((Some(same_shape(of_gate, gate)?), Some(same_shape(of_up, up)?)))
    }
}

/// `log softmax(logits)[target]` of each row, `[rows, vocab]` → `[rows, 1]`.
pub(super) struct LogProbability(pub Arc<[u32]>);

impl CustomOp1 for LogProbability {
    fn name(&self) -> &'static str {
        "log-probability"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (logits, isa) = (slice(storage, layout)?, Isa::best());
        let n = logits.len() / self.0.len();
        let rows = logits.par_chunks(n).zip(self.0.par_iter()).with_min_len(at_least(n));
        let found = rows.map(|(row, target)| kernels::log_probability(isa, row, *target as usize) as f32);
        Ok((CpuStorage::F32(found.collect()), Shape::from((self.0.len(), 1))))
    }

    /// ∂logits = g · (1[target] − softmax).
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let isa = Isa::best();
        let back = with_slices([logits, grad], |[logits, grad]| {
            let n = logits.len() / self.0.len();
            let mut back = logits.to_vec();
            let rows = back.par_chunks_mut(n).zip(grad.par_iter().zip(self.0.par_iter()));
            rows.with_min_len(at_least(n)).for_each(|(row, (grad, target))| {
                kernels::softmax(isa, row);
                kernels::scale(isa, row, -grad);
                row[*target as usize] += grad;
            });
            back
        })?;
        Ok(Some(same_shape(back, logits)?))
    }
}
