//! A run as its events tell it: the one fold that the dashboard, the plain lines, the report and `status` share.
//!
//! [`Run::apply`] takes records in order, whether they come from a live feed, a journal, or first one and then the
//! other. Nothing here decides anything, reads a clock or opens a file. Time while no process worked on the run (between
//! a stop or a crash and the next `run_resumed`) does not count as elapsed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::changes::Change;
use super::exam::{Exam, Speed};
use super::freshness::Part;
use super::shrinkage::Prior;
use super::standing;
pub use super::standing::{competes, counts, is_paid};
use super::words::{LOG_LIKELIHOOD, Unit, counted};
use super::{
    Advice, Answer, Answers, Candidate, CandidateId, EndReason, Event, FinalPlan, Finalist, Generation, HeldOutReading,
    Learned, Learning, LearningStep, Level, Model, Origin, Phase, Progress, QuestionTexts, QuestionsCompared, Record,
    RunStarted, Score, Selection, StageStarted, TaskScore, TestReading, Worker, WorkerState, interval,
};

/// Answers are kept for the parents, the baselines and this many of the best children; a night's worth of all of them
/// would not fit in memory, and nobody looks at what the last of the field wrote.
const KEPT_ANSWERS: usize = 48;

/// Log lines kept; older ones are in the journal.
const KEPT_LOG: usize = 5000;

/// How much less sure a comparison on common questions may be than one of the scores as they stand. On the same questions
/// it is about as sure or surer; candidates of a race and parents may have met on a handful.
const MEETING: f64 = 1.5;

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The first line; its tasks' weights and its digests are kept up to date. `None` until it is read.
    pub started: Option<RunStarted>,
    /// What was found when the questions of its parts were compared; none in journals of older builds.
    pub questions: Option<QuestionsCompared>,
    /// What they ask, by task and split; none in journals of older builds.
    pub texts: Vec<QuestionTexts>,
    /// Whether it goes on, and how it ended.
    pub state: State,
    /// What is asked right now, or was last.
    pub phase: Option<Phase>,
    /// One for each id, in order of arrival.
    pub scored: Vec<Scored>,
    /// In order of arrival; an id may stand here twice if it was asked for again.
    pub failed: Vec<Failed>,
    /// In order; one that a resumed run ended a second time stands here once.
    pub generations: Vec<GenerationPoint>,
    /// The stages of the search, in order.
    pub stages: Vec<StageStarted>,
    /// Rounds of learning that are over, in order.
    pub learned: Vec<Learned>,
    /// How many of them were over when the first stage began.
    pub learned_first: usize,
    /// The round that is going on, and its losses so far; live feeds only.
    pub learning: Option<(Learning, Vec<LearningStep>)>,
    /// What the engine does right now; live feeds only.
    pub working: Option<Working>,
    /// Why no more candidates are asked for; `None` while the optimizer goes on.
    pub search_ended: Option<EndReason>,
    /// What the final asks; journals of before it was planned say nothing.
    pub planned: Option<FinalPlan>,
    /// The part of the final that runs, or ran last.
    pub exam: Option<Exam>,
    /// The winner and how it was chosen; `None` before.
    pub selection: Option<Selection>,
    /// What the sealed test says; `None` before. Names the parent that did best in it, in older journals too.
    pub reading: Option<TestReading>,
    /// What the winner and the parents can besides; `None` before, and without such tasks.
    pub held_out: Option<HeldOutReading>,
    /// The last few thousand sentences, oldest first.
    pub log: Vec<LogLine>,
    /// Whoever has worked for the run elsewhere, in the order in which they came.
    pub workers: Vec<SeenWorker>,
    /// Candidates that counted against the budget, failed ones included; see [`is_paid`].
    pub evals: u64,
    /// Questions answered, over all candidates.
    pub answers: u64,
    /// Over all scored candidates.
    pub generated_tokens: u64,
    /// How often a process took it up again.
    pub resumes: usize,
    /// What is another one than when the run began.
    pub changes: Vec<Change>,
    /// The tasks' weights are divided by standard errors.
    pub is_scaled: bool,
    /// How often a language model was asked, and what came of it.
    pub advice: Advised,
    /// Wall clock of the first record.
    pub started_ms: u64,
    /// Wall clock of the last record.
    pub last_ms: u64,
    idle_ms: u64,
    /// Elapsed time as the run itself reported it at its end.
    reported_elapsed_ms: Option<u64>,
    by_id: HashMap<String, usize>,
    by_candidate: BTreeMap<String, Vec<Answers>>,
    best: Option<usize>,
    /// Of the last generation that raced.
    prior: Option<Prior>,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No record yet.
    #[default]
    Waiting,
    /// A process works on it, as far as the journal knows: one that was killed wrote no last line.
    Running,
    /// The final is over.
    Done,
    /// Stopped before it was done; `resume` goes on.
    Stopped(String),
    /// It could not go on, for this reason; `resume` tries again.
    Failed(String),
}

/// A scored candidate and when it arrived.
#[derive(Clone, Debug)]
pub struct Scored {
    /// With the last score that was told of it on the search's questions.
    pub candidate: Candidate,
    /// Wall clock.
    pub time_ms: u64,
    /// Time since the start of the run in which somebody worked on it.
    pub elapsed_ms: u64,
    /// Evaluations counted when it arrived, itself included.
    pub evals: u64,
    /// Which of the run's stages it belongs to.
    pub stage: usize,
    /// Its fitness; in a race drawn to its generation's mean by how little is known of it.
    pub worth: f64,
}

/// A candidate without a score; it ranks last.
#[derive(Clone, Debug)]
pub struct Failed {
    /// As in [`Candidate::id`].
    pub id: String,
    /// Where it came from.
    pub origin: Origin,
    /// As in [`Candidate::generation`].
    pub generation: Option<u64>,
    /// Why, in one sentence.
    pub reason: String,
    /// Wall clock, milliseconds since 1970 (UTC).
    pub time_ms: u64,
}

/// A generation and where on the axes it ended.
#[derive(Clone, Debug)]
pub struct GenerationPoint {
    /// As the journal has it.
    pub generation: Generation,
    /// Evaluations counted when it ended.
    pub evals: u64,
    /// Time since the start of the run in which somebody worked on it.
    pub elapsed_ms: u64,
}

/// The candidate in the engine.
#[derive(Clone, Debug)]
pub struct Working {
    /// As in [`Candidate::id`].
    pub id: String,
    /// Where it came from; `None` where only its progress was told.
    pub origin: Option<Origin>,
    /// As in [`Candidate::generation`].
    pub generation: Option<u64>,
    /// Wall clock when work on it began.
    pub since_ms: u64,
    /// Its last report; `None` before the first, and between two candidates.
    pub progress: Option<Progress>,
    /// Tokens a second at each report, oldest first.
    pub speeds: Vec<f64>,
}

/// A worker, and when it was last heard of.
#[derive(Clone, Debug)]
pub struct SeenWorker {
    /// As it said last.
    pub worker: Worker,
    /// Wall clock.
    pub time_ms: u64,
}

/// A sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Wall clock, milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// The sentence.
    pub message: String,
}

/// Two candidates on the same questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Weighted mean difference, first − second.
    pub difference: f64,
    /// Of the difference, from the pairs' own differences.
    pub stderr: f64,
    /// Questions that both answered, over all tasks.
    pub n: usize,
    /// Two-sided, from the normal distribution of difference ÷ standard error.
    pub p_value: f64,
}

/// How far one candidate is before another, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lead {
    /// First − second, in the fitness's unit.
    pub difference: f64,
    /// Where answers were scored, and not a command.
    pub stderr: Option<f64>,
    /// Two-sided, from the normal distribution of difference ÷ standard error; where answers were scored.
    pub p_value: Option<f64>,
}

/// A question that one candidate got right and the other wrong.
#[derive(Clone, Copy, Debug)]
pub struct Flip<'a> {
    /// As in [`Task::task`](super::Task::task).
    pub task: &'a str,
    /// As in [`Task::lang`](super::Task::lang).
    pub lang: &'a str,
    /// As in [`Task::split`](super::Task::split).
    pub split: &'a str,
    /// What was asked, where the journal says it.
    pub question: Option<&'a str>,
    /// What the winner said.
    pub child: &'a Answer,
    /// What the other one said.
    pub other: &'a Answer,
    /// The child is the one who got it right.
    pub gained: bool,
}

impl Run {
    /// Folds a whole journal.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut run = Self::default();
        for record in records {
            run.apply(record);
        }
        run
    }

    /// Takes one record in.
    pub fn apply(&mut self, record: &Record) {
        if self.started_ms == 0 {
            self.started_ms = record.time_ms;
        }
        if let Event::RunResumed { .. } = record.event {
            self.idle_ms += record.time_ms.saturating_sub(self.last_ms);
        }
        self.last_ms = self.last_ms.max(record.time_ms);
        if self.state == State::Waiting {
            self.state = State::Running;
        }
        self.apply_event(record);
    }

    fn apply_event(&mut self, record: &Record) {
        match &record.event {
            Event::RunStarted(started) => self.started = Some(started.clone()),
            Event::RunChanged { changes } => {
                if let Some(started) = &mut self.started {
                    started.accept(changes);
                }
                self.changes.extend(changes.iter().cloned());
            }
            Event::RunResumed { .. } => {
                self.resumes += 1;
                self.forget_failures();
                self.state = State::Running;
                self.reported_elapsed_ms = None;
            }
            Event::QuestionsCompared(compared) => {
                let before = self.questions.take().unwrap_or_default();
                self.questions = Some(before.and(compared));
            }
            Event::QuestionTexts(texts) => {
                self.texts
                    .retain(|known| !known.is_of(&texts.task, &texts.lang, &texts.split));
                self.texts.push(texts.clone());
            }
            Event::PhaseStarted { phase } => {
                self.phase = Some(*phase);
                self.working = None;
            }
            Event::CandidateStarted { id, origin, generation } => self.begin(record, id, Some(origin), *generation),
            Event::Progress(progress) => self.progress(record, progress),
            Event::Learning(learning) => self.learn(learning),
            Event::Learned(learned) => {
                self.learning = None;
                self.learned.push(learned.clone());
            }
            Event::StageStarted(stage) => {
                if self.stages.is_empty() {
                    self.learned_first = self.learned.len();
                }
                self.stages.push(stage.clone());
            }
            Event::Answers(answers) => self.keep_answers(answers),
            Event::CandidateScored(candidate) => self.score(record, candidate),
            Event::FinalPlanned(plan) => self.planned = Some(*plan),
            Event::ExamStarted(started) => self.exam = Some(Exam::new(started)),
            Event::ExamAnswered(answered) => {
                self.finish_working(&answered.id);
                self.exam.iter_mut().for_each(|exam| exam.end(answered));
            }
            Event::CandidateFailed {
                id,
                origin,
                generation,
                reason,
                ..
            } => {
                self.evals += u64::from(is_paid(origin));
                self.finish_working(id);
                self.failed.push(Failed {
                    id: id.clone(),
                    origin: origin.clone(),
                    generation: *generation,
                    reason: reason.clone(),
                    time_ms: record.time_ms,
                });
            }
            Event::GenerationEnded(generation) => {
                let point = GenerationPoint {
                    generation: generation.clone(),
                    evals: self.evals,
                    elapsed_ms: self.elapsed_at(record.time_ms),
                };
                // A resumed run may end its interrupted generation a second time.
                self.generations
                    .retain(|g| g.generation.generation != generation.generation);
                self.generations.push(point);
                if generation.block.is_some() {
                    self.weigh(generation.generation);
                }
            }
            Event::SearchEnded { reason, evals } => {
                self.search_ended = Some(*reason);
                self.evals = *evals;
            }
            Event::Scaled { weights } => {
                let tasks = self.started.iter_mut().flat_map(|started| &mut started.tasks);
                tasks.zip(weights).for_each(|(task, weight)| task.weight = *weight);
                self.is_scaled = true;
            }
            Event::Advised(advice) => self.advice.count(advice),
            // Told together when all are known.
            Event::Scores(_) => {}
            Event::Selected(selection) => self.selection = Some(selection.clone()),
            Event::TestRead(reading) => {
                let is_parent = |id: &str| self.candidate(id).is_some_and(|c| c.origin == Origin::Parent);
                self.reading = Some(reading.clone().with_best_parent(is_parent));
            }
            Event::HeldOutRead(reading) => self.held_out = Some(reading.clone()),
            Event::Worker(worker) => self.hear_of(record.time_ms, worker),
            Event::RunStopped { reason } => self.end(State::Stopped(reason.clone())),
            Event::RunDone {
                evals,
                answers,
                elapsed_ms,
            } => {
                self.end(State::Done);
                self.evals = *evals;
                self.answers = *answers;
                self.reported_elapsed_ms = Some(*elapsed_ms);
            }
            Event::RunFailed { reason } => self.end(State::Failed(reason.clone())),
            Event::Log { level, message } => self.note(record.time_ms, *level, message.clone()),
        }
    }

    /// Adds a line to the log.
    pub fn note(&mut self, time_ms: u64, level: Level, message: String) {
        if self.log.len() >= KEPT_LOG {
            self.log.drain(..KEPT_LOG / 10);
        }
        self.log.push(LogLine {
            time_ms,
            level,
            message,
        });
    }

    fn hear_of(&mut self, time_ms: u64, worker: &Worker) {
        let seen = SeenWorker {
            worker: worker.clone(),
            time_ms,
        };
        match self
            .workers
            .iter_mut()
            .find(|known| known.worker.worker == worker.worker)
        {
            Some(known) => *known = seen,
            None => self.workers.push(seen),
        }
    }

    /// Workers that are there, as far as is known.
    pub fn hands(&self) -> impl Iterator<Item = &SeenWorker> {
        let is_there = |seen: &&SeenWorker| matches!(seen.worker.state, WorkerState::Idle | WorkerState::Working);
        self.workers.iter().filter(is_there)
    }

    fn learn(&mut self, learning: &Learning) {
        self.working = None;
        let mut curve = match self.learning.take() {
            Some((before, curve)) if before.id == learning.id => curve,
            _ => Vec::new(),
        };
        curve.push(learning.point.clone());
        self.learning = Some((learning.clone(), curve));
    }

    fn end(&mut self, state: State) {
        self.state = state;
        self.working = None;
        self.workers.iter_mut().for_each(|seen| seen.worker.doing = None);
        self.learning = None;
    }

    /// A search of which everything failed asks for all of it again.
    fn forget_failures(&mut self) {
        let bred = |origin: &Origin| *origin == Origin::Search;
        let has_failed = matches!(self.state, State::Failed(_)) && self.failed.iter().any(|f| bred(&f.origin));
        if !has_failed || self.scored.iter().any(|s| bred(&s.candidate.origin)) {
            return;
        }
        self.failed.clear();
        self.generations.clear();
        self.stages.clear();
        self.search_ended = None;
        let paid = self.scored.iter().filter(|s| is_paid(&s.candidate.origin));
        self.evals = paid.filter(|s| s.candidate.generation.is_none()).count() as u64;
    }

    /// Milliseconds that the final takes from here, at the speed of the search; `None` where nothing is known of it.
    pub fn final_left_ms(&self) -> Option<f64> {
        let scored = || self.scored.iter().map(|s| &s.candidate);
        let of = |origin: Origin| scored().filter(|c| c.origin == origin).count();
        let speed = match self.is_scored_by_command() {
            true => Speed::of_command(self.elapsed_at(self.last_ms), self.scored.len())?,
            false => Speed::of(scored())?,
        };
        let plan = self.planned?;
        Some(plan.left_ms(speed, of(Origin::Parent), of(Origin::Baseline), self.exam.as_ref()))
    }

    fn begin(&mut self, record: &Record, id: &str, origin: Option<&Origin>, generation: Option<u64>) {
        let speeds = self.working.take().map(|w| w.speeds).unwrap_or_default();
        self.working = Some(Working {
            id: id.to_owned(),
            origin: origin.cloned(),
            generation,
            since_ms: record.time_ms,
            progress: None,
            speeds,
        });
    }

    fn progress(&mut self, record: &Record, progress: &Progress) {
        self.exam.iter_mut().for_each(|exam| exam.progress(progress));
        if self.working.as_ref().is_none_or(|w| w.id != progress.id) {
            self.begin(record, &progress.id, None, None);
        }
        if let Some(working) = &mut self.working {
            if progress.tokens_per_s.is_finite() && progress.tokens_per_s > 0.0 {
                working.speeds.push(progress.tokens_per_s);
                if working.speeds.len() > 240 {
                    working.speeds.drain(..120);
                }
            }
            working.progress = Some(progress.clone());
        }
    }

    /// Leaves the speeds, so that the sparkline does not start over with every candidate.
    fn finish_working(&mut self, id: &str) {
        if let Some(working) = self.working.as_mut().filter(|w| w.id == id) {
            working.progress = None;
            working.origin = None;
        }
    }

    fn keep_answers(&mut self, answers: &Answers) {
        self.answers += answers.answers.len() as u64;
        if let Some(exam) = &mut self.exam {
            exam.add(&answers.id, answers.answers.len());
        }
        let kept = self.by_candidate.entry(answers.id.clone()).or_default();
        let same = |a: &&mut Answers| (&a.task, &a.lang, &a.split) == (&answers.task, &answers.lang, &answers.split);
        let Some(before) = kept.iter_mut().find(same) else {
            return kept.push(answers.clone());
        };
        // A candidate may be asked several times; each time adds to what stands here, or says it again.
        let again: HashSet<&str> = answers.answers.iter().map(|a| a.q.as_str()).collect();
        before.answers.retain(|a| !again.contains(a.q.as_str()));
        before.answers.extend(answers.answers.iter().cloned());
        before.key.clone_from(&answers.key);
    }

    fn score(&mut self, record: &Record, candidate: &Candidate) {
        self.finish_working(&candidate.id);
        // Scores of the final are told by `selected` and `test_read`; the board stays the search's.
        if matches!(self.phase, Some(Phase::Selection | Phase::Test | Phase::HeldOut))
            && self.by_id.contains_key(&candidate.id)
        {
            return;
        }
        self.generated_tokens = self.generated_tokens.saturating_add(candidate.generated_tokens);
        let elapsed_ms = self.elapsed_at(record.time_ms);
        let stage = self.stages.len().saturating_sub(1);
        let worth = self.worth_of(candidate);
        let index = match self.by_id.get(&candidate.id) {
            Some(&index) => {
                let evals = self.scored[index].evals;
                self.scored[index] = Scored {
                    candidate: candidate.clone(),
                    time_ms: record.time_ms,
                    elapsed_ms,
                    evals,
                    stage,
                    worth,
                };
                index
            }
            None => {
                self.evals += standing::cost(candidate, self.scored.iter().map(|s| &s.candidate));
                self.scored.push(Scored {
                    candidate: candidate.clone(),
                    time_ms: record.time_ms,
                    elapsed_ms,
                    evals: self.evals,
                    stage,
                    worth,
                });
                self.by_id.insert(candidate.id.clone(), self.scored.len() - 1);
                self.scored.len() - 1
            }
        };
        if competes(candidate) && self.best().is_none_or(|b| b.worth < worth) {
            self.best = Some(index);
        }
        self.drop_answers_of_the_last();
    }

    /// What a candidate's score is worth as long as nothing is known of its own generation.
    pub fn worth_of(&self, candidate: &Candidate) -> f64 {
        match self.prior.filter(|_| candidate.generation.is_some()) {
            Some(prior) => standing::worth(candidate, &prior),
            None => candidate.fitness,
        }
    }

    /// Whether some scores are drawn to the mean before they are compared.
    pub fn allows_for_luck(&self) -> bool {
        self.prior.is_some()
    }

    /// A generation's race is over, and with the first one that of the random draws: the luckiest of few questions are
    /// drawn to the mean.
    fn weigh(&mut self, generation: u64) {
        let is_first = self.prior.is_none();
        let mut weigh = |is_meant: &dyn Fn(&Candidate) -> bool| {
            let of_race = self.scored.iter_mut().filter(|s| is_meant(&s.candidate));
            self.prior = standing::weigh(of_race.map(|s| (&s.candidate, &mut s.worth))).or(self.prior);
        };
        if is_first {
            weigh(&|c| c.origin == Origin::Random && c.generation.is_none());
        }
        weigh(&|c| c.generation == Some(generation));
        self.best = standing::best(self.scored.iter().map(|s| (&s.candidate, s.worth)));
    }

    /// Keeps memory bounded; runs only when twice the number to keep has gathered.
    fn drop_answers_of_the_last(&mut self) {
        if self.by_candidate.len() <= 2 * KEPT_ANSWERS {
            return;
        }
        let mut children: Vec<(&str, f64)> = self
            .by_candidate
            .keys()
            .filter_map(|id| self.candidate(id))
            .filter(|c| counts(&c.origin))
            .map(|c| (c.id.as_str(), c.fitness))
            .collect();
        children.sort_by(|a, b| b.1.total_cmp(&a.1));
        let last: BTreeSet<String> = children
            .iter()
            .skip(KEPT_ANSWERS)
            .map(|(id, _)| (*id).to_owned())
            .collect();
        self.by_candidate.retain(|id, _| !last.contains(id));
    }

    /// Working time from the start of the run to a moment.
    pub fn elapsed_at(&self, time_ms: u64) -> u64 {
        time_ms.saturating_sub(self.started_ms).saturating_sub(self.idle_ms)
    }

    /// Working time so far; `now_ms` matters only while the run goes on.
    pub fn elapsed(&self, now_ms: u64) -> u64 {
        match self.state {
            State::Running => self.elapsed_at(now_ms.max(self.last_ms)),
            _ => self
                .reported_elapsed_ms
                .unwrap_or_else(|| self.elapsed_at(self.last_ms)),
        }
    }

    /// How the fitness is written; [`Unit::Raw`] before the run has begun.
    pub fn unit(&self) -> Unit {
        self.started.as_ref().map(Unit::of_fitness).unwrap_or_default()
    }

    /// How a task's scores are written, held-out tasks included; [`Unit::Raw`] of one that is unknown.
    pub fn task_unit(&self, task: &str, lang: &str) -> Unit {
        let held_out = self.held_out.iter().flat_map(|r| &r.tasks);
        match held_out.into_iter().find(|t| t.task == task && t.lang == lang) {
            Some(task) => Unit::of_metric(&task.metric),
            None => self
                .started
                .as_ref()
                .map(|s| Unit::of_task(s, task, lang))
                .unwrap_or_default(),
        }
    }

    /// The 95 % interval of a score over all tasks of the fitness, from those of its tasks.
    pub fn interval_95(&self, score: &Score, tasks: &[TaskScore]) -> (f64, f64) {
        let weight = |of: &TaskScore| {
            let mut all = self.started.iter().flat_map(|s| &s.tasks);
            Some(all.find(|t| t.task == of.task && t.lang == of.lang)?.weight)
        };
        let weights: Option<Vec<f64>> = tasks.iter().map(weight).collect();
        let Some(weights) = weights.filter(|w| w.len() > 1 && w.iter().sum::<f64>() > 0.0) else {
            return self.unit().interval_95(score);
        };
        let total: f64 = weights.iter().sum();
        let part = |(task, weight): (&TaskScore, f64)| {
            let own = self.task_unit(&task.task, &task.lang).interval_95(&task.score);
            (weight / total, task.score.value, own)
        };
        interval::sum(&tasks.iter().zip(weights).map(part).collect::<Vec<_>>())
    }

    /// The base's id, where the run has one.
    pub fn base_id(&self) -> Option<String> {
        let base = self.started.as_ref()?.models.iter().find(|m| m.is_base)?;
        Some(CandidateId::Parent(base.name.clone()).to_string())
    }

    /// The names of a candidate's genes: each stage of a search has its own.
    pub fn genes_of(&self, scored: &Scored) -> &[String] {
        match self.stages.get(scored.stage) {
            Some(stage) => &stage.genes,
            None => self.started.as_ref().map_or(&[], |s| &s.genes),
        }
    }

    /// A candidate and when it arrived; `None` before it is scored, and for ever if it fails.
    pub fn scored(&self, id: &str) -> Option<&Scored> {
        self.by_id.get(id).map(|&i| &self.scored[i])
    }

    /// As [`Self::scored`], without the times.
    pub fn candidate(&self, id: &str) -> Option<&Candidate> {
        self.scored(id).map(|s| &s.candidate)
    }

    /// The candidate of most worth that is not a parent, on the search questions: the fittest, where all answer the same.
    pub fn best(&self) -> Option<&Scored> {
        self.best.map(|i| &self.scored[i])
    }

    /// Who won: the winner of the selection once there is one, the best so far until then.
    pub fn winner(&self) -> Option<&Candidate> {
        let selected = self.selection.as_ref().and_then(|s| self.candidate(&s.best));
        selected.or_else(|| self.best().map(|b| &b.candidate))
    }

    /// A candidate's score by the last who asked before any test: the selection, where there was one; `None` of whom that has not
    /// asked.
    pub fn score_before_test(&self, candidate: &Candidate) -> Option<Score> {
        match &self.selection {
            None => Some(candidate.search_score()),
            Some(selection) => {
                let finalist = selection.finalists.iter().find(|f| f.id == candidate.id)?;
                Some(finalist.fresh)
            }
        }
    }

    /// All scored candidates of one origin, in order of arrival.
    pub fn of_origin(&self, origin: Origin) -> impl Iterator<Item = &Candidate> {
        self.scored
            .iter()
            .map(|s| &s.candidate)
            .filter(move |c| c.origin == origin)
    }

    /// The parent that did best: in the test, in the selection, or else on the search questions.
    pub fn best_parent(&self) -> Option<&Candidate> {
        let in_test = self.reading.as_ref().map(|reading| reading.best_parent.id.as_str());
        let told = in_test.or_else(|| Some(self.selection.as_ref()?.best_parent.as_str()));
        let told = told.and_then(|id| self.candidate(id));
        told.or_else(|| self.fittest_parent())
    }

    /// The fittest parent, on the search questions.
    fn fittest_parent(&self) -> Option<&Candidate> {
        self.of_origin(Origin::Parent)
            .reduce(|a, b| if b.fitness > a.fitness { b } else { a })
    }

    /// The fittest merge that nobody searched for, on the search questions.
    pub fn best_unsearched(&self) -> Option<&Candidate> {
        self.of_origin(Origin::Baseline)
            .reduce(|a, b| if b.fitness > a.fitness { b } else { a })
    }

    /// Scored candidates, best first by what their fitness is worth; of equals the earlier first. Those who left their race
    /// early come last.
    pub fn ranking(&self) -> Vec<&Scored> {
        let mut ranking: Vec<&Scored> = self.scored.iter().collect();
        let place = |s: &Scored| (s.candidate.eliminated, s.worth);
        ranking.sort_by(|a, b| {
            let ((out_a, a), (out_b, b)) = (place(a), place(b));
            out_a.cmp(&out_b).then(b.total_cmp(&a))
        });
        ranking
    }

    /// Whether the fitness adds accuracies and log-likelihoods as they are.
    pub fn mixes_kinds(&self) -> bool {
        let tasks = self.started.iter().flat_map(|started| &started.tasks);
        let (likelihoods, others): (Vec<_>, Vec<_>) = tasks.partition(|task| task.metric == LOG_LIKELIHOOD);
        !self.is_scaled && !likelihoods.is_empty() && !others.is_empty()
    }

    /// What a candidate said, by task and split; empty where that was not kept, which is so of all but the best few.
    pub fn answers_of(&self, id: &str) -> &[Answers] {
        self.by_candidate.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The weighted mean difference of two candidates on the search questions that both answered, or nothing where their
    /// answers are not at hand.
    ///
    /// **Source**: paired differences, standard error = sample standard deviation ÷ √n per task, added in quadrature
    /// with the tasks' weights.
    pub fn paired(&self, a: &str, b: &str) -> Option<Paired> {
        let tasks = &self.started.as_ref()?.tasks;
        let (mut sum, mut variance, mut weights, mut n) = (0.0, 0.0, 0.0, 0);
        for task in tasks {
            let find = |id| {
                self.answers_of(id)
                    .iter()
                    .find(|x| (&x.task, &x.lang, &x.split) == (&task.task, &task.lang, &task.split))
            };
            let differences: Vec<f64> = pairs(find(a)?, find(b)?).map(|(x, y)| x.score - y.score).collect();
            if differences.len() < 2 {
                return None;
            }
            let (mean, stderr) = mean_and_stderr(&differences);
            sum += task.weight * mean;
            variance += (task.weight * stderr).powi(2);
            weights += task.weight;
            n += differences.len();
        }
        if weights <= 0.0 {
            return None;
        }
        let (difference, stderr) = (sum / weights, variance.sqrt() / weights);
        Some(Paired {
            difference,
            stderr,
            n,
            p_value: two_sided(difference, stderr),
        })
    }

    /// By how much one candidate leads another on the search's questions: on those that both answered, unless these are
    /// so few that the two scores say far more.
    pub fn lead(&self, a: &Candidate, b: &Candidate) -> Lead {
        let apart = lead_of(a.fitness, a.stderr, b.fitness, b.stderr);
        match self.paired(&a.id, &b.id) {
            Some(paired) if apart.stderr.is_none_or(|apart| paired.stderr < MEETING * apart) => Lead {
                difference: paired.difference,
                stderr: Some(paired.stderr),
                p_value: Some(paired.p_value),
            },
            _ => apart,
        }
    }

    /// The winner on the selection questions and its lead there over the best of the parents and of the merges that nobody
    /// searched for, once it is chosen. An unsearched winner is measured by the parents.
    pub fn lead_in_selection(&self) -> Option<(&Finalist, &Finalist, Lead)> {
        let selection = self.selection.as_ref()?;
        let best = selection.finalists.iter().find(|f| f.id == selection.best)?;
        let is_rival = |f: &&Finalist| match f.origin {
            Origin::Parent => f.id != best.id,
            Origin::Baseline => best.origin != Origin::Baseline,
            _ => false,
        };
        let rivals = selection.finalists.iter().filter(is_rival);
        let rival = rivals.max_by(|a, b| a.fresh.value.total_cmp(&b.fresh.value))?;
        // They answered the same questions, which these two scores alone do not tell apart.
        let lead = Lead {
            difference: best.fresh.value - rival.fresh.value,
            stderr: None,
            p_value: None,
        };
        Some((best, rival, lead))
    }

    /// Questions of right-or-wrong tasks on which two candidates differ, in journal order.
    pub fn flips<'a>(&'a self, child: &str, other: &str) -> Vec<Flip<'a>> {
        let mut flips = Vec::new();
        for mine in self.answers_of(child) {
            if self.task_unit(&mine.task, &mine.lang) != Unit::Percent {
                continue;
            }
            let same = |x: &&Answers| (&x.task, &x.lang, &x.split) == (&mine.task, &mine.lang, &mine.split);
            let Some(theirs) = self.answers_of(other).iter().find(same) else {
                continue;
            };
            for (child, other) in pairs(mine, theirs) {
                let gained = child.score >= 0.5;
                if gained != (other.score >= 0.5) {
                    let (task, lang, split) = (&*mine.task, &*mine.lang, &*mine.split);
                    flips.push(Flip {
                        task,
                        lang,
                        split,
                        question: self.question(task, lang, split, &child.q),
                        child,
                        other,
                        gained,
                    });
                }
            }
        }
        flips
    }

    /// What a question asks, by its id.
    pub fn question(&self, task: &str, lang: &str, split: &str, id: &str) -> Option<&str> {
        let texts = self.texts.iter().find(|texts| texts.is_of(task, lang, split))?;
        texts.texts.get(id).map(String::as_str)
    }

    /// A model of the run by its short name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.started.as_ref()?.models.iter().find(|m| m.name == name)
    }

    /// Whether a command of the user's scores candidates: its scores carry no standard error, and it keeps its questions
    /// to itself.
    pub fn is_scored_by_command(&self) -> bool {
        self.started.as_ref().is_some_and(|s| s.tasks.is_empty())
    }

    /// How many questions so many answers of a part are to: of those that two tasks ask each once.
    pub fn distinct(&self, part: Part, n: usize) -> usize {
        self.questions.as_ref().map_or(n, |compared| compared.distinct(part, n))
    }

    /// Whether a task is scored by likelihood.
    pub fn is_likelihood(&self, task: &str, lang: &str) -> bool {
        let tasks = self.started.iter().flat_map(|s| &s.tasks);
        tasks
            .into_iter()
            .any(|t| t.task == task && t.lang == lang && t.metric == LOG_LIKELIHOOD)
    }
}

/// Of two scores whose questions have nothing to do with each other; the same questions would only make it surer.
fn lead_of(a: f64, a_stderr: f64, b: f64, b_stderr: f64) -> Lead {
    let (difference, stderr) = (a - b, a_stderr.hypot(b_stderr));
    Lead {
        difference,
        stderr: (stderr > 0.0).then_some(stderr),
        p_value: (stderr > 0.0).then(|| two_sided(difference, stderr)),
    }
}

fn two_sided(difference: f64, stderr: f64) -> f64 {
    match stderr > 0.0 {
        true => libm::erfc((difference / stderr).abs() / std::f64::consts::SQRT_2),
        false => f64::from(difference == 0.0),
    }
}

/// What came of asking a language model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advised {
    /// Questions put to it.
    pub asked: usize,
    /// Replies that were no point of the space.
    pub refused: usize,
    /// Questions without a reply.
    pub unanswered: usize,
}

impl Advised {
    fn count(&mut self, advice: &Advice) {
        self.asked += 1;
        match &advice.reply {
            None => self.unanswered += 1,
            Some(_) => self.refused += usize::from(advice.refused.is_some()),
        }
    }

    /// `None` where nobody was asked.
    pub fn in_words(&self) -> Option<String> {
        let taken = self.asked - self.refused - self.unanswered;
        (self.asked > 0).then(|| {
            format!(
                "{} asked of a language model: {taken} replies taken, {} refused, {} without a reply",
                counted(self.asked, "question"),
                self.refused,
                self.unanswered
            )
        })
    }
}

/// An origin in words.
pub fn origin_name(origin: &Origin) -> &'static str {
    match origin {
        Origin::Parent => "parent",
        Origin::Baseline => "baseline",
        Origin::WarmStart => "warm start",
        Origin::Random => "random",
        Origin::Search => "search",
        Origin::Mean => "mean",
        Origin::Learned => "learned",
        Origin::Guided => "guided",
    }
}

/// Answers to the same question, in the first one's order.
fn pairs<'a>(a: &'a Answers, b: &'a Answers) -> impl Iterator<Item = (&'a Answer, &'a Answer)> {
    let by_question: HashMap<&str, &Answer> = b.answers.iter().map(|x| (x.q.as_str(), x)).collect();
    a.answers
        .iter()
        .filter_map(move |x| by_question.get(x.q.as_str()).map(|&y| (x, y)))
}

fn mean_and_stderr(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    fn answers(id: &str, scores: &[f64]) -> Event {
        let answer = |(i, score): (usize, &f64)| Answer {
            q: format!("t/search/{i}"),
            out: String::new(),
            got: String::new(),
            gold: String::new(),
            score: *score,
            finish: "eos".into(),
            language_ok: true,
            tokens: 1,
        };
        Event::Answers(Answers {
            id: id.into(),
            task: "evals/arith-es.yaml".into(),
            lang: "es".into(),
            split: "search".into(),
            kind: String::new(),
            key: String::new(),
            answers: scores.iter().enumerate().map(answer).collect(),
        })
    }

    /// A run with one task and the given events after its start, a second apart.
    fn run_of(events: Vec<Event>) -> Run {
        let mut first = rehearsal::journal().swap_remove(0);
        if let Event::RunStarted(started) = &mut first.event {
            started.tasks.truncate(1);
        }
        let mut run = Run::default();
        run.apply(&first);
        for (i, event) in (1..).zip(events) {
            let time_ms = first.time_ms + 1000 * i;
            run.apply(&Record {
                seq: i,
                time_ms,
                event,
                ..first.clone()
            });
        }
        run
    }

    /// A journal that somebody had changed: the sum of its tokens went beyond all numbers, a panic.
    #[test]
    fn tokens_beyond_counting_are_counted_as_far_as_it_goes() {
        let records = rehearsal::journal();
        let scored = records.iter().filter_map(|record| match &record.event {
            Event::CandidateScored(candidate) => Some(candidate.clone()),
            _ => None,
        });
        let claimed = scored.take(2).map(|mut candidate| {
            candidate.generated_tokens = u64::MAX;
            Event::CandidateScored(candidate)
        });
        assert_eq!(run_of(claimed.collect()).generated_tokens, u64::MAX);
    }

    fn scored(id: &str, fitness: f64) -> Event {
        let Event::CandidateScored(mut candidate) = rehearsal::stopped().swap_remove(10).event else {
            panic!("the tenth record of the rehearsal is a score");
        };
        (candidate.id, candidate.fitness) = (id.into(), fitness);
        Event::CandidateScored(candidate)
    }

    fn raced(id: &str, generation: u64, fitness: f64, stderr: f64) -> Event {
        let Event::CandidateScored(mut candidate) = scored(id, fitness) else {
            panic!("a score");
        };
        (candidate.generation, candidate.stderr, candidate.origin) = (Some(generation), stderr, Origin::Search);
        Event::CandidateScored(candidate)
    }

    fn generation_ended(generation: u64, block: Option<usize>) -> Event {
        Event::GenerationEnded(Generation {
            generation,
            best: 0.0,
            upper_quartile: 0.0,
            median: 0.0,
            lower_quartile: 0.0,
            failed: 0,
            sigma: None,
            block,
            tau: None,
            split_half: None,
            state_digest: String::new(),
        })
    }

    /// In a race the luckiest of few questions does not stand as the best for the rest of the night.
    #[test]
    fn in_a_race_the_best_is_who_is_worth_most() {
        let story = |block| {
            vec![
                raced("lucky", 1, 0.74, 0.1),
                raced("known", 1, 0.70, 0.02),
                raced("c3", 1, 0.60, 0.1),
                generation_ended(1, block),
                raced("c4", 2, 0.72, 0.1),
            ]
        };
        let best = |run: &Run| run.best().unwrap().candidate.id.clone();
        assert_eq!(best(&run_of(story(Some(96)))), "known");
        assert_eq!(best(&run_of(story(None))), "lucky");
        assert_eq!(
            best(&run_of(story(Some(96))[..2].to_vec())),
            "lucky",
            "nothing is known of the generation yet"
        );
    }

    #[test]
    fn a_lead_is_told_by_what_is_known_best() {
        let run = run_of(vec![
            answers("a", &[1.0, 1.0, 0.0]),
            answers("b", &[0.0, 1.0, 1.0]),
            raced("a", 1, 0.8, 0.03),
            raced("b", 1, 0.4, 0.04),
        ]);
        let (a, b) = (run.candidate("a").unwrap(), run.candidate("b").unwrap());
        // They met on three questions, which know nothing; their scores do.
        let lead = run.lead(a, b);
        assert!((lead.difference - 0.4).abs() < 1e-12 && (lead.stderr.unwrap() - 0.05).abs() < 1e-12);
        assert!(lead.p_value.unwrap() < 1e-10);
        let (unsure, other) = (
            Candidate {
                stderr: 0.6,
                ..a.clone()
            },
            Candidate {
                stderr: 0.6,
                ..b.clone()
            },
        );
        assert_eq!(run.lead(&unsure, &other).difference, 0.0);
        // A command's scores have no error.
        let (sure, other) = (
            Candidate {
                id: "x".into(),
                stderr: 0.0,
                ..a.clone()
            },
            Candidate {
                stderr: 0.0,
                ..b.clone()
            },
        );
        assert_eq!(
            (run.lead(&sure, &other).stderr, run.lead(&sure, &other).p_value),
            (None, None)
        );
    }

    #[test]
    fn pairs_are_compared_question_by_question() {
        let run = run_of(vec![
            answers("a", &[1.0, 1.0, 1.0, 0.0]),
            answers("b", &[0.0, 1.0, 0.0, 0.0]),
        ]);
        let paired = run.paired("a", "b").unwrap();
        // Differences 1, 0, 1, 0: mean 1/2, sample variance 1/3, standard error √(1/3 ÷ 4).
        assert_eq!(paired.difference, 0.5);
        assert!((paired.stderr - (1.0_f64 / 12.0).sqrt()).abs() < 1e-12);
        // z = √3: two-sided p = 0.0833.
        assert!((paired.p_value - 0.0833).abs() < 1e-4);
        assert_eq!(run.paired("a", "a").unwrap().p_value, 1.0);
        assert_eq!(run.paired("a", "nobody"), None);
        let one = run_of(vec![answers("a", &[1.0]), answers("b", &[0.0])]);
        assert_eq!(one.paired("a", "b"), None, "one question has no standard error");
    }

    #[test]
    fn answers_that_come_in_pieces_add_up() {
        let piece = |scores: &[f64], from: usize| {
            let Event::Answers(mut answers) = answers("a", scores) else {
                unreachable!()
            };
            for (i, answer) in answers.answers.iter_mut().enumerate() {
                answer.q = format!("t/search/{}", from + i);
            }
            Event::Answers(answers)
        };
        let run = run_of(vec![piece(&[1.0, 0.0], 0), piece(&[1.0, 1.0], 1)]);
        let scores: Vec<(&str, f64)> = run.answers_of("a")[0]
            .answers
            .iter()
            .map(|a| (a.q.as_str(), a.score))
            .collect();
        assert_eq!(scores, [("t/search/0", 1.0), ("t/search/1", 1.0), ("t/search/2", 1.0)]);
    }

    #[test]
    fn flips_go_both_ways() {
        let run = run_of(vec![answers("a", &[1.0, 0.0, 1.0]), answers("b", &[0.0, 1.0, 1.0])]);
        let flips = run.flips("a", "b");
        let gained: Vec<(&str, bool)> = flips.iter().map(|f| (f.child.q.as_str(), f.gained)).collect();
        assert_eq!(gained, [("t/search/0", true), ("t/search/1", false)]);
        assert!(run.flips("a", "nobody").is_empty());
    }

    #[test]
    fn a_candidate_that_is_journalled_twice_counts_once() {
        let run = run_of(vec![scored("c1", 0.5), scored("c1", 0.6), scored("c2", 0.6)]);
        assert_eq!((run.scored.len(), run.evals), (2, 2));
        assert_eq!(run.best().unwrap().candidate.id, "c1", "of equals the earlier");
    }

    #[test]
    fn the_final_does_not_overwrite_the_board() {
        let phase = Event::PhaseStarted {
            phase: Phase::Selection,
        };
        let run = run_of(vec![scored("c1", 0.5), phase, scored("c1", 0.1)]);
        assert_eq!(run.candidate("c1").unwrap().fitness, 0.5);
        assert_eq!(run.evals, 1);
    }

    #[test]
    fn time_off_does_not_count() {
        let stopped = Event::RunStopped { reason: "asked".into() };
        let resumed = Event::RunResumed {
            engine_version: "0.1.0".into(),
            engine_build: String::new(),
            instruction_set: String::new(),
        };
        // Started at 0 s, scored at 1 s, stopped at 2 s, resumed at 3 s, scored at 4 s.
        let run = run_of(vec![scored("c1", 0.5), stopped, resumed, scored("c2", 0.4)]);
        assert_eq!(run.scored[1].elapsed_ms, 3000);
        assert_eq!(run.elapsed(run.last_ms + 500), 3500);
        assert_eq!((&run.state, run.resumes), (&State::Running, 1));
    }

    #[test]
    fn answers_of_the_last_of_the_field_are_dropped_and_the_bests_kept() {
        let mut events = Vec::new();
        for i in 0..150 {
            let id = format!("c{i}");
            events.extend([answers(&id, &[1.0, 0.0]), scored(&id, f64::from(i % 100))]);
        }
        let run = run_of(events);
        assert!(run.by_candidate.len() <= 2 * KEPT_ANSWERS);
        assert!(!run.answers_of("c99").is_empty());
        assert!(run.answers_of("c3").is_empty());
    }

    /// A journal in which the parent that was best before the test is not the best in it.
    #[test]
    fn an_older_journals_verdict_is_against_the_best_parent_too() {
        let mut records = rehearsal::journal();
        let reading = records.iter_mut().find_map(|record| match &mut record.event {
            Event::TestRead(reading) => Some(reading),
            _ => None,
        });
        let reading = reading.unwrap();
        let before = reading.clone();
        let other = reading
            .others
            .iter_mut()
            .find(|o| o.other.id == "parent-spanish")
            .unwrap();
        (other.other.score.value, other.difference, other.p_value) = (0.74, 0.021, 0.18);
        let run = Run::from_records(&records);
        let reading = run.reading.as_ref().unwrap();
        assert_eq!(
            (reading.best_parent.id.as_str(), reading.difference, reading.p_value),
            ("parent-spanish", 0.021, 0.18)
        );
        assert_eq!(run.best_parent().map(|p| p.id.as_str()), Some("parent-spanish"));
        assert_eq!(reading.others.len(), before.others.len());
        let maths = reading.others.iter().find(|o| o.other.id == "parent-maths").unwrap();
        assert_eq!((maths.difference, maths.p_value), (before.difference, before.p_value));
        assert_eq!(maths.p_holm, before.p_value * (before.others.len() + 1) as f64);
    }

    #[test]
    fn a_whole_night_adds_up() {
        let run = Run::from_records(&rehearsal::journal());
        assert_eq!(run.state, State::Done);
        assert_eq!(run.scored.len() + run.failed.len(), 5 + 2 + 12 * 8 + 3);
        assert_eq!(run.winner().map(|w| &w.id), run.selection.as_ref().map(|s| &s.best));
        assert_eq!(run.best_parent().map(|p| p.id.as_str()), Some("parent-maths"));
        let ranking = run.ranking();
        assert!(
            ranking
                .windows(2)
                .all(|w| w[0].candidate.fitness >= w[1].candidate.fitness)
        );
    }
}
