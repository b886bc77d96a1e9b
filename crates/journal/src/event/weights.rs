//! The mixing weights of a recipe as a table: stage × model × layer group × module.
//!
//! Reads the JSON form of a recipe as `candidate_scored` carries it, so that a viewer needs no merge code; anything that
//! has no mixing weights (a parent, a method without them) gives an empty table.

use serde_json::Value;

/// Parameters that say how much of a model goes into the mix, in order of preference.
const MIXING: [&str; 2] = ["weight", "t"];

/// The mixing weights of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// `weight`, or `t` for interpolations.
    pub parameter: &'static str,
    /// Columns: `attn`, `mlp`, `other`, or a filter as the recipe has it.
    pub modules: Vec<String>,
    /// Rows, in the recipe's order.
    pub models: Vec<ModelWeights>,
}

/// What one model gives.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelWeights {
    /// Short name in the search space.
    pub model: String,
    /// From the first layer on.
    pub groups: Vec<GroupWeights>,
}

/// What it gives in one group of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupWeights {
    /// `0–3`, `1/4` (a point of a gradient) or `all`.
    pub layers: String,
    /// One for each of [`Weights::modules`].
    pub values: Vec<Option<f64>>,
}

/// The tables of all stages of a recipe that mix.
pub fn of_recipe(recipe: &Value) -> Vec<Weights> {
    let stages = recipe.get("stages").and_then(Value::as_array);
    stages.into_iter().flatten().filter_map(of_stage).collect()
}

/// The largest absolute weight of a set of tables, at least 1.
pub fn largest(tables: &[Weights]) -> f64 {
    let values = tables
        .iter()
        .flat_map(|t| &t.models)
        .flat_map(|m| &m.groups)
        .flat_map(|g| &g.values);
    values.flatten().fold(1.0, |max, v| v.abs().max(max))
}

/// The models of a recipe with their share of all weight, heaviest first.
pub fn shares(tables: &[Weights]) -> Vec<(String, f64)> {
    let mut shares: Vec<(String, f64)> = Vec::new();
    for model in tables.iter().flat_map(|t| &t.models) {
        let values: Vec<f64> = model
            .groups
            .iter()
            .flat_map(|g| &g.values)
            .flatten()
            .map(|v| v.abs())
            .collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        match shares.iter_mut().find(|(name, _)| *name == model.model) {
            Some((_, share)) => *share += mean,
            None => shares.push((model.model.clone(), mean)),
        }
    }
    let total: f64 = shares.iter().map(|(_, s)| s).sum();
    if total > 0.0 {
        shares.iter_mut().for_each(|(_, s)| *s /= total);
    }
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

/// One layer of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Whose layer, by the short name in the search space.
    pub model: String,
    /// Layer of the source.
    pub layer: usize,
    /// What its output is multiplied by, where that is not 1.
    pub scale: Option<f64>,
}

/// The layers of a recipe that stacks them, in order; nothing for one that only mixes.
pub fn path(recipe: &Value) -> Option<Vec<Step>> {
    let stages = recipe.get("stages")?.as_array()?;
    let stacks = |stage: &&Value| stage.get("merge_method").and_then(Value::as_str) == Some("passthrough");
    let slices = stages.iter().rev().find(stacks)?.get("slices")?.as_array()?;
    let mut steps = Vec::new();
    for slice in slices {
        let source = slice.get("sources")?.as_array()?.first()?;
        let scale = source
            .get("parameters")
            .or_else(|| slice.get("parameters"))
            .and_then(|p| p.get("scale"));
        let scale = scale.and_then(scale_of).filter(|scale| *scale != 1.0);
        let [from, to] = source.get("layer_range")?.as_array()?.as_slice() else {
            return None;
        };
        for layer in from.as_u64()?..to.as_u64()? {
            steps.push(Step {
                model: source.get("model")?.as_str()?.to_owned(),
                layer: layer as usize,
                scale,
            });
        }
    }
    (!steps.is_empty()).then_some(steps)
}

/// A number; of a filter list the number furthest from 1, since what is not named stays as it is.
fn scale_of(value: &Value) -> Option<f64> {
    let Some(entries) = filters(value) else {
        return value.as_f64();
    };
    let values = entries.iter().filter_map(|e| e.get("value")?.as_f64());
    values.max_by(|a, b| (a - 1.0).abs().total_cmp(&(b - 1.0).abs()))
}

fn of_stage(stage: &Value) -> Option<Weights> {
    MIXING.into_iter().find_map(|parameter| table(stage, parameter))
}

/// One source with the parameter's value, in the words of the recipe.
struct Cell<'a> {
    model: &'a str,
    layers: Option<String>,
    value: &'a Value,
}

fn table(stage: &Value, parameter: &'static str) -> Option<Weights> {
    let cells = cells(stage, parameter);
    let mut modules: Vec<String> = Vec::new();
    for name in cells.iter().filter_map(|c| filters(c.value)).flatten().map(module_name) {
        if !modules.contains(&name) {
            modules.push(name);
        }
    }
    if modules.is_empty() && !cells.is_empty() {
        modules.push("all".to_owned());
    }
    let mut models: Vec<ModelWeights> = Vec::new();
    for cell in &cells {
        let groups = groups(cell, &modules);
        match models.iter_mut().find(|m| m.model == cell.model) {
            Some(model) => model.groups.extend(groups),
            None => models.push(ModelWeights {
                model: cell.model.to_owned(),
                groups,
            }),
        }
    }
    (!models.is_empty() && !modules.is_empty()).then_some(Weights {
        parameter,
        modules,
        models,
    })
}

fn cells<'a>(stage: &'a Value, parameter: &str) -> Vec<Cell<'a>> {
    let value_in = |v: &'a Value| v.get("parameters").and_then(|p| p.get(parameter));
    let list = |v: &'a Value, key: &str| v.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let cell = |source: &'a Value, slice: Option<&'a Value>| {
        let value = value_in(source)
            .or_else(|| slice.and_then(value_in))
            .or_else(|| value_in(stage))?;
        Some(Cell {
            model: source.get("model")?.as_str()?,
            layers: layers(source),
            value,
        })
    };
    let models = list(stage, "models").iter().filter_map(|source| cell(source, None));
    let slices = list(stage, "slices").iter().flat_map(|slice| {
        list(slice, "sources")
            .iter()
            .filter_map(move |source| cell(source, Some(slice)))
    });
    models.chain(slices).collect()
}

fn layers(source: &Value) -> Option<String> {
    let [from, to] = source.get("layer_range")?.as_array()?.as_slice() else {
        return None;
    };
    let (from, to) = (from.as_u64()?, to.as_u64()?);
    Some(if from.checked_add(1) == Some(to) {
        from.to_string()
    } else {
        format!("{from}–{}", to.saturating_sub(1))
    })
}

fn filters(value: &Value) -> Option<&[Value]> {
    value
        .as_array()
        .map(Vec::as_slice)
        .filter(|list| list.first().is_some_and(Value::is_object))
}

fn module_name(entry: &Value) -> String {
    match entry.get("filter").and_then(Value::as_str) {
        None | Some("*") => "other".to_owned(),
        Some("self_attn") => "attn".to_owned(),
        Some("linear_attn" | "mamba" | "conv" | ".conv.") => "mixer".to_owned(),
        // `mlp.experts.` and the like: what stands between the dots.
        Some(filter) => {
            let bodies = ["mlp.", "block_sparse_moe."];
            let inner = bodies.iter().find_map(|body| filter.strip_prefix(body));
            inner.unwrap_or(filter).trim_end_matches('.').to_owned()
        }
    }
}

fn groups(cell: &Cell<'_>, modules: &[String]) -> Vec<GroupWeights> {
    let named = |list: &'_ [Value], name: &str| list.iter().position(|e| module_name(e) == name);
    let of_module = |module: &String| match filters(cell.value) {
        // What no filter names falls to the one that matches everything.
        Some(list) => named(list, module)
            .or_else(|| named(list, "other"))
            .and_then(|i| list[i].get("value")),
        None => Some(cell.value),
    };
    let columns: Vec<Vec<f64>> = modules
        .iter()
        .map(|m| of_module(m).map(numbers).unwrap_or_default())
        .collect();
    let count = columns.iter().map(Vec::len).max().unwrap_or(0);
    (0..count)
        .map(|i| GroupWeights {
            layers: match (&cell.layers, count) {
                (Some(range), 1) => range.clone(),
                (Some(range), _) => format!("{range} {}/{count}", i + 1),
                (None, 1) => "all".to_owned(),
                (None, _) => format!("{}/{count}", i + 1),
            },
            // A constant holds for every point of the others' gradients.
            values: columns
                .iter()
                .map(|c| c.get(i).or(if c.len() == 1 { c.first() } else { None }).copied())
                .collect(),
        })
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_f64).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gradients_and_filters_become_rows_and_columns() {
        let recipe = json!({"stages": [{"merge_method": "ties", "models": [
            {"model": "a", "parameters": {"weight": [{"filter": "self_attn", "value": [0.1, 0.2]}, {"value": 0.5}]}},
            {"model": "b", "parameters": {"weight": 1.5}},
        ]}]});
        let tables = of_recipe(&recipe);
        assert_eq!(tables.len(), 1);
        let table = &tables[0];
        assert_eq!(table.modules, ["attn", "other"]);
        assert_eq!(table.models[0].groups.len(), 2);
        assert_eq!(table.models[0].groups[1].layers, "2/2");
        assert_eq!(table.models[0].groups[1].values, [Some(0.2), Some(0.5)]);
        assert_eq!(table.models[1].groups[0].values, [Some(1.5), Some(1.5)]);
        assert_eq!(largest(&tables), 1.5);
    }

    /// A journal that somebody had changed: counting on from the last number there is, a panic.
    #[test]
    fn layers_of_any_number_have_a_label() {
        for (range, label) in [
            ([3, 4], "3"),
            ([3, 6], "3–5"),
            ([u64::MAX, 0], "18446744073709551615–0"),
        ] {
            assert_eq!(layers(&json!({"layer_range": range})).as_deref(), Some(label));
        }
    }

    #[test]
    fn slices_are_labelled_by_their_layers_and_inherit() {
        let recipe = json!({"stages": [{"merge_method": "slerp", "parameters": {"t": 0.3}, "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 4]}, {"model": "b", "layer_range": [0, 4]}]},
            {"sources": [{"model": "a", "layer_range": [4, 5]}], "parameters": {"t": 0.9}},
        ]}]});
        let table = &of_recipe(&recipe)[0];
        assert_eq!(table.parameter, "t");
        assert_eq!(table.models[0].groups[0].layers, "0–3");
        assert_eq!(
            table.models[0].groups[1],
            GroupWeights {
                layers: "4".into(),
                values: vec![Some(0.9)]
            }
        );
    }

    #[test]
    fn what_does_not_mix_is_empty() {
        for recipe in [
            json!(null),
            json!({}),
            json!({"stages": [{"models": [{"model": "a"}]}]}),
            json!({"stages": 3}),
        ] {
            assert!(of_recipe(&recipe).is_empty(), "{recipe}");
        }
    }

    #[test]
    fn shares_sum_to_one() {
        let recipe = json!({"stages": [{"models": [
            {"model": "a", "parameters": {"weight": 0.5}}, {"model": "b", "parameters": {"weight": [1.0, 2.0]}},
        ]}]});
        assert_eq!(
            shares(&of_recipe(&recipe)),
            [("b".to_owned(), 0.75), ("a".to_owned(), 0.25)]
        );
    }
}
