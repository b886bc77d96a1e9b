//! The program as a user meets it: the built binary, the embedded models, files and exit codes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

#[path = "../../examples/shared/story.rs"]
mod story;

use story::story_of;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn heterosis(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heterosis"));
    command
        .args(args)
        .current_dir(root())
        .stdin(Stdio::null())
        .env("NO_COLOR", "1")
        // Each run answers for itself.
        .env("HETEROSIS_CACHE", "off")
        // Not the developer's own.
        .env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

fn run(args: &[&str]) -> Output {
    heterosis(args).output().unwrap()
}

/// Runs a command that must succeed; gives its stdout.
pub fn good(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must be refused: exit code 2, one paragraph that names `what`.
pub fn refused(args: &[&str], what: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    for word in what {
        assert!(stderr.contains(word), "{args:?}: '{word}' is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// Copies the files of a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A search space over the embedded family, in a directory of its own.
pub fn space_over_family(dir: &Path, rest: &str) -> PathBuf {
    let file = dir.join("space.yaml");
    let text = format!(
        "name: small
models: {{base: {0}/tiny-base, maths: {0}/tiny-maths-en, spanish: {0}/tiny-spanish}}
base: base
{rest}",
        root().join("models").display()
    );
    fs::write(&file, text).unwrap();
    file
}

fn space(dir: &Path, evals: usize) -> PathBuf {
    let rest = format!(
        "parameter_space:
  method: task_arithmetic
  layer_groups: 2
  genes:
    weight: [0.0, 1.5]
fitness:
  tasks: [{{task: {0}/evals/arith-es.yaml, split: search, limit: 24}}]
  guard: {{perplexity_ratio: 10.0}}
search: {{optimizer: cma-es, evals: {evals}, seed: 5}}
final:
  finalists: 2
  selection: {{limit: 24}}
  test: {{limit: 40}}
  held_out: [{{task: {0}/evals/arith-en.yaml, limit: 20}}]
",
        root().display()
    );
    space_over_family(dir, &rest)
}

/// Journal lines that must not depend on interruptions, without what the clock says.
pub fn story(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("journal.jsonl")).unwrap();
    story_of(text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

/// Whose hands a run had, and how many questions each had answered when it was last told of.
pub fn workers(run: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(run.join("journal.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told = records.filter(|record| record["event"] == "worker");
    told.map(|worker| {
        (
            worker["worker"].as_str().unwrap().into(),
            worker["answers"].as_u64().unwrap(),
        )
    })
    .collect()
}

/// Candidates in a journal that may not be there yet, or end in half a line.
pub fn evaluations(run: &Path) -> usize {
    let journal = fs::read(run.join("journal.jsonl")).unwrap_or_default();
    let scored = "\"event\":\"candidate_scored\"";
    String::from_utf8_lossy(&journal).matches(scored).count()
}

/// A search that goes on behind one's back.
pub fn begin(args: &[&str]) -> Child {
    let silent = || Stdio::null();
    heterosis(args).stdout(silent()).stderr(silent()).spawn().unwrap()
}

/// Waits until a run has so many candidates, or is over.
pub fn wait_for(candidates: usize, search: &mut Child, run: &Path) {
    let patience = Instant::now();
    while evaluations(run) < candidates && search.try_wait().unwrap().is_none() {
        assert!(
            patience.elapsed() < Duration::from_secs(300),
            "the search does not get on"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_search_survives_kill_and_ends_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space(tmp.path(), 16);
    let (whole, killed) = (tmp.path().join("whole"), tmp.path().join("killed"));
    let arg = |p: &Path| p.display().to_string();
    let printed = good(&["search", &arg(&file), "--run", &arg(&whole)]);
    assert!(!printed.contains('\u{1b}'), "no escape codes at a pipe");
    assert!(
        printed.contains("heterosis export"),
        "the summary says what to do next: {printed}"
    );

    let mut child = begin(&["search", &arg(&file), "--run", &arg(&killed)]);
    wait_for(7, &mut child, &killed);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    // A cache that is damaged as well must not matter.
    let _ = fs::remove_dir_all(killed.join("cache.sled"));
    good(&["resume", &arg(&killed)]);
    assert_eq!(story(&killed), story(&whole));
    let best = |run: &Path| fs::read_to_string(run.join("best.yaml")).unwrap();
    assert_eq!(best(&killed), best(&whole));

    let status: Status = serde_json::from_str(&good(&["status", &arg(&whole), "--json"])).unwrap();
    assert_eq!(
        (status.schema_version, status.state.as_str(), status.evals),
        (1, "done", 16)
    );
    assert!(status.held_out.is_some() && status.parents.len() == 3);
    assert_eq!(
        (status.normalized.len(), status.held_out_tasks.len()),
        (1, 4),
        "child and three parents"
    );
    let card_of_run = good(&["status", &arg(&whole)]);
    assert!(
        card_of_run.contains("of the best expert") && card_of_run.contains("held out, arith-en"),
        "{card_of_run}"
    );

    // What is exported is what was scored: the export opens its files again and repeats answers of the journal.
    let out = tmp.path().join("export");
    good(&["export", &arg(&whole), "best", &arg(&out)]);
    good(&["verify", &arg(&out)]);
    let merged = tmp.path().join("merged");
    good(&["merge", &arg(&whole.join("best.yaml")), &arg(&merged)]);
    let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(&out) == bytes(&merged), "best.yaml merges to the exported bytes");
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.starts_with("---\n") && card.contains("base_model_relation: merge"),
        "{card}"
    );
    good(&["report", &arg(&whole)]);
    assert!(whole.join("report/report.html").exists());

    // One flipped bit in the weights is found.
    let mut weights = bytes(&out);
    let last = weights.len() - 1;
    weights[last] ^= 1;
    fs::write(out.join("model.safetensors"), weights).unwrap();
    assert_eq!(run(&["verify", &arg(&out)]).status.code(), Some(1));
}

/// An export repeated the journal's answers in f32 whatever the run had computed in, and could refuse a run in bf16.
#[test]
fn what_was_computed_in_bf16_is_repeated_in_bf16() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space(tmp.path(), 4);
    let (run_dir, out) = (tmp.path().join("run"), tmp.path().join("export"));
    let arg = |p: &Path| p.display().to_string();
    good(&["search", &arg(&file), "--run", &arg(&run_dir), "--dtype", "bf16"]);
    let refused = run(&["resume", &arg(&run_dir), "--dtype", "f32"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("begun in bf16"));

    good(&["export", &arg(&run_dir), "best", &arg(&out)]);
    let file = out.join("provenance.json");
    let mut provenance: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        provenance["computed"],
        serde_json::json!({"device": "cpu", "dtype": "bf16"})
    );
    good(&["verify", &arg(&out)]);

    // Another token than the child's is found, unless the two are as good as equal.
    let token = &mut provenance["first_answers"][0]["token_ids"][0];
    *token = serde_json::json!((token.as_u64().unwrap() + 1) % 64);
    fs::write(&file, provenance.to_string()).unwrap();
    let other = run(&["verify", &arg(&out)]);
    assert_eq!(other.status.code(), Some(1));
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains("nats the likelier"), "{said}");
}

/// An independent reader of `status --json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Status {
    schema_version: u32,
    run: String,
    name: String,
    state: String,
    evals: u64,
    answers: u64,
    elapsed_ms: u64,
    best: Option<StatusBest>,
    parents: Vec<StatusParent>,
    held_out: Option<Value>,
    normalized: Vec<Value>,
    held_out_tasks: Vec<Value>,
    #[serde(default)]
    changes: Vec<Value>,
    questions: Option<Value>,
    #[serde(default)]
    workers: Vec<Value>,
    #[serde(default)]
    told: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct StatusBest {
    id: String,
    fitness: f64,
    stderr: f64,
    #[serde(default)]
    selection: Option<Value>,
    recipe: Value,
    file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct StatusParent {
    model: String,
    fitness: f64,
    stderr: f64,
    #[serde(default)]
    selection: Option<Value>,
}

#[test]
fn json_documents_have_the_fields_that_scripts_rely_on() {
    let tmp = tempfile::tempdir().unwrap();
    let prompts = tmp.path().join("prompts.jsonl");
    fs::write(
        &prompts,
        "{\"prompt\": \"Q: Tom has 5 apples .\"}\n{\"prompt\": \"Q:\"}\n",
    )
    .unwrap();
    let text = tmp.path().join("text.txt");
    fs::write(&text, "Tom has 5 apples . Tom buys 3 more apples .").unwrap();
    let (prompts, text) = (prompts.display().to_string(), text.display().to_string());
    let document = |args: &[&str]| -> Value {
        let printed = good(args);
        assert!(printed.starts_with("{\"schema_version\":1,"), "{printed}");
        assert_eq!(printed.lines().count(), 1);
        serde_json::from_str(&printed).unwrap()
    };
    let generated = document(&[
        "generate",
        "models/tiny-base",
        "--prompts",
        &prompts,
        "--max-new-tokens",
        "5",
        "--json",
    ]);
    let outputs = generated["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 2);
    for output in outputs {
        assert!(output["prompt"].is_string() && output["text"].is_string());
        assert!(output["token_ids"].as_array().unwrap().len() <= 5);
        assert!(["eos", "length", "stop"].contains(&output["finish"].as_str().unwrap()));
    }
    let perplexity = document(&["perplexity", "models/tiny-base", "--text", &text, "--json"]);
    let nll = perplexity["nll_per_token"].as_f64().unwrap();
    assert!((perplexity["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());
    let task = [
        "--task",
        "evals/arith-es.yaml",
        "--split",
        "search",
        "--limit",
        "8",
        "--json",
    ];
    let scored = document(&[&["eval", "models/tiny-maths-en"], &task[..]].concat());
    let first = &scored["tasks"][0];
    assert_eq!(first["n"], 8);
    let scores = first["scores"].as_object().unwrap();
    assert!(
        scores.values().all(|s| s["value"].is_f64() && s["stderr"].is_f64()),
        "{scored}"
    );
    assert!(scored["elapsed_ms"].is_u64() && scored["generated_tokens"].is_u64() && scored["model"].is_string());
    document(&["methods", "--json"]);
    document(&["families", "--json"]);
    document(&["tasks", "--json"]);
}

/// `eval --answers` and `rescore` agree: scoring is apart from answering.
#[test]
fn stored_answers_are_scored_again_to_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let answers = tmp.path().join("answers.jsonl").display().to_string();
    let task = ["--task", "evals/arith-es.yaml"];
    let eval = [
        "eval",
        "models/tiny-maths-en",
        "--split",
        "search",
        "--limit",
        "20",
        "--answers",
        &answers,
        "--json",
    ];
    let first: Value = serde_json::from_str(&good(&[&eval[..], &task].concat())).unwrap();
    let again: Value = serde_json::from_str(&good(&[&["rescore", &answers, "--json"], &task[..]].concat())).unwrap();
    assert_eq!(first["tasks"], again["tasks"]);
}

/// `rescore` judged what was answered with `--think` as if nobody had thought: '[invalid]' became '27'. So it was with every
/// other word of `eval` that makes another verdict.
#[test]
fn stored_answers_know_how_they_were_judged() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name).display().to_string();
    for (i, way) in [
        &["--think"][..],
        &["--profile", "fitness"],
        &["--samples", "2", "--score", "pass@2", "--temperature", "1"],
    ]
    .into_iter()
    .enumerate()
    {
        let (answers, copy) = (at(&format!("{i}.jsonl")), at(&format!("{i}-again.jsonl")));
        let eval = [
            "eval",
            "models/tiny-maths-en",
            "--task",
            "evals/arith-en.yaml",
            "--split",
            "search",
            "--limit",
            "12",
            "--json",
        ];
        let first: Value = serde_json::from_str(&good(&[&eval[..], way, &["--answers", &answers]].concat())).unwrap();
        let task = ["--task", "evals/arith-en.yaml", "--json"];
        let rescore = [&["rescore", &answers], &task[..], &["--answers", &copy]].concat();
        for rescored in [rescore, [&["rescore", &copy], &task[..]].concat()] {
            let again: Value = serde_json::from_str(&good(&rescored)).unwrap();
            assert_eq!(first["tasks"], again["tasks"], "{way:?}");
            assert_eq!(first["profile"], again["profile"], "{way:?}");
        }
    }
    // The word goes before what stands in the file, and a line that says nothing is judged as ever.
    let fitness = at("1.jsonl");
    let task = ["--task", "evals/arith-en.yaml", "--json"];
    let parity = [&["rescore", &fitness, "--profile", "parity"], &task[..]].concat();
    let parity: Value = serde_json::from_str(&good(&parity)).unwrap();
    assert_eq!(parity["profile"], "parity");
    std::fs::write(&fitness, "{\"output\": \"#### 4\", \"gold\": \"#### 4\"}\n").unwrap();
    let old: Value = serde_json::from_str(&good(&[&["rescore", &fitness], &task[..]].concat())).unwrap();
    assert_eq!(old["profile"], "parity");
}

/// `eval --answers FILE` and `rescore --answers FILE` wrote over whatever FILE was: a task, the journal of a run.
#[test]
fn answers_replace_answers_only() {
    fn eval(to: &str) -> Vec<&str> {
        let model = ["eval", "models/tiny-base", "--split", "search", "--limit", "2"];
        [&model[..], &["--task", "evals/arith-en.yaml", "--answers", to]].concat()
    }
    fn rescore<'a>(from: &'a str, to: &'a str) -> Vec<&'a str> {
        vec!["rescore", from, "--task", "evals/arith-en.yaml", "--answers", to]
    }
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name).display().to_string();
    let (answers, again) = (at("answers.jsonl"), at("again.jsonl"));
    std::fs::write(&answers, "").unwrap();
    good(&eval(&answers));
    good(&eval(&answers));
    // What it leaves out of the file that it reads would be gone.
    refused(&rescore(&answers, &answers), &["that is the file that is read"]);
    good(&rescore(&answers, &again));
    good(&rescore(&again, &answers));
    for (name, text) in [
        ("task.yaml", "task: mine\n"),
        (
            "journal.jsonl",
            "{\"schema_version\":1,\"seq\":0,\"time_ms\":1,\"event\":\"log\"}\n",
        ),
        ("data.jsonl", "{\"question\": \"1 + 1\", \"answer\": \"2\"}\n"),
        ("half.jsonl", "{\"output\": \"1\", \"gold\": \"1\"}\nnotes\n"),
    ] {
        let file = at(name);
        std::fs::write(&file, text).unwrap();
        for args in [eval(&file), rescore(&answers, &file)] {
            refused(&args, &[name, "no file of answers"]);
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
    }
}

/// A binary is handed on to machines that lack this one's instructions: it answers there as well, and the same here.
#[test]
fn one_binary_answers_alike_with_every_instruction_set() {
    let args = [
        "eval",
        "models/tiny-maths-en",
        "--task",
        "evals/arith-en.yaml",
        "--split",
        "search",
        "--limit",
        "40",
    ];
    let scores = |isa: &str| {
        let output = heterosis(&args)
            .arg("--json")
            .env("HETEROSIS_ISA", isa)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{isa}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["tasks"][0]["scores"].clone()
    };
    let best = scores("");
    for isa in heterosis::model::Isa::available() {
        assert_eq!(scores(isa.name()), best, "{isa}");
    }
    let output = heterosis(&args).env("HETEROSIS_ISA", "mmx").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this machine has generic"));
}

#[test]
fn bad_input_gets_one_paragraph_and_leaves_nothing_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let word = |p: &Path| p.display().to_string();
    refused(&["generate", "models/tiny-bas", "--prompts", "x.jsonl"], &["x.jsonl"]);
    let prompts = at("p.jsonl");
    fs::write(&prompts, "{\"prompt\": \"Q:\"}\n").unwrap();
    let prompts = word(&prompts);
    refused(
        &["generate", "models/tiny-bas", "--prompts", &prompts],
        &["models/tiny-bas"],
    );

    // A truncated file, a header of 2^63 bytes, a missing tokenizer.
    let copy = |name: &str| {
        let dir = at(name);
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(root().join("models/tiny-base")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        dir
    };
    let truncated = copy("truncated");
    let bytes = fs::read(truncated.join("model.safetensors")).unwrap();
    fs::write(truncated.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    refused(
        &["generate", &word(&truncated), "--prompts", &prompts],
        &["model.safetensors"],
    );
    let hostile = copy("hostile");
    let mut huge = (1u64 << 63).to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    fs::write(hostile.join("model.safetensors"), huge).unwrap();
    refused(
        &["generate", &word(&hostile), "--prompts", &prompts],
        &["model.safetensors", "header"],
    );
    let wordless = copy("wordless");
    fs::remove_file(wordless.join("tokenizer.json")).unwrap();
    refused(
        &["generate", &word(&wordless), "--prompts", &prompts],
        &["tokenizer.json"],
    );

    // A merge needs no tokenizer.
    let recipe = at("recipe.yaml");
    let text = |other: &str| {
        format!(
            "merge_method: linear\nmodels:\n  - {{model: {}, parameters: {{weight: 1}}}}\n  - {{model: {other}, parameters: {{weight: 1}}}}\n",
            word(&wordless)
        )
    };
    fs::write(&recipe, text(&word(&root().join("models/tiny-spanish")))).unwrap();
    let out = at("out");
    good(&["merge", &word(&recipe), &word(&out)]);
    assert!(out.join("model.safetensors").exists());

    // A parent of another shape, a misspelt key, a directory that cannot be written: nothing half-done appears.
    let before = fs::read_dir(tmp.path()).unwrap().count();
    let none = at("none");
    fs::write(&recipe, text(&word(&root().join("crates/merge/tests/data")))).unwrap();
    refused(&["merge", &word(&recipe), &word(&none)], &["config.json"]);
    fs::write(&recipe, text("x").replace("merge_method", "merge_metod")).unwrap();
    refused(
        &["merge", &word(&recipe), &word(&none)],
        &["recipe.yaml:1", "did you mean 'merge_method'?"],
    );
    let file = space(tmp.path(), 4);
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(&file, yaml.replace("evals: 4", "eval: 4")).unwrap();
    refused(&["search", &word(&file)], &["space.yaml:12", "did you mean 'evals'?"]);
    fs::write(&file, &yaml).unwrap();
    fs::write(at("a-file"), "").unwrap();
    refused(
        &["search", &word(&file), "--run", &word(&at("a-file/run"))],
        &["a-file"],
    );
    fs::write(&file, yaml.replace("tiny-spanish", "tiny-spanisch")).unwrap();
    refused(&["search", &word(&file)], &["models.spanish"]);
    fs::remove_file(&file).unwrap();
    fs::remove_file(at("a-file")).unwrap();
    assert_eq!(
        fs::read_dir(tmp.path()).unwrap().count(),
        before,
        "nothing is left behind"
    );
}

#[test]
fn every_search_space_that_is_shipped_can_be_read() {
    for entry in fs::read_dir(root().join("search-spaces")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            heterosis::space::Space::read(&path).unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// A shell's file size limit stands in for a disk that is full: the write fails in the same place.
#[cfg(unix)]
#[test]
fn a_merge_that_cannot_be_written_says_so_and_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let recipe = tmp.path().join("recipe.yaml");
    let models = root().join("models");
    let text = format!(
        "merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {0}/tiny-maths-en}}, {{model: {0}/tiny-spanish}}]\n",
        models.display()
    );
    fs::write(&recipe, text).unwrap();
    // Blocks of 512 or 1024 bytes. The signal is ignored, so that the write itself fails.
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" merge \"$1\" \"$2\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_heterosis")])
        .arg(&recipe)
        .arg(tmp.path().join("out"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        stderr.contains("Cannot write") && !stderr.contains("panicked"),
        "{stderr}"
    );
    let left: Vec<_> = fs::read_dir(tmp.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["recipe.yaml"], "{stderr}");
}

/// A genes-only search that a shell script scores.
fn bare_space(dir: &Path) -> PathBuf {
    let file = dir.join("space.yaml");
    let text = "name: bare\ngenes: {x: [0, 1]}\nfitness: {command: [sh, -c, 'while read -r l; do id=${l#*\\\"id\\\":\\\"}; \
                id=${id%%\\\"*}; echo \"{\\\"id\\\":\\\"$id\\\",\\\"scores\\\":{\\\"f\\\":1}}\"; done']}\nsearch: {evals: \
                6, optimizer: random, seed: 3}\n";
    fs::write(&file, text).unwrap();
    file
}

/// One HTTP request with its body, answered with 200.
fn one_request() -> (String, std::thread::JoinHandle<String>) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let taken = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut part).unwrap();
            request.extend(&part[..n]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head
                .lines()
                .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if n == 0 || length.is_some_and(|length: usize| body.len() >= length) {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .unwrap();
                return text;
            }
        }
    });
    (url, taken)
}

/// Who waited for a night's end had to look; the figures of a run were in no tool that people have open.
#[test]
fn a_run_tells_of_itself_where_people_look() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, run) = (bare_space(tmp.path()), tmp.path().join("run-1"));
    let (url, request) = one_request();
    let told = tmp.path().join("told");
    let (logs, mlruns) = (tmp.path().join("logs"), tmp.path().join("mlruns"));
    let command = format!("env | grep ^HETEROSIS_ >{}", told.display());
    let path = |path: &Path| path.display().to_string();
    let flags = ["--tensorboard", &path(&logs), "--mlflow", &path(&mlruns)].map(String::from);
    let mut words = vec!["search".to_string(), path(&file), "--run".into(), path(&run)];
    words.extend(flags);
    words.extend(["--on-done".into(), command, "--webhook".into(), url]);
    good(&words.iter().map(String::as_str).collect::<Vec<_>>());

    let told = fs::read_to_string(told).unwrap();
    for line in [
        "HETEROSIS_STATE=done",
        "HETEROSIS_EVALS=6",
        "HETEROSIS_FITNESS=1",
        "HETEROSIS_BEST=",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(told.contains(&format!("HETEROSIS_RUN={}", run.display())), "{told}");
    let request = request.join().unwrap();
    assert!(
        request.starts_with("POST /hook ") && request.contains("application/json"),
        "{request}"
    );
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let status: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&status["schema_version"], &status["state"]),
        (&1.into(), &"done".into()),
        "{status}"
    );
    let events = fs::read_dir(logs.join("run-1"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert!(fs::metadata(events).unwrap().len() > 500);
    let experiment = fs::read_dir(&mlruns).unwrap().next().unwrap().unwrap().path();
    let of_run = fs::read_dir(experiment).unwrap().map(|entry| entry.unwrap().path());
    let of_run = of_run.into_iter().find(|path| path.is_dir()).unwrap();
    assert_eq!(
        fs::read_to_string(of_run.join("metrics/search/fitness"))
            .unwrap()
            .lines()
            .count(),
        6
    );

    // What fails besides the search is told and changes nothing.
    let output = heterosis(&["search", &path(&file), "--on-done", "exit 3", "--run"])
        .arg(tmp.path().join("run-2"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("--on-done: the command ends with exit status: 3"),
        "{stderr}"
    );
}
