//! Who gives a search advice: a model of this machine, or one behind an OpenAI-compatible address.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Error, Session};
use crate::{
    eval::reply_prompt,
    event,
    host::{Host, Post},
    model::{DType, Device, Engine, Message, Request},
    models::{self, DeviceChoice, Opened, Runtime, RuntimeOptions},
    search,
    space::Guide,
};

/// How long a reply is waited for, which comes when the last token is written.
const LONGEST: Duration = Duration::from_secs(600);

/// Asks as a search's guide says.
pub(super) struct Adviser<'a> {
    guide: &'a Guide,
    who: Who<'a>,
}

enum Who<'a> {
    /// Loaded when it is first asked.
    Here {
        opened: &'a Opened,
        engine: Option<Box<Engine>>,
    },
    There {
        endpoint: &'a str,
        host: &'a Host,
    },
}

impl Session {
    /// A model of this machine is opened with the others, so that what is wrong with it is told before a run begins.
    pub(super) fn with_guide(self) -> Result<Self, Error> {
        let here = self
            .space
            .search
            .guide
            .as_ref()
            .filter(|guide| guide.endpoint.is_none());
        let opened = here.map(|guide| Opened::open(&guide.model, &self.host.hub)).transpose();
        let guide = opened.map_err(Error::from).map_err(Error::at("search.guide.model"))?;
        Ok(Self { guide, ..self })
    }

    /// The model of this machine that gives advice, as the journal knows it.
    pub(super) fn guide_model(&self) -> Result<Option<event::GuideModel>, Error> {
        let (Some(guide), Some(opened)) = (&self.space.search.guide, &self.guide) else {
            return Ok(None);
        };
        Ok(Some(event::GuideModel {
            model: guide.model.clone(),
            digest: opened.digest()?,
        }))
    }

    /// The model of this machine that gives advice, loaded as a search loads it; `None` where nobody does, or somebody elsewhere.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn guide_engine(&self) -> Result<Option<Engine>, Error> {
        Ok(self.guide.as_ref().map(loaded).transpose()?)
    }

    /// What a search is going to ask for as advice; `None` where nobody gives it.
    ///
    /// # Errors
    /// Genes that the optimizer cannot move.
    pub fn expected_advice(&self) -> Result<Option<search::ExpectedAdvice>, Error> {
        search::expected_advice(&self.genome, &self.space, &self.tasks).map_err(Error::plan)
    }

    pub(super) fn adviser(&self) -> Option<Adviser<'_>> {
        let guide = self.space.search.guide.as_ref()?;
        let who = match (&guide.endpoint, &self.guide) {
            (Some(endpoint), _) => Who::There {
                endpoint,
                host: &self.host,
            },
            (None, opened) => Who::Here {
                opened: opened.as_ref()?,
                engine: None,
            },
        };
        Some(Adviser { guide, who })
    }
}

impl search::Adviser for Adviser<'_> {
    fn reply(&mut self, question: &str) -> Result<String, String> {
        let replied = match &mut self.who {
            Who::Here { opened, engine } => {
                let engine = match engine {
                    Some(engine) => engine,
                    None => engine.insert(Box::new(loaded(opened).map_err(|e| e.to_string())?)),
                };
                generated(engine, question, self.guide.tokens)
            }
            Who::There { endpoint, host } => completed(&host.post, endpoint, self.guide, &*host.variable, question),
        };
        replied.map_err(|reason| format!("{}: {reason}", self.guide.model))
    }
}

/// On the CPU: a graphics card is the search's.
fn loaded(opened: &Opened) -> Result<Engine, models::Error> {
    let runtime = Runtime::new(&RuntimeOptions {
        device: DeviceChoice::These(vec![Device::Cpu]),
        dtype: Some(DType::F32),
        ..RuntimeOptions::default()
    });
    runtime.and_then(|runtime| opened.engine(&runtime))
}

/// The likeliest text, so that the same question has the same reply.
fn generated(engine: &mut Engine, question: &str, tokens: usize) -> Result<String, String> {
    let prompt = reply_prompt(engine.tokenizer(), &[Message::new("user", question)]).map_err(|e| e.to_string())?;
    let (asked, most) = (prompt.len(), engine.decoder().spec().max_positions);
    let room = most.saturating_sub(asked);
    if room == 0 {
        return Err(format!(
            "the question has {asked} tokens, and there is room for {most}; take a model with more room, or a space with fewer genes"
        ));
    }
    let request = Request {
        loop_guard: true,
        ..Request::new(prompt, tokens.min(room))
    };
    let replies = engine.generate(&[request], &mut |_| {}).map_err(|e| e.to_string())?;
    Ok(replies.into_iter().next().map(|reply| reply.text).unwrap_or_default())
}

fn completed(
    post: &Post,
    endpoint: &str,
    guide: &Guide,
    variable: &dyn Fn(&str) -> Option<String>,
    question: &str,
) -> Result<String, String> {
    let key = match &guide.key {
        Some(name) => {
            Some(variable(name).ok_or_else(|| format!("the environment has no {name}, which is to hold the key"))?)
        }
        None => None,
    };
    let asked = json!({
        "model": guide.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": guide.tokens,
        "temperature": 0,
    });
    let body = post(
        &format!("{endpoint}/chat/completions"),
        key.as_deref(),
        &asked.to_string(),
        LONGEST,
    )?;
    let reply: Value = serde_json::from_slice(&body).map_err(|e| format!("{endpoint} gives no JSON: {e}"))?;
    let text = reply.pointer("/choices/0/message/content").and_then(Value::as_str);
    let text = text.ok_or_else(|| format!("{endpoint} gives no choices[0].message.content"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn guide(key: Option<&str>) -> Guide {
        Guide {
            model: "wise".into(),
            endpoint: Some("http://there/v1".into()),
            key: key.map(str::to_owned),
            every: 1,
            tokens: 64,
        }
    }

    #[test]
    fn an_endpoint_is_asked_as_openai_is_and_only_it_gets_the_key() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let to = seen.clone();
        let post: Post = Arc::new(move |url, token, json, _| {
            to.lock()
                .unwrap()
                .push((url.to_owned(), token.map(str::to_owned), json.to_owned()));
            Ok(br#"{"choices": [{"message": {"role": "assistant", "content": "1,2"}}]}"#.to_vec())
        });
        let variable = |name: &str| (name == "KEY").then(|| "secret".to_owned());
        let replied = completed(&post, "http://there/v1", &guide(Some("KEY")), &variable, "What?");
        assert_eq!(replied, Ok("1,2".into()));
        let (url, token, json) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(
            (url.as_str(), token.as_deref()),
            ("http://there/v1/chat/completions", Some("secret"))
        );
        let asked: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&asked["model"], &asked["messages"][0]["content"]),
            (&json!("wise"), &json!("What?"))
        );
        let missing = completed(&post, "http://there/v1", &guide(Some("OTHER")), &variable, "What?").unwrap_err();
        assert!(
            missing.contains("OTHER") && seen.lock().unwrap().is_empty(),
            "{missing}"
        );
    }

    #[test]
    fn what_is_no_reply_is_told() {
        for (body, reason) in [
            ("", "no JSON"),
            ("{}", "choices"),
            (r#"{"choices": [{"message": {"content": null}}]}"#, "choices"),
        ] {
            let post: Post = Arc::new(move |_, _, _, _| Ok(body.as_bytes().to_vec()));
            let refused = completed(&post, "http://there/v1", &guide(None), &|_| None, "What?").unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
