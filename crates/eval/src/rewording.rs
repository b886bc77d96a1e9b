//! The same question in other words: with another name, another punctuation, a verb for a verb.
//!
//! Two questions with the same numbers and the same right answer, most of whose words are the same, are one question reworded.
//! Words that most questions of a part have ("how", "many", a template's instructions) do not count, so that problems of one
//! template with the same numbers by chance are not taken for each other. A free paraphrase is not seen. One number may be
//! another or be missing, as where a row's number stands in the text, if nearly all words are the same.
//!
//! Measured (`MOST_ALIKE` = 0.6): of GSM8K's 1,319 test questions none resembles a training question by more than 0.43, of 2,000
//! of the embedded family's test none a search question by more than 0.58; with a tenth of the words replaced 99 % are
//! recognised, with 15 % 97 %, with 30 % half to three quarters.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::identity::{self, Identity};

/// The part of the words of both that two wordings of one question have in common, at least.
const MOST_ALIKE: f64 = 0.6;
/// The same where one number is another.
const ALIKE_BUT_A_NUMBER: f64 = 0.95;
/// Numbers that two such have in common, at least, if neither has one more.
const COMMON_NUMBERS: usize = 2;
/// From how many questions on it can be told which words most of them have.
const MANY: usize = 10;

/// A question as what is said in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    gold: u64,
    /// In the order of their digits, each as often as it is said.
    numbers: Vec<String>,
    words: BTreeSet<String>,
}

impl Words {
    /// Those of what is asked; `identity` says what is right.
    pub fn of(text: &str, identity: Identity) -> Self {
        let (mut numbers, mut words) = (Vec::new(), BTreeSet::new());
        for word in split(identity::unlabelled(text)) {
            match word.starts_with(|c: char| c.is_numeric()) {
                true => numbers.push(word),
                false => drop(words.insert(word)),
            }
        }
        numbers.sort_unstable();
        Self {
            gold: identity.gold,
            numbers,
            words,
        }
    }

    /// Which of two wordings of one question this may be, in short: as it stands, and with each of its numbers left out.
    fn kinds(&self) -> impl Iterator<Item = Kinds> {
        let without = |left_out: usize| {
            let numbers = self.numbers.iter().enumerate().filter(move |(i, _)| *i != left_out);
            numbers.map(|(_, number)| number.clone()).collect::<Vec<_>>()
        };
        let fewer = (0..self.numbers.len())
            .map(without)
            .filter(|numbers| !numbers.is_empty());
        std::iter::once(self.numbers.clone())
            .chain(fewer)
            .map(|numbers| (self.gold, numbers))
    }

    /// The part of the words of both that is common to both; nothing where too few are left to tell.
    fn resembles(&self, other: &Self, usual: &HashSet<&str>) -> bool {
        let told = |words: &BTreeSet<String>| -> BTreeSet<String> {
            let words = words.iter().filter(|word| !usual.contains(word.as_str()));
            words.cloned().collect()
        };
        let (a, b) = (told(&self.words), told(&other.words));
        let all = a.union(&b).count();
        let alike = match (self.numbers.len(), other.numbers.len()) {
            _ if self.numbers == other.numbers => MOST_ALIKE,
            (mine, others) if mine == others && mine <= COMMON_NUMBERS => return false,
            _ => ALIKE_BUT_A_NUMBER,
        };
        !a.is_empty() && !b.is_empty() && a.intersection(&b).count() as f64 >= alike * all as f64
    }
}

/// What is right, and numbers of what is asked.
type Kinds = (u64, Vec<String>);

/// Which questions of `later` are questions of `earlier` in other words, by their places.
///
/// ```
/// use heterosis_eval::{identity::Identity, rewording::{Words, reworded}};
///
/// let words = |text: &str| Words::of(text, Identity::of(&[text.to_owned()], "42"));
/// let asked = words("Lena bakes 6 trays with 7 rolls on each tray. How many rolls does she bake?");
/// let again = words("Lena bakes 6 trays with 7 rolls on each. How many rolls does she bake altogether?");
/// let other = words("A bus has 6 rows of 7 seats, and 3 of them are taken. How many people can still sit down?");
/// assert_eq!(reworded(&[&asked], &[&other, &again]), [1]);
/// ```
pub fn reworded(earlier: &[&Words], later: &[&Words]) -> Vec<usize> {
    let usual: HashSet<&str> = usual(earlier).chain(usual(later)).collect();
    let mut alike: HashMap<Kinds, Vec<&Words>> = HashMap::new();
    for &words in earlier {
        for kind in words.kinds() {
            alike.entry(kind).or_default().push(words);
        }
    }
    let is_reworded = |words: &Words| {
        let mut alike = words.kinds().filter_map(|kind| alike.get(&kind)).flatten();
        alike.any(|other| other.resembles(words, &usual))
    };
    (0..later.len()).filter(|i| is_reworded(later[*i])).collect()
}

/// Words that more than half of the questions have.
fn usual<'w>(questions: &[&'w Words]) -> impl Iterator<Item = &'w str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in questions.iter().flat_map(|q| &q.words) {
        *counts.entry(word).or_default() += 1;
    }
    let n = questions.len();
    let is_usual = move |count: usize| n >= MANY && 2 * count > n;
    counts
        .into_iter()
        .filter_map(move |(word, count)| is_usual(count).then_some(word))
}

/// Words in small letters and numbers; of scripts that do not part words, the characters.
fn split(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut last = Kind::Between;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut kind = Kind::of(c);
        // A separator between two digits belongs to the number.
        let goes_on = chars.peek().is_some_and(|next| next.is_numeric());
        if last == Kind::Number && matches!(c, '.' | ',') && goes_on {
            kind = Kind::Number;
        }
        match words.last_mut() {
            Some(word) if kind == last && matches!(kind, Kind::Letter | Kind::Number) => word.extend(c.to_lowercase()),
            _ if kind != Kind::Between => words.push(c.to_lowercase().collect()),
            _ => {}
        }
        last = kind;
    }
    words
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    /// A word of its own.
    Sign,
    Between,
}

impl Kind {
    fn of(c: char) -> Self {
        match c {
            // Kana and Chinese characters; Thai, Lao, Burmese, Khmer.
            '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{9fff}'
            | '\u{e00}'..='\u{eff}'
            | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}' => Kind::Sign,
            c if c.is_numeric() => Kind::Number,
            c if c.is_alphabetic() => Kind::Letter,
            _ => Kind::Between,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, gold: &str) -> Words {
        Words::of(text, Identity::of(&[text.to_string()], gold))
    }

    const ASKED: &str = "Timothy has three times the number of pens that George owns. Sarah has half as many pens as Timothy. If George has 1,800 \
                         pens, how many pens does Sarah have?";

    fn is_reworded(text: &str, gold: &str) -> bool {
        !reworded(&[&words(ASKED, "2700")], &[&words(text, gold)]).is_empty()
    }

    #[test]
    fn other_punctuation_a_name_and_a_verb_make_no_other_question() {
        for text in [
            "timothy has three times the number of pens that george owns; sarah has half as many pens as timothy. If George has 1,800 pens \
             how many pens does Sarah have",
            "Timothy has three times the number of pens that Ann owns. Sarah got half as many pens as Timothy. If Ann has 1,800 pens, how \
             many pens does Sarah have?",
        ] {
            assert!(is_reworded(text, "2700"), "{text}");
            assert!(!is_reworded(text, "2701"), "another answer");
            assert!(!is_reworded(&text.replace("1,800", "1,900"), "2700"), "another number");
        }
        let paraphrase = "Bobbie has three times as many crayons as Billie, Lizzie half of Bobbie's. How many has Lizzie if Billie has 1,800?";
        assert!(!is_reworded(paraphrase, "2700"));
    }

    /// `Item 17. Q: …` with a row's number made another question of each.
    #[test]
    fn a_rows_number_in_the_text_makes_no_other_question() {
        assert!(is_reworded(
            &format!("Row 12 of the list {ASKED}").replace("Row 12 of the list ", "12 "),
            "2700"
        ));
        assert!(
            !is_reworded(&ASKED.replace("1,800", "1,900"), "2700"),
            "its only other number"
        );
        let two = "Mia has 3 red apples, buys 4 green ones and 5 pears. How many pieces of fruit has she?";
        let asked = words(two, "12");
        for (text, is_same) in [
            (two.replace("Mia", "7 Mia"), true),
            (two.replace("red apples", "old nuts"), true), // other words, the same numbers
            (two.replace("3 red apples", "6 old nuts"), false),
        ] {
            let again = words(&text, "12");
            assert_eq!(!reworded(&[&asked], &[&again]).is_empty(), is_same, "{text}");
        }
    }

    /// Of a template with few words, problems with the same numbers by chance would resemble each other by its own words.
    #[test]
    fn the_words_of_a_template_do_not_count() {
        let fruit = [
            "apples", "pears", "plums", "figs", "dates", "limes", "kiwis", "nuts", "beans", "peas", "leeks", "kale",
        ];
        let question = |fruit: &&str| {
            words(
                &format!("In the morning Mia buys 3 {fruit} and 4 more. How many does Mia have?"),
                "7",
            )
        };
        let some: Vec<Words> = fruit.iter().take(11).map(question).collect();
        let some: Vec<&Words> = some.iter().collect();
        let other = words(
            "In the morning Mia buys 3 kale and 4 more. How many does Mia have?",
            "7",
        );
        assert!(reworded(&some, &[&other]).is_empty());
        let same = words("In the morning, Mia buys 3 figs, 4 more. How many does Mia have?", "7");
        assert_eq!(reworded(&some, &[&same]), [0]);
    }

    #[test]
    fn scripts_that_do_not_part_words_are_read_by_character() {
        assert_eq!(split("りんごが3.5個、Éa"), ["り", "ん", "ご", "が", "3.5", "個", "éa"]);
        assert_eq!(split("a1b 2,000. x"), ["a", "1", "b", "2,000", "x"]);
        let first = words("リンゴが3個あります。2個食べました。いくつ残っていますか？", "1");
        let second = words("りんごが3個あります。2個食べました。いくつ残っていますか。", "1");
        assert_eq!(reworded(&[&first], &[&second]), [0]);
    }
}
