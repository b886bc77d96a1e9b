//! Bring your own evaluator: a program that scores candidates, one JSON line in, one out.
//!
//! It is started once and asked for one candidate at a time. If it dies, hangs or answers nonsense, that candidate fails
//! with a reason, the program is started again for the next one, and the search goes on.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Evaluation, Evaluator, Sitting, Subject, evaluator::verbatim, genome::named};
use crate::{event, recipe::Recipe, space};

/// Writes the merged model of a recipe into a directory that does not exist yet.
pub type Materialize<'a> = Box<dyn FnMut(&Recipe, &Path) -> Result<(), String> + Send + 'a>;

/// Asks a command for scores.
pub struct External<'a> {
    settings: space::Command,
    /// What the program writes to stderr goes here.
    log: PathBuf,
    /// Where merged models are written, if the command wants them.
    models: Option<(PathBuf, Materialize<'a>)>,
    /// Short names and MODEL words: a program knows nothing of short names.
    words: BTreeMap<String, String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<std::io::Result<String>>,
}

#[derive(Serialize)]
struct Request<'a> {
    id: &'a str,
    recipe: Option<&'a Recipe>,
    model_dir: Option<&'a Path>,
    genotype: serde_json::Value,
    /// `search`, or `selection` when finalists are asked again: the place for questions that the search has not seen.
    split: &'a str,
}

#[derive(Deserialize)]
struct Reply {
    id: String,
    scores: Option<BTreeMap<String, f64>>,
    error: Option<String>,
}

impl<'a> External<'a> {
    /// `models` is where merged models are to be written and what writes them, for a command that wants them.
    pub fn new(
        settings: space::Command,
        words: &[(String, String)],
        log: &Path,
        models: Option<(PathBuf, Materialize<'a>)>,
    ) -> Self {
        Self {
            settings,
            log: log.to_path_buf(),
            models,
            words: words.iter().cloned().collect(),
            running: None,
        }
    }

    fn start(&self) -> Result<Running, String> {
        let [program, arguments @ ..] = self.settings.command.as_slice() else {
            return Err("the command is empty".into());
        };
        let failed = |e: std::io::Error| format!("the command '{program}' cannot be started: {e}");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("the command '{program}' has no pipes"));
        };
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, stdin, lines })
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, request: &Request<'_>) -> Result<BTreeMap<String, f64>, String> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        let reply = running.exchange(request, Duration::from_secs_f64(self.settings.timeout));
        match reply {
            Ok(reply) => {
                self.running = Some(running);
                judge(reply)
            }
            // Nobody knows what a program that broke off would say next: the next candidate gets a new one.
            Err(reason) => {
                let _ = running.child.kill();
                let end = running
                    .child
                    .wait()
                    .map(|status| format!(" ({status})"))
                    .unwrap_or_default();
                Err(format!("{reason}{end}; its messages are in {}", self.log.display()))
            }
        }
    }
}

fn judge(reply: Reply) -> Result<BTreeMap<String, f64>, String> {
    match (reply.scores, reply.error) {
        (_, Some(error)) => Err(format!("the command says: {error}")),
        (Some(scores), None) if scores.is_empty() => Err("the command gave no score".into()),
        (Some(scores), None) => match scores.iter().find(|(_, score)| !score.is_finite()) {
            Some((name, score)) => Err(format!("the command's score '{name}' is {score}")),
            None => Ok(scores),
        },
        (None, None) => Err("the command's answer has neither 'scores' nor 'error'".into()),
    }
}

impl Running {
    fn exchange(&mut self, request: &Request<'_>, timeout: Duration) -> Result<Reply, String> {
        let mut line = serde_json::to_string(request).expect("a request is plain data");
        line.push('\n');
        let gone = |_| "the command ended before it answered".to_string();
        self.stdin.write_all(line.as_bytes()).map_err(gone)?;
        self.stdin.flush().map_err(gone)?;
        loop {
            let line = match self.lines.recv_timeout(timeout) {
                Ok(line) => line.map_err(|e| format!("the command's answer cannot be read: {e}"))?,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("the command gave no answer within {} s", timeout.as_secs_f64()));
                }
                Err(RecvTimeoutError::Disconnected) => return Err("the command ended before it answered".into()),
            };
            if line.trim().is_empty() {
                continue;
            }
            let reply: Reply = serde_json::from_str(&line).map_err(|e| {
                let start: String = line.chars().take(80).collect();
                format!("the command's answer is no JSON line of the form {{\"id\":…,\"scores\":{{…}}}} ({e}): {start}")
            })?;
            if reply.id == request.id {
                return Ok(reply);
            }
            return Err(format!(
                "the command answered for '{}' instead of '{}'",
                reply.id, request.id
            ));
        }
    }
}

impl Evaluator for External<'_> {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, String> {
        let recipe = match sitting.subject {
            Subject::Recipe(recipe) => Some(recipe.clone()),
            Subject::Model(name) => Some(verbatim(name)),
            Subject::Genes => None,
        };
        let model_dir = match (&recipe, &mut self.models) {
            (Some(recipe), Some((parent, write))) => {
                let dir = parent.join(sitting.id);
                write(recipe, &dir)?;
                Some(dir)
            }
            _ => None,
        };
        let recipe = recipe
            .map(|recipe| recipe.with_models(|name| self.words.get(name).cloned().unwrap_or_else(|| name.to_string())));
        let scores = self.ask(&Request {
            id: sitting.id,
            recipe: recipe.as_ref(),
            model_dir: model_dir.as_deref(),
            genotype: named(sitting.genes, sitting.genotype),
            split: &sitting.exam.split,
        });
        if let Some(dir) = model_dir {
            // The next one needs the room.
            let _ = std::fs::remove_dir_all(dir);
        }
        Ok(Evaluation {
            scores: scores?.into_iter().collect(),
            ..Evaluation::default()
        })
    }
}

impl Drop for External<'_> {
    /// Closing its stdin tells a well-behaved program to end; the other kind is ended.
    fn drop(&mut self) {
        if let Some(Running {
            mut child,
            stdin,
            lines,
        }) = self.running.take()
        {
            drop(stdin);
            while lines.recv_timeout(Duration::from_secs(2)).is_ok() {}
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
