//! From what a model wrote to a verdict: filters cut the answer out, normalisation evens it, equality decides.
//!
//! In the `parity` profile each step does what lm-eval's does, to the character, defects included; the `number` filter
//! and normalisation are this project's repaired way (`fitness`). Nothing here knows tasks or files.

use std::ops::Range;

use super::python_regex::{Error, PythonRegex};

/// What lm-eval returns when nothing matches.
pub const INVALID: &str = "[invalid]";

/// One named way to cut an answer out of an output.
#[derive(Clone, Debug)]
pub struct Filter {
    pub name: String,
    pub steps: Vec<Step>,
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
    /// The repaired extraction of a number: see [`number_answer`].
    Number {
        markers: Vec<String>,
        otherwise_last: bool,
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
            Step::Number {
                markers,
                otherwise_last,
            } => number_answer(&text, markers, *otherwise_last).map_or_else(|| INVALID.to_string(), str::to_string),
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
    /// Compare as numbers where both sides are numbers: `$29.00` is `29`, `1,200` is `1200`, `-5` is not `5`.
    pub number: bool,
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
        if self.number {
            let gold = gold.rsplit("####").next().unwrap_or(gold);
            if let (Some(a), Some(b)) = (canonical_number(extracted), canonical_number(gold)) {
                return Ok(a == b);
            }
        }
        Ok(self.apply(extracted)? == self.apply(gold)?)
    }
}

/// The answer of an output whose answer is a number.
///
/// The text after the *last* marker decides: the first number there, if it stands in the same paragraph. An output
/// without a marker gives its last number if `otherwise_last`, else nothing. The number comes back as it was written.
pub fn number_answer<'t>(output: &'t str, markers: &[String], otherwise_last: bool) -> Option<&'t str> {
    let range = match last_marker(output, markers) {
        Some(at) => number_after(output, at),
        None if otherwise_last => numbers(output).last(),
        None => None,
    };
    range.map(|range| &output[range])
}

/// The end of the marker that stands last.
fn last_marker(output: &str, markers: &[String]) -> Option<usize> {
    let markers = markers.iter().filter(|m| !m.is_empty());
    markers
        .filter_map(|m| output.rfind(m.as_str()).map(|at| at + m.len()))
        .max()
}

/// The first number in the paragraph that follows.
fn number_after(output: &str, at: usize) -> Option<Range<usize>> {
    let start = output.len() - output[at..].trim_start().len();
    let paragraph = output[start..].split("\n\n").next().unwrap_or("");
    let number = numbers(paragraph).next()?;
    Some(start + number.start..start + number.end)
}

/// Whether a marker stands in the text with a whole number after it, so that nothing that follows can change the answer
/// that [`number_answer`] would give at this point.
pub fn answer_stands(text: &str, markers: &[String]) -> bool {
    let Some(number) = last_marker(text, markers).and_then(|at| number_after(text, at)) else {
        return false;
    };
    // A digit, or a point or comma with a digit after it, would still belong to the number.
    let rest = text[number.end..].trim_start_matches(['.', ',']);
    rest.starts_with(|c: char| !c.is_ascii_digit())
}

/// The numbers of a text, as written: a sign, an optional `$` or `€` or `£`, digits with thousands commas, decimals.
///
/// A minus is a sign only where a number can start: `5-3` has the numbers 5 and 3. A comma belongs to a number only
/// in front of exactly three digits; a point only in front of a digit.
fn numbers(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            let Some(end) = number_end(bytes, start) else {
                at += 1;
                continue;
            };
            at = end;
            return Some(sign_start(text, start)..end);
        }
        None
    })
}

/// The end of the digits that start here, if digits (or a point with digits after it) do start here.
fn number_end(bytes: &[u8], start: usize) -> Option<usize> {
    let digits = |mut i: usize| {
        while bytes.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        i
    };
    let mut end = digits(start);
    let whole = end - start;
    if whole > 0 && whole <= 3 {
        while bytes.get(end) == Some(&b',') && digits(end + 1) == end + 4 {
            end += 4;
        }
    }
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
        end = digits(end + 1);
    }
    (end > start).then_some(end)
}

/// Moves a number's start to the left over its currency sign and minus.
fn sign_start(text: &str, digits: usize) -> usize {
    let before = &text[..digits];
    let currency = before.trim_end_matches(['$', '€', '£']);
    let Some(unsigned) = currency.strip_suffix('-').or_else(|| currency.strip_suffix('−')) else {
        // `$-5`: the sign may also stand inside.
        return currency.len();
    };
    let outer = unsigned.trim_end_matches(['$', '€', '£']);
    let is_operator = outer
        .chars()
        .next_back()
        .is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | '.' | ',' | '%'));
    if is_operator { currency.len() } else { outer.len() }
}

/// A number in one spelling: no sign of currency, no thousands commas, no trailing zeros or points, no plus, no `-0`.
///
/// Decimal digits of every script count (`１８`, `১৮`), for a model may answer in its language's digits.
pub fn canonical_number(text: &str) -> Option<String> {
    let text = python_strip(text);
    let text = text.trim_end_matches(['.', ',', '。', '।', '%', '円', '元']);
    let mut negative = false;
    let mut digits = String::new();
    let mut point = false;
    for c in text.chars() {
        match c {
            '-' | '−' if digits.is_empty() && !negative => negative = true,
            '+' if digits.is_empty() && !negative => {}
            '$' | '€' | '£' if digits.is_empty() => {}
            ',' | '_' | '\u{a0}' | '\u{202f}' | ' ' if !digits.is_empty() && !point => {}
            '.' if !point => {
                point = true;
                digits.push('.');
            }
            c => digits.push(decimal_digit(c)?),
        }
    }
    if !digits.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let (whole, decimals) = digits.split_once('.').unwrap_or((&digits, ""));
    let whole = whole.trim_start_matches('0');
    let decimals = decimals.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole != "0" || !decimals.is_empty()) {
        "-"
    } else {
        ""
    };
    let dot = if decimals.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{dot}{decimals}"))
}

/// ASCII, full-width, Bengali, Telugu, Thai, Devanagari and Arabic-Indic digits.
fn decimal_digit(c: char) -> Option<char> {
    const ZEROS: [char; 7] = ['0', '０', '০', '౦', '๐', '०', '٠'];
    ZEROS.iter().find_map(|&zero| {
        let digit = (c as u32).checked_sub(zero as u32)?;
        char::from_digit(digit, 10)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str, pick: isize) -> Filter {
        Filter {
            name: "f".into(),
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

    #[test]
    fn numbers_are_compared_as_numbers() {
        for (a, b) in [
            ("$29.00", "29"),
            ("18.0", "18"),
            ("1,200", "1200"),
            ("18.", "18"),
            ("-5", "−5"),
            ("007", "7"),
            (".5", "0.50"),
            ("１８", "18"),
            ("১৮", "18"),
            ("-0", "0"),
            ("1 200", "1200"),
        ] {
            assert_eq!(canonical_number(a), canonical_number(b), "{a} {b}");
            assert!(canonical_number(a).is_some());
        }
        assert_ne!(canonical_number("-5"), canonical_number("5"));
        for text in ["", "...", ",", "-", "abc", "1.2.3", "5-3"] {
            assert_eq!(canonical_number(text), None, "{text}");
        }
        let n = Normalization {
            number: true,
            ..Normalization::default()
        };
        assert!(n.equal("1200", "so it is\n#### 1,200").unwrap());
        assert!(!n.equal(INVALID, "5").unwrap());
    }

    #[test]
    fn when_an_answer_stands() {
        let markers = ["####".to_string()];
        for (text, stands) in [
            ("5 + 5 = 10", false),
            ("#### ", false),
            ("#### 1", false),
            ("#### 1,", false),
            ("#### 1.", false),
            ("#### 1.\n", true),
            ("#### 1,2", false),
            ("#### $1,200 ", true),
            ("#### 5\n\nQ: #### 6", false),
        ] {
            assert_eq!(answer_stands(text, &markers), stands, "{text}");
        }
    }

    #[test]
    fn the_repaired_extraction() {
        let markers = ["####".to_string(), "The answer is".to_string()];
        let get = |text| number_answer(text, &markers, true);
        assert_eq!(get("The answer is 18"), Some("18"));
        assert_eq!(get("The answer is $1,200.50."), Some("$1,200.50"));
        assert_eq!(get("#### -5\n\nQuestion: 7"), Some("-5"));
        assert_eq!(get("#### 1\n#### 2 and 3"), Some("2"));
        assert_eq!(get("10 - 5 = 5..."), Some("5"));
        assert_eq!(get("from 10-5"), Some("5"));
        assert_eq!(get("x = -5, y"), Some("-5"));
        assert_eq!(get("-$5"), Some("-$5"));
        assert_eq!(get("$-5"), Some("$-5"));
        assert_eq!(get("1, 2, 3"), Some("3"));
        assert_eq!(get("12,34"), Some("34"));
        assert_eq!(get("The answer is unknown. 5"), Some("5"));
        assert_eq!(get("The answer is:\n5"), Some("5"));
        assert_eq!(get("The answer is hard.\n\nQuestion: 5"), None);
        assert_eq!(get("no number"), None);
        assert_eq!(get(""), None);
        assert_eq!(number_answer("5", &markers, false), None);
    }
}
