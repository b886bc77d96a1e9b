//! GGUF files: llama.cpp's names, layouts and quantisation, turned back into a Hugging Face checkpoint.
//!
//! The header is untrusted like a safetensors header, and read with the same care (candle's reader allocates whatever length
//! a file claims); candle then undoes the quantisation, block by block, as ranges of a tensor are asked for. llama.cpp
//! stores the rows of Llama's q and k projections in another order, since it rotates neighbouring pairs where transformers
//! rotates halves: rows are put back on the way out. `config.json` is made up from the metadata.
//!
//! Source: the GGUF specification in ggml's docs/gguf.md; llama.cpp's convert_hf_to_gguf.py for names and row order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use heterosis_isa::CHUNK;
use rayon::prelude::*;
use serde_json::json;

use super::gguf_families::{self, ARCHITECTURES, Architecture, BEFORE_EXPERT, EXPERTS};
use super::map::MappedFile;
use super::{DType, Error, TensorInfo, for_each_row};

/// What a GGUF file says, validated: its metadata, and its tensors under their Hugging Face names.
#[derive(Debug)]
pub(super) struct Content {
    pub metadata: Metadata,
    pub config: serde_json::Value,
    pub tensors: Vec<Stored>,
}

/// One tensor: what it is, where its bytes lie, and how they are packed.
#[derive(Debug)]
pub(super) struct Stored {
    pub name: String,
    pub info: TensorInfo,
    pub bytes: Range<usize>,
    pub packing: Packing,
}

/// How a GGUF tensor's bytes become its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Packing {
    kind: Kind,
    /// The number of heads within which rows must be put back in order.
    heads: Option<usize>,
    /// One was added to each element.
    less_one: bool,
}

/// How a GGUF file stores elements.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain(DType),
    Quantised(GgmlDType),
}

/// The metadata by key.
pub(super) type Metadata = BTreeMap<String, Value>;

/// A metadata value; integers of every width are one kind, as are floats.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub fn list(&self) -> Option<&[Value]> {
        if let Value::List(list) = self { Some(list) } else { None }
    }

    pub fn bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    pub fn usize(&self) -> Option<usize> {
        if let Value::Int(value) = self {
            usize::try_from(*value).ok()
        } else {
            None
        }
    }

    pub fn float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }
}

/// Reads and validates the GGUF file `file`.
pub(super) fn read(file: &MappedFile) -> Result<Content, Error> {
    let (metadata, raw, data_start) = Reader {
        file: file.path(),
        bytes: file,
        at: 0,
    }
    .header()?;
    let model = Model::new(file.path(), &metadata, &raw)?;
    let config = model.config(file, data_start)?;
    let mut tensors = Vec::with_capacity(raw.len());
    for tensor in &raw {
        if tensor.name == ROPE_FACTORS || LONG_FACTORS.contains(&tensor.name.as_str()) {
            continue; // part of the configuration
        }
        if let Some(experts) = model.experts(tensor, data_start)? {
            tensors.extend(experts);
            continue;
        }
        let shape: Vec<usize> = tensor.dims.iter().rev().copied().collect();
        let name = model.name_of(&tensor.name)?;
        let heads = model.permuted_heads(&name);
        if let Some(heads) = heads
            && !shape[0].is_multiple_of(2 * heads)
        {
            return Err(model.bad(format!(
                "the {} rows of `{}` do not divide into {heads} heads",
                shape[0], tensor.name
            )));
        }
        let packing = Packing {
            kind: tensor.kind,
            heads,
            less_one: model.architecture.adds_one(&name),
        };
        let dtype = packing.dtype();
        let bytes = data_start + tensor.bytes.start..data_start + tensor.bytes.end;
        tensors.push(Stored {
            name,
            info: TensorInfo { dtype, shape },
            bytes,
            packing,
        });
    }
    Ok(Content {
        metadata,
        config,
        tensors,
    })
}

impl Packing {
    /// The dtype on disk; F32 for what is quantised.
    fn dtype(self) -> DType {
        match self.kind {
            Kind::Plain(dtype) => dtype,
            Kind::Quantised(_) => DType::F32,
        }
    }

    pub fn is_quantised(self) -> bool {
        matches!(self.kind, Kind::Quantised(_))
    }

    /// Are the bytes the elements, in order?
    pub fn is_plain(self) -> bool {
        !self.is_quantised() && self.heads.is_none() && !self.less_one
    }

    /// llama.cpp's name of the storage: `Q4_K`, `F16`, …
    pub fn kind_name(self) -> String {
        match self.kind {
            Kind::Plain(dtype) => dtype.to_string(),
            Kind::Quantised(kind) => match format!("{kind:?}").strip_suffix('K') {
                Some(stem) => format!("{stem}_K"),
                None => format!("{kind:?}"),
            },
        }
    }

    /// The elements `range` of a tensor of `shape`, packed in `bytes`, into `out`.
    pub fn unpack(self, bytes: &[u8], shape: &[usize], range: Range<usize>, out: &mut [f32]) {
        let Some(heads) = self.heads else {
            self.kind.decode(bytes, range.start, out);
            if self.less_one {
                out.iter_mut().for_each(|x| *x -= 1.0);
            }
            return;
        };
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        let head = rows / heads;
        for_each_row(columns, range, out, |row, start, part| {
            // Row `half·d/2 + j` of a head was written as its row `2j + half`.
            let (within, half) = (row % head % (head / 2), row % head / (head / 2));
            let stored = row - row % head + 2 * within + half;
            self.kind.decode(bytes, stored * columns + start, part);
        });
    }
}

impl Kind {
    /// ggml's number of a type; candle knows the blocks.
    fn from_number(number: u32) -> Option<Self> {
        use GgmlDType::*;
        let quantised = [(2, Q4_0), (3, Q4_1), (6, Q5_0), (7, Q5_1), (8, Q8_0), (9, Q8_1)];
        let k_quantised = [(10, Q2K), (11, Q3K), (12, Q4K), (13, Q5K), (14, Q6K), (15, Q8K)];
        match number {
            0 => Some(Kind::Plain(DType::F32)),
            1 => Some(Kind::Plain(DType::F16)),
            30 => Some(Kind::Plain(DType::Bf16)),
            _ => {
                let mut kinds = quantised.into_iter().chain(k_quantised);
                kinds.find(|(n, _)| *n == number).map(|(_, kind)| Kind::Quantised(kind))
            }
        }
    }

    /// Elements and bytes of one block.
    fn block(self) -> (usize, usize) {
        match self {
            Kind::Plain(dtype) => (1, dtype.size_bytes()),
            Kind::Quantised(kind) => (kind.block_size(), kind.type_size()),
        }
    }

    /// The elements from `start` on, as they lie in the file.
    fn decode(self, bytes: &[u8], start: usize, out: &mut [f32]) {
        let kind = match self {
            Kind::Plain(dtype) => {
                let size = dtype.size_bytes();
                return dtype.widen(&bytes[start * size..(start + out.len()) * size], out);
            }
            Kind::Quantised(kind) => kind,
        };
        let (elements, size) = self.block();
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(k, out)| {
            let start = start + k * CHUNK;
            let blocks = start / elements..(start + out.len()).div_ceil(elements);
            let values = dequantise(
                kind,
                &bytes[blocks.start * size..blocks.end * size],
                blocks.len() * elements,
            );
            out.copy_from_slice(&values[start - blocks.start * elements..][..out.len()]);
        });
    }
}

fn dequantise(kind: GgmlDType, blocks: &[u8], elements: usize) -> Vec<f32> {
    let storage = kind.from_data(Cow::Borrowed(blocks)).dequantize(elements);
    match storage.expect("whole blocks, aligned, as the header's checks have seen") {
        candle_core::CpuStorage::F32(values) => values,
        other => unreachable!(
            "candle dequantises to f32, not {:?}",
            candle_core::backend::BackendStorage::dtype(&other)
        ),
    }
}

// ------------------------------------------------------------------------------------------------------ the header

/// Factors by which Llama 3 divides its rotary frequencies; transformers has them in its configuration.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Phi-3's factors of LongRoPE, beyond the original length and within it.
pub(super) const LONG_FACTORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// A tensor as the header describes it; `bytes` counts from the start of the data.
#[derive(Debug)]
struct RawTensor {
    name: String,
    /// Innermost first, as ggml counts.
    dims: Vec<usize>,
    kind: Kind,
    bytes: Range<usize>,
}

/// A cursor over bytes that nobody vouches for.
struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn header(mut self) -> Result<(Metadata, Vec<RawTensor>, usize), Error> {
        if self.take(4)? != b"GGUF" {
            return Err(self.bad("it does not start with the letters GGUF"));
        }
        match self.u32()? {
            2 | 3 => {}
            version => {
                return Err(self.bad(format!(
                    "its version is {version}; versions 2 and 3, little-endian, are read"
                )));
            }
        }
        let tensor_count = self.count(24)?;
        let metadata_count = self.count(13)?;
        let mut metadata = Metadata::new();
        for _ in 0..metadata_count {
            let (key, kind) = (self.string()?, self.u32()?);
            let value = self.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.bad(format!("it holds the key `{key}` twice")));
            }
        }
        let alignment = metadata.get("general.alignment").map_or(Some(32), Value::usize);
        let alignment = alignment
            .filter(|n| n.is_power_of_two() && (8..=1 << 20).contains(n))
            .ok_or_else(|| self.bad("its general.alignment is not a power of two from 8 on"))?;
        let mut tensors = (0..tensor_count)
            .map(|_| self.tensor(alignment))
            .collect::<Result<Vec<_>, _>>()?;
        let data_start = self.at.next_multiple_of(alignment);
        self.check_layout(&mut tensors, self.bytes.len().saturating_sub(data_start))?;
        Ok((metadata, tensors, data_start))
    }

    fn tensor(&mut self, alignment: usize) -> Result<RawTensor, Error> {
        let name = self.string()?;
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(self.bad(format!("tensor `{name}` has {rank} dimensions")));
        }
        let dims: Vec<u64> = (0..rank).map(|_| self.u64()).collect::<Result<_, _>>()?;
        let number = self.u32()?;
        let kind = Kind::from_number(number).ok_or_else(|| Error::GgufKind {
            file: self.file.to_owned(),
            tensor: name.clone(),
            kind: number,
        })?;
        let offset = self.u64()?;
        let (elements, size) = kind.block();
        let bad = |what: &str| self.bad(format!("tensor `{name}`, of shape {dims:?}, {what}"));
        if dims[0] == 0 || !dims[0].is_multiple_of(elements as u64) {
            return Err(bad("has rows that are no whole blocks"));
        }
        let len = dims.iter().try_fold(1u64, |len, dim| len.checked_mul(*dim));
        let bytes = len.and_then(|len| (len / elements as u64).checked_mul(size as u64));
        let end = bytes
            .and_then(|bytes| offset.checked_add(bytes))
            .ok_or_else(|| bad("is impossibly large"))?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(bad("does not start on a multiple of the alignment"));
        }
        if end > self.bytes.len() as u64 {
            return Err(bad("goes past the end of the file: the file was cut short"));
        }
        let dims = dims.iter().map(|dim| *dim as usize).collect(); // their product fits into the file
        Ok(RawTensor {
            name,
            dims,
            kind,
            bytes: offset as usize..end as usize,
        })
    }

    /// No two tensors of one name, none over another, none past the end.
    fn check_layout(&self, tensors: &mut [RawTensor], available: usize) -> Result<(), Error> {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(self.bad(format!("it describes tensor `{}` twice", pair[0].name)));
        }
        tensors.sort_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
            return Err(self.bad(format!("the data of `{}` and `{}` overlap", pair[0].name, pair[1].name)));
        }
        match tensors.iter().find(|tensor| tensor.bytes.end > available) {
            Some(tensor) => Err(self.bad(format!(
                "the data of `{}` go past its end: it was cut short",
                tensor.name
            ))),
            None => Ok(()),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::Int(self.array::<1>()?[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.string()?),
            9 if depth < 3 => {
                let kind = self.u32()?;
                let count = self.count(1)?;
                Value::List(
                    (0..count)
                        .map(|_| self.value(kind, depth + 1))
                        .collect::<Result<_, _>>()?,
                )
            }
            10 => Value::Int(self.u64()?.into()),
            11 => Value::Int(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.bad(format!("a metadata value has the unknown type {kind}"))),
        })
    }

    /// A number of things that take `least` bytes each: no more than there is room for.
    fn count(&mut self, least: usize) -> Result<usize, Error> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(count) if count <= (self.bytes.len() - self.at) / least => Ok(count),
            _ => Err(self.bad(format!("it claims {count} entries, more than it has room for"))),
        }
    }

    fn string(&mut self) -> Result<String, Error> {
        let len = self.count(1)?;
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.bad("a text in its header is not UTF-8")),
        }
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many as were taken"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let bytes = self.bytes[self.at..]
            .get(..len)
            .ok_or_else(|| self.bad("it ends inside its header"))?;
        self.at += len;
        Ok(bytes)
    }

    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::GgufHeader {
            file: self.file.to_owned(),
            reason: reason.into(),
        }
    }
}

// ---------------------------------------------------------------------------------------- architecture and configuration

/// The model that a file's metadata describe.
struct Model<'a> {
    file: &'a Path,
    metadata: &'a Metadata,
    tensors: &'a [RawTensor],
    architecture: &'static Architecture,
    heads: usize,
    key_value_heads: usize,
}

impl<'a> Model<'a> {
    fn new(file: &'a Path, metadata: &'a Metadata, tensors: &'a [RawTensor]) -> Result<Self, Error> {
        let named = metadata
            .get("general.architecture")
            .and_then(Value::text)
            .unwrap_or("(none)");
        let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == named) else {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
            let known = known.join(", ");
            return Err(Error::GgufArchitecture {
                file: file.to_owned(),
                architecture: named.to_owned(),
                known,
            });
        };
        let mut model = Self {
            file,
            metadata,
            tensors,
            architecture,
            heads: 0,
            key_value_heads: 0,
        };
        model.heads = model.required("attention.head_count")?;
        model.key_value_heads = model.number("attention.head_count_kv")?.unwrap_or(model.heads);
        if model.heads == 0 || model.key_value_heads == 0 || !model.heads.is_multiple_of(model.key_value_heads) {
            return Err(model.bad(format!(
                "{} heads cannot share {} key-value heads",
                model.heads, model.key_value_heads
            )));
        }
        if model.number("expert_count")?.unwrap_or(0) > 0 && architecture.name != "qwen3moe" {
            return Err(model.bad("it is a mixture of experts, which is known of qwen3moe only".to_owned()));
        }
        if architecture.name == "olmo2" && model.number("attention.sliding_window")?.is_some() {
            return Err(model.bad("it is an OLMo 3, whose windows are not read; OLMo 2 is".to_owned()));
        }
        Ok(model)
    }

    /// The Hugging Face name of one of llama.cpp's tensors.
    fn name_of(&self, name: &str) -> Result<String, Error> {
        let top = match name {
            "token_embd.weight" => Some("model.embed_tokens.weight"),
            "output_norm.weight" => Some("model.norm.weight"),
            "output.weight" => Some("lm_head.weight"),
            _ => None,
        };
        let layer = || {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let (module, kind) = rest.rsplit_once('.')?;
            let _: u32 = layer.parse().ok()?;
            let (_, module) = self.architecture.modules.iter().find(|(theirs, _)| *theirs == module)?;
            ["weight", "bias"]
                .contains(&kind)
                .then(|| format!("model.layers.{layer}.{module}.{kind}"))
        };
        top.map(str::to_owned).or_else(layer).ok_or_else(|| {
            self.bad(format!(
                "tensor `{name}` is none that the architecture {} is known to have",
                self.architecture.name
            ))
        })
    }

    /// A tensor of all experts, expert by expert.
    fn experts(&self, tensor: &RawTensor, data_start: usize) -> Result<Option<Vec<Stored>>, Error> {
        let parts = || {
            let (layer, rest) = tensor.name.strip_prefix("blk.")?.split_once('.')?;
            let module = rest.strip_suffix(".weight")?;
            let _: u32 = layer.parse().ok()?;
            let (_, matrix) = EXPERTS.into_iter().find(|(theirs, _)| *theirs == module)?;
            Some((layer, matrix))
        };
        let Some((layer, matrix)) = parts().filter(|_| self.architecture.name == "qwen3moe") else {
            return Ok(None);
        };
        let (count, rows, columns) = match tensor.dims[..] {
            [columns, rows, count] if Some(count) == self.number("expert_count")? => (count, rows, columns),
            _ => return Err(self.bad(format!("tensor `{}` does not hold all experts", tensor.name))),
        };
        let packing = Packing {
            kind: tensor.kind,
            heads: None,
            less_one: false,
        };
        let (len, start) = (tensor.bytes.len() / count, data_start + tensor.bytes.start);
        let one = |expert: usize| Stored {
            name: format!("model.layers.{layer}.{BEFORE_EXPERT}{expert}.{matrix}.weight"),
            info: TensorInfo {
                dtype: packing.dtype(),
                shape: vec![rows, columns],
            },
            bytes: start + expert * len..start + (expert + 1) * len,
            packing,
        };
        Ok(Some((0..count).map(one).collect()))
    }

    /// Llama's q and k rows (and biases) were reordered, head by head.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        match name {
            _ if !self.architecture.pairs => None,
            _ if name.contains("self_attn.q_proj.") => Some(self.heads),
            _ if name.contains("self_attn.k_proj.") => Some(self.key_value_heads),
            _ => None,
        }
    }

    /// `config.json`, in the dialect that transformers 4 wrote and 5 reads.
    fn config(&self, bytes: &[u8], data_start: usize) -> Result<serde_json::Value, Error> {
        let embedding = self.tensor("token_embd.weight")?;
        let hidden = self.required("embedding_length")?;
        let head_dim = match self.number("attention.key_length")?.or(self
            .number("rope.dimension_count")?
            .filter(|_| self.architecture.name != "phi3"))
        {
            Some(dim) => dim,
            None => hidden / self.heads,
        };
        let has = |name: &str| self.tensors.iter().any(|tensor| tensor.name == name);
        let mut config = json!({
            "architectures": [self.architecture.class],
            "model_type": self.architecture.model_type,
            "hidden_size": hidden,
            "intermediate_size": self.inner_width()?,
            "num_hidden_layers": self.required("block_count")?,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": head_dim,
            "hidden_act": self.architecture.activation,
            "max_position_embeddings": self.required("context_length")?,
            "rms_norm_eps": self.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            "rope_theta": self.float("rope.freq_base")?.unwrap_or(self.usual_theta()),
            "rope_scaling": self.rope_scaling(bytes, data_start, head_dim)?,
            "vocab_size": embedding.dims.last(),
            "tie_word_embeddings": !has("output.weight"),
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_up.bias"),
            "torch_dtype": self.main_dtype().torch_name(),
        });
        for (field, key) in [
            ("bos_token_id", "bos"),
            ("eos_token_id", "eos"),
            ("pad_token_id", "padding"),
        ] {
            let id = self.metadata.get(&format!("tokenizer.ggml.{key}_token_id"));
            if let Some(id) = id.and_then(Value::usize) {
                config[field] = id.into();
            }
        }
        if let Some(window) = self.number("attention.sliding_window")?.filter(|window| *window > 0)
            && self.architecture.name == "llama"
        {
            config["model_type"] = "mistral".into();
            config["architectures"] = json!(["MistralForCausalLM"]);
            config["sliding_window"] = window.into();
        }
        self.add_particulars(&mut config, head_dim)?;
        Ok(config)
    }

    /// A model of experts alone may leave out how wide its other layers would be.
    fn inner_width(&self) -> Result<usize, Error> {
        match self.number("feed_forward_length")? {
            Some(width) => Ok(width),
            None if self.architecture.name == "qwen3moe" => self.required("expert_feed_forward_length"),
            None => self.required("feed_forward_length"),
        }
    }

    /// Where the file does not say.
    fn usual_theta(&self) -> f64 {
        match self.architecture.name {
            "gemma3" => 1_000_000.0,
            _ => 10_000.0,
        }
    }

    /// What a family's config has besides, and what llama.cpp takes for granted of it.
    fn add_particulars(&self, config: &mut serde_json::Value, head_dim: usize) -> Result<(), Error> {
        let architecture = self.architecture;
        for (key, field, usual) in gguf_families::numbers(architecture.name) {
            config[*field] = json!(self.float(key)?.or(*usual));
        }
        let window = self.number("attention.sliding_window")?.filter(|window| *window > 0);
        if architecture.norm_plus_one {
            config["hidden_activation"] = architecture.activation.into();
        }
        if architecture.full_each > 0 {
            let (layers, hidden) = (self.required("block_count")?, self.required("embedding_length")?);
            let types = (0..layers).map(|layer| match architecture.slides(layer) {
                true => "sliding_attention",
                false => "full_attention",
            });
            config["layer_types"] = types.collect();
            config["sliding_window"] = window.unwrap_or(4096).into();
            let scalar = architecture.query_scalar(layers, hidden, self.heads, head_dim);
            config["query_pre_attn_scalar"] = scalar.into();
        }
        match architecture.name {
            "phi3" => {
                config["sliding_window"] = json!(window);
                let original = self.number("rope.scaling.original_context_length")?;
                let context = self.required("context_length")?;
                config["original_max_position_embeddings"] = original.unwrap_or(context).into();
                let rotary = self.number("rope.dimension_count")?.unwrap_or(head_dim);
                config["partial_rotary_factor"] = json!(rotary as f64 / head_dim as f64);
            }
            "smollm3" => config["no_rope_layer_interval"] = 4.into(),
            "qwen3moe" => {
                config["num_experts"] = self.required("expert_count")?.into();
                config["num_experts_per_tok"] = self.required("expert_used_count")?.into();
                config["moe_intermediate_size"] = self.required("expert_feed_forward_length")?.into();
                config["norm_topk_prob"] = true.into();
            }
            _ => {}
        }
        Ok(())
    }

    fn rope_scaling(&self, bytes: &[u8], data_start: usize, head_dim: usize) -> Result<serde_json::Value, Error> {
        let values = |factors: &RawTensor| {
            let mut values = vec![0.0; factors.dims.iter().product()];
            let range = data_start + factors.bytes.start..data_start + factors.bytes.end;
            factors.kind.decode(&bytes[range], 0, &mut values);
            values
        };
        if let [Ok(long), Ok(short)] = LONG_FACTORS.map(|name| self.tensor(name)) {
            let (long, short) = (values(long), values(short));
            return Ok(json!({"rope_type": "longrope", "long_factor": long, "short_factor": short}));
        }
        if let Ok(factors) = self.tensor(ROPE_FACTORS) {
            let values = values(factors);
            let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
            return llama3_scaling(&values, theta, head_dim)
                .ok_or_else(|| self.bad("its rope_freqs.weight are not Llama 3's factors".to_owned()));
        }
        let factor = self
            .float("rope.scaling.factor")?
            .or(self.float("rope.scale_linear")?)
            .unwrap_or(1.0);
        let kind = self.metadata.get(&self.key("rope.scaling.type")).and_then(Value::text);
        let original = self.number("rope.scaling.original_context_length")?;
        match kind {
            _ if factor == 1.0 => Ok(serde_json::Value::Null),
            None | Some("linear") => Ok(json!({"rope_type": "linear", "factor": factor})),
            Some("none") => Ok(serde_json::Value::Null),
            Some("yarn") => {
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(original) = original {
                    scaling["original_max_position_embeddings"] = original.into();
                }
                Ok(scaling)
            }
            Some(other) => Err(self.bad(format!("its rope scaling `{other}` is not supported"))),
        }
    }

    /// The dtype of most weights, where they are not quantised.
    fn main_dtype(&self) -> DType {
        let size = |dtype| -> usize {
            let same = self
                .tensors
                .iter()
                .filter(|tensor| tensor.dims.len() > 1 && tensor.kind == Kind::Plain(dtype));
            same.map(|tensor| tensor.bytes.len()).sum()
        };
        if self
            .tensors
            .iter()
            .any(|tensor| matches!(tensor.kind, Kind::Quantised(_)))
        {
            return DType::F32;
        }
        [DType::F16, DType::Bf16]
            .into_iter()
            .filter(|d| size(*d) > size(DType::F32))
            .max_by_key(|d| size(*d))
            .unwrap_or(DType::F32)
    }

    fn tensor(&self, name: &str) -> Result<&RawTensor, Error> {
        let found = self.tensors.iter().find(|tensor| tensor.name == name);
        found.ok_or_else(|| self.bad(format!("it has no tensor `{name}`")))
    }

    fn key(&self, field: &str) -> String {
        format!("{}.{field}", self.architecture.name)
    }

    fn required(&self, field: &str) -> Result<usize, Error> {
        self.number(field)?
            .ok_or_else(|| self.bad(format!("its metadata lack `{}`", self.key(field))))
    }

    fn number(&self, field: &str) -> Result<Option<usize>, Error> {
        let value = self.metadata.get(&self.key(field));
        let read = |value: &Value| {
            value
                .usize()
                .ok_or_else(|| self.bad(format!("its metadata `{}` is not one whole number", self.key(field))))
        };
        value.map(read).transpose()
    }

    fn float(&self, field: &str) -> Result<Option<f64>, Error> {
        let value = self.metadata.get(&self.key(field));
        let read = |value: &Value| {
            value
                .float()
                .ok_or_else(|| self.bad(format!("its metadata `{}` is not a number", self.key(field))))
        };
        value.map(read).transpose()
    }

    fn bad(&self, reason: String) -> Error {
        Error::GgufHeader {
            file: self.file.to_owned(),
            reason,
        }
    }
}

/// The `rope_scaling` of Llama 3 that gives these factors, if one does.
///
/// llama.cpp's converter stores, for each frequency, 1 where the wavelength is short, `factor` where it is long, and a blend
/// between. `low_freq_factor` 1 and `high_freq_factor` 4 are those of every published model.
fn llama3_scaling(factors: &[f32], theta: f64, head_dim: usize) -> Option<serde_json::Value> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let (low, high) = (1.0, 4.0);
    let blend = |original: f64, i: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let smooth = (original / wavelength - low) / (high - low);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let fits = |original: &usize| {
        factors
            .iter()
            .enumerate()
            .all(|(i, x)| (blend(*original as f64, i) / f64::from(*x) - 1.0).abs() < 1e-3)
    };
    if factors.len() != head_dim / 2 || !factors.iter().all(|x| x.is_finite() && *x >= 1.0) {
        return None;
    }
    let original = [8192, 4096, 2048, 16384, 32768, 65536, 131_072]
        .into_iter()
        .find(fits)?;
    Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::super::Checkpoint;
    use super::*;

    /// tests/data/README.md tells how transformers made these.
    pub(crate) fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
    }

    fn compare_with_transformers(name: &str) -> Checkpoint {
        let ours = Checkpoint::open(&golden(&format!("{name}.gguf"))).unwrap();
        let bytes = fs::read(golden(&format!("{name}.safetensors"))).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names = theirs.names();
        names.sort();
        assert_eq!(ours.tensors().map(|(name, _)| name).collect::<Vec<_>>(), names);
        for name in names {
            let view = theirs.tensor(name).unwrap();
            assert_eq!(ours.info(name).unwrap().shape, view.shape(), "{name}");
            let mut expected = vec![0.0; view.data().len() / 4];
            DType::F32.widen(view.data(), &mut expected);
            let whole = ours.read_f32(name).unwrap();
            let worst = whole
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs() / (1e-3 + b.abs()))
                .fold(0.0, f32::max);
            assert!(worst <= 1e-6, "{name}: {worst}");
            for (start, end) in [(0, 1), (3, whole.len().min(40)), (whole.len() / 2 + 1, whole.len())] {
                let mut part = vec![0.0; end - start];
                ours.read_f32_into(name, start..end, &mut part).unwrap();
                assert_eq!(part, whole[start..end], "{name} {start}..{end}");
            }
        }
        ours
    }

    #[test]
    fn every_quantisation_and_llamas_row_order_come_out_as_in_transformers() {
        let ours = compare_with_transformers("kinds");
        let config = ours.config();
        assert_eq!(config["rope_scaling"]["rope_type"], "llama3");
        assert_eq!(config["rope_scaling"]["factor"], 8.0);
        assert_eq!(config["rope_scaling"]["original_max_position_embeddings"], 8192);
        assert_eq!(config["head_dim"], 8);
        assert_eq!(
            (&config["tie_word_embeddings"], &config["torch_dtype"]),
            (&json!(false), &json!("float32"))
        );
        assert!(ours.raw("model.layers.0.self_attn.q_proj.weight").is_none());
        assert!(ours.raw("model.layers.0.self_attn.o_proj.weight").is_some());
        ours.check_finite().unwrap();
    }

    #[test]
    fn plain_weights_and_biases_come_out_as_in_transformers() {
        let ours = compare_with_transformers("plain");
        let config = ours.config();
        assert_eq!(config["architectures"], json!(["Qwen2ForCausalLM"]));
        assert_eq!(
            (&config["tie_word_embeddings"], &config["torch_dtype"]),
            (&json!(true), &json!("float16"))
        );
        assert_eq!(config["rope_scaling"], serde_json::Value::Null);
        assert_eq!(
            (&config["vocab_size"], &config["bos_token_id"]),
            (&json!(285), &json!(1))
        );
        assert_eq!(
            ours.raw("model.layers.0.self_attn.q_proj.weight").unwrap().1,
            DType::F16
        );
        assert_eq!(ours.name(), "plain");
        assert_eq!(ours.source_files(), [golden("plain.gguf")]);
        assert_eq!(ours.side_file("texts.json"), None);
        assert_eq!(ours.side_text("texts.json").unwrap(), None);
        assert_ne!(
            ours.digest().unwrap(),
            Checkpoint::open(&golden("kinds.gguf")).unwrap().digest().unwrap()
        );
    }

    #[test]
    fn rows_are_put_back_by_hand() {
        // Two heads of four rows: llama.cpp stores 0 2 1 3 of each (pairs side by side).
        let stored: Vec<u8> = [0f32, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let packing = Packing {
            kind: Kind::Plain(DType::F32),
            heads: Some(2),
            less_one: false,
        };
        let mut out = [0.0; 8];
        packing.unpack(&stored, &[8], 0..8, &mut out);
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let mut out = [0.0; 4];
        packing.unpack(&stored, &[8, 1], 1..5, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
    }

    /// A header with the given metadata entries and tensors, ready to be spoilt.
    fn header(metadata: &[(&str, u32, Vec<u8>)], tensors: &[(&str, &[u64], u32, u64)]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in metadata {
            bytes.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
        }
        for (name, dims, kind, offset) in tensors {
            bytes.extend([text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat());
            dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend([kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat());
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Checkpoint, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path)
    }

    fn reason(bytes: &[u8]) -> String {
        let error = open(bytes).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("m.gguf") && message.ends_with('.') && !message.contains('\n'),
            "{message}"
        );
        message
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert!(reason(b"").contains("ends inside"));
        assert!(reason(b"GGML").contains("letters GGUF"));
        assert!(reason(b"GGUF\x01\0\0\0").contains("version is 1"));
        assert!(reason(b"GGUF\0\0\0\x03").contains("version is"));
        let counts = |tensors: u64, metadata: u64| {
            [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &metadata.to_le_bytes()].concat()
        };
        assert!(reason(&counts(u64::MAX, 0)).contains("more than it has room for"));
        assert!(reason(&counts(0, 1 << 60)).contains("more than it has room for"));
        let long_text = (1u64 << 62).to_le_bytes().to_vec();
        assert!(reason(&header(&[("a", 8, long_text)], &[])).contains("more than it has room for"));
        let long_list = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
        assert!(reason(&header(&[("a", 9, long_list)], &[])).contains("more than it has room for"));
        let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()]
            .concat()
            .repeat(1000);
        assert!(reason(&header(&[("a", 9, nested)], &[])).contains("unknown type"));
        assert!(reason(&header(&[("a", 77, vec![0; 8])], &[])).contains("unknown type 77"));
        let one = || 1u32.to_le_bytes().to_vec();
        assert!(reason(&header(&[("a", 4, one()), ("a", 4, one())], &[])).contains("twice"));
        assert!(reason(&header(&[("general.alignment", 4, one())], &[])).contains("alignment"));
        let tensor = |dims: &[u64], kind: u32, offset: u64| {
            let mut bytes = header(&[], &[("token_embd.weight", dims, kind, offset)]);
            bytes.resize(bytes.len() + 256, 0);
            open(&bytes).unwrap_err()
        };
        for (dims, kind, offset, word) in [
            (&[][..], 0, 0, "0 dimensions"),
            (&[1, 1, 1, 1, 1], 0, 0, "5 dimensions"),
            (&[0], 0, 0, "no whole blocks"),
            (&[33], 2, 0, "no whole blocks"),
            (&[u64::MAX, u64::MAX], 0, 0, "impossibly large"),
            (&[4], 0, u64::MAX - 31, "cut short"),
            (&[16], 0, u64::MAX - 31, "impossibly large"),
            (&[4], 0, 8, "multiple of the alignment"),
            (&[1 << 40], 0, 0, "cut short"),
            (&[64], 0, 64, "cut short"),
        ] {
            let error = tensor(dims, kind, offset).to_string();
            assert!(error.contains(word), "{dims:?}: {error}");
        }
        assert!(matches!(tensor(&[256], 20, 0), Error::GgufKind { kind: 20, .. }));
        assert!(tensor(&[256], 20, 0).to_string().contains("IQ4_NL"));
        let mut double = header(&[], &[("a", &[8], 0, 0), ("b", &[8], 0, 0)]);
        double.resize(double.len() + 256, 0);
        assert!(reason(&double).contains("overlap"));
        let mut same = header(&[], &[("a", &[8], 0, 0), ("a", &[8], 0, 32)]);
        same.resize(same.len() + 256, 0);
        assert!(reason(&same).contains("twice"));
        assert!(matches!(open(&header(&[], &[])), Err(Error::GgufArchitecture { .. })));
        let text = [&5u64.to_le_bytes()[..], b"mamba"].concat();
        let error = open(&header(&[("general.architecture", 8, text)], &[])).unwrap_err();
        assert!(
            matches!(&error, Error::GgufArchitecture { architecture, .. } if architecture == "mamba"),
            "{error}"
        );
        let text = [&5u64.to_le_bytes()[..], b"llama"].concat();
        assert!(reason(&header(&[("general.architecture", 8, text)], &[])).contains("llama.attention.head_count"));
    }

    #[test]
    fn llama_3_factors_are_recognised_and_others_refused() {
        assert!(llama3_scaling(&[1.0, 2.0, 3.0, 4.0], 500_000.0, 8).is_none());
        assert!(llama3_scaling(&[1.0; 3], 500_000.0, 8).is_none());
        assert!(llama3_scaling(&[f32::NAN; 4], 500_000.0, 8).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Bytes changed and cut anywhere: an error or a checkpoint that can be read, never a panic.
        #[test]
        fn no_spoilt_file_makes_it_panic(
            which in prop::sample::select(vec!["kinds.gguf", "plain.gguf"]),
            changes in prop::collection::vec((0usize..4000, any::<u8>()), 0..4),
            cut in prop::option::of(0usize..38_000),
        ) {
            let mut bytes = fs::read(golden(which)).unwrap();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(cut.unwrap_or(usize::MAX));
            if let Ok(checkpoint) = open(&bytes) {
                let names: Vec<String> = checkpoint.tensors().map(|(name, _)| name.to_owned()).collect();
                for name in names {
                    prop_assert_eq!(checkpoint.read_f32(&name).unwrap().len(), checkpoint.info(&name).unwrap().len());
                }
                let _ = checkpoint.tokenizer_json();
                let _ = checkpoint.side_text("tokenizer_config.json");
            }
        }
    }
}
