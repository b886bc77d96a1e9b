//! Parts of a search that meet seldom, each with the built program on the embedded models.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use serde_json::Value;

use crate::program::{begin, evaluations, good, root, space_over_family, story, wait_for};

/// A search space over the embedded family, with more genes than a small one needs.
fn space(dir: &Path, rest: &str) -> PathBuf {
    let parameters = "parameter_space: {method: task_arithmetic, layer_groups: 2, modules: [attn, mlp, other], genes: {weight: \
                      [0.0, 1.5]}}";
    space_over_family(dir, &format!("{parameters}\n{rest}"))
}

/// Few questions of the family's task.
fn questions() -> String {
    format!(
        "fitness: {{tasks: [{{task: {}/evals/arith-es.yaml, limit: 16}}]}}
final: {{finalists: 1, selection: {{limit: 16}}, test: {{limit: 16}}}}",
        root().display()
    )
}

const PATHS: &str = "hybrid: ps_then_dfs
data_flow_space: {sources: [ps, maths], repeats: 1, max_layers: 10, pin: {first: ps, last: ps}}
";

fn word(path: &Path) -> String {
    path.display().to_string()
}

fn stages(run: &Path) -> Vec<String> {
    let records = story(run);
    let begun = records.iter().filter(|r| r["event"] == "stage_started");
    begun.map(|r| r["stage"].as_str().unwrap().to_string()).collect()
}

fn status(run: &Path) -> Value {
    serde_json::from_str(&good(&["status", &word(run), "--json"])).unwrap()
}

/// Who mates with whom follows from answers, so a resumed run must have every one of them again.
#[test]
fn attraction_survives_kill_and_ends_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let search = "search: {optimizer: genetic, population: 4, mating: attraction, evals: 20, seed: 5}";
    let file = space(tmp.path(), &format!("{}\n{search}\n", questions()));
    let (whole, killed) = (tmp.path().join("whole"), tmp.path().join("killed"));
    good(&["search", &word(&file), "--run", &word(&whole), "--headless"]);
    let mut child = begin(&["search", &word(&file), "--run", &word(&killed)]);
    wait_for(evaluations(&whole) / 2 + 4, &mut child, &killed);
    child.kill().unwrap();
    child.wait().unwrap();
    good(&["resume", &word(&killed)]);
    assert_eq!(story(&killed), story(&whole));
}

#[test]
fn a_space_widens_before_layers_are_searched() {
    let tmp = tempfile::tempdir().unwrap();
    let search = "search: {evals: 60, widening: true, seed: 2}";
    let file = space(tmp.path(), &format!("{PATHS}{}\n{search}\n", questions()));
    let run = tmp.path().join("run");
    good(&["search", &word(&file), "--run", &word(&run), "--headless"]);
    assert_eq!(
        stages(&run),
        [
            "parameter_space_global",
            "parameter_space_modules",
            "parameter_space",
            "data_flow_space"
        ]
    );
    let status = status(&run);
    assert_eq!((&status["state"], &status["evals"]), (&"done".into(), &60.into()));
}

/// A command's score is a checksum of the model that is written for it.
#[test]
fn workers_pause_die_and_go_on_to_the_end_of_a_hybrid_search_in_time() {
    let tmp = tempfile::tempdir().unwrap();
    let script = tmp.path().join("score.sh");
    let checksum = r#"while read -r line; do
  id=${line#*\"id\":\"}; id=${id%%\"*}
  dir=${line#*\"model_dir\":\"}; dir=${dir%%\"*}
  sum=$(cksum < "$dir/model.safetensors")
  echo "{\"id\":\"$id\",\"scores\":{\"f\":${sum%% *}}}"
done
"#;
    fs::write(&script, checksum).unwrap();
    let command = format!(
        "fitness: {{command: [sh, {}], materialize: true, workers: 2}}\nfinal: {{finalists: 1}}\n",
        script.display()
    );
    let file = space(tmp.path(), &format!("{PATHS}{command}"));
    let run = tmp.path().join("run");
    let mut child = begin(&["search", &word(&file), "--run", &word(&run), "--for", "12s"]);
    wait_for(4, &mut child, &run);
    fs::write(run.join("pause-request"), "").unwrap();
    let mut known = 0;
    while evaluations(&run) > known {
        known = evaluations(&run);
        sleep(Duration::from_millis(1500));
    }
    assert!(child.try_wait().unwrap().is_none(), "it waits, and has not ended");
    fs::remove_file(run.join("pause-request")).unwrap();
    wait_for(known + 4, &mut child, &run);
    child.kill().unwrap();
    child.wait().unwrap();
    good(&["resume", &word(&run)]);

    assert_eq!(stages(&run), ["parameter_space", "data_flow_space"]);
    let records = story(&run);
    let ended: Vec<&Value> = records.iter().filter(|r| r["event"] == "search_ended").collect();
    assert_eq!((ended.len(), &ended[0]["reason"]), (1, &"time".into()));
    let mut ids: Vec<&Value> = records
        .iter()
        .filter(|r| r["event"] == "candidate_scored")
        .map(|r| &r["id"])
        .collect();
    let scored = ids.len();
    ids.sort_by_key(|id| id.to_string());
    ids.dedup();
    assert_eq!(ids.len(), scored, "nobody has two scores");
    let left = fs::read_dir(run.join("candidates")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no model is left behind");

    let merged = tmp.path().join("merged");
    good(&["merge", &word(&run.join("best.yaml")), &word(&merged)]);
    let weights = fs::File::open(merged.join("model.safetensors")).unwrap();
    let printed = Command::new("cksum").stdin(weights).output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let checksum: f64 = printed.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(
        status(&run)["best"]["fitness"].as_f64(),
        Some(checksum),
        "what is best is what was scored"
    );
}
