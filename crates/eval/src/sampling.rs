//! Several answers to one question, drawn at random: how many, how, and what they are worth together.
//!
//! The scores of `n` samples: `maj@n`, whether the commonest answer is right (self-consistency, Wang et al. 2023), and
//! `pass@k`, how likely one of `k` is right (Chen et al. 2021, unbiased). Every draw follows from the task's seed and the
//! question, whatever else is asked.

use super::Error;
use heterosis_engine::Sampling;
use heterosis_yaml::{self as yaml, Map, Node, Value};
use serde::{Deserialize, Serialize, Serializer};

/// The most samples of one question.
const MOST: usize = 1024;

/// How many answers are drawn to a question, and how.
///
/// As a block of its own between programs; in a file that people write it is two keys, [`Samples::read`] and
/// [`Samples::write`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// Answers to each question, from 1.
    pub n: usize,
    /// By which logits are divided; 0 takes the likeliest token.
    pub temperature: f32,
    /// 0: all tokens.
    pub top_k: usize,
    /// The least set of tokens that has this share of the probability is drawn from (nucleus sampling, Holtzman et al.
    /// 2020, arXiv 1904.09751); 1: all tokens.
    pub top_p: f32,
    /// Tokens with less than this share of the likeliest one's probability are left out (Nguyen et al. 2024, arXiv
    /// 2407.01082); 0: none is.
    pub min_p: f32,
    /// From which, with the question's id and the sample's number, all draws follow.
    pub seed: u64,
}

impl Eq for Samples {}

impl Samples {
    /// `n` samples as most people draw them: temperature 0.7, all tokens.
    pub fn new(n: usize) -> Self {
        Samples {
            n,
            temperature: 0.7,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }

    /// The keys `samples` and `sampling` of a task file, or of a task in a search space.
    ///
    /// # Errors
    /// Numbers out of their bounds; `sampling` without `samples`.
    pub fn read(map: &Map<'_>) -> Result<Option<Self>, yaml::Error> {
        let (count, how) = (map.optional("samples"), map.optional("sampling"));
        let Some(count) = count else {
            return match how {
                Some(node) => Err(node.error("'sampling' goes with 'samples: N'")),
                None => Ok(None),
            };
        };
        // Runs were written with all of it in one block.
        if let (Value::Map(_), None) = (&count.value, how) {
            let map = count.map()?;
            return Samples::read_parts(map.required("n")?, count, Some(&map)).map(Some);
        }
        let map = how.map(Node::map).transpose()?;
        Samples::read_parts(count, how.unwrap_or(count), map.as_ref()).map(Some)
    }

    fn read_parts(count: &Node, how: &Node, map: Option<&Map<'_>>) -> Result<Self, yaml::Error> {
        let n = match count.usize()? {
            n @ 1..=MOST => n,
            n => return Err(count.error(format!("{n} is not between 1 and {MOST}"))),
        };
        let mut samples = Samples::new(n);
        if let Some(map) = map {
            samples.read_how(map)?;
        }
        samples.checked().map_err(|e| how.error(e))
    }

    fn read_how(&mut self, map: &Map<'_>) -> Result<(), yaml::Error> {
        let number = |key| map.optional(key).map(Node::f64).transpose();
        let (temperature, top_p, min_p) = (number("temperature")?, number("top_p")?, number("min_p")?);
        self.temperature = temperature.map_or(self.temperature, |t| t as f32);
        self.top_p = top_p.map_or(self.top_p, |p| p as f32);
        self.min_p = min_p.map_or(self.min_p, |p| p as f32);
        self.top_k = map.optional("top_k").map_or(Ok(self.top_k), Node::usize)?;
        self.seed = map.optional("seed").map_or(Ok(self.seed), Node::u64)?;
        map.finish()
    }

    /// As the keys that [`Samples::read`] reads, none where there are no samples; for serde's `flatten`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn write<S: Serializer>(samples: &Option<Self>, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Keys {
            samples: usize,
            sampling: How,
        }
        #[derive(Serialize)]
        struct How {
            temperature: f32,
            top_k: usize,
            top_p: f32,
            min_p: f32,
            seed: u64,
        }
        let keys = samples.as_ref().map(|samples| Keys {
            samples: samples.n,
            sampling: How {
                temperature: samples.temperature,
                top_k: samples.top_k,
                top_p: samples.top_p,
                min_p: samples.min_p,
                seed: samples.seed,
            },
        });
        keys.serialize(serializer)
    }

    /// Refuses what cannot be drawn with.
    ///
    /// # Errors
    /// A number out of its bounds, or several samples that would all be the same.
    pub fn checked(self) -> Result<Self, String> {
        let drawn = self.sampling(0).checked()?;
        match (drawn, self.n) {
            (None, n) if n > 1 => Err(format!(
                "at temperature 0 all {n} samples are the same; write one above 0"
            )),
            _ => Ok(self),
        }
    }

    fn sampling(&self, seed: u64) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed,
        }
    }

    /// How one of the samples of a question is drawn; greedily at temperature 0.
    pub fn of_question(&self, question: &str, sample: usize) -> Option<Sampling> {
        let key = format!("{} {sample} {question}", self.seed);
        let bytes = blake3::hash(key.as_bytes());
        let seed = bytes
            .as_bytes()
            .iter()
            .take(8)
            .fold(0, |n, byte| n << 8 | u64::from(*byte));
        Some(self.sampling(seed)).filter(|s| s.temperature > 0.0)
    }

    /// The names of the scores that the samples have together: `maj@n`, and `pass@k` for the powers of two up to `n`, and `n`.
    pub fn scores(&self) -> Vec<String> {
        if self.n < 2 {
            return Vec::new();
        }
        let powers = std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|k| *k < self.n);
        let passes = powers.chain([self.n]).map(|k| format!("pass@{k}"));
        [format!("maj@{}", self.n)].into_iter().chain(passes).collect()
    }
}

/// Of `n` samples of which `right` are right, how likely one of `k` drawn without putting back is: 1 − C(n−c, k)/C(n, k).
///
/// **Source** Chen et al. 2021, arXiv 2107.03374, eq. 1.
pub fn pass_at(k: usize, n: usize, right: usize) -> f64 {
    let wrong = n - right.min(n);
    if wrong < k {
        return 1.0;
    }
    // C(n−c, k)/C(n, k) as a product, in which nothing grows large.
    let none_right: f64 = (wrong + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    1.0 - none_right
}

/// The place of the answer that most others equal, the first of those that are as common: Python's `Counter.most_common`.
///
/// # Errors
/// As `equal`.
pub fn commonest<E>(count: usize, mut equal: impl FnMut(usize, usize) -> Result<bool, E>) -> Result<Option<usize>, E> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for i in 0..count {
        let mut place = None;
        for (group, (first, _)) in groups.iter().enumerate() {
            if equal(*first, i)? {
                place = Some(group);
                break;
            }
        }
        match place {
            Some(group) => groups[group].1 += 1,
            None => groups.push((i, 1)),
        }
    }
    let most = groups.iter().map(|(_, count)| *count).max();
    Ok(groups
        .iter()
        .find(|(_, count)| Some(*count) == most)
        .map(|(first, _)| *first))
}

/// Several outputs as one text, a JSON list, in which they are stored; one is itself.
pub fn stored(outputs: &[String]) -> Result<String, Error> {
    match outputs {
        [only] => Ok(only.clone()),
        several => serde_json::to_string(several).map_err(|e| Error::Answers {
            line: 1,
            message: e.to_string(),
        }),
    }
}

/// The outputs that one text stores, of a task of so many samples.
pub fn restored(stored: &str, n: usize) -> Vec<String> {
    let several = (n > 1)
        .then(|| serde_json::from_str::<Vec<String>>(stored).ok())
        .flatten();
    several.unwrap_or_else(|| vec![stored.to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All subsets, counted.
    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_right_one() {
        for n in 1..=8usize {
            for right in 0..=n {
                for k in 1..=n {
                    let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == k);
                    let (all, good) = subsets.fold((0, 0), |(all, good), s| {
                        (all + 1, good + u32::from(s & ((1 << right) - 1) != 0))
                    });
                    let expected = f64::from(good) / f64::from(all);
                    assert!((pass_at(k, n, right) - expected).abs() < 1e-12, "{k} {n} {right}");
                }
            }
        }
        assert!((pass_at(100, 200, 1) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_commonest_answer_is_the_first_of_equals() {
        let commonest = |answers: &[&str]| {
            let place: Result<_, ()> = commonest(answers.len(), |a, b| Ok(answers[a] == answers[b]));
            place.unwrap().map(|i| answers[i].to_string())
        };
        assert_eq!(commonest(&["5", "6", "6"]).as_deref(), Some("6"));
        assert_eq!(commonest(&["5", "6", "6", "5"]).as_deref(), Some("5"));
        assert_eq!(commonest(&[]), None);
    }

    #[test]
    fn draws_follow_from_seed_question_and_sample() {
        let samples = Samples::new(8);
        let seed = |samples: &Samples, q: &str, i| samples.of_question(q, i).unwrap().seed;
        assert_eq!(seed(&samples, "q/1", 3), seed(&samples, "q/1", 3));
        assert_ne!(seed(&samples, "q/1", 3), seed(&samples, "q/1", 4));
        assert_ne!(seed(&samples, "q/1", 3), seed(&samples, "q/2", 3));
        assert_ne!(
            seed(&samples, "q/1", 3),
            seed(&Samples { seed: 1, ..samples }, "q/1", 3)
        );
        assert_eq!(
            Samples::new(6).scores(),
            ["maj@6", "pass@1", "pass@2", "pass@4", "pass@6"]
        );
        assert!(Samples::new(1).scores().is_empty());
    }

    #[test]
    fn outputs_are_stored_and_restored() {
        let outputs = ["a \"b\"".to_string(), "[1]".into()];
        assert_eq!(restored(&stored(&outputs).unwrap(), 2), outputs);
        assert_eq!(restored("[\"a\"]", 1), ["[\"a\"]"]);
        assert_eq!(restored("one text", 4), ["one text"]);
    }
}
