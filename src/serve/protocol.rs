//! What clients write and read: OpenAI's completions and chat completions, as far as one model on one engine can mean them.
//!
//! A field that changes nothing here is passed over; one that would change the answer, and cannot be honoured, is refused by
//! name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::model::{Finish, Sampling};

/// Answers to one prompt, at most.
const MOST_ANSWERS: usize = 64;
/// Prompts of one request, at most.
const MOST_PROMPTS: usize = 1024;
/// Stop strings, at most, and bytes of each.
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 256;
/// The likeliest tokens that are told at each place, at most.
const MOST_LOGPROBS: usize = 20;

/// Why a request is not answered: the status of HTTP, and what stands in `error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub message: String,
    pub param: Option<String>,
}

impl Refusal {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
        }
    }

    pub fn of(param: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(400, message)
        }
    }

    pub fn body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            400 | 404 | 413 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": null}})
    }
}

/// What both kinds of request have in common.
#[derive(Debug, Deserialize)]
pub struct Common {
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub max_tokens: Option<i64>,
    #[serde(default)]
    pub max_completion_tokens: Option<i64>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    min_p: Option<f32>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    n: Option<usize>,
    #[serde(default)]
    stop: Option<OneOrMany>,
    #[serde(default)]
    pub stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
pub struct Completion {
    pub prompt: Prompts,
    #[serde(default)]
    pub echo: Option<bool>,
    #[serde(default)]
    logprobs: Option<usize>,
    #[serde(flatten)]
    pub common: Common,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

/// One prompt, in words or in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptText {
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Debug, Deserialize)]
pub struct Chat {
    pub messages: Vec<ChatMessage>,
    /// What the chat template is told besides.
    #[serde(default)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<usize>,
    #[serde(flatten)]
    pub common: Common,
}

#[derive(Debug, Deserialize)]
pub struct ChatMessage {
    pub role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    r#type: String,
    #[serde(default)]
    text: Option<String>,
}

/// Fields of OpenAI's clients, and of those of vLLM, SGLang, llama.cpp and TGI, that change an answer, with the values that
/// change nothing. Numbers are compared as numbers.
const UNABLE: &[(&[&str], &[&str])] = &[
    // How tokens are weighed.
    (
        &[
            "frequency_penalty",
            "presence_penalty",
            "no_repeat_ngram_size",
            "epsilon_cutoff",
            "eta_cutoff",
            "penalty_alpha",
            "mirostat",
            "dynatemp_range",
            "xtc_probability",
            "dry_multiplier",
            "top_n_sigma",
            "guidance_scale",
        ],
        &["0"],
    ),
    (
        &[
            "repetition_penalty",
            "repeat_penalty",
            "length_penalty",
            "typical_p",
            "tfs_z",
        ],
        &["1"],
    ),
    (&["logit_bias", "vllm_xargs"], &["{}"]),
    (
        &[
            "bad_words",
            "allowed_token_ids",
            "logits_processors",
            "samplers",
            "tools",
            "functions",
            "documents",
        ],
        &["[]"],
    ),
    (&["use_beam_search", "early_stopping", "watermark"], &["false"]),
    (&["num_beams"], &["1"]),
    // Where an answer ends.
    (&["stop_token_ids", "stop_regex"], &["[]"]),
    (
        &["ignore_eos", "include_stop_str_in_output", "no_stop_trim"],
        &["false"],
    ),
    (&["min_tokens", "min_new_tokens"], &["0"]),
    (&["max_new_tokens", "n_predict", "max_length"], &[]),
    // What the model reads.
    (&["suffix"], &["\"\""]),
    (
        &[
            "truncate_prompt_tokens",
            "truncate",
            "chat_template",
            "mm_processor_kwargs",
        ],
        &[],
    ),
    (&["continue_final_message"], &["false"]),
    (&["add_generation_prompt"], &["true"]),
    (&["reasoning_effort", "verbosity"], &[]),
    // What an answer must look like.
    (
        &[
            "structured_outputs",
            "structural_tag",
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "json_schema",
            "grammar",
            "regex",
            "ebnf",
            "audio",
            "web_search_options",
        ],
        &[],
    ),
    (&["response_format"], &["{\"type\": \"text\"}"]),
    (&["modalities"], &["[\"text\"]"]),
    (&["tool_choice", "function_call"], &["\"none\"", "\"auto\""]),
    (
        &["do_sample", "skip_special_tokens", "spaces_between_special_tokens"],
        &["true"],
    ),
    // What is told of it.
    (&["prompt_logprobs", "n_probs"], &["0"]),
];

/// Whether a field says what is so anyway.
fn is_one_of(value: &Value, nothing: &[&str]) -> bool {
    let same = |other: &Value| match (value.as_f64(), other.as_f64()) {
        (Some(one), Some(two)) => one == two,
        _ => value == other,
    };
    nothing
        .iter()
        .any(|text| serde_json::from_str(text).is_ok_and(|other| same(&other)))
}

impl Common {
    /// Refuses what cannot be honoured.
    pub fn able(&self) -> Result<(), Refusal> {
        for (field, nothing) in UNABLE
            .iter()
            .flat_map(|(fields, nothing)| fields.iter().map(move |f| (f, nothing)))
        {
            let value = self.rest.get(*field).filter(|value| !value.is_null());
            if let Some(value) = value.filter(|value| !is_one_of(value, nothing)) {
                return Err(Refusal::of(
                    field,
                    format!("{field}: {value} cannot be honoured here; leave it out"),
                ));
            }
        }
        let best_of = self.rest.get("best_of").and_then(Value::as_u64);
        match best_of.is_some_and(|best| best != self.n.unwrap_or(1) as u64) {
            true => Err(Refusal::of(
                "best_of",
                "only as many answers are made as are given: leave best_of out",
            )),
            false => Ok(()),
        }
    }

    /// Answers to each prompt.
    pub fn n(&self) -> Result<usize, Refusal> {
        match self.n.unwrap_or(1) {
            n @ 1..=MOST_ANSWERS => Ok(n),
            n => Err(Refusal::of("n", format!("n: {n} is not between 1 and {MOST_ANSWERS}"))),
        }
    }

    pub fn stop(&self) -> Result<Vec<String>, Refusal> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        };
        if stops.len() > MOST_STOPS || stops.iter().any(|stop| stop.len() > LONGEST_STOP) {
            let most = format!("stop: at most {MOST_STOPS} strings of {LONGEST_STOP} bytes");
            return Err(Refusal::of("stop", most));
        }
        Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
    }

    /// How tokens are drawn; `usual_seed` where the client names none.
    pub fn sampling(&self, usual_seed: u64) -> Result<Option<Sampling>, Refusal> {
        let usual = Sampling::default();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_p: self.top_p.unwrap_or(usual.top_p),
            // -1 says none, as vLLM has it.
            top_k: usize::try_from(self.top_k.unwrap_or(0)).unwrap_or(0),
            min_p: self.min_p.unwrap_or(usual.min_p),
            seed: self.seed.map_or(usual_seed, |seed| seed as u64),
        };
        sampling.checked().map_err(|message| {
            let field = message.split(' ').next().unwrap_or_default().replace('-', "_");
            Refusal::of(&field, message)
        })
    }

    /// Tokens of an answer, at most: as asked for, or `usual`, as far as the context has room behind the prompt.
    pub fn max_tokens(&self, usual: usize, prompt: usize, context: usize) -> Result<usize, Refusal> {
        let room = context.saturating_sub(prompt);
        let wanted = self.max_completion_tokens.or(self.max_tokens);
        let n = match wanted {
            None => return Ok(usual.min(room)),
            Some(n) => {
                usize::try_from(n).map_err(|_| Refusal::of("max_tokens", format!("max_tokens: {n} is below 0")))?
            }
        };
        match n <= room {
            true => Ok(n),
            false => Err(Refusal::of(
                "max_tokens",
                format!(
                    "this model reads {context} tokens: {prompt} of the prompt leave {room}, and {n} are asked for"
                ),
            )),
        }
    }

    pub fn includes_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }
}

impl Prompts {
    pub fn each(self) -> Result<Vec<PromptText>, Refusal> {
        let prompts: Vec<PromptText> = match self {
            Prompts::Text(text) => vec![PromptText::Text(text)],
            Prompts::Texts(texts) => texts.into_iter().map(PromptText::Text).collect(),
            Prompts::Tokens(tokens) => vec![PromptText::Tokens(tokens)],
            Prompts::ManyTokens(many) => many.into_iter().map(PromptText::Tokens).collect(),
        };
        match prompts.len() {
            1..=MOST_PROMPTS => Ok(prompts),
            n => Err(Refusal::of(
                "prompt",
                format!("prompt: {n} prompts are not between 1 and {MOST_PROMPTS}"),
            )),
        }
    }
}

impl Completion {
    /// The likeliest tokens that are told at each place; none where nothing is.
    pub fn logprobs(&self) -> Result<Option<usize>, Refusal> {
        self.logprobs.map(top).transpose()
    }
}

impl Chat {
    pub fn logprobs(&self) -> Result<Option<usize>, Refusal> {
        match self.logprobs {
            Some(true) => top(self.top_logprobs.unwrap_or(0)).map(Some),
            _ if self.top_logprobs.is_some_and(|n| n > 0) => {
                Err(Refusal::of("top_logprobs", "top_logprobs needs logprobs: true"))
            }
            _ => Ok(None),
        }
    }
}

fn top(n: usize) -> Result<usize, Refusal> {
    match n <= MOST_LOGPROBS {
        true => Ok(n),
        false => Err(Refusal::of(
            "logprobs",
            format!("logprobs: {n} is more than {MOST_LOGPROBS}"),
        )),
    }
}

impl ChatMessage {
    pub fn text(&self) -> Result<String, Refusal> {
        let parts = match &self.content {
            None => return Ok(String::new()),
            Some(Content::Text(text)) => return Ok(text.clone()),
            Some(Content::Parts(parts)) => parts,
        };
        let text = |part: &Part| match (&*part.r#type, &part.text) {
            ("text", Some(text)) => Ok(text.clone()),
            (kind, _) => Err(Refusal::of(
                "messages",
                format!("a message's part of type {kind} cannot be read; only text"),
            )),
        };
        parts.iter().map(text).collect()
    }
}

pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Eos | Finish::Stop | Finish::Loop => "stop",
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
}

impl Usage {
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(fields: Value) -> Common {
        serde_json::from_value(fields).unwrap()
    }

    /// A penalty, a tool or a schema that is passed over gives an answer that was not asked for.
    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (field, value) in [
            ("frequency_penalty", json!(0.5)),
            ("logit_bias", json!({"5": -100})),
            ("tools", json!([{"type": "function"}])),
            ("response_format", json!({"type": "json_object"})),
            ("best_of", json!(4)),
            ("suffix", json!("end")),
            // These were passed over, and answered as if nobody had asked for them.
            ("structured_outputs", json!({"json": {}})),
            ("guided_choice", json!(["a", "b"])),
            ("stop_token_ids", json!([46])),
            ("ignore_eos", json!(true)),
            ("min_tokens", json!(5)),
            ("typical_p", json!(0.5)),
            ("use_beam_search", json!(true)),
            ("truncate_prompt_tokens", json!(3)),
            ("skip_special_tokens", json!(false)),
            ("tool_choice", json!("required")),
        ] {
            let refusal = common(json!({field: value})).able().unwrap_err();
            assert_eq!((refusal.status, refusal.param.as_deref()), (400, Some(field)));
        }
        let nothing = json!({"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": null, "tools": [],
            "response_format": {"type": "text"}, "min_tokens": 0.0, "ignore_eos": false, "typical_p": 1, "tool_choice": "auto",
            "skip_special_tokens": true, "user": "me", "best_of": 1, "anything": {"else": 1}});
        assert_eq!(common(nothing).able(), Ok(()));
    }

    #[test]
    fn bounds_are_told() {
        let context = |n: i64| common(json!({"max_tokens": n})).max_tokens(16, 90, 100);
        assert_eq!(
            (context(10), common(json!({})).max_tokens(16, 90, 100)),
            (Ok(10), Ok(10))
        );
        assert!(
            context(11)
                .unwrap_err()
                .message
                .contains("90 of the prompt leave 10, and 11 are asked for")
        );
        assert!(context(-1).is_err());
        assert_eq!(
            common(json!({"max_completion_tokens": 3, "max_tokens": 7})).max_tokens(16, 0, 100),
            Ok(3)
        );
        assert!(common(json!({"n": 0})).n().is_err() && common(json!({"n": 65})).n().is_err());
        assert!(common(json!({"stop": vec!["a"; 17]})).stop().is_err());
        assert_eq!(common(json!({"stop": "a"})).stop(), Ok(vec!["a".to_string()]));
        assert_eq!(common(json!({"temperature": 0})).sampling(1), Ok(None));
        assert_eq!(common(json!({"seed": -1})).sampling(1).unwrap().unwrap().seed, u64::MAX);
        let wrong = common(json!({"top_p": 1.5})).sampling(1).unwrap_err();
        assert_eq!(wrong.param.as_deref(), Some("top_p"));
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let each = |prompt: Value| serde_json::from_value::<Prompts>(prompt).unwrap().each().unwrap();
        let text = |text: &str| PromptText::Text(text.into());
        assert_eq!(each(json!("a")), [text("a")]);
        assert_eq!(each(json!(["a", "b"])), [text("a"), text("b")]);
        assert_eq!(each(json!([1, 2])), [PromptText::Tokens(vec![1, 2])]);
        assert_eq!(
            each(json!([[1], [2]])),
            [PromptText::Tokens(vec![1]), PromptText::Tokens(vec![2])]
        );
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
        let message: ChatMessage = serde_json::from_value(image).unwrap();
        assert!(message.text().unwrap_err().message.contains("image_url"));
    }
}
