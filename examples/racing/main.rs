//! What racing costs and what it saves, on the tiny family: the same search, once with every candidate answering the same
//! 200 questions, once with blocks that rotate and grow with a candidate's rank. Both winners then answer problems that nobody
//! has seen: 3,000 of the search's own templates, and as many of the selection's and of the test's, which decide.
//!
//! ```text
//! cargo run --release --example racing -- tiny --first-seed 6 --seeds 5
//! cargo run --release --example racing -- simulated --seeds 12 --genes 24
//! cargo run --release --example racing -- hands --seeds 12 --genes 24      # candidates as they come, or by generations
//! ```
//!
//! `simulated` and `hands` need no model: the same loop searches landscapes whose truth is known. Prints Markdown tables;
//! `docs/reproductions.md` has them.

use std::{ops::Range, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use heterosis::{
    eval::stats,
    event::{Budget, Event, Record},
    models::Parents,
    recipe::{DType, Recipe},
    search::{Chronicle, Clock, Control, Exam, Genome, Plan, run},
    space::{Codec, Fold, Limit, Racing, Shape, Space},
    store::{Journal, read},
};

mod land;
mod simulated;
#[path = "../tiny_family/mod.rs"]
mod tiny_family;

use simulated::Way;
use tiny_family::{evaluator, examine, fresh, parents, task};

const QUESTIONS: usize = 200;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    let number = |flag: &str, default: u64| after(flag).map_or(Ok(default), |n| n.parse());
    let (first, tmp) = (number("--first-seed", 1)?, tempfile::tempdir()?);
    let seeds = first..first + number("--seeds", 5)?;
    match args.get(1).map(String::as_str) {
        Some("tiny") => tiny(seeds, number("--evals", 400)?, tmp.path()),
        Some("simulated") => simulate(seeds, number("--genes", 24)? as usize, tmp.path()),
        Some("hands") => hands(
            seeds,
            number("--genes", 24)? as usize,
            number("--evals", 480)?,
            tmp.path(),
        ),
        _ => bail!("say tiny, simulated or hands"),
    }
}

/// Pairs of searches on the tiny family: the same number of candidates, other questions.
fn tiny(seeds: Range<u64>, evals: u64, dir: &Path) -> Result<()> {
    let parents = parents()?;
    let fresh = task(&fresh::write(dir)?)?;
    println!(
        "| seed | templates | answers, all asked everything | answers, raced | share | accuracy, all | accuracy, raced | raced − all ± SE |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let (mut shares, mut differences) = (Vec::new(), [const { Vec::new() }; fresh::SPLITS.len()]);
    for seed in seeds {
        let search = |racing: Option<Racing>| -> Result<(usize, Vec<Vec<f64>>)> {
            let dir = dir.join(format!("{seed}-{}", racing.is_some()));
            std::fs::create_dir(&dir)?;
            let (answers, winner) = search(&parents, seed, racing, evals, &dir)?;
            let mut evaluator = evaluator(&parents, fresh.clone(), None, &dir.join("fresh-cache"))?;
            let scores = fresh::SPLITS.map(|(split, _)| {
                let exam = evaluator.exam(split, Limit::All)?;
                examine(&mut evaluator, &winner, &exam)
            });
            Ok((answers, scores.into_iter().collect::<Result<_>>()?))
        };
        let (raced, of_raced) = search(Some(Racing::default()))?;
        let (all, of_all) = search(None)?;
        let share = raced as f64 / all as f64;
        shares.push(share);
        for (k, (split, _)) in fresh::SPLITS.iter().enumerate() {
            let gap: Vec<f64> = of_raced[k].iter().zip(&of_all[k]).map(|(a, b)| a - b).collect();
            println!(
                "| {seed} | {split} | {all} | {raced} | {:.1} % | {:.1} % | {:.1} % | {:+.1} ± {:.1} |",
                100.0 * share,
                100.0 * stats::mean(&of_all[k]),
                100.0 * stats::mean(&of_raced[k]),
                100.0 * stats::mean(&gap),
                100.0 * stats::standard_error(&gap)
            );
            differences[k].push(stats::mean(&gap));
        }
    }
    println!("\nmedian share of the answers {:.1} %", 100.0 * median(&mut shares));
    for ((split, _), differences) in fresh::SPLITS.iter().zip(&mut differences) {
        println!(
            "median difference on the {split} split's templates {:+.1} points",
            100.0 * median(differences)
        );
    }
    Ok(())
}

/// How far the mean of a search gets in truth, by the number of its candidates; means over landscapes.
fn simulate(seeds: Range<u64>, genes: usize, dir: &Path) -> Result<()> {
    println!("| candidates | answers, all asked everything | raced | gain of accuracy, all | raced |");
    println!("|---|---|---|---|---|");
    for evals in [60, 120, 240, 480, 960, 1600] {
        let mut rows: [Vec<(f64, f64)>; 2] = Default::default();
        for seed in seeds.clone() {
            let land = simulated::land(genes, seed);
            let start = simulated::truth(&land, &vec![0.5; genes]);
            for (rows, racing) in rows.iter_mut().zip([None, Some(Racing::default())]) {
                let way = Way {
                    racing,
                    ..Way::default()
                };
                let found = simulated::search(&land, genes, evals, &way, seed, dir)?;
                rows.push((found.answers as f64, 100.0 * (found.truth - start)));
            }
        }
        let mean = |k: usize, of: fn(&(f64, f64)) -> f64| stats::mean(&rows[k].iter().map(of).collect::<Vec<_>>());
        println!(
            "| {evals} | {:.0} | {:.0} | {:+.1} | {:+.1} |",
            mean(0, |r| r.0),
            mean(1, |r| r.0),
            mean(0, |r| r.1),
            mean(1, |r| r.1)
        );
    }
    Ok(())
}

/// What it costs to tell the optimizer of candidates as they come, instead of a generation at a time, and what it saves: several
/// hands, whose candidates take from five seconds to ten minutes.
fn hands(seeds: Range<u64>, genes: usize, evals: u64, dir: &Path) -> Result<()> {
    println!(
        "| hands | gain of accuracy, by generations ± SE | as they come | difference | hours, by generations | as they come |"
    );
    println!("|---|---|---|---|---|---|");
    for hands in [4, 16, 64] {
        let mut found: [Vec<(f64, f64)>; 2] = Default::default();
        for seed in seeds.clone() {
            let land = simulated::land(genes, seed);
            let start = simulated::truth(&land, &vec![0.5; genes]);
            for (found, asynchronous) in found.iter_mut().zip([false, true]) {
                let way = Way {
                    hands,
                    asynchronous,
                    ..Way::default()
                };
                let end = simulated::search(&land, genes, evals, &way, seed, dir)?;
                found.push((100.0 * (end.truth - start), end.seconds / 3600.0));
            }
        }
        let [by_generations, as_they_come] = &found;
        let of = |rows: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| -> Vec<f64> { rows.iter().map(which).collect() };
        let gaps: Vec<f64> = as_they_come
            .iter()
            .zip(by_generations)
            .map(|(a, b)| a.0 - b.0)
            .collect();
        let told = |values: &[f64]| format!("{:+.1} ± {:.1}", stats::mean(values), stats::standard_error(values));
        println!(
            "| {hands} | {} | {} | {} | {:.1} | {:.1} |",
            told(&of(by_generations, |row| row.0)),
            told(&of(as_they_come, |row| row.0)),
            told(&gaps),
            stats::mean(&of(by_generations, |row| row.1)),
            stats::mean(&of(as_they_come, |row| row.1))
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// Runs one search; gives the answers that it took, up to the final, and its winner.
fn search(parents: &Parents, seed: u64, racing: Option<Racing>, evals: u64, dir: &Path) -> Result<(usize, Recipe)> {
    let mut space = Space::read(Path::new("search-spaces/demo.yaml"))?;
    space.search.seed = seed;
    (space.search.evals, space.search.learn) = (evals, None);
    space.finale.finalists = 4;
    space.finale.selection.limit = Some(Limit::Most(400));
    space.finale.test.limit = Some(Limit::Most(10)); // read elsewhere
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
            evals: Some(evals),
            duration_ms: None,
        },
        finish: false,
        search: evaluator.search_exam()?,
        selection: evaluator.exam(&space.finale.selection.split, space.finale.selection_limit())?,
        test: evaluator.exam(&space.finale.test.split, space.finale.test_limit())?,
        held_out: evaluator.held_out_exam()?,
        lessons: Exam::nothing(),
        space,
    };
    let path = dir.join("journal.jsonl");
    let clock = Clock {
        now_ms: &|| 0,
        sleep: &|_: Duration| (),
    };
    let mut chronicle = Chronicle::open(Journal::open(&path)?, simulated::started(), false, clock, &|_| ())?;
    run(&plan, &mut evaluator, None, &mut chronicle, &Control::default())?;
    let records = read(&path)?;
    Ok((answers_of_search(&records), winner(&records)?))
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
