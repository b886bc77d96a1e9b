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
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |start, chunks, _, out| {
            let scores = &importance[start..];
            for (((o, b), x), s) in out.iter_mut().zip(chunks[base]).zip(chunks[other]).zip(scores) {
                *o = if *s >= threshold { b + (x - b) } else { *b };
            }
        },
    ))
}

fn importance(parents: &Parents<'_>, other: usize, base: usize) -> Vec<f32> {
    let (_, width) = parents.rows();
    let (x, b) = (parents.whole(other), parents.whole(base));
    let mut scores = vec![0.0f32; parents.len()];
    scores
        .par_chunks_mut(width)
        .zip(x.par_chunks(width).zip(b.par_chunks(width)))
        .for_each(|(scores, (x, b))| {
            let divergence = divergence(x, b);
            for ((s, x), b) in scores.iter_mut().zip(x).zip(b) {
                *s = (x - b).abs() * divergence;
            }
        });
    scores
}

/// KL(softmax(x) ‖ softmax(b)), with 1e-8 added to every probability.
///
/// Two rows of close models diverge by little more than f32's own error, and that error decides which entries pass the
/// threshold. So the f32 operations and their order are those of the reference implementation's tensor library.
fn divergence(x: &[f32], b: &[f32]) -> f32 {
    let (p, q) = (softmax(x), softmax(b));
    let terms: Vec<f32> = p.iter().zip(&q).map(|(p, q)| p * libm::logf(p / q)).collect();
    cascade_sum(&terms)
}

/// softmax + 1e-8 in f32.
fn softmax(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = row.iter().map(|v| exp(v - top)).collect();
    let inverse = 1.0 / lane_sum(&powers);
    powers.iter().map(|p| p * inverse + 1e-8).collect()
}

/// eˣ to one unit in the last place: x = q ln 2 + s, a polynomial of degree 7 in s (as in SLEEF's `expf`).
fn exp(x: f32) -> f32 {
    let q = (x * std::f32::consts::LOG2_E).round_ties_even();
    let s = q.mul_add(-0.693_145_75, x);
    let s = q.mul_add(-1.428_606_8e-6, s);
    let polynomial = [1.393_043_6e-3, 8.333_361e-3, 4.166_648_5e-2, 1.666_666_7e-1, 0.5];
    let u = polynomial.iter().fold(1.985_276_2e-4_f32, |u, c| u.mul_add(s, *c));
    let u = 1.0 + (s * s).mul_add(u, s);
    u * libm::exp2f(q)
}

/// Sum over 16 lanes, which are then added pairwise; fewer than 16 values one after the other.
fn lane_sum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    if values.len() < LANES {
        return values.iter().sum();
    }
    let mut lanes = [0.0f32; LANES];
    lanes.copy_from_slice(&values[..LANES]);
    for chunk in values[LANES..].chunks(LANES) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Cascade sum: four accumulators of eight lanes on four levels; the carry to the next level comes after 2ⁿ additions.
fn cascade_sum(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const WAYS: usize = 4;
    const LEVELS: usize = 4;
    type Lanes = [[f32; LANES]; WAYS];
    let add = |a: &mut Lanes, b: &Lanes| {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a += b;
        }
    };
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (groups, odd) = vectors.as_chunks::<WAYS>();
    let log = groups.len().max(1).next_power_of_two().trailing_zeros() as usize;
    let power = (log / LEVELS).max(4);
    let mut levels = [[[0.0f32; LANES]; WAYS]; LEVELS];
    for (i, group) in groups.iter().enumerate() {
        add(&mut levels[0], group);
        let added = i + 1;
        if added % (1 << power) != 0 {
            continue;
        }
        for level in 1..LEVELS {
            let below = std::mem::take(&mut levels[level - 1]);
            add(&mut levels[level], &below);
            if added & (((1 << power) - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut sums, upper @ ..] = levels;
    upper.iter().for_each(|level| add(&mut sums, level));
    let [first, others @ ..] = &mut sums;
    for vector in odd.iter().chain(&*others) {
        for (lane, v) in first.iter_mut().zip(vector) {
            *lane += v;
        }
    }
    rest.iter().chain(&*first).fold(0.0, |sum, v| sum + v)
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
        let out = run(&[&base, &x], Some(0), merge).unwrap();
        // Importances are in proportion to |x|: quartiles all 0.1, so the threshold is 0.1 and all is taken.
        assert_eq!(out, x);
        let x = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 5.0];
        let out = run(&[&base, &x], Some(0), merge).unwrap();
        // q1, median, q3 = entries 1, 3, 5 → 0.4 + 1.5 · 0.4 = 1.0
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0]);
    }

    #[test]
    fn sums_and_powers_are_right() {
        for n in [0, 1, 7, 31, 64, 1000, 20_000] {
            let values: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 3.0).collect();
            let exact: f32 = values.iter().sum();
            assert_eq!(cascade_sum(&values), exact);
            assert_eq!(lane_sum(&values), exact);
        }
        for x in [-20.0f32, -1.0, -0.1, -1e-6, 0.0] {
            assert!((exp(x) / x.exp() - 1.0).abs() < 2e-7);
        }
    }

    #[test]
    fn equal_models_and_empty_tensors() {
        let same = [1.0, 2.0];
        assert_eq!(run(&[&same, &same], Some(0), merge), Ok(same.to_vec()));
        let none = run_shaped(&[&[], &[]], Some(0), &[0, 3], merge);
        assert_eq!(none, Ok(vec![]));
    }
}
