//! Several candidates at a time, where the evaluator has a crew.
//!
//! Candidates that are known beforehand (parents, unsearched merges, a generation, finalists) are begun ahead of their turn,
//! and told in their order all the same: the run is the one that a single hand would have made.
//!
//! In an *asynchronous* search no generation is waited for: as each answer arrives it is journalled and told, and the next
//! candidate is asked for, so that a slow evaluation holds nobody up. Such a run follows from its seed and the order in
//! which answers came; the journal keeps both ends of each candidate's work, and a resumed run repeats that order.
//! Candidates that were out when it died are asked again.

use std::collections::{HashMap, VecDeque};

use super::{
    Crew, Error, Evaluation, Exam, Interrupt, Run, Unscored,
    chronicle::Step,
    genome::Genome,
    race::{Entrant, Race},
};
use crate::{
    event::EndReason,
    optim::{Genotype, Optimizer, Outcome},
};

/// Who is at work, who comes next, and what came back before its turn.
#[derive(Default)]
pub(super) struct AtWork {
    waiting: VecDeque<Entrant>,
    out: Vec<String>,
    done: HashMap<String, Result<Evaluation, Unscored>>,
}

impl AtWork {
    pub fn has(&self, id: &str) -> bool {
        self.done.contains_key(id)
    }

    /// Somebody is at it, or was: it is waited for even when everybody is to stop.
    pub fn has_begun(&self, id: &str) -> bool {
        self.has(id) || self.out.iter().any(|out| out == id)
    }

    fn add(&mut self, entrant: &Entrant) {
        let id = &entrant.id;
        if !self.has_begun(id) && self.waiting.iter().all(|w| w.id != *id) {
            self.waiting.push_back(entrant.clone());
        }
    }

    /// Gives work to all who have none, or to one only if all are to be quiet; those begun are handed to `begun`.
    fn fill(&mut self, crew: &mut dyn Crew, exam: &Exam, is_quiet: bool, begun: &dyn Fn(&Entrant)) {
        let hands = if is_quiet { 1 } else { crew.size() };
        while self.out.len() < hands
            && let Some(entrant) = self.waiting.pop_front()
        {
            begun(&entrant);
            crew.begin(&entrant.sitting(exam));
            self.out.push(entrant.id);
        }
    }

    fn collect(&mut self, crew: &mut dyn Crew) {
        let (id, evaluation) = crew.finished();
        self.out.retain(|out| *out != id);
        self.done.insert(id, evaluation);
    }
}

impl Run<'_, '_> {
    /// Says whose turn comes next on an exam, so that a crew can begin ahead.
    pub(super) fn look_ahead(&mut self, entrants: &[Entrant], exam: &Exam) -> Result<(), Interrupt> {
        self.at_work.waiting.clear();
        if self.evaluator.crew().is_some() {
            for entrant in entrants {
                if self.known(entrant, exam)?.is_none() {
                    self.at_work.add(entrant);
                }
            }
        }
        Ok(())
    }

    /// What the crew made of an exam that it may have begun, or ended, long ago; `None` without a crew.
    pub(super) fn by_crew(&mut self, entrant: &Entrant, exam: &Exam) -> Option<Result<Evaluation, Unscored>> {
        let (crew, at_work) = (self.evaluator.crew()?, &mut self.at_work);
        at_work.add(entrant);
        let chronicle = &*self.chronicle;
        loop {
            if let Some(evaluation) = at_work.done.remove(&entrant.id) {
                return Some(evaluation);
            }
            let is_quiet = self.control.wants_quiet();
            at_work.fill(crew, exam, is_quiet, &|entrant| chronicle.show(entrant.started()));
            at_work.collect(crew);
        }
    }

    /// One optimizer from its first question to its last, with as many candidates out as the crew has hands: how it
    /// ended, and how many candidates it asked for.
    pub(super) fn side_by_side(
        &mut self,
        genome: &Genome,
        warm: &[Genotype],
        optimizer: &mut Optimizer,
    ) -> Result<(Option<EndReason>, u64), Interrupt> {
        let plan = self.plan;
        self.look_ahead(&[], &plan.search)?;

        let mut out: Vec<(u64, Entrant)> = Vec::new();
        let (mut asked, mut tally) = (0, Vec::new());
        loop {
            while self.wants_more(out.len()) {
                if let Some(reason) = self.over(out.len())? {
                    if out.is_empty() {
                        return Ok((reason, asked));
                    }
                    break;
                }
                let ask = optimizer.ask_one();
                asked = ask.id + 1;
                let entrant = self.entrant(genome, warm, self.generations + ask.generation, &ask);
                self.chronicle.started(&entrant.id, entrant.started())?;
                out.push((ask.id, entrant));
            }
            let (id, entrant) = out.remove(self.next_done(&out)?);
            let alone = self.stand_alone(&entrant)?;
            tally.extend(alone.fitness);
            let generation = optimizer.status().generation;
            let answers = alone.answers.into_iter().flatten().collect();
            optimizer.observe(id, answers).map_err(Error::from)?;
            let told: Vec<(u64, Outcome)> = alone.outcomes.into_iter().map(|outcome| (id, outcome)).collect();
            optimizer.tell(&told).map_err(Error::from)?;
            if optimizer.status().generation > generation {
                let fitness = std::mem::take(&mut tally);
                let answered = Race {
                    fitness,
                    ..Race::default()
                };
                self.generation_ended(self.generations + generation, &answered, optimizer)?;
            }
        }
    }

    /// Whether one more candidate is to be out: as it was when the journal was written, then as long as hands are free
    /// and nobody asks for quiet.
    fn wants_more(&mut self, out: usize) -> bool {
        match self.chronicle.next_step() {
            Some(Step::Started(_)) => true,
            Some(Step::Ended(_)) => false,
            None => {
                out == 0 || (out < self.evaluator.crew().map_or(1, |crew| crew.size()) && !self.control.wants_quiet())
            }
        }
    }

    /// The place of the candidate that is done next: by the journal, as long as it says, then as it happens.
    fn next_done(&mut self, out: &[(u64, Entrant)]) -> Result<usize, Interrupt> {
        if let Some(journalled) = self.chronicle.past_end() {
            let place = out.iter().position(|(_, entrant)| entrant.id == journalled);
            return place.ok_or_else(|| {
                let now = "other candidates".into();
                let id = journalled.clone();
                Error::Diverged { id, journalled, now }.into()
            });
        }
        let (Some(crew), at_work) = (self.evaluator.crew(), &mut self.at_work) else {
            return Ok(0);
        };
        out.iter().for_each(|(_, entrant)| at_work.add(entrant));
        loop {
            if let Some(place) = out.iter().position(|(_, entrant)| at_work.has(&entrant.id)) {
                return Ok(place);
            }
            at_work.fill(crew, &self.plan.search, false, &|_| ());
            at_work.collect(crew);
        }
    }
}
