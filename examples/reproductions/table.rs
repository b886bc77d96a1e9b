//! Every way to search against every other, on families that were trained for the claims of papers: each of several training
//! seeds with each of several search seeds.
//!
//! A cell is one search of one family, and what the best of what it bred makes of 5,000 fresh problems. Cells that stand in the table's file
//! are not run again, so it may be stopped at any time and goes on.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use heterosis::{
    eval::Answer,
    event::{Finalist, Origin},
    session::Child,
};
use serde::{Deserialize, Serialize};

use super::{
    language_gate::in_words,
    searches::{answers, search},
};
use crate::{front::covered, tiny_family::fresh};

mod verdicts;

/// Where trained families lie; see `examples/train_family.rs`.
const FAMILIES: &str = "runs/families";
/// One line a cell.
const FILE: &str = "docs/reproductions.jsonl";
/// Fresh problems of the selection's templates, and as many of the test's.
const PROBLEMS: usize = 2500;
/// The members of each family.
const PARENTS: [&str; 3] = ["base", "maths", "spanish"];
/// Problems of each language that a front is read on.
const OF_A_FRONT: usize = 500;

/// A family and what is particular to its searches.
struct Family {
    name: &'static str,
    /// Answers are sentences, and count only in Spanish.
    in_words: bool,
}

const FAMILY: [Family; 4] = [
    Family {
        name: "cross-lingual",
        in_words: false,
    },
    Family {
        name: "depths",
        in_words: false,
    },
    Family {
        name: "layer-swap",
        in_words: false,
    },
    Family {
        name: "sentences",
        in_words: true,
    },
];

/// A way to search.
struct Arm {
    name: &'static str,
    space: Space,
    optimizer: &'static str,
    evals: u64,
    /// More keys of `search`.
    more: &'static str,
    /// Spanish and English problems as two objectives.
    two_tasks: bool,
    /// Right answers in another language than the question's count, too; for the family of sentences only.
    ungated: bool,
}

#[derive(Clone, Copy)]
enum Space {
    Parameters,
    DataFlow,
    Hybrid(&'static str),
    LayerSwap,
}

const PS: Arm = Arm {
    name: "parameter space, CMA-ES",
    space: Space::Parameters,
    optimizer: "cma-es",
    evals: 100,
    more: "",
    two_tasks: false,
    ungated: false,
};

const ARMS: [Arm; 13] = [
    PS,
    Arm {
        name: "parameter space, random",
        optimizer: "random",
        ..PS
    },
    Arm {
        name: "parameter space, genetic",
        optimizer: "genetic",
        ..PS
    },
    Arm {
        name: "parameter space, staged widening",
        more: "widening: true",
        ..PS
    },
    Arm {
        name: "learned, then 30 candidates",
        evals: 30,
        more: "learn: {teachers: answers}",
        ..PS
    },
    Arm {
        name: "data flow",
        space: Space::DataFlow,
        optimizer: "cma-es-margin",
        ..PS
    },
    Arm {
        name: "parameter space, then data flow",
        space: Space::Hybrid("ps_then_dfs"),
        ..PS
    },
    Arm {
        name: "both at once",
        space: Space::Hybrid("joint"),
        optimizer: "cma-es-margin",
        ..PS
    },
    Arm {
        name: "layer swap, searched",
        space: Space::LayerSwap,
        optimizer: "cma-es-margin",
        evals: 40,
        ..PS
    },
    Arm {
        name: "two tasks, NSGA-II",
        optimizer: "nsga2",
        two_tasks: true,
        ..PS
    },
    Arm {
        name: "two tasks, random",
        optimizer: "random",
        two_tasks: true,
        ..PS
    },
    Arm {
        name: "two tasks, learned, then 30 candidates",
        optimizer: "nsga2",
        evals: 30,
        more: "learn: {teachers: answers}",
        two_tasks: true,
        ..PS
    },
    Arm {
        name: "parameter space, no language gate",
        ungated: true,
        ..PS
    },
];

/// Merges that nobody searched for, as recipes of the models `base`, `maths` and `spanish`.
const UNSEARCHED: [(&str, &str); 5] = [
    (
        "average",
        "merge_method: linear\nmodels: [{model: MATHS, parameters: {weight: 0.5}}, {model: SPANISH, parameters: {weight: 0.5}}]\n",
    ),
    (
        "plain sum",
        "merge_method: task_arithmetic\nbase_model: BASE\nmodels: [{model: MATHS, parameters: {weight: 1.0}}, {model: SPANISH, parameters: {weight: 1.0}}]\n",
    ),
    (
        "TIES",
        "merge_method: ties\nbase_model: BASE\nmodels: [{model: MATHS, parameters: {weight: 1.0, density: 0.5}}, {model: SPANISH, parameters: {weight: 1.0, density: 0.5}}]\nparameters: {normalize: false}\n",
    ),
    (
        "DARE-TIES",
        "merge_method: dare_ties\nbase_model: BASE\nmodels: [{model: MATHS, parameters: {weight: 1.0, density: 0.5}}, {model: SPANISH, parameters: {weight: 1.0, density: 0.5}}]\nseed: 1\n",
    ),
    (
        "layer swap, 1 and 2",
        "merge_method: layer_swap\nmodels: [{model: MATHS}, {model: SPANISH}]\nparameters: {bottom: 1, top: 2}\n",
    ),
];

/// One line of the table's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cell {
    family: String,
    /// Training seed.
    trained: u64,
    /// Of the search; 0 where nothing is searched.
    seed: u64,
    arm: String,
    /// Of the run, its final included.
    answers: u64,
    /// Fresh problems of the selection's and of the test's templates that the child gets right (and, of sentences, in Spanish).
    right: [usize; 2],
    /// Of them, whatever language the answer is in.
    right_in_any_language: [usize; 2],
    /// Problems that the best parent gets right and the child wrong.
    lost: usize,
    /// Of the front, as a share of what a child that is perfect at both tasks would cover; none with one task.
    #[serde(skip_serializing_if = "Option::is_none")]
    area: Option<f64>,
}

impl Cell {
    fn key(&self) -> (String, u64, u64, String) {
        (self.family.clone(), self.trained, self.seed, self.arm.clone())
    }
}

/// Runs the cells that are not there yet, of a family or of all, of training and search seeds up to these.
pub fn run(only: &str, trained: u64, seeds: u64) -> Result<()> {
    for seed in 1..=seeds {
        for trained in 1..=trained {
            for family in FAMILY.iter().filter(|family| family.name.contains(only)) {
                // What one search seed has measured of the parents serves the next.
                let done = cells()?.iter().map(Cell::key).collect();
                Bench::new(family, trained)?.run(seed, &done)?;
            }
        }
    }
    Ok(())
}

/// The table and what it says of the papers' claims, as Markdown.
pub fn show() -> Result<()> {
    verdicts::print(&cells()?);
    Ok(())
}

fn cells() -> Result<Vec<Cell>> {
    if !Path::new(FILE).exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(FILE)?;
    let cells = text
        .lines()
        .map(serde_json::from_str)
        .collect::<serde_json::Result<_>>();
    cells.context(FILE)
}

/// One trained family with its questions.
struct Bench<'a> {
    family: &'a Family,
    trained: u64,
    models: PathBuf,
    tmp: tempfile::TempDir,
}

/// Answers to the fresh problems, by split.
type Read = [Vec<Answer>; 2];

impl<'a> Bench<'a> {
    fn new(family: &'a Family, trained: u64) -> Result<Self> {
        let models = Path::new(FAMILIES).join(format!("{}-{trained}", family.name));
        for member in PARENTS {
            let weights = models.join(member).join("model.safetensors");
            ensure!(
                weights.exists(),
                "{} is missing: cargo run --release --example train_family -- family {} {trained}",
                weights.display(),
                family.name
            );
        }
        Ok(Self {
            family,
            trained,
            models: std::path::absolute(models)?,
            tmp: tempfile::tempdir()?,
        })
    }

    /// What is not there yet with one search seed; with the first, also what nobody searched for.
    fn run(&self, seed: u64, done: &BTreeSet<(String, u64, u64, String)>) -> Result<()> {
        let is_missing = |name: &str, seed: u64| {
            let key = (self.family.name.to_string(), self.trained, seed, name.to_string());
            !done.contains(&key)
        };
        let arms = || ARMS.iter().filter(|arm| self.family.in_words || !arm.ungated);
        let mut seedless = PARENTS.into_iter().chain(UNSEARCHED.map(|(name, _)| name));
        if !seedless.any(|name| is_missing(name, 0)) && !arms().any(|arm| is_missing(arm.name, seed)) {
            return Ok(());
        }
        let parents = self.parents()?;
        for (member, read) in &parents {
            if is_missing(member, 0) {
                self.write(member, 0, (0, None), read, &parents)?;
            }
        }
        for (name, recipe) in UNSEARCHED {
            if is_missing(name, 0) {
                let file = self.tmp.path().join("unsearched.yaml");
                let named = ["BASE", "MATHS", "SPANISH"]
                    .iter()
                    .fold(recipe.to_string(), |text, name| {
                        text.replace(name, &self.models.join(name.to_lowercase()).display().to_string())
                    });
                fs::write(&file, named + "dtype: float32\n")?;
                self.write(name, 0, (0, None), &self.read(&file)?, &parents)?;
            }
        }
        for arm in arms() {
            if is_missing(arm.name, seed) {
                self.search(arm, seed, &parents)?;
            }
        }
        Ok(())
    }

    /// The members of the family and their answers.
    fn parents(&self) -> Result<Vec<(&'static str, Read)>> {
        let read = |member| Ok((member, self.read(&self.models.join(member))?));
        PARENTS.into_iter().map(read).collect()
    }

    fn search(&self, arm: &Arm, seed: u64, parents: &[(&'static str, Read)]) -> Result<()> {
        let dir = self.tmp.path().join(format!("{}-{seed}", arm.name));
        let space = self.tmp.path().join("space.yaml");
        fs::write(&space, self.space(arm)?)?;
        let run = search(&space, &dir, seed)?;
        let selection = run.selection.as_ref().context("a run has a selection")?;
        let is_bred = |finalist: &&Finalist| match finalist.origin {
            Origin::Parent | Origin::Baseline => false,
            Origin::Random => arm.optimizer == "random",
            _ => true,
        };
        let mut bred: Vec<&Finalist> = selection.finalists.iter().filter(is_bred).collect();
        bred.sort_by(|a, b| b.fresh.value.total_cmp(&a.fresh.value));
        let best = bred.first().context("nothing that was bred stands in the final")?;
        let child = self.recipe(&dir, &best.id)?;
        let area = match arm.two_tasks {
            true => Some(self.area(&dir, &bred)?),
            false => None,
        };
        self.write(arm.name, seed, (run.answers, area), &self.read(&child)?, parents)?;
        fs::remove_dir_all(dir)?;
        Ok(())
    }

    /// A finalist's recipe as a file that names the family's directories.
    fn recipe(&self, run: &Path, id: &str) -> Result<PathBuf> {
        let file = self.tmp.path().join("child.yaml");
        fs::write(&file, Child::find(run, id)?.mergekit_yaml())?;
        Ok(file)
    }

    fn space(&self, arm: &Arm) -> Result<String> {
        let models = PARENTS.map(|name| format!("{name}: {}", self.models.join(name).display()));
        let parameters = "parameter_space:\n  method: task_arithmetic\n  layer_groups: 4\n  modules: [attn, mlp, other]\n  genes: {weight: [0.0, 1.8]}\n";
        let flow = |sources: &str| {
            format!("data_flow_space:\n  sources: [{sources}]\n  repeats: 1\n  max_layers: 12\n  scales: [0.5, 1.5]\n")
        };
        let what = match arm.space {
            Space::Parameters => parameters.to_string(),
            Space::DataFlow => flow("spanish, maths"),
            Space::Hybrid(kind) => format!("hybrid: {kind}\n{parameters}{}", flow("spanish, ps, maths")),
            Space::LayerSwap => {
                "parameter_space:\n  method: layer_swap\n  genes: {bottom: {int: [0, 4]}, top: {int: [0, 4]}, embeddings: outer}\n".into()
            }
        };
        let task = |lang: &str| -> Result<String> {
            let task = self.task(Path::new(&format!("evals/arith-{lang}.yaml")), !arm.ungated)?;
            Ok(format!(
                "    - {{task: {}, split: search, limit: 200}}\n",
                task.display()
            ))
        };
        let (tasks, objectives) = match arm.two_tasks {
            // A front is bred by NSGA-II alone; others search for the sum, and what they find is looked at as one.
            true if arm.optimizer == "nsga2" => (task("es")? + &task("en")?, "  objectives: pareto\n"),
            true => (task("es")? + &task("en")?, ""),
            false => (task("es")?, ""),
        };
        Ok(format!(
            "name: table\nmodels: {{{}}}\nbase: base\ntokenizer: base\n{what}fitness:\n  tasks:\n{tasks}{objectives}search:\n  optimizer: {}\n  \
             evals: {}\n  {}\nfinal:\n  finalists: 8\n  selection: {{split: selection, limit: 400}}\n  test: {{split: test, limit: 10}}\n",
            models.join(", "),
            arm.optimizer,
            arm.evals,
            arm.more,
        ))
    }

    /// A task's file; of the family of sentences one with room for them, and the language gate.
    fn task(&self, file: &Path, gate: bool) -> Result<PathBuf> {
        let file = std::path::absolute(file)?;
        if !self.family.in_words {
            return Ok(file);
        }
        in_words(&file, gate, self.tmp.path())
    }

    /// A model's answers to the fresh problems.
    fn read(&self, model: &Path) -> Result<Read> {
        let task = self.task(&fresh::write(self.tmp.path())?, true)?;
        let (_, selection) = answers(model, &task, "selection", PROBLEMS)?;
        let (_, test) = answers(model, &task, "test", PROBLEMS)?;
        Ok([selection, test])
    }

    /// Of a front: what its children cover together of what one that is perfect at both tasks would.
    fn area(&self, run: &Path, front: &[&Finalist]) -> Result<f64> {
        let mut points = Vec::new();
        for finalist in front {
            let child = self.recipe(run, &finalist.id)?;
            let share = |lang: &str| -> Result<f64> {
                let task = self.task(Path::new(&format!("evals/arith-{lang}.yaml")), true)?;
                let (_, answers) = answers(&child, &task, "test", OF_A_FRONT)?;
                Ok(answers.iter().filter(|answer| is_right(answer)).count() as f64 / answers.len() as f64)
            };
            points.push([share("es")?, share("en")?]);
        }
        Ok(covered(points))
    }

    fn write(
        &self,
        arm: &str,
        seed: u64,
        (answers, area): (u64, Option<f64>),
        read: &Read,
        parents: &[(&'static str, Read)],
    ) -> Result<()> {
        let best = parents
            .iter()
            .max_by_key(|(_, read)| read.iter().flatten().filter(|a| is_right(a)).count());
        let (_, best) = best.context("a family has parents")?;
        let pairs = best.iter().flatten().zip(read.iter().flatten());
        let count = |is: fn(&Answer) -> bool| [0, 1].map(|split: usize| read[split].iter().filter(|a| is(a)).count());
        let cell = Cell {
            family: self.family.name.into(),
            trained: self.trained,
            seed,
            arm: arm.into(),
            answers,
            right: count(is_right),
            right_in_any_language: count(|answer| answer.correct),
            lost: pairs
                .filter(|(parent, child)| is_right(parent) && !is_right(child))
                .count(),
            area,
        };
        let mut file = OpenOptions::new().create(true).append(true).open(FILE)?;
        writeln!(file, "{}", serde_json::to_string(&cell)?)?;
        println!("{cell:?}");
        Ok(())
    }
}

/// And in the language that the task asks for.
fn is_right(answer: &Answer) -> bool {
    answer.score > 0.0
}
