//! Searches that differ in one thing, run by the program itself, and what their children make of fresh problems.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use heterosis::event::weights;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::tiny_family::fresh;

/// A search space: a file of `search-spaces/` with some of its text replaced.
struct Arm {
    name: &'static str,
    space: &'static str,
    edits: &'static [(&'static str, &'static str)],
    evals: u64,
    distractors: usize,
}

const DEMO: Arm = Arm {
    name: "parameter space",
    space: "demo.yaml",
    edits: &[],
    evals: 400,
    distractors: 0,
};
const PATHS: Arm = Arm {
    name: "data flow, with scales",
    space: "demo-dfs.yaml",
    ..DEMO
};

const ARMS: [Arm; 10] = [
    DEMO,
    Arm {
        name: "random draws",
        edits: &[("optimizer: cma-es", "optimizer: random")],
        ..DEMO
    },
    Arm {
        name: "staged widening",
        edits: &[("search:\n", "search:\n  widening: true\n")],
        ..DEMO
    },
    PATHS,
    Arm {
        name: "data flow, no scales",
        edits: &[("  scales: [0.5, 1.5]\n", "")],
        ..PATHS
    },
    Arm {
        name: "parameter space, longer",
        evals: 600,
        ..DEMO
    },
    Arm {
        name: "parameter space, then data flow",
        space: "demo-hybrid.yaml",
        evals: 600,
        ..DEMO
    },
    Arm {
        name: "1 distractor",
        distractors: 1,
        ..DEMO
    },
    Arm {
        name: "2 distractors",
        distractors: 2,
        ..DEMO
    },
    Arm {
        name: "4 distractors",
        distractors: 4,
        ..DEMO
    },
];

/// Runs every arm whose name contains `only`.
pub fn run(only: &str, seeds: Range<u64>) -> Result<()> {
    let tmp = tempfile::tempdir()?;
    let program = Program::beside_this()?;
    let task = fresh::write(tmp.path())?;
    println!(
        "| | seed | candidates | answers | right, search's templates | selection's | test's | weights sum to |\n|---|---|---|---|---|---|---|---|"
    );
    for model in ["tiny-base", "tiny-maths-en", "tiny-spanish"] {
        let score = program.score(&Path::new("models").join(model), &task)?;
        println!("| `{model}` | | | | {} | |", score.join(" | "));
    }
    for arm in ARMS.iter().filter(|arm| arm.name.contains(only)) {
        for seed in seeds.clone() {
            let run = tmp.path().join(format!("{}-{seed}", arm.name));
            let space = tmp.path().join("space.yaml");
            std::fs::write(&space, arm.text(tmp.path())?)?;
            let (run_arg, space_arg, seed_arg) = (path(&run)?, path(&space)?, seed.to_string());
            program.call(&["search", space_arg, "--run", run_arg, "--headless", "--seed", &seed_arg])?;
            let status: Value = serde_json::from_slice(&program.call(&["status", run_arg, "--json"])?)?;
            let best = &status["best"]["recipe"];
            println!(
                "| {} | {seed} | {} | {} | {} | {} |",
                arm.name,
                status["evals"],
                status["answers"],
                program.score(&run.join("best.yaml"), &task)?.join(" | "),
                weight_sum(best).map_or(String::new(), |sum| format!("{sum:.2}"))
            );
        }
    }
    println!("\n{} fresh problems of each; all searches raced", fresh::PROBLEMS);
    Ok(())
}

impl Arm {
    fn text(&self, dir: &Path) -> Result<String> {
        let mut text = std::fs::read_to_string(Path::new("search-spaces").join(self.space))?;
        let here = std::env::current_dir()?;
        for (from, to) in [
            (": models/", format!(": {}/models/", here.display())),
            ("task: evals/", format!("task: {}/evals/", here.display())),
            (", limit: 200}", "}".into()),
            ("  evals: 600\n", String::new()),
            ("  evals: 400\n", String::new()),
            (
                "search:\n",
                format!("search:\n  racing: true\n  evals: {}\n", self.evals),
            ),
            ("test: {split: test}", "test: {split: test, limit: 10}".into()), // read on fresh problems instead
        ] {
            text = text.replace(from, &to);
        }
        for (from, to) in self.edits {
            ensure!(text.contains(from), "{} has no '{from}'", self.space);
            text = text.replace(from, to);
        }
        let mut models = String::from("models:\n");
        for i in 1..=self.distractors {
            let model = distractor(i, dir)?;
            models += &format!("  noise{i}: {}\n", model.display());
        }
        Ok(text.replace("models:\n", &models))
    }
}

/// An expert of nothing: the base plus the maths expert's task vector with the entries of each tensor shuffled, so that it
/// is as long as a real one.
fn distractor(number: usize, dir: &Path) -> Result<PathBuf> {
    let out = dir.join(format!("noise{number}"));
    if out.exists() {
        return Ok(out);
    }
    std::fs::create_dir(&out)?;
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(Path::new("models/tiny-base").join(file), out.join(file))?;
    }
    let weights = |model: &str| -> Result<_> {
        let file = Path::new("models").join(model).join("model.safetensors");
        Ok(candle_core::safetensors::load(file, &candle_core::Device::Cpu)?)
    };
    let (base, expert) = (weights("tiny-base")?, weights("tiny-maths-en")?);
    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
    let mut names: Vec<&String> = base.keys().collect();
    names.sort();
    let mut noisy = std::collections::HashMap::new();
    for name in names {
        let base = &base[name];
        let mut task_vector: Vec<f32> = (expert[name].clone() - base)?.flatten_all()?.to_vec1()?;
        task_vector.shuffle(&mut random);
        let task_vector = candle_core::Tensor::from_vec(task_vector, base.shape(), base.device())?;
        noisy.insert(name.clone(), (base + task_vector)?);
    }
    candle_core::safetensors::save(&noisy, out.join("model.safetensors"))?;
    Ok(out)
}

/// The experts' mean weight, summed over the experts; none without weights.
fn weight_sum(recipe: &Value) -> Option<f64> {
    let table = weights::of_recipe(recipe).into_iter().next()?;
    let mean = |model: &weights::ModelWeights| {
        let values: Vec<f64> = model.groups.iter().flat_map(|g| &g.values).flatten().copied().collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    Some(table.models.iter().map(mean).sum())
}

pub struct Program(PathBuf);

impl Program {
    /// The `heterosis` that was built with this example.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe()?;
        let folder = this
            .parent()
            .and_then(Path::parent)
            .context("an example lies in a folder")?;
        let program = folder.join("heterosis");
        ensure!(
            program.exists(),
            "{} is not built: cargo build --release",
            program.display()
        );
        Ok(Self(program))
    }

    pub fn call(&self, args: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(&self.0).args(args).output()?;
        if !output.status.success() {
            bail!(
                "heterosis {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output.stdout)
    }

    /// Percent right ± standard error, for each split of the fresh problems.
    fn score(&self, model: &Path, task: &Path) -> Result<Vec<String>> {
        let score = |(split, _): &(&str, _)| -> Result<String> {
            Ok(percent(
                &self.scores(model, task, split, fresh::PROBLEMS)?["strict-match"],
            ))
        };
        fresh::SPLITS.iter().map(score).collect()
    }

    /// A model's scores on the first of a task's questions, by their names.
    pub fn scores(&self, model: &Path, task: &Path, split: &str, limit: usize) -> Result<Value> {
        let out = self.call(&[
            "eval",
            path(model)?,
            "--task",
            path(task)?,
            "--profile",
            "fitness",
            "--split",
            split,
            "--limit",
            &limit.to_string(),
            "--json",
        ])?;
        let mut out: Value = serde_json::from_slice(&out)?;
        Ok(out["tasks"][0]["scores"].take())
    }
}

/// A score with its standard error, in percent.
pub fn percent(score: &Value) -> String {
    let part = |key: &str| 100.0 * score[key].as_f64().unwrap_or(f64::NAN);
    format!("{:.1} ± {:.1} %", part("value"), part("stderr"))
}

pub fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
