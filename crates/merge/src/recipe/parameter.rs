//! Which value a parameter has for one tensor of one model: precedence, filters, gradients and coercions as in mergekit.
//!
//! Precedence is source, slice, recipe, default. In a filter list the first entry whose word is part of the tensor's
//! name wins; a list in which nothing matches lets the next scope speak.

use super::{DefaultValue, Kind, ParamValue, ParameterInfo, Parameters};

/// The tensor that a parameter is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name in the child, to which filters are compared.
    pub tensor: &'a str,
    /// Depth within the slice, 0 (first layer) to 1 (last); 0 for embeddings, norm and head.
    pub t: f64,
}

/// The value of `parameter` at `place`, or `None` if it is required and no scope gives it.
///
/// `scopes` run from the most to the least specific one. A method's own default comes back as NaN-free `None` too; ask
/// [`ParameterInfo::default`] which it is.
///
/// # Errors
/// A value of the wrong kind or outside the range, in words.
pub fn evaluate(parameter: &ParameterInfo, scopes: &[&Parameters], place: Place<'_>) -> Result<Option<f64>, String> {
    for scope in scopes {
        if let Some(setting) = scope.get(parameter.name)
            && let Some(value) = resolve(parameter, setting, place)?
        {
            return Ok(Some(value));
        }
    }
    match parameter.default {
        DefaultValue::Value(value) => Ok(Some(value)),
        DefaultValue::Required | DefaultValue::Method => Ok(None),
    }
}

fn resolve(parameter: &ParameterInfo, setting: &ParamValue, place: Place<'_>) -> Result<Option<f64>, String> {
    match setting {
        ParamValue::Bool(_) | ParamValue::Number(_) | ParamValue::Text(_) => parameter.scalar(setting).map(Some),
        ParamValue::Gradient(values) => gradient(parameter, values, place.t),
        ParamValue::Filtered(entries) => {
            let entry = entries.iter().find(|e| matches(e.filter.as_deref(), place.tensor));
            entry.map_or(Ok(None), |e| resolve(parameter, &e.value, place))
        }
    }
}

/// What a filter is called where people read of it: `attn`, `router`, `experts`, `expert 3`, `shared`, or the word itself.
pub fn spoken(filter: &str) -> String {
    let body = ["mlp.", "block_sparse_moe."]
        .iter()
        .find_map(|body| filter.strip_prefix(body));
    let expert = || body?.strip_prefix("experts.")?.strip_suffix('.');
    match (filter, body) {
        ("self_attn", _) => "attn".into(),
        ("block_sparse_moe" | "feed_forward" | "shared_mlp", _) => "mlp".into(),
        ("linear_attn" | "mamba" | "conv" | ".conv.", _) => "mixer".into(),
        ("shared_mlp.", _) => "shared".into(),
        (_, Some("gate." | "router.")) => "router".into(),
        (_, Some("experts.")) => "experts".into(),
        (_, Some("shared_expert")) => "shared".into(),
        _ => expert().map_or_else(|| filter.into(), |number| format!("expert {number}")),
    }
}

fn matches(filter: Option<&str>, tensor: &str) -> bool {
    filter.is_none_or(|f| f == "*" || tensor.contains(f))
}

/// Numbers are interpolated between the two neighbours of `t · (len − 1)`; switches and choices take the lower one.
fn gradient(parameter: &ParameterInfo, values: &[f64], t: f64) -> Result<Option<f64>, String> {
    let Some(last) = values.len().checked_sub(1) else {
        return Ok(None);
    };
    for value in values {
        parameter.accept(*value)?;
    }
    let position = t * last as f64;
    let lower = (position as usize).min(last);
    if matches!(parameter.kind, Kind::Switch | Kind::Choice(_)) {
        return Ok(Some(values[lower]));
    }
    let upper = (lower + 1).min(last);
    let fraction = position - lower as f64;
    parameter
        .accept((1.0 - fraction) * values[lower] + fraction * values[upper])
        .map(Some)
}

impl ParameterInfo {
    /// A scalar setting as a number: `true` is 1, words are read as numbers, switches or choices.
    pub(crate) fn scalar(&self, setting: &ParamValue) -> Result<f64, String> {
        let number = match (setting, self.kind) {
            (ParamValue::Number(n), _) => *n,
            (ParamValue::Bool(b), _) => f64::from(u8::from(*b)),
            (ParamValue::Text(word), Kind::Choice(words)) => words
                .iter()
                .position(|w| w == word)
                .or_else(|| switch(word).map(usize::from))
                .ok_or_else(|| format!("'{word}' is not one of {}", words.join(", ")))?
                as f64,
            (ParamValue::Text(word), Kind::Switch) => switch(word)
                .map(|on| f64::from(u8::from(on)))
                .ok_or_else(|| format!("'{word}' is neither true nor false"))?,
            (ParamValue::Text(word), _) => word.parse().map_err(|_| format!("'{word}' is not a number"))?,
            (ParamValue::Gradient(_) | ParamValue::Filtered(_), _) => {
                return Err("a single value is expected here".into());
            }
        };
        self.accept(number)
    }

    /// The number itself if it is in the parameter's range.
    pub fn accept(&self, n: f64) -> Result<f64, String> {
        if !n.is_finite() {
            return Err(format!("{n} is not a finite number"));
        }
        match self.kind {
            Kind::Number { low, high, open_low } => {
                if n < low || n > high || (open_low && n == low) {
                    let open = if open_low { '(' } else { '[' };
                    return Err(format!("{n} is outside {open}{low}, {high}]"));
                }
            }
            Kind::Integer { low, high } => {
                if n.fract() != 0.0 || n < low || n > high {
                    return Err(format!("{n} is not a whole number of {low} or more"));
                }
            }
            Kind::Switch => {
                if n != 0.0 && n != 1.0 {
                    return Err(format!("{n} is neither true nor false"));
                }
            }
            Kind::Choice(words) => {
                if n.fract() != 0.0 || n < 0.0 || n >= words.len() as f64 {
                    return Err(format!("write one of {}", words.join(", ")));
                }
            }
        }
        Ok(n)
    }
}

/// The words that YAML 1.1 and mergekit take for a switch.
fn switch(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "t" | "1" => Some(true),
        "false" | "no" | "off" | "n" | "f" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filtered, Method};
    use super::*;

    fn weight() -> &'static ParameterInfo {
        Method::Linear.info().parameter("weight").unwrap()
    }

    fn scope(value: ParamValue) -> Parameters {
        Parameters::from([("weight".to_string(), value)])
    }

    fn at(tensor: &str, t: f64) -> Place<'_> {
        Place { tensor, t }
    }

    #[test]
    fn the_most_specific_scope_speaks_first() {
        let (a, b) = (scope(ParamValue::Number(0.25)), scope(ParamValue::Number(4.0)));
        let none = Parameters::new();
        assert_eq!(evaluate(weight(), &[&a, &b], at("x", 0.0)), Ok(Some(0.25)));
        assert_eq!(evaluate(weight(), &[&none, &b], at("x", 0.0)), Ok(Some(4.0)));
        assert_eq!(evaluate(weight(), &[&none], at("x", 0.0)), Ok(None));
    }

    #[test]
    fn filters_are_called_as_people_call_them() {
        let filters = [
            "self_attn",
            "mlp",
            "mlp.gate.",
            "block_sparse_moe.experts.",
            "mlp.experts.12.",
            "mlp.gate_proj",
            "linear_attn",
        ];
        let words = filters.map(spoken);
        assert_eq!(
            words,
            [
                "attn",
                "mlp",
                "router",
                "experts",
                "expert 12",
                "mlp.gate_proj",
                "mixer"
            ]
        );
    }

    #[test]
    fn the_first_filter_that_matches_wins_and_none_lets_the_next_scope_speak() {
        let filtered = |entries: &[(Option<&str>, f64)]| {
            scope(ParamValue::Filtered(
                entries
                    .iter()
                    .map(|(f, v)| Filtered {
                        filter: f.map(String::from),
                        value: Box::new(ParamValue::Number(*v)),
                    })
                    .collect(),
            ))
        };
        let list = filtered(&[(Some("attn"), 1.0), (Some("attn.q"), 2.0), (Some("mlp"), 3.0)]);
        let rest = filtered(&[(Some("*"), 9.0)]);
        let ask = |name| evaluate(weight(), &[&list, &rest], at(name, 0.0)).unwrap();
        assert_eq!(ask("a.attn.q"), Some(1.0));
        assert_eq!(ask("a.mlp.up"), Some(3.0));
        assert_eq!(ask("a.norm"), Some(9.0));
    }

    #[test]
    fn gradients_interpolate_by_hand() {
        let s = scope(ParamValue::Gradient(vec![0.0, 0.5, 1.0]));
        let ask = |t| evaluate(weight(), &[&s], at("x", t)).unwrap().unwrap();
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(ask), [0.0, 0.25, 0.5, 1.0]);
        // s = 1/3 · 2 = 2/3, between 0.0 and 0.5
        assert_eq!(ask(1.0 / 3.0), (2.0 / 3.0) * 0.5);
        let normalize = Method::Linear.info().parameter("normalize").unwrap();
        let s = Parameters::from([("normalize".into(), ParamValue::Gradient(vec![0.0, 1.0]))]);
        assert_eq!(evaluate(normalize, &[&s], at("x", 0.99)), Ok(Some(0.0)));
        assert_eq!(evaluate(normalize, &[&s], at("x", 1.0)), Ok(Some(1.0)));
    }

    #[test]
    fn values_are_coerced_as_mergekit_does() {
        assert_eq!(weight().scalar(&ParamValue::Bool(true)), Ok(1.0));
        assert_eq!(weight().scalar(&ParamValue::Text("1e-5".into())), Ok(1e-5));
        let rescale = Method::Ties.info().parameter("rescale").unwrap();
        assert_eq!(rescale.scalar(&ParamValue::Bool(true)), Ok(1.0));
        assert_eq!(rescale.scalar(&ParamValue::Text("expectation".into())), Ok(2.0));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let density = Method::Ties.info().parameter("density").unwrap();
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(density.accept(bad).is_err(), "{bad}");
        }
        // As mergekit 0.1.5 has it.
        assert_eq!(density.accept(0.0), Ok(0.0));
        let max_iter = Method::Karcher.info().parameter("max_iter").unwrap();
        assert_eq!(max_iter.accept(10.0), Ok(10.0));
        assert!(max_iter.accept(0.5).is_err());
    }
}
