//! DELLA's MagPrune: the keep probability rises linearly with the rank of |τ| in its row.
//!
//! Source: Deep et al. 2024, arXiv:2406.11617, section 3.1: from density − epsilon for the smallest to density + epsilon
//! for the largest. A vector is one row; equal magnitudes rank by index; a row of one entry has probability density.

use rayon::prelude::*;

use super::{
    magnitude::Cut,
    parents::{Parents, Refusal},
    random::{Key, threshold},
    task_sum::Keep,
};

pub(crate) struct Ranked {
    pub density: f64,
    pub epsilon: f64,
    pub key: Key,
    /// Whether what stays is divided by its probability.
    pub divide: bool,
}

/// # Errors
/// If a probability would be 0 or less, or 1 or more; a density of 1 keeps everything and one of 0 nothing, without any.
pub(crate) fn check(density: f64, epsilon: f64) -> Result<(), Refusal> {
    if density > 0.0 && density < 1.0 && (density - epsilon <= 0.0 || density + epsilon >= 1.0) {
        return Err(Refusal::KeepProbability { density, epsilon });
    }
    Ok(())
}

/// The factor of each entry of τ of model `k`.
///
/// # Errors
/// As [`check`].
pub(crate) fn keep(parents: &Parents<'_>, k: usize, rule: Ranked) -> Result<Keep, Refusal> {
    let Ranked { density, epsilon, .. } = rule;
    if density >= 1.0 {
        return Ok(Keep::Cut(Cut::Everything));
    }
    if density <= 0.0 {
        return Ok(Keep::Cut(Cut::Nothing));
    }
    check(density, epsilon)?;
    let (_, width) = parents.rows();
    let mut tau = parents.task_vector(k);
    tau.par_chunks_mut(width).enumerate().for_each(|(row, tau)| {
        factors(tau, row * width, &rule);
    });
    Ok(Keep::Factors(tau))
}

/// Replaces one row of a task vector by its factors.
fn factors(row: &mut [f32], start: usize, rule: &Ranked) {
    let mut order: Vec<(u32, u32)> = row
        .iter()
        .enumerate()
        .map(|(i, d)| (d.to_bits() & 0x7fff_ffff, i as u32))
        .collect();
    order.sort_unstable();
    let steps = (row.len() - 1) as f64;
    for (rank, (_, i)) in order.iter().enumerate() {
        let height = if steps > 0.0 { rank as f64 / steps } else { 0.5 };
        let p = rule.density - rule.epsilon + height * 2.0 * rule.epsilon;
        let stays = u64::from(rule.key.bits((start + *i as usize) as u64)) < threshold(p);
        row[*i as usize] = match (stays, rule.divide) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => (1.0 / p) as f32,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, TaskSum, Term, Trim};
    use super::super::testing::{merge_sum, try_merge_sum};
    use super::*;

    fn della(density: f64, epsilon: f64, key: u64, rescale: Rescale) -> TaskSum {
        TaskSum {
            terms: vec![Term {
                weight: 1.0,
                trim: Trim::Ranked { density, epsilon, key },
            }],
            rescale,
            elect: false,
            normalize: false,
            lambda: 1.0,
        }
    }

    #[test]
    fn each_rank_is_kept_with_its_probability_and_the_expectation_is_unbiased() {
        let tau = [0.4f32, -0.1, 0.3, 0.2, -0.5];
        // Ranks 3, 0, 2, 1, 4 → probabilities 0.5 + (rank/4 − 1/2) · 0.6
        let expected = [0.65, 0.2, 0.5, 0.35, 0.8];
        let runs = 20_000;
        let (mut kept, mut mean) = ([0.0f64; 5], [0.0f64; 5]);
        for seed in 0..runs {
            let seed = seed * 7919;
            let out = merge_sum(&della(0.5, 0.3, seed, Rescale::Expectation), &[0.0; 5], &[&tau]);
            for i in 0..5 {
                kept[i] += f64::from(u8::from(out[i] != 0.0)) / runs as f64;
                mean[i] += f64::from(out[i]) / runs as f64;
            }
        }
        for i in 0..5 {
            assert!((kept[i] - expected[i]).abs() < 0.02, "{kept:?}");
            let slack = 5.0 * f64::from(tau[i].abs()) * ((1.0 / expected[i] - 1.0) / runs as f64).sqrt();
            assert!((mean[i] - f64::from(tau[i])).abs() < slack, "{mean:?}");
        }
    }

    #[test]
    fn probabilities_outside_zero_and_one_are_refused() {
        let refused = try_merge_sum(&della(0.9, 0.15, 1, Rescale::L1), &[0.0], &[&[1.0]]);
        assert_eq!(
            refused.unwrap_err(),
            Refusal::KeepProbability {
                density: 0.9,
                epsilon: 0.15
            }
        );
        let tau = [1.0, 2.0];
        assert_eq!(merge_sum(&della(1.0, 0.15, 1, Rescale::L1), &[0.0; 2], &[&tau]), tau);
        for rescale in [Rescale::L1, Rescale::Expectation, Rescale::None] {
            assert_eq!(merge_sum(&della(0.0, 0.15, 1, rescale), &[0.5; 2], &[&tau]), [0.5; 2]);
        }
    }
}
