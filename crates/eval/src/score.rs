//! From answers to scores: one verdict a question, one line a task.

use std::collections::BTreeMap;

use super::{Error, Extracted, Metric, Question, Task, sampling, stats};
use heterosis_engine::Score;

/// What a model answered to one question, and the verdict.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The question's id.
    pub question: String,
    /// As the model got it; may be emptied to save room.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    /// Of several samples a JSON list of their outputs.
    pub output: String,
    /// What would have been right.
    pub gold: String,
    /// Tokens generated, by all samples together; for log-likelihoods, tokens scored (of the right choice).
    pub token_count: usize,
    /// `eos`, `length`, `stop`, `loop`; empty for log-likelihoods and stored outputs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finish: String,
    /// What each filter found, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filters: BTreeMap<String, Extracted>,
    /// The verdict of the task's primary filter.
    pub correct: bool,
    /// True where the task has no language gate.
    pub language_ok: bool,
    /// Of all tokens of the continuation, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_likelihood: Option<f64>,
    /// What a search maximises: 1 if right and in the right language, else 0; or the log-likelihood a token.
    pub score: f64,
}

impl Answer {
    /// What a filter found in the output; empty if it found nothing.
    pub fn found_by(&self, filter: &str) -> &str {
        self.filters.get(filter).map_or("", |found| &found.extracted)
    }

    /// The verdict on an output; the other fields are the caller's.
    ///
    /// # Errors
    /// A pattern that takes too long on this text.
    pub fn judged(task: &Task, output: String, gold: &str) -> Result<Answer, Error> {
        let outputs = sampling::restored(&output, task.samples().map_or(1, |samples| samples.n));
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mut filters: BTreeMap<_, _> = task.extract_from(&outputs, gold)?.into_iter().collect();
        filters.extend(task.scores_of_samples(&outputs, gold)?);
        let verdict = filters.get(task.primary_filter()).map_or(0.0, |f| f.exact_match);
        // Of several samples, most.
        let in_language = outputs.iter().filter(|output| task.language_ok(output)).count();
        let language_ok = 2 * in_language > outputs.len();
        Ok(Answer {
            filters,
            correct: verdict == 1.0,
            language_ok,
            score: if language_ok { verdict } else { 0.0 },
            output,
            gold: gold.into(),
            ..Answer::default()
        })
    }

    /// The choice that each way of choosing takes, the first of equals. The log-likelihood is that of the right one.
    /// `unasked` are the scores of the choices alone, where a way of choosing needs them.
    pub fn chosen(task: &Task, question: &Question, scores: &[Score], unasked: &[Score]) -> Answer {
        let verdicts = Chosen {
            question,
            scores,
            unasked,
        };
        let filters: BTreeMap<String, Extracted> = task
            .metrics()
            .iter()
            .map(|metric| (metric.name().to_string(), verdicts.by(*metric)))
            .collect();
        let verdict = filters.get(task.primary_filter());
        let score = verdict.map_or(0.0, |v| v.exact_match);
        let right = question.right.first().and_then(|right| scores.get(*right));
        Answer {
            output: verdict.map(|v| v.extracted.clone()).unwrap_or_default(),
            gold: question.gold.clone(),
            token_count: right.map_or(0, |s| s.tokens),
            correct: score == 1.0,
            language_ok: true,
            log_likelihood: right.map(|s| s.log_likelihood),
            score,
            filters,
            ..Answer::default()
        }
    }

    /// An answer whose score was worked out before, of a task that does not judge outputs.
    pub fn known(task: &Task, question: &Question, output: String, score: f64) -> Answer {
        let verdict = |name: &str| {
            let verdict = Extracted {
                extracted: output.clone(),
                exact_match: score,
            };
            (name.to_string(), verdict)
        };
        let primary = Some(task.primary_filter()).filter(|_| !task.is_likelihood());
        Answer {
            gold: question.gold.clone(),
            filters: primary.into_iter().map(verdict).collect(),
            correct: !task.is_likelihood() && score == 1.0,
            language_ok: true,
            score,
            output,
            ..Answer::default()
        }
    }

    /// The log-likelihood of a continuation, and whether it is what the model would have written.
    pub fn measured(task: &Task, gold: &str, score: Score) -> Answer {
        let is_greedy = f64::from(u8::from(score.greedy));
        let verdict = |name: &str| {
            let verdict = Extracted {
                extracted: String::new(),
                exact_match: is_greedy,
            };
            (name.to_string(), verdict)
        };
        Answer {
            gold: gold.into(),
            token_count: score.tokens,
            language_ok: true,
            log_likelihood: Some(score.log_likelihood),
            filters: task.filter_names().map(verdict).collect(),
            correct: !task.is_likelihood() && score.greedy,
            score: match task.is_likelihood() {
                true => score.log_likelihood / score.tokens.max(1) as f64,
                false => is_greedy,
            },
            ..Answer::default()
        }
    }
}

/// The likelihoods of a question's choices, as verdicts.
struct Chosen<'a> {
    question: &'a Question,
    scores: &'a [Score],
    unasked: &'a [Score],
}

impl Chosen<'_> {
    fn by(&self, metric: Metric) -> Extracted {
        let best = self.likeliest(metric);
        let is_right = self.question.right.contains(&best);
        let chosen = |exact_match: f64| Extracted {
            extracted: self.question.choices.get(best).map_or("", |c| &c.text).into(),
            exact_match,
        };
        match metric {
            Metric::Mc2 => chosen(self.share_of_the_right()),
            Metric::ExactMatch => {
                let greedy = |right: &usize| self.scores.get(*right).is_some_and(|s| s.greedy);
                chosen(f64::from(u8::from(self.question.right.iter().any(greedy))))
            }
            // These are of all questions together: the place chosen and the right one are what is counted.
            Metric::F1 | Metric::Mcc => Extracted {
                extracted: format!(
                    "{best} {}",
                    self.question.right.first().map_or(String::new(), usize::to_string)
                ),
                exact_match: f64::from(u8::from(is_right)),
            },
            _ => chosen(f64::from(u8::from(is_right))),
        }
    }

    /// The place of the choice that a metric takes.
    fn likeliest(&self, metric: Metric) -> usize {
        let value = |i: usize| {
            let score = &self.scores[i];
            let text = self.question.choices.get(i).map_or("", |c| &c.text);
            match metric {
                Metric::AccNorm => score.log_likelihood / text.chars().count() as f64,
                Metric::AccBytes => score.log_likelihood / text.len() as f64,
                Metric::AccMutualInfo => score.log_likelihood - self.unasked.get(i).map_or(0.0, |u| u.log_likelihood),
                // The lowest perplexity is the highest log-likelihood a token.
                Metric::BlankPpl => score.log_likelihood / score.tokens.max(1) as f64,
                _ => score.log_likelihood,
            }
        };
        (0..self.scores.len()).fold(0, |best, i| if value(i) > value(best) { i } else { best })
    }

    /// TruthfulQA's MC2: of the probabilities of all choices, how much the right ones have.
    fn share_of_the_right(&self) -> f64 {
        let probability = |score: &Score| score.log_likelihood.exp();
        let all: f64 = self.scores.iter().map(probability).sum();
        let right: f64 = self
            .question
            .right
            .iter()
            .filter_map(|i| self.scores.get(*i))
            .map(probability)
            .sum();
        right / all
    }
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Of the mean: sample standard deviation ÷ √n.
    pub stderr: f64,
}

/// One task's line of `eval --json`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TaskScore {
    /// As it was asked for.
    pub task: String,
    /// ISO 639-1.
    pub lang: String,
    /// Questions behind the scores.
    pub n: usize,
    /// By filter; with a language gate also `language` (the share of answers in the language) and `FILTER+language`
    /// (right *and* in the language). With choices by way of choosing. For log-likelihoods, and with choices for the
    /// right one, `log_likelihood` (a token, in nats) and `perplexity`.
    pub scores: BTreeMap<String, Estimate>,
    /// Which of the scores a search maximises.
    pub primary: String,
}

fn scores(task: &Task, answers: &[&Answer]) -> BTreeMap<String, Estimate> {
    let mut scores = accuracies(task, answers);
    if task.kind().is_measured() {
        scores.extend(likelihoods(answers));
    }
    if task.metrics().contains(&Metric::Perplexity) {
        scores.insert(Metric::Perplexity.name().into(), perplexity(answers));
    }
    scores
}

impl TaskScore {
    /// Sums up the answers to one task. Accuracy: mean and sample standard deviation over √n. Log-likelihood: the sum
    /// over all questions divided by the number of all their tokens, with the standard error of that ratio over the
    /// questions.
    pub fn of<'a>(task: &Task, answers: impl IntoIterator<Item = &'a Answer>) -> TaskScore {
        let answers: Vec<&Answer> = answers.into_iter().collect();
        TaskScore {
            task: task.name().into(),
            lang: task.lang().into(),
            n: answers.len(),
            scores: scores(task, &answers),
            primary: task.primary(),
        }
    }

    /// The mean of a group's tasks by their numbers of questions, with the pooled standard error, as lm-evaluation-harness has
    /// it; of the scores that all of them have. None of no tasks.
    pub fn pooled(group: &str, tasks: &[&TaskScore]) -> Option<TaskScore> {
        let first = tasks.first()?;
        let n: usize = tasks.iter().map(|task| task.n).sum();
        let pooled = |name: &String| {
            let parts: Option<Vec<(f64, Estimate)>> = tasks
                .iter()
                .map(|task| Some((task.n as f64, *task.scores.get(name)?)))
                .collect();
            let parts = parts?;
            let total: f64 = parts.iter().map(|(n, _)| n).sum();
            let value = parts.iter().map(|(n, part)| n * part.value).sum::<f64>() / total;
            let variance = parts
                .iter()
                .map(|(n, part)| (n - 1.0) * part.stderr.powi(2) * n)
                .sum::<f64>();
            let variance = variance / (total - parts.len() as f64);
            let stderr = (variance / total).sqrt();
            Some((name.clone(), Estimate { value, stderr }))
        };
        Some(TaskScore {
            task: group.into(),
            lang: first.lang.clone(),
            n,
            scores: first.scores.keys().filter_map(pooled).collect(),
            primary: first.primary.clone(),
        })
    }

    /// What a search maximises; NaN of no answers.
    pub fn fitness(&self) -> Estimate {
        let nothing = Estimate {
            value: f64::NAN,
            stderr: f64::NAN,
        };
        self.scores.get(&self.primary).copied().unwrap_or(nothing)
    }
}

fn accuracies(task: &Task, answers: &[&Answer]) -> BTreeMap<String, Estimate> {
    let estimate = |value: &dyn Fn(&Answer) -> f64| {
        let values: Vec<f64> = answers.iter().map(|a| value(a)).collect();
        Estimate {
            value: stats::mean(&values),
            stderr: stats::standard_error(&values),
        }
    };
    let by_filter = |name: &str| match name {
        "f1" => of_counts(answers, name, Counts::f1),
        "mcc" => of_counts(answers, name, Counts::correlation),
        // Each instruction counts, and not each question.
        name if name.starts_with("inst_level") => by_instruction(answers, name),
        name => estimate(&|a| a.filters.get(name).map_or(0.0, |f| f.exact_match)),
    };
    let mut scores: BTreeMap<_, _> = task
        .filter_names()
        .map(|name| (name.to_string(), by_filter(name)))
        .collect();
    if task.gate().is_some() {
        scores.insert("language".into(), estimate(&|a| f64::from(u8::from(a.language_ok))));
        scores.insert(task.primary(), estimate(&|a| a.score));
    }
    scores
}

/// Of all instructions of all questions, how many are followed; with the error of that ratio over the questions.
fn by_instruction(answers: &[&Answer], name: &str) -> Estimate {
    let verdicts = answers.iter().filter_map(|a| a.filters.get(name));
    let pair = |v: &Extracted| (v.exact_match * v.extracted.len() as f64, v.extracted.len() as f64);
    let (value, stderr) = stats::ratio(&verdicts.map(pair).collect::<Vec<_>>());
    Estimate { value, stderr }
}

/// How often which of two choices was taken where which was right: `[right][taken]`.
#[derive(Clone, Copy, Default)]
struct Counts([[f64; 2]; 2]);

impl Counts {
    /// Of the second choice (scikit-learn's `f1_score`); 0 where it is neither right nor taken.
    fn f1(&self) -> f64 {
        let [[_, false_positive], [false_negative, true_positive]] = self.0;
        let denominator = 2.0 * true_positive + false_positive + false_negative;
        if denominator == 0.0 {
            0.0
        } else {
            2.0 * true_positive / denominator
        }
    }

    /// Matthews' correlation; 0 where only one choice is taken or right.
    fn correlation(&self) -> f64 {
        let [[tn, fp], [fn_, tp]] = self.0;
        let denominator = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
        if denominator == 0.0 {
            0.0
        } else {
            (tp * tn - fp * fn_) / denominator
        }
    }
}

/// A score of counts, with its standard error by the jackknife.
fn of_counts(answers: &[&Answer], name: &str, score: fn(&Counts) -> f64) -> Estimate {
    let cells = answers.iter().filter_map(|answer| {
        let (taken, right) = answer.filters.get(name)?.extracted.split_once(' ')?;
        let place = |text: &str| text.parse::<usize>().ok().filter(|place| *place < 2);
        Some((place(right)?, place(taken)?))
    });
    let mut counts = Counts::default();
    cells.for_each(|(right, taken)| counts.0[right][taken] += 1.0);
    let n: f64 = counts.0.iter().flatten().sum();
    let value = score(&counts);
    let mut variance = 0.0;
    for (right, taken) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let many = counts.0[right][taken];
        if many > 0.0 {
            let mut without = counts;
            without.0[right][taken] -= 1.0;
            variance += many * (score(&without) - value).powi(2);
        }
    }
    Estimate {
        value,
        stderr: (variance * (n - 1.0) / n).sqrt(),
    }
}

/// lm-eval's: exp(−mean log-likelihood) of the continuations, whatever their lengths (its error by the first derivative).
fn perplexity(answers: &[&Answer]) -> Estimate {
    let values: Vec<f64> = answers.iter().map(|a| a.log_likelihood.unwrap_or(f64::NAN)).collect();
    let value = (-stats::mean(&values)).exp();
    Estimate {
        value,
        stderr: value * stats::standard_error(&values),
    }
}

/// The log-likelihood a token, and the perplexity that it means (its error by the first derivative).
fn likelihoods(answers: &[&Answer]) -> [(String, Estimate); 2] {
    let log_likelihood = log_likelihood(answers);
    let value = (-log_likelihood.value).exp();
    let perplexity = Estimate {
        value,
        stderr: value * log_likelihood.stderr,
    };
    [
        ("log_likelihood".into(), log_likelihood),
        ("perplexity".into(), perplexity),
    ]
}

fn log_likelihood(answers: &[&Answer]) -> Estimate {
    let pair = |a: &&Answer| (a.log_likelihood.unwrap_or(f64::NAN), a.token_count as f64);
    let (value, stderr) = stats::ratio(&answers.iter().map(pair).collect::<Vec<_>>());
    Estimate { value, stderr }
}
