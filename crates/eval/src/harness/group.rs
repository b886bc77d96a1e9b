//! Groups of lm-evaluation-harness: a file that names tasks, tags or other groups, with keys for all of them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use serde_json::{Map, Value};

use super::{
    Refusal,
    document::{self, Words},
};

/// A task of a group, with all keys that hold for it.
#[derive(Clone)]
pub struct Member {
    pub name: String,
    pub file: PathBuf,
    pub keys: Map<String, Value>,
    pub words: Words,
}

/// Whether keys are those of a group.
pub fn is_group(keys: &Map<String, Value>) -> bool {
    keys.contains_key("group") || keys.get("task").is_some_and(Value::is_array)
}

/// Keys of a group that are not handed on to its tasks.
const OF_GROUP: [&str; 8] = [
    "group",
    "group_alias",
    "task",
    "aggregate_metric_list",
    "metadata",
    "tag",
    "include",
    "task_list",
];

/// The tasks of a group, in its order, each once.
///
/// # Errors
/// A name that none of the files beside the group has; a group inside of itself.
pub fn members(path: &Path, keys: &Map<String, Value>) -> Result<Vec<Member>, Refusal> {
    let mut walk = Walk {
        path,
        index: Index::of(path.parent().unwrap_or(Path::new("."))),
        is_wide: false,
        members: Vec::new(),
        above: Vec::new(),
    };
    walk.group(keys, &Map::new())?;
    Ok(walk.members)
}

struct Walk<'a> {
    path: &'a Path,
    index: Arc<Index>,
    /// The folder above has been looked through too.
    is_wide: bool,
    members: Vec<Member>,
    above: Vec<String>,
}

impl Walk<'_> {
    fn wrong(&self, message: String) -> Refusal {
        Refusal::new(self.path, "task", message)
    }

    /// What a group names, with the keys that hold for all of it.
    fn group(&mut self, keys: &Map<String, Value>, over: &Map<String, Value>) -> Result<(), Refusal> {
        let own = keys.iter().filter(|(key, _)| !OF_GROUP.contains(&key.as_str()));
        let mut handed: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        handed.extend(over.clone());
        let listed = match keys.get("task") {
            Some(Value::Array(listed)) => listed.clone(),
            Some(Value::String(one)) => vec![one.clone().into()],
            _ => Vec::new(),
        };
        for entry in listed {
            match &entry {
                Value::String(name) => self.named(name, &handed)?,
                Value::Object(inner) if is_group(inner) => self.group(inner, &handed)?,
                Value::Object(inner) => {
                    let name = inner
                        .get("task")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_string();
                    let mut keys = handed.clone();
                    keys.extend(
                        inner
                            .iter()
                            .filter(|(key, _)| *key != "task")
                            .map(|(k, v)| (k.clone(), v.clone())),
                    );
                    self.named(&name, &keys)?;
                }
                _ => return Err(self.wrong("a list of names is expected".into())),
            }
        }
        Ok(())
    }

    fn named(&mut self, name: &str, over: &Map<String, Value>) -> Result<(), Refusal> {
        if self.above.iter().any(|above| above == name) || self.above.len() > 16 {
            return Err(self.wrong(format!("'{name}' is inside of itself")));
        }
        if !self.index.knows(name) && !self.is_wide {
            self.is_wide = true;
            let above = self.path.parent().and_then(Path::parent).unwrap_or(Path::new("."));
            self.index = Index::of(above);
        }
        let files = self.index.files(name);
        if files.is_empty() {
            return Err(self.wrong(format!("no file beside this one has a task, tag or group '{name}'")));
        }
        self.above.push(name.into());
        for file in files {
            let (mut keys, words) = document::read(&file)?;
            if is_group(&keys) {
                self.group(&keys, over)?;
                continue;
            }
            keys.extend(over.clone());
            let name = keys.get("task").and_then(Value::as_str).unwrap_or(name).to_string();
            if self.members.iter().all(|member| member.name != name) {
                self.members.push(Member {
                    name,
                    file,
                    keys,
                    words,
                });
            }
        }
        self.above.pop();
        Ok(())
    }
}

/// Which files have a name, of a task, a group or a tag.
struct Index {
    files: HashMap<String, Vec<PathBuf>>,
}

/// Folders that were looked through: the members of a group are loaded one by one, and each asks for its group's.
static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Arc<Index>>>> = LazyLock::new(Mutex::default);

impl Index {
    fn of(dir: &Path) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let index = known.entry(dir.into()).or_insert_with(|| Arc::new(Self::read(dir)));
        index.clone()
    }

    fn read(dir: &Path) -> Self {
        let mut files: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut paths = yaml_files(dir);
        paths.sort();
        for path in paths {
            // What cannot be read is no task of this group; if it was meant, its name is missed.
            let Ok((keys, _)) = document::read(&path) else { continue };
            let own = keys
                .get("group")
                .or(keys.get("task"))
                .and_then(Value::as_str)
                .map(String::from);
            let tags = match is_group(&keys) {
                true => Vec::new(),
                false => document::names(keys.get("tag").cloned()),
            };
            for name in own.into_iter().chain(tags) {
                files.entry(name).or_default().push(path.clone());
            }
        }
        Index { files }
    }

    fn knows(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    fn files(&self, name: &str) -> Vec<PathBuf> {
        self.files.get(name).cloned().unwrap_or_default()
    }
}

/// The most files that are looked through.
const MOST_FILES: usize = 20_000;

fn yaml_files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
        for path in entries.map(|entry| entry.path()) {
            let is_yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
            match path.is_dir() {
                true => dirs.push(path),
                false if is_yaml && files.len() < MOST_FILES => files.push(path),
                false => {}
            }
        }
    }
    files
}
