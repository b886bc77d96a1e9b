//! Answers by content key, so that nothing is asked twice. The only file that names sled.
//!
//! The cache may vanish, be damaged or run out of room at any time, and no run ends for that: what it lost is filled in again
//! from the journal, and what it cannot take is kept in memory.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use serde::{Serialize, de::DeserializeOwned};

/// A map from content keys to JSON values, on disk as long as the disk takes it.
#[derive(Debug)]
pub struct Cache {
    db: Option<sled::Db>,
    path: PathBuf,
    /// What is not on disk.
    kept: Mutex<HashMap<String, Vec<u8>>>,
}

/// Why a cache does not open.
enum Unopened {
    /// What it holds cannot be read.
    Damaged,
    /// The disk is full, there are too many open files, another process has it: it may be as good as ever.
    Machine(String),
}

impl Cache {
    /// Opens the cache. One that is missing or damaged is made anew, empty; where the machine has no room for one, it lives
    /// in memory.
    pub fn open(path: &Path) -> Self {
        let opened = match open(path) {
            Err(Unopened::Damaged) => {
                tracing::warn!("{} is damaged; it is rebuilt from the journal", path.display());
                remove(path).and_then(|()| open(path))
            }
            opened => opened,
        };
        let db = match opened {
            Ok(db) => Some(db),
            Err(e) => {
                let reason = match e {
                    Unopened::Damaged => "it cannot be made anew".into(),
                    Unopened::Machine(reason) => reason,
                };
                tracing::warn!(
                    "{}: the cache cannot be used ({reason}); the run goes on without it",
                    path.display()
                );
                None
            }
        };
        Self {
            db,
            path: path.to_path_buf(),
            kept: Mutex::default(),
        }
    }

    /// One that leaves nothing behind.
    pub fn in_memory() -> Self {
        Self {
            db: None,
            path: PathBuf::new(),
            kept: Mutex::default(),
        }
    }

    /// The value under a key; one that cannot be read any more counts as absent.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        if let Some(bytes) = self.kept().get(key) {
            return serde_json::from_slice(bytes).ok();
        }
        let bytes = self.db.as_ref()?.get(key).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn contains(&self, key: &str) -> bool {
        let on_disk = || self.db.as_ref().is_some_and(|db| db.contains_key(key).unwrap_or(false));
        self.kept().contains_key(key) || on_disk()
    }

    /// Keeps a value: on disk, or while that fails in memory. A disk without room is no reason to lose an answer, and none to
    /// blame a candidate.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) {
        let bytes = serde_json::to_vec(value).expect("a cached value is plain data");
        let insert = |db: &sled::Db| catch_unwind(AssertUnwindSafe(|| db.insert(key, bytes.clone())));
        let reason = match self.db.as_ref().map(insert) {
            Some(Ok(Ok(_))) => return,
            Some(Ok(Err(e))) => Some(e.to_string()),
            Some(Err(_)) => Some("it panicked".into()),
            None => None,
        };
        let mut kept = self.kept();
        if let (Some(reason), true) = (reason, kept.is_empty()) {
            tracing::warn!(
                "{}: the cache cannot be written ({reason}); the run goes on, and keeps in memory what does not fit there",
                self.path.display()
            );
        }
        kept.insert(key.into(), bytes);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// sled reports some damage as an error and some as a panic.
fn open(path: &Path) -> Result<sled::Db, Unopened> {
    let whole = || -> Result<sled::Db, sled::Error> {
        let db = sled::open(path)?;
        for entry in db.iter() {
            entry?;
        }
        Ok(db)
    };
    match catch_unwind(AssertUnwindSafe(whole)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(e))) if is_machines(&e) => Err(Unopened::Machine(e.to_string())),
        _ => Err(Unopened::Damaged),
    }
}

/// What the operating system itself said, unless it says that something else lies there; and the lock of another process,
/// which sled reports in words of its own.
fn is_machines(e: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidInput, IsADirectory, NotADirectory, UnexpectedEof};
    let elsewhere = [AlreadyExists, InvalidInput, IsADirectory, NotADirectory, UnexpectedEof];
    let is_systems = e.raw_os_error().is_some() && !elsewhere.contains(&e.kind());
    is_systems || e.to_string().contains("lock")
}

fn remove(path: &Path) -> Result<(), Unopened> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    removed.map_err(|e| Unopened::Machine(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_reopening() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cache.sled");
        let cache = Cache::open(&path);
        cache.put("k", &vec![1, 2]);
        drop(cache);
        let cache = Cache::open(&path);
        assert_eq!(cache.get::<Vec<i32>>("k"), Some(vec![1, 2]));
        assert_eq!(cache.get::<Vec<i32>>("other"), None);
    }

    /// Whatever is done to its files, opening gives a cache that works.
    #[test]
    fn a_damaged_cache_is_made_anew() {
        for damage in ["garbage", "truncate", "file"] {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("cache.sled");
            let cache = Cache::open(&path);
            for i in 0..100 {
                cache.put(&i.to_string(), &"x".repeat(1000));
            }
            drop(cache);
            let db = path.join("db");
            let bytes = std::fs::read(&db).unwrap();
            match damage {
                "garbage" => std::fs::write(&db, vec![0xA5; bytes.len()]).unwrap(),
                "truncate" => std::fs::write(&db, &bytes[..bytes.len() / 3]).unwrap(),
                _ => {
                    std::fs::remove_dir_all(&path).unwrap();
                    std::fs::write(&path, "not a folder").unwrap();
                }
            }
            let cache = Cache::open(&path);
            cache.put("new", &1);
            assert_eq!(cache.get::<i32>("new"), Some(1), "{damage}");
        }
    }

    /// Another process had the cache, or there were too many open files, and it was deleted for that.
    #[test]
    fn a_cache_that_is_not_damaged_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cache.sled");
        let first = Cache::open(&path);
        first.put("k", &1);
        let second = Cache::open(&path);
        second.put("other", &2);
        assert_eq!((second.get::<i32>("k"), second.get::<i32>("other")), (None, Some(2)));
        drop(first);
        assert_eq!(Cache::open(&path).get::<i32>("k"), Some(1));
    }

    /// A full disk under the cache became a verdict on the candidate whose answer did not fit.
    #[test]
    fn where_there_is_no_room_for_a_cache_answers_are_kept_all_the_same() {
        let cache = Cache::open(Path::new("/proc/no-such-place/cache.sled"));
        cache.put("k", &1);
        assert!(cache.contains("k"));
        assert_eq!(cache.get::<i32>("k"), Some(1));
    }
}
