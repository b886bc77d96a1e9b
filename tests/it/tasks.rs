//! Tasks as people have them: built in, of their own, and of lm-evaluation-harness.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use heterosis::eval::{DataDirs, Question, Split, Task, TaskOptions};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn heterosis(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heterosis"))
        .args(args)
        .current_dir(dir)
        .env("HETEROSIS_DATA", dir)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A row in the form of the published ones, asked by a built-in task in lm-evaluation-harness's way.
fn asked(task: &str, file: &str, row: &str) -> Question {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{row}\n")).unwrap();
    let dirs = DataDirs {
        roots: vec![dir.path().into()],
    };
    let task = Task::load(task, &TaskOptions::default(), &dirs).unwrap();
    task.questions(Split::Benchmark).unwrap().remove(0)
}

/// Prompts and choices as lm-eval 0.4.13 has them (`tests/peers/tasks.py` compares all of them, on other rows).
#[test]
fn built_in_tasks_ask_as_the_harness_does() {
    let choices = |question: &Question| -> Vec<String> { question.choices.iter().map(|c| c.text.clone()).collect() };
    let arc = asked(
        "arc_easy",
        "allenai/ai2_arc/ARC-Easy/test.jsonl",
        r#"{"question": "Why?", "choices": {"text": ["a b", "c"], "label": ["1", "2"]}, "answerKey": "2"}"#,
    );
    assert_eq!(
        (arc.prompt.text().as_str(), &arc.right[..]),
        ("Question: Why?\nAnswer:", &[1][..])
    );
    assert_eq!(choices(&arc), ["a b", "c"]);
    let hellaswag = asked(
        "hellaswag",
        "Rowan/hellaswag/default/validation.jsonl",
        r#"{"activity_label": "Baking", "ctx_a": "She kneads [title] it.", "ctx_b": "the DOG", "endings": [" [step] it's  so ", "b", "c", "d"], "label": "3"}"#,
    );
    assert_eq!(
        hellaswag.prompt.text(),
        "Baking: She kneads.  it. The dog".replace(".  it", ". it")
    );
    assert_eq!(choices(&hellaswag), [" it's so", "b", "c", "d"]);
    assert_eq!(hellaswag.right, [3]);
    let winogrande = asked(
        "winogrande",
        "allenai/winogrande/winogrande_xl/validation.jsonl",
        r#"{"sentence": "Ann met Eve, so _  smiled. ", "option1": "Ann", "option2": "Eve", "answer": "2"}"#,
    );
    let questions: Vec<&str> = winogrande
        .choices
        .iter()
        .filter_map(|c| c.question.as_deref())
        .collect();
    assert_eq!(questions, ["Ann met Eve, so Ann", "Ann met Eve, so Eve"]);
    assert_eq!(
        (winogrande.choices[0].continuation.as_str(), &winogrande.right[..]),
        ("smiled.", &[1][..])
    );
    let boolq = asked(
        "boolq",
        "aps/super_glue/boolq/validation.jsonl",
        r#"{"passage": "P.", "question": "is it", "label": 1}"#,
    );
    assert_eq!(boolq.prompt.text(), "P.\nQuestion: is it?\nAnswer:");
    assert_eq!(
        (boolq.gold.as_str(), choices(&boolq)),
        ("yes", vec!["no".to_string(), "yes".into()])
    );
    let truthful = asked(
        "truthfulqa_mc2",
        "truthfulqa/truthful_qa/multiple_choice/validation.jsonl",
        r#"{"question": "Is it?", "mc2_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 1]}}"#,
    );
    assert!(truthful.prompt.text().ends_with("Barcelona, Spain.\n\nQ: Is it?\nA:"));
    assert_eq!(truthful.right, [0, 2]);
    // A row's own `subject` stood in the preamble in place of the task's.
    let mmlu = asked(
        "mmlu_us_foreign_policy",
        "cais/mmlu/us_foreign_policy/test.jsonl",
        r#"{"question": " Who? ", "choices": ["p", "q", "r", "s"], "answer": 2, "subject": "x"}"#,
    );
    let expected = "The following are multiple choice questions (with answers) about us foreign policy.\n\n\
                    Who?\nA. p\nB. q\nC. r\nD. s\nAnswer:";
    assert_eq!((mmlu.prompt.text().as_str(), mmlu.gold.as_str()), (expected, "C"));
    let xcopa = asked(
        "xcopa_it",
        "cambridgeltl/xcopa/it/test.jsonl",
        r#"{"premise": "L'uomo ride.", "choice1": "È felice.", "choice2": "Piove.", "question": "cause", "label": 0}"#,
    );
    assert_eq!(
        (xcopa.prompt.text().as_str(), xcopa.gold.as_str()),
        ("L'uomo ride perché", "è felice.")
    );
    let xnli = asked(
        "xnli_es",
        "facebook/xnli/es/validation.jsonl",
        r#"{"premise": "Llueve", "hypothesis": "Hay agua.", "label": 0}"#,
    );
    assert_eq!(
        (xnli.prompt.text().as_str(), xnli.gold.as_str()),
        ("", "Llueve, correcto? Sí, Hay agua.")
    );
    let maths = asked(
        "minerva_math500",
        "HuggingFaceH4/MATH-500/default/test.jsonl",
        r#"{"problem": "What?", "solution": "So $\\boxed{\\frac12}$."}"#,
    );
    assert!(maths.prompt.text().ends_with("\n\nProblem:\nWhat?\n\nSolution:"));
    assert!(
        maths
            .prompt
            .text()
            .starts_with("Problem:\nFind the domain of the expression")
    );
    assert_eq!((maths.prompt.shots.len(), maths.gold.as_str()), (4, "\\frac12"));
    let ifeval = asked(
        "ifeval",
        "google/IFEval/default/train.jsonl",
        r#"{"key": 1, "prompt": "Say.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": null}]}"#,
    );
    assert_eq!(ifeval.prompt.text(), "Say.");
    assert!(ifeval.gold.contains("no_comma"), "{}", ifeval.gold);
}

#[test]
fn a_subject_is_a_task_and_a_group_is_several() {
    let names = |name: &str| -> Vec<String> {
        let all = heterosis::eval::expand(name, None).unwrap();
        all.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("mmlu").len(), 57);
    assert!(names("mmlu_stem").contains(&"mmlu_anatomy".to_string()) && names("mmlu_stem").len() < 57);
    assert_eq!(names("mmlu_anatomy"), ["mmlu_anatomy"]);
    assert_eq!(heterosis::eval::groups("mmlu").unwrap().len(), 5);
    let belebele = heterosis::eval::expand("belebele_spa_Latn", None).unwrap();
    assert_eq!(belebele, [("belebele".to_string(), "spa_Latn".to_string())]);
    let message = heterosis::eval::expand("mmlu_anatmy", None).unwrap_err().to_string();
    assert!(message.contains("anatomy"), "{message}");
}

/// `task check` found nothing wrong with a field that no row has, a file that is not there and one without a row; the last
/// was "n = 0, NaN" to `eval`, and a success.
#[test]
fn a_task_is_checked_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..12)
        .map(|n| format!("{{\"q\": \"{n} + 1?\", \"a\": \"{}\"}}\n", n + 1))
        .collect();
    fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    fs::write(dir.path().join("none.jsonl"), "").unwrap();
    let task = |name: &str, field: &str, file: &str| {
        let yaml = format!(
            "task: t\ntype: generate\ndata: {{search: {file}}}\nprompt: '{{{{{field}}}}}'\ntarget: '{{{{a}}}}'\n"
        );
        fs::write(dir.path().join(name), yaml).unwrap();
    };
    task("good.yaml", "q", "rows.jsonl");
    said(&heterosis(dir.path(), &["task", "check", "./good.yaml"]));
    for (name, field, file, word) in [
        ("field.yaml", "quest", "rows.jsonl", "quest"),
        ("gone.yaml", "q", "gone.jsonl", "beside the task file"),
        ("none.yaml", "q", "none.jsonl", "no questions in its search split"),
    ] {
        task(name, field, file);
        let output = heterosis(dir.path(), &["task", "check", &format!("./{name}")]);
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && words.contains(word), "{name}: {words}");
    }
    let model = tiny().display().to_string();
    let args = ["eval", &model, "--task", "./none.yaml", "--split", "search"];
    let words = refused(&heterosis(dir.path(), &args));
    assert!(words.contains("no questions in its search split"), "{words}");
}

fn tiny() -> PathBuf {
    root().join("models/tiny-maths-en")
}

#[test]
fn a_task_of_ones_own_is_written_tried_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let told = said(&heterosis(dir.path(), &["task", "new", "capitals", "towns"]));
    assert!(told.contains("capitals.yaml") && told.contains("towns.csv"), "{told}");
    let again = refused(&heterosis(dir.path(), &["task", "new", "capitals"]));
    assert!(again.contains("capitals.yaml is there already"), "{again}");
    let model = tiny().display().to_string();
    let tried = said(&heterosis(
        dir.path(),
        &["task", "try", "capitals.yaml", &model, "--max-new-tokens", "4"],
    ));
    assert_eq!(tried.matches("── right is: ").count(), 3, "{tried}");
    assert!(
        tried.contains("Question: What is the capital of ") && tried.contains("of 3 right"),
        "{tried}"
    );
    // A quarter of the search is kept for the selection, and nothing is on both sides.
    let path = dir.path().join("capitals.yaml").display().to_string();
    let task = Task::load(&path, &TaskOptions::default(), &DataDirs::default()).unwrap();
    let ids = |split| -> Vec<String> { task.questions(split).unwrap().into_iter().map(|q| q.id).collect() };
    let (search, selection) = (ids(Split::Search), ids(Split::Selection));
    assert_eq!(search.len() + selection.len(), 8);
    assert!(search.iter().all(|id| !selection.contains(id)));
    assert!(task.split_off_rule().unwrap().contains("a quarter"));
    // Without filters the first line that says something is the answer.
    let verdict = &task.extract("\n Oslo.\nQuestion: What", "Oslo").unwrap()[0];
    assert_eq!((verdict.0.as_str(), verdict.1.exact_match), ("answer", 1.0));
}

#[test]
fn a_task_is_written_for_the_fields_that_a_file_has() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("mine.tsv"),
        "id\tproblem\tlabel\n1\ta?\tb\n2\tc?\td\n3\te?\tf\n",
    )
    .unwrap();
    said(&heterosis(dir.path(), &["task", "new", "mine", "--data", "mine.tsv"]));
    let text = fs::read_to_string(dir.path().join("mine.yaml")).unwrap();
    assert!(text.contains("{{problem}}") && text.contains("{{label}}"), "{text}");
}

/// File, line, field, the nearest one, and the fields that exist.
#[test]
fn a_field_that_is_missing_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("q.csv"), "question,answer\na,b\n").unwrap();
    let yaml = "task: t\ndata: {test: q.csv}\nprompt: '{{qestion}}'\ntarget: '{{answer}}'\n";
    fs::write(dir.path().join("t.yaml"), yaml).unwrap();
    let path = dir.path().join("t.yaml").display().to_string();
    let task = Task::load(&path, &TaskOptions::default(), &DataDirs::default()).unwrap();
    let message = task.questions(Split::Test).unwrap_err().to_string();
    for part in [
        "q.csv:2:",
        "'qestion'",
        "did you mean 'question'",
        "answer, question",
        "t: prompt",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn samples_are_scored_together_and_the_same_for_a_seed() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny().display().to_string();
    let task = root().join("evals/arith-en.yaml").display().to_string();
    let eval = |seed: &str, limit: &str| {
        let args = [
            "eval",
            &model,
            "--task",
            &task,
            "--split",
            "test",
            "--limit",
            limit,
            "--samples",
            "5",
            "--temperature",
            "1",
            "--seed",
            seed,
            "--score",
            "pass@3",
            "--json",
            "--answers",
            "a.jsonl",
        ];
        let json: serde_json::Value = serde_json::from_str(&said(&heterosis(dir.path(), &args))).unwrap();
        let answers = fs::read_to_string(dir.path().join("a.jsonl")).unwrap();
        fs::remove_file(dir.path().join("a.jsonl")).unwrap();
        let outputs = answers.lines().map(|line| {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap();
            answer["output"].as_str().unwrap().to_string()
        });
        (json["tasks"][0].clone(), outputs.collect::<Vec<_>>())
    };
    let (score, outputs) = eval("1", "6");
    assert_eq!(score["primary"], "pass@3");
    let value = |name: &str| score["scores"][name]["value"].as_f64().unwrap();
    assert!(value("pass@1") <= value("pass@3") && value("pass@3") <= value("pass@5"));
    let (_, fewer) = eval("1", "2");
    assert_eq!(outputs[..2], fewer[..], "the same in other company");
    let (_, other) = eval("2", "6");
    assert_ne!(outputs, other);
}

#[test]
fn the_harnesss_files_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let file = "task: sky\ndataset_path: somebody/sky\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n\
                doc_to_choice: choices\ndoc_to_target: label\n";
    fs::write(dir.path().join("sky.yaml"), file).unwrap();
    fs::write(
        dir.path().join("odd.yaml"),
        format!("{file}process_docs: !function utils.f\n"),
    )
    .unwrap();
    let checked = heterosis(dir.path(), &["task", "check", "--json", "sky.yaml", "odd.yaml"]);
    assert_eq!(checked.status.code(), Some(2), "one of them cannot be read");
    let json: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(
        (&json["tasks"][0]["ok"], &json["tasks"][0]["tasks"][0]),
        (&true.into(), &"sky".into())
    );
    assert_eq!(
        (&json["tasks"][1]["ok"], &json["tasks"][1]["key"]),
        (&false.into(), &"process_docs".into())
    );
    let model = tiny().display().to_string();
    let missing = refused(&heterosis(dir.path(), &["eval", &model, "--task", "sky.yaml"]));
    assert!(missing.contains("somebody/sky/default/test.jsonl"), "{missing}");
    assert!(missing.contains("heterosis data pull somebody/sky"), "{missing}");
}
