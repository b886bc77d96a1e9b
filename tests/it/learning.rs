//! Learning on the embedded family: gradients against the engine's own likelihoods, the command, and a search that learns.

use std::{fs, path::Path, sync::Arc};

use heterosis::{
    checkpoint::{Checkpoint, Writer},
    eval::{self, DataDirs, Split, Task, TaskOptions},
    learn::{Course, Parts, Settings, Variable, variables},
    merge::{Plan, Resident},
    model::{DType, Decoder, DecoderSpec, Engine, EngineOptions, ScoreRequest, Text, Tokenizer},
    models::Parents,
    recipe::{Recipe, read},
};
use serde_json::Value;

use super::program::{good, heterosis, refused, root, space_over_family, story};

fn parents() -> Parents {
    let mut parents = Parents::default();
    for name in ["tiny-base", "tiny-maths-en", "tiny-spanish"] {
        let short = name.split('-').nth(1).unwrap();
        parents
            .add(short, Checkpoint::open(&root().join("models").join(name)).unwrap())
            .unwrap();
    }
    parents
}

fn recipe(text: &str) -> Recipe {
    read::parse(Path::new("r.yaml"), text).unwrap()
}

fn engine(recipe: &Recipe, parents: &Parents) -> Engine {
    let plan = Plan::new(recipe, parents).unwrap();
    let spec = DecoderSpec::from_config(plan.config()).unwrap();
    let mut read = |name: &str| {
        let i = plan.outputs().iter().position(|o| o.name == name).unwrap();
        plan.compute(i, parents).map_err(|e| e.to_string())
    };
    let decoder = Decoder::load(spec, heterosis::model::Device::Cpu, DType::F32, &mut read).unwrap();
    let tokenizer = Tokenizer::from_dir(&root().join("models/tiny-base")).unwrap();
    Engine::new(decoder, Arc::new(tokenizer), EngineOptions::default())
}

/// Worked solutions of Spanish problems, as tokens.
fn solutions(count: usize, parents: &Parents) -> Vec<Text> {
    let options = TaskOptions {
        limit: Some(count),
        ..TaskOptions::default()
    };
    let file = root().join("evals/arith-es.yaml").display().to_string();
    let task = Task::load(&file, &options, &DataDirs::default()).unwrap();
    let questions = task.questions(Split::Search).unwrap();
    let base = recipe("merge_method: passthrough\nmodels: [{model: base}]\n");
    let solved = eval::solved(&engine(&base, parents), &task, &questions).unwrap();
    assert_eq!(
        solved.len(),
        count,
        "every question of the family has a worked solution"
    );
    let text = |(_, request): (usize, ScoreRequest)| Text {
        tokens: request.tokens,
        from: request.from,
        weight: 1.0,
        expected: Vec::new(),
    };
    solved.into_iter().map(text).collect()
}

fn course<'a>(parents: &'a Parents, decode: &'a dyn Fn(&[f64]) -> Recipe, of: &Recipe, texts: Vec<Text>) -> Course<'a> {
    let (variables, start) = variables::of_recipe(of);
    Course {
        parts: None,
        resident: Resident::new(parents, &of.models()),
        decode,
        start,
        variables,
        groups: (0..texts.len()).collect(),
        texts,
        device: heterosis::model::Device::Cpu,
        dtype: DType::F32,
        settings: Settings::default(),
    }
}

/// Mean negative log-likelihood a token, by the engine.
fn loss(recipe: &Recipe, parents: &Parents, texts: &[Text]) -> f64 {
    let requests: Vec<ScoreRequest> = texts
        .iter()
        .map(|t| ScoreRequest {
            tokens: t.tokens.clone(),
            from: t.from,
        })
        .collect();
    let scores = engine(recipe, parents).score(&requests).unwrap();
    -scores.iter().map(|s| s.log_likelihood).sum::<f64>() / scores.iter().map(|s| s.tokens as f64).sum::<f64>()
}

/// The central difference of the engine's loss along one variable.
fn slope_of_loss(course: &Course<'_>, i: usize, step: f64, parents: &Parents) -> f64 {
    let at = |step: f64| {
        let mut point = course.start.clone();
        point[i] += step;
        loss(&(course.decode)(&point), parents, &course.texts)
    };
    (at(step) - at(-step)) / (2.0 * step)
}

/// Recipes whose every number can be learned: filters, gradients over layers, slices, shared numbers, a path of copies.
const RECIPES: [&str; 8] = [
    "merge_method: task_arithmetic\nbase_model: base\nparameters: {lambda: 0.9}\nmodels:\n\
     - {model: maths, parameters: {weight: [{filter: self_attn, value: 0.7}, {filter: mlp, value: [0.4, 1.1]}, {value: 0.9}]}}\n\
     - {model: spanish, parameters: {weight: 0.8}}\n",
    "merge_method: dare_linear\nbase_model: base\nseed: 5\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.6}}\n- {model: spanish, parameters: {weight: 0.5, density: 0.7}}\n",
    "merge_method: dare_linear\nbase_model: base\nseed: 3\nparameters: {lambda: 1.1}\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.8}}\n- {model: spanish, parameters: {weight: 0.5, density: 0.8}}\n",
    "merge_method: della_linear\nbase_model: base\nseed: 3\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.6}}\n- {model: spanish, parameters: {weight: 0.5, density: 0.7}}\n",
    "merge_method: linear\nmodels:\n\
     - {model: maths, parameters: {weight: [0.3, 0.8]}}\n- {model: spanish, parameters: {weight: 0.6}}\n",
    "merge_method: slerp\nbase_model: maths\nparameters: {t: [{filter: mlp, value: [0.2, 0.7]}, {value: 0.4}]}\n\
     models: [{model: maths}, {model: spanish}]\n",
    "merge_method: nuslerp\nmodels:\n\
     - {model: maths, parameters: {weight: 0.4}}\n- {model: spanish, parameters: {weight: 0.6}}\n",
    "name: ps\nmerge_method: breadcrumbs\nbase_model: base\nmodels:\n\
     - {model: maths, parameters: {weight: 0.8, density: 0.9}}\n- {model: spanish, parameters: {weight: 0.6, density: 0.9}}\n\
     ---\nmerge_method: passthrough\nslices:\n- sources: [{model: ps, layer_range: [0, 5], parameters: {scale: \
     [{filter: down_proj, value: 0.9}, {filter: o_proj, value: 1.1}, {value: 1}]}}]\n- sources: [{model: ps, layer_range: [4, 8]}]\n",
];

#[test]
fn the_gradient_of_every_number_of_a_recipe_is_that_of_the_engines_own_likelihood() {
    let parents = parents();
    let texts = solutions(12, &parents);
    for text in RECIPES {
        // A difference of two losses must not be one of two roundings: the family's own weights are 16 bits wide.
        let unrounded = |stage: &str| format!("{stage}dtype: float32\n");
        let recipe = recipe(&text.split("---\n").map(unrounded).collect::<Vec<_>>().join("---\n"));
        let decode = |point: &[f64]| variables::with_numbers(&recipe, point);
        let course = course(&parents, &decode, &recipe, texts.clone());
        assert!(course.variables.len() >= 2, "{text}");
        let (here, gradient) = course.gradient(&course.start, &texts).unwrap();
        assert!((here - loss(&recipe, &parents, &texts)).abs() < 1e-4, "{text}");
        let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (i, slope) in gradient.iter().enumerate() {
            // As far as the loss moves by two thousandths, so that f32 and elected signs are no matter.
            let step = (0.002 / slope.abs().max(0.05)).min(0.02);
            let expected = slope_of_loss(&course, i, step, &parents);
            let near = (slope - expected).abs() <= 1e-2 * expected.abs().max(0.1 * largest);
            assert!(near, "{} of {text}: {slope} {expected}", course.variables[i].name);
        }
    }
}

/// Methods that elect signs. As a weight moves, entries change sides one by one: the slope is that of many such jumps.
const ELECTING: [&str; 4] = [
    "merge_method: ties\nbase_model: base\nparameters: {normalize: false}\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.6}}\n- {model: spanish, parameters: {weight: 0.9, density: 0.7}}\n",
    "merge_method: ties\nbase_model: base\nparameters: {normalize: true, lambda: 1.2}\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.8}}\n- {model: spanish, parameters: {weight: 0.5, density: 0.8}}\n",
    "merge_method: dare_ties\nbase_model: base\nseed: 5\nparameters: {normalize: false}\nmodels:\n\
     - {model: maths, parameters: {weight: 0.7, density: 0.9}}\n- {model: spanish, parameters: {weight: 0.8, density: 0.9}}\n",
    "merge_method: breadcrumbs_ties\nbase_model: base\nmodels:\n\
     - {model: maths, parameters: {weight: 0.8, density: 0.9}}\n- {model: spanish, parameters: {weight: 0.6, density: 0.9}}\n",
];

#[test]
fn the_gradient_sees_elected_signs_move() {
    let parents = parents();
    let texts = solutions(12, &parents);
    for text in ELECTING {
        let recipe = recipe(text);
        let decode = |point: &[f64]| variables::with_numbers(&recipe, point);
        let course = course(&parents, &decode, &recipe, texts.clone());
        let (_, gradient) = course.gradient(&course.start, &texts).unwrap();
        let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for (i, slope) in gradient.iter().enumerate() {
            let expected = slope_of_loss(&course, i, 1.0 / 64.0, &parents);
            // A jump is no small step for the loss: within a seventh of the slope, where fixed signs see a thirtieth of it.
            let near = (slope - expected).abs() <= 0.15 * largest;
            assert!(near, "{} of {text}: {slope} {expected}", course.variables[i].name);
        }
    }
}

#[test]
fn a_course_makes_its_texts_likelier_stays_in_range_and_repeats_bit_for_bit() {
    let parents = parents();
    let texts = solutions(40, &parents);
    let recipe = recipe(RECIPES[0]);
    let decode = |point: &[f64]| variables::with_numbers(&recipe, point);
    let mut course = course(&parents, &decode, &recipe, texts);
    course.settings = Settings {
        steps: 10,
        batch: 16,
        seed: 4,
        ..Settings::default()
    };
    for (variable, start) in course.variables.iter_mut().zip(&course.start) {
        (variable.low, variable.high) = (start - 0.05, start + 0.1);
    }
    let mut steps = 0;
    let learned = course
        .learn(&mut |step| {
            steps = step.step;
            true
        })
        .unwrap();
    assert_eq!((steps, learned.steps.1), (10, 10));
    assert!(learned.taught.after < learned.taught.before, "{learned:?}");
    assert!(learned.held_back.after < learned.held_back.before);
    assert_eq!(learned.texts, (32, 8));
    let inside = |(x, v): (&f64, &Variable)| (v.low..=v.high).contains(x);
    assert!(learned.point.iter().zip(&course.variables).all(inside));
    assert!(learned.steepness.iter().all(|s| *s > 0.0));
    assert_eq!(course.learn(&mut |_| true).unwrap(), learned);
    // Whoever ends it early gets what there is.
    assert_eq!(course.learn(&mut |step| step.step < 3).unwrap().steps.1, 3);
}

/// One weight for each expert: the slopes of their attention and of the rest are there anyway, and say what moving them apart would bring.
#[test]
fn a_course_tells_which_numbers_should_not_move_as_one() {
    let parents = parents();
    let texts = solutions(60, &parents);
    let apart = recipe(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n\
         - {model: maths, parameters: {weight: [{filter: self_attn, value: 1}, {value: 1}]}}\n\
         - {model: spanish, parameters: {weight: [{filter: self_attn, value: 1}, {value: 1}]}}\n",
    );
    let of = [0, 0, 1, 1];
    let decode_parts = |point: &[f64]| variables::with_numbers(&apart, point);
    let decode = |point: &[f64]| decode_parts(&of.map(|whole| point[whole]));
    let whole = |name: &str| Variable {
        name: name.into(),
        low: 0.0,
        high: 1.8,
        is_real: true,
        unit: 1.0,
    };
    let course = |parts| Course {
        variables: vec![whole("maths"), whole("spanish")],
        start: vec![1.0, 1.0],
        parts,
        settings: Settings {
            batch: 12,
            ..Settings::default()
        },
        ..course(&parents, &decode, &apart, texts.clone())
    };
    let (alone, divided) = (course(None), course(Some(parts_of(&apart, &decode_parts, &of))));
    let (alone, divided) = (
        alone.learn(&mut |_| true).unwrap(),
        divided.learn(&mut |_| true).unwrap(),
    );
    for (a, b) in alone.point.iter().zip(&divided.point) {
        assert!((a - b).abs() < 1e-6, "it learns what it would without: {a} {b}");
    }
    assert_eq!(alone.apart, []);
    let told = divided
        .apart
        .iter()
        .all(|luck| luck.is_some_and(|p| (0.0..=1.0).contains(&p)));
    assert!(told && divided.apart.len() == 2, "{:?}", divided.apart);
}

fn parts_of<'a>(recipe: &Recipe, decode: &'a dyn Fn(&[f64]) -> Recipe, of: &[usize]) -> Parts<'a> {
    Parts {
        decode,
        variables: variables::of_recipe(recipe).0,
        of: of.to_vec(),
    }
}

/// The model within one that also sees, as LLaVA's files have it: beside a tower and a projector that no text reaches.
fn seeing(name: &str, dir: &Path) -> Checkpoint {
    let model = Checkpoint::open(&root().join("models").join(name)).unwrap();
    let mut writer = Writer::create(dir, u64::MAX).unwrap();
    for (name, info) in model.tensors() {
        let (bytes, dtype) = model.raw(name).unwrap();
        writer
            .tensor(&format!("language_model.{name}"), dtype, &info.shape, bytes)
            .unwrap();
    }
    for beside in [
        "vision_tower.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
    ] {
        writer.tensor(beside, DType::F16, &[2, 2], &[0; 8]).unwrap();
    }
    let config = serde_json::json!({"model_type": "llava", "tie_word_embeddings": true, "text_config": model.config()});
    writer.json("config.json", &config).unwrap();
    writer.finish().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.path().join(file), dir.join(file)).unwrap();
    }
    Checkpoint::open(dir).unwrap()
}

/// Learning was said to work on models that also see, and nothing showed it: what is learned on them is what is learned on their
/// language halves alone, step by step.
#[test]
fn a_model_that_also_sees_learns_as_its_language_half() {
    let (tmp, alone) = (tempfile::tempdir().unwrap(), parents());
    let mut with_sight = Parents::default();
    for name in ["tiny-base", "tiny-maths-en", "tiny-spanish"] {
        let model = seeing(name, &tmp.path().join(name));
        with_sight.add(name.split('-').nth(1).unwrap(), model).unwrap();
    }
    let texts = solutions(16, &alone);
    let recipe = recipe(RECIPES[0]);
    let decode = |point: &[f64]| variables::with_numbers(&recipe, point);
    let learned = [&alone, &with_sight].map(|parents| {
        let mut course = course(parents, &decode, &recipe, texts.clone());
        course.settings = Settings {
            steps: 4,
            batch: 8,
            seed: 4,
            ..Settings::default()
        };
        course.learn(&mut |_| true).unwrap()
    });
    assert!(learned[0].taught.after < learned[0].taught.before, "{:?}", learned[0]);
    assert_eq!(learned[0].steps, learned[1].steps);
    let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-6;
    assert!(learned[0].point.iter().zip(&learned[1].point).all(near), "{learned:?}");
}

/// A step of which all texts are wrong ones had no number for a loss, and so ended the learning.
#[test]
fn a_step_on_wrong_texts_alone_is_a_step() {
    let parents = parents();
    let mut texts = solutions(20, &parents);
    texts[8..].iter_mut().for_each(|text| text.weight = -0.3);
    let recipe = recipe(RECIPES[0]);
    let decode = |point: &[f64]| variables::with_numbers(&recipe, point);
    let mut course = course(&parents, &decode, &recipe, texts);
    (course.settings.steps, course.settings.batch) = (12, 1);
    let mut losses = Vec::new();
    let learned = course.learn(&mut |step| {
        losses.push(step.taught);
        true
    });
    let learned = learned.unwrap();
    assert!(
        losses.len() == 12 && losses.iter().all(|loss| loss.is_finite()),
        "{losses:?}"
    );
    assert!(learned.held_back.before.is_finite() && learned.held_back.after.is_finite());
    // With a single right text fewer there is too little to go by, however many wrong ones there are.
    course.texts[0].weight = -0.3;
    let message = course.learn(&mut |_| true).unwrap_err().to_string();
    assert!(message.contains("texts of 7 questions teach"), "{message}");
}

#[test]
fn what_cannot_be_learned_says_so() {
    let parents = parents();
    let texts = solutions(10, &parents);
    let karcher = recipe("merge_method: karcher\nmodels: [{model: maths}, {model: spanish}]\n");
    let decode = |_: &[f64]| karcher.clone();
    let message = course(&parents, &decode, &karcher, texts.clone())
        .learn(&mut |_| true)
        .unwrap_err();
    assert!(message.to_string().contains("karcher has no number"), "{message}");
    let sum = recipe(RECIPES[0]);
    let decode = |point: &[f64]| variables::with_numbers(&sum, point);
    let message = course(&parents, &decode, &sum, texts[..5].to_vec())
        .learn(&mut |_| true)
        .unwrap_err();
    assert!(message.to_string().contains("texts of 5 questions teach"), "{message}");
}

/// A merge that is to be as one of its parents on some texts finds its way back to it from the parent's expectations alone,
/// without a right answer in sight: half of the expert becomes nearly all of it.
#[test]
fn what_a_parent_expects_leads_back_to_the_parent() {
    let parents = parents();
    let half = recipe(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: maths, parameters: {weight: 0.5}}\n\
         - {model: spanish, parameters: {weight: 0.3}}\n",
    );
    let decode = |point: &[f64]| variables::with_numbers(&half, point);
    let mut course = course(&parents, &decode, &half, solutions(40, &parents));
    let maths = recipe("merge_method: passthrough\nmodels: [{model: maths}]\n");
    let all: Vec<usize> = (0..course.texts.len()).collect();
    course.distil(&maths, &all).unwrap();
    let learned = course.learn(&mut |_| true).unwrap();
    assert!(learned.point[0] > 0.8 && learned.point[1] < 0.15, "{:?}", learned.point);
    assert!(learned.held_back.after < learned.held_back.before);
}

#[test]
fn the_command_learns_from_solutions_and_from_answers_and_writes_a_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let models = root().join("models").display().to_string();
    let file = dir.path().join("sum.yaml");
    let text = format!(
        "merge_method: task_arithmetic\nbase_model: {models}/tiny-base\nmodels:\n\
         - model: {models}/tiny-maths-en\n  parameters: {{weight: [{{filter: mlp, value: 0.5}}, {{value: [0.5, 0.5]}}]}}\n\
         - model: {models}/tiny-spanish\n  parameters: {{weight: 0.5}}\n"
    );
    fs::write(&file, text).unwrap();
    let task = root().join("evals/arith-es.yaml").display().to_string();
    for (teachers, answers) in [("solutions", 0), ("answers", 4 * 40), ("distil", 4 * 40)] {
        let out = dir.path().join(format!("{teachers}.yaml"));
        let args = [
            "learn",
            file.to_str().unwrap(),
            out.to_str().unwrap(),
            "--task",
            &task,
            "--teachers",
            teachers,
            "--questions",
            "40",
            "--steps",
            "5",
            "--batch",
            "16",
            "--json",
        ];
        let told: Value = serde_json::from_str(&good(&args)).unwrap();
        assert_eq!(told["answers"], answers, "{told}");
        assert_eq!(told["numbers"].as_array().unwrap().len(), 4);
        let loss = |kind: &str, when: &str| told[kind][when].as_f64().unwrap();
        // Eight right answers are few: where the two held back get no likelier, nothing is taken.
        let learned = told["best_step"] != 0;
        assert!(learned || teachers != "solutions", "{told}");
        assert_eq!(loss("taught", "after") < loss("taught", "before"), learned, "{told}");
        let (before, after) = (
            recipe(&fs::read_to_string(&file).unwrap()),
            recipe(&fs::read_to_string(&out).unwrap()),
        );
        assert_eq!(before.models(), after.models());
        assert_eq!(before != after, learned);
        assert_eq!(variables::with_numbers(&after, &[0.5; 4]), before);
        // A recipe that somebody wrote was replaced without a word.
        refused(&args, &["is there already"]);
    }
    let own = file.to_str().unwrap();
    refused(&["learn", own, own, "--task", &task], &["sum.yaml is there already"]);
    let empty = dir.path().join("none.yaml").display().to_string();
    refused(
        &["learn", own, &empty, "--task", &task, "--questions", "0"],
        &["--questions 0"],
    );
}

/// `./a` was written into a recipe beside whose file another `a` lies; and weights of less than a ten-thousandth were rounded away,
/// with "the point after 0 is taken".
#[test]
fn a_recipe_that_is_learned_into_another_directory_means_the_same() {
    let tmp = tempfile::tempdir().unwrap();
    let (sub, other) = (tmp.path().join("sub"), tmp.path().join("other"));
    let link = |dir: &Path, name: &str, model: &str| {
        fs::create_dir_all(dir).unwrap();
        std::os::unix::fs::symlink(root().join("models").join(model), dir.join(name)).unwrap();
    };
    link(&sub, "a", "tiny-base");
    link(&sub, "b", "tiny-maths-en");
    link(&other, "a", "tiny-spanish");
    let text = "merge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 0.00004}}\n\
                - {model: ./b, parameters: {weight: 0.00002}}\n";
    fs::write(sub.join("two.yaml"), text).unwrap();
    let task = root().join("evals/arith-es.yaml").display().to_string();
    let args = [
        "learn",
        "two.yaml",
        "../other/x.yaml",
        "--task",
        &task,
        "--teachers",
        "solutions",
    ];
    let few = ["--questions", "12", "--steps", "1", "--json"];
    let output = heterosis(&[&args[..], &few[..]].concat())
        .current_dir(&sub)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let learned = recipe(&fs::read_to_string(other.join("x.yaml")).unwrap());
    let place = |name: &str| std::path::absolute(sub.join(name)).unwrap().display().to_string();
    let models: Vec<String> = learned.models().iter().map(ToString::to_string).collect();
    assert_eq!(models, [place("a"), place("b")]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    if told["best_step"] == 0 {
        assert_eq!(variables::of_recipe(&learned).1, variables::of_recipe(&recipe(text)).1);
    }
    assert!(
        [0.0, 1e-4, 0.00008, 1.0e-300, 5e-324, -3e-7]
            .iter()
            .all(|x| variables::rounded(*x) == *x)
    );
    assert_eq!(
        [0.123_456, -1.987_654, 0.012_345_6].map(variables::rounded),
        [0.1235, -1.9877, 0.01235]
    );
}

/// A search whose parents answer few of these questions: solutions teach, so that a test of a few seconds has texts.
fn learning_space(dir: &Path, learn: &str) -> std::path::PathBuf {
    let rest = format!(
        "parameter_space:
  method: task_arithmetic
  layer_groups: 2
  genes:
    weight: [0.0, 1.5]
fitness:
  tasks: [{{task: {0}/evals/arith-es.yaml, split: search, limit: 24}}]
search: {{optimizer: cma-es, evals: 8, seed: 5, learn: {learn}}}
final:
  finalists: 2
  selection: {{limit: 24}}
  test: {{limit: 40}}
",
        root().display()
    );
    space_over_family(dir, &rest)
}

fn events<'a>(story: &'a [Value], name: &str) -> Vec<&'a Value> {
    story.iter().filter(|r| r["event"] == name).collect()
}

/// What a search over a space comes to.
fn searched(space: &Path, run: &Path) -> Vec<Value> {
    good(&[
        "search",
        space.to_str().unwrap(),
        "--run",
        run.to_str().unwrap(),
        "--headless",
    ]);
    story(run)
}

/// What a run comes to that goes on after the first line of its journal with these words in it.
fn resumed_after(run: &Path, words: &str) -> Vec<Value> {
    let journal = run.join("journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains(words)).unwrap();
    fs::write(&journal, lines[..=at].join("\n") + "\n").unwrap();
    good(&["resume", run.to_str().unwrap(), "--headless"]);
    story(run)
}

#[test]
fn a_search_learns_before_it_asks_and_a_resumed_one_repeats_it() {
    let dir = tempfile::tempdir().unwrap();
    let learn = "{steps: 4, batch: 16, questions: 30, rounds: 2, teachers: solutions}";
    let space = learning_space(dir.path(), learn);
    let run = dir.path().join("run");
    let whole = searched(&space, &run);
    let learned = events(&whole, "learned");
    assert!(!learned.is_empty() && learned.len() <= 2);
    assert!(learned[0]["taught"][1].as_f64() < learned[0]["taught"][0].as_f64());
    let scored = events(&whole, "candidate_scored");
    let first = scored.iter().position(|c| c["origin"] == "learned").unwrap();
    assert_eq!(scored[first]["id"], "learned-1");
    assert_eq!(scored[first]["genotype"], learned[0]["genotype"]);
    let searched = scored.iter().position(|c| c["origin"] == "search").unwrap();
    assert!(first < searched, "it learns before it searches");
    let finalists = &events(&whole, "selected")[0]["finalists"];
    assert!(finalists.as_array().unwrap().iter().any(|f| f["origin"] == "learned"));
    // Of the questions that taught, none is one of the final.
    let report = good(&["report", run.to_str().unwrap()]);
    assert!(!report.is_empty());
    let page = fs::read_to_string(run.join("report/report.html")).unwrap();
    assert!(page.contains("What texts taught"), "the report tells of it");

    // Cut off in the middle: after the first round is journalled, before its candidate has a score.
    assert_eq!(resumed_after(&run, "\"event\":\"learned\""), whole);
}

/// Of a narrow space a round tells which genes deserve to be split; the same ones are after a resume.
#[test]
fn a_space_widens_where_the_gradient_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let learn = "{steps: 6, batch: 12, questions: 30, rounds: 1, teachers: solutions}, widening: true";
    let space = learning_space(dir.path(), learn);
    let run = dir.path().join("run");
    let whole = searched(&space, &run);
    let apart = &events(&whole, "learned")[0]["apart"];
    assert!(apart.as_array().is_some_and(|apart| apart.len() == 2), "{apart}");
    let stages = events(&whole, "stage_started");
    let genes = |stage: usize| stages[stage]["genes"].as_array().unwrap();
    let is_split = |name: &str| !genes(1).iter().any(|gene| gene == name);
    for (gene, luck) in genes(0).iter().zip(apart.as_array().unwrap()) {
        let luck = luck.as_f64().expect("weights can be learned");
        assert_eq!(is_split(gene.as_str().unwrap()), luck < 0.05, "{gene} {luck}");
    }
    assert_eq!(resumed_after(&run, "\"event\":\"learned\""), whole);
}

/// A run that was killed between its parents' answers and the end of a round learnt nothing when it went on: "the texts of 0
/// questions teach", and another candidate won.
#[test]
fn a_run_killed_before_it_has_learned_learns_the_same_from_what_its_journal_holds() {
    let dir = tempfile::tempdir().unwrap();
    for teachers in ["answers", "distil"] {
        let learn = format!("{{steps: 2, batch: 16, questions: 24, rounds: 1, teachers: {teachers}}}");
        let space = learning_space(dir.path(), &learn);
        let text = fs::read_to_string(&space).unwrap();
        let text = text
            .replace("limit: 24}]", "limit: 60}]")
            .replace("evals: 8", "evals: 2");
        fs::write(&space, text).unwrap();
        let run = dir.path().join(teachers);
        let whole = searched(&space, &run);
        let learned = events(&whole, "learned");
        assert!(learned[0]["failed"].is_null(), "{teachers}: {}", learned[0]);
        // The last baseline has its score, and nothing has been learned.
        let last = whole.iter().position(|event| event["event"] == "learned").unwrap() - 1;
        let words = whole[..=last]
            .iter()
            .rev()
            .find(|event| event["event"] == "candidate_scored")
            .unwrap();
        let words = format!("\"id\":{}", words["id"]);
        let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap();
        let scored = journal
            .lines()
            .find(|line| line.contains("candidate_scored") && line.contains(&words))
            .unwrap();
        assert_eq!(resumed_after(&run, scored), whole, "{teachers}");
    }
}

#[test]
fn learning_is_refused_where_there_is_nothing_to_learn_and_off_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let space = learning_space(dir.path(), "off");
    let run = dir.path().join("off");
    assert!(events(&searched(&space, &run), "learned").is_empty());
}

/// Layer paths had no gradient, it was said; which layers run has none, but how loud each is has.
#[test]
fn the_scales_of_a_searched_path_are_learned() {
    let dir = tempfile::tempdir().unwrap();
    let rest = format!(
        "data_flow_space: {{sources: [maths, spanish], repeats: 1, max_layers: 10, scales: [0.5, 1.5], pin: {{first: maths, last: maths}}}}
fitness: {{tasks: [{{task: {0}/evals/arith-es.yaml, split: search, limit: 24}}]}}
search: {{optimizer: genetic, population: 4, evals: 4, seed: 3,
  learn: {{steps: 6, batch: 16, questions: 30, rounds: 1, teachers: solutions}}}}
final: {{finalists: 1, selection: {{limit: 8}}, test: {{limit: 8}}}}
",
        root().display()
    );
    let space = space_over_family(dir.path(), &rest);
    let run = dir.path().join("run");
    let args = [
        "search",
        space.to_str().unwrap(),
        "--run",
        run.to_str().unwrap(),
        "--headless",
    ];
    good(&args);
    let whole = story(&run);
    let learned = events(&whole, "learned");
    assert_eq!(learned.len(), 1);
    assert!(learned[0]["failed"].is_null(), "{}", learned[0]);
    assert!(learned[0]["taught"][1].as_f64() < learned[0]["taught"][0].as_f64());
    let scored = events(&whole, "candidate_scored");
    let of = |id: &Value| {
        scored.iter().find(|c| c["id"] == *id).unwrap()["genotype"]
            .as_array()
            .unwrap()
    };
    let (before, after) = (of(&learned[0]["from"]), of(&learned[0]["id"]));
    let genes = &events(&whole, "stage_started")[0]["genes"];
    let moved = (0..before.len()).filter(|i| before[*i] != after[*i]);
    let moved: Vec<&str> = moved.map(|i| genes[i].as_str().unwrap()).collect();
    assert!(
        !moved.is_empty() && moved.iter().all(|name| name.contains("scale")),
        "{moved:?}"
    );
    // A path has a mean of its own search, and what it learned is behind it.
    for cut in [
        "\"event\":\"generation_ended\"",
        "\"event\":\"learned\"",
        "\"id\":\"learned-1\",\"origin\"",
    ] {
        assert_eq!(resumed_after(&run, cut), whole, "cut after {cut}");
    }
}
