//! CatCMA with margin, for real, whole-number and categorical genes together.
//!
//! A normal distribution covers the numbers, independent categorical distributions cover the choices; both learn from the
//! same ranks. Margins keep every whole number's neighbours and every option alive, and whole numbers that did not help
//! when they changed are allowed to settle (integer centering, success-based margins).
//!
//! **Source**: Hamano et al. (2504.07884); the categorical part is ASNG (Akimoto et al. 2019, PMLR 97). One deviation:
//! bounds of real genes are mirrors, as in `cma_es.rs`, instead of a penalty, so that only ranks of fitness are used.

use serde::{Deserialize, Serialize};

use super::chance::{Address, Stream};
use super::coordinates::{decode, encode};
use super::covariance::Degenerate;
use super::domain::{Domain, Gene, Genotype};
use super::eigen::dot;
use super::gaussian::{CovarianceModel, Params, Step, default_population_size};
use super::ledger::Answer;
use super::margin::{Cell, Tails};
use super::normal::one_sided_distance;
use super::numbers::Numbers;
use super::ranking::Ranking;
use super::restarts::{Verdict, Watch};
use super::start::DEFAULT_SIGMA;
use super::{Error, Options, Outcome, Spread, StopReason};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CatCma {
    options: Options,
    population_size: usize,
    /// Absent when every gene is a choice.
    numbers: Option<Settling>,
    /// Absent when no gene is.
    choices: Option<Choices>,
    watch: Watch,
}

/// The margin: with this α all whole numbers and choices together keep their value with probability 0.73.
fn margin(discrete: usize) -> f64 {
    1.0 - libm::pow(0.73, 1.0 / discrete.max(1) as f64)
}

/// Margins of a probability are kept this far from 0 and ½.
const EPSILON: f64 = 1e-8;

impl CatCma {
    pub fn new(domain: &Domain, options: &Options) -> Self {
        let free: Vec<usize> = (0..domain.genes().len())
            .filter(|&i| domain.genes()[i].is_free())
            .collect();
        let is_choice = |g: &usize| matches!(domain.genes()[*g], Gene::Choice { .. });
        let (chosen, numeric): (Vec<usize>, Vec<usize>) = free.iter().copied().partition(is_choice);
        let is_real = |g: &&usize| matches!(domain.genes()[**g], Gene::Real { .. });
        let alpha = margin(free.len() - numeric.iter().filter(is_real).count());
        let population_size = options
            .population_size
            .unwrap_or_else(|| default_population_size(free.len()));
        let numbers = (!numeric.is_empty()).then(|| Settling::new(domain, options, population_size, numeric, alpha));
        let choices = (!chosen.is_empty()).then(|| Choices::new(domain, chosen, alpha));
        let watch = Watch::new(population_size, DEFAULT_SIGMA);
        Self {
            options: options.clone(),
            population_size,
            numbers,
            choices,
            watch,
        }
    }

    /// The start's options begin with half of the probability, so that the others are still tried; where the start of a
    /// choice of two is a fraction, that is the second one's probability.
    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) -> Result<(), Error> {
        if let Some(settling) = &mut self.numbers {
            settling.numbers.start_at(domain, &self.options, point, spread)?;
            self.watch.set_sigma0(settling.numbers.start.sigma);
        }
        if let Some(choices) = &mut self.choices {
            choices.start_at(point);
        }
        Ok(())
    }

    pub fn population_size(&self) -> usize {
        self.population_size
    }

    pub fn restart(&self) -> u64 {
        self.watch.restart()
    }

    pub fn sigma(&self) -> Option<f64> {
        Some(self.numbers.as_ref()?.numbers.gaussian.state.sigma)
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
        if let Some(Settling { numbers, .. }) = &mut self.numbers {
            numbers.draw(domain, &mut stream, at.index, &mut genotype);
        }
        if let Some(choices) = &self.choices {
            choices.draw(&mut stream, &mut genotype);
        }
        genotype
    }

    /// The mean of the numbers, and of each choice the likeliest option.
    pub fn mean(&self, domain: &Domain) -> Genotype {
        let mut genotype = domain.middle();
        if let Some(Settling { numbers, .. }) = &self.numbers {
            numbers.write_mean(domain, &mut genotype);
        }
        if let Some(choices) = &self.choices {
            choices.write_likeliest(&mut genotype);
        }
        genotype
    }

    /// `None` where all genes are choices.
    pub fn spread(&self, domain: &Domain) -> Option<Spread> {
        Some(self.numbers.as_ref()?.numbers.spread(domain))
    }

    /// One generation. `batch` is in the order of the candidates' ids.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], generation: u64) {
        let outcomes: Vec<&Outcome> = batch.iter().map(|answer| &answer.outcome).collect();
        let ranking = Ranking::of(&outcomes);
        self.watch.record(&ranking, &outcomes);
        let mut moved = Ok(());
        if let Some(settling) = &mut self.numbers {
            let steps = settling.numbers.steps(domain, self.options.seed, batch, generation);
            moved = settling.update(domain, steps, &ranking, &outcomes);
        }
        if let Some(choices) = self.choices.as_mut().filter(|_| !ranking.is_flat()) {
            choices.learn(batch, &ranking, self.population_size);
        }
        self.decide(domain, moved, generation);
    }

    fn decide(&mut self, domain: &Domain, moved: Result<(), Degenerate>, generation: u64) {
        let mut stream = self.watch.stream(self.options.seed, generation);
        let view = self.numbers.as_ref().map(|settling| settling.numbers.view(domain));
        let verdict = self.watch.decide(
            &self.options,
            self.population_size,
            view.as_ref(),
            moved.is_err(),
            &mut stream,
        );
        if let Verdict::BeginAgain {
            population_size,
            shrink,
        } = verdict
        {
            self.population_size = population_size;
            if let Some(settling) = &mut self.numbers {
                settling.forget();
                let numbers = &mut settling.numbers;
                numbers.begin_elsewhere(domain, &self.options, population_size, shrink, &mut stream);
            }
            if let Some(choices) = &mut self.choices {
                choices.begin_again(domain);
            }
        }
    }

    /// True when the parts of a loaded state fit each other.
    pub fn is_consistent(&self, domain: &Domain) -> bool {
        self.population_size >= 2
            && (self.numbers.is_some() || self.choices.is_some())
            && self
                .numbers
                .as_ref()
                .is_none_or(|numbers| numbers.is_consistent(domain, self.population_size))
            && self
                .choices
                .as_ref()
                .is_none_or(|choices| choices.is_consistent(domain))
    }
}

/// The numbers, with whole numbers that settle unless changing them has helped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settling {
    #[serde(flatten)]
    numbers: Numbers,
    /// With which probability each whole number left its value in the last generation.
    mutation: Vec<f64>,
    /// Whether a better half's candidate had left it.
    succeeded: Vec<bool>,
    alpha: f64,
}

impl Settling {
    fn new(domain: &Domain, options: &Options, population_size: usize, genes: Vec<usize>, alpha: f64) -> Self {
        let n = genes.len();
        Self {
            numbers: Numbers::new(domain, genes, options, population_size, true),
            mutation: vec![0.5 - EPSILON; n],
            succeeded: vec![false; n],
            alpha,
        }
    }

    fn forget(&mut self) {
        self.mutation.fill(0.5 - EPSILON);
        self.succeeded.fill(false);
    }

    fn update(
        &mut self,
        domain: &Domain,
        steps: Vec<Step>,
        ranking: &Ranking,
        outcomes: &[&Outcome],
    ) -> Result<(), Degenerate> {
        if ranking.is_flat() {
            let numbers = &mut self.numbers;
            numbers.gaussian.widen(outcomes, numbers.start.sigma)?;
        } else {
            self.learn(domain, steps, ranking)?;
        }
        self.numbers.keep_inside(domain)?;
        self.correct(domain);
        Ok(())
    }

    fn learn(&mut self, domain: &Domain, mut steps: Vec<Step>, ranking: &Ranking) -> Result<(), Degenerate> {
        let gains = ranking.share(&self.numbers.gaussian.params.recombination);
        let better: Vec<usize> = ranking.order.iter().copied().filter(|&k| gains[k] > 0.0).collect();
        self.centre(domain, &mut steps, &better);
        let gaussian = &mut self.numbers.gaussian;
        gaussian.update(&steps, ranking)?;
        let lengths = gaussian.state.cov.lengths().iter().copied();
        let shortest = lengths.fold(f64::INFINITY, f64::min);
        let least_std = 1e-15; // the root of the paper's least eigenvalue, 1e-30
        gaussian.state.sigma = gaussian.state.sigma.max(least_std / shortest);
        Ok(())
    }

    /// Integer centering: among the better half, a sample that left the mean's value is moved to the centre of the step
    /// it fell on, so that all of the change is learnt; then those that stayed give back the bias that this caused.
    fn centre(&mut self, domain: &Domain, steps: &mut [Step], better: &[usize]) {
        let mut moved = vec![false; steps.len()];
        for (i, &g) in self.numbers.genes.iter().enumerate() {
            let gene = &domain.genes()[g];
            if !matches!(gene, Gene::Int { .. }) {
                continue;
            }
            let (mean, unit) = (
                self.numbers.gaussian.state.mean[i],
                self.numbers.gaussian.state.sigma * self.numbers.amplification[i],
            );
            let value_of = |y: f64| decode(gene, mean + unit * y);
            let to_centre = |y: f64| encode(gene, value_of(y)) - (mean + unit * y);
            let own = decode(gene, mean);
            let (left, stayed): (Vec<usize>, Vec<usize>) =
                better.iter().partition(|&&k| value_of(steps[k].y[i]) != own);
            self.succeeded[i] = !left.is_empty();
            let mut bias = 0.0;
            for &k in &left {
                let way = to_centre(steps[k].y[i]);
                bias += way;
                steps[k].y[i] += way / unit;
                moved[k] = true;
            }
            let against = |way: f64| way * bias < 0.0;
            let available: f64 = stayed
                .iter()
                .map(|&k| to_centre(steps[k].y[i]))
                .filter(|way| against(*way))
                .sum();
            if available == 0.0 {
                continue;
            }
            let part = (-bias / available).min(1.0);
            for &k in &stayed {
                let way = to_centre(steps[k].y[i]);
                if against(way) {
                    steps[k].y[i] += part * way / unit;
                    moved[k] = true;
                }
            }
        }
        for (step, _) in steps.iter_mut().zip(moved).filter(|(_, moved)| *moved) {
            *step = self.numbers.gaussian.step_along(std::mem::take(&mut step.y));
        }
    }

    /// The margin correction with success-based mutation probabilities.
    fn correct(&mut self, domain: &Domain) {
        for i in 0..self.numbers.genes.len() {
            let gene = &domain.genes()[self.numbers.genes[i]];
            if !matches!(gene, Gene::Int { .. }) {
                continue;
            }
            let cell = Cell::around(gene, self.numbers.gaussian.state.mean[i]);
            if cell.is_edge() {
                self.correct_edge(i, &cell)
            } else {
                self.correct_inner(i, &cell)
            }
        }
    }

    fn correct_edge(&mut self, i: usize, cell: &Cell) {
        let width = self.numbers.gaussian.std(i);
        let mean = self.numbers.gaussian.state.mean[i];
        let tails = Tails::of(cell, mean, width * self.numbers.amplification[i]);
        let mut mutation = tails.low.min(tails.high).max(self.alpha);
        if !self.succeeded[i] {
            mutation = mutation.min(self.mutation[i]);
        }
        mutation = mutation.clamp(EPSILON, 0.5 - EPSILON);
        // Wide enough that a mean in the centre of its step leaves it with probability α.
        let least = (cell.centre - cell.low).abs() / (width * one_sided_distance(self.alpha));
        self.numbers.amplification[i] = self.numbers.amplification[i].max(least);
        let reach = width * self.numbers.amplification[i] * one_sided_distance(mutation);
        self.numbers.gaussian.state.mean[i] = cell.low + if mean > cell.low { reach } else { -reach };
        self.mutation[i] = mutation;
    }

    fn correct_inner(&mut self, i: usize, cell: &Cell) {
        let width = self.numbers.gaussian.std(i);
        let tails = Tails::of(
            cell,
            self.numbers.gaussian.state.mean[i],
            width * self.numbers.amplification[i],
        );
        let floor = self.alpha / 2.0;
        let stay = if self.succeeded[i] {
            floor
        } else {
            1.0 - self.mutation[i]
        };
        let (low, high) = (tails.low.max(floor), tails.high.max(floor));
        let middle = if self.succeeded[i] {
            tails.middle
        } else {
            tails.middle.max(stay)
        };
        let room = low + middle + high - 2.0 * floor - stay;
        let share = if room.abs() > 1e-300 {
            (1.0 - low - middle - high) / room
        } else {
            0.0
        };
        let clamp = |p: f64| p.clamp(EPSILON, 0.5 - EPSILON);
        let low = clamp(low + share * (low - floor));
        let high = clamp(high + share * (high - floor));
        (self.numbers.gaussian.state.mean[i], self.numbers.amplification[i]) = cell.fit(low, high, width);
        self.mutation[i] = low + high;
    }

    fn is_consistent(&self, domain: &Domain, population_size: usize) -> bool {
        let n = self.numbers.genes.len();
        self.numbers.is_consistent(domain, true)
            && self.numbers.population_size() == population_size
            && self.mutation.len() == n
            && self.succeeded.len() == n
    }
}

/// Independent categorical distributions and their adaptive step size (ASNG).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Choices {
    genes: Vec<usize>,
    /// The probabilities of each gene's options: q.
    q: Vec<Vec<f64>>,
    alpha: f64,
    /// The accumulated direction of the natural gradient, in Fisher coordinates.
    s: Vec<f64>,
    gamma: f64,
    /// Δ: the signal-to-noise estimate; the trust region's radius is 1/Δ.
    trust: f64,
    /// The probabilities that the caller began with, if it gave any: a run that begins again goes back to them, because
    /// even odds are no neutral place where most options do harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    start: Vec<Vec<f64>>,
}

impl Choices {
    fn new(domain: &Domain, genes: Vec<usize>, alpha: f64) -> Self {
        let counts: Vec<usize> = genes.iter().map(|&g| domain.genes()[g].count()).collect();
        let parameters = counts.iter().map(|n| n - 1).sum();
        let q = counts.iter().map(|&n| vec![1.0 / n as f64; n]).collect();
        Self {
            genes,
            q,
            alpha,
            s: vec![0.0; parameters],
            gamma: 0.0,
            trust: 1.0,
            start: Vec::new(),
        }
    }

    /// Everything learnt is forgotten.
    fn begin_again(&mut self, domain: &Domain) {
        let fresh = Self::new(domain, std::mem::take(&mut self.genes), self.alpha);
        let start = std::mem::take(&mut self.start);
        *self = Self {
            q: if start.is_empty() { fresh.q } else { start.clone() },
            start,
            ..fresh
        };
    }

    fn start_at(&mut self, point: &[f64]) {
        for (&g, q) in self.genes.iter().zip(&mut self.q) {
            if point[g].fract() != 0.0 {
                q.copy_from_slice(&[1.0 - point[g], point[g]]);
                continue;
            }
            let even = 0.5 / q.len() as f64;
            q.fill(even);
            q[point[g] as usize] += 0.5;
        }
        if self.genes.iter().any(|&g| point[g].fract() != 0.0) {
            self.start = self.q.clone();
        }
    }

    fn draw(&self, stream: &mut Stream, genotype: &mut [f64]) {
        for (&g, q) in self.genes.iter().zip(&self.q) {
            let mut left = stream.uniform();
            let drawn = q.iter().position(|p| {
                left -= p;
                left < 0.0
            });
            genotype[g] = drawn.unwrap_or(q.len() - 1) as f64;
        }
    }

    fn write_likeliest(&self, genotype: &mut [f64]) {
        for (&g, q) in self.genes.iter().zip(&self.q) {
            let best = (0..q.len()).fold(0, |best, k| if q[k] > q[best] { k } else { best });
            genotype[g] = best as f64;
        }
    }

    fn learn(&mut self, batch: &[Answer], ranking: &Ranking, population_size: usize) {
        let gains = ranking.share(&Params::new(1, population_size, CovarianceModel::Full).recombination);
        // The natural gradient: Σ w (one-hot − q)
        let mut gradient: Vec<Vec<f64>> = self.q.iter().map(|q| q.iter().map(|p| -p).collect()).collect();
        for &k in ranking.order.iter().filter(|&&k| gains[k] > 0.0) {
            for (&g, gradient) in self.genes.iter().zip(&mut gradient) {
                gradient[batch[k].genotype[g] as usize] += gains[k];
            }
        }
        let local = self.in_fisher_coordinates(&gradient);
        let length = dot(&local, &local).sqrt();
        let delta = 1.0 / self.trust;
        if length > 0.0 {
            for (q, gradient) in self.q.iter_mut().zip(&gradient) {
                q.iter_mut().zip(gradient).for_each(|(p, g)| *p += delta / length * g);
            }
        }
        self.adapt(&local, length, delta);
        self.keep_margins();
    }

    /// F^(1/2) times the gradient, F the Fisher information of each categorical (Akimoto et al. 2019, appendix B).
    fn in_fisher_coordinates(&self, gradient: &[Vec<f64>]) -> Vec<f64> {
        let mut local = Vec::with_capacity(self.s.len());
        for (q, gradient) in self.q.iter().zip(gradient) {
            let k = q.len() - 1;
            let sum: f64 = gradient[..k].iter().sum();
            let last = q[k] + q[k].sqrt();
            local.extend((0..k).map(|j| gradient[j] / q[j].sqrt() + q[j].sqrt() * sum / last));
        }
        local
    }

    /// The step size follows the signal-to-noise ratio of the gradient (ASNG, α = 1.5).
    fn adapt(&mut self, local: &[f64], length: f64, delta: f64) {
        const SIGNAL: f64 = 1.5;
        let beta = delta / (self.s.len() as f64).sqrt();
        let pull = (beta * (2.0 - beta)).max(0.0).sqrt();
        let unit = if length > 0.0 { 1.0 / length } else { 0.0 };
        self.s
            .iter_mut()
            .zip(local)
            .for_each(|(s, l)| *s = (1.0 - beta) * *s + pull * l * unit);
        self.gamma = (1.0 - beta) * (1.0 - beta) * self.gamma + beta * (2.0 - beta);
        self.trust *= libm::exp(beta * (self.gamma - dot(&self.s, &self.s) / SIGNAL));
        self.trust = self.trust.clamp(1e-6, 1e12);
    }

    /// No option's probability falls below its margin; what it gains, the others give in proportion to their excess.
    fn keep_margins(&mut self) {
        for q in &mut self.q {
            let least = self.alpha / (q.len() - 1) as f64;
            q.iter_mut().for_each(|p| *p = p.max(least));
            let sum: f64 = q.iter().sum();
            let excess = sum - least * q.len() as f64;
            q.iter_mut().for_each(|p| *p -= (sum - 1.0) * (*p - least) / excess);
            let sum: f64 = q.iter().sum();
            q.iter_mut().for_each(|p| *p /= sum);
        }
    }

    fn is_consistent(&self, domain: &Domain) -> bool {
        let count = |g: usize| domain.genes().get(g).map(Gene::count);
        let parameters: usize = self.q.iter().map(|q| q.len().saturating_sub(1)).sum();
        self.genes.len() == self.q.len()
            && self
                .genes
                .iter()
                .zip(&self.q)
                .all(|(&g, q)| q.len() >= 2 && count(g) == Some(q.len()))
            && (self.start.is_empty() || self.start.iter().map(Vec::len).eq(self.q.iter().map(Vec::len)))
            && self.s.len() == parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_hold_and_probabilities_sum_to_one() {
        let domain = Domain::new(vec![Gene::Choice { n: 2 }, Gene::Choice { n: 4 }]).unwrap();
        let mut choices = Choices::new(&domain, vec![0, 1], margin(2));
        choices.q = vec![vec![1.3, -0.3], vec![0.0, 0.0, 0.0, 1.0]];
        choices.keep_margins();
        let alpha = 1.0 - 0.73f64.sqrt();
        assert!((choices.q[0][1] - alpha).abs() < 1e-12 && (choices.q[1][0] - alpha / 3.0).abs() < 1e-12);
        for q in &choices.q {
            assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{q:?}");
        }
    }

    #[test]
    fn fisher_coordinates_of_a_coin() {
        // For one binary the Fisher information is 1/(q(1 − q)): a gradient g has the length |g|/√(q(1 − q)).
        let domain = Domain::new(vec![Gene::Choice { n: 2 }]).unwrap();
        let mut choices = Choices::new(&domain, vec![0], margin(1));
        choices.q = vec![vec![0.2, 0.8]];
        let local = choices.in_fisher_coordinates(&[vec![0.1, -0.1]]);
        assert!((local[0] - 0.1 / 0.16f64.sqrt()).abs() < 1e-12, "{local:?}");
    }

    #[test]
    fn a_start_has_half_of_the_probability_for_itself() {
        let domain = Domain::new(vec![Gene::Choice { n: 4 }]).unwrap();
        let mut cat = CatCma::new(&domain, &Options::default());
        cat.start_at(&domain, &[2.0], &Spread::OfRange(0.1)).unwrap();
        assert_eq!(cat.choices.as_ref().unwrap().q[0], [0.125, 0.125, 0.625, 0.125]);
        assert_eq!(cat.mean(&domain), [2.0]);
    }

    #[test]
    fn a_start_may_give_a_probability() {
        let domain = Domain::new(vec![Gene::Choice { n: 2 }; 3]).unwrap();
        let mut cat = CatCma::new(&domain, &Options::default());
        let spread = Spread::OfRange(0.1);
        domain.check_mean(&[0.9, 0.0, 0.125]).unwrap();
        assert!(domain.check_mean(&[1.1, 0.0, 0.0]).is_err() && domain.check_mean(&[0.5, 0.0, f64::NAN]).is_err());
        cat.start_at(&domain, &[0.9, 0.0, 0.125], &spread).unwrap();
        let q = &cat.choices.as_ref().unwrap().q;
        assert!((q[0][0] - 0.1).abs() < 1e-15);
        assert_eq!((&q[1][..], &q[2][..]), (&[0.75, 0.25][..], &[0.875, 0.125][..]));
        let began = q.clone();
        assert_eq!(cat.mean(&domain), [1.0, 0.0, 0.0]);
        let choices = cat.choices.as_mut().unwrap();
        choices.q = vec![vec![0.5; 2]; 3];
        choices.begin_again(&domain);
        assert_eq!((&choices.q, choices.genes.len()), (&began, 3));
        assert_eq!(domain.nearest(&[0.9, 0.0, 0.125]), [1.0, 0.0, 0.0]);
    }
}
