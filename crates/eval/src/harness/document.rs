//! YAML as PyYAML reads it, which lm-evaluation-harness does: version 1.1, where `no` is false, and the tag `!function`.
//!
//! The project's own files are read by [`heterosis_yaml`], strictly; these are somebody else's, and mean what they mean there.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::Refusal;
use heterosis_yaml as yaml;

/// The key of the object that stands for a value with the tag `!function`.
pub const FUNCTION: &str = "!function";

/// The most values of one file, so that aliases cannot fill the memory.
const MOST_VALUES: usize = 1_000_000;

/// What files say, and how.
#[derive(Clone, Debug)]
pub struct Words {
    pub text: String,
    /// Without comments and ways of writing.
    pub content: String,
}

impl Words {
    pub fn and(&self, more: &Self) -> Self {
        Self {
            text: format!("{}{}", self.text, more.text),
            content: format!("{}{}", self.content, more.content),
        }
    }
}

/// A file with those that it includes, its own keys over theirs; and all their words.
///
/// # Errors
/// A file that cannot be read or is not YAML, one that includes itself.
pub fn read(path: &Path) -> Result<(Map<String, Value>, Words), Refusal> {
    read_below(path, &mut Vec::new())
}

fn read_below(path: &Path, above: &mut Vec<PathBuf>) -> Result<(Map<String, Value>, Words), Refusal> {
    if above.iter().any(|file| file == path) {
        return Err(Refusal::new(path, "include", "the file includes itself"));
    }
    let text = yaml::read_text(path).map_err(|e| Refusal::new(path, "", format!("it cannot be read: {e}")))?;
    let mut own = parse(path, &text)?;
    let content = serde_json::to_string(&own).expect("keys and values are plain data");
    let mut words = Words { text, content };
    let mut merged = Map::new();
    above.push(path.into());
    for include in names(own.remove("include")) {
        let file = path.parent().unwrap_or(Path::new("")).join(&include);
        let (mut included, theirs) = read_below(&file, above)?;
        included.remove("task_list");
        merged.extend(included);
        words = words.and(&theirs);
    }
    above.pop();
    merged.extend(own);
    Ok((merged, words))
}

/// One name or a list of them.
pub fn names(value: Option<Value>) -> Vec<String> {
    match value {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.into_iter().filter_map(|n| n.as_str().map(String::from)).collect(),
        _ => Vec::new(),
    }
}

/// The keys of a text.
///
/// # Errors
/// It is not YAML, or no block of keys.
pub fn parse(path: &Path, text: &str) -> Result<Map<String, Value>, Refusal> {
    // What is in quotes may go on further to the left in PyYAML than the standard lets it.
    events(path, text).or_else(|refusal| events(path, &indented(text)).map_err(|_| refusal))
}

/// A text whose quoted scalars go on well to the right: white space at the beginning of their lines means nothing.
fn indented(text: &str) -> String {
    let opening = regex::Regex::new(r#"^\s*(?:-\s+)?(?:[^\s"'#][^"'#]*?|"[^"]*"|'[^']*'):\s+(["'])"#);
    let opening = opening.expect("a pattern that a test compiles");
    let mut out = String::with_capacity(text.len() + 1024);
    let mut quote: Option<char> = None;
    for line in text.split_inclusive('\n') {
        let rest = match quote {
            Some(_) => {
                out.push_str(&" ".repeat(64));
                line
            }
            None => match opening.captures(line).and_then(|found| found.get(1)) {
                Some(mark) => {
                    quote = mark.as_str().chars().next();
                    &line[mark.end()..]
                }
                None => "",
            },
        };
        if quote.is_some_and(|quote| closes(rest, quote)) {
            quote = None;
        }
        out.push_str(line);
    }
    out
}

/// Whether a quoted scalar ends within a line.
fn closes(line: &str, quote: char) -> bool {
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quote == '"' => {
                characters.next();
            }
            '\'' if quote == '\'' && characters.peek() == Some(&'\'') => {
                characters.next();
            }
            c if c == quote => return true,
            _ => {}
        }
    }
    false
}

fn events(path: &Path, text: &str) -> Result<Map<String, Value>, Refusal> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            Refusal::new(
                path,
                "",
                format!("line {}: this is not YAML: {}", e.marker().line(), e.info()),
            )
        })?;
        let line = span.start.line();
        builder
            .event(event)
            .map_err(|message| Refusal::new(path, "", format!("line {line}: {message}")))?;
    }
    match builder.document {
        Some(Value::Object(keys)) => Ok(keys),
        _ => Err(Refusal::new(path, "", "a block of keys is expected")),
    }
}

/// A list or map whose end has not been seen yet, with the number of its anchor (0: none).
enum Open {
    List(Vec<Value>, usize),
    Map(Map<String, Value>, Option<String>, usize),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    document: Option<Value>,
    anchors: HashMap<usize, Value>,
    values: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Open::Map(_, key @ None, _)) = self.open.last_mut() {
                    *key = Some(text.into_owned());
                    return Ok(());
                }
                let value = match tag.as_ref().map(|tag| tag.suffix.as_str()) {
                    Some("function") => {
                        Value::Object([(FUNCTION.to_string(), text.into_owned().into())].into_iter().collect())
                    }
                    Some("str") => text.into_owned().into(),
                    _ if style == ScalarStyle::Plain => plain(&text),
                    _ => text.into_owned().into(),
                };
                self.close(value, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                self.open.push(Open::List(Vec::new(), anchor));
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                self.open.push(Open::Map(Map::new(), None, anchor));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(items, anchor)) => self.close(items.into(), anchor),
                Some(Open::Map(entries, _, anchor)) => self.close(merged(entries).into(), anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let value = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or("an alias of what is not known")?;
                self.values += count(&value);
                self.close(value, 0)
            }
            _ => Ok(()),
        }
    }

    fn close(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(format!("it holds more than {MOST_VALUES} values"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.document = Some(value),
            Some(Open::List(items, _)) => items.push(value),
            Some(Open::Map(entries, key, _)) => {
                if let Some(key) = key.take() {
                    // Of a key that stands there twice the last one counts.
                    entries.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

/// A map with what its key `<<` brings, under its own entries.
fn merged(mut entries: Map<String, Value>) -> Map<String, Value> {
    let Some(brought) = entries.remove("<<") else {
        return entries;
    };
    let maps = match brought {
        Value::Array(maps) => maps,
        one => vec![one],
    };
    let mut merged = Map::new();
    for map in maps.into_iter().rev() {
        if let Value::Object(map) = map {
            merged.extend(map);
        }
    }
    merged.extend(entries);
    merged
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// An unquoted scalar by YAML 1.1, as PyYAML resolves it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return true.into(),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return false.into(),
        _ => {}
    }
    let digits = text.replace('_', "");
    let unsigned = digits.trim_start_matches(['+', '-']);
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let whole = match unsigned.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None if unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.contains('.') => {
            i64::from_str_radix(unsigned, 8).ok()
        }
        None => unsigned.parse().ok(),
    };
    if let Some(whole) = whole.filter(|_| is_number) {
        return if digits.starts_with('-') {
            (-whole).into()
        } else {
            whole.into()
        };
    }
    // A float has a point, and its exponent a sign: 1e5 is a text.
    let exponent = unsigned.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    let is_float = unsigned.contains('.') && exponent.is_none_or(|e| e.starts_with(['+', '-']));
    match digits.parse::<f64>() {
        Ok(number) if is_number && is_float => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are what PyYAML 6.0 gives.
    #[test]
    fn scalars_are_pyyamls() {
        let text = "a: no\nb: 'no'\nc: 1_000\nd: 010\ne: 1e5\nf: 1.5e+3\ng: ~\nh: 0x1F\ni: -3\nj: 1.0\nk: \"yes\\n\"\n\
                    l: !function utils.f\nm: A\nn: 1.2.3\na: on\n";
        let keys = parse(Path::new("t.yaml"), text).unwrap();
        let expected = serde_json::json!({
            "a": true, "b": "no", "c": 1000, "d": 8, "e": "1e5", "f": 1500.0, "g": null, "h": 31, "i": -3, "j": 1.0,
            "k": "yes\n", "l": {"!function": "utils.f"}, "m": "A", "n": "1.2.3",
        });
        assert_eq!(Value::Object(keys), expected);
    }

    /// Dozens of the harness's files have quoted texts that go on at the left margin, which libyaml lets them.
    #[test]
    fn quoted_texts_may_go_on_at_the_left_margin() {
        let text = "outer:\n  first: \"Q: {{q}}\\n\n\nA \\\"so\\\"\"\n  inner: 'one\n\ntwo ''2'' .'\n  last: 1\n";
        let keys = parse(Path::new("t.yaml"), text).unwrap();
        let expected = serde_json::json!({"first": "Q: {{q}}\n\nA \"so\"", "inner": "one\ntwo '2' .", "last": 1});
        assert_eq!(keys["outer"], expected);
    }

    #[test]
    fn anchors_and_merges() {
        let text = "base: &b {x: 1, y: 2}\ntask: {<<: *b, y: 3}\nlist: [*b]\n";
        let keys = parse(Path::new("t.yaml"), text).unwrap();
        assert_eq!(keys["task"], serde_json::json!({"x": 1, "y": 3}));
        assert_eq!(keys["list"][0]["y"], 2);
        let bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, \
                    *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n\
                    f: [*e, *e, *e, *e, *e, *e, *e, *e, *e, *e]\n";
        assert!(
            parse(Path::new("t.yaml"), bomb)
                .unwrap_err()
                .to_string()
                .contains("values")
        );
    }

    #[test]
    fn includes_bring_keys_under_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base"), "a: 1\nb: 2\ntask_list: x\n").unwrap();
        std::fs::write(dir.path().join("t.yaml"), "include: base\nb: 3\n").unwrap();
        std::fs::write(dir.path().join("loop.yaml"), "include: loop.yaml\n").unwrap();
        let (keys, words) = read(&dir.path().join("t.yaml")).unwrap();
        assert_eq!(Value::Object(keys), serde_json::json!({"a": 1, "b": 3}));
        assert!(words.text.contains("a: 1") && words.content.contains("\"a\":1"));
        assert!(
            read(&dir.path().join("loop.yaml"))
                .unwrap_err()
                .to_string()
                .contains("includes itself")
        );
        assert!(parse(Path::new("t.yaml"), "[1]").is_err());
    }
}
