//! One running copy of an evaluator program, asked for a candidate at a time; `programs` has the process itself.

use std::{sync::atomic::AtomicBool, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::programs::{self, Log, MOST_LINE, Patience, Process, Silence, Start};

/// What a program answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    pub id: String,
    pub scores: Option<Map<String, Value>>,
    pub error: Option<String>,
    pub answers: Option<Vec<ReplyAnswer>>,
}

/// What a program says of one question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplyAnswer {
    pub id: String,
    /// May be left out where there is one task.
    pub task: Option<String>,
    #[serde(default)]
    pub lang: String,
    pub score: Option<f64>,
    #[serde(default, deserialize_with = "yes_or_no")]
    pub correct: Option<bool>,
    /// What the model wrote, for people to read.
    #[serde(default)]
    pub output: String,
}

/// A truth value, also as 1 or 0, which many languages write for one.
fn yes_or_no<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Truth(bool),
        Number(u8),
    }
    match Option::<Word>::deserialize(from)? {
        None => Ok(None),
        Some(Word::Truth(truth)) => Ok(Some(truth)),
        Some(Word::Number(n @ (0 | 1))) => Ok(Some(n == 1)),
        Some(Word::Number(n)) => Err(serde::de::Error::custom(format_args!(
            "'correct' is {n}, and neither true nor false"
        ))),
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Broke {
    /// It cannot be started at all.
    CannotStart(String),
    /// It ended by itself and well, after it had answered others: one that scores a candidate and exits.
    Left,
    /// It ended, or what it said was no answer.
    Down(String),
    /// It said nothing in time.
    Hung(String),
    /// Nobody waits for an answer any more.
    Closing,
}

/// A program that runs.
pub struct Program {
    process: Process,
    /// The last that it answered for.
    answered: Option<String>,
}

impl Program {
    /// Starts a program as one of several workers, which finds its number in `HETEROSIS_WORKER`, from 0 (a GPU of its own:
    /// `CUDA_VISIBLE_DEVICES=$HETEROSIS_WORKER`).
    ///
    /// # Errors
    /// It or its guard cannot be started.
    pub fn start(command: &[String], worker: usize, log: Log) -> Result<Self, Broke> {
        let process = Process::start(Start {
            command,
            environment: &[("HETEROSIS_WORKER", worker.to_string())],
            log,
            scratch: None,
        });
        Ok(Self {
            process: process.map_err(Broke::CannotStart)?,
            answered: None,
        })
    }

    /// Hands over a request line and waits for the reply to `id`, as long as nobody sets `closing`. One that broke down
    /// must be let go of: nobody knows what it would say next.
    ///
    /// # Errors
    /// It ended, hung, or said something else.
    pub fn ask(&mut self, request: String, id: &str, timeout: Duration, closing: &AtomicBool) -> Result<Reply, Broke> {
        self.process.send(request);
        let mut patience = Patience::new(timeout);
        loop {
            let line = match self.process.hear(&mut patience, closing) {
                Ok(line) => line,
                Err(silence) => return Err(self.silent(silence, timeout)),
            };
            let reply = read_reply(&line).map_err(|reason| self.down(&reason))?;
            if reply.id == id {
                self.answered = Some(reply.id);
                return Ok(Reply { id: id.into(), ..reply });
            }
            if self.answered.as_ref() != Some(&reply.id) {
                return Err(self.down(&format!("the command answered for '{}' instead of '{id}'", reply.id)));
            }
        }
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn silent(&mut self, silence: Silence, timeout: Duration) -> Broke {
        match silence {
            Silence::Closing => Broke::Closing,
            Silence::Endless => self.down(&format!(
                "the command wrote a line of more than {} MiB",
                MOST_LINE >> 20
            )),
            Silence::Hung => {
                let waited = format!("the command gave no answer within {} s", timeout.as_secs_f64());
                Broke::Hung(self.process.over(&waited))
            }
            Silence::Ended => match (self.process.has_left(), &self.answered) {
                (true, Some(_)) => Broke::Left,
                _ => self.down("the command ended before it answered"),
            },
        }
    }

    fn down(&mut self, reason: &str) -> Broke {
        Broke::Down(self.process.over(reason))
    }
}

/// # Errors
/// What is wrong with the line.
fn read_reply(line: &str) -> Result<Reply, String> {
    programs::read_line(line).map_err(|e| {
        let start = programs::beginning(line);
        format!("the command's answer is no JSON line of the form {{\"id\":…,\"scores\":{{…}}}} ({e}): {start}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a shell script for `c1`; gives the answer and how long it took.
    fn asked(script: &str, request: &str, timeout: f64) -> (Result<Reply, Broke>, Duration) {
        let command = ["sh", "-c", script].map(String::from);
        let mut program = Program::start(&command, 3, Log::in_memory()).unwrap();
        let clock = std::time::Instant::now();
        let timeout = Duration::from_secs_f64(timeout);
        let answer = program.ask(format!("{request}\n"), "c1", timeout, &AtomicBool::new(false));
        (answer, clock.elapsed())
    }

    /// Longer than anybody waits here, and shorter than what it was before: for ever.
    const SOON: Duration = Duration::from_secs(20);

    /// A request for 4,000 genes did not fit into the pipe of a command that was busy, and the search stood still for ever.
    #[test]
    fn a_request_larger_than_the_pipe_waits_no_longer_than_the_timeout() {
        let request = "x".repeat(1 << 20);
        let (answer, took) = asked("sleep 60", &request, 0.5);
        assert!(
            matches!(&answer, Err(Broke::Hung(reason)) if reason.contains("within 0.5 s")),
            "{answer:?}"
        );
        assert!(took < SOON, "{took:?}");
        let counts = r#"n=$(head -n 1 | wc -c); echo "{\"id\":\"c1\",\"scores\":{\"bytes\":$n}}""#;
        let (answer, _) = asked(counts, &request, 60.0);
        assert_eq!(answer.unwrap().scores.unwrap()["bytes"], (1 << 20) + 1);
    }

    /// Eight workers on eight cards all took the first one.
    #[test]
    fn a_worker_is_told_its_number() {
        let says = r#"read -r l; echo "{\"id\":\"c1\",\"scores\":{\"worker\":$HETEROSIS_WORKER}}""#;
        let (answer, _) = asked(says, "{}", 60.0);
        assert_eq!(answer.unwrap().scores.unwrap()["worker"], 3);
    }

    /// Each blank line began the timeout anew: `while True: print()` held the search up for ever.
    #[test]
    fn what_says_nothing_in_many_lines_has_hung() {
        for line in ["", "warming up", r#"{\"id\":\"c0\",\"scores\":{}}"#] {
            let script = format!("read -r l; while :; do echo \"{line}\"; sleep 0.05; done");
            let (answer, took) = asked(&script, "{}", 0.6);
            match line.starts_with('{') {
                true => assert!(
                    matches!(&answer, Err(Broke::Down(reason)) if reason.contains("answered for 'c0'")),
                    "{answer:?}"
                ),
                false => assert!(matches!(answer, Err(Broke::Hung(_))), "{line}: {answer:?}"),
            }
            assert!(took < SOON, "{line}: {took:?}");
        }
    }

    /// A line without end was kept in memory whole: 1.8 GB in two seconds.
    #[test]
    fn a_line_without_end_is_cut_off() {
        let (answer, took) = asked("read -r l; tr '\\0' x < /dev/zero", "{}", 60.0);
        assert!(
            matches!(&answer, Err(Broke::Down(reason)) if reason.contains("more than 16 MiB")),
            "{answer:?}"
        );
        assert!(took < SOON, "{took:?}");
    }

    #[test]
    fn python_s_nan_is_read_as_a_word() {
        let reply = read_reply(r#"{"id": "c \" NaN", "scores": {"a": NaN, "b": -Infinity, "NaN": 1.5}}"#).unwrap();
        let scores = reply.scores.unwrap();
        assert_eq!((&scores["a"], &scores["b"]), (&"NaN".into(), &"-Infinity".into()));
        assert_eq!((reply.id.as_str(), &scores["NaN"]), ("c \" NaN", &1.5.into()));
        assert!(
            read_reply("{\"id\": 3}")
                .unwrap_err()
                .contains("no JSON line of the form")
        );
    }
}
