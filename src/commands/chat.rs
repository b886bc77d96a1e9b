//! `heterosis chat`: one model, or child and parents side by side, in the terminal.

use std::{
    io::{BufRead, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Failure, Outcome, print_part, runtime, say};
use crate::{
    cli::ChatCommandArgs,
    eval::reply_prompt,
    model::{Engine, Message, Request, Sampling},
    yaml,
};

/// A model, and what was said to it and by it.
struct Talker {
    name: String,
    engine: Engine,
    said: Vec<Message>,
}

pub fn chat(args: ChatCommandArgs) -> Outcome {
    let mut talkers = Vec::new();
    for word in &args.models {
        match (runtime::child(word)?, args.parents) {
            (Some(child), with_parents) => {
                talkers.push(Talker::new(runtime::talking_child(&child, &args.engine)?));
                for (_, parent) in child.parents().iter().filter(|_| with_parents) {
                    talkers.push(Talker::new(runtime::talking_model(parent, &args.engine)?));
                }
            }
            (None, false) => talkers.push(Talker::new(runtime::talking_model(word, &args.engine)?)),
            (None, true) => return Err(anyhow::anyhow!("--parents: {word} is no run").into()),
        }
    }
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        say("write, and end with Enter; /help says what else there is, /quit or Ctrl-D ends");
    }
    let lines = std::io::stdin().lock().lines();
    for (turn, line) in lines.enumerate() {
        let line = line.map_err(Failure::work)?;
        match Input::of(&line) {
            Input::Nothing => {}
            Input::Quit => break,
            Input::New => {
                talkers.iter_mut().for_each(|talker| talker.said.clear());
                if is_terminal {
                    say("what was said is forgotten");
                }
            }
            Input::Help => help(&talkers),
            Input::Unknown { word } => say(format_args!(
                "{word} is no command here, and nothing was sent{}; /help lists them, and a text that begins with a slash is \
                 sent with one more: /{}",
                yaml::did_you_mean(word, &COMMANDS),
                line.trim()
            )),
            Input::Text(line) => {
                let is_one = talkers.len() == 1;
                for talker in &mut talkers {
                    if !is_one {
                        print_part(&format!("[{}] ", talker.name));
                    }
                    let sampling = runtime::sampling(&args.sampling, turn)?;
                    talker.answer(line, args.system.as_deref(), args.max_new_tokens, sampling)?;
                    print_part("\n");
                }
            }
        }
    }
    Ok(())
}

const COMMANDS: [&str; 3] = ["/help", "/new", "/quit"];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Help,
    New,
    Quit,
    /// It begins with a slash, and is none of [`COMMANDS`].
    Unknown {
        word: &'a str,
    },
    Text(&'a str),
}

impl<'a> Input<'a> {
    fn of(line: &'a str) -> Self {
        let text = line.trim();
        if text.starts_with("//") {
            return Self::Text(&text[1..]);
        }
        match text {
            "" => Self::Nothing,
            "/help" | "/?" => Self::Help,
            "/new" => Self::New,
            "/quit" | "/exit" => Self::Quit,
            _ if text.starts_with('/') => Self::Unknown {
                word: text.split_whitespace().next().unwrap_or(text),
            },
            _ => Self::Text(line),
        }
    }
}

fn help(talkers: &[Talker]) {
    let names: Vec<&str> = talkers.iter().map(|talker| talker.name.as_str()).collect();
    for line in [
        format!("what you write is answered by {}", names.join(", then by ")),
        "  /new    forgets what was said, and begins anew".into(),
        "  /quit   ends, as Ctrl-D does".into(),
        "  //TEXT  sends /TEXT, a text that begins with a slash".into(),
        "  /help   says this".into(),
    ] {
        say(line);
    }
}

impl Talker {
    fn new(opened: runtime::Talker) -> Self {
        let runtime::Talker { name, engine } = opened;
        if !engine.tokenizer().has_chat_template() {
            say(format_args!(
                "{name} has no chat template: it goes on with what it is given"
            ));
        }
        Self {
            name,
            engine,
            said: Vec::new(),
        }
    }

    fn answer(
        &mut self,
        line: &str,
        system: Option<&str>,
        max_new_tokens: usize,
        sampling: Option<Sampling>,
    ) -> anyhow::Result<()> {
        self.said.push(Message::new("user", line));
        let opening = system.map(|text| Message::new("system", text));
        let messages: Vec<Message> = opening.into_iter().chain(self.said.iter().cloned()).collect();
        let prompt = reply_prompt(self.engine.tokenizer(), &messages)?;
        let room = self.engine.decoder().spec().max_positions.saturating_sub(prompt.len());
        if room == 0 {
            self.said.pop();
            say(format_args!(
                "{}: there is no room left for an answer; /new begins anew",
                self.name
            ));
            return Ok(());
        }
        let printed = Arc::new(AtomicUsize::new(0));
        let so_far = printed.clone();
        let request = Request {
            stop_when: Some(Arc::new(move |text| {
                let from = so_far.swap(text.len(), Ordering::Relaxed);
                print_part(text.get(from..).unwrap_or_default());
                false
            })),
            sampling,
            loop_guard: true,
            ..Request::new(prompt, max_new_tokens.min(room))
        };
        let answered = self.engine.generate(&[request], &mut |_| {})?;
        let text = &answered[0].text;
        print_part(text.get(printed.load(Ordering::Relaxed)..).unwrap_or_default());
        self.said.push(Message::new("assistant", text.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/help` went to the model, which wrote a recipe for soup.
    #[test]
    fn a_word_with_a_slash_is_never_sent_by_mistake() {
        for (line, input) in [
            ("/help", Input::Help),
            (" /help ", Input::Help),
            ("/new", Input::New),
            ("/quit\r", Input::Quit),
            ("", Input::Nothing),
            ("  ", Input::Nothing),
            ("/hlep me", Input::Unknown { word: "/hlep" }),
            ("/usr/bin is what?", Input::Unknown { word: "/usr/bin" }),
            ("//usr/bin is what?", Input::Text("/usr/bin is what?")),
            ("what is /usr/bin?", Input::Text("what is /usr/bin?")),
        ] {
            assert_eq!(Input::of(line), input, "{line:?}");
        }
    }
}
