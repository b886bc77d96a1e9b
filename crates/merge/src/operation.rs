//! One method with its numbers for one tensor: what a recipe comes down to once every parameter is evaluated.

use serde::Serialize;

use super::{
    Error, adapter_mean, arcee_fusion, combine, della, fisher,
    gradient::inner,
    iso_c, iso_cts, knots, linear, model_stock, nearswap,
    nuslerp::{self, Lines},
    opcm,
    parents::{Parents, Refusal},
    passthrough, pcb,
    ram::{self, Gain},
    random::Key,
    regmean, sce, slerp, sparse_soup, svc, task_arithmetic,
    task_sum::{self, Rescale, TaskSum, Term, Trim},
    tsv,
    view::Target,
    wudi,
};
use crate::recipe::{BaseRule, DefaultValue, Method, MethodInfo, ParameterInfo, Parameters, Place, evaluate};

/// A kernel and its parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) enum Operation {
    Linear {
        weights: Vec<f32>,
        normalize: bool,
    },
    /// `base` is the index of the model at t = 0.
    Slerp {
        base: usize,
        t: f32,
    },
    Nuslerp {
        weights: [f64; 2],
        lines: Lines,
    },
    Multislerp {
        weights: Vec<f32>,
        normalize: bool,
        eps: f64,
    },
    Karcher {
        max_iter: usize,
        tol: f64,
    },
    TaskSum(TaskSum),
    ModelStock {
        filter_wise: bool,
    },
    Sce {
        select_topk: f64,
    },
    Nearswap {
        t: f32,
    },
    ArceeFusion,
    Ram {
        epsilon: f64,
        gain: Option<Gain>,
    },
    Passthrough {
        scale: f32,
        gain: f32,
    },
    Pcb(pcb::Competition),
    Opcm {
        alpha: f64,
    },
    Tsv {
        weights: Vec<f32>,
        rank: f64,
        lambda: f32,
    },
    IsoC {
        weights: Vec<f32>,
        rank: f64,
        lambda: f32,
    },
    IsoCts {
        weights: Vec<f32>,
        common: f64,
        lambda: f32,
    },
    Svc {
        weights: Vec<f32>,
        alpha: f64,
        lambda: f32,
    },
    Wudi {
        weights: Vec<f32>,
        way: wudi::Way,
        lambda: f32,
    },
    Knots {
        rank: f64,
        sum: TaskSum,
    },
    Fisher {
        weights: Vec<f32>,
        epsilon: f32,
    },
    Regmean {
        weights: Vec<f32>,
        alpha: f64,
        /// Whether the weights stand as `[inputs, outputs]`.
        turned: bool,
    },
    SparseSoup {
        weights: Vec<f32>,
    },
    AdapterMean {
        alpha: f32,
    },
}

/// Name, model and value of a knob.
type Number = (&'static str, Option<usize>, f64);

fn weights<W: Copy + Into<f64>>(weights: &[W]) -> impl Iterator<Item = Number> {
    let numbered = weights.iter().enumerate();
    numbered.map(|(k, w)| ("weight", Some(k), (*w).into()))
}

/// What the methods that look at the whole model have measured before the first tensor is merged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub pcb: Option<pcb::Measured>,
    /// Factor of OPCM's merged task vector.
    pub opcm_scale: f32,
}

impl Operation {
    pub const COPY: Self = Self::Passthrough { scale: 1.0, gain: 1.0 };

    /// Whether its numbers can merge any tensor at all, so that a plan refuses what would fail at the first one.
    ///
    /// # Errors
    /// Weights to be divided by that sum to zero, probabilities that are none.
    pub fn check(&self) -> Result<(), Refusal> {
        let trims = |sum: &TaskSum| {
            sum.terms.iter().try_for_each(|term| match term.trim {
                Trim::Ranked { density, epsilon, .. } => della::check(density, epsilon),
                _ => Ok(()),
            })
        };
        match self {
            Operation::Linear {
                weights,
                normalize: true,
            } => linear::divisor(weights).map(drop),
            Operation::TaskSum(sum) | Operation::Knots { sum, .. } => trims(sum),
            Operation::Fisher { weights, .. } | Operation::Regmean { weights, .. } => fisher::check(weights),
            _ => Ok(()),
        }
    }

    /// Merges one tensor. Returns whether every value is finite.
    pub fn run(&self, parents: &Parents<'_>, measured: &Measured, out: &mut Target<'_>) -> Result<bool, Refusal> {
        match self {
            Operation::Linear { weights, normalize } => linear::merge(parents, weights, *normalize, out),
            Operation::Slerp { base, t } => slerp::merge(parents, *base, *t, out),
            Operation::Nuslerp { weights, lines } => nuslerp::merge(parents, *weights, *lines, out),
            Operation::Multislerp {
                weights,
                normalize,
                eps,
            } => combine::multislerp(parents, weights, *normalize, *eps, out),
            Operation::Karcher { max_iter, tol } => combine::karcher(parents, *max_iter, *tol, out),
            Operation::TaskSum(sum) => task_sum::merge(parents, sum, out),
            Operation::ModelStock { filter_wise } => model_stock::merge(parents, *filter_wise, out),
            Operation::Sce { select_topk } => sce::merge(parents, *select_topk, out),
            Operation::Nearswap { t } => nearswap::merge(parents, *t, out),
            Operation::ArceeFusion => arcee_fusion::merge(parents, out),
            Operation::Ram { epsilon, gain } => ram::merge(parents, *epsilon, *gain, out),
            Operation::Passthrough { scale, gain } => passthrough::merge(parents, *scale, *gain, out),
            Operation::Pcb(competition) => pcb::merge(parents, competition, measured.pcb.as_ref(), out),
            Operation::Opcm { alpha } => opcm::merge(parents, *alpha, measured.opcm_scale, out),
            Operation::Tsv { weights, rank, lambda } => tsv::merge(parents, weights, *rank, *lambda, out),
            Operation::IsoC { weights, rank, lambda } => iso_c::merge(parents, weights, *rank, *lambda, out),
            Operation::IsoCts {
                weights,
                common,
                lambda,
            } => iso_cts::merge(parents, weights, *common, *lambda, out),
            Operation::Svc { weights, alpha, lambda } => svc::merge(parents, weights, (*alpha, *lambda), out),
            Operation::Wudi { weights, way, lambda } => wudi::merge(parents, weights, *way, *lambda, out),
            Operation::Knots { rank, sum } => knots::merge(parents, *rank, sum, out),
            Operation::Fisher { weights, epsilon } => fisher::merge(parents, weights, *epsilon, out),
            Operation::Regmean { weights, alpha, turned } => regmean::merge(parents, weights, (*alpha, *turned), out),
            Operation::SparseSoup { weights } => sparse_soup::merge(parents, weights, out),
            Operation::AdapterMean { alpha } => adapter_mean::merge(parents, *alpha, out),
        }
    }

    /// The factor of each input, where the result is their sum with these factors but for rounding; `base` as in [`Parents`].
    pub fn combination(&self, inputs: usize, base: Option<usize>) -> Option<Vec<f64>> {
        match self {
            Operation::Linear { weights, normalize } => {
                let total = match normalize {
                    true => f64::from(linear::divisor(weights).ok()?),
                    false => 1.0,
                };
                Some(weights.iter().map(|w| f64::from(*w) / total).collect())
            }
            Operation::TaskSum(sum) => {
                let mut factors = sum.factors()?.into_iter();
                let base = base?;
                let mut all: Vec<f64> = (0..inputs)
                    .map(|k| {
                        if k == base {
                            0.0
                        } else {
                            factors.next().unwrap_or_default()
                        }
                    })
                    .collect();
                all[base] = 1.0 - all.iter().sum::<f64>();
                Some(all)
            }
            Operation::Passthrough { scale: 1.0, gain: 1.0 } => Some(vec![1.0]),
            Operation::AdapterMean { alpha } => {
                let (alpha, old) = (f64::from(*alpha), inputs.checked_sub(1)?);
                let mut all = vec![alpha / old.max(1) as f64; old];
                all.push(if old == 0 { 1.0 } else { 1.0 - alpha });
                Some(all)
            }
            _ => None,
        }
    }

    /// The numbers that have a derivative, in the order of [`Operation::gradient`].
    pub fn numbers(&self) -> Vec<Number> {
        match self {
            Operation::Linear { weights: w, .. }
            | Operation::Multislerp { weights: w, .. }
            | Operation::Fisher { weights: w, .. }
            | Operation::Regmean { weights: w, .. }
            | Operation::SparseSoup { weights: w } => weights(w).collect(),
            Operation::Pcb(competition) => weights(&competition.weights).collect(),
            Operation::Nuslerp { weights: w, .. } => weights(w).collect(),
            Operation::Slerp { t, .. } => vec![("t", None, f64::from(*t))],
            Operation::TaskSum(sum) => {
                let w: Vec<f32> = sum.terms.iter().map(|term| term.weight).collect();
                weights(&w).chain([("lambda", None, f64::from(sum.lambda))]).collect()
            }
            Operation::Tsv { weights: w, lambda, .. } => {
                weights(w).chain([("lambda", None, f64::from(*lambda))]).collect()
            }
            Operation::Wudi {
                weights: w,
                way: wudi::Way::Least { .. },
                lambda,
            } => weights(w).chain([("lambda", None, f64::from(*lambda))]).collect(),
            Operation::IsoC { lambda, .. }
            | Operation::IsoCts { lambda, .. }
            | Operation::Svc { lambda, .. }
            | Operation::Wudi { lambda, .. } => {
                vec![("lambda", None, f64::from(*lambda))]
            }
            Operation::Knots { sum, .. } => vec![("lambda", None, f64::from(sum.lambda))],
            Operation::Passthrough { scale, gain } => {
                vec![("scale", None, f64::from(*scale)), ("gain", None, f64::from(*gain))]
            }
            Operation::AdapterMean { alpha } => vec![("alpha", None, f64::from(*alpha))],
            Operation::Karcher { .. }
            | Operation::ModelStock { .. }
            | Operation::Sce { .. }
            | Operation::Nearswap { .. }
            | Operation::ArceeFusion
            | Operation::Ram { .. }
            | Operation::Opcm { .. } => Vec::new(),
        }
    }

    /// The derivative with respect to each of [`Operation::numbers`], where `upstream` is that with respect to the result.
    ///
    /// # Errors
    /// What the merge itself refuses.
    pub fn gradient(&self, parents: &Parents<'_>, measured: &Measured, upstream: &[f32]) -> Result<Vec<f64>, Refusal> {
        Ok(match self {
            Operation::Linear { weights, normalize } => linear::gradient(parents, weights, *normalize, upstream),
            Operation::Fisher { weights, epsilon } => fisher::gradient(parents, weights, *epsilon, upstream),
            Operation::Regmean { weights, alpha, turned } => {
                regmean::gradient(parents, weights, (*alpha, *turned), upstream)?
            }
            Operation::Svc { weights, alpha, lambda } => {
                vec![svc::gradient(parents, weights, (*alpha, *lambda), upstream)?]
            }
            Operation::SparseSoup { weights } => linear::gradient(parents, weights, true, upstream),
            Operation::Slerp { base, t } => vec![slerp::gradient(parents, *base, f64::from(*t), upstream)],
            Operation::Nuslerp { weights, lines } => nuslerp::gradient(parents, *weights, *lines, upstream),
            Operation::Multislerp {
                weights,
                normalize,
                eps,
            } => combine::multislerp_gradient(parents, weights, (*normalize, *eps), upstream)?,
            Operation::TaskSum(sum) => {
                let mut slopes = task_sum::gradient(parents, sum, upstream)?;
                if sum.elect {
                    self.across_elections(parents, measured, upstream, &mut slopes)?;
                }
                slopes
            }
            Operation::Passthrough { scale, gain } => {
                let (along, sum) = (
                    inner(parents, upstream)[0],
                    upstream.iter().map(|g| f64::from(*g)).sum::<f64>(),
                );
                let (scale, gain) = (f64::from(*scale), f64::from(*gain));
                vec![gain * along, scale * along + sum]
            }
            Operation::AdapterMean { .. } => {
                let inner = inner(parents, upstream);
                match inner.split_last() {
                    Some((new, old)) if !old.is_empty() => vec![old.iter().sum::<f64>() / old.len() as f64 - new],
                    _ => vec![0.0],
                }
            }
            Operation::Pcb(_)
            | Operation::Tsv { .. }
            | Operation::IsoC { .. }
            | Operation::IsoCts { .. }
            | Operation::Wudi { .. }
            | Operation::Knots { .. } => self.by_units(parents, measured, upstream)?,
            Operation::Karcher { .. }
            | Operation::ModelStock { .. }
            | Operation::Sce { .. }
            | Operation::Nearswap { .. }
            | Operation::ArceeFusion
            | Operation::Ram { .. }
            | Operation::Opcm { .. } => Vec::new(),
        })
    }

    /// The same with one of its numbers 1, and where it is a model's, those of the others 0: for a result that is linear in each.
    pub fn with_unit(&self, number: Number) -> Self {
        let unit = |weights: &mut Vec<f32>, model: usize| {
            let ones = (0..weights.len()).map(|k| f32::from(u8::from(k == model)));
            *weights = ones.collect();
        };
        let mut operation = self.clone();
        match (&mut operation, number.1) {
            (Operation::Pcb(pcb::Competition { weights, .. }), Some(k))
            | (Operation::Tsv { weights, .. } | Operation::Wudi { weights, .. }, Some(k)) => unit(weights, k),
            (
                Operation::Tsv { lambda, .. }
                | Operation::IsoC { lambda, .. }
                | Operation::IsoCts { lambda, .. }
                | Operation::Wudi { lambda, .. },
                None,
            )
            | (
                Operation::Knots {
                    sum: TaskSum { lambda, .. },
                    ..
                },
                None,
            ) => *lambda = 1.0,
            _ => debug_assert!(false, "{} is no number of a linear operation", number.0),
        }
        operation
    }

    /// Whether the whole model has to be measured before this tensor can be merged.
    pub fn looks_at_the_whole_model(&self) -> bool {
        matches!(self, Operation::Pcb(_) | Operation::Opcm { .. })
    }

    /// Whether a singular value decomposition has to be made.
    pub fn is_spectral(&self) -> bool {
        matches!(
            self,
            Operation::Opcm { .. }
                | Operation::Tsv { .. }
                | Operation::IsoC { .. }
                | Operation::IsoCts { .. }
                | Operation::Svc { .. }
                | Operation::Wudi { .. }
                | Operation::Knots { .. }
        )
    }

    /// Numbers, in f64, that are held at one time beside a tensor of this shape which reads so many inputs: a bound.
    pub fn beside(&self, shape: &[usize], models: usize) -> usize {
        match (self, shape) {
            // The models' matrices, their mean and its two corrections; Gram matrices, their sum, that scaled, and its factor.
            (Operation::Regmean { turned, .. }, [.., rows, columns]) => {
                let inputs = if *turned { rows } else { columns };
                (models + 3) * rows * columns + (models + 3) * inputs * inputs
            }
            _ => 0,
        }
    }

    /// Decompositions that a spectral method makes of so many inputs: a bound.
    pub fn decompositions(&self, inputs: usize) -> usize {
        match self {
            // Of each task, of the sum, and of what stands side by side.
            Operation::IsoCts { .. } => inputs + 2,
            _ => inputs,
        }
    }

    /// Copies of the tensor, in f64, that a spectral method holds at one time for so many inputs: a bound.
    pub fn copies(&self, inputs: usize) -> usize {
        match self {
            // The tasks, all of them below each other, and what the decomposition makes of that.
            Operation::Wudi { .. } => 2 + 4 * inputs,
            Operation::IsoCts { .. } => 6 + inputs,
            _ => 2 + inputs,
        }
    }

    /// Passes over the parents, the last one included.
    pub fn passes(&self) -> u64 {
        match self {
            Operation::TaskSum(sum) => {
                let trimmed = sum.terms.iter().any(|t| match t.trim {
                    Trim::Smallest { density } | Trim::Outliers { density, .. } => density < 1.0,
                    _ => false,
                });
                let rescaled = sum.rescale == Rescale::L1;
                1 + 2 * u64::from(trimmed) + 2 * u64::from(rescaled)
            }
            Operation::Slerp { .. }
            | Operation::Nuslerp { .. }
            | Operation::Multislerp { .. }
            | Operation::Karcher { .. }
            | Operation::ModelStock { .. }
            | Operation::ArceeFusion => 2,
            Operation::Sce { .. } => 3,
            Operation::Pcb(_) => 5,
            _ => 1,
        }
    }
}

/// The tensor that an operation is made for.
pub(crate) struct Site<'a> {
    pub method: &'static MethodInfo,
    /// Scopes of shared parameters, the most specific first.
    pub shared: Vec<&'a Parameters>,
    /// The models of the slice with the name of their tensor and their scopes.
    pub sources: Vec<SourceSite<'a>>,
    /// Index of the base among the sources.
    pub base: Option<usize>,
    /// Name of the merged tensor.
    pub tensor: &'a str,
    pub t: f64,
    /// Whether it is a matrix that acts on the residual stream (spectral methods leave the rest to averages).
    pub matrix: bool,
    pub seed: u64,
    /// Of a linear map with Gram matrices, whether its weights stand as `[inputs, outputs]`.
    pub gram: Option<bool>,
}

pub(crate) struct SourceSite<'a> {
    pub model: &'a str,
    pub tensor: &'a str,
    pub scopes: Vec<&'a Parameters>,
}

impl<'a> Site<'a> {
    fn parameter(&self, name: &str) -> &'static ParameterInfo {
        self.method
            .parameter(name)
            .expect("each method asks for parameters of its own table only")
    }

    fn error(&self, parameter: &str, model: Option<&str>, message: String) -> Error {
        Error::Parameter {
            method: self.method.name,
            parameter: parameter.into(),
            tensor: self.tensor.into(),
            model: model.map(String::from),
            message,
        }
    }

    /// A shared parameter, or `None` if the recipe does not give it and the method is to decide.
    pub fn given(&self, name: &str) -> Result<Option<f64>, Error> {
        let place = Place {
            tensor: self.tensor,
            t: self.t,
        };
        let info = self.parameter(name);
        let value = evaluate(info, &self.shared, place).map_err(|e| self.error(name, None, e))?;
        if value.is_none() && info.default == DefaultValue::Required {
            return Err(self.error(name, None, "it is required, and no scope gives it".into()));
        }
        Ok(value)
    }

    pub fn shared(&self, name: &str) -> Result<f64, Error> {
        Ok(self.given(name)?.unwrap_or_default())
    }

    fn switch(&self, name: &str) -> Result<bool, Error> {
        Ok(self.shared(name)? != 0.0)
    }

    /// The parameter of one source.
    fn of(&self, name: &str, source: &SourceSite<'a>) -> Result<f64, Error> {
        let place = Place {
            tensor: source.tensor,
            t: self.t,
        };
        let model = Some(source.model);
        evaluate(self.parameter(name), &source.scopes, place)
            .map_err(|e| self.error(name, model, e))?
            .ok_or_else(|| self.error(name, model, "it is required, and no scope gives it".into()))
    }

    /// The parameter of every model that takes part: all, or all but the base.
    fn each(&self, name: &str) -> Result<Vec<f64>, Error> {
        let skip = (self.method.base != BaseRule::Ignored).then_some(self.base).flatten();
        let sources = self.sources.iter().enumerate().filter(|(k, _)| Some(*k) != skip);
        sources.map(|(_, source)| self.of(name, source)).collect()
    }

    fn weights(&self) -> Result<Vec<f32>, Error> {
        Ok(self.each("weight")?.iter().map(|w| *w as f32).collect())
    }

    fn vectors(&self) -> impl Iterator<Item = &SourceSite<'a>> {
        let base = self.base;
        let all = self.sources.iter().enumerate();
        all.filter(move |(k, _)| Some(*k) != base).map(|(_, s)| s)
    }

    fn lambda(&self) -> Result<f32, Error> {
        Ok(self.shared("lambda")? as f32)
    }

    /// The operation of this method here. `digest` gives a model's content digest, for its random mask.
    pub fn operation(&self, digest: &dyn Fn(&str) -> String) -> Result<Operation, Error> {
        Ok(match self.method.method {
            Method::Linear => Operation::Linear {
                weights: self.weights()?,
                normalize: self.switch("normalize")?,
            },
            Method::Slerp => Operation::Slerp {
                base: self.base.unwrap_or_default(),
                t: self.shared("t")? as f32,
            },
            Method::Nuslerp => {
                let weights = self.each("weight")?;
                Operation::Nuslerp {
                    weights: [weights[0], weights[1]],
                    lines: match (self.switch("nuslerp_flatten")?, self.switch("nuslerp_row_wise")?) {
                        (true, _) => Lines::Whole,
                        (false, true) => Lines::FirstAxis,
                        (false, false) => Lines::LastAxis,
                    },
                }
            }
            Method::Multislerp => Operation::Multislerp {
                weights: self.weights()?,
                normalize: self.switch("normalize_weights")?,
                eps: self.shared("eps")?,
            },
            Method::Karcher => Operation::Karcher {
                max_iter: self.shared("max_iter")? as usize,
                tol: self.shared("tol")?,
            },
            Method::TaskArithmetic
            | Method::Ties
            | Method::DareLinear
            | Method::DareTies
            | Method::Della
            | Method::DellaLinear
            | Method::Breadcrumbs
            | Method::BreadcrumbsTies => Operation::TaskSum(self.task_sum(digest)?),
            Method::ModelStock => Operation::ModelStock {
                filter_wise: self.switch("filter_wise")?,
            },
            Method::Sce => Operation::Sce {
                select_topk: self.shared("select_topk")?,
            },
            Method::Nearswap => Operation::Nearswap {
                t: self.shared("t")? as f32,
            },
            Method::ArceeFusion => Operation::ArceeFusion,
            Method::Ram => Operation::Ram {
                epsilon: self.shared("epsilon")?,
                gain: None,
            },
            Method::RamplusTl => Operation::Ram {
                epsilon: self.shared("epsilon")?,
                gain: Some(Gain {
                    r: self.shared("r")?,
                    alpha: self.shared("alpha")?,
                }),
            },
            Method::Passthrough => Operation::Passthrough {
                scale: self.each("scale")?[0] as f32,
                gain: self.each("gain")?[0] as f32,
            },
            Method::Pcb => Operation::Pcb(pcb::Competition {
                weights: self.weights()?,
                ratio: self.shared("ratio")?,
            }),
            Method::Opcm if self.matrix => Operation::Opcm {
                alpha: self.shared("alpha")?,
            },
            Method::Opcm => self.average(&vec![1.0; self.vectors().count()], 1.0),
            Method::Tsv if self.matrix => {
                let weights = self.weights()?;
                let share = 1.0 / weights.len().max(1) as f64;
                Operation::Tsv {
                    rank: self.given("rank")?.unwrap_or(share),
                    lambda: self.lambda()?,
                    weights,
                }
            }
            Method::IsoC if self.matrix => Operation::IsoC {
                weights: self.weights()?,
                rank: self.shared("rank")?,
                lambda: self.lambda()?,
            },
            Method::IsoCts if self.matrix => Operation::IsoCts {
                weights: self.weights()?,
                common: self.shared("common")?,
                lambda: self.lambda()?,
            },
            Method::Svc if self.matrix => {
                let weights = self.weights()?;
                let share = 1.0 / weights.iter().filter(|w| **w != 0.0).count().max(1) as f64;
                Operation::Svc {
                    alpha: self.given("alpha")?.unwrap_or(share),
                    lambda: self.lambda()?,
                    weights,
                }
            }
            // What the calibration begins with.
            Method::Svc => Operation::TaskSum(task_arithmetic::plain(&self.weights()?, self.lambda()?, false)),
            Method::Wudi if self.matrix => Operation::Wudi {
                weights: self.weights()?,
                way: self.wudi_way()?,
                lambda: self.lambda()?,
            },
            Method::Tsv | Method::IsoC | Method::IsoCts | Method::Wudi => {
                self.average(&self.weights()?, self.lambda()?)
            }
            Method::Knots => {
                let sum = self.task_sum(digest)?;
                if self.matrix {
                    let rank = self.shared("rank")?;
                    Operation::Knots { rank, sum }
                } else {
                    Operation::TaskSum(sum)
                }
            }
            Method::Fisher => Operation::Fisher {
                weights: self.weights()?,
                epsilon: self.shared("epsilon")? as f32,
            },
            Method::Regmean => match self.gram {
                Some(turned) => Operation::Regmean {
                    weights: self.weights()?,
                    alpha: self.shared("alpha")?,
                    turned,
                },
                None => Operation::Linear {
                    weights: self.weights()?,
                    normalize: true,
                },
            },
            Method::SparseSoup => Operation::SparseSoup {
                weights: self.weights()?,
            },
            Method::AdapterMean => Operation::AdapterMean {
                alpha: self.shared("alpha")? as f32,
            },
            // The plan turns it into copies and means of single layers.
            Method::LayerSwap => Operation::COPY,
        })
    }

    fn wudi_way(&self) -> Result<wudi::Way, Error> {
        let (steps, ridge) = (self.shared("steps")?, self.shared("ridge")?);
        if steps == 0.0 {
            return Ok(wudi::Way::Least { ridge });
        }
        if ridge != 0.0 {
            let message = format!("{ridge} beside {steps} steps, which begin at the sum; leave out one of the two");
            return Err(self.error("ridge", None, message));
        }
        Ok(wudi::Way::Steps(steps as usize))
    }

    /// base + λ · weighted mean of the task vectors: what spectral methods do to vectors.
    fn average(&self, weights: &[f32], lambda: f32) -> Operation {
        Operation::TaskSum(task_arithmetic::plain(weights, lambda, true))
    }

    fn task_sum(&self, digest: &dyn Fn(&str) -> String) -> Result<TaskSum, Error> {
        use Method::*;
        let method = self.method.method;
        let weights = self.weights()?;
        if method == TaskArithmetic {
            return Ok(task_arithmetic::plain(
                &weights,
                self.lambda()?,
                self.switch("normalize")?,
            ));
        }
        let mut terms = Vec::new();
        for (source, weight) in self.vectors().zip(weights) {
            let density = self.of("density", source)?;
            let key = || Key::new(self.seed, source.tensor, &digest(source.model)).0;
            let trim = match method {
                DareLinear | DareTies => Trim::Random { density, key: key() },
                Della | DellaLinear => Trim::Ranked {
                    density,
                    epsilon: self.of("epsilon", source)?,
                    key: key(),
                },
                Breadcrumbs | BreadcrumbsTies => Trim::Outliers {
                    density,
                    gamma: self.of("gamma", source)?,
                },
                _ => Trim::Smallest { density },
            };
            terms.push(Term { weight, trim });
        }
        let rescale = match self.method.parameter("rescale") {
            None => Rescale::None,
            Some(_) => [Rescale::None, Rescale::L1, Rescale::Expectation][self.shared("rescale")? as usize],
        };
        Ok(TaskSum {
            terms,
            rescale,
            elect: matches!(method, Ties | DareTies | Della | BreadcrumbsTies | Knots),
            normalize: self.switch("normalize")?,
            lambda: self.lambda()?,
        })
    }
}
