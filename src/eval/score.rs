//! From answers to scores: one verdict a question, one line a task.

use std::collections::BTreeMap;

use super::{ACC_NORM, BLANK_PPL, Choice, Error, Extracted, Kind, Question, Task, stats};
use crate::model::Score;

/// What a model answered to one question, and the verdict.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// The question's id.
    pub question: String,
    /// As the model got it; may be emptied to save room.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt: String,
    pub output: String,
    pub gold: String,
    /// Tokens generated; for log-likelihoods, tokens scored (of the right choice).
    pub token_count: usize,
    /// `eos`, `length`, `stop`, `loop`; empty for log-likelihoods and stored outputs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finish: String,
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
        let filters: BTreeMap<_, _> = task.extract(&output, gold)?.into_iter().collect();
        let correct = filters.get(task.primary_filter()).is_some_and(|f| f.exact_match == 1.0);
        let language_ok = task.language_ok(&output);
        Ok(Answer {
            filters,
            correct,
            language_ok,
            score: f64::from(u8::from(correct && language_ok)),
            output,
            gold: gold.into(),
            ..Answer::default()
        })
    }

    /// The choice that each way of choosing takes, the first of equals. The log-likelihood is that of the right one.
    pub fn chosen(task: &Task, question: &Question, scores: &[Score]) -> Answer {
        let filters: BTreeMap<String, Extracted> = task
            .filter_names()
            .map(|name| {
                let value = |(choice, score): (&Choice, &Score)| match name {
                    ACC_NORM => score.log_likelihood / choice.text.chars().count() as f64,
                    // The lowest perplexity is the highest log-likelihood a token.
                    BLANK_PPL => score.log_likelihood / score.tokens.max(1) as f64,
                    _ => score.log_likelihood,
                };
                let values: Vec<f64> = question.choices.iter().zip(scores).map(value).collect();
                let best = (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best });
                let verdict = Extracted {
                    extracted: question.choices.get(best).map_or("", |c| &c.text).into(),
                    exact_match: f64::from(u8::from(best == question.right)),
                };
                (name.to_string(), verdict)
            })
            .collect();
        let verdict = filters.get(task.primary_filter());
        let correct = verdict.is_some_and(|v| v.exact_match == 1.0);
        let right = scores.get(question.right);
        Answer {
            output: verdict.map(|v| v.extracted.clone()).unwrap_or_default(),
            gold: question.gold.clone(),
            token_count: right.map_or(0, |s| s.tokens),
            correct,
            language_ok: true,
            log_likelihood: right.map(|s| s.log_likelihood),
            score: f64::from(u8::from(correct)),
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
        let primary = Some(task.primary_filter()).filter(|_| task.kind().chooses());
        Answer {
            gold: question.gold.clone(),
            filters: primary.into_iter().map(verdict).collect(),
            correct: task.kind().chooses() && score == 1.0,
            language_ok: true,
            score,
            output,
            ..Answer::default()
        }
    }

    /// The log-likelihood of a continuation, of `tokens` tokens together.
    pub fn measured(gold: &str, log_likelihood: f64, tokens: usize) -> Answer {
        Answer {
            gold: gold.into(),
            token_count: tokens,
            language_ok: true,
            log_likelihood: Some(log_likelihood),
            score: log_likelihood / tokens.max(1) as f64,
            ..Answer::default()
        }
    }
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub stderr: f64,
}

/// One task's line of `eval --json`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TaskScore {
    pub task: String,
    pub lang: String,
    pub n: usize,
    /// By filter; with a language gate also `language` (the share of answers in the language) and `FILTER+language`
    /// (right *and* in the language). With choices by way of choosing. For log-likelihoods, and with choices for the
    /// right one, `log_likelihood` (a token, in nats) and `perplexity`.
    pub scores: BTreeMap<String, Estimate>,
    /// Which of the scores a search maximises.
    pub primary: String,
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
            scores: match task.kind() {
                Kind::Generate => accuracies(task, &answers),
                Kind::LogLikelihood => likelihoods(&answers).into(),
                Kind::MultipleChoice | Kind::Blank => {
                    let mut scores = accuracies(task, &answers);
                    scores.extend(likelihoods(&answers));
                    scores
                }
            },
            primary: task.primary(),
        }
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
    let by_filter = |name: &str| estimate(&|a| a.filters.get(name).map_or(0.0, |f| f.exact_match));
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
