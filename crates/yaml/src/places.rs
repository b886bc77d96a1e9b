//! Where the values of a document stand, kept when the document itself is gone: what is found out later is told with its line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Node, Value};

/// File and lines of a document's values by their dotted paths. Where something stands is no part of what it says, so any two
/// are equal.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: PathBuf,
    lines: BTreeMap<String, usize>,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Of all values of a document.
    pub fn of(root: &Node) -> Self {
        let mut places = Self {
            file: root.file().into(),
            lines: BTreeMap::new(),
        };
        places.add(root);
        places
    }

    fn add(&mut self, node: &Node) {
        self.lines.insert(node.path.clone(), node.line);
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.add(item)),
            Value::Map(entries) => entries.iter().for_each(|(_, value)| self.add(value)),
            _ => {}
        }
    }

    /// File and line of a value, or of what it would stand in; `None` where no file is known.
    pub fn find(&self, path: &str) -> Option<(&Path, usize)> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some((&self.file, *line));
            }
            if path.is_empty() {
                return None;
            }
            path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_one;
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_a_missing_one_where_it_would_stand() {
        let root = parse_one(
            Path::new("a.yaml"),
            "x: 1\nfitness:\n  tasks:\n    - a\n    - {task: b}\n",
        )
        .unwrap();
        let places = Places::of(&root);
        let line = |path: &str| places.find(path).map(|(_, line)| line);
        assert_eq!(places.find("x"), Some((Path::new("a.yaml"), 1)));
        assert_eq!(
            (line("fitness.tasks[0]"), line("fitness.tasks[1].task")),
            (Some(4), Some(5))
        );
        assert_eq!(
            (line("fitness.tasks[1].lang"), line("fitness.command")),
            (Some(5), Some(2))
        );
        assert_eq!(line("nothing.there"), Some(1));
        assert_eq!(Places::default().find("x"), None);
    }
}
