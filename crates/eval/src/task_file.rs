//! A task as it was written: `evals/*.yaml`, read strictly.
//!
//! This file knows the keys and their types, and refuses everything else with file, line and the nearest word. What a
//! task *means* for one language and one profile is worked out in `mod.rs`; which texts come of it, in `prompt.rs`.
//! The format is described in `evals/README.md`.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    Error, Kind, Metric, Profile, Split,
    data::{Format, Row, Source},
    prompt::{ListExpression, Template},
    python_regex::PythonRegex,
    sampling::Samples,
    think::Think,
};
use heterosis_yaml::{self as yaml, Map, Node};

/// The tasks that are part of the program, by name.
const BUILTIN: &[(&str, &str)] = &[
    ("arc_challenge", include_str!("../evals/arc_challenge.yaml")),
    ("arc_easy", include_str!("../evals/arc_easy.yaml")),
    ("belebele", include_str!("../evals/belebele.yaml")),
    ("boolq", include_str!("../evals/boolq.yaml")),
    ("gsm8k", include_str!("../evals/gsm8k.yaml")),
    ("gsm8k_cot", include_str!("../evals/gsm8k_cot.yaml")),
    ("gsm8k_cot_llama", include_str!("../evals/gsm8k_cot_llama.yaml")),
    ("gsm8k_cot_zeroshot", include_str!("../evals/gsm8k_cot_zeroshot.yaml")),
    ("gsm8k_solutions", include_str!("../evals/gsm8k_solutions.yaml")),
    ("hellaswag", include_str!("../evals/hellaswag.yaml")),
    ("ifeval", include_str!("../evals/ifeval.yaml")),
    ("mgsm_blank", include_str!("../evals/mgsm_blank.yaml")),
    ("mgsm_choices", include_str!("../evals/mgsm_choices.yaml")),
    ("mgsm_direct", include_str!("../evals/mgsm_direct.yaml")),
    ("mgsm_en_cot", include_str!("../evals/mgsm_en_cot.yaml")),
    ("mgsm_native_cot", include_str!("../evals/mgsm_native_cot.yaml")),
    ("mgsm_questions", include_str!("../evals/mgsm_questions.yaml")),
    ("minerva_math", include_str!("../evals/minerva_math.yaml")),
    ("minerva_math500", include_str!("../evals/minerva_math500.yaml")),
    ("mmlu", include_str!("../evals/mmlu.yaml")),
    ("openbookqa", include_str!("../evals/openbookqa.yaml")),
    ("piqa", include_str!("../evals/piqa.yaml")),
    ("truthfulqa_mc1", include_str!("../evals/truthfulqa_mc1.yaml")),
    ("truthfulqa_mc2", include_str!("../evals/truthfulqa_mc2.yaml")),
    ("winogrande", include_str!("../evals/winogrande.yaml")),
    ("xcopa", include_str!("../evals/xcopa.yaml")),
    ("xnli", include_str!("../evals/xnli.yaml")),
];

const PERPLEXITY: &str = "perplexity";

pub fn builtin_names() -> Vec<&'static str> {
    BUILTIN.iter().map(|(name, _)| *name).collect()
}

/// How lm-evaluation-harness words its rows: values as its YAML has them.
#[derive(Clone, Debug, Default)]
pub struct HarnessWords {
    pub text: serde_json::Value,
    pub target: serde_json::Value,
    pub choices: Option<serde_json::Value>,
    pub example_text: Option<serde_json::Value>,
    pub example_target: Option<serde_json::Value>,
    pub example_choices: Option<serde_json::Value>,
}

/// A whole file, every profile and language of it.
#[derive(Clone, Debug)]
pub struct TaskFile {
    pub name: String,
    pub version: String,
    pub description: String,
    pub provenance: String,
    pub kind: Kind,
    /// In the order written, each with its own words for the templates.
    pub langs: Vec<(String, Row)>,
    /// Parts that are tasks of their own, `NAME_SUBJECT`, each with its own words for the templates.
    pub subjects: Vec<(String, Row)>,
    /// Names for several subjects, `NAME_GROUP`.
    pub groups: Vec<(String, Vec<String>)>,
    /// Which of the subjects this is.
    pub subject: Option<String>,
    pub data: Vec<(Split, Source)>,
    /// Fields made of a row's own, in order: name and template.
    pub fields: Vec<(String, String)>,
    /// The scores of a task that chooses or measures, or how generated answers are judged.
    pub metrics: Vec<Metric>,
    /// Rows are worded lm-evaluation-harness's way.
    pub harness: Option<HarnessWords>,
    /// What holds in every profile.
    pub base: Settings,
    pub parity: Settings,
    pub fitness: Settings,
    /// Where relative data files may lie; none for a built-in task.
    pub dir: Option<PathBuf>,
    /// The file's text.
    pub text: String,
    /// What it says, without comments and ways of writing: for the digest.
    pub content: String,
}

/// The keys that a profile may set otherwise; `None` where the file is silent.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Before the examples.
    pub preamble: Option<String>,
    pub prompt: Option<String>,
    /// What the answer begins with, said for the model.
    pub answer_prefix: Option<String>,
    /// What follows the question where the choices stand in it.
    pub continuation: Option<String>,
    pub target: Option<String>,
    pub gold: Option<String>,
    pub gold_is: GoldIs,
    pub choices: Option<ChoicesSpec>,
    pub target_delimiter: Option<String>,
    pub fewshot_delimiter: Option<String>,
    pub shots: Option<Shots>,
    pub stop: Option<Vec<String>>,
    pub stop_when_answered: Option<bool>,
    pub max_new_tokens: Option<usize>,
    pub filters: Option<Vec<FilterSpec>>,
    pub normalize: Option<NormalizeSpec>,
    pub primary: Option<String>,
    pub language_gate: Option<GateSpec>,
    pub samples: Option<Samples>,
    pub think: Option<Think>,
}

/// What `gold` says of the right choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoldIs {
    #[default]
    Text,
    Position,
    /// An expression: a list of 0 and 1.
    Labels,
}

/// Where few-shot examples come from and how they are chosen.
#[derive(Clone, Debug)]
pub struct Shots {
    pub pool: Pool,
    pub count: usize,
    pub draw: Draw,
    /// Whether one example more is drawn, and rows equal to the question left out. Not said: where the question is in the pool.
    pub spare: Option<bool>,
    /// Templates where an example is not written like a question.
    pub prompt: Option<String>,
    pub target: Option<String>,
    /// Instead of the task's own.
    pub target_delimiter: Option<String>,
    pub fewshot_delimiter: Option<String>,
    pub answer_prefix: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Pool {
    Examples(Vec<Row>),
    File(Source),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Anew for each question, by CPython's generator.
    Random { seed: u64 },
    /// The first ones, the same for all questions.
    FirstN,
}

/// What there is to choose from.
#[derive(Clone, Debug)]
pub enum ChoicesSpec {
    /// A template for each.
    Each(Vec<String>),
    /// An expression that gives the list.
    List(String),
}

/// A filter with templates in place of patterns.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    pub name: String,
    pub steps: Vec<StepSpec>,
    /// Of how many samples the commonest answer counts; none: the first sample's.
    pub vote: Option<usize>,
}

#[derive(Clone, Debug)]
pub enum StepSpec {
    Regex {
        pattern: String,
        pick: isize,
        fallback: Option<String>,
    },
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    /// Another text for some texts; for the others `default`, or what they are.
    Map {
        pairs: Vec<(String, String)>,
        default: Option<String>,
    },
    Number {
        markers: Vec<String>,
        otherwise_last: bool,
    },
    /// The final answer of a worked solution in LaTeX.
    Maths {
        boxed: bool,
    },
}

#[derive(Clone, Debug, Default)]
pub struct NormalizeSpec {
    pub regexes_to_ignore: Vec<String>,
    pub ignore_case: bool,
    pub ignore_punctuation: bool,
    pub ignore_numbers: bool,
    pub number: bool,
    /// As mathematical expressions.
    pub maths: bool,
}

#[derive(Clone, Debug)]
pub enum GateSpec {
    Off,
    On {
        /// Template; the task's own language if absent.
        lang: Option<String>,
        min_letters: Option<usize>,
    },
}

/// Keys that are read by people alone.
const FOR_PEOPLE: [&str; 2] = ["description", "provenance"];

impl TaskFile {
    /// A built-in task.
    pub fn builtin(name: &str) -> Option<Result<TaskFile, Error>> {
        let (_, text) = BUILTIN.iter().find(|(builtin, _)| *builtin == name)?;
        let file = PathBuf::from(format!("evals/{name}.yaml"));
        Some(TaskFile::parse(&file, text, None))
    }

    /// # Errors
    /// A file that cannot be read, is not UTF-8, or is not a task.
    pub fn read(file: &Path) -> Result<TaskFile, Error> {
        let text = yaml::read_text(file).map_err(|source| Error::Read {
            file: file.into(),
            source,
        })?;
        let dir = file.parent().unwrap_or(Path::new("."));
        TaskFile::parse(file, &text, Some(dir.into()))
    }

    /// # Errors
    /// Anything that is not a task, with file and line.
    pub fn parse(file: &Path, text: &str, dir: Option<PathBuf>) -> Result<TaskFile, Error> {
        let document = yaml::parse_one(file, text)?;
        yaml::Kind::Task.expect(&document)?;
        let map = document.map()?;
        let name = map.required("task")?.text()?;
        let version = match map.optional("version") {
            Some(node) => node.text()?,
            None => "1".into(),
        };
        let is_perplexity = map
            .optional("type")
            .is_some_and(|node| node.str().is_ok_and(|t| t == PERPLEXITY));
        let mut base = Settings::read(&map)?;
        if is_perplexity {
            base.target.get_or_insert_with(|| "{{text}}".into());
        }
        let kind = match map.optional("type") {
            // The perplexity of a text is the likelihood of its passages with nothing before them.
            Some(_) if is_perplexity => Kind::LogLikelihood,
            Some(node) => {
                let words = [&Kind::NAMES[..], &[PERPLEXITY]].concat();
                Kind::ALL[node.one_of(&words)?]
            }
            None => Kind::Generate,
        };
        let mut task = TaskFile {
            name,
            version,
            description: text_of(&map, "description")?.unwrap_or_default(),
            provenance: text_of(&map, "provenance")?.unwrap_or_default(),
            kind,
            langs: langs(&map)?,
            subjects: subjects(&map)?,
            groups: groups(&map)?,
            subject: None,
            data: data(map.required("data")?)?,
            fields: map.optional("fields").map(fields).transpose()?.unwrap_or_default(),
            metrics: metrics(kind, map.optional("metric"))?,
            harness: None,
            base,
            parity: profile(&map, "parity")?,
            fitness: profile(&map, "fitness")?,
            dir,
            text: text.into(),
            content: document.content_without(&FOR_PEOPLE),
        };
        map.finish()?;
        task.complete();
        task.check(&document)?;
        Ok(task)
    }

    /// An answer that nothing cuts out is the first line that says something.
    fn complete(&mut self) {
        let says_how = |settings: &Settings| settings.filters.is_some();
        let is_judged_whole = self.metrics.contains(&Metric::Ifeval);
        let profiles = [&self.base, &self.parity, &self.fitness];
        if self.kind == Kind::Generate && !is_judged_whole && !profiles.into_iter().any(says_how) {
            let first_line = StepSpec::Regex {
                pattern: r"(\S[^\n]*)".into(),
                pick: 0,
                fallback: None,
            };
            self.base.filters = Some(vec![FilterSpec {
                name: "answer".into(),
                steps: vec![first_line],
                vote: None,
            }]);
        }
    }

    /// One of its subjects, as a task of its own.
    pub fn of_subject(mut self, subject: &str) -> TaskFile {
        let words = self
            .subjects
            .iter()
            .find(|(name, _)| name == subject)
            .map(|(_, words)| words.clone());
        for (lang, own) in &mut self.langs {
            own.extend(words.clone().unwrap_or_default());
            own.insert("subject".into(), subject.into());
            own.entry("lang".into()).or_insert_with(|| lang.as_str().into());
        }
        self.name = format!("{}_{subject}", self.name);
        self.subject = Some(subject.into());
        self
    }

    /// Whether part of what a search is asked is kept for its finalists, for there are no other questions.
    pub fn splits_off_selection(&self) -> bool {
        let has = |wanted| self.data.iter().any(|(split, _)| *split == wanted);
        has(Split::Search) && !has(Split::Selection)
    }

    /// What no single key can know.
    fn check(&self, document: &Node) -> Result<(), Error> {
        for profile in [Profile::Parity, Profile::Fitness] {
            let settings = self.settings(profile);
            let missing = |key: &str| document.error(format!("the key '{key}' is missing"));
            if settings.target.is_none() && settings.gold.is_none() {
                return Err(missing(if self.kind.chooses() { "gold" } else { "target" }).into());
            }
            if self.kind != Kind::LogLikelihood && settings.prompt.is_none() {
                return Err(missing("prompt").into());
            }
            if self.kind.chooses() != settings.choices.is_some() {
                return Err(match self.kind.chooses() {
                    true => missing("choices"),
                    false => document.error("'choices' go with the types multiple_choice and blank"),
                }
                .into());
            }
            if self.kind == Kind::Blank
                && (settings.shots.is_some() || !settings.prompt.iter().any(|p| p.contains("choice")))
            {
                let message =
                    "the prompt of a task of type blank has {{choice}} where the blank is, and takes no 'shots'";
                return Err(document.error(message).into());
            }
            if settings.continuation.is_some()
                && (self.kind != Kind::MultipleChoice || !settings.prompt.iter().any(|p| p.contains("choice")))
            {
                let message =
                    "'continuation' goes with the type multiple_choice and a prompt that has {{choice}} in it";
                return Err(document.error(message).into());
            }
            let names = self.verdicts(&settings);
            if self.kind == Kind::Generate && names.is_empty() {
                return Err(missing("filters").into());
            }
            if settings.samples.is_some() && self.kind != Kind::Generate {
                return Err(document.error("'samples' go with the type generate").into());
            }
            if let Some(primary) = &settings.primary
                && !names.contains(primary)
            {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let hint = yaml::did_you_mean(primary, &names);
                let message = format!(
                    "primary: '{primary}' is none of the verdicts of the {profile} profile{hint}; they are {}",
                    names.join(", ")
                );
                return Err(document.error(message).into());
            }
        }
        Ok(())
    }

    /// The names of the verdicts on an answer: the filters, or the ways to choose; of several samples, their scores too.
    pub fn verdicts(&self, settings: &Settings) -> Vec<String> {
        let of_metrics = || self.metrics.iter().map(|metric| metric.name().to_string());
        if self.kind != Kind::Generate || self.metrics.contains(&Metric::Ifeval) {
            return of_metrics().flat_map(|name| Metric::verdicts_of(&name)).collect();
        }
        let filters = settings.filters.iter().flatten().map(|f| f.name.clone());
        filters
            .chain(settings.samples.iter().flat_map(Samples::scores))
            .collect()
    }

    /// What holds in a profile: its own keys over the common ones.
    pub fn settings(&self, profile: Profile) -> Settings {
        match profile {
            Profile::Parity => self.parity.clone().over(&self.base),
            Profile::Fitness => self.fitness.clone().over(&self.base),
        }
    }

    /// The data of a split. A task without a published benchmark set of its own is measured on its test split.
    pub fn source(&self, split: Split) -> Option<&Source> {
        let find = |wanted| self.data.iter().find(|(s, _)| *s == wanted).map(|(_, source)| source);
        find(split).or_else(|| (split == Split::Benchmark).then(|| find(Split::Test)).flatten())
    }

    pub fn lang_names(&self) -> Vec<&str> {
        self.langs.iter().map(|(lang, _)| lang.as_str()).collect()
    }
}

impl Settings {
    fn read(map: &Map<'_>) -> Result<Settings, Error> {
        let (gold, position) = (template_of(map, "gold")?, template_of(map, "gold_position")?);
        let labels = map.optional("labels").map(expression).transpose()?;
        if [&gold, &position, &labels].into_iter().flatten().count() > 1 {
            let message = "one of 'gold' (the text of the right choice), 'gold_position' (its place) and 'labels' (1 for \
                           each right one), not both";
            return Err(map.node().error(message).into());
        }
        Ok(Settings {
            preamble: template_of(map, "preamble")?,
            prompt: template_of(map, "prompt")?,
            answer_prefix: template_of(map, "answer_prefix")?,
            continuation: template_of(map, "continuation")?,
            target: template_of(map, "target")?,
            gold_is: match (&position, &labels) {
                (Some(_), _) => GoldIs::Position,
                (_, Some(_)) => GoldIs::Labels,
                _ => GoldIs::Text,
            },
            gold: gold.or(position).or(labels),
            choices: map.optional("choices").map(choices).transpose()?,
            target_delimiter: template_of(map, "target_delimiter")?,
            fewshot_delimiter: template_of(map, "fewshot_delimiter")?,
            shots: map.optional("shots").map(shots).transpose()?,
            stop: map.optional("stop").map(templates).transpose()?,
            stop_when_answered: map.optional("stop_when_answered").map(Node::bool).transpose()?,
            max_new_tokens: map.optional("max_new_tokens").map(at_least_one).transpose()?,
            filters: map.optional("filters").map(filters).transpose()?,
            normalize: map.optional("normalize").map(normalize).transpose()?,
            primary: text_of(map, "primary")?,
            language_gate: map.optional("language_gate").map(gate).transpose()?,
            samples: Samples::read(map)?,
            think: map.optional("think").map(Think::read).transpose()?.flatten(),
        })
    }

    fn over(self, base: &Settings) -> Settings {
        let base = base.clone();
        Settings {
            preamble: self.preamble.or(base.preamble),
            prompt: self.prompt.or(base.prompt),
            answer_prefix: self.answer_prefix.or(base.answer_prefix),
            continuation: self.continuation.or(base.continuation),
            target: self.target.or(base.target),
            gold_is: match self.gold {
                Some(_) => self.gold_is,
                None => base.gold_is,
            },
            gold: self.gold.or(base.gold),
            choices: self.choices.or(base.choices),
            target_delimiter: self.target_delimiter.or(base.target_delimiter),
            fewshot_delimiter: self.fewshot_delimiter.or(base.fewshot_delimiter),
            shots: self.shots.or(base.shots),
            stop: self.stop.or(base.stop),
            stop_when_answered: self.stop_when_answered.or(base.stop_when_answered),
            max_new_tokens: self.max_new_tokens.or(base.max_new_tokens),
            filters: self.filters.or(base.filters),
            normalize: self.normalize.or(base.normalize),
            primary: self.primary.or(base.primary),
            language_gate: self.language_gate.or(base.language_gate),
            samples: self.samples.or(base.samples),
            think: self.think.or(base.think),
        }
    }
}

fn profile(map: &Map<'_>, name: &str) -> Result<Settings, Error> {
    let Some(node) = map.optional(name) else {
        return Ok(Settings::default());
    };
    let inner = node.map()?;
    let settings = Settings::read(&inner)?;
    inner.finish()?;
    Ok(settings)
}

fn langs(map: &Map<'_>) -> Result<Vec<(String, Row)>, Error> {
    match (map.optional("lang"), map.optional("langs")) {
        (Some(lang), None) => Ok(vec![(lang.text()?, Row::new())]),
        (None, None) => Ok(vec![("en".into(), Row::new())]),
        (None, Some(langs)) => {
            let langs = langs.map()?;
            let read = |(lang, words): &(String, Node)| Ok((lang.clone(), row(words)?));
            langs.entries().iter().map(read).collect()
        }
        (Some(_), Some(langs)) => Err(langs
            .error("a task has either 'lang' (one language) or 'langs' (several), not both")
            .into()),
    }
}

fn subjects(map: &Map<'_>) -> Result<Vec<(String, Row)>, Error> {
    let Some(node) = map.optional("subjects") else {
        return Ok(Vec::new());
    };
    let subject = |(name, words): &(String, Node)| Ok((name.clone(), row(words)?));
    node.map()?.entries().iter().map(subject).collect()
}

fn groups(map: &Map<'_>) -> Result<Vec<(String, Vec<String>)>, Error> {
    let Some(node) = map.optional("groups") else {
        return Ok(Vec::new());
    };
    let group = |(name, members): &(String, Node)| Ok((name.clone(), texts(members)?));
    node.map()?.entries().iter().map(group).collect()
}

/// Names and templates, in order.
fn fields(node: &Node) -> Result<Vec<(String, String)>, Error> {
    let field = |(name, text): &(String, Node)| Ok((name.clone(), template(text)?));
    node.map()?.entries().iter().map(field).collect()
}

/// What a task scores: a word, or a list of exactly these.
fn metrics(kind: Kind, node: Option<&Node>) -> Result<Vec<Metric>, Error> {
    let known = Metric::of_kind(kind);
    let names: Vec<&str> = known.iter().map(|metric| metric.name()).collect();
    let of_kind = || Metric::usual(kind).to_vec();
    let Some(node) = node else { return Ok(of_kind()) };
    if let Ok(items) = node.list() {
        return items.iter().map(|item| Ok(known[item.one_of(&names)?])).collect();
    }
    match (kind, node.str()) {
        (Kind::LogLikelihood, Ok("log_likelihood")) => Ok(of_kind()),
        (_, Ok("acc")) if kind.chooses() => Ok(of_kind()),
        (Kind::LogLikelihood, _) => {
            let words = [&names[..], &["log_likelihood"]].concat();
            Ok(known.get(node.one_of(&words)?).copied().into_iter().collect())
        }
        _ => Ok(vec![known[node.one_of(&names)?]]),
    }
}

fn data(node: &Node) -> Result<Vec<(Split, Source)>, Error> {
    let map = node.map()?;
    let mut splits = Vec::new();
    for split in Split::ALL {
        if let Some(node) = map.optional(split.name()) {
            splits.push((split, source(node)?));
        }
    }
    map.finish()?;
    if splits.is_empty() {
        return Err(node
            .error("at least one split is needed: search, selection or test")
            .into());
    }
    Ok(splits)
}

fn source(node: &Node) -> Result<Source, Error> {
    if let Ok(file) = node.str() {
        return Ok(Source {
            format: Format::of_file(file).ok_or_else(|| unknown_format(node))?,
            file: template(node)?,
            columns: Vec::new(),
            passage: Source::DEFAULT_PASSAGE,
            rows: 0..usize::MAX,
        });
    }
    let map = node.map()?;
    let file = map.required("file")?;
    let format = match map.optional("format") {
        Some(format) => Format::ALL[format.one_of(&Format::NAMES)?],
        None => Format::of_file(file.str()?).ok_or_else(|| unknown_format(file))?,
    };
    let columns = map.optional("columns").map(texts).transpose()?.unwrap_or_default();
    if !format.has_columns() && !columns.is_empty() {
        let message =
            "'columns' names the fields of a .tsv or .csv file without a header; other files have names of their own";
        return Err(node.error(message).into());
    }
    let source = Source {
        file: template(file)?,
        format,
        columns,
        passage: map
            .optional("passage")
            .map(at_least_one)
            .transpose()?
            .unwrap_or(Source::DEFAULT_PASSAGE),
        rows: map.optional("rows").map(rows).transpose()?.unwrap_or(0..usize::MAX),
    };
    map.finish()?;
    Ok(source)
}

fn unknown_format(node: &Node) -> yaml::Error {
    node.error(format!(
        "the kind of this file does not show in its name; say 'format', one of {}",
        Format::NAMES.join(", ")
    ))
}

/// `100..250`, `100..` or `..100`, counted from 0, the end not included.
fn rows(node: &Node) -> Result<Range<usize>, Error> {
    let text = node.text()?;
    let parse = |part: &str, empty| {
        if part.is_empty() {
            Some(empty)
        } else {
            part.parse().ok()
        }
    };
    let range = text
        .split_once("..")
        .and_then(|(from, to)| Some(parse(from, 0)?..parse(to, usize::MAX)?))
        .filter(|range| !range.is_empty());
    range.ok_or_else(|| {
        node.error(format!("'{text}' is no range of rows; write 0..100, 100.. or ..100"))
            .into()
    })
}

fn shots(node: &Node) -> Result<Shots, Error> {
    let map = node.map()?;
    let examples = map.optional("examples");
    let from = map.optional("from");
    let pool = match (examples, from) {
        (Some(examples), None) => Pool::Examples(examples.list()?.iter().map(row).collect::<Result<_, _>>()?),
        (None, Some(from)) => Pool::File(source(from)?),
        _ => {
            return Err(node
                .error("shots need either 'examples' (a list) or 'from' (a file)")
                .into());
        }
    };
    let seed = map.optional("seed").map(Node::u64).transpose()?.unwrap_or(1234);
    let draw = match map.optional("draw") {
        Some(draw) => [Draw::Random { seed }, Draw::FirstN][draw.one_of(&["random", "first_n"])?],
        None => Draw::Random { seed },
    };
    let shots = Shots {
        pool,
        count: map.optional("count").map(Node::usize).transpose()?.unwrap_or(0),
        draw,
        spare: map.optional("spare").map(Node::bool).transpose()?,
        prompt: template_of(&map, "prompt")?,
        target: template_of(&map, "target")?,
        target_delimiter: None,
        fewshot_delimiter: None,
        answer_prefix: None,
    };
    map.finish()?;
    Ok(shots)
}

/// A list of templates, or an expression that gives the list.
fn choices(node: &Node) -> Result<ChoicesSpec, Error> {
    if node.str().is_ok() {
        return Ok(ChoicesSpec::List(expression(node)?));
    }
    let each = node.list()?.iter().map(template).collect::<Result<_, _>>()?;
    Ok(ChoicesSpec::Each(each))
}

fn filters(node: &Node) -> Result<Vec<FilterSpec>, Error> {
    let filters: Vec<FilterSpec> = node.list()?.iter().map(filter).collect::<Result<_, _>>()?;
    for (i, a) in filters.iter().enumerate() {
        if filters[..i].iter().any(|b| a.name == b.name) {
            return Err(node.error(format!("two filters are called '{}'", a.name)).into());
        }
    }
    Ok(filters)
}

/// A filter is one step, or a list of `steps`.
fn filter(node: &Node) -> Result<FilterSpec, Error> {
    let map = node.map()?;
    let name = map.required("name")?.text()?;
    let steps = match map.optional("steps") {
        Some(list) => {
            let read = |node: &Node| {
                let map = node.map()?;
                let step = step(&map)?;
                map.finish()?;
                step.ok_or_else(|| Error::from(node.error(STEPS)))
            };
            list.list()?.iter().map(read).collect::<Result<_, Error>>()?
        }
        None => step(&map)?.into_iter().collect(),
    };
    map.finish()?;
    Ok(FilterSpec {
        name,
        steps,
        vote: None,
    })
}

const STEPS: &str = "a step is one of: regex (with pick, fallback), number, maths, remove_whitespace: true, \
                     lowercase: true, uppercase: true";

/// The one step that the map describes; none means that the output is the answer.
fn step(map: &Map<'_>) -> Result<Option<StepSpec>, Error> {
    let pattern = map.optional("regex").map(pattern).transpose()?;
    let pick = map.optional("pick").map(pick).transpose()?;
    let fallback = text_of(map, "fallback")?;
    let number = map.optional("number").map(number).transpose()?;
    let mut steps = Vec::from_iter(number);
    if let Some(node) = map.optional("maths") {
        steps.push(StepSpec::Maths {
            boxed: node.one_of(&["final_answer", "boxed"])? == 1,
        });
    }
    for (key, step) in [
        ("remove_whitespace", StepSpec::RemoveWhitespace),
        ("lowercase", StepSpec::Lowercase),
        ("uppercase", StepSpec::Uppercase),
    ] {
        if map.optional(key).map(Node::bool).transpose()?.unwrap_or(false) {
            steps.push(step);
        }
    }
    match pattern {
        Some(pattern) => steps.push(StepSpec::Regex {
            pattern,
            pick: pick.unwrap_or(0),
            fallback,
        }),
        None if pick.is_some() || fallback.is_some() => {
            return Err(map.node().error("'pick' and 'fallback' go with a 'regex'").into());
        }
        None => {}
    }
    if steps.len() > 1 {
        return Err(map
            .node()
            .error(format!(
                "one step is expected here; write several under 'steps'. {STEPS}"
            ))
            .into());
    }
    Ok(steps.pop())
}

/// `first`, `last`, or a position, negative from the end.
fn pick(node: &Node) -> Result<isize, Error> {
    if let Ok(position) = node.i64() {
        return isize::try_from(position).map_err(|_| node.error("too large a position").into());
    }
    Ok([0, -1][node.one_of(&["first", "last"])?])
}

fn number(node: &Node) -> Result<StepSpec, Error> {
    let map = node.map()?;
    let step = StepSpec::Number {
        markers: map.optional("after").map(templates).transpose()?.unwrap_or_default(),
        otherwise_last: match map.optional("otherwise") {
            Some(otherwise) => otherwise.one_of(&["none", "last"])? == 1,
            None => false,
        },
    };
    map.finish()?;
    Ok(step)
}

fn normalize(node: &Node) -> Result<NormalizeSpec, Error> {
    let map = node.map()?;
    let flag = |key| {
        map.optional(key)
            .map(Node::bool)
            .transpose()
            .map(Option::unwrap_or_default)
    };
    let spec = NormalizeSpec {
        regexes_to_ignore: map
            .optional("regexes_to_ignore")
            .map(patterns)
            .transpose()?
            .unwrap_or_default(),
        ignore_case: flag("ignore_case")?,
        ignore_punctuation: flag("ignore_punctuation")?,
        ignore_numbers: flag("ignore_numbers")?,
        number: flag("number")?,
        maths: flag("maths")?,
    };
    map.finish()?;
    Ok(spec)
}

/// `true`, `false`, or a block.
fn gate(node: &Node) -> Result<GateSpec, Error> {
    if let Ok(on) = node.bool() {
        return Ok(if on {
            GateSpec::On {
                lang: None,
                min_letters: None,
            }
        } else {
            GateSpec::Off
        });
    }
    let map = node.map()?;
    let spec = GateSpec::On {
        lang: template_of(&map, "lang")?,
        min_letters: map.optional("min_letters").map(Node::usize).transpose()?,
    };
    map.finish()?;
    Ok(spec)
}

/// Named fields: words and numbers.
fn row(node: &Node) -> Result<Row, Error> {
    let field = |(key, value): &(String, Node)| {
        let value = match &value.value {
            yaml::Value::Int(i) => serde_json::Number::from_i128(*i).into(),
            _ => value.text()?.into(),
        };
        Ok((key.clone(), value))
    };
    node.map()?.entries().iter().map(field).collect()
}

fn text_of(map: &Map<'_>, key: &str) -> Result<Option<String>, Error> {
    Ok(map.optional(key).map(Node::text).transpose()?)
}

/// A text that may be a template: what is no Jinja is refused where it stands, and not when the first question is asked.
fn template(node: &Node) -> Result<String, Error> {
    let text = node.text()?;
    match Template::new("", &text) {
        Ok(_) => Ok(text),
        Err(e) => Err(no_template(
            node,
            "a field of a row is written {{name}}, and a part {% if … %} … {% endif %}",
            e,
        )),
    }
}

fn templates(node: &Node) -> Result<Vec<String>, Error> {
    node.one_or_more().iter().map(template).collect()
}

fn template_of(map: &Map<'_>, key: &str) -> Result<Option<String>, Error> {
    map.optional(key).map(template).transpose()
}

/// An expression that gives a list.
fn expression(node: &Node) -> Result<String, Error> {
    let text = node.text()?;
    match ListExpression::new("", &text) {
        Ok(_) => Ok(text),
        Err(e) => Err(no_template(
            node,
            "a list is the name of a field, as in choices.text",
            e,
        )),
    }
}

fn no_template(node: &Node, way_out: &str, e: Error) -> Error {
    match e {
        Error::Template { message, .. } => node.error(format!("{message}; {way_out}")).into(),
        other => other,
    }
}

/// A regular expression of Python's; one with words of the language in it is looked at when these are known.
fn pattern(node: &Node) -> Result<String, Error> {
    let text = template(node)?;
    match PythonRegex::new(&text) {
        Err(e) if !text.contains("{{") => {
            let quoted = "in single quotes YAML keeps its backslashes";
            Err(node.error(format!("{e}; {quoted}")).into())
        }
        _ => Ok(text),
    }
}

fn patterns(node: &Node) -> Result<Vec<String>, Error> {
    node.one_or_more().iter().map(pattern).collect()
}

fn texts(node: &Node) -> Result<Vec<String>, Error> {
    Ok(node.one_or_more().iter().map(Node::text).collect::<Result<_, _>>()?)
}

fn at_least_one(node: &Node) -> Result<usize, Error> {
    match node.usize()? {
        0 => Err(node.error("a whole number of 1 or more is expected here").into()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
task: arith
lang: es
data: {search: a.jsonl, test: {file: b.tsv, columns: [question, answer], rows: 10..20}}
prompt: 'Q: {{question}} A:'
target: '{{answer}}'
filters: [{name: strict-match, regex: '#### ([0-9]+)', pick: first}]
";

    fn parse(text: &str) -> Result<TaskFile, Error> {
        TaskFile::parse(Path::new("t.yaml"), text, None)
    }

    #[test]
    fn a_small_task() {
        let task = parse(SMALL).unwrap();
        assert_eq!((task.name.as_str(), task.lang_names()), ("arith", vec!["es"]));
        assert_eq!(task.source(Split::Search).unwrap().format, Format::Jsonl);
        assert_eq!(task.source(Split::Test).unwrap().rows, 10..20);
        assert_eq!(task.source(Split::Benchmark).unwrap().rows, 10..20);
        assert!(task.source(Split::Selection).is_none());
        assert!(task.settings(Profile::Parity).shots.is_none());
    }

    /// A stop that was written as one text became a list of its characters, and "=" cut every sum (lighteval #649).
    #[test]
    fn one_stop_is_one_stop() {
        let task = parse(&format!("{SMALL}\nstop: 'Question:'")).unwrap();
        assert_eq!(task.settings(Profile::Fitness).stop.unwrap(), ["Question:"]);
    }

    #[test]
    fn a_profile_overrides_key_by_key() {
        let text = format!("{SMALL}\nstop: [a]\nfitness: {{stop: [b, c], max_new_tokens: 9}}");
        let task = parse(&text).unwrap();
        assert_eq!(task.settings(Profile::Parity).stop.unwrap(), ["a"]);
        let fitness = task.settings(Profile::Fitness);
        assert_eq!(fitness.stop.unwrap(), ["b", "c"]);
        assert_eq!(fitness.max_new_tokens, Some(9));
        assert!(fitness.prompt.is_some());
    }

    #[test]
    fn mistakes_are_pointed_at() {
        for (change, expected) in [
            (
                ("target:", "tarjet:"),
                "t.yaml:6: tarjet: unknown key 'tarjet'; did you mean 'target'?",
            ),
            (("search: a.jsonl", "serch: a.jsonl"), "did you mean 'search'?"),
            (
                ("a.jsonl", "a.arrow"),
                "the kind of this file does not show in its name",
            ),
            (("10..20", "20..10"), "'20..10' is no range of rows"),
            (("b.tsv", "b.jsonl"), "names the fields of a .tsv or .csv file"),
            (("pick: first", "pick: frist"), "did you mean 'first'?"),
            (
                ("regex: '#### ([0-9]+)', ", ""),
                "'pick' and 'fallback' go with a 'regex'",
            ),
            (("pick: first", "number: {after: ['#']}"), "one step is expected here"),
            (("lang: es", "type: genrate"), "did you mean 'generate'?"),
            (("lang: es", "max_new_tokens: 0"), "1 or more"),
            (("lang: es", "metric: f1"), "exact_match"),
            (("lang: es", "primary: strict-mach"), "did you mean 'strict-match'?"),
            // Templates and patterns told neither file nor line, and only when the first question was asked.
            (("Q: {{question}} A:", "Q: {{question A:"), "t.yaml:5: prompt: "),
            (("Q: {{question}} A:", "{% if x %}Q:"), "t.yaml:5: prompt: "),
            (("{{answer}}", "{{answer | }}"), "t.yaml:6: target: "),
            (("lang: es", "stop: [x, '{{end']"), "t.yaml:3: stop[1]: "),
            (
                ("lang: es", "shots: {examples: [{a: b}], prompt: '{{a'}"),
                "t.yaml:3: shots.prompt: ",
            ),
            (("lang: es", "fields: {n: '{{a'}"), "t.yaml:3: fields.n: "),
            (("a.jsonl", "'{{a.jsonl'"), "t.yaml:4: data.search: "),
            (("([0-9]+)", "([0-9]+"), "t.yaml:7: filters[0].regex: "),
            (("([0-9]+)", "[z-a]"), "t.yaml:7: filters[0].regex: "),
            (
                ("lang: es", "normalize: {regexes_to_ignore: ['(']}"),
                "t.yaml:3: normalize.regexes_to_ignore[0]: ",
            ),
            (("lang: es", "fitness: {prompt: '{{x'}"), "t.yaml:3: fitness.prompt: "),
            (("lang: es", "fitness: {shot: 1}"), "fitness.shot: unknown key"),
            (
                ("lang: es", "shots: {count: 2}"),
                "either 'examples' (a list) or 'from' (a file)",
            ),
            (
                ("filters:", "parity: {filters: []}\nfitness:\n filters:"),
                "the key 'filters' is missing",
            ),
        ] {
            let message = parse(&SMALL.replace(change.0, change.1)).unwrap_err().to_string();
            assert!(message.contains(expected), "{change:?}: {message}");
            assert!(message.starts_with("t.yaml:"), "{message}");
        }
    }

    #[test]
    fn choices_are_checked() {
        let text = SMALL
            .replace(
                "lang: es",
                "type: multiple_choice\nchoices: options\ngold_position: '{{label}}'",
            )
            .replace(
                "filters: [{name: strict-match, regex: '#### ([0-9]+)', pick: first}]",
                "",
            );
        assert_eq!(
            parse(&text).unwrap().settings(Profile::Parity).gold_is,
            GoldIs::Position
        );
        for (change, expected) in [
            (("choices: options", ""), "the key 'choices' is missing"),
            (("prompt: 'Q: {{question}} A:'", ""), "the key 'prompt' is missing"),
            (("choices: options", "choices: options\ngold: x"), "not both"),
            (("choices: options", "choices: options["), "t.yaml:4: choices: "),
            (
                ("choices: options", "choices: options\nprimary: acc_nrm"),
                "did you mean 'acc_norm'?",
            ),
            (
                ("type: multiple_choice", "type: blank"),
                "has {{choice}} where the blank is",
            ),
            (
                ("type: multiple_choice", "type: loglikelihood"),
                "go with the types multiple_choice",
            ),
        ] {
            let message = parse(&text.replace(change.0, change.1)).unwrap_err().to_string();
            assert!(message.contains(expected), "{change:?}: {message}");
        }
    }

    #[test]
    fn every_builtin_is_called_as_its_file() {
        for name in builtin_names() {
            assert_eq!(TaskFile::builtin(name).unwrap().unwrap().name, name);
        }
    }
}
