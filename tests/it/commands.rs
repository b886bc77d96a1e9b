//! Evaluator programs of the user's own, with the built binary: what is left when it dies, what is refused, who is asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    engines::{has_python, python},
    program::{begin, heterosis, root, space_over_family, story, wait_for},
};

fn bare(dir: &Path, fitness: &str, search: &str) -> PathBuf {
    let file = dir.join("space.yaml");
    let text = format!("name: bare\ngenes: {{x: [0, 10]}}\nfitness:\n{fitness}\nsearch: {search}\n");
    fs::write(&file, text).unwrap();
    file
}

fn arg(path: &Path) -> String {
    path.display().to_string()
}

/// Whether a process runs; one that has ended and was not waited for does not.
fn runs(pid: &str) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_string();
    !state.is_empty() && !state.starts_with('Z')
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now();
    while !is_so() {
        assert!(patience.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const SCORES: &str = r#"  command: [sh, -c, 'while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; x=${l#*\"x\":}; x=${x%%[,\}]*}; echo "{\"id\":\"$id\",\"scores\":{\"x\":$x}}"; done']"#;

/// A scorer's children kept the GPU's memory after every time-out, and the scorer itself after a killed search.
#[test]
fn nothing_of_an_evaluator_outlives_the_search() {
    let tmp = tempfile::tempdir().unwrap();
    let child = tmp.path().join("child");
    let fitness = format!(
        "  command: [sh, -c, 'sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait']",
        child.display()
    );
    let file = bare(tmp.path(), &fitness, "{evals: 1, optimizer: random}");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&tmp.path().join("run"))]);
    wait_until("the evaluator starts", || child.exists());
    let pid = fs::read_to_string(&child).unwrap().trim().to_string();
    assert!(runs(&pid));
    search.kill().unwrap(); // SIGKILL: nobody is left to clean up but the guard
    search.wait().unwrap();
    wait_until("the evaluator's child ends", || !runs(&pid));

    let hangs = fitness + "\n  timeout: 0.5\n  patience: 0.2";
    let file = bare(tmp.path(), &hangs, "{evals: 1, optimizer: random}");
    fs::remove_file(&child).unwrap();
    let output = heterosis(&["search", &arg(&file), "--run", &arg(&tmp.path().join("hangs"))]).output();
    assert_eq!(output.unwrap().status.code(), Some(1));
    let pid = fs::read_to_string(&child).unwrap().trim().to_string();
    wait_until("the evaluator's child ends", || !runs(&pid));
}

/// `timeout: 1e20` panicked; a population of 2^32 and 10^12 evaluations filled the memory.
#[test]
fn numbers_beyond_reason_are_refused_with_their_line() {
    let tmp = tempfile::tempdir().unwrap();
    let refused = |fitness: &str, search: &str, says: &str| {
        let file = bare(tmp.path(), &format!("{SCORES}\n{fitness}"), search);
        let output = heterosis(&["search", &arg(&file), "--run", &arg(&tmp.path().join("run"))])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("space.yaml:") && stderr.contains(says), "{stderr}");
    };
    for timeout in ["1.0e20", "1.0e300", "0", "-1"] {
        refused(&format!("  timeout: {timeout}"), "{}", "fitness.timeout");
    }
    for (key, value) in [
        ("population", "4294967296"),
        ("population", "9223372036854775807"),
        ("evals", "1000000000000"),
    ] {
        refused("", &format!("{{{key}: {value}}}"), &format!("search.{key}"));
    }
    refused("  weights: {x: 0, y: 0.0}", "{}", "fitness.weights");
    refused(
        "  objectives: pareto\n  weights: {x: 1, y: 0}",
        "{}",
        "two of its scores",
    );
    refused("", "{asynchronous: true}", "search.asynchronous");
    let file = bare(tmp.path(), SCORES, "{}");
    let output = heterosis(&["search", &arg(&file), "--evals", "1000000000000"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// `resume` started whatever program a stranger's run directory named.
#[test]
fn a_strangers_program_is_shown_before_it_is_started() {
    let tmp = tempfile::tempdir().unwrap();
    let run = tmp.path().join("run");
    let file = bare(tmp.path(), SCORES, "{evals: 12, seed: 1}");
    let run_it = |args: &[&str]| heterosis(args).stdin(Stdio::null()).output().unwrap();
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&run)]);
    wait_for(3, &mut search, &run);
    let _ = search.kill();
    search.wait().unwrap();
    let given = tmp.path().join("given");
    let copied = Command::new("cp").arg("-r").args([&run, &given]).status().unwrap();
    assert!(copied.success());

    let refused = run_it(&["resume", &arg(&given)]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--yes") && stderr.contains("while read -r l"),
        "{stderr}"
    );
    assert!(run_it(&["resume", &arg(&given), "--yes"]).status.success());
    assert!(
        run_it(&["resume", &arg(&run)]).status.success(),
        "one's own goes on unasked"
    );
    assert_eq!(story(&given), story(&run));
    // Another command at the same place is another program.
    let space = fs::read_to_string(given.join("space.yaml")).unwrap();
    fs::write(
        given.join("space.yaml"),
        space.replace("while read", "rm -r /; while read"),
    )
    .unwrap();
    assert_eq!(run_it(&["resume", &arg(&given)]).status.code(), Some(2));
    // So is somebody to tell, with a variable of the environment.
    let guide = "guide: {model: m, endpoint: 'http://127.0.0.1:9/v1', key: HOME}";
    let guided = space.replace("  seed: 1\n", &format!("  seed: 1\n  {guide}\n"));
    assert_ne!(guided, space);
    fs::write(given.join("space.yaml"), guided).unwrap();
    let refused = run_it(&["resume", &arg(&given)]);
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        stderr.contains("http://127.0.0.1:9/v1") && stderr.contains("\"HOME\""),
        "{stderr}"
    );
}

/// Scores a candidate by the length of what it writes, and the one before it by nothing: its address has to be gone.
const ASKS: &str = r#"
import json, sys, urllib.error, urllib.request

def post(endpoint, key):
    body = json.dumps({"model": endpoint["model"], "prompt": "Q: Ana has 3 pens. A:", "max_tokens": 24, "temperature": 0})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    request = urllib.request.Request(endpoint["base_url"] + "/completions", body.encode(), headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["text"]

before = None
for line in sys.stdin:
    asked = json.loads(line)
    endpoint = asked["endpoint"]
    assert asked["model_dir"] is None and endpoint["model"] == asked["id"], asked
    if before:
        try:
            sys.exit(f"{before} still answers: {post(before, before['api_key'])}")
        except urllib.error.URLError:
            pass
    try:
        sys.exit(f"anybody is answered: {post(endpoint, 'guessed')}")
    except urllib.error.HTTPError as e:
        assert e.code == 401, e.code
    before, text = endpoint, post(endpoint, endpoint["api_key"])
    with open("texts.jsonl", "a") as file:
        file.write(json.dumps([asked["id"], text]) + "\n")
    print(json.dumps({"id": asked["id"], "scores": {"length": len(text)}}), flush=True)
"#;

/// A command had to load each candidate from a directory with a library of its own, though an engine stood beside it.
#[test]
fn a_command_asks_the_candidate_at_its_address() {
    if !has_python() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("asks.py"), ASKS).unwrap();
    let rest = |more: &str| {
        format!(
            "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}\nfitness: {{command: [{}, asks.py], serve: \
             true{more}}}\nsearch: {{evals: 4, seed: 3, optimizer: random}}\nfinal: {{finalists: 1}}\n",
            python()
        )
    };
    let file = space_over_family(tmp.path(), &rest(", materialize: true"));
    let refused = heterosis(&["check", &arg(&file)]).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("choose one"), "{words}");

    let file = space_over_family(tmp.path(), &rest(""));
    let mut search = heterosis(&[
        "search",
        &arg(&file),
        "--run",
        &arg(&tmp.path().join("run")),
        "--headless",
    ]);
    let output = search.current_dir(tmp.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let texts = fs::read_to_string(tmp.path().join("texts.jsonl")).unwrap();
    let texts: Vec<(String, String)> = texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        texts.iter().filter(|(id, _)| id.starts_with('c')).count() >= 4,
        "{texts:?}"
    );
    // What a parent says there is what it says elsewhere.
    let maths = &texts.iter().find(|(id, _)| id == "parent-maths").unwrap().1;
    let model = root().join("models/tiny-maths-en");
    let told = heterosis(&[
        "generate",
        &arg(&model),
        "--prompt",
        "Q: Ana has 3 pens. A:",
        "--max-new-tokens",
        "24",
    ]);
    let told = { told }.output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        !maths.is_empty() && told.contains(maths.trim_end()),
        "{maths:?} is not in {told}"
    );
}

/// The examples that the docs point to.
#[test]
fn the_examples_spaces_are_read() {
    let dir = crate::program::root().join("examples/evaluators");
    let mut spaces = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "yaml") {
            let read = heterosis::space::Space::read(&file);
            assert!(read.is_ok(), "{}", read.unwrap_err());
            spaces += 1;
        }
    }
    assert_eq!(spaces, 5);
}
