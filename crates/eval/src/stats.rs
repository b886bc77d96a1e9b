//! What scores are worth: errors, intervals, paired tests.
//!
//! Two candidates answer the same questions, so nearly everything here is paired. All functions are pure; those that
//! draw at random take a seed and give the same result on every machine.
//!
//! Sources: Wilson 1927; McNemar 1947 in its exact form; Efron and Tibshirani 1993, §13.3 (percentile bootstrap);
//! Holm 1979; Kendall 1945 (τ-b); Ville 1939 for the e-process.
//!
//! ```
//! use heterosis_eval::stats::{Discordant, holm, mean};
//!
//! // Of ten questions nine changed sides, all of them the same way: 2 · (1/2)⁹.
//! let (first, second) = ([[true].as_slice(), &[false; 9]].concat(), [true; 10]);
//! let p = Discordant::count(&first, &second).mcnemar_p();
//! assert_eq!(p, 2.0 / 512.0);
//! assert_eq!(holm(&[p, 0.5]), [2.0 * p, 0.5]);
//! assert_eq!(mean(&[0.0, 1.0]), 0.5);
//! ```

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation over √n, as lm-eval prints it; 0 for fewer than two values.
pub fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (squares / (n - 1.0)).sqrt() / n.sqrt()
}

/// `Σ numerators / Σ denominators` and its standard error over the pairs (linearised; for equal denominators exactly
/// [`standard_error`]).
pub fn ratio(pairs: &[(f64, f64)]) -> (f64, f64) {
    let total: f64 = pairs.iter().map(|p| p.1).sum();
    let ratio = pairs.iter().map(|p| p.0).sum::<f64>() / total;
    let n = pairs.len() as f64;
    if pairs.len() < 2 {
        return (ratio, 0.0);
    }
    let squares: f64 = pairs.iter().map(|(a, b)| (a - ratio * b).powi(2)).sum();
    (ratio, (squares * n / (n - 1.0)).sqrt() / total)
}

/// What each pair adds to the error of their [`ratio`]: the squares sum up to its squared standard error, and the products
/// with what the same questions add to another ratio to the covariance of both. Zero for fewer than two pairs.
///
/// **Source**: Särndal, Swensson & Wretman 1992, §5.5, the linearised variable of a ratio.
pub fn ratio_deviations(pairs: &[(f64, f64)]) -> Vec<f64> {
    let total: f64 = pairs.iter().map(|p| p.1).sum();
    let ratio = pairs.iter().map(|p| p.0).sum::<f64>() / total;
    let n = pairs.len() as f64;
    let factor = if pairs.len() < 2 {
        0.0
    } else {
        (n / (n - 1.0)).sqrt() / total
    };
    pairs.iter().map(|(a, b)| factor * (a - ratio * b)).collect()
}

/// Wilson's score interval for `successes` of `n` at `z` standard normal deviations (1.96 for 95 %).
pub fn wilson(successes: f64, n: f64, z: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let p = successes / n;
    let zz = z * z;
    let centre = (p + zz / (2.0 * n)) / (1.0 + zz / n);
    let half = z / (1.0 + zz / n) * (p * (1.0 - p) / n + zz / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// How two candidates disagree over the same yes/no questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discordant {
    /// Only the first was right.
    pub first_only: u64,
    /// Only the second was right.
    pub second_only: u64,
}

impl Discordant {
    /// # Panics
    /// If the slices differ in length.
    pub fn count(first: &[bool], second: &[bool]) -> Self {
        assert_eq!(first.len(), second.len(), "paired answers");
        let mut counts = Discordant::default();
        for pair in first.iter().zip(second) {
            match pair {
                (true, false) => counts.first_only += 1,
                (false, true) => counts.second_only += 1,
                _ => {}
            }
        }
        counts
    }

    fn total(self) -> u64 {
        self.first_only + self.second_only
    }

    /// Exact two-sided p-value of McNemar's test: a fair coin would split the disagreements at least this unevenly.
    pub fn mcnemar_p(self) -> f64 {
        let smaller = self.first_only.min(self.second_only);
        (2.0 * fair_coin_at_most(smaller, self.total())).min(1.0)
    }

    /// Evidence that the second is better: `2·∫_{½}^{1} (2t)^w (2(1−t))^b dt` with `w` = second only, `b` = first only.
    ///
    /// If it is not better, this exceeds `1/α` with probability at most α at *any* time of looking.
    pub fn e_value(self) -> f64 {
        let (b, w, n) = (self.first_only, self.second_only, self.total());
        // ∫ t^w (1-t)^b over [½, 1] = B(w+1, b+1) · P(Bin(n+1, ½) ≤ w).
        let log_beta = ln_factorial(w) + ln_factorial(b) - ln_factorial(n + 1);
        let log_power = (n + 1) as f64 * std::f64::consts::LN_2;
        (log_power + log_beta + fair_coin_at_most(w, n + 1).ln()).exp()
    }

    /// Probability that the second is better, given a flat prior on who wins a disagreement.
    pub fn probability_second_better(self) -> f64 {
        fair_coin_at_most(self.second_only, self.total() + 1)
    }
}

/// P(Bin(n, ½) ≤ k).
fn fair_coin_at_most(k: u64, n: u64) -> f64 {
    if k >= n {
        return 1.0;
    }
    // The smaller tail is summed, so that small probabilities keep their digits.
    if 2 * k >= n {
        return 1.0 - fair_coin_at_most(n - k - 1, n);
    }
    let log_half = n as f64 * std::f64::consts::LN_2;
    let ln_choose = |i| ln_factorial(n) - ln_factorial(i) - ln_factorial(n - i);
    (0..=k).map(|i| (ln_choose(i) - log_half).exp()).sum()
}

fn ln_factorial(n: u64) -> f64 {
    libm::lgamma(n as f64 + 1.0)
}

/// A difference of paired means with what surrounds it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PairedDifference {
    /// Mean of second − first.
    pub difference: f64,
    /// Of the difference: sample standard deviation of the pairs' differences ÷ √n.
    pub stderr: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Percentile bootstrap over the questions: `confidence` (0.95) interval of the mean of second − first.
///
/// # Panics
/// If the slices differ in length.
pub fn paired_bootstrap(
    first: &[f64],
    second: &[f64],
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> PairedDifference {
    let differences = differences(first, second);
    let (difference, stderr) = (mean(&differences), standard_error(&differences));
    if differences.len() < 2 {
        return PairedDifference {
            difference,
            stderr,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        };
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let n = differences.len();
    let mut means: Vec<f64> = (0..resamples.max(1))
        .map(|_| (0..n).map(|_| differences[random.random_range(0..n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    PairedDifference {
        difference,
        stderr,
        low: quantile(&means, tail),
        high: quantile(&means, 1.0 - tail),
    }
}

fn differences(first: &[f64], second: &[f64]) -> Vec<f64> {
    assert_eq!(first.len(), second.len(), "paired scores");
    first.iter().zip(second).map(|(a, b)| b - a).collect()
}

/// Linear interpolation between order statistics, as numpy's default.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Two-sided p-value that second − first has mean 0, by flipping the signs of the differences.
///
/// Exact over all `2^n` flips up to n = 16, else over `resamples` random ones (the observed one counted, so p is
/// never 0).
///
/// # Panics
/// If the slices differ in length.
pub fn sign_flip_p(first: &[f64], second: &[f64], resamples: usize, seed: u64) -> f64 {
    let differences = differences(first, second);
    let n = differences.len();
    // Sums of the same numbers in other orders differ in the last bits only.
    let scale: f64 = differences.iter().map(|d| d.abs()).sum();
    let observed = differences.iter().sum::<f64>().abs() - 1e-12 * scale;
    if n <= 16 {
        let extreme = (0u32..1 << n)
            .filter(|&flips| flipped_sum(&differences, |i| flips >> i & 1 == 1).abs() >= observed)
            .count();
        return extreme as f64 / (1u32 << n) as f64;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let extreme = (0..resamples)
        .filter(|_| {
            let mut bits = 0u64;
            flipped_sum(&differences, |i| {
                if i % 64 == 0 {
                    bits = random.random();
                }
                bits >> (i % 64) & 1 == 1
            })
            .abs()
                >= observed
        })
        .count();
    (extreme + 1) as f64 / (resamples + 1) as f64
}

fn flipped_sum(values: &[f64], mut flip: impl FnMut(usize) -> bool) -> f64 {
    let signed = values.iter().enumerate();
    signed.map(|(i, d)| if flip(i) { -d } else { *d }).sum()
}

/// Two-sided p-value of Student's paired t-test; 1 for fewer than two pairs or when all differences are 0.
///
/// # Panics
/// If the slices differ in length.
pub fn paired_t_p(first: &[f64], second: &[f64]) -> f64 {
    let differences = differences(first, second);
    let (difference, stderr) = (mean(&differences), standard_error(&differences));
    if differences.len() < 2 {
        return 1.0;
    }
    t_p(difference, stderr, (differences.len() - 1) as f64)
}

/// Two-sided p-value of a mean under Student's t with so many degrees of freedom; 1 without any, or where it is not a number.
///
/// ```
/// use heterosis_eval::stats::t_p;
///
/// assert!((t_p(2.228, 1.0, 10.0) - 0.05).abs() < 1e-4);
/// ```
pub fn t_p(mean: f64, stderr: f64, freedom: f64) -> f64 {
    2.0 * upper_tail(mean.abs(), stderr, freedom).min(0.5)
}

/// The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Press et al. 2007, §6.4).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let ln_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (1.0 - x).ln();
    let away_from_zero = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            fraction *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-15 {
            break;
        }
    }
    ln_front.exp() * fraction / a
}

/// Two candidates' scores on the questions of one task.
#[derive(Clone, Copy, Debug)]
pub struct PairedTask<'a> {
    /// Share of the fitness, relative to the other tasks'.
    pub weight: f64,
    /// The first model's score on each question.
    pub first: &'a [f64],
    /// The second model's scores on the same questions, in the same order.
    pub second: &'a [f64],
    /// How much each question counts within its task.
    pub sizes: &'a [f64],
    /// Each score is 0 or 1.
    pub is_right_or_wrong: bool,
}

/// Whether the second is as good as the first, but for a margin.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NonInferiority {
    /// Weighted mean of second − first.
    pub difference: f64,
    /// Of the difference: the tasks' own, added in quadrature with their weights.
    pub stderr: f64,
    /// One-sided: how likely so good a second would be if it were worse by the whole margin.
    pub p_value: f64,
    /// Questions.
    pub n: usize,
}

/// One-sided test of `second − first ≤ −margin`, stratified by task: Student's t of difference + margin.
///
/// Right-or-wrong answers that hardly differ would give a standard error near 0, and a test that passes on a handful of
/// questions. But a loss of `margin` on average takes losses on a fraction `margin` of the questions at least, so under
/// the hypothesis a difference has a variance of no less than `margin · (1 − margin)`; a smaller one is not believed.
///
/// **Source**: the restricted variance is Tango's (Statistics in Medicine 17, 1998) at its lower bound.
///
/// # Panics
/// If the slices of a task differ in length.
pub fn non_inferiority(tasks: &[PairedTask<'_>], margin: f64) -> NonInferiority {
    let weights: f64 = tasks.iter().map(|t| t.weight).sum();
    let (mut difference, mut variance, mut restricted, mut n) = (0.0, 0.0, 0.0, 0);
    for task in tasks {
        let pairs: Vec<(f64, f64)> = differences(task.first, task.second)
            .into_iter()
            .zip(task.sizes)
            .map(|(d, size)| (d * size, *size))
            .collect();
        let (mean, stderr) = ratio(&pairs);
        let share = task.weight / weights;
        let least = match task.is_right_or_wrong {
            true => (margin * (1.0 - margin) / pairs.len() as f64).sqrt(),
            false => 0.0,
        };
        difference += share * mean;
        variance += (share * stderr).powi(2);
        restricted += (share * stderr.max(least)).powi(2);
        n += pairs.len();
    }
    let freedom = n.saturating_sub(tasks.len()) as f64;
    NonInferiority {
        difference,
        stderr: variance.sqrt(),
        p_value: upper_tail(difference + margin, restricted.sqrt(), freedom),
        n,
    }
}

/// How many right-or-wrong questions [`non_inferiority`] takes to show, at 5 %, that nothing is lost where every answer stays the same.
///
/// ```
/// use heterosis_eval::stats::questions_that_show;
///
/// assert_eq!(questions_that_show(0.01), 268);
/// ```
pub fn questions_that_show(margin: f64) -> usize {
    const ONE_SIDED: f64 = 1.645; // the normal quantile of 95 %
    (ONE_SIDED.powi(2) * (1.0 - margin) / margin).ceil() as usize
}

/// P(T ≥ lead/stderr) of Student's t; without any spread 0 or 1 by the sign of the lead, without any freedom 1.
fn upper_tail(lead: f64, stderr: f64, freedom: f64) -> f64 {
    // NaN is no evidence.
    if freedom < 1.0 || lead.is_nan() {
        return 1.0;
    }
    if stderr == 0.0 {
        return if lead > 0.0 { 0.0 } else { 1.0 };
    }
    let t = lead / stderr;
    let tail = 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    if t > 0.0 { tail } else { 1.0 - tail }
}

/// Holm's step-down correction: adjusted p-values, in the order given, that control the family-wise error.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let m = p_values.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; m];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(((m - rank) as f64 * p_values[i]).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

/// Kendall's τ-b; NaN if either side is constant or has fewer than two values.
///
/// # Panics
/// If the slices differ in length.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "paired values");
    let (mut agreement, mut untied_x, mut untied_y) = (0i64, 0u64, 0u64);
    for i in 0..x.len() {
        for j in 0..i {
            let (dx, dy) = (order(x[i], x[j]), order(y[i], y[j]));
            agreement += i64::from(dx * dy);
            untied_x += u64::from(dx != 0);
            untied_y += u64::from(dy != 0);
        }
    }
    agreement as f64 / (untied_x as f64 * untied_y as f64).sqrt()
}

fn order(a: f64, b: f64) -> i8 {
    i8::from(a > b) - i8::from(a < b)
}

/// Spearman's rank correlation, ties given their mean rank; NaN if either side is constant.
///
/// # Panics
/// If the slices differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "paired values");
    let (x, y) = (ranks(x), ranks(y));
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let dot =
        |a: &[f64], ma: f64, b: &[f64], mb: f64| -> f64 { a.iter().zip(b).map(|(p, q)| (p - ma) * (q - mb)).sum() };
    dot(&x, mean_x, &y, mean_y) / (dot(&x, mean_x, &x, mean_x) * dot(&y, mean_y, &y, mean_y)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |&v: &f64| {
        let below = values.iter().filter(|&&u| u < v).count();
        let equal = values.iter().filter(|&&u| u == v).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-10 * b.abs().max(1.0), "{a} {b}");
    }

    #[test]
    fn means_and_errors() {
        close(mean(&[1.0, 0.0, 0.0, 1.0]), 0.5);
        // variance 4·0.25/3 = 1/3; over n = 4: √(1/12)
        close(standard_error(&[1.0, 0.0, 0.0, 1.0]), (1.0f64 / 12.0).sqrt());
        assert_eq!(standard_error(&[1.0]), 0.0);
        assert!(mean(&[]).is_nan());
    }

    #[test]
    fn ratio_of_equal_parts_is_the_mean() {
        let values = [-3.0, -1.0, -2.0];
        let (value, stderr) = ratio(&values.map(|v| (v * 4.0, 4.0)));
        close(value, -2.0);
        close(stderr, standard_error(&values));
        // (−2 − 6) / (1 + 3) = −2; residuals 0 and 0
        assert_eq!(ratio(&[(-2.0, 1.0), (-6.0, 3.0)]), (-2.0, 0.0));
    }

    /// `scipy.stats.binomtest(5, 10).proportion_ci(method="wilson")`, scipy 1.17.1.
    #[test]
    fn wilson_interval() {
        let (low, high) = wilson(5.0, 10.0, 1.959_963_984_540_054);
        close(low, 0.236_593_090_512_564);
        close(high, 0.763_406_909_487_436_1);
        assert_eq!(wilson(0.0, 0.0, 1.96), (0.0, 1.0));
        assert_eq!(wilson(0.0, 10.0, 1.96).0, 0.0);
        close(wilson(10.0, 10.0, 1.96).1, 1.0);
    }

    #[test]
    fn mcnemar() {
        let p = |first_only, second_only| {
            Discordant {
                first_only,
                second_only,
            }
            .mcnemar_p()
        };
        close(p(0, 0), 1.0);
        close(p(3, 3), 1.0);
        close(p(0, 5), 2.0 / 32.0);
        close(p(5, 0), 2.0 / 32.0);
        close(p(1, 9), 2.0 * 11.0 / 1024.0);
        let counts = Discordant::count(&[true, false, true, false], &[true, true, false, false]);
        assert_eq!((counts.first_only, counts.second_only), (1, 1));
    }

    #[test]
    fn e_process() {
        let e = |first_only, second_only| {
            Discordant {
                first_only,
                second_only,
            }
            .e_value()
        };
        // No disagreement: 2·½ = 1. One win: 2·∫ 2t = 2·(1 − ¼) = 3/2. One loss: 2·∫ 2(1−t) = ½.
        close(e(0, 0), 1.0);
        close(e(0, 1), 1.5);
        close(e(1, 0), 0.5);
        // b = w = 1: 2·4·(t²/2 − t³/3)|½..1 = 8/12
        close(e(1, 1), 8.0 * (1.0 / 12.0));
        assert!(e(10, 40) > 20.0 && e(40, 10) < 0.05);
        // A fair game: under the null the mean over the next answer is what it is now.
        for (b, w) in [(0, 0), (3, 5), (7, 2), (100, 90)] {
            close(0.5 * (e(b, w + 1) + e(b + 1, w)), e(b, w));
        }
        let better = Discordant {
            first_only: 1,
            second_only: 3,
        };
        // P(Beta(4, 2) > ½) = 1 − I_½(4, 2) = 26/32
        close(better.probability_second_better(), 26.0 / 32.0);
    }

    #[test]
    fn bootstrap_is_seeded_and_sane() {
        let first: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let second: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i % 5 != 0))).collect();
        let a = paired_bootstrap(&first, &second, 0.95, 2000, 7);
        assert_eq!(a, paired_bootstrap(&first, &second, 0.95, 2000, 7));
        close(a.difference, 0.3);
        assert!(a.low < 0.3 && a.high > 0.3);
        assert!((a.high - a.low - 2.0 * 1.96 * a.stderr).abs() < 0.03, "{a:?}");
        assert_eq!(paired_bootstrap(&[0.0], &[1.0], 0.95, 10, 0).low, f64::NEG_INFINITY);
    }

    #[test]
    fn sign_flips() {
        // Only +++ and −−− are as extreme as three wins of one: 2/8.
        close(sign_flip_p(&[0.0; 3], &[1.0; 3], 0, 0), 0.25);
        close(sign_flip_p(&[0.0; 3], &[0.0; 3], 0, 0), 1.0);
        close(sign_flip_p(&[0.0; 3], &[0.1, 0.2, -0.3], 0, 0), 1.0);
        let second: Vec<f64> = (0..40).map(|i| 1.0 + 0.1 * f64::from(i % 3)).collect();
        close(sign_flip_p(&[0.0; 40], &second, 999, 1), 0.001);
    }

    /// `scipy.stats.ttest_rel`, scipy 1.17.1.
    #[test]
    fn t_test() {
        close(paired_t_p(&[0.0; 3], &[1.0, 2.0, 3.0]), T3);
        let first: Vec<f64> = (0..30).map(|i| f64::from(i % 7)).collect();
        let second: Vec<f64> = (0..30).map(|i| f64::from(i % 5) + 1.5).collect();
        close(paired_t_p(&first, &second), T30);
        assert_eq!(paired_t_p(&[0.0], &[1.0]), 1.0);
        assert_eq!(paired_t_p(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
        assert_eq!(paired_t_p(&[0.0, 0.0], &[0.0, 0.0]), 1.0);
    }

    /// By hand, with p-values of `scipy.stats.t.sf`, scipy 1.17.1.
    #[test]
    fn non_inferiority_needs_questions_and_not_only_equality() {
        let ones = vec![1.0; 1000];
        let task = |first: &[f64], second: &[f64], margin| {
            let task = PairedTask {
                weight: 1.0,
                first,
                second,
                sizes: &ones[..first.len()],
                is_right_or_wrong: true,
            };
            non_inferiority(&[task], margin)
        };
        // Not one answer differs. t = 0.01 ÷ √(0.01·0.99 ÷ n): 1.0 of 100 questions, 3.18 of 1000.
        let (few, many) = (task(&ones[..100], &ones[..100], 0.01), task(&ones, &ones, 0.01));
        close(few.p_value, 0.158_664_419_012_413);
        close(many.p_value, 0.000_763_701_898_105_896);
        assert_eq!((few.difference, few.stderr, few.n), (0.0, 0.0, 100));
        // 10 lost of 100, and a margin of 10 points: no evidence either way.
        let lost: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i >= 10))).collect();
        close(task(&ones[..100], &lost, 0.1).p_value, 0.5);
        assert!(task(&ones[..100], &lost, 0.01).p_value > 0.95);
        assert!(task(&lost, &ones[..100], 0.01).p_value < 0.001);
        assert_eq!(task(&ones[..1], &ones[..1], 0.01).p_value, 1.0);
    }

    #[test]
    fn non_inferiority_is_weighted_by_task_and_by_size() {
        let (zeros, ones) = ([0.0; 4], [1.0; 4]);
        let task = |weight, second| PairedTask {
            weight,
            first: &zeros,
            second,
            sizes: &ones,
            is_right_or_wrong: false,
        };
        let better = [0.4, 0.4, 0.4, 0.4];
        let both = non_inferiority(&[task(3.0, &zeros), task(1.0, &better)], 0.0);
        close(both.difference, 0.1);
        assert_eq!((both.p_value, both.n), (0.0, 8));
        let long = PairedTask {
            sizes: &[1.0, 3.0],
            first: &[0.0, 0.0],
            second: &[-1.0, 1.0],
            ..task(1.0, &zeros)
        };
        close(non_inferiority(&[long], 0.0).difference, 0.5);
    }

    #[test]
    fn holm_steps_down() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (a, b) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            close(*a, b);
        }
        assert_eq!(holm(&[]), Vec::<f64>::new());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }

    /// `scipy.stats.kendalltau` and `spearmanr`, scipy 1.17.1.
    #[test]
    fn rank_correlations() {
        let (x, y) = ([12.0, 2.0, 1.0, 12.0, 2.0], [1.0, 4.0, 7.0, 1.0, 0.0]);
        close(kendall_tau_b(&x, &y), TAU);
        close(spearman(&x, &y), RHO);
        close(kendall_tau_b(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(spearman(&[1.0], &[1.0]).is_nan());
    }
    const T3: f64 = 0.07417990022744854;
    const T30: f64 = 0.17930000244088024;
    const TAU: f64 = -0.4714045207910316;
    const RHO: f64 = -0.5407380704358752;
}
