//! One layer of the decoder, written once for every way to compute its derivatives.

use super::Error;
use crate::spec::{DecoderSpec, QkNorm};

/// What a layer is made of. Values are `[rows, width, columns]`; names are those of tensors within the layer.
pub(super) trait Algebra {
    type Value: Clone;

    /// `x · weightᵀ + bias`; the bias where the layer has one.
    fn linear(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// `x / √(mean(x²) + ε) · weight`, over stretches as long as the weight.
    fn norm(&mut self, name: &str, x: &Self::Value) -> Result<Self::Value, Error>;
    /// `len` columns.
    fn part(&mut self, x: &Self::Value, from: usize, len: usize) -> Result<Self::Value, Error>;
    /// Each head turned by the angles of its token, of one kind of rotation.
    fn rotate(&mut self, x: &Self::Value, rope: usize) -> Result<Self::Value, Error>;
    /// Causal attention within a window.
    fn attend(
        &mut self,
        queries: &Self::Value,
        keys: &Self::Value,
        values: &Self::Value,
        window: Option<usize>,
    ) -> Result<Self::Value, Error>;
    /// `act(gate) · up`.
    fn gate(&mut self, gate: &Self::Value, up: &Self::Value) -> Result<Self::Value, Error>;
    /// `h + residual_scale · branch`.
    fn add(&mut self, h: &Self::Value, branch: &Self::Value) -> Result<Self::Value, Error>;
}

/// `[rows, width, hidden]` → the same.
pub(super) fn layer<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, h: &A::Value) -> Result<A::Value, Error> {
    let [before, after, before_mlp, after_mlp] = spec.layer_norms();
    let x = normed(a, before, h)?;
    let branch = attention(spec, index, a, &x)?;
    let branch = normed(a, after, &branch)?;
    let h = a.add(h, &branch)?;
    let x = normed(a, before_mlp, &h)?;
    let branch = mlp(spec, a, &x)?;
    let branch = normed(a, after_mlp, &branch)?;
    a.add(&h, &branch)
}

fn normed<A: Algebra>(a: &mut A, name: Option<&str>, x: &A::Value) -> Result<A::Value, Error> {
    match name {
        None => Ok(x.clone()),
        Some(name) => a.norm(name, x),
    }
}

fn attention<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let [queries, keys, values] = match spec.fused {
        true => {
            let all = a.linear("self_attn.qkv_proj", x)?;
            [a.part(&all, 0, q)?, a.part(&all, q, kv)?, a.part(&all, q + kv, kv)?]
        }
        false => [
            a.linear("self_attn.q_proj", x)?,
            a.linear("self_attn.k_proj", x)?,
            a.linear("self_attn.v_proj", x)?,
        ],
    };
    let queries = heads(spec, index, a, "self_attn.q_norm", queries)?;
    let keys = heads(spec, index, a, "self_attn.k_norm", keys)?;
    let out = a.attend(&queries, &keys, &values, spec.layers[index].window)?;
    a.linear("self_attn.o_proj", &out)
}

/// Queries or keys: normed where the family does, and rotated. The norm's weight is as long as a head, or as all of them.
fn heads<A: Algebra>(spec: &DecoderSpec, index: usize, a: &mut A, norm: &str, x: A::Value) -> Result<A::Value, Error> {
    let x = match spec.qk_norm {
        QkNorm::FullWidth | QkNorm::PerHead => a.norm(norm, &x)?,
        QkNorm::None => x,
    };
    match spec.layers[index].rope {
        Some(rope) => a.rotate(&x, rope),
        None => Ok(x),
    }
}

fn mlp<A: Algebra>(spec: &DecoderSpec, a: &mut A, x: &A::Value) -> Result<A::Value, Error> {
    let inner = spec.intermediate;
    let [gate, up] = match spec.fused {
        true => {
            let both = a.linear("mlp.gate_up_proj", x)?;
            [a.part(&both, 0, inner)?, a.part(&both, inner, inner)?]
        }
        false => [a.linear("mlp.gate_proj", x)?, a.linear("mlp.up_proj", x)?],
    };
    let out = a.gate(&gate, &up)?;
    a.linear("mlp.down_proj", &out)
}
