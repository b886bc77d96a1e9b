//! Learning: the numbers of a recipe moved along the gradient of how likely its child holds some texts.
//!
//! A black-box search asks a candidate hundreds of questions and keeps one number. A text that should be likely also says in
//! which *direction* each number ought to move: loss of the texts → gradient of the merged weights (`model::Twin`) →
//! gradient of each tensor's own numbers (`merge::Slopes`) → gradient of the variables, by the chain rule
//! ([`variables`](variables::Chain)). Adam steps along it, within each variable's range.
//!
//! What is learned is never trusted for its loss: a part of the texts is held back, the last point that is not told to be worse
//! on those counts, and whoever calls scores it like any other candidate. Which texts teach is the caller's business, see [`teachers`].
//! What a model minds most, weight by weight, is [`fisher`]'s; what its linear maps read, [`grams`]', and behind
//! merged layers, [`regmean_plus`]'.

pub mod apart;
pub mod fisher;
pub mod grams;
pub mod regmean_plus;
pub mod teachers;
pub mod variables;

use std::collections::HashMap;

use crate::{
    merge::{self, Plan, Resident, Slopes, TensorSource},
    model::{self, DType, Device, Loss, Text, Twin},
    models,
    optim::Adam,
    recipe::Recipe,
};
use variables::Chain;
pub use {apart::Parts, variables::Variable};

/// What can keep a recipe from being learned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Merge(#[from] merge::Error),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(
        "the method {method} has no number that can be learned here; the methods that have one are marked by `heterosis \
         methods`"
    )]
    NothingToMove { method: &'static str },
    #[error(
        "the texts of {texts} questions teach, and those of at least {least} are needed to hold some back; {way_out}"
    )]
    TooFewTexts {
        texts: usize,
        least: usize,
        way_out: &'static str,
    },
    #[error("what '{tensor}' reads is not finite in some text: the model is damaged, or its dtype too narrow")]
    InputNotFinite { tensor: String },
    #[error(
        "'{tensor}' shares its input with other weights in one layer than in another, which Gram matrices have no names for"
    )]
    MixedInputs { tensor: String },
    #[error("the loss of the texts is {loss} after {step} steps; more steps, which are shorter, may help")]
    NotFinite { step: usize, loss: f64 },
}

/// The fewest questions whose texts can teach.
pub const LEAST_TEXTS: usize = 8;

/// The differentiable twin of a plan's child.
///
/// # Errors
/// A model that has no decoder here, or cannot be read.
pub fn twin(plan: &Plan, source: &dyn TensorSource, device: Device, dtype: DType) -> Result<Twin, Error> {
    let outputs = plan.outputs();
    let spec = models::checked_spec_of(plan)?;
    let place: HashMap<&str, usize> = outputs.iter().enumerate().map(|(i, o)| (o.name.as_str(), i)).collect();
    let mut read = |name: &str| {
        let i = place.get(name).ok_or("the model has no such tensor")?;
        let mut data = plan.compute(*i, source).map_err(|e| e.to_string())?;
        dtype.round(&mut data);
        Ok::<_, String>(data)
    };
    Ok(Twin::load(spec, device, &mut read)?)
}

/// How a round goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub steps: usize,
    /// Texts of one step; of few texts it takes a third.
    pub batch: usize,
    /// How far all steps lead at most, as a part of a variable's width: of few steps each is long.
    pub reach: f64,
    /// Part of the questions that is held back, of at most as many as a step has texts: a look at them takes a third of a step.
    pub held_back: f64,
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            steps: 10,
            batch: 64,
            reach: 0.43,
            held_back: 0.2,
            seed: 0,
        }
    }
}

impl Settings {
    /// The longest first step of a variable, as a part of its width. Steps grow shorter one by one, so `n` of them lead (n + 1) / 2
    /// times as far as the first.
    fn rate(&self) -> f64 {
        2.0 * self.reach / (self.steps + 1) as f64
    }

    /// Texts of one step, of so many that are taught: of few a third, so that they are read a dozen times and not thirty.
    pub fn texts_of_step(&self, taught: usize) -> usize {
        self.batch.min((taught / 3).max(LEAST_TEXTS)).min(taught)
    }
}

/// Tokens that a teacher's expectation of a place is kept of, the likeliest.
const EXPECTED: usize = 64;

/// Taught texts that say how far all steps went.
const SHOWN: usize = 16;

/// Steps between two looks at the held-back texts.
const LOOK_EVERY: usize = 5;

/// One round of learning.
pub struct Course<'a> {
    /// Merges of the parents; what is known of them already need not be read again.
    pub resident: Resident<'a>,
    /// The recipe that a point stands for.
    pub decode: &'a dyn Fn(&[f64]) -> Recipe,
    pub start: Vec<f64>,
    /// One for each number of a point.
    pub variables: Vec<Variable>,
    /// Their parts, where it is to be told which of them should not move as one.
    pub parts: Option<Parts<'a>>,
    /// Texts of one question have one number in `groups`: they are taught together, or held back together.
    pub texts: Vec<Text>,
    pub groups: Vec<usize>,
    pub device: Device,
    /// What the child's weights are rounded to.
    pub dtype: DType,
    pub settings: Settings,
}

/// A loss before and after: nats a token of the texts that are to become likelier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    pub before: f64,
    pub after: f64,
}

/// What a round found.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    pub point: Vec<f64>,
    /// Of a few of the taught texts.
    pub taught: Change,
    pub held_back: Change,
    /// Texts that were taught, and that were held back.
    pub texts: (usize, usize),
    /// Steps after which the point was taken, of all that were made.
    pub steps: (usize, usize),
    /// The mean squared gradient of each variable; 0 of what cannot be learned.
    pub steepness: Vec<f64>,
    /// How likely luck alone would pull the parts of each variable so far apart; `None` where that cannot be told, empty without
    /// [`Course::parts`].
    pub apart: Vec<Option<f64>>,
    /// Tokens that were read, forward and backward, and forward only.
    pub tokens: (u64, u64),
}

/// How far a round is.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub step: usize,
    pub steps: usize,
    /// Loss of this step's texts, before the step.
    pub taught: f64,
    /// Loss of the held-back texts, when it was looked at.
    pub held_back: Option<f64>,
    pub point: Vec<f64>,
}

impl Course<'_> {
    /// Makes the round. `see` is told of each step; it ends the round by returning false.
    ///
    /// # Errors
    /// Nothing that can be learned, too few texts, a merge or a model that refuses, a loss that is not finite.
    pub fn learn(&self, see: &mut dyn FnMut(&Step) -> bool) -> Result<Learned, Error> {
        let (taught, held_back) = self.divide()?;
        let mut gears = Gears::new(self)?;
        let mut child = Child::new(self, &(self.decode)(&self.start))?;
        let mut point = self.start.clone();
        let rates = self.variables.iter().zip(gears.moves());
        let rate = |(variable, moves): (&Variable, bool)| {
            if moves {
                variable.width() * self.settings.rate()
            } else {
                0.0
            }
        };
        let mut adam = Adam::new(
            rates.map(rate).collect(),
            self.variables.iter().map(|v| (v.low, v.high)).collect(),
        );
        let mut order = Order::new(taught.len(), self.settings.seed);
        let batch = self.settings.texts_of_step(taught.len());
        let (mut shown, mut shown_before) = (Vec::new(), f64::NAN);
        let held_back_before = child.loss(&held_back)?;
        let mut chosen = (of_right(&held_back_before, &held_back), 0, point.clone());
        let mut best = worths(&held_back_before, &held_back);
        let mut made = 0;
        for step in 1..=self.settings.steps {
            let texts: Vec<Text> = order.next(batch).map(|i| taught[i].clone()).collect();
            let (losses, slopes) = child.gradient(&texts, &gears.chain)?;
            let gradient = gears.joined(slopes);
            let loss = of_right(&losses, &texts);
            if !loss.is_finite() {
                return Err(Error::NotFinite { step, loss });
            }
            if step == 1 {
                shown = texts.into_iter().take(SHOWN).collect();
                shown_before = of_right(&losses, &shown);
            }
            // The last steps are short, so that the point settles.
            let share = 1.0 - (step - 1) as f64 / self.settings.steps as f64;
            adam.step(&mut point, &gradient, share);
            child.set(self, &point)?;
            made = step;
            let looks = step % LOOK_EVERY == 0 || step == self.settings.steps;
            let seen = if looks { Some(child.loss(&held_back)?) } else { None };
            if let Some(loss) = &seen {
                let now = worths(loss, &held_back);
                if !is_told_worse(&now, &best) {
                    chosen = (of_right(loss, &held_back), step, point.clone());
                }
                if now.iter().sum::<f64>() > best.iter().sum::<f64>() {
                    best = now;
                }
            }
            let goes_on = see(&Step {
                step,
                steps: self.settings.steps,
                taught: loss,
                held_back: seen.map(|loss| of_right(&loss, &held_back)),
                point: point.clone(),
            });
            if !goes_on {
                break;
            }
        }
        let (held_back_after, best_step, point) = chosen;
        child.set(self, &point)?;
        Ok(Learned {
            taught: Change {
                before: shown_before,
                after: of_right(&child.loss(&shown)?, &shown),
            },
            held_back: Change {
                before: of_right(&held_back_before, &held_back),
                after: held_back_after,
            },
            texts: (taught.len(), held_back.len()),
            steps: (best_step, made),
            steepness: adam.second_moments(),
            apart: gears.apart(taught.len() as f64 / batch as f64),
            tokens: child.tokens,
            point,
        })
    }

    /// Has some of the texts teach what a teacher expects in the place of each of their tokens, and not the tokens alone.
    ///
    /// **Source**: Hinton et al. 2015; over texts, word-level distillation, Kim and Rush 2016.
    ///
    /// # Errors
    /// A merge or a model that refuses, a teacher with fewer tokens than the texts have.
    pub fn distil(&mut self, teacher: &Recipe, texts: &[usize]) -> Result<(), Error> {
        let read: Vec<Text> = texts.iter().map(|i| self.texts[*i].clone()).collect();
        let expected = Child::new(self, teacher)?.twin.expectations(&read, EXPECTED)?;
        for (i, expected) in texts.iter().zip(expected) {
            self.texts[*i].expected = expected;
        }
        Ok(())
    }

    /// The loss of the right ones among some texts at a point, and the derivative of that of all with respect to each variable.
    ///
    /// # Errors
    /// As [`Course::learn`].
    pub fn gradient(&self, point: &[f64], texts: &[Text]) -> Result<(f64, Vec<f64>), Error> {
        let chain = Chain::new(self.resident.source(), self.decode, point, &self.variables)?;
        let (losses, gradient) = Child::new(self, &(self.decode)(point))?.gradient(texts, &chain)?;
        Ok((of_right(&losses, texts), gradient))
    }

    /// The texts that are taught, and those that are held back: question by question, as the seed has it.
    fn divide(&self) -> Result<(Vec<Text>, Vec<Text>), Error> {
        let distinct = |mut groups: Vec<usize>| {
            groups.sort_unstable();
            groups.dedup();
            groups
        };
        // What only counts against something shows nobody the way.
        let right = self
            .texts
            .iter()
            .zip(&self.groups)
            .filter(|(text, _)| text.weight > 0.0);
        let right = distinct(right.map(|(_, group)| *group).collect()).len();
        let groups = distinct(self.groups.clone());
        if right < LEAST_TEXTS {
            return Err(Error::TooFewTexts {
                texts: right,
                least: LEAST_TEXTS,
                way_out: "ask more questions, give the task reference solutions, or learn from answers (teachers: answers)",
            });
        }
        let part = (groups.len() as f64 * self.settings.held_back).round() as usize;
        let n = part.min(self.settings.batch).clamp(1, groups.len() - 1);
        let kept: Vec<usize> = Order::new(groups.len(), self.settings.seed ^ 0x6865_6c64)
            .next(n)
            .map(|i| groups[i])
            .collect();
        let pairs = self.texts.iter().cloned().zip(&self.groups);
        let (held_back, taught): (Vec<_>, Vec<_>) = pairs.partition(|(_, group)| kept.contains(group));
        let only_texts = |pairs: Vec<(Text, &usize)>| pairs.into_iter().map(|(text, _)| text).collect();
        Ok((only_texts(taught), only_texts(held_back)))
    }
}

/// What turns the variables: the derivatives of their parts, or their own where they have none.
struct Gears<'c> {
    chain: Chain,
    parts: Option<&'c Parts<'c>>,
    slopes: apart::Slopes,
    variables: usize,
}

impl<'c> Gears<'c> {
    fn new(course: &'c Course<'_>) -> Result<Self, Error> {
        let (source, parts) = (course.resident.source(), course.parts.as_ref());
        Ok(Gears {
            chain: match parts {
                Some(parts) => Chain::new(source, parts.decode, &parts.expand(&course.start), &parts.variables)?,
                None => Chain::new(source, course.decode, &course.start, &course.variables)?,
            },
            parts,
            slopes: apart::Slopes::default(),
            variables: course.variables.len(),
        })
    }

    /// Which variables move at all.
    fn moves(&self) -> Vec<bool> {
        let moving: Vec<bool> = self.chain.moves().collect();
        match self.parts {
            Some(parts) => (0..self.variables)
                .map(|variable| {
                    parts
                        .of
                        .iter()
                        .zip(&moving)
                        .any(|(&of, moves)| of == variable && *moves)
                })
                .collect(),
            None => moving,
        }
    }

    /// The derivative with respect to each variable: that of all its parts.
    fn joined(&mut self, slopes: Vec<f64>) -> Vec<f64> {
        let Some(parts) = self.parts else { return slopes };
        let mut joined = vec![0.0; self.variables];
        parts
            .of
            .iter()
            .zip(&slopes)
            .for_each(|(&of, slope)| joined[of] += slope);
        self.slopes.add(slopes);
        joined
    }

    fn apart(&self, batches: f64) -> Vec<Option<f64>> {
        let of_parts = |parts: &&Parts<'_>| self.slopes.apart(&parts.of, self.variables, batches);
        self.parts.as_ref().map_or_else(Vec::new, of_parts)
    }
}

/// The merged model of a recipe, or of the point that was set last.
struct Child<'a> {
    twin: Twin,
    resident: Resident<'a>,
    plan: Plan,
    /// Output by name.
    index: HashMap<String, usize>,
    tokens: (u64, u64),
}

impl<'a> Child<'a> {
    fn new(course: &Course<'a>, recipe: &Recipe) -> Result<Self, Error> {
        let plan = Plan::new(recipe, course.resident.source())?;
        let spec = models::checked_spec_of(&plan)?;
        let outputs = plan.outputs().iter().enumerate();
        let index: HashMap<String, usize> = outputs.map(|(i, o)| (o.name.clone(), i)).collect();
        let mut resident = course.resident.beside();
        let mut read = |name: &str| {
            let i = index.get(name).ok_or("the merge does not produce it")?;
            let mut data = resident.compute(&plan, *i).map_err(|e| e.to_string())?;
            course.dtype.round(&mut data);
            Ok::<_, String>(data)
        };
        let twin = Twin::load(spec, course.device, &mut read)?;
        Ok(Child {
            twin,
            resident,
            plan,
            index,
            tokens: (0, 0),
        })
    }

    /// Merges another point; only tensors that differ are computed.
    fn set(&mut self, course: &Course<'_>, point: &[f64]) -> Result<(), Error> {
        let plan = Plan::new(&(course.decode)(point), course.resident.source())?;
        for i in self.resident.changed(&plan) {
            let name = &plan.outputs()[i].name;
            let twin = &mut self.twin;
            // What no decoder uses, such as a vision tower, is not computed.
            if twin.has_tensor(name) {
                let set = |data: &[f32]| {
                    let mut data = data.to_vec();
                    course.dtype.round(&mut data);
                    twin.set_tensor(name, &data)
                };
                self.resident.with(&plan, i, set)??;
            }
        }
        self.plan = plan;
        Ok(())
    }

    fn loss(&mut self, texts: &[Text]) -> Result<Loss, Error> {
        self.tokens.1 += tokens(texts);
        Ok(self.twin.loss(texts)?)
    }

    /// The loss of some texts, and its derivative with respect to each variable.
    fn gradient(&mut self, texts: &[Text], chain: &Chain) -> Result<(Loss, Vec<f64>), Error> {
        self.tokens.0 += tokens(texts);
        let mut slopes = Slopes::new(&self.plan);
        let mut take = |name: &str, gradient: Vec<f32>| match self.index.get(name) {
            Some(i) => {
                let added = self.resident.add_slopes(&mut slopes, &self.plan, *i, &gradient);
                added.map_err(Error::from)
            }
            None => Ok(()),
        };
        let loss = self.twin.gradient(texts, &mut take)?;
        Ok((loss, chain.carry(slopes.sums())))
    }
}

/// Nats a token of the texts that are to become likelier; of all, where there are none of them.
fn of_right(loss: &Loss, texts: &[Text]) -> f64 {
    let only_wrong = texts.iter().all(|text| text.weight <= 0.0);
    let (mut sum, mut weights) = (0.0, 0.0);
    for (text, log_likelihood) in texts.iter().zip(&loss.log_likelihoods) {
        if text.weight > 0.0 || only_wrong {
            sum -= text.weight.abs() * log_likelihood;
            weights += text.weight.abs() * (text.tokens.len() - text.from) as f64;
        }
    }
    sum / weights
}

/// What each text is worth to whoever learns: how probable its usual token is, times its weight. Other than a likelihood it is
/// bounded, so that a wrong text that has become impossible does not outweigh the right ones.
///
/// **Source**: the expected advantage that policy gradients climb, Williams 1992, with the geometric mean over tokens.
fn worths(loss: &Loss, texts: &[Text]) -> Vec<f64> {
    let worth = |(text, log_likelihood): (&Text, &f64)| {
        let tokens = (text.tokens.len() - text.from) as f64;
        text.weight * libm::exp(log_likelihood / tokens)
    };
    texts.iter().zip(&loss.log_likelihoods).map(worth).collect()
}

/// Whether texts are worth less by more than a standard error of the difference, text by text. A few dozen cannot tell a small
/// gain from a small loss, and the many that are taught say where to go.
///
/// **Source**: the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees, §3.4.3.
fn is_told_worse(now: &[f64], best: &[f64]) -> bool {
    let losses: Vec<f64> = now.iter().zip(best).map(|(now, best)| best - now).collect();
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    mean > (variance / n).sqrt()
}

fn tokens(texts: &[Text]) -> u64 {
    texts.iter().map(|text| text.tokens.len() as u64).sum()
}

/// Numbers below `n` in an order that a seed decides, over and over again; each pass is another order.
struct Order {
    state: u64,
    numbers: Vec<usize>,
    at: usize,
}

impl Order {
    fn new(n: usize, seed: u64) -> Self {
        Order {
            state: seed,
            numbers: (0..n).collect(),
            at: n,
        }
    }

    /// The next `count` of them (all, if there are fewer), none twice.
    fn next(&mut self, count: usize) -> impl Iterator<Item = usize> {
        let count = count.min(self.numbers.len());
        if self.at + count > self.numbers.len() {
            self.shuffle();
            self.at = 0;
        }
        self.at += count;
        self.numbers[self.at - count..self.at].iter().copied()
    }

    fn shuffle(&mut self) {
        for i in (1..self.numbers.len()).rev() {
            let j = (self.random() % (i as u64 + 1)) as usize;
            self.numbers.swap(i, j);
        }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
