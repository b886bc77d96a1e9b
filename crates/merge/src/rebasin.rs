//! Git Re-Basin: units of two models that may change places, matched so that the models' weights are most alike.
//!
//! Source: Ainsworth et al. 2023, arXiv:2209.04836, section 3.2: of all orders P of a layer's units, weight matching takes the one with
//! the largest ⟨W, P W′⟩ over the weights into and out of the units, a linear assignment. Here no weights are between two layers'
//! units but the residual stream, whose order stays, so that one assignment for each layer is the optimum and nothing is iterated.
//! Heads stay within what they share keys and values with: each pair of groups is matched by itself, and then the groups.

use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};

/// What units have of each other, `[count, count]` row by row: ⟨unit of the base, unit of the model⟩, summed over all that is added.
pub struct Likeness {
    count: usize,
    products: Vec<f32>,
}

impl Likeness {
    /// Of so many units, which have nothing of each other yet.
    pub fn new(count: usize) -> Self {
        Likeness {
            count,
            products: vec![0.0; count * count],
        }
    }

    /// Adds units' numbers of both models, `[count, any]` row by row.
    pub fn add(&mut self, base: &[f32], model: &[f32]) {
        let width = base.len() / self.count.max(1);
        let products = MatMut::from_row_major_slice_mut(&mut self.products, self.count, self.count);
        let base = MatRef::from_row_major_slice(base, self.count, width);
        let model = MatRef::from_row_major_slice(model, self.count, width);
        matmul(products, Accum::Add, base, model.transpose(), 1.0, Par::Seq);
    }

    fn at(&self, base: usize, model: usize) -> f64 {
        f64::from(self.products[base * self.count + model])
    }

    /// For each unit of the base, the model's that comes to stand there; `None` where a product is not finite.
    pub fn matched(&self) -> Option<Vec<usize>> {
        assignment(self.count, |base, model| self.at(base, model))
    }
}

/// The orders of heads that share keys and values in groups of `queries.count / shared.count`: that of the groups, and that of
/// all queries, which go with their group. `None` where a product is not finite.
pub fn matched_heads(shared: &Likeness, queries: &Likeness) -> Option<(Vec<usize>, Vec<usize>)> {
    let groups = shared.count;
    let size = queries.count / groups.max(1);
    let mut within = Vec::with_capacity(groups * groups);
    for pair in 0..groups * groups {
        let (base, model) = (pair / groups * size, pair % groups * size);
        let order = assignment(size, |i, j| queries.at(base + i, model + j))?;
        let alike: f64 = order
            .iter()
            .enumerate()
            .map(|(i, j)| queries.at(base + i, model + j))
            .sum();
        within.push((alike, order));
    }
    let of_groups = assignment(groups, |base, model| {
        shared.at(base, model) + within[base * groups + model].0
    })?;
    let of_queries = of_groups.iter().enumerate().flat_map(|(base, model)| {
        let order = &within[base * groups + model].1;
        order.iter().map(move |j| model * size + j)
    });
    let of_queries = of_queries.collect();
    Some((of_groups, of_queries))
}

/// For each row its column, all different, so that the sum of gains is largest; `None` where a gain is not finite. Of equal sums
/// some one. Time grows as count³ at worst, and hardly more than count² where most rows have a column of their own that is best.
///
/// Source: Kuhn 1955, with the shortest augmenting paths and potentials of Jonker and Volgenant 1987.
#[allow(clippy::needless_range_loop)] // a column indexes several tables
fn assignment(count: usize, gain: impl Fn(usize, usize) -> f64) -> Option<Vec<usize>> {
    // Column 0 and row 0 are nobody's.
    let (mut of_rows, mut of_columns) = (vec![0.0; count + 1], vec![0.0; count + 1]);
    let (mut row_of, mut before) = (vec![0; count + 1], vec![0; count + 1]);
    for row in 1..=count {
        row_of[0] = row;
        let mut at = 0;
        let (mut least, mut seen) = (vec![f64::INFINITY; count + 1], vec![false; count + 1]);
        while row_of[at] != 0 {
            seen[at] = true;
            let row = row_of[at];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for column in 1..=count {
                if seen[column] {
                    continue;
                }
                let cost = -gain(row - 1, column - 1) - of_rows[row] - of_columns[column];
                if cost < least[column] {
                    (least[column], before[column]) = (cost, at);
                }
                if least[column] < step {
                    (step, next) = (least[column], column);
                }
            }
            if !step.is_finite() {
                return None;
            }
            for column in 0..=count {
                if seen[column] {
                    of_rows[row_of[column]] += step;
                    of_columns[column] -= step;
                } else {
                    least[column] -= step;
                }
            }
            at = next;
        }
        while at != 0 {
            row_of[at] = row_of[before[at]];
            at = before[at];
        }
    }
    let mut column_of = vec![0; count];
    (1..=count).for_each(|column| column_of[row_of[column] - 1] = column - 1);
    Some(column_of)
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    /// The largest sum of all orders, by trying them.
    fn tried(gains: &[f32], count: usize, row: usize, free: &mut Vec<usize>) -> f64 {
        if row == count {
            return 0.0;
        }
        let mut best = f64::NEG_INFINITY;
        for i in 0..free.len() {
            let column = free.swap_remove(i);
            best = best.max(f64::from(gains[row * count + column]) + tried(gains, count, row + 1, free));
            free.push(column);
            let last = free.len() - 1;
            free.swap(i, last);
        }
        best
    }

    fn is_order(order: &[usize]) -> bool {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        sorted.iter().enumerate().all(|(i, j)| i == *j)
    }

    #[test]
    fn an_assignment_is_the_best_of_all_orders() {
        for seed in 0..30 {
            for count in 0..7 {
                let mut gains = noise(seed, count * count);
                if seed % 3 == 0 {
                    // Ties, and rows that want the same column.
                    gains.iter_mut().for_each(|g| *g = (*g * 2.0).round());
                }
                let found = assignment(count, |i, j| f64::from(gains[i * count + j])).unwrap();
                assert!(is_order(&found), "{found:?}");
                let sum: f64 = found
                    .iter()
                    .enumerate()
                    .map(|(i, j)| f64::from(gains[i * count + j]))
                    .sum();
                let best = tried(&gains, count, 0, &mut (0..count).collect());
                assert!((sum - best).abs() < 1e-9, "{seed} {count}: {sum} {best}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_has_no_assignment() {
        assert_eq!(assignment(2, |_, _| f64::NAN), None);
        assert_eq!(assignment(3, |i, _| if i == 1 { f64::NEG_INFINITY } else { 0.0 }), None);
    }

    fn shuffled(rows: &[f32], order: &[usize]) -> Vec<f32> {
        let width = rows.len() / order.len();
        order
            .iter()
            .flat_map(|i| rows[i * width..][..width].iter().copied())
            .collect()
    }

    /// An order that depends on a seed.
    fn order(seed: u64, count: usize) -> Vec<usize> {
        let keys = noise(seed, count);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|i, j| keys[*i].total_cmp(&keys[*j]));
        order
    }

    #[test]
    fn shuffled_units_are_found_again_whatever_is_added_to_them() {
        for seed in 0..5 {
            for count in [1, 5, 40] {
                let (into, out) = (noise(seed, count * 12), noise(seed + 50, count * 7));
                let by = order(seed + 100, count);
                let mut likeness = Likeness::new(count);
                let near = |rows: Vec<f32>, seed: u64| -> Vec<f32> {
                    rows.iter()
                        .zip(noise(seed, rows.len()))
                        .map(|(x, e)| x + 0.1 * e)
                        .collect()
                };
                likeness.add(&into, &near(shuffled(&into, &by), seed + 7));
                likeness.add(&out, &near(shuffled(&out, &by), seed + 8));
                let found = likeness.matched().unwrap();
                // The model's unit i was the base's by[i].
                assert!(
                    found.iter().enumerate().all(|(base, model)| by[*model] == base),
                    "{seed} {count}"
                );
            }
        }
    }

    /// A query that went to another group would meet keys that it was never trained with.
    #[test]
    fn heads_stay_with_the_keys_that_they_share() {
        for (seed, groups, size) in [(1, 2, 3), (2, 3, 1), (3, 4, 2), (4, 1, 5)] {
            let (keys, queries) = (noise(seed, groups * 10), noise(seed + 9, groups * size * 10));
            let of_groups = order(seed + 20, groups);
            let of_queries: Vec<usize> = of_groups
                .iter()
                .enumerate()
                .flat_map(|(g, from)| {
                    order(seed + 30 + g as u64, size)
                        .into_iter()
                        .map(move |j| from * size + j)
                })
                .collect();
            let (mut shared, mut own) = (Likeness::new(groups), Likeness::new(groups * size));
            shared.add(&keys, &shuffled(&keys, &of_groups));
            own.add(&queries, &shuffled(&queries, &of_queries));
            let (found, found_queries) = matched_heads(&shared, &own).unwrap();
            assert!(found.iter().enumerate().all(|(base, model)| of_groups[*model] == base));
            assert!(
                found_queries
                    .iter()
                    .enumerate()
                    .all(|(base, model)| of_queries[*model] == base)
            );
            for (at, query) in found_queries.iter().enumerate() {
                assert_eq!(query / size, found[at / size], "{seed}");
            }
        }
    }
}
