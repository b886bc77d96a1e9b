//! Breadcrumbs: drop the largest γ·n and the smallest entries of a task vector, keep density·n in between.
//!
//! Source: Davari and Belilovsky 2024, arXiv:2312.06795, section 3. Counts are floors; where fewer than γ·n entries can
//! go without falling below the density, fewer of the largest go (as in mergekit). Density 1 keeps everything, whatever γ.

use super::{
    magnitude::{Cut, share},
    parents::Parents,
    task_sum::Keep,
};

pub(crate) fn band(parents: &Parents<'_>, k: usize, density: f64, gamma: f64) -> Keep {
    if density >= 1.0 {
        return Keep::Cut(Cut::Everything);
    }
    let (outliers, kept) = counts(density, gamma, parents.len());
    Keep::Band {
        inner: parents.top(k, outliers),
        outer: parents.top(k, outliers + kept),
    }
}

/// Of n entries, how many of the largest go, and how many after them stay.
pub(crate) fn counts(density: f64, gamma: f64, n: usize) -> (usize, usize) {
    let kept = share(density, n);
    (share(gamma, n).min(n - kept), kept)
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, TaskSum, Term, Trim};
    use super::super::testing::merge_sum;

    fn breadcrumbs(density: f64, gamma: f64) -> TaskSum {
        TaskSum {
            terms: vec![Term {
                weight: 1.0,
                trim: Trim::Outliers { density, gamma },
            }],
            rescale: Rescale::None,
            elect: false,
            normalize: false,
            lambda: 1.0,
        }
    }

    #[test]
    fn by_hand() {
        let tau = [5.0, -4.0, 3.0, 2.0, -1.0];
        let run = |density, gamma| merge_sum(&breadcrumbs(density, gamma), &[0.0; 5], &[&tau]);
        // One outlier goes, two stay.
        assert_eq!(run(0.4, 0.2), [0.0, -4.0, 3.0, 0.0, 0.0]);
        // γ·n < 1: no outlier goes.
        assert_eq!(run(0.4, 0.1), [5.0, -4.0, 0.0, 0.0, 0.0]);
        // Four stay, so only one of two outliers can go.
        assert_eq!(run(0.8, 0.4), [0.0, -4.0, 3.0, 2.0, -1.0]);
        assert_eq!(run(1.0, 0.4), tau);
        assert_eq!(run(0.1, 0.0), [0.0; 5]);
    }
}
