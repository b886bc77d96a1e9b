//! Which kind of file a document is, by its keys: a file in another one's place is named as what it is, with the command
//! that takes it. "The key 'name' is missing" would send its reader to look for a slip in a file without one.

use super::{Error, Node};

/// The kinds of files that people write, and one that they bring along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is merged, and how: it has `merge_method`, as mergekit's configurations do.
    Recipe,
    /// What a search may try, and by which tasks it judges: it has `parameter_space`, `data_flow_space` or `fitness`.
    SearchSpace,
    /// Questions with their right answers: it has `task`, and `prompt`, `data`, `target` or `filters`.
    Task,
    /// A task of lm-evaluation-harness.
    HarnessTask,
    /// Of mergekit-moe.
    Mixture,
}

impl Kind {
    /// What a document shows itself to be; `None` where it could be anything.
    pub fn of(document: &Node) -> Option<Self> {
        let map = document.map().ok()?;
        let has = |keys: &[&str]| keys.iter().any(|key| map.optional(key).is_some());
        if has(&["merge_method"]) {
            Some(Self::Recipe)
        } else if has(&[
            "dataset_path",
            "dataset_name",
            "doc_to_text",
            "doc_to_target",
            "doc_to_choice",
        ]) {
            Some(Self::HarnessTask)
        } else if has(&["experts"]) && has(&["gate_mode", "base_model"]) {
            Some(Self::Mixture)
        } else {
            // A task may have a profile of the name `fitness`, so it is looked for first.
            let is_task = has(&["task"]) && has(&["prompt", "data", "target", "filters"]);
            let is_space = has(&["parameter_space", "data_flow_space", "fitness"]);
            is_task.then_some(Self::Task).or(is_space.then_some(Self::SearchSpace))
        }
    }

    /// Refuses a document of another kind.
    ///
    /// # Errors
    /// It is one; says which, and which command takes it.
    pub fn expect(self, document: &Node) -> Result<(), Error> {
        match Self::of(document) {
            Some(kind) if kind != self => Err(document.error(format!(
                "this is {}, and {} is expected here; {}",
                kind.name(),
                self.name(),
                kind.way_out(document)
            ))),
            _ => Ok(()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Recipe => "a merge recipe",
            Self::SearchSpace => "a search space",
            Self::Task => "a task",
            Self::HarnessTask => "a task of lm-evaluation-harness",
            Self::Mixture => "a configuration of mergekit-moe",
        }
    }

    fn way_out(self, document: &Node) -> String {
        let file = document.file().display().to_string();
        // A name with a NUL is no file's.
        let file = shlex::try_quote(&file).unwrap_or_default();
        match self {
            Self::Recipe => format!("`heterosis merge {file} OUT` merges it, `heterosis check {file}` looks at it"),
            Self::SearchSpace => format!("`heterosis search {file}` searches it, `heterosis check {file}` looks at it"),
            Self::Task => format!("`heterosis eval MODEL --task {file}` asks it, and a search space names it under fitness.tasks"),
            Self::HarnessTask => "`heterosis eval MODEL --task FILE.yaml` asks it and a search space names it under fitness.tasks, where it is \
                                  declarative; `heterosis task check FILE.yaml` says so. To ask the harness itself, let a search space's \
                                  fitness.command call it (examples/evaluators/lm_eval.yaml)"
                .into(),
            Self::Mixture => "a mixture of experts is none of the merges here; mergekit-moe makes it".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn documents_show_what_they_are() {
        for (text, kind) in [
            ("merge_method: linear\n", Some(Kind::Recipe)),
            ("name: a\nfitness: {tasks: [x]}\n", Some(Kind::SearchSpace)),
            ("task: a\nprompt: b\n", Some(Kind::Task)),
            ("task: a\ndata: b\nfitness: {shots: 8}\n", Some(Kind::Task)),
            ("task: a\ndataset_path: b\ndoc_to_text: c\n", Some(Kind::HarnessTask)),
            ("base_model: a\ngate_mode: hidden\nexperts: []\n", Some(Kind::Mixture)),
            ("task: a\n", None),
            ("[1, 2]\n", None),
            ("name: a\nmodels: {}\n", None),
        ] {
            let document = crate::parse_one(Path::new("f.yaml"), text).unwrap();
            assert_eq!(Kind::of(&document), kind, "{text}");
            let told = Kind::Recipe.expect(&document).map_err(|e| e.to_string());
            assert_eq!(told.is_err(), kind.is_some_and(|kind| kind != Kind::Recipe), "{told:?}");
        }
    }
}
