//! What a row says: the question, what there is to choose from, what is right, and how an example shows it.
//!
//! Two ways of writing it down end here: this project's templates ([`Own`]), and lm-evaluation-harness's `doc_to_text`,
//! `doc_to_target` and `doc_to_choice` ([`DocTo`]), whose values change their meaning with their type.

use serde_json::Value;

use super::{
    Error, Kind,
    data::Row,
    exemplars::literal,
    extract,
    prompt::{ListExpression, Template},
    python,
};

/// A row, put into words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worded {
    pub question: String,
    pub choices: Vec<String>,
    /// The choices stand in the question, one after the other, and this follows each of them.
    pub follows: Option<String>,
    /// Places of the right choices. None: nothing is right, as in the harness where a label names no choice.
    pub right: Vec<usize>,
    /// What an answer is compared with.
    pub gold: String,
    /// What an example shows as its answer.
    pub target: String,
}

/// How the rows of a task are put into words.
#[derive(Clone, Debug)]
pub enum Wording {
    Own(Box<Own>),
    Harness(Box<DocTo>),
}

impl Wording {
    /// A row with the words of its language, as a question.
    ///
    /// # Errors
    /// A field that is missing, choices that are none.
    pub fn of(&self, row: &Row) -> Result<Worded, Error> {
        match self {
            Wording::Own(own) => own.of(row),
            Wording::Harness(doc_to) => doc_to.of(row),
        }
    }

    /// A row as an example: its question and its answer, and what is right in it.
    ///
    /// # Errors
    /// As [`Wording::of`].
    pub fn example(&self, row: &Row) -> Result<Worded, Error> {
        match self {
            Wording::Own(own) => own.example(row),
            Wording::Harness(doc_to) => doc_to.example(row),
        }
    }

    /// The templates of which a row's fields are asked.
    pub fn asking(&self) -> Option<&Template> {
        match self {
            Wording::Own(own) => own.prompt.as_ref(),
            Wording::Harness(doc_to) => Some(&doc_to.text.template),
        }
    }

    /// As [`Wording::asking`], of examples.
    pub fn asking_example(&self) -> Option<&Template> {
        match self {
            Wording::Own(own) => own.example_prompt.as_ref().or(own.prompt.as_ref()),
            Wording::Harness(doc_to) => Some(&doc_to.example_text.as_ref().unwrap_or(&doc_to.text).template),
        }
    }

    /// The templates that every question fills.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Wording::Own(own) => own.prompt.iter().chain([&own.gold]).chain(&own.target).collect(),
            Wording::Harness(_) => Vec::new(),
        }
    }

    /// What several right answers look like in one text; one answer else.
    pub fn golds(&self, gold: &str) -> Vec<String> {
        let several = match self {
            Wording::Harness(doc_to) if doc_to.choices.is_none() && gold.starts_with('[') => literal(gold),
            _ => None,
        };
        match several {
            Some(Value::Array(golds)) => golds.iter().map(python::text_of).collect(),
            _ => vec![gold.to_string()],
        }
    }
}

/// Templates of this project's task files.
#[derive(Clone, Debug)]
pub struct Own {
    pub kind: Kind,
    pub prompt: Option<Template>,
    pub gold: Template,
    /// Where it is not the gold answer.
    pub target: Option<Template>,
    pub choices: Choices,
    pub right: Right,
    /// What follows where the choices stand in the question.
    pub continuation: Option<Template>,
    /// Of examples, where they are written unlike questions.
    pub example_prompt: Option<Template>,
    pub example_target: Option<Template>,
}

/// Where the choices of a question come from, ready to be filled in.
#[derive(Clone, Debug)]
pub enum Choices {
    /// A task without choices.
    None,
    /// Each a template.
    Each(Vec<Template>),
    /// An expression that gives the list.
    List(Box<ListExpression>),
}

/// How a task says which choice is right.
#[derive(Clone, Debug)]
pub enum Right {
    /// The gold answer is its text.
    Text,
    /// The gold answer is its place.
    Place,
    /// A list of 0 and 1, one for each choice.
    Labels(Box<ListExpression>),
}

impl Own {
    fn of(&self, row: &Row) -> Result<Worded, Error> {
        let mut gold = self.gold.render(row)?;
        let target = self.target.as_ref().map(|t| t.render(row)).transpose()?;
        let choices = self.choices_of(row)?;
        let right = self.right_of(row, &gold, &choices)?;
        if let Some(choice) = right.first().and_then(|i| choices.get(*i)) {
            gold.clone_from(choice);
        }
        // What stands in the place of a choice is filled in later.
        let holds_choices = self.kind == Kind::Blank || self.continuation.is_some();
        let prompt = self.prompt.as_ref().filter(|_| !holds_choices);
        Ok(Worded {
            question: prompt.map(|t| t.render(row)).transpose()?.unwrap_or_default(),
            follows: self.continuation.as_ref().map(|t| t.render(row)).transpose()?,
            target: target.unwrap_or_else(|| gold.clone()),
            choices,
            right,
            gold,
        })
    }

    /// The question with a choice where it says `choice`.
    ///
    /// # Errors
    /// A field that is missing.
    pub fn with_choice(&self, row: &Row, choice: &str) -> Result<String, Error> {
        let Some(prompt) = &self.prompt else {
            return Ok(choice.into());
        };
        let mut row = row.clone();
        row.insert("choice".into(), choice.into());
        prompt.render(&row)
    }

    fn choices_of(&self, row: &Row) -> Result<Vec<String>, Error> {
        match &self.choices {
            Choices::None => Ok(Vec::new()),
            Choices::Each(templates) => templates.iter().map(|t| t.render(row)).collect(),
            Choices::List(list) => list.evaluate(row),
        }
    }

    fn right_of(&self, row: &Row, gold: &str, choices: &[String]) -> Result<Vec<usize>, Error> {
        let place = match &self.right {
            Right::Labels(labels) => {
                let labels = labels.evaluate(row)?;
                let is_right = |i: &usize| labels.get(*i).is_some_and(|label| label == "1" || label == "True");
                return Ok((0..choices.len()).filter(is_right).collect());
            }
            Right::Place => extract::position(gold).filter(|place| *place < choices.len()),
            Right::Text => choices.iter().position(|text| text == gold),
        };
        Ok(place.into_iter().collect())
    }

    fn example(&self, row: &Row) -> Result<Worded, Error> {
        // Examples may have other fields than questions: the gold answer is then what they show.
        let said = match &self.example_target {
            Some(target) => Some(target.render(row)?),
            None => None,
        };
        let worded = match (self.of(row), &said) {
            (Ok(worded), _) => worded,
            (Err(_), Some(said)) => Worded {
                gold: said.clone(),
                ..Worded::default()
            },
            (Err(e), None) => return Err(e),
        };
        let question = match (&self.example_prompt, &worded.follows) {
            (Some(prompt), _) => prompt.render(row)?,
            (None, Some(_)) => self.with_choice(row, &worded.gold)?,
            (None, None) => self
                .prompt
                .as_ref()
                .map(|t| t.render(row))
                .transpose()?
                .unwrap_or_default(),
        };
        let target = said.or(worded.follows.clone()).unwrap_or(worded.target);
        Ok(Worded {
            question,
            target,
            ..worded
        })
    }
}

/// A value of lm-evaluation-harness's: the name of a field, a template, or the value itself.
#[derive(Clone, Debug)]
pub struct Doc {
    source: Value,
    pub template: Template,
}

impl Doc {
    /// # Errors
    /// Bad Jinja.
    pub fn new(place: &str, source: Value) -> Result<Self, Error> {
        let template = Template::new(place, source.as_str().unwrap_or_default())?;
        // The name of a field is what is asked, and not a text without fields.
        let template = match source.as_str() {
            Some(name) if is_name(name) => template.asking(name),
            _ => template,
        };
        Ok(Doc { source, template })
    }

    /// The value, and whether it is a template's text.
    fn evaluate(&self, row: &Row) -> Result<(Value, bool), Error> {
        match &self.source {
            Value::String(source) => match row.get(source) {
                Some(field) => Ok((field.clone(), false)),
                None => Ok((self.template.render(row)?.into(), true)),
            },
            other => Ok((other.clone(), false)),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// lm-evaluation-harness's way to word a row.
#[derive(Clone, Debug)]
pub struct DocTo {
    pub kind: Kind,
    pub text: Doc,
    pub target: Doc,
    pub choices: Option<Doc>,
    /// Of examples, where they are worded unlike questions.
    pub example_text: Option<Doc>,
    pub example_target: Option<Doc>,
    pub example_choices: Option<Doc>,
}

impl DocTo {
    fn of(&self, row: &Row) -> Result<Worded, Error> {
        let (text, target) = (self.text_of(&self.text, row)?, self.target_of(&self.target, row)?);
        let choices = self.choices.as_ref().map(|c| choices_of(c, row)).transpose()?;
        let mut worded = Worded {
            target: shown(&target, choices.as_deref()),
            ..Worded::default()
        };
        if let (Some(choices), Kind::Generate) = (&choices, self.kind) {
            let place = place_of(&target).and_then(|place| choices.get(place));
            worded.gold = place.cloned().unwrap_or_else(|| python::text_of(&target));
            worded.question = python::text_of(&text);
            return Ok(worded);
        }
        let choices = choices.unwrap_or_default();
        // A number in the question's place says which choice is right: the choices are then what is asked.
        match place_of(&text).filter(|_| !choices.is_empty()) {
            Some(place) => {
                worded.follows = Some(python::text_of(&target));
                worded.right = Some(place).filter(|place| *place < choices.len()).into_iter().collect();
            }
            None => {
                worded.question = python::text_of(&text);
                worded.right = right_of(&target, &choices);
            }
        }
        worded.gold = match worded.right.first().and_then(|i| choices.get(*i)) {
            Some(choice) => choice.clone(),
            None => python::text_of(&target),
        };
        worded.choices = choices;
        Ok(worded)
    }

    fn example(&self, row: &Row) -> Result<Worded, Error> {
        let text = self.text_of(self.example_text.as_ref().unwrap_or(&self.text), row)?;
        let target = self.target_of(self.example_target.as_ref().unwrap_or(&self.target), row)?;
        let choices = self.example_choices.as_ref().or(self.choices.as_ref());
        let choices = choices.map(|c| choices_of(c, row)).transpose()?;
        let asked = place_of(&text).and_then(|place| choices.as_deref()?.get(place).cloned());
        let target = match &asked {
            Some(_) => python::text_of(&target),
            None => shown(&target, choices.as_deref()),
        };
        Ok(Worded {
            question: asked.unwrap_or_else(|| python::text_of(&text)),
            gold: target.clone(),
            target,
            ..Worded::default()
        })
    }

    fn text_of(&self, doc: &Doc, row: &Row) -> Result<Value, Error> {
        let (value, is_rendered) = doc.evaluate(row)?;
        let text = value.as_str().filter(|_| is_rendered).unwrap_or_default();
        Ok(match digits(text).filter(|_| self.choices.is_some()) {
            Some(place) => place.into(),
            None => value,
        })
    }

    fn target_of(&self, doc: &Doc, row: &Row) -> Result<Value, Error> {
        let (value, is_rendered) = doc.evaluate(row)?;
        let text = value.as_str().filter(|_| is_rendered).unwrap_or_default();
        if let Some(place) = digits(text).filter(|_| self.choices.is_some()) {
            return Ok(place.into());
        }
        let is_list = text.len() >= 2 && text.starts_with('[') && text.ends_with(']');
        Ok(literal(text).filter(|_| is_list).unwrap_or(value))
    }
}

/// The number that a text of digits alone is.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// A place among choices: a number, or Python's `True` and `False`.
fn place_of(value: &Value) -> Option<usize> {
    match value {
        Value::Bool(b) => Some(usize::from(*b)),
        value => value.as_u64().map(|place| place as usize),
    }
}

/// What an example shows: the choice whose place is given, the first of several answers, or the answer.
fn shown(target: &Value, choices: Option<&[String]>) -> String {
    let chosen = choices.and_then(|choices| choices.get(place_of(target)?));
    match (chosen, target) {
        (Some(choice), _) => choice.clone(),
        (None, Value::Array(several)) => several.first().map(python::text_of).unwrap_or_default(),
        (None, Value::Null) => String::new(),
        (None, target) => python::text_of(target),
    }
}

fn right_of(target: &Value, choices: &[String]) -> Vec<usize> {
    let place = |value: &Value| match value {
        Value::String(text) => choices.iter().position(|choice| choice == text),
        value => place_of(value).filter(|place| *place < choices.len()),
    };
    match target {
        Value::Array(several) => several.iter().filter_map(place).collect(),
        one => place(one).into_iter().collect(),
    }
}

fn choices_of(doc: &Doc, row: &Row) -> Result<Vec<String>, Error> {
    let (value, is_rendered) = doc.evaluate(row)?;
    let list = match (&value, is_rendered) {
        (Value::String(text), true) => literal(text),
        (value, _) => Some(value.clone()),
    };
    match list {
        Some(Value::Array(items)) => Ok(items.iter().map(python::text_of).collect()),
        Some(Value::Object(items)) => Ok(items.values().map(python::text_of).collect()),
        _ => Err(Error::Template {
            place: "doc_to_choice".into(),
            message: format!("a list is expected, not {}", python::text_of(&value)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(source: Value) -> Doc {
        Doc::new("t: doc", source).unwrap()
    }

    fn harness(kind: Kind, text: Value, target: Value, choices: Option<Value>) -> Wording {
        Wording::Harness(Box::new(DocTo {
            kind,
            text: doc(text),
            target: doc(target),
            choices: choices.map(doc),
            example_text: None,
            example_target: None,
            example_choices: None,
        }))
    }

    fn row() -> Row {
        let json = serde_json::json!({
            "q": "Which?", "label": 1, "flag": true, "key": " B", "texts": ["x", "it's"], "labels": ["A", "B"],
            "digits": "1", "many": ["one", "eins"], "a": "12",
        });
        json.as_object().unwrap().clone().into_iter().collect()
    }

    /// Each of these is what `ConfigurableTask` of lm-eval 0.4.13 makes of the same row.
    #[test]
    fn the_harnesss_values_mean_what_their_types_say() {
        let choose = |text: Value, target: Value, choices: Value| {
            let wording = harness(Kind::MultipleChoice, text, target, Some(choices));
            (wording.of(&row()).unwrap(), wording.example(&row()).unwrap())
        };
        let (worded, example) = choose("{{q}} ".into(), "label".into(), "{{texts}}".into());
        assert_eq!(
            (worded.question.as_str(), worded.right.as_slice()),
            ("Which? ", &[1][..])
        );
        assert_eq!(
            (worded.choices.as_slice(), worded.gold.as_str()),
            (&["x".to_string(), "it's".into()][..], "it's")
        );
        assert_eq!(example.target, "it's");
        let by_key = choose("q".into(), "{{labels.index(key.lstrip())}}".into(), "texts".into()).0;
        assert_eq!(
            (by_key.question.as_str(), by_key.right.as_slice()),
            ("Which?", &[1][..])
        );
        assert_eq!(
            choose("q".into(), "flag".into(), serde_json::json!(["no", "yes"]))
                .0
                .right,
            [1]
        );
        assert_eq!(choose("q".into(), "it's".into(), "texts".into()).0.right, [1]);
        assert_eq!(
            choose("q".into(), "z".into(), "texts".into()).0.right,
            Vec::<usize>::new()
        );
        assert_eq!(
            choose("q".into(), 7.into(), "texts".into()).0.right,
            Vec::<usize>::new()
        );
        assert_eq!(
            choose("q".into(), serde_json::json!([0, 1]), "texts".into()).0.right,
            [0, 1]
        );
        let named = serde_json::json!({"first": "a", "second": "b"});
        assert_eq!(choose("q".into(), 0.into(), named).0.choices, ["a", "b"]);
        // WinoGrande's way: the question is the place of the right choice.
        let (worded, example) = choose("{{digits}}".into(), "a".into(), "texts".into());
        assert_eq!(
            (worded.follows.as_deref(), worded.right.as_slice()),
            (Some("12"), &[1][..])
        );
        assert_eq!((example.question.as_str(), example.target.as_str()), ("it's", "12"));
    }

    #[test]
    fn the_harnesss_golds_of_generated_answers() {
        let generate = |target: Value| harness(Kind::Generate, "q".into(), target, None);
        let wording = generate("many".into());
        let worded = wording.of(&row()).unwrap();
        assert_eq!(wording.golds(&worded.gold), ["one", "eins"]);
        assert_eq!(worded.target, "one");
        // Digits are a text where there is nothing to choose.
        assert_eq!(generate("{{a}}".into()).of(&row()).unwrap().gold, "12");
        assert_eq!(generate("label".into()).of(&row()).unwrap().gold, "1");
        let chosen = harness(Kind::Generate, "q".into(), "label".into(), Some("texts".into()));
        assert_eq!(chosen.of(&row()).unwrap().gold, "it's");
    }
}
