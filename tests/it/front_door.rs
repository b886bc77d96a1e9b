//! The first ten minutes: the embedded demo, runs that need no name, models by their names on the Hub, a space from two words.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use super::program::{heterosis, root, wait_for};

/// A new user's machine: an empty directory, a cache of its own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = heterosis(args);
        let work = self.path("work");
        fs::create_dir_all(&work).unwrap();
        command
            .current_dir(work)
            .env("HOME", self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("HF_HOME", self.path("hf"))
            .env("HF_HUB_OFFLINE", "1");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}");
        (String::from_utf8(output.stdout).unwrap(), stderr)
    }

    fn refused(&self, args: &[&str], with: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        for word in with {
            assert!(stderr.contains(word), "{args:?}: '{word}' is not in: {stderr}");
        }
        stderr
    }
}

/// The demo ran inside the checkout only: an installed program had nothing to show.
#[test]
fn the_demo_runs_in_an_empty_directory() {
    let home = Home::new();
    let run = home.path("work/runs/demo-1");
    let mut search = home.command(&["demo", "--headless", "--evals", "1", "--run", "runs/demo-1"]);
    let mut search = search.stdout(Stdio::null()).spawn().unwrap();
    wait_for(1, &mut search, &run);
    search.kill().unwrap();
    search.wait().unwrap();
    let space = fs::read_to_string(run.join("space.yaml")).unwrap();
    assert!(
        space.contains("cache/heterosis/demo-") && space.contains("seed: 7"),
        "{space}"
    );
    // And now it has a run, which needs no name.
    let (stdout, stderr) = home.good(&["status"]);
    assert!(stdout.starts_with("demo (runs/demo-1)"), "{stdout}");
    assert_eq!(stderr.trim(), "runs/demo-1");
}

/// `watch`, `status`, `report` and `export` wanted a directory that nobody types by heart.
#[test]
fn a_run_that_is_not_named_is_the_newest() {
    let home = Home::new();
    for command in ["status", "watch", "report", "resume", "simplify"] {
        home.refused(&[command], &["no run below runs/", "heterosis demo"]);
    }
    home.refused(&["export", "child"], &["no run below runs/"]);
    home.refused(&["export"], &["OUT"]);
    for (name, day) in [("b-newer", 2), ("c-older", 1), ("a-oldest", 0)] {
        let old = fs::read_to_string(root().join("tests/data/dashboard/stopped.jsonl")).unwrap();
        let mut lines: Vec<serde_json::Value> = old.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        for line in &mut lines {
            line["time_ms"] = (line["time_ms"].as_u64().unwrap() + day * 86_400_000).into();
        }
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        home.write(&format!("work/runs/{name}/journal.jsonl"), &(text.join("\n") + "\n"));
    }
    home.write("work/runs/z-not-begun/journal.jsonl", "");
    let (_, stderr) = home.good(&["status"]);
    assert_eq!(stderr.trim(), "runs/b-newer");
    let (stdout, _) = home.good(&["report"]);
    assert_eq!(stdout.trim(), "runs/b-newer/report/report.html");
    home.refused(
        &["export", "runs/b-newer"],
        &["is a run", "heterosis export runs/b-newer OUT"],
    );
    // A path is a run, whether it is there or not; any other word is a child.
    home.refused(&["export", "runs/typo", "out"], &["runs/typo"]);
    assert!(!Path::new(&home.path("work/out")).exists());
}

impl Home {
    /// A model of the family in the Hub's cache, as `me/NAME`.
    fn cache_as_hub(&self, name: &str) {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let home = format!("hf/hub/models--me--{name}");
        self.write(&format!("{home}/refs/main"), commit);
        let snapshots = self.path(&home).join("snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        std::os::unix::fs::symlink(root().join("models").join(name), snapshots.join(commit)).unwrap();
    }
}

/// Recipes name models as the Hub does; none of the usual ones ran, and what `merge` wrote for mergekit it refused.
#[test]
fn names_of_the_hub_need_no_prefix() {
    let home = Home::new();
    home.cache_as_hub("tiny-maths-en");
    home.cache_as_hub("tiny-spanish");
    let recipe = "merge_method: slerp\nbase_model: me/tiny-maths-en\nslices:\n- sources:\n  - &source {model: me/tiny-maths-en, \
                  layer_range: [0, 8]}\n  - {<<: *source, model: hf:me/tiny-spanish}\nparameters: {t: 0.5}\ndtype: bfloat16\n\
                  random_seed: 0\nchat_template: llama3\n";
    home.write("work/r.yaml", recipe);
    home.good(&["merge", "r.yaml", "one"]);
    // And as it comes down a pipe.
    let piped = home
        .command(&["merge", "-", "two"])
        .stdin(fs::File::open(home.path("work/r.yaml")).unwrap())
        .output();
    assert!(piped.unwrap().status.success());
    let read = |file: &str| fs::read(home.path("work").join(file)).unwrap();
    assert_eq!(read("one/model.safetensors"), read("two/model.safetensors"));
    let written = String::from_utf8(read("one/mergekit_config.yml")).unwrap();
    assert!(
        written.contains("model: me/tiny-spanish") && !written.contains("hf:"),
        "{written}"
    );
    assert!(
        String::from_utf8(read("one/chat_template.jinja"))
            .unwrap()
            .contains("<|eot_id|>")
    );
    let check = home
        .command(&["check", "-"])
        .stdin(fs::File::open(home.path("work/r.yaml")).unwrap())
        .output();
    assert!(String::from_utf8_lossy(&check.unwrap().stdout).contains("everything fits"));
    let task = root().join("evals/arith-es.yaml").display().to_string();
    home.good(&["eval", "me/tiny-maths-en", "--task", &task, "--limit", "2"]);
    home.refused(&["eval", "me/tiny-mathz", "--task", &task], &["hf:me/tiny-mathz"]);
}

/// "The key 'name' is missing" sent its reader to look for a slip in a file without one.
#[test]
fn another_kind_of_file_is_named_with_its_command() {
    let home = Home::new();
    home.write("work/r.yaml", "merge_method: linear\nmodels: [{model: a}]\n");
    home.write("work/s.yaml", "name: s\nmodels: {a: a, b: b}\nfitness: {tasks: [t]}\n");
    home.write("work/lm.yaml", "task: x\ndataset_path: y\ndoc_to_text: z\n");
    let task = root().join("evals/arith-es.yaml").display().to_string();
    home.refused(
        &["search", "r.yaml"],
        &["this is a merge recipe", "heterosis merge r.yaml OUT"],
    );
    home.refused(&["check", &task], &["this is a task", "heterosis eval MODEL --task"]);
    home.refused(
        &["merge", "s.yaml", "out"],
        &["this is a search space", "heterosis search s.yaml"],
    );
    home.refused(&["eval", "s.yaml", "--task", &task], &["this is a search space"]);
    home.refused(&["eval", "r.yaml", "--task", "lm.yaml"], &["lm.yaml", "doc_to_target"]);
    let model = root().join("models/tiny-base").display().to_string();
    home.refused(&["search", &model], &["is a model", "heterosis breed"]);
    home.write("work/s.yaml", &format!("name: s\nmodels: {{a: {model}, b: r.yaml}}\nparameter_space: {{method: linear, genes: {{weight: [0, 1]}}}}\nfitness: {{tasks: ['{task}']}}\n"));
    home.refused(
        &["search", "s.yaml"],
        &["models.b", "r.yaml is a recipe", "heterosis merge"],
    );
}

/// A space had to be written by hand before two models could have a child.
#[test]
fn two_models_and_a_task_are_bred_without_a_file() {
    let home = Home::new();
    let model = |name: &str| root().join("models").join(name).display().to_string();
    let task = root().join("evals/arith-es.yaml").display().to_string();
    let (maths, spanish) = (model("tiny-maths-en"), model("tiny-spanish"));
    let parents = [&*maths, &*spanish, "--task", &*task];

    let (told, _) = home.good(&[&["init"], &parents[..], &["-o", "spaces/mine.yaml"]].concat());
    assert!(
        told.contains("tiny-base: named by the card") && told.contains("24 numbers"),
        "{told}"
    );
    let space = fs::read_to_string(home.path("work/spaces/mine.yaml")).unwrap();
    assert!(
        space.contains("learn: auto") && space.contains("# for each expert"),
        "{space}"
    );
    // The same again is no loss; another text is.
    home.good(&[&["init"], &parents[..], &["-o", "spaces/mine.yaml"]].concat());
    home.refused(
        &[&["init"], &parents[..], &["-o", "spaces/mine.yaml", "--evals", "9"]].concat(),
        &["--overwrite"],
    );

    let args = [
        &["breed"],
        &parents[..],
        &["--headless", "--evals", "1", "--run", "runs/bred"],
    ]
    .concat();
    let mut search = home.command(&args).stdout(Stdio::null()).spawn().unwrap();
    let run = home.path("work/runs/bred");
    wait_for(1, &mut search, &run);
    search.kill().unwrap();
    search.wait().unwrap();
    assert!(
        fs::read_to_string(run.join("journal.jsonl"))
            .unwrap()
            .contains("\"name\":\"maths-en-x-spanish\"")
    );
    assert!(home.path("work/space.yaml").exists());

    // A minute was spent on a final of 2,400 questions for everybody.
    assert!(!space.contains("selection: {"), "{space}");
    home.good(&[&["init"], &parents[..], &["-o", "spaces/short.yaml", "--for", "1m"]].concat());
    let short = fs::read_to_string(home.path("work/spaces/short.yaml")).unwrap();
    assert!(
        short.contains("  selection: {limit: 60}      # questions of each task"),
        "{short}"
    );
    assert!(
        short.contains("  test: {limit: 100}          # questions of each task"),
        "{short}"
    );

    home.refused(&["breed", &maths, &spanish], &["--task"]);
    home.refused(
        &["init", &maths, &maths, "--task", &task],
        &["tiny-maths-en is named twice"],
    );
    home.refused(
        &["init", &model("tiny-base"), "--task", &task],
        &["--base MODEL", "--base none"],
    );
    home.refused(&["init", &maths, "nobody/here", "--task", &task], &["hf:nobody/here"]);
    // An adapter alone goes over its model, or over the base that is named; one that cannot be found is told with the way out.
    home.write(
        "work/lora/adapter_config.json",
        "{\"base_model_name_or_path\": \"me/tiny-base\"}",
    );
    home.refused(
        &["init", "lora", &maths, "--task", &task],
        &["me/tiny-base (lora); --base MODEL"],
    );
    let base = model("tiny-base");
    home.refused(
        &["init", "lora", "--base", &base, "--task", &task],
        &["lora/adapter_config.json"],
    );
}

#[test]
fn shells_and_man_know_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, _) = home.good(&["completions", shell]);
        assert!(script.contains("breed") && script.contains("simplify"), "{shell}");
    }
    home.good(&["completions", "man", "man/man1"]);
    let page = fs::read_to_string(home.path("work/man/man1/heterosis-breed.1")).unwrap();
    assert!(page.contains("base"), "{page}");
    home.refused(&["completions", "man"], &["DIR"]);
}

/// A copy of a model of the family that is spoken to through a chat template.
fn chat_model(home: &Home, name: &str) {
    let (from, to) = (root().join("models").join(name), home.path("work").join(name));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}";
    fs::write(to.join("chat_template.jinja"), template).unwrap();
}

/// A search had no key for the chat template, which most fine-tunes are spoken to through; and an export asked its first
/// questions without one, and found another child.
#[test]
fn chat_models_are_bred_and_exported_as_they_are_spoken_to() {
    let home = Home::new();
    chat_model(&home, "tiny-maths-en");
    chat_model(&home, "tiny-spanish");
    let models = root().join("models").display().to_string();
    let task = root().join("evals/arith-es.yaml").display().to_string();
    let space = |chat: &str| {
        format!(
            "name: chat\nmodels: {{base: {models}/tiny-base, maths: ./tiny-maths-en, spanish: ./tiny-spanish}}\nbase: base\n\
             tokenizer: maths\nparameter_space: {{method: task_arithmetic, genes: {{weight: [0.5, 1.5]}}}}\n\
             fitness: {{tasks: [{{task: {task}, limit: 4, max_new_tokens: 6{chat}}}]}}\nsearch: {{evals: 1}}\n\
             final: {{finalists: 1, selection: {{limit: 4}}, test: {{limit: 4}}}}\n"
        )
    };
    home.write("work/s.yaml", &space(", chat_template: on, system: Dime"));
    home.good(&["search", "s.yaml", "--headless", "--run", "runs/chat"]);
    home.good(&["export", "runs/chat", "child"]);
    let proof = fs::read_to_string(home.path("work/child/provenance.json")).unwrap();
    assert!(proof.contains("system Dime\\nuser Q:"), "{proof}");
    home.good(&["verify", "child"]);
    home.write("work/s.yaml", &space(", system: Dime"));
    home.refused(&["check", "s.yaml"], &["chat_template: on"]);

    // And one prompt needs no file.
    let (text, _) = home.good(&[
        "generate",
        "child",
        "--prompt",
        "Q: hola A:",
        "--max-new-tokens",
        "4",
        "--json",
    ]);
    assert!(text.contains("Q: hola A:"), "{text}");
    home.refused(&["generate", "child"], &["--prompts"]);
}
