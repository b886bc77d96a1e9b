//! TSV-Merge: each task's leading singular triples, whitened against each other.
//!
//! Source: Gargiulo et al. 2024, arXiv:2412.00081, algorithm 1: keep the first share of each τₖ = Uₖ Sₖ Vₖᵀ, set the kept
//! factors side by side, replace the joined U and V by their nearest orthogonal matrices P Qᵀ, and multiply back.

use faer::Mat;

use super::{
    parents::{Parents, Refusal},
    spectral::{matrix, narrow, nearest_orthogonal, product_onto_base, rank, scale_columns, size_bytes, svd},
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
    let r = rank(share, rows.min(columns));
    let factors = parents.kept(&format!("tsv {r}"), Factors::size_bytes, || Factors::new(parents, r))?;
    let weighted = |(i, s): (usize, &f64)| s * f64::from(weights[i / r]);
    let s: Vec<f64> = factors.s.iter().enumerate().map(weighted).collect();
    if s.iter().all(|s| *s == 0.0) {
        return Ok(out.fill(&base));
    }
    let mut u = factors.u.clone();
    scale_columns(&mut u, &s);
    let merged = product_onto_base(&base, u.as_ref(), factors.v.transpose(), lambda);
    Ok(out.fill(&merged))
}

/// The leading triples of all tasks, whitened; the weights have no part in them.
struct Factors {
    u: Mat<f32>,
    /// `r` of each task, in the tasks' order.
    s: Vec<f64>,
    v: Mat<f32>,
}

impl Factors {
    fn new(parents: &Parents<'_>, r: usize) -> Result<Self, Refusal> {
        let (rows, columns) = parents.rows();
        let models = parents.models();
        let joined = r * models.len();
        let (mut u, mut v) = (Mat::zeros(rows, joined), Mat::zeros(columns, joined));
        let mut s = Vec::with_capacity(joined);
        for (slot, k) in models.iter().enumerate() {
            let task = svd(matrix(&parents.task_vector(*k), rows, columns).as_ref())?;
            u.subcols_mut(slot * r, r).copy_from(task.u.subcols(0, r));
            v.subcols_mut(slot * r, r).copy_from(task.v.subcols(0, r));
            s.extend_from_slice(&task.s[..r]);
        }
        Ok(Factors {
            u: narrow(nearest_orthogonal(u.as_ref())?.as_ref()),
            s,
            v: narrow(nearest_orthogonal(v.as_ref())?.as_ref()),
        })
    }

    fn size_bytes(&self) -> usize {
        size_bytes(&self.u) + size_bytes(&self.v) + 8 * self.s.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{noise, run_shaped};
    use super::*;

    #[test]
    fn orthogonal_tasks_are_added() {
        let (base, a, b) = ([0.0; 4], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]);
        let out = run_shaped(&[&base, &a, &b], Some(0), &[2, 2], |p, out| {
            merge(p, &[1.0, 1.0], 0.5, 1.0, out)
        });
        let near = out
            .unwrap()
            .iter()
            .zip([3.0, 0.0, 0.0, 2.0])
            .all(|(x, y)| (x - y).abs() < 1e-6);
        assert!(near);
    }

    #[test]
    fn one_task_at_full_rank_is_itself() {
        let (base, a) = (noise(1, 12), noise(2, 12));
        let out = run_shaped(&[&base, &a], Some(0), &[3, 4], |p, out| merge(p, &[1.0], 1.0, 1.0, out)).unwrap();
        assert!(out.iter().zip(&a).all(|(x, y)| (x - y).abs() < 1e-5));
    }
}
