//! What racing costs and what it saves, on the tiny family: the same search, once with every candidate answering the same
//! 200 questions, once with blocks that rotate and grow with a candidate's rank. Both winners then answer 5,000 problems
//! that nobody has seen.
//!
//! ```text
//! cargo run --release --example racing -- --seeds 5
//! ```
//!
//! Prints a Markdown table, a row a seed; `docs/reproductions.md` has one.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use heterosis::{
    eval::{Task, stats},
    event::{Budget, Event, Record, RunStarted},
    recipe::{DType, Recipe},
    search::{Chronicle, Clock, Control, Genome, Parents, Plan, run},
    space::{Codec, Fold, Racing, Shape, Space},
    store::{Journal, read},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[allow(dead_code)] // the trainer uses the rest
#[path = "train_family/language.rs"]
mod language;
#[allow(dead_code)]
#[path = "train_family/problems.rs"]
mod problems;
mod tiny_family;

use tiny_family::{evaluator, examine, parents, task};

const EVALS: u64 = 150;
const QUESTIONS: usize = 200;
const FRESH: usize = 5000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    let seeds: u64 = after("--seeds").map_or(Ok(5), |n| n.parse())?;
    let tmp = tempfile::tempdir()?;
    let parents = parents()?;
    let fresh = fresh_task(tmp.path())?;

    println!(
        "| seed | answers, all asked everything | answers, raced | share | accuracy, all | accuracy, raced | raced − all ± SE |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mut shares, mut differences) = (Vec::new(), Vec::new());
    for seed in 1..=seeds {
        let search = |racing: Option<Racing>| -> Result<(usize, Vec<f64>)> {
            let dir = tmp.path().join(format!("{seed}-{}", racing.is_some()));
            std::fs::create_dir(&dir)?;
            let (answers, winner) = search(&parents, seed, racing, &dir)?;
            let mut evaluator = evaluator(&parents, fresh.clone(), None, &dir.join("fresh-cache"))?;
            let exam = evaluator.search_exam()?;
            Ok((answers, examine(&mut evaluator, &winner, &exam)?))
        };
        let (all, of_all) = search(None)?;
        let (raced, of_raced) = search(Some(Racing::default()))?;
        let share = raced as f64 / all as f64;
        let gap: Vec<f64> = of_raced.iter().zip(&of_all).map(|(a, b)| a - b).collect();
        println!(
            "| {seed} | {all} | {raced} | {:.1} % | {:.1} % | {:.1} % | {:+.1} ± {:.1} |",
            100.0 * share,
            100.0 * stats::mean(&of_all),
            100.0 * stats::mean(&of_raced),
            100.0 * stats::mean(&gap),
            100.0 * stats::standard_error(&gap)
        );
        shares.push(share);
        differences.push(stats::mean(&gap));
    }
    println!(
        "\nmedian share of the answers {:.1} %, median difference {:+.1} points",
        100.0 * median(&mut shares),
        100.0 * median(&mut differences)
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// Problems of the search's kind from a seed of their own.
fn fresh_task(dir: &Path) -> Result<Task> {
    let kind = problems::ProblemKind {
        steps: (2, 4),
        split: problems::Split::Search,
        voice: language::Voice::plain(language::Lang::Es),
        common: false,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0x0066_7265_7368);
    let line = |_| {
        let problem = kind.draw(&mut rng);
        serde_json::json!({"question": problem.question, "answer": problem.answer}).to_string() + "\n"
    };
    std::fs::write(dir.join("fresh.jsonl"), (0..FRESH).map(line).collect::<String>())?;
    let text = std::fs::read_to_string("evals/arith-es.yaml")?;
    let text = ["search", "selection", "test"].iter().fold(text, |text, split| {
        text.replace(&format!("data/arith-es-{split}.jsonl"), "fresh.jsonl")
    });
    let file = dir.join("fresh.yaml");
    std::fs::write(&file, text)?;
    task(&file)
}

/// Runs one search; gives the answers that it took, up to the final, and its winner.
fn search(parents: &Parents, seed: u64, racing: Option<Racing>, dir: &Path) -> Result<(usize, Recipe)> {
    let mut space = Space::read(Path::new("search-spaces/demo.yaml"))?;
    space.search.seed = seed;
    space.search.evals = EVALS;
    space.finale.finalists = 4;
    space.finale.selection.limit = Some(400);
    space.finale.test.limit = Some(10); // read elsewhere
    let limit = racing.is_none().then_some(QUESTIONS);
    space.search.racing = racing;
    let shape = Shape {
        layers: 8,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let mut evaluator = evaluator(
        parents,
        task(Path::new("evals/arith-es.yaml"))?,
        limit,
        &dir.join("cache"),
    )?;
    let plan = Plan {
        genome: Genome::Merge(Codec::new(&space, shape)?),
        warm_starts: Vec::new(),
        budget: Budget {
            evals: Some(EVALS),
            duration_ms: None,
        },
        finish: false,
        search: evaluator.search_exam()?,
        selection: evaluator.exam(&space.finale.selection)?,
        test: evaluator.exam(&space.finale.test)?,
        held_out: evaluator.held_out_exam()?,
        space,
    };
    let path = dir.join("journal.jsonl");
    let (journal, records) = Journal::open(&path)?;
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(journal, records, started(), clock, &|_| ())?;
    run(&plan, &mut evaluator, &mut chronicle, &Control::default())?;
    let records = read(&path)?;
    Ok((answers_of_search(&records), winner(&records)?))
}

fn started() -> RunStarted {
    serde_json::from_value(serde_json::json!({
        "name": "racing", "engine_version": "", "seed": 0, "space_digest": "", "budget": {}, "models": [], "tasks": [],
        "optimizer": "", "genes": [], "population": 0, "device": "cpu", "dtype": "f32"
    }))
    .expect("plain data")
}

fn answers_of_search(records: &[Record]) -> usize {
    let events = records.iter().map(|r| &r.event);
    let search = events.take_while(|e| !matches!(e, Event::SearchEnded { .. }));
    let answers = search.filter_map(|e| match e {
        Event::Answers(answers) => Some(answers.answers.len()),
        _ => None,
    });
    answers.sum()
}

fn winner(records: &[Record]) -> Result<Recipe> {
    let best = records.iter().find_map(|r| match &r.event {
        Event::Selected(selection) => Some(selection.best.clone()),
        _ => None,
    });
    let best = best.context("nobody won")?;
    let recipe = records.iter().find_map(|r| match &r.event {
        Event::CandidateScored(c) if c.id == best => Some(c.recipe.clone()),
        _ => None,
    });
    Ok(serde_json::from_value(recipe.context("the winner has no recipe")?)?)
}
