//! Which files of a directory hold a model's weights: one, those that an index names, or a numbered set without one.
//!
//! The order of preference is transformers': `model.safetensors`, then `model.safetensors.index.json`; without either,
//! every other `*.safetensors` file; without any, `pytorch_model.bin`, then its index. Every header is read and validated
//! here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use super::files::INDEX_LIMIT;
use super::map::MappedFile;
use super::safetensors::{Entry, is_buffer, read_packed_header};
use super::{Error, is_plain_file_name, pickled, read_json_object};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLED: &str = "pytorch_model.bin";
const PICKLED_INDEX: &str = "pytorch_model.bin.index.json";

/// One mapped weight file and the tensors in it.
pub(super) struct Shard {
    pub file: MappedFile,
    pub entries: Vec<Entry>,
}

/// Opens every weight file of the directory `dir`; no tensor comes twice.
pub(super) fn open(dir: &Path) -> Result<Vec<Shard>, Error> {
    let shards = if dir.join(SINGLE).exists() {
        if let Some(ignored) = ignored_beside_the_single(dir) {
            tracing::warn!(
                "{}: {SINGLE} is read, as transformers does, and {ignored} is not",
                dir.display()
            );
        }
        vec![open_shard(dir, SINGLE)?]
    } else if dir.join(INDEX).exists() {
        open_indexed(dir, INDEX)?
    } else if let Some(file) = pickled_only(dir)? {
        match file {
            PICKLED => vec![open_shard(dir, PICKLED)?],
            index => open_indexed(dir, index)?,
        }
    } else {
        let names = unindexed(dir)?;
        names
            .iter()
            .map(|name| open_shard(dir, name))
            .collect::<Result<_, _>>()?
    };
    refuse_doubles(&shards)?;
    Ok(shards)
}

/// The pickled weights of a directory that has no others: one file, or the index of several.
fn pickled_only(dir: &Path) -> Result<Option<&'static str>, Error> {
    let found = [PICKLED, PICKLED_INDEX]
        .into_iter()
        .find(|name| dir.join(name).exists());
    match found {
        Some(_) if has_safetensors(dir)? => Ok(None),
        found => Ok(found),
    }
}

fn has_safetensors(dir: &Path) -> Result<bool, Error> {
    Ok(names(dir)?.iter().any(|name| is_weight_file(name)))
}

/// What is passed over because there is a single file: a quantised or unfinished copy may lie beside the real shards.
fn ignored_beside_the_single(dir: &Path) -> Option<&'static str> {
    dir.join(INDEX).exists().then_some(INDEX)
}

/// Is every weight file there that [`open`] would need? Their content is not looked at.
pub(super) fn all_present(dir: &Path) -> bool {
    if dir.join(SINGLE).exists() {
        return true;
    }
    let of_index = |index: &str| {
        read_weight_map(&dir.join(index)).is_ok_and(|map| {
            let shards: BTreeSet<&String> = map.values().collect();
            shards.iter().all(|shard| dir.join(shard).exists())
        })
    };
    match pickled_only(dir) {
        _ if dir.join(INDEX).exists() => of_index(INDEX),
        Ok(Some(PICKLED_INDEX)) => of_index(PICKLED_INDEX),
        Ok(Some(_)) => true,
        _ => unindexed(dir).is_ok(),
    }
}

fn open_shard(dir: &Path, name: &str) -> Result<Shard, Error> {
    let file = MappedFile::open(&dir.join(name))?;
    let entries = match name.ends_with(".bin") {
        true => pickled::read_header(file.path(), &file)?,
        false => read_packed_header(file.path(), &file)?,
    };
    Ok(Shard { file, entries })
}

fn open_indexed(dir: &Path, index: &str) -> Result<Vec<Shard>, Error> {
    let index = dir.join(index);
    let weight_map = read_weight_map(&index)?;
    let names: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    let mut shards = Vec::with_capacity(names.len());
    for name in &names {
        if !dir.join(name).exists() {
            return Err(Error::ShardMissing {
                dir: dir.to_owned(),
                shard: (*name).to_owned(),
            });
        }
        shards.push(open_shard(dir, name)?);
    }
    let held: Vec<(&str, BTreeSet<&str>)> = names
        .iter()
        .zip(&shards)
        .map(|(name, shard)| (*name, shard.entries.iter().map(|e| e.name.as_str()).collect()))
        .collect();
    for (tensor, shard) in &weight_map {
        let here = held
            .iter()
            .any(|(name, tensors)| name == shard && tensors.contains(tensor.as_str()));
        if !here && !is_buffer(tensor) {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(Error::TensorNotInShard { index, tensor, shard });
        }
    }
    for (shard, tensors) in &held {
        // transformers loads these as well, so they are part of the model; but an index that forgets is worth a word.
        let forgotten = tensors
            .iter()
            .filter(|tensor| !weight_map.contains_key(**tensor))
            .count();
        if forgotten > 0 {
            tracing::warn!(
                "{} does not name {forgotten} of the tensors in {shard}; they are used all the same",
                index.display()
            );
        }
    }
    Ok(shards)
}

/// Tensor → file name, every file name plain.
fn read_weight_map(index: &Path) -> Result<BTreeMap<String, String>, Error> {
    let bad = |reason: &str| Error::Json {
        file: index.to_owned(),
        reason: reason.to_owned(),
    };
    let json = read_json_object(index, INDEX_LIMIT)?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("it has no object `weight_map`"))?;
    map.iter()
        .map(|(tensor, shard)| {
            let shard = shard
                .as_str()
                .ok_or_else(|| bad("a value of its `weight_map` is not a file name"))?;
            if !is_plain_file_name(shard) {
                let (tensor, shard) = (tensor.clone(), shard.to_owned());
                return Err(Error::ShardName {
                    index: index.to_owned(),
                    tensor,
                    shard,
                });
            }
            Ok((tensor.clone(), shard.to_owned()))
        })
        .collect()
}

/// The weight files of a directory that has neither a single file nor an index.
fn unindexed(dir: &Path) -> Result<Vec<String>, Error> {
    let names = names(dir)?;
    let weights: Vec<String> = names.iter().filter(|name| is_weight_file(name)).cloned().collect();
    if weights.is_empty() {
        let pickled = |name: &&String| {
            [".bin", ".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)) && *name != "training_args.bin"
        };
        return Err(match names.iter().find(pickled) {
            Some(file) => Error::PickleOnly {
                dir: dir.to_owned(),
                file: file.clone(),
            },
            None => Error::NoWeights { dir: dir.to_owned() },
        });
    }
    match missing_sibling(&weights) {
        Some(shard) => Err(Error::ShardMissing {
            dir: dir.to_owned(),
            shard,
        }),
        None => Ok(weights),
    }
}

/// The names of a directory's files, in order.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |e| Error::read(dir, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Mistral's `consolidated*.safetensors` repeats the same weights under other names; an adapter is no model.
fn is_weight_file(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.starts_with("consolidated")
        && !name.starts_with("adapter_")
        && !name.starts_with('.')
}

/// The first file of a numbered set (`…-00001-of-00003.safetensors`) that is not among `names`.
fn missing_sibling(names: &[String]) -> Option<String> {
    names.iter().find_map(|name| {
        let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (stem, _) = rest.rsplit_once('-')?;
        let total: usize = count.parse().ok().filter(|total| *total <= 99_999)?;
        let width = count.len();
        (1..=total)
            .map(|k| format!("{stem}-{k:0width$}-of-{count}.safetensors"))
            .find(|sibling| names.binary_search(sibling).is_err())
    })
}

fn refuse_doubles(shards: &[Shard]) -> Result<(), Error> {
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for shard in shards {
        for entry in &shard.entries {
            if let Some(first) = seen.insert(&entry.name, shard.file.path()) {
                let (first, second) = (first.to_owned(), shard.file.path().to_owned());
                return Err(Error::TensorInTwoFiles {
                    tensor: entry.name.clone(),
                    first,
                    second,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stray `model.safetensors` beside an index was taken without a word (mlx-vlm #1464, sglang #32279): the same choice
    /// as transformers', and a word.
    #[test]
    fn a_single_file_beside_an_index_is_taken_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = |value: f32| {
            let data: Vec<u8> = value.to_le_bytes().to_vec();
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &data).unwrap();
            safetensors::serialize([("w", view)], None).unwrap()
        };
        std::fs::write(dir.path().join(SINGLE), file(1.0)).unwrap();
        assert_eq!(ignored_beside_the_single(dir.path()), None);
        std::fs::write(dir.path().join("model-00001-of-00001.safetensors"), file(2.0)).unwrap();
        std::fs::write(
            dir.path().join(INDEX),
            r#"{"weight_map": {"w": "model-00001-of-00001.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(ignored_beside_the_single(dir.path()), Some(INDEX));
        let shards = open(dir.path()).unwrap();
        let bytes = shards[0].entries[0].bytes.clone();
        assert_eq!((shards.len(), &shards[0].file[bytes]), (1, &1f32.to_le_bytes()[..]));
    }
}
