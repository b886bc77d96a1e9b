//! Task arithmetic: θ = θ_base + λ Σ wₖ τₖ.
//!
//! Source: Ilharco et al. 2023, arXiv:2212.04089, eq. 1. The sum itself is [`task_sum`](super::task_sum)'s, with nothing
//! trimmed; with `normalize` it is divided by Σ wₖ (unless that is below 1e-8, as in mergekit).

use super::task_sum::{Rescale, TaskSum, Term, Trim};

/// The sum with every entry kept.
pub(crate) fn plain(weights: &[f32], lambda: f32, normalize: bool) -> TaskSum {
    TaskSum {
        terms: weights
            .iter()
            .map(|weight| Term {
                weight: *weight,
                trim: Trim::Nothing,
            })
            .collect(),
        rescale: Rescale::None,
        elect: false,
        normalize,
        lambda,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::merge_sum;
    use super::*;

    #[test]
    fn by_hand() {
        let base = [1.0, 2.0, 3.0];
        let (a, b) = ([2.0, 2.0, 1.0], [1.0, 4.0, 3.0]);
        // τ_a = (1, 0, −2), τ_b = (0, 2, 0)
        let out = merge_sum(&plain(&[0.5, 2.0], 1.0, false), &base, &[&a, &b]);
        assert_eq!(out, [1.5, 6.0, 2.0]);
        let out = merge_sum(&plain(&[0.5, 2.0], 2.0, true), &base, &[&a, &b]);
        assert_eq!(out, [1.0 + 2.0 * 0.5 / 2.5, 2.0 + 2.0 * 4.0 / 2.5, 3.0 - 2.0 / 2.5]);
    }

    #[test]
    fn lambda_zero_is_the_base_and_cancelling_weights_do_not_divide_by_zero() {
        let base = [1.0, -2.0];
        let a = [9.0, 9.0];
        assert_eq!(merge_sum(&plain(&[1.0], 0.0, false), &base, &[&a]), base);
        let out = merge_sum(&plain(&[1.0, -1.0], 1.0, true), &base, &[&a, &base]);
        assert_eq!(out, [9.0, 9.0]);
        assert_eq!(merge_sum(&plain(&[], 1.0, false), &base, &[]), base);
    }
}
