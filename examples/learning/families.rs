//! What is searched: the demo's space, and three that are harder, each made of the embedded family.
//!
//! `useless`: beside the two experts stand two whose task vectors are noise, tensor by tensor as long as an expert's. `far`:
//! the maths expert's task vector is published three times as long as it was trained, the Spanish one's at two fifths, so
//! that the best weights are near 1/3 and 2.5 and the plain sum is worth little. `conflict`: every question of the second task
//! is one of the first, and right is what the *base* answers, so that no weights are good at both.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, safetensors};
use heterosis::{
    checkpoint::Checkpoint,
    eval::{Split, Task},
    event::Answer,
    models::{Parents, verbatim},
    search::{Evaluator, Sitting, Subject},
    space::{Limit, Space},
};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use super::tiny_family::{evaluator, parents, task};

pub struct Family {
    pub parents: Parents,
    pub tasks: Vec<Task>,
    pub space: Space,
}

/// Questions of the search's and the later splits that stand in a conflict, at most.
const CONFLICTING: usize = 1000;

impl Family {
    /// # Errors
    /// An unknown name; a disk that cannot be written.
    pub fn new(name: &str, per_tensor: bool, dir: &Path) -> Result<Self> {
        let task = task(Path::new("evals/arith-es.yaml"))?;
        let mut yaml = std::fs::read_to_string("search-spaces/demo.yaml")?;
        if per_tensor {
            yaml = yaml.replace(
                "weight: [0.0, 1.8] ",
                "weight: {range: [0.0, 1.8], per: [model, tensor]} ",
            );
        }
        let mut parents = parents()?;
        let mut tasks = vec![task];
        match name {
            "demo" => {}
            "useless" => {
                for (noise, like, seed) in [("noise1", "tiny-maths-en", 1), ("noise2", "tiny-spanish", 2)] {
                    add(&mut parents, noise, &noise_like(like, seed, &dir.join(noise))?)?;
                    yaml = yaml.replace("\nbase: base\n", &format!("\n  {noise}: {noise}\nbase: base\n"));
                }
            }
            "far" => {
                parents = Parents::default();
                add(&mut parents, "base", Path::new("models/tiny-base"))?;
                for (expert, of, length) in [("maths", "tiny-maths-en", 3.0), ("spanish", "tiny-spanish", 0.4)] {
                    add(&mut parents, expert, &stretched(of, length, &dir.join(expert))?)?;
                }
                yaml = yaml.replace("[0.0, 1.8]", "[0.0, 3.6]");
            }
            "conflict" => {
                tasks.push(as_the_base_says(&parents, &tasks[0], dir)?);
                yaml = yaml.replace(
                    "limit: 200}\n",
                    "limit: 200}\n    - {task: as-the-base, weight: 1.0, split: search, limit: 200}\n  objectives: pareto\n",
                );
                yaml = yaml.replace("optimizer: cma-es", "optimizer: nsga2");
            }
            _ => anyhow::bail!("--family: '{name}' is none of demo, useless, far, conflict"),
        }
        let space = Space::parse(Path::new("demo.yaml"), &yaml)?;
        Ok(Self { parents, tasks, space })
    }
}

fn add(parents: &mut Parents, name: &str, dir: &Path) -> Result<()> {
    Ok(parents.add(name, Checkpoint::open(dir)?)?)
}

type Tensors = HashMap<String, Tensor>;

fn tensors(model: &str) -> Result<Tensors> {
    let read = safetensors::load(Path::new("models").join(model).join("model.safetensors"), &Device::Cpu)?;
    let wide = read.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?)));
    wide.collect()
}

/// Another expert of the base: `change` makes its task vector of a true one.
fn expert(of: &str, out: &Path, mut change: impl FnMut(&Tensor) -> candle_core::Result<Tensor>) -> Result<PathBuf> {
    let (base, expert) = (tensors("tiny-base")?, tensors(of)?);
    let mut names: Vec<&String> = base.keys().collect();
    names.sort();
    let mut made = Tensors::new();
    for name in names {
        let of_expert = expert.get(name).context("the family's models have the same tensors")?;
        let changed = (&base[name] + change(&(of_expert - &base[name])?)?)?;
        made.insert(name.clone(), changed);
    }
    std::fs::create_dir_all(out)?;
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(Path::new("models").join(of).join(file), out.join(file))?;
    }
    safetensors::save(&made, out.join("model.safetensors"))?;
    Ok(out.to_path_buf())
}

fn stretched(of: &str, length: f64, out: &Path) -> Result<PathBuf> {
    expert(of, out, |task_vector| task_vector * length)
}

/// Noise as long as an expert's task vector, in each tensor.
fn noise_like(of: &str, seed: u64, out: &Path) -> Result<PathBuf> {
    let mut rng = StdRng::seed_from_u64(seed);
    expert(of, out, |task_vector| {
        let scale = task_vector.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
        let normal = StandardNormal.sample_iter(&mut rng);
        let noise: Vec<f32> = normal.take(task_vector.elem_count()).map(|x: f32| x * scale).collect();
        Tensor::from_vec(noise, task_vector.shape(), &Device::Cpu)
    })
}

/// The task in which right is what the base answers wrongly.
fn as_the_base_says(parents: &Parents, task: &Task, dir: &Path) -> Result<Task> {
    let mut base = evaluator(parents, task.clone(), Some(CONFLICTING), &dir.join("of-the-base"))?;
    let data = dir.join("data");
    std::fs::create_dir_all(&data)?;
    for split in [Split::Search, Split::Selection, Split::Test] {
        let exam = base.exam(split.name(), Limit::Most(CONFLICTING))?;
        let recipe = verbatim("base");
        let answers = base.evaluate(
            &Sitting {
                id: "base",
                subject: Subject::Recipe(&recipe),
                genotype: &[],
                genes: &[],
                exam: &exam,
            },
            &mut |_| {},
        )?;
        let questions = task.questions(split)?;
        let rows = questions.iter().zip(&answers.answers[0].1);
        let rows: Vec<String> = rows
            .filter_map(|(question, answer)| row(&question.prompt.text(), answer))
            .collect();
        std::fs::write(data.join(format!("{}.jsonl", split.name())), rows.concat())?;
    }
    let yaml = std::fs::read_to_string("evals/arith-es.yaml")?;
    let yaml = yaml
        .replace("task: arith-es", "task: as-the-base")
        .replace("data/arith-es-", "data/");
    let file = dir.join("as-the-base.yaml");
    std::fs::write(&file, yaml)?;
    super::tiny_family::task(&file)
}

/// A question of the conflict, if the base answers with a number that is not the right one.
fn row(prompt: &str, answer: &Answer) -> Option<String> {
    let question = prompt.strip_prefix("Q: ")?.strip_suffix(" A:")?;
    let said = answer
        .out
        .rsplit("#### ")
        .next()
        .filter(|_| answer.out.contains("#### "))?
        .trim();
    let is_number = said.parse::<i64>().is_ok();
    let line = serde_json::json!({"question": question, "answer": format!("#### {said}")});
    (is_number && answer.score < 1.0).then(|| format!("{line}\n"))
}
