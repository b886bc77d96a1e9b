//! What a run goes on with that is not what it began with: models, tokenizers, tasks and space, told apart by their digests.
//!
//! Answers from before and after such a change do not compare, so `resume` refuses it; somebody may say that it goes on all
//! the same. Then the journal holds a [`Event::RunChanged`](super::Event::RunChanged), and everything that is said about the
//! run says so.

use serde::{Deserialize, Serialize};

use super::{Model, RunStarted, Task};

/// One thing that is another one now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its kind, and which of them; the fields stand in the same object.
    #[serde(flatten)]
    pub what: Changed,
    /// Digest of what it is now.
    pub now: String,
}

/// What can be another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Changed {
    /// Weights or config.json.
    Model {
        /// Its short name in the search space.
        model: String,
    },
    /// Tokenizer, chat template or generation config.
    Tokenizer {
        /// Its short name in the search space.
        model: String,
    },
    /// The task's file or its data.
    Task {
        /// As in [`Task::task`].
        task: String,
        /// As in [`Task::lang`].
        lang: String,
        /// As in [`Task::split`].
        split: String,
    },
    /// What is searched, or how: `space.yaml`.
    Space,
    /// Another program that answers, or another version of it.
    Engine,
    /// The model of this machine that gives advice.
    Guide,
}

impl Changed {
    /// Whether other questions may be asked than before.
    pub fn is_of_questions(&self) -> bool {
        matches!(self, Self::Task { .. } | Self::Space)
    }

    fn in_words(&self) -> String {
        match self {
            Self::Model { model } => format!("the model {model}"),
            Self::Tokenizer { model } => format!("the tokenizer or generation config of {model}"),
            Self::Task { task, lang, .. } => format!("the task {task} ({lang}) or its data"),
            Self::Space => "the search space (space.yaml)".into(),
            Self::Engine => "the engine that answers, or its version".into(),
            Self::Guide => "the model that gives advice (search.guide)".into(),
        }
    }
}

impl RunStarted {
    /// What is another one now. What the journal does not tell, as those of older versions, is not compared.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut compare = |what: Changed, before: &str, now: &str| {
            if !before.is_empty() && before != now {
                let now = now.into();
                changes.push(Change { what, now });
            }
        };
        for (before, now) in pairs(&self.models, &now.models, |m| &m.name) {
            let model = || before.name.clone();
            compare(Changed::Model { model: model() }, &before.digest, &now.digest);
            compare(
                Changed::Tokenizer { model: model() },
                &before.tokenizer_digest,
                &now.tokenizer_digest,
            );
        }
        let name = |task: &Task| (task.task.clone(), task.lang.clone(), task.split.clone());
        let held_out = pairs(&self.held_out, &now.held_out, name);
        for (before, now) in pairs(&self.tasks, &now.tasks, name).chain(held_out) {
            let (task, lang, split) = name(before);
            compare(Changed::Task { task, lang, split }, &before.digest, &now.digest);
        }
        compare(Changed::Space, &self.space_digest, &now.space_digest);
        compare(Changed::Engine, &self.engine, &now.engine);
        if let (Some(before), Some(now)) = (&self.guide, &now.guide) {
            compare(Changed::Guide, &before.digest, &now.digest);
        }
        changes
    }

    /// Takes in what somebody accepted.
    pub fn accept(&mut self, changes: &[Change]) {
        for Change { what, now } in changes {
            let now = now.clone();
            match what {
                Changed::Model { model } => model_of(&mut self.models, model).for_each(|m| m.digest.clone_from(&now)),
                Changed::Tokenizer { model } => {
                    model_of(&mut self.models, model).for_each(|m| m.tokenizer_digest.clone_from(&now));
                }
                Changed::Task { task, lang, split } => {
                    let tasks = self.tasks.iter_mut().chain(&mut self.held_out);
                    tasks
                        .filter(|t| (&t.task, &t.lang, &t.split) == (task, lang, split))
                        .for_each(|t| t.digest.clone_from(&now));
                }
                Changed::Space => self.space_digest = now,
                Changed::Engine => self.engine = now,
                Changed::Guide => self.guide.iter_mut().for_each(|guide| guide.digest.clone_from(&now)),
            }
        }
    }
}

/// `the model maths, the search space (space.yaml)`.
pub fn in_words(changes: &[Change]) -> String {
    let mut words: Vec<String> = Vec::new();
    for change in changes {
        let change = change.what.in_words();
        if !words.contains(&change) {
            words.push(change);
        }
    }
    words.join(", ")
}

/// What is to be said of a run that went on with something else; `None` of one that did not.
pub fn sentence(changes: &[Change]) -> Option<String> {
    (!changes.is_empty()).then(|| {
        format!(
            "This run changed on its way, and scores from before and after do not compare: {}. Nothing here is proven.",
            in_words(changes)
        )
    })
}

fn pairs<'a, T, K: PartialEq + 'a>(
    before: &'a [T],
    now: &'a [T],
    name: impl Fn(&'a T) -> K + 'a,
) -> impl Iterator<Item = (&'a T, &'a T)> {
    before
        .iter()
        .filter_map(move |b| Some((b, now.iter().find(|n| name(n) == name(b))?)))
}

fn model_of<'a>(models: &'a mut [Model], name: &'a str) -> impl Iterator<Item = &'a mut Model> {
    models.iter_mut().filter(move |m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::GuideModel;

    fn began() -> RunStarted {
        let model = |name: &str| Model {
            name: name.into(),
            model: name.into(),
            given: String::new(),
            digest: format!("weights of {name}"),
            tokenizer_digest: format!("tokenizer of {name}"),
            is_base: false,
        };
        let task = |task: &str| Task {
            task: task.into(),
            lang: "en".into(),
            split: "search".into(),
            weight: 1.0,
            n: 10,
            digest: format!("questions of {task}"),
            metric: "exact_match".into(),
            description: String::new(),
        };
        RunStarted {
            space_digest: "space".into(),
            space: String::new(),
            engine: "vllm (0.33.0) on cuda".into(),
            models: vec![model("base"), model("maths")],
            tasks: vec![task("arith")],
            held_out: vec![task("other")],
            guide: Some(GuideModel {
                model: "wise".into(),
                digest: "weights of wise".into(),
            }),
            ..RunStarted::default()
        }
    }

    /// A parent, a tokenizer, a question or the space was another one after the kill, and `resume` said nothing.
    #[test]
    fn whatever_is_another_one_is_named() {
        type Case = (fn(&mut RunStarted), &'static str);
        let cases: [Case; 7] = [
            (|r| r.models[1].digest.push('!'), "the model maths"),
            (
                |r| r.models[0].tokenizer_digest.push('!'),
                "the tokenizer or generation config of base",
            ),
            (|r| r.tasks[0].digest.push('!'), "the task arith (en) or its data"),
            (|r| r.held_out[0].digest.push('!'), "the task other (en) or its data"),
            (|r| r.space_digest.push('!'), "the search space (space.yaml)"),
            (|r| r.engine.push('!'), "the engine that answers, or its version"),
            (
                |r| r.guide.as_mut().unwrap().digest.push('!'),
                "the model that gives advice (search.guide)",
            ),
        ];
        assert_eq!(began().changes(&began()), []);
        for (change, words) in cases {
            let mut now = began();
            change(&mut now);
            let changes = began().changes(&now);
            assert_eq!(in_words(&changes), words);
            assert!(sentence(&changes).unwrap().contains(words));
            let mut accepted = began();
            accepted.accept(&changes);
            assert_eq!(accepted, now, "once accepted, it is the same from then on");
        }
    }

    #[test]
    fn what_an_old_journal_does_not_tell_is_not_compared() {
        let mut old = began();
        old.models.iter_mut().for_each(|m| m.tokenizer_digest.clear());
        old.held_out.clear();
        old.guide = None;
        assert_eq!(old.changes(&began()), []);
        assert_eq!(
            began().changes(&RunStarted { guide: None, ..began() }),
            [],
            "nor what is not asked"
        );
    }
}
