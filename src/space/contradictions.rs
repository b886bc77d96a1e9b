//! Ranges that contradict each other: each is a range that its parameter can have, and together they are of children that
//! nobody can merge.
//!
//! Not refused when a space is read, since runs exist that were begun with such spaces and must still be looked at.

use super::{Error, Gene, ParameterSpace, Space};
use crate::recipe::{DefaultValue, Method, ParamValue};

/// Distance that a suggestion keeps from what is refused.
const STEP: f64 = 0.01;

impl Space {
    /// Sees whether candidates exist that fail by their genes alone, for models of so many layers.
    ///
    /// # Errors
    /// Names the genes, what they do to each other, and ranges that go together.
    pub fn contradictions(&self, layers: usize) -> Result<(), Error> {
        let Some(ps) = &self.parameter_space else { return Ok(()) };
        for method in &ps.method {
            match method {
                Method::Della | Method::DellaLinear => keep_probabilities(ps, *method)?,
                Method::LayerSwap => zones(ps, layers)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The least and the most that a parameter of a method can be in this space; `None` where it is no number.
fn bounds(ps: &ParameterSpace, method: Method, name: &str) -> Option<(f64, f64)> {
    match ps.genes.iter().find(|(gene, _)| gene == name).map(|(_, gene)| gene) {
        Some(Gene::Searched { range, .. }) => Some(range.bounds()),
        Some(Gene::Fixed(ParamValue::Number(n))) => Some((*n, *n)),
        Some(Gene::Fixed(_)) => None,
        None => match method.info().parameter(name)?.default {
            DefaultValue::Value(n) => Some((n, n)),
            DefaultValue::Required | DefaultValue::Method => None,
        },
    }
}

/// DELLA keeps entries with probabilities from density − epsilon to density + epsilon; a density of exactly 1 keeps all.
fn keep_probabilities(ps: &ParameterSpace, method: Method) -> Result<(), Error> {
    let (Some(density), Some(epsilon)) = (bounds(ps, method, "density"), bounds(ps, method, "epsilon")) else {
        return Ok(());
    };
    let ((low, high), widest) = (density, epsilon.1);
    if low >= 1.0 || (low - widest > 0.0 && high + widest < 1.0) {
        return Ok(());
    }
    let round = |x: f64| (x * 100.0).round() / 100.0;
    let narrower = (round(low.max(widest + STEP)), round(high.min(1.0 - widest - STEP)));
    let smaller = round(low.min(1.0 - high) - STEP);
    let mut ways = Vec::new();
    if narrower.0 < narrower.1 {
        ways.push(format!("density: [{}, {}]", narrower.0, narrower.1));
    }
    if smaller > 0.0 {
        ways.push(format!("an epsilon of at most {smaller}"));
    }
    if ways.is_empty() {
        ways.push("a density further from 0 and 1 with a smaller epsilon".into());
    }
    let is_default = !ps.genes.iter().any(|(name, _)| name == "epsilon");
    Err(Error::Contradiction {
        method: method.name(),
        genes: format!(
            "density {} and epsilon {}{}",
            written(density),
            written(epsilon),
            if is_default { ", its default," } else { "" }
        ),
        reason: "entries are kept with probabilities from density - epsilon to density + epsilon, which must lie inside (0, 1)"
            .into(),
        ways: ways.join(", or "),
    })
}

fn zones(ps: &ParameterSpace, layers: usize) -> Result<(), Error> {
    let most = |name: &str| bounds(ps, Method::LayerSwap, name).map_or(0.0, |(_, high)| high);
    let parts = ["bottom", "top", "transition_bottom", "transition_top"].map(most);
    let wanted: f64 = parts.iter().sum();
    if wanted <= layers as f64 {
        return Ok(());
    }
    Err(Error::Contradiction {
        method: Method::LayerSwap.name(),
        genes: format!("bottom up to {}, top up to {}", parts[0], parts[1]),
        reason: format!("with their transitions they come to {wanted} layers, and the models have {layers}"),
        ways: "ranges whose upper ends come to no more".into(),
    })
}

/// `[0.3, 0.9]`, or the number itself.
fn written((low, high): (f64, f64)) -> String {
    match low == high {
        true => low.to_string(),
        false => format!("[{low}, {high}]"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(method: &str, genes: &str) -> Result<(), String> {
        let text = format!(
            "name: t\nmodels: {{base: b, maths: m, spanish: s}}\nbase: base\nparameter_space: {{method: {method}, genes: \
             {{{genes}}}}}\nfitness: {{tasks: [t]}}\n"
        );
        let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
        space.contradictions(8).map_err(|e| e.to_string())
    }

    /// Every candidate of such a space failed, and `check` said that everything fits.
    #[test]
    fn della_s_density_leaves_room_for_its_epsilon() {
        let refused = told("della", "weight: [0, 1], density: [0.3, 0.9]").unwrap_err();
        for word in [
            "density [0.3, 0.9]",
            "epsilon 0.15, its default",
            "density: [0.3, 0.84]",
            "at most 0.09",
        ] {
            assert!(refused.contains(word), "'{word}' is not in: {refused}");
        }
        let fits = |genes: &str| told("[ties, della_linear]", &format!("weight: [0, 1], {genes}"));
        assert_eq!(fits("density: [0.3, 0.84]"), Ok(()));
        assert_eq!(fits("density: [0.3, 0.9], epsilon: 0.09"), Ok(()));
        assert_eq!(fits("density: 1.0"), Ok(()));
        assert_eq!(fits("lambda: [0.5, 1]"), Ok(()), "its default density keeps everything");
        assert!(fits("density: [0.3, 1.0]").is_err());
        assert!(fits("density: [0.2, 0.8], epsilon: [0.05, 0.3]").is_err());
        assert!(
            fits("density: [0.1, 0.5]")
                .unwrap_err()
                .contains("density: [0.16, 0.5]")
        );
        assert_eq!(told("ties", "weight: [0, 1], density: [0.1, 1.0]"), Ok(()));
    }

    #[test]
    fn swapped_layers_are_no_more_than_there_are() {
        assert!(
            told("layer_swap", "bottom: {int: [0, 5]}, top: {int: [1, 4]}")
                .unwrap_err()
                .contains("9 layers")
        );
        assert_eq!(told("layer_swap", "bottom: {int: [0, 5]}, top: {int: [1, 3]}"), Ok(()));
    }
}
