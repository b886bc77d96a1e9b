//! The final while it runs, and before: who has answered how much of it, and how long it takes.
//!
//! One estimate serves the dashboard, the plain lines, `check` and the search itself, which keeps that much of a time
//! budget free.

use super::{Candidate, ExamAnswered, ExamStarted, FinalPlan, Phase, Progress, Score};

/// Means and the best random draw, which the finalists' number does not count.
const MEANS_AND_LUCK: usize = 2;

/// A part of the final: who has answered how much.
#[derive(Clone, Debug)]
pub struct Exam {
    /// [`Phase::Selection`], [`Phase::Test`] or [`Phase::HeldOut`].
    pub phase: Phase,
    /// That each of them answers.
    pub questions: usize,
    /// In the order of asking.
    pub examinees: Vec<Examinee>,
}

/// One who takes part.
#[derive(Clone, Debug)]
pub struct Examinee {
    /// As in [`Candidate::id`].
    pub id: String,
    /// Questions that have an answer, at most [`Exam::questions`].
    pub answered: usize,
    /// Has answered everything.
    pub is_done: bool,
    /// On these questions; the sealed test's stay sealed until all have answered.
    pub score: Option<Score>,
}

impl Exam {
    /// Nobody has answered anything yet.
    pub fn new(started: &ExamStarted) -> Self {
        let examinee = |id: &String| Examinee {
            id: id.clone(),
            answered: 0,
            is_done: false,
            score: None,
        };
        Self {
            phase: started.phase,
            questions: started.questions,
            examinees: started.examinees.iter().map(examinee).collect(),
        }
    }

    fn of(&mut self, id: &str) -> Option<&mut Examinee> {
        self.examinees.iter_mut().find(|e| e.id == id)
    }

    /// Answers came into the journal.
    pub fn add(&mut self, id: &str, answers: usize) {
        let questions = self.questions;
        if let Some(examinee) = self.of(id) {
            examinee.answered = (examinee.answered + answers).min(questions);
        }
    }

    /// The engine is ahead of the journal, by less than a batch.
    pub fn progress(&mut self, progress: &Progress) {
        if progress.questions == self.questions
            && let Some(examinee) = self.of(&progress.id)
        {
            examinee.answered = examinee.answered.max(progress.answered);
        }
    }

    /// One of them has answered everything; an answer to another part's questions changes nothing here.
    pub fn end(&mut self, answered: &ExamAnswered) {
        let (phase, questions) = (self.phase, self.questions);
        if let Some(examinee) = self.of(&answered.id).filter(|_| answered.phase == phase) {
            (examinee.answered, examinee.is_done, examinee.score) = (questions, true, answered.score);
        }
    }

    /// Whose turn it is, from 1; the last one's when all have answered.
    pub fn turn(&self) -> usize {
        let done = self.examinees.iter().filter(|e| e.is_done).count();
        (done + 1).min(self.examinees.len())
    }

    /// Whether all have answered everything, so that scores may be read.
    pub fn is_over(&self) -> bool {
        self.examinees.iter().all(|e| e.is_done)
    }

    /// How much of it has been answered, 0 to 1.
    pub fn share(&self) -> f64 {
        let shares = self.examinees.iter().map(|examinee| self.share_of(examinee));
        shares.sum::<f64>() / self.examinees.len().max(1) as f64
    }

    /// How much one of them has answered, 0 to 1.
    pub fn share_of(&self, examinee: &Examinee) -> f64 {
        match (examinee.is_done, self.questions) {
            (true, _) => 1.0,
            (false, 0) => 0.0,
            (false, questions) => examinee.answered as f64 / questions as f64,
        }
    }

    /// Answers that are still to come, and examinees to be merged.
    fn left(&self) -> (usize, usize) {
        let open = self.examinees.iter().filter(|e| !e.is_done);
        open.fold((0, 0), |(answers, merges), e| {
            (answers + self.questions.saturating_sub(e.answered), merges + 1)
        })
    }
}

/// How long merging takes, and one answer: from candidates that were scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Of each candidate, before its first answer.
    pub merge_ms: f64,
    /// That an answer adds: many are decoded at a time, so one alone takes longer.
    pub answer_ms: f64,
}

impl Speed {
    /// `None` where nobody was timed: every answer came from the cache, or a command keeps its time to itself.
    pub fn of<'a>(scored: impl Iterator<Item = &'a Candidate>) -> Option<Self> {
        let (mut merge, mut evaluation, mut answers, mut n) = (0, 0, 0, 0_u32);
        for candidate in scored.filter(|c| !c.cached) {
            merge += candidate.merge_ms;
            evaluation += candidate.evaluation_ms;
            answers += candidate.n;
            n += 1;
        }
        (evaluation > 0 && answers > 0).then(|| Self {
            merge_ms: merge as f64 / f64::from(n),
            answer_ms: evaluation as f64 / answers as f64,
        })
    }

    /// Of a command, which is only known to have scored so many in this time.
    pub fn of_command(elapsed_ms: u64, scored: usize) -> Option<Self> {
        (elapsed_ms > 0 && scored > 0).then(|| Self {
            merge_ms: elapsed_ms as f64 / scored as f64,
            answer_ms: 0.0,
        })
    }

    fn ms(self, (answers, merges): (usize, usize)) -> f64 {
        self.answer_ms * answers as f64 + self.merge_ms * merges as f64
    }
}

impl FinalPlan {
    /// At most how many take part in the selection, the test and the held-out tasks, of a run with so many parents and
    /// unsearched merges.
    pub fn examinees(&self, parents: usize, baselines: usize) -> [(Phase, usize, usize); 3] {
        let all = parents + baselines;
        let plus = |extra| all + extra;
        [
            (
                Phase::Selection,
                plus(self.finalists + MEANS_AND_LUCK),
                self.selection.questions,
            ),
            (Phase::Test, plus(MEANS_AND_LUCK), self.test.questions),
            (Phase::HeldOut, parents + 1, self.held_out),
        ]
    }

    /// Milliseconds of the parts after `running`, or of all; and of what `running` has left.
    pub fn left_ms(&self, speed: Speed, parents: usize, baselines: usize, running: Option<&Exam>) -> f64 {
        let order = |phase: Phase| match phase {
            Phase::Baselines | Phase::Search => 0,
            Phase::Selection => 1,
            Phase::Test => 2,
            Phase::HeldOut => 3,
        };
        let reached = running.map_or(0, |exam| order(exam.phase));
        let parts = self.examinees(parents, baselines).into_iter();
        // A command asks its own questions in the selection, and nothing after it.
        let is_held = |phase: &Phase, questions: &usize| *phase == Phase::Selection || *questions > 0;
        let to_come = parts.filter(|(phase, _, questions)| order(*phase) > reached && is_held(phase, questions));
        let to_come = to_come.map(|(_, n, questions)| speed.ms((n * questions, n)));
        to_come.sum::<f64>() + running.map_or(0.0, |exam| speed.ms(exam.left()))
    }
}
