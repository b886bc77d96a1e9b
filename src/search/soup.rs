//! Which experts help: asked before the search, so that any number of checkpoints can be named, whatever they are worth.
//!
//! Beginning with the expert that is best alone, each joins that makes the merge of those before it better, on the same
//! questions. If that merge is better than every unsearched merge of all experts, the search begins there, and each expert
//! that was left out has one gene for each parameter: it can still be taken in, and hardly slows the others' search down.
//!
//! **Source**: Wortsman et al. 2022 (2203.05482), greedy soups; here the experts are merged as the space merges them.

use super::{Entrant, Interrupt, Run};
use crate::{
    event::{CandidateId, Level, Origin},
    space::Optimizer,
};

/// The fewest experts of whom some can be left out: what two are worth alone and together, the baselines say.
const FEWEST: usize = 3;

impl Run<'_, '_> {
    pub(super) fn greedy_soup(&mut self) -> Result<(), Interrupt> {
        let plan = self.plan;
        let settings = &plan.space.search;
        let starts_elsewhere = !plan.warm_starts.is_empty() || settings.optimizer == Optimizer::Random;
        let mut experts: Vec<&str> = plan.space.experts().collect();
        if !settings.greedy_soup || starts_elsewhere || experts.len() < FEWEST {
            return Ok(());
        }
        experts.sort_by(|a, b| self.alone(b).total_cmp(&self.alone(a)));
        let (mut members, mut best) = (Vec::new(), f64::MIN);
        for (expert, number) in experts.iter().zip(1..) {
            let joined = [members.as_slice(), &[*expert]].concat();
            let Some(entrant) = self.soup_of(&joined, number) else {
                return Ok(());
            };
            if self.end_of_search(0)?.is_some() {
                return Ok(());
            }
            match self.measure(&entrant)? {
                Ok(fitness) if fitness > best => (members, best) = (joined, fitness),
                _ => {}
            }
        }
        let baselines = self.scored.iter().filter(|c| c.origin == Origin::Baseline);
        if baselines.map(|c| c.fitness).all(|of_all| best > of_all) {
            self.soup = plan.genome.around_soup(&members);
            let left_out: Vec<&str> = experts.into_iter().filter(|e| !members.contains(e)).collect();
            let mut message = format!("the search starts from {}", members.join(" + "));
            if !left_out.is_empty() {
                message += &format!("; {} left out", left_out.join(", "));
            }
            self.log(Level::Info, message)?;
        }
        Ok(())
    }

    fn alone(&self, expert: &str) -> f64 {
        let id = CandidateId::Parent(expert.into()).to_string();
        let parent = self.scored.iter().find(|c| c.id == id);
        parent.map_or(f64::MIN, |c| c.fitness)
    }

    fn soup_of(&self, members: &[&str], number: u64) -> Option<Entrant> {
        let genotype = self.plan.genome.soup(members)?;
        Some(Entrant {
            id: CandidateId::Soup(number).to_string(),
            origin: Origin::WarmStart,
            generation: None,
            who: self.plan.genome.decode(&genotype),
            genotype,
            genes: self.genes(),
        })
    }
}
