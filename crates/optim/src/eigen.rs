//! Eigenvalues and eigenvectors of a symmetric matrix: Householder tridiagonalisation, then implicit QL.
//!
//! Our own and scalar on purpose. Libraries choose their kernels by the processor they find at run time, so their last
//! bits differ from machine to machine; a search that is resumed elsewhere must not. All inner loops run over whole
//! rows (the eigenvectors are rows too), which the compiler vectorises without reordering a single sum.
//!
//! **Source**: Martin, Reinsch & Wilkinson (1968) and Bowdler et al. (1968), the `tred2`/`tql2` pair of EISPACK.

/// The decomposition A = Σₖ values\[k\] · vectorₖ vectorₖᵀ; unordered.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    pub values: Vec<f64>,
    /// `[n, n]`, row k is the k-th eigenvector, of unit length.
    pub vectors: Vec<f64>,
}

/// Decomposes the symmetric matrix whose lower triangle is packed row by row in `lower` (length n(n+1)/2).
///
/// `None` when an entry is not finite, or when QL does not converge, which finite input has never been seen to cause.
pub fn decompose(n: usize, lower: &[f64]) -> Option<Eigen> {
    let scale = lower.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    if !lower.iter().all(|x| x.is_finite()) {
        return None;
    }
    if scale == 0.0 {
        return Some(Eigen {
            values: vec![0.0; n],
            vectors: identity(n),
        });
    }
    let mut matrix = unpack(n, lower, 1.0 / scale);
    let (mut diagonal, mut off_diagonal, reflectors) = tridiagonalise(n, &mut matrix);
    let mut vectors = transposed_product(n, &reflectors);
    implicit_ql(&mut diagonal, &mut off_diagonal, &mut vectors)?;
    diagonal.iter_mut().for_each(|value| *value *= scale);
    Some(Eigen {
        values: diagonal,
        vectors,
    })
}

fn identity(n: usize) -> Vec<f64> {
    let mut matrix = vec![0.0; n * n];
    matrix.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    matrix
}

fn unpack(n: usize, lower: &[f64], factor: f64) -> Vec<f64> {
    let mut matrix = vec![0.0; n * n];
    let mut packed = lower.iter();
    for i in 0..n {
        for j in 0..=i {
            let value = packed.next().copied().unwrap_or(0.0) * factor;
            matrix[i * n + j] = value;
            matrix[j * n + i] = value;
        }
    }
    matrix
}

/// `out += factor * row`, the one kernel that everything here is made of.
#[inline]
pub fn add_scaled(out: &mut [f64], factor: f64, row: &[f64]) {
    for (o, r) in out.iter_mut().zip(row) {
        *o += factor * r;
    }
}

/// The dot product, summed in eight fixed lanes.
#[inline]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h)) + tail
}

/// A Householder reflector I − beta v vᵀ that acts on the rows from `first` on.
struct Reflector {
    first: usize,
    beta: f64,
    v: Vec<f64>,
}

/// Reduces the matrix to QᵀAQ tridiagonal; gives the diagonal, the off-diagonal and Q's reflectors in order.
fn tridiagonalise(n: usize, matrix: &mut [f64]) -> (Vec<f64>, Vec<f64>, Vec<Reflector>) {
    let mut off_diagonal = vec![0.0; n];
    let mut reflectors = Vec::with_capacity(n.saturating_sub(2));
    for k in 0..n.saturating_sub(1) {
        let first = k + 1;
        let mut v: Vec<f64> = matrix[k * n + first..(k + 1) * n].to_vec(); // row k = column k by symmetry
        let below = dot(&v[1..], &v[1..]);
        let head = v[0];
        if below == 0.0 {
            off_diagonal[k] = head;
            continue;
        }
        let length = (head * head + below).sqrt();
        let alpha = if head > 0.0 { -length } else { length };
        off_diagonal[k] = alpha;
        v[0] = head - alpha;
        let beta = 2.0 / (v[0] * v[0] + below);
        // A ← A − v wᵀ − w vᵀ with p = beta A v and w = p − (beta/2 · vᵀp) v
        let m = n - first;
        let mut w = vec![0.0; m];
        for (i, &vi) in v.iter().enumerate() {
            add_scaled(&mut w, beta * vi, &matrix[(first + i) * n + first..(first + i + 1) * n]);
        }
        let half = 0.5 * beta * dot(&v, &w);
        add_scaled(&mut w, -half, &v);
        for i in 0..m {
            let (vi, wi) = (v[i], w[i]);
            let row = &mut matrix[(first + i) * n + first..(first + i + 1) * n];
            for ((a, vj), wj) in row.iter_mut().zip(&v).zip(&w) {
                *a -= vi * wj + wi * vj;
            }
        }
        reflectors.push(Reflector { first, beta, v });
    }
    let diagonal = (0..n).map(|i| matrix[i * n + i]).collect();
    (diagonal, off_diagonal, reflectors)
}

/// Qᵀ for Q = H₀ H₁ …, built backwards so that each reflector touches only the block below it.
fn transposed_product(n: usize, reflectors: &[Reflector]) -> Vec<f64> {
    let mut q = identity(n);
    for Reflector { first, beta, v } in reflectors.iter().rev() {
        let mut sums = vec![0.0; n - first];
        for (i, &vi) in v.iter().enumerate() {
            add_scaled(&mut sums, vi, &q[(first + i) * n + first..(first + i + 1) * n]);
        }
        for (i, &vi) in v.iter().enumerate() {
            add_scaled(&mut q[(first + i) * n + first..(first + i + 1) * n], -beta * vi, &sums);
        }
    }
    for i in 0..n {
        for j in 0..i {
            q.swap(i * n + j, j * n + i);
        }
    }
    q
}

/// Diagonalises the tridiagonal matrix in place and turns the rows of `vectors` along with it.
fn implicit_ql(diagonal: &mut [f64], off_diagonal: &mut [f64], vectors: &mut [f64]) -> Option<()> {
    const MAX_SWEEPS: usize = 100;
    let n = diagonal.len();
    let (d, e) = (diagonal, off_diagonal);
    let mut shift_sum = 0.0;
    let mut largest = 0.0f64;
    let mut rotations = Vec::with_capacity(n);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        let negligible = f64::EPSILON * largest;
        let m = (l..n - 1).find(|&m| e[m].abs() <= negligible).unwrap_or(n - 1);
        let mut sweeps = 0;
        while m > l && e[l].abs() > negligible {
            sweeps += 1;
            if sweeps > MAX_SWEEPS {
                return None;
            }
            // the implicit shift
            let g = d[l];
            let p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = (p * p + 1.0).sqrt().copysign(p);
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let next_diagonal = d[l + 1];
            let shift = g - d[l];
            d[l + 2..].iter_mut().for_each(|x| *x -= shift);
            shift_sum += shift;
            // the chase of the bulge
            let mut p = d[m];
            let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
            let (mut s, mut s2) = (0.0, 0.0);
            let next_off_diagonal = e[l + 1];
            rotations.clear();
            for i in (l..m).rev() {
                c3 = c2;
                c2 = c;
                s2 = s;
                let g = c * e[i];
                let h = c * p;
                let r = (p * p + e[i] * e[i]).sqrt();
                e[i + 1] = s * r;
                (s, c) = if r == 0.0 { (0.0, 1.0) } else { (e[i] / r, p / r) };
                p = c * d[i] - s * g;
                d[i + 1] = h + s * (c * g + s * d[i]);
                rotations.push((c, s));
            }
            rotate_rows(vectors, n, l, &rotations);
            p = -s * s2 * c3 * next_off_diagonal * e[l] / next_diagonal;
            e[l] = s * p;
            d[l] = c * p;
        }
        d[l] += shift_sum;
        e[l] = 0.0;
    }
    d.iter().all(|x| x.is_finite()).then_some(())
}

/// Applies a sweep of rotations to the rows from `first` on; the last rotation of the list comes first in space.
///
/// Row by row this would load and store every row twice. In strips of a few columns the row that two neighbouring
/// rotations share stays in registers.
fn rotate_rows(vectors: &mut [f64], n: usize, first: usize, rotations: &[(f64, f64)]) {
    const STRIP: usize = 32;
    let mut column = 0;
    while column + STRIP <= n {
        rotate_strip::<STRIP>(vectors, n, first, column, rotations);
        column += STRIP;
    }
    while column + 4 <= n {
        rotate_strip::<4>(vectors, n, first, column, rotations);
        column += 4;
    }
    while column < n {
        rotate_strip::<1>(vectors, n, first, column, rotations);
        column += 1;
    }
}

fn rotate_strip<const W: usize>(vectors: &mut [f64], n: usize, first: usize, column: usize, rotations: &[(f64, f64)]) {
    let read = |vectors: &[f64], row: usize| -> [f64; W] {
        std::array::from_fn(|w| vectors[row * n + column..row * n + column + W][w])
    };
    let mut carried = read(vectors, first + rotations.len());
    for (k, &(c, s)) in rotations.iter().enumerate() {
        let row = first + rotations.len() - 1 - k;
        let upper = read(vectors, row);
        let out = &mut vectors[(row + 1) * n + column..(row + 1) * n + column + W];
        for w in 0..W {
            out[w] = s * upper[w] + c * carried[w];
            carried[w] = c * upper[w] - s * carried[w];
        }
    }
    vectors[first * n + column..first * n + column + W].copy_from_slice(&carried);
}

#[cfg(test)]
mod tests {
    use super::super::chance::{Address, Stream};
    use super::*;

    fn random_lower(n: usize, seed: u64) -> Vec<f64> {
        Stream::at(
            seed,
            Address {
                restart: 0,
                generation: 0,
                index: n as u64,
            },
        )
        .normals(n * (n + 1) / 2)
    }

    /// The largest |A v − λ v| and |VVᵀ − I| over all entries.
    fn residuals(n: usize, lower: &[f64], eigen: &Eigen) -> (f64, f64) {
        let matrix = unpack(n, lower, 1.0);
        let row = |k: usize| &eigen.vectors[k * n..(k + 1) * n];
        let (mut equation, mut orthogonality) = (0.0f64, 0.0f64);
        for k in 0..n {
            for i in 0..n {
                equation = equation.max((dot(&matrix[i * n..(i + 1) * n], row(k)) - eigen.values[k] * row(k)[i]).abs());
                orthogonality = orthogonality.max((dot(row(i), row(k)) - f64::from(u8::from(i == k))).abs());
            }
        }
        (equation, orthogonality)
    }

    #[test]
    fn two_by_two_by_hand() {
        // [[2, 1], [1, 2]] has the eigenvalues 1 and 3 along (1, -1)/√2 and (1, 1)/√2.
        let mut values = decompose(2, &[2.0, 1.0, 2.0]).unwrap().values;
        values.sort_by(f64::total_cmp);
        assert!(
            (values[0] - 1.0).abs() < 1e-15 && (values[1] - 3.0).abs() < 1e-15,
            "{values:?}"
        );
    }

    #[test]
    fn random_matrices_of_many_sizes() {
        for n in [1, 2, 3, 4, 7, 10, 30, 65, 100] {
            let lower = random_lower(n, 3);
            let eigen = decompose(n, &lower).unwrap();
            let (equation, orthogonality) = residuals(n, &lower, &eigen);
            let tolerance = 1e-14 * (n as f64 + 10.0);
            assert!(
                equation < tolerance && orthogonality < tolerance,
                "{n}: {equation:e} {orthogonality:e}"
            );
        }
    }

    #[test]
    fn special_matrices() {
        let diagonal = decompose(3, &[4.0, 0.0, 5.0, 0.0, 0.0, 6.0]).unwrap();
        assert_eq!(diagonal.values, [4.0, 5.0, 6.0]);
        let ones = vec![1.0; 10]; // 4×4 of ones: eigenvalues 4, 0, 0, 0
        let eigen = decompose(4, &ones).unwrap();
        let (equation, orthogonality) = residuals(4, &ones, &eigen);
        assert!(equation < 1e-14 && orthogonality < 1e-14);
        assert_eq!(decompose(2, &[0.0; 3]).unwrap().values, [0.0, 0.0]);
        assert_eq!(decompose(2, &[1.0, f64::NAN, 1.0]), None);
        assert_eq!(decompose(0, &[]).unwrap().values, Vec::<f64>::new());
    }

    #[test]
    fn scales_far_from_one_do_no_harm() {
        for scale in [1e-200, 1e200] {
            let lower: Vec<f64> = random_lower(5, 8).iter().map(|x| x * scale).collect();
            let eigen = decompose(5, &lower).unwrap();
            let (equation, orthogonality) = residuals(5, &lower, &eigen);
            assert!(
                equation / scale < 1e-13 && orthogonality < 1e-13,
                "{scale:e}: {equation:e} {orthogonality:e}"
            );
        }
    }
}
