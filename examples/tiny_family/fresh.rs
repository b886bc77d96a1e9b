//! Problems of the search's kind that nobody has seen, from a seed of their own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{language, problems};

pub const PROBLEMS: usize = 5000;

/// Writes them and a task that asks them; gives the task's file.
pub fn write(dir: &Path) -> Result<PathBuf> {
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
    std::fs::write(dir.join("fresh.jsonl"), (0..PROBLEMS).map(line).collect::<String>())?;
    let text = std::fs::read_to_string("evals/arith-es.yaml")?;
    let text = ["search", "selection", "test"].iter().fold(text, |text, split| {
        text.replace(&format!("data/arith-es-{split}.jsonl"), "fresh.jsonl")
    });
    let file = dir.join("fresh.yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}
