//! The files of a run directory, and the lock that keeps two processes from writing to it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::Error;

/// A run directory, by its path; the contract names its files.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// Held while a process writes to a run; the operating system releases it when the process dies.
#[derive(Debug)]
pub struct RunLock(#[allow(dead_code)] File);

impl RunDir {
    /// A new, empty run directory.
    ///
    /// # Errors
    /// It holds a run already, or cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let dir = Self(path.to_path_buf());
        if dir.journal().exists() {
            return Err(Error::RunExists { dir: dir.0 });
        }
        fs::create_dir_all(path).map_err(Error::io(path))?;
        Ok(dir)
    }

    /// An existing run.
    ///
    /// # Errors
    /// There is no journal in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = Self(path.to_path_buf());
        if dir.journal().is_file() {
            Ok(dir)
        } else {
            Err(Error::NoRun { dir: dir.0 })
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn space(&self) -> PathBuf {
        self.0.join("space.yaml")
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    pub fn cache(&self) -> PathBuf {
        self.0.join("cache.sled")
    }

    pub fn best(&self) -> PathBuf {
        self.0.join("best.yaml")
    }

    /// In place of [`Self::best`] where bare genes are searched.
    pub fn best_genes(&self) -> PathBuf {
        self.0.join("best.json")
    }

    pub fn report(&self) -> PathBuf {
        self.0.join("report")
    }

    /// Its presence asks the searching process to stop; `watch` makes it.
    pub fn stop_request(&self) -> PathBuf {
        self.0.join("stop-request")
    }

    /// Its presence asks the searching process to pause; `watch` makes and removes it.
    pub fn pause_request(&self) -> PathBuf {
        self.0.join("pause-request")
    }

    /// Takes the run for this process.
    ///
    /// # Errors
    /// Another process has it.
    pub fn lock(&self) -> Result<RunLock, Error> {
        let path = self.0.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(RunLock(file)),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Busy { dir: self.0.clone() }),
            Err(fs::TryLockError::Error(source)) => Err(Error::Io { path, source }),
        }
    }

    /// Whether some process holds the lock now.
    pub fn is_locked(&self) -> bool {
        matches!(self.lock(), Err(Error::Busy { .. }))
    }

    /// Replaces a file of the run in one step: after a crash it holds the old text or the new one.
    ///
    /// # Errors
    /// Writing or renaming failed.
    pub fn replace(&self, file: &Path, text: &str) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut builder = tempfile::Builder::new();
            // A temporary file is its owner's alone; this one stays, and is everybody's whom the umask lets.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let mut temporary = builder.tempfile_in(&self.0)?;
            temporary.write_all(text.as_bytes())?;
            temporary.as_file().sync_all()?;
            temporary.persist(file)?;
            Ok(())
        };
        write().map_err(Error::io(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_at_a_time() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::create(tmp.path()).unwrap();
        let lock = dir.lock().unwrap();
        assert!(dir.is_locked());
        drop(lock);
        assert!(!dir.is_locked());
    }

    /// A colleague and a web server could not read the report: it, best.yaml and space.yaml were their owner's alone.
    #[cfg(unix)]
    #[test]
    fn files_of_a_run_have_the_modes_that_the_umask_gives() {
        use std::os::unix::fs::PermissionsExt;
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::create(tmp.path()).unwrap();
        dir.replace(&dir.best(), "recipe").unwrap();
        fs::write(tmp.path().join("plain"), "").unwrap();
        let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode(&dir.best()), mode(&tmp.path().join("plain")));
    }

    #[test]
    fn a_run_is_neither_overwritten_nor_imagined() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(matches!(RunDir::open(tmp.path()), Err(Error::NoRun { .. })));
        fs::write(tmp.path().join("journal.jsonl"), "").unwrap();
        assert!(matches!(RunDir::create(tmp.path()), Err(Error::RunExists { .. })));
        RunDir::open(tmp.path()).unwrap();
    }
}
