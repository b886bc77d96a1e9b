//! One layer of the decoder, written once for every way to compute its derivatives.

use super::Error;
use crate::families::{BesideMlp, Stored};
use crate::mixer::{Inputs, Mixer, MixerKind};
use crate::spec::{Activation, DecoderSpec, Experts, Keys, LayerSpec, NormKind, PerLayer, QkNorm, QueryGrowth};
use crate::tensors::{LAYER_SCALAR, PER_LAYER, PER_LAYER_GATE, PER_LAYER_NORM, PER_LAYER_OUTPUT, head_norms};

/// What a layer is made of. Values are `[rows, width, columns]`; names are those of tensors within the layer.
pub(super) trait Algebra {
    type Value: Clone;

    /// `x · weightᵀ + bias`; the bias where the layer has one.
    fn linear(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// A norm of the stream, as the family has it; or of heads, over stretches as long as the weight.
    fn norm(&mut self, name: &str, kind: NormKind, x: &Self::Value) -> Result<Self::Value, Error>;
    /// A norm of each head of d dimensions, whose weights stand one after the other in tensors of these names; without a name,
    /// by no weight.
    fn norm_each(&mut self, names: &[String], kind: NormKind, d: usize, x: &Self::Value) -> Result<Self::Value, Error>;
    /// Within ± limit.
    fn hold(&mut self, x: &Self::Value, limit: f32) -> Result<Self::Value, Error>;
    /// `len` columns.
    fn part(&mut self, x: &Self::Value, from: usize, len: usize) -> Result<Self::Value, Error>;
    /// Each head of d dimensions turned by the angles of its token, of one kind of rotation.
    fn rotate(&mut self, x: &Self::Value, rope: usize, d: usize) -> Result<Self::Value, Error>;
    /// Queries scaled by their position.
    fn grow(&mut self, x: &Self::Value, growth: QueryGrowth) -> Result<Self::Value, Error>;
    /// Causal attention of a layer's queries to keys and values, within its window, beside a score of each head's own if that
    /// has a name.
    fn attend(
        &mut self,
        layer: &LayerSpec,
        queries: &Self::Value,
        keys_and_values: &[Self::Value; 2],
        sinks: Option<&str>,
    ) -> Result<Self::Value, Error>;
    /// The row of each token in a table.
    fn token_rows(&mut self, table: &str) -> Result<Self::Value, Error>;
    /// `factor · x`.
    fn scaled(&mut self, x: &Self::Value, factor: f32) -> Result<Self::Value, Error>;
    /// Each column of x times a number of its own, which the layer has learned.
    fn scaled_columns(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// x times a number that the layer has learned.
    fn scaled_by(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
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

/// What goes into a layer.
#[derive(Clone, Copy)]
pub(super) struct Given<V> {
    /// The stream, `[rows, width, hidden]`.
    pub h: V,
    /// The tokens' embeddings, where layers read them.
    pub embedded: Option<V>,
    /// The keys and values of another layer, where this one takes them.
    pub keys_and_values: Option<[V; 2]>,
}

/// What comes out of it, or of its attention: the stream, or what is added to it, and keys and values, where it has such.
#[derive(Clone, Copy)]
pub(super) struct Out<V> {
    pub h: V,
    pub keys_and_values: Option<[V; 2]>,
}

/// One layer.
pub(super) fn layer<A: Algebra>(
    spec: &DecoderSpec,
    index: usize,
    a: &mut A,
    given: Given<A::Value>,
) -> Result<Out<A::Value>, Error> {
    let [before, after, before_mlp, after_mlp] = spec.layer_norms();
    let h = &given.h;
    let x = normed(spec, a, before, h)?;
    let Out {
        h: branch,
        keys_and_values,
    } = match spec.mixer_of(index) {
        None => attention(spec, index, a, &x, given.keys_and_values)?,
        Some(mixer) => Out {
            h: recurrence(mixer, a, &x)?,
            keys_and_values: None,
        },
    };
    let branch = normed(spec, a, after, &branch)?;
    let attended = a.add(h, &branch)?;
    let x = match (spec.parallel, before_mlp) {
        (true, None) => x,
        (true, Some(_)) => normed(spec, a, before_mlp, h)?,
        (false, _) => normed(spec, a, before_mlp, &attended)?,
    };
    let branch = match spec.experts_of(index) {
        None => mlp(spec, index, a, &x)?,
        Some(experts) => match experts.beside {
            None => mixture(spec, experts, a, (&x, &x))?,
            Some(beside) => {
                let own = mlp(spec, index, a, &x)?;
                both(spec, (experts, beside), a, &own, &attended)?
            }
        },
    };
    let branch = normed(spec, a, after_mlp, &branch)?;
    let mut h = a.add(&attended, &branch)?;
    if let (Some(per_layer), Some(embedded)) = (spec.per_layer, &given.embedded) {
        h = with_embeddings(spec, per_layer, a, embedded, &h)?;
    }
    if spec.family.scales_layers {
        h = a.scaled_by(LAYER_SCALAR, &h)?;
    }
    Ok(Out { h, keys_and_values })
}

/// The stream, and what the layer makes of its tokens' embeddings in it.
fn with_embeddings<A: Algebra>(
    spec: &DecoderSpec,
    per_layer: PerLayer,
    a: &mut A,
    embedded: &A::Value,
    h: &A::Value,
) -> Result<A::Value, Error> {
    let [table, projection, norm] = PER_LAYER;
    let projected = a.linear(projection, embedded)?;
    let projected = a.scaled(&projected, (spec.hidden as f32).powf(-0.5))?;
    let projected = a.norm(norm, spec.norm, &projected)?;
    let of_token = a.token_rows(table)?;
    let of_token = a.scaled(&of_token, (per_layer.width as f32).sqrt())?;
    let both = a.plus(&projected, &of_token)?;
    let both = a.scaled(&both, 0.5f32.sqrt())?;
    let gate = a.linear(PER_LAYER_GATE, h)?;
    let gate = a.gate(&gate, None)?;
    let branch = a.times(&gate, &both)?;
    let branch = a.linear(PER_LAYER_OUTPUT, &branch)?;
    let branch = a.norm(PER_LAYER_NORM, spec.norm, &branch)?;
    a.add(h, &branch)
}

fn normed<A: Algebra>(spec: &DecoderSpec, a: &mut A, name: Option<&str>, x: &A::Value) -> Result<A::Value, Error> {
    match name {
        None => Ok(x.clone()),
        Some(name) => a.norm(name, spec.norm, x),
    }
}

/// A layer's attention, to keys and values of its own, which it gives too, or to those of another layer.
fn attention<A: Algebra>(
    spec: &DecoderSpec,
    index: usize,
    a: &mut A,
    x: &A::Value,
    others: Option<[A::Value; 2]>,
) -> Result<Out<A::Value>, Error> {
    let (layer, names) = (&spec.layers[index], spec.names());
    let (q, kv) = (spec.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
    let (queries, own) = match (spec.fused_qkv(), layer.keys) {
        (true, _) => {
            let all = a.linear(names.qkv, x)?;
            let own = [a.part(&all, q, kv)?, a.part(&all, q + kv, kv)?];
            (a.part(&all, 0, q)?, Some(own))
        }
        (false, Keys::Of(_)) => (a.linear(names.q, x)?, None),
        (false, keys) => {
            let values = if keys == Keys::Own { names.v } else { names.k };
            (
                a.linear(names.q, x)?,
                Some([a.linear(names.k, x)?, a.linear(values, x)?]),
            )
        }
    };
    let (queries, gates) = match spec.gates_heads() {
        true => (a.part(&queries, 0, q)?, Some(a.part(&queries, q, q)?)),
        false => (queries, None),
    };
    let mut queries = heads(spec, index, a, (names.q_norm, spec.heads), queries)?;
    if let Some(growth) = spec.query_growth {
        queries = a.grow(&queries, growth)?;
    }
    let own = match own {
        Some([keys, values]) => {
            let keys = heads(spec, index, a, (names.k_norm, layer.kv_heads), keys)?;
            let values = match spec.family.norms_values {
                true => a.norm_each(&[], spec.family.qk_norm_kind, layer.head_dim, &values)?,
                false => values,
            };
            Some([keys, held(spec, a, values)?])
        }
        None => None,
    };
    let sinks = spec.family.sinks.then_some("self_attn.sinks");
    let keys_and_values = own.as_ref().or(others.as_ref());
    let keys_and_values = keys_and_values.ok_or(Error::PathWithoutKeys {
        layer: index,
        source_layer: index,
    })?;
    let mut out = a.attend(layer, &queries, keys_and_values, sinks)?;
    if let Some(gates) = gates {
        let weights = a.sigmoid(&gates)?;
        out = a.times(&out, &weights)?;
    }
    Ok(Out {
        h: a.linear(names.o, &out)?,
        keys_and_values: own,
    })
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
    let (kind, layer) = (spec.family.qk_norm_kind, &spec.layers[index]);
    let x = match spec.qk_norm {
        QkNorm::FullWidth | QkNorm::PerHead => a.norm(norm, kind, &x)?,
        QkNorm::EachHead => a.norm_each(&head_norms(norm, count), kind, layer.head_dim, &x)?,
        QkNorm::None | QkNorm::PerHeadRotated => x,
    };
    let x = held(spec, a, x)?;
    let x = match layer.rope {
        Some(rope) => a.rotate(&x, rope, layer.head_dim)?,
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

fn mlp<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let (inner, names) = (spec.layers[index].intermediate, spec.names());
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

/// What a layer's one MLP made, and what the experts beside it make of the stream, each normed.
fn both<A: Algebra>(
    spec: &DecoderSpec,
    (experts, beside): (&Experts, BesideMlp),
    a: &mut A,
    own: &A::Value,
    h: &A::Value,
) -> Result<A::Value, Error> {
    let [after_mlp, before, after] = beside.norms;
    let own = a.norm(after_mlp, spec.norm, own)?;
    let routed = a.norm_each(&[], spec.norm, spec.hidden, h)?;
    let routed = a.scaled_columns(beside.router_scale, &routed)?;
    let routed = a.scaled(&routed, (spec.hidden as f32).powf(-0.5))?;
    let x = a.norm(before, spec.norm, h)?;
    let of_experts = mixture(spec, experts, a, (&x, &routed))?;
    let of_experts = a.norm(after, spec.norm, &of_experts)?;
    a.plus(&own, &of_experts)
}

/// A layer of experts: each row to those that its router chooses by what it reads, and to the shared one.
fn mixture<A: Algebra>(
    spec: &DecoderSpec,
    experts: &Experts,
    a: &mut A,
    (x, routed): (&A::Value, &A::Value),
) -> Result<A::Value, Error> {
    let names = experts.names;
    let logits = a.linear(names.router, routed)?;
    let (mut weights, by_expert) = a.route(experts, &logits, names.correction)?;
    if let Some(beside) = experts.beside {
        weights = a.scaled_columns(beside.expert_scales, &weights)?;
    }
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
