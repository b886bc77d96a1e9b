//! Hostile files by the million, for every reader of a file that somebody else wrote.
//!
//! ```text
//! cargo run --release --example fuzz                                  # all readers in turn, until Ctrl-C
//! cargo run --release --example fuzz -- gguf --inputs 1000000         # one of them
//! cargo run --release --example fuzz -- gguf --seed 3 --from 81234 --inputs 1   # one input again, as a finding names it
//! ```
//!
//! An input is known by its reader, seed and number. A process of its own reads them, with at most 1 GB of address space;
//! one that panics, is killed, or stands still for ten seconds is a finding: its input is kept below `target/fuzz`, and the
//! next process goes on behind it. Prints a table; ends with 1 if there is a finding. `tests/it/fuzz.rs` reads a few hundred
//! inputs of each with every run of the tests.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

mod mutate;
mod targets;

use mutate::{Random, mutate};
use targets::{TARGETS, Target, reframe};

/// Inputs between two readers, where all are read in turn.
const TURN: u64 = 20_000;
const STANDS_STILL: Duration = Duration::from_secs(10);
/// KiB of address space: threads' stacks and mapped files count too, so the memory in use is less.
const ADDRESS_SPACE: u64 = 1 << 20;

struct Args {
    target: Option<String>,
    seed: u64,
    from: u64,
    inputs: Option<u64>,
    worker: Option<PathBuf>,
}

fn args() -> Result<Args> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| words.iter().position(|w| w == flag).and_then(|i| words.get(i + 1));
    let number = |flag: &str| {
        after(flag)
            .map(|n| n.parse::<u64>())
            .transpose()
            .with_context(|| flag.to_owned())
    };
    Ok(Args {
        target: words.first().filter(|w| !w.starts_with("--")).cloned(),
        seed: number("--seed")?.unwrap_or(1),
        from: number("--from")?.unwrap_or(0),
        inputs: number("--inputs")?,
        worker: after("--worker").map(PathBuf::from),
    })
}

/// The input of a number.
fn input(target: &Target, seeds: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x1000_0000_01B3) ^ number);
    random.next();
    let start = &seeds[random.below(seeds.len())];
    let mut bytes = mutate(start, seeds, &mut random);
    reframe(target.name, &mut bytes, &mut random);
    bytes
}

fn main() -> Result<()> {
    let args = args()?;
    let chosen: Vec<&Target> = TARGETS
        .iter()
        .filter(|t| args.target.as_ref().is_none_or(|name| name == t.name))
        .collect();
    if chosen.is_empty() {
        bail!("the readers are {}", TARGETS.map(|t| t.name).join(", "));
    }
    match &args.worker {
        Some(state) => work(chosen[0], &args, state),
        None => watch(&chosen, &args),
    }
}

/// Reads inputs one after the other; the file `state` always holds the number of the one that is read.
fn work(target: &Target, args: &Args, state: &Path) -> Result<()> {
    let seeds = (target.seeds)();
    let dir = tempfile::tempdir()?;
    let mut file = fs::File::create(state)?;
    for number in args.from..args.from + args.inputs.unwrap_or(TURN) {
        std::io::Seek::rewind(&mut file)?;
        write!(file, "{number:020}")?;
        (target.read)(&input(target, &seeds, args.seed, number), dir.path());
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    inputs: u64,
    seconds: f64,
    findings: u64,
}

fn watch(chosen: &[&Target], args: &Args) -> Result<()> {
    let home = Path::new("target/fuzz");
    fs::create_dir_all(home)?;
    let mut tallies: Vec<Tally> = chosen.iter().map(|_| Tally::default()).collect();
    let mut from = args.from;
    loop {
        let inputs = args.inputs.map_or(TURN, |all| (args.from + all - from).min(TURN));
        for (target, tally) in chosen.iter().zip(&mut tallies) {
            turn(target, args.seed, from, inputs, home, tally)?;
        }
        from += inputs;
        table(chosen, &tallies, home)?;
        if args.inputs.is_some_and(|all| from >= args.from + all) {
            break;
        }
    }
    match tallies.iter().map(|t| t.findings).sum::<u64>() {
        0 => Ok(()),
        n => bail!("{n} findings, below {}", home.display()),
    }
}

/// A turn of one reader, over as many processes as it takes.
fn turn(target: &Target, seed: u64, from: u64, inputs: u64, home: &Path, tally: &mut Tally) -> Result<()> {
    let (clock, end) = (Instant::now(), from + inputs);
    let mut next = from;
    while next < end {
        let state = home.join(format!("{}.state", target.name));
        fs::write(&state, format!("{next:020}"))?;
        let said = home.join(format!("{}.stderr", target.name));
        let mut child = spawn(target, seed, next, end - next, &state, &said)?;
        let problem = wait(&mut child, &state)?;
        let Some(problem) = problem else { break };
        let number = read_state(&state).context("the worker left no number")?;
        tally.findings += 1;
        let seeds = (target.seeds)();
        let kept = home.join(format!("{}-{seed}-{number}", target.name));
        fs::write(&kept, input(target, &seeds, seed, number))?;
        let words = fs::read_to_string(&said).unwrap_or_default();
        let words = words
            .lines()
            .find(|l| l.contains("panicked") || l.contains("memory"))
            .unwrap_or_default();
        println!("{}: {problem} {words}", kept.display());
        next = number + 1;
    }
    tally.inputs += inputs;
    tally.seconds += clock.elapsed().as_secs_f64();
    Ok(())
}

fn spawn(target: &Target, seed: u64, from: u64, inputs: u64, state: &Path, said: &Path) -> Result<Child> {
    let limit = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &limit])
        .arg(std::env::current_exe()?)
        .arg(target.name);
    for (flag, value) in [("--seed", seed), ("--from", from), ("--inputs", inputs)] {
        command.arg(flag).arg(value.to_string());
    }
    command.arg("--worker").arg(state);
    command
        .env("RAYON_NUM_THREADS", "1")
        // A panic that is caught and told in words is no finding, and must not cost the time of a backtrace.
        .env("RUST_BACKTRACE", "0")
        // glibc reserves 64 MiB of addresses for each thread that allocates, whatever it needs.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command.stderr(fs::File::create(said)?).spawn()?)
}

fn read_state(state: &Path) -> Option<u64> {
    fs::read_to_string(state).ok()?.parse().ok()
}

/// Waits for a worker; what was wrong with it, if anything was.
fn wait(child: &mut Child, state: &Path) -> Result<Option<String>> {
    let (mut last, mut since) = (None, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!status.success()).then(|| status.to_string()));
        }
        std::thread::sleep(Duration::from_millis(50));
        let now = read_state(state);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > STANDS_STILL {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("stood still for {} s", STANDS_STILL.as_secs())));
        }
    }
}

fn table(chosen: &[&Target], tallies: &[Tally], home: &Path) -> Result<()> {
    let mut text = String::from("| reader | inputs | seconds | findings |\n|---|---|---|---|\n");
    for (target, t) in chosen.iter().zip(tallies) {
        text += &format!(
            "| {} | {} | {:.0} | {} |\n",
            target.name, t.inputs, t.seconds, t.findings
        );
    }
    fs::write(home.join("table.md"), &text)?;
    println!("{text}");
    Ok(())
}
