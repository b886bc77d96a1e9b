//! The questions that a command answers one by one, where it says so beforehand: a file of their names, `fitness.questions`.
//!
//! With them an exam of a command is an exam like any other: races ask some of the questions, candidates are compared on the
//! same ones, and the test split is read once. What a question is, only the command knows, unless each line has its text:
//! without, the same name in two splits is the same question.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::Deserialize;

use super::{AskedPart, AskedQuestion, Catalogue, Error, Exam, ExamTask};
use crate::{
    eval::{self, Split, identity::Identity},
    event::{QuestionTexts, freshness::Part},
    space::{Finale, Fitness, Limit},
    yaml::did_you_mean,
};

/// One line of the file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Question {
    id: String,
    split: String,
    #[serde(default = "only_task")]
    task: String,
    #[serde(default)]
    lang: String,
    /// What is asked, and what is right: by these, questions of different splits are compared.
    question: Option<String>,
    answer: Option<String>,
}

fn only_task() -> String {
    "questions".into()
}

impl Question {
    fn identity(&self) -> Identity {
        match &self.question {
            Some(text) => Identity::of(std::slice::from_ref(text), self.answer.as_deref().unwrap_or_default()),
            None => Identity::named(&[&self.task, &self.lang, &self.id]),
        }
    }
}

/// All questions of a command.
#[derive(Clone, Debug)]
pub struct Questions {
    all: Vec<Question>,
    /// Task and language, in the order of the file, with how much each counts.
    tasks: Vec<((String, String), f64)>,
}

impl Questions {
    /// Reads the questions of a command; `fitness.weights` are its tasks'.
    ///
    /// # Errors
    /// Names the file and the line; a weight of a task that is not there.
    pub fn read(file: &Path, fitness: &Fitness) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|source| eval::Error::Read {
            file: file.into(),
            source,
        })?;
        Self::parse(file, &text, fitness)
    }

    fn parse(file: &Path, text: &str, fitness: &Fitness) -> Result<Self, Error> {
        let wrong = |line: usize, message: String| eval::Error::Row {
            file: file.into(),
            line,
            message,
        };
        let mut seen: BTreeMap<(String, String, String, String), usize> = BTreeMap::new();
        let (mut all, mut names): (Vec<Question>, Vec<(String, String)>) = (Vec::new(), Vec::new());
        for (text, line) in text.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty()) {
            let question: Question = serde_json::from_str(text).map_err(|e| wrong(line, e.to_string()))?;
            let Question {
                id, split, task, lang, ..
            } = question.clone();
            let name = (task.clone(), lang.clone());
            if let Some(first) = seen.insert((task, lang, split, id), line) {
                return Err(wrong(line, format!("this question stands on line {first} already")).into());
            }
            if !names.contains(&name) {
                names.push(name);
            }
            if question.answer.is_some() && question.question.is_none() {
                return Err(wrong(line, "an 'answer' needs its 'question'".into()).into());
            }
            if all
                .first()
                .is_some_and(|first| first.question.is_some() != question.question.is_some())
            {
                let message = "either every line has its 'question' or none: else they cannot be compared";
                return Err(wrong(line, message.into()).into());
            }
            all.push(question);
        }
        let known: Vec<&str> = names.iter().map(|(task, _)| task.as_str()).collect();
        for (name, weight) in &fitness.weights {
            if !known.contains(&name.as_str()) {
                let hint = did_you_mean(name, &known);
                return Err(wrong(
                    1,
                    format!("there are no questions of the task '{name}', which has a weight{hint}"),
                )
                .into());
            }
            if *weight <= 0.0 {
                return Err(wrong(
                    1,
                    format!(
                        "the task '{name}' has a weight of {weight}; give its answers scores of which more is better"
                    ),
                )
                .into());
            }
        }
        let weight = |task: &str| match fitness.weights.is_empty() {
            true => Some(1.0),
            false => fitness
                .weights
                .iter()
                .find(|(name, _)| name == task)
                .map(|(_, weight)| *weight),
        };
        let tasks = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), weight(&name.0)?)));
        Ok(Self {
            tasks: tasks.collect(),
            all,
        })
    }

    /// What the questions of an exam ask, where the file says it.
    pub fn texts(&self, exam: &Exam) -> Vec<QuestionTexts> {
        let of_task = |task: &ExamTask| {
            let is_it = |q: &&Question| (&q.task, &q.lang, &q.split) == (&task.task, &task.lang, &task.split);
            let all = self.all.iter().filter(is_it);
            let texts = all.filter_map(|q| Some((q.id.clone(), q.question.clone()?)));
            QuestionTexts::new(&task.task, &task.lang, &task.split, texts)
        };
        exam.tasks.iter().map(of_task).collect()
    }

    /// The questions of a split, at most so many of each task.
    ///
    /// # Errors
    /// A task without questions there.
    pub fn exam(&self, split: &str, limit: Limit) -> Result<Exam, Error> {
        let tasks = self.tasks.iter().zip(0..).map(|((name, weight), index)| {
            let of_task = self.all.iter().filter(|q| (&q.task, &q.lang) == (&name.0, &name.1));
            let asked = of_task.filter(|q| q.split == split);
            let ids: Vec<String> = asked
                .map(|q| q.id.clone())
                .take(limit.most().unwrap_or(usize::MAX))
                .collect();
            if ids.is_empty() {
                return Err(Error::NoQuestions {
                    task: name.0.clone(),
                    split: split.into(),
                });
            }
            Ok(ExamTask {
                index,
                split: split.into(),
                task: name.0.clone(),
                lang: name.1.clone(),
                weight: *weight,
                is_likelihood: false,
                items: (0..ids.len()).collect(),
                catalogue: Arc::new(Catalogue {
                    lengths: vec![0; ids.len()],
                    ids,
                }),
            })
        });
        Ok(Exam {
            split: split.into(),
            tasks: tasks.collect::<Result<_, _>>()?,
        })
    }

    /// Whether questions are known by what they ask, and not by their names alone.
    pub fn have_texts(&self) -> bool {
        self.all.first().is_some_and(|first| first.question.is_some())
    }

    /// What a run asks in each of its parts; there is a test where there are models.
    ///
    /// # Errors
    /// A task without questions in one of them.
    pub fn parts_of_run(&self, finale: &Finale, has_test: bool) -> Result<Vec<AskedPart>, Error> {
        let (selection, test) = (&finale.selection.split, &finale.test.split);
        let mut parts = vec![
            (Part::Search, Split::Search.name(), Limit::All),
            (Part::Selection, selection.as_str(), finale.selection_limit()),
        ];
        parts.extend(has_test.then(|| (Part::Test, test.as_str(), finale.test_limit())));
        let mut asked = Vec::new();
        for (part, split, limit) in parts {
            for task in self.exam(split, limit)?.tasks {
                asked.push(AskedPart {
                    part,
                    questions: self.of_split(&task).collect(),
                    task: task.task,
                    lang: task.lang,
                    split: split.into(),
                });
            }
        }
        Ok(asked)
    }

    /// The questions that an exam has of a task.
    fn of_split<'a>(&'a self, exam: &'a ExamTask) -> impl Iterator<Item = AskedQuestion> + 'a {
        let in_exam = |q: &&Question| (&q.task, &q.lang, &q.split) == (&exam.task, &exam.lang, &exam.split);
        let of_task = self.all.iter().filter(in_exam).take(exam.items.len());
        of_task.map(|q| AskedQuestion::new(&q.id, q.question.as_deref().unwrap_or_default(), q.identity()))
    }

    /// BLAKE3 of a task's questions, in hex.
    pub fn digest(&self, index: usize) -> String {
        let mut hasher = blake3::Hasher::new();
        if let Some(((task, lang), _)) = self.tasks.get(index) {
            let of_task = self.all.iter().filter(|q| (&q.task, &q.lang) == (task, lang));
            for question in of_task {
                let name = (&question.task, &question.lang, &question.split, &question.id);
                hasher.update(format!("{name:?}").as_bytes());
                if let Some(text) = &question.question {
                    hasher.update(format!("{:?}", (text, &question.answer)).as_bytes());
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Space;

    fn fitness(weights: &str) -> Fitness {
        let text = format!("name: t\ngenes: {{x: [0, 1]}}\nfitness: {{command: [a], questions: q.jsonl{weights}}}\n");
        Space::parse(Path::new("s.yaml"), &text).unwrap().fitness
    }

    fn parse(text: &str, weights: &str) -> Result<Questions, String> {
        Questions::parse(Path::new("q.jsonl"), text, &fitness(weights)).map_err(|e| e.to_string())
    }

    const TWO: &str = r#"{"id": "1", "split": "search", "task": "a"}
{"id": "2", "split": "search", "task": "a"}

{"id": "1", "split": "test", "task": "a"}
{"id": "1", "split": "search", "task": "b", "lang": "es"}
"#;

    #[test]
    fn questions_make_an_exam_of_each_split() {
        let questions = parse(TWO, ", weights: {a: 1, b: 3}").unwrap();
        let split = |split: &str, limit: Option<usize>| questions.exam(split, limit.into());
        let search = split("search", None).unwrap();
        assert_eq!(
            (search.n(), search.tasks[1].weight, search.tasks[1].lang.as_str()),
            (3, 3.0, "es")
        );
        assert_eq!(search.tasks[0].catalogue.ids, ["1", "2"]);
        assert_eq!(split("search", Some(1)).unwrap().n(), 2);
        let missing = split("test", None).unwrap_err().to_string();
        assert!(missing.contains("'b' has no questions in its test split"), "{missing}");
    }

    /// The questions of a command were compared by nobody: its test could be its search.
    #[test]
    fn questions_of_two_splits_are_compared_by_text_or_by_name() {
        use crate::search::compare_questions;
        let finale = Space::parse(
            Path::new("s.yaml"),
            "name: t\ngenes: {x: [0, 1]}\nfitness: {command: [a], questions: q.jsonl}\n",
        )
        .unwrap()
        .finale;
        let shared = |text: &str, has_test: bool| -> Vec<(Part, Part, usize)> {
            let parts = parse(text, "").unwrap().parts_of_run(&finale, has_test).unwrap();
            let compared = compare_questions(&parts);
            compared
                .overlaps
                .iter()
                .map(|s| (s.first.part, s.second.part, s.n))
                .collect()
        };
        let line = |id: &str, split: &str, more: &str| format!("{{\"id\": \"{id}\", \"split\": \"{split}\"{more}}}\n");
        let named =
            line("1", "search", "") + &line("2", "selection", "") + &line("1", "test", "") + &line("3", "test", "");
        assert_eq!(shared(&named, true), [(Part::Search, Part::Test, 1)]);
        assert_eq!(shared(&named, false), [], "bare genes have no test");
        let other_task = line("1", "search", ", \"task\": \"a\"") + &line("2", "selection", ", \"task\": \"a\"");
        let other_task =
            other_task + &line("2", "search", ", \"task\": \"b\"") + &line("1", "selection", ", \"task\": \"b\"");
        assert_eq!(shared(&other_task, false), [], "a name is a task's own");

        let asks = |text: &str| format!(", \"question\": \"{text}\", \"answer\": \"4\"");
        let texts = line("1", "search", &asks("What is 2 + 2?")) + &line("1", "selection", &asks("What is 1 + 3?"));
        assert_eq!(shared(&texts, false), [], "row 1 of two files");
        let same =
            line("1", "search", &asks("What is 2 + 2?")) + &line("9", "selection", &asks("Question: What is  2+2?"));
        assert_eq!(shared(&same, false), [(Part::Search, Part::Selection, 1)]);
        assert!(parse(&same, "").unwrap().have_texts() && !parse(&named, "").unwrap().have_texts());
        let mixed = line("1", "search", &asks("?")) + &line("2", "search", "");
        assert!(
            parse(&mixed, "")
                .unwrap_err()
                .starts_with("q.jsonl:2: either every line")
        );
        let no_question = line("1", "search", ", \"answer\": \"4\"");
        assert!(parse(&no_question, "").unwrap_err().contains("needs its 'question'"));
    }

    #[test]
    fn what_is_wrong_with_a_file_of_questions_is_named() {
        let twice = format!("{TWO}{}", r#"{"id": "1", "split": "test", "task": "a"}"#);
        assert!(
            parse(&twice, "")
                .unwrap_err()
                .starts_with("q.jsonl:6: this question stands on line 4")
        );
        assert!(
            parse("{\"id\": \"1\"}", "")
                .unwrap_err()
                .contains("q.jsonl:1: missing field `split`")
        );
        assert!(
            parse(TWO, ", weights: {aa: 1}")
                .unwrap_err()
                .contains("did you mean 'a'?")
        );
        assert!(
            parse(TWO, ", weights: {a: -1, b: 1}")
                .unwrap_err()
                .contains("weight of -1")
        );
    }
}
