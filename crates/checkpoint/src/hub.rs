//! `hf:owner/name[@revision]`: models from the Hugging Face Hub, through its standard cache.
//!
//! What the cache holds complete is used as it is, with no request at all, so that a search can be resumed on a train and
//! gives the same result; a branch that has moved on is fetched again only when its new commit is named (`@revision`) or
//! the cache entry is removed. The environment is not read here: whoever runs the program fills in [`HubOptions`].

#[cfg(feature = "hub")]
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
#[cfg(feature = "hub")]
use std::ops::Not as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "hub")]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(feature = "hub")]
use super::http::{self, Http, HttpError};
use super::{Error, shards};

/// Files that are downloaded at a time.
#[cfg(feature = "hub")]
const AT_ONCE: usize = 4;

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
    /// Before a request that failed is made again, doubled with each one that brought nothing; a fifth of a second if absent.
    pub retry_pause: Option<Duration>,
}

/// Whom a download tells how far it is.
pub type Report = Arc<dyn Fn(&Download) + Send + Sync>;

/// How far a download is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// `owner/name`
    pub model: String,
    /// Bytes that are on this machine, over all files of the model.
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
    /// The Hub that is asked, without a slash at the end.
    fn endpoint(&self) -> &str {
        let endpoint = self.endpoint.as_deref().unwrap_or("https://huggingface.co");
        endpoint.trim_end_matches('/')
    }

    /// The options that the Hub's usual variables ask for; `get` looks one up.
    ///
    /// ```
    /// use heterosis_checkpoint::HubOptions;
    ///
    /// let of = |name: &str| match name {
    ///     "HF_HOME" => Some("/data/hf".to_owned()),
    ///     "HF_HUB_OFFLINE" => Some("1".to_owned()),
    ///     _ => None,
    /// };
    /// let options = HubOptions::from_variables(of);
    /// assert_eq!(options.cache_dir.as_deref(), Some("/data/hf/hub".as_ref()));
    /// assert!(options.offline);
    /// ```
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
            retry_pause: None,
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
        let Some(cache) = &options.cache_dir else {
            return Err(Error::HubCacheUnknown {
                model: self.repository.clone(),
            });
        };
        let cached = self.cached(cache);
        match &cached {
            Some(dir) if complete(dir) || options.offline => return Ok(dir.clone()), // opening it tells what is missing
            None if options.offline => {
                return Err(Error::HubOffline {
                    model: self.repository.clone(),
                    cache: cache.clone(),
                });
            }
            _ => {}
        }
        match self.download(cache, options) {
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

    /// This repository's folder of the cache, laid out as Hugging Face's own clients do.
    fn home(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.repository.replace('/', "--")))
    }

    /// The cache's snapshot of this revision, as far as it is there.
    fn cached(&self, cache: &Path) -> Option<PathBuf> {
        let home = self.home(cache);
        let revision = self.revision.as_deref().unwrap_or("main");
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

    #[cfg(not(feature = "hub"))]
    fn download(&self, _cache: &Path, options: &HubOptions) -> Result<PathBuf, Error> {
        Err(self.failed(options, "this build of the program has no Hub client (feature `hub`)"))
    }

    /// Lists the repository at its commit, and fetches what of it is a model and not in the cache yet.
    #[cfg(feature = "hub")]
    fn download(&self, cache: &Path, options: &HubOptions) -> Result<PathBuf, Error> {
        let http = options.retry_pause.map_or_else(Http::default, Http::with_pause);
        let hub = Hub {
            name: self,
            http: &http,
            options,
        };
        let revision = self.revision.as_deref().unwrap_or("main");
        let commit = hub.commit(revision)?;
        let files = hub.files(&commit)?;
        let home = self.home(cache);
        let snapshot = home.join("snapshots").join(&commit);
        let missing: Vec<RemoteFile> = files
            .into_iter()
            .filter(|file| {
                fs::metadata(snapshot.join(&file.path))
                    .is_ok_and(|m| m.len() == file.size)
                    .not()
            })
            .collect();
        // What the Hub says of them may be any number.
        let total = missing.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
        let tally = Mutex::new(Tally::new(&self.repository, options, total));
        let queue = Mutex::new(missing.iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<(), Error> {
            while let Some(file) = next() {
                hub.file(file, &commit, &home, &tally)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let mut ends = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        if revision != commit {
            let reference = home.join("refs").join(revision);
            make_parent(&reference)?;
            fs::write(&reference, &commit).map_err(|source| Error::Write {
                path: reference,
                source,
            })?;
        }
        tally.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
        Ok(snapshot)
    }

    fn failed(&self, options: &HubOptions, reason: impl fmt::Display) -> Error {
        Error::HubFailed {
            model: self.repository.clone(),
            endpoint: options.endpoint().to_owned(),
            reason: reason.to_string().replace('\n', " ").trim_end_matches('.').to_owned(),
        }
    }
}

/// One repository of the Hub, asked over HTTP.
///
/// No path is ever made of what a header says: a folder of the cache is named by the commit (40 hexadecimal digits), a
/// blob by a digest, a file by its own name if that is a plain one.
#[cfg(feature = "hub")]
struct Hub<'a> {
    name: &'a HubName,
    http: &'a Http,
    options: &'a HubOptions,
}

/// A file of a repository, as the Hub lists it.
#[cfg(feature = "hub")]
#[derive(serde::Deserialize)]
struct RemoteFile {
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<LargeFile>,
    #[serde(rename = "type")]
    kind: String,
}

#[cfg(feature = "hub")]
#[derive(serde::Deserialize)]
struct LargeFile {
    /// SHA-256 of the content.
    oid: String,
    size: u64,
}

#[cfg(feature = "hub")]
impl RemoteFile {
    /// The blob's name in the cache, as other clients name it; a digest of our own where the Hub gives none.
    fn blob(&self) -> String {
        let hex = |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let oid = self.lfs.as_ref().map_or(&self.oid, |lfs| &lfs.oid);
        match hex(oid) {
            true => oid.to_lowercase(),
            false => blake3::hash(format!("{} {oid} {}", self.path, self.size).as_bytes())
                .to_hex()
                .to_string(),
        }
    }
}

#[cfg(feature = "hub")]
impl Hub<'_> {
    /// Listings are a few kilobytes; nothing that calls itself one is read for ever.
    const LISTING_LIMIT: u64 = 64 << 20;
    /// No model has more files than that at its top.
    const FILES: usize = 10_000;

    fn get(&self, url: &str) -> Result<http::Answer, Error> {
        let answer = self.http.get(url, self.options.token.as_deref(), Self::LISTING_LIMIT);
        answer.map_err(|e| self.error(&e))
    }

    /// The commit that a revision stands for.
    fn commit(&self, revision: &str) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct Info {
            sha: String,
        }
        let endpoint = self.options.endpoint();
        let url = format!(
            "{endpoint}/api/models/{}/revision/{}",
            self.name.repository,
            revision.replace('/', "%2F")
        );
        let info: Info = serde_json::from_slice(&self.get(&url)?.body).map_err(|e| {
            self.name
                .failed(self.options, format!("{url} is not what a Hub says of a model: {e}"))
        })?;
        match is_commit(&info.sha) {
            true => Ok(info.sha.to_lowercase()),
            false => Err(self.name.failed(self.options, format!("{url} names no commit"))),
        }
    }

    /// The wanted files of a commit.
    fn files(&self, commit: &str) -> Result<Vec<RemoteFile>, Error> {
        let endpoint = self.options.endpoint();
        let mut url = Some(format!("{endpoint}/api/models/{}/tree/{commit}", self.name.repository));
        let mut files = Vec::new();
        while let Some(page) = url {
            let answer = self.get(&page)?;
            let listed: Vec<RemoteFile> = serde_json::from_slice(&answer.body).map_err(|e| {
                self.name
                    .failed(self.options, format!("{page} is no list of files: {e}"))
            })?;
            files.extend(listed);
            if files.len() > Self::FILES {
                return Err(self
                    .name
                    .failed(self.options, format!("more than {} files", Self::FILES)));
            }
            // The token goes where the user sent it, whatever the answer says.
            url = answer
                .next
                .filter(|next| *next != page && next.starts_with(&format!("{endpoint}/")));
        }
        let wanted = wanted(
            files
                .iter()
                .filter(|file| file.kind == "file")
                .map(|file| file.path.as_str()),
        );
        files.retain(|file| file.kind == "file" && wanted.contains(&file.path));
        for file in &mut files {
            if let Some(lfs) = &file.lfs {
                file.size = lfs.size;
            }
        }
        Ok(files)
    }

    /// One file into the cache: the blob, then the snapshot's link to it.
    fn file(&self, file: &RemoteFile, commit: &str, home: &Path, tally: &Mutex<Tally>) -> Result<(), Error> {
        let name = file.blob();
        let blob = home.join("blobs").join(&name);
        make_parent(&blob)?;
        if fs::metadata(&blob).is_ok_and(|m| m.len() == file.size) {
            add(tally, file.size);
        } else {
            self.blob(file, commit, &blob, tally)?;
        }
        let link = home.join("snapshots").join(commit).join(&file.path);
        make_parent(&link)?;
        let write = |source| Error::Write {
            path: link.clone(),
            source,
        };
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).map_err(write)?;
        }
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), &link).map_err(write)
    }

    /// Downloads a blob beside its place, goes on where an earlier try ended, and gives it its name when it is whole.
    fn blob(&self, file: &RemoteFile, commit: &str, blob: &Path, tally: &Mutex<Tally>) -> Result<(), Error> {
        let partial = blob.with_extension("incomplete");
        let write = |source| Error::Write {
            path: partial.clone(),
            source,
        };
        let mut out = fs::File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&partial)
            .map_err(write)?;
        out.lock().map_err(write)?; // another process may be at it
        if fs::metadata(blob).is_ok_and(|m| m.len() == file.size) {
            add(tally, file.size);
            return Ok(());
        }
        let (endpoint, repository) = (self.options.endpoint(), &self.name.repository);
        let url = format!("{endpoint}/{repository}/resolve/{commit}/{}", file.path);
        let token = self.options.token.as_deref();
        self.http
            .download(&url, token, &mut out, file.size, &mut |bytes| add(tally, bytes))
            .map_err(|e| match e {
                HttpError::Write(source) => write(source),
                e => self.error(&e),
            })?;
        if let Some(lfs) = file.lfs.as_ref().filter(|lfs| lfs.oid.len() == 64) {
            let digest = http::sha256(&mut out).map_err(write)?;
            if digest != lfs.oid.to_lowercase() {
                let _ = fs::remove_file(&partial);
                let reason = format!("{} arrived with another content than the Hub says it has", file.path);
                return Err(self.name.failed(self.options, reason));
            }
        }
        out.sync_all().map_err(write)?;
        fs::rename(&partial, blob).map_err(write)
    }

    /// Tells the Hub's faults apart as a user must: no such thing, no right to it, no connection.
    fn error(&self, error: &HttpError) -> Error {
        let model = self.name.repository.clone();
        let revision = self.name.revision.clone();
        match error {
            HttpError::Status { status, code, .. } => match (status, code.as_deref()) {
                (_, Some("RepoNotFound")) => Error::HubNotFound { model, revision: None },
                (_, Some("RevisionNotFound" | "EntryNotFound")) | (404, _) => Error::HubNotFound { model, revision },
                (401 | 403, _) => Error::HubAccess {
                    model,
                    token: self.options.token.is_some(),
                },
                _ => self.name.failed(self.options, error),
            },
            _ => self.name.failed(self.options, error),
        }
    }
}

#[cfg(feature = "hub")]
fn make_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| Error::Write {
        path: parent.to_owned(),
        source,
    })
}

/// What of a repository is a model and its licence: pickled weights only where there are no others.
#[cfg(feature = "hub")]
fn wanted<'a>(names: impl Iterator<Item = &'a str> + Clone) -> BTreeSet<String> {
    let has_safetensors = names
        .clone()
        .any(|name| is_wanted(name) && name.ends_with(".safetensors"));
    let is_pickled = |name: &str| {
        let plain = !name.contains(['/', '\\']) && !name.contains(char::is_control);
        plain && name.starts_with("pytorch_model") && name.ends_with(".bin")
    };
    let wanted = names.filter(|name| is_wanted(name) || !has_safetensors && is_pickled(name));
    wanted.map(str::to_owned).collect()
}

/// What of a repository is a model and its licence: no other format's weights, no subdirectories.
#[cfg(feature = "hub")]
fn is_wanted(name: &str) -> bool {
    let plain = !name.starts_with('.') && !name.contains(['/', '\\']) && !name.contains(char::is_control);
    let kind = [".json", ".safetensors", ".jinja"]
        .iter()
        .any(|end| name.ends_with(end))
        || ["tokenizer.model", "merges.txt", "vocab.txt", "README.md"].contains(&name)
        || ["LICENSE", "LICENCE"].iter().any(|start| name.starts_with(start));
    plain && kind && !name.starts_with("consolidated")
}

#[cfg(feature = "hub")]
fn add(tally: &Mutex<Tally>, bytes: u64) {
    tally.lock().unwrap_or_else(PoisonError::into_inner).add(bytes);
}

/// How far a download is, told to whom it concerns.
#[cfg(feature = "hub")]
struct Tally {
    download: Download,
    report: Option<Report>,
}

#[cfg(feature = "hub")]
impl Tally {
    fn new(model: &str, options: &HubOptions, bytes_total: u64) -> Self {
        Self {
            download: Download {
                model: model.to_owned(),
                bytes_done: 0,
                bytes_total,
                complete: false,
            },
            report: options.progress.clone(),
        }
    }

    /// A download that begins anew after a fault counts some bytes twice: never more than there are.
    fn add(&mut self, bytes: u64) {
        self.download.bytes_done = (self.download.bytes_done + bytes).min(self.download.bytes_total);
        self.tell();
    }

    fn finish(&mut self) {
        self.download.bytes_done = self.download.bytes_total;
        self.download.complete = true;
        self.tell();
    }

    fn tell(&self) {
        if let Some(report) = &self.report {
            report(&self.download);
        }
    }
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
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
#[cfg(feature = "hub")]
mod tests {
    use std::collections::HashMap;
    use std::net::TcpListener;

    use super::super::scripted::{Asked, Scripted};
    use super::super::{Checkpoint, DType, Writer};
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A Hub with one repository, `fake/tiny`.
    struct FakeHub(Scripted);

    impl FakeHub {
        /// `status` is what it answers to everything, unless 200.
        fn start(files: Vec<(String, Vec<u8>)>, status: u16) -> Self {
            Self(Scripted::answering(move |asked| {
                let is_known = asked.authorization == "Bearer secret";
                match found(asked, &files).filter(|_| status == 200 && is_known) {
                    Some((body, tag)) => (format!("200 OK\r\nETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}"), body),
                    None => (
                        format!("{} No", if status == 200 { 404 } else { status }),
                        b"{}".to_vec(),
                    ),
                }
            }))
        }

        fn options(&self, cache: &Path) -> HubOptions {
            HubOptions {
                endpoint: Some(self.0.address.clone()),
                token: Some("secret".into()),
                cache_dir: Some(cache.to_owned()),
                ..HubOptions::default()
            }
        }
    }

    /// Content and tag.
    fn found(asked: &Asked, files: &[(String, Vec<u8>)]) -> Option<(Vec<u8>, String)> {
        let path = asked.path.split('?').next()?;
        if path == format!("/api/models/fake/tiny/tree/{COMMIT}") {
            let of_file = |(name, content): &(String, Vec<u8>)| serde_json::json!({"type": "file", "path": name, "size": content.len(), "oid": name});
            let list: Vec<_> = files.iter().map(of_file).collect();
            return Some((serde_json::to_vec(&list).unwrap(), "list".into()));
        }
        if path.starts_with("/api/models/fake/tiny/revision/") && !path.ends_with("/gone") {
            let info = serde_json::json!({"id": "fake/tiny", "sha": COMMIT});
            return Some((info.to_string().into(), "info".into()));
        }
        let name = path.strip_prefix(&format!("/fake/tiny/resolve/{COMMIT}/"))?;
        let (name, content) = files.iter().find(|(file, _)| file == name)?;
        Some((content.clone(), name.clone()))
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
    fn pickled_weights_are_fetched_where_there_are_no_others() {
        let fetched = |names: &[&str]| wanted(names.iter().copied()).into_iter().collect::<Vec<_>>();
        let old = [
            "config.json",
            "pytorch_model-00001-of-00002.bin",
            "training_args.bin",
            "x/pytorch_model.bin",
        ];
        assert_eq!(fetched(&old), ["config.json", "pytorch_model-00001-of-00002.bin"]);
        let both = [&old[..], &["model.safetensors"]].concat();
        assert_eq!(fetched(&both), ["config.json", "model.safetensors"]);
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

        let requests = hub.0.asked().len();
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
        assert_eq!(hub.0.asked().len(), requests, "the cache needs no network");

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

    /// A server that answers each path with a head and a body of the test's choice.
    fn serve(answer: impl Fn(&str) -> (String, String) + Send + Sync + 'static) -> Scripted {
        Scripted::answering(move |asked| {
            let (head, body) = answer(&asked.path);
            (head, body.into())
        })
    }

    /// A mirror wrote files anywhere by an ETag or a commit that was a path: no header names a file now.
    #[test]
    fn a_hostile_hub_writes_nothing_outside_the_cache() {
        let home = tempfile::tempdir().unwrap();
        let (cache, victim) = (home.path().join("cache/hub"), home.path().join("authorized_keys"));
        let list = serde_json::json!([
            {"type": "file", "path": "config.json", "size": 2, "oid": "../../../../authorized_keys"},
            {"type": "file", "path": "tokenizer.json", "size": 2, "oid": victim.display().to_string()},
            {"type": "file", "path": "../../../../evil.json", "size": 2, "oid": "a"},
            {"type": "file", "path": "/evil.json", "size": 2, "oid": "b"},
            {"type": "file", "path": ".evil.json", "size": 2, "oid": "c"},
        ])
        .to_string();
        let head = format!(
            "200 OK\r\nETag: \"{0}\"\r\nX-Linked-ETag: \"{0}\"\r\nX-Repo-Commit: ../../../../../../evil",
            victim.display()
        );
        let server = serve(move |path| match path {
            p if p.contains("/revision/") => (head.clone(), format!("{{\"sha\": \"{COMMIT}\"}}")),
            p if p.contains("/tree/") => (head.clone(), list.clone()),
            _ => (head.clone(), "{}".into()),
        });
        let options = HubOptions {
            endpoint: Some(server.address.clone()),
            cache_dir: Some(cache.clone()),
            ..HubOptions::default()
        };
        let name = HubName::parse("fake/tiny").unwrap();
        let dir = name.fetch(&options, model_is_complete).unwrap();
        assert_eq!(fs::read(dir.join("config.json")).unwrap(), b"{}");
        assert!(!victim.exists());
        let mut found = Vec::new();
        for entry in fs::read_dir(home.path()).unwrap() {
            found.push(entry.unwrap().file_name());
        }
        assert_eq!(found, ["cache"], "nothing beside the cache");
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);

        for sha in ["../../../../evil", "", "0123"] {
            let server = serve(move |_| ("200 OK".into(), format!("{{\"sha\": \"{sha}\"}}")));
            let options = HubOptions {
                endpoint: Some(server.address),
                cache_dir: Some(home.path().join("other")),
                ..HubOptions::default()
            };
            let error = name.fetch(&options, model_is_complete).unwrap_err();
            assert!(matches!(error, Error::HubFailed { .. }), "{error}");
        }
    }

    /// A token is for the host that the user named: neither a redirect nor a link to a next page carries it elsewhere.
    #[test]
    fn a_token_goes_to_no_other_host() {
        let other = serve(|_| ("200 OK".into(), "{}".into()));
        let elsewhere = other.address.clone();
        let list = r#"[{"type": "file", "path": "config.json", "size": 2, "oid": "a"}]"#;
        let server = serve(move |path| match path {
            p if p.contains("/revision/") => ("200 OK".into(), format!("{{\"sha\": \"{COMMIT}\"}}")),
            p if p.contains("/tree/") => (
                format!("200 OK\r\nLink: <{elsewhere}/next>; rel=\"next\""),
                list.to_owned(),
            ),
            _ => (format!("302 Found\r\nLocation: {elsewhere}/blob"), String::new()),
        });
        let cache = tempfile::tempdir().unwrap();
        let options = HubOptions {
            endpoint: Some(server.address.clone()),
            token: Some("secret".into()),
            cache_dir: Some(cache.path().to_owned()),
            ..HubOptions::default()
        };
        let dir = HubName::parse("fake/tiny").unwrap();
        let dir = dir.fetch(&options, model_is_complete).unwrap();
        assert_eq!(
            fs::read(dir.join("config.json")).unwrap(),
            b"{}",
            "the redirect was followed"
        );
        assert!(
            server
                .asked()
                .iter()
                .all(|asked| asked.authorization == "Bearer secret")
        );
        let told: Vec<_> = other
            .asked()
            .into_iter()
            .map(|asked| (asked.path, asked.authorization))
            .collect();
        assert_eq!(told, [("/blob".to_owned(), String::new())]);
    }

    /// What a broken connection left is gone on with; what is longer than listed, or another content, is refused.
    #[test]
    fn a_download_is_what_the_list_says_and_goes_on_after_a_break() {
        const TEXT: &str = "{\"model_type\": \"llama\"}";
        let digest = {
            use sha2::Digest as _;
            let bytes = sha2::Sha256::digest(TEXT);
            bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let fetch = |cache: &Path, body: &'static str, size: usize, oid: &str| {
            let list = serde_json::json!([{"type": "file", "path": "config.json", "size": 1, "oid": "a",
                "lfs": {"oid": oid, "size": size}}])
            .to_string();
            let server = serve(move |path| match path {
                p if p.contains("/revision/") => ("200 OK".into(), format!("{{\"sha\": \"{COMMIT}\"}}")),
                p if p.contains("/tree/") => ("200 OK".into(), list.clone()),
                _ if body.starts_with('{') => ("200 OK".into(), body.into()),
                _ => ("206 Partial Content".into(), body.into()),
            });
            let options = HubOptions {
                endpoint: Some(server.address),
                cache_dir: Some(cache.to_owned()),
                ..HubOptions::default()
            };
            HubName::parse("fake/tiny").unwrap().fetch(&options, model_is_complete)
        };
        let cache = tempfile::tempdir().unwrap();
        let long = fetch(cache.path(), TEXT, 10, &digest).unwrap_err();
        assert!(matches!(long, Error::HubFailed { .. }), "{long}");
        let cache = tempfile::tempdir().unwrap();
        let other = fetch(cache.path(), TEXT, TEXT.len(), &"0".repeat(64)).unwrap_err();
        assert!(other.to_string().contains("another content"), "{other}");
        let blobs = cache.path().join("models--fake--tiny/blobs");
        fs::write(blobs.join(format!("{digest}.incomplete")), &TEXT[..5]).unwrap();
        let dir = fetch(cache.path(), &TEXT[5..], TEXT.len(), &digest).unwrap();
        assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), TEXT);
    }

    /// A Hub that sent two bytes of a file of a million terabytes each time was asked again without end.
    #[test]
    fn a_file_that_never_ends_is_given_up() {
        let list = format!(
            r#"[{{"type": "file", "path": "config.json", "size": {}, "oid": "a"}}]"#,
            1u64 << 60
        );
        let server = serve(move |path| match path {
            p if p.contains("/revision/") => ("200 OK".into(), format!("{{\"sha\": \"{COMMIT}\"}}")),
            p if p.contains("/tree/") => ("200 OK".into(), list.clone()),
            _ => ("206 Partial Content".into(), "{}".into()),
        });
        let cache = tempfile::tempdir().unwrap();
        let options = HubOptions {
            endpoint: Some(server.address.clone()),
            cache_dir: Some(cache.path().to_owned()),
            retry_pause: Some(Duration::ZERO),
            ..HubOptions::default()
        };
        let error = Checkpoint::open_model("hf:fake/tiny", &options).unwrap_err();
        assert!(error.to_string().contains("ended after 6 of"), "{error}");
        assert!(
            server.asked().len() <= 8,
            "the commit, the list, three tries of each file"
        );
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
