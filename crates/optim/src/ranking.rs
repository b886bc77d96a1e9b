//! From outcomes to ranks: who is better, who is tied, and how tied candidates share what their ranks are worth.

use std::cmp::Ordering;

use super::Outcome;

/// Orders two scalar outcomes, the better one first: fitness, then eliminated arms (the later to leave, the better),
/// then failures, which are all equal. Vectors of objectives are no scalars; the callers' door keeps them out.
pub fn compare(a: &Outcome, b: &Outcome) -> Ordering {
    match (a, b) {
        (Outcome::Fitness(x), Outcome::Fitness(y)) => x.cost().total_cmp(&y.cost()),
        (Outcome::Eliminated { order: x }, Outcome::Eliminated { order: y }) => y.cmp(x),
        _ => class(a).cmp(&class(b)),
    }
}

fn class(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Fitness(_) | Outcome::Objectives { .. } => 0,
        Outcome::Eliminated { .. } => 1,
        Outcome::Failed => 2,
    }
}

/// A batch of candidates, best first, cut into groups of equals.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Positions in the batch, best first; equals in the order of the batch.
    pub order: Vec<usize>,
    /// Lengths of the groups of equals along `order`.
    ties: Vec<usize>,
}

impl Ranking {
    pub fn of(outcomes: &[&Outcome]) -> Self {
        Self::by(outcomes.len(), |a, b| compare(outcomes[a], outcomes[b]))
    }

    /// Ranks `0..n` by any comparison that says `Equal` for ties.
    pub fn by(n: usize, compare: impl Fn(usize, usize) -> Ordering) -> Self {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| compare(a, b));
        let ties = order
            .chunk_by(|&a, &b| compare(a, b) == Ordering::Equal)
            .map(<[usize]>::len)
            .collect();
        Self { order, ties }
    }

    /// True when nobody is better than anybody: a generation that says nothing.
    pub fn is_flat(&self) -> bool {
        self.ties.len() <= 1
    }

    pub fn has_ties(&self) -> bool {
        self.ties.iter().any(|&n| n > 1)
    }

    /// What each candidate of the batch gets when rank i is worth `by_rank[i]` and equals share alike.
    pub fn share(&self, by_rank: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; self.order.len()];
        let mut start = 0;
        for &n in &self.ties {
            let ranks = start..start + n;
            let share = match n {
                1 => by_rank[start],
                _ => by_rank[ranks.clone()].iter().sum::<f64>() / n as f64,
            };
            self.order[ranks].iter().for_each(|&position| shares[position] = share);
            start += n;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitness(value: f64) -> Outcome {
        Outcome::from_score(value)
    }

    #[test]
    fn fitness_above_eliminated_above_failed() {
        let batch = [
            Outcome::Failed,
            Outcome::Eliminated { order: 0 },
            fitness(-5.0),
            Outcome::Eliminated { order: 3 },
            fitness(2.0),
        ];
        let ranking = Ranking::of(&batch.iter().collect::<Vec<_>>());
        assert_eq!(ranking.order, [4, 2, 3, 1, 0]);
        assert!(!ranking.has_ties() && !ranking.is_flat());
    }

    #[test]
    fn equals_share_the_average_of_their_ranks() {
        let batch = [fitness(1.0), fitness(3.0), fitness(1.0), fitness(0.0)];
        let ranking = Ranking::of(&batch.iter().collect::<Vec<_>>());
        assert_eq!(ranking.share(&[8.0, 4.0, 2.0, 1.0]), [3.0, 8.0, 3.0, 1.0]); // (4 + 2) / 2
        assert!(ranking.has_ties() && !ranking.is_flat());
    }

    #[test]
    fn flat_batches() {
        let of = |batch: &[Outcome]| Ranking::of(&batch.iter().collect::<Vec<_>>());
        assert!(of(&[]).is_flat());
        assert!(of(&[fitness(1.0)]).is_flat());
        assert!(of(&[Outcome::Failed, Outcome::Failed]).is_flat());
        assert!(of(&[fitness(0.0), fitness(-0.0)]).is_flat(), "zero has no sign here");
        assert_eq!(of(&vec![Outcome::Failed; 4]).share(&[4.0, 3.0, 2.0, 1.0]), [2.5; 4]);
    }
}
