//! Which question this is, whatever file, row, task, language or profile it came by.
//!
//! Two questions are the same if what is asked and what is right are the same. What is asked are the fields of the row that
//! the prompt's template names, without the template's own words ("Question:", "Answer:"), without a number before them
//! ("17.", "Question 17:"), without examples, without white space, in small letters and in Unicode's compatibility form (NFKC:
//! full-width letters, composed accents), once where it is written twice; what is right is the gold answer, of a worked solution
//! what follows its last `####`, numbers as numbers.
//!
//! The table of published test questions knows GSM8K's and MGSM's by what they ask, so that a copy in a file of one's own,
//! or a translation, is told too; also behind an instruction of a few sentences.

use std::collections::HashMap;
use std::sync::LazyLock;

use icu_normalizer::ComposingNormalizerBorrowed;

use super::number;

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

/// What a question's number may be called besides.
const NUMBERED: [&str; 12] = [
    "item",
    "no",
    "nr",
    "number",
    "task",
    "exercise",
    "row",
    "aufgabe",
    "ejercicio",
    "exercice",
    "пример",
    "题",
];

/// Bytes of a text that is there once more, at least: "no no" is no repetition.
const REPEATED: usize = 16;

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

/// A text without the words around it that only say that it is a question, or which one, and without white space.
fn bare(text: &str) -> String {
    let even = even(text);
    let mut text = undressed(&even);
    loop {
        let before = text;
        if let Some((rest, label)) = text.rsplit_once('\n')
            && is_shell(label.trim_end_matches(':'))
        {
            text = rest;
        }
        text = undressed(text);
        if text == before {
            return once(without_ends(&solid(text)));
        }
    }
}

/// A text that is another one several times, as that one, also where it says so ("Read the question again:").
fn once(text: String) -> String {
    if let Some((first, again)) = text.split_once("readthequestionagain:")
        && first == again
    {
        return first.into();
    }
    let bytes = text.as_bytes();
    let parts = (2..=4).rev().find(|parts| {
        let part = bytes.len() / parts;
        bytes.len().is_multiple_of(*parts) && part >= REPEATED && bytes[part..] == bytes[..bytes.len() - part]
    });
    match parts {
        Some(parts) => text[..text.len() / parts].into(),
        None => text,
    }
}

/// A text without the signs that end its sentences.
fn without_ends(text: &str) -> String {
    let mut before = None;
    let mut after = text.chars().skip(1);
    let is_kept = |c: &char| {
        let next = after.next();
        let digits = [before.replace(*c), next]
            .iter()
            .flatten()
            .filter(|c| c.is_ascii_digit())
            .count();
        match c {
            '?' | '!' | '。' | '।' => false,
            '.' => digits == 2,
            _ => true,
        }
    };
    text.chars().filter(is_kept).collect()
}

/// A text without what stands around it: labels and numbers, quotation marks, marks of a list or of bold type, tags, and the
/// sign that ends its sentence.
fn undressed(text: &str) -> &str {
    let is_mark = |c: char| c.is_whitespace() || "*_`\"'“”„«»‘’>#".contains(c);
    let mut text = text;
    loop {
        let before = text;
        text = unlabelled(text.trim_matches(is_mark));
        text = text.trim_end_matches(|c: char| is_mark(c) || "?!.。।".contains(c));
        for mark in ["- ", "• ", "– "] {
            text = text.strip_prefix(mark).unwrap_or(text);
        }
        if let Some((tag, rest)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>'))
            && is_tag(tag)
        {
            let end = format!("</{tag}");
            text = rest.strip_suffix('>').unwrap_or(rest);
            text = text.strip_suffix(&end).unwrap_or(text);
        }
        if text == before {
            return text;
        }
    }
}

fn is_tag(name: &str) -> bool {
    !name.is_empty() && name.len() <= 16 && name.chars().all(|c| c.is_ascii_alphanumeric())
}

/// A text without "Question:", "17.", "(17)", "Item 17:" before it, however many of these.
pub(crate) fn unlabelled(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(rest) = behind_shell(text).or_else(|| behind_number(text)) {
        text = rest.trim_start();
    }
    text
}

fn behind_shell(text: &str) -> Option<&str> {
    let (label, rest) = text.split_once([':', '：'])?;
    is_shell(label).then_some(rest)
}

/// Behind a number, with a word for such numbers before it or none, that ends in a sign which no quantity ends in, or stands in
/// brackets. A number alone in its line is one too.
fn behind_number(text: &str) -> Option<&str> {
    let after = text.trim_start_matches(char::is_alphabetic);
    let word = &text[..text.len() - after.len()];
    if !(word.is_empty() || is_shell(word) || NUMBERED.contains(&word.to_lowercase().as_str())) {
        return None;
    }
    let is_bracketed = after.starts_with(['(', '[']);
    let digits = after.trim_start_matches([' ', '#', '(', '[', '№']);
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let length = digits.len() - rest.len();
    let end = rest.chars().next()?;
    let closes = match is_bracketed {
        true => matches!(end, ')' | ']'),
        false => matches!(end, '.' | ')' | ':' | '：' | '\n'),
    };
    let rest = &rest[end.len_utf8()..];
    // 3.5 and 3:45 are none.
    let is_label = (1..=6).contains(&length) && closes && (end == '\n' || rest.starts_with(char::is_whitespace));
    is_label.then_some(rest)
}

fn is_shell(label: &str) -> bool {
    SHELL.contains(&label.trim().to_lowercase().as_str())
}

/// [`solid`], without the signs that end sentences.
pub fn gist(text: &str) -> String {
    without_ends(&solid(text))
}

/// In small letters and compatibility form, without white space and what no reader sees, digits of any script as ours.
pub fn solid(text: &str) -> String {
    let even = even(text);
    let seen = even.chars().filter(|c| !c.is_whitespace());
    seen.flat_map(char::to_lowercase).collect()
}

/// In Unicode's compatibility form (NFKC), without what no reader sees, digits of any script as ours.
fn even(text: &str) -> String {
    let is_seen = |c: &char| {
        !matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e01ef}')
    };
    let even = ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    even.chars()
        .filter(is_seen)
        .map(|c| number::digit(c).unwrap_or(c))
        .collect()
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

/// Sentences before a published question, or behind it, that do not hide it.
const INSTRUCTIONS: usize = 4;

/// What published question a text asks, also behind or before an instruction of a few sentences.
///
/// ```
/// use heterosis_eval::identity::{published_in, published, Identity};
///
/// let own = "Solve step by step. What is 2 + 2?";
/// assert_eq!(published_in(own), None);
/// assert_eq!(published(Identity::of(&[own.to_owned()], "4")), None);
/// ```
pub fn published_in(text: &str) -> Option<Published> {
    let is_end = |c: char| matches!(c, '.' | ':' | '!' | '?' | '\n' | '。' | '：' | '？' | '！' | '।');
    let ends: Vec<usize> = text.match_indices(is_end).map(|(at, end)| at + end.len()).collect();
    let begins = std::iter::once(0).chain(ends.iter().copied().take(INSTRUCTIONS));
    let parts = begins.flat_map(|from| {
        let stops = std::iter::once(text.len()).chain(ends.iter().rev().copied().take(INSTRUCTIONS));
        stops.filter(move |to| from < *to).map(move |to| &text[from..to])
    });
    let known = |part: &str| PUBLISHED.get(&digest(&bare(part))).copied();
    parts.into_iter().find_map(known)
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
            of(&["WHAT IS 2 + 2?"], "4"),
            of(&["Ｗｈａｔ　ｉｓ　２ ＋ ２？"], "４"),
            of(&["Ｑ：　Ｗｈａｔ　ｉｓ　２ ＋ ２？"], "４"),
            of(&["What is ٢ + ২?"], "4"),
            of(&["What is 2\u{2063} + 2\u{fe0f}?"], "4"),
            of(&["**What is 2 + 2?**"], "4"),
            of(&["\"What is 2 + 2?\""], "4"),
            of(&["- What is 2 + 2"], "4"),
            of(&["> 3. What is 2 + 2"], "4"),
            of(&["<question>What is 2 + 2?</question>"], "4"),
            of(&["Question: **What is 2 + 2?**\nAnswer:"], "4"),
        ] {
            assert_eq!(other, plain);
        }
        for other in [
            of(&["What is 2 - 2?"], "4"),
            of(&["2 + 2 is what?"], "4"),
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
        // Written twice, and with its accents apart.
        let asked = "Léa a 3 pommes et en mange 1. Combien en reste-t-il ?";
        for several in [
            format!("{asked}\n{asked}"),
            format!("{asked} {asked} {asked}"),
            format!("{asked}\nRead the question again: {asked}"),
        ] {
            assert_eq!(of(&[&several], "2"), of(&[asked], "2"), "{several}");
        }
        assert_eq!(of(&[&asked.replace('é', "e\u{301}")], "2"), of(&[asked], "2"));
        assert_ne!(of(&["no no"], "2"), of(&["no"], "2"));
        // A text that is itself what is measured.
        assert_eq!(of(&[], "4 apples").text, of(&["4 apples"], "1").text);
    }

    /// "On 51 questions never used before" was said of a search's own questions, with their numbers before them.
    #[test]
    fn a_number_before_a_question_makes_no_other_question() {
        let plain = of(&["Mia has 3 apples and buys 4. How many has she?"], "7");
        for number in [
            "17. ",
            "17) ",
            "(17) ",
            "[3] ",
            "#17: ",
            "Q17: ",
            "Question 17: ",
            "Pregunta 17:\n",
            "Item 17. Q: ",
            "Q: 17. ",
            "№ 5. ",
            "12\n",
        ] {
            let numbered = format!("{number}Mia has 3 apples and buys 4. How many has she?");
            assert_eq!(of(&[&numbered], "7"), plain, "{number}");
        }
        for other in [
            "3.5 apples are left",
            "3:45 is the time",
            "3 apples. How many?",
            "2 + 2: what?",
            "In 1999: what?",
        ] {
            assert_eq!(unlabelled(other), other);
        }
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
                let asked = question.words();
                for disguised in [
                    asked.to_uppercase(),
                    format!("Solve step by step. Be careful! {asked}"),
                    format!("{i}. {asked}"),
                    format!("Q: Read this. {asked} A:"),
                    format!(
                        "{} Think before you answer.",
                        asked.replace("Question: ", "").replace("\nAnswer:", "")
                    ),
                ] {
                    assert_eq!(published_in(&disguised), Some(known), "{disguised}");
                }
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

    /// A table that was written with other rules knows nothing: where this fails, it has to be written anew (see below), and then
    /// this number.
    #[test]
    fn the_table_is_of_these_rules() {
        let said = [
            "Léa a 3 pommes et en mange 1. Combien en reste-t-il ?",
            "小明有3个苹果，又买了４个。他现在有多少个？",
            "りんごが3個あり、１個食べました。残りは何個ですか？",
            "মিয়ার ৩টি আপেল আছে। সে আরও ৪টি কিনল। তার কয়টি আপেল আছে?",
            "మియాకు 3 ఆపిల్స్ ఉన్నాయి. ఎన్ని?",
            "มีอามีแอปเปิ้ล 3 ผล ซื้อเพิ่มอีก 4 ผล รวมกี่ผล?",
            "Die Äpfel kosten 3,50 €. Wie viel ist das (in Cent)?",
            "У Миши 3 яблока. Сколько их?",
        ];
        let all: Vec<String> = said.iter().map(|text| bare(text)).collect();
        assert_eq!(digest(&all.join("\n")), RULES, "{all:?}");
        assert_eq!(TABLE.len(), 8 * (GSM8K_TEST + MGSM * MGSM_LANGS.len()));
    }

    /// Of the rules under which the table was written.
    const RULES: u64 = 5_462_488_504_059_907_094;

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
