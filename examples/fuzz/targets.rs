//! Every reader of a file that somebody else wrote, with files that it takes as they are.
//!
//! A reader may refuse what it is given, in words. It may not panic, abort, go on for ever, or ask for memory by a number
//! that it has not checked.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use heterosis::{
    checkpoint::{Checkpoint, HubOptions},
    eval::{self, DataDirs, Split, Task, TaskOptions, rescore},
    event::run::Run,
    merge::Plan,
    model::{
        Decoder, DecoderSpec, Engine, EngineOptions, Tokenizer,
        tokenizer::{Message, TokenizerFiles},
    },
    models::Parents,
    programs,
    recipe::{self, DType},
    report, serve,
    space::{Codec, Fold, Shape, Space},
    store, workers,
};

use super::mutate::Random;

/// A reader and what it is fed.
pub struct Target {
    pub name: &'static str,
    /// Files that it takes.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads one file, and says whether it took it; the directory is the target's own.
    pub read: fn(&[u8], &Path) -> bool,
}

pub const TARGETS: [Target; 24] = [
    Target {
        name: "safetensors",
        seeds: || vec![base("model.safetensors")],
        read: safetensors,
    },
    Target {
        name: "index",
        seeds: index_seeds,
        read: index,
    },
    Target {
        name: "config",
        seeds: config_seeds,
        read: config,
    },
    Target {
        name: "tokenizer",
        seeds: tokenizer_seeds,
        read: tokenizer,
    },
    Target {
        name: "chat",
        seeds: chat_seeds,
        read: chat,
    },
    Target {
        name: "adapter_config",
        seeds: || vec![lora("adapter/adapter_config.json")],
        read: adapter_config,
    },
    Target {
        name: "adapter",
        seeds: || vec![lora("adapter/adapter_model.safetensors")],
        read: adapter,
    },
    Target {
        name: "tied_adapter",
        seeds: tied_adapter_seeds,
        read: tied_adapter,
    },
    Target {
        name: "pickled",
        seeds: || vec![checkpoint_seed("pickled/single/pytorch_model.bin")],
        read: pickled,
    },
    Target {
        name: "sentence_piece",
        seeds: || vec![checkpoint_seed("sentencepiece/tokenizer.model")],
        read: sentence_piece,
    },
    Target {
        name: "gguf",
        seeds: || vec![gguf_seed("kinds"), gguf_seed("plain")],
        read: gguf,
    },
    Target {
        name: "recipe",
        seeds: recipe_seeds,
        read: recipe,
    },
    Target {
        name: "space",
        seeds: || in_folder("search-spaces", "yaml"),
        read: space,
    },
    Target {
        name: "task",
        seeds: || in_folder("evals", "yaml"),
        read: task,
    },
    Target {
        name: "rows",
        seeds: rows_seeds,
        read: rows,
    },
    Target {
        name: "parquet",
        seeds: || vec![read_seed(&root().join("crates/eval/tests/data/sample.parquet"))],
        read: parquet,
    },
    Target {
        name: "harness",
        seeds: harness_seeds,
        read: harness,
    },
    Target {
        name: "journal",
        seeds: journal_seeds,
        read: journal,
    },
    Target {
        name: "answers",
        seeds: answers_seeds,
        read: answers,
    },
    Target {
        name: "provenance",
        seeds: provenance_seeds,
        read: provenance,
    },
    Target {
        name: "program",
        seeds: program_seeds,
        read: program,
    },
    Target {
        name: "worker",
        seeds: worker_seeds,
        read: worker,
    },
    Target {
        name: "request",
        seeds: request_seeds,
        read: request,
    },
    Target {
        name: "hub",
        seeds: hub_seeds,
        read: hub,
    },
];

/// What the framing of a binary file says about itself, right again after a mutation: half of the inputs get past it.
pub fn reframe(name: &str, bytes: &mut [u8], random: &mut Random) {
    if !matches!(name, "safetensors" | "adapter") || bytes.len() < 10 || random.below(2) == 0 {
        return;
    }
    // The header ends before the first byte of data: behind the last bracket of the text at the start.
    let text = bytes[8..]
        .iter()
        .position(|b| !(b' '..=b'~').contains(b))
        .unwrap_or(bytes.len() - 8);
    if let Some(end) = bytes[8..8 + text].iter().rposition(|b| *b == b'}') {
        bytes[..8].copy_from_slice(&(end as u64 + 1).to_le_bytes());
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_seed(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn lora(file: &str) -> Vec<u8> {
    read_seed(&root().join("crates/checkpoint/tests/data/lora").join(file))
}

fn base(file: &str) -> Vec<u8> {
    lora(&format!("base/{file}"))
}

fn checkpoint_seed(file: &str) -> Vec<u8> {
    read_seed(&root().join("crates/checkpoint/tests/data").join(file))
}

fn gguf_seed(name: &str) -> Vec<u8> {
    read_seed(&root().join(format!("crates/checkpoint/tests/data/gguf/{name}.gguf")))
}

fn in_folder(folder: &str, end: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root().join(folder)).expect("the repository is whole");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == end));
    paths.sort();
    paths.iter().map(|path| read_seed(path)).collect()
}

fn put(dir: &Path, file: &str, bytes: &[u8]) {
    fs::write(dir.join(file), bytes).expect("the scratch directory can be written");
}

/// Puts a file there unless it is there.
fn keep(dir: &Path, file: &str, bytes: impl FnOnce() -> Vec<u8>) {
    if !dir.join(file).exists() {
        put(dir, file, &bytes());
    }
}

// ---- checkpoints ----

/// Everything that is read of a checkpoint before and while it is merged.
fn use_checkpoint(checkpoint: &Checkpoint) {
    let names: Vec<String> = checkpoint.tensors().map(|(name, _)| name.to_string()).collect();
    for name in &names {
        let _ = checkpoint.read_f32(name);
    }
    let _ = checkpoint.check_finite();
    let _ = checkpoint.digest();
    let _ = checkpoint.license_texts();
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let _ = checkpoint.side_text(file);
    }
}

/// Uses a checkpoint that could be opened.
fn opened(checkpoint: Result<Checkpoint, heterosis::checkpoint::Error>) -> bool {
    checkpoint.map(|checkpoint| use_checkpoint(&checkpoint)).is_ok()
}

fn safetensors(bytes: &[u8], dir: &Path) -> bool {
    keep(dir, "config.json", || base("config.json"));
    put(dir, "model.safetensors", bytes);
    let Ok(checkpoint) = Checkpoint::open(dir) else {
        return false;
    };
    use_checkpoint(&checkpoint);
    let mut parents = Parents::default();
    if parents.add("m", checkpoint).is_ok() {
        let _ = Plan::new(&heterosis::models::verbatim("m"), &parents);
    }
    true
}

fn index_seeds() -> Vec<Vec<u8>> {
    let names = ["a", "b"].map(|shard| format!("\"model.{shard}\": \"{shard}.safetensors\""));
    vec![
        format!(
            "{{\"metadata\": {{\"total_size\": 16}}, \"weight_map\": {{{}}}}}",
            names.join(", ")
        )
        .into_bytes(),
    ]
}

fn index(bytes: &[u8], dir: &Path) -> bool {
    keep(dir, "config.json", || base("config.json"));
    for shard in ["a", "b"] {
        keep(dir, &format!("{shard}.safetensors"), || {
            let header = format!("{{\"model.{shard}\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}}}");
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat()
        });
    }
    put(dir, "model.safetensors.index.json", bytes);
    opened(Checkpoint::open(dir))
}

fn config_seeds() -> Vec<Vec<u8>> {
    let families = [
        "gemma3_text",
        "smollm3",
        "phi3",
        "qwen3",
        "olmo2",
        "granite",
        "glm4",
        "cohere2",
        "gpt_neox",
        "gpt2",
    ];
    let text = String::from_utf8(base("config.json")).expect("a config is text");
    let as_family = |family: &&str| text.replace("\"llama\"", &format!("\"{family}\""));
    let scaled = [
        r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128"#,
        r#""rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1"#,
        r#""rope_type": "dynamic", "factor": 4.0"#,
        r#""rope_type": "longrope", "short_factor": [1, 1], "long_factor": [2, 2], "original_max_position_embeddings": 128"#,
    ];
    let as_scaled = |scaling: &&str| text.replace("\"rope_type\": \"default\"", scaling);
    let all = families.iter().map(as_family).chain(scaled.iter().map(as_scaled));
    std::iter::once(text.clone())
        .chain(all)
        .map(String::into_bytes)
        .collect()
}

/// A config, and where it fits the tensors the decoder that it describes, over four tokens.
fn config(bytes: &[u8], dir: &Path) -> bool {
    keep(dir, "model.safetensors", || base("model.safetensors"));
    put(dir, "config.json", bytes);
    let Ok(checkpoint) = Checkpoint::open(dir) else {
        return false;
    };
    let Ok(spec) = DecoderSpec::from_config(checkpoint.config()) else {
        return false;
    };
    let there = checkpoint.tensors().map(|(name, info)| (name, info.shape.as_slice()));
    if spec.check_tensors(there).is_err() {
        return false;
    }
    let mut read = |name: &str| checkpoint.read_f32(name).map_err(|e| e.to_string());
    let Ok(decoder) = Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read) else {
        return false;
    };
    let options = EngineOptions::for_device(heterosis::model::Device::Cpu);
    let mut engine = Engine::new(decoder, good_tokenizer(), options);
    engine.perplexity(&[1, 2, 3, 4], 4).is_ok()
}

fn tiny(file: &str) -> Vec<u8> {
    read_seed(&root().join("models/tiny-base").join(file))
}

fn good_tokenizer() -> Arc<Tokenizer> {
    static GOOD: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let make = || Arc::new(Tokenizer::from_dir(&root().join("models/tiny-base")).expect("the embedded model is whole"));
    GOOD.get_or_init(make).clone()
}

fn tokenizer_seeds() -> Vec<Vec<u8>> {
    vec![tiny("tokenizer.json")]
}

fn use_tokenizer(files: TokenizerFiles) -> bool {
    let Ok(tokenizer) = Tokenizer::new(files) else {
        return false;
    };
    if let Ok(ids) = tokenizer.encode("3 + 4 = ? é\u{200b} <s>", true) {
        let _ = tokenizer.decode(&ids);
    }
    let _ = tokenizer.vocab();
    let _ = tokenizer.apply_chat_template(&[Message::new("user", "hello"), Message::new("assistant", "yes")], true);
    true
}

fn tokenizer(bytes: &[u8], _: &Path) -> bool {
    use_tokenizer(TokenizerFiles {
        name: "tokenizer.json".into(),
        tokenizer_json: bytes.to_vec(),
        ..TokenizerFiles::default()
    })
}

fn chat_seeds() -> Vec<Vec<u8>> {
    let template = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|s|>{% endif %}{{ '<|' + m.role + '|>' \
                    + m['content'] | trim }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let config = serde_json::json!({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"},
        "additional_special_tokens": ["<|s|>"], "clean_up_tokenization_spaces": true});
    vec![config.to_string().into_bytes(), tiny("tokenizer_config.json")]
}

fn chat(bytes: &[u8], _: &Path) -> bool {
    let Ok(config) = serde_json::from_slice(bytes) else {
        return false;
    };
    use_tokenizer(TokenizerFiles {
        name: "tokenizer.json".into(),
        tokenizer_json: tiny("tokenizer.json"),
        tokenizer_config: Some(config),
        ..TokenizerFiles::default()
    })
}

fn lay_adapter(dir: &Path) -> bool {
    for file in ["config.json", "model.safetensors"] {
        keep(dir, file, || base(file));
    }
    let adapter = dir.join("adapter");
    fs::create_dir_all(&adapter).expect("the scratch directory can be written");
    opened(Checkpoint::open_with_adapter(dir, &adapter))
}

fn adapter_config(bytes: &[u8], dir: &Path) -> bool {
    fs::create_dir_all(dir.join("adapter")).expect("the scratch directory can be written");
    keep(dir, "adapter/adapter_model.safetensors", || {
        lora("adapter/adapter_model.safetensors")
    });
    put(dir, "adapter/adapter_config.json", bytes);
    lay_adapter(dir)
}

fn adapter(bytes: &[u8], dir: &Path) -> bool {
    fs::create_dir_all(dir.join("adapter")).expect("the scratch directory can be written");
    keep(dir, "adapter/adapter_config.json", || {
        lora("adapter/adapter_config.json")
    });
    put(dir, "adapter/adapter_model.safetensors", bytes);
    lay_adapter(dir)
}

/// Adapters whose tensors part a tied head, scale rows and replace some.
fn tied_adapter_seeds() -> Vec<Vec<u8>> {
    let weights = |kind: &str| lora(&format!("tied/{kind}/adapter_model.safetensors"));
    ["dora", "tokens", "both_saved", "lora_bias"].map(weights).to_vec()
}

fn tied_adapter(bytes: &[u8], dir: &Path) -> bool {
    for folder in ["base", "adapter"] {
        fs::create_dir_all(dir.join(folder)).expect("the scratch directory can be written");
    }
    for file in ["config.json", "model.safetensors"] {
        keep(dir, &format!("base/{file}"), || lora(&format!("tied/base/{file}")));
    }
    keep(dir, "adapter/adapter_config.json", || {
        lora("tied/tokens/adapter_config.json")
    });
    put(dir, "adapter/adapter_model.safetensors", bytes);
    opened(Checkpoint::open_with_adapter(&dir.join("base"), &dir.join("adapter")))
}

fn pickled(bytes: &[u8], dir: &Path) -> bool {
    keep(dir, "config.json", || base("config.json"));
    put(dir, "pytorch_model.bin", bytes);
    opened(Checkpoint::open(dir))
}

fn sentence_piece(bytes: &[u8], dir: &Path) -> bool {
    for file in ["config.json", "model.safetensors"] {
        keep(dir, file, || base(file));
    }
    put(dir, "tokenizer.model", bytes);
    let Ok(checkpoint) = Checkpoint::open(dir) else {
        return false;
    };
    let Ok(Some(json)) = checkpoint.tokenizer_json() else {
        return false;
    };
    use_tokenizer(TokenizerFiles {
        name: "tokenizer.model".into(),
        tokenizer_json: json.into_bytes(),
        ..TokenizerFiles::default()
    })
}

fn gguf(bytes: &[u8], dir: &Path) -> bool {
    let file = dir.join("m.gguf");
    put(dir, "m.gguf", bytes);
    let Ok(checkpoint) = Checkpoint::open(&file) else {
        return false;
    };
    use_checkpoint(&checkpoint);
    let _ = DecoderSpec::from_config(checkpoint.config());
    true
}

// ---- what people write ----

fn recipe_seeds() -> Vec<Vec<u8>> {
    [
        "merge_method: ties\nbase_model: m\nmodels:\n- model: m\n  parameters: {weight: 0.5, density: [0.1, 0.9]}\nparameters:\n  \
         lambda: 1.0\n  int8_mask: true\ndtype: float32\ntokenizer_source: base\n",
        "merge_method: slerp\nbase_model: m\nslices:\n- sources:\n  - {model: m, layer_range: [0, 2]}\n  - {model: n, \
         layer_range: [0, 2]}\nparameters:\n  t:\n  - {filter: self_attn, value: [0, 0.5, 1]}\n  - {value: 0.5}\nout_dtype: \
         bfloat16\n",
        "merge_method: passthrough\nslices:\n- sources: [{model: m, layer_range: [0, 1]}]\n- sources: [{model: m, layer_range: \
         [0, 2], parameters: {scale: 0.9}}]\n",
        "name: first\nmerge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n---\nname: second\nmerge_method: \
         dare_ties\nbase_model: first\nmodels: [{model: m, parameters: {weight: 0.3, density: 0.5}}]\nseed: 3\n",
        "merge_method: layer_swap\nmodels: [{model: m}, {model: n}]\nparameters: {bottom: 1, top: 0}\ntokenizer:\n  source: \
         union\n  tokens:\n    a: {source: n, force: true}\nchat_template: auto\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn small_parents() -> &'static Parents {
    // The files of a model are read when they are asked for.
    static PARENTS: OnceLock<(Parents, tempfile::TempDir)> = OnceLock::new();
    let made = PARENTS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a scratch directory");
        for file in ["config.json", "model.safetensors"] {
            put(dir.path(), file, &base(file));
        }
        let words = ["<s>", "</s>", "<unk>"].map(String::from).into_iter();
        let words = words.chain((b'a'..=b'm').map(|b| char::from(b).to_string()));
        let vocab: serde_json::Map<String, serde_json::Value> =
            words.zip(0..).map(|(word, id): (String, u32)| (word, id.into())).collect();
        let tokenizer = serde_json::json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
            "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": []});
        put(dir.path(), "tokenizer.json", tokenizer.to_string().as_bytes());
        let mut parents = Parents::default();
        for name in ["m", "n"] {
            let checkpoint = Checkpoint::open(dir.path()).expect("a model of two layers");
            parents.add(name, checkpoint).expect("a name of its own");
        }
        (parents, dir)
    });
    &made.0
}

/// A recipe is read, written, read again as the same, laid out over a model, and merged.
fn recipe(bytes: &[u8], _: &Path) -> bool {
    let (file, text) = (Path::new("r.yaml"), String::from_utf8_lossy(bytes));
    let Ok(recipe) = recipe::read::parse(file, &text) else {
        return false;
    };
    let written = recipe::write::to_yaml(&recipe);
    let again = recipe::read::parse(file, &written).unwrap_or_else(|e| panic!("{e}\n{written}"));
    assert_eq!(again, recipe, "{written}");
    let Ok(plan) = Plan::new(&recipe, small_parents()) else {
        return false;
    };
    for i in 0..plan.outputs().len().min(40) {
        let _ = plan.compute(i, small_parents());
    }
    true
}

/// A space, and the recipes at both ends of its genes.
fn space(bytes: &[u8], _: &Path) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(space) = Space::parse(Path::new("s.yaml"), &text) else {
        return false;
    };
    let _ = (space.to_yaml(), space.digest());
    let shape = Shape {
        layers: 6,
        out_dtype: DType::F32,
        fold: Fold::Projections,
    };
    let Ok(codec) = Codec::new(&space, shape) else {
        return false;
    };
    for value in [0.0, 1.0, 0.37] {
        let recipe = codec.decode(&vec![value; codec.genes().len()]);
        let _ = codec.encode(&recipe);
    }
    true
}

/// Rows in the form of the published data of the built-in tasks that choose or are judged by a rule.
const PUBLISHED: [(&str, &str); 15] = [
    (
        "allenai/ai2_arc/ARC-Easy",
        r#"{"question": "Why?", "choices": {"text": ["a b", "c"], "label": ["1", "2"]}, "answerKey": "2"}"#,
    ),
    (
        "allenai/ai2_arc/ARC-Challenge",
        r#"{"question": "Why?", "choices": {"text": ["a b", "c"], "label": ["A", "B"]}, "answerKey": "B"}"#,
    ),
    (
        "allenai/openbookqa/main",
        r#"{"question_stem": "Why", "choices": {"text": ["a b", "c"], "label": ["A", "B"]}, "answerKey": "B"}"#,
    ),
    (
        "Rowan/hellaswag/default",
        r#"{"activity_label": "Baking", "ctx_a": "She [title] it.", "ctx_b": "the DOG", "endings": [" [step] it's  so ", "b", "c"], "label": "2"}"#,
    ),
    (
        "allenai/winogrande/winogrande_xl",
        r#"{"sentence": "Ann met Eve, so _  smiled. ", "option1": "Ann", "option2": "Eve", "answer": "2"}"#,
    ),
    (
        "aps/super_glue/boolq",
        r#"{"passage": "P.", "question": "is it", "label": 1}"#,
    ),
    (
        "baber/piqa/default",
        r#"{"goal": "Do.", "sol1": "so", "sol2": "or so", "label": 1}"#,
    ),
    (
        "truthfulqa/truthful_qa/multiple_choice",
        r#"{"question": "Is it?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]}, "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}}"#,
    ),
    (
        "cais/mmlu/anatomy",
        r#"{"question": " Who? ", "choices": ["p", "q", "r", "s"], "answer": 2, "subject": "x"}"#,
    ),
    (
        "cambridgeltl/xcopa/it",
        r#"{"premise": "L'uomo ride.", "choice1": "È felice.", "choice2": "Piove.", "question": "cause", "label": 0}"#,
    ),
    (
        "facebook/xnli/es",
        r#"{"premise": "Llueve", "hypothesis": "Hay agua.", "label": 0}"#,
    ),
    (
        "facebook/belebele/spa_Latn",
        r#"{"flores_passage": "P.", "question": "Q?", "mc_answer1": "a", "mc_answer2": "b", "mc_answer3": "c", "mc_answer4": "d", "correct_answer_num": "2"}"#,
    ),
    (
        "HuggingFaceH4/MATH-500/default",
        r#"{"problem": "What?", "solution": "So $\\boxed{\\frac12}$."}"#,
    ),
    (
        "EleutherAI/hendrycks_math/algebra",
        r#"{"problem": "What?", "solution": "So $\\boxed{\\frac12}$.", "level": "Level 1", "type": "Algebra"}"#,
    ),
    (
        "google/IFEval/default",
        r#"{"key": 1, "prompt": "Say.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": null}]}"#,
    ),
];

/// A task file and its questions; the first rows of the embedded tasks' data lie beside it, and rows as the published ones.
fn task(bytes: &[u8], dir: &Path) -> bool {
    static DATA: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let home = tempfile::tempdir().expect("a scratch directory");
        for entry in fs::read_dir(root().join("evals/data"))
            .expect("the repository is whole")
            .flatten()
        {
            fs::create_dir_all(home.path().join("data")).expect("the scratch directory can be written");
            let text = String::from_utf8_lossy(&read_seed(&entry.path())).into_owned();
            let some: String = text.lines().take(6).map(|line| format!("{line}\n")).collect();
            put(
                &home.path().join("data"),
                &entry.file_name().to_string_lossy(),
                some.as_bytes(),
            );
        }
        for (folder, row) in PUBLISHED {
            fs::create_dir_all(home.path().join(folder)).expect("the scratch directory can be written");
            for split in ["train", "validation", "test"] {
                put(
                    &home.path().join(folder),
                    &format!("{split}.jsonl"),
                    format!("{row}\n").repeat(3).as_bytes(),
                );
            }
        }
        home
    });
    let samples = root().join("crates/eval/tests/data/data");
    use_task(
        bytes,
        dir,
        &DataDirs {
            roots: vec![DATA.path().into(), samples],
        },
    )
}

/// Reads a task file, and asks each of the first tasks in it in the first of its languages that has data.
fn use_task(bytes: &[u8], dir: &Path, data: &DataDirs) -> bool {
    put(dir, "t.yaml", bytes);
    let file = dir.join("t.yaml").display().to_string();
    let Ok(tasks) = eval::expand(&file, None) else {
        return false;
    };
    let known = |lang: &str| ["", "en", "es", "it", "spa_Latn"].contains(&lang);
    let mut is_taken = false;
    for (name, lang) in tasks.into_iter().filter(|(_, lang)| known(lang)).take(4) {
        let options = TaskOptions {
            lang: Some(lang).filter(|lang| !lang.is_empty()),
            ..TaskOptions::default()
        };
        let Ok(task) = Task::load(&name, &options, data) else {
            continue;
        };
        for split in Split::ALL {
            let Ok(questions) = task.questions(split) else { continue };
            is_taken = true;
            for question in questions.iter().take(2) {
                let _ = task.extract("<think> 3 </think> The answer is 3 (B).\n#### 3", &question.gold);
            }
        }
        let _ = task.digest();
    }
    is_taken
}

/// Rows of every text format, the format in the first line.
fn rows_seeds() -> Vec<Vec<u8>> {
    [
        "csv\nquestion,answer,choices\n\"3 + 4, or \"\"so\"\"\",7,\"[\"\"a\"\", \"\"b\"\"]\"\n\"two\nlines\",8,\n",
        "tsv\nquestion\tanswer\n3 + 4\t7\né\t8\n",
        "jsonl\n{\"question\": \"3 + 4\", \"answer\": 7, \"choices\": {\"text\": [\"a\", \"b\"]}}\n{\"question\": \"\", \"answer\": null}\n",
        "json\n[{\"question\": \"3 + 4\", \"answer\": 7.5}, {\"question\": \"x\", \"answer\": true}]\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn rows(bytes: &[u8], dir: &Path) -> bool {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let format = ["csv", "tsv", "jsonl", "json"]
        .into_iter()
        .find(|format| *format.as_bytes() == bytes[..end]);
    let Some(format) = format else { return false };
    let file = dir.join(format!("rows.{format}"));
    put(dir, &format!("rows.{format}"), &bytes[(end + 1).min(bytes.len())..]);
    eval::data::read_file(&file).is_ok()
}

fn parquet(bytes: &[u8], _: &Path) -> bool {
    eval::parquet::rows(bytes.to_vec()).is_ok()
}

/// lm-evaluation-harness's YAML: a task that generates, one that chooses, a group of both.
fn harness_seeds() -> Vec<Vec<u8>> {
    [
        "task: generates\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl, train: rows.jsonl}}\ntest_split: \
         test\nfewshot_split: train\noutput_type: generate_until\ndoc_to_text: \"Q: {{question.strip() | upper}}{% if choices \
         %} {{choices[0]}}{% endif %}\\nA:\"\ndoc_to_target: '{{answer}}'\nnum_fewshot: 1\ngeneration_kwargs: {until: [\"\\n\"], \
         do_sample: false, max_gen_toks: 16}\nfilter_list:\n- name: strict\n  filter:\n  - {function: regex, regex_pattern: \
         '(-?[0-9.]+)', group_select: -1}\n  - {function: remove_whitespace}\n  - {function: take_first}\nmetric_list:\n- \
         {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, regexes_to_ignore: [',',          '\\$']}\nmetadata: {version: 3.0}\n",
        "task: chooses\ndataset_path: json\ndataset_kwargs: {data_files: rows.jsonl}\nvalidation_split: train\noutput_type: \
         multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: \
         '{{answer}}'\ntarget_delimiter: ' '\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
        "group: both\ntask: [one, {task: two, num_fewshot: 0}]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn harness(bytes: &[u8], dir: &Path) -> bool {
    keep(dir, "rows.jsonl", || {
        let row = |n: usize| {
            format!(
                "{{\"question\": \"{n} + 1?\", \"answer\": {}, \"choices\": [\"2\", \"3\"]}}\n",
                n % 2
            )
        };
        (0..6).map(row).collect::<String>().into_bytes()
    });
    for name in ["one", "two"] {
        keep(dir, &format!("{name}.yaml"), || {
            let one = format!(
                "task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\ntest_split: test\noutput_type: \
                 loglikelihood\ndoc_to_text: question\ndoc_to_target: answer\n"
            );
            one.into_bytes()
        });
    }
    use_task(bytes, dir, &DataDirs { roots: Vec::new() })
}

// ---- what heterosis wrote, and somebody changed ----

fn journal_seeds() -> Vec<Vec<u8>> {
    let text = |name: &str| {
        fs::read_to_string(root().join("tests/data/dashboard").join(name)).expect("the repository is whole")
    };
    let some = |text: String, every: usize| {
        let lines = text
            .lines()
            .enumerate()
            .filter(|(i, line)| i % every == 0 && line.len() < 6000);
        let lines: String = lines.map(|(_, line)| format!("{line}\n")).collect();
        renumbered(lines.as_bytes())
    };
    vec![some(text("stopped.jsonl"), 4), some(text("night.jsonl"), 24)]
}

/// Lines in their places, however many of them were left out, doubled or swapped: a reader looks no further than the first that is not.
fn renumbered(bytes: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b"\"seq\":";
    let lines = bytes.split_inclusive(|b| *b == b'\n').enumerate();
    let renumber = |(number, line): (usize, &[u8])| -> Vec<u8> {
        let Some(at) = line.windows(KEY.len()).position(|window| window == KEY) else {
            return line.to_vec();
        };
        let (before, rest) = line.split_at(at + KEY.len());
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        [before, number.to_string().as_bytes(), &rest[digits..]].concat()
    };
    lines.flat_map(renumber).collect()
}

fn journal(bytes: &[u8], dir: &Path) -> bool {
    let as_it_is = read_journal(bytes, dir);
    read_journal(&renumbered(bytes), dir) || as_it_is
}

fn read_journal(bytes: &[u8], dir: &Path) -> bool {
    put(dir, "journal.jsonl", bytes);
    let Ok(records) = store::read(&dir.join("journal.jsonl")) else {
        return false;
    };
    let run = Run::from_records(&records);
    let _ = run.winner();
    let _ = report::files(&run, "runs/r");
    let mut plain = heterosis::dashboard::PlainLines::new(0);
    for record in &records {
        plain.line(record);
    }
    true
}

fn answers_seeds() -> Vec<Vec<u8>> {
    let line = |task: &str, lang: &str, output: &str| {
        serde_json::json!({"task": task, "lang": lang, "output": output, "gold": "#### 22", "q": "q/1"}).to_string()
    };
    let lines = [
        line("gsm8k", "en", "7 * 3 = 21\n#### 1,022.50\n\nQ: next"),
        line("gsm8k", "en", "The answer is \\boxed{\\frac{3}{4}} $5 and 28%"),
        line("mgsm_direct", "bn", "উত্তর হল ৭২।"),
        line("mgsm_direct", "ja", "答えは７２です。"),
        line("mgsm_direct", "es", "La respuesta es 1.234,50"),
    ];
    vec![lines.join("\n").into_bytes()]
}

fn answers(bytes: &[u8], _: &Path) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(stored) = rescore::parse(&text) else {
        return false;
    };
    let tasks = ["gsm8k", "mgsm_direct"].map(String::from);
    for lang in ["en", "bn", "es"] {
        let options = TaskOptions {
            lang: Some(lang.into()),
            ..TaskOptions::default()
        };
        for task in &tasks {
            let _ = rescore::rescore(
                stored.clone(),
                std::slice::from_ref(task),
                &options,
                &DataDirs { roots: Vec::new() },
            );
        }
    }
    true
}

fn provenance_seeds() -> Vec<Vec<u8>> {
    let provenance = serde_json::json!({"schema_version": 1, "run": "r", "candidate": "c0001", "engine_version": "0.1.0",
        "seed": 7, "space_digest": "00", "recipe_digest": "00",
        "parents": [{"name": "a", "model": "m", "digest": "00", "files": [{"file": "a", "size_bytes": 1, "sha256": "00"}]}],
        "tasks": [{"task": "gsm8k", "lang": "en", "split": "search", "n": 3, "metric": "exact_match", "weight": 1.0, "digest": "00"}],
        "evals": 4, "test": null, "outputs": [{"file": "model.safetensors", "size_bytes": 8, "sha256": "00"}],
        "computed": {"device": "cpu", "dtype": "f32"},
        "first_answers": [{"question": "q/1", "prompt": "1 + 1 =", "max_new_tokens": 8, "stop": ["\n"], "output": " 2",
        "token_ids": [1, 2]}]});
    vec![provenance.to_string().into_bytes()]
}

fn provenance(bytes: &[u8], _: &Path) -> bool {
    heterosis::session::read_provenance(&String::from_utf8_lossy(bytes)).is_ok()
}

// ---- what programs, workers and clients say ----

fn lines(lines: &[&str]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

/// Lines of engines and evaluators.
fn program_seeds() -> Vec<Vec<u8>> {
    lines(&[
        "{\"id\": 1, \"protocol\": 1, \"name\": \"e\", \"version\": \"1\", \"device\": \"cpu\", \"dtypes\": [\"f32\"], \"can\": [\"score\"], \"done\": true}",
        "{\"id\": 2, \"context\": 128, \"vocab\": 512, \"done\": true}",
        "{\"id\": 3, \"answers\": [{\"i\": 0, \"tokens\": [5, 6, 2], \"finish\": \"eos\"}, {\"i\": 1, \"tokens\": [1, 2, 3, 4], \"finish\": \"length\"}]}",
        "{\"id\": 4, \"answers\": [{\"i\": 0, \"log_likelihood\": -3.5, \"greedy\": true}, {\"i\": 1, \"log_likelihood\": \"NaN\", \"greedy\": false}]}",
        "{\"id\": \"c0001\", \"score\": 0.5, \"scores\": {\"a\": NaN, \"b\": -1}, \"answers\": [{\"question\": \"q\", \"score\": 1, \"output\": \"x\"}]}",
    ])
}

fn program(bytes: &[u8], _: &Path) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let is_taken = programs::read_line::<serde_json::Value>(&text).is_ok();
    let _ = programs::beginning(&text);
    let Ok(reply) = programs::read_line::<programs::protocol::Reply>(&text) else {
        return is_taken;
    };
    let _ = programs::protocol::name("name", reply.name);
    let _ = programs::protocol::size("context", reply.context);
    let request = |max_new_tokens| heterosis::model::Request {
        stop: vec!["\n".to_string()].into(),
        ..heterosis::model::Request::new(vec![1, 2, 3], max_new_tokens)
    };
    let text = heterosis::model::ScoreRequest {
        tokens: vec![1, 2, 3],
        from: 1,
    };
    for answer in reply.answers {
        let _ = programs::protocol::continued(answer.clone(), &[request(4), request(0)], &[2], 512);
        let _ = programs::protocol::scored(answer, &[text.clone(), text.clone()]);
    }
    is_taken
}

/// What travels between a search and its workers, both ways.
fn worker_seeds() -> Vec<Vec<u8>> {
    let kind = "{\"build\": \"00\", \"instruction_set\": \"avx2\", \"device\": \"cpu\", \"dtype\": \"f32\"}";
    let head = format!(
        "\"v\": {}, \"run\": \"0123456789abcdef\", \"plan\": \"00\"",
        workers::VERSION
    );
    let recipe = "merge_method: linear\nmodels: [{model: m, parameters: {weight: 1}}]\n";
    let recipe = recipe::read::parse(Path::new("r.yaml"), recipe).expect("a recipe");
    let recipe = serde_json::to_string(&recipe).expect("plain data");
    let seeds = [
        format!("{{{head}, \"name\": \"r\", \"over\": false}}"),
        format!(
            "{{{head}, \"token\": \"0a\", \"key\": \"0b\", \"id\": \"c0001\", \"weights\": \"0c\", \"recipe\": {recipe}, \"guarded\": true, \
             \"parts\": [{{\"task\": 0, \"split\": \"search\", \"items\": [0, 1]}}]}}"
        ),
        format!(
            "{{{head}, \"token\": \"0a\", \"key\": \"0b\", \"worker\": \"w\", \"kind\": {kind}, \"weights\": \"0c\", \"came\": {{\"answers\": \
             {{\"answers\": [{{\"task\": 0, \"split\": \"search\", \"item\": 3, \"kept\": {{\"out\": \"7\", \"finish\": \"eos\", \"tokens\": 3}}}}], \"merge_ms\": 1, \
             \"evaluation_ms\": 2}}}}}}"
        ),
        format!(
            "{{{head}, \"worker\": \"w\", \"host\": \"h\", \"device\": \"cuda:1\", \"kind\": {kind}, \"state\": {{\"left\": {{\"reason\": \
             \"so\"}}}}, \"answers\": 1, \"busy_ms\": 2, \"here_ms\": 3}}"
        ),
    ];
    seeds.map(String::into_bytes).to_vec()
}

fn worker(bytes: &[u8], _: &Path) -> bool {
    use workers::protocol::read;
    let ask = read::<workers::Ask>(bytes);
    if let Ok(ask) = &ask {
        let _ = Plan::new(&ask.work().recipe, small_parents());
    }
    let plan = workers::Plan::read(bytes);
    if let Ok(plan) = &plan {
        let _ = plan.tasks();
    }
    let others = [
        read::<workers::Here>(bytes).is_ok(),
        read::<workers::Tell>(bytes).is_ok(),
        read::<workers::Sign>(bytes).is_ok(),
    ];
    ask.is_ok() || plan.is_ok() || others.contains(&true)
}

/// What clients of the endpoint send.
fn request_seeds() -> Vec<Vec<u8>> {
    lines(&[
        "{\"model\": \"m\", \"prompt\": [\"a\", \"b\"], \"max_tokens\": 5, \"n\": 2, \"stop\": [\"\\n\"], \"temperature\": 0.7, \"top_p\": 0.9, \
         \"seed\": 3, \"logprobs\": 2, \"echo\": true, \"stream\": true, \"stream_options\": {\"include_usage\": true}}",
        "{\"model\": \"m\", \"prompt\": [[1, 2], [3]], \"max_tokens\": null, \"stop\": \"x\"}",
        "{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \
         \"text\": \"hi\"}]}], \"max_completion_tokens\": 5, \"logprobs\": true, \"top_logprobs\": 2}",
    ])
}

fn request(bytes: &[u8], _: &Path) -> bool {
    use serve::protocol::{Chat, Common, Completion};
    let sound = |common: &Common| {
        let _ = (common.able(), common.n(), common.stop(), common.sampling(7));
        let _ = common.max_tokens(16, 5, 128);
    };
    let completion = serde_json::from_slice::<Completion>(bytes);
    let chat = serde_json::from_slice::<Chat>(bytes);
    let is_taken = completion.is_ok() || chat.is_ok();
    if let Ok(completion) = completion {
        sound(&completion.common);
        let _ = completion.logprobs();
        let _ = completion.prompt.each();
    }
    if let Ok(chat) = chat {
        sound(&chat.common);
        let _ = chat.logprobs();
        let _ = chat.messages.iter().map(|m| m.text()).collect::<Vec<_>>();
    }
    is_taken
}

// ---- what a Hub answers ----

/// Between the answers of a Hub to what it is asked: the commit, the list of files, a file.
const NEXT_ANSWER: &[u8] = b"\n=====\n";

/// Where a seed names the server's own address, and the length of what follows.
const HOME: &str = "http://home";
const LENGTH: &str = "Content-Length: *";

fn hub_seeds() -> Vec<Vec<u8>> {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let head = format!("HTTP/1.1 200 OK\r\nETag: \"{commit}\"\r\nX-Repo-Commit: {commit}\r\n{LENGTH}");
    let info =
        format!("{head}\r\nContent-Type: application/json\r\n\r\n{{\"id\": \"fake/tiny\", \"sha\": \"{commit}\"}}");
    let listed = |name: &str, oid: &str| {
        format!("{{\"type\": \"file\", \"path\": \"{name}\", \"size\": 2, \"oid\": \"{oid}\"}}")
    };
    let large = format!(
        "{{\"type\": \"file\", \"path\": \"model.safetensors\", \"size\": 2, \"oid\": \"{commit}\", \"lfs\": {{\"oid\": \
         \"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\", \"size\": 2, \"pointerSize\": 134}}}}"
    );
    let list = [listed("config.json", commit), listed("tokenizer.json", "b"), large].join(", ");
    let link = format!("Link: <{HOME}/api/models/fake/tiny/tree/{commit}?cursor=2>; rel=\"next\"");
    let file = format!("{head}\r\nAccept-Ranges: bytes\r\nX-Linked-Size: 2\r\nX-Linked-Etag: \"b\"\r\n\r\n{{}}");
    let chunked = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: /blob\r\nX-Linked-Size: 2\r\n{LENGTH}\r\n\r\n");
    let refused =
        format!("HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\nX-Error-Message: no\r\n{LENGTH}\r\n\r\n{{}}");
    let conversation = |list: &str, file: &str| [info.as_str(), list, file].join("\n=====\n").into_bytes();
    let one_page = format!("{head}\r\n\r\n[{list}]");
    let two_pages = format!("{head}\r\n{link}\r\n\r\n[{list}]");
    vec![
        conversation(&one_page, &file),
        conversation(&two_pages, chunked),
        conversation(&one_page, &moved),
        conversation(&one_page, &refused),
    ]
}

/// A Hub on this machine that answers with what it was last given.
struct FakeHub {
    endpoint: String,
    says: Mutex<Vec<u8>>,
}

impl FakeHub {
    fn get() -> &'static Self {
        static HUB: LazyLock<Arc<FakeHub>> = LazyLock::new(|| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("this machine has a port left");
            let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
            let says = Mutex::default();
            let hub = Arc::new(FakeHub { endpoint, says });
            let answering = hub.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = answering.answer(stream); // whoever hangs up has its reasons
                }
            });
            hub
        });
        &HUB
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        lines.map_while(Result::ok).find(String::is_empty)?;
        let nth = if request.contains("/revision/") {
            0
        } else if request.contains("/tree/") {
            1
        } else {
            2
        };
        let says = self.says.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.write_all(&part(&says, nth, &self.endpoint)).ok()
    }
}

/// One answer of a conversation, with the address and the length that it asks for filled in.
fn part(says: &[u8], nth: usize, endpoint: &str) -> Vec<u8> {
    let mut rest = says;
    for _ in 0..nth {
        let at = rest.windows(NEXT_ANSWER.len()).position(|w| w == NEXT_ANSWER);
        rest = at.map_or(&[], |at| &rest[at + NEXT_ANSWER.len()..]);
    }
    let end = rest.windows(NEXT_ANSWER.len()).position(|w| w == NEXT_ANSWER);
    let answer = &rest[..end.unwrap_or(rest.len())];
    let head_end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    let (head, body) = answer.split_at(head_end);
    let length = format!("Content-Length: {}", body.len());
    let text: String = head.iter().map(|b| char::from(*b)).collect();
    let text = text.replace(HOME, endpoint).replace(LENGTH, &length);
    // Nobody else is to be asked for anything.
    let text = match text.to_ascii_lowercase().contains("location:") {
        true => text.replace("//", "/"),
        false => text,
    };
    text.chars().map(|c| c as u8).chain(body.iter().copied()).collect()
}

/// A download from a Hub that says anything; it writes into the cache and nowhere else.
fn hub(bytes: &[u8], dir: &Path) -> bool {
    let hub = FakeHub::get();
    *hub.says.lock().unwrap_or_else(PoisonError::into_inner) = bytes.to_vec();
    let cache = dir.join("deep/down/hub");
    let options = HubOptions {
        endpoint: Some(hub.endpoint.clone()),
        token: Some("secret".into()),
        cache_dir: Some(cache.clone()),
        retry_pause: Some(Duration::ZERO),
        ..HubOptions::default()
    };
    let is_taken = match Checkpoint::open_model("hf:fake/tiny", &options) {
        Ok(_) => true,
        // The list was taken and the files came, which are no model.
        Err(_) => cache.join("models--fake--tiny").exists(),
    };
    for (place, only) in [
        (dir, "deep"),
        (&dir.join("deep"), "down"),
        (&dir.join("deep/down"), "hub"),
        (&cache, "models--fake--tiny"),
    ] {
        let found = fs::read_dir(place).into_iter().flatten().flatten();
        let others: Vec<_> = found.map(|e| e.file_name()).filter(|name| name != only).collect();
        assert!(others.is_empty(), "{others:?} in {}", place.display());
    }
    let _ = fs::remove_dir_all(&cache);
    is_taken
}
