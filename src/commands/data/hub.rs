//! Data sets of the Hub: the files of Parquet that it makes of each of them, kept as one JSON object a line.
//!
//! What lies where is the Hub's own list (`/api/datasets/NAME/parquet`: configuration → split → files). A split is kept as
//! `NAME/CONFIG/SPLIT.jsonl`, where built-in tasks and lm-evaluation-harness's own files look for it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, bail};

use super::{super::Failure, environment, fetch, keep, print, replacement};
use crate::{
    checkpoint::HubOptions,
    eval::{self, parquet},
    yaml,
};

/// The data of built-in tasks: what they are called, the data set, its configurations (none: all of them), and the splits that
/// are asked or shown.
const KNOWN: [(&str, &str, &[&str], &[&str]); 16] = [
    (
        "arc_easy",
        "allenai/ai2_arc",
        &["ARC-Easy"],
        &["train", "validation", "test"],
    ),
    (
        "arc_challenge",
        "allenai/ai2_arc",
        &["ARC-Challenge"],
        &["train", "validation", "test"],
    ),
    ("hellaswag", "Rowan/hellaswag", &["default"], &["train", "validation"]),
    ("piqa", "baber/piqa", &["default"], &["train", "validation"]),
    (
        "winogrande",
        "allenai/winogrande",
        &["winogrande_xl"],
        &["train", "validation"],
    ),
    ("boolq", "aps/super_glue", &["boolq"], &["train", "validation"]),
    (
        "openbookqa",
        "allenai/openbookqa",
        &["main"],
        &["train", "validation", "test"],
    ),
    (
        "truthfulqa",
        "truthfulqa/truthful_qa",
        &["multiple_choice"],
        &["validation"],
    ),
    (
        "truthfulqa_mc1",
        "truthfulqa/truthful_qa",
        &["multiple_choice"],
        &["validation"],
    ),
    (
        "truthfulqa_mc2",
        "truthfulqa/truthful_qa",
        &["multiple_choice"],
        &["validation"],
    ),
    ("minerva_math500", "HuggingFaceH4/MATH-500", &["default"], &["test"]),
    ("minerva_math", "EleutherAI/hendrycks_math", &[], &["train", "test"]),
    ("ifeval", "google/IFEval", &["default"], &["train"]),
    ("xcopa", "cambridgeltl/xcopa", &[], &["validation", "test"]),
    ("belebele", "facebook/belebele", &[], &["test"]),
    ("xnli", "facebook/xnli", &[], &["validation", "test"]),
];

/// MMLU's splits; its configurations are the task's subjects.
const MMLU: (&str, &str, &[&str]) = ("mmlu", "cais/mmlu", &["dev", "validation", "test"]);

/// A data set, or one configuration of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    dataset: String,
    /// None: all that there are.
    configs: Vec<String>,
    /// None: all that there are.
    splits: Vec<String>,
}

/// The names of data sets that are known here.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, ..)| *name).chain([MMLU.0])
}

/// What a name means: a built-in task's data, one part of it, or any data set (`owner/name`, `owner/name:config`); none where
/// it is neither.
///
/// # Errors
/// A part that a known data set does not have.
pub fn wanted(name: &str) -> Result<Option<Vec<Wanted>>> {
    let (set, part) = match name.split_once(':') {
        Some((set, part)) => (set, Some(part)),
        None => (name, None),
    };
    let of = |dataset: &str, configs: &[&str], splits: &[&str]| {
        vec![Wanted {
            dataset: dataset.into(),
            configs: part.map_or_else(
                || configs.iter().map(ToString::to_string).collect(),
                |part| vec![part.into()],
            ),
            splits: splits.iter().map(ToString::to_string).collect(),
        }]
    };
    if let Some((_, dataset, configs, splits)) = KNOWN.iter().find(|(known, ..)| *known == set) {
        return match part {
            Some(part) if !configs.is_empty() && !configs.contains(&part) => {
                bail!("{set} has the part {}, not '{part}'", configs.join(", "))
            }
            _ => Ok(Some(of(dataset, configs, splits))),
        };
    }
    if set == MMLU.0 {
        let subjects: Vec<String> = eval::tasks()?
            .into_iter()
            .filter(|task| task.task == MMLU.0)
            .flat_map(|task| task.subjects)
            .collect();
        let names: Vec<&str> = subjects.iter().map(String::as_str).collect();
        return match part {
            Some(part) if !names.contains(&part) => Err(anyhow!(
                "mmlu has no subject '{part}'{}",
                yaml::did_you_mean(part, &names)
            )),
            _ => Ok(Some(of(MMLU.1, &names, MMLU.2))),
        };
    }
    let is_dataset = set.split('/').count() == 2 && set.split('/').all(is_plain) && part.is_none_or(is_plain);
    Ok(is_dataset.then(|| of(set, &[], &[])))
}

/// A name that stays what it is as a part of an address and of a path.
fn is_plain(part: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(is_of_names)
}

/// The Hub's list of a data set's files: configuration → split → addresses.
type Listing = BTreeMap<String, Splits>;

/// Split → addresses.
type Splits = BTreeMap<String, Vec<String>>;

/// Fetches what is wanted, unless it is there already.
///
/// # Errors
/// The Hub does not have it, or what arrives is not what it should be.
pub fn pull(wanted: &[Wanted], from: Option<&str>, hub: &HubOptions, cache: &Path) -> Result<(), Failure> {
    let endpoint = from.or(hub.endpoint.as_deref()).unwrap_or("https://huggingface.co");
    let hub = Hub {
        endpoint: endpoint.trim_end_matches('/'),
        // A token is for the Hub that it was given for.
        token: hub.token.as_deref().filter(|_| from.is_none()),
    };
    for wanted in wanted {
        pull_one(wanted, &hub, cache)
            .with_context(|| wanted.dataset.clone())
            .map_err(Failure::Work)?;
    }
    Ok(())
}

struct Hub<'a> {
    endpoint: &'a str,
    token: Option<&'a str>,
}

impl Hub<'_> {
    fn get(&self, url: &str) -> Result<Vec<u8>> {
        let is_own = url
            .strip_prefix(self.endpoint)
            .is_some_and(|rest| rest.starts_with('/'));
        fetch(url, self.token.filter(|_| is_own))
    }

    fn listing(&self, dataset: &str) -> Result<Listing> {
        let url = format!("{}/api/datasets/{dataset}/parquet", self.endpoint);
        let bytes = self.get(&url).with_context(|| format!("{url} cannot be fetched"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{url} is not the Hub's list of files"))
    }
}

fn pull_one(wanted: &Wanted, hub: &Hub<'_>, cache: &Path) -> Result<()> {
    let dir = cache.join(&wanted.dataset);
    if is_there(wanted, &dir) {
        print(dir.display());
        return Ok(());
    }
    let listing = hub.listing(&wanted.dataset)?;
    let configs = configs_of(wanted, &listing)?;
    let bar = environment::progress_bar(configs.len() as u64, &wanted.dataset);
    for (i, (kept_as, splits)) in configs.iter().enumerate() {
        bar.set_position(i as u64);
        for (split, urls) in splits_of(wanted, kept_as, splits)? {
            if !is_plain(split) {
                bail!("the Hub's list has the split '{split}', which is no name of a file");
            }
            let out = dir.join(kept_as).join(format!("{split}.jsonl"));
            if !out.is_file() {
                keep(&out, &rows_of(hub, urls)?)?;
            }
        }
    }
    bar.finish_and_clear();
    let source = format!(
        "https://huggingface.co/datasets/{}\nFetched by heterosis from {}\n",
        wanted.dataset, hub.endpoint
    );
    replacement::replace(&dir.join("SOURCE"), &source)?;
    print(dir.display());
    Ok(())
}

/// Whether all that is wanted by name was fetched before.
fn is_there(wanted: &Wanted, dir: &Path) -> bool {
    let has = |config: &String| {
        wanted
            .splits
            .iter()
            .all(|split| dir.join(config).join(format!("{split}.jsonl")).is_file())
    };
    !wanted.configs.is_empty() && !wanted.splits.is_empty() && wanted.configs.iter().all(has)
}

/// Splits with their files, by the name under which a configuration is kept: its own, or `default` where it is the only one and
/// none was asked for, as a task that names none looks for it.
fn configs_of<'l>(wanted: &Wanted, listing: &'l Listing) -> Result<Vec<(String, &'l Splits)>> {
    let names: Vec<&str> = listing.keys().map(String::as_str).collect();
    if let Some(odd) = names.iter().find(|name| !is_plain(name)) {
        bail!("the Hub's list has the configuration '{odd}', which is no name of a folder");
    }
    match (wanted.configs.as_slice(), names.as_slice()) {
        ([], [only]) => Ok(vec![("default".into(), &listing[*only])]),
        ([], _) => Ok(listing.iter().map(|(name, splits)| (name.clone(), splits)).collect()),
        ([config], [only]) if config == "default" => Ok(vec![(config.clone(), &listing[*only])]),
        (configs, _) => configs
            .iter()
            .map(|config| {
                let splits = listing.get(config).with_context(|| {
                    format!(
                        "it has no configuration '{config}'{}; it has {}",
                        yaml::did_you_mean(config, &names),
                        names.join(", ")
                    )
                })?;
                Ok((config.clone(), splits))
            })
            .collect(),
    }
}

fn splits_of<'l>(wanted: &Wanted, config: &str, splits: &'l Splits) -> Result<Vec<(&'l String, &'l Vec<String>)>> {
    if wanted.splits.is_empty() {
        return Ok(splits.iter().collect());
    }
    let find = |split: &String| {
        let known = || splits.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let found = splits.get_key_value(split);
        found.with_context(|| format!("{config} has no split '{split}'; it has {}", known()))
    };
    wanted.splits.iter().map(find).collect()
}

/// The rows of a split's files, one JSON object a line.
fn rows_of(hub: &Hub<'_>, urls: &[String]) -> Result<String> {
    let mut text = String::new();
    for url in urls {
        let bytes = hub.get(url).with_context(|| format!("{url} cannot be fetched"))?;
        for row in parquet::rows(bytes).map_err(|e| anyhow!("{url}: {e}"))? {
            text.push_str(&serde_json::to_string(&row)?);
            text.push('\n');
        }
    }
    match text.is_empty() {
        true => Err(anyhow!("it holds no rows")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checkpoint::scripted::Scripted;

    /// A Hub with one data set of one split, `configs` times.
    fn serve(configs: &[&str]) -> Scripted {
        let parquet = include_bytes!("../../../crates/eval/tests/data/sample.parquet");
        super::super::tests::serve(|address| {
            let path = |config: &str| format!("/{config}/0.parquet");
            let files = |config: &&str| {
                (
                    config.to_string(),
                    json!({"test": [format!("{address}{}", path(config))]}),
                )
            };
            let listing: serde_json::Map<_, _> = configs.iter().map(files).collect();
            let listing = serde_json::to_vec(&listing).unwrap();
            let listing = ("/api/datasets/some/set/parquet".to_string(), listing);
            let files = configs.iter().map(|config| (path(config), parquet.to_vec()));
            files.chain([listing]).collect()
        })
    }

    fn pull_from(address: &str, name: &str, cache: &Path) -> Result<()> {
        let wanted = wanted(name).unwrap().unwrap().remove(0);
        let hub = Hub {
            endpoint: address,
            token: None,
        };
        pull_one(&wanted, &hub, cache)
    }

    #[test]
    fn a_data_set_of_the_hub_is_kept_as_lines() {
        let server = serve(&["plain_text"]);
        let dir = tempfile::tempdir().unwrap();
        pull_from(&server.address, "some/set", dir.path()).unwrap();
        let file = dir.path().join("some/set/default/test.jsonl");
        let text = std::fs::read_to_string(&file).unwrap();
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((text.lines().count(), &first["endings"][1]), (2, &"b".into()));
        pull_from(&server.address, "some/set", dir.path()).unwrap();
        let asked = server.asked();
        let files = asked.iter().filter(|asked| asked.path.ends_with(".parquet")).count();
        assert_eq!(files, 1, "fetched once");
    }

    #[test]
    fn configurations_are_chosen_by_name() {
        let Scripted { address, .. } = serve(&["es", "ja"]);
        let dir = tempfile::tempdir().unwrap();
        pull_from(&address, "some/set:ja", dir.path()).unwrap();
        assert!(dir.path().join("some/set/ja/test.jsonl").is_file());
        assert!(!dir.path().join("some/set/es").exists());
        let error = pull_from(&address, "some/set:jp", dir.path()).unwrap_err().to_string();
        assert!(error.contains("it has es, ja"), "{error}");
        let Scripted { address, .. } = serve(&["../../out"]);
        let error = pull_from(&address, "some/set", dir.path()).unwrap_err().to_string();
        assert!(error.contains("no name of a folder"), "{error}");
    }

    #[test]
    fn names_mean_data_sets() {
        let one = |name: &str| wanted(name).unwrap().map(|parts| parts[0].clone());
        assert_eq!(one("arc_easy").unwrap().configs, ["ARC-Easy"]);
        assert_eq!(one("belebele:spa_Latn").unwrap().configs, ["spa_Latn"]);
        assert_eq!(one("mmlu").unwrap().configs.len(), 57);
        assert_eq!(one("mmlu:anatomy").unwrap().configs, ["anatomy"]);
        assert!(wanted("mmlu:anatmy").unwrap_err().to_string().contains("anatomy"));
        assert!(wanted("arc_easy:x").is_err());
        assert_eq!((one("gsm8k"), one("../x"), one("a/../b")), (None, None, None));
        assert_eq!(one("a/b:c").unwrap().dataset, "a/b");
    }
}
