//! Whether what moves as one should: the parts of a variable, each with a slope of its own.
//!
//! Where several numbers move as one, as the weights of all layers do in a search that begins narrow, a step knows the slope of each
//! before it adds them up. At a point where they cancel out and none of them is flat, one wants up and another down: apart they would
//! get somewhere.

use super::Variable;
use crate::{eval::stats, recipe::Recipe};

/// What the variables of a course could be divided into.
pub struct Parts<'a> {
    /// The recipe that a point of all parts stands for: that of the variables, where parts of one variable are equal.
    pub decode: &'a dyn Fn(&[f64]) -> Recipe,
    pub variables: Vec<Variable>,
    /// For each of them, the place of the variable that it is a part of.
    pub of: Vec<usize>,
}

impl Parts<'_> {
    /// A point of the variables as one of their parts.
    pub(super) fn expand(&self, point: &[f64]) -> Vec<f64> {
        self.of.iter().map(|&whole| point[whole]).collect()
    }
}

/// The slopes of all parts, step by step.
#[derive(Default)]
pub(super) struct Slopes {
    steps: Vec<Vec<f64>>,
}

impl Slopes {
    pub fn add(&mut self, slopes: Vec<f64>) {
        self.steps.push(slopes);
    }

    /// For each of `n` variables how likely luck alone would pull its parts so far apart (two-sided, Bonferroni over parts); `None`
    /// of one that is not divided, has no slope, or was seen too little of. `batches` of the steps' texts differ: the others
    /// were read before.
    ///
    /// All parts moving together by Newton's step, −Σg/ΣF with Fisher's information F as the curvature, leave part p a slope of
    /// g − F·Σg/ΣF, which is nothing where it is right that they move as one. F is the variance of a part's slope over the steps, as
    /// the texts of each are others.
    ///
    /// **Source**: natural gradient, Amari 1998, with the diagonal empirical Fisher information; one-sample t-test.
    pub fn apart(&self, of: &[usize], n: usize, batches: f64) -> Vec<Option<f64>> {
        let samples = batches.min(self.steps.len() as f64);
        let of_variable = |variable: usize| {
            let parts: Vec<usize> = (0..of.len()).filter(|&part| of[part] == variable).collect();
            let information: Vec<f64> = parts.iter().map(|&part| variance(self.slopes_of(part))).collect();
            let all: f64 = information.iter().sum();
            if parts.len() < 2 || samples < 2.0 || all <= 0.0 {
                return None;
            }
            let together: Vec<f64> = self.steps.iter().map(|g| parts.iter().map(|&p| g[p]).sum()).collect();
            let luck = parts.iter().zip(&information).map(|(&part, information)| {
                let share = information / all;
                let left: Vec<f64> = self
                    .slopes_of(part)
                    .zip(&together)
                    .map(|(g, all)| g - share * all)
                    .collect();
                let stderr = (variance(left.iter().copied()) / samples).sqrt();
                stats::t_p(stats::mean(&left), stderr, samples - 1.0)
            });
            // What is left of two parts is the same for both.
            let tests = if parts.len() == 2 { 1 } else { parts.len() };
            Some((luck.fold(1.0, f64::min) * tests as f64).min(1.0))
        };
        (0..n).map(of_variable).collect()
    }

    fn slopes_of(&self, part: usize) -> impl Iterator<Item = f64> + Clone {
        self.steps.iter().map(move |slopes| slopes[part])
    }
}

/// Of a sample; 0 of fewer than two.
fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    values.map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight steps of three variables: of two parts, of one, of three. Texts are luck: the same for all parts of a step, and some of each.
    fn slopes(of_part: impl Fn(usize) -> f64) -> Slopes {
        let mut slopes = Slopes::default();
        for step in 0..8 {
            let luck = |part: usize| ((step * 37 + part * 17) % 11) as f64 / 11.0 - 0.45;
            slopes.add((0..6).map(|part| of_part(part) + luck(part)).collect());
        }
        slopes
    }

    const OF: [usize; 6] = [0, 0, 1, 2, 2, 2];

    #[test]
    fn parts_that_pull_against_each_other_are_told_from_parts_that_go_the_same_way() {
        let opposed = slopes(|part| [2.0, -2.0, 5.0, 1.0, 1.0, -2.0][part]).apart(&OF, 3, 8.0);
        assert!(opposed[0].unwrap() < 0.001, "{opposed:?}");
        assert!(opposed[2].unwrap() < 0.001, "{opposed:?}");
        assert_eq!(opposed[1], None, "what has one part cannot be split");
        let together = slopes(|part| [2.0, 2.0, 5.0, 1.0, 1.0, 1.0][part]).apart(&OF, 3, 8.0);
        assert!(
            together[0].unwrap() > 0.05 && together[2].unwrap() > 0.05,
            "{together:?}"
        );
    }

    #[test]
    fn what_was_seen_too_little_of_says_nothing() {
        let opposed = slopes(|part| [2.0, -2.0, 5.0, 1.0, 1.0, -2.0][part]);
        assert_eq!(opposed.apart(&OF, 3, 1.5), [None; 3], "the same texts over and over");
        let few = opposed.apart(&OF, 3, 3.0)[0].unwrap();
        assert!(few > opposed.apart(&OF, 3, 8.0)[0].unwrap());
        assert_eq!(Slopes::default().apart(&OF, 3, 8.0), [None; 3]);
        let mut flat = Slopes::default();
        (0..8).for_each(|_| flat.add(vec![0.0; 6]));
        assert_eq!(flat.apart(&OF, 3, 8.0), [None; 3], "nothing of it can be learned");
    }
}
