//! A GPU: its one stream, its kernels, its memory. The only place of the decoder that calls CUDA.
//!
//! Everything runs on one stream, in the order in which it is launched; nothing here waits for it but [`Pending::wait`],
//! [`Gpu::download`], a full staging buffer and a full [`Ring`]. So memory may be given back, or written again, right after the
//! launch that reads it, and what is launched after a weight was written reads what was written.
#![allow(unsafe_code)] // foreign calls; see SAFETY at each

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::cublas::{self, CudaBlas};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig,
    PinnedHostSlice, PushKernelArg, result, sys,
};
use heterosis_isa::DType;
use rayon::prelude::*;

use super::super::Error;
use super::super::device::NoGpu;
use super::held::Held;
use super::kernels::{self, ON_MMA, ON_TENSOR_CORES, Wanted};
use super::ring::Ring;

/// Bytes of cuBLAS' workspace; what NVIDIA advises for compute capability 9.0.
const BLAS_WORKSPACE: usize = 32 << 20;
/// Host memory from which the device copies weights; in tests less than one of them takes.
const RING: usize = if cfg!(test) { 12 << 10 } else { 192 << 20 };
/// Bytes that are written to it at once: while one piece is copied, others are written.
pub const PIECE: usize = RING / 6;
/// Bytes that one thread copies at once.
const COPIED_AT_ONCE: usize = 1 << 20;

pub struct Gpu {
    pub dtype: DType,
    stream: Arc<CudaStream>,
    blas: CudaBlas,
    kernels: HashMap<&'static str, CudaFunction>,
    /// The dimensions of heads that attend on tensor cores, where any do.
    on_tensor_cores: Option<usize>,
    /// Host memory for picks, used again.
    pinned: Arc<Mutex<Vec<PinnedHostSlice<u32>>>>,
    /// Taken out by whoever writes weights.
    ring: Mutex<Option<PinnedRing>>,
    held: Mutex<Held>,
    /// How often a buffer has moved to other memory.
    moves: AtomicU64,
    /// A step is being recorded.
    records: AtomicBool,
    /// Of cuBLAS, which would otherwise ask for memory while a step is recorded.
    _workspace: CudaSlice<u8>,
}

/// Says at what a CUDA call failed.
pub trait During<T> {
    fn during(self, doing: &str) -> Result<T, Error>;
}

impl<T, E: std::fmt::Debug> During<T> for Result<T, E> {
    fn during(self, doing: &str) -> Result<T, Error> {
        self.map_err(|error| {
            let (doing, reason) = (doing.to_string(), format!("{error:?}"));
            match reason.contains("OUT_OF_MEMORY") || reason.contains("ALLOC_FAILED") {
                true => Error::GpuMemory { doing },
                false => Error::Gpu { doing, reason },
            }
        })
    }
}

/// A pointer to the device's memory, as a kernel takes it.
pub type Address = u64;

/// Device memory that grows.
#[derive(Default)]
pub struct Buffer {
    memory: Option<CudaSlice<u8>>,
}

impl Buffer {
    /// Room for `bytes`; what they hold is left open.
    pub fn reserve(&mut self, gpu: &Gpu, bytes: usize) -> Result<Address, Error> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            if self.memory.take().is_some() {
                gpu.moves.fetch_add(1, Ordering::Relaxed);
            }
            self.memory = Some(gpu.alloc(bytes)?);
        }
        Ok(self.address(gpu))
    }

    pub fn address(&self, gpu: &Gpu) -> Address {
        self.memory.as_ref().map_or(0, |memory| gpu.address(memory))
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, CudaSlice::len)
    }
}

/// One argument list of a launch.
macro_rules! launch {
    ($gpu:expr, $kernel:expr, $grid:expr, $threads:expr, $($arg:expr),+ $(,)?) => {
        $gpu.launch($kernel, $grid, $threads, |builder| { $( builder.push($arg); )+ })
    };
}
pub(super) use launch;

/// Arguments of a launch, kept where the driver can read them.
#[derive(Default)]
pub struct Args {
    words: Vec<Arg>,
}

pub enum Arg {
    Address(u64),
    Word(u32),
    Float(f32),
    Shape(Shape),
    Activation(Activation),
    Norm(Norm),
    Routing(Routing),
    Product(Product),
    Mixer(Mixer),
}

/// `Shape` of `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub dim: u32,
    pub q_heads: u32,
    pub kv_heads: u32,
    /// Numbers of a row of queries and what stands behind them.
    pub cols: u32,
    /// Elements of a block before those of the layer.
    pub start: u32,
    /// 0: none.
    pub window: u32,
    pub items: u32,
    pub scale: f32,
    /// Where the kernels are compiled for one.
    pub softcap: f32,
}

/// `Activation` of `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Activation {
    pub kind: u32,
    pub alpha: f32,
    pub limit: f32,
    pub beta: f32,
    pub eps: f32,
}

/// `Norm` of `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// 0: there is no norm.
    pub weight: Address,
    pub bias: Address,
    pub weights: u32,
    pub biases: u32,
    pub centred: u32,
    pub eps: f32,
}

/// `Routing` of `experts.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    pub per_token: u32,
    pub router: u32,
    pub groups: u32,
    pub best: u32,
    pub normalised: u32,
    pub floor: f32,
    pub scale: f32,
    pub jitter: f32,
}

/// `Product` of `experts.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub x: Address,
    pub tiles: Address,
    pub order: Address,
    pub weight: Address,
    /// 0: none.
    pub bias: Address,
    pub out: Address,
    pub per_token: u32,
    pub inputs: u32,
    pub outputs: u32,
    pub activation: Activation,
}

/// `Mixer` of `recurrence.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mixer {
    /// 0 DeltaNet, 1 Mamba-2, 2 a short convolution.
    pub kind: u32,
    pub key_heads: u32,
    pub heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    pub kernel: u32,
    pub channels: u32,
    /// Of a row of what it reads of the stream.
    pub cols: u32,
    /// Numbers of a head's matrix, padding included.
    pub matrix: u32,
    /// Numbers of a state before those of the layer, of which the first so many are the convolution's.
    pub start: u32,
    pub conv: u32,
}

// SAFETY: plain numbers in C's order, as the kernels declare them.
unsafe impl DeviceRepr for Shape {}
// SAFETY: as above.
unsafe impl DeviceRepr for Mixer {}
// SAFETY: as above.
unsafe impl DeviceRepr for Activation {}
// SAFETY: as above.
unsafe impl DeviceRepr for Norm {}
// SAFETY: as above.
unsafe impl DeviceRepr for Routing {}
// SAFETY: as above.
unsafe impl DeviceRepr for Product {}

impl Args {
    pub fn push(&mut self, arg: impl Into<Arg>) {
        self.words.push(arg.into());
    }
}

impl From<u64> for Arg {
    fn from(address: u64) -> Self {
        Arg::Address(address)
    }
}

impl From<u32> for Arg {
    fn from(word: u32) -> Self {
        Arg::Word(word)
    }
}

impl From<f32> for Arg {
    fn from(float: f32) -> Self {
        Arg::Float(float)
    }
}

impl From<Shape> for Arg {
    fn from(shape: Shape) -> Self {
        Arg::Shape(shape)
    }
}

impl From<Activation> for Arg {
    fn from(activation: Activation) -> Self {
        Arg::Activation(activation)
    }
}

impl From<Norm> for Arg {
    fn from(norm: Norm) -> Self {
        Arg::Norm(norm)
    }
}

impl From<Routing> for Arg {
    fn from(routing: Routing) -> Self {
        Arg::Routing(routing)
    }
}

impl From<Mixer> for Arg {
    fn from(mixer: Mixer) -> Self {
        Arg::Mixer(mixer)
    }
}

impl From<Product> for Arg {
    fn from(product: Product) -> Self {
        Arg::Product(product)
    }
}

impl Gpu {
    /// Opens a device, and compiles the kernels that a model needs.
    pub fn new(ordinal: usize, wanted: Wanted) -> Result<Arc<Self>, Error> {
        let opening = "opening the device";
        check(ordinal)?;
        let context = CudaContext::new(ordinal).during(opening)?;
        // SAFETY: one stream only, so its order is all the order that is needed.
        unsafe { context.disable_event_tracking() };
        keep_freed_memory(&context)?;
        let stream = context.new_stream().during(opening)?;
        let blas = CudaBlas::new(stream.clone()).during("opening cuBLAS")?;
        // SAFETY: scratch memory, which cuBLAS writes before it reads.
        let workspace: CudaSlice<u8> = unsafe { stream.alloc(BLAS_WORKSPACE) }.during("opening cuBLAS")?;
        // SAFETY: the workspace lives as long as the handle, in one `Gpu`. Partial sums of a long product stay in f32.
        unsafe {
            let address = workspace.device_ptr(&stream).0 as *mut _;
            cublas::sys::cublasSetWorkspace_v2(*blas.handle(), address, BLAS_WORKSPACE)
                .result()
                .during("opening cuBLAS")?;
            let mode = cublas::sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            cublas::sys::cublasSetMathMode(*blas.handle(), mode)
                .result()
                .during("opening cuBLAS")?;
        }
        let kernels = kernels::load_wanted(&context, wanted)?;
        Ok(Arc::new(Gpu {
            dtype: wanted.dtype,
            on_tensor_cores: kernels.contains_key(ON_TENSOR_CORES).then_some(wanted.head_dim),
            kernels,
            stream,
            blas,
            pinned: Arc::default(),
            ring: Mutex::default(),
            held: Mutex::default(),
            moves: AtomicU64::new(0),
            records: AtomicBool::new(false),
            _workspace: workspace,
        }))
    }

    /// Bytes of the device that nobody has taken, and those that this process has been given back.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        self.bind()?;
        let (free, _) = result::mem_get_info().during("asking for free memory")?;
        Ok(free as u64 + self.unused_bytes()?)
    }

    /// Bytes that were freed and stay with the process; see [`keep_freed_memory`].
    fn unused_bytes(&self) -> Result<u64, Error> {
        let context = self.stream.context();
        if !context.has_async_alloc() {
            return Ok(0);
        }
        let asking = "asking for free memory";
        let (mut reserved, mut used) = (0u64, 0u64);
        // SAFETY: both attributes are 64-bit numbers, which the driver writes before it returns.
        unsafe {
            use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
            let pool = result::device::get_default_mem_pool(context.cu_device()).during(asking)?;
            let get = |attribute, value: &mut u64| {
                sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut *value).cast()).result()
            };
            get(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &mut reserved).during(asking)?;
            get(CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used).during(asking)?;
        }
        Ok(reserved.saturating_sub(used))
    }

    /// What lies on the device beside the weights.
    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        self.stream.context()
    }

    /// Makes `bytes` bytes zero.
    pub fn zero(&self, at: Address, bytes: usize) -> Result<(), Error> {
        self.bind()?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the callers name buffers that they hold, in their size.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }.during("clearing memory")
    }

    /// How often a [`Buffer`] has moved.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Records what `launches` would have the device do, without doing it.
    ///
    /// **Errors** a driver that does not record, or a launch that cannot be recorded; the device is then as before.
    pub fn record(&self, launches: impl FnOnce() -> Result<(), Error>) -> Result<Graph, Error> {
        let recording = "recording a step";
        // Relaxed: nothing but launches happens meanwhile, on this stream.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).during(recording)?;
        self.records.store(true, Ordering::Relaxed);
        let launched = launches();
        self.records.store(false, Ordering::Relaxed);
        let graph = self
            .stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .during(recording);
        launched?;
        graph?.map(Graph).ok_or("nothing was recorded").during(recording)
    }

    /// Does once more what was recorded.
    pub fn replay(&self, graph: &Graph) -> Result<(), Error> {
        graph.0.launch().during("a recorded step")
    }

    /// Copies `bytes` from one place of the device to another.
    pub fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), Error> {
        self.bind()?;
        // SAFETY: the callers name buffers that they hold, in their size.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }.during("copying states")
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        self.dtype.size_bytes()
    }

    pub fn alloc(&self, bytes: usize) -> Result<CudaSlice<u8>, Error> {
        if self.records.load(Ordering::Relaxed) {
            // A device would record the request: an address that is good once, within the recording.
            return Err("memory was asked for").during("recording a step");
        }
        // SAFETY: written before it is read: by `upload`, or by the kernel that fills a matrix.
        unsafe { self.stream.alloc(bytes.max(16)) }.during("memory for the model or its keys and values")
    }

    pub fn alloc_zeros(&self, bytes: usize) -> Result<CudaSlice<u8>, Error> {
        let zeros = self.stream.alloc_zeros(bytes.max(16));
        zeros.during("memory for the model")
    }

    pub fn address(&self, memory: &CudaSlice<u8>) -> Address {
        memory.device_ptr(&self.stream).0
    }

    /// Writes values as elements at `first` elements from the beginning.
    pub fn write_elements(&self, memory: &CudaSlice<u8>, first: usize, values: &[f32]) -> Result<(), Error> {
        let size = self.dtype.size_bytes();
        for (piece, values) in (0..).zip(values.chunks(PIECE / size)) {
            let at = first * size + piece * PIECE;
            self.put(memory, at, values.len() * size, &mut |bytes| {
                self.dtype.narrow(values, bytes)
            })?;
        }
        Ok(())
    }

    pub fn write(&self, memory: &CudaSlice<u8>, first: usize, bytes: &[u8]) -> Result<(), Error> {
        for (piece, bytes) in (0..).zip(bytes.chunks(PIECE)) {
            self.put(memory, first + piece * PIECE, bytes.len(), &mut |piece| {
                let parts = bytes.par_chunks(COPIED_AT_ONCE);
                let parts = piece.par_chunks_mut(COPIED_AT_ONCE).zip(parts);
                parts.for_each(|(piece, bytes)| piece.copy_from_slice(bytes));
            })?;
        }
        Ok(())
    }

    /// Has `write` make `bytes` bytes, at most [`PIECE`], and sends them on their way to the device's memory, `first` bytes from its
    /// beginning. The device copies them while the host goes on.
    pub fn put(
        &self,
        memory: &CudaSlice<u8>,
        first: usize,
        bytes: usize,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), Error> {
        let writing = "writing weights";
        let fits = first.checked_add(bytes).is_some_and(|end| end <= memory.len());
        if !fits || bytes > PIECE {
            let outside = format!("bytes {first}..{first}+{bytes} of {}", memory.len());
            return Err(outside).during(writing);
        }
        // Not under the lock: whoever makes the bytes may use all threads, and those may do others' work meanwhile.
        let held = self.ring.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut pinned = match held {
            Some(pinned) => pinned,
            None => PinnedRing::new(self).during(writing)?,
        };
        let (place, awaited) = pinned.ring.take(bytes);
        if let Some(copied) = awaited {
            copied.synchronize().during(writing)?;
        }
        let host = &mut pinned.memory.as_mut_slice().during(writing)?[place.clone()];
        write(host);
        self.bind()?;
        // SAFETY: the ring does not lend this place again before the event; the device's memory has room, see above.
        unsafe { result::memcpy_htod_async(self.address(memory) + first as u64, host, self.stream.cu_stream()) }
            .during(writing)?;
        pinned
            .ring
            .begun(place, self.stream.record_event(None).during(writing)?);
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Some(pinned);
        Ok(())
    }

    /// `count` numbers of the device; waits for it.
    pub fn download<T: bytemuck::Pod>(&self, from: Address, count: usize) -> Result<Vec<T>, Error> {
        let reading = "reading results";
        let mut host = vec![T::zeroed(); count];
        self.bind()?;
        // SAFETY: the callers ask for matrices that they hold, in their size; the wait below ends the copy.
        unsafe { result::memcpy_dtoh_async(&mut host, from, self.stream.cu_stream()) }.during(reading)?;
        self.stream.synchronize().during(reading)?;
        Ok(host)
    }

    /// Launches `kernel` with `grid` blocks of `threads`; nothing where the grid is empty.
    pub fn launch(
        &self,
        kernel: &str,
        grid: (usize, usize),
        threads: u32,
        fill: impl FnOnce(&mut Args),
    ) -> Result<(), Error> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let mut args = Args::default();
        fill(&mut args);
        let mut builder = self.stream.launch_builder(&self.kernels[kernel]);
        for arg in &args.words {
            match arg {
                Arg::Address(address) => builder.arg(address),
                Arg::Word(word) => builder.arg(word),
                Arg::Float(float) => builder.arg(float),
                Arg::Shape(shape) => builder.arg(shape),
                Arg::Activation(activation) => builder.arg(activation),
                Arg::Norm(norm) => builder.arg(norm),
                Arg::Routing(routing) => builder.arg(routing),
                Arg::Product(product) => builder.arg(product),
                Arg::Mixer(mixer) => builder.arg(mixer),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.0 as u32, grid.1 as u32, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel's declaration, and the addresses stay valid on this stream.
        unsafe { builder.launch(config) }.during(kernel)?;
        Ok(())
    }

    /// Launches a kernel of the caller's with `blocks` blocks of 256 threads: `job` is its first argument, an address its second.
    pub fn launch_job(&self, kernel: &CudaFunction, blocks: usize, job: &[u8], address: Address) -> Result<(), Error> {
        if blocks == 0 {
            return Ok(());
        }
        self.bind()?;
        let mut arguments = [
            job.as_ptr().cast_mut().cast::<c_void>(),
            (&raw const address).cast_mut().cast(),
        ];
        let (grid, block, stream) = ((blocks as u32, 1, 1), (256, 1, 1), self.stream.cu_stream());
        // SAFETY: the driver copies the arguments, which are those of the kernel's declaration, before it returns. That what the job
        // names lies where it says is the caller's promise; nothing of the host depends on it.
        unsafe { result::launch_kernel(kernel.cu_function(), grid, block, 0, stream, &mut arguments) }
            .during("a merge on the device")
    }

    /// One thread for each of `count` elements.
    pub fn blocks_for(count: usize) -> (usize, usize) {
        (count.div_ceil(256), 1)
    }

    /// The kernel of attention, and how many items a block of it takes.
    pub fn attention_kernel(&self, head_dim: usize) -> (&'static str, usize) {
        match self.on_tensor_cores == Some(head_dim) {
            true => (ON_TENSOR_CORES, 4),
            false => ("attend", 1),
        }
    }

    /// Whether 16-bit products of the experts run on tensor cores.
    pub fn has_mma(&self) -> bool {
        self.kernels.contains_key(ON_MMA[0][0])
    }

    /// `c = alpha · x · weightᵀ + beta · c` for elements `weight` `[outputs, inputs]` and `x` `[rows, inputs]`, row by row;
    /// `c` `[rows, outputs]` of floats or elements.
    #[allow(clippy::too_many_arguments)] // those of a matrix product
    pub fn product(
        &self,
        (outputs, inputs): (usize, usize),
        rows: usize,
        weight: Address,
        x: Address,
        (alpha, beta): (f32, f32),
        c: Address,
        c_is_float: bool,
    ) -> Result<(), Error> {
        use cublas::sys::{
            cublasComputeType_t::CUBLAS_COMPUTE_32F, cublasGemmAlgo_t::CUBLAS_GEMM_DFALT, cublasOperation_t,
            cudaDataType_t,
        };
        if rows == 0 {
            return Ok(());
        }
        let element = match self.dtype {
            DType::F32 => cudaDataType_t::CUDA_R_32F,
            DType::Bf16 => cudaDataType_t::CUDA_R_16BF,
            DType::F16 => cudaDataType_t::CUDA_R_16F,
        };
        let c_type = if c_is_float {
            cudaDataType_t::CUDA_R_32F
        } else {
            element
        };
        let (m, n, k) = (outputs as i32, rows as i32, inputs as i32);
        self.bind()?;
        // SAFETY: the sizes are those of the matrices behind the addresses. cuBLAS counts columns first, so the row-major
        // product x · weightᵀ is its weight (transposed) times x.
        let done = unsafe {
            cublas::result::gemm_ex(
                *self.blas.handle(),
                cublasOperation_t::CUBLAS_OP_T,
                cublasOperation_t::CUBLAS_OP_N,
                m,
                n,
                k,
                (&raw const alpha).cast(),
                weight as *const _,
                element,
                k,
                x as *const _,
                element,
                k,
                (&raw const beta).cast(),
                c as *mut _,
                c_type,
                m,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DFALT,
            )
        };
        done.during("a matrix product")
    }

    fn bind(&self) -> Result<(), Error> {
        let context = self.stream.context();
        context.bind_to_thread().during("opening the device")
    }

    /// Sends `count` picks on their way to the host.
    pub fn read_later(self: &Arc<Self>, picked: Address, count: usize) -> Result<Pending, Error> {
        let reading = "reading picked tokens";
        let mut kept = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = kept.iter().position(|slice| slice.len() >= count);
        let mut slice = match fits {
            Some(i) => kept.swap_remove(i),
            // SAFETY: written by the copy before it is read. Flag 0: the host reads it.
            None => unsafe {
                let len = count.next_power_of_two().max(256);
                self.stream.context().alloc_pinned_with_flags(len, 0)
            }
            .during(reading)?,
        };
        drop(kept);
        let host = &mut slice.as_mut_slice().during(reading)?[..count];
        self.bind()?;
        // SAFETY: `Pending` keeps the host's memory until the copy is over; `picked` holds `count` tokens.
        unsafe { result::memcpy_dtoh_async(host, picked, self.stream.cu_stream()) }.during(reading)?;
        Ok(Pending {
            slice: Some(slice),
            count,
            done: self.stream.record_event(None).during(reading)?,
            kept: self.pinned.clone(),
        })
    }
}

/// A recorded sequence of launches.
pub struct Graph(CudaGraph);

// SAFETY: only whoever holds the pass that recorded it launches it; it goes from thread to thread with that pass.
unsafe impl Send for Graph {}

/// Tokens on their way to the host.
pub struct Pending {
    slice: Option<PinnedHostSlice<u32>>,
    count: usize,
    done: CudaEvent,
    kept: Arc<Mutex<Vec<PinnedHostSlice<u32>>>>,
}

impl Pending {
    pub fn wait(mut self) -> Result<Vec<u32>, Error> {
        let reading = "reading picked tokens";
        self.done.synchronize().during(reading)?;
        let Some(slice) = self.slice.take() else {
            return Ok(Vec::new());
        };
        let tokens = slice.as_slice().during(reading)?[..self.count].to_vec();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(slice);
        Ok(tokens)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody may have waited; the copy must be over before its memory goes.
        let _ = self.done.synchronize();
    }
}

/// Sends a batch's words to the device without waiting for what was launched before.
#[derive(Default)]
pub struct Staging {
    /// Written in turns: while one is copied, the other takes the next batch.
    host: [Option<(PinnedHostSlice<u32>, CudaEvent)>; 2],
    turn: usize,
    device: Buffer,
}

impl Staging {
    pub fn send(&mut self, gpu: &Gpu, words: &[u32]) -> Result<Address, Error> {
        let sending = "sending a batch";
        self.turn ^= 1;
        let mut slice = match self.host[self.turn].take() {
            Some((slice, copied)) => {
                copied.synchronize().during(sending)?;
                Some(slice).filter(|slice| slice.len() >= words.len())
            }
            None => None,
        };
        if slice.is_none() {
            let len = words.len().next_power_of_two().max(1 << 12);
            // SAFETY: written below before it is copied.
            slice = Some(unsafe { gpu.stream.context().alloc_pinned(len) }.during(sending)?);
        }
        let device = self
            .device
            .reserve(gpu, 4 * words.len().next_power_of_two().max(1 << 12))?;
        if let Some(mut slice) = slice {
            let host = &mut slice.as_mut_slice().during(sending)?[..words.len()];
            host.copy_from_slice(words);
            gpu.bind()?;
            // SAFETY: the event tells when the host's memory may be written again; the device's has room.
            unsafe { result::memcpy_htod_async(device, host, gpu.stream.cu_stream()) }.during(sending)?;
            self.host[self.turn] = Some((slice, gpu.stream.record_event(None).during(sending)?));
        }
        Ok(device)
    }
}

/// Pinned memory, and which parts of it are being copied.
struct PinnedRing {
    memory: PinnedHostSlice<u8>,
    ring: Ring<CudaEvent>,
}

impl PinnedRing {
    fn new(gpu: &Gpu) -> Result<Self, result::DriverError> {
        Ok(PinnedRing {
            // SAFETY: written before it is copied. Flag 0: what was written is read again, to see whether it is finite.
            memory: unsafe { gpu.stream.context().alloc_pinned_with_flags(RING, 0) }?,
            ring: Ring::new(RING),
        })
    }
}

impl Drop for PinnedRing {
    fn drop(&mut self) {
        // As of `Staging`.
        let _ = self.ring.youngest().map(CudaEvent::synchronize);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A copy may be under way, after an error: its memory must not go before it ends.
        for (_, copied) in self.host.iter().flatten() {
            let _ = copied.synchronize();
        }
    }
}

/// Somebody else on the device, who takes all that is left of its memory.
#[cfg(test)]
pub struct Hog {
    held: Vec<CudaSlice<u8>>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Hog {
    pub fn of_all_memory(ordinal: usize) -> Self {
        let stream = CudaContext::new(ordinal).unwrap().default_stream();
        let mut held = Vec::new();
        for size in [256 << 20, 16 << 20, 1 << 20, 64 << 10, 4 << 10, 256, 16] {
            // SAFETY: nobody reads it.
            while let Ok(memory) = unsafe { stream.alloc(size) } {
                held.push(memory);
            }
        }
        stream.synchronize().unwrap();
        Self { held }
    }

    pub fn bytes(&self) -> u64 {
        self.held.iter().map(|memory| memory.len() as u64).sum()
    }

    pub fn let_go(&mut self) {
        self.held.clear();
    }
}

/// Whether a device can be used: its driver, its number, and the libraries that come with the CUDA toolkit.
pub fn check(ordinal: usize) -> Result<(), NoGpu> {
    let missing = |library, package| Err(NoGpu::NoLibrary { library, package });
    let count = devices()?;
    if ordinal >= count {
        return Err(NoGpu::NoDevice { ordinal, count });
    }
    // SAFETY: libraries are opened and closed again, as the loader would.
    match unsafe { (cudarc::nvrtc::sys::is_culib_present(), cublas::sys::is_culib_present()) } {
        (false, _) => missing("NVRTC (libnvrtc)", "nvidia-cuda-nvrtc"),
        (_, false) => missing("cuBLAS (libcublas)", "nvidia-cublas"),
        _ => Ok(()),
    }
}

/// How many devices the driver counts.
pub fn devices() -> Result<usize, NoGpu> {
    let no_driver = |reason: String| NoGpu::NoDriver { reason };
    // SAFETY: the library is opened and closed again, as the loader would.
    if !unsafe { sys::is_culib_present() } {
        return Err(no_driver("there is no libcuda".into()));
    }
    let counted = result::init().and_then(|()| result::device::get_count());
    counted
        .map(|count| usize::try_from(count).unwrap_or(0))
        .map_err(|e| no_driver(format!("{e:?}")))
}

/// Freed memory stays with the process: matrices come and go with every step, and the driver would otherwise unmap them
/// whenever somebody waits for the device.
fn keep_freed_memory(context: &CudaContext) -> Result<(), Error> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut most = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a 64-bit number, which the driver reads before it returns.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).during("opening the device")?;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut most).cast()).result()
    }
    .during("opening the device")
}
