//! The decoder: one forward pass for every family and every device, over a packed batch of tokens from many rows.
//!
//! A batch is a list of `Chunk`s: consecutive new tokens of a row, the segments that the row shares with others, and the
//! segment it owns. There is no padding. Weights are repacked once when they are set; whoever changes one holds the decoder
//! alone (`&mut`), and keys and values never outlive a call of the engine, so nothing computed with old weights survives.

use std::sync::{Arc, Mutex, PoisonError};

use heterosis_isa::{DType, Isa};
use rayon::prelude::*;

use super::Error;
use super::arithmetic::{
    Arithmetic, Both, Buffers, HeadSettings, MixerWeights, Mixture, Mlp, PerLayerWeights, Picks, Settings, States,
};
use super::attention::RowView;
use super::cpu::Cpu;
#[cfg(feature = "cuda")]
use super::cuda::{self, Cuda};
use super::device::Device;
#[cfg(not(feature = "cuda"))]
use super::device::NoGpu;
use super::engine::EngineOptions;
use super::kernels::{self, Matrix, PackedRows, Threads};
use super::kv::{BLOCK, KvShape, Segment};
use super::mixer::{Mixer, MixerPart};
use super::rope::{RopeTable, Scaling};
use super::spec::{Activation, DecoderSpec, Experts, Keys, LayerSpec, PerLayer, QkNorm};
use super::tensors::{Of, Part, PerLayerPart, Slot, Tensor};

/// Models up to this size are computed with the batch split between threads (each runs all layers, no meeting points);
/// larger ones with each matrix split, so that their weights are read from memory once.
const SPLIT_BATCH_BELOW_BYTES: usize = 24 << 20;

/// A model in memory, ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    /// What weights are rounded to when they are set. The CPU computes in f32 in every case; a GPU keeps weights, activations,
    /// keys and values in this type, and sums, softmax, logits and the residual stream in f32.
    dtype: DType,
    /// What the host computes with.
    isa: Isa,
    backend: Backend,
    ropes: Vec<RopeTable>,
    path: Vec<Step>,
    /// Whether the hidden states are normed at the end, as they should be.
    final_norm: bool,
    epoch: u64,
    /// How often the path has changed, or a number of the weights that the host has: what a recorded step holds in itself.
    route: u64,
    threads: usize,
}

/// The weights, where they are computed with.
enum Backend {
    Cpu(Box<Model<Cpu>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Model<Cuda>>),
}

/// Runs `$body` with `$model` bound to the model of whichever device it is on.
macro_rules! on_device {
    ($backend:expr, $model:ident => $body:expr) => {
        match $backend {
            Backend::Cpu($model) => $body,
            #[cfg(feature = "cuda")]
            Backend::Cuda($model) => $body,
        }
    };
}

struct Model<A: Arithmetic> {
    device: A::Device,
    /// `[vocab, hidden]`; `None` when the head is tied and serves both.
    embeddings: Option<A::Linear>,
    /// `[positions, hidden]`, where a family has learned them.
    positions: Option<A::Linear>,
    head: A::Linear,
    final_norm: A::Norm,
    /// Of what a token's embeddings in the layers are projected to; of length 0 where it has none.
    projection_norm: A::Norm,
    no_norm: A::Norm,
    layers: Vec<Layer<A>>,
    /// Buffers of forward passes that are over, to be used again.
    passes: Mutex<Vec<Pass<A>>>,
}

struct Layer<A: Arithmetic> {
    /// Queries, keys and values, and gates where the family has them; or what a mixer reads of the stream.
    qkv: A::Linear,
    o: A::Linear,
    /// Of a layer that does not attend.
    mixer: Option<Box<MixerWeights<A>>>,
    body: Body<A>,
    per_layer: Option<Box<PerLayerWeights<A>>>,
    /// What its output is multiplied by.
    scalar: f32,
    activation: Activation,
    /// Empty where the family has none.
    q_norm: A::Norm,
    k_norm: A::Norm,
    /// Empty where the family has none.
    sinks: A::Numbers,
    /// Before and after attention, before and after the MLP; empty where the family has none.
    norms: [A::Norm; 4],
}

/// Some outputs of a product, from one of them on.
struct Rows<'m, A: Arithmetic> {
    device: &'m A::Device,
    linear: &'m mut A::Linear,
    first: usize,
}

impl<A: Arithmetic> Rows<'_, A> {
    fn set(&mut self, is_bias: bool, data: &[f32]) -> Result<(), Error> {
        match is_bias {
            true => A::set_bias(self.device, self.linear, self.first, data),
            false => A::set_rows(self.device, self.linear, self.first, data),
        }
    }
}

/// What stands behind attention.
enum Body<A: Arithmetic> {
    Mlp(Mlp<A>),
    Mixture(Box<Mixture<A>>),
    Both(Box<Both<A>>),
}

/// Kernels of the caller's, which compute with what lies on a device: see [`Decoder::run`].
#[derive(Clone, Debug)]
pub struct Program {
    /// Another source has another one.
    pub name: &'static str,
    /// CUDA C without headers.
    pub source: &'static str,
    /// Those of its kernels that may be run.
    pub kernels: &'static [&'static str],
    /// NVRTC's, besides that of the device's architecture.
    pub options: Vec<String>,
}

/// What a forward pass needs besides the weights.
struct Pass<A: Arithmetic> {
    arithmetic: A,
    buffers: Buffers<A>,
}

/// Rows whose logits are computed at once by the host.
const ROWS_OF_LOGITS: usize = 48;

/// A token of a chunk with this bit is not known to the host: the rest is the index of a state of the step before, after
/// which it was picked.
pub(super) const PICKED: u32 = 1 << 31;

/// One stop of the layer path: which layer, and by what its input is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Index of the model's own layer, from 0.
    pub layer: usize,
    /// 1 in the model's own path.
    pub input_scale: f32,
}

/// New tokens of one row.
pub(super) struct Chunk<'a> {
    pub tokens: &'a [u32],
    /// What the row shares with others, in order; complete.
    pub prefix: &'a [Arc<Segment>],
    /// The row's own keys and values, with room for `tokens`.
    pub own: &'a mut Segment,
    /// Length of the sequence that decides on rotations that depend on it.
    pub length: usize,
    /// The first of `tokens` whose hidden state is wanted (`tokens.len()`: none).
    pub wanted_from: usize,
}

impl Chunk<'_> {
    pub fn own_start(&self) -> usize {
        self.prefix.iter().map(|segment| segment.len).sum()
    }

    pub fn start(&self) -> usize {
        self.own_start() + self.own.len
    }

    /// What it shares, and its own.
    #[cfg(feature = "cuda")]
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.prefix.iter().map(Arc::as_ref).chain([&*self.own])
    }

    pub fn view(&self) -> RowView<'_> {
        RowView {
            prefix: self.prefix,
            own: &self.own.blocks,
            own_start: self.own_start(),
        }
    }
}

impl Decoder {
    /// Builds the decoder and reads every tensor of [`DecoderSpec::tensor_names`] with `read`.
    ///
    /// **Errors** name the tensor that is missing or has another size than config.json says.
    pub fn load(
        spec: DecoderSpec,
        device: Device,
        dtype: DType,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        Self::empty(spec, device, dtype, Isa::best())?.filled(read)
    }

    /// As [`Decoder::load`] on the CPU, with the kernels of one instruction set.
    pub fn load_for(
        isa: Isa,
        spec: DecoderSpec,
        dtype: DType,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        Self::empty(spec, Device::Cpu, dtype, isa)?.filled(read)
    }

    /// A decoder with all weights zero, to be given each of [`DecoderSpec::tensor_names`].
    ///
    /// # Errors
    /// A device that cannot be used, or has not enough memory.
    pub fn zeros(spec: DecoderSpec, device: Device, dtype: DType) -> Result<Self, Error> {
        Self::empty(spec, device, dtype, Isa::best())
    }

    fn filled(mut self, read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>) -> Result<Self, Error> {
        for (name, _) in self.spec.tensor_names() {
            let data = read(&name).map_err(|reason| Error::Read {
                tensor: name.clone(),
                reason,
            })?;
            self.set_tensor(&name, &data)?;
        }
        Ok(self)
    }

    /// A decoder with all weights zero.
    fn empty(spec: DecoderSpec, device: Device, dtype: DType, isa: Isa) -> Result<Self, Error> {
        spec.check_ropes()?;
        let backend = match device {
            Device::Cpu => Backend::Cpu(Box::new(Model::zeros(&spec, isa)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Backend::Cuda(Box::new(Model::zeros(&spec, cuda::open(ordinal, dtype, &spec)?)?)),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return Err(NoGpu::NotBuilt.into()),
        };
        Ok(Decoder {
            dtype,
            isa,
            backend,
            ropes: spec.ropes.iter().cloned().map(RopeTable::new).collect(),
            path: (0..spec.layers.len())
                .map(|layer| Step {
                    layer,
                    input_scale: 1.0,
                })
                .collect(),
            final_norm: true,
            epoch: 0,
            route: 0,
            threads: rayon::current_num_threads(),
            spec,
        })
    }

    /// What `config.json` says of the model, as it was loaded; [`Decoder::set_path`] changes nothing of it.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Bytes that keys and values may take beside steps of `rows` rows: on a GPU what is free now, less a tenth; `None` where
    /// nobody knows.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub(super) fn kv_room(&self, rows: usize) -> Option<u64> {
        match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                // A device that does not answer fails at the first step, in its own words.
                let free = model.device.free_bytes().unwrap_or(0);
                Some((free / 10 * 9).saturating_sub(Cuda::step_bytes(&self.spec, self.dtype, rows)))
            }
        }
    }

    /// Gives back all memory but that of the weights.
    pub(super) fn release_buffers(&mut self) {
        on_device!(&self.backend, model => model.passes().clear());
    }

    /// How often a weight or the path has changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether `name` is one of the decoder's tensors; a tied `lm_head.weight` and stored RoPE tables are not.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.spec.tensor(name).is_some()
    }

    /// Replaces one tensor, by its Hugging Face name, in place. A tied head changes with the embeddings.
    ///
    /// **Errors** an unknown name, a wrong number of elements.
    pub fn set_tensor(&mut self, name: &str, data: &[f32]) -> Result<(), Error> {
        let tensor = self.spec.tensor(name).ok_or_else(|| self.spec.unknown_tensor(name))?;
        let expected = tensor.shape.iter().product();
        if data.len() != expected {
            return Err(Error::TensorSize {
                tensor: tensor.name,
                shape: tensor.shape,
                expected,
                got: data.len(),
            });
        }
        let data = &*self.spec.arranged(&tensor, data);
        self.epoch += 1;
        self.route += u64::from(tensor.slot.is_on_host());
        on_device!(&mut self.backend, model => model.write(&self.spec, &tensor, self.dtype, data))
    }

    /// Of how many bytes at most the pieces are that a tensor of this type may come in, see [`Decoder::set_piece`]: where a device
    /// keeps its elements in that type and in the file's order. `None`: it must come as a whole.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn piece_bytes(&mut self, name: &str, dtype: DType) -> Option<usize> {
        match &mut self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                let is_weight = |tensor: &Tensor| !tensor.is_bias && self.spec.stands_as_stored(tensor);
                let tensor = self.spec.tensor(name).filter(is_weight)?;
                let rows = model.rows(&self.spec, &tensor);
                rows.filter(|_| dtype == self.dtype).map(|_| cuda::PIECE)
            }
        }
    }

    /// Replaces some bytes of a tensor, from `first` on: `write` makes them, as little-endian elements of the decoder's type, and the
    /// device copies them while the caller makes others.
    ///
    /// **Errors** a tensor that must come as a whole; whatever the device refuses.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn set_piece(
        &mut self,
        name: &str,
        first: usize,
        bytes: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        #[cfg(feature = "cuda")]
        if let (Backend::Cuda(model), Some(tensor)) = (&mut self.backend, self.spec.tensor(name))
            && let Some(rows) = model.rows(&self.spec, &tensor)
        {
            self.epoch += 1;
            return rows.linear.put(rows.device, (rows.first, first), bytes, write);
        }
        Err(self.spec.unknown_tensor(name))
    }

    /// Says how much may lie on a device beside the weights: what is free now, less what steps take, and less what keys and values
    /// may take or, where that is more than a quarter of it, less that quarter.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn make_room(&mut self, options: &EngineOptions) {
        #[cfg(feature = "cuda")]
        if let Backend::Cuda(model) = &self.backend {
            let room = self.kv_room(options.step_tokens + options.max_rows).unwrap_or(0);
            let left = room - options.kv_memory_bytes.min(room / 4);
            model.device.held().set_limit(options.held_bytes.min(left));
        }
    }

    /// Bytes that lie on a device beside the weights.
    pub fn held_bytes(&self) -> u64 {
        match &self.backend {
            Backend::Cpu(_) => 0,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => model.device.held().bytes(),
        }
    }

    /// Where tensors lie on the device beside the weights, which takes over those that it does not have, by their names; `None`: it has
    /// no room for all of them, or there is no device.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn hold(&mut self, tensors: &[(String, &[u8])]) -> Result<Option<Vec<u64>>, Error> {
        match &self.backend {
            Backend::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                let mut held = model.device.held();
                if !held.has(tensors) {
                    // Keys and values of the last call would be in the way.
                    model.passes().clear();
                }
                held.hold(&model.device, tensors)
            }
        }
    }

    /// Where at least so many bytes lie on the device for a use, whatever they hold: memory of programs, see [`Decoder::run`]. They may move
    /// when more are asked for. `None`: it has no room, or there is no device.
    ///
    /// # Errors
    /// Whatever the device refuses.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn scratch(&mut self, use_of_it: &str, bytes: usize) -> Result<Option<u64>, Error> {
        match &self.backend {
            Backend::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                let mut held = model.device.held();
                if !held.has_scratch(use_of_it, bytes) {
                    // As above.
                    model.passes().clear();
                }
                held.scratch(&model.device, use_of_it, bytes)
            }
        }
    }

    /// Gives back what lies beside the weights, and takes nothing any more; whether there was something.
    pub fn give_up_held(&mut self) -> bool {
        match &self.backend {
            Backend::Cpu(_) => false,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => model.device.held().give_up(),
        }
    }

    /// What weights are rounded to.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where a device has the elements of a tensor, in its type and in the file's order; see [`Decoder::piece_bytes`].
    pub fn place(&mut self, name: &str) -> Option<u64> {
        self.piece_bytes(name, self.dtype)?;
        match &mut self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                let tensor = self.spec.tensor(name)?;
                let rows = model.rows(&self.spec, &tensor)?;
                Some(rows.linear.address(rows.device, rows.first))
            }
        }
    }

    /// Runs a kernel of a program on at least so many threads, in blocks of 256: `job` is its first argument, and the second where
    /// `report` lies on the device, which is zero before and comes back. It may write what [`Decoder::place`] names.
    ///
    /// # Errors
    /// No device; whatever it refuses.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    pub fn run(
        &mut self,
        program: &Program,
        (kernel, threads): (&str, usize),
        job: &[u8],
        report: &mut [u8],
    ) -> Result<(), Error> {
        self.epoch += 1;
        match &self.backend {
            Backend::Cpu(_) => Err(Error::Device {
                what: "a program of kernels".into(),
                device: Device::Cpu.to_string(),
            }),
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => {
                let gpu = &model.device;
                gpu.held().run(gpu, program, (kernel, threads), job, report)
            }
        }
    }

    /// Sets which layer comes after which (the data-flow space); a layer may come several times.
    pub fn set_path(&mut self, path: Vec<Step>) -> Result<(), Error> {
        let layers = self.spec.layers.len();
        if let Some(step) = path.iter().find(|step| step.layer >= layers) {
            return Err(Error::Path {
                layer: step.layer,
                layers,
            });
        }
        let layer_of = |step: &Step| step.layer;
        for (place, step) in path.iter().enumerate() {
            // Keys and values of a layer that has not come yet.
            let source = match self.spec.layers[step.layer].keys {
                Keys::Of(source) if !path[..place].iter().map(layer_of).any(|layer| layer == source) => source,
                _ => continue,
            };
            return Err(Error::PathWithoutKeys {
                layer: step.layer,
                source_layer: source,
            });
        }
        self.path = path;
        self.epoch += 1;
        self.route += 1;
        Ok(())
    }

    /// The path that is set.
    pub(super) fn path(&self) -> &[Step] {
        &self.path
    }

    /// Whether hidden states are normed at the end; without, they are the stream itself.
    pub(super) fn set_final_norm(&mut self, on: bool) {
        self.final_norm = on;
    }

    /// How many threads to compute with; the result does not depend on it.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
    }

    pub(super) fn kv_shape(&self) -> KvShape {
        let device_element = match &self.backend {
            Backend::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => Some(model.device.element_bytes()),
        };
        let layers = || self.path.iter().map(|step| &self.spec.layers[step.layer]);
        let recurrent = layers().filter(|layer| layer.recurrent).count();
        let keeping = layers().filter(|layer| !layer.recurrent && layer.has_keys());
        let heads = keeping.map(|layer| (layer.kv_heads, layer.head_dim));
        KvShape {
            state_len: recurrent * self.spec.mixer.as_ref().map_or(0, Mixer::state_len),
            ..KvShape::new(self.isa, heads, device_element)
        }
    }

    /// Bytes of keys and values that one token of context takes, not counting a half-filled block; at least one.
    pub fn kv_bytes_per_token(&self) -> u64 {
        (self.kv_shape().block_bytes() / BLOCK as u64).max(1)
    }

    /// Bytes of what the layers of one row remember besides keys and values; 0 of layers that attend.
    pub fn state_bytes_per_row(&self) -> u64 {
        self.kv_shape().state_bytes()
    }

    /// Sequences of different regimes rotate differently and cannot share a prefix.
    pub(super) fn rope_regime(&self, length: usize) -> usize {
        self.ropes.iter().map(|rope| rope.regime(length)).max().unwrap_or(0)
    }

    /// The length beyond which a growing row is computed anew from its first token: Phi-3 and Phi-MoE never mix short and
    /// long LongRoPE factors in one row.
    pub(super) fn recompute_beyond(&self) -> Option<usize> {
        match self.spec.ropes.first().map(|rope| &rope.scaling) {
            Some(Scaling::Long { original, .. }) if self.spec.family.rope.recomputes() => Some(*original),
            _ => None,
        }
    }

    /// How many steps may be launched before the picks of the first are read: [`PICKED`] tokens are understood where this is
    /// not 0.
    pub(super) fn steps_ahead(&self) -> usize {
        match &self.backend {
            Backend::Cpu(_) => 0,
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => usize::from(self.recompute_beyond().is_none()),
        }
    }

    /// Prepares the rotary tables for sequences of up to `positions` tokens.
    pub(super) fn prepare(&mut self, positions: usize) {
        self.ropes.iter_mut().for_each(|rope| rope.extend(positions));
    }

    /// Runs the layers over a batch and returns the normed hidden states of the wanted tokens, in order. Keys and values of
    /// all tokens are added to the chunks' own segments.
    pub(super) fn forward(&self, chunks: &mut [Chunk]) -> Result<States, Error> {
        match &self.backend {
            Backend::Cpu(model) => self.forward_cpu(model, chunks).map(States::Host),
            #[cfg(feature = "cuda")]
            Backend::Cuda(model) => self.forward_on(model, chunks, |_| ()).map(States::Cuda),
        }
    }

    fn forward_cpu(&self, model: &Model<Cpu>, chunks: &mut [Chunk]) -> Result<Matrix, Error> {
        let run = |chunks: &mut [Chunk], threads| self.forward_on(model, chunks, |cpu| cpu.threads = Threads(threads));
        let tokens: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if self.threads == 1 || model.size_bytes() > SPLIT_BATCH_BELOW_BYTES || tokens < 2 {
            return run(chunks, self.threads);
        }
        // Cut where the tokens, in order, reach each thread's share.
        let mut parts: Vec<&mut [Chunk]> = Vec::new();
        let (mut rest, mut taken) = (chunks, 0);
        for part in 1..=self.threads {
            let target = tokens * part / self.threads;
            let count = rest
                .iter()
                .scan(taken, |sum, c| {
                    *sum += c.tokens.len();
                    Some(*sum)
                })
                .take_while(|sum| *sum <= target)
                .count();
            let (mine, others) = rest.split_at_mut(if part == self.threads { rest.len() } else { count });
            taken += mine.iter().map(|c| c.tokens.len()).sum::<usize>();
            parts.push(mine);
            rest = others;
        }
        parts.retain(|part| !part.is_empty());
        let states: Vec<Matrix> = parts
            .into_par_iter()
            .map(|part| run(part, 1))
            .collect::<Result<_, _>>()?;
        let data: Vec<f32> = states.into_iter().flat_map(|part| part.data).collect();
        Ok(Matrix {
            rows: data.len() / self.spec.hidden,
            cols: self.spec.hidden,
            data,
        })
    }

    /// The forward pass, for all families on all devices.
    fn forward_on<A: Arithmetic>(
        &self,
        model: &Model<A>,
        chunks: &mut [Chunk],
        prepare: impl Fn(&mut A),
    ) -> Result<A::Matrix, Error> {
        let mut pass = model.take_pass()?;
        let (a, buffers) = (&mut pass.arithmetic, &mut pass.buffers);
        prepare(a);

        a.begin(&self.spec, self.kv_shape(), chunks, self.rotations(chunks))?;
        let mut layers = |a: &mut A, buffers: &mut Buffers<A>| self.run_layers(model, a, buffers, chunks);
        a.run(self.route, buffers, &mut layers)?;
        for chunk in chunks.iter_mut() {
            chunk.own.len += chunk.tokens.len();
        }
        let mut states = A::Matrix::default();
        let norm = if self.final_norm {
            &model.final_norm
        } else {
            &model.no_norm
        };
        a.norm(&buffers.h, norm, self.spec.norm_eps, &mut states)?;
        model.passes().push(pass);
        Ok(states)
    }

    /// From tokens to the residual stream after the last layer.
    fn run_layers<A: Arithmetic>(
        &self,
        model: &Model<A>,
        a: &mut A,
        buffers: &mut Buffers<A>,
        chunks: &mut [Chunk],
    ) -> Result<(), Error> {
        let (spec, eps) = (&self.spec, self.spec.norm_eps);
        let Buffers {
            h,
            x,
            qkv,
            attended,
            gate_up,
            inner,
            embedded,
            per_layer,
            branch,
            routed,
        } = buffers;
        let table = model.embeddings.as_ref().unwrap_or(&model.head);
        a.embed(table, model.positions.as_ref(), chunks, spec.embed_scale, h)?;
        if spec.per_layer.is_some() {
            a.norm(h, &model.no_norm, eps, embedded)?;
        }
        // Stops so far whose layers keep keys, and that do not attend: keys, values and states are kept by stop, not by layer.
        let (mut keeping, mut recurrent) = (Vec::new(), 0);
        for (index, step) in self.path.iter().enumerate() {
            let (layer, layer_spec) = (&model.layers[step.layer], &spec.layers[step.layer]);
            a.scale(h, step.input_scale)?;

            a.norm(h, &layer.norms[0], eps, x)?;
            a.product(&layer.qkv, x, qkv)?;
            if let Some(weights) = &layer.mixer {
                a.remember(spec, weights, recurrent, chunks, qkv, attended)?;
                recurrent += 1;
            } else {
                let kept = place_of_keys(&mut keeping, step.layer, layer_spec);
                let heads = HeadSettings {
                    layer: kept,
                    of: layer_spec,
                    q_norm: &layer.q_norm,
                    k_norm: &layer.k_norm,
                    rotation: layer_spec.rope,
                };
                a.heads(spec, heads, chunks, qkv)?;
                let settings = Settings {
                    layer: kept,
                    heads: spec.heads,
                    window: layer_spec.window,
                    scale: spec.attention_scale,
                    softcap: spec.attention_softcap,
                    sinks: &layer.sinks,
                };
                a.attend(qkv, chunks, settings, attended)?;
                if spec.gates_heads() {
                    a.gate_heads(qkv, attended)?;
                }
            }
            if let Some(weights) = &layer.per_layer {
                a.embed_in_layer(weights, (&model.projection_norm, eps), chunks, embedded, per_layer)?;
            }
            let shares_norm = spec.parallel && spec.layer_norms()[2].is_none();
            if index + 1 == self.path.len() {
                // Nothing reads the other rows any more.
                a.keep_wanted(chunks, h)?;
                a.keep_wanted(chunks, attended)?;
                if shares_norm {
                    a.keep_wanted(chunks, x)?;
                }
                if layer.per_layer.is_some() {
                    a.keep_wanted(chunks, per_layer)?;
                }
            }
            let attention = (&layer.o, &layer.norms[1]);
            let add_attention = |a: &mut A, h: &mut A::Matrix| {
                a.add_product(attention.0, attended, (attention.1, eps), spec.residual_scale, h)
            };
            if !spec.parallel {
                add_attention(a, h)?;
            }
            if !shares_norm {
                a.norm(h, &layer.norms[2], eps, x)?;
            }
            if spec.parallel {
                add_attention(a, h)?;
            }
            match &layer.body {
                Body::Mixture(mixture) => a.add_mixture(spec, mixture, (x, None), (&layer.norms[3], eps), h)?,
                Body::Both(both) => {
                    let [after_mlp, before, after] = &both.norms;
                    a.product(&both.mlp.gate_up, x, gate_up)?;
                    a.gated(gate_up, layer.activation, inner)?;
                    a.zeros_like(h, branch)?;
                    a.add_product(&both.mlp.down, inner, (after_mlp, eps), 1.0, branch)?;
                    a.norm(h, &both.router_norm, eps, routed)?;
                    a.norm(h, before, eps, x)?;
                    a.add_mixture(spec, &both.mixture, (x, Some(routed)), (after, eps), branch)?;
                    a.add_normed(branch, (&layer.norms[3], eps), spec.residual_scale, h)?;
                }
                Body::Mlp(mlp) => {
                    a.product(&mlp.gate_up, x, gate_up)?;
                    match spec.gated() {
                        true => a.gated(gate_up, layer.activation, inner)?,
                        false => a.activated(gate_up, layer.activation, inner)?,
                    }
                    a.add_product(&mlp.down, inner, (&layer.norms[3], eps), spec.residual_scale, h)?;
                }
            }
            if let Some(weights) = &layer.per_layer {
                a.norm(h, &model.no_norm, eps, x)?;
                a.product(&weights.gate, x, gate_up)?;
                a.activated(gate_up, layer.activation, inner)?;
                a.times(inner, per_layer)?;
                a.add_product(&weights.output, inner, (&weights.norm, eps), spec.residual_scale, h)?;
            }
            if spec.family.scales_layers {
                a.scale(h, layer.scalar)?;
            }
        }
        Ok(())
    }

    /// For each kind of rotation, `[cos × half, sin × half]` of every token in the batch.
    fn rotations(&self, chunks: &[Chunk]) -> Vec<Vec<f32>> {
        let table = |rope: &RopeTable| {
            let mut rows = Vec::new();
            for chunk in chunks {
                let start = chunk.start();
                (start..start + chunk.tokens.len()).for_each(|position| rope.append(position, chunk.length, &mut rows));
            }
            rows
        };
        self.ropes.iter().map(table).collect()
    }

    /// How often a GPU has gone through the layers by a recording.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn replays(&self) -> usize {
        match &self.backend {
            Backend::Cpu(_) => 0,
            Backend::Cuda(model) => model.passes().iter().map(|pass| pass.arithmetic.replays()).sum(),
        }
    }

    /// How many recordings a GPU has made.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn recordings(&self) -> usize {
        match &self.backend {
            Backend::Cpu(_) => 0,
            Backend::Cuda(model) => model.passes().iter().map(|pass| pass.arithmetic.recordings()).sum(),
        }
    }

    /// Logits of normed hidden states, `[rows, vocab]`.
    #[cfg(test)]
    pub(super) fn logits(&self, states: &States) -> Result<Matrix, Error> {
        let mut logits = Matrix::default();
        self.for_logits(states, &mut |row, of_row| {
            (logits.rows, logits.cols) = (row + 1, of_row.len());
            logits.data.extend(of_row);
        })?;
        Ok(logits)
    }

    /// Shows the logits of each of the normed hidden states, with its row.
    pub(super) fn for_logits(&self, states: &States, see: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        let mut show = |first: usize, logits: &Matrix| {
            let rows = logits.data.chunks(logits.cols.max(1));
            (first..).zip(rows).for_each(|(row, logits)| see(row, logits));
        };
        match (&self.backend, states) {
            (Backend::Cpu(model), States::Host(states)) => {
                let parts = states.data.chunks(ROWS_OF_LOGITS * states.cols.max(1));
                for (part, data) in parts.enumerate() {
                    let states = Matrix {
                        rows: data.len() / states.cols.max(1),
                        cols: states.cols,
                        data: data.to_vec(),
                    };
                    show(part * ROWS_OF_LOGITS, &self.logits_of(model, &states));
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            (Backend::Cuda(model), States::Cuda(states)) => model.with_arithmetic(|a| {
                a.for_logits(&model.head, states, &mut |first, mut logits| {
                    self.finish_logits(&mut logits.data);
                    show(first, &logits);
                })
            }),
            #[cfg(feature = "cuda")]
            _ => unreachable!("states go back to the device that computed them"),
        }
    }

    fn logits_of(&self, model: &Model<Cpu>, states: &Matrix) -> Matrix {
        let (mut packed, mut logits) = (PackedRows::default(), Matrix::default());
        packed.set(states, Threads(1));
        model.head.apply(&packed, &mut logits, Threads(self.threads));
        self.finish_logits(&mut logits.data);
        logits
    }

    /// The most likely token; the lowest of equals.
    pub(super) fn likeliest(&self, logits: &[f32]) -> u32 {
        kernels::argmax(self.isa, logits).0 as u32
    }

    /// The most likely token after each of the normed hidden states; the lowest of equals.
    pub(super) fn pick(&self, states: &States) -> Result<Picks, Error> {
        match (&self.backend, states) {
            (Backend::Cpu(model), States::Host(states)) => {
                let mut packed = PackedRows::default();
                packed.set(states, Threads(1));
                let finish = |logits: &mut [f32]| self.finish_logits(logits);
                let best = model.head.argmax(&packed, finish, Threads(self.threads));
                Ok(Picks::Ready(best.into_iter().map(|token| token as u32).collect()))
            }
            #[cfg(feature = "cuda")]
            (Backend::Cuda(model), States::Cuda(states)) => model
                .with_arithmetic(|a| a.pick(&self.spec, &model.head, states))
                .map(Picks::Pending),
            #[cfg(feature = "cuda")]
            _ => unreachable!("states go back to the device that computed them"),
        }
    }

    /// The natural log-probability of a target after each of the normed hidden states, and whether it is the most likely.
    pub(super) fn log_probabilities(&self, states: &States, targets: &[u32]) -> Result<Vec<(f64, bool)>, Error> {
        match (&self.backend, states) {
            (Backend::Cpu(model), States::Host(states)) => {
                let rows = states.data.chunks(ROWS_OF_LOGITS * states.cols);
                let parts = targets.chunks(ROWS_OF_LOGITS).zip(rows).flat_map(|(targets, rows)| {
                    let states = Matrix {
                        rows: targets.len(),
                        cols: states.cols,
                        data: rows.to_vec(),
                    };
                    let logits = self.logits_of(model, &states);
                    let rows = logits.data.par_chunks(logits.cols).zip(targets.par_iter());
                    let of_row = |(row, target): (&[f32], &u32)| {
                        let target = *target as usize;
                        (
                            kernels::log_probability(self.isa, row, target),
                            kernels::argmax(self.isa, row).0 == target,
                        )
                    };
                    rows.map(of_row).collect::<Vec<_>>()
                });
                Ok(parts.collect())
            }
            #[cfg(feature = "cuda")]
            (Backend::Cuda(model), States::Cuda(states)) => {
                model.with_arithmetic(|a| a.log_probabilities(&self.spec, &model.head, states, targets))
            }
            #[cfg(feature = "cuda")]
            _ => unreachable!("states go back to the device that computed them"),
        }
    }

    fn finish_logits(&self, logits: &mut [f32]) {
        if self.spec.logits_divisor != 1.0 {
            logits.iter_mut().for_each(|x| *x /= self.spec.logits_divisor);
        }
        if let Some(cap) = self.spec.final_softcap {
            kernels::softcap(self.isa, logits, cap);
        }
    }
}

impl<A: Arithmetic> Model<A> {
    fn zeros(spec: &DecoderSpec, device: A::Device) -> Result<Self, Error> {
        let h = spec.hidden;
        let linear = |inputs, outputs, bias| A::linear(&device, inputs, outputs, bias);
        let norm = |len| A::norm_of(&device, spec.norm, len);
        let of_heads = |len| A::norm_of(&device, spec.family.qk_norm_kind, len);
        let head_norm = |d: usize, width: usize| match spec.qk_norm {
            QkNorm::None => of_heads(0),
            QkNorm::PerHead | QkNorm::PerHeadRotated => of_heads(d),
            QkNorm::FullWidth | QkNorm::EachHead => of_heads(width),
        };
        let names = spec.layer_norms();
        let layer_norm = |i: usize| norm(if names[i].is_some() { h } else { 0 });
        let mlp = |width: usize, bias: bool| {
            Ok::<_, Error>(Mlp {
                gate_up: linear(h, if spec.gated() { 2 } else { 1 } * width, bias)?,
                down: linear(width, h, bias)?,
            })
        };
        let mixture = |experts: &Experts| {
            let (kept, in_each) = match A::EXPERTS_IN_ONE {
                true => (1, experts.count),
                false => (experts.count, 1),
            };
            let some = |_| {
                Ok::<_, Error>(Mlp {
                    gate_up: linear(h, in_each * 2 * experts.width, experts.biases)?,
                    down: linear(experts.width, in_each * h, experts.biases)?,
                })
            };
            let numbers = |are_there: bool| A::numbers(&device, if are_there { experts.count } else { 0 });
            Ok::<_, Error>(Mixture {
                router: linear(h, experts.count, experts.biases)?,
                correction: numbers(experts.names.correction.is_some())?,
                scales: numbers(experts.beside.is_some())?,
                experts: (0..kept).map(some).collect::<Result<_, _>>()?,
                shared: (experts.shared > 0).then(|| mlp(experts.shared, false)).transpose()?,
                shared_gate: (experts.shared > 0 && experts.shared_is_weighed)
                    .then(|| linear(h, 1, false))
                    .transpose()?,
            })
        };
        let per_layer = |PerLayer { width, vocab }| {
            Ok::<_, Error>(Box::new(PerLayerWeights {
                table: linear(width, vocab, false)?,
                projection: linear(h, width, false)?,
                gate: linear(h, width, false)?,
                output: linear(width, h, false)?,
                norm: norm(h)?,
            }))
        };
        let layer = |index: usize| {
            let (mixer, of_layer) = (spec.mixer_of(index), &spec.layers[index]);
            let (q, kv, d) = (
                spec.heads * of_layer.head_dim,
                of_layer.kv_heads * of_layer.head_dim,
                of_layer.head_dim,
            );
            let keys_and_values = if of_layer.has_keys() { 2 * kv } else { 0 };
            let gates = if spec.gates_heads() { q } else { 0 };
            Ok(Layer {
                qkv: match mixer {
                    Some(mixer) => linear(h, mixer.input_columns(), mixer.bias)?,
                    None => linear(h, q + keys_and_values + gates, spec.qkv_bias)?,
                },
                o: match mixer {
                    Some(mixer) => linear(mixer.width(), h, mixer.bias)?,
                    None => linear(q, h, spec.o_bias)?,
                },
                mixer: mixer
                    .map(|mixer| MixerWeights::zeros(&device, mixer).map(Box::new))
                    .transpose()?,
                body: match spec.experts_of(index) {
                    None => Body::Mlp(mlp(of_layer.intermediate, spec.mlp_bias)?),
                    Some(experts) if experts.beside.is_some() => Body::Both(Box::new(Both {
                        mlp: mlp(of_layer.intermediate, spec.mlp_bias)?,
                        mixture: mixture(experts)?,
                        norms: [norm(h)?, norm(h)?, norm(h)?],
                        router_norm: norm(h)?,
                    })),
                    Some(experts) => Body::Mixture(Box::new(mixture(experts)?)),
                },
                per_layer: spec.per_layer.map(per_layer).transpose()?,
                scalar: 1.0,
                activation: spec.activation,
                q_norm: if mixer.is_some() {
                    of_heads(0)?
                } else {
                    head_norm(d, q)?
                },
                k_norm: if mixer.is_some() {
                    of_heads(0)?
                } else {
                    head_norm(d, kv)?
                },
                sinks: A::numbers(&device, if spec.family.sinks { spec.heads } else { 0 })?,
                norms: [layer_norm(0)?, layer_norm(1)?, layer_norm(2)?, layer_norm(3)?],
            })
        };
        Ok(Model {
            embeddings: match spec.tie_embeddings {
                true => None,
                false => Some(linear(h, spec.vocab, false)?),
            },
            positions: match spec.names().positions {
                None => None,
                Some(_) => Some(linear(h, spec.max_positions, false)?),
            },
            head: linear(h, spec.vocab, spec.head_bias)?,
            final_norm: norm(h)?,
            projection_norm: norm(spec.per_layer.map_or(0, |per_layer| per_layer.width))?,
            no_norm: norm(0)?,
            layers: (0..spec.layers.len()).map(layer).collect::<Result<_, Error>>()?,
            passes: Mutex::default(),
            device,
        })
    }

    /// The product whose rows a tensor is, or whose bias.
    fn rows(&mut self, spec: &DecoderSpec, tensor: &Tensor) -> Option<Rows<'_, A>> {
        let of_layer = &spec.layers[tensor.layer];
        let (q, kv) = (spec.heads * of_layer.head_dim, of_layer.kv_heads * of_layer.head_dim);
        let layer = &mut self.layers[tensor.layer];
        let (linear, first) = match tensor.slot {
            Slot::Embeddings => (self.embeddings.as_mut().unwrap_or(&mut self.head), 0),
            Slot::Head => (&mut self.head, 0),
            Slot::Q if spec.gates_heads() => return None,
            Slot::Q | Slot::Qkv => (&mut layer.qkv, 0),
            Slot::K if of_layer.keys == Keys::OneProduct => return None,
            Slot::K => (&mut layer.qkv, q),
            Slot::V => (&mut layer.qkv, q + kv),
            Slot::O => (&mut layer.o, 0),
            Slot::Mlp(Of::Layer, part) => layer.body.mlp()?.rows(part, spec.gated(), of_layer.intermediate),
            Slot::Mlp(of, part) => layer.body.mixture()?.rows(spec, of, part)?,
            Slot::Router => (&mut layer.body.mixture()?.router, 0),
            Slot::SharedGate => (layer.body.mixture()?.shared_gate.as_mut()?, 0),
            _ => return None,
        };
        Some(Rows {
            device: &self.device,
            linear,
            first,
        })
    }

    /// Writes data of the right size, arranged as the decoder computes, rounded to a type.
    fn write(&mut self, spec: &DecoderSpec, tensor: &Tensor, dtype: DType, data: &[f32]) -> Result<(), Error> {
        let rounded: Vec<f32>;
        let is_rounded_there = A::ROUNDS_ROWS && !tensor.is_bias && self.rows(spec, tensor).is_some();
        let data = match dtype {
            DType::Bf16 | DType::F16 if !is_rounded_there => {
                let mut copy = data.to_vec();
                dtype.round(&mut copy);
                rounded = copy;
                &rounded
            }
            _ => data,
        };
        if let Some(mut rows) = self.rows(spec, tensor) {
            return rows.set(tensor.is_bias, data);
        }
        let device = &self.device;
        let of_layer = &spec.layers[tensor.layer];
        let (q, kv) = (spec.heads * of_layer.head_dim, of_layer.kv_heads * of_layer.head_dim);
        let norm_from = |slot: &mut A::Norm, first: usize| match tensor.is_bias {
            true => A::set_norm_bias(device, slot, first, data),
            false if spec.norm_plus_one => {
                let shifted: Vec<f32> = data.iter().map(|w| 1.0 + w).collect();
                A::set_norm(device, slot, first, &shifted)
            }
            false => A::set_norm(device, slot, first, data),
        };
        let norm = |slot: &mut A::Norm| norm_from(slot, 0);
        let linear_with = |linear: &mut A::Linear, first: usize, data: &[f32]| {
            let mut rows: Rows<'_, A> = Rows { device, linear, first };
            rows.set(tensor.is_bias, data)
        };
        let linear = |linear: &mut A::Linear, first: usize| linear_with(linear, first, data);
        if let Slot::PerLayer(part) = tensor.slot {
            let layers = (&mut self.layers[..], &mut self.projection_norm);
            return write_per_layer(device, layers, (tensor.layer, part), data, norm);
        }
        let layer = &mut self.layers[tensor.layer];
        match tensor.slot {
            Slot::Positions => self.positions.as_mut().map_or(Ok(()), |table| linear(table, 0)),
            Slot::FinalNorm => norm(&mut self.final_norm),
            Slot::Q => {
                // Queries first, and gates behind keys and values.
                let (queries, gates) = data.split_at(data.len() / 2);
                linear_with(&mut layer.qkv, 0, queries)?;
                linear_with(&mut layer.qkv, q + 2 * kv, gates)
            }
            Slot::K => {
                // Values come of the same product.
                linear(&mut layer.qkv, q)?;
                linear(&mut layer.qkv, q + kv)
            }
            Slot::Mlp(_, part) => layer.body.write_experts(spec, part, data, linear_with),
            Slot::Correction | Slot::ExpertScales => match (layer.body.mixture(), tensor.slot) {
                (Some(mixture), Slot::Correction) => A::set_numbers(device, &mut mixture.correction, data),
                (Some(mixture), _) => A::set_numbers(device, &mut mixture.scales, data),
                (None, _) => Ok(()),
            },
            Slot::BesideNorm(i) => match &mut layer.body {
                Body::Both(both) => norm(&mut both.norms[i]),
                _ => Ok(()),
            },
            Slot::RouterScale => match &mut layer.body {
                Body::Both(both) => {
                    let root = (data.len() as f32).powf(-0.5);
                    let scaled: Vec<f32> = data.iter().map(|x| x * root).collect();
                    A::set_norm(device, &mut both.router_norm, 0, &scaled)
                }
                _ => Ok(()),
            },
            Slot::Mixer(MixerPart::Input(first)) => linear(&mut layer.qkv, first),
            Slot::Mixer(MixerPart::Output) => linear(&mut layer.o, 0),
            Slot::Mixer(part) => match &mut layer.mixer {
                Some(weights) => weights.set(device, (part, tensor.is_bias), data),
                None => Ok(()),
            },
            Slot::Sinks => A::set_numbers(device, &mut layer.sinks, data),
            Slot::Xielu(i) => {
                layer.activation = with_number(layer.activation, i, data[0]);
                Ok(())
            }
            Slot::QNorm(first) => norm_from(&mut layer.q_norm, first),
            Slot::KNorm(first) => norm_from(&mut layer.k_norm, first),
            Slot::Norm(i) => norm(&mut layer.norms[i]),
            Slot::Scalar => {
                layer.scalar = data[0];
                Ok(())
            }
            Slot::Embeddings
            | Slot::Head
            | Slot::Qkv
            | Slot::V
            | Slot::O
            | Slot::Router
            | Slot::SharedGate
            | Slot::PerLayer(_) => unreachable!("written above"),
        }
    }

    fn passes(&self) -> std::sync::MutexGuard<'_, Vec<Pass<A>>> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_pass(&self) -> Result<Pass<A>, Error> {
        if let Some(pass) = self.passes().pop() {
            return Ok(pass);
        }
        Ok(Pass {
            arithmetic: A::new(&self.device)?,
            buffers: Buffers::default(),
        })
    }

    /// Lends the buffers of a pass.
    #[cfg(feature = "cuda")]
    fn with_arithmetic<T>(&self, f: impl FnOnce(&mut A) -> Result<T, Error>) -> Result<T, Error> {
        let mut pass = self.take_pass()?;
        let result = f(&mut pass.arithmetic);
        self.passes().push(pass);
        result
    }
}

impl<A: Arithmetic> Mlp<A> {
    /// The product that holds a part, and its first row there; behind a gate of `width` rows stands what it lets through.
    fn rows(&mut self, part: Part, is_gated: bool, width: usize) -> (&mut A::Linear, usize) {
        match part {
            Part::Gate | Part::GateUp => (&mut self.gate_up, 0),
            Part::Up => (&mut self.gate_up, if is_gated { width } else { 0 }),
            Part::Down => (&mut self.down, 0),
        }
    }
}

impl<A: Arithmetic> Body<A> {
    fn mlp(&mut self) -> Option<&mut Mlp<A>> {
        match self {
            Body::Mlp(mlp) => Some(mlp),
            Body::Both(both) => Some(&mut both.mlp),
            Body::Mixture(_) => None,
        }
    }

    fn mixture(&mut self) -> Option<&mut Mixture<A>> {
        match self {
            Body::Mixture(mixture) => Some(mixture),
            Body::Both(both) => Some(&mut both.mixture),
            Body::Mlp(_) => None,
        }
    }

    /// Writes a matrix of all experts where each has its own, with a function that writes rows from some on.
    fn write_experts(
        &mut self,
        spec: &DecoderSpec,
        part: Part,
        data: &[f32],
        write: impl Fn(&mut A::Linear, usize, &[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (Some(mixture), Some(experts)) = (self.mixture(), &spec.experts) else {
            unreachable!("a layer's tensors are those of its spec");
        };
        let data = data.chunks_exact(data.len() / experts.count);
        let mut mlps = mixture.experts.iter_mut().zip(data);
        mlps.try_for_each(|(mlp, data)| {
            let (linear, first) = mlp.rows(part, spec.gated(), experts.width);
            write(linear, first, data)
        })
    }
}

impl<A: Arithmetic> Mixture<A> {
    /// The product that holds a matrix, and its first row there; `None` of that of all experts where each has its own.
    fn rows(&mut self, spec: &DecoderSpec, of: Of, part: Part) -> Option<(&mut A::Linear, usize)> {
        let experts = spec.experts.as_ref()?;
        let (mlp, place) = match of {
            Of::Layer => return None,
            Of::Shared => return Some(self.shared.as_mut()?.rows(part, spec.gated(), experts.shared)),
            Of::Experts if A::EXPERTS_IN_ONE => (0, 0),
            Of::Experts => return None,
            Of::Expert(expert) if A::EXPERTS_IN_ONE => (0, expert),
            Of::Expert(expert) => (expert, 0),
        };
        let of_one = match part {
            Part::Down => spec.hidden,
            Part::Gate | Part::Up | Part::GateUp => 2 * experts.width,
        };
        let (linear, first) = self.experts.get_mut(mlp)?.rows(part, spec.gated(), experts.width);
        Some((linear, place * of_one + first))
    }
}

/// Writes a tensor about the embeddings that tokens have in every layer; those of all layers stand one after the other.
fn write_per_layer<A: Arithmetic>(
    device: &A::Device,
    (layers, projection_norm): (&mut [Layer<A>], &mut A::Norm),
    (layer, part): (usize, PerLayerPart),
    data: &[f32],
    norm: impl Fn(&mut A::Norm) -> Result<(), Error>,
) -> Result<(), Error> {
    let of_all = data.chunks_exact((data.len() / layers.len()).max(1));
    let mut layers = layers.iter_mut().filter_map(|layer| layer.per_layer.as_mut());
    let rows = |linear: &mut A::Linear, data: &[f32]| A::set_rows(device, linear, 0, data);
    match part {
        PerLayerPart::Table => layers
            .zip(of_all)
            .try_for_each(|(layer, data)| rows(&mut layer.table, data)),
        PerLayerPart::Projection => layers
            .zip(of_all)
            .try_for_each(|(layer, data)| rows(&mut layer.projection, data)),
        PerLayerPart::ProjectionNorm => norm(projection_norm),
        PerLayerPart::Gate => layers.nth(layer).map_or(Ok(()), |layer| rows(&mut layer.gate, data)),
        PerLayerPart::Output => layers.nth(layer).map_or(Ok(()), |layer| rows(&mut layer.output, data)),
        PerLayerPart::Norm => layers.nth(layer).map_or(Ok(()), |layer| norm(&mut layer.norm)),
    }
}

/// Under which a layer's keys and values are kept, or those of the layer that it takes them from; `keeping` has the layers of
/// the stops so far that keep some.
fn place_of_keys(keeping: &mut Vec<usize>, layer: usize, spec: &LayerSpec) -> usize {
    match spec.keys {
        Keys::Of(source) => keeping.iter().rposition(|kept| *kept == source).unwrap_or_default(),
        Keys::Own | Keys::OneProduct => {
            keeping.push(layer);
            keeping.len() - 1
        }
    }
}

/// An activation after one of its four numbers was read.
fn with_number(activation: Activation, i: usize, number: f32) -> Activation {
    let Activation::Xielu(mut numbers) = activation else {
        return activation;
    };
    match i {
        0 => numbers.alpha_p = number,
        1 => numbers.alpha_n = number,
        2 => numbers.beta = number,
        _ => numbers.eps = number,
    }
    Activation::Xielu(numbers)
}

impl Model<Cpu> {
    fn size_bytes(&self) -> usize {
        let of_mlp = |mlp: &Mlp<Cpu>| mlp.gate_up.size_bytes() + mlp.down.size_bytes();
        let of_layer = |layer: &Layer<Cpu>| {
            let of_mixture =
                |mixture: &Mixture<Cpu>| -> usize { mixture.experts.iter().chain(&mixture.shared).map(of_mlp).sum() };
            let body = match &layer.body {
                Body::Mlp(mlp) => of_mlp(mlp),
                Body::Mixture(mixture) => of_mixture(mixture),
                Body::Both(both) => of_mlp(&both.mlp) + of_mixture(&both.mixture),
            };
            let per_layer = layer.per_layer.as_ref();
            let per_layer = per_layer.map_or(0, |p| {
                p.projection.size_bytes() + p.gate.size_bytes() + p.output.size_bytes()
            });
            layer.qkv.size_bytes() + layer.o.size_bytes() + body + per_layer
        };
        self.head.size_bytes() + self.layers.iter().map(of_layer).sum::<usize>()
    }
}
