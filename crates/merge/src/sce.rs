//! SCE: select the positions where the models differ most, calculate weights from energy, erase minority signs.
//!
//! Source: Wan et al. 2024, FuseChat-3.0, arXiv:2408.07990, section 3.2. Kept are the int(k · nonzero) positions of
//! largest variance over the models, ties by the lower index; weights are each task vector's mean square after that, over
//! their sum (uniform where the sum is below 1e-6, as in mergekit); then TIES' election and Σ w τ / max(Σ w, 1e-6).

use std::cmp::Reverse;

use super::{
    magnitude::{Cut, share},
    parents::{Parents, Refusal, vectors},
    view::{CHUNK, Target, dot},
};

pub(crate) fn merge(parents: &Parents<'_>, select_topk: f64, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let models = parents.models();
    if models.is_empty() {
        return Ok(out.fill(&parents.whole(base)));
    }
    let variances = (select_topk < 1.0).then(|| variances(parents, &models));
    let cut = variances
        .as_ref()
        .map_or(Cut::Everything, |v| selection(v, select_topk));
    let kept = |start: usize, i: usize| match &variances {
        Some(v) => cut.keeps(start + i, v[start + i]),
        None => true,
    };
    let weights = weights(parents, &models, &kept);
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |start, chunks, scratch, out| {
            let taus = vectors(chunks, &models, parents.base, scratch);
            for (i, (o, b)) in out.iter_mut().zip(chunks[base]).enumerate() {
                let tau = |k: usize| if kept(start, i) { taus[k][i] } else { 0.0 };
                let elected: f32 = (0..taus.len()).map(tau).sum();
                let (mut sum, mut divisor) = (0.0f32, 0.0f32);
                for (k, w) in weights.iter().enumerate() {
                    let d = tau(k);
                    if (d > 0.0 && elected >= 0.0) || (d < 0.0 && elected < 0.0) {
                        sum += d * w;
                        divisor += w;
                    }
                }
                *o = b + sum / divisor.max(1e-6);
            }
        },
    ))
}

/// Biased variance over the models, for each position.
fn variances(parents: &Parents<'_>, models: &[usize]) -> Vec<f32> {
    let n = models.len() as f64;
    let parts = parents.inputs.each(
        #[inline(always)]
        |_, chunks, scratch| {
            let taus = vectors(chunks, models, parents.base, scratch);
            (0..taus[0].len())
                .map(|i| {
                    let mean = taus.iter().map(|t| f64::from(t[i])).sum::<f64>() / n;
                    let square = |t: &&[f32]| (f64::from(t[i]) - mean).powi(2);
                    (taus.iter().map(square).sum::<f64>() / n) as f32
                })
                .collect::<Vec<f32>>()
        },
    );
    parts.concat()
}

fn selection(variances: &[f32], select_topk: f64) -> Cut {
    let nonzero = variances.iter().filter(|v| **v != 0.0).count();
    let k = share(select_topk, nonzero);
    if k == 0 {
        return Cut::Nothing;
    }
    let mut order: Vec<(Reverse<u32>, usize)> = variances
        .iter()
        .enumerate()
        .map(|(i, v)| (Reverse(v.to_bits()), i))
        .collect();
    let (_, (Reverse(bits), last), _) = order.select_nth_unstable(k - 1);
    Cut::At {
        bits: *bits,
        last: *last,
    }
}

fn weights(parents: &Parents<'_>, models: &[usize], kept: &(impl Fn(usize, usize) -> bool + Sync)) -> Vec<f32> {
    let n = parents.len().max(1) as f64;
    let energies = parents.inputs.each(
        #[inline(always)]
        |start, chunks, scratch| {
            let taus = vectors(chunks, models, parents.base, scratch);
            let mut place = [0.0f32; CHUNK];
            taus.iter()
                .map(|tau| {
                    let selected = &mut place[..tau.len()];
                    for (i, (s, t)) in selected.iter_mut().zip(*tau).enumerate() {
                        *s = if kept(start, i) { *t } else { 0.0 };
                    }
                    dot(selected, selected)
                })
                .collect::<Vec<f64>>()
        },
    );
    let mut mean_squares = vec![0.0; models.len()];
    for part in energies {
        for (m, p) in mean_squares.iter_mut().zip(part) {
            *m += p / n;
        }
    }
    let total: f64 = mean_squares.iter().sum();
    let uniform = 1.0 / models.len() as f64;
    mean_squares
        .iter()
        .map(|m| if total < 1e-6 { uniform } else { m / total } as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::super::view::{Inputs, View};
    use super::*;

    #[test]
    fn by_hand() {
        let (base, a, b) = ([0.0; 4], [3.0, 1.0, -1.0, 2.0], [1.0, 1.0, 2.0, 2.0]);
        let sce = |k| run(&[&base, &a, &b], Some(0), |p, out| merge(p, k, out)).unwrap();
        // Mean squares 15/4 and 10/4: weights 0.6 and 0.4. Third position: −1 is outvoted by 2.
        let out = sce(1.0);
        let expected = [3.0 * 0.6 + 0.4, 1.0, 2.0, 2.0];
        assert!(out.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6), "{out:?}");
        // Variances 1, 0, 2.25, 0: two vary, half of them is the third position; mean squares 1/4 and 4/4.
        assert_eq!(sce(0.5), [0.0, 0.0, 2.0, 0.0]);
        assert_eq!(sce(0.1), [0.0; 4]);
    }

    #[test]
    fn small_energies_weigh_alike() {
        let out = run(&[&[0.0], &[1e-4], &[3e-4]], Some(0), |p, out| merge(p, 1.0, out)).unwrap();
        assert!((out[0] - 2e-4).abs() < 1e-9);
    }

    #[test]
    fn views_of_nothing() {
        assert_eq!(Inputs::new(vec![View::F32(&[])]).len(), 0);
        assert_eq!(run(&[&[], &[]], Some(0), |p, out| merge(p, 0.5, out)), Ok(vec![]));
    }
}
