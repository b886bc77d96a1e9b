//! A score and what is known of its error.

use serde::{Deserialize, Serialize};

use super::{Error, Fitness};

/// A score and what is known of its error, for an algorithm that weighs scores by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The score.
    pub score: Fitness,
    /// Its standard error, in units of the score; `None` where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// What each question adds to the error, by any number that names it, in units of the score: the squares sum up to the
    /// squared standard error. Scores of the same questions err together, and the products of what a question adds to each
    /// sum up to the covariance of their errors. Empty: this score errs by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<(u32, f64)>,
}

impl Measurement {
    /// A score that errs by itself, by `stderr`; an error of 0 or less, or one that is not finite, counts as unknown.
    ///
    /// ```
    /// use heterosis_optim::{Error, Measurement};
    ///
    /// // 75 of 100 questions answered right: √(p (1 − p) / n)
    /// let measured = Measurement::new(0.75, (0.75f64 * 0.25 / 100.0).sqrt())?;
    /// assert_eq!(measured.stderr, Some(0.75f64.sqrt() * 0.05));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// **Errors**: a score that is not finite.
    pub fn new(score: f64, stderr: f64) -> Result<Self, Error> {
        Ok(Self {
            score: Fitness::new(score)?,
            stderr: (stderr.is_finite() && stderr > 0.0).then_some(stderr),
            deviations: Vec::new(),
        })
    }

    /// The same with what each question adds to the error, in any order; what is not finite is left out.
    pub fn with_deviations(mut self, deviations: impl IntoIterator<Item = (u32, f64)>) -> Self {
        self.deviations = deviations.into_iter().filter(|(_, d)| d.is_finite()).collect();
        self.deviations.sort_by_key(|(question, _)| *question);
        self
    }

    /// The variance of the error, and how it goes with another one's.
    pub(crate) fn variance(&self) -> f64 {
        match self.deviations.is_empty() {
            true => self.stderr.map_or(0.0, |stderr| stderr * stderr),
            false => self.deviations.iter().map(|(_, d)| d * d).sum(),
        }
    }

    pub(crate) fn covariance(&self, other: &Self) -> f64 {
        let (mut a, mut b) = (self.deviations.iter().peekable(), other.deviations.iter().peekable());
        let mut sum = 0.0;
        while let (Some((p, x)), Some((q, y))) = (a.peek(), b.peek()) {
            match p.cmp(q) {
                std::cmp::Ordering::Less => _ = a.next(),
                std::cmp::Ordering::Greater => _ = b.next(),
                std::cmp::Ordering::Equal => {
                    sum += x * y;
                    _ = (a.next(), b.next());
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two candidates of four questions each, p = ½: deviations ±½/4, three questions in common.
    #[test]
    fn errors_in_common_by_hand() {
        let of = |signs: [(u32, f64); 4]| {
            let deviations = signs.map(|(q, sign)| (q, sign * 0.5 / 4.0));
            Measurement::new(0.5, 0.25).unwrap().with_deviations(deviations)
        };
        let a = of([(3, 1.0), (1, 1.0), (2, -1.0), (0, -1.0)]);
        let b = of([(1, 1.0), (2, 1.0), (3, 1.0), (9, -1.0)]);
        assert_eq!(a.variance(), 4.0 / 64.0, "p (1 − p) / n");
        assert_eq!(a.covariance(&b), (1.0 - 1.0 + 1.0) / 64.0);
        assert_eq!(a.covariance(&b), b.covariance(&a));
        assert_eq!(a.covariance(&Measurement::new(0.5, 0.25).unwrap()), 0.0);
    }

    #[test]
    fn what_is_no_error_is_an_unknown_one() {
        for stderr in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Measurement::new(1.0, stderr).unwrap().stderr, None);
        }
        assert!(matches!(Measurement::new(f64::NAN, 0.1), Err(Error::NotFinite { .. })));
        let measured = Measurement::new(1.0, 0.1).unwrap().with_deviations([(0, f64::NAN)]);
        assert_eq!(measured.deviations, []);
        assert!((measured.variance() - 0.01).abs() < 1e-15);
    }
}
