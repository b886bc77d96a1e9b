//! Every message between this program and an engine; `docs/engines.md` is the page for whoever writes one.
//!
//! One JSON object a line. What comes back is bounded and checked here, once: afterwards an answer has as many tokens as it
//! may have, all of the vocabulary, and a likelihood is one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Finish, Request, Sampling, Score, ScoreRequest};

/// Another meaning of a field raises it.
pub const PROTOCOL: u64 = 1;

/// Longest name or version of an engine, in characters.
const MOST_NAME: usize = 200;

/// Largest vocabulary and longest context that are believed.
const MOST_TOKENS: u64 = 1 << 24;

/// Log-likelihoods are sums of rounded numbers: a certain token may have one just above 0.
const ROUNDING: f64 = 1e-3;

/// What an engine is asked; `id` counts from 1.
#[derive(Debug, Serialize)]
pub struct Ask<'a> {
    pub id: u64,
    #[serde(flatten)]
    pub what: Op<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op<'a> {
    /// Who is there?
    Hello {
        protocol: u64,
        heterosis: &'a str,
    },
    /// Make room for a model with this `config.json` in `dir`; its weights follow, all of them.
    Open {
        dir: &'a str,
        dtype: &'a str,
        ring: Ring<'a>,
        tensors: &'a [TensorOf],
    },
    /// The tokenizer of what follows is `tokenizer.json` in `dir`.
    Tokenizer {
        dir: &'a str,
    },
    /// These pieces lie in the ring. The answer means that they have been taken.
    Weights {
        pieces: &'a [Piece],
    },
    /// The weights are whole. Nothing that was computed with others may be used any more.
    Use,
    Generate {
        eos: &'a [u32],
        requests: Vec<Prompt<'a>>,
    },
    Score {
        requests: Vec<Text<'a>>,
    },
}

/// The file that weights lie in on their way.
#[derive(Debug, Serialize)]
pub struct Ring<'a> {
    pub file: &'a str,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorOf {
    pub name: String,
    pub shape: Vec<usize>,
}

/// A part of a tensor, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    pub tensor: String,
    /// Its first element among the tensor's, in row-major order.
    pub from: usize,
    pub count: usize,
    /// Where it lies in the ring, in bytes.
    pub at: u64,
}

#[derive(Debug, Serialize)]
pub struct Prompt<'a> {
    pub prompt: &'a [u32],
    pub max_tokens: usize,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub stop: &'a [String],
    /// The likeliest token where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Drawing>,
}

/// How tokens are drawn; every number is said.
#[derive(Debug, Serialize)]
pub struct Drawing {
    pub temperature: f32,
    /// 0: all.
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub seed: u64,
}

#[derive(Debug, Serialize)]
pub struct Text<'a> {
    pub tokens: &'a [u32],
    pub from: usize,
}

impl<'a> Prompt<'a> {
    pub fn of(request: &'a Request) -> Self {
        let drawing = |s: Sampling| Drawing {
            temperature: s.temperature,
            top_k: s.top_k,
            top_p: s.top_p,
            min_p: s.min_p,
            seed: s.seed,
        };
        Self {
            prompt: &request.prompt,
            max_tokens: request.max_new_tokens,
            stop: &request.stop,
            sampling: request.sampling.map(drawing),
        }
    }
}

impl<'a> Text<'a> {
    pub fn of(request: &'a ScoreRequest) -> Self {
        Self {
            tokens: &request.tokens,
            from: request.from,
        }
    }
}

/// A line of an engine's. Which of these fields it has follows from what it was asked; others are left.
#[derive(Debug, Default, Deserialize)]
pub struct Reply {
    pub id: u64,
    pub error: Option<String>,
    /// Nothing else will be said to this request.
    #[serde(default)]
    pub done: bool,
    #[serde(default)]
    pub answers: Vec<Value>,
    // Of `hello`.
    pub protocol: Option<u64>,
    pub name: Option<String>,
    pub version: Option<String>,
    pub device: Option<String>,
    #[serde(default)]
    pub dtypes: Vec<String>,
    #[serde(default)]
    pub can: Vec<String>,
    // Of `open`.
    pub context: Option<u64>,
    pub vocab: Option<u64>,
}

/// A name of an engine, short and without what moves a cursor.
///
/// # Errors
/// Why it is none.
pub fn name(field: &str, said: Option<String>) -> Result<String, String> {
    match said {
        Some(name)
            if name.trim().is_empty() || name.chars().count() > MOST_NAME || name.chars().any(char::is_control) =>
        {
            Err(format!("its {field} is no line of 1 to {MOST_NAME} characters"))
        }
        Some(name) => Ok(name),
        None => Err(format!("it does not say its {field}")),
    }
}

/// A number of tokens.
///
/// # Errors
/// It is missing, or beyond belief.
pub fn size(field: &str, said: Option<u64>) -> Result<usize, String> {
    match said {
        Some(n @ 1..=MOST_TOKENS) => Ok(n as usize),
        Some(n) => Err(format!("its {field} is {n}; it is a number from 1 to {MOST_TOKENS}")),
        None => Err(format!("it does not say its {field}")),
    }
}

/// Tokens that an engine continued a prompt by, and why it says that it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Continued {
    pub tokens: Vec<u32>,
    pub finish: Finish,
}

#[derive(Deserialize)]
struct Continuation {
    i: usize,
    tokens: Vec<u32>,
    finish: String,
}

/// The number of the request that was continued, and how.
///
/// # Errors
/// What is wrong with the answer.
pub fn continued(answer: Value, requests: &[Request], eos: &[u32], vocab: usize) -> Result<(usize, Continued), String> {
    let Continuation { i, tokens, finish } = read("continues a prompt", answer)?;
    let request = requests.get(i).ok_or_else(|| nobody(i, requests.len()))?;
    let most = request.max_new_tokens;
    if tokens.len() > most || (tokens.is_empty() && most > 0) {
        let n = tokens.len();
        return Err(format!(
            "it continued prompt {i} by {n} tokens, and was asked for 1 to {most}"
        ));
    }
    if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab) {
        return Err(format!(
            "it continued prompt {i} by token {token}, and the vocabulary has {vocab}"
        ));
    }
    let finish = match finish.as_str() {
        "eos" if tokens.last().is_some_and(|last| eos.contains(last)) => Finish::Eos,
        "length" if tokens.len() == most => Finish::Length,
        "stop" if !request.stop.is_empty() => Finish::Stop,
        said => {
            let said: String = said.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(format!(
                "it says that its answer to prompt {i} ended by '{said}', which does not fit the answer's {} tokens",
                tokens.len()
            ));
        }
    };
    Ok((i, Continued { tokens, finish }))
}

#[derive(Deserialize)]
struct Likelihood {
    i: usize,
    #[serde(default)]
    log_likelihood: Value,
    greedy: bool,
}

/// Beyond it sums of log-likelihoods overflow, and no text of any model comes near it.
const LEAST_LIKELIHOOD: f64 = -1e100;

/// The number of the text that was scored, and its score; `None` if that is not a number, or below −1e100.
///
/// # Errors
/// What is wrong with the answer.
pub fn scored(answer: Value, requests: &[ScoreRequest]) -> Result<(usize, Option<Score>), String> {
    let Likelihood {
        i,
        log_likelihood,
        greedy,
    } = read("scores a text", answer)?;
    let request = requests.get(i).ok_or_else(|| nobody(i, requests.len()))?;
    let tokens = request.tokens.len().saturating_sub(request.from);
    let is_odd = |word: &str| ["NaN", "Infinity", "-Infinity"].contains(&word);
    let log_likelihood = match &log_likelihood {
        Value::Null => return Ok((i, None)),
        Value::String(word) if is_odd(word) => return Ok((i, None)),
        value => value
            .as_f64()
            .ok_or_else(|| format!("its score of text {i} is no number"))?,
    };
    if log_likelihood < LEAST_LIKELIHOOD {
        return Ok((i, None));
    }
    if log_likelihood > ROUNDING * tokens.max(1) as f64 {
        return Err(format!("its log-likelihood of text {i} is {log_likelihood}, above 0"));
    }
    let score = Score {
        log_likelihood: log_likelihood.min(0.0),
        tokens,
        greedy,
    };
    Ok((i, Some(score)))
}

fn read<T: for<'de> Deserialize<'de>>(what: &str, answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|e| format!("what it said {what} in no form that is known: {e}"))
}

fn nobody(i: usize, n: usize) -> String {
    format!("it answered number {i}, and was asked {n} (from 0)")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_says_every_number() {
        let request = Request {
            stop: vec!["\n".to_string()].into(),
            sampling: Some(Sampling {
                temperature: 0.5,
                seed: 7,
                ..Sampling::default()
            }),
            ..Request::new(vec![1, 2], 3)
        };
        let ask = |what| serde_json::to_value(Ask { id: 9, what }).unwrap();
        let said = ask(Op::Generate {
            eos: &[0],
            requests: vec![Prompt::of(&request)],
        });
        let drawing = json!({"temperature": 0.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7});
        let prompt = json!({"prompt": [1, 2], "max_tokens": 3, "stop": ["\n"], "sampling": drawing});
        assert_eq!(
            said,
            json!({"id": 9, "op": "generate", "eos": [0], "requests": [prompt]})
        );
        assert_eq!(ask(Op::Use), json!({"id": 9, "op": "use"}));
        let greedy = Request::new(vec![1], 1);
        let prompt = serde_json::to_value(Prompt::of(&greedy)).unwrap();
        assert_eq!(prompt, json!({"prompt": [1], "max_tokens": 1}));
    }

    #[test]
    fn an_answer_is_one_that_can_be() {
        let stops = Request {
            stop: vec!["x".to_string()].into(),
            ..Request::new(vec![1], 3)
        };
        let requests = [Request::new(vec![1], 3), stops];
        let read = |i: usize, tokens: &[u32], finish: &str| {
            let answer = json!({"i": i, "tokens": tokens, "finish": finish});
            continued(answer, &requests, &[9], 10)
        };
        assert_eq!(read(0, &[1, 9], "eos").unwrap().1.finish, Finish::Eos);
        assert_eq!(read(0, &[1, 2, 3], "length").unwrap().1.finish, Finish::Length);
        assert_eq!(read(1, &[1], "stop").unwrap().0, 1);
        for (i, tokens, finish, reason) in [
            (2, &[1, 9][..], "eos", "answered number 2, and was asked 2"),
            (0, &[1, 2, 3, 4], "length", "by 4 tokens, and was asked for 1 to 3"),
            (0, &[], "length", "by 0 tokens"),
            (0, &[10, 9], "eos", "by token 10, and the vocabulary has 10"),
            (0, &[9, 1], "eos", "ended by 'eos'"),
            (0, &[1], "length", "ended by 'length'"),
            (0, &[1], "stop", "ended by 'stop'"),
            (0, &[1], "tired\n", "ended by 'tired'"),
        ] {
            let refused = read(i, tokens, finish).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(continued(json!({"i": 0, "tokens": [-1], "finish": "eos"}), &requests, &[9], 10).is_err());
    }

    #[test]
    fn a_score_is_one_that_can_be() {
        let requests = [ScoreRequest {
            tokens: vec![1, 2, 3],
            from: 1,
        }];
        let read = |score: Value| scored(json!({"i": 0, "log_likelihood": score, "greedy": true}), &requests);
        let score = read(json!(-1.5)).unwrap().1.unwrap();
        assert_eq!((score.log_likelihood, score.tokens, score.greedy), (-1.5, 2, true));
        assert_eq!(read(json!(1e-4)).unwrap().1.unwrap().log_likelihood, 0.0);
        for odd in [json!("NaN"), json!("-Infinity"), json!(-1e308), Value::Null] {
            assert_eq!(read(odd).unwrap(), (0, None));
        }
        assert!(read(json!(0.5)).unwrap_err().contains("above 0"));
        assert!(read(json!("much")).unwrap_err().contains("no number"));
        assert!(scored(json!({"i": 1, "log_likelihood": -1, "greedy": true}), &requests).is_err());
        assert!(scored(json!({"i": 0, "log_likelihood": -1}), &requests).is_err());
    }

    #[test]
    fn names_and_sizes_are_bounded() {
        assert_eq!(name("name", Some("vllm".into())).unwrap(), "vllm");
        for odd in [None, Some(" ".into()), Some("a\nb".into()), Some("x".repeat(201))] {
            assert!(name("name", odd).is_err());
        }
        assert_eq!(size("context", Some(4096)).unwrap(), 4096);
        for odd in [None, Some(0), Some(u64::MAX)] {
            assert!(size("context", odd).is_err());
        }
    }
}
