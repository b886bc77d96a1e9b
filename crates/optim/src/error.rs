//! What can be wrong with a domain, an option, a call or a saved state.

use super::domain::Gene;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is nothing to search: {genes} gene(s), and none of them can take more than one value")]
    NothingToSearch { genes: usize },

    #[error(
        "gene {gene} has no usable range: low is {low}, high is {high}; low must be below high (a value that is \
         not to be searched is written as a constant, not as a range)"
    )]
    Range { gene: usize, low: String, high: String },

    #[error("gene {gene} is a choice of no options; give it at least one")]
    NoOptions { gene: usize },

    #[error("{optimizer} cannot search gene {gene}, {kind}: {way_out}")]
    UnsupportedGene {
        optimizer: &'static str,
        gene: usize,
        kind: &'static str,
        way_out: &'static str,
    },

    #[error("a population of {got} cannot be ranked; it needs at least {least} candidates")]
    PopulationSize { got: usize, least: usize },

    #[error("{optimizer} takes {expected} objective(s), {got} were given; several objectives need nsga2")]
    Objectives {
        optimizer: &'static str,
        expected: usize,
        got: usize,
    },

    #[error(
        "a slot of the path needs a choice of two as its indicator (gene {indicator}) and a real gene, if any, as its \
         scale ({scale:?})"
    )]
    Slot { indicator: usize, scale: Option<usize> },

    #[error("competition is a number from 0 upwards, and the genetic algorithm's alone; {optimizer} was given {value}")]
    Competition { optimizer: &'static str, value: f64 },

    #[error("a genotype of this domain has {expected} genes, this one has {got}")]
    GenotypeLength { expected: usize, got: usize },

    #[error("gene {gene} cannot be {value}: it is {allowed:?}")]
    GenotypeValue { gene: usize, value: f64, allowed: Gene },

    #[error("the first step size of gene {gene} is {value}; it must be a positive number")]
    StepSize { gene: usize, value: f64 },

    #[error("the search has begun already; where to start can be said only before the first candidate is asked for")]
    AlreadyStarted,

    #[error("a fitness must be a finite number, not {value}; report what cannot be scored as failed")]
    NotFinite { value: f64 },

    #[error("candidate {id} is not waiting for a result: it was never asked for, or has been answered already")]
    UnknownCandidate { id: u64 },

    #[error("the saved optimizer state cannot be read: {reason}; start a new search, or replay the journal")]
    State { reason: String },

    #[error(
        "the saved optimizer state has format version {got}, this program reads version {expected}; replay the journal to rebuild it"
    )]
    StateVersion { expected: u32, got: u32 },
}
