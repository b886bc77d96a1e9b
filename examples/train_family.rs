//! Trains the family of tiny models that ships with the repository, and writes its fixed test data.
//!
//! ```text
//! cargo run --release --example train_family -- data                 # evals/data/*.jsonl
//! cargo run --release --example train_family -- train base           # models/tiny-base
//! cargo run --release --example train_family -- train maths-en       # models/tiny-maths-en, from tiny-base
//! cargo run --release --example train_family -- train spanish        # models/tiny-spanish, from tiny-base
//! cargo run --release --example train_family -- family depths 2      # runs/families/depths-2, a family for the claims of papers
//! ```
//!
//! Everything is drawn from fixed seeds. An interrupted training goes on from its last saved state. The release profile compiles
//! this package for quick builds; its loops are several times faster with
//! `cargo --config 'profile.release.package.heterosis.opt-level=3' run --release --example train_family -- …`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[path = "train_family/decoder.rs"]
mod decoder;
#[path = "train_family/families.rs"]
mod families;
#[path = "train_family/files.rs"]
mod files;
#[path = "train_family/language.rs"]
mod language;
#[allow(dead_code)] // the reproductions train on some diets of their own
#[path = "train_family/problems.rs"]
mod problems;
#[path = "train_family/tokens.rs"]
mod tokens;
#[path = "train_family/training.rs"]
mod training;

use decoder::Weights;
use families::Family;
use language::{Lang, Voice};
use problems::{Diet, ProblemKind, Split};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use training::{Bookkeeping, Course, Schedule};

#[derive(Parser)]
#[command(about = "Trains heterosis' family of tiny models")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the fixed word problems of the search, selection and test splits.
    Data {
        #[arg(long, default_value = "evals/data")]
        out: PathBuf,
    },
    /// Trains one member of the family.
    Train {
        member: Member,
        #[arg(long, default_value = "models")]
        models: PathBuf,
        /// Where interrupted runs keep their state.
        #[arg(long, default_value = "runs/train-family")]
        state: PathBuf,
        #[arg(long)]
        steps: Option<usize>,
        #[arg(long)]
        learning_rate: Option<f64>,
    },
    /// Trains the members of a family that are not there yet, from a training seed of its own.
    Family {
        family: Family,
        /// Of the training, from 1; the embedded family is `cross-lingual` 1.
        seed: u64,
        #[arg(long, default_value = "runs/families")]
        out: PathBuf,
    },
    /// Prints a few texts of a member's diet.
    Show { member: Member },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Member {
    Base,
    MathsEn,
    Spanish,
}

impl Member {
    fn name(self) -> &'static str {
        match self {
            Member::Base => "base",
            Member::MathsEn => "maths-en",
            Member::Spanish => "spanish",
        }
    }

    fn diet(self) -> Diet {
        match self {
            Member::Base => Diet::Base,
            Member::MathsEn => Diet::Maths,
            Member::Spanish => Diet::Spanish,
        }
    }

    fn schedule(self) -> Schedule {
        let fine = Schedule {
            steps: 300,
            batch_tokens: 2400,
            learning_rate: 8e-4,
            warmup: 20,
            seed: 0,
        };
        match self {
            Member::Base => Schedule {
                steps: 3600,
                batch_tokens: 2400,
                learning_rate: 3e-3,
                warmup: 100,
                seed: 1,
            },
            Member::MathsEn => Schedule { seed: 2, ..fine },
            Member::Spanish => Schedule {
                steps: 400,
                seed: 3,
                ..fine
            },
        }
    }
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Data { out } => write_data(&out),
        Command::Train {
            member,
            models,
            state,
            steps,
            learning_rate,
        } => {
            let mut schedule = member.schedule();
            schedule.steps = steps.unwrap_or(schedule.steps);
            schedule.learning_rate = learning_rate.unwrap_or(schedule.learning_rate);
            train(member, &schedule, &models, &state)
        }
        Command::Family { family, seed, out } => families::train(family, seed, &out),
        Command::Show { member } => {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            for _ in 0..40 {
                let text = member.diet().draw(&mut rng);
                println!("[{}]{}", text.prompt, text.continuation);
            }
            Ok(())
        }
    }
}

fn train(member: Member, schedule: &Schedule, models: &Path, state: &Path) -> Result<()> {
    let (tokenizer, tokenizer_json) = tokens::build()?;
    let eos = tokenizer
        .token_to_id(tokens::EOS)
        .context("the tokenizer has an end of text")?;
    let size = files::size(&tokenizer);
    let weights = match member {
        Member::Base => Weights::random(size, schedule.seed)?,
        _ => files::load(&models.join("tiny-base"), size)?,
    };
    std::fs::create_dir_all(state)?;
    std::fs::create_dir_all(models)?;
    let name = member.name();
    let books = Bookkeeping {
        name,
        state: &state.join(format!("{name}.safetensors")),
        log: &models.join(format!("tiny-{name}.log")),
        save_every: 200,
    };
    let course = Course::plain(member.diet(), *schedule, size.layers);
    training::train(&weights, &course, &tokenizer, eos, &books)?;
    let out = models.join(format!("tiny-{name}"));
    files::write(&out, &weights, &tokenizer, &tokenizer_json)
}

/// Each split's problems, in both languages, as `{"question", "answer"}` lines.
fn write_data(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let splits = [
        (Split::Search, "search", 1500),
        (Split::Selection, "selection", 1500),
        (Split::Test, "test", 2000),
    ];
    for (lang, code) in [(Lang::En, "en"), (Lang::Es, "es")] {
        for (split, name, count) in splits {
            let mut rng = ChaCha8Rng::seed_from_u64(0x0a17 + split as u64);
            rng.set_stream(lang as u64);
            let kind = ProblemKind {
                steps: (2, 4),
                split,
                voice: Voice::plain(lang),
                common: false,
            };
            let mut lines = String::new();
            for _ in 0..count {
                let problem = kind.draw(&mut rng);
                lines += &json!({"question": problem.question, "answer": problem.answer}).to_string();
                lines.push('\n');
            }
            let file = out.join(format!("arith-{code}-{name}.jsonl"));
            std::fs::write(&file, lines).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}
