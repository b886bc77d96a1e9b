//! Which question this is, whatever file, row, task, language or profile it came by.
//!
//! Two questions are the same if what is asked and what is right are the same. What is asked are the fields of the row that
//! the prompt's template names, without the template's own words ("Question:", "Answer:"), without examples, without white
//! space; what is right is the gold answer, of a worked solution what follows its last `####`, numbers as numbers.
//!
//! The table of published test questions knows GSM8K's and MGSM's by what they ask, so that a copy in a file of one's own,
//! or a translation, is told too.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The words with which a data file may open a question, or close it, besides a template that does.
const SHELL: [&str; 30] = [
    "q",
    "question",
    "problem",
    "frage",
    "pregunta",
    "問題",
    "задача",
    "swali",
    "ప్రశ్న",
    "โจทย์",
    "问题",
    "প্রশ্ন",
    "a",
    "answer",
    "antwort",
    "respuesta",
    "réponse",
    "答え",
    "ответ",
    "jibu",
    "సమాధానం",
    "คำตอบ",
    "答案",
    "উত্তর",
    "step-by-step answer",
    "schritt-für-schritt-antwort",
    "respuesta paso a paso",
    "réponse étape par étape",
    "let's think step by step",
    "solution",
];

/// A question by its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Of what is asked.
    pub text: u64,
    /// Of what is right.
    pub gold: u64,
}

impl Identity {
    /// `asked` are the fields that are asked, in any order; none for a text that is itself what is measured.
    ///
    /// ```
    /// use heterosis_eval::identity::Identity;
    ///
    /// let of = |question: &str, gold: &str| Identity::of(&[question.to_owned()], gold);
    /// assert_eq!(of("Question: How much is 6 · 7?", "42"), of("How much  is 6 · 7?", "#### 42"));
    /// ```
    pub fn of(asked: &[String], gold: &str) -> Self {
        let mut asked: Vec<String> = asked
            .iter()
            .map(|field| bare(field))
            .filter(|f| !f.is_empty())
            .collect();
        asked.sort_unstable();
        match asked.is_empty() {
            true => Self {
                text: digest(&bare(gold)),
                gold: 0,
            },
            false => Self {
                text: digest(&asked.join("\u{1f}")),
                gold: digest(&answer(gold)),
            },
        }
    }

    /// Of a question that is known by its names alone.
    pub fn named(names: &[&str]) -> Self {
        Self {
            text: digest(&format!("named {names:?}")),
            gold: 0,
        }
    }
}

/// A text without the words around it that only say that it is a question, and without white space.
fn bare(text: &str) -> String {
    let mut text = text.trim();
    if let Some((label, rest)) = text.split_once([':', '：'])
        && is_shell(label)
    {
        text = rest.trim_start();
    }
    if let Some((rest, label)) = text.trim_end_matches([':', '：']).rsplit_once('\n')
        && is_shell(label)
    {
        text = rest;
    }
    solid(text)
}

fn is_shell(label: &str) -> bool {
    SHELL.contains(&label.trim().to_lowercase().as_str())
}

/// Without white space and what no reader sees.
fn solid(text: &str) -> String {
    let is_seen = |c: &char| !c.is_whitespace() && !matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}');
    text.chars().filter(is_seen).collect()
}

/// What is right: of a worked solution its result, of a number its value.
fn answer(gold: &str) -> String {
    let result = solid(gold.rsplit("####").next().unwrap_or(gold));
    let plain: String = result
        .chars()
        .filter(|c| !matches!(c, ',' | '$' | '€' | '£' | '%'))
        .collect();
    match plain.trim_end_matches('.').parse::<f64>() {
        Ok(number) if number.is_finite() => number.to_string(),
        _ => result,
    }
}

/// The first eight bytes of BLAKE3.
fn digest(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    hash.as_bytes()
        .iter()
        .take(8)
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// A published benchmark's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// `GSM8K` or `MGSM`.
    pub benchmark: &'static str,
    /// Row of GSM8K's test set: MGSM's problems are its first 250, in every language.
    pub problem: usize,
    /// One of those by which models are compared: all of GSM8K's test set; of MGSM those that no built-in task searches on.
    pub is_test: bool,
}

/// First row of MGSM's files that is in the built-in tasks' test split.
pub const MGSM_TEST: usize = 125;
const GSM8K_TEST: usize = 1319;
/// Problems of MGSM in each language.
const MGSM: usize = 250;
/// Languages of the table, in order; MGSM's English questions are GSM8K's own, word for word.
pub const MGSM_LANGS: [&str; 10] = ["bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"];

/// Digests of the questions, eight bytes each: GSM8K's test set in its order, then MGSM's in each language.
const TABLE: &[u8] = include_bytes!("published.bin");

static PUBLISHED: LazyLock<HashMap<u64, Published>> = LazyLock::new(|| {
    let digests = TABLE
        .chunks_exact(8)
        .map(|b| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let place = |i: usize| match i.checked_sub(GSM8K_TEST) {
        None => Published {
            benchmark: "GSM8K",
            problem: i,
            is_test: true,
        },
        Some(i) => Published {
            benchmark: "MGSM",
            problem: i % MGSM,
            is_test: i % MGSM >= MGSM_TEST,
        },
    };
    digests.enumerate().map(|(i, digest)| (digest, place(i))).collect()
});

/// What published question this is, if it is one of GSM8K's test set or of MGSM.
pub fn published(identity: Identity) -> Option<Published> {
    PUBLISHED.get(&identity.text).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDirs, Profile, Split, Task, TaskOptions};

    fn of(asked: &[&str], gold: &str) -> Identity {
        Identity::of(&asked.iter().map(ToString::to_string).collect::<Vec<_>>(), gold)
    }

    #[test]
    fn white_space_shells_and_the_form_of_the_gold_do_not_matter() {
        let plain = of(&["What is 2 + 2?"], "4");
        for other in [
            of(&["  What is\n2+2?\u{a0}"], "4"),
            of(&["Question: What is 2 + 2?\nAnswer:"], "4"),
            of(&["What is 2 + 2?"], "2 + 2 = 4\n#### 4"),
            of(&["What is 2 + 2?", ""], "$4.00."),
        ] {
            assert_eq!(other, plain);
        }
        for other in [
            of(&["What is 2 - 2?"], "4"),
            of(&["Answer: yes?"], "4"),
            of(&["What is 2 + 2?"], "5"),
        ] {
            assert_ne!(other, plain);
        }
        assert_eq!(
            of(&["What is 2 + 2?"], "5").text,
            plain.text,
            "the same text with another answer"
        );
        assert_eq!(
            of(&["a passage", "a question"], "x"),
            of(&["a question", "a passage"], "x")
        );
        assert_eq!(of(&["Translate: x"], "y").text, of(&["Translate:  x "], "y").text);
        assert_ne!(of(&["Translate: x"], "y").text, of(&["x"], "y").text, "no shell");
        // A text that is itself what is measured.
        assert_eq!(of(&[], "4 apples").text, of(&["4 apples"], "1").text);
    }

    fn task(name: &str, profile: Profile, root: std::path::PathBuf) -> Task {
        let options = TaskOptions {
            profile,
            ..TaskOptions::default()
        };
        Task::load(name, &options, &DataDirs { roots: vec![root] }).unwrap()
    }

    /// The sample of GSM8K and MGSM that lies beside the tests; where the whole is at hand, the whole.
    #[test]
    fn published_questions_are_known_by_what_they_ask() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data");
        for (name, profile) in [
            ("gsm8k", Profile::Parity),
            ("gsm8k_cot", Profile::Parity),
            ("gsm8k_solutions", Profile::Fitness),
        ] {
            let questions = task(name, profile, root.clone()).questions(Split::Test).unwrap();
            for (i, question) in questions.iter().enumerate() {
                let known = published(question.identity).unwrap_or_else(|| panic!("{name} {i}"));
                assert_eq!(
                    (known.benchmark, known.problem, known.is_test),
                    ("GSM8K", i, true),
                    "{name}"
                );
            }
        }
        let questions = task("mgsm_direct_es", Profile::Parity, root)
            .questions(Split::Search)
            .unwrap();
        assert!(!questions.is_empty());
        for (i, question) in questions.iter().enumerate() {
            let known = published(question.identity).unwrap();
            assert_eq!((known.benchmark, known.problem, known.is_test), ("MGSM", i, false));
        }
    }

    /// Writes the table: `HETEROSIS_WRITE_PUBLISHED=1 HETEROSIS_DATA=… cargo test --lib identity`.
    #[test]
    fn the_table_is_that_of_the_published_files() {
        let Some(root) = std::env::var_os("HETEROSIS_DATA").map(std::path::PathBuf::from) else {
            return;
        };
        let mut table: Vec<u8> = Vec::new();
        let mut add = |name: &str, split| {
            for question in task(name, Profile::Fitness, root.clone()).questions(split).unwrap() {
                table.extend(question.identity.text.to_le_bytes());
            }
        };
        add("gsm8k_solutions", Split::Test);
        for lang in MGSM_LANGS {
            add(&format!("mgsm_choices_{lang}"), Split::Benchmark);
        }
        if std::env::var_os("HETEROSIS_WRITE_PUBLISHED").is_some() {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published.bin");
            std::fs::write(file, &table).unwrap();
        }
        assert!(
            table == TABLE,
            "the table is not that of the files; HETEROSIS_WRITE_PUBLISHED=1 writes it"
        );
    }
}
