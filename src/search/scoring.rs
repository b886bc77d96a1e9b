//! From answers to fitness, and from two candidates' answers to a paired comparison.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{
    eval::stats,
    event::{Answer, Score, TaskScore},
    yaml::did_you_mean,
};

/// Questions that candidates are asked, in one fixed order: all of a phase, or some of them.
#[derive(Clone, Debug)]
pub struct Exam {
    pub split: String,
    pub tasks: Vec<ExamTask>,
}

/// All questions of one task that a phase may ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// Question ids, in the order of the split.
    pub ids: Vec<String>,
    /// Characters of each prompt.
    pub lengths: Vec<usize>,
}

/// One task of an exam.
#[derive(Clone, Debug)]
pub struct ExamTask {
    /// Which of the evaluator's tasks.
    pub index: usize,
    /// The split that its questions come from.
    pub split: String,
    pub task: String,
    pub lang: String,
    pub weight: f64,
    /// The score is a log-likelihood a token, not right or wrong.
    pub is_likelihood: bool,
    pub catalogue: Arc<Catalogue>,
    /// Which of the catalogue's questions are asked, by position, ascending.
    pub items: Vec<usize>,
}

/// Answers of one candidate, task by task, with their cache keys.
pub type Answers = [(String, Vec<Answer>)];

/// How the child compares with another candidate on the same questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// child − other.
    pub difference: f64,
    /// Of the difference.
    pub stderr: f64,
    pub p_value: f64,
    pub test: &'static str,
    pub negative_flips: usize,
    pub positive_flips: usize,
}

impl Exam {
    /// The same tasks with other questions: for each task, positions in its catalogue, ascending.
    pub fn of_items(&self, items: Vec<Vec<usize>>) -> Exam {
        let tasks = self.tasks.iter().zip(items);
        Exam {
            split: self.split.clone(),
            tasks: tasks.map(|(task, items)| ExamTask { items, ..task.clone() }).collect(),
        }
    }

    /// The first so many questions of each task.
    pub(super) fn beginning(&self, most: usize) -> Exam {
        let first = |task: &ExamTask| task.items.iter().copied().take(most).collect();
        self.of_items(self.tasks.iter().map(first).collect())
    }

    /// No questions.
    pub fn nothing() -> Exam {
        Exam {
            split: String::new(),
            tasks: Vec::new(),
        }
    }

    /// Tells exams apart: the same questions of the same tasks have the same mark.
    pub(super) fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.split.hash(&mut hasher);
        for task in &self.tasks {
            (task.index, &task.split, &task.items).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Number of questions asked, over all tasks.
    pub fn n(&self) -> usize {
        self.tasks.iter().map(|t| t.items.len()).sum()
    }

    /// Weighted mean over the tasks with its standard error, and each task's own score.
    pub fn score(&self, answers: &Answers) -> (Score, Vec<TaskScore>) {
        let scores = self.tasks.iter().zip(answers);
        self.weigh(scores.map(|(task, (_, answers))| (task.score(answers), mean_tokens(answers))))
    }

    /// The tasks' scores and mean numbers of tokens, weighted: fitness and its standard error, and each task's own score with
    /// its name.
    pub(super) fn weigh(&self, scores: impl Iterator<Item = (Score, Option<f64>)>) -> (Score, Vec<TaskScore>) {
        let mut tasks = Vec::new();
        let (mut sum, mut variance, mut n) = (0.0, 0.0, 0);
        let weights: f64 = self.tasks.iter().map(|t| t.weight).sum();
        for (task, (score, tokens)) in self.tasks.iter().zip(scores) {
            let share = task.weight / weights;
            sum += share * score.value;
            variance += (share * score.stderr).powi(2);
            n += score.n;
            tasks.push(TaskScore {
                task: task.task.clone(),
                lang: task.lang.clone(),
                split: task.split.clone(),
                score,
                tokens,
            });
        }
        let fitness = Score {
            value: sum,
            stderr: variance.sqrt(),
            n,
        };
        (fitness, tasks)
    }

    /// Compares two candidates question by question. One 0/1 task: McNemar's exact test; otherwise a sign-flip test of
    /// the questions' contributions to the fitness.
    pub fn compare(&self, child: &Answers, other: &Answers, seed: u64) -> Paired {
        let (a, b) = (self.contributions(child), self.contributions(other));
        let difference = a.iter().sum::<f64>() - b.iter().sum::<f64>();
        let (mut negative_flips, mut positive_flips) = (0, 0);
        for ((task, (_, child)), (_, other)) in self.tasks.iter().zip(child).zip(other) {
            if !task.is_likelihood {
                let right = |answers: &[Answer]| answers.iter().map(|a| a.score > 0.5).collect::<Vec<_>>();
                let (child, other) = (right(child), right(other));
                negative_flips += child.iter().zip(&other).filter(|(c, o)| !**c && **o).count();
                positive_flips += child.iter().zip(&other).filter(|(c, o)| **c && !**o).count();
            }
        }
        let (p_value, test) = match self.tasks.as_slice() {
            [task] if !task.is_likelihood && is_right_or_wrong(child) && is_right_or_wrong(other) => {
                let right = |answers: &Answers| answers[0].1.iter().map(|a| a.score > 0.5).collect::<Vec<_>>();
                let discordant = stats::Discordant::count(&right(other), &right(child));
                (discordant.mcnemar_p(), "mcnemar-exact")
            }
            _ => (stats::sign_flip_p(&a, &b, 20_000, seed), "paired-sign-flip"),
        };
        let gaps: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        Paired {
            difference,
            stderr: gaps.len() as f64 * stats::standard_error(&gaps),
            p_value,
            test,
            negative_flips,
            positive_flips,
        }
    }

    /// What each question adds to the fitness's error, by its place among all that the tasks have: the squares sum up to the
    /// squared standard error.
    pub fn deviations(&self, answers: &Answers) -> Vec<(u32, f64)> {
        let of_task = |(task, (_, answers)): (&ExamTask, &(String, Vec<Answer>))| {
            let pairs: Vec<(f64, f64)> = answers.iter().map(|a| (a.score * task.size(a), task.size(a))).collect();
            stats::ratio_deviations(&pairs)
        };
        self.placed(self.tasks.iter().zip(answers).map(of_task))
    }

    /// Errors of the tasks, question by question, weighted and with the place of each question.
    pub(super) fn placed(&self, errors: impl Iterator<Item = Vec<f64>>) -> Vec<(u32, f64)> {
        let weights: f64 = self.tasks.iter().map(|t| t.weight).sum();
        let mut placed = Vec::new();
        let mut before = 0;
        for (task, errors) in self.tasks.iter().zip(errors) {
            let share = task.weight / weights;
            let places = task.items.iter().map(|item| (before + item) as u32);
            placed.extend(places.zip(errors.iter().map(|error| share * error)));
            before += task.catalogue.ids.len();
        }
        placed
    }

    /// What each question adds to the fitness; their sum is the fitness.
    fn contributions(&self, answers: &Answers) -> Vec<f64> {
        let weights: f64 = self.tasks.iter().map(|t| t.weight).sum();
        let mut contributions = Vec::new();
        for (task, (_, answers)) in self.tasks.iter().zip(answers) {
            let share = task.weight / weights;
            let total: f64 = answers.iter().map(|a| task.size(a)).sum();
            contributions.extend(answers.iter().map(|a| share * a.score * task.size(a) / total));
        }
        contributions
    }
}

/// Tokens that an answer took, on average; none where nothing was generated.
pub(super) fn mean_tokens(answers: &[Answer]) -> Option<f64> {
    let generated = answers.iter().filter(|answer| !answer.finish.is_empty());
    let tokens: Vec<f64> = generated.map(|answer| answer.tokens as f64).collect();
    (!tokens.is_empty()).then(|| stats::mean(&tokens))
}

/// A command's answers may be right in part.
fn is_right_or_wrong(answers: &Answers) -> bool {
    let mut scores = answers
        .iter()
        .flat_map(|(_, answers)| answers)
        .map(|answer| answer.score);
    scores.all(|score| score == 0.0 || score == 1.0)
}

/// The named scores that a command gave, as tasks of one question. Fitness: Σ weight·score ÷ Σ |weight|, so that a score
/// of negative weight is minimised; their mean where no weights are given.
pub fn of_command(scores: &[(String, f64)], weights: &[(String, f64)], split: &str) -> (Score, Vec<TaskScore>) {
    let weight = |name: &str| match weights.is_empty() {
        true => 1.0,
        // Journals of earlier versions have scores without a weight, which were only shown.
        false => weights.iter().find(|(n, _)| n == name).map_or(0.0, |(_, w)| *w),
    };
    let one = |value| Score {
        value,
        stderr: 0.0,
        n: 1,
    };
    let total: f64 = scores.iter().map(|(name, _)| weight(name).abs()).sum();
    let sum: f64 = scores.iter().map(|(name, score)| weight(name) * score).sum();
    let tasks = scores.iter().map(|(name, score)| TaskScore {
        task: name.clone(),
        lang: String::new(),
        split: split.into(),
        score: one(*score),
        tokens: None,
    });
    (one(sum / total), tasks.collect())
}

/// Whether a command gave the scores that it is known for, by name.
///
/// # Errors
/// A score that is none of them, with the nearest that is; or one that is missing.
pub fn names_fit(scores: &[(String, f64)], names: &[String]) -> Result<(), String> {
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some((name, _)) = scores.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return Err(format!(
            "the command's score '{name}' is not known here{}; its scores are {}",
            did_you_mean(name, &known),
            known.join(", ")
        ));
    }
    match known.iter().find(|known| scores.iter().all(|(name, _)| name != *known)) {
        Some(missing) => Err(format!("the command gave no score '{missing}'")),
        None => Ok(()),
    }
}

impl ExamTask {
    /// What its score is called in events.
    pub fn metric(&self) -> &'static str {
        if self.is_likelihood {
            "log_likelihood"
        } else {
            "exact_match"
        }
    }

    /// Accuracy: mean ± sample standard deviation/√n. Log-likelihood: all tokens' mean, with the error of that ratio.
    pub(super) fn score(&self, answers: &[Answer]) -> Score {
        let (value, stderr) = if self.is_likelihood {
            let pairs: Vec<(f64, f64)> = answers.iter().map(|a| (a.score * self.size(a), self.size(a))).collect();
            stats::ratio(&pairs)
        } else {
            let values: Vec<f64> = answers.iter().map(|a| a.score).collect();
            (stats::mean(&values), stats::standard_error(&values))
        };
        Score {
            value,
            stderr,
            n: answers.len(),
        }
    }

    /// How much a question counts within its task.
    pub(super) fn size(&self, answer: &Answer) -> f64 {
        if self.is_likelihood { answer.tokens as f64 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(score: f64, tokens: usize) -> Answer {
        Answer {
            q: String::new(),
            out: String::new(),
            got: String::new(),
            gold: String::new(),
            score,
            finish: String::new(),
            language_ok: true,
            tokens,
        }
    }

    fn task(weight: f64, is_likelihood: bool) -> ExamTask {
        ExamTask {
            index: 0,
            split: "search".into(),
            task: "t".into(),
            lang: "en".into(),
            weight,
            is_likelihood,
            catalogue: Arc::default(),
            items: Vec::new(),
        }
    }

    fn exam(tasks: Vec<ExamTask>) -> Exam {
        Exam {
            split: "search".into(),
            tasks,
        }
    }

    fn answers(scores: &[f64]) -> (String, Vec<Answer>) {
        (String::new(), scores.iter().map(|s| answer(*s, 1)).collect())
    }

    /// `{gain: 1, cost: -2}` was divided by −1: the search maximised the cost. `{gain: 1, cost: -1}` failed everybody.
    #[test]
    fn a_negative_weight_minimises() {
        let weights = |cost: f64| [("gain".to_string(), 1.0), ("cost".to_string(), cost)];
        let fitness = |gain: f64, cost: f64, weight: f64| {
            let scores = [("cost".to_string(), cost), ("gain".to_string(), gain)];
            of_command(&scores, &weights(weight), "search").0.value
        };
        assert_eq!(fitness(3.0, 1.0, -2.0), (3.0 - 2.0) / 3.0);
        assert_eq!(fitness(3.0, 1.0, -1.0), (3.0 - 1.0) / 2.0);
        assert!(fitness(3.0, 2.0, -2.0) < fitness(3.0, 1.0, -2.0));
        assert_eq!(
            of_command(&[("a".into(), 1.0), ("b".into(), 2.0)], &[], "search")
                .0
                .value,
            1.5
        );
    }

    /// A misspelt score counted as another one, by its place in the alphabet, and its candidate won.
    #[test]
    fn scores_go_by_name() {
        let names = ["down".to_string(), "up".to_string()];
        let fit = |scores: &[&str]| {
            let scores: Vec<(String, f64)> = scores.iter().map(|name| (name.to_string(), 0.0)).collect();
            names_fit(&scores, &names)
        };
        assert_eq!(fit(&["up", "down"]), Ok(()));
        assert!(
            fit(&["up", "dwon"])
                .unwrap_err()
                .contains("'dwon' is not known here; did you mean 'down'?")
        );
        assert!(
            fit(&["up", "down", "extra"])
                .unwrap_err()
                .contains("'extra' is not known here; its scores are down, up")
        );
        assert!(fit(&["up"]).unwrap_err().contains("no score 'down'"));
    }

    #[test]
    fn fitness_is_the_weighted_mean_of_the_tasks() {
        let exam = exam(vec![task(1.0, false), task(3.0, false)]);
        let (fitness, tasks) = exam.score(&[answers(&[1.0, 0.0]), answers(&[1.0, 1.0, 1.0, 0.0])]);
        assert_eq!(fitness.value, 0.25 * 0.5 + 0.75 * 0.75);
        assert_eq!(fitness.n, 6);
        let expected = ((0.25 * tasks[0].score.stderr).powi(2) + (0.75 * tasks[1].score.stderr).powi(2)).sqrt();
        assert_eq!(fitness.stderr, expected);
    }

    /// A Gaussian process takes errors for what they are: what it is told of each question has to give the standard error that
    /// everybody else is told.
    #[test]
    fn deviations_make_up_the_standard_error() {
        let mut tasks = vec![task(1.0, false), task(3.0, true)];
        let catalogue = Catalogue {
            ids: (0..10).map(|i| i.to_string()).collect(),
            lengths: Vec::new(),
        };
        for task in &mut tasks {
            (task.catalogue, task.items) = (Arc::new(catalogue.clone()), vec![1, 4, 7]);
        }
        let exam = exam(tasks);
        let likelihoods = [(-1.0, 10), (-3.0, 30), (-0.5, 5)].map(|(score, tokens)| answer(score, tokens));
        let answers = [answers(&[1.0, 0.0, 1.0]), (String::new(), likelihoods.into())];
        let deviations = exam.deviations(&answers);
        let places: Vec<u32> = deviations.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [1, 4, 7, 11, 14, 17]);
        let variance: f64 = deviations.iter().map(|(_, d)| d * d).sum();
        assert!((variance.sqrt() - exam.score(&answers).0.stderr).abs() < 1e-15);
        assert!(deviations.iter().map(|(_, d)| d).sum::<f64>().abs() < 1e-15);
    }

    #[test]
    fn log_likelihood_is_weighted_by_tokens() {
        let exam = exam(vec![task(1.0, true)]);
        let (fitness, _) = exam.score(&[(String::new(), vec![answer(-1.0, 10), answer(-3.0, 30)])]);
        assert_eq!(fitness.value, -100.0 / 40.0);
    }

    #[test]
    fn one_accuracy_task_is_compared_by_mcnemar() {
        let exam = exam(vec![task(1.0, false)]);
        let child = [answers(&[1.0, 1.0, 1.0, 1.0, 0.0])];
        let other = [answers(&[0.0, 0.0, 0.0, 1.0, 1.0])];
        let paired = exam.compare(&child, &other, 0);
        assert_eq!((paired.positive_flips, paired.negative_flips), (3, 1));
        assert!((paired.difference - 0.4).abs() < 1e-12);
        // Two-sided binomial(4, 1/2): P(≤ 1) + P(≥ 3) = 10/16.
        assert!((paired.p_value - 10.0 / 16.0).abs() < 1e-12);
        assert_eq!(paired.test, "mcnemar-exact");
    }

    #[test]
    fn answers_that_are_right_in_part_are_compared_by_sign_flips() {
        let exam = exam(vec![task(1.0, false)]);
        let paired = exam.compare(&[answers(&[0.4; 20])], &[answers(&[0.3; 20])], 0);
        assert_eq!(paired.test, "paired-sign-flip");
        assert!(paired.p_value < 0.001);
    }

    #[test]
    fn several_tasks_are_compared_by_sign_flips() {
        let exam = exam(vec![task(1.0, false), task(1.0, true)]);
        let child = [answers(&[1.0; 20]), answers(&[-1.0; 20])];
        let other = [answers(&[0.0; 20]), answers(&[-2.0; 20])];
        let paired = exam.compare(&child, &other, 0);
        assert!((paired.difference - 1.0).abs() < 1e-9);
        assert!(paired.p_value < 0.001);
        assert_eq!(paired.test, "paired-sign-flip");
    }
}
