//! MXFP4, in which gpt-oss was published: four bits an element, and one scale for 32 of them.
//!
//! A tensor `X` is two of bytes, `X_blocks` (`[experts, outputs, inputs / 32, 16]`) and `X_scales` (`[experts, outputs,
//! inputs / 32]`). It is handed on as transformers makes it of them: bf16, `[experts, inputs, outputs]`, which holds every
//! value exactly.
//!
//! Source: OCP Microscaling Formats (MX) 1.0, sections 5.3.3 and 5.4; the layout of openai/gpt-oss.

use std::collections::BTreeMap;
use std::ops::Range;

use super::safetensors::Entry;
use super::{DType, TensorInfo, for_each_row};

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// Elements that share a scale; two stand in a byte, the first in its lower half.
const BLOCK: usize = 32;

/// E2M1: a sign, two bits of exponent, one of mantissa.
const VALUES: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Where the bytes of scales lie: which file, and where in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scales {
    pub file: usize,
    pub bytes: Range<usize>,
}

/// Whether a tensor of bytes may be part of a packed one, by its name.
pub(super) fn is_part(name: &str) -> bool {
    name.ends_with(BLOCKS) || name.ends_with(SCALES)
}

/// A packed tensor: what it is, its blocks, and its scales.
pub(super) struct Packed {
    pub name: String,
    pub info: TensorInfo,
    pub file: usize,
    pub bytes: Range<usize>,
    pub scales: Scales,
}

/// Puts the parts together, each with the number of its file; the name of a part without its other half, or that does not fit
/// it, is the error.
pub(super) fn pair(parts: Vec<(usize, Entry)>) -> Result<Vec<Packed>, String> {
    let mut by_name: BTreeMap<String, (usize, Entry)> =
        parts.into_iter().map(|part| (part.1.name.clone(), part)).collect();
    let names: Vec<String> = by_name.keys().filter(|name| name.ends_with(BLOCKS)).cloned().collect();
    let mut packed = Vec::with_capacity(names.len());
    for name in names {
        let stem = name.trim_end_matches(BLOCKS).to_owned();
        let (Some((file, blocks)), Some((of_scales, scales))) =
            (by_name.remove(&name), by_name.remove(&format!("{stem}{SCALES}")))
        else {
            return Err(name);
        };
        let [experts, outputs, groups, 16] = blocks.info.shape[..] else {
            return Err(name);
        };
        if scales.info.shape != [experts, outputs, groups] {
            return Err(scales.name);
        }
        let Some(inputs) = groups.checked_mul(BLOCK) else {
            return Err(name);
        };
        packed.push(Packed {
            name: stem,
            info: TensorInfo {
                dtype: DType::Bf16,
                shape: vec![experts, inputs, outputs],
            },
            file,
            bytes: blocks.bytes,
            scales: Scales {
                file: of_scales,
                bytes: scales.bytes,
            },
        });
    }
    match by_name.into_keys().next() {
        None => Ok(packed),
        Some(alone) => Err(alone),
    }
}

/// The elements `range` of a tensor of `shape` (`[experts, inputs, outputs]`), into `out`.
pub(super) fn unpack(blocks: &[u8], scales: &[u8], shape: &[usize], range: Range<usize>, out: &mut [f32]) {
    let (inputs, outputs) = (shape[1], shape[2]);
    let groups = inputs / BLOCK;
    for_each_row(outputs, range, out, |row, start, part| {
        let (expert, input) = (row / inputs, row % inputs);
        let (group, within) = (input / BLOCK, input % BLOCK);
        for (output, value) in (start..).zip(part) {
            let scale = (expert * outputs + output) * groups + group;
            let byte = blocks[scale * (BLOCK / 2) + within / 2];
            let half = if within.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
            *value = VALUES[usize::from(half)] * power(scales[scale]);
        }
    });
}

/// `2^(scale − 127)`. The last one, which the format has for "no number", is infinite as it is in transformers.
fn power(scale: u8) -> f32 {
    match scale {
        0 => f32::from_bits(1 << 22),
        scale => f32::from_bits(u32::from(scale) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, shape: &[usize]) -> (usize, Entry) {
        let entry = Entry {
            name: name.into(),
            info: TensorInfo {
                dtype: DType::F32,
                shape: shape.to_vec(),
            },
            bytes: 0..shape.iter().product(),
            is_packed: true,
        };
        (0, entry)
    }

    #[test]
    fn nibbles_times_powers_of_two_stand_by_input() {
        // One expert, two outputs, 32 inputs: the first output counts up, the second is 1 and −6 in turns.
        let mut blocks = vec![0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE];
        blocks.extend([0; 8]);
        blocks.extend([0xF2; 16]);
        let scales = [127, 125];
        let shape = [1, 32, 2];
        let mut out = vec![f32::NAN; 64];
        unpack(&blocks, &scales, &shape, 0..64, &mut out);
        let of = |output: usize| -> Vec<f32> { out.iter().skip(output).step_by(2).copied().collect() };
        assert_eq!(of(0)[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(of(0)[9..16], [-0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
        assert_eq!(of(1)[..4], [0.25, -1.5, 0.25, -1.5]);
        let mut some = [0.0; 7];
        unpack(&blocks, &scales, &shape, 5..12, &mut some);
        assert_eq!(some, out[5..12]);
    }

    #[test]
    fn scales_reach_from_the_smallest_to_the_largest() {
        assert_eq!(power(127), 1.0);
        assert_eq!(power(254), 2f32.powi(127));
        assert_eq!(power(1), f32::MIN_POSITIVE);
        assert_eq!(f64::from(power(0)), 2f64.powi(-127));
        assert_eq!(power(255), f32::INFINITY);
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let both = |blocks: &[usize], scales: &[usize]| pair(vec![part("w_blocks", blocks), part("w_scales", scales)]);
        let packed = both(&[2, 3, 4, 16], &[2, 3, 4]).unwrap();
        assert_eq!(
            (packed[0].name.as_str(), &packed[0].info.shape[..]),
            ("w", &[2, 128, 3][..])
        );
        assert_eq!(both(&[2, 3, 4, 8], &[2, 3, 4]).err().unwrap(), "w_blocks");
        assert_eq!(both(&[2, 3, 4, 16], &[2, 3, 5]).err().unwrap(), "w_scales");
        assert_eq!(pair(vec![part("w_scales", &[1])]).err().unwrap(), "w_scales");
        assert_eq!(pair(vec![part("w_blocks", &[1, 1, 1, 16])]).err().unwrap(), "w_blocks");
    }
}
