//! The weights of a `pytorch_model.bin`, read without running a line of it.
//!
//! Such a file is a zip archive: `data.pkl` says by a program of the pickle machine which tensor lies where, `data/N` are
//! the bytes, stored as they are. A pickle may call any function; this reader knows the few opcodes that describe tensors
//! and calls nothing. What it does not know (another opcode, another function) is refused by name.
//!
//! Source: Python's pickletools.py for the opcodes; torch/_utils.py and torch/serialization.py for what they build.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::safetensors::{Entry, is_buffer};
use super::{DType, Error, TensorInfo};

/// The most that `data.pkl` may hold: 64 MiB; that of a model with a thousand tensors has some hundred KB.
const MOST_PROGRAM: usize = 64 << 20;
/// How deep tuples may stand in each other.
const DEEPEST: usize = 16;

/// Reads where the tensors of the file `file`, whose content is `bytes`, lie in it.
///
/// Buffers that are not weights are left out.
pub(super) fn read_header(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let bad = |reason: String| Error::Pickle {
        file: file.to_owned(),
        reason,
    };
    let archive = Archive::read(bytes).map_err(bad)?;
    let tensors = Machine::new(&bytes[archive.program.clone()]).run().map_err(bad)?;
    let weights = tensors.into_iter().filter(|(name, _)| !is_buffer(name));
    weights
        .map(|(name, tensor)| {
            let Some(dtype) = tensor.storage.dtype() else {
                return Err(Error::UnsupportedDType {
                    file: file.to_owned(),
                    tensor: name,
                    dtype: tensor.storage.kind.clone(),
                });
            };
            tensor.entry(&name, dtype, &archive).map_err(bad)
        })
        .collect()
}

/// Where the parts of the archive lie in the file.
struct Archive {
    program: Range<usize>,
    storages: HashMap<String, Range<usize>>,
}

impl Archive {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let not_one = |e| format!("it is no zip archive as torch writes them since 1.6 ({e})");
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| not_one(e.to_string()))?;
        let mut parts: HashMap<String, Range<usize>> = HashMap::new();
        for i in 0..zip.len() {
            let part = zip.by_index_raw(i).map_err(|e| not_one(e.to_string()))?;
            let name = part.name().map_err(|e| not_one(e.to_string()))?.into_owned();
            if part.compression() != zip::CompressionMethod::Stored {
                return Err(format!("its part `{name}` is compressed, which torch does not do"));
            }
            let start = part.data_start().and_then(|start| usize::try_from(start).ok());
            let size = usize::try_from(part.size()).ok();
            let range = start
                .zip(size)
                .and_then(|(start, size)| Some(start..start.checked_add(size)?));
            let range = range.filter(|range| range.end <= bytes.len());
            parts.insert(
                name.clone(),
                range.ok_or_else(|| format!("its part `{name}` lies beyond its end"))?,
            );
        }
        let mut programs = parts.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        let (Some(folder), None) = (programs.next(), programs.next()) else {
            return Err("it holds no data.pkl, or several".into());
        };
        let (folder, program) = (format!("{folder}/"), parts[&format!("{folder}/data.pkl")].clone());
        if let Some(order) = parts.get(&format!("{folder}byteorder"))
            && &bytes[order.clone()] != b"little"
        {
            return Err("its numbers are not little-endian".into());
        }
        if program.len() > MOST_PROGRAM {
            return Err(format!(
                "its data.pkl has {} bytes, more than any model's",
                program.len()
            ));
        }
        let prefix = format!("{folder}data/");
        let storages = parts
            .into_iter()
            .filter_map(|(name, range)| Some((name.strip_prefix(&prefix)?.to_owned(), range)));
        Ok(Archive {
            program,
            storages: storages.collect(),
        })
    }
}

/// A stretch of bytes that tensors are cut from.
#[derive(Debug)]
struct Storage {
    /// torch's name of its class, such as `HalfStorage`.
    kind: String,
    key: String,
}

impl Storage {
    fn dtype(&self) -> Option<DType> {
        match self.kind.as_str() {
            "FloatStorage" => Some(DType::F32),
            "HalfStorage" => Some(DType::F16),
            "BFloat16Storage" => Some(DType::Bf16),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Tensor {
    storage: Rc<Storage>,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

impl Tensor {
    fn entry(&self, name: &str, dtype: DType, archive: &Archive) -> Result<Entry, String> {
        let too_large = || {
            format!(
                "the shape {:?} of its tensor `{name}` is larger than any file",
                self.shape
            )
        };
        let len = self
            .shape
            .iter()
            .try_fold(1usize, |n, dim| n.checked_mul(*dim))
            .ok_or_else(too_large)?;
        if !self.is_row_major() {
            return Err(format!(
                "its tensor `{name}` is a view whose elements do not follow each other"
            ));
        }
        let place = archive.storages.get(&self.storage.key);
        let place = place.ok_or_else(|| format!("the bytes of its tensor `{name}` are missing"))?;
        let size = dtype.size_bytes();
        let range = || {
            let start = place.start.checked_add(self.offset.checked_mul(size)?)?;
            let end = start.checked_add(len.checked_mul(size)?)?;
            (end <= place.end).then_some(start..end)
        };
        Ok(Entry {
            name: name.to_owned(),
            info: TensorInfo {
                dtype,
                shape: self.shape.clone(),
            },
            bytes: range().ok_or_else(|| format!("its tensor `{name}` reaches beyond its bytes"))?,
            is_packed: false,
        })
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1usize;
        let mut dims = self.shape.iter().zip(&self.stride).rev();
        let follows = |(dim, stride): (&usize, &usize)| {
            let follows = *dim <= 1 || *stride == expected;
            expected = expected.saturating_mul(*dim);
            follows
        };
        self.shape.len() == self.stride.len() && (self.shape.contains(&0) || dims.all(follows))
    }
}

/// What stands on the machine's stack. Containers that may grow stand there only once; all else is shared.
#[derive(Clone, Debug)]
enum Value {
    /// Something that no tensor needs.
    Nothing,
    Int(i64),
    Text(Rc<str>),
    /// With its depth.
    Tuple(Rc<[Value]>, usize),
    Global(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
    List,
    Dict(Vec<(Rc<str>, Rc<Tensor>)>),
    Mark,
}

/// The functions and classes that tensors are described by; none is called.
const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const PARAMETER: &str = "torch._utils._rebuild_parameter";
const ORDERED: &str = "collections.OrderedDict";

/// The pickle machine, as far as tensors need it.
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
}

impl<'a> Machine<'a> {
    fn new(program: &'a [u8]) -> Self {
        Machine {
            rest: program,
            stack: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// The tensors by name, in their order.
    fn run(mut self) -> Result<Vec<(String, Rc<Tensor>)>, String> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => break,
                _ => self.step(opcode)?,
            }
        }
        match self.pop()? {
            Value::Dict(tensors) => Ok(tensors
                .into_iter()
                .map(|(name, tensor)| (name.to_string(), tensor))
                .collect()),
            _ => Err("it holds something else than tensors by name".into()),
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => drop(self.take(1)?),                     // PROTO
            0x95 => drop(self.take(8)?),                     // FRAME
            b'(' => self.push(Value::Mark),                  // MARK
            b'N' | 0x88 | 0x89 => self.push(Value::Nothing), // NONE, NEWTRUE, NEWFALSE
            b'G' => {
                self.take(8)?; // BINFLOAT
                self.push(Value::Nothing);
            }
            b'}' => self.push(Value::Dict(Vec::new())), // EMPTY_DICT
            b']' => self.push(Value::List),             // EMPTY_LIST
            b')' => self.tuple(Vec::new())?,            // EMPTY_TUPLE
            b't' => {
                let items = self.since_mark()?; // TUPLE
                self.tuple(items)?;
            }
            0x85..=0x87 => {
                // TUPLE1, TUPLE2, TUPLE3
                let at = self
                    .stack
                    .len()
                    .checked_sub(usize::from(opcode - 0x84))
                    .ok_or_else(ends_early)?;
                let items = self.stack.split_off(at);
                self.tuple(items)?;
            }
            b'K' => {
                let n = self.take(1)?[0]; // BININT1
                self.push(Value::Int(i64::from(n)));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?); // BININT2
                self.push(Value::Int(i64::from(n)));
            }
            b'J' => {
                let n = i32::from_le_bytes(self.array()?); // BININT
                self.push(Value::Int(i64::from(n)));
            }
            0x8a => self.long()?, // LONG1
            0x8c => {
                let len = usize::from(self.take(1)?[0]); // SHORT_BINUNICODE
                self.text(len)?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.array()?); // BINUNICODE
                self.text(len as usize)?;
            }
            b'q' => {
                let slot = u32::from(self.take(1)?[0]); // BINPUT
                self.remember(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?); // LONG_BINPUT
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?, // MEMOIZE
            b'h' => {
                let slot = u32::from(self.take(1)?[0]); // BINGET
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?); // LONG_BINGET
                self.recall(slot)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?); // GLOBAL
                self.global(&module, &name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                // STACK_GLOBAL
                (Value::Text(name), Value::Text(module)) => self.global(&module, &name)?,
                _ => return Err("it names a function by something that is no text".into()),
            },
            b'Q' => self.storage()?,          // BINPERSID
            b'R' => self.reduce()?,           // REDUCE
            b'b' => drop(self.pop()?),        // BUILD: the state of an OrderedDict
            b'a' => drop(self.pop()?),        // APPEND
            b'e' => drop(self.since_mark()?), // APPENDS
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?; // SETITEMS
                self.set(items)?;
            }
            other => {
                return Err(format!(
                    "its program has the opcode 0x{other:02x}, which no description of tensors needs; it is not run"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| ends_early())
    }

    fn line(&mut self) -> Result<String, String> {
        let len = self
            .rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(ends_early)?;
        let line = self.take(len)?;
        self.take(1)?;
        String::from_utf8(line.to_vec()).map_err(|_| "a name in it is no UTF-8".into())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(ends_early)
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self
            .stack
            .iter()
            .rposition(|value| matches!(value, Value::Mark))
            .ok_or_else(ends_early)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn text(&mut self, len: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text in it is no UTF-8")?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    /// A whole number of up to eight bytes, little-endian, with its sign.
    fn long(&mut self) -> Result<(), String> {
        let len = usize::from(self.take(1)?[0]);
        let bytes = self.take(len)?;
        if len > 8 {
            return Err("a number in it is larger than any size".into());
        }
        let fill = if bytes.last().is_some_and(|byte| *byte >= 0x80) {
            0xff
        } else {
            0
        };
        let mut wide = [fill; 8];
        wide[..len].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value>) -> Result<(), String> {
        let depth = |value: &Value| match value {
            Value::Tuple(_, depth) => depth + 1,
            _ => 1,
        };
        let depth = items.iter().map(depth).max().unwrap_or(1);
        if depth > DEEPEST {
            return Err("its tuples stand too deep in each other".into());
        }
        self.push(Value::Tuple(items.into(), depth));
        Ok(())
    }

    /// A container is not remembered: it would be there twice, and could grow in one place only.
    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let value = match self.stack.last().ok_or_else(ends_early)? {
            Value::Dict(_) | Value::List => Value::Mark,
            value => value.clone(),
        };
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        match self.memo.get(&slot) {
            None | Some(Value::Mark) => Err("it refers to a container, which no description of tensors does".into()),
            Some(value) => {
                self.push(value.clone());
                Ok(())
            }
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let whole = format!("{module}.{name}");
        let is_storage = ["torch", "torch.storage"].contains(&module) && name.ends_with("Storage");
        if !is_storage && ![TENSOR, PARAMETER, ORDERED].contains(&whole.as_str()) {
            return Err(format!(
                "its program calls `{whole}`, which makes no tensor; it is not run"
            ));
        }
        self.push(Value::Global(whole.into()));
        Ok(())
    }

    /// `("storage", torch.HalfStorage, "0", "cpu", 1024)`.
    fn storage(&mut self) -> Result<(), String> {
        let Value::Tuple(items, _) = self.pop()? else {
            return Err("it refers to something that is no storage".into());
        };
        let [Value::Text(what), Value::Global(kind), Value::Text(key), ..] = &items[..] else {
            return Err("it refers to something that is no storage".into());
        };
        if &**what != "storage" {
            return Err(format!("it refers to a `{what}`, which is no storage"));
        }
        self.push(Value::Storage(Rc::new(Storage {
            kind: kind.rsplit_once('.').map_or(&**kind, |(_, name)| name).to_owned(),
            key: key.to_string(),
        })));
        Ok(())
    }

    /// What a known function would give for its arguments.
    fn reduce(&mut self) -> Result<(), String> {
        let (Value::Tuple(arguments, _), Value::Global(function)) = (self.pop()?, self.pop()?) else {
            return Err("it calls something that is no function".into());
        };
        let made = match (&*function, &arguments[..]) {
            (ORDERED, []) => Value::Dict(Vec::new()),
            (PARAMETER, [Value::Tensor(tensor), ..]) => Value::Tensor(tensor.clone()),
            (TENSOR, [Value::Storage(storage), Value::Int(offset), shape, stride, ..]) => {
                Value::Tensor(Rc::new(Tensor {
                    storage: storage.clone(),
                    offset: size(*offset)?,
                    shape: sizes(shape)?,
                    stride: sizes(stride)?,
                }))
            }
            _ => return Err(format!("it calls `{function}` with what that does not take")),
        };
        self.push(made);
        Ok(())
    }

    /// Puts tensors under their names; what is none (the state of a module) is left out of a dictionary that has no tensor.
    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last_mut() else {
            return Err("it puts values into something that is no dictionary".into());
        };
        for pair in items.chunks_exact(2) {
            if let [Value::Text(name), Value::Tensor(tensor)] = pair {
                dict.push((name.clone(), tensor.clone()));
            } else if let (true, Value::Text(name)) = (!dict.is_empty(), &pair[0]) {
                return Err(format!("beside its tensors it holds `{name}`, which is none"));
            }
        }
        Ok(())
    }
}

fn ends_early() -> String {
    "its program ends too early".into()
}

fn size(n: i64) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| format!("{n} is no size"))
}

fn sizes(tuple: &Value) -> Result<Vec<usize>, String> {
    let Value::Tuple(items, _) = tuple else {
        return Err("a shape in it is no tuple".into());
    };
    let number = |value: &Value| match value {
        Value::Int(n) => size(*n),
        _ => Err("a shape in it holds something that is no number".into()),
    };
    items.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::super::Checkpoint;
    use super::*;

    fn data() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pickled")
    }

    /// Checkpoints of 2023 had to be converted by hand before they were parents.
    #[test]
    fn a_pytorch_model_reads_as_its_safetensors() {
        let expected = fs::read(data().join("expected.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
        for name in ["single", "shards"] {
            let checkpoint = Checkpoint::open(&data().join(name)).unwrap();
            assert_eq!(checkpoint.tensors().len(), expected.names().len(), "{name}");
            for (tensor, view) in expected.tensors() {
                let info = checkpoint.info(&tensor).unwrap();
                assert_eq!(info.shape, view.shape(), "{name}: {tensor}");
                assert_eq!(checkpoint.raw(&tensor).unwrap().0, view.data(), "{name}: {tensor}");
            }
        }
    }

    fn run(program: &[u8]) -> Result<Vec<(String, Rc<Tensor>)>, String> {
        Machine::new(program).run()
    }

    #[test]
    fn what_makes_no_tensor_is_not_run() {
        // What pickle.dumps writes of an object whose __reduce__ is (os.system, ("true",)).
        let evil = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";
        assert!(run(evil).unwrap_err().contains("`posix.system`"));
        let newer = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.";
        assert!(run(newer).unwrap_err().contains("`posix.system`"));
        assert!(run(b"\x80\x02ibuiltins\neval\n.").unwrap_err().contains("0x69"));
        assert!(run(b"\x80\x02}q\x00h\x00.").unwrap_err().contains("container"));
        for cut in [
            &b""[..],
            b"\x80",
            b"(",
            b"X\xff\xff\xff\xff",
            b"t",
            b"\x87",
            b"R",
            b"u",
            b"Q",
            b"h\x00",
        ] {
            assert!(run(cut).is_err(), "{cut:?}");
        }
        let deep: Vec<u8> = b")".iter().chain([0x85u8; 100].iter()).copied().collect();
        assert!(run(&deep).unwrap_err().contains("too deep"));
        assert!(run(b"K\x01.").unwrap_err().contains("something else"));
    }

    #[test]
    fn views_and_shapes_that_do_not_fit_are_refused() {
        let tensor = |shape: &[usize], stride: &[usize], offset: usize| Tensor {
            storage: Rc::new(Storage {
                kind: "FloatStorage".into(),
                key: "0".into(),
            }),
            offset,
            shape: shape.to_vec(),
            stride: stride.to_vec(),
        };
        let archive = Archive {
            program: 0..0,
            storages: HashMap::from([("0".to_owned(), 100..124)]),
        };
        let bytes = |t: Tensor| t.entry("w", DType::F32, &archive).map(|entry| entry.bytes);
        assert_eq!(bytes(tensor(&[2, 3], &[3, 1], 0)), Ok(100..124));
        assert_eq!(bytes(tensor(&[1, 2], &[7, 1], 4)), Ok(116..124));
        assert!(bytes(tensor(&[2, 3], &[1, 2], 0)).unwrap_err().contains("view"));
        assert!(bytes(tensor(&[2, 3], &[3, 1], 1)).unwrap_err().contains("beyond"));
        assert!(
            bytes(tensor(&[usize::MAX, 2], &[2, 1], 0))
                .unwrap_err()
                .contains("larger")
        );
        assert!(bytes(tensor(&[2], &[1], usize::MAX)).is_err());
    }

    #[test]
    fn a_damaged_archive_is_refused_in_words() {
        let file = data().join("single/pytorch_model.bin");
        let whole = fs::read(&file).unwrap();
        read_header(&file, &whole).unwrap();
        for len in (0..whole.len()).step_by(97) {
            assert!(read_header(&file, &whole[..len]).is_err(), "{len}");
        }
        for at in (0..whole.len()).step_by(31) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = read_header(&file, &damaged);
        }
    }
}
