//! How much of a ranking of merges rounded weights keep: the case for a cheap first rung in fewer bits, or against it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use heterosis::{
    eval::{self, Answer, Question, Split, Task, stats},
    merge::Plan,
    model::{DType, Decoder, DecoderSpec, Engine, EngineOptions},
    models::Parents,
    recipe::Recipe,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::tiny_family::{parents, task};
use super::{QUESTIONS, draw};

#[derive(Clone, Copy)]
enum Precision {
    As(DType),
    /// Matrices in blocks of 32 integers with a scale each.
    Blocks(GgmlDType),
}

const PRECISIONS: [(&str, Precision); 5] = [
    ("f32", Precision::As(DType::F32)),
    ("bf16", Precision::As(DType::Bf16)),
    ("f16", Precision::As(DType::F16)),
    ("Q8_0", Precision::Blocks(GgmlDType::Q8_0)),
    ("Q4_0", Precision::Blocks(GgmlDType::Q4_0)),
];

/// Answers of each merge in each precision, and the f32 answers to as many other questions.
pub fn run(count: u64) -> Result<()> {
    let parents = parents()?;
    let task = task(Path::new("evals/arith-es.yaml"))?;
    let mut questions = task.questions(Split::Search)?;
    questions.truncate(4 * QUESTIONS);
    let (asked, others) = questions.split_at(2 * QUESTIONS);
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let (mut answers, mut elsewhere) = (vec![Vec::new(); PRECISIONS.len()], Vec::new());
    for _ in 0..count {
        let recipe = draw(&mut rng, &[1.0])?;
        for ((_, precision), answers) in PRECISIONS.iter().zip(&mut answers) {
            answers.push(answer(&parents, &recipe, *precision, &task, asked)?);
        }
        elsewhere.push(accuracy(&answer(&parents, &recipe, PRECISIONS[0].1, &task, others)?));
    }
    table(&answers, &elsewhere);
    Ok(())
}

fn answer(
    parents: &Parents,
    recipe: &Recipe,
    precision: Precision,
    task: &Task,
    questions: &[Question],
) -> Result<Vec<Answer>> {
    let plan = Plan::new(recipe, parents)?;
    let spec = DecoderSpec::from_config(plan.config())?;
    let dtype = match precision {
        Precision::As(dtype) => dtype,
        Precision::Blocks(_) => DType::F32,
    };
    let mut read = |name: &str| {
        let outputs = plan.outputs();
        let i = outputs.iter().position(|o| o.name == name).ok_or("no such tensor")?;
        let weight = plan.compute(i, parents).map_err(|e| e.to_string())?;
        let shape = outputs[i].shape.as_slice();
        match precision {
            Precision::Blocks(to) if shape.len() > 1 => rounded(&weight, shape, to).map_err(|e| e.to_string()),
            _ => Ok(weight),
        }
    };
    let decoder = Decoder::load(spec, heterosis::model::Device::Cpu, dtype, &mut read)?;
    let tokenizer = Arc::new(parents.tokenizer(&plan.tokenizer())?);
    let mut engine = Engine::new(decoder, tokenizer, EngineOptions::default());
    let answers = eval::answer(&mut engine, &[(task, questions)], &mut |_| {})?;
    answers.into_iter().next().context("no answers")
}

fn rounded(weight: &[f32], shape: &[usize], to: GgmlDType) -> candle_core::Result<Vec<f32>> {
    let tensor = Tensor::from_slice(weight, shape, &Device::Cpu)?;
    let back = QTensor::quantize(&tensor, to)?.dequantize(&Device::Cpu)?;
    back.flatten_all()?.to_vec1()
}

fn accuracy(answers: &[Answer]) -> f64 {
    stats::mean(&answers.iter().map(|a| a.score).collect::<Vec<_>>())
}

fn table(answers: &[Vec<Vec<Answer>>], elsewhere: &[f64]) {
    let scores = |answers: &[Vec<Answer>]| answers.iter().map(|a| accuracy(a)).collect::<Vec<f64>>();
    let exact = scores(&answers[0]);
    let mut sorted = exact.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted[sorted.len() / 2];
    let better: Vec<usize> = (0..exact.len()).filter(|i| exact[*i] >= middle).collect();
    let correlations = |other: &[f64]| {
        let of = |scores: &[f64]| better.iter().map(|i| scores[*i]).collect::<Vec<f64>>();
        let (all, half) = (stats::spearman(&exact, other), stats::spearman(&of(&exact), &of(other)));
        format!("{all:.3} | {half:.3} |")
    };
    println!("| | texts that differ | points, mean of absolute differences | Spearman, all | the better half |");
    println!("|---|---|---|---|---|");
    for ((name, _), rounded) in PRECISIONS.iter().zip(answers).skip(1) {
        let pairs = answers[0].iter().flatten().zip(rounded.iter().flatten());
        let (differ, all) = pairs.fold((0, 0), |(d, n), (a, b)| (d + usize::from(a.output != b.output), n + 1));
        let others = scores(rounded);
        let apart: Vec<f64> = exact.iter().zip(&others).map(|(a, b)| (a - b).abs()).collect();
        println!(
            "| {name} | {:.2} % | {:.2} | {}",
            100.0 * differ as f64 / all as f64,
            100.0 * stats::mean(&apart),
            correlations(&others)
        );
    }
    let apart: Vec<f64> = exact.iter().zip(elsewhere).map(|(a, b)| (a - b).abs()).collect();
    println!(
        "| f32, other questions | | {:.2} | {}",
        100.0 * stats::mean(&apart),
        correlations(elsewhere)
    );
    println!(
        "\n{} merges, {} questions each; accuracy {:.1} to {:.1} %",
        exact.len(),
        answers[0][0].len(),
        100.0 * sorted[0],
        100.0 * sorted[sorted.len() - 1]
    );
}
