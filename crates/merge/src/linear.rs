//! Linear: Σ wₖ θₖ, divided by Σ wₖ if `normalize`.
//!
//! Source: Wortsman et al. 2022, Model soups, arXiv:2203.05482. Sums run in recipe order.

use super::{
    gradient::inner,
    parents::{Parents, Refusal},
    view::Target,
};

/// What the sum is divided by.
///
/// # Errors
/// [`Refusal::ZeroWeights`]: there is nothing to divide by.
pub(crate) fn divisor(weights: &[f32]) -> Result<f32, Refusal> {
    let total: f32 = weights.iter().sum();
    let size: f32 = weights.iter().map(|w| w.abs()).sum();
    // 0.1 + 0.2 − 0.3 is meant to be zero as well.
    if total.abs() <= 1e-6 * size {
        return Err(Refusal::ZeroWeights);
    }
    Ok(total)
}

/// # Errors
/// As [`divisor`], if there is to be one.
pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    normalize: bool,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let total = if normalize { divisor(weights)? } else { 1.0 };
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            weighted_sum(chunks, weights, out);
            if normalize {
                for o in out.iter_mut() {
                    *o /= total;
                }
            }
        },
    ))
}

/// Σ cₖ xₖ over one chunk.
#[inline(always)]
pub(crate) fn weighted_sum(chunks: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for (chunk, w) in chunks.iter().zip(weights) {
        for (o, x) in out.iter_mut().zip(*chunk) {
            *o += w * x;
        }
    }
}

/// The derivative of the weighted sum, or mean if `normalize`, with respect to each weight.
pub(crate) fn gradient(parents: &Parents<'_>, weights: &[f32], normalize: bool, upstream: &[f32]) -> Vec<f64> {
    let inner = inner(parents, upstream);
    if !normalize {
        return inner;
    }
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let mean = inner.iter().zip(weights).map(|(i, w)| i * f64::from(*w)).sum::<f64>() / total;
    inner.iter().map(|i| (i - mean) / total).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    fn linear(weights: &[f32], normalize: bool, models: &[&[f32]]) -> Result<Vec<f32>, Refusal> {
        run(models, None, |p, out| merge(p, weights, normalize, out))
    }

    #[test]
    fn by_hand() {
        let (a, b) = ([1.0, 2.0], [3.0, -2.0]);
        assert_eq!(linear(&[1.0, 3.0], true, &[&a, &b]), Ok(vec![10.0 / 4.0, -4.0 / 4.0]));
        assert_eq!(linear(&[1.0, 3.0], false, &[&a, &b]), Ok(vec![10.0, -4.0]));
        assert_eq!(linear(&[1.0, -1.0], false, &[&a, &b]), Ok(vec![-2.0, 4.0]));
    }

    #[test]
    fn weights_that_sum_to_zero_are_refused_only_when_divided_by() {
        assert_eq!(linear(&[1.0, -1.0], true, &[&[1.0], &[2.0]]), Err(Refusal::ZeroWeights));
        assert_eq!(linear(&[0.0], true, &[&[1.0]]), Err(Refusal::ZeroWeights));
    }

    #[test]
    fn the_order_of_two_models_does_not_matter() {
        let (a, b) = ([0.1, 0.7, -3.3], [0.3, 1e-3, 5.5]);
        assert_eq!(
            linear(&[0.3, 0.6], true, &[&a, &b]),
            linear(&[0.6, 0.3], true, &[&b, &a])
        );
    }
}
