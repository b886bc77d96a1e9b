//! Random search: uniform candidates, the baseline that every other algorithm has to beat.

use serde::{Deserialize, Serialize};

use super::Options;
use super::chance::{Address, Stream};
use super::domain::{Domain, Genotype};
use super::ledger::Answer;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Random {
    seed: u64,
    population_size: usize,
}

/// Candidates handed out at once; no generation depends on another, so the number means nothing else.
const DEFAULT_POPULATION_SIZE: usize = 16;

impl Random {
    pub fn new(options: &Options) -> Self {
        Self {
            seed: options.seed,
            population_size: options.population_size.unwrap_or(DEFAULT_POPULATION_SIZE),
        }
    }

    pub fn population_size(&self) -> usize {
        self.population_size
    }

    pub fn propose(&self, domain: &Domain, at: Address) -> Genotype {
        domain.sample(&mut Stream::at(self.seed, at))
    }

    /// Nothing is learnt.
    pub fn update(&mut self, _: &Domain, _: &[Answer], _: u64) {}

    pub fn is_consistent(&self, _: &Domain) -> bool {
        self.population_size >= 2
    }
}
