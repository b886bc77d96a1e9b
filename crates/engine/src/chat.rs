//! Chat templates: Jinja as transformers runs it (trimmed blocks, its own `tojson`, `raise_exception`, `strftime_now`).
//!
//! `strftime_now` gives a fixed date, so that a prompt is the same on every day; `{% generation %}` marks are dropped.
//!
//! A template comes with somebody else's model. What one rendering may do and produce is bounded by [`FUEL`].

use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use serde_json::Value as Json;

use super::{namespaces::refuse_nested_namespaces, tokenizer::Message};

/// The day that templates see as today.
const TODAY: jiff::civil::Date = jiff::civil::date(2024, 7, 26);

/// What one rendering may spend: one for each instruction, each 64 bytes that an operator, filter or block makes, each item
/// of a loop. Published templates spend a few thousand on a conversation; this is a tenth of a second, and 64 MB at most.
const FUEL: u64 = 1_000_000;

/// Values nested as deep as the fuel allows are also dropped level by level; this is stack enough for that, and only what
/// is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;

/// How deep values may be nested that become JSON.
const DEEPEST: usize = 128;

pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// Where it was found, for error messages.
    pub file: String,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// `chat_template.jinja` before `chat_template` in the tokenizer's config, a string or a list of named ones.
    pub fn find(file: Option<&str>, config: &Json, tokenizer: &str) -> Result<Option<Self>, super::Error> {
        let named = |list: &Vec<Json>| {
            let is_default = |entry: &&Json| entry.get("name").and_then(Json::as_str) == Some("default");
            let entry = list.iter().find(is_default)?;
            entry.get("template").and_then(Json::as_str).map(String::from)
        };
        let in_config = || match config.get("chat_template")? {
            Json::String(template) => Some(template.clone()),
            Json::Array(list) => named(list),
            Json::Object(map) => map.get("default").and_then(Json::as_str).map(String::from),
            _ => None,
        };
        let Some(source) = file.map(String::from).or_else(in_config) else {
            return Ok(None);
        };
        let holder = match file {
            Some(_) => beside(tokenizer, "chat_template.jinja"),
            None => beside(tokenizer, "tokenizer_config.json"),
        };
        let fail = |e: Error| super::Error::ChatTemplate {
            file: holder.clone(),
            reason: describe(&e),
        };
        let template = Self::new(&source).map_err(fail)?;
        Ok(Some(Self {
            file: holder,
            ..template
        }))
    }

    fn new(source: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax.clone());
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, TODAY)
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        let source = prepare(source);
        refuse_nested_namespaces(&source, &syntax)?;
        environment.add_template_owned(NAME, source)?;
        Ok(ChatTemplate {
            environment,
            file: String::new(),
        })
    }

    #[cfg(test)]
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        special: &[(String, String)],
    ) -> Result<String, String> {
        self.render_with(messages, add_generation_prompt, special, &serde_json::Map::new())
    }

    /// `variables` are what the template may ask for besides, and never take the place of what it is given.
    pub fn render_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        special: &[(String, String)],
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        let turn = |message: &Message| {
            Value::from_pairs([
                ("role", Value::from(message.role.as_str())),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        let fixed = [
            ("messages", messages.iter().map(turn).collect::<Value>()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        let special = special
            .iter()
            .map(|(name, text)| (name.as_str(), Value::from(text.as_str())));
        let told = variables
            .iter()
            .map(|(name, value)| (name.as_str(), template_value(value)));
        let values = Value::from_pairs(told.chain(fixed).chain(special));
        on_a_deep_stack(|| template.render(values).map_err(|e| describe(&e)))?
    }
}

/// A file that lies beside a tokenizer's; of a tokenizer inside another file, that one.
fn beside(tokenizer: &str, name: &str) -> String {
    let tokenizer_file = ["tokenizer.json", "tokenizer.model"];
    match tokenizer_file.iter().find_map(|file| tokenizer.strip_suffix(file)) {
        Some(dir) => format!("{dir}{name}"),
        None => tokenizer.into(),
    }
}

/// JSON as a template sees it.
pub fn template_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => (*b).into(),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(template_value).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(
            fields
                .iter()
                .map(|(name, field)| (name.as_str(), template_value(field))),
        ),
    }
}

/// Runs what makes values of a template, prints them and drops them, with stack enough for all that fuel can nest.
///
/// # Errors
/// No such thread can be had, or the template engine panicked.
pub fn on_a_deep_stack<T: Send>(render: impl FnOnce() -> T + Send) -> Result<T, String> {
    let threads = DEEP.as_ref().map_err(|e| format!("no thread to run it on: {e}"))?;
    let rendered = threads.install(|| heterosis_unwind::caught(render));
    rendered.map_err(|_| "it made the template engine panic".to_owned())
}

/// Runs what renders again and again where each rendering finds its stack without changing threads.
pub fn among_deep_stacks<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*DEEP {
        Ok(threads) => threads.install(work),
        Err(_) => work(),
    }
}

/// Threads for [`on_a_deep_stack`]: starting one takes longer than a rendering.
static DEEP: LazyLock<Result<ThreadPool, ThreadPoolBuildError>> = LazyLock::new(|| {
    ThreadPoolBuilder::new()
        .stack_size(STACK_BYTES)
        .thread_name(|_| "templates".into())
        .build()
});

fn describe(error: &Error) -> String {
    let at = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "it does or writes far more than any conversation needs, so it was stopped{at}; use a model whose template \
             ends, or put another chat_template.jinja there"
        ),
        _ => format!("{}{at}", error.detail().unwrap_or(&error.to_string())),
    }
}

/// Drops the marks of `{% generation %}` blocks, which only matter in training, but not what they do to white space.
fn prepare(source: &str) -> String {
    let mark = regex::Regex::new(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}").expect("a valid pattern");
    mark.replace_all(source, "{%$1 if true %}{% endif $2%}").into_owned()
}

/// How `tojson` writes: the arguments of transformers' filter, which are those of `json.dumps`.
struct JsonWriter<'a> {
    state: &'a State<'a, 'a>,
    ensure_ascii: bool,
    /// What a level is indented by; everything on one line without it.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
    out: String,
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, the last two by name only; nothing is
/// escaped for HTML.
fn tojson(
    state: &State,
    value: Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let given = |value: Option<Value>| value.filter(|v| !v.is_none() && !v.is_undefined());
    let named = |name: &str| kwargs.get::<Option<Value>>(name).map(given);
    let is_true = |value: Option<Value>| value.is_some_and(|v| v.is_true());
    let ensure_ascii = is_true(given(ensure_ascii).or(named("ensure_ascii")?));
    let indent = given(indent)
        .or(named("indent")?)
        .map(|v| indentation(state, &v))
        .transpose()?;
    let separators = named("separators")?.map(|v| separators(&v)).transpose()?;
    let sort_keys = is_true(named("sort_keys")?);
    kwargs.assert_all_used()?;
    let comma = if indent.is_some() { "," } else { ", " };
    let (between_items, after_key) = separators.unwrap_or_else(|| (comma.into(), ": ".into()));
    let mut json = JsonWriter {
        state,
        ensure_ascii,
        indent,
        between_items,
        after_key,
        sort_keys,
        out: String::new(),
    };
    json.value(&value, 0)?;
    Ok(json.out)
}

/// A number of spaces, or the text itself.
fn indentation(state: &State, indent: &Value) -> Result<String, Error> {
    match indent.as_str() {
        Some(text) => Ok(text.into()),
        None => {
            let spaces = usize::try_from(indent.clone())?;
            state.consume_fuel(spaces as u64 / 64)?;
            Ok(" ".repeat(spaces))
        }
    }
}

fn separators(pair: &Value) -> Result<(String, String), Error> {
    let parts: Vec<Value> = pair.try_iter()?.collect();
    match parts.as_slice() {
        [items, keys] => Ok((items.to_string(), keys.to_string())),
        _ => {
            let message = "separators are a pair: between items, and after a key";
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
    }
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let before = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                let write = |json: &mut Self, item: &Value| json.value(item, depth + 1);
                self.bracketed(['[', ']'], &items, depth, write)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort_by_key(Value::to_string);
                }
                let write = |json: &mut Self, key: &Value| {
                    json.key(key);
                    json.value(&value.get_item(key)?, depth + 1)
                };
                self.bracketed(['{', '}'], &keys, depth, write)?;
            }
            other => return Err(Error::new(ErrorKind::BadSerialization, format!("{other} is not JSON"))),
        }
        // What is inside has been paid for already; paying again for each level bounds time as well.
        self.state.consume_fuel(1 + (self.out.len() - before) as u64 / 64)
    }

    fn bracketed(
        &mut self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if depth >= DEEPEST {
            let message = format!("a value nested more than {DEEPEST} deep is not turned into JSON");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(&self.between_items);
            }
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.state.consume_fuel((indent.len() * depth) as u64 / 64)?;
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        Ok(())
    }

    fn key(&mut self, key: &Value) {
        match (key.kind(), key.as_str()) {
            (_, Some(text)) => self.text(text),
            (ValueKind::None, _) => self.out.push_str("\"null\""),
            (ValueKind::Bool, _) => self.text(if key.is_true() { "true" } else { "false" }),
            (ValueKind::Number, _) => self.text(&number(key)),
            _ => self.text(&key.to_string()),
        }
        self.out.push_str(&self.after_key);
    }

    fn text(&mut self, text: &str) {
        let quoted = Json::from(text).to_string();
        if !self.ensure_ascii {
            self.out.push_str(&quoted);
            return;
        }
        for unit in quoted.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() && byte != 0x7f => self.out.push(char::from(byte)),
                Ok(0x7f) => self.out.push('\x7f'),
                _ => self.out.push_str(&format!("\\u{unit:04x}")),
            }
        }
    }
}

/// A number as Python's `repr` has it: `1e+16`, `100.0`, `1e-05`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    match float {
        f if f.is_nan() => "NaN".into(),
        f if f.is_infinite() => (if f > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        0.0 => (if float.is_sign_negative() { "-0.0" } else { "0.0" }).into(),
        f if (1e-4..1e16).contains(&f.abs()) => {
            let fixed = f.to_string();
            if fixed.contains('.') { fixed } else { fixed + ".0" }
        }
        f => {
            let scientific = format!("{f:e}");
            let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Json) -> String {
        value.as_str().unwrap().to_string()
    }

    fn messages(value: &Json) -> Vec<Message> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|m| Message::new(text(&m["role"]), text(&m["content"])))
            .collect()
    }

    #[test]
    fn templates_render_as_in_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/chat.json");
        let cases: Vec<Json> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in cases {
            let template = ChatTemplate::find(case["template"].as_str(), &Json::Null, "t")
                .unwrap()
                .unwrap();
            let special = ["bos_token", "eos_token"].map(|name| (name.to_string(), text(&case["special"][name])));
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let got = template.render(&messages(&case["messages"]), prompt, &special);
            assert_eq!(got.as_deref(), Ok(case["text"].as_str().unwrap()), "{}", case["name"]);
        }
    }

    fn render(source: &str) -> Result<String, String> {
        let message = Message::new("user", "hi");
        ChatTemplate::new(source)
            .map_err(|e| describe(&e))?
            .render(&[message], true, &[])
    }

    /// `separators` and `ensure_ascii` were accepted and ignored (mlxcel #1309, huggingface.js #1929, swift-jinja #74):
    /// Kimi-K2's template writes its tools with separators. Expected values from CPython's `json.dumps`.
    #[test]
    fn tojson_takes_the_arguments_of_json_dumps() {
        for (expression, expected) in [
            (r#"{"a": 1, "b": [1, 2]}|tojson"#, r#"{"a": 1, "b": [1, 2]}"#),
            (
                r#"{"a": 1, "b": [1, 2]}|tojson(separators=(",", ":"))"#,
                r#"{"a":1,"b":[1,2]}"#,
            ),
            (r#"{"a": 1}|tojson(separators=[";", "="])"#, r#"{"a"=1}"#),
            (r#"{"b": 1, "a": 2}|tojson(sort_keys=true)"#, r#"{"a": 2, "b": 1}"#),
            (
                r#""é😀\u007f<&'"|tojson(ensure_ascii=true)"#,
                "\"\\u00e9\\ud83d\\ude00\u{7f}<&'\"",
            ),
            (r#""é<&'"|tojson"#, r#""é<&'""#),
            (r#""é"|tojson(true)"#, r#""\u00e9""#),
            (r#"[1]|tojson(false, 2)"#, "[\n  1\n]"),
            (r#"[1, [2]]|tojson(indent="\t")"#, "[\n\t1,\n\t[\n\t\t2\n\t]\n]"),
            (r#"[1, 2]|tojson(indent=1, separators=(", ", ":"))"#, "[\n 1, \n 2\n]"),
            (r#"[]|tojson(indent=2)"#, "[]"),
            (
                r#"[1e16, 100.0, 0.1, 1e-5, 1.5e300, -0.0, 123456789.5]|tojson"#,
                "[1e+16, 100.0, 0.1, 1e-05, 1.5e+300, -0.0, 123456789.5]",
            ),
            (
                r#"{2: none, true: false, none: 1}|tojson"#,
                r#"{"2": null, "true": false, "null": 1}"#,
            ),
        ] {
            let got = render(&format!("{{{{ {expression} }}}}"));
            assert_eq!(got.as_deref(), Ok(expected), "{expression}");
        }
        for expression in ["[1]|tojson(seperators=1)", "[1]|tojson(separators=('a',))"] {
            assert!(render(&format!("{{{{ {expression} }}}}")).is_err(), "{expression}");
        }
    }

    /// What is not there is refused by name (dynamo #179), and marks of training leave no trace (minijinja #815).
    #[test]
    fn unknown_filters_and_marks_of_training() {
        let refused = render(r#"{{ '{"a":1}'|fromjson }}"#).unwrap_err();
        assert!(refused.contains("fromjson") && refused.contains("line 1"), "{refused}");
        for (source, expected) in [
            ("a{% generation %}b{% endgeneration %}c", "abc"),
            ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
            ("a {% generation -%} b {%- endgeneration %} c", "a b c"),
            ("a{%generation%}\nb{%endgeneration%}\nc", "abc"),
        ] {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source:?}");
        }
    }

    /// A template of a downloaded model took gigabytes or never came back: 9 of 40 tried.
    #[test]
    fn a_template_that_never_ends_or_writes_too_much_is_stopped() {
        let doubling = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = OPERATION %}{% endfor %}";
        let doubled = |operation: &str| doubling.replace("OPERATION", operation);
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
        let loops = (0..9).map(|i| format!("{{% for x{i} in range(99999) %}}"));
        let endless = loops.chain((0..9).map(|_| "{% endfor %}".into())).collect::<String>();
        for source in [
            endless,
            doubled("ns.x ~ ns.x"),
            doubled("ns.x + ns.x"),
            doubled("ns.x * 2"),
            doubled("ns.x|replace('a', ns.x)"),
            doubled("ns.x.replace('b', ns.x)"),
            doubled("[ns.x, ns.x]|join(ns.x)"),
            doubled("ns.x.join([ns.x, ns.x])"),
            doubled("'%s%s'|format(ns.x, ns.x)"),
            doubled("[ns.x, ns.x]|tojson"),
            "{{ '%999999999s'|format('x') }}".into(),
            "{{ ('x\nx' * 1000)|indent(999999999) }}".into(),
            "{{ [[1]]|tojson(indent=99999999999) }}".into(),
            "{{ [[[1, 2], 3]]|tojson(indent='x' * 90000000) }}".into(),
            "{{ range(10)|slice(10000000000)|list }}".into(),
            "{{ range(10)|batch(10000000000, 'x')|list }}".into(),
            "{{ 'x'|center(9999999999) }}".into(),
            "{{ 'x'.zfill(9999999999) }}".into(),
            "{{ 'x' * 99999999999 }}".into(),
            "{{ [1] * 99999999999 }}".into(),
            format!("{nested}{{{{ ns.x|tojson }}}}"),
            "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('ab') }}".into(),
        ] {
            let stopped = render(&source);
            assert!(
                stopped.is_err(),
                "{source}: {} bytes",
                stopped.unwrap_or_default().len()
            );
        }
        let long: Vec<Message> = (0..2000).map(|_| Message::new("user", "word ".repeat(400))).collect();
        let turns =
            ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}").unwrap();
        assert_eq!(turns.render(&long, true, &[]).unwrap().len(), 2000 * (6 + 1999 + 1));
    }

    #[test]
    fn a_refusal_carries_its_reason() {
        let template = ChatTemplate::new("{{ raise_exception('no system role') }}").unwrap();
        let error = template.render(&[], false, &[]).unwrap_err();
        assert!(error.contains("no system role"), "{error}");
        assert!(matches!(
            ChatTemplate::find(Some("{% if %}"), &Json::Null, "t"),
            Err(super::super::Error::ChatTemplate { .. })
        ));
        // The file that holds it is named, not the tokenizer's.
        let where_from = |file: Option<&str>, config: Json, tokenizer: &str| {
            let refused = ChatTemplate::find(file, &config, tokenizer).err().unwrap();
            refused.to_string()
        };
        let in_config = serde_json::json!({"chat_template": "{% if %}"});
        assert!(where_from(Some("{% if %}"), Json::Null, "m/tokenizer.json").contains(" m/chat_template.jinja "));
        assert!(where_from(None, in_config.clone(), "m/tokenizer.json").contains(" m/tokenizer_config.json "));
        assert!(where_from(None, in_config, "m.gguf").contains(" m.gguf "));
    }

    #[test]
    fn the_template_is_found_in_file_before_config_and_by_name() {
        let render = |file: Option<&str>, config: Json| {
            ChatTemplate::find(file, &config, "t")
                .unwrap()
                .map(|t| t.render(&[], false, &[]).unwrap())
        };
        let list = serde_json::json!({"chat_template": [{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}]});
        assert_eq!(render(None, list.clone()).as_deref(), Some("b"));
        assert_eq!(render(Some("c"), list).as_deref(), Some("c"));
        assert_eq!(
            render(None, serde_json::json!({"chat_template": "d"})).as_deref(),
            Some("d")
        );
        assert_eq!(render(None, serde_json::json!({})), None);
    }

    #[test]
    fn today_is_always_the_same_day() {
        let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}").unwrap();
        assert_eq!(template.render(&[], false, &[]).unwrap(), "26 Jul 2024");
    }
}
