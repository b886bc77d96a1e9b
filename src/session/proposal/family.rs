//! The models that somebody names, opened: which of them is the base, or where the cards say that it lies.

use std::path::Path;

use serde_json::Value;

use super::{Error, Wanted};
use crate::{
    checkpoint::{self, Checkpoint, HubOptions},
    merge::layer_count,
    model::Tokenizer,
    models::{beside, tokenizer_files, without_prefix},
};

/// The word for a family without a base.
const NONE: &str = "none";

/// Words that mean something else in a space or recipe.
const RESERVED: [&str; 4] = ["base", "ps", "union", ""];

pub struct Family {
    pub base: Option<Parent>,
    /// Who said which it is.
    pub base_reason: String,
    pub experts: Vec<Parent>,
}

pub struct Parent {
    /// In the space.
    pub name: String,
    /// The MODEL word.
    pub word: String,
    pub checkpoint: Checkpoint,
}

impl Family {
    pub fn open(wanted: &Wanted, hub: &HubOptions) -> Result<Self, Error> {
        let mut given: Vec<(String, Checkpoint)> = Vec::new();
        for word in &wanted.models {
            let opened = open(word, wanted.base.as_deref().filter(|base| *base != NONE), hub)?;
            if given.iter().any(|(word, _)| *word == opened.0) {
                return Err(Error::ParentTwice { word: opened.0 });
            }
            given.push(opened);
        }
        let (base, base_reason) = match wanted.base.as_deref() {
            Some(NONE) => (None, String::new()),
            Some(word) => (Some(beside(word, Path::new(""))), "as was said".into()),
            None => found(&given)?,
        };
        let base = match base {
            Some(word) => Some(
                match given
                    .iter()
                    .position(|(given, checkpoint)| is(&word, given, checkpoint))
                {
                    Some(at) => given.remove(at),
                    None => open(&word, None, hub).map_err(Error::at(named_by(&word, &base_reason)))?,
                },
            ),
            None => None,
        };
        if given.len() + usize::from(base.is_some()) < 2 || given.is_empty() {
            return Err(Error::TooFewParents);
        }
        let mut words = given.iter().map(|(word, _)| short(word)).collect::<Vec<_>>();
        let of_base = base.as_ref().map(|(word, _)| short(word));
        shorten(&mut words, of_base.as_deref());
        let experts = words.into_iter().zip(given);
        Ok(Self {
            base: base.map(|(word, checkpoint)| Parent {
                name: "base".into(),
                word,
                checkpoint,
            }),
            base_reason,
            experts: experts
                .map(|(name, (word, checkpoint))| Parent { name, word, checkpoint })
                .collect(),
        })
    }

    /// The base first.
    pub fn parents(&self) -> impl Iterator<Item = &Parent> {
        self.base.iter().chain(&self.experts)
    }

    /// What the space is called.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.experts.iter().map(|expert| expert.name.as_str()).collect();
        names.join("-x-").chars().take(60).collect()
    }

    pub fn parameters(&self) -> usize {
        let of = |parent: &Parent| parent.checkpoint.tensors().map(|(_, info)| info.len()).sum();
        self.parents().map(of).max().unwrap_or(0)
    }

    pub fn layers(&self) -> usize {
        let layers = |parent: &Parent| layer_count(parent.checkpoint.config());
        self.parents().find_map(layers).unwrap_or(1)
    }

    /// What the models' tensors are called.
    pub fn tensors(&self) -> Vec<String> {
        let first = self.parents().next();
        let tensors = first.into_iter().flat_map(|parent| parent.checkpoint.tensors());
        tensors.map(|(name, _)| name.to_string()).collect()
    }

    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let base = match &self.base {
            Some(base) => format!("{}: {}", without_prefix(&base.word), self.base_reason),
            None => "none, as was said: the child is a mean of its parents".into(),
        };
        let size = self.parameters() as f64;
        let size = match size >= 1e9 {
            true => format!("{:.1}B", size / 1e9),
            false => format!("{:.1}M", size / 1e6),
        };
        let names: Vec<&str> = self.experts.iter().map(|expert| expert.name.as_str()).collect();
        vec![
            ("base", base),
            (
                "parents",
                format!(
                    "{}, of {size} parameters in {} layers: they fit each other",
                    names.join(", "),
                    self.layers()
                ),
            ),
        ]
    }
}

impl Parent {
    pub fn tokenizer(&self) -> Option<Tokenizer> {
        Tokenizer::new(tokenizer_files(&self.checkpoint).ok()?).ok()
    }
}

/// Opens a MODEL word; an adapter alone is laid over the base, or over the model that it names itself.
fn open(word: &str, base: Option<&str>, hub: &HubOptions) -> Result<(String, Checkpoint), Error> {
    let word = beside(word, Path::new(""));
    match Checkpoint::open_model(&word, hub) {
        Err(checkpoint::Error::AdapterAlone { dir }) => {
            let model = match base {
                Some(base) => beside(base, Path::new("")),
                None => {
                    let named = of_adapter(&dir).ok_or_else(|| Error::AdapterWithoutBase { adapter: word.clone() })?;
                    near(&named, &dir)
                }
            };
            let both = format!("{model}+{word}");
            let opened = Checkpoint::open_model(&both, hub).map_err(Error::from);
            let opened = match base {
                Some(_) => opened,
                None => opened.map_err(Error::at(named_by(&model, &short(&word)))),
            };
            Ok((both, opened?))
        }
        opened => Ok((word, opened?)),
    }
}

/// Where an error belongs that comes up with a base that somebody else named.
fn named_by(base: &str, by: &str) -> String {
    format!("{} ({by}); --base MODEL says where it lies", without_prefix(base))
}

/// The model that an adapter was trained on, by its own word.
fn of_adapter(dir: &Path) -> Option<String> {
    let text = checkpoint::read_regular_text(&dir.join("adapter_config.json"), checkpoint::TEXT_LIMIT).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    Some(config.get("base_model_name_or_path")?.as_str()?.to_string())
}

/// Where a model lies that another one names: beside that one, by the last part of its name, or where its name leads.
fn near(named: &str, dir: &Path) -> String {
    let last = named.trim_end_matches('/').rsplit('/').next().unwrap_or(named);
    let sibling = dir.parent().unwrap_or(Path::new("")).join(last);
    match sibling.join("config.json").is_file() && !Path::new(named).exists() {
        true => sibling.display().to_string(),
        false => beside(named, Path::new("")),
    }
}

/// The base that the models name themselves, and who did.
fn found(given: &[(String, Checkpoint)]) -> Result<(Option<String>, String), Error> {
    let mut named: Vec<(String, Vec<String>)> = Vec::new();
    for (word, checkpoint) in given {
        let Some(base) = base_of(word, checkpoint)? else {
            continue;
        };
        // A model may be named as it was opened or as the Hub has it.
        let same = given.iter().find(|(other, checkpoint)| is(&base, other, checkpoint));
        let base = same.map_or(base, |(word, _)| word.clone());
        match named.iter_mut().find(|(known, _)| *known == base) {
            Some((_, by)) => by.push(short(word)),
            None => named.push((base, vec![short(word)])),
        }
    }
    match &named[..] {
        [(base, by)] => Ok((
            Some(base.clone()),
            format!("named by the card or adapter of {}", by.join(" and of ")),
        )),
        [] => Err(Error::NoBaseNamed {
            models: given.iter().map(|(word, _)| short(word)).collect::<Vec<_>>().join(", "),
        }),
        several => Err(Error::SeveralBases {
            named: several
                .iter()
                .map(|(base, by)| format!("{} ({})", without_prefix(base), by.join(", ")))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// What a model says that it was made from: an adapter's own model, or one `base_model` of its card.
fn base_of(word: &str, checkpoint: &Checkpoint) -> Result<Option<String>, Error> {
    if let (model, Some(_)) = checkpoint::split_adapter(word) {
        return Ok(Some(model.to_string()));
    }
    let card = checkpoint
        .license_texts()?
        .into_iter()
        .next()
        .and_then(|texts| texts.readme);
    Ok(card
        .as_deref()
        .and_then(of_card)
        .map(|base| near(&base, checkpoint.path())))
}

fn of_card(readme: &str) -> Option<String> {
    let front = readme.strip_prefix("---")?.split("\n---").next()?;
    let front: serde_yaml_ng::Value = serde_yaml_ng::from_str(front).ok()?;
    match front.get("base_model")? {
        serde_yaml_ng::Value::String(name) => Some(name.trim().to_string()),
        // Several are those of a merge, none of which is its base.
        serde_yaml_ng::Value::Sequence(names) if names.len() == 1 => Some(names[0].as_str()?.trim().to_string()),
        _ => None,
    }
}

/// Whether a name means a model that is open under a word.
fn is(name: &str, word: &str, checkpoint: &Checkpoint) -> bool {
    let path = |word: &str| std::fs::canonicalize(word).ok();
    name == word
        || without_prefix(name) == without_prefix(word)
        || (path(name).is_some() && path(name) == path(word))
        || (checkpoint::split_adapter(word).1.is_none() && without_prefix(name) == checkpoint.name())
}

/// The last part of a MODEL word, as a short name may be written.
fn short(word: &str) -> String {
    let (model, adapter) = checkpoint::split_adapter(word);
    let part = adapter.unwrap_or(model).split('@').next().unwrap_or_default();
    let last = part.trim_end_matches('/').rsplit('/').next().unwrap_or(part);
    let last = last.strip_suffix(".gguf").unwrap_or(last);
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    last.chars()
        .map(plain)
        .collect::<String>()
        .trim_matches('-')
        .to_string()
}

/// Drops what all names begin with, up to a dash, and tells those apart that are the same.
fn shorten(names: &mut [String], of_base: Option<&str>) {
    let first = names[0].clone();
    let shared = |prefix: &str| {
        names
            .iter()
            .map(String::as_str)
            .chain(of_base)
            .all(|name| name.starts_with(prefix))
    };
    let cuts = first.match_indices('-').map(|(at, _)| at + 1);
    let cut = cuts.filter(|cut| shared(&first[..*cut])).max().unwrap_or(0);
    let is_free = |name: &str| !RESERVED.contains(&name);
    if names.iter().all(|name| is_free(&name[cut..])) {
        names.iter_mut().for_each(|name| *name = name.split_off(cut));
    }
    for i in 0..names.len() {
        let stem = names[i].clone();
        let mut n = 1;
        while !is_free(&names[i]) || names[..i].contains(&names[i]) {
            n += 1;
            names[i] = format!("{stem}-{n}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_say_what_a_model_was_made_from() {
        assert_eq!(of_card("---\nbase_model: o/n\n---\n# x"), Some("o/n".into()));
        assert_eq!(of_card("---\nbase_model:\n- o/n\n---\n"), Some("o/n".into()));
        assert_eq!(of_card("---\nbase_model: [a/b, c/d]\n---\n"), None);
        assert_eq!(of_card("# no front matter"), None);
    }

    #[test]
    fn short_names_are_short_and_different() {
        for (words, base, expected) in [
            (
                &["m/tiny-maths", "m/tiny-es"][..],
                Some("m/tiny-base"),
                &["maths", "es"][..],
            ),
            (&["a/x", "b/x"], None, &["x", "x-2"]),
            (
                &["hf:o/Qwen2.5-7B-Instruct@v1", "m+lora.es"],
                None,
                &["Qwen2-5-7B-Instruct", "lora-es"],
            ),
            (&["x/base"], Some("x/other"), &["base-2"]),
        ] {
            let mut names: Vec<String> = words.iter().map(|word| short(word)).collect();
            shorten(&mut names, base.map(short).as_deref());
            assert_eq!(names, expected);
        }
    }

    /// An adapter names its model; a card names another adapter's in the Hub's way although it lies next door.
    #[test]
    fn adapters_bring_their_model() {
        let tmp = tempfile::tempdir().unwrap();
        let (model, adapter) = (tmp.path().join("n"), tmp.path().join("lora"));
        std::fs::create_dir_all(&model).unwrap();
        std::fs::create_dir_all(&adapter).unwrap();
        std::fs::write(model.join("config.json"), "{}").unwrap();
        let config = adapter.join("adapter_config.json");
        assert_eq!(of_adapter(&adapter), None);
        std::fs::write(config, "{\"base_model_name_or_path\": \"o/n\"}").unwrap();
        assert_eq!(of_adapter(&adapter), Some("o/n".into()));
        assert_eq!(near("o/n", &adapter), model.display().to_string());
        assert_eq!(near("o/m", &adapter), "hf:o/m");
    }
}
