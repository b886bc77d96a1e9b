//! base + λ · Σ wₖ · trimmed τₖ: the shape that task arithmetic, TIES, DARE, DELLA and Breadcrumbs share.
//!
//! Order of operations, as in mergekit: τ = x − base, trim, rescale, × weight, elect a sign, sum, ÷ weights, × λ, + base.
//! All of it is one pass over the parents, after the passes that the trim itself needs.

use std::sync::Mutex;

use serde::Serialize;

use super::{
    breadcrumbs, dare, della,
    magnitude::{Bracket, Cut, Place, share},
    parents::{Parents, Refusal, difference},
    random::Key,
    ties,
    view::{CHUNK, Target, sum_abs},
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
    /// One factor for each entry: 0, or what it is multiplied with.
    Factors(Vec<f32>),
}

impl Keep {
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
    let brackets = brackets(parents, &models, sum);
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
    let total: f32 = sum.terms.iter().map(|t| t.weight).sum();
    let total = if total.abs() < 1e-8 { 1.0 } else { total };
    // Where an index leaves a few entries open, the pass finds them, and the chunks that hold them are made again.
    let open: Mutex<Vec<(usize, usize, Place)>> = Mutex::default();
    let note = |start: usize, i: usize, delta: &[f32]| {
        if let Some(bracket) = &brackets[i] {
            let mut found = Vec::new();
            bracket.open(start, delta, &mut found);
            if !found.is_empty() {
                let mut open = open.lock().unwrap_or_else(|e| e.into_inner());
                open.extend(found.into_iter().map(|place| (start, i, place)));
            }
        }
    };
    let chunk =
        |keeps: &[Keep], noted: bool, start: usize, chunks: &[&[f32]], scratch: &mut Vec<f32>, out: &mut [f32]| {
            let len = out.len();
            let base = chunks[base];
            scratch.resize(CHUNK * models.len(), 0.0);
            for (i, place) in scratch.chunks_mut(CHUNK).enumerate() {
                let delta = &mut place[..len];
                for ((d, x), b) in delta.iter_mut().zip(chunks[models[i]]).zip(base) {
                    *d = x - b;
                }
                if noted {
                    note(start, i, delta);
                }
                keeps[i].apply(start, delta);
                let (scale, weight) = (scales[i], sum.terms[i].weight);
                for d in delta {
                    *d = *d * scale * weight;
                }
            }
            let deltas = scratch.chunks(CHUNK).take(models.len()).map(|p| &p[..len]);
            if sum.elect {
                ties::elect_and_sum(deltas, &sum.terms, sum.normalize, out);
            } else {
                add(deltas, out);
                if sum.normalize {
                    for o in out.iter_mut() {
                        *o /= total;
                    }
                }
            }
            for (o, b) in out.iter_mut().zip(base) {
                *o = b + *o * sum.lambda;
            }
        };
    let finite = parents.inputs.write(out, |start, chunks, scratch, out| {
        chunk(&keeps, true, start, chunks, scratch, out);
    });
    let open = std::mem::take(&mut *open.lock().unwrap_or_else(|e| e.into_inner()));
    if open.is_empty() {
        return Ok(finite);
    }
    let starts = resolve(&brackets, &open, &mut keeps);
    let rewritten = parents.inputs.rewrite(out, &starts, |start, chunks, scratch, out| {
        chunk(&keeps, false, start, chunks, scratch, out);
    });
    Ok(finite & rewritten)
}

/// Cuts that a cache knows but for a few entries, where nothing but the last pass needs them.
fn brackets(parents: &Parents<'_>, models: &[usize], sum: &TaskSum) -> Vec<Option<Bracket>> {
    let of = |(k, term): (&usize, &Term)| match term.trim {
        Trim::Smallest { density } if density < 1.0 && sum.rescale != Rescale::L1 => {
            parents.bracket(*k, share(density, parents.len()))
        }
        _ => None,
    };
    models.iter().zip(&sum.terms).map(of).collect()
}

/// Makes the cuts exact. Returns the chunks that held open entries.
fn resolve(brackets: &[Option<Bracket>], open: &[(usize, usize, Place)], keeps: &mut [Keep]) -> Vec<usize> {
    for (i, (bracket, keep)) in brackets.iter().zip(keeps).enumerate() {
        if let Some(bracket) = bracket {
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
            della::Ranked {
                density,
                epsilon,
                key: Key(key),
                divide: rescale == Rescale::Expectation,
            },
        )?,
    })
}

/// The factor that makes up for what the trim took away.
fn scale(parents: &Parents<'_>, k: usize, keep: &Keep, term: &Term, rescale: Rescale) -> f32 {
    let density = match term.trim {
        Trim::Nothing => return 1.0,
        Trim::Smallest { density }
        | Trim::Outliers { density, .. }
        | Trim::Random { density, .. }
        | Trim::Ranked { density, .. } => density,
    };
    if density >= 1.0 || rescale == Rescale::None {
        return 1.0;
    }
    if rescale == Rescale::Expectation {
        // DELLA's factors carry their own probabilities.
        let divided = matches!(term.trim, Trim::Ranked { .. });
        return if divided { 1.0 } else { (1.0 / density) as f32 };
    }
    let before = parents.l1(k);
    let base = parents.base.unwrap_or(k);
    let after: f64 = parents
        .inputs
        .each(|start, chunks, scratch| {
            let delta = difference(chunks[k], chunks[base], scratch);
            keep.apply(start, delta);
            sum_abs(delta)
        })
        .iter()
        .sum();
    if before < 1e-7 || after < 1e-7 {
        1.0
    } else {
        (before / after) as f32
    }
}
