//! Checkpoints: opened lazily by tensor name, validated once at the door, and written again.
//!
//! A [`Checkpoint`] is a directory in Hugging Face layout (one `model.safetensors`, or shards with an index), such a
//! directory with a LoRA adapter laid over it, or a `.gguf` file. Weights stay in the mapped files until they are asked
//! for; then they come as f32, adapter applied and quantisation undone. A [`Writer`] is the way back to disk.
//!
//! `config.json` is handed on as it was read: what it means is the decoder's business.
//!
//! ```
//! use heterosis_checkpoint::{Checkpoint, DType, TensorSpec, Writer, parse_size};
//!
//! # let dir = tempfile::tempdir()?;
//! let out = dir.path().join("child");
//! let mut writer = Writer::create(&out, parse_size("5GB")?)?;
//! let norm = TensorSpec { name: "model.norm.weight".into(), dtype: DType::Bf16, shape: vec![3] };
//! writer.declare(&[norm])?;
//! writer.put_f32("model.norm.weight", &[1.0, -0.5, 0.1])?; // rounded to the declared dtype
//! writer.json("config.json", &serde_json::json!({ "model_type": "llama" }))?;
//! writer.finish()?; // now it has its name, and not before
//!
//! let child = Checkpoint::open(&out)?;
//! child.check_finite()?;
//! assert_eq!(child.info("model.norm.weight").map(|info| info.shape.as_slice()), Some(&[3][..]));
//! assert_eq!(child.read_f32("model.norm.weight")?, [1.0, -0.5, 205.0 / 2048.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod error;
mod files;
mod gguf;
mod gguf_families;
mod gguf_splits;
mod gguf_tokenizer;
mod gguf_vocabulary;
mod gguf_write;
#[cfg(feature = "hub")]
pub mod http;
mod hub;
mod license;
mod lora;
mod map;
mod module_names;
mod mxfp4;
mod partial;
mod pickled;
mod safetensors;
#[cfg(any(test, feature = "testing"))]
pub mod scripted;
mod sentence_piece;
mod shards;
mod writer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde_json::Value;

pub use error::Error;
pub use files::{TEXT_LIMIT, open_regular, read_regular, read_regular_text, read_text};
pub use gguf_write::{GgufKind, check_gguf, write_gguf};
pub use heterosis_isa::DType;
pub use hub::{Download, HubOptions, Report};
pub use license::LicenseTexts;
pub use lora::{AdapterShape, LoraFactors, LoraLayout};
pub use writer::{Staged, TensorSpec, Writer, parse_size};

use hub::HubName;
use lora::Adapter;
use map::MappedFile;

/// Digest of the sources that read weights: adapters applied or quantisation undone by another build are other weights.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

/// Files beside the weights that belong to a model and say where it came from.
const SIDE_FILES: [&str; 15] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "model.safetensors.index.json",
];

/// What a tensor is: how it is stored, and its dimensions, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The dtype on disk; `F32` for a tensor that is stored quantised.
    pub dtype: DType,
    /// Outermost first: of a linear layer `[out, in]`. Empty for a single number.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Does the tensor hold no element at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A model's weights and configuration, mapped from disk and validated.
///
/// Shared between threads freely: nothing in it changes but caches.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    path: PathBuf,
    config: Value,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    adapter: Option<Adapter>,
    /// A GGUF file's metadata, of which its tokenizer is made.
    gguf: Option<gguf::Metadata>,
    digest: OnceLock<String>,
}

/// A tensor and the place of its bytes.
#[derive(Clone, Debug)]
struct Tensor {
    info: TensorInfo,
    /// Index into [`Checkpoint::files`].
    file: usize,
    bytes: Range<usize>,
    /// How a GGUF file packs it; `None` for safetensors, which store plainly.
    packing: Option<gguf::Packing>,
    /// Of a tensor in MXFP4.
    scales: Option<mxfp4::Scales>,
}

impl Checkpoint {
    /// Opens a directory in Hugging Face layout, or a `.gguf` file.
    ///
    /// **Errors**: every fault of the headers, the index and the configuration; the weights themselves are not read
    /// (see [`check_finite`](Self::check_finite)).
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            Self::open_directory(path)
        } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) && path.exists() {
            Self::open_gguf(path)
        } else if path.exists() {
            Err(Error::NotACheckpoint { path: path.to_owned() })
        } else {
            Err(Error::NoSuchModel { path: path.to_owned() })
        }
    }

    /// Opens a model and lays the PEFT LoRA adapter in the directory `adapter` over it.
    ///
    /// **Errors**: also an adapter of another kind, or for another model: it is never laid over in part.
    pub fn open_with_adapter(model: &Path, adapter: &Path) -> Result<Self, Error> {
        let mut checkpoint = Self::open(model)?;
        let tied = checkpoint.tied_embeddings().map(str::to_owned);
        let head = tied.as_deref().map_or("", module_names::head_beside);
        let info = |name: &str| {
            let tied = tied.as_deref().filter(|_| name == head);
            checkpoint.info(tied.unwrap_or(name)).cloned()
        };
        let laid_over = Adapter::open(adapter, info)?;
        if let Some(embeddings) = tied.filter(|embeddings| laid_over.parts(head, embeddings)) {
            tracing::info!(
                "{}: it changes {embeddings} or a head that was tied to it; as in training, the two part: the model has a \
                 {head} of its own (peft's merge_and_unload would add a LoRA to both)",
                adapter.display()
            );
            checkpoint.untie(&embeddings, head);
        }
        checkpoint.adapter = Some(laid_over);
        checkpoint.name = format!("{}+{}", checkpoint.name, name_of(adapter));
        Ok(checkpoint)
    }

    /// The tensors that an adapter changes, if one is laid over the model.
    pub fn adapted(&self) -> impl Iterator<Item = &str> {
        self.adapter.iter().flat_map(Adapter::changed)
    }

    /// What an adapter over this model calls a tensor of it: in a model that also sees, as today's transformers does.
    pub fn name_in_adapters(&self, tensor: &str) -> String {
        module_names::of_today(tensor, self.sees())
    }

    /// Whether the language model stands beside a tower.
    fn sees(&self) -> bool {
        ["text_config", "vision_config"]
            .iter()
            .any(|key| self.config.get(key).is_some())
    }

    /// What the adapter adds to a tensor; `None` where it does nothing, or anything else than to add a product of two matrices.
    pub fn lora_factors(&self, name: &str) -> Option<LoraFactors> {
        self.adapter.as_ref()?.factors(name)
    }

    /// Opens what a MODEL word names: a directory, `DIR+ADAPTER_DIR`, a `.gguf` file, or `hf:owner/name[@revision]` (which
    /// may stand on either side of the `+`).
    pub fn open_model(model: &str, hub: &HubOptions) -> Result<Self, Error> {
        let (base, adapter) = split_adapter(model);
        let path = locate(base, hub, hub::model_is_complete)?;
        let mut checkpoint = match adapter {
            None => Self::open(&path)?,
            Some(adapter) => {
                let adapter = locate(adapter, hub, hub::adapter_is_complete)?;
                Self::open_with_adapter(&path, &adapter)?
            }
        };
        if model.contains("hf:") {
            checkpoint.name = model.replace("hf:", ""); // the cache's directory is called after a commit
        }
        Ok(checkpoint)
    }

    /// The embeddings that serve as head too, where they do.
    fn tied_embeddings(&self) -> Option<&str> {
        // Around a language model the inner config may say otherwise, and a file without a head means the embeddings.
        let says_untied = self.config.get("tie_word_embeddings") == Some(&Value::Bool(false)) && !self.sees();
        let is_table = |name: &&String| {
            ["embed_tokens.weight", "wte.weight"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let embeddings = self.tensors.keys().find(is_table).map(String::as_str)?;
        let has_head = self.tensors.contains_key(module_names::head_beside(embeddings));
        (!says_untied && !has_head).then_some(embeddings)
    }

    /// Gives the head the place of the embeddings as a tensor of its own, and says so in the config.
    fn untie(&mut self, embeddings: &str, head: &str) {
        if let Some(table) = self.tensors.get(embeddings).cloned() {
            self.tensors.insert(head.to_owned(), table);
        }
        let Some(config) = self.config.as_object_mut() else {
            return;
        };
        config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        // Some of the models around a language model are tied where either config says so.
        if let Some(inner) = config
            .get_mut("text_config")
            .and_then(|inner| inner.get_mut("tie_word_embeddings"))
        {
            *inner = Value::Bool(false);
        }
    }

    fn open_directory(dir: &Path) -> Result<Self, Error> {
        let config_file = dir.join("config.json");
        if !config_file.exists() {
            return Err(if dir.join("adapter_config.json").exists() {
                Error::AdapterAlone { dir: dir.to_owned() }
            } else {
                Error::MissingFile {
                    dir: dir.to_owned(),
                    file: "config.json",
                }
            });
        }
        let mut config = read_json_object(&config_file, files::CONFIG_LIMIT)?;
        let shards = shards::open(dir)?;
        let (mut tensors, mut parts) = (BTreeMap::new(), Vec::new());
        let mut files = Vec::with_capacity(shards.len());
        for (file, shard) in shards.into_iter().enumerate() {
            for entry in shard.entries {
                if entry.is_packed {
                    parts.push((file, entry));
                    continue;
                }
                let tensor = Tensor {
                    info: entry.info,
                    file,
                    bytes: entry.bytes,
                    packing: None,
                    scales: None,
                };
                tensors.insert(entry.name, tensor);
            }
            files.push(shard.file);
        }
        add_packed(dir, parts, &mut tensors, &mut config)?;
        let tensors = named_in_full(&config, tensors);
        Ok(Self {
            name: name_of(dir),
            path: dir.to_owned(),
            config,
            files,
            tensors,
            adapter: None,
            gguf: None,
            digest: OnceLock::new(),
        })
    }

    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let content = gguf::read(&file)?;
        let mut kinds: Vec<String> = content
            .tensors
            .iter()
            .filter(|t| t.packing.is_quantised())
            .map(|t| t.packing.kind_name())
            .collect();
        kinds.sort();
        kinds.dedup();
        if !kinds.is_empty() {
            tracing::warn!(
                "{} is quantised ({}): its weights are approximations, and what is merged from them stays so. The original \
                 model gives a better parent.",
                path.display(),
                kinds.join(", ")
            );
        }
        let tensors = content.tensors.into_iter().map(|stored| {
            let gguf::Stored {
                name,
                info,
                bytes,
                packing,
            } = stored;
            (
                name,
                Tensor {
                    info,
                    file: 0,
                    bytes,
                    packing: Some(packing),
                    scales: None,
                },
            )
        });
        Ok(Self {
            name: path
                .file_stem()
                .map_or_else(|| name_of(path), |stem| stem.to_string_lossy().into_owned()),
            path: path.to_owned(),
            config: content.config,
            tensors: tensors.collect(),
            files: vec![file],
            adapter: None,
            gguf: Some(content.metadata),
            digest: OnceLock::new(),
        })
    }

    /// The model's short name: the last part of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as it was read.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Every weight, in the order of the names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.info))
    }

    /// What the tensor `name` is, if there is one.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|tensor| &tensor.info)
    }

    /// The whole tensor `name`, flattened in row-major order and widened to f32.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name)?;
        let len = tensor.info.len();
        let mut out = vec![0.0; len];
        self.read(name, tensor, 0..len, &mut out);
        Ok(out)
    }

    /// As [`read_f32`](Self::read_f32), but without a copy where the file holds aligned f32 already.
    pub fn read_f32_cow(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        if cfg!(target_endian = "little")
            && let Some((bytes, DType::F32)) = self.raw(name)
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return Ok(Cow::Borrowed(values));
        }
        self.read_f32(name).map(Cow::Owned)
    }

    /// The elements `range` of the flattened tensor `name`, widened to f32, into `out`.
    ///
    /// Any cutting of a tensor into ranges gives the same bits as reading it whole.
    pub fn read_f32_into(&self, name: &str, range: Range<usize>, out: &mut [f32]) -> Result<(), Error> {
        let tensor = self.tensor(name)?;
        let len = tensor.info.len();
        if range.start > range.end || range.end > len || range.end - range.start != out.len() {
            let Range { start, end } = range;
            return Err(Error::Range {
                tensor: name.to_owned(),
                start,
                end,
                room: out.len(),
                len,
            });
        }
        self.read(name, tensor, range, out);
        Ok(())
    }

    /// The mapped bytes of the tensor `name`, where what is stored is what [`read_f32`](Self::read_f32) widens.
    pub fn raw(&self, name: &str) -> Option<(&[u8], DType)> {
        let tensor = self.tensors.get(name)?;
        self.is_plain(name).then(|| (self.stored(tensor), tensor.info.dtype))
    }

    /// Says that the tensor `name` will not be read soon, so that the system may have its memory back.
    pub fn release(&self, name: &str) {
        if let Some(tensor) = self.tensors.get(name) {
            self.files[tensor.file].release(tensor.bytes.clone());
            if let Some(scales) = &tensor.scales {
                self.files[scales.file].release(scales.bytes.clone());
            }
        }
    }

    /// Refuses NaN and infinities, naming the first tensor (in the order of the names) and element that holds one.
    pub fn check_finite(&self) -> Result<(), Error> {
        for (name, tensor) in &self.tensors {
            let found = match self.raw(name) {
                Some((bytes, dtype)) => dtype.first_non_finite(bytes),
                None => self.read_f32(name)?.iter().position(|x| !x.is_finite()),
            };
            if let Some(index) = found {
                let mut value = [0.0];
                self.read(name, tensor, index..index + 1, &mut value);
                let (checkpoint, tensor, value) = (self.name.clone(), name.clone(), value[0]);
                return Err(Error::NotFinite {
                    checkpoint,
                    tensor,
                    index,
                    value,
                });
            }
        }
        Ok(())
    }

    /// A digest of the content: BLAKE3, in hex, of the configuration and of all tensors by name.
    ///
    /// It depends on what the weights are, not on how they are cut into shards, where they lie, or how `config.json` is
    /// laid out. The first call reads every byte of the weights; later ones return what it found.
    pub fn digest(&self) -> Result<String, Error> {
        Ok(self.digest.get_or_init(|| self.compute_digest()).clone())
    }

    fn compute_digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"heterosis checkpoint 1\n");
        hash_json(&mut hasher, &self.config);
        let data: Vec<blake3::Hash> = self
            .tensors
            .par_iter()
            .map(|(_, tensor)| blake3::Hasher::new().update_rayon(self.stored(tensor)).finalize())
            .collect();
        for ((name, tensor), data) in self.tensors.iter().zip(data) {
            let kind = match (tensor.packing, &tensor.scales) {
                (Some(packing), _) => packing.kind_name(),
                (None, Some(_)) => "MXFP4".to_owned(),
                (None, None) => tensor.info.dtype.safetensors_name().to_owned(),
            };
            hasher.update(format!("\n{name} {kind} {:?} ", tensor.info.shape).as_bytes());
            hasher.update(data.as_bytes());
            if let Some(scales) = &tensor.scales {
                hasher.update_rayon(&self.files[scales.file][scales.bytes.clone()]);
            }
        }
        if let Some(adapter) = &self.adapter {
            adapter.hash(&mut hasher);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The path of a file beside the weights (`tokenizer.json`, `generation_config.json`, …), if it is there; what else has
    /// that name, whoever reads it refuses.
    ///
    /// A LoRA adapter brings none: they are the base model's.
    pub fn side_file(&self, name: &str) -> Option<PathBuf> {
        if !is_plain_file_name(name) || self.gguf.is_some() {
            return None; // what lies beside a .gguf file need not belong to it
        }
        let file = self.path.join(name);
        file.symlink_metadata().is_ok().then_some(file)
    }

    /// The text of a file beside the weights, if it is there; `tokenizer.json` is made from a `tokenizer.model` that stands
    /// alone, and for a GGUF file, `tokenizer.json`, `tokenizer_config.json`,
    /// `generation_config.json` and `chat_template.jinja` are made from its metadata.
    ///
    /// **Errors**: the file cannot be read, is no UTF-8, or cannot be made.
    pub fn side_text(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(metadata) = &self.gguf else {
            return match self.side_file(name) {
                Some(file) => files::read_regular_text(&file, TEXT_LIMIT)
                    .map(Some)
                    .map_err(|e| Error::read(&file, e)),
                None if name == "tokenizer.json" => self.tokenizer_of_sentence_piece(),
                None => Ok(None),
            };
        };
        let made = match name {
            "tokenizer.json" => gguf_tokenizer::tokenizer_json(metadata),
            "tokenizer_config.json" => gguf_tokenizer::tokenizer_config(metadata),
            "generation_config.json" => Ok(gguf_tokenizer::generation_config(metadata)),
            "config.json" => Ok(format!("{:#}\n", self.config)),
            "chat_template.jinja" => {
                return Ok(gguf_tokenizer::chat_template(metadata).map(str::to_owned));
            }
            _ => return Ok(None),
        };
        made.map(Some).map_err(|reason| Error::GgufTokenizer {
            file: self.path.clone(),
            reason,
        })
    }

    /// `tokenizer.json` as transformers makes it of a SentencePiece model, where the directory has only that.
    fn tokenizer_of_sentence_piece(&self) -> Result<Option<String>, Error> {
        let Some(file) = self.side_file("tokenizer.model") else {
            return Ok(None);
        };
        let model = files::read_regular(&file, TEXT_LIMIT).map_err(|e| Error::read(&file, e))?;
        let json = |name: &str| match self.side_file(name) {
            Some(file) => read_json_object(&file, files::INDEX_LIMIT),
            None => Ok(Value::Null),
        };
        let (settings, added) = (json("tokenizer_config.json")?, json("added_tokens.json")?);
        let made = sentence_piece::tokenizer_json(&model, &settings, &added);
        made.map(Some).map_err(|reason| Error::SentencePiece { file, reason })
    }

    /// The text of `tokenizer.json`, if the model has a tokenizer.
    pub fn tokenizer_json(&self) -> Result<Option<String>, Error> {
        self.side_text("tokenizer.json")
    }

    /// Every file that the model was read from, or that travels with it: what provenance has to name.
    pub fn source_files(&self) -> Vec<PathBuf> {
        let side = SIDE_FILES.iter().filter_map(|name| self.side_file(name));
        let weights = self.files.iter().map(|file| file.path().to_owned());
        let adapter = self.adapter.iter().flat_map(Adapter::source_files);
        side.chain(weights).chain(adapter).collect()
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensors.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let nearest = self
            .tensors
            .keys()
            .map(|known| (strsim::damerau_levenshtein(name, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3 + name.len() / 8)
            .map(|(_, known)| known.clone());
        Error::UnknownTensor {
            checkpoint: self.name.clone(),
            tensor: name.to_owned(),
            nearest,
        }
    }

    /// The mapped bytes of a tensor, however they are encoded.
    fn stored(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file][tensor.bytes.clone()]
    }

    /// Is the tensor stored as it is read: no adapter over it, not quantised?
    fn is_plain(&self, name: &str) -> bool {
        let stored_plainly =
            |tensor: &Tensor| tensor.packing.is_none_or(gguf::Packing::is_plain) && tensor.scales.is_none();
        self.tensors.get(name).is_none_or(stored_plainly)
            && self.adapter.as_ref().is_none_or(|adapter| adapter.leaves(name))
    }

    fn read(&self, name: &str, tensor: &Tensor, range: Range<usize>, out: &mut [f32]) {
        let Some(adapter) = &self.adapter else {
            return self.read_stored(tensor, range, out);
        };
        let needed = adapter.needed(name, &tensor.info.shape, range.clone());
        if needed == range {
            self.read_stored(tensor, range.clone(), out);
            return adapter.apply(name, range, out);
        }
        let mut wider = vec![0.0; needed.len()];
        self.read_stored(tensor, needed.clone(), &mut wider);
        adapter.apply(name, needed.clone(), &mut wider);
        out.copy_from_slice(&wider[range.start - needed.start..range.end - needed.start]);
    }

    fn read_stored(&self, tensor: &Tensor, range: Range<usize>, out: &mut [f32]) {
        if let Some(scales) = &tensor.scales {
            let scales = &self.files[scales.file][scales.bytes.clone()];
            return mxfp4::unpack(self.stored(tensor), scales, &tensor.info.shape, range, out);
        }
        match tensor.packing {
            Some(packing) => packing.unpack(self.stored(tensor), &tensor.info.shape, range, out),
            None => {
                let (dtype, size) = (tensor.info.dtype, tensor.info.dtype.size_bytes());
                dtype.widen(&self.stored(tensor)[range.start * size..range.end * size], out);
            }
        }
    }
}

/// Puts tensors in MXFP4 among the others, and takes the packing from a config: what is read is not packed any more.
fn add_packed(
    dir: &Path,
    parts: Vec<(usize, safetensors::Entry)>,
    tensors: &mut BTreeMap<String, Tensor>,
    config: &mut Value,
) -> Result<(), Error> {
    if parts.is_empty() {
        return Ok(());
    }
    let refuse = |tensor: String| Error::UnsupportedDType {
        file: dir.to_owned(),
        tensor,
        dtype: "U8".to_owned(),
    };
    for packed in mxfp4::pair(parts).map_err(refuse)? {
        let tensor = Tensor {
            info: packed.info,
            file: packed.file,
            bytes: packed.bytes,
            packing: None,
            scales: Some(packed.scales),
        };
        if tensors.insert(packed.name.clone(), tensor).is_some() {
            return Err(refuse(packed.name));
        }
    }
    tracing::warn!(
        "{} is quantised (MXFP4): its experts are approximations, and what is merged from them stays so",
        dir.display()
    );
    if let Some(config) = config.as_object_mut() {
        config.remove("quantization_config");
    }
    Ok(())
}

/// GPT-2 was published without the name of its body before its tensors' names; transformers puts it there, and writes it.
fn named_in_full(config: &Value, tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    const BODY: &str = "transformer.";
    let is_gpt2 = config.get("model_type").and_then(Value::as_str) == Some("gpt2");
    if !is_gpt2 || !tensors.contains_key("wte.weight") {
        return tensors;
    }
    let in_full = |name: String| match name.starts_with("lm_head.") || name.starts_with(BODY) {
        true => name,
        false => format!("{BODY}{name}"),
    };
    tensors
        .into_iter()
        .map(|(name, tensor)| (in_full(name), tensor))
        .collect()
}

/// Splits `BASE+ADAPTER`; a `+` that belongs to a path which is there does not count.
///
/// ```
/// use heterosis_checkpoint::split_adapter;
///
/// assert_eq!(split_adapter("hf:owner/name+adapters/maths"), ("hf:owner/name", Some("adapters/maths")));
/// assert_eq!(split_adapter("models/base"), ("models/base", None));
/// ```
pub fn split_adapter(model: &str) -> (&str, Option<&str>) {
    let there = |part: &str| part.starts_with("hf:") || Path::new(part).exists();
    if !model.starts_with("hf:") && there(model) {
        return (model, None);
    }
    let splits = || model.match_indices('+').map(|(at, _)| (&model[..at], &model[at + 1..]));
    let (both, first) = (
        splits().find(|(base, adapter)| there(base) && there(adapter)),
        splits().next(),
    );
    match both.or_else(|| splits().find(|(base, _)| there(base))).or(first) {
        Some((base, adapter)) => (base, Some(adapter)),
        None => (model, None),
    }
}

/// The path of one side of a MODEL word, fetched from the Hub if it asks for that.
fn locate(word: &str, hub: &HubOptions, complete: fn(&Path) -> bool) -> Result<PathBuf, Error> {
    match word.strip_prefix("hf:") {
        Some(name) => HubName::parse(name)?.fetch(hub, complete),
        None => Ok(PathBuf::from(word)),
    }
}

/// Calls `visit(row, first column, values)` for every row of a matrix that the flat `range` touches, in parallel.
///
/// The first row may begin in its middle, and the last may end early.
fn for_each_row(
    columns: usize,
    range: Range<usize>,
    values: &mut [f32],
    visit: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    if values.is_empty() {
        return;
    }
    let (first, skipped) = (range.start / columns, range.start % columns);
    let head = if skipped == 0 {
        0
    } else {
        (columns - skipped).min(values.len())
    };
    let (head, whole) = values.split_at_mut(head);
    if !head.is_empty() {
        visit(first, skipped, head);
    }
    let first = first + usize::from(skipped != 0);
    whole
        .par_chunks_mut(columns)
        .enumerate()
        .with_min_len((1 << 14) / columns + 1)
        .for_each(|(k, row)| visit(first + k, 0, row));
}

/// Reads a JSON file of at most `limit` bytes whose top must be an object.
fn read_json_object(file: &Path, limit: u64) -> Result<Value, Error> {
    let bytes = files::read_regular(file, limit).map_err(|e| Error::read(file, e))?;
    let bad = |reason| Error::Json {
        file: file.to_owned(),
        reason,
    };
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(bad("it holds something else at its top".to_owned()))
    }
}

/// Feeds JSON to a hasher such that the order of an object's keys and the layout do not matter.
fn hash_json(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Object(map) => {
            hasher.update(b"{");
            for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                hasher
                    .update(Value::String(key.clone()).to_string().as_bytes())
                    .update(b":");
                hash_json(hasher, value);
                hasher.update(b",");
            }
            hasher.update(b"}");
        }
        Value::Array(values) => {
            hasher.update(b"[");
            for value in values {
                hash_json(hasher, value);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        scalar => {
            hasher.update(scalar.to_string().as_bytes());
        }
    }
}

/// Is this one name in a directory: no separator, not `..`, not hidden?
fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// The last part of a path that says something (`.` and `..` are looked up).
fn name_of(path: &Path) -> String {
    let resolved = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    };
    resolved.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const F32_HEADER: &str = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    /// A safetensors file with one F32 tensor of two elements, each equal to `value`.
    fn shard(tensor: &str, value: f32) -> Vec<u8> {
        safetensors::tests::file(
            &F32_HEADER.replace("\"w\"", &format!("\"{tensor}\"")),
            &value.to_le_bytes().repeat(2),
        )
    }

    /// openai-community/gpt2 says `wte.weight`, what transformers saves `transformer.wte.weight`: two of them could not be merged.
    #[test]
    fn gpt2_is_named_in_full() {
        let names = |config: &[u8], tensor: &str| {
            let dir = directory(&[("config.json", config), ("model.safetensors", &shard(tensor, 1.0))]);
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            checkpoint
                .tensors()
                .map(|(name, _)| name.to_owned())
                .collect::<Vec<_>>()
        };
        let gpt2 = br#"{"model_type": "gpt2"}"#;
        assert_eq!(names(gpt2, "wte.weight"), ["transformer.wte.weight"]);
        assert_eq!(names(gpt2, "transformer.wte.weight"), ["transformer.wte.weight"]);
        assert_eq!(names(br#"{"model_type": "other"}"#, "wte.weight"), ["wte.weight"]);
    }

    fn fault(files: &[(&str, &[u8])]) -> Error {
        let error = Checkpoint::open(directory(files).path()).expect_err("must be refused");
        let message = error.to_string();
        assert!(message.ends_with('.') && !message.contains('\n'), "{message}");
        error
    }

    #[test]
    fn a_single_file_is_opened_and_read_in_every_way() {
        let dir = directory(&[
            ("config.json", b"{\"x\":1}"),
            ("model.safetensors", &shard("w", 1.5)),
            ("tokenizer.json", b"{}"),
        ]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.config()["x"], 1);
        assert_eq!(checkpoint.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["w"]);
        assert_eq!(checkpoint.read_f32("w").unwrap(), [1.5, 1.5]);
        assert_eq!(*checkpoint.read_f32_cow("w").unwrap(), [1.5, 1.5]);
        let mut one = [0.0];
        checkpoint.read_f32_into("w", 1..2, &mut one).unwrap();
        assert_eq!(one, [1.5]);
        checkpoint.read_f32_into("w", 2..2, &mut []).unwrap();
        for (range, room) in [(0..3, 3), (0..1, 2), (3..3, 0)] {
            assert!(matches!(
                checkpoint.read_f32_into("w", range, &mut vec![0.0; room]),
                Err(Error::Range { .. })
            ));
        }
        assert_eq!(
            checkpoint.side_file("tokenizer.json").unwrap(),
            dir.path().join("tokenizer.json")
        );
        // A directory of a file's name was no file, and so the model had no tokenizer: "it is missing".
        std::fs::create_dir(dir.path().join("chat_template.jinja")).unwrap();
        let error = checkpoint.side_text("chat_template.jinja").unwrap_err().to_string();
        assert!(
            error.contains("chat_template.jinja") && error.contains("directory"),
            "{error}"
        );
        std::fs::remove_dir(dir.path().join("chat_template.jinja")).unwrap();
        assert_eq!(checkpoint.side_file("merges.txt"), None);
        assert_eq!(checkpoint.side_file("../config.json"), None);
        assert_eq!(checkpoint.source_files().len(), 3);
        assert_eq!(checkpoint.name(), dir.path().file_name().unwrap().to_string_lossy());
        let error = checkpoint.read_f32("v").unwrap_err().to_string();
        assert!(error.contains("nearest name is `w`"), "{error}");
        checkpoint.check_finite().unwrap();
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&checkpoint);
    }

    #[test]
    fn data_that_are_not_aligned_are_read_all_the_same() {
        for padding in 0..4 {
            let header = format!("{F32_HEADER}{}", " ".repeat(padding));
            let file = safetensors::tests::file(&header, &2.5f32.to_le_bytes().repeat(2));
            let dir = directory(&[("config.json", b"{}"), ("model.safetensors", &file)]);
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(checkpoint.read_f32("w").unwrap(), [2.5, 2.5]);
            assert_eq!(*checkpoint.read_f32_cow("w").unwrap(), [2.5, 2.5]);
        }
    }

    #[test]
    fn shards_are_joined_by_their_index_or_their_numbers() {
        let index = br#"{"metadata":{},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
        let (a, b) = (shard("a", 1.0), shard("b", 2.0));
        let indexed = directory(&[
            ("config.json", b"{}"),
            ("model.safetensors.index.json", index),
            ("one.safetensors", &a),
            ("two.safetensors", &b),
        ]);
        let numbered = directory(&[
            ("config.json", b"{}"),
            ("model-00001-of-00002.safetensors", &a),
            ("model-00002-of-00002.safetensors", &b),
            ("consolidated.safetensors", b"not even read"),
        ]);
        let mut digests = Vec::new();
        for dir in [indexed, numbered] {
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(checkpoint.read_f32("a").unwrap(), [1.0; 2]);
            assert_eq!(checkpoint.read_f32("b").unwrap(), [2.0; 2]);
            digests.push(checkpoint.digest().unwrap());
        }
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn faults_of_an_index_are_told_apart() {
        let with = |map: &str, files: &[(&str, &[u8])]| {
            let index = format!(r#"{{"weight_map":{map}}}"#);
            let mut all: Vec<(&str, &[u8])> = vec![
                ("config.json", b"{}"),
                ("model.safetensors.index.json", index.as_bytes()),
            ];
            all.extend_from_slice(files);
            fault(&all)
        };
        let (a, b) = (shard("a", 1.0), shard("b", 2.0));
        assert!(
            matches!(with(r#"{"a":"x.safetensors"}"#, &[]), Error::ShardMissing { shard, .. } if shard == "x.safetensors")
        );
        for evil in ["../x.safetensors", "/etc/passwd", "..", "a\\\\b", ""] {
            assert!(
                matches!(with(&format!(r#"{{"a":"{evil}"}}"#), &[]), Error::ShardName { .. }),
                "{evil}"
            );
        }
        let crossed = with(
            r#"{"a":"y.safetensors","b":"x.safetensors"}"#,
            &[("x.safetensors", &a), ("y.safetensors", &b)],
        );
        assert!(matches!(crossed, Error::TensorNotInShard { tensor, .. } if tensor == "a"));
        let double = with(
            r#"{"a":"x.safetensors","b":"y.safetensors"}"#,
            &[("x.safetensors", &a), ("y.safetensors", &a)],
        );
        assert!(matches!(double, Error::TensorNotInShard { tensor, .. } if tensor == "b"));
        assert!(matches!(with("[]", &[]), Error::Json { .. }));
        assert!(matches!(with(r#"{"a":1}"#, &[]), Error::Json { .. }));
        let twice = fault(&[("config.json", b"{}"), ("x.safetensors", &a), ("y.safetensors", &a)]);
        assert!(matches!(twice, Error::TensorInTwoFiles { tensor, .. } if tensor == "a"));
        let lacking = fault(&[("config.json", b"{}"), ("model-00001-of-00002.safetensors", &a)]);
        assert!(matches!(lacking, Error::ShardMissing { shard, .. } if shard == "model-00002-of-00002.safetensors"));
    }

    #[test]
    fn directories_without_a_model_say_what_is_missing() {
        assert!(matches!(
            fault(&[]),
            Error::MissingFile {
                file: "config.json",
                ..
            }
        ));
        assert!(matches!(
            fault(&[("adapter_config.json", b"{}")]),
            Error::AdapterAlone { .. }
        ));
        assert!(matches!(fault(&[("config.json", b"{}")]), Error::NoWeights { .. }));
        assert!(matches!(
            fault(&[("config.json", b"{}"), ("weights.pt", b"")]),
            Error::PickleOnly { .. }
        ));
        assert!(matches!(
            fault(&[("config.json", b"{}"), ("pytorch_model.bin", b"\x80\x02}.")]),
            Error::Pickle { .. }
        ));
        assert!(matches!(fault(&[("config.json", b"{")]), Error::Json { .. }));
        assert!(matches!(fault(&[("config.json", b"[1]")]), Error::Json { .. }));
        assert!(matches!(
            fault(&[("config.json", b"{}"), ("model.safetensors", b"")]),
            Error::HeaderTooShort { .. }
        ));
        assert!(matches!(
            Checkpoint::open(Path::new("/no/such/model")),
            Err(Error::NoSuchModel { .. })
        ));
        let dir = directory(&[("weights.txt", b"")]);
        assert!(matches!(
            Checkpoint::open(&dir.path().join("weights.txt")),
            Err(Error::NotACheckpoint { .. })
        ));
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let mut bytes = shard("w", 1.0);
        let len = bytes.len();
        bytes[len - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        let dir = directory(&[("config.json", b"{}"), ("model.safetensors", &bytes)]);
        let error = Checkpoint::open(dir.path()).unwrap().check_finite().unwrap_err();
        assert!(matches!(&error, Error::NotFinite { tensor, index: 1, value, .. } if tensor == "w" && value.is_nan()));
    }

    #[test]
    fn the_digest_sees_weights_names_and_configuration() {
        let digest = |config: &[u8], file: &[u8]| {
            let dir = directory(&[("config.json", config), ("model.safetensors", file)]);
            Checkpoint::open(dir.path()).unwrap().digest().unwrap()
        };
        let plain = digest(b"{}", &shard("w", 1.0));
        assert_eq!(plain, digest(b"{ }", &shard("w", 1.0)));
        for other in [
            digest(b"{}", &shard("w", 2.0)),
            digest(b"{}", &shard("v", 1.0)),
            digest(b"{\"a\":1}", &shard("w", 1.0)),
        ] {
            assert_ne!(plain, other);
        }
    }
}
