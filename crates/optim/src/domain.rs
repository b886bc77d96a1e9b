//! What a candidate is made of: genes with their ranges, and the genotype that holds one number for each.

use serde::{Deserialize, Serialize};

use super::Error;
use super::chance::Stream;

/// One number for each gene of the domain; `Int` and `Choice` genes hold whole numbers.
pub type Genotype = Vec<f64>;

/// The range of one number that the search may set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gene {
    /// A real number; a bound may be infinite, which is how test functions are searched.
    Real {
        /// The least value; may be minus infinity.
        #[serde(with = "lower_bound")]
        low: f64,
        /// The greatest value; may be infinity.
        #[serde(with = "upper_bound")]
        high: f64,
    },
    /// A whole number, ends included.
    Int {
        /// The least value.
        low: i64,
        /// The greatest value.
        high: i64,
    },
    /// One of `n` unordered options, as its index.
    Choice {
        /// How many options there are.
        n: usize,
    },
}

impl Gene {
    /// False for a choice of one option, which is a constant.
    pub fn is_free(&self) -> bool {
        !matches!(self, Gene::Choice { n: 1 })
    }

    /// The least value; 0 for a choice.
    pub fn low(&self) -> f64 {
        match *self {
            Gene::Real { low, .. } => low,
            Gene::Int { low, .. } => low as f64,
            Gene::Choice { .. } => 0.0,
        }
    }

    /// The greatest value; the last index for a choice.
    pub fn high(&self) -> f64 {
        match *self {
            Gene::Real { high, .. } => high,
            Gene::Int { high, .. } => high as f64,
            Gene::Choice { n } => (n.max(1) - 1) as f64,
        }
    }

    /// False for a real gene that has no end on one side.
    pub fn is_bounded(&self) -> bool {
        self.low().is_finite() && self.high().is_finite()
    }

    /// The value that stands in the middle of what is allowed: the centre, or a point one unit inside a lone bound.
    pub fn middle(&self) -> f64 {
        match *self {
            Gene::Real { low, high } => match (low.is_finite(), high.is_finite()) {
                (true, true) => (low + 0.5 * (high - low)).clamp(low, high),
                (true, false) => low + 1.0,
                (false, true) => high - 1.0,
                (false, false) => 0.0,
            },
            Gene::Int { low, high } => low as f64 + ((high as f64 - low as f64) / 2.0).floor(),
            Gene::Choice { .. } => 0.0,
        }
    }

    /// A uniform value; within three units of `middle` where the range has no end.
    pub(crate) fn sample(&self, stream: &mut Stream) -> f64 {
        match *self {
            Gene::Real { low, high } if self.is_bounded() => stream.between(low, high),
            Gene::Real { low, high } => {
                let middle = self.middle();
                stream.between((middle - 3.0).max(low), (middle + 3.0).min(high))
            }
            Gene::Int { .. } | Gene::Choice { .. } => self.low() + stream.below(self.count()) as f64,
        }
    }

    /// How many values a discrete gene can take; 0 for a real one.
    pub fn count(&self) -> usize {
        match *self {
            Gene::Real { .. } => 0,
            Gene::Int { low, high } => usize::try_from(high.abs_diff(low))
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            Gene::Choice { n } => n,
        }
    }

    fn check(&self, gene: usize) -> Result<(), Error> {
        let limit = 1i64 << 52;
        match *self {
            Gene::Real { low, high } if low < high && (high - low).is_finite() == self.is_bounded() => Ok(()),
            Gene::Real { low, high } => Err(Error::Range {
                gene,
                low: low.to_string(),
                high: high.to_string(),
            }),
            Gene::Int { low, high } if low < high && low > -limit && high < limit => Ok(()),
            Gene::Int { low, high } => Err(Error::Range {
                gene,
                low: low.to_string(),
                high: high.to_string(),
            }),
            Gene::Choice { n: 0 } => Err(Error::NoOptions { gene }),
            Gene::Choice { .. } => Ok(()),
        }
    }

    fn holds(&self, value: f64) -> bool {
        let whole = matches!(self, Gene::Real { .. }) || value.fract() == 0.0;
        value.is_finite() && whole && (self.low()..=self.high()).contains(&value)
    }
}

/// The genes of one search, checked: every range has a width, and at least one gene is free.
///
/// ```
/// use heterosis_optim::{Domain, Error, Gene};
///
/// let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }, Gene::Int { low: 1, high: 8 }, Gene::Choice { n: 3 }])?;
/// assert_eq!(domain.middle(), [0.5, 4.0, 0.0]);
/// domain.check(&[0.25, 8.0, 2.0])?;
/// assert!(matches!(domain.check(&[0.25, 8.5, 2.0]), Err(Error::GenotypeValue { gene: 1, .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Gene>", into = "Vec<Gene>")]
pub struct Domain(Vec<Gene>);

impl Domain {
    /// **Errors**: an empty list, a range without width or upside down, a choice of nothing, no free gene at all.
    pub fn new(genes: Vec<Gene>) -> Result<Self, Error> {
        for (i, gene) in genes.iter().enumerate() {
            gene.check(i)?;
        }
        if !genes.iter().any(Gene::is_free) {
            return Err(Error::NothingToSearch { genes: genes.len() });
        }
        Ok(Self(genes))
    }

    /// `n` real genes without bounds, as test functions have them; `n` of at least 1.
    pub fn unbounded(n: usize) -> Result<Self, Error> {
        Self::new(vec![
            Gene::Real {
                low: f64::NEG_INFINITY,
                high: f64::INFINITY
            };
            n
        ])
    }

    /// In the order in which a genotype has them.
    pub fn genes(&self) -> &[Gene] {
        &self.0
    }

    /// **Errors**: a wrong length, or a value outside its gene.
    pub fn check(&self, genotype: &[f64]) -> Result<(), Error> {
        if genotype.len() != self.0.len() {
            return Err(Error::GenotypeLength {
                expected: self.0.len(),
                got: genotype.len(),
            });
        }
        match self
            .0
            .iter()
            .zip(genotype)
            .position(|(gene, &value)| !gene.holds(value))
        {
            None => Ok(()),
            Some(gene) => Err(Error::GenotypeValue {
                gene,
                value: genotype[gene],
                allowed: self.0[gene],
            }),
        }
    }

    /// As [`Self::check`] for the mean of a distribution: a whole number may have a fraction, and so may a choice of two
    /// options, where it is the probability of the second; other choices may not.
    pub fn check_mean(&self, point: &[f64]) -> Result<(), Error> {
        let round = |(gene, value): (&Gene, &f64)| match gene {
            Gene::Int { .. } => value.trunc(),
            Gene::Choice { n: 2 } if (0.0..=1.0).contains(value) => value.trunc(),
            _ => *value,
        };
        match self.check(&self.0.iter().zip(point).map(round).collect::<Genotype>()) {
            Err(Error::GenotypeLength { expected, .. }) => Err(Error::GenotypeLength {
                expected,
                got: point.len(),
            }),
            checked => checked,
        }
    }

    /// The candidate nearest to a mean.
    pub fn nearest(&self, point: &[f64]) -> Genotype {
        let round = |(gene, value): (&Gene, &f64)| match gene {
            Gene::Int { .. } | Gene::Choice { .. } => libm::rint(*value),
            Gene::Real { .. } => *value,
        };
        self.0.iter().zip(point).map(round).collect()
    }

    /// True when a gene has several options without an order.
    pub fn has_choices(&self) -> bool {
        self.0.iter().any(|gene| matches!(gene, Gene::Choice { n } if *n > 1))
    }

    /// **Errors**: a real gene without an end on one side, for an algorithm that needs both.
    pub(crate) fn must_be_bounded(&self, optimizer: &'static str, way_out: &'static str) -> Result<(), Error> {
        match self.genes().iter().position(|gene| !gene.is_bounded()) {
            None => Ok(()),
            Some(gene) => Err(Error::UnsupportedGene {
                optimizer,
                gene,
                kind: "a real number without bounds",
                way_out,
            }),
        }
    }

    pub(crate) fn sample(&self, stream: &mut Stream) -> Genotype {
        self.0.iter().map(|gene| gene.sample(stream)).collect()
    }

    /// The middle of every gene.
    pub fn middle(&self) -> Genotype {
        self.0.iter().map(Gene::middle).collect()
    }
}

impl TryFrom<Vec<Gene>> for Domain {
    type Error = Error;

    fn try_from(genes: Vec<Gene>) -> Result<Self, Error> {
        Self::new(genes)
    }
}

impl From<Domain> for Vec<Gene> {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

/// JSON has no infinity: a bound that is not there is `null`.
macro_rules! bound {
    ($name:ident, $infinity:expr) => {
        mod $name {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub fn serialize<S: Serializer>(bound: &f64, serializer: S) -> Result<S::Ok, S::Error> {
                bound.is_finite().then_some(*bound).serialize(serializer)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
                Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or($infinity))
            }
        }
    };
}
bound!(lower_bound, f64::NEG_INFINITY);
bound!(upper_bound, f64::INFINITY);

#[cfg(test)]
mod tests {
    use super::super::chance::Address;
    use super::*;

    #[test]
    fn ranges_are_checked_at_the_door() {
        let refused = |gene: Gene| Domain::new(vec![Gene::Int { low: 0, high: 1 }, gene]).unwrap_err();
        for gene in [
            Gene::Real { low: 1.0, high: 1.0 },
            Gene::Real { low: 2.0, high: 1.0 },
            Gene::Real {
                low: f64::NAN,
                high: 1.0,
            },
            Gene::Real {
                low: f64::INFINITY,
                high: f64::INFINITY,
            },
            Gene::Real {
                low: -1e308,
                high: 1e308,
            },
            Gene::Int { low: 4, high: 4 },
            Gene::Int {
                low: i64::MIN,
                high: i64::MAX,
            },
        ] {
            assert!(matches!(refused(gene), Error::Range { gene: 1, .. }), "{gene:?}");
        }
        assert!(matches!(refused(Gene::Choice { n: 0 }), Error::NoOptions { gene: 1 }));
        assert!(matches!(Domain::new(vec![]), Err(Error::NothingToSearch { genes: 0 })));
        assert!(matches!(
            Domain::new(vec![Gene::Choice { n: 1 }]),
            Err(Error::NothingToSearch { genes: 1 })
        ));
    }

    #[test]
    fn genotypes_are_checked_value_by_value() {
        let domain = Domain::new(vec![
            Gene::Real { low: 0.0, high: 1.0 },
            Gene::Int { low: -2, high: 2 },
            Gene::Choice { n: 3 },
        ])
        .unwrap();
        assert!(domain.check(&[0.0, -2.0, 2.0]).is_ok());
        assert!(matches!(
            domain.check(&[0.0, 1.0]),
            Err(Error::GenotypeLength { expected: 3, got: 2 })
        ));
        for (gene, genotype) in [
            (0, [1.1, 0.0, 0.0]),
            (1, [0.5, 0.5, 0.0]),
            (2, [0.5, 0.0, 3.0]),
            (0, [f64::NAN, 0.0, 0.0]),
        ] {
            assert!(matches!(domain.check(&genotype), Err(Error::GenotypeValue { gene: g, .. }) if g == gene));
        }
    }

    #[test]
    fn samples_and_middles_are_inside() {
        let domain = Domain::new(vec![
            Gene::Real { low: -1.0, high: 3.0 },
            Gene::Real {
                low: 2.0,
                high: f64::INFINITY,
            },
            Gene::Int { low: -3, high: -2 },
            Gene::Choice { n: 4 },
            Gene::Choice { n: 1 },
        ])
        .unwrap();
        assert_eq!(domain.middle(), [1.0, 3.0, -3.0, 0.0, 0.0]);
        for index in 0..500 {
            let mut stream = Stream::at(
                1,
                Address {
                    restart: 0,
                    generation: 0,
                    index,
                },
            );
            domain.check(&domain.sample(&mut stream)).unwrap();
        }
    }

    #[test]
    fn json_keeps_infinite_bounds_and_refuses_bad_ranges() {
        let domain = Domain::new(vec![
            Gene::Real {
                low: f64::NEG_INFINITY,
                high: 0.1,
            },
            Gene::Choice { n: 2 },
        ])
        .unwrap();
        let json = serde_json::to_string(&domain).unwrap();
        assert_eq!(json, r#"[{"real":{"low":null,"high":0.1}},{"choice":{"n":2}}]"#);
        assert_eq!(serde_json::from_str::<Domain>(&json).unwrap(), domain);
        assert!(serde_json::from_str::<Domain>(r#"[{"int":{"low":3,"high":3}}]"#).is_err());
    }
}
