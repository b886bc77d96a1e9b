//! WUDI: the merged task matrix that disturbs no task's own inputs.
//!
//! Source: Cheng et al. 2025, arXiv:2503.08099, the objective of WUDI-Merging: the rows of τₖ span what the layer's inputs are like in task k, so
//! what a merge τ does wrong there is (τ − wₖ τₖ) τₖᵀ, and Σₖ ‖(τ − wₖ τₖ) τₖᵀ‖² / ‖τₖ‖² is to be small; θ = base + λ τ. The paper
//! has no weights: all are 1.
//!
//! The paper takes `steps` of Adam from the sum of the task matrices (300, learning rate 1e-5, the same for all models). The sum
//! of squares has a smallest value that can be written down, which is what `steps: 0` gives: with Tₖ = τₖ / ‖τₖ‖ and all of
//! them below each other = P S Qᵀ, τ = Σ wₖ ‖τₖ‖ Tₖ Tₖᵀ Tₖ (Σ TₖᵀTₖ)⁺, where Tₖ = Pₖ S Qᵀ makes each term
//! wₖ ‖τₖ‖ Pₖ S² (PₖᵀPₖ) S⁻¹ Qᵀ. It needs no learning rate that fits the length of the task vectors, takes no longer than one
//! decomposition, and is linear in the weights. In directions in which hardly any task moves, it is a mean of the tasks, where a few
//! steps leave the sum: `ridge` draws it back there, by ρ ‖τ − Σ wₖ τₖ‖² with ρ = `ridge` · the mean of S².

use faer::{Mat, MatRef};

use super::{
    linear::weighted_sum,
    parents::{Parents, Refusal},
    spectral::{NOTHING, matrix, narrow, svd},
    view::Target,
};

/// How the sum of squares is made small.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) enum Way {
    /// At its smallest value, or near it by so much of a pull towards the sum.
    Least { ridge: f64 },
    /// By steps of Adam.
    Steps(usize),
}

pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    way: Way,
    lambda: f32,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let base = parents.whole(base);
    if parents.models().is_empty() {
        return Ok(out.fill(&base));
    }
    let kept = match way {
        Way::Least { ridge } => parents.kept(&format!("wudi {ridge}"), Terms::size_bytes, || {
            Ok(Terms(least(parents, ridge)?))
        })?,
        // Adam is not linear in them.
        Way::Steps(steps) => {
            let bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
            parents.kept(&format!("wudi {steps} {bits:?}"), Terms::size_bytes, || {
                Ok(Terms(vec![stepped(parents, weights, steps)]))
            })?
        }
    };
    let weights = match way {
        Way::Least { .. } => weights,
        Way::Steps(_) => &[1.0],
    };
    let mut merged = vec![0.0; parents.len()];
    let terms: Vec<&[f32]> = kept.0.iter().map(Vec::as_slice).collect();
    weighted_sum(&terms, weights, &mut merged);
    merged
        .iter_mut()
        .zip(base.iter())
        .for_each(|(m, b)| *m = b + lambda * *m);
    Ok(out.fill(&merged))
}

/// The task matrices that are added up with the weights, row by row.
struct Terms(Vec<Vec<f32>>);

impl Terms {
    fn size_bytes(&self) -> usize {
        self.0.iter().map(|term| 4 * term.len()).sum()
    }
}

fn row_by_row(matrix: MatRef<'_, f32>) -> Vec<f32> {
    let columns = matrix.ncols();
    let count = matrix.nrows() * columns;
    (0..count).map(|i| matrix[(i / columns, i % columns)]).collect()
}

/// ‖τₖ‖ Pₖ S (S PₖᵀPₖ S + ρ) (S² + ρ)⁻¹ Qᵀ of each task.
fn least(parents: &Parents<'_>, ridge: f64) -> Result<Vec<Vec<f32>>, Refusal> {
    let (rows, columns) = parents.rows();
    let tasks = tasks(parents);
    let mut all: Mat<f64> = Mat::zeros(rows * tasks.len(), columns);
    for (slot, (task, _)) in tasks.iter().enumerate() {
        all.subrows_mut(slot * rows, rows).copy_from(task);
    }
    let joined = svd(all.as_ref())?;
    let count = joined.s.iter().take_while(|s| **s > NOTHING * joined.s[0]).count();
    let s = &joined.s[..count];
    let rho = ridge * s.iter().map(|s| s * s).sum::<f64>() / columns as f64;
    let v = narrow(joined.v.subcols(0, count));
    let terms = tasks.iter().enumerate().map(|(slot, (_, length))| {
        let p = joined.u.submatrix(slot * rows, 0, rows, count);
        let inner: Mat<f64> = p.transpose() * p;
        let inner = Mat::from_fn(count, count, |i, j| {
            let pull = if i == j { rho } else { 0.0 };
            s[i] * (s[i] * inner[(i, j)] * s[j] + pull) / (s[j] * s[j] + rho)
        });
        let left: Mat<f64> = p * inner * faer::Scale(*length);
        let term: Mat<f32> = narrow(left.as_ref()) * v.transpose();
        row_by_row(term.as_ref())
    });
    Ok(terms.collect())
}

/// Each task matrix divided by its length, and its length; 1 where it has none.
fn tasks(parents: &Parents<'_>) -> Vec<(Mat<f64>, f64)> {
    let (rows, columns) = parents.rows();
    let task = |k| {
        let tau = matrix(&parents.task_vector(k), rows, columns);
        let length = tau.as_ref().norm_l2();
        match length > 0.0 {
            true => (tau * faer::Scale(1.0 / length), length),
            false => (tau, 1.0),
        }
    };
    parents.models().into_iter().map(task).collect()
}

/// `steps` of Adam from Σ wₖ τₖ.
fn stepped(parents: &Parents<'_>, weights: &[f32], steps: usize) -> Vec<f32> {
    let (rows, columns) = parents.rows();
    let mut merged: Mat<f64> = Mat::zeros(rows, columns);
    // The derivative is 2 (τ G − B).
    let mut g: Mat<f64> = Mat::zeros(columns, columns);
    let mut b: Mat<f64> = Mat::zeros(rows, columns);
    for ((task, length), w) in tasks(parents).iter().zip(weights) {
        let scale = faer::Scale(f64::from(*w) * length);
        merged += task * scale;
        let of_task: Mat<f64> = task.transpose() * task;
        b += task * &of_task * scale;
        g += of_task;
    }
    let mut adam = Adam::new(rows, columns);
    for _ in 0..steps {
        let slope = (&merged * &g - &b) * faer::Scale(2.0);
        adam.step(&mut merged, slope.as_ref());
    }
    row_by_row(narrow(merged.as_ref()).as_ref())
}

/// Adam with PyTorch's defaults (Kingma and Ba 2015, algorithm 1).
struct Adam {
    first: Mat<f64>,
    second: Mat<f64>,
    decayed: [f64; 2],
}

impl Adam {
    const RATE: f64 = 1e-5;
    const BETAS: [f64; 2] = [0.9, 0.999];
    const EPSILON: f64 = 1e-8;

    fn new(rows: usize, columns: usize) -> Self {
        Adam {
            first: Mat::zeros(rows, columns),
            second: Mat::zeros(rows, columns),
            decayed: [1.0; 2],
        }
    }

    fn step(&mut self, point: &mut Mat<f64>, slope: MatRef<'_, f64>) {
        for (decayed, beta) in self.decayed.iter_mut().zip(Self::BETAS) {
            *decayed *= beta;
        }
        let [b1, b2] = Self::BETAS;
        for j in 0..slope.ncols() {
            for i in 0..slope.nrows() {
                let g = slope[(i, j)];
                let m = b1 * self.first[(i, j)] + (1.0 - b1) * g;
                let v = b2 * self.second[(i, j)] + (1.0 - b2) * g * g;
                (self.first[(i, j)], self.second[(i, j)]) = (m, v);
                let (m, v) = (m / (1.0 - self.decayed[0]), v / (1.0 - self.decayed[1]));
                point[(i, j)] -= Self::RATE * m / (v.sqrt() + Self::EPSILON);
            }
        }
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

    fn merged(models: &[&[f32]], shape: &[usize], weights: &[f32], way: Way, lambda: f32) -> Vec<f32> {
        run_shaped(models, Some(0), shape, |p, out| merge(p, weights, way, lambda, out)).unwrap()
    }

    const LEAST: Way = Way::Least { ridge: 0.0 };

    /// The slope of the sum of squares as the paper has it, term by term: 2 Σ (τ − wₖ τₖ) τₖᵀ τₖ / ‖τₖ‖².
    fn slope(tau: &Table, tasks: &[Table], weights: &[f32]) -> Table {
        let mut sum = vec![vec![0.0; tau[0].len()]; tau.len()];
        for (task, w) in tasks.iter().zip(weights) {
            let squares: f64 = task.iter().flatten().map(|x| x * x).sum();
            let mut off = tau.clone();
            reference::add(&mut off, task, -f64::from(*w));
            let disturbed: Table = off.iter().map(|row| reference::times(task, row)).collect();
            let back: Table = disturbed
                .iter()
                .map(|row| reference::times(&reference::transposed(task), row))
                .collect();
            if squares > 0.0 {
                reference::add(&mut sum, &back, 2.0 / squares);
            }
        }
        sum
    }

    fn inner(a: &Table, b: &Table) -> f64 {
        a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum()
    }

    fn weighted(tasks: &[Table], weights: &[f32]) -> Table {
        let mut sum = vec![vec![0.0; tasks[0][0].len()]; tasks[0].len()];
        for (task, w) in tasks.iter().zip(weights) {
            reference::add(&mut sum, task, f64::from(*w));
        }
        sum
    }

    /// Conjugate gradients on the sum of squares plus ρ ‖τ − Σ wₖ τₖ‖², from 0: the smallest of its minimisers.
    fn minimised(tasks: &[Table], weights: &[f32], rho: f64) -> Table {
        let sum = weighted(tasks, weights);
        let of = |tau: &Table, weights: &[f32]| {
            let mut at = slope(tau, tasks, weights);
            reference::add(&mut at, tau, 2.0 * rho);
            at
        };
        let none = vec![0.0; weights.len()];
        let mut tau = vec![vec![0.0; sum[0].len()]; sum.len()];
        let mut residual = of(&tau, weights);
        residual.iter_mut().flatten().for_each(|x| *x = -*x);
        reference::add(&mut residual, &sum, 2.0 * rho);
        let mut direction = residual.clone();
        for _ in 0..2000 {
            let squares = inner(&residual, &residual);
            if squares < 1e-26 {
                break;
            }
            let bent = of(&direction, &none);
            let step = squares / inner(&direction, &bent);
            reference::add(&mut tau, &direction, step);
            reference::add(&mut residual, &bent, -step);
            let next = inner(&residual, &residual) / squares;
            direction.iter_mut().flatten().for_each(|x| *x *= next);
            reference::add(&mut direction, &residual, 1.0);
        }
        tau
    }

    fn case(seed: u64, shape: [usize; 2], count: usize) -> (Vec<Vec<f32>>, Vec<Table>) {
        let n = shape[0] * shape[1];
        let models: Vec<Vec<f32>> = (0..=count as u64).map(|k| noise(1000 * seed + k, n)).collect();
        let task = |model: &Vec<f32>| reference::task(&models[0], model, shape[1], 1.0);
        let tasks = models[1..].iter().map(task).collect();
        (models, tasks)
    }

    fn agrees(out: &[f32], base: &[f32], tau: &Table, lambda: f64, near: f64, what: &str) {
        let columns = tau[0].len();
        for (i, x) in out.iter().enumerate() {
            let expected = f64::from(base[i]) + lambda * tau[i / columns][i % columns];
            assert!((f64::from(*x) - expected).abs() < near, "{what} {i}: {x} {expected}");
        }
    }

    /// The formula is the smallest minimiser of the objective: fewer rows than columns, more, rows of all tasks together fewer and
    /// more than columns, weights other than 1.
    #[test]
    fn the_formula_minimises_the_interference() {
        for seed in 0..4 {
            for shape in [[3, 8], [5, 8], [8, 5], [6, 6], [1, 7], [7, 1]] {
                for (weights, ridge) in [
                    (&[1.0, 1.0][..], 0.0),
                    (&[0.7, -0.4], 0.0),
                    (&[1.0, 0.5, 0.0], 0.0),
                    (&[0.7, 1.2], 0.3),
                ] {
                    let (models, tasks) = case(seed, shape, weights.len());
                    let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
                    let out = merged(&words, &shape, weights, Way::Least { ridge }, 0.8);
                    // Σ ‖τₖ‖² / ‖τₖ‖² is their number, which is the trace.
                    let rho = ridge * weights.len() as f64 / shape[1] as f64;
                    let expected = minimised(&tasks, weights, rho);
                    agrees(
                        &out,
                        &models[0],
                        &expected,
                        0.8,
                        2e-5,
                        &format!("{seed} {shape:?} {weights:?}"),
                    );
                }
            }
        }
    }

    /// What the paper does: Adam's steps along the slope of the objective, from the sum.
    #[test]
    fn steps_are_those_of_the_paper() {
        for (seed, shape) in [(1, [4, 6]), (2, [6, 4]), (3, [1, 5])] {
            let (models, tasks) = case(seed, shape, 2);
            let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
            for weights in [[1.0, 1.0], [0.5, -1.5]] {
                let mut tau = weighted(&tasks, &weights);
                let mut m = vec![vec![0.0; shape[1]]; shape[0]];
                let mut v = m.clone();
                for step in 1..=40 {
                    let g = slope(&tau, &tasks, &weights);
                    for i in 0..shape[0] {
                        for j in 0..shape[1] {
                            m[i][j] = 0.9 * m[i][j] + 0.1 * g[i][j];
                            v[i][j] = 0.999 * v[i][j] + 0.001 * g[i][j] * g[i][j];
                            let (m, v) = (
                                m[i][j] / (1.0 - 0.9f64.powi(step)),
                                v[i][j] / (1.0 - 0.999f64.powi(step)),
                            );
                            tau[i][j] -= 1e-5 * m / (v.sqrt() + 1e-8);
                        }
                    }
                }
                let out = merged(&words, &shape, &weights, Way::Steps(40), 1.0);
                // 40 steps lead 4e-4 far, seen through f32.
                agrees(&out, &models[0], &tau, 1.0, 1e-6, &format!("{shape:?} {weights:?}"));
                let sum = merged(&words, &shape, &weights, Way::Steps(0), 1.0);
                let moved = out.iter().zip(&sum).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(moved > 2e-4, "{moved}");
            }
        }
    }

    /// What the optimum means: a task alone, and the same task twice, is left as it is; tasks with nothing in common are added.
    #[test]
    fn one_task_is_itself_and_tasks_with_inputs_of_their_own_are_added() {
        let (base, a) = (noise(1, 20), noise(2, 20));
        let near = |x: &[f32], y: &[f32]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{x:?} {y:?}");
        for shape in [[4, 5], [5, 4], [1, 20], [20, 1]] {
            near(&merged(&[&base, &a], &shape, &[1.0], LEAST, 1.0), &a);
            near(&merged(&[&base, &a, &a], &shape, &[1.0, 1.0], LEAST, 1.0), &a);
            near(&merged(&[&base, &a, &base], &shape, &[1.0, 1.0], LEAST, 1.0), &a);
        }
        let (zero, x, y) = ([0.0; 4], [1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, -1.0]);
        near(
            &merged(&[&zero, &x, &y], &[2, 2], &[1.0, 2.0], LEAST, 1.0),
            &[1.0, 6.0, 2.0, -2.0],
        );
    }

    #[test]
    fn without_change_the_base_stays() {
        let base = noise(1, 12);
        for way in [LEAST, Way::Least { ridge: 0.1 }, Way::Steps(3)] {
            assert_eq!(merged(&[&base, &base, &base], &[3, 4], &[1.0, 1.0], way, 1.0), base);
        }
    }

    #[test]
    fn a_strong_pull_gives_the_sum() {
        let (models, tasks) = case(5, [4, 6], 2);
        let words: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
        let out = merged(&words, &[4, 6], &[0.7, 0.4], Way::Least { ridge: 1e7 }, 1.0);
        agrees(&out, &models[0], &weighted(&tasks, &[0.7, 0.4]), 1.0, 1e-5, "sum");
    }
}
