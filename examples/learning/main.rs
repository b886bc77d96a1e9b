//! What learning from right answers is worth on the tiny family: the demo's space, searched with and without it, and three
//! that are harder.
//!
//! ```text
//! cargo run --release --example learning -- --seeds 5 --first-seed 1
//! cargo run --release --example learning -- --seeds 5 --only learned --teachers solutions --per-tensor
//! cargo run --release --example learning -- --seeds 5 --family far --only learned,short     # or useless, conflict
//! ```
//!
//! Seven ways to the same weights: `learned` asks no candidate but the learned ones, `few` breeds 30 around these, `close` lets
//! CMA-ES go on from there with a fifth of the full search's answers, `short` is CMA-ES alone with as many, `gp` a Gaussian
//! process, `random` random draws with as many, `full` CMA-ES with 400 candidates. Each winner
//! answers all 1,500 questions of the selection split and all 2,000 of the test split, whose templates the search has never
//! seen. In a conflict it is the whole front that does, and what counts is the area that it covers. Prints a Markdown
//! table; `docs/learning.md` has it.

use std::path::Path;

use anyhow::{Context, Result};
use heterosis::{
    eval::stats,
    event::{Budget, Event, Finalist, Origin, Record, RunStarted},
    learn::Settings,
    merge::TensorSource,
    optim::Kind,
    recipe::{DType, Recipe},
    search::{Chronicle, Clock, Control, Exam, Genome, MergeEvaluator, Plan, run},
    space::{Codec, Fold, Learning, Limit, Shape, Teachers},
    store::{Journal, read},
};

mod families;
#[path = "../shared/front.rs"]
mod front;
#[path = "../shared/processor.rs"]
mod processor;
#[allow(dead_code)] // others draw fresh problems
#[path = "../tiny_family/mod.rs"]
mod tiny_family;

use families::Family;
use front::covered;
use processor::processor;
use tiny_family::{answered, evaluator_of};

/// Questions of each task that a candidate of the search is asked, as in the demo, unless `--asked` says otherwise.
const QUESTIONS: u64 = 200;

/// A way to search: its name, the optimizer, if it is not the space's own, the candidates that it asks, whether it learns.
const WAYS: [(&str, Option<Kind>, u64, bool); 7] = [
    ("learned", None, 0, true),
    ("few", None, 30, true),
    ("close", None, 70, true),
    ("short", None, 80, false),
    ("gp", Some(Kind::Gp), 80, false),
    ("random", Some(Kind::Random), 80, false),
    ("full", None, 400, false),
];

/// What a search has cost, and what its winner is worth.
struct Row {
    answers: usize,
    texts: usize,
    /// Of the processor: all, until the search's end, and of that what rounds of learning took.
    seconds: f64,
    searching: f64,
    learning: f64,
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
            Some("vote") => Teachers::Vote,
            Some("distil") => Teachers::Distil,
            _ => Teachers::Answers,
        },
        wrong: after("--wrong").map_or(Ok(usual.wrong), |n| n.parse())?,
        after: args.iter().any(|arg| arg == "--after"),
    };
    let dir = tempfile::tempdir()?;
    let is_per_tensor = args.iter().any(|arg| arg == "--per-tensor");
    let family = Family::new(after("--family").map_or("demo", |name| name), is_per_tensor, dir.path())?;
    let asked = number("--asked", QUESTIONS)? as usize;
    println!(
        "| way | seed | answers | texts read | processor s | of the search | of learning | selection | test | winner | rounds |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (way, optimizer, evals, learns) in WAYS {
        if after("--only").is_some_and(|only| !only.split(',').any(|name| name == way)) {
            continue;
        }
        let mut rows = Vec::new();
        for seed in first..first + number("--seeds", 5)? {
            let place = dir.path().join(format!("{way}-{seed}"));
            std::fs::create_dir(&place)?;
            let learn = learns.then(|| learning.clone());
            let row = search(&family, seed, (evals, asked), (optimizer, learn), &place)?;
            println!(
                "| {way} | {seed} | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {} |",
                row.answers,
                row.texts,
                row.seconds,
                row.searching,
                row.learning,
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
            "| **{way}** | median | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | **{:.1}** | **{:.1}** | | |",
            median(|r| r.answers as f64),
            median(|r| r.texts as f64),
            median(|r| r.seconds),
            median(|r| r.searching),
            median(|r| r.learning),
            median(|r| r.selection),
            median(|r| r.test)
        );
    }
    Ok(())
}

fn search(
    family: &Family,
    seed: u64,
    (evals, asked): (u64, usize),
    (optimizer, learn): (Option<Kind>, Option<Learning>),
    dir: &Path,
) -> Result<Row> {
    let began = processor();
    let mut space = family.space.clone();
    space.search.seed = seed;
    space.search.evals = evals;
    space.search.optimizer = optimizer.unwrap_or(space.search.optimizer);
    let batch = learn.as_ref().map_or(0, |learning| learning.batch);
    space.search.learn = learn;
    space.finale.selection.limit = Some(Limit::Most(400));
    space.finale.test.limit = Some(Limit::Most(10));
    let shape = Shape {
        layers: 8,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let tensors = family
        .parents
        .tensor_names(space.base.as_deref().context("the family has a base")?);
    let mut evaluator = evaluator_of(&family.parents, family.tasks.clone(), Some(asked), &dir.join("cache"))?;
    let search = evaluator.search_exam()?;
    let plan = Plan {
        genome: Genome::Merge(Codec::with_tensors(&space, shape, &tensors)?),
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
        now_ms: &|| ((processor() - began) * 1000.0) as u64,
        sleep: &|_| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path)?, started(), false, clock, &|_| ())?;
    run(&plan, &mut evaluator, None, &mut chronicle, &Control::default())?;
    let seconds = processor() - began;
    let records = read(&path)?;
    let (winner, finalists) = bred(&records)?;
    let mut whole = |split: &str| -> Result<f64> {
        let exam = evaluator.exam(split, Limit::All)?;
        match family.tasks.len() {
            1 => Ok(means(&mut evaluator, &finalists[0], &exam)?[0]),
            _ => area(&mut evaluator, &finalists, &exam),
        }
    };
    Ok(Row {
        answers: answers_of_search(&records),
        texts: texts_of_search(&records, batch),
        seconds,
        searching: searching(&records),
        learning: learning_seconds(&records),
        selection: whole("selection")?,
        test: whole("test")?,
        winner,
        rounds: rounds(&records),
    })
}

/// Seconds until the search's end, by a clock that counts what the processor did.
fn searching(records: &[Record]) -> f64 {
    let end = records.iter().find(|r| matches!(r.event, Event::SearchEnded { .. }));
    end.map_or(f64::NAN, |r| r.time_ms as f64 / 1000.0)
}

/// Seconds that rounds of learning took, the answers to their questions not counted.
fn learning_seconds(records: &[Record]) -> f64 {
    let of_round = |r: &Record| match &r.event {
        Event::Learned(learned) => Some(learned.elapsed_ms as f64 / 1000.0),
        _ => None,
    };
    records.iter().filter_map(of_round).sum()
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

/// Texts read forward and backward: as many as a step has, at each step.
fn texts_of_search(records: &[Record], batch: usize) -> usize {
    let settings = Settings {
        batch,
        ..Settings::default()
    };
    let of_round = |e: &Event| match e {
        Event::Learned(learned) => Some(learned.steps * settings.texts_of_step(learned.texts)),
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

/// Percent of each task's questions that a merge gets right.
fn means(evaluator: &mut MergeEvaluator<'_>, recipe: &Recipe, exam: &Exam) -> Result<Vec<f64>> {
    let scores = answered(evaluator, recipe, exam)?;
    Ok(scores.iter().map(|task| 100.0 * stats::mean(task)).collect())
}

/// The area under a front of two objectives: percent of what a child that is perfect at both would cover.
fn area(evaluator: &mut MergeEvaluator<'_>, front: &[Recipe], exam: &Exam) -> Result<f64> {
    let points = front.iter().map(|recipe| {
        let percent = means(evaluator, recipe, exam)?;
        Ok([percent[0] / 100.0, percent[1] / 100.0])
    });
    Ok(100.0 * covered(points.collect::<Result<_>>()?))
}

/// The winner's name, and the recipes of all finalists that were bred or learned, the winner's first.
fn bred(records: &[Record]) -> Result<(String, Vec<Recipe>)> {
    let selection = records.iter().find_map(|r| match &r.event {
        Event::Selected(selection) => Some(selection),
        _ => None,
    });
    let selection = selection.context("nobody won")?;
    let is_bred = |f: &&Finalist| !matches!(f.origin, Origin::Parent | Origin::Baseline | Origin::Random);
    let others = selection
        .finalists
        .iter()
        .filter(is_bred)
        .map(|f| &f.id)
        .filter(|id| **id != selection.best);
    let recipe = |id: &String| -> Result<Recipe> {
        let recipe = records.iter().find_map(|r| match &r.event {
            Event::CandidateScored(c) if c.id == *id => Some(c.recipe.clone()),
            _ => None,
        });
        Ok(serde_json::from_value(recipe.context("a finalist has no recipe")?)?)
    };
    let recipes = std::iter::once(&selection.best).chain(others).map(recipe);
    Ok((selection.best.clone(), recipes.collect::<Result<_>>()?))
}

fn started() -> RunStarted {
    serde_json::from_value(serde_json::json!({
        "name": "learning", "engine_version": "", "seed": 0, "space_digest": "", "budget": {}, "models": [], "tasks": [],
        "optimizer": "", "genes": [], "population": 0, "device": "cpu", "dtype": "f32"
    }))
    .expect("plain data")
}
