//! The experts of a layer on the CPU: tokens are grouped by expert, and each expert that any goes to is one product.
//!
//! A token's experts are added in the order of their numbers, the shared one last, so that its row has the same bits alone
//! and in any batch.

use heterosis_isa::Isa;
use rayon::prelude::*;

use super::arithmetic::{Mixture, Mlp};
use super::cpu::Cpu;
use super::kernels::{self, Matrix, PackedRows, Threads};
use super::routing::Route;
use super::spec::{Activation, Experts};

/// The rows that one expert computes, with the weight of each.
struct Share {
    expert: usize,
    rows: Vec<(usize, f32)>,
}

/// `out = Σ weight · expert(x)` for each row of `x`, which is given packed as well, and the router's logits of it.
pub(super) fn compute(
    isa: Isa,
    (experts, mixture, activation): (&Experts, &Mixture<Cpu>, Activation),
    (x, packed, logits): (&Matrix, &PackedRows, &Matrix),
    out: &mut Matrix,
    threads: Threads,
) {
    let routes = |row: usize| {
        let mut routes = experts.routes(isa, logits.row(row), &mixture.correction);
        for route in routes.iter_mut().filter(|_| !mixture.scales.is_empty()) {
            route.weight *= mixture.scales[route.expert];
        }
        routes
    };
    let shares = shares(experts.count, (0..x.rows).map(routes));
    let of_share = |share: &Share| {
        let rows = Matrix {
            rows: share.rows.len(),
            cols: x.cols,
            data: share.rows.iter().flat_map(|(row, _)| x.row(*row)).copied().collect(),
        };
        let mut packed = PackedRows::default();
        packed.set(&rows, threads);
        mlp(isa, &mixture.experts[share.expert], activation, &packed, threads)
    };
    let results: Vec<Matrix> = match threads.0 > 1 {
        true => shares.par_iter().map(of_share).collect(),
        false => shares.iter().map(of_share).collect(),
    };
    out.reshape(x.rows, x.cols);
    out.data.fill(0.0);
    for (share, result) in shares.iter().zip(&results) {
        for ((row, weight), result) in share.rows.iter().zip(result.data.chunks_exact(x.cols)) {
            kernels::add_row(isa, out.row_mut(*row), result, *weight);
        }
    }
    if let Some(shared) = &mixture.shared {
        let result = mlp(isa, shared, activation, packed, threads);
        let weights = shared_weights(mixture, packed, x.rows, threads);
        for ((row, result), weight) in out
            .data
            .chunks_exact_mut(x.cols)
            .zip(result.data.chunks_exact(x.cols))
            .zip(weights)
        {
            kernels::add_row(isa, row, result, weight);
        }
    }
}

/// By expert, those that any row goes to.
fn shares(count: usize, routes: impl Iterator<Item = Vec<Route>>) -> Vec<Share> {
    let mut shares: Vec<Share> = (0..count)
        .map(|expert| Share {
            expert,
            rows: Vec::new(),
        })
        .collect();
    for (row, routes) in routes.enumerate() {
        for route in routes {
            shares[route.expert].rows.push((row, route.weight));
        }
    }
    shares.retain(|share| !share.rows.is_empty());
    shares
}

fn mlp(isa: Isa, mlp: &Mlp<Cpu>, activation: Activation, x: &PackedRows, threads: Threads) -> Matrix {
    let (mut gate_up, mut inner, mut packed) = (Matrix::default(), Matrix::default(), PackedRows::default());
    mlp.gate_up.apply(x, &mut gate_up, threads);
    kernels::gated(isa, &gate_up, activation, &mut inner, threads);
    packed.set(&inner, threads);
    // Gate and up are not needed any more, and give their memory.
    mlp.down.apply(&packed, &mut gate_up, threads);
    gate_up
}

/// How much the shared expert counts in each row.
fn shared_weights(mixture: &Mixture<Cpu>, x: &PackedRows, rows: usize, threads: Threads) -> Vec<f32> {
    match &mixture.shared_gate {
        None => vec![1.0; rows],
        Some(gate) => {
            let mut numbers = Matrix::default();
            gate.apply(x, &mut numbers, threads);
            numbers.data.iter().map(|x| kernels::sigmoid(*x)).collect()
        }
    }
}
