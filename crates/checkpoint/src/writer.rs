//! Writes a checkpoint in Hugging Face layout: streamed, sharded, and all or nothing.
//!
//! Everything goes into a temporary directory beside the output, which takes the output's name in one step, when it is
//! complete and on disk; a writer that is dropped before leaves nothing behind, and what one leaves that was killed, the
//! next one removes. With the tensors [declared](Writer::declare) first,
//! each one goes straight to its place in its shard, in any order and from several threads; no more than a chunk is held in
//! memory. The cut into shards is transformers': in the order declared, a new shard when the next tensor does not fit.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::files::open_regular;
use super::partial::Partial;
use super::{DType, Error, is_plain_file_name};

/// f32 elements that are rounded at a time on their way to the disk (4 MiB).
const WRITE_CHUNK: usize = 1 << 20;

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// As Hugging Face calls it, `model.layers.0.mlp.up_proj.weight` for one; unique in a checkpoint.
    pub name: String,
    /// Of the file.
    pub dtype: DType,
    /// Outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Bytes that the tensor's data takes.
    pub fn size_bytes(&self) -> usize {
        self.dtype.size_bytes() * self.shape.iter().product::<usize>()
    }
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub struct Writer {
    out: PathBuf,
    dir: Partial,
    replace: bool,
    shard_size_bytes: u64,
    shards: Vec<Shard>,
    places: HashMap<String, Place>,
    declared: bool,
    /// Tensors that came without a declaration, until their shard is full.
    pending: Vec<(TensorSpec, Vec<u8>)>,
}

/// A checkpoint that is complete but has not its name yet: files may be laid beside the others, and what it says be checked,
/// before anybody takes it for finished. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Staged {
    out: PathBuf,
    dir: Partial,
    replace: bool,
}

/// A shard file under its working name.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

/// Where a declared tensor goes.
#[derive(Debug)]
struct Place {
    spec: TensorSpec,
    shard: usize,
    offset: u64,
    /// Bytes that are written, from the first on.
    written: AtomicU64,
}

impl Writer {
    /// Begins a checkpoint that will appear at `out`, in shards of at most `shard_size_bytes` (a larger tensor has a shard
    /// of its own).
    ///
    /// **Errors**: `out` exists and is not an empty directory; its parent cannot be written.
    pub fn create(out: &Path, shard_size_bytes: u64) -> Result<Self, Error> {
        let occupied = match fs::read_dir(out) {
            Ok(mut entries) => entries.next().is_some(),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        };
        if occupied {
            return Err(Error::OutputExists { path: out.to_owned() });
        }
        Self::begin(out, shard_size_bytes, false)
    }

    /// As [`create`](Self::create), but what is at `out` gives way when the new checkpoint is complete.
    pub fn replace(out: &Path, shard_size_bytes: u64) -> Result<Self, Error> {
        Self::begin(out, shard_size_bytes, true)
    }

    fn begin(out: &Path, shard_size_bytes: u64, replace: bool) -> Result<Self, Error> {
        let failed = |e| Error::write(out, e);
        let out = match out.is_symlink() {
            true => out.canonicalize(), // what the link leads to is replaced, not the link
            false => std::path::absolute(out),
        };
        let out = out.map_err(failed)?;
        let parent = out
            .parent()
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?
            .to_owned();
        fs::create_dir_all(&parent).map_err(|e| Error::write(&parent, e))?;
        let dir = Partial::beside(&out).map_err(|e| Error::write(&parent, e))?;
        let (shards, places, declared, pending) = Default::default();
        Ok(Self {
            out,
            dir,
            replace,
            shard_size_bytes,
            shards,
            places,
            declared,
            pending,
        })
    }

    /// Plans the shards for `tensors`, in this order, and writes their headers; [`tensor`](Self::tensor) then streams.
    ///
    /// To be called once, before any tensor is written.
    pub fn declare(&mut self, tensors: &[TensorSpec]) -> Result<(), Error> {
        self.declared = true;
        let mut shard: Vec<&TensorSpec> = Vec::new();
        let mut size_bytes = 0u64;
        for spec in tensors {
            let more = spec.size_bytes() as u64;
            if !shard.is_empty() && size_bytes + more > self.shard_size_bytes {
                self.begin_shard(&shard)?;
                (shard, size_bytes) = (Vec::new(), 0);
            }
            shard.push(spec);
            size_bytes += more;
        }
        if !shard.is_empty() {
            self.begin_shard(&shard)?;
        }
        Ok(())
    }

    /// Writes one tensor, as declared; without any declaration it is kept in memory until its shard is full.
    ///
    /// **Errors**: `bytes` are not as many as dtype and shape need; the tensor was declared otherwise, or written before.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<(), Error> {
        let spec = TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        };
        match self.places.get(name) {
            Some(place) if place.spec != spec => Err(plan_error(name, "declared with another dtype or shape")),
            Some(_) => self.put(name, bytes),
            None if self.declared => Err(plan_error(name, "not declared")),
            None => self.keep(spec, bytes),
        }
    }

    /// Writes the data of a declared tensor; several threads may do so at once.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let place = self.place(name)?;
        check_size(&place.spec, bytes.len())?;
        self.claim(name, place)?;
        self.write_at(place, 0, bytes)
    }

    /// Writes the next bytes of a declared tensor, which begin `offset` bytes after its first.
    ///
    /// **Errors**: as [`tensor`](Self::tensor); the part does not begin where the one before it ended.
    pub fn put_part(&self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let place = self.place(name)?;
        let end = offset + bytes.len();
        if end > place.spec.size_bytes() {
            check_size(&place.spec, end)?;
        }
        self.claim_part(name, place, offset as u64, end as u64)?;
        self.write_at(place, offset as u64, bytes)
    }

    /// Rounds f32 values to the dtype of a declared tensor and writes them; several threads may do so at once.
    pub fn put_f32(&self, name: &str, values: &[f32]) -> Result<(), Error> {
        let place = self.place(name)?;
        let (dtype, size) = (place.spec.dtype, place.spec.dtype.size_bytes());
        check_size(&place.spec, values.len() * size)?;
        self.claim(name, place)?;
        if dtype == DType::F32 && cfg!(target_endian = "little") {
            return self.write_at(place, 0, bytemuck::cast_slice(values));
        }
        let mut bytes = vec![0; values.len().min(WRITE_CHUNK) * size];
        for (k, chunk) in values.chunks(WRITE_CHUNK).enumerate() {
            let bytes = &mut bytes[..chunk.len() * size];
            dtype.narrow(chunk, bytes);
            self.write_at(place, (k * WRITE_CHUNK * size) as u64, bytes)?;
        }
        Ok(())
    }

    /// Writes a JSON file as transformers does: indented by two, with a newline at the end.
    pub fn json(&mut self, file: &str, value: &Value) -> Result<(), Error> {
        self.text(file, &format!("{value:#}\n"))
    }

    /// Writes a text file.
    pub fn text(&mut self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.side_path(file)?;
        let failed = |e| self.failed(&path, e);
        io::Write::write_all(&mut File::create(&path).map_err(failed)?, text.as_bytes()).map_err(failed)
    }

    /// Copies the content of a file, byte for byte.
    pub fn copy(&mut self, file: &str, from: &Path) -> Result<(), Error> {
        let path = self.side_path(file)?;
        let mut source = open_regular(from).map_err(|e| Error::read(from, e))?;
        let failed = |e| self.failed(&path, e);
        io::copy(&mut source, &mut File::create(&path).map_err(failed)?).map_err(failed)?;
        Ok(())
    }

    /// Completes the checkpoint: index, names, everything on disk, and only then the output's own name.
    pub fn finish(self) -> Result<(), Error> {
        self.stage()?.publish()
    }

    /// Completes the checkpoint, index and names, but does not give it the output's name yet.
    pub fn stage(mut self) -> Result<Staged, Error> {
        self.flush_pending()?;
        self.refuse_missing()?;
        self.name_shards()?;
        let Self { out, dir, replace, .. } = self;
        Ok(Staged { out, dir, replace })
    }

    /// Where the output is built: whoever ends the process before the writer is dropped should remove this directory.
    pub fn partial(&self) -> &Path {
        self.dir.path()
    }

    fn keep(&mut self, spec: TensorSpec, bytes: &[u8]) -> Result<(), Error> {
        check_size(&spec, bytes.len())?;
        if self.pending.iter().any(|(other, _)| other.name == spec.name) {
            return Err(plan_error(&spec.name, "written twice"));
        }
        let held: usize = self.pending.iter().map(|(_, bytes)| bytes.len()).sum();
        if !self.pending.is_empty() && (held + bytes.len()) as u64 > self.shard_size_bytes {
            self.flush_pending()?;
        }
        self.pending.push((spec, bytes.to_vec()));
        Ok(())
    }

    fn flush_pending(&mut self) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            self.begin_shard(&pending.iter().map(|(spec, _)| spec).collect::<Vec<_>>())?;
        }
        pending.iter().try_for_each(|(spec, bytes)| self.put(&spec.name, bytes))
    }

    /// Writes the header of a new shard; the data of `tensors` follow in an order that keeps them aligned.
    fn begin_shard(&mut self, tensors: &[&TensorSpec]) -> Result<(), Error> {
        let mut tensors = tensors.to_vec();
        tensors.sort_by(|a, b| (b.dtype.size_bytes(), &a.name).cmp(&(a.dtype.size_bytes(), &b.name)));
        let mut header = serde_json::Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
        let mut end = 0;
        for spec in &tensors {
            let (start, dtype) = (end, spec.dtype.safetensors_name());
            end += spec.size_bytes();
            header.insert(
                spec.name.clone(),
                json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [start, end]}),
            );
        }
        let mut header = Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let data_start = 8 + header.len() as u64;
        let number = self.shards.len();
        let path = self.dir.path().join(format!("shard-{number}.part"));
        let file = File::options().create_new(true).read(true).write(true).open(&path);
        let shard = Shard {
            file: file.map_err(|e| self.failed(&path, e))?,
            path,
        };
        let written = shard
            .file
            .set_len(data_start + end as u64)
            .and_then(|()| write_all_at(&shard.file, &(header.len() as u64).to_le_bytes(), 0))
            .and_then(|()| write_all_at(&shard.file, header.as_bytes(), 8));
        written.map_err(|e| self.failed(&shard.path, e))?;
        self.shards.push(shard);
        let mut offset = data_start;
        for spec in tensors {
            let place = Place {
                spec: spec.clone(),
                shard: number,
                offset,
                written: AtomicU64::new(0),
            };
            offset += spec.size_bytes() as u64;
            if self.places.insert(spec.name.clone(), place).is_some() {
                return Err(plan_error(&spec.name, "declared or written twice"));
            }
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Result<&Place, Error> {
        self.places.get(name).ok_or_else(|| plan_error(name, "not declared"))
    }

    /// Marks a tensor as written; the second to try is refused.
    fn claim(&self, name: &str, place: &Place) -> Result<(), Error> {
        self.claim_part(name, place, 0, place.spec.size_bytes() as u64)
    }

    /// Marks a part as written; it has to begin where the last one ended.
    fn claim_part(&self, name: &str, place: &Place, from: u64, to: u64) -> Result<(), Error> {
        let claimed = place
            .written
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        match claimed {
            Ok(_) => Ok(()),
            Err(_) => Err(plan_error(name, "written twice, or not from its beginning on")),
        }
    }

    fn write_at(&self, place: &Place, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let shard = &self.shards[place.shard];
        write_all_at(&shard.file, bytes, place.offset + offset).map_err(|e| self.failed(&shard.path, e))
    }

    fn side_path(&self, file: &str) -> Result<PathBuf, Error> {
        match is_plain_file_name(file) {
            true => Ok(self.dir.path().join(file)),
            false => Err(Error::OutputName { name: file.to_owned() }),
        }
    }

    fn refuse_missing(&self) -> Result<(), Error> {
        let missing = self
            .places
            .iter()
            .filter(|(_, place)| place.written.load(Ordering::Relaxed) < place.spec.size_bytes() as u64);
        let mut missing: Vec<&String> = missing.map(|(name, _)| name).collect();
        missing.sort();
        match missing.first() {
            None => Ok(()),
            Some(first) => {
                let (path, first) = (self.out.clone(), (*first).clone());
                Err(Error::OutputIncomplete {
                    path,
                    first,
                    missing: missing.len(),
                })
            }
        }
    }

    /// Gives the shards their final names, and writes the index if there are several.
    fn name_shards(&mut self) -> Result<(), Error> {
        let count = self.shards.len();
        let name = |k: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", k + 1),
        };
        for (k, shard) in self.shards.iter().enumerate() {
            let path = self.dir.path().join(name(k));
            fs::rename(&shard.path, &path).map_err(|e| self.failed(&path, e))?;
        }
        if count < 2 {
            return Ok(());
        }
        let weight_map: BTreeMap<&String, String> = self
            .places
            .iter()
            .map(|(tensor, place)| (tensor, name(place.shard)))
            .collect();
        let total_size: usize = self.places.values().map(|place| place.spec.size_bytes()).sum();
        let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        self.json("model.safetensors.index.json", &index)
    }

    /// The error of a path in the temporary directory, told as of the path that the user knows.
    fn failed(&self, path: &Path, source: io::Error) -> Error {
        let known = path
            .strip_prefix(self.dir.path())
            .map_or_else(|_| path.to_owned(), |file| self.out.join(file));
        Error::write(&known, source)
    }
}

impl Staged {
    /// Where the files lie for now.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Brings everything to the disk and gives it the output's name, in one step: the output is what it was, or this.
    pub fn publish(self) -> Result<(), Error> {
        let Self { out, dir, replace } = self;
        let failed = |e| Error::write(&out, e);
        for entry in fs::read_dir(dir.path()).map_err(failed)? {
            let synced = entry.and_then(|entry| File::open(entry.path())?.sync_all());
            synced.map_err(failed)?;
        }
        let taken = |e: io::Error| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Error::OutputTaken { path: out.clone() },
            _ => failed(e),
        };
        dir.take_the_place_of(&out, replace).map_err(taken)
    }
}

/// Reads a size as Hugging Face writes it: `5GB`, `500MB`, `1.5GB`, `200KB` in powers of 1000, `4GiB` in powers of 1024, or
/// plain bytes.
///
/// ```
/// use heterosis_checkpoint::parse_size;
///
/// assert_eq!(parse_size("1.5GB")?, 1_500_000_000);
/// assert_eq!(parse_size("4 GiB")?, 4 << 30);
/// assert!(parse_size("a lot").is_err());
/// # Ok::<(), heterosis_checkpoint::Error>(())
/// ```
///
/// **Errors**: no whole number of bytes is meant.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let refused = || Error::ShardSize { text: text.to_owned() };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        _ => return Err(refused()),
    };
    let size = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) if !number.contains('.') => None,
        Err(_) => number.parse::<f64>().ok().map(|part| (part * factor as f64) as u64),
    };
    size.filter(|size| *size > 0).ok_or_else(refused)
}

fn plan_error(tensor: &str, problem: &'static str) -> Error {
    Error::OutputPlan {
        tensor: tensor.to_owned(),
        problem,
    }
}

fn check_size(spec: &TensorSpec, got: usize) -> Result<(), Error> {
    let expected = spec.size_bytes();
    if got == expected {
        return Ok(());
    }
    let (tensor, shape, dtype) = (spec.name.clone(), spec.shape.clone(), spec.dtype);
    Err(Error::OutputSize {
        tensor,
        shape,
        dtype,
        expected,
        got,
    })
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    use std::sync::Mutex;
    static CURSOR: Mutex<()> = Mutex::new(());
    let _one_at_a_time = CURSOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut file = file;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::Checkpoint;
    use super::*;

    fn spec(name: &str, dtype: DType, shape: &[usize]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn one_shard_comes_back_bit_for_bit_and_the_safetensors_crate_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("deep/er/model");
        let mut writer = Writer::create(&out, 1_000_000).unwrap();
        writer.tensor("b", DType::Bf16, &[3], &[1, 2, 3, 4, 5, 6]).unwrap();
        writer
            .tensor("a", DType::F32, &[2, 1], &1f32.to_le_bytes().repeat(2))
            .unwrap();
        writer.tensor("empty", DType::F16, &[0, 4], &[]).unwrap();
        writer.json("config.json", &json!({"model_type": "llama"})).unwrap();
        assert!(!out.exists(), "nothing is there before the end");
        writer.finish().unwrap();
        assert_eq!(entries(&out), ["config.json", "model.safetensors"]);
        assert_eq!(entries(out.parent().unwrap()), ["model"]);

        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.raw("b").unwrap(), (&[1u8, 2, 3, 4, 5, 6][..], DType::Bf16));
        assert_eq!(checkpoint.read_f32("a").unwrap(), [1.0, 1.0]);
        assert!(checkpoint.info("empty").unwrap().is_empty());
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let peer = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(peer.tensor("b").unwrap().data(), [1, 2, 3, 4, 5, 6]);
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    }

    #[test]
    fn declared_tensors_stream_to_their_shards_in_any_order_from_many_threads() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        let mut writer = Writer::create(&out, 1_000).unwrap();
        // 400 + 400 | 800 | 2000 alone | 4: as split_torch_state_dict_into_shards cuts them
        let sizes = [("a", 100), ("b", 100), ("c", 200), ("d", 500), ("e", 1)];
        writer
            .declare(&sizes.map(|(name, len)| spec(name, DType::F32, &[len])))
            .unwrap();
        std::thread::scope(|scope| {
            for (k, (name, len)) in sizes.into_iter().enumerate().rev() {
                let writer = &writer;
                scope.spawn(move || writer.put_f32(name, &vec![k as f32; len]).unwrap());
            }
        });
        writer.json("config.json", &json!({})).unwrap();
        writer.finish().unwrap();
        let names: Vec<String> = (1..=4).map(|k| format!("model-{k:05}-of-00004.safetensors")).collect();
        assert_eq!(entries(&out)[1..5], names);
        let index: Value =
            serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], 901 * 4);
        assert_eq!(
            index["weight_map"],
            json!({"a": names[0], "b": names[0], "c": names[1], "d": names[2], "e": names[3]})
        );
        let checkpoint = Checkpoint::open(&out).unwrap();
        for (k, (name, len)) in sizes.into_iter().enumerate() {
            assert_eq!(checkpoint.read_f32(name).unwrap(), vec![k as f32; len]);
        }
    }

    #[test]
    fn declared_or_not_the_digest_is_the_same_and_shards_do_not_count() {
        let home = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..3000).map(|i| i as f32 / 7.0).collect();
        let mut digests = Vec::new();
        for (k, size) in [100, 100_000].into_iter().enumerate() {
            let out = home.path().join(format!("m{k}"));
            let mut writer = Writer::create(&out, size).unwrap();
            let specs = ["x", "y", "z"].map(|name| spec(name, DType::Bf16, &[30, 100]));
            if k == 0 {
                writer.declare(&specs).unwrap();
                specs.iter().for_each(|s| writer.put_f32(&s.name, &values).unwrap());
            } else {
                let mut bytes = vec![0; 6000];
                DType::Bf16.narrow(&values, &mut bytes);
                specs
                    .iter()
                    .for_each(|s| writer.tensor(&s.name, s.dtype, &s.shape, &bytes).unwrap());
            }
            writer
                .text("config.json", ["{\"a\": 1, \"b\": 2}", "{\"b\":2,\"a\":1}"][k])
                .unwrap();
            writer.finish().unwrap();
            digests.push(Checkpoint::open(&out).unwrap().digest().unwrap());
        }
        assert_eq!(digests[0], digests[1]);
    }

    #[test]
    fn long_tensors_are_rounded_in_pieces_without_a_seam() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("m");
        let values: Vec<f32> = (0..WRITE_CHUNK + 3).map(|i| i as f32).collect();
        let mut writer = Writer::create(&out, u64::MAX).unwrap();
        writer.declare(&[spec("x", DType::Bf16, &[values.len()])]).unwrap();
        writer.put_f32("x", &values).unwrap();
        writer.text("config.json", "{}").unwrap();
        writer.finish().unwrap();
        let mut rounded = values;
        DType::Bf16.round(&mut rounded);
        assert_eq!(Checkpoint::open(&out).unwrap().read_f32("x").unwrap(), rounded);
    }

    #[test]
    fn nothing_is_left_behind_when_it_is_dropped_or_fails() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        let mut writer = Writer::create(&out, 100).unwrap();
        writer.tensor("a", DType::F32, &[1], &[0; 4]).unwrap();
        drop(writer);
        let mut writer = Writer::create(&out, 100).unwrap();
        writer
            .declare(&[spec("a", DType::F32, &[1]), spec("b", DType::F32, &[1])])
            .unwrap();
        writer.put("a", &[0; 4]).unwrap();
        assert!(matches!(writer.finish(), Err(Error::OutputIncomplete { first, missing: 1, .. }) if first == "b"));
        assert!(entries(home.path()).is_empty());
    }

    /// Of two exports to one place at once the loser said "Directory not empty (os error 39). Check that this user may write".
    #[test]
    fn who_comes_second_is_told_that_another_won() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        let mut both = [(); 2].map(|()| Writer::create(&out, 100).unwrap());
        for writer in &mut both {
            writer.text("config.json", "{}").unwrap();
        }
        let [first, second] = both;
        first.finish().unwrap();
        let error = second.finish().unwrap_err();
        assert!(matches!(&error, Error::OutputTaken { .. }), "{error}");
        assert!(out.join("config.json").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_there_is_not_overwritten_unless_the_caller_says_so() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        fs::create_dir(&out).unwrap();
        Writer::create(&out, 100).unwrap().finish().unwrap(); // an empty directory gives way
        fs::write(out.join("precious"), "").unwrap();
        assert!(matches!(Writer::create(&out, 100), Err(Error::OutputExists { .. })));
        assert!(matches!(
            Writer::create(&out.join("precious"), 100),
            Err(Error::OutputExists { .. })
        ));
        let mut writer = Writer::replace(&out, 100).unwrap();
        writer.text("config.json", "{}").unwrap();
        assert_eq!(entries(&out), ["precious"]);
        writer.finish().unwrap();
        assert_eq!(entries(&out), ["config.json"]);
        assert_eq!(entries(home.path()), ["model"]);
    }

    #[test]
    fn wrong_calls_are_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&home.path().join("m"), 100).unwrap();
        assert!(matches!(
            writer.tensor("a", DType::F32, &[2], &[0; 4]),
            Err(Error::OutputSize {
                expected: 8,
                got: 4,
                ..
            })
        ));
        for name in ["", "../x", "/etc/passwd", "..", ".hidden", "a/b"] {
            assert!(matches!(writer.text(name, ""), Err(Error::OutputName { .. })), "{name}");
        }
        writer.declare(&[spec("a", DType::F32, &[1])]).unwrap();
        assert!(matches!(
            writer.tensor("b", DType::F32, &[1], &[0; 4]),
            Err(Error::OutputPlan { .. })
        ));
        assert!(matches!(
            writer.tensor("a", DType::F16, &[2], &[0; 4]),
            Err(Error::OutputPlan { .. })
        ));
        writer.tensor("a", DType::F32, &[1], &[0; 4]).unwrap();
        assert!(matches!(writer.put_f32("a", &[0.0]), Err(Error::OutputPlan { .. })));
        assert!(writer.declare(&[spec("a", DType::F32, &[1])]).is_err());
    }

    #[test]
    fn a_parent_that_cannot_be_written_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        let error = Writer::create(&home.path().join("file/m"), 1).unwrap_err();
        assert!(
            matches!(error, Error::OutputExists { .. } | Error::Write { .. }),
            "{error}"
        );
    }

    #[test]
    fn sizes_read_as_hugging_face_writes_them() {
        for (text, size) in [
            ("5GB", 5_000_000_000),
            ("500MB", 500_000_000),
            (" 2 kb ", 2_000),
            ("1GiB", 1 << 30),
            ("7", 7),
            ("1.5MB", 1_500_000),
        ] {
            assert_eq!(parse_size(text).unwrap(), size, "{text}");
        }
        for text in [
            "",
            "GB",
            "-1GB",
            "5 apples",
            "0",
            "0GB",
            "1e3",
            "99999999999999999999TB",
            "1.2.3GB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
