//! The numbers of a recipe: where each stands, how many there are, and what it would be without one of them.

use serde::Serialize;

use crate::recipe::{Body, DefaultValue, Kind, Method, ParamValue, Parameters, Recipe, spoken};

/// How much a reader of a recipe has to take in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Complexity {
    /// Models with their own parameters, over all slices.
    pub sources: usize,
    pub slices: usize,
    pub numbers: usize,
    /// Numbers that are 0, and so are half as hard to take in.
    pub zeros: usize,
    /// Decimals of the numbers.
    pub decimals: usize,
    /// Parameters that are told apart by module.
    pub filters: usize,
}

impl Complexity {
    pub fn of(recipe: &Recipe) -> Self {
        let mut complexity = Self::default();
        for stage in &recipe.stages {
            match &stage.body {
                Body::Models(models) => complexity.sources += models.len(),
                Body::Slices(slices) => {
                    complexity.slices += slices.len();
                    complexity.sources += slices.iter().map(|s| s.sources.len()).sum::<usize>();
                }
            }
        }
        for number in numbers(recipe) {
            complexity.numbers += 1;
            complexity.zeros += usize::from(number.value == 0.0);
            complexity.decimals += decimals(number.value);
            complexity.filters += usize::from(number.module.is_some());
        }
        complexity
    }

    /// One figure, to say which of two recipes is simpler.
    pub fn total(self) -> isize {
        let numbers = 2 * self.numbers - self.zeros + self.decimals + self.filters;
        (2 * self.sources + 2 * self.slices + numbers) as isize
    }
}

/// Decimals of a number as it is written.
fn decimals(value: f64) -> usize {
    let text = value.to_string();
    text.split_once('.').map_or(0, |(_, decimals)| decimals.len())
}

/// One number and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    pub parameter: String,
    pub method: Method,
    pub model: Option<String>,
    pub layers: Option<[usize; 2]>,
    /// The filter's word; `other` for what no filter names, nothing where modules are not told apart.
    pub module: Option<String>,
    pub value: f64,
}

impl Number {
    /// `weight of maths, layers 0–3, attn`.
    pub fn place(&self) -> String {
        let mut place = self.parameter.clone();
        if let Some(model) = &self.model {
            place += &format!(" of {model}");
        }
        if let Some([from, to]) = self.layers {
            place += &match to - from {
                1 => format!(", layer {from}"),
                _ => format!(", layers {from}–{}", to - 1),
            };
        }
        if let Some(module) = &self.module {
            place += &format!(", {}", spoken(module));
        }
        place
    }

    /// Is it a quantity, which can be rounded and averaged?
    pub fn is_quantity(&self) -> bool {
        is_quantity(self.method, &self.parameter)
    }

    /// The nearest multiple of `grid`; itself where the method would not take that, or where a density would keep nothing.
    pub fn on_grid(&self, grid: f64) -> f64 {
        let value = super::steps::tidy((self.value / grid).round() * grid);
        let keeps_nothing = self.parameter == "density" && value == 0.0;
        let info = self.method.info().parameter(&self.parameter);
        match !keeps_nothing && info.is_some_and(|p| p.accept(value).is_ok()) {
            true => value,
            false => self.value,
        }
    }

    /// What it is when it says nothing: a weight of 0, which leaves the model out, else the method's default.
    pub fn neutral(&self) -> Option<f64> {
        if self.parameter == "weight" && self.model.is_some() {
            return Some(0.0);
        }
        match self.method.info().parameter(&self.parameter)?.default {
            DefaultValue::Value(value) => Some(value),
            DefaultValue::Required | DefaultValue::Method => None,
        }
    }
}

/// Is a parameter a number (and no count, switch or choice)?
pub(super) fn is_quantity(method: Method, parameter: &str) -> bool {
    let info = method.info().parameter(parameter);
    info.is_some_and(|p| matches!(p.kind, Kind::Number { .. }))
}

/// All numbers of a recipe, in the order of its text.
pub(super) fn numbers(recipe: &Recipe) -> Vec<Number> {
    let mut numbers = Vec::new();
    let mut copy = recipe.clone();
    visit(&mut copy, &mut |number, _| numbers.push(number));
    numbers
}

/// Shows every number of a recipe, with the place to change it at.
pub(super) fn visit(recipe: &mut Recipe, see: &mut dyn FnMut(Number, &mut f64)) {
    for stage in &mut recipe.stages {
        let method = stage.merge_method;
        let mut scope = |parameters: &mut Parameters, model: Option<&str>, layers| {
            for (name, value) in parameters {
                let number = |value, module| Number {
                    parameter: name.clone(),
                    method,
                    model: model.map(String::from),
                    layers,
                    module,
                    value,
                };
                visit_value(value, &number, None, see);
            }
        };
        match &mut stage.body {
            Body::Models(models) => {
                for source in models {
                    scope(&mut source.parameters, Some(&source.model), source.layer_range);
                }
            }
            Body::Slices(slices) => {
                for slice in slices {
                    let layers = slice.sources.first().and_then(|s| s.layer_range);
                    for source in &mut slice.sources {
                        scope(&mut source.parameters, Some(&source.model), source.layer_range);
                    }
                    scope(&mut slice.parameters, None, layers);
                }
            }
        }
        scope(&mut stage.parameters, None, None);
    }
}

fn visit_value(
    value: &mut ParamValue,
    number: &dyn Fn(f64, Option<String>) -> Number,
    module: Option<&str>,
    see: &mut dyn FnMut(Number, &mut f64),
) {
    let named = || module.map(String::from);
    match value {
        ParamValue::Number(n) => see(number(*n, named()), n),
        ParamValue::Gradient(values) => values.iter_mut().for_each(|n| see(number(*n, named()), n)),
        ParamValue::Filtered(entries) => {
            for entry in entries {
                let module = entry.filter.clone().filter(|f| f != "*");
                visit_value(
                    &mut entry.value,
                    number,
                    Some(module.as_deref().unwrap_or("other")),
                    see,
                );
            }
        }
        ParamValue::Bool(_) | ParamValue::Text(_) => {}
    }
}

/// A recipe without one of its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct KnockOut {
    pub gene: String,
    pub value: f64,
    pub without: f64,
    pub recipe: Recipe,
}

/// Every number of a recipe left out in turn: set to what says nothing. Numbers that say nothing already are not there.
pub fn knock_outs(recipe: &Recipe) -> Vec<KnockOut> {
    let knock_out = |(at, number): (usize, Number)| {
        let without = number.neutral().filter(|neutral| *neutral != number.value)?;
        Some(KnockOut {
            gene: number.place(),
            value: number.value,
            without,
            recipe: with_number(recipe, at, without),
        })
    };
    numbers(recipe).into_iter().enumerate().filter_map(knock_out).collect()
}

/// The recipe with its `at`-th number replaced.
pub(super) fn with_number(recipe: &Recipe, at: usize, value: f64) -> Recipe {
    let mut changed = recipe.clone();
    let mut i = 0;
    visit(&mut changed, &mut |_, n| {
        if i == at {
            *n = value;
        }
        i += 1;
    });
    changed
}
