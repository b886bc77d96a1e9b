//! An evolution strategy whose recombination is a language model's: EvoLLM (Lange, Tian and Tang, 2024, arXiv:2402.18381).
//!
//! A generation is drawn around a mean with a spread that stays. The best points so far, as whole numbers and sorted from the
//! worst to the best, are the question; what a language model writes as the point of a score that nobody has reached yet is
//! the next mean. Many genes are asked about in blocks. Nothing here knows a model: [`EvoLlm::question`] and
//! [`EvoLlm::advise`] are what passes. Of a reply that cannot be read, and of a question that nobody answers, the mean is the
//! best point of the generation before.

use serde::{Deserialize, Serialize};

use super::chance::{Address, Stream};
use super::coordinates::{decode, encode, std_cap, unit};
use super::domain::{Domain, Gene, Genotype};
use super::ledger::Answer;
use super::{Error, Options, Spread};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvoLlm {
    seed: u64,
    population_size: usize,
    /// In unit coordinates, as the standard deviations are; of a choice one of its options.
    mean: Vec<f64>,
    stds: Vec<f64>,
    /// Generations with a score, those with the best score first; the better members of each, the best first.
    generations: Vec<Vec<Member>>,
    /// The first gene that nobody has been asked about since the last generation; `None` when there is nothing to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    cost: f64,
    /// One for each gene.
    levels: Vec<u32>,
}

/// Candidates in a generation.
const DEFAULT_POPULATION_SIZE: usize = 8;

/// Generations that a question shows, and members of each: five of either, as in the paper.
const GENERATIONS: usize = 5;
const MEMBERS: usize = 5;

/// A range is cut into this many steps.
const LEVELS: u32 = 100;

/// Genes that are asked about at a time.
const BLOCK: usize = 8;

/// The standard deviation as a part of the range, if nobody says another.
const SPREAD: f64 = 0.1;

/// How often a choice is another one than the mean's.
const OTHER_CHOICE: f64 = 0.2;

/// Scores are shown from 0, the worst, to 100, the best; this one is asked for.
const WANTED: u32 = 120;

impl EvoLlm {
    /// **Errors**: a real gene without an end on one side.
    pub fn new(domain: &Domain, options: &Options) -> Result<Self, Error> {
        let genes = domain.genes();
        domain.must_be_bounded(
            "evollm",
            "a language model is shown steps of a range; give it a low and a high, or use cma-es",
        )?;
        Ok(Self {
            seed: options.seed,
            population_size: options.population_size.unwrap_or(DEFAULT_POPULATION_SIZE),
            mean: genes.iter().map(|gene| place(gene, gene.middle())).collect(),
            stds: genes.iter().map(|gene| wide_enough(gene, SPREAD)).collect(),
            generations: Vec::new(),
            open: None,
        })
    }

    pub fn start_at(&mut self, domain: &Domain, point: &[f64], spread: &Spread) -> Result<(), Error> {
        let genes = domain.genes();
        let stds = spread.of_each(domain)?;
        for (gene, ((std, value), kind)) in self.stds.iter_mut().zip(stds).zip(genes).enumerate() {
            match kind {
                Gene::Choice { .. } => {}
                _ if value.is_finite() && value > 0.0 => {
                    *std = wide_enough(kind, (value / unit(kind)).min(std_cap(kind)))
                }
                _ => return Err(Error::StepSize { gene, value }),
            }
        }
        self.mean = genes
            .iter()
            .zip(domain.nearest(point))
            .map(|(gene, value)| place(gene, value))
            .collect();
        Ok(())
    }

    pub fn population_size(&self) -> usize {
        self.population_size
    }

    pub fn mean(&self, domain: &Domain) -> Genotype {
        domain
            .genes()
            .iter()
            .zip(&self.mean)
            .map(|(gene, u)| decode(gene, *u))
            .collect()
    }

    pub fn propose(&self, domain: &Domain, at: Address) -> Genotype {
        let mut stream = Stream::at(self.seed, at);
        let gene = |((gene, u), std): ((&Gene, &f64), &f64)| match gene {
            Gene::Choice { n } => match stream.chance(OTHER_CHOICE) {
                true => stream.below(*n) as f64,
                false => decode(gene, *u),
            },
            _ => decode(gene, u + std * stream.normal()),
        };
        domain
            .genes()
            .iter()
            .zip(&self.mean)
            .zip(&self.stds)
            .map(gene)
            .collect()
    }

    /// The best of a generation is the mean until somebody says a better one.
    pub fn update(&mut self, domain: &Domain, batch: &[Answer], _: u64) {
        let genes = domain.genes();
        let member = |answer: &Answer| {
            let levels = genes
                .iter()
                .zip(&answer.genotype)
                .map(|(gene, value)| level(gene, *value));
            Some(Member {
                cost: answer.outcome.cost()?,
                levels: levels.collect(),
            })
        };
        let scored = batch.iter().filter(|answer| answer.outcome.cost().is_some());
        let best = scored.reduce(|a, b| if b.outcome.cost() < a.outcome.cost() { b } else { a });
        let Some(best) = best else {
            return; // the next generation is drawn around the same mean
        };
        self.mean = genes
            .iter()
            .zip(&best.genotype)
            .map(|(gene, value)| place(gene, *value))
            .collect();
        let mut members: Vec<Member> = batch.iter().filter_map(member).collect();
        members.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        members.truncate(MEMBERS);
        self.generations.push(members);
        // The older of equals stays in front.
        self.generations.sort_by(|a, b| a[0].cost.total_cmp(&b[0].cost));
        self.generations.truncate(GENERATIONS);
        self.open = self.has_contrast().then_some(0);
    }

    /// What a language model is to be asked now; `None` when nothing is, as before there are scores that differ.
    pub fn question(&self) -> Option<String> {
        let first = self.open?;
        let block = first..(first + BLOCK).min(self.mean.len());
        let n = block.len();
        let mut members = self.members();
        members.sort_by(|a, b| b.cost.total_cmp(&a.cost));
        let (worst, best) = (members.first()?.cost, members.last()?.cost);
        let mut text = format!(
            "Each line is a point and its score, from the worst to the best. A point is {n} whole {} from 0 to {LEVELS}. What \
             point has the score of the last line, which is better than all others? Answer with its {n} {}, separated by \
             commas, and nothing else.\n\n",
            if n == 1 { "number" } else { "numbers" },
            if n == 1 { "number" } else { "numbers" },
        );
        for member in members {
            let score = (100.0 * (worst - member.cost) / (worst - best)).round();
            let levels: Vec<String> = member.levels[block.clone()].iter().map(u32::to_string).collect();
            text.push_str(&format!("score {score}: {}\n", levels.join(",")));
        }
        text.push_str(&format!("score {WANTED}:"));
        Some(text)
    }

    /// Takes the reply to [`Self::question`]; `None` if there is none. False when it says no point.
    ///
    /// **Errors**: nothing was asked.
    pub fn advise(&mut self, domain: &Domain, reply: Option<&str>) -> Result<bool, Error> {
        let first = self.open.ok_or(Error::NothingAsked)?;
        let block = first..(first + BLOCK).min(self.mean.len());
        let said = reply.and_then(|reply| point(reply, block.len()));
        self.open = Some(block.end).filter(|end| *end < self.mean.len());
        for (i, level) in block.zip(said.iter().flatten()) {
            let gene = &domain.genes()[i];
            self.mean[i] = place(gene, decode(gene, f64::from(*level) / f64::from(LEVELS)));
        }
        Ok(said.is_some())
    }

    /// Candidates are asked for, so nobody is asked any more.
    pub fn close(&mut self) {
        self.open = None;
    }

    fn members(&self) -> Vec<&Member> {
        self.generations.iter().flatten().collect()
    }

    fn has_contrast(&self) -> bool {
        let members = self.members();
        members.iter().any(|member| member.cost != members[0].cost)
    }

    pub fn is_consistent(&self, domain: &Domain) -> bool {
        let n = domain.genes().len();
        let is_whole = |member: &Member| member.levels.len() == n && member.cost.is_finite();
        self.population_size >= 2
            && self.mean.len() == n
            && self.stds.len() == n
            && self.open.is_none_or(|first| first < n && self.has_contrast())
            && self
                .generations
                .iter()
                .all(|members| !members.is_empty() && members.iter().all(is_whole))
    }
}

/// A standard deviation that reaches a whole number's neighbours.
fn wide_enough(gene: &Gene, std: f64) -> f64 {
    match gene {
        Gene::Int { .. } => std.max(1.0 / unit(gene)),
        Gene::Real { .. } | Gene::Choice { .. } => std,
    }
}

/// Where a value stands in its gene's range, 0 to 1.
fn place(gene: &Gene, value: f64) -> f64 {
    match gene.is_free() {
        true => encode(gene, value),
        false => 0.0,
    }
}

/// The same in hundredths.
fn level(gene: &Gene, value: f64) -> u32 {
    (f64::from(LEVELS) * place(gene, value)).round() as u32
}

/// The first line of a reply with as many numbers from 0 to 100 as there are genes; what stands before a line's last colon is
/// no part of them.
fn point(reply: &str, genes: usize) -> Option<Vec<u32>> {
    let numbers = |line: &str| -> Option<Vec<u32>> {
        let after = line.rsplit(':').next().unwrap_or(line);
        let words = after.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
        let words = words
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| !word.is_empty());
        let levels = words.map(|word| {
            let number: f64 = word.parse().ok()?;
            (0.0..=f64::from(LEVELS))
                .contains(&number)
                .then(|| number.round() as u32)
        });
        levels.collect()
    };
    reply.lines().filter_map(numbers).find(|levels| levels.len() == genes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Optimizer, Outcome};

    fn cube(n: usize) -> Domain {
        Domain::new(vec![Gene::Real { low: -5.0, high: 5.0 }; n]).unwrap()
    }

    /// Asks a generation of the sphere around `at` and tells it.
    fn generation(optimizer: &mut Optimizer, at: f64) {
        let score = |genotype: &[f64]| -genotype.iter().map(|x| (x - at) * (x - at)).sum::<f64>();
        let asks = optimizer.ask();
        let results: Vec<_> = asks
            .iter()
            .map(|ask| (ask.id, Outcome::from_score(score(&ask.genotype))))
            .collect();
        optimizer.tell(&results).unwrap();
    }

    fn optimizer(domain: Domain, seed: u64) -> Optimizer {
        let options = Options {
            seed,
            ..Options::default()
        };
        Optimizer::new(Kind::Evollm, domain, &options).unwrap()
    }

    #[test]
    fn the_question_goes_from_the_worst_to_the_best_and_asks_for_better() {
        let mut optimizer = optimizer(cube(3), 1);
        assert_eq!(optimizer.question(), None);
        generation(&mut optimizer, 1.0);
        let question = optimizer.question().unwrap();
        let lines: Vec<&str> = question
            .lines()
            .skip_while(|line| !line.starts_with("score "))
            .collect();
        assert_eq!(lines.len(), MEMBERS + 1);
        assert!(
            lines[0].starts_with("score 0: ") && lines[MEMBERS - 1].starts_with("score 100: "),
            "{question}"
        );
        assert_eq!(lines[MEMBERS], "score 120:");
        let scores: Vec<u32> = lines
            .iter()
            .map(|line| line[6..].split(':').next().unwrap().parse().unwrap())
            .collect();
        assert!(scores.is_sorted(), "{question}");
    }

    #[test]
    fn what_is_said_is_the_next_mean() {
        let mut optimizer = optimizer(cube(3), 1);
        generation(&mut optimizer, 1.0);
        assert!(
            optimizer
                .advise(Some("Sure! Here it is:\nscore 120: 60, 61.4, 0\nscore 140: 1,2,3"))
                .unwrap()
        );
        let mean = optimizer.mean().unwrap();
        assert!(
            mean.iter().zip([1.0, 1.1, -5.0]).all(|(a, b)| (a - b).abs() < 1e-9),
            "{mean:?}"
        );
        assert_eq!(optimizer.question(), None);
        assert!(matches!(optimizer.advise(Some("1,2,3")), Err(Error::NothingAsked)));
    }

    #[test]
    fn what_cannot_be_read_leaves_the_best_of_the_generation() {
        for reply in [
            None,
            Some(""),
            Some("I cannot"),
            Some("1,2"),
            Some("1,2,3,4"),
            Some("1,2,300"),
            Some("-1,2,3"),
        ] {
            let mut optimizer = optimizer(cube(3), 1);
            let asks = optimizer.ask();
            let results: Vec<_> = asks
                .iter()
                .map(|a| (a.id, Outcome::from_score(-a.genotype[0].abs())))
                .collect();
            optimizer.tell(&results).unwrap();
            let best = asks
                .iter()
                .min_by(|a, b| a.genotype[0].abs().total_cmp(&b.genotype[0].abs()))
                .unwrap();
            assert!(!optimizer.advise(reply).unwrap(), "{reply:?}");
            let mean = optimizer.mean().unwrap();
            assert!(
                mean.iter().zip(&best.genotype).all(|(a, b)| (a - b).abs() < 1e-9),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn many_genes_are_asked_about_in_blocks_and_nobody_need_answer() {
        let mut optimizer = optimizer(cube(19), 2);
        generation(&mut optimizer, 0.0);
        let before = optimizer.mean().unwrap();
        let first = optimizer.question().unwrap();
        assert!(first.contains("8 whole numbers"));
        assert!(optimizer.advise(Some("50,50,50,50,50,50,50,50")).unwrap());
        assert_ne!(optimizer.question().unwrap(), first);
        assert!(!optimizer.advise(None).unwrap());
        assert!(optimizer.question().unwrap().contains("3 whole numbers"));
        let mean = optimizer.mean().unwrap();
        assert!(
            mean[..8].iter().all(|x| x.abs() < 1e-9) && mean[8..] == before[8..],
            "{mean:?}"
        );
        optimizer.ask();
        assert_eq!(optimizer.question(), None);
    }

    #[test]
    fn whole_numbers_and_choices_are_levels_too() {
        let genes = vec![
            Gene::Int { low: 2, high: 6 },
            Gene::Choice { n: 3 },
            Gene::Choice { n: 1 },
        ];
        let mut optimizer = optimizer(Domain::new(genes).unwrap(), 3);
        let asks = optimizer.ask();
        let results: Vec<_> = asks
            .iter()
            .map(|a| (a.id, Outcome::from_score(a.genotype[0])))
            .collect();
        optimizer.tell(&results).unwrap();
        assert!(optimizer.advise(Some("100, 50, 0")).unwrap());
        assert_eq!(optimizer.mean(), Some(vec![6.0, 1.0, 0.0]));
    }

    /// Whoever continues the line between the two best points is an optimizer.
    #[test]
    fn a_model_that_sees_where_it_goes_leads_there() {
        let follow = |question: &str| -> String {
            let lines: Vec<&str> = question.lines().filter(|line| line.starts_with("score ")).collect();
            let numbers = |line: &str| -> Vec<f64> {
                line.split(": ")
                    .nth(1)
                    .unwrap()
                    .split(',')
                    .map(|w| w.parse().unwrap())
                    .collect()
            };
            let (good, best) = (numbers(lines[lines.len() - 3]), numbers(lines[lines.len() - 2]));
            let next = good
                .iter()
                .zip(best)
                .map(|(a, b)| (b + 0.25 * (b - a)).clamp(0.0, 100.0).round().to_string());
            next.collect::<Vec<_>>().join(",")
        };
        for seed in 0..3 {
            let mut optimizer = optimizer(cube(4), seed);
            for _ in 0..40 {
                generation(&mut optimizer, 3.0);
                while let Some(question) = optimizer.question() {
                    assert!(optimizer.advise(Some(&follow(&question))).unwrap());
                }
            }
            let mean = optimizer.mean().unwrap();
            let off: f64 = mean.iter().map(|x| (x - 3.0) * (x - 3.0)).sum::<f64>().sqrt();
            assert!(off < 1.5, "seed {seed}: {mean:?}"); // it began 6 away
        }
    }
}
