//! What can be typed. What it means is in `commands`.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::isa::DType;

const MODEL: &str = "A MODEL is a directory in Hugging Face layout, the same with a LoRA adapter (DIR+ADAPTER_DIR), a .gguf \
                     file, owner/name[@revision] on the Hub (hf:owner/name where a path is called so), or a merge recipe \
                     (.yaml), which is merged in memory.";

/// Breeds merges of language models overnight, and proves in the morning which child outdoes its parents.
#[derive(Debug, Parser)]
#[command(name = "heterosis", version, about, after_help = MODEL)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// More messages on stderr; twice for still more.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Only errors on stderr.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Search the embedded tiny models for a child that outdoes both its parents: nothing else is needed, minutes on a laptop.
    Demo(DemoArgs),
    /// Breed a child of models that you name: `init`, then `search`.
    Breed(BreedArgs),
    /// Choose a search space for models that you name, and write it, commented.
    Init(InitArgs),
    /// Search a space of merges for the best child: the main job.
    Search(SearchArgs),
    /// Go on with a run after a stop, a crash or a power cut.
    Resume(ResumeArgs),
    /// Look at a run that is going on, or at an old one.
    Watch(WatchArgs),
    /// Where a run stands.
    Status(StatusArgs),
    /// List the runs below a directory.
    Runs(RunsArgs),
    /// Runs side by side.
    Compare(CompareArgs),
    /// See, before a night is spent, whether a search space or recipe can work, and what it costs.
    Check(CheckArgs),
    /// Merge once, to disk.
    Merge(MergeArgs),
    /// Score one model on tasks.
    Eval(EvalArgs),
    /// Learn better weights for one recipe from answers, by gradient.
    Learn(LearnArgs),
    /// Put a model's neurons and heads where another's stand that they are most like, before models without a common base are merged.
    Align(AlignArgs),
    /// Measure how much a model minds a change of each weight, for `merge_method: fisher`.
    Fisher(FisherArgs),
    /// Measure what a model's linear maps read, for `merge_method: regmean`.
    Grams(GramsArgs),
    /// Measure it for all models of a recipe at once, each layer's behind layers that are merged already (RegMean++).
    GramsPlus(GramsPlusArgs),
    /// Extract and score stored outputs again, or all answers of a run, without a model.
    Rescore(RescoreArgs),
    /// Continue prompts, in one batch.
    Generate(GenerateArgs),
    /// Evaluate for a search on another machine.
    Worker(WorkerArgs),
    /// An OpenAI-compatible endpoint on a model, a recipe or a run's child.
    Serve(ServeArgs),
    /// Talk to a model, a recipe or a run's child, or to several side by side.
    Chat(ChatCommandArgs),
    /// Mean negative log-likelihood a token of a text.
    Perplexity(PerplexityArgs),
    /// Write the best child of a run: recipe, merged model, card and provenance.
    Export(ExportArgs),
    /// Find the simplest recipe that is as good as a run's winner.
    Simplify(SimplifyArgs),
    /// Recompute every hash of an export.
    Verify(VerifyArgs),
    /// Write a run's report and its pictures.
    Report(ReportArgs),
    /// Fetch benchmark data to the local cache.
    Data(DataArgs),
    /// What answers are kept across runs, and room for others.
    Cache(CacheArgs),
    /// List the built-in tasks.
    Tasks(ListArgs),
    /// Write a task of one's own, try it on a model, or see whether task files can be read.
    Task(TaskArgs),
    /// List the merge methods with their parameters.
    Methods(ListArgs),
    /// List the families of models that the decoder runs.
    Families(ListArgs),
    /// Completions for a shell on stdout, or manual pages.
    Completions(CompletionsArgs),
}

/// How a model is spoken to.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// Ask through the model's chat template.
    #[arg(long)]
    pub apply_chat_template: bool,
    /// System message of the chat.
    #[arg(long, requires = "apply_chat_template", value_name = "TEXT")]
    pub system_instruction: Option<String>,
}

/// How the next token is drawn. Without any of these it is the likeliest one.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Draw tokens: from their probabilities at 1, more evenly above, less below; 0 is the likeliest one.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Draw among the N likeliest tokens.
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that have this share of the probability.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Leave out what is less likely than this share of the likeliest token.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Other draws for another number; the same ones for the same.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// How a model runs.
#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
    /// Where to compute; searches also take several GPUs, `cuda:all` or `cuda:0,cuda:2`.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda[:N]")]
    pub device: String,
    /// What weights are rounded to; unless said otherwise f32 on the CPU, bf16 on a GPU.
    #[arg(long, value_parser = PossibleValuesParser::new(DType::ALL.map(DType::name)).try_map(|word| word.parse::<DType>()))]
    pub dtype: Option<DType>,
    /// Memory for keys and values, such as 2GB; unless said otherwise 1 GiB, on a GPU what is free beside the weights.
    #[arg(long, value_name = "SIZE")]
    pub kv_memory: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GgufArg {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// As lm-evaluation-harness scores, defects included.
    Parity,
    /// Repaired, for searching: fixed examples, normalised numbers, language gate.
    Fitness,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// One event a line, as in the journal.
    Json,
}

#[derive(Clone, Debug, Args)]
pub struct WatchOptions {
    /// Plain lines instead of the dashboard, also on a terminal.
    #[arg(long)]
    pub headless: bool,
    /// This process searches, another one shows it.
    #[arg(long, hide = true)]
    pub detached: bool,
    /// How plain lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Whom a run is told to besides this terminal.
#[derive(Clone, Debug, Default, Args)]
pub struct TellArgs {
    /// Write the run's figures as TensorBoard's event files, into a folder of the run's name below this one.
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Write the run into this file store of MLflow's, such as mlruns, or to the server at this address.
    #[arg(long, value_name = "DIR|URL")]
    pub mlflow: Option<PathBuf>,
    /// Run this shell command when the run ends, whatever has become of it; HETEROSIS_RUN, HETEROSIS_STATE, HETEROSIS_BEST,
    /// HETEROSIS_FITNESS, HETEROSIS_TEST, HETEROSIS_LEAD and HETEROSIS_SUMMARY tell it.
    #[arg(long, value_name = "COMMAND")]
    pub on_done: Option<String>,
    /// Send what `status --json` says to this address when the run ends.
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Show a notice on this desktop when the run ends.
    #[arg(long)]
    pub notify: bool,
}

/// The way to a NATS server.
#[derive(Clone, Debug, Default, Args)]
pub struct NatsArgs {
    /// Credentials file (JWT and seed) for the NATS server.
    #[arg(long, env = "HETEROSIS_NATS_CREDS", hide_env_values = true, value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// File with the seed of an NKey for the NATS server.
    #[arg(long, env = "HETEROSIS_NATS_NKEY", hide_env_values = true, value_name = "FILE")]
    pub nats_nkey: Option<PathBuf>,
    /// Certificates (PEM) that the NATS server's own is signed by, besides the system's.
    #[arg(long, env = "HETEROSIS_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// The server: nats://HOST:4222 or tls://HOST:4222, with USER:PASSWORD@ or TOKEN@ before the host.
    #[arg(long, env = "HETEROSIS_NATS", hide_env_values = true, value_name = "URL")]
    pub nats: String,
    /// Where models lie here: `NAME: MODEL` lines, and `in: [DIRECTORY, …]` to look below.
    #[arg(long, value_name = "MAP.yaml")]
    pub models: Option<PathBuf>,
    /// What the worker is called [default: HOST-PROCESS].
    #[arg(long)]
    pub name: Option<String>,
    /// End after so long without work, such as 10m; otherwise it waits for ever.
    #[arg(long, value_name = "TIME")]
    pub idle_exit: Option<String>,
    /// How long a unit of work may go on after SIGTERM, before it is handed back.
    #[arg(long, default_value = "20s", value_name = "TIME")]
    pub grace: String,
    #[command(flatten)]
    pub server: NatsArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// The engine that answers instead of heterosis's own, for searches with a `fitness.engine`; behind `--`.
    #[arg(last = true, value_name = "COMMAND")]
    pub program: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The search space.
    pub space: PathBuf,
    #[command(flatten)]
    pub options: SearchOptions,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub options: SearchOptions,
}

/// Whose child is wanted, and what it should be good at.
#[derive(Debug, Args)]
pub struct ParentArgs {
    /// The models; an adapter alone stands for the model that it names with the adapter over it.
    #[arg(required = true, num_args = 1.., value_name = "MODEL")]
    pub models: Vec<String>,
    /// What they were fine-tuned from, or `none` [default: what their cards or adapters name].
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// What the child should be good at: a built-in task or task file; may be given several times.
    #[arg(long = "task", required = true, value_name = "TASK[:LANG]")]
    pub tasks: Vec<String>,
    /// Where the search space goes.
    #[arg(short, long, default_value = "space.yaml", value_name = "FILE.yaml")]
    pub out: PathBuf,
    /// Replace that file.
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    #[command(flatten)]
    pub parents: ParentArgs,
    /// Candidates that the search may have; fewer are a coarser space.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000), value_name = "N")]
    pub evals: Option<u64>,
    /// Time that the search may have, such as 8h or 90m.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "evals")]
    pub duration: Option<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct BreedArgs {
    #[command(flatten)]
    pub parents: ParentArgs,
    #[command(flatten)]
    pub options: SearchOptions,
}

/// How a search is run.
#[derive(Debug, Args)]
pub struct SearchOptions {
    /// Directory of the run [default: runs/NAME-YYYYMMDD-HHMMSS].
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Candidates to evaluate, instead of the space's number.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000), value_name = "N")]
    pub evals: Option<u64>,
    /// Time to spend, such as 8h or 90m, with the final: as much as it is expected to take is kept for it.
    #[arg(long = "for", value_name = "TIME")]
    pub duration: Option<String>,
    /// Seed, instead of the space's.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Have the evaluating done by `heterosis worker`s elsewhere, by way of this NATS server.
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    #[command(flatten)]
    pub server: NatsArgs,
    #[command(flatten)]
    pub watch: WatchOptions,
    #[command(flatten)]
    pub tell: TellArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Directory of the run [default: the newest below runs/].
    pub run: Option<PathBuf>,
    /// End the search where it stands and go to the final.
    #[arg(long)]
    pub finish: bool,
    /// Go on although models, tasks or space.yaml are not what they were when the run began; it is told ever after.
    #[arg(long)]
    pub accept_changes: bool,
    /// Cut a damaged journal before its first damaged line, after copying it, and go on from there.
    #[arg(long)]
    pub truncate_damaged: bool,
    /// Start the run's own evaluator program without asking, though the run was not begun here.
    #[arg(long)]
    pub yes: bool,
    /// Questions of each task that choose among the finalists, or all; while the winner is not chosen.
    #[arg(long, value_name = "N|all")]
    pub selection_limit: Option<String>,
    /// Questions of each task of the sealed test, or all; while nobody has answered it.
    #[arg(long, value_name = "N|all")]
    pub test_limit: Option<String>,
    /// Have the evaluating done by `heterosis worker`s elsewhere, by way of this NATS server.
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    #[command(flatten)]
    pub server: NatsArgs,
    #[command(flatten)]
    pub watch: WatchOptions,
    #[command(flatten)]
    pub tell: TellArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Directory of the run [default: the newest below runs/].
    pub run: Option<PathBuf>,
    /// Play an old run again, this many times as fast as it was, such as 60x.
    #[arg(long, value_name = "SPEED")]
    pub replay: Option<String>,
    #[command(flatten)]
    pub watch: WatchOptions,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Directory of the run [default: the newest below runs/].
    pub run: Option<PathBuf>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Where runs are looked for.
    #[arg(default_value = "runs")]
    pub dir: PathBuf,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Directories of the runs.
    #[arg(required = true, num_args = 1.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A search space or a merge recipe.
    pub file: PathBuf,
    /// Candidates of the search that is costed, instead of the space's number.
    #[arg(long, value_name = "N")]
    pub evals: Option<u64>,
    /// Time of the search that is costed, final included, such as 8h or 90m: for how many candidates it is enough.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "evals")]
    pub duration: Option<String>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// mergekit YAML.
    pub recipe: PathBuf,
    /// Directory of the merged model.
    pub out: PathBuf,
    /// Largest size of one file.
    #[arg(long, default_value = "5GB", value_name = "SIZE")]
    pub shard_size: String,
    /// Replace OUT if it is empty, or if heterosis wrote all that is in it.
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The model to score.
    pub model: String,
    /// Built-in task or task file; several may follow.
    #[arg(long = "task", required = true, num_args = 1.., value_name = "TASK")]
    pub tasks: Vec<String>,
    /// Language of a task that has several.
    #[arg(long)]
    pub lang: Option<String>,
    /// Split of the task's questions: search, selection, test or benchmark.
    #[arg(long, default_value = "benchmark")]
    pub split: String,
    /// Only the first N questions.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Examples before each question, instead of the task's number.
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    #[arg(long, value_enum, default_value = "parity")]
    pub profile: ProfileArg,
    /// Most tokens of an answer, instead of the task's number.
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// What the chat template is told besides, as JSON: '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON", requires = "apply_chat_template")]
    pub chat_template_kwargs: Option<String>,
    /// Answers drawn to each question, for maj@N and pass@k; at temperature 0.7 unless said otherwise.
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// The score that counts, such as maj@8 or pass@4, instead of the task's own.
    #[arg(long)]
    pub score: Option<String>,
    /// Judge only what follows a thought between <think> and </think>; a thought that does not close is no answer.
    #[arg(long)]
    pub think: bool,
    /// Most tokens of a thought, which is then closed for the model.
    #[arg(long, value_name = "N", requires = "think")]
    pub think_budget: Option<usize>,
    /// Keep each question, output, extracted answer, gold and verdict.
    #[arg(long, value_name = "FILE.jsonl")]
    pub answers: Option<PathBuf>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TeacherArg {
    /// Worked solutions where a task has them, else right answers.
    #[default]
    Auto,
    /// The tasks' worked solutions.
    Solutions,
    /// Right answers of the recipe's models and of its child, which are asked now.
    Answers,
    /// Answers, right or wrong, of whoever of these answers the task best.
    Best,
    /// Answers that most of these agree on, right or wrong.
    Vote,
    /// Answers, right or wrong, of the model that answers the task best, and what it expected in the place of each of their tokens.
    Distil,
}

/// Questions of some tasks, to be read or answered.
#[derive(Clone, Debug, Args)]
pub struct TaskQuestionsArgs {
    /// Built-in task or task file that teaches; may be given several times.
    #[arg(long = "task", required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
    /// Language of a task that has several.
    #[arg(long)]
    pub lang: Option<String>,
    /// Split of the tasks' questions; what judges the child afterwards is better another one.
    #[arg(long, default_value = "search")]
    pub split: String,
    /// Examples before each question, instead of the task's number.
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    #[command(flatten)]
    pub chat: ChatArgs,
}

#[derive(Debug, Args)]
pub struct LearnArgs {
    /// The recipe to begin with: every weight, t or lambda that stands in it may move.
    pub recipe: PathBuf,
    /// Where the recipe with the learned numbers goes.
    #[arg(value_name = "OUT.yaml")]
    pub out: PathBuf,
    #[command(flatten)]
    pub asked: TaskQuestionsArgs,
    /// Questions of each task.
    #[arg(long, default_value_t = 400, value_name = "N")]
    pub questions: usize,
    /// Whose texts teach.
    #[arg(long, value_enum, default_value_t)]
    pub teachers: TeacherArg,
    /// How much wrong answers count against what they say, 0 to 1; 0.3 unless given.
    #[arg(long, value_name = "FACTOR")]
    pub wrong: Option<f64>,
    /// Steps of the descent: few long ones lead as far as many short ones.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub steps: usize,
    /// Texts of one step.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch: usize,
    /// Seed of what is held back and of the order.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LabelsArg {
    /// An answer to each question, drawn from the model itself.
    #[default]
    Sampled,
    /// The tasks' worked solutions; with them Fisher information is the empirical one.
    Solutions,
}

impl LabelsArg {
    pub fn word(self) -> &'static str {
        match self {
            LabelsArg::Sampled => "sampled",
            LabelsArg::Solutions => "solutions",
        }
    }
}

/// With which texts models are measured, and how the outcome is said.
#[derive(Debug, Args)]
pub struct MeasuringArgs {
    #[command(flatten)]
    pub asked: TaskQuestionsArgs,
    /// Questions of each task.
    #[arg(long, visible_alias = "limit", default_value_t = 100, value_name = "N")]
    pub questions: usize,
    /// What follows each question, and is read with it.
    #[arg(long, value_enum, default_value_t)]
    pub labels: LabelsArg,
    /// Seed of the answers that are drawn.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct FisherArgs {
    /// The model that is read.
    pub model: String,
    /// Directory of its Fisher information, in the layout of a model.
    pub out: PathBuf,
    /// What the information is stored as.
    #[arg(long, default_value = "f32", value_parser = PossibleValuesParser::new(["f32", "bf16"]).try_map(|word| word.parse::<DType>()))]
    pub store: DType,
    #[command(flatten)]
    pub with: MeasuringArgs,
}

#[derive(Debug, Args)]
pub struct GramsArgs {
    /// The model that is read.
    pub model: String,
    /// Directory of its Gram matrices.
    pub out: PathBuf,
    #[command(flatten)]
    pub with: MeasuringArgs,
}

#[derive(Debug, Args)]
pub struct GramsPlusArgs {
    /// A recipe of `merge_method: regmean`; the matrices go where it says `grams:`, which must not be there yet. A task is written as
    /// MODEL=TASK, with the model as the recipe calls it; one or several for each model.
    #[arg(value_name = "RECIPE.yaml")]
    pub recipe: PathBuf,
    #[command(flatten)]
    pub with: MeasuringArgs,
}

#[derive(Debug, Args)]
pub struct AlignArgs {
    /// The model that is put into another order; it computes the same as before.
    pub model: String,
    /// The model whose order it takes.
    #[arg(long, value_name = "BASE")]
    pub to: String,
    /// Directory of the aligned model.
    pub out: PathBuf,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RescoreArgs {
    /// Lines with `output` and `gold`, as `eval --answers` writes them; or the directory of a run.
    #[arg(value_name = "ANSWERS.jsonl|DIR")]
    pub answers_in: PathBuf,
    /// Built-in task or task file; without it each line's own `task` counts, or the run's own tasks.
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,
    /// Language; without it each line's own `lang` counts.
    #[arg(long)]
    pub lang: Option<String>,
    /// How to judge [default: as before; lines that do not say how, in parity].
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Write each line with its extractions.
    #[arg(long, value_name = "OUT.jsonl")]
    pub answers: Option<PathBuf>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model that writes.
    pub model: String,
    /// Lines of the form {"prompt": …}; - reads them from standard input.
    #[arg(long, value_name = "FILE.jsonl", required_unless_present = "prompt")]
    pub prompts: Option<PathBuf>,
    /// A prompt; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// End an answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End an answer that repeats itself.
    #[arg(long)]
    pub loop_guard: bool,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct PerplexityArgs {
    /// The model that reads.
    pub model: String,
    /// The text, one sequence.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of a window [default: the model's context].
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Directory of the export. Before it, if not the best child of the newest run below runs/: the directory of the run,
    /// `best` or a candidate's ID, or both.
    #[arg(num_args = 1..=3, required = true, value_name = "[DIR] [best|ID] OUT")]
    pub target: Vec<String>,
    /// Only the recipe, not the merged model.
    #[arg(long)]
    pub recipe_only: bool,
    /// A GGUF file for llama.cpp besides.
    #[arg(long, value_enum, conflicts_with = "recipe_only", value_name = "f16|q8_0")]
    pub gguf: Option<GgufArg>,
    /// Of LoRA adapters over one model: the child as one such adapter, as PEFT and vLLM load it, instead of a whole model.
    #[arg(long, conflicts_with_all = ["recipe_only", "gguf"])]
    pub adapter: bool,
    /// Rank of the adapter; of a plain sum of adapters the sum of their ranks, unless said otherwise.
    #[arg(long, requires = "adapter", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rank: Option<u32>,
    /// Largest size of one file.
    #[arg(long, default_value = "5GB", value_name = "SIZE")]
    pub shard_size: String,
    /// Replace OUT if it is empty, or if heterosis wrote all that is in it.
    #[arg(long)]
    pub overwrite: bool,
    /// The exported child answers some questions again, as the run computed them unless said otherwise.
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct SimplifyArgs {
    /// Directory of the run [default: the newest below runs/].
    pub run: Option<PathBuf>,
    /// What a simpler recipe may lose, in points: hundredths of the fitness.
    #[arg(long, default_value_t = 1.0, value_name = "POINTS")]
    pub margin: f64,
    /// Fresh questions of each task, instead of all that the run has left.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Where the simplest recipe goes.
    #[arg(long, value_name = "FILE.yaml")]
    pub out: Option<PathBuf>,
    /// Start the run's own engine program without asking, though the run was not begun here.
    #[arg(long)]
    pub yes: bool,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Directory of the export.
    pub out: PathBuf,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    /// As the export computed its answers, unless said otherwise.
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Directory of the run [default: the newest below runs/].
    pub run: Option<PathBuf>,
}

/// A TASK is a built-in name, a task file, or one of lm-evaluation-harness's own YAML files.
#[derive(Debug, Args)]
pub struct TaskArgs {
    #[command(subcommand)]
    pub command: TaskCommand,
}

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Write a commented task file for each name, NAME.yaml, with a file of questions to begin with.
    New(TaskNewArgs),
    /// Ask a model a few questions of a task: prompt, answer and verdict are shown.
    Try(TaskTryArgs),
    /// See whether task files can be read, and why not.
    Check(TaskCheckArgs),
}

#[derive(Debug, Args)]
pub struct TaskNewArgs {
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Your questions, a file of columns or objects: the task is written for its fields.
    #[arg(long, value_name = "FILE.csv|.tsv|.jsonl|.json|.parquet")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TaskTryArgs {
    #[arg(value_name = "TASK")]
    pub task: String,
    pub model: String,
    /// Language of a task that has several.
    #[arg(long)]
    pub lang: Option<String>,
    /// Split of the task's questions [default: the first that it has].
    #[arg(long)]
    pub split: Option<String>,
    /// How many questions.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub questions: usize,
    #[arg(long, value_name = "N")]
    pub shots: Option<usize>,
    #[arg(long, value_enum, default_value = "fitness")]
    pub profile: ProfileArg,
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    #[command(flatten)]
    pub chat: ChatArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct TaskCheckArgs {
    #[arg(required = true, value_name = "TASK")]
    pub tasks: Vec<String>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Fetch data sets as their authors publish them.
    Pull {
        /// gsm8k, mgsm; a built-in task, or one part of it (arc_easy, mmlu, mmlu:anatomy, belebele:spa_Latn); or any data set of
        /// the Hub, owner/name or owner/name:config.
        #[arg(required = true)]
        names: Vec<String>,
        /// A mirror, instead of where their authors publish them: of gsm8k and mgsm one with the folders gsm8k/ and mgsm/, of
        /// others one that answers as the Hub does.
        #[arg(long, value_name = "URL")]
        from: Option<String>,
    },
}

/// Runs share what was answered: parents, unsearched merges and candidates of earlier runs are not asked the same question
/// again, as long as weights, questions, precision, device and program are the same. The answers lie in the user's cache directory;
/// `HETEROSIS_CACHE` names another one, or is `off`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    pub command: Option<CacheCommand>,
    /// One JSON document on stdout.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Forget what was not used for long, then the oldest of what is too much.
    Prune {
        /// Answers that were used within this time stay, such as 30d.
        #[arg(long, default_value = "30d", value_name = "TIME")]
        older_than: String,
        /// At most this much of keys and answers stays.
        #[arg(long, value_name = "SIZE")]
        to: Option<String>,
    },
    /// Forget all.
    Clear,
}

/// `/v1/models`, `/v1/completions` and `/v1/chat/completions`, with streaming, stop strings, sampling and log-probabilities. All that
/// waits is answered as one batch.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A MODEL, a recipe, or a run, whose child is served.
    #[arg(value_name = "MODEL|RECIPE|RUN")]
    pub model: String,
    /// 0: a free one.
    #[arg(long, default_value_t = 8000, value_name = "N")]
    pub port: u16,
    /// Where to listen; other machines reach 0.0.0.0.
    #[arg(long, default_value = "127.0.0.1", value_name = "H")]
    pub host: String,
    /// What clients have to bring as a bearer token.
    #[arg(long, env = "HETEROSIS_API_KEY", hide_env_values = true, value_name = "K")]
    pub api_key: Option<String>,
    /// What clients call the model, instead of its own name.
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ChatCommandArgs {
    /// MODELs, recipes or runs, whose children answer.
    #[arg(required = true, value_name = "MODEL|RECIPE|RUN")]
    pub models: Vec<String>,
    /// The parents of each run answer too.
    #[arg(long)]
    pub parents: bool,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub max_new_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionsFor {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
    /// Manual pages, one for each command, in DIR.
    Man,
}

/// Such as `heterosis completions zsh > ~/.zfunc/_heterosis`, `heterosis completions man ~/.local/share/man/man1`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// What is written.
    #[arg(value_enum, value_name = "SHELL|man")]
    pub kind: CompletionsFor,
    /// Directory of the manual pages, made if it is missing.
    #[arg(required_if_eq("kind", "man"))]
    pub dir: Option<PathBuf>,
}
