//! Where a score would lie if all questions of its kind were asked: 95 % intervals that keep their promise at the edges too.
//!
//! A standard error is 0 where nobody, or everybody, was right, and an interval built from it says that nothing is left to
//! know. Wilson's interval does not; it is not symmetric about the score, so it is handed on as two ends and never as `±`.

const Z: f64 = 1.959_963_984_540_054;

/// ½ χ² at 5 % of 2x degrees of freedom: the mean of a Poisson law that gives x or more once in twenty times.
const POISSON: [f64; 4] = [0.0, 0.051_293_294, 0.355_361_510, 0.817_691_447];

/// For a proportion of `n` yes/no questions: Wilson's score interval, moved outwards where one to three of them differ from
/// the rest (there Wilson's alone covers 84 % and not 95).
///
/// **Source**: E. B. Wilson, JASA 22 (1927); the modification is Brown, Cai & DasGupta's (Statistical Science 16, 2001,
/// §4.1.1), interpolated between whole numbers, since the effective number of questions is none.
pub fn proportion(p: f64, n: f64) -> (f64, f64) {
    if n.is_nan() || n <= 0.0 {
        return (0.0, 1.0);
    }
    let zz = Z * Z;
    let centre = (p + zz / (2.0 * n)) / (1.0 + zz / n);
    let half = Z / (1.0 + zz / n) * (p * (1.0 - p) / n + zz / (4.0 * n * n)).max(0.0).sqrt();
    let low = (centre - half).min(poisson(p * n) / n);
    let high = (centre + half).max(1.0 - poisson((1.0 - p) * n) / n);
    // Rounding must not leave the score outside of its own interval.
    (low.clamp(0.0, 1.0).min(p), high.clamp(0.0, 1.0).max(p))
}

/// [`POISSON`] between its entries; nothing to move beyond them.
fn poisson(x: f64) -> f64 {
    let at = x.floor() as usize;
    match (POISSON.get(at), POISSON.get(at.saturating_add(1))) {
        (Some(below), Some(above)) => below + (above - below) * x.fract(),
        (Some(last), None) if x.fract() == 0.0 => *last,
        _ => f64::INFINITY,
    }
}

/// Of a score with a standard error that is normal enough.
pub fn normal(value: f64, stderr: f64) -> (f64, f64) {
    (value - Z * stderr, value + Z * stderr)
}

/// A part of a weighted sum: its weight, its value and its own interval.
pub type Part = (f64, f64, (f64, f64));

/// Of a weighted sum of independent scores, each with an interval of its own.
///
/// **Source**: the method of variance estimates recovery, Zou & Donner, Statistics in Medicine 27 (2008).
pub fn sum(parts: &[Part]) -> (f64, f64) {
    let value: f64 = parts.iter().map(|(w, v, _)| w * v).sum();
    let (mut below, mut above) = (0.0, 0.0);
    for (w, v, (low, high)) in parts {
        below += (w * (v - low)).powi(2);
        above += (w * (high - v)).powi(2);
    }
    (value - below.sqrt(), value + above.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probability of k of n, for every k.
    fn binomial(n: usize, p: f64) -> Vec<f64> {
        let ln_factorial = |n: usize| libm::lgamma(n as f64 + 1.0);
        let ln = |k: usize| {
            ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
                + k as f64 * libm::log(p)
                + (n - k) as f64 * libm::log(1.0 - p)
        };
        (0..=n).map(|k| ln(k).exp()).collect()
    }

    /// A changed journal with a count of 1e300 questions right ended the report in a panic.
    #[test]
    fn a_count_beyond_every_whole_number_has_an_interval() {
        for p in [1e300, -1e300, 1e19] {
            let (low, high) = proportion(p, 3.0);
            assert!(low <= high, "{p}: {low} {high}");
        }
    }

    #[test]
    fn wilson_by_hand() {
        // p = 1/2, n = 100: ½ ∓ z/(1 + z²/100) · √(1/400 + z²/40000) = ½ ∓ 0.0962.
        let (low, high) = proportion(0.5, 100.0);
        assert!((low - 0.4038).abs() < 1e-4 && (high - 0.5962).abs() < 1e-4);
        assert_eq!(proportion(0.3, 0.0), (0.0, 1.0));
    }

    /// 0 of 10 reaches 27.8 %; what was drawn was 0 ± 13.9 %, half of which is no proportion.
    #[test]
    fn none_and_all_right_leave_something_to_know() {
        let (low, high) = proportion(0.0, 10.0);
        assert!(low == 0.0 && (high - 0.2775).abs() < 1e-4, "{low} {high}");
        let (low, high) = proportion(1.0, 10.0);
        assert!(high == 1.0 && (low - 0.7225).abs() < 1e-4, "{low} {high}");
    }

    /// Summed up over all outcomes, which is what a simulation without end would give.
    #[test]
    fn ninety_five_per_cent_is_what_it_says_at_the_edges_too() {
        for n in [10, 20, 24, 50, 100, 250] {
            let intervals: Vec<(f64, f64)> = (0..=n).map(|k| proportion(k as f64 / n as f64, n as f64)).collect();
            let covered = |p: f64| -> f64 {
                let outcomes = binomial(n, p).into_iter().zip(&intervals);
                outcomes
                    .filter(|(_, (low, high))| (*low..=*high).contains(&p))
                    .map(|(q, _)| q)
                    .sum()
            };
            let all: Vec<f64> = (1..1000).map(|i| covered(f64::from(i) / 1000.0)).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let least = all.iter().copied().fold(1.0, f64::min);
            assert!(
                mean > 0.95 && least > 0.915,
                "n = {n}: {mean:.4} on average, at least {least:.4}"
            );
            for edge in [0.0005, 0.9995] {
                assert!(covered(edge) > 0.95, "n = {n}, p = {edge}: {:.4}", covered(edge));
            }
        }
    }

    /// Two tasks, one of which hardly anybody gets right, over all outcomes of both.
    #[test]
    fn a_weighted_mean_of_tasks_keeps_the_promise() {
        let (n, m) = (30, 40);
        for (p, q) in [(0.02, 0.5), (0.3, 0.97), (0.005, 0.01), (0.4, 0.6)] {
            let truth = 0.25 * p + 0.75 * q;
            let mut covered = 0.0;
            for (i, first) in binomial(n, p).into_iter().enumerate() {
                for (j, second) in binomial(m, q).into_iter().enumerate() {
                    let part = |w: f64, k: usize, n: usize| {
                        let v = k as f64 / n as f64;
                        (w, v, proportion(v, n as f64))
                    };
                    let (low, high) = sum(&[part(0.25, i, n), part(0.75, j, m)]);
                    covered += f64::from(u8::from((low..=high).contains(&truth))) * first * second;
                }
            }
            assert!(covered > 0.93, "{p} {q}: {covered:.4}");
        }
    }
}
