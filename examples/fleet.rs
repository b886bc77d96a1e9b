//! A simulated fleet: a real NATS server, a real coordinator, and workers that sleep instead of computing.
//!
//! ```text
//! cargo run --release --example fleet -- WORKERS [sync|async] [SCALE] [CANDIDATES]      # NATS_SERVER names the server's program
//! cargo run --release --example fleet -- overhead                          # milliseconds that a unit of work costs besides
//! ```
//!
//! A candidate's whole exam takes 5 s to 10 min on a worker (log-normal, clamped, drawn from the recipe), a tenth of it the
//! merge; a unit takes its share. Of the units 5 % take three times as long, and over 1 % the worker dies (its process aborts;
//! another one comes after 30 s, as a scheduler would send it). All times are divided by SCALE (20 unless given); the waits of
//! the protocol are not, so a dead worker costs SCALE times as much as it would. Prints how much of their time between the
//! search's beginning and its end the workers worked, and how much of that was in vain.

#![allow(clippy::unwrap_used)] // what cannot be done here ends the simulation

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use heterosis::{
    eval::Split,
    event::{Event, Phase},
    host::{Host, now_ms},
    model::{DType, Device},
    models::RuntimeOptions,
    search::{Computation, Control, ENGINE_VERSION, Given, Kept, Work},
    session::{self, Session},
    workers::{self, Hands, Kind, Options, Order, Orders, Plan, Post, Settings},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};

#[path = "shared/nats.rs"]
mod nats;

use nats::Server;

/// Seconds of the shortest and the longest candidate: two standard deviations below and above the median.
const SHORTEST: f64 = 5.0;
const LONGEST: f64 = 600.0;

/// Part of a candidate's time that is its merge.
const MERGE: f64 = 0.1;

/// Questions of a whole exam.
const WHOLE: f64 = 96.0;

const STRAGGLING: f64 = 0.05;
const STRAGGLES: f64 = 3.0;
const DYING: f64 = 0.01;

/// Seconds until another worker comes for one that has died.
const COMES_AFTER: f64 = 30.0;

/// Workers of one process beyond this many in all: so many processes are more than a small machine bears.
const PROCESSES: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", url, name, scale, out] => sleep_for(url, name, scale.parse().unwrap(), Path::new(out)),
        ["overhead"] => overhead(),
        [workers, rest @ ..] => {
            let kind = rest.first().is_some_and(|kind| *kind == "async");
            let scale = rest.get(1).map_or(20.0, |scale| scale.parse().unwrap());
            let candidates = rest.get(2).map(|candidates| candidates.parse().unwrap());
            simulate(workers.parse().unwrap(), kind, scale, candidates);
        }
        [] => eprintln!("fleet WORKERS [sync|async] [SCALE] [CANDIDATES], or fleet overhead"),
    }
}

/// A worker that sleeps.
struct Sleeper {
    scale: f64,
    /// Where it says when it worked.
    out: PathBuf,
    name: String,
    random: ChaCha8Rng,
}

impl Hands for Sleeper {
    fn work(&mut self, _: &Plan, mut orders: Orders) {
        let mut gold: HashMap<(usize, Split, usize), String> = HashMap::new();
        orders.ready();
        while let Some(order) = orders.next() {
            match order {
                Order::List { task, split, questions } => {
                    let answers = questions.into_iter().enumerate();
                    gold.extend(answers.map(|(item, question)| ((task, split, item), question.gold)));
                }
                Order::Do { work, done, .. } => {
                    let began = now_ms();
                    self.sleep(&work);
                    let answers = work.parts.iter().map(|part| {
                        let split = Split::from_name(&part.split).unwrap();
                        let items = part.items.iter();
                        items
                            .map(|item| self.answer(&work, *item, &gold[&(part.task, split, *item)]))
                            .collect()
                    });
                    let given = Given {
                        answers: answers.collect(),
                        merge_ms: 1,
                        evaluation_ms: now_ms() - began,
                    };
                    let digest = work.recipe.digest();
                    let mut out = fs::File::options().append(true).create(true).open(&self.out).unwrap();
                    let first = work.parts[0].items[0];
                    let line = format!(
                        "{} {began} {} {digest}/{first}/{}\n",
                        self.name,
                        now_ms(),
                        questions(&work)
                    );
                    // In one piece: many processes write to this file.
                    out.write_all(line.as_bytes()).unwrap();
                    let _ = done.send(Ok(given));
                }
            }
        }
    }
}

fn questions(work: &Work) -> usize {
    work.parts.iter().map(|part| part.items.len()).sum()
}

impl Sleeper {
    fn sleep(&mut self, work: &Work) {
        if self.scale == f64::INFINITY {
            return;
        }
        let seed = u64::from_str_radix(&work.recipe.digest()[..16], 16).unwrap();
        let sigma = (LONGEST / SHORTEST).ln() / 4.0;
        let times = LogNormal::new((LONGEST * SHORTEST).sqrt().ln(), sigma).unwrap();
        let whole = times
            .sample(&mut ChaCha8Rng::seed_from_u64(seed))
            .clamp(SHORTEST, LONGEST);
        let mut seconds = whole * (MERGE + (1.0 - MERGE) * questions(work) as f64 / WHOLE);
        if self.random.random_bool(STRAGGLING) {
            seconds *= STRAGGLES;
        }
        let dies = self.random.random_bool(DYING);
        let part = if dies { self.random.random::<f64>() } else { 1.0 };
        std::thread::sleep(Duration::from_secs_f64(seconds * part / self.scale));
        if dies {
            std::process::abort();
        }
    }

    /// Right or wrong, as the recipe and the question will have it.
    fn answer(&self, work: &Work, item: usize, gold: &str) -> Kept {
        let digest = work.recipe.digest();
        let draw = u8::from_str_radix(&digest[item % 60..item % 60 + 2], 16).unwrap();
        Kept {
            out: if draw > 140 { gold.into() } else { "nothing".into() },
            finish: "eos".into(),
            tokens: 10,
            score: None,
        }
    }
}

/// What a child process of this program does.
fn sleep_for(url: &str, name: &str, scale: f64, out: &Path) {
    let host = Host::this_machine();
    let settings = Settings {
        nats: Options {
            url: url.into(),
            ..Options::default()
        },
        name: name.into(),
        host: "simulated".into(),
        device: "cpu".into(),
        kind: Kind::of(&Computation::new(Device::Cpu, DType::F32)),
        engine_version: ENGINE_VERSION.into(),
        idle_exit: None,
        grace: Duration::ZERO,
    };
    let sleeper = Sleeper {
        scale,
        out: out.into(),
        name: name.into(),
        random: ChaCha8Rng::seed_from_u64(now_ms() ^ u64::from(std::process::id())),
    };
    let _ = workers::work(
        settings,
        sleeper,
        Arc::new(AtomicUsize::new(0)),
        host.since_start,
        |_| (),
    );
}

/// Starts a worker's process, and another one when it dies, until all is over.
fn keep(url: String, name: String, scale: f64, out: PathBuf, over: Arc<AtomicBool>, deaths: Arc<AtomicUsize>) {
    for life in 0.. {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["worker", &url, &format!("{name}-{life}"), &scale.to_string()])
            .arg(&out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            if over.load(Ordering::Relaxed) {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        deaths.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs_f64(COMES_AFTER / scale));
    }
}

/// A search over the tiny family, whose models are opened and never run.
fn space(workers: usize, is_async: bool, evals: usize) -> String {
    let root = std::env::current_dir().unwrap();
    let root = root.display();
    let racing = if is_async {
        "racing: false, asynchronous: true"
    } else {
        "racing: {rungs: [24, 48, 96]}"
    };
    // A generation is large enough to give everybody something: two candidates for each worker.
    let population = (2 * workers).max(8);
    format!(
        "name: fleet
models: {{base: {root}/models/tiny-base, maths: {root}/models/tiny-maths-en, spanish: {root}/models/tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: {root}/evals/arith-es.yaml, limit: 96}}], guard: {{perplexity_ratio: 10.0}}}}
search: {{optimizer: genetic, population: {population}, evals: {evals}, {racing}, seed: 5}}
final: {{finalists: 2, selection: {{limit: 8}}, test: {{limit: 8}}}}
"
    )
}

/// Runs a search; gives the moments at which its search began and ended, by the wall clock.
fn search(url: &str, dir: &Path, space: &str) -> (u64, u64, usize) {
    let file = dir.join("space.yaml");
    fs::write(&file, space).unwrap();
    let host = Host {
        answers: None,
        ..Host::this_machine()
    };
    let session = Session::open(session::read_space(&file).unwrap(), &RuntimeOptions::default(), host).unwrap();
    let post = Post::connect(&Options {
        url: url.into(),
        ..Options::default()
    });
    let search = session.create(&dir.join("run"), session.usual_budget()).unwrap();
    let search = search.by_workers(post.unwrap()).unwrap();
    let moments = Mutex::new((0, 0, 0));
    let ended = search.run(&Control::default(), &|record| {
        let mut moments = moments.lock().unwrap();
        match &record.event {
            Event::PhaseStarted { phase: Phase::Search } => moments.0 = record.time_ms,
            Event::SearchEnded { .. } => moments.1 = record.time_ms,
            Event::CandidateScored(_) => moments.2 += 1,
            _ => {}
        }
    });
    ended.unwrap();
    moments.into_inner().unwrap()
}

fn simulate(workers: usize, is_async: bool, scale: f64, candidates: Option<usize>) {
    let tmp = tempfile::tempdir().unwrap();
    let server = Server::start(tmp.path());
    let (out, over, deaths) = (
        tmp.path().join("work"),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let lives: Vec<_> = (0..workers)
        .map(|n| {
            let (url, out, over, deaths) = (server.url(), out.clone(), over.clone(), deaths.clone());
            // Not all at once: a thousand processes take a while to start.
            std::thread::sleep(Duration::from_millis(if workers > PROCESSES { 20 } else { 5 }));
            std::thread::spawn(move || keep(url, format!("w{n:04}"), scale, out, over, deaths))
        })
        .collect();
    let each = if workers > PROCESSES { 3 } else { 8 };
    let evals = candidates.unwrap_or(2 * workers.max(4) * each);
    let began = Instant::now();
    let (start, end, _) = search(&server.url(), tmp.path(), &space(workers, is_async, evals));
    over.store(true, Ordering::Relaxed);
    lives.into_iter().for_each(|life| life.join().unwrap());
    let (mut busy, mut vain, mut units, mut seen) = (0, 0, 0, HashMap::new());
    for line in fs::read_to_string(&out).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (from, to): (u64, u64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        let (from, to) = (from.max(start), to.min(end));
        if from < to {
            units += 1;
            busy += to - from;
            if seen.insert(words[3].to_string(), ()).is_some() {
                vain += to - from;
            }
        }
    }
    let whole = workers as u64 * (end - start);
    println!(
        "| {workers} | {} | {evals} | {units} | {} | {:.1} % | {:.1} % | {:.0} s |",
        if is_async { "asynchronous" } else { "synchronous, raced" },
        deaths.load(Ordering::Relaxed),
        100.0 * busy as f64 / whole as f64,
        100.0 * vain as f64 / busy.max(1) as f64,
        began.elapsed().as_secs_f64()
    );
}

/// What a unit costs besides its work: one worker that does nothing.
fn overhead() {
    let tmp = tempfile::tempdir().unwrap();
    let server = Server::start(tmp.path());
    let (out, over, deaths) = (
        tmp.path().join("work"),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let keeper = {
        let (url, out, over) = (server.url(), out.clone(), over.clone());
        std::thread::spawn(move || keep(url, "w".into(), f64::INFINITY, out, over, deaths))
    };
    let (start, end, candidates) = search(&server.url(), tmp.path(), &space(1, true, 500));
    over.store(true, Ordering::Relaxed);
    keeper.join().unwrap();
    let units = fs::read_to_string(&out).unwrap().lines().count();
    println!(
        "{units} units, {candidates} candidates: {:.2} ms a candidate from its question to its score in the journal",
        (end - start) as f64 / candidates as f64
    );
}
