//! Fisher-weighted merging: each weight is the mean of the models', by how much each model minds a change of it.
//!
//! Source: Matena and Raffel 2022, arXiv:2111.09832, section 3: with the diagonal Fisher information Fₖ of model k, the most
//! likely weights under all models' Gaussian posteriors are θ = Σ wₖ Fₖ θₖ / Σ wₖ Fₖ. Here Fₖ + ε stands for Fₖ, so that a weight
//! which no model minds (rows of tokens that no text had) becomes the plain mean of the models, weighted.
//!
//! The information comes as a model of its own, one number for each weight: the second half of the inputs.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    gradient::add_up,
    parents::{Parents, Refusal},
    view::Target,
};

/// # Errors
/// [`Refusal::ZeroWeights`], [`Refusal::NegativeFisher`].
pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    epsilon: f32,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    check(weights)?;
    let negative = AtomicBool::new(false);
    let finite = parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, divisors, out| {
            let (models, information) = chunks.split_at(weights.len());
            divisors.clear();
            divisors.resize(out.len(), 0.0);
            out.fill(0.0);
            let mut below_zero = false;
            for ((x, f), w) in models.iter().zip(information).zip(weights) {
                for (((o, d), x), f) in out.iter_mut().zip(divisors.iter_mut()).zip(*x).zip(*f) {
                    below_zero |= *f < 0.0;
                    let precision = w * (f + epsilon);
                    *o += precision * x;
                    *d += precision;
                }
            }
            out.iter_mut().zip(divisors.iter()).for_each(|(o, d)| *o /= d);
            if below_zero {
                negative.store(true, Ordering::Relaxed);
            }
        },
    );
    match negative.into_inner() {
        true => Err(Refusal::NegativeFisher),
        false => Ok(finite),
    }
}

/// # Errors
/// [`Refusal::ZeroWeights`]: nobody is to be heard.
pub(crate) fn check(weights: &[f32]) -> Result<(), Refusal> {
    match weights.iter().sum::<f32>() > 0.0 {
        true => Ok(()),
        false => Err(Refusal::ZeroWeights),
    }
}

/// The derivative with respect to each weight: Σ upstream · (Fₖ + ε) (θₖ − θ) / Σ w (F + ε).
pub(crate) fn gradient(parents: &Parents<'_>, weights: &[f32], epsilon: f32, upstream: &[f32]) -> Vec<f64> {
    let parts = parents.inputs.each(
        #[inline(always)]
        |start, chunks, _| {
            let (models, information) = chunks.split_at(weights.len());
            let mut slopes = vec![0.0; weights.len()];
            for i in 0..models.first().map_or(0, |x| x.len()) {
                let precision = |k: usize| f64::from(information[k][i] + epsilon);
                let (mut sum, mut divisor) = (0.0, 0.0);
                for (k, w) in weights.iter().enumerate() {
                    sum += f64::from(*w) * precision(k) * f64::from(models[k][i]);
                    divisor += f64::from(*w) * precision(k);
                }
                let merged = sum / divisor;
                let upstream = f64::from(upstream[start + i]) / divisor;
                for (k, slope) in slopes.iter_mut().enumerate() {
                    *slope += upstream * precision(k) * (f64::from(models[k][i]) - merged);
                }
            }
            slopes
        },
    );
    add_up(weights.len(), parts)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{noise, run};
    use super::*;

    fn fisher(weights: &[f32], epsilon: f32, inputs: &[&[f32]]) -> Result<Vec<f32>, Refusal> {
        run(inputs, None, |p, out| merge(p, weights, epsilon, out))
    }

    #[test]
    fn by_hand() {
        // The second weight is minded by the second model alone, the third by nobody.
        let (a, b) = ([2.0, 2.0, 2.0], [6.0, 6.0, 6.0]);
        let (of_a, of_b) = ([3.0, 0.0, 0.0], [1.0, 5.0, 0.0]);
        let near =
            |x: Vec<f32>, y: [f32; 3]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 2e-6), "{x:?} {y:?}");
        let out = |weights: [f32; 2]| fisher(&weights, 1e-12, &[&a, &b, &of_a, &of_b]).unwrap();
        near(out([1.0, 1.0]), [12.0 / 4.0, 6.0, 4.0]);
        near(out([1.0, 3.0]), [24.0 / 6.0, 6.0, 20.0 / 4.0]);
        near(out([1.0, 0.0]), a);
    }

    #[test]
    fn the_sum_agrees_with_plain_arithmetic() {
        for (seed, count) in [(1, 2), (2, 3), (3, 5)] {
            let n = 5000;
            let models: Vec<Vec<f32>> = (0..count).map(|k| noise(10 * seed + k, n)).collect();
            let square = |x: &f32| if *x < -0.5 { 0.0 } else { 1e-4 * x * x };
            let information: Vec<Vec<f32>> = (0..count)
                .map(|k| noise(100 * seed + k, n).iter().map(square).collect())
                .collect();
            let weights: Vec<f32> = (0..count).map(|k| 0.3 + 0.4 * k as f32).collect();
            let inputs: Vec<&[f32]> = models.iter().chain(&information).map(Vec::as_slice).collect();
            let out = fisher(&weights, 1e-9, &inputs).unwrap();
            for i in 0..n {
                let (mut sum, mut divisor) = (0.0, 0.0);
                for k in 0..count as usize {
                    let precision = f64::from(weights[k]) * (f64::from(information[k][i]) + 1e-9);
                    sum += precision * f64::from(models[k][i]);
                    divisor += precision;
                }
                assert!((f64::from(out[i]) - sum / divisor).abs() < 2e-6, "{i}");
            }
        }
    }

    #[test]
    fn equal_information_is_a_plain_mean_and_equal_models_stay() {
        let (a, b, f) = (noise(1, 300), noise(2, 300), [0.5; 300]);
        let mean = fisher(&[1.0, 1.0], 1e-12, &[&a, &b, &f, &f]).unwrap();
        let near = |x: &[f32], y: &dyn Fn(usize) -> f32| (0..300).all(|i| (x[i] - y(i)).abs() < 1e-6);
        assert!(near(&mean, &|i| (a[i] + b[i]) / 2.0));
        let scaled: Vec<f32> = noise(3, 300).iter().map(|x| x * x).collect();
        assert!(near(
            &fisher(&[0.2, 1.7], 1e-12, &[&a, &a, &scaled, &f]).unwrap(),
            &|i| a[i]
        ));
    }

    #[test]
    fn what_is_no_information_is_refused() {
        let (a, b) = ([1.0], [2.0]);
        assert_eq!(
            fisher(&[1.0, 1.0], 1e-12, &[&a, &b, &[-1.0], &[1.0]]),
            Err(Refusal::NegativeFisher)
        );
        assert_eq!(
            fisher(&[0.0, 0.0], 1e-12, &[&a, &b, &[1.0], &[1.0]]),
            Err(Refusal::ZeroWeights)
        );
    }
}
