//! Tasks: what a model is asked, what of its output counts as the answer, and what the scores are worth.
//!
//! Reading order: `task_file` (the YAML as written), `harness` (lm-evaluation-harness's own YAML, read as one) and `data`
//! (its rows), this file (what a task means for one language and one profile), `wording` (a row in words), `prompt` with
//! `python_random` (the questions), `extract` with `python_regex`, `number`, `maths`, `ifeval` and `language` (the verdict),
//! `sampling` and `think` (several answers; what was thought), `answer` (all questions of all tasks through one engine),
//! `rescore` (stored outputs, without a model), `stats`.
//!
//! Two profiles: `parity` is lm-eval's way, defects included, so that scores can be compared with published ones;
//! `fitness` is the repaired way, in which examples are fixed so that all prompts share a prefix.
//!
//! ```
//! use heterosis_eval::{Answer, DataDirs, Split, Task, TaskOptions, TaskScore};
//!
//! # let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("sums.jsonl"), r#"{"question": "What is 6 times 7?", "answer": "42"}"#)?;
//! let file = dir.path().join("sums.yaml");
//! std::fs::write(
//!     &file,
//!     "task: sums\nlang: en\ntype: generate\ndata: {test: sums.jsonl}\n\
//!      prompt: 'Q: {{question}} A:'\ntarget: '{{answer}}'\n\
//!      filters: [{name: last-number, regex: '(-?[0-9]+)', pick: last}]\n",
//! )?;
//! let task = Task::load(&file.display().to_string(), &TaskOptions::default(), &DataDirs::default())?;
//! let questions = task.questions(Split::Test)?;
//! assert_eq!(questions[0].prompt.text(), "Q: What is 6 times 7? A:");
//!
//! // What a model said, judged; `answer` asks one and judges it so.
//! let said = Answer::judged(&task, "6 times 7 is 42.".into(), &questions[0].gold)?;
//! assert!(said.correct);
//! assert_eq!(TaskScore::of(&task, [&said]).fitness().value, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

pub mod answer;
pub mod data;
pub mod exemplars;
mod extract;
mod harness;
pub mod identity;
mod ifeval;
mod language;
mod maths;
mod number;
pub mod parquet;
#[cfg(test)]
mod phrasings;
mod prompt;
mod python;
mod python_random;
mod python_regex;
pub mod rescore;
pub mod rewording;
mod sampling;
mod score;
#[cfg(test)]
mod settled;
pub mod stats;
mod task_file;
mod think;
mod wording;

pub use answer::{Answerer, Decodes, answer, continued, prompt_text, reply_prompt, said, solved};
pub use data::DataDirs;
use data::{Located, Row, Source};
use extract::{Filter, Markers, Normalization, NumberAnswer, Step};
pub use harness::Refusal;
use identity::Identity;
use language::{Gate, Language};
use number::Style;
use prompt::Template;
pub use prompt::{Chat, Message, Prompt, Shot};
use python_random::PythonRandom;
use python_regex::PythonRegex;
pub use sampling::Samples;
pub use score::{Answer, Estimate, TaskScore};
use task_file::{
    ChoicesSpec, Draw, FilterSpec, GateSpec, GoldIs, HarnessWords, NormalizeSpec, Pool, Settings, Shots, StepSpec,
    TaskFile,
};
pub use think::Think;
use wording::{Choices, Doc, DocTo, Own, Right, Worded, Wording};

use heterosis_yaml as yaml;

/// Digest of the sources that ask and score: scores of another build are other scores.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

/// What can go wrong between a task's name and its scores.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    /// A task file that is no task, with the place in it.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// A file of the task or of its data cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    /// A name that is neither a built-in task's nor a file's.
    #[error("there is no task '{name}'{hint}; known: {known}. A path to a task file (.yaml) also works")]
    UnknownTask { name: String, hint: String, known: String },
    /// A language that the task does not have.
    #[error("the task '{task}' has no language '{lang}'; it has {known}")]
    UnknownLanguage { task: String, lang: String, known: String },
    /// A name that could mean several languages, where one is needed.
    #[error(
        "the task '{task}' has several languages: {known}. Say which one, as in '{task}_{first}' or '{task}:{first}'"
    )]
    WhichLanguage { task: String, known: String, first: String },
    /// Questions of a split that the task's file does not give.
    #[error("the task '{task}' has no split '{split}'; it has {known}")]
    NoSplit { task: String, split: Split, known: String },
    /// A split whose rows are none.
    #[error("the task '{task}' has no questions in its {split} split")]
    NoQuestions { task: String, split: Split },
    /// The data file is in none of the folders.
    #[error(
        "the data of the task '{task}' are missing: {file} was looked for as {looked_for}. {}set HETEROSIS_DATA to the folder \
         that holds them",
        pull(file)
    )]
    NoData {
        task: String,
        file: String,
        looked_for: String,
    },
    /// A row that cannot be read, or lacks what the task asks of it.
    #[error("{}:{line}: {message}", file.display())]
    Row {
        file: PathBuf,
        line: usize,
        message: String,
    },
    /// A prompt or target that Jinja cannot render.
    #[error("the template of {place} cannot be filled: {message}")]
    Template { place: String, message: String },
    /// A pattern of a filter or of a normalisation that cannot be used.
    #[error("the task '{task}': {source}")]
    Regex { task: String, source: python_regex::Error },
    /// More worked examples than there are.
    #[error(
        "{wanted} few-shot examples are asked for, but the task '{task}' has {available} to choose from; ask for fewer \
         with --shots"
    )]
    Shots {
        task: String,
        wanted: usize,
        available: usize,
    },
    /// A language gate for a language that cannot be told.
    #[error(
        "the task '{task}' asks for the language gate in '{lang}', which the gate cannot tell; it tells {known}. Set \
         'language_gate: false'"
    )]
    Gate { task: String, lang: String, known: String },
    /// Choices, or the place of the right one, that make no sense.
    #[error("question {question} of the task '{task}': {message}")]
    Choices {
        question: String,
        task: String,
        message: String,
    },
    /// An engine that is a program of its own cannot be had at all.
    #[error("{reason}")]
    NoEngine { reason: String },
    /// An engine that is a program of its own died, hung, or answered what is no answer.
    #[error("{reason}")]
    EngineBroke { reason: String },
    /// Only what was generated can be judged again.
    #[error("the task '{task}' measures log-likelihoods, so stored outputs cannot be scored again with it")]
    NotGenerated { task: String },
    /// Answers that would not fit the model's context.
    #[error(
        "the task '{task}' lets a model write {wanted} tokens, but the model's context has {context}. Use a copy \
         of the task file with a smaller max_new_tokens, or a model with a longer context"
    )]
    Context {
        task: String,
        wanted: usize,
        context: usize,
    },
    /// A template names a field that a row does not have.
    #[error(transparent)]
    Field(Box<MissingField>),
    /// A file of lm-evaluation-harness that is not read.
    #[error(transparent)]
    Harness(#[from] Refusal),
    /// The score that shall count is none of the task's.
    #[error("the task '{task}' has no score '{score}'{hint}; it has {known}")]
    NoScore {
        task: String,
        score: String,
        hint: String,
        known: String,
    },
    /// A number of samples, or a way to draw them, that is none.
    #[error("the task '{task}': samples {message}")]
    Samples { task: String, message: String },
    /// The model or its tokenizer could not do it.
    #[error(transparent)]
    Model(#[from] heterosis_engine::Error),
    /// A line of stored outputs that is no answer.
    #[error("answers, line {line}: {message}")]
    Answers { line: usize, message: String },
}

/// A field that a template names, and a row does not have.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {place} names the field '{field}', which this row does not have{hint}; it has {known}", file.display())]
pub struct MissingField {
    /// The data file.
    pub file: PathBuf,
    /// Counted from 1; of a file without lines, the row.
    pub line: usize,
    /// Of the template: `capitals: prompt`.
    pub place: String,
    /// The name that the template has.
    pub field: String,
    /// The nearest one, in words.
    pub hint: String,
    /// The row's fields, as a list in words.
    pub known: String,
}

/// How to fetch a published file; another one is somebody's own.
fn pull(file: &str) -> String {
    let parts: Vec<&str> = file.split('/').collect();
    let is_published = matches!(parts.as_slice(), ["gsm8k" | "mgsm", _] | [_, _, _, _]);
    match is_published {
        true => format!(
            "Fetch published data with 'heterosis data pull {}', or ",
            data_set_of(file)
        ),
        false => "Put it beside the task file, or ".into(),
    }
}

/// What `data pull` calls the data set that a file belongs to: `gsm8k` of `gsm8k/test.jsonl`, `owner/name:config` of
/// `owner/name/config/test.jsonl`.
fn data_set_of(file: &str) -> String {
    match file.split('/').collect::<Vec<_>>().as_slice() {
        [owner, name, "default", _] => format!("{owner}/{name}"),
        [owner, name, config, _] => format!("{owner}/{name}:{config}"),
        [first, ..] => (*first).into(),
        [] => String::new(),
    }
}

impl Error {
    fn template(place: &str, source: &minijinja::Error) -> Self {
        Error::Template {
            place: place.into(),
            message: jinja(source),
        }
    }
}

/// What is wrong with a template, and in which of its lines, where it has several.
fn jinja(source: &minijinja::Error) -> String {
    let what = match source.detail() {
        Some(detail) => format!("{}: {detail}", source.kind()),
        None => source.kind().to_string(),
    };
    match source.line() {
        Some(line) if line > 1 => format!("{what} (in its line {line})"),
        _ => what,
    }
}

/// What a task measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The model writes, an answer is cut out and compared.
    Generate,
    /// How likely the model holds a given continuation.
    LogLikelihood,
    /// Which of several continuations the model holds likeliest.
    #[serde(rename = "multiple_choice")]
    MultipleChoice,
    /// Which of several words in the blank of a text makes it least perplexing (BOSE's Blank-ppl, arXiv 2503.00812).
    Blank,
}

impl Kind {
    /// All of them, in the order of [`Self::NAMES`].
    pub const ALL: [Kind; 4] = [Kind::Generate, Kind::LogLikelihood, Kind::MultipleChoice, Kind::Blank];
    /// As a task file says them.
    pub const NAMES: [&str; 4] = ["generate", "loglikelihood", "multiple_choice", "blank"];

    /// Whether a question comes with choices.
    pub fn chooses(self) -> bool {
        matches!(self, Kind::MultipleChoice | Kind::Blank)
    }

    /// Whether likelihoods are measured, and nothing is written.
    pub fn is_measured(self) -> bool {
        self != Kind::Generate
    }
}

/// What is made of likelihoods, or how generated answers are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The likeliest choice is right; without choices: the continuation is what the model would have written.
    Acc,
    /// The likeliest for its length in characters.
    AccNorm,
    /// The likeliest for its length in bytes.
    AccBytes,
    /// The one that the question makes likelier by most, against no question.
    AccMutualInfo,
    /// The right choice is what the model would have written; of generated answers: it equals the gold answer.
    ExactMatch,
    /// The share of the probability of all choices that the right ones have (TruthfulQA's MC2).
    Mc2,
    /// F1 of the second of two choices.
    F1,
    /// Matthews' correlation of the places chosen with the right ones.
    Mcc,
    /// The choice whose text has the lowest perplexity.
    BlankPpl,
    /// exp(−mean log-likelihood) of the continuations, whatever their lengths.
    Perplexity,
    /// IFEval's instructions are followed.
    Ifeval,
}

impl Metric {
    /// As a task file, a score and lm-evaluation-harness say it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::AccBytes => "acc_bytes",
            Metric::AccMutualInfo => "acc_mutual_info",
            Metric::ExactMatch => "exact_match",
            Metric::Mc2 => "mc2",
            Metric::F1 => "f1",
            Metric::Mcc => "mcc",
            Metric::BlankPpl => "blank_ppl",
            Metric::Perplexity => "perplexity",
            Metric::Ifeval => "ifeval",
        }
    }

    /// Those that a kind of task can have.
    fn of_kind(kind: Kind) -> &'static [Metric] {
        match kind {
            Kind::Generate => &[Metric::ExactMatch, Metric::Ifeval],
            Kind::LogLikelihood => &[Metric::Acc, Metric::Perplexity],
            Kind::Blank => &[Metric::BlankPpl],
            Kind::MultipleChoice => &[
                Metric::Acc,
                Metric::AccNorm,
                Metric::AccBytes,
                Metric::AccMutualInfo,
                Metric::ExactMatch,
                Metric::Mc2,
                Metric::F1,
                Metric::Mcc,
            ],
        }
    }

    /// Those that a task of a kind has where its file names none; a log-likelihood alone is none of these.
    fn usual(kind: Kind) -> &'static [Metric] {
        match kind {
            Kind::Generate => &[Metric::ExactMatch],
            Kind::LogLikelihood => &[],
            Kind::Blank => &[Metric::BlankPpl],
            Kind::MultipleChoice => &[Metric::Acc, Metric::AccNorm],
        }
    }

    /// The verdicts that a metric of this name gives.
    fn verdicts_of(name: &str) -> Vec<String> {
        match name {
            "ifeval" => ifeval::SCORES.map(String::from).to_vec(),
            // Of all questions together, and no verdict on one.
            "perplexity" => Vec::new(),
            name => vec![name.to_string()],
        }
    }
}

/// lm-eval's way, or the repaired one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// lm-evaluation-harness's way, defects included: for scores that are compared with published ones.
    #[default]
    Parity,
    /// The repaired way, in which all prompts share a prefix: for a search.
    Fitness,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Parity => "parity",
            Profile::Fitness => "fitness",
        })
    }
}

/// Disjoint sets of questions, so that what chooses a candidate never also judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The search sees the score of these.
    Search,
    /// Fresh questions for the finalists.
    Selection,
    /// Opened once, at the end.
    Test,
    /// The whole published test set, for comparison with other people's figures; may overlap the others. Defaults to
    /// the test split.
    Benchmark,
}

impl Split {
    /// All of them, in the order in which a run comes to them.
    pub const ALL: [Split; 4] = [Split::Search, Split::Selection, Split::Test, Split::Benchmark];

    /// As task files, spaces and journals say it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Search => "search",
            Split::Selection => "selection",
            Split::Test => "test",
            Split::Benchmark => "benchmark",
        }
    }

    /// The split of that name; `None` of any other word.
    pub fn from_name(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a task is wanted; the default is the harness's way of running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// Needed where a task has several languages and its name does not say which.
    pub lang: Option<String>,
    /// Instead of the task's own number of examples.
    pub shots: Option<usize>,
    /// How to ask and to judge.
    pub profile: Profile,
    /// Only the first questions of a split.
    pub limit: Option<usize>,
    /// Instead of the task's own number.
    pub max_new_tokens: Option<usize>,
    /// Through the model's chat template; `None` is plain text.
    pub chat: Option<Chat>,
    /// Several answers to each question, instead of the task's own number.
    pub samples: Option<Samples>,
    /// What is thought and what is said are told apart, instead of the task's own way.
    pub think: Option<Think>,
    /// The score that counts, instead of the task's own.
    pub score: Option<String>,
}

/// A task in one language and one profile, ready to ask and to judge.
#[derive(Clone, Debug)]
pub struct Task {
    file: TaskFile,
    lang: String,
    options: TaskOptions,
    dirs: DataDirs,
    words: Row,
    /// Fields made of a row's own.
    fields: Vec<(String, Template)>,
    wording: Wording,
    preamble: Option<Template>,
    answer_prefix: Option<Template>,
    shots: Option<ReadyShots>,
    target_delimiter: String,
    fewshot_delimiter: String,
    /// What ends an answer, and is no part of it.
    pub stop: Arc<[String]>,
    /// What finds the answer, if generation may end where it stands.
    stop_when_answered: Option<Arc<NumberAnswer>>,
    /// The most tokens that an answer may take; generation ends there.
    pub max_new_tokens: usize,
    filters: Vec<Filter>,
    /// The names of the verdicts: of the filters, or of the ways to choose.
    verdicts: Vec<String>,
    primary: usize,
    normalization: Normalization,
    gate: Option<Gate>,
    samples: Option<Samples>,
    think: Option<Think>,
    digest: OnceLock<String>,
}

#[derive(Clone, Debug)]
struct ReadyShots {
    spec: Shots,
    count: usize,
    target_delimiter: String,
    fewshot_delimiter: String,
    answer_prefix: Option<Template>,
}

/// One thing that a model is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// File and row: `gsm8k/train/17`.
    pub id: String,
    /// Its content, whatever way it came by.
    pub identity: Identity,
    /// Examples and question, before they are put to a model.
    pub prompt: Prompt,
    /// What the answer is compared with; for log-likelihoods, the continuation; with choices, the right one.
    pub gold: String,
    /// What would follow the prompt in an example: of a task with worked solutions, one of these.
    pub target: String,
    /// What the model has to choose from, and where the right one stands; empty where there is nothing to choose.
    pub choices: Vec<Choice>,
    /// Places of the right choices, from 0; more than one where several are right.
    pub right: Vec<usize>,
}

impl Question {
    /// What is asked, without examples; of a question that stands in its choices, as the right one puts it.
    pub fn words(&self) -> &str {
        let of_choice = || self.right_choice()?.question.as_deref();
        match self.prompt.question.trim().is_empty() {
            true => of_choice().unwrap_or_default(),
            false => &self.prompt.question,
        }
    }

    /// The right choice, the first where there are several.
    pub fn right_choice(&self) -> Option<&Choice> {
        self.choices.get(*self.right.first()?)
    }
}

/// Something to choose, and the text whose likelihood decides on it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What the choice says, as the data have it.
    pub text: String,
    /// What is asked when this is chosen, where that depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// What follows the prompt when this is chosen.
    pub continuation: String,
}

/// An extracted answer and the harness's verdict on it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Extracted {
    /// What the filter cut out of the output; `[invalid]`, or the filter's own word for it, where it found nothing.
    pub extracted: String,
    /// 1 or 0.
    pub exact_match: f64,
}

/// What a task is, for a list.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TaskSummary {
    /// By which it is asked for.
    pub task: String,
    /// As its file has it: scores of two versions do not compare.
    pub version: String,
    /// What it measures.
    pub kind: Kind,
    /// ISO 639-1.
    pub langs: Vec<String>,
    /// Parts that are tasks of their own: `TASK_SUBJECT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// One sentence for people.
    pub description: String,
    /// Where questions and protocol come from, and their licence.
    pub provenance: String,
}

/// The built-in tasks.
///
/// # Errors
/// None in a released program: a test reads every file.
pub fn tasks() -> Result<Vec<TaskSummary>, Error> {
    let builtin = task_file::builtin_names().into_iter();
    builtin
        .filter_map(TaskFile::builtin)
        .map(|file| {
            let file = file?;
            Ok(TaskSummary {
                langs: file.lang_names().iter().map(ToString::to_string).collect(),
                subjects: subject_names(&file),
                task: file.name,
                version: file.version,
                kind: file.kind,
                description: file.description,
                provenance: file.provenance,
            })
        })
        .collect()
}

/// A task's name in each language that it could mean: `mgsm_direct` is eleven, `mgsm_direct_es` and `gsm8k` one. A group is
/// its members.
///
/// # Errors
/// As [`Task::load`].
pub fn expand(name_or_path: &str, lang: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let mut tasks = Vec::new();
    for found in find_all(name_or_path)? {
        let langs = match lang.map(str::to_string).or(found.lang) {
            Some(lang) => vec![lang],
            None => found.file.lang_names().iter().map(ToString::to_string).collect(),
        };
        tasks.extend(langs.into_iter().map(|lang| (found.name.clone(), lang)));
    }
    Ok(tasks)
}

/// The file behind a name or path, and the language if the name ends in one.
struct Found {
    /// What it can be loaded by.
    name: String,
    file: TaskFile,
    lang: Option<String>,
}

/// Whether a name is that of a file, and of which member of its group.
fn as_path(name: &str) -> Option<(&Path, Option<&str>)> {
    let (file, member) = match name.split_once('#') {
        Some((file, member)) => (Path::new(file), Some(member)),
        None => (Path::new(name), None),
    };
    let has_extension = file.extension().is_some_and(|e| e == "yaml" || e == "yml");
    (has_extension || file.components().count() > 1).then_some((file, member))
}

/// What a name or path stands for: one task, or the members of a group.
fn find_all(name: &str) -> Result<Vec<Found>, Error> {
    match as_path(name) {
        Some((path, member)) => find_in_file(name, path, member),
        None => find_builtin(name),
    }
}

fn find_in_file(name: &str, path: &Path, member: Option<&str>) -> Result<Vec<Found>, Error> {
    let one = |file: TaskFile| {
        vec![Found {
            name: name.into(),
            file,
            lang: None,
        }]
    };
    if harness::is_harness(path)? {
        let tasks = harness::read(path, member)?;
        let found = |(member, file): (Option<String>, TaskFile)| Found {
            name: match member {
                Some(member) => format!("{}#{member}", path.display()),
                None => name.into(),
            },
            file,
            lang: None,
        };
        return Ok(tasks.into_iter().map(found).collect());
    }
    let file = TaskFile::read(path)?;
    match (member, file.subjects.is_empty()) {
        (None, true) => Ok(one(file)),
        (None, false) => Ok(of_subjects(&file, &subject_names(&file), |subject| {
            format!("{}#{subject}", path.display())
        })),
        (Some(subject), _) if subject_names(&file).iter().any(|known| known == subject) => {
            Ok(one(file.of_subject(subject)))
        }
        (Some(subject), _) => Err(Error::UnknownTask {
            name: format!("{}#{subject}", path.display()),
            hint: String::new(),
            known: subject_names(&file).join(", "),
        }),
    }
}

fn subject_names(file: &TaskFile) -> Vec<String> {
    file.subjects.iter().map(|(name, _)| name.clone()).collect()
}

fn of_subjects(file: &TaskFile, subjects: &[String], name: impl Fn(&str) -> String) -> Vec<Found> {
    let found = |subject: &String| Found {
        name: name(subject),
        file: file.clone().of_subject(subject),
        lang: None,
    };
    subjects.iter().map(found).collect()
}

/// A built-in task by its name, by name and language, or by name and subject or group of subjects.
fn find_builtin(name: &str) -> Result<Vec<Found>, Error> {
    // The longest name first: `gsm8k_cot_llama` is no language of `gsm8k_cot`.
    let mut names = task_file::builtin_names();
    names.sort_by_key(|known| std::cmp::Reverse(known.len()));
    for builtin in names {
        let Some(rest) = name.strip_prefix(builtin) else {
            continue;
        };
        let Some(file) = TaskFile::builtin(builtin) else {
            continue;
        };
        let part = match rest.strip_prefix([':', '_']) {
            None if rest.is_empty() => None,
            None => continue,
            Some(part) => Some(part),
        };
        return find_part(file?, builtin, part);
    }
    let known = task_file::builtin_names();
    Err(Error::UnknownTask {
        name: name.into(),
        hint: yaml::did_you_mean(name, &known),
        known: known.join(", "),
    })
}

fn find_part(file: TaskFile, builtin: &str, part: Option<&str>) -> Result<Vec<Found>, Error> {
    let of = |subjects: &[String]| of_subjects(&file, subjects, |subject| format!("{builtin}_{subject}"));
    match part {
        None if !file.subjects.is_empty() => Ok(of(&subject_names(&file))),
        Some(part) if !file.subjects.is_empty() => {
            let group = file.groups.iter().find(|(name, _)| name == part);
            match (file.subjects.iter().any(|(name, _)| name == part), group) {
                (true, _) => Ok(of(&[part.to_string()])),
                (false, Some((_, members))) => Ok(of(members)),
                (false, None) => {
                    let known: Vec<String> = subject_names(&file);
                    let groups = file.groups.iter().map(|(name, _)| name.clone());
                    let known: Vec<String> = groups.chain(known).collect();
                    let names: Vec<&str> = known.iter().map(String::as_str).collect();
                    Err(Error::UnknownTask {
                        name: format!("{builtin}_{part}"),
                        hint: yaml::did_you_mean(part, &names),
                        known: known
                            .iter()
                            .map(|name| format!("{builtin}_{name}"))
                            .collect::<Vec<_>>()
                            .join(", "),
                    })
                }
            }
        }
        None => Ok(vec![Found {
            name: builtin.into(),
            file,
            lang: None,
        }]),
        Some(lang) => {
            check_lang(&file, lang)?;
            Ok(vec![Found {
                name: builtin.into(),
                file,
                lang: Some(lang.into()),
            }])
        }
    }
}

/// The one task that a name stands for.
fn find(name_or_path: &str) -> Result<(TaskFile, Option<String>), Error> {
    let mut found = find_all(name_or_path)?;
    match found.len() {
        1 => {
            let found = found.remove(0);
            Ok((found.file, found.lang))
        }
        _ => Err(Error::UnknownTask {
            name: name_or_path.into(),
            hint: ", but a group of several".into(),
            known: found.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// The groups that a name stands for, each with the tasks whose scores it is the mean of: `mmlu` and its parts.
///
/// # Errors
/// As [`expand`].
pub fn groups(name: &str) -> Result<Vec<(String, Vec<String>)>, Error> {
    let found = find_all(name)?;
    if found.len() < 2 {
        return Ok(Vec::new());
    }
    let tasks: Vec<String> = found.iter().map(|f| f.file.name.clone()).collect();
    let label = match as_path(name) {
        Some((path, _)) => path
            .file_stem()
            .map_or(name.into(), |stem| stem.to_string_lossy().into_owned()),
        None => name.to_string(),
    };
    let mut groups = vec![(label, tasks.clone())];
    if let Some(Ok(file)) = TaskFile::builtin(name) {
        let members = |of: &[String]| of.iter().map(|subject| format!("{name}_{subject}")).collect();
        groups.extend(
            file.groups
                .iter()
                .map(|(group, of)| (format!("{name}_{group}"), members(of))),
        );
    }
    Ok(groups)
}

fn check_lang(file: &TaskFile, lang: &str) -> Result<(), Error> {
    let known = file.lang_names();
    if known.contains(&lang) {
        return Ok(());
    }
    Err(Error::UnknownLanguage {
        task: file.name.clone(),
        lang: lang.into(),
        known: known.join(", "),
    })
}

impl Task {
    /// A built-in task (`gsm8k`, `mgsm_direct_es`, `mgsm_direct:es`) or a task file. Data are read by
    /// [`Task::questions`] only.
    ///
    /// # Errors
    /// An unknown name or language, a file that is no task, templates and patterns that do not compile.
    pub fn load(name_or_path: &str, options: &TaskOptions, data_dirs: &DataDirs) -> Result<Task, Error> {
        let (file, named) = find(name_or_path)?;
        let lang = match options.lang.clone().or(named) {
            Some(lang) => lang,
            None => match file.lang_names().as_slice() {
                [only] => only.to_string(),
                several => {
                    return Err(Error::WhichLanguage {
                        task: file.name.clone(),
                        known: several.join(", "),
                        first: several.first().unwrap_or(&"en").to_string(),
                    });
                }
            },
        };
        check_lang(&file, &lang)?;
        Task::ready(file, lang, options, data_dirs)
    }

    fn ready(file: TaskFile, lang: String, options: &TaskOptions, dirs: &DataDirs) -> Result<Task, Error> {
        let settings = file.settings(options.profile);
        let mut words = file
            .langs
            .iter()
            .find(|(l, _)| *l == lang)
            .map(|(_, words)| words.clone())
            .unwrap_or_default();
        words.insert("lang".into(), lang.as_str().into());
        let make = Maker {
            task: &file.name,
            words: &words,
            style: Style::of(&answer_lang(&settings, &lang)),
        };
        if let Some(samples) = &options.samples {
            let wrong = |message: String| Error::Samples {
                task: file.name.clone(),
                message,
            };
            if file.kind != Kind::Generate {
                return Err(wrong("go with tasks whose answers are generated".into()));
            }
            samples.checked().map_err(wrong)?;
        }
        let filters = settings
            .filters
            .iter()
            .flatten()
            .map(|f| make.filter(f))
            .collect::<Result<Vec<_>, _>>()?;
        let mut settings = settings;
        settings.samples = options.samples.or(settings.samples);
        settings.think = options.think.clone().or(settings.think);
        let mut verdicts = file.verdicts(&settings);
        if let (Some(samples), Some(score)) = (&settings.samples, &options.score)
            && !verdicts.contains(score)
            && score
                .strip_prefix("pass@")
                .and_then(|k| k.parse().ok())
                .is_some_and(|k| (1..=samples.n).contains(&k))
        {
            verdicts.push(score.clone());
        }
        let primary = primary(&file, &settings, options, &verdicts)?;
        let stop_when_answered = settings.stop_when_answered.unwrap_or(false);
        let template = |key: &str, text: &Option<String>| text.as_ref().map(|t| make.template(key, t)).transpose();
        Ok(Task {
            fields: file
                .fields
                .iter()
                .map(|(name, text)| Ok((name.clone(), make.template(&format!("fields.{name}"), text)?)))
                .collect::<Result<_, Error>>()?,
            wording: make.wording(&file, &settings)?,
            preamble: template("preamble", &settings.preamble)?,
            answer_prefix: template("answer_prefix", &settings.answer_prefix)?,
            shots: make.shots(&settings, options)?,
            target_delimiter: settings.target_delimiter.clone().unwrap_or_else(|| " ".into()),
            fewshot_delimiter: settings.fewshot_delimiter.clone().unwrap_or_else(|| "\n\n".into()),
            stop: make.words(settings.stop.as_deref().unwrap_or_default())?.into(),
            stop_when_answered: number_step(&filters)
                .filter(|_| stop_when_answered)
                .map(|answer| Arc::new(answer.clone())),
            max_new_tokens: options.max_new_tokens.or(settings.max_new_tokens).unwrap_or(256),
            primary,
            verdicts,
            normalization: make.normalization(settings.normalize.as_ref())?,
            gate: make.gate(settings.language_gate.as_ref(), &lang)?,
            samples: settings.samples,
            think: settings.think.clone(),
            filters,
            words,
            lang,
            options: options.clone(),
            dirs: dirs.clone(),
            digest: OnceLock::new(),
            file,
        })
    }

    /// A task from the text of its file, in one language. It has no data: its questions are somebody else's.
    ///
    /// # Errors
    /// As [`Task::load`].
    pub fn of_text(name: &str, text: &str, lang: &str, options: &TaskOptions) -> Result<Task, Error> {
        let file = TaskFile::parse(Path::new(name), text, None)?;
        check_lang(&file, lang)?;
        Task::ready(file, lang.into(), options, &DataDirs { roots: Vec::new() })
    }

    /// As its file has it: a member of a group has its own.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// What its file says of it, for people.
    pub fn description(&self) -> &str {
        &self.file.description
    }

    /// The text of its file.
    pub fn text(&self) -> &str {
        &self.file.text
    }

    /// As it was asked for.
    pub fn options(&self) -> &TaskOptions {
        &self.options
    }

    /// ISO 639-1, as its file has it.
    pub fn lang(&self) -> &str {
        &self.lang
    }

    /// What it measures.
    pub fn kind(&self) -> Kind {
        self.file.kind
    }

    /// Whose way of asking and judging it follows.
    pub fn profile(&self) -> Profile {
        self.options.profile
    }

    /// The same task, asked through the model's chat template.
    pub fn through_chat_template(mut self, chat: Chat) -> Self {
        self.options.chat = Some(chat);
        self
    }

    /// How it is put to a chat model; `None` as plain text.
    pub fn chat(&self) -> Option<&Chat> {
        self.options.chat.as_ref()
    }

    /// The names of the verdicts on an answer, in order; the scores come under these. Filters, or ways to choose.
    pub fn filter_names(&self) -> impl Iterator<Item = &str> {
        self.verdicts.iter().map(String::as_str)
    }

    /// The verdict that counts.
    pub fn primary_filter(&self) -> &str {
        self.verdicts.get(self.primary).map_or("", String::as_str)
    }

    /// How many answers are drawn to each question; greedily, one.
    pub fn samples(&self) -> Option<&Samples> {
        self.samples.as_ref()
    }

    /// How thoughts are marked; `None` where what is thought counts as said.
    pub fn think(&self) -> Option<&Think> {
        self.think.as_ref()
    }

    /// Whether it was read from lm-evaluation-harness's own file.
    pub fn is_of_harness(&self) -> bool {
        self.file.harness.is_some()
    }

    /// Whether it was read from a file, and is not built in.
    pub fn is_of_file(&self) -> bool {
        self.file.dir.is_some()
    }

    pub(crate) fn metrics(&self) -> &[Metric] {
        &self.file.metrics
    }

    /// Whether its score is a log-likelihood a token, and not right or wrong.
    pub fn is_likelihood(&self) -> bool {
        self.kind() == Kind::LogLikelihood && self.verdicts.is_empty()
    }

    /// The score that a search maximises.
    pub fn primary(&self) -> String {
        match (self.is_likelihood(), self.gate) {
            (true, _) => "log_likelihood".into(),
            (_, None) => self.primary_filter().into(),
            (_, Some(_)) => format!("{}+language", self.primary_filter()),
        }
    }

    /// The language that answers have to be in, if any.
    pub fn gate(&self) -> Option<Gate> {
        self.gate
    }

    /// Everything that decides what is asked and how it is judged: the file, the data's content, the options.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            let mut part = |bytes: &[u8]| {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            };
            part(b"heterosis task 2");
            part(self.file.content.as_bytes());
            part(self.lang.as_bytes());
            part(format!("{:?}", self.options).as_bytes());
            for file in self.data_files() {
                // A file that is not there is one more thing that decides; what it means is said by `questions`.
                part(&data::bytes_of(&file).unwrap_or_default());
            }
            if number_step(&self.filters).is_some() || self.normalization.number.is_some() {
                part(&extract::NUMBERS_VERSION.to_le_bytes());
            }
            if let Some(subject) = &self.file.subject {
                part(subject.as_bytes());
            }
            hasher.finalize().to_hex().to_string()
        })
    }

    /// What decides a model's output besides the prompt and the weights: where it stops, and how the prompt is wrapped.
    /// How an output is judged is no part of it.
    pub fn decoding_digest(&self) -> String {
        let decides = format!(
            "{:?} {:?} {:?} {:?} {} {} {:?}",
            self.kind(),
            self.target_delimiter,
            self.stop,
            // Where the answer stands depends on the rule as well as on the markers.
            self.stop_when_answered
                .as_ref()
                .map(|answer| (answer, extract::NUMBERS_VERSION)),
            self.max_new_tokens,
            self.profile(),
            self.chat()
        );
        let decides = match (&self.samples, &self.think) {
            (None, None) => decides,
            // Another score of the same samples needs no other answers.
            (samples, think) => format!("{decides} {samples:?} {think:?}"),
        };
        blake3::hash(decides.as_bytes()).to_hex().to_string()
    }

    /// The data files that are there, each once.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let settings = self.file.settings(self.options.profile);
        let splits = self.file.data.iter().map(|(_, source)| source);
        let pool = settings.shots.as_ref().and_then(|shots| match &shots.pool {
            Pool::File(source) => Some(source),
            Pool::Examples(_) => None,
        });
        let mut files: Vec<PathBuf> = splits
            .chain(pool)
            .filter_map(|source| self.locate(source).ok().map(|(_, path)| path))
            .collect();
        files.sort();
        files.dedup();
        files
    }

    /// The splits that the task has.
    pub fn splits(&self) -> Vec<Split> {
        Split::ALL
            .into_iter()
            .filter(|&split| self.file.source(split).is_some() || self.is_split_off(split))
            .collect()
    }

    /// Whether a split has no data of its own, and is a part of the search's.
    fn is_split_off(&self, split: Split) -> bool {
        split == Split::Selection && self.file.splits_off_selection()
    }

    /// What a split off selection is, in words; none where the task has its own.
    pub fn split_off_rule(&self) -> Option<&'static str> {
        self.file
            .splits_off_selection()
            .then_some("a quarter of its search questions, chosen by a hash of their rows, is kept for the selection")
    }

    /// The questions of a split, in the order of its file, up to the limit.
    ///
    /// # Errors
    /// No such split, data that are missing or damaged, templates that name fields which a row does not have, more
    /// examples wanted than there are.
    pub fn questions(&self, split: Split) -> Result<Vec<Question>, Error> {
        heterosis_engine::among_deep_stacks(|| self.worded(split))
    }

    /// How many [`Self::questions`] there are, without putting them into words.
    ///
    /// # Errors
    /// No such split, data that are missing or damaged.
    pub fn count(&self, split: Split) -> Result<usize, Error> {
        Ok(self.rows(split)?.len())
    }

    fn worded(&self, split: Split) -> Result<Vec<Question>, Error> {
        let rows = self.rows(split)?;
        let mut shots = self.drawer()?;
        rows.iter().map(|row| self.question(row, &mut shots)).collect()
    }

    /// The rows of a split's questions, up to the limit.
    fn rows(&self, split: Split) -> Result<Vec<Located>, Error> {
        let source = match self.is_split_off(split) {
            true => self.file.source(Split::Search),
            false => self.file.source(split),
        };
        let source = source.ok_or_else(|| Error::NoSplit {
            task: self.file.name.clone(),
            split,
            known: self.splits().iter().map(|s| s.name()).collect::<Vec<_>>().join(", "),
        })?;
        let mut rows = self.read(source)?;
        if self.file.splits_off_selection() && matches!(split, Split::Search | Split::Selection) {
            rows.retain(|row| is_kept_for_selection(&row.row) == (split == Split::Selection));
        }
        rows.truncate(self.options.limit.unwrap_or(usize::MAX));
        Ok(rows)
    }

    /// The questions of a split, of which there has to be one.
    ///
    /// # Errors
    /// As [`Self::questions`]; there is none.
    pub fn some_questions(&self, split: Split) -> Result<Vec<Question>, Error> {
        let questions = self.questions(split)?;
        match questions.is_empty() {
            true => Err(Error::NoQuestions {
                task: self.file.name.clone(),
                split,
            }),
            false => Ok(questions),
        }
    }

    fn question(&self, located: &Located, shots: &mut Drawer) -> Result<Question, Error> {
        let row = self.fields(&located.row);
        let worded = self.wording.of(&row).map_err(|e| self.at_row(e, located))?;
        let choices = self.choices(located, &row, &worded)?;
        let render = |template: &Option<Template>| template.as_ref().map(|t| t.render(&row)).transpose();
        Ok(Question {
            id: located.id.clone(),
            identity: Identity::of(&asked(self.wording.asking(), &located.row), &worded.gold),
            prompt: Prompt {
                preamble: render(&self.preamble)?.unwrap_or_default(),
                shots: shots.draw(self, located)?,
                question: worded.question,
                answer_prefix: render(&self.answer_prefix)?.unwrap_or_default(),
                target_delimiter: self.target_delimiter.clone(),
                fewshot_delimiter: self.fewshot_delimiter.clone(),
            },
            target: worded.target,
            gold: worded.gold,
            choices,
            right: worded.right,
        })
    }

    /// A field that a row lacks is named with the row's place and the fields that it has.
    fn at_row(&self, error: Error, located: &Located) -> Error {
        let known = self.fields(&located.row);
        let templates = self
            .fields
            .iter()
            .map(|(_, template)| template)
            .chain(self.wording.templates());
        for template in templates {
            if let Some(field) = template
                .fields()
                .iter()
                .find(|field| !known.contains_key(*field) && *field != "choice")
            {
                let names: Vec<&str> = located.row.keys().map(String::as_str).collect();
                return Error::Field(Box::new(MissingField {
                    file: located.file.to_path_buf(),
                    line: located.line,
                    place: template.place().into(),
                    field: field.clone(),
                    hint: yaml::did_you_mean(field, &names),
                    known: names.join(", "),
                }));
            }
        }
        match error {
            Error::Template { place, message } => Error::Row {
                file: located.file.to_path_buf(),
                line: located.line,
                message: format!("the template of {place} cannot be filled: {message}"),
            },
            other => other,
        }
    }

    /// The choices of a question, each with what follows when it is chosen.
    fn choices(&self, located: &Located, row: &Row, worded: &Worded) -> Result<Vec<Choice>, Error> {
        let texts = &worded.choices;
        if !self.kind().chooses() {
            return Ok(Vec::new());
        }
        let wrong = |message: String| Error::Choices {
            question: located.id.clone(),
            task: self.file.name.clone(),
            message,
        };
        let Wording::Own(own) = &self.wording else {
            if texts.is_empty() {
                return Err(wrong("there is nothing to choose from".into()));
            }
            let choice = |text: &String| Choice {
                text: text.clone(),
                question: worded.follows.as_ref().map(|_| text.clone()),
                continuation: worded.follows.clone().unwrap_or_else(|| text.clone()),
            };
            return Ok(texts.iter().map(choice).collect());
        };
        if texts.len() < 2 || texts.iter().any(String::is_empty) {
            return Err(wrong(format!(
                "at least two choices are needed, none of them empty; here are {texts:?}"
            )));
        }
        if worded.right.is_empty() {
            return Err(wrong(format!("the right one, '{}', is none of {texts:?}", worded.gold)));
        }
        let choice = |text: &String| {
            Ok(Choice {
                text: text.clone(),
                question: match &worded.follows {
                    Some(_) => Some(own.with_choice(row, text)?),
                    None => None,
                },
                continuation: match (&worded.follows, self.kind()) {
                    (Some(follows), _) => follows.clone(),
                    (None, Kind::Blank) => own.with_choice(row, text)?,
                    (None, _) => text.clone(),
                },
            })
        };
        texts.iter().map(choice).collect()
    }

    /// A row's fields and the words of the language.
    fn fields(&self, row: &Row) -> Row {
        let mut fields = self.words.clone();
        fields.extend(row.iter().map(|(k, v)| (k.clone(), v.clone())));
        // Rows of a data set that is cut by subject often say theirs too, in words of their own.
        if let Some(subject) = self.words.get("subject").filter(|_| self.file.subject.is_some()) {
            fields.insert("subject".into(), subject.clone());
        }
        fields
    }

    /// The rendered name of a data file and where it lies.
    fn locate(&self, source: &Source) -> Result<(String, PathBuf), Error> {
        let name = Template::new(format!("{}: data", self.file.name), &source.file)?.render(&self.words)?;
        match self.dirs.find(self.file.dir.as_deref(), &name) {
            Ok(path) => Ok((name, path)),
            // The harness's own files name theirs from the folder in which it is called.
            Err(_) if self.file.harness.is_some() && Path::new(&name).is_file() => Ok((name.clone(), name.into())),
            Err(candidates) => {
                let candidates: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
                Err(Error::NoData {
                    task: self.file.name.clone(),
                    file: name.clone(),
                    looked_for: if candidates.is_empty() {
                        name
                    } else {
                        candidates.join(" and ")
                    },
                })
            }
        }
    }

    fn read(&self, source: &Source) -> Result<Vec<Located>, Error> {
        let (name, path) = self.locate(source)?;
        let mut rows = source.read(&name, &path, &self.lang)?;
        for located in rows.iter_mut().filter(|_| !self.fields.is_empty()) {
            self.complete(located)?;
        }
        Ok(rows)
    }

    /// Adds the fields that are made of a row's own.
    fn complete(&self, located: &mut Located) -> Result<(), Error> {
        for (name, template) in &self.fields {
            let made = template
                .render(&self.fields(&located.row))
                .map_err(|e| self.at_row(e, located))?;
            // A list that a template prints is a list.
            let list = exemplars::literal(&made).filter(serde_json::Value::is_array);
            located.row.insert(name.clone(), list.unwrap_or_else(|| made.into()));
        }
        Ok(())
    }

    fn drawer(&self) -> Result<Drawer, Error> {
        let Some(shots) = self.shots.as_ref().filter(|shots| shots.count > 0) else {
            return Ok(Drawer::none());
        };
        let pool = match &shots.spec.pool {
            Pool::File(source) => self.read(source)?,
            Pool::Examples(rows) => {
                let place: Arc<Path> = self.file.dir.clone().unwrap_or_default().into();
                let located = |(i, row): (usize, &Row)| Located {
                    id: format!("{}/examples/{i}", self.file.name),
                    row: row.clone(),
                    file: place.clone(),
                    line: i + 1,
                };
                rows.iter().enumerate().map(located).collect()
            }
        };
        let seed = match shots.spec.draw {
            Draw::Random { seed } => seed,
            Draw::FirstN => 0,
        };
        Ok(Drawer {
            pool,
            random: PythonRandom::new(seed),
            count: shots.count,
            fixed: None,
        })
    }

    /// What is said in an output, after what was thought; nothing if the thought does not close.
    fn spoken<'t>(&self, output: &'t str) -> &'t str {
        match &self.think {
            Some(think) => think.spoken(output).unwrap_or_default(),
            None => output,
        }
    }

    /// What counts of an output. In the fitness profile what stands after a stop does not, so that the verdict is one whoever
    /// ended the text, and where.
    fn heard<'t>(&self, output: &'t str) -> &'t str {
        match (self.profile(), &self.think) {
            (Profile::Parity, None) => output,
            _ => self.cut(self.spoken(output)),
        }
    }

    /// What each filter extracts from an output, and whether it is the gold answer.
    ///
    /// # Errors
    /// A pattern that takes too long on this text.
    pub fn extract(&self, output: &str, gold: &str) -> Result<Vec<(String, Extracted)>, Error> {
        self.extract_from(&[output], gold)
    }

    /// As [`Task::extract`], of several samples: a filter judges the first one, unless it lets them vote.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn extract_from(&self, outputs: &[&str], gold: &str) -> Result<Vec<(String, Extracted)>, Error> {
        let outputs: Vec<&str> = outputs.iter().map(|output| self.heard(output)).collect();
        if self.metrics().contains(&Metric::Ifeval) {
            return ifeval::judge(outputs.first().unwrap_or(&""), gold).map_err(|message| Error::Template {
                place: format!("{}: gold", self.file.name),
                message,
            });
        }
        let golds = self.wording.golds(gold);
        let judge = |filter: &Filter| {
            let extracted = filter.of_samples(&outputs)?;
            let exact_match = self.is_right(&extracted, &golds)?;
            Ok((filter.name.clone(), Extracted { extracted, exact_match }))
        };
        let judged: Result<_, python_regex::Error> = self.filters.iter().map(judge).collect();
        judged.map_err(|e| self.regex_error(e))
    }

    fn regex_error(&self, source: python_regex::Error) -> Error {
        Error::Regex {
            task: self.file.name.clone(),
            source,
        }
    }

    /// 1 if it is one of the right answers.
    fn is_right(&self, extracted: &str, golds: &[String]) -> Result<f64, python_regex::Error> {
        for gold in golds {
            if self.normalization.equal(extracted, gold)? {
                return Ok(1.0);
            }
        }
        Ok(0.0)
    }

    /// What several samples are worth together by the first filter: the commonest answer, and `pass@k`. In the fitness
    /// profile an output without an answer has no vote, unless none has one.
    ///
    /// # Errors
    /// A pattern that takes too long on one of them.
    pub(crate) fn scores_of_samples(&self, outputs: &[&str], gold: &str) -> Result<Vec<(String, Extracted)>, Error> {
        let (Some(samples), Some(filter)) = (self.samples.filter(|s| s.n > 1), self.filters.first()) else {
            return Ok(Vec::new());
        };
        let golds = self.wording.golds(gold);
        let judged = || -> Result<_, python_regex::Error> {
            let answers: Vec<String> = outputs
                .iter()
                .map(|output| filter.apply(self.heard(output)))
                .collect::<Result<_, _>>()?;
            let mut right = 0;
            for answer in &answers {
                right += usize::from(self.is_right(answer, &golds)? == 1.0);
            }
            let has_answer = |answer: &&String| self.profile() == Profile::Parity || *answer != extract::INVALID;
            let voters: Vec<&String> = answers.iter().filter(has_answer).collect();
            let voters = if voters.is_empty() {
                answers.iter().collect()
            } else {
                voters
            };
            let same = |a: usize, b: usize| match self.profile() {
                Profile::Parity => Ok(voters[a] == voters[b]),
                Profile::Fitness => self.normalization.equal(voters[a], voters[b]),
            };
            let vote = sampling::commonest(voters.len(), same)?.map_or(String::new(), |i| voters[i].clone());
            let vote_is_right = self.is_right(&vote, &golds)?;
            Ok((vote, vote_is_right, right))
        };
        let (vote, vote_is_right, right) = judged().map_err(|e| self.regex_error(e))?;
        let score = |name: String| {
            let k = name.strip_prefix("pass@").and_then(|k| k.parse().ok());
            let verdict = match k {
                Some(k) => Extracted {
                    extracted: String::new(),
                    exact_match: sampling::pass_at(k, outputs.len(), right),
                },
                None => Extracted {
                    extracted: vote.clone(),
                    exact_match: vote_is_right,
                },
            };
            (name, verdict)
        };
        let asked = self.verdicts.iter().filter(|name| name.contains('@')).cloned();
        debug_assert!(samples.n >= outputs.len());
        Ok(asked.map(score).collect())
    }

    /// The worked solution of a question, if its task has any: a target that the task's own judge holds right, and that says
    /// more than the answer.
    ///
    /// # Errors
    /// A pattern that takes too long on this text.
    pub fn solution<'q>(&self, question: &'q Question) -> Result<Option<&'q str>, Error> {
        if self.kind().is_measured() {
            return Ok(None);
        }
        let verdicts = self.extract(&question.target, &question.gold)?;
        let verdict = verdicts.into_iter().find(|(name, _)| name == self.primary_filter());
        let says_more =
            |answer: &str| question.target.split_whitespace().count() > answer.split_whitespace().count() + 1;
        let is_solution = verdict.is_some_and(|(_, v)| v.exact_match == 1.0 && says_more(&v.extracted));
        Ok(is_solution.then_some(question.target.as_str()))
    }

    /// Whether the output is in the language that is asked for; always, where the task has no gate. In the fitness profile
    /// only what leads to the answer is looked at: what follows is not there if generation ended with the answer.
    pub fn language_ok(&self, output: &str) -> bool {
        let text = match self.profile() {
            Profile::Parity => self.heard(output),
            Profile::Fitness => self.up_to_the_answer(self.heard(output)),
        };
        self.gate.is_none_or(|gate| gate.passes(text))
    }

    fn up_to_the_answer<'t>(&self, output: &'t str) -> &'t str {
        let announced = number_step(&self.filters).and_then(|answer| answer.announced(output));
        announced.map_or(output, |(range, _)| &output[..range.end])
    }

    /// Cuts an output as the harness does: at the first of each stop in turn.
    pub fn cut<'t>(&self, output: &'t str) -> &'t str {
        let stops = self.stop.iter().filter(|stop| !stop.is_empty());
        stops.fold(output, |text, stop| text.split(stop.as_str()).next().unwrap_or(text))
    }

    /// A test whether the answer stands already, so that generation can end; `None` in the parity profile.
    pub fn stop_when(&self) -> Option<heterosis_engine::engine::StopWhen> {
        let answer = self.stop_when_answered.clone()?;
        Some(Arc::new(move |text| answer.settled(text).is_some()))
    }
}

/// Which rows a search keeps for its finalists, where a task does not say: a quarter, by their content, so that a row that
/// stands there twice is on one side.
fn is_kept_for_selection(row: &Row) -> bool {
    let text = serde_json::to_string(row).unwrap_or_default();
    blake3::hash(text.as_bytes()).as_bytes()[0].is_multiple_of(4)
}

/// The place of the verdict that counts: what is asked for, what the task says, the vote of several samples, `acc_norm` among
/// ways to choose, or the first. `pass@k` may be asked for any k.
fn primary(file: &TaskFile, settings: &Settings, options: &TaskOptions, verdicts: &[String]) -> Result<usize, Error> {
    let position = |name: &str| verdicts.iter().position(|known| known == name);
    if let Some(score) = &options.score {
        return position(score).ok_or_else(|| {
            let known: Vec<&str> = verdicts.iter().map(String::as_str).collect();
            Error::NoScore {
                task: file.name.clone(),
                score: score.clone(),
                hint: yaml::did_you_mean(score, &known),
                known: known.join(", "),
            }
        });
    }
    let vote = settings.samples.filter(|s| s.n > 1).map(|s| format!("maj@{}", s.n));
    let vote = vote.filter(|_| file.harness.is_none());
    let named = settings.primary.clone().or(vote);
    Ok(named
        .and_then(|name| position(&name))
        .or_else(|| position(Metric::AccNorm.name()))
        .unwrap_or(0))
}

/// The first step that looks for a number.
fn number_step(filters: &[Filter]) -> Option<&NumberAnswer> {
    filters.iter().flat_map(|f| &f.steps).find_map(|step| match step {
        Step::Number(answer) => Some(answer),
        _ => None,
    })
}

/// The language that answers are in: what the gate asks for, or else the task's.
fn answer_lang(settings: &Settings, lang: &str) -> String {
    match &settings.language_gate {
        Some(GateSpec::On { lang: Some(gate), .. }) if !gate.contains("{{") => gate.clone(),
        _ => lang.into(),
    }
}

/// Draws the few-shot examples of one question after another.
struct Drawer {
    pool: Vec<Located>,
    random: PythonRandom,
    count: usize,
    /// Examples that all questions share, once rendered.
    fixed: Option<Vec<Shot>>,
}

impl Drawer {
    fn none() -> Self {
        Drawer {
            pool: Vec::new(),
            random: PythonRandom::new(0),
            count: 0,
            fixed: None,
        }
    }

    /// lm-eval's `ContextSampler.sample`. A question that is itself in the pool is never its own example: one more is
    /// drawn, and rows equal to it are left out.
    fn draw(&mut self, task: &Task, question: &Located) -> Result<Vec<Shot>, Error> {
        let Some(shots) = task.shots.as_ref().filter(|_| self.count > 0) else {
            return Ok(Vec::new());
        };
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        let in_pool = match shots.spec.spare {
            Some(spare) => spare,
            None => self.pool.iter().any(|row| row.id == question.id),
        };
        let same = |i: &usize| in_pool && self.pool[*i].row == question.row;
        let chosen: Vec<usize> = match shots.spec.draw {
            Draw::FirstN => (0..self.pool.len()).filter(|i| !same(i)).take(self.count).collect(),
            Draw::Random { .. } => {
                let wanted = self.count + usize::from(in_pool);
                let wanted = wanted.min(self.pool.len().max(self.count));
                let drawn = self.random.sample(self.pool.len(), wanted).unwrap_or_default();
                let mut left: Vec<usize> = drawn.into_iter().filter(|i| !same(i)).take(self.count).collect();
                if in_pool && left.len() < self.count {
                    let others: Vec<usize> = (0..self.pool.len()).filter(|i| !same(i)).collect();
                    let drawn = self.random.sample(others.len(), self.count).unwrap_or_default();
                    left = drawn.into_iter().map(|i| others[i]).collect();
                }
                left
            }
        };
        if chosen.len() < self.count {
            return Err(Error::Shots {
                task: task.file.name.clone(),
                wanted: self.count,
                available: (0..self.pool.len()).filter(|i| !same(i)).count(),
            });
        }
        let rendered = chosen
            .iter()
            .map(|&i| shots.render(task, &self.pool[i]))
            .collect::<Result<Vec<_>, _>>()?;
        if shots.spec.draw == Draw::FirstN && !in_pool {
            self.fixed = Some(rendered.clone());
        }
        Ok(rendered)
    }
}

impl ReadyShots {
    fn render(&self, task: &Task, located: &Located) -> Result<Shot, Error> {
        let row = &located.row;
        let fields = task.fields(row);
        let worded = task.wording.example(&fields).map_err(|e| task.at_row(e, located))?;
        let prefix = self.answer_prefix.as_ref().map(|t| t.render(&fields)).transpose()?;
        let prefix = prefix.unwrap_or_default();
        let begun = Prompt {
            question: worded.question,
            answer_prefix: prefix.clone(),
            ..Prompt::default()
        };
        let runs_on = !prefix.is_empty() && !begun.needs_delimiter();
        Ok(Shot {
            identity: Identity::of(&asked(task.wording.asking_example(), row), &worded.gold),
            question: begun.question,
            delimiter: if runs_on {
                String::new()
            } else {
                self.target_delimiter.clone()
            },
            answer: match worded.target.is_empty() {
                true => String::new(),
                false => prompt::joined(&prefix, &worded.target, " "),
            },
            end: self.fewshot_delimiter.clone(),
        })
    }
}

/// The fields of a row that a template asks.
fn asked(prompt: Option<&Template>, row: &Row) -> Vec<String> {
    let names = prompt.iter().flat_map(|prompt| prompt.fields());
    let fields = names.filter_map(|name| row.get(name));
    let text = |field: &serde_json::Value| field.as_str().map_or_else(|| field.to_string(), String::from);
    fields.map(text).collect()
}

/// Turns what was written into what is used: templates compiled, words of the language filled in, patterns compiled.
struct Maker<'a> {
    task: &'a str,
    words: &'a Row,
    /// How answers write their numbers.
    style: Style,
}

impl Maker<'_> {
    fn template(&self, key: &str, source: &str) -> Result<Template, Error> {
        Template::new(format!("{}: {key}", self.task), source)
    }

    /// Text in which only words of the language may stand, such as a stop string.
    fn word(&self, text: &str) -> Result<String, Error> {
        if !text.contains("{{") {
            return Ok(text.into());
        }
        self.template("words of the language", text)?.render(self.words)
    }

    fn words(&self, texts: &[String]) -> Result<Vec<String>, Error> {
        texts.iter().map(|text| self.word(text)).collect()
    }

    fn regex(&self, pattern: &str) -> Result<PythonRegex, Error> {
        PythonRegex::new(&self.word(pattern)?).map_err(|source| Error::Regex {
            task: self.task.into(),
            source,
        })
    }

    fn filter(&self, spec: &FilterSpec) -> Result<Filter, Error> {
        let step = |step: &StepSpec| {
            Ok(match step {
                StepSpec::Regex {
                    pattern,
                    pick,
                    fallback,
                } => Step::Regex {
                    pattern: self.regex(pattern)?,
                    pick: *pick,
                    fallback: fallback.clone().unwrap_or_else(|| extract::INVALID.into()),
                },
                StepSpec::RemoveWhitespace => Step::RemoveWhitespace,
                StepSpec::Lowercase => Step::Lowercase,
                StepSpec::Uppercase => Step::Uppercase,
                StepSpec::Map { pairs, default } => Step::Map {
                    pairs: pairs.clone(),
                    default: default.clone(),
                },
                StepSpec::Maths { boxed } => Step::Maths { boxed: *boxed },
                StepSpec::Number {
                    markers,
                    otherwise_last,
                } => Step::Number(NumberAnswer {
                    markers: Markers::new(&self.words(markers)?),
                    otherwise_last: *otherwise_last,
                    style: self.style,
                }),
            })
        };
        Ok(Filter {
            name: spec.name.clone(),
            steps: spec.steps.iter().map(step).collect::<Result<_, Error>>()?,
            vote: spec.vote,
        })
    }

    fn wording(&self, file: &TaskFile, settings: &Settings) -> Result<Wording, Error> {
        match &file.harness {
            Some(words) => self.harness_wording(file.kind, words),
            None => self.own_wording(file.kind, settings),
        }
    }

    fn harness_wording(&self, kind: Kind, words: &HarnessWords) -> Result<Wording, Error> {
        let doc = |key: &str, source: &serde_json::Value| Doc::new(&format!("{}: {key}", self.task), source.clone());
        let optional = |key: &str, source: &Option<serde_json::Value>| source.as_ref().map(|s| doc(key, s)).transpose();
        Ok(Wording::Harness(Box::new(DocTo {
            kind,
            text: doc("doc_to_text", &words.text)?,
            target: doc("doc_to_target", &words.target)?,
            choices: optional("doc_to_choice", &words.choices)?,
            example_text: optional("fewshot_config.doc_to_text", &words.example_text)?,
            example_target: optional("fewshot_config.doc_to_target", &words.example_target)?,
            example_choices: optional("fewshot_config.doc_to_choice", &words.example_choices)?,
        })))
    }

    fn own_wording(&self, kind: Kind, settings: &Settings) -> Result<Wording, Error> {
        let template = |key: &str, text: Option<&String>| text.map(|t| self.template(key, t)).transpose();
        let target = settings.target.clone().unwrap_or_default();
        let gold = settings.gold.as_ref().unwrap_or(&target);
        let shots = settings.shots.as_ref();
        let is_labelled = settings.gold_is == GoldIs::Labels;
        Ok(Wording::Own(Box::new(Own {
            kind,
            prompt: template("prompt", settings.prompt.as_ref())?,
            gold: self.template("gold", if is_labelled { "" } else { gold })?,
            target: template("target", settings.gold.as_ref().and(settings.target.as_ref()))?,
            choices: self.choices(settings.choices.as_ref())?,
            right: match settings.gold_is {
                GoldIs::Text => Right::Text,
                GoldIs::Position => Right::Place,
                GoldIs::Labels => Right::Labels(Box::new(prompt::ListExpression::new(
                    format!("{}: labels", self.task),
                    gold,
                )?)),
            },
            continuation: template("continuation", settings.continuation.as_ref())?,
            example_prompt: template("shots.prompt", shots.and_then(|s| s.prompt.as_ref()))?,
            example_target: template(
                "shots.target",
                shots.and_then(|s| s.target.as_ref()).or(settings.target.as_ref()),
            )?,
        })))
    }

    fn choices(&self, spec: Option<&ChoicesSpec>) -> Result<Choices, Error> {
        Ok(match spec {
            None => Choices::None,
            Some(ChoicesSpec::Each(templates)) => {
                let templates = templates.iter().map(|t| self.template("choices", t));
                Choices::Each(templates.collect::<Result<_, _>>()?)
            }
            Some(ChoicesSpec::List(expression)) => {
                let place = format!("{}: choices", self.task);
                Choices::List(Box::new(prompt::ListExpression::new(place, expression)?))
            }
        })
    }

    fn normalization(&self, spec: Option<&NormalizeSpec>) -> Result<Normalization, Error> {
        let Some(spec) = spec else {
            return Ok(Normalization::default());
        };
        Ok(Normalization {
            regexes_to_ignore: spec
                .regexes_to_ignore
                .iter()
                .map(|r| self.regex(r))
                .collect::<Result<_, _>>()?,
            ignore_case: spec.ignore_case,
            ignore_punctuation: spec.ignore_punctuation,
            ignore_numbers: spec.ignore_numbers,
            number: spec.number.then_some(self.style),
            maths: spec.maths,
        })
    }

    fn gate(&self, spec: Option<&GateSpec>, task_lang: &str) -> Result<Option<Gate>, Error> {
        let Some(GateSpec::On { lang, min_letters }) = spec else {
            return Ok(None);
        };
        let lang = self.word(lang.as_deref().unwrap_or(task_lang))?;
        let language = Language::from_code(&lang).ok_or_else(|| Error::Gate {
            task: self.task.into(),
            lang: lang.clone(),
            known: Language::CODES.join(", "),
        })?;
        Ok(Some(Gate {
            language,
            min_letters: min_letters.unwrap_or(Gate::DEFAULT_MIN_LETTERS),
        }))
    }

    /// A task that is written for no examples keeps to that, as in the harness; the user is told.
    fn shots(&self, settings: &Settings, options: &TaskOptions) -> Result<Option<ReadyShots>, Error> {
        let Some(spec) = settings.shots.clone() else {
            if options.shots.is_some_and(|n| n > 0) {
                tracing::warn!(
                    "the task '{}' takes no few-shot examples; --shots is ignored, as in lm-eval",
                    self.task
                );
            }
            return Ok(None);
        };
        let delimiter = |own: &Option<String>, of_task: &Option<String>, otherwise: &str| {
            own.clone().or(of_task.clone()).unwrap_or_else(|| otherwise.into())
        };
        Ok(Some(ReadyShots {
            count: options.shots.unwrap_or(spec.count),
            target_delimiter: delimiter(&spec.target_delimiter, &settings.target_delimiter, " "),
            fewshot_delimiter: delimiter(&spec.fewshot_delimiter, &settings.fewshot_delimiter, "\n\n"),
            answer_prefix: spec
                .answer_prefix
                .as_ref()
                .or(settings.answer_prefix.as_ref())
                .map(|t| self.template("shots.answer_prefix", t))
                .transpose()?,
            spec,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A few published rows; see `tests/data/README.md`.
    pub(crate) fn sample() -> DataDirs {
        DataDirs {
            roots: vec![golden("data")],
        }
    }

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    fn golden_lines(name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(golden(name)).unwrap();
        text.split('\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn fitness(lang: Option<&str>) -> TaskOptions {
        TaskOptions {
            lang: lang.map(str::to_string),
            profile: Profile::Fitness,
            ..TaskOptions::default()
        }
    }

    fn load(name: &str, options: &TaskOptions) -> Task {
        Task::load(name, options, &sample()).unwrap()
    }

    /// To see how many questions there are, all of them were put into words once more.
    #[test]
    fn questions_are_counted_without_words() {
        let dir = tempfile::tempdir().unwrap();
        let rows: String = (0..20)
            .map(|n| format!("{{\"q\": \"{n}?\", \"a\": \"{n}\"}}\n"))
            .collect();
        std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
        let task = |asks: &str| {
            let file = dir.path().join("own.yaml");
            let text = format!(
                "task: own\nlang: en\ndata: {{search: rows.jsonl, test: rows.jsonl}}\nprompt: '{{{{{asks}}}}}'\ntarget: '{{{{a}}}}'\n"
            );
            std::fs::write(&file, text).unwrap();
            let options = TaskOptions {
                limit: Some(15),
                ..TaskOptions::default()
            };
            load(&file.display().to_string(), &options)
        };
        let counts =
            |task: &Task| [Split::Search, Split::Selection, Split::Test].map(|split| task.count(split).unwrap());
        let whole = task("q");
        let [search, selection, test] = counts(&whole);
        assert_eq!(
            [search, selection, test],
            [Split::Search, Split::Selection, Split::Test].map(|split| { whole.questions(split).unwrap().len() })
        );
        assert!(
            selection > 0 && test == 15,
            "some of the search's rows are kept for the selection"
        );
        // What no question can be made of is counted all the same.
        let wordless = task("nothing");
        assert!(wordless.questions(Split::Search).is_err());
        assert_eq!(counts(&wordless), [search, selection, test]);
    }

    /// lm-eval's own prompts, messages, gold answers and stops (`tests/peers/prompts.py`).
    #[test]
    fn prompts_are_the_harnesss() {
        let rows = golden_lines("prompts.jsonl");
        assert_eq!(rows.len(), 60);
        for group in rows.chunk_by(|a, b| ["task", "lang", "shots"].iter().all(|key| a[key] == b[key])) {
            let options = TaskOptions {
                lang: group[0]["lang"].as_str().map(str::to_string),
                shots: group[0]["shots"].as_u64().map(|n| n as usize),
                limit: Some(group.len()),
                ..TaskOptions::default()
            };
            let task = load(group[0]["task"].as_str().unwrap(), &options);
            let questions = task.questions(Split::Benchmark).unwrap();
            assert_eq!(questions.len(), group.len());
            for (question, row) in questions.iter().zip(group) {
                assert_eq!(question.prompt.text(), row["prompt"].as_str().unwrap());
                let messages = question.prompt.messages(&Chat::default());
                assert_eq!(serde_json::to_value(messages).unwrap(), row["messages"]);
                assert_eq!(question.gold, row["gold"].as_str().unwrap());
                assert_eq!(serde_json::to_value(&task.stop[..]).unwrap(), row["until"]);
            }
        }
    }

    /// lm-eval's own verdicts on canned and hostile outputs (`tests/peers/extraction.py`).
    #[test]
    fn verdicts_are_the_harnesss() {
        let rows = golden_lines("extraction.jsonl");
        assert_eq!(rows.len(), 333);
        let text = std::fs::read_to_string(golden("extraction.jsonl")).unwrap();
        let names: Vec<String> = ["gsm8k", "gsm8k_cot", "gsm8k_cot_zeroshot", "gsm8k_cot_llama"]
            .into_iter()
            .chain(["mgsm_direct", "mgsm_native_cot", "mgsm_en_cot"])
            .map(str::to_string)
            .collect();
        let stored = rescore::parse(&text).unwrap();
        let outcome = rescore::rescore(stored, &names, &TaskOptions::default(), &DataDirs::default()).unwrap();
        assert_eq!(
            (outcome.lines.len(), outcome.left_out, outcome.scores.len()),
            (333, 0, 37)
        );
        for (ours, row) in outcome.lines.iter().zip(&rows) {
            let filters = serde_json::to_value(&ours.filters).unwrap();
            assert_eq!(filters, row["filters"], "{row}");
        }
    }

    #[test]
    fn rescoring_chooses_its_lines() {
        let line = |task: &str, lang: &str| {
            format!("{{\"task\": \"{task}\", \"lang\": \"{lang}\", \"output\": \"5\", \"gold\": \"5\"}}")
        };
        let text = [
            line("mgsm_direct", "es"),
            line("mgsm_direct", "de"),
            line("gsm8k", "en"),
        ]
        .join("\n");
        let rescore = |tasks: &[&str], lang: Option<&str>| {
            let tasks: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            let options = TaskOptions {
                lang: lang.map(str::to_string),
                ..TaskOptions::default()
            };
            let outcome = rescore::rescore(rescore::parse(&text).unwrap(), &tasks, &options, &DataDirs::default());
            outcome.map(|o| (o.lines.len(), o.left_out))
        };
        assert_eq!(rescore(&["mgsm_direct"], None).unwrap(), (2, 1));
        assert_eq!(rescore(&["mgsm_direct"], Some("es")).unwrap(), (1, 2));
        assert_eq!(rescore(&["mgsm_direct_de", "gsm8k"], None).unwrap(), (2, 1));
        // No line is of this task: all are judged its way.
        assert_eq!(rescore(&["gsm8k_cot"], None).unwrap(), (3, 0));
        assert!(
            rescore(&["gsm8k_solutions"], None)
                .unwrap_err()
                .to_string()
                .contains("log-likelihoods")
        );
        assert!(
            rescore::parse("{\"output\": 1}")
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }

    #[test]
    fn every_file_in_evals_loads_in_every_language_and_profile() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals");
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
            .collect();
        assert!(files.len() >= task_file::builtin_names().len());
        for file in files {
            let name = file.to_str().unwrap();
            for (name, lang) in expand(name, None).unwrap() {
                for profile in [Profile::Parity, Profile::Fitness] {
                    let options = TaskOptions {
                        profile,
                        ..fitness(Some(&lang))
                    };
                    let task = Task::load(&name, &options, &DataDirs::default()).unwrap();
                    assert!(task.splits().contains(&Split::Search), "{name}");
                }
            }
        }
    }

    #[test]
    fn names_find_their_task() {
        let lang = |name: &str| load(name, &TaskOptions::default()).lang().to_string();
        assert_eq!(
            (lang("gsm8k"), lang("mgsm_direct_ja"), lang("mgsm_en_cot:zh")),
            ("en".into(), "ja".into(), "zh".into())
        );
        assert_eq!(expand("mgsm_direct", None).unwrap().len(), 11);
        assert_eq!(
            expand("mgsm_direct_es", None).unwrap(),
            [("mgsm_direct".into(), "es".into())]
        );
        assert_eq!(expand("gsm8k", None).unwrap(), [("gsm8k".into(), "en".into())]);
        for (name, expected) in [
            ("gsm8", "did you mean 'gsm8k'?"),
            ("mgsm_direct_it", "no language 'it'"),
            ("mgsm_direct", "has several languages"),
            ("evals/nothing.yaml", "evals/nothing.yaml cannot be read"),
        ] {
            let message = Task::load(name, &TaskOptions::default(), &sample())
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(tasks().unwrap().len(), task_file::builtin_names().len());
    }

    #[test]
    fn what_is_missing_is_said() {
        let task = load("gsm8k", &TaskOptions::default());
        let nowhere = Task::load("gsm8k", &TaskOptions::default(), &DataDirs::default()).unwrap();
        let message = nowhere.questions(Split::Test).unwrap_err().to_string();
        assert!(
            message.contains("gsm8k/test.jsonl") && message.contains("HETEROSIS_DATA"),
            "{message}"
        );
        let many = TaskOptions {
            shots: Some(25),
            ..TaskOptions::default()
        };
        let message = load("gsm8k", &many).questions(Split::Test).unwrap_err().to_string();
        assert!(
            message.contains("25 few-shot examples are asked for") && message.contains("24 to choose"),
            "{message}"
        );
        assert_eq!(task.questions(Split::Test).unwrap()[2].id, "gsm8k/test/2");
    }

    /// A question of the training set is never its own example.
    #[test]
    fn a_question_is_not_its_own_example() {
        for count in [1, 5, 22, 23] {
            let options = TaskOptions {
                shots: Some(count),
                ..TaskOptions::default()
            };
            let questions = load("gsm8k", &options).questions(Split::Search).unwrap();
            assert_eq!(questions.len(), 24);
            for question in questions {
                let mut seen: Vec<&str> = question.prompt.shots.iter().map(|s| s.question.as_str()).collect();
                assert!(!seen.contains(&question.prompt.question.as_str()));
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), count);
            }
        }
    }

    #[test]
    fn fitness_prompts_share_their_examples() {
        let task = load("mgsm_native_cot", &fitness(Some("ja")));
        let questions = task.questions(Split::Benchmark).unwrap();
        assert_eq!(questions[0].prompt.shots, questions[1].prompt.shots);
        assert_eq!(questions[0].prompt.shots.len(), 8);
        // The harness's slicing takes the first character of the answer away.
        assert!(questions[0].prompt.shots[0].answer.starts_with("ロジャーは"));
        let parity = TaskOptions {
            shots: Some(8),
            ..TaskOptions::default()
        };
        let questions = load("mgsm_native_cot_ja", &parity).questions(Split::Benchmark).unwrap();
        assert!(
            questions[0]
                .prompt
                .shots
                .iter()
                .any(|shot| shot.answer.starts_with("ジャーは"))
        );
        // English reasoning under a Japanese question.
        let questions = load("mgsm_en_cot", &fitness(Some("ja")))
            .questions(Split::Benchmark)
            .unwrap();
        assert!(
            questions[0].prompt.shots[0]
                .answer
                .starts_with("Roger started with 5 balls.")
        );
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // a list of ranges that happens to hold one
    fn splits_are_disjoint_and_the_same_problems_in_every_language() {
        let ids = |lang: &str, split| -> Vec<std::ops::Range<usize>> {
            let file = TaskFile::builtin("mgsm_direct").unwrap().unwrap();
            assert!(file.lang_names().contains(&lang));
            vec![file.source(split).unwrap().rows.clone()]
        };
        assert_eq!(ids("es", Split::Search), [0..90]);
        assert_eq!(ids("ja", Split::Selection), [90..125]);
        assert_eq!(ids("te", Split::Test), [125..250]);
        assert_eq!(ids("te", Split::Benchmark), [0..usize::MAX]);
        for name in task_file::builtin_names() {
            let file = TaskFile::builtin(name).unwrap().unwrap();
            let splits = [Split::Search, Split::Selection, Split::Test].map(|s| file.source(s).unwrap());
            for (i, a) in splits.iter().enumerate() {
                for b in &splits[..i] {
                    let apart = a.file != b.file || a.rows.end <= b.rows.start || b.rows.end <= a.rows.start;
                    assert!(apart, "{name}");
                }
            }
        }
    }

    /// Among the choices there is exactly one right number, however it is written in the data.
    #[test]
    fn choices_hold_the_right_answer_once() {
        for name in ["mgsm_choices_es", "mgsm_blank_ja"] {
            let direct = load(
                &name.replace("choices", "direct").replace("blank", "direct"),
                &TaskOptions::default(),
            );
            let golds = direct.questions(Split::Benchmark).unwrap();
            let questions = load(name, &TaskOptions::default()).questions(Split::Benchmark).unwrap();
            assert_eq!(questions.len(), golds.len());
            for (question, direct) in questions.iter().zip(&golds) {
                assert_eq!(question.gold, direct.gold);
                assert_eq!(
                    question.choices.iter().filter(|c| c.text == direct.gold).count(),
                    1,
                    "{}",
                    question.id
                );
            }
        }
        let choices = load("mgsm_choices_es", &TaskOptions::default())
            .questions(Split::Benchmark)
            .unwrap();
        let blank = load("mgsm_blank_es", &TaskOptions::default())
            .questions(Split::Benchmark)
            .unwrap();
        let filled = format!("{} {}", choices[0].prompt.question, choices[0].gold);
        assert_eq!(filled, blank[0].choices[2].continuation);
        assert_eq!(blank[0].prompt.text(), "");
    }

    #[test]
    fn a_gold_that_is_no_choice_is_refused_by_question() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |rows: &str, keys: &str| {
            std::fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
            let yaml = format!("task: t\ntype: multiple_choice\nprompt: x\ndata: {{test: rows.jsonl}}\n{keys}");
            std::fs::write(dir.path().join("t.yaml"), yaml).unwrap();
            let name = dir.path().join("t.yaml").display().to_string();
            Task::load(&name, &TaskOptions::default(), &DataDirs::default())
                .and_then(|task| task.questions(Split::Test))
                .unwrap_err()
                .to_string()
        };
        let two = "{\"o\": [\"a\", \"b\"], \"g\": \"c\"}\n";
        let message = ask(two, "choices: o\ngold: '{{g}}'");
        assert!(
            message.contains("rows/0") && message.contains("'c', is none of"),
            "{message}"
        );
        let message = ask(two, "choices: o\ngold_position: '{{g}}'");
        assert!(message.contains("is none of"), "{message}");
        let message = ask(two, "choices: g\ngold: c");
        assert!(
            message.contains("t: choices") && message.contains("not a list"),
            "{message}"
        );
        let message = ask(two, "choices: ['{{g}}']\ngold: c");
        assert!(message.contains("at least two choices"), "{message}");
    }

    /// The defects of the harness that the fitness profile repairs.
    #[test]
    fn fitness_judges_better_than_parity() {
        let right =
            |task: &Task, output: &str, gold: &str| Answer::judged(task, output.into(), gold).unwrap().score == 1.0;
        let (parity, repaired) = (load("gsm8k", &TaskOptions::default()), load("gsm8k", &fitness(None)));
        for (output, by_parity, by_fitness) in [
            (" She makes\n#### 29", true, true),
            (" It costs $29.00", false, true),
            (" #### 29.0\n\nQuestion: 7", false, true),
            (" #### -29", false, false),
            (" #### 30 and 29", true, false),
            ("", false, false),
        ] {
            assert_eq!(right(&parity, output, "x\n#### 29"), by_parity, "{output}");
            assert_eq!(right(&repaired, output, "x\n#### 29"), by_fitness, "{output}");
        }
        let spanish = load("mgsm_native_cot", &fitness(Some("es")));
        let english = "She sells the 9 eggs that are left for 2 dollars each. The answer is 18.";
        let answer = Answer::judged(&spanish, english.into(), "18").unwrap();
        assert!(answer.correct && !answer.language_ok && answer.score == 0.0);
        let spanish_answer = "Vende los 9 huevos que quedan por 2 dólares cada uno. La respuesta es 18.";
        assert!(right(&spanish, spanish_answer, "18"));
    }

    #[test]
    fn the_digest_tells_what_matters() {
        let digest =
            |options: &TaskOptions, dirs: &DataDirs| Task::load("gsm8k", options, dirs).unwrap().digest().to_string();
        let base = digest(&TaskOptions::default(), &sample());
        assert_eq!(base, digest(&TaskOptions::default(), &sample()));
        let shots = TaskOptions {
            shots: Some(2),
            ..TaskOptions::default()
        };
        assert_ne!(base, digest(&shots, &sample()));
        assert_ne!(base, digest(&fitness(None), &sample()));
        assert_ne!(base, digest(&TaskOptions::default(), &DataDirs::default()));
    }

    /// A remark in a task's file ended a run that had gone on for a night: its task had become another one.
    #[test]
    fn a_comment_in_a_task_is_no_other_task() {
        let dir = tempfile::tempdir().unwrap();
        let digest = |text: &str| {
            let file = dir.path().join("t.yaml");
            std::fs::write(&file, text).unwrap();
            let task = Task::load(file.to_str().unwrap(), &TaskOptions::default(), &sample()).unwrap();
            task.digest().to_string()
        };
        let task = "task: mine\nprompt: '{{question}}'\ntarget: '{{answer}}'\ndata: {search: q.jsonl}\n";
        let base = digest(task);
        assert_eq!(base, digest(&format!("# asked of us by the others\n\n{task}")));
        assert_eq!(
            base,
            digest(&task.replace("'{{question}}'", "\"{{question}}\" # as it stands"))
        );
        assert_ne!(base, digest(&task.replace("{{question}}", "# {{question}}")));
        assert_ne!(base, digest(&task.replace("{{answer}}", "{{gold}}")));
        let harness = "task: theirs\ndataset_path: json\ndataset_kwargs: {data_files: {test: q.jsonl}}\ntest_split: test\n\
                       doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\noutput_type: generate_until\n\
                       generation_kwargs: {until: [x]}\n";
        let base = digest(harness);
        assert_eq!(base, digest(&format!("{harness}# a remark\n")));
        assert_ne!(base, digest(&harness.replace("[x]", "[y]")));
    }

    #[test]
    fn scores_are_means_with_errors() {
        let task = load("gsm8k", &TaskOptions::default());
        let judge = |output: &str| Answer::judged(&task, output.into(), "#### 5").unwrap();
        let score = TaskScore::of(&task, &[judge("#### 5"), judge("is 5"), judge("6"), judge("")]);
        // flexible 1, 1, 0, 0; strict 1, 0, 0, 0: variances 1/3 and 1/4, over n = 4.
        let flexible = score.scores["flexible-extract"];
        assert_eq!((flexible.value, score.scores["strict-match"].value), (0.5, 0.25));
        assert!((flexible.stderr - (1.0f64 / 12.0).sqrt()).abs() < 1e-15);
        assert_eq!(
            (score.n, score.primary.as_str(), score.fitness()),
            (4, "flexible-extract", flexible)
        );
        assert!(TaskScore::of(&task, &[]).fitness().value.is_nan());
        let gated = load("mgsm_native_cot_es", &fitness(None));
        let answers = [Answer::judged(&gated, "La respuesta es 5.".into(), "5").unwrap()];
        let score = TaskScore::of(&gated, &answers);
        assert_eq!(
            score.scores.keys().collect::<Vec<_>>(),
            ["answer", "answer+language", "language"]
        );
        assert_eq!(score.primary, "answer+language");
    }
}
