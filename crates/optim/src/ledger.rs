//! Who has been asked and who has answered: the bookkeeping that is the same for every algorithm.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::chance::Address;
use super::domain::Genotype;
use super::{Answered, Ask, Measurement, Outcome};

/// A candidate that waits for its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub ask: Ask,
    pub address: Address,
    /// Handed in from outside, not drawn by the algorithm.
    pub injected: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answered>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measurement>,
}

/// A candidate and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    pub address: Address,
    pub genotype: Genotype,
    pub injected: bool,
    pub outcome: Outcome,
    /// In the order of questions; empty where nobody said what it answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Answered>,
    /// The score with its error, where somebody said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measurement>,
}

impl Answer {
    /// True when the algorithm itself drew this candidate in the given generation, from its present distribution.
    pub fn is_sampled_in(&self, generation: u64) -> bool {
        !self.injected && self.address.generation == generation
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    next_id: u64,
    pub generation: u64,
    /// Candidates handed out in this generation.
    handed_out: u64,
    /// In the order of their ids.
    pending: Vec<Pending>,
    answered: Vec<Answer>,
    queue: VecDeque<Genotype>,
}

impl Ledger {
    /// Where the next candidate's random numbers stand.
    pub fn next_address(&self, restart: u64) -> Address {
        Address {
            restart,
            generation: self.generation,
            index: self.handed_out,
        }
    }

    /// The next candidate from outside, if one waits.
    pub fn take_injected(&mut self) -> Option<Genotype> {
        self.queue.pop_front()
    }

    pub fn inject(&mut self, genotypes: impl IntoIterator<Item = Genotype>) {
        for genotype in genotypes {
            // The same candidate twice teaches nothing.
            if !self.queue.contains(&genotype) {
                self.queue.push_back(genotype);
            }
        }
    }

    pub fn hand_out(&mut self, address: Address, genotype: Genotype, injected: bool) -> Ask {
        let ask = Ask {
            id: self.next_id,
            generation: self.generation,
            genotype,
        };
        self.next_id += 1;
        self.handed_out += 1;
        self.pending.push(Pending {
            ask: ask.clone(),
            address,
            injected,
            answers: Vec::new(),
            measured: None,
        });
        ask
    }

    /// Notes what a candidate answered, in the order of questions; false when it is not out.
    pub fn observe(&mut self, id: u64, mut answers: Vec<Answered>) -> bool {
        let Ok(at) = self.pending.binary_search_by_key(&id, |pending| pending.ask.id) else {
            return false;
        };
        // What is no number is nothing either.
        answers.iter_mut().for_each(|a| a.score = a.score.max(0.0));
        answers.sort_by_key(|a| a.question);
        self.pending[at].answers = answers;
        true
    }

    /// Notes what a candidate scored and how much that errs; false when it is not out.
    pub fn measure(&mut self, id: u64, measured: Measurement) -> bool {
        let Ok(at) = self.pending.binary_search_by_key(&id, |pending| pending.ask.id) else {
            return false;
        };
        self.pending[at].measured = Some(measured);
        true
    }

    pub fn is_out(&self, id: u64) -> bool {
        self.pending.binary_search_by_key(&id, |pending| pending.ask.id).is_ok()
    }

    /// The candidates that no algorithm has learned from yet, in the order of their ids.
    pub fn waiting(&self) -> Vec<(u64, Genotype)> {
        let out = self.pending.iter().map(|p| (p.ask.id, p.ask.genotype.clone()));
        let answered = self.answered.iter().map(|a| (a.id, a.genotype.clone()));
        let mut waiting: Vec<(u64, Genotype)> = out.chain(answered).collect();
        waiting.sort_by_key(|(id, _)| *id);
        waiting
    }

    pub fn has_started(&self) -> bool {
        self.next_id > 0
    }

    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    pub fn answered(&self) -> usize {
        self.answered.len()
    }

    /// Files a result; false when nobody waits for it.
    pub fn answer(&mut self, id: u64, outcome: Outcome, present_restart: u64) -> bool {
        let Ok(at) = self.pending.binary_search_by_key(&id, |pending| pending.ask.id) else {
            return false;
        };
        let Pending {
            ask,
            address,
            injected,
            answers,
            measured,
        } = self.pending.remove(at);
        // What a run that has been given up asked for comes too late to teach its successor anything.
        if address.restart == present_restart {
            self.answered.push(Answer {
                id,
                address,
                genotype: ask.genotype,
                injected,
                outcome,
                answers,
                measured,
            });
        }
        true
    }

    /// Ends the generation: its answers, in the order of their ids, whatever the order in which they came.
    pub fn close_generation(&mut self) -> Vec<Answer> {
        let mut batch = std::mem::take(&mut self.answered);
        batch.sort_by_key(|answer| answer.id);
        self.generation += 1;
        self.handed_out = 0;
        batch
    }

    /// True when ids are in order and every genotype has one number for each gene.
    pub fn is_consistent(&self, genes: usize) -> bool {
        let genotypes = self
            .pending
            .iter()
            .map(|p| &p.ask.genotype)
            .chain(self.answered.iter().map(|a| &a.genotype));
        self.pending.is_sorted_by(|a, b| a.ask.id < b.ask.id)
            && self.pending.last().is_none_or(|last| last.ask.id < self.next_id)
            && genotypes.chain(&self.queue).all(|genotype| genotype.len() == genes)
    }
}
