//! An engine that is a program: started, greeted, given weights, asked; let go of when it breaks, and started again.
//!
//! The engine gets token ids and gives token ids. Where an answer ends (end-of-sequence tokens, stop strings, a task's own
//! condition, loops) is decided here, by the rules of our own engine: it may go on for too long, and is cut.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rayon::prelude::*;
use serde_json::Value;

use super::{
    error::Error,
    log::Log,
    process::{MOST_LINE, Patience, Process, Silence, Start, beginning, leave, read_line},
    protocol::{self, Ask, Continued, Op, PROTOCOL, Prompt, Reply, TensorOf, Text},
    ring::Ring,
};
use crate::{
    eval::{self, Decodes},
    model::{self, DType, Generation, Progress, Request, Score, ScoreRequest, Tokenizer},
};

/// Before it is started again.
const REST: Duration = Duration::from_secs(2);

/// Token ids in one line, about 7 MB: more are asked in several.
const MOST_ASKED: usize = 1 << 20;

/// What somebody wants of an engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it may say nothing when it was asked something.
    pub timeout: Duration,
    /// What weights are rounded to.
    pub dtype: DType,
    /// Where the directory is made that weights go through; in memory, if there is such a place.
    pub scratch: PathBuf,
    /// Which of several copies it is, from 0: it finds the number in `HETEROSIS_WORKER`.
    pub worker: Option<usize>,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// Everything that can change an answer: its own version, and those of what it computes with.
    pub version: String,
    pub device: String,
}

impl Identity {
    /// `transformers (transformers 5.24.0, torch 2.15.0) on cpu`; part of every cache key, and of the journal.
    pub fn words(&self) -> String {
        format!("{} ({}) on {}", self.name, self.version, self.device)
    }
}

/// A model that an engine is to hold.
pub struct Model<'a> {
    /// Its `config.json`.
    pub config: &'a Value,
    /// Names and shapes of all its tensors.
    pub tensors: Vec<(String, Vec<usize>)>,
}

/// An engine that is a program.
pub struct EngineProgram {
    settings: Settings,
    log: Log,
    identity: Identity,
    can: Vec<String>,
    running: Option<Running>,
    tokenizer: Option<(Arc<Tokenizer>, String)>,
    /// It broke, and nobody has tried again since.
    has_second_chance: bool,
}

/// A program that lives, with the directory that goes with it.
struct Running {
    process: Process,
    dir: tempfile::TempDir,
    last_id: u64,
    opened: Option<Opened>,
    /// Digest of the tokenizer that it has.
    tokenizer: String,
}

/// What it has made room for.
struct Opened {
    config: Value,
    tensors: Vec<TensorOf>,
    context: usize,
    vocab: usize,
    ring: Ring,
    /// Pieces in the other slot, which it has not said that it took.
    sent: Option<u64>,
}

impl EngineProgram {
    /// Starts an engine, and learns who it is.
    ///
    /// # Errors
    /// It cannot be started, speaks another version of the protocol, or lacks what every engine needs.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        let log = Log::in_memory();
        let (mut running, timeout) = (Running::start(&settings, log.clone())?, settings.timeout);
        let (identity, can) = running.greet(timeout, settings.dtype).map_err(|e| match e {
            Error::Broke { reason } | Error::Stuck { reason } => Error::CannotStart { reason },
            e => e,
        })?;
        let engine = Self {
            settings,
            log,
            identity,
            can,
            running: Some(running),
            tokenizer: None,
            has_second_chance: false,
        };
        engine.must("generate", "use an engine that can")?;
        Ok(engine)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Refuses an engine that cannot do something.
    ///
    /// # Errors
    /// It cannot.
    pub fn must(&self, what: &str, way_out: &'static str) -> Result<(), Error> {
        match self.can.iter().any(|can| can == what) {
            true => Ok(()),
            false => Err(Error::Cannot {
                engine: self.identity.name.clone(),
                lacks: format!("cannot {what} (its 'can' says {})", self.can.join(", ")),
                way_out,
            }),
        }
    }

    /// Keeps its messages in a file from now on.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn log_to(&self, file: &Path) -> Result<(), Error> {
        self.log.keep_in(file).map_err(|source| Error::Handing {
            path: file.into(),
            source,
        })
    }

    /// Whether it has room for this model, so that changed tensors are enough.
    pub fn holds(&self, model: &Model<'_>) -> bool {
        let opened = self.running.as_ref().and_then(|running| running.opened.as_ref());
        opened.is_some_and(|opened| {
            let same =
                |(ours, (name, shape)): (&TensorOf, &(String, Vec<usize>))| ours.name == *name && ours.shape == *shape;
            opened.config == *model.config
                && opened.tensors.len() == model.tensors.len()
                && opened.tensors.iter().zip(&model.tensors).all(same)
        })
    }

    /// Has it make room for a model, whose tensors must follow, all of them. Starts it again where it has gone, or cannot
    /// take another model.
    ///
    /// # Errors
    /// It cannot hold such a model, or broke.
    pub fn open(&mut self, model: &Model<'_>) -> Result<(), Error> {
        let is_taken = self.running.as_ref().is_some_and(|running| running.opened.is_some());
        if is_taken && !self.can.iter().any(|can| can == "reopen") {
            self.close();
        }
        if self.running.is_none() {
            self.start_again()?;
        }
        let (timeout, dtype) = (self.settings.timeout, self.settings.dtype);
        self.with(|running| running.open(model, dtype, timeout))
    }

    /// Gives it the tokenizer of the weights, by which it may see where a stop string ends an answer.
    ///
    /// # Errors
    /// It broke.
    pub fn set_tokenizer(&mut self, tokenizer: Arc<Tokenizer>, json: &[u8]) -> Result<(), Error> {
        let digest = blake3::hash(json).to_hex().to_string();
        self.tokenizer = Some((tokenizer, digest.clone()));
        let timeout = self.settings.timeout;
        self.with(|running| match running.tokenizer == digest {
            true => Ok(()),
            false => running.take_tokenizer(json, digest, timeout),
        })
    }

    /// Hands over a tensor.
    ///
    /// # Errors
    /// The file for that cannot be written, or it broke.
    pub fn put(&mut self, tensor: &str, data: &[f32]) -> Result<(), Error> {
        let timeout = self.settings.timeout;
        self.with(|running| running.put(tensor, data, timeout))
    }

    /// Says that the weights are whole.
    ///
    /// # Errors
    /// It broke, or lacks some.
    pub fn use_weights(&mut self) -> Result<(), Error> {
        let timeout = self.settings.timeout;
        self.with(|running| running.use_weights(timeout))
    }

    /// Whether it broke over something that may go well a second time; asked once for each time that it broke.
    pub fn take_second_chance(&mut self) -> bool {
        std::mem::take(&mut self.has_second_chance)
    }

    fn start_again(&mut self) -> Result<(), Error> {
        std::thread::sleep(REST);
        let mut running = Running::start(&self.settings, self.log.clone())?;
        let (identity, can) = running.greet(self.settings.timeout, self.settings.dtype)?;
        if identity != self.identity {
            return Err(Error::Another {
                was: self.identity.words(),
                now: identity.words(),
            });
        }
        (self.can, self.running) = (can, Some(running));
        Ok(())
    }

    /// Does something with the program that runs; one that broke is let go of.
    fn with<T>(&mut self, work: impl FnOnce(&mut Running) -> Result<T, Error>) -> Result<T, Error> {
        let Some(running) = &mut self.running else {
            return Err(Error::Broke {
                reason: "the engine has gone".into(),
            });
        };
        let done = work(running);
        match &done {
            Err(Error::Broke { .. }) => (self.running, self.has_second_chance) = (None, true),
            Err(Error::Stuck { .. }) => self.running = None,
            _ => {}
        }
        done
    }

    fn close(&mut self) {
        if let Some(running) = &mut self.running {
            leave(vec![&mut running.process]);
        }
        self.running = None;
    }

    fn opened(&self) -> Option<&Opened> {
        self.running.as_ref()?.opened.as_ref()
    }
}

impl Drop for EngineProgram {
    fn drop(&mut self) {
        self.close();
    }
}

impl Running {
    fn start(settings: &Settings, log: Log) -> Result<Self, Error> {
        let handing = |source| Error::Handing {
            path: settings.scratch.clone(),
            source,
        };
        let dir = tempfile::Builder::new()
            .prefix("heterosis-engine-")
            .tempdir_in(&settings.scratch)
            .map_err(handing)?;
        let number = settings.worker.map(|worker| ("HETEROSIS_WORKER", worker.to_string()));
        let process = Process::start(Start {
            command: &settings.command,
            environment: number.as_slice(),
            log,
            scratch: Some(dir.path().into()),
        });
        Ok(Self {
            process: process.map_err(|reason| Error::CannotStart { reason })?,
            dir,
            last_id: 0,
            opened: None,
            tokenizer: String::new(),
        })
    }

    fn greet(&mut self, timeout: Duration, dtype: DType) -> Result<(Identity, Vec<String>), Error> {
        let hello = Op::Hello {
            protocol: PROTOCOL,
            heterosis: env!("CARGO_PKG_VERSION"),
        };
        let reply = self.ask(hello, timeout)?;
        if reply.protocol != Some(PROTOCOL) {
            return Err(Error::Version {
                version: reply.protocol.unwrap_or(0),
            });
        }
        let named = |field: &str, said| protocol::name(field, said);
        let identity = named("name", reply.name)
            .and_then(|name| Ok((name, named("version", reply.version)?, named("device", reply.device)?)));
        let (name, version, device) = identity.map_err(|reason| self.broke(&reason))?;
        if !reply.dtypes.iter().any(|known| known == dtype.name()) {
            return Err(Error::Cannot {
                engine: name,
                lacks: format!("takes no weights in {} (but {})", dtype.name(), reply.dtypes.join(", ")),
                way_out: "say another one with --dtype, or dtype below fitness.engine",
            });
        }
        Ok((Identity { name, version, device }, reply.can))
    }

    fn open(&mut self, model: &Model<'_>, dtype: DType, timeout: Duration) -> Result<(), Error> {
        self.opened = None;
        let dir = self.dir.path().join("model");
        let ring_file = self.dir.path().join("ring");
        let total: usize = model
            .tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        let make = || -> io::Result<Ring> {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("config.json"), serde_json::to_vec_pretty(model.config)?)?;
            match fs::remove_file(&ring_file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            Ring::create(&ring_file, dtype, total * dtype.size_bytes())
        };
        let handing = |source| Error::Handing {
            path: dir.clone(),
            source,
        };
        let ring = make().map_err(handing)?;
        let tensor = |(name, shape): &(String, Vec<usize>)| TensorOf {
            name: name.clone(),
            shape: shape.clone(),
        };
        let tensors: Vec<TensorOf> = model.tensors.iter().map(tensor).collect();
        let open = Op::Open {
            dir: &dir.to_string_lossy(),
            dtype: dtype.name(),
            ring: protocol::Ring {
                file: &ring_file.to_string_lossy(),
                bytes: ring.size_bytes(),
            },
            tensors: &tensors,
        };
        let reply = self.ask(open, timeout)?;
        let sizes = protocol::size("context", reply.context)
            .and_then(|context| Ok((context, protocol::size("vocab", reply.vocab)?)));
        let (context, vocab) = sizes.map_err(|reason| self.broke(&reason))?;
        self.opened = Some(Opened {
            config: model.config.clone(),
            tensors,
            context,
            vocab,
            ring,
            sent: None,
        });
        Ok(())
    }

    fn take_tokenizer(&mut self, json: &[u8], digest: String, timeout: Duration) -> Result<(), Error> {
        let dir = self.dir.path().join("tokenizer");
        let write = || fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("tokenizer.json"), json));
        write().map_err(|source| Error::Handing {
            path: dir.clone(),
            source,
        })?;
        let dir = dir.to_string_lossy();
        self.ask(Op::Tokenizer { dir: &dir }, timeout)?;
        self.tokenizer = digest;
        Ok(())
    }

    fn put(&mut self, tensor: &str, data: &[f32], timeout: Duration) -> Result<(), Error> {
        let mut from = 0;
        while from < data.len() {
            let Some(opened) = &mut self.opened else {
                return Err(self.broke("it has no room for weights"));
            };
            let count = opened.ring.put(tensor, data, from).map_err(|source| Error::Handing {
                path: self.dir.path().into(),
                source,
            })?;
            from += count;
            if count == 0 {
                self.turn(timeout)?;
            }
        }
        Ok(())
    }

    /// Hands the slot over, and goes on with the other one as soon as that has been taken.
    fn turn(&mut self, timeout: Duration) -> Result<(), Error> {
        let Some(opened) = &mut self.opened else { return Ok(()) };
        let (pieces, before) = (opened.ring.turn(), opened.sent.take());
        let sent = self.say(Op::Weights { pieces: &pieces });
        if let Some(opened) = &mut self.opened {
            opened.sent = Some(sent);
        }
        match before {
            Some(before) => self
                .hear(before, timeout, &mut |_| Err("weights are no question".into()))
                .map(drop),
            None => Ok(()),
        }
    }

    fn use_weights(&mut self, timeout: Duration) -> Result<(), Error> {
        if self.opened.as_ref().is_some_and(|opened| !opened.ring.is_empty()) {
            self.turn(timeout)?;
        }
        if let Some(last) = self.opened.as_mut().and_then(|opened| opened.sent.take()) {
            self.hear(last, timeout, &mut |_| Err("weights are no question".into()))?;
        }
        self.ask(Op::Use, timeout).map(drop)
    }

    /// Asks something that is done at once.
    fn ask(&mut self, what: Op<'_>, timeout: Duration) -> Result<Reply, Error> {
        let id = self.say(what);
        self.hear(id, timeout, &mut |_| Err("nothing was asked that has answers".into()))
    }

    fn say(&mut self, what: Op<'_>) -> u64 {
        self.last_id += 1;
        let ask = Ask { id: self.last_id, what };
        let line = serde_json::to_string(&ask).expect("a request is plain data");
        self.process.send(line + "\n");
        self.last_id
    }

    /// Waits until a request is done; `take` gets its answers. Each line must say something new, so an engine cannot chatter
    /// for ever, and each begins the timeout anew.
    fn hear(
        &mut self,
        id: u64,
        timeout: Duration,
        take: &mut dyn FnMut(Value) -> Result<(), String>,
    ) -> Result<Reply, Error> {
        loop {
            let line = match self.process.hear(&mut Patience::new(timeout), &AtomicBool::new(false)) {
                Ok(line) => line,
                Err(silence) => return Err(self.silent(silence, timeout)),
            };
            let mut reply: Reply = match read_line(&line) {
                Ok(reply) => reply,
                Err(e) => {
                    return Err(self.broke(&format!(
                        "it wrote a line of no form that is known ({e}): {}",
                        beginning(&line)
                    )));
                }
            };
            if reply.id != id {
                return Err(self.broke(&format!("it answered request {} instead of {id}", reply.id)));
            }
            if let Some(said) = reply.error {
                let said: String = said.chars().filter(|c| !c.is_control()).take(1000).collect();
                return Err(self.broke(&format!("it says: {said}")));
            }
            let answers = std::mem::take(&mut reply.answers);
            let says_nothing = answers.is_empty() && !reply.done;
            for answer in answers {
                take(answer).map_err(|reason| self.broke(&reason))?;
            }
            if says_nothing {
                return Err(self.broke("it wrote a line that says nothing"));
            }
            if reply.done {
                return Ok(reply);
            }
        }
    }

    fn silent(&mut self, silence: Silence, timeout: Duration) -> Error {
        match silence {
            Silence::Hung => Error::Stuck {
                reason: self
                    .process
                    .over(&format!("the engine said nothing for {} s", timeout.as_secs_f64())),
            },
            Silence::Endless => self.broke(&format!("it wrote a line of more than {} MiB", MOST_LINE >> 20)),
            Silence::Ended | Silence::Closing => {
                self.process.has_left();
                Error::Broke {
                    reason: self.process.over("the engine ended before it answered"),
                }
            }
        }
    }

    fn broke(&mut self, reason: &str) -> Error {
        Error::Broke {
            reason: self.process.over(&format!("the engine broke: {reason}")),
        }
    }
}

impl Decodes for EngineProgram {
    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref().map(|(tokenizer, _)| &**tokenizer)
    }

    fn context_length(&self) -> usize {
        self.opened().map_or(0, |opened| opened.context)
    }

    fn generate(
        &mut self,
        requests: &[Request],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Generation>, eval::Error> {
        for (request, r) in requests.iter().enumerate() {
            if r.prompt.is_empty() {
                return Err(model::Error::EmptyPrompt { request }.into());
            }
            self.check(request, &r.prompt, r.max_new_tokens)?;
        }
        let Some((tokenizer, _)) = self.tokenizer.clone() else {
            return Err(no_tokenizer().into());
        };
        let eos = tokenizer.eos_token_ids();
        let (vocab, timeout) = (self.opened().map_or(0, |opened| opened.vocab), self.settings.timeout);
        let mut found: Vec<Option<Continued>> = vec![None; requests.len()];
        let mut seen = Progress {
            total: requests.len(),
            ..Progress::default()
        };
        // Of no tokens there is nothing to ask.
        let wanted: Vec<usize> = (0..requests.len())
            .filter(|i| requests[*i].max_new_tokens > 0)
            .collect();
        seen.done = requests.len() - wanted.len();
        for part in parts(&wanted, |i| requests[i].prompt.len()) {
            let asked: Vec<Request> = part.iter().map(|i| requests[*i].clone()).collect();
            let of_part = self.with(|running| {
                let id = running.say(Op::Generate {
                    eos,
                    requests: asked.iter().map(Prompt::of).collect(),
                });
                let mut of_part: Vec<Option<Continued>> = vec![None; asked.len()];
                running.hear(id, timeout, &mut |answer| {
                    let (i, continued) = protocol::continued(answer, &asked, eos, vocab)?;
                    seen.done += 1;
                    seen.prompt_tokens += asked[i].prompt.len() as u64;
                    seen.generated_tokens += continued.tokens.len() as u64;
                    progress(seen);
                    only(&mut of_part[i], continued, i)
                })?;
                complete(of_part).map_err(|i| running.broke(&format!("it did not continue prompt {i}")))
            })?;
            for (i, continued) in part.iter().zip(of_part) {
                found[*i] = Some(continued);
            }
        }
        let generation = |(request, continued): (&Request, Option<Continued>)| match continued {
            Some(Continued { tokens, finish }) => Generation::of(request, &tokenizer, &tokens, finish),
            None => Generation::of(request, &tokenizer, &[], model::Finish::Length),
        };
        Ok(requests.par_iter().zip(found).map(generation).collect())
    }

    fn score(
        &mut self,
        requests: &[ScoreRequest],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Score>, eval::Error> {
        for (request, r) in requests.iter().enumerate() {
            if r.from == 0 {
                return Err(model::Error::ScoreFromZero { request }.into());
            }
            self.check(request, &r.tokens, 0)?;
        }
        let timeout = self.settings.timeout;
        let nothing = Score {
            log_likelihood: 0.0,
            tokens: 0,
            greedy: true,
        };
        let mut scores = vec![nothing; requests.len()];
        let wanted: Vec<usize> = (0..requests.len())
            .filter(|i| requests[*i].from < requests[*i].tokens.len())
            .collect();
        let mut seen = Progress {
            total: requests.len(),
            done: requests.len() - wanted.len(),
            ..Progress::default()
        };
        for part in parts(&wanted, |i| requests[i].tokens.len()) {
            let asked: Vec<ScoreRequest> = part.iter().map(|i| requests[*i].clone()).collect();
            let of_part = self.with(|running| {
                let id = running.say(Op::Score {
                    requests: asked.iter().map(Text::of).collect(),
                });
                let mut of_part: Vec<Option<Option<Score>>> = vec![None; asked.len()];
                running.hear(id, timeout, &mut |answer| {
                    let (i, score) = protocol::scored(answer, &asked)?;
                    seen.done += 1;
                    seen.prompt_tokens += asked[i].tokens.len() as u64;
                    progress(seen);
                    only(&mut of_part[i], score, i)
                })?;
                complete(of_part).map_err(|i| running.broke(&format!("it did not score text {i}")))
            })?;
            for (i, score) in part.iter().zip(of_part) {
                scores[*i] = score.ok_or_else(|| Error::NotFinite {
                    engine: self.identity.name.clone(),
                    tokens: requests[*i].tokens.len(),
                })?;
            }
        }
        Ok(scores)
    }
}

impl EngineProgram {
    /// What our own engine refuses is not asked of another one.
    fn check(&self, request: usize, tokens: &[u32], more: usize) -> Result<(), model::Error> {
        let Some(opened) = self.opened() else { return Ok(()) };
        if let Some(token) = tokens.iter().find(|token| **token as usize >= opened.vocab) {
            return Err(model::Error::TokenOutOfRange {
                request,
                token: *token,
                vocab: opened.vocab,
            });
        }
        match tokens.len() + more {
            n if n > opened.context => Err(model::Error::Positions {
                request,
                tokens: n,
                positions: opened.context,
            }),
            _ => Ok(()),
        }
    }
}

impl From<Error> for eval::Error {
    fn from(e: Error) -> Self {
        let reason = e.to_string();
        match e.is_breakdown() {
            true => Self::EngineBroke { reason },
            false => Self::NoEngine { reason },
        }
    }
}

fn no_tokenizer() -> model::Error {
    model::Error::Tokenizer {
        file: "the engine".into(),
        reason: "no model has been handed over".into(),
    }
}

/// Requests in lines of bounded length, each at least one.
fn parts(wanted: &[usize], size: impl Fn(usize) -> usize) -> Vec<&[usize]> {
    let (mut parts, mut from, mut tokens) = (Vec::new(), 0, 0);
    for (place, i) in wanted.iter().enumerate() {
        if place > from && tokens + size(*i) > MOST_ASKED {
            parts.push(&wanted[from..place]);
            (from, tokens) = (place, 0);
        }
        tokens += size(*i);
    }
    if from < wanted.len() {
        parts.push(&wanted[from..]);
    }
    parts
}

fn only<T>(place: &mut Option<T>, answer: T, i: usize) -> Result<(), String> {
    match place.replace(answer) {
        None => Ok(()),
        Some(_) => Err(format!("it answered number {i} twice")),
    }
}

/// All answers, or the number of one that is missing.
fn complete<T>(answers: Vec<Option<T>>) -> Result<Vec<T>, usize> {
    let answers = answers.into_iter().enumerate();
    answers.map(|(i, answer)| answer.ok_or(i)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A shell script that answers lines by their `op`; `says` are more cases, which come first.
    fn script(says: &str) -> Vec<String> {
        let usual = r#"*'"op":"hello"'*) say '"done":true,"protocol":1,"name":"sh","version":"1","device":"none","dtypes":["f32"],"can":["generate","score"]';;
            *'"op":"open"'*) say '"done":true,"context":64,"vocab":234';;
            *'"op":"generate"'*) say '"answers":[{"i":1,"tokens":[7,1],"finish":"eos"},{"i":0,"tokens":[8,9,7],"finish":"length"}],"done":true';;
            *'"op":"score"'*) say '"answers":[{"i":0,"log_likelihood":-2.5,"greedy":false}],"done":true';;
            *) say '"done":true';;"#;
        let text = format!(
            "n=0; say() {{ printf '%s\\n' \"{{\\\"id\\\":$n,$1}}\"; }}; while read -r l; do n=$((n+1)); case \"$l\" in {says}\n {usual}\n esac; done"
        );
        ["sh", "-c", &text].map(String::from).to_vec()
    }

    fn started(says: &str, timeout: f64) -> Result<EngineProgram, Error> {
        EngineProgram::start(Settings {
            command: script(says),
            timeout: Duration::from_secs_f64(timeout),
            dtype: DType::F32,
            scratch: std::env::temp_dir(),
            worker: None,
        })
    }

    fn give(engine: &mut EngineProgram) -> Result<(), Error> {
        let config = json!({"model_type": "nobody_knows"});
        let model = Model {
            config: &config,
            tensors: vec![("a".into(), vec![2, 2]), ("b".into(), vec![3])],
        };
        if !engine.holds(&model) {
            engine.open(&model)?;
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base");
        engine.set_tokenizer(Arc::new(Tokenizer::from_dir(&dir).unwrap()), b"{}")?;
        engine.put("a", &[1.0; 4])?;
        engine.put("b", &[2.0; 3])?;
        engine.use_weights()
    }

    /// Two prompts, of two and three new tokens.
    fn asked(engine: &mut EngineProgram) -> Result<Vec<Generation>, eval::Error> {
        let requests = [Request::new(vec![4, 5], 3), Request::new(vec![6], 2)];
        Decodes::generate(engine, &requests, &mut |_| {})
    }

    fn scored(engine: &mut EngineProgram) -> Result<Vec<Score>, eval::Error> {
        let text = ScoreRequest {
            tokens: vec![1, 2, 3],
            from: 1,
        };
        Decodes::score(engine, &[text], &mut |_| {})
    }

    #[test]
    fn an_engine_is_greeted_given_weights_and_asked() {
        let mut engine = started("", 60.0).unwrap();
        assert_eq!(engine.identity().words(), "sh (1) on none");
        assert!(
            engine
                .must("sample", "do not")
                .unwrap_err()
                .to_string()
                .contains("cannot sample")
        );
        give(&mut engine).unwrap();
        let answers = asked(&mut engine).unwrap();
        assert_eq!(answers[0].token_ids, [8, 9, 7]);
        assert_eq!(
            (&answers[1].token_ids[..], answers[1].finish),
            (&[7, 1][..], model::Finish::Eos)
        );
        let score = scored(&mut engine).unwrap()[0];
        assert_eq!((score.log_likelihood, score.tokens, score.greedy), (-2.5, 2, false));
        assert!(!engine.take_second_chance());
        // What our own engine refuses is not asked.
        let long = Request::new(vec![4; 60], 5);
        let refused = Decodes::generate(&mut engine, &[long], &mut |_| {}).unwrap_err();
        assert!(
            matches!(refused, eval::Error::Model(model::Error::Positions { tokens: 65, .. })),
            "{refused}"
        );
    }

    /// A dead engine's directory in memory would fill it, run after run.
    #[test]
    fn an_engine_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let mut engine = EngineProgram::start(Settings {
            command: script(""),
            timeout: Duration::from_secs(60),
            dtype: DType::F32,
            scratch: scratch.path().into(),
            worker: None,
        })
        .unwrap();
        give(&mut engine).unwrap();
        let ours = fs::read_dir(scratch.path()).unwrap().next().unwrap().unwrap().path();
        assert!(ours.join("ring").exists() && ours.join("model/config.json").exists());
        drop(engine);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn hostile_replies_are_faults_of_the_engine() {
        let generate = r#"*'"op":"generate"'*) say"#;
        for (says, reason) in [
            (
                format!(r#"{generate} '"answers":[{{"i":0,"tokens":[8,9,7,7],"finish":"length"}}],"done":true';;"#),
                "by 4 tokens",
            ),
            (
                format!(r#"{generate} '"answers":[{{"i":0,"tokens":[234],"finish":"eos"}}],"done":true';;"#),
                "token 234",
            ),
            (
                format!(r#"{generate} '"answers":[{{"i":2,"tokens":[1],"finish":"eos"}}],"done":true';;"#),
                "answered number 2",
            ),
            (
                format!(
                    r#"{generate} '"answers":[{{"i":1,"tokens":[1],"finish":"eos"}},{{"i":1,"tokens":[1],"finish":"eos"}}],"done":true';;"#
                ),
                "number 1 twice",
            ),
            (
                format!(r#"{generate} '"answers":[{{"i":1,"tokens":[1],"finish":"eos"}}],"done":true';;"#),
                "did not continue prompt 0",
            ),
            (format!("{generate} '\"answers\":[]';;"), "says nothing"),
            (
                format!(r#"{generate} '"error":"out of \u001bmemory"';;"#),
                "it says: out of memory",
            ),
            (
                r#"*'"op":"generate"'*) n=3; say '"done":true';;"#.into(),
                "answered request 3 instead of",
            ),
            (
                r#"*'"op":"generate"'*) echo '{"id": much}';;"#.into(),
                "no form that is known",
            ),
            (
                r#"*'"op":"generate"'*) echo 'no room' >&2; exit 5;;"#.into(),
                "ended before it answered (exit status: 5): no room",
            ),
            (
                r#"*'"op":"generate"'*) tr '\0' x < /dev/zero;;"#.into(),
                "more than 16 MiB",
            ),
        ] {
            let mut engine = started(&says, 60.0).unwrap();
            give(&mut engine).unwrap();
            let failed = asked(&mut engine).unwrap_err();
            assert!(matches!(failed, eval::Error::EngineBroke { .. }), "{failed}");
            assert!(failed.to_string().contains(reason), "{says}: {failed}");
            assert!(engine.take_second_chance() && !engine.take_second_chance());
            assert!(asked(&mut engine).unwrap_err().to_string().contains("has gone"));
        }
    }

    #[test]
    fn what_is_no_number_is_told_and_the_engine_goes_on() {
        for word in ["NaN", "-Infinity", "null"] {
            let says = format!(
                r#"*'"op":"score"'*) say '"answers":[{{"i":0,"log_likelihood":{word},"greedy":true}}],"done":true';;"#
            );
            let mut engine = started(&says, 60.0).unwrap();
            give(&mut engine).unwrap();
            let failed = scored(&mut engine).unwrap_err();
            assert!(failed.to_string().contains("no number for how likely"), "{failed}");
            assert!(!engine.take_second_chance(), "it would say the same again");
            asked(&mut engine).unwrap();
        }
    }

    #[test]
    fn an_engine_that_hangs_is_let_go_of() {
        let mut engine = started(r#"*'"op":"generate"'*) sleep 60;;"#, 0.5).unwrap();
        give(&mut engine).unwrap();
        let failed = asked(&mut engine).unwrap_err();
        assert!(failed.to_string().contains("said nothing for 0.5 s"), "{failed}");
        assert!(!engine.take_second_chance(), "a second try would take as long again");
    }

    #[test]
    fn who_cannot_be_an_engine_is_refused_at_the_door() {
        let hello = |rest: &str| format!(r#"*'"op":"hello"'*) say '"done":true,{rest}';;"#);
        let named = r#""name":"sh","version":"1","device":"none""#;
        for (says, reason) in [
            (hello(r#""protocol":2"#), "speaks version 2 of the protocol"),
            (
                hello(r#""protocol":1,"name":"x\u0007","version":"1","device":"d""#),
                "its name is no line",
            ),
            (
                hello(&format!(r#""protocol":1,{named},"dtypes":["bf16"],"can":[]"#)),
                "takes no weights in f32 (but bf16)",
            ),
            (
                hello(&format!(r#""protocol":1,{named},"dtypes":["f32"],"can":["score"]"#)),
                "cannot generate",
            ),
            (r#"*) exit 1;;"#.into(), "ended before it answered"),
        ] {
            let refused = started(&says, 60.0).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.contains(reason), "{refused}");
        }
        let nowhere = EngineProgram::start(Settings {
            command: vec!["/nowhere/engine".into()],
            timeout: Duration::from_secs(1),
            dtype: DType::F32,
            scratch: std::env::temp_dir(),
            worker: None,
        });
        assert!(matches!(nowhere, Err(Error::CannotStart { .. })));
    }

    /// An engine that was upgraded while a run went on would have answered its second half.
    #[test]
    fn another_engine_does_not_take_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen").display().to_string();
        let says = format!(
            r#"*'"op":"hello"'*) v=1; [ -e {seen} ] && v=2; : > {seen}; say '"done":true,"protocol":1,"name":"sh","version":"'$v'","device":"none","dtypes":["f32"],"can":["generate"]';;
            *'"op":"generate"'*) exit 1;;"#
        );
        let mut engine = started(&says, 60.0).unwrap();
        give(&mut engine).unwrap();
        assert!(asked(&mut engine).is_err());
        let refused = give(&mut engine).unwrap_err();
        assert!(
            !refused.is_breakdown() && refused.to_string().contains("was 'sh (1) on none'"),
            "{refused}"
        );
    }

    #[test]
    fn long_questions_are_asked_in_several_lines() {
        let sizes = [600_000, 500_000, 2_000_000, 1, 1];
        let all: Vec<usize> = (0..sizes.len()).collect();
        let parts: Vec<Vec<usize>> = parts(&all, |i| sizes[i]).into_iter().map(<[usize]>::to_vec).collect();
        assert_eq!(parts, [vec![0], vec![1], vec![2], vec![3, 4]]);
    }
}
