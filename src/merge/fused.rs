//! The sum of task vectors as one loop in registers, for up to four models whose trims are cuts by magnitude.
//!
//! Does to each element exactly what the general passes of [`task_sum`](super::task_sum) do, operation by operation, so
//! the bits are the same; it only spares the traffic between the passes.

use super::{
    magnitude::{Bracket, Cut},
    task_sum::{Keep, TaskSum},
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
    /// Entries in `open..open + open_span` wait for the exact cut.
    open: u32,
    open_span: u32,
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

    /// Merges one chunk. Returns whether it holds entries whose fate is open.
    pub fn merge(&self, start: usize, base: &[f32], models: &[&[f32]], out: &mut [f32]) -> bool {
        let mut open = false;
        let mut from = 0;
        for to in self.ends(start, out.len()) {
            if from < to {
                let windows: [Window; MOST] = std::array::from_fn(|k| self.window(k, start + from));
                let mut parts: [&[f32]; MOST] = [&[]; MOST];
                for (part, model) in parts.iter_mut().zip(models) {
                    *part = &model[from..to];
                }
                let segment = Segment {
                    base: &base[from..to],
                    models: parts,
                    windows,
                    total: self.total,
                    lambda: self.sum.lambda,
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
                Keep::Random { .. } | Keep::Factors(_) => {}
            }
        }
        self.brackets.iter().flatten().for_each(|b| at(&b.maybe));
        ends.sort_unstable();
        ends
    }

    fn window(&self, k: usize, index: usize) -> Window {
        let Some(keep) = self.keeps.get(k) else {
            return Window::default();
        };
        let (least, above) = match keep {
            Keep::Cut(cut) => (cut.least(index), ABOVE_ALL),
            Keep::Band { outer, inner } => (outer.least(index), inner.least(index).min(ABOVE_ALL)),
            Keep::Random { .. } | Keep::Factors(_) => (0, 0),
        };
        let open = self.brackets[k].map_or((0, 0), |b| b.open_bits(index));
        Window {
            least,
            span: above.saturating_sub(least),
            open: open.0,
            open_span: open.1 - open.0,
            scale: self.scales[k],
            weight: self.sum.terms[k].weight,
        }
    }
}

struct Segment<'a> {
    base: &'a [f32],
    models: [&'a [f32]; MOST],
    windows: [Window; MOST],
    total: f32,
    lambda: f32,
}

impl Segment<'_> {
    fn dispatch(&self, count: usize, sum: &TaskSum, out: &mut [f32]) -> bool {
        match (sum.elect, sum.normalize) {
            (true, true) => self.by_count::<true, true>(count, out),
            (true, false) => self.by_count::<true, false>(count, out),
            (false, true) => self.by_count::<false, true>(count, out),
            (false, false) => self.by_count::<false, false>(count, out),
        }
    }

    fn by_count<const ELECT: bool, const NORMALIZE: bool>(&self, count: usize, out: &mut [f32]) -> bool {
        match count {
            1 => self.run::<1, ELECT, NORMALIZE>(out),
            2 => self.run::<2, ELECT, NORMALIZE>(out),
            3 => self.run::<3, ELECT, NORMALIZE>(out),
            _ => self.run::<MOST, ELECT, NORMALIZE>(out),
        }
    }

    fn run<const K: usize, const ELECT: bool, const NORMALIZE: bool>(&self, out: &mut [f32]) -> bool {
        let n = out.len();
        let base = &self.base[..n];
        let models: [&[f32]; K] = std::array::from_fn(|k| &self.models[k][..n]);
        let windows: [Window; K] = std::array::from_fn(|k| self.windows[k]);
        let mut open = 0u32;
        for i in 0..n {
            let b = base[i];
            let mut deltas = [0.0f32; K];
            let mut all = 0.0f32;
            for k in 0..K {
                let w = &windows[k];
                let tau = models[k][i] - b;
                let magnitude = tau.to_bits() & 0x7fff_ffff;
                open |= u32::from(magnitude.wrapping_sub(w.open) < w.open_span);
                let stays = u32::from(magnitude.wrapping_sub(w.least) < w.span).wrapping_neg();
                deltas[k] = f32::from_bits(tau.to_bits() & stays) * w.scale * w.weight;
                all += deltas[k];
            }
            let (mut sum, mut divisor) = (all, self.total);
            if ELECT {
                (sum, divisor) = (0.0, 0.0);
                let negative = u32::from(all < 0.0) << 31;
                for k in 0..K {
                    // All ones where the entry has the elected sign; a zero has none.
                    let opposite = (deltas[k].to_bits() ^ negative) >> 31;
                    let agrees = opposite.wrapping_sub(1) & u32::from(deltas[k] != 0.0).wrapping_neg();
                    sum += f32::from_bits(deltas[k].to_bits() & agrees);
                    divisor += f32::from_bits(windows[k].weight.to_bits() & agrees);
                }
                divisor = if divisor == 0.0 { 1.0 } else { divisor };
            }
            if NORMALIZE {
                sum /= divisor;
            }
            out[i] = b + sum * self.lambda;
        }
        open != 0
    }
}
