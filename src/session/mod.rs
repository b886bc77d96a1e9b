//! The front door of the library: a search space with everything that it names, opened and checked *before* anything is
//! written; runs of it, begun, gone on with and watched; their children, exported and simplified.
//!
//! * [`Session`] is a space with its models and tasks. [`Session::create`] begins a run of it, [`Begun`] takes one up again;
//!   either gives a [`Search`], whose [`run`](Search::run) tells a listener everything that happens.
//! * [`propose`] chooses a search space for models that somebody names.
//! * [`demo_space`] is the search that travels inside the program.
//! * [`watch`] listens to a run of another process, [`wish`] asks it to stop or to pause.
//! * [`Child`] is a candidate of a run; [`Child::begin`] exports it. [`Exported`] is an export that is looked at again.
//! * [`Simplifying`] looks for the simplest recipe that is as good as a run's winner.
//!
//! Nothing here prints, or reads a clock or the environment: a [`Host`] is passed in.
//!
//! The demo's search, cut short, on the tiny family that lies in the repository:
//!
//! ```
//! use heterosis::{
//!     event::Event,
//!     host::Host,
//!     models::RuntimeOptions,
//!     search::{Control, End},
//!     session::{self, Child, ExportOptions, Session},
//!     space::Limit,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let (run, out) = (home.path().join("run"), home.path().join("child"));
//! let mut space = session::read_space("search-spaces/demo.yaml".as_ref())?;
//! (space.search.evals, space.search.learn) = (4, None);
//! space.fitness.tasks[0].limit = Some(8);
//! space.finale.finalists = 1;
//! (space.finale.selection.limit, space.finale.test.limit) = (Some(Limit::Most(4)), Some(Limit::Most(4)));
//!
//! let host = Host { answers: None, ..Host::this_machine() }; // answers of other runs are not used
//! let session = Session::open(space, &RuntimeOptions::default(), host.clone())?;
//! let search = session.create(&run, session.usual_budget())?;
//! let end = search.run(&Control::default(), &|record| {
//!     if let Event::CandidateScored(candidate) = &record.event {
//!         println!("{}: {:.3}", candidate.id, candidate.fitness);
//!     }
//! })?;
//! assert_eq!(end, End::Done);
//!
//! let child = Child::find(&run, "best")?;
//! child.begin(&out, &ExportOptions::default(), &host)?.write(&mut |_| {})?;
//! assert!(out.join("model.safetensors").exists());
//! # Ok(())
//! # }
//! ```

mod best;
mod demo;
mod error;
mod evaluators;
mod export;
mod guide;
mod limits;
mod live;
mod proposal;
mod provenance;
mod run;
mod simplify;
mod tasks;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

pub use demo::demo_space;
pub use error::{Error, ProvenanceError};
pub use export::{Child, Export, ExportOptions, ExportStep};
pub use proposal::{Proposal, Wanted, propose};
pub use provenance::{Exported, read_provenance};
pub use run::{Begun, ResumeOptions, Search, repair};
pub use simplify::{Comparing, Finished, Questions, Simplified, Simplifying};
pub use tasks::fitness_tasks;
pub use watch::{Watching, Wish, watch, wish};

use crate::{
    event::{self, CandidateId, words::counted},
    host::Host,
    merge::{self, Plan, TensorSource},
    model::{DecoderSpec, spec::NormPlace},
    models::{self, Parents, Runtime, RuntimeOptions},
    recipe::Recipe,
    search::{self, FitnessTask, Genome, LEAST_TEXTS, MergeEvaluator, compare_questions, parts_of_run},
    space::{self, Codec, Finale, Fold, GeneSpec, Limit, Shape, Space, Teachers},
    workers,
};

/// Largest size of one file of a model.
pub const SHARD_SIZE_BYTES: u64 = 5_000_000_000;

/// A search space with everything that it names opened and checked.
pub struct Session {
    space: Space,
    /// Shared with whoever merges beside the search.
    parents: Arc<Parents>,
    genome: Genome,
    warm_starts: Vec<(String, Recipe)>,
    runtime: Runtime,
    /// Of the fitness, one for each language.
    tasks: Vec<FitnessTask>,
    /// That only the final asks.
    held_out: Vec<FitnessTask>,
    /// The model of this machine that gives advice.
    guide: Option<models::Opened>,
    host: Host,
}

impl Session {
    /// Opens the models, reads the tasks, and sees whether they fit each other.
    ///
    /// # Errors
    /// Something is missing, damaged, or does not fit; [`Error::Placed`] says in which line of the space's file it stands,
    /// [`Error::At`] in which of its fields.
    pub fn open(space: Space, wanted: &RuntimeOptions, host: Host) -> Result<Self, Error> {
        let places = space.places.clone();
        let opened = Self::opened(space, wanted, host).and_then(Self::with_guide);
        opened.map_err(Error::placed(&places))
    }

    /// As [`Self::open`], where nothing is searched: whoever gives advice is left alone, and may be gone.
    fn open_without_guide(space: Space, wanted: &RuntimeOptions, host: Host) -> Result<Self, Error> {
        let places = space.places.clone();
        Self::opened(space, wanted, host).map_err(Error::placed(&places))
    }

    fn opened(space: Space, wanted: &RuntimeOptions, host: Host) -> Result<Self, Error> {
        let mut runtime = Runtime::new(&with_dtype(wanted, &space))?;
        if space.fitness.engine.is_some() || space.fitness.command.is_some() {
            runtime = runtime.alone()?;
        }
        let mut parents = Parents::default();
        for (name, word) in &space.models {
            models::add(&mut parents, name, word, &host.hub)
                .map_err(Error::from)
                .map_err(Error::at(format!("models.{name}")))?;
        }
        let (genome, warm_starts) = match space.models.is_empty() {
            true => (bare(&space), Vec::new()),
            false => bred(&space, &parents)?,
        };
        let asking = tasks::Asking {
            space: &space,
            parents: &parents,
            data: &host.data,
        };
        let tasks = tasks::of_fitness(&asking)?;
        Ok(Self {
            held_out: tasks::held_out(&asking, &tasks)?,
            tasks,
            space,
            parents: Arc::new(parents),
            genome,
            warm_starts,
            runtime,
            guide: None,
            host,
        })
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The models, by their short names.
    pub fn parents(&self) -> &Parents {
        &self.parents
    }

    /// What the optimizer moves, and what it stands for.
    pub fn genome(&self) -> &Genome {
        &self.genome
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The tasks of the fitness, one for each language.
    pub fn tasks(&self) -> &[FitnessTask] {
        &self.tasks
    }

    /// Whether workers elsewhere can do the evaluating.
    ///
    /// # Errors
    /// A command scores the candidates: it runs where the search does. A task that cannot be told to anybody.
    pub fn can_be_evaluated_by_workers(&self) -> Result<(), Error> {
        if self.space.fitness.command.is_some() {
            return Err(workers::Error::Command.into());
        }
        if !self.runtime.others.is_empty() {
            let word = self.runtime.devices_in_words();
            return Err(models::Error::SeveralDevices { word }.into());
        }
        let mut tasks = self.tasks.iter().chain(&self.held_out);
        Ok(tasks.try_for_each(workers::can_be_told)?)
    }

    /// The models that bring no chat template: where there is one, `chat_template: auto` asks without.
    pub fn without_chat_template(&self) -> Vec<String> {
        tasks::without_chat_template(&self.parents)
    }

    /// The tasks that only the final asks.
    pub fn held_out(&self) -> &[FitnessTask] {
        &self.held_out
    }

    /// The space's own number of candidates, in any time.
    pub fn usual_budget(&self) -> event::Budget {
        event::Budget {
            evals: Some(self.space.search.evals),
            duration_ms: None,
        }
    }

    /// How much a run is going to learn, as a rule; `None` where it learns nothing.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub fn learning_plan(&self) -> Result<Option<event::LearningPlan>, Error> {
        let space = &self.space;
        let Some(learning) = space.search.learn.as_ref().filter(|_| space.fitness.command.is_none()) else {
            return Ok(None);
        };
        let mut questions = 0;
        for FitnessTask { task, split, .. } in &self.tasks {
            questions += task.count(*split)?.min(learning.questions);
        }
        let (first, is_pareto) = (self.genome.stage(), space.fitness.is_pareto());
        let alone = if is_pareto { self.tasks.len() } else { 0 };
        // What was tried before a stage is not tried after it, unless the space says so.
        let scales = space
            .data_flow_space
            .as_ref()
            .is_some_and(|paths| paths.scales.is_some());
        let after_first = usize::from(match first.mixes_weights() {
            true => learning.after,
            false => scales || first == space::Stage::Joint,
        });
        let widened = if first.is_narrow() { 1 } else { 0 };
        let paths = usize::from(first.mixes_weights() && scales && self.genome.next_stage().is_some());
        let stages = match is_pareto || !learning.teachers.teach_themselves() {
            true => 0,
            false => after_first + widened + paths,
        };
        Ok(Some(event::LearningPlan {
            rounds: if first.mixes_weights() {
                learning.rounds_before() + alone
            } else {
                0
            },
            rounds_after: stages * learning.rounds_after(),
            steps: learning.steps,
            batch: learning.batch,
            questions,
        }))
    }

    /// Of each task the questions that candidates are scored on and that further rounds of learning ask as well, since its split has no
    /// others.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub fn learned_and_scored(&self) -> Result<Vec<(&str, usize)>, Error> {
        let rounds = self.learning_plan()?.map_or(0, |plan| plan.rounds + plan.rounds_after);
        let (Some(learning), 2..) = (&self.space.search.learn, rounds) else {
            return Ok(Vec::new());
        };
        let mut both = Vec::new();
        for FitnessTask { task, split, limit, .. } in &self.tasks {
            let all = task.count(*split)?;
            let others = all - limit.unwrap_or(all).min(all);
            let again = learning.questions.min(all).saturating_sub(others);
            both.extend((again > 0).then(|| (task.name(), again)));
        }
        Ok(both)
    }

    /// Why its rounds before the search will teach nothing, where that can be told before anybody is asked.
    ///
    /// # Errors
    /// Data that are missing or damaged.
    pub fn teaches_nothing(&self) -> Result<Option<String>, Error> {
        let plan = self.learning_plan()?;
        let (Some(_), Some(learning)) = (plan.filter(|plan| plan.rounds > 0), &self.space.search.learn) else {
            return Ok(None);
        };
        if let Some(reason) = search::nothing_moves(&self.genome, &*self.parents) {
            return Ok(Some(reason));
        }
        let (mut questions, mut solved) = (0, false);
        for FitnessTask { task, split, limit, .. } in &self.tasks {
            let all = task.questions(*split)?;
            let asked = limit.unwrap_or(all.len()).min(all.len());
            questions += asked;
            solved |= task.kind().is_measured();
            for question in &all[..asked] {
                solved = solved || task.solution(question)?.is_some();
            }
        }
        Ok(match learning.teachers {
            _ if questions < LEAST_TEXTS => Some(format!(
                "the search asks {}, and the texts of at least {LEAST_TEXTS} are needed to hold some back; raise the tasks' 'limit'",
                counted(questions, "question")
            )),
            Teachers::Solutions if !solved => {
                Some("no task has worked solutions; learn from right answers: 'teachers: answers'".into())
            }
            _ => None,
        })
    }

    /// Refuses ranges that contradict each other; only for new runs, since old ones may have begun with them.
    ///
    /// # Errors
    /// They do.
    pub fn refuse_contradictions(&self) -> Result<(), Error> {
        if self.space.models.is_empty() {
            return Ok(());
        }
        self.refuse_taken_names().map_err(Error::placed(&self.space.places))?;
        let layers = shape(&self.space, &self.parents)?.layers;
        let contradictions = self.space.contradictions(layers).map_err(Error::from);
        contradictions.map_err(Error::placed(&self.space.places))
    }

    /// A model that is called as an unsearched merge, or as a candidate, would stand beside it under the same name in every table.
    fn refuse_taken_names(&self) -> Result<(), Error> {
        let baselines: Vec<String> = self.genome.baselines().into_iter().map(|(name, _)| name).collect();
        let is_taken = |name: &&String| {
            let is_ours = !matches!(
                name.parse::<CandidateId>(),
                Ok(CandidateId::Unsearched(_) | CandidateId::Parent(_)) | Err(_)
            );
            baselines.contains(name) || is_ours || *name == "best"
        };
        let mut models = self.space.models.iter().map(|(name, _)| name);
        let of_model = models.find(is_taken);
        match of_model {
            Some(name) => Err(Error::at(format!("models.{name}"))(Error::TakenName {
                name: name.clone(),
            })),
            None => Ok(()),
        }
    }

    /// Refuses room for keys and values that an answer does not fit into by itself: the first candidate would find it out, in a
    /// run that is begun.
    ///
    /// # Errors
    /// It is too little.
    pub fn refuse_tight_memory(&self) -> Result<(), Error> {
        if self.space.models.is_empty() || self.space.fitness.program().is_some() {
            return Ok(());
        }
        let donor = self.space.base.as_deref().unwrap_or(&self.space.models[0].0);
        let spec = models::spec_of(&Plan::new(&models::verbatim(donor), &*self.parents)?)?;
        let is_written = |task: &&FitnessTask| !task.task.kind().is_measured();
        let tasks = self.tasks.iter().chain(&self.held_out).filter(is_written);
        let longest = tasks.map(|task| task.task.max_new_tokens).max().unwrap_or(0);
        // A prompt has a token, and nothing is longer than the model's context.
        let tokens = (longest + 1).min(spec.max_positions);
        let element_bytes = if self.runtime.device.is_cpu() { 4 } else { 2 };
        let needed_bytes = tokens as u64 * spec.kv_bytes_per_token(element_bytes);
        let limit_bytes = self.runtime.options.kv_memory_bytes;
        match limit_bytes < needed_bytes {
            true => Err(Error::TightMemory {
                tokens,
                needed_bytes,
                limit_bytes,
            }),
            false => Ok(()),
        }
    }

    /// Whether any question stands in two parts of a run; `None` of a command, which keeps its questions to itself.
    ///
    /// # Errors
    /// A split that a task does not have, data that cannot be read.
    pub fn questions_compared(&self) -> Result<Option<event::QuestionsCompared>, Error> {
        self.compared_with(&self.space.finale)
            .map_err(Error::placed(&self.space.places))
    }

    /// [`Self::questions_compared`], of a run with another final.
    fn compared_with(&self, finale: &Finale) -> Result<Option<event::QuestionsCompared>, Error> {
        if let Some(command) = &self.space.fitness.command {
            let Some(file) = &command.questions else {
                return Ok(None);
            };
            let questions = search::Questions::read(Path::new(file), &self.space.fitness).map_err(Error::plan)?;
            let parts = questions
                .parts_of_run(finale, !self.space.models.is_empty())
                .map_err(Error::plan)?;
            return Ok(Some(event::QuestionsCompared {
                by_name: !questions.have_texts(),
                ..compare_questions(&parts)
            }));
        }
        let parts = parts_of_run(&self.tasks, &self.held_out, finale, self.taught()).map_err(Error::plan)?;
        Ok(Some(compare_questions(&parts)))
    }

    /// Questions of the whole selection split, by their ids, that another part of the run has too.
    fn selected_elsewhere(&self) -> Result<HashSet<String>, Error> {
        let mut finale = self.space.finale.clone();
        finale.selection.limit = Some(Limit::All);
        let parts = parts_of_run(&self.tasks, &self.held_out, &finale, self.taught()).map_err(Error::plan)?;
        Ok(search::selected_elsewhere(&parts))
    }

    /// Questions of each task that rounds of learning may ask besides the search's.
    fn taught(&self) -> usize {
        self.space
            .search
            .learn
            .as_ref()
            .map_or(0, |learning| learning.questions)
    }

    /// Refuses a search that would be judged by what it was bred on, unless its space allows that.
    ///
    /// # Errors
    /// It would be.
    pub fn refuse_overlap(&self, compared: Option<&event::QuestionsCompared>) -> Result<(), Error> {
        match compared.and_then(event::QuestionsCompared::refusal) {
            Some(reason) if !self.space.finale.allow_overlap => Err(Error::Overlap { reason }),
            _ => Ok(()),
        }
    }
}

/// Reads a search space, and makes its paths absolute, so that a run of it can be resumed from anywhere.
///
/// # Errors
/// The file cannot be read, or is no search space; names file and line.
pub fn read_space(file: &Path) -> Result<Space, Error> {
    complete(Space::read(file)?, file)
}

/// As [`read_space`], from text; `file` is where its paths are meant from, and for messages.
///
/// # Errors
/// As [`read_space`].
pub fn parse_space(file: &Path, text: &str) -> Result<Space, Error> {
    complete(Space::parse(file, text)?, file)
}

/// Where nothing is said, the dtype that the space gives its engine.
fn with_dtype(wanted: &RuntimeOptions, space: &Space) -> RuntimeOptions {
    let of_engine = space.fitness.engine.as_ref().and_then(|engine| engine.dtype);
    RuntimeOptions {
        dtype: wanted.dtype.or(of_engine),
        ..wanted.clone()
    }
}

/// What a new search is of, and a run's own space says.
fn complete(mut space: Space, file: &Path) -> Result<Space, Error> {
    if space.fitness.command.is_none() {
        space.fitness.chat_template.get_or_insert_default();
    }
    // As many as the test asks, and no whole training set.
    let most = space.finale.test_limit().most();
    for task in &mut space.finale.held_out {
        task.limit = task.limit.or(most);
    }
    let named = space.refuse_name().map_err(Error::from);
    named.map_err(Error::placed(&space.places))?;
    resolve(&mut space, file)?;
    Ok(space)
}

/// Genes without models, as a command scores them.
fn bare(space: &Space) -> Genome {
    let genes = space.genes.iter().map(|(name, gene)| GeneSpec {
        name: name.clone(),
        kind: gene.kind(),
    });
    Genome::Bare(genes.collect())
}

/// What a space breeds of its models, and the recipes that it starts from.
fn bred(space: &Space, parents: &Parents) -> Result<(Genome, Vec<(String, Recipe)>), Error> {
    let codec = Codec::with_tensors(space, shape(space, parents)?, &tensors(space, parents))?;
    for (name, recipe) in codec.baselines() {
        crate::merge::Plan::new(&recipe, parents).map_err(|source| Error::Misfit {
            recipe: name,
            source: Box::new(source),
        })?;
    }
    for (name, recipe) in codec.baselines() {
        let has_its_vocabulary = |model: &str| parents.vocab(model) == parents.vocab(&space.tokenizer);
        if takes_another_tokenizer(&recipe, &space.tokenizer, &has_its_vocabulary) {
            return Err(Error::NameIsAWord {
                model: space.tokenizer.clone(),
                recipe: name,
            });
        }
    }
    let warm_starts = warm_starts(space, &codec)?;
    let first = match space.search.widening {
        true => codec.narrowed().ok_or(space::Error::NothingToWiden)?,
        false => codec,
    };
    Ok((Genome::Merge(first), warm_starts))
}

/// The genome; where layers are searched, it is told how much each one matters.
fn with_influence(session: &Session, evaluator: &mut MergeEvaluator<'_>) -> Result<Genome, Error> {
    let mut genome = session.genome.clone();
    if let (Genome::Merge(codec), Some(dfs)) = (&mut genome, &session.space.data_flow_space)
        && session.space.fitness.command.is_none()
    {
        let open = |source: &&String| session.parents.checkpoint(source).is_some();
        for source in dfs.sources.iter().filter(open) {
            let influence = evaluator.block_influence(source).map_err(Error::plan)?;
            codec.set_block_influence(source, &influence);
        }
    }
    Ok(genome)
}

/// What the codec must know of the models.
fn shape(space: &Space, parents: &Parents) -> Result<Shape, Error> {
    let donor = space.base.as_deref().unwrap_or(&space.models[0].0);
    let checkpoint = parents
        .checkpoint(donor)
        .ok_or_else(|| Error::NotOpen { model: donor.into() })?;
    let layers = merge::layer_count(checkpoint.config()).ok_or_else(|| Error::NoLayers {
        model: checkpoint.name().into(),
    })?;
    let largest = checkpoint
        .tensors()
        .max_by_key(|(_, info)| info.len())
        .ok_or_else(|| Error::NoTensors { model: donor.into() })?;
    Ok(Shape {
        layers,
        out_dtype: largest.1.dtype,
        fold: fold(space, donor, parents).map_err(Error::at(checkpoint.name()))?,
    })
}

/// The tensors of the base, or of the first model.
fn tensors(space: &Space, parents: &Parents) -> Vec<String> {
    let donor = space.base.as_deref().unwrap_or(&space.models[0].0);
    parents.tensor_names(donor)
}

/// The donor's [`fold_of`]. Where the decoder is to score, it is asked here whether it can:
/// not after the first merge.
fn fold(space: &Space, donor: &str, parents: &Parents) -> Result<Fold, Error> {
    // Whatever else scores may know families that the decoder does not.
    let is_scored_elsewhere = space.fitness.program().is_some();
    if is_scored_elsewhere && space.data_flow_space.is_none() {
        return Ok(Fold::Projections);
    }
    let plan = Plan::new(&models::verbatim(donor), parents)?;
    let spec = match is_scored_elsewhere {
        true => models::spec_of(&plan)?,
        false => models::checked_spec_of(&plan)?,
    };
    match spec.fixed_layers().filter(|_| space.data_flow_space.is_some()) {
        Some(why) => Err(Error::FixedLayers { why }),
        None => Ok(fold_of(&spec)),
    }
}

/// Where a family's layers take the scales of a layer path.
pub fn fold_of(spec: &DecoderSpec) -> Fold {
    match (spec.norm_place, spec.branch_ends(), spec.mixer_end()) {
        (NormPlace::Pre, ["self_attn.o_proj", "mlp.down_proj"], None) => Fold::Projections,
        (NormPlace::Post, ..) => Fold::PostNorms,
        (NormPlace::Sandwich, ..) if spec.norm_plus_one => Fold::ShiftedPostNorms,
        (NormPlace::Pre | NormPlace::Sandwich, ends, mixer) => Fold::Ends(ends, mixer),
    }
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
fn warm_starts(space: &Space, codec: &Codec) -> Result<Vec<(String, Recipe)>, Error> {
    let baselines: HashMap<String, Recipe> = codec.baselines().into_iter().collect();
    let mut recipes = Vec::new();
    for word in &space.search.warm_start {
        let recipe = match baselines.get(word) {
            Some(recipe) => recipe.clone(),
            None if models::is_recipe(word) => {
                let read = models::read_recipe(Path::new(word)).map_err(Error::from);
                with_short_names(&read.map_err(Error::at(format!("search.warm_start: {word}")))?, space)
            }
            None => return Err(Error::WarmStart { word: word.clone() }),
        };
        codec
            .encode(&recipe)
            .map_err(Error::from)
            .map_err(Error::at(format!("search.warm_start: {word}")))?;
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

fn resolve(space: &mut Space, file: &Path) -> Result<(), Error> {
    space.given = space.models.clone();
    let absolute = |path: &str| -> Result<String, Error> {
        let found = models::beside(path, file);
        let path = std::path::absolute(&found).map_err(Error::io(&found))?;
        Ok(path.display().to_string())
    };
    let guide = space.search.guide.as_mut().filter(|guide| guide.endpoint.is_none());
    let models = space.models.iter_mut().map(|(_, word)| word);
    for word in models.chain(guide.map(|guide| &mut guide.model)) {
        *word = models::placed(word, file).map_err(Error::io(&*word))?;
    }
    let fitness = &mut space.fitness;
    let scores = fitness.command.as_mut().map(|command| &mut command.command);
    let decodes = fitness.engine.as_mut().map(|engine| &mut engine.command);
    for word in scores.into_iter().chain(decodes).flatten() {
        if Path::new(&models::beside(word, file)).is_file() {
            *word = absolute(word)?;
        }
    }
    if let Some(command) = &mut space.fitness.command
        && let Some(questions) = &mut command.questions
    {
        *questions = absolute(questions)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a space, wherever that shows: when it is read, or when its models and tasks are opened.
    fn wrong(dir: &Path, text: &str) -> String {
        let file = dir.join("space.yaml");
        std::fs::write(&file, text).unwrap();
        let host = Host {
            answers: None,
            ..Host::this_machine()
        };
        let opened = || {
            let session = Session::open(read_space(&file)?, &RuntimeOptions::default(), host)?;
            session.refuse_contradictions()?;
            session.questions_compared().map(drop)
        };
        let error: &dyn std::error::Error = &opened().expect_err(text);
        let mut words: Vec<String> = Vec::new();
        let mut next = Some(error);
        while let Some(e) = next {
            if !words.iter().any(|said| said.contains(&e.to_string())) {
                words.push(e.to_string());
            }
            next = e.source();
        }
        words.join(": ")
    }

    /// A model that is not there, a task that is misspelt, a template without an end: `tasks[0]` was all that told where.
    #[test]
    fn whatever_is_wrong_with_a_space_is_told_with_file_line_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let task = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let own = "task: own\nlang: en\ndata: {search: rows.jsonl, selection: rows.jsonl, test: rows.jsonl}\n\
                   prompt: '{{q}}'\ntarget: '{{a}}'\n";
        task("rows.jsonl", "{\"q\": \"a\", \"a\": \"b\"}\n");
        task("unclosed.yaml", &own.replace("'{{q}}'", "'{{q'"));
        task("pattern.yaml", &format!("{own}filters: [{{name: x, regex: '('}}]\n"));
        task("no-data.yaml", &own.replace("rows", "nowhere"));
        task("no-test.yaml", &own.replace(", test: rows.jsonl", ""));
        let space = format!(
            "name: x
models:
  base: {0}/models/tiny-base
  maths: {0}/models/tiny-maths-en
base: base
parameter_space:
  method: [ties]
  layer_groups: 2
  modules: [attn, mlp, other]
  genes: {{weight: [0, 1], density: [0.1, 1.0]}}
fitness:
  tasks:
    - {{task: {0}/evals/arith-es.yaml, limit: 4}}
search:
  evals: 4
  warm_start: [linear]
",
            root.display()
        );
        let arith = format!("task: {}/evals/arith-es.yaml, limit: 4", root.display());
        let cases: &[(&str, &str, &str)] = &[
            ("tiny-maths-en", "tiny-math", ":4: models.maths: "),
            (&arith, "task: aritmetic", ":13: fitness.tasks[0]: "),
            (&arith, "task: gsm8k, lang: xx", ":13: fitness.tasks[0]: "),
            (&arith, "task: gsm8k, split: serch", ":13: fitness.tasks[0]: "),
            (&arith, "task: nothing.yaml", ":13: fitness.tasks[0]: "),
            (&arith, "task: unclosed.yaml", "unclosed.yaml:4: prompt: "),
            (&arith, "task: pattern.yaml", "pattern.yaml:6: filters[0].regex: "),
            (&arith, "task: no-data.yaml", "space.yaml:12: "),
            (&arith, "task: no-test.yaml", "space.yaml:12: "),
            (&arith, "task: gsm8k, shots: -1", ":13: fitness.tasks[0].shots: "),
            (&arith, "task: gsm8k, score: nothing", ":13: fitness.tasks[0]: "),
            ("limit: 4}", "limit: 4, chat_template: on}", ":13: fitness.tasks[0]: "),
            ("limit: 4}", "limit: 4, system: Think.}", ":13: fitness.tasks[0]: "),
            ("layer_groups: 2", "layer_groups: 99", ":8: "),
            ("[attn, mlp, other]", "[attn, router, mlp, other]", ":9: "),
            ("[0.1, 1.0]", "[1.0, 0.1]", ":10: parameter_space.genes.density: "),
            ("[0.1, 1.0]", "[0.1, 7.0]", ":10: parameter_space.genes.density: "),
            ("density:", "densty:", ":10: parameter_space.genes.densty: "),
            ("[ties]", "[tiess]", ":7: parameter_space.method"),
            ("base: base", "base: bass", ":5: base: "),
            ("evals: 4", "evals: many", ":15: search.evals: "),
            ("[linear]", "[nothing.yaml]", ":16: search.warm_start"),
            ("[linear]", "[layer_swop]", ":16: search.warm_start"),
            ("[ties]", "[della]", ":10: parameter_space.genes: "),
            (
                "  evals: 4",
                "  evals: 4\n  widening: true\n  widning: 1",
                ":17: search.widning: ",
            ),
            (
                "fitness:",
                "final: {held_out: [{task: nothing}]}\nfitness:",
                ":11: final.held_out[0]: ",
            ),
            ("fitness:", "tokenizer: nobody\nfitness:", ":11: tokenizer: "),
            ("name: x", "name: [x", ":"),
        ];
        for (from, to, expected) in cases {
            assert!(space.contains(from), "{from}");
            let told = wrong(dir.path(), &space.replacen(from, to, 1));
            assert!(
                told.contains(expected) && told.contains(".yaml:"),
                "{from} → {to}: {told}"
            );
        }
    }

    /// `name: ../../evil` put the run two levels above runs/, `..` and `a/b` where no command looks.
    #[test]
    fn the_name_of_a_space_is_a_directorys() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("space.yaml");
        let named = |name: &str| {
            let rest = "genes: {x: [0, 1]}\nfitness: {command: [score]}\n";
            parse_space(&file, &format!("# a space\nname: {name}\n{rest}")).map(|space| space.name)
        };
        for name in ["maths", "maths 2.1", "-x", "数学", "a..b"] {
            assert_eq!(named(&format!("'{name}'")).unwrap(), name);
        }
        let long = "x".repeat(201);
        for name in [
            "'../../evil'",
            "a/b",
            "/tmp/x",
            "'..'",
            "'.hidden'",
            "''",
            "' '",
            "\"a\\nb\"",
            "\"a\\eb\"",
            "'a\\b'",
            &long,
        ] {
            let told = format!("{:#}", anyhow::Error::from(named(name).unwrap_err()));
            assert!(
                told.contains("space.yaml:2") && told.contains("in runs/"),
                "{name}: {told}"
            );
            assert!(!told.contains(char::is_control), "{name}: {told}");
        }
        // A run that has such a name goes on where it is.
        Space::parse(&file, "name: a/b\ngenes: {x: [0, 1]}\nfitness: {command: [score]}\n").unwrap();
    }

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
}
