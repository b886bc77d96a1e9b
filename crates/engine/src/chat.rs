//! Chat templates: Jinja as transformers runs it (trimmed blocks, its own `tojson`, `raise_exception`, `strftime_now`).
//!
//! `strftime_now` gives a fixed date, so that a prompt is the same on every day; `{% generation %}` marks are dropped.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::Value as Json;

use super::tokenizer::Message;

/// The day that templates see as today.
const TODAY: jiff::civil::Date = jiff::civil::date(2024, 7, 26);

pub(super) struct ChatTemplate {
    environment: Environment<'static>,
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
        let fail = |e: Error| super::Error::ChatTemplate {
            file: tokenizer.to_string(),
            reason: describe(&e),
        };
        Self::new(&source).map(Some).map_err(fail)
    }

    fn new(source: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, TODAY)
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment.add_template_owned(NAME, prepare(source))?;
        Ok(ChatTemplate { environment })
    }

    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        special: &[(String, String)],
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
        let values = Value::from_pairs(fixed.into_iter().chain(special));
        template.render(values).map_err(|e| describe(&e))
    }
}

fn describe(error: &Error) -> String {
    let at = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    format!("{}{at}", error.detail().unwrap_or(&error.to_string()))
}

/// Drops the marks of `{% generation %}` blocks, which only matter in training, but not what they do to white space.
fn prepare(source: &str) -> String {
    let mark = regex::Regex::new(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}").expect("a valid pattern");
    mark.replace_all(source, "{%$1 if true %}{% endif $2%}").into_owned()
}

/// `json.dumps(x, ensure_ascii=False, indent=…)`: Python's separators, nothing escaped for HTML.
fn tojson(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let sort: Option<bool> = kwargs.get("sort_keys")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let _: Option<Value> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dump(&value, indent, sort.unwrap_or(false), 0, &mut out)?;
    Ok(out)
}

fn dump(value: &Value, indent: Option<usize>, sort: bool, depth: usize, out: &mut String) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => out.push_str(&Json::from(value.as_str().unwrap_or_default()).to_string()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                dump(item, indent, sort, depth + 1, out)?;
            }
            if !items.is_empty() {
                line(depth, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if sort {
                keys.sort_by_key(Value::to_string);
            }
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                out.push_str(&Json::from(key.to_string()).to_string());
                out.push_str(": ");
                dump(&value.get_item(key)?, indent, sort, depth + 1, out)?;
            }
            if !keys.is_empty() {
                line(depth, out);
            }
            out.push('}');
        }
        other => {
            return Err(Error::new(ErrorKind::BadSerialization, format!("{other} is not JSON")));
        }
    }
    Ok(())
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

    #[test]
    fn a_refusal_carries_its_reason() {
        let template = ChatTemplate::new("{{ raise_exception('no system role') }}").unwrap();
        let error = template.render(&[], false, &[]).unwrap_err();
        assert!(error.contains("no system role"), "{error}");
        assert!(matches!(
            ChatTemplate::find(Some("{% if %}"), &Json::Null, "t"),
            Err(super::super::Error::ChatTemplate { .. })
        ));
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
