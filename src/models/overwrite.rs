//! What `--overwrite` may replace: an empty directory, or one that heterosis wrote and in which everything is as it wrote it. A
//! typing mistake must not cost a thesis, and a second export not the card that somebody has rewritten since the first.
//!
//! An export says what it holds in its `provenance.json`; a merge, an adapter and a recipe alone say it in comments at the end of
//! the recipe beside them.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use crate::checkpoint::{self, Staged, Writer};

/// The most that a file of ours which says what lies beside it may hold, 16 MiB.
const LONGEST_DOCUMENT: u64 = 16 << 20;

/// The most bytes of a file that is known by its content; larger ones, which are weights, are known by their size: nobody edits
/// them by hand, and to read 100 GB before they are replaced takes minutes.
const SMALL: u64 = 64 << 20;

/// The recipe in the directory of a model.
const RECIPE: &str = "mergekit_config.yml";

const PROVENANCE: &str = "provenance.json";

/// How the last line of every recipe begins that heterosis writes beside a model.
const MARK: &str = "# written by heterosis";

/// Above the files that a recipe lists, itself among them.
const LIST: &str = "# --overwrite replaces what is as it was written:";
const ITEM: &str = "#   ";

/// What a model's directory holds, one of these at least.
const OF_A_MODEL: [&str; 3] = ["config.json", "adapter_config.json", PROVENANCE];

/// What every merge writes: all that is known of one from before its recipe listed its files.
const OF_EVERY_MERGE: [&str; 7] = [
    "config.json",
    "generation_config.json",
    RECIPE,
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// A file as it was written.
#[derive(Serialize, Deserialize)]
struct Print {
    file: String,
    size_bytes: u64,
    /// Its beginning at least; absent where the size has to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Print {
    fn of(file: &Path) -> io::Result<Self> {
        let size_bytes = fs::metadata(file)?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let content = if size_bytes <= SMALL { Some(sha256(file)?) } else { None };
        Ok(Self::new(&name, size_bytes, content))
    }

    fn new(file: &str, size_bytes: u64, sha256: Option<String>) -> Self {
        Self {
            file: file.into(),
            size_bytes,
            sha256: sha256.map(|hex| hex[..16].into()), // enough to know an edit by, and short enough to be read over
        }
    }

    fn is_of(&self, size_bytes: u64, sha256: impl FnOnce() -> io::Result<String>) -> bool {
        let same = |known: &String| sha256().is_ok_and(|now| !known.is_empty() && now.starts_with(known.as_str()));
        size_bytes == self.size_bytes && (size_bytes > SMALL || self.sha256.as_ref().is_some_and(same))
    }
}

/// A recipe with the lines by which it, and its directory, are known as ours.
pub fn marked(yaml: &str) -> String {
    listing(yaml.trim_end(), &[])
}

fn listing(recipe: &str, beside: &[Print]) -> String {
    let own = Print::new(RECIPE, recipe.len() as u64, Some(hex(Sha256::digest(recipe))));
    let item = |print: &Print| {
        format!(
            "{ITEM}{}\n",
            serde_json::to_string(print).expect("a print is plain data")
        )
    };
    let items: String = beside.iter().chain([&own]).map(item).collect();
    format!("{recipe}\n{LIST}\n{items}{MARK} {}\n", env!("CARGO_PKG_VERSION"))
}

/// Begins a model at `out`, in a directory beside it until it is complete; `overwrite`: if `out` is there, it may go.
///
/// # Errors
/// `out` is there, and holds what heterosis did not write; or it cannot be written beside it.
pub fn begin(out: &Path, shard_size_bytes: u64, overwrite: bool) -> Result<Writer, Error> {
    if overwrite {
        refuse_foreign(out)?;
        return Ok(Writer::replace(out, shard_size_bytes)?);
    }
    Writer::create(out, shard_size_bytes).map_err(|e| match e {
        checkpoint::Error::OutputExists { .. } if refuse_foreign(out).is_ok() => Error::IsOurs { out: out.into() },
        e => e.into(),
    })
}

/// Gives a finished model its name, with all its files listed in its recipe; somebody may have put something at `out` meanwhile.
///
/// # Errors
/// As [`begin`].
pub fn publish(staged: Staged, out: &Path, overwrite: bool) -> Result<(), Error> {
    let io = |source| Error::Io {
        path: out.join(RECIPE),
        source,
    };
    let recipe = fs::read_to_string(staged.path().join(RECIPE)).map_err(io)?;
    let recipe = read_mark(&recipe).map_or(recipe.trim_end(), |mark| mark.recipe);
    let mut beside = Vec::new();
    for entry in fs::read_dir(staged.path()).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if !file.ends_with(RECIPE) {
            beside.push(Print::of(&file).map_err(io)?);
        }
    }
    beside.sort_by(|a, b| a.file.cmp(&b.file));
    fs::write(staged.path().join(RECIPE), listing(recipe, &beside)).map_err(io)?;
    if overwrite {
        refuse_foreign(out)?;
    }
    Ok(staged.publish()?)
}

/// Refuses a directory that holds a file which heterosis did not write, or which is not as heterosis wrote it, by its name.
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
    let written = written_here(out);
    if matches!(written, Written::Edited) {
        return Err(Error::Foreign {
            out: out.into(),
            name: RECIPE.into(),
            is_changed: true,
        });
    }
    let entries: Result<Vec<fs::DirEntry>, io::Error> = fs::read_dir(out).map_err(io)?.collect();
    let mut entries = entries.map_err(io)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().map_err(io)?.is_file();
        let is_as_written = written.is_as_written(&entry.path(), &name).filter(|_| is_file);
        if is_as_written != Some(true) {
            return Err(Error::Foreign {
                out: out.into(),
                name,
                is_changed: is_as_written.is_some(),
            });
        }
    }
    Ok(())
}

/// Refuses a place where a recipe is to stand alone, and something else does: a model, whose recipe is its own, or a file that is
/// no recipe of ours. `overwrite`: one of ours may go.
///
/// # Errors
/// It does.
pub fn refuse_for_recipe(file: &Path, overwrite: bool) -> Result<(), Error> {
    let beside = |name: &&str| file.with_file_name(name).exists();
    let is_of_directory = file.file_name().is_some_and(|name| name == RECIPE);
    if let Some(name) = OF_A_MODEL.into_iter().find(beside).filter(|_| is_of_directory) {
        return Err(Error::HasARecipe {
            out: file.parent().unwrap_or(Path::new(".")).into(),
            name,
        });
    }
    if fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    let is_ours = checkpoint::read_regular_text(file, LONGEST_DOCUMENT)
        .is_ok_and(|text| read_mark(&text).is_some_and(|mark| mark.is_as_written()));
    match (is_ours, overwrite) {
        (true, true) => Ok(()),
        (true, false) => Err(Error::IsOurs { out: file.into() }),
        (false, _) => Err(Error::NoRecipeOfOurs { file: file.into() }),
    }
}

/// What is known of the files of a directory.
enum Written {
    /// Each as it was written.
    Listed(BTreeMap<String, Print>),
    /// A merge's, by names alone.
    Merge,
    /// It was ours, and its recipe no longer ends as it ended: of the files beside it nothing is known.
    Edited,
    /// Nothing: it is not ours.
    Nothing,
}

impl Written {
    /// `None` of a file that is not ours.
    fn is_as_written(&self, file: &Path, name: &str) -> Option<bool> {
        match self {
            Self::Listed(prints) if name == PROVENANCE => prints.contains_key(name).then_some(true),
            Self::Listed(prints) if name == RECIPE && !prints.contains_key(PROVENANCE) => {
                let text = checkpoint::read_regular_text(file, LONGEST_DOCUMENT).ok()?;
                Some(read_mark(&text).is_some_and(|mark| mark.is_as_written()))
            }
            Self::Listed(prints) => {
                let print = prints.get(name)?;
                Some(fs::metadata(file).is_ok_and(|now| print.is_of(now.len(), || sha256(file))))
            }
            Self::Merge => (OF_EVERY_MERGE.contains(&name) || is_shard(name)).then_some(true),
            Self::Edited | Self::Nothing => None,
        }
    }
}

fn written_here(out: &Path) -> Written {
    #[derive(Deserialize)]
    struct Provenance {
        #[serde(rename = "schema_version")]
        _schema_version: u32,
        outputs: Vec<Print>,
    }
    let listed = |prints: Vec<Print>| Written::Listed(prints.into_iter().map(|p| (p.file.clone(), p)).collect());
    let read = |name: &str| checkpoint::read_regular_text(&out.join(name), LONGEST_DOCUMENT).ok();
    let provenance = read(PROVENANCE).and_then(|text| serde_json::from_str::<Provenance>(&text).ok());
    if let Some(Provenance { mut outputs, .. }) = provenance {
        // It lists everything but itself.
        outputs.push(Print::new(PROVENANCE, 0, None));
        return listed(outputs);
    }
    let recipe = read(RECIPE).unwrap_or_default();
    match read_mark(&recipe) {
        Some(Mark {
            prints: Some(prints), ..
        }) => listed(prints),
        Some(_) => Written::Merge,
        None if recipe.contains(MARK) => Written::Edited,
        None => Written::Nothing,
    }
}

/// A recipe of ours, and what its last lines say.
struct Mark<'a> {
    recipe: &'a str,
    /// `None` in one from before files were listed.
    prints: Option<Vec<Print>>,
}

impl Mark<'_> {
    /// Whether the recipe itself is.
    fn is_as_written(&self) -> bool {
        let is_it = |print: &Print| {
            let content = || Ok(hex(Sha256::digest(self.recipe)));
            print.file == RECIPE && print.is_of(self.recipe.len() as u64, content)
        };
        self.prints.as_ref().is_none_or(|prints| prints.iter().any(is_it))
    }
}

fn read_mark(text: &str) -> Option<Mark<'_>> {
    let last = text.trim_end().lines().last()?;
    if !last.starts_with(MARK) {
        return None;
    }
    let Some((recipe, list)) = text.split_once(&format!("\n{LIST}\n")) else {
        let recipe = text.trim_end().strip_suffix(last)?.trim_end();
        return Some(Mark { recipe, prints: None });
    };
    let items = list.lines().take_while(|line| *line != last);
    let prints = items.map(|item| serde_json::from_str(item.strip_prefix(ITEM)?).ok());
    Some(Mark {
        recipe,
        prints: Some(prints.collect::<Option<_>>()?),
    })
}

fn sha256(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    checkpoint::open_regular(file)?
        .take(SMALL + 1)
        .read_to_end(&mut bytes)?;
    Ok(hex(Sha256::digest(&bytes)))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
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

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        dir
    }

    fn refused(files: &[(&str, &str)]) -> Option<String> {
        refuse_foreign(directory(files).path()).err().map(|e| e.to_string())
    }

    /// A recipe as merges had it before it listed their files.
    const OLD: &str = "merge_method: linear\n# written by heterosis 0.1.0\n";

    /// `merge recipe.yaml mine --overwrite` deleted mine/thesis.tex, and would have deleted a home for a typing mistake.
    #[test]
    fn what_heterosis_did_not_write_is_not_replaced() {
        let model = [("config.json", "{}"), ("model.safetensors", "")];
        let ours = [&model[..], &[("mergekit_config.yml", OLD)]].concat();
        assert_eq!(refused(&[]), None, "an empty directory");
        assert_eq!(refused(&ours), None);
        let sharded = [("mergekit_config.yml", OLD), ("model-00001-of-00002.safetensors", "")];
        assert_eq!(refused(&sharded), None);
        for (foreign, name) in [
            (vec![("thesis.tex", "")], "thesis.tex"),
            ([&ours[..], &[("thesis.tex", "")]].concat(), "thesis.tex"),
            (
                [&ours[..], &[("model-best.safetensors", "")]].concat(),
                "model-best.safetensors",
            ),
            ([&ours[..], &[("notes/a.txt", "")]].concat(), "notes"),
            ([&ours[..], &[("README.md", "")]].concat(), "README.md"),
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

    /// A card that its author had rewritten, a chat template that he had put beside a merge: `--overwrite` took both for ours,
    /// since files of ours are called so too.
    #[test]
    fn what_was_changed_or_added_since_is_not_replaced() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("merge");
        let write = |overwrite: bool| -> Result<(), Error> {
            let mut writer = begin(&out, 1 << 20, overwrite)?;
            writer.text("config.json", "{}")?;
            writer.text("generation_config.json", "{}")?;
            writer.text(RECIPE, &marked("merge_method: linear\n"))?;
            publish(writer.stage()?, &out, overwrite)
        };
        write(false).unwrap();
        assert!(write(false).unwrap_err().to_string().contains("--overwrite"));
        write(true).unwrap();
        for name in [
            "README.md",
            "chat_template.jinja",
            "vocab.json",
            "adapter_model.safetensors",
            "recipe.yaml",
            "provenance.json",
        ] {
            fs::write(out.join(name), "mine").unwrap();
            let message = write(true).unwrap_err().to_string();
            assert!(message.contains(&format!("would destroy {name}, which")), "{message}");
            assert!(!write(false).unwrap_err().to_string().contains("--overwrite"));
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), "mine");
            fs::remove_file(out.join(name)).unwrap();
        }
        let as_written = fs::read_to_string(out.join(RECIPE)).unwrap();
        for (name, text) in [
            ("generation_config.json", "[]".to_string()),
            (RECIPE, as_written.replace("linear", "linear # mine")),
            // Of this one it was config.json that "heterosis did not write".
            (RECIPE, format!("{as_written}# mine\n")),
        ] {
            let before = fs::read_to_string(out.join(name)).unwrap();
            fs::write(out.join(name), text).unwrap();
            let message = write(true).unwrap_err().to_string();
            assert!(
                message.contains(&format!("would destroy {name}, which is not")),
                "{message}"
            );
            fs::write(out.join(name), before).unwrap();
        }
        write(true).unwrap();
    }

    /// The same of an export, whose provenance has the hash of every file.
    #[test]
    fn provenance_says_what_an_export_is() {
        let sha = hex(Sha256::digest("a card"));
        let provenance =
            format!(r#"{{"schema_version":1,"outputs":[{{"file":"README.md","size_bytes":6,"sha256":"{sha}"}}]}}"#);
        let of = |card, more: &[(&str, &str)]| {
            refused(&[&[("provenance.json", provenance.as_str()), ("README.md", card)], more].concat())
        };
        assert_eq!(of("a card", &[]), None);
        for (message, name) in [
            (of("a CARD", &[]), "README.md, which is not"),
            (of("a longer card", &[]), "README.md, which is not"),
            (of("a card", &[("config.json", "{}")]), "config.json, which heterosis"),
            (of("a card", &[(RECIPE, OLD)]), "mergekit_config.yml, which heterosis"),
        ] {
            let message = message.unwrap_or_else(|| panic!("{name} is replaced"));
            assert!(message.contains(&format!("would destroy {name}")), "{message}");
        }
    }

    /// `export --recipe-only --overwrite` wrote over a mergekit_config.yml of somebody's own, and one candidate's recipe beside
    /// another one's weights.
    #[test]
    fn a_recipe_alone_replaces_a_recipe_alone() {
        let yaml = marked("merge_method: linear\n");
        let at = |files: &[(&str, &str)], name: &str, overwrite| {
            let dir = directory(files);
            refuse_for_recipe(&dir.path().join(name), overwrite).map_err(|e| e.to_string())
        };
        for (files, name) in [(&[][..], RECIPE), (&[("notes.txt", "")], "child.yaml")] {
            assert_eq!(at(files, name, false), Ok(()));
        }
        assert_eq!(at(&[(RECIPE, &yaml)], RECIPE, true), Ok(()));
        assert_eq!(at(&[("child.yaml", &yaml)], "child.yaml", true), Ok(()));
        for (files, name, overwrite, why) in [
            (&[(RECIPE, yaml.as_str())][..], RECIPE, false, "--overwrite replaces it"),
            (&[(RECIPE, "mine")], RECIPE, true, "is no recipe"),
            (&[("child.yaml", "mine")], "child.yaml", true, "is no recipe"),
            (
                &[("child.yaml", &yaml.replace("linear", "ties"))],
                "child.yaml",
                true,
                "is no recipe",
            ),
            (
                &[(RECIPE, &yaml), ("provenance.json", "{}")],
                RECIPE,
                true,
                "holds a model",
            ),
            (&[("config.json", "{}")], RECIPE, false, "holds a model"),
        ] {
            let message = at(files, name, overwrite).unwrap_err();
            assert!(message.contains(why), "{files:?}: {message}");
        }
    }

    #[test]
    fn the_mark_leaves_a_recipe_the_recipe_that_it_is() {
        let text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n";
        let read = |text: &str| crate::recipe::read::parse(Path::new("r.yaml"), text).unwrap();
        assert_eq!(read(&marked(text)), read(text));
    }
}
