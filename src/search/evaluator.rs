//! The real evaluator: merges a candidate into the resident decoder, asks it the questions, keeps every answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{Error, Evaluation, Evaluator, Exam, ExamTask, Parents, Subject};
use crate::{
    eval::{self, Kind, Question, Split, Task},
    event,
    merge::{self, Resident, TensorSource},
    model::{Decoder, DecoderSpec, Engine, EngineOptions, ScoreRequest, Tokenizer, decoder},
    recipe::{Body, Method, Recipe, Source, Stage},
    space::{Guard, SplitRef},
    store::Cache,
};

/// Part of every cache key: answers of another engine version are not these.
pub const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Questions of each task whose prompts the guard reads.
const GUARD_QUESTIONS: usize = 16;

/// A task of the fitness, loaded.
pub struct FitnessTask {
    pub task: Task,
    pub weight: f64,
    pub limit: Option<usize>,
    pub split: Split,
}

/// What evaluating takes.
pub struct Resources<'a> {
    pub parents: &'a Parents,
    pub tasks: Vec<FitnessTask>,
    pub cache: Cache,
    pub device: candle_core::Device,
    pub dtype: decoder::DType,
    pub options: EngineOptions,
    pub guard: Option<Guard>,
    /// A monotonic clock, from any start.
    pub since_start: Box<dyn Fn() -> Duration + Send + 'a>,
}

/// Merges, generates, scores, caches.
pub struct MergeEvaluator<'a> {
    resources: Resources<'a>,
    resident: Resident<'a>,
    engine: Option<Engine>,
    questions: HashMap<(usize, String), Vec<Question>>,
    tokenizers: HashMap<String, Arc<Tokenizer>>,
    /// The worst parent's negative log-likelihood a token on the guard's prompts.
    worst_parent_nll: Option<f64>,
}

impl<'a> MergeEvaluator<'a> {
    pub fn new(resources: Resources<'a>) -> Self {
        let names: Vec<&str> = resources.parents.iter().map(|(name, _)| name).collect();
        Self {
            resident: Resident::new(resources.parents, &names),
            resources,
            engine: None,
            questions: HashMap::new(),
            tokenizers: HashMap::new(),
            worst_parent_nll: None,
        }
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
    pub fn exam(&mut self, wanted: &SplitRef) -> Result<Exam, Error> {
        let missing = |task: String| Error::NoQuestions {
            task,
            split: wanted.split.clone(),
        };
        let split = Split::from_name(&wanted.split).ok_or_else(|| missing("every task".into()))?;
        let all = 0..self.resources.tasks.len();
        let tasks = all
            .map(|index| self.exam_task(index, split, wanted.limit))
            .collect::<Result<_, _>>()?;
        Ok(Exam {
            split: wanted.split.clone(),
            tasks,
        })
    }

    fn exam_task(&mut self, index: usize, split: Split, limit: Option<usize>) -> Result<ExamTask, Error> {
        let fitness_task = &self.resources.tasks[index];
        let task = &fitness_task.task;
        let mut questions = task.questions(split)?;
        questions.truncate(limit.unwrap_or(usize::MAX));
        if questions.is_empty() {
            return Err(Error::NoQuestions {
                task: task.name().into(),
                split: split.name().into(),
            });
        }
        let exam_task = ExamTask {
            index,
            split: split.name().into(),
            task: task.name().into(),
            lang: task.lang().into(),
            weight: fitness_task.weight,
            is_likelihood: task.kind() == Kind::LogLikelihood,
            n: questions.len(),
        };
        self.questions.insert((index, split.name().into()), questions);
        Ok(exam_task)
    }

    pub fn task_digest(&self, index: usize) -> &str {
        self.resources.tasks[index].task.digest()
    }

    /// Puts answers that the journal holds back into a cache that lost them.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn remember(&self, answers: &event::Answers) -> Result<(), Error> {
        if !self.resources.cache.contains(&answers.key) {
            self.resources.cache.put(&answers.key, &answers.answers)?;
        }
        Ok(())
    }

    /// Content key of a subject's answers to a task: weights, questions, decoding, engine.
    fn key(&self, recipe: &Recipe, task: &ExamTask) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        add(ENGINE_VERSION);
        add(&recipe.digest());
        for model in recipe.models() {
            add(model);
            add(&self.resources.parents.model_digest(model));
        }
        add(self.resources.tasks[task.index].task.digest());
        add(&format!("{:?}", self.resources.dtype));
        for question in self.questions_of(task) {
            add(&question.id);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn questions_of(&self, task: &ExamTask) -> &[Question] {
        self.questions
            .get(&(task.index, task.split.clone()))
            .map_or(&[], Vec::as_slice)
    }

    /// Writes a recipe's weights into the resident decoder; only tensors that differ from what it holds are computed.
    fn load(&mut self, recipe: &Recipe) -> Result<(), String> {
        let plan = merge::Plan::new(recipe, self.resources.parents).map_err(|e| e.to_string())?;
        let loaded = self.load_plan(&plan);
        if loaded.is_err() {
            self.resident.forget();
        }
        loaded
    }

    fn load_plan(&mut self, plan: &merge::Plan) -> Result<(), String> {
        let spec = DecoderSpec::from_config(plan.config()).map_err(|e| e.to_string())?;
        let tokenizer = self.tokenizer(&plan.tokenizer())?;
        match &mut self.engine {
            Some(engine) if *engine.decoder().spec() == spec => {
                for i in self.resident.changed(plan) {
                    let name = &plan.outputs()[i].name;
                    let decoder = engine.decoder_mut();
                    let set = |data: &[f32]| match decoder.has_tensor(name) {
                        true => decoder.set_tensor(name, data).map_err(|e| e.to_string()),
                        false => Ok(()),
                    };
                    self.resident.with(plan, i, set).map_err(|e| e.to_string())??;
                }
                engine.set_tokenizer(tokenizer);
            }
            _ => {
                self.engine = None;
                self.resident.forget();
                let index: HashMap<&str, usize> = plan
                    .outputs()
                    .iter()
                    .enumerate()
                    .map(|(i, o)| (o.name.as_str(), i))
                    .collect();
                let resident = &mut self.resident;
                let mut read = |name: &str| {
                    let i = index.get(name).ok_or("the merge does not produce it")?;
                    resident.compute(plan, *i).map_err(|e| e.to_string())
                };
                let Resources {
                    device, dtype, options, ..
                } = &self.resources;
                let decoder = Decoder::load(spec, device, *dtype, &mut read).map_err(|e| e.to_string())?;
                self.engine = Some(Engine::new(decoder, tokenizer, *options));
            }
        }
        Ok(())
    }

    fn tokenizer(&mut self, child: &merge::ChildTokenizer) -> Result<Arc<Tokenizer>, String> {
        let key = format!("{child:?}");
        if let Some(tokenizer) = self.tokenizers.get(&key) {
            return Ok(tokenizer.clone());
        }
        let tokenizer = Arc::new(self.resources.parents.tokenizer(child).map_err(|e| e.to_string())?);
        self.tokenizers.insert(key, tokenizer.clone());
        Ok(tokenizer)
    }

    /// Negative log-likelihood a token of the first prompts of the search.
    fn guard_nll(&mut self, exam: &Exam) -> Result<f64, String> {
        let mut texts: Vec<String> = Vec::new();
        for task in &exam.tasks {
            let questions = self.questions_of(task).iter().take(GUARD_QUESTIONS);
            texts.extend(questions.map(|q| q.prompt.text()));
        }
        let engine = self.engine.as_mut().ok_or("no model is loaded")?;
        let mut requests = Vec::new();
        for text in &texts {
            let tokens = engine.tokenizer().encode(text, true).map_err(|e| e.to_string())?;
            if tokens.len() > 1 {
                requests.push(ScoreRequest { tokens, from: 1 });
            }
        }
        let scores = engine.score(&requests).map_err(|e| e.to_string())?;
        let tokens: usize = scores.iter().map(|s| s.tokens).sum();
        Ok(-scores.iter().map(|s| s.log_likelihood).sum::<f64>() / tokens as f64)
    }

    /// Turns a collapsed merge away before it costs a generation; parents set the measure.
    fn guard(&mut self, subject: Subject<'_>, exam: &Exam) -> Result<(), String> {
        let Some(guard) = self.resources.guard else {
            return Ok(());
        };
        let nll = self.guard_nll(exam)?;
        if matches!(subject, Subject::Model(_)) {
            let worst = self.worst_parent_nll.map_or(nll, |worst| worst.max(nll));
            self.worst_parent_nll = Some(worst);
            return Ok(());
        }
        let Some(worst) = self.worst_parent_nll else {
            return Ok(());
        };
        let ratio = (nll - worst).exp();
        // NaN does not pass either.
        if ratio <= guard.perplexity_ratio {
            return Ok(());
        }
        Err(format!(
            "collapsed: its perplexity on the questions is {ratio:.1} times the worst parent's (guard: {})",
            guard.perplexity_ratio
        ))
    }
}

impl Evaluator for MergeEvaluator<'_> {
    fn evaluate(
        &mut self,
        subject: Subject<'_>,
        exam: &Exam,
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Evaluation, String> {
        let as_it_is;
        let recipe = match subject {
            Subject::Recipe(recipe) => recipe,
            Subject::Model(name) => {
                as_it_is = verbatim(name);
                &as_it_is
            }
        };
        let keys: Vec<String> = exam.tasks.iter().map(|task| self.key(recipe, task)).collect();
        let mut answers: Vec<Option<Vec<event::Answer>>> =
            keys.iter().map(|key| self.resources.cache.get(key)).collect();
        let cached = answers.iter().all(Option::is_some);
        let guards_later = self.resources.guard.is_some() && matches!(subject, Subject::Model(_));
        let mut evaluation = Evaluation {
            cached,
            ..Evaluation::default()
        };
        if !cached || guards_later {
            let start = (self.resources.since_start)();
            progress(stage("merge", exam));
            self.load(recipe)?;
            let merged = (self.resources.since_start)();
            self.guard(subject, exam)?;
            evaluation.merge_ms = (merged - start).as_millis() as u64;
            let open: Vec<usize> = (0..answers.len()).filter(|i| answers[*i].is_none()).collect();
            for (i, fresh) in open.iter().zip(self.ask(exam, &open, progress)?) {
                evaluation.generated_tokens += fresh.iter().map(|a| a.tokens as u64).sum::<u64>();
                self.resources.cache.put(&keys[*i], &fresh).map_err(|e| e.to_string())?;
                answers[*i] = Some(fresh);
            }
            evaluation.evaluation_ms = ((self.resources.since_start)() - merged).as_millis() as u64;
        }
        evaluation.answers = keys.into_iter().zip(answers.into_iter().flatten()).collect();
        Ok(evaluation)
    }
}

impl MergeEvaluator<'_> {
    /// All questions of the tasks that are `open`, in one queue.
    fn ask(
        &mut self,
        exam: &Exam,
        open: &[usize],
        progress: &mut dyn FnMut(event::Progress),
    ) -> Result<Vec<Vec<event::Answer>>, String> {
        let Self {
            engine,
            resources,
            questions,
            ..
        } = self;
        let engine = engine.as_mut().ok_or("no model is loaded")?;
        let mut work: Vec<(&Task, &[Question])> = Vec::new();
        for i in open {
            let task = &exam.tasks[*i];
            let asked = questions
                .get(&(task.index, task.split.clone()))
                .map_or(&[][..], Vec::as_slice);
            work.push((&resources.tasks[task.index].task, asked));
        }
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
        })
        .map_err(|e| e.to_string())?;
        let tasks = work.iter().map(|(task, _)| *task);
        Ok(answered
            .into_iter()
            .zip(tasks)
            .map(|(answers, task)| answers.into_iter().map(|answer| plain(answer, task)).collect())
            .collect())
    }
}

fn stage(name: &str, exam: &Exam) -> event::Progress {
    event::Progress {
        id: String::new(),
        stage: name.into(),
        answered: 0,
        questions: exam.tasks.iter().map(|t| t.n).sum(),
        tokens: 0,
        tokens_per_s: 0.0,
    }
}

/// An answer as the journal keeps it.
fn plain(answer: eval::Answer, task: &Task) -> event::Answer {
    let got = answer
        .filters
        .get(task.primary_filter())
        .map(|f| f.extracted.clone())
        .unwrap_or_default();
    event::Answer {
        q: answer.question,
        out: answer.output,
        got,
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

/// The recipe that is a model as it is.
pub fn verbatim(model: &str) -> Recipe {
    Recipe {
        stages: vec![Stage {
            name: None,
            merge_method: Method::Passthrough,
            base_model: None,
            body: Body::Models(vec![Source {
                model: model.into(),
                layer_range: None,
                parameters: Default::default(),
            }]),
            parameters: Default::default(),
            dtype: None,
            out_dtype: None,
            tokenizer_source: None,
            tokenizer: None,
            chat_template: None,
            seed: None,
        }],
    }
}
