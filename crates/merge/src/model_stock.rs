//! Model Stock: between the base and the mean of the models, as far as the angle between their task vectors allows.
//!
//! Source: Jang et al. 2024, arXiv:2403.19522, eq. 6: t = N cos θ / (1 + (N − 1) cos θ) for N models, cos θ the mean of the
//! pairs' cosines; θ = t · mean + (1 − t) · base. One angle for the tensor, or for each row (`filter_wise`). Norm products
//! are at least 1e-6, and where the denominator vanishes the base stays (mergekit).

use super::{
    parents::{Parents, Refusal, gram_of},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, filter_wise: bool, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let models = parents.models();
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let count = models.len() as f32;
    let (rows, width) = parents.rows();
    let shares = if filter_wise && rows > 1 {
        row_shares(parents, &models, width)
    } else {
        vec![share(&parents.gram(), models.len())]
    };
    let whole = shares.len() == 1;
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |start, chunks, _, out| {
            for (i, (o, b)) in out.iter_mut().zip(chunks[base]).enumerate() {
                let t = if whole { shares[0] } else { shares[(start + i) / width] };
                let sum: f32 = models.iter().map(|k| chunks[*k][i]).sum();
                *o = t * (sum / count) + (1.0 - t) * b;
            }
        },
    ))
}

fn row_shares(parents: &Parents<'_>, models: &[usize], width: usize) -> Vec<f32> {
    let vectors: Vec<Vec<f32>> = models.iter().map(|k| parents.task_vector(*k)).collect();
    (0..parents.len() / width)
        .map(|row| {
            let lines: Vec<&[f32]> = vectors.iter().map(|v| &v[row * width..(row + 1) * width]).collect();
            share(&gram_of(&lines), lines.len())
        })
        .collect()
}

/// t of equation 6.
fn share(gram: &[f64], n: usize) -> f32 {
    let mut cosines = Vec::new();
    for i in 0..n {
        for j in i + 1..n {
            let norms = (gram[i * n + i] * gram[j * n + j]).sqrt().max(1e-6);
            cosines.push((gram[i * n + j] / norms).clamp(-1.0, 1.0));
        }
    }
    let cos = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let denominator = 1.0 + (n - 1) as f64 * cos;
    if denominator.abs() < 1e-6 {
        return 0.0;
    }
    (n as f64 * cos / denominator) as f32
}

#[cfg(test)]
mod tests {
    use super::super::testing::run_shaped;
    use super::*;

    #[test]
    fn by_hand() {
        let (base, a, b) = ([0.0; 4], [1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]);
        let stock = |wise| run_shaped(&[&base, &a, &b], Some(0), &[2, 2], |p, out| merge(p, wise, out)).unwrap();
        // cos = 1/√3, t = 2 cos / (1 + cos)
        let cos = 1.0 / 3.0f32.sqrt();
        let t = 2.0 * cos / (1.0 + cos);
        let expected = [t, 0.0, t / 2.0, t / 2.0];
        assert!(stock(false).iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6));
        // First row: cos = 1, t = 1. Second row: b has no direction, cos = 0, t = 0.
        assert_eq!(stock(true), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn opposite_vectors_leave_the_base() {
        let out = run_shaped(&[&[1.0], &[2.0], &[0.0]], Some(0), &[1], |p, out| merge(p, false, out));
        assert_eq!(out, Ok(vec![1.0]));
    }
}
