//! From requests to orders, and from what the desk says to answers: whole, or as a stream of events.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Json, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

use super::{
    LONGEST_BODY, Server,
    desk::{Logprobs, Order, Said, Word},
    protocol::{Chat, Common, Completion, PromptText, Refusal, Usage, finish_reason},
};
use crate::model::{Error, Message, Request, Sampling, TokenScore};

/// Tokens of a completion where the client says nothing, as OpenAI has it.
const USUAL_TOKENS: usize = 16;

type Shared = Arc<Server>;

/// A request that was understood.
struct Asked {
    requests: Vec<Request>,
    /// Answers to each prompt.
    n: usize,
    logprobs: Option<Logprobs>,
    /// The prompts' texts go before the answers.
    echo: bool,
    is_chat: bool,
    stream: bool,
    includes_usage: bool,
    id: String,
}

pub fn routes(server: Shared) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/v1/models", get(models))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .fallback(|| async {
            refused(&Refusal::new(
                404,
                "there is /v1/models, /v1/completions and /v1/chat/completions",
            ))
        })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(server)
}

async fn models(State(server): State<Shared>, headers: HeaderMap) -> Response {
    if let Err(refusal) = server.admit(&headers) {
        return refused(&refusal);
    }
    let model = json!({"id": server.settings.name, "object": "model", "created": server.settings.created,
        "owned_by": "heterosis", "max_model_len": server.context});
    Json(json!({"object": "list", "data": [model]})).into_response()
}

async fn completions(
    State(server): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let asked = server.read(&headers, body).and_then(|body| server.completion(body));
    answer(server, asked).await
}

async fn chat_completions(
    State(server): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let asked = server.read(&headers, body).and_then(|body| server.chat(&body));
    answer(server, asked).await
}

async fn answer(server: Shared, asked: Result<Asked, Refusal>) -> Response {
    match asked {
        Ok(asked) if asked.stream => stream(server, asked),
        Ok(asked) => whole(server, asked).await,
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(refusal.body())).into_response()
}

/// Of the model, not of the client, unless its prompt does not fit.
fn failed(e: &Error) -> Refusal {
    let status = match e {
        Error::KvMemory { .. } | Error::TokenOutOfRange { .. } | Error::EmptyPrompt { .. } => 400,
        _ => 500,
    };
    Refusal::new(status, e.to_string())
}

impl Server {
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(key) = &self.settings.key else { return Ok(()) };
        let brought = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let brought = brought
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        // Digests take the same time to compare wherever keys differ.
        match blake3::hash(brought.as_bytes()) == blake3::hash(key.as_bytes()) {
            true => Ok(()),
            false => Err(Refusal::new(
                401,
                "this key is not the server's: send it as Authorization: Bearer KEY",
            )),
        }
    }

    fn read<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<T, Refusal> {
        self.admit(headers)?;
        let body = body.map_err(|_| Refusal::new(413, format!("a request has at most {LONGEST_BODY} bytes")))?;
        serde_json::from_slice(&body).map_err(|e| Refusal::new(400, format!("the request cannot be read: {e}")))
    }

    fn completion(&self, body: Completion) -> Result<Asked, Refusal> {
        let logprobs = body.logprobs()?;
        let echo = body.echo.unwrap_or(false);
        if echo && body.common.stream == Some(true) {
            return Err(Refusal::of("echo", "a stream has no echo"));
        }
        let prompts = body.prompt.each()?;
        let tokens = prompts
            .into_iter()
            .map(|prompt| self.tokens(prompt))
            .collect::<Result<Vec<_>, _>>()?;
        let logprobs = logprobs.map(|top| Logprobs { top, of_prompt: echo });
        self.asked(&body.common, &tokens, USUAL_TOKENS, logprobs)
            .map(|asked| Asked { echo, ..asked })
    }

    fn chat(&self, body: &Chat) -> Result<Asked, Refusal> {
        if !self.tokenizer.has_chat_template() {
            return Err(Refusal::of(
                "messages",
                "this model has no chat template; use /v1/completions",
            ));
        }
        if body.messages.is_empty() {
            return Err(Refusal::of("messages", "there are no messages"));
        }
        let message = |m: &super::protocol::ChatMessage| Ok(Message::new(m.role.clone(), m.text()?));
        let messages = body.messages.iter().map(message).collect::<Result<Vec<_>, Refusal>>()?;
        let told = body.chat_template_kwargs.as_ref();
        let text = self
            .tokenizer
            .apply_chat_template_with(&messages, true, told.unwrap_or(&serde_json::Map::new()));
        let text = text.map_err(|e| Refusal::of("messages", e.to_string()))?;
        let tokens = self.tokens(PromptText::Text(text))?;
        let logprobs = body.logprobs()?.map(|top| Logprobs { top, of_prompt: false });
        let asked = self.asked(&body.common, &[tokens], usize::MAX, logprobs)?;
        Ok(Asked { is_chat: true, ..asked })
    }

    fn tokens(&self, prompt: PromptText) -> Result<Vec<u32>, Refusal> {
        let tokens = match prompt {
            PromptText::Tokens(tokens) => tokens,
            PromptText::Text(text) => {
                let tokens = self.tokenizer.encode_prompt(&text);
                tokens.map_err(|e| Refusal::of("prompt", e.to_string()))?
            }
        };
        match tokens.len() {
            0 => Err(Refusal::of("prompt", "the prompt has no tokens")),
            n if n > self.context => Err(Refusal::of(
                "prompt",
                format!("the prompt has {n} tokens, and this model reads {}", self.context),
            )),
            _ => Ok(tokens),
        }
    }

    fn asked(
        &self,
        common: &Common,
        prompts: &[Vec<u32>],
        usual_tokens: usize,
        logprobs: Option<Logprobs>,
    ) -> Result<Asked, Refusal> {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        common.able()?;
        if let Some(model) = common.model.as_ref().filter(|model| **model != self.settings.name) {
            let name = &self.settings.name;
            return Err(Refusal::new(
                404,
                format!("the model '{model}' does not exist; this is '{name}'"),
            ));
        }
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let (n, stop) = (common.n()?, Arc::<[String]>::from(common.stop()?));
        let sampling = common.sampling(number.wrapping_mul(1 << 20))?;
        let mut requests = Vec::new();
        for (i, prompt) in prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt, n))
            .enumerate()
        {
            requests.push(Request {
                stop: stop.clone(),
                // Each answer draws for itself.
                sampling: sampling.map(|sampling| Sampling {
                    seed: sampling.seed.wrapping_add(i as u64),
                    ..sampling
                }),
                ..Request::new(
                    prompt.clone(),
                    common.max_tokens(usual_tokens, prompt.len(), self.context)?,
                )
            });
        }
        Ok(Asked {
            requests,
            n,
            logprobs,
            echo: false,
            is_chat: false,
            stream: common.stream.unwrap_or(false),
            includes_usage: common.includes_usage(),
            id: format!("{:x}-{number}", self.settings.created),
        })
    }

    fn order(&self, asked: &Asked) -> Result<UnboundedReceiver<Word>, Refusal> {
        let order = Order {
            requests: asked.requests.clone(),
            logprobs: asked.logprobs,
        };
        let busy = |_| Refusal::new(503, "too many requests wait; try again in a moment");
        self.desk.take(order).map_err(busy)
    }

    fn head(&self, asked: &Asked, is_chunk: bool) -> Value {
        let (kind, object) = match (asked.is_chat, is_chunk) {
            (true, true) => ("chatcmpl", "chat.completion.chunk"),
            (true, false) => ("chatcmpl", "chat.completion"),
            (false, _) => ("cmpl", "text_completion"),
        };
        json!({"id": format!("{kind}-{}", asked.id), "object": object, "created": self.settings.created,
            "model": self.settings.name})
    }

    /// How likely the tokens of one answer were, as the older interface says it.
    fn completion_logprobs(&self, request: &Request, said: &Said, asked: &Asked) -> Value {
        let Some(wanted) = asked.logprobs else {
            return Value::Null;
        };
        let mut tokens: Vec<u32> = Vec::new();
        if wanted.of_prompt {
            tokens.extend(&request.prompt);
        }
        tokens.extend(&said.generation.token_ids);
        let texts: Vec<String> = tokens.iter().map(|token| self.tokenizer.decode(&[*token])).collect();
        let mut at = 0;
        let offsets: Vec<usize> = texts
            .iter()
            .map(|text| {
                let begins = at;
                at += text.chars().count();
                begins
            })
            .collect();
        // Nothing stands before the first token of a prompt.
        let first = wanted.of_prompt.then_some(Value::Null);
        let each = |of: &dyn Fn(&TokenScore) -> Value| -> Vec<Value> {
            first.iter().cloned().chain(said.scores.iter().map(of)).collect()
        };
        let top = |score: &TokenScore| -> Value {
            let likeliest = score.top.iter().take(wanted.top.max(1));
            let mut named: BTreeMap<String, f64> = likeliest.map(|(t, p)| (self.tokenizer.decode(&[*t]), *p)).collect();
            named.insert(self.tokenizer.decode(&[score.token]), score.log_probability);
            json!(named)
        };
        json!({"tokens": texts, "text_offset": offsets, "token_logprobs": each(&|score| json!(score.log_probability)),
            "top_logprobs": each(&top)})
    }

    /// The same as chats have it.
    fn chat_logprobs(&self, said: &Said, asked: &Asked) -> Value {
        let Some(wanted) = asked.logprobs else {
            return Value::Null;
        };
        let entry = |token: u32, log_probability: f64| {
            let text = self.tokenizer.decode(&[token]);
            json!({"token": text, "logprob": log_probability, "bytes": text.as_bytes()})
        };
        let content = said.scores.iter().map(|score| {
            let mut own = entry(score.token, score.log_probability);
            let top: Vec<Value> = score.top.iter().take(wanted.top).map(|(t, p)| entry(*t, *p)).collect();
            own["top_logprobs"] = json!(top);
            own
        });
        json!({"content": content.collect::<Vec<_>>()})
    }

    fn choice(&self, i: usize, request: &Request, said: &Said, asked: &Asked) -> Value {
        let reason = finish_reason(said.generation.finish);
        let text = &said.generation.text;
        if asked.is_chat {
            return json!({"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": reason,
                "logprobs": self.chat_logprobs(said, asked)});
        }
        let before = if asked.echo {
            self.tokenizer.decode(&request.prompt)
        } else {
            String::new()
        };
        json!({"index": i, "text": before + text, "finish_reason": reason,
            "logprobs": self.completion_logprobs(request, said, asked)})
    }
}

/// Tokens read and written; a prompt counts once however many answers it gets.
fn usage(asked: &Asked, said: &[Said]) -> Usage {
    let prompts = asked
        .requests
        .iter()
        .step_by(asked.n)
        .map(|request| request.prompt.len());
    Usage::new(
        prompts.sum(),
        said.iter().map(|said| said.generation.token_ids.len()).sum(),
    )
}

async fn whole(server: Shared, asked: Asked) -> Response {
    let mut words = match server.order(&asked) {
        Ok(words) => words,
        Err(refusal) => return refused(&refusal),
    };
    while let Some(word) = words.recv().await {
        match word {
            Word::Text { .. } => {}
            Word::Failed(e) => return refused(&failed(&e)),
            Word::Done(said) => {
                let of_each = asked.requests.iter().zip(&said).enumerate();
                let choices: Vec<Value> = of_each
                    .map(|(i, (request, said))| server.choice(i, request, said, &asked))
                    .collect();
                let mut body = server.head(&asked, false);
                body["choices"] = json!(choices);
                body["usage"] = json!(usage(&asked, &said));
                return Json(body).into_response();
            }
        }
    }
    refused(&Refusal::new(500, "the engine has stopped"))
}

fn stream(server: Shared, asked: Asked) -> Response {
    let words = match server.order(&asked) {
        Ok(words) => words,
        Err(refusal) => return refused(&refusal),
    };
    let (lines_to, lines) = unbounded_channel();
    tokio::spawn(pass_on(server, asked, words, lines_to));
    let events =
        UnboundedReceiverStream::new(lines).map(|line: String| Ok::<_, Infallible>(Event::default().data(line)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// Until all is said, or the client has gone: then nobody listens to the desk either, and it ends that part of its batch.
async fn pass_on(server: Shared, asked: Asked, mut words: UnboundedReceiver<Word>, lines: UnboundedSender<String>) {
    if asked.is_chat {
        for i in 0..asked.requests.len() {
            let role = delta(i, json!({"role": "assistant", "content": ""}));
            let _ = lines.send(chunk(&server, &asked, role).to_string());
        }
    }
    loop {
        let word = tokio::select! {
            word = words.recv() => word,
            () = lines.closed() => return,
        };
        let Some(word) = word else { break };
        for line in events(&server, &asked, word) {
            let _ = lines.send(line);
        }
    }
    let _ = lines.send("[DONE]".into());
}

/// What a word means to a client that is streamed to.
fn events(server: &Server, asked: &Asked, word: Word) -> Vec<String> {
    let values = match word {
        Word::Text { request, text } => vec![chunk(server, asked, more(asked, request, &text))],
        Word::Failed(e) => vec![failed(&e).body()],
        Word::Done(said) => {
            let last = |(i, said): (usize, &Said)| chunk(server, asked, end(server, asked, i, said));
            let mut chunks: Vec<Value> = said.iter().enumerate().map(last).collect();
            if asked.includes_usage {
                let mut told = server.head(asked, true);
                told["choices"] = json!([]);
                told["usage"] = json!(usage(asked, &said));
                chunks.push(told);
            }
            chunks
        }
    };
    values.iter().map(Value::to_string).collect()
}

fn chunk(server: &Server, asked: &Asked, choice: Value) -> Value {
    let mut chunk = server.head(asked, true);
    chunk["choices"] = json!([choice]);
    chunk
}

fn delta(i: usize, delta: Value) -> Value {
    json!({"index": i, "delta": delta, "finish_reason": null})
}

fn more(asked: &Asked, i: usize, text: &str) -> Value {
    match asked.is_chat {
        true => delta(i, json!({"content": text})),
        false => json!({"index": i, "text": text, "finish_reason": null, "logprobs": null}),
    }
}

/// The last chunk of one answer; likelihoods are known when all of it is.
fn end(server: &Server, asked: &Asked, i: usize, said: &Said) -> Value {
    let reason = finish_reason(said.generation.finish);
    match asked.is_chat {
        true => {
            json!({"index": i, "delta": {}, "finish_reason": reason, "logprobs": server.chat_logprobs(said, asked)})
        }
        false => json!({"index": i, "text": "", "finish_reason": reason,
            "logprobs": server.completion_logprobs(&asked.requests[i], said, asked)}),
    }
}
