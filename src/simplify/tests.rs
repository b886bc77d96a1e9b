//! The minimiser with an examiner that only looks at the numbers of a recipe.

use super::*;
use crate::recipe::{Body, ParamValue, Source, read};

const QUESTIONS: usize = 1000;

fn parse(yaml: &str) -> Recipe {
    read::parse(std::path::Path::new("recipe.yaml"), yaml).unwrap()
}

/// Two experts over two groups of layers: only `maths` in the attention of the first group matters.
fn winner() -> Recipe {
    parse(
        "
merge_method: task_arithmetic
base_model: base
slices:
- sources:
  - model: maths
    layer_range: [0, 4]
    parameters:
      weight: [{filter: self_attn, value: 0.8137}, {filter: mlp, value: 0.7444}, {value: 0.9021}]
  - {model: spanish, layer_range: [0, 4], parameters: {weight: 0.0312}}
  - {model: base, layer_range: [0, 4]}
- sources:
  - {model: maths, layer_range: [4, 8], parameters: {weight: 0.7721}}
  - {model: spanish, layer_range: [4, 8], parameters: {weight: 0.0107}}
  - {model: base, layer_range: [4, 8]}
dtype: float32
",
    )
}

/// The share of right answers falls with the distance of maths' mean weight from 0.8 and of spanish' from 0, noise-free;
/// so the first questions are right and the others wrong.
fn examiner(recipe: &Recipe) -> Asked {
    let of_source = |source: &Source| match &source.parameters["weight"] {
        ParamValue::Number(weight) => *weight,
        ParamValue::Filtered(entries) => {
            let values = entries.iter().map(|e| match *e.value {
                ParamValue::Number(weight) => weight,
                ref other => panic!("{other:?}"),
            });
            values.sum::<f64>() / entries.len() as f64
        }
        other => panic!("{other:?}"),
    };
    // A model that has no part in a group of layers has weight 0 there.
    let within = |sources: &[Source], model: &str| sources.iter().find(|s| s.model == model).map_or(0.0, of_source);
    let of_model = |model: &str| match &recipe.result().body {
        Body::Models(models) => within(models, model),
        Body::Slices(slices) => slices.iter().map(|s| within(&s.sources, model)).sum::<f64>() / slices.len() as f64,
    };
    let share = 0.6 - (of_model("maths") - 0.8).abs() - 0.5 * of_model("spanish").abs();
    let right = (share * QUESTIONS as f64) as usize;
    Ok(vec![TaskScores {
        weight: 1.0,
        scores: (0..QUESTIONS).map(|i| f64::from(u8::from(i < right))).collect(),
        sizes: vec![1.0; QUESTIONS],
        is_right_or_wrong: true,
    }])
}

fn simplest(margin: f64, ask: &mut dyn FnMut(&Recipe) -> Asked) -> (Recipe, Vec<Attempt>) {
    let mut attempts = Vec::new();
    let mut seen = |attempt: &Attempt, _: &Recipe| attempts.push(attempt.clone());
    let recipe = simplify(&winner(), (margin, &|_| None), ask, &mut seen).unwrap();
    (recipe, attempts)
}

/// What is known of the slopes of a search's loss decides which of two equal changes is asked for first.
#[test]
fn of_equal_gains_what_is_expected_to_lose_least_is_tried_first() {
    let yaml = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: maths, parameters: {weight: 0.8137}}\n\
                - {model: spanish, parameters: {weight: 0.6241}}\n- {model: base}\n";
    let winner = parse(yaml);
    let first = |expected: Expected<'_>| {
        let mut attempts = Vec::new();
        let mut seen = |attempt: &Attempt, _: &Recipe| attempts.push(attempt.change.clone());
        simplify(&winner, (0.0, expected), &mut examiner, &mut seen).unwrap();
        attempts.remove(0)
    };
    let loses = |model: &'static str| {
        move |recipe: &Recipe| Some(f64::from(u8::from(recipe.models().iter().all(|word| *word != model))))
    };
    assert_eq!(first(&|_| None), "without maths", "as they stand");
    assert_eq!(first(&loses("maths")), "without spanish");
    assert_eq!(first(&loses("spanish")), "without maths");
}

#[test]
fn what_does_not_matter_goes_and_what_matters_stays() {
    let (recipe, attempts) = simplest(0.03, &mut examiner);
    let Body::Models(models) = &recipe.result().body else {
        panic!("{recipe:?}")
    };
    assert_eq!(models.len(), 1, "spanish and the slices are gone: {recipe:?}");
    assert_eq!(models[0].parameters["weight"], ParamValue::Number(0.8));
    assert!(Complexity::of(&recipe).total() < Complexity::of(&winner()).total() / 4);
    let refused: Vec<&str> = attempts
        .iter()
        .filter(|a| !a.accepted)
        .map(|a| a.change.as_str())
        .collect();
    assert!(refused.contains(&"without maths"), "{refused:?}");
    let mut once = refused.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(
        once.len(),
        refused.len(),
        "what was refused is not tried again: {refused:?}"
    );
}

/// A path that had become all layers of the mixture in their order: "refused: passthrough takes 1 models, here are 2", and the
/// simplest recipe kept a stage that did nothing.
#[test]
fn a_path_of_all_layers_is_no_stage_of_its_own() {
    let path = parse(
        "name: ps\nmerge_method: task_arithmetic\nbase_model: base\nmodels: [{model: maths, parameters: {weight: 1}}]\n\
         dtype: float32\n---\nmerge_method: passthrough\nbase_model: base\ntokenizer_source: base\n\
         slices: [{sources: [{model: ps, layer_range: [0, 8]}]}]\nout_dtype: float16\n",
    );
    let step = |recipe: &Recipe, words: &str| {
        let found = steps::steps(recipe).into_iter().find(|step| step.change == words);
        found.expect(words).recipe
    };
    let one = step(&path, "without the path behind the mixture");
    assert_eq!(one.stages.len(), 1);
    let result = one.result();
    assert_eq!((result.merge_method.name(), &result.name), ("task_arithmetic", &None));
    assert_eq!(result.tokenizer_source.as_deref(), Some("base"));
    assert_eq!(result.out_dtype.map(|dtype| dtype.name()), Some("f16"));
    let is_offered = |words: &str| steps::steps(&path).iter().any(|step| step.change == words);
    assert!(
        !is_offered("whole models instead of slices"),
        "the base would be one of them"
    );
}

#[test]
fn losses_are_counted_from_the_winner_and_do_not_add_up() {
    let (recipe, _) = simplest(0.03, &mut examiner);
    let (first, last) = (examiner(&winner()).unwrap(), examiner(&recipe).unwrap());
    assert!(against(&first, &last, 0.03).difference > -0.03);
}

#[test]
fn a_margin_of_nothing_changes_only_what_is_better() {
    let (recipe, attempts) = simplest(0.0, &mut examiner);
    for attempt in attempts.iter().filter(|a| a.accepted) {
        assert!(attempt.test.unwrap().difference > 0.0, "{attempt:?}");
    }
    assert!(against(&examiner(&winner()).unwrap(), &examiner(&recipe).unwrap(), 0.0).difference >= 0.0);
}

#[test]
fn a_recipe_that_cannot_be_scored_is_refused_with_its_reason() {
    let mut only_the_winner = |recipe: &Recipe| match *recipe == winner() {
        true => examiner(recipe),
        false => Err("the model does not fit".into()),
    };
    let (recipe, attempts) = simplest(0.05, &mut only_the_winner);
    assert_eq!(recipe, winner());
    assert!(attempts.len() > 10);
    assert!(
        attempts
            .iter()
            .all(|a| a.failure.as_deref() == Some("the model does not fit"))
    );
    let mut nobody = |_: &Recipe| Err("no disk".to_string());
    assert_eq!(
        simplify(&winner(), (0.05, &|_| None), &mut nobody, &mut |_, _| {}),
        Err("no disk".into())
    );
}

#[test]
fn sensitivities_name_each_number_and_what_it_is_worth() {
    let found = sensitivities(&winner(), &mut examiner).unwrap();
    let genes: Vec<&str> = found.iter().map(|s| s.gene.as_str()).collect();
    assert_eq!(
        genes,
        [
            "weight of maths, layers 0–3, attn",
            "weight of maths, layers 0–3, mlp",
            "weight of maths, layers 0–3, other",
            "weight of spanish, layers 0–3",
            "weight of maths, layers 4–7",
            "weight of spanish, layers 4–7",
        ]
    );
    // A sixth of maths' mean weight is gone: 0.8137/6, from 0.004 below its best place.
    assert!((found[0].difference.unwrap() + 0.8137 / 6.0).abs() < 0.01, "{found:?}");
    assert!(found[3].difference.unwrap() > 0.0, "{found:?}");
    assert_eq!((found[3].value, found[3].without), (0.0312, 0.0));
}

#[test]
fn groups_join_with_the_mean_of_their_layers() {
    let steps = steps(&winner());
    let joined = steps.iter().find(|s| s.change == "layers 0–7 as one group").unwrap();
    let Body::Slices(slices) = &joined.recipe.result().body else {
        panic!()
    };
    assert_eq!(slices[0].sources[0].layer_range, Some([0, 8]));
    let numbers = numbers::numbers(&joined.recipe);
    // attn (0.8137 + 0.7721)/2, mlp (0.7444 + 0.7721)/2, other (0.9021 + 0.7721)/2, spanish (0.0312 + 0.0107)/2
    let values: Vec<f64> = numbers.iter().map(|n| n.value).collect();
    assert_eq!(values, [0.7929, 0.75825, 0.8371, 0.02095]);
}

#[test]
fn a_path_loses_slices_and_scales() {
    let path = parse(
        "
merge_method: passthrough
slices:
- sources: [{model: a, layer_range: [0, 6]}]
- sources: [{model: b, layer_range: [2, 3], parameters: {scale: 0.93}}]
- sources: [{model: a, layer_range: [6, 8]}]
",
    );
    let changes: Vec<String> = steps(&path).into_iter().map(|s| s.change).collect();
    for wanted in [
        "without slice 1 (b layer 2)",
        "scale at its default of 1",
        "all numbers to multiples of 0.5",
    ] {
        assert!(changes.iter().any(|c| c == wanted), "{wanted}: {changes:?}");
    }
    assert!(
        !changes.iter().any(|c| c.contains("group")),
        "another model's layers are no neighbours: {changes:?}"
    );
}

#[test]
fn densities_are_not_rounded_to_nothing() {
    let ties = parse(
        "
merge_method: ties
base_model: base
models:
- {model: a, parameters: {weight: 0.4, density: 0.21}}
- {model: b, parameters: {weight: 0.61, density: 0.93}}
parameters: {normalize: true}
",
    );
    let steps = steps(&ties);
    let rounded = steps
        .iter()
        .find(|s| s.change == "all numbers to multiples of 1")
        .unwrap();
    let values: Vec<f64> = numbers::numbers(&rounded.recipe).into_iter().map(|n| n.value).collect();
    assert_eq!(
        values,
        [0.21, 0.0, 1.0, 1.0],
        "density stands before weight: a density of 0 is none"
    );
    assert!(
        steps.iter().any(|s| s.change == "normalize at its default of 1"),
        "a switch is reset, never rounded"
    );
}
