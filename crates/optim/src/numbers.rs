//! The normal distribution over the genes that are numbers: what CMA-ES, its margin and CatCMA share.
//!
//! It stands between genes and [`Gaussian`], which knows only unit coordinates: where it begins, how a gene is read off a
//! coordinate, which step led to an answer, and what holds a mean and a standard deviation inside the bounds.

use serde::{Deserialize, Serialize};

use super::chance::Stream;
use super::coordinates::{crossed_bound, decode, encode, std_cap};
use super::covariance::Degenerate;
use super::domain::{Domain, Gene};
use super::gaussian::{Drawn, Gaussian, Step};
use super::ledger::Answer;
use super::restarts::View;
use super::start::{Start, spread_of};
use super::{Error, Options, Spread};

/// The fields stand in the order in which they are saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// The genes that the distribution covers.
    pub genes: Vec<usize>,
    pub start: Start,
    pub gaussian: Gaussian,
    /// The diagonal of A: how much wider than sigma² C each whole number is sampled. Empty without a margin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amplification: Vec<f64>,
    #[serde(skip)]
    drawn: Drawn,
}

impl Numbers {
    /// Around the middle of every range.
    pub fn new(domain: &Domain, genes: Vec<usize>, options: &Options, population_size: usize, margin: bool) -> Self {
        let start = Start::in_the_middle(domain, &genes);
        let gaussian = start.gaussian(options, population_size, start.mean.clone(), start.sigma);
        Self {
            amplification: vec![1.0; if margin { genes.len() } else { 0 }],
            genes,
            start,
            gaussian,
            drawn: Drawn::default(),
        }
    }

    pub fn start_at(
        &mut self,
        domain: &Domain,
        options: &Options,
        point: &[f64],
        spread: &Spread,
    ) -> Result<(), Error> {
        self.start = Start::at(domain, &self.genes, point, spread)?;
        self.begin(options, self.population_size(), self.start.mean.clone(), 1.0);
        Ok(())
    }

    /// Begins again elsewhere, with the first sigma times `shrink`.
    pub fn begin_elsewhere(
        &mut self,
        domain: &Domain,
        options: &Options,
        population_size: usize,
        shrink: f64,
        stream: &mut Stream,
    ) {
        let mean = self.start.elsewhere(domain, &self.genes, stream);
        self.begin(options, population_size, mean, shrink);
    }

    fn begin(&mut self, options: &Options, population_size: usize, mean: Vec<f64>, shrink: f64) {
        let sigma = self.start.sigma * shrink;
        self.gaussian = self.start.gaussian(options, population_size, mean, sigma);
        self.amplification.fill(1.0);
    }

    pub fn population_size(&self) -> usize {
        self.gaussian.params.population_size
    }

    /// Draws candidate `index` of the generation into a genotype.
    pub fn draw(&mut self, domain: &Domain, stream: &mut Stream, index: u64, genotype: &mut [f64]) {
        let step = self.gaussian.step_of(stream.normals(self.genes.len()));
        let point = match self.amplification.is_empty() {
            true => self.gaussian.point(&step.y),
            false => {
                let scaled = step.y.iter().zip(&self.amplification).map(|(y, a)| y * a);
                self.gaussian.point(&scaled.collect::<Vec<f64>>()) // mean + sigma A y (2205.13482, eq. 8)
            }
        };
        self.write(domain, &point, genotype);
        self.drawn.keep(index, step);
    }

    pub fn write_mean(&self, domain: &Domain, genotype: &mut [f64]) {
        self.write(domain, &self.gaussian.state.mean, genotype);
    }

    fn write(&self, domain: &Domain, point: &[f64], genotype: &mut [f64]) {
        for (&g, &u) in self.genes.iter().zip(point) {
            genotype[g] = decode(&domain.genes()[g], u);
        }
    }

    pub fn spread(&self, domain: &Domain) -> Spread {
        spread_of(&self.gaussian, domain, &self.genes)
    }

    /// The steps that led to the answers: the ones drawn for them if this generation drew them, else the ways to them.
    pub fn steps(&mut self, domain: &Domain, seed: u64, batch: &[Answer], generation: u64) -> Vec<Step> {
        let step = |answer| self.step_to(domain, seed, answer, generation);
        let steps = batch.iter().map(step).collect();
        self.drawn.clear();
        steps
    }

    fn step_to(&mut self, domain: &Domain, seed: u64, answer: &Answer, generation: u64) -> Step {
        if answer.is_sampled_in(generation) {
            let again = || {
                let mut stream = Stream::at(seed, answer.address);
                self.gaussian.step_of(stream.normals(self.genes.len()))
            };
            return self.drawn.take(answer.address.index).unwrap_or_else(again);
        }
        let coordinate = |&g: &usize| encode(&domain.genes()[g], answer.genotype[g]);
        let mut point: Vec<f64> = self.genes.iter().map(coordinate).collect();
        // The point that becomes this one when it is amplified.
        for ((u, m), a) in point.iter_mut().zip(&self.gaussian.state.mean).zip(&self.amplification) {
            *u = m + (*u - m) / a;
        }
        self.gaussian.step_to(&point)
    }

    /// Brings the mean of a real gene that has crossed a bound back by the bound's own mirror, under which the landscape is
    /// the same, and caps the standard deviations. The steps of whole numbers need neither.
    pub fn keep_inside(&mut self, domain: &Domain) -> Result<(), Degenerate> {
        let mut caps = vec![f64::INFINITY; self.genes.len()];
        for (i, _) in self.reals(domain) {
            let gene = &domain.genes()[self.genes[i]];
            caps[i] = std_cap(gene);
            if let Some(bound) = crossed_bound(gene, self.gaussian.state.mean[i]) {
                self.gaussian.mirror(i, bound);
            }
        }
        self.gaussian.cap(&caps)
    }

    /// What the rules on stopping look at.
    pub fn view(&self, domain: &Domain) -> View<'_> {
        View {
            gaussian: &self.gaussian,
            reals: self.reals(domain),
        }
    }

    /// The coordinates of the real genes, and whether each is bounded.
    fn reals(&self, domain: &Domain) -> Vec<(usize, bool)> {
        let genes = self.genes.iter().map(|&g| &domain.genes()[g]).enumerate();
        let reals = genes.filter(|(_, gene)| matches!(gene, Gene::Real { .. }));
        reals.map(|(i, gene)| (i, gene.is_bounded())).collect()
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain, margin: bool) -> bool {
        let n = self.genes.len();
        n > 0
            && self.genes.iter().all(|&g| g < domain.genes().len())
            && self.gaussian.is_consistent(n)
            && self.start.is_consistent(n)
            && self.amplification.len() == if margin { n } else { 0 }
            && self.population_size() >= 2
    }
}
