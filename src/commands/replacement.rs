//! A file that is written beside its place and takes its name when it is complete: what was there stays until then.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// Refuses a place where somebody's file is; a pipe or a device has no content to be kept.
pub fn refuse_to_replace(file: &Path) -> Result<()> {
    match file.is_file() || file.is_dir() {
        true => bail!("{} is there already; remove it, or take another name", file.display()),
        false => Ok(()),
    }
}

/// A file that is being written. Dropped before [`finish`](Self::finish), it leaves what was there as it was.
pub struct Replacement {
    path: PathBuf,
    to: BufWriter<Target>,
}

enum Target {
    Beside(NamedTempFile),
    /// A pipe or a device, which has a name but no content to be kept.
    Itself(File),
}

impl Replacement {
    pub fn create(path: &Path) -> Result<Self> {
        let to = Target::open(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            to: BufWriter::new(to),
        })
    }

    /// Where it is built: whoever ends the process before should remove it. `None` of a pipe or a device.
    pub fn partial(&self) -> Option<&Path> {
        match self.to.get_ref() {
            Target::Beside(file) => Some(file.path()),
            Target::Itself(_) => None,
        }
    }

    /// Brings everything to the disk, and gives it its name.
    pub fn finish(self) -> Result<()> {
        let Self { path, to } = self;
        let finish = || -> io::Result<()> {
            match to.into_inner().map_err(io::IntoInnerError::into_error)? {
                Target::Itself(mut file) => file.flush(),
                Target::Beside(file) => {
                    file.as_file().sync_all()?;
                    file.persist(&path)?;
                    Ok(())
                }
            }
        };
        finish().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Errors name the file that was asked for, not the one beside it.
impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).map_err(|e| unwritten(&self.path, &e))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().map_err(|e| unwritten(&self.path, &e))
    }
}

fn unwritten(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display()))
}

impl Target {
    fn open(path: &Path) -> io::Result<Self> {
        let there = fs::metadata(path);
        if there.as_ref().is_ok_and(|m| m.is_dir()) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if there.is_ok_and(|m| !m.is_file()) {
            return Ok(Self::Itself(File::options().write(true).open(path)?));
        }
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        // A temporary file is its owner's alone; this one stays, and is everybody's whom the umask lets.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self::Beside(builder.tempfile_in(dir.unwrap_or(Path::new(".")))?))
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside(file) => file.as_file_mut().write(bytes),
            Self::Itself(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file) => file.as_file_mut().flush(),
            Self::Itself(file) => file.flush(),
        }
    }
}

/// A whole file at once.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let mut file = Replacement::create(path)?;
    file.write_all(text.as_bytes())?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `eval --answers OLD` emptied OLD before the first question was asked; a Ctrl-C lost it.
    #[test]
    fn what_was_there_stays_until_the_new_file_is_complete() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("answers.jsonl");
        fs::write(&path, "old").unwrap();
        let mut file = Replacement::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(
            fs::read_dir(home.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        assert!(replace(&home.path().join("none/x"), "").is_err());
        assert!(replace(home.path(), "").is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        replace(Path::new("/dev/null"), "gone").unwrap();
        let error = replace(Path::new("/dev/full"), "too much").unwrap_err();
        assert!(format!("{error:#}").contains("/dev/full"), "{error:#}");
    }
}
