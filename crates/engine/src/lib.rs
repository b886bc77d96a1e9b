//! The decoder and the evaluation engine: a Hugging Face config and named tensors in, answers and log-likelihoods out.
//!
//! Reading order: `families` (a row for each), `spec` (config.json → what the forward pass needs to know), `tensors` (which
//! tensors that is, and how the file's stand otherwise), `rope` (rotary tables), `kv` (keys and
//! values in blocks), `decoder` (the forward pass, once, for all families and devices), `arithmetic` (what it needs of a
//! device), `cpu` with `kernels`, `attention`, `recurrence` (of the layers that `mixer` speaks of, which remember instead of
//! attending) and `mixture` (experts, to which `routing` sends tokens), `cuda` (the same on a GPU), `prefix` and `engine` (which token of which
//! request is computed when), `sampling` (which token it is), `tokenizer` and `chat` (text), `growth` (how much of it a hostile tokenizer could make);
//! `twin`, the same forward pass with derivatives.
//! Nothing here knows of merging, tasks or files other than a tokenizer's.

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
mod wrappers;

/// Digest of the sources that compute: answers of another build are other answers.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

pub use chat::{among_deep_stacks, on_a_deep_stack, template_value};
pub use decoder::Decoder;
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
pub use twin::{Loss, Text, Twin, pass_bytes};
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
pub enum Error {
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
    #[error("config.json: {field}: {problem}")]
    Config { field: String, problem: String },
    #[error("the model has no tensor named {tensor}; it is a {family} decoder with {layers} layers")]
    UnknownTensor {
        tensor: String,
        family: &'static str,
        layers: usize,
    },
    #[error(
        "the model has {count} tensors that a {family} decoder does not use, such as {tensor}; without them it would be \
         another model. Its config.json says another family than it is, or leaves out that it has them"
    )]
    UnusedTensors {
        tensor: String,
        count: usize,
        family: &'static str,
    },
    #[error("tensor {tensor} has {got} elements, but config.json asks for {expected} (shape {shape:?})")]
    TensorSize {
        tensor: String,
        shape: Vec<usize>,
        expected: usize,
        got: usize,
    },
    #[error("reading tensor {tensor}: {reason}")]
    Read { tensor: String, reason: String },
    #[error("a layer path names layer {layer}, but the model has {layers} layers")]
    Path { layer: usize, layers: usize },
    #[error("a layer path has layer {layer} before layer {source_layer}, whose keys and values it takes")]
    PathWithoutKeys { layer: usize, source_layer: usize },
    #[error("request {request} is empty: a prompt needs at least one token")]
    EmptyPrompt { request: usize },
    #[error(
        "request {request} holds token {token}, but the model's vocabulary has {vocab} tokens; tokenizer and model do not belong together"
    )]
    TokenOutOfRange { request: usize, token: u32, vocab: usize },
    #[error("score request {request} starts at token 0, which has nothing before it; scoring can start at token 1")]
    ScoreFromZero { request: usize },
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
    #[error(
        "request {request} asks for {tokens} positions, but the model has learned {positions}, and knows none beyond. Ask for \
         a shorter text, or fewer new tokens"
    )]
    Positions {
        request: usize,
        tokens: usize,
        positions: usize,
    },
    #[error("a text of {tokens} tokens has nothing to score: the first token of each window has nothing before it")]
    NothingToScore { tokens: usize },
    #[error("{file} cannot be read: {source}")]
    Unreadable { file: String, source: std::io::Error },
    #[error("tokenizer {file}: {reason}")]
    Tokenizer { file: String, reason: String },
    #[error("the chat template of {file} failed: {reason}")]
    ChatTemplate { file: String, reason: String },
    #[error("{file} holds no chat template (neither chat_template.jinja nor chat_template in tokenizer_config.json)")]
    NoChatTemplate { file: String },
    #[error("{what} is not supported on device {device}")]
    Device { what: String, device: String },
    #[error("computing on a GPU: {0}")]
    NoGpu(#[from] NoGpu),
    #[error("the GPU failed at {doing}: {reason}")]
    Gpu { doing: String, reason: String },
    #[error(
        "the GPU's memory is full ({doing}). Lower --kv-memory, use --dtype bf16, or end what else runs on the device"
    )]
    GpuMemory { doing: String },
    #[error("tensor arithmetic: {0}")]
    Candle(#[from] candle_core::Error),
}
