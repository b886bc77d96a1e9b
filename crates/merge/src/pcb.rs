//! PCB: parameter competition balancing.
//!
//! Source: Du et al. 2024, arXiv:2410.02396, section 4. Per task k, over the flattened task vector of the whole model:
//!
//! * aₖ = N(|τₖ| clamped to its 1 % and 99 % quantiles), N the min-max map to [0, 1];
//! * intra (eq. 1): exp(K · aₖ²), the paper's softmax up to a factor that N removes below;
//! * inter (eq. 2): Σⱼ tanh(tₖ · tⱼ), tₖ = sign(τₖ) aₖ;
//! * βₖ = intra · inter; the entries below the (1 − ratio) quantile drop out (eq. 3);
//! * sₖ = N(β) of the rest, counted from that quantile;
//! * θ = base + Σ λₖ sₖ τₖ / max(Σ sₖ, 1e-12) (eq. 4).
//!
//! The paper's code holds three variants of inter; this is the one with a tanh for each pair. A quantile q of n values is
//! the one at floor(q · (n − 1)) of their order; each needs two passes over the model, as a two-level histogram.

use serde::Serialize;

use super::{
    parents::{Parents, Refusal, vectors},
    view::Target,
};

/// The parameters of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Competition {
    pub weights: Vec<f32>,
    pub ratio: f64,
}

/// Quantile at which magnitudes are clamped, at both ends.
const CLAMP: f64 = 0.01;

/// What is known of one task vector once the whole model has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Range {
    /// Clamped magnitudes.
    pub low: f32,
    pub high: f32,
    /// β at the (1 − ratio) quantile, and the largest β.
    pub cut: f32,
    pub top: f32,
}

pub(crate) type Measured = Vec<Range>;

/// tₖ of one position.
#[inline(always)]
fn signed_share(tau: f32, range: &Range) -> f32 {
    let span = range.high - range.low;
    let share = if span > 0.0 {
        (tau.abs().clamp(range.low, range.high) - range.low) / span
    } else {
        0.0
    };
    if tau < 0.0 { -share } else { share }
}

/// β of every task at one position.
fn scores(taus: &[&[f32]], i: usize, ranges: &[Range], out: &mut [f32]) {
    let count = taus.len() as f32;
    for k in 0..taus.len() {
        let t = signed_share(taus[k][i], &ranges[k]);
        let inter: f32 = (0..taus.len())
            .map(|j| libm::tanhf(t * signed_share(taus[j][i], &ranges[j])))
            .sum();
        out[k] = libm::expf(count * t * t) * inter;
    }
}

pub(crate) fn merge(
    parents: &Parents<'_>,
    competition: &Competition,
    measured: Option<&Measured>,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let (Some(base), Some(ranges)) = (parents.base, measured) else {
        return Ok(false);
    };
    let models = parents.models();
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, scratch, out| {
            let taus = vectors(chunks, &models, parents.base, scratch);
            let mut beta = vec![0.0f32; taus.len()];
            for (i, (o, b)) in out.iter_mut().zip(chunks[base]).enumerate() {
                scores(&taus, i, ranges, &mut beta);
                let (mut sum, mut divisor) = (0.0f32, 0.0f32);
                for (k, range) in ranges.iter().enumerate() {
                    let s = survival(beta[k], range);
                    sum += competition.weights[k] * s * taus[k][i];
                    divisor += s;
                }
                *o = b + sum / divisor.max(1e-12);
            }
        },
    ))
}

/// sₖ: 0 below the cut, then linear up to 1 at the largest β.
fn survival(beta: f32, range: &Range) -> f32 {
    let span = range.top - range.cut;
    if beta < range.cut || span <= 0.0 {
        return 0.0;
    }
    (beta - range.cut) / span
}

/// Calls its argument with the parents of each tensor of the model, in a fixed order.
pub(crate) type Visit<'a, E> = dyn FnMut(&mut dyn FnMut(&Parents<'_>)) -> Result<(), E> + 'a;

/// Measures the whole model.
pub(crate) fn measure<E>(tasks: usize, ratio: f64, visit: &mut Visit<'_, E>) -> Result<Measured, E> {
    let mut ranges = vec![Range::default(); tasks];
    let magnitude = |taus: &[&[f32]], i: usize, _: &[Range], out: &mut [f32]| {
        for (o, tau) in out.iter_mut().zip(taus) {
            *o = tau[i].abs();
        }
    };
    let bounds = quantiles(tasks, &[CLAMP, 1.0 - CLAMP], &ranges, &magnitude, visit)?;
    for (range, bounds) in ranges.iter_mut().zip(bounds) {
        (range.low, range.high) = (bounds[0], bounds[1]);
    }
    let cuts = quantiles(tasks, &[1.0 - ratio, 1.0], &ranges, &scores, visit)?;
    for (range, cuts) in ranges.iter_mut().zip(cuts) {
        (range.cut, range.top) = (cuts[0], cuts[1]);
    }
    Ok(ranges)
}

const HALF: usize = 1 << 16;

/// Bits that order as the floats do, negative ones too.
fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

fn from_ordered(bits: u32) -> f32 {
    f32::from_bits(if bits >> 31 == 1 { bits & 0x7fff_ffff } else { !bits })
}

type Score<'a> = dyn Fn(&[&[f32]], usize, &[Range], &mut [f32]) + Sync + 'a;

/// For each task, the values at floor(q · (n − 1)) of the order of its scores.
fn quantiles<E>(
    tasks: usize,
    wanted: &[f64],
    ranges: &[Range],
    score: &Score<'_>,
    visit: &mut Visit<'_, E>,
) -> Result<Vec<Vec<f32>>, E> {
    // First the upper halves of the bits, then the lower halves within each bin that was hit.
    let mut upper = vec![vec![0u64; HALF]; tasks];
    count(&mut upper, ranges, score, visit, &|_, bits| Some((bits >> 16) as usize))?;
    let places: Vec<Vec<(usize, u64)>> = upper
        .iter()
        .map(|bins| {
            let n: u64 = bins.iter().sum();
            let index = |q: &f64| (q * n.saturating_sub(1) as f64) as u64;
            wanted.iter().map(|q| find(bins, index(q))).collect()
        })
        .collect();
    let mut found = vec![Vec::new(); tasks];
    #[allow(clippy::needless_range_loop)] // the second index of `places`
    for which in 0..wanted.len() {
        let mut lower = vec![vec![0u64; HALF]; tasks];
        count(&mut lower, ranges, score, visit, &|task, bits| {
            let inside = (bits >> 16) as usize == places[task][which].0;
            inside.then_some((bits & 0xffff) as usize)
        })?;
        for task in 0..tasks {
            let (bin, rest) = places[task][which];
            let (low, _) = find(&lower[task], rest);
            found[task].push(from_ordered((bin as u32) << 16 | low as u32));
        }
    }
    Ok(found)
}

/// The bin that holds entry `index`, and the index within it.
fn find(bins: &[u64], index: u64) -> (usize, u64) {
    let mut below = 0;
    for (bin, count) in bins.iter().enumerate() {
        if below + count > index {
            return (bin, index - below);
        }
        below += count;
    }
    (0, 0)
}

type Bin<'a> = dyn Fn(usize, u32) -> Option<usize> + Sync + 'a;

fn count<E>(
    bins: &mut [Vec<u64>],
    ranges: &[Range],
    score: &Score<'_>,
    visit: &mut Visit<'_, E>,
    bin: &Bin<'_>,
) -> Result<(), E> {
    let tasks = bins.len();
    visit(&mut |parents| {
        let models = parents.models();
        let parts = parents.inputs.fold(
            || vec![vec![0u32; HALF]; tasks],
            #[inline(always)]
            |bins, _, chunks, scratch| {
                let taus = vectors(chunks, &models, parents.base, scratch);
                let mut values = vec![0.0f32; tasks];
                for i in 0..taus[0].len() {
                    score(&taus, i, ranges, &mut values);
                    for (task, value) in values.iter().enumerate() {
                        if let Some(at) = bin(task, ordered(*value)) {
                            bins[task][at] += 1;
                        }
                    }
                }
            },
        );
        for part in parts {
            for (total, part) in bins.iter_mut().zip(part) {
                for (t, p) in total.iter_mut().zip(part) {
                    *t += u64::from(p);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{noise, run};
    use super::super::view::{Inputs, View};
    use super::*;
    use std::convert::Infallible;

    /// The definition, transcribed, in f64 and with sorting.
    fn by_definition(base: &[f32], models: &[Vec<f32>], weights: &[f32], ratio: f64) -> Vec<f64> {
        let n = base.len();
        let quantile = |values: &[f64], q: f64| {
            let mut v = values.to_vec();
            v.sort_by(f64::total_cmp);
            v[(q * (n - 1) as f64) as usize]
        };
        let taus: Vec<Vec<f64>> = models
            .iter()
            .map(|m| (0..n).map(|i| f64::from(m[i] - base[i])).collect())
            .collect();
        let t: Vec<Vec<f64>> = taus
            .iter()
            .map(|tau| {
                let magnitudes: Vec<f64> = tau.iter().map(|x| x.abs()).collect();
                let (low, high) = (quantile(&magnitudes, 0.01), quantile(&magnitudes, 0.99));
                tau.iter()
                    .map(|x| x.signum() * (x.abs().clamp(low, high) - low) / (high - low))
                    .collect()
            })
            .collect();
        let count = models.len() as f64;
        let s: Vec<Vec<f64>> = (0..models.len())
            .map(|k| {
                let beta: Vec<f64> = (0..n)
                    .map(|i| {
                        let inter: f64 = t.iter().map(|tj| (t[k][i] * tj[i]).tanh()).sum();
                        (count * t[k][i] * t[k][i]).exp() * inter
                    })
                    .collect();
                let (cut, top) = (quantile(&beta, 1.0 - ratio), quantile(&beta, 1.0));
                beta.iter()
                    .map(|b| if *b < cut { 0.0 } else { (b - cut) / (top - cut) })
                    .collect()
            })
            .collect();
        (0..n)
            .map(|i| {
                let sum: f64 = (0..models.len())
                    .map(|k| f64::from(weights[k]) * s[k][i] * taus[k][i])
                    .sum();
                let divisor: f64 = s.iter().map(|s| s[i]).sum();
                f64::from(base[i]) + sum / divisor.max(1e-12)
            })
            .collect()
    }

    #[test]
    fn as_defined() {
        let n = 500;
        let base = noise(1, n);
        let models = vec![noise(2, n), noise(3, n), noise(4, n)];
        let (weights, ratio) = ([1.0, 0.8, 1.2], 0.15);
        let mut views: Vec<View<'_>> = vec![View::F32(&base)];
        views.extend(models.iter().map(|m| View::F32(m)));
        // The whole model in two tensors.
        let parts: Vec<Inputs<'_>> = [(0, 200), (200, n)]
            .iter()
            .map(|(from, to)| {
                let cut = |v: &Vec<f32>| v[*from..*to].to_vec().leak() as &[f32];
                let mut views = vec![View::F32(cut(&base))];
                views.extend(models.iter().map(|m| View::F32(cut(m))));
                Inputs::new(views)
            })
            .collect();
        let mut visit = |f: &mut dyn FnMut(&Parents<'_>)| {
            for inputs in &parts {
                let shape = [inputs.len()];
                f(&Parents {
                    inputs: inputs.clone(),
                    grams: Vec::new(),
                    base: Some(0),
                    shape: &shape,
                    cache: None,
                });
            }
            Ok::<(), Infallible>(())
        };
        let measured = measure(3, ratio, &mut visit).unwrap();
        let slices: Vec<&[f32]> = std::iter::once(&base).chain(&models).map(Vec::as_slice).collect();
        let competition = Competition {
            weights: weights.to_vec(),
            ratio,
        };
        let out = run(&slices, Some(0), |p, out| merge(p, &competition, Some(&measured), out)).unwrap();
        let expected = by_definition(&base, &models, &weights, ratio);
        for i in 0..n {
            assert!(
                (f64::from(out[i]) - expected[i]).abs() < 2e-5,
                "{i}: {} {}",
                out[i],
                expected[i]
            );
        }
        assert!(out.iter().zip(&base).filter(|(o, b)| o != b).count() > n / 10);
    }

    #[test]
    fn order_of_bits_is_order_of_values() {
        let values = [f32::NEG_INFINITY, -2.0, -1e-30, 0.0, 1e-30, 1.5];
        assert!(values.windows(2).all(|w| ordered(w[0]) < ordered(w[1])));
        assert!(values.iter().all(|v| from_ordered(ordered(*v)) == *v));
    }
}
