//! Iso-CTS: a flat spectrum over what the tasks share and over what each has of its own.
//!
//! Source: Marczak et al. 2025, arXiv:2502.04959, algorithm 2. The leading k triples of Σ wₖ τₖ = U S Vᵀ are common; of each
//! wₖ τₖ − U₁:ₖ U₁:ₖᵀ wₖ τₖ the leading s = (r − k)/K are its own. Set side by side, U and V become the nearest orthogonal
//! matrices P Qᵀ; τ = σ̄ U Vᵀ with σ̄ the mean of all singular values that were set side by side; θ = base + λ τ.
//!
//! Deviation: a direction without length is none. The paper's factors hold r triples even where the tasks have fewer (adapters,
//! equal parents, a lone row), and give those that a decomposition makes up the same σ̄ as the rest. A model whose weight is 0
//! is left out.

use faer::Mat;

use super::{
    parents::{Parents, Refusal},
    spectral::{NOTHING, Svd, matrix, narrow, nearest_isometry, onto_base, size_bytes, svd},
    view::Target,
};

pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    common: f64,
    lambda: f32,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let base = parents.whole(base);
    // The weights decide the factors, so that they serve only recipes that differ elsewhere.
    let bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
    let flat = parents.kept(
        &format!("iso_cts {bits:?} {common}"),
        |merged: &Mat<f32>| size_bytes(merged),
        || Ok(narrow(merged_vector(parents, weights, common)?.as_ref())),
    )?;
    let merged = onto_base(&base, (*flat).as_ref(), lambda);
    Ok(out.fill(&merged))
}

/// σ̄ U Vᵀ
fn merged_vector(parents: &Parents<'_>, weights: &[f32], common: f64) -> Result<Mat<f64>, Refusal> {
    let (rows, columns) = parents.rows();
    let taking_part = parents.models().into_iter().zip(weights).filter(|(_, w)| **w != 0.0);
    let tasks: Vec<Mat<f64>> = taking_part
        .map(|(k, w)| matrix(&parents.task_vector(k), rows, columns) * faer::Scale(f64::from(*w)))
        .collect();
    let longest = tasks.iter().map(|task| task.as_ref().norm_l2()).fold(0.0, f64::max);
    if longest == 0.0 {
        return Ok(Mat::zeros(rows, columns));
    }
    let (k, own) = division(rows.min(columns), tasks.len(), common);
    let mut sum: Mat<f64> = Mat::zeros(rows, columns);
    tasks.iter().for_each(|task| sum += task);
    let shared = leading(svd(sum.as_ref())?, k, longest);
    let mut all = vec![];
    for task in tasks.iter().filter(|_| own > 0) {
        let rest = task - &shared.u * (shared.u.transpose() * task);
        all.push(leading(svd(rest.as_ref())?, own, longest));
    }
    all.push(shared);
    let count: usize = all.iter().map(|part| part.s.len()).sum();
    let mean = all.iter().flat_map(|part| &part.s).sum::<f64>() / count.max(1) as f64;
    let u = nearest_isometry(side_by_side(rows, count, all.iter().map(|part| &part.u)).as_ref())?;
    let v = nearest_isometry(side_by_side(columns, count, all.iter().map(|part| &part.v)).as_ref())?;
    Ok(&u * v.transpose() * faer::Scale(mean))
}

/// Of `full` directions, those that are common, and those of each task: all tasks have as many, and the common part takes
/// what cannot be divided.
fn division(full: usize, tasks: usize, common: f64) -> (usize, usize) {
    let rest = full - super::magnitude::share(common, full);
    let own = ((2 * rest + tasks) / (2 * tasks)).min(full / tasks);
    (full - own * tasks, own)
}

/// The first `count` triples, without those that have no length beside `longest`.
fn leading(svd: Svd, count: usize, longest: f64) -> Svd {
    let count = svd.s.iter().take(count).take_while(|s| **s > NOTHING * longest).count();
    Svd {
        u: svd.u.subcols(0, count).to_owned(),
        s: svd.s[..count].to_vec(),
        v: svd.v.subcols(0, count).to_owned(),
    }
}

fn side_by_side<'a>(rows: usize, columns: usize, parts: impl Iterator<Item = &'a Mat<f64>>) -> Mat<f64> {
    let mut joined = Mat::zeros(rows, columns);
    let mut at = 0;
    for part in parts {
        joined.subcols_mut(at, part.ncols()).copy_from(part);
        at += part.ncols();
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        noise,
        reference::{self, Table},
        run_shaped,
    };
    use super::*;

    fn merged(models: &[&[f32]], shape: &[usize], weights: &[f32], common: f64, lambda: f32) -> Vec<f32> {
        run_shaped(models, Some(0), shape, |p, out| merge(p, weights, common, lambda, out)).unwrap()
    }

    /// Algorithm 2 as it stands in the paper, with rotations for the decompositions and an iteration for the orthogonal factors.
    fn by_the_paper(tasks: &[Table], (k, own): (usize, usize)) -> Table {
        let (rows, columns) = (tasks[0].len(), tasks[0][0].len());
        let mut sum = vec![vec![0.0; columns]; rows];
        for task in tasks {
            reference::add(&mut sum, task, 1.0);
        }
        let (mut u, mut s, mut v) = reference::triples(&sum, k);
        let shared = u.clone();
        for task in tasks {
            let mut rest = task.clone();
            for direction in &shared {
                let along = reference::times(&reference::transposed(task), direction);
                for (i, row) in rest.iter_mut().enumerate() {
                    row.iter_mut().zip(&along).for_each(|(x, a)| *x -= direction[i] * a);
                }
            }
            let (more_u, more_s, more_v) = reference::triples(&rest, own);
            u.extend(more_u);
            s.extend(more_s);
            v.extend(more_v);
        }
        let mean = s.iter().sum::<f64>() / s.len() as f64;
        let (u, v) = (reference::orthogonal(u), reference::orthogonal(v));
        let mut merged = vec![vec![0.0; columns]; rows];
        for (u, v) in u.iter().zip(&v) {
            for (row, u) in merged.iter_mut().zip(u) {
                row.iter_mut().zip(v).for_each(|(x, v)| *x += mean * u * v);
            }
        }
        merged
    }

    /// The method agrees with the paper's steps written out: tall, wide and square matrices, two and three tasks, several seeds.
    #[test]
    fn the_algorithm_agrees_with_its_steps_written_out() {
        for seed in 0..4 {
            for (shape, common) in [
                ([9, 6], 0.5),
                ([5, 8], 0.4),
                ([6, 6], 0.8),
                ([7, 7], 0.0),
                ([4, 6], 1.0),
            ] {
                for weights in [&[1.0, 1.0][..], &[0.7, -0.4], &[1.0, 0.5, 1.5]] {
                    let n = shape[0] * shape[1];
                    let models: Vec<Vec<f32>> = (0..=weights.len() as u64).map(|k| noise(100 * seed + k, n)).collect();
                    let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
                    let out = merged(&words, &shape, weights, common, 0.6);
                    let tasks: Vec<Table> = models[1..]
                        .iter()
                        .zip(weights)
                        .map(|(model, w)| reference::task(&models[0], model, shape[1], f64::from(*w)))
                        .collect();
                    let expected = by_the_paper(&tasks, division(shape[0].min(shape[1]), tasks.len(), common));
                    for (i, x) in out.iter().enumerate() {
                        let tau = expected[i / shape[1]][i % shape[1]];
                        let expected = f64::from(models[0][i]) + 0.6 * tau;
                        assert!(
                            (f64::from(*x) - expected).abs() < 1e-5,
                            "{seed} {shape:?} {weights:?} {i}: {x} {expected}"
                        );
                    }
                }
            }
        }
    }

    /// A decomposition has as many triples as the matrix has rows, whether or not anything lies in them: made-up directions would
    /// get the length of real ones.
    #[test]
    fn equal_parents_have_the_directions_of_one_and_a_weight_of_zero_leaves_a_model_out() {
        let (base, a, b) = (noise(1, 30), noise(2, 30), noise(3, 30));
        for shape in [[5, 6], [6, 5], [1, 30], [30, 1]] {
            let one = merged(&[&base, &a], &shape, &[1.0], 0.5, 1.0);
            assert_eq!(
                merged(&[&base, &a, &b], &shape, &[1.0, 0.0], 0.5, 1.0),
                one,
                "{shape:?}"
            );
            let twice = merged(&[&base, &a, &a], &shape, &[0.5, 0.5], 0.5, 1.0);
            let full = shape[0].min(shape[1]);
            let spectrum = |model: &[f32]| reference::triples(&reference::task(&base, model, shape[1], 1.0), full).1;
            let (k, own) = division(full, 2, 0.5);
            let s = spectrum(&a);
            // Half of each of its own directions comes from each of the two.
            let mean = s[..k + own].iter().sum::<f64>() / (k + 2 * own) as f64;
            for (i, s) in spectrum(&twice).iter().enumerate() {
                let expected = if i < k + own { mean } else { 0.0 };
                assert!((s - expected).abs() < 1e-5, "{shape:?} {i}: {s} {expected}");
            }
        }
    }

    #[test]
    fn tasks_of_low_rank_get_no_directions_that_they_do_not_have() {
        let base = vec![0.0; 36];
        let outer = |seed: u64| -> Vec<f32> {
            let (u, v) = (noise(seed, 6), noise(seed + 1, 6));
            (0..36).map(|i| u[i / 6] * v[i % 6]).collect()
        };
        let (a, b) = (outer(5), outer(9));
        let out = merged(&[&base, &a, &b], &[6, 6], &[1.0, 1.0], 0.5, 1.0);
        let (_, s, _) = reference::triples(&reference::task(&base, &out, 6, 1.0), 6);
        assert!((s[0] - s[1]).abs() < 1e-5 && s[1] > 0.01, "{s:?}");
        assert!(s[2..].iter().all(|s| *s < 1e-5), "{s:?}");
    }

    #[test]
    fn without_change_the_base_stays() {
        let (base, a) = (noise(1, 12), noise(2, 12));
        assert_eq!(merged(&[&base, &base, &base], &[3, 4], &[1.0, 1.0], 0.8, 1.0), base);
        assert_eq!(merged(&[&base, &a], &[3, 4], &[0.0], 0.8, 1.0), base);
        let against = merged(&[&base, &a, &a], &[3, 4], &[1.0, -1.0], 0.8, 1.0);
        assert!(against.iter().zip(&base).all(|(x, y)| (x - y).abs() < 1e-5));
    }

    #[test]
    fn directions_are_divided_evenly() {
        assert_eq!(division(10, 2, 0.8), (8, 1));
        assert_eq!(division(10, 3, 0.8), (7, 1));
        assert_eq!(division(6, 4, 0.0), (2, 1));
        assert_eq!(division(2, 8, 0.8), (2, 0));
        assert_eq!(division(8, 2, 1.0), (8, 0));
        assert_eq!(division(1, 2, 0.0), (1, 0));
    }
}
