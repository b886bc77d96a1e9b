//! What can go wrong in a session.

use std::{io, path::PathBuf};

use crate::{checkpoint, eval, event, merge, model, models, programs, search, space, store, workers, yaml::Places};

/// Why a run cannot be begun, gone on with, exported or simplified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Space(#[from] space::Error),
    #[error(transparent)]
    Models(Box<models::Error>),
    #[error(transparent)]
    Task(#[from] eval::Error),
    /// Of the run's parts, before it begins.
    #[error(transparent)]
    Plan(Box<search::Error>),
    /// The search itself: nothing before its first record is one.
    #[error(transparent)]
    Search(Box<search::Error>),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Merge(Box<merge::Error>),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Id(#[from] event::IdError),
    #[error(transparent)]
    Workers(Box<workers::Error>),
    #[error(transparent)]
    Engine(#[from] programs::Error),
    /// Something of a search space, by its place there.
    #[error("{place}")]
    At { place: String, source: Box<Error> },
    /// Something of a search space, by the file and line of its place.
    #[error("{}:{line}", file.display())]
    Placed {
        file: PathBuf,
        line: usize,
        source: Box<Error>,
    },
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },

    // ------------------------------------------------------------------------------------------------ the space
    #[error("the models do not fit each other ({recipe})")]
    Misfit { recipe: String, source: Box<merge::Error> },
    #[error("{model}: config.json has no num_hidden_layers")]
    NoLayers { model: String },
    #[error(
        "data_flow_space: the layers of this model cannot come in another order, or more than once: {why}; leave it out"
    )]
    FixedLayers { why: &'static str },
    #[error("{model} has no tensors")]
    NoTensors { model: String },
    #[error(
        "models.{model}: the child is to take the tokenizer of '{model}', but in a recipe '{model}' is a word of its own, and \
         {recipe} would be given another vocabulary; give this model another short name"
    )]
    NameIsAWord { model: String, recipe: String },
    #[error("chat_template: on, but none of the models brings a chat template; leave it out")]
    NoChatTemplate,
    #[error("there is a system message, and no chat template to say it in; leave it out, or write chat_template: on")]
    SystemUnsaid,
    #[error("the split '{split}' is none of {known}")]
    UnknownSplit { split: String, known: String },
    #[error("search.warm_start: '{word}' needs a base model")]
    WarmStart { word: String },
    #[error(
        "final.held_out[{index}]: {task} ({lang}) stands in this search already; a held-out task is another one, which \
         nothing is chosen by"
    )]
    HeldOutTwice { index: usize, task: String, lang: String },
    /// What chooses would also judge.
    #[error("{reason}")]
    Overlap { reason: String },
    #[error(
        "'{name}' is what one of the search's own merges is called, so nobody could tell them apart in a table. Give the model another name"
    )]
    TakenName { name: String },

    // ------------------------------------------------------------------------------------------------ a proposal
    #[error(
        "nobody says what {models} was fine-tuned from: no card (README.md: base_model) and no adapter. Name it with --base \
         MODEL, or mix the models without one: --base none"
    )]
    NoBaseNamed { models: String },
    #[error(
        "the models name different bases: {named}. Say which one it is: --base MODEL (or --base none, to do without)"
    )]
    SeveralBases { named: String },
    #[error("a child has two parents: name a model and its base, or two models or more")]
    TooFewParents,
    #[error("{word} is named twice: nothing is bred of a model and itself")]
    ParentTwice { word: String },
    #[error("{adapter}: adapter_config.json does not say which model it is for; write MODEL+{adapter}")]
    AdapterWithoutBase { adapter: String },

    // ------------------------------------------------------------------------------------------------ a run
    #[error("{}: the journal does not begin with a run", journal.display())]
    NoBeginning { journal: PathBuf },
    #[error("the model '{model}' is not open")]
    NotOpen { model: String },
    #[error(
        "--dtype {wanted}: this run was begun in {begun}, and answers in another precision do not compare; go on without \
         --dtype, or start a new run"
    )]
    OtherPrecision { wanted: String, begun: String },
    #[error("a command asks its own questions; limits are its affair")]
    LimitsOfACommand,
    #[error(
        "the test of this run has been answered by somebody ({answers} answers); to ask it something else now would be to \
         choose the questions by what they say. Go on without --selection-limit and --test-limit, or start a new run"
    )]
    TestAnswered { answers: usize },
    #[error("the winner of this run has been chosen on the selection questions; only --test-limit can still change")]
    WinnerChosen,
    #[error(
        "the memory for keys and values is limited to {limit_bytes} bytes, and {tokens} tokens, as an answer of this space may \
         have, take {needed_bytes} and more; raise --kv-memory, or ask for fewer new tokens"
    )]
    TightMemory {
        tokens: usize,
        needed_bytes: u64,
        limit_bytes: u64,
    },
    #[error("since this run was made, something else has become of {what}; put back what it was")]
    Changed { what: String },

    // ------------------------------------------------------------------------------------------------ its child
    #[error("{} has no scored candidate '{id}'; some that it has: {known}", run.display())]
    NoCandidate { run: PathBuf, id: String, known: String },
    #[error(
        "{} searched bare genes, which make no model to export; the best ones are in {}",
        run.display(), genes.display()
    )]
    NoModel { run: PathBuf, genes: PathBuf },
    #[error("the journal's recipe cannot be read")]
    Recipe { source: serde_json::Error },
    #[error(
        "{model}: the model has changed since the run (it was {was}, it is {now}); the scored child cannot be made from it"
    )]
    ModelChanged { model: String, was: String, now: String },
    #[error(
        "{model}: its tokenizer, chat template or generation config has changed since the run; the scored child cannot be \
         made from it"
    )]
    TokenizerChanged { model: String },
    #[error("the exported child is not the run's, so nothing was exported: {how}; {why}")]
    AnotherChild { how: String, why: &'static str },
    #[error(
        "{reason} Nothing was exported. Export without --gguf; llama.cpp's own converter may then know it: python \
         convert_hf_to_gguf.py OUT --outtype {kind}"
    )]
    GgufFamily {
        reason: Box<checkpoint::Error>,
        kind: &'static str,
    },
    #[error(
        "{reason} llama.cpp would run it otherwise than it is, whoever converts it, so nothing was exported. Export without \
         --gguf: transformers, vLLM and `heterosis serve OUT` run it as it is"
    )]
    GgufWrite { reason: Box<checkpoint::Error> },
    #[error("{}: `{tensor}` does not read back as it was written; please report this", file.display())]
    GgufDiffers { file: PathBuf, tensor: String },
    #[error(
        "{} is no export of a merged model: cannot read {} (a recipe or an adapter alone has none)",
        out.display(), file.display()
    )]
    NoExport {
        out: PathBuf,
        file: PathBuf,
        source: io::Error,
    },
    #[error("{}", file.display())]
    Provenance { file: PathBuf, source: ProvenanceError },

    // ------------------------------------------------------------------------------------------------ a simpler one
    #[error(
        "{} was scored by a command, whose questions nobody here can ask; only runs on tasks can be simplified",
        run.display()
    )]
    ScoredByCommand { run: PathBuf },
    #[error("{} has no scored child yet; there is nothing to simplify", run.display())]
    NothingScored { run: PathBuf },
    #[error("{} was won by a parent as it is; there is nothing to simplify", run.display())]
    WonByParent { run: PathBuf },
    #[error("{questions} questions of the {split} split are too few to compare recipes on; give --limit more")]
    TooFewQuestions { questions: usize, split: String },
    #[error("{id} cannot be scored: {reason}")]
    Unscored { id: String, reason: String },
    #[error("nothing can be said of simpler recipes: {reason}")]
    Broken { reason: String },
}

/// Why a text is no provenance that `verify` goes on with.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(
        "it is of schema version {version}, and this heterosis ({}) reads versions up to {known}; a newer heterosis wrote it, \
         and can verify it",
        env!("CARGO_PKG_VERSION")
    )]
    Newer { version: u32, known: u32 },
    #[error("'{file}' is no name of a file beside it")]
    NotBeside { file: String },
    #[error("it has {answers} answers; at most {most} are given again")]
    TooMany { answers: usize, most: usize },
    #[error("the answer to {question} may have {tokens} tokens; at most {most} are given again")]
    TooLong {
        question: String,
        tokens: usize,
        most: usize,
    },
}

impl From<models::Error> for Error {
    fn from(e: models::Error) -> Self {
        Self::Models(Box::new(e))
    }
}

impl From<workers::Error> for Error {
    fn from(e: workers::Error) -> Self {
        Self::Workers(Box::new(e))
    }
}

impl From<merge::Error> for Error {
    fn from(e: merge::Error) -> Self {
        Self::Merge(Box::new(e))
    }
}

impl Error {
    pub(super) fn plan(e: search::Error) -> Self {
        Self::Plan(Box::new(e))
    }

    pub(super) fn search(e: search::Error) -> Self {
        Self::Search(Box::new(e))
    }

    pub(super) fn at(place: impl Into<String>) -> impl FnOnce(Self) -> Self {
        let place = place.into();
        move |source| Self::At {
            place,
            source: Box::new(source),
        }
    }

    /// With the file and line of what it is about, where that is known.
    pub(super) fn placed(places: &Places) -> impl FnOnce(Self) -> Self {
        move |source| match source.field().and_then(|field| places.find(&field)) {
            Some((file, line)) => Self::Placed {
                file: file.into(),
                line,
                source: Box::new(source),
            },
            None => source,
        }
    }

    /// The part of a search space that it is about, by its path there.
    fn field(&self) -> Option<String> {
        Some(match self {
            Self::At { place, .. } => place.split(": ").next().unwrap_or(place).into(),
            Self::Space(e) => e.field()?.into(),
            Self::Misfit { .. } => "models".into(),
            Self::NameIsAWord { model, .. } => format!("models.{model}"),
            Self::WarmStart { .. } => "search.warm_start".into(),
            Self::HeldOutTwice { index, .. } => format!("final.held_out[{index}]"),
            Self::Plan(e) => field_of_plan(e)?.into(),
            _ => return None,
        })
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// The error itself, where it is only passed on from another room: what its cause is shows there.
    pub fn passed_on(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Space(e) => Some(e),
            Self::Models(e) => e.passed_on().or(Some(&**e)),
            Self::Task(e) => Some(e),
            Self::Plan(e) | Self::Search(e) => Some(&**e),
            Self::Store(e) => Some(e),
            Self::Checkpoint(e) => Some(e),
            Self::Merge(e) => Some(&**e),
            Self::Model(e) => Some(e),
            Self::Id(e) => Some(e),
            Self::Workers(e) => Some(&**e),
            Self::Engine(e) => Some(e),
            _ => None,
        }
    }
}

/// The part of a search space that keeps a run from being planned.
fn field_of_plan(e: &search::Error) -> Option<&'static str> {
    match e {
        search::Error::Space(e) => e.field(),
        search::Error::NoSplit { .. } | search::Error::NoQuestions { .. } | search::Error::Task(_) => {
            Some("fitness.tasks")
        }
        _ => None,
    }
}
