//! What commands measure of models, or do to them, before they are merged: Gram matrices, Fisher information, and the order of neurons
//! and heads.

use std::{fs, path::Path};

use heterosis::checkpoint::Checkpoint;
use serde_json::Value;

use super::program::{good, refused, root};

fn model(name: &str) -> String {
    root().join("models").join(name).display().to_string()
}

fn task(name: &str) -> String {
    root().join("evals").join(name).display().to_string()
}

fn told(args: &[&str]) -> Value {
    serde_json::from_str(&good(args)).unwrap()
}

/// How far apart two tensors are.
fn off(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
}

fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(x, y)| (x + y) / 2.0).collect()
}

/// A tensor of a model on disk.
fn values(dir: &str, tensor: &str) -> Vec<f32> {
    let model = Checkpoint::open(Path::new(dir)).unwrap();
    model.read_f32_cow(tensor).unwrap().into_owned()
}

const Q: &str = "model.layers.5.self_attn.q_proj.weight";

/// Measured, merged with, and measured again behind merged layers: the three ways have to meet in files that know each other.
#[test]
fn gram_matrices_are_measured_and_merged_with() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let parents = [("tiny-maths-en", "arith-en.yaml"), ("tiny-spanish", "arith-es.yaml")];
    let few = ["--questions", "6", "--labels", "solutions", "--json"];
    for (name, of) in parents {
        let (model, out, task) = (model(name), at(&format!("{name}-grams")), task(of));
        let args = [&["grams", &model, &out, "--task", &task], &few[..]].concat();
        let told = told(&args);
        assert_eq!(
            (&told["texts"], &told["labels"]),
            (&6.into(), &"solutions".into()),
            "{told}"
        );
        let config: Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join(format!("{name}-grams/config.json"))).unwrap())
                .unwrap();
        let grams = &config["heterosis_grams"];
        assert_eq!(grams["of"][".self_attn.v_proj.weight"], ".self_attn.q_proj.gram");
        assert_eq!(
            (&grams["measured"]["tokens"], &grams["measured"]["texts"]),
            (&told["tokens"], &6.into())
        );
        refused(&args, &["-grams"]);
    }
    let recipe = |file: &str, end: &str| {
        let source = |name: &str| format!("- {{model: {}, grams: {name}-{end}}}\n", model(name));
        let text = format!(
            "merge_method: regmean\ndtype: float32\nmodels:\n{}{}",
            source(parents[0].0),
            source(parents[1].0)
        );
        fs::write(dir.path().join(file), text).unwrap();
        at(file)
    };
    // Found beside the recipe, wherever the program is started.
    let plain = recipe("plain.yaml", "grams");
    good(&["merge", &plain, &at("plain")]);
    let behind = recipe("behind.yaml", "behind");
    let tasks: Vec<String> = parents
        .iter()
        .map(|(name, of)| format!("{}={}", model(name), task(of)))
        .collect();
    let args = [
        &["grams-plus", &behind, "--task", &tasks[0], "--task", &tasks[1]],
        &few[..],
    ]
    .concat();
    let told = told(&args);
    assert_eq!(told["models"][1]["texts"], 6, "{told}");
    good(&["merge", &behind, &at("behind")]);
    let (a, b) = (values(&model(parents[0].0), Q), values(&model(parents[1].0), Q));
    let mean = mean(&a, &b);
    let [plain, behind] = ["plain", "behind"].map(|name| values(&at(name), Q));
    let apart = off(&a, &b);
    for child in [&plain, &behind] {
        assert!(
            off(child, &mean) > 0.01 * apart && off(child, &mean) < apart,
            "{} {apart}",
            off(child, &mean)
        );
    }
    assert!(off(&plain, &behind) > 1e-3 * apart);
    let names = |dir: &str| -> Vec<String> {
        let model = Checkpoint::open(Path::new(dir)).unwrap();
        model.tensors().map(|(name, _)| name.to_string()).collect()
    };
    assert_eq!(names(&at("behind")), names(&model(parents[0].0)));
}

/// A file of Fisher information says with which texts it was measured, and a recipe weighs by it.
#[test]
fn fisher_information_is_measured_and_merged_with() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut recipe = "merge_method: fisher\ndtype: float32\nmodels:\n".to_string();
    let parents = [("tiny-maths-en", "arith-en.yaml"), ("tiny-spanish", "arith-es.yaml")];
    for (name, of) in parents {
        let (model, out, task) = (model(name), at(name), task(of));
        let args = ["fisher", &model, &out, "--task", &task, "--limit", "6", "--json"];
        let told = told(&args);
        assert_eq!(
            (&told["texts"], &told["labels"]),
            (&6.into(), &"sampled".into()),
            "{told}"
        );
        let text = fs::read_to_string(dir.path().join(name).join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let measured = &config["heterosis_fisher"]["measured"];
        assert_eq!(
            (&measured["questions"], &measured["tasks"][0]),
            (&6.into(), &task.as_str().into()),
            "{measured}"
        );
        assert!(values(&out, Q).iter().all(|information| *information >= 0.0));
        refused(&args, &[name]);
        recipe += &format!("- {{model: {model}, fisher: {name}, parameters: {{weight: 1}}}}\n");
    }
    fs::write(dir.path().join("recipe.yaml"), &recipe).unwrap();
    good(&["merge", &at("recipe.yaml"), &at("child")]);
    // That of the other model has the same shape, and was merged with without a word.
    let [maths, spanish] = parents.map(|(name, _)| format!("fisher: {name}"));
    let swapped = recipe
        .replace(&maths, "fisher: x")
        .replace(&spanish, &maths)
        .replace("fisher: x", &spanish);
    assert_ne!(swapped, recipe);
    fs::write(dir.path().join("swapped.yaml"), swapped).unwrap();
    refused(
        &["merge", &at("swapped.yaml"), &at("other")],
        &["swapped.yaml", "was measured of another model than"],
    );
    // A directory of Fisher information has a model's shape, and was merged as one.
    fs::write(
        dir.path().join("misplaced.yaml"),
        format!(
            "merge_method: linear\nmodels: [{{model: {}, parameters: {{weight: 1}}}}]\ndtype: float32\n",
            parents[0].0
        ),
    )
    .unwrap();
    refused(
        &["merge", &at("misplaced.yaml"), &at("other")],
        &["misplaced.yaml", "holds what was measured"],
    );
    let nowhere = recipe.replace(&maths, "fisher: nowhere");
    fs::write(dir.path().join("nowhere.yaml"), nowhere).unwrap();
    refused(
        &["merge", &at("nowhere.yaml"), &at("other")],
        &["nowhere.yaml: 'nowhere'", "heterosis fisher"],
    );
    let [a, b] = parents.map(|(name, _)| values(&model(name), Q));
    let child = values(&at("child"), Q);
    let between = |((x, a), b): ((&f32, &f32), &f32)| *x >= a.min(*b) - 1e-6 && *x <= a.max(*b) + 1e-6;
    assert!(child.iter().zip(&a).zip(&b).all(between));
    assert!(off(&child, &mean(&a, &b)) > 0.01 * off(&a, &b));
}

#[test]
fn what_has_no_gram_matrices_is_refused_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let maths = model("tiny-maths-en");
    let missing = write(
        "missing.yaml",
        format!("merge_method: regmean\nmodels: [{{model: {maths}}}]\n"),
    );
    let out = dir.path().join("out").display().to_string();
    refused(&["merge", &missing, &out], &["missing.yaml:2", "heterosis grams"]);
    let not_grams = write(
        "other.yaml",
        format!("merge_method: regmean\nmodels: [{{model: {maths}, grams: {maths}}}]\n"),
    );
    refused(&["merge", &not_grams, &out], &["holds no Gram matrices"]);
    let linear = write(
        "linear.yaml",
        format!("merge_method: linear\nmodels: [{{model: {maths}, parameters: {{weight: 1}}}}]\n"),
    );
    let en = format!("{maths}={}", task("arith-en.yaml"));
    refused(&["grams-plus", &linear, "--task", &en], &["reads no Gram matrices"]);
    let behind = write(
        "behind.yaml",
        format!("merge_method: regmean\nmodels: [{{model: {maths}, grams: g}}]\n"),
    );
    refused(
        &["grams-plus", &behind, "--task", "evals/arith-en.yaml"],
        &["MODEL=TASK"],
    );
    refused(
        &[
            "grams-plus",
            &behind,
            "--task",
            &format!("other={}", task("arith-en.yaml")),
        ],
        &["MODEL=TASK"],
    );
}

/// Experts of one base stand in its order already, and what is moved without need is only harder to look at.
#[test]
fn experts_of_one_base_are_aligned_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("aligned").display().to_string();
    let (maths, base) = (model("tiny-maths-en"), model("tiny-base"));
    let args = ["align", &maths, "--to", &base, &out, "--json"];
    let told = told(&args);
    assert_eq!(
        (&told["neurons"]["moved"], &told["heads"]["moved"]),
        (&0.into(), &0.into()),
        "{told}"
    );
    assert_eq!(told["distance_before"], told["distance_after"]);
    assert_eq!(values(&out, Q), values(&maths, Q));
    refused(&args, &["aligned"]);
}
