//! The files of a run directory, the run that its journal tells, and the lock that keeps two processes from writing to it.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Error, journal::records, medium::sync_dir};
use crate::event::run::Run;

/// What a start that was interrupted leaves besides unfinished files, `.tmpXXXXXX`.
const LEFT: [&str; 7] = [
    "lock",
    "journal.jsonl",
    "space.yaml",
    "nats.json",
    "engine.log",
    "search.log",
    "cache.sled",
];

/// The most bytes of a lock that is read: a command line is shorter.
const LONGEST_LOCK: u64 = 1 << 20;

/// A run directory, by its path; the contract names its files.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

/// Who writes to a run: left in its lock, for whoever is turned away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// On its host.
    pub pid: u32,
    /// The machine's name, since directories may be shared.
    pub host: String,
    /// The command line.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, host, command } = self;
        write!(f, "`{command}` (process {pid} on {host})")
    }
}

/// Held while a process writes to a run; the operating system releases it when the process dies.
#[derive(Debug)]
pub struct RunLock {
    lock: File,
    /// Held for those who only look, see [`RunDir::is_locked`].
    journal: File,
}

impl Drop for RunLock {
    /// Closing alone leaves the locks for an instant with a program that is being started and has inherited the open files.
    fn drop(&mut self) {
        for file in [&self.journal, &self.lock] {
            let _ = file.unlock(); // closing follows
        }
    }
}

impl RunDir {
    /// A directory for a new run, made if it is missing, and its lock. A start that was interrupted before the journal's
    /// first record leaves one that is taken here again.
    ///
    /// # Errors
    /// It holds a run already, or what is no run; another process is at it, or it cannot be made.
    pub fn create(path: &Path, holder: &Holder) -> Result<(Self, RunLock), Error> {
        let dir = Self(path.to_path_buf());
        dir.refuse_foreign()?;
        let made: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
        fs::create_dir_all(path).map_err(Error::io(path))?;
        for dir in made {
            sync_dir(dir.parent().unwrap_or(Path::new("."))).map_err(Error::io(dir))?;
        }
        let lock = dir.lock(holder)?;
        match dir.has_begun()? {
            true => Err(Error::RunExists { dir: dir.0 }),
            false => Ok((dir, lock)),
        }
    }

    /// As [`Self::create`], under a name that nobody has: `path`, else `path-2` and so on.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create_beside(path: &Path, holder: &Holder) -> Result<(Self, RunLock), Error> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let mut free = path.to_path_buf();
        for n in 2.. {
            match fs::create_dir(&free) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    free = PathBuf::from(format!("{}-{n}", path.display()));
                }
                Err(e) => return Err(Error::io(&free)(e)),
            }
        }
        sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(Error::io(path))?;
        Self::create(&free, holder)
    }

    /// An existing run.
    ///
    /// # Errors
    /// There is no journal in it, or an empty one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = Self(path.to_path_buf());
        match dir.journal().is_file() {
            false => Err(Error::NoRun { dir: dir.0 }),
            true if dir.has_begun()? => Ok(dir),
            true => Err(Error::NotBegun { dir: dir.0 }),
        }
    }

    /// Refuses a directory that is no run and holds more than a start leaves, by the first name of that. A run passes: what is
    /// to be said of it depends on who has it.
    fn refuse_foreign(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.0.is_symlink() => return Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Error::NoDirectory { dir: self.0.clone() });
            }
            Err(e) => return Err(Error::io(&self.0)(e)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>().map_err(Error::io(&self.0))?;
        names.sort();
        // The lock is made first of all: where it is missing, or is somebody else's, so is everything.
        let is_ours = self.is_lock_of_ours();
        let is_left = |name: &String| is_ours && (LEFT.contains(&name.as_str()) || name.starts_with(".tmp"));
        let Some(name) = names.into_iter().find(|name| !is_left(name)) else {
            return Ok(());
        };
        let is_run = || match is_ours {
            true => self.has_begun(),
            false => Ok(records(&self.journal()).is_ok_and(|mut records| matches!(records.next(), Some(Ok(_))))),
        };
        match is_run()? {
            true => Ok(()),
            false => Err(Error::NotARun {
                dir: self.0.clone(),
                name,
            }),
        }
    }

    /// Whether there is a lock with what [`Self::lock`] writes into it; another process may be about to.
    fn is_lock_of_ours(&self) -> bool {
        let path = self.lock_file();
        let is_read = path
            .metadata()
            .is_ok_and(|file| file.is_file() && file.len() < LONGEST_LOCK);
        let is_ours = |text: String| text.is_empty() || serde_json::from_str::<Holder>(&text).is_ok();
        is_read && fs::read_to_string(&path).is_ok_and(is_ours)
    }

    /// Whether the journal has a line, whatever it says.
    fn has_begun(&self) -> Result<bool, Error> {
        let path = self.journal();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(&path)(e)),
        };
        for byte in BufReader::new(file).bytes() {
            if byte.map_err(Error::io(&path))? == b'\n' {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `space.yaml`, the search space with its defaults filled in.
    pub fn space(&self) -> PathBuf {
        self.0.join("space.yaml")
    }

    /// `journal.jsonl`, from which everything else can be made again.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// What a search does right now; there while one runs.
    pub fn live(&self) -> PathBuf {
        self.0.join("live.json")
    }

    /// `cache.sled`, answers by content, where the cache that runs share cannot be had.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache.sled")
    }

    /// `best.yaml`, the best recipe so far.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.yaml")
    }

    /// In place of [`Self::best`] where bare genes are searched.
    pub fn best_genes(&self) -> PathBuf {
        self.0.join("best.json")
    }

    /// What the run is called on a server of messages, and its token there.
    pub fn nats(&self) -> PathBuf {
        self.0.join("nats.json")
    }

    /// `report`, a directory: pages, pictures, tables.
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

    /// The run as its journal tells it, read a line at a time.
    ///
    /// # Errors
    /// The journal cannot be read, or a line of it is no record.
    pub fn run(&self) -> Result<Run, Error> {
        let mut run = Run::default();
        records(&self.journal())?.try_for_each(|record| record.map(|record| run.apply(&record)))?;
        Ok(run)
    }

    /// Takes the run for this process, and leaves word of who has it.
    ///
    /// # Errors
    /// Another process has it.
    pub fn lock(&self, holder: &Holder) -> Result<RunLock, Error> {
        self.refuse_links()?;
        let path = self.lock_file();
        let open = |path: &Path| {
            let mut options = File::options();
            options.create(true).truncate(false).write(true).open(path)
        };
        let mut lock = open(&path).map_err(Error::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(self.busy()),
            Err(fs::TryLockError::Error(source)) => return Err(Error::Io { path, source }),
        }
        let word = serde_json::to_string(holder).expect("a holder is plain data") + "\n";
        lock.set_len(0)
            .and_then(|()| lock.write_all(word.as_bytes()))
            .map_err(Error::io(&path))?;
        let path = self.journal();
        let journal = open(&path).map_err(Error::io(&path))?;
        // Those who look hold it for an instant; nobody else writes, so this waits for nothing longer.
        journal.lock().map_err(Error::io(&path))?;
        Ok(RunLock { lock, journal })
    }

    /// Refuses a directory of which a file is somebody else's, who would lose it to what a run writes there.
    fn refuse_links(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.0).map_err(Error::io(&self.0))? {
            refuse_link(&entry.map_err(Error::io(&self.0))?.path())?;
        }
        Ok(())
    }

    /// Makes the directory of reports, which is no link to another.
    ///
    /// # Errors
    /// It is, or cannot be made.
    pub fn make_report(&self) -> Result<PathBuf, Error> {
        let path = self.report();
        refuse_link(&path)?;
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(path)
    }

    fn busy(&self) -> Error {
        let left = fs::read_to_string(self.lock_file()).unwrap_or_default();
        let holder = serde_json::from_str(&left).map(|holder: Holder| holder.to_string());
        Error::Busy {
            dir: self.0.clone(),
            holder: holder.unwrap_or_else(|_| "another heterosis process".into()),
        }
    }

    /// Whether some process writes to the run now. Looking takes nothing that a writer needs: it is asked for a shared lock
    /// on the journal, which a writer holds besides the lock that it is turned away by.
    pub fn is_locked(&self) -> bool {
        File::open(self.journal()).is_ok_and(|journal| {
            let looked = journal.try_lock_shared();
            matches!(looked, Err(fs::TryLockError::WouldBlock))
        })
    }

    /// As [`Self::replace`], of what is worth nothing after a crash.
    ///
    /// # Errors
    /// Writing or renaming failed.
    pub fn show(&self, file: &Path, text: &str) -> Result<(), Error> {
        self.write(file, text, false).map_err(Error::io(file))
    }

    /// Replaces a file of the run in one step: after a crash it holds the old text or the new one.
    ///
    /// # Errors
    /// Writing or renaming failed.
    pub fn replace(&self, file: &Path, text: &str) -> Result<(), Error> {
        self.write(file, text, true).map_err(Error::io(file))
    }

    fn write(&self, file: &Path, text: &str, is_kept: bool) -> io::Result<()> {
        // Whoever may read the journal may read this: the umask decides, as for every other file.
        let readable = fs::Permissions::from_mode(0o666);
        let mut temporary = tempfile::Builder::new().permissions(readable).tempfile_in(&self.0)?;
        temporary.write_all(text.as_bytes())?;
        if is_kept {
            temporary.as_file().sync_all()?;
        }
        temporary.persist(file)?;
        match is_kept {
            true => sync_dir(file.parent().unwrap_or(&self.0)),
            false => Ok(()),
        }
    }
}

fn refuse_link(path: &Path) -> Result<(), Error> {
    match path.is_symlink() {
        true => Err(Error::Link { path: path.into() }),
        false => Ok(()),
    }
}

/// Some process that holds a run.
#[cfg(any(test, feature = "testing"))]
pub fn holder() -> Holder {
    Holder {
        pid: 7,
        host: "node".into(),
        command: "heterosis search s.yaml".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_at_a_time_and_the_other_is_told_who() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, lock) = RunDir::create(tmp.path(), &holder()).unwrap();
        assert!(dir.is_locked());
        for error in [
            dir.lock(&holder()).unwrap_err(),
            RunDir::create(tmp.path(), &holder()).unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(
                message.contains("`heterosis search s.yaml` (process 7 on node)"),
                "{message}"
            );
        }
        let inherited = lock.lock.try_clone().unwrap(); // as a program has it that is being started
        drop(lock);
        assert!(!dir.is_locked());
        dir.lock(&holder()).unwrap();
        drop(inherited);
    }

    /// `resume` of somebody's run directory, in which `lock` was a link to a file of one's own, wrote over that file.
    #[test]
    fn nothing_is_written_through_a_link() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, lock) = RunDir::create(&tmp.path().join("run"), &holder()).unwrap();
        drop(lock);
        let precious = tmp.path().join("precious");
        for name in ["lock", "journal.jsonl", "engine.log", "cache.sled"] {
            fs::write(&precious, "mine").unwrap();
            let link = dir.path().join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&precious, &link).unwrap();
            let message = dir.lock(&holder()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("is a link"), "{message}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
            fs::remove_file(&link).unwrap();
        }
        std::os::unix::fs::symlink(tmp.path(), dir.report()).unwrap();
        assert!(matches!(dir.make_report(), Err(Error::Link { .. })));
    }

    /// `watch` took the lock five times a second to see whether it was free; a `resume` at that instant was turned away.
    #[test]
    fn looking_takes_nothing_from_a_writer() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, lock) = RunDir::create(tmp.path(), &holder()).unwrap();
        drop(lock);
        let held = File::open(dir.journal()).unwrap();
        held.try_lock_shared().unwrap(); // the instant of a look, stretched
        assert!(!dir.is_locked(), "two who look do not see each other");
        let writer = std::thread::spawn({
            let dir = dir.clone();
            move || dir.lock(&holder()).map(drop)
        });
        drop(held);
        writer.join().unwrap().unwrap();
    }

    /// Missing data, or a kill in the first seconds, left a directory that neither `search` nor `resume` would take.
    #[test]
    fn a_start_that_was_interrupted_can_be_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let run = tmp.path().join("a/b/run");
        for left in ["", "{\"schema_version\":1,\"seq\":0,\"ti"] {
            let (dir, _) = RunDir::create(&run, &holder()).unwrap();
            fs::write(dir.journal(), left).unwrap();
            let message = RunDir::open(&run).unwrap_err().to_string();
            assert!(message.contains("heterosis search SPACE.yaml --run"), "{message}");
        }
        fs::write(run.join("journal.jsonl"), "a line\n").unwrap();
        fs::write(run.join("best.yaml"), "").unwrap();
        assert!(matches!(RunDir::create(&run, &holder()), Err(Error::RunExists { .. })));
        RunDir::open(&run).unwrap();
        assert!(matches!(RunDir::open(tmp.path()), Err(Error::NoRun { .. })));
    }

    /// `search space.yaml --run .` in a folder of somebody's own wrote over his space.yaml and best.yaml without a word.
    #[test]
    fn a_directory_that_is_no_run_is_not_made_one() {
        for (files, named) in [
            (&[("space.yaml", "name: mine\n")][..], "space.yaml"),
            (&[("thesis.tex", "")], "thesis.tex"),
            (&[("lock", "mine"), ("space.yaml", "")], "lock"),
            (&[("lock", ""), ("best.yaml", "mine")], "best.yaml"),
            (&[("lock", ""), ("space.yaml", ""), ("notes.txt", "")], "notes.txt"),
            (&[("journal.jsonl", "{\"day\": 1}\n")], "journal.jsonl"),
            (&[("lock", "{\"pid\": 1}"), ("space.yaml", "")], "lock"),
        ] {
            let tmp = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(tmp.path().join(name), text).unwrap();
            }
            let message = RunDir::create(tmp.path(), &holder()).unwrap_err().to_string();
            assert!(message.contains(&format!("holds {named}")), "{files:?}: {message}");
            for (name, text) in files {
                assert_eq!(fs::read_to_string(tmp.path().join(name)).unwrap(), *text, "{name}");
            }
            assert_eq!(
                fs::read_dir(tmp.path()).unwrap().count(),
                files.len(),
                "nothing is put beside them"
            );
        }
        // `--run FILE` said "Not a directory (os error 20)", a link to nothing "File exists".
        let tmp = tempfile::tempdir().unwrap();
        let (file, link) = (tmp.path().join("file"), tmp.path().join("link"));
        fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(tmp.path().join("nothing"), &link).unwrap();
        for place in [file, link] {
            let message = RunDir::create(&place, &holder()).unwrap_err().to_string();
            assert!(message.contains("a run is a directory"), "{message}");
        }
        // What a start of ours leaves is no hindrance.
        let tmp = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let (dir, _) = RunDir::create(tmp.path(), &holder()).unwrap();
            dir.replace(&dir.space(), "name: t\n").unwrap();
            fs::write(tmp.path().join(".tmpAbCdEf"), "half").unwrap();
        }
    }

    /// Of two searches in one second, the second failed.
    #[test]
    fn two_runs_of_one_name_stand_beside_each_other() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("runs/demo-20261128-162749");
        let names: Vec<String> = (0..3)
            .map(|_| RunDir::create_beside(&path, &holder()).unwrap().0)
            .map(|dir| dir.path().file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        let name = "demo-20261128-162749";
        assert_eq!(names, [name.to_string(), format!("{name}-2"), format!("{name}-3")]);
    }

    /// space.yaml and best.yaml could be read by their owner only, unlike the journal beside them.
    #[test]
    fn a_replaced_file_has_the_usual_mode() {
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(tmp.path(), &holder()).unwrap();
        dir.replace(&dir.space(), "name: t\n").unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.space()), mode(dir.journal()));
    }
}
