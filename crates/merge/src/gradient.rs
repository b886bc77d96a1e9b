//! The derivative of a merged tensor with respect to the numbers of its recipe.
//!
//! Given the derivative of some loss with respect to one merged tensor (`upstream`), [`Operation::gradient`] gives the
//! derivative with respect to each number that the operation has and that it depends on smoothly: weights, `t`, `lambda`,
//! `alpha`, `scale`, `gain`. Masks are taken as they stand at the operation's own numbers; elected signs move with the
//! weights, so these derivatives are differences of merges. Rounding to the child's dtype is passed over. Sums run in f64
//! over fixed blocks, so threads change no bit.
//!
//! [`Slopes`] does so for a whole plan. Densities, whole numbers, switches and choices have no derivative.

use super::{
    Cache, Error, Plan, TensorSource,
    operation::{Measured, Operation},
    parents::{Parents, Refusal},
    view::{Memory, Target, dot},
};
use crate::recipe::DType;

/// A number of a recipe, as it stands at one merged tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    /// Stage and output, as they are numbered in the plan.
    pub place: (usize, usize),
    /// Its name in a recipe.
    pub parameter: &'static str,
    /// The number of the model whose parameter it is, among those that have one.
    pub model: Option<usize>,
    /// What it is now.
    pub value: f64,
}

impl Operation {
    /// Replaces the derivatives of weights by central differences of the merge. As a weight moves, one entry after the other
    /// elects another sign and jumps; at fixed signs none of that is seen, and over a whole tensor it is most of the slope.
    pub fn across_elections(
        &self,
        parents: &Parents<'_>,
        measured: &Measured,
        upstream: &[f32],
        slopes: &mut [f64],
    ) -> Result<(), Refusal> {
        let mut out = vec![0.0; parents.len()];
        let mut along = |model: usize, step: f32| -> Result<f64, Refusal> {
            let mut moved = self.clone();
            if let Operation::TaskSum(sum) = &mut moved {
                sum.terms[model].weight += step;
            }
            let mut target = Target {
                memory: Memory::F32(&mut out),
                dtype: DType::F32,
            };
            moved.run(parents, measured, &mut target)?;
            Ok(dot(upstream, &out))
        };
        for (slope, (_, model, _)) in slopes.iter_mut().zip(self.numbers()) {
            if let Some(k) = model {
                *slope = (along(k, ELECTION_STEP)? - along(k, -ELECTION_STEP)?) / (2.0 * f64::from(ELECTION_STEP));
            }
        }
        Ok(())
    }

    /// The derivative of a result that is base + λ · something linear in each number, by merging with units.
    pub fn by_units(&self, parents: &Parents<'_>, measured: &Measured, upstream: &[f32]) -> Result<Vec<f64>, Refusal> {
        let base = parents.base.map(|base| parents.whole(base));
        let from_base = match &base {
            Some(base) => dot(upstream, base),
            None => 0.0,
        };
        let along = |operation: &Operation| -> Result<f64, Refusal> {
            let mut out = vec![0.0; parents.len()];
            let mut target = Target {
                memory: Memory::F32(&mut out),
                dtype: DType::F32,
            };
            operation.run(parents, measured, &mut target)?;
            Ok(dot(upstream, &out) - from_base)
        };
        let numbers = self.numbers().into_iter();
        numbers.map(|number| along(&self.with_unit(number))).collect()
    }

    /// The derivative with respect to the only input, where the operation is a copy with a factor.
    fn through(&self, upstream: &[f32]) -> Option<Vec<f32>> {
        match self {
            Operation::Passthrough { scale, gain } => Some(upstream.iter().map(|g| g * scale * gain).collect()),
            _ => None,
        }
    }
}

/// How far a weight is moved to see which entries elect another sign: far enough that many do.
const ELECTION_STEP: f32 = 1.0 / 64.0;

/// ⟨upstream, xₖ⟩ for every input.
pub(crate) fn inner(parents: &Parents<'_>, upstream: &[f32]) -> Vec<f64> {
    let parts = parents.inputs.each(
        #[inline(always)]
        |start, chunks, _| {
            let products = chunks
                .iter()
                .map(|chunk| dot(&upstream[start..start + chunk.len()], chunk));
            products.collect::<Vec<f64>>()
        },
    );
    add_up(parents.inputs.count(), parts)
}

/// ⟨upstream, xₖ⟩ for every model, or ⟨upstream, τₖ⟩ where there is a base.
pub(crate) fn along_models(parents: &Parents<'_>, upstream: &[f32]) -> Vec<f64> {
    let inner = inner(parents, upstream);
    let from_base = parents.base.map_or(0.0, |base| inner[base]);
    parents.models().into_iter().map(|k| inner[k] - from_base).collect()
}

pub(crate) fn add_up(count: usize, parts: Vec<Vec<f64>>) -> Vec<f64> {
    let mut sums = vec![0.0; count];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}

/// The derivative of a loss with respect to all numbers of a plan, added up tensor by tensor.
pub struct Slopes {
    knobs: Vec<Knob>,
    /// By stage and output, the first of its knobs; of a stage that a derivative cannot reach, nothing.
    first: Vec<Option<Vec<usize>>>,
    sums: Vec<f64>,
}

impl Slopes {
    /// Nothing added up yet.
    pub fn new(plan: &Plan) -> Self {
        let knobs = plan.knobs();
        let first = plan.first_knobs();
        Slopes {
            sums: vec![0.0; knobs.len()],
            knobs,
            first,
        }
    }

    /// The numbers, in the order of [`Plan::knobs`], with what was added up for each.
    pub fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// The numbers that the sums belong to.
    pub fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    /// Adds the part of output `i`, where `upstream` is the derivative of the loss with respect to it.
    ///
    /// # Errors
    /// As [`Plan::compute`].
    pub fn add(
        &mut self,
        plan: &Plan,
        i: usize,
        source: &dyn TensorSource,
        cache: Option<&Cache>,
        upstream: &[f32],
    ) -> Result<(), Error> {
        self.add_stage(plan, plan.stage_count() - 1, i, source, cache, upstream)
    }

    fn add_stage(
        &mut self,
        plan: &Plan,
        stage: usize,
        i: usize,
        source: &dyn TensorSource,
        cache: Option<&Cache>,
        upstream: &[f32],
    ) -> Result<(), Error> {
        let Some(first) = self.first[stage].as_ref().map(|first| first[i]) else {
            return Ok(());
        };
        let (operation, below) = plan.operation(stage, i);
        let of_this = operation.numbers().len();
        if of_this > 0 {
            let found = plan.gradient_of(stage, i, source, cache, upstream)?;
            for (sum, slope) in self.sums[first..first + of_this].iter_mut().zip(found) {
                *sum += slope;
            }
        }
        if let Some((stage, i)) = below
            && let Some(upstream) = operation.through(upstream)
        {
            self.add_stage(plan, stage, i, source, cache, &upstream)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::{Models, noise};
    use super::super::tests::{example, models};
    use super::*;
    use crate::recipe::{Body, Method, ParamValue, Recipe, methods, read};

    fn parse(text: &str) -> Recipe {
        read::parse(Path::new("recipe.yaml"), text).unwrap()
    }

    /// The recipe with one number set everywhere.
    fn with(recipe: &Recipe, parameter: &str, model: Option<usize>, value: f64) -> Recipe {
        let mut recipe = recipe.clone();
        let stage = recipe.stages.last_mut().unwrap();
        let Body::Models(sources) = &mut stage.body else {
            panic!("models side by side")
        };
        let scope = match (model, parameter) {
            (Some(k), _) => &mut sources[k].parameters,
            (None, "scale" | "gain") => &mut sources[0].parameters,
            (None, _) => &mut stage.parameters,
        };
        scope.insert(parameter.into(), ParamValue::Number(value));
        recipe
    }

    /// Σ over all outputs of ⟨output, some fixed direction⟩: a loss whose derivative is known.
    fn loss(recipe: &Recipe, source: &Models) -> f64 {
        let plan = Plan::new(recipe, source).unwrap();
        let of = |i: usize| dot(&direction(&plan, i), &plan.compute(i, source).unwrap());
        (0..plan.outputs().len()).map(of).sum()
    }

    fn direction(plan: &Plan, i: usize) -> Vec<f32> {
        noise(77 + i as u64, plan.outputs()[i].elements())
    }

    fn slopes(plan: &Plan, source: &Models) -> Slopes {
        let mut slopes = Slopes::new(plan);
        for i in 0..plan.outputs().len() {
            slopes.add(plan, i, source, None, &direction(plan, i)).unwrap();
        }
        slopes
    }

    /// What a number that is the same everywhere contributes: the sum over all tensors.
    fn total(slopes: &Slopes, parameter: &str, model: Option<usize>) -> f64 {
        let all = slopes.knobs().iter().zip(slopes.sums());
        let of_it = all.filter(|(knob, _)| knob.parameter == parameter && knob.model == model);
        of_it.map(|(_, slope)| slope).sum()
    }

    fn check(recipe: &Recipe, source: &Models, what: &str) {
        let elects = matches!(
            recipe.result().merge_method,
            Method::Ties | Method::DareTies | Method::Della | Method::BreadcrumbsTies
        );
        let near = if elects { f64::from(ELECTION_STEP) } else { 1.0 / 1024.0 };
        let plan = Plan::new(recipe, source).unwrap();
        let found = slopes(&plan, source);
        let mut numbers: Vec<(&str, Option<usize>, f64)> = Vec::new();
        for knob in found.knobs() {
            let number = (knob.parameter, knob.model, knob.value);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        let scale = found.sums().iter().fold(0.1f64, |m, s| m.max(s.abs()));
        for (parameter, model, value) in numbers {
            let at = |step: f64| loss(&with(recipe, parameter, model, value + step), source);
            let expected = (at(near) - at(-near)) / (2.0 * near);
            let got = total(&found, parameter, model);
            assert!(
                (got - expected).abs() < 3e-3 * scale,
                "{what} {parameter} {model:?}: {got} {expected}"
            );
        }
    }

    #[test]
    fn every_number_of_every_method_agrees_with_central_differences() {
        let source = models();
        for info in methods() {
            let recipe = parse(&example(info.method));
            let plan = Plan::new(&recipe, &source).unwrap();
            let knobs = plan.knobs();
            let mut named: Vec<&str> = knobs.iter().map(|knob| knob.parameter).collect();
            named.sort_unstable();
            named.dedup();
            let mut listed = info.learned.to_vec();
            listed.sort_unstable();
            // Spectral methods average what is no matrix, and layers that are swapped are copied.
            named.retain(|name| info.parameter(name).is_some());
            let inner = matches!(info.method, Method::IsoC | Method::IsoCts | Method::Svc | Method::Knots);
            assert!(listed == named || inner, "{} {listed:?} {named:?}", info.name);
            for name in &listed {
                assert!(info.parameter(name).is_some(), "{} has no {name}", info.name);
            }
            // The weights of these two bend the singular basis, which is not differentiated.
            if !inner && info.method != Method::Opcm && info.method != Method::LayerSwap {
                check(&recipe, &source, info.name);
            }
        }
    }

    #[test]
    fn normalisation_negative_weights_and_the_papers_rescaling_agree_with_central_differences() {
        let source = models();
        for method in [
            "task_arithmetic",
            "ties",
            "dare_ties",
            "della",
            "breadcrumbs_ties",
            "linear",
        ] {
            let base = if method == "linear" { "" } else { "base_model: base\n" };
            for normalize in [false, true] {
                let rescale = if matches!(method, "linear" | "task_arithmetic") {
                    ""
                } else {
                    ", rescale: expectation"
                };
                let lambda = if method == "linear" { "" } else { ", lambda: 0.8" };
                let text = format!(
                    "merge_method: {method}\n{base}seed: 5\nparameters: {{normalize: {normalize}{rescale}{lambda}}}\nmodels:\n\
                     - {{model: a, parameters: {{weight: 0.9}}}}\n- {{model: b, parameters: {{weight: -0.3}}}}\n"
                );
                check(&parse(&text), &source, &format!("{method} normalize {normalize}"));
            }
        }
    }

    #[test]
    fn a_lone_weight_of_zero_can_be_left_in_a_sum_that_elects_signs() {
        let source = models();
        let text = "merge_method: ties\nbase_model: base\nparameters: {normalize: false}\nmodels:\n\
                    - {model: a, parameters: {weight: 0.0, density: 1.0}}\n";
        let plan = Plan::new(&parse(text), &source).unwrap();
        let found = slopes(&plan, &source);
        assert!(found.sums().iter().any(|s| s.abs() > 0.1));
    }

    #[test]
    fn numbers_of_an_earlier_stage_are_reached_through_copies_only() {
        let source = models();
        let mixed = "name: ps\nmerge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: a, parameters: {weight: 0.6}}\n";
        let path = "merge_method: passthrough\nslices:\n- sources: [{model: ps, layer_range: [0, 3], parameters: {scale: 1.5}}]\n\
                    - sources: [{model: ps, layer_range: [1, 4]}]\n";
        let at = |weight: f64, scale: f64| {
            let text = format!("{mixed}---\n{path}");
            parse(
                &text
                    .replace("0.6", &weight.to_string())
                    .replace("1.5", &scale.to_string()),
            )
        };
        let plan = Plan::new(&at(0.6, 1.5), &source).unwrap();
        let found = slopes(&plan, &source);
        let numeric = |a: Recipe, b: Recipe| (loss(&a, &source) - loss(&b, &source)) / 0.02;
        let expected = numeric(at(0.61, 1.5), at(0.59, 1.5));
        let got = total(&found, "weight", Some(0));
        assert!(
            (got - expected).abs() < 1e-2 * expected.abs().max(1.0),
            "{got} {expected}"
        );
        let scaled = found
            .knobs()
            .iter()
            .zip(found.sums())
            .filter(|(k, _)| k.parameter == "scale" && k.value == 1.5);
        let expected = numeric(at(0.6, 1.51), at(0.6, 1.49));
        let got: f64 = scaled.map(|(_, s)| s).sum();
        assert!(
            (got - expected).abs() < 1e-2 * expected.abs().max(1.0),
            "{got} {expected}"
        );

        let averaged = format!(
            "{mixed}---\nmerge_method: linear\nmodels:\n- {{model: ps, parameters: {{weight: 1}}}}\n- {{model: b, parameters: {{weight: 1}}}}\n"
        );
        let plan = Plan::new(&parse(&averaged), &source).unwrap();
        assert!(plan.knobs().iter().all(|knob| knob.place.0 == 1));
    }
}
