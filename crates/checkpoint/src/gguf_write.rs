//! A checkpoint as one GGUF file that llama.cpp runs: the way back of `gguf.rs`.
//!
//! Matrices are stored in f16, or in Q8_0 (blocks of 32 int8 with an f16 scale, quantised by candle); norms and biases stay
//! f32, as llama.cpp's converter leaves them. Llama's q and k rows go into llama.cpp's order. Tensor by tensor to disk, under
//! a temporary name until the file is complete. A model or tokenizer that llama.cpp would run otherwise is refused.
//!
//! Source: the GGUF specification in ggml's docs/gguf.md; llama.cpp's convert_hf_to_gguf.py for names, row order and keys.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::Value as Json;

use super::gguf::{LONG_FACTORS, Metadata, ROPE_FACTORS, Value};
use super::gguf_families::{self, ARCHITECTURES, Architecture, BEFORE_EXPERT, EXPERTS};
use super::{Checkpoint, DType, Error, gguf_vocabulary};

/// Where each tensor begins, in bytes; GGUF's default.
const ALIGNMENT: usize = 32;

/// How the matrices of a GGUF file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufKind {
    /// Half precision: two bytes a weight, rounded to the nearest.
    F16,
    /// Blocks of 32 weights that share a scale in half precision: 34 bytes a block.
    Q8_0,
}

impl GgufKind {
    /// llama.cpp's number of a file of this kind.
    fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }
}

/// How one tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    F32,
    F16,
    Q8_0,
}

impl Storage {
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    fn size_bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => 4 * elements,
            Self::F16 => 2 * elements,
            Self::Q8_0 => elements / GgmlDType::Q8_0.block_size() * GgmlDType::Q8_0.type_size(),
        }
    }
}

/// One tensor of the file.
struct Planned {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    storage: Storage,
    from: From,
}

/// Where its values come from.
enum From {
    Checkpoint {
        name: String,
        /// Heads within which rows go into llama.cpp's order.
        heads: Option<usize>,
        plus_one: bool,
    },
    /// One after the other.
    Experts(Vec<String>),
    Values(Vec<f32>),
}

/// Writes `checkpoint` as the GGUF file `out`; `progress` is told how many of how many tensors are done.
///
/// **Errors**: a family whose layout in GGUF is not known, a tokenizer that does not survive the translation, a disk that
/// cannot be written.
///
/// ```no_run
/// use heterosis_checkpoint::{Checkpoint, GgufKind, write_gguf};
///
/// let model = Checkpoint::open("child".as_ref())?;
/// write_gguf(&model, "child.gguf".as_ref(), GgufKind::Q8_0, &mut |done, all| println!("{done}/{all} tensors"))?;
/// # Ok::<(), heterosis_checkpoint::Error>(())
/// ```
pub fn write_gguf(
    checkpoint: &Checkpoint,
    out: &Path,
    kind: GgufKind,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), Error> {
    let shapes = checkpoint.tensors().map(|(name, info)| (name, info.shape.as_slice()));
    let model = Model::new(checkpoint.name(), checkpoint.config(), shapes)?;
    let tensors = model.tensors(kind)?;
    let mut metadata = model.metadata(kind)?;
    metadata.extend(model.tokenizer(checkpoint)?);
    let folder = out
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let failed = |e| Error::write(out, e);
    let mut builder = tempfile::Builder::new();
    // A temporary file is its owner's alone; this one stays, and is everybody's whom the umask lets.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(failed)?;
    let mut writer = BufWriter::new(file);
    let header = header(&metadata, &tensors);
    writer.write_all(&header).map_err(failed)?;
    pad(&mut writer, header.len()).map_err(failed)?;
    for (i, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.bytes(checkpoint)?;
        writer.write_all(&bytes).map_err(failed)?;
        pad(&mut writer, bytes.len()).map_err(failed)?;
        progress(i + 1, tensors.len());
    }
    let file = writer.into_inner().map_err(|e| failed(e.into_error()))?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(out).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Refuses what [`write_gguf`] will refuse of a model that is still to be written: by its `config.json`, by the names and shapes
/// of its tensors, and by the tokenizer, where it takes over that of a checkpoint as it is.
///
/// ```
/// use heterosis_checkpoint::{Error, check_gguf};
///
/// let config = serde_json::json!({ "model_type": "helium" });
/// let refused = check_gguf("child", &config, [("model.norm.weight", &[64][..])], None);
/// assert!(matches!(refused, Err(Error::GgufFamily { family, .. }) if family == "helium"));
/// ```
///
/// **Errors**: as [`write_gguf`], but for the disk.
pub fn check_gguf<'a>(
    name: &'a str,
    config: &'a Json,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    tokenizer: Option<&Checkpoint>,
) -> Result<(), Error> {
    let model = Model::new(name, config, tensors)?;
    // How matrices are stored decides on no refusal.
    model.tensors(GgufKind::F16)?;
    model.metadata(GgufKind::F16)?;
    tokenizer.map_or(Ok(()), |donor| model.tokenizer(donor).map(drop))
}

fn pad(writer: &mut impl Write, len: usize) -> std::io::Result<()> {
    writer.write_all(&[0; ALIGNMENT][..len.next_multiple_of(ALIGNMENT) - len])
}

impl Planned {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, Error> {
        let values = match &self.from {
            From::Values(values) => Cow::Borrowed(values.as_slice()),
            From::Experts(names) => {
                let mut values = Vec::with_capacity(self.elements());
                for name in names {
                    values.extend(checkpoint.read_f32(name)?);
                }
                Cow::Owned(values)
            }
            From::Checkpoint { name, heads, plus_one } => {
                let mut values = checkpoint.read_f32(name)?;
                if *plus_one {
                    values.iter_mut().for_each(|x| *x += 1.0);
                }
                Cow::Owned(match heads {
                    Some(heads) => permuted(&values, self.shape[0], *heads),
                    None => values,
                })
            }
        };
        let mut bytes = vec![0; self.storage.size_bytes(values.len())];
        match self.storage {
            Storage::F32 => DType::F32.narrow(&values, &mut bytes),
            Storage::F16 => DType::F16.narrow(&values, &mut bytes),
            Storage::Q8_0 => {
                let quantise = || {
                    let columns = self.shape.last().copied().unwrap_or(1);
                    let tensor = Tensor::from_slice(&values, (values.len() / columns, columns), &Device::Cpu)?;
                    Ok(QTensor::quantize(&tensor, GgmlDType::Q8_0)?.data()?.into_owned())
                };
                bytes = quantise().map_err(|e: candle_core::Error| Error::GgufWrite {
                    model: checkpoint.name().to_owned(),
                    reason: format!("tensor `{}` cannot be quantised: {e}", self.name),
                })?;
            }
        }
        Ok(bytes)
    }
}

/// Rows in llama.cpp's order: row `half·d/2 + j` of a head becomes its row `2j + half`.
fn permuted(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (columns, head) = (values.len() / rows, rows / heads);
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (within, half) = (row % head / 2, row % head % 2);
        let from = row - row % head + half * (head / 2) + within;
        out.extend_from_slice(&values[from * columns..(from + 1) * columns]);
    }
    out
}

// ------------------------------------------------------------------------------------------------------------- the model

/// A model of a family that llama.cpp knows.
struct Model<'a> {
    name: &'a str,
    config: &'a Json,
    /// Names and shapes, outermost dimension first.
    tensors: Vec<(&'a str, &'a [usize])>,
    architecture: &'static Architecture,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
}

impl<'a> Model<'a> {
    fn new(
        name: &'a str,
        config: &'a Json,
        tensors: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Result<Self, Error> {
        let named = config["model_type"].as_str().unwrap_or("(none)");
        // Mistral is Llama by another name, where it has no sliding window.
        let family = match named {
            "mistral" if config["sliding_window"].is_null() => "llama",
            other => other,
        };
        let Some(architecture) = ARCHITECTURES.iter().find(|known| known.model_type == family) else {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
            return Err(Error::GgufFamily {
                model: name.to_owned(),
                family: named.to_owned(),
                known: known.join(", "),
            });
        };
        let mut model = Self {
            name,
            config,
            tensors: tensors.into_iter().collect(),
            architecture,
            heads: 0,
            key_value_heads: 0,
            head_dim: 0,
        };
        model.heads = model.number("num_attention_heads")?;
        model.key_value_heads = config["num_key_value_heads"]
            .as_u64()
            .map_or(model.heads, |n| n as usize);
        if model.heads == 0 || model.key_value_heads == 0 {
            return Err(model.refused("it has no heads"));
        }
        model.head_dim = match config["head_dim"].as_u64() {
            Some(dim) => dim as usize,
            None => model.number("hidden_size")? / model.heads,
        };
        if config["use_sliding_window"] == true {
            return Err(model.refused("its sliding window cannot be told to llama.cpp"));
        }
        model.refuse_particulars()?;
        Ok(model)
    }

    /// What llama.cpp takes for granted of a family, and a model may have otherwise.
    fn refuse_particulars(&self) -> Result<(), Error> {
        let (architecture, config) = (self.architecture, self.config);
        let is_gemma = architecture.norm_plus_one;
        let activation = match &config["hidden_activation"] {
            Json::Null => config["hidden_act"].as_str(),
            own => own.as_str(),
        };
        // Gemma 1 was published with "gelu" and means the tanh form.
        let is_usual = activation.is_none_or(|word| word == architecture.activation || (is_gemma && word == "gelu"));
        if !is_usual {
            let (theirs, ours) = (activation.unwrap_or("none"), architecture.activation);
            return Err(self.refused(format!("its activation is {theirs}, not {ours}")));
        }
        if architecture.full_each > 0 {
            if !gguf_families::has_usual_windows(architecture, config) {
                let nth = architecture.full_each;
                let reason = format!(
                    "llama.cpp takes every layer of this family for windowed but each {nth}-th, and its are not"
                );
                return Err(self.refused(reason));
            }
            let layers = self.number("num_hidden_layers")?;
            let scalar = architecture.query_scalar(layers, self.number("hidden_size")?, self.heads, self.head_dim);
            let theirs = config["query_pre_attn_scalar"].as_f64().unwrap_or(256.0);
            if theirs != scalar as f64 {
                let reason = format!("its query_pre_attn_scalar is {theirs}, and llama.cpp would take {scalar}");
                return Err(self.refused(reason));
            }
        }
        let interval = config["no_rope_layer_interval"].as_u64().unwrap_or(4);
        let listed = config["no_rope_layers"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let is_fourth = |(layer, rotates): (usize, &Json)| (rotates == 0) == (layer + 1).is_multiple_of(4);
        if architecture.name == "smollm3" && (interval != 4 || !listed.iter().enumerate().all(is_fourth)) {
            return Err(
                self.refused("llama.cpp rotates all layers of this family but each fourth, and its are otherwise")
            );
        }
        if architecture.name == "qwen3moe" {
            let is_mixed = config["mlp_only_layers"]
                .as_array()
                .is_some_and(|layers| !layers.is_empty())
                || config["decoder_sparse_step"].as_u64().is_some_and(|step| step != 1);
            if is_mixed {
                return Err(
                    self.refused("some of its layers have no experts, which llama.cpp does not know of this family")
                );
            }
            if config["norm_topk_prob"] != true {
                return Err(
                    self.refused("the weights of its experts are not normalised (norm_topk_prob), and llama.cpp's are")
                );
            }
        }
        Ok(())
    }

    /// The tensors of all experts, each planned where the first of them comes.
    fn experts_of(&self, name: &str, shape: &[usize]) -> Option<Result<Option<(String, Planned)>, Error>> {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (expert, rest) = rest.strip_prefix(BEFORE_EXPERT)?.split_once('.')?;
        if self.architecture.name != "qwen3moe" {
            return None;
        }
        let matrix = rest.strip_suffix(".weight")?;
        let (theirs, _) = EXPERTS.into_iter().find(|(_, ours)| *ours == matrix)?;
        if expert != "0" {
            return Some(Ok(None));
        }
        let planned = || {
            let field = if self.config["num_experts"].is_u64() {
                "num_experts"
            } else {
                "num_local_experts"
            };
            let count = self.number(field)?;
            let names = (0..count).map(|expert| format!("model.layers.{layer}.{BEFORE_EXPERT}{expert}.{rest}"));
            let planned = Planned {
                name: format!("blk.{layer}.{theirs}.weight"),
                shape: [&[count][..], shape].concat(),
                storage: Storage::F32,
                from: From::Experts(names.collect()),
            };
            Ok(Some((planned.name.clone(), planned)))
        };
        Some(planned())
    }

    fn tensors(&self, kind: GgufKind) -> Result<Vec<Planned>, Error> {
        let mut tensors = Vec::new();
        for &(name, shape) in &self.tensors {
            match self.experts_of(name, shape) {
                None => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(None)) => continue,
                Some(Ok(Some((_, mut planned)))) => {
                    planned.storage = storage(kind, &planned.shape);
                    tensors.push(planned);
                    continue;
                }
            }
            let Some(theirs) = self.name_in_gguf(name) else {
                return Err(self.refused(format!("llama.cpp has no place for its tensor `{name}`")));
            };
            let heads = match name {
                _ if !self.architecture.pairs => None,
                _ if name.contains("self_attn.q_proj.") => Some(self.heads),
                _ if name.contains("self_attn.k_proj.") => Some(self.key_value_heads),
                _ => None,
            };
            if heads.is_some_and(|heads| !shape[0].is_multiple_of(2 * heads)) {
                return Err(self.refused(format!("the rows of `{name}` do not divide into heads")));
            }
            tensors.push(Planned {
                name: theirs,
                shape: shape.to_vec(),
                storage: storage(kind, shape),
                from: From::Checkpoint {
                    name: name.to_owned(),
                    heads,
                    plus_one: self.architecture.adds_one(name),
                },
            });
        }
        for (name, factors) in LONG_FACTORS.into_iter().zip(self.long_factors()?.into_iter().flatten()) {
            tensors.push(Planned {
                name: name.into(),
                shape: vec![factors.len()],
                storage: Storage::F32,
                from: From::Values(factors),
            });
        }
        if let Some(factors) = self.rope_factors()? {
            tensors.push(Planned {
                name: ROPE_FACTORS.into(),
                shape: vec![factors.len()],
                storage: Storage::F32,
                from: From::Values(factors),
            });
        }
        Ok(tensors)
    }

    fn metadata(&self, kind: GgufKind) -> Result<Vec<(String, Entry)>, Error> {
        let mut entries: Vec<(String, Entry)> = Vec::new();
        let mut add = |key: String, entry: Entry| entries.push((key, entry));
        let text = |text: &str| Entry::Text(text.to_owned());
        add("general.architecture".into(), text(self.architecture.name));
        add("general.name".into(), text(self.name));
        add("general.file_type".into(), Entry::U32(kind.file_type()));
        if kind == GgufKind::Q8_0 {
            add("general.quantization_version".into(), Entry::U32(2));
        }
        let architecture = self.architecture.name;
        let mut own = |key: &str, entry: Entry| entries.push((format!("{architecture}.{key}"), entry));
        for (key, field) in [
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
        ] {
            own(key, Entry::U32(self.number(field)? as u32));
        }
        own("attention.head_count", Entry::U32(self.heads as u32));
        own("attention.head_count_kv", Entry::U32(self.key_value_heads as u32));
        for key in ["attention.key_length", "attention.value_length"] {
            own(key, Entry::U32(self.head_dim as u32));
        }
        own("rope.dimension_count", Entry::U32(self.rotary_dim()? as u32));
        for (key, field, usual) in gguf_families::numbers(architecture) {
            let number = match (*field, self.config[*field].as_f64()) {
                ("rope_local_base_freq", None) => self.theta_of("sliding_attention").or(*usual),
                (_, Some(number)) => Some(number),
                // As transformers reads it: absent takes the default, null switches it off.
                (_, None) if self.config.get(*field).is_some() => None,
                (_, None) => *usual,
            };
            match number {
                Some(number) => own(key, Entry::F32(number as f32)),
                None if usual.is_some() => {
                    return Err(self.refused(format!("its {field} is switched off, which llama.cpp does not know")));
                }
                None => {}
            }
        }
        if let Some(window) = self.window() {
            own("attention.sliding_window", Entry::U32(window as u32));
        }
        if architecture == "qwen3moe" {
            let field = if self.config["num_experts"].is_u64() {
                "num_experts"
            } else {
                "num_local_experts"
            };
            own("expert_count", Entry::U32(self.number(field)? as u32));
            own(
                "expert_used_count",
                Entry::U32(self.number("num_experts_per_tok")? as u32),
            );
            own(
                "expert_feed_forward_length",
                Entry::U32(self.number("moe_intermediate_size")? as u32),
            );
        }
        own("vocab_size", Entry::U32(self.rows()? as u32));
        let epsilon = self.config["rms_norm_eps"].as_f64().unwrap_or(1e-6);
        own("attention.layer_norm_rms_epsilon", Entry::F32(epsilon as f32));
        own("rope.freq_base", Entry::F32(self.rope_theta() as f32));
        let scaling = self.rope_scaling();
        match scaling_kind(scaling) {
            "default" | "llama3" => {}
            "longrope" | "su" | "yarn" if architecture == "phi3" => {
                let original = self.original_positions();
                let factor = self.number("max_position_embeddings")? as f64 / original as f64;
                let attention = if factor > 1.0 {
                    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
                } else {
                    1.0
                };
                own("rope.scaling.original_context_length", Entry::U32(original as u32));
                own("rope.scaling.attn_factor", Entry::F32(attention as f32));
            }
            kind @ ("linear" | "yarn") => {
                let factor = scaling["factor"]
                    .as_f64()
                    .ok_or_else(|| self.refused("its rope scaling has no factor"))?;
                own("rope.scaling.type", text(kind));
                own("rope.scaling.factor", Entry::F32(factor as f32));
                if let Some(original) = scaling["original_max_position_embeddings"].as_u64() {
                    own("rope.scaling.original_context_length", Entry::U32(original as u32));
                }
            }
            other => return Err(self.refused(format!("its rope scaling `{other}` cannot be told to llama.cpp here"))),
        }
        Ok(entries)
    }

    /// The tokenizer of a checkpoint, as this model's.
    fn tokenizer(&self, checkpoint: &Checkpoint) -> Result<Vec<(String, Entry)>, Error> {
        let json = checkpoint
            .tokenizer_json()?
            .ok_or_else(|| self.refused("it has no tokenizer.json"))?;
        let settings = checkpoint.side_text("tokenizer_config.json")?;
        let metadata: Metadata = gguf_vocabulary::metadata(&json, settings.as_deref(), self.config, self.rows()?)
            .map_err(|reason| self.refused(reason))?;
        let mut entries: Vec<(String, Entry)> = metadata
            .into_iter()
            .map(|(key, value)| (key.clone(), Entry::of(&key, value)))
            .collect();
        let template = match checkpoint.side_text("chat_template.jinja")? {
            Some(template) => Some(template),
            None => settings
                .and_then(|text| serde_json::from_str::<Json>(&text).ok())
                .and_then(|settings| Some(settings["chat_template"].as_str()?.to_owned())),
        };
        entries.extend(template.map(|template| ("tokenizer.chat_template".to_owned(), Entry::Text(template))));
        Ok(entries)
    }

    fn rows(&self) -> Result<usize, Error> {
        let embedding = self
            .tensors
            .iter()
            .find(|(name, _)| *name == "model.embed_tokens.weight");
        let rows = embedding.and_then(|(_, shape)| shape.first().copied());
        rows.ok_or_else(|| self.refused("it has no embedding `model.embed_tokens.weight`"))
    }

    /// `rope_scaling` as transformers 4 wrote it, `rope_parameters` as 5 does; that of full attention where there are several.
    fn rope_scaling(&self) -> &Json {
        match (&self.config["rope_scaling"], &self.config["rope_parameters"]) {
            (Json::Null, several) if several["full_attention"].is_object() => &several["full_attention"],
            (Json::Null, one) => one,
            (scaling, _) => scaling,
        }
    }

    fn rope_theta(&self) -> f64 {
        let theta = self.config["rope_theta"].as_f64();
        let usual = match self.architecture.name {
            "gemma3" => 1_000_000.0,
            "smollm3" => 2_000_000.0,
            _ => 10_000.0,
        };
        theta
            .or_else(|| self.config["rope_parameters"]["rope_theta"].as_f64())
            .or_else(|| self.theta_of("full_attention"))
            .unwrap_or(usual)
    }

    /// The base of one type of layers, in the dialect of transformers 5.
    fn theta_of(&self, layer_type: &str) -> Option<f64> {
        self.config["rope_parameters"][layer_type]["rope_theta"].as_f64()
    }

    fn original_positions(&self) -> usize {
        let own = self.config["original_max_position_embeddings"].as_u64();
        let own = own.or_else(|| self.rope_scaling()["original_max_position_embeddings"].as_u64());
        own.map_or(4096, |n| n as usize)
    }

    /// How much of a head rotates; all of it, but for Phi-3.
    fn rotary_dim(&self) -> Result<usize, Error> {
        let partial = self.rope_scaling()["partial_rotary_factor"].as_f64();
        let partial = partial.or_else(|| self.config["partial_rotary_factor"].as_f64());
        match self.architecture.name {
            "phi3" => Ok((self.head_dim as f64 * partial.unwrap_or(1.0)) as usize),
            _ => Ok(self.head_dim),
        }
    }

    /// The window that the architecture keeps under its key.
    fn window(&self) -> Option<u64> {
        let given = self.config["sliding_window"].as_u64();
        match self.architecture.name {
            "phi3" => given,
            _ if self.architecture.full_each > 0 => Some(given.unwrap_or(4096)),
            _ => None,
        }
    }

    /// Phi-3's factors beyond the original length and within it.
    fn long_factors(&self) -> Result<Option<[Vec<f32>; 2]>, Error> {
        let scaling = self.rope_scaling();
        if self.architecture.name != "phi3" || !matches!(scaling_kind(scaling), "longrope" | "su" | "yarn") {
            return Ok(None);
        }
        let factors = |name: &str| {
            let list = scaling[name].as_array().map(Vec::as_slice).unwrap_or_default();
            let numbers: Vec<f32> = list.iter().filter_map(Json::as_f64).map(|x| x as f32).collect();
            match numbers.is_empty() || numbers.len() != list.len() {
                true => Err(self.refused(format!("its rope scaling has no {name}"))),
                false => Ok(numbers),
            }
        };
        Ok(Some([factors("long_factor")?, factors("short_factor")?]))
    }

    /// What Llama 3 divides its frequencies by.
    ///
    /// **Source**: `Llama3RotaryEmbedding` in transformers' modeling_rope_utils.py.
    fn rope_factors(&self) -> Result<Option<Vec<f32>>, Error> {
        let scaling = self.rope_scaling();
        if scaling_kind(scaling) != "llama3" {
            return Ok(None);
        }
        let field = |name: &str| {
            let missing = || self.refused(format!("its rope scaling has no {name}"));
            scaling[name].as_f64().ok_or_else(missing)
        };
        let (factor, low, high) = (field("factor")?, field("low_freq_factor")?, field("high_freq_factor")?);
        let original = field("original_max_position_embeddings")?;
        let of_frequency = |i: usize| {
            let wavelength = std::f64::consts::TAU * self.rope_theta().powf(2.0 * i as f64 / self.head_dim as f64);
            let smooth = (original / wavelength - low) / (high - low);
            let divisor = if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            divisor as f32
        };
        Ok(Some((0..self.head_dim / 2).map(of_frequency).collect()))
    }

    /// llama.cpp's name of a Hugging Face tensor.
    fn name_in_gguf(&self, name: &str) -> Option<String> {
        let top = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        let layer = || {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let (module, kind) = rest.rsplit_once('.')?;
            let (theirs, _) = self.architecture.modules.iter().find(|(_, ours)| *ours == module)?;
            Some(format!("blk.{layer}.{theirs}.{kind}"))
        };
        top.map(str::to_owned).or_else(layer)
    }

    fn number(&self, field: &str) -> Result<usize, Error> {
        let number = self.config[field].as_u64();
        number
            .map(|n| n as usize)
            .ok_or_else(|| self.refused(format!("its config.json has no {field}")))
    }

    fn refused(&self, reason: impl Into<String>) -> Error {
        Error::GgufWrite {
            model: self.name.to_owned(),
            reason: reason.into(),
        }
    }
}

fn scaling_kind(scaling: &Json) -> &str {
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    kind.unwrap_or("default")
}

/// How a tensor of a shape is stored in a file of a kind.
fn storage(kind: GgufKind, shape: &[usize]) -> Storage {
    let columns = shape.last().copied().unwrap_or(0);
    match kind {
        _ if shape.len() < 2 => Storage::F32,
        GgufKind::Q8_0 if columns.is_multiple_of(GgmlDType::Q8_0.block_size()) => Storage::Q8_0,
        _ => Storage::F16,
    }
}

// ------------------------------------------------------------------------------------------------------------ the header

/// A metadata value with the width that llama.cpp expects.
enum Entry {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

impl Entry {
    /// A value of the tokenizer, whose lists are of one kind each.
    fn of(key: &str, value: Value) -> Self {
        match value {
            Value::Int(n) => Self::U32(n as u32),
            Value::Float(x) => Self::F32(x as f32),
            Value::Bool(b) => Self::Bool(b),
            Value::Text(text) => Self::Text(text),
            Value::List(list) if key.ends_with("token_type") => {
                Self::Ints(list.iter().filter_map(Value::usize).map(|n| n as i32).collect())
            }
            Value::List(list) if key.ends_with("scores") => {
                Self::Floats(list.iter().filter_map(Value::float).map(|x| x as f32).collect())
            }
            Value::List(list) => Self::Texts(list.iter().filter_map(Value::text).map(str::to_owned).collect()),
        }
    }

    fn kind(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::Ints(_) | Self::Floats(_) => 9,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Self::U32(n) => out.extend(n.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(b) => out.push(u8::from(*b)),
            Self::Text(text) => string(out, text),
            Self::Texts(texts) => {
                list(out, 8, texts.len());
                texts.iter().for_each(|text| string(out, text));
            }
            Self::Ints(values) => {
                list(out, 5, values.len());
                values.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Floats(values) => {
                list(out, 6, values.len());
                values.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn header(metadata: &[(String, Entry)], tensors: &[Planned]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, entry) in metadata {
        string(&mut out, key);
        out.extend(entry.kind().to_le_bytes());
        entry.write(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // Innermost first, as ggml counts.
        tensor
            .shape
            .iter()
            .rev()
            .for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
        out.extend(tensor.storage.number().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.storage.size_bytes(tensor.elements()).next_multiple_of(ALIGNMENT);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::gguf::tests::golden;
    use super::super::{DType, Writer};
    use super::*;

    /// Written and opened again.
    fn again(checkpoint: &Checkpoint, kind: GgufKind) -> Checkpoint {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("again.gguf");
        let mut last = (0, 0);
        write_gguf(checkpoint, &out, kind, &mut |done, all| last = (done, all)).unwrap();
        assert!(last.0 == last.1 && last.0 > 0, "{last:?}");
        Checkpoint::open(&out).unwrap()
    }

    #[test]
    fn f16_comes_back_as_it_was_rounded() {
        for name in ["plain.gguf", "kinds.gguf"] {
            let original = Checkpoint::open(&golden(name)).unwrap();
            if original.tokenizer_json().ok().flatten().is_none() {
                continue;
            }
            let back = again(&original, GgufKind::F16);
            let names: Vec<&str> = original.tensors().map(|(name, _)| name).collect();
            assert_eq!(back.tensors().map(|(name, _)| name).collect::<Vec<_>>(), names);
            for name in names {
                let (mut wanted, shape) = (original.read_f32(name).unwrap(), &original.info(name).unwrap().shape);
                if shape.len() > 1 {
                    DType::F16.round(&mut wanted);
                }
                assert_eq!(back.read_f32(name).unwrap(), wanted, "{name}");
            }
            for field in [
                "rope_scaling",
                "head_dim",
                "vocab_size",
                "tie_word_embeddings",
                "bos_token_id",
                "rope_theta",
            ] {
                assert_eq!(back.config()[field], original.config()[field], "{field}");
            }
            assert_eq!(back.tokenizer_json().unwrap(), original.tokenizer_json().unwrap());
        }
    }

    /// A Llama of one layer whose rows are whole blocks, with a SentencePiece vocabulary.
    fn llama(dir: &Path) -> Checkpoint {
        let donor = Checkpoint::open(&golden("plain.gguf")).unwrap();
        let (rows, hidden, inner) = (donor.info("model.embed_tokens.weight").unwrap().shape[0], 64, 96);
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "vocab_size": rows, "tie_word_embeddings": false, "bos_token_id": 1,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        });
        let out = dir.join("llama");
        let mut writer = Writer::create(&out, 1 << 30).unwrap();
        writer.json("config.json", &config).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            writer.text(file, &donor.side_text(file).unwrap().unwrap()).unwrap();
        }
        for (i, (name, shape)) in [
            ("model.embed_tokens.weight", vec![rows, hidden]),
            ("model.norm.weight", vec![hidden]),
            ("lm_head.weight", vec![rows, hidden]),
            ("model.layers.0.input_layernorm.weight", vec![hidden]),
            ("model.layers.0.self_attn.q_proj.weight", vec![64, hidden]),
            ("model.layers.0.self_attn.k_proj.weight", vec![32, hidden]),
            ("model.layers.0.self_attn.v_proj.weight", vec![32, hidden]),
            ("model.layers.0.self_attn.o_proj.weight", vec![hidden, 64]),
            ("model.layers.0.post_attention_layernorm.weight", vec![hidden]),
            ("model.layers.0.mlp.gate_proj.weight", vec![inner, hidden]),
            ("model.layers.0.mlp.up_proj.weight", vec![inner, hidden]),
            ("model.layers.0.mlp.down_proj.weight", vec![hidden, inner]),
        ]
        .into_iter()
        .enumerate()
        {
            let value = |k: usize| (((k * 7919 + i * 104_729) % 2003) as f32 / 1001.0 - 1.0) * 0.3;
            let values = (0..shape.iter().product()).map(value);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            writer.tensor(name, DType::F32, &shape, &bytes).unwrap();
        }
        writer.finish().unwrap();
        Checkpoint::open(&out).unwrap()
    }

    #[test]
    fn a_llama_survives_the_way_there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let original = llama(dir.path());
        let back = again(&original, GgufKind::F16);
        for (name, info) in original.tensors() {
            let mut wanted = original.read_f32(name).unwrap();
            if info.shape.len() > 1 {
                DType::F16.round(&mut wanted);
            }
            assert_eq!(back.read_f32(name).unwrap(), wanted, "{name}");
        }
        for field in [
            "rope_scaling",
            "head_dim",
            "vocab_size",
            "rope_theta",
            "num_key_value_heads",
            "model_type",
        ] {
            assert_eq!(back.config()[field], original.config()[field], "{field}");
        }
    }

    #[test]
    fn q8_0_comes_back_within_half_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let original = llama(dir.path());
        let back = again(&original, GgufKind::Q8_0);
        for (name, info) in original.tensors() {
            let (a, b) = (original.read_f32(name).unwrap(), back.read_f32(name).unwrap());
            if info.shape.len() < 2 {
                assert_eq!(a, b, "{name}");
                continue;
            }
            for (x, y) in a.chunks(32).zip(b.chunks(32)) {
                let step = x.iter().fold(0f32, |max, v| max.max(v.abs())) / 127.0;
                // Half a step, and the scale's own rounding to f16.
                let most = step * (0.5 + 127.0 / 2048.0) + 1e-7;
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= most), "{name}");
            }
            assert_ne!(a, b, "{name} was quantised");
        }
    }

    #[test]
    fn rows_go_into_llamas_order_by_hand() {
        // Two heads of four rows: llama.cpp stores 0 2 1 3 of each.
        let rows: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(permuted(&rows, 8, 2), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn what_llama_cpp_would_run_otherwise_is_refused() {
        let refused = |change: &dyn Fn(&mut Json)| {
            let mut checkpoint = Checkpoint::open(&golden("plain.gguf")).unwrap();
            change(&mut checkpoint.config);
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("x.gguf");
            let error = write_gguf(&checkpoint, &out, GgufKind::F16, &mut |_, _| {}).unwrap_err();
            assert!(!out.exists(), "nothing is left behind");
            // Known before there are files.
            let shapes = checkpoint.tensors().map(|(name, info)| (name, info.shape.as_slice()));
            let early = check_gguf(checkpoint.name(), checkpoint.config(), shapes, Some(&checkpoint));
            assert_eq!(early.unwrap_err().to_string(), error.to_string());
            error.to_string()
        };
        let message = refused(&|c| c["model_type"] = "helium".into());
        assert!(
            message.contains("helium") && message.contains("llama, qwen2, qwen3"),
            "{message}"
        );
        let message = refused(&|c| c["rope_scaling"] = serde_json::json!({"rope_type": "longrope", "factor": 2.0}));
        assert!(message.contains("longrope"), "{message}");
        let message = refused(&|c| c["use_sliding_window"] = true.into());
        assert!(message.contains("sliding window"), "{message}");
        let message = refused(&|c| c["hidden_act"] = "gelu".into());
        assert!(message.contains("gelu"), "{message}");
    }
}
