//! What the questions of a run ask, in words: so that who reads which of them changed sides need not open data files.
//!
//! A journal holds each text once, however many candidates answer it, and of a long one only its beginning and end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Characters kept of a text from its beginning, and from its end, where a question as a rule is asked.
const HEAD: usize = 420;
const TAIL: usize = 180;

/// The texts of one task's questions in one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionTexts {
    /// As in [`Task::task`](super::Task::task).
    pub task: String,
    /// As in [`Task::lang`](super::Task::lang).
    pub lang: String,
    /// As in [`Task::split`](super::Task::split).
    pub split: String,
    /// By question id. A text of more than 600 characters lacks its middle.
    pub texts: BTreeMap<String, String>,
}

impl QuestionTexts {
    /// Shortens what is long; questions without words are left out.
    pub fn new(task: &str, lang: &str, split: &str, texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let texts = texts.into_iter().map(|(id, text)| (id, shortened(text.trim())));
        Self {
            task: task.into(),
            lang: lang.into(),
            split: split.into(),
            texts: texts.filter(|(_, text)| !text.is_empty()).collect(),
        }
    }

    /// Whether these are of the same task and split.
    pub fn is_of(&self, task: &str, lang: &str, split: &str) -> bool {
        (&*self.task, &*self.lang, &*self.split) == (task, lang, split)
    }
}

fn shortened(text: &str) -> String {
    let n = text.chars().count();
    if n <= HEAD + TAIL {
        return text.into();
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(n - TAIL).collect();
    format!("{} … {}", head.trim_end(), tail.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_what_it_asks() {
        assert_eq!(shortened("How many?"), "How many?");
        let all = "é".repeat(HEAD + TAIL);
        assert_eq!(shortened(&all), all);
        let passage = format!("Passage: {} So, how many?", "words ".repeat(500));
        let short = shortened(&passage);
        assert!(
            short.starts_with("Passage: words") && short.ends_with("So, how many?"),
            "{short}"
        );
        assert!(short.chars().count() <= HEAD + TAIL + 3);
    }

    #[test]
    fn what_has_no_words_is_left_out() {
        let pair = |id: &str, text: &str| (id.to_string(), text.to_string());
        let texts = QuestionTexts::new("t", "en", "test", [pair("a", " \n"), pair("b", " 1 + 1? ")]);
        assert_eq!(texts.texts.into_iter().collect::<Vec<_>>(), [pair("b", "1 + 1?")]);
    }
}
