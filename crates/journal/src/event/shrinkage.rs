//! How much of a score to believe when many were looked at and the luckiest stands out.
//!
//! The search chooses its finalists by this, and a viewer the candidate that it calls the best so far.

/// What a generation says of its candidates before their own scores are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// The candidates' mean score, to which each is drawn.
    pub mean: f64,
    /// The variance between candidates that is not chance.
    pub between: f64,
}

impl Prior {
    /// From the scores of a generation and the squares of their standard errors; `None` of nobody.
    pub fn of(scores: &[(f64, f64)]) -> Option<Self> {
        let n = scores.len() as f64;
        let mean = scores.iter().map(|(x, _)| x).sum::<f64>() / n;
        let noise = scores.iter().map(|(_, variance)| variance).sum::<f64>() / n;
        let spread = scores.iter().map(|(x, _)| (x - mean) * (x - mean)).sum::<f64>() / n;
        // However noisy, some of the spread is believed: else everybody would be the same.
        let between = (spread - noise).max(0.1 * spread);
        (!scores.is_empty()).then_some(Self { mean, between })
    }

    /// A score drawn to the mean: `m + (x − m) · v / (v + s²)`, v the variance between candidates, s the score's standard
    /// error.
    ///
    /// **Source**: James & Stein (1961) in its empirical-Bayes form, Efron & Morris (1973).
    pub fn worth(&self, score: f64, variance: f64) -> f64 {
        let trust = match variance > 0.0 {
            true => self.between / (self.between + variance),
            false => 1.0,
        };
        self.mean + trust * (score - self.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Spread 0.04, noise 0.01: three quarters of it are believed.
        let prior = Prior::of(&[(0.3, 0.01), (0.7, 0.01)]).unwrap();
        assert!((prior.mean - 0.5).abs() < 1e-15 && (prior.between - 0.03).abs() < 1e-15);
        assert!((prior.worth(0.7, 0.01) - 0.65).abs() < 1e-15);
        assert_eq!(prior.worth(0.7, 0.0), 0.7);
        assert_eq!(Prior::of(&[]), None);
    }

    #[test]
    fn the_better_known_overtakes_the_luckier() {
        let prior = Prior::of(&[(0.60, 0.01), (0.70, 0.0004), (0.74, 0.01), (0.50, 0.01)]).unwrap();
        assert!(prior.worth(0.70, 0.0004) > prior.worth(0.74, 0.01));
    }
}
