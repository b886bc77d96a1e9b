//! What a genotype stands for: a merge, or nothing but its own numbers.

use serde_json::{Map, Value};

use crate::{
    optim::{self, Genotype},
    recipe::Recipe,
    space::{Codec, Error, GeneSpec, SIGNIFICANT, Stage, Start, effects},
};

/// Part of a budget that the parameter space of `ps_then_dfs` has.
const PARAMETER_SHARE: f64 = 0.5;

/// Parts of the parameter space's budget that are spent when its narrow stages end.
const GLOBAL_SHARE: f64 = 0.2;
const MODULES_SHARE: f64 = 0.4;

/// The genes of a search, or of one of its stages.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a run has one or two of these
pub enum Genome {
    Merge(Codec),
    /// Bare genes: a command scores the numbers.
    Bare(Vec<GeneSpec>),
}

/// A candidate before it has a name.
#[derive(Clone, Debug)]
pub enum Who {
    Model(String),
    Recipe(Box<Recipe>),
    /// The genes by their names, as the journal keeps them.
    Genes(Value),
}

impl Genome {
    /// In the order of a genotype.
    pub fn genes(&self) -> &[GeneSpec] {
        match self {
            Self::Merge(codec) => codec.genes(),
            Self::Bare(genes) => genes,
        }
    }

    pub(super) fn decode(&self, genotype: &[f64]) -> Who {
        match self {
            Self::Merge(codec) => Who::Recipe(Box::new(codec.decode(genotype))),
            Self::Bare(genes) => Who::Genes(named(genes, genotype)),
        }
    }

    /// # Errors
    /// The recipe is no point of this space.
    pub fn encode(&self, recipe: &Recipe) -> Result<Genotype, Error> {
        match self {
            Self::Merge(codec) => codec.encode(recipe),
            Self::Bare(_) => Err(Error::NotEncodable {
                reason: "this space has no models".into(),
            }),
        }
    }

    /// What this stage searches.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Merge(codec) => codec.stage(),
            Self::Bare(_) => Stage::Genes,
        }
    }

    /// The stage that follows this one, if the search has several.
    pub fn next_stage(&self) -> Option<Stage> {
        match self {
            Self::Merge(codec) => codec.next_stage(),
            Self::Bare(_) => None,
        }
    }

    /// The genome of the next stage, which builds on the best recipe of this one.
    pub fn after(&self, champion: &Recipe) -> Option<Genome> {
        match self {
            Self::Merge(codec) => codec.then_data_flow(champion).map(Self::Merge),
            Self::Bare(_) => None,
        }
    }

    /// Part of the whole budget that is spent when this stage has made room for the next one.
    pub(super) fn share(&self) -> f64 {
        let Self::Merge(codec) = self else { return 1.0 };
        let of_parameters = if codec.is_hybrid() { PARAMETER_SHARE } else { 1.0 };
        match codec.stage() {
            Stage::Global => GLOBAL_SHARE * of_parameters,
            Stage::Modules => MODULES_SHARE * of_parameters,
            Stage::ParameterSpace | Stage::DataFlowSpace | Stage::Joint | Stage::Genes => of_parameters,
        }
    }

    /// The genome that tells more apart, and what is known of where to search it: genes are split whose parts are told to pull
    /// `apart` by the gradient, and of those that it says nothing of the ones that have shown an effect on the fitness of `points`.
    /// `None` of a genome that is not narrow.
    pub(super) fn wider(
        &self,
        points: &[(&[f64], f64)],
        apart: &[Option<f64>],
        known: &Start,
    ) -> Option<(Self, Start)> {
        let Self::Merge(codec) = self else { return None };
        let mut split = effects(points);
        // Of a stage whose budget was over before it bred anybody there are no points.
        split.resize(codec.genes().len(), false);
        for (split, luck) in split.iter_mut().zip(apart) {
            *split = luck.map_or(*split, |luck| luck < SIGNIFICANT);
        }
        let wider = codec.widened(&split)?;
        let start = wider.carry(codec, known);
        Some((Self::Merge(wider), start))
    }

    /// The genome of the next stage with everything split, and the place of the gene that each of its genes is a part of. `None`
    /// of a genome that is not narrow.
    pub(super) fn parts(&self) -> Option<(Self, Vec<usize>)> {
        let Self::Merge(codec) = self else { return None };
        let (wider, of) = codec.parts()?;
        Some((Self::Merge(wider), of))
    }

    /// The merge of some experts without the others. `None` of a genome that cannot leave them out.
    pub(super) fn soup(&self, members: &[&str]) -> Option<Genotype> {
        match self {
            Self::Merge(codec) => codec.soup(members),
            Self::Bare(_) => None,
        }
    }

    /// The genome of a search that begins there, and its start.
    pub(super) fn around_soup(&self, members: &[&str]) -> Option<(Self, Start)> {
        let Self::Merge(codec) = self else { return None };
        let (codec, start) = codec.around_soup(members)?;
        Some((Self::Merge(codec), start))
    }

    /// Where a search of layer paths starts: one source as it is. `None` without a data-flow space.
    pub(super) fn origin(&self) -> Option<Start> {
        match self {
            Self::Merge(codec) => codec.origin().map(|genotype| codec.start(&genotype)),
            Self::Bare(_) => None,
        }
    }

    /// Paths that are tried first; none without a data-flow space.
    pub(super) fn seeds(&self) -> Vec<Genotype> {
        let Self::Merge(codec) = self else { return Vec::new() };
        let seeds = codec.seeds();
        // A seed whose layers stand in an order that these slots do not have is none of this space's.
        seeds
            .iter()
            .filter_map(|(_, recipe)| codec.encode(recipe).ok())
            .collect()
    }

    /// The path that genotypes hold, for operators that edit it as one.
    pub(super) fn path(&self) -> Vec<optim::Slot> {
        let Self::Merge(codec) = self else { return Vec::new() };
        let slots = codec.slots().into_iter().map(|slot| optim::Slot {
            indicator: slot.run,
            scale: slot.scale,
            source: slot.source,
            layer: slot.layer,
            repeat: slot.repeat,
        });
        slots.collect()
    }

    /// The layer group that each gene belongs to, if it does.
    pub(super) fn groups(&self) -> Vec<Option<usize>> {
        match self {
            Self::Merge(codec) => codec.layer_groups(),
            Self::Bare(genes) => vec![None; genes.len()],
        }
    }

    /// Recipes of `n` points drawn evenly from the space, the same ones for the same seed; none of bare genes.
    ///
    /// # Errors
    /// Genes that no optimizer can move.
    pub fn sample(&self, n: usize, seed: u64) -> Result<Vec<Recipe>, super::Error> {
        let options = optim::Options {
            seed,
            population_size: Some(n.max(2)),
            ..optim::Options::default()
        };
        let mut random = optim::Optimizer::new(optim::Kind::Random, super::domain(self)?, &options)?;
        let recipe = |ask: &optim::Ask| match self.decode(&ask.genotype) {
            Who::Recipe(recipe) => Some(*recipe),
            Who::Model(_) | Who::Genes(_) => None,
        };
        Ok(random.ask().iter().take(n).filter_map(recipe).collect())
    }

    /// Unsearched merges that every search is measured against.
    pub fn baselines(&self) -> Vec<(String, Recipe)> {
        match self {
            Self::Merge(codec) => codec.baselines(),
            Self::Bare(_) => Vec::new(),
        }
    }
}

/// A genotype by the names of its genes.
pub fn named(genes: &[GeneSpec], genotype: &[f64]) -> Value {
    let pairs = genes
        .iter()
        .zip(genotype)
        .map(|(g, v)| (g.name.clone(), Value::from(*v)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

impl Who {
    /// As the journal keeps it, and its digest.
    pub fn record(&self) -> (Value, String) {
        match self {
            Self::Model(name) => (serde_json::json!({ "model": name }), format!("model:{name}")),
            Self::Recipe(recipe) => {
                let json = serde_json::to_value(recipe).expect("a recipe is plain data");
                (json, recipe.digest())
            }
            Self::Genes(genes) => {
                let digest = blake3::hash(genes.to_string().as_bytes()).to_hex();
                (serde_json::json!({ "genes": genes }), format!("genes:{digest}"))
            }
        }
    }
}
