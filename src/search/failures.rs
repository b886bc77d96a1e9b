//! Whose fault it is when candidates fail: a program that broke for a minute must not pass a verdict on anybody.
//!
//! When a program breaks down over a candidate, somebody who has been scored before is asked, for as long as a short outage
//! lasts; then the candidate is asked once more, and if that fails as well, the other one again. Only who breaks a program that
//! works before and after has failed. Where nobody known can be scored any more the run stops as it was before the failure,
//! and a resumed run asks again.
//!
//! A command's own refusals are held back until somebody is scored; after too many in a row somebody known is asked likewise.
//! So are breakdowns before anybody was scored, when there is nobody to ask.

use std::{collections::HashSet, time::Duration};

use super::{
    Error, Evaluation, Exam, Interrupt, Run, Unscored,
    crew::{Asked, asked},
    race::Entrant,
};
use crate::event::{Level, words::WHOSE_FAULT};

/// Breakdowns in a row before anybody was scored that stop a run.
const BREAKDOWNS: usize = 3;

/// Failures in a row of any kind, a command's own refusals included.
const REFUSALS: usize = 20;

/// What part of the space's patience passes between one question whether anybody can still be scored and the next: of the usual
/// 155 seconds 5, 30 and 120.
const PAUSES: [f64; 3] = [5.0 / 155.0, 30.0 / 155.0, 120.0 / 155.0];

/// Questions of each task that are proof enough.
const PROOF: usize = 8;

/// Who hangs takes so many times the patience that waiting beside it is none.
const LONGEST: u32 = 4;

/// Since somebody was last scored.
#[derive(Default)]
pub(super) struct Streak {
    breakdowns: usize,
    all: usize,
    /// Whose answers had come before the last breakdown: they do not show that the program works again.
    earlier: HashSet<Asked>,
}

impl Run<'_, '_> {
    /// Somebody was scored in its turn, so the evaluator works, unless the answer is older than a breakdown.
    pub(super) fn answered_in_turn(&mut self, entrant: &Entrant, exam: &Exam) -> Result<(), Error> {
        match self.streak.earlier.remove(&asked(entrant, exam)) {
            true => Ok(()),
            false => self.answered(),
        }
    }

    fn answered(&mut self) -> Result<(), Error> {
        self.streak = Streak::default();
        self.chronicle.believe()
    }

    /// Somebody was not scored: the reason, if that is so for all that is known, or what it answers when it is asked again.
    pub(super) fn failed(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
        failure: Unscored,
    ) -> Result<Result<Evaluation, String>, Interrupt> {
        let failure = match failure {
            Unscored::Breakdown { reason } => match self.hear_again(entrant, exam, reason)? {
                Ok(evaluation) => {
                    self.answered()?;
                    return Ok(Ok(evaluation));
                }
                Err(failure) => failure,
            },
            failure => failure,
        };
        let reason = failure.to_string();
        match failure {
            Unscored::Machine { reason } => {
                let id = entrant.id.clone();
                return Err(Error::Machine { id, reason }.into());
            }
            // Shown to be its own.
            Unscored::Breakdown { .. } if !self.scored.is_empty() => return Ok(Err(reason)),
            Unscored::Breakdown { .. } => {
                self.streak.breakdowns += 1;
                self.streak.earlier = self.at_work.came_so_far();
            }
            // The questions are ours, and so is the judgement.
            Unscored::Candidate { .. } if self.plan.space.fitness.command.is_none() => return Ok(Err(reason)),
            Unscored::Candidate { .. } => {}
        }
        self.streak.all += 1;
        self.chronicle.hold();
        if self.streak.breakdowns >= BREAKDOWNS || self.streak.all.is_multiple_of(REFUSALS) {
            self.hold_or_stop(entrant, exam, &reason)?;
        }
        Ok(Err(reason))
    }

    /// The run stops here, by request: a command's own refusals stand, and who it broke down over is asked again.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        match self.streak.breakdowns {
            0 => self.chronicle.believe(),
            _ => {
                self.chronicle.disbelieve();
                Ok(())
            }
        }
    }

    /// A program broke down over somebody, who is asked again between two who are known.
    fn hear_again(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
        reason: String,
    ) -> Result<Result<Evaluation, Unscored>, Interrupt> {
        let message = format!("{}: {reason}; {WHOSE_FAULT}", entrant.id);
        self.chronicle.note(Level::Warning, message)?;
        if self.scored.is_empty() {
            return self.try_again_and_again(entrant, exam);
        }
        self.prove_that_it_works(entrant, exam, &reason)?;
        let again = self.try_once(entrant, exam)?;
        if let Err(Unscored::Breakdown { reason }) = &again {
            self.prove_that_it_works(entrant, exam, reason)?;
        }
        Ok(again)
    }

    /// Where there is nobody to ask, the first who breaks the program is asked until it is scored, with pauses; those who come after
    /// it have had them.
    fn try_again_and_again(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
    ) -> Result<Result<Evaluation, Unscored>, Interrupt> {
        let all = self.pauses();
        let pauses = if self.streak.breakdowns == 0 { all.len() } else { 1 };
        let began = self.chronicle.elapsed_ms();
        let mut again = None;
        for pause in &all[..pauses] {
            if again.is_some() && !self.has_patience_for(*pause, began) {
                break;
            }
            self.rest(*pause)?;
            let answer = self.try_once(entrant, exam)?;
            if !matches!(answer, Err(Unscored::Breakdown { .. })) {
                return Ok(answer);
            }
            again = Some(answer);
        }
        Ok(again.expect("there is at least one pause"))
    }

    fn pauses(&self) -> [Duration; 3] {
        PAUSES.map(|part| self.plan.space.fitness.patience().mul_f64(part))
    }

    /// Neither hanging programs nor a budget of time are waited beyond.
    fn has_patience_for(&self, pause: Duration, began_ms: u64) -> bool {
        let now = self.chronicle.elapsed_ms();
        let is_in_time = |budget: u64| now + pause.as_millis() as u64 <= budget;
        Duration::from_millis(now.saturating_sub(began_ms)) < LONGEST * self.plan.space.fitness.patience()
            && self.plan.budget.duration_ms.is_none_or(is_in_time)
    }

    /// Asks somebody known until it is scored, with pauses.
    ///
    /// # Errors
    /// It is not, whatever the patience; or not at first, and failures are held of which nobody knows any more whose they were.
    fn prove_that_it_works(&mut self, entrant: &Entrant, exam: &Exam, reason: &str) -> Result<(), Interrupt> {
        let Some(known) = self.scored.last().cloned() else {
            return Ok(());
        };
        let message = format!(
            "{} is asked again, to see whether anybody can still be scored",
            known.id
        );
        self.chronicle.note(Level::Info, message)?;
        let known = self.again(&known)?;
        let exam = &exam.beginning(PROOF);
        let began = self.chronicle.elapsed_ms();
        let pauses = self.pauses();
        let mut patience = pauses.iter();
        while let Err(failure) = self.prove_once(&known, exam)? {
            let Some(pause) = patience.next().filter(|pause| self.has_patience_for(**pause, began)) else {
                return Err(self.nobody_answers(entrant, reason).into());
            };
            let message = format!(
                "{} cannot be scored either ({failure}): the next try is in {} s",
                known.id,
                pause.as_secs()
            );
            self.chronicle.note(Level::Warning, message)?;
            self.rest(*pause)?;
        }
        let has_waited = patience.len() < pauses.len();
        if has_waited && self.streak.all > 0 {
            return Err(self.nobody_answers(entrant, reason).into());
        }
        Ok(self.answered()?)
    }

    /// So many failed in a row that it is no longer likely to be their own fault, whatever the command says.
    fn hold_or_stop(&mut self, entrant: &Entrant, exam: &Exam, reason: &str) -> Result<(), Interrupt> {
        if !self.scored.is_empty() {
            return self.prove_that_it_works(entrant, exam, reason);
        }
        // Nobody was ever scored.
        if self.streak.breakdowns >= BREAKDOWNS {
            return Err(self.nobody_answers(entrant, reason).into());
        }
        // Refusals are the command's own words, and it may refuse most of a space.
        let message = format!(
            "the command has refused all {} candidates so far, {} the last of them: {reason}",
            self.streak.all, entrant.id
        );
        Ok(self.chronicle.note(Level::Warning, message)?)
    }

    fn nobody_answers(&self, entrant: &Entrant, reason: &str) -> Error {
        Error::NobodyAnswers {
            failures: self.streak.all.max(1),
            id: entrant.id.clone(),
            reason: reason.into(),
        }
    }

    /// Somebody answers an exam, whoever does the work.
    pub(super) fn try_once(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
    ) -> Result<Result<Evaluation, Unscored>, Interrupt> {
        let evaluation = match self.by_crew(entrant, exam)? {
            Some(evaluation) => evaluation,
            None => self.evaluate(entrant, exam),
        };
        let evaluation = evaluation.and_then(|evaluation| self.named(evaluation));
        self.unless_stopped(evaluation)
    }

    fn prove_once(&mut self, known: &Entrant, exam: &Exam) -> Result<Result<(), Unscored>, Interrupt> {
        let proof = match self.by_crew(known, exam)? {
            Some(evaluation) => evaluation.map(|_| ()),
            None => self.evaluator.prove(&known.sitting(exam)),
        };
        // What it answers is in the journal already, or will be asked for in its turn.
        self.evaluator.told(&known.id, &exam.split);
        self.unless_stopped(proof)
    }

    /// Who asked for the stop may have ended the evaluator's programs as well: then a failure says nothing.
    fn unless_stopped<T>(&self, done: Result<T, Unscored>) -> Result<Result<T, Unscored>, Interrupt> {
        match done {
            Err(_) if self.control.wants_stop() => Err(Interrupt::Stop),
            done => Ok(done),
        }
    }

    fn rest(&mut self, pause: Duration) -> Result<(), Interrupt> {
        let mut left = pause;
        while !left.is_zero() {
            self.pause_or_stop()?;
            let rest = self.chronicle.wait(left);
            self.rested += rest;
            left -= rest;
        }
        Ok(())
    }
}
