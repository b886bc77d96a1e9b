//! A YAML document in which every value knows its file, its line and its path.
//!
//! Search spaces, recipes and task files are written by people, at night. So each reader here refuses what it does not
//! understand, and says where and what was probably meant: `space.yaml:12: parameter_space.metod: unknown key; did you
//! mean 'method'?`. Parsing is the `saphyr-parser` crate's; this file only adds the places and the typed readers.
//!
//! ```
//! use std::path::Path;
//!
//! use heterosis_yaml::{Error, parse_one};
//!
//! let read = |text: &str| -> Result<f64, Error> {
//!     let document = parse_one(Path::new("space.yaml"), text)?;
//!     let map = document.map()?;
//!     let weight = map.required("weight")?.f64()?;
//!     map.finish()?; // whatever nobody asked for is refused
//!     Ok(weight)
//! };
//! assert_eq!(read("weight: 0.5"), Ok(0.5));
//! let refused = read("# a slip\nwieght: 0.5").unwrap_err();
//! assert_eq!(refused.to_string(), "space.yaml:2: wieght: unknown key 'wieght'; did you mean 'weight'?");
//! ```

#![deny(missing_docs)]

mod kind;
mod places;

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use kind::Kind;
pub use places::Places;
use saphyr_parser::{Event, Parser, ScalarStyle};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}:{line}: {}{message}", file.display(), if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct Error {
    /// As it was handed to [`parse`]; nothing is opened here.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Dotted path of the value, empty for the document itself.
    pub field: String,
    /// What is wrong and, where it can be told, the way out; it is printed after file, line and field.
    pub message: String,
}

/// One value of a document.
#[derive(Clone, Debug)]
pub struct Node {
    file: Arc<Path>,
    /// Counted from 1; for a map's value, the line of its key.
    pub line: usize,
    /// Dotted path from the root, such as `models.base` or `fitness.tasks[0].weight`.
    pub path: String,
    /// What was written, an alias replaced by what it names.
    pub value: Value,
    /// Whether it has an anchor: a value that is written to be named elsewhere.
    is_named: bool,
}

/// A scalar by the YAML 1.2 core schema, or what holds more of them.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~`, or nothing at all after a key.
    Null,
    /// `true` or `false`; `yes` and `no` are words.
    Bool(bool),
    /// Decimal digits with or without a sign, from −2^63 to 2^64 − 1: what serde, and so every writer of YAML here, knows.
    Int(i128),
    /// Also `.inf` and `.nan`, which [`Node::f64`] refuses.
    Float(f64),
    /// Quoted, or none of the above.
    Str(String),
    /// In the order of the file.
    List(Vec<Node>),
    /// In the order of the file; no key stands here twice.
    Map(Vec<(String, Node)>),
}

/// The most that a file written by hand may hold, 16 MiB; what is larger is something else.
const LONGEST_TEXT: u64 = 16 << 20;

/// The text of a YAML file; a pipe does as well.
///
/// # Errors
/// It cannot be read, is no UTF-8, or holds more than 16 MiB.
pub fn read_text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(LONGEST_TEXT + 1).read_to_string(&mut text)?;
    match text.len() as u64 > LONGEST_TEXT {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it holds more than 16 MiB, which nobody writes by hand",
        )),
        false => Ok(text),
    }
}

/// All documents of a text; an empty text has none.
///
/// ```
/// let documents = heterosis_yaml::parse("stages.yaml".as_ref(), "name: first\n---\nname: second\n")?;
/// assert_eq!(documents[1].map()?.required("name")?.line, 3);
/// # Ok::<(), heterosis_yaml::Error>(())
/// ```
///
/// # Errors
/// Syntax errors, duplicate keys, keys that are no scalars, and aliases that grow beyond what a person means.
pub fn parse(file: &Path, text: &str) -> Result<Vec<Node>, Error> {
    let mut builder = Builder {
        file: Arc::from(file),
        open: Vec::new(),
        documents: Vec::new(),
        anchors: HashMap::new(),
        copied: 0,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| Error {
            file: file.to_path_buf(),
            line: e.marker().line(),
            field: String::new(),
            message: format!("this is not YAML: {}", e.info()),
        })?;
        builder.event(event, span.start.line())?;
    }
    Ok(builder.documents)
}

/// The only document of a text.
///
/// # Errors
/// As [`parse`], and if there is no document or more than one.
pub fn parse_one(file: &Path, text: &str) -> Result<Node, Error> {
    let mut documents = parse(file, text)?;
    match documents.len() {
        1 => Ok(documents.remove(0)),
        n => Err(Error {
            file: file.to_path_buf(),
            line: 1,
            field: String::new(),
            message: if n == 0 {
                "the file is empty".into()
            } else {
                format!("one document is expected here, the file has {n}")
            },
        }),
    }
}

/// The key under which a map takes over the keys of another one, or of several, that it does not have itself.
const MERGE: &str = "<<";

/// Values that aliases may copy in one file: far more than anybody writes, and too few to fill a memory by doubling.
const MOST_COPIED: usize = 100_000;

/// A list or map whose end has not been seen yet, with the number of its anchor (0: none).
enum Open {
    List(Node, Vec<Node>, usize),
    Map(Node, Vec<(String, Node)>, Option<(String, usize)>, usize),
}

struct Builder {
    file: Arc<Path>,
    open: Vec<Open>,
    documents: Vec<Node>,
    /// What `&name` stands before, by the parser's numbers.
    anchors: HashMap<usize, Node>,
    /// Values that aliases have copied so far.
    copied: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), Error> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced_string = tag.is_some_and(|t| t.suffix == "str");
                if let Some(Open::Map(map, entries, key @ None, _)) = self.open.last_mut() {
                    let text = text.into_owned();
                    if entries.iter().any(|(k, _)| *k == text) {
                        return Err(Error {
                            line,
                            ..map.error(format!("the key '{text}' stands here twice"))
                        });
                    }
                    *key = Some((text, line));
                    return Ok(());
                }
                let value = if style == ScalarStyle::Plain && !forced_string {
                    plain(&text)
                } else {
                    Value::Str(text.into_owned())
                };
                let node = self.node(line, value);
                self.close(node, anchor);
                Ok(())
            }
            Event::SequenceStart(anchor, _) => {
                let node = self.collection(line)?;
                self.open.push(Open::List(node, Vec::new(), anchor));
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                let node = self.collection(line)?;
                self.open.push(Open::Map(node, Vec::new(), None, anchor));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, value, anchor) = match self.open.pop() {
                    Some(Open::List(node, items, anchor)) => (node, Value::List(items), anchor),
                    Some(Open::Map(node, entries, _, anchor)) => (node, Value::Map(merged(entries)?), anchor),
                    None => return Ok(()),
                };
                self.close(Node { value, ..node }, anchor);
                Ok(())
            }
            Event::Alias(anchor) => {
                let node = self.alias(line, anchor)?;
                self.close(node, 0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What stands behind an anchor, at this place.
    fn alias(&mut self, line: usize, anchor: usize) -> Result<Node, Error> {
        let here = self.collection(line)?;
        let Some(named) = self.anchors.get(&anchor) else {
            return Err(here.error("this alias stands inside of what it names"));
        };
        self.copied += named.count();
        if self.copied > MOST_COPIED {
            return Err(here.error(format!("aliases of this file copy more than {MOST_COPIED} values")));
        }
        let node = named.moved(&here.path);
        Ok(Node {
            line: here.line,
            ..node
        })
    }

    /// An empty node for a list or map that starts here.
    fn collection(&self, line: usize) -> Result<Node, Error> {
        let node = self.node(line, Value::Null);
        if let Some(Open::Map(map, _, None, _)) = self.open.last() {
            return Err(Error {
                line,
                ..map.error("a key must be a plain word")
            });
        }
        Ok(node)
    }

    /// A node at the place that the next value takes.
    fn node(&self, line: usize, value: Value) -> Node {
        let (line, path) = match self.open.last() {
            None => (line, String::new()),
            Some(Open::List(list, items, _)) => (line, format!("{}[{}]", list.path, items.len())),
            Some(Open::Map(map, _, key, _)) => {
                let (key, key_line) = key.clone().unwrap_or_default();
                let dot = if map.path.is_empty() { "" } else { "." };
                (key_line.max(1), format!("{}{dot}{key}", map.path))
            }
        };
        Node {
            file: self.file.clone(),
            line,
            path,
            value,
            is_named: false,
        }
    }

    fn close(&mut self, node: Node, anchor: usize) {
        let node = Node {
            is_named: anchor > 0,
            ..node
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(Open::List(_, items, _)) => items.push(node),
            Some(Open::Map(_, entries, key, _)) => {
                if let Some((key, _)) = key.take() {
                    entries.push((key, node));
                }
            }
        }
    }
}

/// A map's entries with those that [`MERGE`] brings; its own go first, then those of the first map named.
fn merged(mut entries: Vec<(String, Node)>) -> Result<Vec<(String, Node)>, Error> {
    let Some(at) = entries.iter().position(|(key, _)| key == MERGE) else {
        return Ok(entries);
    };
    let (_, brought) = entries.remove(at);
    for map in brought.one_or_more() {
        let place = brought.path.strip_suffix(MERGE).unwrap_or_default();
        for (key, node) in map.map()?.entries() {
            if !entries.iter().any(|(known, _)| known == key) {
                entries.push((key.clone(), node.moved(&format!("{place}{key}"))));
            }
        }
    }
    Ok(entries)
}

/// The YAML 1.2 core schema for unquoted scalars.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" => return Value::Float(f64::NEG_INFINITY),
        ".nan" => return Value::Float(f64::NAN),
        _ => {}
    }
    if let Ok(i) = text.parse::<i128>()
        && (i64::MIN.into()..=u64::MAX.into()).contains(&i)
    {
        return Value::Int(i);
    }
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    match text.parse::<f64>() {
        Ok(f) if text.chars().all(numeric) => Value::Float(f),
        _ => Value::Str(text.to_string()),
    }
}

impl Node {
    /// The file that this value stands in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error that points at this value.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error {
            file: self.file.to_path_buf(),
            line: self.line,
            field: self.path.clone(),
            message: message.into(),
        }
    }

    /// The same value at another path; its lines stay those where it was written.
    fn moved(&self, path: &str) -> Node {
        let of_child = |node: &Node| {
            node.moved(&format!(
                "{path}{}",
                node.path.strip_prefix(&*self.path).unwrap_or_default()
            ))
        };
        Node {
            file: self.file.clone(),
            line: self.line,
            path: path.into(),
            is_named: false,
            value: match &self.value {
                Value::List(items) => Value::List(items.iter().map(of_child).collect()),
                Value::Map(entries) => Value::Map(
                    entries
                        .iter()
                        .map(|(key, node)| (key.clone(), of_child(node)))
                        .collect(),
                ),
                scalar => scalar.clone(),
            },
        }
    }

    /// This value and all inside of it.
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::count).sum(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.count()).sum(),
            _ => 0,
        }
    }

    fn expected(&self, what: &str) -> Error {
        self.error(format!("{what} is expected here, not {}", self.describe()))
    }

    fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("'{b}'"),
            Value::Int(i) => format!("{i}"),
            // So that 1e3, which reads as no whole number, does not look like one.
            Value::Float(f) => format!("{f:?}"),
            Value::Str(s) => format!("'{s}'"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a block of keys".into(),
        }
    }

    /// What was written, without comments, empty keys, places and the way of writing, and without some of a document's own keys:
    /// two documents with the same content say the same.
    pub fn content_without(&self, idle: &[&str]) -> String {
        let mut content = String::new();
        self.write_content(idle, &mut content);
        content
    }

    fn write_content(&self, idle: &[&str], to: &mut String) {
        let mut block = |[open, close]: [char; 2], of: &mut dyn Iterator<Item = (Option<&str>, &Node)>| {
            to.push(open);
            for (key, node) in of {
                to.extend(key.map(|key| format!("{key:?}:")));
                node.write_content(&[], to);
                to.push(',');
            }
            to.push(close);
        };
        let says = |(key, node): &&(String, Node)| !node.is_null() && !idle.contains(&key.as_str());
        match &self.value {
            Value::List(list) => block(['[', ']'], &mut list.iter().map(|node| (None, node))),
            Value::Map(map) => {
                let entries = map.iter().filter(says);
                block(['{', '}'], &mut entries.map(|(key, node)| (Some(&**key), node)));
            }
            scalar => to.push_str(&format!("{scalar:?}")),
        }
    }

    /// Whether a key is left empty, which readers take as left out.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value as a block of keys, to be read with [`Map::finish`] at the end.
    ///
    /// # Errors
    /// It is none.
    pub fn map(&self) -> Result<Map<'_>, Error> {
        match &self.value {
            Value::Map(entries) => Ok(Map {
                node: self,
                entries,
                asked: RefCell::default(),
            }),
            _ => Err(self.expected("a block of keys")),
        }
    }

    /// The items in the order of the file; [`Self::one_or_more`] takes a single value too.
    ///
    /// # Errors
    /// It is no list.
    pub fn list(&self) -> Result<&[Node], Error> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.expected("a list")),
        }
    }

    /// The items of a list; a value that is no list counts as a list of one.
    pub fn one_or_more(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// Text that is text already: a bare `7` is refused here, and taken by [`Self::text`].
    ///
    /// # Errors
    /// It is anything else.
    pub fn str(&self) -> Result<&str, Error> {
        match &self.value {
            Value::Str(s) => Ok(s),
            _ => Err(self.expected("a word or text (quote it if it looks like a number)")),
        }
    }

    /// A scalar as it would be written: names such as `7b` or `1` need no quotes.
    pub fn text(&self) -> Result<String, Error> {
        match &self.value {
            Value::Str(s) => Ok(s.clone()),
            Value::Int(i) => Ok(i.to_string()),
            Value::Float(f) => Ok(f.to_string()),
            Value::Bool(b) => Ok(b.to_string()),
            _ => Err(self.expected("a word")),
        }
    }

    /// A finite number.
    pub fn f64(&self) -> Result<f64, Error> {
        match self.value {
            Value::Int(i) => Ok(i as f64),
            Value::Float(f) if f.is_finite() => Ok(f),
            _ => Err(self.expected("a number")),
        }
    }

    /// A whole number; `2.0` is none.
    ///
    /// # Errors
    /// It is anything else, or 2^63 or more.
    pub fn i64(&self) -> Result<i64, Error> {
        i64::try_from(self.whole()?).map_err(|_| self.expected("a whole number below 2^63"))
    }

    fn whole(&self) -> Result<i128, Error> {
        match self.value {
            Value::Int(i) => Ok(i),
            _ => Err(self.expected("a whole number")),
        }
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// It is anything else.
    pub fn u64(&self) -> Result<u64, Error> {
        u64::try_from(self.whole()?).map_err(|_| self.expected("a whole number of 0 or more"))
    }

    /// A whole number for a count or an index.
    ///
    /// # Errors
    /// It is anything else, negative, or too large for this machine.
    pub fn usize(&self) -> Result<usize, Error> {
        usize::try_from(self.whole()?).map_err(|_| self.expected("a whole number of 0 or more"))
    }

    /// A switch.
    ///
    /// # Errors
    /// It is anything but `true` and `false`: words such as `yes` are refused too.
    pub fn bool(&self) -> Result<bool, Error> {
        match self.value {
            Value::Bool(b) => Ok(b),
            _ => Err(self.expected("true or false")),
        }
    }

    /// `[low, high]`, with low < high.
    pub fn range(&self) -> Result<(f64, f64), Error> {
        match self.list()? {
            [low, high] => {
                let (l, h) = (low.f64()?, high.f64()?);
                if l < h {
                    Ok((l, h))
                } else {
                    Err(self.error(format!(
                        "the range [{l}, {h}] is upside down or empty; write [low, high]"
                    )))
                }
            }
            items => Err(self.error(format!(
                "a range has two numbers, [low, high]; here are {}",
                items.len()
            ))),
        }
    }

    /// The index of the word that stands here.
    pub fn one_of(&self, words: &[&str]) -> Result<usize, Error> {
        let word = self.text()?;
        words.iter().position(|w| *w == word).ok_or_else(|| {
            self.error(format!(
                "'{word}' is not known here{}; it can be {}",
                did_you_mean(&word, words),
                words.join(", ")
            ))
        })
    }
}

/// A map that is being read; it remembers which keys were asked for, so that [`Map::finish`] can refuse the others.
pub struct Map<'a> {
    node: &'a Node,
    entries: &'a [(String, Node)],
    asked: RefCell<Vec<String>>,
}

impl<'a> Map<'a> {
    /// The value of a key; absent and `null` are the same.
    pub fn optional(&self, key: &str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key.to_string());
        let (_, node) = self.entries.iter().find(|(k, _)| k == key)?;
        (!node.is_null()).then_some(node)
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// It is absent or `null`. Where a key that nobody asked for is spelt nearly so, the error points at that one.
    pub fn required(&self, key: &str) -> Result<&'a Node, Error> {
        self.optional(key).ok_or_else(|| {
            // A misspelt key explains a missing one better than its absence does.
            // In a short word two other letters make another word: `base` is no `name`.
            let most = (key.len() / 3).min(2);
            let close = self
                .entries
                .iter()
                .find(|(k, _)| strsim::damerau_levenshtein(k, key) <= most && !self.asked.borrow().contains(k));
            match close {
                Some((k, node)) => node.error(format!("unknown key '{k}'; did you mean '{key}'?")),
                None => self.node.error(format!("the key '{key}' is missing")),
            }
        })
    }

    /// The block itself, for errors about all of it.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// All keys in the order of the file, for blocks whose keys are the user's own names. They do not count as asked for.
    pub fn entries(&self) -> &'a [(String, Node)] {
        self.entries
    }

    /// Refuses keys that nobody asked for, but for those that only hold what an anchor names.
    pub fn finish(&self) -> Result<(), Error> {
        let asked = self.asked.borrow();
        let is_strange = |(key, node): &&(String, Node)| !asked.contains(key) && !node.is_named;
        let Some((key, node)) = self.entries.iter().find(is_strange) else {
            return Ok(());
        };
        let mut known: Vec<&str> = Vec::new();
        for name in asked.iter().filter(|name| !name.is_empty()) {
            if !known.contains(&name.as_str()) {
                known.push(name);
            }
        }
        Err(node.error(format!(
            "unknown key '{key}'{}; known here: {}",
            did_you_mean(key, &known),
            known.join(", ")
        )))
    }
}

/// `; did you mean 'x'?` for the nearest word, or nothing when none is near.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| format!("; did you mean '{k}'?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Node, Error> {
        parse_one(Path::new("a.yaml"), text)
    }

    #[test]
    fn values_know_their_line_and_path() {
        let node = one("a: 1\nb:\n  - x\n  - {c: [0.5, 2]}\n").unwrap();
        let map = node.map().unwrap();
        assert_eq!(map.required("a").unwrap().usize().unwrap(), 1);
        let b = map.required("b").unwrap().list().unwrap();
        assert_eq!((b[0].line, b[0].str().unwrap()), (3, "x"));
        let inner = b[1].map().unwrap();
        let c = inner.required("c").unwrap();
        assert_eq!((c.path.as_str(), c.line, c.range().unwrap()), ("b[1].c", 4, (0.5, 2.0)));
        map.finish().unwrap();
    }

    #[test]
    fn the_content_is_what_a_document_says() {
        let content = |text: &str| one(text).unwrap().content_without(&["name"]);
        let base = content("a: 1\nb: [x, {c: 'y'}]\n");
        assert_eq!(base, r#"{"a":Int(1),"b":[Str("x"),{"c":Str("y"),},],}"#);
        assert_eq!(
            base,
            content("# why\na: 1\nname: x\nz:\n\nb:\n- x # this\n- c: \"y\"\n")
        );
        assert_ne!(base, content("a: '1'\nb: [x, {c: y}]\n"));
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let node = one("[1, -2, 1.5, 1e-3, true, null, '1', hello, 7b, inf]").unwrap();
        let kinds: Vec<String> = node.list().unwrap().iter().map(|n| format!("{:?}", n.value)).collect();
        assert_eq!(
            kinds,
            [
                "Int(1)",
                "Int(-2)",
                "Float(1.5)",
                "Float(0.001)",
                "Bool(true)",
                "Null",
                "Str(\"1\")",
                "Str(\"hello\")",
                "Str(\"7b\")",
                "Str(\"inf\")"
            ]
        );
    }

    #[test]
    fn errors_point_and_suggest() {
        let node = one("models: 1\nmetod: ties\n").unwrap();
        let map = node.map().unwrap();
        map.optional("models");
        map.optional("method");
        let message = map.finish().unwrap_err().to_string();
        assert!(
            message.starts_with("a.yaml:2: metod: unknown key 'metod'; did you mean 'method'?"),
            "{message}"
        );
        let message = map.required("method").unwrap_err().to_string();
        assert!(message.contains("did you mean 'method'"), "{message}");
        let node = one("base: 1\n").unwrap();
        let message = node.map().unwrap().required("name").unwrap_err().to_string();
        assert!(message.contains("the key 'name' is missing"), "{message}");
        let node = one("x: [2, 1]").unwrap();
        let map = node.map().unwrap();
        let message = map.required("x").unwrap().range().unwrap_err().to_string();
        assert!(
            message.contains("a.yaml:1: x: the range [2, 1] is upside down"),
            "{message}"
        );
    }

    #[test]
    fn hostile_documents_are_errors() {
        for text in [
            "a: [1",
            "a: 1\na: 2",
            "{a: *x}",
            "? [1]\n: 2",
            "",
            "a: 1\n---\nb: 2",
            "a: &x {b: *x}",
            "a: &x 1\n? *x\n: 2",
            "a: {<<: 1}",
        ] {
            assert!(one(text).is_err(), "{text:?}");
        }
        let doubling: String = (1..30)
            .map(|i| format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1))
            .collect();
        let message = one(&format!("a0: &a0 [1]\n{doubling}")).unwrap_err().to_string();
        assert!(message.contains("more than 100000 values"), "{message}");
    }

    /// mergekit's users write a slice's parameters once and name them; such files were refused.
    #[test]
    fn anchors_aliases_and_merge_keys() {
        let node = one("a: &a {x: 1, y: [2, 3]}\nb: *a\nc:\n  <<: *a\n  x: 7\nd: {<<: [{y: 8}, *a], z: 9}\n").unwrap();
        let map = node.map().unwrap();
        let value = |key: &str, inner: &str| {
            let node = map.required(key).unwrap().map().unwrap().required(inner).unwrap();
            (node.path.clone(), node.usize())
        };
        assert_eq!(value("b", "x"), ("b.x".into(), Ok(1)));
        assert_eq!(
            (value("c", "x"), value("d", "y").1, value("d", "x").1),
            (("c.x".into(), Ok(7)), Ok(8), Ok(1))
        );
        let c = map.required("c").unwrap().map().unwrap().required("y").unwrap();
        assert_eq!((c.path.as_str(), c.line), ("c.y", 1));
        assert_eq!(c.list().unwrap()[1].path, "c.y[1]");
        assert_eq!(map.required("b").unwrap().line, 2);
        // A key that only holds an anchor is nobody's mistake; the same without one is.
        for (text, is_good) in [("own: &x 1\na: *x\n", true), ("own: 1\na: 1\n", false)] {
            let node = one(text).unwrap();
            let map = node.map().unwrap();
            map.optional("a");
            assert_eq!(map.finish().is_ok(), is_good, "{text}");
        }
    }

    #[test]
    fn several_documents() {
        assert_eq!(parse(Path::new("x"), "a: 1\n---\nb: 2\n").unwrap().len(), 2);
    }
}
