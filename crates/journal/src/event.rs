//! What happened, in plain fields of its own: the machine-readable contract between the search and everybody who watches.
//!
//! The journal holds these, one JSON line each; the dashboard, the report, `status`, `watch` and `resume` read nothing
//! else. A field may be added; a field that is renamed, removed or changes its meaning bumps [`SCHEMA_VERSION`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use changes::Change;

pub mod axes;
pub mod changes;
pub mod exam;
pub mod freshness;
mod id;
pub mod interval;
pub mod lessons;
pub mod normalized;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)] // for tests alone
pub mod rehearsal;
pub mod run;
pub mod scale;
pub mod shrinkage;
pub mod standing;
pub mod verdict;
pub mod weights;
mod wording;
pub mod words;

pub use freshness::QuestionsCompared;
pub use id::{CandidateId, IdError};
pub use wording::QuestionTexts;

/// Version of the journal's lines and of every JSON document that heterosis prints.
pub const SCHEMA_VERSION: u32 = 1;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    /// Position in the journal, from 0.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line of every journal.
    RunStarted(RunStarted),
    /// A process took the run up again, after a stop or a crash.
    RunResumed {
        engine_version: String,
        /// As in [`RunStarted`]; empty in older journals.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        engine_build: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        instruction_set: String,
    },
    /// The run goes on with something else than it began with, because somebody said so.
    RunChanged {
        changes: Vec<Change>,
    },
    /// Whether any question stands in two parts of the run; before the first candidate. Journals of older builds have none.
    QuestionsCompared(QuestionsCompared),
    /// What the questions of one task and split ask; before the first candidate. Journals of older builds have none.
    QuestionTexts(QuestionTexts),
    PhaseStarted {
        phase: Phase,
    },
    /// Work on a candidate has begun. Live only, unless others are out at the same time: then it is journalled, so that a
    /// resumed run repeats the order in which candidates were asked for and answered.
    CandidateStarted {
        id: String,
        origin: Origin,
        generation: Option<u64>,
    },
    /// Live only, not journalled.
    Progress(Progress),
    /// A search of several stages goes on with the next one; see [`StageStarted`].
    StageStarted(StageStarted),
    /// Where a round of learning stands. Live only, not journalled.
    Learning(Learning),
    /// A round of learning is over; the candidate that it makes is scored next.
    Learned(Learned),
    /// Answers of one candidate to one task; the scores in `candidate_scored` are computed from these. In a race a
    /// candidate is asked several times, and each time adds to what stands here.
    Answers(Answers),
    CandidateScored(Candidate),
    /// A failed candidate is a value: it ranks last, and the search goes on.
    CandidateFailed {
        id: String,
        origin: Origin,
        generation: Option<u64>,
        recipe_digest: String,
        reason: String,
    },
    GenerationEnded(Generation),
    /// What the final is going to ask; once more where its limits were changed afterwards.
    FinalPlanned(FinalPlan),
    /// A part of the final begins.
    ExamStarted(ExamStarted),
    /// One of those who take part has answered all of it.
    ExamAnswered(ExamAnswered),
    /// No more candidates are asked for; what follows is the final.
    SearchEnded {
        reason: EndReason,
        evals: u64,
    },
    /// The selection questions decide among the finalists.
    Selected(Selection),
    /// The one reading of the test split.
    TestRead(TestReading),
    /// The winner and the parents on tasks that the search never asked.
    HeldOutRead(HeldOutReading),
    /// The weights of `run_started.tasks` are these from here on: each is divided by a standard error.
    Scaled {
        weights: Vec<f64>,
    },
    /// A language model was asked for advice on the search, so that nobody asks it again.
    Advised(Advice),
    /// A command's scores of a finalist, so that nobody is asked again by a run that was killed in the final.
    Scores(Scores),
    /// Whoever evaluates for this run elsewhere: they came, went or were turned away, and from time to time what they do.
    /// Other words of theirs are live only, not journalled.
    Worker(Worker),
    /// Work stopped before the run was done; `resume` goes on.
    RunStopped {
        reason: String,
    },
    RunDone {
        evals: u64,
        answers: u64,
        elapsed_ms: u64,
    },
    RunFailed {
        reason: String,
    },
    Log {
        level: Level,
        message: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    pub name: String,
    pub engine_version: String,
    /// Digest of the sources that compute, and what they use of the processor; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_build: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instruction_set: String,
    /// Who answers instead of the engine of heterosis: name, version and device; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    pub seed: u64,
    /// BLAKE3 of the filled-in search space.
    pub space_digest: String,
    pub budget: Budget,
    pub models: Vec<Model>,
    pub tasks: Vec<Task>,
    /// Tasks that only the final asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<Task>,
    pub optimizer: String,
    pub genes: Vec<String>,
    pub population: usize,
    pub device: String,
    pub dtype: String,
    /// System, processor, memory and graphics cards, for people; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// The length of answers is an objective beside the tasks; less is better.
    #[serde(default, skip_serializing_if = "is_false")]
    pub counts_tokens: bool,
    /// How much each of a command's scores counts, by name; less is better where the weight is negative.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub score_weights: BTreeMap<String, f64>,
    /// Absent where nothing is learned, and in older journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<LearningPlan>,
}

impl RunStarted {
    /// What answers, and in which precision: `cpu f32`, `vllm (0.33.0) on cuda, bf16`.
    pub fn answered_by(&self) -> String {
        match self.engine.is_empty() {
            true => format!("{} {}", self.device, self.dtype),
            false => format!("{}, {}", self.engine, self.dtype),
        }
    }
}

/// How much a search is going to learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearningPlan {
    /// Rounds before the first stage's optimizer begins. One that is told to be worse ends them, and more follow while each is
    /// told to be better.
    pub rounds: usize,
    /// Rounds after the stages of the search, at most, all of them together.
    pub rounds_after: usize,
    /// Of a round.
    pub steps: usize,
    /// Texts of a step.
    pub batch: usize,
    /// Questions, over all tasks, whose answers teach in each round but the first.
    pub questions: usize,
}

/// The first stage is told by `run_started` too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageStarted {
    /// `parameter_space` (with widening `parameter_space_global` and perhaps `parameter_space_modules` before it),
    /// `data_flow_space`, `joint` or `genes`.
    pub stage: String,
    pub optimizer: String,
    /// The genes of this stage's candidates, in the order of their genotypes.
    pub genes: Vec<String>,
    /// Candidates evaluated before it.
    pub evals: u64,
}

/// What ends the search; whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    pub evals: Option<u64>,
    pub duration_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Short name in the search space.
    pub name: String,
    /// MODEL, its path made absolute.
    pub model: String,
    /// As the user wrote it; empty where that is the same, and in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub given: String,
    pub digest: String,
    /// Of its tokenizer, chat template and generation config; empty without a tokenizer, and in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tokenizer_digest: String,
    pub is_base: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub task: String,
    pub lang: String,
    pub split: String,
    pub weight: f64,
    /// Questions that each candidate answers.
    pub n: usize,
    pub digest: String,
    /// Name of the score: `exact_match` or `log_likelihood`.
    pub metric: String,
    /// What its file says of it; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Parents and unsearched baselines.
    Baselines,
    Search,
    /// Finalists on the selection questions.
    Selection,
    /// The test split, once.
    Test,
    /// Tasks that the search never asked.
    HeldOut,
}

/// Where a candidate came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// One of the models, as it is.
    Parent,
    /// An unsearched merge: equal-weight linear, TIES at its defaults.
    Baseline,
    /// A known recipe handed to the optimizer, or a merge of some experts that was tried for its start.
    WarmStart,
    /// A draw without an optimizer, to be measured against.
    Random,
    /// A sample of the optimizer.
    Search,
    /// The mean of the optimizer's distribution.
    Mean,
    /// Genes moved along the gradient of right answers.
    Learned,
    /// What a language model proposed.
    Guided,
}

/// What a language model was asked when a generation was over, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// The generation that it is for.
    pub generation: u64,
    /// From 1: one question is asked for each block of genes, or again after a refusal.
    pub part: u64,
    pub question: String,
    /// Null where nobody replied.
    pub reply: Option<String>,
    /// Why nothing came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub took_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub id: String,
    /// `merge`, `prefill` or `decode`.
    pub stage: String,
    pub answered: usize,
    pub questions: usize,
    pub tokens: u64,
    pub tokens_per_s: f64,
}

/// Where a round of learning stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// Of the candidate that the round will make: `learned-1`.
    pub id: String,
    /// Whose genes it began with.
    pub from: String,
    pub steps: usize,
    #[serde(flatten)]
    pub point: LearningStep,
    pub genotype: Vec<f64>,
}

/// One step of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearningStep {
    pub step: usize,
    /// Mean negative log-likelihood of the step's texts, in nats a token, before the step.
    pub taught: f64,
    /// That of the held-back texts, at the steps at which it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<f64>,
}

/// What a round of learning found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Of the candidate that it makes: `learned-1`.
    pub id: String,
    /// Whose genes it began with.
    pub from: String,
    /// Questions that a text stands for.
    pub questions: usize,
    /// Texts that were taught, and those that were held back.
    pub texts: usize,
    pub held_back_texts: usize,
    /// Mean negative log-likelihood of all of them before and after, in nats a token.
    pub taught: [f64; 2],
    pub held_back: [f64; 2],
    /// Steps that were made, and after which of them the point was taken.
    pub steps: usize,
    pub best_step: usize,
    /// The genes after that step, in the order of the stage's genes.
    pub genotype: Vec<f64>,
    /// Mean squared slope of the loss along each gene; 0 of what cannot be learned.
    pub steepness: Vec<f64>,
    /// Tokens read, forward or forward and backward.
    pub tokens: u64,
    pub elapsed_ms: u64,
    pub curve: Vec<LearningStep>,
    /// Why nothing was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    pub id: String,
    pub task: String,
    pub lang: String,
    pub split: String,
    /// Content key: effective weights, tokenizer, and what computed them (engine build, instruction set, device, dtype).
    pub key: String,
    /// What computed them, where that is another kind of machine than the run began with: `cuda bf16 avx512`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub answers: Vec<Answer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Question id, such as `gsm8k/train/17`.
    pub q: String,
    /// What the model wrote; empty for log-likelihood tasks.
    pub out: String,
    /// Extracted answer by the fitness filter, empty if there was none.
    pub got: String,
    pub gold: String,
    /// 1 or 0 for right or wrong; mean log-likelihood a token for log-likelihood tasks.
    pub score: f64,
    /// `eos`, `stop`, `length` or `loop`; empty for log-likelihood tasks.
    pub finish: String,
    /// False if the answer is in the wrong language.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub language_ok: bool,
    pub tokens: usize,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_true(b: &bool) -> bool {
    *b
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(b: &bool) -> bool {
    !*b
}

/// What a command gave a candidate on a later split than the search's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub id: String,
    pub split: String,
    pub scores: BTreeMap<String, f64>,
}

/// A worker as the coordinator of a run knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Unique among those of the run.
    pub worker: String,
    pub host: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    pub dtype: String,
    pub instruction_set: String,
    pub state: WorkerState,
    /// The candidate that it works on, and how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<Progress>,
    /// Questions that it has answered for this run.
    pub answers: u64,
    /// Milliseconds that it has worked, of those since it came.
    pub busy_ms: u64,
    pub here_ms: u64,
    /// Why it went, or was turned away.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    #[default]
    Idle,
    Working,
    /// It said so.
    Left,
    /// Nothing was heard of it for a while.
    Lost,
    /// It does not fit the run.
    Refused,
}

/// A score with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub value: f64,
    /// Standard error: sample standard deviation ÷ √n.
    pub stderr: f64,
    pub n: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    pub task: String,
    pub lang: String,
    pub split: String,
    #[serde(flatten)]
    pub score: Score,
    /// Mean number of tokens that an answer took, of all its samples together; none where nothing is generated. Journals of
    /// earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Unique in the run; [`CandidateId`] says what it means.
    pub id: String,
    pub origin: Origin,
    pub generation: Option<u64>,
    /// The genes, in the order of `run_started.genes`; empty for parents.
    pub genotype: Vec<f64>,
    /// The recipe in its native JSON form, with the short model names.
    pub recipe: serde_json::Value,
    pub recipe_digest: String,
    /// Weighted mean over the tasks; larger is better. In a race: the estimate for all questions from those it was asked.
    pub fitness: f64,
    pub stderr: f64,
    /// Questions behind it.
    pub n: usize,
    pub tasks: Vec<TaskScore>,
    /// It left its race early, so `fitness` is of few questions and competes with nobody's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub eliminated: bool,
    /// All answers came from the cache.
    pub cached: bool,
    pub generated_tokens: u64,
    pub merge_ms: u64,
    pub evaluation_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    pub generation: u64,
    /// Fitness quantiles of this generation's candidates, failed ones left out.
    pub best: f64,
    pub upper_quartile: f64,
    pub median: f64,
    pub lower_quartile: f64,
    pub failed: usize,
    /// Step size of the optimizer, where it has one.
    pub sigma: Option<f64>,
    /// In a race: questions that its last ones were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Kendall's τ-b between the scores on the first few questions and those on the whole block, over the candidates that
    /// were asked both: how far the race can be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Rank correlation of the candidates' scores on two halves of the questions that all were asked: how much of the
    /// ranking is signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_half: Option<f64>,
    /// BLAKE3 of the optimizer's state after it was told: a resumed run must arrive at the same.
    pub state_digest: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    Evals,
    Time,
    /// Asked for (`S`, a signal, a stop request).
    Stopped,
    /// The optimizer has nothing left to ask.
    Converged,
}

/// How much the final asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalPlan {
    /// Searched and learned candidates that are chosen among, as a rule; parents and unsearched merges are always there.
    pub finalists: usize,
    pub selection: FinalPart,
    pub test: FinalPart,
    /// Questions of the held-out tasks.
    pub held_out: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalPart {
    /// Most questions of each task; `null`: all of the split.
    pub limit: Option<usize>,
    /// That each of those who take part is asked, over all tasks; 0 where a command asks its own.
    pub questions: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExamStarted {
    pub phase: Phase,
    /// That each of them is asked.
    pub questions: usize,
    /// Candidate ids, in the order of asking.
    pub examinees: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExamAnswered {
    pub phase: Phase,
    pub id: String,
    /// On the selection questions; what the sealed test says is told when all have answered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    pub split: String,
    /// Everybody's score on the selection questions, best first.
    pub finalists: Vec<Finalist>,
    /// Id of the winner.
    pub best: String,
    pub best_parent: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    pub id: String,
    pub origin: Origin,
    /// On the search questions, where the luck is.
    pub search: Score,
    /// On the selection questions.
    pub fresh: Score,
    pub tasks: Vec<TaskScore>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestReading {
    pub split: String,
    pub best: TestScore,
    /// The parent that did best in it.
    pub best_parent: TestScore,
    /// best − best parent, on the same questions.
    pub difference: f64,
    /// Paired, two-sided.
    pub p_value: f64,
    /// `mcnemar-exact` or `paired-sign-flip`.
    pub test: String,
    /// Questions that the best parent got right and the child wrong, and the other way round; 0/1 tasks only.
    pub negative_flips: usize,
    pub positive_flips: usize,
    /// The other parents and baselines, each against the child.
    pub others: Vec<Comparison>,
    /// As if each question were asked of a parent that has it right: the most that a router over the parents could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle: Option<TestScore>,
    /// As if all parents answered, and what most of them say were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vote: Option<TestScore>,
}

impl TestReading {
    /// What the parents have together, unmerged, with what it is called.
    pub fn together(&self) -> impl Iterator<Item = (&'static str, &TestScore)> {
        let both = [
            ("a router that knows which parent is right", &self.oracle),
            ("a vote of all parents", &self.vote),
        ];
        both.into_iter()
            .filter_map(|(name, score)| Some((name, score.as_ref()?)))
    }

    /// As it is said today: journals of earlier versions name the parent that had done best before the test, with which a child
    /// "beat the best parent" where another one was close behind it.
    pub fn with_best_parent(mut self, is_parent: impl Fn(&str) -> bool) -> Self {
        let parents = (0..self.others.len()).filter(|i| is_parent(&self.others[*i].other.id));
        let value = |i: &usize| self.others[*i].other.score.value;
        let best = parents.max_by(|a, b| value(a).total_cmp(&value(b)));
        let Some(i) = best.filter(|i| value(i) > self.best_parent.score.value) else {
            return self;
        };
        let comparisons = (self.others.len() + 1) as f64;
        let was = &mut self.others[i];
        std::mem::swap(&mut self.best_parent, &mut was.other);
        std::mem::swap(&mut self.difference, &mut was.difference);
        std::mem::swap(&mut self.p_value, &mut was.p_value);
        std::mem::swap(&mut self.negative_flips, &mut was.negative_flips);
        std::mem::swap(&mut self.positive_flips, &mut was.positive_flips);
        // Bonferroni's correction, which is never less careful than Holm's.
        was.p_holm = (was.p_value * comparisons).min(1.0);
        self
    }
}

/// What a merge forgot, or learnt besides: scores on tasks that are no part of the fitness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutReading {
    /// What was asked.
    pub tasks: Vec<HeldOutTask>,
    /// The winner first, then the parents; nobody stands here who could not answer.
    pub scores: Vec<HeldOutScore>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutTask {
    pub task: String,
    pub lang: String,
    pub split: String,
    pub n: usize,
    /// As in [`Task`].
    pub metric: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    pub id: String,
    pub tasks: Vec<TaskScore>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestScore {
    pub id: String,
    #[serde(flatten)]
    pub score: Score,
    pub tasks: Vec<TaskScore>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    #[serde(flatten)]
    pub other: TestScore,
    /// child − other.
    pub difference: f64,
    pub p_value: f64,
    /// After Holm's correction over all comparisons of this reading.
    pub p_holm: f64,
    /// Questions that the other got right and the child wrong, and the other way round; 0/1 tasks only.
    #[serde(default)]
    pub negative_flips: usize,
    #[serde(default)]
    pub positive_flips: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}
