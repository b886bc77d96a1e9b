//! What is written, what may be replaced, and what files of others may do: the program as somebody meets it whose disk is
//! full, who presses Ctrl-C, or who was sent a run by a stranger.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::program::{good, heterosis, root, space_over_family};

fn word(path: &Path) -> String {
    path.display().to_string()
}

fn run(args: &[&str]) -> Output {
    heterosis(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A command that ends with this code and says these words.
fn ends(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: '{word}' is not in: {text}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A short run over a task of its own, whose data may go away.
fn short_run(dir: &Path) -> PathBuf {
    short_run_with(dir, "")
}

/// [`short_run`], with more said of its search.
fn short_run_with(dir: &Path, more: &str) -> PathBuf {
    let task = dir.join("task");
    fs::create_dir_all(task.join("data")).unwrap();
    let yaml = fs::read_to_string(root().join("evals/arith-es.yaml")).unwrap();
    fs::write(task.join("own.yaml"), yaml.replace("task: arith-es", "task: own")).unwrap();
    for entry in fs::read_dir(root().join("evals/data")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, task.join("data").join(path.file_name().unwrap())).unwrap();
    }
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: task/own.yaml, split: search, limit: 8}}]}}
search: {{optimizer: random, evals: 3, seed: 5{more}}}
final: {{finalists: 1, selection: {{limit: 8}}, test: {{limit: 8}}}}
"
    );
    let file = space_over_family(dir, &rest);
    let run = dir.join("run");
    let output = heterosis(&["search", &word(&file), "--run", &word(&run)])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    run
}

/// `simplify` asked whether a stranger's address may be told something, and told it nothing.
#[test]
fn an_address_that_is_told_nothing_is_not_asked_about() {
    let tmp = tempfile::tempdir().unwrap();
    let guide = ", guide: {model: m, endpoint: 'http://127.0.0.1:9/v1', key: HOME}";
    let (run, given) = (short_run_with(tmp.path(), guide), tmp.path().join("given"));
    fs::rename(&run, &given).unwrap();
    ends(&["resume", &word(&given)], 2, &["http://127.0.0.1:9/v1", "--yes"]);
    ends(&["simplify", &word(&given), "--limit", "8"], 0, &[]);
}

/// `--overwrite` took the old export away before the new one was checked, `--gguf` that wrote none ended with 0, and an
/// export without its data left a directory that looked whole.
#[test]
fn an_export_is_complete_or_not_there() {
    let tmp = tempfile::tempdir().unwrap();
    let (run_dir, out) = (short_run(tmp.path()), tmp.path().join("export"));
    let (of, to) = (word(&run_dir), word(&out));
    let in_dir = |args: &[&str]| heterosis(args).current_dir(tmp.path()).output().unwrap();
    let expect = |args: &[&str], code: i32, words: &[&str]| {
        let output = in_dir(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{args:?}: {}", said(&output));
        }
    };
    // The family's tokenizer splits at spaces, which nothing of llama.cpp does: its converter is no way out. That was found when
    // all of the model was written; now it is no work that failed, but a call that is refused.
    let of_gguf = [
        "cannot be written as GGUF",
        "nothing was exported",
        "`heterosis serve OUT`",
    ];
    expect(&["export", &of, &to, "--gguf", "f16"], 2, &of_gguf);
    assert!(!out.exists());
    expect(&["export", &of, &to], 0, &[]);
    expect(&["verify", &to], 0, &[]);
    expect(&["export", &of, &to], 2, &[&to]);
    let whole = names(&out);

    // What fails leaves the old export as it was.
    expect(&["export", &of, &to, "--overwrite", "--gguf", "f16"], 2, &of_gguf);
    fs::rename(tmp.path().join("task/data"), tmp.path().join("task/gone")).unwrap();
    expect(&["export", &of, &to, "--overwrite"], 2, &["arith"]);
    fs::rename(tmp.path().join("task/gone"), tmp.path().join("task/data")).unwrap();
    expect(&["verify", &to], 0, &[]);
    expect(&["export", &of, &to, "--overwrite"], 0, &[]);
    expect(&["verify", &to], 0, &[]);
    assert_eq!(names(&out), whole);

    // A card for everybody has no paths of this machine, and says how the model is used.
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        !card.contains(&word(root())) && !card.contains(&word(tmp.path())),
        "{card}"
    );
    assert!(card.contains("AutoModelForCausalLM.from_pretrained"), "{card}");

    // A card that its author has rewritten is not what was exported.
    fs::write(out.join("README.md"), card.replace("AutoModel", "My model")).unwrap();
    expect(
        &["export", &of, &to, "--overwrite"],
        2,
        &["would destroy README.md, which is not as"],
    );
    fs::write(out.join("README.md"), card).unwrap();

    // One candidate's recipe beside another one's weights, or over a file of somebody's own, is neither.
    let alone = ["export", &of, "c0001", &to, "--recipe-only", "--overwrite"];
    expect(&alone, 2, &["holds a model"]);
    let (lone, yaml) = (tmp.path().join("lone"), tmp.path().join("mine.yaml"));
    let (lone, yaml) = (word(&lone), word(&yaml));
    let recipe_only =
        |id: &'static str, to: &str| ["export", &of, id, to, "--recipe-only", "--overwrite"].map(String::from);
    let at = |args: [String; 6], code, words: &[&str]| expect(&args.each_ref().map(String::as_str), code, words);
    at(recipe_only("best", &lone), 0, &[]);
    at(recipe_only("c0001", &lone), 0, &[]);
    fs::write(&yaml, "mine").unwrap();
    at(recipe_only("c0001", &yaml), 2, &["is no recipe as heterosis wrote it"]);
    assert_eq!(fs::read_to_string(&yaml).unwrap(), "mine");
    expect(&["verify", &to], 0, &[]);

    // A file that was put there later is named; a typing mistake does not cost it.
    fs::write(out.join("modeling_evil.py"), "import os").unwrap();
    expect(&["verify", &to], 1, &["modeling_evil.py"]);
    expect(
        &["export", &of, &to, "--overwrite"],
        2,
        &["would destroy modeling_evil.py"],
    );
    fs::remove_file(out.join("modeling_evil.py")).unwrap();

    // A provenance that asks for years of work, or for files elsewhere.
    let file = out.join("provenance.json");
    let text = fs::read_to_string(&file).unwrap();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut provenance: Value = serde_json::from_str(&text).unwrap();
        change(&mut provenance);
        fs::write(&file, provenance.to_string()).unwrap();
    };
    change(&|p| p["first_answers"][0]["max_new_tokens"] = Value::from(i64::MAX));
    expect(&["verify", &to], 2, &["9223372036854775807 tokens"]);
    change(&|p| p["schema_version"] = 2.into());
    expect(
        &["verify", &to],
        2,
        &["schema version 2", "reads versions up to 1", "provenance.json"],
    );
    change(&|p| p["outputs"][0]["file"] = "../../etc/passwd".into());
    expect(&["verify", &to], 2, &["no name of a file"]);
    assert_eq!(
        names(tmp.path()),
        ["export", "lone", "mine.yaml", "run", "space.yaml", "task"],
        "nothing unfinished is left"
    );
}

/// `merge r.yaml mine --overwrite` deleted mine/thesis.tex.
#[test]
fn only_what_heterosis_wrote_is_overwritten() {
    let tmp = tempfile::tempdir().unwrap();
    let (recipe, mine) = (tmp.path().join("r.yaml"), tmp.path().join("mine"));
    let models = root().join("models");
    let weights = |a: f64, b: f64| {
        format!(
            "merge_method: linear\nmodels: [{{model: {0}/tiny-maths-en, parameters: {{weight: {a}}}}}, {{model: \
             {0}/tiny-spanish, parameters: {{weight: {b}}}}}]\n",
            models.display()
        )
    };
    fs::write(&recipe, weights(0.5, 0.5)).unwrap();
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("thesis.tex"), "four years").unwrap();
    let merge = ["merge", &word(&recipe), &word(&mine), "--overwrite"];
    ends(&merge, 2, &["would destroy thesis.tex"]);
    fs::remove_file(mine.join("thesis.tex")).unwrap();
    good(&merge);
    good(&merge);
    let written = names(&mine);
    fs::write(mine.join("notes.txt"), "").unwrap();
    ends(&merge, 2, &["would destroy notes.txt"]);
    fs::remove_file(mine.join("notes.txt")).unwrap();
    assert_eq!(names(&mine), written);
    // A name that files of ours have too is no mark, and what was edited since is its author's.
    fs::write(mine.join("README.md"), "mine").unwrap();
    ends(&merge, 2, &["would destroy README.md, which heterosis did not write"]);
    ends(&merge[..3], 2, &["is not empty"]);
    fs::remove_file(mine.join("README.md")).unwrap();
    ends(&merge[..3], 2, &["--overwrite replaces it"]);
    let config = fs::read_to_string(mine.join("generation_config.json")).unwrap();
    fs::write(mine.join("generation_config.json"), config.replace('{', "{ ")).unwrap();
    ends(&merge, 2, &["would destroy generation_config.json, which is not as"]);
    fs::write(mine.join("generation_config.json"), config).unwrap();
    good(&merge);

    // Nothing can be merged by these weights, on any machine: the recipe is at fault, and what was there stays.
    fs::write(&recipe, weights(1.0, -1.0)).unwrap();
    ends(&merge, 2, &["sum to zero"]);
    assert_eq!(names(&mine), written);
}

/// Ctrl-C during a merge left `.OUT.XXXXXX.partial` behind, as large as the model, and `eval --answers` left `.tmpXXXXXX`.
#[cfg(unix)]
#[test]
fn what_is_interrupted_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let models = root().join("models");
    let text = format!(
        "merge_method: tsv\nbase_model: {0}/tiny-base\nmodels: [{{model: {0}/tiny-maths-en}}, {{model: {0}/tiny-spanish}}]\n",
        models.display()
    );
    let recipe = tmp.path().join("r.yaml");
    fs::write(&recipe, text).unwrap();
    let (recipe, out) = (word(&recipe), word(&tmp.path().join("out")));
    interrupted(tmp.path(), &["merge", &recipe, &out]);
    let task = ["--task", "evals/arith-es.yaml", "--answers"];
    interrupted(
        tmp.path(),
        &[&["eval", "models/tiny-base"], &task[..], &[&out]].concat(),
    );
}

/// Begins a command until it could be ended while it writes; then nothing of it is in the folder, which held one file.
#[cfg(unix)]
fn interrupted(home: &Path, args: &[&str]) {
    for _ in 0..50 {
        let mut command = heterosis(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while names(home).len() == 1 && command.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let term = Command::new("kill").args(["-TERM", &command.id().to_string()]).status();
        assert!(term.is_ok());
        match command.wait().unwrap().code() {
            Some(130) => return assert_eq!(names(home), ["r.yaml"]),
            // What it was filling is gone, and that is no news.
            Some(1) => panic!("interrupted, and ended with 1: {args:?}"),
            // Over before the signal came, or before it was listened to: once more.
            _ => names(home).iter().filter(|name| *name != "r.yaml").for_each(|left| {
                let left = home.join(left);
                fs::remove_file(&left).or_else(|_| fs::remove_dir_all(&left)).unwrap();
            }),
        }
    }
    panic!("not one of 50 was interrupted: {args:?}");
}

/// A model's `merges.txt` was a link to somebody's secret, and a child that was published had it; the page on security said that
/// this cannot be.
#[cfg(unix)]
#[test]
fn a_link_out_of_a_model_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    for (model, target) in [("plain", "secret"), ("snapshots", "blobs/0123abcd")] {
        super::program::copy(&root().join("models/tiny-base"), &at(model));
        fs::create_dir_all(at("blobs")).unwrap();
        fs::write(at(target), "text").unwrap();
        std::os::unix::fs::symlink(at(target), at(model).join("merges.txt")).unwrap();
    }
    let merged = |model: &str| {
        let recipe = format!(
            "merge_method: linear\nmodels: [{{model: {}}}]\nparameters: {{weight: 1}}\n",
            word(&at(model))
        );
        fs::write(at("r.yaml"), recipe).unwrap();
        let output = run(&["merge", &word(&at("r.yaml")), &word(&at(&format!("{model}-child")))]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(
            fs::read_to_string(at(&format!("{model}-child/merges.txt"))).unwrap(),
            "text"
        );
        said(&output)
    };
    let told = merged("plain");
    assert!(
        told.contains("merges.txt is a link to") && told.contains("secret"),
        "{told}"
    );
    let told = merged("snapshots");
    assert!(!told.contains("is a link"), "{told}");
}

/// `search space.yaml --run .` in a folder of somebody's own wrote over his space.yaml and best.yaml, `--webhook notaurl` was
/// told when the night was over, and `--kv-memory 1` by a run that was begun for it.
#[test]
fn what_cannot_begin_writes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let rest = "parameter_space: {method: linear, genes: {weight: [0.0, 1.5]}}
fitness: {tasks: [{task: ROOT/evals/arith-es.yaml, split: search, limit: 4}]}
search: {optimizer: random, evals: 2}
final: {finalists: 1, selection: {limit: 4}, test: {limit: 4}}
";
    let file = word(&space_over_family(tmp.path(), &rest.replace("ROOT", &word(root()))));
    let own = tmp.path().join("it's mine");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("best.yaml"), "mine").unwrap();
    let (own, new) = (word(&own), word(&tmp.path().join("new")));
    ends(&["search", &file, "--run", &own], 2, &["holds best.yaml", "--run"]);
    assert_eq!(names(Path::new(&own)), ["best.yaml"]);
    for (more, words) in [
        (["--webhook", "notaurl"], &["--webhook notaurl", "http://"][..]),
        (["--kv-memory", "1"], &["--kv-memory", "1 bytes"]),
    ] {
        ends(&[&["search", &file, "--run", &new][..], &more[..]].concat(), 2, words);
        assert!(!Path::new(&new).exists(), "{more:?}");
    }
    // What is printed to be typed can be typed.
    fs::remove_file(Path::new(&own).join("best.yaml")).unwrap();
    let output = run(&["search", &file, "--run", &own]);
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    let (_, word) = said.split_once("heterosis report ").unwrap();
    let word = word.lines().next().unwrap().split("  ").next().unwrap();
    let typed = std::process::Command::new("sh")
        .args(["-c", &format!("printf %s {word}")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(typed.stdout).unwrap(), own, "{said}");
}

/// A stranger's journal whose names are escape sequences set the terminal's title, colours and clipboard.
#[test]
fn control_characters_of_a_strangers_run_do_not_reach_the_terminal() {
    let tmp = tempfile::tempdir().unwrap();
    let run_dir = tmp.path().join("runs/x");
    fs::create_dir_all(&run_dir).unwrap();
    let journal = fs::read_to_string(root().join("tests/data/dashboard/stopped.jsonl")).unwrap();
    let evil = r"\u001b]0;owned\u0007\u009b31m\r\u202e";
    let journal = journal
        .replace("smollm2-es", &format!("name{evil}"))
        .replace("\"c0002\"", &format!("\"c0002{evil}\""))
        .replace("stop was asked", &format!("stop {evil}"))
        .replace("parent-maths", &format!("parent-maths{evil}"));
    fs::write(run_dir.join("journal.jsonl"), &journal).unwrap();
    let clean = |output: &Output| {
        let text = said(output);
        let odd = text
            .chars()
            .find(|c| (c.is_control() && *c != '\n' && *c != '\t') || *c == '\u{202e}');
        assert_eq!(odd, None, "{text:?}");
        text
    };
    let of = word(&run_dir);
    let all = word(&tmp.path().join("runs"));
    for args in [
        vec!["status", &of],
        vec!["status", &of, "--json"],
        vec!["watch", &of, "--headless"],
        vec!["watch", &of, "--headless", "--log-format", "json"],
        vec!["runs", &all],
        vec!["compare", &of, &of],
    ] {
        let output = run(&args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        clean(&output);
    }
    let text = clean(&run(&["status", &of, "--json"]));
    assert!(
        serde_json::from_str::<Value>(&text).unwrap()["name"]
            .as_str()
            .unwrap()
            .contains('\u{1b}')
    );

    // In errors, too.
    fs::write(
        run_dir.join("journal.jsonl"),
        "{\"schema_version\":1,\"event\":\"x\u{9b}31m\u{202e}\"}\n",
    )
    .unwrap();
    let output = run(&["status", &of]);
    assert_eq!(output.status.code(), Some(2));
    clean(&output);
    let recipe = tmp.path().join("r.yaml");
    fs::write(&recipe, "merge_method: \"\\e[31mties\"\n").unwrap();
    clean(&run(&["merge", &word(&recipe), &word(&tmp.path().join("out"))]));
}

/// `eval --json >/dev/full` ended with 0 and an error `2>/dev/full` with a panic.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_by_the_exit_code() {
    let with = |redirect: &str, args: &[&str]| {
        let script = format!("exec \"$0\" \"$@\" {redirect}");
        let status = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_heterosis")])
            .args(args)
            .current_dir(root())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.unwrap().code()
    };
    assert_eq!(with(">/dev/full", &["methods", "--json"]), Some(1));
    assert_eq!(with(">/dev/full", &["methods"]), Some(1));
    assert_eq!(with("2>/dev/full", &["merge", "nowhere.yaml", "out"]), Some(2));
    assert_eq!(with("2>/dev/full", &["methods"]), Some(0));
}

/// A tensor of no elements named `model.layers.10000000.x` made `perplexity` ask for all memory.
#[test]
fn a_name_in_a_file_asks_for_no_memory() {
    let tmp = tempfile::tempdir().unwrap();
    let model = tmp.path().join("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(root().join("models/tiny-base")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["model.layers.10000000.x"] = serde_json::json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let header = header.to_string();
    let length_now = (header.len() as u64).to_le_bytes();
    fs::write(
        &weights,
        [&length_now[..], header.as_bytes(), &bytes[8 + length..]].concat(),
    )
    .unwrap();
    let text = tmp.path().join("text");
    fs::write(&text, "Tom has 5 apples .").unwrap();
    ends(
        &["perplexity", &word(&model), "--text", &word(&text)],
        2,
        &["model.layers.10000000.x", "without gaps"],
    );
}
