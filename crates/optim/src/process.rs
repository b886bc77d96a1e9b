//! A Gaussian process over the genes: what the scores so far say of a point, and how sure that is.
//!
//! Its covariance is Matérn 5/2 with one lengthscale for each gene, around a constant that is unknown too. Errors of the
//! scores are known: each has its variance, and scores of the same questions err together. What is left over, a roughness
//! that no lengthscale explains and the error of scores that say nothing of theirs, is one variance that is learned.
//!
//! Points are *features*: a number in unit coordinates is one, a choice has one for each option, so that two options are
//! as far apart as the two ends of a range.
//!
//! **Source**: Rasmussen & Williams (2006), Gaussian processes for machine learning, §2.2, §4.2 and §5.4.1; the priors are
//! those of Hvarfner, Hellsten & Nardi (2024), Vanilla Bayesian optimization performs great in high dimensions,
//! arXiv:2402.02229, §4; errors in common: Chen, Ankenman & Nelson (2012), The effects of common random numbers on
//! stochastic kriging metamodels, ACM TOMACS 22 (2).

use serde::{Deserialize, Serialize};

use super::Adam;
use super::cholesky::{Cholesky, dot};

/// Scores and what is known of their errors, standardised: mean 0, standard deviation 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    /// `[features, points]`.
    columns: Vec<Vec<f64>>,
    /// The gene of each feature.
    gene_of: Vec<usize>,
    genes: usize,
    scores: Vec<f64>,
    /// The lower triangle of the errors' covariance, `[points, points]`.
    errors: Vec<Vec<f64>>,
}

/// What is learned of the process from the scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// ln of each gene's lengthscale.
    ln_lengthscales: Vec<f64>,
    /// ln of the variance of the function.
    ln_signal: f64,
    /// ln of the variance that no known error explains.
    ln_rest: f64,
}

/// The variance of the unknown constant, in standardised units.
const CONSTANT: f64 = 1.0;

/// Keeps a covariance matrix of points that nearly coincide positive definite.
const JITTER: f64 = 1e-8;

/// Of the lengthscales' log-normal prior: ln ℓ is normal with mean √2 + ln(genes)/2 and this standard deviation, √3.
const LENGTHSCALE_STD: f64 = 1.732_050_807_568_877_2;

/// Mean and standard deviation of ln of the two variances under their priors.
const SIGNAL_PRIOR: (f64, f64) = (0.0, 1.0);
const REST_PRIOR: (f64, f64) = (-4.0, 1.0);

/// Where ln ℓ and the logarithms of the variances may go.
const LENGTHSCALE_RANGE: (f64, f64) = (-5.0, 8.0);
const SIGNAL_RANGE: (f64, f64) = (-6.0, 4.0);
const REST_RANGE: (f64, f64) = (-14.0, 2.0);

/// The longest step of a logarithm in one iteration of the fit.
const RATE: f64 = 0.15;

/// Iterations of a fit to few points; to many, whose likelihood changes little from one generation to the next and costs
/// the cube of their number, fewer.
const MOST_STEPS: f64 = 100.0;
const LEAST_STEPS: f64 = 8.0;

impl Data {
    /// `points` are rows of features; `gene_of` says which gene each feature belongs to.
    pub fn new(points: &[Vec<f64>], gene_of: &[usize], scores: Vec<f64>, errors: Vec<Vec<f64>>) -> Self {
        let column = |f: usize| points.iter().map(|point| point[f]).collect();
        Self {
            columns: (0..gene_of.len()).map(column).collect(),
            gene_of: gene_of.to_vec(),
            genes: gene_of.iter().max().map_or(0, |last| last + 1),
            scores,
            errors,
        }
    }

    pub fn n(&self) -> usize {
        self.scores.len()
    }
}

impl Hyperparameters {
    /// The mode of the lengthscales' prior, and variances as a function has them that errs little.
    fn prior(genes: usize) -> Self {
        Self {
            ln_lengthscales: vec![lengthscale_mean(genes) - LENGTHSCALE_STD * LENGTHSCALE_STD; genes],
            ln_signal: SIGNAL_PRIOR.0,
            ln_rest: REST_PRIOR.0,
        }
    }

    /// Those that the scores make likeliest under the prior, looked for from `from` or from the prior's own mode.
    pub fn fit(data: &Data, from: Option<&Self>) -> Self {
        let start = from.cloned().unwrap_or_else(|| Self::prior(data.genes));
        let mut bounds = vec![LENGTHSCALE_RANGE; data.genes];
        bounds.extend([SIGNAL_RANGE, REST_RANGE]);
        let mut adam = Adam::new(vec![RATE; bounds.len()], bounds);
        let crowd = 100.0 / data.n().max(1) as f64;
        let steps = (MOST_STEPS * crowd * crowd).clamp(LEAST_STEPS, MOST_STEPS);
        let mut point = start.to_vector();
        let mut best = (f64::INFINITY, start);
        for step in 0..steps as usize {
            let here = Self::of_vector(&point);
            let Some((value, slopes)) = here.cost(data) else { break };
            if value < best.0 {
                best = (value, here);
            }
            adam.step(&mut point, &slopes, 1.0 - step as f64 / steps);
        }
        best.1
    }

    fn to_vector(&self) -> Vec<f64> {
        let mut vector = self.ln_lengthscales.clone();
        vector.extend([self.ln_signal, self.ln_rest]);
        vector
    }

    fn of_vector(vector: &[f64]) -> Self {
        let genes = vector.len() - 2;
        Self {
            ln_lengthscales: vector[..genes].to_vec(),
            ln_signal: vector[genes],
            ln_rest: vector[genes + 1],
        }
    }

    /// −ln p(scores, hyperparameters) but for a constant, and its slopes; `None` where the covariance has no factor.
    ///
    /// **Source**: Rasmussen & Williams, eq. 5.8 and 5.9.
    fn cost(&self, data: &Data) -> Option<(f64, Vec<f64>)> {
        let n = data.n();
        let kernel = Kernel::new(self, &data.gene_of);
        let scaled = kernel.scaled(&data.columns);
        let squares: Vec<Vec<f64>> = (0..n).map(|i| squared_distances(&scaled, i + 1, |c| c[i])).collect();
        let correlations = |row: &Vec<f64>| row.iter().map(|r2| matern(*r2)).collect();
        let correlations: Vec<Vec<f64>> = squares.iter().map(correlations).collect();
        let rest = libm::exp(self.ln_rest);
        let row = |(i, row): (usize, &Vec<f64>)| kernel.noisy_row(row, &data.errors[i], rest);
        let covariance: Vec<Vec<f64>> = correlations.iter().enumerate().map(row).collect();
        let factor = Cholesky::of(&covariance)?;
        let weights = factor.solve(&data.scores);
        let mut cost = 0.5 * (dot(&weights, &data.scores) + factor.ln_determinant());

        // ∂cost/∂θ = ½ Σᵢⱼ (K⁻¹ − w wᵀ)ᵢⱼ ∂Kᵢⱼ/∂θ
        let mut share = factor.inverse();
        for (row, w) in share.iter_mut().zip(&weights) {
            row.iter_mut().zip(&weights).for_each(|(s, v)| *s -= w * v);
        }
        let of_rest = 0.5 * rest * (0..n).map(|i| share[i][i]).sum::<f64>();
        let mut of_signal = 0.0;
        for i in 0..n {
            // Both triangles, and the diagonal once.
            of_signal += dot(&share[i][..i], &correlations[i][..i]) + 0.5 * share[i][i];
        }
        let of_signal = of_signal * kernel.signal;
        for i in 0..n {
            for j in 0..=i {
                let weighted = share[i][j] * kernel.signal * fall(squares[i][j]);
                share[i][j] = weighted;
                share[j][i] = weighted;
            }
        }
        let sums: Vec<f64> = share.iter().map(|row| row.iter().sum()).collect();
        let mut slopes = vec![0.0; data.genes + 2];
        for (column, gene) in scaled.iter().zip(&data.gene_of) {
            // Σᵢⱼ ½ sᵢⱼ (xᵢ − xⱼ)² = Σᵢ xᵢ (xᵢ Σⱼ sᵢⱼ − Σⱼ sᵢⱼ xⱼ)
            let of_row = |i: usize| column[i] * (column[i] * sums[i] - dot(&share[i], column));
            slopes[*gene] += (0..n).map(of_row).sum::<f64>();
        }
        slopes[data.genes] = of_signal;
        slopes[data.genes + 1] = of_rest;

        let mean = lengthscale_mean(data.genes);
        let mut believe = |at: usize, value: f64, (mean, std): (f64, f64)| {
            let z = (value - mean) / std;
            cost += 0.5 * z * z;
            slopes[at] += z / std;
        };
        for (g, value) in self.ln_lengthscales.iter().enumerate() {
            believe(g, *value, (mean, LENGTHSCALE_STD));
        }
        believe(data.genes, self.ln_signal, SIGNAL_PRIOR);
        believe(data.genes + 1, self.ln_rest, REST_PRIOR);
        cost.is_finite().then_some((cost, slopes))
    }

    pub fn is_consistent(&self, genes: usize) -> bool {
        self.ln_lengthscales.len() == genes
    }
}

/// The mean of ln ℓ under its prior, which grows with the dimension as distances do.
fn lengthscale_mean(genes: usize) -> f64 {
    std::f64::consts::SQRT_2 + 0.5 * libm::log(genes.max(1) as f64)
}

const SQRT_5: f64 = 2.236_067_977_499_79;

/// The correlation of two points at squared distance `r2`, in lengthscales.
fn matern(r2: f64) -> f64 {
    let s = SQRT_5 * r2.sqrt();
    (1.0 + s + 5.0 / 3.0 * r2) * libm::exp(-s)
}

/// −2 times the derivative of [`matern`] by `r2`.
fn fall(r2: f64) -> f64 {
    let s = SQRT_5 * r2.sqrt();
    5.0 / 3.0 * (1.0 + s) * libm::exp(-s)
}

/// From a point to the first `n` of some: `coordinate` gives the point's place in a column.
fn squared_distances(columns: &[Vec<f64>], n: usize, coordinate: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut squares = vec![0.0; n];
    for column in columns {
        let x = coordinate(column);
        for (sum, y) in squares.iter_mut().zip(column) {
            *sum += (x - y) * (x - y);
        }
    }
    squares
}

/// The covariance function.
#[derive(Clone, Debug, PartialEq)]
struct Kernel {
    /// Of each feature.
    inverse_lengthscales: Vec<f64>,
    signal: f64,
}

impl Kernel {
    fn new(hyperparameters: &Hyperparameters, gene_of: &[usize]) -> Self {
        let inverse = |g: &usize| libm::exp(-hyperparameters.ln_lengthscales[*g]);
        Self {
            inverse_lengthscales: gene_of.iter().map(inverse).collect(),
            signal: libm::exp(hyperparameters.ln_signal),
        }
    }

    fn scaled(&self, columns: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let scale = |(column, by): (&Vec<f64>, &f64)| column.iter().map(|x| x * by).collect();
        columns.iter().zip(&self.inverse_lengthscales).map(scale).collect()
    }

    fn covariance(&self, correlation: f64) -> f64 {
        CONSTANT + self.signal * correlation
    }

    /// A row of the scores' covariance, up to its diagonal.
    fn noisy_row(&self, correlations: &[f64], errors: &[f64], rest: f64) -> Vec<f64> {
        let entries = correlations.iter().zip(errors);
        let mut row: Vec<f64> = entries.map(|(c, e)| self.covariance(*c) + e).collect();
        if let Some(diagonal) = row.last_mut() {
            *diagonal += rest + JITTER;
        }
        row
    }
}

/// The process, given scores: its mean anywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    kernel: Kernel,
    /// Scaled by the lengthscales, `[features, points]`.
    columns: Vec<Vec<f64>>,
    scores: Vec<f64>,
    rest: f64,
    /// Of the scores' covariance.
    factor: Cholesky,
    weights: Vec<f64>,
}

impl Posterior {
    /// `None` where the covariance has no factor, which errors that are covariances have never been seen to cause.
    pub fn new(data: &Data, hyperparameters: &Hyperparameters) -> Option<Self> {
        let kernel = Kernel::new(hyperparameters, &data.gene_of);
        let columns = kernel.scaled(&data.columns);
        let rest = libm::exp(hyperparameters.ln_rest);
        let row = |i: usize| {
            let squares = squared_distances(&columns, i + 1, |c| c[i]);
            let correlations: Vec<f64> = squares.into_iter().map(matern).collect();
            kernel.noisy_row(&correlations, &data.errors[i], rest)
        };
        let factor = Cholesky::of(&(0..data.n()).map(row).collect::<Vec<_>>())?;
        let weights = factor.solve(&data.scores);
        Some(Self {
            columns,
            scores: data.scores.clone(),
            rest,
            factor,
            weights,
            kernel,
        })
    }

    /// The expected score at a point, in standardised units; its slopes by the features are added to `slopes`.
    pub fn mean(&self, point: &[f64], slopes: &mut [f64]) -> f64 {
        let squares = self.squares(point);
        self.add_slopes(point, &squares, &self.weights, slopes);
        let values = squares.iter().zip(&self.weights);
        values.map(|(r2, w)| w * self.kernel.covariance(matern(*r2))).sum()
    }

    /// The variance of the function at a point, in standardised units.
    #[cfg(test)]
    pub fn variance(&self, point: &[f64]) -> f64 {
        let covariances = self
            .squares(point)
            .into_iter()
            .map(|r2| self.kernel.covariance(matern(r2)));
        let half = self.factor.half_solve(&covariances.collect::<Vec<f64>>());
        self.kernel.covariance(1.0) - dot(&half, &half)
    }

    fn squares(&self, point: &[f64]) -> Vec<f64> {
        squared_distances_to(&self.columns, &self.kernel, point)
    }

    /// Adds the slopes of Σᵢ `weights`ᵢ k(point, pointᵢ).
    fn add_slopes(&self, point: &[f64], squares: &[f64], weights: &[f64], slopes: &mut [f64]) {
        add_slopes(&self.kernel, &self.columns, point, squares, weights, slopes);
    }
}

fn squared_distances_to(columns: &[Vec<f64>], kernel: &Kernel, point: &[f64]) -> Vec<f64> {
    let n = columns.first().map_or(0, Vec::len);
    let mut squares = vec![0.0; n];
    for ((column, x), by) in columns.iter().zip(point).zip(&kernel.inverse_lengthscales) {
        let x = x * by;
        for (sum, y) in squares.iter_mut().zip(column) {
            *sum += (x - y) * (x - y);
        }
    }
    squares
}

fn add_slopes(
    kernel: &Kernel,
    columns: &[Vec<f64>],
    point: &[f64],
    squares: &[f64],
    weights: &[f64],
    slopes: &mut [f64],
) {
    let pull = squares.iter().zip(weights).map(|(r2, w)| w * kernel.signal * fall(*r2));
    let pull: Vec<f64> = pull.collect();
    let whole: f64 = pull.iter().sum();
    for (f, (column, slope)) in columns.iter().zip(slopes).enumerate() {
        let by = kernel.inverse_lengthscales[f];
        *slope -= by * (point[f] * by * whole - dot(&pull, column));
    }
}

/// Functions drawn from the process, given scores, each known at every point that was asked about; any of them may be
/// the true one.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws {
    kernel: Kernel,
    /// `[features, points]`, scaled: those that have scores, then those that wait for theirs.
    columns: Vec<Vec<f64>>,
    /// Of the function's covariance at the points, without errors.
    factor: Cholesky,
    /// By draw, for each point: the function is Σᵢ weightᵢ k(·, pointᵢ).
    weights: Vec<Vec<f64>>,
    /// By draw, the largest value at any point.
    best: Vec<f64>,
}

/// What independent standard normal numbers a draw is made of.
pub struct Normals {
    /// One for each point: the function.
    pub function: Vec<f64>,
    /// The error of each score, in standardised units, without the rest.
    pub errors: Vec<f64>,
    /// One for each point: the rest.
    pub rest: Vec<f64>,
}

impl Draws {
    /// Draws by Matheron's rule: a function and errors from the prior, put right by the scores.
    ///
    /// **Source**: Wilson et al. (2020), Efficiently sampling functions from Gaussian process posteriors,
    /// arXiv:2002.09309, eq. 9.
    pub fn new(posterior: &Posterior, normals: impl Iterator<Item = Normals>) -> Option<Self> {
        let kernel = posterior.kernel.clone();
        let n = posterior.scores.len();
        let row = |i: usize| {
            let squares = squared_distances(&posterior.columns, i + 1, |c| c[i]);
            let mut row: Vec<f64> = squares.into_iter().map(|r2| kernel.covariance(matern(r2))).collect();
            row[i] += JITTER;
            row
        };
        let covariance: Vec<Vec<f64>> = (0..n).map(row).collect();
        let factor = Cholesky::of(&covariance)?;
        let std = posterior.rest.sqrt();
        let (mut weights, mut best) = (Vec::new(), Vec::new());
        for Normals { function, errors, rest } in normals {
            let prior = factor.times(&function);
            let miss = |i: usize| posterior.scores[i] - prior[i] - errors[i] - std * rest[i];
            let put_right = posterior.factor.solve(&(0..n).map(miss).collect::<Vec<_>>());
            let mut drawn = factor.transposed_solve(&function);
            drawn.iter_mut().zip(&put_right).for_each(|(d, p)| *d += p);
            // The values at the points, K w; the lower triangle serves for both.
            let mut values: Vec<f64> = covariance.iter().map(|row| dot(row, &drawn)).collect();
            for (row, w) in covariance.iter().zip(&drawn) {
                let above = values.iter_mut().zip(&row[..row.len() - 1]);
                above.for_each(|(value, k)| *value += w * k);
            }
            best.push(values.into_iter().fold(f64::NEG_INFINITY, f64::max));
            weights.push(drawn);
        }
        Some(Self {
            columns: posterior.columns.clone(),
            kernel,
            factor,
            weights,
            best,
        })
    }

    /// A point will have its score soon: each draw is continued there, with one standard normal number each.
    pub fn extend(&mut self, point: &[f64], normals: &[f64]) {
        let (_, covariances) = self.covariances(point);
        let known = self.factor.solve(&covariances);
        let variance = self.kernel.covariance(1.0) + JITTER - dot(&known, &covariances);
        let mut row = covariances.clone();
        row.push(self.kernel.covariance(1.0) + JITTER);
        // A point that is known already has the jitter's variance twice.
        if variance <= 4.0 * JITTER || !self.factor.grow(&row) {
            return;
        }
        let std = variance.sqrt();
        for ((weights, best), z) in self.weights.iter_mut().zip(&mut self.best).zip(normals) {
            let value = dot(weights, &covariances) + std * z;
            let weight = z / std;
            weights.iter_mut().zip(&known).for_each(|(w, k)| *w -= weight * k);
            weights.push(weight);
            *best = best.max(value);
        }
        for ((column, x), by) in self
            .columns
            .iter_mut()
            .zip(point)
            .zip(&self.kernel.inverse_lengthscales)
        {
            column.push(x * by);
        }
    }

    /// The logarithm of the noisy expected improvement at a point, and its slopes by the features: the mean over draws of
    /// how much better than the best point so far it may be expected to be.
    ///
    /// **Source**: Letham et al. (2019), Constrained Bayesian optimization with noisy experiments, eq. 8; its logarithm as
    /// in `improvement.rs`.
    pub fn log_improvement(&self, point: &[f64], slopes: Option<&mut [f64]>) -> f64 {
        let (squares, covariances) = self.covariances(point);
        let half = self.factor.half_solve(&covariances);
        let variance = self.kernel.covariance(1.0) - dot(&half, &half);
        let std = variance.max(JITTER).sqrt();
        let of_draw = |(weights, best): (&Vec<f64>, &f64)| {
            let mean = dot(weights, &covariances);
            super::improvement::LogImprovement::at((mean - best) / std)
        };
        let draws: Vec<_> = self.weights.iter().zip(&self.best).map(of_draw).collect();
        let most = draws.iter().fold(f64::NEG_INFINITY, |most, draw| most.max(draw.value));
        let shares: Vec<f64> = draws.iter().map(|draw| libm::exp(draw.value - most)).collect();
        let whole: f64 = shares.iter().sum();
        if let Some(slopes) = slopes {
            // d ln EI = Σ share (Φ/h dmean + φ/h dstd) / std, and dstd = −(K⁻¹k)·dk / std.
            let mut pull = vec![0.0; covariances.len()];
            let mut of_std = 0.0;
            for ((draw, share), weights) in draws.iter().zip(&shares).zip(&self.weights) {
                let share = share / (whole * std);
                of_std += share * draw.density_share;
                let by = share * draw.cumulative_share;
                pull.iter_mut().zip(weights).for_each(|(p, w)| *p += by * w);
            }
            if variance > JITTER {
                let known = self.factor.transposed_solve(&half);
                pull.iter_mut().zip(&known).for_each(|(p, k)| *p -= of_std / std * k);
            }
            add_slopes(&self.kernel, &self.columns, point, &squares, &pull, slopes);
        }
        most + libm::log(whole / draws.len() as f64) + libm::log(std)
    }

    fn covariances(&self, point: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let squares = squared_distances_to(&self.columns, &self.kernel, point);
        let covariances = squares.iter().map(|r2| self.kernel.covariance(matern(*r2))).collect();
        (squares, covariances)
    }
}

#[cfg(test)]
mod tests {
    use super::super::chance::{Address, Stream};
    use super::*;

    fn normals(n: usize, index: u64) -> Vec<f64> {
        let address = Address {
            restart: 0,
            generation: 0,
            index,
        };
        Stream::at(9, address).normals(n)
    }

    /// Scores at places on a line, with an error's variance each.
    fn on_a_line(places: &[f64], scores: &[f64], variances: &[f64]) -> Data {
        let points: Vec<Vec<f64>> = places.iter().map(|x| vec![*x]).collect();
        let error = |i: usize, j: usize| if i == j { variances[i] } else { 0.0 };
        let errors = (0..places.len()).map(|i| (0..=i).map(|j| error(i, j)).collect());
        Data::new(&points, &[0], scores.to_vec(), errors.collect())
    }

    fn of(ln_lengthscale: f64, ln_signal: f64, ln_rest: f64) -> Hyperparameters {
        Hyperparameters {
            ln_lengthscales: vec![ln_lengthscale],
            ln_signal,
            ln_rest,
        }
    }

    fn mean(posterior: &Posterior, x: f64) -> f64 {
        posterior.mean(&[x], &mut [0.0])
    }

    #[test]
    fn mean_and_variance_are_those_of_the_formula_for_two_points() {
        let (lengthscale, signal, rest) = (0.5f64, 2.0f64, 0.1f64);
        let data = on_a_line(&[0.2, 0.6], &[1.0, -0.5], &[0.05, 0.3]);
        let posterior = Posterior::new(&data, &of(lengthscale.ln(), signal.ln(), rest.ln())).unwrap();
        let k = |a: f64, b: f64| {
            let s = 5f64.sqrt() * (a - b).abs() / lengthscale;
            1.0 + signal * (1.0 + s + s * s / 3.0) * (-s).exp()
        };
        let (a, b, c) = (k(0.2, 0.2) + 0.15 + 1e-8, k(0.2, 0.6), k(0.6, 0.6) + 0.4 + 1e-8);
        let determinant = a * c - b * b;
        let inverse = |y: [f64; 2]| [(c * y[0] - b * y[1]) / determinant, (a * y[1] - b * y[0]) / determinant];
        for x in [0.0, 0.2, 0.45, 3.0] {
            let near = [k(x, 0.2), k(x, 0.6)];
            let weights = inverse([1.0, -0.5]);
            let expected = near[0] * weights[0] + near[1] * weights[1];
            assert!((mean(&posterior, x) - expected).abs() < 1e-12, "{x}");
            let known = inverse(near);
            let expected = k(x, x) - near[0] * known[0] - near[1] * known[1];
            assert!((posterior.variance(&[x]) - expected).abs() < 1e-12, "{x}");
        }
    }

    /// A score of three questions counted as much as one of three hundred.
    #[test]
    fn a_score_that_errs_much_does_not_pull_the_mean() {
        let mean_beside = |variance: f64| {
            let data = on_a_line(&[0.2, 0.5, 0.8], &[0.0, 2.0, 0.0], &[0.01, variance, 0.01]);
            let posterior = Posterior::new(&data, &of(-1.0, 0.0, -6.0)).unwrap();
            mean(&posterior, 0.5)
        };
        assert!(mean_beside(0.01) > 1.9);
        assert!(mean_beside(100.0) < 0.1);
    }

    /// Two scores of the same questions, one a little better: whatever the questions' luck, the difference is real.
    #[test]
    fn errors_in_common_leave_differences_as_they_are() {
        let points = vec![vec![0.0], vec![1.0]];
        let difference = |shared: f64| {
            let errors = vec![vec![0.5], vec![shared, 0.5]];
            let data = Data::new(&points, &[0], vec![0.5, -0.5], errors);
            let posterior = Posterior::new(&data, &of(-1.0, 0.0, -6.0)).unwrap();
            mean(&posterior, 0.0) - mean(&posterior, 1.0)
        };
        assert!(difference(0.49) > 0.9, "{}", difference(0.49));
        assert!(difference(0.0) < 0.7, "{}", difference(0.0));
    }

    fn example() -> Data {
        let points: Vec<Vec<f64>> = (0..14)
            .map(|i| normals(4, i).iter().map(|z| 0.5 + 0.2 * z).collect())
            .collect();
        let scores = points.iter().map(|x| (3.0 * x[0]).sin() + x[2] * x[3]).collect();
        let error = |i: usize, j: usize| 0.02 + if i == j { 0.01 * i as f64 } else { 0.0 };
        let errors = (0..points.len()).map(|i| (0..=i).map(|j| error(i, j)).collect());
        // The last two features belong to one gene.
        Data::new(&points, &[0, 1, 2, 2], scores, errors.collect())
    }

    #[test]
    fn slopes_of_the_likelihood_are_its_differences() {
        let data = example();
        let at = Hyperparameters {
            ln_lengthscales: vec![-0.7, 0.3, -0.2],
            ln_signal: 0.4,
            ln_rest: -2.0,
        };
        let (_, slopes) = at.cost(&data).unwrap();
        for (i, slope) in slopes.iter().enumerate() {
            let cost = |by: f64| {
                let mut vector = at.to_vector();
                vector[i] += by;
                Hyperparameters::of_vector(&vector).cost(&data).unwrap().0
            };
            let difference = (cost(1e-5) - cost(-1e-5)) / 2e-5;
            assert!(
                (difference - slope).abs() < 1e-6 * difference.abs().max(1.0),
                "{i}: {difference}, {slope}"
            );
        }
    }

    #[test]
    fn a_fit_is_likelier_than_where_it_began_and_finds_what_does_not_matter() {
        let points: Vec<Vec<f64>> = (0..30)
            .map(|i| {
                normals(2, i)
                    .into_iter()
                    .map(super::super::normal::cumulative)
                    .collect()
            })
            .collect();
        let scores = points.iter().map(|x| (6.0 * x[0]).sin()).collect();
        let errors = (0..points.len()).map(|i| vec![0.0; i + 1]);
        let data = Data::new(&points, &[0, 1], scores, errors.collect());
        let start = Hyperparameters::prior(2);
        let fitted = Hyperparameters::fit(&data, None);
        let cost = |h: &Hyperparameters| h.cost(&data).unwrap().0;
        assert!(cost(&fitted) < cost(&start) - 1.0);
        assert!(cost(&Hyperparameters::fit(&data, Some(&fitted))) <= cost(&fitted));
        let lengths = &fitted.ln_lengthscales;
        assert!(
            lengths[1] > lengths[0] + 0.5,
            "the second feature is in no score: {lengths:?}"
        );
    }

    fn draws(data: &Data, n: usize) -> (Posterior, Draws) {
        let hyperparameters = Hyperparameters {
            ln_lengthscales: vec![-0.7, 0.3, -0.2],
            ln_signal: 0.4,
            ln_rest: -2.0,
        };
        let posterior = Posterior::new(data, &hyperparameters).unwrap();
        // The errors of `example`: one in common, and one of each.
        let normal = |draw: u64| {
            let points = data.n();
            let (shared, own) = (normals(1, 5000 + draw)[0], normals(points, 4000 + draw));
            let error = |i: usize| 0.02f64.sqrt() * shared + (0.01 * i as f64).sqrt() * own[i];
            Normals {
                function: normals(points, 2000 + draw),
                errors: (0..points).map(error).collect(),
                rest: normals(points, 3000 + draw),
            }
        };
        let draws = Draws::new(&posterior, (0..n as u64).map(normal)).unwrap();
        (posterior, draws)
    }

    /// Over many draws the functions have the mean and the variance of the posterior, anywhere.
    #[test]
    fn draws_are_from_the_posterior() {
        const N: usize = 1000;
        let data = example();
        let (posterior, draws) = draws(&data, N);
        let point = [0.4, 0.6, 0.3, 0.7];
        let (squares, covariances) = draws.covariances(&point);
        assert_eq!(squares.len(), data.n());
        let values: Vec<f64> = draws.weights.iter().map(|w| dot(w, &covariances)).collect();
        let average = values.iter().sum::<f64>() / N as f64;
        let expected = posterior.mean(&point, &mut [0.0; 4]);
        let half = draws.factor.half_solve(&covariances);
        let own = draws.kernel.covariance(1.0) - dot(&half, &half);
        let spread = values.iter().map(|v| (v - average) * (v - average)).sum::<f64>() / N as f64;
        let variance = posterior.variance(&point);
        assert!(
            (average - expected).abs() < 4.0 * (variance / N as f64).sqrt(),
            "{average}, {expected}"
        );
        assert!(
            ((spread + own) / variance - 1.0).abs() < 0.15,
            "{spread} + {own}, {variance}"
        );
    }

    #[test]
    fn slopes_of_the_improvement_are_its_differences_with_candidates_out_too() {
        let data = example();
        let (_, mut draws) = draws(&data, 16);
        draws.extend(&[0.9, 0.1, 0.5, 0.2], &normals(16, 77));
        for point in [[0.4, 0.6, 0.3, 0.7], [0.1, 0.9, 0.9, 0.9]] {
            let mut slopes = [0.0; 4];
            draws.log_improvement(&point, Some(&mut slopes));
            for (i, slope) in slopes.iter().enumerate() {
                let value = |by: f64| {
                    let mut moved = point;
                    moved[i] += by;
                    draws.log_improvement(&moved, None)
                };
                let difference = (value(1e-5) - value(-1e-5)) / 2e-5;
                assert!(
                    (difference - slope).abs() < 1e-4 * difference.abs().max(1.0),
                    "{difference}, {slope}"
                );
            }
        }
    }

    /// Four candidates of a generation were the same point.
    #[test]
    fn nothing_is_to_be_gained_where_somebody_waits_or_is_known() {
        let data = example();
        let (_, mut draws) = draws(&data, 16);
        let point = [0.4, 0.6, 0.3, 0.7];
        let before = draws.log_improvement(&point, None);
        let far = draws.log_improvement(&[0.9, 0.1, 0.2, 0.1], None);
        draws.extend(&point, &normals(16, 78));
        assert!(draws.log_improvement(&point, None) < before - 3.0);
        assert!((draws.log_improvement(&[0.9, 0.1, 0.2, 0.1], None) - far).abs() < 1.0);
        let n = draws.best.len();
        draws.extend(&point, &normals(n, 79));
        assert_eq!(draws.columns[0].len(), data.n() + 1, "the same point twice is one");
    }
}
