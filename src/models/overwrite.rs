//! What `--overwrite` may replace: an empty directory, or one that heterosis wrote and in which nobody has put anything of
//! their own. A typing mistake must not cost a thesis.

use std::{collections::BTreeSet, fs, path::Path};

use serde::Deserialize;

use super::Error;
use crate::checkpoint::{self, Writer};

/// The most that a file of ours which says what lies beside it may hold, 16 MiB.
const LONGEST_DOCUMENT: u64 = 16 << 20;

/// Files that heterosis writes beside shards and what provenance lists.
const WRITTEN: [&str; 19] = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "mergekit_config.yml",
    "model.safetensors.index.json",
    "model-f16.gguf",
    "model-q8_0.gguf",
    "provenance.json",
    "recipe.yaml",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// How the last line of every recipe begins that heterosis writes beside a model.
const MARK: &str = "# written by heterosis";

/// A recipe with the line by which its directory is known as ours.
pub fn marked(yaml: &str) -> String {
    format!("{}\n{MARK} {}\n", yaml.trim_end(), env!("CARGO_PKG_VERSION"))
}

/// Begins a model at `out`, in a directory beside it until it is complete; `overwrite`: if `out` is there, it may go.
///
/// # Errors
/// `out` is there, and holds what heterosis did not write; or it cannot be written beside it.
pub fn begin(out: &Path, shard_size_bytes: u64, overwrite: bool) -> Result<Writer, Error> {
    match overwrite {
        true => {
            refuse_foreign(out)?;
            Ok(Writer::replace(out, shard_size_bytes)?)
        }
        false => Ok(Writer::create(out, shard_size_bytes)?),
    }
}

/// Refuses a directory that holds a file which heterosis did not write, by the file's name.
///
/// # Errors
/// It does, it is no directory, or it cannot be looked into.
pub fn refuse_foreign(out: &Path) -> Result<(), Error> {
    if !out.exists() {
        return Ok(());
    }
    if !out.is_dir() {
        return Err(Error::IsAFile { out: out.into() });
    }
    let io = |source| Error::Io {
        path: out.into(),
        source,
    };
    let ours = written_here(out);
    for entry in fs::read_dir(out).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = |ours: &BTreeSet<String>| ours.contains(&name) || is_shard(&name);
        if !entry.file_type().map_err(io)?.is_file() || !ours.as_ref().is_some_and(known) {
            return Err(Error::Foreign { out: out.into(), name });
        }
    }
    Ok(())
}

/// Names that a directory of ours may hold; `None` of any other directory.
fn written_here(out: &Path) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Provenance {
        #[serde(rename = "schema_version")]
        _schema_version: u32,
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        file: String,
    }
    let read = |name: &str| checkpoint::read_regular_text(&out.join(name), LONGEST_DOCUMENT).ok();
    let provenance = read("provenance.json").and_then(|text| serde_json::from_str::<Provenance>(&text).ok());
    let is_marked = read("mergekit_config.yml").is_some_and(|text| {
        text.trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.starts_with(MARK))
    });
    if provenance.is_none() && !is_marked {
        return None;
    }
    let listed = provenance.into_iter().flat_map(|p| p.outputs).map(|o| o.file);
    Some(WRITTEN.map(String::from).into_iter().chain(listed).collect())
}

/// `model.safetensors` and `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let Some(middle) = name
        .strip_prefix("model")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
    else {
        return false;
    };
    let numbers = middle.strip_prefix('-').and_then(|rest| rest.split_once("-of-"));
    middle.is_empty() || numbers.is_some_and(|(one, all)| number(one) && number(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        refuse_foreign(dir.path()).err().map(|e| e.to_string())
    }

    /// `merge recipe.yaml mine --overwrite` deleted mine/thesis.tex, and would have deleted a home for a typing mistake.
    #[test]
    fn what_heterosis_did_not_write_is_not_replaced() {
        let recipe = marked("merge_method: linear\n");
        let provenance = r#"{"schema_version":1,"outputs":[{"file":"odd.bin"}]}"#;
        let model = [("config.json", "{}"), ("model.safetensors", "")];
        let ours = [&model[..], &[("mergekit_config.yml", &recipe)]].concat();
        assert_eq!(refused(&[]), None, "an empty directory");
        assert_eq!(refused(&ours), None);
        let sharded = [
            ("mergekit_config.yml", recipe.as_str()),
            ("model-00001-of-00002.safetensors", ""),
        ];
        assert_eq!(refused(&sharded), None);
        assert_eq!(
            refused(&[("provenance.json", provenance), ("odd.bin", ""), ("config.json", "")]),
            None
        );
        for (foreign, name) in [
            (vec![("thesis.tex", "")], "thesis.tex"),
            ([&ours[..], &[("thesis.tex", "")]].concat(), "thesis.tex"),
            (
                [&ours[..], &[("model-best.safetensors", "")]].concat(),
                "model-best.safetensors",
            ),
            ([&ours[..], &[("notes/a.txt", "")]].concat(), "notes"),
            // Somebody's own model, mergekit's output, and a name alone are no marks.
            (model[..1].to_vec(), "config.json"),
            (
                vec![("mergekit_config.yml", "merge_method: linear\n")],
                "mergekit_config.yml",
            ),
            (vec![("provenance.json", "{}")], "provenance.json"),
        ] {
            let message = refused(&foreign).unwrap_or_else(|| panic!("{foreign:?} is replaced"));
            assert!(message.contains(&format!("would destroy {name}")), "{message}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            refuse_foreign(file.path())
                .unwrap_err()
                .to_string()
                .contains("is a file")
        );
    }

    #[test]
    fn the_mark_leaves_a_recipe_the_recipe_that_it_is() {
        let text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n";
        let read = |text: &str| crate::recipe::read::parse(Path::new("r.yaml"), text).unwrap();
        assert_eq!(read(&marked(text)), read(text));
    }
}
