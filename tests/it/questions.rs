//! Questions that choose and questions that judge: what is refused, and what is said where it was allowed.

use std::{fs, path::Path};

use super::program::{good, heterosis, root, space_over_family};

/// Words that only a run whose questions were compared, and found apart, may use.
const CLAIMS: [&str; 7] = [
    "fresh",
    "sealed",
    "unseen",
    "never used",
    "never asked",
    "never saw",
    "no part in",
];

fn arg(path: &Path) -> String {
    path.display().to_string()
}

/// A space whose fitness and final are as given.
fn space(dir: &Path, tasks: &str, finale: &str) -> String {
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{tasks}]}}
search: {{optimizer: random, evals: 2, seed: 5}}
final: {{finalists: 1, {finale}}}
"
    );
    arg(&space_over_family(dir, &rest))
}

/// Both `check` and `search` refuse the space before anything runs, and name what they must.
fn refused(dir: &Path, space: &str, words: &[&str]) {
    let run = dir.join("run");
    for args in [vec!["check", space], vec!["search", space, "--run", &arg(&run)]] {
        let output = heterosis(&args)
            .env("HETEROSIS_DATA", root().join("crates/eval/tests/data/data"))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        for word in words.iter().chain(&["allow_overlap: true"]) {
            assert!(told.contains(word), "{args:?}: '{word}' is not in: {told}");
        }
    }
    assert!(!run.exists(), "nothing was begun");
}

/// Rows of the examination's test, in another order, with other white space and other names.
fn copy_of_the_test(dir: &Path) {
    let test = fs::read_to_string(root().join("evals/data/arith-es-test.jsonl")).unwrap();
    let mut rows: Vec<String> = test
        .lines()
        .take(40)
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let asked = row["question"].as_str().unwrap().replace(' ', "  ");
            let gold = row["answer"].as_str().unwrap().rsplit("#### ").next().unwrap();
            serde_json::json!({"texto": format!("Pregunta: {asked} "), "n": gold}).to_string()
        })
        .collect();
    rows.reverse();
    fs::write(dir.join("mine.jsonl"), rows.join("\n")).unwrap();
    let data = root().join("evals/data");
    for which in ["selection", "test"] {
        fs::copy(
            data.join(format!("arith-es-{which}.jsonl")),
            dir.join(format!("{which}.jsonl")),
        )
        .unwrap();
    }
}

const OWN: &str = "type: generate
lang: ca
data: {search: mine.jsonl, selection: other.jsonl, test: third.jsonl}
prompt: '{{texto}}'
target: '{{n}}'
gold: '{{n}}'
max_new_tokens: 8
metric: exact_match
filters: [{name: answer, number: {otherwise: last}}]
language_gate: false
";

/// The search was bred on the questions that its winner was then said to meet for the first time: by `split`, by an own task
/// whose splits are one file, by the same questions in another file, and as worked examples.
#[test]
fn what_chooses_does_not_judge() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let spanish = format!("{}/evals/arith-es.yaml", root().display());
    let test = format!("{{task: {spanish}, split: test, limit: 30}}");
    let leak = space(dir, &test, "selection: {limit: 30}, test: {limit: 50}");
    let both = ["30 of the 50 questions of arith-es (test, split test) are also in arith-es (search, split test)"];
    refused(dir, &leak, &both);
    let late = space(
        dir,
        &format!("{{task: {spanish}, limit: 30}}"),
        "selection: {split: test, limit: 30}, test: {split: test, limit: 30}",
    );
    refused(
        dir,
        &late,
        &["arith-es (test, split test) are also in arith-es (selection, split test)"],
    );

    copy_of_the_test(dir);
    let one_file = OWN
        .replace("other.jsonl", "mine.jsonl")
        .replace("third.jsonl", "mine.jsonl");
    fs::write(dir.join("own.yaml"), format!("task: own\n{one_file}")).unwrap();
    let own = arg(&dir.join("own.yaml"));
    refused(
        dir,
        &space(dir, &own, "selection: {limit: 9}, test: {limit: 9}"),
        &["9 of the 9 questions of own ca (test"],
    );

    // The same questions by another task, file, order, language and field, with other white space.
    fs::write(
        dir.join("other.yaml"),
        format!(
            "task: other\n{}",
            OWN.replace("other.jsonl", "spare.jsonl")
                .replace("third.jsonl", "spare.jsonl")
        ),
    )
    .unwrap();
    fs::write(dir.join("spare.jsonl"), "{\"texto\": \"eh?\", \"n\": 1}\n").unwrap();
    let tasks = format!(
        "{{task: {}, limit: 40}}, {{task: {spanish}, limit: 10}}",
        arg(&dir.join("other.yaml"))
    );
    let elsewhere = space(dir, &tasks, "selection: {limit: 10}, test: {limit: 50}");
    refused(
        dir,
        &elsewhere,
        &["40 of the 50 questions of arith-es (test, split test) are also in other ca (search"],
    );

    // Test questions as worked examples.
    let shots = format!(
        "task: shown\n{}shots: {{from: {{file: mine.jsonl}}, count: 3, draw: first_n}}\n",
        OWN.replace(
            "mine.jsonl, selection: other.jsonl, test: third.jsonl",
            "{file: spare.jsonl}, selection: spare2.jsonl, test: {file: mine.jsonl, rows: 0..9}"
        )
    );
    fs::write(dir.join("shown.yaml"), shots).unwrap();
    fs::write(dir.join("spare2.jsonl"), "{\"texto\": \"oh?\", \"n\": 1}\n").unwrap();
    let shown = space(dir, &arg(&dir.join("shown.yaml")), "test: {limit: 9}");
    refused(
        dir,
        &shown,
        &["of shown ca (test, split test) are also in shown ca (examples)"],
    );

    // And behind another example, in one that is shown.
    let rows = fs::read_to_string(dir.join("mine.jsonl")).unwrap();
    let within: Vec<String> = rows
        .lines()
        .enumerate()
        .map(|(i, row)| {
            let row: serde_json::Value = serde_json::from_str(row).unwrap();
            let text = format!(
                "How much is {i} and {i}?\nA: {}\nQ: {}",
                2 * i,
                row["texto"].as_str().unwrap()
            );
            serde_json::json!({"texto": text, "n": row["n"]}).to_string()
        })
        .collect();
    fs::write(dir.join("within.jsonl"), within.join("\n")).unwrap();
    let behind = fs::read_to_string(dir.join("shown.yaml")).unwrap();
    let behind = behind.replace("from: {file: mine.jsonl}", "from: {file: within.jsonl}");
    fs::write(dir.join("behind.yaml"), behind.replace("task: shown", "task: behind")).unwrap();
    let shown = space(dir, &arg(&dir.join("behind.yaml")), "test: {limit: 9}");
    refused(
        dir,
        &shown,
        &["3 of the 9 questions of behind ca (test, split test) are also in behind ca (examples)"],
    );

    // And behind a task's limit, where rounds of learning ask more.
    let own: Vec<String> = (0..12)
        .map(|i| serde_json::json!({"texto": format!("How much is {i} and {}?", i + 7), "n": 2 * i + 7}).to_string())
        .collect();
    fs::write(dir.join("late.jsonl"), format!("{}\n{rows}", own.join("\n"))).unwrap();
    let late = OWN.replace(
        "mine.jsonl, selection: other.jsonl, test: third.jsonl",
        "late.jsonl, selection: spare2.jsonl, test: mine.jsonl",
    );
    fs::write(dir.join("late.yaml"), format!("task: late\n{late}")).unwrap();
    let late = format!("{{task: {}, limit: 12}}", arg(&dir.join("late.yaml")));
    let file = space(dir, &late, "selection: {limit: 1}, test: {limit: 9}");
    let text = fs::read_to_string(&file).unwrap();
    let learns = text.replace(
        "optimizer: random",
        "optimizer: cma-es, learn: {teachers: answers, questions: 30, rounds: 2}",
    );
    assert_ne!(learns, text);
    fs::write(&file, learns).unwrap();
    refused(
        dir,
        &file,
        &["9 of the 9 questions of late ca (test, split test) are also in late ca (search, split search)"],
    );

    // A published benchmark's test questions, whatever file they are in.
    let published = fs::read_to_string(root().join("crates/eval/tests/data/data/gsm8k/test.jsonl")).unwrap();
    fs::write(dir.join("copied.jsonl"), published.replace("\"question\"", "\"texto\"")).unwrap();
    let copied = OWN
        .replace("mine.jsonl", "copied.jsonl")
        .replace("other.jsonl", "spare.jsonl")
        .replace("third.jsonl", "spare2.jsonl")
        .replace("'{{n}}'", "\"{{answer.split('####')[-1]}}\"");
    fs::write(dir.join("copied.yaml"), format!("task: copied\n{copied}")).unwrap();
    fs::write(dir.join("spare.jsonl"), "{\"texto\": \"eh?\", \"answer\": \"1\"}\n").unwrap();
    fs::write(dir.join("spare2.jsonl"), "{\"texto\": \"oh?\", \"answer\": \"1\"}\n").unwrap();
    let benchmark = space(dir, &arg(&dir.join("copied.yaml")), "test: {limit: 1}");
    refused(
        dir,
        &benchmark,
        &[
            "3 of the 3 questions of copied ca (search",
            "GSM8K's published test set",
        ],
    );
    refused(
        dir,
        &space(
            dir,
            "{task: gsm8k, split: test, limit: 3, shots: 0}",
            "test: {limit: 3}",
        ),
        &["GSM8K", "split test"],
    );
}

/// With `allow_overlap` such a run is begun, and then nobody says that its questions were new: neither the terminal nor the
/// report, the card, the provenance or `status`. A run whose questions were compared and found apart says it.
#[test]
fn an_allowed_overlap_takes_the_words_away() {
    let tmp = tempfile::tempdir().unwrap();
    let spanish = format!("{}/evals/arith-es.yaml", root().display());
    let held_out = format!(
        "held_out: [{{task: {}/evals/arith-en.yaml, limit: 8}}]",
        root().display()
    );
    let everything = |name: &str, tasks: &str, finale: &str| {
        let dir = tmp.path().join(name);
        fs::create_dir(&dir).unwrap();
        let file = space(&dir, tasks, &format!("{finale}, {held_out}"));
        let (run, out) = (dir.join("run"), dir.join("out"));
        let mut told = good(&["check", &file]) + &good(&["search", &file, "--run", &arg(&run), "--headless"]);
        for args in [
            vec!["status", &arg(&run)],
            vec!["status", &arg(&run), "--json"],
            vec!["watch", &arg(&run), "--headless"],
            vec!["compare", &arg(&run), &arg(&run)],
            vec!["runs", &arg(&dir)],
            vec!["report", &arg(&run)],
            vec!["export", &arg(&run), "best", &arg(&out)],
        ] {
            told += &good(&args.iter().map(AsRef::as_ref).collect::<Vec<&str>>());
        }
        let report = fs::read_dir(run.join("report"))
            .unwrap()
            .map(|file| file.unwrap().path());
        let exported = ["README.md", "provenance.json"].map(|file| out.join(file));
        for file in report.chain(exported) {
            told += &fs::read_to_string(file).unwrap();
        }
        (told, fs::read_to_string(out.join("README.md")).unwrap(), run, out)
    };
    let leaking = format!("{{task: {spanish}, split: test, limit: 12}}");
    let (told, card, run, out) = everything(
        "used",
        &leaking,
        "allow_overlap: true, selection: {split: test, limit: 12}, test: {split: test, limit: 12}",
    );
    for claim in CLAIMS {
        let at = told.to_lowercase().find(claim);
        let around = at.map(|at| told.chars().skip(at.saturating_sub(200)).take(400).collect::<String>());
        assert_eq!(around, None, "{claim}");
    }
    assert!(
        told.contains(
            "12 of the 12 questions of arith-es (test, split test) are also in arith-es (search, split test)"
        )
    );
    assert!(card.contains("Beware: "), "{card}");

    // What counts as an evaluation is the same everywhere.
    let json = |text: String| -> serde_json::Value { serde_json::from_str(&text).unwrap() };
    let provenance = json(fs::read_to_string(out.join("provenance.json")).unwrap());
    let status = json(good(&["status", &arg(&run), "--json"]));
    assert_eq!((&provenance["evals"], &status["evals"]), (&2.into(), &2.into()));
    assert_eq!(provenance["questions"]["overlaps"][0]["n"], 12);
    assert!(card.contains("2 evaluations"), "{card}");

    let apart = format!("{{task: {spanish}, limit: 12}}");
    let (told, ..) = everything("apart", &apart, "selection: {limit: 12}, test: {limit: 12}");
    assert!(told.contains("12 questions never used before") && told.contains("none is in two parts of the run"));
}

/// `resume --test-limit` walked into the search's own questions without a refusal, and read the test: the run was spoilt for good.
#[test]
fn a_resumed_run_asks_no_more_than_it_may() {
    let tmp = tempfile::tempdir().unwrap();
    let data = |split: &str| fs::read_to_string(root().join(format!("evals/data/arith-es-{split}.jsonl"))).unwrap();
    let rows = |text: &str, n: usize| text.lines().take(n).map(|l| format!("{l}\n")).collect::<String>();
    fs::write(tmp.path().join("mine.jsonl"), rows(&data("search"), 12)).unwrap();
    fs::write(tmp.path().join("other.jsonl"), rows(&data("selection"), 12)).unwrap();
    let test = rows(&data("test"), 10) + &rows(&data("search"), 12);
    fs::write(tmp.path().join("third.jsonl"), test).unwrap();
    let task = OWN.replace("texto", "question").replace("{{n}}", "{{answer}}");
    fs::write(tmp.path().join("own.yaml"), format!("task: own\n{task}")).unwrap();
    let file = space(
        tmp.path(),
        &format!("{{task: {}}}", arg(&tmp.path().join("own.yaml"))),
        "test: {limit: 10}",
    );
    let run = tmp.path().join("run");
    good(&["search", &file, "--run", &arg(&run), "--headless"]);

    // Killed when the winner was known and nobody had answered the test.
    let journal = run.join("journal.jsonl");
    let whole = fs::read_to_string(&journal).unwrap();
    let selected = whole.lines().position(|line| line.contains("\"selected\"")).unwrap();
    let cut: String = whole
        .lines()
        .take(selected + 1)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&journal, &cut).unwrap();
    let output = heterosis(&["resume", &arg(&run), "--headless", "--test-limit", "22"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("12 of the 22 questions of own ca (test, split test) are also in own ca (search"),
        "{told}"
    );
    assert_eq!(fs::read_to_string(&journal).unwrap(), cut, "nothing was written");
    let told = good(&["resume", &arg(&run), "--headless"]);
    assert!(told.contains("10 questions never used before"), "{told}");
}
