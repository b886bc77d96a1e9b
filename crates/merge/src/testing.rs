//! What the kernels' tests share: merging small slices, and a source of models made up in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use heterosis_isa::Isa;

use super::{
    TensorSource, Vocabulary,
    parents::{Parents, Refusal},
    task_sum::{self, TaskSum},
    view::{Inputs, Memory, Target, View},
};
use crate::recipe::DType;

/// Runs a kernel over f32 models of one row each.
pub(crate) fn run(
    models: &[&[f32]],
    base: Option<usize>,
    kernel: impl Fn(&Parents<'_>, &mut Target<'_>) -> Result<bool, Refusal>,
) -> Result<Vec<f32>, Refusal> {
    let len = models.first().map_or(0, |m| m.len());
    run_shaped(models, base, &[len], kernel)
}

pub(crate) fn run_shaped(
    models: &[&[f32]],
    base: Option<usize>,
    shape: &[usize],
    kernel: impl Fn(&Parents<'_>, &mut Target<'_>) -> Result<bool, Refusal>,
) -> Result<Vec<f32>, Refusal> {
    run_measured((models, &[]), base, shape, kernel)
}

/// Models, and the Gram matrix of each.
pub(crate) fn run_measured(
    (models, grams): (&[&[f32]], &[&[f32]]),
    base: Option<usize>,
    shape: &[usize],
    kernel: impl Fn(&Parents<'_>, &mut Target<'_>) -> Result<bool, Refusal>,
) -> Result<Vec<f32>, Refusal> {
    let parents = Parents {
        inputs: Inputs::new(models.iter().map(|m| View::F32(m)).collect()),
        grams: grams.iter().map(|gram| View::F32(gram)).collect(),
        base,
        shape,
        cache: None,
    };
    let mut out = vec![0.0; parents.len()];
    let mut target = Target {
        memory: Memory::F32(&mut out),
        dtype: DType::F32,
    };
    kernel(&parents, &mut target)?;
    Ok(out)
}

pub(crate) fn try_merge_sum(sum: &TaskSum, base: &[f32], models: &[&[f32]]) -> Result<Vec<f32>, Refusal> {
    let all: Vec<&[f32]> = std::iter::once(base).chain(models.iter().copied()).collect();
    run(&all, Some(0), |parents, out| task_sum::merge(parents, sum, out))
}

pub(crate) fn merge_sum(sum: &TaskSum, base: &[f32], models: &[&[f32]]) -> Vec<f32> {
    try_merge_sum(sum, base, models).unwrap()
}

/// Which of the machine's instruction sets [`under_each`] has put in the place of the best, counted from 1.
static FORCED: AtomicUsize = AtomicUsize::new(0);

/// The machine's instruction sets.
pub(crate) fn sets() -> &'static [Isa] {
    static SETS: OnceLock<Vec<Isa>> = OnceLock::new();
    SETS.get_or_init(Isa::available)
}

pub(crate) fn forced() -> Option<Isa> {
    let place = FORCED.load(Ordering::Relaxed).checked_sub(1)?;
    sets().get(place).copied()
}

/// Runs `f` with the instructions of each set in turn. Tests beside it get them as well, which must not matter to them.
pub(crate) fn under_each<R>(mut f: impl FnMut(Isa) -> R) -> Vec<R> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let run = |(place, isa): (usize, &Isa)| {
        FORCED.store(place + 1, Ordering::Relaxed);
        let result = f(*isa);
        FORCED.store(0, Ordering::Relaxed);
        result
    };
    sets().iter().enumerate().map(run).collect()
}

/// Numbers that look like weights, from a seed.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let key = super::random::Key(seed.wrapping_mul(0x1234_5678_9abc_def1));
    (0..n as u64)
        .map(|i| {
            let uniform = |j| f64::from(key.bits(4 * i + j)) / 4_294_967_296.0;
            ((0..4).map(uniform).sum::<f64>() - 2.0) as f32
        })
        .collect()
}

/// Models in memory: small Llama-shaped checkpoints by name.
#[derive(Default)]
pub(crate) struct Models {
    tensors: BTreeMap<(String, String), (Vec<usize>, Vec<f32>)>,
    configs: HashMap<String, serde_json::Value>,
    vocabularies: HashMap<String, Arc<Vocabulary>>,
    pub dtype: Option<DType>,
}

impl Models {
    /// A decoder of `layers` layers with one matrix and one norm each, and `words` as its vocabulary.
    pub fn decoder(&mut self, name: &str, seed: u64, layers: usize, words: &[&str], tied: bool) {
        let width = 4;
        let mut add = |tensor: String, shape: Vec<usize>| {
            let n = shape.iter().product();
            let seed = seed * 1000 + self.tensors.len() as u64;
            self.tensors.insert((name.into(), tensor), (shape, noise(seed, n)));
        };
        add("model.embed_tokens.weight".into(), vec![words.len(), width]);
        for layer in 0..layers {
            add(
                format!("model.layers.{layer}.self_attn.q_proj.weight"),
                vec![width, width],
            );
            add(format!("model.layers.{layer}.input_layernorm.weight"), vec![width]);
        }
        add("model.norm.weight".into(), vec![width]);
        if !tied {
            add("lm_head.weight".into(), vec![words.len(), width]);
        }
        let config = serde_json::json!({
            "model_type": "llama", "num_hidden_layers": layers, "vocab_size": words.len(),
            "tie_word_embeddings": tied, "torch_dtype": "float32",
        });
        self.configs.insert(name.into(), config);
        let vocabulary = words.iter().enumerate().map(|(i, w)| (w.to_string(), i as u32));
        self.vocabularies.insert(name.into(), Arc::new(vocabulary.collect()));
    }

    /// Gram matrices for the models of [`Models::decoder`], of what nine tokens made each layer read.
    pub fn grams(&mut self, name: &str, seed: u64, layers: usize) {
        let width = 4;
        for layer in 0..layers {
            let read = noise(seed * 1000 + layer as u64, 9 * width);
            let product = |at: usize| read.chunks(width).map(|row| row[at / width] * row[at % width]).sum();
            let gram = (0..width * width).map(product).collect();
            let tensor = format!("model.layers.{layer}.self_attn.q_proj.gram");
            self.set(name, &tensor, &[width, width], gram);
        }
        let of = serde_json::json!({".self_attn.q_proj.weight": ".self_attn.q_proj.gram"});
        let config = serde_json::json!({"num_hidden_layers": layers, "heterosis_grams": {"of": of, "turned": []}});
        self.configs.insert(name.into(), config);
    }

    pub fn set(&mut self, model: &str, tensor: &str, shape: &[usize], values: Vec<f32>) {
        self.tensors
            .insert((model.into(), tensor.into()), (shape.to_vec(), values));
    }

    pub fn get(&self, model: &str, tensor: &str) -> &[f32] {
        &self.tensors[&(model.to_string(), tensor.to_string())].1
    }

    pub fn config_mut(&mut self, model: &str) -> &mut serde_json::Value {
        self.configs.get_mut(model).unwrap()
    }

    pub fn forget_vocabulary(&mut self, model: &str) {
        self.vocabularies.remove(model);
    }

    fn find(&self, model: &str, tensor: &str) -> Option<&(Vec<usize>, Vec<f32>)> {
        self.tensors.get(&(model.to_string(), tensor.to_string()))
    }
}

impl TensorSource for Models {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        let of_model = self.tensors.keys().filter(|(m, _)| m == model);
        of_model.map(|(_, tensor)| tensor.clone()).collect()
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        Some(self.find(model, tensor)?.0.clone())
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        self.find(model, tensor).map(|_| self.dtype.unwrap_or(DType::F32))
    }

    fn config(&self, model: &str) -> Option<&serde_json::Value> {
        self.configs.get(model)
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let found = self.find(model, tensor).ok_or("no such tensor")?;
        Ok(Cow::Borrowed(&found.1))
    }

    fn model_digest(&self, model: &str) -> String {
        format!("digest of {model}")
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        self.vocabularies.get(model).cloned()
    }
}

/// Plain f64 arithmetic over rows, to hold the methods that decompose matrices against: nothing here is shared with them.
pub(crate) mod reference {
    /// A matrix by its rows.
    pub(crate) type Table = Vec<Vec<f64>>;

    /// factor · (model − base), row by row.
    pub(crate) fn task(base: &[f32], model: &[f32], columns: usize, factor: f64) -> Table {
        let row = |(base, model): (&[f32], &[f32])| {
            let pairs = base.iter().zip(model);
            pairs.map(|(b, m)| factor * f64::from(*m - *b)).collect()
        };
        base.chunks(columns).zip(model.chunks(columns)).map(row).collect()
    }

    /// a += factor · b
    pub(crate) fn add(a: &mut Table, b: &Table, factor: f64) {
        for (x, y) in a.iter_mut().flatten().zip(b.iter().flatten()) {
            *x += factor * y;
        }
    }

    pub(crate) fn transposed(a: &Table) -> Table {
        (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
    }

    pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    /// The matrix times a vector.
    pub(crate) fn times(a: &Table, x: &[f64]) -> Vec<f64> {
        a.iter().map(|row| dot(row, x)).collect()
    }

    /// The `count` leading singular triples, left directions, lengths and right directions, by one-sided rotations (Hestenes
    /// 1958): columns are turned in pairs until all are orthogonal.
    pub(crate) fn triples(a: &Table, count: usize) -> (Table, Vec<f64>, Table) {
        let mut columns = transposed(a);
        let n = columns.len();
        let mut right: Table = (0..n)
            .map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
            .collect();
        for _ in 0..60 {
            for i in 0..n {
                for j in i + 1..n {
                    let (a, b, c) = (
                        dot(&columns[i], &columns[i]),
                        dot(&columns[j], &columns[j]),
                        dot(&columns[i], &columns[j]),
                    );
                    if c.abs() <= 1e-300 {
                        continue;
                    }
                    let zeta = (b - a) / (2.0 * c);
                    let t = if zeta < 0.0 { -1.0 } else { 1.0 } / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                    let cos = 1.0 / (1.0 + t * t).sqrt();
                    for of in [&mut columns, &mut right] {
                        for k in 0..of[i].len() {
                            let (x, y) = (of[i][k], of[j][k]);
                            of[i][k] = cos * (x - t * y);
                            of[j][k] = cos * (t * x + y);
                        }
                    }
                }
            }
        }
        let lengths: Vec<f64> = columns.iter().map(|c| dot(c, c).sqrt()).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|i, j| lengths[*j].total_cmp(&lengths[*i]));
        order.truncate(count);
        let unit = |i: &usize| columns[*i].iter().map(|x| x / lengths[*i].max(1e-300)).collect();
        (
            order.iter().map(unit).collect(),
            order.iter().map(|i| lengths[*i]).collect(),
            order.iter().map(|i| right[*i].clone()).collect(),
        )
    }

    /// The orthonormal vectors next to some independent ones, by Newton's iteration X ← X (3 − XᵀX) / 2 (Björck and Bowie 1971).
    pub(crate) fn orthogonal(vectors: Table) -> Table {
        let length = vectors.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        let mut x = vectors;
        x.iter_mut().flatten().for_each(|v| *v /= length.max(1e-300));
        for _ in 0..200 {
            let next = |row: &Vec<f64>| {
                let mut next: Vec<f64> = row.iter().map(|v| 1.5 * v).collect();
                for other in &x {
                    let along = 0.5 * dot(row, other);
                    next.iter_mut().zip(other).for_each(|(n, o)| *n -= along * o);
                }
                next
            };
            x = x.iter().map(next).collect();
        }
        x
    }
}
