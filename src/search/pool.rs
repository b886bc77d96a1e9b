//! Which questions a generation is asked, and what a few answers say of all questions.
//!
//! In a race all candidates of a generation are asked the *same* block of questions, and the next generation another
//! one, so that nobody is bred for one block. Questions that everybody gets right, or nobody, tell candidates apart
//! hardly ever: a question is drawn in proportion to the spread of the answers that it got lately. Draws are systematic
//! over the questions sorted by difficulty and length, so that every block has its share of hard and long ones.
//!
//! **Source**: systematic sampling with unequal probabilities (Madow, 1949); the difference estimator in its ratio form
//! (Särndal, Swensson & Wretman, 1992, §6.3 and §5.7): `mean(m) + Σ (y−m)/π ÷ Σ 1/π`, where `m` is what is known of a
//! question and π the probability of its being asked. Among candidates with the same questions it ranks as `Σ y/π`
//! does; between generations it makes easy and hard blocks comparable.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Exam, ExamTask,
    scoring::{Answers, mean_tokens},
};
use crate::{
    eval::stats,
    event::{Answer, Score, TaskScore},
};

/// What is remembered of old answers after each generation.
const MEMORY: f64 = 0.97;
/// Answers that the other questions' mean counts for where a question has few of its own.
const PRIOR: f64 = 2.0;
/// The least that a question is drawn, relative to the most telling one.
const LEAST_WEIGHT: f64 = 0.2;

/// All questions of the search with what candidates made of them.
#[derive(Clone, Debug)]
pub struct Pool {
    exam: Exam,
    tasks: Vec<TaskPool>,
}

#[derive(Clone, Debug)]
struct TaskPool {
    questions: Vec<Known>,
    /// Tokens of the mean question, for log-likelihoods; else 1.
    mean_size: f64,
}

/// Sums over the answers to one question, older ones counting less.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    count: f64,
    sum: f64,
    squares: f64,
    /// Tokens of its continuation, for log-likelihoods; else 1. 0 until somebody has answered it.
    size: f64,
}

/// What is asked of one generation: the questions of each rung, every rung's within the next one's.
#[derive(Clone, Debug)]
pub struct Block {
    pub rungs: Vec<Rung>,
}

/// The questions that a candidate has been asked when it stands on a rung.
#[derive(Clone, Debug)]
pub struct Rung {
    pub exam: Exam,
    /// The probability of each question's being here, as in `exam`.
    inclusion: Vec<Vec<f64>>,
}

impl Block {
    /// Everybody is asked everything.
    pub fn whole(exam: &Exam) -> Self {
        Self {
            rungs: vec![Rung {
                exam: exam.clone(),
                inclusion: exam.tasks.iter().map(|t| vec![1.0; t.items.len()]).collect(),
            }],
        }
    }
}

impl Pool {
    pub fn new(exam: &Exam) -> Self {
        let tasks = exam.tasks.iter().map(|task| TaskPool {
            questions: vec![Known::default(); task.items.len()],
            mean_size: 1.0,
        });
        Self {
            tasks: tasks.collect(),
            exam: exam.clone(),
        }
    }

    /// At most `n` questions, evenly spread over the pool: what those are asked that are measured once and for all.
    pub fn spread(&self, n: usize) -> Exam {
        let shares = self.shares(n);
        let even = |(task, share): (&ExamTask, usize)| {
            let total = task.items.len();
            (0..share).map(|i| task.items[i * total / share]).collect()
        };
        self.exam
            .of_items(self.exam.tasks.iter().zip(shares).map(even).collect())
    }

    /// How many of `n` questions each task gets: by its weight, at least one, at most what it has.
    fn shares(&self, n: usize) -> Vec<usize> {
        let weights: f64 = self.exam.tasks.iter().map(|t| t.weight).sum();
        let share = |task: &ExamTask| {
            let wanted = (n as f64 * task.weight / weights).round() as usize;
            wanted.clamp(1, task.items.len())
        };
        self.exam.tasks.iter().map(share).collect()
    }

    /// Draws the block of a generation; `sizes` are the questions on each rung, ascending. The same seed and the same
    /// answers so far give the same block.
    pub fn draw(&self, sizes: &[usize], seed: u64) -> Block {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let whole = sizes.last().copied().unwrap_or(0);
        // Questions in the order in which they are asked, and the probability of each one's being in the whole block.
        let drawn: Vec<(Vec<usize>, Vec<f64>)> = self
            .shares(whole)
            .into_iter()
            .enumerate()
            .map(|(t, n)| self.tasks[t].sample(&self.exam.tasks[t], n, &mut random))
            .collect();
        let rungs = sizes.iter().map(|size| {
            let shares = self.shares(*size);
            let (mut items, mut inclusion) = (Vec::new(), Vec::new());
            for ((task, (order, chance)), share) in self.exam.tasks.iter().zip(&drawn).zip(shares) {
                let share = share.min(order.len());
                let of_block = share as f64 / order.len() as f64;
                let mut asked: Vec<(usize, f64)> = order[..share]
                    .iter()
                    .map(|at| (task.items[*at], chance[*at] * of_block))
                    .collect();
                asked.sort_by_key(|(item, _)| *item);
                items.push(asked.iter().map(|a| a.0).collect());
                inclusion.push(asked.iter().map(|a| a.1).collect());
            }
            Rung {
                exam: self.exam.of_items(items),
                inclusion,
            }
        });
        Block { rungs: rungs.collect() }
    }

    /// Fitness and task scores over the whole pool, estimated from the answers on a rung.
    pub fn estimate(&self, rung: &Rung, answers: &Answers) -> (Score, Vec<TaskScore>) {
        let parts = rung.exam.tasks.iter().zip(&self.tasks).zip(&rung.inclusion);
        let scores = parts.zip(answers).map(|(((task, pool), inclusion), (_, answers))| {
            let asked: Vec<usize> = (0..answers.len()).collect();
            let score = pool.estimate(task, &self.position(task), inclusion, answers, &asked);
            (score, mean_tokens(answers))
        });
        rung.exam.weigh(scores)
    }

    /// What each question on a rung adds to the error of the estimate, by its place among all that the tasks have.
    pub fn deviations(&self, rung: &Rung, answers: &Answers) -> Vec<(u32, f64)> {
        let parts = rung.exam.tasks.iter().zip(&self.tasks).zip(&rung.inclusion);
        let errors = parts.zip(answers).map(|(((task, pool), inclusion), (_, answers))| {
            let asked: Vec<usize> = (0..answers.len()).collect();
            let terms = pool.terms(&pool.spreads(), task, &self.position(task), inclusion, answers, &asked);
            stats::ratio_deviations(&terms)
        });
        rung.exam.placed(errors)
    }

    /// The fitness on each half of a rung's questions: every second one.
    pub fn halves(&self, rung: &Rung, answers: &Answers) -> [f64; 2] {
        [0, 1].map(|half| {
            let parts = rung.exam.tasks.iter().zip(&self.tasks).zip(&rung.inclusion);
            let scores = parts.zip(answers).map(|(((task, pool), inclusion), (_, answers))| {
                let asked: Vec<usize> = (half..answers.len()).step_by(2).collect();
                let score = pool.estimate(task, &self.position(task), inclusion, answers, &asked);
                (score, None)
            });
            rung.exam.weigh(scores).0.value
        })
    }

    /// Where a task's questions stand in the pool, which holds a part of its catalogue.
    fn position(&self, task: &ExamTask) -> impl Fn(usize) -> usize + use<> {
        let items = self
            .exam
            .tasks
            .iter()
            .find(|t| t.index == task.index)
            .map(|t| t.items.clone())
            .unwrap_or_default();
        move |item| {
            let place = items.binary_search(&item);
            place.expect("whoever races is asked questions of the pool")
        }
    }

    /// Takes in what a candidate answered to some questions of the pool.
    pub fn learn(&mut self, exam: &Exam, answers: &Answers) {
        for ((task, (_, answers)), t) in exam.tasks.iter().zip(answers).zip(0..) {
            let position = self.position(task);
            let pool: &mut TaskPool = &mut self.tasks[t];
            for (item, answer) in task.items.iter().zip(answers) {
                pool.questions[position(*item)].size = task.size(answer);
            }
            let known: Vec<f64> = pool.questions.iter().map(|q| q.size).filter(|s| *s > 0.0).collect();
            pool.mean_size = stats::mean(&known);
            for (item, answer) in task.items.iter().zip(answers) {
                let y = pool.value(task, answer);
                let question = &mut pool.questions[position(*item)];
                question.count += 1.0;
                question.sum += y;
                question.squares += y * y;
            }
        }
    }

    /// A generation has passed: old answers count less.
    pub fn age(&mut self) {
        for question in self.tasks.iter_mut().flat_map(|t| &mut t.questions) {
            question.count *= MEMORY;
            question.sum *= MEMORY;
            question.squares *= MEMORY;
        }
    }
}

impl TaskPool {
    /// What an answer adds to the mean over all questions: its score; a log-likelihood counts by its tokens.
    fn value(&self, task: &ExamTask, answer: &Answer) -> f64 {
        if task.is_likelihood {
            answer.score * task.size(answer) / self.mean_size
        } else {
            answer.score
        }
    }

    /// Mean and standard deviation of the answers to each question, drawn to those of all where it has few.
    fn spreads(&self) -> Vec<(f64, f64)> {
        let total = |f: fn(&Known) -> f64| self.questions.iter().map(f).sum::<f64>();
        let count = total(|q| q.count);
        let (mean, square) = match count > 0.0 {
            true => (total(|q| q.sum) / count, total(|q| q.squares) / count),
            false => (0.5, 0.5),
        };
        let of_question = |q: &Known| {
            let weight = q.count + PRIOR;
            let m = (q.sum + PRIOR * mean) / weight;
            let variance = (q.squares + PRIOR * square) / weight - m * m;
            (m, variance.max(0.0).sqrt())
        };
        self.questions.iter().map(of_question).collect()
    }

    /// Draws `n` questions; gives their positions in the order of asking, and every question's probability.
    fn sample(&self, task: &ExamTask, n: usize, random: &mut ChaCha8Rng) -> (Vec<usize>, Vec<f64>) {
        let spreads = self.spreads();
        let chance = inclusion(&spreads.iter().map(|s| s.1).collect::<Vec<_>>(), n);
        let mut order: Vec<usize> = (0..spreads.len()).collect();
        let length = |i: &usize| task.catalogue.lengths.get(task.items[*i]).copied().unwrap_or(0);
        let band = |i: &usize| (spreads[*i].0 * 5.0).floor() as i64;
        order.sort_by_key(|i| (band(i), length(i), *i));
        let start: f64 = random.random();
        let (mut sum, mut next, mut drawn) = (0.0, start, Vec::with_capacity(n));
        for i in order {
            sum += chance[i];
            while sum > next && drawn.len() < n {
                drawn.push(i);
                next += 1.0;
            }
        }
        // Rounding of the sum can leave the last one out.
        if drawn.len() < n
            && let Some(i) = (0..chance.len()).rev().find(|i| !drawn.contains(i))
        {
            drawn.push(i);
        }
        let turn = random.random_range(0..drawn.len().max(1));
        drawn.rotate_left(turn);
        (scattered(&drawn), chance)
    }

    /// By how much answers differ from what is known of their questions, and how much each counts: those at `asked`.
    fn terms(
        &self,
        spreads: &[(f64, f64)],
        task: &ExamTask,
        position: &dyn Fn(usize) -> usize,
        inclusion: &[f64],
        answers: &[Answer],
        asked: &[usize],
    ) -> Vec<(f64, f64)> {
        let term = |i: &usize| {
            let m = spreads[position(task.items[*i])].0;
            (
                (self.value(task, &answers[*i]) - m) / inclusion[*i],
                1.0 / inclusion[*i],
            )
        };
        asked.iter().map(term).collect()
    }

    /// The mean over the pool from some answers: those at `asked`, by their place among the answers.
    fn estimate(
        &self,
        task: &ExamTask,
        position: &dyn Fn(usize) -> usize,
        inclusion: &[f64],
        answers: &[Answer],
        asked: &[usize],
    ) -> Score {
        let spreads = self.spreads();
        let known = stats::mean(&spreads.iter().map(|s| s.0).collect::<Vec<_>>());
        let terms = self.terms(&spreads, task, position, inclusion, answers, asked);
        let (surplus, stderr) = stats::ratio(&terms);
        let value = known + surplus;
        Score {
            value: if task.is_likelihood {
                value
            } else {
                value.clamp(0.0, 1.0)
            },
            // Without replacement: asking every question leaves no doubt about the pool.
            stderr,
            n: asked.len(),
        }
    }
}

/// Probabilities that sum to `n`, in proportion to the spreads but at least [`LEAST_WEIGHT`] of the largest, at most 1.
fn inclusion(spreads: &[f64], n: usize) -> Vec<f64> {
    let largest = spreads.iter().copied().fold(0.0, f64::max);
    let weight = |s: f64| {
        if largest > 0.0 {
            s.max(LEAST_WEIGHT * largest)
        } else {
            1.0
        }
    };
    let weights: Vec<f64> = spreads.iter().map(|s| weight(*s)).collect();
    let mut chance = vec![0.0; weights.len()];
    let mut certain = vec![false; weights.len()];
    loop {
        let left = n as f64 - certain.iter().filter(|c| **c).count() as f64;
        let sum: f64 = weights.iter().zip(&certain).filter(|(_, c)| !**c).map(|(w, _)| w).sum();
        let mut grew = false;
        for i in 0..weights.len() {
            chance[i] = if certain[i] { 1.0 } else { left * weights[i] / sum };
            if chance[i] >= 1.0 && !certain[i] {
                (certain[i], chance[i], grew) = (true, 1.0, true);
            }
        }
        if !grew {
            return chance;
        }
    }
}

/// The same items in an order of which every beginning is spread over the whole (van der Corput, base 2).
fn scattered(items: &[usize]) -> Vec<usize> {
    let bits = usize::BITS - items.len().saturating_sub(1).leading_zeros();
    let reversed = |i: usize| {
        if bits == 0 {
            0
        } else {
            i.reverse_bits() >> (usize::BITS - bits)
        }
    };
    let all = (0..1_usize << bits).map(reversed);
    all.filter(|i| *i < items.len()).map(|i| items[i]).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Catalogue;
    use super::*;

    fn exam(n: usize) -> Exam {
        Exam {
            split: "search".into(),
            tasks: vec![ExamTask {
                index: 0,
                split: "search".into(),
                task: "t".into(),
                lang: "en".into(),
                weight: 1.0,
                is_likelihood: false,
                catalogue: Arc::new(Catalogue {
                    ids: (0..n).map(|i| i.to_string()).collect(),
                    lengths: (0..n).map(|i| (i * 7) % 50).collect(),
                }),
                items: (0..n).collect(),
            }],
        }
    }

    fn answers(exam: &Exam, right: impl Fn(usize) -> bool) -> Vec<(String, Vec<Answer>)> {
        let answer = |item: &usize| Answer {
            q: item.to_string(),
            out: String::new(),
            got: String::new(),
            gold: String::new(),
            score: f64::from(u8::from(right(*item))),
            finish: String::new(),
            language_ok: true,
            tokens: 1,
        };
        vec![(String::new(), exam.tasks[0].items.iter().map(answer).collect())]
    }

    /// A pool in which a third of the questions is easy, a third hard, and a third tells candidates apart.
    fn seasoned(n: usize) -> Pool {
        let exam = exam(n);
        let mut pool = Pool::new(&exam);
        for candidate in 0..20 {
            pool.learn(
                &exam,
                &answers(&exam, |i| i % 3 == 0 || (i % 3 == 1 && candidate % 2 == 0)),
            );
        }
        pool
    }

    #[test]
    fn probabilities_sum_to_the_number_drawn() {
        let chance = inclusion(&[0.5, 0.5, 0.0, 0.1, 5.0], 3);
        assert!((chance.iter().sum::<f64>() - 3.0).abs() < 1e-12, "{chance:?}");
        assert_eq!(
            chance[4], 1.0,
            "what would be drawn more than once is drawn for certain"
        );
        assert!(chance[2] > 0.0, "no question is left out for ever");
        assert_eq!(inclusion(&[0.0; 4], 2), [0.5; 4]);
        assert_eq!(inclusion(&[0.3, 0.2], 2), [1.0, 1.0]);
    }

    #[test]
    fn every_beginning_of_a_scattered_order_is_spread() {
        let order = scattered(&(0..12).collect::<Vec<_>>());
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
        assert_eq!(order[..3], [0, 8, 4]);
        assert_eq!(scattered(&[7]), [7]);
        assert!(scattered(&[]).is_empty());
    }

    #[test]
    fn rungs_lie_within_each_other_and_blocks_rotate() {
        let pool = seasoned(300);
        let block = pool.draw(&[24, 48, 96], 5);
        let items = |rung: &Rung| rung.exam.tasks[0].items.clone();
        for (lower, upper) in block.rungs.iter().zip(&block.rungs[1..]) {
            let upper = items(upper);
            assert!(items(lower).iter().all(|i| upper.contains(i)));
        }
        let sizes: Vec<usize> = block.rungs.iter().map(|r| r.exam.n()).collect();
        assert_eq!(sizes, [24, 48, 96]);
        assert_eq!(items(&pool.draw(&[24, 48, 96], 5).rungs[2]), items(&block.rungs[2]));
        assert_ne!(items(&pool.draw(&[24, 48, 96], 6).rungs[2]), items(&block.rungs[2]));
        let telling = items(&block.rungs[2]).iter().filter(|i| **i % 3 == 1).count();
        assert!(
            telling > 48,
            "questions that tell candidates apart are asked more often: {telling}"
        );
    }

    /// The mean of the estimate over many blocks is the accuracy over the whole pool, on every rung.
    #[test]
    fn estimates_are_unbiased() {
        let pool = seasoned(300);
        let right = |i: usize| i.is_multiple_of(3) || (i % 3 == 1 && i.is_multiple_of(2)) || i % 30 == 2;
        let truth = (0..300).filter(|i| right(*i)).count() as f64 / 300.0;
        for rung in 0..2 {
            let estimates: Vec<f64> = (0..2000)
                .map(|seed| {
                    let rung = &pool.draw(&[24, 96], seed).rungs[rung];
                    pool.estimate(rung, &answers(&rung.exam, right)).0.value
                })
                .collect();
            let mean = stats::mean(&estimates);
            assert!((mean - truth).abs() < 0.01, "rung {rung}: {mean} for {truth}");
        }
    }

    #[test]
    fn all_questions_give_the_plain_mean() {
        let pool = seasoned(60);
        let rung = &pool.draw(&[60], 1).rungs[0];
        let (score, tasks) = pool.estimate(rung, &answers(&rung.exam, |i| i < 15));
        assert!((score.value - 0.25).abs() < 1e-12);
        assert_eq!((score.n, tasks[0].score.n), (60, 60));
    }

    #[test]
    fn deviations_make_up_the_error_of_an_estimate() {
        let pool = seasoned(300);
        for rung in &pool.draw(&[24, 96], 3).rungs {
            let answers = answers(&rung.exam, |i| i % 3 == 0 || i.is_multiple_of(4));
            let deviations = pool.deviations(rung, &answers);
            let asked: Vec<usize> = deviations.iter().map(|(place, _)| *place as usize).collect();
            assert_eq!(asked, rung.exam.tasks[0].items);
            let variance: f64 = deviations.iter().map(|(_, d)| d * d).sum();
            let stderr = pool.estimate(rung, &answers).0.stderr;
            assert!(stderr > 0.0 && (variance.sqrt() - stderr).abs() < 1e-12, "{stderr}");
        }
    }

    #[test]
    fn a_pool_of_one_question_works() {
        let pool = Pool::new(&exam(1));
        let block = pool.draw(&[1, 1], 0);
        let (score, _) = pool.estimate(&block.rungs[0], &answers(&block.rungs[0].exam, |_| true));
        assert_eq!(score.value, 1.0);
        assert_eq!(pool.spread(10).n(), 1);
    }
}
