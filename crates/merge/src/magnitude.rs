//! The exact k-th largest magnitude of a task vector, or of another number that each entry has, without a sort.
//!
//! For floats that are not negative the bit pattern orders as the value does. A sample says between which two magnitudes
//! the k-th largest almost surely lies; one pass counts what is above and collects the few between, among which it is then
//! selected. Where the sample was wrong, or too many entries are equal, a histogram over the upper half of the bits of |τ|
//! says in which bin the k-th largest lies, and one over the lower half of that bin's entries says its value. Ties go to the
//! lower index, which makes the order total and the cut exact for every k, whatever the sample was.

use std::cmp::Reverse;

use rayon::prelude::*;

use super::view::{CHUNK, Inputs};

/// Where the largest k entries end: kept are larger bits, and equal ones up to index `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Nothing,
    Everything,
    At { bits: u32, last: usize },
}

/// An entry's place in the order: larger magnitudes first, then lower indices.
pub(crate) type Place = (Reverse<u32>, usize);

const BINS: usize = 1 << 15;

/// A number that is not negative for each entry of a tensor: what a cut orders.
pub(crate) trait Measure: Sync {
    fn inputs(&self) -> &Inputs<'_>;

    /// The bits of the numbers of one chunk, without a sign.
    fn bits(&self, chunks: &[&[f32]], scratch: &mut Vec<f32>, bits: &mut [u32]);
}

/// |x − base|, of two inputs.
struct Magnitudes<'a>(Inputs<'a>);

impl<'a> Magnitudes<'a> {
    fn new(inputs: &Inputs<'a>, model: usize, base: usize) -> Self {
        Magnitudes(Inputs::new(vec![inputs.view(model), inputs.view(base)]))
    }
}

impl Measure for Magnitudes<'_> {
    fn inputs(&self) -> &Inputs<'_> {
        &self.0
    }

    #[inline(always)]
    fn bits(&self, chunks: &[&[f32]], _: &mut Vec<f32>, bits: &mut [u32]) {
        for ((bits, x), b) in bits.iter_mut().zip(chunks[0]).zip(chunks[1]) {
            *bits = (x - b).to_bits() & 0x7fff_ffff;
        }
    }
}

/// What `f` makes of the bits of each chunk, in order.
fn each_bits<R: Send>(measure: &impl Measure, f: impl Fn(usize, &[u32]) -> R + Sync) -> Vec<R> {
    measure.inputs().each(
        #[inline(always)]
        |start, chunks, scratch| {
            let mut bits = [0u32; CHUNK];
            let bits = &mut bits[..chunks[0].len()];
            measure.bits(chunks, scratch, bits);
            f(start, bits)
        },
    )
}

/// As [`each_bits`], with one accumulator for some neighbouring chunks.
fn fold_bits<A: Send>(
    measure: &impl Measure,
    init: impl Fn() -> A + Sync,
    f: impl Fn(&mut A, usize, &[u32]) + Sync,
) -> Vec<A> {
    measure.inputs().fold(
        init,
        #[inline(always)]
        |part, start, chunks, scratch| {
            let mut bits = [0u32; CHUNK];
            let bits = &mut bits[..chunks[0].len()];
            measure.bits(chunks, scratch, bits);
            f(part, start, bits);
        },
    )
}

/// The cut that keeps the `k` largest of |input `model` − input `base`|.
pub(crate) fn top(inputs: &Inputs<'_>, model: usize, base: usize, k: usize) -> Cut {
    if k == 0 {
        return Cut::Nothing;
    }
    let n = inputs.len();
    if k >= n {
        return Cut::Everything;
    }
    let magnitudes = Magnitudes::new(inputs, model, base);
    sample(&magnitudes)
        .map(|sample| bracket_of_sample(sample, k as f64 / n as f64))
        .and_then(|(low, high)| select(&magnitudes, low, high, Wanted::Entries(k)))
        .unwrap_or_else(|| by_histograms(&magnitudes, k))
}

/// The cut that keeps the largest numbers, [`share`] of those that are not 0.
pub(crate) fn top_share_of_nonzero(measure: &impl Measure, fraction: f64) -> Cut {
    let sampled = sample(measure).and_then(|mut sample| {
        sample.retain(|bits| *bits != 0);
        (!sample.is_empty()).then(|| bracket_of_sample(sample, fraction))
    });
    let selected = sampled.and_then(|(low, high)| select(measure, low, high, Wanted::OfNonzero(fraction)));
    selected.unwrap_or_else(|| {
        let counts = each_bits(
            measure,
            #[inline(always)]
            |_, bits| count_from(bits, 1),
        );
        match share(fraction, counts.iter().sum()) {
            0 => Cut::Nothing,
            k => by_histograms(measure, k),
        }
    })
}

/// How many entries a cut is to keep.
#[derive(Clone, Copy)]
enum Wanted {
    Entries(usize),
    /// That share of those that are not 0.
    OfNonzero(f64),
}

/// Tensors with fewer entries are not sampled.
const LEAST_SAMPLED: usize = 1 << 16;
/// One entry in so many is in the sample.
const SAMPLED: usize = 64;
/// Entries of a sample that lie together: reading one reads its neighbours.
const TOGETHER: usize = 16;
/// Entries between the two magnitudes in one thread's million that are worth collecting.
const MOST_COLLECTED: usize = 100_000;

/// The bits of one entry in [`SAMPLED`], where that is worth it and places can be packed.
fn sample(measure: &impl Measure) -> Option<Vec<u32>> {
    let n = measure.inputs().len();
    if n < LEAST_SAMPLED || u32::try_from(n).is_err() {
        return None;
    }
    let mut sample = Vec::with_capacity(n / SAMPLED + TOGETHER);
    let starts = (0..n - TOGETHER).step_by(SAMPLED * TOGETHER);
    measure.inputs().pick(
        starts,
        TOGETHER,
        #[inline(always)]
        |chunks, scratch| {
            let mut bits = [0u32; TOGETHER];
            measure.bits(chunks, scratch, &mut bits);
            sample.extend_from_slice(&bits);
        },
    );
    Some(sample)
}

/// Bits of two numbers, low < high, between which the one lies that ends the largest `share` of what was sampled, unless the
/// sample is a rare one.
fn bracket_of_sample(mut sample: Vec<u32>, share: f64) -> (u32, u32) {
    let size = sample.len() as f64;
    // Four standard deviations of the sampled rank.
    let doubt = 4.0 * (size * share * (1.0 - share)).sqrt() + 6.0;
    let mut at = |rank: f64| {
        let rank = (rank as usize).min(sample.len() - 1);
        *sample.select_nth_unstable_by(rank, |a, b| b.cmp(a)).1
    };
    let high = match share * size - doubt {
        rank if rank < 0.0 => u32::MAX,
        rank => at(rank) + 1,
    };
    let low = match share * size + doubt {
        rank if rank >= size - 1.0 => 0,
        rank => at(rank),
    };
    (low, high)
}

/// How many bits are `least` or more.
#[inline(always)]
fn count_from(bits: &[u32], least: u32) -> usize {
    bits.iter().map(|b| u32::from(*b >= least)).sum::<u32>() as usize
}

/// The cut, if the last entry that is kept has bits in `low..high` and not too many others do.
fn select(measure: &impl Measure, low: u32, high: u32, wanted: Wanted) -> Option<Cut> {
    let is_one_value = high - low == 1;
    let counts_nonzero = matches!(wanted, Wanted::OfNonzero(_));
    let parts = fold_bits(
        measure,
        Between::default,
        #[inline(always)]
        |part: &mut Between, start, bits| {
            part.count(start, bits, low, high);
            if counts_nonzero {
                part.nonzero += count_from(bits, 1);
            }
            if !is_one_value {
                part.collect(start, bits, low, high);
            }
        },
    );
    let sum = |of: fn(&Between) -> usize| parts.iter().map(of).sum::<usize>();
    let k = match wanted {
        Wanted::Entries(k) => k,
        Wanted::OfNonzero(fraction) => share(fraction, sum(|p| p.nonzero)),
    };
    if k == 0 {
        return Some(Cut::Nothing);
    }
    let rank = k.checked_sub(sum(|p| p.above) + 1)?;
    if rank >= sum(|p| p.between) {
        return None;
    }
    if is_one_value {
        let last = place_of_tie(measure, low, rank + 1, parts.into_iter().flat_map(|p| p.chunks));
        return Some(Cut::At { bits: low, last });
    }
    if parts.iter().any(|p| p.found.len() < p.between) {
        return None;
    }
    let mut found = Vec::with_capacity(sum(|p| p.between));
    parts.iter().for_each(|p| found.extend_from_slice(&p.found));
    let (_, packed, _) = found.select_nth_unstable(rank);
    Some(Cut::At {
        bits: !((*packed >> 32) as u32),
        last: (*packed & u64::from(u32::MAX)) as usize,
    })
}

/// What some neighbouring chunks hold above and between two magnitudes.
#[derive(Default)]
struct Between {
    above: usize,
    between: usize,
    /// Counted only where a share of them is wanted.
    nonzero: usize,
    /// Of each chunk: its first element, its length, and how many lie between.
    chunks: Vec<(usize, usize, usize)>,
    /// Places in the order as one number each, unless they are too many: the bits turned over, then the index.
    found: Vec<u64>,
}

impl Between {
    #[inline(always)]
    fn count(&mut self, start: usize, bits: &[u32], low: u32, high: u32) {
        let (above, not_below) = (count_from(bits, high), count_from(bits, low));
        self.above += above;
        self.between += not_below - above;
        self.chunks.push((start, bits.len(), not_below - above));
    }

    #[inline(always)]
    fn collect(&mut self, start: usize, bits: &[u32], low: u32, high: u32) {
        if self.between > MOST_COLLECTED {
            return;
        }
        // No branch: whatever is not between is written over by the next.
        let (mut found, mut count) = ([0u64; CHUNK + 1], 0);
        for (i, bits) in bits.iter().enumerate() {
            found[count.min(CHUNK)] = u64::from(!bits) << 32 | (start + i) as u64;
            count += usize::from(bits.wrapping_sub(low) < high - low);
        }
        self.found.extend_from_slice(&found[..count]);
    }
}

/// The same from nothing but counts; memory does not grow with the tensor.
fn by_histograms(measure: &impl Measure, k: usize) -> Cut {
    let (upper, above) = bin_of(&histogram(measure), k);
    let lower_bins = lower_histogram(measure, upper as u32);
    let (lower, above_too) = bin_of(&lower_bins, k - above);
    let bits = (upper << 16 | lower) as u32;
    let ties = k - above - above_too;
    let last = match ties == lower_bins[lower] {
        true => measure.inputs().len() - 1,
        false => place_of_tie(measure, bits, ties, self::ties(measure, bits)),
    };
    Cut::At { bits, last }
}

/// How many entries of those bits each chunk has, with its first element and its length.
fn ties(measure: &impl Measure, tied: u32) -> Vec<(usize, usize, usize)> {
    each_bits(
        measure,
        #[inline(always)]
        |start, bits| {
            let ties: u32 = bits.iter().map(|b| u32::from(*b == tied)).sum();
            (start, bits.len(), ties as usize)
        },
    )
}

/// The index of the `nth` entry of those bits, counted from 1; `ties` as of [`ties`].
fn place_of_tie(
    measure: &impl Measure,
    tied: u32,
    nth: usize,
    ties: impl IntoIterator<Item = (usize, usize, usize)>,
) -> usize {
    let mut before = 0;
    for (start, len, ties) in ties {
        if before + ties >= nth {
            let place = measure.inputs().chunk(start, len, |chunks, scratch| {
                let mut bits = vec![0; len];
                measure.bits(chunks, scratch, &mut bits);
                let equal = bits.iter().enumerate().filter(|(_, b)| **b == tied);
                equal.map(|(i, _)| i).nth(nth - before - 1)
            });
            return start + place.unwrap_or(len - 1);
        }
        before += ties;
    }
    measure.inputs().len() - 1
}

/// The entries whose bits lie in a range of bins.
fn entries_in(measure: &impl Measure, bins: std::ops::Range<usize>) -> Vec<Place> {
    let parts = each_bits(measure, |start, bits| {
        let all = bits.iter().enumerate();
        let inside = all.filter(|(_, bits)| bins.contains(&((**bits >> 16) as usize)));
        inside.map(|(i, bits)| (Reverse(*bits), start + i)).collect::<Vec<_>>()
    });
    parts.concat()
}

/// Every `STEP`-th place of the order of one task vector: half a byte for each entry, and the cut for any k is known but
/// for the `STEP` entries between two samples.
#[derive(Debug)]
pub(crate) struct Index {
    len: usize,
    /// The places of ranks STEP, 2 · STEP, …, counted from 1: bits and index.
    samples: Vec<(u32, u32)>,
}

const STEP: usize = 16;
/// Entries that are sorted at once while an index is built.
const SORTED_AT_ONCE: usize = 1 << 23;

impl Index {
    /// `None` for tensors too large for 32-bit indices.
    pub fn build(inputs: &Inputs<'_>, model: usize, base: usize) -> Option<Index> {
        u32::try_from(inputs.len()).ok()?;
        let magnitudes = Magnitudes::new(inputs, model, base);
        let bins = histogram(&magnitudes);
        let mut samples = Vec::with_capacity(inputs.len() / STEP);
        let (mut end, mut rank) = (BINS, 0);
        while end > 0 {
            let (mut start, mut count) = (end, 0);
            while start > 0 && (count == 0 || count + bins[start - 1] <= SORTED_AT_ONCE) {
                start -= 1;
                count += bins[start];
            }
            if count > 0 {
                let mut entries = entries_in(&magnitudes, start..end);
                entries.par_sort_unstable();
                for (i, (Reverse(bits), index)) in entries.iter().enumerate() {
                    if (rank + i + 1) % STEP == 0 {
                        samples.push((*bits, *index as u32));
                    }
                }
            }
            rank += count;
            end = start;
        }
        Some(Index {
            len: inputs.len(),
            samples,
        })
    }

    /// What is known of the cut that keeps the `k` largest.
    pub fn bracket(&self, k: usize) -> Bracket {
        let cut = |sample: usize| match sample.checked_sub(1).map(|i| self.samples.get(i)) {
            None => Cut::Nothing,
            Some(None) => Cut::Everything,
            Some(Some((bits, index))) => Cut::At {
                bits: *bits,
                last: *index as usize,
            },
        };
        if k >= self.len {
            return Bracket::exact(Cut::Everything);
        }
        let sure = cut(k / STEP);
        match k % STEP {
            0 => Bracket::exact(sure),
            missing => Bracket {
                sure,
                maybe: cut(k / STEP + 1),
                missing,
            },
        }
    }
}

/// A cut that is known but for a few entries: `sure` keeps too few, `maybe` may keep too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bracket {
    pub sure: Cut,
    pub maybe: Cut,
    missing: usize,
}

impl Bracket {
    pub fn exact(cut: Cut) -> Self {
        Bracket {
            sure: cut,
            maybe: cut,
            missing: 0,
        }
    }

    /// Whether nothing is open.
    pub fn is_exact(&self) -> bool {
        self.missing == 0
    }

    /// Entries that may be open.
    pub fn most_open(&self) -> usize {
        if self.is_exact() { 0 } else { STEP }
    }

    /// The bits of the magnitudes that are open at `index`, as a range.
    pub fn open_bits(&self, index: usize) -> (u32, u32) {
        (self.maybe.least(index), self.sure.least(index))
    }

    /// The entries of a chunk of the task vector whose fate is open.
    pub fn open(&self, start: usize, chunk: &[f32], found: &mut Vec<Place>) {
        if self.missing == 0 {
            return;
        }
        // Between two of these positions both thresholds are constant, so that counting is one vector loop.
        let mut ends = [
            self.sure.ties_kept(start, chunk.len()),
            self.maybe.ties_kept(start, chunk.len()),
            chunk.len(),
        ];
        ends.sort_unstable();
        let mut from = 0;
        for to in ends {
            let (low, high) = self.open_bits(start + from);
            // low ≤ bits < high, as one comparison.
            let between = |d: &f32| (d.to_bits() & 0x7fff_ffff).wrapping_sub(low) < high - low;
            let part = &chunk[from..to];
            let count: u32 = part.iter().map(|d| u32::from(between(d))).sum();
            if count > 0 {
                let open = part.iter().enumerate().filter(|(_, d)| between(d));
                let place = |(i, d): (usize, &f32)| (Reverse(d.to_bits() & 0x7fff_ffff), start + from + i);
                found.extend(open.map(place));
            }
            from = to;
        }
    }

    /// The cut, once all open entries are found.
    pub fn resolve(&self, found: &mut [Place]) -> Cut {
        if self.missing == 0 || found.len() < self.missing {
            return self.sure;
        }
        let (_, (Reverse(bits), last), _) = found.select_nth_unstable(self.missing - 1);
        Cut::At {
            bits: *bits,
            last: *last,
        }
    }
}

/// How many entries have which upper half.
fn histogram(measure: &impl Measure) -> Vec<usize> {
    let parts = fold_bits(
        measure,
        || vec![0u32; BINS],
        |bins: &mut Vec<u32>, _, bits| {
            for bits in bits {
                bins[(bits >> 16) as usize] += 1;
            }
        },
    );
    add(parts, BINS)
}

/// Of the entries with that upper half, how many have which lower half.
fn lower_histogram(measure: &impl Measure, upper: u32) -> Vec<usize> {
    const LOWER_BINS: usize = 1 << 16;
    let parts = fold_bits(
        measure,
        || vec![0u32; LOWER_BINS],
        |bins: &mut Vec<u32>, _, bits| {
            for bits in bits {
                if bits >> 16 == upper {
                    bins[(bits & 0xffff) as usize] += 1;
                }
            }
        },
    );
    add(parts, LOWER_BINS)
}

fn add(parts: Vec<Vec<u32>>, bins: usize) -> Vec<usize> {
    let mut total = vec![0usize; bins];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p as usize;
        }
    }
    total
}

/// The bin that holds the k-th largest, and how many entries lie in the bins above it.
fn bin_of(bins: &[usize], k: usize) -> (usize, usize) {
    let mut above = 0;
    for (bin, count) in bins.iter().enumerate().rev() {
        if above + count >= k {
            return (bin, above);
        }
        above += count;
    }
    (0, above)
}

impl Cut {
    /// Whether the cut keeps the entry `value` at `index`.
    #[cfg(test)]
    pub(crate) fn keeps(self, index: usize, value: f32) -> bool {
        match self {
            Cut::Everything => true,
            Cut::Nothing => false,
            Cut::At { bits, last } => {
                let magnitude = value.to_bits() & 0x7fff_ffff;
                magnitude > bits || (magnitude == bits && index <= last)
            }
        }
    }

    /// The smallest magnitude that is kept at `index`, as bits.
    pub(crate) fn least(self, index: usize) -> u32 {
        match self {
            Cut::Everything => 0,
            Cut::Nothing => u32::MAX,
            Cut::At { bits, last } => bits + u32::from(index > last),
        }
    }

    /// How many entries of a chunk stand up to the last one that is kept of those tied at the cut.
    pub(crate) fn ties_kept(self, start: usize, len: usize) -> usize {
        match self {
            Cut::At { last, .. } => (last + 1).saturating_sub(start).min(len),
            Cut::Everything | Cut::Nothing => len,
        }
    }

    /// Zeroes what the cut drops, in a chunk of the task vector that starts at `start`.
    #[inline(always)]
    pub(crate) fn keep(self, start: usize, chunk: &mut [f32]) {
        self.apply(start, chunk, |kept| kept);
    }

    /// Zeroes what the cut keeps.
    #[inline(always)]
    pub(crate) fn drop(self, start: usize, chunk: &mut [f32]) {
        self.apply(start, chunk, |kept| !kept);
    }

    #[inline(always)]
    fn apply(self, start: usize, chunk: &mut [f32], stays: impl Fn(bool) -> bool) {
        let ties_kept = self.ties_kept(start, chunk.len());
        let (head, tail) = chunk.split_at_mut(ties_kept);
        let leasts = [self.least(start), self.least(start + ties_kept)];
        for (part, least) in [head, tail].into_iter().zip(leasts) {
            for d in part {
                let kept = d.to_bits() & 0x7fff_ffff >= least;
                *d = if stays(kept) { *d } else { 0.0 };
            }
        }
    }
}

/// floor(fraction · n), as Python's `int(fraction * n)`.
pub(crate) fn share(fraction: f64, n: usize) -> usize {
    ((fraction * n as f64) as usize).min(n)
}

#[cfg(test)]
mod tests {
    use super::super::view::View;
    use super::*;
    use proptest::prelude::*;

    /// The definition: sort by magnitude (descending), then index; keep the first k.
    fn by_sorting(values: &[f32], k: usize) -> Vec<f32> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
        let mut out = vec![0.0; values.len()];
        for i in &order[..k.min(values.len())] {
            out[*i] = values[*i];
        }
        out
    }

    fn by_cut(values: &[f32], k: usize) -> (Vec<f32>, Vec<f32>) {
        let zeros = vec![0.0; values.len()];
        let inputs = Inputs::new(vec![View::F32(values), View::F32(&zeros)]);
        let cut = top(&inputs, 0, 1, k);
        let bracket = Index::build(&inputs, 0, 1).unwrap().bracket(k);
        let mut open = Vec::new();
        for (i, chunk) in values.chunks(7).enumerate() {
            bracket.open(i * 7, chunk, &mut open);
        }
        assert!(open.len() <= STEP);
        let resolved = bracket.resolve(&mut open);
        for (i, v) in values.iter().enumerate() {
            assert_eq!(resolved.keeps(i, *v), cut.keeps(i, *v), "k {k}, entry {i}");
        }
        let (mut kept, mut dropped) = (values.to_vec(), values.to_vec());
        for start in (0..values.len()).step_by(7) {
            let end = values.len().min(start + 7);
            cut.keep(start, &mut kept[start..end]);
            cut.drop(start, &mut dropped[start..end]);
        }
        (kept, dropped)
    }

    proptest! {
        #[test]
        fn the_cut_keeps_what_sorting_keeps(
            values in prop::collection::vec(prop_oneof![Just(0.5f32), Just(-0.5), Just(0.0), -1.0f32..1.0], 0..60),
            k in 0usize..70,
        ) {
            let expected = by_sorting(&values, k);
            let (kept, dropped) = by_cut(&values, k);
            prop_assert_eq!(&kept, &expected);
            for i in 0..values.len() {
                prop_assert_eq!(kept[i] + dropped[i], values[i]);
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let (kept, _) = by_cut(&[1.0, -1.0, 1.0, 2.0, -1.0], 3);
        assert_eq!(kept, [1.0, -1.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn large_tensors_with_many_ties() {
        let values: Vec<f32> = (0..300_000u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 20) as f32 - 2048.0) / 4096.0)
            .collect();
        for k in [1, 2999, 150_000, 299_999] {
            assert_eq!(by_cut(&values, k).0, by_sorting(&values, k));
        }
    }

    /// Enough entries for a sample, with few values, a value in each place, and one value for nearly all.
    #[test]
    fn a_sampled_cut_is_exact() {
        let scattered = |i: u32| i.wrapping_mul(2_654_435_761) ^ (i >> 7);
        let few = |i: u32| [0.0f32, 0.25, -0.25, 0.5, -1.0][scattered(i) as usize % 5];
        let many = |i: u32| scattered(i) as f32 / 1e9 - 2.0;
        let one = |i: u32| if i % 1000 == 7 { many(i) } else { 0.125 };
        let odd = |i: u32| if i < 150_000 { 0.001 } else { many(i) }; // what a sample of neighbours gets wrong
        for of in [&few as &dyn Fn(u32) -> f32, &many, &one, &odd] {
            let values: Vec<f32> = (0..200_003).map(of).collect();
            let zeros = vec![0.0; values.len()];
            let inputs = Inputs::new(vec![View::F32(&values), View::F32(&zeros)]);
            for k in [1, 100, 60_001, 100_000, 140_000, 200_002] {
                for cut in [top(&inputs, 0, 1, k), by_histograms(&Magnitudes::new(&inputs, 0, 1), k)] {
                    let mut kept = values.clone();
                    cut.keep(0, &mut kept);
                    assert!(kept == by_sorting(&values, k), "k {k}");
                }
            }
        }
    }

    #[test]
    fn shares_round_down() {
        assert_eq!(
            (share(0.5, 5), share(0.3, 10), share(0.001, 100), share(1.0, 7)),
            (2, 3, 0, 7)
        );
    }
}
