//! The questions of a run's parts beside each other, before anything is asked: what chooses must not also judge.

use std::collections::{BTreeMap, HashSet};

use super::{Error, FitnessTask};
use crate::{
    eval::{Question, Split, identity, identity::Identity},
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
    /// Id and content of each question; examples have no id.
    pub questions: Vec<(String, Identity)>,
}

/// All questions of a search on tasks, and the examples in their prompts.
///
/// # Errors
/// A split that a task does not have, data that cannot be read.
pub fn parts_of_run(tasks: &[FitnessTask], held_out: &[FitnessTask], finale: &Finale) -> Result<Vec<AskedPart>, Error> {
    let mut parts = Vec::new();
    let mut shots: BTreeMap<(String, String), HashSet<Identity>> = BTreeMap::new();
    let mut add = |part, task: &FitnessTask, split: Split, limit: Option<usize>| -> Result<(), Error> {
        let (name, lang) = (task.task.name().to_string(), task.task.lang().to_string());
        let mut questions = task.task.questions(split)?;
        questions.truncate(limit.unwrap_or(usize::MAX));
        let examples = questions.iter().flat_map(|q| &q.prompt.shots).map(|shot| shot.identity);
        shots.entry((name.clone(), lang.clone())).or_default().extend(examples);
        let content = |q: &Question| (q.id.clone(), q.identity);
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
        questions: examples.into_iter().map(|identity| (String::new(), identity)).collect(),
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
        let contents: HashSet<Identity> = self.questions.iter().map(|q| q.1).collect();
        let texts: HashSet<u64> = contents.iter().map(|c| c.text).collect();
        let problem = |identity: Identity| identity::published(identity).map(|p| p.problem);
        let problems: HashSet<usize> = contents.iter().filter_map(|c| problem(*c)).collect();
        let (mut same, mut near) = (0, 0);
        for (_, question) in &other.questions {
            if contents.contains(question) {
                same += 1;
            } else if texts.contains(&question.text) || problem(*question).is_some_and(|p| problems.contains(&p)) {
                near += 1;
            }
        }
        (same, near)
    }

    /// The published test questions among these, by benchmark.
    fn published(&self) -> Vec<Published> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, content) in &self.questions {
            // MGSM's English problems are GSM8K's test questions; half of them are what the built-in tasks search on.
            let is_search_half = mgsm_row(id).is_some_and(|row| row < identity::MGSM_TEST);
            if let Some(known) = identity::published(*content).filter(|p| p.is_test && !is_search_half) {
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
                .map(|((asked, gold), i): (_, usize)| (format!("{task}/{i}"), Identity::of(&[asked.to_string()], gold)))
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
}
