//! Learning rates that adapt to the noise: how much of each update of the distribution is signal.
//!
//! **Source**: Nomura, Akimoto & Ono (2304.03473; 2401.15876), their constants. One deviation: the published step-size
//! correction sigma ← sigma · eta_old/eta_new is left out. Whenever the rate of the mean falls it inflates sigma, which in
//! a bounded box ends in candidates spread over the whole box; without it the same rates work.

use serde::{Deserialize, Serialize};

use super::covariance::{Covariance, Degenerate, packed};
use super::eigen::{add_scaled, dot};
use super::gaussian::State;

/// α: the signal-to-noise ratio that a rate of 1 asks for.
const TARGET_RATIO: f64 = 1.4;
/// β for the mean and for the covariance: how fast the averages forget.
const BETA_MEAN: f64 = 0.1;
const BETA_COV: f64 = 0.03;
/// γ: the most that a rate changes in one generation, relative to itself.
const MAX_CHANGE: f64 = 0.1;

/// The two learning rates and what they are estimated from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    pub mean: Rate,
    pub cov: Rate,
}

/// One learning rate: moving averages of an update and of its squared length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub eta: f64,
    e: Vec<f64>,
    v: f64,
}

impl Rate {
    fn new(length: usize) -> Self {
        Self {
            eta: 1.0,
            e: vec![0.0; length],
            v: 0.0,
        }
    }

    /// Takes one update in local coordinates; `square` is its squared length, `norm` measures the averages likewise.
    fn adapt(&mut self, beta: f64, update: &[f64], norm: impl Fn(&[f64]) -> f64) {
        self.e.iter_mut().zip(update).for_each(|(e, u)| *e += beta * (u - *e));
        self.v += beta * (norm(update) - self.v);
        let e = norm(&self.e);
        let noise = self.v - e;
        if noise <= 0.0 {
            return; // nothing but one constant update so far: no reason to change
        }
        let ratio = (e - beta / (2.0 - beta) * self.v) / noise;
        let direction = (ratio / (TARGET_RATIO * self.eta) - 1.0).clamp(-1.0, 1.0);
        self.eta = (self.eta * libm::exp((MAX_CHANGE * self.eta).min(beta) * direction)).min(1.0);
    }
}

impl LearningRate {
    /// For `n` coordinates and a covariance stored in `entries` numbers.
    pub fn new(n: usize, entries: usize) -> Self {
        Self {
            mean: Rate::new(n),
            cov: Rate::new(entries),
        }
    }

    /// Replaces the update from `old` to `new` by the part of it that the adapted rates allow.
    pub fn apply(&mut self, old: &State, new: &mut State) -> Result<(), Degenerate> {
        let root = InverseRoot::of(old);
        let step: Vec<f64> = new.mean.iter().zip(&old.mean).map(|(a, b)| a - b).collect();
        self.mean.adapt(BETA_MEAN, &root.times(&step), |u| dot(u, u));
        for ((m, o), d) in new.mean.iter_mut().zip(&old.mean).zip(&step) {
            *m = o + self.mean.eta * d;
        }

        let square = |s: &State| s.sigma * s.sigma;
        let change: Vec<f64> = new
            .cov
            .entries()
            .iter()
            .zip(old.cov.entries())
            .map(|(c, o)| square(new) * c - square(old) * o)
            .collect();
        self.cov.adapt(BETA_COV, &root.around(&change), |u| root.half_square(u));
        let eta = self.cov.eta;
        let entries = old
            .cov
            .entries()
            .iter()
            .zip(&change)
            .map(|(o, d)| square(old) * o + eta * d)
            .collect();
        new.cov.set_entries(entries); // S itself for the moment
        new.cov.refresh(1)?;
        let n = new.cov.n() as f64;
        let log_det: f64 = new.cov.lengths().iter().map(|length| libm::log(*length)).sum();
        new.sigma = libm::exp(log_det / n); // det(S)^(1/2n), so that det C = 1
        new.cov.scale(1.0 / square(new));
        if new.sigma.is_finite() && new.sigma > 0.0 {
            Ok(())
        } else {
            Err(Degenerate)
        }
    }

    /// Mirrors coordinate i, as the distribution does.
    pub fn flip_coordinate(&mut self, i: usize) {
        let n = self.mean.e.len();
        self.mean.e[i] = -self.mean.e[i];
        if self.cov.e.len() == packed(n, 0) && n > 1 {
            (0..i).for_each(|j| self.cov.e[packed(i, j)] = -self.cov.e[packed(i, j)]);
            (i + 1..n).for_each(|k| self.cov.e[packed(k, i)] = -self.cov.e[packed(k, i)]);
        }
    }

    pub fn is_consistent(&self, n: usize, entries: usize) -> bool {
        self.mean.e.len() == n && self.cov.e.len() == entries
    }
}

/// S^(-1/2) of a distribution, S = sigma² C: the local coordinates in which steps of any shape compare.
enum InverseRoot {
    Full { n: usize, rows: Vec<f64> },
    Diagonal(Vec<f64>),
}

impl InverseRoot {
    fn of(state: &State) -> Self {
        let scale = |length: &f64| 1.0 / (state.sigma * length);
        match &state.cov {
            Covariance::Diagonal { lengths, .. } => Self::Diagonal(lengths.iter().map(scale).collect()),
            Covariance::Full { axes, lengths, .. } => {
                let n = lengths.len();
                let mut rows = vec![0.0; n * n];
                for (axis, length) in axes.chunks_exact(n).zip(lengths) {
                    for (row, component) in rows.chunks_exact_mut(n).zip(axis) {
                        add_scaled(row, scale(length) * component, axis);
                    }
                }
                Self::Full { n, rows }
            }
        }
    }

    fn times(&self, v: &[f64]) -> Vec<f64> {
        match self {
            Self::Diagonal(scales) => scales.iter().zip(v).map(|(s, v)| s * v).collect(),
            Self::Full { n, rows } => rows.chunks_exact(*n).map(|row| dot(row, v)).collect(),
        }
    }

    /// S^(-1/2) X S^(-1/2) for a symmetric X in the covariance's layout.
    fn around(&self, x: &[f64]) -> Vec<f64> {
        match self {
            Self::Diagonal(scales) => scales.iter().zip(x).map(|(s, x)| s * s * x).collect(),
            Self::Full { n, rows } => {
                let n = *n;
                let mut left = vec![0.0; n * n]; // S^(-1/2) X
                for (row, out) in rows.chunks_exact(n).zip(left.chunks_exact_mut(n)) {
                    for (k, r) in row.iter().enumerate() {
                        add_scaled(&mut out[..=k], *r, &x[packed(k, 0)..=packed(k, k)]);
                        for j in k + 1..n {
                            out[j] += r * x[packed(j, k)];
                        }
                    }
                }
                let entry = |i: usize, j: usize| dot(&left[i * n..(i + 1) * n], &rows[j * n..(j + 1) * n]);
                (0..n)
                    .flat_map(|i| (0..=i).map(move |j| (i, j)))
                    .map(|(i, j)| entry(i, j))
                    .collect()
            }
        }
    }

    /// ½‖X‖² over all entries of the symmetric matrix X: vec(X)/√2 in the paper.
    fn half_square(&self, x: &[f64]) -> f64 {
        match self {
            Self::Diagonal(_) => 0.5 * dot(x, x),
            Self::Full { n, .. } => {
                let diagonal: f64 = (0..*n).map(|i| x[packed(i, i)] * x[packed(i, i)]).sum();
                dot(x, x) - 0.5 * diagonal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_signal_keeps_the_rate_at_one_and_noise_lowers_it() {
        let norm = |u: &[f64]| dot(u, u);
        let mut steady = Rate::new(1);
        (0..200).for_each(|_| steady.adapt(BETA_MEAN, &[1.0], norm));
        assert_eq!(steady.eta, 1.0);
        let mut noisy = Rate::new(1);
        (0..200).for_each(|i| noisy.adapt(BETA_MEAN, &[if i % 2 == 0 { 1.0 } else { -1.0 }], norm));
        assert!(noisy.eta < 0.1, "{}", noisy.eta);
    }

    #[test]
    fn local_coordinates_of_a_distribution_are_the_identity() {
        // S^(-1/2) S S^(-1/2) = I for S = [[4, 2], [2, 3]]
        let mut cov = Covariance::full(&[1.0, 1.0]);
        cov.update(1.0, &[(2.0, &[1.0, 1.0]), (1.0, &[1.0, 0.0])]);
        cov.refresh(1).unwrap();
        let s = cov.entries().to_vec();
        let state = State {
            mean: vec![0.0; 2],
            sigma: 1.0,
            cov,
            p_sigma: vec![0.0; 2],
            p_c: vec![0.0; 2],
            updates: 0,
            learning_rate: None,
        };
        let local = InverseRoot::of(&state).around(&s);
        for (entry, expected) in local.iter().zip([1.0, 0.0, 1.0]) {
            assert!((entry - expected).abs() < 1e-12, "{local:?}");
        }
        assert!((InverseRoot::of(&state).half_square(&[1.0, 2.0, 3.0]) - 0.5 * (1.0 + 2.0 * 4.0 + 9.0)).abs() < 1e-12);
    }
}
