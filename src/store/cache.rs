//! Answers by content key, so that nothing is asked twice. The only file that names sled.
//!
//! The cache may vanish or be damaged at any time: opening it then gives an empty one, and the caller fills it again
//! from the journal.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::Error;

/// A persistent map from content keys to JSON values.
#[derive(Debug)]
pub struct Cache {
    db: sled::Db,
    path: PathBuf,
}

impl Cache {
    /// Opens the cache; one that is missing or damaged is made anew, empty.
    ///
    /// # Errors
    /// The folder cannot be written at all.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // sled reports some damage as an error and some as a panic.
        let open = || catch_unwind(AssertUnwindSafe(|| sled::open(path)));
        let first = open();
        let opened = match first {
            Ok(Ok(db)) if db.iter().all(|entry| entry.is_ok()) => Ok(Ok(db)),
            _ => {
                let damaged = path.exists();
                if damaged {
                    tracing::warn!("{} is damaged; it is rebuilt from the journal", path.display());
                    let removed = if path.is_dir() {
                        std::fs::remove_dir_all(path)
                    } else {
                        std::fs::remove_file(path)
                    };
                    removed.map_err(Error::io(path))?;
                }
                open()
            }
        };
        let fail = |reason: String| Error::Cache {
            path: path.to_path_buf(),
            reason,
        };
        match opened {
            Ok(Ok(db)) => Ok(Self {
                db,
                path: path.to_path_buf(),
            }),
            Ok(Err(e)) => Err(fail(e.to_string())),
            Err(_) => Err(fail("it panicked".into())),
        }
    }

    /// The value under a key; one that cannot be read any more counts as absent.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let bytes = self.db.get(key).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.db.contains_key(key).unwrap_or(false)
    }

    /// # Errors
    /// The disk is full or gone.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value).expect("a cached value is plain data");
        self.db.insert(key, bytes).map(drop).map_err(|e| Error::Cache {
            path: self.path.clone(),
            reason: e.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_reopening() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cache.sled");
        let cache = Cache::open(&path).unwrap();
        cache.put("k", &vec![1, 2]).unwrap();
        drop(cache);
        let cache = Cache::open(&path).unwrap();
        assert_eq!(cache.get::<Vec<i32>>("k"), Some(vec![1, 2]));
        assert_eq!(cache.get::<Vec<i32>>("other"), None);
    }

    /// Whatever is done to its files, opening gives a cache that works.
    #[test]
    fn a_damaged_cache_is_made_anew() {
        for damage in ["garbage", "truncate", "file"] {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("cache.sled");
            let cache = Cache::open(&path).unwrap();
            for i in 0..100 {
                cache.put(&i.to_string(), &"x".repeat(1000)).unwrap();
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
            let cache = Cache::open(&path).unwrap();
            cache.put("new", &1).unwrap();
            assert_eq!(cache.get::<i32>("new"), Some(1), "{damage}");
        }
    }
}
