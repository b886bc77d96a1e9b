//! Answers by content key, so that nothing is asked twice, whatever run asks. The only file that names sled.
//!
//! Runs share one cache in the user's cache directory; one process has it at a time, and a second search keeps its own in its
//! run directory. It may vanish, be damaged or run out of room at any time, and no run ends for that: it is never the truth, what
//! it lost is filled in again from the journal, and what it cannot take is kept in memory.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    thread,
    time::Duration,
};

use heterosis_unwind::caught;
use serde::{Serialize, de::DeserializeOwned};

use super::Error;

/// What the entries stand in. Another layout of them gets another name, and what stands under this one is forgotten.
const TREE: &str = "answers 2";

/// Memory for pages of the file, in bytes.
const PAGES_BYTES: u64 = 64 << 20;

/// A shared cache that has grown beyond this is pruned to half of it when it is opened for a run.
const MOST_BYTES: u64 = 4 << 30;

/// How long a cache is waited for that another process has.
const AN_INSTANT: Duration = Duration::from_millis(400);

/// A day's number: since 1970, in UTC.
pub type Day = u32;

/// A map from content keys to JSON values, on disk as long as the disk takes it.
#[derive(Debug)]
pub struct Cache {
    disk: Option<Disk>,
    path: PathBuf,
    /// What is not on disk.
    kept: Mutex<HashMap<String, Vec<u8>>>,
}

/// The part on disk.
#[derive(Debug)]
struct Disk {
    db: sled::Db,
    /// Each value begins with the day when it was used last, in four bytes.
    tree: sled::Tree,
    today: Day,
}

/// Where answers are kept.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Shared by all runs; none if it is not wanted.
    pub shared: Option<&'a Path>,
    /// The run's own, where the shared one cannot be had.
    pub own: &'a Path,
    /// With which every entry that is used or put is marked.
    pub today: Day,
}

/// Why a cache does not open.
enum Unopened {
    /// What it holds cannot be read.
    Damaged,
    /// Another process has it.
    Taken,
    /// The disk is full, there are too many open files: it may be as good as ever.
    Machine(String),
}

impl Cache {
    /// Opens the cache that all runs share, or where that cannot be had the run's own.
    pub fn of_run(places: Places<'_>) -> Self {
        let Some(path) = places.shared else {
            return Self::open(places.own, places.today);
        };
        let reason = match opened(path, places.today) {
            Ok(disk) => return Self::on(bounded(path, disk, places.today, MOST_BYTES), path),
            Err(Unopened::Taken) => "another heterosis process has it".to_owned(),
            Err(Unopened::Damaged) => "it is damaged, and cannot be made anew".to_owned(),
            Err(Unopened::Machine(reason)) => reason,
        };
        tracing::warn!(
            "{}: the answers of earlier runs cannot be used ({reason}); this run goes without them and keeps its own in {}",
            path.display(),
            places.own.display()
        );
        Self::open(places.own, places.today)
    }

    /// Opens a cache of one's own. One that is missing or damaged is made anew, empty; where the machine has no room for one, it
    /// lives in memory.
    pub fn open(path: &Path, today: Day) -> Self {
        match opened(path, today) {
            Ok(disk) => Self::on(Some(disk), path),
            Err(e) => {
                let reason = match e {
                    Unopened::Damaged => "it cannot be made anew".into(),
                    Unopened::Taken => "another heterosis process has it".into(),
                    Unopened::Machine(reason) => reason,
                };
                tracing::warn!(
                    "{}: the cache cannot be used ({reason}); the run goes on without it",
                    path.display()
                );
                Self::on(None, path)
            }
        }
    }

    /// One that leaves nothing behind.
    pub fn in_memory() -> Self {
        Self::on(None, Path::new(""))
    }

    fn on(disk: Option<Disk>, path: &Path) -> Self {
        Self {
            disk,
            path: path.to_path_buf(),
            kept: Mutex::default(),
        }
    }

    /// The value under a key; one that cannot be read any more counts as absent.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        if let Some(bytes) = self.kept().get(key) {
            return serde_json::from_slice(bytes).ok();
        }
        let bytes = self.disk.as_ref()?.get(key)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Whether there is an entry, readable or not; it does not count as used.
    pub fn contains(&self, key: &str) -> bool {
        let on_disk = || self.disk.as_ref().is_some_and(|disk| disk.contains(key));
        self.kept().contains_key(key) || on_disk()
    }

    /// Keeps a value: on disk, or while that fails in memory. A disk without room is no reason to lose an answer, and none to
    /// blame a candidate.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) {
        let bytes = serde_json::to_vec(value).expect("a cached value is plain data");
        let reason = match &self.disk {
            None => None,
            Some(disk) => match disk.put(key, &bytes) {
                Ok(()) => return,
                Err(reason) => Some(reason),
            },
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

impl Disk {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let found = caught(|| self.tree.get(key));
        let entry = found.ok()?.ok()??;
        let (day, value) = dated(&entry)?;
        if day != self.today {
            // Whoever is used stays longest. Failing to note that costs nothing today.
            let _ = self.put(key, value);
        }
        Some(value.to_vec())
    }

    fn contains(&self, key: &str) -> bool {
        caught(|| self.tree.contains_key(key)).is_ok_and(|found| found.unwrap_or(false))
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let entry = [&self.today.to_le_bytes()[..], value].concat();
        match caught(|| self.tree.insert(key, entry)) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(panic) => Err(panic),
        }
    }
}

/// The day and the value of an entry.
fn dated(entry: &[u8]) -> Option<(Day, &[u8])> {
    let (day, value) = entry.split_first_chunk::<4>()?;
    Some((Day::from_le_bytes(*day), value))
}

/// What a cache holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Entries: each holds all samples of one question.
    pub answers: u64,
    /// Of keys and values; files are larger.
    pub bytes: u64,
    /// On disk.
    pub size_bytes: u64,
    /// The day when its oldest entry was used last.
    pub oldest: Option<Day>,
    /// Bytes by the day when they were used last.
    by_day: BTreeMap<Day, u64>,
}

/// Looks into a cache; nothing if there is none.
///
/// # Errors
/// Another process has it, or it cannot be read.
pub fn look(path: &Path, today: Day) -> Result<Holds, Error> {
    match path.exists() {
        false => Ok(Holds::default()),
        true => holds(&open(path, today).map_err(|e| unusable(path, e))?).map_err(|e| unusable(path, of(&e))),
    }
}

/// Forgets what was not used since a day, and of the rest the oldest until `most_bytes` are left. Gives what it holds then.
///
/// # Errors
/// Another process has it, or there is no room for a copy of what stays.
pub fn prune(path: &Path, today: Day, since: Day, most_bytes: u64) -> Result<Holds, Error> {
    if !path.exists() {
        return Ok(Holds::default());
    }
    let disk = open(path, today).map_err(|e| unusable(path, e))?;
    let kept = rewrite(path, disk, today, since, most_bytes).map_err(|e| unusable(path, e))?;
    holds(&kept).map_err(|e| unusable(path, of(&e)))
}

/// Removes a cache; whether there was one.
///
/// # Errors
/// Another process has it, or it cannot be removed.
pub fn clear(path: &Path, today: Day) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    match open(path, today) {
        Ok(_) | Err(Unopened::Damaged) => {}
        Err(e) => return Err(unusable(path, e)),
    }
    remove(path).map_err(|e| unusable(path, e))?;
    Ok(true)
}

fn unusable(path: &Path, e: Unopened) -> Error {
    let reason = match e {
        Unopened::Taken => "another heterosis process has it; wait for its end".into(),
        Unopened::Damaged => "it is damaged; `heterosis cache clear` removes it".into(),
        Unopened::Machine(reason) => reason,
    };
    Error::Cache {
        path: path.into(),
        reason,
    }
}

fn holds(disk: &Disk) -> Result<Holds, sled::Error> {
    let mut holds = Holds {
        size_bytes: disk.db.size_on_disk()?,
        ..Holds::default()
    };
    for entry in &disk.tree {
        let (key, entry) = entry?;
        let bytes = (key.len() + entry.len()) as u64;
        holds.answers += 1;
        holds.bytes += bytes;
        *holds.by_day.entry(dated(&entry).map_or(0, |(day, _)| day)).or_default() += bytes;
    }
    holds.oldest = holds.by_day.keys().next().copied();
    Ok(holds)
}

/// A cache that has grown too large is pruned to half of that; where it cannot be, it stays as it is.
fn bounded(path: &Path, disk: Disk, today: Day, most_bytes: u64) -> Option<Disk> {
    match disk.db.size_on_disk() {
        Ok(size) if size > most_bytes => {
            let halved = rewrite(path, disk, today, 0, most_bytes / 2);
            halved.or_else(|_| open(path, today)).ok()
        }
        _ => Some(disk),
    }
}

/// sled gives no room back to the disk, so what stays is written into another one, which then takes its place.
fn rewrite(path: &Path, disk: Disk, today: Day, since: Day, most_bytes: u64) -> Result<Disk, Unopened> {
    let first = first_day(&holds(&disk).map_err(|e| of(&e))?, since, most_bytes);
    let (fresh, old) = (path.with_extension("sled.new"), path.with_extension("sled.old"));
    remove_if_there(&fresh)?;
    remove_if_there(&old)?;
    let copy = open(&fresh, today)?;
    for entry in &disk.tree {
        let (key, entry) = entry.map_err(|e| of(&e))?;
        if dated(&entry).is_some_and(|(day, _)| day >= first) {
            copy.tree.insert(key, entry).map_err(|e| of(&e))?;
        }
    }
    copy.db.flush().map_err(|e| of(&e))?;
    drop((copy, disk));
    let machine = |e: io::Error| Unopened::Machine(e.to_string());
    fs::rename(path, &old)
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(machine)?;
    remove_if_there(&old)?;
    open(path, today)
}

/// The first day whose entries stay.
fn first_day(holds: &Holds, since: Day, most_bytes: u64) -> Day {
    let mut bytes = 0;
    let stays = |(_, of_day): &(&Day, &u64)| {
        bytes += **of_day;
        bytes <= most_bytes
    };
    let newest_first = holds.by_day.iter().rev().take_while(stays);
    newest_first.last().map_or(Day::MAX, |(day, _)| *day).max(since)
}

/// Opens a cache, and makes one that is damaged anew.
fn opened(path: &Path, today: Day) -> Result<Disk, Unopened> {
    match open(path, today) {
        Err(Unopened::Damaged) => {
            tracing::warn!("{} is damaged; it is made anew", path.display());
            remove(path).and_then(|()| open(path, today))
        }
        opened => opened,
    }
}

/// Opens a cache as soon as nobody has it. One that was closed a moment ago may be held an instant longer: by a process that this
/// one started meanwhile, which has every open file until it becomes another program.
fn open(path: &Path, today: Day) -> Result<Disk, Unopened> {
    let mut left = AN_INSTANT;
    loop {
        match open_now(path, today) {
            Err(Unopened::Taken) if !left.is_zero() => {
                let pause = left.min(Duration::from_millis(20));
                thread::sleep(pause);
                left -= pause;
            }
            opened => return opened,
        }
    }
}

/// sled reports some damage as an error and some as a panic.
fn open_now(path: &Path, today: Day) -> Result<Disk, Unopened> {
    let open = || -> Result<Disk, sled::Error> {
        let db = sled::Config::new().path(path).cache_capacity(PAGES_BYTES).open()?;
        let tree = db.open_tree(TREE)?;
        // What earlier versions kept.
        db.clear()?;
        // Damage shows when pages are read: at the first and last of them now, at others when they are asked for.
        tree.first()?;
        tree.last()?;
        Ok(Disk { db, tree, today })
    };
    match caught(open) {
        Ok(opened) => opened.map_err(|e| of(&e)),
        Err(_) => Err(Unopened::Damaged),
    }
}

/// What an error says of a cache: the operating system's own word, unless it says that something else lies there, is no damage;
/// nor is the lock of another process, which sled reports in words of its own.
fn of(e: &sled::Error) -> Unopened {
    use io::ErrorKind::{AlreadyExists, InvalidInput, IsADirectory, NotADirectory, UnexpectedEof};
    let sled::Error::Io(e) = e else {
        return Unopened::Damaged;
    };
    let elsewhere = [AlreadyExists, InvalidInput, IsADirectory, NotADirectory, UnexpectedEof];
    match e.raw_os_error().is_some() && !elsewhere.contains(&e.kind()) {
        _ if e.to_string().contains("lock") => Unopened::Taken,
        true => Unopened::Machine(e.to_string()),
        false => Unopened::Damaged,
    }
}

fn remove_if_there(path: &Path) -> Result<(), Unopened> {
    match path.exists() {
        true => remove(path),
        false => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Unopened> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
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
        let cache = Cache::open(&path, 1);
        cache.put("k", &vec![1, 2]);
        drop(cache);
        let cache = Cache::open(&path, 1);
        assert_eq!(cache.get::<Vec<i32>>("k"), Some(vec![1, 2]));
        assert_eq!(cache.get::<Vec<i32>>("other"), None);
    }

    /// Whatever is done to its files, opening gives a cache that works.
    #[test]
    fn a_damaged_cache_is_made_anew() {
        for damage in ["garbage", "truncate", "file"] {
            let tmp = tempfile::tempdir().unwrap();
            let path = tmp.path().join("cache.sled");
            let cache = Cache::open(&path, 1);
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
            let cache = Cache::open(&path, 1);
            cache.put("new", &1);
            assert_eq!(cache.get::<i32>("new"), Some(1), "{damage}");
        }
    }

    /// Another process had the cache, or there were too many open files, and it was deleted for that.
    #[test]
    fn a_cache_that_is_not_damaged_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cache.sled");
        let first = Cache::open(&path, 1);
        first.put("k", &1);
        let second = Cache::open(&path, 1);
        second.put("other", &2);
        assert_eq!((second.get::<i32>("k"), second.get::<i32>("other")), (None, Some(2)));
        drop(first);
        assert_eq!(Cache::open(&path, 1).get::<i32>("k"), Some(1));
    }

    /// A full disk under the cache became a verdict on the candidate whose answer did not fit.
    #[test]
    fn where_there_is_no_room_for_a_cache_answers_are_kept_all_the_same() {
        let cache = Cache::open(Path::new("/proc/no-such-place/cache.sled"), 1);
        cache.put("k", &1);
        assert!(cache.contains("k"));
        assert_eq!(cache.get::<i32>("k"), Some(1));
    }

    /// Every run asked the same parents the same questions again.
    #[test]
    fn runs_share_what_was_answered_and_who_comes_second_goes_without() {
        let tmp = tempfile::tempdir().unwrap();
        let (shared, own) = (tmp.path().join("deep/answers.sled"), tmp.path().join("run/cache.sled"));
        let places = Places {
            shared: Some(&shared),
            own: &own,
            today: 1,
        };
        let first = Cache::of_run(places);
        first.put("k", &1);
        let second = Cache::of_run(places);
        assert_eq!(second.get::<i32>("k"), None);
        second.put("k", &2);
        assert!(own.exists());
        assert!(
            look(&shared, 1)
                .unwrap_err()
                .to_string()
                .contains("another heterosis process")
        );
        drop((first, second));
        assert_eq!(Cache::of_run(places).get::<i32>("k"), Some(1));
    }

    #[test]
    fn what_was_not_used_for_long_goes_first() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("answers.sled");
        for (day, keys) in [(1, ["a", "b"]), (5, ["c", "d"])] {
            let cache = Cache::open(&path, day);
            keys.iter().for_each(|key| cache.put(key, &"x".repeat(1000)));
        }
        // Read on a later day: used again.
        assert!(Cache::open(&path, 9).get::<String>("a").is_some());
        let whole = look(&path, 9).unwrap();
        assert_eq!((whole.answers, whole.oldest), (4, Some(1)));

        assert_eq!(prune(&path, 9, 5, u64::MAX).unwrap().answers, 3);
        let left = Cache::open(&path, 9);
        assert!(!left.contains("b") && ["a", "c", "d"].iter().all(|key| left.contains(key)));
        drop(left);

        assert_eq!(prune(&path, 9, 0, 1500).unwrap().answers, 1);
        assert!(Cache::open(&path, 9).contains("a"));
        assert_eq!((clear(&path, 9).unwrap(), clear(&path, 9).unwrap()), (true, false));
        assert_eq!(look(&path, 9).unwrap(), Holds::default());
    }

    /// A program that is started inherits every open file for an instant, and with it the lock of a cache that is closed meanwhile:
    /// "another heterosis process has it".
    #[test]
    fn a_cache_that_a_starting_program_holds_is_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("answers.sled");
        Cache::open(&path, 1).put("k", &1);
        let held = fs::File::open(path.join("db")).unwrap();
        held.lock().unwrap();
        let releases = thread::spawn(move || {
            thread::sleep(AN_INSTANT / 4);
            drop(held);
        });
        assert_eq!(look(&path, 1).unwrap().answers, 1);
        releases.join().unwrap();
    }

    #[test]
    fn a_cache_that_has_grown_too_large_is_halved() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("answers.sled");
        for day in 1..=8 {
            Cache::open(&path, day).put(&day.to_string(), &"x".repeat(100_000));
        }
        let size = look(&path, 9).unwrap().size_bytes;
        assert!(size > 800_000, "{size}");
        drop(bounded(&path, open(&path, 9).ok().unwrap(), 9, 800_000));
        let days: Vec<Day> = look(&path, 9).unwrap().by_day.into_keys().collect();
        assert_eq!(days, [6, 7, 8]);
    }
}
