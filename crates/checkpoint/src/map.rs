//! A weight file in memory, mapped and not read: the one place in the crate that uses `unsafe`.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::Error;
use super::files::open_regular;

/// A file's bytes, brought in by the operating system as they are touched.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    map: Option<Mmap>, // `None` for an empty file, which not every system can map
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::read(path, source);
        let file = open_regular(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.len() == 0 {
            return Ok(Self {
                path: path.to_owned(),
                map: None,
            });
        }
        // SAFETY: the map is read-only and private to this struct. Should another process shorten or rewrite the file
        // while it is open, reads may fault or see new bytes; a checkpoint in use must be left alone, as with every
        // program that maps weights, and copying gigabytes to rule that out is the greater evil.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            map: Some(map),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the system have the memory of these bytes back; whoever touches them again reads them from the file.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // SAFETY: `DontNeed` loses what was written to a map without going to its file. Nobody can write to this one.
            #[allow(unsafe_code)]
            let released =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(e) = released {
                // Only memory is lost.
                tracing::debug!("{}: {e}", self.path.display());
            }
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
