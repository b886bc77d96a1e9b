//! DELLA's MagPrune: the keep probability rises linearly with the rank of |τ| in its row.
//!
//! Source: Deep et al. 2024, arXiv:2406.11617, section 3.1: from density − epsilon for the smallest to density + epsilon
//! for the largest. A vector is one row; equal magnitudes rank by index; a row of one entry has probability density.

use rayon::prelude::*;

use super::{
    magnitude::Cut,
    parents::{Parents, Refusal},
    random::{Key, threshold},
    task_sum::Keep,
    view::{Inputs, isa},
};

pub(crate) struct Ranked {
    pub density: f64,
    pub epsilon: f64,
    pub key: Key,
    /// Whether what stays is divided by its probability.
    pub divide: bool,
}

/// # Errors
/// If a probability would be 0 or less, or 1 or more; a density of 1 keeps everything and one of 0 nothing, without any.
pub(crate) fn check(density: f64, epsilon: f64) -> Result<(), Refusal> {
    if density > 0.0 && density < 1.0 && (density - epsilon <= 0.0 || density + epsilon >= 1.0) {
        return Err(Refusal::KeepProbability { density, epsilon });
    }
    Ok(())
}

/// What stays of τ of model `k`.
///
/// # Errors
/// As [`check`].
pub(crate) fn keep(parents: &Parents<'_>, k: usize, rule: &Ranked) -> Result<Keep, Refusal> {
    if rule.density >= 1.0 {
        return Ok(Keep::Cut(Cut::Everything));
    }
    if rule.density <= 0.0 {
        return Ok(Keep::Cut(Cut::Nothing));
    }
    check(rule.density, rule.epsilon)?;
    let (_, width) = parents.rows();
    let pair = [Some(k), parents.base]
        .into_iter()
        .flatten()
        .map(|k| parents.inputs.view(k));
    let pair = Inputs::new(pair.collect());
    let probabilities: Vec<f64> = (0..width).map(|rank| rule.probability(rank, width)).collect();
    Ok(match rule.divide {
        true => Keep::Factors(factors(&pair, width, &probabilities, rule.key)),
        false => Keep::Marked(marks(&pair, width, &probabilities, rule.key)),
    })
}

impl Ranked {
    /// Of staying, for the entry of that rank in a row, the smallest magnitude first.
    fn probability(&self, rank: usize, width: usize) -> f64 {
        let steps = (width - 1) as f64;
        let height = if steps > 0.0 { rank as f64 / steps } else { 0.5 };
        self.density - self.epsilon + height * 2.0 * self.epsilon
    }
}

/// Rows that one thread takes at once: as many as a word has bits, so that threads share none.
const ROWS: usize = u64::BITS as usize;

/// A bit for each entry that stays.
fn marks(pair: &Inputs<'_>, width: usize, probabilities: &[f64], key: Key) -> Vec<u64> {
    let thresholds: Vec<u64> = probabilities.iter().map(|p| threshold(*p)).collect();
    let mut marks = vec![0u64; pair.len().div_ceil(ROWS)];
    marks.par_chunks_mut(width).enumerate().for_each(|(block, marks)| {
        let first = block * ROWS * width;
        let mut row = Row::new(width);
        for (at, start) in (first..pair.len().min(first + ROWS * width)).step_by(width).enumerate() {
            row.read(pair, start, key);
            row.mark(&thresholds, at * width, marks);
        }
    });
    marks
}

/// 0, or one over its probability, for each entry.
fn factors(pair: &Inputs<'_>, width: usize, probabilities: &[f64], key: Key) -> Vec<f32> {
    let of_rank: Vec<(u64, f32)> = probabilities
        .iter()
        .map(|p| (threshold(*p), (1.0 / p) as f32))
        .collect();
    let mut factors = vec![0.0; pair.len()];
    factors
        .par_chunks_mut(ROWS * width)
        .enumerate()
        .for_each(|(block, factors)| {
            let mut row = Row::new(width);
            for (at, factors) in factors.chunks_mut(width).enumerate() {
                row.read(pair, (block * ROWS + at) * width, key);
                row.open_all();
                row.each_open(|i, rank, drawn| {
                    let (threshold, factor) = of_rank[rank];
                    factors[i] = if u64::from(drawn) < threshold { factor } else { 0.0 };
                });
            }
        });
    factors
}

/// One row of a task vector, its entries sorted into bins of equal width by their magnitude.
///
/// A bin says between which ranks an entry lies, which nearly always decides whether its random number is below its rank's
/// threshold. Bins that leave one of their entries open are sorted.
struct Row {
    tau: Vec<f32>,
    base: Vec<f32>,
    /// |τ| as bits, of each entry.
    bits: Vec<u32>,
    bin: Vec<u32>,
    drawn: Vec<u32>,
    /// Of each bin, the rank of its first entry; then the number of all entries.
    first: Vec<u32>,
    next: Vec<u32>,
    open: Vec<bool>,
    /// Those that are open.
    opened: Vec<u32>,
    /// Of each bin, the thresholds of its first entry and of its last.
    bounds: Vec<[u64; 2]>,
    /// Bits and index, for the bins that are sorted.
    order: Vec<u64>,
}

/// The bins end at this multiple of the mean; what is beyond shares the last.
const MEANS: f32 = 4.0;
/// From here on numbers are whole, to twice as far.
const WHOLE: f32 = (1 << 23) as f32;
/// Open bins up to which each is looked for in the whole row.
const FEW: usize = 8;

impl Row {
    fn new(width: usize) -> Self {
        let bins = (width / 4).next_power_of_two().clamp(64, 4096);
        Row {
            tau: vec![0.0; width],
            base: vec![0.0; width],
            bits: vec![0; width],
            bin: vec![0; width],
            drawn: vec![0; width],
            first: vec![0; bins + 1],
            next: vec![0; bins],
            open: vec![false; bins],
            opened: Vec::new(),
            bounds: Vec::with_capacity(bins),
            order: vec![0; width],
        }
    }

    /// Takes the row that begins at element `start` of the tensor; a pair is the model and the base.
    fn read(&mut self, pair: &Inputs<'_>, start: usize, key: Key) {
        let tau = pair.view(0).chunk(start, &mut self.tau);
        let base = (pair.count() > 1).then(|| pair.view(1).chunk(start, &mut self.base));
        let bins = self.open.len();
        let (bits, bin, drawn) = (&mut self.bits[..], &mut self.bin[..], &mut self.drawn[..]);
        isa().run(
            #[inline(always)]
            || {
                match base {
                    Some(base) => {
                        for ((bits, t), b) in bits.iter_mut().zip(tau).zip(base) {
                            *bits = (t - b).to_bits() & 0x7fff_ffff;
                        }
                    }
                    None => bits
                        .iter_mut()
                        .zip(tau)
                        .for_each(|(bits, t)| *bits = t.to_bits() & 0x7fff_ffff),
                }
                let mut sums = [0.0f32; 16];
                for bits in bits.chunks(16) {
                    for (sum, bits) in sums.iter_mut().zip(bits) {
                        *sum += f32::from_bits(*bits);
                    }
                }
                // Whatever the scale is, a larger magnitude is in no lower bin; NaN is in the last, with all others then.
                let mean = sums.iter().sum::<f32>() / bits.len() as f32;
                let (scale, last) = (bins as f32 / (MEANS * mean), (bins - 1) as f32);
                for (bin, bits) in bin.iter_mut().zip(&*bits) {
                    // Rounded by what has no room for fractions: a conversion is slower.
                    let place = (f32::from_bits(*bits) * scale).min(last);
                    *bin = (place + WHOLE).to_bits() - WHOLE.to_bits();
                }
                for (i, drawn) in drawn.iter_mut().enumerate() {
                    *drawn = key.bits((start + i) as u64);
                }
            },
        );
        self.next.fill(0);
        for bin in &self.bin {
            self.next[*bin as usize] += 1;
        }
        let mut rank = 0;
        for (first, count) in self.first.iter_mut().zip(&mut self.next) {
            *first = rank;
            rank += *count;
            *count = *first;
        }
        self.first[bins] = rank;
    }

    /// Sets the bits from `offset` on of the entries that stay; thresholds rise with the rank.
    fn mark(&mut self, thresholds: &[u64], offset: usize, marks: &mut [u64]) {
        self.bounds.clear();
        self.bounds.extend(self.first.windows(2).map(|ranks| {
            [ranks[0], ranks[1].max(1) - 1].map(|rank| thresholds[(rank as usize).min(thresholds.len() - 1)])
        }));
        self.open.fill(false);
        self.opened.clear();
        let (mut word, mut place) = (0u64, offset);
        for ((bin, drawn), bits) in self.bin.iter().zip(&self.drawn).zip(&self.bits) {
            let [low, high] = self.bounds[*bin as usize];
            let (surely, perhaps) = (u64::from(*drawn) < low, u64::from(*drawn) < high);
            // Nothing hangs on what becomes of a zero.
            if (surely != perhaps) & (*bits != 0) && !self.open[*bin as usize] {
                self.open[*bin as usize] = true;
                self.opened.push(*bin);
            }
            word |= u64::from(surely) << (place % ROWS);
            place += 1;
            if place.is_multiple_of(ROWS) {
                marks[place / ROWS - 1] |= word;
                word = 0;
            }
        }
        if word != 0 {
            marks[place / ROWS] |= word;
        }
        self.each_open(|i, rank, drawn| {
            let (at, bit) = ((offset + i) / ROWS, 1 << ((offset + i) % ROWS));
            marks[at] = match u64::from(drawn) < thresholds[rank] {
                true => marks[at] | bit,
                false => marks[at] & !bit,
            };
        });
    }

    fn open_all(&mut self) {
        self.open.fill(true);
        self.opened.clear();
        self.opened.extend(0..self.open.len() as u32);
    }

    /// Calls `f` with the index, the rank and the random number of each entry in an open bin.
    fn each_open(&mut self, mut f: impl FnMut(usize, usize, u32)) {
        match self.opened.len() {
            0..=FEW => self.gather_few(),
            _ => self.gather_all(),
        }
        for bin in &self.opened {
            let bin = *bin as usize;
            let ranks = self.first[bin] as usize..self.first[bin + 1] as usize;
            self.order[ranks.clone()].sort_unstable();
            for rank in ranks {
                let i = self.order[rank] as u32 as usize;
                f(i, rank, self.drawn[i]);
            }
        }
    }

    /// Puts the entries of open bins where their ranks are, in a pass over the row.
    fn gather_all(&mut self) {
        for (i, (bits, bin)) in self.bits.iter().zip(&self.bin).enumerate() {
            let bin = *bin as usize;
            if self.open[bin] {
                self.order[self.next[bin] as usize] = u64::from(*bits) << 32 | i as u64;
                self.next[bin] += 1;
            }
        }
    }

    /// The same in a pass for each bin, which looks at many entries at once.
    fn gather_few(&mut self) {
        const AT_ONCE: usize = 64;
        let (bits, bins, order) = (&self.bits, &self.bin, &mut self.order);
        for open in &self.opened {
            let mut next = self.first[*open as usize] as usize;
            let mut from = 0;
            for some in bins.chunks(AT_ONCE) {
                let mut are_here = false;
                isa().run(
                    #[inline(always)]
                    || are_here = some.iter().fold(false, |any, bin| any | (bin == open)),
                );
                if are_here {
                    for i in (from..from + some.len()).filter(|i| bins[*i] == *open) {
                        order[next] = u64::from(bits[i]) << 32 | i as u64;
                        next += 1;
                    }
                }
                from += some.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_sum::{Rescale, TaskSum, Term, Trim};
    use super::super::testing::{merge_sum, try_merge_sum};
    use super::super::view::View;
    use super::*;

    fn della(density: f64, epsilon: f64, key: u64, rescale: Rescale) -> TaskSum {
        TaskSum {
            terms: vec![Term {
                weight: 1.0,
                trim: Trim::Ranked { density, epsilon, key },
            }],
            rescale,
            elect: false,
            normalize: false,
            lambda: 1.0,
        }
    }

    #[test]
    fn each_rank_is_kept_with_its_probability_and_the_expectation_is_unbiased() {
        let tau = [0.4f32, -0.1, 0.3, 0.2, -0.5];
        // Ranks 3, 0, 2, 1, 4 → probabilities 0.5 + (rank/4 − 1/2) · 0.6
        let expected = [0.65, 0.2, 0.5, 0.35, 0.8];
        let runs = 20_000;
        let (mut kept, mut mean) = ([0.0f64; 5], [0.0f64; 5]);
        for seed in 0..runs {
            let seed = seed * 7919;
            let out = merge_sum(&della(0.5, 0.3, seed, Rescale::Expectation), &[0.0; 5], &[&tau]);
            for i in 0..5 {
                kept[i] += f64::from(u8::from(out[i] != 0.0)) / runs as f64;
                mean[i] += f64::from(out[i]) / runs as f64;
            }
        }
        for i in 0..5 {
            assert!((kept[i] - expected[i]).abs() < 0.02, "{kept:?}");
            let slack = 5.0 * f64::from(tau[i].abs()) * ((1.0 / expected[i] - 1.0) / runs as f64).sqrt();
            assert!((mean[i] - f64::from(tau[i])).abs() < slack, "{mean:?}");
        }
    }

    /// The definition: each row sorted, entry by entry.
    fn by_sorting(tau: &[f32], width: usize, rule: &Ranked) -> Vec<f32> {
        let mut factors = vec![0.0; tau.len()];
        for (row, tau) in tau.chunks(width).enumerate() {
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|a, b| tau[*a].abs().total_cmp(&tau[*b].abs()).then(a.cmp(b)));
            for (rank, i) in order.into_iter().enumerate() {
                let p = rule.probability(rank, width);
                let place = row * width + i;
                if u64::from(rule.key.bits(place as u64)) < threshold(p) {
                    factors[place] = if rule.divide { (1.0 / p) as f32 } else { 1.0 };
                }
            }
        }
        factors
    }

    /// Each row was sorted, and a whole task vector kept for each parent. What stays is what a sort says, whatever the
    /// magnitudes: of one value, of few, of all kinds, with one that dwarfs the rest.
    #[test]
    fn bins_decide_as_sorting_does() {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761).rotate_left(9) as f32 / 2.2e9 - 1.0;
        let many = |i| noise(i);
        let few = |i| (noise(i) * 6.0).round() / 8.0;
        let one = |_| 0.25f32;
        let sparse = |i: usize| if i.is_multiple_of(5) { noise(i) } else { 0.0 };
        let dwarfed = |i: usize| if i % 50 == 3 { 1e30 } else { noise(i) };
        let endless = |i: usize| if i % 50 == 3 { f32::INFINITY } else { noise(i) };
        let tiny = |i: usize| noise(i) * 1e-42;
        let all: [&dyn Fn(usize) -> f32; 8] = [&many, &few, &one, &sparse, &dwarfed, &endless, &tiny, &|_| 0.0];
        for of in all {
            for (rows, width) in [(1, 1), (3, 7), (130, 33), (70, 64), (2, 5001)] {
                let (tau, base): (Vec<f32>, Vec<f32>) = (0..rows * width).map(|i| (of(i), 0.0)).unzip();
                for divide in [false, true] {
                    let (density, epsilon, key) = (0.4, 0.3, Key(5));
                    let rule = Ranked {
                        density,
                        epsilon,
                        key,
                        divide,
                    };
                    let parents = Parents {
                        inputs: Inputs::new(vec![View::F32(&tau), View::F32(&base)]),
                        grams: Vec::new(),
                        base: Some(1),
                        shape: &[rows, width],
                        cache: None,
                    };
                    let expected = by_sorting(&tau, width, &rule);
                    let keep = keep(&parents, 0, &rule).unwrap();
                    let factor = |i: usize| match &keep {
                        Keep::Factors(factors) => factors[i],
                        Keep::Marked(marks) => f32::from(marks[i / 64] >> (i % 64) & 1 == 1),
                        _ => panic!("neither marks nor factors"),
                    };
                    let wrong = (0..tau.len()).find(|i| tau[*i] != 0.0 && factor(*i) != expected[*i]);
                    assert_eq!(wrong, None, "{rows} rows of {width}, divided: {divide}");
                }
            }
        }
    }

    #[test]
    fn probabilities_outside_zero_and_one_are_refused() {
        let refused = try_merge_sum(&della(0.9, 0.15, 1, Rescale::L1), &[0.0], &[&[1.0]]);
        assert_eq!(
            refused.unwrap_err(),
            Refusal::KeepProbability {
                density: 0.9,
                epsilon: 0.15
            }
        );
        let tau = [1.0, 2.0];
        assert_eq!(merge_sum(&della(1.0, 0.15, 1, Rescale::L1), &[0.0; 2], &[&tau]), tau);
        for rescale in [Rescale::L1, Rescale::Expectation, Rescale::None] {
            assert_eq!(merge_sum(&della(0.0, 0.15, 1, rescale), &[0.5; 2], &[&tau]), [0.5; 2]);
        }
    }
}
