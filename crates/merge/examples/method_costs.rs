//! What each method takes for one large tensor: seconds on the wall and of the processor, and memory beyond the parents'.
//!
//! `cargo run --release -p heterosis-merge --example method_costs -- [ROWS COLUMNS] [METHOD…]`. Three bf16 parents of one
//! tensor in memory, the child in bf16 streamed to nowhere, as `heterosis merge` does it; memory on Linux only. Without
//! numbers it is the embedding of a model of 1.5B parameters, 151,936 × 1,536. One process a method, or else the peak is
//! that of the hungriest before.

use std::{borrow::Cow, process::Command, sync::Arc, time::Instant};

use heterosis_merge::{
    Error, Plan, TensorSource, Vocabulary,
    recipe::{DType, read},
    run,
};
use rayon::prelude::*;

const METHODS: [&str; 8] = [
    "linear",
    "task_arithmetic",
    "ties",
    "breadcrumbs",
    "dare_ties",
    "sce",
    "della",
    "della_expectation",
];
const NAMES: [&str; 3] = ["base", "a", "b"];
const TENSOR: &str = "model.embed_tokens.weight";

/// Three models of one bf16 matrix; `a` and `b` are the base and small noise, as fine-tuning would leave it.
struct Parents {
    shape: [usize; 2],
    tensors: [Vec<u8>; 3],
    config: serde_json::Value,
}

impl Parents {
    fn new(shape: [usize; 2]) -> Self {
        Parents {
            shape,
            tensors: [0, 1, 2].map(|model| values(shape[0] * shape[1], model)),
            config: serde_json::json!({"num_hidden_layers": 0}),
        }
    }
}

/// Base of standard deviation 0.02; the noise of others is a hundredth of that for three entries in four.
fn values(count: usize, model: u64) -> Vec<u8> {
    const BLOCK: usize = 1 << 16;
    let mut bytes = vec![0; 2 * count];
    bytes.par_chunks_mut(2 * BLOCK).enumerate().for_each(|(block, bytes)| {
        let (mut base, mut own) = (noise(block as u64), noise(block as u64 + 1_000_000_007 * (model + 1)));
        for place in bytes.as_chunks_mut::<2>().0 {
            let scale = if own() > 0.25 { 0.0002 } else { 0.002 };
            let change = if model == 0 { 0.0 } else { scale * own() };
            *place = half::bf16::from_f32(0.02 * base() + change).to_le_bytes();
        }
    });
    bytes
}

/// Nearly normal numbers of deviation one.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        let mut sum = 0.0;
        for _ in 0..4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 1.732
    }
}

impl TensorSource for Parents {
    fn tensor_names(&self, _: &str) -> Vec<String> {
        vec![TENSOR.into()]
    }

    fn shape(&self, _: &str, _: &str) -> Option<Vec<usize>> {
        Some(self.shape.to_vec())
    }

    fn dtype(&self, _: &str, _: &str) -> Option<DType> {
        Some(DType::Bf16)
    }

    fn config(&self, _: &str) -> Option<&serde_json::Value> {
        Some(&self.config)
    }

    fn read_f32(&self, _: &str, _: &str) -> Result<Cow<'_, [f32]>, String> {
        Err("these parents are read as bytes".into())
    }

    fn raw(&self, model: &str, _: &str) -> Option<(DType, &[u8])> {
        let model = NAMES.iter().position(|n| *n == model)?;
        Some((DType::Bf16, &self.tensors[model]))
    }

    fn model_digest(&self, model: &str) -> String {
        model.into()
    }

    fn vocab(&self, _: &str) -> Option<Arc<Vocabulary>> {
        None
    }
}

fn recipe(method: &str) -> String {
    let own = match method {
        "ties" | "breadcrumbs" | "dare_ties" | "della" | "della_expectation" => "{weight: 0.6, density: 0.4}",
        _ => "{weight: 0.6}",
    };
    let shared = match method {
        "sce" => "parameters: {select_topk: 0.4}",
        "della_expectation" => "parameters: {rescale: expectation}",
        _ => "",
    };
    let base = if method == "linear" { "" } else { "base_model: base" };
    let method = method.trim_end_matches("_expectation");
    format!(
        "merge_method: {method}\n{base}\n{shared}\ndtype: bfloat16\nmodels:\n- {{model: a, parameters: {own}}}\n\
         - {{model: b, parameters: {own}}}\n"
    )
}

/// Seconds on the wall and of the processor, and the digest of the child, by which two builds can be compared.
fn measure(method: &str, parents: &Parents) -> ([f64; 2], String) {
    let recipe = read::parse("costs.yaml".as_ref(), &recipe(method)).expect("the recipe is right");
    let plan = Plan::new(&recipe, parents).expect("the parents fit");
    let mut hasher = blake3::Hasher::new();
    let (started, before) = (Instant::now(), processor_s());
    run::<Error>(
        &plan,
        parents,
        &mut |piece| {
            hasher.update(piece.bytes);
            Ok(())
        },
        &mut |_| {},
    )
    .expect("it merges");
    let seconds = [started.elapsed().as_secs_f64(), processor_s() - before];
    (seconds, hasher.finalize().to_hex()[..12].to_string())
}

/// Of all threads so far; 0 where there is no /proc. A tick is taken for a hundredth of a second.
fn processor_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// A line of /proc/self/status in MB.
fn memory_mb(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let shape = if let [rows, columns] = numbers[..] {
        [rows, columns]
    } else {
        [151_936, 1536]
    };
    let named: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .filter(|a| a.parse::<usize>().is_err())
        .collect();
    let [method] = named[..] else {
        let program = std::env::current_exe().expect("a program has a path");
        for method in if named.is_empty() { &METHODS[..] } else { &named } {
            let args = [shape[0].to_string(), shape[1].to_string(), method.to_string()];
            Command::new(&program).args(args).status().expect("it starts");
        }
        return;
    };
    let parents = Parents::new(shape);
    let before = memory_mb("VmRSS");
    let ([wall, processor], digest) = measure(method, &parents);
    let more = memory_mb("VmHWM").zip(before).map(|(peak, before)| peak - before);
    println!(
        "{method:18} {wall:6.2} s ({processor:.2} s of the processor), {} MB more than the parents, child {digest}",
        more.map_or("?".into(), |mb| mb.to_string())
    );
}
