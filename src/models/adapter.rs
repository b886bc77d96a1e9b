//! The child of LoRA adapters over one model as one LoRA adapter, in PEFT's layout.
//!
//! Where the child is a sum of its parents, W + Σ cₖ sₖ Bₖ Aₖ, it *is* such an adapter: the As below each other, the Bs, scaled,
//! beside each other, and the rank is the sum of the ranks. Any other child of adapters is brought to a rank that the caller
//! names, by the product next to its difference from the model (Eckart and Young 1936). What was written is opened again and
//! compared with the child, weight by weight.
//!
//! What no LoRA holds is refused by name: parents over different models, biases and whole layers that were trained, DoRA's
//! lengths, another vocabulary.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};

use super::{Error, Parents, begin, publish};
use crate::{
    checkpoint::{Checkpoint, DType, HubOptions, LoraFactors, LoraLayout, Staged, split_adapter},
    merge::{Plan, low_rank},
    recipe::Recipe,
};

/// What an adapter stands for and how it is to be written.
pub struct Wanted<'a> {
    pub recipe: &'a Recipe,
    /// The recipe's model names and the MODEL words that they stand for.
    pub words: &'a [(String, String)],
    pub parents: &'a Parents,
    /// The largest rank of a module; of a sum of adapters the sum of theirs, unless said otherwise.
    pub rank: Option<usize>,
    /// Told the directory in which it is made before it takes its name.
    pub begun: &'a dyn Fn(&Path),
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The model that it is laid over.
    pub base: String,
    pub modules: usize,
    /// Of the module that has most.
    pub rank: usize,
    /// Whether it is the sum of the parents' adapters, and nothing was left out.
    pub is_exact: bool,
    /// ‖child − model with adapter‖ / ‖child − model‖, over all weights, as they are read from the disk.
    pub error: f64,
}

/// What is added to one tensor.
struct Module {
    factors: LoraFactors,
    is_exact: bool,
}

/// Writes the adapter to `out`; `text` is laid beside it: files by name.
///
/// # Errors
/// What no LoRA holds; a child that is no sum of adapters, without a rank; a disk that is full.
pub fn write_adapter(
    wanted: &Wanted<'_>,
    (out, overwrite): (&Path, bool),
    hub: &HubOptions,
    text: &dyn Fn(&Written) -> Vec<(&'static str, String)>,
) -> Result<Written, Error> {
    let base_word = common_base(wanted)?;
    let base = Checkpoint::open_model(base_word, hub)?;
    let plan = in_f32(wanted)?;
    let modules = modules(wanted, &plan, &base)?;
    let mut writer = begin(out, u64::MAX, overwrite)?;
    (wanted.begun)(writer.partial());
    for (tensor, module) in &modules {
        for (name, shape, values) in named(&base.name_in_adapters(tensor), &module.factors) {
            writer.tensor(&name, DType::F32, &shape, &bytes(&values))?;
        }
    }
    writer.json("adapter_config.json", &config(base_word, &base, &modules))?;
    let mut written = Written {
        base: base_word.into(),
        modules: modules.len(),
        rank: modules.values().map(|m| m.factors.rank).max().unwrap_or_default(),
        is_exact: modules.values().all(|m| m.is_exact),
        error: 0.0,
    };
    let staged = writer.stage()?;
    rename(&staged, out)?;
    written.error = compare(&plan, wanted.parents, &base, staged.path())?;
    if written.is_exact && written.error > EXACT {
        return Err(Error::AdapterDiffers { error: written.error });
    }
    for (name, text) in text(&written) {
        let io = |source| Error::Io {
            path: out.join(name),
            source,
        };
        fs::write(staged.path().join(name), text).map_err(io)?;
    }
    publish(staged, out, overwrite)?;
    Ok(written)
}

/// What rounding to f32 may make of a sum: a weight is some thousand times as large as what adapters add to it.
const EXACT: f64 = 1e-3;

/// The one model that all parents are laid over, or are.
fn common_base<'a>(wanted: &Wanted<'a>) -> Result<&'a str, Error> {
    let mut found: Option<(&str, &str)> = None;
    for model in wanted.recipe.models() {
        let word = wanted.words.iter().find(|(name, _)| name == model);
        let word = word.map_or("", |(_, word)| word.as_str());
        let (base, _) = split_adapter(word);
        match found {
            Some((other, known)) if known != base => {
                return Err(Error::SeveralBases {
                    model: model.into(),
                    base: base.into(),
                    other: other.into(),
                    other_base: known.into(),
                });
            }
            _ => found = Some((found.map_or(model, |(other, _)| other), base)),
        }
    }
    let (_, base) = found.ok_or(Error::NoAdapter)?;
    Ok(base)
}

/// The child without the last rounding.
fn in_f32(wanted: &Wanted<'_>) -> Result<Plan, Error> {
    let mut recipe = wanted.recipe.clone();
    if let Some(stage) = recipe.stages.last_mut() {
        stage.out_dtype = Some(DType::F32);
    }
    Ok(Plan::new(&recipe, wanted.parents)?)
}

/// What is added to each tensor that an adapter of the parents changes.
fn modules(wanted: &Wanted<'_>, plan: &Plan, base: &Checkpoint) -> Result<BTreeMap<String, Module>, Error> {
    let models = wanted.recipe.models();
    let adapted: BTreeSet<&str> = models
        .iter()
        .filter_map(|model| wanted.parents.checkpoint(model))
        .flat_map(|checkpoint| checkpoint.adapted())
        .collect();
    let mut modules = BTreeMap::new();
    for (i, output) in plan.outputs().iter().enumerate() {
        let name = output.name.as_str();
        let sum = plan.combination(i).filter(|sum| is_whole(sum));
        let module = match (adapted.contains(name), sum) {
            (false, Some(_)) => None,
            (false, None) => refuse_change(wanted, plan, i, base)?,
            (true, Some(sum)) => joined(wanted, name, &sum)?,
            (true, None) => nearest(wanted, plan, i, base)?,
        };
        modules.extend(module.map(|module| (name.to_string(), module)));
    }
    match modules.is_empty() {
        true => Err(Error::NoAdapter),
        false => Ok(modules),
    }
}

/// Whether the model is in the sum exactly once.
fn is_whole(sum: &[(&str, f64)]) -> bool {
    (sum.iter().map(|(_, factor)| factor).sum::<f64>() - 1.0).abs() < 1e-6
}

/// Σ cₖ sₖ Bₖ Aₖ as one product; `None` where all of it is nothing.
fn joined(wanted: &Wanted<'_>, name: &str, sum: &[(&str, f64)]) -> Result<Option<Module>, Error> {
    let mut parts: Vec<(f64, LoraFactors)> = Vec::new();
    for (model, factor) in sum.iter().filter(|(_, factor)| *factor != 0.0) {
        if let Some(factors) = factors_of(wanted, model, name)? {
            parts.push((*factor * f64::from(factors.scale), factors));
        }
    }
    let Some((_, first)) = parts.first() else {
        return Ok(None);
    };
    let layout = first.layout;
    let rows = first.left.len() / first.rank;
    let mut left = Vec::new();
    for row in 0..rows {
        for (scale, part) in &parts {
            let of_row = &part.left[row * part.rank..(row + 1) * part.rank];
            left.extend(of_row.iter().map(|x| (scale * f64::from(*x)) as f32));
        }
    }
    let factors = LoraFactors {
        left,
        rank: parts.iter().map(|(_, part)| part.rank).sum(),
        right: parts.into_iter().flat_map(|(_, part)| part.right).collect(),
        scale: 1.0,
        layout,
    };
    match wanted.rank.filter(|rank| *rank < factors.rank) {
        None => Ok(Some(Module {
            factors,
            is_exact: true,
        })),
        Some(rank) => {
            let columns = factors.right.len() / factors.rank;
            shortened(name, &product(&factors, columns), columns, (rank, layout))
        }
    }
}

/// What a model's adapter adds to a tensor; `None` of a model without one, or whose adapter leaves the tensor alone.
fn factors_of(wanted: &Wanted<'_>, model: &str, name: &str) -> Result<Option<LoraFactors>, Error> {
    let Some(checkpoint) = wanted.parents.checkpoint(model) else {
        return Ok(None);
    };
    match checkpoint.lora_factors(name) {
        None if checkpoint.adapted().any(|changed| changed == name) => Err(Error::NoLora {
            model: model.into(),
            tensor: name.into(),
        }),
        factors => Ok(factors),
    }
}

/// left · right, row by row.
fn product(factors: &LoraFactors, columns: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(factors.left.len() / factors.rank * columns);
    for left in factors.left.chunks(factors.rank) {
        let mut row = vec![0.0f32; columns];
        for (x, right) in left.iter().zip(factors.right.chunks(columns)) {
            row.iter_mut().zip(right).for_each(|(sum, y)| *sum += x * y);
        }
        all.extend(row);
    }
    all
}

/// The product of the wanted rank that is next to a difference; `None` where there is none.
fn shortened(
    name: &str,
    difference: &[f32],
    columns: usize,
    (rank, layout): (usize, LoraLayout),
) -> Result<Option<Module>, Error> {
    let (left, right) = low_rank(difference, columns, rank).map_err(|refusal| Error::NotShortened {
        tensor: name.into(),
        reason: refusal.to_string(),
    })?;
    let rank = right.len() / columns;
    let factors = LoraFactors {
        left,
        right,
        rank,
        scale: 1.0,
        layout,
    };
    Ok((rank > 0).then_some(Module {
        factors,
        is_exact: false,
    }))
}

/// The nearest product of a tensor that is no sum of its parents'.
fn nearest(wanted: &Wanted<'_>, plan: &Plan, i: usize, base: &Checkpoint) -> Result<Option<Module>, Error> {
    let output = &plan.outputs()[i];
    let rank = wanted.rank.ok_or_else(|| Error::NoSum {
        method: wanted.recipe.result().merge_method.name(),
        tensor: output.name.clone(),
    })?;
    let mut layout = None;
    for model in wanted.recipe.models() {
        layout = layout.or(factors_of(wanted, model, &output.name)?.map(|factors| factors.layout));
    }
    let difference = difference(plan, i, wanted.parents, base)?;
    let columns = output.shape.last().copied().unwrap_or(1);
    shortened(
        &output.name,
        &difference,
        columns,
        (rank, layout.unwrap_or(LoraLayout::Linear)),
    )
}

/// child − model, of one tensor.
fn difference(plan: &Plan, i: usize, parents: &Parents, base: &Checkpoint) -> Result<Vec<f32>, Error> {
    let output = &plan.outputs()[i];
    let mut child = plan.compute(i, parents)?;
    let model = of_base(base, &output.name)?.filter(|model| model.len() == child.len());
    let model = model.ok_or_else(|| Error::BeyondAdapters {
        tensor: output.name.clone(),
    })?;
    child.iter_mut().zip(&model).for_each(|(c, m)| *c -= m);
    Ok(child)
}

/// A tensor of the model; of a head that is tied to the embeddings, those: where an adapter changes one of the two, they part.
fn of_base(base: &Checkpoint, name: &str) -> Result<Option<Vec<f32>>, Error> {
    let tied = || {
        let mut names = base.tensors().map(|(name, _)| name);
        names.find(|other| other.ends_with("embed_tokens.weight"))
    };
    let name = match base.info(name) {
        Some(_) => Some(name),
        None if name.ends_with("lm_head.weight") => tied(),
        None => None,
    };
    Ok(name.map(|name| base.read_f32(name)).transpose()?)
}

/// A tensor that no adapter changes must be the model's, but for rounding.
fn refuse_change(wanted: &Wanted<'_>, plan: &Plan, i: usize, base: &Checkpoint) -> Result<Option<Module>, Error> {
    let changes = difference(plan, i, wanted.parents, base)?;
    let model = of_base(base, &plan.outputs()[i].name)?.unwrap_or_default();
    let largest = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
    match largest(&changes) <= 1e-6 * largest(&model) {
        true => Ok(None),
        false => Err(Error::BeyondAdapters {
            tensor: plan.outputs()[i].name.clone(),
        }),
    }
}

/// The two tensors of a module as PEFT names and stores them.
fn named(tensor: &str, factors: &LoraFactors) -> [(String, Vec<usize>, Vec<f32>); 2] {
    let module = module_name(tensor);
    let (rows, columns) = (factors.left.len() / factors.rank, factors.right.len() / factors.rank);
    let name = |suffix: &str| format!("base_model.model.{module}.{suffix}");
    let rank = factors.rank;
    let turned = |values: &[f32], columns: usize| -> Vec<f32> {
        let rows = values.len() / columns;
        (0..values.len())
            .map(|i| values[(i % rows) * columns + i / rows])
            .collect()
    };
    let (a, b) = match factors.layout {
        LoraLayout::Linear => (
            (vec![rank, columns], factors.right.clone()),
            (vec![rows, rank], factors.left.clone()),
        ),
        LoraLayout::Turned | LoraLayout::Embedding => (
            (vec![rank, rows], turned(&factors.left, rank)),
            (vec![columns, rank], turned(&factors.right, columns)),
        ),
    };
    let names = match factors.layout {
        LoraLayout::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        _ => ["lora_A.weight", "lora_B.weight"],
    };
    [(name(names[0]), a.0, a.1), (name(names[1]), b.0, b.1)]
}

fn bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; DType::F32.size_bytes() * values.len()];
    DType::F32.narrow(values, &mut bytes);
    bytes
}

fn module_name(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

/// `adapter_config.json`. Alpha is the rank everywhere, so that nothing is scaled but by what stands in B.
fn config(base_word: &str, base: &Checkpoint, modules: &BTreeMap<String, Module>) -> Value {
    let rank = modules.values().map(|m| m.factors.rank).max().unwrap_or(1);
    let others = modules.iter().filter(|(_, module)| module.factors.rank != rank);
    let pattern: serde_json::Map<String, Value> = others
        .map(|(tensor, module)| {
            let name = base.name_in_adapters(tensor);
            (module_name(&name).to_string(), module.factors.rank.into())
        })
        .collect();
    let turned = modules.values().any(|m| m.factors.layout == LoraLayout::Turned);
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": super::without_prefix(base_word),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": targets(base, modules),
        "fan_in_fan_out": turned,
        "use_rslora": false,
        "use_dora": false,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": true,
        "inference_mode": true,
        "modules_to_save": null,
    })
}

/// The modules by the last part of their names, where every matrix of that name is one of them; else by their whole names.
fn targets(base: &Checkpoint, modules: &BTreeMap<String, Module>) -> BTreeSet<String> {
    let last = |tensor: &str| {
        let module = module_name(tensor);
        module.rsplit('.').next().unwrap_or(module).to_string()
    };
    let left_out: BTreeSet<String> = base
        .tensors()
        .filter(|(name, info)| info.shape.len() == 2 && !modules.contains_key(*name))
        .map(|(name, _)| last(name))
        .collect();
    let name = |tensor: &String| match left_out.contains(&last(tensor)) {
        true => module_name(&base.name_in_adapters(tensor)).to_string(),
        false => last(tensor),
    };
    modules.keys().map(name).collect()
}

/// PEFT's name for the file of weights.
fn rename(staged: &Staged, out: &Path) -> Result<(), Error> {
    let (from, to) = ("model.safetensors", "adapter_model.safetensors");
    fs::rename(staged.path().join(from), staged.path().join(to)).map_err(|source| Error::Io {
        path: out.join(to),
        source,
    })
}

/// ‖child − model with adapter‖ / ‖child − model‖
fn compare(plan: &Plan, parents: &Parents, base: &Checkpoint, adapter: &Path) -> Result<f64, Error> {
    let laid_over = Checkpoint::open_with_adapter(base.path(), adapter)?;
    let (mut off, mut changed) = (0.0, 0.0);
    let square = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
    };
    for (i, output) in plan.outputs().iter().enumerate() {
        let child = plan.compute(i, parents)?;
        off += square(&child, &laid_over.read_f32(&output.name)?);
        if let Some(model) = of_base(base, &output.name)? {
            changed += square(&child, &model);
        }
    }
    Ok(if changed > 0.0 { (off / changed).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{checkpoint::Writer, models::add, recipe::read};

    const Q: &str = "self_attn.q_proj";
    const DOWN: &str = "mlp.down_proj";

    fn base() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base")
    }

    fn noise(seed: u64, n: usize, size: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            size * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..n).map(|_| next()).collect()
    }

    /// An adapter of random factors on some modules of some layers.
    fn adapter(dir: &Path, seed: u64, rank: usize, modules: &[&str], config: Value) {
        let model = Checkpoint::open(&base()).unwrap();
        let mut writer = Writer::create(dir, u64::MAX).unwrap();
        let mut seed = 1000 * seed;
        for (name, info) in model.tensors() {
            let Some(module) = name
                .strip_suffix(".weight")
                .filter(|name| modules.iter().any(|m| name.ends_with(m)))
            else {
                continue;
            };
            seed += 1;
            let embedding = module.ends_with("embed_tokens");
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let (a, b) = if embedding {
                ([rank, rows], [columns, rank])
            } else {
                ([rank, columns], [rows, rank])
            };
            let names = if embedding {
                ["lora_embedding_A", "lora_embedding_B"]
            } else {
                ["lora_A.weight", "lora_B.weight"]
            };
            for ((suffix, shape), seed) in names.iter().zip([a, b]).zip([2 * seed, 2 * seed + 1]) {
                let values = noise(seed, shape[0] * shape[1], 0.05);
                let name = format!("base_model.model.{module}.{suffix}");
                writer.tensor(&name, DType::F32, &shape, &bytes(&values)).unwrap();
            }
        }
        let mut all = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": modules});
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        writer.json("adapter_config.json", &all).unwrap();
        let staged = writer.stage().unwrap();
        rename(&staged, dir).unwrap();
        staged.publish().unwrap();
    }

    struct Case {
        dir: tempfile::TempDir,
        words: Vec<(String, String)>,
        parents: Parents,
    }

    fn case() -> Case {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        adapter(&of("lora-a"), 1, 4, &[Q, DOWN], json!({}));
        // Another rank, scaled by its root, on another choice of modules.
        adapter(&of("lora-b"), 2, 6, &[Q, "embed_tokens"], json!({"use_rslora": true}));
        let word = |adapter: &str| format!("{}+{}", base().display(), of(adapter).display());
        let words = vec![
            ("base".to_string(), base().display().to_string()),
            ("a".to_string(), word("lora-a")),
            ("b".to_string(), word("lora-b")),
        ];
        let mut parents = Parents::default();
        for (name, word) in &words {
            add(&mut parents, name, word, &HubOptions::default()).unwrap();
        }
        Case { dir, words, parents }
    }

    impl Case {
        fn write(&self, recipe: &str, out: &str, rank: Option<usize>) -> Result<Written, Error> {
            let recipe = read::parse(Path::new("r.yaml"), recipe).unwrap();
            let wanted = Wanted {
                recipe: &recipe,
                words: &self.words,
                parents: &self.parents,
                rank,
                begun: &|_| (),
            };
            let out = self.dir.path().join(out);
            write_adapter(&wanted, (&out, false), &HubOptions::default(), &|_| {
                vec![("mergekit_config.yml", "merge_method: …\n".into())]
            })
        }

        /// What the adapter adds to a tensor, by the reader of adapters.
        fn added(&self, out: &str, tensor: &str) -> Vec<f32> {
            let model = Checkpoint::open(&base()).unwrap();
            let with = Checkpoint::open_with_adapter(&base(), &self.dir.path().join(out)).unwrap();
            let (with, without) = (with.read_f32(tensor).unwrap(), model.read_f32(tensor).unwrap());
            with.iter().zip(&without).map(|(a, b)| a - b).collect()
        }
    }

    fn length(values: &[f32]) -> f64 {
        values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    }

    const SUM: &str = "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 1.5}\nmodels:\n\
                       - {model: a, parameters: {weight: [{filter: q_proj, value: [0.2, 0.8]}, {value: 0.7}]}}\n\
                       - {model: b, parameters: {weight: -0.4}}\n";

    /// The sum of two adapters of different rank, scale and modules is one adapter, however each module is weighted.
    #[test]
    fn a_sum_of_adapters_is_an_adapter() {
        let case = case();
        for (out, recipe) in [
            ("sum", SUM),
            (
                "mean",
                "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 3}}\n- {model: b, parameters: {weight: 1}}\n",
            ),
            (
                "dare",
                "merge_method: dare_linear\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 0.6, density: 1}}\n\
                      - {model: b, parameters: {weight: 0.5}}\n",
            ),
        ] {
            let written = case.write(recipe, out, None).unwrap();
            assert!(written.is_exact && written.rank == 10, "{written:?}");
            assert!(written.error < 1e-4, "{out}: {}", written.error);
            let files = [
                "adapter_config.json",
                "adapter_model.safetensors",
                "mergekit_config.yml",
            ];
            assert!(files.iter().all(|file| case.dir.path().join(out).join(file).exists()));
        }
        // λ 1.5 · (0.7 · a − 0.4 · b): a leaves the embeddings alone, b the lower projections.
        let (sum, b) = (
            case.added("sum", "model.embed_tokens.weight"),
            case.added("lora-b", "model.embed_tokens.weight"),
        );
        let off: Vec<f32> = sum.iter().zip(&b).map(|(s, b)| s + 0.6 * b).collect();
        assert!(length(&off) < 1e-4 * length(&sum));
        let (sum, a) = (
            case.added("sum", "model.layers.0.mlp.down_proj.weight"),
            case.added("lora-a", "model.layers.0.mlp.down_proj.weight"),
        );
        let off: Vec<f32> = sum.iter().zip(&a).map(|(s, a)| s - 1.05 * a).collect();
        assert!(length(&off) < 1e-4 * length(&sum));
        let config = fs::read_to_string(case.dir.path().join("sum/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["target_modules"], json!(["down_proj", "embed_tokens", "q_proj"]));
        assert_eq!(config["rank_pattern"]["model.layers.0.mlp.down_proj"], 4);
        assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    }

    /// A lower rank is the nearest of that rank, and what it costs is measured on what was written.
    #[test]
    fn a_lower_rank_says_how_far_it_is_from_the_child() {
        let case = case();
        let errors: Vec<f64> = [2, 4, 8]
            .iter()
            .map(|rank| {
                let written = case.write(SUM, &format!("rank-{rank}"), Some(*rank)).unwrap();
                assert!(!written.is_exact && written.rank == *rank, "{written:?}");
                written.error
            })
            .collect();
        assert!(
            errors[0] > errors[1] && errors[1] > errors[2] && errors[2] > 1e-3,
            "{errors:?}"
        );
        let enough = case.write(SUM, "enough", Some(64)).unwrap();
        assert!(enough.is_exact && enough.rank == 10, "{enough:?}");
    }

    /// What PEFT looks for in an adapter are transformers' names, which those of a model's file that also sees are not.
    #[test]
    fn an_adapter_over_a_model_that_also_sees_has_the_names_of_transformers() {
        let dir = tempfile::tempdir().unwrap();
        let made_by_peft =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/checkpoint/tests/data/lora/wrapped/gemma3");
        let base = made_by_peft.join("base").display().to_string();
        let words = vec![
            ("base".to_string(), base.clone()),
            ("a".to_string(), format!("{base}+{}", made_by_peft.display())),
        ];
        let mut parents = Parents::default();
        for (name, word) in &words {
            add(&mut parents, name, word, &HubOptions::default()).unwrap();
        }
        let case = Case { dir, words, parents };
        let half = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a, parameters: {weight: 0.5}}]\n";
        let written = case.write(half, "half", None).unwrap();
        assert!(written.is_exact && written.error < 1e-4, "{written:?}");
        let names = |dir: &Path| -> BTreeSet<String> {
            let bytes = fs::read(dir.join("adapter_model.safetensors")).unwrap();
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            header.keys().filter(|name| *name != "__metadata__").cloned().collect()
        };
        assert_eq!(names(&case.dir.path().join("half")), names(&made_by_peft));
    }

    #[test]
    fn a_child_that_is_no_sum_needs_a_rank() {
        let case = case();
        let ties = "merge_method: ties\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 0.6, density: 0.5}}\n\
                    - {model: b, parameters: {weight: 0.5, density: 0.5}}\n";
        let refused = case.write(ties, "ties", None).unwrap_err().to_string();
        assert!(refused.contains("'ties'") && refused.contains("--rank N"), "{refused}");
        let (few, many) = (
            case.write(ties, "few", Some(4)).unwrap(),
            case.write(ties, "many", Some(4096)).unwrap(),
        );
        assert!(!few.is_exact && few.error > 0.05, "{few:?}");
        assert!(many.error < 1e-3, "at full rank nothing is lost: {many:?}");
    }

    #[test]
    fn what_no_lora_holds_is_refused_by_name() {
        let mut case = case();
        let scaled = "merge_method: passthrough\nmodels: [{model: a, parameters: {scale: 1.1}}]\n";
        let refused = case.write(scaled, "scaled", Some(4)).unwrap_err().to_string();
        assert!(refused.contains("which no adapter changes"), "{refused}");
        let alone = case
            .write("merge_method: passthrough\nmodels: [{model: base}]\n", "alone", None)
            .unwrap_err();
        assert!(matches!(alone, Error::NoAdapter), "{alone}");
        // Another model below the adapter.
        case.words[2].1 = case.words[2].1.replace("tiny-base", "tiny-spanish");
        let refused = case.write(SUM, "bases", None).unwrap_err().to_string();
        assert!(
            refused.contains("tiny-spanish") && refused.contains("without --adapter"),
            "{refused}"
        );
    }
}
