//! One layer of the decoder, written once for every way to compute its derivatives.

use super::Error;
use crate::spec::{DecoderSpec, NormKind, QkNorm, QueryGrowth};

/// What a layer is made of. Values are `[rows, width, columns]`; names are those of tensors within the layer.
pub(super) trait Algebra {
    type Value: Clone;

    /// `x · weightᵀ + bias`; the bias where the layer has one.
    fn linear(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// A norm of the stream, as the family has it; or of heads, over stretches as long as the weight.
    fn norm(&mut self, name: &str, kind: NormKind, x: &Self::Value) -> Result<Self::Value, Error>;
    /// `len` columns.
    fn part(&mut self, x: &Self::Value, from: usize, len: usize) -> Result<Self::Value, Error>;
    /// Each head turned by the angles of its token, of one kind of rotation.
    fn rotate(&mut self, x: &Self::Value, rope: usize) -> Result<Self::Value, Error>;
    /// Queries scaled by their position.
    fn grow(&mut self, x: &Self::Value, growth: QueryGrowth) -> Result<Self::Value, Error>;
    /// Causal attention within a window.
    fn attend(
        &mut self,
        queries: &Self::Value,
        keys: &Self::Value,
        values: &Self::Value,
        window: Option<usize>,
    ) -> Result<Self::Value, Error>;
    /// `act(gate) · up`, or `act(gate)` alone.
    fn gate(&mut self, gate: &Self::Value, up: Option<&Self::Value>) -> Result<Self::Value, Error>;
    /// `h + residual_scale · branch`.
    fn add(&mut self, h: &Self::Value, branch: &Self::Value) -> Result<Self::Value, Error>;
}

/// `[rows, width, hidden]` → the same.
pub(super) fn layer<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, h: &A::Value) -> Result<A::Value, Error> {
    let [before, after, before_mlp, after_mlp] = spec.layer_norms();
    let x = normed(spec, a, before, h)?;
    let branch = attention(spec, index, a, &x)?;
    let branch = normed(spec, a, after, &branch)?;
    let attended = a.add(h, &branch)?;
    let x = match (spec.parallel, before_mlp) {
        (true, None) => x,
        (true, Some(_)) => normed(spec, a, before_mlp, h)?,
        (false, _) => normed(spec, a, before_mlp, &attended)?,
    };
    let branch = mlp(spec, a, &x)?;
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
    let mut queries = heads(spec, index, a, names.q_norm, queries)?;
    if let Some(growth) = spec.query_growth {
        queries = a.grow(&queries, growth)?;
    }
    let keys = heads(spec, index, a, names.k_norm, keys)?;
    let out = a.attend(&queries, &keys, &values, spec.layers[index].window)?;
    a.linear(names.o, &out)
}

/// Queries or keys: normed where the family does, and rotated. The norm's weight is as long as a head, or as all of them.
fn heads<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, norm: &str, x: A::Value) -> Result<A::Value, Error> {
    let x = match spec.qk_norm {
        QkNorm::FullWidth | QkNorm::PerHead => a.norm(norm, NormKind::Rms, &x)?,
        QkNorm::None | QkNorm::PerHeadRotated => x,
    };
    let x = match spec.layers[index].rope {
        Some(rope) => a.rotate(&x, rope)?,
        None => x,
    };
    match spec.qk_norm {
        QkNorm::PerHeadRotated => a.norm(norm, NormKind::Rms, &x),
        _ => Ok(x),
    }
}

fn mlp<A: Algebra>(spec: &DecoderSpec, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let (inner, names) = (spec.intermediate, spec.names());
    let out = match (spec.gated(), spec.family.fused_gate_up) {
        (false, _) => {
            let up = a.linear(names.up, x)?;
            a.gate(&up, None)?
        }
        (true, true) => {
            let both = a.linear(names.gate_up, x)?;
            let (gate, up) = (a.part(&both, 0, inner)?, a.part(&both, inner, inner)?);
            a.gate(&gate, Some(&up))?
        }
        (true, false) => {
            let (gate, up) = (a.linear(names.gate, x)?, a.linear(names.up, x)?);
            a.gate(&gate, Some(&up))?
        }
    };
    a.linear(names.down, &out)
}
