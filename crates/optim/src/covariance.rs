//! The covariance matrix of a search distribution, full or diagonal, and its axes.
//!
//! A full matrix is decomposed only every few generations; until then sampling, whitening and the evolution path all
//! use the same slightly old axes, as Hansen's tutorial has it (1604.00772, B.2).

use serde::{Deserialize, Serialize};

use super::eigen::{self, add_scaled, dot};

/// C, with C = Σₖ lengthₖ² axisₖ axisₖᵀ as of the last decomposition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covariance {
    Full {
        /// C's lower triangle, packed row by row.
        lower: Vec<f64>,
        /// `[n, n]`, row k is the k-th axis: Bᵀ in the papers.
        axes: Vec<f64>,
        /// The standard deviations along the axes: the diagonal of D.
        lengths: Vec<f64>,
        /// Updates since the decomposition.
        age: u64,
    },
    Diagonal {
        /// The diagonal of C.
        variances: Vec<f64>,
        /// Their roots.
        lengths: Vec<f64>,
    },
}

/// The matrix could no longer be decomposed: an entry is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Degenerate;

impl Covariance {
    /// A full matrix that is diagonal to begin with; `stds` are the roots of the diagonal.
    pub fn full(stds: &[f64]) -> Self {
        let n = stds.len();
        let mut lower = vec![0.0; packed(n, 0)];
        let mut axes = vec![0.0; n * n];
        for (i, std) in stds.iter().enumerate() {
            lower[packed(i, i)] = std * std;
            axes[i * n + i] = 1.0;
        }
        Self::Full {
            lower,
            axes,
            lengths: stds.to_vec(),
            age: 0,
        }
    }

    pub fn diagonal(stds: &[f64]) -> Self {
        Self::Diagonal {
            variances: stds.iter().map(|s| s * s).collect(),
            lengths: stds.to_vec(),
        }
    }

    pub fn n(&self) -> usize {
        self.lengths().len()
    }

    /// The standard deviations along the axes, unordered.
    pub fn lengths(&self) -> &[f64] {
        match self {
            Self::Full { lengths, .. } | Self::Diagonal { lengths, .. } => lengths,
        }
    }

    /// C's i-th diagonal entry.
    pub fn variance(&self, i: usize) -> f64 {
        match self {
            Self::Full { lower, .. } => lower[packed(i, i)],
            Self::Diagonal { variances, .. } => variances[i],
        }
    }

    /// C's entry of two coordinates.
    pub fn entry(&self, i: usize, j: usize) -> f64 {
        match self {
            Self::Full { lower, .. } => lower[packed(i.max(j), i.min(j))],
            Self::Diagonal { variances, .. } if i == j => variances[i],
            Self::Diagonal { .. } => 0.0,
        }
    }

    /// The standard deviation along coordinate i.
    pub fn std(&self, i: usize) -> f64 {
        self.variance(i).max(0.0).sqrt()
    }

    /// y = B D z: a standard normal z becomes a sample of N(0, C).
    pub fn colour(&self, z: &[f64]) -> Vec<f64> {
        let scaled: Vec<f64> = z.iter().zip(self.lengths()).map(|(z, length)| z * length).collect();
        self.turn(&scaled)
    }

    /// z = D⁻¹ Bᵀ y, the inverse of [`Self::colour`].
    pub fn whiten(&self, y: &[f64]) -> Vec<f64> {
        let n = self.n();
        let along = |k: usize| match self {
            Self::Full { axes, .. } => dot(&axes[k * n..(k + 1) * n], y),
            Self::Diagonal { .. } => y[k],
        };
        self.lengths()
            .iter()
            .enumerate()
            .map(|(k, length)| along(k) / length)
            .collect()
    }

    /// B w: from the coordinates of the axes to those of the space; C^(-1/2) y = B z for y = B D z.
    pub fn turn(&self, w: &[f64]) -> Vec<f64> {
        match self {
            Self::Full { axes, .. } => {
                let mut y = vec![0.0; w.len()];
                for (&w, axis) in w.iter().zip(axes.chunks_exact(y.len())) {
                    add_scaled(&mut y, w, axis);
                }
                y
            }
            Self::Diagonal { .. } => w.to_vec(),
        }
    }

    /// C ← `keep` C + Σ weight · v vᵀ.
    pub fn update(&mut self, keep: f64, terms: &[(f64, &[f64])]) {
        match self {
            Self::Full { lower, age, .. } => {
                let mut rest = lower.as_mut_slice();
                let mut i = 0;
                while !rest.is_empty() {
                    let (row, tail) = rest.split_at_mut(i + 1);
                    row.iter_mut().for_each(|c| *c *= keep);
                    for (weight, v) in terms {
                        add_scaled(row, weight * v[i], v);
                    }
                    rest = tail;
                    i += 1;
                }
                *age += 1;
            }
            Self::Diagonal { variances, lengths } => {
                for (i, (variance, length)) in variances.iter_mut().zip(lengths).enumerate() {
                    *variance = terms
                        .iter()
                        .fold(*variance * keep, |sum, (weight, v)| sum + weight * v[i] * v[i]);
                    *length = variance.sqrt();
                }
            }
        }
    }

    /// Decomposes C again if the axes are at least `gap` updates old.
    pub fn refresh(&mut self, gap: u64) -> Result<(), Degenerate> {
        let n = self.n();
        match self {
            Self::Full {
                lower,
                axes,
                lengths,
                age,
            } if *age >= gap => {
                let found = eigen::decompose(n, lower).ok_or(Degenerate)?;
                let largest = found.values.iter().copied().fold(0.0, f64::max);
                // Rounding can push the smallest eigenvalues of an ill-conditioned C below zero.
                let floor = (largest * 1e-30).max(f64::MIN_POSITIVE);
                *lengths = found.values.iter().map(|value| value.max(floor).sqrt()).collect();
                *axes = found.vectors;
                *age = 0;
                Ok(())
            }
            Self::Full { .. } => Ok(()),
            Self::Diagonal { variances, .. } => variances
                .iter()
                .all(|v| v.is_finite() && *v > 0.0)
                .then_some(())
                .ok_or(Degenerate),
        }
    }

    /// Multiplies coordinate i by `factor`: row and column i of C. A full matrix must be refreshed afterwards.
    pub fn scale_coordinate(&mut self, i: usize, factor: f64) {
        let n = self.n();
        match self {
            Self::Full { lower, age, .. } => {
                (0..=i).for_each(|j| lower[packed(i, j)] *= factor);
                (i..n).for_each(|k| lower[packed(k, i)] *= factor); // the diagonal twice, as it should be
                *age += 1;
            }
            Self::Diagonal { variances, lengths } => {
                variances[i] *= factor * factor;
                lengths[i] = variances[i].sqrt();
            }
        }
    }

    /// Mirrors coordinate i, an exact symmetry of C and its axes.
    pub fn flip_coordinate(&mut self, i: usize) {
        let n = self.n();
        if let Self::Full { lower, axes, .. } = self {
            (0..i).for_each(|j| lower[packed(i, j)] = -lower[packed(i, j)]);
            (i + 1..n).for_each(|k| lower[packed(k, i)] = -lower[packed(k, i)]);
            axes.chunks_exact_mut(n).for_each(|axis| axis[i] = -axis[i]);
        }
    }

    /// The ratio of the largest to the smallest eigenvalue.
    pub fn condition(&self) -> f64 {
        let (low, high) = self
            .lengths()
            .iter()
            .fold((f64::INFINITY, 0.0f64), |(low, high), &d| (low.min(d), high.max(d)));
        (high / low) * (high / low)
    }

    /// Multiplies C by `factor`; the axes stay as they are, only longer.
    pub fn scale(&mut self, factor: f64) {
        let root = factor.sqrt();
        match self {
            Self::Full {
                lower: variances,
                lengths,
                ..
            }
            | Self::Diagonal { variances, lengths } => {
                variances.iter_mut().for_each(|c| *c *= factor);
                lengths.iter_mut().for_each(|d| *d *= root);
            }
        }
    }

    /// Gives a diagonal matrix that is kept in full the correlations `[n, n]`; without effect where only a diagonal is kept.
    ///
    /// **Errors**: an entry is not finite; then nothing has changed.
    pub fn correlate(&mut self, correlations: &[f64]) -> Result<(), Degenerate> {
        let n = self.n();
        let before = self.clone();
        let stds: Vec<f64> = (0..n).map(|i| self.std(i)).collect();
        let Self::Full { lower, age, .. } = self else {
            return Ok(());
        };
        for i in 0..n {
            for j in 0..i {
                lower[packed(i, j)] = correlations[i * n + j] * stds[i] * stds[j];
            }
        }
        *age += 1;
        self.refresh(1).inspect_err(|_| *self = before)
    }

    /// C's entries as stored: the packed lower triangle, or the diagonal.
    pub fn entries(&self) -> &[f64] {
        match self {
            Self::Full { lower: entries, .. } | Self::Diagonal { variances: entries, .. } => entries,
        }
    }

    /// Replaces C's entries, in the layout of [`Self::entries`]. A full matrix must be refreshed afterwards.
    pub fn set_entries(&mut self, entries: Vec<f64>) {
        match self {
            Self::Full { lower, age, .. } => {
                *lower = entries;
                *age += 1;
            }
            Self::Diagonal { variances, lengths } => {
                *lengths = entries.iter().map(|v| v.sqrt()).collect();
                *variances = entries;
            }
        }
    }

    /// True when the parts of a loaded matrix fit each other.
    pub fn is_consistent(&self, n: usize) -> bool {
        match self {
            Self::Full {
                lower, axes, lengths, ..
            } => lower.len() == packed(n, 0) && axes.len() == n * n && lengths.len() == n,
            Self::Diagonal { variances, lengths } => variances.len() == n && lengths.len() == n,
        }
    }
}

/// Where entry (i, j), j ≤ i, stands in a packed lower triangle; `packed(n, 0)` is the length of the triangle.
pub fn packed(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12)
    }

    /// C = [[4, 2], [2, 3]] out of a diagonal one by two rank-one terms.
    fn two_by_two() -> Covariance {
        let mut c = Covariance::full(&[1.0, 1.0]);
        c.update(1.0, &[(2.0, &[1.0, 1.0]), (1.0, &[1.0, 0.0])]);
        c.refresh(1).unwrap();
        c
    }

    #[test]
    fn update_and_decomposition_by_hand() {
        let c = two_by_two();
        assert!(close(c.entries(), &[4.0, 2.0, 3.0]));
        let product: f64 = c.lengths().iter().map(|d| d * d).product();
        let sum: f64 = c.lengths().iter().map(|d| d * d).sum();
        assert!((product - 8.0).abs() < 1e-12 && (sum - 7.0).abs() < 1e-12); // determinant and trace
    }

    #[test]
    fn correlations_fill_a_full_matrix_alone() {
        let mut c = Covariance::full(&[2.0, 3.0]);
        c.correlate(&[1.0, 0.5, 0.5, 1.0]).unwrap();
        assert!(close(c.entries(), &[4.0, 3.0, 9.0]));
        assert_eq!((c.entry(0, 1), c.entry(1, 0), c.entry(1, 1)), (3.0, 3.0, 9.0));
        let z = [0.3, -1.7];
        assert!(close(&c.whiten(&c.colour(&z)), &z));
        let mut d = Covariance::diagonal(&[2.0, 3.0]);
        d.correlate(&[1.0, 0.5, 0.5, 1.0]).unwrap();
        assert_eq!((d.entry(1, 0), d.entry(1, 1)), (0.0, 9.0));
        let whole = c.clone();
        assert_eq!(c.correlate(&[1.0, f64::NAN, f64::NAN, 1.0]), Err(Degenerate));
        assert_eq!(c, whole);
    }

    #[test]
    fn whitening_undoes_colouring() {
        for c in [two_by_two(), Covariance::diagonal(&[2.0, 0.5])] {
            let z = [0.3, -1.7];
            assert!(close(&c.whiten(&c.colour(&z)), &z));
        }
    }

    #[test]
    fn colouring_has_the_covariance_it_says() {
        let c = two_by_two();
        let (a, b) = (c.colour(&[1.0, 0.0]), c.colour(&[0.0, 1.0]));
        let entry = |i: usize, j: usize| a[i] * a[j] + b[i] * b[j];
        assert!(close(&[entry(0, 0), entry(1, 0), entry(1, 1)], &[4.0, 2.0, 3.0]));
    }

    #[test]
    fn scaling_and_flipping_a_coordinate() {
        let mut c = two_by_two();
        c.scale_coordinate(0, 0.5);
        assert!(close(c.entries(), &[1.0, 1.0, 3.0]));
        let mut c = two_by_two();
        let before = c.colour(&[0.4, 0.9]);
        c.flip_coordinate(1);
        assert!(close(c.entries(), &[4.0, -2.0, 3.0]));
        assert!(close(&c.colour(&[0.4, 0.9]), &[before[0], -before[1]]));
    }

    #[test]
    fn a_matrix_with_a_nan_is_degenerate() {
        let mut c = Covariance::full(&[1.0, 1.0]);
        c.update(1.0, &[(f64::NAN, &[1.0, 1.0])]);
        assert_eq!(c.refresh(1), Err(Degenerate));
        let mut c = Covariance::diagonal(&[1.0, 1.0]);
        c.update(-1.0, &[]);
        assert_eq!(c.refresh(1), Err(Degenerate));
    }
}
