//! What a language model is worth as an optimizer: `evollm` beside others on black-box functions, at equal evaluations.
//!
//! ```text
//! cargo run --release --example guide -- MODEL [SEEDS]
//! ```
//!
//! Sphere, ellipsoid, Rosenbrock and Rastrigin with shifted optima, in [−5, 5]ⁿ for 2 and 5 genes: 120 evaluations, 8 a
//! generation, from the middle. MODEL is asked on the CPU for the likeliest text; "without replies" is the same strategy when
//! nobody replies, whose mean is the best of the generation before. Prints the median over seeds of the best value found (all
//! functions are 0 at best), the mean rank, and how many replies could be read.

use std::{f64::consts::PI, path::Path};

use heterosis::{
    eval::reply_prompt,
    host::Host,
    model::{DType, Device, Engine, Message, Request},
    models::{DeviceChoice, Opened, Runtime, RuntimeOptions},
    optim::{Domain, Gene, Kind, Optimizer, Options, Outcome},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const EVALUATIONS: u64 = 120;
const POPULATION: usize = 8;

type Function = fn(&[f64]) -> f64;

const FUNCTIONS: [(&str, Function); 4] = [
    ("sphere", |x| x.iter().map(|x| x * x).sum()),
    ("ellipsoid", |x| {
        let last = (x.len() - 1) as f64;
        x.iter()
            .enumerate()
            .map(|(i, x)| 10f64.powf(2.0 * i as f64 / last) * x * x)
            .sum()
    }),
    ("Rosenbrock", |x| {
        // Around its optimum at (1, …, 1).
        x.windows(2)
            .map(|w| 100.0 * (w[1] + 1.0 - (w[0] + 1.0).powi(2)).powi(2) + w[0].powi(2))
            .sum()
    }),
    ("Rastrigin", |x| {
        x.iter().map(|x| 10.0 + x * x - 10.0 * (2.0 * PI * x).cos()).sum()
    }),
];

/// An algorithm, and whether somebody replies to it.
const WAYS: [(&str, Kind, bool); 6] = [
    ("random", Kind::Random, false),
    ("genetic", Kind::Genetic, false),
    ("cma-es", Kind::CmaEs, false),
    ("gp", Kind::Gp, false),
    ("evollm", Kind::Evollm, true),
    ("evollm without replies", Kind::Evollm, false),
];

#[derive(Default)]
struct Replies {
    asked: u64,
    read: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: guide MODEL [SEEDS]")?;
    let seeds: u64 = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let runtime = Runtime::new(&RuntimeOptions {
        device: DeviceChoice::These(vec![Device::Cpu]),
        dtype: Some(DType::F32),
        ..RuntimeOptions::default()
    })?;
    let mut engine = Opened::open(&model, &Host::this_machine().hub)?.engine(&runtime)?;
    println!("| function | genes | {} |", WAYS.map(|(name, _, _)| name).join(" | "));
    println!("|---|---|{}", "---|".repeat(WAYS.len()));
    let (mut ranks, mut replies) = ([0.0; WAYS.len()], Replies::default());
    for (name, function) in FUNCTIONS {
        for genes in [2, 5] {
            let mut found = [const { Vec::new() }; WAYS.len()];
            for seed in 0..seeds {
                let best = WAYS.map(|way| best_of(way, function, genes, seed, &mut engine, &mut replies));
                for (i, best_of_way) in best.iter().enumerate() {
                    found[i].push(*best_of_way);
                    // Of equals each has the middle.
                    let better = best.iter().filter(|other| *other < best_of_way).count();
                    let same = best.iter().filter(|other| *other == best_of_way).count();
                    ranks[i] += better as f64 + (same as f64 + 1.0) / 2.0;
                }
            }
            let medians = found.map(|values| format!("{:.2}", median(values)));
            println!("| {name} | {genes} | {} |", medians.join(" | "));
        }
    }
    let runs = (FUNCTIONS.len() * 2) as f64 * seeds as f64;
    println!(
        "| mean rank | | {} |",
        ranks.map(|rank| format!("{:.2}", rank / runs)).join(" | ")
    );
    let name = Path::new(&model)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    println!(
        "\n{}: {} of {} replies could be read; {seeds} seeds, {EVALUATIONS} evaluations each",
        name.unwrap_or(model),
        replies.read,
        replies.asked
    );
    Ok(())
}

/// The least value that is found.
fn best_of(
    (_, kind, is_answered): (&str, Kind, bool),
    function: Function,
    genes: usize,
    seed: u64,
    engine: &mut Engine,
    replies: &mut Replies,
) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let optimum: Vec<f64> = (0..genes).map(|_| rng.random_range(-4.0..4.0)).collect();
    let value = |x: &[f64]| function(&x.iter().zip(&optimum).map(|(x, o)| x - o).collect::<Vec<_>>());
    let domain = Domain::new(vec![Gene::Real { low: -5.0, high: 5.0 }; genes]).expect("genes have a range");
    let options = Options {
        seed,
        population_size: Some(POPULATION),
        ..Options::default()
    };
    let mut optimizer = Optimizer::new(kind, domain, &options).expect("every algorithm moves real genes");
    let (mut best, mut asked) = (f64::INFINITY, 0);
    while asked < EVALUATIONS {
        for ask in optimizer.ask() {
            let value = value(&ask.genotype);
            best = best.min(value);
            asked += 1;
            optimizer
                .tell(&[(ask.id, Outcome::from_score(-value))])
                .expect("who was asked for is told");
        }
        while let Some(question) = optimizer.question().filter(|_| is_answered && asked < EVALUATIONS) {
            replies.asked += 1;
            let reply = reply(engine, &question);
            let is_read = optimizer.advise(reply.as_deref()).expect("there is a question");
            replies.read += u64::from(is_read);
        }
    }
    best
}

fn reply(engine: &mut Engine, question: &str) -> Option<String> {
    let prompt = reply_prompt(engine.tokenizer(), &[Message::new("user", question)]).ok()?;
    let request = Request::new(prompt, 48);
    Some(engine.generate(&[request], &mut |_| {}).ok()?.remove(0).text)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}
