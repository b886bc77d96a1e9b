//! The parameter space: how weights mix.
//!
//! A gene that the chosen method does not use is dead: it changes nothing in the recipe, and so nothing in its digest.
//! Recipes are written as mergekit would have them: one slice for each layer group, filter lists for modules. So
//! embeddings take the first group's `other` genes, the final norm and the head the last group's.

use std::collections::BTreeMap;

use super::{
    Axis, Error, Gene, GeneKind, GeneSpec, LayerGroups, Module, ParameterSpace, Range, Shape, Space, unsearched::Swap,
};
use crate::recipe::{
    BaseRule, Body, DType, Filtered, Method, ParamValue, Parameters, Place, Recipe, Scope, Slice, Source, Stage,
    evaluate,
};

/// Decodes genotypes of one parameter space for models of one shape.
#[derive(Clone, Debug)]
pub(super) struct ParameterCodec {
    methods: Vec<Method>,
    base: Option<String>,
    tokenizer: String,
    experts: Vec<String>,
    /// Half-open layer ranges; one range means one set of genes for all layers.
    groups: Vec<[usize; 2]>,
    modules: Vec<Part>,
    /// Names of the merged tensors, where genes are told apart by them.
    tensors: Vec<String>,
    fixed: Vec<(String, ParamValue)>,
    out_dtype: DType,
    seed: u64,
    genes: Vec<GeneSpec>,
    /// What each gene after the method gene stands for.
    slots: Vec<Slot>,
}

/// What attention is called in the tensors' names: `self_attn` in most families, `attn` or `attention` in those after GPT-2.
fn attention_word(tensors: &[String]) -> &'static str {
    let words = ["self_attn", "attention", "attn"];
    let named = |word: &&str| tensors.iter().any(|name| name.contains(&format!(".{word}.")));
    words.into_iter().find(named).unwrap_or("self_attn")
}

/// What a hybrid's tensors call that which stands in attention's place.
fn mixer_word(tensors: &[String]) -> Option<&'static str> {
    let words = [
        ("linear_attn", ".linear_attn."),
        ("mamba", ".mamba."),
        ("conv", ".conv.in_proj."),
    ];
    let named = |mark: &str| tensors.iter().any(|name| name.contains(mark));
    words.into_iter().find(|(_, mark)| named(mark)).map(|(word, _)| word)
}

/// The filter that finds a module's tensors and no others: its name, or between dots where others have that in their names,
/// as the norms `post_attention_layernorm` and `post_self_attn_layernorm` do.
fn filter_word(word: &str, tensors: &[String]) -> String {
    let whole = format!(".{word}.");
    let is_another = |name: &String| name.contains(word) && !name.contains(&whole);
    match tensors.iter().any(is_another) {
        true => whole,
        false => word.into(),
    }
}

/// Tensors that share genes.
#[derive(Clone, Debug)]
struct Part {
    /// As genes have it.
    name: String,
    /// The words by which recipes find the tensors; none where it is what no other part has.
    words: Vec<String>,
    /// A tensor that stands for all, without what comes before it in a layer.
    example: String,
}

/// The parts that modules are in models with these tensors.
fn parts(modules: &[Module], expert_groups: usize, tensors: &[String]) -> Result<Vec<Part>, Error> {
    let attention = attention_word(tensors);
    let named = |word: &str| tensors.iter().find(|name| name.contains(word));
    let bodies = ["mlp", "block_sparse_moe", "feed_forward", "shared_mlp"];
    let body = bodies
        .into_iter()
        .find(|word| named(&format!(".{word}.")).is_some())
        .unwrap_or("mlp");
    let part = |name: &str, word: String, example: &str| Part {
        name: name.into(),
        example: format!("{word}{example}"),
        words: vec![word],
    };
    let whole = |name: &str, word: &str, example: &str| Part {
        name: name.into(),
        example: format!("{word}{example}"),
        words: vec![filter_word(word, tensors)],
    };
    let mut parts = Vec::new();
    for module in modules {
        let name = match module {
            Module::Attn => {
                parts.push(whole("attn", attention, ".q_proj.weight"));
                continue;
            }
            Module::Mlp => {
                parts.push(whole("mlp", body, ".up_proj.weight"));
                continue;
            }
            Module::Other => {
                parts.push(Part {
                    name: "other".into(),
                    words: Vec::new(),
                    example: "input_layernorm.weight".into(),
                });
                continue;
            }
            Module::Mixer | Module::Router | Module::Experts | Module::Shared => module.name(),
        };
        if let (Module::Mixer, Some(word)) = (module, mixer_word(tensors)) {
            parts.push(whole("mixer", word, ".in_proj.weight"));
            continue;
        }
        let words: &[&str] = match module {
            Module::Mixer => &[],
            Module::Router => &["gate.", "router."],
            Module::Experts => &["experts."],
            _ => &["shared_expert"],
        };
        let words = words.iter().map(|word| format!("{body}.{word}"));
        // Granite 4 has its shared expert beside the others, not among them.
        let beside = (*module == Module::Shared && body == "block_sparse_moe").then(|| "shared_mlp.".to_string());
        // Gemma 4's stand beside its MLP.
        let in_layer = match module {
            Module::Router => Some("router.".to_string()),
            Module::Experts => Some("experts.".to_string()),
            _ => None,
        };
        let mut words = words.chain(beside).chain(in_layer);
        let word = words.find(|word| named(&format!(".{word}")).is_some());
        let word = match word {
            Some(word) => word,
            None if tensors.is_empty() => return Err(Error::NoTensorNames),
            None => return Err(Error::NoSuchModule { module: name }),
        };
        match (module, expert_groups) {
            (Module::Experts, 2..) => parts.extend(expert_parts(&word, expert_groups, tensors)?),
            _ => parts.push(part(name, word, "weight")),
        }
    }
    Ok(parts)
}

/// The modules that models with these tensors have, in the order in which a space names them.
pub fn modules_of(tensors: &[String]) -> Vec<Module> {
    let words = |module: Module| parts(&[module], 1, tensors).map(|parts| parts[0].words.clone());
    let of_mixture = [Module::Mixer, Module::Router, Module::Experts, Module::Shared];
    let found: Vec<(Module, Vec<String>)> = of_mixture
        .into_iter()
        .filter_map(|module| Some((module, words(module).ok()?)))
        .collect();
    let body = words(Module::Mlp).unwrap_or_default();
    let is_dense = |name: &&String| {
        let taken = found
            .iter()
            .flat_map(|(_, words)| words)
            .any(|word| name.contains(word.as_str()));
        !taken && body.iter().any(|word| name.contains(word.as_str()))
    };
    let mut modules = vec![Module::Attn];
    modules.extend(found.iter().map(|(module, _)| *module));
    if tensors.iter().any(|name| is_dense(&name)) || found.is_empty() {
        modules.push(Module::Mlp);
    }
    modules.push(Module::Other);
    modules
}

/// Whether the experts of models with these tensors can be put in so many groups: not where there are fewer of them, or where
/// one tensor holds all of a layer.
pub fn takes_expert_groups(tensors: &[String], groups: usize) -> bool {
    parts(&[Module::Experts], groups, tensors).is_ok()
}

/// The experts of a layer in groups of those that stand together, each of them found by its number.
fn expert_parts(word: &str, groups: usize, tensors: &[String]) -> Result<Vec<Part>, Error> {
    let mut experts = 0;
    for (name, (_, rest)) in tensors.iter().filter_map(|name| Some((name, name.split_once(word)?))) {
        let number = rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
        let Some(number) = number else {
            return Err(Error::FusedExperts { tensor: name.clone() });
        };
        experts = experts.max(number + 1);
    }
    if groups > experts {
        return Err(Error::TooManyExpertGroups {
            wanted: groups,
            experts,
        });
    }
    let of_group = |group: usize| {
        let range = group * experts / groups..(group + 1) * experts / groups;
        Part {
            name: format!("experts{group}"),
            example: format!("{word}{}.weight", range.start),
            words: range.map(|expert| format!("{word}{expert}.")).collect(),
        }
    };
    Ok((0..groups).map(of_group).collect())
}

/// One searched parameter and the places that its genes serve.
#[derive(Clone, Debug)]
struct Slot {
    parameter: String,
    range: Range,
    per: Vec<Axis>,
    /// Index of its first gene; the others follow, model-major, then group, then module.
    first: usize,
}

/// What a gene stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coordinates {
    /// Number of its parameter; the method gene has one of its own.
    pub parameter: usize,
    pub model: usize,
    pub group: usize,
    pub module: usize,
}

impl ParameterCodec {
    /// # Errors
    /// Layer groups or modules that do not fit the models.
    pub fn new(ps: &ParameterSpace, space: &Space, shape: Shape, tensors: &[String]) -> Result<Self, Error> {
        let mut codec = Self {
            methods: ps.method.clone(),
            base: space.base.clone(),
            tokenizer: space.tokenizer.clone(),
            experts: space.experts().map(String::from).collect(),
            groups: groups(&ps.layer_groups, shape.layers)?,
            modules: parts(&ps.modules, ps.expert_groups, tensors)?,
            tensors: tensors.to_vec(),
            fixed: Vec::new(),
            out_dtype: shape.out_dtype,
            seed: space.search.seed,
            genes: Vec::new(),
            slots: Vec::new(),
        };
        if codec.methods.len() > 1 {
            let n = codec.methods.len();
            codec.genes.push(GeneSpec {
                name: "method".into(),
                kind: GeneKind::Choice { n },
            });
        }
        for (name, gene) in &ps.genes {
            match gene {
                Gene::Fixed(value) => codec.fixed.push((name.clone(), value.clone())),
                Gene::Searched { per, .. } if per.contains(&Axis::Tensor) && tensors.is_empty() => {
                    return Err(Error::NoTensorNames);
                }
                Gene::Searched { range, per } => codec.add_slot(name, *range, per),
            }
        }
        Ok(codec)
    }

    fn add_slot(&mut self, parameter: &str, range: Range, per: &[Axis]) {
        let kind = match range {
            Range::Real([low, high]) => GeneKind::Real { low, high },
            Range::Int([low, high]) => GeneKind::Int { low, high },
        };
        let slot = Slot {
            parameter: parameter.into(),
            range,
            per: per.to_vec(),
            first: self.genes.len(),
        };
        let [models, groups, modules] = self.extent(&slot);
        for model in 0..models {
            for group in 0..groups {
                for module in 0..modules {
                    let mut name = parameter.to_string();
                    if per.contains(&Axis::Model) {
                        name += &format!(".{}", self.experts[model]);
                    }
                    if groups > 1 {
                        name += &format!(".g{group}");
                    }
                    if slot.of_tensors() {
                        name += &format!(".{}", short(&self.tensors[module]));
                    } else if modules > 1 {
                        name += &format!(".{}", self.modules[module].name);
                    }
                    self.genes.push(GeneSpec { name, kind });
                }
            }
        }
        self.slots.push(slot);
    }

    /// How many models, groups and modules a slot tells apart; tensors stand in the place of modules.
    fn extent(&self, slot: &Slot) -> [usize; 3] {
        let along = |axis, n: usize| if slot.per.contains(&axis) { n.max(1) } else { 1 };
        if slot.of_tensors() {
            return [along(Axis::Model, self.experts.len()), 1, self.tensors.len()];
        }
        [
            along(Axis::Model, self.experts.len()),
            along(Axis::Group, self.groups.len()),
            along(Axis::Module, self.modules.len()),
        ]
    }

    /// The genes, in the order of a genotype.
    pub fn genes(&self) -> &[GeneSpec] {
        &self.genes
    }

    /// The value of a slot's gene at one place.
    fn value(&self, slot: &Slot, genotype: &[f64], model: usize, group: usize, module: usize) -> f64 {
        let [models, groups, modules] = self.extent(slot);
        let (model, group, module) = (model % models, group.min(groups - 1), module.min(modules - 1));
        let gene = genotype[slot.first + (model * groups + group) * modules + module];
        match slot.range {
            Range::Real([low, high]) => round(gene.clamp(low, high)),
            Range::Int([low, high]) => gene.round().clamp(low as f64, high as f64),
        }
    }

    /// The recipe that a genotype stands for, with the space's short model names.
    pub fn decode(&self, genotype: &[f64]) -> Recipe {
        assert_eq!(genotype.len(), self.genes.len(), "one number for each gene");
        let method = match self.methods.len() {
            1 => self.methods[0],
            n => self.methods[(genotype[0].round().max(0.0) as usize).min(n - 1)],
        };
        let info = method.info();
        let mut whole = Parameters::new();
        let mut sources: Vec<Vec<Parameters>> = vec![vec![Parameters::new(); self.experts.len()]; self.groups.len()];
        let mut slices = vec![Parameters::new(); self.groups.len()];
        for parameter in info.parameters {
            if let Some((_, value)) = self.fixed.iter().find(|(name, _)| name == parameter.name) {
                if parameter.scope != Scope::Shared {
                    for source in sources.iter_mut().flatten() {
                        source.insert(parameter.name.into(), value.clone());
                    }
                } else {
                    whole.insert(parameter.name.into(), value.clone());
                }
            }
            let Some(slot) = self.slots.iter().find(|s| s.parameter == parameter.name) else {
                continue;
            };
            for group in 0..self.groups.len() {
                if parameter.scope != Scope::Shared {
                    for (model, source) in sources[group].iter_mut().enumerate() {
                        source.insert(parameter.name.into(), self.param(slot, genotype, model, group));
                    }
                } else if slot.per.contains(&Axis::Group) && self.groups.len() > 1 {
                    slices[group].insert(parameter.name.into(), self.param(slot, genotype, 0, group));
                } else {
                    whole.insert(parameter.name.into(), self.param(slot, genotype, 0, 0));
                }
            }
        }
        self.recipe(method, whole, slices, sources)
    }

    /// A slot's value in one group: a number, or a filter list where modules differ.
    fn param(&self, slot: &Slot, genotype: &[f64], model: usize, group: usize) -> ParamValue {
        let at = |module| self.value(slot, genotype, model, group, module);
        let [_, _, modules] = self.extent(slot);
        if (1..modules).all(|m| at(m) == at(0)) {
            return ParamValue::Number(at(0));
        }
        let entry = |filter: Option<&str>, module| Filtered {
            filter: filter.map(String::from),
            value: Box::new(ParamValue::Number(at(module))),
        };
        if slot.of_tensors() {
            let tensors = self.tensors.iter().enumerate();
            return ParamValue::Filtered(tensors.map(|(i, name)| entry(Some(name), i)).collect());
        }
        let of_part = |(module, part): (usize, &Part)| -> Vec<Filtered> {
            match part.words.as_slice() {
                [] => vec![entry(None, module)],
                words => words.iter().map(|word| entry(Some(word), module)).collect(),
            }
        };
        ParamValue::Filtered(self.modules.iter().enumerate().flat_map(of_part).collect())
    }

    fn recipe(
        &self,
        method: Method,
        whole: Parameters,
        slices: Vec<Parameters>,
        sources: Vec<Vec<Parameters>>,
    ) -> Recipe {
        let source = |model: &str, layer_range, parameters| Source {
            model: model.into(),
            layer_range,
            fisher: None,
            grams: None,
            parameters,
        };
        let body = if self.groups.len() == 1 {
            let parameters = sources.into_iter().next().unwrap_or_default();
            Body::Models(
                self.experts
                    .iter()
                    .zip(parameters)
                    .map(|(m, p)| source(m, None, p))
                    .collect(),
            )
        } else {
            let groups = self.groups.iter().zip(slices).zip(sources);
            Body::Slices(
                groups
                    .map(|((range, parameters), sources)| Slice {
                        sources: self
                            .experts
                            .iter()
                            .zip(sources)
                            .map(|(m, p)| source(m, Some(*range), p))
                            .chain(self.base_source(method, *range))
                            .collect(),
                        base_model: None,
                        parameters,
                    })
                    .collect(),
            )
        };
        Recipe {
            stages: vec![Stage {
                name: None,
                modules: Default::default(),
                merge_method: method,
                base_model: self.base_of(method),
                body,
                parameters: whole,
                dtype: Some(DType::F32),
                out_dtype: Some(self.out_dtype),
                tokenizer_source: (self.base_of(method).as_ref() != Some(&self.tokenizer))
                    .then(|| self.tokenizer.clone()),
                tokenizer: None,
                chat_template: None,
                seed: method.info().is_random.then_some(self.seed),
            }],
        }
    }

    /// The base as a source of a slice, so that its layer range is explicit.
    fn base_source(&self, method: Method, range: [usize; 2]) -> Option<Source> {
        let base = self.base_of(method).filter(|base| !self.experts.contains(base))?;
        Some(Source {
            model: base,
            layer_range: Some(range),
            fisher: None,
            grams: None,
            parameters: Parameters::new(),
        })
    }

    /// SLERP goes from the first expert to the second; the other methods work on differences from the base, or on none.
    fn base_of(&self, method: Method) -> Option<String> {
        match method {
            Method::Slerp => self.experts.first().cloned(),
            _ if method.info().base == BaseRule::Required => self.base.clone(),
            _ => None,
        }
    }

    /// What each gene stands for.
    pub fn coordinates(&self) -> Vec<Coordinates> {
        let at = |parameter, model, group, module| Coordinates {
            parameter,
            model,
            group,
            module,
        };
        let mut coordinates = Vec::with_capacity(self.genes.len());
        if self.methods.len() > 1 {
            coordinates.push(at(self.slots.len(), 0, 0, 0));
        }
        for (parameter, slot) in self.slots.iter().enumerate() {
            let [models, groups, modules] = self.extent(slot);
            for model in 0..models {
                for group in 0..groups {
                    coordinates.extend((0..modules).map(|module| at(parameter, model, group, module)));
                }
            }
        }
        coordinates
    }

    /// The layer group that each gene belongs to; `None` where it is one for all.
    pub fn layer_groups(&self) -> Vec<Option<usize>> {
        let method = (self.methods.len() > 1).then_some(None);
        let of_slots = self.slots.iter().flat_map(|slot| {
            let [models, groups, modules] = self.extent(slot);
            let group = move |i: usize| (groups > 1).then_some(i / modules % groups);
            (0..models * groups * modules).map(group)
        });
        method.into_iter().chain(of_slots).collect()
    }

    /// Every parameter at its usual value, or in the middle of its range; the first method.
    pub fn usual(&self) -> Vec<f64> {
        let mut genotype = vec![0.0; self.genes.len()];
        for slot in &self.slots {
            let (low, high) = slot.range.bounds();
            let n: usize = self.extent(slot).iter().product();
            let usual = default_of(&slot.parameter, low, high);
            genotype[slot.first..slot.first + n].fill(match slot.range {
                Range::Real(_) => round(usual).clamp(low, high),
                Range::Int(_) => usual.round(),
            });
        }
        genotype
    }

    /// The merge of some experts at their usual parameters: the others' weights are 0. `None` where weights are not searched
    /// expert by expert, or cannot be 0.
    pub fn soup(&self, members: &[&str]) -> Option<Vec<f64>> {
        self.methods[0].info().parameter("weight")?;
        let slot = self.slots.iter().find(|slot| slot.parameter == "weight")?;
        let (low, high) = slot.range.bounds();
        if !slot.per.contains(&Axis::Model) || !(low..=high).contains(&0.0) {
            return None;
        }
        let n: usize = self.extent(slot).iter().product();
        let mut genotype = self.usual();
        for (gene, is_others) in self.of_others(members).into_iter().enumerate() {
            if is_others && (slot.first..slot.first + n).contains(&gene) {
                genotype[gene] = 0.0;
            }
        }
        Some(genotype)
    }

    /// Which genes belong to experts that are none of `members`.
    pub fn of_others(&self, members: &[&str]) -> Vec<bool> {
        let mut others = vec![false; self.genes.len()];
        for slot in self.slots.iter().filter(|slot| slot.per.contains(&Axis::Model)) {
            let [_, groups, modules] = self.extent(slot);
            for (expert, genes) in self
                .experts
                .iter()
                .zip(others[slot.first..].chunks_mut(groups * modules))
            {
                genes.fill(!members.contains(&expert.as_str()));
            }
        }
        others
    }

    /// The genotype nearest to a recipe: each gene takes the mean of what the recipe says at the places that it serves.
    ///
    /// # Errors
    /// The recipe has several stages, or a method or model that this space does not have.
    pub fn encode(&self, recipe: &Recipe) -> Result<Vec<f64>, Error> {
        let no = |reason: String| Error::NotEncodable { reason };
        let [stage] = recipe.stages.as_slice() else {
            return Err(no("it has several stages".into()));
        };
        let method = stage.merge_method;
        let plain = matches!(method, Method::Linear | Method::TaskArithmetic | Method::LayerSwap);
        let position = self.methods.iter().position(|m| *m == method).or_else(|| {
            // A plain average, a sum of task vectors or a swap: methods that trim and elect can come near it.
            let averages = |m: &Method| method == Method::LayerSwap && *m == Method::Linear;
            let adds = |m: &Method| m.info().base == BaseRule::Required && *m != Method::Slerp;
            let serves = |m: &Method| plain && (averages(m) || adds(m));
            self.methods.iter().position(serves)
        });
        let Some(position) = position else {
            return Err(no(format!(
                "its method, {}, is not among this space's",
                method.info().name
            )));
        };
        let as_task_vectors = method == Method::Linear && self.methods[position] != Method::Linear;
        let layers = self.groups.last().map_or(0, |g| g[1]);
        let swap = match self.methods[position] {
            Method::LayerSwap => None,
            _ => Swap::of(stage, layers),
        };
        let mut genotype = Vec::new();
        if self.methods.len() > 1 {
            genotype.push(position as f64);
        }
        let weights_sum = self.experts.len() as f64;
        for slot in &self.slots {
            if slot.of_tensors() {
                genotype.extend(self.encode_tensors(stage, slot, swap.as_ref(), as_task_vectors));
                continue;
            }
            let [models, groups, modules] = self.extent(slot);
            for model in 0..models {
                for group in 0..groups {
                    for module in 0..modules {
                        let mut sum = (0.0, 0.0);
                        let all = |n: usize, i: usize, total: usize| {
                            if n == 1 { (0..total.max(1)).collect() } else { vec![i] }
                        };
                        for m in all(models, model, self.experts.len()) {
                            for g in all(groups, group, self.groups.len()) {
                                for module in all(modules, module, self.modules.len()) {
                                    let (parameter, expert) = (&slot.parameter, &self.experts[m]);
                                    let value = match &swap {
                                        Some(swap) if parameter == "weight" => {
                                            Some(swap.weight(expert, self.groups[g]))
                                        }
                                        _ => self.look_up(stage, parameter, expert, g, module),
                                    };
                                    if let Some(v) = value {
                                        sum = (sum.0 + v, sum.1 + 1.0);
                                    }
                                }
                            }
                        }
                        let (low, high) = slot.range.bounds();
                        let mut value = if sum.1 > 0.0 {
                            sum.0 / sum.1
                        } else {
                            default_of(&slot.parameter, low, high)
                        };
                        if as_task_vectors && slot.parameter == "weight" {
                            value /= weights_sum;
                        }
                        genotype.push(round(value).clamp(low, high));
                    }
                }
            }
        }
        Ok(genotype)
    }

    /// The genes of a slot that tells tensors apart.
    fn encode_tensors(&self, stage: &Stage, slot: &Slot, swap: Option<&Swap>, as_task_vectors: bool) -> Vec<f64> {
        let (low, high) = slot.range.bounds();
        let [models, ..] = self.extent(slot);
        let of_expert = |tensor: &str, layer: usize, expert: &str| match swap {
            Some(swap) if slot.parameter == "weight" => Some(swap.weight(expert, [layer, layer + 1])),
            _ => self.look_up_at(stage, &slot.parameter, expert, layer, tensor),
        };
        let gene = |model: usize, tensor: &str| {
            let layer = layer_of(tensor).unwrap_or(0);
            let experts = match models {
                1 => self.experts.as_slice(),
                _ => std::slice::from_ref(&self.experts[model]),
            };
            let found: Vec<f64> = experts
                .iter()
                .filter_map(|expert| of_expert(tensor, layer, expert))
                .collect();
            let mut value = match found.len() {
                0 => default_of(&slot.parameter, low, high),
                n => found.iter().sum::<f64>() / n as f64,
            };
            if as_task_vectors && slot.parameter == "weight" {
                value /= self.experts.len() as f64;
            }
            round(value).clamp(low, high)
        };
        (0..models)
            .flat_map(|model| self.tensors.iter().map(move |tensor| (model, tensor)))
            .map(|(model, tensor)| gene(model, tensor))
            .collect()
    }

    /// What a stage says about a parameter of a model, at a tensor that stands for a group and a module.
    fn look_up(&self, stage: &Stage, parameter: &str, model: &str, group: usize, module: usize) -> Option<f64> {
        let layer = self.groups[group][0];
        let part = self
            .modules
            .get(module)
            .map_or("mlp.up_proj.weight", |part| &part.example);
        let tensor = format!("model.layers.{layer}.{part}");
        self.look_up_at(stage, parameter, model, layer, &tensor)
    }

    fn look_up_at(&self, stage: &Stage, parameter: &str, model: &str, layer: usize, tensor: &str) -> Option<f64> {
        let info = stage.merge_method.info().parameter(parameter)?;
        let none = Parameters::new();
        let of_model = |sources: &'_ [Source]| sources.iter().find(|s| s.model == model).map(|s| s.parameters.clone());
        let (source, slice) = match &stage.body {
            Body::Models(sources) => (of_model(sources), &none),
            Body::Slices(slices) => {
                let covers = |s: &&Slice| {
                    let range = s.sources.first().and_then(|s| s.layer_range);
                    range.is_none_or(|[start, end]| (start..end).contains(&layer))
                };
                let slice = slices.iter().find(covers)?;
                (of_model(&slice.sources), &slice.parameters)
            }
        };
        let place = Place { tensor, t: 0.0 };
        evaluate(info, &[&source.unwrap_or_default(), slice, &stage.parameters], place).ok()?
    }

    /// Which genes a genotype's method really uses, by position.
    pub fn live(&self, genotype: &[f64]) -> Vec<bool> {
        let method = self.decode(genotype).result().merge_method;
        let mut live = vec![false; self.genes.len()];
        if self.methods.len() > 1 {
            live[0] = true;
        }
        for slot in &self.slots {
            if method.info().parameters.iter().any(|p| p.name == slot.parameter) {
                let n: usize = self.extent(slot).iter().product();
                live[slot.first..slot.first + n].fill(true);
            }
        }
        live
    }
}

impl Slot {
    /// Whether each tensor has a gene of its own.
    fn of_tensors(&self) -> bool {
        self.per.contains(&Axis::Tensor)
    }
}

/// A tensor's name as genes have it: `model.layers.3.mlp.up_proj.weight` → `layers.3.mlp.up_proj`.
fn short(tensor: &str) -> &str {
    let name = tensor.strip_prefix("model.").unwrap_or(tensor);
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The layer that a tensor belongs to.
fn layer_of(tensor: &str) -> Option<usize> {
    tensor.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// Where a recipe is silent, a gene starts at the parameter's usual value, or in the middle of its range.
fn default_of(parameter: &str, low: f64, high: f64) -> f64 {
    let usual = BTreeMap::from([
        ("weight", 1.0),
        ("density", 1.0),
        ("lambda", 1.0),
        ("gamma", 0.01),
        ("epsilon", 0.15),
    ]);
    usual
        .get(parameter)
        .copied()
        .unwrap_or((low + high) / 2.0)
        .clamp(low, high)
}

/// Four decimals: finer steps are below any effect, and recipes stay readable and repeat in the cache.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn groups(groups: &LayerGroups, layers: usize) -> Result<Vec<[usize; 2]>, Error> {
    match groups {
        LayerGroups::Count(n) if *n > layers => Err(Error::TooManyGroups { wanted: *n, layers }),
        LayerGroups::Count(n) => Ok((0..*n).map(|i| [i * layers / n, (i + 1) * layers / n]).collect()),
        LayerGroups::Ranges(ranges) => {
            let mut expected = 0;
            for &[start, end] in ranges {
                if start != expected || end > layers {
                    return Err(Error::GroupsDoNotFit {
                        start,
                        end,
                        expected,
                        layers,
                    });
                }
                expected = end;
            }
            match ranges.last() {
                Some(&[_, end]) if end == layers => Ok(ranges.clone()),
                Some(&[start, end]) => Err(Error::GroupsDoNotFit {
                    start,
                    end,
                    expected,
                    layers,
                }),
                None => Ok(vec![[0, layers]]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Codec, Fold};
    use super::*;
    use crate::recipe::{read, write};

    const SPACE: &str = "
name: t
models: {base: b, maths: m, spanish: s}
base: base
parameter_space:
  method: [ties, linear]
  layer_groups: 2
  modules: [attn, mlp, other]
  genes:
    weight: [0.0, 1.5]
    density: {range: [0.1, 1.0], per: model}
    lambda: {range: [0.5, 1.5], per: recipe}
    normalize: false
fitness:
  tasks: [gsm8k]
";

    fn codec(text: &str) -> Codec {
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        Codec::new(&space, SHAPE).unwrap()
    }

    const SHAPE: Shape = Shape {
        layers: 5,
        out_dtype: DType::Bf16,
        fold: Fold::Projections,
    };

    #[test]
    fn genes_are_named_after_what_they_move() {
        let codec = codec(SPACE);
        let names: Vec<&str> = codec.genes().iter().map(|g| g.name.as_str()).collect();
        assert_eq!(names.len(), 1 + 2 * 2 * 3 + 2 + 1);
        assert_eq!(names[0], "method");
        assert_eq!(names[1], "weight.maths.g0.attn");
        assert_eq!(names[12], "weight.spanish.g1.other");
        assert_eq!(names[13..], ["density.maths", "density.spanish", "lambda"]);
        let groups = codec.layer_groups();
        assert_eq!(groups[..2], [None, Some(0)]);
        assert!(
            (1..13).all(|i| names[i].contains(&format!(".g{}.", groups[i].unwrap()))),
            "{groups:?}"
        );
        assert_eq!(groups[13..], [None; 3]);
    }

    #[test]
    fn a_genotype_becomes_slices_with_filters() {
        let codec = codec(SPACE);
        let mut genotype = vec![0.0];
        genotype.extend((0..12).map(|i| i as f64 / 10.0));
        genotype.extend([0.5, 0.25, 1.2]);
        let recipe = codec.decode(&genotype);
        let stage = recipe.result();
        assert_eq!((stage.merge_method, stage.out_dtype), (Method::Ties, Some(DType::Bf16)));
        assert_eq!(stage.parameters["lambda"], ParamValue::Number(1.2));
        let Body::Slices(slices) = &stage.body else {
            panic!("slices")
        };
        assert_eq!(slices[0].sources[0].layer_range, Some([0, 2]));
        assert_eq!(slices[1].sources[1].layer_range, Some([2, 5]));
        let space = Space::parse(Path::new("s.yaml"), SPACE).unwrap();
        let inner = ParameterCodec::new(space.parameter_space.as_ref().unwrap(), &space, SHAPE, &[]).unwrap();
        assert_eq!(inner.look_up(stage, "weight", "spanish", 1, 1), Some(1.0));
        assert_eq!(inner.look_up(stage, "density", "spanish", 0, 2), Some(0.25));
        assert_eq!(codec.encode(&recipe).unwrap(), genotype);
        let text = write::to_yaml(&recipe);
        assert_eq!(read::parse(Path::new("r.yaml"), &text).unwrap(), recipe, "{text}");
    }

    /// The filter `attention` found the norm after it as well, so that GPT-NeoX's and GLM-4's norms took their genes from attention.
    #[test]
    fn a_module_has_its_own_tensors_and_no_norm_that_is_named_after_it() {
        for (tensors, words) in [
            (
                [
                    "gpt_neox.layers.0.attention.dense.weight",
                    "gpt_neox.layers.0.post_attention_layernorm.weight",
                    "l.0.mlp.x",
                ],
                [".attention.", "mlp"],
            ),
            (
                [
                    "model.layers.0.self_attn.o_proj.weight",
                    "model.layers.0.post_self_attn_layernorm.weight",
                    "l.0.post_mlp_layernorm",
                ],
                [".self_attn.", ".mlp."],
            ),
            (
                [
                    "model.layers.0.self_attn.o_proj.weight",
                    "model.layers.0.post_attention_layernorm.weight",
                    "l.0.mlp.x",
                ],
                ["self_attn", "mlp"],
            ),
        ] {
            let tensors = tensors.map(String::from);
            let space = Space::parse(Path::new("s.yaml"), SPACE).unwrap();
            let codec = Codec::with_tensors(&space, SHAPE, &tensors).unwrap();
            let genotype: Vec<f64> = codec
                .genes()
                .iter()
                .enumerate()
                .map(|(i, _)| 0.1 + 0.01 * i as f64)
                .collect();
            let recipe = codec.decode(&codec.contract(&genotype));
            let yaml = write::to_yaml(&recipe);
            for word in words {
                let written = if word.starts_with('.') {
                    format!("\"{word}\"")
                } else {
                    word.into()
                };
                assert!(yaml.contains(&format!("filter: {written}\n")), "{word}: {yaml}");
            }
            // The numbers are found again under the same words.
            assert_eq!(codec.decode(&codec.encode(&recipe).unwrap()), recipe);
        }
    }

    /// A mixture of experts was proposed the modules of a dense model.
    #[test]
    fn modules_are_those_that_the_tensors_have() {
        let found = |names: &[&str]| {
            let tensors: Vec<String> = names.iter().map(|name| format!("model.layers.0.{name}")).collect();
            modules_of(&tensors)
                .into_iter()
                .map(Module::name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            found(&["self_attn.q_proj.weight", "mlp.up_proj.weight"]),
            "attn mlp other"
        );
        assert_eq!(found(&[]), "attn mlp other");
        let mixtral = ["block_sparse_moe.gate.weight", "block_sparse_moe.experts.0.w1.weight"];
        assert_eq!(found(&mixtral), "attn router experts other");
        let glm = [
            "mlp.gate.weight",
            "mlp.experts.0.up_proj.weight",
            "mlp.shared_experts.up_proj.weight",
            "mlp.gate_proj.weight",
        ];
        assert_eq!(found(&glm), "attn router experts shared mlp other");
        // What hybrids have instead of attention shared its genes with the norms.
        let qwen = [
            "self_attn.q_proj.weight",
            "linear_attn.in_proj_qkv.weight",
            "mlp.up_proj.weight",
        ];
        assert_eq!(found(&qwen), "attn mixer mlp other");
        assert_eq!(
            found(&["conv.in_proj.weight", "feed_forward.w1.weight"]),
            "attn mixer mlp other"
        );
        let granite = ["mamba.in_proj.weight", "shared_mlp.input_linear.weight"];
        assert_eq!(found(&granite), "attn mixer mlp other");
        let granite = [
            "mamba.in_proj.weight",
            "shared_mlp.input_linear.weight",
            "block_sparse_moe.router.layer.weight",
            "block_sparse_moe.input_linear.weight",
        ];
        assert_eq!(found(&granite), "attn mixer router shared mlp other");
        let fused = ["mlp.router.weight", "mlp.experts.gate_up_proj"];
        assert_eq!(found(&fused), "attn router experts other");
        let gemma = ["mlp.up_proj.weight", "router.proj.weight", "experts.gate_up_proj"];
        assert_eq!(found(&gemma), "attn router experts mlp other");
    }

    /// The paper's setting: the language halves are bred, and what sees comes from one parent, whatever the genes are.
    #[test]
    fn what_sees_comes_from_the_base_or_from_whom_the_space_names() {
        let tensors = [
            "language_model.model.layers.0.mlp.up_proj.weight",
            "vision_tower.x.mlp.fc1.weight",
            "multi_modal_projector.a.weight",
        ];
        let tensors = tensors.map(String::from);
        let recipe = |more: &str| {
            let space = Space::parse(Path::new("s.yaml"), &format!("{SPACE}{more}")).unwrap();
            let codec = Codec::with_tensors(&space, SHAPE, &tensors).unwrap();
            let baselines = codec.baselines();
            // Linear needs a weight, and had none.
            let linear = baselines.iter().map(|(_, recipe)| recipe.result());
            let linear = linear.filter(|stage| stage.merge_method == Method::Linear);
            for source in linear
                .flat_map(|stage| stage.modules.values())
                .flat_map(|module| &module.models)
            {
                assert_eq!(source.parameters["weight"], ParamValue::Number(1.0));
            }
            codec.decode(&codec.encode(&baselines[0].1).unwrap())
        };
        let lender = |recipe: &Recipe, module: &str| recipe.result().modules[module].models[0].model.clone();
        let of_base = recipe("");
        assert_eq!(of_base.result().modules.len(), 2);
        assert_eq!(lender(&of_base, "vision_tower"), "base");
        assert_eq!(lender(&recipe("\nvision: maths\n"), "multi_modal_projector"), "maths");
        assert!(recipe("\nvision: merged\n").result().modules.is_empty());
        let text = write::to_yaml(&of_base);
        assert_eq!(read::parse(Path::new("r.yaml"), &text).unwrap(), of_base, "{text}");
        assert!(Space::parse(Path::new("s.yaml"), &format!("{SPACE}\nvision: nobody\n")).is_err());
    }

    /// Mixtral's experts were none of `attn` and `mlp`, and shared their genes with the norms.
    #[test]
    fn experts_and_their_router_are_modules() {
        let names = |body: &str, experts: &[&str]| -> Vec<String> {
            let of_layer = |layer: usize| {
                let inner = ["self_attn.q_proj", "input_layernorm"].map(String::from).into_iter();
                let inner = inner.chain(experts.iter().map(|name| format!("{body}.{name}")));
                inner
                    .map(move |name| format!("model.layers.{layer}.{name}.weight"))
                    .collect::<Vec<_>>()
            };
            (0..5).flat_map(of_layer).collect()
        };
        let space = |more: &str| {
            let modules = "modules: [other, mlp, attn, experts, router]";
            let text = SPACE.replace("modules: [attn, mlp, other]", &format!("{modules}{more}"));
            Space::parse(Path::new("s.yaml"), &text).unwrap()
        };
        let mixtral = names(
            "block_sparse_moe",
            &["gate", "experts.0.w1", "experts.1.w1", "experts.2.w1"],
        );
        let codec = Codec::with_tensors(&space(""), SHAPE, &mixtral).unwrap();
        let genes: Vec<&str> = codec.genes()[1..6].iter().map(|gene| gene.name.as_str()).collect();
        let parts = ["attn", "router", "experts", "mlp", "other"];
        assert_eq!(genes, parts.map(|part| format!("weight.maths.g0.{part}")));
        let genotype: Vec<f64> = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5].into_iter().chain([1.0; 18]).collect();
        let recipe = codec.decode(&genotype);
        assert_eq!(codec.encode(&recipe).unwrap(), genotype);
        let Body::Slices(slices) = &recipe.result().body else {
            panic!("slices")
        };
        let at = |tensor: &str| {
            let info = Method::Ties.info().parameter("weight").unwrap();
            evaluate(info, &[&slices[0].sources[0].parameters], Place { tensor, t: 0.0 }).unwrap()
        };
        assert_eq!(at("model.layers.0.block_sparse_moe.gate.weight"), Some(0.2));
        assert_eq!(at("model.layers.0.block_sparse_moe.experts.2.w1.weight"), Some(0.3));
        assert_eq!(at("model.layers.0.input_layernorm.weight"), Some(0.5));

        let groups = space("\n  expert_groups: 2");
        let codec = Codec::with_tensors(&groups, SHAPE, &mixtral).unwrap();
        let genes: Vec<&str> = codec.genes()[3..5].iter().map(|gene| gene.name.as_str()).collect();
        assert_eq!(genes, ["weight.maths.g0.experts0", "weight.maths.g0.experts1"]);
        let genotype: Vec<f64> = (0..28).map(|i| f64::from(i) / 100.0).collect();
        let genotype: Vec<f64> = [&[0.0], &genotype[1..]].concat();
        assert_eq!(codec.encode(&codec.decode(&genotype)).unwrap()[..24], genotype[..24]);

        let qwen = names(
            "mlp",
            &["gate", "gate_proj", "experts.gate_up_proj", "shared_expert.up_proj"],
        );
        let codec = Codec::with_tensors(&space(""), SHAPE, &qwen).unwrap();
        assert_eq!(codec.genes()[2].name, "weight.maths.g0.router");
        let refused = |space: &Space, tensors: &[String]| Codec::with_tensors(space, SHAPE, tensors).unwrap_err();
        assert!(matches!(refused(&groups, &qwen), Error::FusedExperts { .. }));
        assert!(matches!(
            refused(&space("\n  expert_groups: 4"), &mixtral),
            Error::TooManyExpertGroups { experts: 3, .. }
        ));
        assert!(matches!(
            refused(&space(""), &names("mlp", &["up_proj"])),
            Error::NoSuchModule { module: "router" }
        ));
        assert!(matches!(refused(&space(""), &[]), Error::NoTensorNames));
    }

    /// A hybrid's layers without attention shared their genes with its norms and embeddings.
    #[test]
    fn what_stands_in_attentions_place_is_a_module() {
        let text = SPACE.replace("modules: [attn, mlp, other]", "modules: [attn, mixer, mlp, other]");
        let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
        for mixer in ["linear_attn", "mamba", "conv"] {
            let of_layer = |layer: usize| {
                let kind = if layer == 3 { "self_attn.q_proj" } else { "in_proj" };
                let first = if layer == 3 {
                    kind.into()
                } else {
                    format!("{mixer}.{kind}")
                };
                [first, "mlp.up_proj".into(), "input_layernorm".into()]
                    .map(|name: String| format!("model.layers.{layer}.{name}.weight"))
            };
            let tensors: Vec<String> = (0..5).flat_map(of_layer).collect();
            let codec = Codec::with_tensors(&space, SHAPE, &tensors).unwrap();
            let names: Vec<&str> = codec.genes()[1..5].iter().map(|gene| gene.name.as_str()).collect();
            let parts = ["attn", "mixer", "mlp", "other"];
            assert_eq!(names, parts.map(|part| format!("weight.maths.g0.{part}")));
            let genotype: Vec<f64> = (0..codec.genes().len()).map(|i| 0.1 + 0.01 * i as f64).collect();
            let recipe = codec.decode(&codec.contract(&genotype));
            assert_eq!(codec.decode(&codec.encode(&recipe).unwrap()), recipe);
            let yaml = write::to_yaml(&recipe);
            assert!(yaml.contains(&format!("filter: {mixer}\n")), "{yaml}");
        }
        let dense = ["model.layers.0.self_attn.q_proj.weight".to_string()];
        assert!(matches!(
            Codec::with_tensors(&space, SHAPE, &dense).unwrap_err(),
            Error::NoSuchModule { module: "mixer" }
        ));
    }

    #[test]
    fn genes_that_the_method_does_not_use_are_dead() {
        let codec = codec(SPACE);
        let mut a = vec![1.0; codec.genes().len()];
        let live = codec.live(&a);
        assert!(live[0] && live[1] && !live[13] && !live[15]);
        let one = codec.decode(&a);
        assert_eq!(one.result().merge_method, Method::Linear);
        a[13] = 0.3;
        a[15] = 0.6;
        assert_eq!(codec.decode(&a).digest(), one.digest());
    }

    #[test]
    fn a_soup_leaves_experts_out() {
        let text = SPACE.replace("[ties, linear]", "ties");
        let soup = codec(&text).soup(&["spanish"]).unwrap();
        assert_eq!(soup[..12], [[0.0; 6], [1.0; 6]].concat());
        assert_eq!(soup[12..], [1.0; 3]);
        for without in [
            "weight: [0.1, 1.5]",
            "weight: 1.0",
            "weight: {range: [0, 2], per: group}",
        ] {
            let text = text.replace("weight: [0.0, 1.5]", without);
            assert_eq!(codec(&text).soup(&["spanish"]), None, "{without}");
        }
    }

    #[test]
    fn every_tensor_can_have_a_gene_of_its_own() {
        let text = "name: t\nmodels: {base: b, maths: m, spanish: s}\nbase: base\nparameter_space:\n  method: task_arithmetic\n\
                    \u{20}\u{20}genes: {weight: {range: [0, 2], per: [model, tensor]}}\nfitness: {tasks: [gsm8k]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tensors: Vec<String> = [
            "model.embed_tokens.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.11.mlp.up_proj.weight",
        ]
        .map(String::from)
        .into();
        assert_eq!(attention_word(&tensors), "self_attn");
        for (name, word) in [
            ("transformer.h.0.attn.c_attn.weight", "attn"),
            ("gpt_neox.layers.0.attention.dense.weight", "attention"),
        ] {
            assert_eq!(attention_word(&[name.to_string()]), word);
        }
        let codec = Codec::with_tensors(&space, Shape { layers: 12, ..SHAPE }, &tensors).unwrap();
        let names: Vec<&str> = codec.genes().iter().map(|g| g.name.as_str()).collect();
        assert_eq!(names[1], "weight.maths.layers.1.mlp.up_proj");
        assert_eq!(names[3], "weight.spanish.embed_tokens");
        let genotype = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        let recipe = codec.decode(&genotype);
        assert_eq!(codec.encode(&recipe).unwrap(), genotype);
        let Body::Models(models) = &recipe.result().body else {
            panic!("models side by side")
        };
        let at = |tensor: &str| {
            let info = Method::TaskArithmetic.info().parameter("weight").unwrap();
            evaluate(info, &[&models[0].parameters], Place { tensor, t: 0.0 }).unwrap()
        };
        // Layer 11's name does not contain layer 1's.
        assert_eq!(at("model.layers.11.mlp.up_proj.weight"), Some(0.3));
        // The plain sum has no such filters and is a point of the space all the same.
        let (_, sum) = codec
            .baselines()
            .into_iter()
            .find(|(name, _)| name == "task_arithmetic")
            .unwrap();
        assert_eq!(codec.encode(&sum).unwrap().len(), 6);
        assert!(matches!(Codec::new(&space, SHAPE), Err(Error::NoTensorNames)));
        let both = text.replace("[model, tensor]", "[tensor, group]");
        let message = Space::parse(Path::new("s.yaml"), &both).unwrap_err().to_string();
        assert!(message.contains("one group and one module already"), "{message}");
    }

    #[test]
    fn groups_cover_all_layers() {
        assert_eq!(groups(&LayerGroups::Count(2), 5).unwrap(), [[0, 2], [2, 5]]);
        assert!(groups(&LayerGroups::Count(6), 5).is_err());
        let ranges = |r: &[[usize; 2]]| groups(&LayerGroups::Ranges(r.to_vec()), 5);
        assert!(ranges(&[[0, 2], [2, 5]]).is_ok());
        assert!(ranges(&[[0, 2], [3, 5]]).is_err());
        assert!(ranges(&[[0, 4]]).is_err());
        assert!(ranges(&[[0, 9]]).is_err());
    }
}
