//! `heterosis data pull`: benchmark data into the local cache, as their authors publish them.
//!
//! GSM8K's and MGSM's files are looked for at several places in turn: with `HF_ENDPOINT` at that Hub first, then in the
//! authors' own repository. What arrives is checked (rows, columns, a digest) before it takes its name. All others come from
//! the Hub (`hub.rs`), of any data set there.

mod hub;

use std::{
    fmt::Write as _,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::{Failure, Outcome, environment, print, replacement};
use crate::{
    checkpoint::HubOptions,
    cli::{DataArgs, DataCommand},
    eval::exemplars,
    yaml,
};

/// A data set and where its files are published.
struct DataSet {
    name: &'static str,
    files: &'static [PublishedFile],
    /// Folder of the authors' repository.
    authors: &'static str,
    /// Data set on the Hub that has the same files.
    hub: &'static str,
    licence: &'static str,
}

struct PublishedFile {
    /// As the tasks read it.
    name: &'static str,
    /// As the authors publish it, where that is another format.
    published: Option<&'static str>,
    rows: usize,
    /// Of the file that heterosis is tested with.
    sha256: &'static str,
}

const fn file(name: &'static str, rows: usize, sha256: &'static str) -> PublishedFile {
    PublishedFile {
        name,
        published: None,
        rows,
        sha256,
    }
}

const DATA_SETS: [DataSet; 2] = [
    DataSet {
        name: "gsm8k",
        files: &[
            file(
                "train.jsonl",
                7473,
                "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
            ),
            file(
                "test.jsonl",
                1319,
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            ),
        ],
        authors: "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data",
        hub: "openai/gsm8k",
        licence: "MIT, © OpenAI. Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168",
    },
    DataSet {
        name: "mgsm",
        files: &[
            file(
                "mgsm_bn.tsv",
                250,
                "6b00bc7cc635547e866989284afa924d789b5affa2eb8de623c385dd943ad977",
            ),
            file(
                "mgsm_de.tsv",
                250,
                "4dfea30fede44b813e2e496f5f0534049e83c7cc8aed6e00600b30ec62053626",
            ),
            file(
                "mgsm_en.tsv",
                250,
                "50021d0f28cc957edcb44e7806425b1c7fbd648ddcb9e0a8ec689d10e57d40fa",
            ),
            file(
                "mgsm_es.tsv",
                250,
                "5bd27ebdf00140cec845c5298dc17715f5cd57d8edda6df1976db40bf3f0750a",
            ),
            file(
                "mgsm_fr.tsv",
                250,
                "36207c1c03fd7cd3ea491441eb755408199f94e4a647851df531bbaedc99d606",
            ),
            file(
                "mgsm_ja.tsv",
                250,
                "59a2b50debe77981fd784cb3b2bef1505e3abf2a37116dc9d7a366ab029b4637",
            ),
            file(
                "mgsm_ru.tsv",
                250,
                "6bd30fd2e80c5bac23f566fb4ae0e6a55a19578401fbf9a01fb21beb3645fef8",
            ),
            file(
                "mgsm_sw.tsv",
                250,
                "2bac828d77229e65d7c7197b1ad4a2cb5b1fe99b163f2cbdd66501de6a2115c4",
            ),
            file(
                "mgsm_te.tsv",
                250,
                "dd6b1452c244bb2e4ba254c01ea84137f80c1cefc57d69c23b0ed88b9c0f36b7",
            ),
            file(
                "mgsm_th.tsv",
                250,
                "f3932dc5ad8e9d0ea82b017adc1e1461dd647af861e7166d6741986602a0cfd6",
            ),
            file(
                "mgsm_zh.tsv",
                250,
                "b2fa63151022370a0de1f4211c8c284eae74b0f5a3b003b1d5982c0d4a73f661",
            ),
            PublishedFile {
                name: "exemplars.json",
                published: Some("exemplars.py"),
                rows: 8,
                sha256: "", // the layout of the JSON is ours
            },
        ],
        authors: "https://raw.githubusercontent.com/google-research/url-nlp/main/mgsm",
        hub: "juletxara/mgsm",
        licence: "CC BY 4.0, © Google Research. Shi et al. 2022, Language Models are Multilingual Chain-of-Thought Reasoners, \
                  arXiv:2210.03057",
    },
];

pub fn data(args: DataArgs) -> Outcome {
    let DataCommand::Pull { names, from } = args.command;
    let mut sets: Vec<&DataSet> = Vec::new();
    let mut of_hub = Vec::new();
    for name in &names {
        match hub::wanted(name)? {
            Some(parts) => of_hub.extend(parts),
            None => sets.push(known(name)?),
        }
    }
    let hub = environment::hub_options();
    if hub.offline {
        return Err(anyhow!(
            "HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or set HETEROSIS_DATA to the data"
        )
        .into());
    }
    let cache = environment::data_cache();
    for set in sets {
        let dir = cache.join(set.name);
        for (i, file) in set.files.iter().enumerate() {
            let bar = environment::progress_bar(set.files.len() as u64, set.name);
            bar.set_position(i as u64);
            let pulled = pull(set, file, &dir, from.as_deref(), &hub);
            bar.finish_and_clear();
            pulled
                .with_context(|| format!("{}/{}", set.name, file.name))
                .map_err(Failure::Work)?;
        }
        let mut source = format!("{}\n", set.licence);
        let _ = writeln!(
            source,
            "Fetched by heterosis from {}",
            from.as_deref().unwrap_or(set.authors)
        );
        replacement::replace(&dir.join("SOURCE"), &source).map_err(Failure::Work)?;
        print(dir.display());
    }
    hub::pull(&of_hub, from.as_deref(), &hub, &cache)?;
    if let Some(elsewhere) = environment::data_dirs().roots.iter().find(|root| **root != cache) {
        tracing::warn!(
            "tasks read {}, as HETEROSIS_DATA says, and not {}; unset HETEROSIS_DATA to use what was fetched",
            elsewhere.display(),
            cache.display()
        );
    }
    Ok(())
}

fn known(name: &str) -> Result<&'static DataSet> {
    let own = DATA_SETS.each_ref().map(|set| set.name);
    let names: Vec<&str> = own.into_iter().chain(hub::names()).collect();
    let found = DATA_SETS.iter().find(|set| set.name == name);
    found.ok_or_else(|| {
        anyhow!(
            "there is no data set '{name}'{}; known: {}; any other of the Hub is called owner/name or owner/name:config",
            yaml::did_you_mean(name, &names),
            names.join(", ")
        )
    })
}

/// One file, unless it is there already.
fn pull(set: &DataSet, file: &PublishedFile, dir: &Path, from: Option<&str>, hub: &HubOptions) -> Result<()> {
    let out = dir.join(file.name);
    if fs::read_to_string(&out).is_ok_and(|text| file.check(&text).is_ok()) {
        return Ok(());
    }
    let mut failures = Vec::new();
    for place in places(set, file, from, hub) {
        let token = hub.token.as_deref().filter(|_| place.on_hub);
        let fetched = fetch(&place.url, token).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("it is no UTF-8"))?;
            let text = match place.is_python {
                true => exemplars::json_of(&text).map_err(anyhow::Error::msg)?,
                false => text,
            };
            file.check(&text)?;
            Ok(text)
        });
        match fetched {
            Ok(text) => {
                if !file.sha256.is_empty() && sha256(&text) != file.sha256 {
                    tracing::warn!(
                        "{} is not the text that heterosis was tested with; scores may differ from published ones",
                        place.url
                    );
                }
                return keep(&out, &text);
            }
            Err(e) => failures.push(format!("{}: {}", place.url, super::in_words(&e))),
        }
    }
    bail!(
        "it cannot be fetched: {}. With --from, a mirror can be named",
        failures.join("; ")
    )
}

struct Place {
    url: String,
    on_hub: bool,
    is_python: bool,
}

/// Where a file may be, in the order in which it is looked for.
fn places(set: &DataSet, file: &PublishedFile, from: Option<&str>, hub: &HubOptions) -> Vec<Place> {
    let published = file.published.unwrap_or(file.name);
    let place = |url: String, on_hub, name: &str| Place {
        url,
        on_hub,
        is_python: name.ends_with(".py"),
    };
    if let Some(from) = from {
        let from = from.trim_end_matches('/');
        return vec![place(format!("{from}/{}/{}", set.name, file.name), false, file.name)];
    }
    let on_hub = hub.endpoint.iter().map(|endpoint| {
        let url = format!(
            "{}/datasets/{}/resolve/main/{published}",
            endpoint.trim_end_matches('/'),
            set.hub
        );
        place(url, true, published)
    });
    let authors = place(format!("{}/{published}", set.authors), false, published);
    on_hub.chain([authors]).collect()
}

impl PublishedFile {
    /// Whether a text is what this file should hold: so many rows of such columns.
    fn check(&self, text: &str) -> Result<()> {
        let rows = match self.name.rsplit('.').next() {
            Some("jsonl") => {
                let mut rows = 0;
                for (i, line) in text.lines().enumerate() {
                    let row: serde_json::Value =
                        serde_json::from_str(line).with_context(|| format!("line {}", i + 1))?;
                    if !row["question"].is_string() || !row["answer"].is_string() {
                        bail!("line {}: a question and an answer are expected", i + 1);
                    }
                    rows += 1;
                }
                rows
            }
            Some("tsv") => {
                if let Some(i) = text.lines().position(|line| line.split('\t').count() != 2) {
                    bail!("line {}: two columns are expected", i + 1);
                }
                text.lines().count()
            }
            _ => {
                let json: serde_json::Value = serde_json::from_str(text)?;
                json["exemplars"]["en"].as_object().map_or(0, serde_json::Map::len)
            }
        };
        match rows == self.rows {
            true => Ok(()),
            false => bail!("it has {rows} rows instead of {}", self.rows),
        }
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Under its name only when it is complete.
fn keep(out: &Path, text: &str) -> Result<()> {
    let dir = out.parent().context("a data file lies in a folder")?;
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut builder = tempfile::Builder::new();
    // Data in a shared cache is everybody's whom the umask lets.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(dir)?;
    temporary.write_all(text.as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary
        .persist(out)
        .with_context(|| format!("cannot write {}", PathBuf::from(out).display()))?;
    Ok(())
}

/// The most that a file of data is let send; the longest has 4 MB.
#[cfg(feature = "hub")]
const LIMIT: u64 = 64 << 20;

#[cfg(feature = "hub")]
fn fetch(url: &str, token: Option<&str>) -> Result<Vec<u8>> {
    Ok(crate::checkpoint::http::Http::default().get(url, token, LIMIT)?.body)
}

#[cfg(not(feature = "hub"))]
fn fetch(_url: &str, _token: Option<&str>) -> Result<Vec<u8>> {
    bail!("this build of the program fetches nothing (feature `hub`); set HETEROSIS_DATA to the data")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::{BufRead, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::checkpoint::scripted::{Asked, Scripted};

    /// A server with a few bodies by path, made when its address is known.
    pub(super) fn serve(bodies: impl FnOnce(&str) -> HashMap<String, Vec<u8>>) -> Scripted {
        Scripted::knowing_itself(|address| {
            let bodies = bodies(address);
            move |asked: &Asked| match bodies.get(&asked.path) {
                Some(body) => ("200 OK".into(), body.clone()),
                None => ("404 Not Found".into(), Vec::new()),
            }
        })
    }

    fn serve_text(path: &str, text: &str) -> Scripted {
        serve(|_| HashMap::from([(path.into(), text.into())]))
    }

    /// Paths, and what came with them as a token.
    fn told(server: &Scripted) -> Vec<(String, String)> {
        let asked = server.asked().into_iter();
        asked.map(|asked| (asked.path, asked.authorization)).collect()
    }

    const TINY: DataSet = DataSet {
        name: "tiny",
        files: &[],
        authors: "http://127.0.0.1:9/nowhere",
        hub: "somebody/tiny",
        licence: "",
    };

    fn pull_tiny(file: &PublishedFile, dir: &Path, from: Option<&str>, endpoint: Option<&str>) -> Result<()> {
        let hub = HubOptions {
            endpoint: endpoint.map(String::from),
            token: Some("secret".into()),
            ..HubOptions::default()
        };
        pull(&TINY, file, dir, from, &hub)
    }

    #[test]
    fn files_come_from_a_mirror_once() {
        let text = "a\t1\nb\t2\n".to_string();
        let server = serve_text("/data/tiny/x.tsv", &text);
        let dir = tempfile::tempdir().unwrap();
        let mirror = format!("{}/data/", server.address);
        let file = file("x.tsv", 2, "");
        pull_tiny(&file, dir.path(), Some(&mirror), None).unwrap();
        pull_tiny(&file, dir.path(), Some(&mirror), None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("x.tsv")).unwrap(), text);
        assert_eq!(
            told(&server),
            [("/data/tiny/x.tsv".into(), String::new())],
            "asked once, and the token stays here"
        );
    }

    #[test]
    fn the_hub_that_hf_endpoint_names_is_asked_first_with_the_token() {
        let python = "EXEMPLAR_NUMBER_ANSWERS = [1]\nEXEMPLAR_EQUATION_SOLUTIONS = []\nMGSM_EXEMPLARS = {\"en\": {\"1\": {\"q\": \"Q\", \"a\": \"A\"}}}";
        let path = "/datasets/somebody/tiny/resolve/main/exemplars.py".to_string();
        let server = serve_text(&path, python);
        let dir = tempfile::tempdir().unwrap();
        let file = PublishedFile {
            name: "exemplars.json",
            published: Some("exemplars.py"),
            rows: 1,
            sha256: "",
        };
        pull_tiny(&file, dir.path(), None, Some(&server.address)).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join("exemplars.json")).unwrap()).unwrap();
        assert_eq!(json["exemplars"]["en"]["1"]["q"], "Q");
        assert_eq!(told(&server), [(path, "Bearer secret".into())]);
    }

    #[test]
    fn what_is_not_there_or_not_it_leaves_nothing_behind() {
        let page = "<html>please log in</html>".to_string();
        let Scripted { address, .. } = serve_text("/tiny/x.tsv", &page);
        let dir = tempfile::tempdir().unwrap();
        let error = |file: &PublishedFile, endpoint: Option<&str>| {
            let from = endpoint.is_none().then_some(address.as_str());
            format!("{:#}", pull_tiny(file, dir.path(), from, endpoint).unwrap_err())
        };
        let message = error(&file("x.tsv", 2, ""), None);
        assert!(message.contains("two columns are expected"), "{message}");
        let message = error(&file("y.tsv", 2, ""), None);
        assert!(message.contains("404"), "{message}");
        let message = error(&file("y.tsv", 2, ""), Some(&address));
        assert!(
            message.contains("404") && message.contains("127.0.0.1:9"),
            "both places are named: {message}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A server that never stopped sending filled the memory, 4.3 GB in 20 seconds.
    #[test]
    fn a_body_without_end_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines
                .by_ref()
                .map_while(Result::ok)
                .take_while(|l| !l.is_empty())
                .count();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .unwrap();
            while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        });
        let dir = tempfile::tempdir().unwrap();
        let error = pull_tiny(&file("x.tsv", 2, ""), dir.path(), Some(&address), None).unwrap_err();
        assert!(format!("{error:#}").contains("more than 67108864 bytes"), "{error:#}");
    }

    #[test]
    fn rows_are_counted() {
        assert!(
            file("x.jsonl", 1, "")
                .check("{\"question\": \"q\", \"answer\": \"a\"}\n")
                .is_ok()
        );
        assert!(file("x.jsonl", 1, "").check("{\"question\": \"q\"}\n").is_err());
        let message = file("x.tsv", 3, "").check("a\tb\n").unwrap_err().to_string();
        assert_eq!(message, "it has 1 rows instead of 3");
        assert!(known("gsm8").is_err_and(|e| e.to_string().contains("gsm8k")));
    }
}
