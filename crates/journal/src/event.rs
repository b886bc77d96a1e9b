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
    /// [`SCHEMA_VERSION`] of the build that wrote it.
    pub schema_version: u32,
    /// Position in the journal, from 0.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// What happened; its fields stand in the line beside these, its kind under the key `event`.
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
        /// Version of the heterosis that goes on.
        engine_version: String,
        /// As in [`RunStarted`]; empty in older journals.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        engine_build: String,
        /// What computes from here on, `avx2` for one; empty in older journals.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        instruction_set: String,
    },
    /// The run goes on with something else than it began with, because somebody said so.
    RunChanged {
        /// Each is another one than the journal said so far.
        changes: Vec<Change>,
    },
    /// Whether any question stands in two parts of the run; before the first candidate. Journals of older builds have none.
    QuestionsCompared(QuestionsCompared),
    /// What the questions of one task and split ask; before the first candidate. Journals of older builds have none.
    QuestionTexts(QuestionTexts),
    /// What follows is asked for this purpose, until another phase begins.
    PhaseStarted {
        /// The one that begins.
        phase: Phase,
    },
    /// Work on a candidate has begun. Live only, unless others are out at the same time: then it is journalled, so that a
    /// resumed run repeats the order in which candidates were asked for and answered.
    CandidateStarted {
        /// As in [`Candidate::id`].
        id: String,
        /// Where it came from.
        origin: Origin,
        /// From 0; `None` of what belongs to none: parents, baselines, the final's.
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
    /// All of its answers are in, and this is what they are worth. Once more when a race or the final asked more of it.
    CandidateScored(Candidate),
    /// A failed candidate is a value: it ranks last, and the search goes on.
    CandidateFailed {
        /// As in [`Candidate::id`].
        id: String,
        /// Where it came from.
        origin: Origin,
        /// As in [`Candidate::generation`].
        generation: Option<u64>,
        /// As in [`Candidate::recipe_digest`].
        recipe_digest: String,
        /// One sentence that says why it could not be scored.
        reason: String,
    },
    /// The optimizer was told of all of a generation's candidates.
    GenerationEnded(Generation),
    /// What the final is going to ask; once more where its limits were changed afterwards.
    FinalPlanned(FinalPlan),
    /// A part of the final begins.
    ExamStarted(ExamStarted),
    /// One of those who take part has answered all of it.
    ExamAnswered(ExamAnswered),
    /// No more candidates are asked for; what follows is the final.
    SearchEnded {
        /// What ended it.
        reason: EndReason,
        /// Candidates that counted against the budget.
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
        /// One for each of the tasks, in their order.
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
        /// One sentence: a signal, a stop request, a fault of the machine.
        reason: String,
    },
    /// The final is over; nothing follows.
    RunDone {
        /// Candidates that counted against the budget.
        evals: u64,
        /// Questions answered, over all candidates.
        answers: u64,
        /// Time in which somebody worked on the run.
        elapsed_ms: u64,
    },
    /// Nothing could be searched, or the final could not be asked; `resume` tries again.
    RunFailed {
        /// One sentence with the way out.
        reason: String,
    },
    /// A sentence for people; nothing is decided by it.
    Log {
        /// How much it matters.
        level: Level,
        /// The sentence.
        message: String,
    },
}

/// What is searched, by what and with what: everything that a reader needs to understand the lines that follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The search space's.
    pub name: String,
    /// Of heterosis: `0.1.0`.
    pub engine_version: String,
    /// Digest of the sources that compute, and what they use of the processor; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_build: String,
    /// What computes on the CPU: `generic`, `avx2`, `avx512` or `neon`; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instruction_set: String,
    /// Who answers instead of the engine of heterosis: name, version and device; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// From which all draws follow.
    pub seed: u64,
    /// BLAKE3 of the filled-in search space.
    pub space_digest: String,
    /// The filled-in search space itself, as `space.yaml` holds it; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub space: String,
    /// When to stop asking for candidates.
    pub budget: Budget,
    /// The parents, in the order of the space.
    pub models: Vec<Model>,
    /// What candidates are scored by; their weighted mean is the fitness.
    pub tasks: Vec<Task>,
    /// Tasks that only the final asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<Task>,
    /// By its name in a search space: `cma-es`, `genetic`, and so on. Of the first stage.
    pub optimizer: String,
    /// The genes of the first stage's candidates, in the order of their genotypes.
    pub genes: Vec<String>,
    /// Candidates of a generation.
    pub population: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Precision of weights and answers: `f32`, `bf16` or `f16`.
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
    /// Absent where no model of this machine gives advice, and in older journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guide: Option<GuideModel>,
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

/// A model of the searching machine that gives a search advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuideModel {
    /// MODEL, its path made absolute.
    pub model: String,
    /// Of its weights and its tokenizer; of a recipe, of what it says and of all its models.
    pub digest: String,
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
    /// By its name in a search space.
    pub optimizer: String,
    /// The genes of this stage's candidates, in the order of their genotypes.
    pub genes: Vec<String>,
    /// Candidates evaluated before it.
    pub evals: u64,
}

/// What ends the search; whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Candidates, those excepted that cost nothing (see [`run::is_paid`]).
    pub evals: Option<u64>,
    /// Time in which somebody works on the run, the final included.
    pub duration_ms: Option<u64>,
}

/// One of the parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Short name in the search space.
    pub name: String,
    /// MODEL, its path made absolute.
    pub model: String,
    /// As the user wrote it; empty where that is the same, and in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub given: String,
    /// Of its weights and its `config.json`.
    pub digest: String,
    /// Of its tokenizer, chat template and generation config; empty without a tokenizer, and in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tokenizer_digest: String,
    /// Task vectors are differences from this one.
    pub is_base: bool,
}

/// One task in one language, as this run asks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Name of a task that comes with heterosis, or of the task's file.
    pub task: String,
    /// ISO 639-1: `en`, `sw`.
    pub lang: String,
    /// Which of the task's questions: `search`, `selection`, `test` or `benchmark`.
    pub split: String,
    /// In the fitness; of several tasks, their share of the sum of all.
    pub weight: f64,
    /// Questions that each candidate answers.
    pub n: usize,
    /// Of the task's file and its data: answers to other questions do not compare.
    pub digest: String,
    /// Name of the score: `exact_match` or `log_likelihood`.
    pub metric: String,
    /// What its file says of it; empty in older journals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What candidates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Parents and unsearched baselines.
    Baselines,
    /// The optimizer asks.
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
    /// All that the model was told, examples and instructions included.
    pub question: String,
    /// Null where nobody replied.
    pub reply: Option<String>,
    /// Why nothing came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Until the reply, on the wall clock.
    pub took_ms: u64,
}

/// How far the engine is with one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// As in [`Candidate::id`].
    pub id: String,
    /// `merge`, `prefill` or `decode`.
    pub stage: String,
    /// Questions that have all of their answer.
    pub answered: usize,
    /// All that it is asked this time.
    pub questions: usize,
    /// Read and generated so far.
    pub tokens: u64,
    /// Their number a second, since the engine began with it.
    pub tokens_per_s: f64,
}

/// Where a round of learning stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// Of the candidate that the round will make: `learned-1`.
    pub id: String,
    /// Whose genes it began with.
    pub from: String,
    /// That the round will make at most.
    pub steps: usize,
    /// The last of them; its fields stand in the same object.
    #[serde(flatten)]
    pub point: LearningStep,
    /// The genes after it, in the order of the stage's genes.
    pub genotype: Vec<f64>,
}

/// One step of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearningStep {
    /// From 1.
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
    /// That were never taught, and say when to stop.
    pub held_back_texts: usize,
    /// Mean negative log-likelihood of a few of the taught ones and of the held-back ones before and after, in nats a token.
    pub taught: [f64; 2],
    /// The same of those that were held back.
    pub held_back: [f64; 2],
    /// Steps that were made, and after which of them the point was taken.
    pub steps: usize,
    /// The one with the least loss on what was held back.
    pub best_step: usize,
    /// The genes after that step, in the order of the stage's genes.
    pub genotype: Vec<f64>,
    /// Mean squared slope of the loss along each gene; 0 of what cannot be learned.
    pub steepness: Vec<f64>,
    /// Of genes that are to be split: how likely luck alone would pull the parts of each so far apart; null where that cannot be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Option<f64>>,
    /// Tokens read, forward or forward and backward.
    pub tokens: u64,
    /// Of all its steps, on the wall clock.
    pub elapsed_ms: u64,
    /// Losses as they went, one point for each step.
    pub curve: Vec<LearningStep>,
    /// Why nothing was learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What one candidate said to questions of one task and split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// As in [`Candidate::id`].
    pub id: String,
    /// As in [`Task::task`].
    pub task: String,
    /// As in [`Task::lang`].
    pub lang: String,
    /// As in [`Task::split`].
    pub split: String,
    /// Content key: effective weights, tokenizer, and what computed them (engine build, instruction set, device, dtype).
    pub key: String,
    /// What computed them, where that is another kind of machine than the run began with: `cuda bf16 avx512`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// In the order of asking.
    pub answers: Vec<Answer>,
}

/// What became of one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Question id, such as `gsm8k/train/17`.
    pub q: String,
    /// What the model wrote; empty for log-likelihood tasks.
    pub out: String,
    /// Extracted answer by the fitness filter, empty if there was none.
    pub got: String,
    /// What would have been right.
    pub gold: String,
    /// 1 or 0 for right or wrong; mean log-likelihood a token for log-likelihood tasks.
    pub score: f64,
    /// `eos`, `stop`, `length` or `loop`; empty for log-likelihood tasks.
    pub finish: String,
    /// False if the answer is in the wrong language.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub language_ok: bool,
    /// Generated for it, of all samples together; 0 of log-likelihood tasks.
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
    /// As in [`Candidate::id`].
    pub id: String,
    /// Which of the command's questions: `selection` or `test`.
    pub split: String,
    /// As the command gave them, by its own names.
    pub scores: BTreeMap<String, f64>,
}

/// A worker as the coordinator of a run knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Unique among those of the run.
    pub worker: String,
    /// The machine's name.
    pub host: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// As in [`RunStarted::dtype`].
    pub dtype: String,
    /// As in [`RunStarted::instruction_set`].
    pub instruction_set: String,
    /// Whether it can be given work.
    pub state: WorkerState,
    /// The candidate that it works on, and how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<Progress>,
    /// Questions that it has answered for this run.
    pub answers: u64,
    /// Milliseconds that it has worked, of those since it came.
    pub busy_ms: u64,
    /// Milliseconds since it came.
    pub here_ms: u64,
    /// Why it went, or was turned away.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether a worker can be given work, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Waits for work.
    #[default]
    Idle,
    /// Has a candidate's questions.
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
    /// A mean: of right answers (0 to 1), of log-likelihoods a token, or what a command gave.
    pub value: f64,
    /// Standard error: sample standard deviation ÷ √n.
    pub stderr: f64,
    /// Questions behind it.
    pub n: usize,
}

/// A candidate on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// As in [`Task::task`].
    pub task: String,
    /// As in [`Task::lang`].
    pub lang: String,
    /// As in [`Task::split`].
    pub split: String,
    /// Its mean over these questions; the fields stand in the same object.
    #[serde(flatten)]
    pub score: Score,
    /// Mean number of tokens that an answer took, of all its samples together; none where nothing is generated. Journals of
    /// earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<f64>,
}

/// One merge, or a parent, with all that was found out about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Unique in the run; [`CandidateId`] says what it means.
    pub id: String,
    /// Where it came from.
    pub origin: Origin,
    /// From 0; `None` of what belongs to none: parents, baselines, random draws, means, what was learned.
    pub generation: Option<u64>,
    /// The genes, in the order of `run_started.genes`; empty for parents.
    pub genotype: Vec<f64>,
    /// The recipe in its native JSON form, with the short model names.
    pub recipe: serde_json::Value,
    /// BLAKE3 of the recipe's JSON, or of the bare genes after `genes:`; `model:NAME` for a parent.
    pub recipe_digest: String,
    /// Weighted mean over the tasks; larger is better. In a race: the estimate for all questions from those it was asked.
    pub fitness: f64,
    /// Of the fitness, from the questions alone: that other seeds would find other candidates is not in it.
    pub stderr: f64,
    /// Questions behind it.
    pub n: usize,
    /// One for each task of the run, in their order.
    pub tasks: Vec<TaskScore>,
    /// It left its race early, so `fitness` is of few questions and competes with nobody's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub eliminated: bool,
    /// All answers came from the cache.
    pub cached: bool,
    /// Over all of its answers, those from the cache left out.
    pub generated_tokens: u64,
    /// Merging, on the wall clock; 0 where all answers came from the cache.
    pub merge_ms: u64,
    /// Asking and scoring, on the wall clock; [`Self::merge_ms`] is not in it.
    pub evaluation_ms: u64,
}

impl Candidate {
    /// Its fitness on the search questions, with its error.
    pub fn search_score(&self) -> Score {
        Score {
            value: self.fitness,
            stderr: self.stderr,
            n: self.n,
        }
    }
}

/// How a generation went, and what the optimizer made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// From 0; it goes on counting over stages and restarts.
    pub generation: u64,
    /// Fitness quantiles of this generation's candidates, failed ones left out.
    pub best: f64,
    /// A quarter of the candidates is fitter.
    pub upper_quartile: f64,
    /// Half of the candidates is fitter.
    pub median: f64,
    /// A quarter of the candidates is less fit.
    pub lower_quartile: f64,
    /// Candidates without a score.
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

/// Why no more candidates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// So many as the budget allows were evaluated.
    Evals,
    /// What is left of the budget is for the final.
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
    /// Fresh questions, which decide among the finalists.
    pub selection: FinalPart,
    /// The sealed questions, which are read once.
    pub test: FinalPart,
    /// Questions of the held-out tasks.
    pub held_out: usize,
}

/// How much one part of the final asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalPart {
    /// Most questions of each task; `null`: all of the split.
    pub limit: Option<usize>,
    /// That each of those who take part is asked, over all tasks; 0 where a command asks its own.
    pub questions: usize,
}

/// Who is asked how much in this part of the final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExamStarted {
    /// [`Phase::Selection`], [`Phase::Test`] or [`Phase::HeldOut`].
    pub phase: Phase,
    /// That each of them is asked.
    pub questions: usize,
    /// Candidate ids, in the order of asking.
    pub examinees: Vec<String>,
}

/// One examinee's share of this part is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExamAnswered {
    /// As in [`ExamStarted::phase`].
    pub phase: Phase,
    /// As in [`Candidate::id`].
    pub id: String,
    /// On the selection questions; what the sealed test says is told when all have answered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
}

/// What the fresh questions decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Which questions were asked, as in [`Task::split`].
    pub split: String,
    /// Everybody's score on the selection questions, best first.
    pub finalists: Vec<Finalist>,
    /// Id of the winner.
    pub best: String,
    /// Id of the parent that did best on them.
    pub best_parent: String,
}

/// One of those who were asked the fresh questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// As in [`Candidate::id`].
    pub id: String,
    /// Where it came from.
    pub origin: Origin,
    /// On the search questions, where the luck is.
    pub search: Score,
    /// On the selection questions.
    pub fresh: Score,
    /// The fresh score by task.
    pub tasks: Vec<TaskScore>,
}

/// What the sealed questions say: how sure it is that the winner is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestReading {
    /// Which questions were asked, as in [`Task::split`].
    pub split: String,
    /// The winner of the selection.
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
    /// Questions that the child got right and the best parent wrong.
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

/// A task that is no part of the fitness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutTask {
    /// As in [`Task::task`].
    pub task: String,
    /// As in [`Task::lang`].
    pub lang: String,
    /// As in [`Task::split`].
    pub split: String,
    /// Questions that each of them was asked.
    pub n: usize,
    /// As in [`Task`].
    pub metric: String,
}

/// One of them on the held-out tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutScore {
    /// As in [`Candidate::id`].
    pub id: String,
    /// In the order of [`HeldOutReading::tasks`], those left out that could not be asked.
    pub tasks: Vec<TaskScore>,
}

/// One of them on the sealed questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestScore {
    /// As in [`Candidate::id`].
    pub id: String,
    /// Over all tasks, weighted as in the fitness; the fields stand in the same object.
    #[serde(flatten)]
    pub score: Score,
    /// The same by task.
    pub tasks: Vec<TaskScore>,
}

/// The winner against one of the others, on the same questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Whom it is compared to; the fields stand in the same object.
    #[serde(flatten)]
    pub other: TestScore,
    /// child − other.
    pub difference: f64,
    /// Paired, two-sided, before any correction.
    pub p_value: f64,
    /// After Holm's correction over all comparisons of this reading.
    pub p_holm: f64,
    /// Questions that the other got right and the child wrong, and the other way round; 0/1 tasks only.
    #[serde(default)]
    pub negative_flips: usize,
    /// Questions that the child got right and the other wrong.
    #[serde(default)]
    pub positive_flips: usize,
}

/// How much a sentence of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As expected.
    Info,
    /// Something may be worth less than it looks, or takes longer.
    Warning,
    /// Something could not be done.
    Error,
}
