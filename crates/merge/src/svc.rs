//! Singular value calibration: task arithmetic, with every direction as long as it is for the tasks themselves.
//!
//! Source: Li et al. 2026, arXiv:2602.05536, algorithm 1: τ = λ Σ wₖ τₖ = Σ σʳ uʳ vʳᵀ; aₖʳ = uʳᵀ τₖ is what task k does in the direction
//! uʳ of the outputs, aʳ = uʳᵀ τ what the sum does there, and sₖʳ = ⟨aʳ, aₖʳ⟩ / ‖aₖʳ‖² how much more; where tasks share a direction, the
//! sum counts it once for each. γʳ = K / Σₖ max(α, sₖʳ); θ = base + Σ γʳ σʳ uʳ vʳᵀ. With α = 1 directions only get shorter; below,
//! those in which tasks cancel each other get longer, by 1 / α at most. The authors take α = 1 / K.
//!
//! A task that does nothing in a direction (‖aₖʳ‖ = 0, where the formula says nothing) has no part in its mean; a model of weight 0
//! is no task.

use faer::Mat;

use super::{
    linear::weighted_sum,
    parents::{Parents, Refusal},
    spectral::{NOTHING, Svd, matrix, narrow, product_onto_base, scale_columns, size_bytes, svd},
    view::Target,
};

pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    (alpha, lambda): (f64, f32),
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let base = parents.whole(base);
    let Some(spectrum) = Spectrum::kept(parents, weights)? else {
        return Ok(out.fill(&base));
    };
    let lengths: Vec<f64> = (0..spectrum.s.len())
        .map(|r| f64::from(lambda) * spectrum.factor(r, alpha, lambda) * spectrum.s[r])
        .collect();
    let mut left = spectrum.u.clone();
    scale_columns(&mut left, &lengths);
    let merged = product_onto_base(&base, left.as_ref(), spectrum.v.transpose(), 1.0);
    Ok(out.fill(&merged))
}

/// The derivative with respect to λ, which lengthens the sum and what it is compared by: of λ γ σ it is σ (γ − λ γ² Σ s / K), the
/// sum over tasks whose λ s is above α.
///
/// # Errors
/// As [`merge`].
pub(crate) fn gradient(
    parents: &Parents<'_>,
    weights: &[f32],
    (alpha, lambda): (f64, f32),
    upstream: &[f32],
) -> Result<f64, Refusal> {
    let (rows, columns) = parents.rows();
    let Some(spectrum) = Spectrum::kept(parents, weights)? else {
        return Ok(0.0);
    };
    let upstream = narrow(matrix(upstream, rows, columns).as_ref());
    let along: Mat<f32> = upstream.transpose() * &spectrum.u;
    let slope = |r: usize| {
        let (factor, lambda) = (spectrum.factor(r, alpha, lambda), f64::from(lambda));
        let ratios = spectrum.ratios[r].iter().filter(|s| lambda * **s > alpha);
        let bend = lambda * factor * factor * ratios.sum::<f64>() / spectrum.ratios[r].len().max(1) as f64;
        let inner: f64 = (0..columns)
            .map(|j| f64::from(along[(j, r)]) * f64::from(spectrum.v[(j, r)]))
            .sum();
        spectrum.s[r] * (factor - bend) * inner
    };
    Ok((0..spectrum.s.len()).map(slope).sum())
}

/// The directions of Σ wₖ τₖ.
struct Spectrum {
    u: Mat<f32>,
    s: Vec<f64>,
    v: Mat<f32>,
    /// By direction, sₖʳ of the tasks that do something there, at λ = 1.
    ratios: Vec<Vec<f64>>,
}

impl Spectrum {
    /// `None` where the tasks sum to nothing. The weights decide it, so that it serves only recipes that differ elsewhere.
    fn kept(parents: &Parents<'_>, weights: &[f32]) -> Result<Option<std::sync::Arc<Self>>, Refusal> {
        let tasks: Vec<Vec<f32>> = parents.models().into_iter().map(|k| parents.task_vector(k)).collect();
        let words: Vec<&[f32]> = tasks.iter().map(Vec::as_slice).collect();
        let mut sum = vec![0.0f32; parents.len()];
        weighted_sum(&words, weights, &mut sum);
        if sum.iter().all(|x| *x == 0.0) {
            return Ok(None);
        }
        let bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
        let size = |kept: &Spectrum| size_bytes(&kept.u) + size_bytes(&kept.v) + 8 * kept.s.len() * (1 + words.len());
        let make = || {
            let (rows, columns) = parents.rows();
            let of_task = words.iter().zip(weights).filter(|(_, w)| **w != 0.0);
            let of_task: Vec<Mat<f64>> = of_task.map(|(task, _)| matrix(task, rows, columns)).collect();
            Ok(Spectrum::new(svd(matrix(&sum, rows, columns).as_ref())?, &of_task))
        };
        parents.kept(&format!("svc {bits:?}"), size, make).map(Some)
    }

    fn new(svd: Svd, tasks: &[Mat<f64>]) -> Self {
        let longest = svd.s.first().copied().unwrap_or_default();
        let count = svd.s.iter().take_while(|s| **s > NOTHING * longest).count();
        let (u, v) = (svd.u.subcols(0, count), svd.v.subcols(0, count));
        let s = svd.s[..count].to_vec();
        let mut ratios = vec![Vec::new(); count];
        for task in tasks {
            let responses: Mat<f64> = u.transpose() * task;
            let nothing = NOTHING * task.as_ref().norm_l2();
            for (r, ratios) in ratios.iter_mut().enumerate() {
                let response = responses.row(r);
                let square = response.squared_norm_l2();
                if square > nothing * nothing {
                    ratios.push(s[r] * (response * v.col(r)) / square);
                }
            }
        }
        Spectrum {
            u: narrow(u),
            s,
            v: narrow(v),
            ratios,
        }
    }

    /// γʳ
    fn factor(&self, r: usize, alpha: f64, lambda: f32) -> f64 {
        let ratios = &self.ratios[r];
        if ratios.is_empty() {
            return 1.0;
        }
        let sum: f64 = ratios.iter().map(|s| alpha.max(f64::from(lambda) * s)).sum();
        ratios.len() as f64 / sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        noise,
        reference::{self, Table},
        run_shaped,
    };
    use super::*;

    fn merged(models: &[&[f32]], shape: &[usize], weights: &[f32], alpha: f64, lambda: f32) -> Vec<f32> {
        run_shaped(models, Some(0), shape, |p, out| merge(p, weights, (alpha, lambda), out)).unwrap()
    }

    /// Algorithm 1 as it stands in the paper, with rotations for the decomposition.
    fn by_the_paper(tasks: &[Table], weights: &[f32], alpha: f64, lambda: f64) -> Table {
        let (rows, columns) = (tasks[0].len(), tasks[0][0].len());
        let mut sum = vec![vec![0.0; columns]; rows];
        for (task, w) in tasks.iter().zip(weights) {
            reference::add(&mut sum, task, lambda * f64::from(*w));
        }
        let (u, s, v) = reference::triples(&sum, rows.min(columns));
        let mut merged = vec![vec![0.0; columns]; rows];
        for ((u, s), v) in u.iter().zip(&s).zip(&v) {
            let response = |of: &Table| reference::times(&reference::transposed(of), u);
            let of_sum = response(&sum);
            let scale = |task: &Table| {
                let of_task = response(task);
                (reference::dot(&of_sum, &of_task) / reference::dot(&of_task, &of_task)).max(alpha)
            };
            let factor = tasks.len() as f64 / tasks.iter().map(scale).sum::<f64>();
            for (row, u) in merged.iter_mut().zip(u) {
                row.iter_mut().zip(v).for_each(|(x, v)| *x += factor * s * u * v);
            }
        }
        merged
    }

    /// Tall, wide and square matrices, two and three tasks, several seeds; what λ does to the sum it does before the calibration.
    #[test]
    fn the_algorithm_agrees_with_its_steps_written_out() {
        for seed in 0..4 {
            for shape in [[9, 6], [5, 8], [6, 6], [1, 7]] {
                for (weights, alpha, lambda) in [
                    (&[1.0, 1.0][..], 0.5, 1.0),
                    (&[0.7, -0.4], 1.0, 0.3),
                    (&[1.0, 0.5, 1.5], 0.1, 0.8),
                    (&[1.0], 1.0, 1.0),
                ] {
                    let n = shape[0] * shape[1];
                    let models: Vec<Vec<f32>> = (0..=weights.len() as u64).map(|k| noise(100 * seed + k, n)).collect();
                    let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
                    let out = merged(&words, &shape, weights, alpha, lambda);
                    let tasks: Vec<Table> = models[1..]
                        .iter()
                        .map(|model| reference::task(&models[0], model, shape[1], 1.0))
                        .collect();
                    let expected = by_the_paper(&tasks, weights, alpha, f64::from(lambda));
                    for (i, x) in out.iter().enumerate() {
                        let expected = f64::from(models[0][i]) + expected[i / shape[1]][i % shape[1]];
                        assert!(
                            (f64::from(*x) - expected).abs() < 2e-5,
                            "{seed} {shape:?} {weights:?} {i}: {x} {expected}"
                        );
                    }
                }
            }
        }
    }

    /// What the method is for: experts that learned the same are added up to that, once.
    #[test]
    fn equal_tasks_count_once_and_tasks_of_different_outputs_as_they_are() {
        let (base, a) = (noise(1, 30), noise(2, 30));
        let near = |x: &[f32], y: &[f32]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{x:?} {y:?}");
        for shape in [[5, 6], [6, 5]] {
            near(&merged(&[&base, &a], &shape, &[1.0], 1.0, 1.0), &a);
            near(&merged(&[&base, &a, &a, &a], &shape, &[1.0, 1.0, 1.0], 1.0, 1.0), &a);
            near(&merged(&[&base, &a, &a], &shape, &[1.0, 1.0], 0.5, 1.0), &a);
            let b = noise(3, 30);
            let left_out = merged(&[&base, &a, &b], &shape, &[1.0, 0.0], 1.0, 1.0);
            near(&left_out, &a);
        }
        // The first task reads the first three inputs for the first two outputs, the second the others for the others.
        let block = |seed: u64, first: bool| -> Vec<f32> {
            let inside = |at: usize| (at / 6 < 2) == first && (at % 6 < 3) == first;
            let noise = noise(seed, 24).into_iter().enumerate();
            noise.map(|(at, x)| if inside(at) { x } else { 0.0 }).collect()
        };
        let (upper, lower) = (block(4, true), block(5, false));
        let sum: Vec<f32> = upper.iter().zip(&lower).map(|(x, y)| x + y).collect();
        near(
            &merged(&[&[0.0; 24], &upper, &lower], &[4, 6], &[1.0, 1.0], 1.0, 1.0),
            &sum,
        );
    }

    #[test]
    fn alpha_bounds_what_gets_longer_and_one_lets_nothing() {
        let (base, a) = (vec![0.0; 12], noise(2, 12));
        // Tasks that nearly cancel: what is left is short beside either.
        let b: Vec<f32> = a.iter().map(|x| -0.9 * x).collect();
        let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let left: Vec<f32> = a.iter().map(|x| 0.1 * x).collect();
        let at = |alpha| length(&merged(&[&base, &a, &b], &[3, 4], &[1.0, 1.0], alpha, 1.0)) / length(&left);
        assert!((at(1.0) - 1.0).abs() < 1e-4, "{}", at(1.0));
        assert!((at(0.25) - 4.0).abs() < 1e-3, "{}", at(0.25));
    }

    #[test]
    fn the_slope_of_lambda_is_that_of_the_merge() {
        for (seed, alpha, lambda) in [(1, 0.5, 0.9), (2, 1.0, 1.3), (3, 0.05, 0.4)] {
            let models: Vec<Vec<f32>> = (0..3).map(|k| noise(10 * seed + k, 30)).collect();
            let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
            let (upstream, weights) = (noise(10 * seed + 9, 30), [1.0, 0.7]);
            let at = |lambda: f32| -> f64 {
                let out = merged(&words, &[5, 6], &weights, alpha, lambda);
                out.iter()
                    .zip(&upstream)
                    .map(|(x, g)| f64::from(*x) * f64::from(*g))
                    .sum()
            };
            let expected = (at(lambda + 1e-2) - at(lambda - 1e-2)) / 2e-2;
            let found = std::cell::Cell::new(0.0);
            run_shaped(&words, Some(0), &[5, 6], |p, _| {
                found.set(gradient(p, &weights, (alpha, lambda), &upstream)?);
                Ok(true)
            })
            .unwrap();
            assert!(
                (found.get() - expected).abs() < 2e-2 * expected.abs().max(1.0),
                "{seed}: {} {expected}",
                found.get()
            );
        }
    }

    #[test]
    fn without_change_the_base_stays() {
        let (base, a) = (noise(1, 12), noise(2, 12));
        assert_eq!(merged(&[&base, &base, &base], &[3, 4], &[1.0, 1.0], 0.5, 1.0), base);
        assert_eq!(merged(&[&base, &a], &[3, 4], &[0.0], 0.5, 1.0), base);
        assert_eq!(merged(&[&base, &a], &[3, 4], &[1.0], 0.5, 0.0), base);
    }
}
