//! Searches that differ in one thing, and what their children make of fresh problems.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use heterosis::{
    eval::{self, Answer, Estimate, Profile, Split, Task, TaskOptions, TaskScore},
    event::{run::Run, weights},
    host::Host,
    models::{Opened, Runtime, RuntimeOptions},
    search::Control,
    session::{self, Session},
};
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
    /// More lines of `search`.
    more: &'static str,
}

const DEMO: Arm = Arm {
    name: "parameter space",
    space: "demo.yaml",
    edits: &[],
    evals: 100,
    distractors: 0,
    more: "",
};
const PATHS: Arm = Arm {
    name: "data flow, with scales",
    space: "demo-dfs.yaml",
    ..DEMO
};

const ARMS: [Arm; 12] = [
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
        evals: 150,
        ..DEMO
    },
    Arm {
        name: "parameter space, then data flow",
        space: "demo-hybrid.yaml",
        evals: 150,
        ..DEMO
    },
    Arm {
        name: "400 candidates",
        evals: 400,
        ..DEMO
    },
    Arm {
        name: "400 candidates, raced over all questions",
        edits: &[("search:\n", "search:\n  racing: true\n"), (", limit: 200", "")],
        evals: 400,
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
    let arms: Vec<Arm> = ARMS.into_iter().filter(|arm| arm.name.contains(only)).collect();
    run_arms(&arms, seeds)
}

/// Searches with advice of a language model, and without.
pub fn guided(model: &str, seeds: Range<u64>) -> Result<()> {
    let model = std::path::absolute(model)?;
    let guide: &str = format!("  guide: {{model: {}}}\n", model.display()).leak();
    let arms = [
        Arm {
            name: "genetic",
            edits: &[("optimizer: cma-es", "optimizer: genetic")],
            ..DEMO
        },
        DEMO,
        Arm {
            name: "parameter space, with a guide",
            more: guide,
            ..DEMO
        },
        Arm {
            name: "evollm",
            edits: &[("optimizer: cma-es", "optimizer: evollm")],
            more: guide,
            ..DEMO
        },
    ];
    run_arms(&arms, seeds)
}

fn run_arms(arms: &[Arm], seeds: Range<u64>) -> Result<()> {
    let tmp = tempfile::tempdir()?;
    let task = fresh::write(tmp.path())?;
    println!(
        "| | seed | candidates | answers | right, search's templates | selection's | test's | weights sum to |\n|---|---|---|---|---|---|---|---|"
    );
    for model in ["tiny-base", "tiny-maths-en", "tiny-spanish"] {
        let score = fresh_scores(&Path::new("models").join(model), &task)?;
        println!("| `{model}` | | | | {} | |", score.join(" | "));
    }
    for arm in arms {
        for seed in seeds.clone() {
            let run = tmp.path().join(format!("{}-{seed}", arm.name));
            let space = tmp.path().join("space.yaml");
            std::fs::write(&space, arm.text(tmp.path())?)?;
            let came_to = search(&space, &run, seed)?;
            let best = came_to.winner().context("a search has a winner")?;
            if let Some(advised) = came_to.advice.in_words() {
                eprintln!("{}, seed {seed}: {advised}", arm.name);
            }
            println!(
                "| {} | {seed} | {} | {} | {} | {} |",
                arm.name,
                came_to.evals,
                came_to.answers,
                fresh_scores(&run.join("best.yaml"), &task)?.join(" | "),
                weight_sum(&best.recipe).map_or(String::new(), |sum| format!("{sum:.2}"))
            );
        }
    }
    println!("\n{} fresh problems of each", fresh::PROBLEMS);
    Ok(())
}

impl Arm {
    fn text(&self, dir: &Path) -> Result<String> {
        let mut text = std::fs::read_to_string(Path::new("search-spaces").join(self.space))?;
        let here = std::env::current_dir()?;
        // The budgets of the files are their own, and what is reproduced here is evolution alone.
        let is_ours = |line: &&str| ["  evals:", "  learn:"].iter().all(|key| !line.starts_with(key));
        text = text.lines().filter(is_ours).flat_map(|line| [line, "\n"]).collect();
        for (from, to) in [
            (": models/", format!(": {}/models/", here.display())),
            ("task: evals/", format!("task: {}/evals/", here.display())),
            ("search:\n", format!("search:\n  evals: {}\n{}", self.evals, self.more)),
            ("test: {split: test}", "test: {split: test, limit: 10}".into()), // read on fresh problems instead
        ] {
            ensure!(text.contains(from), "{} has no '{from}'", self.space);
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
    let weights = |model: &str| -> Result<HashMap<String, Tensor>> {
        let file = Path::new("models").join(model).join("model.safetensors");
        let stored = candle_core::safetensors::load(file, &Device::Cpu)?;
        let wide = stored
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)));
        wide.collect()
    };
    let (base, expert) = (weights("tiny-base")?, weights("tiny-maths-en")?);
    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
    let mut names: Vec<&String> = base.keys().collect();
    names.sort();
    let mut noisy = HashMap::new();
    for name in names {
        let base = &base[name];
        let mut task_vector: Vec<f32> = (expert[name].clone() - base)?.flatten_all()?.to_vec1()?;
        task_vector.shuffle(&mut random);
        let task_vector = Tensor::from_vec(task_vector, base.shape(), base.device())?;
        noisy.insert(name.clone(), (base + task_vector)?.to_dtype(DType::F16)?);
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

/// Searches a space in a directory, to the end; what the run came to.
pub fn search(space: &Path, dir: &Path, seed: u64) -> Result<Run> {
    let mut space = session::read_space(space)?;
    space.search.seed = seed;
    // Every run answers for itself.
    let host = Host {
        answers: None,
        ..Host::this_machine()
    };
    let session = Session::open(space, &RuntimeOptions::default(), host)?;
    let run = RefCell::new(Run::default());
    let search = session.create(dir, session.usual_budget())?;
    search.run(&Control::default(), &|record| run.borrow_mut().apply(record))?;
    Ok(run.into_inner())
}

/// Percent right ± standard error, for each split of the fresh problems.
fn fresh_scores(model: &Path, task: &Path) -> Result<Vec<String>> {
    let score = |(split, _): &(&str, _)| -> Result<String> {
        Ok(percent(&scores(model, task, split, fresh::PROBLEMS)?["strict-match"]))
    };
    fresh::SPLITS.iter().map(score).collect()
}

/// A model's scores on the first of a task's questions, by their names.
pub fn scores(model: &Path, task: &Path, split: &str, limit: usize) -> Result<BTreeMap<String, Estimate>> {
    let (task, answers) = answers(model, task, split, limit)?;
    Ok(TaskScore::of(&task, &answers).scores)
}

/// What a model, or a recipe's child, answers to the first of a task's questions.
pub fn answers(model: &Path, task: &Path, split: &str, limit: usize) -> Result<(Task, Vec<Answer>)> {
    let host = Host::this_machine();
    let options = TaskOptions {
        profile: Profile::Fitness,
        limit: Some(limit),
        ..TaskOptions::default()
    };
    let task = Task::load(path(task)?, &options, &host.data)?;
    let questions = task.questions(Split::from_name(split).context("a split")?)?;
    let mut engine = Opened::open(path(model)?, &host.hub)?.engine(&Runtime::new(&RuntimeOptions::default())?)?;
    let answers = eval::answer(&mut engine, &[(&task, &questions)], &mut |_| {})?.swap_remove(0);
    Ok((task, answers))
}

/// A score with its standard error, in percent.
pub fn percent(score: &Estimate) -> String {
    format!("{:.1} ± {:.1} %", 100.0 * score.value, 100.0 * score.stderr)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
