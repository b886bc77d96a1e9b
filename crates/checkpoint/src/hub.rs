//! `hf:owner/name[@revision]`: models from the Hugging Face Hub, through its standard cache.
//!
//! What the cache holds complete is used as it is, with no request at all, so that a search can be resumed on a train and
//! gives the same result; a branch that has moved on is fetched again only when its new commit is named (`@revision`) or
//! the cache entry is removed. The environment is not read here: whoever runs the program fills in [`HubOptions`].
//!
//! `hf_hub` asks and downloads; where a file goes is decided here. The library's own cache takes names of files from a
//! server's headers (`ETag`, `X-Repo-Commit`), so that a server which means ill writes anywhere (hf-hub 1.0). Here each
//! file is downloaded into a directory of its own, and what names it afterwards is checked to be a plain name or a digest.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};
use sha2::{Digest, Sha256};

use super::{Error, is_plain_file_name, shards};

/// Files that are downloaded at a time.
const AT_ONCE: usize = 4;
/// Entries of a repository that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// What of a repository is a model and its licence: no other format's weights, no subdirectories.
fn is_wanted(name: &str) -> bool {
    let whole = ["tokenizer.model", "merges.txt", "vocab.txt", "README.md"].contains(&name);
    let ends = [".json", ".safetensors", ".jinja"]
        .iter()
        .any(|end| name.ends_with(end));
    let licence = name.starts_with("LICENSE") || name.starts_with("LICENCE");
    is_plain_file_name(name) && !name.starts_with("consolidated") && (whole || ends || licence)
}

/// Where models come from and where they are kept.
#[derive(Clone, Default)]
pub struct HubOptions {
    /// `HF_ENDPOINT`; the public Hub if absent.
    pub endpoint: Option<String>,
    /// `HF_TOKEN`, or the content of the file that `hf auth login` wrote.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`: no request is made, whatever is missing.
    pub offline: bool,
    /// Told how far a download is, several times a second, from threads of the download's own; must not block.
    pub progress: Option<Report>,
}

/// Whom a download tells how far it is.
pub type Report = Arc<dyn Fn(&Download) + Send + Sync>;

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// `owner/name`
    pub model: String,
    pub bytes_done: u64,
    /// 0 until it is known.
    pub bytes_total: u64,
    /// Nothing more will come.
    pub complete: bool,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret: no log may hold it.
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// The options that the Hub's usual variables ask for; `get` looks one up.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| {
            get(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let on = |name| get(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()));
        let home = get("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| get("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface")))
            .or_else(|| get("HOME").map(|home| Path::new(&home).join(".cache/huggingface")));
        let token_file = || {
            get("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| Some(home.as_ref()?.join("token")))
        };
        let stored_token = || Some(fs::read_to_string(token_file()?).ok()?.trim().to_owned());
        let token = get("HF_TOKEN").or_else(stored_token).filter(|token| !token.is_empty());
        let cache_dir = get("HF_HUB_CACHE")
            .or_else(|| get("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join("hub")));
        let offline = on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE");
        Self {
            endpoint: get("HF_ENDPOINT"),
            token,
            cache_dir,
            offline,
            progress: None,
        }
    }
}

/// A model on the Hub: `owner/name` (or the old single `name`) and perhaps a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubName {
    pub repository: String,
    pub revision: Option<String>,
}

impl HubName {
    /// Reads what stands after `hf:`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let good = parts.len() <= 2
            && parts.iter().all(|part| plain(part))
            && revision.is_none_or(|revision| revision.split('/').all(plain));
        match good {
            true => Ok(Self {
                repository: repository.to_owned(),
                revision: revision.map(str::to_owned),
            }),
            false => Err(Error::HubName { name: text.to_owned() }),
        }
    }

    /// The directory of the cache that holds this model's files, downloaded first if need be.
    ///
    /// `complete` tells whether a directory has all that is needed.
    pub fn fetch(&self, options: &HubOptions, complete: fn(&Path) -> bool) -> Result<PathBuf, Error> {
        let client = self.client(options)?;
        let cached = self.cached(client.cache_dir());
        match &cached {
            Some(dir) if complete(dir) || options.offline => return Ok(dir.clone()), // opening it tells what is missing
            None if options.offline => {
                let cache = client.cache_dir().to_owned();
                return Err(Error::HubOffline {
                    model: self.repository.clone(),
                    cache,
                });
            }
            _ => {}
        }
        match self.download(client, options) {
            Err(error @ Error::HubFailed { .. }) => match cached.filter(|dir| shards::all_present(dir)) {
                Some(dir) => {
                    tracing::warn!("{error} What is in the cache is used as it is.");
                    Ok(dir)
                }
                None => Err(error),
            },
            result => result,
        }
    }

    fn client(&self, options: &HubOptions) -> Result<HFClient, Error> {
        let mut builder = HFClient::builder()
            .user_agent(concat!("heterosis/", env!("CARGO_PKG_VERSION")))
            .retry_max_attempts(3)
            .retry_base_delay(Duration::from_millis(200));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &options.token {
            builder = builder.token(token);
        }
        if let Some(cache_dir) = &options.cache_dir {
            builder = builder.cache_dir(cache_dir);
        }
        builder.build().map_err(|e| self.error(e, options))
    }

    /// The cache's snapshot of this revision, as far as it is there.
    fn cached(&self, cache: &Path) -> Option<PathBuf> {
        let home = cache.join(self.folder());
        let revision = self.revision();
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => fs::read_to_string(home.join("refs").join(revision))
                .ok()?
                .trim()
                .to_owned(),
        };
        if !is_commit(&commit) {
            return None;
        }
        Some(home.join("snapshots").join(commit)).filter(|dir| dir.is_dir())
    }

    /// The model's directory in a cache, as every tool of the Hub calls it.
    fn folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Brings what is missing of this revision into the cache; gives its snapshot.
    fn download(&self, client: HFClient, options: &HubOptions) -> Result<PathBuf, Error> {
        let cache = client.cache_dir().to_owned();
        let home = cache.join(self.folder());
        let _alone = lock(&cache.join(".locks").join(self.folder()))?;
        let client = HFClientSync::from_inner(client).map_err(|e| self.error(e, options))?;
        let (owner, name) = hf_hub::split_id(&self.repository);
        let repository = client.model(owner, name);
        let commit = self.commit(&repository, options)?;
        let snapshot = home.join("snapshots").join(&commit);
        let mut files = self.listed(&repository, &commit, options)?;
        files.retain(|file| !snapshot.join(&file.name).exists());
        self.fetch_files(&repository, &files, &home, &commit, options)?;
        if !is_commit(self.revision()) {
            write_ref(&home.join("refs").join(self.revision()), &commit)?;
        }
        Ok(snapshot)
    }

    /// The commit that the revision is now.
    fn commit(&self, repository: &Repository, options: &HubOptions) -> Result<String, Error> {
        if is_commit(self.revision()) {
            return Ok(self.revision().to_owned());
        }
        let info = repository.info().revision(self.revision()).send();
        let sha = info.map_err(|e| self.error(e, options))?.sha.unwrap_or_default();
        match is_commit(&sha) {
            true => Ok(sha),
            false => Err(self.refused(
                options,
                format!("the revision {} is to be the commit {sha:?}", self.revision()),
            )),
        }
    }

    /// The files of a commit that are wanted.
    fn listed(&self, repository: &Repository, commit: &str, options: &HubOptions) -> Result<Vec<Listed>, Error> {
        let entries = repository.list_tree().revision(commit).limit(MOST_ENTRIES).send();
        let mut files = BTreeMap::new();
        for entry in entries.map_err(|e| self.error(e, options))? {
            let RepoTreeEntry::File {
                path, oid, size, lfs, ..
            } = entry
            else {
                continue;
            };
            if !is_wanted(&path) {
                continue;
            }
            let sha256 = lfs.as_ref().and_then(|lfs| lfs.sha256.clone());
            if let Some(odd) = [Some(&oid), sha256.as_ref()]
                .into_iter()
                .flatten()
                .find(|id| !is_digest(id))
            {
                return Err(self.refused(options, format!("{path} is listed under {odd:?}, which is no digest")));
            }
            let content = match lfs {
                Some(_) => Content::Sha256(sha256),
                None => Content::Object(oid),
            };
            files.insert(
                path.clone(),
                Listed {
                    name: path,
                    size,
                    content,
                },
            );
        }
        Ok(files.into_values().collect())
    }

    /// Downloads files into a directory of this download's own, and from there to their places in the cache.
    fn fetch_files(
        &self,
        repository: &Repository,
        files: &[Listed],
        home: &Path,
        commit: &str,
        options: &HubOptions,
    ) -> Result<(), Error> {
        let scratch = home.join(".heterosis-download"); // of one that was killed, if it is there: the lock is ours
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(|e| Error::write(&scratch, e))?;
        }
        let total = files.iter().map(|file| file.size).sum();
        let reporter = options
            .progress
            .clone()
            .map(|report| Arc::new(Reporter::new(&self.repository, report, total)));
        let queue = Mutex::new(files.iter());
        let worker = || -> Result<(), Error> {
            loop {
                let Some(file) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                    return Ok(());
                };
                self.fetch_file(repository, file, &scratch, commit, reporter.clone(), options)?;
                file.keep(&scratch.join(&file.name), home, commit)
                    .map_err(|e| Error::write(&home.join("blobs"), e))?;
            }
        };
        let fetched: Result<Vec<()>, Error> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        let _ = fs::remove_dir_all(&scratch);
        fetched?;
        if let Some(reporter) = reporter {
            reporter.complete();
        }
        Ok(())
    }

    /// One file, which must be as long as it was listed, and the content that it was listed with.
    fn fetch_file(
        &self,
        repository: &Repository,
        file: &Listed,
        scratch: &Path,
        commit: &str,
        reporter: Option<Arc<Reporter>>,
        options: &HubOptions,
    ) -> Result<(), Error> {
        let path = repository
            .download_file()
            .filename(&file.name)
            .local_dir(scratch)
            .revision(commit)
            .maybe_progress(reporter.map(|reporter| Progress::new(Shared(reporter))))
            .send()
            .map_err(|e| self.error(e, options))?;
        let got = fs::metadata(&path).map_err(|e| Error::read(&path, e))?.len();
        match got == file.size {
            true => Ok(()),
            false => Err(self.refused(
                options,
                format!("it sent {got} bytes of {}, of {}", file.name, file.size),
            )),
        }
    }

    /// An answer that no Hub gives.
    fn refused(&self, options: &HubOptions, reason: String) -> Error {
        Error::HubFailed {
            model: self.repository.clone(),
            endpoint: endpoint(options),
            reason,
        }
    }

    /// Tells the Hub's faults apart as a user must: no such thing, no right to it, no connection.
    fn error(&self, error: HFError, options: &HubOptions) -> Error {
        let model = self.repository.clone();
        match error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => Error::HubAccess {
                model,
                token: options.token.is_some(),
            },
            HFError::RepoNotFound { .. } => Error::HubNotFound { model, revision: None },
            HFError::RevisionNotFound { .. } => Error::HubNotFound {
                model,
                revision: Some(self.revision.clone().unwrap_or_else(|| "main".to_owned())),
            },
            HFError::Http { ref context } if [401, 403].contains(&context.status.as_u16()) => Error::HubAccess {
                model,
                token: options.token.is_some(),
            },
            HFError::Io(source) => {
                let path = options
                    .cache_dir
                    .clone()
                    .unwrap_or_else(|| PathBuf::from("the Hugging Face cache"));
                Error::Write { path, source }
            }
            other => Error::HubFailed {
                model,
                endpoint: endpoint(options),
                reason: chain(&other),
            },
        }
    }
}

type Repository = HFRepositorySync<RepoTypeModel>;

/// A file that the Hub lists: its name is plain, and what it is to hold is named by digests.
struct Listed {
    name: String,
    size: u64,
    content: Content,
}

enum Content {
    /// The id of a git object.
    Object(String),
    /// The SHA-256 of the content; not every Hub lists it.
    Sha256(Option<String>),
}

impl Listed {
    /// Moves the downloaded file to its place among the cache's blobs, and links it into the snapshot.
    fn keep(&self, file: &Path, home: &Path, commit: &str) -> io::Result<()> {
        let digest = match &self.content {
            Content::Object(id) => id.clone(),
            Content::Sha256(listed) => {
                let mut hasher = Sha256::new();
                io::copy(&mut File::open(file)?, &mut HashWriter(&mut hasher))?;
                let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                if listed.as_ref().is_some_and(|listed| *listed != digest) {
                    let problem = format!("{} has the SHA-256 {digest}, and not the one that is listed", self.name);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
                }
                digest
            }
        };
        let (blobs, snapshot) = (home.join("blobs"), home.join("snapshots").join(commit));
        fs::create_dir_all(&blobs)?;
        fs::create_dir_all(&snapshot)?;
        let pointer = snapshot.join(&self.name);
        let _ = fs::remove_file(&pointer); // one that leads nowhere
        #[cfg(unix)]
        {
            fs::rename(file, blobs.join(&digest))?;
            std::os::unix::fs::symlink(Path::new("../../blobs").join(&digest), &pointer)
        }
        #[cfg(not(unix))]
        fs::rename(file, &pointer)
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn endpoint(options: &HubOptions) -> String {
    let endpoint = options.endpoint.clone();
    endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned())
}

/// Waits until no other process downloads the same model.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("heterosis.lock");
    let open = || {
        fs::create_dir_all(dir)?;
        let file = File::create(&path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|e| Error::write(&path, e))
}

fn write_ref(path: &Path, commit: &str) -> Result<(), Error> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, commit)
    };
    write().map_err(|e| Error::write(path, e))
}

/// Does this directory hold a whole model: configuration, weights with every shard, and a tokenizer?
pub(super) fn model_is_complete(dir: &Path) -> bool {
    let has = |name: &str| dir.join(name).exists();
    has("config.json") && shards::all_present(dir) && (has("tokenizer.json") || has("tokenizer.model"))
}

/// Does this directory hold a whole LoRA adapter?
pub(super) fn adapter_is_complete(dir: &Path) -> bool {
    dir.join("adapter_config.json").exists() && dir.join("adapter_model.safetensors").exists()
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_digest(revision)
}

/// SHA-1 or SHA-256, in hex.
fn is_digest(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An error and what caused it, in one line; the causes are what tells "no such host" from "refused".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ").trim_end_matches('.').to_owned()
}

/// Adds up what the library reports file by file.
struct Reporter {
    model: String,
    report: Report,
    total: u64,
    /// Bytes of each file that are here.
    files: Mutex<HashMap<String, u64>>,
}

impl Reporter {
    fn new(model: &str, report: Report, total: u64) -> Self {
        Self {
            model: model.to_owned(),
            report,
            total,
            files: Mutex::default(),
        }
    }

    fn complete(&self) {
        self.tell(self.total, true);
    }

    fn tell(&self, bytes_done: u64, complete: bool) {
        (self.report)(&Download {
            model: self.model.clone(),
            bytes_done,
            bytes_total: self.total,
            complete,
        });
    }
}

/// What the library is handed for each file.
struct Shared(Arc<Reporter>);

impl ProgressHandler for Shared {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(DownloadEvent::Progress { files }) = event else {
            return;
        };
        let mut known = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        for file in files {
            known.insert(file.filename.clone(), file.bytes_completed);
        }
        let done = known.values().sum::<u64>().min(self.0.total);
        drop(known);
        self.0.tell(done, false);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{Checkpoint, DType, Writer};
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A Hub with one repository, `fake/tiny`, on a port of this machine.
    struct FakeHub {
        endpoint: String,
        requests: Arc<AtomicUsize>,
    }

    /// What a server that means ill says instead of the truth.
    #[derive(Clone, Default)]
    struct Lies {
        etag: Option<String>,
        commit_header: Option<String>,
        commit: Option<String>,
        object: Option<String>,
        /// Bytes that each file is said to have more than it has.
        more: usize,
        extra_names: Vec<String>,
    }

    impl FakeHub {
        /// `status` is what it answers to everything, unless 200.
        fn start(files: Vec<(String, Vec<u8>)>, status: u16) -> Self {
            Self::lying(files, status, Lies::default())
        }

        fn lying(files: Vec<(String, Vec<u8>)>, status: u16, lies: Lies) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::new(AtomicUsize::new(0));
            let counter = requests.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (files, counter, lies) = (files.clone(), counter.clone(), lies.clone());
                    std::thread::spawn(move || answer(stream.unwrap(), &files, status, &lies, &counter));
                }
            });
            Self { endpoint, requests }
        }

        fn options(&self, cache: &Path) -> HubOptions {
            HubOptions {
                endpoint: Some(self.endpoint.clone()),
                token: Some("secret".into()),
                cache_dir: Some(cache.to_owned()),
                ..HubOptions::default()
            }
        }
    }

    fn answer(
        mut stream: std::net::TcpStream,
        files: &[(String, Vec<u8>)],
        status: u16,
        lies: &Lies,
        counter: &AtomicUsize,
    ) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while let Some(Ok(request)) = lines.next() {
            let mut authorised = false;
            for header in lines.by_ref() {
                let header = header.unwrap();
                authorised |= header.eq_ignore_ascii_case("authorization: bearer secret");
                if header.is_empty() {
                    break;
                }
            }
            counter.fetch_add(1, Ordering::Relaxed);
            let mut words = request.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let path = path.split('?').next().unwrap();
            let found: Option<(Vec<u8>, String)> = if status != 200 || !authorised {
                None
            } else if path == format!("/api/models/fake/tiny/tree/{COMMIT}") {
                let entry = |name: &str, content: &[u8]| {
                    let object = || blake3::hash(content).to_hex()[..40].to_owned();
                    let oid = lies.object.clone().unwrap_or_else(object);
                    serde_json::json!({"type": "file", "path": name, "size": content.len() + lies.more, "oid": oid})
                };
                let true_ones = files.iter().map(|(name, content)| entry(name, content));
                let list: Vec<_> = true_ones
                    .chain(lies.extra_names.iter().map(|name| entry(name, b"{}")))
                    .collect();
                Some((serde_json::to_vec(&list).unwrap(), "list".into()))
            } else if path.starts_with("/api/models/fake/tiny/revision/") && !path.ends_with("/gone") {
                Some((
                    serde_json::json!({"id": "fake/tiny", "sha": lies.commit.as_deref().unwrap_or(COMMIT)})
                        .to_string()
                        .into(),
                    "info".into(),
                ))
            } else {
                let name = path.strip_prefix(&format!("/fake/tiny/resolve/{COMMIT}/"));
                let file = files.iter().find(|(file, _)| Some(file.as_str()) == name);
                file.map(|(name, content)| (content.clone(), name.clone()))
            };
            let (head, body) = match found {
                Some((body, tag)) => (
                    format!(
                        "HTTP/1.1 200 OK\r\nETag: \"{}\"\r\nX-Repo-Commit: {}",
                        lies.etag.clone().unwrap_or_else(|| tag.replace('.', "-")),
                        lies.commit_header.as_deref().unwrap_or(COMMIT)
                    ),
                    body,
                ),
                None => (
                    format!("HTTP/1.1 {} No", if status == 200 { 404 } else { status }),
                    b"{}".to_vec(),
                ),
            };
            write!(
                stream,
                "{head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .unwrap();
            if method != "HEAD" {
                stream.write_all(&body).unwrap();
            }
        }
    }

    fn tiny_model() -> Vec<(String, Vec<u8>)> {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("m");
        let mut writer = Writer::create(&out, 8).unwrap();
        for name in ["a", "b"] {
            writer
                .tensor(name, DType::F32, &[2], &1.5f32.to_le_bytes().repeat(2))
                .unwrap();
        }
        writer.text("config.json", "{\"model_type\": \"llama\"}").unwrap();
        writer.text("tokenizer.json", "{}").unwrap();
        writer.finish().unwrap();
        let mut files: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        files.push(("README.md".into(), b"---\nlicense: mit\n---\n".to_vec()));
        // What must not be fetched.
        for name in ["pytorch_model.bin", "consolidated.safetensors", "onnx/model.json"] {
            files.push((name.into(), b"unwanted".to_vec()));
        }
        files
    }

    #[test]
    fn a_model_is_downloaded_once_and_then_taken_from_the_cache() {
        let hub = FakeHub::start(tiny_model(), 200);
        let cache = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let mut options = hub.options(cache.path());
        options.progress = Some(Arc::new(move |download: &Download| {
            sink.lock().unwrap().push(download.clone())
        }));
        let checkpoint = Checkpoint::open_model("hf:fake/tiny", &options).unwrap();
        assert_eq!(checkpoint.name(), "fake/tiny");
        assert_eq!(checkpoint.read_f32("b").unwrap(), [1.5; 2]);
        assert!(checkpoint.side_file("tokenizer.json").is_some());
        let texts = checkpoint.license_texts().unwrap();
        assert_eq!(texts[0].readme.as_deref(), Some("---\nlicense: mit\n---\n"));
        for unwanted in ["pytorch_model.bin", "consolidated.safetensors", "onnx"] {
            assert!(!checkpoint.path().join(unwanted).exists(), "{unwanted}");
        }
        let seen = seen.lock().unwrap().clone();
        let last = seen.last().unwrap();
        assert!(
            last.complete && last.bytes_done == last.bytes_total && last.bytes_total > 0,
            "{last:?}"
        );
        assert!(
            seen.iter()
                .all(|d| d.model == "fake/tiny" && d.bytes_done <= d.bytes_total)
        );

        let requests = hub.requests.load(Ordering::Relaxed);
        for word in [
            "hf:fake/tiny".to_owned(),
            "hf:fake/tiny@main".to_owned(),
            format!("hf:fake/tiny@{COMMIT}"),
        ] {
            Checkpoint::open_model(&word, &options).unwrap();
        }
        let offline = HubOptions {
            offline: true,
            endpoint: Some("http://127.0.0.1:9".into()),
            ..options.clone()
        };
        Checkpoint::open_model("hf:fake/tiny", &offline).unwrap();
        assert_eq!(
            hub.requests.load(Ordering::Relaxed),
            requests,
            "the cache needs no network"
        );

        // A shard that is gone makes the snapshot incomplete: it is fetched again.
        let shard = checkpoint.path().join("model-00002-of-00002.safetensors");
        let blob = fs::canonicalize(&shard).unwrap();
        drop(checkpoint);
        fs::remove_file(&shard).unwrap();
        let _ = fs::remove_file(blob);
        Checkpoint::open_model("hf:fake/tiny", &options).unwrap();
        assert!(shard.exists());
        fs::remove_file(&shard).unwrap();
        assert!(matches!(
            Checkpoint::open_model("hf:fake/tiny", &offline),
            Err(Error::ShardMissing { .. })
        ));
    }

    /// Every file below a directory, by its path from there; links are not followed.
    fn all_below(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(all_below(&entry.path()).iter().map(|below| format!("{name}/{below}"))),
                false => found.push(name),
            }
        }
        found
    }

    /// A mirror answered with `ETag: "/home/…/.ssh/authorized_keys"`: hf-hub wrote config.json there. Nothing that a server
    /// says makes a file outside of this model's folder in the cache.
    #[test]
    fn a_server_that_lies_writes_nothing_outside_of_the_cache() {
        let home = tempfile::tempdir().unwrap();
        let victim = home.path().join("victim/authorized_keys");
        fs::create_dir(home.path().join("victim")).unwrap();
        let absolute = victim.display().to_string();
        let paths = [
            absolute.as_str(),
            "../../../victim/authorized_keys",
            "../../../../../../../evil",
            "..",
            "a/b",
            "",
        ];
        let mut lies = vec![Lies {
            extra_names: [
                "../evil.json",
                "/evil.json",
                "a/b.json",
                ".hidden.json",
                "a\\b.json",
                "..json",
                "",
            ]
            .map(String::from)
            .to_vec(),
            ..Lies::default()
        }];
        for path in paths {
            let path = Some(path.to_owned());
            lies.extend([
                Lies {
                    etag: path.clone(),
                    ..Lies::default()
                },
                Lies {
                    commit_header: path.clone(),
                    ..Lies::default()
                },
                Lies {
                    object: path.clone(),
                    ..Lies::default()
                },
                Lies {
                    commit: path,
                    ..Lies::default()
                },
            ]);
        }
        for (k, lie) in lies.into_iter().enumerate() {
            let cache = home.path().join(format!("{k}/deep/enough/cache"));
            fs::create_dir_all(&cache).unwrap();
            let harmless = lie.object.is_none() && lie.commit.is_none();
            let hub = FakeHub::lying(tiny_model(), 200, lie);
            let opened = Checkpoint::open_model("hf:fake/tiny", &hub.options(&cache));
            assert_eq!(opened.is_ok(), harmless, "{k}: {:?}", opened.err());
            for file in all_below(&home.path().join(k.to_string())) {
                let inside = ["deep/enough/cache/models--fake--tiny/", "deep/enough/cache/.locks/"];
                assert!(inside.iter().any(|dir| file.starts_with(dir)), "{k}: {file}");
            }
            assert_eq!(all_below(&home.path().join("victim")), [""; 0], "{k}");
            fs::remove_dir_all(home.path().join(k.to_string())).unwrap();
        }
        assert_eq!(all_below(home.path()), [""; 0]);
    }

    /// A download that ends early, and one that was killed, leave nothing that looks like the file.
    #[test]
    fn a_file_of_another_length_than_listed_is_refused_and_leftovers_go() {
        let cache = tempfile::tempdir().unwrap();
        let scratch = cache.path().join("models--fake--tiny/.heterosis-download");
        fs::create_dir_all(&scratch).unwrap();
        fs::write(scratch.join("config.json"), "half").unwrap();
        let short = FakeHub::lying(
            tiny_model(),
            200,
            Lies {
                more: 1,
                ..Lies::default()
            },
        );
        let error = Checkpoint::open_model("hf:fake/tiny", &short.options(cache.path())).unwrap_err();
        assert!(error.to_string().contains("it sent"), "{error}");
        assert!(!scratch.exists());
        let hub = FakeHub::start(tiny_model(), 200);
        Checkpoint::open_model("hf:fake/tiny", &hub.options(cache.path())).unwrap();
    }

    #[test]
    fn faults_of_the_hub_are_told_apart() {
        let cache = tempfile::tempdir().unwrap();
        let open = |status: u16, word: &str| {
            let hub = FakeHub::start(tiny_model(), status);
            Checkpoint::open_model(word, &hub.options(cache.path())).unwrap_err()
        };
        assert!(matches!(
            open(401, "hf:fake/tiny"),
            Error::HubAccess { token: true, .. }
        ));
        assert!(matches!(open(403, "hf:fake/tiny"), Error::HubAccess { .. }));
        assert!(matches!(open(200, "hf:fake/none"), Error::HubNotFound { .. }));
        assert!(matches!(open(200, "hf:fake/tiny@gone"), Error::HubNotFound { revision: Some(r), .. } if r == "gone"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = HubOptions {
            endpoint: Some(format!("http://{closed}")),
            cache_dir: Some(cache.path().to_owned()),
            ..HubOptions::default()
        };
        let error = Checkpoint::open_model("hf:fake/tiny", &options).unwrap_err();
        assert!(matches!(error, Error::HubFailed { .. }), "{error}");
        assert!(
            error.to_string().ends_with('.') && !error.to_string().contains('\n'),
            "{error}"
        );
        let offline = HubOptions {
            offline: true,
            ..options
        };
        assert!(matches!(
            Checkpoint::open_model("hf:fake/tiny", &offline),
            Err(Error::HubOffline { .. })
        ));
    }

    #[test]
    fn names_are_read_and_bad_ones_refused() {
        let parse = |text: &str| HubName::parse(text).map(|n| (n.repository, n.revision));
        assert_eq!(parse("gpt2").unwrap(), ("gpt2".into(), None));
        assert_eq!(
            parse("a/b-1.5_x@refs/pr/3").unwrap(),
            ("a/b-1.5_x".into(), Some("refs/pr/3".into()))
        );
        for bad in [
            "",
            "/",
            "a/",
            "a/b/c",
            "../x",
            "a/..",
            "a b",
            "a/b@",
            "a/b@../x",
            "a/b@x//y",
            "https://x",
            "a/.b",
        ] {
            assert!(matches!(HubName::parse(bad), Err(Error::HubName { .. })), "{bad}");
        }
    }

    #[test]
    fn variables_are_read_in_the_usual_order() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".cache/huggingface")).unwrap();
        fs::write(home.path().join(".cache/huggingface/token"), "stored\n").unwrap();
        let read = |variables: &[(&str, &str)]| {
            let variables: HashMap<String, String> = variables
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .chain([("HOME".to_owned(), home.path().display().to_string())])
                .collect();
            HubOptions::from_variables(|name| variables.get(name).cloned())
        };
        let plain = read(&[]);
        assert_eq!(plain.cache_dir.unwrap(), home.path().join(".cache/huggingface/hub"));
        assert_eq!(
            (plain.token.as_deref(), plain.offline, plain.endpoint),
            (Some("stored"), false, None)
        );
        assert_eq!(read(&[("HF_HOME", "/h")]).cache_dir.unwrap(), Path::new("/h/hub"));
        assert_eq!(
            read(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache_dir.unwrap(),
            Path::new("/c")
        );
        assert_eq!(read(&[("HF_TOKEN", " t\n")]).token.unwrap(), "t");
        assert_eq!(read(&[("HF_HOME", "/h")]).token, None);
        assert!(read(&[("HF_HUB_OFFLINE", "1")]).offline && read(&[("TRANSFORMERS_OFFLINE", "YES")]).offline);
        assert!(!read(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert!(!format!("{:?}", read(&[("HF_TOKEN", "t0p")])).contains("t0p"));
    }
}
