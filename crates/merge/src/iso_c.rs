//! Iso-C: the sum of the task matrices with a flat spectrum.
//!
//! Source: Marczak et al. 2025, arXiv:2502.04959, algorithm 1: Σ wₖ τₖ = U S Vᵀ; τ = σ̄ U Vᵀ with σ̄ the mean singular
//! value; θ = base + λ τ. With `rank` < 1 only the leading triples are kept, and σ̄ is their mean.

use faer::Mat;

use super::{
    parents::{Parents, Refusal},
    spectral::{matrix, narrow, onto_base, rank, size_bytes, svd},
    view::Target,
};

pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    share: f64,
    lambda: f32,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let base = parents.whole(base);
    let (rows, columns) = parents.rows();
    let mut sum = vec![0.0f32; parents.len()];
    for (k, w) in parents.models().into_iter().zip(weights) {
        for (s, t) in sum.iter_mut().zip(parents.task_vector(k)) {
            *s += w * t;
        }
    }
    if sum.iter().all(|s| *s == 0.0) {
        return Ok(out.fill(&base));
    }
    // The weights decide the factors, so that they serve only recipes that differ elsewhere.
    let bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
    let flat = parents.kept(
        &format!("iso_c {bits:?} {share}"),
        |flat: &Flat| size_bytes(&flat.directions),
        || Flat::new(&sum, rows, columns, share),
    )?;
    let merged = onto_base(&base, flat.directions.as_ref(), lambda * flat.mean);
    Ok(out.fill(&merged))
}

struct Flat {
    /// U Vᵀ
    directions: Mat<f32>,
    /// σ̄
    mean: f32,
}

impl Flat {
    fn new(sum: &[f32], rows: usize, columns: usize, share: f64) -> Result<Self, Refusal> {
        let svd = svd(matrix(sum, rows, columns).as_ref())?;
        let r = rank(share, svd.s.len());
        let directions = svd.u.subcols(0, r) * svd.v.subcols(0, r).transpose();
        Ok(Flat {
            directions: narrow(directions.as_ref()),
            mean: (svd.s[..r].iter().sum::<f64>() / r as f64) as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::run_shaped;
    use super::*;

    #[test]
    fn a_diagonal_sum_becomes_its_mean() {
        let (base, a, b) = ([1.0; 4], [4.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 2.0]);
        let iso = |share, lambda| {
            run_shaped(&[&base, &a, &b], Some(0), &[2, 2], |p, out| {
                merge(p, &[1.0, 1.0], share, lambda, out)
            })
            .unwrap()
        };
        let near = |a: Vec<f32>, b: [f32; 4]| assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6), "{a:?}");
        // diag(3, 1) → diag(2, 2)
        near(iso(1.0, 1.0), [3.0, 1.0, 1.0, 3.0]);
        near(iso(0.5, 2.0), [7.0, 1.0, 1.0, 1.0]);
        near(iso(1.0, 0.0), base);
    }

    #[test]
    fn without_change_the_base_stays() {
        let base = [1.0, 2.0];
        let out = run_shaped(&[&base, &base], Some(0), &[1, 2], |p, out| {
            merge(p, &[1.0], 1.0, 1.0, out)
        });
        assert_eq!(out, Ok(base.to_vec()));
    }
}
