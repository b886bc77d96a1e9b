//! A layer path with scales, run as it is written and run as the checkpoint that it is exported to.

use std::{borrow::Cow, collections::HashMap, path::Path, sync::Arc};

use heterosis::{
    checkpoint::{TensorSpec, Writer},
    merge::{Plan, TensorSource, Vocabulary},
    model::{
        DType, Decoder, DecoderSpec, Engine, EngineOptions, ScoreRequest, Tokenizer, decoder::Step,
        tokenizer::TokenizerFiles,
    },
    recipe,
    session::fold_of,
    space::{Codec, Fold, GeneSpec, Shape, Space},
};
use serde_json::{Value, json};

use super::program::{good, refused, root};

/// Two models of one config, whose weights are a hash of model, name and index.
struct Pair {
    config: Value,
    spec: DecoderSpec,
    tensors: HashMap<String, Vec<usize>>,
}

impl Pair {
    fn new(config: &Value) -> Self {
        let spec = DecoderSpec::from_config(config).unwrap();
        Self {
            config: config.clone(),
            tensors: spec.tensor_names().into_iter().collect(),
            spec,
        }
    }

    fn weight(&self, model: &str, name: &str) -> Vec<f32> {
        let seed = model.bytes().chain(name.bytes()).fold(0x811C_9DC5u32, |seed, byte| {
            (seed ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let is_norm = name.ends_with("norm.weight");
        let shift = if is_norm && !self.spec.norm_plus_one { 1.0 } else { 0.0 };
        let value = |i: u32| {
            let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
            for (shift, factor) in [(15, 0x2C1B_3C6D), (12, 0x297A_2D39), (15, 1)] {
                x = (x ^ (x >> shift)).wrapping_mul(factor);
            }
            ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.5 + shift
        };
        let len: usize = self.tensors[name].iter().product();
        (0..len as u32).map(value).collect()
    }
}

impl TensorSource for Pair {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        assert!(["a", "b"].contains(&model));
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, _: &str, tensor: &str) -> Option<Vec<usize>> {
        self.tensors.get(tensor).cloned()
    }

    fn dtype(&self, _: &str, tensor: &str) -> Option<recipe::DType> {
        self.tensors.get(tensor).map(|_| recipe::DType::F32)
    }

    fn config(&self, _: &str) -> Option<&Value> {
        Some(&self.config)
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        Ok(self.weight(model, tensor).into())
    }

    fn model_digest(&self, model: &str) -> String {
        model.into()
    }

    fn vocab(&self, _: &str) -> Option<Arc<Vocabulary>> {
        let words = (0..self.spec.vocab as u32).map(|i| (format!("w{i}"), i));
        Some(Arc::new(words.collect()))
    }
}

const SPACE: &str = "
name: t
models: {a: a, b: b}
data_flow_space:
  sources: [a, b]
  repeats: 2
  max_layers: 12
  scales: [0.5, 2.0]
  pin: {first: a, last: b}
fitness: {tasks: [gsm8k]}
";

/// Genes, and the same path by hand: model, layer, input scale.
const GENES: [(&str, f64); 12] = [
    ("scale.first", 0.8),
    ("run.a.l1.r0", 1.0),
    ("scale.a.l1.r0", 1.3),
    ("run.b.l1.r0", 1.0),
    ("scale.b.l1.r0", 0.7),
    ("run.b.l2.r0", 1.0),
    ("run.a.l1.r1", 1.0),
    ("scale.a.l1.r1", 1.9),
    ("run.b.l0.r1", 1.0),
    ("scale.b.l0.r1", 0.5),
    ("scale.last", 1.1),
    ("scale.a.l2.r1", 2.0), // does not run
];
const PATH: [(&str, usize, f32); 7] = [
    ("a", 0, 0.8),
    ("a", 1, 1.3),
    ("b", 1, 0.7),
    ("b", 2, 1.0),
    ("a", 1, 1.9),
    ("b", 0, 0.5),
    ("b", 2, 1.1),
];

/// A tokenizer whose words are its numbers.
fn words(vocab: usize) -> Value {
    let words: serde_json::Map<String, Value> = (0..vocab).map(|i| (format!("w{i}"), i.into())).collect();
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    })
}

fn nll(decoder: Decoder) -> f64 {
    let vocab = decoder.spec().vocab;
    let files = TokenizerFiles {
        name: "words".into(),
        tokenizer_json: words(vocab).to_string().into_bytes(),
        ..Default::default()
    };
    let tokenizer = Arc::new(Tokenizer::new(files).unwrap());
    let tokens: Vec<u32> = (0..48u32).map(|i| (i * i * 7 + i * 13 + 5) % vocab as u32).collect();
    let mut engine = Engine::new(decoder, tokenizer, EngineOptions::default());
    let score = engine.score(&[ScoreRequest { tokens, from: 1 }]).unwrap()[0];
    -score.log_likelihood / score.tokens as f64
}

/// The path, run in a decoder that holds the layers of both models.
fn run_directly(pair: &Pair) -> f64 {
    let mut spec = pair.spec.clone();
    let depth = spec.layers.len();
    spec.layers.extend(pair.spec.layers.clone());
    let mut read = |name: &str| {
        const STACKS: [&str; 3] = ["model.layers.", "gpt_neox.layers.", "transformer.h."];
        let in_stack = |stack: &&str| Some((stack.to_string(), name.strip_prefix(stack)?.split_once('.')?));
        let Some((stack, (layer, rest))) = STACKS.iter().find_map(in_stack) else {
            const FIRST: [&str; 4] = ["embed_tokens", "embed_in", "wte", "wpe"];
            let is_first = FIRST.iter().any(|word| name.contains(word));
            return Ok(pair.weight(if is_first { "a" } else { "b" }, name));
        };
        let layer: usize = layer.parse().unwrap();
        let (model, layer) = if layer < depth {
            ("a", layer)
        } else {
            ("b", layer - depth)
        };
        Ok(pair.weight(model, &format!("{stack}{layer}.{rest}")))
    };
    let mut decoder = Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read).unwrap();
    let step = |(model, layer, input_scale): (&str, usize, f32)| Step {
        layer: layer + if model == "b" { depth } else { 0 },
        input_scale,
    };
    decoder.set_path(PATH.into_iter().map(step).collect()).unwrap();
    nll(decoder)
}

/// The recipe of the path; with `scaled` false, without its scales.
fn decode(fold: Fold, scaled: bool) -> recipe::Recipe {
    let space = Space::parse(Path::new("s.yaml"), SPACE).unwrap();
    let shape = Shape {
        layers: 3,
        out_dtype: recipe::DType::F32,
        fold,
    };
    let codec = Codec::new(&space, shape).unwrap();
    let begin = |gene: &GeneSpec| f64::from(u8::from(gene.name.starts_with("scale")));
    let mut genotype: Vec<f64> = codec.genes().iter().map(begin).collect();
    for (name, value) in GENES {
        let gene = codec.genes().iter().position(|g| g.name == name).unwrap();
        if scaled || name.starts_with("run") {
            genotype[gene] = value;
        }
    }
    codec.decode(&genotype)
}

/// The child as a checkpoint.
fn run_export(pair: &Pair, scaled: bool) -> f64 {
    let plan = Plan::new(&decode(fold_of(&pair.spec), scaled), pair).unwrap();
    // No layer of the path may attend, where others have something else in that place.
    let is_of_a_hybrid = |warning: &String| pair.spec.mixer.is_some() && warning.ends_with("matches no tensor");
    assert!(plan.warnings().iter().all(is_of_a_hybrid), "{:?}", plan.warnings());
    let spec = DecoderSpec::from_config(plan.config()).unwrap();
    assert_eq!(spec.layers.len(), PATH.len());
    let mut read = |name: &str| {
        let output = plan.outputs().iter().position(|o| o.name == name).ok_or("not made")?;
        plan.compute(output, pair).map_err(|e| e.to_string())
    };
    nll(Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read).unwrap())
}

/// `tests/peers/paths.py` gives these recipes to transformers and mergekit. `UPDATE_RECIPES=1` writes them anew.
#[test]
fn the_recipes_of_a_path_are_those_that_other_programs_were_shown() {
    for (name, fold) in [
        ("projections", Fold::Projections),
        ("post_norms", Fold::PostNorms),
        ("shifted_post_norms", Fold::ShiftedPostNorms),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/space/{name}.yaml"));
        let text = recipe::write::to_yaml(&decode(fold, true));
        if std::env::var_os("UPDATE_RECIPES").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap(), "{name}");
    }
}

#[test]
fn an_exported_path_is_the_path_in_every_family() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/data/goldens.json");
    let configs: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut families = std::collections::BTreeSet::new();
    for (name, config) in &configs {
        let pair = Pair::new(config);
        families.insert(pair.spec.family.name());
        // These families' configs can say of a beginning only that it has no experts; and a token of these models stands at an edge
        // of a router, so that a rounding sends it to another expert.
        let at_an_edge = ["phimoe_longrope", "olmoe_clip"].contains(&name.as_str());
        if ["glm4_moe", "lfm2_moe"].contains(&pair.spec.family.name()) || at_an_edge {
            continue;
        }
        // Layers that only make sense at their own places are not moved; some may by a recipe, if the last one is as it has to be.
        if pair.spec.fixed_layers().is_some()
            && let Err(refused) = Plan::new(&decode(fold_of(&pair.spec), true), &pair)
        {
            let message = refused.to_string();
            assert!(message.contains("to other places than their own"), "{name}: {message}");
            continue;
        }
        let direct = run_directly(&pair);
        let error = |export: f64| (export - direct).abs() / direct;
        let exported = error(run_export(&pair, true));
        assert!(exported <= 1e-4, "{name}: {exported:.1e}");
        // Where embeddings are large or branches small, scales change little, but more than folding does.
        let unscaled = error(run_export(&pair, false));
        assert!(
            unscaled > 10.0 * exported.max(1e-7),
            "{name}: {unscaled:.1e} without scales, {exported:.1e} with them"
        );
        println!("{name:24} {exported:.1e}");
    }
    assert!(families.len() >= 32, "{families:?}");
}

/// A search that moves such layers would breed models that no file can say; it is refused before anything is asked, and mixing the
/// same models is not.
#[test]
fn layers_that_keep_their_places_are_refused_a_data_flow_space() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/data/goldens.json");
    let configs: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair::new(&configs["gemma4"]);
    for model in ["a", "b"] {
        let mut writer = Writer::create(&dir.path().join(model), 1 << 30).unwrap();
        let spec = |(name, shape): (&String, &Vec<usize>)| TensorSpec {
            name: name.clone(),
            dtype: recipe::DType::F32,
            shape: shape.clone(),
        };
        writer
            .declare(&pair.tensors.iter().map(spec).collect::<Vec<_>>())
            .unwrap();
        for name in pair.tensors.keys() {
            writer.put_f32(name, &pair.weight(model, name)).unwrap();
        }
        writer.json("config.json", &pair.config).unwrap();
        writer.json("tokenizer.json", &words(pair.spec.vocab)).unwrap();
        writer.finish().unwrap();
    }
    let space = |file: &str, rest: &str| {
        let file = dir.path().join(file);
        let task = root().join("evals/arith-en.yaml");
        let text = format!(
            "name: t\nmodels: {{a: a, b: b}}\n{rest}fitness: {{tasks: [{{task: {}, split: search, limit: 4}}]}}\n\
             search: {{optimizer: genetic, evals: 8}}\n",
            task.display()
        );
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let flow = space("flow.yaml", "data_flow_space: {sources: [a, b], max_layers: 6}\n");
    refused(
        &["check", &flow],
        &["data_flow_space", "each token has embeddings for every layer"],
    );
    let mixed = space(
        "mixed.yaml",
        "parameter_space: {method: linear, genes: {weight: [0.0, 1.0]}}\n",
    );
    good(&["check", &mixed]);
}
