//! Where a run's decisions come from: what its journal holds is handed back, all else is found out now and written down.
//!
//! A search is deterministic but for its evaluator and its clock, so going on with a run is running it again from the start.
//! The loop (`mod.rs`, `race.rs`, `crew.rs`, `learning.rs`, `scale.rs`, `finale.rs`, …) knows nothing of that; each of its files
//! says only how a thing is found out. Whatever is decided once in a run passes this file, in one of three ways:
//!
//! * *Asked once*: a candidate's answers by [`Run::sit`], else [`Run::ask`]; a scale, a learned point, the selection, a reading
//!   and the run as a whole by [`Run::once`], which is told how to find it out.
//! * *Decided by the clock*, by hands that are free or by the order in which answers came: [`Run::end_of_search`],
//!   [`Run::is_stage_over`], [`Run::has_time_for`], [`Run::wants_more`] and [`Run::next_done`] are read off what follows in the
//!   journal; when that is used up, off the clock and the crew.
//! * *Written once*: what the chronicle is told here and holds already is not written again, and what contradicts it is an
//!   error. A candidate that the journal has is the journal's.
//!
//! `replay/past.rs` is what the journal holds. No other file looks into it; `tests/it/tidy.rs` sees to that.

mod past;

use std::collections::{BTreeMap, HashMap};

pub(super) use past::Past;

use super::{
    Chronicle, Done, Error, Evaluation, Exam, ExamTask, Interrupt, Plan, Run, guide::AdvicePlace, race::Entrant,
    scale::Scaled,
};
use crate::event::{
    self, Candidate, EndReason, Event, ExamAnswered, ExamStarted, FinalPlan, Generation, HeldOutReading, Level, Phase,
    QuestionTexts, QuestionsCompared, Selection, StageStarted, TestReading,
};
use past::{Answered, Step, TaskName, name_of, name_of_texts};

/// What is found out once in a run.
pub(super) trait Once: Sized {
    /// What tells one from another, where a run has several.
    type Of: ?Sized;

    /// The journal's, if it has one.
    fn of_past(past: &Past, of: &Self::Of) -> Option<Self>;

    /// What stands in the journal from now on.
    fn event(&self) -> Event;
}

/// Asked once.
impl Run<'_, '_> {
    /// The journal's word, else what `find_out` says now, which becomes the journal's.
    pub(super) fn once<T: Once>(
        &mut self,
        of: &T::Of,
        find_out: impl FnOnce(&mut Self) -> Result<T, Interrupt>,
    ) -> Result<T, Interrupt> {
        if let Some(found) = T::of_past(&self.chronicle.past, of) {
            return Ok(found);
        }
        let found = find_out(self)?;
        self.chronicle.write(found.event())?;
        Ok(found)
    }

    /// Answers to an exam, or why there are none: from the journal if it has them, else from whoever is asked, and then into
    /// the journal.
    pub(super) fn sit(&mut self, entrant: &Entrant, exam: &Exam) -> Result<Result<Evaluation, String>, Interrupt> {
        if let Some(known) = self.known(entrant, exam)? {
            known.iter().for_each(|evaluation| self.learn_names(evaluation));
            return Ok(known);
        }
        let asked = self.ask(entrant, exam)?;
        if let Ok(evaluation) = &asked {
            self.chronicle.answers(&entrant.id, exam, evaluation)?;
            if exam.tasks.is_empty() && self.is_scored(&entrant.id) {
                self.chronicle.scores(&entrant.id, &exam.split, evaluation)?;
            }
        }
        Ok(asked)
    }

    /// Whether [`Self::sit`] asks nobody.
    pub(super) fn is_answered(&mut self, entrant: &Entrant, exam: &Exam) -> Result<bool, Interrupt> {
        Ok(self.known(entrant, exam)?.is_some())
    }

    /// What the journal knows of an entrant's exam.
    fn known(&mut self, entrant: &Entrant, exam: &Exam) -> Result<Option<Result<Evaluation, String>>, Interrupt> {
        let id = &entrant.id;
        if !exam.tasks.is_empty()
            && let Some(evaluation) = self.chronicle.past_answers(id, exam)?
        {
            return Ok(Some(Ok(evaluation)));
        }
        if exam.tasks.is_empty() && self.is_scored(id) {
            return Ok(self.chronicle.past.scores_of(id, &exam.split).map(Ok));
        }
        let (_, digest) = entrant.who.record();
        match self.chronicle.past.peek(id, &digest)? {
            Some(Err(reason)) => Ok(Some(Err(reason.clone()))),
            Some(Ok(candidate)) if exam.tasks.is_empty() => {
                let scores = candidate.tasks.iter().map(|t| (t.task.clone(), t.score.value));
                Ok(Some(Ok(Evaluation {
                    scores: scores.collect(),
                    ..Evaluation::default()
                })))
            }
            _ => Ok(None),
        }
    }

    /// Whether a candidate has its score already, and is before a later exam.
    fn is_scored(&self, id: &str) -> bool {
        self.scored.iter().any(|candidate| candidate.id == id)
    }
}

/// Decided by the clock, by free hands or by the order of answers.
impl Run<'_, '_> {
    /// Why the search ends now, while `out` candidates are at work; `None` if it goes on.
    pub(super) fn end_of_search(&mut self, out: usize) -> Result<Option<EndReason>, Interrupt> {
        let past = &self.chronicle.past;
        if let Some(reason) = past.end_of_search(self.evals + out as u64) {
            return Ok(Some(reason));
        }
        if past.only_results_left() {
            // The search had ended, and the line that says why was not written any more.
            return Ok(Some(match self.evals_left() <= out {
                true => EndReason::Evals,
                false if self.plan.budget.duration_ms.is_some() => EndReason::Time,
                false => EndReason::Stopped,
            }));
        }
        match past.is_ahead() {
            true => Ok(None),
            false => self.reason_to_end(out),
        }
    }

    /// Whether the next stage's time has come, while `out` candidates are at work.
    pub(super) fn is_stage_over(&self, out: usize) -> bool {
        let past = &self.chronicle.past;
        let Some(share) = &self.stage_share else {
            return false;
        };
        match past.stages.get(share.next) {
            Some(evals) => self.evals + out as u64 >= *evals,
            None if past.is_ahead() => past.only_results_left(),
            None => self.is_spent(share, out),
        }
    }

    /// Whether another round of learning is made, whose candidate has this id. Candidates are no measure of it, but time is.
    pub(super) fn has_time_for(&mut self, id: &str) -> Result<bool, Interrupt> {
        let past = &self.chronicle.past;
        if past.learned.contains_key(id) {
            return Ok(true);
        }
        match past.is_ahead() {
            true => Ok(false),
            false => self.has_time(),
        }
    }

    /// Whether a language model is asked here: the journal has what it said, or nothing of what came after.
    pub(super) fn asks_for_advice(&self, place: AdvicePlace) -> bool {
        let past = &self.chronicle.past;
        match past.advice.contains_key(&place) {
            true => true,
            false => !past.is_ahead() && past.steps.is_empty() && self.has_patience(),
        }
    }

    /// Whether one more candidate is to be out besides these.
    pub(super) fn wants_more(&mut self, out: usize) -> bool {
        match self.chronicle.past.steps.front() {
            Some(Step::Started(_)) => true,
            Some(Step::Ended(_)) => false,
            None => self.has_free_hands(out),
        }
    }

    /// The place of the candidate that is done next. `None`: nobody is, but somebody may have come who can take more.
    pub(super) fn next_done(&mut self, out: &[(u64, Entrant)]) -> Result<Option<usize>, Interrupt> {
        let Some(journalled) = self.chronicle.past.next_end() else {
            return self.next_back(out);
        };
        let place = out.iter().position(|(_, entrant)| entrant.id == journalled);
        place.map(Some).ok_or_else(|| {
            let now = "other candidates".into();
            let id = journalled.clone();
            Error::Diverged { id, journalled, now }.into()
        })
    }
}

/// Written once.
impl Chronicle<'_> {
    /// Whether answers are told as they arrive. Earlier versions knew nothing else with several hands: their journals say who was
    /// out when. One hand alone makes an asynchronous search too, in which every answer is told as it comes.
    pub(super) fn is_asynchronous(&self, plan: &Plan) -> bool {
        plan.space.search.asynchronous || !self.past.steps.is_empty()
    }

    /// A line in the log, of what is happening for the first time.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(super) fn log(&mut self, level: Level, message: String) -> Result<(), Error> {
        match self.past.is_ahead() {
            true => Ok(()),
            false => self.write(Event::Log { level, message }),
        }
    }

    /// What the comparison of the run's questions found: into the journal, unless it says so already or the run is done.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn questions_compared(&mut self, compared: QuestionsCompared) -> Result<(), Error> {
        if self.past.is_done() || self.past.questions.as_ref() == Some(&compared) {
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
            if !self.past.is_done() && known.unwrap_or_default() < texts.texts.len() {
                self.write(Event::QuestionTexts(texts))?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// The journal cannot be written.
    pub(super) fn phase(&mut self, phase: Phase) -> Result<(), Error> {
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
    pub(super) fn final_planned(&mut self, plan: FinalPlan) -> Result<(), Error> {
        match self.past.planned == Some(plan) {
            true => Ok(()),
            false => self.write(Event::FinalPlanned(plan)),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub(super) fn exam_started(&mut self, exam: ExamStarted) -> Result<(), Error> {
        match self.past.is_under_way(&exam) {
            true => Ok(()),
            false => {
                self.past.exam_started(exam.clone());
                self.write(Event::ExamStarted(exam))
            }
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub(super) fn exam_answered(&mut self, answered: ExamAnswered) -> Result<(), Error> {
        match self.past.examined.insert((answered.id.clone(), answered.phase)) {
            true => self.write(Event::ExamAnswered(answered)),
            false => Ok(()),
        }
    }

    /// # Errors
    /// The journal cannot be written.
    pub(super) fn search_ended(&mut self, reason: EndReason, evals: u64) -> Result<(), Error> {
        if self.past.search_ended.is_some() {
            return Ok(());
        }
        self.write(Event::SearchEnded { reason, evals })
    }

    /// # Errors
    /// The optimizer is not in the state in which it was when the journal was written.
    pub(super) fn generation_ended(&mut self, ended: Generation) -> Result<(), Error> {
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
    pub(super) fn stage_started(&mut self, started: StageStarted) -> Result<(), Error> {
        if self.past.stages.contains_key(&started.stage) {
            return Ok(());
        }
        self.past.stages.insert(started.stage.clone(), started.evals);
        self.write(Event::StageStarted(started))
    }

    /// A candidate was asked for while others are out.
    ///
    /// # Errors
    /// The journal cannot be written, or another candidate follows in it.
    pub(super) fn candidate_started(&mut self, entrant: &Entrant) -> Result<(), Error> {
        match self.past.steps.pop_front() {
            None => self.write(entrant.started()),
            Some(Step::Started(journalled)) if journalled == entrant.id => Ok(()),
            Some(Step::Started(journalled) | Step::Ended(journalled)) => Err(Error::Diverged {
                id: entrant.id.clone(),
                journalled,
                now: entrant.id.clone(),
            }),
        }
    }

    /// A candidate has its score: the journal's, if it has one. Nobody asks for these answers again: room for others.
    ///
    /// # Errors
    /// The journal cannot be written, or has another recipe under this id.
    pub(super) fn candidate_scored(&mut self, scored: Candidate) -> Result<Candidate, Error> {
        let scored = match self.past.take(&scored.id, &scored.recipe_digest)? {
            Some(Ok(known)) => *known,
            _ => {
                self.past.meets(scored.generation);
                self.write(Event::CandidateScored(scored.clone()))?;
                scored
            }
        };
        self.past.forget_answers(&scored.id);
        Ok(scored)
    }

    /// A candidate has failed.
    ///
    /// # Errors
    /// The journal cannot be written, or has another recipe under this id.
    pub(super) fn candidate_failed(&mut self, entrant: &Entrant, reason: &str) -> Result<(), Error> {
        let (_, recipe_digest) = entrant.who.record();
        if self.past.take(&entrant.id, &recipe_digest)?.is_some() {
            return Ok(());
        }
        self.past.meets(entrant.generation);
        self.write(Event::CandidateFailed {
            id: entrant.id.clone(),
            origin: entrant.origin.clone(),
            generation: entrant.generation,
            recipe_digest,
            reason: reason.into(),
        })
    }

    /// Answers in the journal.
    pub(super) fn answer_count(&self) -> u64 {
        self.past.answer_count
    }

    /// Journals the answers that it does not hold yet.
    fn answers(&mut self, id: &str, exam: &Exam, evaluation: &Evaluation) -> Result<(), Error> {
        for (task, (key, answers)) in exam.tasks.iter().zip(&evaluation.answers) {
            let known = self.answered(id)?.entry(name_of(task)).or_default();
            let is_new = |answer: &&event::Answer| !known.answers.contains_key(&answer.q);
            let fresh: Vec<event::Answer> = answers.iter().filter(is_new).cloned().collect();
            if fresh.is_empty() {
                continue;
            }
            known.add(key, &fresh);
            self.past.answer_count += fresh.len() as u64;
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

    /// Journals what a command gave a finalist.
    fn scores(&mut self, id: &str, split: &str, evaluation: &Evaluation) -> Result<(), Error> {
        let scores: BTreeMap<String, f64> = evaluation.scores.iter().cloned().collect();
        let (id, split) = (id.to_string(), split.to_string());
        self.past.scores.insert((id.clone(), split.clone()), scores.clone());
        self.write(Event::Scores(event::Scores { id, split, scores }))
    }

    /// A candidate's answers to an exam, if the journal holds every one.
    fn past_answers(&mut self, id: &str, exam: &Exam) -> Result<Option<Evaluation>, Error> {
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
}

impl Once for event::Learned {
    /// The candidate that it became.
    type Of = str;

    fn of_past(past: &Past, id: &str) -> Option<Self> {
        past.learned.get(id).cloned()
    }

    fn event(&self) -> Event {
        Event::Learned(self.clone())
    }
}

impl Once for event::Advice {
    type Of = AdvicePlace;

    fn of_past(past: &Past, place: &AdvicePlace) -> Option<Self> {
        past.advice.get(place).cloned()
    }

    fn event(&self) -> Event {
        Event::Advised(self.clone())
    }
}

impl Once for Scaled {
    type Of = ();

    fn of_past(past: &Past, (): &()) -> Option<Self> {
        past.scale.clone()
    }

    fn event(&self) -> Event {
        let weights = self.0.clone();
        Event::Scaled { weights }
    }
}

impl Once for Selection {
    type Of = ();

    fn of_past(past: &Past, (): &()) -> Option<Self> {
        past.selection.clone()
    }

    fn event(&self) -> Event {
        Event::Selected(self.clone())
    }
}

impl Once for TestReading {
    type Of = ();

    fn of_past(past: &Past, (): &()) -> Option<Self> {
        past.test.clone()
    }

    fn event(&self) -> Event {
        Event::TestRead(self.clone())
    }
}

impl Once for HeldOutReading {
    type Of = ();

    fn of_past(past: &Past, (): &()) -> Option<Self> {
        past.held_out.clone()
    }

    fn event(&self) -> Event {
        Event::HeldOutRead(self.clone())
    }
}

impl Once for Done {
    type Of = ();

    fn of_past(past: &Past, (): &()) -> Option<Self> {
        past.done.clone()
    }

    fn event(&self) -> Event {
        let Self {
            evals,
            answers,
            elapsed_ms,
        } = *self;
        Event::RunDone {
            evals,
            answers,
            elapsed_ms,
        }
    }
}
