//! Optimizers over genes: one algorithm a file, all behind the same ask and tell.
//!
//! The caller owns the loop: [`Optimizer::ask`] hands out genotypes, the caller evaluates them in any way and order,
//! [`Optimizer::tell`] takes the outcomes back. Fitness is maximised. Nothing here knows what a genotype means, reads a
//! clock, or keeps a random generator: every candidate's numbers follow from (seed, restart, generation, index), sums
//! have one order and transcendental functions come from `libm`, so the same answers give the same search bit for bit,
//! on any machine, resumed or not.
//!
//! ```
//! use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options, Outcome};
//!
//! let domain = Domain::new(vec![Gene::Real { low: -3.0, high: 5.0 }; 4])?;
//! let mut optimizer = Optimizer::new(Kind::CmaEs, domain, &Options::default())?;
//! for _ in 0..60 {
//!     let results: Vec<(u64, Outcome)> = optimizer
//!         .ask()
//!         .iter()
//!         .map(|ask| (ask.id, Outcome::from_score(-ask.genotype.iter().map(|x| x * x).sum::<f64>())))
//!         .collect();
//!     optimizer.tell(&results)?;
//! }
//! let mean = optimizer.mean().expect("CMA-ES has a mean");
//! assert!(mean.iter().all(|x| x.abs() < 0.01));
//! # Ok::<(), Error>(())
//! ```
//!
//! | algorithm | file | genes |
//! |---|---|---|
//! | CMA-ES: active, IPOP/BIPOP restarts, learning-rate adaptation, diagonal variant | `cma_es.rs` | real |
//! | the same with margin | `margin.rs` | real, whole numbers |
//! | CatCMA with margin | `cat_cma.rs` | any |
//! | genetic algorithm, by tournaments or by competition and attraction (`attraction.rs`) | `genetic.rs` | any |
//! | NSGA-II, for several objectives | `nsga2.rs` | any |
//! | Bayesian optimisation with a Gaussian process, for few candidates whose errors are known | `gp.rs` | any with ranges |
//! | EvoLLM: the mean of the next generation is a language model's | `evollm.rs` | any with ranges |
//! | random search | `random.rs` | any |
//!
//! Where there is a gradient, `adam.rs` follows it; it asks nobody, and is told derivatives.

#![deny(missing_docs)]

mod adam;
mod attraction;
mod cat_cma;
mod chance;
mod cholesky;
mod cma_es;
mod coordinates;
mod covariance;
mod domain;
mod eigen;
mod error;
mod evollm;
mod gaussian;
mod genetic;
mod gp;
mod improvement;
mod learning_rate;
mod ledger;
mod margin;
mod measurement;
mod normal;
mod nsga2;
mod numbers;
mod path;
mod process;
mod random;
mod ranking;
mod restarts;
mod start;
mod variation;

use serde::{Deserialize, Serialize};

pub use adam::Adam;
pub use attraction::Answered;
pub use domain::{Domain, Gene, Genotype};
pub use error::Error;
pub use gaussian::CovarianceModel;
pub use measurement::Measurement;
pub use path::Slot;

use cat_cma::CatCma;
use cma_es::CmaEs;
use evollm::EvoLlm;
use genetic::Genetic;
use gp::Gp;
use ledger::Ledger;
use nsga2::Nsga2;
use random::Random;

/// A score to be maximised: always finite.
///
/// ```
/// use heterosis_optim::Fitness;
///
/// assert_eq!(Fitness::new(0.75)?.value(), 0.75);
/// assert!(Fitness::new(f64::NAN).is_err());
/// # Ok::<(), heterosis_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Fitness(f64);

impl Fitness {
    /// **Errors**: NaN and the infinities.
    pub fn new(value: f64) -> Result<Self, Error> {
        if value.is_finite() {
            Ok(Self(value + 0.0))
        } else {
            Err(Error::NotFinite { value })
        } // + 0.0: no negative zero
    }

    /// The number itself.
    pub fn value(self) -> f64 {
        self.0
    }

    /// The number that the algorithms minimise, as their papers do: the only place where the sign turns.
    fn cost(self) -> f64 {
        -self.0
    }

    /// The fitness whose cost this is.
    fn of_cost(cost: f64) -> f64 {
        Self(cost).cost() + 0.0
    }
}

impl TryFrom<f64> for Fitness {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self, Error> {
        Self::new(value)
    }
}

impl From<Fitness> for f64 {
    fn from(fitness: Fitness) -> f64 {
        fitness.0
    }
}

/// What became of a candidate, the better kinds first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// One score.
    Fitness(Fitness),
    /// Several scores, each maximised. For nsga2.
    Objectives {
        /// In an order that is the same for all candidates.
        values: Vec<Fitness>,
        /// By how much hard limits are broken; 0: not at all.
        violation: Fitness,
    },
    /// Left a race early; arms rank in the order in which they left, the first to leave last.
    Eliminated {
        /// Larger for who left later.
        order: u64,
    },
    /// Could not be scored; ranks last.
    Failed,
}

impl Outcome {
    /// A score as it comes from an evaluation: what is not a finite number has failed.
    ///
    /// ```
    /// use heterosis_optim::Outcome;
    ///
    /// assert_eq!(Outcome::from_score(f64::NAN), Outcome::Failed);
    /// ```
    pub fn from_score(score: f64) -> Self {
        Fitness::new(score).map_or(Self::Failed, Self::Fitness)
    }

    fn cost(&self) -> Option<f64> {
        match self {
            Self::Fitness(fitness) => Some(fitness.cost()),
            Self::Objectives { .. } | Self::Eliminated { .. } | Self::Failed => None,
        }
    }

    /// How many objectives were scored; `None` when nothing was.
    fn objectives(&self) -> Option<usize> {
        match self {
            Self::Fitness(_) => Some(1),
            Self::Objectives { values, .. } => Some(values.len()),
            Self::Eliminated { .. } | Self::Failed => None,
        }
    }
}

/// A candidate to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Unique in the run, ascending.
    pub id: u64,
    /// From 0, counted over restarts.
    pub generation: u64,
    /// One number for each gene, within its range.
    pub genotype: Genotype,
}

/// Why a search has nothing more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Steps have become too small to change the mean or to matter.
    StepsConverged,
    /// The best fitness has not changed for many generations, nor differed within the last.
    FitnessConverged,
    /// The best fitness of recent generations is no better than long before.
    Stagnated,
    /// Many generations in a row without any difference between candidates.
    Flat,
    /// All standard deviations are below a hundredth of their range.
    Narrow,
    /// The covariance matrix is too elongated for f64.
    IllConditioned,
    /// The distribution has grown out of all proportion to where it started.
    Diverged,
    /// The distribution cannot be computed any further.
    Degenerate,
    /// A small run of BIPOP has used its share.
    SmallRunOver,
}

/// What the CMA family does when a run is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restarts {
    /// It stops.
    None,
    /// It begins again elsewhere with twice the population (Auger & Hansen, 2005).
    #[default]
    Ipop,
    /// As IPOP, alternating with small, local runs (Hansen, 2009).
    Bipop,
}

/// The algorithms by the names that users write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// CMA-ES, for real genes.
    CmaEs,
    /// CMA-ES with margin for real genes and whole numbers; CatCMA with margin as soon as there is a choice.
    CmaEsMargin,
    /// A genetic algorithm, for any genes.
    Genetic,
    /// For several objectives.
    Nsga2,
    /// Bayesian optimisation with a Gaussian process, for few candidates and genes with ranges.
    Gp,
    /// An evolution strategy whose next mean a language model says; see [`Optimizer::question`]. For genes with ranges.
    Evollm,
    /// Independent draws.
    Random,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CmaEs,
        Self::CmaEsMargin,
        Self::Genetic,
        Self::Nsga2,
        Self::Gp,
        Self::Evollm,
        Self::Random,
    ];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CmaEs => "cma-es",
            Self::CmaEsMargin => "cma-es-margin",
            Self::Genetic => "genetic",
            Self::Nsga2 => "nsga2",
            Self::Gp => "gp",
            Self::Evollm => "evollm",
            Self::Random => "random",
        }
    }

    /// Whether scores count by their errors, and points that it has not asked for teach it: whether [`Optimizer::measure`] and
    /// [`Optimizer::know`] change anything.
    pub fn weighs_errors(self) -> bool {
        self == Self::Gp
    }
}

/// How an optimizer is to work; the default is for a fitness without noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What all randomness follows from.
    pub seed: u64,
    /// Candidates in a generation; `None` for the algorithm's own default.
    pub population_size: Option<usize>,
    /// The fitness is noisy: fitness values end no run, and the genetic algorithm asks for its parents again.
    pub noisy: bool,
    /// What the CMA family does when a run is over.
    pub restarts: Restarts,
    /// How much of the covariance the CMA family learns.
    pub covariance: CovarianceModel,
    /// CMA-ES learns only as fast as the noise allows. It costs 4 to 8 times the evaluations when there is no noise.
    pub learning_rate_adaptation: bool,
    /// How many scores a candidate has; more than one needs nsga2.
    pub objectives: usize,
    /// The slots of the path that the genomes hold, in order, for the genetic algorithm's operators; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Slot>,
    /// How much less a question is worth to each of those who get it right, the more of them there are: the exponent α of
    /// `attraction.rs`, for the genetic algorithm. `None` or 0: individuals compete by their fitness alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub competition: Option<f64>,
    /// For each gene the layer group that it belongs to, if it does, for mixing genomes up to a split point; empty for
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Option<usize>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            population_size: None,
            noisy: false,
            restarts: Restarts::default(),
            covariance: CovarianceModel::default(),
            learning_rate_adaptation: false,
            objectives: 1,
            path: Vec::new(),
            competition: None,
            groups: Vec::new(),
        }
    }
}

impl Options {
    /// For scores from a sample of questions.
    pub fn for_noisy_fitness(seed: u64) -> Self {
        Self {
            seed,
            noisy: true,
            learning_rate_adaptation: true,
            ..Self::default()
        }
    }
}

/// How far from its start a search looks at first.
#[derive(Clone, Debug, PartialEq)]
pub enum Spread {
    /// The standard deviation as a part of each gene's range (of 1 where there is no range).
    OfRange(f64),
    /// One standard deviation for each gene, in the gene's own units; what stands at a choice is ignored.
    OfGenes(Vec<f64>),
    /// The same with the genes' correlations, `[genes, genes]` row by row, for algorithms that learn a covariance.
    Correlated {
        /// As in [`Spread::OfGenes`].
        stds: Vec<f64>,
        /// `[genes, genes]`, row by row, with ones on the diagonal.
        correlations: Vec<f64>,
    },
}

impl Spread {
    /// One standard deviation for each gene, in the gene's own units.
    ///
    /// **Errors**: another number of them than of genes.
    fn of_each(&self, domain: &Domain) -> Result<Vec<f64>, Error> {
        let genes = domain.genes();
        let stds = match self {
            Self::OfRange(part) => genes.iter().map(|gene| part * coordinates::unit(gene)).collect(),
            Self::OfGenes(stds) | Self::Correlated { stds, .. } => stds.clone(),
        };
        match stds.len() == genes.len() {
            true => Ok(stds),
            false => Err(Error::GenotypeLength {
                expected: genes.len(),
                got: stds.len(),
            }),
        }
    }
}

/// How a search stands, for people to look at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The present generation, from 0.
    pub generation: u64,
    /// How often the algorithm has begun again.
    pub restart: u64,
    /// Answers that make a generation.
    pub population_size: usize,
    /// The overall step size in unit coordinates, of algorithms that have one.
    pub sigma: Option<f64>,
    /// Generations in a row in which no candidate was better than another.
    pub flat_generations: u64,
}

/// A search in progress. Serialisable at any moment, with candidates out or not; see [`Optimizer::to_json`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    domain: Domain,
    ledger: Ledger,
    algorithm: Algorithm,
    /// The means at which runs ended before their successors began elsewhere.
    ended: Vec<Genotype>,
}

/// The closed set of algorithms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    CmaEs(CmaEs),
    Margin(CmaEs),
    CatCma(CatCma),
    Genetic(Genetic),
    Nsga2(Nsga2),
    Gp(Gp),
    Evollm(EvoLlm),
    Random(Random),
}

/// The one exhaustive match: evaluates an expression for whichever algorithm it is.
macro_rules! each {
    ($algorithm:expr, $it:ident => $do:expr) => {
        match $algorithm {
            Algorithm::CmaEs($it) => $do,
            Algorithm::Margin($it) => $do,
            Algorithm::CatCma($it) => $do,
            Algorithm::Genetic($it) => $do,
            Algorithm::Nsga2($it) => $do,
            Algorithm::Gp($it) => $do,
            Algorithm::Evollm($it) => $do,
            Algorithm::Random($it) => $do,
        }
    };
}

impl Algorithm {
    /// True when the parts of a loaded state fit each other.
    fn is_consistent(&self, domain: &Domain) -> bool {
        match self {
            Self::CmaEs(it) => it.is_consistent(domain, false),
            Self::Margin(it) => it.is_consistent(domain, true),
            Self::CatCma(it) => it.is_consistent(domain),
            Self::Genetic(it) => it.is_consistent(domain),
            Self::Nsga2(it) => it.is_consistent(domain),
            Self::Gp(it) => it.is_consistent(domain),
            Self::Evollm(it) => it.is_consistent(domain),
            Self::Random(it) => it.is_consistent(domain),
        }
    }
}

/// The format of [`Optimizer::to_json`]; raised with every change that an older program could misread.
pub const STATE_VERSION: u32 = 1;

#[derive(Serialize)]
struct SavedRef<'a> {
    version: u32,
    optimizer: &'a Optimizer,
}

#[derive(Deserialize)]
struct Saved {
    optimizer: Optimizer,
}

impl Optimizer {
    /// **Errors**: a gene that the algorithm cannot move, a population too small to rank, objectives it cannot weigh, a
    /// slot whose genes are not of the kinds that a slot has.
    pub fn new(kind: Kind, domain: Domain, options: &Options) -> Result<Self, Error> {
        if let Some(got) = options.population_size.filter(|size| *size < 2) {
            return Err(Error::PopulationSize { got, least: 2 });
        }
        let is_served = options.objectives == 1 || (kind == Kind::Nsga2 && options.objectives > 1);
        if !is_served {
            return Err(Error::Objectives {
                optimizer: kind.name(),
                expected: 1,
                got: options.objectives,
            });
        }
        for slot in &options.path {
            let gene = |i: usize| domain.genes().get(i);
            let is_switch = matches!(gene(slot.indicator), Some(Gene::Choice { n: 2 }));
            let is_scaled = slot.scale.is_none_or(|i| matches!(gene(i), Some(Gene::Real { .. })));
            if !is_switch || !is_scaled {
                return Err(Error::Slot {
                    indicator: slot.indicator,
                    scale: slot.scale,
                });
            }
        }
        if let Some(value) = options.competition
            && !(kind == Kind::Genetic && value.is_finite() && value >= 0.0)
        {
            let optimizer = kind.name();
            return Err(Error::Competition { optimizer, value });
        }
        if !options.groups.is_empty() && options.groups.len() != domain.genes().len() {
            let (expected, got) = (domain.genes().len(), options.groups.len());
            return Err(Error::GenotypeLength { expected, got });
        }
        let algorithm = match kind {
            Kind::CmaEs => Algorithm::CmaEs(CmaEs::new(&domain, options)?),
            Kind::CmaEsMargin if domain.has_choices() => Algorithm::CatCma(CatCma::new(&domain, options)),
            Kind::CmaEsMargin => Algorithm::Margin(CmaEs::with_margin(&domain, options)),
            Kind::Genetic => Algorithm::Genetic(Genetic::new(&domain, options)),
            Kind::Nsga2 => Algorithm::Nsga2(Nsga2::new(options)),
            Kind::Gp => Algorithm::Gp(Gp::new(&domain, options)?),
            Kind::Evollm => Algorithm::Evollm(EvoLlm::new(&domain, options)?),
            Kind::Random => Algorithm::Random(Random::new(options)),
        };
        Ok(Self {
            domain,
            ledger: Ledger::default(),
            algorithm,
            ended: Vec::new(),
        })
    }

    /// Begins at a known point: the mean of a distribution (where whole numbers may have fractions, and a fraction at a
    /// choice of two is the second option's probability), or the candidate nearest to it as a population's first.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options, Spread};
    /// # let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 2])?;
    /// let mut optimizer = Optimizer::new(Kind::CmaEs, domain, &Options::default())?;
    /// optimizer.start_at(&[0.25, 0.5], &Spread::OfRange(0.1))?;
    /// assert_eq!(optimizer.mean(), Some(vec![0.25, 0.5]));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// **Errors**: a genotype outside the domain, a step size that is not positive, a search that has begun.
    pub fn start_at(&mut self, genotype: &[f64], spread: &Spread) -> Result<(), Error> {
        if self.ledger.has_started() {
            return Err(Error::AlreadyStarted);
        }
        self.domain.check_mean(genotype)?;
        match &mut self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => it.start_at(&self.domain, genotype, spread),
            Algorithm::CatCma(it) => it.start_at(&self.domain, genotype, spread),
            Algorithm::Evollm(it) => it.start_at(&self.domain, genotype, spread),
            Algorithm::Genetic(it) => {
                spread.of_each(&self.domain)?;
                it.start_at(&self.domain, genotype, spread);
                self.inject([self.domain.nearest(genotype)])
            }
            Algorithm::Gp(it) => {
                it.start_at(&self.domain, genotype, spread)?;
                let nearest = self.domain.nearest(genotype);
                let unknown = (!it.knows(&self.domain, &nearest)).then_some(nearest);
                self.inject(unknown)
            }
            Algorithm::Nsga2(_) | Algorithm::Random(_) => self.inject([self.domain.nearest(genotype)]),
        }
    }

    /// Hands in candidates from outside; they are the next to be asked for, in place of the algorithm's own.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options};
    /// # let domain = Domain::new(vec![Gene::Int { low: 0, high: 9 }; 2])?;
    /// let mut optimizer = Optimizer::new(Kind::Genetic, domain, &Options::default())?;
    /// optimizer.inject([vec![3.0, 7.0]])?;
    /// assert_eq!(optimizer.ask()[0].genotype, [3.0, 7.0]);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// **Errors**: a genotype outside the domain; then none is taken.
    pub fn inject(&mut self, genotypes: impl IntoIterator<Item = Genotype>) -> Result<(), Error> {
        let genotypes: Vec<Genotype> = genotypes.into_iter().collect();
        genotypes.iter().try_for_each(|genotype| self.domain.check(genotype))?;
        self.ledger.inject(genotypes);
        Ok(())
    }

    /// The candidates that are still missing from the present generation; none while all of them are out.
    pub fn ask(&mut self) -> Vec<Ask> {
        let known = self.ledger.answered() + self.ledger.pending().len();
        (known..self.population_size()).map(|_| self.ask_one()).collect()
    }

    /// One more candidate, whether or not the generation is complete. With it, workers never wait for each other: a
    /// generation ends when as many answers as it has candidates are in, and late answers count in the next one.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options, Outcome};
    /// # let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 2])?;
    /// let mut optimizer = Optimizer::new(Kind::Random, domain, &Options::default())?;
    /// let (slow, quick) = (optimizer.ask_one(), optimizer.ask_one());
    /// optimizer.tell(&[(quick.id, Outcome::from_score(0.5))])?;
    /// let next = optimizer.ask_one();
    /// assert_eq!(optimizer.pending(), [slow, next]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn ask_one(&mut self) -> Ask {
        let address = self.ledger.next_address(self.restart());
        match self.ledger.take_injected() {
            Some(genotype) => self.ledger.hand_out(address, genotype, true),
            None => {
                let domain = &self.domain;
                let genotype = match &mut self.algorithm {
                    Algorithm::Gp(it) => it.propose(domain, address, &self.ledger.waiting()),
                    Algorithm::CmaEs(it) | Algorithm::Margin(it) => it.propose(domain, address),
                    Algorithm::CatCma(it) => it.propose(domain, address),
                    Algorithm::Genetic(it) => it.propose(domain, address),
                    Algorithm::Nsga2(it) => it.propose(domain, address),
                    Algorithm::Evollm(it) => {
                        it.close();
                        it.propose(domain, address)
                    }
                    Algorithm::Random(it) => it.propose(domain, address),
                };
                self.ledger.hand_out(address, genotype, false)
            }
        }
    }

    /// The candidates that are out and have not been answered: what a resumed search evaluates first.
    pub fn pending(&self) -> Vec<Ask> {
        self.ledger
            .pending()
            .iter()
            .map(|pending| pending.ask.clone())
            .collect()
    }

    /// Says, before its result is told, what a candidate that is out made of each question; scores below 0 are nothing.
    /// Only competition and attraction look at it, and only at questions that all whom they compare have answered.
    ///
    /// **Errors**: an id that is not out.
    pub fn observe(&mut self, id: u64, answers: Vec<Answered>) -> Result<(), Error> {
        match self.ledger.observe(id, answers) {
            true => Ok(()),
            false => Err(Error::UnknownCandidate { id }),
        }
    }

    /// Says, before its result is told, what a candidate that is out scored and how much that errs, also of one that leaves
    /// a race early. Only the Gaussian process looks at it; without it a score's error is learned from the scores.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Measurement, Optimizer, Options, Outcome};
    /// # let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 2])?;
    /// let mut optimizer = Optimizer::new(Kind::Gp, domain, &Options::default())?;
    /// for ask in optimizer.ask() {
    ///     let share = ask.genotype[0]; // right answers of 100
    ///     optimizer.measure(ask.id, Measurement::new(share, (share * (1.0 - share) / 100.0).sqrt())?)?;
    ///     optimizer.tell(&[(ask.id, Outcome::from_score(share))])?;
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// **Errors**: an id that is not out.
    pub fn measure(&mut self, id: u64, measured: Measurement) -> Result<(), Error> {
        let is_wanted = self.kind().weighs_errors();
        let is_out = match is_wanted {
            true => self.ledger.measure(id, measured),
            false => self.ledger.is_out(id),
        };
        if is_out {
            Ok(())
        } else {
            Err(Error::UnknownCandidate { id })
        }
    }

    /// Says what is known already of a point that was never asked for. Only the Gaussian process learns from it.
    ///
    /// **Errors**: a genotype outside the domain.
    pub fn know(&mut self, genotype: Genotype, measured: Measurement) -> Result<(), Error> {
        self.domain.check(&genotype)?;
        if let Algorithm::Gp(it) = &mut self.algorithm {
            it.know(genotype, measured);
        }
        Ok(())
    }

    /// What a language model is to be asked before the next candidates: the best points so far, as text, and what comes after
    /// them. Again and again until there is no more; `None` at once of algorithms that ask nobody.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options, Outcome};
    /// # let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 2])?;
    /// # let language_model = |_question: String| "75, 25";
    /// let mut optimizer = Optimizer::new(Kind::Evollm, domain, &Options::default())?;
    /// for ask in optimizer.ask() {
    ///     optimizer.tell(&[(ask.id, Outcome::from_score(ask.genotype[0]))])?;
    /// }
    /// while let Some(question) = optimizer.question() {
    ///     optimizer.advise(Some(language_model(question)))?;
    /// }
    /// assert_eq!(optimizer.mean(), Some(vec![0.75, 0.25]));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn question(&self) -> Option<String> {
        match &self.algorithm {
            Algorithm::Evollm(it) => it.question(),
            _ => None,
        }
    }

    /// Takes the reply to [`Self::question`], `None` if nobody replied; false when it could not be read. Whoever asks for
    /// candidates instead does without.
    ///
    /// **Errors**: nothing was asked.
    pub fn advise(&mut self, reply: Option<&str>) -> Result<bool, Error> {
        match &mut self.algorithm {
            Algorithm::Evollm(it) => it.advise(&self.domain, reply),
            _ => Err(Error::NothingAsked),
        }
    }

    /// Takes results, in any order and any portions. When a generation is complete, the algorithm learns from it.
    ///
    /// **Errors**: an id that is not out, or objectives in the wrong number; then no result is taken.
    pub fn tell(&mut self, results: &[(u64, Outcome)]) -> Result<(), Error> {
        let mut results: Vec<&(u64, Outcome)> = results.iter().collect();
        results.sort_by_key(|(id, _)| *id);
        self.check_results(&results)?;
        for (id, outcome) in results {
            let restart = self.restart();
            self.ledger.answer(*id, outcome.clone(), restart);
            if self.ledger.answered() >= self.population_size() {
                self.end_generation();
            }
        }
        Ok(())
    }

    fn end_generation(&mut self) {
        let restart = self.restart();
        let mean = match self.algorithm {
            Algorithm::Gp(_) => None, // never begins again, and its mean is dear
            _ => self.mean(),
        };
        let generation = self.ledger.generation;
        let batch = self.ledger.close_generation();
        each!(&mut self.algorithm, it => it.update(&self.domain, &batch, generation));
        if self.restart() != restart {
            self.ended.extend(mean);
        }
    }

    /// `results` in the order of ids.
    fn check_results(&self, results: &[&(u64, Outcome)]) -> Result<(), Error> {
        if let Some(pair) = results.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::UnknownCandidate { id: pair[0].0 });
        }
        let pending = self.ledger.pending();
        let (optimizer, expected) = (self.kind().name(), self.objectives());
        for (id, outcome) in results {
            let waits = pending.binary_search_by_key(id, |pending| pending.ask.id).is_ok();
            let got = outcome.objectives();
            let is_vector = matches!(outcome, Outcome::Objectives { .. });
            match got {
                _ if !waits => return Err(Error::UnknownCandidate { id: *id }),
                Some(got) if got != expected || (is_vector && self.kind() != Kind::Nsga2) => {
                    return Err(Error::Objectives {
                        optimizer,
                        expected,
                        got,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The centre of what has been learnt, as a candidate: under noise the best that a search can return. Of a Gaussian
    /// process it is where most is expected, once there is a score.
    pub fn mean(&self) -> Option<Genotype> {
        match &self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => Some(it.mean(&self.domain)),
            Algorithm::CatCma(it) => Some(it.mean(&self.domain)),
            Algorithm::Gp(it) => it.mean(&self.domain),
            Algorithm::Evollm(it) => Some(it.mean(&self.domain)),
            Algorithm::Genetic(_) | Algorithm::Nsga2(_) | Algorithm::Random(_) => None,
        }
    }

    /// How far the distribution around [`Self::mean`] reaches at present, for a search that goes on with other genes; of
    /// algorithms that have one.
    pub fn spread(&self) -> Option<Spread> {
        match &self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => Some(it.spread(&self.domain)),
            Algorithm::CatCma(it) => it.spread(&self.domain),
            Algorithm::Genetic(_)
            | Algorithm::Nsga2(_)
            | Algorithm::Gp(_)
            | Algorithm::Evollm(_)
            | Algorithm::Random(_) => None,
        }
    }

    /// The means of the runs that ended in a restart, oldest first. A restart begins elsewhere, so what was found before
    /// is here, and no longer in [`Self::mean`].
    pub fn ended_means(&self) -> &[Genotype] {
        &self.ended
    }

    /// Why the search is over, if it is. Only the caller's budget ends a search that restarts by itself.
    pub fn should_stop(&self) -> Option<StopReason> {
        match &self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => it.stopped(),
            Algorithm::CatCma(it) => it.stopped(),
            Algorithm::Genetic(_)
            | Algorithm::Nsga2(_)
            | Algorithm::Gp(_)
            | Algorithm::Evollm(_)
            | Algorithm::Random(_) => None,
        }
    }

    /// Which algorithm it is.
    pub fn kind(&self) -> Kind {
        match &self.algorithm {
            Algorithm::CmaEs(_) => Kind::CmaEs,
            Algorithm::Margin(_) | Algorithm::CatCma(_) => Kind::CmaEsMargin,
            Algorithm::Genetic(_) => Kind::Genetic,
            Algorithm::Nsga2(_) => Kind::Nsga2,
            Algorithm::Gp(_) => Kind::Gp,
            Algorithm::Evollm(_) => Kind::Evollm,
            Algorithm::Random(_) => Kind::Random,
        }
    }

    /// What it searches.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Answers that make a generation.
    pub fn population_size(&self) -> usize {
        each!(&self.algorithm, it => it.population_size())
    }

    /// How the search stands.
    pub fn status(&self) -> Status {
        let (sigma, flat_generations) = match &self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => (Some(it.sigma()), it.flat_generations()),
            Algorithm::CatCma(it) => (it.sigma(), it.flat_generations()),
            Algorithm::Genetic(it) => (None, it.flat_generations()),
            Algorithm::Nsga2(_) | Algorithm::Gp(_) | Algorithm::Evollm(_) | Algorithm::Random(_) => (None, 0),
        };
        Status {
            generation: self.ledger.generation,
            restart: self.restart(),
            population_size: self.population_size(),
            sigma,
            flat_generations,
        }
    }

    fn restart(&self) -> u64 {
        match &self.algorithm {
            Algorithm::CmaEs(it) | Algorithm::Margin(it) => it.restart(),
            Algorithm::CatCma(it) => it.restart(),
            Algorithm::Genetic(_)
            | Algorithm::Nsga2(_)
            | Algorithm::Gp(_)
            | Algorithm::Evollm(_)
            | Algorithm::Random(_) => 0,
        }
    }

    /// The scores that every candidate must have.
    fn objectives(&self) -> usize {
        match &self.algorithm {
            Algorithm::Nsga2(it) => it.objectives(),
            _ => 1,
        }
    }

    /// The Pareto front so far: genotypes that no other dominates, with their objectives; none but of nsga2.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Fitness, Gene, Kind, Optimizer, Options, Outcome};
    /// # let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }])?;
    /// let options = Options { objectives: 2, ..Options::default() };
    /// let mut optimizer = Optimizer::new(Kind::Nsga2, domain, &options)?;
    /// for ask in optimizer.ask() {
    ///     let x = ask.genotype[0];
    ///     let values = vec![Fitness::new(x)?, Fitness::new(-x * x)?];
    ///     let outcome = Outcome::Objectives { values, violation: Fitness::new(0.0)? };
    ///     optimizer.tell(&[(ask.id, outcome)])?;
    /// }
    /// assert!(!optimizer.front().is_empty());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn front(&self) -> Vec<(Genotype, Vec<f64>)> {
        match &self.algorithm {
            Algorithm::Nsga2(it) => it.front(),
            _ => Vec::new(),
        }
    }

    /// The whole state as one line of JSON. Numbers come back bit for bit.
    ///
    /// ```
    /// # use heterosis_optim::{Domain, Error, Gene, Kind, Optimizer, Options};
    /// # let domain = Domain::new(vec![Gene::Choice { n: 4 }; 3])?;
    /// let mut optimizer = Optimizer::new(Kind::CmaEsMargin, domain, &Options::default())?;
    /// let asks = optimizer.ask();
    /// let again = Optimizer::from_json(&optimizer.to_json())?;
    /// assert_eq!(again.pending(), asks);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn to_json(&self) -> String {
        let saved = SavedRef {
            version: STATE_VERSION,
            optimizer: self,
        };
        serde_json::to_string(&saved).expect("plain numbers, lists and names are always JSON")
    }

    /// **Errors**: another format version, or a state whose parts do not fit each other.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let reason = |error: serde_json::Error| Error::State {
            reason: error.to_string(),
        };
        let Version { version } = serde_json::from_str(json).map_err(reason)?;
        if version != STATE_VERSION {
            return Err(Error::StateVersion {
                expected: STATE_VERSION,
                got: version,
            });
        }
        let Saved { optimizer } = serde_json::from_str(json).map_err(reason)?;
        let genes = optimizer.domain.genes().len();
        let fits = optimizer.ledger.is_consistent(genes)
            && optimizer.ended.iter().all(|mean| mean.len() == genes)
            && optimizer.algorithm.is_consistent(&optimizer.domain);
        if fits {
            Ok(optimizer)
        } else {
            Err(Error::State {
                reason: "its parts do not fit each other".into(),
            })
        }
    }
}

#[cfg(test)]
mod tests;
