//! OPCM: models are merged one after the other, each projected away from what is merged already.
//!
//! Source: Tang et al. 2025, arXiv:2501.09522, algorithm 1. D = merged − base = U S Vᵀ; r is the first index at which
//! cumsum(s)/Σ s exceeds alpha; P = Uᵀ τ V with its diagonal and its leading r × r block set to zero; τ' = U P Vᵀ;
//! merged = base + (λ_prev D + τ')/λ, where λ makes the merged task vector as long as the mean task vector.
//!
//! The projection does not see the length of D, so E = Σ τ' can be built without the λs and is scaled once at the end:
//! base + E · mean‖τₖ‖ / ‖E‖, norms over all matrices of the model. Vectors, embeddings and the head are averaged.

use super::{
    parents::{Parents, Refusal},
    spectral::{matrix, narrow, onto_base, size_bytes, svd},
    view::{Target, dot},
};
use faer::Mat;
use std::sync::Arc;

/// What one matrix adds to the norms of the whole model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Norms {
    /// ‖E‖²
    pub merged: f64,
    /// ‖τₖ‖² of each model
    pub models: Vec<f64>,
}

impl Norms {
    pub fn add(&mut self, other: &Norms) {
        self.merged += other.merged;
        self.models.resize(self.models.len().max(other.models.len()), 0.0);
        for (a, b) in self.models.iter_mut().zip(&other.models) {
            *a += b;
        }
    }

    /// mean‖τₖ‖ / ‖E‖
    pub fn scale(&self) -> f32 {
        let mean = self.models.iter().map(|m| m.sqrt()).sum::<f64>() / self.models.len().max(1) as f64;
        if self.merged > 0.0 {
            (mean / self.merged.sqrt()) as f32
        } else {
            1.0
        }
    }
}

/// This matrix's part in the norms.
pub(crate) fn measure(parents: &Parents<'_>, alpha: f64) -> Result<Norms, Refusal> {
    Ok(kept(parents, alpha)?.norms.clone())
}

pub(crate) fn merge(parents: &Parents<'_>, alpha: f64, scale: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let sequence = kept(parents, alpha)?;
    let merged = onto_base(&parents.whole(base), sequence.merged.as_ref(), scale);
    Ok(out.fill(&merged))
}

/// What the parents and alpha decide, needed twice: for the norms of the whole model and for the merge.
struct Sequence {
    /// E
    merged: Mat<f32>,
    norms: Norms,
}

fn kept(parents: &Parents<'_>, alpha: f64) -> Result<Arc<Sequence>, Refusal> {
    let size_bytes = |sequence: &Sequence| size_bytes(&sequence.merged);
    parents.kept(&format!("opcm {alpha}"), size_bytes, || Sequence::new(parents, alpha))
}

impl Sequence {
    fn new(parents: &Parents<'_>, alpha: f64) -> Result<Self, Refusal> {
        let merged = merged_vector(parents, alpha)?;
        let square = |values: &[f32]| -> f64 { values.chunks(4096).map(|c| dot(c, c)).sum() };
        let columns = (0..merged.ncols()).map(|j| merged.col(j).iter().map(|x| x * x).sum::<f64>());
        let norms = Norms {
            merged: columns.sum(),
            models: parents
                .models()
                .iter()
                .map(|k| square(&parents.task_vector(*k)))
                .collect(),
        };
        Ok(Sequence {
            merged: narrow(merged.as_ref()),
            norms,
        })
    }
}

/// E = Σ τ' of one matrix.
fn merged_vector(parents: &Parents<'_>, alpha: f64) -> Result<Mat<f64>, Refusal> {
    let (rows, columns) = parents.rows();
    let mut merged: Mat<f64> = Mat::zeros(rows, columns);
    for (i, k) in parents.models().into_iter().enumerate() {
        let tau = matrix(&parents.task_vector(k), rows, columns);
        merged = if i == 0 {
            tau
        } else {
            merged.clone() + project(&merged, &tau, alpha)?
        };
    }
    Ok(merged)
}

/// τ without what lies in the leading directions of D, nor on its own directions' diagonal.
///
/// With thin factors, what τ has outside of their span stays: τ' = τ − U (Uᵀ τ V − P) Vᵀ.
fn project(d: &Mat<f64>, tau: &Mat<f64>, alpha: f64) -> Result<Mat<f64>, Refusal> {
    let svd = svd(d.as_ref())?;
    let total: f64 = svd.s.iter().sum();
    if total == 0.0 {
        return Ok(tau.clone());
    }
    let mut sum = 0.0;
    let r = svd.s.iter().position(|s| {
        sum += s;
        sum / total > alpha
    });
    let r = r.unwrap_or(svd.s.len());
    let coordinates = svd.u.transpose() * tau * &svd.v;
    let mut removed: Mat<f64> = Mat::zeros(svd.s.len(), svd.s.len());
    for i in 0..svd.s.len() {
        for j in 0..svd.s.len() {
            if i == j || (i < r && j < r) {
                removed[(i, j)] = coordinates[(i, j)];
            }
        }
    }
    Ok(tau - &svd.u * removed * svd.v.transpose())
}

#[cfg(test)]
mod tests {
    use super::super::testing::run_shaped;
    use super::*;

    #[test]
    fn by_hand_in_the_axes_directions() {
        let base = [0.0; 4];
        // D = diag(3, 1); shares 0.75, 1. At alpha 0.8 r = 1: the diagonal goes, the rest stays.
        let (a, b) = ([3.0, 0.0, 0.0, 1.0], [5.0, 2.0, 4.0, 7.0]);
        let merged = |alpha, scale| {
            run_shaped(&[&base, &a, &b], Some(0), &[2, 2], |p, out| merge(p, alpha, scale, out)).unwrap()
        };
        let near =
            |a: Vec<f32>, b: [f32; 4]| assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {b:?}");
        near(merged(0.8, 1.0), [3.0, 2.0, 4.0, 1.0]);
        near(merged(0.8, 0.5), [1.5, 1.0, 2.0, 0.5]);
        // alpha 1: nothing exceeds it, so all of both directions is protected.
        near(merged(1.0, 1.0), [3.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn norms_make_the_merge_as_long_as_the_mean_task_vector() {
        let mut norms = Norms::default();
        norms.add(&Norms {
            merged: 16.0,
            models: vec![4.0, 36.0],
        });
        norms.add(&Norms {
            merged: 9.0,
            models: vec![5.0, 0.0],
        });
        // mean(3, 6) / 5
        assert!((norms.scale() - 0.9).abs() < 1e-7);
        assert_eq!(Norms::default().scale(), 1.0);
    }
}
