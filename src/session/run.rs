//! A run of a session: begun or taken up again, with all that can be wrong found before there is a word in its journal.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{Error, Session, best::BestFile, limits::Limits, live::Pulse, with_influence};
use crate::{
    eval::Split,
    event::{self, Event, Record},
    host::Host,
    models::{Computed, RuntimeOptions},
    search::{
        self, Chronicle, Clock, Control, ENGINE_VERSION, End, Evaluator, Exam, ExamTask, External, Genome,
        MergeEvaluator, Plan, Questions,
    },
    space::{ChatTemplate, Finale, Limit, Space},
    store::{self, Cache, Cut, Journal, RunDir, RunLock},
    workers::{Asked, Identity, Kind, Library, Opening, Post, SideBySide},
};

/// How often requests of other processes are looked for.
const PAUSE: Duration = Duration::from_millis(100);

/// A run that this process writes to, ready to search.
pub struct Search<'a> {
    session: &'a Session,
    dir: RunDir,
    _lock: RunLock,
    started: event::RunStarted,
    examiner: Examiner<'a>,
    genome: Genome,
    options: ResumeOptions,
    /// The server by which others evaluate; `None`: this process does.
    post: Option<Post>,
    /// Whether questions stand in two parts of it; `None`: that is compared when the journal has said what the final asks.
    compared: Option<Option<event::QuestionsCompared>>,
}

/// How a run is gone on with.
#[derive(Clone, Debug, Default)]
pub struct ResumeOptions {
    /// End the search where it stands, and go to the final.
    pub finish: bool,
    /// Go on although models, tasks or the space are not what they were; it is told ever after.
    pub accepts_changes: bool,
    /// Questions of each task that choose among the finalists, while the winner is not chosen.
    pub selection: Option<Limit>,
    /// Questions of each task of the sealed test, while nobody has answered it.
    pub test: Option<Limit>,
    /// What happened to the journal before it was opened; it is told there.
    pub notes: Vec<Event>,
}

/// A run that was begun before, taken for this process; nothing that it names is open yet.
pub struct Begun {
    dir: RunDir,
    lock: RunLock,
    space: Space,
    started: event::RunStarted,
}

impl Session {
    /// Begins a run in a directory, which is made if it is missing.
    ///
    /// # Errors
    /// The space contradicts itself, its questions are not as new as it says, a split is missing, or the directory holds a
    /// run already.
    pub fn create(&self, dir: &Path, budget: event::Budget) -> Result<Search<'_>, Error> {
        self.begin(budget, || RunDir::create(dir, &self.host.holder))
    }

    /// As [`Self::create`], in a directory that nobody has: `dir`, else `dir-2` and so on.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_beside(&self, dir: &Path, budget: event::Budget) -> Result<Search<'_>, Error> {
        self.begin(budget, || RunDir::create_beside(dir, &self.host.holder))
    }

    fn begin(
        &self,
        budget: event::Budget,
        place: impl FnOnce() -> Result<(RunDir, RunLock), store::Error>,
    ) -> Result<Search<'_>, Error> {
        self.refuse_contradictions()?;
        self.refuse_tight_memory()?;
        let compared = self.questions_compared()?;
        self.refuse_overlap(compared.as_ref())?;
        // All that can be wrong is found before there is a directory.
        let examiner = Examiner::new(self, &self.space.finale)?;
        let (dir, lock) = place()?;
        let yaml = self.space.to_yaml();
        dir.replace(&dir.space(), &yaml)?;
        let started = event::RunStarted {
            space_digest: digest(&yaml),
            space: yaml,
            ..examiner.started(self, budget)?
        };
        self.ready(dir, lock, started, examiner, ResumeOptions::default(), Some(compared))
    }

    /// Goes on with a run; `self` is what [`Begun::session`] gave for it.
    ///
    /// # Errors
    /// A split is missing, or answers would be computed in another precision than before.
    pub fn resume(&self, begun: Begun, options: ResumeOptions) -> Result<Search<'_>, Error> {
        let (now, before) = (self.runtime.computed(), computed(&begun.started));
        if now.dtype != before.dtype {
            return Err(Error::OtherPrecision {
                wanted: now.dtype,
                begun: before.dtype,
            });
        }
        // Of a final of any size; the journal will say how much it asks, and may hold answers to more than it does now.
        let mut all = self.space.finale.clone();
        (all.selection.limit, all.test.limit) = (Some(Limit::All), Some(Limit::All));
        let examiner = Examiner::new(self, &all)?;
        let started = event::RunStarted {
            space_digest: space_digest(&begun.dir, &begun.started)?,
            ..examiner.started(self, begun.started.budget)?
        };
        self.ready(begun.dir, begun.lock, started, examiner, options, None)
    }

    fn ready<'a>(
        &'a self,
        dir: RunDir,
        lock: RunLock,
        started: event::RunStarted,
        mut examiner: Examiner<'a>,
        options: ResumeOptions,
        compared: Option<Option<event::QuestionsCompared>>,
    ) -> Result<Search<'a>, Error> {
        for stale in [dir.stop_request(), dir.pause_request()] {
            let _ = fs::remove_file(stale);
        }
        self.settle(&mut examiner.asking, &dir)?;
        Ok(Search {
            genome: with_influence(self, &mut examiner.asking)?,
            session: self,
            dir,
            _lock: lock,
            started,
            examiner,
            options,
            post: None,
            compared,
        })
    }

    /// The evaluator of a run, if everything is as it was when the run began.
    ///
    /// # Errors
    /// Says what is not.
    pub fn unchanged(&self, began: &event::RunStarted, dir: &RunDir) -> Result<MergeEvaluator<'_>, Error> {
        let mut examiner = Examiner::new(self, &self.space.finale)?;
        let now = event::RunStarted {
            space_digest: space_digest(dir, began)?,
            ..examiner.started(self, event::Budget::default())?
        };
        let changes = began.changes(&now);
        if !changes.is_empty() {
            return Err(Error::Changed {
                what: event::changes::in_words(&changes),
            });
        }
        self.settle(&mut examiner.asking, dir)?;
        Ok(examiner.asking)
    }

    /// Has an evaluator keep its answers, and its engine its words, where the run is.
    fn settle(&self, asking: &mut MergeEvaluator<'_>, dir: &RunDir) -> Result<(), Error> {
        asking.set_cache(self.cache(dir));
        match asking.engine_elsewhere() {
            Some(engine) => Ok(engine.log_to(&dir.path().join("engine.log"))?),
            None => Ok(()),
        }
    }
}

impl Begun {
    /// Takes a run for this process.
    ///
    /// # Errors
    /// There is no run, another process has it, or its files cannot be read.
    pub fn take(dir: &Path, host: &Host) -> Result<Self, Error> {
        let dir = RunDir::open(dir)?;
        let lock = dir.lock(&host.holder)?;
        let first = store::records(&dir.journal())?.next().transpose()?;
        let Some(Event::RunStarted(started)) = first.map(|record| record.event) else {
            return Err(Error::NoBeginning { journal: dir.journal() });
        };
        if !dir.space().exists() && !started.space.is_empty() {
            dir.replace(&dir.space(), &started.space)?;
        }
        Ok(Self {
            space: space_of(&dir, Some(&started))?,
            dir,
            lock,
            started,
        })
    }

    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// As it was read when the run began.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// What the run said of itself when it began.
    pub fn started(&self) -> &event::RunStarted {
        &self.started
    }

    /// Whether another build of heterosis began it: what has been answered stays, and the last digits of answers may differ.
    pub fn is_of_another_build(&self) -> bool {
        (&*self.started.engine_version, &*self.started.engine_build) != (ENGINE_VERSION, &*search::build())
    }

    /// Opens what the run names; computed as before, unless something else is wanted.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn session(&self, wanted: &RuntimeOptions, host: Host) -> Result<Session, Error> {
        let wanted = computed(&self.started).again(wanted);
        Session::open(self.space.clone(), &wanted, host)
    }
}

/// Cuts a damaged journal before its first damaged line, after copying it; `None` if it is whole.
///
/// # Errors
/// There is no run, another process writes to it, or its journal cannot be read, copied or cut.
pub fn repair(dir: &Path, host: &Host) -> Result<Option<Cut>, Error> {
    let dir = RunDir::open(dir)?;
    let _lock = dir.lock(&host.holder)?;
    Ok(store::cut_damaged(&dir.journal())?)
}

impl Search<'_> {
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// Has the evaluating done by workers elsewhere, by way of a server. Learning stays here.
    ///
    /// # Errors
    /// As [`Session::can_be_evaluated_by_workers`].
    pub fn by_workers(mut self, post: Post) -> Result<Self, Error> {
        self.session.can_be_evaluated_by_workers()?;
        self.post = Some(post);
        Ok(self)
    }

    /// Searches until the budget ends, then decides; `listener` sees every record: those that the journal holds already, those
    /// that are written, and those that are worth no line. Also looks for the requests of other processes.
    ///
    /// # Errors
    /// [`Error::Search`] of the search itself; any other before it begins.
    pub fn run(self, control: &Control, listener: &dyn Fn(&Record)) -> Result<End, Error> {
        let (dir, over) = (self.dir.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let _over = Over(&over);
            scope.spawn(|| pass_requests_on(&dir, control, &over));
            self.begin(control, listener)
        })
    }

    fn begin(mut self, control: &Control, listener: &dyn Fn(&Record)) -> Result<End, Error> {
        let (session, dir) = (self.session, self.dir.clone());
        let best = RefCell::new(BestFile::new(&dir, &session.space));
        let pulse = RefCell::new(Pulse::new(&dir, &*session.host.since_start));
        let listener = |record: &Record| {
            best.borrow_mut().see(record);
            pulse.borrow_mut().see(record);
            listener(record);
        };
        let clock = Clock {
            now_ms: &*session.host.now_ms,
            sleep: &std::thread::sleep,
        };
        let command = session.space.fitness.command.as_ref();
        let mut external = command.map(|command| session.external(command, dir.path()));
        let (mut limits, mut kinds, mut before) = (Limits::default(), BTreeSet::new(), None);
        let opening = Journal::open(&dir.journal())?.shown_to(|record| {
            limits.see(record);
            if let Event::QuestionsCompared(compared) = &record.event {
                before = Some(compared.clone());
            }
            match (&record.event, &mut external) {
                (Event::Answers(answers), Some(external)) => external.remember(answers),
                (Event::Answers(answers), None) => {
                    kinds.insert(answers.kind.clone());
                    self.examiner.asking.remember(answers);
                }
                (Event::CandidateScored(candidate), Some(external)) => external.forget(&candidate.id),
                _ => {}
            }
        });
        let mut chronicle = Chronicle::read(opening, clock, &listener).map_err(of_reading)?;
        let plan = self.plan(&limits)?;
        let compared = match self.compared.take() {
            Some(compared) => compared,
            None => {
                let compared = session.compared_with(&plan.space.finale)?;
                // Other limits, or a task that was changed, may ask what the search was bred on. What the run began with stays.
                if compared.as_ref().is_some_and(|now| now.adds_to(before.as_ref())) {
                    session.refuse_overlap(compared.as_ref())?;
                }
                compared
            }
        };
        let options = &self.options;
        let begun = chronicle.begin(self.started.clone(), options.accepts_changes);
        begun.map_err(of_reading)?;
        for note in options.notes.clone() {
            chronicle.write(note).map_err(Error::search)?;
        }
        if let Some(compared) = compared {
            chronicle.questions_compared(compared).map_err(Error::search)?;
        }
        let texts = self
            .examiner
            .texts([&plan.search, &plan.selection, &plan.test, &plan.held_out]);
        chronicle.question_texts(texts).map_err(Error::search)?;
        let mut adviser = session.adviser();
        let adviser = adviser.as_mut().map(|adviser| adviser as &mut dyn search::Adviser);
        if let Some(post) = self.post.take() {
            let identity = Identity::of(&self.dir.nats())?;
            let asking = self.examiner.asking;
            let opening = opening_of(session, &self.started, asking, identity, &plan, &kinds, control);
            let mut fleet = post.open(opening)?;
            let end = search::run(&plan, &mut fleet, adviser, &mut chronicle, control);
            fleet.end(matches!(end, Ok(End::Done)));
            return end.map_err(Error::search);
        }
        if session.has_several_hands() {
            let log = self.dir.path().join("engine.log");
            let run = |crew: &mut SideBySide<'_>| search::run(&plan, crew, adviser, &mut chronicle, control);
            return session
                .side_by_side(self.examiner.asking, &log, run)?
                .map_err(Error::search);
        }
        let mut evaluator = evaluator(external, self.examiner.asking);
        search::run(&plan, &mut *evaluator, adviser, &mut chronicle, control).map_err(Error::search)
    }

    /// What is searched, and what the final asks as the journal has it.
    fn plan(&mut self, limits: &Limits) -> Result<Plan, Error> {
        let (session, options, examiner) = (self.session, &self.options, &mut self.examiner);
        let mut space = session.space.clone();
        limits.apply(&mut space, options.selection, options.test)?;
        examiner.asking.forget_questions();
        let exams = examiner.exams(session, &space.finale)?;
        Ok(Plan {
            genome: self.genome.clone(),
            warm_starts: session.warm_starts.clone(),
            budget: self.started.budget,
            finish: options.finish,
            search: exams.search,
            selection: exams.selection,
            test: exams.test,
            held_out: exams.held_out,
            lessons: match &space.search.learn {
                Some(learning) => examiner.asking.lessons(learning.questions).map_err(Error::plan)?,
                None => Exam::nothing(),
            },
            space,
        })
    }
}

/// What workers elsewhere are asked; `kinds` are those that the journal has answers of.
fn opening_of<'a>(
    session: &Session,
    started: &event::RunStarted,
    evaluator: MergeEvaluator<'a>,
    identity: Identity,
    plan: &Plan,
    kinds: &BTreeSet<String>,
    control: &Control,
) -> Opening<'a> {
    let asked = Asked {
        started,
        tasks: &session.tasks,
        held_out: &session.held_out,
        guard: session.space.fitness.guard,
        mixed: plan.space.search.mixed_workers,
    };
    let own = evaluator.computation();
    Opening {
        identity,
        library: Library::of(&asked, &evaluator),
        kinds: kinds.iter().filter_map(|words| Kind::of_words(words, &own)).collect(),
        evaluator,
        control: control.clone(),
        is_asynchronous: plan.space.search.asynchronous,
        now: session.host.since_start.clone(),
    }
}

/// The command, if there is one, else whoever merges and asks.
fn evaluator<'a>(external: Option<External>, asking: MergeEvaluator<'a>) -> Box<dyn Evaluator + 'a> {
    match external {
        Some(external) => Box::new(external),
        None => Box::new(asking),
    }
}

/// A journal that cannot be read, or that is of something else, is no failure of a search.
fn of_reading(e: search::Error) -> Error {
    use store::Error::{BadLine, Newer};
    match e {
        search::Error::Store(e @ (BadLine { .. } | Newer { .. })) => Error::Store(e),
        e @ search::Error::Changed { .. } => Error::plan(e),
        e => Error::search(e),
    }
}

/// Set when it is dropped, however that comes about: who waits for the end of a run must not wait for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that others left in the run directory become flags.
fn pass_requests_on(dir: &RunDir, control: &Control, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if dir.stop_request().exists() {
            let _ = fs::remove_file(dir.stop_request());
            control.stop.store(true, Ordering::Relaxed);
        }
        control.pause.store(dir.pause_request().exists(), Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

pub(super) fn computed(started: &event::RunStarted) -> Computed {
    Computed {
        device: started.device.clone(),
        dtype: started.dtype.clone(),
    }
}

fn digest(space_yaml: &str) -> String {
    blake3::hash(space_yaml.as_bytes()).to_hex().to_string()
}

/// The search space of a run; where its file is gone, as the journal has it. One that says nothing of chat templates is of
/// before there was a choice.
///
/// # Errors
/// Its file cannot be read, or is no search space.
pub(super) fn space_of(dir: &RunDir, started: Option<&event::RunStarted>) -> Result<Space, Error> {
    let kept = started.map(|started| &started.space).filter(|kept| !kept.is_empty());
    let mut space = match kept {
        Some(kept) if !dir.space().exists() => Space::parse(&dir.space(), kept)?,
        _ => Space::read(&dir.space())?,
    };
    space.fitness.chat_template.get_or_insert(ChatTemplate::Off);
    Ok(space)
}

/// Digest of the search space of a run as it is now. What was written counts first: a newer heterosis may fill in defaults
/// that the one that wrote it did not know. Another order of lines, or a comment, is no other space; nor are other places of
/// the same models and tasks, which have digests of their own.
fn space_digest(dir: &RunDir, began: &event::RunStarted) -> Result<String, Error> {
    if !dir.space().exists() && !began.space.is_empty() {
        return Ok(began.space_digest.clone());
    }
    let text = fs::read_to_string(dir.space()).map_err(Error::io(dir.space()))?;
    if digest(&text) == began.space_digest {
        return Ok(began.space_digest.clone());
    }
    let now = Space::read(&dir.space())?;
    let is_moved = !began.space.is_empty() && {
        let before = Space::parse(&dir.space(), &began.space)?;
        before.without_places().digest() == now.without_places().digest()
    };
    Ok(match is_moved {
        true => began.space_digest.clone(),
        false => now.digest(),
    })
}

/// Whoever asks, and what a run that begins now says of itself.
struct Examiner<'a> {
    asking: MergeEvaluator<'a>,
    /// Of a command that says which they are.
    of_command: Option<Questions>,
    search: Exam,
    held_out: Exam,
}

/// The parts of a run.
struct Exams {
    search: Exam,
    selection: Exam,
    test: Exam,
    held_out: Exam,
}

impl<'a> Examiner<'a> {
    /// Loads all questions. Answers are kept in memory until there is a place for them.
    fn new(session: &'a Session, finale: &Finale) -> Result<Self, Error> {
        let fitness = &session.space.fitness;
        let file = fitness.command.as_ref().and_then(|command| command.questions.as_ref());
        let of_command = file.map(|file| Questions::read(Path::new(file), fitness)).transpose();
        let mut examiner = Self {
            asking: session.evaluator(Cache::in_memory(), fitness.guard)?,
            of_command: of_command.map_err(Error::plan)?,
            search: Exam::nothing(),
            held_out: Exam::nothing(),
        };
        let Exams { search, held_out, .. } = examiner.exams(session, finale)?;
        Ok(Self {
            search,
            held_out,
            ..examiner
        })
    }

    /// The questions of each part of a run.
    fn exams(&mut self, session: &Session, finale: &Finale) -> Result<Exams, Error> {
        let search = match &self.of_command {
            Some(questions) => questions.exam(Split::Search.name(), Limit::All),
            None => self.asking.search_exam(),
        };
        let search = search.map_err(Error::plan)?;
        let mut later = |split: &str, limit: Limit| {
            let exam = match &self.of_command {
                Some(questions) => questions.exam(split, limit),
                None => self.asking.exam(split, limit),
            };
            exam.map_err(Error::plan)
        };
        let selection = later(&finale.selection.split, finale.selection_limit())?;
        let test = match session.space.models.is_empty() {
            true => Exam {
                split: finale.test.split.clone(),
                tasks: Vec::new(),
            },
            false => later(&finale.test.split, finale.test_limit())?,
        };
        Ok(Exams {
            search,
            selection,
            test,
            held_out: self.asking.held_out_exam().map_err(Error::plan)?,
        })
    }

    /// What the questions of these parts ask; of a split that several ask, all that is asked of it.
    fn texts(&self, parts: [&Exam; 4]) -> Vec<event::QuestionTexts> {
        let mut all: Vec<event::QuestionTexts> = Vec::new();
        for part in parts {
            let texts = match &self.of_command {
                Some(questions) => questions.texts(part),
                None => self.asking.question_texts(part),
            };
            for texts in texts.into_iter().filter(|texts| !texts.texts.is_empty()) {
                match all
                    .iter_mut()
                    .find(|known| known.is_of(&texts.task, &texts.lang, &texts.split))
                {
                    Some(known) => known.texts.extend(texts.texts),
                    None => all.push(texts),
                }
            }
        }
        all
    }

    /// Digest and description of a task.
    fn of_asked(&self, index: usize) -> (String, String) {
        let description = self.asking.task_description(index);
        (self.asking.task_digest(index).into(), description.into())
    }

    /// What a run that begins now says of itself. Reads all models for their digests.
    fn started(&self, session: &Session, budget: event::Budget) -> Result<event::RunStarted, Error> {
        let (space, computed) = (&session.space, session.runtime.computed());
        let models = space.models.iter().map(|(name, word)| {
            let checkpoint = session
                .parents
                .checkpoint(name)
                .ok_or_else(|| Error::NotOpen { model: name.clone() })?;
            Ok(event::Model {
                name: name.clone(),
                model: word.clone(),
                given: given(space, name, word),
                digest: checkpoint.digest()?,
                tokenizer_digest: session.parents.tokenizer_digest(name),
                is_base: space.base.as_ref() == Some(name),
            })
        });
        let computation = self.asking.computation();
        Ok(event::RunStarted {
            name: space.name.clone(),
            engine_version: ENGINE_VERSION.into(),
            engine: computation.engine.unwrap_or_default(),
            engine_build: computation.build,
            instruction_set: computation.instruction_set,
            seed: space.search.seed,
            space_digest: space.digest(),
            space: String::new(),
            budget,
            models: models.collect::<Result<_, Error>>()?,
            tasks: tasks_of(&self.search, &|index| match &self.of_command {
                Some(questions) => (questions.digest(index), String::new()),
                None => self.of_asked(index),
            }),
            held_out: tasks_of(&self.held_out, &|index| self.of_asked(index)),
            optimizer: space.search.optimizer.name().to_string(),
            genes: session.genome.genes().iter().map(|g| g.name.clone()).collect(),
            population: space.search.population.unwrap_or(0),
            device: computed.device,
            dtype: computed.dtype,
            machine: session.host.machine.clone(),
            counts_tokens: space.fitness.tokens,
            score_weights: space.fitness.weights.iter().cloned().collect(),
            learning: session.learning_plan()?,
            guide: session.guide_model()?,
        })
    }
}

/// What the user called a model, if that is something else.
fn given(space: &Space, name: &str, word: &str) -> String {
    let given = space
        .given
        .iter()
        .find(|(short, _)| short == name)
        .map(|(_, given)| given);
    given.filter(|given| *given != word).cloned().unwrap_or_default()
}

/// `known` are digest and description of a task.
fn tasks_of(exam: &Exam, known: &dyn Fn(usize) -> (String, String)) -> Vec<event::Task> {
    let task = |task: &ExamTask| {
        let (digest, description) = known(task.index);
        event::Task {
            task: task.task.clone(),
            lang: task.lang.clone(),
            split: task.split.clone(),
            weight: task.weight,
            n: task.items.len(),
            digest,
            metric: task.metric().into(),
            description,
        }
    };
    exam.tasks.iter().map(task).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// A panic while something was shown left the thread that passes requests on waiting: the program hung for ever.
    #[test]
    fn whoever_waits_for_the_end_is_told_by_a_panic_too() {
        let over = AtomicBool::new(false);
        let hung = catch_unwind(AssertUnwindSafe(|| {
            std::thread::scope(|scope| {
                let _over = Over(&over);
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                panic!("a listener");
            })
        }));
        assert!(hung.is_err() && over.load(Ordering::Relaxed));
    }
}
