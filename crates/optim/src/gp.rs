//! Bayesian optimisation: a Gaussian process (`process.rs`) says where a score may still be beaten, and that is asked next.
//!
//! It is for few and dear candidates: up to about 40 genes and 500 scores, since a generation costs the cube of the
//! latter. The first points are a Latin hypercube around the start, or over the box; each later one maximises the noisy
//! expected improvement, together with those that wait for their scores. What is returned is where the process expects most.
//!
//! Whole numbers are asked about where they are (the process never sees a fraction), choices by one feature for each
//! option. A candidate that failed counts as the worst that is known.

use serde::{Deserialize, Serialize};

use super::chance::{Address, Stream};
use super::coordinates::{encode, unit};
use super::domain::{Domain, Gene, Genotype};
use super::ledger::Answer;
use super::process::{Data, Draws, Hyperparameters, Normals, Posterior};
use super::{Adam, Error, Measurement, Options, Outcome, Spread};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gp {
    seed: u64,
    population_size: usize,
    /// In the order in which they became known.
    known: Vec<Observation>,
    /// Own candidates of the design that have been handed out.
    designed: usize,
    /// Where the design lies: in unit coordinates, the middle and the standard deviations; over the box if nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<(Vec<f64>, Vec<f64>)>,
    /// `None` until there are scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hyperparameters: Option<Hyperparameters>,
    #[serde(skip)]
    remembered: Remembered,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Observation {
    genotype: Genotype,
    /// `None` of one that failed, or that left a race without a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    measured: Option<Measurement>,
}

/// What follows from the state and costs much to compute again.
#[derive(Clone, Debug, Default)]
struct Remembered {
    /// With the candidates that waited when it was made, by their ids.
    model: Option<(Model, Vec<u64>)>,
}

impl PartialEq for Remembered {
    /// Two searches are equal whatever they happen to remember.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The process as the scores so far leave it.
#[derive(Clone, Debug)]
struct Model {
    posterior: Posterior,
    draws: Option<Draws>,
    /// Genotypes with scores, those first where most is expected.
    best_first: Vec<Genotype>,
}

/// Candidates in a generation: each generation learns from the one before it, and hands that are many can ask for more.
const DEFAULT_POPULATION_SIZE: usize = 4;

/// Candidates of the first design.
const DESIGN: usize = 8;

/// Scores that the process is made of; of more the better and the newer ones.
const MOST_POINTS: usize = 500;

/// Functions drawn to know how good the best point is.
const DRAWS: usize = 32;

/// Of the search for the most promising point: known points that are varied, how often each, draws from the whole box, and
/// how many of all these are then improved by gradient, in how many steps, the first of which moves a gene this part of its
/// range at most.
const VARIED: usize = 6;
const VARIATIONS: usize = 32;
const FAR_POINTS: usize = 64;
const CLIMBS: usize = 4;
const CLIMB_STEPS: usize = 40;
const CLIMB_RATE: f64 = 0.05;

/// Standard deviations of a variation, as parts of the range, and how many genes it changes on average.
const VARIATION_STDS: [f64; 3] = [0.02, 0.08, 0.25];
const VARIED_GENES: f64 = 8.0;

/// What stands for the restart in the addresses of random numbers that are no candidate's.
const DESIGN_NUMBERS: u64 = 1;
const DRAW_NUMBERS: u64 = 2;
const WAITING_NUMBERS: u64 = 3;

impl Gp {
    /// **Errors**: a real gene without an end on one side.
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        domain.must_be_bounded(
            "gp",
            "a Gaussian process needs a range to be unsure about; give it a low and a high, or use cma-es",
        )?;
        Ok(Self {
            seed: options.seed,
            population_size: options.population_size.unwrap_or(DEFAULT_POPULATION_SIZE),
            known: Vec::new(),
            designed: 0,
            start: None,
            hyperparameters: None,
            remembered: Remembered::default(),
        })
    }

    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) -> Result<(), Error> {
        let genes = domain.genes();
        let stds = spread.of_each(domain)?;
        let in_units = |g: usize| match genes[g] {
            Gene::Choice { .. } => Ok((0.0, 1.0)), // drawn from all its options
            _ if stds[g].is_finite() && stds[g] > 0.0 => Ok((encode(&genes[g], point[g]), stds[g] / unit(&genes[g]))),
            _ => Err(Error::StepSize {
                gene: g,
                value: stds[g],
            }),
        };
        let start: Result<Vec<(f64, f64)>, Error> = (0..genes.len()).map(in_units).collect();
        self.start = Some(start?.into_iter().unzip());
        Ok(())
    }

    /// Takes in what is known of a point that it has not asked for.
    pub fn know(&mut self, genotype: Genotype, measured: Measurement) {
        self.known.push(Observation {
            genotype,
            measured: Some(measured),
        });
        self.remembered = Remembered::default();
    }

    /// Whether there is a score of this point, to within what decoding and encoding it may lose.
    pub fn knows(&self, domain: &Domain, genotype: &[f64]) -> bool {
        let point = features(domain, genotype);
        let is_near = |known: &[f64]| {
            features(domain, known)
                .iter()
                .zip(&point)
                .all(|(a, b)| (a - b).abs() < 1e-9)
        };
        self.known.iter().any(|known| is_near(&known.genotype))
    }

    pub fn population_size(&self) -> usize {
        self.population_size
    }

    /// `waiting` are the candidates that have no score yet, or whose score has not been taken in: their ids and genotypes.
    pub fn propose(&mut self, domain: &Domain, at: Address, waiting: &[(u64, Genotype)]) -> Genotype {
        if self.designed < DESIGN.max(self.population_size) {
            self.designed += 1;
            return self.design_point(domain, self.designed - 1);
        }
        let mut stream = Stream::at(self.seed, at);
        let Some(model) = self.model_with(domain, at.generation, waiting) else {
            return domain.sample(&mut stream);
        };
        let Model { draws: Some(draws), .. } = &model else {
            return domain.sample(&mut stream);
        };
        let worth = |point: &[f64], slopes: Option<&mut [f64]>| draws.log_improvement(point, slopes);
        let proposal = most_promising(domain, &model.best_first, &worth, &mut stream);
        let ids = waiting.iter().map(|(id, _)| *id).collect();
        self.remembered.model = Some((model, ids));
        proposal
    }

    /// The k-th point of a Latin hypercube: each gene takes each of as many strata as there are points once. Around the start
    /// strata have equal probability under its normal distribution.
    ///
    /// **Source**: McKay, Beckman & Conover (1979), Technometrics 21 (2).
    fn design_point(&self, domain: &Domain, k: usize) -> Genotype {
        let n = DESIGN.max(self.population_size);
        let draw = |(g, gene): (usize, &Gene)| {
            let mut stream = Stream::at(
                self.seed,
                Address {
                    restart: DESIGN_NUMBERS,
                    generation: 0,
                    index: g as u64,
                },
            );
            let mut strata: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                strata.swap(i, stream.below(i + 1));
            }
            let within = (0..=k).map(|_| stream.uniform()).last().unwrap_or(0.5);
            let share = (strata[k] as f64 + within) / n as f64;
            match (&self.start, gene) {
                (Some((middle, stds)), Gene::Real { .. } | Gene::Int { .. }) => {
                    snapped(gene, middle[g] + stds[g] * super::normal::quantile(share))
                }
                (None, Gene::Real { .. }) => snapped(gene, share),
                _ => (gene.low() + (share * gene.count() as f64).floor()).clamp(gene.low(), gene.high()),
            }
        };
        domain.genes().iter().enumerate().map(draw).collect()
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], _: u64) {
        let observed = batch.iter().map(|answer| Observation {
            genotype: answer.genotype.clone(),
            measured: answer.measured.clone().or_else(|| match &answer.outcome {
                Outcome::Fitness(score) => Measurement::new(score.value(), 0.0).ok(),
                Outcome::Objectives { .. } | Outcome::Eliminated { .. } | Outcome::Failed => None,
            }),
        });
        self.known.extend(observed);
        self.remembered = Remembered::default();
        let fitted = self
            .seen(domain)
            .map(|seen| Hyperparameters::fit(&seen.data, self.hyperparameters.as_ref()));
        self.hyperparameters = fitted.or(self.hyperparameters.take());
    }

    /// Where the process expects most; `None` until there is a score.
    pub fn mean(&self, domain: &Domain) -> Option<Genotype> {
        let computed;
        let model = match &self.remembered.model {
            Some((model, _)) => model,
            None => {
                computed = self.model(domain, None)?;
                &computed
            }
        };
        let worth = |point: &[f64], slopes: Option<&mut [f64]>| {
            let mut unwanted = vec![0.0; point.len()];
            model.posterior.mean(point, slopes.unwrap_or(&mut unwanted))
        };
        let starts = model.best_first.iter().take(CLIMBS).cloned().collect();
        best_climbed(domain, starts, &worth)
    }

    /// What the process is made of; `None` without a score.
    fn seen(&self, domain: &Domain) -> Option<Seen<'_>> {
        let known = self.kept();
        let scores: Vec<f64> = known
            .iter()
            .filter_map(|k| Some(k.measured.as_ref()?.score.value()))
            .collect();
        let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n;
        let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        if !(worst.is_finite() && mean.is_finite() && scale.is_finite()) {
            return None;
        }
        let score = |k: &&Observation| k.measured.as_ref().map_or(worst, |m| m.score.value());
        let standardised = known.iter().map(|k| (score(k) - mean) / scale).collect();
        let error = |i: usize, j: usize| match (&known[i].measured, &known[j].measured) {
            (Some(a), Some(_)) if i == j => a.variance() / (scale * scale),
            (Some(a), Some(b)) => a.covariance(b) / (scale * scale),
            _ => 0.0,
        };
        let errors = (0..known.len())
            .map(|i| (0..=i).map(|j| error(i, j)).collect())
            .collect();
        let points: Vec<Vec<f64>> = known.iter().map(|k| features(domain, &k.genotype)).collect();
        let data = Data::new(&points, &genes_of_features(domain), standardised, errors);
        Some(Seen { data, known, scale })
    }

    /// All that is known, or of too much the newer half and the best of the others, in their order.
    fn kept(&self) -> Vec<&Observation> {
        let surplus = self.known.len().saturating_sub(MOST_POINTS);
        if surplus == 0 {
            return self.known.iter().collect();
        }
        let newer = self.known.len() - MOST_POINTS / 2;
        let worth = |i: &usize| {
            self.known[*i]
                .measured
                .as_ref()
                .map_or(f64::NEG_INFINITY, |m| m.score.value())
        };
        let mut older: Vec<usize> = (0..newer).collect();
        older.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        older.truncate(newer - surplus);
        older.sort_unstable();
        older
            .into_iter()
            .chain(newer..self.known.len())
            .map(|i| &self.known[i])
            .collect()
    }

    /// The process, and draws from it if it is said for which generation.
    fn model(&self, domain: &Domain, generation: Option<u64>) -> Option<Model> {
        let seen = self.seen(domain)?;
        let hyperparameters = match &self.hyperparameters {
            Some(known) => known.clone(),
            None => Hyperparameters::fit(&seen.data, None),
        };
        let posterior = Posterior::new(&seen.data, &hyperparameters)?;
        let expected = |k: &&Observation| {
            let point = features(domain, &k.genotype);
            posterior.mean(&point, &mut vec![0.0; point.len()])
        };
        let mut best_first: Vec<(f64, &Genotype)> = seen.known.iter().map(|k| (expected(k), &k.genotype)).collect();
        best_first.sort_by(|a, b| b.0.total_cmp(&a.0));
        let draws = generation.and_then(|generation| {
            let normals = |draw: u64| {
                let address = Address {
                    restart: DRAW_NUMBERS,
                    generation,
                    index: draw,
                };
                seen.normals(&mut Stream::at(self.seed, address))
            };
            Draws::new(&posterior, (0..DRAWS as u64).map(normals))
        });
        Some(Model {
            draws,
            best_first: best_first.into_iter().map(|(_, genotype)| genotype.clone()).collect(),
            posterior,
        })
    }

    /// The process with all candidates that wait, from what is remembered if that fits.
    fn model_with(&mut self, domain: &Domain, generation: u64, waiting: &[(u64, Genotype)]) -> Option<Model> {
        let ids = |n: usize| waiting[..n].iter().map(|(id, _)| *id);
        let remembered = self.remembered.model.take();
        let fits =
            |ids_then: &Vec<u64>| ids_then.len() <= waiting.len() && ids(ids_then.len()).eq(ids_then.iter().copied());
        let (mut model, had) = match remembered {
            Some((model, then)) if fits(&then) => (model, then.len()),
            _ => (self.model(domain, Some(generation))?, 0),
        };
        for (id, genotype) in &waiting[had..] {
            let address = Address {
                restart: WAITING_NUMBERS,
                generation: *id,
                index: 0,
            };
            let normals = Stream::at(self.seed, address).normals(DRAWS);
            if let Some(draws) = &mut model.draws {
                draws.extend(&features(domain, genotype), &normals);
            }
        }
        Some(model)
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let genes = domain.genes().len();
        self.population_size >= 2
            && domain.genes().iter().all(Gene::is_bounded)
            && self.known.iter().all(|k| domain.check(&k.genotype).is_ok())
            && self
                .start
                .iter()
                .all(|(middle, stds)| middle.len() == genes && stds.len() == genes)
            && self.hyperparameters.iter().all(|h| h.is_consistent(last_gene(domain)))
    }
}

/// What the process is made of.
struct Seen<'a> {
    /// Standardised.
    data: Data,
    known: Vec<&'a Observation>,
    /// What a standardised score of 1 is, in units of the score.
    scale: f64,
}

impl Seen<'_> {
    /// What a draw is made of: numbers for the function, and an error of each score, with the covariance that errors have.
    fn normals(&self, stream: &mut Stream) -> Normals {
        let n = self.known.len();
        let (function, rest, own) = (stream.normals(n), stream.normals(n), stream.normals(n));
        let last = |k: &&Observation| Some(k.measured.as_ref()?.deviations.last()?.0);
        let questions = self.known.iter().filter_map(last).max();
        let of_question = stream.normals(questions.map_or(0, |last| last as usize + 1));
        let error = |(k, own): (&&Observation, &f64)| match &k.measured {
            Some(m) if m.deviations.is_empty() => m.variance().sqrt() * own,
            Some(m) => m.deviations.iter().map(|(q, d)| d * of_question[*q as usize]).sum(),
            None => 0.0,
        };
        let errors = self.known.iter().zip(&own).map(error);
        Normals {
            function,
            errors: errors.map(|error| error / self.scale).collect(),
            rest,
        }
    }
}

/// The value of a gene at a coordinate that may lie outside: the nearest that is allowed.
fn snapped(gene: &Gene, u: f64) -> f64 {
    let value = gene.low() + unit(gene) * u;
    match gene {
        Gene::Real { .. } => value,
        Gene::Int { .. } | Gene::Choice { .. } => libm::rint(value),
    }
    .clamp(gene.low(), gene.high())
}

/// A genotype as the process sees it.
fn features(domain: &Domain, genotype: &[f64]) -> Vec<f64> {
    let mut features = Vec::with_capacity(genotype.len());
    for (gene, value) in domain.genes().iter().zip(genotype) {
        match gene {
            Gene::Choice { n: 1 } => {}
            Gene::Choice { n } => {
                // Two options are then at distance 1.
                let feature =
                    |option: usize| f64::from(u8::from(option as f64 == *value)) * std::f64::consts::FRAC_1_SQRT_2;
                features.extend((0..*n).map(feature));
            }
            Gene::Real { .. } | Gene::Int { .. } => features.push(encode(gene, *value)),
        }
    }
    features
}

/// How many features a gene is.
fn width(gene: &Gene) -> usize {
    match gene {
        Gene::Choice { n: 1 } => 0,
        Gene::Choice { n } => *n,
        Gene::Real { .. } | Gene::Int { .. } => 1,
    }
}

/// The gene of each feature.
fn genes_of_features(domain: &Domain) -> Vec<usize> {
    let genes = domain.genes().iter().enumerate();
    genes.flat_map(|(g, gene)| vec![g; width(gene)]).collect()
}

/// How many genes have a lengthscale: all up to the last that is free.
fn last_gene(domain: &Domain) -> usize {
    genes_of_features(domain).last().map_or(0, |last| last + 1)
}

/// What a point is worth, and, if asked, the slopes by its features, added.
type Worth<'a> = dyn Fn(&[f64], Option<&mut [f64]>) -> f64 + 'a;

/// The genotype of most worth that variations of known ones, draws from everywhere and climbing from the best of these find.
fn most_promising(domain: &Domain, best_first: &[Genotype], worth: &Worth<'_>, stream: &mut Stream) -> Genotype {
    let mut candidates: Vec<Genotype> = Vec::new();
    for known in best_first.iter().take(VARIED) {
        for v in 0..VARIATIONS {
            candidates.push(variation(
                domain,
                known,
                VARIATION_STDS[v % VARIATION_STDS.len()],
                stream,
            ));
        }
    }
    candidates.extend((0..FAR_POINTS).map(|_| domain.sample(stream)));
    let mut ranked: Vec<(f64, Genotype)> = candidates
        .into_iter()
        .map(|genotype| (worth(&features(domain, &genotype), None), genotype))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let starts = ranked.into_iter().take(CLIMBS).map(|(_, genotype)| genotype).collect();
    best_climbed(domain, starts, worth).unwrap_or_else(|| domain.sample(stream))
}

/// A known genotype with some of its genes moved, one at least.
fn variation(domain: &Domain, known: &[f64], std: f64, stream: &mut Stream) -> Genotype {
    let genes = domain.genes();
    let always = stream.below(genes.len());
    let chance = (VARIED_GENES / genes.len() as f64).min(1.0);
    let mut varied = known.to_vec();
    for (g, gene) in genes.iter().enumerate() {
        if g != always && !stream.chance(chance) {
            continue;
        }
        varied[g] = match gene {
            Gene::Real { .. } => snapped(gene, encode(gene, known[g]) + std * stream.normal()),
            // At least one step, however small the deviation.
            Gene::Int { .. } => {
                let steps = std * unit(gene) * stream.normal();
                let whole = libm::rint(steps.abs()).max(1.0);
                (known[g] + steps.signum() * whole).clamp(gene.low(), gene.high())
            }
            Gene::Choice { n } => stream.below(*n) as f64,
        };
    }
    varied
}

/// The best of what climbing from each start finds; the earlier of equals. `None` without starts.
fn best_climbed(domain: &Domain, starts: Vec<Genotype>, worth: &Worth<'_>) -> Option<Genotype> {
    let climbed = starts.into_iter().map(|start| climb(domain, start, worth));
    let best = climbed.reduce(|a, b| if b.0 > a.0 { b } else { a });
    best.map(|(_, genotype)| genotype)
}

/// Follows the slopes of the real genes, the others staying where they are; the best point on the way.
fn climb(domain: &Domain, start: Genotype, worth: &Worth<'_>) -> (f64, Genotype) {
    let genes = domain.genes();
    let of_features = genes_of_features(domain);
    let is_real = |f: &usize| matches!(genes[of_features[*f]], Gene::Real { .. });
    let real: Vec<usize> = (0..of_features.len()).filter(is_real).collect();
    let mut adam = Adam::new(vec![CLIMB_RATE; real.len()], vec![(0.0, 1.0); real.len()]);
    let mut genotype = start;
    let mut point = features(domain, &genotype);
    let mut best = (f64::NEG_INFINITY, genotype.clone());
    for step in 0..=CLIMB_STEPS {
        let mut slopes = vec![0.0; point.len()];
        let value = worth(&point, Some(&mut slopes));
        if value > best.0 {
            best = (value, genotype.clone());
        }
        if real.is_empty() || step == CLIMB_STEPS {
            break;
        }
        let mut moved: Vec<f64> = real.iter().map(|f| point[*f]).collect();
        let against: Vec<f64> = real.iter().map(|f| -slopes[*f]).collect();
        adam.step(&mut moved, &against, 1.0 - step as f64 / CLIMB_STEPS as f64);
        for (f, u) in real.iter().zip(moved) {
            let gene = &genes[of_features[*f]];
            genotype[of_features[*f]] = snapped(gene, u);
            point[*f] = encode(gene, genotype[of_features[*f]]);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, Kind, Optimizer};
    use super::*;

    fn boxed(n: usize) -> Domain {
        Domain::new(vec![Gene::Real { low: -2.0, high: 2.0 }; n]).unwrap()
    }

    fn options(seed: u64) -> Options {
        Options {
            seed,
            noisy: true,
            ..Options::default()
        }
    }

    fn bowl(x: &[f64]) -> f64 {
        -x.iter()
            .enumerate()
            .map(|(i, x)| (x - 0.1 * i as f64) * (x - 0.1 * i as f64))
            .sum::<f64>()
    }

    /// Rosenbrock's valley, its height by the logarithm, as accuracies flatten what is bad.
    fn valley(x: &[f64]) -> f64 {
        let pairs = x.windows(2);
        -pairs
            .map(|p| 100.0 * (p[1] - p[0] * p[0]).powi(2) + (1.0 - p[0]).powi(2))
            .sum::<f64>()
            .ln_1p()
    }

    /// Branin's function on [−2, 2]², whose three valleys are equally deep.
    fn branin(x: &[f64]) -> f64 {
        let (u, v) = (2.5 + 3.75 * x[0], 7.5 + 3.75 * x[1]);
        let pi = std::f64::consts::PI;
        let curve = v - 5.1 / (4.0 * pi * pi) * u * u + 5.0 / pi * u - 6.0;
        -(curve * curve + 10.0 * (1.0 - 1.0 / (8.0 * pi)) * u.cos() + 10.0)
    }

    /// The number that luck adds to a score.
    fn luck(seed: u64, id: u64) -> f64 {
        let address = Address {
            restart: 0,
            generation: 77,
            index: id,
        };
        Stream::at(seed, address).normal()
    }

    /// What the point is truly worth that a search returns after some noisy evaluations: its mean, or its luckiest.
    fn found(kind: Kind, n: usize, seed: u64, evaluations: usize, noise: f64, f: &dyn Fn(&[f64]) -> f64) -> f64 {
        let mut optimizer = Optimizer::new(kind, boxed(n), &options(seed)).unwrap();
        let mut best = (f64::NEG_INFINITY, Vec::new());
        for _ in 0..evaluations {
            let ask = optimizer.ask_one();
            let score = f(&ask.genotype) + noise * luck(seed, ask.id);
            optimizer
                .measure(ask.id, Measurement::new(score, noise).unwrap())
                .unwrap();
            optimizer.tell(&[(ask.id, Outcome::from_score(score))]).unwrap();
            if score > best.0 {
                best = (score, ask.genotype);
            }
        }
        f(&optimizer.mean().unwrap_or(best.1))
    }

    /// What this optimizer is for: few noisy evaluations. Every seed, not the lucky ones.
    #[test]
    fn it_finds_more_in_few_noisy_evaluations_than_draws_or_cma_es_do() {
        type Function = fn(&[f64]) -> f64;
        let problems: [(&str, Function, usize, usize, f64); 3] = [
            ("bowl", bowl, 6, 48, 0.3),
            ("valley", valley, 4, 60, 0.2),
            ("branin", branin, 2, 32, 2.0),
        ];
        for (name, f, n, evaluations, noise) in problems {
            let median = |kind| {
                let mut values: Vec<f64> = (0..5)
                    .map(|seed| found(kind, n, seed, evaluations, noise, &f))
                    .collect();
                values.sort_by(f64::total_cmp);
                values[2]
            };
            let [gp, cma_es, random] = [Kind::Gp, Kind::CmaEs, Kind::Random].map(median);
            assert!(
                gp > cma_es && gp > random,
                "{name}: {gp}, CMA-ES {cma_es}, random {random}"
            );
        }
    }

    #[test]
    fn the_design_takes_each_stratum_of_each_gene_once() {
        let domain = Domain::new(vec![
            Gene::Real { low: 0.0, high: 8.0 },
            Gene::Choice { n: 4 },
            Gene::Int { low: 1, high: 3 },
        ])
        .unwrap();
        let mut optimizer = Optimizer::new(Kind::Gp, domain.clone(), &options(3)).unwrap();
        let asked: Vec<Genotype> = (0..DESIGN).map(|_| optimizer.ask_one().genotype).collect();
        let mut strata: Vec<usize> = asked.iter().map(|x| x[0] as usize).collect();
        strata.sort_unstable();
        assert_eq!(strata, (0..8).collect::<Vec<_>>());
        let options_taken = |option: f64| asked.iter().filter(|x| x[1] == option).count();
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(options_taken), [2; 4]);

        // Around a start, half of them lie on either side of it, within a few standard deviations.
        let mut optimizer = Optimizer::new(Kind::Gp, domain, &options(3)).unwrap();
        optimizer.start_at(&[4.0, 0.0, 2.0], &Spread::OfRange(0.05)).unwrap();
        assert_eq!(optimizer.ask_one().genotype, [4.0, 0.0, 2.0]);
        let asked: Vec<Genotype> = (0..DESIGN).map(|_| optimizer.ask_one().genotype).collect();
        assert_eq!(asked.iter().filter(|x| x[0] > 4.0).count(), 4);
        assert!(
            asked.iter().all(|x| (x[0] - 4.0).abs() < 1.6 && x[2] == 2.0),
            "{asked:?}"
        );
    }

    #[test]
    fn what_is_known_beforehand_is_not_asked_and_teaches() {
        let fresh = || Optimizer::new(Kind::Gp, boxed(2), &options(5)).unwrap();
        let mut optimizer = fresh();
        for i in 0..20u32 {
            let x = vec![f64::from(i % 5) - 2.0, f64::from(i / 5) - 1.5];
            let measured = Measurement::new(bowl(&x), 0.01).unwrap();
            optimizer.know(x, measured).unwrap();
        }
        assert!(bowl(&optimizer.mean().unwrap()) > -0.02, "{:?}", optimizer.mean());
        optimizer.start_at(&[0.0, 0.5], &Spread::OfRange(0.1)).unwrap();
        assert_ne!(optimizer.ask_one().genotype, [0.0, 0.5], "its score is known");
        let mut ignorant = fresh();
        ignorant.start_at(&[0.0, 0.5], &Spread::OfRange(0.1)).unwrap();
        assert_eq!(ignorant.ask_one().genotype, [0.0, 0.5]);
        assert!(
            fresh()
                .know(vec![9.0, 0.0], Measurement::new(0.0, 0.1).unwrap())
                .is_err()
        );
    }

    /// Half the candidates leave a race after a few questions: their scores err more, and still say where not to look.
    #[test]
    fn who_left_a_race_early_teaches_by_its_score_and_its_error() {
        let mut optimizer = Optimizer::new(Kind::Gp, boxed(3), &options(8)).unwrap();
        for _ in 0..9 {
            let asks = optimizer.ask();
            let told: Vec<(u64, Outcome)> = asks
                .iter()
                .map(|ask| {
                    let early = ask.id % 2 == 0;
                    let noise = if early { 0.6 } else { 0.2 };
                    let score = bowl(&ask.genotype) + noise * luck(1, ask.id);
                    optimizer
                        .measure(ask.id, Measurement::new(score, noise).unwrap())
                        .unwrap();
                    let outcome = if early {
                        Outcome::Eliminated { order: 0 }
                    } else {
                        Outcome::from_score(score)
                    };
                    (ask.id, outcome)
                })
                .collect();
            optimizer.tell(&told).unwrap();
        }
        assert!(bowl(&optimizer.mean().unwrap()) > -0.15);
    }

    /// A candidate that answers the same questions as another one, as a search of a fixed set has them: scores differ from
    /// the truth by what the questions are like, and candidates that are alike differ by nearly the same.
    #[test]
    fn errors_of_the_same_questions_are_taken_together() {
        const QUESTIONS: u32 = 60;
        // Each question wants a point of its own, the mean of which is the true optimum at 0.
        let asked = |x: &[f64]| -> Vec<f64> {
            let of_question = |q: u32| {
                let wants = luck(4, u64::from(q));
                -x.iter().map(|x| (x - wants) * (x - wants)).sum::<f64>()
            };
            (0..QUESTIONS).map(of_question).collect()
        };
        let mut optimizer = Optimizer::new(Kind::Gp, boxed(2), &options(2)).unwrap();
        for _ in 0..8 {
            for ask in optimizer.ask() {
                let answers = asked(&ask.genotype);
                let n = f64::from(QUESTIONS);
                let mean = answers.iter().sum::<f64>() / n;
                let deviations = answers.iter().zip(0..).map(|(a, q)| (q, (a - mean) / n));
                let variance: f64 = deviations.clone().map(|(_, d)| d * d).sum();
                let measured = Measurement::new(mean, variance.sqrt())
                    .unwrap()
                    .with_deviations(deviations);
                optimizer.measure(ask.id, measured).unwrap();
                optimizer.tell(&[(ask.id, Outcome::from_score(mean))]).unwrap();
            }
        }
        // Errors of about 0.35 each would hide everything within 0.5 of the best if they were not in common.
        let mean = optimizer.mean().unwrap();
        let centre = (0..QUESTIONS).map(|q| luck(4, u64::from(q))).sum::<f64>() / f64::from(QUESTIONS);
        assert!(mean.iter().all(|x| (x - centre).abs() < 0.3), "{mean:?}, {centre}");
    }

    #[test]
    fn it_resumes_in_the_middle_of_a_generation_to_the_bit() {
        let score = |ask: &Ask| bowl(&ask.genotype) + 0.2 * luck(6, ask.id);
        let tell = |optimizer: &mut Optimizer, ask: &Ask| {
            let deviations = (0..4).map(|q| (q, 0.1 * luck(7, 4 * ask.id + u64::from(q))));
            let measured = Measurement::new(score(ask), 0.2).unwrap().with_deviations(deviations);
            optimizer.measure(ask.id, measured).unwrap();
            optimizer.tell(&[(ask.id, Outcome::from_score(score(ask)))]).unwrap();
        };
        let mut whole = Optimizer::new(Kind::Gp, boxed(3), &options(6)).unwrap();
        for _ in 0..4 {
            whole.ask().iter().for_each(|ask| tell(&mut whole, ask));
        }
        // Two are out, one of which has its score, when the state is saved.
        let out = [whole.ask_one(), whole.ask_one()];
        tell(&mut whole, &out[1]);
        let mut resumed = Optimizer::from_json(&whole.to_json()).unwrap();
        assert_eq!(resumed, whole);
        let rest = (whole.ask(), resumed.ask());
        assert_eq!(rest.0, rest.1);
        for optimizer in [&mut whole, &mut resumed] {
            tell(optimizer, &out[0]);
            rest.0.iter().for_each(|ask| tell(optimizer, ask));
        }
        assert_eq!(whole.to_json(), resumed.to_json());
        assert_eq!(whole.mean(), resumed.mean());
        assert_eq!(whole.ask(), resumed.ask());
    }

    #[test]
    fn no_more_points_than_it_can_bear_the_better_and_the_newer_ones() {
        let domain = boxed(1);
        let mut gp = Gp::new(&domain, &options(0)).unwrap();
        for i in 0..700 {
            let score = if i < 100 { 1.0 } else { -f64::from(i) };
            gp.know(vec![0.0], Measurement::new(score, 0.1).unwrap());
        }
        let kept: Vec<f64> = gp
            .kept()
            .iter()
            .map(|k| k.measured.as_ref().unwrap().score.value())
            .collect();
        assert_eq!(kept.len(), MOST_POINTS);
        assert_eq!(kept.iter().filter(|score| **score == 1.0).count(), 100);
        assert_eq!(
            (kept[100], kept[249], kept[250], kept[499]),
            (-100.0, -249.0, -450.0, -699.0)
        );
    }

    #[test]
    fn a_gene_without_bounds_is_refused_with_a_way_out() {
        let error = Gp::new(&Domain::unbounded(2).unwrap(), &options(0)).unwrap_err();
        assert!(matches!(error, Error::UnsupportedGene { gene: 0, .. }));
        assert!(error.to_string().contains("give it a low and a high"), "{error}");
    }
}
