//! CMA-ES with margin, for real and whole-number genes together.
//!
//! A whole number is a coordinate cut into steps. When the distribution becomes narrower than a step, every sample falls
//! on the same value and the coordinate is dead; the margin moves the mean and widens the coordinate's own amplification
//! just enough that each neighbour keeps a small probability. Real genes are treated as CMA-ES treats them.
//!
//! **Source**: Hamano, Saito, Nomura & Shirakawa (2205.13482), section and equation numbers are theirs.

use serde::{Deserialize, Serialize};

use super::chance::{Address, RESTART_INDEX, Stream};
use super::coordinates::{crossed_bound, decode, encode, std_cap};
use super::covariance::Degenerate;
use super::domain::{Domain, Gene, Genotype};
use super::gaussian::{Drawn, Gaussian, Step, default_population_size};
use super::ledger::Answer;
use super::normal::{cumulative, one_sided_distance};
use super::ranking::Ranking;
use super::restarts::{Verdict, View, Watch};
use super::start::{Start, spread_of};
use super::{Error, Options, Outcome, Spread, StopReason};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Margin {
    options: Options,
    /// The genes that the distribution covers; the others are choices of one option.
    genes: Vec<usize>,
    start: Start,
    gaussian: Gaussian,
    /// The diagonal of A: how much wider than sigma² C each whole number is sampled.
    amplification: Vec<f64>,
    watch: Watch,
    #[serde(skip)]
    drawn: Drawn,
}

impl Margin {
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        let free = |(_, gene): &(usize, &Gene)| gene.is_free();
        let genes: Vec<usize> = domain.genes().iter().enumerate().filter(free).map(|(i, _)| i).collect();
        if let Some(&gene) = genes
            .iter()
            .find(|&&g| matches!(domain.genes()[g], Gene::Choice { .. }))
        {
            let way_out = "its options have no order; use cat-cma, genetic or random";
            return Err(Error::UnsupportedGene {
                optimizer: "cma-es-margin",
                gene,
                kind: "a choice",
                way_out,
            });
        }
        let start = Start::in_the_middle(domain, &genes);
        let population_size = options
            .population_size
            .unwrap_or_else(|| default_population_size(genes.len()));
        let gaussian = start.gaussian(options, population_size, start.mean.clone(), start.sigma);
        let watch = Watch::new(population_size, start.sigma);
        let amplification = vec![1.0; genes.len()];
        let options = options.clone();
        Ok(Self {
            options,
            genes,
            start,
            gaussian,
            amplification,
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
        self.amplification = vec![1.0; self.genes.len()];
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
        let point = amplified_point(&self.gaussian, &self.amplification, &step.y);
        let genotype = self.genotype(domain, &point);
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
        self.gaussian
            .step_to(&plain_point(&self.gaussian, &self.amplification, &point))
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], generation: u64) {
        let outcomes: Vec<&Outcome> = batch.iter().map(|answer| &answer.outcome).collect();
        let ranking = Ranking::of(&outcomes);
        self.watch.record(&ranking, &outcomes);
        let moved = if ranking.is_flat() {
            self.gaussian.widen(&outcomes, self.start.sigma)
        } else {
            let steps: Vec<Step> = batch
                .iter()
                .map(|answer| self.step_to(domain, answer, generation))
                .collect();
            self.gaussian.update(&steps, &ranking)
        };
        let moved = moved.and_then(|()| keep_reals_inside(&mut self.gaussian, domain, &self.genes));
        if moved.is_ok() {
            self.correct(domain);
        }
        self.drawn.clear();
        self.decide(domain, moved, generation);
    }

    /// The margin correction (section 4.3).
    fn correct(&mut self, domain: &Domain) {
        // α = 1/(Nλ), the paper's recommendation
        let alpha = 1.0 / (self.genes.len() * self.population_size()) as f64;
        for (i, &g) in self.genes.iter().enumerate() {
            let gene = &domain.genes()[g];
            if !matches!(gene, Gene::Int { .. }) {
                continue;
            }
            let width = self.gaussian.std(i); // without the amplification
            let mean = self.gaussian.state.mean[i];
            let cell = Cell::around(gene, mean);
            let tails = Tails::of(&cell, mean, width * self.amplification[i]);
            if cell.is_edge() {
                // eq. 16: no further from the only threshold than the confidence interval of 1 − 2α reaches
                let reach = width * self.amplification[i] * one_sided_distance(alpha);
                let offset = mean - cell.low;
                self.gaussian.state.mean[i] =
                    cell.low + offset.abs().min(reach) * if offset > 0.0 { 1.0 } else { -1.0 };
            } else {
                // eq. 20–23: raise both tails to α/2, take it from all three parts in proportion to what they have left
                let floor = alpha / 2.0;
                let raised = Tails {
                    low: tails.low.max(floor),
                    middle: tails.middle,
                    high: tails.high.max(floor),
                };
                let excess = 1.0 - raised.low - raised.middle - raised.high;
                let room = raised.low + raised.middle + raised.high - 3.0 * floor;
                let share = if room > 0.0 { excess / room } else { 0.0 };
                let low = raised.low + share * (raised.low - floor);
                let high = raised.high + share * (raised.high - floor);
                (self.gaussian.state.mean[i], self.amplification[i]) = cell.fit(low, high, width);
            }
        }
    }

    fn decide(&mut self, domain: &Domain, moved: Result<(), Degenerate>, generation: u64) {
        let at = Address {
            restart: self.watch.restart() + 1,
            generation,
            index: RESTART_INDEX,
        };
        let mut stream = Stream::at(self.options.seed, at);
        let view = View {
            gaussian: &self.gaussian,
            reals: real_coordinates(domain, &self.genes),
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
            && self.amplification.len() == n
            && self.population_size() >= 2
    }
}

/// mean + sigma A y (eq. 8).
pub fn amplified_point(gaussian: &Gaussian, amplification: &[f64], y: &[f64]) -> Vec<f64> {
    let scaled: Vec<f64> = y.iter().zip(amplification).map(|(y, a)| y * a).collect();
    gaussian.point(&scaled)
}

/// The point that becomes `point` when it is amplified.
pub fn plain_point(gaussian: &Gaussian, amplification: &[f64], point: &[f64]) -> Vec<f64> {
    let mean = &gaussian.state.mean;
    point
        .iter()
        .zip(mean)
        .zip(amplification)
        .map(|((u, m), a)| m + (u - m) / a)
        .collect()
}

/// The coordinates of the real genes, and whether each is bounded.
pub fn real_coordinates(domain: &Domain, genes: &[usize]) -> Vec<(usize, bool)> {
    let gene = |g: usize| &domain.genes()[g];
    let is_real = |(_, g): &(usize, &usize)| matches!(gene(**g), Gene::Real { .. });
    genes
        .iter()
        .enumerate()
        .filter(is_real)
        .map(|(i, &g)| (i, gene(g).is_bounded()))
        .collect()
}

/// Mirrors and caps for the real genes, as in `cma_es.rs`; the steps of whole numbers need neither.
pub fn keep_reals_inside(gaussian: &mut Gaussian, domain: &Domain, genes: &[usize]) -> Result<(), Degenerate> {
    let mut caps = vec![f64::INFINITY; genes.len()];
    for (i, _) in real_coordinates(domain, genes) {
        let gene = &domain.genes()[genes[i]];
        caps[i] = std_cap(gene);
        if let Some(bound) = crossed_bound(gene, gaussian.state.mean[i]) {
            gaussian.mirror(i, bound);
        }
    }
    gaussian.cap(&caps)
}

/// The step in which a mean lies, between its two thresholds; one and the same threshold at either end of the range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    pub low: f64,
    pub high: f64,
    /// The coordinate of the whole number itself.
    pub centre: f64,
}

impl Cell {
    pub fn around(gene: &Gene, mean: f64) -> Self {
        let value = decode(gene, mean);
        let threshold = |below: f64| encode(gene, (below + 0.5).clamp(gene.low() + 0.5, gene.high() - 0.5));
        Self {
            low: threshold(value - 1.0),
            high: threshold(value),
            centre: encode(gene, value),
        }
    }

    pub fn is_edge(&self) -> bool {
        self.low == self.high
    }

    /// The mean and the amplification that give the tails these probabilities, when the coordinate's standard
    /// deviation is `width` without amplification (eq. 24).
    pub fn fit(&self, p_low: f64, p_high: f64, width: f64) -> (f64, f64) {
        const LEAST: f64 = 1e-10;
        let distance = |p: f64| one_sided_distance(p.clamp(LEAST, 0.5 - LEAST));
        let (low, high) = (distance(p_low), distance(p_high));
        let mean = (self.low * high + self.high * low) / (low + high);
        (mean, (self.high - self.low) / ((low + high) * width))
    }
}

/// How a coordinate's probability falls below, into and above a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tails {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Tails {
    pub fn of(cell: &Cell, mean: f64, std: f64) -> Self {
        let low = cumulative((cell.low - mean) / std);
        let high = cumulative((mean - cell.high) / std);
        Self {
            low,
            middle: 1.0 - low - high,
            high,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENE: Gene = Gene::Int { low: -2, high: 2 };

    #[test]
    fn cells_of_five_values() {
        // Coordinates 0, ¼, ½, ¾, 1; thresholds ⅛, ⅜, ⅝, ⅞.
        assert_eq!(
            Cell::around(&GENE, 0.45),
            Cell {
                low: 0.375,
                high: 0.625,
                centre: 0.5
            }
        );
        assert_eq!(
            Cell::around(&GENE, -3.0),
            Cell {
                low: 0.125,
                high: 0.125,
                centre: 0.0
            }
        );
        assert_eq!(
            Cell::around(&GENE, 0.9),
            Cell {
                low: 0.875,
                high: 0.875,
                centre: 1.0
            }
        );
        let binary = Cell::around(&Gene::Int { low: 0, high: 1 }, 0.7);
        assert!(binary.is_edge() && binary.low == 0.5);
    }

    #[test]
    fn a_fit_gives_the_tails_it_was_asked_for() {
        let cell = Cell::around(&GENE, 0.5);
        for (low, high) in [(0.2, 0.1), (0.01, 0.3), (0.05, 0.05)] {
            let (mean, amplification) = cell.fit(low, high, 0.003);
            let tails = Tails::of(&cell, mean, 0.003 * amplification);
            assert!(
                (tails.low - low).abs() < 1e-9 && (tails.high - high).abs() < 1e-9,
                "{tails:?}"
            );
        }
    }

    #[test]
    fn however_narrow_the_distribution_the_neighbours_keep_the_margin() {
        let domain = Domain::new(vec![
            GENE,
            Gene::Int { low: 0, high: 1 },
            Gene::Real { low: 0.0, high: 1.0 },
        ])
        .unwrap();
        let mut margin = Margin::new(&domain, &Options::default()).unwrap();
        margin
            .start_at(&domain, &[0.0, 1.0, 0.5], &Spread::OfRange(1e-6))
            .unwrap();
        margin.correct(&domain);
        let alpha = 1.0 / (3 * margin.population_size()) as f64;
        let tails = |i: usize, gene: &Gene| {
            let mean = margin.gaussian.state.mean[i];
            Tails::of(
                &Cell::around(gene, mean),
                mean,
                margin.gaussian.std(i) * margin.amplification[i],
            )
        };
        let inner = tails(0, &domain.genes()[0]);
        assert!(
            (inner.low - alpha / 2.0).abs() < 1e-9 && (inner.high - alpha / 2.0).abs() < 1e-9,
            "{inner:?}"
        );
        let edge = tails(1, &domain.genes()[1]);
        assert!((edge.low.min(edge.high) - alpha).abs() < 1e-9, "{edge:?}");
        assert_eq!(margin.mean(&domain), [0.0, 1.0, 0.5]);
    }
}
