//! Claims of the field, tried on the tiny family.
//!
//! ```text
//! cargo run --release --example reproductions -- layer-swap     # every (bottom, top) of Bandarkar et al. 2024
//! cargo run --release --example reproductions -- random 60      # the perplexity gate, and the winner's curse
//! cargo run --release --example reproductions -- precision 60   # does a ranking survive rounded weights?
//! cargo run --release --example reproductions -- likelihood 60  # does it rank merges as accuracy does?
//! cargo run --release --example reproductions -- searches 2     # two seeds of each search in `searches.rs`
//! cargo run --release --example reproductions -- searches 1 widening 2  # those with this in their name, from seed 2
//! cargo run --release --example reproductions -- guide MODEL 3  # a language model that gives advice, three seeds
//! cargo run --release --example reproductions -- language-gate 200 2       # does a search drift to English?
//! cargo run --release --example reproductions -- table run 3 3  # every way to search, on each trained family: 3 training, 3 search seeds
//! cargo run --release --example reproductions -- table          # what came of it, and what it says of the papers' claims
//! ```
//!
//! Prints Markdown tables; `docs/reproductions.md` has them with what they mean.

use std::path::Path;

use anyhow::{Context, Result, bail};
use heterosis::{
    eval::stats,
    recipe::{Recipe, read},
    search::{Exam, MergeEvaluator},
    space::Limit,
};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

#[allow(dead_code)] // the trainer begins a family, too
#[path = "../train_family/decoder.rs"]
mod decoder;
#[path = "../train_family/files.rs"]
mod files;
#[path = "../shared/front.rs"]
mod front;
mod language_gate;
mod likelihood;
mod precision;
mod searches;
mod table;
#[path = "../tiny_family/mod.rs"]
mod tiny_family;
#[path = "../train_family/tokens.rs"]
mod tokens;
#[path = "../train_family/training.rs"]
mod training;

use tiny_family::{evaluator, examine, language, parents, problems, task};

const QUESTIONS: usize = 200;
const LAYERS: usize = 8;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("layer-swap") => layer_swap(),
        Some("random") => random(number(&args, 1, 60, "how many merges?")?),
        Some("precision") => precision::run(number(&args, 1, 60, "how many merges?")?),
        Some("likelihood") => likelihood::run(number(&args, 1, 60, "how many merges?")?),
        Some("searches") => {
            let only = args.get(2).map_or("", String::as_str);
            searches::run(only, seeds(&args, 1)?)
        }
        Some("guide") => {
            let model = args.get(1).context("which model gives advice?")?;
            searches::guided(model, seeds(&args, 2)?)
        }
        Some("language-gate") => {
            let evals = number(&args, 1, 200, "how many candidates?")?;
            language_gate::run(evals, seeds(&args, 2)?)
        }
        Some("table") if args.get(1).is_some_and(|word| word == "run") => {
            let family = args.get(4).map_or("", String::as_str);
            table::run(
                family,
                number(&args, 2, 3, "how many training seeds?")?,
                number(&args, 3, 3, "how many search seeds?")?,
            )
        }
        Some("table") => table::show(),
        _ => bail!("say layer-swap, random, precision, likelihood, searches, guide, language-gate or table"),
    }
}

/// The argument at a place, or what is usual.
fn number(args: &[String], at: usize, usual: u64, what: &'static str) -> Result<u64> {
    args.get(at).map_or(Ok(usual), |n| n.parse()).context(what)
}

/// How many stands at a place, the first one behind everything else.
fn seeds(args: &[String], at: usize) -> Result<std::ops::Range<u64>> {
    let (seeds, first) = (
        number(args, at, 1, "how many seeds?")?,
        number(args, 3, 1, "which seed first?")?,
    );
    Ok(first..first + seeds)
}

fn recipe(yaml: &str) -> Result<Recipe> {
    Ok(read::parse(Path::new("reproductions"), yaml)?)
}

fn percent(scores: &[f64]) -> f64 {
    100.0 * stats::mean(scores)
}

/// Accuracy of every layer swap: the Spanish expert's layers at the bottom and the top, the maths expert's between.
fn layer_swap() -> Result<()> {
    let (parents, tmp) = (parents()?, tempfile::tempdir()?);
    let task = task(Path::new("evals/arith-es.yaml"))?;
    let mut evaluator = evaluator(&parents, task, Some(QUESTIONS), &tmp.path().join("cache"))?;
    let exam = evaluator.search_exam()?;
    for transition in [1, 0] {
        println!("\ntransition layers: {transition}\n");
        let tops: Vec<String> = (0..=LAYERS).map(|u| format!("u={u}")).collect();
        println!("| | {} |\n|{}", tops.join(" | "), "---|".repeat(LAYERS + 2));
        for bottom in 0..=LAYERS {
            let mut row = format!("| b={bottom} |");
            for top in 0..=LAYERS {
                row += &match bottom + top <= LAYERS {
                    false => " |".to_string(),
                    true => format!(" {:.1} |", swap(&mut evaluator, &exam, bottom, top, transition)?),
                };
            }
            println!("{row}");
        }
    }
    Ok(())
}

fn swap(evaluator: &mut MergeEvaluator<'_>, exam: &Exam, bottom: usize, top: usize, transition: usize) -> Result<f64> {
    let room = LAYERS - bottom - top;
    let below = transition.min(bottom).min(room);
    let above = transition.min(top).min(room - below);
    let recipe = recipe(&format!(
        "merge_method: layer_swap\nmodels: [{{model: maths}}, {{model: spanish}}]\nparameters: {{bottom: {bottom}, top: \
         {top}, transition_bottom: {below}, transition_top: {above}}}\ndtype: float32\n"
    ))?;
    Ok(percent(&examine(evaluator, &recipe, exam)?))
}

/// Merges with random weights, some far beyond what a search would allow: does perplexity tell the dead ones, and how lucky
/// is the best of many?
fn random(count: u64) -> Result<()> {
    let (parents, tmp) = (parents()?, tempfile::tempdir()?);
    let task = task(Path::new("evals/arith-es.yaml"))?;
    let mut evaluator = evaluator(&parents, task, Some(QUESTIONS), &tmp.path().join("cache"))?;
    let search = evaluator.search_exam()?;
    let fresh = evaluator.exam("selection", Limit::Most(2 * QUESTIONS))?;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut nlls, mut scores, mut truths) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let recipe = draw(&mut rng, &[1.0, 2.0, 4.0])?;
        nlls.push(evaluator.prompt_nll(&recipe)?);
        scores.push(examine(&mut evaluator, &recipe, &search)?);
        truths.push(stats::mean(&examine(&mut evaluator, &recipe, &fresh)?));
    }
    gate(&nlls, &truths);
    curse(&scores, &truths, &mut rng);
    Ok(())
}

/// base + Σ weight · (expert − base), the weights drawn for each two layers, up to one of `most`.
fn draw(rng: &mut ChaCha8Rng, most: &[f64]) -> Result<Recipe> {
    let most = most[rng.random_range(0..most.len())];
    let mut slices = String::new();
    for group in 0..4 {
        let range = format!("layer_range: [{}, {}]", 2 * group, 2 * group + 2);
        let mut source = |model: &str| {
            let weight = rng.random_range(0.0..most);
            format!("{{model: {model}, {range}, parameters: {{weight: {weight:.3}}}}}")
        };
        let (maths, spanish) = (source("maths"), source("spanish"));
        slices += &format!("  - sources: [{maths}, {spanish}, {{model: base, {range}}}]\n");
    }
    recipe(&format!(
        "merge_method: task_arithmetic\nbase_model: base\nslices:\n{slices}dtype: float32\n"
    ))
}

/// The area under the curve: how often a dead merge (below 2 % right) has the higher perplexity of a random pair.
fn gate(nlls: &[f64], truths: &[f64]) {
    let (dead, alive): (Vec<usize>, Vec<usize>) = (0..nlls.len()).partition(|i| truths[*i] < 0.02);
    let mut wins = 0.0;
    for d in &dead {
        for a in &alive {
            wins += f64::from(u8::from(nlls[*d] > nlls[*a])) + 0.5 * f64::from(u8::from(nlls[*d] == nlls[*a]));
        }
    }
    let pairs = (dead.len() * alive.len()) as f64;
    println!(
        "perplexity gate: {} of {} merges are dead (below 2 % on {} fresh questions); AUROC of the prompts' perplexity {:.3}",
        dead.len(),
        nlls.len(),
        2 * QUESTIONS,
        wins / pairs
    );
}

/// By how much the best score of K candidates on n questions overstates what that candidate is worth.
fn curse(scores: &[Vec<f64>], truths: &[f64], rng: &mut ChaCha8Rng) {
    // The two splits differ in difficulty; what is common to all candidates is no luck.
    let on_search: Vec<f64> = scores.iter().map(|s| stats::mean(s)).collect();
    let shift = stats::mean(&on_search) - stats::mean(truths);
    println!("\n| best of | n = 20 | 50 | 100 | 200 |\n|---|---|---|---|---|");
    for k in [1, 5, 20, scores.len()] {
        let mut row = format!("| {k} |");
        for n in [20, 50, 100, QUESTIONS] {
            let mut luck = Vec::new();
            for _ in 0..400 {
                let mut arms: Vec<usize> = (0..scores.len()).collect();
                arms.shuffle(rng);
                let mut questions: Vec<usize> = (0..QUESTIONS).collect();
                questions.shuffle(rng);
                let score = |arm: usize| questions[..n].iter().map(|q| scores[arm][*q]).sum::<f64>() / n as f64;
                let seen: Vec<(usize, f64)> = arms[..k].iter().map(|a| (*a, score(*a))).collect();
                if let Some((arm, best)) = seen.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a }) {
                    luck.push(best - truths[arm] - shift);
                }
            }
            row += &format!(" {:+.1} |", percent(&luck));
        }
        println!("{row}");
    }
    println!("\npoints by which the best score overstates; mean of 400 draws of candidates and questions");
}
