//! From rows to prompts, to the character as lm-eval assembles them.
//!
//! A template is Jinja with Python's string methods, as in the harness. A prompt is kept in turns, so that it can become
//! plain text or the messages of a chat; which of the two, and in whose chat template, is the runner's business.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig, value::ValueKind};

use super::{Error, data::Row, identity::Identity, maths, python};
use heterosis_engine::{on_a_deep_stack, refuse_nested_namespaces, template_value};

/// A compiled template; unknown fields are errors.
#[derive(Clone, Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// What the template is for, for error messages: `gsm8k: prompt`.
    place: String,
    /// The fields that it names.
    fields: Vec<String>,
}

const ONLY: &str = "text";

/// What one rendering may spend (an instruction, or 64 bytes, each; 3 MB at most): a task file is often somebody else's.
const FUEL: u64 = 50_000;

impl Template {
    /// # Errors
    /// Bad Jinja.
    pub fn new(place: impl Into<String>, source: &str) -> Result<Self, Error> {
        let place = place.into();
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|source| Error::template(&place, &source))?;
        environment.set_syntax(syntax.clone());
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(python::method);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::text(value))?));
        environment.add_filter("regex_replace", python::regex_replace);
        environment.add_filter("boxed", |text: &str| {
            maths::last_boxed(text).unwrap_or_default().to_string()
        });
        refuse_nested_namespaces(source, &syntax)
            .and_then(|()| environment.add_template_owned(ONLY, source.to_string()))
            .map_err(|source| Error::template(&place, &source))?;
        let template = environment
            .get_template(ONLY)
            .map_err(|source| Error::template(&place, &source))?;
        let mut fields: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        fields.sort_unstable();
        Ok(Template {
            environment,
            place,
            fields,
        })
    }

    /// The same template, which asks one field.
    pub fn asking(mut self, field: &str) -> Self {
        self.fields = vec![field.into()];
        self
    }

    /// What it is for.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The fields that it names, whether a row has them or not.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// # Errors
    /// A field that the row does not have.
    pub fn render(&self, row: &Row) -> Result<String, Error> {
        let fields: BTreeMap<_, _> = row
            .iter()
            .map(|(name, field)| (name.clone(), template_value(field)))
            .collect();
        let render = || self.environment.get_template(ONLY)?.render(fields);
        self.deep(render)?
            .map_err(|source| Error::template(&self.place, &source))
    }

    fn deep<T: Send>(&self, render: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_a_deep_stack(render).map_err(|message| Error::Template {
            place: self.place.clone(),
            message,
        })
    }
}

/// A Jinja expression that gives a list of texts, such as `choices.text`.
#[derive(Clone, Debug)]
pub struct ListExpression {
    template: Template,
    source: String,
}

impl ListExpression {
    /// # Errors
    /// Bad Jinja.
    pub fn new(place: impl Into<String>, source: &str) -> Result<Self, Error> {
        let template = Template::new(place, "")?;
        template
            .environment
            .compile_expression(source)
            .map_err(|source| Error::template(&template.place, &source))?;
        Ok(ListExpression {
            template,
            source: source.into(),
        })
    }

    /// # Errors
    /// A field that the row does not have, a value that is no list of texts or numbers.
    pub fn evaluate(&self, row: &Row) -> Result<Vec<String>, Error> {
        self.template.deep(|| self.texts(row))?
    }

    fn texts(&self, row: &Row) -> Result<Vec<String>, Error> {
        let Template { environment, place, .. } = &self.template;
        let fields: BTreeMap<_, _> = row
            .iter()
            .map(|(name, field)| (name.clone(), template_value(field)))
            .collect();
        let list = environment
            .compile_expression(&self.source)
            .and_then(|expression| expression.eval(fields))
            .map_err(|source| Error::template(place, &source))?;
        match list.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items = list.try_iter().map_err(|source| Error::template(place, &source))?;
                Ok(items.map(|item| python::text(&item)).collect())
            }
            other => Err(Error::Template {
                place: place.clone(),
                message: format!("'{}' is a {other}, not a list", self.source),
            }),
        }
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// Its text, without the template's marks.
    pub content: String,
}

/// How to put questions to a chat model: lm-eval's `--apply_chat_template`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// `--system_instruction`.
    pub system: Option<String>,
    /// `--fewshot_as_multiturn false`: examples and question in one message.
    pub one_message: bool,
    /// What the model's template is told besides, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A question that was answered, as an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Its content, as a question's.
    pub identity: Identity,
    /// What was asked in it.
    pub question: String,
    /// Between the question and its answer.
    pub delimiter: String,
    /// What was right.
    pub answer: String,
    /// After the answer.
    pub end: String,
}

/// What a model is asked, in turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Before everything else; in a chat, (the end of) the system message.
    pub preamble: String,
    /// Worked examples, in the order in which they stand.
    pub shots: Vec<Shot>,
    /// What is asked at the end.
    pub question: String,
    /// What the answer begins with, said for the model; empty as a rule.
    pub answer_prefix: String,
    /// Between the question and what follows it.
    pub target_delimiter: String,
    /// After each example, and between a system message and the preamble.
    pub fewshot_delimiter: String,
}

impl Prompt {
    /// The prompt of a base model: the preamble, the examples with their delimiters, then the question with nothing after it.
    pub fn text(&self) -> String {
        format!("{}{}{}", self.preamble, self.turns(&self.question), self.opening())
    }

    /// The same prompt with another question.
    pub fn asking(&self, question: &str) -> Prompt {
        Prompt {
            question: question.into(),
            ..self.clone()
        }
    }

    /// Whether the question and what its answer begins with would run together.
    pub fn needs_delimiter(&self) -> bool {
        needs_delimiter(&self.question, &self.answer_prefix)
    }

    fn turns(&self, question: &str) -> String {
        let mut text = String::new();
        for shot in &self.shots {
            text.push_str(&shot.question);
            if !shot.answer.is_empty() {
                text.push_str(&shot.delimiter);
                text.push_str(&shot.answer);
                text.push_str(&shot.end);
            }
        }
        text + question
    }

    /// What begins the answer in plain text.
    fn opening(&self) -> String {
        match needs_delimiter(&self.question, &self.answer_prefix) {
            true => format!("{}{}", self.target_delimiter, self.answer_prefix),
            false => self.answer_prefix.clone(),
        }
    }

    /// The prompt as messages: each example a user's and an assistant's turn, without delimiters; or all in one. What the
    /// answer begins with is the assistant's own last message, which is to be continued.
    pub fn messages(&self, chat: &Chat) -> Vec<Message> {
        let message = |role, content: &str| Message {
            role,
            content: content.into(),
        };
        let system = chat.system.as_deref().unwrap_or_default();
        let system = joined(system, &self.preamble, &self.fewshot_delimiter);
        let system = Some(system).filter(|text| !text.is_empty());
        let mut messages: Vec<Message> = system.iter().map(|text| message("system", text)).collect();
        if chat.one_message {
            messages.push(message("user", &self.turns(&self.question)));
        } else {
            for shot in &self.shots {
                messages.push(message("user", &shot.question));
                if !shot.answer.is_empty() {
                    messages.push(message("assistant", &shot.answer));
                }
            }
            messages.push(message("user", &self.question));
        }
        if !self.answer_prefix.is_empty() {
            messages.push(message("assistant", &self.answer_prefix));
        }
        messages
    }
}

/// Whether a text and what follows it would run together.
fn needs_delimiter(before: &str, after: &str) -> bool {
    let ends_apart = before.ends_with(char::is_whitespace) || after.starts_with(char::is_whitespace);
    !before.is_empty() && !after.is_empty() && !ends_apart
}

/// lm-eval's `maybe_delimit`.
pub fn joined(before: &str, after: &str, delimiter: &str) -> String {
    match needs_delimiter(before, after) {
        true => format!("{before}{delimiter}{after}"),
        false => format!("{before}{after}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let row: Row = [
            ("question".to_string(), "¿Cuánto?\n".into()),
            ("answer".to_string(), "Ответ: a #### 1,200".into()),
            ("n".to_string(), 7.into()),
        ]
        .into();
        Template::new("t: prompt", source)?.render(&row)
    }

    /// Expected values from jinja2 3.1 with lm-eval's settings.
    #[test]
    fn templates_are_jinjas() {
        for (source, expected) in [
            ("Q: {{question}}\nA:\n", "Q: ¿Cuánto?\n\nA:\n"),
            ("{{answer.split('####')[-1].strip()}}", "1,200"),
            ("{{answer[7:]}}", "a #### 1,200"),
            ("{{answer[6:8] + n|string}}|", " a7|"),
            ("{{answer.split(':', 1)[1].strip()}}", "a #### 1,200"),
            ("{{answer|replace(',', '')}}", "Ответ: a #### 1200"),
            ("<{{n}}> & {x}", "<7> & {x}"),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    /// A task file is often somebody else's: what its templates do has an end.
    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let doubling =
            "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        let message = render(doubling).unwrap_err().to_string();
        assert!(message.contains("t: prompt") && message.contains("fuel"), "{message}");
        let nested = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
        assert!(render(nested).is_err());
        // Within the fuel, and deeper than a thread's stack.
        let deep =
            "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}";
        assert_eq!(render(deep).map(|text| text.len()).ok(), Some(10_002));
        // It ended the program: a value in itself is printed until the stack is used up.
        let itself = "{%- set all = namespace(texts=[]) -%}{%- set all.texts = all%}{{- all.texts -}}";
        let message = render(itself).unwrap_err().to_string();
        assert!(message.contains("`all` is used as a value"), "{message}");
        let list = ListExpression::new("t: choices", "(range(99999)|list) * 99999").unwrap();
        assert!(list.evaluate(&Row::new()).is_err());
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        let message = render("{{qestion}}").unwrap_err().to_string();
        assert!(message.contains("t: prompt"), "{message}");
        assert!(render("{{question").is_err());
    }

    fn prompt() -> Prompt {
        let shot = |q: &str, a: &str| Shot {
            identity: Identity::default(),
            question: q.into(),
            delimiter: " ".into(),
            answer: a.into(),
            end: "\n\n".into(),
        };
        Prompt {
            shots: vec![shot("Q: 1\nA:", "one"), shot("Q: 2\nA:", "")],
            question: "Q: 3\nA:".into(),
            target_delimiter: " ".into(),
            fewshot_delimiter: "\n\n".into(),
            ..Prompt::default()
        }
    }

    #[test]
    fn plain_text() {
        assert_eq!(prompt().text(), "Q: 1\nA: one\n\nQ: 2\nA:Q: 3\nA:");
    }

    #[test]
    fn messages() {
        let mut chat = Chat {
            system: Some("Be brief.".into()),
            ..Chat::default()
        };
        let roles = |chat: &Chat| -> Vec<&str> { prompt().messages(chat).iter().map(|m| m.role).collect() };
        assert_eq!(roles(&chat), ["system", "user", "assistant", "user", "user"]);
        chat.one_message = true;
        assert_eq!(roles(&chat), ["system", "user"]);
        assert_eq!(prompt().messages(&Chat::default())[1].content, "one");
    }

    /// lm-eval's `description` and `gen_prefix`.
    #[test]
    fn a_preamble_and_a_begun_answer() {
        let prompt = Prompt {
            preamble: "About sums.\n\n".into(),
            answer_prefix: "It is".into(),
            ..prompt()
        };
        assert_eq!(prompt.text(), "About sums.\n\nQ: 1\nA: one\n\nQ: 2\nA:Q: 3\nA: It is");
        let chat = Chat {
            system: Some("Be brief.".into()),
            one_message: true,
            ..Chat::default()
        };
        let contents: Vec<String> = prompt.messages(&chat).into_iter().map(|m| m.content).collect();
        assert_eq!(
            contents,
            [
                "Be brief.\n\nAbout sums.\n\n".to_string(),
                "Q: 1\nA: one\n\nQ: 2\nA:Q: 3\nA:".into(),
                "It is".into()
            ]
        );
    }
}
