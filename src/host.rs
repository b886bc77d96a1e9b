//! The clock, the environment and the folders of this machine: read here, and passed to whoever needs them.
//!
//! A [`Session`](crate::session::Session) never looks at a clock or a variable itself: it is given a [`Host`]. A test, or a
//! program with settings of its own, makes another one.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    checkpoint::HubOptions,
    eval::DataDirs,
    store::{Day, Holder},
};

/// Sends a JSON document to an address, with a token if there is one, and gives the answer, or says why there is none; so long
/// is waited for its beginning.
pub type Post = Arc<dyn Fn(&str, Option<&str>, &str, Duration) -> Posted + Send + Sync>;

/// What an address answers, or why it does not.
pub type Posted = Result<Vec<u8>, String>;

/// Looks up a variable of the environment.
pub type Variable = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a session must know of the world.
#[derive(Clone)]
pub struct Host {
    /// Milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// A clock that never goes back, from any start.
    pub since_start: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Where benchmark data may lie.
    pub data: DataDirs,
    /// Where answers are kept that runs share; none if they are not to be.
    pub answers: Option<PathBuf>,
    /// Where models come from that are named `hf:…`.
    pub hub: HubOptions,
    /// What a variable of the environment says: a key that a file names and does not hold.
    pub variable: Variable,
    /// Sends JSON to an address.
    pub post: Post,
    /// Who writes to a run, for those who meet its lock.
    pub holder: Holder,
    /// Where weights are handed to another program: in memory where there is such a place.
    pub scratch: PathBuf,
    /// What it computes with, for people: system, processor, memory, graphics cards.
    pub machine: String,
}

impl Host {
    /// This machine's clock, and what the usual variables say: `HETEROSIS_DATA`, `HETEROSIS_CACHE`, `XDG_CACHE_HOME`,
    /// those of the Hub.
    pub fn this_machine() -> Self {
        Self {
            now_ms: Arc::new(now_ms),
            since_start: Arc::new(stopwatch()),
            data: data_dirs(),
            answers: answers_cache(),
            hub: HubOptions::from_variables(variable),
            variable: Arc::new(variable),
            post: post(),
            holder: holder(),
            scratch: scratch(),
            machine: machine(),
        }
    }
}

/// By HTTP; an answer is read to its first mebibyte.
#[cfg(feature = "hub")]
pub fn post() -> Post {
    const LONGEST_ANSWER: u64 = 1 << 20;
    let http = crate::checkpoint::http::Http::default();
    Arc::new(move |url, token, json, wait| {
        http.post_json(url, token, json, wait, LONGEST_ANSWER)
            .map_err(|e| e.to_string())
    })
}

#[cfg(not(feature = "hub"))]
pub fn post() -> Post {
    Arc::new(|url, _, _, _| {
        Err(format!(
            "{url}: this heterosis was built without the feature 'hub', and cannot send anything"
        ))
    })
}

/// A file system in memory, or else the folder of temporary files.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.into(),
        false => std::env::temp_dir(),
    }
}

/// A variable of the environment; an empty one counts as none.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// A clock that never goes back.
pub fn stopwatch() -> impl Fn() -> Duration {
    let start = Instant::now();
    move || start.elapsed()
}

/// The local cache of benchmark data.
pub fn data_cache() -> PathBuf {
    cache_dir().join("data")
}

/// Where answers are kept that runs share: the folder that `HETEROSIS_CACHE` names, nowhere if that is `off`, else the user's
/// cache directory.
pub fn answers_cache() -> Option<PathBuf> {
    match variable("HETEROSIS_CACHE").as_deref() {
        Some("off") => None,
        Some(dir) => Some(PathBuf::from(dir).join("answers.sled")),
        None => Some(cache_dir().join("answers.sled")),
    }
}

/// Where compiled GPU kernels are kept.
pub fn kernels_cache() -> PathBuf {
    cache_dir().join("kernels")
}

/// What can be made again, in the user's cache directory.
pub fn cache_dir() -> PathBuf {
    let home = || variable("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    cache.join("heterosis")
}

/// Where benchmark data may lie: `HETEROSIS_DATA`, else the local cache.
pub fn data_dirs() -> DataDirs {
    let roots = match variable("HETEROSIS_DATA") {
        Some(dir) => vec![PathBuf::from(dir)],
        None => vec![data_cache()],
    };
    DataDirs { roots }
}

/// The number of a moment's day, in UTC.
pub fn day(ms: u64) -> Day {
    (ms / 86_400_000) as Day
}

/// `linux x86_64, AMD EPYC 7763, 16 cores, 126 GiB`: as far as the system says it.
fn machine() -> String {
    let read = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cards = std::fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten();
    let card = |dir: std::io::Result<std::fs::DirEntry>| read(dir.ok()?.path().join("information").to_str()?, "Model");
    let memory = read("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    let cores = std::thread::available_parallelism().map(|n| n.get());
    let told = [
        Some(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        read("/proc/cpuinfo", "model name"),
        cores.ok().map(|n| format!("{n} core{}", if n == 1 { "" } else { "s" })),
        memory.map(|kib| format!("{:.0} GiB", kib as f64 / f64::from(1 << 20))),
    ];
    told.into_iter()
        .flatten()
        .chain(cards.filter_map(card))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Who this process is.
fn holder() -> Holder {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let program = Path::new(&program)
        .file_name()
        .map_or_else(|| "heterosis".into(), |name| name.to_string_lossy().into_owned());
    let host = Command::new("uname").arg("-n").output();
    Holder {
        pid: std::process::id(),
        host: host.map_or_else(
            |_| "an unknown host".into(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_string(),
        ),
        command: std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" "),
    }
}
