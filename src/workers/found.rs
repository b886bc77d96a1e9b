//! Where a worker's models lie: a plan names them by digest, and only the worker's own files say where one is.
//!
//! No path of a message is opened. A model is looked for, in this order: under its digest, its MODEL word or its short name in
//! the worker's map; an `hf:` word in the Hub's cache, or on the Hub; a path by the names at its end, below the worker's own
//! directories (the one that it was started in, and those under `in:` of the map), so that `/home/a/models/maths` may be
//! `models/maths` or `maths` here. Whatever is found counts only if its digest is the one that is asked for.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use super::error::Error;
use crate::{checkpoint::split_adapter, models::beside, yaml};

/// What a worker knows of where models lie.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Digest, MODEL word or short name → MODEL word here.
    words: BTreeMap<String, String>,
    /// Directories below which paths are looked for by their ends.
    dirs: Vec<PathBuf>,
}

impl Map {
    /// A map without a file: only what lies below a directory is found.
    pub fn below(dir: &Path) -> Self {
        Self {
            words: BTreeMap::new(),
            dirs: vec![dir.into()],
        }
    }

    /// Reads `MAP.yaml`: names and MODEL words, and under `in:` directories; relative ones are meant from the file.
    ///
    /// # Errors
    /// The file cannot be read, or is no such map.
    pub fn read(file: &Path, here: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Map {
            file: file.into(),
            reason,
        };
        let text = yaml::read_text(file).map_err(|e| wrong(e.to_string()))?;
        let document: BTreeMap<String, serde_yaml_ng::Value> =
            serde_yaml_ng::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let mut map = Self::below(here);
        for (key, value) in document {
            let text = |value: &serde_yaml_ng::Value| {
                let text = value.as_str().map(String::from);
                text.ok_or_else(|| wrong(format!("'{key}' is no text; write NAME: MODEL, or in: [DIRECTORY, …]")))
            };
            match (key.as_str(), &value) {
                ("in", serde_yaml_ng::Value::Sequence(dirs)) => {
                    for dir in dirs {
                        map.dirs.push(beside(&text(dir)?, file).into());
                    }
                }
                ("in", dir) => map.dirs.push(beside(&text(dir)?, file).into()),
                (_, model) => {
                    map.words.insert(key.clone(), beside(&text(model)?, file));
                }
            }
        }
        Ok(map)
    }

    /// The MODEL word here of a model that a plan names; `None` if nothing says where it is.
    pub fn find(&self, digest: &str, word: &str, name: &str) -> Option<String> {
        let mapped = [digest, word, name].into_iter().find_map(|key| self.words.get(key));
        if let Some(mapped) = mapped {
            return Some(mapped.clone());
        }
        match split_adapter(word) {
            (model, None) => self.place(model),
            (model, Some(adapter)) => Some(format!("{}+{}", self.place(model)?, self.place(adapter)?)),
        }
    }

    fn place(&self, word: &str) -> Option<String> {
        if word.starts_with("hf:") {
            return Some(word.into());
        }
        // From the longest end to the last name alone, and nothing that leads out of the directory.
        let names: Vec<&std::ffi::OsStr> = Path::new(word)
            .components()
            .map(|component| match component {
                Component::Normal(name) => Some(Some(name)),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => Some(None),
                Component::ParentDir => None,
            })
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        for from in 0..names.len() {
            let end: PathBuf = names[from..].iter().collect();
            let found = self.dirs.iter().map(|dir| dir.join(&end)).find(|path| path.exists());
            if let Some(found) = found {
                return Some(found.display().to_string());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_the_map_and_below_ones_own_directories_only() {
        let tmp = tempfile::tempdir().unwrap();
        let (here, other) = (tmp.path().join("here"), tmp.path().join("other"));
        for dir in ["here/models/maths", "other/spanish", "outside"] {
            std::fs::create_dir_all(tmp.path().join(dir)).unwrap();
        }
        let file = tmp.path().join("map.yaml");
        std::fs::write(&file, "in: [other]\nbase: /data/base\nabc: hf:owner/x\n").unwrap();
        let map = Map::read(&file, &here).unwrap();
        let find = |word: &str| map.find("00", word, "n");
        let text = |path: PathBuf| Some(path.display().to_string());
        assert_eq!(find("/home/a/models/maths"), text(here.join("models/maths")));
        assert_eq!(find("/mnt/spanish"), text(other.join("spanish")));
        assert_eq!(
            find("/mnt/spanish+/home/a/models/maths"),
            Some(format!(
                "{}+{}",
                other.join("spanish").display(),
                here.join("models/maths").display()
            ))
        );
        assert_eq!(map.find("abc", "/x", "n"), Some("hf:owner/x".into()));
        assert_eq!(map.find("00", "/x", "base"), Some("/data/base".into()));
        assert_eq!(find("hf:owner/y@main"), Some("hf:owner/y@main".into()));
        for foreign in [
            "../outside",
            "/etc",
            "models/../../outside",
            "/",
            "",
            &tmp.path().join("outside").display().to_string(),
        ] {
            assert_eq!(find(foreign), None, "{foreign}");
        }
        std::fs::write(&file, "base: [1]\n").unwrap();
        assert!(
            Map::read(&file, &here)
                .unwrap_err()
                .to_string()
                .contains("'base' is no text")
        );
    }
}
