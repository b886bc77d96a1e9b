//! Several candidates at a time, where the evaluator has a crew.
//!
//! Candidates that are known beforehand (parents, unsearched merges, a generation, finalists) are begun ahead of their turn,
//! and told in their order all the same: the run is the one that a single hand would have made.
//!
//! In an *asynchronous* search no generation is waited for: as each answer arrives it is journalled and told, and the next
//! candidate is asked for, so that a slow evaluation holds nobody up. Such a run follows from its seed and the order in
//! which answers came; the journal keeps both ends of each candidate's work.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    Crew, Error, Evaluation, Exam, Interrupt, News, Run, Unscored,
    budget::Over,
    genome::Genome,
    race::{Entrant, Race},
};
use crate::optim::{Genotype, Optimizer, Outcome};

/// Somebody before an exam: in a race one candidate meets several, and what it made of one is no answer to another.
pub(super) type Asked = (String, u64);

/// Who is at work, who comes next, and what came back before its turn.
#[derive(Default)]
pub(super) struct AtWork {
    waiting: VecDeque<Waiting>,
    /// Those who wait.
    wait: HashSet<Asked>,
    /// By candidate: at most one exam of each, since a crew knows them by their ids.
    out: HashMap<String, u64>,
    done: HashMap<Asked, Result<Evaluation, Unscored>>,
}

struct Waiting {
    entrant: Entrant,
    exam: Arc<Exam>,
    asked: Asked,
}

impl AtWork {
    /// What came back before its turn.
    pub fn came(&self, entrant: &Entrant, exam: &Exam) -> Option<&Result<Evaluation, Unscored>> {
        self.done.get(&asked(entrant, exam))
    }

    /// Somebody is at it, or was: it is waited for even when everybody is to stop.
    pub fn has_begun(&self, entrant: &Entrant, exam: &Exam) -> bool {
        self.began(&asked(entrant, exam))
    }

    fn began(&self, asked: &Asked) -> bool {
        self.out.get(&asked.0) == Some(&asked.1) || self.done.contains_key(asked)
    }

    fn is_known(&self, asked: &Asked) -> bool {
        self.began(asked) || self.wait.contains(asked)
    }

    /// Behind all who wait.
    fn add(&mut self, entrant: &Entrant, exam: &Arc<Exam>, mark: u64) {
        let asked = (entrant.id.clone(), mark);
        if !self.is_known(&asked) {
            self.wait.insert(asked.clone());
            self.waiting.push_back(Waiting {
                entrant: entrant.clone(),
                exam: exam.clone(),
                asked,
            });
        }
    }

    /// Before all who wait, since it is waited for.
    fn add_first(&mut self, entrant: &Entrant, exam: &Exam) {
        let asked = asked(entrant, exam);
        if !self.is_known(&asked) {
            self.wait.insert(asked.clone());
            self.waiting.push_front(Waiting {
                entrant: entrant.clone(),
                exam: Arc::new(exam.clone()),
                asked,
            });
        }
    }

    /// Nobody waits any more.
    fn forget_who_wait(&mut self) {
        self.waiting.clear();
        self.wait.clear();
    }

    /// Gives work to all who have none, or to one only if all are to be quiet; those begun are handed to `begun`.
    fn fill(&mut self, crew: &mut dyn Crew, is_quiet: bool, begun: &dyn Fn(&Entrant)) {
        let hands = if is_quiet { 1 } else { crew.size() };
        while self.out.len() < hands {
            let is_free = |waiting: &Waiting| !self.out.contains_key(&waiting.entrant.id);
            let place = self.waiting.iter().position(is_free);
            let Some(next) = place.and_then(|place| self.waiting.remove(place)) else {
                return;
            };
            begun(&next.entrant);
            crew.begin(&next.entrant.sitting(&next.exam));
            self.wait.remove(&next.asked);
            self.out.insert(next.asked.0, next.asked.1);
        }
    }

    /// Whose words came back and have not been asked for.
    pub fn came_so_far(&self) -> HashSet<Asked> {
        self.done.keys().cloned().collect()
    }

    pub fn is_anybody_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nobody waits for a candidate any more.
    pub fn give_up(&mut self, id: &str, crew: &mut dyn Crew) {
        self.waiting.retain(|waiting| waiting.entrant.id != id);
        self.wait.retain(|(of, _)| of != id);
        self.done.retain(|(of, _), _| of != id);
        if self.out.contains_key(id) && crew.give_up(id) {
            self.out.remove(id);
        }
    }

    fn is_done(&mut self, id: &str, evaluation: Result<Evaluation, Unscored>) {
        if let Some((id, mark)) = self.out.remove_entry(id) {
            self.done.insert((id, mark), evaluation);
        }
    }
}

pub(super) fn asked(entrant: &Entrant, exam: &Exam) -> Asked {
    (entrant.id.clone(), exam.mark())
}

/// Words of the crew in a row that are heard before it is looked whether there is more to ask.
const WORDS: usize = 256;

impl Run<'_, '_> {
    /// Says whose turn comes next on an exam, so that a crew can begin ahead; nobody else is to be asked any more.
    pub(super) fn look_ahead(&mut self, entrants: &[Entrant], exam: &Exam) -> Result<(), Interrupt> {
        self.at_work.forget_who_wait();
        self.look_further(entrants, exam)
    }

    /// As [`Self::look_ahead`], after all who are to be asked already.
    pub(super) fn look_further(&mut self, entrants: &[Entrant], exam: &Exam) -> Result<(), Interrupt> {
        if self.evaluator.crew().is_none() {
            return Ok(());
        }
        let (exam, mark) = (Arc::new(exam.clone()), exam.mark());
        for entrant in entrants {
            if !self.is_answered(entrant, &exam)? {
                self.at_work.add(entrant, &exam, mark);
            }
        }
        Ok(())
    }

    /// What the crew made of an exam that it may have begun, or ended, long ago; `None` without a crew.
    ///
    /// # Errors
    /// What the crew tells besides cannot be written down.
    pub(super) fn by_crew(
        &mut self,
        entrant: &Entrant,
        exam: &Exam,
    ) -> Result<Option<Result<Evaluation, Unscored>>, Interrupt> {
        if self.evaluator.crew().is_none() {
            return Ok(None);
        }
        self.at_work.add_first(entrant, exam);
        loop {
            if let Some(evaluation) = self.at_work.done.remove(&asked(entrant, exam)) {
                return Ok(Some(evaluation));
            }
            let is_quiet = self.control.wants_quiet();
            let (Some(crew), chronicle) = (self.evaluator.crew(), &*self.chronicle) else {
                return Ok(None);
            };
            self.at_work
                .fill(crew, is_quiet, &|entrant| chronicle.show(entrant.started()));
            self.hear()?;
            self.begin_the_sure()?;
        }
    }

    /// Waits until somebody is done, or for a moment: a thousand workers say all the time what they do.
    fn hear(&mut self) -> Result<(), Interrupt> {
        for _ in 0..WORDS {
            let Some(crew) = self.evaluator.crew() else {
                return Ok(());
            };
            match crew.next() {
                News::Done(id, evaluation) => {
                    self.at_work.is_done(&id, evaluation);
                    return Ok(());
                }
                News::Told(event) => self.chronicle.tell(event)?,
                News::Shown(event) => self.chronicle.show(event),
                News::Nothing => return Ok(()),
            }
        }
        Ok(())
    }

    /// One optimizer from its first question to its last, with as many candidates out as the crew has hands: how it
    /// ended, and how many candidates it asked for.
    pub(super) fn side_by_side(
        &mut self,
        genome: &Genome,
        warm: &[Genotype],
        optimizer: &mut Optimizer,
    ) -> Result<(Over, u64), Interrupt> {
        let plan = self.plan;
        self.look_ahead(&[], &plan.search)?;

        let mut out: Vec<(u64, Entrant)> = Vec::new();
        let (mut asked, mut tally) = (0, Vec::new());
        loop {
            while self.wants_more(out.len()) {
                if let Some(over) = self.over(out.len())? {
                    if out.is_empty() {
                        return Ok((over, asked));
                    }
                    break;
                }
                let ask = optimizer.ask_one();
                asked = ask.id + 1;
                let entrant = self.entrant(genome, warm, self.generations + ask.generation, &ask);
                self.chronicle.candidate_started(&entrant)?;
                out.push((ask.id, entrant));
            }
            let Some(place) = self.next_done(&out)? else { continue };
            let (id, entrant) = out.remove(place);
            let alone = self.stand_alone(&entrant)?;
            tally.extend(alone.fitness);
            let generation = optimizer.status().generation;
            let answers = alone.answers.into_iter().flatten().collect();
            optimizer.observe(id, answers).map_err(Error::from)?;
            self.say_error(optimizer, id, &entrant)?;
            let told: Vec<(u64, Outcome)> = alone.outcomes.into_iter().map(|outcome| (id, outcome)).collect();
            optimizer.tell(&told).map_err(Error::from)?;
            if optimizer.status().generation > generation {
                let fitness = std::mem::take(&mut tally);
                let answered = Race {
                    fitness,
                    ..Race::default()
                };
                self.generation_ended(self.generations + generation, &answered, optimizer)?;
                self.take_advice(genome, optimizer)?;
            }
        }
    }

    /// Somebody has nothing to do, though this many candidates are out, and nobody asks for quiet.
    pub(super) fn has_free_hands(&mut self, out: usize) -> bool {
        out == 0 || (out < self.evaluator.crew().map_or(1, |crew| crew.size()) && !self.control.wants_quiet())
    }

    /// Waits for the next of those that are out: its place. `None`: nobody is done, but somebody may have come who can take
    /// more.
    pub(super) fn next_back(&mut self, out: &[(u64, Entrant)]) -> Result<Option<usize>, Interrupt> {
        if self.evaluator.crew().is_none() {
            return Ok(Some(0));
        }
        let (exam, mark) = (Arc::new(self.plan.search.clone()), self.plan.search.mark());
        for (_, entrant) in out {
            self.at_work.add(entrant, &exam, mark);
        }
        if let Some(crew) = self.evaluator.crew() {
            self.at_work.fill(crew, false, &|_| ());
        }
        let is_done = |(_, entrant): &(u64, Entrant)| self.at_work.done.contains_key(&(entrant.id.clone(), mark));
        if let Some(place) = out.iter().position(is_done) {
            return Ok(Some(place));
        }
        self.hear()?;
        Ok(None)
    }
}
