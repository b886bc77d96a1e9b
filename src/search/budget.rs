//! What the budget and the clock say now: how much is left, and whether a stage, the search or its learning ends here.
//!
//! A run that is taken up again is told by `replay.rs` what they said before, as long as its journal lasts; whoever wants to
//! know asks there, or [`Run::over`].

use std::{sync::atomic::Ordering, time::Duration};

use super::{Interrupt, Run};
use crate::{event::EndReason, space::Stage};

/// Why an optimizer asks no more.
pub(super) enum Over {
    /// The next stage's time has come.
    Stage,
    Search(EndReason),
}

/// Where a stage makes room for the next one.
pub(super) struct StageShare {
    /// The next one's name.
    pub next: &'static str,
    evals: Option<u64>,
    elapsed_ms: Option<u64>,
    /// Candidates before it, where the next one builds on its best: then it breeds at least one.
    bred_before: Option<u64>,
}

impl Run<'_, '_> {
    /// Why nobody more is asked while `out` candidates are at work, if so.
    pub(super) fn over(&mut self, out: usize) -> Result<Option<Over>, Interrupt> {
        match self.is_stage_over(out) {
            true => Ok(Some(Over::Stage)),
            false => Ok(self.end_of_search(out)?.map(Over::Search)),
        }
    }

    /// What the budget has for a stage before the `next` one, of which it is a part if it is `narrow`.
    pub(super) fn stage_share(&self, next: Stage, share: f64, narrow: bool) -> StageShare {
        let budget = &self.plan.budget;
        let part = |total: u64| (total as f64 * share) as u64;
        StageShare {
            next: next.name(),
            evals: budget.evals.map(part),
            elapsed_ms: budget.duration_ms.map(part),
            bred_before: (!narrow).then_some(self.evals),
        }
    }

    /// Whether a stage's share of the budget is used up, of which `out` candidates at work have taken their part.
    pub(super) fn is_spent(&self, share: &StageShare, out: usize) -> bool {
        let StageShare { evals, elapsed_ms, .. } = *share;
        if share
            .bred_before
            .is_some_and(|before| self.evals + out as u64 <= before)
        {
            return false;
        }
        evals.is_some_and(|evals| self.evals + out as u64 >= evals)
            || elapsed_ms.is_some_and(|ms| self.chronicle.elapsed_ms() >= ms)
    }

    /// Candidates that the budget still pays for.
    pub(super) fn evals_left(&self) -> usize {
        let left = |evals: u64| usize::try_from(evals.saturating_sub(self.evals)).unwrap_or(usize::MAX);
        self.plan.budget.evals.map_or(usize::MAX, left)
    }

    /// Looks at the budget, of which `out` candidates at work have taken their part, and at requests from outside.
    pub(super) fn reason_to_end(&mut self, out: usize) -> Result<Option<EndReason>, Interrupt> {
        self.pause_or_stop()?;
        if self.plan.finish {
            return Ok(Some(EndReason::Stopped));
        }
        if self.evals_left() <= out {
            return Ok(Some(EndReason::Evals));
        }
        Ok(self.is_out_of_time().then_some(EndReason::Time))
    }

    /// Whether the clock leaves room for another round of learning.
    pub(super) fn has_time(&mut self) -> Result<bool, Interrupt> {
        self.pause_or_stop()?;
        Ok(!self.plan.finish && !self.is_out_of_time())
    }

    fn is_out_of_time(&self) -> bool {
        let over = |ms: u64| self.chronicle.elapsed_ms() as f64 + self.kept_for_final_ms(ms) >= ms as f64;
        self.plan.budget.duration_ms.is_some_and(over)
    }

    /// Waits while somebody wants a pause; whoever wants a stop interrupts the work.
    pub(super) fn pause_or_stop(&mut self) -> Result<(), Interrupt> {
        while self.control.pause.load(Ordering::Relaxed) && !self.control.wants_stop() {
            self.chronicle.wait(Duration::MAX);
        }
        if self.control.wants_stop() {
            return Err(Interrupt::Stop);
        }
        Ok(())
    }
}
