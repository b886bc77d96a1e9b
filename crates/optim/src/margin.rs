//! CMA-ES with margin, for real and whole-number genes together.
//!
//! A whole number is a coordinate cut into steps. When the distribution becomes narrower than a step, every sample falls
//! on the same value and the coordinate is dead; the margin moves the mean and widens the coordinate's own amplification
//! just enough that each neighbour keeps a small probability. Real genes are treated as CMA-ES treats them.
//!
//! **Source**: Hamano, Saito, Nomura & Shirakawa (2205.13482), section and equation numbers are theirs.

use super::coordinates::{decode, encode};
use super::domain::{Domain, Gene};
use super::normal::{cumulative, one_sided_distance};
use super::numbers::Numbers;

/// The margin correction (section 4.3) of every whole number; nothing where there is no margin.
pub fn correct(numbers: &mut Numbers, domain: &Domain) {
    // α = 1/(Nλ), the paper's recommendation
    let alpha = 1.0 / (numbers.genes.len() * numbers.population_size()) as f64;
    for i in 0..numbers.amplification.len() {
        let gene = &domain.genes()[numbers.genes[i]];
        if matches!(gene, Gene::Int { .. }) {
            correct_one(numbers, gene, i, alpha);
        }
    }
}

fn correct_one(numbers: &mut Numbers, gene: &Gene, i: usize, alpha: f64) {
    let width = numbers.gaussian.std(i); // without the amplification
    let mean = numbers.gaussian.state.mean[i];
    let cell = Cell::around(gene, mean);
    let tails = Tails::of(&cell, mean, width * numbers.amplification[i]);
    if cell.is_edge() {
        // eq. 16: no further from the only threshold than the confidence interval of 1 − 2α reaches
        let reach = width * numbers.amplification[i] * one_sided_distance(alpha);
        let offset = mean - cell.low;
        numbers.gaussian.state.mean[i] = cell.low + offset.abs().min(reach) * if offset > 0.0 { 1.0 } else { -1.0 };
        return;
    }
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
    (numbers.gaussian.state.mean[i], numbers.amplification[i]) = cell.fit(low, high, width);
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
    use super::super::{Options, Spread};
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
        let options = Options::default();
        let mut numbers = Numbers::new(&domain, vec![0, 1, 2], &options, 10, true);
        let start = [0.0, 1.0, 0.5];
        numbers
            .start_at(&domain, &options, &start, &Spread::OfRange(1e-6))
            .unwrap();
        correct(&mut numbers, &domain);
        let alpha = 1.0 / (3 * numbers.population_size()) as f64;
        let tails = |i: usize, gene: &Gene| {
            let mean = numbers.gaussian.state.mean[i];
            let std = numbers.gaussian.std(i) * numbers.amplification[i];
            Tails::of(&Cell::around(gene, mean), mean, std)
        };
        let inner = tails(0, &domain.genes()[0]);
        assert!(
            (inner.low - alpha / 2.0).abs() < 1e-9 && (inner.high - alpha / 2.0).abs() < 1e-9,
            "{inner:?}"
        );
        let edge = tails(1, &domain.genes()[1]);
        assert!((edge.low.min(edge.high) - alpha).abs() < 1e-9, "{edge:?}");
        let mut mean = domain.middle();
        numbers.write_mean(&domain, &mut mean);
        assert_eq!(mean, start);
    }
}
