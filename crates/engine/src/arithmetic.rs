//! What a device must be able to do for the forward pass, which `decoder` writes once for all of them.

use super::Error;
use super::decoder::Chunk;
use super::kernels::Matrix;
use super::kv::KvShape;
use super::mixer::{Mixer, MixerPart};
use super::spec::{Activation, DecoderSpec, LayerSpec, NormKind};

/// The arithmetic of one device, with the buffers that a pass over a batch needs. Matrices are `[rows, cols]`, one row for
/// each token of the batch.
///
/// Every method may fail where a device can: memory that is not there, a launch that is refused.
pub(super) trait Arithmetic: Send + Sized {
    /// Where weights are made.
    type Device: Send + Sync;
    /// A weight `[out, in]` with its bias.
    type Linear: Send + Sync;
    /// A norm's weight and bias; of length 0 there is no norm.
    type Norm: Send + Sync;
    /// f32 numbers that are computed with as they are.
    type Numbers: Send + Sync;
    type Matrix: Default + Send;

    /// Whether rows are kept in the decoder's type, and rounded when they are set.
    const ROUNDS_ROWS: bool;
    /// Whether the experts of a layer are kept in one: see [`Mixture::experts`].
    const EXPERTS_IN_ONE: bool;

    fn linear(device: &Self::Device, inputs: usize, outputs: usize, bias: bool) -> Result<Self::Linear, Error>;
    /// Writes `weight` (`[rows, in]`, row by row) into the outputs from `first` on.
    fn set_rows(device: &Self::Device, linear: &mut Self::Linear, first: usize, weight: &[f32]) -> Result<(), Error>;
    fn set_bias(device: &Self::Device, linear: &mut Self::Linear, first: usize, bias: &[f32]) -> Result<(), Error>;
    /// A norm of a kind over `len` numbers, with all weights zero, or one where the kind has none.
    fn norm_of(device: &Self::Device, kind: NormKind, len: usize) -> Result<Self::Norm, Error>;
    /// Writes the weights from `first` on.
    fn set_norm(device: &Self::Device, norm: &mut Self::Norm, first: usize, weight: &[f32]) -> Result<(), Error>;
    fn set_norm_bias(device: &Self::Device, norm: &mut Self::Norm, first: usize, bias: &[f32]) -> Result<(), Error>;
    /// So many zeros.
    fn numbers(device: &Self::Device, len: usize) -> Result<Self::Numbers, Error>;
    /// Writes all of them.
    fn set_numbers(device: &Self::Device, numbers: &mut Self::Numbers, data: &[f32]) -> Result<(), Error>;

    fn new(device: &Self::Device) -> Result<Self, Error>;

    /// Takes up a batch: where its tokens stand, what each may look at, and the angles of every kind of rotation
    /// (`[cos × half, sin × half]` for each token).
    fn begin(
        &mut self,
        spec: &DecoderSpec,
        shape: KvShape,
        chunks: &[Chunk],
        rotations: Vec<Vec<f32>>,
    ) -> Result<(), Error>;
    /// Computes `layers` over the batch that was begun. A device may record what it is made to do, and do it again for a
    /// later batch of the same shape, as long as `route` is the same: it changes with the path, and with numbers of the weights that
    /// the host has. Other weights are written where those before them were.
    fn run(&mut self, _route: u64, buffers: &mut Buffers<Self>, layers: Layers<'_, Self>) -> Result<(), Error> {
        layers(self, buffers)
    }
    /// `h = scale · table[token]`, plus `positions[position]` where a family has learned them.
    fn embed(
        &mut self,
        table: &Self::Linear,
        positions: Option<&Self::Linear>,
        chunks: &[Chunk],
        scale: f32,
        h: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// `h = factor · h`.
    fn scale(&mut self, h: &mut Self::Matrix, factor: f32) -> Result<(), Error>;
    /// `x = norm(h)`; a copy where there is no weight.
    fn norm(&mut self, h: &Self::Matrix, weight: &Self::Norm, eps: f32, x: &mut Self::Matrix) -> Result<(), Error>;
    /// `out = x · weightᵀ + bias`.
    fn product(&mut self, linear: &Self::Linear, x: &Self::Matrix, out: &mut Self::Matrix) -> Result<(), Error>;
    /// `h += scale · norm(x · weightᵀ + bias)`: the end of a branch.
    fn add_product(
        &mut self,
        linear: &Self::Linear,
        x: &Self::Matrix,
        norm: (&Self::Norm, f32),
        scale: f32,
        h: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// Normalises queries and keys where the family does, holds them and values within its limit, rotates the former, and keeps
    /// keys and values in the chunks' segments.
    fn heads(
        &mut self,
        spec: &DecoderSpec,
        heads: HeadSettings<'_, Self::Norm>,
        chunks: &mut [Chunk],
        qkv: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// `out = softmax(q · kᵀ) · v` for every query head of every token; queries are the first columns.
    fn attend(
        &mut self,
        qkv: &Self::Matrix,
        chunks: &[Chunk],
        settings: Settings<'_, Self::Numbers>,
        out: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// What the heads attended to, each number weighed by the sigmoid of its gate: the last columns of `qkv`.
    fn gate_heads(&mut self, qkv: &Self::Matrix, attended: &mut Self::Matrix) -> Result<(), Error>;
    /// What a layer that does not attend makes of the tokens and of what it remembers of those before them, which it keeps in
    /// the chunks' segments; `stop` counts such layers on the path.
    fn remember(
        &mut self,
        spec: &DecoderSpec,
        weights: &MixerWeights<Self>,
        stop: usize,
        chunks: &mut [Chunk],
        inputs: &Self::Matrix,
        out: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// Each token's embeddings in a layer: `(norm(x · projectionᵀ / √hidden) + √width · table[token]) / √2`, where `x` are its
    /// embeddings in the stream.
    fn embed_in_layer(
        &mut self,
        per_layer: &PerLayerWeights<Self>,
        norm: (&Self::Norm, f32),
        chunks: &[Chunk],
        x: &Self::Matrix,
        out: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// `h += scale · norm(branch)`.
    fn add_normed(
        &mut self,
        branch: &Self::Matrix,
        norm: (&Self::Norm, f32),
        scale: f32,
        h: &mut Self::Matrix,
    ) -> Result<(), Error>;
    /// A matrix of zeros, as large as another.
    fn zeros_like(&mut self, x: &Self::Matrix, out: &mut Self::Matrix) -> Result<(), Error>;
    /// `x = x · by` on each number.
    fn times(&mut self, x: &mut Self::Matrix, by: &Self::Matrix) -> Result<(), Error>;
    /// Keeps the rows whose hidden states are wanted.
    fn keep_wanted(&mut self, chunks: &[Chunk], x: &mut Self::Matrix) -> Result<(), Error>;
    /// `out = act(gate) · up` for rows `[gate × n, up × n]`.
    fn gated(&mut self, gate_up: &Self::Matrix, activation: Activation, out: &mut Self::Matrix) -> Result<(), Error>;
    /// `out = act(x)`, for an MLP without a gate.
    fn activated(&mut self, x: &Self::Matrix, activation: Activation, out: &mut Self::Matrix) -> Result<(), Error>;
    /// `h += scale · norm(Σ weight · expert(x))`, over the experts that each row is sent to, by what the router reads: x too
    /// where there is nothing else.
    fn add_mixture(
        &mut self,
        spec: &DecoderSpec,
        mixture: &Mixture<Self>,
        x: (&Self::Matrix, Option<&Self::Matrix>),
        norm: (&Self::Norm, f32),
        h: &mut Self::Matrix,
    ) -> Result<(), Error>;
}

/// The two products of an MLP: gate and up in one, and down.
pub(super) struct Mlp<A: Arithmetic> {
    pub gate_up: A::Linear,
    pub down: A::Linear,
}

/// What a layer makes of the embeddings that tokens have in it.
pub(super) struct PerLayerWeights<A: Arithmetic> {
    /// `[vocab, width]`.
    pub table: A::Linear,
    /// `[width, hidden]`, like the gate.
    pub projection: A::Linear,
    pub gate: A::Linear,
    /// `[hidden, width]`.
    pub output: A::Linear,
    pub norm: A::Norm,
}

/// The weights of a mixer beside its two products.
pub(super) struct MixerWeights<A: Arithmetic> {
    /// `[kernel, channels]`.
    pub conv: A::Numbers,
    /// Zeros where there is none.
    pub conv_bias: A::Numbers,
    pub decay: A::Numbers,
    pub step: A::Numbers,
    pub skip: A::Numbers,
    pub norm: A::Numbers,
    channels: usize,
}

impl<A: Arithmetic> MixerWeights<A> {
    pub fn zeros(device: &A::Device, mixer: &Mixer) -> Result<Self, Error> {
        let channels = mixer.channels();
        Ok(MixerWeights {
            conv: A::numbers(device, mixer.kernel * channels)?,
            conv_bias: A::numbers(device, channels)?,
            decay: A::numbers(device, mixer.heads)?,
            step: A::numbers(device, mixer.heads)?,
            skip: A::numbers(device, mixer.heads)?,
            norm: A::numbers(device, mixer.norm_len())?,
            channels,
        })
    }

    /// Takes a tensor, or a bias, as the file has it. (The products are not here.)
    pub fn set(&mut self, device: &A::Device, (part, is_bias): (MixerPart, bool), data: &[f32]) -> Result<(), Error> {
        let numbers = match part {
            MixerPart::Conv if is_bias => &mut self.conv_bias,
            MixerPart::Conv => {
                let kernel = data.len() / self.channels;
                let of_place = |place| data.iter().skip(place).step_by(kernel).copied();
                let turned: Vec<f32> = (0..kernel).flat_map(of_place).collect();
                return A::set_numbers(device, &mut self.conv, &turned);
            }
            MixerPart::Decay => &mut self.decay,
            MixerPart::Step => &mut self.step,
            MixerPart::Skip => &mut self.skip,
            MixerPart::Norm => &mut self.norm,
            MixerPart::Input(_) | MixerPart::Output => return Ok(()),
        };
        A::set_numbers(device, numbers, data)
    }
}

/// A layer's experts.
pub(super) struct Mixture<A: Arithmetic> {
    pub router: A::Linear,
    /// Empty where the family has none.
    pub correction: A::Numbers,
    /// One for each; or one for all, of whose outputs one expert's stand behind the other's.
    pub experts: Vec<Mlp<A>>,
    /// What the weights of the experts are multiplied by; empty where the family has none.
    pub scales: A::Numbers,
    pub shared: Option<Mlp<A>>,
    /// `[1, hidden]`, where the shared expert is weighed.
    pub shared_gate: Option<A::Linear>,
}

/// A layer's one MLP, and experts beside it.
pub(super) struct Both<A: Arithmetic> {
    pub mlp: Mlp<A>,
    pub mixture: Mixture<A>,
    /// After the MLP, before the experts, and after them.
    pub norms: [A::Norm; 3],
    /// Of what the router reads.
    pub router_norm: A::Norm,
}

/// All layers over the batch that was begun.
pub(super) type Layers<'a, A> = &'a mut dyn FnMut(&mut A, &mut Buffers<A>) -> Result<(), Error>;

/// What a forward pass keeps between operations.
pub(super) struct Buffers<A: Arithmetic> {
    /// The residual stream.
    pub h: A::Matrix,
    pub x: A::Matrix,
    pub qkv: A::Matrix,
    pub attended: A::Matrix,
    pub gate_up: A::Matrix,
    pub inner: A::Matrix,
    /// The tokens' embeddings, where layers read them, and those in the layer.
    pub embedded: A::Matrix,
    pub per_layer: A::Matrix,
    /// What an MLP and experts beside it make together, and what their router reads.
    pub branch: A::Matrix,
    pub routed: A::Matrix,
}

impl<A: Arithmetic> Default for Buffers<A> {
    fn default() -> Self {
        Buffers {
            h: A::Matrix::default(),
            x: A::Matrix::default(),
            qkv: A::Matrix::default(),
            attended: A::Matrix::default(),
            gate_up: A::Matrix::default(),
            inner: A::Matrix::default(),
            embedded: A::Matrix::default(),
            per_layer: A::Matrix::default(),
            branch: A::Matrix::default(),
            routed: A::Matrix::default(),
        }
    }
}

/// What happens to queries and keys in one layer.
pub(super) struct HeadSettings<'a, Norm> {
    /// Under which keys and values are kept: place among the path's stops that have their own.
    pub layer: usize,
    pub of: &'a LayerSpec,
    pub q_norm: &'a Norm,
    pub k_norm: &'a Norm,
    /// Which of the batch's rotations; `None`: none.
    pub rotation: Option<usize>,
}

/// The settings of one layer's attention.
pub(super) struct Settings<'a, Numbers> {
    /// Under which its keys and values are kept.
    pub layer: usize,
    /// Query heads.
    pub heads: usize,
    pub window: Option<usize>,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// For each query head a score beside those of the keys; empty where the family has none.
    pub sinks: &'a Numbers,
}

/// Normed hidden states of the wanted tokens, where they were computed.
pub(super) enum States {
    Host(Matrix),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Matrix),
}

/// Tokens that were chosen, perhaps not yet.
pub(super) enum Picks {
    Ready(Vec<u32>),
    #[cfg(feature = "cuda")]
    Pending(super::cuda::Pending),
}

impl States {
    /// In the host's memory, as f32.
    pub fn into_host(self) -> Result<Matrix, Error> {
        match self {
            States::Host(states) => Ok(states),
            #[cfg(feature = "cuda")]
            States::Cuda(states) => states.into_host(),
        }
    }
}

impl Picks {
    /// The tokens; waits for the device.
    pub fn wait(self) -> Result<Vec<u32>, Error> {
        match self {
            Picks::Ready(tokens) => Ok(tokens),
            #[cfg(feature = "cuda")]
            Picks::Pending(tokens) => tokens.wait(),
        }
    }
}
