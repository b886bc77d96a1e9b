//! `provenance.json`: where an export came from, and looking at it again: every hash, and its first answers.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, ProvenanceError};
use crate::{
    checkpoint::{self, HubOptions},
    event,
    model::{Engine, Generation, Request, ScoreRequest},
    models::{Computed, Opened, Runtime, RuntimeOptions},
};

/// The most that the document may hold, 16 MiB.
const LONGEST_DOCUMENT: u64 = 16 << 20;
/// The most answers that are given again, and the most tokens of each: what asks for more was not written here.
const MOST_ANSWERS: usize = 4096;
const MOST_NEW_TOKENS: usize = 1 << 15;

/// How much likelier, in nats, the token that a child picks now may be than the one that it picked in the run, before this
/// is another child. Sums in another order move logits: on one machine's CPU not at all, between processors in the last
/// digits of f32; in half precision, where a GPU's sums depend on what shares the batch, a thousand times as much (of 64
/// answers of SmolLM2-135M that transformers wrote in bf16, 15 part from those in f32 by more than 0.01, at most by 0.2).
fn tie(dtype: &str) -> f64 {
    if dtype == "f32" { 0.01 } else { 0.5 }
}

/// `provenance.json`.
#[derive(Serialize, Deserialize)]
pub struct Provenance {
    pub(super) schema_version: u32,
    pub(super) run: String,
    pub(super) candidate: String,
    pub(super) engine_version: String,
    pub(super) seed: u64,
    pub(super) space_digest: String,
    pub(super) recipe_digest: String,
    pub(super) parents: Vec<ParentProvenance>,
    pub(super) tasks: Vec<event::Task>,
    /// What became another one while the run went on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) changes: Vec<event::changes::Change>,
    /// Candidates that the budget paid for, failed ones included: parents, unsearched merges and means are free.
    pub(super) evals: u64,
    /// Whether any question stands in two parts of the run; absent in runs of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) questions: Option<event::QuestionsCompared>,
    /// The one reading of the test split, if it was read.
    pub(super) test: Option<event::TestReading>,
    /// What the child makes of tasks that are no part of the fitness, if the run had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_out: Option<event::HeldOutReading>,
    pub(super) outputs: Vec<FileHash>,
    /// How the first answers were given; exports before there was this have it from the CPU, in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) computed: Option<Computed>,
    pub(super) first_answers: Vec<FirstAnswer>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ParentProvenance {
    pub(super) name: String,
    pub(super) model: String,
    /// BLAKE3 of the content, as the run saw it.
    pub(super) digest: String,
    pub(super) files: Vec<FileHash>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FileHash {
    pub(super) file: String,
    pub(super) size_bytes: u64,
    pub(super) sha256: String,
}

/// A question of the run and what the child wrote, to be repeated by `verify`.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct FirstAnswer {
    pub(super) question: String,
    pub(super) prompt: String,
    pub(super) max_new_tokens: usize,
    pub(super) stop: Vec<String>,
    pub(super) output: String,
    /// Empty where only the text is known.
    #[serde(default)]
    pub(super) token_ids: Vec<u32>,
}

/// An export, as its provenance says that it was written.
pub struct Exported {
    out: PathBuf,
    provenance: Provenance,
}

impl Exported {
    /// Reads what an export says of itself.
    ///
    /// # Errors
    /// The directory is no export, or asks for more than one may.
    pub fn open(out: &Path) -> Result<Self, Error> {
        let file = out.join("provenance.json");
        let text = checkpoint::read_regular_text(&file, LONGEST_DOCUMENT).map_err(|source| Error::NoExport {
            out: out.into(),
            file: file.clone(),
            source,
        })?;
        let provenance = parse(&text).map_err(|source| Error::Provenance { file, source })?;
        Ok(Self {
            out: out.into(),
            provenance,
        })
    }

    /// Files that were written.
    pub fn files(&self) -> usize {
        self.provenance.outputs.len()
    }

    /// Answers that can be given again.
    pub fn answers(&self) -> usize {
        self.provenance.first_answers.len()
    }

    /// What is not as it was written: files that lie there and were not, and files whose SHA-256 is another.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn changed_files(&self) -> Result<Vec<String>, Error> {
        let mut problems = strangers(&self.out, &self.provenance)?;
        for output in &self.provenance.outputs {
            match hash(&self.out.join(&output.file)) {
                Err(Error::Io { path, source }) => problems.push(format!("{}: {source}", path.display())),
                Err(e) => problems.push(e.to_string()),
                Ok(now) if now.sha256 != output.sha256 => problems.push(format!(
                    "{}: its SHA-256 is {}, not {}",
                    output.file, now.sha256, output.sha256
                )),
                Ok(_) => {}
            }
        }
        Ok(problems)
    }

    /// As the answers were computed, unless something else is wanted.
    pub fn again(&self, wanted: &RuntimeOptions) -> RuntimeOptions {
        // Exports before there was this have it from the CPU.
        let usual = || Computed {
            device: "cpu".into(),
            dtype: "f32".into(),
        };
        let computed = self.provenance.computed.clone();
        computed.unwrap_or_else(usual).again(wanted)
    }

    /// Has the first answers given again; how each differs by more than rounding, where it does.
    ///
    /// # Errors
    /// The model cannot be opened or run.
    pub fn changed_answers(&self, runtime: &Runtime) -> Result<Vec<String>, Error> {
        let given = answer_again(&self.out, &self.provenance.first_answers, runtime)?;
        Ok(given.into_iter().filter_map(|again| again.other).collect())
    }
}

pub(super) fn hash(file: &Path) -> Result<FileHash, Error> {
    let read = || -> std::io::Result<(u64, String)> {
        let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        let mut reader = checkpoint::open_regular(file)?;
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
        }
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((size, hex))
    };
    let (size_bytes, sha256) = read().map_err(Error::io(file))?;
    let name = file.file_name().unwrap_or(file.as_os_str());
    Ok(FileHash {
        file: name.to_string_lossy().into_owned(),
        size_bytes,
        sha256,
    })
}

/// An answer given a second time.
pub(super) struct Again {
    pub(super) given: Generation,
    /// How it differs from the first one by more than rounding, if it does.
    pub(super) other: Option<String>,
}

pub(super) fn answer_again(model: &Path, asked: &[FirstAnswer], runtime: &Runtime) -> Result<Vec<Again>, Error> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let mut engine = Opened::open(&model.display().to_string(), &HubOptions::default())?.engine(runtime)?;
    let mut requests = Vec::new();
    for question in asked {
        requests.push(Request {
            prompt: engine.tokenizer().encode_prompt(&question.prompt)?,
            // Tokens after those that are known would be compared with nothing.
            max_new_tokens: match question.token_ids.len() {
                0 => question.max_new_tokens,
                known => known.min(question.max_new_tokens),
            },
            stop: Arc::from(question.stop.clone()),
            stop_when: None,
            loop_guard: false,
            sampling: None,
        });
    }
    let given = engine.generate(&requests, &mut |_| {})?;
    let most = tie(&runtime.computed().dtype);
    let mut all = Vec::new();
    for ((question, request), given) in asked.iter().zip(&requests).zip(given) {
        let lead = lead(&mut engine, question, &request.prompt, &given)?;
        let other = lead.filter(|lead| *lead > most).map(|lead| {
            format!(
                "{}: it writes {:?}, not {:?}; where they part its own token is {lead:.3} nats the likelier, and rounding \
                 makes at most {most}",
                question.question, given.text, question.output
            )
        });
        all.push(Again { given, other });
    }
    Ok(all)
}

/// How much likelier, in nats, the first token that differs from the known answer is than the one that stood there; `None`
/// if none differs. Of an answer whose text alone is known more may be written now: the search ends one as soon as it stands.
fn lead(engine: &mut Engine, known: &FirstAnswer, prompt: &[u32], given: &Generation) -> Result<Option<f64>, Error> {
    let first = match known.token_ids.as_slice() {
        [] if given.text.starts_with(known.output.trim_end()) => return Ok(None),
        [] => {
            let whole = engine
                .tokenizer()
                .encode_prompt(&format!("{}{}", known.prompt, known.output))?;
            match whole.strip_prefix(prompt) {
                Some(first) => first.to_vec(),
                None => engine.tokenizer().encode(&known.output, false)?,
            }
        }
        ids => ids.to_vec(),
    };
    let mut pairs = first.iter().zip(&given.token_ids);
    let Some(at) = pairs.position(|(first, now)| first != now) else {
        return Ok(None);
    };
    let after = |token: u32| {
        let tokens = [prompt, &given.token_ids[..at], &[token]].concat();
        ScoreRequest {
            from: tokens.len() - 1,
            tokens,
        }
    };
    let scores = engine.score(&[after(given.token_ids[at]), after(first[at])])?;
    Ok(Some(scores[0].log_likelihood - scores[1].log_likelihood))
}

/// Whether a text is a `provenance.json` that [`Exported`] goes on with.
///
/// # Errors
/// It is no such document, or asks for more than an export may.
pub fn read_provenance(text: &str) -> Result<(), ProvenanceError> {
    parse(text).map(drop)
}

/// A provenance that asks for no more than one that was written here can: files of its own directory, and few and short
/// answers.
fn parse(text: &str) -> Result<Provenance, ProvenanceError> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    // First of all: what a newer one says may have another form, or another meaning.
    let Versioned { schema_version } = serde_json::from_str(text)?;
    if schema_version > event::SCHEMA_VERSION {
        return Err(ProvenanceError::Newer {
            version: schema_version,
            known: event::SCHEMA_VERSION,
        });
    }
    let provenance: Provenance = serde_json::from_str(text)?;
    if let Some(output) = provenance
        .outputs
        .iter()
        .find(|o| Path::new(&o.file).file_name() != Some(o.file.as_ref()))
    {
        return Err(ProvenanceError::NotBeside {
            file: output.file.clone(),
        });
    }
    if provenance.first_answers.len() > MOST_ANSWERS {
        return Err(ProvenanceError::TooMany {
            answers: provenance.first_answers.len(),
            most: MOST_ANSWERS,
        });
    }
    match provenance
        .first_answers
        .iter()
        .find(|a| a.max_new_tokens > MOST_NEW_TOKENS)
    {
        Some(answer) => Err(ProvenanceError::TooLong {
            question: answer.question.clone(),
            tokens: answer.max_new_tokens,
            most: MOST_NEW_TOKENS,
        }),
        None => Ok(provenance),
    }
}

/// Files that lie in the export and are none of it: code that a loader would run, weights that it would take.
fn strangers(out: &Path, provenance: &Provenance) -> Result<Vec<String>, Error> {
    let listed: BTreeSet<&str> = provenance.outputs.iter().map(|o| o.file.as_str()).collect();
    let mut names = Vec::new();
    for entry in fs::read_dir(out).map_err(Error::io(out))? {
        names.push(
            entry
                .map_err(Error::io(out))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    names.retain(|name| name != "provenance.json" && !listed.contains(name.as_str()));
    let told = names
        .into_iter()
        .map(|name| format!("{name}: it was not exported, and provenance.json does not list it"));
    Ok(told.collect())
}
