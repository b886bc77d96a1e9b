//! Answers in LaTeX: where one stands in a solution, how it is evened, and when two are the same.
//!
//! Where and how follows Minerva (Lewkowycz et al. 2022, arXiv 2206.14858, appendix D) as lm-evaluation-harness's
//! `minerva_math` has it. Two evened answers are the same if their texts are, or if both are expressions of the same value
//! at every point tried; the harness asks a computer algebra system (SymPy) there.

mod expression;

use std::sync::LazyLock;

use super::{extract::python_strip, python_regex::PythonRegex};

/// What lm-evaluation-harness takes for the answer of a solution that has none.
const INVALID: &str = "[invalidanswer]";

/// The content of the last `\boxed{…}` or `\fbox{…}`, or of what follows `\boxed ` up to a dollar sign.
pub fn last_boxed(text: &str) -> Option<&str> {
    if let Some((_, last)) = text.rsplit_once("\\boxed ") {
        return last.split('$').next();
    }
    let at = text.rfind("\\boxed").or_else(|| text.rfind("\\fbox"))?;
    let (mut open, mut start) = (0, None);
    for (i, c) in text[at..].char_indices() {
        match c {
            '{' => {
                start.get_or_insert(at + i + 1);
                open += 1;
            }
            '}' => {
                open -= 1;
                if open == 0 {
                    return start.map(|start| &text[start..at + i]);
                }
            }
            _ => {}
        }
    }
    None
}

/// What follows "Final Answer: The final answer is", as Minerva's examples end; the closing words count as written where the
/// text ends.
pub fn final_answer(text: &str) -> String {
    let text = format!("{text}I hope it is correct.");
    let found = READY.final_answer.first(&text).ok().flatten();
    let answer = found.as_ref().and_then(|groups| groups.get(1));
    answer.map_or(INVALID, |answer| python_strip(answer)).to_string()
}

const SUBSTITUTIONS: [(&str, &str); 10] = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
];

const REMOVED: [&str; 41] = [
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "\\ldots",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
    "\"",
];

/// Removed last of all.
const DOTS: &str = "\\dots";

/// Patterns and what takes their place, in order, after units are gone.
const PATTERNS: [(&str, &str); 8] = [
    (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
    (r"(\\text\{)(.*?)(\})", r"\2"),
    (r"(\\textbf\{)(.*?)(\})", r"\2"),
    (r"(\\overline\{)(.*?)(\})", r"\2"),
    (r"(\\boxed\{)(.*)(\})", r"\2"),
    (r"(frac)([^{])(.)", r"frac{\2}{\3}"),
    (r"(sqrt)(\[[^\]]*\])(\w)", r"\1\2{\3}"),
    (r"(sqrt)(?!\[)([^{])", r"sqrt{\2}"),
];

struct Patterns {
    final_answer: PythonRegex,
    units: Vec<(PythonRegex, &'static str)>,
    commands: regex::Regex,
    rest: Vec<(PythonRegex, &'static str)>,
    thousands: regex::Regex,
}

static READY: LazyLock<Patterns> = LazyLock::new(|| {
    let python = |pattern: &str| PythonRegex::new(pattern).expect("a pattern that a test compiles");
    let words = REMOVED.into_iter().filter(|word| is_word(word));
    Patterns {
        final_answer: python(r"Final Answer: The final answer is(.*?). I hope it is correct."),
        units: words.map(|word| (python(&format!(r"(?<!\\)\b{word}\b")), "")).collect(),
        commands: regex::Regex::new(r"\\[a-zA-Z]+").expect("a pattern that a test compiles"),
        rest: PATTERNS
            .into_iter()
            .map(|(pattern, by)| (python(pattern), by))
            .collect(),
        thousands: regex::Regex::new(r"^-?\d{1,3}(,\d{3})+$").expect("a pattern that a test compiles"),
    }
});

fn is_word(text: &str) -> bool {
    text.chars().all(char::is_alphabetic)
}

/// An answer without units, dollar signs and the other things that mean nothing: Minerva's `normalize_final_answer`.
pub fn normalized(answer: &str) -> String {
    let ready = &*READY;
    // A pattern that takes too long leaves the text as it is: the answer is then compared as it was written.
    let replaced =
        |text: String, (pattern, by): &(PythonRegex, &str)| pattern.replace(&text, by, usize::MAX).unwrap_or(text);
    let text = answer.rsplit('=').next().unwrap_or(answer).to_string();
    let mut text = ready.units.iter().fold(text, replaced);
    for (before, after) in SUBSTITUTIONS {
        text = text.replace(before, after);
    }
    for removed in REMOVED.into_iter().chain([DOTS]) {
        text = match is_word(removed) {
            true => remove_outside_commands(&text, removed, &ready.commands),
            false => text.replace(removed, ""),
        };
    }
    let text = ready.rest.iter().fold(text, replaced).replace('$', "");
    match ready.thousands.is_match(&text) {
        true => text.replace(',', ""),
        false => text,
    }
}

/// A unit that is glued to what stands beside it goes too, but `ft` is part of `\left`.
fn remove_outside_commands(text: &str, word: &str, commands: &regex::Regex) -> String {
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for command in commands.find_iter(text) {
        out.push_str(&text[from..command.start()].replace(word, ""));
        out.push_str(command.as_str());
        from = command.end();
    }
    out + &text[from..].replace(word, "")
}

/// Whether two evened answers are the same.
pub fn equal(a: &str, b: &str) -> bool {
    if !a.is_empty() && a == b {
        return true;
    }
    expression::same_value(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from `minerva_math/utils.py` of lm-eval 0.4.13.
    #[test]
    fn answers_are_found_and_evened_as_in_the_harness() {
        assert_eq!(last_boxed("so $\\boxed{\\frac{1}{2}}$ or \\boxed{3}."), Some("3"));
        assert_eq!(last_boxed("\\fbox{7} and"), Some("7"));
        assert_eq!(last_boxed("\\boxed 12$ dollars"), Some("12"));
        assert_eq!(last_boxed("\\boxed{1"), None);
        for (text, expected) in [
            ("Final Answer: The final answer is $24$. I hope it is correct.", "$24$"),
            (
                "x\nFinal Answer: The final answer is $24$. I hope it is correct.\n\nProblem:",
                "$24$",
            ),
            ("The answer is 24.", INVALID),
            ("Final Answer: The final answer is $24$", INVALID),
            ("Final Answer: The final answer is $24$. ", "$24$"),
        ] {
            assert_eq!(final_answer(text), expected, "{text}");
        }
        for (text, expected) in [
            ("x = 5", "5"),
            ("$\\frac12$", "\\frac{1}{2}"),
            ("\\sqrt3", "\\sqrt{3}"),
            ("\\sqrt[3]8", "\\sqrt[3]{8}"),
            ("1,000,000", "1000000"),
            ("0,1", "0,1"),
            ("2\\pi cm", "2\\pi"),
            ("\\left(3, \\frac{\\pi}{2}\\right)", "\\left(3,\\frac{\\pi}{2}\\right)"),
            ("10\\text{ degrees}", "10"),
            ("90^\\circ", "90"),
            ("\\text{blue}", "blue"),
            ("\\$32,\\!348", "32348"),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn equal_answers() {
        for (a, b, expected) in [
            ("\\frac{1}{2}", "0.5", true),
            ("\\frac{1}{2}", "\\dfrac{2}{4}", true),
            ("2\\sqrt{2}", "\\sqrt{8}", true),
            ("(x+1)^2", "x^2+2x+1", true),
            ("(x+1)^2", "x^2+2x+2", false),
            ("(3,4)", "(3,4)", true),
            ("(3,4)", "(4,3)", false),
            ("0.333", "\\frac{1}{3}", false),
            ("-5", "5", false),
            ("", "", false),
            ("[2,5)", "[2,5)", true),
        ] {
            assert_eq!(equal(a, b), expected, "{a} {b}");
        }
    }
}
