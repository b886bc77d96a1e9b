//! A genetic algorithm for genes of every kind: tournaments, crossover, mutation, and survival of the best.
//!
//! Parents and children compete for the next generation's places (μ + λ, so the best always survive). Under noise the
//! parents are asked for again with every generation, because a parent that was merely lucky would otherwise stay for
//! ever; and every score is shrunk towards the population's mean by how little is known of it.
//!
//! Where the caller says what each individual answers, competition and attraction (`attraction.rs`) can take the place
//! of tournaments and of survival by fitness.
//!
//! Genomes that hold a path (`path.rs`) have operators of their own, and a memory: a path that has been answered for is
//! not asked for again as a child, as long as drawing again finds another.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::attraction::{self, Answered, Niches};
use super::chance::{Address, Stream};
use super::coordinates::unit;
use super::domain::{Domain, Gene, Genotype};
use super::ledger::Answer;
use super::path::{self, Slot};
use super::ranking::{self, Ranking};
use super::variation::Variation;
use super::{Options, Outcome, Spread};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genetic {
    params: Params,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Params {
    seed: u64,
    /// Parents, and children in a generation.
    size: usize,
    tournament: usize,
    reevaluates_parents: bool,
    variation: Variation,
    /// Empty when the genomes hold no path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    slots: Vec<Slot>,
    /// Above 0 where individuals compete for questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    competition: Option<f64>,
    /// Where each gene lies in the order of layers; only for competition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    places: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Best first.
    parents: Vec<Individual>,
    flat: u64,
    /// Hashes of the paths that have been answered for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    visited: BTreeSet<u64>,
    /// Where the first paths are drawn, if the caller said where to begin: means and standard deviations. Half of all
    /// layers in any order is no model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    around: Option<(Vec<f64>, Vec<f64>)>,
}

/// A genotype and everything that is known of its worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Individual {
    id: u64,
    genotype: Genotype,
    /// The newest outcome.
    outcome: Outcome,
    /// All costs measured so far: how many, their sum, the sum of their squares.
    count: f64,
    sum: f64,
    squares: f64,
    /// The newest answers; only for competition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    answers: Vec<Answered>,
}

const DEFAULT_SIZE: usize = 20;
const TOURNAMENT: usize = 2;
/// How often a child that is its parent's double is drawn again.
const ATTEMPTS: usize = 10;

impl Genetic {
    pub fn new(domain: &Domain, options: &Options) -> Self {
        let competition = options.competition.filter(|alpha| *alpha > 0.0);
        let params = Params {
            competition,
            places: match competition {
                Some(_) => attraction::places(&options.groups, domain.genes().len()),
                None => Vec::new(),
            },
            seed: options.seed,
            size: options.population_size.unwrap_or(DEFAULT_SIZE),
            tournament: TOURNAMENT,
            reevaluates_parents: options.noisy,
            variation: Variation::default(),
            slots: options.path.clone(),
        };
        Self {
            params,
            state: State::default(),
        }
    }

    /// The children, and the parents too if they are asked for again.
    pub fn population_size(&self) -> usize {
        self.params.size
            + if self.params.reevaluates_parents {
                self.state.parents.len()
            } else {
                0
            }
    }

    pub fn flat_generations(&self) -> u64 {
        self.state.flat
    }

    pub fn propose(&self, domain: &Domain, at: Address) -> Genotype {
        let parents = &self.state.parents;
        if self.params.reevaluates_parents
            && let Some(parent) = usize::try_from(at.index).ok().and_then(|index| parents.get(index))
        {
            return parent.genotype.clone();
        }
        let mut stream = Stream::at(self.params.seed, at);
        // Before anyone is known to work there is nothing to inherit.
        if parents.iter().all(|parent| parent.outcome == Outcome::Failed) {
            return self.fresh(domain, &mut stream);
        }
        let niches = self.niches();
        let mut child = self.child(domain, niches.as_ref(), &mut stream);
        for _ in 0..ATTEMPTS {
            let known = parents.iter().any(|parent| parent.genotype == child) || self.has_visited(&child);
            if !known {
                break;
            }
            child = self.child(domain, niches.as_ref(), &mut stream);
        }
        child
    }

    /// Begins a search of paths around a point; other genomes begin anywhere.
    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) {
        if self.params.slots.is_empty() {
            return;
        }
        let of_range = |part: &f64| {
            let genes = domain.genes().iter();
            genes.map(|gene| part * unit(gene)).collect()
        };
        let stds = match spread {
            Spread::OfRange(part) => of_range(part),
            Spread::OfGenes(stds) | Spread::Correlated { stds, .. } => stds.clone(),
        };
        self.state.around = Some((point.to_vec(), stds));
    }

    fn fresh(&self, domain: &Domain, stream: &mut Stream) -> Genotype {
        let Some((mean, stds)) = &self.state.around else {
            return domain.sample(stream);
        };
        let draw = |(i, gene): (usize, &Gene)| match gene {
            Gene::Real { low, high } => (mean[i] + stds[i] * stream.normal()).clamp(*low, *high),
            Gene::Choice { n: 2 } if mean[i].fract() != 0.0 => f64::from(u8::from(stream.chance(mean[i]))),
            _ => gene.sample(stream),
        };
        domain.genes().iter().enumerate().map(draw).collect()
    }

    /// What each parent that was scored gets of the questions; `None` without competition, and where there are no
    /// questions that all of them have answered.
    fn niches(&self) -> Option<Niches> {
        let competition = self.params.competition?;
        let answers: Vec<&[Answered]> = self.scored().map(|parent| parent.answers.as_slice()).collect();
        Niches::new(&answers, competition)
    }

    fn scored(&self) -> impl Iterator<Item = &Individual> {
        self.state.parents.iter().filter(|p| p.outcome != Outcome::Failed)
    }

    fn child(&self, domain: &Domain, niches: Option<&Niches>, stream: &mut Stream) -> Genotype {
        let Params { variation, slots, .. } = &self.params;
        if let Some(niches) = niches {
            let scored: Vec<&Individual> = self.scored().collect();
            let (a, b) = niches.pair(stream);
            let (a, b) = (scored[a].genotype.as_slice(), scored[b].genotype.as_slice());
            let mut child = attraction::mixture(domain, &self.params.places, a, b, stream);
            if !slots.is_empty() {
                return path::child_of(variation, domain, slots, (a, b), child, stream);
            }
            variation.mutate(domain, &mut child, stream);
            return child;
        }
        let (a, b) = (self.select(stream), self.select(stream));
        match slots.as_slice() {
            [] => variation.child(domain, &a.genotype, &b.genotype, stream),
            slots => path::child(variation, domain, slots, &a.genotype, &b.genotype, stream),
        }
    }

    fn has_visited(&self, genotype: &[f64]) -> bool {
        !self.params.slots.is_empty() && self.state.visited.contains(&self.hash(genotype))
    }

    /// FNV-1a over the bits of what matters in a genotype.
    fn hash(&self, genotype: &[f64]) -> u64 {
        let essence = path::essence(&self.params.slots, genotype);
        let bytes = essence.iter().flat_map(|x| x.to_bits().to_le_bytes());
        bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        })
    }

    /// A tournament; the parents stand best first, so the lowest place wins.
    fn select(&self, stream: &mut Stream) -> &Individual {
        let parents = &self.state.parents;
        let place = (0..self.params.tournament)
            .map(|_| stream.below(parents.len()))
            .min()
            .unwrap_or(0);
        &parents[place]
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, _: &Domain, batch: &[Answer], _: u64) {
        let outcomes: Vec<&Outcome> = batch.iter().map(|answer| &answer.outcome).collect();
        self.state.flat = if Ranking::of(&outcomes).is_flat() {
            self.state.flat + 1
        } else {
            0
        };
        if !self.params.slots.is_empty() {
            let hashes: Vec<u64> = batch.iter().map(|answer| self.hash(&answer.genotype)).collect();
            self.state.visited.extend(hashes);
        }
        let mut pool = std::mem::take(&mut self.state.parents);
        for answer in batch {
            match pool.iter_mut().find(|known| known.genotype == answer.genotype) {
                Some(known) => known.learn(answer),
                None => pool.push(Individual::new(answer)),
            }
        }
        if let Some(survivors) = self.survivors(&pool) {
            self.state.parents = survivors;
            return;
        }
        let costs = if self.params.reevaluates_parents {
            shrunk_costs(&pool)
        } else {
            pool.iter().map(Individual::mean_cost).collect()
        };
        // Among equals the younger comes first: a population that may drift leaves plateaus.
        let ranking = Ranking::by(pool.len(), |a, b| compare(&pool[a], &pool[b], costs[a], costs[b]));
        let mut survivors: Vec<Individual> = ranking.order.iter().map(|&i| pool[i].clone()).collect();
        survivors.truncate(self.params.size);
        self.state.parents = survivors;
    }

    /// By competition, those that were scored best first, then the failed; `None` as in [`Self::niches`].
    fn survivors(&self, pool: &[Individual]) -> Option<Vec<Individual>> {
        let competition = self.params.competition?;
        let (failed, scored): (Vec<&Individual>, Vec<&Individual>) =
            pool.iter().partition(|i| i.outcome == Outcome::Failed);
        let answers: Vec<&[Answered]> = scored.iter().map(|i| i.answers.as_slice()).collect();
        let names: Vec<u64> = scored.iter().map(|i| i.id).collect();
        let order = attraction::survivors(&answers, &names, competition, self.params.size)?;
        let survivors = order.into_iter().map(|i| scored[i]).chain(failed);
        Some(survivors.take(self.params.size).cloned().collect())
    }

    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let n = domain.genes().len();
        let around = self.state.around.as_ref();
        let fits = |slot: &Slot| slot.indicator.max(slot.scale.unwrap_or(0)) < n;
        self.params.slots.iter().all(fits)
            && around.is_none_or(|(mean, stds)| mean.len() == n && stds.len() == n)
            && (self.params.competition.is_none() || self.params.places.len() == n)
            && self.params.size >= 2
            && self.params.tournament >= 1
            && self.state.parents.iter().all(|p| p.genotype.len() == n)
    }
}

fn compare(a: &Individual, b: &Individual, cost_a: f64, cost_b: f64) -> Ordering {
    let both_scored = a.outcome.cost().is_some() && b.outcome.cost().is_some();
    let by_worth = if both_scored {
        cost_a.total_cmp(&cost_b)
    } else {
        ranking::compare(&a.outcome, &b.outcome)
    };
    by_worth.then(b.id.cmp(&a.id))
}

impl Individual {
    fn new(answer: &Answer) -> Self {
        let mut new = Self {
            id: answer.id,
            genotype: answer.genotype.clone(),
            outcome: Outcome::Failed,
            count: 0.0,
            sum: 0.0,
            squares: 0.0,
            answers: Vec::new(),
        };
        new.learn(answer);
        new
    }

    fn learn(&mut self, answer: &Answer) {
        self.outcome = answer.outcome.clone();
        self.answers.clone_from(&answer.answers);
        if let Some(cost) = self.outcome.cost() {
            self.count += 1.0;
            self.sum += cost;
            self.squares += cost * cost;
        }
    }

    fn mean_cost(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count } else { 0.0 }
    }
}

/// Posterior means: m + (x̄ − m) · v_p / (v_p + v_n/k), where x̄ is an individual's mean of k scores, m and v_p are the mean
/// and the variance of the true worth in the pool, and v_n is the variance of one score about it.
fn shrunk_costs(pool: &[Individual]) -> Vec<f64> {
    let scored: Vec<&Individual> = pool.iter().filter(|i| i.count > 0.0).collect();
    let n = scored.len() as f64;
    let m = scored.iter().map(|i| i.mean_cost()).sum::<f64>() / n.max(1.0);
    let (mut within, mut freedom, mut between, mut shares) = (0.0, 0.0, 0.0, 0.0);
    for i in &scored {
        within += (i.squares - i.sum * i.mean_cost()).max(0.0);
        freedom += i.count - 1.0;
        between += (i.mean_cost() - m) * (i.mean_cost() - m);
        shares += 1.0 / i.count;
    }
    if freedom == 0.0 || n < 2.0 {
        return pool.iter().map(Individual::mean_cost).collect();
    }
    let v_n = within / freedom;
    let v_p = (between / (n - 1.0) - v_n * shares / n).max(0.01 * v_n);
    let shrink = |i: &Individual| {
        let factor = if v_n > 0.0 && i.count > 0.0 {
            v_p / (v_p + v_n / i.count)
        } else {
            1.0
        };
        m + (i.mean_cost() - m) * factor
    };
    pool.iter().map(shrink).collect()
}
