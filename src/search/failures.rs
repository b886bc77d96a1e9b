//! Whose fault it is when candidates fail: a program that broke for a minute must not pass a verdict on anybody.
//!
//! The failures of a command are held back until somebody is scored; when too many have failed in a row, somebody who has
//! been scored before is asked again. With a score the failures were the candidates' own and are written down; without one,
//! or with nobody to ask, the run stops as it was before the first of them, and a resumed run asks them all again.

use super::{Error, Exam, Interrupt, Run, Unscored, race::Entrant};
use crate::event::{Level, words::WHOSE_FAULT};

/// Breakdowns in a row before somebody who can be scored is asked again.
const BREAKDOWNS: usize = 3;

/// Failures in a row of any kind, a command's own refusals included.
const REFUSALS: usize = 20;

/// Since somebody was last scored.
#[derive(Default)]
pub(super) struct Streak {
    breakdowns: usize,
    all: usize,
}

impl Run<'_, '_> {
    /// Somebody was scored, so the evaluator works.
    pub(super) fn answered(&mut self) -> Result<(), Error> {
        self.streak = Streak::default();
        self.chronicle.believe()
    }

    /// Somebody was not scored: the reason, if that may be so for all that is known.
    pub(super) fn failed(&mut self, entrant: &Entrant, exam: &Exam, failure: Unscored) -> Result<String, Interrupt> {
        let id = &entrant.id;
        let reason = failure.to_string();
        match failure {
            Unscored::Machine { reason } => return Err(Error::Machine { id: id.clone(), reason }.into()),
            Unscored::Breakdown { .. } => {
                self.streak.breakdowns += 1;
                let message = format!("{id}: {reason}; {WHOSE_FAULT}");
                self.chronicle.note(Level::Warning, message)?;
            }
            // The questions are ours, and so is the judgement.
            Unscored::Candidate { .. } if self.plan.space.fitness.command.is_none() => return Ok(reason),
            Unscored::Candidate { .. } => {}
        }
        self.streak.all += 1;
        self.chronicle.hold();
        if self.streak.breakdowns >= BREAKDOWNS || self.streak.all >= REFUSALS {
            self.ask_somebody_known(exam, id, &reason)?;
        }
        Ok(reason)
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

    fn ask_somebody_known(&mut self, exam: &Exam, id: &str, reason: &str) -> Result<(), Interrupt> {
        let works = match self.scored.last().cloned() {
            Some(known) => {
                let message = format!(
                    "{} is asked again, to see whether anybody can still be scored",
                    known.id
                );
                self.chronicle.note(Level::Info, message)?;
                let known = self.again(&known)?;
                let answer = match self.by_crew(&known, exam)? {
                    Some(answer) => answer,
                    None => self.evaluate(&known, exam),
                };
                answer.is_ok()
            }
            // Nobody was ever scored. Refusals are the command's own words, and it may refuse most of a space.
            None => self.streak.breakdowns < BREAKDOWNS,
        };
        if works {
            return Ok(self.answered()?);
        }
        Err(Error::NobodyAnswers {
            failures: self.streak.all,
            id: id.into(),
            reason: reason.into(),
        }
        .into())
    }
}
