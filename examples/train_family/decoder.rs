//! A small Llama for training: candle's automatic differentiation over the matrix products, and four fused operations
//! with their own backward pass (RMSNorm, causal attention with rotary positions, SwiGLU, cross-entropy).
//!
//! A batch is the concatenation of its texts, without padding: every operation but attention works token by token, and
//! attention knows where the texts begin. CPU, f32 and training only; no cache, no generation.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Shape, Storage, Tensor, Var};
use candle_nn::{Embedding, Linear, Module};
use heterosis_isa::Isa;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde_json::{Value, json};

pub const HEAD_DIM: usize = 16;
pub const NORM_EPS: f32 = 1e-5; // config() says it again, as a double
pub const ROPE_THETA: f32 = 10_000.0;
pub const CONTEXT: usize = 512;
const LAYER_TENSORS: usize = 9;

#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub vocabulary: usize,
    pub hidden: usize,
    pub layers: usize,
    pub intermediate: usize,
}

impl Size {
    pub fn heads(&self) -> usize {
        self.hidden / HEAD_DIM
    }

    /// Hugging Face names and shapes, in a fixed order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden, self.intermediate);
        let mut out = vec![("model.embed_tokens.weight".to_string(), vec![self.vocabulary, h])];
        for layer in 0..self.layers {
            let parts: [(&str, Vec<usize>); LAYER_TENSORS] = [
                ("input_layernorm", vec![h]),
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.k_proj", vec![h, h]),
                ("self_attn.v_proj", vec![h, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("post_attention_layernorm", vec![h]),
                ("mlp.gate_proj", vec![f, h]),
                ("mlp.up_proj", vec![f, h]),
                ("mlp.down_proj", vec![h, f]),
            ];
            out.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
        }
        out.push(("model.norm.weight".to_string(), vec![h]));
        out
    }

    pub fn config(&self, eos: u32, pad: u32) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads(),
            "num_key_value_heads": self.heads(),
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": f64::from(ROPE_THETA),
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": true,
            "bos_token_id": null,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "initializer_range": 0.02,
            "use_cache": true,
            "torch_dtype": "float16",
        })
    }
}

/// The trainable tensors, by Hugging Face name.
pub struct Weights {
    pub size: Size,
    pub vars: Vec<(String, Var)>,
}

impl Weights {
    /// Normal with a standard deviation of 0.03 (output projections smaller, by √(2 · layers)), norms at one.
    pub fn random(size: Size, seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let residual = 0.03 / (2.0 * size.layers as f32).sqrt();
        let values = |name: &str, count: usize, rng: &mut ChaCha8Rng| -> Result<Vec<f32>> {
            if name.ends_with("norm.weight") {
                return Ok(vec![1.0; count]);
            }
            let narrow = name.contains("o_proj") || name.contains("down_proj");
            let normal = Normal::new(0.0, if narrow { residual } else { 0.03 })?;
            Ok((0..count).map(|_| normal.sample(rng)).collect())
        };
        let tensors = size.tensors().into_iter().map(|(name, shape)| {
            let data = values(&name, shape.iter().product(), &mut rng)?;
            Ok((name, shape, data))
        });
        Self::from_values(size, tensors.collect::<Result<Vec<_>>>()?)
    }

    pub fn from_values(size: Size, values: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<Self> {
        let vars = values.into_iter().map(|(name, shape, data)| {
            let tensor = Tensor::from_vec(data, shape, &Device::Cpu)?;
            Ok((name, Var::from_tensor(&tensor)?))
        });
        Ok(Self {
            size,
            vars: vars.collect::<Result<Vec<_>>>()?,
        })
    }

    pub fn count(&self) -> usize {
        self.vars.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// The training loss of a batch, the weighted mean of the tokens' negative log-likelihoods, along a path of layers. What is
    /// not tuned has no gradient.
    pub fn loss(&self, batch: &Batch, path: &[usize], tuned: &Tuned) -> Result<Tensor> {
        let weight = |at: usize| {
            let (name, var) = &self.vars[at];
            if tuned.holds(name) {
                var.as_tensor().clone()
            } else {
                var.as_detached_tensor()
            }
        };
        let table = weight(0);
        let ids = Tensor::new(batch.inputs.as_slice(), &Device::Cpu)?;
        let mut x = Embedding::new(table.clone(), self.size.hidden).forward(&ids)?;
        let rope = Arc::new(Rope::new(batch.texts.iter().map(Range::len).max().unwrap_or(0)));
        let attention = Attention {
            texts: batch.texts.clone(),
            heads: self.size.heads(),
            rope,
        };
        for layer in path {
            let part = |at: usize| weight(1 + layer * LAYER_TENSORS + at);
            let linear = |at: usize, x: &Tensor| Linear::new(part(at), None).forward(x);
            let h = x.apply_op2(&part(0), RmsNorm)?;
            let mixed = linear(1, &h)?.apply_op3(&linear(2, &h)?, &linear(3, &h)?, attention.clone())?;
            x = (x + linear(4, &mixed)?)?;
            let h = x.apply_op2(&part(5), RmsNorm)?;
            let hidden = linear(6, &h)?.apply_op2(&linear(7, &h)?, SwiGlu)?;
            x = (x + linear(8, &hidden)?)?;
        }
        let norm = weight(self.vars.len() - 1);
        let logits = Linear::new(table, None).forward(&x.apply_op2(&norm, RmsNorm)?)?;
        let (targets, weights) = (batch.targets.clone(), batch.weights.clone());
        Ok(logits.apply_op1(CrossEntropy { targets, weights })?)
    }
}

/// Which tensors a training moves.
#[derive(Clone, Debug)]
pub struct Tuned {
    pub embeddings: bool,
    pub layers: Range<usize>,
    pub last_norm: bool,
}

impl Tuned {
    pub fn all(layers: usize) -> Self {
        Self {
            embeddings: true,
            layers: 0..layers,
            last_norm: true,
        }
    }

    /// Whether a tensor, by its Hugging Face name, is one of them.
    pub fn holds(&self, name: &str) -> bool {
        let layer = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next()?.parse().ok());
        match layer {
            Some(layer) => self.layers.contains(&layer),
            None if name.contains("embed_tokens") => self.embeddings,
            None => self.last_norm,
        }
    }
}

/// Texts end to end.
pub struct Batch {
    pub inputs: Vec<u32>,
    pub targets: Arc<Vec<u32>>,
    /// How much each target counts.
    pub weights: Arc<Vec<f32>>,
    /// Where each text lies.
    pub texts: Arc<Vec<Range<usize>>>,
}

// ---- fused operations -------------------------------------------------------------------------------------------

type Op = candle_core::Result<(CpuStorage, Shape)>;

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("the fused operations take contiguous tensors");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `f` over the tensors' values, [`vectorised`].
fn read<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> candle_core::Result<T> {
    let mut contiguous = Vec::with_capacity(N);
    for tensor in tensors {
        contiguous.push(tensor.contiguous()?);
    }
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for ((storage, layout), out) in guards.iter().zip(&mut slices) {
        match &**storage {
            Storage::Cpu(cpu) => *out = slice(cpu, layout)?,
            _ => candle_core::bail!("the fused operations run on the CPU"),
        }
    }
    Ok(vectorised(
        #[inline(always)]
        || f(slices),
    ))
}

/// Runs a loop with the widest vectors of this machine; what it calls must be inlined.
#[inline(always)]
fn vectorised<T>(f: impl FnOnce() -> T) -> T {
    Isa::best().run(f)
}

fn tensor(data: Vec<f32>, like: &Tensor) -> candle_core::Result<Option<Tensor>> {
    Ok(Some(Tensor::from_vec(data, like.shape(), &Device::Cpu)?))
}

/// e^x to about 1e-7 relative, in a form that vectorises.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let t = (x * std::f32::consts::LOG2_E).clamp(-126.0, 126.0);
    let whole = t.round_ties_even();
    let f = (t - whole) * std::f32::consts::LN_2;
    let series =
        1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f * (1.0 / 720.0))))));
    series * f32::from_bits(((whole as i32 + 127) << 23) as u32)
}

/// y = x / rms(x) · w.
struct RmsNorm;

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, xl: &Layout, ws: &CpuStorage, wl: &Layout) -> Op {
        let (x, w) = (slice(xs, xl)?, slice(ws, wl)?);
        let mut out = vec![0.0; x.len()];
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(w.len()).zip(out.chunks_exact_mut(w.len())) {
                    let scale = inverse_rms(x);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                        *y = x * scale * w;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = read(
            [x, w, dy],
            #[inline(always)]
            |[x, w, dy]| {
                let width = w.len();
                let mut dx = vec![0.0; x.len()];
                let mut dw = vec![0.0; width];
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
                for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width)) {
                    let scale = inverse_rms(x);
                    let mut along = 0.0;
                    for i in 0..width {
                        along += dy[i] * w[i] * x[i];
                        dw[i] += dy[i] * x[i] * scale;
                    }
                    let pull = along * scale * scale * scale / width as f32;
                    for i in 0..width {
                        dx[i] = dy[i] * w[i] * scale - x[i] * pull;
                    }
                }
                (dx, dw)
            },
        )?;
        Ok((tensor(dx, x)?, tensor(dw, w)?))
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + NORM_EPS).sqrt()
}

/// Σ x·y over sixteen lanes: a sum in one fixed order that is not the sequential one, so that it vectorises.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((x, last_x), (y, last_y)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in x.iter().zip(y) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    last_x.iter().zip(last_y).map(|(x, y)| x * y).sum::<f32>() + lanes.iter().sum::<f32>()
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, last) = x.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    last.iter().sum::<f32>() + lanes.iter().sum::<f32>()
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, last) = x.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    last.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// y = silu(gate) · up.
struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gs: &CpuStorage, gl: &Layout, us: &CpuStorage, ul: &Layout) -> Op {
        let (gate, up) = (slice(gs, gl)?, slice(us, ul)?);
        let mut out = vec![0.0; gate.len()];
        vectorised(
            #[inline(always)]
            || {
                for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *out = g / (1.0 + exp(-g)) * u;
                }
            },
        );
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dg, du) = read(
            [gate, up, dy],
            #[inline(always)]
            |[gate, up, dy]| {
                let mut dg = vec![0.0; gate.len()];
                let mut du = vec![0.0; gate.len()];
                for i in 0..gate.len() {
                    let s = 1.0 / (1.0 + exp(-gate[i]));
                    du[i] = dy[i] * gate[i] * s;
                    dg[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                }
                (dg, du)
            },
        )?;
        Ok((tensor(dg, gate)?, tensor(du, up)?))
    }
}

/// Weighted mean of −log softmax(logits)[target].
struct CrossEntropy {
    targets: Arc<Vec<u32>>,
    weights: Arc<Vec<f32>>,
}

impl CrossEntropy {
    fn total_weight(&self) -> f32 {
        self.weights.iter().sum::<f32>().max(1e-6)
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Op {
        let logits = slice(storage, layout)?;
        let width = layout.dims()[1];
        let mut loss = 0.0f64;
        let mut powers = vec![0.0; width];
        let rows = logits.chunks_exact(width);
        vectorised(
            #[inline(always)]
            || {
                for (row, (&target, &weight)) in rows.zip(self.targets.iter().zip(self.weights.iter())) {
                    if weight > 0.0 {
                        let largest = largest(row);
                        for (power, &z) in powers.iter_mut().zip(row) {
                            *power = exp(z - largest);
                        }
                        loss += f64::from(weight * (sum(&powers).ln() + largest - row[target as usize]));
                    }
                }
            },
        );
        Ok((
            CpuStorage::F32(vec![(loss / f64::from(self.total_weight())) as f32]),
            Shape::from(()),
        ))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let width = logits.dim(1)?;
        let grad = grad.to_scalar::<f32>()? / self.total_weight();
        let dz = read(
            [logits],
            #[inline(always)]
            |[logits]| {
                let mut dz = vec![0.0; logits.len()];
                let rows = logits.chunks_exact(width).zip(dz.chunks_exact_mut(width));
                for ((row, dz), (&target, &weight)) in rows.zip(self.targets.iter().zip(self.weights.iter())) {
                    if weight > 0.0 {
                        let largest = largest(row);
                        for (d, &z) in dz.iter_mut().zip(row) {
                            *d = exp(z - largest);
                        }
                        let scale = grad * weight / sum(dz);
                        dz.iter_mut().for_each(|d| *d *= scale);
                        dz[target as usize] -= grad * weight;
                    }
                }
                dz
            },
        )?;
        tensor(dz, logits)
    }
}

type Head = [f32; HEAD_DIM];

/// Cosines and sines of the rotary positions, halves paired as Hugging Face pairs them.
struct Rope(Vec<[[f32; HEAD_DIM / 2]; 2]>);

impl Rope {
    fn new(positions: usize) -> Self {
        let angle = |position: usize, i: usize| position as f32 * ROPE_THETA.powf(-2.0 * i as f32 / HEAD_DIM as f32);
        Self(
            (0..positions)
                .map(|p| {
                    [
                        std::array::from_fn(|i| angle(p, i).cos()),
                        std::array::from_fn(|i| angle(p, i).sin()),
                    ]
                })
                .collect(),
        )
    }

    /// Rotates by the position's angle, or back.
    #[inline(always)]
    fn rotate(&self, position: usize, x: &[f32], back: bool) -> Head {
        let [cos, sin] = &self.0[position];
        let sign = if back { -1.0 } else { 1.0 };
        let mut out = [0.0; HEAD_DIM];
        for i in 0..HEAD_DIM / 2 {
            let (a, b) = (x[i], x[i + HEAD_DIM / 2]);
            out[i] = a * cos[i] - sign * b * sin[i];
            out[i + HEAD_DIM / 2] = b * cos[i] + sign * a * sin[i];
        }
        out
    }
}

/// Causal attention within each text, rotary positions from the text's beginning.
#[derive(Clone)]
struct Attention {
    texts: Arc<Vec<Range<usize>>>,
    heads: usize,
    rope: Arc<Rope>,
}

/// One text's queries, keys and values under one head, transposed where loops run along the text: `[HEAD_DIM][length]`.
#[derive(Default)]
struct HeadRows {
    q: Vec<Head>,
    kt: Vec<f32>,
    vt: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

impl HeadRows {
    #[inline(always)]
    fn load(&mut self, attention: &Attention, [q, k, v]: [&[f32]; 3], text: &Range<usize>, head: usize) {
        let width = attention.heads * HEAD_DIM;
        let at = |row: usize| row * width + head * HEAD_DIM..row * width + (head + 1) * HEAD_DIM;
        self.q.clear();
        self.kt.resize(text.len() * HEAD_DIM, 0.0);
        self.vt.resize(text.len() * HEAD_DIM, 0.0);
        for (p, row) in text.clone().enumerate() {
            self.q.push(attention.rope.rotate(p, &q[at(row)], false));
            let k = attention.rope.rotate(p, &k[at(row)], false);
            let v = &v[at(row)];
            for d in 0..HEAD_DIM {
                self.kt[d * text.len() + p] = k[d];
                self.vt[d * text.len() + p] = v[d];
            }
        }
        self.p.resize(text.len(), 0.0);
        self.dp.resize(text.len(), 0.0);
    }

    /// Fills `p[..=i]` with the attention of row `i`.
    #[inline(always)]
    fn attend(&mut self, i: usize) {
        let p = &mut self.p[..=i];
        products(&self.q[i], &self.kt, self.q.len(), p);
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        let largest = largest(p);
        p.iter_mut().for_each(|p| *p = exp((*p - largest) * scale));
        let inverse = 1.0 / sum(p);
        p.iter_mut().for_each(|p| *p *= inverse);
    }
}

/// out[j] = x · column j.
#[inline(always)]
fn products(x: &Head, transposed: &[f32], length: usize, out: &mut [f32]) {
    out.fill(0.0);
    for (x, column) in x.iter().zip(transposed.chunks_exact(length)) {
        for (out, y) in out.iter_mut().zip(column) {
            *out += x * y;
        }
    }
}

/// Σ weight[j] · column j.
#[inline(always)]
fn weighted_sum(weights: &[f32], transposed: &[f32], length: usize) -> Head {
    let mut out = [0.0; HEAD_DIM];
    for (out, column) in out.iter_mut().zip(transposed.chunks_exact(length)) {
        *out = dot(weights, &column[..weights.len()]);
    }
    out
}

/// column j += weight[j] · x.
#[inline(always)]
fn scatter(weights: &[f32], x: &Head, transposed: &mut [f32], length: usize) {
    for (x, column) in x.iter().zip(transposed.chunks_exact_mut(length)) {
        for (out, weight) in column.iter_mut().zip(weights) {
            *out += weight * x;
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, qs: &CpuStorage, ql: &Layout, ks: &CpuStorage, kl: &Layout, vs: &CpuStorage, vl: &Layout) -> Op {
        let qkv = [slice(qs, ql)?, slice(ks, kl)?, slice(vs, vl)?];
        let out = vectorised(
            #[inline(always)]
            || self.values(qkv),
        );
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dq, dk, dv] = read(
            [q, k, v, dy],
            #[inline(always)]
            |[q, k, v, dy]| self.gradients([q, k, v], dy),
        )?;
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

impl Attention {
    #[inline(always)]
    fn values(&self, qkv: [&[f32]; 3]) -> Vec<f32> {
        let width = self.heads * HEAD_DIM;
        let mut out = vec![0.0; qkv[0].len()];
        let mut rows = HeadRows::default();
        for text in self.texts.iter() {
            for head in 0..self.heads {
                rows.load(self, qkv, text, head);
                for i in 0..text.len() {
                    rows.attend(i);
                    let at = (text.start + i) * width + head * HEAD_DIM;
                    out[at..at + HEAD_DIM].copy_from_slice(&weighted_sum(&rows.p[..=i], &rows.vt, text.len()));
                }
            }
        }
        out
    }

    #[inline(always)]
    fn gradients(&self, qkv: [&[f32]; 3], dy: &[f32]) -> [Vec<f32>; 3] {
        let width = self.heads * HEAD_DIM;
        let scale = 1.0 / (HEAD_DIM as f32).sqrt();
        let mut out = [(); 3].map(|()| vec![0.0; dy.len()]);
        let mut rows = HeadRows::default();
        let (mut dkt, mut dvt) = (Vec::new(), Vec::new());
        for text in self.texts.iter() {
            let length = text.len();
            for head in 0..self.heads {
                rows.load(self, qkv, text, head);
                for columns in [&mut dkt, &mut dvt] {
                    columns.clear();
                    columns.resize(length * HEAD_DIM, 0.0);
                }
                let at = |i: usize| (text.start + i) * width + head * HEAD_DIM;
                for i in 0..length {
                    rows.attend(i);
                    let d: Head = std::array::from_fn(|x| dy[at(i) + x]);
                    let (p, dp) = (&rows.p[..=i], &mut rows.dp[..=i]);
                    products(&d, &rows.vt, length, dp);
                    let mean = dot(p, dp);
                    dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean) * scale);
                    scatter(p, &d, &mut dvt, length);
                    scatter(dp, &rows.q[i], &mut dkt, length);
                    let dq = weighted_sum(dp, &rows.kt, length);
                    out[0][at(i)..at(i) + HEAD_DIM].copy_from_slice(&self.rope.rotate(i, &dq, true));
                }
                for i in 0..length {
                    let row = |columns: &[f32]| -> Head { std::array::from_fn(|d| columns[d * length + i]) };
                    out[1][at(i)..at(i) + HEAD_DIM].copy_from_slice(&self.rope.rotate(i, &row(&dkt), true));
                    out[2][at(i)..at(i) + HEAD_DIM].copy_from_slice(&row(&dvt));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fused operation has a part in the loss, so its gradient must match finite differences everywhere.
    #[test]
    fn gradients_match_finite_differences() {
        let size = Size {
            vocabulary: 7,
            hidden: 32,
            layers: 2,
            intermediate: 16,
        };
        let weights = Weights::random(size, 5).unwrap();
        let batch = Batch {
            inputs: vec![1, 2, 3, 4, 5, 6, 0, 1],
            targets: Arc::new(vec![2, 3, 4, 5, 6, 0, 1, 2]),
            weights: Arc::new(vec![0.5, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
            texts: Arc::new(vec![0..5, 5..8]),
        };
        for (_, var) in &weights.vars {
            // Larger than the initial values, so that the differences stand out of f32's rounding.
            let shape = var.shape();
            var.set(&(Tensor::randn(0f32, 0.4, shape, &Device::Cpu).unwrap() + 0.1).unwrap())
                .unwrap();
        }
        // The first layer runs twice, as in a path that goes back.
        let (path, tuned) = ([0, 1, 0], Tuned::all(2));
        let grads = weights.loss(&batch, &path, &tuned).unwrap().backward().unwrap();
        for (name, var) in &weights.vars {
            let grad: Vec<f32> = grads.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            let at = values.len() / 2;
            let loss_at = |delta: f32| {
                let mut moved = values.clone();
                moved[at] += delta;
                var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                    .unwrap();
                weights.loss(&batch, &path, &tuned).unwrap().to_scalar::<f32>().unwrap()
            };
            let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            loss_at(0.0);
            assert!(
                (slope - grad[at]).abs() < 2e-3 + 2e-2 * slope.abs(),
                "{name}: {slope} against {}",
                grad[at]
            );
        }
    }

    #[test]
    fn the_exponential_is_close() {
        for x in [-80.0f32, -10.0, -1.0, -1e-3, 0.0, 0.3, 1.0, 5.0, 20.0] {
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-5, "{x}");
        }
    }
}
