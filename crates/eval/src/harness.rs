//! Tasks of lm-evaluation-harness, read from its own YAML where that is declarative.
//!
//! A file becomes a [`TaskFile`] whose rows are worded the harness's way: `include`, `doc_to_*` in Jinja, filters,
//! `fewshot_config`, groups. What needs Python (`!function`), another library or data of another kind is refused by the name
//! of its key; the harness itself can be called instead. `docs/tasks.md` counts what of its files can be read.

mod document;
mod group;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::document::Words;
use super::{
    Error, Kind, Metric, Split,
    data::{Format, Row, Source},
    python,
    sampling::Samples,
    task_file::{Draw, FilterSpec, HarnessWords, NormalizeSpec, Pool, Settings, Shots, StepSpec, TaskFile},
};

/// Why a file of lm-evaluation-harness is not read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {}{message}", file.display(), if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct Refusal {
    /// The file that was read, or the one that it includes.
    pub file: PathBuf,
    /// Empty where it is the file as a whole.
    pub key: String,
    /// What is not read, and the way out where there is one.
    pub message: String,
}

impl Refusal {
    fn new(file: &Path, key: impl Into<String>, message: impl Into<String>) -> Self {
        Refusal {
            file: file.into(),
            key: key.into(),
            message: message.into(),
        }
    }
}

/// Keys by which a file is known as the harness's; this project's task files have none of them.
const KEYS: [&str; 9] = [
    "dataset_path",
    "dataset_name",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "output_type",
    "include",
    "group",
    "class",
];

/// Whether a file is one of lm-evaluation-harness's. A file that is neither kind's is left to the other reader, whose words
/// say more.
///
/// # Errors
/// It cannot be read.
pub fn is_harness(path: &Path) -> Result<bool, Error> {
    let text = heterosis_yaml::read_text(path).map_err(|source| Error::Read {
        file: path.into(),
        source,
    })?;
    let keys = document::parse(path, &text);
    Ok(keys.is_ok_and(|keys| KEYS.iter().any(|key| keys.contains_key(*key)) && !keys.contains_key("data")))
}

/// The task of a file, or the members of its group, each with its name; of a group with `member`, that one.
///
/// # Errors
/// What cannot be read here, by the name of its key.
pub fn read(path: &Path, member: Option<&str>) -> Result<Vec<(Option<String>, TaskFile)>, Error> {
    let (keys, words) = document::read(path)?;
    if !group::is_group(&keys) {
        return Ok(vec![(None, task(path, &keys, words)?)]);
    }
    let members = group::members(path, &keys)?;
    let wanted = members.iter().filter(|m| member.is_none_or(|name| m.name == name));
    let tasks: Result<Vec<_>, Refusal> = wanted
        .map(|m| Ok((Some(m.name.clone()), task(&m.file, &m.keys, words.and(&m.words))?)))
        .collect();
    match (tasks?, member) {
        (tasks, Some(name)) if tasks.is_empty() => Err(Error::UnknownTask {
            name: format!("{}#{name}", path.display()),
            hint: String::new(),
            known: members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        }),
        (tasks, _) => Ok(tasks),
    }
}

/// Keys that do not touch what is asked and how it is judged.
const IDLE: [&str; 12] = [
    "task_alias",
    "group_alias",
    "tag",
    "group",
    "metadata",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "aggregate_metric_list",
    "task_list",
    "unsafe_code",
    "task",
    "weight_by_size",
];

/// Keys that are read.
const READ: [&str; 21] = [
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "num_fewshot",
    "metric_list",
    "output_type",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "gen_prefix",
];

/// One task from its keys, those of included files among them.
fn task(file: &Path, keys: &Map<String, Value>, said: Words) -> Result<TaskFile, Refusal> {
    let reader = Reader { file, keys };
    reader.refuse_python()?;
    reader.refuse_unknown()?;
    let name = reader
        .text("task")?
        .ok_or_else(|| reader.wrong("task", "the name of the task is missing"))?;
    let kind = match reader.text("output_type")?.as_deref() {
        None | Some("generate_until") => Kind::Generate,
        Some("multiple_choice") => Kind::MultipleChoice,
        Some("loglikelihood") => Kind::LogLikelihood,
        Some(other) => return Err(reader.wrong("output_type", format!("'{other}' is not read here"))),
    };
    let words = reader.words(kind)?;
    let metrics = reader.metrics(kind)?;
    let base = reader.settings(kind, &metrics)?;
    let fitness = Settings {
        shots: base.shots.clone().map(|shots| Shots {
            // Fixed examples, so that all prompts share a prefix.
            draw: Draw::FirstN,
            spare: None,
            ..shots
        }),
        ..Settings::default()
    };
    Ok(TaskFile {
        name,
        version: keys
            .get("metadata")
            .and_then(|m| m.get("version"))
            .map_or("1".into(), python::text_of),
        description: String::new(),
        provenance: "A task of lm-evaluation-harness".into(),
        kind,
        langs: vec![("en".into(), Row::new())],
        subjects: Vec::new(),
        groups: Vec::new(),
        subject: None,
        data: reader.data()?,
        fields: Vec::new(),
        metrics: metrics.iter().map(|metric| metric.metric).collect(),
        harness: Some(words),
        base,
        parity: Settings::default(),
        fitness,
        dir: file.parent().map(PathBuf::from),
        text: said.text,
        content: said.content,
    })
}

struct Reader<'a> {
    file: &'a Path,
    keys: &'a Map<String, Value>,
}

/// A metric with what is done to answers before they are compared.
struct HarnessMetric {
    metric: Metric,
    normalize: NormalizeSpec,
}

impl Reader<'_> {
    fn wrong(&self, key: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal::new(self.file, key, message)
    }

    /// A key's value, unless it is null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<String>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(_) | Value::Object(_)) => Err(self.wrong(key, "a text is expected")),
            Some(other) => Ok(Some(python::text_of(other))),
        }
    }

    fn refuse_python(&self) -> Result<(), Refusal> {
        let mut functions = Vec::new();
        for (key, value) in self.keys.iter().filter(|(key, _)| !IDLE.contains(&key.as_str())) {
            collect_functions(key, value, &mut functions);
        }
        if self.keys.contains_key("class") {
            functions.push(("class".into(), "a class".into()));
        }
        match functions.as_slice() {
            [] => Ok(()),
            [(key, _), ..] => {
                let named: Vec<String> = functions.iter().map(|(key, name)| format!("{key}: {name}")).collect();
                let message = format!(
                    "this needs Python ({}), which is not run here; a search space's fitness.command can call \
                     lm-evaluation-harness itself",
                    named.join(", ")
                );
                Err(self.wrong(key.clone(), message))
            }
        }
    }

    fn refuse_unknown(&self) -> Result<(), Refusal> {
        let is_idle = |key: &str| READ.contains(&key) || IDLE.contains(&key);
        match self.keys.iter().find(|(key, value)| !is_idle(key) && !value.is_null()) {
            Some((key, _)) => Err(self.wrong(key.clone(), "this key is not read here")),
            None if self.keys.get("unsafe_code") == Some(&true.into()) => {
                Err(self.wrong("unsafe_code", "answers are programs, and none is run here"))
            }
            None => Ok(()),
        }
    }

    fn words(&self, kind: Kind) -> Result<HarnessWords, Refusal> {
        let (text, target) = (self.get("doc_to_text"), self.get("doc_to_target"));
        let choices = self.get("doc_to_choice").cloned();
        if kind == Kind::MultipleChoice && choices.is_none() {
            return Err(self.wrong("doc_to_choice", "the key is missing"));
        }
        let of_examples = |key: &str| self.fewshot(key).cloned();
        Ok(HarnessWords {
            text: text
                .cloned()
                .ok_or_else(|| self.wrong("doc_to_text", "the key is missing"))?,
            target: target
                .cloned()
                .ok_or_else(|| self.wrong("doc_to_target", "the key is missing"))?,
            choices,
            example_text: of_examples("doc_to_text"),
            example_target: of_examples("doc_to_target"),
            example_choices: of_examples("doc_to_choice"),
        })
    }

    fn fewshot(&self, key: &str) -> Option<&Value> {
        self.get("fewshot_config")?.get(key).filter(|value| !value.is_null())
    }

    fn metrics(&self, kind: Kind) -> Result<Vec<HarnessMetric>, Refusal> {
        let plain = |metric: &Metric| HarnessMetric {
            metric: *metric,
            normalize: NormalizeSpec::default(),
        };
        let Some(list) = self.get("metric_list").and_then(Value::as_array) else {
            let default: &[Metric] = match kind {
                Kind::MultipleChoice => &[Metric::Acc, Metric::AccNorm],
                Kind::LogLikelihood => &[Metric::Perplexity, Metric::Acc],
                _ => &[Metric::ExactMatch],
            };
            return Ok(default.iter().map(plain).collect());
        };
        list.iter().map(|entry| self.metric(kind, entry)).collect()
    }

    fn metric(&self, kind: Kind, entry: &Value) -> Result<HarnessMetric, Refusal> {
        let name = entry["metric"].as_str().unwrap_or_default();
        let known = Metric::of_kind(kind)
            .iter()
            .find(|metric| metric.name() == name && **metric != Metric::Ifeval);
        let is_own = entry["hf_evaluate"] != Value::Bool(true) && name != Metric::Mc2.name();
        let metric = known
            .filter(|_| is_own)
            .ok_or_else(|| self.wrong("metric_list", format!("the metric '{name}' is not known here")))?;
        let usual = match metric {
            Metric::F1 => &["f1"][..],
            Metric::Mcc => &["matthews_corrcoef"],
            Metric::Perplexity => &["perplexity"],
            _ => &["mean", "nanmean"],
        };
        match entry["aggregation"].as_str() {
            Some(aggregation) if !usual.contains(&aggregation) => {
                return Err(self.wrong(
                    "metric_list",
                    format!("the aggregation '{aggregation}' of {name} is not known here"),
                ));
            }
            _ => {}
        }
        let flag = |key: &str| entry[key] == Value::Bool(true);
        Ok(HarnessMetric {
            metric: *metric,
            normalize: NormalizeSpec {
                regexes_to_ignore: document::names(entry.get("regexes_to_ignore").cloned()),
                ignore_case: flag("ignore_case"),
                ignore_punctuation: flag("ignore_punctuation"),
                ignore_numbers: flag("ignore_numbers"),
                ..NormalizeSpec::default()
            },
        })
    }

    fn settings(&self, kind: Kind, metrics: &[HarnessMetric]) -> Result<Settings, Refusal> {
        let fewshot_delimiter = self.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".into());
        let target_delimiter = self.text("target_delimiter")?.unwrap_or_else(|| " ".into());
        let is_generated = kind == Kind::Generate;
        let generation = Generation::read(self, &fewshot_delimiter)?;
        Ok(Settings {
            preamble: self
                .text("description")?
                .filter(|text| !text.is_empty())
                .map(field_or_template),
            answer_prefix: self.text("gen_prefix")?.map(field_or_template),
            shots: self.shots(&target_delimiter, &fewshot_delimiter)?,
            // The harness sets nothing between a context and the continuation that it measures.
            target_delimiter: Some(match kind {
                Kind::LogLikelihood => String::new(),
                _ => target_delimiter,
            }),
            stop: is_generated.then_some(generation.until),
            max_new_tokens: is_generated.then_some(generation.most_tokens),
            samples: generation.samples.filter(|_| is_generated),
            filters: match is_generated {
                true => Some(self.filters()?),
                false => None,
            },
            normalize: metrics.first().map(|metric| metric.normalize.clone()),
            fewshot_delimiter: Some(fewshot_delimiter),
            ..Settings::default()
        })
    }

    fn shots(&self, target_delimiter: &str, fewshot_delimiter: &str) -> Result<Option<Shots>, Refusal> {
        let count = match self.get("num_fewshot") {
            // A task that is written for no examples keeps to that.
            Some(Value::Number(n)) if n.as_u64() == Some(0) => return Ok(None),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| self.wrong("num_fewshot", "a number is expected"))? as usize,
            None => 0,
        };
        let own = |key: &str, otherwise: &str| match self.fewshot(key) {
            Some(value) => python::text_of(value),
            None => otherwise.to_string(),
        };
        let draw = match self.fewshot("sampler").and_then(Value::as_str) {
            None | Some("default") => Draw::Random { seed: 1234 },
            Some("first_n") => Draw::FirstN,
            Some(other) => return Err(self.wrong("fewshot_config", format!("the sampler '{other}' is not known here"))),
        };
        let split = self
            .fewshot("split")
            .or(self.get("fewshot_split"))
            .and_then(Value::as_str);
        let pool = match (split, self.fewshot("samples")) {
            (Some(split), _) => Pool::File(self.source(split)?),
            (None, Some(Value::Array(samples))) => Pool::Examples(samples.iter().map(row).collect()),
            (None, Some(_)) => return Err(self.wrong("fewshot_config", "samples: a list is expected")),
            (None, None) => {
                let splits = ["training_split", "validation_split", "test_split"];
                let first = splits.iter().find_map(|key| self.get(key)).and_then(Value::as_str);
                Pool::File(self.source(first.ok_or_else(|| self.wrong("test_split", "a split is missing"))?)?)
            }
        };
        Ok(Some(Shots {
            pool,
            count,
            draw,
            spare: Some(split == self.get("test_split").and_then(Value::as_str)),
            prompt: None,
            target: None,
            target_delimiter: Some(own("target_delimiter", target_delimiter)),
            fewshot_delimiter: Some(own("fewshot_delimiter", fewshot_delimiter)),
            answer_prefix: self
                .fewshot("gen_prefix")
                .map(|prefix| field_or_template(python::text_of(prefix))),
        }))
    }

    /// Asked are the test split, or else the validation split; a search is asked what is left.
    fn data(&self) -> Result<Vec<(Split, Source)>, Refusal> {
        let split = |key: &str| self.get(key).and_then(Value::as_str);
        let (test, validation, training) = (split("test_split"), split("validation_split"), split("training_split"));
        let asked = test
            .or(validation)
            .ok_or_else(|| self.wrong("test_split", "a test or validation split is needed"))?;
        let mut data = vec![(Split::Test, self.source(asked)?)];
        if let Some(search) = training {
            data.push((Split::Search, self.source(search)?));
        }
        if let Some(selection) = validation.filter(|_| test.is_some()) {
            let split = if training.is_some() {
                Split::Selection
            } else {
                Split::Search
            };
            data.push((split, self.source(selection)?));
        }
        Ok(data)
    }

    /// The file of a split: one that `dataset_kwargs` names, or what `heterosis data pull DATASET` keeps.
    fn source(&self, split: &str) -> Result<Source, Refusal> {
        let dataset = self
            .text("dataset_path")?
            .ok_or_else(|| self.wrong("dataset_path", "the key is missing"))?;
        let kwargs = self.get("dataset_kwargs").and_then(Value::as_object);
        let known = ["trust_remote_code", "revision", "data_files"];
        if let Some(key) = kwargs.and_then(|kwargs| kwargs.keys().find(|key| !known.contains(&key.as_str()))) {
            return Err(self.wrong("dataset_kwargs", format!("{key} is not read here")));
        }
        let local = match dataset.as_str() {
            "json" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            "parquet" => Some(Format::Parquet),
            "text" => return Err(self.wrong("dataset_path", "'text' is not read here")),
            _ => None,
        };
        let files = kwargs.and_then(|kwargs| kwargs.get("data_files"));
        let (file, format) = match (local, files) {
            (Some(format), Some(files)) => (self.local_file(files, split)?, format),
            (Some(_), None) => return Err(self.wrong("dataset_kwargs", "data_files is missing")),
            (None, _) => {
                let name = self.text("dataset_name")?.unwrap_or_else(|| "default".into());
                (format!("{dataset}/{name}/{split}.jsonl"), Format::Jsonl)
            }
        };
        if split.contains(['[', '+']) {
            return Err(self.wrong("test_split", format!("part of a split, '{split}', is not read here")));
        }
        Ok(Source {
            file: literal_name(&file),
            format,
            columns: Vec::new(),
            passage: Source::DEFAULT_PASSAGE,
            rows: 0..usize::MAX,
        })
    }

    fn local_file(&self, files: &Value, split: &str) -> Result<String, Refusal> {
        let wrong = || {
            self.wrong(
                "dataset_kwargs",
                format!("data_files names no file of the split '{split}'"),
            )
        };
        let of_split = match files {
            Value::Object(by_split) => by_split.get(split).ok_or_else(wrong)?,
            // A single file is the split `train`, whatever it is called.
            all if split == "train" => all,
            _ => return Err(wrong()),
        };
        match of_split {
            Value::String(file) => Ok(file.clone()),
            Value::Array(files) => match files.as_slice() {
                [Value::String(only)] => Ok(only.clone()),
                _ => Err(self.wrong("dataset_kwargs", "data_files: one file for each split is read here")),
            },
            _ => Err(wrong()),
        }
    }

    fn filters(&self) -> Result<Vec<FilterSpec>, Refusal> {
        let Some(list) = self.get("filter_list").and_then(Value::as_array) else {
            return Ok(vec![FilterSpec {
                name: Metric::ExactMatch.name().into(),
                steps: Vec::new(),
                vote: None,
            }]);
        };
        list.iter().map(|entry| self.filter(entry)).collect()
    }

    fn filter(&self, entry: &Value) -> Result<FilterSpec, Refusal> {
        let mut filter = FilterSpec {
            name: entry["name"].as_str().unwrap_or("none").into(),
            steps: Vec::new(),
            vote: None,
        };
        let mut voters = self.get("repeats").and_then(Value::as_u64).unwrap_or(1) as usize;
        for step in entry["filter"].as_array().into_iter().flatten() {
            let text = |key: &str| step.get(key).map(python::text_of);
            match step["function"].as_str().unwrap_or_default() {
                "take_first" => {}
                "take_first_k" => voters = step["k"].as_u64().unwrap_or(1) as usize,
                "majority_vote" => filter.vote = Some(voters),
                "remove_whitespace" => filter.steps.push(StepSpec::RemoveWhitespace),
                "lowercase" => filter.steps.push(StepSpec::Lowercase),
                "uppercase" => filter.steps.push(StepSpec::Uppercase),
                "regex" => filter.steps.push(StepSpec::Regex {
                    pattern: literal_name(&text("regex_pattern").unwrap_or_else(|| r"#### (\-?[0-9\.\,]+)".into())),
                    pick: step["group_select"].as_i64().unwrap_or(0) as isize,
                    fallback: text("fallback"),
                }),
                "map" => {
                    let pairs = step["mapping_dict"].as_object().into_iter().flatten();
                    filter.steps.push(StepSpec::Map {
                        pairs: pairs.map(|(from, to)| (from.clone(), python::text_of(to))).collect(),
                        default: Some(text("default_value").unwrap_or_else(|| "None".into())),
                    });
                }
                other => return Err(self.wrong("filter_list", format!("the filter '{other}' is not known here"))),
            }
        }
        Ok(filter)
    }
}

/// How answers are generated.
struct Generation {
    until: Vec<String>,
    most_tokens: usize,
    samples: Option<Samples>,
}

impl Generation {
    fn read(reader: &Reader<'_>, fewshot_delimiter: &str) -> Result<Self, Refusal> {
        let empty = Map::new();
        let kwargs = reader
            .get("generation_kwargs")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        let wrong = |message: String| reader.wrong("generation_kwargs", message);
        let number = |key: &str| kwargs.get(key).and_then(Value::as_f64);
        for (key, value) in kwargs {
            let is_read = matches!(
                key.as_str(),
                "until"
                    | "do_sample"
                    | "temperature"
                    | "top_p"
                    | "top_k"
                    | "min_p"
                    | "max_gen_toks"
                    | "max_new_tokens"
                    | "max_tokens"
            );
            let is_one = matches!(
                key.as_str(),
                "num_beams" | "num_return_sequences" | "repetition_penalty" | "n"
            ) && value.as_f64() == Some(1.0);
            if !is_read && !is_one && !value.is_null() {
                return Err(wrong(format!("{key}: {} is not read here", python::text_of(value))));
            }
        }
        let most = ["max_gen_toks", "max_new_tokens", "max_tokens"]
            .iter()
            .find_map(|key| number(key));
        let is_greedy = kwargs.get("do_sample") == Some(&false.into()) || number("temperature").unwrap_or(0.0) == 0.0;
        let repeats = reader.get("repeats").and_then(Value::as_u64).unwrap_or(1) as usize;
        let samples = Samples {
            temperature: number("temperature").unwrap_or(1.0) as f32,
            top_p: number("top_p").unwrap_or(1.0) as f32,
            top_k: number("top_k").unwrap_or(0.0) as usize,
            min_p: number("min_p").unwrap_or(0.0) as f32,
            ..Samples::new(repeats.max(1))
        };
        let until = match kwargs.get("until") {
            Some(Value::Null) => Vec::new(),
            Some(value @ Value::String(_)) => vec![python::text_of(value)],
            Some(Value::Array(stops)) => stops.iter().map(python::text_of).collect(),
            _ => vec![fewshot_delimiter.to_string()],
        };
        Ok(Generation {
            until: until.iter().map(|stop| literal_name(stop)).collect(),
            most_tokens: most.map_or(256, |most| most as usize).max(1),
            // The same greedy answer again is worth nothing.
            samples: (!is_greedy).then(|| samples.checked()).transpose().map_err(wrong)?,
        })
    }
}

/// A text in whose place a template would stand: what looks like one is kept as it is.
fn literal_name(text: &str) -> String {
    match text.contains("{{") {
        true => format!("{{% raw %}}{text}{{% endraw %}}"),
        false => text.into(),
    }
}

/// What a key that may name a field says, as a template.
fn field_or_template(text: String) -> String {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    match is_name {
        true => format!("{{% if {text} is defined %}}{{{{ {text} }}}}{{% else %}}{text}{{% endif %}}"),
        false => text,
    }
}

fn row(sample: &Value) -> Row {
    sample.as_object().cloned().unwrap_or_default().into_iter().collect()
}

fn collect_functions(key: &str, value: &Value, functions: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => match map.get(document::FUNCTION) {
            Some(name) => functions.push((key.into(), python::text_of(name))),
            None => map.iter().for_each(|(inner, value)| {
                collect_functions(
                    if IDLE.contains(&inner.as_str()) { key } else { inner },
                    value,
                    functions,
                );
            }),
        },
        Value::Array(items) => items.iter().for_each(|item| collect_functions(key, item, functions)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
