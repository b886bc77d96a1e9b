//! SCE: select the positions where the models differ most, calculate weights from energy, erase minority signs.
//!
//! Source: Wan et al. 2024, FuseChat-3.0, arXiv:2408.07990, section 3.2. Kept are the int(k · nonzero) positions of
//! largest variance over the models, ties by the lower index; weights are each task vector's mean square after that, over
//! their sum (uniform where the sum is below 1e-6, as in mergekit); then TIES' election and Σ w τ / max(Σ w, 1e-6).

use super::{
    magnitude::{Cut, Measure, top_share_of_nonzero},
    parents::{Parents, Refusal, vectors},
    view::{CHUNK, Inputs, Target, dot},
};

pub(crate) fn merge(parents: &Parents<'_>, select_topk: f64, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let models = parents.models();
    if models.is_empty() {
        return Ok(out.fill(&parents.whole(base)));
    }
    let variances = Variances {
        inputs: &parents.inputs,
        base,
        models,
    };
    let cut = match select_topk < 1.0 {
        true => top_share_of_nonzero(&variances, select_topk),
        false => Cut::Everything,
    };
    let weights = weights(&variances, cut);
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |start, chunks, scratch, out| {
            variances.select(cut, start, chunks, scratch);
            let len = out.len();
            let taus = scratch.chunks(CHUNK).zip(&weights).map(|(tau, w)| (&tau[..len], *w));
            fuse(taus, chunks[base], out);
        },
    ))
}

/// base + Σ w τ / max(Σ w, 1e-6) over the task vectors whose sign is that of their sum.
#[inline(always)]
fn fuse<'a>(taus: impl Iterator<Item = (&'a [f32], f32)> + Clone, base: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (mut elected, mut divisor) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
    let (elected, divisor) = (&mut elected[..n], &mut divisor[..n]);
    for (tau, _) in taus.clone() {
        for (e, d) in elected.iter_mut().zip(tau) {
            *e += d;
        }
    }
    out.fill(0.0);
    for (tau, w) in taus {
        let tau = &tau[..n];
        for i in 0..n {
            let agrees = (tau[i] > 0.0) & (elected[i] >= 0.0) | (tau[i] < 0.0) & (elected[i] < 0.0);
            out[i] += if agrees { tau[i] * w } else { 0.0 };
            divisor[i] += if agrees { w } else { 0.0 };
        }
    }
    for ((o, v), b) in out.iter_mut().zip(&*divisor).zip(base) {
        *o = b + *o / v.max(1e-6);
    }
}

/// Positions whose sums are kept at once, so that they stay in the first cache level.
const TOGETHER: usize = 256;

/// The biased variance of each position over the models' task vectors.
struct Variances<'a> {
    inputs: &'a Inputs<'a>,
    base: usize,
    models: Vec<usize>,
}

impl Measure for Variances<'_> {
    fn inputs(&self) -> &Inputs<'_> {
        self.inputs
    }

    #[inline(always)]
    fn bits(&self, chunks: &[&[f32]], scratch: &mut Vec<f32>, bits: &mut [u32]) {
        vectors(chunks, &self.models, Some(self.base), scratch);
        self.of_vectors(scratch, bits);
    }
}

impl Variances<'_> {
    /// Of task vectors that lie [`CHUNK`] entries apart.
    #[inline(always)]
    fn of_vectors(&self, taus: &[f32], bits: &mut [u32]) {
        let n = self.models.len() as f64;
        // The same numbers, without divisions, which take most of the time.
        match self.models.len().is_power_of_two() {
            true => self.divided_by(
                #[inline(always)]
                |x| x * (1.0 / n),
                taus,
                bits,
            ),
            false => self.divided_by(
                #[inline(always)]
                |x| x / n,
                taus,
                bits,
            ),
        }
    }

    /// Positions at once and models one after the other, so that each loop becomes vector code.
    #[inline(always)]
    fn divided_by(&self, share: impl Fn(f64) -> f64, taus: &[f32], bits: &mut [u32]) {
        let taus = taus.chunks(CHUNK).take(self.models.len());
        for (block, bits) in bits.chunks_mut(TOGETHER).enumerate() {
            let from = block * TOGETHER;
            let (mut mean, mut sum) = ([0.0f64; TOGETHER], [0.0f64; TOGETHER]);
            let (mean, sum) = (&mut mean[..bits.len()], &mut sum[..bits.len()]);
            for tau in taus.clone() {
                for (m, t) in mean.iter_mut().zip(&tau[from..]) {
                    *m += f64::from(*t);
                }
            }
            mean.iter_mut().for_each(|m| *m = share(*m));
            for tau in taus.clone() {
                for ((s, m), t) in sum.iter_mut().zip(&*mean).zip(&tau[from..]) {
                    let from_mean = f64::from(*t) - m;
                    *s += from_mean * from_mean;
                }
            }
            for (bits, s) in bits.iter_mut().zip(&*sum) {
                *bits = (share(*s) as f32).to_bits() & 0x7fff_ffff;
            }
        }
    }

    /// The task vectors into `scratch`, [`CHUNK`] entries apart, with zeros where the cut drops a position.
    #[inline(always)]
    fn select(&self, cut: Cut, start: usize, chunks: &[&[f32]], scratch: &mut Vec<f32>) {
        vectors(chunks, &self.models, Some(self.base), scratch);
        if cut == Cut::Everything {
            return;
        }
        let len = chunks[self.base].len();
        let mut bits = [0u32; CHUNK];
        let bits = &mut bits[..len];
        self.of_vectors(scratch, bits);
        let ties_kept = cut.ties_kept(start, len);
        let parts = [
            (0..ties_kept, cut.least(start)),
            (ties_kept..len, cut.least(start + ties_kept)),
        ];
        for tau in scratch.chunks_mut(CHUNK).take(self.models.len()) {
            for (part, least) in parts.clone() {
                for (t, bits) in tau[part.clone()].iter_mut().zip(&bits[part]) {
                    *t = if *bits >= least { *t } else { 0.0 };
                }
            }
        }
    }
}

/// Each task vector's share of the energy of all, after the selection.
fn weights(variances: &Variances<'_>, cut: Cut) -> Vec<f32> {
    let (models, entries) = (variances.models.len(), variances.inputs.len().max(1) as f64);
    let energies = variances.inputs.each(
        #[inline(always)]
        |start, chunks, scratch| {
            variances.select(cut, start, chunks, scratch);
            let len = chunks[variances.base].len();
            let taus = scratch.chunks(CHUNK).take(models).map(|tau| &tau[..len]);
            taus.map(|tau| dot(tau, tau)).collect::<Vec<f64>>()
        },
    );
    let mut mean_squares = vec![0.0; models];
    for part in energies {
        for (m, p) in mean_squares.iter_mut().zip(part) {
            *m += p / entries;
        }
    }
    let total: f64 = mean_squares.iter().sum();
    let uniform = 1.0 / models as f64;
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

    /// The definition, as it stands in the paper: sort by variance, entry by entry.
    fn by_sorting(base: &[f32], models: &[&[f32]], select_topk: f64) -> Vec<f32> {
        let n = models.len() as f64;
        let taus: Vec<Vec<f32>> = models
            .iter()
            .map(|m| m.iter().zip(base).map(|(x, b)| x - b).collect())
            .collect();
        let variance = |i: usize| {
            let mean = taus.iter().map(|t| f64::from(t[i])).sum::<f64>() / n;
            (taus.iter().map(|t| (f64::from(t[i]) - mean).powi(2)).sum::<f64>() / n) as f32
        };
        let mut order: Vec<(f32, usize)> = (0..base.len()).map(|i| (variance(i), i)).collect();
        let nonzero = order.iter().filter(|(v, _)| *v != 0.0).count();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let kept: Vec<usize> = order[..(select_topk * nonzero as f64) as usize]
            .iter()
            .map(|p| p.1)
            .collect();
        let energy = |tau: &Vec<f32>| kept.iter().map(|i| f64::from(tau[*i]).powi(2)).sum::<f64>();
        let energies: Vec<f64> = taus.iter().map(energy).collect();
        let total: f64 = energies.iter().sum();
        let mut out = base.to_vec();
        for i in kept.iter().copied() {
            let elected: f32 = taus.iter().map(|t| t[i]).sum();
            let (mut sum, mut divisor) = (0.0, 0.0);
            for (tau, energy) in taus.iter().zip(&energies) {
                if tau[i] != 0.0 && (tau[i] > 0.0) == (elected >= 0.0) {
                    let weight = energy / total;
                    sum += f64::from(tau[i]) * weight;
                    divisor += weight;
                }
            }
            out[i] = (f64::from(base[i]) + sum / divisor.max(1e-6)) as f32;
        }
        out
    }

    /// The selection held 24 bytes for each entry of a tensor, and sorted. Sampled or not, with ties, with positions that
    /// do not vary and with a sample that is wrong, the selection is the same.
    #[test]
    fn selecting_is_sorting() {
        let noise = |i: usize, salt: u32| {
            let mixed = (i as u32 ^ salt).wrapping_mul(2_654_435_761);
            (mixed ^ mixed >> 13).wrapping_mul(2_246_822_519) as f32 / 2e9 - 1.0
        };
        let smooth = |i, salt| noise(i, salt);
        let coarse = |i, salt| (noise(i, salt) * 4.0).round() / 4.0;
        let sparse = |i: usize, salt| if i.is_multiple_of(3) { noise(i, salt) } else { 0.0 };
        let odd = |i: usize, salt| if i < 90_000 { 1e-3 * noise(i, 7) } else { noise(i, salt) };
        for (name, of) in [
            ("smooth", &smooth as &dyn Fn(usize, u32) -> f32),
            ("coarse", &coarse),
            ("sparse", &sparse),
            ("odd", &odd),
        ] {
            for len in [301, 130_003] {
                let base: Vec<f32> = (0..len).map(|i| noise(i, 99)).collect();
                let model = |salt| (0..len).map(|i| base[i] + of(i, salt)).collect::<Vec<f32>>();
                let (a, b, c) = (model(1), model(2), model(3));
                for k in [1e-5, 0.1, 0.4, 0.99] {
                    let out = run(&[&a, &base, &b, &c], Some(1), |p, out| merge(p, k, out)).unwrap();
                    let expected = by_sorting(&base, &[&a, &b, &c], k);
                    let wrong = (0..len).find(|i| (out[*i] - expected[*i]).abs() > 1e-5);
                    assert_eq!(
                        wrong.map(|i| (i, out[i], expected[i])),
                        None,
                        "{name}, {len} entries, {k}"
                    );
                }
            }
        }
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
