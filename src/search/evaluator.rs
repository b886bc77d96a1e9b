//! The real evaluator: merges a candidate into the resident decoder, or hands it to an engine elsewhere; asks it the questions,
//! keeps every answer.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Catalogue, Computation, Error, Evaluation, Evaluator, Exam, ExamTask, Kept, Lesson, Part, Sitting, Subject,
    Unscored, on_device::OnDevice, units::recipe_of,
};
use crate::{
    eval::{self, Answerer, Decodes, Kind, Question, Split, Task},
    event,
    merge::{self, Resident, TensorSource},
    model::{DType, Decoder, Device, Engine, EngineOptions, ScoreRequest, Tokenizer, block_influence, pass_bytes},
    models::{self, Parents, verbatim},
    programs::{self, EngineProgram},
    recipe::Recipe,
    space::{Guard, Limit},
    store::Cache,
};

/// What this program calls itself.
pub const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Questions of each task whose prompts the guard reads.
const GUARD_QUESTIONS: usize = 16;
/// Questions of each task that say how long its prompts are.
const TYPICAL: usize = 64;

/// A task of the fitness, loaded.
#[derive(Clone, Debug)]
pub struct FitnessTask {
    pub task: Task,
    pub weight: f64,
    pub limit: Option<usize>,
    pub split: Split,
}

impl FitnessTask {
    /// The questions of one of its splits, at most `limit`.
    ///
    /// # Errors
    /// It has no such split, or no question there; data that are missing or damaged.
    pub fn questions(&self, split: Split, limit: Option<usize>) -> Result<Vec<Question>, Error> {
        let task = &self.task;
        let mut questions = match task.questions(split) {
            Err(eval::Error::NoSplit { task, split, known }) => return Err(Error::NoSplit { task, split, known }),
            questions => questions?,
        };
        questions.truncate(limit.unwrap_or(usize::MAX));
        match questions.is_empty() {
            true => Err(Error::NoQuestions {
                task: task.name().into(),
                split: split.name().into(),
            }),
            false => Ok(questions),
        }
    }
}

/// What evaluating takes.
pub struct Resources<'a> {
    pub parents: &'a Parents,
    pub tasks: Vec<FitnessTask>,
    /// Tasks that are asked at the very end, and count for nothing.
    pub held_out: Vec<FitnessTask>,
    pub cache: Cache,
    pub device: Device,
    pub dtype: DType,
    pub options: EngineOptions,
    pub guard: Option<Guard>,
    /// A monotonic clock, from any start.
    pub since_start: Box<dyn Fn() -> Duration + Send + 'a>,
}

/// Merges, generates, scores, caches.
pub struct MergeEvaluator<'a> {
    resources: Resources<'a>,
    resident: Resident<'a>,
    /// Ours, with the weights of whom was asked last.
    engine: Option<Engine>,
    /// Another program that is asked instead.
    elsewhere: Option<EngineProgram>,
    questions: HashMap<(usize, String), Arc<Asked>>,
    tokenizers: HashMap<String, (Arc<Tokenizer>, Arc<[u8]>)>,
    /// The worst parent's negative log-likelihood a token on the guard's prompts.
    worst_parent_nll: Option<f64>,
    /// Digests of the recipes that the guard let in.
    let_in: HashSet<String>,
}

/// The questions of one task and split.
pub(super) struct Asked {
    questions: Vec<Question>,
    catalogue: Arc<Catalogue>,
    /// What decides the answer to each question, besides the weights.
    digests: Vec<String>,
}

impl Resources<'_> {
    /// The tasks of the fitness, then those that are held out.
    fn task(&self, index: usize) -> &FitnessTask {
        match self.tasks.get(index) {
            Some(task) => task,
            None => &self.held_out[index - self.tasks.len()],
        }
    }
}

impl<'a> MergeEvaluator<'a> {
    pub fn new(resources: Resources<'a>) -> Self {
        let names: Vec<&str> = resources.parents.iter().map(|(name, _)| name).collect();
        Self {
            resident: Resident::new(resources.parents, &names),
            resources,
            engine: None,
            elsewhere: None,
            questions: HashMap::new(),
            tokenizers: HashMap::new(),
            worst_parent_nll: None,
            let_in: HashSet::new(),
        }
    }

    /// Another evaluator of the same candidates on another device: parents, what is known of them, and questions are there once.
    /// Its answers are kept in memory until it is given another cache.
    pub fn beside(&self, device: Device, since_start: Box<dyn Fn() -> Duration + Send + 'a>) -> Self {
        let Resources {
            parents,
            tasks,
            held_out,
            dtype,
            options,
            guard,
            ..
        } = &self.resources;
        Self {
            resources: Resources {
                parents,
                tasks: tasks.clone(),
                held_out: held_out.clone(),
                cache: Cache::in_memory(),
                device,
                dtype: *dtype,
                options: *options,
                guard: *guard,
                since_start,
            },
            resident: self.resident.beside(),
            engine: None,
            elsewhere: None,
            questions: self.questions.clone(),
            tokenizers: self.tokenizers.clone(),
            worst_parent_nll: self.worst_parent_nll,
            let_in: self.let_in.clone(),
        }
    }

    /// As this one, with another program that decodes: it gets the weights and answers the questions.
    pub fn with_engine(self, elsewhere: EngineProgram) -> Self {
        Self {
            elsewhere: Some(elsewhere),
            ..self
        }
    }

    /// Lets every merge in.
    pub fn without_guard(mut self) -> Self {
        self.resources.guard = None;
        self
    }

    /// Who answers instead of the engine of this program.
    pub fn engine_elsewhere(&self) -> Option<&EngineProgram> {
        self.elsewhere.as_ref()
    }

    /// The questions that the search asks: each task's own split and limit.
    ///
    /// # Errors
    /// A task without questions there.
    pub fn search_exam(&mut self) -> Result<Exam, Error> {
        let all = 0..self.resources.tasks.len();
        let tasks = all.map(|index| {
            let FitnessTask { split, limit, .. } = self.resources.tasks[index];
            self.exam_task(index, split, limit)
        });
        let tasks = tasks.collect::<Result<_, _>>()?;
        Ok(Exam {
            split: Split::Search.name().into(),
            tasks,
        })
    }

    /// The questions of a later phase: the same tasks, another split.
    ///
    /// # Errors
    /// A split that no task knows, or a task without questions there.
    pub fn exam(&mut self, wanted: &str, limit: Limit) -> Result<Exam, Error> {
        let missing = |task: String| Error::NoQuestions {
            task,
            split: wanted.into(),
        };
        let split = Split::from_name(wanted).ok_or_else(|| missing("every task".into()))?;
        let all = 0..self.resources.tasks.len();
        let tasks = all
            .map(|index| self.exam_task(index, split, limit.most()))
            .collect::<Result<_, _>>()?;
        Ok(Exam {
            split: wanted.into(),
            tasks,
        })
    }

    /// The questions that the search never asks: each held-out task's own split and limit.
    ///
    /// # Errors
    /// A task without questions there.
    pub fn held_out_exam(&mut self) -> Result<Exam, Error> {
        let first = self.resources.tasks.len();
        let tasks = (first..first + self.resources.held_out.len()).map(|index| {
            let FitnessTask { split, limit, .. } = *self.resources.task(index);
            self.exam_task(index, split, limit)
        });
        let tasks = tasks.collect::<Result<_, _>>()?;
        Ok(Exam {
            split: "held-out".into(),
            tasks,
        })
    }

    fn exam_task(&mut self, index: usize, split: Split, limit: Option<usize>) -> Result<ExamTask, Error> {
        let fitness_task = self.resources.task(index);
        let task = &fitness_task.task;
        let questions = fitness_task.questions(split, limit)?;
        let asked = Asked::new(task, questions);
        let exam_task = ExamTask {
            index,
            split: split.name().into(),
            task: task.name().into(),
            lang: task.lang().into(),
            weight: fitness_task.weight,
            is_likelihood: task.is_likelihood(),
            catalogue: asked.catalogue.clone(),
            items: (0..asked.questions.len()).collect(),
        };
        // Two parts of a run may ask one split with different limits; the longer list begins with the shorter one.
        let key = (index, split.name().to_string());
        let known = self.questions.get(&key).map_or(0, |known| known.questions.len());
        if known < asked.questions.len() {
            self.questions.insert(key, Arc::new(asked));
        }
        Ok(exam_task)
    }

    /// What the questions of an exam ask, where an answer to them is right or wrong.
    pub fn question_texts(&self, exam: &Exam) -> Vec<event::QuestionTexts> {
        let of_task = |task: &ExamTask| {
            let asked = self.asked(task.index, &task.split)?;
            let questions = task.items.iter().filter_map(|item| asked.questions.get(*item));
            let texts = questions.map(|question| (question.id.clone(), question.words().into()));
            Some(event::QuestionTexts::new(&task.task, &task.lang, &task.split, texts))
        };
        exam.tasks
            .iter()
            .filter(|task| !task.is_likelihood)
            .filter_map(of_task)
            .collect()
    }

    pub fn task_description(&self, index: usize) -> &str {
        self.resources.task(index).task.description()
    }

    pub fn task_digest(&self, index: usize) -> &str {
        self.resources.task(index).task.digest()
    }

    /// Puts answers that the journal holds back into a cache that lost them. Answers to questions of no exam are left.
    pub fn remember(&self, answers: &event::Answers) {
        let is_it = |((index, split), _): &(&(usize, String), &Arc<Asked>)| {
            let task = &self.resources.task(*index).task;
            (task.name(), task.lang(), split) == (&answers.task, &answers.lang, &answers.split)
        };
        let Some(((index, _), asked)) = self.questions.iter().find(is_it) else {
            return;
        };
        let is_measured = self.resources.task(*index).task.kind().is_measured();
        let digests: HashMap<&String, &String> = asked.catalogue.ids.iter().zip(&asked.digests).collect();
        for answer in &answers.answers {
            let Some(digest) = digests.get(&answer.q) else { continue };
            let key = item_key(&answers.key, digest);
            if !self.resources.cache.contains(&key) {
                self.resources.cache.put(&key, &Kept::of(answer, is_measured));
            }
        }
    }

    /// Forgets the questions of all exams: those that follow load them again.
    pub fn forget_questions(&mut self) {
        self.questions.clear();
    }

    /// Keeps answers there from now on.
    pub fn set_cache(&mut self, cache: Cache) {
        self.resources.cache = cache;
    }

    /// What computes the answers.
    pub fn computation(&self) -> Computation {
        Computation {
            engine: self.elsewhere.as_ref().map(|engine| engine.identity().words()),
            ..Computation::new(self.resources.device, self.resources.dtype)
        }
    }

    /// What a subject's answers depend on besides the question: weights, tokenizer, and what computes them; whatever a space
    /// calls its models.
    pub(super) fn weights_key(&self, recipe: &Recipe) -> String {
        self.weights_key_by(&self.computation(), recipe)
    }

    /// As [`Self::weights_key`], of answers that something else computes.
    pub(super) fn weights_key_by(&self, computation: &Computation, recipe: &Recipe) -> String {
        let parents = self.resources.parents;
        let content = |model: &str| match parents.model_digest(model) {
            digest if digest.is_empty() => model.to_owned(),
            digest => digest,
        };
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(&computation.digest());
        add(&recipe.with_models(content).digest());
        for model in recipe.models() {
            add(&content(model));
            add(&parents.tokenizer_digest(model));
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The answers that the cache has to an exam's questions, judged; `None` where it has none.
    pub(super) fn look_up(&self, weights: &str, task: &ExamTask) -> Result<Vec<Option<event::Answer>>, Unscored> {
        let Some(asked) = self.questions.get(&(task.index, task.split.clone())) else {
            let reason = format!("the {} questions of {} are not loaded", task.split, task.task);
            return Err(Unscored::Machine { reason });
        };
        let judge = &self.resources.task(task.index).task;
        let known = |item: &usize| -> Result<Option<event::Answer>, Unscored> {
            let kept: Option<Kept> = self.resources.cache.get(&item_key(weights, &asked.digests[*item]));
            let question = &asked.questions[*item];
            kept.map(|kept| kept.judged(judge, question)).transpose()
        };
        task.items.iter().map(known).collect()
    }

    /// Gives a recipe's weights to whoever answers; only tensors that differ from what it holds are computed.
    pub(super) fn load(&mut self, recipe: &Recipe) -> Result<(), Unscored> {
        let plan = merge::Plan::new(recipe, self.resources.parents)?;
        let loaded = match &self.elsewhere {
            Some(_) => self.hand_over(&plan),
            None => self.load_plan(&plan),
        };
        if loaded.is_err() {
            self.resident.forget();
        }
        loaded
    }

    /// To another program.
    fn hand_over(&mut self, plan: &merge::Plan) -> Result<(), Unscored> {
        let (tokenizer, json) = self.tokenizer(&plan.tokenizer())?;
        let Self {
            elsewhere: Some(engine),
            resident,
            ..
        } = self
        else {
            return Err(nothing_loaded());
        };
        let outputs = plan.outputs();
        let model = programs::Model {
            config: plan.config(),
            tensors: outputs.iter().map(|o| (o.name.clone(), o.shape.clone())).collect(),
        };
        if !engine.holds(&model) {
            resident.forget();
            engine.open(&model)?;
        }
        engine.set_tokenizer(tokenizer, &json)?;
        for i in resident.changed(plan) {
            let put = |data: &[f32]| engine.put(&outputs[i].name, data);
            resident.with(plan, i, put)??;
        }
        Ok(engine.use_weights()?)
    }

    /// Into our own decoder.
    fn load_plan(&mut self, plan: &merge::Plan) -> Result<(), Unscored> {
        let spec = models::spec_of(plan)?;
        let (tokenizer, _) = self.tokenizer(&plan.tokenizer())?;
        if let Some(engine) = self.engine.as_mut().filter(|engine| *engine.decoder().spec() == spec) {
            let held = engine.decoder().held_bytes();
            let merged = merge_into(&mut self.resident, plan, engine.decoder_mut());
            if engine.decoder().held_bytes() != held {
                engine.fit();
            }
            engine.set_tokenizer(tokenizer);
            return merged;
        }
        self.engine = None;
        self.resident.forget();
        models::check_spec(plan, &spec)?;
        let Resources {
            device, dtype, options, ..
        } = &self.resources;
        let mut decoder = Decoder::zeros(spec, *device, *dtype)?;
        decoder.make_room(options);
        merge_into(&mut self.resident, plan, &mut decoder)?;
        self.engine = Some(Engine::new(decoder, tokenizer, *options));
        Ok(())
    }

    /// A child's tokenizer, and the `tokenizer.json` of it where another program needs that.
    fn tokenizer(&mut self, child: &merge::ChildTokenizer) -> Result<(Arc<Tokenizer>, Arc<[u8]>), Unscored> {
        let key = format!("{child:?}");
        if let Some(known) = self.tokenizers.get(&key) {
            return Ok(known.clone());
        }
        let files = self.resources.parents.tokenizer_files(child)?;
        let json = match self.elsewhere {
            Some(_) => files.tokenizer_json.as_slice().into(),
            None => Arc::default(),
        };
        let known = (Arc::new(Tokenizer::new(files)?), json);
        self.tokenizers.insert(key, known.clone());
        Ok(known)
    }

    /// The first prompts of the search, as tokens; those of one token only are left out.
    fn first_prompts(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, Unscored> {
        self.prompts(tokenizer, |_| (GUARD_QUESTIONS, 1))
    }

    /// Prompts from all over the search, as long as they are on average.
    pub(super) fn typical_prompts(&self) -> Result<Vec<Vec<u32>>, Unscored> {
        self.prompts(self.loaded_tokenizer()?, |n| (TYPICAL, n.div_ceil(TYPICAL).max(1)))
    }

    /// So many of each task, each so many questions after the one before it: what `which` says of the number of its questions.
    fn prompts(
        &self,
        tokenizer: &Tokenizer,
        which: impl Fn(usize) -> (usize, usize),
    ) -> Result<Vec<Vec<u32>>, Unscored> {
        let mut prompts = Vec::new();
        for (index, fitness_task) in self.resources.tasks.iter().enumerate() {
            let asked = self.questions.get(&(index, fitness_task.split.name().to_string()));
            let questions = asked.map_or(&[][..], |a| &a.questions);
            let (most, step) = which(questions.len());
            for question in questions.iter().step_by(step).take(most) {
                let text = question.prompt.text();
                let tokens = tokenizer.encode(&text, true)?;
                prompts.extend(Some(tokens).filter(|t| t.len() > 1));
            }
        }
        Ok(prompts)
    }

    /// How much each layer of a parent changes the stream of hidden states, on the first prompts of the search.
    ///
    /// # Errors
    /// The parent cannot be run.
    pub fn block_influence(&mut self, parent: &str) -> Result<Vec<f64>, Error> {
        let measured = self.measure_influence(parent);
        measured.map_err(|e| Error::Model {
            model: parent.into(),
            message: e.to_string(),
        })
    }

    fn measure_influence(&mut self, parent: &str) -> Result<Vec<f64>, Unscored> {
        let recipe = verbatim(parent);
        let key = format!("block influence of {}", self.weights_key(&recipe));
        if let Some(known) = self.resources.cache.get(&key) {
            return Ok(known);
        }
        // Our own decoder looks into the layers, whoever answers.
        self.forget_where_elsewhere();
        let influence = self.influence_of(&merge::Plan::new(&recipe, self.resources.parents)?);
        self.forget_where_elsewhere();
        let influence = influence?;
        self.resources.cache.put(&key, &influence);
        Ok(influence)
    }

    fn influence_of(&mut self, plan: &merge::Plan) -> Result<Vec<f64>, Unscored> {
        if let Err(e) = self.load_plan(plan) {
            self.resident.forget();
            return Err(e);
        }
        let (tokenizer, _) = self.tokenizer(&plan.tokenizer())?;
        let prompts = self.first_prompts(&tokenizer)?;
        let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let engine = self.engine.as_mut().ok_or_else(nothing_loaded)?;
        Ok(block_influence(engine.decoder_mut(), &rows)?)
    }

    /// What was written last is in another place than what is written next.
    fn forget_where_elsewhere(&mut self) {
        if self.elsewhere.is_some() {
            self.engine = None;
            self.resident.forget();
        }
    }

    /// Whoever holds the weights of what was merged last.
    ///
    /// # Errors
    /// Nothing was merged.
    pub fn answerer(&mut self) -> Result<&mut dyn Answerer, Unscored> {
        match (&mut self.elsewhere, &mut self.engine) {
            (Some(elsewhere), _) => Ok(elsewhere),
            (None, Some(engine)) => Ok(engine),
            (None, None) => Err(nothing_loaded()),
        }
    }

    fn loaded_tokenizer(&self) -> Result<&Tokenizer, Unscored> {
        let tokenizer = match (&self.elsewhere, &self.engine) {
            (Some(elsewhere), _) => Decodes::tokenizer(elsewhere),
            (None, Some(engine)) => Some(&**engine.tokenizer()),
            (None, None) => None,
        };
        tokenizer.ok_or_else(nothing_loaded)
    }

    /// Negative log-likelihood a token of the loaded model on the first prompts of the search.
    fn guard_nll(&mut self) -> Result<f64, Unscored> {
        let prompts = self.first_prompts(self.loaded_tokenizer()?)?;
        let requests: Vec<ScoreRequest> = prompts
            .into_iter()
            .map(|tokens| ScoreRequest { tokens, from: 1 })
            .collect();
        let scores = self.answerer()?.score(&requests, &mut |_| {})?;
        let tokens: usize = scores.iter().map(|s| s.tokens).sum();
        Ok(-scores.iter().map(|s| s.log_likelihood).sum::<f64>() / tokens as f64)
    }

    /// Negative log-likelihood a token that a recipe's child gives to the first prompts of the search: what the guard
    /// looks at.
    ///
    /// # Errors
    /// The recipe cannot be merged or run.
    pub fn prompt_nll(&mut self, recipe: &Recipe) -> Result<f64, Unscored> {
        self.load(recipe)?;
        self.guard_nll()
    }

    /// Merges a recipe into memory, and asks it nothing.
    ///
    /// # Errors
    /// The recipe cannot be merged.
    pub fn merge(&mut self, recipe: &Recipe) -> Result<(), Unscored> {
        self.load(recipe)
    }

    /// Memory that keys and values took at a time, at most, since this was asked last.
    pub fn take_kv_peak_bytes(&mut self) -> u64 {
        self.engine.as_mut().map_or(0, Engine::take_kv_peak_bytes)
    }

    /// Memory of keys and values that is kept for the next questions.
    pub fn kv_held_bytes(&self) -> u64 {
        self.engine.as_ref().map_or(0, Engine::kv_held_bytes)
    }

    /// Memory of the weights where they are computed with.
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |engine: &Engine| engine.decoder().spec().parameters() * self.resources.dtype.size_bytes();
        self.engine.as_ref().map_or(0, bytes) as u64
    }

    /// Layers that a token passes in the child that was merged last, and the memory of the weights of one of them.
    pub fn layers(&self) -> (usize, u64) {
        let Some(engine) = &self.engine else { return (0, 0) };
        let spec = engine.decoder().spec();
        let layers = spec.layers.len();
        let numbers = spec.parameters().saturating_sub(spec.vocab * spec.hidden) / layers.max(1);
        (layers, (numbers * self.resources.dtype.size_bytes()) as u64)
    }

    /// Memory of parents that lie on a device beside the weights.
    pub fn held_bytes(&self) -> u64 {
        self.engine.as_ref().map_or(0, |engine| engine.decoder().held_bytes())
    }

    /// Memory of the host that a step on so many texts takes, each a prompt of the search with so many tokens behind it.
    ///
    /// # Errors
    /// Nothing was merged, a prompt that cannot be written in its tokens.
    pub fn learning_bytes(&self, texts: usize, answer_tokens: f64) -> Result<u64, Unscored> {
        let prompts = self.typical_prompts()?;
        let of_prompts: usize = prompts.iter().map(Vec::len).sum();
        let tokens = of_prompts as f64 / prompts.len().max(1) as f64 + answer_tokens;
        let bytes = |engine: &Engine| pass_bytes(engine.decoder().spec(), texts, tokens.ceil() as usize);
        Ok(self.engine.as_ref().map_or(0, bytes))
    }

    /// What the guard measures merges by; parents are loaded for it once.
    fn worst_parent(&mut self) -> Result<f64, Unscored> {
        if let Some(worst) = self.worst_parent_nll {
            return Ok(worst);
        }
        let names: Vec<String> = self
            .resources
            .parents
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        let mut worst = f64::NEG_INFINITY;
        for name in names {
            self.load(&verbatim(&name))?;
            worst = worst.max(self.guard_nll()?);
        }
        self.worst_parent_nll = Some(worst);
        Ok(worst)
    }

    /// Loads a recipe, unless it is a collapsed merge: that is turned away before it costs a generation.
    fn load_guarded(&mut self, recipe: &Recipe, subject: Subject<'_>) -> Result<(), Unscored> {
        let digest = recipe.digest();
        let guard = match self.resources.guard {
            Some(guard) if matches!(subject, Subject::Recipe(_)) && !self.let_in.contains(&digest) => guard,
            _ => return self.load(recipe),
        };
        let worst = self.worst_parent()?;
        self.load(recipe)?;
        let ratio = (self.guard_nll()? - worst).exp();
        // NaN does not pass either.
        if ratio <= guard.perplexity_ratio {
            self.let_in.insert(digest);
            return Ok(());
        }
        // Of a merge that is no model at all hundreds of digits say nothing.
        let times = match ratio < 1e6 {
            true => format!("{ratio:.1}"),
            false => "more than a million".into(),
        };
        Err(Unscored::candidate(format_args!(
            "collapsed: its perplexity on the questions is {times} times the worst parent's (guard: {})",
            guard.perplexity_ratio
        )))
    }
}

/// What doing a part of a sitting elsewhere asks of it; see `units.rs`.
impl MergeEvaluator<'_> {
    pub(super) fn has_guard(&self) -> bool {
        self.resources.guard.is_some()
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.resources.cache
    }

    pub(super) fn asked(&self, index: usize, split: &str) -> Option<&Asked> {
        self.questions.get(&(index, split.to_string())).map(Arc::as_ref)
    }

    pub(super) fn all_lists(&self) -> Vec<(usize, String, &[Question])> {
        let lists = self.questions.iter();
        lists
            .map(|((index, split), asked)| (*index, split.clone(), asked.questions.as_slice()))
            .collect()
    }

    pub(super) fn insert_list(&mut self, index: usize, split: Split, asked: Asked) {
        self.questions
            .insert((index, split.name().to_string()), Arc::new(asked));
    }

    /// The exam that a unit's parts are.
    ///
    /// # Errors
    /// A list that is not here, a place that is none of it.
    pub(super) fn exam_of(&self, parts: &[Part]) -> Result<Exam, Unscored> {
        let exam_task = |part: &Part| {
            let asked = self.asked(part.task, &part.split);
            let asked = asked.filter(|asked| part.items.iter().all(|item| *item < asked.questions.len()));
            let asked = asked.ok_or_else(|| Unscored::machine("these questions are not here"))?;
            let fitness_task = self.resources.task(part.task);
            Ok(ExamTask {
                index: part.task,
                split: part.split.clone(),
                task: fitness_task.task.name().into(),
                lang: fitness_task.task.lang().into(),
                weight: fitness_task.weight,
                is_likelihood: fitness_task.task.kind() == Kind::LogLikelihood,
                catalogue: asked.catalogue.clone(),
                items: part.items.clone(),
            })
        };
        Ok(Exam {
            split: Split::Search.name().into(),
            tasks: parts.iter().map(exam_task).collect::<Result<_, Unscored>>()?,
        })
    }

    /// Merges, and asks what is `open` (places among each task's items): the answers of each task, and the milliseconds of both.
    pub(super) fn merge_and_ask(
        &mut self,
        recipe: &Recipe,
        subject: Subject<'_>,
        (exam, open): (&Exam, &[Vec<usize>]),
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<(Vec<Vec<event::Answer>>, u64, u64), Unscored> {
        self.with_second_chance(&mut |this| this.merge_and_ask_once(recipe, subject, (exam, open), progress))
    }

    /// Does something again where an engine elsewhere broke over it: its bad moment may be the machine's.
    pub(super) fn with_second_chance<T>(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<T, Unscored>,
    ) -> Result<T, Unscored> {
        let done = work(self);
        let Err(Unscored::Breakdown { reason }) = &done else {
            return done;
        };
        if !self.elsewhere.as_mut().is_some_and(EngineProgram::take_second_chance) {
            return done;
        }
        tracing::warn!("{reason}; the engine is started again");
        let done = work(self);
        self.elsewhere.as_mut().map(EngineProgram::take_second_chance);
        done
    }

    fn merge_and_ask_once(
        &mut self,
        recipe: &Recipe,
        subject: Subject<'_>,
        (exam, open): (&Exam, &[Vec<usize>]),
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<(Vec<Vec<event::Answer>>, u64, u64), Unscored> {
        let start = (self.resources.since_start)();
        progress(stage("merge", exam));
        self.load_guarded(recipe, subject)?;
        let merged = (self.resources.since_start)();
        let weights = self.weights_key(recipe);
        let answers = self.ask(exam, open, &weights, progress)?;
        let asked = (self.resources.since_start)();
        let ms = |from: Duration, to: Duration| (to - from).as_millis() as u64;
        Ok((answers, ms(start, merged), ms(merged, asked)))
    }
}

/// What learning asks of it.
impl<'a> MergeEvaluator<'a> {
    /// Memory for keys and values is given back until somebody answers again; merges of the same parents beside these.
    pub(super) fn make_room(&mut self) -> Resident<'a> {
        if let Some(engine) = &mut self.engine {
            engine.drop_kv();
        }
        self.resident.beside()
    }

    pub fn device(&self) -> Device {
        self.resources.device
    }

    pub(super) fn dtype(&self) -> DType {
        self.resources.dtype
    }

    pub(super) fn task(&self, index: usize) -> &Task {
        &self.resources.task(index).task
    }

    /// Whoever holds the weights, to be asked for its words.
    pub(super) fn engine(&self) -> Result<&dyn Answerer, Unscored> {
        match (&self.elsewhere, &self.engine) {
            (Some(elsewhere), _) => Ok(elsewhere),
            (None, Some(engine)) => Ok(engine),
            (None, None) => Err(nothing_loaded()),
        }
    }

    pub(super) fn questions_of(&self, index: usize, split: &str) -> Result<&[Question], Unscored> {
        let asked = self.questions.get(&(index, split.to_string()));
        asked
            .map(|asked| asked.questions.as_slice())
            .ok_or_else(|| Unscored::machine("the questions are not loaded"))
    }

    /// Questions to learn from, up to `most` of each task: those of the search's split that no candidate is scored on, and
    /// where there are too few of them, some that are.
    ///
    /// # Errors
    /// A task without questions there.
    pub fn lessons(&mut self, most: usize) -> Result<Exam, Error> {
        let mut tasks = Vec::new();
        for index in 0..self.resources.tasks.len() {
            let FitnessTask { split, limit, .. } = self.resources.tasks[index];
            // With the search's own questions first, places mean the same in both exams.
            let all = limit.map(|limit| limit + most);
            let mut task = self.exam_task(index, split, all)?;
            let count = task.items.len();
            task.items = (count.saturating_sub(most)..count).collect();
            tasks.push(task);
        }
        Ok(Exam {
            split: Split::Search.name().into(),
            tasks,
        })
    }
}

impl Evaluator for MergeEvaluator<'_> {
    fn learns(&self) -> bool {
        true
    }

    fn learn(
        &mut self,
        lesson: &Lesson<'_>,
        see: &mut dyn FnMut(event::Learning) -> bool,
    ) -> Result<event::Learned, Unscored> {
        self.learn_lesson(lesson, see)
    }

    fn evaluate(
        &mut self,
        sitting: &Sitting<'_>,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, Unscored> {
        let exam = sitting.exam;
        let recipe = recipe_of(sitting)?;
        let weights = self.weights_key(&recipe);
        let look_up = |task| self.look_up(&weights, task);
        let mut answers: Vec<Vec<Option<event::Answer>>> = exam.tasks.iter().map(look_up).collect::<Result<_, _>>()?;
        let cached = answers.iter().flatten().all(Option::is_some);
        let mut evaluation = Evaluation {
            cached,
            ..Evaluation::default()
        };
        if !cached {
            let open: Vec<Vec<usize>> = answers
                .iter()
                .map(|known| (0..known.len()).filter(|i| known[*i].is_none()).collect())
                .collect();
            let (fresh, merge_ms, evaluation_ms) =
                self.merge_and_ask(&recipe, sitting.subject, (exam, &open), progress)?;
            (evaluation.merge_ms, evaluation.evaluation_ms) = (merge_ms, evaluation_ms);
            for ((known, open), fresh) in answers.iter_mut().zip(&open).zip(fresh) {
                for (i, answer) in open.iter().zip(fresh) {
                    evaluation.generated_tokens += answer.tokens as u64;
                    known[*i] = Some(answer);
                }
            }
        }
        let complete = answers
            .into_iter()
            .map(|known| (weights.clone(), known.into_iter().flatten().collect()));
        evaluation.answers = complete.collect();
        Ok(evaluation)
    }

    /// The cache may know all of it: nobody but who is asked can show that it answers.
    fn prove(&mut self, sitting: &Sitting<'_>) -> Result<(), Unscored> {
        let tasks = sitting.exam.tasks.iter();
        let all: Vec<Vec<usize>> = tasks.map(|task| (0..task.items.len()).collect()).collect();
        let asked = self.merge_and_ask(&recipe_of(sitting)?, sitting.subject, (sitting.exam, &all), &mut |_| {});
        asked.map(|_| ())
    }
}

impl MergeEvaluator<'_> {
    /// The questions of each task that are `open` (places among the exam's), in one queue; the answers go to the cache.
    fn ask(
        &mut self,
        exam: &Exam,
        open: &[Vec<usize>],
        weights: &str,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Vec<Vec<event::Answer>>, Unscored> {
        let Self {
            engine,
            elsewhere,
            resources,
            questions,
            ..
        } = self;
        let engine: &mut dyn Answerer = match (elsewhere, engine) {
            (Some(elsewhere), _) => elsewhere,
            (None, Some(engine)) => engine,
            (None, None) => return Err(nothing_loaded()),
        };
        let mut asked: Vec<(&ExamTask, &Asked, Vec<usize>, Vec<Question>)> = Vec::new();
        for (task, open) in exam.tasks.iter().zip(open) {
            if let Some(of_task) = questions.get(&(task.index, task.split.clone())) {
                let items: Vec<usize> = open.iter().map(|i| task.items[*i]).collect();
                let questions = items.iter().map(|i| of_task.questions[*i].clone()).collect();
                asked.push((task, of_task, items, questions));
            }
        }
        let work: Vec<(&Task, &[Question])> = asked
            .iter()
            .map(|(task, _, _, questions)| (&resources.task(task.index).task, questions.as_slice()))
            .collect();
        let start = (resources.since_start)();
        let mut last = start;
        let answered = eval::answer(engine, &work, &mut |p| {
            let now = (resources.since_start)();
            // Ten times a second is what anybody can see.
            if now - last < Duration::from_millis(100) && p.done < p.total {
                return;
            }
            last = now;
            let tokens = p.prompt_tokens + p.generated_tokens;
            let seconds = (now - start).as_secs_f64();
            progress(event::Progress {
                id: String::new(),
                stage: if p.generated_tokens == 0 { "prefill" } else { "decode" }.into(),
                answered: p.done,
                questions: p.total,
                tokens,
                tokens_per_s: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
            });
        })?;
        let mut all = Vec::new();
        for ((task, of_task, items, _), answers) in asked.iter().zip(answered) {
            let judge = &resources.task(task.index).task;
            let answers: Vec<event::Answer> = answers.into_iter().map(|answer| plain(answer, judge)).collect();
            for (item, answer) in items.iter().zip(&answers) {
                let key = item_key(weights, &of_task.digests[*item]);
                let kept = Kept::of(answer, judge.kind().is_measured());
                resources.cache.put(&key, &kept);
            }
            all.push(answers);
        }
        Ok(all)
    }
}

impl Asked {
    /// What decides the answer to a question, besides the weights.
    pub(super) fn digest(&self, item: usize) -> Option<&str> {
        self.digests.get(item).map(String::as_str)
    }

    pub(super) fn new(task: &Task, questions: Vec<Question>) -> Self {
        let texts: Vec<String> = questions.iter().map(|q| q.prompt.text()).collect();
        let decoding = task.decoding_digest();
        let digest = |(question, text): (&Question, &String)| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(decoding.as_bytes());
            hasher.update(text.as_bytes());
            if task.kind().is_measured() {
                hasher.update(b"\0").update(question.gold.as_bytes());
            }
            if task.kind().chooses() {
                let chooses = format!("{} {:?} {:?}", task.primary(), question.choices, question.right);
                hasher.update(chooses.as_bytes());
            }
            hasher.finalize().to_hex().to_string()
        };
        Self {
            digests: questions.iter().zip(&texts).map(digest).collect(),
            catalogue: Arc::new(Catalogue {
                ids: questions.iter().map(|q| q.id.clone()).collect(),
                lengths: texts.iter().map(|t| t.chars().count()).collect(),
            }),
            questions,
        }
    }
}

impl Kept {
    /// `is_measured`: the score does not come of judging the output.
    pub(super) fn of(answer: &event::Answer, is_measured: bool) -> Self {
        Self {
            out: answer.out.clone(),
            finish: answer.finish.clone(),
            tokens: answer.tokens,
            score: is_measured.then_some(answer.score),
        }
    }

    pub(super) fn judged(self, task: &Task, question: &Question) -> Result<event::Answer, Unscored> {
        let judged = match self.score {
            Some(score) => eval::Answer::known(task, question, self.out, score),
            None => eval::Answer::judged(task, self.out, &question.gold)?,
        };
        Ok(plain(
            eval::Answer {
                question: question.id.clone(),
                finish: self.finish,
                token_count: self.tokens,
                ..judged
            },
            task,
        ))
    }
}

/// Merges what differs from what a decoder holds into it: on a device where the parents lie there, else straight into its memory where
/// it keeps it as it is merged.
fn merge_into(resident: &mut Resident<'_>, plan: &merge::Plan, decoder: &mut Decoder) -> Result<(), Unscored> {
    let changed = resident.changed(plan);
    for i in resident.compute_on(&mut OnDevice(decoder), plan, &changed)? {
        let output = &plan.outputs()[i];
        let name = &output.name;
        if let Some(most_bytes) = decoder.piece_bytes(name, output.dtype) {
            let mut written = Ok(());
            resident.compute_pieces(plan, i, most_bytes, &mut |first, bytes, write| {
                written = decoder.set_piece(name, first, bytes, write);
                written.is_ok()
            })?;
            written?;
        } else if decoder.has_tensor(name) {
            // What no decoder uses, such as a vision tower, is not computed.
            resident.with(plan, i, |data: &[f32]| decoder.set_tensor(name, data))??;
        }
    }
    Ok(())
}

fn nothing_loaded() -> Unscored {
    Unscored::machine("no model is loaded")
}

/// Where the cache keeps an answer.
pub(super) fn item_key(weights: &str, question: &str) -> String {
    blake3::hash(format!("{weights}/{question}").as_bytes())
        .to_hex()
        .to_string()
}

fn stage(name: &str, exam: &Exam) -> event::Progress {
    event::Progress {
        id: String::new(),
        stage: name.into(),
        answered: 0,
        questions: exam.n(),
        tokens: 0,
        tokens_per_s: 0.0,
    }
}

/// An answer as the journal keeps it.
fn plain(answer: eval::Answer, task: &Task) -> event::Answer {
    event::Answer {
        got: answer.found_by(task.primary_filter()).to_owned(),
        q: answer.question,
        out: answer.output,
        gold: if task.kind() == Kind::LogLikelihood {
            String::new()
        } else {
            answer.gold
        },
        score: answer.score,
        finish: answer.finish,
        language_ok: answer.language_ok,
        tokens: answer.token_count,
    }
}
