//! Singular value decompositions of task matrices, in f64, through faer.

use faer::{Mat, MatRef};

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

/// Scales the columns.
pub(crate) fn scale_columns(matrix: &mut Mat<f64>, factors: &[f64]) {
    for (j, f) in factors.iter().enumerate() {
        for i in 0..matrix.nrows() {
            matrix[(i, j)] *= f;
        }
    }
}

/// max(1, floor(share · full))
pub(crate) fn rank(share: f64, full: usize) -> usize {
    super::magnitude::share(share, full).max(1).min(full)
}

/// base + λ · matrix, row-major.
pub(crate) fn onto_base(base: &[f32], matrix: MatRef<'_, f64>, lambda: f32) -> Vec<f32> {
    let columns = matrix.ncols();
    base.iter()
        .enumerate()
        .map(|(i, b)| b + lambda * matrix[(i / columns, i % columns)] as f32)
        .collect()
}
