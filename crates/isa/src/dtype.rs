//! How the numbers of a tensor are stored, and the conversions between that and f32.
//!
//! Widening is exact; narrowing rounds to nearest, ties to even, as torch's `.to(dtype)` does (NaN stays NaN, overflow
//! becomes infinity). Both are branch-free over fixed-size chunks, so that they run at the speed of memory, and neither
//! assumes that the bytes are aligned: in a mapped safetensors file they need not be.

use std::{fmt, str::FromStr};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Isa;

/// Elements that one thread converts at once: 256 KiB of f32, which stays in L2.
pub const CHUNK: usize = 1 << 16;

/// How the elements of a tensor are stored, or what they are rounded to. Weights come as nothing else: integers and 8-bit
/// floats are refused where a file, a recipe or a command line is read.
///
/// ```
/// use heterosis_isa::DType;
///
/// let mut x = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
/// DType::Bf16.round(&mut x);
/// assert_eq!(x, [1.0, 1.0 + 1.0 / 64.0]); // ties to even
/// assert_eq!("bf16".parse(), Ok(DType::Bf16));
/// ```
///
/// In JSON it goes by [`DType::torch_name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// 32 bits: 8 of exponent, 23 of mantissa.
    #[serde(rename = "float32")]
    F32,
    /// The upper half of an f32: 8 bits of exponent, 7 of mantissa.
    #[serde(rename = "bfloat16")]
    Bf16,
    /// 16 bits: 5 of exponent, 10 of mantissa.
    #[serde(rename = "float16")]
    F16,
}

/// A word that names no [`DType`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType {
    /// The word.
    pub name: String,
}

impl DType {
    /// All of them.
    pub const ALL: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

    /// The name on a command line and between programs: `f32`, `bf16`, `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
        }
    }

    /// The name in `config.json` and in recipes: `float32`, `bfloat16`, `float16`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::F32 => "float32",
            DType::Bf16 => "bfloat16",
            DType::F16 => "float16",
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

    /// Reads the name that a safetensors header uses.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.safetensors_name() == name)
    }

    /// Bytes that one element takes.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// Widens little-endian elements to f32, on several threads where that pays.
    ///
    /// Panics unless `bytes` holds exactly `out.len()` elements.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        let size = self.size_bytes();
        assert_eq!(bytes.len(), out.len() * size, "as many elements in as out");
        let isa = Isa::best();
        if out.len() <= CHUNK {
            return self.widen_with(isa, bytes, out);
        }
        out.par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * size))
            .for_each(|(out, bytes)| self.widen_with(isa, bytes, out));
    }

    /// As [`DType::widen`], on this thread with these instructions; of what has no counterpart nothing is read or written.
    pub fn widen_with(self, isa: Isa, bytes: &[u8], out: &mut [f32]) {
        isa.run(
            #[inline(always)]
            || widen_loop(self, bytes, out),
        );
    }

    /// Rounds to the nearest elements and writes them little-endian, on several threads where that pays.
    ///
    /// Panics unless `out` has room for exactly `values.len()` elements.
    pub fn narrow(self, values: &[f32], out: &mut [u8]) {
        let size = self.size_bytes();
        assert_eq!(out.len(), values.len() * size, "as many elements in as out");
        let isa = Isa::best();
        if values.len() <= CHUNK {
            return self.narrow_with(isa, values, out);
        }
        out.par_chunks_mut(CHUNK * size)
            .zip(values.par_chunks(CHUNK))
            .for_each(|(out, values)| self.narrow_with(isa, values, out));
    }

    /// As [`DType::narrow`], on this thread with these instructions; of what has no counterpart nothing is read or written.
    pub fn narrow_with(self, isa: Isa, values: &[f32], out: &mut [u8]) {
        isa.run(
            #[inline(always)]
            || narrow_loop(self, values, out),
        );
    }

    /// Rounds every value to the nearest one that this type can hold, and keeps it as f32; on several threads where that
    /// pays.
    pub fn round(self, values: &mut [f32]) {
        let isa = Isa::best();
        match values.len() <= CHUNK {
            true => self.round_with(isa, values),
            false => values
                .par_chunks_mut(CHUNK)
                .for_each(|values| self.round_with(isa, values)),
        }
    }

    /// As [`DType::round`], on this thread with these instructions.
    pub fn round_with(self, isa: Isa, values: &mut [f32]) {
        isa.run(
            #[inline(always)]
            || match self {
                DType::F32 => {}
                DType::Bf16 => values.iter_mut().for_each(|x| *x = bf16_to_f32(f32_to_bf16(*x))),
                DType::F16 => values.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
            },
        );
    }

    /// The index of the first little-endian element that is infinite or NaN.
    pub fn first_non_finite(self, bytes: &[u8]) -> Option<usize> {
        let (isa, size) = (Isa::best(), self.size_bytes());
        bytes.par_chunks(CHUNK * size).enumerate().find_map_first(|(k, chunk)| {
            // A vectorised "is there any?" first: files are finite as a rule, and the search for the place is then never made.
            if self.all_finite_with(isa, chunk) {
                return None;
            }
            let is_bad = |element: &[u8]| !self.all_finite_with(isa, element);
            chunk.chunks(size).position(is_bad).map(|i| k * CHUNK + i)
        })
    }

    /// Whether no little-endian element is infinite or NaN; on this thread with these instructions.
    pub fn all_finite_with(self, isa: Isa, bytes: &[u8]) -> bool {
        let any_bad = isa.run(
            #[inline(always)]
            || match self {
                DType::F32 => any(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
                DType::Bf16 => any(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
                DType::F16 => any(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
            },
        );
        !any_bad
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        let known = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        known.ok_or_else(|| UnknownDType { name: name.into() })
    }
}

impl fmt::Display for UnknownDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = DType::ALL.map(DType::name).join(", ");
        write!(f, "'{}' is no type of weights; there are {names}", self.name)
    }
}

impl std::error::Error for UnknownDType {}

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

#[inline(always)]
fn any<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks().0.iter().fold(false, |any, b| any | bad(*b))
}

/// The value of a bf16.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
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
        for dtype in DType::ALL {
            let mut bytes = vec![0; 1 + values.len() * dtype.size_bytes()];
            dtype.narrow(&values, &mut bytes[1..]);
            let mut wide = vec![0.0; values.len()];
            dtype.widen(&bytes[1..], &mut wide);
            let mut rounded = values.clone();
            dtype.round(&mut rounded);
            assert_eq!(wide, rounded);
            assert_eq!(dtype.first_non_finite(&bytes[1..]), None);
        }
    }

    #[test]
    fn conversions_give_the_same_bits_under_every_instruction_set() {
        let values: Vec<f32> = (0..5000).map(|i| (i as f32).sin() * 2f32.powi(i % 50 - 30)).collect();
        for dtype in DType::ALL {
            let convert = |isa: Isa| {
                let (mut bytes, mut wide) = (vec![0; values.len() * dtype.size_bytes()], vec![0.0; values.len()]);
                dtype.narrow_with(isa, &values, &mut bytes);
                dtype.widen_with(isa, &bytes, &mut wide);
                let mut rounded = values.clone();
                dtype.round_with(isa, &mut rounded);
                assert_eq!(rounded, wide);
                // The largest overflow in 16 bits.
                assert_eq!(dtype.all_finite_with(isa, &bytes), wide.iter().all(|x| x.is_finite()));
                assert!(dtype.all_finite_with(isa, &bytes[..16]));
                dtype.narrow_with(isa, &[f32::NAN], &mut bytes[16..]);
                assert!(!dtype.all_finite_with(isa, &bytes));
                (bytes, wide)
            };
            let results: Vec<_> = Isa::available().into_iter().map(convert).collect();
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{dtype}");
        }
    }

    #[test]
    fn non_finite_values_are_found_at_their_place() {
        for dtype in DType::ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0; 2 * CHUNK + 5];
                values[CHUNK + 3] = bad;
                values[2 * CHUNK] = bad;
                let mut bytes = vec![0; values.len() * dtype.size_bytes()];
                dtype.narrow(&values, &mut bytes);
                assert_eq!(dtype.first_non_finite(&bytes), Some(CHUNK + 3));
            }
            assert_eq!(dtype.first_non_finite(&[]), None);
        }
    }

    #[test]
    fn names_read_back() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_safetensors_name(dtype.safetensors_name()), Some(dtype));
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        assert_eq!(DType::from_safetensors_name("F64"), None);
        assert_eq!(DType::from_safetensors_name("F8_E4M3"), None);
        assert!("int8".parse::<DType>().is_err() && "BF16".parse::<DType>().is_err());
    }
}
