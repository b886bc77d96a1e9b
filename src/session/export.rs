//! The child as files that everybody's tools open, and the proof of where it came from.
//!
//! An export is written from the same merge that was scored, into a directory beside its own. There it is opened again from
//! disk and answers some of the run's questions; the answers must be those in the journal. Only then it takes its name, in
//! one step: an export is complete and checked, or it is not there, and one that it replaces stays until then.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Error,
    provenance::{FirstAnswer, ParentProvenance, Provenance, answer_again, hash},
    run::{computed, space_of},
    tasks::{Asking, of_fitness},
    with_model_words,
};
use crate::{
    checkpoint::{self, Checkpoint, GgufKind, Writer},
    eval,
    event::{self, Answers, Candidate, CandidateId, Event, Origin, run::Run},
    host::Host,
    merge::Plan,
    model::Engine,
    models::{self, Computed, Parents, Runtime, RuntimeOptions, marked, verbatim},
    recipe::{Recipe, write},
    report::{
        card::{Card, hub_name, model_card},
        license::{self, ParentLicense, of_child},
    },
    search::{ENGINE_VERSION, FitnessTask},
    space::Space,
    store::{self, RunDir},
};

/// Answers of each task that are given again from the exported files.
const FIRST_ANSWERS: usize = 4;

/// A candidate of a run, and what the run says of it.
pub struct Child {
    dir: RunDir,
    space: Space,
    run: Run,
    candidate: Candidate,
    recipe: Recipe,
}

/// How a child is exported.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Largest size of one file; 5 GB unless said otherwise.
    pub shard_size_bytes: u64,
    /// Replace the directory if it is empty, or if heterosis wrote all that is in it.
    pub overwrite: bool,
    /// A GGUF file for llama.cpp besides.
    pub gguf: Option<GgufKind>,
    /// How the exported child answers again; as the run computed, unless said otherwise.
    pub runtime: RuntimeOptions,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            shard_size_bytes: super::SHARD_SIZE_BYTES,
            overwrite: false,
            gguf: None,
            runtime: RuntimeOptions::default(),
        }
    }
}

/// How far an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportStep {
    /// Tensors of the model, and how many of them are written.
    Written { done: usize, of: usize },
    /// The same of the GGUF file.
    Quantized { done: usize, of: usize },
}

/// An export that is begun: nothing that it needs is missing, and nothing is written yet.
pub struct Export<'a> {
    making: Making<'a>,
    writer: Writer,
}

/// All that an export is made of.
struct Making<'a> {
    child: &'a Child,
    out: PathBuf,
    options: &'a ExportOptions,
    parents: Parents,
    plan: Plan,
    runtime: Runtime,
    /// What it will answer again.
    asked: Vec<FirstAnswer>,
}

impl Child {
    /// A candidate of a run by its id, or its winner: `best`.
    ///
    /// # Errors
    /// There is no run, no such candidate, or it is no model: genes that a command scored.
    pub fn find(run: &Path, id: &str) -> Result<Self, Error> {
        let dir = RunDir::open(run)?;
        let run = dir.run()?;
        let space = space_of(&dir, run.started.as_ref())?;
        let found = match id {
            "best" => run.winner(),
            _ => run.candidate(id),
        };
        let Some(candidate) = found.cloned() else {
            let known: Vec<&str> = run.scored.iter().map(|s| s.candidate.id.as_str()).take(12).collect();
            return Err(Error::NoCandidate {
                run: dir.path().into(),
                id: id.into(),
                known: known.join(", "),
            });
        };
        let recipe = match candidate.origin {
            Origin::Parent => {
                let names = space.models.iter().map(|(name, _)| name.as_str());
                verbatim(CandidateId::resolve(&candidate.id, names)?.model().unwrap_or_default())
            }
            _ if space.models.is_empty() => {
                return Err(Error::NoModel {
                    run: dir.path().into(),
                    genes: dir.best_genes(),
                });
            }
            _ => serde_json::from_value(candidate.recipe.clone()).map_err(|source| Error::Recipe { source })?,
        };
        Ok(Self {
            dir,
            space,
            run,
            candidate,
            recipe,
        })
    }

    pub fn id(&self) -> &str {
        &self.candidate.id
    }

    /// Its recipe, whose models are the space's short names.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Its recipe as mergekit reads it, to be run from this working directory: models as the user named them where that leads to
    /// them from here, else by their paths.
    pub fn mergekit_yaml(&self) -> String {
        let leads_there = |given: &str, word: &str| {
            let place = |path: &str| fs::canonicalize(path).ok();
            let parts = given.split('+').zip(word.split('+'));
            parts.clone().count() == word.split('+').count()
                && parts
                    .clone()
                    .all(|(given, word)| given == word || place(given).is_some_and(|p| Some(p) == place(word)))
        };
        let named = self.recipe.with_models(|name| {
            let (word, given) = self.words(name);
            if leads_there(given, word) { given } else { word }.to_string()
        });
        write::to_yaml(&named.with_models(models::without_prefix))
    }

    /// Where a model of the space is, and what the user called it; a name that is none of them stands for itself.
    fn words<'b>(&'b self, name: &'b str) -> (&'b str, &'b str) {
        let model = self.space.models.iter().find(|(short, _)| short == name);
        let word = model.map_or(name, |(_, word)| word.as_str());
        let mut known = self.run.started.iter().flat_map(|started| &started.models);
        let given = known.find(|model| model.name == name && !model.given.is_empty());
        (word, given.map_or(word, |model| model.given.as_str()))
    }

    /// Its recipe for whoever has the export: for mergekit, and for heterosis.
    fn recipe_files(&self) -> [(&'static str, String); 2] {
        let public = self.public_recipe();
        let for_mergekit = write::to_yaml(&public.with_models(models::without_prefix));
        [
            ("mergekit_config.yml", marked(&format!("{WHERE}{for_mergekit}"))),
            ("recipe.yaml", format!("{WHERE}{}", write::to_yaml(&public))),
        ]
    }

    /// Its recipe without the paths of this machine: models as the user named them, by the last parts of an absolute path.
    fn public_recipe(&self) -> Recipe {
        let names: Vec<&str> = self.space.models.iter().map(|(name, _)| name.as_str()).collect();
        let given: Vec<&str> = names.iter().map(|name| self.words(name).1).collect();
        let public = without_places(&given);
        self.recipe
            .with_models(|name| match names.iter().position(|known| *known == name) {
                Some(i) => public[i].clone(),
                None => name.to_string(),
            })
    }

    /// Begins an export of it to a directory, with everything opened that it will need.
    ///
    /// # Errors
    /// A parent is missing or has changed since, the directory is there and may not be replaced, nothing can run here, or a GGUF
    /// file is wanted and llama.cpp does not know such a model.
    pub fn begin<'a>(&'a self, out: &Path, options: &'a ExportOptions, host: &Host) -> Result<Export<'a>, Error> {
        // What the checks will need is opened before gigabytes are written.
        let runtime = Runtime::new(&self.computed()?.again(&options.runtime))?;
        let (parents, plan) = self.opened(host)?;
        let asked = self.first_questions(&parents, &plan, host)?;
        if let Some(kind) = options.gguf {
            refuse_gguf(out, kind, (&plan, &parents))?;
        }
        self.refuse_changed(&parents)?;
        let making = Making {
            plan,
            child: self,
            out: out.into(),
            options,
            parents,
            runtime,
            asked,
        };
        let writer = models::begin(out, options.shard_size_bytes, options.overwrite)?;
        Ok(Export { making, writer })
    }

    /// Writes it as one LoRA adapter over the model that all its parents are adapters of.
    ///
    /// `begun` is told the directory in which it is made before it takes its name.
    ///
    /// # Errors
    /// A parent is missing or has changed since; what no LoRA holds, or what is no plain sum of adapters, without a rank.
    pub fn write_adapter(
        &self,
        (out, overwrite): (&Path, bool),
        rank: Option<usize>,
        host: &Host,
        begun: &dyn Fn(&Path),
    ) -> Result<models::Written, Error> {
        let (parents, _) = self.opened(host)?;
        self.refuse_changed(&parents)?;
        let wanted = models::Wanted {
            recipe: &self.recipe,
            words: &self.space.models,
            parents: &parents,
            rank,
            begun,
        };
        let named = with_model_words(&self.recipe, &self.space);
        let licenses = self.licenses(&parents, self.recipe.models())?;
        let license = of_child(&licenses);
        for warning in &license.warnings {
            tracing::warn!("licence: {warning}");
        }
        let text = |written: &models::Written| {
            let card = adapter_card(self, written, license.license.as_deref(), &for_everybody(&named));
            self.recipe_files().into_iter().chain([("README.md", card)]).collect()
        };
        Ok(models::write_adapter(&wanted, (out, overwrite), &host.hub, &text)?)
    }

    /// Its parents, opened, and how it is made of them.
    fn opened(&self, host: &Host) -> Result<(Parents, Plan), Error> {
        let mut parents = Parents::default();
        for (name, word) in &self.space.models {
            models::add(&mut parents, name, word, &host.hub)
                .map_err(Error::from)
                .map_err(Error::at(format!("models.{name}")))
                .map_err(Error::placed(&self.space.places))?;
        }
        let plan = Plan::new(&self.recipe, &parents)?;
        Ok((parents, plan))
    }

    /// Merges it into memory, to be asked there.
    ///
    /// # Errors
    /// A parent is missing or has changed since, or no decoder can be made of it.
    pub fn engine(&self, runtime: &Runtime, host: &Host) -> Result<Engine, Error> {
        let (parents, plan) = self.opened(host)?;
        self.refuse_changed(&parents)?;
        Ok(models::engine_of(&plan, &parents, runtime)?)
    }

    /// What its run is called.
    pub fn run_name(&self) -> &str {
        &self.space.name
    }

    /// The models of its run: short names and MODEL words.
    pub fn parents(&self) -> &[(String, String)] {
        &self.space.models
    }

    /// What the run said of itself when it began.
    fn started(&self) -> Result<&event::RunStarted, Error> {
        self.run.started.as_ref().ok_or_else(|| Error::NoBeginning {
            journal: self.dir.journal(),
        })
    }

    /// How the run computed.
    fn computed(&self) -> Result<Computed, Error> {
        Ok(computed(self.started()?))
    }

    /// A parent that changed since the run would give another child than the one that was scored.
    fn refuse_changed(&self, parents: &Parents) -> Result<(), Error> {
        // With what somebody accepted on the way.
        let started = self.run.started.as_ref();
        for model in started.map_or(&[][..], |s| &s.models) {
            let checkpoint = parents.checkpoint(&model.name).ok_or_else(|| Error::NotOpen {
                model: model.name.clone(),
            })?;
            let now = checkpoint.digest()?;
            if now != model.digest {
                return Err(Error::ModelChanged {
                    model: model.model.clone(),
                    was: model.digest.clone(),
                    now,
                });
            }
            if !model.tokenizer_digest.is_empty() && parents.tokenizer_digest(&model.name) != model.tokenizer_digest {
                return Err(Error::TokenizerChanged {
                    model: model.model.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether a task is another one than the run asked.
    fn has_changed(&self, task: &FitnessTask) -> bool {
        let (name, lang) = (task.task.name(), task.task.lang());
        let began = self.run.started.iter().flat_map(|started| &started.tasks);
        let mut same = began.filter(|t| t.task == name && t.lang == lang);
        same.all(|t| t.digest != task.task.digest())
    }

    /// Some questions that the candidate has answered, with what the journal says that it wrote.
    fn first_questions(&self, parents: &Parents, plan: &Plan, host: &Host) -> Result<Vec<FirstAnswer>, Error> {
        if self.space.fitness.engine.is_some() {
            // Answers of another engine are not ours to repeat.
            return Ok(Vec::new());
        }
        let journalled = self.first_answers()?;
        let mut asked: Vec<FirstAnswer> = Vec::new();
        let tasks = of_fitness(&Asking {
            space: &self.space,
            parents,
            data: &host.data,
        })?;
        let is_chat = tasks.iter().any(|task| task.task.chat().is_some());
        let tokenizer = is_chat.then(|| parents.tokenizer(&plan.tokenizer()));
        let tokenizer = tokenizer.transpose().map_err(models::Error::from)?;
        // What is drawn, or ends by what was thought, is not repeated by asking once more greedily.
        let is_repeated = |task: &FitnessTask| task.task.samples().is_none() && task.task.think().is_none();
        for task in tasks.into_iter().filter(is_repeated) {
            let questions = task.task.questions(task.split)?;
            let is_it = |a: &&Answers| a.task == task.task.name() && a.lang == task.task.lang();
            let Some(of_task) = journalled.iter().find(is_it) else {
                continue;
            };
            if self.has_changed(&task) {
                tracing::warn!(
                    "the task {} is not what it was in the run: what is exported is not asked its questions again",
                    task.task.name()
                );
                continue;
            }
            let written = of_task.answers.iter().filter(|a| !a.finish.is_empty());
            for answer in written.take(FIRST_ANSWERS) {
                let Some(question) = questions.iter().find(|q| q.id == answer.q) else {
                    continue;
                };
                asked.push(FirstAnswer {
                    question: answer.q.clone(),
                    // As it read it.
                    prompt: match &tokenizer {
                        None => question.prompt.text(),
                        Some(tokenizer) => eval::prompt_text(tokenizer, &task.task, question)?,
                    },
                    max_new_tokens: task.task.max_new_tokens,
                    stop: task.task.stop.to_vec(),
                    output: answer.out.clone(),
                    token_ids: Vec::new(),
                });
            }
        }
        Ok(asked)
    }

    /// The licences of the models whose weights or tokenizer the child has, an adapter's with its model's.
    fn licenses(&self, parents: &Parents, takes_part: Vec<&str>) -> Result<Vec<ParentLicense>, Error> {
        let mut licenses: Vec<ParentLicense> = Vec::new();
        for (name, word) in self
            .space
            .models
            .iter()
            .filter(|(name, _)| takes_part.contains(&name.as_str()))
        {
            let checkpoint = parents
                .checkpoint(name)
                .ok_or_else(|| Error::NotOpen { model: name.clone() })?;
            let (model, adapter) = checkpoint::split_adapter(word);
            for (word, texts) in std::iter::once(model).chain(adapter).zip(checkpoint.license_texts()?) {
                // Adapters over one model have it in common.
                if licenses.iter().all(|known| known.model != word) {
                    licenses.push(ParentLicense {
                        model: word.into(),
                        license: license::read(texts.readme.as_deref(), texts.license.as_deref()),
                    });
                }
            }
        }
        Ok(licenses)
    }

    /// What it wrote first to each task. The journal is read once more for that: who is exported is known at its end only,
    /// and all answers of a run would not fit in memory.
    fn first_answers(&self) -> Result<Vec<Answers>, Error> {
        let mut first: Vec<Answers> = Vec::new();
        for record in store::records(&self.dir.journal())? {
            if let Event::Answers(answers) = record?.event
                && answers.id == self.candidate.id
                && !first
                    .iter()
                    .any(|a| (&a.task, &a.lang) == (&answers.task, &answers.lang))
            {
                first.push(answers);
            }
        }
        Ok(first)
    }
}

impl Export<'_> {
    /// Where it is being written before it takes its name: what a program that is killed leaves behind.
    pub fn partial(&self) -> &Path {
        self.writer.partial()
    }

    /// Writes it, has it answer questions of the run again, and gives it its name.
    ///
    /// # Errors
    /// The disk is full, or the child answers otherwise than in the run: then there is no export.
    pub fn write(self, see: &mut dyn FnMut(ExportStep)) -> Result<(), Error> {
        let Self { making, mut writer } = self;
        making.files(&mut writer, see)?;
        let staged = writer.stage()?;
        making.complete(staged.path(), see)?;
        Ok(staged.publish()?)
    }
}

impl Making<'_> {
    /// Every file of the model, its recipe, its card.
    fn files(&self, writer: &mut Writer, see: &mut dyn FnMut(ExportStep)) -> Result<(), Error> {
        let of = self.plan.outputs().len();
        models::write(writer, &self.plan, &self.parents, &mut |done| {
            see(ExportStep::Written { done, of });
        })?;
        for (file, text) in self.child.recipe_files() {
            writer.text(file, &text)?;
        }
        let named = with_model_words(&self.child.recipe, &self.child.space);
        let tokenizer = self.plan.tokenizer().donor;
        let mut takes_part = self.child.recipe.models();
        takes_part.push(&tokenizer);
        let licenses = self.child.licenses(&self.parents, takes_part)?;
        let mut models: Vec<String> = licenses.iter().map(|l| l.model.clone()).collect();
        models.dedup();
        let license = of_child(&licenses);
        for warning in &license.warnings {
            tracing::warn!("licence: {warning}");
        }
        let card = model_card(&Card {
            run: &self.child.run,
            id: &self.child.candidate.id,
            recipe_yaml: &for_everybody(&named),
            license: license.license.as_deref(),
            parent_licenses: &licenses,
            models: &models,
            profile: "fitness",
        });
        Ok(writer.text("README.md", &card)?)
    }

    /// What is made of the written files: the GGUF file, the answers, the proof.
    fn complete(&self, staged: &Path, see: &mut dyn FnMut(ExportStep)) -> Result<(), Error> {
        if let Some(kind) = self.options.gguf {
            write_gguf(staged, kind, see)?;
        }
        let answered = self.first_answers(staged)?;
        let provenance = self.provenance(staged, answered)?;
        let text = serde_json::to_string_pretty(&provenance).expect("provenance is plain data") + "\n";
        let there = self.out.join("provenance.json");
        fs::write(staged.join("provenance.json"), text).map_err(Error::io(there))?;
        // Somebody may have put something there while the merge was written.
        match self.options.overwrite {
            true => Ok(models::refuse_foreign(&self.out)?),
            false => Ok(()),
        }
    }

    /// The exported files have to lie at `staged`, with everything but the provenance itself.
    fn provenance(
        &self,
        staged: &Path,
        (computed, first_answers): (Computed, Vec<FirstAnswer>),
    ) -> Result<Provenance, Error> {
        let started = self.child.started()?;
        let mut parent_files = Vec::new();
        for model in &started.models {
            let checkpoint = self.parents.checkpoint(&model.name).ok_or_else(|| Error::NotOpen {
                model: model.name.clone(),
            })?;
            let files = checkpoint.source_files();
            parent_files.push(ParentProvenance {
                name: model.name.clone(),
                model: model.model.clone(),
                digest: model.digest.clone(),
                files: files.iter().map(|file| hash(file)).collect::<Result<_, Error>>()?,
            });
        }
        let entries = fs::read_dir(staged).map_err(Error::io(staged))?;
        let mut files: Vec<PathBuf> = entries
            .map(|entry| Ok(entry.map_err(Error::io(staged))?.path()))
            .collect::<Result<_, Error>>()?;
        files.sort();
        Ok(Provenance {
            schema_version: event::SCHEMA_VERSION,
            run: started.name.clone(),
            candidate: self.child.candidate.id.clone(),
            engine_version: ENGINE_VERSION.into(),
            seed: started.seed,
            space_digest: started.space_digest.clone(),
            recipe_digest: self.child.candidate.recipe_digest.clone(),
            parents: parent_files,
            tasks: started.tasks.clone(),
            changes: self.child.run.changes.clone(),
            evals: self.child.run.evals,
            questions: self.child.run.questions.clone(),
            test: self.child.run.reading.clone(),
            held_out: self.child.run.held_out.clone(),
            outputs: files.iter().map(|file| hash(file)).collect::<Result<_, Error>>()?,
            computed: Some(computed),
            first_answers,
        })
    }

    /// Asks the exported files questions of the run; they must say the same.
    fn first_answers(&self, staged: &Path) -> Result<(Computed, Vec<FirstAnswer>), Error> {
        let given = answer_again(staged, &self.asked, &self.runtime)?;
        if let Some(how) = given.iter().find_map(|again| again.other.clone()) {
            let why = match self.child.run.changes.is_empty() {
                false => {
                    "the run went on although something of it had changed, and this was answered before; export a candidate \
                     that was scored since"
                }
                true => "please report this",
            };
            return Err(Error::AnotherChild { how, why });
        }
        let answers = self
            .asked
            .iter()
            .cloned()
            .zip(given)
            .map(|(question, again)| FirstAnswer {
                output: again.given.text,
                token_ids: again.given.token_ids,
                ..question
            });
        Ok((self.runtime.computed(), answers.collect()))
    }
}

/// What cannot be a GGUF file is known before gigabytes are written.
fn refuse_gguf(out: &Path, kind: GgufKind, (plan, parents): (&Plan, &Parents)) -> Result<(), Error> {
    let name = out
        .file_name()
        .map_or_else(|| out.to_string_lossy(), |name| name.to_string_lossy());
    let tensors = plan
        .outputs()
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
    let tokenizer = plan.tokenizer();
    // With more tokens it is another one, which is looked at when it is there.
    let donor = parents
        .checkpoint(&tokenizer.donor)
        .filter(|_| tokenizer.added.is_empty());
    checkpoint::check_gguf(&name, plan.config(), tensors, donor).map_err(no_gguf(kind))
}

/// The exported files once more as one GGUF file, read back and compared.
fn write_gguf(out: &Path, kind: GgufKind, see: &mut dyn FnMut(ExportStep)) -> Result<(), Error> {
    let child = Checkpoint::open(out)?;
    let file = out.join(format!("model-{}.gguf", name_of(kind)));
    let written = checkpoint::write_gguf(&child, &file, kind, &mut |done, of| {
        see(ExportStep::Quantized { done, of });
    });
    written.map_err(no_gguf(kind))?;
    compare_gguf(&child, &file, kind)
}

/// Where there can be no GGUF file, the error says how llama.cpp makes one, or that it cannot.
fn no_gguf(kind: GgufKind) -> impl Fn(checkpoint::Error) -> Error {
    move |reason| match reason {
        checkpoint::Error::GgufFamily { .. } => Error::GgufFamily {
            reason: Box::new(reason),
            kind: name_of(kind),
        },
        checkpoint::Error::GgufWrite { .. } => Error::GgufWrite {
            reason: Box::new(reason),
        },
        other => other.into(),
    }
}

fn name_of(kind: GgufKind) -> &'static str {
    match kind {
        GgufKind::F16 => "f16",
        GgufKind::Q8_0 => "q8_0",
    }
}

/// A GGUF file that is read back must hold the child's weights, but for the rounding that was asked for.
fn compare_gguf(child: &Checkpoint, file: &Path, kind: GgufKind) -> Result<(), Error> {
    let back = Checkpoint::open(file)?;
    for (name, info) in child.tensors() {
        let (mut ours, theirs) = (child.read_f32(name)?, back.read_f32(name)?);
        if kind == GgufKind::F16 && info.shape.len() > 1 {
            checkpoint::DType::F16.round(&mut ours);
        }
        let blocks = ours.chunks(32).zip(theirs.chunks(32));
        let near = |(a, b): (&[f32], &[f32])| {
            let largest = a.iter().fold(0f32, |max, x| max.max(x.abs()));
            // Q8_0: half a step of 1/127, and as much again for the scale's own rounding.
            let most = if kind == GgufKind::Q8_0 && info.shape.len() > 1 {
                largest / 127.0
            } else {
                0.0
            };
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= most)
        };
        if ours.len() != theirs.len() || !blocks.into_iter().all(near) {
            return Err(Error::GgufDiffers {
                file: file.into(),
                tensor: name.into(),
            });
        }
    }
    Ok(())
}

/// Above a recipe that others read.
const WHERE: &str = "# Models are named as they were for the search: run this where these names lead to them. Their places, files and\n\
                     # digests are in provenance.json.\n";

/// MODEL words without the folders of a machine: an absolute path keeps as many of its last parts as tell it from the others.
fn without_places(words: &[&str]) -> Vec<String> {
    let short = |word: &str, parts: usize| -> String {
        let shortened = word.split('+').map(|part| match part.starts_with('/') {
            true => last_parts(part, parts),
            false => part.to_string(),
        });
        shortened.collect::<Vec<_>>().join("+")
    };
    let longest = words.iter().map(|word| word.matches('/').count()).max().unwrap_or(0);
    let is_told_apart = |word: &str, parts: usize| {
        let mine = short(word, parts);
        words.iter().all(|other| *other == word || short(other, parts) != mine)
    };
    let of = |word: &&str| {
        let parts = (1..=longest).find(|parts| is_told_apart(word, *parts));
        short(word, parts.unwrap_or(longest.max(1)))
    };
    words.iter().map(of).collect()
}

/// The last so many parts of a path.
fn last_parts(path: &str, n: usize) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "." | ".."))
        .collect();
    parts[parts.len().saturating_sub(n)..].join("/")
}

/// A recipe as mergekit wants it: it names models of the Hub without a prefix.
pub(super) fn for_mergekit(recipe: &Recipe, space: &Space) -> String {
    let named = with_model_words(recipe, space);
    write::to_yaml(&named.with_models(models::without_prefix))
}

/// What stands beside an adapter: how it is loaded, what it is made of, how near it is.
fn adapter_card(child: &Child, written: &models::Written, license: Option<&str>, recipe: &str) -> String {
    let base = hub_name(&written.base);
    let license = license.map_or(String::new(), |license| format!("license: {license}\n"));
    let near = match written.is_exact {
        true => "It is the weighted sum of its parents' adapters, set side by side".to_string(),
        false => format!(
            "It is the nearest adapter of rank {}: it differs from the child that was scored by {:.2} % of what that changes",
            written.rank,
            100.0 * written.error
        ),
    };
    format!(
        "---\nbase_model: {base}\nlibrary_name: peft\n{license}tags:\n- merge\n- lora\n---\n\n# {}\n\nCandidate `{}` of a run of heterosis, as a LoRA \
         adapter over `{base}`. {near}.\n\n```yaml\n{}\n```\n",
        child.run_name(),
        child.id(),
        recipe.trim_end()
    )
}

/// A recipe without the paths of this machine, for a card that is published.
fn for_everybody(named: &Recipe) -> String {
    let name = |word: &str| word.split('+').map(hub_name).collect::<Vec<_>>().join("+");
    write::to_yaml(&named.with_models(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An export that was uploaded told where its author's home was.
    #[test]
    fn a_recipe_for_others_has_no_folders_of_this_machine() {
        let public = |words: &[&str]| without_places(words);
        assert_eq!(
            public(&["hf:owner/name@main", "models/tiny-base", "/home/me/models/maths/"]),
            ["hf:owner/name@main", "models/tiny-base", "maths"]
        );
        assert_eq!(public(&["/a/one/model", "/a/two/model"]), ["one/model", "two/model"]);
        assert_eq!(public(&["/a/base+/b/lora", "/a/base"]), ["base+lora", "base"]);
        assert_eq!(public(&["/a/x/../model.gguf"]), ["model.gguf"]);
        assert_eq!(
            public(&["/a/same", "/a/same"]),
            ["same", "same"],
            "one model under two names"
        );
    }
}
