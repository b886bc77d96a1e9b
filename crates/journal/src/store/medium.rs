//! What a journal is written to: a file, or in tests one that loses what was not synced, as a power cut does.

use std::{
    fmt, fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

/// Something that grows at its end.
pub trait Medium: fmt::Debug + Send {
    /// After an error any part of the bytes may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// When this returns, all that was appended outlives a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts to so many bytes; what is appended next stands there. Lasting only after [`Self::sync`].
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Reads bytes that were appended; what is appended next still goes to the end.
    fn read_at(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()>;
}

impl Medium for fs::File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&self.metadata()?) == 0 {
            let why = "it was removed while it was written to; what comes now would stand nowhere";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(drop)
    }

    fn read_at(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = self.stream_position()?;
        self.seek(SeekFrom::Start(start))?;
        let read = self.read_exact(bytes);
        self.seek(SeekFrom::Start(end))?;
        read
    }
}

/// Brings the names in a directory to the disk: a file whose content is synced may still have no name after a power cut.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    fs::File::open(dir)?.sync_all()
}

/// A medium in memory for crash tests. From a chosen operation on everything fails, and of what was not synced then, a
/// chosen part is left.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)] // for tests alone
pub mod crash {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::Medium;

    /// What is left of bytes that were written and not synced.
    #[derive(Clone, Copy, Debug)]
    pub enum Left {
        /// No byte of it.
        Nothing,
        /// The earlier half, as when a write was cut off.
        Half,
        /// Everything, as if it had been synced.
        All,
        /// The file has grown, and what stands in it never arrived.
        Zeros,
        /// Blocks arrive in any order: the later half did, the earlier did not.
        LaterHalf,
    }

    #[derive(Debug, Default)]
    struct State {
        synced: Vec<u8>,
        written: Vec<u8>,
        operations: usize,
        crashes_at: Option<usize>,
    }

    /// Clones share one content.
    #[derive(Clone, Debug, Default)]
    pub struct CrashMedium(Arc<Mutex<State>>);

    impl CrashMedium {
        /// Holds what a crash left.
        pub fn holding(content: Vec<u8>) -> Self {
            Self(Arc::new(Mutex::new(State {
                synced: content.clone(),
                written: content,
                ..State::default()
            })))
        }

        /// Fails at this operation (counted from 0, writes, syncs and truncations alike) and ever after.
        pub fn crashing_at(self, operation: usize) -> Self {
            self.0.lock().unwrap().crashes_at = Some(operation);
            self
        }

        /// Writes, syncs and truncations so far.
        pub fn operations(&self) -> usize {
            self.0.lock().unwrap().operations
        }

        /// What a process that is still there would read.
        pub fn content(&self) -> Vec<u8> {
            self.0.lock().unwrap().written.clone()
        }

        /// What the disk holds after the crash.
        pub fn after_crash(&self, left: Left) -> Vec<u8> {
            let state = self.0.lock().unwrap();
            let common = state
                .synced
                .iter()
                .zip(&state.written)
                .take_while(|(a, b)| a == b)
                .count();
            if common < state.synced.len() {
                return state.synced.clone(); // it was cut, and the cut was not synced
            }
            let fresh = &state.written[common..];
            let half = fresh.len() / 2;
            let fresh = match left {
                Left::Nothing => Vec::new(),
                Left::Half => fresh[..half].to_vec(),
                Left::All => fresh.to_vec(),
                Left::Zeros => vec![0; fresh.len()],
                Left::LaterHalf => [vec![0; half], fresh[half..].to_vec()].concat(),
            };
            [&state.written[..common], &fresh].concat()
        }

        fn operate(&self, work: impl FnOnce(&mut State, bool)) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let operation = state.operations;
            state.operations += 1;
            match state.crashes_at {
                Some(at) if operation > at => Err(io::Error::other("the machine is down")),
                Some(at) if operation == at => {
                    work(&mut state, true);
                    Err(io::Error::other("the machine goes down"))
                }
                _ => {
                    work(&mut state, false);
                    Ok(())
                }
            }
        }
    }

    impl Medium for CrashMedium {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.operate(|state, _| state.written.extend(bytes))
        }

        fn sync(&mut self) -> io::Result<()> {
            self.operate(|state, crashes| {
                if !crashes {
                    state.synced.clone_from(&state.written);
                }
            })
        }

        fn read_at(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
            let state = self.0.lock().unwrap();
            let end = start as usize + bytes.len();
            let there = state.written.get(start as usize..end);
            bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn truncate(&mut self, len: u64) -> io::Result<()> {
            self.operate(|state, crashes| {
                if !crashes {
                    state.written.truncate(len as usize);
                }
            })
        }
    }
}
