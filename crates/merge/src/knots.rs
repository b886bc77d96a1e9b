//! KnOTS: TIES in the singular basis that all task matrices share.
//!
//! Source: Stoica et al. 2024, arXiv:2410.19735, section 4: [τ₁ | … | τ_K] = U S [V₁ᵀ | … | V_Kᵀ]; the blocks Vₖᵀ are
//! merged (here by TIES, with its density, weights and normalisation) and the result is base + λ U S V_mergedᵀ.

use super::{
    parents::{Parents, Refusal},
    spectral::{matrix, narrow, product_onto_base, rank, scale_columns, size_bytes, svd},
    task_sum::{self, TaskSum},
    view::{Inputs, Memory, Target, View},
};
use crate::recipe::DType;
use faer::{Mat, MatRef};

pub(crate) fn merge(parents: &Parents<'_>, share: f64, sum: &TaskSum, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let base = parents.whole(base);
    let (_, columns) = parents.rows();
    let basis = parents.kept("knots", Basis::size_bytes, || Basis::new(parents))?;
    if basis.s.iter().all(|s| *s == 0.0) {
        return Ok(out.fill(&base));
    }
    let r = rank(share, basis.s.len());
    let blocks: Vec<&[f32]> = basis.blocks.iter().map(|block| &block[..r * columns]).collect();
    let merged = merge_blocks(&blocks, r, columns, sum)?;
    let right = MatRef::from_row_major_slice(&merged, r, columns);
    let merged = product_onto_base(&base, basis.us.subcols(0, r), right, sum.lambda);
    Ok(out.fill(&merged))
}

/// The decomposition of the joined task matrices.
struct Basis {
    /// U diag(s)
    us: Mat<f32>,
    s: Vec<f64>,
    /// The blocks of Vᵀ, each row-major.
    blocks: Vec<Vec<f32>>,
}

impl Basis {
    fn new(parents: &Parents<'_>) -> Result<Self, Refusal> {
        let (rows, columns) = parents.rows();
        let models = parents.models();
        let mut joined = Mat::zeros(rows, columns * models.len());
        for (slot, k) in models.iter().enumerate() {
            let tau = matrix(&parents.task_vector(*k), rows, columns);
            joined.subcols_mut(slot * columns, columns).copy_from(&tau);
        }
        let all = svd(joined.as_ref())?;
        let block = |slot: usize| {
            let entry = |i: usize| all.v[(slot * columns + i % columns, i / columns)] as f32;
            (0..all.s.len() * columns).map(entry).collect()
        };
        let mut us = narrow(all.u.as_ref());
        scale_columns(&mut us, &all.s);
        Ok(Basis {
            us,
            blocks: (0..models.len()).map(block).collect(),
            s: all.s,
        })
    }

    fn size_bytes(&self) -> usize {
        size_bytes(&self.us) + 8 * self.s.len() + self.blocks.iter().map(|b| 4 * b.len()).sum::<usize>()
    }
}

/// TIES over the blocks, as task vectors of a base of zeros; λ waits for the end.
fn merge_blocks(blocks: &[&[f32]], rows: usize, columns: usize, sum: &TaskSum) -> Result<Vec<f32>, Refusal> {
    let zeros = vec![0.0; rows * columns];
    let mut views = vec![View::F32(&zeros)];
    views.extend(blocks.iter().map(|b| View::F32(b)));
    let parents = Parents {
        inputs: Inputs::new(views),
        grams: Vec::new(),
        base: Some(0),
        shape: &[rows, columns],
        cache: None,
    };
    let mut merged = vec![0.0; rows * columns];
    let mut target = Target {
        memory: Memory::F32(&mut merged),
        dtype: DType::F32,
    };
    let sum = TaskSum {
        lambda: 1.0,
        ..sum.clone()
    };
    task_sum::merge(&parents, &sum, &mut target)?;
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, Term, Trim};
    use super::super::testing::{noise, run_shaped};
    use super::*;

    fn sum(weights: &[f32], elect: bool) -> TaskSum {
        let trim = Trim::Smallest { density: 1.0 };
        TaskSum {
            terms: weights
                .iter()
                .map(|w| Term {
                    weight: *w,
                    trim: trim.clone(),
                })
                .collect(),
            rescale: Rescale::None,
            elect,
            normalize: false,
            lambda: 1.0,
        }
    }

    #[test]
    fn a_plain_sum_of_blocks_is_the_plain_sum_of_tasks() {
        let (base, a, b) = (noise(1, 12), noise(2, 12), noise(3, 12));
        let knots =
            |s: &TaskSum| run_shaped(&[&base, &a, &b], Some(0), &[3, 4], |p, out| merge(p, 1.0, s, out)).unwrap();
        let out = knots(&sum(&[1.0, 2.0], false));
        for i in 0..12 {
            let expected = base[i] + (a[i] - base[i]) + 2.0 * (b[i] - base[i]);
            assert!((out[i] - expected).abs() < 1e-5);
        }
        assert_ne!(knots(&sum(&[1.0, 2.0], true)), out);
    }

    #[test]
    fn one_task_is_itself() {
        let (base, a) = (noise(4, 8), noise(5, 8));
        let out = run_shaped(&[&base, &a], Some(0), &[4, 2], |p, out| {
            merge(p, 1.0, &sum(&[1.0], true), out)
        })
        .unwrap();
        assert!(out.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-5));
    }
}
