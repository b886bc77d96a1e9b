//! The sum of task vectors as one loop in registers, for up to four models whose trims are cuts by magnitude.
//!
//! bf16 parents are widened in the same registers. Does to each element exactly what the general passes of [`task_sum`](super::task_sum) do, operation by operation, so
//! the bits are the same; it only spares the traffic between the passes.

use super::{
    magnitude::{Bracket, Cut},
    task_sum::{Keep, TaskSum},
    view::isa,
};

/// The most models that the loop is made for.
pub(crate) const MOST: usize = 4;

/// One above the bits of the largest magnitude.
const ABOVE_ALL: u32 = 0x8000_0000;

/// What one model's entries go through in a segment of constant thresholds.
#[derive(Clone, Copy, Default)]
struct Window {
    /// Entries whose magnitude's bits are in `least..least + span` stay.
    least: u32,
    span: u32,
    /// Entries that are dropped with this magnitude or a larger one wait for the exact cut.
    open: u32,
    scale: f32,
    weight: f32,
}

/// What stays the same for a whole tensor.
pub(crate) struct Terms<'a> {
    pub sum: &'a TaskSum,
    pub keeps: &'a [Keep],
    pub brackets: &'a [Option<Bracket>],
    pub scales: &'a [f32],
    /// Divisor without election.
    pub total: f32,
}

impl Terms<'_> {
    /// Whether the loop can do it.
    pub fn fit(&self) -> bool {
        let cuts = self.keeps.iter().all(|k| matches!(k, Keep::Cut(_) | Keep::Band { .. }));
        cuts && (1..=MOST).contains(&self.keeps.len())
    }

    /// Merges one chunk, whose elements `read` makes f32 of. Returns whether it holds entries whose fate is open.
    pub fn merge<T: Copy>(
        &self,
        start: usize,
        base: &[T],
        models: &[&[T]],
        read: impl Fn(T) -> f32 + Copy,
        out: &mut [f32],
    ) -> bool {
        let mut open = false;
        let mut from = 0;
        for to in self.ends(start, out.len()) {
            if from < to {
                let windows: [Window; MOST] = std::array::from_fn(|k| self.window(k, start + from));
                let mut parts: [&[T]; MOST] = [&[]; MOST];
                for (part, model) in parts.iter_mut().zip(models) {
                    *part = &model[from..to];
                }
                let segment = Segment {
                    base: &base[from..to],
                    models: parts,
                    windows,
                    scaled: self.scales.iter().any(|s| *s != 1.0),
                    total: self.total,
                    lambda: self.sum.lambda,
                    read,
                };
                open |= segment.dispatch(models.len(), self.sum, &mut out[from..to]);
                from = to;
            }
        }
        open
    }

    /// Where a threshold changes within a chunk, in order, and its end.
    fn ends(&self, start: usize, len: usize) -> Vec<usize> {
        let mut ends = vec![len];
        let mut at = |cut: &Cut| ends.push(cut.ties_kept(start, len));
        for keep in self.keeps {
            match keep {
                Keep::Cut(cut) => at(cut),
                Keep::Band { outer, inner } => [outer, inner].into_iter().for_each(&mut at),
                Keep::Random { .. } | Keep::Marked(_) | Keep::Factors(_) => {}
            }
        }
        self.brackets.iter().flatten().for_each(|b| at(&b.maybe));
        ends.sort_unstable();
        ends
    }

    fn window(&self, k: usize, index: usize) -> Window {
        let Some(keep) = self.keeps.get(k) else {
            return Window {
                open: u32::MAX,
                ..Window::default()
            };
        };
        let (least, above) = match keep {
            Keep::Cut(cut) => (cut.least(index), ABOVE_ALL),
            Keep::Band { outer, inner } => (outer.least(index), inner.least(index).min(ABOVE_ALL)),
            Keep::Random { .. } | Keep::Marked(_) | Keep::Factors(_) => (0, 0),
        };
        // An exact bracket has no room between its ends.
        let open = self.brackets[k].map(|b| b.open_bits(index));
        let open = open.filter(|(low, high)| low < high).map_or(u32::MAX, |(low, _)| low);
        Window {
            least,
            span: above.saturating_sub(least),
            open,
            scale: self.scales[k],
            weight: self.sum.terms[k].weight,
        }
    }
}

struct Segment<'a, T, R> {
    base: &'a [T],
    models: [&'a [T]; MOST],
    windows: [Window; MOST],
    /// Whether any scale is not 1.
    scaled: bool,
    total: f32,
    lambda: f32,
    read: R,
}

impl<T: Copy, R: Fn(T) -> f32 + Copy> Segment<'_, T, R> {
    fn dispatch(&self, count: usize, sum: &TaskSum, out: &mut [f32]) -> bool {
        match (sum.elect, sum.normalize, self.scaled) {
            (true, true, true) => self.by_count::<true, true, true>(count, out),
            (true, true, false) => self.by_count::<true, true, false>(count, out),
            (true, false, true) => self.by_count::<true, false, true>(count, out),
            (true, false, false) => self.by_count::<true, false, false>(count, out),
            (false, true, true) => self.by_count::<false, true, true>(count, out),
            (false, true, false) => self.by_count::<false, true, false>(count, out),
            (false, false, true) => self.by_count::<false, false, true>(count, out),
            (false, false, false) => self.by_count::<false, false, false>(count, out),
        }
    }

    fn by_count<const ELECT: bool, const NORMALIZE: bool, const SCALED: bool>(
        &self,
        count: usize,
        out: &mut [f32],
    ) -> bool {
        match count {
            1 => self.run::<1, ELECT, NORMALIZE, SCALED>(out),
            2 => self.run::<2, ELECT, NORMALIZE, SCALED>(out),
            3 => self.run::<3, ELECT, NORMALIZE, SCALED>(out),
            _ => self.run::<MOST, ELECT, NORMALIZE, SCALED>(out),
        }
    }

    fn run<const K: usize, const ELECT: bool, const NORMALIZE: bool, const SCALED: bool>(
        &self,
        out: &mut [f32],
    ) -> bool {
        isa().run(
            #[inline(always)]
            || self.merge::<K, ELECT, NORMALIZE, SCALED>(out),
        )
    }

    /// Comparisons and selections only, which become masks, so that the loop is vector code.
    #[inline(always)]
    fn merge<const K: usize, const ELECT: bool, const NORMALIZE: bool, const SCALED: bool>(
        &self,
        out: &mut [f32],
    ) -> bool {
        let (n, read) = (out.len(), self.read);
        let base = &self.base[..n];
        let models: [&[T]; K] = std::array::from_fn(|k| &self.models[k][..n]);
        let windows: [Window; K] = std::array::from_fn(|k| self.windows[k]);
        // The largest magnitudes that are dropped. Four names and not an array, which would stay in memory.
        let (mut most_0, mut most_1, mut most_2, mut most_3) = (0u32, 0u32, 0u32, 0u32);
        for i in 0..n {
            let b = read(base[i]);
            let mut deltas = [0.0f32; K];
            let mut all = 0.0f32;
            for k in 0..K {
                let w = &windows[k];
                let tau = read(models[k][i]) - b;
                let magnitude = tau.to_bits() & 0x7fff_ffff;
                let stays = magnitude.wrapping_sub(w.least) < w.span;
                let dropped = if stays { 0 } else { magnitude };
                match k {
                    0 => most_0 = most_0.max(dropped),
                    1 => most_1 = most_1.max(dropped),
                    2 => most_2 = most_2.max(dropped),
                    _ => most_3 = most_3.max(dropped),
                }
                let kept = if stays { tau } else { 0.0 };
                let rescaled = if SCALED { kept * w.scale } else { kept };
                deltas[k] = rescaled * w.weight;
                all += deltas[k];
            }
            let (mut sum, mut divisor) = (all, self.total);
            if ELECT {
                (sum, divisor) = (0.0, 0.0);
                let negative = if all < 0.0 { 1u32 << 31 } else { 0 };
                for k in 0..K {
                    // The elected sign is made +. A zero has no sign; a NaN agrees, so that it is not lost.
                    let along = f32::from_bits(deltas[k].to_bits() ^ negative);
                    let disagrees = along <= 0.0;
                    sum += if disagrees { 0.0 } else { along };
                    divisor += if disagrees { 0.0 } else { windows[k].weight };
                }
                sum = f32::from_bits(sum.to_bits() ^ negative);
                divisor = if divisor == 0.0 { 1.0 } else { divisor };
            }
            if NORMALIZE {
                sum /= divisor;
            }
            out[i] = b + sum * self.lambda;
        }
        let most = [most_0, most_1, most_2, most_3];
        windows.iter().zip(most).any(|(w, most)| most >= w.open)
    }
}
