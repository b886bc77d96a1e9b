//! The Cholesky factor of a covariance matrix, which grows row by row, and what is solved with it.
//!
//! Our own and scalar, as `eigen.rs` is and for the same reason. A sum of products has eight partial sums, written out,
//! so that the compiler can vectorise it without reordering anything.
//!
//! **Source**: Golub & Van Loan (2013), Matrix Computations, §4.2.

/// The lower triangle L with A = L Lᵀ, row by row: row i has i + 1 entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cholesky {
    rows: Vec<Vec<f64>>,
}

const LANES: usize = 8;

/// Σ aᵢ bᵢ over the shorter of both, in one order that no processor changes.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let n = a.len().min(b.len());
    let whole = n - n % LANES;
    for (a, b) in a[..whole].chunks_exact(LANES).zip(b[..whole].chunks_exact(LANES)) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let rest = a[whole..n].iter().zip(&b[whole..n]);
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

impl Cholesky {
    /// Of the symmetric matrix whose lower triangle has these rows; `None` if it is not positive definite.
    pub fn of(lower: &[Vec<f64>]) -> Option<Self> {
        let mut factor = Self::default();
        lower.iter().all(|row| factor.grow(row)).then_some(factor)
    }

    /// One more row and column of the matrix: `row` is its row up to the diagonal. False, and nothing has changed, if the
    /// matrix would not be positive definite.
    pub fn grow(&mut self, row: &[f64]) -> bool {
        let n = self.rows.len();
        let mut new = self.half_solve(&row[..n]);
        let pivot = row[n] - dot(&new, &new);
        if !(pivot > 0.0 && pivot.is_finite()) {
            return false;
        }
        new.push(pivot.sqrt());
        self.rows.push(new);
        true
    }

    /// L⁻¹ b.
    pub fn half_solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x: Vec<f64> = Vec::with_capacity(b.len());
        for (i, row) in self.rows.iter().enumerate() {
            x.push((b[i] - dot(&row[..i], &x)) / row[i]);
        }
        x
    }

    /// L⁻ᵀ b.
    pub fn transposed_solve(&self, b: &[f64]) -> Vec<f64> {
        let mut x = b.to_vec();
        for (i, row) in self.rows.iter().enumerate().rev() {
            x[i] /= row[i];
            let known = x[i];
            x[..i].iter_mut().zip(row).for_each(|(x, l)| *x -= l * known);
        }
        x
    }

    /// A⁻¹ b.
    pub fn solve(&self, b: &[f64]) -> Vec<f64> {
        self.transposed_solve(&self.half_solve(b))
    }

    /// L z: of independent standard normal numbers one draw with covariance A.
    pub fn times(&self, z: &[f64]) -> Vec<f64> {
        self.rows.iter().map(|row| dot(row, z)).collect()
    }

    /// ln det A.
    pub fn ln_determinant(&self) -> f64 {
        let diagonal = self.rows.iter().filter_map(|row| row.last());
        2.0 * diagonal.map(|l| libm::log(*l)).sum::<f64>()
    }

    /// A⁻¹, `[n, n]`, both triangles.
    pub fn inverse(&self) -> Vec<Vec<f64>> {
        let n = self.rows.len();
        // Column j of L⁻¹, from its diagonal downwards.
        let column = |j: usize| {
            let mut x: Vec<f64> = Vec::with_capacity(n - j);
            x.push(1.0 / self.rows[j][j]);
            for row in &self.rows[j + 1..] {
                let i = row.len() - 1;
                x.push(-dot(&row[j..i], &x) / row[i]);
            }
            x
        };
        let columns: Vec<Vec<f64>> = (0..n).map(column).collect();
        let mut inverse = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in 0..=i {
                let entry = dot(&columns[i], &columns[j][i - j..]);
                inverse[i][j] = entry;
                inverse[j][i] = entry;
            }
        }
        inverse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lower triangle of a matrix that has 1 + n on the diagonal and 1/(1 + i + j) beside it.
    fn example(n: usize) -> Vec<Vec<f64>> {
        let entry = |i: usize, j: usize| match i == j {
            true => 1.0 + n as f64,
            false => 1.0 / (1.0 + i as f64 + j as f64),
        };
        (0..n).map(|i| (0..=i).map(|j| entry(i, j)).collect()).collect()
    }

    fn times(lower: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
        let entry = |i: usize, j: usize| if j <= i { lower[i][j] } else { lower[j][i] };
        let n = lower.len();
        (0..n).map(|i| (0..n).map(|j| entry(i, j) * x[j]).sum()).collect()
    }

    #[test]
    fn a_factor_by_hand() {
        // [[4, 2], [2, 5]] = L Lᵀ with L = [[2, 0], [1, 2]].
        let factor = Cholesky::of(&[vec![4.0], vec![2.0, 5.0]]).unwrap();
        assert_eq!(factor.rows, [vec![2.0], vec![1.0, 2.0]]);
        assert!((factor.ln_determinant() - 16f64.ln()).abs() < 1e-15);
        assert_eq!(factor.times(&[1.0, 1.0]), [2.0, 3.0]);
        // Its inverse: [[5, −2], [−2, 4]] / 16.
        assert_eq!(factor.inverse(), [[5.0 / 16.0, -2.0 / 16.0], [-2.0 / 16.0, 4.0 / 16.0]]);
    }

    #[test]
    fn solutions_and_inverses_give_the_right_side_back() {
        for n in [1, 7, 8, 9, 37] {
            let matrix = example(n);
            let factor = Cholesky::of(&matrix).unwrap();
            let b: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin()).collect();
            let close = |x: &[f64]| times(&matrix, x).iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close(&factor.solve(&b)), "{n}");
            let by_inverse: Vec<f64> = factor.inverse().iter().map(|row| dot(row, &b)).collect();
            assert!(close(&by_inverse), "{n}");
        }
    }

    #[test]
    fn what_has_no_factor_is_refused_and_leaves_the_rest_as_it_was() {
        let mut factor = Cholesky::of(&[vec![1.0]]).unwrap();
        for row in [[1.0, 1.0], [2.0, 1.0], [0.0, f64::NAN], [0.0, f64::INFINITY]] {
            assert!(!factor.grow(&row));
        }
        assert_eq!(factor.rows, [[1.0]]);
        assert!(factor.grow(&[0.5, 1.0]));
        assert_eq!(Cholesky::of(&[vec![-1.0]]), None);
    }
}
