//! heterosis breeds merges of language models and proves which child outdoes its parents.
//!
//! # Bird's-eye view
//!
//! A *search space* (YAML) is decoded, point by point, into *recipes*; a recipe is merged in memory into the weights of
//! one resident *decoder*; the decoder answers questions; the answers are scored; the optimizer is told. Everything that
//! happens is an *event*, appended to a journal that is the truth of the run; dashboard, report and resume read only that.
//!
//! # The rooms, in reading order
//!
//! | room | one sentence |
//! |---|---|
//! | [`yaml`] | A YAML document in which every value knows its line, so that errors can point at it. |
//! | [`recipe`] | The explicit, serialisable, hashable description of one merge; mergekit YAML in and out. |
//! | [`checkpoint`] | Opens checkpoints lazily by tensor name and writes them; validates once, at the door. |
//! | [`merge`] | Pure kernels, one method a file, and the engine that walks a recipe tensor by tensor. |
//! | [`model`] | The decoder: config → spec → forward, on the CPU or a GPU; KV cache; batched generation. |
//! | [`eval`] | Tasks: prompt, stop, extract, score; the statistics over answers. |
//! | [`optim`] | One algorithm a file, ask/tell over numbers; knows nothing of models. |
//! | [`space`] | A search space from YAML; decodes a genotype to a recipe and encodes known recipes back. |
//! | [`event`] | What happened, in plain fields: the machine-readable contract. |
//! | [`store`] | The journal and the cache of fitness and answers. |
//! | [`learn`] | The numbers of a recipe moved along the gradient of texts that ought to be likely. |
//! | [`search`] | The loop: ask → decode → look up → merge → evaluate → tell → journal. |
//! | [`simplify`] | The simplest recipe that is as good as the winner. |
//! | [`dashboard`] | The terminal view, folded from events. |
//! | [`report`] | The model card and the morning report. |
//! | [`commands`], [`cli`] | What was typed, and what it means. |
//!
//! # Invariants
//!
//! * The optimizer never sees a tensor.
//! * A merge kernel never opens a file.
//! * The dashboard never sees the search or candle; it reads events only.
//! * Nobody below `commands` prints, or reads the clock or the environment.
//! * Fitness is maximised everywhere; NaN never becomes a fitness.
//! * What is exported is bit for bit what was scored.

pub use heterosis_checkpoint as checkpoint;
pub use heterosis_engine as model;
pub use heterosis_merge::{self as merge, recipe, yaml};
pub use heterosis_optim as optim;

pub mod cli;
pub mod commands;
pub mod dashboard;
pub mod eval;
pub mod event;
pub mod learn;
pub mod report;
pub mod search;
pub mod simplify;
pub mod space;
pub mod store;
