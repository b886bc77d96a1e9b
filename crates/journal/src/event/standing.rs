//! Who stands where on the search's questions: what a score is worth, what a candidate costs, who is best, who comes to the
//! final. A search decides by this and every view of a run shows it, so it is computed here and nowhere else.

use std::collections::HashSet;

use super::{Candidate, Origin, shrinkage::Prior};

/// A candidate, and what its score is worth.
pub type Standing<'a> = (&'a Candidate, f64);

/// Whether a candidate of this origin was bred in this run, and not known before it.
pub fn counts(origin: &Origin) -> bool {
    !matches!(origin, Origin::Parent | Origin::Baseline)
}

/// Whether a candidate of this origin is paid for by the budget of the search; an optimizer's mean is a by-product, and
/// what is learned has a budget of its own.
pub fn is_paid(origin: &Origin) -> bool {
    counts(origin) && !matches!(origin, Origin::Mean | Origin::Learned)
}

/// Whether a candidate is one of the unsearched merges among `scored` once more, as what a search is told to begin with
/// often is.
pub fn repeats_baseline<'a>(candidate: &Candidate, mut scored: impl Iterator<Item = &'a Candidate>) -> bool {
    candidate.origin == Origin::WarmStart
        && scored.any(|c| c.origin == Origin::Baseline && c.recipe_digest == candidate.recipe_digest)
}

/// Evaluations of the budget that a candidate takes, which comes after `scored`: 1, or 0 if it is free.
pub fn cost<'a>(candidate: &Candidate, scored: impl Iterator<Item = &'a Candidate>) -> u64 {
    u64::from(is_paid(&candidate.origin) && !repeats_baseline(candidate, scored))
}

/// Whether a candidate may be the best: a merge that was asked all questions of its time.
pub fn competes(candidate: &Candidate) -> bool {
    candidate.origin != Origin::Parent && !candidate.eliminated
}

/// What a score is worth by what is known of its race.
pub fn worth(candidate: &Candidate, prior: &Prior) -> f64 {
    prior.worth(candidate.fitness, candidate.stderr * candidate.stderr)
}

/// Draws the scores of one race to their mean by how little is known of each; what the race says of itself, unless nobody
/// was in it.
pub fn weigh<'a>(of_race: impl IntoIterator<Item = (&'a Candidate, &'a mut f64)>) -> Option<Prior> {
    let mut of_race: Vec<(&Candidate, &mut f64)> = of_race.into_iter().collect();
    let scores: Vec<(f64, f64)> = of_race.iter().map(|(c, _)| (c.fitness, c.stderr * c.stderr)).collect();
    let prior = Prior::of(&scores)?;
    for (candidate, worth_of_it) in &mut of_race {
        **worth_of_it = worth(candidate, &prior);
    }
    Some(prior)
}

/// The place of the one of most worth among those that compete; of equals the earlier.
pub fn best<'a>(scored: impl IntoIterator<Item = Standing<'a>>) -> Option<usize> {
    let places = scored.into_iter().enumerate();
    let competing = places.filter(|(_, (candidate, _))| competes(candidate));
    let best = competing.reduce(|a, b| if b.1.1 > a.1.1 { b } else { a });
    best.map(|(place, _)| place)
}

/// The searched candidates that count, those of most worth first; of equals the earlier.
pub fn bred<'a>(scored: impl IntoIterator<Item = Standing<'a>>) -> Vec<&'a Candidate> {
    let is_bred = |(c, _): &Standing<'_>| {
        let origins = matches!(
            c.origin,
            Origin::Search | Origin::WarmStart | Origin::Random | Origin::Learned | Origin::Guided
        );
        origins && !c.eliminated
    };
    let mut bred: Vec<Standing<'a>> = scored.into_iter().filter(is_bred).collect();
    bred.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    bred.into_iter().map(|(candidate, _)| candidate).collect()
}

/// Who comes to the final, each recipe once: every unsearched merge, learned candidate and mean among `scored`, the best
/// random draw, and then the first `most` of the `field`, which are [`bred`] or some of them.
pub fn finalists<'a>(
    scored: impl IntoIterator<Item = &'a Candidate>,
    bred: &[&'a Candidate],
    field: Vec<&'a Candidate>,
    is_mean: impl Fn(&Candidate) -> bool,
    most: usize,
) -> Vec<&'a Candidate> {
    let always = scored.into_iter().filter(|c| match c.origin {
        Origin::Baseline | Origin::Learned => true,
        Origin::Mean => is_mean(c),
        _ => false,
    });
    let lucky = bred.iter().copied().find(|c| c.origin == Origin::Random);
    let mut seen = HashSet::new();
    let mut finalists: Vec<&Candidate> = always.chain(lucky).filter(|c| seen.insert(&c.recipe_digest)).collect();
    finalists.extend(field.into_iter().filter(|c| seen.insert(&c.recipe_digest)).take(most));
    finalists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, origin: &str, fitness: f64, stderr: f64, digest: &str) -> Candidate {
        let candidate = serde_json::json!({
            "id": id, "origin": origin, "generation": 1, "genotype": [], "recipe": {}, "recipe_digest": digest,
            "fitness": fitness, "stderr": stderr, "n": 24, "tasks": [], "eliminated": false, "cached": false,
            "generated_tokens": 0, "merge_ms": 0, "evaluation_ms": 0
        });
        serde_json::from_value(candidate).unwrap()
    }

    fn ids<'a>(candidates: &[&'a Candidate]) -> Vec<&'a str> {
        candidates.iter().map(|c| c.id.as_str()).collect()
    }

    #[test]
    fn the_luckier_stands_behind_the_better_known_when_its_race_is_over() {
        let all = [
            candidate("lucky", "search", 0.74, 0.1, "a"),
            candidate("known", "search", 0.70, 0.02, "b"),
            candidate("third", "search", 0.60, 0.1, "c"),
        ];
        let mut worths: Vec<f64> = all.iter().map(|c| c.fitness).collect();
        let standing = |worths: &[f64]| all.iter().zip(worths.to_vec()).collect::<Vec<_>>();
        assert_eq!(ids(&bred(standing(&worths))), ["lucky", "known", "third"]);
        assert_eq!(best(standing(&worths)), Some(0));
        weigh(all.iter().zip(&mut worths)).unwrap();
        assert_eq!(ids(&bred(standing(&worths))), ["known", "lucky", "third"]);
        assert_eq!(best(standing(&worths)), Some(1));
        assert_eq!(weigh([]), None);
    }

    #[test]
    fn what_nobody_searched_for_is_free_and_comes_to_the_final() {
        let all = [
            candidate("parent-maths", "parent", 0.9, 0.1, "p"),
            candidate("linear", "baseline", 0.5, 0.1, "l"),
            candidate("again", "warm_start", 0.5, 0.1, "l"),
            candidate("r0001", "random", 0.3, 0.1, "r"),
            candidate("c0001", "search", 0.6, 0.1, "c"),
            candidate("c0002", "search", 0.7, 0.1, "d"),
            candidate("mean", "mean", 0.6, 0.1, "m"),
        ];
        let costs: Vec<u64> = (0..all.len()).map(|i| cost(&all[i], all[..i].iter())).collect();
        assert_eq!(costs, [0, 0, 0, 1, 1, 1, 0]);
        let bred = bred(all.iter().map(|c| (c, c.fitness)));
        assert_eq!(ids(&bred), ["c0002", "c0001", "again", "r0001"]);
        let to_final = finalists(&all, &bred, bred.clone(), |_| true, 1);
        assert_eq!(ids(&to_final), ["linear", "mean", "r0001", "c0002"]);
        assert_eq!(
            best(all.iter().map(|c| (c, c.fitness))),
            Some(5),
            "a parent is no child"
        );
    }
}
