//! The decoder and the evaluation engine: a Hugging Face config and named tensors in, answers and log-likelihoods out.
//!
//! Reading order: `families` (a row for each), `spec` (config.json → what the forward pass needs to know), `tensors` (which
//! tensors that is, and how the file's stand otherwise), `rope` (rotary tables), `kv` (keys and
//! values in blocks), `decoder` (the forward pass, once, for all families and devices), `arithmetic` (what it needs of a
//! device), `cpu` with `kernels`, `attention`, `recurrence` (of the layers that `mixer` speaks of, which remember instead of
//! attending) and `mixture` (experts, to which `routing` sends tokens), `cuda` (the same on a GPU), `prefix` and `engine` (which token of which
//! request is computed when), `sampling` (which token it is), `tokenizer` and `chat` (text), `growth` (how much of it a hostile tokenizer could make);
//! `twin`, the same forward pass with derivatives; `units`, what of a layer may change places.
//! Nothing here knows of merging, tasks or files other than a tokenizer's.
//!
//! ```
//! use std::{collections::HashMap, sync::Arc};
//!
//! use heterosis_engine::{
//!     DType, Decoder, DecoderSpec, Device, Engine, EngineOptions, Finish, Request, ScoreRequest, Tokenizer,
//!     tokenizer::TokenizerFiles,
//! };
//!
//! let config = serde_json::json!({
//!     "model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
//!     "num_attention_heads": 2, "tie_word_embeddings": true,
//! });
//! let spec = DecoderSpec::from_config(&config)?;
//! let sizes: HashMap<String, usize> =
//!     spec.tensor_names().into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
//! // Where the weights come from is the caller's business.
//! let mut read = |name: &str| Ok((0..sizes[name]).map(|i| ((i * 7) % 5) as f32 / 10.0 - 0.2).collect());
//! let decoder = Decoder::load(spec, Device::Cpu, DType::F32, &mut read)?;
//!
//! let words: serde_json::Map<_, _> = (0..8).map(|i| (format!("w{i}"), i.into())).collect();
//! let json = serde_json::json!({
//!     "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
//!     "post_processor": null, "decoder": null, "truncation": null, "padding": null,
//!     "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
//! });
//! let files = TokenizerFiles {
//!     name: "words".into(),
//!     tokenizer_json: json.to_string().into_bytes(),
//!     ..Default::default()
//! };
//! let tokenizer = Arc::new(Tokenizer::new(files)?);
//! let mut engine = Engine::new(decoder, tokenizer.clone(), EngineOptions::default());
//!
//! // Many prompts at once; what they share is computed once, and none changes another's answer.
//! let prompts = ["w1 w2 w3", "w1 w2 w4"];
//! let requests: Vec<Request> =
//!     prompts.iter().map(|p| Ok(Request::new(tokenizer.encode(p, true)?, 3))).collect::<Result<_, heterosis_engine::Error>>()?;
//! let answers = engine.generate(&requests, &mut |_| {})?;
//! assert!(answers.iter().all(|a| a.token_ids.len() == 3 && a.finish == Finish::Length));
//! let alone = engine.generate(&requests[1..], &mut |_| {})?;
//! assert_eq!(alone[0], answers[1]);
//!
//! // How likely the model holds what it wrote: it was the likeliest at each place.
//! let tokens = [requests[0].prompt.as_slice(), &answers[0].token_ids].concat();
//! let score = engine.score(&[ScoreRequest { tokens, from: requests[0].prompt.len() }])?[0];
//! assert!(score.greedy && score.tokens == 3 && score.log_likelihood < 0.0);
//! # Ok::<(), heterosis_engine::Error>(())
//! ```

#![deny(missing_docs)]

mod arithmetic;
mod attention;
mod chat;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod decoder;
pub mod device;
pub mod engine;
mod families;
mod growth;
mod heap;
mod influence;
pub mod kernels;
mod kv;
mod mixer;
mod mixture;
mod namespaces;
mod prefix;
mod recurrence;
mod rope;
mod routing;
pub mod sampling;
pub mod spec;
mod tensors;
#[cfg(test)]
mod tests;
pub mod tokenizer;
mod twin;
mod units;
mod wrappers;

/// Digest of the sources that compute: answers of another build are other answers.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

pub use chat::{among_deep_stacks, on_a_deep_stack, template_value};
pub use decoder::{Decoder, Program};
pub use device::{Device, NoGpu, keep_kernels_in};
pub use engine::{
    Engine, EngineOptions, Finish, Generation, Perplexity, Progress, Request, Score, ScoreRequest, TokenScore,
};
pub use heterosis_isa::DType;
pub use heterosis_isa::Isa;
pub use influence::block_influence;
pub use namespaces::refuse_nested_namespaces;
pub use sampling::Sampling;
pub use spec::{DecoderSpec, Family};
pub use tokenizer::{Message, Tokenizer};
pub use twin::{LinearInput, LinearMap, Loss, Reading, Shares, Text, Twin, pass_bytes};
pub use units::{Heads, UnitPlace, Units};
pub use wrappers::Wrapper;

/// The instruction set whose kernels compute on the CPU: `generic`, `avx2`, `avx512` or `neon`.
///
/// It decides the last bits of an answer: a set with fused operations rounds a product and a sum once. The sets that have
/// them agree bit for bit.
pub fn instruction_set() -> &'static str {
    Isa::best().name()
}

/// What can go wrong between a config and an answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// A `model_type` that is none of the families'.
    #[error(
        "config.json says model_type \"{model_type}\", which the decoder does not know{why}; it knows {known}. Models of any \
         architecture can be merged (`heterosis merge`); to score one, another program must run it (`fitness: engine:` or `fitness: command:`)"
    )]
    UnknownFamily {
        model_type: String,
        known: String,
        /// Why this one is not known, in brackets, where there is something to say.
        why: String,
    },
    /// A field of `config.json` that is missing, misshapen, or asks for what the decoder does not have.
    #[error("config.json: {field}: {problem}")]
    Config { field: String, problem: String },
    /// A tensor that the decoder needs and the model lacks.
    #[error("the model has no tensor named {tensor}; it is a {family} decoder with {layers} layers")]
    UnknownTensor {
        tensor: String,
        family: &'static str,
        layers: usize,
    },
    /// Tensors that the decoder would leave out.
    #[error(
        "the model has {count} tensors that a {family} decoder does not use, such as {tensor}; without them it would be \
         another model. Its config.json says another family than it is, or leaves out that it has them"
    )]
    UnusedTensors {
        tensor: String,
        count: usize,
        family: &'static str,
    },
    /// A tensor of another size than `config.json` asks for.
    #[error("tensor {tensor} has {got} elements, but config.json asks for {expected} (shape {shape:?})")]
    TensorSize {
        tensor: String,
        shape: Vec<usize>,
        expected: usize,
        got: usize,
    },
    /// Whoever was asked for a tensor could not give it.
    #[error("reading tensor {tensor}: {reason}")]
    Read { tensor: String, reason: String },
    /// A layer path with a layer that there is not.
    #[error("a layer path names layer {layer}, but the model has {layers} layers")]
    Path { layer: usize, layers: usize },
    /// A layer before the one whose keys and values it takes.
    #[error("a layer path has layer {layer} before layer {source_layer}, whose keys and values it takes")]
    PathWithoutKeys { layer: usize, source_layer: usize },
    /// Nothing to go on from.
    #[error("request {request} is empty: a prompt needs at least one token")]
    EmptyPrompt { request: usize },
    /// A token without an embedding.
    #[error(
        "request {request} holds token {token}, but the model's vocabulary has {vocab} tokens; tokenizer and model do not belong together"
    )]
    TokenOutOfRange { request: usize, token: u32, vocab: usize },
    /// There is nothing before the first token, so it has no likelihood.
    #[error("score request {request} starts at token 0, which has nothing before it; scoring can start at token 1")]
    ScoreFromZero { request: usize },
    /// Keys and values of one request alone are more than there is room for.
    #[error(
        "request {request} needs {tokens} tokens of keys and values = {needed_bytes} bytes, but the memory for them is limited to \
         {limit_bytes} bytes. Raise --kv-memory, or ask for fewer new tokens"
    )]
    KvMemory {
        request: usize,
        tokens: usize,
        needed_bytes: u64,
        limit_bytes: u64,
    },
    /// A sequence longer than a model with learned positions has them.
    #[error(
        "request {request} asks for {tokens} positions, but the model has learned {positions}, and knows none beyond. Ask for \
         a shorter text, or fewer new tokens"
    )]
    Positions {
        request: usize,
        tokens: usize,
        positions: usize,
    },
    /// A text too short to have a perplexity.
    #[error("a text of {tokens} tokens has nothing to score: the first token of each window has nothing before it")]
    NothingToScore { tokens: usize },
    /// A text whose tokens to learn are not as many as those that a teacher expects.
    #[error("text {request} has {learned} tokens to learn, and a teacher expects something in the place of {got}")]
    Expectations { request: usize, learned: usize, got: usize },
    /// A file of the tokenizer that cannot be read.
    #[error("{file} cannot be read: {source}")]
    Unreadable { file: String, source: std::io::Error },
    /// A tokenizer that cannot be built or used.
    #[error("tokenizer {file}: {reason}")]
    Tokenizer { file: String, reason: String },
    /// A chat template that cannot be parsed, or refuses the messages.
    #[error("the chat template of {file} failed: {reason}")]
    ChatTemplate { file: String, reason: String },
    /// A conversation for a model without a chat template.
    #[error("{model} holds no chat template (neither chat_template.jinja nor chat_template in tokenizer_config.json)")]
    NoChatTemplate { model: String },
    /// What the device has no kernels for.
    #[error("{what} is not supported on device {device}")]
    Device { what: String, device: String },
    /// There is no GPU to compute on.
    #[error("computing on a GPU: {0}")]
    NoGpu(#[from] NoGpu),
    /// The driver or a library of the GPU failed.
    #[error("the GPU failed at {doing}: {reason}")]
    Gpu { doing: String, reason: String },
    /// The GPU has no memory left.
    #[error(
        "the GPU's memory is full ({doing}). Lower --kv-memory, use --dtype bf16, or end what else runs on the device"
    )]
    GpuMemory { doing: String },
    /// The library under the differentiable twin failed.
    #[error("tensor arithmetic: {0}")]
    Candle(#[from] candle_core::Error),
}
