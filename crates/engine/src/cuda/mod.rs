//! The forward pass's arithmetic on an NVIDIA GPU: cuBLAS for the products with weights, own kernels for the rest.
//!
//! Weights, activations, keys and values are of the decoder's type; sums, softmax, logits and the residual stream are f32.
//! Keys and values stand in slabs of blocks that the pool's indices name, so a shared prefix is read where it is. Decoding steps
//! are recorded and replayed, see [`recording`].

mod experts;
mod gpu;
mod held;
mod kernels;
mod layout;
mod recording;
mod recurrence;
mod ring;

use std::sync::Arc;

use cudarc::driver::CudaSlice;
use heterosis_isa::DType;

use experts::Mixing;
#[cfg(test)]
pub(super) use gpu::Hog;
use gpu::{Address, Buffer, Gpu, Shape, Staging, launch};
pub(super) use gpu::{PIECE, Pending, check};
use kernels::Wanted;
use layout::{Addresses, Layout, Wants};
use recording::{Recorded, Recordings};
use recurrence::Remembering;

use super::Error;
use super::arithmetic::{Arithmetic, Buffers, HeadSettings, Layers, MixerWeights, Mixture, PerLayerWeights, Settings};
use super::cpu::growth;
use super::decoder::Chunk;
use super::kernels as host;
use super::kv::KvShape;
use super::spec::{Activation, DecoderSpec, LayerSpec, NormKind, QkNorm};

/// Rows whose logits are computed at once.
const ROWS_OF_LOGITS: usize = 256;
/// Bytes for the tokens that a step picks.
const PICKED_AT_LEAST: usize = 4 << 10;
/// Stretches of keys that a query meets, usually at most.
const STRETCHES: usize = 4;
/// Bytes of a slab of blocks.
const SLAB: usize = 64 << 20;

/// A weight `[out, in]` with its bias.
pub(super) struct Linear {
    inputs: usize,
    outputs: usize,
    weight: CudaSlice<u8>,
    /// f32.
    bias: Option<CudaSlice<u8>>,
}

impl Linear {
    /// Where the weight of an output stands.
    pub fn address(&self, gpu: &Gpu, output: usize) -> Address {
        gpu.address(&self.weight) + (output * self.inputs * gpu.element_bytes()) as u64
    }

    /// Writes bytes of the weight's elements, at most [`PIECE`], from byte `at` of output `first` on.
    pub fn put(
        &mut self,
        gpu: &Gpu,
        (first, at): (usize, usize),
        bytes: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        gpu.put(
            &self.weight,
            (first * self.inputs * gpu.element_bytes()).saturating_add(at),
            bytes,
            write,
        )
    }
}

/// Numbers in f32.
pub(super) struct Numbers {
    len: usize,
    memory: CudaSlice<u8>,
}

impl Numbers {
    /// Where they lie; 0 where there are none.
    fn address(&self, gpu: &Gpu) -> Address {
        match self.len {
            0 => 0,
            _ => gpu.address(&self.memory),
        }
    }
}

/// A norm: its weight, of length 0 where there is none at all, and its bias, where it has one; in f32.
pub(super) struct Norm {
    kind: NormKind,
    weight: Numbers,
    bias: Numbers,
}

impl Norm {
    /// As the kernels take it.
    fn by(&self, gpu: &Gpu, eps: f32) -> gpu::Norm {
        gpu::Norm {
            weight: self.weight.address(gpu),
            bias: self.bias.address(gpu),
            weights: self.weight.len as u32,
            biases: self.bias.len as u32,
            centred: u32::from(matches!(self.kind, NormKind::Layer { .. })),
            eps,
        }
    }
}

/// Opens a device for a model.
///
/// **Errors** a head, a key or a mixture that the kernels have no room for; whatever the driver refuses.
pub(super) fn open(ordinal: usize, dtype: DType, spec: &DecoderSpec) -> Result<Arc<Gpu>, Error> {
    let heads = spec.layers.iter().filter(|layer| !layer.recurrent);
    let wanted = Wanted {
        dtype,
        head_dim: spec.head_dim,
        largest_head: heads.map(|layer| layer.head_dim).max().unwrap_or(1),
        mixer_key: spec.mixer.as_ref().map(|mixer| mixer.key_dim),
        softcap: spec.attention_softcap.is_some(),
        experts: spec.experts.as_ref().map_or(0, |experts| experts.count),
    };
    Gpu::new(ordinal, wanted)
}

/// What the numbers of a matrix are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Element,
    Float,
}

impl Kind {
    fn bytes(self, gpu: &Gpu) -> usize {
        match self {
            Kind::Element => gpu.element_bytes(),
            Kind::Float => size_of::<f32>(),
        }
    }
}

/// Activations `[rows, cols]`, row by row.
#[derive(Default)]
pub(super) struct Matrix {
    rows: usize,
    cols: usize,
    kind: Kind,
    buffer: Buffer,
    gpu: Option<Arc<Gpu>>,
}

impl Matrix {
    /// Takes a new shape; what the elements hold is left open.
    fn reshape(&mut self, gpu: &Arc<Gpu>, rows: usize, cols: usize, kind: Kind) -> Result<Address, Error> {
        (self.rows, self.cols, self.kind) = (rows, cols, kind);
        self.gpu = Some(gpu.clone());
        self.buffer.reserve(gpu, rows * cols * kind.bytes(gpu))
    }

    fn address(&self) -> Address {
        self.gpu.as_ref().map_or(0, |gpu| self.buffer.address(gpu))
    }

    /// As f32 in the host's memory; waits for the device.
    pub fn into_host(self) -> Result<host::Matrix, Error> {
        let (rows, cols) = (self.rows, self.cols);
        let mut data = Vec::new();
        if let Some(gpu) = &self.gpu {
            let mut wide = Buffer::default();
            let floats = match self.kind {
                Kind::Float => self.address(),
                Kind::Element => {
                    let floats = wide.reserve(gpu, rows * cols * size_of::<f32>())?;
                    let count = (rows * cols) as u64;
                    launch!(
                        gpu,
                        "widen",
                        Gpu::blocks_for(rows * cols),
                        256,
                        self.address(),
                        count,
                        floats
                    )?;
                    floats
                }
            };
            data = gpu.download(floats, rows * cols)?;
        }
        Ok(host::Matrix { rows, cols, data })
    }
}

/// The buffers of one pass.
pub(super) struct Cuda {
    gpu: Arc<Gpu>,
    staging: Staging,
    layout: Layout,
    /// Where the layout's words stand.
    words: Address,
    shape: Option<KvShape>,
    slabs: Vec<CudaSlice<u8>>,
    slabs_of_states: Vec<CudaSlice<u8>>,
    branch: Matrix,
    kept: Matrix,
    logits: Matrix,
    sums: Buffer,
    partial: Buffer,
    picked: Buffer,
    scores: Buffer,
    mixing: Mixing,
    remembering: Remembering,
    recordings: Recordings,
}

impl Cuda {
    fn word(&self, offset: usize) -> Address {
        self.words + 4 * offset as u64
    }

    /// Memory for the blocks and states of a batch, and where they lie by their indices.
    fn reserve(&mut self, shape: &KvShape, chunks: &[Chunk]) -> Result<[Places; 2], Error> {
        if self.shape.as_ref() != Some(shape) {
            self.slabs.clear();
            self.slabs_of_states.clear();
            self.shape = Some(shape.clone());
        }
        let segments = || chunks.iter().flat_map(Chunk::segments);
        let blocks = segments().flat_map(|segment| &segment.blocks).map(|block| block.index);
        let states = segments().flat_map(|segment| &segment.state).map(|state| state.index);
        Ok([
            Places::reserve(&self.gpu, &mut self.slabs, shape.block_bytes(), blocks.max())?,
            Places::reserve(&self.gpu, &mut self.slabs_of_states, shape.state_bytes(), states.max())?,
        ])
    }

    /// What a segment remembers before its first token is what was remembered before it.
    fn begin_states(&self, chunks: &[Chunk], states: &Places) -> Result<(), Error> {
        for chunk in chunks.iter().filter(|chunk| chunk.own.len == 0) {
            let Some(own) = &chunk.own.state else { continue };
            let before = chunk.prefix.last().and_then(|segment| segment.state.as_ref());
            match before {
                Some(before) => self
                    .gpu
                    .copy(states.at(before.index), states.at(own.index), states.bytes)?,
                None => self.gpu.zero(states.at(own.index), states.bytes)?,
            }
        }
        Ok(())
    }

    /// Bytes of what steps of so many rows take besides weights, keys and values; never too little by much.
    pub fn step_bytes(spec: &DecoderSpec, dtype: DType, rows: usize) -> u64 {
        let most = |of: fn(&LayerSpec) -> usize| spec.layers.iter().map(of).max().unwrap_or(0);
        let (q, kv) = (
            spec.heads * most(|layer| layer.head_dim),
            most(|layer| layer.kv_heads * layer.head_dim),
        );
        let (gates, per_layer) = (
            if spec.gates_heads() { q } else { 0 },
            spec.per_layer.map_or(0, |per_layer| spec.hidden + 3 * per_layer.width),
        );
        let elements = 2 * spec.hidden + 2 * q + 2 * kv + gates + 3 * most(|layer| layer.intermediate) + per_layer;
        // The stream, a branch, and what attention leaves of each stretch of keys.
        let mixer = spec.mixer.as_ref();
        let floats = 2 * spec.hidden + STRETCHES * q + mixer.map_or(0, recurrence::row_floats);
        let elements = elements + mixer.map_or(0, |mixer| mixer.input_columns() + mixer.width());
        let of_experts = |experts| experts::row_bytes(experts, spec.hidden, dtype);
        let row = elements * dtype.size_bytes() + floats * size_of::<f32>();
        let row = row + spec.experts.as_ref().map_or(0, of_experts);
        (rows * row + ROWS_OF_LOGITS * spec.vocab * size_of::<f32>()) as u64
    }

    fn finish(spec: &DecoderSpec) -> (f32, f32) {
        (spec.logits_divisor, spec.final_softcap.unwrap_or(0.0))
    }

    /// `h += scale · norm(branch + bias)` for floats `branch`, as many as the stream has.
    fn add_branch(
        &self,
        branch: Address,
        bias: Option<&CudaSlice<u8>>,
        (norm, eps): (&Norm, f32),
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let has_bias = u32::from(bias.is_some());
        let bias = bias.map_or(0, |bias| self.gpu.address(bias));
        let (norm, cols) = (norm.by(&self.gpu, eps), h.cols as u32);
        launch!(
            self.gpu,
            "add_branch",
            (h.rows, 1),
            256,
            branch,
            bias,
            has_bias,
            norm,
            scale,
            cols,
            h.address(),
        )
    }

    /// Logits of `states[from..from + rows]` before divisor and softcap, f32.
    fn raw_logits(&mut self, head: &Linear, states: &Matrix, from: usize, rows: usize) -> Result<Address, Error> {
        let logits = self.logits.reshape(&self.gpu, rows, head.outputs, Kind::Float)?;
        let x = states.address() + (from * states.cols * self.gpu.element_bytes()) as u64;
        let weight = self.gpu.address(&head.weight);
        let sizes = (head.outputs, head.inputs);
        self.gpu.product(sizes, rows, weight, x, (1.0, 0.0), logits, true)?;
        if let Some(bias) = &head.bias {
            let (bias, count) = (self.gpu.address(bias), rows * head.outputs);
            let (cols, blocks) = (head.outputs as u32, Gpu::blocks_for(count));
            launch!(
                self.gpu,
                "add_bias_to_logits",
                blocks,
                256,
                logits,
                bias,
                cols,
                count as u64
            )?;
        }
        Ok(logits)
    }

    #[cfg(test)]
    pub fn replays(&self) -> usize {
        self.recordings.replays
    }

    #[cfg(test)]
    pub fn recordings(&self) -> usize {
        self.recordings.made
    }

    /// Logits before divisor and softcap in the host's memory, some rows at a time: the first row's number, and they.
    pub fn for_logits(
        &mut self,
        head: &Linear,
        states: &Matrix,
        see: &mut dyn FnMut(usize, host::Matrix),
    ) -> Result<(), Error> {
        for from in (0..states.rows).step_by(ROWS_OF_LOGITS) {
            let rows = ROWS_OF_LOGITS.min(states.rows - from);
            let logits = self.raw_logits(head, states, from, rows)?;
            let data = self.gpu.download(logits, rows * head.outputs)?;
            let cols = head.outputs;
            see(from, host::Matrix { rows, cols, data });
        }
        Ok(())
    }

    pub fn pick(&mut self, spec: &DecoderSpec, head: &Linear, states: &Matrix) -> Result<Pending, Error> {
        let (divisor, softcap) = Self::finish(spec);
        let picked = self
            .picked
            .reserve(&self.gpu, (4 * states.rows.next_power_of_two()).max(PICKED_AT_LEAST))?;
        for from in (0..states.rows).step_by(ROWS_OF_LOGITS) {
            let rows = ROWS_OF_LOGITS.min(states.rows - from);
            let (cols, from_word) = (head.outputs as u32, from as u32);
            let logits = self.raw_logits(head, states, from, rows)?;
            launch!(
                self.gpu,
                "pick",
                (rows, 1),
                1024,
                logits,
                cols,
                divisor,
                softcap,
                from_word,
                picked
            )?;
        }
        self.gpu.read_later(picked, states.rows)
    }

    pub fn log_probabilities(
        &mut self,
        spec: &DecoderSpec,
        head: &Linear,
        states: &Matrix,
        targets: &[u32],
    ) -> Result<Vec<(f64, bool)>, Error> {
        let (divisor, softcap) = Self::finish(spec);
        let mut found = Vec::with_capacity(targets.len());
        for (part, targets) in targets.chunks(ROWS_OF_LOGITS).enumerate() {
            let rows = targets.len();
            let logits = self.raw_logits(head, states, part * ROWS_OF_LOGITS, rows)?;
            let targets = self.staging.send(&self.gpu, targets)?;
            let scores = self.scores.reserve(&self.gpu, 8 * rows)?;
            let cols = head.outputs as u32;
            launch!(
                self.gpu,
                "log_probability",
                (rows, 1),
                1024,
                logits,
                cols,
                divisor,
                softcap,
                targets,
                scores
            )?;
            let scores: Vec<[f32; 2]> = self.gpu.download(scores, rows)?;
            found.extend(scores.iter().map(|[p, greedy]| (f64::from(*p), *greedy != 0.0)));
        }
        Ok(found)
    }
}

/// Where things of one size lie, by their indices.
struct Places {
    bytes: usize,
    in_slab: usize,
    slabs: Vec<Address>,
}

impl Places {
    /// With memory for those up to `last`.
    fn reserve(gpu: &Gpu, slabs: &mut Vec<CudaSlice<u8>>, bytes: u64, last: Option<usize>) -> Result<Self, Error> {
        let bytes = bytes as usize;
        let in_slab = (SLAB / bytes.max(1)).max(1);
        while slabs.len() < last.map_or(0, |last| last / in_slab + 1) {
            slabs.push(gpu.alloc(in_slab * bytes)?);
        }
        Ok(Places {
            bytes,
            in_slab,
            slabs: slabs.iter().map(|slab| gpu.address(slab)).collect(),
        })
    }

    fn at(&self, index: usize) -> Address {
        self.slabs[index / self.in_slab] + (index % self.in_slab * self.bytes) as u64
    }
}

impl Arithmetic for Cuda {
    type Device = Arc<Gpu>;
    type Linear = Linear;
    type Norm = Norm;
    type Numbers = Numbers;
    type Matrix = Matrix;

    const ROUNDS_ROWS: bool = true;
    const EXPERTS_IN_ONE: bool = true;

    fn linear(gpu: &Arc<Gpu>, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, Error> {
        Ok(Linear {
            inputs,
            outputs,
            weight: gpu.alloc_zeros(inputs * outputs * gpu.element_bytes())?,
            bias: bias.then(|| gpu.alloc_zeros(outputs * 4)).transpose()?,
        })
    }

    fn set_rows(gpu: &Arc<Gpu>, linear: &mut Linear, first: usize, weight: &[f32]) -> Result<(), Error> {
        gpu.write_elements(&linear.weight, first * linear.inputs, weight)
    }

    fn set_bias(gpu: &Arc<Gpu>, linear: &mut Linear, first: usize, bias: &[f32]) -> Result<(), Error> {
        match &linear.bias {
            Some(own) => gpu.write(own, first * 4, bytemuck::cast_slice(bias)),
            None => Ok(()),
        }
    }

    fn norm_of(gpu: &Arc<Gpu>, kind: NormKind, len: usize) -> Result<Norm, Error> {
        let (has_weight, has_bias) = kind.learns();
        let mut weight = Self::numbers(gpu, len)?;
        if !has_weight {
            Self::set_numbers(gpu, &mut weight, &vec![1.0; len])?;
        }
        Ok(Norm {
            kind,
            weight,
            bias: Self::numbers(gpu, if has_bias { len } else { 0 })?,
        })
    }

    fn set_norm(gpu: &Arc<Gpu>, norm: &mut Norm, first: usize, weight: &[f32]) -> Result<(), Error> {
        gpu.write(&norm.weight.memory, first * 4, bytemuck::cast_slice(weight))
    }

    fn set_norm_bias(gpu: &Arc<Gpu>, norm: &mut Norm, first: usize, bias: &[f32]) -> Result<(), Error> {
        gpu.write(&norm.bias.memory, first * 4, bytemuck::cast_slice(bias))
    }

    fn numbers(gpu: &Arc<Gpu>, len: usize) -> Result<Numbers, Error> {
        Ok(Numbers {
            len,
            memory: gpu.alloc_zeros(len * 4)?,
        })
    }

    fn set_numbers(gpu: &Arc<Gpu>, numbers: &mut Numbers, data: &[f32]) -> Result<(), Error> {
        gpu.write(&numbers.memory, 0, bytemuck::cast_slice(data))
    }

    fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        Ok(Cuda {
            gpu: gpu.clone(),
            staging: Staging::default(),
            layout: Layout::default(),
            words: 0,
            shape: None,
            slabs: Vec::new(),
            slabs_of_states: Vec::new(),
            branch: Matrix::default(),
            kept: Matrix::default(),
            logits: Matrix::default(),
            sums: Buffer::default(),
            partial: Buffer::default(),
            picked: Buffer::default(),
            scores: Buffer::default(),
            mixing: Mixing::default(),
            remembering: Remembering::default(),
            recordings: Recordings::default(),
        })
    }

    fn begin(
        &mut self,
        spec: &DecoderSpec,
        shape: KvShape,
        chunks: &[Chunk],
        rotations: Vec<Vec<f32>>,
    ) -> Result<(), Error> {
        let [blocks, states] = self.reserve(&shape, chunks)?;
        self.begin_states(chunks, &states)?;
        let mut kv_heads: Vec<usize> = Vec::new();
        for heads in shape.layers.iter().map(|layer| layer.kv_heads) {
            if !kv_heads.contains(&heads) {
                kv_heads.push(heads);
            }
        }
        let wants = Wants {
            heads: spec.heads,
            kv_heads: &kv_heads,
            rotations: &rotations,
            growth: &growth(spec, chunks),
            states: shape.state_len > 0,
        };
        let addresses = Addresses {
            block: &|index| blocks.at(index),
            state: &|index| states.at(index),
        };
        self.layout = Layout::new(chunks, &wants, &addresses);
        self.words = self.staging.send(&self.gpu, &self.layout.words)?;
        // Before anything is picked, so that a recording of a step that scores serves one that generates.
        self.picked.reserve(&self.gpu, PICKED_AT_LEAST)?;
        let slots = self
            .layout
            .asked
            .iter()
            .map(|asked| asked.room.entries * asked.kv_heads);
        let slots = slots.max().unwrap_or(0);
        let head_dim = shape.layers.iter().map(|layer| layer.head_dim).max().unwrap_or(0);
        self.sums.reserve(&self.gpu, slots * 8)?;
        self.partial.reserve(&self.gpu, slots * head_dim * 4)?;
        Ok(())
    }

    fn run(&mut self, route: u64, buffers: &mut Buffers<Self>, layers: Layers<'_, Self>) -> Result<(), Error> {
        if !self.layout.is_step {
            return layers(self, buffers);
        }
        let (gpu, room) = (self.gpu.clone(), self.layout.room.clone());
        self.recordings.forget_unless(route, gpu.moves());
        match self.recordings.find(&room) {
            Recorded::Ready(graph) => gpu.replay(graph)?,
            // The second time all buffers have their size.
            Recorded::Seen => match gpu.record(|| layers(self, buffers)) {
                Ok(graph) => {
                    gpu.replay(&graph)?;
                    self.recordings.keep(room, graph);
                }
                Err(_) => {
                    self.recordings.give_up();
                    layers(self, buffers)?;
                }
            },
            Recorded::No => {
                layers(self, buffers)?;
                self.recordings.see(room);
            }
        }
        buffers.h.rows = self.layout.rows;
        Ok(())
    }

    fn embed(
        &mut self,
        table: &Linear,
        learned: Option<&Linear>,
        _chunks: &[Chunk],
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let rows = self.layout.room.rows;
        let h = h.reshape(&self.gpu, rows, table.inputs, Kind::Float)?;
        let (tokens, picked) = (self.word(self.layout.tokens), self.picked.address(&self.gpu));
        let (weight, cols) = (self.gpu.address(&table.weight), table.inputs as u32);
        let positions = self.word(self.layout.positions);
        let learned = learned.map_or(0, |learned| self.gpu.address(&learned.weight));
        launch!(
            self.gpu,
            "embed",
            (rows, 1),
            128,
            tokens,
            picked,
            weight,
            positions,
            learned,
            scale,
            cols,
            h
        )
    }

    fn scale(&mut self, h: &mut Matrix, factor: f32) -> Result<(), Error> {
        let count = h.rows * h.cols;
        if factor == 1.0 {
            return Ok(());
        }
        launch!(
            self.gpu,
            "scale_stream",
            Gpu::blocks_for(count),
            256,
            h.address(),
            factor,
            count as u64
        )
    }

    fn norm(&mut self, h: &Matrix, norm: &Norm, eps: f32, x: &mut Matrix) -> Result<(), Error> {
        let x = x.reshape(&self.gpu, h.rows, h.cols, Kind::Element)?;
        let (norm, cols) = (norm.by(&self.gpu, eps), h.cols as u32);
        launch!(self.gpu, "norm_rows", (h.rows, 1), 256, h.address(), norm, cols, x)
    }

    fn product(&mut self, linear: &Linear, x: &Matrix, out: &mut Matrix) -> Result<(), Error> {
        let to = out.reshape(&self.gpu, x.rows, linear.outputs, Kind::Element)?;
        let (sizes, weight) = ((linear.outputs, linear.inputs), self.gpu.address(&linear.weight));
        self.gpu
            .product(sizes, x.rows, weight, x.address(), (1.0, 0.0), to, false)?;
        let Some(bias) = &linear.bias else {
            return Ok(());
        };
        let (bias, count) = (self.gpu.address(bias), x.rows * linear.outputs);
        let cols = linear.outputs as u32;
        launch!(
            self.gpu,
            "add_bias",
            Gpu::blocks_for(count),
            256,
            to,
            bias,
            cols,
            count as u64
        )
    }

    fn add_product(
        &mut self,
        linear: &Linear,
        x: &Matrix,
        (norm, eps): (&Norm, f32),
        scale: f32,
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let (sizes, weight) = ((linear.outputs, linear.inputs), self.gpu.address(&linear.weight));
        if linear.bias.is_none() && norm.weight.len == 0 {
            // The product adds itself to the stream.
            return self
                .gpu
                .product(sizes, x.rows, weight, x.address(), (scale, 1.0), h.address(), true);
        }
        let branch = self.branch.reshape(&self.gpu, x.rows, linear.outputs, Kind::Float)?;
        self.gpu
            .product(sizes, x.rows, weight, x.address(), (1.0, 0.0), branch, true)?;
        self.add_branch(branch, linear.bias.as_ref(), (norm, eps), scale, h)
    }

    fn heads(
        &mut self,
        spec: &DecoderSpec,
        heads: HeadSettings<'_, Norm>,
        _chunks: &mut [Chunk],
        qkv: &mut Matrix,
    ) -> Result<(), Error> {
        let has_keys = heads.of.has_keys();
        let own_keys = if has_keys { heads.of.kv_heads } else { 0 };
        let (dim, q_heads, kv_heads) = (heads.of.head_dim as u32, spec.heads as u32, own_keys as u32);
        let cols = qkv.cols as u32;
        let [q_norm, k_norm] = [heads.q_norm, heads.k_norm].map(|norm| norm.by(&self.gpu, spec.norm_eps));
        if spec.qk_norm == QkNorm::FullWidth {
            let (q, kv) = (q_heads * dim, kv_heads * dim);
            for (norm, first, width) in [(q_norm, 0u32, q), (k_norm, q, kv)] {
                let (rows, qkv) = ((qkv.rows, 1), qkv.address());
                launch!(
                    self.gpu,
                    "norm_width",
                    rows,
                    256,
                    qkv,
                    norm.weight,
                    norm.eps,
                    cols,
                    first,
                    width
                )?;
            }
        }
        let normed: u32 = match spec.qk_norm {
            QkNorm::None | QkNorm::FullWidth => 0,
            QkNorm::PerHead | QkNorm::EachHead => 1,
            QkNorm::PerHeadRotated => 2,
        };
        let (rotations, half_width) = match heads.rotation {
            Some(i) => (self.word(self.layout.rotations[i]), self.layout.half_widths[i] as u32),
            None => (0, 0),
        };
        let (blocks, slots) = (self.word(self.layout.row_blocks), self.word(self.layout.slots));
        let growth = self.layout.growth.map_or(0, |growth| self.word(growth));
        let start = self.shape.as_ref().map_or(0, |shape| shape.device_start(heads.layer)) as u32;
        let grid = (qkv.rows, spec.heads + 2 * own_keys);
        launch!(
            self.gpu,
            "heads",
            grid,
            32,
            qkv.address(),
            cols,
            dim,
            q_heads,
            kv_heads,
            q_norm,
            k_norm,
            normed,
            u32::from(spec.family.norms_values),
            spec.qkv_limit.unwrap_or(0.0),
            rotations,
            half_width,
            growth,
            blocks,
            slots,
            start,
        )
    }

    fn attend(
        &mut self,
        qkv: &Matrix,
        _chunks: &[Chunk],
        settings: Settings<'_, Numbers>,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let Some(kept) = &self.shape else {
            return Ok(());
        };
        let (kv, q_heads) = (kept.layers[settings.layer], settings.heads);
        let Some(asked) = self.layout.asked.iter().find(|asked| asked.kv_heads == kv.kv_heads) else {
            return Ok(());
        };
        let shape = Shape {
            dim: kv.head_dim as u32,
            q_heads: q_heads as u32,
            kv_heads: kv.kv_heads as u32,
            cols: qkv.cols as u32,
            start: kept.device_start(settings.layer) as u32,
            window: settings.window.map_or(0, |window| window as u32),
            items: asked.room.items as u32,
            scale: settings.scale,
            softcap: settings.softcap.unwrap_or(0.0),
        };
        let (sums, partial) = (self.sums.address(&self.gpu), self.partial.address(&self.gpu));
        let (items, entries) = (self.word(asked.items), self.word(asked.entries));
        let blocks = self.word(self.layout.item_blocks);
        let (kernel, warps) = self.gpu.attention_kernel(kv.head_dim);
        let grid = (asked.room.items.div_ceil(warps), kv.kv_heads);
        let threads = 32 * warps as u32;
        launch!(
            self.gpu,
            kernel,
            grid,
            threads,
            qkv.address(),
            items,
            entries,
            blocks,
            shape,
            sums,
            partial
        )?;
        let out = out.reshape(&self.gpu, qkv.rows, q_heads * kv.head_dim, Kind::Element)?;
        let (starts, lists) = (self.word(asked.starts), self.word(asked.lists));
        launch!(
            self.gpu,
            "combine",
            (qkv.rows, q_heads),
            32,
            starts,
            lists,
            shape,
            sums,
            partial,
            settings.sinks.address(&self.gpu),
            out
        )
    }

    fn keep_wanted(&mut self, _chunks: &[Chunk], x: &mut Matrix) -> Result<(), Error> {
        if self.layout.wanted_count == self.layout.rows {
            return Ok(());
        }
        let (rows, wanted) = (self.layout.wanted_count, self.word(self.layout.wanted));
        let to = self.kept.reshape(&self.gpu, rows, x.cols, x.kind)?;
        let kernel = match x.kind {
            Kind::Float => "keep_stream",
            Kind::Element => "keep_elements",
        };
        launch!(self.gpu, kernel, (rows, 1), 128, x.address(), wanted, x.cols as u32, to)?;
        // Back to where recordings have it.
        let (cols, kind) = (x.cols, x.kind);
        let own = x.reshape(&self.gpu, rows, cols, kind)?;
        self.gpu.copy(to, own, rows * cols * kind.bytes(&self.gpu))
    }

    fn gated(&mut self, gate_up: &Matrix, activation: Activation, out: &mut Matrix) -> Result<(), Error> {
        let cols = gate_up.cols / 2;
        let count = gate_up.rows * cols;
        let activation = activation_of(activation);
        let to = out.reshape(&self.gpu, gate_up.rows, cols, Kind::Element)?;
        let from = gate_up.address();
        launch!(
            self.gpu,
            "gated",
            Gpu::blocks_for(count),
            256,
            from,
            activation,
            cols as u32,
            count as u64,
            to
        )
    }

    fn add_mixture(
        &mut self,
        spec: &DecoderSpec,
        mixture: &Mixture<Cuda>,
        (x, routed): (&Matrix, Option<&Matrix>),
        norm: (&Norm, f32),
        h: &mut Matrix,
    ) -> Result<(), Error> {
        let Some(experts) = &spec.experts else {
            return Ok(());
        };
        let mut mixing = std::mem::take(&mut self.mixing);
        let mixed = self.mix(
            &mut mixing,
            (experts, mixture, spec.activation),
            (x, routed.unwrap_or(x)),
        );
        self.mixing = mixing;
        self.add_branch(mixed?, None, norm, spec.residual_scale, h)
    }

    fn activated(&mut self, x: &Matrix, activation: Activation, out: &mut Matrix) -> Result<(), Error> {
        let (count, activation) = (x.rows * x.cols, activation_of(activation));
        let to = out.reshape(&self.gpu, x.rows, x.cols, Kind::Element)?;
        let (from, blocks) = (x.address(), Gpu::blocks_for(count));
        launch!(self.gpu, "activated", blocks, 256, from, activation, count as u64, to)
    }

    fn embed_in_layer(
        &mut self,
        per_layer: &PerLayerWeights<Cuda>,
        (norm, eps): (&Norm, f32),
        _chunks: &[Chunk],
        x: &Matrix,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let projection = &per_layer.projection;
        let width = projection.outputs;
        let projected = self.branch.reshape(&self.gpu, x.rows, width, Kind::Float)?;
        let (sizes, weight) = ((width, projection.inputs), self.gpu.address(&projection.weight));
        let scale = (x.cols as f32).powf(-0.5);
        self.gpu
            .product(sizes, x.rows, weight, x.address(), (scale, 0.0), projected, true)?;
        let to = out.reshape(&self.gpu, x.rows, width, Kind::Element)?;
        let (tokens, picked) = (self.word(self.layout.tokens), self.picked.address(&self.gpu));
        launch!(
            self.gpu,
            "embed_in_layer",
            (x.rows, 1),
            128,
            projected,
            norm.by(&self.gpu, eps),
            tokens,
            picked,
            self.gpu.address(&per_layer.table.weight),
            (width as f32).sqrt(),
            width as u32,
            to
        )
    }

    fn add_normed(&mut self, branch: &Matrix, norm: (&Norm, f32), scale: f32, h: &mut Matrix) -> Result<(), Error> {
        self.add_branch(branch.address(), None, norm, scale, h)
    }

    fn zeros_like(&mut self, x: &Matrix, out: &mut Matrix) -> Result<(), Error> {
        let to = out.reshape(&self.gpu, x.rows, x.cols, Kind::Float)?;
        self.gpu.zero(to, x.rows * x.cols * size_of::<f32>())
    }

    fn times(&mut self, x: &mut Matrix, by: &Matrix) -> Result<(), Error> {
        let (count, blocks) = (x.rows * x.cols, Gpu::blocks_for(x.rows * x.cols));
        launch!(
            self.gpu,
            "multiply_by",
            blocks,
            256,
            x.address(),
            by.address(),
            count as u64
        )
    }

    fn gate_heads(&mut self, qkv: &Matrix, attended: &mut Matrix) -> Result<(), Error> {
        let (cols, width) = (qkv.cols as u32, attended.cols as u32);
        let count = attended.rows * attended.cols;
        let (from, to) = (qkv.address(), attended.address());
        let blocks = Gpu::blocks_for(count);
        launch!(self.gpu, "gate_heads", blocks, 256, from, cols, width, count as u64, to)
    }

    fn remember(
        &mut self,
        spec: &DecoderSpec,
        weights: &MixerWeights<Cuda>,
        stop: usize,
        _chunks: &mut [Chunk],
        inputs: &Matrix,
        out: &mut Matrix,
    ) -> Result<(), Error> {
        let Some(mixer) = &spec.mixer else {
            return Ok(());
        };
        let mut buffers = std::mem::take(&mut self.remembering);
        let remembered = self.recur(&mut buffers, (mixer, weights, spec.norm_eps), stop, inputs, out);
        self.remembering = buffers;
        remembered
    }
}

/// As the kernels know it.
fn activation_of(activation: Activation) -> gpu::Activation {
    let of_kind = |kind| gpu::Activation {
        kind,
        ..gpu::Activation::default()
    };
    match activation {
        Activation::Silu => of_kind(0),
        Activation::GeluTanh => of_kind(1),
        Activation::GeluErf => of_kind(2),
        Activation::Relu => of_kind(3),
        Activation::Relu2 => of_kind(4),
        Activation::Clamped { alpha, limit } => gpu::Activation {
            alpha,
            limit,
            ..of_kind(5)
        },
        Activation::Xielu(numbers) => {
            let [p, n] = numbers.curves();
            gpu::Activation {
                alpha: p,
                limit: n,
                beta: numbers.beta,
                eps: numbers.eps,
                ..of_kind(6)
            }
        }
    }
}
