//! The questions of a run's parts beside each other, before anything is asked: what chooses must not also judge.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Error, FitnessTask};
use crate::{
    eval::{
        Question, Split, Task,
        identity::{self, Identity, Published as Known},
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
    /// The published question that it asks.
    known: Option<Known>,
}

impl AskedQuestion {
    pub fn new(id: &str, text: &str, identity: Identity) -> Self {
        Self {
            id: id.into(),
            identity,
            words: Words::of(text, identity),
            known: identity::published(identity).or_else(|| identity::published_in(text)),
        }
    }
}

/// A task's name and language.
type TaskKey = (String, String);
/// A task's examples.
type Examples = HashMap<Identity, AskedQuestion>;

/// All questions of a search on tasks, and the examples in their prompts; of each task so many more are `taught` as rounds of
/// learning may ask besides.
///
/// # Errors
/// A split that a task does not have, data that cannot be read.
pub fn parts_of_run(
    tasks: &[FitnessTask],
    held_out: &[FitnessTask],
    finale: &Finale,
    taught: usize,
) -> Result<Vec<AskedPart>, Error> {
    let mut parts = Vec::new();
    let mut shots: BTreeMap<TaskKey, Examples> = BTreeMap::new();
    let mut around = Vec::new();
    let mut texts = Vec::new();
    let mut add = |part, task: &FitnessTask, split: Split, limit: Option<usize>| -> Result<(), Error> {
        let (name, lang) = (task.task.name().to_string(), task.task.lang().to_string());
        let mut questions = task.task.questions(split)?;
        let more = if part == Part::Search { taught } else { 0 };
        let limit = limit.unwrap_or(usize::MAX);
        questions.truncate(limit.saturating_add(more));
        let of_task = shots.entry((name.clone(), lang.clone())).or_default();
        for shot in questions.iter().flat_map(|q| &q.prompt.shots) {
            let example = || AskedQuestion::new("", &shot.question, shot.identity);
            of_task.entry(shot.identity).or_insert_with(example);
        }
        let template = Template::of(questions.iter().map(Question::words));
        around.extend(questions.first().map(|q| Around::of(&task.task, q, &template)));
        around.extend(Around::of_examples(&task.task, &questions));
        texts.extend(
            questions
                .iter()
                .map(|q| (identity::gist(template.filled(q.words())), q.identity)),
        );
        let (asked, taught) = questions.split_at(limit.min(questions.len()));
        for questions in [asked, taught] {
            let content = |q: &Question| AskedQuestion::new(&q.id, q.words(), q.identity);
            parts.push(AskedPart {
                part,
                task: name.clone(),
                lang: lang.clone(),
                split: split.name().into(),
                questions: questions.iter().map(content).collect(),
            });
        }
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
    for prompt in around {
        let shown = texts.iter().filter(|(text, _)| prompt.shows(text));
        for (text, identity) in shown {
            let of_task = shots.entry(prompt.task.clone()).or_default();
            of_task
                .entry(*identity)
                .or_insert_with(|| AskedQuestion::new("", text, *identity));
        }
    }
    parts.retain(|part| !part.questions.is_empty());
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

/// What all questions of a part begin and end with.
#[derive(Default)]
struct Template {
    before: String,
    after: String,
}

impl Template {
    fn of<'q>(mut questions: impl Iterator<Item = &'q str>) -> Self {
        let (Some(first), Some(second)) = (questions.next(), questions.next()) else {
            return Self::default();
        };
        let (mut before, mut after) = (first, first);
        for question in std::iter::once(second).chain(questions) {
            let common = before.chars().zip(question.chars()).take_while(|(a, b)| a == b);
            before = &before[..common.map(|(c, _)| c.len_utf8()).sum()];
            let common = after
                .chars()
                .rev()
                .zip(question.chars().rev())
                .take_while(|(a, b)| a == b);
            after = &after[after.len() - common.map(|(c, _)| c.len_utf8()).sum::<usize>()..];
        }
        Self {
            before: before.into(),
            after: after.into(),
        }
    }

    /// What a question has between them.
    fn filled<'q>(&self, question: &'q str) -> &'q str {
        let rest = question.strip_prefix(&self.before).unwrap_or(question);
        rest.strip_suffix(&self.after).unwrap_or(rest)
    }
}

/// What stands around every question of a task, besides its examples.
struct Around {
    task: TaskKey,
    /// Its gist.
    text: String,
}

impl Around {
    fn of(task: &Task, question: &Question, template: &Template) -> Self {
        let system = task.chat().and_then(|chat| chat.system.as_deref()).unwrap_or_default();
        let texts = [system, &question.prompt.preamble, &template.before, &template.after];
        Self {
            task: (task.name().into(), task.lang().into()),
            text: identity::gist(&texts.join("\u{1f}")),
        }
    }

    /// What the examples themselves say: one may hold others, with a question among them that is asked later.
    fn of_examples(task: &Task, questions: &[Question]) -> Option<Self> {
        let mut seen = HashSet::new();
        let shots = questions.iter().flat_map(|q| &q.prompt.shots);
        let shots = shots.filter(|shot| seen.insert(shot.identity)).take(EXAMPLES);
        let texts: Vec<&str> = shots.flat_map(|shot| [shot.question.as_str(), &shot.answer]).collect();
        (!texts.is_empty()).then(|| Self {
            task: (task.name().into(), task.lang().into()),
            text: identity::gist(&texts.join("\u{1f}")),
        })
    }

    /// Whether a question stands there, word for word; short ones may by chance.
    fn shows(&self, question: &str) -> bool {
        question.chars().count() >= TOLD && self.text.contains(question)
    }
}

/// Examples of a task that are looked into; where each question has its own, there may be thousands.
const EXAMPLES: usize = 256;

/// Characters, without white space, of a question that is not in a text by chance.
const TOLD: usize = 20;

/// The questions of a run's selection that stand in another part of it too, by their ids: nobody may say that they are new.
pub fn selected_elsewhere(parts: &[AskedPart]) -> HashSet<String> {
    let (selection, others): (Vec<&AskedPart>, Vec<&AskedPart>) = parts.iter().partition(|p| p.part == Part::Selection);
    let texts: HashSet<u64> = others
        .iter()
        .flat_map(|p| &p.questions)
        .map(|q| q.identity.text)
        .collect();
    let questions = selection.iter().flat_map(|p| &p.questions);
    let elsewhere = questions.filter(|q| texts.contains(&q.identity.text));
    elsewhere.map(|q| q.id.clone()).collect()
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
    compared.doubled = doubled(parts);
    compared.published = parts
        .iter()
        .filter(|p| p.part <= Part::Selection)
        .flat_map(AskedPart::published)
        .collect();
    compared
}

/// Questions that a task asks after another task of the same part has, or it itself: of those before it, the first with any of
/// them is named.
fn doubled(parts: &[AskedPart]) -> Vec<Shared> {
    let mut doubled = Vec::new();
    for (i, second) in parts.iter().enumerate().filter(|(_, p)| p.part != Part::Shots) {
        let mut first = None;
        let mut earlier: HashSet<u64> = HashSet::new();
        for part in parts[..i].iter().filter(|p| p.part == second.part) {
            let texts: HashSet<u64> = part.questions.iter().map(|q| q.identity.text).collect();
            first = first.or(second.asks_of(&texts).next().map(|_| part));
            earlier.extend(texts);
        }
        let again = second
            .questions
            .iter()
            .filter(|q| !earlier.insert(q.identity.text))
            .count();
        doubled.extend((again > 0).then(|| Shared {
            first: first.unwrap_or(second).in_event(),
            second: second.in_event(),
            n: again,
        }));
    }
    doubled
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

    /// Those of its questions that have one of these texts.
    fn asks_of(&self, texts: &HashSet<u64>) -> impl Iterator<Item = &AskedQuestion> {
        self.questions.iter().filter(|q| texts.contains(&q.identity.text))
    }

    /// How many of another part's questions are here too, and how many in another form.
    fn in_common(&self, other: &AskedPart) -> (usize, usize) {
        let contents: HashSet<Identity> = self.questions.iter().map(|q| q.identity).collect();
        let texts: HashSet<u64> = contents.iter().map(|c| c.text).collect();
        let problem = |q: &AskedQuestion| q.known.map(|known| known.problem);
        let problems: HashSet<usize> = self.questions.iter().filter_map(problem).collect();
        let [earlier, later] = [self, other].map(|part| part.questions.iter().map(|q| &q.words).collect::<Vec<_>>());
        let reworded: HashSet<usize> = rewording::reworded(&earlier, &later).into_iter().collect();
        let (mut same, mut near) = (0, 0);
        for (i, question) in other.questions.iter().enumerate() {
            if contents.contains(&question.identity) {
                same += 1;
            } else if texts.contains(&question.identity.text)
                || problem(question).is_some_and(|p| problems.contains(&p))
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
            let is_search_half =
                |known: &Known| known.problem < identity::MGSM_TEST && mgsm_row(&question.id) == Some(known.problem);
            if let Some(known) = question.known.filter(|known| known.is_test && !is_search_half(known)) {
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

/// The row of a question of MGSM's own files: `mgsm/mgsm_en/17`.
fn mgsm_row(id: &str) -> Option<usize> {
    let (lang, row) = id.strip_prefix("mgsm/mgsm_")?.rsplit_once('/')?;
    let is_published = lang == "en" || identity::MGSM_LANGS.contains(&lang);
    row.parse().ok().filter(|_| is_published)
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

    /// Two tasks that asked the same twenty questions were "40 questions never used before".
    #[test]
    fn a_question_of_two_tasks_is_told_and_counted_once() {
        let questions = [("one?", "1"), ("two?", "2"), ("three?", "3")];
        let parts = [
            part(Part::Search, "a", &[("zero?", "0")]),
            part(Part::Test, "a", &questions),
            part(Part::Test, "b", &questions[1..]),
            part(Part::Test, "c", &[("three?", "3"), ("one?", "1"), ("four?", "4")]),
        ];
        let compared = compare_questions(&parts);
        let told: Vec<_> = compared
            .doubled
            .iter()
            .map(|s| (&*s.first.task, &*s.second.task, s.n))
            .collect();
        assert_eq!(told, [("a", "b", 2), ("a", "c", 2)]);
        assert!(compared.is_clean());
        assert_eq!(
            (compared.distinct(Part::Test, 8), compared.distinct(Part::Search, 1)),
            (4, 1)
        );
        let warning = compared.warning().unwrap();
        assert!(
            warning.ends_with("2 of the 3 questions of c en (test, split s) are also in a en (test, split s)"),
            "{warning}"
        );
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

    /// Test questions with their answers in a preamble, or in the prompt's own words, went unseen.
    #[test]
    fn what_all_questions_begin_with_is_no_question() {
        let asked = [
            "Q: One and one? A: 2 Q: Two and five? A:",
            "Q: One and one? A: 2 Q: Three? A:",
        ];
        let template = Template::of(asked.into_iter());
        assert_eq!(
            (template.before.as_str(), template.after.as_str()),
            ("Q: One and one? A: 2 Q: T", "e? A:")
        );
        assert_eq!(template.filled(asked[1]), "hre");
        assert_eq!(Template::of(asked.into_iter().take(1)).filled("x"), "x");
        let around = Around {
            task: TaskKey::default(),
            text: identity::gist("Be brief.\nQ: How much is one and one more?\nA: 2"),
        };
        assert!(around.shows(&identity::gist("how much is One and one more?")));
        assert!(!around.shows(&identity::gist("How much is two and one more?")) && !around.shows("is"));
    }

    /// What the run has kept of its selection for `simplify` was called fresh by its row, though its search was bred on it.
    #[test]
    fn a_selection_question_of_the_search_is_not_new() {
        let parts = [
            part(Part::Search, "a", &[("How much is one?", "1")]),
            part(
                Part::Selection,
                "b",
                &[("1. How much is one?", "1"), ("How much is two?", "2")],
            ),
        ];
        assert_eq!(selected_elsewhere(&parts), HashSet::from(["b/0".to_string()]));
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
        use crate::eval::{DataDirs, Profile, TaskOptions};
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
        let compared = |tasks: &[FitnessTask]| compare_questions(&parts_of_run(tasks, &[], &finale, 0).unwrap());
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
