//! One layer of the decoder, written once for every way to compute its derivatives.

use super::Error;
use crate::families::Stored;
use crate::mixer::{Inputs, Mixer, MixerKind};
use crate::spec::{Activation, DecoderSpec, Experts, NormKind, QkNorm, QueryGrowth};
use crate::tensors::head_norms;

/// What a layer is made of. Values are `[rows, width, columns]`; names are those of tensors within the layer.
pub(super) trait Algebra {
    type Value: Clone;

    /// `x · weightᵀ + bias`; the bias where the layer has one.
    fn linear(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// A norm of the stream, as the family has it; or of heads, over stretches as long as the weight.
    fn norm(&mut self, name: &str, kind: NormKind, x: &Self::Value) -> Result<Self::Value, Error>;
    /// A norm of each head, whose weights stand one after the other in tensors of these names.
    fn norm_each(&mut self, names: &[String], kind: NormKind, x: &Self::Value) -> Result<Self::Value, Error>;
    /// Within ± limit.
    fn hold(&mut self, x: &Self::Value, limit: f32) -> Result<Self::Value, Error>;
    /// `len` columns.
    fn part(&mut self, x: &Self::Value, from: usize, len: usize) -> Result<Self::Value, Error>;
    /// Each head turned by the angles of its token, of one kind of rotation.
    fn rotate(&mut self, x: &Self::Value, rope: usize) -> Result<Self::Value, Error>;
    /// Queries scaled by their position.
    fn grow(&mut self, x: &Self::Value, growth: QueryGrowth) -> Result<Self::Value, Error>;
    /// Causal attention within a window, beside a score of each head's own if that has a name.
    fn attend(
        &mut self,
        queries: &Self::Value,
        keys: &Self::Value,
        values: &Self::Value,
        window: Option<usize>,
        sinks: Option<&str>,
    ) -> Result<Self::Value, Error>;
    /// `act(gate) · up`, or `act(gate)` alone.
    fn gate(&mut self, gate: &Self::Value, up: Option<&Self::Value>) -> Result<Self::Value, Error>;
    /// The activation whose numbers the layer has learned, under this name.
    fn xielu(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// Where each row goes, by its logits: its weight at each expert, 0 where it does not go, and by expert the rows.
    fn route(
        &mut self,
        experts: &Experts,
        logits: &Self::Value,
        correction: Option<&str>,
    ) -> Result<(Self::Value, Vec<Vec<u32>>), Error>;
    /// Some rows.
    fn rows(&mut self, x: &Self::Value, rows: &[u32]) -> Result<Self::Value, Error>;
    /// Rows as before some of them were taken: the sum of what each expert made of its own, times its weight.
    fn mix(&mut self, weights: &Self::Value, parts: Vec<(usize, Vec<u32>, Self::Value)>) -> Result<Self::Value, Error>;
    /// Each row of x times the sigmoid of a number.
    fn weigh(&mut self, x: &Self::Value, number: &Self::Value) -> Result<Self::Value, Error>;
    /// The causal convolution of each column, with the kernel and perhaps the bias of that name.
    fn convolve(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// What the heads of a mixer read of their matrices, with the numbers whose names begin so.
    fn remember(
        &mut self,
        mixer: &Mixer,
        name: &str,
        mixed: &Self::Value,
        strengths: Option<&Self::Value>,
        steps: &Self::Value,
    ) -> Result<Self::Value, Error>;
    /// `a · b` on each element.
    fn times(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Error>;
    /// `1 / (1 + e^−x)` on each element.
    fn sigmoid(&mut self, x: &Self::Value) -> Result<Self::Value, Error>;
    /// `a + b`.
    fn plus(&mut self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value, Error>;
    /// `h + residual_scale · branch`.
    fn add(&mut self, h: &Self::Value, branch: &Self::Value) -> Result<Self::Value, Error>;
}

/// `[rows, width, hidden]` → the same.
pub(super) fn layer<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, h: &A::Value) -> Result<A::Value, Error> {
    let [before, after, before_mlp, after_mlp] = spec.layer_norms();
    let x = normed(spec, a, before, h)?;
    let branch = match spec.mixer_of(index) {
        None => attention(spec, index, a, &x)?,
        Some(mixer) => recurrence(mixer, a, &x)?,
    };
    let branch = normed(spec, a, after, &branch)?;
    let attended = a.add(h, &branch)?;
    let x = match (spec.parallel, before_mlp) {
        (true, None) => x,
        (true, Some(_)) => normed(spec, a, before_mlp, h)?,
        (false, _) => normed(spec, a, before_mlp, &attended)?,
    };
    let branch = match spec.experts_of(index) {
        None => mlp(spec, a, &x)?,
        Some(experts) => mixture(spec, experts, a, &x)?,
    };
    let branch = normed(spec, a, after_mlp, &branch)?;
    a.add(&attended, &branch)
}

fn normed<A: Algebra>(spec: &DecoderSpec, a: &mut A, name: Option<&str>, x: &A::Value) -> Result<A::Value, Error> {
    match name {
        None => Ok(x.clone()),
        Some(name) => a.norm(name, spec.norm, x),
    }
}

fn attention<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let (q, kv, names) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.names());
    let [queries, keys, values] = match spec.fused_qkv() {
        true => {
            let all = a.linear(names.qkv, x)?;
            [a.part(&all, 0, q)?, a.part(&all, q, kv)?, a.part(&all, q + kv, kv)?]
        }
        false => [a.linear(names.q, x)?, a.linear(names.k, x)?, a.linear(names.v, x)?],
    };
    let (queries, gates) = match spec.gates_heads() {
        true => (a.part(&queries, 0, q)?, Some(a.part(&queries, q, q)?)),
        false => (queries, None),
    };
    let mut queries = heads(spec, index, a, (names.q_norm, spec.heads), queries)?;
    if let Some(growth) = spec.query_growth {
        queries = a.grow(&queries, growth)?;
    }
    let keys = heads(spec, index, a, (names.k_norm, spec.kv_heads), keys)?;
    let values = held(spec, a, values)?;
    let sinks = spec.family.sinks.then_some("self_attn.sinks");
    let mut out = a.attend(&queries, &keys, &values, spec.layers[index].window, sinks)?;
    if let Some(gates) = gates {
        let weights = a.sigmoid(&gates)?;
        out = a.times(&out, &weights)?;
    }
    a.linear(names.o, &out)
}

/// What stands in attention's place.
fn recurrence<A: Algebra>(mixer: &Mixer, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let named = |name: &str| format!("{}.{name}", mixer.name);
    let (channels, width, heads) = (mixer.channels(), mixer.width(), mixer.heads);
    let (conv, norm) = (named(mixer.conv), named("norm"));
    let out = match mixer.kind {
        MixerKind::ShortConv => {
            let all = a.linear(&named("in_proj"), x)?;
            let [b, c, x] = [
                a.part(&all, 0, width)?,
                a.part(&all, width, width)?,
                a.part(&all, 2 * width, width)?,
            ];
            let mixed = a.times(&b, &x)?;
            let mixed = a.convolve(&conv, &mixed)?;
            a.times(&c, &mixed)?
        }
        MixerKind::Mamba2 => {
            let all = a.linear(&named("in_proj"), x)?;
            let mixed = a.part(&all, width, channels)?;
            let mixed = a.convolve(&conv, &mixed)?;
            let mixed = a.gate(&mixed, None)?;
            let steps = a.part(&all, width + channels, heads)?;
            let read = a.remember(mixer, mixer.name, &mixed, None, &steps)?;
            let gates = a.part(&all, 0, width)?;
            let read = a.gate(&gates, Some(&read))?;
            a.norm(&norm, NormKind::RmsAsStored, &read)?
        }
        MixerKind::DeltaNet => {
            let [mixed, gates, strengths, steps] = delta_inputs(mixer, a, x)?;
            let mixed = a.convolve(&conv, &mixed)?;
            let mixed = a.gate(&mixed, None)?;
            let read = a.remember(mixer, mixer.name, &mixed, Some(&strengths), &steps)?;
            let read = a.norm(&norm, NormKind::RmsAsStored, &read)?;
            a.gate(&gates, Some(&read))?
        }
    };
    a.linear(&named("out_proj"), &out)
}

/// DeltaNet's queries, keys and values, its gates, strengths and steps.
fn delta_inputs<A: Algebra>(mixer: &Mixer, a: &mut A, x: &A::Value) -> Result<[A::Value; 4], Error> {
    let named = |name: &str| format!("{}.{name}", mixer.name);
    let (channels, width, heads) = (mixer.channels(), mixer.width(), mixer.heads);
    if mixer.inputs == Inputs::ByHead {
        let (mixed, numbers) = (a.linear(&named("in_proj_qkvz"), x)?, a.linear(&named("in_proj_ba"), x)?);
        return Ok([
            a.part(&mixed, 0, channels)?,
            a.part(&mixed, channels, width)?,
            a.part(&numbers, 0, heads)?,
            a.part(&numbers, heads, heads)?,
        ]);
    }
    Ok([
        a.linear(&named("in_proj_qkv"), x)?,
        a.linear(&named("in_proj_z"), x)?,
        a.linear(&named("in_proj_b"), x)?,
        a.linear(&named("in_proj_a"), x)?,
    ])
}

/// Queries or keys of so many heads: normed where the family does, held within its limit, and rotated. The norm's weight is as
/// long as a head, or as all of them.
fn heads<A: Algebra>(
    spec: &DecoderSpec,
    index: usize,
    a: &mut A,
    (norm, count): (&str, usize),
    x: A::Value,
) -> Result<A::Value, Error> {
    let kind = spec.family.qk_norm_kind;
    let x = match spec.qk_norm {
        QkNorm::FullWidth | QkNorm::PerHead => a.norm(norm, kind, &x)?,
        QkNorm::EachHead => a.norm_each(&head_norms(norm, count), kind, &x)?,
        QkNorm::None | QkNorm::PerHeadRotated => x,
    };
    let x = held(spec, a, x)?;
    let x = match spec.layers[index].rope {
        Some(rope) => a.rotate(&x, rope)?,
        None => x,
    };
    match spec.qk_norm {
        QkNorm::PerHeadRotated => a.norm(norm, kind, &x),
        _ => Ok(x),
    }
}

fn held<A: Algebra>(spec: &DecoderSpec, a: &mut A, x: A::Value) -> Result<A::Value, Error> {
    match spec.qkv_limit {
        Some(limit) => a.hold(&x, limit),
        None => Ok(x),
    }
}

fn mlp<A: Algebra>(spec: &DecoderSpec, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let (inner, names) = (spec.intermediate, spec.names());
    let out = match (spec.gated(), spec.family.fused_gate_up) {
        (false, _) => {
            let up = a.linear(names.up, x)?;
            match spec.activation {
                Activation::Xielu(_) => a.xielu("mlp.act_fn", &up)?,
                _ => a.gate(&up, None)?,
            }
        }
        (true, true) => return two_matrices(a, (names.gate_up, names.down), inner, x),
        (true, false) => {
            let (gate, up) = (a.linear(names.gate, x)?, a.linear(names.up, x)?);
            a.gate(&gate, Some(&up))?
        }
    };
    a.linear(names.down, &out)
}

/// A layer of experts: each row to those that its router chooses, and to the shared one.
fn mixture<A: Algebra>(spec: &DecoderSpec, experts: &Experts, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let names = experts.names;
    let logits = a.linear(names.router, x)?;
    let (weights, by_expert) = a.route(experts, &logits, names.correction)?;
    let mut parts = Vec::new();
    for (expert, rows) in by_expert.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let x = a.rows(x, &rows)?;
        parts.push((expert, rows, one_expert(spec, experts, expert, a, &x)?));
    }
    let out = a.mix(&weights, parts)?;
    if experts.shared == 0 {
        return Ok(out);
    }
    let shared = match &spec.shared_names(experts)[..] {
        [gate_up, down] => two_matrices(a, (gate_up, down), experts.shared, x)?,
        [gate, up, down] => three_matrices(a, [gate, up, down], x)?,
        _ => unreachable!("an MLP has two matrices or three"),
    };
    let shared = match experts.shared_is_weighed {
        false => shared,
        true => {
            let number = a.linear(names.shared_gate, x)?;
            a.weigh(&shared, &number)?
        }
    };
    a.plus(&out, &shared)
}

fn one_expert<A: Algebra>(
    spec: &DecoderSpec,
    experts: &Experts,
    expert: usize,
    a: &mut A,
    x: &A::Value,
) -> Result<A::Value, Error> {
    match experts.names.experts {
        Stored::Each { prefix, matrices } => {
            let [gate, up, down] = matrices.map(|name| format!("{prefix}.{expert}.{name}"));
            three_matrices(a, [&gate, &up, &down], x)
        }
        Stored::Fused { gate_up, down, .. } => {
            let [gate_up, down] = spec.expert_names(expert, [gate_up, down]);
            two_matrices(a, (&gate_up, &down), experts.width, x)
        }
    }
}

/// An MLP whose gate and up, of this width each, are one matrix.
fn two_matrices<A: Algebra>(
    a: &mut A,
    (gate_up, down): (&str, &str),
    width: usize,
    x: &A::Value,
) -> Result<A::Value, Error> {
    let both = a.linear(gate_up, x)?;
    let (gate, up) = (a.part(&both, 0, width)?, a.part(&both, width, width)?);
    let inner = a.gate(&gate, Some(&up))?;
    a.linear(down, &inner)
}

fn three_matrices<A: Algebra>(a: &mut A, [gate, up, down]: [&str; 3], x: &A::Value) -> Result<A::Value, Error> {
    let (gate, up) = (a.linear(gate, x)?, a.linear(up, x)?);
    let inner = a.gate(&gate, Some(&up))?;
    a.linear(down, &inner)
}
