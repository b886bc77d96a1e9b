//! What can be made simpler about a recipe. Each step is a whole recipe with a change in words; whether it is any good is
//! decided elsewhere, and a recipe that no method accepts fails there like any other.

use super::numbers::{is_quantity, numbers, visit, with_number};
use crate::recipe::{
    BaseRule, Body, DefaultValue, Filtered, Method, ParamValue, Parameters, Recipe, Slice, Source, Stage,
};

/// A simpler recipe and how it differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub change: String,
    pub recipe: Recipe,
}

/// What numbers are rounded to multiples of, coarse before fine.
const GRIDS: [f64; 7] = [1.0, 0.5, 0.25, 0.2, 0.1, 0.05, 0.01];

/// Every way to make a recipe simpler by one change, the coarse ones first.
pub fn steps(recipe: &Recipe) -> Vec<Step> {
    let mut steps = Vec::new();
    for at in 0..recipe.stages.len() {
        let stage = &recipe.stages[at];
        let mut add = |change: String, changed: Stage| {
            let mut recipe = recipe.clone();
            recipe.stages[at] = changed;
            steps.push(Step { change, recipe });
        };
        without_models(stage, &mut add);
        without_parts(stage, &mut add);
        without_slices(stage, &mut add);
        joined_slices(stage, &mut add);
        whole_models(stage, &mut add);
        joined_modules(stage, &mut add);
        defaults(stage, &mut add);
    }
    without_path(recipe, &mut steps);
    rounded(recipe, &mut steps);
    left_out(recipe, &mut steps);
    steps
}

type Add<'a> = dyn FnMut(String, Stage) + 'a;

/// Without one of the models, or with nothing of it here.
fn without_models(stage: &Stage, add: &mut Add<'_>) {
    let base = stage.base_model.as_deref();
    for model in stage.models() {
        if Some(model) == base {
            continue;
        }
        let mut changed = stage.clone();
        let sources: Vec<&mut Vec<Source>> = match &mut changed.body {
            Body::Models(models) => vec![models],
            Body::Slices(slices) => slices.iter_mut().map(|s| &mut s.sources).collect(),
        };
        let mut left = true;
        for sources in sources {
            sources.retain(|s| s.model != model);
            left &= !sources.is_empty();
        }
        if left {
            add(format!("without {model}"), changed);
        }
    }
}

/// Without one of the models in one group of layers.
fn without_parts(stage: &Stage, add: &mut Add<'_>) {
    let Body::Slices(slices) = &stage.body else { return };
    let base = stage.base_model.as_deref();
    for (i, slice) in slices.iter().enumerate() {
        let others = |model: &str| {
            slice
                .sources
                .iter()
                .any(|s| s.model != model && Some(s.model.as_str()) != base)
        };
        for source in slice
            .sources
            .iter()
            .filter(|s| Some(s.model.as_str()) != base && others(&s.model))
        {
            let mut left = slices.clone();
            left[i].sources.retain(|s| s.model != source.model);
            let layers = source.layer_range.map_or(String::new(), in_words);
            let changed = Stage {
                body: Body::Slices(left),
                ..stage.clone()
            };
            add(format!("without {} in{layers}", source.model), changed);
        }
    }
}

/// ` layer 3` or ` layers 0–3`.
fn in_words([from, to]: [usize; 2]) -> String {
    match to - from {
        1 => format!(" layer {from}"),
        _ => format!(" layers {from}–{}", to.saturating_sub(1)),
    }
}

/// A stack with one slice fewer: a path through layers that is shorter.
fn without_slices(stage: &Stage, add: &mut Add<'_>) {
    let Body::Slices(slices) = &stage.body else { return };
    if stage.merge_method != Method::Passthrough || slices.len() < 2 {
        return;
    }
    for i in 0..slices.len() {
        let mut left = slices.clone();
        let source = left.remove(i).sources.swap_remove(0);
        let layers = source.layer_range.map_or(String::new(), in_words);
        let changed = Stage {
            body: Body::Slices(left),
            ..stage.clone()
        };
        add(format!("without slice {i} ({}{layers})", source.model), changed);
    }
}

/// All groups of layers as one, or two neighbours as one, with their mean numbers.
fn joined_slices(stage: &Stage, add: &mut Add<'_>) {
    let Body::Slices(slices) = &stage.body else { return };
    let with = |slices| Stage {
        body: Body::Slices(slices),
        ..stage.clone()
    };
    let join_all = || {
        let mut slices = slices.iter();
        let first = slices.next()?.clone();
        slices.try_fold(first, |joined, next| join(stage.merge_method, &joined, next))
    };
    if slices.len() > 2
        && let Some(joined) = join_all()
    {
        add("one group of layers".into(), with(vec![joined]));
    }
    for i in 1..slices.len() {
        let Some(joined) = join(stage.merge_method, &slices[i - 1], &slices[i]) else {
            continue;
        };
        let layers = joined.sources[0].layer_range.unwrap_or_default();
        let mut others = slices.clone();
        others.splice(i - 1..=i, [joined]);
        add(
            format!("layers {}–{} as one group", layers[0], layers[1] - 1),
            with(others),
        );
    }
}

/// Two slices of the same models, the second going on where the first ends.
fn join(method: Method, a: &Slice, b: &Slice) -> Option<Slice> {
    let size = |slice: &Slice| slice.sources.first()?.layer_range.map(|[from, to]| (to - from) as f64);
    let (n, m) = (size(a)?, size(b)?);
    if a.sources.len() != b.sources.len() || a.base_model != b.base_model {
        return None;
    }
    let join_sources = |(a, b): (&Source, &Source)| {
        let ([from, middle], [next, to]) = (a.layer_range?, b.layer_range?);
        (a.model == b.model && a.measured() == b.measured() && middle == next).then_some(())?;
        Some(Source {
            model: a.model.clone(),
            layer_range: Some([from, to]),
            fisher: a.fisher.clone(),
            grams: a.grams.clone(),
            parameters: mean_parameters(method, (&a.parameters, n), (&b.parameters, m))?,
        })
    };
    Some(Slice {
        sources: a
            .sources
            .iter()
            .zip(&b.sources)
            .map(join_sources)
            .collect::<Option<_>>()?,
        base_model: a.base_model.clone(),
        parameters: mean_parameters(method, (&a.parameters, n), (&b.parameters, m))?,
    })
}

fn mean_parameters(method: Method, a: (&Parameters, f64), b: (&Parameters, f64)) -> Option<Parameters> {
    if !a.0.keys().eq(b.0.keys()) {
        return None;
    }
    let pairs = a.0.iter().zip(b.0.values());
    pairs
        .map(|((name, x), y)| {
            let value = match is_quantity(method, name) {
                true => mean((x, a.1), (y, b.1))?,
                // Switches and choices have no mean: the larger part decides.
                false if b.1 > a.1 => y.clone(),
                false => x.clone(),
            };
            Some((name.clone(), value))
        })
        .collect()
}

/// The weighted mean of two values of the same shape; a number stands for a filter list of equal entries.
fn mean((a, n): (&ParamValue, f64), (b, m): (&ParamValue, f64)) -> Option<ParamValue> {
    use ParamValue::{Filtered as List, Number};
    let of_entries = |entries: &[Filtered], f: &dyn Fn(&Filtered) -> Option<ParamValue>| {
        let entries = entries.iter().map(|entry| {
            Some(Filtered {
                filter: entry.filter.clone(),
                value: Box::new(f(entry)?),
            })
        });
        Some(List(entries.collect::<Option<_>>()?))
    };
    match (a, b) {
        (Number(x), Number(y)) => Some(Number(tidy((x * n + y * m) / (n + m)))),
        (List(x), List(y)) => {
            let same = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.filter == y.filter);
            let partner = |entry: &Filtered| y.iter().find(|other| other.filter == entry.filter);
            same.then(|| of_entries(x, &|entry| mean((&entry.value, n), (&partner(entry)?.value, m))))?
        }
        (List(x), Number(_)) => of_entries(x, &|entry| mean((&entry.value, n), (b, m))),
        (Number(_), List(y)) => of_entries(y, &|entry| mean((a, n), (&entry.value, m))),
        _ => (a == b).then(|| a.clone()),
    }
}

/// Without the noise of floating point.
pub(super) fn tidy(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// One slice of whole models is the models themselves.
fn whole_models(stage: &Stage, add: &mut Add<'_>) {
    let Body::Slices(slices) = &stage.body else { return };
    let [slice] = slices.as_slice() else { return };
    let whole = |s: &Source| s.layer_range.is_some_and(|[from, _]| from == 0);
    if slice.base_model.is_some() || !slice.sources.iter().all(whole) {
        return;
    }
    let base = stage.base_model.as_deref();
    let models = slice.sources.iter().filter(|s| {
        // The base takes part unless it is told otherwise.
        Some(s.model.as_str()) != base || !s.parameters.is_empty()
    });
    let mut parameters = stage.parameters.clone();
    parameters.extend(slice.parameters.clone());
    let models = models.map(|s| Source {
        layer_range: None,
        ..s.clone()
    });
    let mut changed = Stage {
        body: Body::Models(models.collect()),
        parameters,
        ..stage.clone()
    };
    if stage.merge_method.info().base == BaseRule::Ignored {
        // Beside whole models it would be one of them.
        if changed.tokenizer_source.as_deref() == Some("base") {
            return;
        }
        changed.base_model = None;
    }
    add("whole models instead of slices".into(), changed);
}

/// Without a last stage that takes the layers of what the one before it made in their order.
fn without_path(recipe: &Recipe, steps: &mut Vec<Step>) {
    let [.., before, last] = recipe.stages.as_slice() else {
        return;
    };
    let sources = match &last.body {
        Body::Models(models) => models,
        Body::Slices(slices) => match slices.as_slice() {
            [slice] if slice.parameters.is_empty() => &slice.sources,
            _ => return,
        },
    };
    let [only] = sources.as_slice() else { return };
    let is_in_order = last.merge_method == Method::Passthrough
        && before.name.as_ref() == Some(&only.model)
        && only.layer_range.is_none_or(|[from, _]| from == 0)
        && only.parameters.is_empty()
        && last.parameters.is_empty()
        && last.modules.is_empty();
    if !is_in_order {
        return;
    }
    let mut recipe = recipe.clone();
    recipe.stages.pop();
    if let Some(result) = recipe.stages.last_mut() {
        *result = Stage {
            name: last.name.clone(),
            out_dtype: last.out_dtype.or(last.dtype).or(before.out_dtype),
            tokenizer_source: last.tokenizer_source.clone().or(before.tokenizer_source.clone()),
            tokenizer: last.tokenizer.clone().or(before.tokenizer.clone()),
            chat_template: last.chat_template.clone().or(before.chat_template.clone()),
            ..before.clone()
        };
    }
    steps.push(Step {
        change: "without the path behind the mixture".into(),
        recipe,
    });
}

/// The same for all modules, with the mean of what they had: everywhere, or for one parameter of one source.
fn joined_modules(stage: &Stage, add: &mut Add<'_>) {
    let mut everywhere = stage.clone();
    let mut lists = 0;
    each_parameter(&mut everywhere, &mut |method, _, name, value| {
        lists += usize::from(join_modules(method, name, value));
    });
    if lists > 1 {
        add("modules alike".into(), everywhere);
    }
    for wanted in 0..lists {
        let (mut changed, mut at, mut change) = (stage.clone(), 0, String::new());
        each_parameter(&mut changed, &mut |method, place, name, value| {
            let mut joined = value.clone();
            if join_modules(method, name, &mut joined) {
                if at == wanted {
                    *value = joined;
                    change = format!("modules alike in {name}{place}");
                }
                at += 1;
            }
        });
        add(change, changed);
    }
}

fn join_modules(method: Method, name: &str, value: &mut ParamValue) -> bool {
    let ParamValue::Filtered(entries) = value else {
        return false;
    };
    let mut values = entries.iter().map(|entry| match *entry.value {
        ParamValue::Number(n) => Some(n),
        _ => None,
    });
    let count = entries.len() as f64;
    let Some(sum) = values.try_fold(0.0, |sum, n| Some(sum + n?)) else {
        return false;
    };
    if !is_quantity(method, name) || count == 0.0 {
        return false;
    }
    *value = ParamValue::Number(tidy(sum / count));
    true
}

/// Every parameter of a stage with its place in words.
fn each_parameter(stage: &mut Stage, see: &mut dyn FnMut(Method, &str, &str, &mut ParamValue)) {
    let method = stage.merge_method;
    let mut all = |place: &str, parameters: &mut Parameters| {
        for (name, value) in parameters {
            see(method, place, name, value);
        }
    };
    let place = |s: &Source| match s.layer_range {
        Some([from, to]) => format!(" of {}, layers {from}–{}", s.model, to.saturating_sub(1)),
        None => format!(" of {}", s.model),
    };
    match &mut stage.body {
        Body::Models(models) => models.iter_mut().for_each(|s| all(&place(s), &mut s.parameters)),
        Body::Slices(slices) => {
            for slice in slices {
                slice.sources.iter_mut().for_each(|s| all(&place(s), &mut s.parameters));
                let layers = slice.sources.first().and_then(|s| s.layer_range);
                let layers = layers.map_or(String::new(), |[from, to]| format!(", layers {from}–{}", to - 1));
                all(&layers, &mut slice.parameters);
            }
        }
    }
    all("", &mut stage.parameters);
}

/// One parameter nowhere said: the method's default counts.
fn defaults(stage: &Stage, add: &mut Add<'_>) {
    for parameter in stage.merge_method.info().parameters {
        let DefaultValue::Value(default) = parameter.default else {
            continue;
        };
        let mut changed = stage.clone();
        let mut removed = false;
        each_scope(&mut changed, &mut |parameters| {
            removed |= parameters.remove(parameter.name).is_some()
        });
        if removed {
            add(format!("{} at its default of {default}", parameter.name), changed);
        }
    }
}

fn each_scope(stage: &mut Stage, see: &mut dyn FnMut(&mut Parameters)) {
    match &mut stage.body {
        Body::Models(models) => models.iter_mut().for_each(|s| see(&mut s.parameters)),
        Body::Slices(slices) => {
            for slice in slices {
                slice.sources.iter_mut().for_each(|s| see(&mut s.parameters));
                see(&mut slice.parameters);
            }
        }
    }
    see(&mut stage.parameters);
}

/// All numbers on a coarser grid; then single ones.
fn rounded(recipe: &Recipe, steps: &mut Vec<Step>) {
    for grid in GRIDS {
        let mut changed = recipe.clone();
        visit(&mut changed, &mut |number, n| {
            if number.is_quantity() {
                *n = number.on_grid(grid);
            }
        });
        if changed != *recipe {
            steps.push(Step {
                change: format!("all numbers to multiples of {grid}"),
                recipe: changed,
            });
        }
    }
    for (at, number) in numbers(recipe).iter().enumerate().filter(|(_, n)| n.is_quantity()) {
        for grid in &GRIDS[..2] {
            let value = number.on_grid(*grid);
            if value != number.value {
                steps.push(Step {
                    change: format!("{} to a multiple of {grid}", number.place()),
                    recipe: with_number(recipe, at, value),
                });
            }
        }
    }
}

/// One number set to what says nothing, if that is shorter.
fn left_out(recipe: &Recipe, steps: &mut Vec<Step>) {
    for knock_out in super::knock_outs(recipe) {
        steps.push(Step {
            change: format!("{} at {}", knock_out.gene, knock_out.without),
            recipe: knock_out.recipe,
        });
    }
}
