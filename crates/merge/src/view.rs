//! Parents' tensors as they lie in memory, read chunk by chunk as f32, and the two loops over them that every kernel uses.
//!
//! A chunk is small enough to stay in the first cache levels, so bf16 parents are widened on the fly and no f32 copy of a
//! tensor is made. Chunks run on all threads; what they return comes back in order, so thread counts change no bit.

use heterosis_isa::{DType, Isa, bf16_to_f32};
use rayon::prelude::*;

/// Elements that a kernel sees at once.
pub(crate) const CHUNK: usize = 2048;
/// Chunks that one thread takes at once.
const RUN: usize = 32;
/// Elements of a tensor that are handed on at once where it is streamed: 4 to 8 MB.
const BLOCK: usize = 32 * CHUNK * RUN;

/// Whose instructions every loop over a chunk uses. The result is the same bits with any: nothing here is fused or summed
/// in an order that depends on it.
#[cfg(not(test))]
pub(crate) fn isa() -> Isa {
    Isa::best()
}

/// As in a build, but for what a test has put in its place.
#[cfg(test)]
pub(crate) fn isa() -> Isa {
    super::testing::forced().unwrap_or_else(Isa::best)
}

/// A tensor of a parent: f32, or the little-endian bytes of a narrower type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u8]),
    F16(&'a [u8]),
}

impl<'a> View<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            View::F32(x) => x.len(),
            View::Bf16(x) | View::F16(x) => x.len() / 2,
        }
    }

    /// Elements `start..start + scratch.len()`, widened into `scratch` unless they are f32 already.
    pub(super) fn chunk<'s>(&self, start: usize, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        let end = start + scratch.len();
        match self {
            View::F32(x) => return &x[start..end],
            View::Bf16(x) => DType::Bf16.widen_with(isa(), &x[2 * start..2 * end], scratch),
            View::F16(x) => DType::F16.widen_with(isa(), &x[2 * start..2 * end], scratch),
        }
        scratch
    }

    /// The whole tensor as f32.
    pub fn to_f32(self) -> std::borrow::Cow<'a, [f32]> {
        match self {
            View::F32(x) => x.into(),
            _ => {
                let mut out = vec![0.0; self.len()];
                for (i, chunk) in out.chunks_mut(CHUNK).enumerate() {
                    self.chunk(i * CHUNK, chunk);
                }
                out.into()
            }
        }
    }
}

/// The value of a bf16.
#[inline(always)]
pub(crate) fn widen(bytes: [u8; 2]) -> f32 {
    bf16_to_f32(u16::from_le_bytes(bytes))
}

/// Memory for one chunk of every input, and for what a kernel wants to keep beside it.
struct Buffers {
    inputs: Vec<f32>,
    scratch: Vec<f32>,
}

/// The tensors that one output tensor is made of, all of one length.
#[derive(Clone, Debug)]
pub(crate) struct Inputs<'a> {
    views: Vec<View<'a>>,
    len: usize,
}

impl<'a> Inputs<'a> {
    /// The views must have one length; the plan has checked their shapes.
    pub fn new(views: Vec<View<'a>>) -> Self {
        let len = views.first().map_or(0, View::len);
        debug_assert!(views.iter().all(|v| v.len() == len));
        Inputs { views, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of tensors.
    pub fn count(&self) -> usize {
        self.views.len()
    }

    pub fn view(&self, k: usize) -> View<'a> {
        self.views[k]
    }

    fn buffers(&self) -> Buffers {
        let narrow = self.views.iter().any(|v| !matches!(v, View::F32(_)));
        Buffers {
            inputs: vec![0.0; if narrow { CHUNK * self.count() } else { 0 }],
            scratch: Vec::new(),
        }
    }

    /// Calls `f`, which is inlined for that, with elements `start..start + len` of every input, compiled for [`isa`].
    fn with_chunk<R>(
        &self,
        start: usize,
        len: usize,
        buffers: &mut Buffers,
        f: impl FnOnce(&[&[f32]], &mut Vec<f32>) -> R,
    ) -> R {
        let mut places = buffers.inputs.chunks_mut(CHUNK);
        let chunks: Vec<&[f32]> = self
            .views
            .iter()
            .map(|view| match view {
                View::F32(x) => &x[start..start + len],
                _ => {
                    let place = places.next().unwrap_or_default();
                    view.chunk(start, &mut place[..len])
                }
            })
            .collect();
        isa().run(
            #[inline(always)]
            || f(&chunks, &mut buffers.scratch),
        )
    }

    /// Calls `f` once, with elements `start..start + len` of every input and scratch memory.
    pub(crate) fn chunk<R>(&self, start: usize, len: usize, f: impl FnOnce(&[&[f32]], &mut Vec<f32>) -> R) -> R {
        self.with_chunk(start, len, &mut self.buffers(), f)
    }

    /// Calls `f` with the `len` elements from each of `starts` on, one after the other.
    pub(crate) fn pick(
        &self,
        starts: impl Iterator<Item = usize>,
        len: usize,
        mut f: impl FnMut(&[&[f32]], &mut Vec<f32>),
    ) {
        let mut buffers = self.buffers();
        for start in starts {
            self.with_chunk(start, len, &mut buffers, &mut f);
        }
    }

    /// What `f` makes of each chunk, in order. `f` gets the first element's index, the chunks and scratch memory.
    pub(crate) fn each<R: Send>(&self, f: impl Fn(usize, &[&[f32]], &mut Vec<f32>) -> R + Sync) -> Vec<R> {
        let runs = self.len.div_ceil(CHUNK * RUN);
        let parts: Vec<Vec<R>> = (0..runs)
            .into_par_iter()
            .map(|run| {
                let mut buffers = self.buffers();
                let end = self.len.min((run + 1) * CHUNK * RUN);
                (run * CHUNK * RUN..end)
                    .step_by(CHUNK)
                    .map(|start| {
                        let len = CHUNK.min(end - start);
                        self.with_chunk(
                            start,
                            len,
                            &mut buffers,
                            #[inline(always)]
                            |chunks, scratch| f(start, chunks, scratch),
                        )
                    })
                    .collect()
            })
            .collect();
        parts.into_iter().flatten().collect()
    }

    /// As [`Inputs::each`], with one accumulator for each run of chunks; they come back in order.
    pub(crate) fn fold<A: Send>(
        &self,
        init: impl Fn() -> A + Sync,
        f: impl Fn(&mut A, usize, &[&[f32]], &mut Vec<f32>) + Sync,
    ) -> Vec<A> {
        let per_run = CHUNK * RUN * 16;
        (0..self.len.div_ceil(per_run))
            .into_par_iter()
            .map(|run| {
                let mut buffers = self.buffers();
                let mut accumulator = init();
                let end = self.len.min((run + 1) * per_run);
                for start in (run * per_run..end).step_by(CHUNK) {
                    let len = CHUNK.min(end - start);
                    self.with_chunk(
                        start,
                        len,
                        &mut buffers,
                        #[inline(always)]
                        |chunks, scratch| f(&mut accumulator, start, chunks, scratch),
                    );
                }
                accumulator
            })
            .collect()
    }

    /// Fills `out` chunk by chunk, rounded once. Returns whether every value is finite.
    pub(crate) fn write(
        &self,
        out: &mut Target<'_>,
        f: impl Fn(usize, &[&[f32]], &mut Vec<f32>, &mut [f32]) + Sync,
    ) -> bool {
        let buffers = || self.buffers();
        out.fill_with(self.len, &buffers, &|buffers, start, values| {
            self.with_chunk(
                start,
                values.len(),
                buffers,
                #[inline(always)]
                |chunks, scratch| f(start, chunks, scratch, values),
            );
        })
    }

    /// Fills single chunks again; `starts` are multiples of [`CHUNK`].
    pub(crate) fn rewrite(
        &self,
        out: &mut Target<'_>,
        starts: &[usize],
        f: impl Fn(usize, &[&[f32]], &mut Vec<f32>, &mut [f32]),
    ) -> bool {
        let dtype = out.dtype;
        let mut buffers = self.buffers();
        let mut values = [0.0f32; CHUNK];
        let mut finite = true;
        for start in starts {
            let len = CHUNK.min(self.len - start);
            let values = &mut values[..len];
            self.with_chunk(
                *start,
                len,
                &mut buffers,
                #[inline(always)]
                |chunks, scratch| f(*start, chunks, scratch, values),
            );
            dtype.round_with(isa(), values);
            finite &= all_finite(values);
            match &mut out.memory {
                Memory::F32(all) => all[*start..start + len].copy_from_slice(values),
                Memory::Bytes(all) => {
                    let size = dtype.size_bytes();
                    dtype.narrow_with(isa(), values, &mut all[start * size..(start + len) * size]);
                }
                Memory::Pieces(_, put) => {
                    let size = dtype.size_bytes();
                    let mut narrow = |piece: &mut [u8]| dtype.narrow_with(isa(), values, piece);
                    if !put(start * size, len * size, &mut narrow) {
                        break;
                    }
                }
                // What was handed on cannot be taken back; see `Target::keeps`.
                Memory::Stream(_) => return false,
            }
        }
        finite
    }

    /// The inputs' elements as they are, if all of them are bf16.
    pub(crate) fn all_bf16(&self) -> Option<Vec<&'a [[u8; 2]]>> {
        let bf16 = |view: &View<'a>| match view {
            View::Bf16(x) => Some(x.as_chunks::<2>().0),
            View::F32(_) | View::F16(_) => None,
        };
        self.views.iter().map(bf16).collect()
    }
}

/// Where a merged tensor goes.
pub(crate) struct Target<'a> {
    pub memory: Memory<'a>,
    pub dtype: DType,
}

pub(crate) enum Memory<'a> {
    /// f32 values that the target's dtype can represent.
    F32(&'a mut [f32]),
    /// The little-endian bytes of the dtype itself.
    Bytes(&'a mut [u8]),
    /// The same bytes, handed on block by block; false says that nobody wants the rest.
    Stream(&'a mut dyn FnMut(&[u8]) -> bool),
    /// The same bytes in pieces of at most so many, each written where whoever takes it wants it.
    Pieces(usize, &'a mut Put<'a>),
}

/// Takes a piece of a tensor's bytes: the first of them, how many, and what writes them into memory of the taker's. A piece may
/// come again, for parts of it; false says that nobody wants the rest.
pub type Put<'a> = dyn FnMut(usize, usize, &mut dyn FnMut(&mut [u8])) -> bool + 'a;

impl Target<'_> {
    /// Whether what was written can be written again.
    pub(crate) fn keeps(&self) -> bool {
        !matches!(self.memory, Memory::Stream(_))
    }

    /// Writes a tensor that was computed as a whole. Returns whether every value is finite.
    pub(crate) fn fill(&mut self, values: &[f32]) -> bool {
        self.fill_with(values.len(), &|| (), &|(), start, out| {
            out.copy_from_slice(&values[start..start + out.len()]);
        })
    }

    /// Fills `len` elements chunk by chunk on all threads, rounded once; `f` gets memory of its thread's own, the first
    /// element's index and the chunk. Returns whether every value is finite.
    pub(crate) fn fill_with<B>(
        &mut self,
        len: usize,
        own: &(impl Fn() -> B + Sync),
        f: &(impl Fn(&mut B, usize, &mut [f32]) + Sync),
    ) -> bool {
        let dtype = self.dtype;
        match &mut self.memory {
            Memory::F32(values) => values
                .par_chunks_mut(CHUNK * RUN)
                .enumerate()
                .map(|(run, values)| {
                    let (mut own, mut finite) = (own(), true);
                    for (i, values) in values.chunks_mut(CHUNK).enumerate() {
                        f(&mut own, run * CHUNK * RUN + i * CHUNK, values);
                        dtype.round_with(isa(), values);
                        finite &= all_finite(values);
                    }
                    finite
                })
                .reduce(|| true, |a, b| a & b),
            Memory::Bytes(bytes) => fill_bytes(bytes, 0, dtype, own, f),
            Memory::Stream(sink) => {
                let mut block = vec![0; BLOCK.min(len) * dtype.size_bytes()];
                let mut finite = true;
                for first in (0..len).step_by(BLOCK) {
                    let block = &mut block[..BLOCK.min(len - first) * dtype.size_bytes()];
                    finite &= fill_bytes(block, first, dtype, own, f);
                    if !finite || !sink(block) {
                        break;
                    }
                }
                finite
            }
            Memory::Pieces(most_bytes, put) => {
                let size = dtype.size_bytes();
                let most = (*most_bytes / size / CHUNK).max(1) * CHUNK;
                let mut finite = true;
                for first in (0..len).step_by(most) {
                    let bytes = most.min(len - first) * size;
                    let wanted = put(first * size, bytes, &mut |piece| {
                        finite &= fill_bytes(piece, first, dtype, own, f);
                    });
                    if !finite || !wanted {
                        break;
                    }
                }
                finite
            }
        }
    }
}

/// As [`Target::fill_with`], for the bytes of the elements from `first` on, a multiple of [`CHUNK`].
fn fill_bytes<B>(
    bytes: &mut [u8],
    first: usize,
    dtype: DType,
    own: &(impl Fn() -> B + Sync),
    f: &(impl Fn(&mut B, usize, &mut [f32]) + Sync),
) -> bool {
    let size = dtype.size_bytes();
    bytes
        .par_chunks_mut(CHUNK * RUN * size)
        .enumerate()
        .map(|(run, bytes)| {
            let (mut own, mut finite) = (own(), true);
            let mut values = [0.0f32; CHUNK];
            for (i, bytes) in bytes.chunks_mut(CHUNK * size).enumerate() {
                let values = &mut values[..bytes.len() / size];
                f(&mut own, first + run * CHUNK * RUN + i * CHUNK, values);
                dtype.narrow_with(isa(), values, bytes);
                finite &= dtype.all_finite_with(isa(), bytes);
            }
            finite
        })
        .reduce(|| true, |a, b| a & b)
}

/// Whether no value is infinite or NaN.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    isa().run(
        #[inline(always)]
        || {
            values
                .iter()
                .fold(true, |ok, v| ok & (v.to_bits() & EXPONENT != EXPONENT))
        },
    )
}

/// Σ a·b in f64 over a chunk, in a fixed order.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    isa().run(
        #[inline(always)]
        || dot_in_lanes(a, b),
    )
}

#[inline(always)]
fn dot_in_lanes(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let rest: f64 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum();
    sums.iter().sum::<f64>() + rest
}

/// Σ |a| in f64 over a chunk, in a fixed order.
pub(crate) fn sum_abs(a: &[f32]) -> f64 {
    isa().run(
        #[inline(always)]
        || sum_abs_in_lanes(a),
    )
}

#[inline(always)]
fn sum_abs_in_lanes(a: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for i in 0..LANES {
            sums[i] += f64::from(a[i].abs());
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|a| f64::from(a.abs())).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::super::testing::under_each;
    use super::*;

    #[test]
    fn narrow_parents_read_as_their_f32_values() {
        let values: Vec<f32> = (0..CHUNK * 3 + 5).map(|i| i as f32 - 6000.0).collect();
        let bytes = |dtype: DType| {
            let mut rounded = values.clone();
            dtype.round_with(isa(), &mut rounded);
            let mut bytes = vec![0; values.len() * 2];
            dtype.narrow_with(isa(), &rounded, &mut bytes);
            (rounded, bytes)
        };
        let (bf16, bf16_bytes) = bytes(DType::Bf16);
        let (f16, f16_bytes) = bytes(DType::F16);
        assert_eq!(View::Bf16(&bf16_bytes).to_f32(), bf16);
        assert_eq!(View::F16(&f16_bytes).to_f32(), f16);
        let inputs = Inputs::new(vec![View::Bf16(&bf16_bytes), View::F32(&values), View::F16(&f16_bytes)]);
        let mut out = vec![0.0; values.len()];
        let mut target = Target {
            memory: Memory::F32(&mut out),
            dtype: DType::F32,
        };
        assert!(inputs.write(&mut target, |_, c, _, out| {
            for i in 0..out.len() {
                out[i] = c[0][i] + c[1][i] + c[2][i];
            }
        }));
        for i in 0..out.len() {
            assert_eq!(out[i], bf16[i] + values[i] + f16[i]);
        }
    }

    #[test]
    fn narrow_types_convert_to_the_same_bits_under_every_instruction_set() {
        let values: Vec<f32> = (0..CHUNK * 2 + 5).map(|i| (i as f32).sin() * 1e3).collect();
        for dtype in [DType::Bf16, DType::F16] {
            let results = under_each(|_| {
                let mut rounded = values.clone();
                dtype.round_with(isa(), &mut rounded);
                let mut bytes = vec![0; values.len() * 2];
                dtype.narrow_with(isa(), &rounded, &mut bytes);
                let view = match dtype {
                    DType::Bf16 => View::Bf16(&bytes),
                    _ => View::F16(&bytes),
                };
                assert_eq!(view.to_f32(), rounded);
                (dot(&values, &rounded).to_bits(), sum_abs(&values).to_bits(), bytes)
            });
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    fn bytes_hold_what_the_f32_target_holds() {
        let values: Vec<f32> = (0..BLOCK + CHUNK * 17 + 3).map(|i| (i as f32).sin()).collect();
        for dtype in DType::ALL {
            let mut floats = vec![0.0; values.len()];
            let mut bytes = vec![0; values.len() * dtype.size_bytes()];
            Target {
                memory: Memory::F32(&mut floats),
                dtype,
            }
            .fill(&values);
            Target {
                memory: Memory::Bytes(&mut bytes),
                dtype,
            }
            .fill(&values);
            let mut encoded = vec![0; bytes.len()];
            dtype.narrow(&floats, &mut encoded);
            assert_eq!(bytes, encoded);
            let mut streamed = Vec::new();
            Target {
                memory: Memory::Stream(&mut |block| {
                    streamed.extend_from_slice(block);
                    true
                }),
                dtype,
            }
            .fill(&values);
            assert_eq!(bytes, streamed);
        }
    }

    #[test]
    fn reductions_are_exact_where_f64_is() {
        let a: Vec<f32> = (1..=100).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), 338_350.0);
        assert_eq!(sum_abs(&a), 5050.0);
        assert_eq!(dot(&[], &[]), 0.0);
        assert!(!all_finite(&[0.0, f32::NAN]) && !all_finite(&[f32::INFINITY]));
    }
}
