//! What learning from right answers is worth on the tiny family: the demo's space, searched with and without it.
//!
//! ```text
//! cargo run --release --example learning -- --seeds 5 --first-seed 1
//! cargo run --release --example learning -- --seeds 5 --only learned --teachers solutions
//! ```
//!
//! Four ways to the same 24 weights: `learned` asks no candidate but the learned ones, `close` lets CMA-ES go on from there
//! with a fifth of the full search's answers, `short` is CMA-ES alone with as many, `full` the demo as it was. Each winner
//! answers all 1,500 questions of the selection split and all 2,000 of the test split, whose templates the search has never
//! seen. Prints a Markdown table; `docs/learning.md` has it.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use heterosis::{
    eval::stats,
    event::{Budget, Event, Record, RunStarted},
    models::Parents,
    recipe::{DType, Recipe},
    search::{Chronicle, Clock, Control, Exam, Genome, Plan, run},
    space::{Codec, Fold, Learning, Limit, Shape, Space, Teachers},
    store::{Journal, read},
};

#[allow(dead_code)] // others draw fresh problems
#[path = "../tiny_family/mod.rs"]
mod tiny_family;

use tiny_family::{evaluator, examine, parents, task};

/// Questions that a candidate of the search is asked, as in the demo.
const QUESTIONS: usize = 200;

/// A way to search: its name, the candidates that the optimizer asks, whether it learns.
const WAYS: [(&str, u64, bool); 4] = [
    ("learned", 0, true),
    ("close", 70, true),
    ("short", 80, false),
    ("full", 400, false),
];

/// What a search has cost, and what its winner is worth.
struct Row {
    answers: usize,
    texts: usize,
    seconds: f64,
    selection: f64,
    test: f64,
    winner: String,
    /// By round: texts, and the score on the search's questions.
    rounds: Vec<String>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    let number = |flag: &str, default: u64| after(flag).map_or(Ok(default), |n| n.parse());
    let first = number("--first-seed", 1)?;
    let usual = Learning::default();
    let learning = Learning {
        steps: number("--steps", usual.steps as u64)? as usize,
        questions: number("--questions", usual.questions as u64)? as usize,
        rounds: number("--rounds", usual.rounds as u64)? as usize,
        batch: number("--batch", usual.batch as u64)? as usize,
        teachers: match after("--teachers").map(String::as_str) {
            Some("solutions") => Teachers::Solutions,
            Some("auto") => Teachers::Auto,
            Some("best") => Teachers::Best,
            _ => Teachers::Answers,
        },
        wrong: after("--wrong").map_or(Ok(usual.wrong), |n| n.parse())?,
    };
    let parents = parents()?;
    let dir = tempfile::tempdir()?;
    println!("| way | seed | answers | texts read | seconds | selection, 1,500 | test, 2,000 | winner | rounds |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (way, evals, learns) in WAYS {
        if after("--only").is_some_and(|only| !only.split(',').any(|name| name == way)) {
            continue;
        }
        let mut rows = Vec::new();
        for seed in first..first + number("--seeds", 5)? {
            let place = dir.path().join(format!("{way}-{seed}"));
            std::fs::create_dir(&place)?;
            let learn = learns.then(|| learning.clone());
            let row = search(&parents, seed, evals, learn, &place)?;
            println!(
                "| {way} | {seed} | {} | {} | {:.0} | {:.1} | {:.1} | {} | {} |",
                row.answers,
                row.texts,
                row.seconds,
                row.selection,
                row.test,
                row.winner,
                row.rounds.join(", ")
            );
            rows.push(row);
        }
        let median = |of: fn(&Row) -> f64| {
            let mut values: Vec<f64> = rows.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
        };
        println!(
            "| **{way}** | median | {:.0} | {:.0} | {:.0} | **{:.1}** | **{:.1}** | | |",
            median(|r| r.answers as f64),
            median(|r| r.texts as f64),
            median(|r| r.seconds),
            median(|r| r.selection),
            median(|r| r.test)
        );
    }
    Ok(())
}

fn search(parents: &Parents, seed: u64, evals: u64, learn: Option<Learning>, dir: &Path) -> Result<Row> {
    let began = Instant::now();
    let mut space = Space::read(Path::new("search-spaces/demo.yaml"))?;
    space.search.seed = seed;
    space.search.evals = evals;
    space.search.learn = learn;
    space.finale.selection.limit = Some(Limit::Most(400));
    space.finale.test.limit = Some(Limit::Most(10));
    let shape = Shape {
        layers: 8,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let task = task(Path::new("evals/arith-es.yaml"))?;
    let mut evaluator = evaluator(parents, task, Some(QUESTIONS), &dir.join("cache"))?;
    let search = evaluator.search_exam()?;
    let plan = Plan {
        genome: Genome::Merge(Codec::new(&space, shape)?),
        warm_starts: Vec::new(),
        budget: Budget {
            evals: Some(evals),
            duration_ms: None,
        },
        finish: false,
        search,
        selection: evaluator.exam("selection", Limit::Most(400))?,
        test: evaluator.exam("test", Limit::Most(10))?, // read elsewhere
        held_out: evaluator.held_out_exam()?,
        lessons: match &space.search.learn {
            Some(learning) => evaluator.lessons(learning.questions)?,
            None => Exam::nothing(),
        },
        space,
    };
    let path = dir.join("journal.jsonl");
    let clock = Clock {
        now_ms: &|| began.elapsed().as_millis() as u64,
        sleep: &|_| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path)?, started(), false, clock, &|_| ())?;
    run(&plan, &mut evaluator, &mut chronicle, &Control::default())?;
    let seconds = began.elapsed().as_secs_f64();
    let records = read(&path)?;
    let (winner, recipe) = winner(&records)?;
    let mut whole = |split: &str| -> Result<f64> {
        let exam = evaluator.exam(split, Limit::All)?;
        Ok(100.0 * stats::mean(&examine(&mut evaluator, &recipe, &exam)?))
    };
    Ok(Row {
        answers: answers_of_search(&records),
        texts: texts_of_search(&records),
        seconds,
        selection: whole("selection")?,
        test: whole("test")?,
        winner,
        rounds: rounds(&records),
    })
}

/// Answers before the final.
fn answers_of_search(records: &[Record]) -> usize {
    let events = records.iter().map(|r| &r.event);
    let search = events.take_while(|e| !matches!(e, Event::SearchEnded { .. }));
    let answers = search.filter_map(|e| match e {
        Event::Answers(answers) => Some(answers.answers.len()),
        _ => None,
    });
    answers.sum()
}

/// Texts read forward and backward: as many as a batch has, at each step.
fn texts_of_search(records: &[Record]) -> usize {
    let of_round = |e: &Event| match e {
        Event::Learned(learned) => Some(learned.steps * learned.texts.min(64)),
        _ => None,
    };
    records.iter().filter_map(|r| of_round(&r.event)).sum()
}

fn rounds(records: &[Record]) -> Vec<String> {
    let of_round = |record: &Record| match &record.event {
        Event::Learned(learned) => {
            let scored = records.iter().find_map(|r| match &r.event {
                Event::CandidateScored(c) if c.id == learned.id => Some(100.0 * c.fitness),
                _ => None,
            });
            Some(format!(
                "{} texts in {:.0} s {:.3}→{:.3} @{}: {:.1}",
                learned.texts + learned.held_back_texts,
                learned.elapsed_ms as f64 / 1000.0,
                learned.held_back[0],
                learned.held_back[1],
                learned.best_step,
                scored.unwrap_or(f64::NAN)
            ))
        }
        _ => None,
    };
    records.iter().filter_map(of_round).collect()
}

fn winner(records: &[Record]) -> Result<(String, Recipe)> {
    let best = records.iter().find_map(|r| match &r.event {
        Event::Selected(selection) => Some(selection.best.clone()),
        _ => None,
    });
    let best = best.context("nobody won")?;
    let recipe = records.iter().find_map(|r| match &r.event {
        Event::CandidateScored(c) if c.id == best => Some(c.recipe.clone()),
        _ => None,
    });
    Ok((
        best,
        serde_json::from_value(recipe.context("the winner has no recipe")?)?,
    ))
}

fn started() -> RunStarted {
    serde_json::from_value(serde_json::json!({
        "name": "learning", "engine_version": "", "seed": 0, "space_digest": "", "budget": {}, "models": [], "tasks": [],
        "optimizer": "", "genes": [], "population": 0, "device": "cpu", "dtype": "f32"
    }))
    .expect("plain data")
}
