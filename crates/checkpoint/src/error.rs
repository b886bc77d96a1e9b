//! Everything that can be wrong with a checkpoint: one variant for each fault that can be told apart.
//!
//! Each message is one paragraph that names the file, the tensor where there is one, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use super::DType;
use super::lora::AdapterShape;

/// The advice for a file whose bytes cannot be what its writer wrote.
const DAMAGED: &str = "The file is damaged or was cut short: download or copy it again.";

/// Why a checkpoint could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Error {
    // ------------------------------------------------------------------------------------------------ files
    /// The operating system refused to read.
    #[error("Cannot read {}: {source}. Check that the path is right and that this user may read it.", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// The operating system refused to write.
    #[error("Cannot write {}: {source}. {}", path.display(), write_advice(source))]
    Write { path: PathBuf, source: io::Error },

    /// Nothing is there.
    #[error(
        "There is no model at {}. A model is a directory in Hugging Face layout, DIR+ADAPTER_DIR, a .gguf file, or \
         hf:owner/name[@revision].",
        path.display()
    )]
    NoSuchModel { path: PathBuf },

    /// A file that is no checkpoint.
    #[error(
        "{} is a file, but not a .gguf file. A model is a directory in Hugging Face layout, DIR+ADAPTER_DIR, a .gguf \
         file, or hf:owner/name[@revision].",
        path.display()
    )]
    NotACheckpoint { path: PathBuf },

    /// `config.json` (or another JSON file) is absent.
    #[error("{} has no {file}. Point to the directory that holds the whole model: {file} and *.safetensors.", dir.display())]
    MissingFile { dir: PathBuf, file: &'static str },

    /// A JSON file that does not parse, or whose top is not an object.
    #[error("{} is not the JSON object it should be: {reason}. Restore it from the model's source.", file.display())]
    Json { file: PathBuf, reason: String },

    /// The directory holds pickled weights only.
    #[error(
        "{} holds pickled weights only ({file}), which can run code when they are opened; of such files only \
         pytorch_model.bin and its shards are read here. Convert them once: python -c \"from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained('{0}').save_pretrained('{0}-safetensors')\".",
        dir.display()
    )]
    PickleOnly { dir: PathBuf, file: String },

    /// A file of pickled weights that is damaged, or holds something else than tensors.
    #[error(
        "{}: {reason}. Only tensors are read of pickled files, and nothing in them is run; if you trust it, convert it with \
         transformers (from_pretrained, then save_pretrained).",
        file.display()
    )]
    Pickle { file: PathBuf, reason: String },

    /// The directory holds an adapter and no model.
    #[error(
        "{} is a LoRA adapter, not a whole model. Name the model it was trained on before it: BASE_DIR+{}.",
        dir.display(), dir.display()
    )]
    AdapterAlone { dir: PathBuf },

    /// The directory holds no weights at all.
    #[error("{} holds no *.safetensors file. Point to the directory that holds the model's weights; a .gguf file is \
         named by its own path.", dir.display())]
    NoWeights { dir: PathBuf },

    // ------------------------------------------------------------------------------------------ safetensors
    /// Fewer than the 8 bytes that hold the header's length.
    #[error("{} has {len} bytes, fewer than the 8 that every safetensors file starts with. {DAMAGED}", file.display())]
    HeaderTooShort { file: PathBuf, len: usize },

    /// A header length beyond the format's limit of 100 MB.
    #[error(
        "{} claims a header of {len} bytes; the safetensors format allows 100,000,000. It is damaged, or no safetensors \
         file at all: download it again.",
        file.display()
    )]
    HeaderTooLarge { file: PathBuf, len: u64 },

    /// The file ends inside its header.
    #[error("{} claims a header of {len} bytes, but only {available} bytes follow. {DAMAGED}", file.display())]
    HeaderTruncated {
        file: PathBuf,
        len: usize,
        available: usize,
    },

    /// The header is not UTF-8.
    #[error("The header of {} is not valid UTF-8 (at its byte {at}). {DAMAGED}", file.display())]
    HeaderNotUtf8 { file: PathBuf, at: usize },

    /// The header is not the JSON that the format asks for.
    #[error("The header of {} is not a safetensors header: {reason}. {DAMAGED}", file.display())]
    HeaderJson { file: PathBuf, reason: String },

    /// One name twice in one header: readers would disagree about which one counts.
    #[error("The header of {} describes tensor `{tensor}` twice. Save the model again with safetensors.", file.display())]
    DuplicateTensor { file: PathBuf, tensor: String },

    /// A weight in a dtype that merging does not take.
    #[error(
        "{}: tensor `{tensor}` is stored as {dtype}; weights must be F32, F16 or BF16. If the model is quantised \
         (bitsandbytes, GPTQ, AWQ, FP8), use its unquantised original; else convert it with transformers: \
         from_pretrained(…, dtype=torch.bfloat16), then save_pretrained.",
        file.display()
    )]
    UnsupportedDType {
        file: PathBuf,
        tensor: String,
        dtype: String,
    },

    /// The product of the dimensions does not fit into a machine word.
    #[error("{}: tensor `{tensor}` claims the impossible shape {shape:?}. {DAMAGED}", file.display())]
    ShapeOverflow {
        file: PathBuf,
        tensor: String,
        shape: Vec<u64>,
    },

    /// The end of a tensor's data lies before its start.
    #[error("{}: the data of tensor `{tensor}` ends at {end}, before its start at {start}. {DAMAGED}", file.display())]
    OffsetsReversed {
        file: PathBuf,
        tensor: String,
        start: u64,
        end: u64,
    },

    /// Shape and dtype ask for another number of bytes than the offsets give.
    #[error(
        "{}: tensor `{tensor}` needs {expected} bytes for its shape and dtype, but its offsets give it {got}. {DAMAGED}",
        file.display()
    )]
    SizeMismatch {
        file: PathBuf,
        tensor: String,
        expected: u64,
        got: u64,
    },

    /// A tensor's data goes past the end of the file.
    #[error("{}: the data of tensor `{tensor}` ends at byte {end} of {available} bytes of data. {DAMAGED}", file.display())]
    OffsetsOutOfBounds {
        file: PathBuf,
        tensor: String,
        end: u64,
        available: usize,
    },

    /// Two tensors share bytes.
    #[error(
        "{}: the data of tensors `{tensor}` and `{other}` overlap. The file may have been made to deceive: get it again \
         from a source that you trust.",
        file.display()
    )]
    Overlap {
        file: PathBuf,
        tensor: String,
        other: String,
    },

    /// Bytes that belong to no tensor, before one.
    #[error(
        "{}: {len} bytes before the data of tensor `{tensor}` belong to no tensor, which the safetensors format forbids. \
         Save the model again with safetensors.",
        file.display()
    )]
    Hole { file: PathBuf, tensor: String, len: u64 },

    /// Bytes that belong to no tensor, at the end.
    #[error(
        "{} goes on for {len} bytes after the last tensor, which the safetensors format forbids. Download or save it again.",
        file.display()
    )]
    TrailingBytes { file: PathBuf, len: u64 },

    // ------------------------------------------------------------------------------------- sharded checkpoints
    /// The index names a shard that is no plain file name.
    #[error(
        "{} puts tensor `{tensor}` into {shard:?}, which is not a plain file name in the same directory. Nothing outside \
         the model's directory is ever opened: get the index again from a source that you trust.",
        index.display()
    )]
    ShardName {
        index: PathBuf,
        tensor: String,
        shard: String,
    },

    /// A shard that the index (or its siblings' numbering) promises is not there.
    #[error("{} lacks the shard {shard}. Download the model again, or the missing file alone.", dir.display())]
    ShardMissing { dir: PathBuf, shard: String },

    /// The stated shard does not hold the tensor.
    #[error(
        "{} puts tensor `{tensor}` into {shard}, which does not hold it. Index and shards do not belong together: \
         download them again.",
        index.display()
    )]
    TensorNotInShard {
        index: PathBuf,
        tensor: String,
        shard: String,
    },

    /// Two files hold a tensor of the same name.
    #[error(
        "Tensor `{tensor}` is in both {} and {}, so which one counts is anybody's guess. Remove the file that is not part \
         of the model.",
        first.display(), second.display()
    )]
    TensorInTwoFiles {
        tensor: String,
        first: PathBuf,
        second: PathBuf,
    },

    // ------------------------------------------------------------------------------------------------ reading
    /// No tensor of that name.
    #[error("{checkpoint} has no tensor `{tensor}`{}.", nearest.as_ref().map(|n| format!("; the nearest name is `{n}`")).unwrap_or_default())]
    UnknownTensor {
        checkpoint: String,
        tensor: String,
        nearest: Option<String>,
    },

    /// A range of elements that the tensor does not have.
    #[error("Elements {start}..{end} of tensor `{tensor}` were asked for, into {room} places; it has {len} elements.")]
    Range {
        tensor: String,
        start: usize,
        end: usize,
        room: usize,
        len: usize,
    },

    /// NaN or infinity among the weights.
    #[error(
        "{checkpoint}: tensor `{tensor}` holds {value} at element {index}. Whatever made this checkpoint went wrong there; \
         a merge with it would be worthless. Get the weights again, or leave this model out."
    )]
    NotFinite {
        checkpoint: String,
        tensor: String,
        index: usize,
        value: f32,
    },

    // -------------------------------------------------------------------------------------------------- GGUF
    /// A GGUF header that contradicts itself, or says something that is not understood.
    #[error(
        "{} cannot be read as a GGUF model: {reason}. If the file is whole, convert the original model to GGUF again, or use \
         the original itself.",
        file.display()
    )]
    GgufHeader { file: PathBuf, reason: String },

    /// A quantisation that cannot be undone here.
    #[error(
        "{}: tensor `{tensor}` is stored in {}, which cannot be read. F32, F16, BF16, Q4_0 to Q8_1 and the K-quants (Q2_K to \
         Q8_K) can: take another file of the same model, best its F16.",
        file.display(), ggml_name(*kind)
    )]
    GgufKind { file: PathBuf, tensor: String, kind: u32 },

    /// A model whose names and layouts in GGUF are not known.
    #[error(
        "{} holds a model of the architecture {architecture}; from GGUF, {known} can be read. Use the original model in \
         Hugging Face layout.",
        file.display()
    )]
    GgufArchitecture {
        file: PathBuf,
        architecture: String,
        known: String,
    },

    /// A tokenizer that cannot be rebuilt from the metadata.
    #[error(
        "No tokenizer can be made from {}: {reason}. Use the original model in Hugging Face layout, or name another model's \
         tokenizer.",
        file.display()
    )]
    GgufTokenizer { file: PathBuf, reason: String },

    /// A model that cannot be written as GGUF, since its family's layout there is not known.
    #[error("{model} is of the family {family}; as GGUF, {known} can be written.")]
    GgufFamily {
        model: String,
        family: String,
        known: String,
    },

    /// A model that llama.cpp would run otherwise than it is.
    #[error("{model} cannot be written as GGUF: {reason}.")]
    GgufWrite { model: String, reason: String },

    /// A SentencePiece model of which no tokenizer can be made.
    #[error(
        "{}: {reason}. Save the tokenizer with transformers (AutoTokenizer.from_pretrained, then save_pretrained), which \
         writes a tokenizer.json.",
        file.display()
    )]
    SentencePiece { file: PathBuf, reason: String },

    // ---------------------------------------------------------------------------------------------- adapters
    /// An adapter of a kind that is more than W + scale·B·A.
    #[error(
        "{}: {what} is not supported; a LoRA adapter's plain A and B matrices, whole modules and biases are. Merge the \
         adapter with peft (merge_and_unload, then save_pretrained) and use the merged model.",
        file.display()
    )]
    AdapterUnsupported { file: PathBuf, what: String },

    /// An adapter's tensor whose target the base lacks.
    #[error(
        "{}: `{tensor}` would change `{target}`, which the base model does not have. The adapter was trained on another \
         model: see base_model_name_or_path in its adapter_config.json.",
        file.display()
    )]
    AdapterTarget {
        file: PathBuf,
        tensor: String,
        target: String,
    },

    /// A bias that was trained where the base has none.
    #[error(
        "{}: `{tensor}` (`lora_bias`) adds to `{target}`, which the base model does not have, so that no merged model can \
         hold it, peft's neither. Train the adapter without lora_bias.",
        file.display()
    )]
    AdapterBias {
        file: PathBuf,
        tensor: String,
        target: String,
    },

    /// An adapter's tensor that does not fit its target or its configuration.
    #[error(
        "{}: `{}` has the shape {:?}; the base model and adapter_config.json ask for {:?}. The adapter was trained on \
         another model (see base_model_name_or_path in its adapter_config.json), or on this one with its vocabulary \
         resized: then resize the base likewise (resize_token_embeddings, then save_pretrained).",
        .0.file.display(), .0.tensor, .0.got, .0.expected
    )]
    AdapterShape(Box<AdapterShape>),

    /// One factor without the other.
    #[error("{}: the LoRA on `{module}` lacks its A or its B matrix. Download or save the adapter again.", file.display())]
    AdapterHalf { file: PathBuf, module: String },

    // ------------------------------------------------------------------------------------------------- the Hub
    /// Not the name of a model on the Hub.
    #[error("hf:{name} is not the name of a model on the Hub. Write hf:owner/name or hf:owner/name@revision.")]
    HubName { name: String },

    /// Offline, and not in the cache.
    #[error(
        "hf:{model} is not in the cache at {}, and HF_HUB_OFFLINE forbids to download it. Unset HF_HUB_OFFLINE, or name a \
         directory that holds the model.",
        cache.display()
    )]
    HubOffline { model: String, cache: PathBuf },

    /// Nothing says where downloads are kept.
    #[error("There is no folder to keep hf:{model} in: neither HF_HOME nor HOME is set. Set one of them.")]
    HubCacheUnknown { model: String },

    /// The Hub wants to know who is asking, or does not let them in.
    #[error(
        "The Hub does not give hf:{model} to this user: it is private, gated, or does not exist. {}",
        if *token {
            "Check that the token in use may read it, and accept the model's terms on its page."
        } else {
            "Accept the model's terms on its page and log in (hf auth login), or set HF_TOKEN."
        }
    )]
    HubAccess { model: String, token: bool },

    /// No such model, or no such revision of it.
    #[error(
        "The Hub has no model {model}{}. Check the name on its page; a private model needs HF_TOKEN. If a directory is meant, there is none of that \
         name here.",
        revision.as_ref().map(|r| format!(" at revision {r}")).unwrap_or_default()
    )]
    HubNotFound { model: String, revision: Option<String> },

    /// The download failed for another reason, as a rule the network.
    #[error(
        "hf:{model} could not be downloaded from {endpoint}: {reason}. Check the connection (and HF_ENDPOINT), then run the \
         same command again: what is complete is kept. If a directory is meant, there is none of that name here."
    )]
    HubFailed {
        model: String,
        endpoint: String,
        reason: String,
    },

    // ------------------------------------------------------------------------------------------------ writing
    /// The output directory is there and holds something.
    #[error("{} is there already and is not empty. Name another directory, or remove it first.", path.display())]
    OutputExists { path: PathBuf },

    /// The output was not there when this one began, and is now.
    #[error(
        "{} was finished by another process while this one wrote to the same place: what is there is the other's, and this one's \
         is gone. Name another directory for it.",
        path.display()
    )]
    OutputTaken { path: PathBuf },

    /// A file name for the output that is no plain name.
    #[error("{name:?} is not a plain file name, so it cannot be written into a checkpoint.")]
    OutputName { name: String },

    /// A tensor whose bytes are not as many as its shape and dtype ask for.
    #[error("Tensor `{tensor}` of shape {shape:?} needs {expected} bytes as {}, but {got} were given.", dtype.safetensors_name())]
    OutputSize {
        tensor: String,
        shape: Vec<usize>,
        dtype: DType,
        expected: usize,
        got: usize,
    },

    /// A tensor written that was not declared, or declared twice, or otherwise than declared.
    #[error("Tensor `{tensor}` was {problem}.")]
    OutputPlan { tensor: String, problem: &'static str },

    /// Declared tensors that never came.
    #[error("{missing} of the tensors declared for {} were never written, `{first}` among them.", path.display())]
    OutputIncomplete {
        path: PathBuf,
        first: String,
        missing: usize,
    },

    /// A size that cannot be read.
    #[error(
        "{text:?} is not a size. Write a whole number with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB: 5GB."
    )]
    ShardSize { text: String },
}

impl Error {
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Error::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        Error::Write {
            path: path.to_owned(),
            source,
        }
    }
}

/// ggml's own names of the storage types that are not read.
fn ggml_name(kind: u32) -> String {
    let name = match kind {
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=28 => "whole numbers or F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type {kind}, which ggml had not when this was written"),
    };
    name.to_owned()
}

fn write_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Free some space or choose a directory on another disk; what was begun has been removed."
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Choose a directory in which this user may write."
        }
        _ => "Check that the directory is there and that this user may write in it; what was begun has been removed.",
    }
}
