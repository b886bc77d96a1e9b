//! Problems that nobody has seen, from a seed of their own: of the search's templates and number range, and of those that
//! the selection and test splits were drawn from, which no search is bred on.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{language, problems};

/// In each split.
pub const PROBLEMS: usize = 3000;

/// The splits by name, each with the templates that its problems are made from.
pub const SPLITS: [(&str, problems::Split); 3] = [
    ("search", problems::Split::Search),
    ("selection", problems::Split::Selection),
    ("test", problems::Split::Test),
];

/// Writes them and a task that asks them; gives the task's file.
pub fn write(dir: &Path) -> Result<PathBuf> {
    let mut text = std::fs::read_to_string("evals/arith-es.yaml")?;
    for (seed, (name, split)) in (0x0066_7265_7368..).zip(SPLITS) {
        let kind = problems::ProblemKind {
            steps: (2, 4),
            split,
            voice: language::Voice::plain(language::Lang::Es),
            common: false,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let line = |_| {
            let problem = kind.draw(&mut rng);
            serde_json::json!({"question": problem.question, "answer": problem.answer}).to_string() + "\n"
        };
        let file = format!("fresh-{name}.jsonl");
        std::fs::write(dir.join(&file), (0..PROBLEMS).map(line).collect::<String>())?;
        text = text.replace(&format!("data/arith-es-{name}.jsonl"), &file);
    }
    let file = dir.join("fresh.yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}
