//! CMA-ES for real genes: a normal distribution in unit coordinates with mirrors at the bounds.
//!
//! The update is in `gaussian.rs`, the rules on stopping and restarting in `restarts.rs`. Fitness values are used for
//! ranks alone, except by the rules that stop a run without noise; so any monotone transform of the fitness gives the
//! same search.

use serde::{Deserialize, Serialize};

use super::chance::{Address, RESTART_INDEX, Stream};
use super::coordinates::{crossed_bound, decode, encode, std_cap};
use super::covariance::Degenerate;
use super::domain::{Domain, Gene, Genotype};
use super::gaussian::{Drawn, Gaussian, Step, default_population_size};
use super::ledger::Answer;
use super::ranking::Ranking;
use super::restarts::{Verdict, View, Watch};
use super::start::{Start, spread_of};
use super::{Error, Options, Outcome, Spread, StopReason};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CmaEs {
    options: Options,
    /// The genes that the distribution covers; the others are choices of one option.
    genes: Vec<usize>,
    start: Start,
    gaussian: Gaussian,
    watch: Watch,
    #[serde(skip)]
    drawn: Drawn,
}

impl CmaEs {
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        let mut genes = Vec::new();
        for (i, gene) in domain.genes().iter().enumerate().filter(|(_, gene)| gene.is_free()) {
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
        let start = Start::in_the_middle(domain, &genes);
        let population_size = options
            .population_size
            .unwrap_or_else(|| default_population_size(genes.len()));
        let gaussian = start.gaussian(options, population_size, start.mean.clone(), start.sigma);
        let watch = Watch::new(population_size, start.sigma);
        Ok(Self {
            options: options.clone(),
            genes,
            start,
            gaussian,
            watch,
            drawn: Drawn::default(),
        })
    }

    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) -> Result<(), Error> {
        self.start = Start::at(domain, &self.genes, point, spread)?;
        self.begin(self.population_size(), self.start.mean.clone(), self.start.sigma);
        self.watch.set_sigma0(self.start.sigma);
        Ok(())
    }

    fn begin(&mut self, population_size: usize, mean: Vec<f64>, sigma: f64) {
        self.gaussian = self.start.gaussian(&self.options, population_size, mean, sigma);
    }

    pub fn population_size(&self) -> usize {
        self.gaussian.params.population_size
    }

    pub fn restart(&self) -> u64 {
        self.watch.restart()
    }

    pub fn sigma(&self) -> f64 {
        self.gaussian.state.sigma
    }

    pub fn flat_generations(&self) -> u64 {
        self.watch.flat_generations()
    }

    pub fn stopped(&self) -> Option<StopReason> {
        self.watch.stopped()
    }

    pub fn propose(&mut self, domain: &Domain, at: Address) -> Genotype {
        let step = self.step_at(at);
        let genotype = self.genotype(domain, &self.gaussian.point(&step.y));
        self.drawn.keep(at.index, step);
        genotype
    }

    pub fn mean(&self, domain: &Domain) -> Genotype {
        self.genotype(domain, &self.gaussian.state.mean)
    }

    pub fn spread(&self, domain: &Domain) -> Spread {
        spread_of(&self.gaussian, domain, &self.genes)
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

    /// The step that led to an answer: the one drawn for it if this generation drew it, else the way to it.
    fn step_to(&mut self, domain: &Domain, answer: &Answer, generation: u64) -> Step {
        if answer.is_sampled_in(generation) {
            let drawn = self.drawn.take(answer.address.index);
            return drawn.unwrap_or_else(|| self.step_at(answer.address));
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
        self.watch.record(&ranking, &outcomes);
        let moved = if ranking.is_flat() {
            self.gaussian
                .widen(&outcomes, self.start.sigma)
                .and_then(|()| self.keep_inside(domain))
        } else {
            let steps: Vec<Step> = batch
                .iter()
                .map(|answer| self.step_to(domain, answer, generation))
                .collect();
            self.gaussian
                .update(&steps, &ranking)
                .and_then(|()| self.keep_inside(domain))
        };
        self.drawn.clear();
        self.decide(domain, moved, generation);
    }

    /// Brings a mean that has crossed a bound back by the bound's own mirror, under which the landscape is the same,
    /// and caps the standard deviations.
    fn keep_inside(&mut self, domain: &Domain) -> Result<(), Degenerate> {
        for (i, &g) in self.genes.iter().enumerate() {
            if let Some(bound) = crossed_bound(&domain.genes()[g], self.gaussian.state.mean[i]) {
                self.gaussian.mirror(i, bound);
            }
        }
        let caps: Vec<f64> = self.genes.iter().map(|&g| std_cap(&domain.genes()[g])).collect();
        self.gaussian.cap(&caps)
    }

    fn decide(&mut self, domain: &Domain, moved: Result<(), Degenerate>, generation: u64) {
        let at = Address {
            restart: self.watch.restart() + 1,
            generation,
            index: RESTART_INDEX,
        };
        let mut stream = Stream::at(self.options.seed, at);
        let reals = self
            .genes
            .iter()
            .enumerate()
            .map(|(i, &g)| (i, domain.genes()[g].is_bounded()))
            .collect();
        let view = View {
            gaussian: &self.gaussian,
            reals,
        };
        let population_size = self.gaussian.params.population_size;
        let verdict = self
            .watch
            .decide(&self.options, population_size, Some(&view), moved.is_err(), &mut stream);
        match verdict {
            Verdict::GoOn | Verdict::Stop => {}
            Verdict::BeginAgain {
                population_size,
                shrink,
            } => {
                let mean = self.start.elsewhere(domain, &self.genes, &mut stream);
                self.begin(population_size, mean, self.start.sigma * shrink);
            }
        }
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let n = self.genes.len();
        n > 0
            && self.genes.iter().all(|&g| g < domain.genes().len())
            && self.gaussian.is_consistent(n)
            && self.start.is_consistent(n)
            && self.population_size() >= 2
    }
}
