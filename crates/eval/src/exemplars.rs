//! MGSM's worked examples as their authors publish them, a Python file of literals, turned into JSON.
//!
//! Only what such a file holds is read: names that are given dictionaries, lists, numbers and strings (several in a row are
//! one string). Anything else is an error with its line.

use serde_json::{Map, Value};

/// One Python literal, as `ast.literal_eval` reads it; a tuple is a list. None where the text is something else.
pub fn literal(text: &str) -> Option<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value().ok()?;
    reader.skip_blanks();
    reader.rest().is_empty().then_some(value)
}

/// The names of a Python file of literals, and what they are given.
///
/// # Errors
/// The line and what is wrong there.
pub fn literals(python: &str) -> Result<Map<String, Value>, String> {
    let mut reader = Reader { text: python, at: 0 };
    let mut names = Map::new();
    loop {
        reader.skip_blanks();
        if reader.rest().is_empty() {
            return Ok(names);
        }
        if reader.rest().starts_with(['"', '\'']) {
            reader.string()?; // the docstring
            continue;
        }
        let name = reader.name()?;
        reader.expect('=')?;
        let value = reader.value()?;
        names.insert(name, value);
    }
}

/// `exemplars.json`, as the tasks read it, from the text of the authors' `exemplars.py`.
///
/// ```
/// let json = heterosis_eval::exemplars::json_of(
///     "EXEMPLAR_NUMBER_ANSWERS = [11]\nEXEMPLAR_EQUATION_SOLUTIONS = ['5 + 6 = 11']\nMGSM_EXEMPLARS = {'es': {}}\n",
/// )?;
/// assert!(json.contains("5 + 6 = 11"));
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// As [`literals`], or a name that is missing.
pub fn json_of(python: &str) -> Result<String, String> {
    let mut names = literals(python)?;
    let mut json = Map::new();
    for (field, name) in [
        ("number_answers", "EXEMPLAR_NUMBER_ANSWERS"),
        ("equation_solutions", "EXEMPLAR_EQUATION_SOLUTIONS"),
        ("exemplars", "MGSM_EXEMPLARS"),
    ] {
        let value = names.remove(name).ok_or_else(|| format!("it does not define {name}"))?;
        json.insert(field.into(), value);
    }
    Ok(format!("{:#}\n", Value::Object(json)))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            match self.rest().starts_with('#') {
                true => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                false => return,
            }
        }
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, String> {
        let line = 1 + self.text[..self.at].matches('\n').count();
        Err(format!("line {line}: {expected} is expected"))
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        match self.takes(c) {
            true => Ok(()),
            false => self.wrong(&format!("'{c}'")),
        }
    }

    fn takes(&mut self, c: char) -> bool {
        self.skip_blanks();
        let there = self.rest().starts_with(c);
        self.at += if there { c.len_utf8() } else { 0 };
        there
    }

    fn name(&mut self) -> Result<String, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = self.rest().chars().take_while(|c| is_part(*c)).collect();
        self.at += name.len();
        if name.is_empty() {
            self.wrong("a name")
        } else {
            Ok(name)
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        self.skip_blanks();
        match self.rest().chars().next() {
            Some('{') => self.dictionary(),
            Some('[') => self.list('[', ']'),
            Some('(') => self.list('(', ')'),
            Some(c) if c.is_ascii_alphabetic() => self.constant(),
            Some('"' | '\'') => self.string().map(Value::String),
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '.') => self.number(),
            _ => self.wrong("a dictionary, a list, a string or a number"),
        }
    }

    fn constant(&mut self) -> Result<Value, String> {
        const CONSTANTS: [(&str, Value); 3] = [
            ("True", Value::Bool(true)),
            ("False", Value::Bool(false)),
            ("None", Value::Null),
        ];
        match CONSTANTS.iter().find(|(name, _)| self.rest().starts_with(name)) {
            Some((name, value)) => {
                self.at += name.len();
                Ok(value.clone())
            }
            None => self.wrong("a dictionary, a list, a string or a number"),
        }
    }

    fn number(&mut self) -> Result<Value, String> {
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let digits: String = self.rest().chars().take_while(|c| is_part(*c)).collect();
        let whole = digits.parse::<i64>().ok().map(Value::from);
        let Some(number) = whole.or_else(|| digits.parse::<f64>().ok().map(Value::from)) else {
            return self.wrong("a number");
        };
        self.at += digits.len();
        Ok(number)
    }

    fn list(&mut self, open: char, close: char) -> Result<Value, String> {
        self.expect(open)?;
        let mut values = Vec::new();
        while !self.takes(close) {
            values.push(self.value()?);
            if !self.takes(',') {
                self.expect(close)?;
                // One value in parentheses is that value.
                return Ok(match (open, values.len()) {
                    ('(', 1) => values.remove(0),
                    _ => Value::Array(values),
                });
            }
        }
        Ok(Value::Array(values))
    }

    fn dictionary(&mut self) -> Result<Value, String> {
        self.expect('{')?;
        let mut entries = Map::new();
        while !self.takes('}') {
            let key = self.string()?;
            self.expect(':')?;
            entries.insert(key, self.value()?);
            if !self.takes(',') {
                self.expect('}')?;
                break;
            }
        }
        Ok(Value::Object(entries))
    }

    /// One string, or several in a row, which Python joins.
    fn string(&mut self) -> Result<String, String> {
        let mut joined = String::new();
        let mut parts = 0;
        loop {
            self.skip_blanks();
            let quote = match self.rest().chars().next() {
                Some(c @ ('"' | '\'')) => c.to_string(),
                _ if parts > 0 => return Ok(joined),
                _ => return self.wrong("a string"),
            };
            let long = quote.repeat(3);
            let end = if self.rest().starts_with(&long) { long } else { quote };
            self.at += end.len();
            self.string_until(&end, &mut joined)?;
            parts += 1;
        }
    }

    fn string_until(&mut self, end: &str, out: &mut String) -> Result<(), String> {
        loop {
            if self.rest().starts_with(end) {
                self.at += end.len();
                return Ok(());
            }
            let Some(c) = self.rest().chars().next() else {
                return self.wrong("the end of a string");
            };
            if c == '\n' && end.len() == 1 {
                return self.wrong("the end of a string");
            }
            self.at += c.len_utf8();
            match c {
                '\\' => out.extend(self.escape()?),
                c => out.push(c),
            }
        }
    }

    /// What stands after a backslash; nothing for the end of a line.
    fn escape(&mut self) -> Result<Option<char>, String> {
        let Some(c) = self.rest().chars().next() else {
            return self.wrong("an escaped character");
        };
        self.at += c.len_utf8();
        let digits = match c {
            'n' => return Ok(Some('\n')),
            't' => return Ok(Some('\t')),
            'r' => return Ok(Some('\r')),
            '\n' => return Ok(None),
            '\\' | '"' | '\'' => return Ok(Some(c)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return self.wrong("an escape that is known here"),
        };
        let code = self.rest().get(..digits).and_then(|d| u32::from_str_radix(d, 16).ok());
        let Some(c) = code.and_then(char::from_u32) else {
            return self.wrong("the code of a character");
        };
        self.at += digits;
        Ok(Some(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\"\"\"Prompts for mgsm.\"\"\"\n# pylint: disable=line-too-long\n\nEXEMPLAR_NUMBER_ANSWERS = [11, -29,]\n\
                        EXEMPLAR_EQUATION_SOLUTIONS = [\n    \"5 + 6 = 11.\",\n]\nMGSM_EXEMPLARS = {\n    \"es\": {\n        \"1\": {\n\
                        \"q\":\n  \"\\u00bfCu\\u00e1ntas \"\n  'pelotas \"hay\\'?\\n'  # a comment\n  , \"a\": \"\\x41 \\U0001F3BE\"\n}}}\n";

    #[test]
    fn literals_are_pythons() {
        for (text, expected) in [
            ("['a', \"it's\", 'x\\n']", Some(serde_json::json!(["a", "it's", "x\n"]))),
            ("(1, 2.5,)", Some(serde_json::json!([1, 2.5]))),
            (" [True, None, ('a')] ", Some(serde_json::json!([true, null, "a"]))),
            ("{'a': -1}", Some(serde_json::json!({"a": -1}))),
            ("[1] and more", None),
            ("[f(x)]", None),
            ("", None),
        ] {
            assert_eq!(literal(text), expected, "{text}");
        }
    }

    #[test]
    fn dictionaries_and_joined_strings() {
        let json: Value = serde_json::from_str(&json_of(FILE).unwrap()).unwrap();
        assert_eq!(json["number_answers"], serde_json::json!([11, -29]));
        assert_eq!(json["equation_solutions"][0], "5 + 6 = 11.");
        assert_eq!(json["exemplars"]["es"]["1"]["q"], "¿Cuántas pelotas \"hay'?\n");
        assert_eq!(json["exemplars"]["es"]["1"]["a"], "A 🎾");
    }

    #[test]
    fn what_is_no_literal_is_refused_with_its_line() {
        for (text, expected) in [
            ("A = 1\nB = f(2)", "line 2: a dictionary"),
            ("A = {\"a\": \"b\n\"}", "line 1: the end of a string"),
            ("A = [1 2]", "line 1: ']'"),
            ("A 1", "line 1: '='"),
            ("A = \"\\q\"", "an escape"),
            ("A = \"\\ud800\"", "the code of a character"),
            ("A = {", "a string"),
            ("\u{1}", "a name"),
        ] {
            let message = literals(text).unwrap_err();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        assert!(json_of("A = 1").unwrap_err().contains("EXEMPLAR_NUMBER_ANSWERS"));
    }
}
