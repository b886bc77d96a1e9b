//! From what a model wrote to a verdict: filters cut the answer out, normalisation evens it, equality decides.
//!
//! In the `parity` profile each step does what lm-eval's does, to the character, defects included; the `number` filter
//! and normalisation are this project's repaired way (`fitness`). Nothing here knows tasks or files.

use std::{fmt, ops::Range};

use super::{
    maths,
    number::{self, Announced, Announcement, Style, is_unspaced},
    python_regex::{Error, PythonRegex},
    sampling::commonest,
};

/// Of the way in which numbers are found, read and compared. Part of the digests of what depends on it: verdicts of
/// different versions are not mixed, and an answer that was cut off by another version's rule is asked for again.
pub const NUMBERS_VERSION: u32 = 5;

/// What lm-eval returns when nothing matches.
pub const INVALID: &str = "[invalid]";

/// One named way to cut an answer out of an output.
#[derive(Clone, Debug)]
pub struct Filter {
    pub name: String,
    pub steps: Vec<Step>,
    /// Of how many samples the commonest answer counts; none: the first sample's.
    pub vote: Option<usize>,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// `findall`, then the match at `pick` (0 = first, -1 = last), of its groups the first that is not empty.
    Regex {
        pattern: PythonRegex,
        pick: isize,
        fallback: String,
    },
    /// `str.strip`.
    RemoveWhitespace,
    Lowercase,
    Uppercase,
    /// lm-eval's `MapFilter`: another text for some texts; for the others the default, or what they are.
    Map {
        pairs: Vec<(String, String)>,
        default: Option<String>,
    },
    /// The repaired extraction of a number.
    Number(NumberAnswer),
    /// The final answer of a worked solution in LaTeX: as Minerva's examples end, or what is boxed last.
    Maths {
        boxed: bool,
    },
}

impl Filter {
    /// # Errors
    /// A pattern that takes too long on this text.
    pub fn apply(&self, output: &str) -> Result<String, Error> {
        self.steps
            .iter()
            .try_fold(output.to_string(), |text, step| step.apply(text))
    }

    /// The answer of several samples: the first one's, or the commonest of the first so many (lm-eval's `majority_vote`).
    ///
    /// # Errors
    /// As [`Filter::apply`].
    pub fn of_samples(&self, outputs: &[&str]) -> Result<String, Error> {
        let voters = &outputs[..self.vote.unwrap_or(1).min(outputs.len())];
        let answers: Vec<String> = voters
            .iter()
            .map(|output| self.apply(output))
            .collect::<Result<_, _>>()?;
        let commonest = commonest(answers.len(), |a, b| Ok::<_, Error>(answers[a] == answers[b]))?;
        Ok(commonest.map_or(String::new(), |i| answers[i].clone()))
    }
}

impl Step {
    fn apply(&self, text: String) -> Result<String, Error> {
        Ok(match self {
            Step::Regex {
                pattern,
                pick,
                fallback,
            } => pick_match(pattern, *pick, &text)?.unwrap_or_else(|| fallback.clone()),
            Step::RemoveWhitespace => python_strip(&text).to_string(),
            Step::Lowercase => text.to_lowercase(),
            Step::Uppercase => text.to_uppercase(),
            Step::Map { pairs, default } => match pairs.iter().find(|(from, _)| *from == text) {
                Some((_, to)) => to.clone(),
                None => default.clone().unwrap_or(text),
            },
            Step::Number(answer) => answer.of(&text).unwrap_or(INVALID).to_string(),
            Step::Maths { boxed } => match maths::last_boxed(&text).filter(|_| *boxed) {
                Some(last) => maths::normalized(last),
                None => maths::normalized(&maths::final_answer(&text)),
            },
        })
    }
}

/// lm-eval's `RegexFilter`: an empty group is no answer when there are several, but stands when it is the only one.
fn pick_match(pattern: &PythonRegex, pick: isize, text: &str) -> Result<Option<String>, Error> {
    let found = pattern.find_all(text)?;
    let index = if pick < 0 {
        found.len().checked_sub(pick.unsigned_abs())
    } else {
        Some(pick.unsigned_abs())
    };
    let Some(groups) = index.and_then(|i| found.get(i)) else {
        return Ok(None);
    };
    let chosen = match groups.as_slice() {
        [only] => Some(only),
        several => several.iter().find(|group| !group.is_empty()),
    };
    Ok(chosen.map(|group| python_strip(group).to_string()))
}

/// The place that a text says, counted from 0: a number, or a letter from A on.
pub fn position(text: &str) -> Option<usize> {
    match text.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => text.trim().parse().ok(),
    }
}

/// `str.strip()`: Unicode white space, and the separators U+001C to U+001F that Python counts as such.
pub fn python_strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// What is done to the extracted answer and to the reference alike before they are compared.
#[derive(Clone, Debug, Default)]
pub struct Normalization {
    /// Removed one after the other.
    pub regexes_to_ignore: Vec<PythonRegex>,
    pub ignore_case: bool,
    pub ignore_punctuation: bool,
    pub ignore_numbers: bool,
    /// Compare as numbers where both sides are numbers, the answer as its language writes them: `$29.00` is `29`, `1,200`
    /// is `1200`, `-5` is not `5`.
    pub number: Option<Style>,
    /// Compare as mathematical expressions, the gold answer evened first.
    pub maths: bool,
}

impl Normalization {
    /// # Errors
    /// A pattern that takes too long on this text.
    pub fn apply(&self, text: &str) -> Result<String, Error> {
        // lm-eval's texts pass through numpy arrays, which drop trailing NULs and lower-case in place, so that a text
        // never grows.
        let mut text = text.to_string();
        for regex in &self.regexes_to_ignore {
            text = regex.remove_all(&text)?;
            text.truncate(text.trim_end_matches('\0').len());
        }
        text.truncate(text.trim_end_matches('\0').len());
        if self.ignore_case {
            let length = text.chars().count();
            text = text.to_lowercase().chars().take(length).collect();
            text.truncate(text.trim_end_matches('\0').len());
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        text.truncate(text.trim_end_matches('\0').len());
        Ok(text)
    }

    /// The exact match of lm-eval, or, with `number`, equality as numbers.
    ///
    /// # Errors
    /// As [`Normalization::apply`].
    pub fn equal(&self, extracted: &str, gold: &str) -> Result<bool, Error> {
        if self.maths {
            return Ok(maths::equal(extracted, &maths::normalized(gold)));
        }
        if let Some(style) = self.number {
            let gold = gold.rsplit("####").next().unwrap_or(gold);
            // References are written as data are, unless they can only be read as the language writes.
            let data = number::readings(gold, Style::DATA);
            let gold = if data.is_empty() {
                number::readings(gold, style)
            } else {
                data
            };
            let answer = number::readings(extracted, style);
            if !gold.is_empty() && !answer.is_empty() {
                return Ok(answer.iter().any(|reading| gold.contains(reading)));
            }
        }
        Ok(self.apply(extracted)? == self.apply(gold)?)
    }
}

/// How the answer of an output is found whose answer is a number.
///
/// The first marker with a number right after it decides: it answers the question that was asked, whatever a text that
/// runs on asks and answers next. Between them may stand punctuation, markup, currency and words such as `about`. A
/// calculation counts by its result; without one (`2-3`, `5 + 3`) it is found whole, and is no number. If no marker has a
/// number right after it, the first number of the sentence (or else paragraph) that follows the last one counts. LaTeX's
/// `\boxed{` is always a marker. An output without markers gives its last number, or nothing.
///
/// A text that opens with `<think>` is read from `</think>` on; a thought that does not end is no answer.
#[derive(Clone, Debug)]
pub struct NumberAnswer {
    pub markers: Markers,
    pub otherwise_last: bool,
    pub style: Style,
}

impl NumberAnswer {
    /// The number as it was written.
    pub fn of<'t>(&self, output: &'t str) -> Option<&'t str> {
        let spoken = spoken(output)?;
        let mut last = None;
        for marker in self.markers.in_text(spoken) {
            let after = &spoken[marker.end..];
            match number::announced(after, self.style, marker.announces) {
                Announced::Number(found) => return Some(&after[found.range]),
                Announced::Words => last = Some(after),
                Announced::Ordinal => {}
            }
        }
        match last {
            Some(after) => {
                let paragraph = after.trim_start().split("\n\n").next().unwrap_or("");
                number::first(paragraph, self.style).map(|range| &paragraph[range])
            }
            None if self.otherwise_last => number::last(spoken, self.style).map(|range| &spoken[range]),
            None => None,
        }
    }

    /// Where the answer ends that nothing after it can change, if there is one: [`NumberAnswer::of`] then gives the same
    /// for the text up to any later place.
    pub fn settled(&self, output: &str) -> Option<Range<usize>> {
        let (range, is_settled) = self.announced(output)?;
        is_settled.then_some(range)
    }

    /// Where the first number stands that a marker announces, and whether nothing after it can change it.
    pub fn announced(&self, output: &str) -> Option<(Range<usize>, bool)> {
        let spoken = spoken(output)?;
        for marker in self.markers.in_text(spoken) {
            let after = &spoken[marker.end..];
            if let Announced::Number(found) = number::announced(after, self.style, marker.announces) {
                let start = output.len() - after.len();
                return Some((start + found.range.start..start + found.range.end, found.is_settled));
            }
        }
        None
    }
}

/// What is said after the thought that a text may open with; none if the thought does not end.
fn spoken(output: &str) -> Option<&str> {
    match output.trim_start().strip_prefix("<think>") {
        Some(thought) => thought.split_once("</think>").map(|(_, spoken)| spoken),
        None => Some(output),
    }
}

/// Words that announce an answer, in upper or lower case.
#[derive(Clone)]
pub struct Markers {
    words: Vec<String>,
    pattern: regex::Regex,
}

/// A marker in a text.
struct Marker {
    end: usize,
    announces: Announcement,
}

impl Markers {
    pub fn new(words: &[String]) -> Self {
        let mut alternatives: Vec<String> = words
            .iter()
            .filter(|w| !w.is_empty())
            .map(|w| regex::escape(w))
            .collect();
        // The longest of those that begin at one place.
        alternatives.sort_by_key(|word| std::cmp::Reverse(word.len()));
        alternatives.push(r"\\(?:boxed|fbox)\s*\{".into());
        let pattern = format!("(?i:{})", alternatives.join("|"));
        Markers {
            words: words.to_vec(),
            pattern: regex::Regex::new(&pattern).expect("escaped words are a pattern"),
        }
    }

    fn in_text<'t>(&'t self, text: &'t str) -> impl Iterator<Item = Marker> + 't {
        self.pattern.find_iter(text).map(|found| Marker {
            end: found.end(),
            announces: Announcement {
                is_heading: found.as_str().bytes().all(|b| b == b'#'),
                is_noun: is_one_word(found.as_str()),
            },
        })
    }
}

/// In scripts that put spaces between words: elsewhere a marker is a sentence's beginning.
fn is_one_word(marker: &str) -> bool {
    let is_inner = |c: char| (c.is_alphabetic() && !is_unspaced(c)) || number::is_mark(c);
    !marker.is_empty() && marker.chars().all(is_inner)
}

impl fmt::Debug for Markers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str, pick: isize) -> Filter {
        Filter {
            name: "f".into(),
            vote: None,
            steps: vec![Step::Regex {
                pattern: PythonRegex::new(pattern).unwrap(),
                pick,
                fallback: INVALID.into(),
            }],
        }
    }

    fn gsm8k() -> Normalization {
        Normalization {
            regexes_to_ignore: [",", r"\$", "(?s).*#### ", r"\.$"]
                .map(|r| PythonRegex::new(r).unwrap())
                .into(),
            ignore_case: true,
            ..Normalization::default()
        }
    }

    /// The harness's defects, one a line.
    #[test]
    fn parity_keeps_the_defects() {
        let strict_cot = regex(r"The answer is (\-?[0-9\.\,]+).", 0);
        assert_eq!(strict_cot.apply("The answer is 18").unwrap(), "1");
        assert_eq!(strict_cot.apply("The answer is 8").unwrap(), INVALID);
        let flexible = regex(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1);
        assert_eq!(flexible.apply("18 eggs ...").unwrap(), "...");
        assert_eq!(flexible.apply("it costs $29.00").unwrap(), "$29.00");
        assert_eq!(flexible.apply("１２").unwrap(), INVALID);
        assert!(!gsm8k().equal("$29.00", "x #### 29").unwrap());
        assert!(gsm8k().equal("$1,200.", "x\n#### 1,200").unwrap());
        let mgsm = Normalization {
            ignore_case: true,
            ignore_punctuation: true,
            ..Normalization::default()
        };
        assert!(mgsm.equal("-5", "5").unwrap());
        assert!(mgsm.equal("18.0", "180").unwrap());
    }

    #[test]
    fn a_single_group_may_be_empty_and_several_may_not() {
        assert_eq!(regex("a(b?)", 0).apply("a").unwrap(), "");
        assert_eq!(regex("a(b?)(c?)", 0).apply("a").unwrap(), INVALID);
        assert_eq!(regex("(a)", 1).apply("a").unwrap(), INVALID);
        assert_eq!(regex("a", 0).apply("").unwrap(), INVALID);
    }

    #[test]
    fn strip_is_pythons() {
        assert_eq!(python_strip("\u{1c} \u{a0}\u{3000}x\u{85}\n"), "x");
        assert_eq!(python_strip("\u{200b}x"), "\u{200b}x");
    }

    /// numpy drops trailing NULs, and lower-cases in place.
    #[test]
    fn numpys_habits() {
        let n = gsm8k();
        assert_eq!(n.apply("5\0\0").unwrap(), "5");
        assert_eq!(n.apply("5\0a").unwrap(), "5\0a");
        assert_eq!(n.apply("\u{130}X").unwrap(), "i\u{307}");
    }

    fn style(lang: &str) -> Normalization {
        Normalization {
            number: Some(Style::of(lang)),
            ..Normalization::default()
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        for (a, b) in [
            ("$29.00", "29"),
            ("18.0", "18"),
            ("1,200", "1200"),
            ("18.", "18"),
            ("−5", "-5"),
            ("007", "7"),
            (".5", "0.50"),
            ("１８", "18"),
            ("১৮", "18"),
            ("-0", "0"),
            ("1200", "so it is\n#### 1,200"),
            ("28%", "28"),
        ] {
            assert!(style("en").equal(a, b).unwrap(), "{a} {b}");
        }
        assert!(style("fr").equal("1 200", "1200").unwrap());
        assert!(style("de").equal("3,5", "3,5").unwrap());
        for (a, b) in [("-5", "5"), ("", "0"), ("5-3", "5"), ("1.2.3", "1"), (INVALID, "5")] {
            assert!(!style("en").equal(a, b).unwrap(), "{a} {b}");
        }
        // What is no number is compared as text.
        assert!(style("en").equal("5-3", "5-3").unwrap());
    }

    fn answer(words: &[&str], otherwise_last: bool) -> NumberAnswer {
        NumberAnswer {
            markers: Markers::new(&words.iter().map(ToString::to_string).collect::<Vec<_>>()),
            otherwise_last,
            style: Style::of("en"),
        }
    }

    #[test]
    fn when_an_answer_stands() {
        let answer = answer(&["####", "The answer is"], true);
        for (text, stands) in [
            ("5 + 5 = 10", false),
            ("#### ", false),
            ("#### 1", false),
            ("#### 1,", false),
            ("#### 1.", false),
            ("#### 1.\n", true),
            ("#### 1,2", false),
            ("#### $1,200\n", true),
            // A scale, a fraction or a calculation may follow.
            ("#### $1,200 ", false),
            ("#### $1,200 dollars i", false),
            ("#### $1,200 dollars in all", true),
            ("The answer is 9 * 2 ", false),
            ("The answer is 9 * 2 = 18.", false),
            ("The answer is 9 * 2 = 18.\n", true),
            ("#### 5\n\nQ: #### 6", true),
            ("<think>#### 5\n\n", false),
            ("<think>#### 5\n\n</think>#### 6\n", true),
        ] {
            assert_eq!(answer.settled(text).is_some(), stands, "{text}");
        }
        assert_eq!(answer.settled("x #### -5\n"), Some(7..9));
    }

    /// Pieces of outputs, to be put together at random.
    const PIECES: [&str; 62] = [
        "The answer is",
        "####",
        "答えは",
        "So",
        " she",
        " eggs",
        "18",
        "1",
        "234",
        "1,234",
        "1.5",
        ",",
        ".",
        " ",
        "\n",
        "\n\n",
        "-",
        "−",
        "–",
        "$",
        "\\$",
        "{,}",
        "{",
        "}",
        "\\boxed{",
        "\\frac{3}{4}",
        "\\text{",
        "\\(",
        "*",
        "**",
        "=",
        "+",
        "/",
        "×",
        "x",
        "%",
        "e3",
        "^",
        "²",
        "万",
        " million",
        "k",
        ":",
        "<think>",
        "</think>",
        "１８",
        " to ",
        " or ",
        " and ",
        " und ",
        "- ",
        "(",
        ")",
        "\\sqrt",
        " \\over ",
        "分の",
        "、",
        "M",
        "h",
        "May ",
        " 5",
        "th",
    ];

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(4000))]

        /// Generation ends where the answer stands; the verdict must be that on the text as it would have gone on.
        #[test]
        fn a_settled_answer_is_the_answer_however_the_text_goes_on(
            pieces in proptest::collection::vec(0..PIECES.len(), 0..24),
            language in 0..3usize,
        ) {
            let answer = NumberAnswer {
                markers: Markers::new(&["The answer is", "####", "答えは"].map(String::from)),
                otherwise_last: true,
                style: Style::of(["en", "de", "ja"][language]),
            };
            let text: String = pieces.iter().map(|i| PIECES[*i]).collect();
            let whole = answer.of(&text);
            for (end, _) in text.char_indices() {
                if let Some(range) = answer.settled(&text[..end]) {
                    proptest::prop_assert_eq!(answer.of(&text[..end]), whole, "{:?} of {:?}", &text[..end], &text);
                    proptest::prop_assert_eq!(Some(&text[range]), whole);
                }
            }
        }
    }

    /// A text ran on after its answer into a question of its own, and that one's answer was taken (sglang #29933: 65 % of
    /// the answers called wrong were right).
    #[test]
    fn the_first_marker_answers_the_question_that_was_asked() {
        let answer = answer(&["####", "The answer is"], true);
        let get = |text| answer.of(text);
        assert_eq!(get("#### 22\n\nQuestion: Tom has 3 cats.\n#### 5"), Some("22"));
        assert_eq!(get("#### 1\n#### 2 and 3"), Some("1"));
        assert_eq!(get("So the answer is 18. The answer is 5."), Some("18"));
        // Headings are no answers, and words after a marker are passed over where another one has a number.
        assert_eq!(get("#### 1. Eggs\n16 - 7 = 9\n#### 2. Money\n9 * 2 = 18"), Some("18"));
        assert_eq!(get("The answer is the sum of 5 and 3. The answer is 8."), Some("8"));
        assert_eq!(get("\\boxed{18} dollars, so 36 in two days"), Some("18"));
    }

    #[test]
    fn an_output_full_of_markers_is_read_in_one_go() {
        let answer = answer(&["####", "The answer is"], true);
        for piece in ["####", "The answer is ", "\\boxed{", "#### a 1. ", "The answer is 1 + "] {
            let text = piece.repeat(20_000);
            assert_eq!(
                answer.of(&text).is_some(),
                answer.of(&piece.repeat(3)).is_some(),
                "{piece}"
            );
            answer.settled(&text);
        }
    }

    #[test]
    fn the_repaired_extraction() {
        let marked = answer(&["####", "The answer is"], true);
        let get = |text| marked.of(text);
        assert_eq!(get("The answer is 18"), Some("18"));
        assert_eq!(get("the answer is: **18**"), Some("18"));
        assert_eq!(get("The answer is $1,200.50."), Some("$1,200.50"));
        assert_eq!(get("#### -5\n\nQuestion: 7"), Some("-5"));
        assert_eq!(get("10 - 5 = 5..."), Some("5"));
        assert_eq!(get("x = -5, y"), Some("-5"));
        assert_eq!(get("-$5"), Some("-$5"));
        assert_eq!(get("$-5"), Some("$-5"));
        assert_eq!(get("1, 2, 3"), Some("3"));
        assert_eq!(get("The answer is unknown. 5"), Some("5"));
        assert_eq!(get("The answer is:\n5"), Some("5"));
        assert_eq!(get("The answer is that she makes $18 of 9 eggs."), Some("$18"));
        assert_eq!(get("The answer is hard.\n\nQuestion: 5"), None);
        assert_eq!(get("no number"), None);
        assert_eq!(get(""), None);
        assert_eq!(answer(&[], false).of("5"), None);
        // What calculates has its result as its value, or none.
        assert_eq!(get("from 10-5"), None);
        assert_eq!(get("#### 2-3"), Some("2-3"));
        assert_eq!(get("The answer is 9 * 2 = 18."), Some("18"));
        assert_eq!(get("<think>maybe 7</think>The answer is 12"), Some("12"));
        assert_eq!(get("<think>maybe 7. The answer is 7."), None);
    }
}
