//! A landscape like that of merges, in which the truth is known: how likely each candidate is to answer each question.
//!
//! A candidate has four skills. Each is a saturating bowl around an optimum of its own, most of which the skills share, with
//! a rough part of random waves on top. A question asks for a mixture of skills (two-parameter logistic items, Lord 1980)
//! and depends on the candidate in a smooth way of its own, so that questions disagree about who is best.

use std::ops::Range;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, StandardNormal};

const SKILLS: usize = 4;
const WAVES: usize = 96;
/// How much of the mean answer's depth a bowl has, and how soon it saturates.
const DEPTH: f64 = 3.2;
const WIDTH: f64 = 0.05;

pub struct Land {
    /// By skill: the best genotype, what each gene matters, the height of the bowl.
    optima: Vec<Vec<f64>>,
    matters: Vec<Vec<f64>>,
    heights: Vec<f64>,
    waves: Vec<(Vec<f64>, f64)>,
    roughness: Vec<Vec<f64>>,
    questions: Vec<Question>,
}

struct Question {
    mixture: Vec<f64>,
    difficulty: f64,
    slope: f64,
    field: Vec<f64>,
}

impl Land {
    /// `genes` in [0, 1]; the questions are alike in distribution, so any part of them is as good as another.
    pub fn new(genes: usize, questions: usize, seed: u64) -> Self {
        let mut random = Normal(ChaCha8Rng::seed_from_u64(seed));
        let common = random.profile(genes);
        let optimum = |random: &mut Normal| {
            let own = random.profile(genes);
            let mixed = common
                .iter()
                .zip(own)
                .map(|(c, o)| (0.75 * c + 0.25 * o).clamp(0.02, 0.98));
            mixed.collect()
        };
        let optima = (0..SKILLS).map(|_| optimum(&mut random)).collect();
        let matters = (0..SKILLS).map(|_| {
            let raw: Vec<f64> = random.draws(genes, 1.0).into_iter().map(f64::exp).collect();
            let sum: f64 = raw.iter().sum();
            raw.into_iter().map(|w| w / sum).collect()
        });
        let matters = matters.collect();
        let heights = (0..SKILLS).map(|_| random.0.random_range(1.2..1.9)).collect();
        let steepness = 1.3 * 2.2 / (genes as f64).sqrt();
        let waves = (0..WAVES).map(|_| {
            let phase = random.0.random_range(0.0..std::f64::consts::TAU);
            (random.draws(genes, steepness), phase)
        });
        let waves = waves.collect();
        let of_waves = (2.0 / WAVES as f64).sqrt();
        let roughness = (0..SKILLS).map(|_| random.draws(WAVES, 0.25 * of_waves)).collect();
        let question = |_| Question {
            mixture: random.mixture(),
            difficulty: 1.5 * random.draw(),
            slope: 3.0 * (0.3 * random.draw()).exp(),
            field: random.draws(WAVES, 1.2 / 3.0 * of_waves),
        };
        let questions = (0..questions).map(question).collect();
        Self {
            optima,
            matters,
            heights,
            waves,
            roughness,
            questions,
        }
    }

    /// The probability of a right answer to each of some questions.
    pub fn chances(&self, genotype: &[f64], questions: Range<usize>) -> Vec<f64> {
        let waves: Vec<f64> = self
            .waves
            .iter()
            .map(|(wave, phase)| (dot(wave, genotype) + phase).cos())
            .collect();
        let skills: Vec<f64> = (0..SKILLS).map(|k| self.skill(k, genotype, &waves)).collect();
        let chance = |q: &Question| {
            let ability = dot(&skills, &q.mixture) - q.difficulty + dot(&q.field, &waves);
            1.0 / (1.0 + (-q.slope * ability).exp())
        };
        self.questions[questions].iter().map(chance).collect()
    }

    /// The mean chance over some questions.
    pub fn truth(&self, genotype: &[f64], questions: Range<usize>) -> f64 {
        let chances = self.chances(genotype, questions);
        chances.iter().sum::<f64>() / chances.len() as f64
    }

    fn skill(&self, k: usize, genotype: &[f64], waves: &[f64]) -> f64 {
        let terms = genotype.iter().zip(&self.optima[k]).zip(&self.matters[k]);
        let distance: f64 = terms.map(|((x, best), weight)| weight * (x - best).powi(2)).sum();
        self.heights[k] - DEPTH * (1.0 - (-distance / WIDTH).exp()) + dot(&self.roughness[k], waves)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

struct Normal(ChaCha8Rng);

impl Normal {
    fn draw(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    fn draws(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| scale * self.draw()).collect()
    }

    /// A profile over the layers: smooth, and to some part rough.
    fn profile(&mut self, genes: usize) -> Vec<f64> {
        let waves: Vec<f64> = [0.7, 0.6, 0.4, 0.3].iter().map(|scale| scale * self.draw()).collect();
        let at = |i: usize| i as f64 / (genes.max(2) - 1) as f64;
        let wave = |i: usize| -> f64 {
            let cosines = waves
                .iter()
                .zip(1..)
                .map(|(c, k)| c * (std::f64::consts::PI * f64::from(k) * at(i)).cos());
            cosines.sum()
        };
        let smooth: Vec<f64> = (0..genes).map(wave).collect();
        let mean = smooth.iter().sum::<f64>() / genes as f64;
        let spread = (smooth.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / genes as f64)
            .sqrt()
            .max(1e-3);
        let rough = self.draws(genes, 1.0);
        let both = smooth
            .iter()
            .zip(rough)
            .map(|(s, r)| 0.7_f64.sqrt() * s / spread + 0.3_f64.sqrt() * r);
        both.map(|x| 0.5 + 0.28 / 1.2 * x).collect()
    }

    /// Dirichlet(0.6).
    fn mixture(&mut self) -> Vec<f64> {
        let gamma = Gamma::new(0.6, 1.0).expect("a positive shape");
        let raw: Vec<f64> = (0..SKILLS).map(|_| gamma.sample(&mut self.0)).collect();
        let sum: f64 = raw.iter().sum();
        raw.into_iter().map(|x| x / sum).collect()
    }
}
