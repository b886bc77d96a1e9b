//! Methods that are a linear combination whose coefficients follow from the inner products of the models.
//!
//! NuSLERP, Multi-SLERP and the Karcher mean all stay in the span of their inputs. So they are computed in the
//! coordinates of that span, on the K × K Gram matrix in f64, and the tensors are read twice however many iterations run.

use super::{
    gradient::along_models,
    parents::{Parents, Refusal},
    view::{CHUNK, Target},
};

/// Σ cₖ θₖ, or base + Σ cₖ τₖ where there is a base.
pub(crate) fn write(parents: &Parents<'_>, coefficients: &[f64], out: &mut Target<'_>) -> bool {
    let coefficients: Vec<f32> = coefficients.iter().map(|c| *c as f32).collect();
    let models = parents.models();
    let base = parents.base;
    parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            let zeros = [0.0; CHUNK];
            let base = base.map_or(&zeros[..out.len()], |k| chunks[k]);
            out.fill(0.0);
            for (k, c) in models.iter().zip(&coefficients) {
                for ((o, x), b) in out.iter_mut().zip(chunks[*k]).zip(base) {
                    *o += c * (x - b);
                }
            }
            for (o, b) in out.iter_mut().zip(base) {
                *o += b;
            }
        },
    )
}

/// The Gram matrix with the vectors' norms.
pub(crate) struct Span {
    gram: Vec<f64>,
    pub norms: Vec<f64>,
}

impl Span {
    pub fn new(gram: Vec<f64>) -> Self {
        let n = (gram.len() as f64).sqrt().round() as usize;
        let norms = (0..n).map(|i| gram[i * n + i].max(0.0).sqrt()).collect();
        Span { gram, norms }
    }

    /// ⟨Σ aᵢ vᵢ, vⱼ⟩
    pub fn with_vector(&self, a: &[f64], j: usize) -> f64 {
        let n = self.norms.len();
        a.iter().enumerate().map(|(i, a)| a * self.gram[i * n + j]).sum()
    }

    /// ‖Σ aᵢ vᵢ‖
    pub fn norm(&self, a: &[f64]) -> f64 {
        let square: f64 = (0..a.len()).map(|j| a[j] * self.with_vector(a, j)).sum();
        square.max(0.0).sqrt()
    }
}

/// Multi-SLERP: tangent-space barycentre at the weighted mean direction, times the weighted mean norm.
///
/// The weighted sum of the tangent vectors at the weighted mean itself vanishes: Σ wₖ(uₖ − ⟨uₖ,m⟩m) = (‖s‖ − ⟨s,m⟩)m = 0
/// for s = Σ wₖ uₖ, m = s/‖s‖. So the exponential map is taken at a step of zero and the result is m · Σ wₖ ‖θₖ‖.
///
/// Source: Goddard 2025, "Multi-SLERP" (mergekit), `eps` added to norms as there. With two models whose directions
/// cancel, the weighted sum of the tensors themselves.
pub(crate) fn multislerp(
    parents: &Parents<'_>,
    weights: &[f32],
    normalize: bool,
    eps: f64,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    if let [only] = parents.models()[..] {
        let copy = parents.whole(only);
        return Ok(out.fill(&copy));
    }
    let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
    let span = Span::new(parents.gram());
    let coefficients = multislerp_coefficients(&span, weights, normalize, eps)?;
    Ok(write(parents, &coefficients, out))
}

/// What each model, or its task vector, is multiplied with.
pub(crate) fn multislerp_coefficients(
    span: &Span,
    mut weights: Vec<f64>,
    normalize: bool,
    eps: f64,
) -> Result<Vec<f64>, Refusal> {
    if normalize {
        let total: f64 = weights.iter().sum();
        if total == 0.0 {
            return Err(Refusal::ZeroWeights);
        }
        weights.iter_mut().for_each(|w| *w /= total);
    }
    let mean: Vec<f64> = weights.iter().zip(&span.norms).map(|(w, n)| w / (n + eps)).collect();
    let mean_norm = span.norm(&mean);
    if mean_norm < eps {
        return match weights.len() {
            2 => Ok(weights),
            _ => Err(Refusal::NoDirection),
        };
    }
    let length: f64 = weights.iter().zip(&span.norms).map(|(w, n)| w * n).sum();
    Ok(mean.iter().map(|m| m / mean_norm * length).collect())
}

/// Karcher mean of the models' directions, times the mean of their norms.
///
/// Source: Karcher 1977; iteration m ← exp_m(mean of log_m(uₖ)) until a step is shorter than `tol`, at most `max_iter`
/// times; models with a norm up to `tol` have no direction (mergekit).
pub(crate) fn karcher(parents: &Parents<'_>, max_iter: usize, tol: f64, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let span = Span::new(parents.gram());
    let n = span.norms.len();
    if n == 1 {
        return Ok(write(parents, &[1.0], out));
    }
    let valid: Vec<usize> = (0..n).filter(|k| span.norms[*k] > tol).collect();
    let Some(first) = valid.first() else {
        return Ok(write(parents, &vec![0.0; n], out));
    };
    let alpha = 1.0 / valid.len() as f64;
    let mut mean = vec![0.0; n];
    for k in &valid {
        mean[*k] = alpha / span.norms[*k];
    }
    let norm = span.norm(&mean);
    if norm < tol {
        mean.fill(0.0);
        mean[*first] = 1.0 / span.norms[*first];
    } else {
        mean.iter_mut().for_each(|m| *m /= norm);
    }
    for _ in 0..max_iter {
        let tangent = mean_of_logarithms(&span, &mean, &valid, tol);
        let step = span.norm(&tangent);
        if step < tol {
            break;
        }
        for (m, t) in mean.iter_mut().zip(&tangent) {
            *m = libm::cos(step) * *m + libm::sin(step) * (t / step);
        }
        let norm = span.norm(&mean);
        if norm > tol {
            mean.iter_mut().for_each(|m| *m /= norm);
        }
    }
    let length: f64 = span.norms.iter().sum::<f64>() / n as f64;
    mean.iter_mut().for_each(|m| *m *= length);
    Ok(write(parents, &mean, out))
}

/// Σ α · log_m(uₖ) = Σ α · θ/sin θ · (uₖ − cos θ · m)
fn mean_of_logarithms(span: &Span, mean: &[f64], valid: &[usize], tol: f64) -> Vec<f64> {
    let alpha = 1.0 / valid.len() as f64;
    let mut tangent = vec![0.0; mean.len()];
    for k in valid {
        let cos = (span.with_vector(mean, *k) / span.norms[*k]).clamp(-1.0, 1.0);
        let theta = libm::acos(cos);
        if theta < tol {
            continue;
        }
        let factor = alpha * theta / libm::sin(theta);
        tangent[*k] += factor / span.norms[*k];
        for (t, m) in tangent.iter_mut().zip(mean) {
            *t -= factor * cos * m;
        }
    }
    tangent
}

/// The coefficients of the models are numbers that follow from few others: their derivative is a central difference in f64.
pub(crate) fn multislerp_gradient(
    parents: &Parents<'_>,
    weights: &[f32],
    (normalize, eps): (bool, f64),
    upstream: &[f32],
) -> Result<Vec<f64>, Refusal> {
    const STEP: f64 = 1e-5;
    let along = along_models(parents, upstream);
    if along.len() < 2 {
        return Ok(vec![0.0; along.len()]);
    }
    let span = Span::new(parents.gram());
    let at = |k: usize, step: f64| -> Result<f64, Refusal> {
        let mut moved: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
        moved[k] += step;
        let coefficients = multislerp_coefficients(&span, moved, normalize, eps)?;
        Ok(coefficients.iter().zip(&along).map(|(c, a)| c * a).sum())
    };
    (0..along.len())
        .map(|k| Ok((at(k, STEP)? - at(k, -STEP)?) / (2.0 * STEP)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    fn near(a: &[f32], b: &[f32]) {
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() < 1e-6, "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_mean_of_two_right_angles_is_the_diagonal() {
        let h = std::f32::consts::FRAC_1_SQRT_2;
        let models: [&[f32]; 2] = [&[2.0, 0.0], &[0.0, 4.0]];
        let karcher = run(&models, None, |p, out| karcher(p, 10, 1e-5, out)).unwrap();
        near(&karcher, &[3.0 * h, 3.0 * h]);
        let multi = run(&models, None, |p, out| multislerp(p, &[1.0, 1.0], true, 1e-8, out)).unwrap();
        near(&multi, &[3.0 * h, 3.0 * h]);
    }

    #[test]
    fn zero_and_opposite_models() {
        let zeros: [&[f32]; 2] = [&[0.0], &[0.0]];
        assert_eq!(run(&zeros, None, |p, out| karcher(p, 10, 1e-5, out)), Ok(vec![0.0]));
        let opposite: [&[f32]; 2] = [&[1.0, 1.0], &[-1.0, -1.0]];
        let lerp = run(&opposite, None, |p, out| multislerp(p, &[1.0, 1.0], true, 1e-8, out));
        assert_eq!(lerp, Ok(vec![0.0, 0.0]));
        let three: [&[f32]; 3] = [&[1.0], &[-1.0], &[1.0]];
        let none = run(&three, None, |p, out| multislerp(p, &[1.0, 2.0, 1.0], true, 1e-8, out));
        assert_eq!(none, Err(Refusal::NoDirection));
    }

    #[test]
    fn with_a_base_the_task_vectors_are_averaged() {
        let models: [&[f32]; 3] = [&[1.0, 1.0], &[3.0, 1.0], &[1.0, 3.0]];
        let h = std::f32::consts::SQRT_2;
        let out = run(&models, Some(0), |p, out| multislerp(p, &[1.0, 1.0], true, 1e-8, out)).unwrap();
        near(&out, &[1.0 + h, 1.0 + h]);
    }

    #[test]
    fn the_order_of_models_does_not_matter_to_karcher() {
        let (a, b, c): (&[f32], &[f32], &[f32]) = (&[1.0, 0.2, 0.1], &[0.1, 1.0, 0.0], &[0.3, 0.3, 0.9]);
        let one = run(&[a, b, c], None, |p, out| karcher(p, 10, 1e-5, out)).unwrap();
        let two = run(&[c, a, b], None, |p, out| karcher(p, 10, 1e-5, out)).unwrap();
        near(&one, &two);
    }
}
