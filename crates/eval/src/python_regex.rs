//! Python's `re`, as far as answer extraction leans on it: `findall` and `sub(pattern, "", text)`.
//!
//! Scores are compared with a harness written in Python, so patterns have to mean here what they mean there. Patterns
//! are rewritten where the two dialects differ (`$` before a last newline, `\w`, `\s`, `\Z`, brackets inside classes)
//! and run by `fancy-regex`, whose alternation is leftmost-first like Python's.
//!
//! Not covered: conditionals `(?(1)…)`, octal escapes, and an empty match followed by a longer one at the same place.

use std::fmt;

/// A pattern with Python's meaning.
#[derive(Clone)]
pub struct PythonRegex {
    source: String,
    regex: fancy_regex::Regex,
}

impl fmt::Debug for PythonRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PythonRegex({:?})", self.source)
    }
}

/// The pattern cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the regular expression '{pattern}' cannot be used: {message}")]
pub struct Error {
    pub pattern: String,
    pub message: String,
}

impl PythonRegex {
    /// # Errors
    /// A pattern that Python would refuse, or that uses what this file does not cover.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        let error = |message: String| Error {
            pattern: pattern.into(),
            message,
        };
        let translated = translate(pattern).map_err(error)?;
        let regex = fancy_regex::RegexBuilder::new(&translated)
            .backtrack_limit(100_000_000)
            .build()
            .map_err(|e| error(e.to_string()))?;
        Ok(PythonRegex {
            source: pattern.into(),
            regex,
        })
    }

    fn failed(&self, error: fancy_regex::Error) -> Error {
        Error {
            pattern: self.source.clone(),
            message: error.to_string(),
        }
    }

    pub fn is_match(&self, text: &str) -> Result<bool, Error> {
        self.regex.is_match(text).map_err(|e| self.failed(e))
    }

    /// `re.findall`: of each match its groups, or, in a pattern without groups, the whole match as the only one; a
    /// group that took no part is empty.
    ///
    /// # Errors
    /// A match that would take too long to find.
    pub fn find_all<'t>(&self, text: &'t str) -> Result<Vec<Vec<&'t str>>, Error> {
        let mut found = Vec::new();
        self.each(text, |captures| {
            let first = usize::from(captures.len() > 1);
            found.push(
                (first..captures.len())
                    .map(|i| captures.get(i).map_or("", |m| m.as_str()))
                    .collect(),
            );
        })?;
        Ok(found)
    }

    /// `re.sub(pattern, "", text)`.
    ///
    /// # Errors
    /// As [`PythonRegex::find_all`].
    pub fn remove_all(&self, text: &str) -> Result<String, Error> {
        let (mut kept, mut from) = (String::with_capacity(text.len()), 0);
        self.each(text, |captures| {
            if let Some(m) = captures.get(0) {
                kept.push_str(&text[from..m.start()]);
                from = m.end();
            }
        })?;
        kept.push_str(&text[from..]);
        Ok(kept)
    }

    /// `re.sub(pattern, replacement, text, count)`: `\\1` and `\\g<1>` stand for groups, `\\n` for the end of a line.
    ///
    /// # Errors
    /// As [`PythonRegex::find_all`].
    pub fn replace(&self, text: &str, replacement: &str, most: usize) -> Result<String, Error> {
        let (mut kept, mut from, mut count) = (String::with_capacity(text.len()), 0, 0);
        self.each(text, |captures| {
            if let Some(m) = captures.get(0)
                && count < most
            {
                kept.push_str(&text[from..m.start()]);
                expand(replacement, captures, &mut kept);
                from = m.end();
                count += 1;
            }
        })?;
        kept.push_str(&text[from..]);
        Ok(kept)
    }

    /// `re.split(pattern, text)` of a pattern without groups.
    ///
    /// # Errors
    /// As [`PythonRegex::find_all`].
    pub fn split<'t>(&self, text: &'t str) -> Result<Vec<&'t str>, Error> {
        let (mut pieces, mut from) = (Vec::new(), 0);
        self.each(text, |captures| {
            if let Some(m) = captures.get(0) {
                pieces.push(&text[from..m.start()]);
                from = m.end();
            }
        })?;
        pieces.push(&text[from..]);
        Ok(pieces)
    }

    /// `re.search`: the groups of the first match, the whole one first.
    ///
    /// # Errors
    /// As [`PythonRegex::find_all`].
    pub fn first<'t>(&self, text: &'t str) -> Result<Option<Vec<&'t str>>, Error> {
        let captures = self.regex.captures(text).map_err(|e| self.failed(e))?;
        Ok(captures.map(|captures| {
            let group = |i| captures.get(i).map_or("", |m| m.as_str());
            (0..captures.len()).map(group).collect()
        }))
    }

    /// Matches from left to right as Python ≥ 3.7 finds them: an empty match may directly follow another match.
    fn each<'t>(&self, text: &'t str, mut seen: impl FnMut(&fancy_regex::Captures<'t>)) -> Result<(), Error> {
        let mut at = 0;
        while at <= text.len() {
            let captures = self.regex.captures_from_pos(text, at);
            let Some(captures) = captures.map_err(|e| self.failed(e))? else {
                break;
            };
            let Some(whole) = captures.get(0) else { break };
            let (start, end) = (whole.start(), whole.end());
            seen(&captures);
            let step = text[end..].chars().next().map_or(1, char::len_utf8);
            at = if start == end { end + step } else { end };
        }
        Ok(())
    }
}

/// A replacement with the groups that it names.
fn expand(replacement: &str, captures: &fancy_regex::Captures<'_>, out: &mut String) {
    let group = |i: usize| captures.get(i).map_or("", |m| m.as_str());
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let named = after.strip_prefix("g<").and_then(|name| name.split_once('>'));
        rest = match (named, after.chars().next()) {
            (Some((name, after)), _) => {
                out.push_str(name.parse().map_or("", group));
                after
            }
            (None, Some(c)) => {
                match c.to_digit(10) {
                    Some(digit) => out.push_str(group(digit as usize)),
                    None => out.push(match c {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    }),
                }
                &after[c.len_utf8()..]
            }
            (None, None) => after,
        };
    }
    out.push_str(rest);
}

/// The most repetitions that a pattern may count out, those within others multiplied: lengths are computed from them.
const MOST_REPETITIONS: u64 = 1 << 32;

/// The same pattern in the dialect of `fancy-regex`.
fn translate(pattern: &str) -> Result<String, String> {
    let multiline = has_flag(pattern, 'm');
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    let mut repetitions: u64 = 1;
    while let Some(c) = rest.next() {
        let first_in_class = std::mem::take(&mut class_start);
        match c {
            '\\' => {
                let escaped = rest.next().ok_or("it ends in a lone backslash")?;
                escape(escaped, in_class, &mut out)?;
            }
            ']' if in_class && first_in_class => out.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '^' if in_class && first_in_class => {
                class_start = true;
                out.push('^');
            }
            '[' => {
                (in_class, class_start) = (true, true);
                out.push('[');
                if rest.peek() == Some(&'^') {
                    rest.next();
                    out.push('^');
                }
            }
            '$' if !in_class && !multiline => out.push_str("(?=\\n?\\z)"),
            '{' if !in_class => match quantifier(&rest.clone().collect::<String>()) {
                Some(length) => {
                    let counted: String = rest.clone().take(length - 1).collect();
                    let most = counted
                        .split(',')
                        .filter(|n| !n.is_empty())
                        .map(|n| n.parse().unwrap_or(u64::MAX))
                        .max();
                    repetitions = repetitions.saturating_mul(most.unwrap_or(1).max(1));
                    if repetitions > MOST_REPETITIONS {
                        return Err(format!("it counts more than {MOST_REPETITIONS} repetitions"));
                    }
                    out.push('{');
                    if rest.peek() == Some(&',') {
                        out.push('0');
                    }
                    out.extend(rest.by_ref().take(length));
                }
                None => out.push_str("\\{"),
            },
            '}' if !in_class => out.push_str("\\}"),
            c => out.push(c),
        }
    }
    if in_class {
        return Err("a [ is never closed".into());
    }
    Ok(out)
}

/// Whether an inline group such as `(?sm)` sets the flag.
fn has_flag(pattern: &str, flag: char) -> bool {
    pattern.split("(?").skip(1).any(|group| {
        let flags: String = group.chars().take_while(char::is_ascii_alphabetic).collect();
        flags.contains(flag) && group[flags.len()..].starts_with([')', ':', '-'])
    })
}

/// The length of `3}`, `3,}`, `,3}` or `3,5}`; anything else after a brace is literal text in Python.
fn quantifier(after_brace: &str) -> Option<usize> {
    let end = after_brace.find('}')?;
    let (low, high) = after_brace[..end].split_once(',').unwrap_or((&after_brace[..end], ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (digits(low) && digits(high) && !(low.is_empty() && high.is_empty())).then_some(end + 1)
}

fn escape(c: char, in_class: bool, out: &mut String) -> Result<(), String> {
    match (c, in_class) {
        // str.isalnum or an underscore: unlike the Rust crates' \w, without combining marks.
        ('w', false) => out.push_str("[\\p{L}\\p{N}_]"),
        ('W', false) => out.push_str("[^\\p{L}\\p{N}_]"),
        ('w', true) => out.push_str("\\p{L}\\p{N}_"),
        ('b', false) => {
            out.push_str("(?:(?<=[\\p{L}\\p{N}_])(?![\\p{L}\\p{N}_])|(?<![\\p{L}\\p{N}_])(?=[\\p{L}\\p{N}_]))")
        }
        ('b', true) => out.push_str("\\x08"),
        // str.isspace: White_Space and the four separators that Unicode files under control characters.
        ('s', false) => out.push_str("[\\s\\x1c-\\x1f]"),
        ('S', false) => out.push_str("[^\\s\\x1c-\\x1f]"),
        ('s', true) => out.push_str("\\s\\x1c-\\x1f"),
        ('Z', false) => out.push_str("\\z"),
        ('<' | '>', _) => out.push(c),
        ('1'..='9', false) | ('A' | 'B' | 'd' | 'D' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'u' | 'U', _) => {
            out.extend(['\\', c]);
        }
        (c, _) if c.is_ascii_alphanumeric() => return Err(format!("\\{c} is not an escape of Python's re here")),
        // Python takes a backslash before any other character as that character.
        (c, _) if c.is_ascii_punctuation() => out.extend(['\\', c]),
        (c, _) => out.push(c),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pattern: &str, text: &str) -> Vec<Vec<String>> {
        let regex = PythonRegex::new(pattern).unwrap();
        let found = regex.find_all(text).unwrap();
        found
            .into_iter()
            .map(|m| m.into_iter().map(String::from).collect())
            .collect()
    }

    fn sub(pattern: &str, text: &str) -> String {
        PythonRegex::new(pattern).unwrap().remove_all(text).unwrap()
    }

    /// Each expected value is what CPython 3.11 prints.
    #[test]
    fn findall_as_in_python() {
        assert_eq!(find("a(b)?", "ab a"), [["b"], [""]]);
        assert_eq!(find("(a)|(b)", "ba"), [["", "b"], ["a", ""]]);
        assert_eq!(find("a*", "aab"), [["aa"], [""], [""]]);
        assert_eq!(find("x", ""), Vec::<Vec<String>>::new());
        assert_eq!(find("", "é"), [[""], [""]]);
        assert_eq!(find(r"\d+", "１２ 3"), [["１２"], ["3"]]);
        assert_eq!(find(r"\w+", "ধাপে a_1"), [["ধ"], ["প"], ["a_1"]]);
        assert_eq!(find(r"[[&&~]+", "a[&~]"), [["[&~"]]);
        assert_eq!(find(r"[]a]+", "]a["), [["]a"]]);
        assert_eq!(find(r"[^]]+", "a]b"), [["a"], ["b"]]);
        assert_eq!(find(r"a{,2}b|c{x}", "aab c{x}"), [["aab"], ["c{x}"]]);
        assert_eq!(find(r"\bi\b", "i in i"), [["i"], ["i"]]);
        assert_eq!(find(r"(?P<q>['\x22])x(?P=q)", "'x' 'x\""), [["'"]]);
    }

    #[test]
    fn sub_as_in_python() {
        assert_eq!(sub(r"\.$", "5."), "5");
        assert_eq!(sub(r"\.$", "5.\n"), "5\n");
        assert_eq!(sub(r"\.$", "5.\n\n"), "5.\n\n");
        assert_eq!(sub(r"(?m)\.$", "5.\n6."), "5\n6");
        assert_eq!(sub("(?s).*#### ", "a\n#### 1 #### 2"), "2");
        assert_eq!(sub(".*#### ", "a\n#### 1"), "a\n1");
        assert_eq!(sub(r"\$", "$5$"), "5");
        assert_eq!(sub(r"\s", "a\u{1c}\u{a0}b"), "ab");
    }

    #[test]
    fn replacements_name_groups() {
        let replace = |pattern: &str, replacement: &str, text: &str| {
            PythonRegex::new(pattern)
                .unwrap()
                .replace(text, replacement, usize::MAX)
                .unwrap()
        };
        assert_eq!(replace(r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$", "a $x$ b"), "$x$");
        assert_eq!(replace(r"(\w)(\w)", r"\2\g<1>\n", "ab"), "ba\n");
        assert_eq!(replace("a*", "-", "aab"), "--b-");
    }

    /// A count of 18446744073709551615 was a panic in the library, which adds up lengths.
    #[test]
    fn repetitions_beyond_counting_are_refused() {
        for pattern in [
            "(a{18446744073709551615,})|b",
            "((((a{65535}){65535}){65535}){65535}){65535}",
            "a{99999999999999999999}",
        ] {
            let message = PythonRegex::new(pattern).unwrap_err().to_string();
            assert!(message.contains("repetitions"), "{message}");
        }
        assert_eq!(find("(?:a{2,3}){2}b?", "aaaa"), [["aaaa"]]);
    }

    #[test]
    fn bad_patterns_are_errors() {
        for pattern in ["(", "[a", "a\\", r"\h", "*", r"[b-a]"] {
            let message = PythonRegex::new(pattern).unwrap_err().to_string();
            assert!(message.contains(pattern), "{message}");
        }
    }
}
