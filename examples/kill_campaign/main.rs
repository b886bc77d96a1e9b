//! Kills searches at random moments, again and again, and compares what they come to with runs that nobody disturbed.
//!
//! ```text
//! cargo build --release && cargo run --release --example kill_campaign -- target/release/heterosis [KILLS] [SEED] [KIND]
//! ```
//!
//! KILLS (60 unless given) are shared among the kinds of search in `spaces.rs`, or those whose name begins with KIND, which no export is
//! killed with. Each run is killed with SIGKILL up to three
//! times, at moments that are drawn evenly over its undisturbed length, its start and its final included (one in eight from
//! its first twentieth), and goes on to its end; exports are killed in the same way. Then journal (without clocks) and best
//! recipe must be those of the undisturbed run (with several workers the scores; see `Repeats`), and nobody may have been
//! asked twice but who was out when a kill came. Prints a table after each round, and ends with 1 if anything differs.
//! `docs/reliability.md` has figures.

#![allow(clippy::unwrap_used)] // what cannot be done here ends the campaign

#[path = "../shared/journal.rs"]
mod journal;
mod spaces;
#[path = "../shared/story.rs"]
mod story;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use journal::records;
use spaces::{Kind, Repeats, kinds};
use story::story_of;

/// Kills that one run has to bear at most.
const KILLS_A_RUN: usize = 3;

/// Kills of each kind in a round: a campaign that is stopped has looked at all of them.
const KILLS_A_ROUND: usize = 6;

#[derive(Default)]
struct Tally {
    runs: usize,
    kills: usize,
    equal: usize,
    asked_again: usize,
    /// How many kills came in which phase.
    phases: BTreeMap<String, usize>,
    faults: Vec<String>,
}

impl Tally {
    fn fault(&mut self, fault: String) {
        eprintln!("{fault}");
        self.faults.push(fault);
    }
}

struct Campaign {
    program: PathBuf,
    random: ChaCha8Rng,
    dir: tempfile::TempDir,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().expect("the path of the heterosis program");
    let kills: usize = arguments.next().map_or(60, |n| n.parse().expect("how many kills"));
    let seed: u64 = arguments.next().map_or(1, |n| n.parse().expect("a seed"));
    let mut campaign = Campaign {
        program: fs::canonicalize(program).unwrap(),
        random: ChaCha8Rng::seed_from_u64(seed),
        dir: tempfile::tempdir().unwrap(),
    };
    let only = arguments.next();
    let mut kinds = kinds(&std::env::current_dir().unwrap());
    kinds.retain(|kind| only.as_ref().is_none_or(|only| kind.name.starts_with(only)));
    assert!(!kinds.is_empty(), "no kind of search is called so");
    let share = kills.div_ceil(kinds.len() + 1);
    let lengths: Vec<Duration> = kinds.iter().map(|kind| campaign.undisturbed(kind)).collect();
    let mut tallies: Vec<Tally> = kinds.iter().map(|_| Tally::default()).collect();
    let mut exports = Tally::default();
    for round in 1.. {
        let until = share.min(round * KILLS_A_ROUND);
        for ((kind, length), tally) in kinds.iter().zip(&lengths).zip(&mut tallies) {
            campaign.searches(kind, *length, until, tally);
        }
        if only.is_none() {
            campaign.exports(&kinds[0], until, &mut exports);
        }
        print(&kinds, &tallies, &exports);
        if until == share {
            break;
        }
    }
    let is_whole = tallies.iter().chain([&exports]).all(|tally| tally.faults.is_empty());
    ExitCode::from(u8::from(!is_whole))
}

fn print(kinds: &[Kind], tallies: &[Tally], exports: &Tally) {
    println!(
        "\n| kind | runs | kills | killed during | same end | asked again | faults |\n|---|---|---|---|---|---|---|"
    );
    let names = kinds.iter().map(|kind| kind.name).chain(["export"]);
    for (name, tally) in names.zip(tallies.iter().chain([exports])) {
        let phases: Vec<String> = tally.phases.iter().map(|(phase, n)| format!("{phase} {n}")).collect();
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            tally.runs,
            tally.kills,
            phases.join(", "),
            tally.equal,
            tally.asked_again,
            tally.faults.len()
        );
    }
    let kills: usize = tallies.iter().chain([exports]).map(|tally| tally.kills).sum();
    println!("\n{kills} kills");
}

impl Campaign {
    /// The run that nobody disturbs; gives how long it took.
    fn undisturbed(&self, kind: &Kind) -> Duration {
        let home = self.dir.path().join(kind.name);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("space.yaml"), &kind.space).unwrap();
        let began = Instant::now();
        self.end(&home.join("space.yaml"), &home.join("whole"));
        began.elapsed()
    }

    /// Runs of a kind, until so many kills have come.
    fn searches(&mut self, kind: &Kind, length: Duration, kills: usize, tally: &mut Tally) {
        let home = self.dir.path().join(kind.name);
        let (space, whole) = (home.join("space.yaml"), home.join("whole"));
        while tally.kills < kills {
            let run = home.join(format!("run-{}", tally.runs));
            let _ = fs::remove_file(home.join("asked"));
            let before = tally.kills;
            while tally.kills < (before + KILLS_A_RUN).min(kills) {
                let moment = self.moment(length);
                if !self.killed(&space, &run, moment) {
                    break; // it was done before
                }
                tally.kills += 1;
                *tally.phases.entry(phase(&run)).or_default() += 1;
            }
            self.end(&space, &run);
            tally.runs += 1;
            let struck = tally.kills - before;
            self.judge(kind, &whole, &run, struck, tally);
            let _ = fs::remove_dir_all(&run);
        }
    }

    /// Evenly over a length; one in eight within its first twentieth, where a run is born.
    fn moment(&mut self, length: Duration) -> Duration {
        let part = if self.random.random_bool(0.125) { 0.05 } else { 1.0 };
        length.mul_f64(part * self.random.random::<f64>())
    }

    fn judge(&self, kind: &Kind, whole: &Path, run: &Path, struck: usize, tally: &mut Tally) {
        let asked_again = match fs::read_to_string(run.with_file_name("asked")) {
            Ok(asked) => again(asked.lines().map(str::to_string)),
            Err(_) => again(answered(run).into_iter()),
        };
        tally.asked_again += asked_again;
        let name = run.display();
        if asked_again > struck * kind.out {
            tally.fault(format!("{name}: {asked_again} asked again after {struck} kills"));
        }
        let is_same = match kind.repeats {
            Repeats::Everything => story(run) == story(whole) && best(run) == best(whole),
            Repeats::Scores => scored(run, true) == scored(whole, true) && best(run) == best(whole),
            Repeats::Names => scored(run, false) == scored(whole, false),
        };
        match is_same {
            true => tally.equal += 1,
            false => tally.fault(format!("{name}: another end than {}", whole.display())),
        }
    }

    /// Exports are killed; whatever stands at the place then is whole, and the next export works.
    fn exports(&mut self, kind: &Kind, kills: usize, tally: &mut Tally) {
        let home = self.dir.path().join(kind.name);
        let (run, out) = (home.join("whole"), home.join("export"));
        let export = |program: &Path| {
            let mut command = Command::new(program);
            command
                .arg("--quiet")
                .arg("export")
                .arg(&run)
                .arg("best")
                .arg(&out)
                .arg("--overwrite");
            command
        };
        let began = Instant::now();
        assert!(quiet(&mut export(&self.program)));
        let length = began.elapsed();
        while tally.kills < kills {
            // In the place of an export that is there, or in none.
            if self.random.random() {
                fs::remove_dir_all(&out).unwrap();
            }
            let moment = length.mul_f64(self.random.random());
            if kill_after(&mut export(&self.program), moment) {
                tally.kills += 1;
                *tally.phases.entry("export".into()).or_default() += 1;
            }
            tally.runs += 1;
            let verified = |program: &Path| quiet(Command::new(program).arg("verify").arg(&out));
            if out.exists() && !verified(&self.program) {
                tally.fault("what stands there after a kill is not whole".into());
            }
            match quiet(&mut export(&self.program)) && verified(&self.program) {
                true => tally.equal += 1,
                false => tally.fault("the next export does not work".into()),
            }
            let left = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("partial")).collect();
            if !left.is_empty() {
                tally.fault(format!("{left:?} are left after the next export"));
            }
        }
    }

    /// Begins a run, or goes on with it, to its end.
    fn end(&self, space: &Path, run: &Path) {
        let mut command = self.command(space, run);
        let output = command.stdout(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {stderr}");
    }

    /// The same, killed after a while; false if it had come to its end.
    fn killed(&self, space: &Path, run: &Path, moment: Duration) -> bool {
        kill_after(&mut self.command(space, run), moment)
    }

    fn command(&self, space: &Path, run: &Path) -> Command {
        let has_begun = fs::read(run.join("journal.jsonl")).is_ok_and(|text| text.contains(&b'\n'));
        let mut command = Command::new(&self.program);
        // Each run answers for itself.
        command.env("HETEROSIS_CACHE", "off");
        command.arg("--quiet").current_dir(space.parent().unwrap());
        match has_begun {
            true => command.arg("resume").arg(run),
            false => command.arg("search").arg(space).arg("--run").arg(run),
        };
        command.arg("--headless");
        command
    }
}

fn quiet(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

fn kill_after(command: &mut Command, moment: Duration) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while began.elapsed() < moment {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// Where a run stands.
fn phase(run: &Path) -> String {
    let records = records(run);
    let last = records.iter().rev().find_map(|r| r["phase"].as_str());
    last.unwrap_or("start-up").to_string()
}

fn story(run: &Path) -> Vec<Value> {
    story_of(records(run))
}

fn best(run: &Path) -> Vec<Option<String>> {
    let read = |name: &&str| fs::read_to_string(run.join(name)).ok();
    ["best.yaml", "best.json"].iter().map(read).collect()
}

/// Who has a score or a failure, which, and what ended the run.
fn scored(run: &Path, with_scores: bool) -> Vec<String> {
    let records = records(run);
    let is_told = |r: &&Value| {
        let event = r["event"].as_str();
        matches!(event, Some("candidate_scored" | "candidate_failed" | "run_done"))
    };
    let name = |r: &Value| {
        let id = r["id"].as_str().unwrap_or("the end");
        match with_scores {
            true => format!("{id} {} {}", r["genotype"], r["fitness"]),
            false => id.to_string(),
        }
    };
    // Whether the optimizer's mean is among them is up to who answered first.
    let is_mean = |r: &Value| r["id"].as_str().is_some_and(|id| id.starts_with("mean"));
    let told = records.iter().filter(is_told);
    let mut names: Vec<String> = told.filter(|r| with_scores || !is_mean(r)).map(name).collect();
    names.sort();
    names
}

/// Every answer of a journal by candidate, task and question.
fn answered(run: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for record in records(run).iter().filter(|r| r["event"] == "answers") {
        for answer in record["answers"].as_array().unwrap() {
            all.push(format!(
                "{} {} {} {}",
                record["id"], record["task"], record["split"], answer["q"]
            ));
        }
    }
    all
}

/// How often something came that had come before.
fn again(all: impl Iterator<Item = String>) -> usize {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for one in all {
        *seen.entry(one).or_default() += 1;
    }
    let times: usize = seen.values().sum();
    times - seen.keys().collect::<HashSet<_>>().len()
}
