//! The normal distribution N(mean, sigma² C) at the heart of the CMA family, and its update from ranked steps.
//!
//! Active CMA-ES with cumulative step-size adaptation after Hansen's tutorial (1604.00772; equation numbers are
//! its own), with pycma's constants where they differ. It knows nothing of bounds, genes, restarts or fitness values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::covariance::{Covariance, Degenerate};
use super::eigen::{add_scaled, dot};
use super::learning_rate::LearningRate;
use super::ranking::Ranking;

/// The constants, a function of dimension and population size alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    pub n: usize,
    pub population_size: usize,
    /// By rank, best first; the positive ones sum to 1, the negative ones punish the worse half.
    pub weights: Vec<f64>,
    /// The positive part of `weights`: how the mean is recombined.
    pub recombination: Vec<f64>,
    pub mu_eff: f64,
    pub c_1: f64,
    pub c_mu: f64,
    pub c_c: f64,
    pub c_sigma: f64,
    pub d_sigma: f64,
    /// E‖N(0, I)‖.
    pub chi_n: f64,
    /// Generations between two decompositions of C.
    pub eigen_gap: u64,
}

/// How much of the covariance is learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CovarianceModel {
    /// Full up to 200 genes, diagonal above.
    #[default]
    Auto,
    /// All n(n+1)/2 entries: the default of the field.
    Full,
    /// The diagonal only, learnt about n/3 times as fast: sep-CMA-ES (Ros & Hansen, 2008).
    Diagonal,
}

impl CovarianceModel {
    /// Whether the diagonal alone is learnt for `n` genes.
    pub fn is_diagonal(self, n: usize) -> bool {
        match self {
            Self::Auto => n > 200,
            Self::Full => false,
            Self::Diagonal => true,
        }
    }
}

/// λ = 4 + ⌊3 ln n⌋ (eq. 48); at least 2 for whoever asks with no gene at all.
pub fn default_population_size(n: usize) -> usize {
    4 + (3.0 * libm::log(n.max(1) as f64)).floor() as usize
}

impl Params {
    pub fn new(n: usize, population_size: usize, model: CovarianceModel) -> Self {
        let nf = n as f64;
        let lambda = population_size as f64;
        let mu = population_size / 2;
        let raw: Vec<f64> = (1..=population_size)
            .map(|i| libm::log((lambda + 1.0) / 2.0) - libm::log(i as f64))
            .collect(); // eq. 49
        let effective = |w: &[f64]| {
            let (sum, squares) = w.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
            if squares > 0.0 { sum * sum / squares } else { 0.0 }
        };
        let mu_eff = effective(&raw[..mu]);
        let mu_eff_minus = effective(&raw[mu..]);

        let mut c_1 = (lambda / 6.0).min(1.0) * 2.0 / ((nf + 1.3) * (nf + 1.3) + mu_eff); // eq. 57, pycma's factor
        let mut c_mu = 2.0 * (0.25 + mu_eff + 1.0 / mu_eff - 2.0) / ((nf + 2.0) * (nf + 2.0) + mu_eff); // eq. 58
        if model.is_diagonal(n) {
            c_1 *= (nf + 1.5) / 3.0; // Ros & Hansen (2008), with pycma's offset for the rank-one part
            c_mu *= (nf + 2.0) / 3.0;
        }
        c_1 = c_1.min(1.0);
        c_mu = c_mu.min(1.0 - c_1);

        let alpha_mu = 1.0 + c_1 / c_mu; // eq. 50
        let alpha_mu_eff = 1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0); // eq. 51
        let alpha_pos_def = (1.0 - c_1 - c_mu) / (nf * c_mu); // eq. 52
        let alpha = alpha_mu.min(alpha_mu_eff).min(alpha_pos_def).max(0.0);
        let positive: f64 = raw.iter().filter(|w| **w > 0.0).sum();
        let negative: f64 = -raw.iter().filter(|w| **w < 0.0).sum::<f64>();
        let weight = |w: &f64| {
            if *w >= 0.0 { w / positive } else { w * alpha / negative }
        }; // eq. 53
        let weights: Vec<f64> = raw.iter().map(weight).collect();

        let c_sigma = (mu_eff + 2.0) / (nf + mu_eff + 3.0); // eq. 55 has +5; pycma +3
        let d_sigma = 1.0 + 2.0 * (((mu_eff - 1.0) / (nf + 1.0)).max(0.0).sqrt() - 1.0).max(0.0) + c_sigma; // eq. 55
        let c_c = (4.0 + mu_eff / nf) / (nf + 4.0 + 2.0 * mu_eff / nf); // eq. 56
        let chi_n = nf.sqrt() * (1.0 - 1.0 / (4.0 * nf) + 1.0 / (21.0 * nf * nf));
        let eigen_gap = (EIGEN_GAP_FACTOR / ((c_1 + c_mu) * nf)).floor().clamp(1.0, 1e6) as u64;
        Self {
            n,
            population_size,
            recombination: weights.iter().map(|w| w.max(0.0)).collect(),
            weights,
            mu_eff,
            c_1,
            c_mu,
            c_c,
            c_sigma,
            d_sigma,
            chi_n,
            eigen_gap,
        }
    }
}

/// C is decomposed again when it has changed by about one nth, after 1/(n (c_1 + c_mu)) generations. The tutorial's B.2
/// waits for a tenth of that; on ellipsoids and Rosenbrock's function in 10 and 40 dimensions no difference in
/// evaluations can be measured, and in 100 the decomposition would be most of the time.
const EIGEN_GAP_FACTOR: f64 = 1.0;

/// The variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub mean: Vec<f64>,
    pub sigma: f64,
    pub cov: Covariance,
    pub p_sigma: Vec<f64>,
    pub p_c: Vec<f64>,
    /// Updates so far: g in the papers.
    pub updates: u64,
    /// Present when the learning rates adapt to the noise.
    pub learning_rate: Option<LearningRate>,
}

/// One candidate as the distribution sees it: x = mean + sigma · y with y = B D z.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub y: Vec<f64>,
    pub z: Vec<f64>,
}

/// The steps that were drawn in this generation, by index, to spare drawing them twice. A cache and no state: it is not
/// saved, and what is missing in it is drawn again from its address.
#[derive(Clone, Debug, Default)]
pub struct Drawn(BTreeMap<u64, Step>);

impl Drawn {
    pub fn keep(&mut self, index: u64, step: Step) {
        self.0.insert(index, step);
    }

    pub fn take(&mut self, index: u64) -> Option<Step> {
        self.0.remove(&index)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl PartialEq for Drawn {
    /// Two searches are equal whatever they happen to remember.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaussian {
    pub params: Params,
    pub state: State,
}

/// No step size leaves this range, whatever the fitness does; beyond it f64 itself ends.
const SIGMA_RANGE: (f64, f64) = (1e-150, 1e150);

impl Gaussian {
    /// `stds` are the standard deviations of the coordinates in units of `sigma`: all 1 for the usual C = I.
    pub fn new(params: Params, mean: Vec<f64>, sigma: f64, stds: &[f64], model: CovarianceModel, adapts: bool) -> Self {
        let n = params.n;
        let cov = if model.is_diagonal(n) {
            Covariance::diagonal(stds)
        } else {
            Covariance::full(stds)
        };
        let learning_rate = adapts.then(|| LearningRate::new(n, cov.entries().len()));
        let state = State {
            mean,
            sigma,
            cov,
            p_sigma: vec![0.0; n],
            p_c: vec![0.0; n],
            updates: 0,
            learning_rate,
        };
        Self { params, state }
    }

    /// The step that a standard normal vector z stands for (eq. 38, 39).
    pub fn step_of(&self, z: Vec<f64>) -> Step {
        Step {
            y: self.state.cov.colour(&z),
            z,
        }
    }

    /// The step to a point that another distribution, or a person, proposed. Its length is clipped, so that a far
    /// point points the way and does not tear the distribution apart (Hansen, 1110.4181, eq. 2).
    pub fn step_to(&self, x: &[f64]) -> Step {
        let State { mean, sigma, cov, .. } = &self.state;
        let mut step = self.step_along(x.iter().zip(mean).map(|(x, m)| (x - m) / sigma).collect());
        let n = cov.n() as f64;
        let longest = n.sqrt() + 2.0 * n / (n + 2.0);
        let length = dot(&step.z, &step.z).sqrt();
        if length > longest {
            let clip = longest / length;
            step.y.iter_mut().chain(&mut step.z).for_each(|v| *v *= clip);
        }
        step
    }

    /// The step with this y.
    pub fn step_along(&self, y: Vec<f64>) -> Step {
        Step {
            z: self.state.cov.whiten(&y),
            y,
        }
    }

    /// The point mean + sigma · y (eq. 40).
    pub fn point(&self, y: &[f64]) -> Vec<f64> {
        let State { mean, sigma, .. } = &self.state;
        y.iter().zip(mean).map(|(y, m)| m + sigma * y).collect()
    }

    /// Moves the distribution towards the better steps (eq. 41–47).
    ///
    /// Equals share the weights of their ranks; where they do, mu_eff is what the shared weights really have, so that
    /// a tie neither shortens the path nor shrinks sigma.
    pub fn update(&mut self, steps: &[Step], ranking: &Ranking) -> Result<(), Degenerate> {
        let before = self.state.learning_rate.is_some().then(|| self.state.clone());
        self.update_plainly(steps, ranking)?;
        match before {
            Some(old) => self.slow_down(&old),
            None => self.state.cov.refresh(self.params.eigen_gap),
        }
    }

    fn update_plainly(&mut self, steps: &[Step], ranking: &Ranking) -> Result<(), Degenerate> {
        let Params {
            n,
            mu_eff,
            c_1,
            c_mu,
            c_c,
            c_sigma,
            d_sigma,
            chi_n,
            ..
        } = self.params;
        let weights = ranking.share(&self.params.weights);
        let gains = ranking.share(&self.params.recombination);
        let mu_eff = if ranking.has_ties() {
            1.0 / dot(&gains, &gains)
        } else {
            mu_eff
        };
        let State {
            mean,
            sigma,
            cov,
            p_sigma,
            p_c,
            updates,
            ..
        } = &mut self.state;

        // Selection and recombination; added best first, so that the sum does not depend on the batch's order.
        let (mut y_w, mut z_w) = (vec![0.0; n], vec![0.0; n]);
        for &k in ranking.order.iter().filter(|&&k| gains[k] > 0.0) {
            add_scaled(&mut y_w, gains[k], &steps[k].y); // eq. 41
            add_scaled(&mut z_w, gains[k], &steps[k].z);
        }
        add_scaled(mean, *sigma, &y_w); // eq. 42 with c_m = 1

        // Step-size control
        let pull = (c_sigma * (2.0 - c_sigma) * mu_eff).sqrt();
        let whitened = cov.turn(&z_w); // C^(-1/2) y_w
        p_sigma
            .iter_mut()
            .zip(&whitened)
            .for_each(|(p, w)| *p = (1.0 - c_sigma) * *p + pull * w); // eq. 43
        let length = dot(p_sigma, p_sigma).sqrt();
        let log_growth = (c_sigma / d_sigma) * (length / chi_n - 1.0); // eq. 44, growth by e at most
        *sigma = (*sigma * libm::exp(log_growth.min(1.0))).clamp(SIGMA_RANGE.0, SIGMA_RANGE.1);
        *updates += 1;

        // Covariance matrix adaptation
        let expected = (1.0 - libm::pow(1.0 - c_sigma, 2.0 * (*updates as f64 + 1.0))).sqrt();
        let h_sigma = if length / expected < (1.4 + 2.0 / (n as f64 + 1.0)) * chi_n {
            1.0
        } else {
            0.0
        };
        let pull = h_sigma * (c_c * (2.0 - c_c) * mu_eff).sqrt();
        p_c.iter_mut()
            .zip(&y_w)
            .for_each(|(p, y)| *p = (1.0 - c_c) * *p + pull * y); // eq. 45
        let fair = |k: usize| match weights[k] {
            w if w >= 0.0 => w,
            w => w * n as f64 / dot(&steps[k].z, &steps[k].z).max(1e-8), // eq. 46
        };
        let loss = (1.0 - h_sigma) * c_c * (2.0 - c_c);
        let keep = 1.0 + c_1 * loss - c_1 - c_mu * weights.iter().sum::<f64>();
        let mut terms: Vec<(f64, &[f64])> = vec![(c_1, p_c)];
        terms.extend(ranking.order.iter().map(|&k| (c_mu * fair(k), steps[k].y.as_slice())));
        cov.update(keep, &terms); // eq. 47
        if mean.iter().chain(&*p_c).chain([&*sigma]).all(|v| v.is_finite()) {
            Ok(())
        } else {
            Err(Degenerate)
        }
    }

    /// Answers a flat generation, which says nothing about where to go. A plateau is left by looking further, up to a
    /// limit; a generation that failed to the last candidate is drawn again as it was: further out is no safer.
    pub fn widen(&mut self, outcomes: &[&Outcome], first_sigma: f64) -> Result<(), Degenerate> {
        const WIDEST: f64 = 10.0;
        if outcomes.iter().any(|outcome| outcome.cost().is_some()) {
            let sigma = &mut self.state.sigma;
            let wider = *sigma * libm::exp(0.2 + self.params.c_sigma / self.params.d_sigma);
            *sigma = wider.min((WIDEST * first_sigma).max(*sigma));
        }
        Ok(())
    }

    /// Takes back the part of the last update that the learning rates say is noise.
    fn slow_down(&mut self, old: &State) -> Result<(), Degenerate> {
        let Some(mut learning_rate) = self.state.learning_rate.take() else {
            return Ok(());
        };
        let done = learning_rate.apply(old, &mut self.state);
        self.state.learning_rate = Some(learning_rate);
        done
    }

    /// The standard deviation along coordinate i.
    pub fn std(&self, i: usize) -> f64 {
        self.state.sigma * self.state.cov.std(i)
    }

    /// Keeps the standard deviation of the coordinates below their caps (pycma's `maxstd`); correlations stay.
    pub fn cap(&mut self, caps: &[f64]) -> Result<(), Degenerate> {
        let mut capped = false;
        for (i, cap) in caps.iter().enumerate() {
            let std = self.std(i);
            if std > *cap {
                self.state.cov.scale_coordinate(i, cap / std);
                self.state.p_c[i] *= cap / std;
                capped = true;
            }
        }
        if capped { self.state.cov.refresh(1) } else { Ok(()) }
    }

    /// Mirrors coordinate i about `at`: a symmetry of everything that the distribution knows.
    pub fn mirror(&mut self, i: usize, at: f64) {
        let State {
            mean,
            cov,
            p_sigma,
            p_c,
            ..
        } = &mut self.state;
        mean[i] = 2.0 * at - mean[i];
        p_sigma[i] = -p_sigma[i];
        p_c[i] = -p_c[i];
        cov.flip_coordinate(i);
        if let Some(learning_rate) = &mut self.state.learning_rate {
            learning_rate.flip_coordinate(i);
        }
    }

    /// True when the parts of a loaded distribution fit each other and hold finite numbers.
    pub fn is_consistent(&self, n: usize) -> bool {
        let Self { params, state } = self;
        let lengths = [state.mean.len(), state.p_sigma.len(), state.p_c.len(), params.n];
        let populations = [params.weights.len(), params.recombination.len()];
        lengths.iter().all(|&length| length == n)
            && populations.iter().all(|&length| length == params.population_size)
            && state.cov.is_consistent(n)
            && state
                .learning_rate
                .as_ref()
                .is_none_or(|rate| rate.is_consistent(n, state.cov.entries().len()))
            && state.sigma.is_finite()
            && state.sigma > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_in_ten_dimensions_are_the_tutorials() {
        // pycma 4.5.0: CMAEvolutionStrategy(10 * [0], 1).sp prints mueff 3.167, c1 0.0153, cmu 0.0202 (10 candidates).
        let p = Params::new(10, default_population_size(10), CovarianceModel::Full);
        assert_eq!(p.population_size, 10);
        assert!((p.mu_eff - 3.1672992814107035).abs() < 1e-12, "{}", p.mu_eff);
        assert!((p.c_1 - 2.0 / (11.3 * 11.3 + p.mu_eff)).abs() < 1e-15);
        assert!((p.weights.iter().filter(|w| **w > 0.0).sum::<f64>() - 1.0).abs() < 1e-14);
        assert!((p.c_sigma - (p.mu_eff + 2.0) / (13.0 + p.mu_eff)).abs() < 1e-15);
        let negative: f64 = p.weights.iter().filter(|w| **w < 0.0).sum();
        assert!(
            1.0 - p.c_1 - p.c_mu * (1.0 + negative) >= 0.0,
            "C keeps a part of itself"
        );
        assert_eq!(p.eigen_gap, 2);
    }

    #[test]
    fn the_smallest_populations_and_dimensions_have_sane_constants() {
        for n in [1, 2, 3, 40, 1000] {
            for population_size in [2, 3, 4, 5, 10 * n.max(10)] {
                for model in [CovarianceModel::Full, CovarianceModel::Diagonal] {
                    let p = Params::new(n, population_size, model);
                    for c in [p.c_1, p.c_mu, p.c_c, p.c_sigma] {
                        assert!(c > 0.0 && c <= 1.0 + 1e-12, "{n} {population_size} {model:?}: {p:?}");
                    }
                    assert!(p.c_1 + p.c_mu <= 1.0 + 1e-12 && p.d_sigma >= 1.0);
                    assert!(p.weights.iter().all(|w| w.is_finite()));
                    assert!((p.recombination.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                }
            }
        }
    }

    fn standard(n: usize) -> Gaussian {
        let params = Params::new(n, default_population_size(n), CovarianceModel::Full);
        Gaussian::new(params, vec![0.0; n], 1.0, &vec![1.0; n], CovarianceModel::Full, false)
    }

    #[test]
    fn far_points_are_clipped_and_near_ones_are_not() {
        let gaussian = standard(4);
        assert_eq!(gaussian.step_to(&[0.5, 0.0, 0.0, 0.0]).y, [0.5, 0.0, 0.0, 0.0]);
        let far = gaussian.step_to(&[300.0, 0.0, 0.0, 0.0]);
        assert!((far.y[0] - (2.0 + 8.0 / 6.0)).abs() < 1e-12); // √4 + 2·4/(4 + 2)
    }

    #[test]
    fn capping_scales_one_coordinate_only() {
        let mut gaussian = standard(3);
        gaussian.cap(&[0.5, f64::INFINITY, 2.0]).unwrap();
        let stds: Vec<f64> = (0..3).map(|i| gaussian.std(i)).collect();
        assert!(
            (stds[0] - 0.5).abs() < 1e-15 && stds[1] == 1.0 && stds[2] == 1.0,
            "{stds:?}"
        );
        assert!(gaussian.state.cov.lengths().iter().any(|d| (d - 0.5).abs() < 1e-12));
    }
}
