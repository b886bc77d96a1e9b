//! Where a program's other words go: a file, and before there is a place for one, the memory.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes that are kept while there is no file, the last ones.
const MOST_KEPT: usize = 1 << 16;

/// Shared by whoever writes to it.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Place>>);

enum Place {
    Memory(Vec<u8>),
    File(File),
}

impl Log {
    /// Until there is a place for a file.
    pub fn in_memory() -> Self {
        Self(Arc::new(Mutex::new(Place::Memory(Vec::new()))))
    }

    /// Goes on at the end of a file.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(file: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Place::File(appending(file)?)))))
    }

    /// Goes on at the end of a file, where what was kept is written first.
    ///
    /// # Errors
    /// It cannot be opened or written.
    pub fn keep_in(&self, file: &Path) -> io::Result<()> {
        let mut file = appending(file)?;
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Memory(kept) = &*place {
            file.write_all(kept)?;
        }
        *place = Place::File(file);
        Ok(())
    }

    /// A log that cannot be written is no reason to end anything.
    pub(super) fn write(&self, bytes: &[u8]) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Place::File(file) => {
                let _ = file.write_all(bytes);
            }
            Place::Memory(kept) => {
                kept.extend_from_slice(bytes);
                let too_many = kept.len().saturating_sub(MOST_KEPT);
                kept.drain(..too_many);
            }
        }
    }
}

fn appending(file: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_there_was_a_file_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("engine.log"), Log::in_memory());
        log.write(&vec![b'-'; MOST_KEPT]);
        log.write(b"loading\n");
        log.keep_in(&file).unwrap();
        log.write(b"ready\n");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.len() == MOST_KEPT + 6 && text.ends_with("-loading\nready\n"));
        Log::open(&file).unwrap().write(b"again\n");
        assert!(std::fs::read_to_string(&file).unwrap().ends_with("ready\nagain\n"));
    }
}
