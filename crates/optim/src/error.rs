//! What can be wrong with a domain, an option, a call or a saved state.

use super::domain::Gene;

/// Each message names the gene, candidate or number and says the way out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// No gene can take more than one value.
    #[error("there is nothing to search: {genes} gene(s), and none of them can take more than one value")]
    NothingToSearch { genes: usize },

    /// A range that is empty, upside down or too wide for f64.
    #[error(
        "gene {gene} has no usable range: low is {low}, high is {high}; low must be below high (a value that is \
         not to be searched is written as a constant, not as a range)"
    )]
    Range { gene: usize, low: String, high: String },

    /// A choice without options.
    #[error("gene {gene} is a choice of no options; give it at least one")]
    NoOptions { gene: usize },

    /// A kind of gene that the algorithm cannot move.
    #[error("{optimizer} cannot search gene {gene}, {kind}: {way_out}")]
    UnsupportedGene {
        optimizer: &'static str,
        gene: usize,
        kind: &'static str,
        way_out: &'static str,
    },

    /// Fewer than two candidates in a generation.
    #[error("a population of {got} cannot be ranked; it needs at least {least} candidates")]
    PopulationSize { got: usize, least: usize },

    /// Another number of objectives than the algorithm, or the search, has.
    #[error("{optimizer} takes {expected} objective(s), {got} were given; several objectives need nsga2")]
    Objectives {
        optimizer: &'static str,
        expected: usize,
        got: usize,
    },

    /// A slot whose genes are not a switch and a scale.
    #[error(
        "a slot of the path needs a choice of two as its indicator (gene {indicator}) and a real gene, if any, as its \
         scale ({scale:?})"
    )]
    Slot { indicator: usize, scale: Option<usize> },

    /// Competition that is no exponent, or is not asked of the genetic algorithm.
    #[error("competition is a number from 0 upwards, and the genetic algorithm's alone; {optimizer} was given {value}")]
    Competition { optimizer: &'static str, value: f64 },

    /// A genotype, or a list over genes, of another length than the domain.
    #[error("a genotype of this domain has {expected} genes, this one has {got}")]
    GenotypeLength { expected: usize, got: usize },

    /// A value outside its gene.
    #[error("gene {gene} cannot be {value}: it is {allowed:?}")]
    GenotypeValue { gene: usize, value: f64, allowed: Gene },

    /// A first step size that is not positive.
    #[error("the first step size of gene {gene} is {value}; it must be a positive number")]
    StepSize { gene: usize, value: f64 },

    /// A start that is named after the first candidate.
    #[error("the search has begun already; where to start can be said only before the first candidate is asked for")]
    AlreadyStarted,

    /// A score that is NaN or infinite.
    #[error("a fitness must be a finite number, not {value}; report what cannot be scored as failed")]
    NotFinite { value: f64 },

    /// A result for a candidate that is not out.
    #[error("candidate {id} is not waiting for a result: it was never asked for, or has been answered already")]
    UnknownCandidate { id: u64 },

    /// Advice that nobody asked for.
    #[error("a reply was given, but there is no question: none was asked, or candidates were asked for since")]
    NothingAsked,

    /// A saved state that cannot be read.
    #[error("the saved optimizer state cannot be read: {reason}; start a new search, or replay the journal")]
    State { reason: String },

    /// A saved state of another version of this crate.
    #[error(
        "the saved optimizer state has format version {got}, this program reads version {expected}; replay the journal to rebuild it"
    )]
    StateVersion { expected: u32, got: u32 },
}
