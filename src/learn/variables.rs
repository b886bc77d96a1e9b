//! From the numbers of single tensors to the variables that move: the chain rule through a decoder of points.
//!
//! What a point stands for is a recipe; what a recipe says of one tensor are numbers ([`merge::Knob`](Knob)). Between the two
//! are filters, gradients over layers, genes that serve many tensors, scales that are folded into projections: all of them
//! piecewise linear. So the derivative of each knob with respect to each variable is a plain difference of two recipes, and
//! exact; whatever can be decoded can be learned, and nothing here knows how.

use super::Error;
use crate::{
    merge::{Knob, Plan, TensorSource},
    recipe::{Body, Kind, ParamValue, Parameters, Recipe, Stage},
};

/// One number that may move, and how far.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    pub name: String,
    pub low: f64,
    pub high: f64,
    /// Whole numbers and choices stay where they are.
    pub is_real: bool,
    /// What a number of its kind is counted in, where its range is open: 1, as weights are, as a rule.
    pub unit: f64,
}

/// Width of a variable whose range is open: what weights are usually searched over.
const OPEN_WIDTH: f64 = 1.8;

impl Variable {
    pub fn width(&self) -> f64 {
        let width = self.high - self.low;
        if width.is_finite() {
            width
        } else {
            OPEN_WIDTH * self.unit
        }
    }

    /// A difference that stays in the range, and has no more than the four decimals that genes have, or as [`rounded`].
    fn step(&self, at: f64) -> f64 {
        let step = (self.width() / 4.0).min(self.unit / 16.0);
        let step = match self.unit < 1.0 {
            true => rounded(step),
            false => ((step * 1e4).floor() / 1e4).max(1e-4),
        };
        if at + step <= self.high { step } else { -step }
    }
}

/// Four decimals, as genes have; of numbers below a tenth four digits that count, of which four decimals would leave few or none.
pub fn rounded(x: f64) -> f64 {
    let digits = 3.0 - x.abs().log10().floor();
    let scale = 10f64.powf(digits.max(4.0));
    let rounded = (x * scale).round() / scale;
    if rounded.is_finite() { rounded } else { x }
}

/// The derivative of every knob with respect to every variable.
pub struct Chain {
    /// By variable: place of the knob, derivative.
    columns: Vec<Vec<(usize, f64)>>,
}

impl Chain {
    /// # Errors
    /// A recipe that cannot be merged; nothing that moves.
    pub fn new(
        source: &dyn TensorSource,
        decode: &dyn Fn(&[f64]) -> Recipe,
        start: &[f64],
        variables: &[Variable],
    ) -> Result<Self, Error> {
        // Genes are decoded to four decimals: differences between rounded points are exact.
        let start: Vec<f64> = start.iter().map(|x| rounded(*x)).collect();
        let recipe = decode(&start);
        let here = Plan::new(&recipe, source)?.knobs();
        let learned = recipe.stages.iter().flat_map(|stage| stage.merge_method.info().learned);
        let learned: Vec<&str> = learned.copied().collect();
        let mut columns = Vec::new();
        for (i, variable) in variables.iter().enumerate() {
            let mut moved = start.clone();
            moved[i] += variable.step(start[i]);
            let there = match variable.is_real {
                true => Plan::new(&decode(&moved), source)
                    .map(|plan| plan.knobs())
                    .unwrap_or_default(),
                false => Vec::new(),
            };
            columns.push(column(&here, &there, moved[i] - start[i], &learned));
        }
        if columns.iter().all(Vec::is_empty) {
            return Err(Error::NothingToMove {
                method: recipe.result().merge_method.name(),
            });
        }
        Ok(Chain { columns })
    }

    /// Which variables move at all.
    pub fn moves(&self) -> impl Iterator<Item = bool> {
        self.columns.iter().map(|column| !column.is_empty())
    }

    /// From derivatives with respect to knobs to those with respect to variables.
    pub fn carry(&self, slopes: &[f64]) -> Vec<f64> {
        let of = |column: &Vec<(usize, f64)>| column.iter().map(|(knob, d)| slopes[*knob] * d).sum();
        self.columns.iter().map(of).collect()
    }
}

fn column(here: &[Knob], there: &[Knob], step: f64, learned: &[&str]) -> Vec<(usize, f64)> {
    // Another number of knobs is another kind of recipe: there is no derivative between the two.
    if here.len() != there.len() {
        return Vec::new();
    }
    let pairs = here.iter().zip(there).enumerate();
    let changes = pairs.filter(|(_, (a, b))| a.value != b.value && learned.contains(&a.parameter));
    changes.map(|(i, (a, b))| (i, (b.value - a.value) / step)).collect()
}

/// The numbers of a recipe as variables of their own: every weight, `t`, `lambda` and so on that its methods can learn,
/// wherever it stands in filters and gradients.
pub fn of_recipe(recipe: &Recipe) -> (Vec<Variable>, Vec<f64>) {
    let (mut variables, mut point) = (Vec::new(), Vec::new());
    let mut recipe = recipe.clone();
    each_number(&mut recipe, &mut |name, (low, high), value| {
        variables.push(Variable {
            name: name.into(),
            low,
            high,
            is_real: true,
            unit: 1.0,
        });
        point.push(*value);
    });
    for i in 0..variables.len() {
        let kind = parameter(&variables[i].name);
        let alike = variables.iter().zip(&point).filter(|(v, _)| parameter(&v.name) == kind);
        let largest = alike.map(|(_, x)| x.abs()).fold(0.0, f64::max);
        variables[i].unit = unit(largest);
    }
    (variables, point)
}

/// `weight` of `weight[2].model`.
fn parameter(name: &str) -> &str {
    name.split(['.', '[']).next().unwrap_or(name)
}

/// Of numbers that are far from 1 the power of ten next to the largest: weights of 0.00004 and 0.00002, which a method divides by
/// their sum, are no nearer to each other than 0.4 and 0.2.
fn unit(largest: f64) -> f64 {
    match largest {
        0.0 | 0.05..=20.0 => 1.0,
        _ => 10f64.powf(largest.log10().ceil()),
    }
}

/// The recipe with its numbers replaced, in the order of [`of_recipe`].
pub fn with_numbers(recipe: &Recipe, point: &[f64]) -> Recipe {
    let mut recipe = recipe.clone();
    let mut values = point.iter();
    each_number(&mut recipe, &mut |_, _, number| {
        if let Some(value) = values.next() {
            *number = *value;
        }
    });
    recipe
}

type Visit<'a> = &'a mut dyn FnMut(&str, (f64, f64), &mut f64);

fn each_number(recipe: &mut Recipe, visit: Visit<'_>) {
    for stage in &mut recipe.stages {
        let learner = Learner::of(stage);
        match &mut stage.body {
            Body::Models(sources) => {
                for source in sources {
                    learner.scope(&format!(".{}", source.model), &mut source.parameters, visit);
                }
            }
            Body::Slices(slices) => {
                for (i, slice) in slices.iter_mut().enumerate() {
                    for source in &mut slice.sources {
                        learner.scope(&format!(".{}.s{i}", source.model), &mut source.parameters, visit);
                    }
                    learner.scope(&format!(".s{i}"), &mut slice.parameters, visit);
                }
            }
        }
        learner.scope("", &mut stage.parameters, visit);
    }
}

/// The parameters of a stage's method that can be learned, with their ranges.
struct Learner(Vec<(&'static str, f64, f64)>);

impl Learner {
    fn of(stage: &Stage) -> Self {
        let info = stage.merge_method.info();
        let learned = info.learned.iter();
        let ranges = learned.filter_map(|name| match info.parameter(name)?.kind {
            Kind::Number { low, high, .. } => Some((*name, low, high)),
            Kind::Integer { .. } | Kind::Switch | Kind::Choice(_) => None,
        });
        Learner(ranges.collect())
    }

    fn scope(&self, place: &str, parameters: &mut Parameters, visit: Visit<'_>) {
        for (name, low, high) in &self.0 {
            if let Some(value) = parameters.get_mut(*name) {
                each_of(value, &format!("{name}{place}"), (*low, *high), visit);
            }
        }
    }
}

fn each_of(value: &mut ParamValue, name: &str, range: (f64, f64), visit: Visit<'_>) {
    match value {
        ParamValue::Number(number) => visit(name, range, number),
        ParamValue::Gradient(numbers) => {
            for (i, number) in numbers.iter_mut().enumerate() {
                visit(&format!("{name}[{i}]"), range, number);
            }
        }
        ParamValue::Filtered(entries) => {
            for entry in entries {
                let filter = entry.filter.as_deref().unwrap_or("other");
                each_of(&mut entry.value, &format!("{name}.{filter}"), range, visit);
            }
        }
        // A number in words is one all the same, once it has been read.
        ParamValue::Text(text) => {
            if let Ok(mut number) = text.parse::<f64>() {
                visit(name, range, &mut number);
                *value = ParamValue::Number(number);
            }
        }
        ParamValue::Bool(on) => {
            let mut number = f64::from(u8::from(*on));
            visit(name, range, &mut number);
            *value = ParamValue::Number(number);
        }
    }
}
