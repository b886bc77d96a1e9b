//! The recipe minimiser: the simplest recipe that is as good as a search's winner.
//!
//! A search leaves a recipe with many numbers of four decimals, most of which do not matter. [`simplify`] tries what would
//! make it simpler (`steps.rs`), the largest gain first, and keeps each change that a paired non-inferiority test on fresh
//! questions cannot tell from the winner by more than a margin. Every test is against the *winner*, so that small losses
//! cannot add up, and against the recipe before it too, so that a lucky gain cannot hide a loss. [`sensitivities`] then says what each number that is left is worth.
//!
//! Who answers the questions is the caller's: here a recipe goes out and scores come back.

mod numbers;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use serde::Serialize;

pub use numbers::{Complexity, knock_outs};
pub use steps::{Step, steps};

use crate::{
    eval::stats::{NonInferiority, PairedTask, non_inferiority},
    recipe::Recipe,
};

/// The level of each test.
pub const ALPHA: f64 = 0.05;

/// What one recipe made of the questions of one task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskScores {
    /// The task's share of the fitness, relative to the others'.
    pub weight: f64,
    pub scores: Vec<f64>,
    /// How much each question counts within the task: 1, or its tokens where likelihoods are measured.
    pub sizes: Vec<f64>,
    /// Each score is 0 or 1.
    pub is_right_or_wrong: bool,
}

/// Scores of one recipe on all questions, the same ones in the same order for every recipe; or the reason why it has none.
pub type Asked = Result<Vec<TaskScores>, String>;

/// A change that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempt {
    /// What was changed, in words.
    pub change: String,
    pub accepted: bool,
    /// Against the winner; absent if the recipe could not be scored.
    #[serde(flatten)]
    pub test: Option<NonInferiority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What a number of the recipe is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Such as `weight of maths, layers 0–3, attn`.
    pub gene: String,
    pub value: f64,
    /// What it was set to instead.
    pub without: f64,
    /// Fitness without it − fitness with it, and its standard error; absent if it cannot be left out.
    pub difference: Option<f64>,
    pub stderr: Option<f64>,
}

/// How much a recipe is likely to lose against the winner, in a unit of its own; `None` where nobody can tell.
pub type Expected<'a> = &'a dyn Fn(&Recipe) -> Option<f64>;

/// The simplest recipe that passed, and all that was tried on the way.
///
/// `margin` is in units of the fitness. Of changes that gain alike, what is `expected` to lose least is tried first. `seen` is told of
/// each attempt as it ends.
///
/// # Errors
/// The winner itself cannot be scored.
pub fn simplify(
    winner: &Recipe,
    (margin, expected): (f64, Expected<'_>),
    ask: &mut dyn FnMut(&Recipe) -> Asked,
    seen: &mut dyn FnMut(&Attempt, &Recipe),
) -> Result<Recipe, String> {
    let measure = ask(winner)?;
    let (mut current, mut scores) = (winner.clone(), measure.clone());
    let mut refused = HashSet::new();
    while let Some(step) = next_step(&current, expected, &refused) {
        let asked = ask(&step.recipe);
        let attempt = attempt(&step, &measure, &scores, &asked, margin);
        seen(&attempt, &step.recipe);
        match asked {
            Ok(new) if attempt.accepted => (current, scores) = (step.recipe, new),
            _ => drop(refused.insert(step.change)),
        }
    }
    Ok(current)
}

/// The largest gain that was not refused before; a refused change is not tried again after others were made.
fn next_step(recipe: &Recipe, expected: Expected<'_>, refused: &HashSet<String>) -> Option<Step> {
    let now = Complexity::of(recipe).total();
    let loses_less = |step: &Step, than: &Step| match (expected(&step.recipe), expected(&than.recipe)) {
        (Some(step), Some(than)) => step < than,
        _ => false,
    };
    steps(recipe)
        .into_iter()
        .filter(|step| !refused.contains(&step.change))
        .map(|step| (now - Complexity::of(&step.recipe).total(), step))
        .filter(|(gain, _)| *gain > 0)
        // Of equal gains and losses the first: steps come coarse before fine.
        .reduce(|best, other| {
            let is_better = other.0 > best.0 || other.0 == best.0 && loses_less(&other.1, &best.1);
            if is_better { other } else { best }
        })
        .map(|(_, step)| step)
}

fn attempt(step: &Step, winner: &[TaskScores], before: &[TaskScores], asked: &Asked, margin: f64) -> Attempt {
    let change = step.change.clone();
    match asked {
        Ok(scores) => {
            let test = against(winner, scores, margin);
            let from_before = against(before, scores, margin);
            Attempt {
                change,
                accepted: test.p_value < ALPHA && from_before.p_value < ALPHA,
                test: Some(test),
                failure: None,
            }
        }
        Err(reason) => Attempt {
            change,
            accepted: false,
            test: None,
            failure: Some(reason.clone()),
        },
    }
}

/// How the second recipe compares with the first on the same questions.
pub fn against(first: &[TaskScores], second: &[TaskScores], margin: f64) -> NonInferiority {
    let tasks: Vec<PairedTask<'_>> = first
        .iter()
        .zip(second)
        .map(|(a, b)| PairedTask {
            weight: a.weight,
            first: &a.scores,
            second: &b.scores,
            sizes: &a.sizes,
            is_right_or_wrong: a.is_right_or_wrong,
        })
        .collect();
    non_inferiority(&tasks, margin)
}

/// Each number of a recipe left out in turn.
///
/// # Errors
/// The recipe itself cannot be scored.
pub fn sensitivities(recipe: &Recipe, ask: &mut dyn FnMut(&Recipe) -> Asked) -> Result<Vec<Sensitivity>, String> {
    let measure = ask(recipe)?;
    let of_number = |knock_out: numbers::KnockOut| {
        let test = ask(&knock_out.recipe)
            .ok()
            .map(|scores| against(&measure, &scores, 0.0));
        Sensitivity {
            gene: knock_out.gene,
            value: knock_out.value,
            without: knock_out.without,
            difference: test.map(|t| t.difference),
            stderr: test.map(|t| t.stderr),
        }
    };
    Ok(knock_outs(recipe).into_iter().map(of_number).collect())
}
