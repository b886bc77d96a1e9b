//! Who won: finalists on fresh questions, then the sealed test split, once.
//!
//! The best score of a search is the luckiest of many, so it decides only who comes here. The selection questions, which
//! no candidate was bred on, choose the winner; the optimizer's mean wins ties. The test split is then read a single time,
//! and that reading is in the journal.

use std::collections::HashSet;

use super::{Error, Evaluation, Interrupt, Nomination, Run, Subject, scoring::Answers};
use crate::{
    eval::stats,
    event::{Candidate, Comparison, Event, Finalist, Level, Origin, Phase, Selection, TestReading, TestScore},
    recipe::Recipe,
};

impl Run<'_, '_> {
    pub(super) fn finale(&mut self, mean: Option<Vec<f64>>) -> Result<(), Interrupt> {
        if self.chronicle.is_done() {
            return Ok(());
        }
        let mean = self.score_mean(mean)?;
        let selection = match self.chronicle.past_selection() {
            Some(selection) => selection.clone(),
            None => self.select(mean.as_deref())?,
        };
        if self.chronicle.past_test().is_none() {
            self.read_test(&selection)?;
        }
        self.chronicle.write(Event::RunDone {
            evals: self.evals,
            answers: self.chronicle.answer_count(),
            elapsed_ms: self.chronicle.elapsed_ms(),
        })?;
        Ok(())
    }

    /// The mean of the optimizer's distribution is a candidate like the others; gives its id.
    fn score_mean(&mut self, mean: Option<Vec<f64>>) -> Result<Option<String>, Interrupt> {
        let Some(genotype) = mean else { return Ok(None) };
        let recipe = self.plan.codec.decode(&genotype);
        let id = "mean".to_string();
        let evals = self.evals;
        let outcome = self.candidate(Nomination {
            id: id.clone(),
            origin: Origin::Mean,
            generation: None,
            genotype: &genotype,
            subject: Subject::Recipe(&recipe),
        })?;
        self.evals = evals;
        Ok(outcome.is_ok().then_some(id))
    }

    /// The best by search score, each recipe once, and the mean; every baseline is with them.
    fn finalists(&self, mean: Option<&str>) -> Vec<Candidate> {
        let mut merges: Vec<&Candidate> = self.scored.iter().filter(|c| c.origin != Origin::Parent).collect();
        merges.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
        let (mut seen, mut bred) = (HashSet::new(), 0);
        let mut finalists = Vec::new();
        for candidate in merges {
            let always = candidate.origin == Origin::Baseline || Some(candidate.id.as_str()) == mean;
            if (always || bred < self.plan.space.finale.finalists) && seen.insert(&candidate.recipe_digest) {
                bred += usize::from(!always);
                finalists.push(candidate.clone());
            }
        }
        finalists
    }

    fn select(&mut self, mean: Option<&str>) -> Result<Selection, Interrupt> {
        self.chronicle.phase(Phase::Selection)?;
        let mut finalists = Vec::new();
        let parents: Vec<Candidate> = self
            .scored
            .iter()
            .filter(|c| c.origin == Origin::Parent)
            .cloned()
            .collect();
        for candidate in self.finalists(mean).iter().chain(&parents) {
            self.pause_or_stop()?;
            let Some(evaluation) = self.examine(candidate, false)? else {
                continue;
            };
            let (fresh, tasks) = self.plan.selection.score(&evaluation.answers);
            finalists.push(Finalist {
                id: candidate.id.clone(),
                origin: candidate.origin.clone(),
                search: crate::event::Score {
                    value: candidate.fitness,
                    stderr: candidate.stderr,
                    n: candidate.n,
                },
                fresh,
                tasks,
            });
        }
        // Best first; among equals the mean, which luck has touched least.
        finalists.sort_by(|a, b| {
            let mean_first = (b.origin == Origin::Mean).cmp(&(a.origin == Origin::Mean));
            b.fresh.value.total_cmp(&a.fresh.value).then(mean_first)
        });
        let best_where = |parent: bool| {
            let of_kind = |f: &&Finalist| (f.origin == Origin::Parent) == parent;
            finalists.iter().find(of_kind).map(|f| f.id.clone())
        };
        let (Some(best), Some(best_parent)) = (best_where(false), best_where(true)) else {
            return Err(Error::NothingScored.into());
        };
        let selection = Selection {
            split: self.plan.selection.split.clone(),
            finalists,
            best,
            best_parent,
        };
        self.chronicle.write(Event::Selected(selection.clone()))?;
        Ok(selection)
    }

    fn read_test(&mut self, selection: &Selection) -> Result<(), Interrupt> {
        self.chronicle.phase(Phase::Test)?;
        let exam = &self.plan.test;
        let seed = self.plan.space.search.seed;
        let mut readings: Vec<(String, Evaluation)> = Vec::new();
        let wanted: Vec<Candidate> = self
            .scored
            .iter()
            .filter(|c| matches!(c.origin, Origin::Parent | Origin::Baseline) || c.id == selection.best)
            .cloned()
            .collect();
        for candidate in &wanted {
            self.pause_or_stop()?;
            if let Some(evaluation) = self.examine(candidate, true)? {
                readings.push((candidate.id.clone(), evaluation));
            }
        }
        let of = |id: &str| readings.iter().find(|(i, _)| i == id).map(|(_, e)| e);
        let (Some(child), Some(parent)) = (of(&selection.best), of(&selection.best_parent)) else {
            return Err(Error::NothingScored.into());
        };
        let score = |id: &str, answers: &Answers| {
            let (score, tasks) = exam.score(answers);
            TestScore {
                id: id.into(),
                score,
                tasks,
            }
        };
        let paired = exam.compare(&child.answers, &parent.answers, seed);
        let mut others: Vec<Comparison> = readings
            .iter()
            .filter(|(id, _)| *id != selection.best)
            .map(|(id, evaluation)| {
                let paired = exam.compare(&child.answers, &evaluation.answers, seed);
                Comparison {
                    other: score(id, &evaluation.answers),
                    difference: paired.difference,
                    p_value: paired.p_value,
                    p_holm: paired.p_value,
                }
            })
            .collect();
        let p_values: Vec<f64> = others.iter().map(|o| o.p_value).collect();
        for (other, p_holm) in others.iter_mut().zip(stats::holm(&p_values)) {
            other.p_holm = p_holm;
        }
        // The best parent counts in the correction; its comparison stands in the reading itself.
        others.retain(|o| o.other.id != selection.best_parent);
        let reading = TestReading {
            split: exam.split.clone(),
            best: score(&selection.best, &child.answers),
            best_parent: score(&selection.best_parent, &parent.answers),
            difference: paired.difference,
            p_value: paired.p_value,
            test: paired.test.into(),
            negative_flips: paired.negative_flips,
            positive_flips: paired.positive_flips,
            others,
        };
        Ok(self.chronicle.write(Event::TestRead(reading))?)
    }

    /// A known candidate on the selection questions, or on the test; `None` (and a line in the log) if it fails there.
    fn examine(&mut self, candidate: &Candidate, sealed: bool) -> Result<Option<Evaluation>, Interrupt> {
        let plan = self.plan;
        let exam = if sealed { &plan.test } else { &plan.selection };
        let recipe: Option<Recipe> = serde_json::from_value(candidate.recipe.clone()).ok();
        let subject = match (&recipe, candidate.origin == Origin::Parent) {
            (Some(recipe), false) => Subject::Recipe(recipe),
            _ => Subject::Model(candidate.id.trim_start_matches("parent-")),
        };
        self.chronicle.show(Event::CandidateStarted {
            id: candidate.id.clone(),
            origin: candidate.origin.clone(),
            generation: candidate.generation,
        });
        match self.sit(&candidate.id, subject, exam) {
            Ok(evaluation) => {
                self.chronicle.answers(&candidate.id, exam, &evaluation)?;
                Ok(Some(evaluation))
            }
            Err(reason) => {
                let message = format!("{} fails on the {} questions: {reason}", candidate.id, exam.split);
                self.log(Level::Warning, message)?;
                Ok(None)
            }
        }
    }
}
