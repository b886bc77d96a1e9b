//! Values as Python writes them: what `{{…}}` prints in a task of lm-evaluation-harness, and what it calls on them.
//!
//! A template's text is read back (`ast.literal_eval`) or put to a model to the byte, so a list has to print as Python's
//! `str` does, and methods that minijinja lacks have to do what theirs do. Nothing here knows tasks.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, ValueKind, from_args},
};

use super::python_regex::PythonRegex;
use heterosis_engine::template_value;

/// `str(value)`.
pub fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_string(),
        None => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().into_iter().flatten();
            format!("[{}]", items.map(|item| repr(&item)).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&item))
            };
            format!("{{{}}}", keys.map(entry).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits that mean it, an exponent of two digits at least.
fn float(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, power) = match exponent.strip_prefix('-') {
                Some(power) => ('-', power),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{power:0>2}")
        }
    }
}

/// `repr` of a string: in single quotes, unless it has these and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable`, but for code points that nobody has assigned.
fn is_printable(c: char) -> bool {
    let is_format = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format)
}

/// `str(value)` of a field of a row.
pub fn text_of(json: &serde_json::Value) -> String {
    match json {
        serde_json::Value::String(text) => text.clone(),
        other => text(&template_value(other)),
    }
}

/// Python's methods: those of `minijinja-contrib`, and the ones that task files use besides.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (name, value.kind()) {
        ("index", ValueKind::Seq | ValueKind::Iterable) => {
            let (wanted,): (Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            place
                .map(Value::from)
                .ok_or_else(|| missing(&wanted, "is not in the list"))
        }
        ("index", ValueKind::String) => {
            let (wanted,): (&str,) = from_args(args)?;
            let text = value.as_str().unwrap_or_default();
            let place = text.find(wanted).map(|at| text[..at].chars().count());
            place
                .map(Value::from)
                .ok_or_else(|| missing(&wanted.into(), "is not in the text"))
        }
        ("removeprefix" | "removesuffix", ValueKind::String) => {
            let (part,): (&str,) = from_args(args)?;
            let text = value.as_str().unwrap_or_default();
            let rest = match name {
                "removeprefix" => text.strip_prefix(part),
                _ => text.strip_suffix(part),
            };
            Ok(rest.unwrap_or(text).into())
        }
        ("rsplit", ValueKind::String) => {
            let (separator, most): (Option<&str>, Option<usize>) = from_args(args)?;
            Ok(rsplit(value.as_str().unwrap_or_default(), separator, most))
        }
        ("partition" | "rpartition", ValueKind::String) => {
            let (separator,): (&str,) = from_args(args)?;
            Ok(partition(
                value.as_str().unwrap_or_default(),
                separator,
                name == "partition",
            ))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn missing(wanted: &Value, what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{} {what}", repr(wanted)))
}

fn rsplit(text: &str, separator: Option<&str>, most: Option<usize>) -> Value {
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(most, separator).collect(),
        None => text.split_whitespace().rev().collect(),
    };
    parts.reverse();
    parts.into_iter().map(Value::from).collect()
}

fn partition(text: &str, separator: &str, from_the_left: bool) -> Value {
    let parts = match from_the_left {
        true => text.split_once(separator),
        false => text.rsplit_once(separator),
    };
    let parts = match parts {
        Some((before, after)) => [before, separator, after],
        None if from_the_left => [text, "", ""],
        None => ["", "", text],
    };
    parts.into_iter().map(Value::from).collect()
}

/// The harness's filter `regex_replace`: `re.sub(pattern, repl, string, count)`.
#[allow(clippy::needless_pass_by_value)] // minijinja's signature
pub fn regex_replace(
    text: &str,
    pattern: &str,
    replacement: &str,
    count: Option<usize>,
    named: Kwargs,
) -> Result<String, Error> {
    let count = count.or(named.get("count")?);
    named.assert_all_used()?;
    let wrong = |message: String| Error::new(ErrorKind::InvalidOperation, message);
    let pattern = PythonRegex::new(pattern).map_err(|e| wrong(e.to_string()))?;
    let most = count.filter(|n| *n > 0).unwrap_or(usize::MAX);
    pattern
        .replace(text, replacement, most)
        .map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are what CPython 3.11 prints.
    #[test]
    fn values_print_as_python_prints_them() {
        for (json, expected) in [
            ("\"it's\"", "it's"),
            ("true", "True"),
            ("null", "None"),
            ("1.0", "1.0"),
            ("1e16", "1e+16"),
            ("0.00001", "1e-05"),
            ("0.0001", "0.0001"),
            (
                "[\"a\", \"it's\", \"\\\"q\\\" it's\"]",
                "['a', \"it's\", '\"q\" it\\'s']",
            ),
            ("[1, [false], {\"k\": \"v\\n\"}]", "[1, [False], {'k': 'v\\n'}]"),
            ("[\"é\\u00a0\\u0007\\ufeff\"]", "['é\\xa0\\x07\\ufeff']"),
        ] {
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(text(&template_value(&json)), expected);
        }
    }

    #[test]
    fn methods_of_lists_and_texts() {
        let mut environment = minijinja::Environment::new();
        environment.set_unknown_method_callback(method);
        let run = |source: &str| {
            let expression = environment.compile_expression(source).unwrap();
            expression.eval(()).map(|value| text(&value)).map_err(|e| e.to_string())
        };
        assert_eq!(run("['A', 'B'].index('B')").unwrap(), "1");
        assert!(run("['A'].index('C')").unwrap_err().contains("'C' is not in the list"));
        assert_eq!(run("'日本_語'.index('_')").unwrap(), "2");
        assert_eq!(run("'a,b,c'.rsplit(',', 1)").unwrap(), "['a,b', 'c']");
        assert_eq!(run("' a  b '.rsplit()").unwrap(), "['a', 'b']");
        assert_eq!(run("'a=b=c'.partition('=')").unwrap(), "['a', '=', 'b=c']");
        assert_eq!(run("'abc'.removeprefix('a').removesuffix('x')").unwrap(), "bc");
    }
}
