//! How children differ from their parents: crossover and mutation, gene by gene, for every kind of gene.
//!
//! Real genes: simulated binary crossover and polynomial mutation, in the bounded forms of Deb. Whole numbers: uniform
//! crossover, then a short step or a fresh value. Choices: uniform crossover, then a fresh value.
//!
//! **Source**: Deb & Agrawal (1995); Deb & Deb (2014); the number of mutated genes is heavy-tailed (Doerr et al. 2017,
//! 1703.03334), so that a plateau that one mutation cannot leave is left by many at once.

use serde::{Deserialize, Serialize};

use super::chance::Stream;
use super::domain::{Domain, Gene, Genotype};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variation {
    pub crossover_probability: f64,
    /// Distribution index of the crossover: the larger, the nearer to the parents.
    pub eta_crossover: f64,
    /// Distribution index of the mutation.
    pub eta_mutation: f64,
    /// The exponent of the heavy tail.
    pub tail: f64,
}

impl Default for Variation {
    fn default() -> Self {
        Self {
            crossover_probability: 0.9,
            eta_crossover: 15.0,
            eta_mutation: 20.0,
            tail: 1.5,
        }
    }
}

impl Variation {
    /// A child of two parents. It differs from both wherever the draw allows.
    pub fn child(&self, domain: &Domain, a: &[f64], b: &[f64], stream: &mut Stream) -> Genotype {
        let mut child = self.crossed(domain, a, b, stream);
        self.mutate(domain, &mut child, stream);
        child
    }

    /// Gene by gene from both parents, or the first one as it is.
    pub fn crossed(&self, domain: &Domain, a: &[f64], b: &[f64], stream: &mut Stream) -> Genotype {
        let mut child = a.to_vec();
        if stream.chance(self.crossover_probability) {
            for (i, gene) in domain.genes().iter().enumerate() {
                child[i] = self.cross(gene, a[i], b[i], stream);
            }
        }
        child
    }

    fn cross(&self, gene: &Gene, a: f64, b: f64, stream: &mut Stream) -> f64 {
        let (own, other) = if stream.chance(0.5) { (a, b) } else { (b, a) };
        match gene {
            Gene::Int { .. } | Gene::Choice { .. } => own,
            // Half of the genes pass unblended, as in Deb's own code.
            Gene::Real { .. } if stream.chance(0.5) || own == other => own,
            Gene::Real { low, high } => self.blend(own, other, *low, *high, stream.uniform()),
        }
    }

    /// The child of simulated binary crossover that lies nearer to `own`.
    fn blend(&self, own: f64, other: f64, low: f64, high: f64, u: f64) -> f64 {
        let power = self.eta_crossover + 1.0;
        let distance = (own - other).abs();
        let room = if own < other { own - low } else { high - own };
        // β, the spread factor, whose law is cut off where the child would leave its bound.
        let largest = 1.0 + 2.0 * room / distance;
        let mass = 2.0
            - if largest.is_finite() {
                libm::pow(largest, -power)
            } else {
                0.0
            };
        let spread = if u * mass <= 1.0 {
            libm::pow(u * mass, 1.0 / power)
        } else {
            libm::pow(1.0 / (2.0 - u * mass), 1.0 / power)
        };
        let middle = 0.5 * own + 0.5 * other;
        (middle + 0.5 * spread * (own - other)).clamp(low, high)
    }

    pub fn mutate(&self, domain: &Domain, child: &mut [f64], stream: &mut Stream) {
        let free = domain.genes().iter().filter(|gene| gene.is_free()).count();
        let rate = self.strength(free, stream) as f64 / free as f64;
        for (gene, value) in domain.genes().iter().zip(child) {
            if gene.is_free() && stream.chance(rate) {
                *value = self.mutated(gene, *value, stream);
            }
        }
    }

    /// How many genes to mutate on average: k of 1..=n/2 with probability ∝ k^(-tail).
    pub fn strength(&self, genes: usize, stream: &mut Stream) -> usize {
        let most = (genes / 2).max(1);
        let weight = |k: usize| libm::pow(k as f64, -self.tail);
        let total: f64 = (1..=most).map(weight).sum();
        let mut left = stream.uniform() * total;
        (1..most)
            .find(|&k| {
                left -= weight(k);
                left <= 0.0
            })
            .unwrap_or(most)
    }

    fn mutated(&self, gene: &Gene, value: f64, stream: &mut Stream) -> f64 {
        match gene {
            Gene::Real { low, high } => self.nudged(value, *low, *high, stream.uniform()),
            Gene::Choice { .. } => fresh(gene, value, stream),
            Gene::Int { .. } if stream.chance(0.5) => fresh(gene, value, stream),
            Gene::Int { low, high } => {
                let moved = self.nudged(value, *low as f64, *high as f64, stream.uniform());
                let step = libm::rint(moved - value);
                let up = moved > value || (moved == value && value < *high as f64);
                let step = if step != 0.0 {
                    step
                } else if up {
                    1.0
                } else {
                    -1.0
                };
                let stepped = value + step;
                let inside = (*low as f64..=*high as f64).contains(&stepped);
                if inside { stepped } else { value - step }
            }
        }
    }

    /// Polynomial mutation within bounds; within ±1 of the value where a bound is missing.
    fn nudged(&self, value: f64, low: f64, high: f64, u: f64) -> f64 {
        let (low, high) = if low.is_finite() && high.is_finite() {
            (low, high)
        } else {
            (low.max(value - 1.0), high.min(value + 1.0))
        };
        let width = high - low;
        let power = self.eta_mutation + 1.0;
        let delta = if u < 0.5 {
            let room = libm::pow(1.0 - (value - low) / width, power);
            libm::pow(2.0 * u + (1.0 - 2.0 * u) * room, 1.0 / power) - 1.0
        } else {
            let room = libm::pow(1.0 - (high - value) / width, power);
            1.0 - libm::pow(2.0 * (1.0 - u) + 2.0 * (u - 0.5) * room, 1.0 / power)
        };
        (value + delta * width).clamp(low, high)
    }
}

/// Any other value of a discrete gene, all equally likely.
fn fresh(gene: &Gene, value: f64, stream: &mut Stream) -> f64 {
    let drawn = gene.low() + stream.below(gene.count() - 1) as f64;
    if drawn >= value { drawn + 1.0 } else { drawn }
}

#[cfg(test)]
mod tests {
    use super::super::chance::Address;
    use super::*;

    fn stream(index: u64) -> Stream {
        Stream::at(
            11,
            Address {
                restart: 0,
                generation: 0,
                index,
            },
        )
    }

    #[test]
    fn blending_by_hand() {
        let v = Variation::default();
        // Without bounds and at u = ½ the spread factor is 1: the child is the parent.
        let free = |u| v.blend(1.0, 3.0, f64::NEG_INFINITY, f64::INFINITY, u);
        assert!((free(0.5) - 1.0).abs() < 1e-15);
        // u = ¼: β = (½)^(1/16), so the child is 2 − β.
        assert!((free(0.25) - (2.0 - 0.5f64.powf(1.0 / 16.0))).abs() < 1e-12);
        // u = ¾: β = 2^(1/16).
        assert!((free(0.75) - (2.0 - 2.0f64.powf(1.0 / 16.0))).abs() < 1e-12);
        // A parent on its bound has no child beyond it.
        assert!(v.blend(0.0, 1.0, 0.0, 1.0, 1.0 - 1e-12) >= 0.0);
    }

    #[test]
    fn nudging_by_hand() {
        let v = Variation::default();
        assert!((v.nudged(0.3, 0.0, 1.0, 0.5) - 0.3).abs() < 1e-12);
        // In the middle of a wide range at u = ¼: δ ≈ (½)^(1/21) − 1.
        let delta = 0.5f64.powf(1.0 / 21.0) - 1.0;
        assert!((v.nudged(0.0, -1.0, 1.0, 0.25) - 2.0 * delta).abs() < 1e-6);
        for u in [1e-9, 0.2, 0.5, 0.8, 1.0 - 1e-9] {
            for value in [0.0, 0.1, 1.0] {
                assert!((0.0..=1.0).contains(&v.nudged(value, 0.0, 1.0, u)));
            }
        }
    }

    #[test]
    fn children_stay_inside_and_discrete_mutations_always_change() {
        let domain = Domain::new(vec![
            Gene::Real { low: 0.0, high: 1.0 },
            Gene::Real {
                low: f64::NEG_INFINITY,
                high: f64::INFINITY,
            },
            Gene::Int { low: -1, high: 1 },
            Gene::Int { low: 0, high: 1 },
            Gene::Choice { n: 5 },
            Gene::Choice { n: 1 },
        ])
        .unwrap();
        let v = Variation::default();
        for index in 0..2000 {
            let s = &mut stream(index);
            let (a, b) = (domain.sample(s), domain.sample(s));
            domain.check(&v.child(&domain, &a, &b, s)).unwrap();
            for (gene, value) in domain.genes().iter().zip(&a).skip(2).filter(|(gene, _)| gene.is_free()) {
                let mutated = v.mutated(gene, *value, s);
                assert_ne!(mutated, *value);
                assert!((gene.low()..=gene.high()).contains(&mutated));
            }
        }
    }

    #[test]
    fn mutation_strength_has_a_heavy_tail() {
        let v = Variation::default();
        let mut s = stream(0);
        let strengths: Vec<usize> = (0..20_000).map(|_| v.strength(64, &mut s)).collect();
        let share = |k: usize| strengths.iter().filter(|&&s| s == k).count() as f64 / 20_000.0;
        let total: f64 = (1..=32).map(|k| f64::from(k).powf(-1.5)).sum();
        assert!((share(1) - 1.0 / total).abs() < 0.015);
        assert!(strengths.iter().any(|&k| k > 16) && strengths.iter().all(|&k| (1..=32).contains(&k)));
        assert_eq!(v.strength(1, &mut s), 1);
    }
}
