//! One stage of a recipe, laid out: every tensor of its result, what it is made of, and by which operation.
//!
//! mergekit's rules: tensors before the layers take their models and parameters from the first slice, tensors after them
//! from the last; a gradient's t runs from 0 to 1 within each slice (1 in a slice of one layer) and is 0 outside of the
//! layers, at the head too. A tied head is the embeddings of its model where another model has a head of its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Error, OutputTensor, TensorSource, Vocabulary,
    anatomy::{self, Anatomy, Part},
    child::{self, Changes, ChildTokenizer},
    layer_swap::Zones,
    measured,
    operation::{Operation, Site, SourceSite},
    regmean::Grams,
    vocabulary::{self, Alignment, Side},
};
use crate::recipe::{BaseRule, Body, DType, MODULES, Method, MethodInfo, ParamValue, Parameters, Stage, module_of};

/// How one output tensor is made.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub operation: Operation,
    pub inputs: Vec<InputTensor>,
    /// How many of the inputs, the last ones, are Gram matrices of the others.
    pub grams: usize,
    /// Index of the base among the inputs, if the method works on task vectors.
    pub base: Option<usize>,
    pub alignment: Option<Arc<Alignment>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputTensor {
    pub model: String,
    pub tensor: String,
}

/// The layout of a stage.
pub(crate) struct Layout {
    pub outputs: Vec<OutputTensor>,
    pub jobs: Vec<Job>,
    pub config: Value,
    pub tokenizer: ChildTokenizer,
    /// The child's vocabulary, if the recipe builds one.
    pub vocabulary: Option<Arc<Vocabulary>>,
    pub warnings: Vec<String>,
}

pub(crate) fn lay_out(stage: &Stage, source: &dyn TensorSource) -> Result<Layout, Error> {
    let builder = Builder::new(stage, source)?;
    builder.build()
}

/// An alignment that was made before: the models with their rows, how they are brought into order, the child's rows.
type Known<'a> = (Vec<(&'a str, usize)>, Option<Arc<Alignment>>, usize);

/// Sources of consecutive layers.
struct Slice<'a> {
    sources: Vec<SliceSource<'a>>,
    base: Option<usize>,
    scopes: Vec<&'a Parameters>,
    layers: usize,
    /// How many of the sources, the last ones, are what was measured of models, and no models.
    measured: usize,
    /// Of a module that one model lends as it is.
    copied: bool,
}

impl<'a> Slice<'a> {
    fn models(&self) -> &[SliceSource<'a>] {
        &self.sources[..self.sources.len() - self.measured]
    }

    /// Puts what was measured of the models after them, layer by layer as they are, where the method reads it.
    fn add_measured(&mut self, method: &MethodInfo) -> Result<(), Error> {
        let key = match method.method {
            Method::Fisher => "fisher",
            Method::Regmean => "grams",
            _ => return Ok(()),
        };
        for k in 0..self.sources.len() {
            let (model, start) = (self.sources[k].model, self.sources[k].start);
            let message = || {
                let name = method.name;
                format!("'{name}' reads what was measured of '{model}'; name it with '{key}: DIR'")
            };
            let measured = self.sources[k]
                .measured
                .ok_or_else(|| Error::Models { message: message() })?;
            self.sources.push(SliceSource {
                model: measured,
                start,
                measured: None,
                parameters: None,
            });
        }
        self.measured = self.sources.len() / 2;
        Ok(())
    }
}

struct SliceSource<'a> {
    model: &'a str,
    start: usize,
    measured: Option<&'a str>,
    parameters: Option<&'a Parameters>,
}

struct Builder<'a> {
    stage: &'a Stage,
    method: &'static MethodInfo,
    source: &'a dyn TensorSource,
    anatomies: HashMap<&'a str, Anatomy>,
    /// Of directories of Gram matrices, which is whose.
    grams: HashMap<&'a str, Grams>,
    /// Those of the layers; then those of the modules beside the language model, without layers.
    slices: Vec<Slice<'a>>,
    /// How many slices have layers.
    stacked: usize,
    child: Option<Arc<Vocabulary>>,
    added: Vec<(String, u32)>,
    warnings: Vec<String>,
    outputs: Vec<OutputTensor>,
    jobs: Vec<Job>,
    alignments: Vec<Known<'a>>,
}

impl<'a> Builder<'a> {
    fn new(stage: &'a Stage, source: &'a dyn TensorSource) -> Result<Self, Error> {
        let (mut anatomies, mut warnings) = (HashMap::new(), Vec::new());
        for model in stage.models() {
            let names = source.tensor_names(model);
            if names.is_empty() {
                return Err(Error::NoTensors { model: model.into() });
            }
            let mut anatomy = Anatomy::new(names).map_err(|gap| Error::LayerGap {
                model: model.into(),
                layer: gap.layer,
                tensor: gap.tensor,
            })?;
            let counted = source.config(model).and_then(child::layer_count);
            if let Some((layers, tensors)) = counted.and_then(|counted| anatomy.leave_out_beyond(counted)) {
                warnings.push(format!(
                    "'{model}' has {tensors} tensors in layers beyond the {layers} that its config.json counts (heads that \
                     predict several tokens are stored so); the child has none of them"
                ));
            }
            anatomies.insert(model, anatomy);
        }
        let method = stage.merge_method.info();
        let mut slices = slices(stage, method, &anatomies)?;
        let stacked = slices.len();
        if !stage.modules.is_empty() {
            for name in MODULES {
                slices.push(module(stage, name, method)?);
            }
        }
        if matches!(stage.body, Body::Slices(_)) {
            refuse_two_stacks(&anatomies, source)?;
        }
        measured::check(stage, source)?;
        Ok(Builder {
            stage,
            method,
            source,
            anatomies,
            grams: grams(stage, source)?,
            slices,
            stacked,
            child: None,
            added: Vec::new(),
            warnings,
            outputs: Vec::new(),
            jobs: Vec::new(),
            alignments: Vec::new(),
        })
    }

    fn build(mut self) -> Result<Layout, Error> {
        self.choose_vocabulary()?;
        let swap = self.zones()?;
        self.outer(0, &[Part::Embeddings], swap)?;
        let mut child_layer = 0;
        for slice in 0..self.stacked {
            for layer in 0..self.slices[slice].layers {
                self.layer(slice, layer, child_layer, swap)?;
                child_layer += 1;
            }
        }
        self.outer(self.stacked - 1, &[Part::Layer(0), Part::Norm, Part::Head], swap)?;
        for module in self.stacked..self.slices.len() {
            self.outer(
                module,
                &[Part::Embeddings, Part::Layer(0), Part::Norm, Part::Head],
                None,
            )?;
        }
        self.warn_of_idle_filters();
        let config = self.config()?;
        Ok(Layout {
            config,
            tokenizer: ChildTokenizer {
                donor: self.tokenizer_donor().to_string(),
                added: self.added,
                chat_template: self.stage.chat_template.clone(),
                models: self.stage.models().into_iter().map(String::from).collect(),
            },
            vocabulary: self.child,
            outputs: self.outputs,
            jobs: self.jobs,
            warnings: self.warnings,
        })
    }

    // ---- layers and what is around them ----

    /// One layer of the child.
    fn layer(&mut self, slice: usize, layer: usize, child_layer: usize, swap: Option<Zones>) -> Result<(), Error> {
        let s = &self.slices[slice];
        let t = if s.layers > 1 {
            layer as f64 / (s.layers - 1) as f64
        } else {
            1.0
        };
        let first = &self.anatomies[s.sources[0].model];
        let prefix = first.prefix.clone();
        let mut suffixes = BTreeSet::new();
        for source in s.models() {
            let anatomy = &self.anatomies[source.model];
            let inside = |suffix: &&String| anatomy.has(&anatomy.in_layer(source.start + layer, suffix));
            suffixes.extend(anatomy.suffixes.iter().filter(inside).cloned());
        }
        let share = swap.map(|zones| zones.inner_share(child_layer, s.layers));
        for suffix in suffixes {
            let s = &self.slices[slice];
            let inputs = s
                .sources
                .iter()
                .map(|source| {
                    let anatomy = &self.anatomies[source.model];
                    let suffix = match self.grams.get(source.model) {
                        Some(grams) => grams.of.get(&suffix)?,
                        None => &suffix,
                    };
                    Some(anatomy.in_layer(source.start + layer, suffix)).filter(|name| anatomy.has(name))
                })
                .collect();
            let turned = s.sources.iter().filter_map(|source| self.grams.get(source.model));
            let turned = turned.into_iter().any(|grams| grams.turned.contains(&suffix));
            self.tensor(Request {
                name: format!("{prefix}{child_layer}{suffix}"),
                part: Part::Layer(child_layer),
                slice,
                inputs,
                turned,
                t,
                share,
            })?;
        }
        Ok(())
    }

    /// Which slice merges a tensor outside of the layers, if it is a module's.
    fn module_of(&self, name: &str) -> Option<usize> {
        let module = module_of(name).filter(|_| self.stacked < self.slices.len())?;
        let place = MODULES.iter().position(|name| *name == module)?;
        Some(self.stacked + place)
    }

    /// The tensors outside of the stack of layers that stand in `parts`, by the models of one slice.
    fn outer(&mut self, slice: usize, parts: &[Part], swap: Option<Zones>) -> Result<(), Error> {
        let mut names: BTreeSet<(Part, String)> = BTreeSet::new();
        let mut stacks: BTreeMap<String, usize> = BTreeMap::new();
        for source in self.slices[slice].models() {
            for name in &self.anatomies[source.model].outer {
                let part = match anatomy::layer_name(name) {
                    Some(n) => {
                        let layers = stacks.entry(n.prefix.to_string()).or_default();
                        *layers = (*layers).max(n.layer + 1);
                        Part::Layer(0)
                    }
                    None => anatomy::outer_part(name),
                };
                let module = self.module_of(name);
                if parts.contains(&part)
                    && module.unwrap_or(slice) == slice
                    && (slice < self.stacked || module.is_some())
                {
                    names.insert((part, name.clone()));
                }
            }
        }
        if parts.contains(&Part::Head) && swap.is_some() {
            self.untie_swapped_head(slice, &mut names)?;
        }
        for (part, name) in names {
            // Layers of another stack, such as a vision tower, have a depth of their own.
            let t = match anatomy::layer_name(&name) {
                Some(n) if stacks[n.prefix] > 1 => n.layer as f64 / (stacks[n.prefix] - 1) as f64,
                Some(_) => 1.0,
                None => 0.0,
            };
            let share = match swap {
                Some(_) => Some(self.swap_share(part)?),
                None => None,
            };
            let sources = &self.slices[slice].sources;
            let inputs = sources.iter().map(|s| self.input_outside(s.model, &name)).collect();
            self.tensor(Request {
                name,
                part,
                slice,
                inputs,
                turned: false,
                t,
                share,
            })?;
        }
        Ok(())
    }

    /// A tensor outside of the layers as a model has it; a model with a tied head lends its embeddings.
    fn input_outside(&self, model: &str, name: &str) -> Option<String> {
        let anatomy = &self.anatomies[model];
        if anatomy.has(name) {
            return Some(name.to_string());
        }
        let tied = name.ends_with("lm_head.weight").then(|| anatomy.embeddings());
        tied.flatten().map(String::from)
    }

    /// One tensor of the child.
    fn tensor(&mut self, request: Request) -> Result<(), Error> {
        let chosen = self.chosen(&request);
        let slice = &self.slices[request.slice];
        let present = chosen.iter().find(|k| request.inputs[**k].is_some());
        let mut inputs = Vec::new();
        for k in &chosen {
            let model = slice.sources[*k].model.to_string();
            match &request.inputs[*k] {
                Some(tensor) => inputs.push(InputTensor {
                    model,
                    tensor: tensor.clone(),
                }),
                None => {
                    let any = request.inputs.iter().position(Option::is_some);
                    let other = present.copied().or(any).unwrap_or_default();
                    return Err(Error::Missing {
                        tensor: request.name,
                        model,
                        other: slice.sources[other].model.into(),
                    });
                }
            }
        }
        let slice = &self.slices[request.slice];
        let grams = match self.method.method {
            Method::Regmean => inputs.len().saturating_sub(slice.models().len()),
            _ => 0,
        };
        let (models, of_models) = inputs.split_at(inputs.len() - grams);
        let (shape, alignment) = self.shape(&request, models)?;
        self.check_grams(&request, (models, &shape), of_models)?;
        let slice = &self.slices[request.slice];
        let base = slice.base.filter(|_| chosen.len() == slice.sources.len());
        let operation = match request.share {
            Some(share) => swap_operation(share),
            None if slice.copied => Operation::COPY,
            None => self.operation(&request, &inputs, &shape, grams > 0)?,
        };
        operation.check().map_err(|refusal| Error::Refused {
            tensor: request.name.clone(),
            method: self.method.name,
            refusal,
        })?;
        let takes_vectors = self.method.base != BaseRule::Ignored && self.method.method != Method::Slerp;
        let dtype = self.dtype(&inputs[..inputs.len().min(slice.models().len())]);
        self.outputs.push(OutputTensor {
            name: request.name,
            shape,
            dtype,
            layer: match request.part {
                Part::Layer(layer) => Some(layer),
                _ => None,
            },
        });
        self.jobs.push(Job {
            operation,
            inputs,
            grams,
            base: base.filter(|_| takes_vectors),
            alignment,
        });
        Ok(())
    }

    /// Indices of the sources that take part: all, but for layers that are swapped, and Gram matrices where there are none.
    fn chosen(&self, request: &Request) -> Vec<usize> {
        let slice = &self.slices[request.slice];
        let (models, all) = (slice.models().len(), slice.sources.len());
        let averages = self.method.method == Method::Regmean && request.inputs[models..].iter().all(Option::is_none);
        match request.share {
            Some(share) if share >= 1.0 => vec![0],
            Some(share) if share <= 0.0 => vec![1],
            _ if averages => (0..models).collect(),
            _ => (0..all).collect(),
        }
    }

    /// Gram matrices of another model would be read as if they were this one's.
    fn check_grams(
        &self,
        request: &Request,
        (models, shape): (&[InputTensor], &[usize]),
        grams: &[InputTensor],
    ) -> Result<(), Error> {
        for (model, gram) in models.iter().zip(grams) {
            let found = self.source.shape(&gram.model, &gram.tensor).unwrap_or_default();
            let mut expected = shape.to_vec();
            if let [.., rows, columns] = &mut expected[..] {
                let inputs = if request.turned { *rows } else { *columns };
                (*rows, *columns) = (inputs, inputs);
            }
            if found != expected || expected.len() < 2 {
                return Err(Error::GramShape {
                    gram: gram.tensor.clone(),
                    model: gram.model.clone(),
                    shape: found.into(),
                    tensor: model.tensor.clone(),
                    expected: expected.into(),
                });
            }
        }
        Ok(())
    }

    fn operation(
        &self,
        request: &Request,
        inputs: &[InputTensor],
        shape: &[usize],
        has_grams: bool,
    ) -> Result<Operation, Error> {
        let slice = &self.slices[request.slice];
        let sources = slice.models().iter().zip(inputs).map(|(s, input)| SourceSite {
            model: s.model,
            tensor: &input.tensor,
            scopes: s.parameters.into_iter().chain(slice.scopes.iter().copied()).collect(),
        });
        let site = Site {
            method: self.method,
            shared: slice.scopes.clone(),
            sources: sources.collect(),
            base: slice.base,
            tensor: &request.name,
            t: request.t,
            matrix: shape.len() == 2 && matches!(request.part, Part::Layer(_)),
            seed: self.stage.seed.unwrap_or(0),
            gram: has_grams.then_some(request.turned),
        };
        site.operation(&|model| self.source.model_digest(model))
    }

    /// `dtype`s of the recipe, else the inputs' own, the wider one where they differ.
    fn dtype(&self, inputs: &[InputTensor]) -> DType {
        let widest = || {
            let own = |i: &InputTensor| self.source.dtype(&i.model, &i.tensor).unwrap_or(DType::F32);
            let first = inputs.first().map_or(DType::F32, own);
            if inputs.iter().all(|i| own(i) == first) {
                first
            } else {
                DType::F32
            }
        };
        self.stage.out_dtype.or(self.stage.dtype).unwrap_or_else(widest)
    }

    // ---- shapes and vocabularies ----

    fn shape(
        &mut self,
        request: &Request,
        inputs: &[InputTensor],
    ) -> Result<(Vec<usize>, Option<Arc<Alignment>>), Error> {
        let shapes: Vec<Vec<usize>> = inputs
            .iter()
            .map(|i| self.source.shape(&i.model, &i.tensor).unwrap_or_default())
            .collect();
        let tokens = anatomy::counts_tokens(&request.name);
        let aligned = tokens && self.child.is_some();
        let comparable = |shape: &[usize]| shape[usize::from(aligned && !shape.is_empty())..].to_vec();
        let odd = shapes
            .iter()
            .position(|s| s.len() != shapes[0].len() || comparable(s) != comparable(&shapes[0]));
        if let Some(k) = odd {
            let rows_only = tokens && shapes[k].len() == shapes[0].len() && shapes[k][1..] == shapes[0][1..];
            return Err(Error::Shape {
                tensor: request.name.clone(),
                model: inputs[0].model.clone(),
                shape: shapes[0].clone().into(),
                other: inputs[k].model.clone(),
                other_shape: shapes[k].clone().into(),
                rows_only,
            });
        }
        let mut shape = shapes[0].clone();
        if !aligned {
            return Ok((shape, None));
        }
        let (alignment, rows) = self.alignment(request, &shapes)?;
        shape[0] = rows;
        Ok((shape, alignment))
    }

    /// How the rows of these models are brought into the child's order (`None` if they are in it), and their number.
    fn alignment(
        &mut self,
        request: &Request,
        shapes: &[Vec<usize>],
    ) -> Result<(Option<Arc<Alignment>>, usize), Error> {
        let chosen = self.chosen(request);
        let slice = &self.slices[request.slice];
        let key: Vec<(&'a str, usize)> = chosen
            .iter()
            .zip(shapes)
            .map(|(k, s)| (slice.sources[*k].model, s[0]))
            .collect();
        if let Some((_, alignment, rows)) = self.alignments.iter().find(|(k, ..)| *k == key) {
            return Ok((alignment.clone(), *rows));
        }
        let Some(child) = self.child.clone() else {
            return Ok((None, shapes[0][0]));
        };
        let donor = self.source.vocab(self.stage.donor());
        let mut vocabularies = Vec::new();
        for (model, _) in &key {
            let own = self.source.vocab(model);
            if own.is_none() {
                let message = format!(
                    "'{model}' has no tokenizer; its rows are taken to be in the order of '{}'",
                    self.stage.donor()
                );
                if !self.warnings.contains(&message) {
                    self.warnings.push(message);
                }
            }
            let known = own.or_else(|| donor.clone());
            vocabularies.push(known.ok_or_else(|| Error::NoTokenizer {
                model: model.to_string(),
            })?);
        }
        let sides: Vec<Side<'_>> = key
            .iter()
            .zip(&vocabularies)
            .map(|((model, rows), vocabulary)| Side {
                model,
                vocabulary,
                rows: *rows,
            })
            .collect();
        let base = slice.base.and_then(|b| chosen.iter().position(|k| *k == b));
        let settings = self.stage.tokenizer.as_ref();
        let rules = settings.map(|t| t.tokens.clone()).unwrap_or_default();
        let pad = settings.and_then(|t| t.pad_to_multiple_of);
        let alignment = Alignment::new(&child, pad, &sides, base, &rules)?;
        let rows = alignment.rows;
        self.warn_of_lost_padding(&sides, rows);
        let alignment = (!alignment.is_identity(&sides)).then(|| Arc::new(alignment));
        self.alignments.push((key, alignment.clone(), rows));
        Ok((alignment, rows))
    }

    /// Some models have more rows than tokens, for the sake of a round number; an aligned child has one for each token.
    fn warn_of_lost_padding(&mut self, sides: &[Side<'_>], rows: usize) {
        let Some(side) = sides.iter().find(|side| side.model == self.tokenizer_donor()) else {
            return;
        };
        let tokens = side.vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        if tokens < side.rows && rows < side.rows {
            let message = format!(
                "'{}' has {} rows of embeddings for {tokens} tokens, the child {rows}: rows without a token are left out \
                 (`tokenizer: {{source: …, pad_to_multiple_of: N}}` adds some)",
                side.model, side.rows
            );
            if !self.warnings.contains(&message) {
                self.warnings.push(message);
            }
        }
    }

    fn tokenizer_source(&self) -> Option<&'a str> {
        let long = self.stage.tokenizer.as_ref().map(|t| t.source.as_str());
        self.stage.tokenizer_source.as_deref().or(long)
    }

    fn tokenizer_donor(&self) -> &'a str {
        match self.tokenizer_source() {
            None | Some("base" | "union") => self.stage.donor(),
            Some(model) => model,
        }
    }

    /// The vocabulary of the child, if the recipe wants one built.
    fn choose_vocabulary(&mut self) -> Result<(), Error> {
        let Some(word) = self.tokenizer_source() else {
            return Ok(());
        };
        let donor = self.tokenizer_donor();
        let no_tokenizer = || Error::NoTokenizer { model: donor.into() };
        let own = self.source.vocab(donor).ok_or_else(no_tokenizer)?;
        let (mut vocabulary, mut added) = (own.as_ref().clone(), Vec::new());
        if matches!(word, "base" | "union") {
            // Tokens beyond the embeddings have no row to begin with.
            let anatomy = &self.anatomies[donor];
            let rows = anatomy
                .embeddings()
                .and_then(|name| self.source.shape(donor, name)?.first().copied());
            vocabulary.retain(|_, id| rows.is_none_or(|rows| (*id as usize) < rows));
        }
        if word == "union" {
            let others = self.stage.models().into_iter().filter(|m| *m != donor);
            let others: Vec<Arc<Vocabulary>> = others.filter_map(|m| self.source.vocab(m)).collect();
            let others: Vec<&Vocabulary> = others.iter().map(Arc::as_ref).collect();
            (vocabulary, added) = vocabulary::union(&vocabulary, &others);
        }
        let settings = self.stage.tokenizer.as_ref();
        for token in settings.iter().flat_map(|t| t.tokens.keys()) {
            if !vocabulary.contains_key(token) {
                let id = vocabulary.values().map(|id| id + 1).max().unwrap_or(0);
                vocabulary.insert(token.clone(), id);
                added.push(token.clone());
            }
        }
        self.added = added.into_iter().map(|t| (t.clone(), vocabulary[&t])).collect();
        self.child = Some(Arc::new(vocabulary));
        Ok(())
    }

    // ---- layer_swap ----

    fn swap_parameter(&self, name: &str) -> Result<Option<f64>, Error> {
        let site = Site {
            method: self.method,
            shared: self.slices[0].scopes.clone(),
            sources: Vec::new(),
            base: None,
            tensor: "",
            t: 0.0,
            matrix: false,
            seed: 0,
            gram: None,
        };
        site.given(name)
    }

    fn zones(&self) -> Result<Option<Zones>, Error> {
        if self.method.method != Method::LayerSwap {
            return Ok(None);
        }
        let layers = |name| Ok::<_, Error>(self.swap_parameter(name)?.map(|n| n as usize));
        Zones::new(
            self.slices[0].layers,
            layers("bottom")?.unwrap_or(0),
            layers("top")?.unwrap_or(0),
            [layers("transition_bottom")?, layers("transition_top")?],
        )
        .map(Some)
    }

    /// The inner model's share of a tensor outside of the layers.
    fn swap_share(&self, part: Part) -> Result<f64, Error> {
        let name = match part {
            Part::Embeddings => "embeddings",
            Part::Head => "head",
            Part::Norm | Part::Layer(_) => "norm",
        };
        // In the order of the words inner, outer, blend.
        Ok([1.0, 0.0, 0.5][self.swap_parameter(name)?.unwrap_or(1.0) as usize])
    }

    /// Where both heads are tied but head and embeddings come from different models, the child needs a head of its own.
    fn untie_swapped_head(&self, slice: usize, names: &mut BTreeSet<(Part, String)>) -> Result<(), Error> {
        let has_head = names.iter().any(|(part, _)| *part == Part::Head);
        let differ = self.swap_share(Part::Embeddings)? != self.swap_share(Part::Head)?;
        let tied = |s: &SliceSource<'_>| self.anatomies[s.model].embeddings().is_some();
        if !has_head && differ && self.slices[slice].sources.iter().all(tied) {
            names.insert((Part::Head, "lm_head.weight".into()));
        }
        Ok(())
    }

    // ---- the child's config, warnings ----

    fn config(&self) -> Result<Value, Error> {
        let donor = self.stage.donor();
        let config = self
            .source
            .config(donor)
            .ok_or_else(|| Error::NoConfig { model: donor.into() })?;
        let layers = self.slices.iter().flat_map(|slice| {
            let source = &slice.sources[slice.base.unwrap_or(0)];
            let config = self.source.config(source.model);
            (0..slice.layers).map(move |layer| (config, source.start + layer))
        });
        let all_one = |first: DType| self.outputs.iter().all(|o| o.dtype == first).then_some(first);
        let written = self.outputs.first().and_then(|o| all_one(o.dtype));
        let per_layer = self.outputs.iter().find(|o| anatomy::is_per_layer(&o.name));
        let changes = Changes {
            layers: layers.collect(),
            dtype: self.stage.out_dtype.or(self.stage.dtype).or(written),
            vocab_size: child::embedding_rows(&self.outputs),
            vocab_size_per_layer: per_layer.and_then(|o| o.shape.first().copied()),
            tied: self.tied(),
        };
        let child = child::config(config, &changes);
        let moved = changes.moved(config);
        match moved.and_then(|of| child::fixed_layers(of).or(child::misread(&child))) {
            Some(why) => Err(Error::FixedLayers {
                model: donor.into(),
                why,
            }),
            None => Ok(child),
        }
    }

    /// What `tie_word_embeddings` has to be, where it has to change. A head of the child's own is the head, whatever the
    /// donor's config says: transformers takes it where it differs, other loaders go by the config.
    fn tied(&self) -> Option<bool> {
        let donor = self.stage.donor();
        let config = self.source.config(donor);
        let says = config.and_then(|c| c.get("tie_word_embeddings")?.as_bool());
        // An encoder-decoder ties more than its head by this flag.
        if config.and_then(|c| c.get("is_encoder_decoder")?.as_bool()) == Some(true) {
            return None;
        }
        // Where a config leaves it out, it goes by the family, and in most of them means yes.
        let is_inner = config.is_some_and(|c| c.get("text_config").is_some());
        match self.outputs.iter().any(|o| anatomy::is_head(&o.name)) {
            // An outer config that leaves it out means yes in some families.
            true => (says != Some(false) && (says.is_some() || !is_inner || self.is_wrapper(donor))).then_some(false),
            false => {
                let donor_has_head = self.anatomies[donor].outer.iter().any(|n| anatomy::is_head(n));
                (donor_has_head && says != Some(true)).then_some(true)
            }
        }
    }

    /// Whether a model has a language model beside other senses.
    fn is_wrapper(&self, model: &str) -> bool {
        self.anatomies[model].outer.iter().any(|name| module_of(name).is_some())
    }

    fn warn_of_idle_filters(&mut self) {
        let mut words: BTreeSet<&str> = BTreeSet::new();
        let mut collect = |parameters: &'a Parameters| {
            for value in parameters.values() {
                if let ParamValue::Filtered(entries) = value {
                    words.extend(entries.iter().filter_map(|e| e.filter.as_deref()));
                }
            }
        };
        for slice in &self.slices {
            slice.scopes.iter().for_each(|p| collect(p));
            slice.sources.iter().filter_map(|s| s.parameters).for_each(&mut collect);
        }
        for word in words.into_iter().filter(|w| *w != "*") {
            let hit = |name: &str| name.contains(word);
            let idle = !self.outputs.iter().any(|o| hit(&o.name))
                && !self.jobs.iter().flat_map(|j| &j.inputs).any(|i| hit(&i.tensor));
            if idle {
                self.warnings.push(format!("the filter '{word}' matches no tensor"));
            }
        }
    }
}

/// One tensor of the child, before it is known what goes into it.
struct Request {
    name: String,
    part: Part,
    slice: usize,
    /// For each source, its tensor, if it has one.
    inputs: Vec<Option<String>>,
    /// Whether it is a weight that stands as `[inputs, outputs]`, as far as Gram matrices say so.
    turned: bool,
    t: f64,
    /// `layer_swap`: the inner model's share.
    share: Option<f64>,
}

fn swap_operation(share: f64) -> Operation {
    if share <= 0.0 || share >= 1.0 {
        Operation::COPY
    } else {
        Operation::Linear {
            weights: vec![share as f32, (1.0 - share) as f32],
            normalize: false,
        }
    }
}

/// What the directories of Gram matrices that a stage names say of themselves.
fn grams<'a>(stage: &'a Stage, source: &dyn TensorSource) -> Result<HashMap<&'a str, Grams>, Error> {
    let named = stage.sources().filter_map(|source| source.grams.as_deref());
    named
        .map(|model| {
            let grams = source.config(model).and_then(Grams::of_config);
            Ok((model, grams.ok_or_else(|| Error::NoGrams { model: model.into() })?))
        })
        .collect()
}

/// Slices say which layers follow each other in one stack; an encoder-decoder has two, with a depth each in its config.
fn refuse_two_stacks(anatomies: &HashMap<&str, Anatomy>, source: &dyn TensorSource) -> Result<(), Error> {
    let says_so = |model: &str| {
        let config = source.config(model);
        config.and_then(|c| c.get("is_encoder_decoder")?.as_bool()) == Some(true)
    };
    let mut models = anatomies.iter();
    match models.find(|(model, anatomy)| says_so(model) || anatomy.encodes_and_decodes()) {
        Some((model, _)) => Err(Error::EncoderDecoder {
            model: (*model).to_string(),
        }),
        None => Ok(()),
    }
}

/// The stage's body as slices, checked against the models' depths.
fn slices<'a>(
    stage: &'a Stage,
    method: &MethodInfo,
    anatomies: &HashMap<&'a str, Anatomy>,
) -> Result<Vec<Slice<'a>>, Error> {
    let mut slices = match &stage.body {
        Body::Models(models) => vec![side_by_side(stage, models, method, anatomies)?],
        Body::Slices(slices) => slices
            .iter()
            .map(|slice| stacked(stage, slice, anatomies))
            .collect::<Result<_, _>>()?,
    };
    if slices.is_empty() {
        return Err(Error::Models {
            message: "the recipe has no slices".into(),
        });
    }
    for slice in &mut slices {
        let models: Vec<&str> = slice.sources.iter().map(|s| s.model).collect();
        let base = slice.base.map(|k| models[k]).or(stage.base_model.as_deref());
        let checked = method.check_inputs(&models, base);
        checked.map_err(|message| Error::Models { message })?;
        slice.add_measured(method)?;
    }
    Ok(slices)
}

fn side_by_side<'a>(
    stage: &'a Stage,
    models: &'a [crate::recipe::Source],
    method: &MethodInfo,
    anatomies: &HashMap<&'a str, Anatomy>,
) -> Result<Slice<'a>, Error> {
    let mut sources: Vec<SliceSource<'a>> = models
        .iter()
        .map(|m| SliceSource {
            model: &m.model,
            start: 0,
            measured: m.measured(),
            parameters: Some(&m.parameters),
        })
        .collect();
    let base = stage.base_model.as_deref();
    if let Some(base) = base
        && method.adds_base()
        && sources.iter().all(|s| s.model != base)
    {
        sources.push(SliceSource {
            model: base,
            start: 0,
            measured: None,
            parameters: None,
        });
    }
    let Some(first) = sources.first() else {
        return Err(Error::Models {
            message: "the recipe has no models".into(),
        });
    };
    let layers = anatomies[first.model].layers;
    for source in &sources {
        if anatomies[source.model].layers != layers {
            return Err(Error::Depth {
                model: first.model.into(),
                layers,
                other: source.model.into(),
                other_layers: anatomies[source.model].layers,
            });
        }
    }
    Ok(Slice {
        base: base.and_then(|b| sources.iter().position(|s| s.model == b)),
        sources,
        scopes: vec![&stage.parameters],
        layers,
        measured: 0,
        copied: false,
    })
}

/// A module beside the language model: by the models that the recipe names for it, or as the donor has it.
fn module<'a>(stage: &'a Stage, name: &str, method: &MethodInfo) -> Result<Slice<'a>, Error> {
    let source = |model: &'a str, measured: Option<&'a str>, parameters| SliceSource {
        model,
        start: 0,
        measured,
        parameters,
    };
    let Some(module) = stage.modules.get(name) else {
        return Ok(Slice {
            sources: vec![source(stage.donor(), None, None)],
            base: None,
            scopes: Vec::new(),
            layers: 0,
            measured: 0,
            copied: true,
        });
    };
    let named = module
        .models
        .iter()
        .map(|m| source(&m.model, m.measured(), Some(&m.parameters)));
    let mut sources: Vec<SliceSource<'a>> = named.collect();
    let base = stage.base_model.as_deref();
    if let Some(base) = base.filter(|base| method.adds_base() && sources.iter().all(|s| s.model != *base)) {
        sources.push(source(base, None, None));
    }
    let models: Vec<&str> = sources.iter().map(|s| s.model).collect();
    let checked = method.check_inputs(&models, base);
    let lends = |source: &crate::recipe::Source| {
        let is_one = source.parameters.len() == 1 && source.parameters.get("weight") == Some(&ParamValue::Number(1.0));
        let sums = method.is_weighted_sum;
        // What is not asked for otherwise, or is the model but for rounding.
        module.parameters.is_empty() && (source.parameters.is_empty() || is_one && sums)
    };
    let is_base = models == [base.unwrap_or_default()];
    let is_alone = matches!(&module.models[..], [one] if checked.is_err() || is_base || lends(one));
    if is_alone {
        sources.truncate(1);
    } else {
        checked.map_err(|message| Error::Models {
            message: format!("{name}: {message}"),
        })?;
    }
    let mut slice = Slice {
        base: base.and_then(|b| sources.iter().position(|s| s.model == b)),
        sources,
        scopes: vec![&module.parameters],
        layers: 0,
        measured: 0,
        copied: is_alone,
    };
    if !is_alone {
        slice.add_measured(method)?;
    }
    Ok(slice)
}

fn stacked<'a>(
    stage: &'a Stage,
    slice: &'a crate::recipe::Slice,
    anatomies: &HashMap<&'a str, Anatomy>,
) -> Result<Slice<'a>, Error> {
    let mut sources = Vec::new();
    let mut length = None;
    for source in &slice.sources {
        let layers = anatomies[source.model.as_str()].layers;
        let range = source.layer_range.unwrap_or([0, layers]);
        if range[0] >= range[1] || range[1] > layers {
            return Err(Error::LayerRange {
                model: source.model.clone(),
                range,
                layers,
            });
        }
        if length.is_some_and(|l| l != range[1] - range[0]) {
            return Err(Error::Models {
                message: format!(
                    "all sources of a slice need equally many layers; that of '{}' has {}",
                    source.model,
                    range[1] - range[0]
                ),
            });
        }
        length = Some(range[1] - range[0]);
        sources.push(SliceSource {
            model: &source.model,
            start: range[0],
            measured: source.measured(),
            parameters: Some(&source.parameters),
        });
    }
    let base = slice.base_model.as_deref().or(stage.base_model.as_deref());
    Ok(Slice {
        base: base.and_then(|b| sources.iter().position(|s| s.model == b)),
        sources,
        scopes: vec![&slice.parameters, &stage.parameters],
        layers: length.unwrap_or(0),
        measured: 0,
        copied: false,
    })
}
