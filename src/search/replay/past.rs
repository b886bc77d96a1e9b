//! What a journal holds of the decisions that were made in its run, folded event by event.
//!
//! Only `replay.rs` looks into it. Answers stay in the journal until somebody asks for them: a night's answers do not fit in
//! memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::super::{Done, Error, Evaluation, ExamTask, guide::AdvicePlace, scale::Scaled};
use crate::{
    event::{
        self, Candidate, CandidateId, EndReason, Event, ExamStarted, FinalPlan, HeldOutReading, Origin, Phase,
        QuestionTexts, QuestionsCompared, Selection, TestReading,
    },
    store::Span,
};

/// What a run's journal holds of what was decided in it.
#[derive(Default)]
pub(in crate::search) struct Past {
    pub(super) candidates: HashMap<String, Known>,
    /// Ids of the candidates that are still to be asked for, by their place in the journal: whoever is asked for has left
    /// those before it behind, which a newer build may never ask for.
    pub(super) ahead: BTreeMap<usize, String>,
    places: usize,
    /// Beginnings and ends of the candidates of which several were out at a time.
    pub(super) steps: VecDeque<Step>,
    out: Vec<String>,
    pub(super) phases: Vec<Phase>,
    pub(super) generations: HashMap<u64, String>,
    /// By candidate.
    pub(super) answers: HashMap<String, Answers>,
    /// Those that came after the candidate's score: to a later exam.
    pub(super) later_answers: HashMap<String, Answers>,
    pub(super) stages: HashMap<String, u64>,
    pub(super) learned: HashMap<String, event::Learned>,
    pub(super) advice: HashMap<AdvicePlace, event::Advice>,
    /// The tasks' weights, where they are scaled.
    pub(super) scale: Option<Scaled>,
    /// A command's scores of finalists, by id and split.
    pub(super) scores: HashMap<(String, String), BTreeMap<String, f64>>,
    pub(super) search_ended: Option<(EndReason, u64)>,
    pub(super) planned: Option<FinalPlan>,
    /// The last of each part of the final.
    exams: HashMap<Phase, ExamStarted>,
    /// Who has answered it.
    pub(super) examined: HashSet<(String, Phase)>,
    pub(super) selection: Option<Selection>,
    pub(super) test: Option<TestReading>,
    pub(super) questions: Option<QuestionsCompared>,
    /// How many questions of each task have their texts in the journal.
    pub(super) texts: HashMap<TaskName, usize>,
    pub(super) held_out: Option<HeldOutReading>,
    pub(super) done: Option<Done>,
    pub(super) answer_count: u64,
}

/// A candidate of the journal.
pub(super) struct Known {
    pub(super) digest: String,
    origin: Origin,
    generation: Option<u64>,
    pub(super) outcome: Result<Box<Candidate>, String>,
    pub(super) place: usize,
}

/// What happened to a candidate while others were out too, by its id.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Started(String),
    Ended(String),
}

/// Task, language and split.
pub(super) type TaskName = (String, String, String);

/// What a candidate answered, as it wrote it: texts teach, and what was taken from them is voted on. A night's answers do not fit in
/// memory, so they stay in the journal until they are asked for, and go when the candidate has its score.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) journalled: Vec<Span>,
    pub(super) read: HashMap<TaskName, Answered>,
}

/// What a candidate answered to one task.
#[derive(Default)]
pub(super) struct Answered {
    pub(super) key: String,
    /// By question id.
    pub(super) answers: HashMap<String, event::Answer>,
}

pub(super) fn name_of(task: &ExamTask) -> TaskName {
    (task.task.clone(), task.lang.clone(), task.split.clone())
}

pub(super) fn name_of_texts(texts: &QuestionTexts) -> TaskName {
    (texts.task.clone(), texts.lang.clone(), texts.split.clone())
}

impl Past {
    /// `span`: where the journal has it.
    pub(in crate::search) fn remember(&mut self, event: Event, span: Span) {
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
            Event::ExamStarted(exam) => past.exam_started(exam),
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
            Event::Advised(advice) => {
                let (generation, part) = (advice.generation, advice.part);
                past.advice.insert(AdvicePlace { generation, part }, advice);
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
            Event::Scaled { weights } => past.scale = Some(Scaled(weights)),
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
            Event::HeldOutRead(reading) => past.held_out = Some(reading),
            Event::RunDone {
                evals,
                answers,
                elapsed_ms,
            } => {
                past.done = Some(Done {
                    evals,
                    answers,
                    elapsed_ms,
                });
            }
            _ => {}
        }
    }

    /// Whether this is what a part of the final asked last.
    pub(super) fn is_under_way(&self, exam: &ExamStarted) -> bool {
        self.exams.get(&exam.phase) == Some(exam)
    }

    /// Others are asked, or other things: whoever has answered before has not answered this.
    pub(super) fn exam_started(&mut self, exam: ExamStarted) {
        self.examined.retain(|(_, phase)| *phase != exam.phase);
        self.exams.insert(exam.phase, exam);
    }

    /// Scores that the journal holds are still to be handed back.
    pub(super) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// All that is still to be handed back are the mean with which a stage ends, and what is learned from there.
    pub(super) fn only_results_left(&self) -> bool {
        self.is_ahead() && self.are_results_ahead()
    }

    /// Nothing but these is still to be handed back, or nothing at all.
    fn are_results_ahead(&self) -> bool {
        let is_result = |id: &String| matches!(id.parse(), Ok(CandidateId::Mean { .. } | CandidateId::Learned(_)));
        self.ahead.values().all(is_result)
    }

    /// Why the search ended, if it did so after this many candidates, or after as many as the journal holds: another build
    /// may count them in another way.
    pub(super) fn end_of_search(&self, evals: u64) -> Option<EndReason> {
        let (reason, at) = self.search_ended?;
        (at == evals || self.are_results_ahead()).then_some(reason)
    }

    pub(in crate::search) fn is_done(&self) -> bool {
        self.done.is_some()
    }

    /// The candidate that ended next, if the journal says so; it is taken off the queue.
    pub(super) fn next_end(&mut self) -> Option<String> {
        match self.steps.pop_front()? {
            Step::Ended(id) => Some(id),
            started @ Step::Started(_) => {
                self.steps.push_front(started);
                None
            }
        }
    }

    /// What became of a candidate, if it was scored before; it stays in the queue.
    ///
    /// # Errors
    /// Under this id the journal has another recipe.
    pub(super) fn peek(&self, id: &str, recipe_digest: &str) -> Result<Option<&Result<Box<Candidate>, String>>, Error> {
        match self.candidates.get(id) {
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
    pub(super) fn take(
        &mut self,
        id: &str,
        recipe_digest: &str,
    ) -> Result<Option<Result<Box<Candidate>, String>>, Error> {
        self.peek(id, recipe_digest)?;
        let Some(known) = self.candidates.remove(id) else {
            return Ok(None);
        };
        self.ahead = self.ahead.split_off(&(known.place + 1));
        Ok(Some(known.outcome))
    }

    /// A candidate that the journal does not know. An optimizer asks in the order of the journal, so it has nobody more to hand
    /// back to it, whatever an older build has asked for besides.
    pub(super) fn meets(&mut self, generation: Option<u64>) {
        if generation.is_some() {
            self.ahead.clear();
        }
    }

    /// What a command gave a finalist, if the journal says so.
    pub(super) fn scores_of(&self, id: &str, split: &str) -> Option<Evaluation> {
        let scores = self.scores.get(&(id.to_string(), split.to_string()))?;
        Some(Evaluation {
            scores: scores.iter().map(|(name, score)| (name.clone(), *score)).collect(),
            ..Evaluation::default()
        })
    }

    /// A candidate has its score, so nobody asks for these answers again. Those that the journal has to later exams have their
    /// turn now.
    pub(super) fn forget_answers(&mut self, id: &str) {
        self.answers.remove(id);
        if let Some(later) = self.later_answers.remove(id) {
            self.answers.insert(id.into(), later);
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
        (self.generations, self.stages, self.advice) = Default::default();
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
    pub(super) fn add(&mut self, key: &str, answers: &[event::Answer]) {
        self.key = key.into();
        self.answers.extend(answers.iter().map(|a| (a.q.clone(), a.clone())));
    }
}
