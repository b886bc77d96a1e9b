//! Engines that are programs: a scripted one that misbehaves, transformers beside ours, and the test that every engine has to
//! pass.
//!
//! The Python is `python3`, or what `HETEROSIS_PYTHON` names. Tests that need torch and transformers, or vLLM and a GPU, are run by
//! whoever has them: `cargo test --test it -- --ignored engines`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use heterosis::{
    eval::Answerer,
    model::{DType, Finish, Request, ScoreRequest},
    models::{Parents, verbatim},
    recipe::Recipe,
};
use serde_json::Value;

use super::program::{good, heterosis, root, space_over_family, story, workers};

#[path = "../../examples/shared/a_b_a.rs"]
mod a_b_a;

pub fn python() -> String {
    std::env::var("HETEROSIS_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Whether there is a Python; under CI there has to be.
pub fn has_python() -> bool {
    let version = Command::new(python()).arg("--version").stdout(Stdio::null()).status();
    let found = version.is_ok_and(|status| status.success());
    let must = ["CI", "HETEROSIS_REQUIRE_SERVERS"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(
        found || !must,
        "there is no {}; HETEROSIS_PYTHON names another",
        python()
    );
    if !found {
        eprintln!("SKIPPED: there is no {}; HETEROSIS_PYTHON names another", python());
    }
    found
}

fn engine(script: &str) -> PathBuf {
    root().join("engines").join(script)
}

fn arg(path: &Path) -> String {
    path.display().to_string()
}

/// A search that an engine answers: the embedded family, in Spanish; with what the engine is told.
fn space(dir: &Path, engine: &str, search: &str) -> PathBuf {
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  engine: {engine}
  tasks: [{{task: {0}/evals/arith-es-solutions.yaml, split: search, limit: 12}}, {{task: {0}/evals/arith-es.yaml, split: search, limit: 6, max_new_tokens: 24}}]
search: {search}
final:
  finalists: 1
  selection: {{limit: 3}}
  test: {{limit: 3}}
  held_out: [{{task: {0}/evals/arith-en.yaml, limit: 2, max_new_tokens: 24}}]
",
        root().display()
    );
    space_over_family(dir, &rest)
}

fn fake(more: &str) -> String {
    let script = root().join("tests/data/engines/fake_engine.py");
    format!(
        "{{command: [{}, {}{more}], timeout: 60, patience: 0.2}}",
        python(),
        script.display()
    )
}

const SEARCH: &str = "{optimizer: cma-es, evals: 6, population: 3, seed: 5, racing: {rungs: [4, 8]}, learn: off}";

fn run(args: &[&str]) -> Output {
    heterosis(args).output().unwrap()
}

fn failed(args: &[&str], code: i32, what: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for word in what {
        assert!(stderr.contains(word), "{args:?}: '{word}' is not in: {stderr}");
    }
}

fn records(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("journal.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn has_event(run: &Path, event: &str) -> bool {
    records(run).iter().any(|record| record["event"] == event)
}

/// Two runs whose engines were told different things have the same story, but for that and for their stops.
fn same_story(run: &Path, other: &Path) {
    let told = |run: &Path| {
        let mut story = story(run);
        story.retain(|record| record["event"] != "run_failed");
        for record in &mut story {
            for of_space in ["space_digest", "space"] {
                record.as_object_mut().unwrap().remove(of_space);
            }
        }
        story
    };
    let (run, other) = (told(run), told(other));
    let apart = run.iter().zip(&other).position(|(a, b)| a != b);
    assert_eq!(apart.map(|at| (&run[at], &other[at])), None);
    assert_eq!(run.len(), other.len());
}

/// Death in the middle of a batch was a verdict on whoever was asked, or cost the run.
#[test]
fn an_engine_that_dies_is_started_again_and_one_that_is_broken_stops_the_run() {
    if !has_python() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let search = |name: &str, more: &str| {
        let dir = tmp.path().join(name);
        fs::create_dir(&dir).unwrap();
        let more = more.replace("DIR", &arg(&dir));
        (space(&dir, &fake(&more), SEARCH), dir.join("run"), dir.join("mark"))
    };
    let (file, calm, _) = search("calm", "");
    good(&["search", &arg(&file), "--run", &arg(&calm)]);
    assert_eq!(records(&calm)[0]["engine"], "fake (1) on cpu");
    let log = fs::read_to_string(calm.join("engine.log")).unwrap();
    assert!(
        log.contains("warming up") && log.contains("printed, and no reply"),
        "{log}"
    );
    assert!(has_event(&calm, "run_done") && !has_event(&calm, "candidate_failed"));

    // Once, in the middle of a batch.
    let (file, run_dir, mark) = search("once", ", --fault, dies, --from, '9', --once, DIR/mark");
    good(&["search", &arg(&file), "--run", &arg(&run_dir)]);
    assert!(mark.exists(), "it died");
    same_story(&run_dir, &calm);

    // For good: nobody is blamed, and a mended engine goes on.
    for fault in ["dies", "twice"] {
        let more = format!(", --fault, {fault}, --from, '12', --count, DIR/count, --until, DIR/mark");
        let (file, run_dir, mark) = search(fault, &more);
        failed(&["search", &arg(&file), "--run", &arg(&run_dir)], 1, &["the engine"]);
        assert!(!has_event(&run_dir, "candidate_failed"), "{fault}: nobody is blamed");
        assert!(has_event(&run_dir, "candidate_scored"));
        fs::write(mark, "").unwrap();
        // Of a directory that was handed to somebody the program is shown first.
        let given = run_dir.with_extension("given");
        assert!(
            Command::new("cp")
                .arg("-r")
                .args([&run_dir, &given])
                .status()
                .unwrap()
                .success()
        );
        failed(&["resume", &arg(&given)], 2, &["--yes", "fake_engine.py"]);
        good(&["resume", &arg(&run_dir)]);
        same_story(&run_dir, &calm);
    }
}

#[test]
fn another_version_of_an_engine_is_another_engine() {
    if !has_python() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (run_dir, version) = (tmp.path().join("run"), tmp.path().join("version"));
    fs::write(&version, "1").unwrap();
    // Its command stays, and what it says of itself does not.
    let script = root().join("tests/data/engines/fake_engine.py");
    let shell = format!(
        "exec {} {} --version $(cat {})",
        python(),
        script.display(),
        version.display()
    );
    let file = space(tmp.path(), &format!("{{command: [sh, -c, '{shell}']}}"), SEARCH);
    let checked = good(&["check", &arg(&file)]);
    assert!(checked.contains("engine fake (1) on cpu answers"), "{checked}");
    good(&["search", &arg(&file), "--run", &arg(&run_dir), "--evals", "3"]);
    let journal = fs::read_to_string(run_dir.join("journal.jsonl")).unwrap();
    let half: Vec<&str> = journal.lines().take(12).collect();
    fs::write(run_dir.join("journal.jsonl"), half.join("\n") + "\n").unwrap();
    fs::write(&version, "2").unwrap();
    failed(
        &["resume", &arg(&run_dir)],
        2,
        &["the engine that answers, or its version"],
    );
    fs::write(&version, "1").unwrap();
    good(&["resume", &arg(&run_dir)]);
    // What the run's engine answered is compared with what the run's engine answers.
    let simplify = ["simplify", &arg(&run_dir), "--limit", "8", "--json"];
    let simplified: Value = serde_json::from_str(&good(&simplify)).unwrap();
    assert!(simplified["questions"]["deciding"].as_u64() > Some(2), "{simplified}");
    fs::write(&version, "2").unwrap();
    failed(&simplify, 2, &["the engine that answers, or its version"]);
    fs::write(&version, "1").unwrap();
    // Somebody else's run: its program is shown, and not started.
    let elsewhere = tmp.path().join("elsewhere");
    fs::rename(&run_dir, &elsewhere).unwrap();
    failed(&["simplify", &arg(&elsewhere)], 2, &["--yes", "fake_engine.py"]);
}

#[test]
fn what_cannot_be_an_engine_is_refused_before_there_is_a_run() {
    let tmp = tempfile::tempdir().unwrap();
    let run_dir = tmp.path().join("run");
    let refuses = |engine: &str, what: &[&str]| {
        let file = space(tmp.path(), engine, SEARCH);
        failed(&["search", &arg(&file), "--run", &arg(&run_dir)], 2, what);
        assert!(!run_dir.exists(), "{engine}");
    };
    refuses(
        "{command: [/nowhere/engine]}",
        &["/nowhere/engine", "cannot be started"],
    );
    let say = |name: &str, more: &str| {
        let reply = tmp.path().join(name);
        fs::write(
            &reply,
            format!("{{\"id\":1,\"done\":true,\"name\":\"old\",\"version\":\"1\",\"device\":\"cpu\",{more}}}\n"),
        )
        .unwrap();
        format!(
            "{{command: [sh, -c, 'read -r l; cat {}; cat > /dev/null'], timeout: 20}}",
            reply.display()
        )
    };
    refuses(
        &say("version", "\"protocol\":2"),
        &["version 2 of the protocol", "docs/engines.md"],
    );
    let no_scores = say("scores", "\"protocol\":1,\"dtypes\":[\"f32\"],\"can\":[\"generate\"]");
    refuses(&no_scores, &["cannot score"]);
    refuses(
        &say(
            "dtypes",
            "\"protocol\":1,\"dtypes\":[\"bf16\"],\"can\":[\"generate\",\"score\"]",
        ),
        &["no weights in f32", "dtype below fitness.engine"],
    );
    refuses(
        "{command: [sh, -c, 'sleep 60'], timeout: 0.5}",
        &["said nothing for 0.5 s"],
    );
    refuses("{command: [x], timeuot: 3}", &["did you mean 'timeout'?"]);
    refuses("{command: [x], dtype: int8}", &["fitness.engine.dtype", "int8"]);
}

/// What the parents and a merge of them answer: texts, and likelihoods.
fn answers(
    evaluator: &mut heterosis::search::MergeEvaluator<'_>,
    recipe: &Recipe,
) -> (Vec<(String, Finish)>, Vec<f64>) {
    evaluator.merge(recipe).unwrap();
    let engine: &mut dyn Answerer = evaluator.answerer().unwrap();
    let rows = fs::read_to_string(root().join("evals/data/arith-es-search.jsonl")).unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .take(24)
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let prompts: Vec<String> = rows
        .iter()
        .map(|row| format!("Q: {} A:", row["question"].as_str().unwrap()))
        .collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let requests = engine.encode(&prompts).unwrap().into_iter().map(|prompt| Request {
        stop: vec!["Q:".to_string(), "####".to_string()].into(),
        ..Request::new(prompt, 32)
    });
    let given = engine.generate(&requests.collect::<Vec<_>>(), &mut |_| {}).unwrap();
    let whole: Vec<String> = rows
        .iter()
        .zip(&prompts)
        .map(|(row, prompt)| format!("{prompt} {}", row["answer"].as_str().unwrap()))
        .collect();
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    let (short, long) = (engine.encode(&prompts).unwrap(), engine.encode(&whole).unwrap());
    let texts = short.iter().zip(long).map(|(short, tokens)| ScoreRequest {
        tokens,
        from: short.len(),
    });
    let scores = engine.score(&texts.collect::<Vec<_>>(), &mut |_| {}).unwrap();
    (
        given.into_iter().map(|given| (given.text, given.finish)).collect(),
        scores
            .into_iter()
            .map(|score| score.log_likelihood / score.tokens as f64)
            .collect(),
    )
}

fn family() -> Parents {
    let mut parents = Parents::default();
    for (name, dir) in [
        ("base", "tiny-base"),
        ("maths", "tiny-maths-en"),
        ("spanish", "tiny-spanish"),
    ] {
        let word = root().join("models").join(dir).display().to_string();
        heterosis::models::add(&mut parents, name, &word, &heterosis::checkpoint::HubOptions::default()).unwrap();
    }
    parents
}

fn transformers(more: &[&str]) -> Vec<String> {
    let script = engine("transformers_engine.py").display().to_string();
    // Several threads wait for each other by spinning, which takes a busy machine from everybody else.
    let usual = ["--device", "cpu", "--threads", "1"];
    let words = usual.iter().chain(more).map(|word| word.to_string());
    [python(), script].into_iter().chain(words).collect()
}

#[test]
#[ignore = "needs torch and transformers"]
fn transformers_answers_as_our_own_engine_does() {
    let parents = family();
    let text = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: maths, parameters: {weight: 0.7}}, {model: spanish, parameters: {weight: 0.8}}]\n";
    let merge = heterosis::recipe::read::parse(Path::new("r.yaml"), text).unwrap();
    let mut ours = a_b_a::evaluator(&parents, None, DType::F32).unwrap();
    for batch in ["1", "7"] {
        let mut theirs = a_b_a::evaluator(&parents, Some(&transformers(&["--batch", batch])), DType::F32).unwrap();
        for recipe in [verbatim("maths"), merge.clone(), verbatim("spanish")] {
            let (written, likely) = answers(&mut ours, &recipe);
            let (also_written, also_likely) = answers(&mut theirs, &recipe);
            assert!(written.iter().any(|(text, _)| text.len() > 20), "{written:?}");
            assert_eq!(written, also_written, "batch {batch}");
            let apart = likely.iter().zip(&also_likely).map(|(a, b)| (a - b).abs());
            let most = apart.fold(0.0, f64::max);
            assert!(most < 1e-4, "batch {batch}: {most}");
        }
    }
}

#[test]
#[ignore = "needs torch and transformers"]
fn a_search_that_transformers_answers_scores_like_one_that_we_answer() {
    let tmp = tempfile::tempdir().unwrap();
    let (ours, theirs) = (tmp.path().join("ours"), tmp.path().join("theirs"));
    // With learning, whose gradient stays with our own twin, and its texts with our own tokenizer.
    let search =
        "{optimizer: cma-es, evals: 3, population: 2, seed: 5, learn: {steps: 2, batch: 8, questions: 16, rounds: 1}}";
    let program = format!("{{command: [{}], dtype: f32}}", transformers(&[]).join(", "));
    let file = space(tmp.path(), &program, search);
    good(&["search", &arg(&file), "--run", &arg(&theirs)]);
    let text = fs::read_to_string(&file).unwrap();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("  engine:")).collect();
    fs::write(&file, text.join("\n")).unwrap();
    good(&["search", &arg(&file), "--run", &arg(&ours), "--dtype", "f32"]);
    let scores = |run: &Path| -> Vec<(String, f64)> {
        let scored = records(run)
            .into_iter()
            .filter(|record| record["event"] == "candidate_scored");
        scored
            .map(|record| {
                (
                    record["id"].as_str().unwrap().to_string(),
                    record["fitness"].as_f64().unwrap(),
                )
            })
            .collect()
    };
    let (ours, theirs) = (scores(&ours), scores(&theirs));
    assert!(
        ours.len() >= 9 && ours.iter().any(|(id, _)| id.starts_with("learned")),
        "{ours:?}"
    );
    assert_eq!(ours.len(), theirs.len());
    for ((id, a), (also, b)) in ours.iter().zip(&theirs) {
        assert!(id == also && (a - b).abs() < 1e-3, "{id} {a}, {also} {b}");
    }
}

/// Three random models of a family, with the tokenizer of the embedded one.
fn opt_family(dir: &Path) {
    let text = "import shutil, sys, torch, transformers
config = transformers.OPTConfig(vocab_size=234, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
    word_embed_proj_dim=32, max_position_embeddings=512, bos_token_id=0, pad_token_id=0, eos_token_id=1)
for seed, name in enumerate(['base', 'left', 'right']):
    torch.manual_seed(seed)
    out = f'{sys.argv[1]}/{name}'
    transformers.OPTForCausalLM(config).save_pretrained(out)
    for file in ['tokenizer.json', 'tokenizer_config.json']:
        shutil.copy(f'{sys.argv[2]}/{file}', out)
";
    let made = Command::new(python())
        .args(["-c", text])
        .args([dir, &root().join("models/tiny-base")])
        .status();
    assert!(made.unwrap().success());
}

/// The decoder had to know a family before its merges could be searched by tasks.
#[test]
#[ignore = "needs torch and transformers"]
fn a_family_that_nobody_here_decodes_is_searched_through_an_engine() {
    let tmp = tempfile::tempdir().unwrap();
    opt_family(tmp.path());
    let (run_dir, file, out) = (
        tmp.path().join("run"),
        tmp.path().join("space.yaml"),
        tmp.path().join("child"),
    );
    let program = transformers(&[]).join(", ");
    let text = format!(
        "name: opt
models: {{base: base, left: left, right: right}}
base: base
parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  engine: {{command: [{program}]}}
  guard: {{perplexity_ratio: 100}}
  tasks: [{{task: {0}/evals/arith-es-solutions.yaml, split: search, limit: 10}}, {{task: {0}/evals/arith-es.yaml, split: search, limit: 10, max_new_tokens: 4}}]
search: {{optimizer: cma-es, evals: 3, population: 2, seed: 5, learn: {{steps: 2, batch: 8, questions: 16}}}}
final: {{finalists: 1, selection: {{limit: 3}}, test: {{limit: 3}}}}
",
        root().display()
    );
    fs::write(&file, &text).unwrap();
    good(&["search", &arg(&file), "--run", &arg(&run_dir)]);
    assert!(has_event(&run_dir, "run_done") && !has_event(&run_dir, "candidate_failed"));
    let learned = records(&run_dir)
        .into_iter()
        .find(|record| record["event"] == "learned")
        .unwrap();
    assert!(
        learned["failed"].as_str().unwrap().contains("model_type \"opt\""),
        "{learned}"
    );
    good(&["export", &arg(&run_dir), "best", &arg(&out)]);
    good(&["verify", &arg(&out)]);
    // Without an engine our decoder is asked, and says so; layer paths take a family that it knows.
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("  engine:")).collect();
    fs::write(&file, without.join("\n")).unwrap();
    failed(
        &["search", &arg(&file), "--run", &arg(&tmp.path().join("no"))],
        2,
        &["opt", "fitness: engine:"],
    );
    let paths = "data_flow_space: {sources: [left, right], max_layers: 4}";
    let paths: String = text.replace(
        "parameter_space: {method: task_arithmetic, genes: {weight: [0.0, 1.5]}}",
        paths,
    );
    fs::write(&file, paths.replace(", learn: {steps: 2, batch: 8, questions: 16}", "")).unwrap();
    failed(
        &["search", &arg(&file), "--run", &arg(&tmp.path().join("no"))],
        2,
        &["opt"],
    );
}

fn a_and_b() -> [String; 2] {
    ["tiny-maths-en", "tiny-spanish"].map(|name| root().join("models").join(name).display().to_string())
}

/// Keys and values of a prefix that outlived their weights gave B's answers to A, in engine after engine.
#[test]
fn our_engine_forgets_what_other_weights_computed() {
    let [a, b] = a_and_b();
    let ours = a_b_a::check(&a, &b, None, DType::F32).unwrap();
    assert_eq!(ours.problem(), None);
}

#[test]
#[ignore = "needs torch and transformers"]
fn transformers_forgets_what_other_weights_computed() {
    let [a, b] = a_and_b();
    let ours = a_b_a::check(&a, &b, None, DType::F32).unwrap();
    let theirs = a_b_a::check(&a, &b, Some(&transformers(&["--batch", "48"])), DType::F32).unwrap();
    assert_eq!(theirs.problem(), None, "{}", theirs.engine);
    assert_eq!(theirs.first.together, ours.first.together);
}

#[test]
#[ignore = "needs vLLM and a GPU"]
fn vllm_forgets_what_other_weights_computed() {
    let [a, b] = a_and_b();
    let script = engine("vllm_engine.py").display().to_string();
    let theirs = a_b_a::check(&a, &b, Some(&[python(), script, "--enforce-eager".into()]), DType::Bf16).unwrap();
    assert_eq!(theirs.problem(), None, "{}", theirs.engine);
}

#[test]
fn the_engines_that_are_shipped_compile() {
    if !has_python() {
        return;
    }
    let mut scripts = 0;
    for entry in fs::read_dir(root().join("engines")).unwrap() {
        let script = entry.unwrap().path();
        if script.extension().is_some_and(|e| e == "py") {
            scripts += 1;
            let text = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), sys.argv[1], 'exec')";
            let compiled = Command::new(python()).args(["-c", text]).arg(&script).status().unwrap();
            assert!(compiled.success(), "{}", script.display());
        }
    }
    assert_eq!(scripts, 3);
}

/// Eight cards with an engine each, and one of them asked at a time.
#[test]
fn copies_of_an_engine_write_the_journal_of_one() {
    if !has_python() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let search = |name: &str, engine: &str| {
        let dir = tmp.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = space(&dir, engine, SEARCH);
        good(&["search", &arg(&file), "--run", &arg(&dir.join("run"))]);
        dir.join("run")
    };
    let one = search("one", &fake(""));
    let three = search("three", &fake("").replace("timeout: 60", "timeout: 60, workers: 3"));
    same_story(&three, &one);
    let hands = workers(&three);
    assert_eq!(hands.len(), 3, "whose hands they are");
    assert!(hands.values().all(|answers| *answers > 0), "{hands:?}");

    // Each is told its number, and they have to be alike.
    let script = root().join("tests/data/engines/fake_engine.py");
    let shell = format!(
        "exec {} {} --version v${{HETEROSIS_WORKER:-0}}",
        python(),
        script.display()
    );
    let file = space(
        tmp.path(),
        &format!("{{command: [sh, -c, '{shell}'], workers: 2}}"),
        SEARCH,
    );
    let run = tmp.path().join("differs");
    failed(
        &["search", &arg(&file), "--run", &arg(&run)],
        2,
        &["fake (v0)", "fake (v1)"],
    );
}
