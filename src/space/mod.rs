//! A search space: what may be mixed, what the child should be good at, and how long to look.
//!
//! There are two spaces, alone or together: the *parameter space* (PS: how weights mix, `parameters.rs`) and the
//! *data-flow space* (DFS: which layer comes after which, `flow.rs`; nothing to do with depth-first search).
//!
//! [`Space::read`] turns the user's YAML into plain data and refuses what it does not understand; [`Codec`] turns the
//! optimizer's numbers into a [`Recipe`](crate::recipe::Recipe) and known recipes back into numbers. Nothing here opens
//! a model: what the codec must know of the parents ([`Shape`]) is passed in.

mod codec;
mod contradictions;
mod flow;
mod parameters;
mod read;
mod unsearched;
mod widen;

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

pub use crate::optim::{Gene as GeneKind, Kind as Optimizer};
pub use codec::{Codec, Fold, GeneSpec, Shape, Stage, Start};
pub use flow::Slot;
pub use parameters::{modules_of, takes_expert_groups};
pub use read::{MOST_EVALS, SILENCE};
pub use widen::{SIGNIFICANT, effects};

use crate::eval::{Samples, Think};
use crate::recipe::{DType, Method, ParamValue};
use crate::yaml::{self, Places};

/// What can be wrong with a search space.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the search space {}: {source}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    #[error("'{name}' is to be a directory's name in runs/, and {why}; use letters, digits, spaces, '-', '_' and '.'")]
    Name { name: String, why: &'static str },
    #[error(
        "layer_groups: {wanted} groups were asked for, but the models have only {layers} layers; ask for fewer groups"
    )]
    TooManyGroups { wanted: usize, layers: usize },
    #[error(
        "layer_groups: the ranges must cover layers 0 to {layers} in order and without gaps, but [{start}, {end}] follows layer {expected}"
    )]
    GroupsDoNotFit {
        start: usize,
        end: usize,
        expected: usize,
        layers: usize,
    },
    #[error(
        "search.widening: there is one gene for each parameter and model already; give the parameter space layer_groups or \
         modules to tell apart, or leave 'widening' out"
    )]
    NothingToWiden,
    #[error("genes for each tensor or for experts: the names of the models' tensors are not known here")]
    NoTensorNames,
    #[error(
        "parameter_space.modules: {module} is among them, but the models have no such tensors; leave it out, and nothing is lost"
    )]
    NoSuchModule { module: &'static str },
    #[error(
        "parameter_space.expert_groups: {wanted} groups were asked for, but the models have {experts} experts in a layer; ask \
         for fewer groups"
    )]
    TooManyExpertGroups { wanted: usize, experts: usize },
    #[error(
        "parameter_space.expert_groups: the models keep all experts of a layer in one tensor ({tensor}), which takes one \
         number; leave expert_groups out"
    )]
    FusedExperts { tensor: String },
    #[error("parameter_space.genes: {genes} contradict each other in {method}: {reason}. Write {ways}")]
    Contradiction {
        method: &'static str,
        genes: String,
        reason: String,
        ways: String,
    },
    #[error("the recipe cannot be a starting point of this search space: {reason}")]
    NotEncodable { reason: String },
}

impl Error {
    /// The part of a search space that it is about, by its path there, where only the space can tell its line.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::TooManyGroups { .. } | Self::GroupsDoNotFit { .. } => Some("parameter_space.layer_groups"),
            Self::NothingToWiden => Some("search.widening"),
            Self::Name { .. } => Some("name"),
            Self::NoSuchModule { .. } => Some("parameter_space.modules"),
            Self::TooManyExpertGroups { .. } | Self::FusedExperts { .. } => Some("parameter_space.expert_groups"),
            Self::Contradiction { .. } => Some("parameter_space.genes"),
            Self::Unreadable { .. } | Self::Yaml(_) | Self::NoTensorNames | Self::NotEncodable { .. } => None,
        }
    }
}

/// A search space, with every default filled in; serialises to YAML that [`Space::read`] reads back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Space {
    pub name: String,
    /// In the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub models: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whose tokenizer, vocabulary, config and chat template the child takes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tokenizer: String,
    /// Of models that also see: the model whose vision tower and projector the child takes, or [`MERGED`]; the base, or the
    /// donor of the tokenizer, where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision: Option<String>,
    /// At least one of the two spaces is there, where there are models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter_space: Option<ParameterSpace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_flow_space: Option<DataFlowSpace>,
    /// How the two go together, where both are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<Hybrid>,
    /// Bare genes, where there are no models: a command scores them.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub genes: Vec<(String, BareGene)>,
    pub fitness: Fitness,
    pub search: Search,
    #[serde(rename = "final")]
    pub finale: Finale,
    /// Where in its file each part stands.
    #[serde(skip)]
    pub places: Places,
    /// The models as its file names them, where paths were made absolute since; else empty.
    #[serde(skip)]
    pub given: Vec<(String, String)>,
}

/// The most bytes of a space's name: a file's has 255 as a rule.
const LONGEST_NAME: usize = 200;

/// The word for vision towers that are merged by the same genes as the language models.
pub const MERGED: &str = "merged";

/// PS: how weights mix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterSpace {
    /// Several methods make the method itself a gene.
    pub method: Vec<Method>,
    pub layer_groups: LayerGroups,
    /// Empty: one set of genes for all modules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Module>,
    /// In how many groups the experts of a layer are told apart.
    #[serde(skip_serializing_if = "is_one")]
    pub expert_groups: usize,
    #[serde(serialize_with = "as_map")]
    pub genes: Vec<(String, Gene)>,
}

/// The word by which `sources` and `pin` name the child of the parameter space, and the name of its stage in a recipe.
pub const PS_CHILD: &str = "ps";

/// DFS: which layer comes after which.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataFlowSpace {
    /// Models by their short names; in a hybrid also [`PS_CHILD`], which stands first if the file does not say where.
    pub sources: Vec<String>,
    /// How often the layers of all sources are laid out one after the other.
    pub repeats: usize,
    /// Most layers of a child, the pinned ones included.
    pub max_layers: usize,
    /// Range of the factor by which a layer's input is multiplied; none are searched when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scales: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Pin::is_empty")]
    pub pin: Pin,
}

/// The sources whose first layer comes first, and whose last layer comes last, in every child.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pin {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

impl Pin {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the two spaces are searched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hybrid {
    /// First the parameter space; its child is then a source of the data-flow space.
    PsThenDfs,
    /// All genes at once.
    Joint,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LayerGroups {
    /// Groups of (nearly) equal size.
    Count(usize),
    /// Half-open ranges that cover all layers in order.
    Ranges(Vec<[usize; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Module {
    Attn,
    /// What hybrids have in attention's place in some layers: linear attention, a state-space mixer, a short convolution.
    Mixer,
    /// What sends tokens to experts.
    Router,
    /// The experts that a router chooses among.
    Experts,
    /// The expert that every token goes to.
    Shared,
    /// The MLPs, but for those of them that are named above.
    Mlp,
    /// Embeddings, norms, head.
    Other,
}

impl Module {
    pub const ALL: [Module; 7] = [
        Module::Attn,
        Module::Mixer,
        Module::Router,
        Module::Experts,
        Module::Shared,
        Module::Mlp,
        Module::Other,
    ];

    /// As spaces name it.
    pub fn name(self) -> &'static str {
        match self {
            Module::Attn => "attn",
            Module::Mixer => "mixer",
            Module::Router => "router",
            Module::Experts => "experts",
            Module::Shared => "shared",
            Module::Mlp => "mlp",
            Module::Other => "other",
        }
    }
}

/// A parameter of the method, as the space declares it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Gene {
    /// One gene for each combination of the axes.
    Searched {
        #[serde(flatten)]
        range: Range,
        per: Vec<Axis>,
    },
    /// The same everywhere, not searched.
    Fixed(ParamValue),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Range {
    #[serde(rename = "range")]
    Real([f64; 2]),
    Int([i64; 2]),
}

impl Range {
    fn bounds(self) -> (f64, f64) {
        match self {
            Range::Real([low, high]) => (low, high),
            Range::Int([low, high]) => (low as f64, high as f64),
        }
    }
}

/// What a gene is told apart by; no axis at all is one gene for the recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    Model,
    Group,
    Module,
    /// Every tensor of the merge: far more genes than a black-box search can move, but learning can.
    Tensor,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fitness {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRef>,
    /// A program that decodes instead of the engine of this one; the tasks are asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineCommand>,
    /// Instead of tasks: a program that scores candidates.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// The command's scores by name, and how much each counts: less is better where the weight is negative, and 0 is only
    /// shown. None given: those of the first candidate, all the same.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub weights: Vec<(String, f64)>,
    pub objectives: Objectives,
    /// Besides the tasks, the mean number of tokens of an answer is an objective; less is better.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
    #[serde(skip_serializing_if = "Scale::is_none")]
    pub scale: Scale,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Of every task that does not say otherwise. Runs of before there was this key asked without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<ChatTemplate>,
    /// The system message of every task that has no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What every chat template is told besides, such as `enable_thinking`.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// Of every task that does not say otherwise: how thoughts are marked, which are not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
}

/// Whether questions go through each model's own chat template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatTemplate {
    /// Where all models bring one and answers are generated.
    #[default]
    Auto,
    /// A model that brings none, as a base among chat models, is asked in plain text.
    On,
    Off,
}

impl ChatTemplate {
    /// In the order of its words in a space.
    pub const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];
    pub const WORDS: [&str; 3] = ["auto", "on", "off"];
}

/// What is maximised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Objectives {
    /// The weighted mean of the tasks.
    #[default]
    Scalar,
    /// Each task for itself: a front of candidates that no other beats in all of them.
    Pareto,
}

/// How scores of different kinds are made to add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    #[default]
    None,
    /// Each task's weight is divided by the standard error of the first model's score.
    StandardError,
}

impl Scale {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Fitness {
    /// Its scores come from a command that does not say which questions they are of.
    pub fn keeps_its_questions(&self) -> bool {
        self.command.as_ref().is_some_and(|command| command.questions.is_none())
    }

    /// The program that a search starts, and its arguments: that scores candidates, or decodes.
    pub fn program(&self) -> Option<&[String]> {
        let scores = self.command.as_ref().map(|command| &*command.command);
        scores.or(self.engine.as_ref().map(|engine| &*engine.command))
    }

    /// How long an outage of that program may last.
    pub fn patience(&self) -> Duration {
        let scores = self.command.as_ref().map(|command| command.patience);
        let seconds = scores.or(self.engine.as_ref().map(|engine| engine.patience));
        Duration::from_secs_f64(seconds.unwrap_or(PATIENCE_S))
    }

    pub fn is_pareto(&self) -> bool {
        self.objectives == Objectives::Pareto
    }
}

/// A program of the user's that decodes, by the protocol of `docs/engines.md`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineCommand {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds that it may say nothing when it was asked something.
    pub timeout: f64,
    /// Seconds that an outage of it may last.
    #[serde(skip_serializing_if = "is_usual_patience")]
    pub patience: f64,
    /// What weights are rounded to, where nothing else is said on the command line.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_word")]
    pub dtype: Option<DType>,
    /// Copies of it that answer side by side, each asked of one candidate at a time.
    #[serde(skip_serializing_if = "is_one")]
    pub workers: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)] // serde's signature
fn as_word<S: serde::Serializer>(dtype: &Option<DType>, serializer: S) -> Result<S::Ok, S::Error> {
    dtype.map(DType::name).serialize(serializer)
}

/// A program of the user's that scores candidates, one JSON line each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Command {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// A file that names the questions which it answers one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<String>,
    /// The merged model is written to a directory first.
    pub materialize: bool,
    /// The merged model answers at an address of this process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub serve: bool,
    /// Seconds until an answer is no longer waited for.
    pub timeout: f64,
    /// Seconds that an outage of it may last: so long somebody is waited for who was scored before.
    #[serde(skip_serializing_if = "is_usual_patience")]
    pub patience: f64,
    /// Copies of it that run side by side, each asked for one candidate at a time.
    #[serde(skip_serializing_if = "is_one")]
    pub workers: usize,
}

/// A service that is started again is back by then.
pub const PATIENCE_S: f64 = 155.0;

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_usual_patience(seconds: &f64) -> bool {
    *seconds == PATIENCE_S
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_one(n: &usize) -> bool {
    *n == 1
}

/// A gene that stands for nothing but its number.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BareGene {
    Real([f64; 2]),
    Int {
        int: [i64; 2],
    },
    /// The number is the place in the list, from 0.
    Choice {
        choice: Vec<String>,
    },
}

impl BareGene {
    pub fn kind(&self) -> GeneKind {
        match self {
            Self::Real([low, high]) => GeneKind::Real { low: *low, high: *high },
            Self::Int { int: [low, high] } => GeneKind::Int { low: *low, high: *high },
            Self::Choice { choice } => GeneKind::Choice { n: choice.len() },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskRef {
    /// Built-in name or path of a task file.
    pub task: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    pub weight: f64,
    pub split: String,
    /// Questions that each candidate answers; all of the split when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shots: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Tokens of an answer at most, instead of the task's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Instead of what the fitness says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<ChatTemplate>,
    /// Instead of the fitness's system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Instead of the fitness's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
    /// Several answers to each question, instead of the task's own number.
    #[serde(flatten, serialize_with = "Samples::write")]
    pub samples: Option<Samples>,
    /// The score that counts, instead of the task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Instead of the fitness's, or the task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
}

impl TaskRef {
    /// A task by its name alone, whole.
    pub fn named(task: impl Into<String>, split: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            lang: None,
            weight: 1.0,
            split: split.into(),
            limit: None,
            shots: None,
            profile: None,
            max_new_tokens: None,
            chat_template: None,
            system: None,
            chat_template_kwargs: None,
            samples: None,
            score: None,
            think: None,
        }
    }
}

/// A collapsed merge is turned away before it costs a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guard {
    /// A candidate whose perplexity on the tasks' own solutions exceeds this many times the worst parent's is failed.
    pub perplexity_ratio: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Search {
    pub optimizer: Optimizer,
    #[serde(serialize_with = "auto")]
    pub population: Option<usize>,
    pub evals: u64,
    #[serde(serialize_with = "racing")]
    pub racing: Option<Racing>,
    #[serde(serialize_with = "learning")]
    pub learn: Option<Learning>,
    pub warm_start: Vec<String>,
    /// A language model that says the next mean of `evollm`, or proposes recipes beside any other optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guide: Option<Guide>,
    /// How the genetic algorithm chooses parents and survivors, if not by tournaments and fitness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mating: Option<Mating>,
    /// Begin with one gene for each parameter and model, then tell modules apart, then layer groups, each only where that
    /// has shown an effect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub widening: bool,
    /// Of three or more experts, find out first which ones help, and begin with the merge of those.
    pub greedy_soup: bool,
    /// Answers are told as they arrive, so that no worker waits for the end of a generation; what the search
    /// finds then depends on their order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asynchronous: bool,
    /// Workers elsewhere may be of any kind of machine: answers then differ in their last digits, and say who gave them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mixed_workers: bool,
    pub seed: u64,
}

/// A language model that is asked when a generation is over.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guide {
    /// A MODEL of this machine; at an endpoint, the name by which it knows one.
    pub model: String,
    /// An OpenAI-compatible address, such as `http://127.0.0.1:8000/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The variable of the environment that holds the endpoint's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Generations from one proposal to the next.
    pub every: u64,
    /// The most tokens of a reply.
    pub tokens: usize,
}

/// Before the optimizer begins, genes move along the gradient of right answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Learning {
    /// Steps of one round.
    pub steps: usize,
    /// Texts of one step.
    pub batch: usize,
    /// Questions of each task from which a learned candidate learns again, from its own right answers.
    pub questions: usize,
    /// Rounds; one that is told to be worse than the one before it is the last, and beyond these there are more, up to three
    /// times as many, while each is told to be better.
    pub rounds: usize,
    pub teachers: Teachers,
    /// How much wrong answers count against what they say, 0 to 1.
    pub wrong: f64,
    /// Learns on from where each stage of the search has led, also where something was learned before it.
    pub after: bool,
}

impl Learning {
    /// Rounds before the first stage's optimizer begins, as a rule: nobody but the pupil answers further questions.
    pub fn rounds_before(&self) -> usize {
        match self.teachers.teach_themselves() {
            false => 1,
            true => self.rounds,
        }
    }

    /// Rounds after a stage, at most.
    pub fn rounds_after(&self) -> usize {
        self.rounds.min(2)
    }
}

impl Teachers {
    /// Whether a child can learn from its own answers: a vote takes several, and nobody differs from what it expects itself.
    pub fn teach_themselves(self) -> bool {
        !matches!(self, Self::Vote | Self::Distil)
    }
}

/// Whose texts teach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Teachers {
    /// Worked solutions where a task has them, else right answers.
    #[default]
    Auto,
    Solutions,
    Answers,
    /// Answers, right or wrong, of whoever answers the task best.
    Best,
    /// Answers that most of those who were asked agree on: nobody need know what is right.
    Vote,
    /// Answers, right or wrong, of the parent that answers the task best, and what it expected in the place of each of their
    /// tokens.
    Distil,
}

impl Default for Learning {
    fn default() -> Self {
        Self {
            steps: 10,
            batch: 64,
            questions: 600,
            rounds: 3,
            teachers: Teachers::Auto,
            wrong: 0.3, // as `learn::teachers::WRONG`
            after: false,
        }
    }
}

/// Competition and attraction: individuals share what they get right, and mate with those who get right what they do not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mating {
    /// How much less a question is worth to each, the more get it right; 0: not at all, which is the plain algorithm.
    pub attraction: f64,
}

/// All candidates of a generation are asked the same few questions, the better ones more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Racing {
    /// Questions on each rung, ascending: all candidates are asked the first, the better half those of the second, the
    /// best quarter those of the third, and so on.
    pub rungs: Vec<usize>,
}

impl Racing {
    /// Questions that a candidate is asked on average: half of those that stand on a rung leave it.
    pub fn mean_questions(&self) -> f64 {
        let steps = self
            .rungs
            .iter()
            .scan(0, |below, n| Some(n - std::mem::replace(below, *n)));
        steps
            .zip(0..)
            .map(|(more, rung)| more as f64 / f64::from(1 << rung))
            .sum()
    }
}

impl Default for Racing {
    fn default() -> Self {
        Self {
            rungs: vec![24, 48, 96],
        }
    }
}

/// The selection questions, then the test split once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finale {
    pub finalists: usize,
    pub selection: SplitRef,
    pub test: SplitRef,
    /// Tasks that the search never asks: what the child forgot. Nothing is chosen by them, so they have no weights.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "without_weights")]
    pub held_out: Vec<TaskRef>,
    /// The search may ask what the final asks; then nobody calls that fresh.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_overlap: bool,
}

/// Most questions of each task that choose among the finalists, unless the space says otherwise.
const SELECTION_QUESTIONS: usize = 400;

/// Most questions of each task of the sealed test, unless the space says otherwise: a difference of three points between
/// two models that differ on a fifth of the questions is told from luck by 2,000, and by 400 it is not.
const TEST_QUESTIONS: usize = 2000;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitRef {
    pub split: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// How many questions of a split each task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    All,
    /// So many, or all if there are fewer.
    Most(usize),
}

impl Limit {
    /// The number; `None` for all.
    pub fn most(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Most(n) => Some(n),
        }
    }
}

impl From<Option<usize>> for Limit {
    fn from(most: Option<usize>) -> Self {
        most.map_or(Self::All, Self::Most)
    }
}

impl Serialize for Limit {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => s.serialize_str("all"),
            Self::Most(n) => s.serialize_u64(*n as u64),
        }
    }
}

impl Finale {
    /// Questions of each task that choose the winner.
    pub fn selection_limit(&self) -> Limit {
        self.selection.limit.unwrap_or(Limit::Most(SELECTION_QUESTIONS))
    }

    /// Questions of each task of the sealed test.
    pub fn test_limit(&self) -> Limit {
        self.test.limit.unwrap_or(Limit::Most(TEST_QUESTIONS))
    }
}

impl Space {
    /// Learned points that come to the final besides the finalists, as a rule.
    pub fn learned_finalists(&self) -> usize {
        self.search.learn.as_ref().map_or(0, |learning| learning.rounds)
    }

    /// The models other than the base, in the order of the file.
    pub fn experts(&self) -> impl Iterator<Item = &str> {
        let names = self.models.iter().map(|(name, _)| name.as_str());
        names.filter(|name| Some(*name) != self.base.as_deref())
    }

    /// Refuses a name that could not be a directory's in `runs/`, or would lead out of it. Only for new runs: an old one has its
    /// place.
    ///
    /// # Errors
    /// It is one.
    pub fn refuse_name(&self) -> Result<(), Error> {
        let why = match &self.name {
            name if name.trim().is_empty() => "nothing is no name",
            name if name.starts_with('.') => "one that begins with a dot is hidden, or another directory's",
            name if name.contains(['/', '\\']) => "one with a separator leads elsewhere",
            name if name.contains(char::is_control) => "one with control characters cannot be typed",
            name if name.len() > LONGEST_NAME => "one this long leaves no room for the date behind it",
            _ => return Ok(()),
        };
        let name = self.name.escape_debug().to_string();
        Err(Error::Name { name, why })
    }

    /// YAML with every default filled in.
    pub fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(self).expect("a space is plain data")
    }

    /// BLAKE3 of [`Space::to_yaml`], in hex.
    pub fn digest(&self) -> String {
        blake3::hash(self.to_yaml().as_bytes()).to_hex().to_string()
    }

    /// The same space without where its models and task files lie: what they hold is known by digests of its own.
    pub fn without_places(&self) -> Self {
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_string();
        let mut space = self.clone();
        space.models.iter_mut().for_each(|(_, word)| word.clear());
        for task in space.fitness.tasks.iter_mut().chain(&mut space.finale.held_out) {
            task.task = name(&task.task);
        }
        space
    }
}

fn as_map<V: Serialize, S: serde::Serializer>(entries: &[(String, V)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(entries.iter().map(|(k, v)| (k, v)))
}

fn without_weights<S: serde::Serializer>(tasks: &[TaskRef], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(tasks.iter().map(|task| {
        let mut plain = serde_yaml_ng::to_value(task).expect("a task is plain data");
        if let Some(map) = plain.as_mapping_mut() {
            map.remove("weight");
        }
        plain
    }))
}

fn auto<S: serde::Serializer>(population: &Option<usize>, s: S) -> Result<S::Ok, S::Error> {
    match population {
        Some(n) => s.serialize_u64(*n as u64),
        None => s.serialize_str("auto"),
    }
}

fn learning<S: serde::Serializer>(learning: &Option<Learning>, s: S) -> Result<S::Ok, S::Error> {
    match learning {
        Some(learning) => learning.serialize(s),
        None => s.serialize_str("off"),
    }
}

fn racing<S: serde::Serializer>(racing: &Option<Racing>, s: S) -> Result<S::Ok, S::Error> {
    match racing {
        Some(racing) => racing.serialize(s),
        None => s.serialize_bool(false),
    }
}
