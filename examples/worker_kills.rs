//! Kills workers, coordinator and server at random moments, and compares every run with the one that nobody disturbed.
//!
//! ```text
//! cargo build --release && cargo run --release --example worker_kills -- target/release/heterosis [KILLS] [SEED]
//! ```
//!
//! `NATS_SERVER` names the server's program. Each run has three workers over the tiny family and bears up to six kills
//! (SIGKILL): of a worker, which another one replaces, of the coordinator, which resumes, or of the server, which is started
//! again, one time in four without its store. The journal (without clocks and workers) and the best recipe must be those of a
//! run in one process, and workers may have answered twice only what was out when a kill came. Prints a table at the end, and
//! ends with 1 if anything differs. `docs/many-machines.md` has figures.

#![allow(clippy::unwrap_used)] // what cannot be done here ends the campaign

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

#[path = "shared/journal.rs"]
mod journal;
#[path = "shared/nats.rs"]
mod nats;
#[path = "shared/story.rs"]
mod story;

use journal::records;
use nats::Server;
use story::story_of;

const WORKERS: usize = 3;

/// Kills that one run has to bear at most.
const KILLS_A_RUN: usize = 6;

/// Questions that can be out with one worker.
const OUT: usize = 40;

struct Campaign {
    program: PathBuf,
    /// Ends before its directory.
    server: Server,
    dir: tempfile::TempDir,
    workers: Vec<Child>,
    /// Answers that workers say they gave.
    given: Arc<AtomicUsize>,
    random: ChaCha8Rng,
}

#[derive(Default)]
struct Tally {
    runs: usize,
    same: usize,
    workers: usize,
    coordinators: usize,
    servers: usize,
    stores: usize,
    given: usize,
    journalled: usize,
    faults: Vec<String>,
}

impl Tally {
    fn kills(&self) -> usize {
        self.workers + self.coordinators + self.servers
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().expect("the path of the heterosis program");
    let kills: usize = arguments.next().map_or(200, |n| n.parse().expect("how many kills"));
    let seed: u64 = arguments.next().map_or(1, |n| n.parse().expect("a seed"));
    let mut campaign = Campaign::new(fs::canonicalize(program).unwrap(), seed);
    let file = campaign.dir.path().join("space.yaml");
    fs::write(&file, space()).unwrap();
    let alone = campaign.dir.path().join("alone");
    assert!(campaign.search(&file, &alone, false).wait().unwrap().success());
    let began = Instant::now();
    let whole = campaign.dir.path().join("whole");
    assert!(campaign.search(&file, &whole, true).wait().unwrap().success());
    let length = began.elapsed();
    assert_eq!(story(&whole), story(&alone), "a run that nobody disturbs");
    let mut tally = Tally::default();
    while tally.kills() < kills {
        campaign.disturbed(&file, &alone, length, kills, &mut tally);
        println!(
            "{} kills, {} of {} runs the same",
            tally.kills(),
            tally.same,
            tally.runs
        );
    }
    println!(
        "\n| runs | kills of workers | of the coordinator | of the server | of these without its store | same end | answers given \
         again |\n|---|---|---|---|---|---|---|\n| {} | {} | {} | {} | {} | {} | {} of {} |",
        tally.runs,
        tally.workers,
        tally.coordinators,
        tally.servers,
        tally.stores,
        tally.same,
        tally.given.saturating_sub(tally.journalled),
        tally.journalled
    );
    tally.faults.iter().for_each(|fault| println!("{fault}"));
    ExitCode::from(u8::from(!tally.faults.is_empty()))
}

impl Campaign {
    fn new(program: PathBuf, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut campaign = Self {
            server: Server::start(dir.path()),
            program,
            dir,
            workers: Vec::new(),
            given: Arc::default(),
            random: ChaCha8Rng::seed_from_u64(seed),
        };
        for _ in 0..WORKERS {
            let worker = campaign.worker();
            campaign.workers.push(worker);
        }
        campaign
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("HETEROSIS_CACHE", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Counts what it says it has answered.
    fn worker(&self) -> Child {
        let url = self.server.url();
        let mut child = self
            .command(&["worker", "--nats", &url])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, given) = (BufReader::new(child.stderr.take().unwrap()).lines(), self.given.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let answers = line
                    .split(" answers in")
                    .next()
                    .and_then(|text| text.rsplit(' ').next()?.parse().ok());
                given.fetch_add(
                    answers.filter(|_| line.contains(" answers in")).unwrap_or(0),
                    Ordering::Relaxed,
                );
            }
        });
        child
    }

    fn search(&self, space: &Path, run: &Path, by_workers: bool) -> Child {
        let has_begun = fs::read(run.join("journal.jsonl")).is_ok_and(|text| text.contains(&b'\n'));
        let (run, space, url) = (
            run.display().to_string(),
            space.display().to_string(),
            self.server.url(),
        );
        let mut args = match has_begun {
            true => vec!["--quiet", "resume", &run, "--headless"],
            false => vec!["--quiet", "search", &space, "--run", &run, "--headless"],
        };
        if by_workers {
            args.extend(["--nats", &url]);
        }
        self.command(&args).stderr(Stdio::null()).spawn().unwrap()
    }

    /// One run with kills in it.
    fn disturbed(&mut self, file: &Path, alone: &Path, length: Duration, kills: usize, tally: &mut Tally) {
        let run = self.dir.path().join(format!("run-{}", tally.runs));
        let (before, given) = (tally.kills(), self.given.load(Ordering::Relaxed));
        let mut search = self.search(file, &run, true);
        loop {
            let most = (before + KILLS_A_RUN).min(kills);
            let moment = length.mul_f64(self.random.random::<f64>() * 0.7);
            if tally.kills() >= most || ended_within(&mut search, moment) {
                break;
            }
            match self.random.random_range(0..5) {
                0 | 1 => {
                    let victim = self.random.random_range(0..WORKERS);
                    end(&mut self.workers[victim]);
                    self.workers[victim] = self.worker();
                    tally.workers += 1;
                }
                2 | 3 => {
                    end(&mut search);
                    search = self.search(file, &run, true);
                    tally.coordinators += 1;
                }
                _ => {
                    let keeps_store = !self.random.random_bool(0.25);
                    self.server.kill();
                    self.server.restart(keeps_store);
                    tally.stores += usize::from(!keeps_store);
                    tally.servers += 1;
                }
            }
        }
        let is_done = ended_within(&mut search, Duration::from_secs(600)) && search.wait().unwrap().success();
        tally.runs += 1;
        // What workers say comes a little later than what they do.
        std::thread::sleep(Duration::from_millis(300));
        let given = self.given.load(Ordering::Relaxed) - given;
        let journalled = answers(&run);
        tally.given += given;
        tally.journalled += journalled;
        let name = run.display().to_string();
        match is_done && story(&run) == story(alone) && best(&run) == best(alone) {
            true => tally.same += 1,
            false => tally.faults.push(format!("{name}: another end")),
        }
        if given > journalled + (tally.kills() - before) * WORKERS * OUT {
            tally
                .faults
                .push(format!("{name}: {given} answers given for {journalled}"));
        }
        if tally.faults.is_empty() {
            let _ = fs::remove_dir_all(&run);
        }
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(end);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn ended_within(child: &mut Child, time: Duration) -> bool {
    let began = Instant::now();
    while began.elapsed() < time {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// Parents, unsearched merges, races, a guard, a final and a held-out task.
fn space() -> String {
    let root = std::env::current_dir().unwrap();
    let root = root.display();
    format!(
        "name: killed
models: {{base: {root}/models/tiny-base, maths: {root}/models/tiny-maths-en, spanish: {root}/models/tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  tasks: [{{task: {root}/evals/arith-es.yaml, limit: 24}}]
  guard: {{perplexity_ratio: 10.0}}
search: {{optimizer: cma-es, evals: 12, racing: {{rungs: [16, 24]}}, seed: 5}}
final:
  finalists: 2
  selection: {{limit: 12}}
  test: {{limit: 12}}
  held_out: [{{task: {root}/evals/arith-en.yaml, limit: 8}}]
"
    )
}

fn story(run: &Path) -> Vec<Value> {
    story_of(records(run))
}

fn best(run: &Path) -> Option<String> {
    fs::read_to_string(run.join("best.yaml")).ok()
}

fn answers(run: &Path) -> usize {
    let records = records(run);
    let answers = records.iter().filter(|r| r["event"] == "answers");
    answers.map(|r| r["answers"].as_array().unwrap().len()).sum()
}
