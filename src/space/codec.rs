//! Between the optimizer's numbers and recipes.
//!
//! A [`Codec`] serves a parameter space, a data-flow space, or both at once (`hybrid: joint`). With
//! `hybrid: ps_then_dfs` it serves the parameter space, and [`Codec::then_data_flow`] gives the codec of the second
//! search. Decoding is total and deterministic: every genotype within the genes' bounds is a recipe, and what changes
//! nothing in the child changes nothing in the recipe, nor in its digest.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    Error, GeneKind, Hybrid, MERGED, Space,
    flow::{FlowCodec, Slot},
    parameters::ParameterCodec,
    unsearched,
    widen::Ties,
};
use crate::recipe::{DType, Module, ParamValue, Recipe, Source, module_of};

/// What the codec must know of the models: all of them have the same layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub layers: usize,
    /// Dtype that the child is stored in.
    pub out_dtype: DType,
    pub fold: Fold,
}

/// Which tensors say how much a layer adds to the stream of hidden states: input scales are folded into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// The last projection of attention and MLP; the family norms before them only.
    Projections,
    /// The norms after attention and MLP, which read the stream without a norm (OLMo 2).
    PostNorms,
    /// The same norms where they multiply by 1 + weight, and others stand before (Gemma 2 and 3).
    ShiftedPostNorms,
    /// What ends the branches of attention and MLP where it is called otherwise: the last projections, or norms after them
    /// that others stand before. Hybrids have another end where a layer does not attend.
    Ends([&'static str; 2], Option<&'static str>),
}

/// What the genotypes of one codec search: the stages of a search that has several, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The parameter space with one gene for each parameter and model.
    Global,
    /// The same with modules told apart where that has shown an effect.
    Modules,
    /// The parameter space; after the narrow stages, with layer groups told apart where it has shown an effect.
    ParameterSpace,
    DataFlowSpace,
    Joint,
    /// Bare genes, without models.
    Genes,
}

impl Stage {
    /// As a run's journal names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "parameter_space_global",
            Self::Modules => "parameter_space_modules",
            Self::ParameterSpace => "parameter_space",
            Self::DataFlowSpace => "data_flow_space",
            Self::Joint => "joint",
            Self::Genes => "genes",
        }
    }

    /// Whether it mixes weights and nothing else. A path of layers has to be found before its scales can be learned.
    pub fn mixes_weights(self) -> bool {
        matches!(self, Self::Global | Self::Modules | Self::ParameterSpace)
    }

    /// Whether a wider codec of the same space follows.
    pub fn is_narrow(self) -> bool {
        matches!(self, Self::Global | Self::Modules)
    }
}

/// One number that the optimizer moves.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneSpec {
    /// Such as `weight.maths.g0.attn`, `lambda`, `method`, `run.maths.l3.r0` or `scale.maths.l3.r0`.
    pub name: String,
    pub kind: GeneKind,
}

/// Where a distribution over genotypes begins, gene by gene.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The mean; for a layer's indicator the probability that it runs.
    pub mean: Vec<f64>,
    /// Standard deviations in the genes' own units; 1 at choices, where they mean nothing.
    pub stds: Vec<f64>,
    /// `[genes, genes]`, row by row; empty for none.
    pub correlations: Vec<f64>,
}

/// Decodes genotypes of one space for models of one shape.
#[derive(Clone, Debug)]
pub struct Codec {
    /// Those of the parameter space, then those of the data-flow space.
    pub(super) genes: Vec<GeneSpec>,
    pub(super) parameters: Option<ParameterCodec>,
    /// Which genes of the parameter space move as one, in a narrow codec.
    pub(super) ties: Option<Ties>,
    pub(super) flow: Option<FlowCodec>,
    /// The second search of `ps_then_dfs`.
    second: Option<FlowCodec>,
    /// What the first search of `ps_then_dfs` has found.
    child: Option<Recipe>,
    merges: Vec<(String, Recipe)>,
    /// Vision tower and projector of every child, where models have them and they are not merged.
    modules: BTreeMap<String, Module>,
}

/// The modules beside the language models, from the model that the space wants them of.
fn modules(space: &Space, tensors: &[String]) -> BTreeMap<String, Module> {
    let named = space.vision.as_ref().or(space.base.as_ref());
    let model = named.unwrap_or(&space.tokenizer);
    let module = || Module {
        models: vec![Source {
            model: model.clone(),
            layer_range: None,
            fisher: None,
            grams: None,
            parameters: Default::default(),
        }],
        parameters: Default::default(),
    };
    let names = tensors.iter().filter_map(|name| module_of(name));
    match model == MERGED {
        true => BTreeMap::new(),
        false => names.map(|name| (name.to_string(), module())).collect(),
    }
}

impl Codec {
    /// # Errors
    /// Layer groups that do not fit the models; genes for each tensor, whose names only [`Codec::with_tensors`] knows.
    pub fn new(space: &Space, shape: Shape) -> Result<Self, Error> {
        Self::with_tensors(space, shape, &[])
    }

    /// As [`Codec::new`], of models that have these tensors: the genes of a space may be told apart by them.
    ///
    /// # Errors
    /// As [`Codec::new`].
    pub fn with_tensors(space: &Space, shape: Shape, tensors: &[String]) -> Result<Self, Error> {
        let modules = modules(space, tensors);
        let is_searched = |name: &&String| modules.is_empty() || module_of(name).is_none();
        let searched: Vec<String> = tensors.iter().filter(is_searched).cloned().collect();
        let parameters = match &space.parameter_space {
            Some(ps) => Some(ParameterCodec::new(ps, space, shape, &searched)?),
            None => None,
        };
        let flow = space.data_flow_space.as_ref();
        let flow = flow.map(|dfs| FlowCodec::new(dfs, &space.tokenizer, shape));
        let (flow, second) = match space.hybrid {
            Some(Hybrid::PsThenDfs) => (None, flow),
            Some(Hybrid::Joint) | None => (flow, None),
        };
        let mut codec = Self {
            genes: Vec::new(),
            parameters,
            ties: None,
            flow,
            second,
            child: None,
            merges: unsearched::merges(space, shape),
            modules,
        };
        codec.list_genes();
        Ok(codec)
    }

    fn list_genes(&mut self) {
        let of_parameters = self.parameters.iter().flat_map(|ps| ps.genes());
        let of_flow = self.flow.iter().flat_map(|flow| flow.genes());
        self.genes = of_parameters.chain(of_flow).cloned().collect();
    }

    /// The codec of the second search of `ps_then_dfs`, in which the first one's child is a source like the models: its
    /// recipe becomes the first stages of every path that visits it. `None` for other spaces.
    pub fn then_data_flow(&self, child: &Recipe) -> Option<Self> {
        let mut codec = Self {
            parameters: None,
            ties: None,
            flow: Some(self.second.clone()?),
            second: None,
            child: Some(child.clone()),
            ..self.clone()
        };
        codec.list_genes();
        Some(codec)
    }

    /// What this codec's genotypes search.
    pub fn stage(&self) -> Stage {
        match (&self.parameters, &self.flow, &self.ties) {
            (_, None, Some(ties)) => ties.stage(),
            (_, None, None) => Stage::ParameterSpace,
            (None, Some(_), _) => Stage::DataFlowSpace,
            (Some(_), Some(_), _) => Stage::Joint,
        }
    }

    /// The stage that follows this one: after [`Codec::widened`] if this one is narrow, else after
    /// [`Codec::then_data_flow`].
    pub fn next_stage(&self) -> Option<Stage> {
        self.wider_stage()
            .or(self.second.as_ref().map(|_| Stage::DataFlowSpace))
    }

    /// Whether a data-flow search builds on what the parameter space gives.
    pub fn is_hybrid(&self) -> bool {
        self.second.is_some()
    }

    /// The genes, in the order of a genotype.
    pub fn genes(&self) -> &[GeneSpec] {
        &self.genes
    }

    /// The slots of the layer path, in order, with the positions of their genes; none without a data-flow space.
    pub fn slots(&self) -> Vec<Slot> {
        let shift = self.parameter_genes();
        let slots = self.flow.iter().flat_map(|flow| flow.slots());
        slots
            .map(|slot| Slot {
                run: slot.run + shift,
                scale: slot.scale.map(|gene| gene + shift),
                ..*slot
            })
            .collect()
    }

    fn parameter_genes(&self) -> usize {
        self.parameters.as_ref().map_or(0, |ps| ps.genes().len())
    }

    /// The same recipe, in which what is not a language model comes from where the space wants it.
    fn complete(&self, mut recipe: Recipe) -> Recipe {
        for stage in &mut recipe.stages {
            stage.modules.clone_from(&self.modules);
            // mergekit wants a weight, but of the base.
            let sums = stage.merge_method.info().is_weighted_sum;
            let models = stage.modules.values_mut().flat_map(|module| &mut module.models);
            for source in models.filter(|source| sums && stage.base_model.as_ref() != Some(&source.model)) {
                source.parameters.insert("weight".into(), ParamValue::Number(1.0));
            }
        }
        recipe
    }

    /// The recipe that a genotype stands for, with the space's short model names.
    pub fn decode(&self, genotype: &[f64]) -> Recipe {
        assert_eq!(genotype.len(), self.genes.len(), "one number for each gene");
        let genotype = self.expand(genotype);
        let (parameters, path) = genotype.split_at(self.parameter_genes());
        let mixed = self.parameters.as_ref().map(|ps| ps.decode(parameters));
        self.complete(match (&self.flow, mixed) {
            (Some(flow), mixed) => flow.decode(path, mixed.as_ref().or(self.child.as_ref())),
            (None, Some(mixed)) => mixed,
            (None, None) => unreachable!("a space has a parameter space or a data-flow space"),
        })
    }

    /// Which genes really decide on a genotype's child, by position.
    pub fn live(&self, genotype: &[f64]) -> Vec<bool> {
        let genotype = self.expand(genotype);
        let (parameters, path) = genotype.split_at(self.parameter_genes());
        let mut live = self.parameters.as_ref().map_or_else(Vec::new, |ps| ps.live(parameters));
        if let Some(flow) = &self.flow {
            if !flow.visits_child(path) {
                live.fill(false);
            }
            live.extend(flow.live(path));
        }
        match &self.ties {
            Some(ties) => ties.any(&live),
            None => live,
        }
    }

    /// The layer group that each gene belongs to; `None` for genes of several groups, and for those of a layer path.
    pub fn layer_groups(&self) -> Vec<Option<usize>> {
        let mut groups = self
            .parameters
            .as_ref()
            .map_or_else(Vec::new, ParameterCodec::layer_groups);
        groups.resize(
            groups.len() + self.flow.as_ref().map_or(0, |flow| flow.genes().len()),
            None,
        );
        match &self.ties {
            Some(ties) => ties.common(&groups),
            None => groups,
        }
    }

    /// The point of the whole space that a narrow genotype is.
    pub(super) fn expand<'a>(&self, genotype: &'a [f64]) -> Cow<'a, [f64]> {
        match &self.ties {
            Some(ties) => ties.expand(genotype).into(),
            None => genotype.into(),
        }
    }

    /// The narrow genotype nearest to a point of the whole space; whole numbers have no fraction in it.
    pub(super) fn contract(&self, genotype: &[f64]) -> Vec<f64> {
        let is_whole = |gene: &GeneSpec| !matches!(gene.kind, GeneKind::Real { .. });
        let mean = match &self.ties {
            Some(ties) => ties.contract(genotype),
            None => genotype.to_vec(),
        };
        let round = |(gene, value): (&GeneSpec, f64)| if is_whole(gene) { value.round() } else { value };
        self.genes.iter().zip(mean).map(round).collect()
    }

    /// The genotype nearest to a recipe.
    ///
    /// # Errors
    /// The recipe has stages, a method, a model or an order of layers that this space does not have.
    pub fn encode(&self, recipe: &Recipe) -> Result<Vec<f64>, Error> {
        let (ps, flow) = match (&self.parameters, &self.flow) {
            (Some(ps), None) => return Ok(self.contract(&ps.encode(recipe)?)),
            (None, Some(flow)) if self.child.as_ref() == Some(recipe) => return Ok(flow.origin()),
            (None, Some(flow)) => return flow.encode(recipe.result()),
            (Some(ps), Some(flow)) => (ps, flow),
            (None, None) => unreachable!("a space has a parameter space or a data-flow space"),
        };
        if let [mixed @ .., path] = recipe.stages.as_slice()
            && let Ok(path) = flow.encode(path)
        {
            let mut genotype = match mixed {
                [] => ps.usual(),
                stages => ps.encode(&Recipe { stages: stages.into() })?,
            };
            genotype.extend(path);
            return Ok(genotype);
        }
        let mut genotype = ps.encode(recipe)?;
        genotype.extend(flow.origin());
        Ok(genotype)
    }

    /// Unsearched children that every search is measured against: plain merges of the experts, and where there is a
    /// data-flow space the first real source stacked on itself and a frankenmerge of the first two.
    pub fn baselines(&self) -> Vec<(String, Recipe)> {
        let mut baselines = self.merges.clone();
        baselines.extend(self.flow.iter().chain(&self.second).flat_map(FlowCodec::baselines));
        let complete = |(name, recipe)| (name, self.complete(recipe));
        baselines.into_iter().map(complete).collect()
    }

    /// Paths to begin a data-flow search with, each once: every source as it is, stacked on itself and pruned by block
    /// influence (where that is known), a frankenmerge, layer swapping. Empty without a data-flow space.
    pub fn seeds(&self) -> Vec<(String, Recipe)> {
        let Some(flow) = &self.flow else { return Vec::new() };
        let usual = self.parameters.as_ref().map(|ps| ps.decode(&ps.usual()));
        let child = usual.as_ref().or(self.child.as_ref());
        let mut seeds: Vec<(String, Recipe)> = Vec::new();
        for (name, genotype) in flow.seeds() {
            let recipe = self.complete(flow.decode(&genotype, child));
            if seeds.iter().all(|(_, known)| *known != recipe) {
                seeds.push((name, recipe));
            }
        }
        seeds
    }

    /// Tells a data-flow space what each layer of a source changes in the stream, 1 − E[cos(input, output)], so that
    /// [`Codec::seeds`] can leave out those that change least. Sources that the space does not have are ignored.
    pub fn set_block_influence(&mut self, source: &str, influence: &[f64]) {
        for flow in self.flow.iter_mut().chain(&mut self.second) {
            flow.set_block_influence(source, influence);
        }
    }

    /// Where a data-flow search begins: the first source as it is (the child of the parameter space, in a hybrid), the
    /// parameters at their usual values. `None` without a data-flow space.
    pub fn origin(&self) -> Option<Vec<f64>> {
        let flow = self.flow.as_ref()?;
        let mut genotype = self.parameters.as_ref().map_or_else(Vec::new, ParameterCodec::usual);
        genotype.extend(flow.origin());
        Some(genotype)
    }

    /// The merge of some experts at their usual parameters, the others' weights 0. `None` where experts have no such weights.
    pub fn soup(&self, members: &[&str]) -> Option<Vec<f64>> {
        let ps = self.parameters.as_ref().filter(|_| self.flow.is_none())?;
        Some(self.contract(&ps.soup(members)?))
    }

    /// A distribution around a genotype. Real genes spread over a sixth of their range, a layer's scale over a twentieth;
    /// of the layers, on average one that runs leaves the path and one that does not joins it.
    pub fn start(&self, genotype: &[f64]) -> Start {
        let mut start = Start {
            mean: genotype.to_vec(),
            stds: Vec::with_capacity(genotype.len()),
            correlations: Vec::new(),
        };
        for gene in &self.genes {
            start.stds.push(match gene.kind {
                GeneKind::Real { low, high } => (high - low) / 6.0,
                GeneKind::Int { low, high } => (high as f64 - low as f64) / 6.0,
                GeneKind::Choice { .. } => 1.0,
            });
        }
        let slots = self.slots();
        let running = slots.iter().filter(|slot| genotype[slot.run] > 0.5).count();
        let leaves = 1.0 / (running as f64).max(4.0);
        let joins = 1.0 / ((slots.len() - running) as f64).max(4.0);
        for slot in &slots {
            let runs = genotype[slot.run] > 0.5;
            start.mean[slot.run] = if runs { 1.0 - leaves } else { joins };
        }
        if let Some(flow) = &self.flow {
            let shift = self.parameter_genes();
            for gene in flow.scale_genes() {
                start.stds[gene + shift] *= 6.0 / 20.0;
            }
        }
        start
    }
}
