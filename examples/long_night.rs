//! How much memory and time a long run's journal takes to search, resume, look at, report and export.
//!
//! ```text
//! cargo build --release && cargo run --release --example long_night -- target/release/heterosis [CANDIDATES] [QUESTIONS]
//! ```
//!
//! Makes a run of 5,000 candidates with 1,000 answers each (unless given otherwise) over the tiny family, scored by a command
//! that is this program itself: about a gigabyte of journal. The search is stopped near its end and resumed; then everything
//! that reads the journal is started. Prints, for each command, seconds and the largest resident memory as the kernel counted
//! it. Linux only.

use std::{
    fs,
    io::{BufRead, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// What every answer says.
const WORDS: &str = "She sells 16 - 3 - 4 = 9 eggs a day, which makes 9 * 2 = 18 dollars. #### ";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--evaluate") {
        return evaluate();
    }
    let program = words.first().context("name the heterosis program to measure")?;
    let program = std::path::absolute(program)?;
    let number = |i: usize, usual: usize| words.get(i).map_or(Ok(usual), |word| word.parse());
    let (candidates, questions) = (number(1, 5000)?, number(2, 1000)?);
    let home = tempfile::tempdir()?;
    let run = home.path().join("run");
    fs::write(home.path().join("space.yaml"), space(candidates)?)?;
    fs::write(home.path().join("questions.jsonl"), catalogue(questions))?;

    let start = |words: &[&str]| -> Result<Command> {
        let mut command = Command::new(&program);
        command.args(words).current_dir(home.path());
        command.env("XDG_CACHE_HOME", home.path().join("cache"));
        command.env("XDG_STATE_HOME", home.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    };
    println!("{candidates} candidates, {questions} questions\n\n| command | seconds | peak MB |\n|---|---|---|");
    let journal = run.join("journal.jsonl");
    let almost = |journal: &Path| fs::metadata(journal).is_ok_and(|m| m.len() > wanted(candidates, questions));
    let stop = run.join("stop-request");
    measure(
        "search, stopped near its end",
        start(&["search", "space.yaml", "--run", "run", "--headless"])?,
        &|| {
            if almost(&journal) {
                let _ = fs::write(&stop, "");
            }
        },
    )?;
    let megabytes = fs::metadata(&journal)?.len() / 1_000_000;
    measure("resume, to the end", start(&["resume", "run", "--headless"])?, &|| {})?;
    for words in [
        &["resume", "run", "--headless"][..],
        &["status", "run", "--json"],
        &["watch", "run", "--headless"],
        &["report", "run"],
        &["rescore", "run"],
        &["export", "run", "best", "child", "--recipe-only"],
        &["export", "run", "best", "model"],
    ] {
        measure(&words.join(" "), start(words)?, &|| {})?;
    }
    println!(
        "\nthe journal was {megabytes} MB when the search was stopped, {} MB in the end",
        fs::metadata(&journal)?.len() / 1_000_000
    );
    Ok(())
}

/// Bytes of a journal that is nine tenths through.
fn wanted(candidates: usize, questions: usize) -> u64 {
    (candidates * questions) as u64 * 160 * 9 / 10
}

/// Runs a command to its end, looking at its memory all the while; `tick` is called twenty times a second.
fn measure(what: &str, mut command: Command, tick: &dyn Fn()) -> Result<()> {
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    let mut peak_kb = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kb = peak_kb.max(kb.unwrap_or(0));
        tick();
        std::thread::sleep(Duration::from_millis(50));
    };
    let seconds = begun.elapsed().as_secs_f64();
    // 130: stopped, and it can be resumed.
    if !ended.success() && ended.code() != Some(130) {
        bail!("{what} ended with {ended}");
    }
    println!("| {what} | {seconds:.1} | {} |", peak_kb / 1000);
    Ok(())
}

fn space(candidates: usize) -> Result<String> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model = |name: &str| models.join(name).display().to_string();
    let evaluator = std::env::current_exe()?;
    Ok(format!(
        "name: long-night\n\
         models: {{base: {}, maths: {}, spanish: {}}}\n\
         base: base\n\
         parameter_space: {{method: task_arithmetic, layer_groups: 4, modules: [attn, mlp, other], genes: {{weight: [0.0, 1.5]}}}}\n\
         fitness:\n  command: [{}, --evaluate]\n  questions: questions.jsonl\n  weights: {{sums: 1}}\n\
         search: {{optimizer: cma-es, evals: {candidates}, seed: 1}}\n\
         final: {{finalists: 8, selection: {{split: selection}}, test: {{split: test}}}}\n",
        model("tiny-base"),
        model("tiny-maths-en"),
        model("tiny-spanish"),
        evaluator.display(),
    ))
}

/// The same number of questions in each split.
fn catalogue(questions: usize) -> String {
    let line =
        |split: &str, i: usize| format!("{{\"id\": \"{split}/{i}\", \"split\": \"{split}\", \"task\": \"sums\"}}\n");
    let of_split = |split| (0..questions).map(move |i| line(split, i));
    ["search", "selection", "test"].into_iter().flat_map(of_split).collect()
}

/// Answers requests until there are no more: right more often where the genes are near one half.
fn evaluate() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: serde_json::Value = serde_json::from_str(&line?)?;
        let genes = request["genotype"].as_object().context("genotype")?;
        let far: f64 = genes
            .values()
            .filter_map(|gene| gene.as_f64())
            .map(|gene| (gene - 0.5).powi(2))
            .sum();
        let skill = 1.0 / (1.0 + far / genes.len().max(1) as f64);
        let questions = request["questions"].as_array().context("questions")?;
        ensure!(!questions.is_empty(), "a request without questions");
        let answers = questions.iter().map(|question| {
            let drawn = chance(&[
                question["id"].as_str().unwrap_or_default(),
                request["id"].as_str().unwrap_or_default(),
            ]);
            let right = drawn < skill;
            serde_json::json!({"task": "sums", "id": question["id"], "correct": right, "output": WORDS})
        });
        let reply = serde_json::json!({"id": request["id"], "answers": answers.collect::<Vec<_>>()});
        writeln!(out, "{reply}")?;
        out.flush()?;
    }
    Ok(())
}

/// A number from 0 to 1 that words decide.
fn chance(words: &[&str]) -> f64 {
    let digest = blake3::hash(words.concat().as_bytes());
    let bytes = digest.as_bytes()[..4].try_into().unwrap_or_default();
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
