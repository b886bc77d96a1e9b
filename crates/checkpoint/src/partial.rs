//! The directory in which an output is built, beside it and hidden: `.NAME.XXXXXX.partial`.
//!
//! It is locked for as long as the process that builds it lives. So whoever builds the same output next can tell what was
//! left behind by a process that was killed from what another one is writing now, and removes the former.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const SUFFIX: &str = ".partial";
/// Where what is replaced lies for a moment, on a file system that cannot exchange two names.
const OLD: &str = "old";

/// A directory that is being filled; dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(super) struct Partial {
    dir: TempDir,
    /// Held, and released by the system however the process ends. `None` where directories cannot be locked.
    _lock: Option<File>,
}

impl Partial {
    /// Makes one for `out`, on the same file system so that one rename completes it, and removes what was left behind for
    /// the same output.
    pub(super) fn beside(out: &Path) -> io::Result<Self> {
        remove_abandoned(out);
        loop {
            let dir = temporary_sibling(out)?;
            let lock = File::open(dir.path()).ok();
            let taken = lock.as_ref().map(File::try_lock);
            // Somebody else who cleans up may take a directory for abandoned that is not locked yet.
            if matches!(taken, Some(Err(TryLockError::WouldBlock))) || !dir.path().exists() {
                continue;
            }
            return Ok(Self { dir, _lock: lock });
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the finished directory the name `out`; with `replace`, what is there goes, and only after that.
    pub(super) fn take_the_place_of(self, out: &Path, replace: bool) -> io::Result<()> {
        match replace && out.exists() {
            true => self.exchange(out)?,
            false => {
                fs::rename(self.dir.path(), out)?;
                let _ = self.dir.keep(); // it has another name now: nothing to remove
            }
        }
        if let Ok(parent) = File::open(parent_of(out)) {
            parent.sync_all().ok(); // not every file system can; the files themselves are on disk
        }
        Ok(())
    }

    fn exchange(self, out: &Path) -> io::Result<()> {
        if !exchange_names(self.dir.path(), out) {
            let aside = temporary_sibling(out)?;
            let old = aside.path().join(OLD);
            fs::rename(out, &old)?;
            if let Err(e) = fs::rename(self.dir.path(), out) {
                fs::rename(&old, out)?;
                return Err(e);
            }
            let _ = self.dir.keep();
            return remove(aside);
        }
        remove(self.dir)
    }
}

/// What was replaced may be in use by a process that denies its removal; the new output is in place all the same.
fn remove(dir: TempDir) -> io::Result<()> {
    let path = dir.path().to_owned();
    if let Err(e) = dir.close() {
        tracing::warn!("{}: what was replaced cannot be removed: {e}", path.display());
    }
    Ok(())
}

/// Two directories change names in one step, where the system can do that.
fn exchange_names(a: &Path, b: &Path) -> bool {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
    }
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    {
        let _ = (a, b);
        false
    }
}

fn parent_of(out: &Path) -> &Path {
    out.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn prefix(out: &Path) -> String {
    let name = out
        .file_name()
        .map_or_else(Default::default, |name| name.to_string_lossy());
    format!(".{name}.")
}

fn temporary_sibling(out: &Path) -> io::Result<TempDir> {
    let prefix = prefix(out);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // as any directory: the umask decides
    builder.tempdir_in(parent_of(out))
}

/// Removes the directories of this output that no process holds any more. What cannot be removed is left alone: it only
/// takes room.
fn remove_abandoned(out: &Path) {
    for dir in siblings(out) {
        let Ok(lock) = File::open(&dir) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        // Killed between two renames: the output that was to be replaced has no other place than here.
        if !out.exists() && dir.join(OLD).is_dir() && fs::rename(dir.join(OLD), out).is_err() {
            continue;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => tracing::info!("removed {}, which was left behind unfinished", dir.display()),
            Err(e) => tracing::debug!("{}: {e}", dir.display()),
        }
    }
}

/// Directories beside `out` that are called as ours are.
fn siblings(out: &Path) -> Vec<PathBuf> {
    let prefix = prefix(out);
    let is_ours = |name: &str| {
        let middle = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        middle.is_some_and(|m| m.len() == 6 && m.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let entries = fs::read_dir(parent_of(out)).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| is_ours(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// A merge that was killed left a directory of the model's size behind, and so did the next one.
    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_is_not() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        let alive = Partial::beside(&out).unwrap();
        fs::create_dir(home.path().join(".model.aB3xYz.partial")).unwrap();
        fs::write(home.path().join(".model.aB3xYz.partial/shard-0.part"), "weights").unwrap();
        for not_ours in [
            ".other.aB3xYz.partial",
            ".model.x.aB3xYz.partial",
            ".model.partial",
            "model.aB3xYz.partial",
        ] {
            fs::create_dir(home.path().join(not_ours)).unwrap();
        }
        let next = Partial::beside(&out).unwrap();
        assert!(alive.path().exists() && next.path().exists());
        assert_eq!(entries(home.path()).len(), 6);
        assert!(!home.path().join(".model.aB3xYz.partial").exists());
    }

    /// Where names cannot be exchanged there are two renames, and a kill between them took the old export away.
    #[test]
    fn an_output_that_was_on_its_way_out_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        fs::create_dir_all(home.path().join(".model.aB3xYz.partial/old")).unwrap();
        fs::write(home.path().join(".model.aB3xYz.partial/old/config.json"), "{}").unwrap();
        let next = Partial::beside(&out).unwrap();
        assert_eq!(entries(&out), ["config.json"]);
        drop(next);
        assert_eq!(entries(home.path()), ["model"]);
    }

    #[test]
    fn what_is_replaced_is_there_until_the_new_one_is() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("model");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("old.txt"), "").unwrap();
        let new = Partial::beside(&out).unwrap();
        fs::write(new.path().join("new.txt"), "").unwrap();
        assert_eq!(entries(&out), ["old.txt"]);
        new.take_the_place_of(&out, true).unwrap();
        assert_eq!(entries(&out), ["new.txt"]);
        assert_eq!(entries(home.path()), ["model"]);
    }
}
