//! Bringing the token embeddings of models with different vocabularies into one order, token by token.
//!
//! mergekit's rules for `tokenizer_source`: each model's rows are permuted to the child's vocabulary before the method
//! runs. A token that a model lacks gets the row of its only owner; else the base's; else the mean of its owners' rows;
//! zeros where nobody has it. Rows added to pad the vocabulary are the mean of all rows.

use std::collections::{BTreeMap, HashMap};

use crate::recipe::{TokenRule, TokenSource};

use super::Error;

/// Token → id.
pub type Vocabulary = HashMap<String, u32>;

/// How the rows of several models are brought into the child's order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alignment {
    /// Rows of the child, padding included.
    pub rows: usize,
    /// For each model and row of the child: the model's own row, or `MISSING`.
    own: Vec<Vec<u32>>,
    /// Rows of the child that some model lacks (or is told to replace), with what they get.
    defaults: BTreeMap<u32, Fill>,
    /// Rows that are replaced even in models that have the token.
    forced: Vec<u32>,
    /// Rows that stand for a token, sorted; the others are padding.
    used: Vec<u32>,
}

const MISSING: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq)]
enum Fill {
    Zero,
    /// Mean over (model, row).
    Mean(Vec<(usize, u32)>),
}

/// One model's side of an alignment.
pub(crate) struct Side<'a> {
    pub model: &'a str,
    pub vocabulary: &'a Vocabulary,
    /// Rows of its embeddings; ids beyond have no row.
    pub rows: usize,
}

impl Alignment {
    /// `sides` are the models of one tensor, `base` the index of the base among them.
    pub fn new(
        child: &Vocabulary,
        pad_to_multiple_of: Option<usize>,
        sides: &[Side<'_>],
        base: Option<usize>,
        rules: &BTreeMap<String, TokenRule>,
    ) -> Result<Self, Error> {
        let needed = child.values().map(|id| *id as usize + 1).max().unwrap_or(0);
        let multiple = pad_to_multiple_of.unwrap_or(1);
        let rows = needed.div_ceil(multiple) * multiple;
        let mut own = vec![vec![MISSING; rows]; sides.len()];
        for (side, own) in sides.iter().zip(&mut own) {
            for (token, id) in child {
                if let Some(row) = side.vocabulary.get(token)
                    && (*row as usize) < side.rows
                {
                    own[*id as usize] = *row;
                }
            }
        }
        let mut defaults = BTreeMap::new();
        let mut forced = Vec::new();
        for (token, id) in child {
            let rule = rules.get(token);
            let force = rule.is_some_and(|r| r.force && r.source.is_some());
            if force {
                forced.push(*id);
            } else if own.iter().all(|own| own[*id as usize] != MISSING) {
                continue;
            }
            let fill = match rule.and_then(|r| r.source.as_ref()) {
                Some(source) => ruled(token, source, sides)?,
                None => usual(*id, &own, base),
            };
            defaults.insert(*id, fill);
        }
        let mut used: Vec<u32> = child.values().copied().collect();
        used.sort_unstable();
        forced.sort_unstable();
        Ok(Alignment {
            rows,
            own,
            defaults,
            forced,
            used,
        })
    }

    /// Whether the rows are already in the child's order, for every model.
    pub fn is_identity(&self, sides: &[Side<'_>]) -> bool {
        self.defaults.is_empty()
            && self.used.len() == self.rows
            && sides
                .iter()
                .zip(&self.own)
                .all(|(side, own)| side.rows == self.rows && own.iter().enumerate().all(|(i, row)| *row as usize == i))
    }

    /// Every model's rows in the child's order. `tensors[k]` has `width` columns.
    pub fn apply(&self, tensors: &[&[f32]], width: usize) -> Vec<Vec<f32>> {
        let fills: BTreeMap<u32, Vec<f32>> = self
            .defaults
            .iter()
            .map(|(id, fill)| (*id, fill.row(tensors, width)))
            .collect();
        let aligned = tensors.iter().zip(&self.own).map(|(tensor, own)| {
            let mut out = vec![0.0f32; self.rows * width];
            for id in &self.used {
                let place = &mut out[*id as usize * width..][..width];
                let row = own[*id as usize] as usize;
                if own[*id as usize] != MISSING && self.forced.binary_search(id).is_err() {
                    place.copy_from_slice(&tensor[row * width..][..width]);
                } else if let Some(fill) = fills.get(id) {
                    place.copy_from_slice(fill);
                }
            }
            self.pad(&mut out, width);
            out
        });
        aligned.collect()
    }

    /// Rows without a token become the mean of those with one.
    fn pad(&self, out: &mut [f32], width: usize) {
        if self.used.len() == self.rows || self.used.is_empty() {
            return;
        }
        let mut mean = vec![0.0f64; width];
        for id in &self.used {
            for (m, x) in mean.iter_mut().zip(&out[*id as usize * width..]) {
                *m += f64::from(*x) / self.used.len() as f64;
            }
        }
        for id in 0..self.rows as u32 {
            if self.used.binary_search(&id).is_err() {
                for (x, m) in out[id as usize * width..][..width].iter_mut().zip(&mean) {
                    *x = *m as f32;
                }
            }
        }
    }
}

impl Fill {
    fn row(&self, tensors: &[&[f32]], width: usize) -> Vec<f32> {
        let mut row = vec![0.0f32; width];
        if let Fill::Mean(owners) = self {
            for (model, r) in owners {
                for (x, y) in row.iter_mut().zip(&tensors[*model][*r as usize * width..]) {
                    *x += y;
                }
            }
            let count = owners.len() as f32;
            row.iter_mut().for_each(|x| *x /= count);
        }
        row
    }
}

/// Only owner, else the base, else the mean of the owners, else zeros.
fn usual(id: u32, own: &[Vec<u32>], base: Option<usize>) -> Fill {
    let owners: Vec<(usize, u32)> = own
        .iter()
        .enumerate()
        .map(|(model, own)| (model, own[id as usize]))
        .filter(|(_, row)| *row != MISSING)
        .collect();
    match (&owners[..], base) {
        ([], _) => Fill::Zero,
        ([_], _) => Fill::Mean(owners),
        (_, Some(base)) => match owners.iter().find(|(model, _)| *model == base) {
            Some(owner) => Fill::Mean(vec![*owner]),
            None => Fill::Mean(owners),
        },
        (_, None) => Fill::Mean(owners),
    }
}

/// What the recipe says about one token.
fn ruled(token: &str, source: &TokenSource, sides: &[Side<'_>]) -> Result<Fill, Error> {
    let side = |model: &str| {
        sides
            .iter()
            .position(|s| s.model == model)
            .ok_or_else(|| Error::TokenRule {
                token: token.into(),
                message: format!("the model '{model}' is not among those that are merged here"),
            })
    };
    let row_of = |k: usize, id: Option<u32>, what: &str| match id {
        Some(id) if (id as usize) < sides[k].rows => Ok(Fill::Mean(vec![(k, id)])),
        _ => Err(Error::TokenRule {
            token: token.into(),
            message: format!("the model '{}' has no row for {what}", sides[k].model),
        }),
    };
    match source {
        TokenSource::Zero => Ok(Fill::Zero),
        TokenSource::Model(model) => {
            let k = side(model)?;
            row_of(k, sides[k].vocabulary.get(token).copied(), "it")
        }
        TokenSource::ModelToken { model, token: other } => {
            let k = side(model)?;
            row_of(k, sides[k].vocabulary.get(other).copied(), &format!("'{other}'"))
        }
        TokenSource::ModelTokenId { model, token_id } => {
            row_of(side(model)?, Some(*token_id), &format!("token {token_id}"))
        }
    }
}

/// The union of vocabularies: the base's ids stay, what the others have besides follows in their order.
pub(crate) fn union(base: &Vocabulary, others: &[&Vocabulary]) -> (Vocabulary, Vec<String>) {
    let mut all = base.clone();
    let mut next = base.values().map(|id| id + 1).max().unwrap_or(0);
    let mut added = Vec::new();
    for other in others {
        let mut tokens: Vec<(&u32, &String)> = other.iter().map(|(t, id)| (id, t)).collect();
        tokens.sort_unstable();
        for (_, token) in tokens {
            if !all.contains_key(token) {
                all.insert(token.clone(), next);
                added.push(token.clone());
                next += 1;
            }
        }
    }
    (all, added)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(words: &[&str]) -> Vocabulary {
        words
            .iter()
            .enumerate()
            .map(|(i, w)| (w.to_string(), i as u32))
            .collect()
    }

    fn align(
        child: &[&str],
        a: &[&str],
        b: &[&str],
        base: Option<usize>,
        rules: &BTreeMap<String, TokenRule>,
        pad: Option<usize>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let (a, b) = (vocabulary(a), vocabulary(b));
        let sides = [
            Side {
                model: "a",
                rows: a.len(),
                vocabulary: &a,
            },
            Side {
                model: "b",
                rows: b.len(),
                vocabulary: &b,
            },
        ];
        let alignment = Alignment::new(&vocabulary(child), pad, &sides, base, rules)?;
        // Row r of a is r + 1, of b it is 10 (r + 1).
        let rows = |n: usize, by: f32| (1..=n).map(|r| r as f32 * by).collect::<Vec<f32>>();
        let (ta, tb) = (rows(a.len(), 1.0), rows(b.len(), 10.0));
        Ok(alignment.apply(&[&ta, &tb], 1))
    }

    #[test]
    fn rows_follow_their_tokens() {
        let out = align(
            &["x", "y", "z"],
            &["z", "x", "y"],
            &["y", "x"],
            None,
            &BTreeMap::new(),
            None,
        );
        // b lacks z: a is its only owner.
        assert_eq!(out.unwrap(), [vec![2.0, 3.0, 1.0], vec![20.0, 10.0, 1.0]]);
    }

    #[test]
    fn nobody_has_it_or_padding() {
        let out = align(&["x", "q"], &["x"], &["x"], None, &BTreeMap::new(), Some(4)).unwrap();
        assert_eq!(out, [vec![1.0, 0.0, 0.5, 0.5], vec![10.0, 0.0, 5.0, 5.0]]);
    }

    #[test]
    fn rules_for_single_tokens() {
        let rule = |source, force| TokenRule {
            source: Some(source),
            force,
        };
        let other = TokenSource::ModelToken {
            model: "b".into(),
            token: "y".into(),
        };
        let rules = BTreeMap::from([
            ("x".to_string(), rule(other, true)),
            ("y".to_string(), rule(TokenSource::Zero, false)),
        ]);
        let out = align(&["x", "y"], &["x"], &["x", "y"], None, &rules, None).unwrap();
        assert_eq!(out, [vec![20.0, 0.0], vec![20.0, 20.0]]);
        let missing = TokenSource::Model("c".into());
        let rules = BTreeMap::from([("x".to_string(), rule(missing, true))]);
        assert!(align(&["x"], &["x"], &["x"], None, &rules, None).is_err());
    }

    #[test]
    fn the_union_keeps_the_bases_ids() {
        let (all, added) = union(
            &vocabulary(&["a", "b"]),
            &[&vocabulary(&["c", "a"]), &vocabulary(&["d", "c"])],
        );
        assert_eq!(added, ["c", "d"]);
        assert_eq!((all["a"], all["b"], all["c"], all["d"]), (0, 1, 2, 3));
    }
}
