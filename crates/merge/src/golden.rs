//! Merges of small checkpoints, compared with what mergekit writes for the same recipes (see tests/data/README.md).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensors};

use super::{Plan, TensorSource, Vocabulary, anatomy, view::View};
use crate::recipe::{DType, read};

/// Checkpoints in Hugging Face layout, one file each; their tokens in `vocab.json`.
struct Directories {
    root: PathBuf,
    models: HashMap<String, (Vec<u8>, serde_json::Value)>,
}

impl Directories {
    fn open(root: &Path, models: &[&str]) -> Self {
        let open = |model: &&str| {
            let dir = root.join(model);
            let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
            let config = std::fs::read(dir.join("config.json")).unwrap();
            (model.to_string(), (bytes, serde_json::from_slice(&config).unwrap()))
        };
        Directories {
            root: root.to_path_buf(),
            models: models.iter().map(open).collect(),
        }
    }

    fn file(&self, model: &str) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.models[model].0).unwrap()
    }
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::Bf16,
        Dtype::F16 => DType::F16,
        other => panic!("{other:?}"),
    }
}

impl TensorSource for Directories {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        self.file(model).names().iter().map(|n| n.to_string()).collect()
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        Some(self.file(model).tensor(tensor).ok()?.shape().to_vec())
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        Some(dtype(self.file(model).tensor(tensor).ok()?.dtype()))
    }

    fn config(&self, model: &str) -> Option<&serde_json::Value> {
        Some(&self.models[model].1)
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let (dtype, bytes) = self.raw(model, tensor).ok_or("no such tensor")?;
        Ok(decode(dtype, bytes).into())
    }

    fn raw(&self, model: &str, tensor: &str) -> Option<(DType, &[u8])> {
        let tensor = self.file(model).tensor(tensor).ok()?;
        Some((dtype(tensor.dtype()), tensor.data()))
    }

    fn model_digest(&self, model: &str) -> String {
        model.into()
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        vocabulary(&self.root.join(model)).map(Arc::new)
    }
}

fn vocabulary(dir: &Path) -> Option<Vocabulary> {
    let bytes = std::fs::read(dir.join("vocab.json")).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

/// Where the vocabularies were joined, the order of new tokens is mergekit's accident: their rows in our order.
fn in_our_order(theirs: &[f32], width: usize, plan: &Plan, case: &Path) -> Vec<f32> {
    let Some(vocabulary) = vocabulary(case) else {
        return theirs.to_vec();
    };
    let mut rows = theirs.to_vec();
    for (token, ours) in &plan.tokenizer().added {
        let from = vocabulary[token] as usize * width;
        rows[*ours as usize * width..][..width].copy_from_slice(&theirs[from..from + width]);
    }
    rows
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        DType::Bf16 => View::Bf16(bytes).to_f32().into_owned(),
        DType::F16 => View::F16(bytes).to_f32().into_owned(),
    }
}

/// What a comparison found.
#[derive(Debug)]
struct Difference {
    case: String,
    dtype: DType,
    /// Largest |ours − theirs| over the tensor's largest |theirs|, over all tensors; and that tensor.
    relative: f64,
    tensor: String,
}

/// Merges `case/recipe.yaml` over the models in `root` and compares with `case/merged.safetensors`.
fn compare(root: &Path, case: &Path) -> Result<Difference, String> {
    let name = case.file_name().unwrap().to_string_lossy().to_string();
    let recipe = case.join("recipe.yaml");
    let text = std::fs::read_to_string(&recipe).map_err(|e| e.to_string())?;
    let recipe = read::parse(&recipe, &text).map_err(|e| e.to_string())?;
    let source = Directories::open(root, &recipe.models());
    let plan = Plan::new(&recipe, &source).map_err(|e| e.to_string())?;
    let bytes = std::fs::read(case.join("merged.safetensors")).map_err(|e| e.to_string())?;
    let theirs = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let ours: BTreeMap<&str, usize> = plan
        .outputs()
        .iter()
        .enumerate()
        .map(|(i, o)| (o.name.as_str(), i))
        .collect();
    let mut names: Vec<&str> = theirs.names();
    names.sort_unstable();
    if ours.keys().copied().collect::<Vec<_>>() != names {
        return Err(format!("{name}: tensors differ: {:?} {names:?}", ours.keys()));
    }
    let mut worst = Difference {
        case: name.clone(),
        dtype: DType::F32,
        relative: 0.0,
        tensor: String::new(),
    };
    for tensor in names {
        let view = theirs.tensor(tensor).map_err(|e| e.to_string())?;
        let output = &plan.outputs()[ours[tensor]];
        if output.shape != view.shape() || output.dtype != dtype(view.dtype()) {
            return Err(format!(
                "{name}: {tensor}: {output:?}, theirs {:?} {:?}",
                view.shape(),
                view.dtype()
            ));
        }
        let mut expected = decode(output.dtype, view.data());
        if anatomy::counts_tokens(tensor) {
            expected = in_our_order(&expected, output.shape[1..].iter().product(), &plan, case);
        }
        let got = plan
            .compute(ours[tensor], &source)
            .map_err(|e| format!("{name}: {e}"))?;
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = expected
            .iter()
            .zip(&got)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0f32, f32::max);
        let relative = f64::from(off) / f64::from(largest.max(f32::MIN_POSITIVE));
        worst.dtype = output.dtype;
        if relative > worst.relative || relative.is_nan() {
            worst.relative = relative;
            worst.tensor = tensor.into();
        }
    }
    let config: serde_json::Value = std::fs::read(case.join("config.json"))
        .map(|bytes| serde_json::from_slice(&bytes).unwrap())
        .map_err(|e| e.to_string())?;
    // mergekit leaves `tie_word_embeddings` as it is, and the head it wrote is ignored.
    // Where no dtype is given, mergekit leaves the base's in the config, whatever it promoted the tensors to; ours says what
    // was written.
    let given = text.contains("dtype:");
    for key in ["num_hidden_layers", "vocab_size", "dtype"] {
        if key == "dtype" && !given {
            let written: BTreeSet<&str> = plan.outputs().iter().map(|o| o.dtype.torch_name()).collect();
            let says = plan.config()[key].as_str();
            if written.len() == 1 && written.iter().next().copied() != says {
                return Err(format!("{name}: wrote {written:?}, the config says {says:?}"));
            }
            continue;
        }
        if plan.config()[key] != config[key] {
            return Err(format!("{name}: config {key}: {} {}", plan.config()[key], config[key]));
        }
    }
    Ok(worst)
}

fn cases(root: &Path) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(root.join("cases"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// bf16 and f16 arithmetic of mergekit's own rounds after every operation; ours once.
fn allowed(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-6,
        DType::Bf16 => 1.0 / 128.0,
        DType::F16 => 1.0 / 1024.0,
    }
}

fn check(root: &Path) {
    let mut failed = 0;
    for case in cases(root) {
        match compare(root, &case) {
            Ok(d) => {
                let ok = d.relative <= allowed(d.dtype);
                failed += usize::from(!ok);
                println!(
                    "{} {:<36} {:.2e} {}",
                    if ok { "ok  " } else { "FAIL" },
                    d.case,
                    d.relative,
                    d.tensor
                );
            }
            Err(e) => {
                failed += 1;
                println!("FAIL {e}");
            }
        }
    }
    assert_eq!(failed, 0, "{}", root.display());
}

#[test]
fn as_mergekit() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
}

/// `MERGE_GOLDENS=DIR[:DIR…] cargo test … -- --ignored goldens_elsewhere --nocapture`, for folders of mergekit_goldens.py.
#[test]
#[ignore = "needs folders of goldens"]
fn goldens_elsewhere() {
    for root in std::env::split_paths(&std::env::var("MERGE_GOLDENS").unwrap()) {
        check(&root);
    }
}
