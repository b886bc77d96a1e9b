//! The table of merge methods: names, parameters with defaults and ranges, what each asks of its inputs, and where the
//! formula comes from. Reading a recipe, `heterosis methods` and the search spaces all look things up here.

use serde::{Deserialize, Serialize};

/// Every merge method, by its YAML name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Weighted mean (Wortsman et al. 2022, arXiv 2203.05482).
    Linear,
    /// Spherical interpolation between the base and one other model (Shoemake 1985).
    Slerp,
    /// Spherical interpolation of two models, or of two task vectors, by their weights (mergekit).
    Nuslerp,
    /// Barycentre of several models on the sphere, in the tangent space at their mean (Goddard 2025, mergekit).
    Multislerp,
    /// Riemannian mean of the models' directions, times their mean norm (Karcher 1977; arXiv 2603.04972).
    Karcher,
    /// Base plus the weighted sum of task vectors (Ilharco et al. 2023, arXiv 2212.04089).
    TaskArithmetic,
    /// Trim, elect a sign, average what agrees (Yadav et al. 2023, arXiv 2306.01708).
    Ties,
    /// Task vectors of which entries are dropped at random and the rest rescaled, summed (Yu et al. 2024, arXiv
    /// 2311.03099).
    DareLinear,
    /// The same with a sign elected for each entry.
    DareTies,
    /// Entries dropped at random by their magnitude, a sign elected (Deep et al. 2024, arXiv 2406.11617).
    Della,
    /// The same, summed without an election.
    DellaLinear,
    /// Task vectors without their largest and smallest entries, summed (Davari and Belilovsky 2024, arXiv 2312.06795).
    Breadcrumbs,
    /// The same with a sign elected for each entry.
    BreadcrumbsTies,
    /// Between base and mean by the angle of the task vectors (Jang et al. 2024, arXiv 2403.19522).
    ModelStock,
    /// Entries of largest variance, weighed by energy, minority signs erased (Wan et al. 2024, arXiv 2408.07990).
    Sce,
    /// The base moved towards the other model where the two are close (alchemonaut, mergekit).
    Nearswap,
    /// The other model's entries of outstanding importance in the base (Arcee AI, mergekit).
    ArceeFusion,
    /// Entries that one model alone changes are added, others averaged (arXiv 2601.13572).
    Ram,
    /// The same, what one model alone changes amplified by its share of overlap (arXiv 2601.13572).
    RamplusTl,
    /// A copy, scaled where the recipe says so: for stacks of slices (mergekit).
    Passthrough,
    /// Entries weighed by magnitude and by agreement with the other models (Du et al. 2024, arXiv 2410.02396).
    Pcb,
    /// One model after the other, each projected away from what is merged (Tang et al. 2025, arXiv 2501.09522).
    Opcm,
    /// Outer layers of a language model around inner layers of a task model (Bandarkar et al. 2024, arXiv 2410.01335).
    LayerSwap,
    /// Leading singular triples of each task, whitened against each other (Gargiulo et al. 2024, arXiv 2412.00081).
    Tsv,
    /// The tasks' sum with all singular values made equal (Marczak et al. 2025, arXiv 2502.04959).
    IsoC,
    /// The same with directions of each task alone among them (Marczak et al. 2025, algorithm 2).
    IsoCts,
    /// The tasks' sum, what several of them share in a singular direction counted once (arXiv 2602.05536).
    Svc,
    /// The matrix that interferes least with each task's own inputs (Cheng et al. 2025, arXiv 2503.08099).
    Wudi,
    /// TIES in the singular basis that all task matrices share (Stoica et al. 2024, arXiv 2410.19735).
    Knots,
    /// Mean weighed by each model's Fisher information (Matena and Raffel 2022, arXiv 2111.09832).
    Fisher,
    /// The linear map nearest to each model's on its own inputs (Jin et al. 2023, arXiv 2212.09849).
    Regmean,
    /// Weighted mean of pruned models; what is zero in all stays zero (Zimmer et al. 2024, arXiv 2306.16788).
    SparseSoup,
    /// A mean of all models but the last, and the last, by `alpha` (arXiv 2412.09441).
    AdapterMean,
}

/// One merge method, as a user needs to know it.
#[derive(Clone, Debug)]
pub struct MethodInfo {
    /// Which one it is.
    pub method: Method,
    /// The word behind `merge_method:`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Paper or page that defines it.
    pub source: &'static str,
    /// What it does with a base.
    pub base: BaseRule,
    /// Fewest and most models in a slice, the base included.
    pub inputs: (usize, Option<usize>),
    /// In the order in which `heterosis methods` lists them.
    pub parameters: &'static [ParameterInfo],
    /// Whether it draws masks, so that a recipe of it has a seed.
    pub is_random: bool,
    /// Whether mergekit can run a recipe with this method.
    pub in_mergekit: bool,
    /// Whether it sums models or task vectors by a `weight` that mergekit wants of each: one model of weight 1 is that model, but
    /// for rounding.
    pub is_weighted_sum: bool,
    /// The parameters in which it is smooth, so that they can be learned by gradient.
    pub learned: &'static [&'static str],
    /// What it costs, for people who choose one.
    pub cost: &'static str,
}

/// What a method does with `base_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseRule {
    /// The base is a model like the others.
    Ignored,
    /// With a base, the method works on task vectors.
    Optional,
    /// Without a base there is nothing to merge.
    Required,
}

/// One parameter of a method.
#[derive(Clone, Debug)]
pub struct ParameterInfo {
    /// The word in a recipe.
    pub name: &'static str,
    /// Whose value it is.
    pub scope: Scope,
    /// What it may be.
    pub kind: Kind,
    /// What it is where the recipe does not say.
    pub default: DefaultValue,
    /// What it does, in one line.
    pub summary: &'static str,
}

/// Whether a parameter has one value for a tensor, or one for each model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value for a tensor.
    Shared,
    /// One for each model, the base included.
    Model,
    /// One for each model but the base.
    TaskVector,
}

/// What a value may be. All values are carried as numbers: a switch as 0 or 1, a choice as its index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number from `low` to `high`; `open_low` excludes the lower end.
    Number {
        /// The least.
        low: f64,
        /// The most.
        high: f64,
        /// Whether `low` itself is too little.
        open_low: bool,
    },
    /// A whole number.
    Integer {
        /// The least.
        low: f64,
        /// The most.
        high: f64,
    },
    /// On (1) or off (0).
    Switch,
    /// One of these words, by its index.
    Choice(&'static [&'static str]),
}

/// The value of a parameter that a recipe does not give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DefaultValue {
    /// There is none: the recipe has to say.
    Required,
    /// This number, as all values are carried.
    Value(f64),
    /// The method decides; its summary says how.
    Method,
}

const ANY: Kind = Kind::Number {
    low: f64::NEG_INFINITY,
    high: f64::INFINITY,
    open_low: false,
};
const NOT_NEGATIVE: Kind = Kind::Number {
    low: 0.0,
    high: f64::INFINITY,
    open_low: false,
};
const FRACTION: Kind = Kind::Number {
    low: 0.0,
    high: 1.0,
    open_low: false,
};
const POSITIVE_FRACTION: Kind = Kind::Number {
    low: 0.0,
    high: 1.0,
    open_low: true,
};
const STEPS: Kind = Kind::Integer { low: 0.0, high: 1e4 };
const LAYERS: Kind = Kind::Integer { low: 0.0, high: 1e6 };

/// How a masked task vector is scaled back; `true` is `l1`, `false` is `none`.
pub(crate) const RESCALE: &[&str] = &["none", "l1", "expectation"];
/// Which model a module of `layer_swap` comes from.
pub(crate) const SWAP_SOURCES: &[&str] = &["inner", "outer", "blend"];

const fn shared(name: &'static str, kind: Kind, default: DefaultValue, summary: &'static str) -> ParameterInfo {
    ParameterInfo {
        name,
        scope: Scope::Shared,
        kind,
        default,
        summary,
    }
}

const fn per_vector(name: &'static str, kind: Kind, default: DefaultValue, summary: &'static str) -> ParameterInfo {
    ParameterInfo {
        name,
        scope: Scope::TaskVector,
        kind,
        default,
        summary,
    }
}

const WEIGHT: ParameterInfo = per_vector("weight", ANY, DefaultValue::Required, "factor of the task vector");
const WEIGHT_1: ParameterInfo = per_vector("weight", ANY, DefaultValue::Value(1.0), "factor of the task vector");
const LAMBDA: ParameterInfo = shared(
    "lambda",
    ANY,
    DefaultValue::Value(1.0),
    "factor of the merged task vector",
);
const DENSITY: ParameterInfo = per_vector(
    "density",
    FRACTION,
    DefaultValue::Value(1.0),
    "fraction of the task vector that is kept",
);
const INT8_MASK: ParameterInfo = shared(
    "int8_mask",
    Kind::Switch,
    DefaultValue::Value(0.0),
    "accepted for mergekit's sake; changes nothing",
);

const fn normalize(on: bool) -> ParameterInfo {
    let summary = "divide by the sum of the weights that take part";
    shared(
        "normalize",
        Kind::Switch,
        DefaultValue::Value(if on { 1.0 } else { 0.0 }),
        summary,
    )
}

const fn rescale(on: bool) -> ParameterInfo {
    shared(
        "rescale",
        Kind::Choice(RESCALE),
        DefaultValue::Value(if on { 1.0 } else { 0.0 }),
        "scale what is kept: l1 restores the norm (mergekit), expectation divides by the keep probability (papers)",
    )
}

const fn swap_module(name: &'static str, summary: &'static str) -> ParameterInfo {
    shared(name, Kind::Choice(SWAP_SOURCES), DefaultValue::Value(1.0), summary)
}

/// Every method, in the order of [`Method`].
///
/// ```
/// use heterosis_merge::recipe::{BaseRule, Method, methods};
///
/// let needs_a_base = |m: &heterosis_merge::recipe::MethodInfo| m.base == BaseRule::Required;
/// assert!(methods().iter().any(|m| m.name == "ties" && needs_a_base(m)));
/// assert_eq!(Method::from_name("ties").map(|m| m.info().source), Some("Yadav et al. 2023, arXiv:2306.01708"));
/// ```
pub fn methods() -> &'static [MethodInfo] {
    METHODS
}

impl Method {
    /// Its row of the table.
    pub fn info(self) -> &'static MethodInfo {
        METHODS
            .iter()
            .find(|m| m.method == self)
            .expect("the table lists every method (tested)")
    }

    /// The word behind `merge_method:`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The method that YAML means by this word; `None` of a word that is none.
    pub fn from_name(name: &str) -> Option<Method> {
        METHODS.iter().find(|m| m.name == name).map(|m| m.method)
    }
}

impl MethodInfo {
    /// Whether a base that is not listed under `models` joins them at the end, as in mergekit.
    pub(crate) fn adds_base(&self) -> bool {
        self.in_mergekit || self.base != BaseRule::Ignored
    }

    /// Checks the models of one slice (or of the whole merge) against what the method needs.
    ///
    /// # Errors
    /// In words: a base that is missing, too few or too many models, a model named twice.
    pub fn check_inputs(&self, models: &[&str], base: Option<&str>) -> Result<(), String> {
        let name = self.name;
        if let Some(twice) = (1..models.len()).find(|i| models[..*i].contains(&models[*i])) {
            return Err(format!(
                "the model '{}' stands here twice; name each model once",
                models[twice]
            ));
        }
        let has_base = base.is_some_and(|b| models.contains(&b));
        match (self.base, base) {
            (BaseRule::Required, None) => {
                return Err(format!("'{name}' works on task vectors and needs 'base_model'"));
            }
            (BaseRule::Required | BaseRule::Optional, Some(base)) if !has_base => {
                return Err(format!(
                    "the base model '{base}' is not among the sources; list it as one of them"
                ));
            }
            _ => {}
        }
        let (least, most) = self.inputs;
        let base_counts = self.base != BaseRule::Ignored && has_base;
        let (count, least, most, what) = if self.method == Method::Nuslerp {
            (
                models.len() - usize::from(base_counts),
                2,
                Some(2),
                "models besides the base",
            )
        } else {
            (models.len(), least, most, "models")
        };
        let wanted = match most {
            Some(most) if most == least => format!("{least}"),
            Some(most) => format!("{least} to {most}"),
            None => format!("{least} or more"),
        };
        if count < least || most.is_some_and(|m| count > m) {
            return Err(format!("'{name}' takes {wanted} {what}, here are {count}"));
        }
        Ok(())
    }

    /// One of its parameters by the word in a recipe.
    pub fn parameter(&self, name: &str) -> Option<&'static ParameterInfo> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

static METHODS: &[MethodInfo] = &[
    MethodInfo {
        method: Method::Linear,
        name: "linear",
        summary: "weighted average of the models",
        source: "Wortsman et al. 2022, Model soups, arXiv:2203.05482",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[
            ParameterInfo {
                name: "weight",
                scope: Scope::Model,
                kind: ANY,
                default: DefaultValue::Required,
                summary: "factor of the model",
            },
            normalize(true),
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight"],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::Slerp,
        name: "slerp",
        summary: "spherical interpolation from the base (t = 0) to the other model (t = 1)",
        source: "Shoemake 1985, Animating rotation with quaternion curves",
        base: BaseRule::Required,
        inputs: (2, Some(2)),
        parameters: &[shared(
            "t",
            ANY,
            DefaultValue::Required,
            "0 is the base, 1 the other model",
        )],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["t"],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Nuslerp,
        name: "nuslerp",
        summary: "spherical interpolation of two models, or of two task vectors, by their weights",
        source: "mergekit, nuslerp",
        base: BaseRule::Optional,
        inputs: (2, Some(3)),
        parameters: &[
            per_vector("weight", ANY, DefaultValue::Required, "t = second weight / sum of both"),
            shared(
                "nuslerp_flatten",
                Kind::Switch,
                DefaultValue::Value(1.0),
                "one angle for the whole tensor",
            ),
            shared(
                "nuslerp_row_wise",
                Kind::Switch,
                DefaultValue::Value(0.0),
                "when not flattened: angles along the first axis instead of the last",
            ),
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Multislerp,
        name: "multislerp",
        summary: "barycentre of several models on the sphere, in the tangent space at their mean",
        source: "Goddard 2025, Multi-SLERP (mergekit)",
        base: BaseRule::Optional,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            shared(
                "normalize_weights",
                Kind::Switch,
                DefaultValue::Value(1.0),
                "divide the weights by their sum",
            ),
            shared("eps", NOT_NEGATIVE, DefaultValue::Value(1e-8), "added to norms"),
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Karcher,
        name: "karcher",
        summary: "Riemannian mean of the models' directions, times their mean norm",
        source: "Karcher 1977; arXiv:2603.04972",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[
            shared(
                "max_iter",
                Kind::Integer { low: 0.0, high: 1e6 },
                DefaultValue::Value(10.0),
                "most iterations",
            ),
            shared(
                "tol",
                NOT_NEGATIVE,
                DefaultValue::Value(1e-5),
                "stop when a step is shorter",
            ),
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::TaskArithmetic,
        name: "task_arithmetic",
        summary: "base + lambda · weighted sum of task vectors",
        source: "Ilharco et al. 2023, arXiv:2212.04089",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            LAMBDA,
            normalize(false),
            DENSITY_IGNORED,
            rescale(false),
            INT8_MASK,
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::Ties,
        name: "ties",
        summary: "trim each task vector to its largest entries, elect a sign, average what agrees",
        source: "Yadav et al. 2023, arXiv:2306.01708",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT, DENSITY, LAMBDA, normalize(true), rescale(false), INT8_MASK],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents; one in a search",
    },
    MethodInfo {
        method: Method::DareLinear,
        name: "dare_linear",
        summary: "drop task vector entries at random, rescale, add up",
        source: "Yu et al. 2024, arXiv:2311.03099",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT, DENSITY, LAMBDA, normalize(false), rescale(true), INT8_MASK],
        is_random: true,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents with `rescale: l1`, else one",
    },
    MethodInfo {
        method: Method::DareTies,
        name: "dare_ties",
        summary: "drop task vector entries at random, rescale, elect a sign, add what agrees",
        source: "Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT, DENSITY, LAMBDA, normalize(false), rescale(true), INT8_MASK],
        is_random: true,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents with `rescale: l1`, else one",
    },
    MethodInfo {
        method: Method::Della,
        name: "della",
        summary: "drop entries at random, small ones more often, rescale, elect a sign, average what agrees",
        source: "Deep et al. 2024, arXiv:2406.11617",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            DENSITY,
            EPSILON,
            LAMBDA,
            normalize(true),
            rescale(true),
            INT8_MASK,
        ],
        is_random: true,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents and a sort of each row",
    },
    MethodInfo {
        method: Method::DellaLinear,
        name: "della_linear",
        summary: "drop entries at random, small ones more often, rescale, add up",
        source: "Deep et al. 2024, arXiv:2406.11617",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            DENSITY,
            EPSILON,
            LAMBDA,
            normalize(false),
            rescale(true),
            INT8_MASK,
        ],
        is_random: true,
        in_mergekit: true,
        is_weighted_sum: true,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents and a sort of each row",
    },
    MethodInfo {
        method: Method::Breadcrumbs,
        name: "breadcrumbs",
        summary: "drop the largest and the smallest entries of each task vector, add up",
        source: "Davari and Belilovsky 2024, arXiv:2312.06795",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            DENSITY,
            GAMMA,
            LAMBDA,
            normalize(false),
            rescale(false),
            INT8_MASK,
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents; one in a search",
    },
    MethodInfo {
        method: Method::BreadcrumbsTies,
        name: "breadcrumbs_ties",
        summary: "drop the largest and the smallest entries, elect a sign, add what agrees",
        source: "Davari and Belilovsky 2024, arXiv:2312.06795; Yadav et al. 2023, arXiv:2306.01708",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT,
            DENSITY,
            GAMMA,
            LAMBDA,
            normalize(false),
            rescale(false),
            INT8_MASK,
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["weight", "lambda"],
        cost: "three passes over the parents; one in a search",
    },
    MethodInfo {
        method: Method::ModelStock,
        name: "model_stock",
        summary: "between the base and the mean, as far as the task vectors' angle allows",
        source: "Jang et al. 2024, arXiv:2403.19522",
        base: BaseRule::Required,
        inputs: (3, None),
        parameters: &[shared(
            "filter_wise",
            Kind::Switch,
            DefaultValue::Value(0.0),
            "one angle for each row instead of one for the tensor",
        )],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Sce,
        name: "sce",
        summary: "select the positions of largest variance, weigh models by energy, erase minority signs",
        source: "Wan et al. 2024, FuseChat 3.0, arXiv:2408.07990",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            shared(
                "select_topk",
                FRACTION,
                DefaultValue::Value(1.0),
                "fraction of the varying positions that is kept",
            ),
            INT8_MASK,
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "three passes over the parents; one in a search",
    },
    MethodInfo {
        method: Method::Nearswap,
        name: "nearswap",
        summary: "move the base towards the other model where the two are close",
        source: "alchemonaut, QuartetAnemoi (mergekit)",
        base: BaseRule::Required,
        inputs: (2, Some(2)),
        parameters: &[shared(
            "t",
            ANY,
            DefaultValue::Required,
            "distance up to which the other model's value is taken whole",
        )],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::ArceeFusion,
        name: "arcee_fusion",
        summary: "take the other model's entries of outstanding importance, keep the base elsewhere",
        source: "Arcee AI (mergekit)",
        base: BaseRule::Required,
        inputs: (2, Some(2)),
        parameters: &[],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Ram,
        name: "ram",
        summary: "add what one task vector alone changes, average what several change",
        source: "Reinforced agent merging, arXiv:2601.13572",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[RAM_EPSILON],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::RamplusTl,
        name: "ramplus_tl",
        summary: "as ram, with the unique part of each task vector amplified by its share of overlap, per tensor",
        source: "Reinforced agent merging, arXiv:2601.13572",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            shared("r", ANY, DefaultValue::Value(0.1), "gain of the unique part"),
            shared(
                "alpha",
                ANY,
                DefaultValue::Value(0.2),
                "largest shared / unique ratio that counts",
            ),
            RAM_EPSILON,
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &[],
        cost: "two passes over the parents",
    },
    MethodInfo {
        method: Method::Passthrough,
        name: "passthrough",
        summary: "copy, for frankenmerges out of slices",
        source: "mergekit, passthrough",
        base: BaseRule::Ignored,
        inputs: (1, Some(1)),
        parameters: &[
            ParameterInfo {
                name: "scale",
                scope: Scope::Model,
                kind: ANY,
                default: DefaultValue::Value(1.0),
                summary: "factor of the tensor",
            },
            ParameterInfo {
                name: "gain",
                scope: Scope::Model,
                kind: ANY,
                default: DefaultValue::Value(1.0),
                summary: "factor of 1 + the tensor, for norms that multiply by 1 + weight (Gemma); mergekit lacks it",
            },
        ],
        is_random: false,
        in_mergekit: true,
        is_weighted_sum: false,
        learned: &["scale", "gain"],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::Pcb,
        name: "pcb",
        summary: "parameter competition balancing: weigh each entry by its magnitude and its agreement with the others",
        source: "Du et al. 2024, arXiv:2410.02396",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT_1,
            shared(
                "ratio",
                POSITIVE_FRACTION,
                DefaultValue::Value(0.1),
                "fraction of each task vector that survives the competition",
            ),
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "five passes over the whole model",
    },
    MethodInfo {
        method: Method::Opcm,
        name: "opcm",
        summary: "merge one model after the other, each projected away from what is already merged",
        source: "Tang et al. 2025, arXiv:2501.09522",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[shared(
            "alpha",
            FRACTION,
            DefaultValue::Value(0.5),
            "share of the spectrum that is protected",
        )],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &[],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters; a search makes them once for each alpha",
    },
    MethodInfo {
        method: Method::LayerSwap,
        name: "layer_swap",
        summary: "outer layers from the second (language) model, inner layers from the first (task) model",
        source: "Bandarkar et al. 2024, arXiv:2410.01335",
        base: BaseRule::Ignored,
        inputs: (2, Some(2)),
        parameters: &[
            shared(
                "bottom",
                LAYERS,
                DefaultValue::Required,
                "layers at the bottom that come from the outer model",
            ),
            shared(
                "top",
                LAYERS,
                DefaultValue::Required,
                "layers at the top that come from the outer model",
            ),
            shared(
                "transition_bottom",
                LAYERS,
                DefaultValue::Method,
                "blended layers above the bottom; 1 where there is room",
            ),
            shared(
                "transition_top",
                LAYERS,
                DefaultValue::Method,
                "blended layers below the top; 1 where there is room",
            ),
            swap_module("embeddings", "where the token embeddings come from (default outer)"),
            swap_module("norm", "where the final norm comes from (default outer)"),
            swap_module("head", "where the output head comes from (default outer)"),
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &[],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::Tsv,
        name: "tsv",
        summary: "keep each task's leading singular triples, whiten them against each other, add up",
        source: "Gargiulo et al. 2024, TSV-Merge, arXiv:2412.00081",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT_1, RANK_SHARE, LAMBDA],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight", "lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters; a search makes them once",
    },
    MethodInfo {
        method: Method::IsoC,
        name: "iso_c",
        summary: "sum of task matrices with every singular value replaced by their mean",
        source: "Marczak et al. 2025, arXiv:2502.04959",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT_1, RANK, LAMBDA],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters, again for each set of weights",
    },
    MethodInfo {
        method: Method::IsoCts,
        name: "iso_cts",
        summary: "as iso_c, with some directions of each task alone among those of the sum",
        source: "Marczak et al. 2025, arXiv:2502.04959, algorithm 2",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT_1,
            shared(
                "common",
                FRACTION,
                DefaultValue::Value(0.8),
                "fraction of the directions that come from the sum; the tasks share the rest evenly",
            ),
            LAMBDA,
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters, again for each set of weights",
    },
    MethodInfo {
        method: Method::Svc,
        name: "svc",
        summary: "task arithmetic, with what several tasks share in a direction counted once",
        source: "Li et al. 2026, Singular Value Calibration, arXiv:2602.05536",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT_1,
            shared(
                "alpha",
                POSITIVE_FRACTION,
                DefaultValue::Method,
                "directions get 1 / alpha times as long at most, so that 1 only shortens; 1 / number of tasks unless given",
            ),
            LAMBDA,
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters, again for each set of weights",
    },
    MethodInfo {
        method: Method::Wudi,
        name: "wudi",
        summary: "the task matrix that changes least of what each task does with its own inputs",
        source: "Cheng et al. 2025, WUDI-Merging, arXiv:2503.08099",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[
            WEIGHT_1,
            LAMBDA,
            shared(
                "ridge",
                NOT_NEGATIVE,
                DefaultValue::Value(0.0),
                "pull towards the plain sum, which is felt where the tasks move little; needs `steps: 0`",
            ),
            shared(
                "steps",
                STEPS,
                DefaultValue::Value(0.0),
                "steps of Adam from the plain sum, as in the paper (300); 0 is the optimum itself",
            ),
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight", "lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters; a search makes them once",
    },
    MethodInfo {
        method: Method::Knots,
        name: "knots",
        summary: "TIES in the shared singular basis of all task matrices",
        source: "Stoica et al. 2024, arXiv:2410.19735",
        base: BaseRule::Required,
        inputs: (1, None),
        parameters: &[WEIGHT_1, DENSITY, RANK, LAMBDA, normalize(true)],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["lambda"],
        cost: "singular value decompositions: half an hour or more for 0.5B parameters; a search makes them once",
    },
    MethodInfo {
        method: Method::Fisher,
        name: "fisher",
        summary: "mean of the models, each weight by how much each model minds a change of it; reads `fisher: DIR` of each model",
        source: "Matena and Raffel 2022, arXiv:2111.09832",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[
            ParameterInfo {
                name: "weight",
                scope: Scope::Model,
                kind: NOT_NEGATIVE,
                default: DefaultValue::Value(1.0),
                summary: "factor of the model's Fisher information",
            },
            shared(
                "epsilon",
                Kind::Number {
                    low: 0.0,
                    high: f64::INFINITY,
                    open_low: true,
                },
                DefaultValue::Value(1e-12),
                "added to all Fisher information: what no model minds becomes the plain mean",
            ),
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "one pass over the parents and as much Fisher information",
    },
    MethodInfo {
        method: Method::Regmean,
        name: "regmean",
        summary: "the linear maps that do most nearly to each model's own inputs what its own do; reads `grams: DIR` of each model",
        source: "Jin et al. 2023, RegMean, arXiv:2212.09849",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[
            ParameterInfo {
                name: "weight",
                scope: Scope::Model,
                kind: NOT_NEGATIVE,
                default: DefaultValue::Value(1.0),
                summary: "factor of the model's Gram matrices",
            },
            shared(
                "alpha",
                FRACTION,
                DefaultValue::Value(0.9),
                "factor of what stands beside the diagonal of Gram matrices; below 1 they cannot be singular",
            ),
        ],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "a linear system for each matrix, as large as what it reads is wide, and the Gram matrices in memory",
    },
    MethodInfo {
        method: Method::SparseSoup,
        name: "sparse_soup",
        summary: "weighted average of pruned models; what is zero in all stays exactly zero",
        source: "Zimmer et al. 2024, arXiv:2306.16788",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[ParameterInfo {
            name: "weight",
            scope: Scope::Model,
            kind: ANY,
            default: DefaultValue::Value(1.0),
            summary: "factor of the model; the weights are divided by their sum",
        }],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["weight"],
        cost: "one pass over the parents",
    },
    MethodInfo {
        method: Method::AdapterMean,
        name: "adapter_mean",
        summary: "(1 - alpha) · the last model + alpha · the mean of those before it",
        source: "arXiv:2412.09441",
        base: BaseRule::Ignored,
        inputs: (1, None),
        parameters: &[shared(
            "alpha",
            FRACTION,
            DefaultValue::Value(0.5),
            "share of the older models' mean",
        )],
        is_random: false,
        in_mergekit: false,
        is_weighted_sum: false,
        learned: &["alpha"],
        cost: "one pass over the parents",
    },
];

const DENSITY_IGNORED: ParameterInfo = per_vector(
    "density",
    FRACTION,
    DefaultValue::Value(1.0),
    "accepted for mergekit's sake; changes nothing",
);
const EPSILON: ParameterInfo = per_vector(
    "epsilon",
    NOT_NEGATIVE,
    DefaultValue::Value(0.15),
    "keep probability runs from density - epsilon to density + epsilon",
);
const GAMMA: ParameterInfo = per_vector(
    "gamma",
    FRACTION,
    DefaultValue::Value(0.01),
    "fraction of the largest entries that is dropped",
);
const RAM_EPSILON: ParameterInfo = shared(
    "epsilon",
    NOT_NEGATIVE,
    DefaultValue::Value(1e-5),
    "a smaller change counts as none",
);
const RANK: ParameterInfo = shared(
    "rank",
    POSITIVE_FRACTION,
    DefaultValue::Value(1.0),
    "fraction of the singular triples that is kept",
);
const RANK_SHARE: ParameterInfo = shared(
    "rank",
    POSITIVE_FRACTION,
    DefaultValue::Method,
    "fraction of each task's singular triples that is kept; 1 / number of tasks unless given",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_method_under_its_serde_name() {
        for info in methods() {
            let name = serde_json::to_value(info.method).unwrap();
            assert_eq!(name, info.name);
            assert_eq!(Method::from_name(info.name), Some(info.method));
        }
        let last = Method::AdapterMean as usize;
        assert_eq!(methods().len(), last + 1);
        for (i, info) in methods().iter().enumerate() {
            assert_eq!(info.method as usize, i);
        }
    }

    #[test]
    fn defaults_lie_in_their_ranges() {
        for info in methods() {
            for p in info.parameters {
                if let DefaultValue::Value(v) = p.default {
                    assert_eq!(p.accept(v), Ok(v), "{} {}", info.name, p.name);
                }
            }
        }
    }
}
