//! Where a normal distribution begins, in unit coordinates, and where it begins again after a restart.

use serde::{Deserialize, Serialize};

use super::chance::Stream;
use super::coordinates::{encode, unit};
use super::domain::Domain;
use super::gaussian::{Gaussian, Params};
use super::{Error, Options, Spread};

/// The first step size, as a part of the range.
pub const DEFAULT_SIGMA: f64 = 1.0 / 6.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub mean: Vec<f64>,
    pub sigma: f64,
    /// The coordinates' standard deviations relative to `sigma`; the largest is 1.
    pub stds: Vec<f64>,
    /// `[n, n]`, row by row; empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    correlations: Vec<f64>,
}

impl Start {
    /// The middle of every range.
    pub fn in_the_middle(domain: &Domain, genes: &[usize]) -> Self {
        let middle = |&g: &usize| {
            let gene = &domain.genes()[g];
            if gene.is_bounded() {
                0.5
            } else {
                encode(gene, gene.middle())
            }
        };
        Self {
            mean: genes.iter().map(middle).collect(),
            sigma: DEFAULT_SIGMA,
            stds: vec![1.0; genes.len()],
            correlations: Vec::new(),
        }
    }

    pub fn at(domain: &Domain, genes: &[usize], point: &[f64], spread: &Spread) -> Result<Self, Error> {
        let mean = genes.iter().map(|&g| encode(&domain.genes()[g], point[g])).collect();
        let (sigma, stds) = in_units(spread, domain, genes)?;
        let correlations = match spread {
            Spread::Correlated { correlations, .. } => among(correlations, domain, genes)?,
            Spread::OfRange(_) | Spread::OfGenes(_) => Vec::new(),
        };
        Ok(Self {
            mean,
            sigma,
            stds,
            correlations,
        })
    }

    /// The distribution that begins here, or around `mean` with `sigma`.
    pub fn gaussian(&self, options: &Options, population_size: usize, mean: Vec<f64>, sigma: f64) -> Gaussian {
        let params = Params::new(mean.len(), population_size, options.covariance);
        let mut gaussian = Gaussian::new(
            params,
            mean,
            sigma,
            &self.stds,
            options.covariance,
            options.learning_rate_adaptation,
        );
        if !self.correlations.is_empty() {
            // What cannot be decomposed leaves the axes as they were: parallel to the genes.
            let _ = gaussian.state.cov.correlate(&self.correlations);
        }
        gaussian
    }

    /// A mean drawn from the whole box; within three standard deviations of the start where there is no box.
    pub fn elsewhere(&self, domain: &Domain, genes: &[usize], stream: &mut Stream) -> Vec<f64> {
        let draw = |(i, &g): (usize, &usize)| {
            let gene = &domain.genes()[g];
            if gene.is_bounded() {
                return stream.uniform();
            }
            let reach = 3.0 * self.sigma * self.stds[i];
            let u = self.mean[i] + stream.between(-reach, reach);
            u.max(encode(gene, gene.low())).min(encode(gene, gene.high()))
        };
        genes.iter().enumerate().map(draw).collect()
    }

    pub fn is_consistent(&self, n: usize) -> bool {
        let n_correlations = self.correlations.len();
        self.mean.len() == n && self.stds.len() == n && (n_correlations == 0 || n_correlations == n * n)
    }
}

/// The spread of a distribution over some genes, in the genes' own units; of the others it says nothing.
pub fn spread_of(gaussian: &Gaussian, domain: &Domain, genes: &[usize]) -> Spread {
    let n = domain.genes().len();
    let cov = &gaussian.state.cov;
    let (mut stds, mut correlations) = (vec![1.0; n], vec![0.0; n * n]);
    (0..n).for_each(|i| correlations[i * n + i] = 1.0);
    for (i, &g) in genes.iter().enumerate() {
        stds[g] = gaussian.state.sigma * cov.std(i) * unit(&domain.genes()[g]);
        for (j, &h) in genes.iter().enumerate().filter(|(j, _)| *j != i) {
            correlations[g * n + h] = cov.entry(i, j) / (cov.std(i) * cov.std(j));
        }
    }
    Spread::Correlated { stds, correlations }
}

/// The part of a matrix over all genes that concerns some of them.
fn among(correlations: &[f64], domain: &Domain, genes: &[usize]) -> Result<Vec<f64>, Error> {
    let n = domain.genes().len();
    if correlations.len() != n * n {
        return Err(Error::GenotypeLength {
            expected: n * n,
            got: correlations.len(),
        });
    }
    let row = |&g: &usize| genes.iter().map(move |&h| correlations[g * n + h]);
    Ok(genes.iter().flat_map(row).collect())
}

/// A sigma and the coordinates' standard deviations relative to it.
fn in_units(spread: &Spread, domain: &Domain, genes: &[usize]) -> Result<(f64, Vec<f64>), Error> {
    let positive = |gene: usize, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(Error::StepSize { gene, value })
        }
    };
    match spread {
        Spread::OfRange(sigma) => Ok((positive(0, *sigma)?, vec![1.0; genes.len()])),
        Spread::OfGenes(stds) | Spread::Correlated { stds, .. } if stds.len() != domain.genes().len() => {
            Err(Error::GenotypeLength {
                expected: domain.genes().len(),
                got: stds.len(),
            })
        }
        Spread::OfGenes(stds) | Spread::Correlated { stds, .. } => {
            let in_units = |&g: &usize| Ok(positive(g, stds[g])? / unit(&domain.genes()[g]));
            let stds: Vec<f64> = genes.iter().map(in_units).collect::<Result<_, Error>>()?;
            let sigma = stds.iter().copied().fold(0.0, f64::max);
            Ok((sigma, stds.iter().map(|std| std / sigma).collect()))
        }
    }
}
