//! Run directories as processes share them and as time leaves them: begun, killed, damaged, changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use super::program::{begin, copy, good, heterosis, root, space_over_family, story, wait_for, workers};

/// A short search over the family; `spanish` is a copy that may be changed.
fn space(dir: &Path) -> PathBuf {
    copy(&root().join("models/tiny-spanish"), &dir.join("spanish"));
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, genes: {{weight: [0.0, 1.5]}}}}
fitness: {{tasks: [{{task: {}/evals/arith-es.yaml, split: search, limit: 8}}]}}
search: {{optimizer: random, evals: 4, seed: 5}}
final: {{finalists: 1, selection: {{limit: 6}}, test: {{limit: 6}}}}
",
        root().display()
    );
    let file = space_over_family(dir, &rest);
    let text = fs::read_to_string(&file).unwrap();
    let family = root().join("models/tiny-spanish");
    fs::write(&file, text.replace(&family.display().to_string(), "spanish")).unwrap();
    file
}

fn arg(path: &Path) -> String {
    path.display().to_string()
}

fn run(args: &[&str]) -> Output {
    heterosis(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Data that were missing left an empty journal, which `search` took for a run and `resume` for none.
#[test]
fn a_search_that_cannot_begin_leaves_no_directory() {
    let tmp = tempfile::tempdir().unwrap();
    let rest = "parameter_space: {method: task_arithmetic, genes: {weight: [0.0, 1.5]}}\nfitness: {tasks: [gsm8k]}\nsearch: \
                {evals: 2}\n";
    let file = space_over_family(tmp.path(), rest);
    let dir = tmp.path().join("run");
    let output = heterosis(&["search", &arg(&file), "--run", &arg(&dir)])
        .env("HETEROSIS_DATA", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!dir.exists());
}

#[test]
fn two_commands_on_one_run_and_those_who_only_look() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("space.yaml");
    fs::write(
        &file,
        "name: slow\ngenes: {x: [0, 1]}\nfitness: {command: [sh, -c, 'while read -r l; do id=${l#*\\\"id\\\":\\\"}; \
         id=${id%%\\\"*}; sleep 0.1; echo \"{\\\"id\\\":\\\"$id\\\",\\\"scores\\\":{\\\"f\\\":1}}\"; done']}\nsearch: {evals: \
         1000, optimizer: random}\n",
    )
    .unwrap();
    let dir = tmp.path().join("run");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&dir), "--headless"]);
    wait_for(1, &mut search, &dir);
    for args in [
        vec!["resume".to_string(), arg(&dir)],
        vec!["search".to_string(), arg(&file), "--run".into(), arg(&dir)],
    ] {
        let output = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let who = format!("`heterosis search {}", file.display());
        assert!(
            message.contains(&who) && message.contains(&format!("process {}", search.id())),
            "{message}"
        );
    }
    assert!(good(&["status", &arg(&dir), "--json"]).contains("\"state\":\"running\""));
    search.kill().unwrap();
    search.wait().unwrap();
    assert!(good(&["status", &arg(&dir), "--json"]).contains("\"state\":\"paused\""));
}

/// A parent was another one after the kill: exit code 0, and a p-value over two models.
#[test]
fn a_model_that_changed_since_a_run_began_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space(tmp.path());
    let dir = tmp.path().join("run");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&dir)]);
    wait_for(4, &mut search, &dir);
    search.kill().unwrap();
    search.wait().unwrap();
    let before = fs::read(dir.join("journal.jsonl")).unwrap();
    fs::copy(
        root().join("models/tiny-base/model.safetensors"),
        tmp.path().join("spanish/model.safetensors"),
    )
    .unwrap();
    let output = run(&["resume", &arg(&dir)]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("the model spanish"), "{}", stderr(&output));
    assert_eq!(fs::read(dir.join("journal.jsonl")).unwrap().len(), before.len());

    let said = good(&["resume", &arg(&dir), "--accept-changes"]);
    for said in [said, good(&["status", &arg(&dir)])] {
        assert!(
            said.contains("changed on its way") && said.contains("the model spanish"),
            "{said}"
        );
    }
    // Whoever was scored before the change is not what its recipe gives now, and is not exported as if it were.
    let out = tmp.path().join("export");
    let output = run(&["export", &arg(&dir), "best", &arg(&out)]);
    match output.status.success() {
        true => {
            let card = fs::read_to_string(out.join("README.md")).unwrap();
            assert!(card.contains("changed on its way"), "{card}");
        }
        false => assert!(
            stderr(&output).contains("something of it had changed"),
            "{}",
            stderr(&output)
        ),
    }
}

/// Another model gave advice after the kill, and nothing said so; and a run without its guide could not be simplified.
/// Models and run moved together were "something else", and without `space.yaml` a run was dead, though the journal is said to
/// hold all that is needed.
#[test]
fn a_run_that_was_moved_and_one_without_its_space_go_on() {
    let tmp = tempfile::tempdir().unwrap();
    let (before, after) = (tmp.path().join("before"), tmp.path().join("after"));
    fs::create_dir(&before).unwrap();
    let file = space(&before);
    let dir = before.join("run");
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&dir)]);
    wait_for(4, &mut search, &dir);
    search.kill().unwrap();
    search.wait().unwrap();
    fs::create_dir(before.join("moved")).unwrap();
    for file in ["journal.jsonl", "space.yaml"] {
        fs::copy(dir.join(file), before.join("moved").join(file)).unwrap();
    }

    fs::remove_file(dir.join("space.yaml")).unwrap();
    good(&["export", &arg(&dir), "parent-maths", &arg(&before.join("maths"))]);
    good(&["resume", &arg(&dir), "--headless"]);
    assert!(dir.join("space.yaml").exists());

    fs::rename(&before, &after).unwrap();
    let dir = after.join("moved");
    let space = dir.join("space.yaml");
    for command in ["resume", "export"] {
        let out = arg(&after.join("out"));
        let args = [command, &arg(&dir), "parent-maths", &out];
        let refused = run(if command == "export" { &args } else { &args[..2] });
        let said = stderr(&refused);
        assert!(
            !refused.status.success() && said.contains("space.yaml:"),
            "{command}, the way out: {said}"
        );
    }
    let corrected = fs::read_to_string(&space).unwrap().replace(&arg(&before), &arg(&after));
    fs::write(&space, corrected).unwrap();
    let said = good(&["resume", &arg(&dir), "--headless"]);
    assert!(!said.contains("changed on its way"), "{said}");
    good(&["export", &arg(&dir), "best", &arg(&after.join("out"))]);
}

#[test]
fn a_guide_that_changed_since_a_run_began_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, guide, dir) = (space(tmp.path()), tmp.path().join("guide"), tmp.path().join("run"));
    copy(&root().join("models/tiny-base"), &guide);
    let text = fs::read_to_string(&file).unwrap();
    let asks = format!("seed: 5, guide: {{model: {}, tokens: 4}}}}", guide.display());
    fs::write(&file, text.replace("seed: 5}", &asks)).unwrap();
    let mut search = begin(&["search", &arg(&file), "--run", &arg(&dir)]);
    wait_for(4, &mut search, &dir);
    search.kill().unwrap();
    search.wait().unwrap();
    let others = root().join("models/tiny-spanish/model.safetensors");
    fs::copy(others, guide.join("model.safetensors")).unwrap();
    let output = run(&["resume", &arg(&dir)]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("(search.guide)"), "{}", stderr(&output));
    good(&["resume", &arg(&dir), "--accept-changes"]);
    fs::remove_dir_all(&guide).unwrap();
    good(&["simplify", &arg(&dir), "--limit", "8", "--json"]);
}

/// A byte in the middle of a journal was another one: either nobody saw it, or nothing said how to go on.
#[test]
fn a_damaged_journal_is_named_and_can_go_on() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space(tmp.path());
    let dir = tmp.path().join("run");
    good(&["search", &arg(&file), "--run", &arg(&dir)]);
    let whole = story(&dir);
    let journal = dir.join("journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let line = text.lines().position(|l| l.contains("candidate_scored")).unwrap() + 1;
    fs::write(&journal, text.replacen("\"fitness\":0", "\"fitness\":9", 1)).unwrap();
    // `watch` ended without a word.
    for command in ["status", "report", "resume", "watch"] {
        let output = run(&[command, &arg(&dir)]);
        let message = stderr(&output);
        assert!(!output.status.success(), "{command}");
        assert!(
            message.contains(&format!("journal.jsonl:{line}:")),
            "{command}: {message}"
        );
        assert!(message.contains("--truncate-damaged"), "{command}: {message}");
    }
    good(&["resume", &arg(&dir), "--truncate-damaged"]);
    assert_eq!(story(&dir), whole);
    assert!(dir.join("journal.jsonl.damaged").exists());
}

/// `status` of a run whose command had died said "failed", and not why; its questions could be the same in all splits.
#[test]
fn a_run_of_a_command_says_why_it_failed_and_what_it_asks_twice() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, run) = (tmp.path().join("space.yaml"), tmp.path().join("run"));
    let space = |command: &str, more: &str| {
        let text = format!(
            "name: dead\ngenes: {{x: [0, 1]}}\nfitness: {{command: [sh, -c, '{command}'], patience: 0.2{more}}}\nsearch: {{evals: 4}}\n"
        );
        fs::write(&file, text).unwrap();
    };
    space("echo no GPU here >&2; exit 3", "");
    let search = heterosis(&["search", &arg(&file), "--run", &arg(&run), "--headless"])
        .output()
        .unwrap();
    assert_eq!(search.status.code(), Some(1));
    let told = good(&["status", &arg(&run)]);
    assert!(
        told.contains("it failed: 3 candidates in a row failed") && told.contains("no GPU here"),
        "{told}"
    );
    let json: serde_json::Value = serde_json::from_str(&good(&["status", &arg(&run), "--json"])).unwrap();
    assert_eq!(json["state"], "failed");
    assert!(json["failure"].as_str().unwrap().contains("no GPU here"), "{json}");

    let line = |id: &str, split: &str| format!("{{\"id\": \"{id}\", \"split\": \"{split}\"}}\n");
    fs::write(
        tmp.path().join("q.jsonl"),
        line("1", "search") + &line("1", "selection"),
    )
    .unwrap();
    space("exit 3", ", questions: q.jsonl");
    for command in ["check", "search"] {
        let refused = heterosis(&[command, &arg(&file)])
            .current_dir(tmp.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{command}: {said}");
        assert!(
            said.contains("1 of the 1 question of questions") && said.contains("compared by their ids"),
            "{said}"
        );
    }
}

/// A command's final asked the winner again, and all but the terminal went on telling what the search had said of it.
#[test]
fn what_a_commands_final_says_is_said_everywhere() {
    let tmp = tempfile::tempdir().unwrap();
    let (file, run) = (tmp.path().join("space.yaml"), tmp.path().join("run"));
    let program = r#"while read -r l; do id=${l#*\"id\":\"}; id=${id%%\"*}; case $l in *\"split\":\"search\"*) f=7;; *) f=2;; esac; echo "{\"id\":\"$id\",\"scores\":{\"f\":$f}}"; done"#;
    let text = format!(
        "name: lucky\ngenes: {{x: [0, 1]}}\nfitness: {{command: [sh, -c, '{program}'], weights: {{f: 1}}}}\nsearch: {{evals: 4}}\nfinal: \
         {{finalists: 2}}\n"
    );
    fs::write(&file, text).unwrap();
    good(&["search", &arg(&file), "--run", &arg(&run), "--headless"]);
    let told = good(&["status", &arg(&run)]);
    assert!(told.contains("7 in the search, 2 in the final"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&good(&["status", &arg(&run), "--json"])).unwrap();
    assert_eq!(
        (&json["best"]["fitness"], &json["best"]["selection"]["value"]),
        (&7.0.into(), &2.0.into())
    );
    good(&["report", &arg(&run)]);
    let page = fs::read_to_string(run.join("report/report.html")).unwrap();
    assert!(
        page.contains("with 2.000") && page.contains("in the search it had 7.000"),
        "{page}"
    );
}

/// Every run asked its parents, its unsearched merges and whoever it had met before the same questions again.
#[test]
fn a_second_run_asks_nothing_that_the_first_has_answered() {
    let tmp = tempfile::tempdir().unwrap();
    let file = space(tmp.path());
    let cache = tmp.path().join("answers");
    let with_cache = |args: &[&str]| {
        let output = heterosis(args).env("HETEROSIS_CACHE", &cache).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let asked = |name: &str| -> Vec<(String, bool, u64)> {
        let run = tmp.path().join(name);
        with_cache(&["search", &arg(&file), "--run", &arg(&run), "--headless"]);
        let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
        let records = journal
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let scored = records.filter(|r| r["event"] == "candidate_scored");
        let word = |r: &serde_json::Value| {
            (
                r["id"].to_string(),
                r["cached"] == true,
                r["fitness"].as_f64().unwrap().to_bits(),
            )
        };
        // Parents and unsearched merges.
        let all: Vec<_> = scored
            .filter(|r| !r["id"].as_str().unwrap().starts_with("c0"))
            .map(|r| word(&r))
            .collect();
        assert!(!run.join("cache.sled").exists(), "answers lie in one place");
        all
    };
    let first = asked("first");
    assert!(first.iter().all(|(_, cached, _)| !cached), "{first:?}");
    // Another range, and another name for a model: parents and unsearched merges are what they were.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("[0.0, 1.5]", "[0.0, 1.4]")
            .replace("spanish: spanish", "sp: spanish"),
    )
    .unwrap();
    let second = asked("second");
    for (id, cached, fitness) in &second {
        assert!(cached, "{second:?}");
        let before = first
            .iter()
            .find(|(first, ..)| *first == id.replace("sp\"", "spanish\""))
            .unwrap();
        assert_eq!(before.2, *fitness, "{id}");
    }

    let shown: serde_json::Value = serde_json::from_str(&with_cache(&["cache", "--json"])).unwrap();
    assert!(shown["answers"].as_u64().unwrap() > 100, "{shown}");
    assert_eq!(shown["oldest_days"], 0);
    assert!(with_cache(&["cache", "prune"]).contains("the oldest was used last today"));
    assert!(with_cache(&["cache", "clear"]).contains("no answers"));
    assert!(!cache.join("answers.sled").exists());
}

/// A machine with eight cards searched on one of them. Which of several equal devices answers changes nothing: the journal is
/// that of one, raced and learned, and a run that was stopped goes on with as many devices as there are.
///
/// On an emulated pair of GPUs: `EMULATOR_DEVICES=2 HETEROSIS_TEST_DEVICE=cuda`, as `.ci/run` has it.
#[test]
fn several_devices_write_the_journal_of_one() {
    // An emulated card is slow.
    let is_emulated = std::env::var("HETEROSIS_TEST_DEVICE").as_deref() == Ok("cuda");
    let (one, several, tokens, limit) = match is_emulated {
        true => ("cuda:1", "cuda:all", 2, 3),
        false => ("cpu", "cpu,cpu,cpu", 16, 12),
    };
    let search = match is_emulated {
        true => "{optimizer: random, evals: 2, seed: 5, learn: off}",
        false => {
            "{optimizer: cma-es, evals: 8, population: 4, seed: 5, racing: {rungs: [4, 8]}, learn: {steps: 2, questions: 8}}"
        }
    };
    let tmp = tempfile::tempdir().unwrap();
    let rest = format!(
        "parameter_space: {{method: task_arithmetic, layer_groups: 2, genes: {{weight: [0.0, 1.5]}}}}
fitness:
  tasks: [{{task: {0}/evals/arith-es.yaml, split: search, limit: {limit}, max_new_tokens: {tokens}}}]
  guard: {{perplexity_ratio: 10.0}}
search: {search}
final: {{finalists: 1, selection: {{limit: 2}}, test: {{limit: 2}}}}
",
        root().display()
    );
    let space = space_over_family(tmp.path(), &rest);
    let space = space.display().to_string();
    let search = |name: &str, device: &str| {
        let dir = tmp.path().join(name);
        let begun = begin(&["search", &space, "--run", &arg(&dir), "--device", device, "--headless"]);
        (begun, dir)
    };
    let told = |dir: &Path| {
        let mut records = story(dir);
        for record in &mut records {
            record.as_object_mut().unwrap().remove("device");
        }
        records
    };
    let [alone, together] = [("alone", one), ("together", several)].map(|(name, device)| {
        let (mut begun, dir) = search(name, device);
        assert!(begun.wait().unwrap().success(), "{name}");
        dir
    });
    assert_eq!(told(&alone), told(&together));
    if !is_emulated {
        let (mut begun, killed) = search("killed", several);
        wait_for(6, &mut begun, &killed);
        begun.kill().unwrap();
        begun.wait().unwrap();
        good(&["resume", &arg(&killed), "--device", one, "--headless"]);
        assert_eq!(told(&alone), told(&killed));
    }
    let hands = workers(&together);
    assert_eq!(hands.len(), several.split(',').count().max(2), "whose hands they are");
    // `status` said of each that it waited, 0 answers, busy 0 %.
    assert!(hands.values().sum::<u64>() > 0, "{hands:?}");

    for (device, word) in [
        ("cpu,cuda:0", "one kind"),
        ("cuda:1,cuda:1", "twice"),
        ("cpu;cpu", "cuda:all"),
    ] {
        let refused = heterosis(&["check", &space, "--device", device]).output().unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && stderr.contains(word), "{device}: {stderr}");
    }
    let model = root().join("models/tiny-base").display().to_string();
    let refused = heterosis(&["generate", &model, "--prompt", "1", "--device", several])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && stderr.contains("one device"), "{stderr}");
}
