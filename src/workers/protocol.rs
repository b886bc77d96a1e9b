//! What coordinator and workers say to each other, in plain fields with bounds.
//!
//! Every message is read by [`read`] and nothing else: it is not longer than it may be, it has no unknown field, and it is of
//! this version. What it names are places in lists and names in maps of the reader's own; there is no path and no command in
//! any of them. Who may write to a subject is the server's affair (`docs/nats.conf`).

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::Refusal;
use crate::{
    event,
    recipe::{Body, Recipe},
    search::{Computation, Kept, Part, Work},
};

/// Of what is said here; another one is not understood.
pub const VERSION: u32 = 1;

/// What any message may hold, in bytes; a server's own bound is 1 MiB unless its configuration says otherwise.
pub const MOST_BYTES: usize = 8 << 20;

/// Questions of one unit of work, at most.
pub const MOST_QUESTIONS: usize = 4096;

/// Characters of a reason, a name, a stage.
const MOST_REASON: usize = 4000;
const MOST_NAME: usize = 128;

/// Stages of a recipe of a message, layers of one stage, and what a vocabulary may be padded to a multiple of.
const MOST_SLICES: usize = 4096;
const MOST_LAYERS: usize = 1 << 16;
const MOST_PADDING: usize = 1 << 16;

/// Where a run's messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects(String);

/// All subjects of all runs begin so.
const ROOT: &str = "heterosis";

/// On which coordinators of all runs say that they are there.
pub const EVERY_HERE: &str = "heterosis.*.here";

impl Subjects {
    pub fn of(run: &RunId) -> Self {
        Self(format!("{ROOT}.{}", run.0))
    }

    /// Units of work; in a stream.
    pub fn ask(&self) -> String {
        format!("{}.ask", self.0)
    }

    /// What came of them; in a stream.
    pub fn tell(&self) -> String {
        format!("{}.tell", self.0)
    }

    /// Signs of life of the workers.
    pub fn sign(&self) -> String {
        format!("{}.sign", self.0)
    }

    /// Where documents are asked for.
    pub fn documents(&self) -> String {
        format!("{}.documents", self.0)
    }

    /// Signs of life of the coordinator.
    pub fn here(&self) -> String {
        format!("{}.here", self.0)
    }
}

/// A run's name on the server: 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RunId(String);

impl RunId {
    pub fn of(number: u64) -> Self {
        Self(format!("{number:016x}"))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// The run that a subject belongs to.
    pub fn of_subject(subject: &str) -> Option<Self> {
        let id = subject.strip_prefix(ROOT)?.strip_prefix('.')?.split('.').next()?;
        Self::try_from(id.to_string()).ok()
    }

    /// The stream of its units of work.
    pub fn ask_stream(&self) -> String {
        format!("HETEROSIS_ASK_{}", self.0)
    }

    /// The stream of what came of them.
    pub fn tell_stream(&self) -> String {
        format!("HETEROSIS_TELL_{}", self.0)
    }
}

impl TryFrom<String> for RunId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.len() == 16 && text.bytes().all(is_hex) {
            true => Ok(Self(text)),
            false => Err("a run's id is 16 hexadecimal digits".into()),
        }
    }
}

/// What computes: answers of two kinds may differ in their last digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Digest of the sources that compute.
    pub build: String,
    pub instruction_set: String,
    /// `cpu` or `cuda`.
    pub device: String,
    pub dtype: String,
    /// The engine that answers instead of heterosis's own, its version included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

impl Kind {
    pub fn of(computation: &Computation) -> Self {
        Self {
            build: computation.build.clone(),
            instruction_set: computation.instruction_set.clone(),
            device: computation.device.into(),
            dtype: computation.dtype.name().into(),
            engine: computation.engine.clone(),
        }
    }

    /// `None` of a device or precision that this program does not know.
    pub fn computation(&self) -> Option<Computation> {
        Some(Computation {
            build: self.build.clone(),
            instruction_set: self.instruction_set.clone(),
            device: ["cpu", "cuda"].into_iter().find(|device| *device == self.device)?,
            dtype: self.dtype.parse().ok()?,
            engine: self.engine.clone(),
        })
    }

    /// The computation that [`Self::words`] mean, of the same build as another one.
    pub fn of_words(words: &str, own: &Computation) -> Option<Computation> {
        let mut words = words.splitn(4, ' ').map(String::from);
        let kind = Self {
            build: own.build.clone(),
            device: words.next()?,
            dtype: words.next()?,
            instruction_set: words.next()?,
            engine: words.next(),
        };
        kind.computation()
    }

    /// `cuda bf16 avx512`, and behind it the engine, if that is another one.
    pub fn words(&self) -> String {
        let own = [&self.device, &self.dtype, &self.instruction_set].into_iter();
        own.chain(&self.engine)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A coordinator is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Here {
    pub v: u32,
    pub run: RunId,
    pub name: String,
    /// Digest of the plan document.
    pub plan: String,
    /// The run is over, or its coordinator goes: there will be no work for a while.
    pub over: bool,
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub v: u32,
    pub run: RunId,
    pub plan: String,
    /// Goes back with what came of it: who cannot read the queue cannot answer.
    pub token: String,
    /// Digest of what is to be done.
    pub key: String,
    /// For people: the candidate.
    pub id: String,
    /// What the answers' keys begin with; goes back as it came.
    pub weights: String,
    pub recipe: Recipe,
    pub guarded: bool,
    pub parts: Vec<Part>,
}

impl Ask {
    pub fn work(&self) -> Work {
        Work {
            recipe: self.recipe.clone(),
            is_guarded: self.guarded,
            parts: self.parts.clone(),
        }
    }
}

/// The name of a unit of work: the same work of the same plan has the same one.
pub fn key_of(plan: &str, weights: &str, work: &Work) -> String {
    let text = serde_json::to_string(&(plan, weights, &work.recipe, work.is_guarded, &work.parts));
    let text = text.expect("a unit of work is plain data");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// What came of a unit of work, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    pub v: u32,
    pub run: RunId,
    pub plan: String,
    pub token: String,
    pub key: String,
    pub worker: String,
    pub kind: Kind,
    pub weights: String,
    pub came: Came,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Came {
    /// Several messages of these make a unit that is too long for one.
    Answers {
        answers: Vec<Told>,
        merge_ms: u64,
        evaluation_ms: u64,
    },
    /// The candidate's own fault.
    Candidate { reason: String },
    /// The worker's.
    Machine { reason: String },
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    pub task: usize,
    pub split: String,
    pub item: usize,
    pub kept: Kept,
}

/// A worker is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    pub v: u32,
    pub run: RunId,
    pub plan: String,
    pub worker: String,
    pub host: String,
    /// With its number: `cuda:1`.
    pub device: String,
    pub kind: Kind,
    pub state: SignState,
    pub answers: u64,
    pub busy_ms: u64,
    pub here_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SignState {
    Idle,
    Working {
        key: String,
        progress: event::Progress,
    },
    /// It goes; what it had is handed back.
    Left {
        reason: String,
    },
    /// It cannot work for this run.
    Unfit {
        reasons: Vec<String>,
    },
}

/// A piece of a document is wanted: `plan`, or `list/TASK/SPLIT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub v: u32,
    pub run: RunId,
    pub document: String,
    pub from: usize,
}

/// Bytes of a piece.
pub const PIECE: usize = 256 << 10;

/// A message that is this version's own.
pub trait Message: DeserializeOwned {
    /// # Errors
    /// What is wrong with it.
    fn check(&self) -> Result<(), Refusal>;
}

/// Reads a message of somebody else.
///
/// # Errors
/// Why it is refused.
pub fn read<M: Message>(bytes: &[u8]) -> Result<M, Refusal> {
    if bytes.len() > MOST_BYTES {
        return Err(Refusal::TooLong { bytes: bytes.len() });
    }
    let message: M = serde_json::from_slice(bytes).map_err(|e| Refusal::Malformed { reason: e.to_string() })?;
    message.check()?;
    Ok(message)
}

/// As it is sent.
pub fn written<M: Serialize>(message: &M) -> Vec<u8> {
    serde_json::to_vec(message).expect("a message is plain data")
}

fn version(v: u32) -> Result<(), Refusal> {
    match v == VERSION {
        true => Ok(()),
        false => Err(Refusal::Version { version: v }),
    }
}

fn malformed(reason: &str) -> Refusal {
    Refusal::Malformed { reason: reason.into() }
}

/// A digest, or a token: hexadecimal, of a sensible length.
fn hex(text: &str) -> Result<(), Refusal> {
    match text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(()),
        false => Err(malformed("a digest is hexadecimal")),
    }
}

/// What people are shown; what a terminal obeys is left out where it is printed.
fn name(text: &str) -> Result<(), Refusal> {
    match !text.is_empty() && text.len() <= MOST_NAME {
        true => Ok(()),
        false => Err(malformed("a name is empty or too long")),
    }
}

fn kind(kind: &Kind) -> Result<(), Refusal> {
    let own = [&kind.build, &kind.device, &kind.dtype, &kind.instruction_set];
    let mut words = own.into_iter().chain(&kind.engine);
    words.try_for_each(|text| name(text))
}

fn reason(text: &str) -> Result<(), Refusal> {
    match text.len() <= MOST_REASON {
        true => Ok(()),
        false => Err(malformed("a reason is too long")),
    }
}

/// A reason that may be said.
pub fn shortened(text: &str) -> String {
    text.chars().take(MOST_REASON / 4).collect()
}

impl Message for Here {
    fn check(&self) -> Result<(), Refusal> {
        version(self.v)?;
        name(&self.name)?;
        hex(&self.plan)
    }
}

impl Message for Ask {
    fn check(&self) -> Result<(), Refusal> {
        version(self.v)?;
        name(&self.id)?;
        [&self.plan, &self.token, &self.key, &self.weights]
            .into_iter()
            .try_for_each(|text| hex(text))?;
        let questions: usize = self.parts.iter().map(|part| part.items.len()).sum();
        if questions == 0 || questions > MOST_QUESTIONS {
            return Err(malformed("a unit of work has no question, or too many"));
        }
        let is_ascending = |part: &Part| part.items.windows(2).all(|pair| pair[0] < pair[1]);
        if !self.parts.iter().all(is_ascending) {
            return Err(malformed("questions are not in their order"));
        }
        bounded(&self.recipe)
    }
}

/// A recipe of a message may ask for no more than any model has.
fn bounded(recipe: &Recipe) -> Result<(), Refusal> {
    if recipe.stages.is_empty() || recipe.stages.len() > MOST_SLICES {
        return Err(malformed("a recipe has no stage, or too many"));
    }
    for stage in &recipe.stages {
        let pads = stage
            .tokenizer
            .as_ref()
            .and_then(|tokenizer| tokenizer.pad_to_multiple_of);
        if pads.is_some_and(|multiple| multiple > MOST_PADDING) {
            return Err(malformed("a recipe pads its vocabulary beyond reason"));
        }
        let Body::Slices(slices) = &stage.body else { continue };
        let ranges = slices
            .iter()
            .flat_map(|slice| &slice.sources)
            .map(|source| source.layer_range);
        let layers = ranges.map(|range| range.map_or(1, |[from, to]| to.saturating_sub(from)));
        let layers = layers.fold(0, usize::saturating_add);
        if layers > MOST_LAYERS {
            return Err(malformed("a recipe has too many layers"));
        }
    }
    Ok(())
}

impl Message for Tell {
    fn check(&self) -> Result<(), Refusal> {
        version(self.v)?;
        name(&self.worker)?;
        kind(&self.kind)?;
        [&self.plan, &self.token, &self.key, &self.weights]
            .into_iter()
            .try_for_each(|text| hex(text))?;
        match &self.came {
            Came::Answers { answers, .. } if answers.len() > MOST_QUESTIONS => Err(malformed("too many answers")),
            Came::Answers { answers, .. } => {
                let is_sound = |told: &Told| {
                    told.split.len() <= MOST_NAME
                        && told.kept.finish.len() <= MOST_NAME
                        && told.kept.score.is_none_or(f64::is_finite)
                };
                match answers.iter().all(is_sound) {
                    true => Ok(()),
                    false => Err(malformed("an answer is none")),
                }
            }
            Came::Candidate { reason: text } | Came::Machine { reason: text } => reason(text),
        }
    }
}

impl Message for Sign {
    fn check(&self) -> Result<(), Refusal> {
        version(self.v)?;
        hex(&self.plan)?;
        [&self.worker, &self.host, &self.device]
            .into_iter()
            .try_for_each(|text| name(text))?;
        kind(&self.kind)?;
        match &self.state {
            SignState::Idle => Ok(()),
            SignState::Working { key, progress } => {
                hex(key)?;
                name(&progress.stage)?;
                name(&progress.id)?;
                match progress.tokens_per_s.is_finite() {
                    true => Ok(()),
                    false => Err(malformed("a speed is no number")),
                }
            }
            SignState::Left { reason: text } => reason(text),
            SignState::Unfit { reasons } if reasons.len() > 64 => Err(malformed("too many reasons")),
            SignState::Unfit { reasons } => reasons.iter().try_for_each(|text| reason(text)),
        }
    }
}

impl Message for Wanted {
    fn check(&self) -> Result<(), Refusal> {
        version(self.v)?;
        name(&self.document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::verbatim;

    fn ask() -> Ask {
        Ask {
            v: VERSION,
            run: RunId::of(7),
            plan: "ab".into(),
            token: "cd".into(),
            key: "ef".into(),
            id: "c0001".into(),
            weights: "01".into(),
            recipe: verbatim("maths"),
            guarded: true,
            parts: vec![Part {
                task: 0,
                split: "search".into(),
                items: vec![0, 3],
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_odd_is_refused() {
        assert_eq!(read::<Ask>(&written(&ask())).unwrap(), ask());
        let odd = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(ask()).unwrap();
            change(&mut value);
            read::<Ask>(value.to_string().as_bytes()).unwrap_err().to_string()
        };
        for (change, says) in [
            (
                &(|v: &mut serde_json::Value| v["v"] = 2.into()) as &dyn Fn(&mut serde_json::Value),
                "version 2",
            ),
            (&|v| v["run"] = "../../etc".into(), "16 hexadecimal"),
            (&|v| v["key"] = "; rm -rf /".into(), "hexadecimal"),
            (&|v| v["command"] = "sh".into(), "unknown field"),
            (&|v| v["parts"] = serde_json::json!([]), "no question"),
            (&|v| v["parts"][0]["items"] = serde_json::json!([3, 0]), "order"),
            (
                &|v| v["parts"][0]["items"] = serde_json::json!((0..5000).collect::<Vec<_>>()),
                "too many",
            ),
            (&|v| v["id"] = "x".repeat(200).into(), "too long"),
            (&|v| v["recipe"] = serde_json::json!({"stages": []}), "no stage"),
            (
                &|v| {
                    v["recipe"] = serde_json::json!({"stages": [{"merge_method": "passthrough", "slices":
                        [{"sources": [{"model": "maths", "layer_range": [0, 4_000_000_000_u64]}]}]}]});
                },
                "too many layers",
            ),
        ] {
            let said = odd(change);
            assert!(said.contains(says), "{said}");
        }
        assert!(matches!(
            read::<Ask>(&vec![b' '; MOST_BYTES + 1]),
            Err(Refusal::TooLong { .. })
        ));
        assert!(read::<Ask>(&[b'['; 100_000]).is_err(), "nested beyond reason");
        assert!(read::<Sign>(b"\xff\xfe").is_err());
    }

    #[test]
    fn the_run_of_a_subject_is_sixteen_digits_or_none() {
        let run = RunId::of(0xabc);
        assert_eq!(RunId::of_subject(&Subjects::of(&run).here()), Some(run));
        for foreign in [
            "heterosis.x.here",
            "heterosis..here",
            "other.0000000000000abc.here",
            "heterosis",
        ] {
            assert_eq!(RunId::of_subject(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_same_work_has_the_same_key() {
        let (work, key) = (ask().work(), |work: &Work| key_of("plan", "weights", work));
        let mut other = work.clone();
        other.parts[0].items.push(9);
        assert_eq!(key(&work), key(&work.clone()));
        assert_ne!(key(&work), key(&other));
        assert_ne!(key(&work), key_of("another", "weights", &work));
    }
}
