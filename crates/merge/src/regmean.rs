//! RegMean: the linear map that does to all models' own inputs most nearly what each model's map does to its own.
//!
//! Source: Jin et al. 2023, arXiv:2212.09849, the closed form of section 3: with Xₖ, what the map of model k reads, row by row, and
//! Gₖ = Xₖᵀ Xₖ, the sum Σ wₖ ‖Xₖ Wᵀ − Xₖ Wₖᵀ‖² is least at Wᵀ = (Σ wₖ Gₖ)⁻¹ Σ wₖ Gₖ Wₖᵀ. Entries of Gₖ off its diagonal count `alpha`
//! times (0.9 in the paper, less where models are far apart), which also keeps the sum from being singular. The paper has no
//! weights: all are 1. What has no Gram matrix (norms, biases, embeddings, head) is averaged.
//!
//! It is computed about the mean M of the models, Wᵀ = Mᵀ + (Σ wₖ Gₖ)⁻¹ Σ wₖ Gₖ (Wₖ − M)ᵀ, so that rounding is as small as the models'
//! differences; and with every input scaled to length one. An input that is zero in all texts decides nothing: its weights are M's.

use std::collections::{BTreeMap, BTreeSet};

use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    fisher,
    parents::{Parents, Refusal},
    spectral::matrix,
    view::{Target, all_finite},
};

/// Which Gram matrix is whose, as the `config.json` beside them says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grams {
    /// By the name of a weight within its layer, that of the Gram matrix of what it reads: `.self_attn.k_proj.weight` →
    /// `.self_attn.q_proj.gram`. A Gram matrix is `[inputs, inputs]`, or one for each of the matrices of a weight.
    pub of: BTreeMap<String, String>,
    /// Weights that stand as `[inputs, outputs]`, by their names within the layer.
    pub turned: BTreeSet<String>,
}

impl Grams {
    /// Where it stands in `config.json`.
    pub const KEY: &str = "heterosis_grams";

    /// What a `config.json` says; `None` of a model's own.
    pub fn of_config(config: &Value) -> Option<Self> {
        Grams::deserialize(config.get(Self::KEY)?).ok()
    }
}

/// The models are the parents' inputs, and each has its Gram matrix.
///
/// # Errors
/// [`Refusal::ZeroWeights`], [`Refusal::NoGram`], [`Refusal::SingularGrams`].
pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: &[f32],
    (alpha, turned): (f64, bool),
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    fisher::check(weights)?;
    let mut merged = vec![0.0; parents.len()];
    let Some(maps) = Maps::new(parents, turned) else {
        return Ok(false);
    };
    for (i, out) in merged.chunks_mut(maps.size()).enumerate() {
        let map = maps.map(i, weights, alpha)?;
        maps.store(&map.merged, out);
    }
    Ok(out.fill(&merged))
}

/// The derivative with respect to each weight: since (Σ wₖ Gₖ) Wᵀ = Σ wₖ Gₖ Wₖᵀ, that of Wᵀ is (Σ w G)⁻¹ Gₖ (Wₖ − W)ᵀ.
///
/// # Errors
/// As [`merge`].
pub(crate) fn gradient(
    parents: &Parents<'_>,
    weights: &[f32],
    (alpha, turned): (f64, bool),
    upstream: &[f32],
) -> Result<Vec<f64>, Refusal> {
    fisher::check(weights)?;
    let mut slopes = vec![0.0; weights.len()];
    let Some(maps) = Maps::new(parents, turned) else {
        return Ok(slopes);
    };
    for (i, upstream) in upstream.chunks(maps.size()).enumerate() {
        let map = maps.map(i, weights, alpha)?;
        let carried = map.solved(maps.load(upstream).transpose().to_owned());
        for ((slope, model), gram) in slopes.iter_mut().zip(&map.models).zip(&map.grams) {
            let moved = gram * (model - &map.merged).transpose();
            *slope += (0..moved.ncols())
                .map(|j| carried.col(j).transpose() * moved.col(j))
                .sum::<f64>();
        }
    }
    Ok(slopes)
}

/// A weight of the models and its Gram matrices: one matrix, or several one after the other (experts).
struct Maps<'a> {
    models: Vec<std::borrow::Cow<'a, [f32]>>,
    grams: Vec<std::borrow::Cow<'a, [f32]>>,
    outputs: usize,
    inputs: usize,
    turned: bool,
}

impl<'a> Maps<'a> {
    /// `None` where a Gram matrix holds what is not finite.
    fn new(parents: &Parents<'a>, turned: bool) -> Option<Self> {
        let [.., rows, columns] = *parents.shape else {
            return None;
        };
        let (outputs, inputs) = if turned { (columns, rows) } else { (rows, columns) };
        let maps = Maps {
            models: (0..parents.inputs.count())
                .map(|k| parents.inputs.view(k).to_f32())
                .collect(),
            grams: parents.grams.iter().map(|gram| gram.to_f32()).collect(),
            outputs,
            inputs,
            turned,
        };
        maps.grams.iter().all(|gram| all_finite(gram)).then_some(maps)
    }

    /// Numbers of one matrix.
    fn size(&self) -> usize {
        self.outputs * self.inputs
    }

    /// A matrix as it is stored → `[outputs, inputs]`.
    fn load(&self, values: &[f32]) -> Mat<f64> {
        match self.turned {
            true => matrix(values, self.inputs, self.outputs).transpose().to_owned(),
            false => matrix(values, self.outputs, self.inputs),
        }
    }

    fn store(&self, matrix: &Mat<f64>, out: &mut [f32]) {
        let columns = if self.turned { self.outputs } else { self.inputs };
        for (place, out) in out.iter_mut().enumerate() {
            let (i, j) = (place / columns, place % columns);
            *out = if self.turned { matrix[(j, i)] } else { matrix[(i, j)] } as f32;
        }
    }

    /// The `i`-th of the matrices.
    fn map(&self, i: usize, weights: &[f32], alpha: f64) -> Result<Map, Refusal> {
        let square = self.inputs * self.inputs;
        let models = self
            .models
            .iter()
            .map(|model| self.load(&model[i * self.size()..][..self.size()]));
        let grams = self
            .grams
            .iter()
            .map(|gram| scaled(&gram[i * square..][..square], self.inputs, alpha));
        Map::new(models.collect(), grams.collect(), weights)
    }
}

/// A Gram matrix with its entries off the diagonal `alpha` times as long.
fn scaled(values: &[f32], n: usize, alpha: f64) -> Mat<f64> {
    Mat::from_fn(n, n, |i, j| {
        let x = f64::from(values[i * n + j]);
        if i == j { x } else { alpha * x }
    })
}

/// One linear map, merged.
struct Map {
    /// `[outputs, inputs]`.
    models: Vec<Mat<f64>>,
    /// `[inputs, inputs]`, as they count.
    grams: Vec<Mat<f64>>,
    merged: Mat<f64>,
    /// What each input is multiplied by to have length one in the sum, and the Cholesky factor of that sum.
    lengths: Vec<f64>,
    factor: Llt<f64>,
}

impl Map {
    fn new(models: Vec<Mat<f64>>, mut grams: Vec<Mat<f64>>, weights: &[f32]) -> Result<Self, Refusal> {
        let (outputs, inputs) = models.first().map_or((0, 0), |m| (m.nrows(), m.ncols()));
        let weights: Vec<f64> = weights.iter().map(|w| f64::from(*w)).collect();
        let total: f64 = weights.iter().sum();
        let mut mean: Mat<f64> = Mat::zeros(outputs, inputs);
        for (model, w) in models.iter().zip(&weights) {
            mean += model * faer::Scale(w / total);
        }
        let lengths = lengths(&mut grams, &weights)?;
        let mut sum: Mat<f64> = Mat::zeros(inputs, inputs);
        let mut pull: Mat<f64> = Mat::zeros(inputs, outputs);
        for ((model, gram), w) in models.iter().zip(&grams).zip(&weights) {
            sum += gram * faer::Scale(*w);
            pull += gram * (model - &mean).transpose() * faer::Scale(*w);
        }
        let unit = Mat::from_fn(inputs, inputs, |i, j| lengths[i] * sum[(i, j)] * lengths[j]);
        let factor = unit.llt(Side::Lower).map_err(|_| Refusal::SingularGrams)?;
        let pivots = factor.L();
        if (0..inputs).any(|i| pivots[(i, i)] * pivots[(i, i)] < SINGULAR) {
            return Err(Refusal::SingularGrams);
        }
        let mut map = Map {
            models,
            grams,
            merged: mean,
            lengths,
            factor,
        };
        let moved = map.solved(pull);
        map.merged += moved.transpose();
        Ok(map)
    }

    /// (Σ w G)⁻¹ times a matrix `[inputs, any]`.
    fn solved(&self, mut of: Mat<f64>) -> Mat<f64> {
        self.scale_rows(&mut of);
        self.factor.solve_in_place(&mut of);
        self.scale_rows(&mut of);
        of
    }

    fn scale_rows(&self, matrix: &mut Mat<f64>) {
        for j in 0..matrix.ncols() {
            for (i, length) in self.lengths.iter().enumerate() {
                matrix[(i, j)] *= length;
            }
        }
    }
}

/// Less of an input than this, beside its square, is what rounding Gram matrices to f32 leaves of one that the others decide.
const SINGULAR: f64 = 1e-6;

/// One over the length of each input in the weighted sum. An input without any gets one in every model, where it decides nothing.
fn lengths(grams: &mut [Mat<f64>], weights: &[f64]) -> Result<Vec<f64>, Refusal> {
    let inputs = grams.first().map_or(0, |gram| gram.nrows());
    if grams.iter().any(|gram| (0..inputs).any(|i| gram[(i, i)] < 0.0)) {
        return Err(Refusal::NoGram);
    }
    let mut lengths = Vec::with_capacity(inputs);
    for i in 0..inputs {
        let along = |grams: &[Mat<f64>]| -> f64 { grams.iter().zip(weights).map(|(gram, w)| w * gram[(i, i)]).sum() };
        if along(grams) == 0.0 {
            grams.iter_mut().for_each(|gram| gram[(i, i)] = 1.0);
        }
        lengths.push(1.0 / along(grams).sqrt());
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{
        noise,
        reference::{self, Table},
        run_measured,
    };
    use super::*;

    fn merged(
        models: &[Vec<f32>],
        grams: &[Vec<f32>],
        shape: &[usize],
        weights: &[f32],
        how: (f64, bool),
    ) -> Result<Vec<f32>, Refusal> {
        fn slices(all: &[Vec<f32>]) -> Vec<&[f32]> {
            all.iter().map(Vec::as_slice).collect()
        }
        run_measured((&slices(models), &slices(grams)), None, shape, |parents, out| {
            merge(parents, weights, how, out)
        })
    }

    /// Inputs `[rows, columns]`, and their Gram matrix.
    fn inputs(seed: u64, rows: usize, columns: usize) -> (Table, Vec<f32>) {
        let values = noise(seed, rows * columns);
        let table: Table = values
            .chunks(columns)
            .map(|row| row.iter().map(|x| f64::from(*x)).collect())
            .collect();
        let column = |i: usize| -> Vec<f64> { table.iter().map(|row| row[i]).collect() };
        let gram = (0..columns * columns).map(|at| reference::dot(&column(at / columns), &column(at % columns)) as f32);
        let gram = gram.collect();
        (table, gram)
    }

    /// What is to be least, with the part of the diagonal that `alpha` leaves out added: Σ wₖ ‖Xₖ (W − Wₖ)ᵀ‖² off the diagonal α times.
    fn disturbance(w: &[f32], models: &[Vec<f32>], texts: &[Table], weights: &[f32], alpha: f64) -> f64 {
        let columns = texts[0][0].len();
        let mut sum = 0.0;
        for ((model, text), weight) in models.iter().zip(texts).zip(weights) {
            for (w, m) in w.chunks(columns).zip(model.chunks(columns)) {
                let off: Vec<f64> = w.iter().zip(m).map(|(w, m)| f64::from(*w) - f64::from(*m)).collect();
                for row in text {
                    let along = reference::dot(row, &off);
                    let alone: f64 = row.iter().zip(&off).map(|(x, o)| (x * o) * (x * o)).sum();
                    sum += f64::from(*weight) * (alpha * along * along + (1.0 - alpha) * alone);
                }
            }
        }
        sum
    }

    /// Gauss's elimination with the largest pivot, to hold Cholesky's against: a · x = b.
    fn eliminated(mut a: Table, mut b: Table) -> Table {
        let n = a.len();
        for i in 0..n {
            let pivot = (i..n).max_by(|p, q| a[*p][i].abs().total_cmp(&a[*q][i].abs())).unwrap();
            a.swap(i, pivot);
            b.swap(i, pivot);
            for k in 0..n {
                if k != i {
                    let factor = a[k][i] / a[i][i];
                    let (from_a, from_b) = (a[i].clone(), b[i].clone());
                    a[k].iter_mut().zip(&from_a).for_each(|(x, y)| *x -= factor * y);
                    b[k].iter_mut().zip(&from_b).for_each(|(x, y)| *x -= factor * y);
                }
            }
        }
        for (row, a) in b.iter_mut().zip(a.iter().enumerate()) {
            row.iter_mut().for_each(|x| *x /= a.1[a.0]);
        }
        b
    }

    /// The formula as it stands in the paper, in plain f64: (Σ wₖ Gₖ)⁻¹ Σ wₖ Gₖ Wₖᵀ, transposed.
    fn by_the_paper(models: &[Vec<f32>], grams: &[Vec<f32>], n: usize, weights: &[f32], alpha: f64) -> Vec<f64> {
        let outputs = models[0].len() / n;
        let (mut a, mut b) = (vec![vec![0.0; n]; n], vec![vec![0.0; outputs]; n]);
        for ((model, gram), w) in models.iter().zip(grams).zip(weights) {
            for (at, of_gram) in gram.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let factor = if i == j { 1.0 } else { alpha };
                let g = f64::from(*w) * factor * f64::from(*of_gram);
                a[i][j] += g;
                for (out, b) in b[i].iter_mut().enumerate() {
                    *b += g * f64::from(model[out * n + j]);
                }
            }
        }
        reference::transposed(&eliminated(a, b)).concat()
    }

    /// Square, tall and wide maps, two and three models, several seeds, with and without `alpha`.
    #[test]
    fn the_formula_agrees_with_plain_elimination() {
        for seed in 0..5 {
            for (outputs, n) in [(4, 6), (7, 3), (5, 5), (1, 4), (6, 1)] {
                for (weights, alpha) in [
                    (&[1.0, 1.0][..], 0.9),
                    (&[0.3, 1.4], 1.0),
                    (&[1.0, 0.5, 2.0], 0.1),
                    (&[1.0], 0.0),
                ] {
                    let count = weights.len() as u64;
                    let models: Vec<Vec<f32>> = (0..count).map(|k| noise(50 * seed + k, outputs * n)).collect();
                    let grams: Vec<Vec<f32>> = (0..count).map(|k| inputs(900 * seed + k, 3 * n, n).1).collect();
                    let found = merged(&models, &grams, &[outputs, n], weights, (alpha, false)).unwrap();
                    let expected = by_the_paper(&models, &grams, n, weights, alpha);
                    for (i, (x, e)) in found.iter().zip(&expected).enumerate() {
                        assert!(
                            (f64::from(*x) - e).abs() < 2e-5,
                            "{seed} {outputs}×{n} {weights:?} {alpha} {i}: {x} {e}"
                        );
                    }
                }
            }
        }
    }

    /// What the formula is for, without the formula: no step from it makes the sum of squares less, and the plain mean is worse.
    #[test]
    fn nothing_disturbs_the_models_own_inputs_less() {
        for (seed, alpha) in [(1, 1.0), (2, 0.9), (3, 0.3)] {
            let (outputs, n, weights) = (3, 4, [1.0, 0.6]);
            let models = [noise(10 * seed, outputs * n), noise(10 * seed + 1, outputs * n)];
            let (a, of_a) = inputs(100 * seed, 9, n);
            let (b, of_b) = inputs(100 * seed + 1, 12, n);
            let texts = [a, b];
            let found = merged(&models, &[of_a, of_b], &[outputs, n], &weights, (alpha, false)).unwrap();
            let at = |w: &[f32]| disturbance(w, &models, &texts, &weights, alpha);
            let least = at(&found);
            for i in 0..found.len() {
                for step in [-0.02, 0.02] {
                    let mut moved = found.clone();
                    moved[i] += step;
                    assert!(at(&moved) > least, "{seed} {i} {step}");
                }
            }
            let mean: Vec<f32> = models[0]
                .iter()
                .zip(&models[1])
                .map(|(x, y)| (x + 0.6 * y) / 1.6)
                .collect();
            assert!(at(&mean) > 1.01 * least, "{seed}: {} {least}", at(&mean));
        }
    }

    #[test]
    fn weights_by_column_and_matrices_of_experts_are_the_same_maps() {
        let (outputs, n, weights) = (3, 5, [1.0, 0.7]);
        let models: Vec<Vec<f32>> = (0..2).map(|k| noise(k, 2 * outputs * n)).collect();
        let grams: Vec<Vec<f32>> = (0..2)
            .map(|k| [inputs(20 + k, 9, n).1, inputs(30 + k, 9, n).1].concat())
            .collect();
        let half = |all: &[Vec<f32>], i: usize| -> Vec<Vec<f32>> {
            all.iter()
                .map(|v| v[i * v.len() / 2..][..v.len() / 2].to_vec())
                .collect()
        };
        let one = |i: usize| {
            merged(
                &half(&models, i),
                &half(&grams, i),
                &[outputs, n],
                &weights,
                (0.9, false),
            )
            .unwrap()
        };
        let both = merged(&models, &grams, &[2, outputs, n], &weights, (0.9, false)).unwrap();
        assert_eq!(both, [one(0), one(1)].concat());
        let turn =
            |m: &Vec<f32>| -> Vec<f32> { (0..outputs * n).map(|at| m[at % outputs * n + at / outputs]).collect() };
        let turned: Vec<Vec<f32>> = half(&models, 0).iter().map(turn).collect();
        let found = merged(&turned, &half(&grams, 0), &[n, outputs], &weights, (0.9, true)).unwrap();
        assert_eq!(found, turn(&one(0)));
    }

    /// A neuron that no text wakes has a row and column of zeros in every Gram matrix, and the sum has no inverse.
    #[test]
    fn an_input_that_is_always_zero_gets_the_mean_and_disturbs_nothing_else() {
        let (outputs, n, weights) = (3, 4, [1.0, 3.0]);
        let models: Vec<Vec<f32>> = (0..2).map(|k| noise(k, outputs * n)).collect();
        let silent = |seed: u64| -> (Table, Vec<f32>) {
            let (mut text, mut gram) = inputs(seed, 9, n);
            text.iter_mut().for_each(|row| row[2] = 0.0);
            (0..n).for_each(|i| (gram[2 * n + i], gram[i * n + 2]) = (0.0, 0.0));
            (text, gram)
        };
        let grams = [silent(5).1, silent(6).1];
        for alpha in [1.0, 0.9] {
            let found = merged(&models, &grams, &[outputs, n], &weights, (alpha, false)).unwrap();
            for row in 0..outputs {
                let mean = (models[0][row * n + 2] + 3.0 * models[1][row * n + 2]) / 4.0;
                assert!((found[row * n + 2] - mean).abs() < 1e-6, "{row}");
            }
            // The other inputs are merged as if this one were not there.
            let without = |v: &[f32]| -> Vec<f32> {
                let kept = v.iter().enumerate().filter(|(at, _)| at % n != 2);
                kept.map(|(_, x)| *x).collect()
            };
            let fewer: Vec<Vec<f32>> = models.iter().map(|m| without(m)).collect();
            let small: Vec<Vec<f32>> = grams
                .iter()
                .map(|g| without(&[&g[..2 * n], &g[3 * n..]].concat()))
                .collect();
            let alone = merged(&fewer, &small, &[outputs, n - 1], &weights, (alpha, false)).unwrap();
            assert!(without(&found).iter().zip(&alone).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    }

    #[test]
    fn one_model_and_equal_models_stay_and_equal_inputs_make_a_mean() {
        let (a, b) = (noise(1, 12), noise(2, 12));
        let (of_a, of_b) = (inputs(3, 20, 4).1, inputs(4, 20, 4).1);
        let near = |x: &[f32], y: &[f32]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-6), "{x:?} {y:?}");
        let out = |models: &[&Vec<f32>], grams: &[&Vec<f32>], weights: &[f32]| {
            let own = |all: &[&Vec<f32>]| -> Vec<Vec<f32>> { all.iter().map(|v| (*v).clone()).collect() };
            merged(&own(models), &own(grams), &[3, 4], weights, (0.9, false)).unwrap()
        };
        near(&out(&[&a], &[&of_a], &[0.4]), &a);
        near(&out(&[&a, &a], &[&of_a, &of_b], &[1.0, 0.5]), &a);
        near(&out(&[&a, &b], &[&of_a, &of_b], &[1.0, 0.0]), &a);
        let mean: Vec<f32> = a.iter().zip(&b).map(|(x, y)| (x + 3.0 * y) / 4.0).collect();
        near(&out(&[&a, &b], &[&of_a, &of_a], &[1.0, 3.0]), &mean);
    }

    #[test]
    fn what_decides_nothing_is_refused() {
        let models = [noise(1, 8), noise(2, 8)];
        // Two rows of text, four inputs.
        let few = [inputs(3, 1, 4).1, inputs(4, 1, 4).1];
        let at = |grams: &[Vec<f32>], weights: &[f32], alpha| merged(&models, grams, &[2, 4], weights, (alpha, false));
        assert_eq!(at(&few, &[1.0, 1.0], 1.0), Err(Refusal::SingularGrams));
        assert!(at(&few, &[1.0, 1.0], 0.9).is_ok());
        assert_eq!(at(&few, &[0.0, 0.0], 0.9), Err(Refusal::ZeroWeights));
        let negative: Vec<f32> = few[0].iter().map(|x| -x).collect();
        assert_eq!(at(&[negative, few[1].clone()], &[1.0, 1.0], 0.9), Err(Refusal::NoGram));
    }
}
