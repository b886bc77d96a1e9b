//! Singular value decompositions of task matrices, in f64, through faer.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::parents::Refusal;

/// A thin SVD: U diag(s) Vᵀ.
pub(crate) struct Svd {
    pub u: Mat<f64>,
    pub s: Vec<f64>,
    pub v: Mat<f64>,
}

/// A row-major f32 matrix.
pub(crate) fn matrix(values: &[f32], rows: usize, columns: usize) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]))
}

pub(crate) fn svd(matrix: MatRef<'_, f64>) -> Result<Svd, Refusal> {
    let svd = matrix.thin_svd().map_err(|_| Refusal::Svd)?;
    Ok(Svd {
        u: svd.U().to_owned(),
        s: svd.S().column_vector().iter().copied().collect(),
        v: svd.V().to_owned(),
    })
}

/// The orthogonal matrix next to M = P D Qᵀ, which is P Qᵀ (Procrustes).
pub(crate) fn nearest_orthogonal(matrix: MatRef<'_, f64>) -> Result<Mat<f64>, Refusal> {
    let svd = svd(matrix)?;
    Ok(&svd.u * svd.v.transpose())
}

/// As [`nearest_orthogonal`], where columns may depend on each other: P Qᵀ over the directions that have a length.
pub(crate) fn nearest_isometry(matrix: MatRef<'_, f64>) -> Result<Mat<f64>, Refusal> {
    let svd = svd(matrix)?;
    let longest = svd.s.first().copied().unwrap_or_default();
    let count = svd.s.iter().take_while(|s| **s > NOTHING * longest).count();
    Ok(svd.u.subcols(0, count) * svd.v.subcols(0, count).transpose())
}

/// A direction shorter than the longest by this factor is what rounding to f32 has left: parents are f32 at best.
pub(crate) const NOTHING: f64 = 1e-6;

/// The product of two thin matrices that is next to a matrix, `[rows, columns]` row by row (Eckart and Young 1936): `[rows, rank]`
/// and `[rank, columns]`, where rank is `rank` or as many directions as the matrix has.
///
/// # Errors
/// The decomposition does not converge.
pub fn low_rank(values: &[f32], columns: usize, rank: usize) -> Result<(Vec<f32>, Vec<f32>), Refusal> {
    let rows = values.len() / columns.max(1);
    let svd = svd(matrix(values, rows, columns).as_ref())?;
    let longest = svd.s.first().copied().unwrap_or_default();
    let count = svd.s.iter().take(rank).take_while(|s| **s > NOTHING * longest).count();
    // Each side has its share of the lengths, as adapters are trained.
    let roots: Vec<f64> = svd.s[..count].iter().map(|s| s.sqrt()).collect();
    let left = (0..rows * count).map(|i| (svd.u[(i / count, i % count)] * roots[i % count]) as f32);
    let right = (0..count * columns).map(|i| (roots[i / columns] * svd.v[(i % columns, i / columns)]) as f32);
    Ok((left.collect(), right.collect()))
}

/// Decomposes a matrix of noise, so that a caller with a clock learns how fast this machine is. Returns the operations, as
/// [`Cost::spectral_flops`](super::Cost::spectral_flops) counts them.
pub fn decomposition_sample() -> u64 {
    const SIDE: usize = 256;
    let key = super::random::Key(1);
    let noise = Mat::from_fn(SIDE, SIDE, |i, j| f64::from(key.bits((i * SIDE + j) as u64)));
    let flops = decomposition_flops(SIDE, SIDE);
    match svd(noise.as_ref()) {
        Ok(svd) if !svd.s.is_empty() => flops,
        _ => 0,
    }
}

/// About 20 · long · short².
pub(crate) fn decomposition_flops(rows: usize, columns: usize) -> u64 {
    let (short, long) = (rows.min(columns) as u64, rows.max(columns) as u64);
    20 * long * short * short
}

/// Scales the columns.
pub(crate) fn scale_columns(matrix: &mut Mat<f32>, factors: &[f64]) {
    for (j, f) in factors.iter().enumerate() {
        for i in 0..matrix.nrows() {
            matrix[(i, j)] = (f64::from(matrix[(i, j)]) * f) as f32;
        }
    }
}

/// The same numbers in half the memory: factors are computed in f64 and kept and multiplied in f32.
pub(crate) fn narrow(matrix: MatRef<'_, f64>) -> Mat<f32> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] as f32)
}

/// Memory of a matrix that is kept.
pub(crate) fn size_bytes(matrix: &Mat<f32>) -> usize {
    4 * matrix.nrows() * matrix.ncols()
}

/// Rows of a product that one thread computes at once.
const ROWS: usize = 64;

/// base + λ · left · right, row-major, on all threads.
pub(crate) fn product_onto_base(base: &[f32], left: MatRef<'_, f32>, right: MatRef<'_, f32>, lambda: f32) -> Vec<f32> {
    let columns = right.ncols();
    let mut out = base.to_vec();
    out.par_chunks_mut((ROWS * columns).max(1))
        .enumerate()
        .for_each(|(block, out)| {
            let rows = out.len() / columns;
            let product: Mat<f32> = left.subrows(block * ROWS, rows) * right;
            for (i, o) in out.iter_mut().enumerate() {
                *o += lambda * product[(i / columns, i % columns)];
            }
        });
    out
}

/// max(1, floor(share · full))
pub(crate) fn rank(share: f64, full: usize) -> usize {
    super::magnitude::share(share, full).max(1).min(full)
}

/// base + λ · matrix, row-major.
pub(crate) fn onto_base(base: &[f32], matrix: MatRef<'_, f32>, lambda: f32) -> Vec<f32> {
    let columns = matrix.ncols();
    base.iter()
        .enumerate()
        .map(|(i, b)| b + lambda * matrix[(i / columns, i % columns)])
        .collect()
}
