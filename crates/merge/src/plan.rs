//! The plan of a recipe: all stages laid out, and the computation of single tensors.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use super::{
    ChildTokenizer, Device, Error, Knob, ParentTensor, TensorSource, Vocabulary, anatomy,
    device::{Outcome, Site, Start},
    kept, opcm,
    operation::{Measured, Operation},
    parents::{Parents, Refusal},
    pcb,
    resident::{Cache, FactKey},
    spectral::decomposition_flops,
    stage::{self, InputTensor, Job, Layout},
    view::{Inputs, Memory, Put, Target, View, all_finite},
};
use crate::recipe::{DType, Recipe};

/// One tensor of the child.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputTensor {
    /// As Hugging Face calls it; unique in the child.
    pub name: String,
    /// Outermost first; of a linear layer `[out, in]`.
    pub shape: Vec<usize>,
    /// To which it is rounded, once, at the end.
    pub dtype: DType,
    /// The child's layer that it belongs to; `None` for embeddings, final norm and head.
    pub layer: Option<usize>,
}

impl OutputTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// What its data take in a file.
    pub fn size_bytes(&self) -> usize {
        self.elements() * self.dtype.size_bytes()
    }
}

/// What a merge will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tensors of the child.
    pub tensors: usize,
    /// Bytes of parents that are read, each pass counted.
    pub read_bytes: u64,
    /// Bytes of the child's tensors.
    pub written_bytes: u64,
    /// Most memory that one tensor needs: its mapped parents, copies where a method makes them, blocks on their way out.
    pub peak_bytes: u64,
    /// Floating point operations of singular value decompositions, roughly.
    pub spectral_flops: u64,
}

/// A recipe, checked against its models and ready to be computed tensor by tensor.
pub struct Plan {
    stages: Vec<StagePlan>,
}

struct StagePlan {
    name: Option<String>,
    method: &'static str,
    layout: Layout,
    /// Output by name.
    index: HashMap<String, usize>,
    digest: String,
    measured: OnceLock<Arc<Measured>>,
    /// Of each output, all that decides it; made when asked for.
    hashes: Vec<OnceLock<blake3::Hash>>,
}

impl Plan {
    /// Lays out every stage.
    ///
    /// # Errors
    /// Whatever does not fit: a model without tensors, shapes or depths that differ, a parameter that is missing, weights
    /// that sum to zero. The error names the tensor, the models and the way out.
    pub fn new(recipe: &Recipe, source: &dyn TensorSource) -> Result<Plan, Error> {
        let mut plan = Plan { stages: Vec::new() };
        for stage in &recipe.stages {
            let chain = Chain {
                stages: &plan.stages,
                source,
                cache: None,
                releases: false,
            };
            let layout = stage::lay_out(stage, &chain)?;
            let json = serde_json::to_vec(stage).expect("a stage is plain data");
            let mut hasher = blake3::Hasher::new();
            hasher.update(&json);
            for model in stage.models() {
                // Only random masks need the digest of a stage, and they are rare downstream of one.
                if plan.stages.iter().any(|s| s.name.as_deref() == Some(model)) {
                    hasher.update(chain.model_digest(model).as_bytes());
                }
            }
            let outputs = layout.outputs.iter().enumerate();
            plan.stages.push(StagePlan {
                hashes: vec![OnceLock::new(); layout.outputs.len()],
                name: stage.name.clone(),
                method: stage.merge_method.name(),
                index: outputs.map(|(i, o)| (o.name.clone(), i)).collect(),
                digest: hasher.finalize().to_hex().to_string(),
                layout,
                measured: OnceLock::new(),
            });
        }
        if plan.stages.is_empty() {
            return Err(Error::Models {
                message: "the recipe has no stage".into(),
            });
        }
        Ok(plan)
    }

    /// A digest of the recipe: the last stage's, which holds those of the stages that it reads.
    pub(crate) fn digest(&self) -> &str {
        &self.result().digest
    }

    fn result(&self) -> &StagePlan {
        self.stages.last().expect("a plan has at least one stage")
    }

    /// The child's tensors: embeddings, layers in order, final norm, head.
    pub fn outputs(&self) -> &[OutputTensor] {
        &self.result().layout.outputs
    }

    /// The child's `config.json`.
    pub fn config(&self) -> &Value {
        &self.result().layout.config
    }

    /// Whose tokenizer the child takes. A stage's own tokenizer is that of its donor, down to a model with files.
    pub fn tokenizer(&self) -> ChildTokenizer {
        let mut tokenizer = self.result().layout.tokenizer.clone();
        while let Some(stage) = self.stage_named(&tokenizer.donor) {
            let inner = &stage.layout.tokenizer;
            let mut added = inner.added.clone();
            added.append(&mut tokenizer.added);
            tokenizer.added = added;
            tokenizer.donor = inner.donor.clone();
            tokenizer.chat_template = tokenizer.chat_template.or(inner.chat_template.clone());
        }
        let models = self
            .stages
            .iter()
            .flat_map(|stage| stage.layout.tokenizer.models.clone());
        tokenizer.models = models.filter(|model| self.stage_named(model).is_none()).collect();
        tokenizer.models.sort();
        tokenizer.models.dedup();
        tokenizer
    }

    /// What the user should know, in sentences: filters that match nothing, tokenizers that are assumed.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.stages.iter().flat_map(|s| &s.layout.warnings);
        all.cloned().collect()
    }

    /// The models whose tensors of the same name make output `i` as a sum, each with its factor, where nothing but a sum is made
    /// of them: one stage, no rows brought into another order.
    pub fn combination(&self, i: usize) -> Option<Vec<(&str, f64)>> {
        let [stage] = &self.stages[..] else {
            return None;
        };
        let (output, job) = (&stage.layout.outputs[i], &stage.layout.jobs[i]);
        if job.alignment.is_some() || job.inputs.iter().any(|input| input.tensor != output.name) {
            return None;
        }
        let factors = job.operation.combination(job.inputs.len(), job.base)?;
        let models = job.inputs.iter().map(|input| input.model.as_str());
        Some(models.zip(factors).collect())
    }

    fn stage_named(&self, name: &str) -> Option<&StagePlan> {
        self.stages.iter().find(|s| s.name.as_deref() == Some(name))
    }

    /// Output `i` as f32; every value is representable in its dtype.
    ///
    /// # Errors
    /// A tensor that cannot be read, a method that refuses, a value that is not finite.
    pub fn compute(&self, i: usize, source: &dyn TensorSource) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; self.outputs()[i].elements()];
        self.compute_into(i, source, None, &mut out)?;
        Ok(out)
    }

    /// As [`Plan::compute`], into memory of the output's size, with what `cache` knows of the parents.
    pub fn compute_into(
        &self,
        i: usize,
        source: &dyn TensorSource,
        cache: Option<&Cache>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.chain(source, cache)
            .merge(self.stages.len() - 1, i, Memory::F32(out))
    }

    /// Output `i` as the little-endian bytes of its dtype, into `out` of [`OutputTensor::size_bytes`]. The same values as
    /// [`Plan::compute`]'s.
    pub fn compute_bytes(&self, i: usize, source: &dyn TensorSource, out: &mut [u8]) -> Result<(), Error> {
        self.chain(source, None)
            .merge(self.stages.len() - 1, i, Memory::Bytes(out))
    }

    /// As [`Plan::compute_bytes`], in pieces of at most so many bytes, with what `cache` knows of the parents.
    pub fn compute_pieces(
        &self,
        i: usize,
        source: &dyn TensorSource,
        cache: Option<&Cache>,
        most_bytes: usize,
        put: &mut Put<'_>,
    ) -> Result<(), Error> {
        // The pieces' taker lives as long as it must, but no longer than this call.
        let mut put = |first: usize, bytes: usize, write: &mut dyn FnMut(&mut [u8])| put(first, bytes, write);
        self.chain(source, cache)
            .merge(self.stages.len() - 1, i, Memory::Pieces(most_bytes, &mut put))
    }

    /// Merges outputs on a device, and waits once for as many of them as it has room for their reports. Those that are the host's to
    /// merge, or to say why they cannot be.
    pub(crate) fn compute_on<D: Device>(
        &self,
        outputs: &[usize],
        source: &dyn TensorSource,
        cache: &Cache,
        device: &mut D,
    ) -> Result<Vec<usize>, D::Error> {
        let chain = self.chain(source, Some(cache));
        let (mut left, mut launched) = (Vec::new(), Vec::new());
        let mut waiting: VecDeque<_> = outputs.iter().map(|i| (*i, None)).collect();
        while !waiting.is_empty() {
            let mut reports = None;
            while let Some((i, exact)) = waiting.pop_front() {
                let again = exact.clone();
                let start = |site: &Site<'_>, device: &mut D| site.start(exact, &mut reports, device);
                match self.on_device(&chain, i, device, start)? {
                    Some(Start::Launched(kernels)) => launched.push((i, kernels)),
                    Some(Start::Full) => {
                        waiting.push_front((i, again));
                        break;
                    }
                    Some(Start::Host) | None => left.push(i),
                }
            }
            let Some(reports) = reports else { continue };
            let words = reports.read(device)?;
            for (i, kernels) in launched.drain(..) {
                match kernels.outcome(&words) {
                    Outcome::Done => {}
                    Outcome::Host => left.push(i),
                    Outcome::Again(exact) => waiting.push_back((i, Some(exact))),
                    Outcome::Patch(patched) => {
                        let patch = |site: &Site<'_>, device: &mut D| site.patch(patched, device);
                        if self.on_device(&chain, i, device, patch)? != Some(true) {
                            left.push(i);
                        }
                    }
                }
            }
        }
        left.sort_unstable();
        Ok(left)
    }

    /// What `f` makes of output `i`, whose parents lie on the device then; `None`: they do not, or it is nothing for a device.
    fn on_device<D: Device, R>(
        &self,
        chain: &Chain<'_>,
        i: usize,
        device: &mut D,
        f: impl FnOnce(&Site<'_>, &mut D) -> Result<R, D::Error>,
    ) -> Result<Option<R>, D::Error> {
        let s = self.stages.len() - 1;
        let layout = &self.stages[s].layout;
        let (output, job) = (&layout.outputs[i], &layout.jobs[i]);
        let is_a_stages = |input: &InputTensor| chain.stage(&input.model).is_some();
        if job.alignment.is_some() || job.grams > 0 || job.inputs.iter().any(is_a_stages) {
            return Ok(None);
        }
        let Some(address) = device.place(&output.name) else {
            return Ok(None);
        };
        let tensor = |input: &'_ InputTensor| chain.source.raw(&input.model, &input.tensor);
        let Some(raw) = job.inputs.iter().map(tensor).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let tensors = job.inputs.iter().zip(raw).map(|(input, (dtype, bytes))| ParentTensor {
            model: &input.model,
            tensor: &input.tensor,
            dtype,
            bytes,
        });
        let tensors: Vec<ParentTensor<'_>> = tensors.collect();
        let made = chain.with_parents(s, output, job, |parents| {
            match Site::new(&job.operation, parents, &tensors, (output, address), device)? {
                Some(site) => f(&site, device).map(Some),
                None => Ok(None),
            }
        });
        // What cannot be read, the host says.
        made.unwrap_or(Ok(None))
    }

    /// Output `i` as [`Plan::compute_bytes`] gives it, handed to `sink` block by block until that returns false.
    ///
    /// Blocks may have been handed on before an error is found. The parents' tensors are released afterwards.
    pub fn stream(
        &self,
        i: usize,
        source: &dyn TensorSource,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let chain = Chain {
            releases: true,
            ..self.chain(source, None)
        };
        chain.merge(self.stages.len() - 1, i, Memory::Stream(sink))
    }

    fn chain<'a>(&'a self, source: &'a dyn TensorSource, cache: Option<&'a Cache>) -> Chain<'a> {
        Chain {
            stages: &self.stages,
            source,
            cache,
            releases: false,
        }
    }

    /// A digest of all that decides output `i`, but for the parents' content: equal fingerprints mean equal values as long
    /// as the models behind the words stay the same.
    pub fn fingerprint(&self, i: usize) -> u64 {
        let mut bytes = [0; 8];
        let last = self.stages.len() - 1;
        bytes.copy_from_slice(&hash(&self.stages, last, i).as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }

    /// Whether a singular value decomposition is made for output `i` or for what it is made of.
    pub fn decomposes(&self, i: usize) -> bool {
        decomposes(&self.stages, self.stages.len() - 1, i)
    }

    /// What the merge will read, write and hold; of all stages.
    pub fn cost(&self, source: &dyn TensorSource) -> Cost {
        let mut cost = Cost {
            tensors: self.outputs().len(),
            ..Cost::default()
        };
        for (s, stage) in self.stages.iter().enumerate() {
            let chain = Chain {
                stages: &self.stages[..s],
                source,
                cache: None,
                releases: false,
            };
            for (output, job) in stage.layout.outputs.iter().zip(&stage.layout.jobs) {
                let size = |model: &str, tensor: &str| {
                    let elements: usize = chain.shape(model, tensor).unwrap_or_default().iter().product();
                    let dtype = chain.dtype(model, tensor).unwrap_or(DType::F32);
                    (elements * dtype.size_bytes()) as u64
                };
                let inputs: u64 = job.inputs.iter().map(|i| size(&i.model, &i.tensor)).sum();
                cost.read_bytes += inputs * job.operation.passes();
                let elements = output.elements() as u64;
                let copies = if job.operation.is_spectral() {
                    let inputs = job.inputs.len();
                    cost.spectral_flops += spectral_flops(&output.shape, job.operation.decompositions(inputs));
                    8 * elements * job.operation.copies(inputs) as u64
                } else if job.alignment.is_some() {
                    8 * elements * job.inputs.len() as u64
                } else {
                    8 * job.operation.beside(&output.shape, job.inputs.len() - job.grams) as u64
                };
                let last = s + 1 == self.stages.len();
                let result = if last { BLOCKS_BYTES } else { 4 * elements };
                cost.peak_bytes = cost.peak_bytes.max(inputs + copies + result);
                if last {
                    cost.written_bytes += output.size_bytes() as u64;
                }
            }
        }
        cost
    }
}

/// What [`Slopes`](super::Slopes) asks of a plan.
impl Plan {
    /// The numbers of the recipe that have a derivative, as they stand at each tensor: stage by stage, output by output.
    ///
    /// Stages are listed that the result copies from (a path of layers), and the result itself; what another method makes
    /// of an earlier stage is not differentiated.
    pub fn knobs(&self) -> Vec<Knob> {
        let reached = self.reached();
        let stages = self.stages.iter().enumerate().filter(|(s, _)| reached[*s]);
        let of_stage = |(s, stage): (usize, &StagePlan)| -> Vec<Knob> {
            let jobs = stage.layout.jobs.iter().enumerate();
            let of_job = |(i, job): (usize, &Job)| {
                let numbers = job.operation.numbers().into_iter();
                numbers.map(move |(parameter, model, value)| Knob {
                    place: (s, i),
                    parameter,
                    model,
                    value,
                })
            };
            jobs.flat_map(of_job).collect()
        };
        stages.flat_map(of_stage).collect()
    }

    /// By stage and output, the place of its first knob; `None` for stages that a derivative does not reach.
    pub(crate) fn first_knobs(&self) -> Vec<Option<Vec<usize>>> {
        let mut next = 0;
        let mut of_stage = |stage: &StagePlan| {
            let of_job = |job: &Job| {
                next += job.operation.numbers().len();
                next - job.operation.numbers().len()
            };
            stage.layout.jobs.iter().map(of_job).collect()
        };
        let stages = self.stages.iter().zip(self.reached());
        stages
            .map(|(stage, reached)| reached.then(|| of_stage(stage)))
            .collect()
    }

    /// Whether a derivative reaches each stage: the last, and what a reached one only copies.
    fn reached(&self) -> Vec<bool> {
        let mut reached = vec![false; self.stages.len()];
        reached[self.stages.len() - 1] = true;
        for s in (0..self.stages.len()).rev().filter(|s| *s + 1 < self.stages.len()) {
            let name = self.stages[s].name.as_deref();
            let later = self.stages.iter().zip(&reached).skip(s + 1);
            let uses = later.flat_map(|(stage, reached)| stage.layout.jobs.iter().map(move |job| (job, *reached)));
            let mut uses = uses.filter(|(job, _)| job.inputs.iter().any(|input| Some(input.model.as_str()) == name));
            reached[s] = uses.all(|(job, is_reached)| {
                is_reached && job.alignment.is_none() && matches!(job.operation, Operation::Passthrough { .. })
            });
        }
        reached
    }

    pub(crate) fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// The operation of an output, and the output of an earlier stage that is its only input, if it is one.
    pub(crate) fn operation(&self, stage: usize, i: usize) -> (&Operation, Option<(usize, usize)>) {
        let job = &self.stages[stage].layout.jobs[i];
        let below = match job.inputs.as_slice() {
            [only] => {
                let mut earlier = self.stages[..stage].iter().enumerate();
                let found = earlier.find(|(_, s)| s.name.as_deref() == Some(&only.model));
                found.and_then(|(s, plan)| Some((s, *plan.index.get(&only.tensor)?)))
            }
            _ => None,
        };
        (&job.operation, below)
    }

    /// The derivative with respect to the numbers of output `i` of a stage, where `upstream` is that with respect to it.
    pub(crate) fn gradient_of(
        &self,
        stage: usize,
        i: usize,
        source: &dyn TensorSource,
        cache: Option<&Cache>,
        upstream: &[f32],
    ) -> Result<Vec<f64>, Error> {
        let chain = self.chain(source, cache);
        let plan = &self.stages[stage];
        let (output, job) = (&plan.layout.outputs[i], &plan.layout.jobs[i]);
        let measured = chain.measured(stage)?;
        let gradient = chain.with_parents(stage, output, job, |parents| {
            job.operation.gradient(parents, measured, upstream)
        })?;
        gradient.map_err(|refusal| Error::Refused {
            tensor: output.name.clone(),
            method: plan.method,
            refusal,
        })
    }
}

/// All that decides output `i` of a stage, but for the models' content.
fn hash(stages: &[StagePlan], stage: usize, i: usize) -> blake3::Hash {
    let plan = &stages[stage];
    *plan.hashes[i].get_or_init(|| {
        let (output, job) = (&plan.layout.outputs[i], &plan.layout.jobs[i]);
        let mut hasher = blake3::Hasher::new();
        let operation = serde_json::to_vec(&job.operation).expect("an operation is plain data");
        hasher.update(&operation);
        hasher.update(format!("{:?}{:?}{:?}", output.shape, output.dtype, job.base).as_bytes());
        if job.operation.looks_at_the_whole_model() || job.alignment.is_some() {
            hasher.update(plan.digest.as_bytes());
        }
        for input in &job.inputs {
            hasher.update(input.model.as_bytes());
            hasher.update(&[0]);
            hasher.update(input.tensor.as_bytes());
            hasher.update(&[0]);
            let upstream = stages[..stage]
                .iter()
                .position(|s| s.name.as_deref() == Some(&input.model));
            if let Some(upstream) = upstream
                && let Some(i) = stages[upstream].index.get(&input.tensor)
            {
                hasher.update(hash(stages, upstream, *i).as_bytes());
            }
        }
        hasher.finalize()
    })
}

fn decomposes(stages: &[StagePlan], stage: usize, i: usize) -> bool {
    let job = &stages[stage].layout.jobs[i];
    job.operation.is_spectral()
        || job.inputs.iter().any(|input| {
            let mut earlier = stages[..stage].iter().enumerate();
            let found = earlier.find(|(_, s)| s.name.as_deref() == Some(&input.model));
            let place = found.and_then(|(s, plan)| Some((s, *plan.index.get(&input.tensor)?)));
            place.is_some_and(|(s, i)| decomposes(stages, s, i))
        })
}

/// So many decompositions of a matrix.
fn spectral_flops(shape: &[usize], count: usize) -> u64 {
    match shape {
        [rows, columns] => decomposition_flops(*rows, *columns) * count as u64,
        _ => 0,
    }
}

/// Blocks of a tensor that wait, are computed or are written at one time.
const BLOCKS_BYTES: u64 = 40 << 20;

/// About what is measured of a whole model.
const MEASURED_BYTES: usize = 1 << 10;

/// A tensor of a parent, wherever it lies.
enum Loaded<'a> {
    Raw(View<'a>),
    F32(Cow<'a, [f32]>),
    Kept(Arc<Values>),
}

/// A tensor of an earlier stage, in its own dtype.
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<u8>),
    F16(Vec<u8>),
}

impl Values {
    fn view(&self) -> View<'_> {
        match self {
            Values::F32(values) => View::F32(values),
            Values::Bf16(bytes) => View::Bf16(bytes),
            Values::F16(bytes) => View::F16(bytes),
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Values::F32(values) => 4 * values.len(),
            Values::Bf16(bytes) | Values::F16(bytes) => bytes.len(),
        }
    }
}

impl Loaded<'_> {
    fn view(&self) -> View<'_> {
        match self {
            Loaded::Raw(view) => *view,
            Loaded::F32(values) => View::F32(values),
            Loaded::Kept(values) => values.view(),
        }
    }
}

/// The caller's models, and the results of earlier stages under their names.
struct Chain<'a> {
    stages: &'a [StagePlan],
    source: &'a dyn TensorSource,
    cache: Option<&'a Cache>,
    /// Whether models' tensors are released after use.
    releases: bool,
}

impl Chain<'_> {
    fn stage(&self, model: &str) -> Option<(usize, &StagePlan)> {
        let mut stages = self.stages.iter().enumerate();
        stages.find(|(_, s)| s.name.as_deref() == Some(model))
    }

    fn output(&self, model: &str, tensor: &str) -> Option<(usize, usize, &OutputTensor)> {
        let (s, stage) = self.stage(model)?;
        let i = *stage.index.get(tensor)?;
        Some((s, i, &stage.layout.outputs[i]))
    }

    /// Computes output `i` of stage `s`.
    fn merge(&self, s: usize, i: usize, memory: Memory<'_>) -> Result<(), Error> {
        let stage = &self.stages[s];
        let (output, job) = (&stage.layout.outputs[i], &stage.layout.jobs[i]);
        let measured = self.measured(s)?;
        let mut target = Target {
            memory,
            dtype: output.dtype,
        };
        let finite = self.with_parents(s, output, job, |parents| {
            job.operation.run(parents, measured, &mut target)
        })?;
        let refused = |refusal| Error::Refused {
            tensor: output.name.clone(),
            method: stage.method,
            refusal,
        };
        if finite.map_err(refused)? {
            if self.releases {
                let of_models = job.inputs.iter().filter(|i| self.stage(&i.model).is_none());
                of_models.for_each(|i| self.source.release(&i.model, &i.tensor));
            }
            return Ok(());
        }
        for input in &job.inputs {
            let values = self.load(&input.model, &input.tensor)?;
            if !all_finite(&values.view().to_f32()) {
                return Err(Error::ParentNotFinite {
                    tensor: input.tensor.clone(),
                    model: input.model.clone(),
                });
            }
        }
        Err(Error::NotFinite {
            tensor: output.name.clone(),
            dtype: output.dtype,
        })
    }

    /// Calls `f` with the parents of one tensor, their rows in the child's order.
    fn with_parents<R>(
        &self,
        s: usize,
        output: &OutputTensor,
        job: &Job,
        f: impl FnOnce(&Parents<'_>) -> R,
    ) -> Result<R, Error> {
        let chain = Chain {
            stages: &self.stages[..s],
            ..*self
        };
        let loaded = job
            .inputs
            .iter()
            .map(|input| chain.load(&input.model, &input.tensor))
            .collect::<Result<Vec<_>, _>>()?;
        let aligned: Vec<Vec<f32>> = match &job.alignment {
            None => Vec::new(),
            Some(alignment) => {
                let whole: Vec<Cow<'_, [f32]>> = loaded.iter().map(|l| l.view().to_f32()).collect();
                let whole: Vec<&[f32]> = whole.iter().map(AsRef::as_ref).collect();
                alignment.apply(&whole, output.shape[1..].iter().product())
            }
        };
        let mut views: Vec<View<'_>> = if job.alignment.is_some() {
            aligned.iter().map(|a| View::F32(a)).collect()
        } else {
            loaded.iter().map(Loaded::view).collect()
        };
        let grams = views.split_off(views.len() - job.grams);
        // Facts are kept about parents that do not change: a stage's results do.
        let from_models = job.inputs.iter().all(|i| chain.stage(&i.model).is_none());
        let cache = self.cache.filter(|_| from_models && job.alignment.is_none());
        Ok(f(&Parents {
            inputs: Inputs::new(views),
            grams,
            base: job.base,
            shape: &output.shape,
            cache: cache.map(|cache| (cache, fact_key(job))),
        }))
    }

    fn load(&self, model: &str, tensor: &str) -> Result<Loaded<'_>, Error> {
        if let (Some(cache), Some((s, i, _))) = (self.cache, self.output(model, tensor)) {
            let name: kept::Name = *hash(self.stages, s, i).as_bytes();
            let values = cache.kept.get(name, Values::size_bytes, || self.values(s, i))?;
            return Ok(Loaded::Kept(values));
        }
        if self.stage(model).is_none()
            && let Some((dtype, bytes)) = self.source.raw(model, tensor)
        {
            match dtype {
                DType::Bf16 => return Ok(Loaded::Raw(View::Bf16(bytes))),
                DType::F16 => return Ok(Loaded::Raw(View::F16(bytes))),
                // Bytes that do not lie on a multiple of four are copied by `read_f32`.
                DType::F32 => {
                    if let Ok(values) = bytemuck::try_cast_slice(bytes)
                        && cfg!(target_endian = "little")
                    {
                        return Ok(Loaded::Raw(View::F32(values)));
                    }
                }
            }
        }
        let read = |message| Error::Read {
            tensor: tensor.into(),
            model: model.into(),
            message,
        };
        self.read_f32(model, tensor).map(Loaded::F32).map_err(read)
    }

    /// Output `i` of stage `s`, in its own dtype.
    fn values(&self, s: usize, i: usize) -> Result<Values, Error> {
        let output = &self.stages[s].layout.outputs[i];
        if output.dtype == DType::F32 {
            let mut values = vec![0.0; output.elements()];
            self.merge(s, i, Memory::F32(&mut values))?;
            return Ok(Values::F32(values));
        }
        let mut bytes = vec![0; output.size_bytes()];
        self.merge(s, i, Memory::Bytes(&mut bytes))?;
        Ok(match output.dtype {
            DType::F16 => Values::F16(bytes),
            _ => Values::Bf16(bytes),
        })
    }

    /// What methods that look at the whole model have to know of it; measured once, and kept for recipes that share the
    /// stage.
    fn measured(&self, s: usize) -> Result<&Measured, Error> {
        let stage = &self.stages[s];
        if let Some(measured) = stage.measured.get() {
            return Ok(measured);
        }
        let mut jobs = stage.layout.jobs.iter();
        let whole = jobs.any(|job| job.operation.looks_at_the_whole_model());
        let measured = match self.cache.filter(|_| whole) {
            None => Arc::new(self.measure(s)?),
            Some(cache) => {
                let name = *blake3::hash(format!("measured {}", stage.digest).as_bytes()).as_bytes();
                cache.kept.get(name, |_| MEASURED_BYTES, || self.measure(s))?
            }
        };
        Ok(stage.measured.get_or_init(|| measured))
    }

    fn measure(&self, s: usize) -> Result<Measured, Error> {
        let stage = &self.stages[s];
        let all = || stage.layout.outputs.iter().zip(&stage.layout.jobs);
        let mut measured = Measured {
            pcb: None,
            opcm_scale: 1.0,
        };
        let competition = all().find_map(|(_, job)| match &job.operation {
            Operation::Pcb(competition) => Some(competition),
            _ => None,
        });
        if let Some(competition) = competition {
            let mut visit = |f: &mut dyn FnMut(&Parents<'_>)| -> Result<(), Error> {
                for (output, job) in all() {
                    self.with_parents(s, output, job, &mut *f)?;
                }
                Ok(())
            };
            let tasks = competition.weights.len();
            measured.pcb = Some(pcb::measure(tasks, competition.ratio, &mut visit)?);
        }
        let mut norms = opcm::Norms::default();
        let mut sequential = false;
        for (output, job) in all() {
            let Operation::Opcm { alpha } = job.operation else {
                continue;
            };
            sequential = true;
            let part = self.with_parents(s, output, job, |p| opcm::measure(p, alpha))?;
            norms.add(&part.map_err(|refusal: Refusal| Error::Refused {
                tensor: output.name.clone(),
                method: stage.method,
                refusal,
            })?);
        }
        if sequential {
            measured.opcm_scale = norms.scale();
        }
        Ok(measured)
    }
}

/// Names the parents of a job: models, tensors, base.
fn fact_key(job: &Job) -> FactKey {
    let names: Vec<String> = job
        .inputs
        .iter()
        .map(|i| format!("{}\0{}", i.model, i.tensor))
        .collect();
    let base = job.base.map_or("", |b| &names[b]);
    FactKey {
        all: format!("{base}\0\0{}", names.join("\0")).into(),
        pairs: names.iter().map(|name| format!("{base}\0\0{name}").into()).collect(),
    }
}

impl TensorSource for Chain<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        match self.stage(model) {
            Some((_, stage)) => stage.layout.outputs.iter().map(|o| o.name.clone()).collect(),
            None => self.source.tensor_names(model),
        }
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        if self.stage(model).is_some() {
            return self.output(model, tensor).map(|(.., o)| o.shape.clone());
        }
        self.source.shape(model, tensor)
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        if self.stage(model).is_some() {
            return self.output(model, tensor).map(|(.., o)| o.dtype);
        }
        self.source.dtype(model, tensor)
    }

    fn config(&self, model: &str) -> Option<&Value> {
        match self.stage(model) {
            Some((_, stage)) => Some(&stage.layout.config),
            None => self.source.config(model),
        }
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        if self.stage(model).is_none() {
            return self.source.read_f32(model, tensor);
        }
        let Some((s, i, output)) = self.output(model, tensor) else {
            return Err("the stage has no such tensor".into());
        };
        let mut values = vec![0.0; output.elements()];
        self.merge(s, i, Memory::F32(&mut values)).map_err(|e| e.to_string())?;
        Ok(values.into())
    }

    fn model_digest(&self, model: &str) -> String {
        match self.stage(model) {
            Some((_, stage)) => stage.digest.clone(),
            None => self.source.model_digest(model),
        }
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        let Some((_, stage)) = self.stage(model) else {
            return self.source.vocab(model);
        };
        let layout = &stage.layout;
        layout
            .vocabulary
            .clone()
            .or_else(|| self.vocab(&layout.tokenizer.donor))
    }
}

impl Plan {
    /// The embeddings' name, for callers that treat them apart.
    pub fn embeddings(&self) -> Option<&str> {
        anatomy::embeddings(self.outputs().iter().map(|o| o.name.as_str()))
    }
}
