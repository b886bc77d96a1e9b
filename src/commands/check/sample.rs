//! Candidates drawn from the space and planned: a search in which none of them can be merged finds nothing.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::{merge::Plan, recipe::Recipe, session::Session, space::Space};

/// Candidates that are planned.
const DRAWN: usize = 64;

/// What became of the candidates that were drawn.
#[derive(Serialize)]
pub struct Sample {
    pub drawn: usize,
    pub failed: usize,
    /// By reason, the commonest first.
    pub reasons: Vec<(String, usize)>,
}

pub struct Drawn {
    pub sample: Sample,
    /// Those that can be merged.
    pub recipes: Vec<Recipe>,
}

impl Sample {
    fn commonest(&self) -> &str {
        self.reasons.first().map_or("", |(reason, _)| reason)
    }

    pub fn problem(&self) -> Option<String> {
        (self.drawn > 0 && self.failed == self.drawn).then(|| {
            format!(
                "none of {} candidates drawn from this space can be merged: {}",
                self.drawn,
                self.commonest()
            )
        })
    }

    pub fn warning(&self) -> Option<String> {
        (0 < self.failed && self.failed < self.drawn).then(|| {
            format!(
                "{} of {} candidates drawn from this space cannot be merged, which a search pays for: {}",
                self.failed,
                self.drawn,
                self.commonest()
            )
        })
    }
}

pub fn draw(session: &Session) -> Result<Drawn> {
    let drawn = session.genome().sample(DRAWN, session.space().search.seed)?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let (mut recipes, total) = (Vec::new(), drawn.len());
    for recipe in drawn {
        match Plan::new(&recipe, session.parents()) {
            Ok(_) => recipes.push(recipe),
            Err(e) => *reasons.entry(e.to_string()).or_default() += 1,
        }
    }
    let mut reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let sample = Sample {
        drawn: total,
        failed: total - recipes.len(),
        reasons,
    };
    Ok(Drawn { sample, recipes })
}

/// Parents of which some method takes nothing, in words: SLERP goes from the first expert to the second, and leaves a base
/// out.
pub fn left_out(space: &Space, recipes: &[Recipe]) -> Vec<String> {
    let mut mixed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for recipe in recipes {
        // A hybrid's layers come from stages before the last.
        let methods: Vec<&str> = recipe.stages.iter().map(|stage| stage.merge_method.name()).collect();
        let of_method = mixed.entry(methods[0]).or_default();
        of_method.extend(recipe.models());
    }
    let mut words = Vec::new();
    for (method, models) in mixed {
        let takes = |name: &&str| models.contains(name);
        let names = || space.models.iter().map(|(name, _)| name.as_str());
        let (taken, missing): (Vec<&str>, Vec<&str>) = names().partition(takes);
        // A path of layers may or may not visit a source.
        if !missing.is_empty() && space.data_flow_space.is_none() {
            words.push(format!(
                "{method} mixes {}; no child of it has anything of {}",
                taken.join(" and "),
                missing.join(" and ")
            ));
        }
    }
    words
}
