//! NSGA-II: a population that approaches the Pareto front of several objectives.
//!
//! Fast non-dominated sorting, crowding distance, and Deb's rules for constraints: whoever breaks no limit comes before
//! whoever does, and of two that do, the one that breaks less. Eliminated and failed candidates come after both.
//!
//! **Source**: Deb, Pratap, Agarwal & Meyarivan (2002), IEEE TEC 6(2).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::chance::{Address, Stream};
use super::domain::{Domain, Genotype};
use super::ledger::Answer;
use super::ranking;
use super::variation::Variation;
use super::{Fitness, Options, Outcome};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nsga2 {
    seed: u64,
    size: usize,
    objectives: usize,
    /// The parents are asked for again with every generation.
    reevaluates_parents: bool,
    variation: Variation,
    parents: Vec<Individual>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Individual {
    id: u64,
    genotype: Genotype,
    outcome: Outcome,
    /// Sums of the costs over all evaluations, one for each objective, and how many there were.
    sums: Vec<f64>,
    count: f64,
    /// 0 for the first front.
    front: usize,
    /// The position in the population by front, then by crowding; the lower the better.
    place: usize,
}

/// pymoo's default is 100; half of it suits evaluations that take minutes.
const DEFAULT_SIZE: usize = 50;
/// How often a child that is its parent's double is drawn again.
const ATTEMPTS: usize = 10;

impl Nsga2 {
    pub fn new(options: &Options) -> Self {
        Self {
            seed: options.seed,
            size: options.population_size.unwrap_or(DEFAULT_SIZE),
            objectives: options.objectives,
            reevaluates_parents: options.noisy,
            variation: Variation::default(),
            parents: Vec::new(),
        }
    }

    pub fn objectives(&self) -> usize {
        self.objectives
    }

    /// The children, and the parents too if they are asked for again.
    pub fn population_size(&self) -> usize {
        self.size
            + if self.reevaluates_parents {
                self.parents.len()
            } else {
                0
            }
    }

    /// The genotypes of the first front with their objectives, averaged over evaluations, in the order of their ids.
    pub fn front(&self) -> Vec<(Genotype, Vec<f64>)> {
        let is_first = |i: &&Individual| i.front == 0 && i.outcome.objectives().is_some();
        let mut front: Vec<&Individual> = self.parents.iter().filter(is_first).collect();
        front.sort_by_key(|i| i.id);
        front
            .iter()
            .map(|i| {
                (
                    i.genotype.clone(),
                    i.costs().iter().map(|cost| Fitness::of_cost(*cost)).collect(),
                )
            })
            .collect()
    }

    pub fn propose(&mut self, domain: &Domain, at: Address) -> Genotype {
        if self.reevaluates_parents
            && let Some(parent) = usize::try_from(at.index).ok().and_then(|index| self.parents.get(index))
        {
            return parent.genotype.clone();
        }
        let mut stream = Stream::at(self.seed, at);
        if self.parents.iter().all(|parent| parent.outcome == Outcome::Failed) {
            return domain.sample(&mut stream);
        }
        let mut child = self.child(domain, &mut stream);
        for _ in 0..ATTEMPTS {
            if !self.parents.iter().any(|parent| parent.genotype == child) {
                break;
            }
            child = self.child(domain, &mut stream);
        }
        child
    }

    fn child(&self, domain: &Domain, stream: &mut Stream) -> Genotype {
        let (a, b) = (self.select(stream), self.select(stream));
        self.variation.child(domain, &a.genotype, &b.genotype, stream)
    }

    /// A binary tournament by front, then by crowding.
    fn select(&self, stream: &mut Stream) -> &Individual {
        let (a, b) = (stream.below(self.parents.len()), stream.below(self.parents.len()));
        let (a, b) = (&self.parents[a], &self.parents[b]);
        if a.place <= b.place { a } else { b }
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, _: &Domain, batch: &[Answer], _: u64) {
        let mut pool = std::mem::take(&mut self.parents);
        for answer in batch {
            match pool.iter_mut().find(|known| known.genotype == answer.genotype) {
                Some(known) => known.learn(&answer.outcome),
                None => pool.push(Individual::new(answer, self.objectives)),
            }
        }
        let costs: Vec<Vec<f64>> = pool.iter().map(Individual::costs).collect();
        let fronts = sort_into_fronts(pool.len(), |a, b| dominates(&pool[a], &pool[b], &costs[a], &costs[b]));
        let mut place = 0;
        for (number, front) in fronts.iter().enumerate() {
            let points: Vec<&[f64]> = front.iter().map(|&i| costs[i].as_slice()).collect();
            let crowding = crowding_distances(&points);
            let mut order: Vec<usize> = (0..front.len()).collect();
            // The lonelier first; among equals the younger, so that plateaus are left.
            order.sort_by(|&a, &b| {
                crowding[b]
                    .total_cmp(&crowding[a])
                    .then(pool[front[b]].id.cmp(&pool[front[a]].id))
            });
            for k in order {
                (pool[front[k]].front, pool[front[k]].place) = (number, place);
                place += 1;
            }
        }
        pool.sort_by_key(|individual| individual.place);
        pool.truncate(self.size);
        self.parents = pool;
    }

    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let n = domain.genes().len();
        let fits = |i: &Individual| i.genotype.len() == n && i.sums.len() == self.objectives;
        self.size >= 2 && self.objectives >= 1 && self.parents.iter().all(fits)
    }
}

impl Individual {
    fn new(answer: &Answer, objectives: usize) -> Self {
        let (id, genotype) = (answer.id, answer.genotype.clone());
        let mut new = Self {
            id,
            genotype,
            outcome: Outcome::Failed,
            sums: vec![0.0; objectives],
            count: 0.0,
            front: 0,
            place: 0,
        };
        new.learn(&answer.outcome);
        new
    }

    fn learn(&mut self, outcome: &Outcome) {
        self.outcome = outcome.clone();
        let costs: Vec<f64> = match outcome {
            Outcome::Fitness(value) => vec![value.cost()],
            Outcome::Objectives { values, .. } => values.iter().map(|value| value.cost()).collect(),
            Outcome::Eliminated { .. } | Outcome::Failed => return,
        };
        self.sums.iter_mut().zip(&costs).for_each(|(sum, cost)| *sum += cost);
        self.count += 1.0;
    }

    fn costs(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.count.max(1.0)).collect()
    }

    fn violation(&self) -> f64 {
        match &self.outcome {
            Outcome::Objectives { violation, .. } => violation.value().max(0.0),
            Outcome::Fitness(_) | Outcome::Eliminated { .. } | Outcome::Failed => 0.0,
        }
    }
}

/// Deb's rules; eliminated and failed candidates stand below all others, in the order of ranks.
fn dominates(a: &Individual, b: &Individual, costs_a: &[f64], costs_b: &[f64]) -> bool {
    if a.outcome.objectives().is_none() || b.outcome.objectives().is_none() {
        return ranking::compare(&a.outcome, &b.outcome) == Ordering::Less;
    }
    let (violation_a, violation_b) = (a.violation(), b.violation());
    if violation_a > 0.0 || violation_b > 0.0 {
        return violation_a < violation_b;
    }
    let mut pairs = costs_a.iter().zip(costs_b);
    pairs.clone().all(|(a, b)| a <= b) && pairs.any(|(a, b)| a < b)
}

/// Fast non-dominated sorting: the indices of each front, ascending.
fn sort_into_fronts(n: usize, dominates: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let dominated: Vec<Vec<usize>> = (0..n).map(|a| (0..n).filter(|&b| dominates(a, b)).collect()).collect();
    let mut dominators = vec![0usize; n];
    dominated.iter().flatten().for_each(|&b| dominators[b] += 1);
    let mut fronts = Vec::new();
    let mut front: Vec<usize> = (0..n).filter(|&i| dominators[i] == 0).collect();
    while !front.is_empty() {
        let mut next = Vec::new();
        for &a in &front {
            for &b in &dominated[a] {
                dominators[b] -= 1;
                if dominators[b] == 0 {
                    next.push(b);
                }
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// The sum over objectives of the gap between a point's neighbours, in parts of the front's range; the ends of the front
/// are infinitely lonely. An objective in which all are equal has no ends and says nothing; of one or two points each is
/// an end.
fn crowding_distances(points: &[&[f64]]) -> Vec<f64> {
    let n = points.len();
    let mut distances = vec![0.0; n];
    if n <= 2 {
        return vec![f64::INFINITY; n];
    }
    let objectives = points.first().map_or(0, |point| point.len());
    (0..objectives).for_each(|objective| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| points[a][objective].total_cmp(&points[b][objective]));
        let value = |k: usize| points[order[k]][objective];
        let range = value(n - 1) - value(0);
        if range > 0.0 {
            distances[order[0]] = f64::INFINITY;
            distances[order[n - 1]] = f64::INFINITY;
            (1..n - 1).for_each(|k| distances[order[k]] += (value(k + 1) - value(k - 1)) / range);
        }
    });
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_by_hand() {
        // costs: a and b do not compare, c is worse than a, d is worse than all
        let costs = [[0.0, 2.0], [2.0, 0.0], [1.0, 3.0], [4.0, 4.0]];
        let better = |a: usize, b: usize| costs[a].iter().zip(&costs[b]).all(|(x, y)| x <= y) && costs[a] != costs[b];
        assert_eq!(sort_into_fronts(4, better), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(sort_into_fronts(3, |_, _| false), [vec![0, 1, 2]]);
        assert_eq!(sort_into_fronts(0, |_, _| false), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn crowding_by_hand() {
        let points: [&[f64]; 4] = [&[0.0, 4.0], &[1.0, 2.0], &[3.0, 1.0], &[4.0, 0.0]];
        let d = crowding_distances(&points);
        assert_eq!((d[0], d[3]), (f64::INFINITY, f64::INFINITY));
        assert_eq!((d[1], d[2]), (3.0 / 4.0 + 3.0 / 4.0, 3.0 / 4.0 + 2.0 / 4.0));
        assert_eq!(crowding_distances(&[&[1.0], &[1.0]]), [f64::INFINITY; 2]);
        assert!(crowding_distances(&[]).is_empty());
    }

    /// An accuracy on a few questions is often the same for a whole front; whoever the sort put at its ends got an infinite
    /// distance for it (LEAP #267, nevergrad #823).
    #[test]
    fn a_flat_objective_says_nothing() {
        let points: [&[f64]; 4] = [&[1.0, 7.0], &[0.0, 7.0], &[4.0, 7.0], &[3.0, 7.0]];
        let alone: [&[f64]; 4] = [&[1.0], &[0.0], &[4.0], &[3.0]];
        let d = crowding_distances(&points);
        assert_eq!(d, crowding_distances(&alone));
        assert_eq!(d, [3.0 / 4.0, f64::INFINITY, f64::INFINITY, 3.0 / 4.0]);
        let flat: [&[f64]; 3] = [&[5.0, 7.0]; 3];
        assert_eq!(crowding_distances(&flat), [0.0; 3]);
        assert_eq!(crowding_distances(&flat[..1]), [f64::INFINITY]);
    }

    fn individual(id: u64, outcome: Outcome) -> Individual {
        let address = Address {
            restart: 0,
            generation: 0,
            index: id,
        };
        Individual::new(
            &Answer {
                id,
                address,
                genotype: vec![id as f64],
                injected: false,
                outcome,
                answers: Vec::new(),
                measured: None,
            },
            2,
        )
    }

    fn scored(id: u64, values: [f64; 2], violation: f64) -> Individual {
        let values = values.map(|value| Fitness::new(value).unwrap()).to_vec();
        individual(
            id,
            Outcome::Objectives {
                values,
                violation: Fitness::new(violation).unwrap(),
            },
        )
    }

    #[test]
    fn debs_rules() {
        let dominates = |a: &Individual, b: &Individual| dominates(a, b, &a.costs(), &b.costs());
        let (good, mixed) = (scored(0, [2.0, 2.0], 0.0), scored(1, [1.0, 3.0], 0.0));
        let (worse, broken, more_broken) = (
            scored(2, [1.0, 2.0], 0.0),
            scored(3, [9.0, 9.0], 0.1),
            scored(4, [9.0, 9.0], 0.2),
        );
        assert!(!dominates(&good, &mixed) && !dominates(&mixed, &good));
        assert!(dominates(&good, &worse) && dominates(&mixed, &worse));
        assert!(dominates(&worse, &broken) && dominates(&broken, &more_broken) && !dominates(&more_broken, &worse));
        let failed = individual(5, Outcome::Failed);
        let left = individual(6, Outcome::Eliminated { order: 1 });
        assert!(dominates(&more_broken, &left) && dominates(&left, &failed) && !dominates(&failed, &failed));
    }
}
