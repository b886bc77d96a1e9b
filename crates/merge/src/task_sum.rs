//! base + λ · Σ wₖ · trimmed τₖ: the shape that task arithmetic, TIES, DARE, DELLA and Breadcrumbs share.
//!
//! Order of operations, as in mergekit: τ = x − base, trim, rescale, × weight, elect a sign, sum, ÷ weights, × λ, + base.
//! All of it is one pass over the parents, after the passes that the trim itself needs.

use std::sync::Mutex;

use serde::Serialize;

use super::{
    breadcrumbs, dare, della, fused,
    gradient::add_up,
    magnitude::{Bracket, Cut, Place},
    parents::{Parents, Refusal, difference},
    random::Key,
    ties,
    view::{CHUNK, Inputs, Target, dot, sum_abs, widen},
};

/// The parameters of the family, for one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TaskSum {
    /// One for each model but the base, in recipe order.
    pub terms: Vec<Term>,
    pub rescale: Rescale,
    /// Whether only entries of the elected sign take part (TIES).
    pub elect: bool,
    /// Whether the sum is divided by the weights that take part.
    pub normalize: bool,
    pub lambda: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Term {
    pub weight: f32,
    pub trim: Trim,
}

/// Which entries of a task vector stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) enum Trim {
    Nothing,
    /// The largest magnitudes (TIES).
    Smallest {
        density: f64,
    },
    /// The largest magnitudes after the very largest (Breadcrumbs).
    Outliers {
        density: f64,
        gamma: f64,
    },
    /// Each entry with one probability (DARE).
    Random {
        density: f64,
        key: u64,
    },
    /// Each entry with a probability by its rank in its row (DELLA).
    Ranked {
        density: f64,
        epsilon: f64,
        key: u64,
    },
}

/// What happens to the entries that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Rescale {
    None,
    /// × ‖τ‖₁ / ‖trimmed τ‖₁: mergekit's `rescale: true`.
    L1,
    /// ÷ the probability (or fraction) of staying: the papers' rule.
    Expectation,
}

impl TaskSum {
    /// What each task vector is multiplied with, where all of them are whole and none is heard more than another.
    pub fn factors(&self) -> Option<Vec<f64>> {
        let is_whole = |term: &Term| match term.trim {
            Trim::Nothing => true,
            Trim::Smallest { density } | Trim::Random { density, .. } | Trim::Ranked { density, .. } => density >= 1.0,
            // The very largest may be missing at any density.
            Trim::Outliers { .. } => false,
        };
        if self.elect || !self.terms.iter().all(is_whole) {
            return None;
        }
        let total: f64 = self.terms.iter().map(|term| f64::from(term.weight)).sum();
        let divisor = if self.normalize && total.abs() >= 1e-8 {
            total
        } else {
            1.0
        };
        let factor = |term: &Term| f64::from(self.lambda) * f64::from(term.weight) / divisor;
        Some(self.terms.iter().map(factor).collect())
    }
}

/// A trim, ready to be applied to a chunk.
pub(crate) enum Keep {
    Cut(Cut),
    /// Inside `outer`, outside `inner`.
    Band {
        outer: Cut,
        inner: Cut,
    },
    Random {
        key: Key,
        threshold: u64,
    },
    /// A bit for each entry, set where it stays.
    Marked(Vec<u64>),
    /// One factor for each entry: 0, or what it is multiplied with.
    Factors(Vec<f32>),
}

impl Keep {
    #[inline(always)]
    fn apply(&self, start: usize, chunk: &mut [f32]) {
        match self {
            Keep::Cut(Cut::Everything) => {}
            Keep::Cut(cut) => cut.keep(start, chunk),
            Keep::Band { outer, inner } => {
                // The inner cut speaks of the largest entries, so it must see them before others become zero.
                inner.drop(start, chunk);
                outer.keep(start, chunk);
            }
            Keep::Random { key, threshold } => dare::mask(*key, *threshold, start, chunk),
            Keep::Marked(marks) => {
                // Chunks begin at a multiple of a word's bits.
                for (word, d) in marks[start / 64..].iter().zip(chunk.chunks_mut(64)) {
                    for (place, d) in d.iter_mut().enumerate() {
                        *d = if word >> place & 1 == 1 { *d } else { 0.0 };
                    }
                }
            }
            Keep::Factors(factors) => {
                for (d, f) in chunk.iter_mut().zip(&factors[start..]) {
                    *d *= f;
                }
            }
        }
    }
}

/// Merges one tensor. Without models besides the base, the base is the result.
pub(crate) fn merge(parents: &Parents<'_>, sum: &TaskSum, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let models = parents.models();
    let brackets = brackets(parents, &models, sum, out.keeps());
    let mut keeps = Vec::new();
    for (i, (k, term)) in models.iter().zip(&sum.terms).enumerate() {
        keeps.push(match &brackets[i] {
            Some(bracket) => Keep::Cut(bracket.sure),
            None => keep(parents, *k, term, sum.rescale)?,
        });
    }
    let scales: Vec<f32> = (0..models.len())
        .map(|i| scale(parents, models[i], &keeps[i], &sum.terms[i], sum.rescale))
        .collect();
    let mut pass = Pass {
        sum,
        base,
        models,
        keeps,
        brackets,
        scales,
        total: total(sum),
        open: Mutex::default(),
    };
    let finite = match parents.inputs.all_bf16().filter(|_| pass.terms().fit()) {
        Some(views) => out.fill_with(parents.len(), &|| (), &|(), start, out| {
            pass.bf16_chunk(start, &views, &parents.inputs, out);
        }),
        None => parents.inputs.write(
            out,
            #[inline(always)]
            |start, chunks, scratch, out| {
                pass.chunk(start, chunks, scratch, out);
            },
        ),
    };
    let starts = pass.close();
    if starts.is_empty() {
        return Ok(finite);
    }
    let rewritten = parents.inputs.rewrite(out, &starts, |start, chunks, scratch, out| {
        pass.chunk(start, chunks, scratch, out);
    });
    Ok(finite & rewritten)
}

/// What a sum of all models is divided by, where it is divided.
pub(crate) fn total(sum: &TaskSum) -> f32 {
    let total: f32 = sum.terms.iter().map(|t| t.weight).sum();
    if total.abs() < 1e-8 { 1.0 } else { total }
}

/// The last pass over the parents, with all that it needs to know.
///
/// Where an index leaves a few entries open, the pass notes them; then the cuts are made exact, and the chunks that hold
/// such entries are made again.
pub(crate) struct Pass<'a> {
    sum: &'a TaskSum,
    base: usize,
    models: Vec<usize>,
    keeps: Vec<Keep>,
    brackets: Vec<Option<Bracket>>,
    scales: Vec<f32>,
    total: f32,
    /// First element of the chunk, model, place.
    open: Mutex<Vec<(usize, usize, Place)>>,
}

impl<'a> Pass<'a> {
    /// With nothing left open; `None` without a base.
    pub fn exact(parents: &Parents<'_>, sum: &'a TaskSum, keeps: Vec<Keep>, scales: Vec<f32>) -> Option<Self> {
        Some(Pass {
            sum,
            base: parents.base?,
            models: parents.models(),
            brackets: keeps.iter().map(|_| None).collect(),
            keeps,
            scales,
            total: total(sum),
            open: Mutex::default(),
        })
    }

    fn terms(&self) -> fused::Terms<'_> {
        fused::Terms {
            sum: self.sum,
            keeps: &self.keeps,
            brackets: &self.brackets,
            scales: &self.scales,
            total: self.total,
        }
    }

    #[inline(always)]
    pub fn chunk(&self, start: usize, chunks: &[&[f32]], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let terms = self.terms();
        if !terms.fit() {
            return self.general(start, chunks, scratch, out);
        }
        let mut models: [&[f32]; fused::MOST] = [&[]; fused::MOST];
        for (model, k) in models.iter_mut().zip(&self.models) {
            *model = chunks[*k];
        }
        if terms.merge(start, chunks[self.base], &models[..self.models.len()], |x| x, out) {
            self.note_all(start, chunks, scratch);
        }
    }

    /// As [`Pass::chunk`] where the loop fits, reading the parents' bf16 as they are.
    fn bf16_chunk(&self, start: usize, views: &[&[[u8; 2]]], inputs: &Inputs<'_>, out: &mut [f32]) {
        let part = start..start + out.len();
        let mut models: [&[[u8; 2]]; fused::MOST] = [&[]; fused::MOST];
        for (model, k) in models.iter_mut().zip(&self.models) {
            *model = &views[*k][part.clone()];
        }
        let (base, models) = (&views[self.base][part], &models[..self.models.len()]);
        if self.terms().merge(start, base, models, widen, out) {
            inputs.chunk(start, out.len(), |chunks, scratch| {
                self.note_all(start, chunks, scratch)
            });
        }
    }

    fn note_all(&self, start: usize, chunks: &[&[f32]], scratch: &mut Vec<f32>) {
        for (i, k) in self.models.iter().enumerate() {
            self.note(start, i, difference(chunks[*k], chunks[self.base], scratch));
        }
    }

    /// Pass by pass, for any number of models and any trim.
    #[inline(always)]
    fn general(&self, start: usize, chunks: &[&[f32]], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let len = out.len();
        let base = chunks[self.base];
        scratch.resize(CHUNK * self.models.len(), 0.0);
        for (i, place) in scratch.chunks_mut(CHUNK).enumerate() {
            let delta = &mut place[..len];
            for ((d, x), b) in delta.iter_mut().zip(chunks[self.models[i]]).zip(base) {
                *d = x - b;
            }
            self.note(start, i, delta);
            self.keeps[i].apply(start, delta);
            let (scale, weight) = (self.scales[i], self.sum.terms[i].weight);
            for d in delta {
                *d = *d * scale * weight;
            }
        }
        let deltas = scratch.chunks(CHUNK).take(self.models.len()).map(|p| &p[..len]);
        if self.sum.elect {
            ties::elect_and_sum(deltas, &self.sum.terms, self.sum.normalize, out);
        } else {
            add(deltas, out);
            if self.sum.normalize {
                for o in out.iter_mut() {
                    *o /= self.total;
                }
            }
        }
        for (o, b) in out.iter_mut().zip(base) {
            *o = b + *o * self.sum.lambda;
        }
    }

    /// Remembers the entries of a chunk of τ of model `i` whose fate is open.
    fn note(&self, start: usize, i: usize, delta: &[f32]) {
        let Some(bracket) = &self.brackets[i] else {
            return;
        };
        let mut found = Vec::new();
        bracket.open(start, delta, &mut found);
        if !found.is_empty() {
            let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
            open.extend(found.into_iter().map(|place| (start, i, place)));
        }
    }

    /// Makes the cuts exact. Returns the chunks that held open entries.
    fn close(&mut self) -> Vec<usize> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(|e| e.into_inner()));
        for (i, (bracket, keep)) in self.brackets.iter_mut().zip(&mut self.keeps).enumerate() {
            if let Some(bracket) = bracket.take() {
                let of_model = open.iter().filter(|(_, model, _)| *model == i);
                let mut found: Vec<Place> = of_model.map(|(.., place)| *place).collect();
                *keep = Keep::Cut(bracket.resolve(&mut found));
            }
        }
        let mut starts: Vec<usize> = open.iter().map(|(start, ..)| *start).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }
}

/// Cuts that a cache knows but for a few entries, where nothing but the last pass needs them, and that pass can mend.
fn brackets(parents: &Parents<'_>, models: &[usize], sum: &TaskSum, mends: bool) -> Vec<Option<Bracket>> {
    let of = |(k, term): (&usize, &Term)| match term.trim {
        Trim::Smallest { density } if density < 1.0 && sum.rescale != Rescale::L1 && mends => {
            parents.bracket(*k, ties::kept(density, parents.len()))
        }
        _ => None,
    };
    models.iter().zip(&sum.terms).map(of).collect()
}

/// The derivative with respect to each term's weight and to λ, where `upstream` is that with respect to the result. What
/// is trimmed, how it is rescaled and which sign is elected stay as they are.
pub(crate) fn gradient(parents: &Parents<'_>, sum: &TaskSum, upstream: &[f32]) -> Result<Vec<f64>, Refusal> {
    let Some(base) = parents.base else {
        return Ok(vec![0.0; sum.terms.len() + 1]);
    };
    let models = parents.models();
    let mut keeps = Vec::new();
    for (k, term) in models.iter().zip(&sum.terms) {
        keeps.push(keep(parents, *k, term, sum.rescale)?);
    }
    let scales: Vec<f32> = (0..models.len())
        .map(|i| scale(parents, models[i], &keeps[i], &sum.terms[i], sum.rescale))
        .collect();
    let total: f32 = sum.terms.iter().map(|t| t.weight).sum();
    // A sum of nothing is divided by 1, whatever the weights.
    let total = if total.abs() < 1e-8 {
        None
    } else {
        Some(f64::from(total))
    };
    let parts = parents.inputs.each(
        #[inline(always)]
        |start, chunks, scratch| {
            let len = chunks[base].len();
            scratch.resize(CHUNK * models.len(), 0.0);
            for (i, place) in scratch.chunks_mut(CHUNK).enumerate() {
                let delta = &mut place[..len];
                for ((d, x), b) in delta.iter_mut().zip(chunks[models[i]]).zip(chunks[base]) {
                    *d = x - b;
                }
                keeps[i].apply(start, delta);
                delta.iter_mut().for_each(|d| *d *= scales[i]);
            }
            let deltas: Vec<&[f32]> = scratch.chunks(CHUNK).take(models.len()).map(|p| &p[..len]).collect();
            let upstream = &upstream[start..start + len];
            match sum.elect {
                true => ties::slopes(&deltas, &sum.terms, sum.normalize, upstream),
                false => plain_slopes(&deltas, &sum.terms, total.filter(|_| sum.normalize), upstream),
            }
        },
    );
    let mut slopes = add_up(models.len() + 1, parts);
    slopes[..models.len()]
        .iter_mut()
        .for_each(|s| *s *= f64::from(sum.lambda));
    Ok(slopes)
}

/// Of one chunk of a sum without election, at λ = 1; `divisor` is what it is divided by.
fn plain_slopes(deltas: &[&[f32]], terms: &[Term], divisor: Option<f64>, upstream: &[f32]) -> Vec<f64> {
    let along: Vec<f64> = deltas.iter().map(|delta| dot(upstream, delta)).collect();
    let sum: f64 = along
        .iter()
        .zip(terms)
        .map(|(a, term)| a * f64::from(term.weight))
        .sum();
    let mean = sum / divisor.unwrap_or(1.0);
    let of_weight = |a: &f64| divisor.map_or(*a, |divisor| (a - mean) / divisor);
    along.iter().map(of_weight).chain([mean]).collect()
}

#[inline(always)]
fn add<'a>(deltas: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
    out.fill(0.0);
    for delta in deltas {
        for (o, d) in out.iter_mut().zip(delta) {
            *o += d;
        }
    }
}

fn keep(parents: &Parents<'_>, k: usize, term: &Term, rescale: Rescale) -> Result<Keep, Refusal> {
    Ok(match term.trim {
        Trim::Nothing => Keep::Cut(Cut::Everything),
        Trim::Smallest { density } => Keep::Cut(ties::cut(parents, k, density)),
        Trim::Outliers { density, gamma } => breadcrumbs::band(parents, k, density, gamma),
        Trim::Random { density, key } => dare::keep(Key(key), density),
        Trim::Ranked { density, epsilon, key } => della::keep(
            parents,
            k,
            &della::Ranked {
                density,
                epsilon,
                key: Key(key),
                divide: rescale == Rescale::Expectation,
            },
        )?,
    })
}

/// The factor that makes up for what the trim takes away; `None`: it restores the length, see [`restoring_scale`].
pub(crate) fn known_scale(term: &Term, rescale: Rescale) -> Option<f32> {
    let density = match term.trim {
        Trim::Nothing => return Some(1.0),
        Trim::Smallest { density }
        | Trim::Outliers { density, .. }
        | Trim::Random { density, .. }
        | Trim::Ranked { density, .. } => density,
    };
    // Of nothing, nothing is made up for.
    if density >= 1.0 || density <= 0.0 {
        return Some(1.0);
    }
    match rescale {
        Rescale::None => Some(1.0),
        // DELLA's factors carry their own probabilities.
        Rescale::Expectation if matches!(term.trim, Trim::Ranked { .. }) => Some(1.0),
        Rescale::Expectation => Some((1.0 / density) as f32),
        Rescale::L1 => None,
    }
}

/// The factor that gives what is kept of a task vector its ‖τ‖₁ again.
pub(crate) fn restoring_scale(before: f64, after: f64) -> f32 {
    if before < 1e-7 || after < 1e-7 {
        1.0
    } else {
        (before / after) as f32
    }
}

/// The factor that makes up for what the trim took away.
fn scale(parents: &Parents<'_>, k: usize, keep: &Keep, term: &Term, rescale: Rescale) -> f32 {
    if let Some(known) = known_scale(term, rescale) {
        return known;
    }
    let before = parents.l1(k);
    let base = parents.base.unwrap_or(k);
    let after: f64 = parents
        .inputs
        .each(
            #[inline(always)]
            |start, chunks, scratch| {
                let delta = difference(chunks[k], chunks[base], scratch);
                keep.apply(start, delta);
                sum_abs(delta)
            },
        )
        .iter()
        .sum();
    restoring_scale(before, after)
}
