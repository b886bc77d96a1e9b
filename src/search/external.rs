//! Bring your own evaluator: a program that scores candidates, one JSON line in, one out.
//!
//! It is started once (or as often as there are `workers`) and asked for one candidate at a time. If it dies, hangs or
//! answers nonsense, that candidate fails with a reason, the program is started again for the next one, and the search
//! goes on. A thread waits for each answer, so that a worker that hangs holds nobody up but itself.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Crew, Evaluation, Evaluator, Sitting, Subject, Unscored, evaluator::verbatim, genome::named};
use crate::{event, recipe::Recipe, space};

/// Writes the merged model of a recipe into a directory that does not exist yet.
pub type Materialize<'a> = Box<dyn FnMut(&Recipe, &Path) -> Result<(), Unscored> + Send + 'a>;

/// Asks a command for scores.
pub struct External<'a> {
    settings: space::Command,
    /// What the program writes to stderr goes here.
    log: PathBuf,
    /// Where merged models are written, if the command wants them.
    models: Option<(PathBuf, Materialize<'a>)>,
    /// Short names and MODEL words: a program knows nothing of short names.
    words: BTreeMap<String, String>,
    workers: Vec<Worker>,
    to_me: Sender<Word>,
    words_back: Receiver<Word>,
}

/// One copy of the program.
#[derive(Default)]
struct Worker {
    /// `None` until it is needed, and after it has broken off.
    child: Option<Child>,
    /// With the thread that waits for an answer, while there is one.
    pipes: Option<Pipes>,
    job: Option<Job>,
}

/// What a worker is at.
struct Job {
    id: String,
    /// The merged model, to be removed afterwards.
    model_dir: Option<PathBuf>,
}

/// The two ends of the conversation with a program.
struct Pipes {
    stdin: ChildStdin,
    lines: Receiver<std::io::Result<String>>,
}

/// A worker's answer; its pipes come back with it unless it broke off.
struct Word {
    worker: usize,
    pipes: Option<Pipes>,
    reply: Result<Reply, Unscored>,
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
        let (to_me, words_back) = mpsc::channel();
        Self {
            workers: (0..settings.workers).map(|_| Worker::default()).collect(),
            settings,
            log: log.to_path_buf(),
            models,
            words: words.iter().cloned().collect(),
            to_me,
            words_back,
        }
    }

    /// A command that cannot be started says nothing of the candidate.
    fn start(&self) -> Result<(Child, Pipes), Unscored> {
        let [program, arguments @ ..] = self.settings.command.as_slice() else {
            return Err(Unscored::machine("the command is empty"));
        };
        let failed =
            |e: std::io::Error| Unscored::machine(format_args!("the command '{program}' cannot be started: {e}"));
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
            return Err(Unscored::machine(format_args!("the command '{program}' has no pipes")));
        };
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok((child, Pipes { stdin, lines }))
    }

    /// Hands a candidate to a worker and leaves a thread to wait for the answer.
    fn hand_over(&mut self, worker: usize, sitting: &Sitting<'_>) -> Result<(), Unscored> {
        let recipe = match sitting.subject {
            Subject::Recipe(recipe) => Some(recipe.clone()),
            Subject::Model(name) => Some(verbatim(name)),
            Subject::Genes => None,
        };
        if let (Some(recipe), Some((parent, write))) = (&recipe, &mut self.models) {
            let dir = parent.join(sitting.id);
            write(recipe, &dir)?;
            self.workers[worker].model_dir_is(dir);
        }
        let recipe = recipe
            .map(|recipe| recipe.with_models(|name| self.words.get(name).cloned().unwrap_or_else(|| name.to_string())));
        let request = Request {
            id: sitting.id,
            recipe: recipe.as_ref(),
            model_dir: self.workers[worker]
                .job
                .as_ref()
                .and_then(|job| job.model_dir.as_deref()),
            genotype: named(sitting.genes, sitting.genotype),
            split: &sitting.exam.split,
        };
        let mut line = serde_json::to_string(&request).expect("a request is plain data");
        line.push('\n');
        let mut pipes = match self.workers[worker].pipes.take() {
            Some(pipes) => pipes,
            None => {
                let (child, pipes) = self.start()?;
                self.workers[worker].child = Some(child);
                pipes
            }
        };
        let (to_me, id) = (self.to_me.clone(), sitting.id.to_string());
        let timeout = Duration::from_secs_f64(self.settings.timeout);
        std::thread::spawn(move || {
            let reply = pipes.exchange(&line, &id, timeout).map_err(Unscored::candidate);
            let pipes = reply.is_ok().then_some(pipes);
            // Nobody listens any more when the search is over.
            let _ = to_me.send(Word { worker, pipes, reply });
        });
        Ok(())
    }

    /// Ends a worker that broke off: nobody knows what it would say next, so the next candidate gets a new one.
    fn end(&mut self, worker: usize, unscored: Unscored) -> Unscored {
        let Some(mut child) = self.workers[worker].child.take() else {
            return unscored;
        };
        let _ = child.kill();
        let end = child.wait().map(|status| format!(" ({status})")).unwrap_or_default();
        let more = |reason| format!("{reason}{end}; its messages are in {}", self.log.display());
        match unscored {
            Unscored::Candidate { reason } => Unscored::Candidate { reason: more(reason) },
            Unscored::Machine { reason } => Unscored::Machine { reason: more(reason) },
        }
    }
}

impl Worker {
    fn model_dir_is(&mut self, dir: PathBuf) {
        if let Some(job) = &mut self.job {
            job.model_dir = Some(dir);
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

impl Pipes {
    /// Sends a request and waits for its answer.
    fn exchange(&mut self, request: &str, id: &str, timeout: Duration) -> Result<Reply, String> {
        let gone = |_| "the command ended before it answered".to_string();
        self.stdin.write_all(request.as_bytes()).map_err(gone)?;
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
            if reply.id == id {
                return Ok(reply);
            }
            return Err(format!("the command answered for '{}' instead of '{id}'", reply.id));
        }
    }
}

impl Evaluator for External<'_> {
    fn evaluate(&mut self, sitting: &Sitting<'_>, _: &mut dyn FnMut(event::Progress)) -> Result<Evaluation, Unscored> {
        self.begin(sitting);
        self.finished().1
    }

    fn crew(&mut self) -> Option<&mut dyn Crew> {
        (self.workers.len() > 1).then_some(self as &mut dyn Crew)
    }
}

impl Crew for External<'_> {
    fn size(&self) -> usize {
        self.workers.len()
    }

    fn begin(&mut self, sitting: &Sitting<'_>) {
        let free = self.workers.iter().position(|worker| worker.job.is_none());
        let worker = free.expect("at most as many candidates are out as there are workers");
        self.workers[worker].job = Some(Job {
            id: sitting.id.into(),
            model_dir: None,
        });
        if let Err(unscored) = self.hand_over(worker, sitting) {
            let word = Word {
                worker,
                pipes: self.workers[worker].pipes.take(),
                reply: Err(unscored),
            };
            self.to_me.send(word).expect("this end is open as long as the other");
        }
    }

    fn finished(&mut self) -> (String, Result<Evaluation, Unscored>) {
        let Word { worker, pipes, reply } = self.words_back.recv().expect("this end is open as long as the other");
        let scores = match reply {
            Ok(reply) => judge(reply).map_err(Unscored::candidate),
            Err(unscored) if pipes.is_none() => Err(self.end(worker, unscored)),
            Err(unscored) => Err(unscored),
        };
        self.workers[worker].pipes = pipes;
        let job = self.workers[worker].job.take().expect("an answer follows a question");
        if let Some(dir) = job.model_dir {
            // The next one needs the room.
            let _ = std::fs::remove_dir_all(dir);
        }
        let evaluation = scores.map(|scores| Evaluation {
            scores: scores.into_iter().collect(),
            ..Evaluation::default()
        });
        (job.id, evaluation)
    }
}

impl Drop for External<'_> {
    /// Closing its stdin tells a well-behaved program to end; the other kind, and one that is still at work, is ended.
    fn drop(&mut self) {
        let lines: Vec<Receiver<_>> = self
            .workers
            .iter_mut()
            .filter_map(|w| Some(w.pipes.take()?.lines))
            .collect();
        for lines in lines {
            while lines.recv_timeout(Duration::from_secs(2)).is_ok() {}
        }
        for child in self.workers.iter_mut().filter_map(|worker| worker.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
