//! Chat models: searched, learned from and exported through their templates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::program::{copy, good, heterosis, root};

/// Says what it is asked and nothing else, so that the family answers as without it; and what it was told, first.
const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% else %}{{ m.content }}{% endif %}{% endfor %}";

/// The family in a folder of its own, each model but those of `without` with a chat template.
fn family(dir: &Path, without: &[&str]) {
    for name in ["tiny-base", "tiny-maths-en", "tiny-spanish"] {
        let to = dir.join(name);
        copy(&root().join("models").join(name), &to);
        if !without.contains(&name) {
            fs::write(to.join("chat_template.jinja"), TEMPLATE).unwrap();
        }
    }
}

fn space(dir: &Path, fitness: &str, task: &str) -> PathBuf {
    let file = dir.join("space.yaml");
    let evals = root().join("evals");
    let text = format!(
        "name: chat
models: {{base: tiny-base, maths: tiny-maths-en, spanish: tiny-spanish}}
base: base
parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness:
{fitness}  tasks: [{{task: {}/arith-es.yaml, split: search, limit: 6{task}}}]
search: {{optimizer: random, evals: 1, seed: 5}}
final: {{finalists: 1, selection: {{limit: 4}}, test: {{limit: 4}}}}
",
        evals.display()
    );
    fs::write(&file, text).unwrap();
    file
}

fn arg(path: &Path) -> String {
    path.display().to_string()
}

fn check(file: &Path) -> (Value, String) {
    let output = heterosis(&["check", &arg(file), "--json"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), stderr)
}

/// Chat models were asked without their template, whatever they were trained on.
#[test]
fn a_space_asks_through_the_template_where_all_models_bring_one() {
    let tmp = tempfile::tempdir().unwrap();
    family(tmp.path(), &[]);
    let is_chat = |fitness: &str, task: &str| {
        let (findings, stderr) = check(&space(tmp.path(), fitness, task));
        let is_chat = findings["tasks"][0]["chat_template"].as_bool();
        (is_chat.unwrap_or_else(|| panic!("{stderr}")), findings)
    };
    assert!(is_chat("", "").0);
    assert!(!is_chat("  chat_template: off\n", "").0);
    assert!(is_chat("  chat_template: off\n", ", chat_template: on").0);

    fs::remove_file(tmp.path().join("tiny-base/chat_template.jinja")).unwrap();
    let (asks, findings) = is_chat("", "");
    let warnings = findings["warnings"].to_string();
    assert!(!asks && warnings.contains("base brings no chat template"), "{warnings}");
    assert!(
        is_chat("  chat_template: on\n", "").0,
        "the base is asked in plain text"
    );
    for model in ["tiny-maths-en", "tiny-spanish"] {
        fs::remove_file(tmp.path().join(model).join("chat_template.jinja")).unwrap();
    }
    let (_, refused) = check(&space(tmp.path(), "  chat_template: on\n", ""));
    assert!(
        refused.contains("none of the models brings a chat template"),
        "{refused}"
    );
    let (_, refused) = check(&space(tmp.path(), "", ", system: Think."));
    assert!(refused.contains("no chat template to say it in"), "{refused}");
    let (_, refused) = check(&space(tmp.path(), "", ", max_new_tokens: 0"));
    assert!(refused.contains("answers of no tokens"), "{refused}");
}

/// What a chat child was asked is asked again of its export, through the template that it takes along.
#[test]
fn a_chat_child_is_searched_resumed_exported_and_verified() {
    let tmp = tempfile::tempdir().unwrap();
    family(tmp.path(), &[]);
    let scores = |run: &Path| -> Vec<(String, f64)> {
        let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
        let records = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let scored = records.filter(|r| r["event"] == "candidate_scored");
        scored
            .map(|r| (r["id"].to_string(), r["fitness"].as_f64().unwrap()))
            .collect()
    };
    let searched = |name: &str, fitness: &str, task: &str| {
        let run = tmp.path().join(name);
        good(&[
            "search",
            &arg(&space(tmp.path(), fitness, task)),
            "--run",
            &arg(&run),
            "--headless",
        ]);
        run
    };
    let plain = searched("plain", "  chat_template: off\n", "");
    let chat = searched("chat", "", "");
    assert_eq!(scores(&plain), scores(&chat), "this template changes nothing");
    let told = searched("told", "  system: Perro azul casa.\n", "");
    assert_ne!(scores(&told), scores(&chat), "what the system says is read");
    let cut = searched("cut", "", ", max_new_tokens: 1");
    assert_ne!(scores(&cut), scores(&chat));

    let (child, provenance) = (tmp.path().join("child"), tmp.path().join("child/provenance.json"));
    good(&["export", &arg(&told), "best", &arg(&child)]);
    assert!(fs::read_to_string(provenance).unwrap().contains("Perro azul casa. "));
    assert_eq!(fs::read_to_string(child.join("chat_template.jinja")).unwrap(), TEMPLATE);
    good(&["verify", &arg(&child)]);
}

/// A prompt was continued as it stood, as of a base model.
#[test]
fn generate_speaks_through_the_template() {
    let tmp = tempfile::tempdir().unwrap();
    family(tmp.path(), &["tiny-base"]);
    let prompts = tmp.path().join("prompts.jsonl");
    fs::write(&prompts, "{\"prompt\": \"hola\"}\n").unwrap();
    let (model, base) = (
        arg(&tmp.path().join("tiny-spanish")),
        arg(&tmp.path().join("tiny-base")),
    );
    let words = |model: &str, more: &[&str]| {
        let prompts = arg(&prompts);
        let args = [
            &[
                "generate",
                model,
                "--prompts",
                &prompts,
                "--max-new-tokens",
                "8",
                "--json",
            ],
            more,
        ]
        .concat();
        heterosis(&args).output().unwrap()
    };
    let text = |output: std::process::Output| {
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["outputs"][0]["token_ids"].clone()
    };
    let plain = text(words(&model, &[]));
    assert_eq!(text(words(&model, &["--apply-chat-template"])), plain);
    let told = ["--apply-chat-template", "--system-instruction", "Perro azul casa."];
    assert_ne!(text(words(&model, &told)), plain);
    let refused = words(&base, &["--apply-chat-template"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds no chat template"));
}
