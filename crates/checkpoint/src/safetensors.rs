//! The header of a safetensors file, read without trusting a byte of it.
//!
//! Everything is validated here, once: lengths, names, dtypes, shapes, and that the tensors' data fill the rest of the
//! file exactly, without holes or overlaps. Whoever holds an [`Entry`] may index the file freely. The `safetensors` crate
//! would do the same in fewer lines, but says neither which tensor is at fault nor what to do about it, and takes the last
//! of two tensors of one name in silence.
//!
//! Source: the format's description, <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{DType, Error, TensorInfo, mxfp4};

/// The format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Names of buffers that some checkpoints carry along; no weights, so they are passed over whatever their dtype.
const BUFFERS: [&str; 5] = [
    "rotary_emb.inv_freq",
    "position_ids",
    "attn.masked_bias",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
];

/// One tensor of a file: what it is, and where its bytes lie in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub name: String,
    /// The dtype says nothing of a part of a packed tensor.
    pub info: TensorInfo,
    pub bytes: Range<usize>,
    /// Whether it is a part of a tensor that `mxfp4` unpacks: bytes, by shape.
    pub is_packed: bool,
}

/// Reads and validates the header of the safetensors file `file`, whose content is `bytes`.
///
/// The entries come in the order of their data. Buffers that are not weights are left out.
pub(super) fn read_header(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let entries = read_packed_header(file, bytes)?;
    match entries.iter().find(|entry| entry.is_packed) {
        None => Ok(entries),
        Some(entry) => Err(Error::UnsupportedDType {
            file: file.to_owned(),
            tensor: entry.name.clone(),
            dtype: "U8".to_owned(),
        }),
    }
}

/// As [`read_header`], of a file that may hold parts of packed tensors.
pub(super) fn read_packed_header(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let json = header_text(file, bytes)?;
    let data_start = 8 + json.len();
    let raw: RawHeader = serde_json::from_str(json).map_err(|e| Error::HeaderJson {
        file: file.to_owned(),
        reason: e.to_string(),
    })?;
    let mut tensors = raw.0;
    refuse_duplicates(file, &tensors)?;
    tensors.sort_by_key(|(_, t)| t.data_offsets);
    check_layout(file, &tensors, bytes.len() - data_start)?;
    tensors
        .into_iter()
        .filter(|(name, _)| !is_buffer(name))
        .map(|(name, tensor)| entry(file, name, tensor, data_start))
        .collect()
}

/// Is this tensor a buffer that some checkpoints carry along, rather than a weight?
pub(super) fn is_buffer(name: &str) -> bool {
    BUFFERS
        .iter()
        .any(|buffer| name == *buffer || name.strip_suffix(buffer).is_some_and(|rest| rest.ends_with('.')))
}

fn header_text<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, Error> {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::HeaderTooShort {
            file: file.to_owned(),
            len: bytes.len(),
        });
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(Error::HeaderTooLarge {
            file: file.to_owned(),
            len,
        });
    }
    let len = len as usize; // at most MAX_HEADER
    let header = rest.get(..len).ok_or_else(|| Error::HeaderTruncated {
        file: file.to_owned(),
        len,
        available: rest.len(),
    })?;
    let text = std::str::from_utf8(header).map_err(|e| Error::HeaderNotUtf8 {
        file: file.to_owned(),
        at: e.valid_up_to(),
    })?;
    if !text.starts_with('{') {
        let reason = "it does not start with `{`".to_owned();
        return Err(Error::HeaderJson {
            file: file.to_owned(),
            reason,
        });
    }
    Ok(text)
}

fn refuse_duplicates(file: &Path, tensors: &[(String, RawTensor)]) -> Result<(), Error> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some((tensor, _)) => Err(Error::DuplicateTensor {
            file: file.to_owned(),
            tensor: tensor.clone(),
        }),
    }
}

/// The tensors, in the order of their data, must cover `available` bytes exactly.
fn check_layout(file: &Path, tensors: &[(String, RawTensor)], available: usize) -> Result<(), Error> {
    let mut covered = 0;
    let mut previous = "";
    for (name, tensor) in tensors {
        let (start, end) = tensor.data_offsets;
        let (file, tensor) = (|| file.to_owned(), || name.clone());
        if end < start {
            return Err(Error::OffsetsReversed {
                file: file(),
                tensor: tensor(),
                start,
                end,
            });
        }
        if end > available as u64 {
            return Err(Error::OffsetsOutOfBounds {
                file: file(),
                tensor: tensor(),
                end,
                available,
            });
        }
        if start < covered {
            return Err(Error::Overlap {
                file: file(),
                tensor: tensor(),
                other: previous.to_owned(),
            });
        }
        if start > covered {
            return Err(Error::Hole {
                file: file(),
                tensor: tensor(),
                len: start - covered,
            });
        }
        (covered, previous) = (end, name);
    }
    match available as u64 - covered {
        0 => Ok(()),
        len => Err(Error::TrailingBytes {
            file: file.to_owned(),
            len,
        }),
    }
}

/// Checks one tensor by itself: dtype known, and as many bytes as shape and dtype need.
fn entry(file: &Path, name: String, tensor: RawTensor, data_start: usize) -> Result<Entry, Error> {
    let is_packed = tensor.dtype == "U8" && mxfp4::is_part(&name);
    let dtype = match is_packed {
        true => Some(DType::F32),
        false => DType::from_safetensors_name(&tensor.dtype),
    };
    let Some(dtype) = dtype else {
        return Err(Error::UnsupportedDType {
            file: file.to_owned(),
            tensor: name,
            dtype: tensor.dtype,
        });
    };
    let expected = tensor
        .shape
        .iter()
        .try_fold(if is_packed { 1 } else { dtype.size_bytes() as u64 }, |size, dim| {
            size.checked_mul(*dim)
        });
    let shape: Option<Vec<usize>> = tensor.shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let (Some(expected), Some(shape)) = (expected, shape) else {
        return Err(Error::ShapeOverflow {
            file: file.to_owned(),
            tensor: name,
            shape: tensor.shape,
        });
    };
    let (start, end) = tensor.data_offsets;
    if end - start != expected {
        return Err(Error::SizeMismatch {
            file: file.to_owned(),
            tensor: name,
            expected,
            got: end - start,
        });
    }
    // Within the mapped file, as `check_layout` has seen: the sums fit.
    let bytes = data_start + start as usize..data_start + end as usize;
    Ok(Entry {
        name,
        info: TensorInfo { dtype, shape },
        bytes,
        is_packed,
    })
}

/// The header as it stands in the file: every name, also those that come twice.
struct RawHeader(Vec<(String, RawTensor)>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?; // checked, and of no use here
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(tensors))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of the given header and data.
    pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
        read_header(Path::new("m.safetensors"), bytes)
    }

    fn tensor(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    }

    /// The error of one header over `len` bytes of data; its message must name the file and end as a sentence.
    fn fault(header: &str, len: usize) -> Error {
        let error = read(&file(header, &vec![0; len])).expect_err("the header is hostile");
        let message = error.to_string();
        assert!(
            message.contains("m.safetensors") && message.ends_with('.') && !message.contains('\n'),
            "{message}"
        );
        error
    }

    #[test]
    fn a_good_file_is_read_in_the_order_of_its_data() {
        let header = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}   "#,
            tensor("b", "BF16", "[2,3]", 4, 16),
            tensor("a", "F32", "[]", 0, 4),
            tensor("c", "F16", "[0,7]", 16, 16)
        );
        let entries = read(&file(&header, &[0; 16])).expect("good");
        let at = 8 + header.len();
        let expected = [
            ("a", DType::F32, vec![], 0..4),
            ("b", DType::Bf16, vec![2, 3], 4..16),
            ("c", DType::F16, vec![0, 7], 16..16),
        ];
        assert_eq!(entries.len(), 3);
        for (entry, (name, dtype, shape, range)) in entries.into_iter().zip(expected) {
            assert_eq!(
                entry,
                Entry {
                    name: name.into(),
                    info: TensorInfo { dtype, shape },
                    is_packed: false,
                    bytes: at + range.start..at + range.end
                }
            );
        }
    }

    #[test]
    fn the_safetensors_crate_and_we_read_the_same() {
        let values: Vec<u8> = (0..24).collect();
        let views = [("x.weight", vec![2, 3], 24)].map(|(name, shape, len)| {
            (
                name,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &values[..len]).expect("a view"),
            )
        });
        let bytes = safetensors::serialize(views, None).expect("serialised");
        let entries = read(&bytes).expect("good");
        assert_eq!(
            entries[0].info,
            TensorInfo {
                dtype: DType::F32,
                shape: vec![2, 3]
            }
        );
        assert_eq!(bytes[entries[0].bytes.clone()], values);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert!(matches!(read(b""), Err(Error::HeaderTooShort { len: 0, .. })));
        assert!(matches!(read(b"1234567"), Err(Error::HeaderTooShort { len: 7, .. })));
        let length = |len: u64| read(&[&len.to_le_bytes()[..], b"{}"].concat());
        assert!(matches!(length(1 << 63), Err(Error::HeaderTooLarge { .. })));
        assert!(matches!(length(u64::MAX), Err(Error::HeaderTooLarge { .. })));
        assert!(matches!(length(100_000_001), Err(Error::HeaderTooLarge { .. })));
        assert!(matches!(
            length(100_000_000),
            Err(Error::HeaderTruncated { available: 2, .. })
        ));
        assert!(matches!(
            length(3),
            Err(Error::HeaderTruncated {
                len: 3,
                available: 2,
                ..
            })
        ));
        assert!(length(2).expect("an empty file is a file").is_empty());
    }

    #[test]
    fn text_that_is_no_header_is_refused() {
        assert!(matches!(
            read(&[&2u64.to_le_bytes()[..], &[b'{', 0xff]].concat()),
            Err(Error::HeaderNotUtf8 { at: 1, .. })
        ));
        for header in [
            "",
            "null",
            " {}",
            "[]",
            "{",
            "{}x",
            r#"{"a":1}"#,
            r#"{"a":{"dtype":"F32","shape":[]}}"#,
        ] {
            assert!(matches!(fault(header, 0), Error::HeaderJson { .. }), "{header}");
        }
        for bad in ["[-1]", "[1.5]", "[1e400]", "[18446744073709551616]", "null", "[[1]]"] {
            assert!(
                matches!(
                    fault(&format!("{{{}}}", tensor("a", "F32", bad, 0, 4)), 4),
                    Error::HeaderJson { .. }
                ),
                "{bad}"
            );
        }
        let deep = format!(r#"{{"__metadata__":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(matches!(fault(&deep, 0), Error::HeaderJson { .. }));
        assert!(matches!(
            fault(r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}}"#, 4),
            Error::HeaderJson { .. }
        ));
    }

    #[test]
    fn one_name_twice_is_refused() {
        let twice = format!(
            "{{{},{}}}",
            tensor("a", "F32", "[1]", 0, 4),
            tensor("a", "F32", "[1]", 4, 8)
        );
        assert!(matches!(fault(&twice, 8), Error::DuplicateTensor { tensor, .. } if tensor == "a"));
    }

    #[test]
    fn other_dtypes_are_refused_for_weights_and_passed_over_for_buffers() {
        for dtype in ["F64", "I64", "U8", "F8_E4M3", "BOOL", "f32", ""] {
            let header = format!("{{{}}}", tensor("model.w", dtype, "[1]", 0, 8));
            assert!(matches!(fault(&header, 8), Error::UnsupportedDType { .. }), "{dtype}");
        }
        let header = format!(
            "{{{},{}}}",
            tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[2]", 0, 8),
            tensor("embeddings.position_ids", "I64", "[1]", 8, 16)
        );
        assert!(
            read(&file(&header, &[0; 16]))
                .expect("buffers are passed over")
                .is_empty()
        );
        assert!(!is_buffer("my_position_ids") && is_buffer("position_ids"));
    }

    #[test]
    fn shapes_and_offsets_that_do_not_fit_are_refused() {
        let one = |shape: &str, start, end, len| fault(&format!("{{{}}}", tensor("a", "F32", shape, start, end)), len);
        let two = |a: (u64, u64), b: (u64, u64), len| {
            fault(
                &format!(
                    "{{{},{}}}",
                    tensor("a", "F32", "[1]", a.0, a.1),
                    tensor("b", "F32", "[1]", b.0, b.1)
                ),
                len,
            )
        };
        assert!(matches!(
            one("[4294967296,4294967296]", 0, 4, 4),
            Error::ShapeOverflow { .. }
        ));
        assert!(matches!(
            one("[18446744073709551615]", 0, 4, 4),
            Error::ShapeOverflow { .. }
        ));
        assert!(matches!(
            one("[2]", 0, 4, 4),
            Error::SizeMismatch {
                expected: 8,
                got: 4,
                ..
            }
        ));
        assert!(matches!(one("[1]", 4, 0, 4), Error::OffsetsReversed { .. }));
        assert!(matches!(
            one("[1]", 0, 4, 3),
            Error::OffsetsOutOfBounds {
                end: 4,
                available: 3,
                ..
            }
        ));
        assert!(matches!(one("[1]", 0, u64::MAX, 4), Error::OffsetsOutOfBounds { .. }));
        assert!(matches!(one("[1]", 4, 8, 8), Error::Hole { len: 4, .. }));
        assert!(matches!(one("[1]", 0, 4, 9), Error::TrailingBytes { len: 5, .. }));
        assert!(matches!(fault("{}", 1), Error::TrailingBytes { len: 1, .. }));
        assert!(matches!(two((0, 4), (2, 6), 6), Error::Overlap { .. }));
        assert!(matches!(two((0, 4), (0, 4), 4), Error::Overlap { .. }));
        assert!(matches!(two((0, 4), (6, 10), 10), Error::Hole { len: 2, .. }));
    }

    proptest! {
        /// Whatever the bytes, the answer is a value: an error, or entries that lie in the file.
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_cut_or_flip_of_a_good_file_makes_it_panic(cut in 0usize..200, at in 0usize..200, byte in any::<u8>()) {
            let header = format!("{{{},{}}}", tensor("a", "F32", "[1,2]", 0, 8), tensor("b", "BF16", "[3]", 8, 14));
            let mut bytes = file(&header, &[1; 14]);
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(len - cut % len);
            if let Ok(entries) = read(&bytes) {
                for entry in entries {
                    let size = entry.info.dtype.size_bytes() * entry.info.shape.iter().product::<usize>();
                    prop_assert_eq!(bytes[entry.bytes].len(), size);
                }
            }
        }

        #[test]
        fn random_tables_of_tensors_are_answered(
            rows in prop::collection::vec(("[ab]{1,2}", prop::sample::select(vec!["F32", "BF16", "I8"]),
                prop::collection::vec(prop::sample::select(vec![0u64, 1, 2, 1 << 40, u64::MAX]), 0..3), 0u64..20, 0u64..20), 0..4),
            len in 0usize..20,
        ) {
            let rows: Vec<_> = rows.iter().map(|(n, d, s, a, b)| tensor(n, d, &format!("{s:?}"), *a, *b)).collect();
            let _ = read(&file(&format!("{{{}}}", rows.join(",")), &vec![0; len]));
        }
    }
}
