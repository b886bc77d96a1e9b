//! The questions of a run's parts beside each other, before anything is asked: what chooses must not also judge.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Error, FitnessTask};
use crate::{
    eval::{
        Question, Split,
        identity::{self, Identity},
        rewording::{self, Words},
    },
    event::{
        QuestionsCompared,
        freshness::{Part, PartOfRun, Published, Shared},
    },
    space::Finale,
};

/// One task's questions in one part of a run.
#[derive(Clone, Debug)]
pub struct AskedPart {
    pub part: Part,
    pub task: String,
    pub lang: String,
    pub split: String,
    pub questions: Vec<AskedQuestion>,
}

/// A question, by its content and its words.
#[derive(Clone, Debug)]
pub struct AskedQuestion {
    /// Empty of an example.
    pub id: String,
    pub identity: Identity,
    pub words: Words,
}

impl AskedQuestion {
    pub fn new(id: &str, text: &str, identity: Identity) -> Self {
        Self {
            id: id.into(),
            identity,
            words: Words::of(text, identity),
        }
    }
}

/// All questions of a search on tasks, and the examples in their prompts.
///
/// # Errors
/// A split that a task does not have, data that cannot be read.
pub fn parts_of_run(tasks: &[FitnessTask], held_out: &[FitnessTask], finale: &Finale) -> Result<Vec<AskedPart>, Error> {
    let mut parts = Vec::new();
    let mut shots: BTreeMap<(String, String), HashMap<Identity, AskedQuestion>> = BTreeMap::new();
    let mut add = |part, task: &FitnessTask, split: Split, limit: Option<usize>| -> Result<(), Error> {
        let (name, lang) = (task.task.name().to_string(), task.task.lang().to_string());
        let mut questions = task.task.questions(split)?;
        questions.truncate(limit.unwrap_or(usize::MAX));
        let of_task = shots.entry((name.clone(), lang.clone())).or_default();
        for shot in questions.iter().flat_map(|q| &q.prompt.shots) {
            let example = || AskedQuestion::new("", &shot.question, shot.identity);
            of_task.entry(shot.identity).or_insert_with(example);
        }
        let content = |q: &Question| AskedQuestion::new(&q.id, q.words(), q.identity);
        parts.push(AskedPart {
            part,
            task: name,
            lang,
            split: split.name().into(),
            questions: questions.iter().map(content).collect(),
        });
        Ok(())
    };
    for task in tasks {
        add(Part::Search, task, task.split, task.limit)?;
        for (part, split, limit) in [
            (Part::Selection, &finale.selection.split, finale.selection_limit()),
            (Part::Test, &finale.test.split, finale.test_limit()),
        ] {
            let known = Split::from_name(split).ok_or_else(|| Error::NoQuestions {
                task: task.task.name().into(),
                split: split.clone(),
            })?;
            add(part, task, known, limit.most())?;
        }
    }
    for task in held_out {
        add(Part::HeldOut, task, task.split, task.limit)?;
    }
    let shots = shots.into_iter().filter(|(_, examples)| !examples.is_empty());
    parts.extend(shots.map(|((task, lang), examples)| AskedPart {
        part: Part::Shots,
        task,
        lang,
        split: String::new(),
        questions: examples.into_values().collect(),
    }));
    Ok(parts)
}

/// Looks for questions that stand in two parts, for published test questions that choose, and for problems that come again
/// in another form.
pub fn compare_questions(parts: &[AskedPart]) -> QuestionsCompared {
    let mut compared = QuestionsCompared {
        parts: parts.iter().map(AskedPart::in_event).collect(),
        ..QuestionsCompared::default()
    };
    for first in parts {
        for second in parts.iter().filter(|second| judges(second.part, first.part)) {
            let (same, near) = first.in_common(second);
            let shared = |n| Shared {
                first: first.in_event(),
                second: second.in_event(),
                n,
            };
            compared.overlaps.extend((same > 0).then(|| shared(same)));
            // Nothing is chosen by the test, so it may hold what the held-out tasks ask in another language.
            let tells = near > 0 && first.part != Part::Test;
            compared.near.extend(tells.then(|| shared(near)));
        }
    }
    compared.published = parts
        .iter()
        .filter(|p| p.part <= Part::Selection)
        .flat_map(AskedPart::published)
        .collect();
    compared
}

/// Whether a question of `later` is worth less for having been in `earlier`. That examples are search questions harms nobody.
fn judges(later: Part, earlier: Part) -> bool {
    earlier < later && later >= Part::Selection
}

impl AskedPart {
    fn in_event(&self) -> PartOfRun {
        PartOfRun {
            part: self.part,
            task: self.task.clone(),
            lang: self.lang.clone(),
            split: self.split.clone(),
            n: self.questions.len(),
        }
    }

    /// How many of another part's questions are here too, and how many in another form.
    fn in_common(&self, other: &AskedPart) -> (usize, usize) {
        let contents: HashSet<Identity> = self.questions.iter().map(|q| q.identity).collect();
        let texts: HashSet<u64> = contents.iter().map(|c| c.text).collect();
        let problem = |identity: Identity| identity::published(identity).map(|p| p.problem);
        let problems: HashSet<usize> = contents.iter().filter_map(|c| problem(*c)).collect();
        let [earlier, later] = [self, other].map(|part| part.questions.iter().map(|q| &q.words).collect::<Vec<_>>());
        let reworded: HashSet<usize> = rewording::reworded(&earlier, &later).into_iter().collect();
        let (mut same, mut near) = (0, 0);
        for (i, AskedQuestion { identity, .. }) in other.questions.iter().enumerate() {
            if contents.contains(identity) {
                same += 1;
            } else if texts.contains(&identity.text)
                || problem(*identity).is_some_and(|p| problems.contains(&p))
                || reworded.contains(&i)
            {
                near += 1;
            }
        }
        (same, near)
    }

    /// The published test questions among these, by benchmark.
    fn published(&self) -> Vec<Published> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for question in &self.questions {
            // MGSM's English problems are GSM8K's test questions; half of them are what the built-in tasks search on.
            let is_search_half = mgsm_row(&question.id).is_some_and(|row| row < identity::MGSM_TEST);
            if let Some(known) = identity::published(question.identity).filter(|p| p.is_test && !is_search_half) {
                *counts.entry(known.benchmark).or_default() += 1;
            }
        }
        let published = |(benchmark, n): (&str, usize)| Published {
            part: self.in_event(),
            benchmark: benchmark.into(),
            n,
        };
        counts.into_iter().map(published).collect()
    }
}

/// The row of a question of MGSM's files: `mgsm/mgsm_en/17`.
fn mgsm_row(id: &str) -> Option<usize> {
    id.strip_prefix("mgsm/mgsm_")?.rsplit_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(part: Part, task: &str, questions: &[(&str, &str)]) -> AskedPart {
        AskedPart {
            part,
            task: task.into(),
            lang: "en".into(),
            split: "s".into(),
            questions: questions
                .iter()
                .zip(0..)
                .map(|((asked, gold), i): (_, usize)| {
                    AskedQuestion::new(&format!("{task}/{i}"), asked, Identity::of(&[asked.to_string()], gold))
                })
                .collect(),
        }
    }

    fn pairs(shared: &[Shared]) -> Vec<(Part, Part, usize)> {
        shared.iter().map(|s| (s.first.part, s.second.part, s.n)).collect()
    }

    /// "On 60 questions never used before" was said of the very questions that the search was bred on, by three ways to it.
    #[test]
    fn a_question_is_the_same_whatever_way_it_came_by() {
        let search = part(Part::Search, "a", &[("one?", "1"), ("two?", "2"), ("three?", "3")]);
        let elsewhere = part(
            Part::Test,
            "b",
            &[("Q:  three?", "x\n#### 3"), ("four?", "4"), ("one ?", "1.0")],
        );
        let compared = compare_questions(&[search.clone(), elsewhere]);
        assert_eq!(pairs(&compared.overlaps), [(Part::Search, Part::Test, 2)]);
        assert!(!compared.is_clean());
        let disjoint = part(Part::Test, "b", &[("five?", "5"), ("four?", "4")]);
        assert!(compare_questions(&[search.clone(), disjoint]).is_clean());
        let other_answer = part(Part::HeldOut, "b", &[("one?", "uno"), ("six?", "6")]);
        let compared = compare_questions(&[search, other_answer]);
        assert!(compared.is_clean());
        assert_eq!(pairs(&compared.near), [(Part::Search, Part::HeldOut, 1)]);
    }

    /// A search question with another name and other punctuation stood in the test, and "fresh questions" was all that was said.
    #[test]
    fn a_reworded_question_is_told() {
        let search = part(
            Part::Search,
            "a",
            &[("Mia has 3 red apples and buys 4 more. How many has she?", "7")],
        );
        let test = part(
            Part::Test,
            "a",
            &[
                ("Ann has 3 red apples, and buys 4 more: how many has she", "7"),
                ("Ann has 3 red apples and sells 1. How many has she?", "2"),
            ],
        );
        let compared = compare_questions(&[search, test]);
        assert!(compared.is_clean());
        assert_eq!(pairs(&compared.near), [(Part::Search, Part::Test, 1)]);
        let told = compared.warning().unwrap();
        assert!(told.contains("in other words"), "{told}");
    }

    #[test]
    fn what_is_shown_with_its_answer_is_used_too() {
        let parts = [
            part(Part::Search, "a", &[("one?", "1")]),
            part(Part::Selection, "a", &[("two?", "2")]),
            part(Part::Test, "a", &[("three?", "3")]),
            part(Part::HeldOut, "b", &[("two?", "2"), ("three?", "3")]),
            part(Part::Shots, "a", &[("one?", "1"), ("three?", "3")]),
        ];
        let compared = compare_questions(&parts);
        let mut found = pairs(&compared.overlaps);
        found.sort_unstable();
        let expected = [
            (Part::Shots, Part::Test, 1),
            (Part::Shots, Part::HeldOut, 1),
            (Part::Selection, Part::HeldOut, 1),
            (Part::Test, Part::HeldOut, 1),
        ];
        assert_eq!(found, expected, "an example may be a search question");
    }

    /// MGSM's problems are GSM8K's first 250 test questions in other languages: they are told. GSM8K's test set as what
    /// chooses is refused, by what it asks.
    #[test]
    fn a_translation_is_told_and_a_published_test_question_does_not_choose() {
        use crate::eval::{DataDirs, Profile, Task, TaskOptions};
        use crate::space::SplitRef;
        let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/eval/tests/data/data");
        let options = TaskOptions {
            profile: Profile::Fitness,
            shots: Some(0),
            ..TaskOptions::default()
        };
        let task = |name: &str, split| FitnessTask {
            task: Task::load(
                name,
                &options,
                &DataDirs {
                    roots: vec![sample.clone()],
                },
            )
            .unwrap(),
            weight: 1.0,
            limit: Some(3),
            split,
        };
        let of = |split: &str| SplitRef {
            split: split.into(),
            limit: None,
        };
        let finale = Finale {
            finalists: 1,
            selection: of("selection"),
            test: of("test"),
            held_out: Vec::new(),
            allow_overlap: false,
        };
        let compared = |tasks: &[FitnessTask]| compare_questions(&parts_of_run(tasks, &[], &finale).unwrap());
        let usual = compared(&[
            task("mgsm_direct_es", Split::Search),
            task("gsm8k_solutions", Split::Search),
        ]);
        assert!(usual.is_clean());
        assert_eq!(pairs(&usual.near), [(Part::Search, Part::Test, 3)]);
        let cheating = compared(&[task("gsm8k_solutions", Split::Test)]);
        assert_eq!(pairs(&cheating.overlaps), [(Part::Search, Part::Test, 3)]);
        assert_eq!(
            (cheating.published[0].benchmark.as_str(), cheating.published[0].n),
            ("GSM8K", 3)
        );
    }
}
