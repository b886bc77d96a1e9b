//! `heterosis search` and `resume`: the main job, with somebody watching or nobody.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Failure, Outcome, child, environment, final_limits,
    interruption::{Interruptions, Over, Voice, ended_at_once, guarded},
    models::{self, Computed, Runtime, read_recipe},
    trust,
    watch::{Exports, Lines, request},
};
use crate::{
    checkpoint::{Writer, parse_size},
    cli::{EngineArgs, LogFormat, ResumeArgs, SearchArgs, WatchOptions},
    dashboard::{self, Action, Feed, Flags},
    eval::{self, Profile, Split, Task, TaskOptions},
    event::{self, Event, Record, run::Run},
    merge::TensorSource,
    model::{DecoderSpec, spec::NormPlace},
    recipe::{Recipe, write},
    search::{
        self, Chronicle, Clock, Control, ENGINE_VERSION, End, Evaluator, Exam, ExamTask, External, FitnessTask, Genome,
        Materialize, MergeEvaluator, Parents, Plan, Questions, Resources, Unscored, compare_questions, parts_of_run,
        recipe_dtype, run,
    },
    space::{self, BareGene, Codec, Fold, GeneSpec, Limit, Shape, Space, TaskRef},
    store::{self, Cache, Journal, RunDir, RunLock},
};

pub fn search(args: SearchArgs) -> Outcome {
    let mut space = Space::read(&args.space)?;
    resolve(&mut space, &args.space)?;
    space.search.seed = args.seed.unwrap_or(space.search.seed);
    if let Some(evals) = args.evals.filter(|evals| !(1..=space::MOST_EVALS).contains(evals)) {
        return Err(anyhow::anyhow!("--evals {evals}: a search has 1 to {} evaluations", space::MOST_EVALS).into());
    }
    space.search.evals = args.evals.unwrap_or(space.search.evals);
    let duration_ms = args.duration.as_deref().map(duration_ms).transpose()?;
    let budget = event::Budget {
        // Whoever gives a time wants it used.
        evals: (args.evals.is_some() || duration_ms.is_none()).then_some(space.search.evals),
        duration_ms,
    };
    let usual = PathBuf::from(format!("runs/{}-{}", space.name, environment::time_stamp()));
    let prepared = Prepared::new(space, &args.engine)?;
    prepared.has_no_contradictions()?;
    prepared.refuse_used_questions()?;
    // All that can be wrong is found before there is a directory.
    let examiner = Examiner::new(&prepared)?;
    let holder = environment::holder();
    let (dir, lock) = match &args.run {
        Some(path) => RunDir::create(path, &holder)?,
        None => RunDir::create_beside(&usual, &holder)?,
    };
    let space_yaml = prepared.space.to_yaml();
    dir.replace(&dir.space(), &space_yaml)?;
    if let Some(command) = &prepared.space.fitness.command {
        trust::remember(dir.path(), &command.command);
    }
    let going = Going {
        dir: &dir,
        _lock: lock,
        space_digest: digest(&space_yaml),
        budget,
        finish: false,
        accepts_changes: false,
        notes: Vec::new(),
    };
    go(going, &prepared, examiner, &args.watch)
}

pub fn resume(args: ResumeArgs) -> Outcome {
    let dir = RunDir::open(&args.run)?;
    let lock = dir.lock(&environment::holder())?;
    let mut notes = Vec::new();
    if args.truncate_damaged
        && let Some(cut) = store::cut_damaged(&dir.journal())?
    {
        let message = format!(
            "line {} of the journal was damaged; it was cut there, and is whole in {}",
            cut.line,
            cut.copy.display()
        );
        tracing::warn!("{message}");
        let level = event::Level::Warning;
        notes.push(Event::Log { level, message });
    }
    let mut space = Space::read(&dir.space())?;
    if let Some(command) = &space.fitness.command {
        trust::confirm(dir.path(), &command.command, args.yes)?;
    }
    let records = without_searched_answers(&dir)?;
    let limit = |typed: &Option<String>| typed.as_deref().map(final_limits::parse).transpose();
    let selection = limit(&args.selection_limit).map_err(|e| anyhow::anyhow!("--selection-limit: {e}"))?;
    let test = limit(&args.test_limit).map_err(|e| anyhow::anyhow!("--test-limit: {e}"))?;
    final_limits::apply(&mut space, &records, selection, test)?;
    let Some(Event::RunStarted(started)) = records.into_iter().next().map(|r| r.event) else {
        return Err(anyhow::anyhow!("{}: the journal does not begin with a run", dir.journal().display()).into());
    };
    if (&*started.engine_version, &*started.engine_build) != (ENGINE_VERSION, &*search::build()) {
        tracing::warn!(
            "this run was begun by another build of heterosis ({} {}; this is {ENGINE_VERSION} {}): what it has answered \
             stays, its cached answers are not used, and the last digits of answers may differ",
            started.engine_version,
            started.engine_build,
            search::build()
        );
    }
    let computed = Computed::of_run(&started);
    let prepared = Prepared::new(space, &computed.again(&args.engine))?;
    let dtype = prepared.runtime.computed().dtype;
    if dtype != computed.dtype {
        return Err(anyhow::anyhow!(
            "--dtype {dtype}: this run was begun in {}, and answers in another precision do not compare; go on without \
             --dtype, or start a new run",
            computed.dtype
        )
        .into());
    }
    let examiner = Examiner::new(&prepared)?;
    let going = Going {
        space_digest: space_digest(&dir, &started.space_digest)?,
        dir: &dir,
        _lock: lock,
        budget: started.budget,
        finish: args.finish,
        accepts_changes: args.accept_changes,
        notes,
    };
    go(going, &prepared, examiner, &args.watch)
}

/// A journal without the answers of its search, which are most of it.
fn without_searched_answers(dir: &RunDir) -> Result<Vec<Record>> {
    let (mut records, mut is_test) = (Vec::new(), false);
    for record in store::records(&dir.journal())? {
        let record = record?;
        is_test |= matches!(
            record.event,
            Event::PhaseStarted {
                phase: event::Phase::Test
            }
        );
        if is_test || !matches!(record.event, Event::Answers(_)) {
            records.push(record);
        }
    }
    Ok(records)
}

fn digest(space_yaml: &str) -> String {
    blake3::hash(space_yaml.as_bytes()).to_hex().to_string()
}

/// Digest of the search space of a run as it is now. What was written counts first: a newer heterosis may fill in defaults
/// that the one that wrote it did not know. Another order of lines, or a comment, is no other space.
fn space_digest(dir: &RunDir, began: &str) -> Result<String> {
    let text = fs::read_to_string(dir.space()).with_context(|| dir.space().display().to_string())?;
    let as_written = digest(&text);
    Ok(match as_written == began {
        true => as_written,
        false => Space::read(&dir.space())?.digest(),
    })
}

/// A space with everything that it names opened and checked.
pub struct Prepared {
    pub space: Space,
    pub parents: Parents,
    pub genome: Genome,
    pub warm_starts: Vec<(String, Recipe)>,
    pub runtime: Runtime,
}

impl Prepared {
    /// Opens the models, reads the tasks, and sees whether they fit each other.
    pub fn new(space: Space, engine: &EngineArgs) -> Result<Self> {
        let runtime = Runtime::new(engine)?;
        let mut parents = Parents::default();
        if space.models.is_empty() {
            let genes = space.genes.iter().map(|(name, gene)| GeneSpec {
                name: name.clone(),
                kind: gene.kind(),
            });
            return Ok(Self {
                genome: Genome::Bare(genes.collect()),
                space,
                parents,
                warm_starts: Vec::new(),
                runtime,
            });
        }
        for (name, word) in &space.models {
            models::add(&mut parents, name, word).with_context(|| format!("models.{name}"))?;
        }
        let shape = shape(&space, &parents)?;
        let codec = Codec::with_tensors(&space, shape, &tensors(&space, &parents))?;
        for (name, recipe) in codec.baselines() {
            crate::merge::Plan::new(&recipe, &parents)
                .with_context(|| format!("the models do not fit each other ({name})"))?;
        }
        for (name, recipe) in codec.baselines() {
            let has_its_vocabulary = |model: &str| parents.vocab(model) == parents.vocab(&space.tokenizer);
            if takes_another_tokenizer(&recipe, &space.tokenizer, &has_its_vocabulary) {
                bail!(
                    "models.{0}: the child is to take the tokenizer of '{0}', but in a recipe '{0}' is a word of its own, \
                     and {name} would be given another vocabulary; give this model another short name",
                    space.tokenizer
                );
            }
        }
        let warm_starts = warm_starts(&space, &codec)?;
        let first = match space.search.widening {
            true => codec.narrowed().ok_or(space::Error::NothingToWiden)?,
            false => codec,
        };
        Ok(Self {
            space,
            parents,
            genome: Genome::Merge(first),
            warm_starts,
            runtime,
        })
    }

    /// Refuses what is not what it was when a run began.
    pub fn refuse_changes(&self, began: &event::RunStarted, dir: &RunDir) -> Result<()> {
        let mut now = Examiner::new(self)?.started(self, event::Budget::default())?;
        now.space_digest = space_digest(dir, &began.space_digest)?;
        let changes = began.changes(&now);
        if !changes.is_empty() {
            bail!(
                "since this run was made, something else has become of {}; put back what it was",
                event::changes::in_words(&changes)
            );
        }
        Ok(())
    }

    /// Sees whether ranges of the space contradict each other; only for new runs, since old ones may have begun with them.
    pub fn has_no_contradictions(&self) -> Result<()> {
        if self.space.models.is_empty() {
            return Ok(());
        }
        Ok(self.space.contradictions(shape(&self.space, &self.parents)?.layers)?)
    }

    /// The evaluator that merges and asks; without a guard it lets every merge in.
    pub fn evaluator(
        &self,
        tasks: Vec<FitnessTask>,
        held_out: Vec<FitnessTask>,
        cache: Cache,
        guard: Option<space::Guard>,
    ) -> MergeEvaluator<'_> {
        let runtime = &self.runtime;
        MergeEvaluator::new(Resources {
            parents: &self.parents,
            tasks,
            held_out,
            cache,
            device: runtime.device.clone(),
            dtype: runtime.dtype,
            options: runtime.options,
            guard,
            since_start: Box::new(environment::stopwatch()),
        })
    }

    /// Whether any question stands in two parts of the run; `None` of a command that keeps its questions to itself.
    pub fn questions_compared(&self) -> Result<Option<event::QuestionsCompared>> {
        if let Some(command) = &self.space.fitness.command {
            let Some(file) = &command.questions else {
                return Ok(None);
            };
            let questions = Questions::read(Path::new(file), &self.space.fitness)?;
            let parts = questions.parts_of_run(&self.space.finale, !self.space.models.is_empty())?;
            return Ok(Some(event::QuestionsCompared {
                by_name: !questions.have_texts(),
                ..compare_questions(&parts)
            }));
        }
        let parts = parts_of_run(&self.tasks()?, &self.held_out()?, &self.space.finale)?;
        Ok(Some(compare_questions(&parts)))
    }

    /// Refuses a search that would be judged by what it was bred on, unless its space allows that. Gives what was found.
    pub fn refuse_used_questions(&self) -> Result<Option<event::QuestionsCompared>> {
        let compared = self.questions_compared()?;
        self.refuse(compared.as_ref())?;
        Ok(compared)
    }

    /// [`Self::refuse_used_questions`], of what was compared already.
    pub fn refuse(&self, compared: Option<&event::QuestionsCompared>) -> Result<()> {
        match compared.and_then(event::QuestionsCompared::refusal) {
            Some(reason) if !self.space.finale.allow_overlap => bail!(reason),
            _ => Ok(()),
        }
    }

    /// The tasks of the fitness, loaded; one for each language.
    pub fn tasks(&self) -> Result<Vec<FitnessTask>> {
        let mut tasks = Vec::new();
        for (i, reference) in self.space.fitness.tasks.iter().enumerate() {
            let loaded = fitness_tasks(reference).with_context(|| format!("fitness.tasks[{i}]"))?;
            tasks.extend(loaded);
        }
        Ok(tasks)
    }

    /// The tasks that only the final asks, loaded.
    pub fn held_out(&self) -> Result<Vec<FitnessTask>> {
        let name = |task: &FitnessTask| (task.task.name().to_string(), task.task.lang().to_string());
        let mut names: Vec<_> = self.tasks()?.iter().map(name).collect();
        let mut tasks = Vec::new();
        for (i, reference) in self.space.finale.held_out.iter().enumerate() {
            let loaded = fitness_tasks(reference).with_context(|| format!("final.held_out[{i}]"))?;
            for task in loaded {
                let name = name(&task);
                if names.contains(&name) {
                    bail!(
                        "final.held_out[{i}]: {} ({}) stands in this search already; a held-out task is another one, which \
                         nothing is chosen by",
                        name.0,
                        name.1
                    );
                }
                names.push(name);
                tasks.push(task);
            }
        }
        Ok(tasks)
    }
}

/// Makes paths absolute, so that the run can be resumed from anywhere.
pub fn resolve(space: &mut Space, file: &Path) -> Result<()> {
    let absolute = |path: &str| -> Result<String> {
        let found = models::beside(path, file);
        Ok(std::path::absolute(&found)
            .with_context(|| found.clone())?
            .display()
            .to_string())
    };
    for (_, word) in &mut space.models {
        let beside = models::beside(word, file);
        *word = match beside.split_once('+') {
            _ if beside.starts_with("hf:") => beside.clone(),
            Some((model, adapter)) if !Path::new(&beside).exists() => match model.starts_with("hf:") {
                true => format!("{model}+{}", absolute(adapter)?),
                false => format!("{}+{}", absolute(model)?, absolute(adapter)?),
            },
            _ => absolute(&beside)?,
        };
    }
    if let Some(command) = &mut space.fitness.command {
        for word in &mut command.command {
            if Path::new(&models::beside(word, file)).is_file() {
                *word = absolute(word)?;
            }
        }
        if let Some(questions) = &mut command.questions {
            *questions = absolute(questions)?;
        }
    }
    let is_file = |word: &str| word.ends_with(".yaml") || word.ends_with(".yml");
    let words = space
        .fitness
        .tasks
        .iter_mut()
        .chain(&mut space.finale.held_out)
        .map(|t| &mut t.task)
        .chain(&mut space.search.warm_start);
    for word in words.filter(|w| is_file(w)) {
        *word = absolute(word)?;
    }
    Ok(())
}

/// What the codec must know of the models.
fn shape(space: &Space, parents: &Parents) -> Result<Shape> {
    let donor = space.base.as_deref().unwrap_or(&space.models[0].0);
    let checkpoint = parents.checkpoint(donor).context("the base is not open")?;
    let layers = checkpoint
        .config()
        .get("num_hidden_layers")
        .and_then(serde_json::Value::as_u64);
    let layers = layers.with_context(|| format!("{}: config.json has no num_hidden_layers", checkpoint.name()))?;
    let largest = checkpoint
        .tensors()
        .max_by_key(|(_, info)| info.len())
        .context("the base has no tensors")?;
    Ok(Shape {
        layers: layers as usize,
        out_dtype: recipe_dtype(largest.1.dtype),
        fold: fold(checkpoint.config()).with_context(|| checkpoint.name().to_string())?,
    })
}

/// The tensors of the base, or of the first model.
fn tensors(space: &Space, parents: &Parents) -> Vec<String> {
    let donor = space.base.as_deref().unwrap_or(&space.models[0].0);
    parents.tensor_names(donor)
}

/// Where a family's layers take the scales of a layer path.
fn fold(config: &serde_json::Value) -> Result<Fold> {
    let spec = DecoderSpec::from_config(config)?;
    Ok(match spec.norm_place {
        NormPlace::Pre => Fold::Projections,
        NormPlace::Post => Fold::PostNorms,
        NormPlace::Sandwich => Fold::ShiftedPostNorms,
    })
}

pub fn fitness_tasks(reference: &TaskRef) -> Result<Vec<FitnessTask>> {
    let split = Split::from_name(&reference.split).with_context(|| {
        format!(
            "the split '{}' is none of {}",
            reference.split,
            Split::ALL.map(Split::name).join(", ")
        )
    })?;
    let names = eval::expand(&reference.task, reference.lang.as_deref())?;
    let count = names.len() as f64;
    let mut tasks = Vec::new();
    for (name, lang) in names {
        let options = TaskOptions {
            lang: Some(lang),
            shots: reference.shots,
            profile: match reference.profile.as_deref() {
                Some("parity") => Profile::Parity,
                _ => Profile::Fitness,
            },
            ..TaskOptions::default()
        };
        tasks.push(FitnessTask {
            task: Task::load(&name, &options, &environment::data_dirs())?,
            weight: reference.weight / count,
            limit: reference.limit,
            split,
        });
    }
    Ok(tasks)
}

/// Whether a recipe that names the model `tokenizer` as its tokenizer's source says something else by it: `base` means
/// `base_model` there, or else the first model, and `union` all of them. Where vocabularies are the same, so are children.
fn takes_another_tokenizer(recipe: &Recipe, tokenizer: &str, has_its_vocabulary: &dyn Fn(&str) -> bool) -> bool {
    let stage = recipe.result();
    matches!(stage.tokenizer_source.as_deref(), Some("base" | "union"))
        && stage.donor() != tokenizer
        && !stage.models().into_iter().all(has_its_vocabulary)
}

/// The recipes that the space says to start from.
fn warm_starts(space: &Space, codec: &Codec) -> Result<Vec<(String, Recipe)>> {
    let baselines: HashMap<String, Recipe> = codec.baselines().into_iter().collect();
    let mut recipes = Vec::new();
    for word in &space.search.warm_start {
        let recipe = match baselines.get(word) {
            Some(recipe) => recipe.clone(),
            None if models::is_recipe(word) => with_short_names(&read_recipe(Path::new(word))?, space),
            None => bail!("search.warm_start: '{word}' needs a base model"),
        };
        codec
            .encode(&recipe)
            .with_context(|| format!("search.warm_start: {word}"))?;
        recipes.push((word.clone(), recipe));
    }
    Ok(recipes)
}

/// A recipe whose models are named as the space names them.
fn with_short_names(recipe: &Recipe, space: &Space) -> Recipe {
    recipe.with_models(|word| {
        let short = space
            .models
            .iter()
            .find(|(_, model)| model == word || models::beside(word, Path::new("")) == *model);
        short.map_or_else(|| word.to_string(), |(name, _)| name.clone())
    })
}

/// A recipe whose models are named by MODEL words, ready for `heterosis merge`.
pub fn with_model_words(recipe: &Recipe, space: &Space) -> Recipe {
    recipe.with_models(|name| {
        let model = space.models.iter().find(|(short, _)| short == name);
        model.map_or_else(|| name.to_string(), |(_, word)| word.clone())
    })
}

/// `8h`, `90m`, `1h30m`, `45s`.
pub fn duration_ms(text: &str) -> Result<u64> {
    let wrong = || format!("--for {text}: write a time such as 8h, 90m or 1h30m");
    let (mut total, mut number) = (0, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            continue;
        }
        let unit_ms = match c {
            'd' => 86_400_000.0,
            'h' => 3_600_000.0,
            'm' => 60_000.0,
            's' => 1000.0,
            _ => bail!(wrong()),
        };
        let value: f64 = number.parse().with_context(wrong)?;
        total += (value * unit_ms) as u64;
        number.clear();
    }
    if total == 0 || !number.is_empty() {
        bail!(wrong());
    }
    Ok(total)
}

/// The evaluator and its questions, all of them loaded.
struct Examiner<'a> {
    asking: MergeEvaluator<'a>,
    /// Of a command that says which they are.
    of_command: Option<Questions>,
    search: Exam,
    selection: Exam,
    test: Exam,
    held_out: Exam,
}

impl<'a> Examiner<'a> {
    /// Loads tasks and questions. Answers are kept in memory until there is a place for them.
    fn new(prepared: &'a Prepared) -> Result<Self> {
        let (fitness, finale) = (&prepared.space.fitness, &prepared.space.finale);
        let (tasks, held_out) = (prepared.tasks()?, prepared.held_out()?);
        let mut asking = prepared.evaluator(tasks, held_out, Cache::in_memory(), fitness.guard);
        let file = fitness.command.as_ref().and_then(|command| command.questions.as_ref());
        let of_command = file.map(|file| Questions::read(Path::new(file), fitness)).transpose()?;
        let search = match &of_command {
            Some(questions) => questions.exam(Split::Search.name(), Limit::All)?,
            None => asking.search_exam()?,
        };
        let mut later = |split: &str, limit: Limit| match &of_command {
            Some(questions) => questions.exam(split, limit),
            None => asking.exam(split, limit),
        };
        let selection = later(&finale.selection.split, finale.selection_limit())?;
        let test = match prepared.space.models.is_empty() {
            true => Exam {
                split: finale.test.split.clone(),
                tasks: Vec::new(),
            },
            false => later(&finale.test.split, finale.test_limit())?,
        };
        Ok(Self {
            search,
            selection,
            test,
            held_out: asking.held_out_exam()?,
            asking,
            of_command,
        })
    }

    /// What a run that begins now says of itself. Reads all models for their digests.
    fn started(&self, prepared: &Prepared, budget: event::Budget) -> Result<event::RunStarted> {
        let (space, computed) = (&prepared.space, prepared.runtime.computed());
        let models = space.models.iter().map(|(name, word)| {
            let checkpoint = prepared.parents.checkpoint(name).context("a parent is not open")?;
            Ok(event::Model {
                name: name.clone(),
                model: word.clone(),
                digest: checkpoint.digest()?,
                tokenizer_digest: prepared.parents.tokenizer_digest(name),
                is_base: space.base.as_ref() == Some(name),
            })
        });
        let computation = self.asking.computation();
        Ok(event::RunStarted {
            name: space.name.clone(),
            engine_version: ENGINE_VERSION.into(),
            engine_build: computation.build,
            instruction_set: computation.instruction_set,
            seed: space.search.seed,
            space_digest: space.digest(),
            budget,
            models: models.collect::<Result<_>>()?,
            tasks: self.tasks(&self.search, &|index| match &self.of_command {
                Some(questions) => questions.digest(index),
                None => self.asking.task_digest(index).to_string(),
            }),
            held_out: self.tasks(&self.held_out, &|index| self.asking.task_digest(index).to_string()),
            optimizer: serde_json::to_value(space.search.optimizer)?
                .as_str()
                .unwrap_or_default()
                .to_string(),
            genes: prepared.genome.genes().iter().map(|g| g.name.clone()).collect(),
            population: space.search.population.unwrap_or(0),
            device: computed.device,
            dtype: computed.dtype,
            score_weights: space.fitness.weights.iter().cloned().collect(),
        })
    }

    fn tasks(&self, exam: &Exam, digest: &dyn Fn(usize) -> String) -> Vec<event::Task> {
        let task = |task: &ExamTask| event::Task {
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: task.split.clone(),
            weight: task.weight,
            n: task.items.len(),
            digest: digest(task.index),
            metric: task.metric().into(),
        };
        exam.tasks.iter().map(task).collect()
    }
}

/// A run that this process writes to.
struct Going<'a> {
    dir: &'a RunDir,
    _lock: RunLock,
    space_digest: String,
    budget: event::Budget,
    /// End the search now and go to the final.
    finish: bool,
    accepts_changes: bool,
    /// What happened before the journal was opened.
    notes: Vec<Event>,
}

/// Searches in a thread of its own, while this one shows it.
fn go(going: Going<'_>, prepared: &Prepared, examiner: Examiner<'_>, watch: &WatchOptions) -> Outcome {
    let dir = going.dir;
    for stale in [dir.stop_request(), dir.pause_request()] {
        let _ = fs::remove_file(stale);
    }
    let started = event::RunStarted {
        space_digest: going.space_digest,
        ..examiner.started(prepared, going.budget)?
    };
    let compared = prepared.questions_compared()?;
    let mut asking = examiner.asking;
    asking.set_cache(Cache::open(&dir.cache()));
    let plan = Plan {
        space: prepared.space.clone(),
        genome: with_influence(prepared, &mut asking)?,
        warm_starts: prepared.warm_starts.clone(),
        budget: going.budget,
        finish: going.finish,
        search: examiner.search,
        selection: examiner.selection,
        test: examiner.test,
        held_out: examiner.held_out,
        lessons: match &prepared.space.search.learn {
            Some(learning) => asking.lessons(learning.questions)?,
            None => Exam::nothing(),
        },
    };
    let control = Control::default();
    let voice = Voice::default();
    let interruptions = Interruptions::listen(&control, &voice, dir.path().display().to_string())?;
    let (to_view, view) = mpsc::channel();
    let (to_log, log) = mpsc::channel();
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let _over = Over(&over);
        let (worker_control, requests_control, over) = (control.clone(), control.clone(), &over);
        let to_view = wants_dashboard(watch).then_some(to_view);
        let worker = scope.spawn(move || {
            let best = RefCell::new(BestFile::new(dir, &plan.space));
            let listener = |record: &Record| {
                best.borrow_mut().see(record);
                // Nobody may be looking any more.
                if let Some(to_view) = &to_view {
                    let _ = to_view.send(record.clone());
                }
                if !matches!(record.event, Event::Answers(_)) {
                    let _ = to_log.send(record.clone());
                }
            };
            let clock = Clock {
                now_ms: &environment::now_ms,
                sleep: &std::thread::sleep,
            };
            let command = prepared.space.fitness.command.as_ref();
            let mut external = command.map(|command| external(command, prepared, dir));
            let opening = Journal::open(&dir.journal())?.shown_to(|record| {
                if let Event::Answers(answers) = &record.event {
                    match &mut external {
                        Some(external) => external.remember(answers),
                        None => asking.remember(answers),
                    }
                }
            });
            let mut chronicle = Chronicle::open(opening, started, going.accepts_changes, clock, &listener)?;
            for note in going.notes {
                chronicle.write(note)?;
            }
            if let Some(compared) = compared {
                chronicle.questions_compared(compared)?;
            }
            let mut evaluator: Box<dyn Evaluator> = match external {
                Some(external) => Box::new(external),
                None => Box::new(asking),
            };
            run(&plan, &mut *evaluator, &mut chronicle, &worker_control)
        });
        scope.spawn(move || pass_requests_on(dir, &requests_control, over));
        show(dir, view, &log, watch, &interruptions.flags, &voice);
        worker.join()
    });
    use store::Error::{BadLine as Damaged, Newer};
    match outcome {
        Ok(Ok(End::Done)) => Ok(()),
        Ok(Ok(End::Stopped)) => Err(Failure::Interrupted),
        Ok(Err(e @ (search::Error::Changed { .. } | search::Error::Store(Damaged { .. } | Newer { .. })))) => {
            Err(e.into())
        }
        Ok(Err(e)) => Err(Failure::work(e)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The genome; where layers are searched, it is told how much each one matters.
fn with_influence(prepared: &Prepared, evaluator: &mut MergeEvaluator<'_>) -> Result<Genome> {
    let mut genome = prepared.genome.clone();
    if let (Genome::Merge(codec), Some(dfs)) = (&mut genome, &prepared.space.data_flow_space)
        && prepared.space.fitness.command.is_none()
    {
        for source in dfs.sources.iter().filter(|s| prepared.parents.checkpoint(s).is_some()) {
            codec.set_block_influence(source, &evaluator.block_influence(source)?);
        }
    }
    Ok(genome)
}

/// Why a merged model was not written: of what the merge itself refuses, the recipe is to blame, of all else the disk.
fn unwritten(e: anyhow::Error) -> Unscored {
    match e.downcast::<crate::merge::Error>() {
        Ok(e) => e.into(),
        Err(e) => Unscored::machine(super::in_words(&e)),
    }
}

/// The user's own program as the evaluator of a run.
fn external<'a>(command: &space::Command, prepared: &'a Prepared, dir: &RunDir) -> External<'a> {
    external_in(command, prepared, dir.path())
}

/// The user's own program, with its log and its models in a directory.
pub fn external_in<'a>(command: &space::Command, prepared: &'a Prepared, dir: &Path) -> External<'a> {
    let write = |recipe: &Recipe, out: &Path| -> Result<(), Unscored> {
        let plan = crate::merge::Plan::new(recipe, &prepared.parents)?;
        let write = || -> Result<()> {
            let mut writer = Writer::replace(out, parse_size("5GB")?)?;
            child::write(&mut writer, &plan, &prepared.parents, &mut |_| {})?;
            Ok(writer.finish()?)
        };
        write().map_err(unwritten)
    };
    // A program may work in a directory of its own.
    let candidates = std::path::absolute(dir.join("candidates")).unwrap_or_else(|_| dir.join("candidates"));
    // A process that was killed leaves those behind that it had out, and not all are asked again.
    let _ = fs::remove_dir_all(&candidates);
    let models: Option<(PathBuf, Materialize<'a>)> = command
        .materialize
        .then(|| (candidates, Box::new(write) as Materialize<'a>));
    External::new(
        command.clone(),
        &prepared.space.models,
        &dir.join("command.log"),
        models,
    )
}

/// The dashboard on a terminal, lines elsewhere; after `q` the search goes on with lines.
fn show(
    dir: &RunDir,
    view: Receiver<Record>,
    log: &Receiver<Record>,
    watch: &WatchOptions,
    flags: &Flags,
    voice: &Voice,
) {
    let mut lines = Lines::of_search(watch.log_format);
    if wants_dashboard(watch) {
        guarded("the dashboard", || show_dashboard(dir, &view, flags, voice));
        voice.is_through(None);
        drop(view);
        for record in log.try_iter() {
            lines.skip(&record);
        }
    }
    let name = dir.path().display().to_string();
    let shown = guarded("the log", || {
        for record in log {
            lines.show(&record);
        }
        if watch.log_format == LogFormat::Text {
            super::print_if_read(format_args!("\n{}", lines.summary(&name)));
        }
    });
    if shown.is_none() {
        // Nobody is left to show anything to; the end of the feed is the end of the run.
        log.iter().for_each(drop);
    }
}

fn show_dashboard(dir: &RunDir, view: &Receiver<Record>, flags: &Flags, voice: &Voice) {
    let name = dir.path().display().to_string();
    let (mut exports, notices) = Exports::new(dir);
    voice.is_through(Some(exports.notices()));
    let mut asked = |action: Action| match action {
        Action::Abort => {
            dashboard::restore();
            ended_at_once(&name);
            std::process::exit(130);
        }
        Action::RequestExport { id } => exports.begin(id),
        action => request(dir, action),
    };
    let feed = Feed {
        records: view,
        notices: &notices,
        now_ms: &environment::now_ms,
        flags,
    };
    let shown = dashboard::run(&feed, environment::appearance(), &mut asked);
    voice.is_through(None);
    exports.finish();
    match shown {
        Ok(dashboard::Exit::Closed) => {
            super::say(format_args!(
                "the search goes on; `heterosis watch {name}` shows it again, Ctrl-C stops it"
            ));
        }
        Ok(_) => {}
        Err(e) => tracing::warn!("the dashboard cannot be shown: {e}"),
    }
}

fn wants_dashboard(watch: &WatchOptions) -> bool {
    !watch.headless && watch.log_format == LogFormat::Text && environment::is_interactive()
}

/// Keeps `best.yaml` the best recipe so far, or `best.json` the best genes: by what its search score is worth, and in the end by the final.
struct BestFile<'a> {
    dir: &'a RunDir,
    space: &'a Space,
    run: Run,
    /// Who is in the file, and whether as the winner of the final.
    written: Option<(String, bool)>,
}

/// `best.json`.
#[derive(Serialize)]
struct BestGenes<'a> {
    schema_version: u32,
    name: &'a str,
    id: &'a str,
    /// On the search's questions.
    fitness: f64,
    /// It won the final.
    is_winner: bool,
    /// As the command was given them.
    genes: &'a serde_json::Value,
    /// The words that the numbers of choices stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    choices: BTreeMap<&'a str, &'a str>,
}

impl<'a> BestFile<'a> {
    fn new(dir: &'a RunDir, space: &'a Space) -> Self {
        Self {
            dir,
            space,
            run: Run::default(),
            written: None,
        }
    }

    fn see(&mut self, record: &Record) {
        // Answers are many, and say nothing of who is best.
        if matches!(record.event, Event::Answers(_)) {
            return;
        }
        self.run.apply(record);
        let Some(best) = self.run.winner() else { return };
        let now = (best.id.clone(), self.run.selection.is_some());
        if self.written.as_ref() != Some(&now) {
            self.write(best, now.1);
            self.written = Some(now);
        }
    }

    fn write(&self, best: &event::Candidate, is_winner: bool) {
        let (id, fitness, value) = (&best.id, best.fitness, &best.recipe);
        let (file, text) = match value.get("genes") {
            Some(genes) => (self.dir.best_genes(), self.genes(id, fitness, is_winner, genes)),
            None => match self.recipe(id, fitness, is_winner, value) {
                Some(text) => (self.dir.best(), text),
                None => return, // a parent as it is makes no recipe
            },
        };
        if let Err(e) = self.dir.replace(&file, &text) {
            tracing::warn!("{e}");
        }
    }

    fn recipe(&self, id: &str, fitness: f64, is_winner: bool, value: &serde_json::Value) -> Option<String> {
        let recipe: Recipe = serde_json::from_value(value.clone()).ok()?;
        let yaml = write::to_yaml(&with_model_words(&recipe, self.space));
        let what = match is_winner {
            true => "the winner of the final".into(),
            false => format!("{fitness:.4} on the search questions"),
        };
        Some(format!("# {id}, {what} of {}\n{yaml}", self.space.name))
    }

    fn genes(&self, id: &str, fitness: f64, is_winner: bool, genes: &serde_json::Value) -> String {
        let word = |(name, gene): &'a (String, BareGene)| match gene {
            BareGene::Choice { choice } => {
                let at = genes.get(name)?.as_f64()? as usize;
                Some((name.as_str(), choice.get(at)?.as_str()))
            }
            BareGene::Real(_) | BareGene::Int { .. } => None,
        };
        let best = BestGenes {
            schema_version: event::SCHEMA_VERSION,
            name: &self.space.name,
            id,
            fitness,
            is_winner,
            genes,
            choices: self.space.genes.iter().filter_map(word).collect(),
        };
        serde_json::to_string_pretty(&best).expect("genes are plain data") + "\n"
    }
}

/// Requests that `watch` or the dashboard left in the run directory become flags.
fn pass_requests_on(dir: &RunDir, control: &Control, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if dir.stop_request().exists() {
            let _ = fs::remove_file(dir.stop_request());
            control.stop.store(true, Ordering::Relaxed);
        }
        control.pause.store(dir.pause_request().exists(), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model with the short name `base` gave its tokenizer to no merge without a base: `linear` took the first model's.
    #[test]
    fn a_short_name_that_is_a_word_of_recipes_is_no_trap() {
        let recipe = |text: &str| crate::recipe::read::parse(Path::new("r.yaml"), text).unwrap();
        let linear = "merge_method: linear\nmodels: [{model: maths}, {model: spanish}]\nparameters: {weight: 1}\n";
        let named = recipe(&format!("{linear}tokenizer_source: base\n"));
        assert!(takes_another_tokenizer(&named, "base", &|model| model == "maths"));
        assert!(!takes_another_tokenizer(&named, "base", &|_| true));
        assert!(!takes_another_tokenizer(&named, "maths", &|_| false));
        let other = recipe(&format!("{linear}tokenizer_source: spanish\n"));
        assert!(!takes_another_tokenizer(&other, "spanish", &|_| false));
        let ties =
            "merge_method: ties\nbase_model: base\nmodels: [{model: maths}]\nparameters: {weight: 1, density: 1}\n";
        assert!(!takes_another_tokenizer(&recipe(ties), "base", &|_| false));
    }

    /// In a race a candidate that left after two dozen questions can have the highest score of all: `best.yaml` held it.
    #[test]
    fn the_best_file_ignores_who_left_a_race_early() {
        let text = "name: t\nmodels: {base: b, maths: m}\nbase: base\nparameter_space: {method: ties, genes: {weight: \
                    [0.0, 1.0]}}\nfitness: {tasks: [t]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &environment::holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        for (id, fitness, eliminated) in [("stays", 0.5, false), ("leaves", 0.9, true)] {
            let recipe = crate::search::verbatim("maths");
            let candidate = serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 0, "genotype": [], "recipe": recipe, "recipe_digest": "", "fitness": fitness, "stderr": 0.0,
                "n": 1, "tasks": [], "eliminated": eliminated, "cached": false, "generated_tokens": 0, "merge_ms": 0,
                "evaluation_ms": 0
            });
            best.see(&serde_json::from_value(candidate).unwrap());
        }
        let written = fs::read_to_string(dir.best()).unwrap();
        assert!(written.contains("stays") && !written.contains("leaves"), "{written}");
    }

    /// The luckiest of two dozen questions stood in `best.yaml` for the rest of the night.
    #[test]
    fn the_best_file_is_drawn_to_the_mean_when_a_race_is_over() {
        let text = "name: t\nmodels: {base: b, maths: m}\nbase: base\nparameter_space: {method: ties, genes: {weight: \
                    [0.0, 1.0]}}\nfitness: {tasks: [t]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &environment::holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        let mut see = |event: serde_json::Value| best.see(&serde_json::from_value(event).unwrap());
        for (id, fitness, stderr) in [("lucky", 0.74, 0.1), ("known", 0.70, 0.02), ("third", 0.6, 0.1)] {
            see(serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 1, "genotype": [], "recipe": crate::search::verbatim("maths"), "recipe_digest": "",
                "fitness": fitness, "stderr": stderr, "n": 24, "tasks": [], "cached": false, "generated_tokens": 0,
                "merge_ms": 0, "evaluation_ms": 0
            }));
        }
        assert!(fs::read_to_string(dir.best()).unwrap().starts_with("# lucky"));
        see(serde_json::json!({
            "schema_version": 1, "seq": 0, "time_ms": 0, "event": "generation_ended", "generation": 1, "best": 0.74,
            "upper_quartile": 0.7, "median": 0.7, "lower_quartile": 0.6, "failed": 0, "sigma": null, "block": 96,
            "tau": null, "split_half": null, "state_digest": ""
        }));
        assert!(fs::read_to_string(dir.best()).unwrap().starts_with("# known"));
    }

    /// Without models there is no recipe; what was searched for is left all the same.
    #[test]
    fn bare_genes_are_left_with_the_words_of_their_choices() {
        let text = "name: t\ngenes: {x: [0, 1], m: {choice: [adam, sgd]}}\nfitness: {command: [score]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &environment::holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        for (id, fitness, x) in [("c1", 0.5, 0.25), ("c2", 0.9, 0.75)] {
            let candidate = serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 0, "genotype": [x, 1.0], "recipe": {"genes": {"x": x, "m": 1.0}}, "recipe_digest": "",
                "fitness": fitness, "stderr": 0.0, "n": 1, "tasks": [], "cached": false, "generated_tokens": 0,
                "merge_ms": 0, "evaluation_ms": 0
            });
            best.see(&serde_json::from_value(candidate).unwrap());
        }
        let read =
            || -> serde_json::Value { serde_json::from_str(&fs::read_to_string(dir.best_genes()).unwrap()).unwrap() };
        let first = read();
        assert_eq!(
            (&first["id"], &first["genes"]["x"], &first["choices"]["m"]),
            (&"c2".into(), &0.75.into(), &"sgd".into())
        );
        let selected = serde_json::json!({
            "schema_version": 1, "seq": 0, "time_ms": 0, "event": "selected", "split": "selection", "finalists": [],
            "best": "c1", "best_parent": ""
        });
        best.see(&serde_json::from_value(selected).unwrap());
        assert_eq!((&read()["id"], &read()["is_winner"]), (&"c1".into(), &true.into()));
        assert!(!dir.best().exists());
    }
}
