//! Does the likelihood of right answers rank merges as their accuracy does? The case for reading before asking, or against it.

use std::path::Path;

use anyhow::Result;
use heterosis::{
    eval::{Split, Task, stats},
    models::Parents,
    recipe::{DType, Recipe},
    search::{Evaluator, MergeEvaluator, Sitting, Subject},
    space::{Codec, Fold, Limit, Shape, Space},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::tiny_family::{answered, evaluator_of, parents, task};
use super::{QUESTIONS, draw};

/// How wide merges are drawn around the plain sum: everything that a space allows, a search's first generations, its last ones.
const SPREADS: [(&str, Option<f64>); 3] = [
    ("anywhere", None),
    ("around the plain sum, sd 0.3", Some(0.3)),
    ("around the plain sum, sd 0.1", Some(0.1)),
];

/// Rank correlations with the accuracy on 1,500 questions of other templates: of 200 answers, of the likelihood of 200 worked
/// solutions, and of what parents and unsearched merges answered rightly to those 200.
pub fn run(count: u64) -> Result<()> {
    let (parents, tmp) = (parents()?, tempfile::tempdir()?);
    let asked = task(Path::new("evals/arith-es.yaml"))?;
    let solutions = task(Path::new("evals/arith-es-solutions.yaml"))?;
    let given = right_answers(&parents, &asked, tmp.path())?;
    let tasks = vec![asked, solutions, given];
    let mut evaluator = evaluator_of(&parents, tasks, Some(QUESTIONS), &tmp.path().join("cache"))?;
    let (search, mut fresh) = (evaluator.search_exam()?, evaluator.exam("selection", Limit::All)?);
    fresh.tasks.truncate(1);
    println!("| merges | 200 answers | 200 worked solutions | right answers to 200 questions |\n|---|---|---|---|");
    for (name, spread) in SPREADS {
        let mut rng = ChaCha8Rng::seed_from_u64(13);
        let (mut truths, mut ranked) = (Vec::new(), vec![Vec::new(); 3]);
        for _ in 0..count {
            let recipe = match spread {
                None => draw(&mut rng, &[1.0])?,
                Some(spread) => around(&mut rng, spread)?,
            };
            truths.push(stats::mean(&answered(&mut evaluator, &recipe, &fresh)?[0]));
            for (scores, of_task) in ranked.iter_mut().zip(answered(&mut evaluator, &recipe, &search)?) {
                scores.push(stats::mean(&of_task));
            }
        }
        let correlations: Vec<String> = ranked
            .iter()
            .map(|r| format!("{:.2}", stats::spearman(&truths, r)))
            .collect();
        println!("| {name} | {} |", correlations.join(" | "));
    }
    Ok(())
}

/// A merge of the demo's space, its weights drawn around 1.
fn around(rng: &mut ChaCha8Rng, spread: f64) -> Result<Recipe> {
    let space = Space::read(Path::new("search-spaces/demo.yaml"))?;
    let shape = Shape {
        layers: super::LAYERS,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let codec = Codec::new(&space, shape)?;
    let normal = Normal::new(1.0, spread)?;
    let weights: Vec<f64> = codec
        .genes()
        .iter()
        .map(|_| normal.sample(rng).clamp(0.0, 1.8))
        .collect();
    Ok(codec.decode(&weights))
}

/// The right answers of parents and the plain sum to the search's questions, as texts whose likelihood is measured.
fn right_answers(parents: &Parents, asked: &Task, dir: &Path) -> Result<Task> {
    let mut evaluator: MergeEvaluator<'_> =
        super::evaluator(parents, asked.clone(), Some(QUESTIONS), &dir.join("of-parents"))?;
    let exam = evaluator.search_exam()?;
    let sum = super::recipe(
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: maths}, {model: spanish}]\nparameters: {weight: \
         1.0}\ndtype: float32\n",
    )?;
    let questions = asked.questions(Split::Search)?;
    let mut rows = std::collections::BTreeSet::new();
    for subject in [
        Subject::Model("base"),
        Subject::Model("maths"),
        Subject::Model("spanish"),
        Subject::Recipe(&sum),
    ] {
        let sitting = Sitting {
            id: "teacher",
            subject,
            genotype: &[],
            genes: &[],
            exam: &exam,
        };
        let answers = evaluator.evaluate(&sitting, &mut |_| {})?;
        for (question, answer) in questions
            .iter()
            .zip(&answers.answers[0].1)
            .filter(|(_, a)| a.score >= 1.0)
        {
            let text = question.prompt.text();
            let asked = text.strip_prefix("Q: ").and_then(|text| text.strip_suffix(" A:"));
            let row = serde_json::json!({"question": asked.unwrap_or(&text), "answer": answer.out.trim()});
            rows.insert(format!("{row}\n"));
        }
    }
    println!("{} right answers", rows.len());
    let data: String = rows.into_iter().collect();
    for split in ["search", "selection", "test"] {
        std::fs::write(dir.join(format!("{split}.jsonl")), &data)?;
    }
    let yaml = std::fs::read_to_string("evals/arith-es-solutions.yaml")?;
    let yaml = yaml
        .replace("task: arith-es-solutions", "task: right-answers")
        .replace("data/arith-es-", "");
    let file = dir.join("right-answers.yaml");
    std::fs::write(&file, yaml)?;
    task(&file)
}
