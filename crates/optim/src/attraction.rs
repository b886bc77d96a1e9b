//! Competition and attraction: who survives and who mates with whom, where it is known what each individual answers.
//!
//! A question is a resource: all who get it right share it, so that those who get right what nobody else does survive
//! beside the best, and a population keeps what it would need to be combined. The first parent is drawn by what it gets
//! of all questions, the second one by what it gets where the first one gets less. Their child is a mixture, in one
//! proportion up to a split point among the layers and in the opposite one from there.
//!
//! **Source**: Abrantes, Lange & Tang 2025 (2508.16204), M2N2: with scores s and z_j = Σ_k s_kj, individual k gets
//! s_kj / z_j^α of question j. Deviations: a whole generation competes at once, and the worst leave one by one; genes are
//! mixed in straight lines, since they are a merge's parameters and not a model's weights, and mutated afterwards.

use serde::{Deserialize, Serialize};

use super::chance::Stream;
use super::domain::{Domain, Gene, Genotype};

/// What an individual made of one question.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Which question, by any number that names it.
    pub question: u32,
    /// From 0, nothing, to 1, right.
    pub score: f64,
    /// How much the question counts.
    pub weight: f64,
}

/// What each individual gets of each question.
#[derive(Clone, Debug, PartialEq)]
pub struct Niches(Vec<Vec<f64>>);

impl Niches {
    /// Over the questions that all have answered; `answers` are in the order of questions. `None` if there are none, or
    /// nobody gets anything.
    pub fn new(answers: &[&[Answered]], competition: f64) -> Option<Self> {
        let scores = common(answers);
        let n = scores.first().map_or(0, Vec::len);
        let mut rows = vec![vec![0.0; n]; scores.len()];
        for j in 0..n {
            let total: f64 = scores.iter().map(|row| row[j].score).sum();
            if total > 0.0 {
                let part = 1.0 / libm::pow(total, competition);
                for (row, scores) in rows.iter_mut().zip(&scores) {
                    row[j] = scores[j].weight * scores[j].score * part;
                }
            }
        }
        rows.iter().flatten().any(|x| *x > 0.0).then_some(Self(rows))
    }

    /// What an individual gets of all questions.
    pub fn worth(&self, k: usize) -> f64 {
        self.0[k].iter().sum()
    }

    /// How much `b` offers to `a`: what it gets where `a` gets less.
    fn attraction(&self, a: usize, b: usize) -> f64 {
        self.0[a].iter().zip(&self.0[b]).map(|(a, b)| (b - a).max(0.0)).sum()
    }

    /// Two parents; the second one by its worth, too, if nobody has what the first one lacks.
    pub fn pair(&self, stream: &mut Stream) -> (usize, usize) {
        let all = 0..self.0.len();
        let worth: Vec<f64> = all.clone().map(|k| self.worth(k)).collect();
        let first = draw(&worth, stream);
        let attraction: Vec<f64> = all.map(|k| self.attraction(first, k)).collect();
        let is_drawn = attraction.iter().any(|x| *x > 0.0);
        (first, draw(if is_drawn { &attraction } else { &worth }, stream))
    }
}

/// The answers to the questions that all have answered.
fn common(answers: &[&[Answered]]) -> Vec<Vec<Answered>> {
    let find = |of: &[Answered], question: u32| of.binary_search_by_key(&question, |a| a.question).ok();
    let Some((first, others)) = answers.split_first() else {
        return Vec::new();
    };
    let shared: Vec<u32> = first
        .iter()
        .map(|a| a.question)
        .filter(|q| others.iter().all(|of| find(of, *q).is_some()))
        .collect();
    let of_one = |of: &&[Answered]| shared.iter().filter_map(|q| Some(of[find(of, *q)?])).collect();
    answers.iter().map(of_one).collect()
}

/// A place, drawn in proportion to weights of which at least one is above 0.
fn draw(weights: &[f64], stream: &mut Stream) -> usize {
    let mut left = stream.uniform() * weights.iter().sum::<f64>();
    let drawn = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    drawn.unwrap_or_else(|| weights.iter().rposition(|w| *w > 0.0).unwrap_or(0))
}

/// Who survives among individuals that `names` tells apart, best first: the one that gets least leaves, and what it got
/// is free for the others, until `size` are left. Among equals the younger, of the higher name, stays. `None` as in
/// [`Niches::new`].
pub fn survivors(answers: &[&[Answered]], names: &[u64], competition: f64, size: usize) -> Option<Vec<usize>> {
    let shared = common(answers);
    let mut alive: Vec<usize> = (0..answers.len()).collect();
    loop {
        let rows: Vec<&[Answered]> = alive.iter().map(|&k| shared[k].as_slice()).collect();
        let niches = Niches::new(&rows, competition)?;
        let mut order: Vec<usize> = (0..alive.len()).collect();
        order.sort_by(|&a, &b| {
            let by_worth = niches.worth(b).total_cmp(&niches.worth(a));
            by_worth.then(names[alive[b]].cmp(&names[alive[a]]))
        });
        if alive.len() <= size {
            return Some(order.into_iter().map(|i| alive[i]).collect());
        }
        alive.remove(order[order.len() - 1]);
    }
}

/// For each gene its place in the order of layers, from the layer groups that genes belong to: those of one group share
/// one, those of the whole recipe stand first. Where there are no two groups, every gene has a place of its own.
pub fn places(groups: &[Option<usize>], genes: usize) -> Vec<usize> {
    let mut known: Vec<usize> = groups.iter().flatten().copied().collect();
    known.sort_unstable();
    known.dedup();
    if known.len() < 2 {
        return (0..genes).collect();
    }
    let place = |group: &Option<usize>| group.and_then(|g| known.binary_search(&g).ok()).unwrap_or(0);
    groups.iter().map(place).collect()
}

/// A mixture: of each gene before a split point `a` has the share w and `b` the rest, from there it is the other way
/// round. What cannot be mixed comes from one of them, with those shares as chances.
pub fn mixture(domain: &Domain, places: &[usize], a: &[f64], b: &[f64], stream: &mut Stream) -> Genotype {
    let w = stream.uniform();
    let last = places.iter().copied().max().unwrap_or(0);
    let split = if last > 0 { 1 + stream.below(last) } else { 0 };
    let mut mix = |(i, gene): (usize, &Gene)| {
        let share = if places[i] < split { w } else { 1.0 - w };
        match gene {
            Gene::Real { low, high } => (b[i] + share * (a[i] - b[i])).clamp(*low, *high),
            Gene::Int { .. } | Gene::Choice { .. } if stream.chance(share) => a[i],
            Gene::Int { .. } | Gene::Choice { .. } => b[i],
        }
    };
    domain.genes().iter().enumerate().map(&mut mix).collect()
}

#[cfg(test)]
mod tests {
    use super::super::chance::Address;
    use super::*;

    fn stream(index: u64) -> Stream {
        let at = Address {
            restart: 0,
            generation: 0,
            index,
        };
        Stream::at(5, at)
    }

    fn answers(scores: &[f64]) -> Vec<Answered> {
        let one = |(i, score): (usize, &f64)| Answered {
            question: i as u32,
            score: *score,
            weight: 1.0,
        };
        scores.iter().enumerate().map(one).collect()
    }

    fn of(all: &[Vec<Answered>]) -> Vec<&[Answered]> {
        all.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn shares_by_hand() {
        // The first two share questions 0 and 1, the third has question 2 to itself; question 3 is nobody's.
        let all = [
            answers(&[1.0, 1.0, 0.0, 0.0]),
            answers(&[1.0, 1.0, 0.0, 0.0]),
            answers(&[0.0, 0.0, 1.0, 0.0]),
        ];
        let niches = Niches::new(&of(&all), 1.0).unwrap();
        assert_eq!([0, 1, 2].map(|k| niches.worth(k)), [1.0, 1.0, 1.0]);
        assert_eq!(
            (
                niches.attraction(0, 1),
                niches.attraction(0, 2),
                niches.attraction(2, 0)
            ),
            (0.0, 1.0, 1.0)
        );
        let half = Niches::new(&of(&all), 0.5).unwrap();
        assert_eq!(half.worth(0), 2.0 / 2.0f64.sqrt());
        let none = Niches::new(&of(&all), 0.0).unwrap();
        assert_eq!([0, 1, 2].map(|k| none.worth(k)), [2.0, 2.0, 1.0]);
    }

    #[test]
    fn parents_are_drawn_by_worth_and_by_what_the_first_one_lacks() {
        let all = [
            answers(&[1.0, 1.0, 0.0]),
            answers(&[1.0, 1.0, 0.0]),
            answers(&[0.0, 0.0, 1.0]),
        ];
        let niches = Niches::new(&of(&all), 1.0).unwrap();
        let pairs: Vec<(usize, usize)> = (0..3000).map(|i| niches.pair(&mut stream(i))).collect();
        for (a, b) in &pairs {
            assert!((*a == 2) != (*b == 2), "the two niches always meet: {a} and {b}");
        }
        let rare = pairs.iter().filter(|p| p.0 == 2).count();
        assert!((900..1100).contains(&rare), "{rare} of 3000");
        let same = [answers(&[1.0]), answers(&[1.0])];
        let niches = Niches::new(&of(&same), 1.0).unwrap();
        assert!((0..50).any(|i| niches.pair(&mut stream(i)) == (0, 1)));
    }

    #[test]
    fn the_worst_leave_one_by_one() {
        // Three of a kind and one that is worse but alone: as soon as one of the three has left, all get the same.
        let all = [
            answers(&[1.0, 1.0, 0.0]),
            answers(&[1.0, 1.0, 0.0]),
            answers(&[1.0, 1.0, 0.0]),
            answers(&[0.0, 0.0, 1.0]),
        ];
        let alive = survivors(&of(&all), &[0, 1, 2, 3], 1.0, 2).unwrap();
        assert_eq!(alive, [2, 3], "the youngest of the three has their questions to itself");
        assert_eq!(survivors(&of(&all), &[0, 1, 2, 3], 0.0, 2).unwrap(), [2, 1]);
    }

    #[test]
    fn only_questions_that_all_have_answered_count() {
        let mut long = answers(&[0.0, 1.0, 1.0]);
        let short = answers(&[1.0, 0.0]);
        let niches = Niches::new(&[&long, &short], 1.0).unwrap();
        assert_eq!((niches.worth(0), niches.worth(1)), (1.0, 1.0));
        long.drain(..2);
        assert_eq!(Niches::new(&[&long, &short], 1.0), None);
        assert_eq!(Niches::new(&[], 1.0), None);
        assert_eq!(Niches::new(&of(&[answers(&[0.0]), answers(&[0.0])]), 1.0), None);
    }

    #[test]
    fn a_split_never_parts_a_group() {
        assert_eq!(places(&[None, Some(4), Some(1), Some(4)], 4), [0, 1, 0, 1]);
        assert_eq!(places(&[None, Some(1), Some(1)], 3), [0, 1, 2]);
        assert_eq!(places(&[], 2), [0, 1]);
        let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 6]).unwrap();
        let groups = [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2)];
        let places = places(&groups, 6);
        let mut splits = std::collections::BTreeSet::new();
        for index in 0..200 {
            let child = mixture(&domain, &places, &[1.0; 6], &[0.0; 6], &mut stream(index));
            assert_eq!(child[..3], child[3..], "genes of one group lie on one side");
            assert!(child[0] == child[1] || (child[0] + child[1] - 1.0).abs() < 1e-12);
            splits.insert(child[0] == child[1]);
        }
        assert_eq!(splits.len(), 2, "both split points are drawn");
    }

    #[test]
    fn a_mixture_lies_between_its_parents() {
        let domain = Domain::new(vec![
            Gene::Real { low: -1.0, high: 1.0 },
            Gene::Int { low: 0, high: 9 },
            Gene::Choice { n: 5 },
        ])
        .unwrap();
        for index in 0..500 {
            let s = &mut stream(index);
            let (a, b) = (domain.sample(s), domain.sample(s));
            let child = mixture(&domain, &[0, 1, 2], &a, &b, s);
            domain.check(&child).unwrap();
            assert!((a[0].min(b[0])..=a[0].max(b[0])).contains(&child[0]));
            assert!((1..3).all(|i| child[i] == a[i] || child[i] == b[i]));
        }
    }
}
