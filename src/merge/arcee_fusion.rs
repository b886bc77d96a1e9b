//! Arcee Fusion: take the other model's entries whose importance stands out, keep the base elsewhere.
//!
//! Source: Arcee AI (mergekit): importance = |τ| · KL(softmax(x) ‖ softmax(base)) of its row, taken where it is at least
//! median + 1.5 · interquartile range. Quantiles are the entries at floor(q · (n − 1)) of the sorted importances, over the
//! whole tensor (mergekit samples a million entries of larger ones), and 1e-8 is added to every probability.

use rayon::prelude::*;

use super::{
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let (Some(base), &[other]) = (parents.base, &parents.models()[..]) else {
        return Ok(false);
    };
    if parents.len() == 0 {
        return Ok(true);
    }
    let importance = importance(parents, other, base);
    let threshold = threshold(&importance);
    Ok(parents.inputs.write(out, |start, chunks, _, out| {
        let scores = &importance[start..];
        for (((o, b), x), s) in out.iter_mut().zip(chunks[base]).zip(chunks[other]).zip(scores) {
            *o = if *s >= threshold { b + (x - b) } else { *b };
        }
    }))
}

fn importance(parents: &Parents<'_>, other: usize, base: usize) -> Vec<f32> {
    let (_, width) = parents.rows();
    let (x, b) = (parents.whole(other), parents.whole(base));
    let mut scores = vec![0.0f32; parents.len()];
    scores
        .par_chunks_mut(width)
        .zip(x.par_chunks(width).zip(b.par_chunks(width)))
        .for_each(|(scores, (x, b))| {
            let divergence = divergence(x, b) as f32;
            for ((s, x), b) in scores.iter_mut().zip(x).zip(b) {
                *s = (x - b).abs() * divergence;
            }
        });
    scores
}

/// KL(softmax(x) ‖ softmax(b)), with 1e-8 added to every probability.
fn divergence(x: &[f32], b: &[f32]) -> f64 {
    let softmax = |row: &[f32]| -> Vec<f64> {
        let top = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let powers: Vec<f64> = row.iter().map(|v| libm::exp(f64::from(*v) - top)).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|p| p / sum + 1e-8).collect()
    };
    let (p, q) = (softmax(x), softmax(b));
    p.iter().zip(&q).map(|(p, q)| p * libm::log(p / q)).sum()
}

fn threshold(scores: &[f32]) -> f32 {
    let mut scores = scores.to_vec();
    let mut quantile = |quarters: usize| {
        let index = (scores.len() - 1) * quarters / 4;
        *scores.select_nth_unstable_by(index, f32::total_cmp).1
    };
    let (q1, median, q3) = (quantile(1), quantile(2), quantile(3));
    median + 1.5 * (q3 - q1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, run_shaped};
    use super::*;

    #[test]
    fn only_what_stands_out_is_taken() {
        let base = [0.0; 8];
        let x = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 5.0];
        let out = run(&[&base, &x], Some(0), |p, out| merge(p, out)).unwrap();
        // Importances are in proportion to |x|: quartiles all 0.1, so the threshold is 0.1 and all is taken.
        assert_eq!(out, x);
        let x = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 5.0];
        let out = run(&[&base, &x], Some(0), |p, out| merge(p, out)).unwrap();
        // q1, median, q3 = entries 1, 3, 5 → 0.4 + 1.5 · 0.4 = 1.0
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0]);
    }

    #[test]
    fn equal_models_and_empty_tensors() {
        let same = [1.0, 2.0];
        assert_eq!(run(&[&same, &same], Some(0), |p, out| merge(p, out)), Ok(same.to_vec()));
        let none = run_shaped(&[&[], &[]], Some(0), &[0, 3], |p, out| merge(p, out));
        assert_eq!(none, Ok(vec![]));
    }
}
