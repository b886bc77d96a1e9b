//! CMA-ES: a normal distribution in unit coordinates with mirrors at the bounds; with a margin where genes are whole numbers.
//!
//! The update is in `gaussian.rs`, what lies between genes and coordinates in `numbers.rs`, the margin in `margin.rs`, the
//! rules on stopping and restarting in `restarts.rs`. Fitness values are used for ranks alone, except by the rules that
//! stop a run without noise; so any monotone transform of the fitness gives the same search.

use serde::{Deserialize, Serialize};

use super::chance::{Address, Stream};
use super::domain::{Domain, Gene, Genotype};
use super::gaussian::default_population_size;
use super::ledger::Answer;
use super::margin;
use super::numbers::Numbers;
use super::ranking::Ranking;
use super::restarts::{Verdict, Watch};
use super::{Error, Options, Outcome, Spread, StopReason};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CmaEs {
    options: Options,
    /// Over the genes that can move; the others are choices of one option.
    #[serde(flatten)]
    numbers: Numbers,
    watch: Watch,
}

impl CmaEs {
    /// For real genes.
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        let mut free = domain.genes().iter().enumerate().filter(|(_, gene)| gene.is_free());
        let unsupported = free.find_map(|(gene, of)| match of {
            Gene::Real { .. } => None,
            Gene::Int { .. } => Some((gene, "a whole number")),
            Gene::Choice { .. } => Some((gene, "a choice")),
        });
        match unsupported {
            Some((gene, kind)) => Err(Error::UnsupportedGene {
                optimizer: "cma-es",
                gene,
                kind,
                way_out: "it moves real numbers only; use cma-es-margin, genetic or random",
            }),
            None => Ok(Self::over_free_genes(domain, options, false)),
        }
    }

    /// For real genes and whole numbers.
    pub fn with_margin(domain: &Domain, options: &Options) -> Self {
        Self::over_free_genes(domain, options, true)
    }

    fn over_free_genes(domain: &Domain, options: &Options, margin: bool) -> Self {
        let free = |i: &usize| domain.genes()[*i].is_free();
        let genes: Vec<usize> = (0..domain.genes().len()).filter(free).collect();
        let population_size = options
            .population_size
            .unwrap_or_else(|| default_population_size(genes.len()));
        let numbers = Numbers::new(domain, genes, options, population_size, margin);
        Self {
            options: options.clone(),
            watch: Watch::new(population_size, numbers.start.sigma),
            numbers,
        }
    }

    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) -> Result<(), Error> {
        self.numbers.start_at(domain, &self.options, point, spread)?;
        self.watch.set_sigma0(self.numbers.start.sigma);
        Ok(())
    }

    pub fn population_size(&self) -> usize {
        self.numbers.population_size()
    }

    pub fn restart(&self) -> u64 {
        self.watch.restart()
    }

    pub fn sigma(&self) -> f64 {
        self.numbers.gaussian.state.sigma
    }

    pub fn flat_generations(&self) -> u64 {
        self.watch.flat_generations()
    }

    pub fn stopped(&self) -> Option<StopReason> {
        self.watch.stopped()
    }

    pub fn propose(&mut self, domain: &Domain, at: Address) -> Genotype {
        let mut genotype = domain.middle();
        let mut stream = Stream::at(self.options.seed, at);
        self.numbers.draw(domain, &mut stream, at.index, &mut genotype);
        genotype
    }

    pub fn mean(&self, domain: &Domain) -> Genotype {
        let mut genotype = domain.middle();
        self.numbers.write_mean(domain, &mut genotype);
        genotype
    }

    pub fn spread(&self, domain: &Domain) -> Spread {
        self.numbers.spread(domain)
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], generation: u64) {
        let outcomes: Vec<&Outcome> = batch.iter().map(|answer| &answer.outcome).collect();
        let ranking = Ranking::of(&outcomes);
        self.watch.record(&ranking, &outcomes);
        let numbers = &mut self.numbers;
        let steps = numbers.steps(domain, self.options.seed, batch, generation);
        let moved = match ranking.is_flat() {
            true => numbers.gaussian.widen(&outcomes, numbers.start.sigma),
            false => numbers.gaussian.update(&steps, &ranking),
        };
        let moved = moved.and_then(|()| numbers.keep_inside(domain));
        if moved.is_ok() {
            margin::correct(numbers, domain);
        }
        let mut stream = self.watch.stream(self.options.seed, generation);
        let (view, population_size) = (numbers.view(domain), numbers.population_size());
        let verdict = self
            .watch
            .decide(&self.options, population_size, Some(&view), moved.is_err(), &mut stream);
        if let Verdict::BeginAgain {
            population_size,
            shrink,
        } = verdict
        {
            numbers.begin_elsewhere(domain, &self.options, population_size, shrink, &mut stream);
        }
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain, margin: bool) -> bool {
        self.numbers.is_consistent(domain, margin)
    }
}
