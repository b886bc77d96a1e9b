//! Which token comes next, when it is not always the likeliest: temperature, top-k, top-p and min-p, in this order, as
//! transformers applies them (`generate` with `do_sample=True`).
//!
//! Each draw depends on the request's seed and on how many tokens stand before it, and on nothing else: an answer is the same
//! whatever else is in the batch.

use std::cmp::Ordering;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; above 0. (A temperature of 0 means the likeliest token: no sampling.)
    pub temperature: f32,
    /// The likeliest tokens that are drawn among; 0: all.
    pub top_k: usize,
    /// The likeliest tokens whose probabilities sum to this are drawn among (Holtzman et al. 2020, nucleus sampling); 1: all.
    pub top_p: f32,
    /// Tokens less likely than this times the likeliest are left out (Nguyen et al. 2024); 0: none.
    pub min_p: f32,
    /// From which, with the place in the answer, each draw follows.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// As it can be used: none where the temperature is 0, which is the likeliest token.
    ///
    /// # Errors
    /// What is outside of its bounds.
    pub fn checked(self) -> Result<Option<Self>, String> {
        let refuse = |name: &str, value: f32, bounds: &str| Err(format!("{name} {value}: {bounds}"));
        match self {
            s if !(0.0..=100.0).contains(&s.temperature) => refuse("temperature", s.temperature, "write 0 to 100"),
            s if !(0.0..=1.0).contains(&s.top_p) => refuse("top-p", s.top_p, "write 0 to 1"),
            s if !(0.0..=1.0).contains(&s.min_p) => refuse("min-p", s.min_p, "write 0 to 1"),
            s => Ok(Some(s).filter(|s| s.temperature > 0.0)),
        }
    }

    /// The token that is drawn as number `place` (from 0) of an answer. `logits` are over the whole vocabulary.
    ///
    /// ```
    /// use heterosis_engine::Sampling;
    ///
    /// let sampling = Sampling { temperature: 0.8, top_k: 2, ..Sampling::default() };
    /// let logits = [0.1, 2.0, -1.0, 1.9];
    /// let drawn: Vec<u32> = (0..50).map(|place| sampling.draw(&logits, place)).collect();
    /// assert!(drawn.iter().all(|token| [1, 3].contains(token)));
    /// assert_eq!(sampling.draw(&logits, 7), drawn[7]); // seed and place decide
    /// ```
    pub fn draw(&self, logits: &[f32], place: usize) -> u32 {
        let left = self.candidates(logits);
        let total: f64 = left.iter().map(|(_, p)| p).sum();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(place as u64);
        let at = random.random::<f64>() * total;
        let mut sum = 0.0;
        let drawn = left.iter().find(|(_, p)| {
            sum += p;
            sum > at
        });
        // Rounding may leave a last sliver to nobody.
        drawn.or(left.last()).map_or(0, |(token, _)| *token)
    }

    /// The tokens that are drawn among, each with what its probability is in proportion to; the likeliest first (of equals the
    /// lowest) where it matters who is how likely, else in the order of the vocabulary.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let temperature = f64::from(self.temperature.max(f32::MIN_POSITIVE));
        let weight = |logit: f32| (f64::from(logit - most) / temperature).exp();
        // A not-a-number is never drawn.
        let mut left: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|logit| weight(*logit))).collect();
        left.retain(|(_, weight)| *weight > 0.0);
        if self.top_k > 0 && self.top_k < left.len() {
            // Those that are as likely as the last of them stay too.
            let (_, last, _) = left.select_nth_unstable_by(self.top_k - 1, likelier);
            let last = last.1;
            left.retain(|(_, weight)| *weight >= last);
            left.sort_unstable_by(likelier);
        }
        if self.top_p < 1.0 {
            let total: f64 = left.iter().map(|(_, weight)| weight).sum();
            let (mut before, enough) = (0.0, f64::from(self.top_p.max(0.0)) * total);
            sort_first(&mut left, enough);
            let kept = left.iter().take_while(|(_, weight)| {
                let stays = before < enough;
                before += weight;
                stays
            });
            let kept = kept.count().max(1);
            left.truncate(kept);
        }
        if self.min_p > 0.0 {
            // The likeliest one weighs 1.
            left.retain(|(_, weight)| *weight >= f64::from(self.min_p));
        }
        left
    }
}

fn likelier(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Brings the likeliest to the front, in order, as many as weigh `enough`: of a large vocabulary a few.
fn sort_first(left: &mut Vec<(u32, f64)>, enough: f64) {
    const FEW: usize = 512;
    if left.len() > FEW {
        left.select_nth_unstable_by(FEW - 1, likelier);
        if left[..FEW].iter().map(|(_, weight)| weight).sum::<f64>() >= enough {
            left.truncate(FEW);
        }
    }
    left.sort_unstable_by(likelier);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of these probabilities, the likeliest not first.
    fn logits() -> Vec<f32> {
        [0.2f32, 0.4, 0.1, 0.3].map(f32::ln).to_vec()
    }

    fn drawn(sampling: Sampling) -> [f64; 4] {
        let logits = logits();
        let mut counts = [0.0; 4];
        for place in 0..20_000 {
            counts[sampling.draw(&logits, place) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn near(got: [f64; 4], expected: [f64; 4]) {
        // Four standard errors of 20,000 draws are 0.014 at most.
        let far = got.iter().zip(expected).any(|(a, b)| (a - b).abs() > 0.014);
        assert!(!far, "{got:?} {expected:?}");
    }

    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        near(drawn(Sampling::default()), [0.2, 0.4, 0.1, 0.3]);
        // Twice the logits: squares, of which the sum is 0.3.
        let cold = Sampling {
            temperature: 0.5,
            ..Sampling::default()
        };
        near(drawn(cold), [0.04 / 0.3, 0.16 / 0.3, 0.01 / 0.3, 0.09 / 0.3]);
    }

    #[test]
    fn what_is_left_out_never_comes() {
        let of = |change: &dyn Fn(&mut Sampling)| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            drawn(sampling)
        };
        near(of(&|s| s.top_k = 2), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // 0.4 + 0.3 is not yet 0.75, so the third belongs to it.
        near(of(&|s| s.top_p = 0.75), [2.0 / 9.0, 4.0 / 9.0, 0.0, 3.0 / 9.0]);
        near(of(&|s| s.top_p = 0.0), [0.0, 1.0, 0.0, 0.0]);
        near(of(&|s| s.min_p = 0.6), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(of(&|s| s.temperature = 1e-6), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let usual = Sampling::default();
        assert_eq!(usual.checked(), Ok(Some(usual)));
        assert_eq!(
            Sampling {
                temperature: 0.0,
                ..usual
            }
            .checked(),
            Ok(None)
        );
        for (wrong, name) in [
            (
                Sampling {
                    temperature: -1.0,
                    ..usual
                },
                "temperature",
            ),
            (
                Sampling {
                    temperature: f32::NAN,
                    ..usual
                },
                "temperature",
            ),
            (Sampling { top_p: 1.5, ..usual }, "top-p"),
            (Sampling { min_p: -0.1, ..usual }, "min-p"),
        ] {
            assert!(wrong.checked().unwrap_err().starts_with(name));
        }
    }

    #[test]
    fn a_draw_depends_on_seed_and_place_alone() {
        let one = Sampling {
            seed: 7,
            ..Sampling::default()
        };
        let draws = |sampling: Sampling| (0..64).map(|place| sampling.draw(&logits(), place)).collect::<Vec<_>>();
        assert_eq!(draws(one), draws(one));
        assert_ne!(draws(one), draws(Sampling { seed: 8, ..one }));
        assert_eq!(one.draw(&logits(), 40), draws(one)[40]);
        assert_eq!(one.draw(&[f32::NAN, 0.0, f32::NEG_INFINITY], 0), 1);
    }
}
