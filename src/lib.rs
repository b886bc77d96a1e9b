//! heterosis breeds merges of language models and proves which child outdoes its parents.
//!
//! # Bird's-eye view
//!
//! A *search space* (YAML) is decoded, point by point, into *recipes*; a recipe is merged in memory into the weights of
//! one resident *decoder*; the decoder answers questions; the answers are scored; the optimizer is told. Everything that
//! happens is an *event*, appended to a journal that is the truth of the run; dashboard, report and resume read only that.
//!
//! # The crates, which others can use alone
//!
//! | crate | here | one sentence |
//! |---|---|---|
//! | `heterosis-checkpoint` | [`checkpoint`] | Opens checkpoints lazily by tensor name and writes them; validates once, at the door. |
//! | `heterosis-merge` | [`merge`], [`recipe`] | The description of a merge, mergekit YAML in and out; pure kernels, one method a file, their derivatives, their like on a GPU, and the plan that walks a recipe tensor by tensor. |
//! | `heterosis-engine` | [`model`] | The decoder: config → spec → forward, on the CPU or a GPU; KV cache; batched generation; the differentiable twin. |
//! | `heterosis-eval` | [`eval`] | Tasks: prompt, stop, extract, score; the identity of a question; the statistics over answers. |
//! | `heterosis-journal` | [`event`], [`store`] | What happened, in plain fields: the machine-readable contract, its one fold, and the words made of it; the journal, which is the truth of a run, and the cache of answers. |
//! | `heterosis-optim` | [`optim`] | One algorithm a file, ask/tell over numbers; knows nothing of models. |
//! | `heterosis-isa` | [`isa`] | Which instruction set a kernel runs with, chosen when the program runs; how numbers are stored, and rounded to that. |
//! | `heterosis-yaml` | [`yaml`] | YAML in which every value knows its file, its line and its path. |
//! | `heterosis-unwind` | in crates | A library's panic over a damaged file comes back as an error, without a word on the terminal. |
//! | `heterosis-build-digest` | `build.rs` | The digest of a crate's sources, by which answers of another build are told apart. |
//!
//! # The rooms of the application, in reading order
//!
//! | room | one sentence |
//! |---|---|
//! | [`space`] | A search space from YAML; decodes a genotype to a recipe and encodes known recipes back. |
//! | [`models`] | Opened models by name: what merges read; a merged model in memory or on disk. |
//! | [`programs`] | Programs of the user's: a process with its pipes; engines that decode instead of ours. |
//! | [`learn`] | Numbers of a recipe, learned by gradient from texts. |
//! | [`search`] | The loop: ask → decode → look up → merge → evaluate → tell → journal; learning, races, the final. |
//! | [`workers`] | Evaluators elsewhere: a search's questions, answered on other devices of this machine, or on other machines by way of a NATS server. |
//! | [`simplify`] | The simplest recipe that is as good as the winner. |
//! | [`dashboard`] | The terminal view, folded from events. |
//! | [`report`] | The model card and the morning report. |
//! | [`tracking`] | Figures of a run for TensorBoard and MLflow. |
//! | [`session`] | The front door: a space with its models and tasks, opened and checked; runs, exports, simpler recipes of it. |
//! | [`serve`] | An OpenAI-compatible endpoint on an engine. |
//! | [`host`] | The clock, the environment and the folders of this machine, passed to a session. |
//! | [`commands`], [`cli`] | What was typed, and what it means: arguments in, a session called, words out. |
//!
//! To search from a program of one's own, begin at [`session`]; `examples/embed.rs` is one.
//!
//! # Invariants
//!
//! * The optimizer never sees a tensor.
//! * A merge kernel never opens a file.
//! * The dashboard never sees the search or candle; it reads events only.
//! * Nobody below `commands` prints; nobody but `host` and `commands` reads the clock or the environment.
//! * Fitness is maximised everywhere; NaN never becomes a fitness.
//! * What is exported is bit for bit what was scored.
//! * A fault of the machine is never a verdict on a candidate.
//! * A worker runs no command and opens no path that came over a network.
//! * Only `event::freshness` says that questions were new to a search, from what was compared.

pub use heterosis_checkpoint as checkpoint;
pub use heterosis_engine as model;
pub use heterosis_eval as eval;
pub use heterosis_isa as isa;
pub use heterosis_journal::{event, store};
pub use heterosis_merge::{self as merge, recipe};
pub use heterosis_optim as optim;
pub use heterosis_yaml as yaml;

pub mod cli;
pub mod commands;
pub mod dashboard;
pub mod host;
pub mod learn;
pub mod models;
pub mod programs;
pub mod report;
pub mod search;
pub mod serve;
pub mod session;
pub mod simplify;
pub mod space;
pub mod tracking;
pub mod workers;
