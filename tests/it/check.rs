//! `heterosis check`: what it says before a night is spent must be what the night then finds.

use std::{fs, path::Path, process::Output};

use serde_json::Value;

use super::program::{heterosis, root, space_over_family};

fn check(file: &Path, args: &[&str]) -> Output {
    let file = file.display().to_string();
    heterosis(&[&["check", &file], args].concat()).output().unwrap()
}

fn says(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    out + &err
}

fn document(file: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output = check(file, &[args, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", says(&output)));
    (output.status.code(), parsed)
}

/// The rest of a space over the embedded family that asks one small task.
fn rest(parameters: &str, finale: &str) -> String {
    let task = root().join("evals/arith-es.yaml").display().to_string();
    format!(
        "parameter_space: {parameters}\nfitness: {{tasks: [{{task: {task}, limit: 12}}]}}\nsearch: {{evals: 40, seed: 1}}\n{finale}"
    )
}

/// The final was not costed at all, and half of what a run held in memory was not in the estimate.
#[test]
fn a_space_is_costed_with_its_final() {
    let tmp = tempfile::tempdir().unwrap();
    let parameters = "{method: [ties, task_arithmetic], genes: {weight: [0, 1.5]}}";
    let file = space_over_family(
        tmp.path(),
        &rest(parameters, "final: {finalists: 3, test: {limit: all}}\n"),
    );
    let (code, told) = document(&file, &[]);
    assert_eq!((code, &told["ok"]), (Some(0), &Value::Bool(true)), "{told}");
    let asked = &told["tasks"][0]["asked"];
    assert_eq!(asked[0], serde_json::json!(["search", 12]));
    assert_eq!(asked[1], serde_json::json!(["selection", 400]), "the usual limit");
    let all = told["tasks"][0]["questions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|q| q[0] == "test")
        .unwrap();
    assert_eq!(asked[2][1], all[1]);
    let parts = told["final"].as_array().unwrap();
    // Three parents, five unsearched merges, three finalists, the mean and the best random draw.
    assert_eq!(
        (&parts[0]["phase"], &parts[0]["examinees"]),
        (&"selection".into(), &13.into())
    );
    let seconds: f64 = parts.iter().map(|part| part["seconds"].as_f64().unwrap()).sum();
    assert!(seconds > 0.0 && (told["final_seconds"].as_f64().unwrap() - seconds).abs() < 1e-6);
    assert_eq!(
        (&told["sample"]["drawn"], &told["sample"]["failed"]),
        (&64.into(), &0.into())
    );
    assert!(told["memory_bytes"].as_u64().is_none_or(|bytes| bytes > 20_000_000));
    assert!(told["disk_bytes"].as_u64().unwrap() > 0 && told["disk_free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(told["evals"], 40);
    assert_eq!(document(&file, &["--evals", "90"]).1["evals"], 90);
    assert!(document(&file, &["--for", "2h"]).1["evals"].as_u64().unwrap() > 90);
    assert!(
        !tmp.path().join("runs").exists() && fs::read_dir(tmp.path()).unwrap().count() == 1,
        "it leaves nothing"
    );
}

/// A guide of this machine held its weights and took its time, and neither was in the estimate.
#[test]
fn a_guide_is_costed_with_its_search() {
    let tmp = tempfile::tempdir().unwrap();
    let parameters = "{method: [ties, task_arithmetic], genes: {weight: [0, 1.5]}}";
    let model = root().join("models/tiny-base").display().to_string();
    let guide = format!("population: 8, guide: {{model: {model}, tokens: 16, every: 2}}");
    let text = rest(parameters, "").replace("seed: 1", &format!("seed: 1, {guide}"));
    let (code, told) = document(&space_over_family(tmp.path(), &text), &[]);
    assert_eq!(code, Some(0), "{told}");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{told}"));
    let (seconds, bytes) = (
        number(&told["guide"]["seconds"]),
        number(&told["guide"]["memory_bytes"]),
    );
    assert_eq!(told["guide"]["candidates"], 16, "two generations of eight");
    let base = told["models"]
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["name"] == "base");
    assert!(seconds > 0.0 && bytes > 4.0 * number(&base.unwrap()["parameters"]));
    assert!(told["memory_bytes"].as_f64().is_none_or(|all| all > bytes));
    // Three parents, five unsearched merges and 40 candidates; advice after each 16 of those.
    let expected = 48.0 * number(&told["candidate_seconds"]) + 40.0 / 16.0 * seconds;
    let search = number(&told["search_seconds"]);
    assert!((search - expected).abs() < 1e-6 * search, "{search}, not {expected}");
}

/// `check` said that everything fits, and the next command died of a split that its task does not have.
#[test]
fn every_split_that_a_run_opens_is_opened() {
    let tmp = tempfile::tempdir().unwrap();
    let rows: Vec<String> = (0..30)
        .map(|i| format!("{{\"text\": \"text {i}\", \"label\": \"good\"}}\n"))
        .collect();
    fs::write(tmp.path().join("s.jsonl"), rows.concat()).unwrap();
    let task = |splits: &str| {
        let text = format!(
            "task: sentiment\ntype: multiple_choice\nlang: en\ndata:\n{splits}prompt: \"Review: {{{{text}}}}\\nSentiment:\"\n\
             choices: [good, bad]\ngold: \"{{{{label}}}}\"\n"
        );
        fs::write(tmp.path().join("sentiment.yaml"), text).unwrap();
    };
    let space = "parameter_space: {method: linear, genes: {weight: [0, 1]}}\nfitness: {tasks: [sentiment.yaml]}\nsearch: \
                 {evals: 6}\n";
    let file = space_over_family(tmp.path(), space);
    let two = "  search: {file: s.jsonl, rows: 0..20}\n  selection: {file: s.jsonl, rows: 20..30}\n";
    task(two);
    let output = check(&file, &[]);
    let words = says(&output);
    assert_eq!(output.status.code(), Some(2), "{words}");
    for word in [
        "'sentiment' has no split 'test'",
        "rows: 40..60",
        "final: {selection: {split: NAME}",
    ] {
        assert!(words.contains(word), "'{word}' is not in: {words}");
    }
    // A file that is not there is found too, whichever split it is of.
    task(&format!("{two}  test: {{file: missing.jsonl}}\n"));
    let output = check(&file, &[]);
    assert!(
        output.status.code() == Some(2) && says(&output).contains("missing.jsonl"),
        "{}",
        says(&output)
    );
}

/// A program that is not there, and one that dies, were found by the search, parent by parent.
#[test]
fn a_command_is_started_once_and_asked() {
    let tmp = tempfile::tempdir().unwrap();
    let space = |command: &str| {
        let text = format!("name: c\ngenes: {{x: [0, 10]}}\nfitness: {{command: {command}}}\nsearch: {{evals: 6}}\n");
        let file = tmp.path().join("c.yaml");
        fs::write(&file, text).unwrap();
        file
    };
    let (code, told) = document(&space("[pythonn, x.py]"), &[]);
    assert_eq!((code, &told["ok"]), (Some(1), &Value::Bool(false)));
    assert!(told["problems"][0].as_str().unwrap().contains("pythonn"), "{told}");

    let output = check(&space("[sh, -c, 'echo no module named lm_eval >&2; exit 1']"), &[]);
    let words = says(&output);
    assert!(
        output.status.code() == Some(1) && words.contains("no module named lm_eval"),
        "{words}"
    );
    assert!(!words.contains("everything fits"));

    let answers =
        r#"[sh, -c, 'read -r l; id=${l#*\"id\":\"}; id=${id%%\"*}; echo "{\"id\":\"$id\",\"scores\":{\"f\":0.5}}"']"#;
    let (code, told) = document(&space(answers), &[]);
    assert_eq!(
        (code, &told["command"]["scores"][0]),
        (Some(0), &serde_json::json!(["f", 0.5])),
        "{told}"
    );
    assert!(told["search_seconds"].as_f64().unwrap() > 0.0 && told["final_seconds"].as_f64().unwrap() > 0.0);

    // Six of six candidates failed for a misspelt name that the probe had shown.
    let file = space(&format!("{answers}, weights: {{g: 1}}"));
    let (code, told) = document(&file, &[]);
    let problem = told["problems"][0].as_str().unwrap();
    assert!(code == Some(1) && problem.contains("'f' is not known here"), "{told}");
}

/// "Everything fits", and then every candidate was turned away by the guard.
#[test]
fn a_guard_that_lets_nobody_in_is_seen_coming() {
    let tmp = tempfile::tempdir().unwrap();
    let told = |weights: &str| {
        let parameters = format!("{{method: task_arithmetic, genes: {{weight: {weights}}}}}");
        let rest = rest(&parameters, "").replace("limit: 12}]", "limit: 12}], guard: {perplexity_ratio: 1.5}");
        let file = space_over_family(tmp.path(), &rest);
        says(&check(&file, &[]))
    };
    assert!(told("[100, 1000]").contains("breed nothing but failures: the questions cannot be answered: collapsed"));
    assert!(!told("[0.5, 1.0]").contains("breed nothing"));
}

/// Two rows of one name stood in every table, and which of them had won nobody could tell.
#[test]
fn a_model_is_not_called_as_an_unsearched_merge() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space_over_family(
        tmp.path(),
        &rest("{method: task_arithmetic, genes: {weight: [0, 1.5]}}", ""),
    );
    let text = fs::read_to_string(&file).unwrap().replace("spanish:", "ties:");
    fs::write(&file, text).unwrap();
    let output = check(&file, &[]);
    let words = says(&output);
    assert!(
        output.status.code() == Some(2) && words.contains("models.ties: 'ties' is what"),
        "{words}"
    );
}

/// DELLA with densities that its epsilon does not allow fitted, as did a merge that leaves a parent out.
#[test]
fn spaces_whose_candidates_fail_or_leave_a_parent_out_are_told() {
    let tmp = tempfile::tempdir().unwrap();
    let della = rest("{method: della, genes: {weight: [0, 1], density: [0.3, 0.9]}}", "");
    let file = space_over_family(tmp.path(), &della);
    let output = check(&file, &[]);
    let words = says(&output);
    assert!(
        output.status.code() == Some(2) && words.contains("density: [0.3, 0.84]"),
        "{words}"
    );
    let run = tmp.path().join("run").display().to_string();
    let file = file.display().to_string();
    let search = heterosis(&["search", &file, "--run", &run, "--headless"])
        .output()
        .unwrap();
    assert_eq!(search.status.code(), Some(2), "{}", says(&search));
    assert!(!Path::new(&run).exists());

    let slerp = rest(
        "{method: slerp, genes: {t: [0, 1]}}",
        "final: {selection: {limit: 8}, test: {limit: 8}}\n",
    );
    let (_, told) = document(&space_over_family(tmp.path(), &slerp), &[]);
    let warnings = told["warnings"].to_string();
    assert!(
        warnings.contains("slerp mixes maths and spanish; no child of it has anything of base"),
        "{warnings}"
    );
}
