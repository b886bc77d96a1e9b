//! A simulated fleet: a real NATS server, a real coordinator, and workers that sleep instead of computing.
//!
//! ```text
//! cargo run --release --example fleet -- WORKERS [sync|async] [SCALE] [CANDIDATES] [GENERATION] [SEED]
//! cargo run --release --example fleet -- overhead                          # milliseconds that a unit of work costs besides
//! ```
//!
//! `NATS_SERVER` names the server's program. A candidate's whole exam takes 5 s to 10 min on a worker (log-normal, clamped, drawn
//! from the recipe), a tenth of it the merge; a unit takes its share. Of the units 5 % take three times as long, and over 1 % the
//! worker dies (its connection breaks off without a word; another one comes after 30 s, as a scheduler would send it).
//!
//! All times are divided by SCALE (20 unless given), those of the protocol too: the coordinator's clock and the workers' run
//! faster, and workers say oftener that they are there. Each worker is a thread of this process with a connection of its own to the server.
//!
//! Prints how much of their time between the search's beginning and its end the workers worked; how much of that time went into
//! answers that came first, into answers that another worker had given, and into units that a worker died over; then what the
//! server and the coordinator had to do.

#![allow(clippy::unwrap_used)] // what cannot be done here ends the simulation

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use heterosis::{
    eval::Split,
    event::{Event, Phase, WorkerState},
    host::{Host, now_ms},
    model::{DType, Device},
    models::RuntimeOptions,
    search::{Computation, Control, ENGINE_VERSION, Given, Kept, Work},
    session::{self, Session},
    workers::{self, Hands, Kind, Options, Order, Orders, Plan, Post, SIGN_EVERY, Settings},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Notify, watch};

#[path = "shared/exam_times.rs"]
mod exam_times;
#[path = "shared/nats.rs"]
mod nats;

use exam_times::{COMES_AFTER, DYING, STRAGGLES, STRAGGLING};
use nats::Server;

/// Candidates for each worker: of a generation, and of a run of which no number is given.
const GENERATION: usize = 2;
const RUN: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => eprintln!("fleet WORKERS [sync|async] [SCALE] [CANDIDATES] [GENERATION] [SEED], or fleet overhead"),
        ["overhead"] => overhead(),
        [workers, rest @ ..] => {
            let workers: usize = workers.parse().unwrap();
            let number = |place: usize, usual: usize| rest.get(place).map_or(usual, |word| word.parse().unwrap());
            simulate(&Simulated {
                workers,
                is_async: rest.first().is_some_and(|kind| *kind == "async"),
                scale: number(1, 20) as f64,
                candidates: number(2, RUN * workers.max(4)),
                generation: number(3, (GENERATION * workers).max(8)),
                seed: number(4, 5),
            });
        }
    }
}

/// What is simulated.
struct Simulated {
    workers: usize,
    is_async: bool,
    scale: f64,
    candidates: usize,
    generation: usize,
    seed: usize,
}

/// What all workers share.
#[derive(Default)]
struct Log {
    done: Mutex<Vec<Stint>>,
    over: watch::Sender<bool>,
    deaths: AtomicUsize,
}

/// A worker's time at a unit, by the wall clock in milliseconds.
struct Stint {
    worker: usize,
    began: u64,
    /// Not yet: it is at it.
    ended: Option<u64>,
    has_died: bool,
    weights: String,
    questions: Vec<(usize, String, usize)>,
}

/// A worker that sleeps.
struct Sleeper {
    scale: f64,
    number: usize,
    log: Arc<Log>,
    /// Rung when it dies.
    dies: Arc<Notify>,
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
                    let place = self.begins(&work);
                    let Some(spent) = self.sleep(&work) else {
                        self.ends(place, true);
                        // Nobody is to hear that nobody answers.
                        std::mem::forget((done, orders));
                        self.dies.notify_one();
                        return;
                    };
                    self.ends(place, false);
                    let answers = work.parts.iter().map(|part| {
                        let split = Split::from_name(&part.split).unwrap();
                        let items = part.items.iter();
                        items
                            .map(|item| self.answer(&work, *item, &gold[&(part.task, split, *item)]))
                            .collect()
                    });
                    let given = Given {
                        answers: answers.collect(),
                        ..spent
                    };
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
    /// Notes that it begins with a unit: the note's place.
    fn begins(&self, work: &Work) -> usize {
        let of_part = |part: &heterosis::search::Part| {
            let (task, split) = (part.task, part.split.clone());
            let items = part.items.clone().into_iter();
            items.map(move |item| (task, split.clone(), item))
        };
        let mut done = self.log.done.lock().unwrap();
        done.push(Stint {
            worker: self.number,
            began: now_ms(),
            ended: None,
            has_died: false,
            weights: work.recipe.digest(),
            questions: work.parts.iter().flat_map(of_part).collect(),
        });
        done.len() - 1
    }

    fn ends(&self, place: usize, has_died: bool) {
        let stint = &mut self.log.done.lock().unwrap()[place];
        (stint.ended, stint.has_died) = (Some(now_ms()), has_died);
    }

    /// Takes its time: how much, by the clock of the simulation; `None` if it dies over it.
    fn sleep(&mut self, work: &Work) -> Option<Given> {
        if self.scale == f64::INFINITY {
            return Some(Given::default());
        }
        let seed = u64::from_str_radix(&work.recipe.digest()[..16], 16).unwrap();
        let whole = exam_times::whole(&mut ChaCha8Rng::seed_from_u64(seed));
        let straggles = self.random.random_bool(STRAGGLING);
        let whole = if straggles { STRAGGLES * whole } else { whole };
        let [merge, evaluation] = exam_times::parts(questions(work)).map(|part| whole * part);
        let dies = self.random.random_bool(DYING);
        let part = if dies { self.random.random::<f64>() } else { 1.0 };
        std::thread::sleep(Duration::from_secs_f64((merge + evaluation) * part / self.scale));
        let ms = |seconds: f64| (1000.0 * seconds) as u64;
        (!dies).then(|| Given {
            answers: Vec::new(),
            merge_ms: ms(merge),
            evaluation_ms: ms(evaluation),
        })
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

/// A clock that is so many times as fast as the machine's.
fn clock(speed: f64) -> Arc<dyn Fn() -> Duration + Send + Sync> {
    let began = Instant::now();
    Arc::new(move || began.elapsed().mul_f64(speed))
}

/// A worker from its beginning to its death, or until all is over; whether it has died.
fn live(url: &str, name: String, sleeper: Sleeper) -> bool {
    let settings = Settings {
        nats: Options {
            url: url.into(),
            ..Options::default()
        },
        name,
        host: "simulated".into(),
        device: "cpu".into(),
        kind: Kind::of(&Computation::new(Device::Cpu, DType::F32)),
        engine_version: ENGINE_VERSION.into(),
        idle_exit: None,
        grace: Duration::ZERO,
        sign_every: match sleeper.scale.is_finite() {
            true => SIGN_EVERY.div_f64(sleeper.scale),
            false => SIGN_EVERY,
        },
    };
    let (log, dies) = (sleeper.log.clone(), sleeper.dies.clone());
    let mut over = log.over.subscribe();
    let now = clock(if sleeper.scale.is_finite() { sleeper.scale } else { 1.0 });
    // What dies takes with it what it has begun in the background, its connection first of all.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::select! {
            ended = workers::working(settings, sleeper, Arc::default(), now, |_| ()) => panic!("a worker ended: {ended:?}"),
            () = dies.notified() => true,
            _ = over.wait_for(|over| *over) => false,
        }
    })
}

/// Lives on after each death, until all is over.
fn keep(url: &str, number: usize, (scale, seed): (f64, usize), log: &Arc<Log>) {
    let mut random = ChaCha8Rng::seed_from_u64(((seed as u64) << 32) + number as u64);
    for life in 0.. {
        let sleeper = Sleeper {
            scale,
            number,
            log: log.clone(),
            dies: Arc::default(),
            random: ChaCha8Rng::seed_from_u64(random.random()),
        };
        if !live(url, format!("w{number:04}-{life}"), sleeper) {
            return;
        }
        log.deaths.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs_f64(COMES_AFTER / scale));
    }
}

/// So many workers, each in a thread that is named as one.
fn start(url: &str, workers: usize, (scale, seed): (f64, usize), log: &Arc<Log>) -> Vec<std::thread::JoinHandle<()>> {
    let one = |number: usize| {
        let (url, log) = (url.to_string(), log.clone());
        let thread = std::thread::Builder::new().name(format!("{WORKER}{number}"));
        // Not all at once: a thousand connections take a while.
        std::thread::sleep(Duration::from_millis(5));
        thread.spawn(move || keep(&url, number, (scale, seed), &log)).unwrap()
    };
    (0..workers).map(one).collect()
}

/// Names of workers' threads, and of those that they start, begin with it.
const WORKER: &str = "worker-";

/// A search over the tiny family, whose models are opened and never run.
fn space(of: &Simulated) -> String {
    let root = std::env::current_dir().unwrap();
    let root = root.display();
    let racing = if of.is_async {
        "racing: false, asynchronous: true"
    } else {
        "racing: {rungs: [24, 48, 96]}"
    };
    let (population, evals, seed) = (of.generation, of.candidates, of.seed);
    format!(
        "name: fleet
models: {{base: {root}/models/tiny-base, maths: {root}/models/tiny-maths-en, spanish: {root}/models/tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: {root}/evals/arith-es.yaml, limit: 96}}], guard: {{perplexity_ratio: 10.0}}}}
search: {{optimizer: genetic, population: {population}, evals: {evals}, {racing}, seed: {seed}}}
final: {{finalists: 2, selection: {{limit: 8}}, test: {{limit: 8}}}}
"
    )
}

/// How a search went.
#[derive(Default)]
struct Searched {
    /// Its beginning and end, by the wall clock in milliseconds.
    start: u64,
    end: u64,
    candidates: usize,
    /// Workers that were held for lost.
    lost: usize,
}

/// Runs a search, by a clock that is so many times as fast.
fn search(url: &str, dir: &Path, space: &str, speed: f64) -> Searched {
    let file = dir.join("space.yaml");
    fs::write(&file, space).unwrap();
    let host = Host {
        answers: None,
        since_start: clock(speed),
        ..Host::this_machine()
    };
    let session = Session::open(session::read_space(&file).unwrap(), &RuntimeOptions::default(), host).unwrap();
    let post = Post::connect(&Options {
        url: url.into(),
        ..Options::default()
    });
    let search = session.create(&dir.join("run"), session.usual_budget()).unwrap();
    let search = search.by_workers(post.unwrap()).unwrap();
    let searched = Mutex::new(Searched::default());
    let ended = search.run(&Control::default(), &|record| {
        let mut searched = searched.lock().unwrap();
        match &record.event {
            Event::PhaseStarted { phase: Phase::Search } => searched.start = record.time_ms,
            Event::SearchEnded { .. } => searched.end = record.time_ms,
            Event::CandidateScored(_) => searched.candidates += 1,
            Event::Worker(worker) if worker.state == WorkerState::Lost => searched.lost += 1,
            _ => {}
        }
    });
    ended.unwrap();
    searched.into_inner().unwrap()
}

/// Worker-milliseconds of a search.
#[derive(Default)]
struct Times {
    /// Into answers that came first.
    useful: f64,
    /// Into answers that another worker had given, or that nobody waited for any more.
    vain: f64,
    /// Into units that the worker died over.
    lost: f64,
    units: usize,
    /// From the end of a worker's unit to the beginning of its next one, where it worked again at once: the median.
    between_ms: f64,
}

/// What the workers' time went into, between two moments.
fn times(stints: &[Stint], start: u64, end: u64) -> Times {
    let mut times = Times::default();
    let mut stints: Vec<&Stint> = stints.iter().filter(|stint| stint.began < end).collect();
    stints.sort_by_key(|stint| stint.ended.unwrap_or(u64::MAX));
    let mut answered = HashSet::new();
    for stint in &stints {
        let ended = stint.ended.filter(|ended| *ended <= end);
        let spent = ended.unwrap_or(end).saturating_sub(stint.began.max(start)) as f64;
        if ended.is_some_and(|ended| ended < start) || spent == 0.0 {
            continue;
        }
        times.units += 1;
        match ended {
            Some(_) if stint.has_died => times.lost += spent,
            None => times.vain += spent,
            Some(_) => {
                let questions = stint.questions.iter().map(|question| (&stint.weights, question));
                let new = questions.filter(|question| answered.insert(*question)).count();
                let share = new as f64 / stint.questions.len() as f64;
                times.useful += share * spent;
                times.vain += (1.0 - share) * spent;
            }
        }
    }
    stints.sort_by_key(|stint| (stint.worker, stint.began));
    let follow = stints
        .windows(2)
        .filter(|pair| pair[0].worker == pair[1].worker && !pair[0].has_died);
    let mut between: Vec<u64> = follow
        .filter_map(|pair| Some(pair[1].began.saturating_sub(pair[0].ended?)))
        .collect();
    between.sort_unstable();
    times.between_ms = between.get(between.len() / 2).map_or(f64::NAN, |ms| *ms as f64);
    times
}

/// Seconds of the processor that a process has had, and those of its threads whose names begin so.
fn processor_s(process: u32, named: &str) -> (f64, f64) {
    let seconds = |stat: String| {
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let field = |n: usize| fields.split_whitespace().nth(n).unwrap().parse::<f64>().unwrap();
        // utime and stime, in hundredths (proc_pid_stat(5)).
        (field(11) + field(12)) / 100.0
    };
    let dir = format!("/proc/{process}");
    let all = seconds(fs::read_to_string(format!("{dir}/stat")).unwrap());
    let threads = fs::read_dir(format!("{dir}/task"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let named = threads.filter(|thread| {
        let name = fs::read_to_string(thread.join("comm"));
        name.is_ok_and(|name| name.starts_with(named))
    });
    let of_named = named.filter_map(|thread| Some(seconds(fs::read_to_string(thread.join("stat")).ok()?)));
    (all, of_named.sum())
}

fn simulate(of: &Simulated) {
    let tmp = tempfile::tempdir().unwrap();
    let server = Server::start(tmp.path());
    let log = Arc::new(Log::default());
    let lives = start(&server.url(), of.workers, (of.scale, of.seed), &log);
    let (me, began, messages) = (std::process::id(), Instant::now(), server.messages());
    let (before, server_before) = (processor_s(me, WORKER), processor_s(server.process(), WORKER).0);
    let searched = search(&server.url(), tmp.path(), &space(of), of.scale);
    let seconds = began.elapsed().as_secs_f64();
    let (after, server_after) = (processor_s(me, WORKER), processor_s(server.process(), WORKER).0);
    let messages = server.messages() - messages;
    log.over.send_replace(true);
    lives.into_iter().for_each(|life| life.join().unwrap());

    let (start, end) = (searched.start, searched.end);
    let times = times(&log.done.lock().unwrap(), start, end);
    let whole = of.workers as f64 * (end - start) as f64;
    let percent = |ms: f64| 100.0 * ms / whole;
    println!(
        "| {} | {} | {} of {} | {} | {} ({}) | {:.1} % | {:.1} % | {:.1} % | {:.1} % | {:.0} s |",
        of.workers,
        if of.is_async {
            "asynchronous"
        } else {
            "synchronous, raced"
        },
        of.candidates,
        of.generation,
        times.units,
        log.deaths.load(Ordering::Relaxed),
        searched.lost,
        percent(times.useful + times.vain + times.lost),
        percent(times.useful),
        percent(times.vain),
        percent(times.lost),
        (end - start) as f64 / 1000.0 * of.scale,
    );
    let workers_s = after.1 - before.1;
    println!(
        "  {:.1} units/s, {:.0} messages/s, of a processor: server {:.0} %, coordinator {:.0} %, workers {:.0} %; {:.0} ms from          a unit to the next; {:.0} s",
        times.units as f64 * 1000.0 / (end - start) as f64,
        messages as f64 / seconds,
        100.0 * (server_after - server_before) / seconds,
        100.0 * (after.0 - before.0 - workers_s) / seconds,
        100.0 * workers_s / seconds,
        times.between_ms,
        seconds
    );
}

/// What a unit costs besides its work: one worker that does nothing.
fn overhead() {
    let tmp = tempfile::tempdir().unwrap();
    let server = Server::start(tmp.path());
    let log = Arc::new(Log::default());
    let lives = start(&server.url(), 1, (f64::INFINITY, 5), &log);
    let one = Simulated {
        workers: 1,
        is_async: true,
        scale: f64::INFINITY,
        candidates: 500,
        generation: 8,
        seed: 5,
    };
    let searched = search(&server.url(), tmp.path(), &space(&one), 1.0);
    log.over.send_replace(true);
    lives.into_iter().for_each(|life| life.join().unwrap());
    let (units, candidates) = (log.done.lock().unwrap().len(), searched.candidates);
    println!(
        "{units} units, {candidates} candidates: {:.2} ms a candidate from its question to its score in the journal",
        (searched.end - searched.start) as f64 / candidates as f64
    );
}
