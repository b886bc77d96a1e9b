//! DARE: drop each entry of a task vector with probability 1 − density, scale what stays.
//!
//! Source: Yu et al. 2024, arXiv:2311.03099, eq. 2–3. The paper divides by the density (`rescale: expectation`); mergekit
//! restores ‖τ‖₁ (`rescale: l1`, the default for compatibility). The mask is [`random`](super::random)'s, a function of
//! seed, tensor, model and index, so it repeats bit for bit.

use super::{
    magnitude::Cut,
    random::{Key, threshold},
    task_sum::Keep,
};

pub(crate) fn keep(key: Key, density: f64) -> Keep {
    if density >= 1.0 {
        Keep::Cut(Cut::Everything)
    } else {
        Keep::Random {
            key,
            threshold: threshold(density),
        }
    }
}

/// Zeroes the entries that drew a number of `threshold` or more.
#[inline(always)]
pub(crate) fn mask(key: Key, threshold: u64, start: usize, chunk: &mut [f32]) {
    for (i, d) in chunk.iter_mut().enumerate() {
        let stays = u64::from(key.bits((start + i) as u64)) < threshold;
        *d = if stays { *d } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, TaskSum, Term, Trim};
    use super::super::testing::merge_sum;

    fn dare(density: f64, seed: u64, rescale: Rescale) -> TaskSum {
        TaskSum {
            terms: vec![Term {
                weight: 1.0,
                trim: Trim::Random { density, key: seed },
            }],
            rescale,
            elect: false,
            normalize: false,
            lambda: 1.0,
        }
    }

    #[test]
    fn unbiased_in_expectation() {
        let tau: Vec<f32> = (1..=8).map(|i| i as f32 / 8.0).collect();
        let base = vec![0.0; 8];
        let runs = 20_000;
        let mut mean = [0.0f64; 8];
        for seed in 0..runs {
            let out = merge_sum(&dare(0.3, seed, Rescale::Expectation), &base, &[&tau]);
            for (m, o) in mean.iter_mut().zip(&out) {
                *m += f64::from(*o) / runs as f64;
            }
        }
        for (m, t) in mean.iter().zip(&tau) {
            let t = f64::from(*t);
            // Standard deviation of one draw: t · sqrt((1 − p) / p).
            let slack = 5.0 * t * (0.7f64 / 0.3 / runs as f64).sqrt();
            assert!((m - t).abs() < slack, "{m} {t}");
        }
    }

    #[test]
    fn l1_restores_the_norm_and_keeps_the_fraction() {
        let tau: Vec<f32> = (0..100_000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let base = vec![0.0; tau.len()];
        let out = merge_sum(&dare(0.25, 11, Rescale::L1), &base, &[&tau]);
        let l1 = |v: &[f32]| v.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        assert!((l1(&out) / l1(&tau) - 1.0).abs() < 1e-6);
        let nonzero = tau.iter().filter(|t| **t != 0.0).count() as f64;
        let kept = out.iter().filter(|o| **o != 0.0).count() as f64;
        assert!((kept / nonzero - 0.25).abs() < 0.01);
    }

    #[test]
    fn density_one_is_the_identity_and_a_higher_density_keeps_more() {
        let tau: Vec<f32> = (1..5000).map(|i| i as f32).collect();
        let base = vec![0.0; tau.len()];
        assert_eq!(merge_sum(&dare(1.0, 3, Rescale::L1), &base, &[&tau]), tau);
        for rescale in [Rescale::L1, Rescale::Expectation, Rescale::None] {
            assert_eq!(merge_sum(&dare(0.0, 3, rescale), &base, &[&tau]), base);
        }
        let low = merge_sum(&dare(0.2, 3, Rescale::None), &base, &[&tau]);
        let high = merge_sum(&dare(0.6, 3, Rescale::None), &base, &[&tau]);
        assert!(low.iter().zip(&high).all(|(l, h)| *l == 0.0 || l == h));
    }
}
