//! The three storage dtypes and the conversions between them and f32.
//!
//! Widening is exact; narrowing rounds to nearest, ties to even, as torch's `.to(dtype)` does (NaN stays NaN, overflow
//! becomes infinity). Both are branch-free over fixed-size chunks, so that they run at the speed of memory, and neither
//! assumes that the bytes are aligned: in a mapped safetensors file they need not be.

use std::fmt;

use heterosis_isa::Isa;
use rayon::prelude::*;

/// Elements that one rayon task converts: 256 KiB of f32, which stays in L2.
pub(super) const CHUNK: usize = 1 << 16;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F32,
    Bf16,
    F16,
}

impl DType {
    /// Bytes that one element takes.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// The name in a safetensors header: `F32`, `BF16`, `F16`.
    pub const fn safetensors_name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::Bf16 => "BF16",
            DType::F16 => "F16",
        }
    }

    /// The name in `config.json`: `float32`, `bfloat16`, `float16`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::Bf16 => "bfloat16",
            DType::F16 => "float16",
        }
    }

    /// Reads the name that a safetensors header uses.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        [DType::F32, DType::Bf16, DType::F16]
            .into_iter()
            .find(|dtype| dtype.safetensors_name() == name)
    }

    /// Reads the name that `config.json` uses, with or without `torch.`.
    pub fn from_torch_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        [DType::F32, DType::Bf16, DType::F16]
            .into_iter()
            .find(|dtype| dtype.torch_name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}

/// Widens little-endian elements of `dtype` to f32, in parallel where that pays.
///
/// Panics unless `bytes` holds exactly `out.len()` elements.
pub fn widen(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let size = dtype.size_bytes();
    assert_eq!(bytes.len(), out.len() * size, "as many elements in as out");
    if out.len() <= CHUNK {
        return widen_chunk(dtype, bytes, out);
    }
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks(CHUNK * size))
        .for_each(|(out, bytes)| widen_chunk(dtype, bytes, out));
}

fn widen_chunk(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    Isa::best().run(
        #[inline(always)]
        || widen_loop(dtype, bytes, out),
    );
}

#[inline(always)]
fn widen_loop(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = f32::from_le_bytes(*b);
            }
        }
        DType::Bf16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = bf16_to_f32(u16::from_le_bytes(*b));
            }
        }
        DType::F16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks().0) {
                *x = f16_to_f32(u16::from_le_bytes(*b));
            }
        }
    }
}

/// Rounds to `dtype` and writes the elements little-endian, in parallel where that pays.
///
/// Panics unless `out` has room for exactly `values.len()` elements.
pub fn narrow(dtype: DType, values: &[f32], out: &mut [u8]) {
    let size = dtype.size_bytes();
    assert_eq!(out.len(), values.len() * size, "as many elements in as out");
    if values.len() <= CHUNK {
        return narrow_chunk(dtype, values, out);
    }
    out.par_chunks_mut(CHUNK * size)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(out, values)| narrow_chunk(dtype, values, out));
}

fn narrow_chunk(dtype: DType, values: &[f32], out: &mut [u8]) {
    Isa::best().run(
        #[inline(always)]
        || narrow_loop(dtype, values, out),
    );
}

#[inline(always)]
fn narrow_loop(dtype: DType, values: &[f32], out: &mut [u8]) {
    match dtype {
        DType::F32 => {
            for (b, x) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *b = x.to_le_bytes();
            }
        }
        DType::Bf16 => {
            for (b, x) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *b = f32_to_bf16(*x).to_le_bytes();
            }
        }
        DType::F16 => {
            for (b, x) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *b = f32_to_f16(*x).to_le_bytes();
            }
        }
    }
}

/// Rounds every value to the nearest one that `dtype` can hold, and keeps it as f32.
pub fn round_in_place(dtype: DType, values: &mut [f32]) {
    values.par_chunks_mut(CHUNK).for_each(|chunk| {
        Isa::best().run(
            #[inline(always)]
            || match dtype {
                DType::F32 => {}
                DType::Bf16 => chunk.iter_mut().for_each(|x| *x = bf16_to_f32(f32_to_bf16(*x))),
                DType::F16 => chunk.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
            },
        );
    });
}

/// The index of the first element that is infinite or NaN.
pub(super) fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let size = dtype.size_bytes();
    bytes.par_chunks(CHUNK * size).enumerate().find_map_first(|(k, chunk)| {
        let index = match dtype {
            DType::F32 => non_finite_in(chunk, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
            DType::Bf16 => non_finite_in(chunk, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            DType::F16 => non_finite_in(chunk, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        };
        index.map(|i| k * CHUNK + i)
    })
}

/// A vectorised "is there any?" first: files are finite as a rule, and the search for the place is then never made.
fn non_finite_in<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let elements = bytes.as_chunks::<N>().0;
    let any = Isa::best().run(
        #[inline(always)]
        || elements.iter().fold(false, |any, b| any | bad(*b)),
    );
    any.then(|| elements.iter().position(|b| bad(*b))).flatten()
}

#[inline(always)]
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN whose payload sits in the lower half would round to infinity: keep it a (quiet) NaN.
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded >> 16 }) as u16
}

/// Shifts the fields into an f32's places; one multiplication by 2^112 then repairs the exponent, subnormals included.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let repaired = if magnitude >= 0x7c00 << 13 {
        magnitude | 0x7f80_0000
    } else {
        scaled
    };
    f32::from_bits(sign | repaired)
}

/// Round to nearest even; below 2^-14 the adder of the FPU does the rounding (adding 0.5 aligns the subnormal's last bit).
#[inline(always)]
fn f32_to_f16(x: f32) -> u16 {
    const OVERFLOW: u32 = (127 + 16) << 23; // 65536
    const SUBNORMAL: u32 = (127 - 14) << 23; // 2^-14
    let sign = (x.to_bits() >> 16) & 0x8000;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let normal = magnitude
        .wrapping_sub(112 << 23)
        .wrapping_add(0xfff + ((magnitude >> 13) & 1))
        >> 13;
    let subnormal = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5f32.to_bits());
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let bits = if magnitude >= OVERFLOW {
        special
    } else if magnitude < SUBNORMAL {
        subnormal
    } else {
        normal
    };
    (sign | bits) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_and_f16_widens_as_the_half_crate_says_and_comes_back() {
        for bits in 0..=u16::MAX {
            let (b, h) = (half::bf16::from_bits(bits), half::f16::from_bits(bits));
            if b.is_nan() {
                assert!(bf16_to_f32(bits).is_nan() && half::bf16::from_bits(f32_to_bf16(b.to_f32())).is_nan());
            } else {
                assert_eq!(bf16_to_f32(bits).to_bits(), b.to_f32().to_bits());
                assert_eq!(f32_to_bf16(b.to_f32()), bits);
            }
            if h.is_nan() {
                assert!(f16_to_f32(bits).is_nan() && half::f16::from_bits(f32_to_f16(h.to_f32())).is_nan());
            } else {
                assert_eq!(f16_to_f32(bits).to_bits(), h.to_f32().to_bits(), "{bits:04x}");
                assert_eq!(f32_to_f16(h.to_f32()), bits, "{bits:04x}");
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate_around_every_tie_and_edge() {
        // Every f16 and bf16, the midpoint above it, and the two neighbours of that midpoint.
        let around = |x: f32, half_ulp_bits: u32| {
            let middle = x.to_bits().wrapping_add(half_ulp_bits);
            [middle.wrapping_sub(1), middle, middle.wrapping_add(1)].map(f32::from_bits)
        };
        let agree = |x: f32| {
            let (b, h) = (half::bf16::from_f32(x), half::f16::from_f32(x));
            if x.is_nan() {
                assert!(half::bf16::from_bits(f32_to_bf16(x)).is_nan() && half::f16::from_bits(f32_to_f16(x)).is_nan());
            } else {
                assert_eq!((f32_to_bf16(x), f32_to_f16(x)), (b.to_bits(), h.to_bits()), "{x:e}");
            }
        };
        for bits in 0..=u16::MAX {
            around(bf16_to_f32(bits), 1 << 15).into_iter().for_each(agree);
            around(f16_to_f32(bits), 1 << 12).into_iter().for_each(agree);
        }
        for x in [
            0.0,
            -0.0,
            65504.0,
            65519.99,
            65520.0,
            65536.0,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
            2f32.powi(-24),
            2f32.powi(-25),
        ] {
            agree(x);
            agree(-x);
            agree(f32::from_bits(x.to_bits() + 1));
        }
        agree(f32::from_bits(0x7f80_0001)); // a NaN with its payload in the lowest bit
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            agree(f32::from_bits(state ^ (state >> 13)));
        }
    }

    #[test]
    fn conversions_take_misaligned_bytes_and_long_tensors() {
        let values: Vec<f32> = (0..3 * CHUNK + 7).map(|i| (i as f32 - 1000.0) / 7.0).collect();
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let mut bytes = vec![0; 1 + values.len() * dtype.size_bytes()];
            narrow(dtype, &values, &mut bytes[1..]);
            let mut wide = vec![0.0; values.len()];
            widen(dtype, &bytes[1..], &mut wide);
            let mut rounded = values.clone();
            round_in_place(dtype, &mut rounded);
            assert_eq!(wide, rounded);
            assert_eq!(first_non_finite(dtype, &bytes[1..]), None);
        }
    }

    #[test]
    fn non_finite_values_are_found_at_their_place() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0; 2 * CHUNK + 5];
                values[CHUNK + 3] = bad;
                values[2 * CHUNK] = bad;
                let mut bytes = vec![0; values.len() * dtype.size_bytes()];
                narrow(dtype, &values, &mut bytes);
                assert_eq!(first_non_finite(dtype, &bytes), Some(CHUNK + 3));
            }
            assert_eq!(first_non_finite(dtype, &[]), None);
        }
    }

    #[test]
    fn names_read_back() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            assert_eq!(DType::from_safetensors_name(dtype.safetensors_name()), Some(dtype));
            assert_eq!(
                DType::from_torch_name(&format!("torch.{}", dtype.torch_name())),
                Some(dtype)
            );
        }
        assert_eq!(DType::from_safetensors_name("F64"), None);
    }
}
