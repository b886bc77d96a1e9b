//! TIES: trim each task vector to its largest entries, elect a sign for each position, merge what agrees.
//!
//! Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1. Trim keeps exactly floor(density · n) entries, but at least
//! one where the density is not 0 (as mergekit does), ties by the lower index. The sign of a position is that of Σ wₖ τₖ (0 counts as +); with `normalize`, what agrees is divided by the
//! sum of its weights (0 counts as 1). The paper elects and averages without weights; weights first is mergekit's order.

use super::{
    magnitude::{Cut, share},
    parents::Parents,
    task_sum::Term,
    view::CHUNK,
};

/// How many of n entries stay.
pub(crate) fn kept(density: f64, n: usize) -> usize {
    match density > 0.0 {
        true => share(density, n).max(1).min(n),
        false => 0,
    }
}

/// The cut that keeps the largest entries of τ of model `k`; none for density 1, all dropped for density 0.
pub(crate) fn cut(parents: &Parents<'_>, k: usize, density: f64) -> Cut {
    if density >= 1.0 {
        return Cut::Everything;
    }
    parents.top(k, kept(density, parents.len()))
}

/// Σ over the weighted task vectors whose sign is the elected one, divided by their weights if `normalize`.
#[inline(always)]
pub(crate) fn elect_and_sum<'a>(
    deltas: impl Iterator<Item = &'a [f32]> + Clone,
    terms: &[Term],
    normalize: bool,
    out: &mut [f32],
) {
    // Slices of one length and selections instead of branches, so that each loop becomes vector code.
    let n = out.len();
    let (mut elected, mut divisor) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
    let (elected, divisor) = (&mut elected[..n], &mut divisor[..n]);
    for delta in deltas.clone() {
        for (e, d) in elected.iter_mut().zip(delta) {
            *e += d;
        }
    }
    out.fill(0.0);
    for (delta, term) in deltas.zip(terms) {
        let delta = &delta[..n];
        for i in 0..n {
            // A zero has no sign; a NaN agrees with any, so that it is not lost.
            let negative = if elected[i] < 0.0 { 1u32 << 31 } else { 0 };
            let disagrees = f32::from_bits(delta[i].to_bits() ^ negative) <= 0.0;
            out[i] += if disagrees { 0.0 } else { delta[i] };
            divisor[i] += if disagrees { 0.0 } else { term.weight };
        }
    }
    if normalize {
        for (o, v) in out.iter_mut().zip(&*divisor) {
            *o /= if *v == 0.0 { 1.0 } else { *v };
        }
    }
}

/// The derivatives of one chunk with respect to each weight, and that of λ at λ = 1, last. `deltas` are without weights.
///
/// An entry whose weight is 0 counts as one that is about to agree, or else a weight of 0 could never be left.
pub(crate) fn slopes(deltas: &[&[f32]], terms: &[Term], normalize: bool, upstream: &[f32]) -> Vec<f64> {
    let mut slopes = vec![0.0f64; terms.len() + 1];
    for (i, g) in upstream.iter().enumerate() {
        let elected: f32 = deltas.iter().zip(terms).map(|(d, term)| d[i] * term.weight).sum();
        let sign = if elected < 0.0 { -1.0 } else { 1.0 };
        let agrees = |delta: f32, weight: f32| delta * sign * if weight < 0.0 { -1.0 } else { 1.0 } > 0.0;
        let (mut sum, mut divisor) = (0.0f64, 0.0f64);
        for (delta, term) in deltas.iter().zip(terms) {
            if agrees(delta[i], term.weight) {
                sum += f64::from(delta[i]) * f64::from(term.weight);
                divisor += f64::from(term.weight);
            }
        }
        let divisor = if normalize && divisor != 0.0 { divisor } else { 1.0 };
        let (g, mean) = (f64::from(*g), sum / divisor);
        for (slope, (delta, term)) in slopes.iter_mut().zip(deltas.iter().zip(terms)) {
            if agrees(delta[i], term.weight) {
                let pull = if normalize {
                    f64::from(delta[i]) - mean
                } else {
                    f64::from(delta[i])
                };
                *slope += g * pull / divisor;
            }
        }
        slopes[terms.len()] += g * mean;
    }
    slopes
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, TaskSum, Trim};
    use super::super::testing::merge_sum;
    use super::*;

    fn ties(terms: &[(f32, f64)], normalize: bool, lambda: f32) -> TaskSum {
        TaskSum {
            terms: terms
                .iter()
                .map(|(weight, density)| Term {
                    weight: *weight,
                    trim: Trim::Smallest { density: *density },
                })
                .collect(),
            rescale: Rescale::None,
            elect: true,
            normalize,
            lambda,
        }
    }

    const BASE: [f32; 4] = [0.0; 4];

    #[test]
    fn by_hand() {
        let (a, b) = ([4.0, 1.0, -2.0, 3.0], [-1.0, 2.0, -4.0, 0.5]);
        // a keeps 4, 3; b keeps 2, −4. Signs: +, +, −, +.
        let out = merge_sum(&ties(&[(1.0, 0.5), (1.0, 0.5)], false, 1.0), &BASE, &[&a, &b]);
        assert_eq!(out, [4.0, 2.0, -4.0, 3.0]);
        // At density 1: sums 3, 3, −6, 3.5; b's −1 is outvoted.
        let out = merge_sum(&ties(&[(1.0, 1.0), (1.0, 1.0)], true, 1.0), &BASE, &[&a, &b]);
        assert_eq!(out, [4.0, 1.5, -3.0, 1.75]);
        // Weights 1 and 3: sums 1, 7, −14, 4.5; divided by 1 + 3 where both agree.
        let out = merge_sum(&ties(&[(1.0, 1.0), (3.0, 1.0)], true, 2.0), &BASE, &[&a, &b]);
        assert_eq!(out, [8.0, 2.0 * 7.0 / 4.0, -7.0, 2.0 * 4.5 / 4.0]);
    }

    #[test]
    fn a_tied_vote_is_positive_and_an_empty_one_is_zero() {
        let (a, b) = ([1.0, 0.0, 1.0, 0.0], [-1.0, 0.0, -1.0, 0.0]);
        let out = merge_sum(&ties(&[(1.0, 1.0), (1.0, 1.0)], true, 1.0), &BASE, &[&a, &b]);
        assert_eq!(out, [1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn densities_at_the_edges() {
        let a = [4.0, 1.0, -2.0, 3.0];
        // Nothing stays: the base. One model at density 1: the model itself.
        assert_eq!(merge_sum(&ties(&[(1.0, 0.0)], true, 1.0), &BASE, &[&a]), BASE);
        assert_eq!(merge_sum(&ties(&[(1.0, 1.0)], true, 1.0), &BASE, &[&a]), a);
        // floor(0.25 · 4) = 1, and floor(0.2 · 4) = 0, of which mergekit keeps one: a bias of few entries was lost.
        for density in [0.25, 0.2, 1e-9] {
            let out = merge_sum(&ties(&[(1.0, density)], false, 1.0), &BASE, &[&a]);
            assert_eq!(out, [4.0, 0.0, 0.0, 0.0], "{density}");
        }
    }
}
