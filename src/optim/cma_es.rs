//! CMA-ES for real genes: the normal distribution in unit coordinates, mirrors at the bounds, restarts, stop rules.
//!
//! The update itself is in `gaussian.rs`. Fitness values are used for ranks alone, except by the rules that stop a run
//! without noise; so any monotone transform of the fitness gives the same search.

use serde::{Deserialize, Serialize};

use super::chance::{Address, RESTART_INDEX, Stream};
use super::coordinates::{crossed_bound, decode, encode, std_cap};
use super::covariance::Degenerate;
use super::domain::{Domain, Gene, Genotype};
use super::gaussian::{Gaussian, Params, Step, default_population_size};
use super::ranking::Ranking;
use super::{Answer, Error, Options, Outcome, Restarts, Spread, StopReason};

/// The first step size, as a part of the range.
pub const DEFAULT_SIGMA: f64 = 1.0 / 6.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CmaEs {
    options: Options,
    /// The genes that the distribution covers; the others are choices of one option.
    genes: Vec<usize>,
    start: Start,
    gaussian: Gaussian,
    run: Run,
    schedule: Schedule,
    stopped: Option<StopReason>,
}

/// Where a run begins, in unit coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Start {
    mean: Vec<f64>,
    sigma: f64,
    /// Relative standard deviations of the coordinates.
    stds: Vec<f64>,
}

/// What the stop rules remember of the present run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    sigma0: f64,
    generations: u64,
    evaluations: u64,
    /// The best cost of each generation that had one.
    best: Vec<f64>,
    /// Generations in a row without any difference between candidates.
    flat: u64,
    /// The range of costs in the last generation.
    last_range: Option<f64>,
}

/// The ledger of restarts (Auger & Hansen 2005; Hansen 2009).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Schedule {
    restart: u64,
    first_population: usize,
    large_population: usize,
    is_small: bool,
    evaluations_large: u64,
    evaluations_small: u64,
    last_large_evaluations: u64,
}

impl CmaEs {
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        let mut genes = Vec::new();
        for (i, gene) in domain
            .genes()
            .iter()
            .enumerate()
            .filter(|(_, gene)| gene.is_free())
        {
            let kind = match gene {
                Gene::Real { .. } => {
                    genes.push(i);
                    continue;
                }
                Gene::Int { .. } => "a whole number",
                Gene::Choice { .. } => "a choice",
            };
            let way_out = "it moves real numbers only; use cma-es-margin, genetic or random";
            return Err(Error::UnsupportedGene {
                optimizer: "cma-es",
                gene: i,
                kind,
                way_out,
            });
        }
        let population_size = options
            .population_size
            .unwrap_or_else(|| default_population_size(genes.len()));
        let middle = domain.middle();
        let start = Start {
            mean: genes
                .iter()
                .map(|&g| encode(&domain.genes()[g], middle[g]))
                .collect(),
            sigma: DEFAULT_SIGMA,
            stds: vec![1.0; genes.len()],
        };
        let schedule = Schedule {
            restart: 0,
            first_population: population_size,
            large_population: population_size,
            is_small: false,
            evaluations_large: 0,
            evaluations_small: 0,
            last_large_evaluations: 0,
        };
        let gaussian = start.gaussian(options, population_size, start.sigma, start.mean.clone());
        let run = Run {
            sigma0: start.sigma,
            ..Run::default()
        };
        Ok(Self {
            options: options.clone(),
            genes,
            start,
            gaussian,
            run,
            schedule,
            stopped: None,
        })
    }

    pub fn start_at(
        &mut self,
        domain: &Domain,
        genotype: &[f64],
        spread: &Spread,
    ) -> Result<(), Error> {
        let encoded = |&g: &usize| encode(&domain.genes()[g], genotype[g]);
        let (sigma, stds) = spread.in_units(domain, &self.genes)?;
        self.start = Start {
            mean: self.genes.iter().map(encoded).collect(),
            sigma,
            stds,
        };
        self.gaussian = self.start.gaussian(
            &self.options,
            self.population_size(),
            sigma,
            self.start.mean.clone(),
        );
        self.run = Run {
            sigma0: sigma,
            ..Run::default()
        };
        Ok(())
    }

    pub fn population_size(&self) -> usize {
        self.gaussian.params.population_size
    }

    pub fn restart(&self) -> u64 {
        self.schedule.restart
    }

    pub fn sigma(&self) -> f64 {
        self.gaussian.state.sigma
    }

    pub fn flat_generations(&self) -> u64 {
        self.run.flat
    }

    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    pub fn propose(&self, domain: &Domain, at: Address) -> Genotype {
        self.genotype(domain, &self.gaussian.point(&self.step_at(at).y))
    }

    pub fn mean(&self, domain: &Domain) -> Genotype {
        self.genotype(domain, &self.gaussian.state.mean)
    }

    fn genotype(&self, domain: &Domain, point: &[f64]) -> Genotype {
        let mut genotype = domain.middle();
        for (&g, &u) in self.genes.iter().zip(point) {
            genotype[g] = decode(&domain.genes()[g], u);
        }
        genotype
    }

    fn step_at(&self, at: Address) -> Step {
        self.gaussian
            .step_of(Stream::at(self.options.seed, at).normals(self.genes.len()))
    }

    /// The step that led to an answer: drawn again by its address if this generation drew it, else the way to it.
    fn step_to(&self, domain: &Domain, answer: &Answer, generation: u64) -> Step {
        if answer.is_sampled_in(generation) {
            return self.step_at(answer.address);
        }
        let point: Vec<f64> = self
            .genes
            .iter()
            .map(|&g| encode(&domain.genes()[g], answer.genotype[g]))
            .collect();
        self.gaussian.step_to(&point)
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], generation: u64) {
        let outcomes: Vec<&Outcome> = batch.iter().map(|answer| &answer.outcome).collect();
        let ranking = Ranking::of(&outcomes);
        self.run.record(&ranking, &outcomes);
        let moved = if ranking.is_flat() {
            self.widen(domain, &outcomes)
        } else {
            let steps: Vec<Step> = batch
                .iter()
                .map(|answer| self.step_to(domain, answer, generation))
                .collect();
            self.gaussian
                .update(&steps, &ranking)
                .and_then(|()| self.return_into(domain))
        };
        let reason = if moved.is_err() {
            Some(StopReason::Degenerate)
        } else {
            self.reason_to_stop(domain)
        };
        match (reason, self.options.restarts) {
            (None, _) => {}
            (Some(reason), Restarts::None) => self.stopped = Some(reason),
            (Some(_), Restarts::Ipop | Restarts::Bipop) => self.begin_again(domain, generation),
        }
    }

    /// A flat generation says nothing about where to go. A plateau is left by looking further; a generation that failed
    /// to the last candidate is drawn again as it was, because further out is no safer.
    fn widen(&mut self, domain: &Domain, outcomes: &[&Outcome]) -> Result<(), Degenerate> {
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Fitness(_)))
        {
            let Params {
                c_sigma, d_sigma, ..
            } = self.gaussian.params;
            let widest = self.start.sigma * MAX_WIDENING;
            let wider = self.gaussian.state.sigma * libm::exp(0.2 + c_sigma / d_sigma);
            self.gaussian.state.sigma = wider.min(widest.max(self.gaussian.state.sigma));
        }
        self.cap(domain)
    }

    fn cap(&mut self, domain: &Domain) -> Result<(), Degenerate> {
        let caps: Vec<f64> = self
            .genes
            .iter()
            .map(|&g| std_cap(&domain.genes()[g]))
            .collect();
        self.gaussian.cap(&caps)
    }

    /// Brings a mean that has crossed a bound back by the bound's own mirror, under which the landscape is the same.
    fn return_into(&mut self, domain: &Domain) -> Result<(), Degenerate> {
        for (i, &g) in self.genes.iter().enumerate() {
            if let Some(bound) = crossed_bound(&domain.genes()[g], self.gaussian.state.mean[i]) {
                self.gaussian.mirror(i, bound);
            }
        }
        self.cap(domain)
    }

    fn begin_again(&mut self, domain: &Domain, generation: u64) {
        let at = Address {
            restart: self.schedule.restart + 1,
            generation,
            index: RESTART_INDEX,
        };
        let mut stream = Stream::at(self.options.seed, at);
        let (population_size, shrink) =
            self.schedule
                .next(self.options.restarts, self.run.evaluations, &mut stream);
        let mean = self
            .genes
            .iter()
            .enumerate()
            .map(|(i, &g)| match domain.genes()[g] {
                gene if gene.is_bounded() => encode(&gene, gene.sample(&mut stream)),
                gene => {
                    let reach = 3.0 * self.start.sigma * self.start.stds[i];
                    let u = self.start.mean[i] + stream.between(-reach, reach);
                    encode(&gene, decode(&gene, u))
                }
            });
        let mean = mean.collect();
        let sigma = self.start.sigma * shrink;
        self.gaussian = self
            .start
            .gaussian(&self.options, population_size, sigma, mean);
        self.run = Run {
            sigma0: sigma,
            ..Run::default()
        };
    }

    fn reason_to_stop(&self, domain: &Domain) -> Option<StopReason> {
        let rules = if self.options.noisy {
            Self::stops_under_noise
        } else {
            Self::stops_without_noise
        };
        self.stops_always()
            .or_else(|| rules(self, domain))
            .or_else(|| {
                let is_over = self.schedule.is_small
                    && 2 * self.run.evaluations > self.schedule.last_large_evaluations;
                is_over.then_some(StopReason::SmallRunOver)
            })
    }

    fn stops_always(&self) -> Option<StopReason> {
        let Gaussian { state, .. } = &self.gaussian;
        let longest = state.cov.lengths().iter().copied().fold(0.0, f64::max);
        if state.cov.condition() > 1e14 {
            Some(StopReason::IllConditioned)
        } else if state.sigma * longest
            > MAX_GROWTH * self.run.sigma0 * longest_of(&self.start.stds)
        {
            Some(StopReason::Diverged)
        } else {
            None
        }
    }

    /// Under noise, fitness values stop nothing: what looks flat or stagnant may be luck. The spread may.
    fn stops_under_noise(&self, domain: &Domain) -> Option<StopReason> {
        let is_narrow = |(i, g): (usize, &usize)| {
            domain.genes()[*g].is_bounded() && self.gaussian.std(i) < 0.01
        };
        self.genes
            .iter()
            .enumerate()
            .all(is_narrow)
            .then_some(StopReason::Narrow)
    }

    fn stops_without_noise(&self, _: &Domain) -> Option<StopReason> {
        let Gaussian { params, state } = &self.gaussian;
        let n = params.n;
        let window = 10 + (30 * n).div_ceil(params.population_size);
        if self.run.flat as usize >= window {
            return Some(StopReason::Flat);
        }
        let recent = self
            .run
            .best
            .len()
            .checked_sub(window)
            .map(|start| &self.run.best[start..]);
        if let (Some(recent), Some(last_range)) = (recent, self.run.last_range)
            && range(recent) < 1e-12
            && last_range < 1e-12
        {
            return Some(StopReason::FitnessConverged);
        }
        if self.is_stagnant() {
            return Some(StopReason::Stagnated);
        }
        let smallest_step = 1e-11 * self.run.sigma0.min(1.0);
        if (0..n).all(|i| state.sigma * state.cov.std(i).max(state.p_c[i].abs()) < smallest_step) {
            return Some(StopReason::StepsConverged);
        }
        let stays = |i: usize, by: f64| state.mean[i] + by == state.mean[i];
        if (0..n).any(|i| stays(i, 0.2 * self.gaussian.std(i))) {
            return Some(StopReason::StepsConverged);
        }
        let k = (state.updates % n as u64) as usize;
        let mut along = vec![0.0; n];
        along[k] = 0.1 * state.sigma * state.cov.lengths()[k];
        let axis = state.cov.turn(&along);
        (0..n)
            .all(|i| stays(i, axis[i]))
            .then_some(StopReason::StepsConverged)
    }

    /// pycma's `tolstagnation`: the newest fifth of the best costs is no better than the fifth before the last.
    fn is_stagnant(&self) -> bool {
        let n = self.gaussian.params.n as f64;
        let patience = 100.0 + 100.0 * n * n.sqrt() / self.population_size() as f64;
        let best = &self.run.best;
        let length = (patience as usize).max(best.len() / 5);
        if best.len() < 2 * length {
            return false;
        }
        let part = length / 3;
        let newest = median(&best[best.len() - part..]);
        let older = median(&best[best.len() - length..best.len() - length + part]);
        newest >= older
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let n = self.genes.len();
        n > 0
            && self.genes.iter().all(|&g| g < domain.genes().len())
            && self.gaussian.is_consistent(n)
            && self.start.mean.len() == n
            && self.start.stds.len() == n
            && self.population_size() >= 2
    }
}

/// On a plateau sigma grows to this multiple of where it started, and no further.
const MAX_WIDENING: f64 = 10.0;

/// A run whose widest axis has grown by this factor is lost (pycma's `tolfacupx` and `tolupsigma`, taken together).
const MAX_GROWTH: f64 = 1e4;

/// Restarts double the population until it is this many times the first.
const MOST_GROWTH: usize = 1 << 10;

/// Best costs beyond this many are forgotten, the oldest first.
const LONGEST_HISTORY: usize = 20_000;

fn longest_of(stds: &[f64]) -> f64 {
    stds.iter().copied().fold(0.0, f64::max)
}

fn range(values: &[f64]) -> f64 {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| {
            (l.min(v), h.max(v))
        });
    high - low
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        0.5 * (sorted[middle - 1] + sorted[middle])
    }
}

impl Start {
    fn gaussian(
        &self,
        options: &Options,
        population_size: usize,
        sigma: f64,
        mean: Vec<f64>,
    ) -> Gaussian {
        let params = Params::new(self.mean.len(), population_size, options.covariance);
        Gaussian::new(
            params,
            mean,
            sigma,
            &self.stds,
            options.covariance,
            options.learning_rate_adaptation,
        )
    }
}

impl Run {
    fn record(&mut self, ranking: &Ranking, outcomes: &[&Outcome]) {
        let costs: Vec<f64> = outcomes
            .iter()
            .filter_map(|outcome| outcome.cost())
            .collect();
        self.generations += 1;
        self.evaluations += outcomes.len() as u64;
        self.flat = if ranking.is_flat() { self.flat + 1 } else { 0 };
        self.last_range = (!costs.is_empty()).then(|| range(&costs));
        self.best.extend(costs.into_iter().reduce(f64::min));
        if self.best.len() > LONGEST_HISTORY {
            self.best.drain(..LONGEST_HISTORY / 2);
        }
    }
}

impl Schedule {
    /// Moves on to the next run; gives its population size and what its first sigma is multiplied by.
    fn next(&mut self, restarts: Restarts, evaluations: u64, stream: &mut Stream) -> (usize, f64) {
        if self.is_small {
            self.evaluations_small += evaluations;
        } else {
            self.evaluations_large += evaluations;
            self.last_large_evaluations = evaluations;
        }
        self.restart += 1;
        self.is_small = restarts == Restarts::Bipop
            && self.restart > 1
            && self.evaluations_small < self.evaluations_large;
        if self.is_small {
            // Hansen (2009): λ_s = ⌊λ_0 (λ_l / 2λ_0)^(U²)⌋, σ_s = σ_0 10^(-2U)
            let u = stream.uniform();
            let ratio = 0.5 * self.large_population as f64 / self.first_population as f64;
            let population = self.first_population as f64 * libm::pow(ratio, u * u);
            (
                (population.floor() as usize).max(2),
                libm::pow(10.0, -2.0 * stream.uniform()),
            )
        } else {
            self.large_population =
                (2 * self.large_population).min(MOST_GROWTH * self.first_population);
            (self.large_population, 1.0)
        }
    }
}
