//! What has happened, and what is being written down.
//!
//! On `resume` the loop starts again from the beginning; every answer and score that the journal holds is handed back
//! instead of computed, and nothing is written twice. When the journal is used up, the loop is exactly where it was.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{Error, Evaluation, Exam, ExamTask};
use crate::{
    event::{
        self, Candidate, CandidateId, EndReason, Event, ExamAnswered, ExamStarted, FinalPlan, Generation, Level,
        Origin, Phase, QuestionTexts, QuestionsCompared, Record, RunStarted, SCHEMA_VERSION, Selection, StageStarted,
        TestReading, changes::in_words,
    },
    store::{Journal, Opening, Span},
};

/// Milliseconds since 1970, and a short sleep; passed in, since nobody here reads the clock.
pub struct Clock<'a> {
    pub now_ms: &'a dyn Fn() -> u64,
    pub sleep: &'a dyn Fn(Duration),
}

/// The journal of a run, from both ends: what it holds already, and what is appended.
pub struct Chronicle<'a> {
    journal: Journal,
    clock: Clock<'a>,
    /// Sees every record, also those that are not journalled.
    listener: &'a dyn Fn(&Record),
    past: Past,
    /// What the run said of itself when it began, with the changes that were accepted since; none of a new run.
    began: Option<RunStarted>,
    /// What is not written down before somebody answers again; see [`Chronicle::hold`].
    held: Option<Vec<Event>>,
    elapsed_before_ms: u64,
    started_ms: u64,
    answers: u64,
}

#[derive(Default)]
struct Past {
    candidates: HashMap<String, Known>,
    /// Ids of the candidates that are still to be asked for, by their place in the journal: whoever is asked for has left
    /// those before it behind, which a newer build may never ask for.
    ahead: BTreeMap<usize, String>,
    places: usize,
    /// Beginnings and ends of the candidates of which several were out at a time.
    steps: VecDeque<Step>,
    out: Vec<String>,
    phases: Vec<Phase>,
    generations: HashMap<u64, String>,
    /// By candidate.
    answers: HashMap<String, Answers>,
    /// Those that came after the candidate's score: to a later exam.
    later_answers: HashMap<String, Answers>,
    stages: HashMap<String, u64>,
    learned: HashMap<String, event::Learned>,
    /// The tasks' weights, where they are scaled.
    scale: Option<Vec<f64>>,
    /// A command's scores of finalists, by id and split.
    scores: HashMap<(String, String), BTreeMap<String, f64>>,
    search_ended: Option<(EndReason, u64)>,
    planned: Option<FinalPlan>,
    exams: Vec<ExamStarted>,
    /// Who has answered which part of the final.
    examined: HashSet<(String, Phase)>,
    selection: Option<Selection>,
    test: Option<TestReading>,
    questions: Option<QuestionsCompared>,
    /// How many questions of each task have their texts in the journal.
    texts: HashMap<TaskName, usize>,
    held_out: bool,
    done: bool,
    answer_count: u64,
}

/// A candidate of the journal.
struct Known {
    digest: String,
    origin: Origin,
    generation: Option<u64>,
    outcome: Result<Box<Candidate>, String>,
    place: usize,
}

/// What happened to a candidate while others were out too, by its id.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Started(String),
    Ended(String),
}

/// Task, language and split.
type TaskName = (String, String, String);

/// What a candidate answered. A night's answers do not fit in memory, so they stay in the journal until they are asked for.
#[derive(Default)]
struct Answers {
    journalled: Vec<Span>,
    read: HashMap<TaskName, Answered>,
}

/// What a candidate answered to one task.
#[derive(Default)]
struct Answered {
    key: String,
    /// By question id.
    answers: HashMap<String, event::Answer>,
}

fn name_of(task: &ExamTask) -> TaskName {
    (task.task.clone(), task.lang.clone(), task.split.clone())
}

fn name_of_texts(texts: &QuestionTexts) -> TaskName {
    (texts.task.clone(), texts.lang.clone(), texts.split.clone())
}

impl<'a> Chronicle<'a> {
    /// Begins a run, or takes one up again: [`Self::read`], then [`Self::begin`].
    ///
    /// # Errors
    /// Theirs.
    pub fn open(
        opening: Opening<'_>,
        started: RunStarted,
        accepts: bool,
        clock: Clock<'a>,
        listener: &'a dyn Fn(&Record),
    ) -> Result<Self, Error> {
        let mut chronicle = Self::read(opening, clock, listener)?;
        chronicle.begin(started, accepts)?;
        Ok(chronicle)
    }

    /// Reads what a journal holds, once, and shows it to the listener. Nothing is written but that a torn tail is cut off.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub fn read(mut opening: Opening<'_>, clock: Clock<'a>, listener: &'a dyn Fn(&Record)) -> Result<Self, Error> {
        let (mut past, mut worked, mut began) = (Past::default(), Worked::default(), None);
        while let Some(record) = opening.next() {
            let record = record?;
            listener(&record);
            worked.see(&record);
            match record.event {
                Event::RunStarted(first) => began = began.or(Some(first)),
                Event::RunChanged { changes } => began.iter_mut().for_each(|began| began.accept(&changes)),
                event => past.remember(event, opening.last_span()),
            }
        }
        let started_ms = (clock.now_ms)();
        Ok(Self {
            journal: opening.journal()?,
            clock,
            listener,
            answers: past.answer_count,
            past,
            began,
            held: None,
            elapsed_before_ms: worked.total_ms(),
            started_ms,
        })
    }

    /// The first word of this process. `now` is what a run that began now would say of itself; where the journal says
    /// otherwise, models, tasks or space are others now, and the run goes on only if somebody `accepts` that.
    ///
    /// # Errors
    /// The journal cannot be written, or the run is not what it was.
    pub fn begin(&mut self, now: RunStarted, accepts: bool) -> Result<(), Error> {
        match self.began.take() {
            None => self.write(Event::RunStarted(now)),
            Some(began) if !self.past.done => self.resume(&began, now, accepts),
            Some(_) => Ok(()),
        }
    }

    fn resume(&mut self, began: &RunStarted, now: RunStarted, accepts: bool) -> Result<(), Error> {
        let changes = began.changes(&now);
        if !changes.is_empty() && !accepts {
            let what = in_words(&changes);
            return Err(Error::Changed { what });
        }
        self.write(Event::RunResumed {
            engine_version: now.engine_version,
            engine_build: now.engine_build,
            instruction_set: now.instruction_set,
        })?;
        match changes.is_empty() {
            true => Ok(()),
            false => self.write(Event::RunChanged { changes }),
        }
    }

    /// Appends an event to the journal and shows it, now or when what is held is believed.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, event: Event) -> Result<(), Error> {
        match &mut self.held {
            Some(held) => held.push(event),
            None => self.record(event)?,
        }
        Ok(())
    }

    /// From now on nothing is written down: a candidate failed, and it may have been the evaluator's fault. Then nothing that
    /// follows from the failure has happened either, and a resumed run asks again.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Somebody answered: what was held is written down.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn believe(&mut self) -> Result<(), Error> {
        let mut held = self.held.take().into_iter().flatten();
        held.try_for_each(|event| self.record(event))
    }

    /// Nobody answers, or the run ends before anybody has: what was held never happened.
    pub fn disbelieve(&mut self) {
        self.held = None;
    }

    /// A line in the log, whatever is held.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn note(&mut self, level: Level, message: String) -> Result<(), Error> {
        self.record(Event::Log { level, message })
    }

    /// What happened besides the search, whatever is held.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn tell(&mut self, event: Event) -> Result<(), Error> {
        self.record(event)
    }

    fn record(&mut self, event: Event) -> Result<(), Error> {
        let record = self.journal.append((self.clock.now_ms)(), event)?;
        (self.listener)(&record);
        Ok(())
    }

    /// Shows an event that is not worth keeping.
    pub fn show(&self, event: Event) {
        (self.listener)(&Record {
            schema_version: SCHEMA_VERSION,
            seq: self.journal.next_seq(),
            time_ms: (self.clock.now_ms)(),
            event,
        });
    }

    /// What happened next, of candidates of which several were out at a time; `None` when the journal is used up.
    pub fn next_step(&self) -> Option<&Step> {
        self.past.steps.front()
    }

    /// A candidate was asked for while others are out: into the journal, unless it is there.
    ///
    /// # Errors
    /// The journal cannot be written, or another candidate follows in it.
    pub fn started(&mut self, id: &str, started: Event) -> Result<(), Error> {
        match self.past.steps.pop_front() {
            None => self.write(started),
            Some(Step::Started(journalled)) if journalled == id => Ok(()),
            Some(Step::Started(journalled) | Step::Ended(journalled)) => Err(Error::Diverged {
                id: id.into(),
                journalled,
                now: id.into(),
            }),
        }
    }

    /// The candidate that ended next, if the journal says so; it is taken off the queue.
    pub fn past_end(&mut self) -> Option<String> {
        match self.past.steps.pop_front()? {
            Step::Ended(id) => Some(id),
            started @ Step::Started(_) => {
                self.past.steps.push_front(started);
                None
            }
        }
    }

    /// Scores that the journal holds are still being handed back.
    pub fn is_replaying(&self) -> bool {
        !self.past.ahead.is_empty()
    }

    /// A candidate was asked for that the journal does not know: whatever it still holds, nobody will ask for.
    pub fn is_used_up(&mut self) {
        self.past.ahead.clear();
    }

    /// All that is still to be handed back are the mean with which a stage ends, and what is learned from there.
    pub fn only_results_left(&self) -> bool {
        self.is_replaying() && self.are_results_ahead()
    }

    /// Nothing but these is still to be handed back, or nothing at all.
    fn are_results_ahead(&self) -> bool {
        let is_result = |id: &String| matches!(id.parse(), Ok(CandidateId::Mean { .. } | CandidateId::Learned(_)));
        self.past.ahead.values().all(is_result)
    }

    /// What became of a candidate, if it was scored before; it stays in the journal's queue.
    ///
    /// # Errors
    /// Under this id the journal has another recipe.
    pub fn peek(&self, id: &str, recipe_digest: &str) -> Result<Option<&Result<Box<Candidate>, String>>, Error> {
        match self.past.candidates.get(id) {
            Some(known) if known.digest != recipe_digest => Err(Error::Diverged {
                id: id.into(),
                journalled: known.digest.clone(),
                now: recipe_digest.into(),
            }),
            known => Ok(known.map(|known| &known.outcome)),
        }
    }

    /// As [`Self::peek`], and it is taken off the queue.
    ///
    /// # Errors
    /// Under this id the journal has another recipe.
    pub fn past(&mut self, id: &str, recipe_digest: &str) -> Result<Option<Result<Box<Candidate>, String>>, Error> {
        self.peek(id, recipe_digest)?;
        let Some(known) = self.past.candidates.remove(id) else {
            return Ok(None);
        };
        self.past.ahead = self.past.ahead.split_off(&(known.place + 1));
        Ok(Some(known.outcome))
    }

    /// Why the search ended, if it did so after this many candidates, or after as many as the journal holds: another build
    /// may count them in another way.
    pub fn past_end_of_search(&self, evals: u64) -> Option<EndReason> {
        let (reason, at) = self.past.search_ended?;
        (at == evals || self.are_results_ahead()).then_some(reason)
    }

    pub fn past_selection(&self) -> Option<&Selection> {
        self.past.selection.as_ref()
    }

    pub fn past_test(&self) -> Option<&TestReading> {
        self.past.test.as_ref()
    }

    /// The held-out tasks have been read.
    pub fn past_held_out(&self) -> bool {
        self.past.held_out
    }

    pub fn is_done(&self) -> bool {
        self.past.done
    }

    /// What the comparison of the run's questions found: into the journal, unless it says so already or the run is done.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn questions_compared(&mut self, compared: QuestionsCompared) -> Result<(), Error> {
        if self.past.done || self.past.questions.as_ref() == Some(&compared) {
            return Ok(());
        }
        self.write(Event::QuestionsCompared(compared))
    }

    /// What the run's questions ask: into the journal, where it does not say so already.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn question_texts(&mut self, all: Vec<QuestionTexts>) -> Result<(), Error> {
        for texts in all {
            let known = self.past.texts.get(&name_of_texts(&texts)).copied();
            if !self.past.done && known.unwrap_or_default() < texts.texts.len() {
                self.write(Event::QuestionTexts(texts))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// The journal cannot be written.
    pub fn phase(&mut self, phase: Phase) -> Result<(), Error> {
        if self.past.phases.contains(&phase) {
            return Ok(());
        }
        self.past.phases.push(phase);
        self.write(Event::PhaseStarted { phase })
    }

    /// What the final asks: into the journal, unless it says so already.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn final_planned(&mut self, plan: FinalPlan) -> Result<(), Error> {
        match self.past.planned == Some(plan) || self.past.done {
            true => Ok(()),
            false => self.write(Event::FinalPlanned(plan)),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub fn exam_started(&mut self, exam: ExamStarted) -> Result<(), Error> {
        match self.past.exams.contains(&exam) {
            true => Ok(()),
            false => self.write(Event::ExamStarted(exam)),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub fn exam_answered(&mut self, answered: ExamAnswered) -> Result<(), Error> {
        match self.past.examined.insert((answered.id.clone(), answered.phase)) {
            true => self.write(Event::ExamAnswered(answered)),
            false => Ok(()),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub fn search_ended(&mut self, reason: EndReason, evals: u64) -> Result<(), Error> {
        if self.past.search_ended.is_some() {
            return Ok(());
        }
        self.write(Event::SearchEnded { reason, evals })
    }

    /// # Errors
    /// The optimizer is not in the state in which it was when the journal was written.
    pub fn generation_ended(&mut self, ended: Generation) -> Result<(), Error> {
        match self.past.generations.remove(&ended.generation) {
            None => self.write(Event::GenerationEnded(ended)),
            Some(digest) if digest == ended.state_digest => Ok(()),
            Some(journalled) => Err(Error::Diverged {
                id: format!("generation {}", ended.generation),
                journalled,
                now: ended.state_digest,
            }),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub fn stage(&mut self, started: StageStarted) -> Result<(), Error> {
        match self.past.stages.contains_key(&started.stage) {
            true => Ok(()),
            false => {
                self.past.stages.insert(started.stage.clone(), started.evals);
                self.write(Event::StageStarted(started))
            }
        }
    }

    /// What a round of learning found, if it was made.
    pub fn past_learned(&self, id: &str) -> Option<&event::Learned> {
        self.past.learned.get(id)
    }

    /// After how many candidates a stage began, if it has.
    pub fn past_stage(&self, stage: &str) -> Option<u64> {
        self.past.stages.get(stage).copied()
    }

    /// A candidate's answers to an exam, if the journal holds every one.
    ///
    /// # Errors
    /// The journal cannot be read any more.
    pub fn past_answers(&mut self, id: &str, exam: &Exam) -> Result<Option<Evaluation>, Error> {
        if !self.past.answers.contains_key(id) {
            return Ok(None);
        }
        let answered = self.answered(id)?;
        let of_task = |task: &ExamTask| {
            let answered = answered.get(&name_of(task))?;
            let ids = task.items.iter().map(|i| &task.catalogue.ids[*i]);
            let answers: Option<Vec<_>> = ids.map(|q| answered.answers.get(q).cloned()).collect();
            Some((answered.key.clone(), answers?))
        };
        let answers = exam.tasks.iter().map(of_task).collect::<Option<_>>();
        Ok(answers.map(|answers| Evaluation {
            answers,
            cached: true,
            ..Evaluation::default()
        }))
    }

    /// Journals the answers that it does not hold yet.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn answers(&mut self, id: &str, exam: &Exam, evaluation: &Evaluation) -> Result<(), Error> {
        for (task, (key, answers)) in exam.tasks.iter().zip(&evaluation.answers) {
            let known = self.answered(id)?.entry(name_of(task)).or_default();
            let is_new = |answer: &&event::Answer| !known.answers.contains_key(&answer.q);
            let fresh: Vec<event::Answer> = answers.iter().filter(is_new).cloned().collect();
            if fresh.is_empty() {
                continue;
            }
            known.add(key, &fresh);
            self.answers += fresh.len() as u64;
            self.write(Event::Answers(event::Answers {
                id: id.into(),
                task: task.task.clone(),
                lang: task.lang.clone(),
                split: task.split.clone(),
                key: key.clone(),
                kind: evaluation.kind.clone(),
                answers: fresh,
            }))?;
        }
        Ok(())
    }

    /// What a candidate has answered so far, read from the journal where that has not been done.
    fn answered(&mut self, id: &str) -> Result<&mut HashMap<TaskName, Answered>, Error> {
        let answers = self.past.answers.entry(id.into()).or_default();
        for span in answers.journalled.drain(..) {
            let Event::Answers(event) = self.journal.record_at(span)?.event else {
                continue;
            };
            let task = (event.task, event.lang, event.split);
            answers.read.entry(task).or_default().add(&event.key, &event.answers);
        }
        Ok(&mut answers.read)
    }

    /// The tasks' weights, if they were scaled.
    pub fn past_scale(&self) -> Option<&[f64]> {
        self.past.scale.as_deref()
    }

    /// What a command gave a finalist, if the journal says so.
    pub fn past_scores(&self, id: &str, split: &str) -> Option<Evaluation> {
        let scores = self.past.scores.get(&(id.to_string(), split.to_string()))?;
        Some(Evaluation {
            scores: scores.iter().map(|(name, score)| (name.clone(), *score)).collect(),
            ..Evaluation::default()
        })
    }

    /// Journals what a command gave a finalist.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn scores(&mut self, id: &str, split: &str, evaluation: &Evaluation) -> Result<(), Error> {
        let scores: BTreeMap<String, f64> = evaluation.scores.iter().cloned().collect();
        let (id, split) = (id.to_string(), split.to_string());
        self.past.scores.insert((id.clone(), split.clone()), scores.clone());
        self.write(Event::Scores(event::Scores { id, split, scores }))
    }

    /// A candidate has its score, so nobody asks for these answers again: room for others. Those that the journal has to
    /// later exams have their turn now.
    pub fn forget_answers(&mut self, id: &str) {
        self.past.answers.remove(id);
        if let Some(later) = self.past.later_answers.remove(id) {
            self.past.answers.insert(id.into(), later);
        }
    }

    /// Brings answers that no score follows at once to the disk.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn sync(&mut self) -> Result<(), Error> {
        Ok(self.journal.sync()?)
    }

    /// Answers in the journal.
    pub fn answer_count(&self) -> u64 {
        self.answers
    }

    /// Time worked on this run, by all processes that did.
    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed_before_ms + (self.clock.now_ms)().saturating_sub(self.started_ms)
    }

    /// A moment's rest while the run is paused.
    pub fn wait(&self) {
        (self.clock.sleep)(Duration::from_millis(200));
    }
}

impl Past {
    /// `span`: where the journal has it.
    fn remember(&mut self, event: Event, span: Span) {
        let past = self;
        match event {
            Event::CandidateStarted { id, .. } => {
                past.out.push(id.clone());
                past.steps.push_back(Step::Started(id));
            }
            Event::CandidateScored(candidate) => {
                past.end(&candidate.id);
                let (digest, origin) = (candidate.recipe_digest.clone(), candidate.origin.clone());
                let (id, generation) = (candidate.id.clone(), candidate.generation);
                past.add(id, digest, origin, generation, Ok(Box::new(candidate)));
            }
            // Without a parent there is no run: it ended there, and after repair the parent is asked again.
            Event::CandidateFailed {
                origin: Origin::Parent, ..
            } => {}
            Event::CandidateFailed {
                id,
                origin,
                generation,
                recipe_digest,
                reason,
            } => {
                past.end(&id);
                past.add(id, recipe_digest, origin, generation, Err(reason));
            }
            Event::RunFailed { .. } => past.forget_failures(),
            Event::FinalPlanned(plan) => past.planned = Some(plan),
            Event::ExamStarted(exam) => past.exams.push(exam),
            Event::ExamAnswered(answered) => {
                past.examined.insert((answered.id, answered.phase));
            }
            Event::PhaseStarted { phase } => past.phases.push(phase),
            Event::GenerationEnded(g) => {
                past.generations.insert(g.generation, g.state_digest);
            }
            Event::Learned(learned) => {
                past.learned.insert(learned.id.clone(), learned);
            }
            Event::StageStarted(stage) => {
                past.stages.insert(stage.stage, stage.evals);
            }
            Event::Answers(answers) => {
                past.answer_count += answers.answers.len() as u64;
                let so_far = match past.candidates.contains_key(&answers.id) {
                    true => &mut past.later_answers,
                    false => &mut past.answers,
                };
                so_far.entry(answers.id).or_default().journalled.push(span);
            }
            Event::Scaled { weights } => past.scale = Some(weights),
            Event::Scores(scores) => {
                past.scores.insert((scores.id, scores.split), scores.scores);
            }
            Event::SearchEnded { reason, evals } => past.search_ended = Some((reason, evals)),
            Event::QuestionsCompared(compared) => past.questions = Some(compared),
            Event::QuestionTexts(texts) => {
                past.texts.insert(name_of_texts(&texts), texts.texts.len());
            }
            Event::Selected(selection) => past.selection = Some(selection),
            Event::TestRead(reading) => past.test = Some(reading),
            Event::HeldOutRead(_) => past.held_out = true,
            Event::RunDone { .. } => past.done = true,
            _ => {}
        }
    }

    fn add(
        &mut self,
        id: String,
        digest: String,
        origin: Origin,
        generation: Option<u64>,
        outcome: Result<Box<Candidate>, String>,
    ) {
        let place = self.places;
        self.places += 1;
        self.ahead.insert(place, id.clone());
        let known = Known {
            digest,
            origin,
            generation,
            outcome,
            place,
        };
        if let Some(before) = self.candidates.insert(id, known) {
            self.ahead.remove(&before.place);
        }
    }

    /// A run that failed since every candidate of its search had failed begins its search again: whatever was wrong may
    /// have been mended, and there is nothing to lose.
    fn forget_failures(&mut self) {
        let bred = |known: &&Known| known.origin == Origin::Search;
        let mut outcomes = self
            .candidates
            .values()
            .filter(bred)
            .map(|known| &known.outcome)
            .peekable();
        if outcomes.peek().is_none() || !outcomes.all(Result::is_err) {
            return;
        }
        let stays = |known: &Known| known.outcome.is_ok() && known.generation.is_none() && known.origin != Origin::Mean;
        self.candidates.retain(|_, known| stays(known));
        self.ahead.retain(|_, id| self.candidates.contains_key(id));
        self.answers.retain(|id, _| self.candidates.contains_key(id));
        (self.steps, self.out) = Default::default();
        (self.generations, self.stages) = Default::default();
        self.search_ended = None;
        self.phases.retain(|phase| *phase == Phase::Baselines);
    }

    /// Those whose beginning is not journalled were never out together with others.
    fn end(&mut self, id: &str) {
        if let Some(at) = self.out.iter().position(|out| out == id) {
            self.out.swap_remove(at);
            self.steps.push_back(Step::Ended(id.into()));
        }
    }
}

impl Answered {
    fn add(&mut self, key: &str, answers: &[event::Answer]) {
        self.key = key.into();
        let by_question = answers.iter().map(|a| (a.q.clone(), without_texts(a)));
        self.answers.extend(by_question);
    }
}

/// An answer as far as scores are made of it: what a whole journal's models wrote would not fit in memory.
fn without_texts(answer: &event::Answer) -> event::Answer {
    event::Answer {
        q: answer.q.clone(),
        out: String::new(),
        got: String::new(),
        gold: String::new(),
        finish: answer.finish.clone(),
        ..*answer
    }
}

/// Time between the first and the last line of each process that worked on the run.
#[derive(Default)]
struct Worked {
    before_ms: u64,
    start_ms: Option<u64>,
    last_ms: u64,
}

impl Worked {
    fn see(&mut self, record: &Record) {
        if matches!(record.event, Event::RunStarted(_) | Event::RunResumed { .. }) {
            self.before_ms = self.total_ms();
            self.start_ms = Some(record.time_ms);
        }
        self.last_ms = record.time_ms;
    }

    fn total_ms(&self) -> u64 {
        let now = self.start_ms.map_or(0, |start| self.last_ms.saturating_sub(start));
        self.before_ms + now
    }
}
