//! Merges that nobody searched for: the arms that every search is measured against, and where it may start.

use super::{Shape, Space};
use crate::recipe::{BaseRule, Body, DType, Method, ParamValue, Parameters, Recipe, Source, Stage};

/// Density of the unsearched DARE-TIES: half of each task vector is dropped, as its authors do.
const DARE_DENSITY: f64 = 0.5;

/// Equal-weight linear; with a base TIES and DARE-TIES at their defaults and the plain sum of the task vectors; with a
/// base and two experts layer swapping, in which the first expert is the task's and the second the language's.
pub(super) fn merges(space: &Space, shape: Shape) -> Vec<(String, Recipe)> {
    let plain = |method, each: &[(&str, f64)], all: &[(&str, f64)]| merge(space, shape, method, each, all);
    let mut merges = vec![("linear".to_string(), plain(Method::Linear, &[("weight", 1.0)], &[]))];
    if space.base.is_none() {
        return merges;
    }
    let weight_1 = ("weight", 1.0);
    merges.push(("ties".into(), plain(Method::Ties, &[weight_1, ("density", 1.0)], &[])));
    merges.push((
        "dare_ties".into(),
        plain(Method::DareTies, &[weight_1, ("density", DARE_DENSITY)], &[]),
    ));
    let [bottom, top] = swapped_layers(shape.layers);
    if space.experts().count() == 2 && bottom + top <= shape.layers {
        let zones = [("bottom", bottom as f64), ("top", top as f64)];
        merges.push(("layer_swap".into(), plain(Method::LayerSwap, &[], &zones)));
    }
    merges.push((
        "task_arithmetic".into(),
        plain(Method::TaskArithmetic, &[weight_1], &[]),
    ));
    merges
}

/// Five layers at the bottom and two at the top of 32, as in Bandarkar et al. 2024 (arXiv:2410.01335), in proportion.
pub(super) fn swapped_layers(layers: usize) -> [usize; 2] {
    [5, 2].map(|of_32| ((layers * of_32 + 16) / 32).max(1))
}

/// The experts side by side, all with the same parameters.
fn merge(space: &Space, shape: Shape, method: Method, each: &[(&str, f64)], all: &[(&str, f64)]) -> Recipe {
    let numbers = |pairs: &[(&str, f64)]| -> Parameters {
        let numbers = pairs.iter().map(|(k, v)| (k.to_string(), ParamValue::Number(*v)));
        numbers.collect()
    };
    let sources = space.experts().map(|model| Source {
        model: model.into(),
        layer_range: None,
        fisher: None,
        grams: None,
        parameters: numbers(each),
    });
    let base = space.base.clone().filter(|_| method.info().base == BaseRule::Required);
    Recipe {
        stages: vec![Stage {
            name: None,
            modules: Default::default(),
            merge_method: method,
            body: Body::Models(sources.collect()),
            parameters: numbers(all),
            dtype: Some(DType::F32),
            out_dtype: Some(shape.out_dtype),
            tokenizer_source: (base.as_ref() != Some(&space.tokenizer)).then(|| space.tokenizer.clone()),
            base_model: base,
            tokenizer: None,
            chat_template: None,
            seed: method.info().is_random.then_some(space.search.seed),
        }],
    }
}

/// A recipe of the method `layer_swap`, layer by layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Swap<'a> {
    pub inner: &'a str,
    pub outer: &'a str,
    /// The inner model's share of each layer.
    pub shares: Vec<f64>,
}

impl<'a> Swap<'a> {
    /// `None` for other recipes, and for one whose zones are more layers than there are.
    pub fn of(stage: &'a Stage, layers: usize) -> Option<Self> {
        let Body::Models(models) = &stage.body else { return None };
        let [inner, outer] = models.as_slice() else { return None };
        if stage.merge_method != Method::LayerSwap {
            return None;
        }
        let given = |name: &str| match stage.parameters.get(name) {
            Some(ParamValue::Number(n)) => Some(*n as usize),
            _ => None,
        };
        let (bottom, top) = (given("bottom")?, given("top")?);
        let room = layers.checked_sub(bottom + top)?;
        let blend_bottom = given("transition_bottom").unwrap_or(usize::from(bottom > 0)).min(room);
        let blend_top = given("transition_top")
            .unwrap_or(usize::from(top > 0))
            .min(room - blend_bottom);
        let share = |layer: usize| {
            if layer < bottom || layer >= layers - top {
                return 0.0;
            }
            let (from_bottom, from_top) = (layer - bottom, layers - top - 1 - layer);
            if from_bottom < blend_bottom {
                (from_bottom + 1) as f64 / (blend_bottom + 1) as f64
            } else if from_top < blend_top {
                (from_top + 1) as f64 / (blend_top + 1) as f64
            } else {
                1.0
            }
        };
        Some(Self {
            inner: &inner.model,
            outer: &outer.model,
            shares: (0..layers).map(share).collect(),
        })
    }

    /// What the swap comes to as a model's weight over a range of layers: its mean share.
    pub fn weight(&self, model: &str, [start, end]: [usize; 2]) -> f64 {
        let mean = self.shares[start..end].iter().sum::<f64>() / (end - start) as f64;
        if model == self.inner {
            mean
        } else if model == self.outer {
            1.0 - mean
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Codec, Fold};
    use super::*;

    const SPACE: &str = "
name: t
models: {base: b, maths: m, spanish: s}
base: base
parameter_space:
  method: [ties, linear]
  layer_groups: 4
  genes: {weight: [0.0, 1.5], density: {range: [0.1, 1.0], per: recipe}}
fitness:
  tasks: [gsm8k]
";

    fn codec(text: &str) -> Codec {
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let shape = Shape {
            layers: 8,
            out_dtype: DType::F32,
            fold: Fold::Projections,
        };
        Codec::new(&space, shape).unwrap()
    }

    #[test]
    fn the_arms_of_a_space_with_a_base_and_two_experts() {
        let baselines = codec(SPACE).baselines();
        let names: Vec<&str> = baselines.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["linear", "ties", "dare_ties", "layer_swap", "task_arithmetic"]);
        assert_eq!(baselines[0].1.result().base_model, None);
        assert_eq!(baselines[1].1.result().base_model.as_deref(), Some("base"));
        assert_eq!(baselines[2].1.result().seed, Some(0));
        let swap = baselines[3].1.result();
        assert_eq!(swap.parameters["bottom"], ParamValue::Number(1.0));
        assert_eq!(swap.parameters["top"], ParamValue::Number(1.0));
        let without = SPACE
            .replace("base: base\n", "")
            .replace("[ties, linear]", "linear")
            .replace(", density: {range: [0.1, 1.0], per: recipe}", "");
        assert_eq!(codec(&without).baselines().len(), 1);
    }

    #[test]
    fn arms_are_starts() {
        let ties_only = SPACE.replace("[ties, linear]", "ties");
        let codec = codec(&ties_only);
        let baselines = codec.baselines();
        let linear = codec.encode(&baselines[0].1).unwrap();
        assert_eq!(linear[0], 0.5, "an average of two models is half of each task vector");
        // Layers 0 and 7 are the language's, 1 and 6 are blended, the rest is the task's.
        let swap = codec.encode(&baselines[3].1).unwrap();
        assert_eq!(swap[..8], [0.25, 1.0, 1.0, 0.25, 0.75, 0.0, 0.0, 0.75]);
    }

    #[test]
    fn five_and_two_of_thirty_two() {
        assert_eq!(swapped_layers(32), [5, 2]);
        assert_eq!(swapped_layers(8), [1, 1]);
        assert_eq!(swapped_layers(1), [1, 1]);
        assert_eq!(swapped_layers(64), [10, 4]);
    }
}
