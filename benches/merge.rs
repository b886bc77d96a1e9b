//! Merging in memory against the machine's copy rate: bf16 parents, f32 child, as in a search.
//!
//! `cargo bench --bench merge`. Throughput counts the bytes a merge must read and write; `copy` moves as many (it reads
//! half of them and writes the other half), with all threads.

use std::{borrow::Cow, hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heterosis::{
    merge::{Plan, Resident, TensorSource, Vocabulary},
    recipe::{DType, read},
};
use rayon::prelude::*;

const LAYERS: usize = 4;
const SHAPE: [usize; 2] = [2048, 2048];
const ELEMENTS: usize = SHAPE[0] * SHAPE[1];
const NAMES: [&str; 3] = ["base", "a", "b"];

/// Three models of four square bf16 matrices; `a` and `b` are near `base`.
struct Parents {
    tensors: Vec<Vec<Vec<u8>>>,
    config: serde_json::Value,
}

impl Parents {
    fn new() -> Self {
        let noise = |seed: u64| {
            let mut state = seed;
            move || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            }
        };
        let models = (0..3u64).map(|model| {
            let layers = (0..LAYERS as u64).map(|layer| {
                let (mut base, mut own) = (noise(layer + 1), noise(100 * model + layer + 50));
                let scale = if model == 0 { 0.0 } else { 0.05 };
                let values = (0..ELEMENTS).map(|_| base() + scale * own());
                values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect()
            });
            layers.collect()
        });
        Parents {
            tensors: models.collect(),
            config: serde_json::json!({"num_hidden_layers": LAYERS}),
        }
    }
}

impl TensorSource for Parents {
    fn tensor_names(&self, _: &str) -> Vec<String> {
        (0..LAYERS)
            .map(|layer| format!("model.layers.{layer}.weight"))
            .collect()
    }

    fn shape(&self, _: &str, _: &str) -> Option<Vec<usize>> {
        Some(SHAPE.to_vec())
    }

    fn dtype(&self, _: &str, _: &str) -> Option<DType> {
        Some(DType::Bf16)
    }

    fn config(&self, _: &str) -> Option<&serde_json::Value> {
        Some(&self.config)
    }

    fn read_f32(&self, _: &str, _: &str) -> Result<Cow<'_, [f32]>, String> {
        Err("the bench reads bytes".into())
    }

    fn raw(&self, model: &str, tensor: &str) -> Option<(DType, &[u8])> {
        let model = NAMES.iter().position(|n| *n == model)?;
        let layer: usize = tensor.split('.').nth(2)?.parse().ok()?;
        Some((DType::Bf16, &self.tensors[model][layer]))
    }

    fn model_digest(&self, model: &str) -> String {
        model.into()
    }

    fn vocab(&self, _: &str) -> Option<Arc<Vocabulary>> {
        None
    }
}

fn plan(parents: &Parents, method: &str, density: f64) -> Plan {
    let (head, own) = match method {
        "linear" => (
            "merge_method: linear".to_string(),
            ["{weight: 0.3}".to_string(), "{weight: 0.7}".into()],
        ),
        "slerp" => (
            "merge_method: slerp\nbase_model: a\nparameters: {t: 0.4}".into(),
            ["{}".into(), "{}".into()],
        ),
        _ => {
            let own = |w: f64, d: f64| format!("{{weight: {w}, density: {d}}}");
            (
                format!("merge_method: {method}\nbase_model: base"),
                [own(0.7, density), own(0.5, density * 0.6)],
            )
        }
    };
    let text = format!(
        "{head}\ndtype: float32\nmodels:\n- {{model: a, parameters: {}}}\n- {{model: b, parameters: {}}}\n",
        own[0], own[1]
    );
    let recipe = read::parse("bench.yaml".as_ref(), &text).expect("the recipe is right");
    Plan::new(&recipe, parents).expect("the parents fit")
}

/// Bytes that a child of `parents` models makes a merge read and write.
fn moved(parents: usize, layers: usize) -> u64 {
    (layers * ELEMENTS * (2 * parents + 4)) as u64
}

fn candidates(c: &mut Criterion) {
    let parents = Parents::new();
    let mut out = vec![vec![0.0f32; ELEMENTS]; LAYERS];
    let mut group = c.benchmark_group("candidate");
    group.sample_size(10);
    for (method, count) in [
        ("linear", 2),
        ("slerp", 2),
        ("task_arithmetic", 3),
        ("ties", 3),
        ("dare_ties", 3),
    ] {
        group.throughput(Throughput::Bytes(moved(count, LAYERS)));
        let mut resident = Resident::new(&parents, &NAMES);
        let mut density = 0.5;
        group.bench_function(BenchmarkId::new("resident", method), |b| {
            b.iter(|| {
                // A new density each time, as in a search.
                density = 0.3 + (density * 1.37 + 0.11) % 0.6;
                let plan = plan(&parents, method, density);
                for (i, out) in out.iter_mut().enumerate() {
                    resident.compute_into(&plan, i, out).expect("it merges");
                }
            });
        });
        group.bench_function(BenchmarkId::new("alone", method), |b| {
            let plan = plan(&parents, method, 0.5);
            b.iter(|| {
                for (i, out) in out.iter_mut().enumerate() {
                    plan.compute_into(i, &parents, None, out).expect("it merges");
                }
            });
        });
    }
    group.throughput(Throughput::Bytes(moved(3, 1)));
    let mut resident = Resident::new(&parents, &NAMES);
    let mut density = 0.5;
    group.bench_function("one layer of four, ties", |b| {
        b.iter(|| {
            density = 0.3 + (density * 1.37 + 0.11) % 0.6;
            let plan = plan(&parents, "ties", density);
            resident.compute_into(&plan, 1, &mut out[1]).expect("it merges");
        });
    });
    for count in [2, 3] {
        let half = moved(count, LAYERS) as usize / 2;
        let (from, mut to) = (vec![1u8; half], vec![0u8; half]);
        group.throughput(Throughput::Bytes(moved(count, LAYERS)));
        group.bench_function(BenchmarkId::new("copy", format!("as for {count} parents")), |b| {
            b.iter(|| {
                to.par_chunks_mut(1 << 20)
                    .zip(from.par_chunks(1 << 20))
                    .for_each(|(to, from)| to.copy_from_slice(from));
                black_box(&to);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, candidates);
criterion_main!(benches);
