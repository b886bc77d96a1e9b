//! Which experts a token goes to, how much each of them counts, and the derivative of that.
//!
//! A router gives a token one logit for each expert. The choice has no derivative; the weights of those that are chosen do,
//! and it is the same function here for the decoder and for the twin.

use heterosis_isa::Isa;

use super::kernels;
use super::spec::{Experts, Router};

/// An expert that a token goes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Route {
    pub expert: usize,
    pub weight: f32,
}

impl Experts {
    /// Where a token goes, by its logits; `correction` is empty where the family has none.
    pub(super) fn routes(&self, isa: Isa, logits: &[f32], correction: &[f32]) -> Vec<Route> {
        let chosen = self.choose(isa, logits, correction);
        if let Router::SparseMixer { jitter } = self.router {
            let weight = |(place, expert): (usize, &usize)| Route {
                expert: *expert,
                weight: nearly_as_good(logits, &chosen, place, jitter)[*expert],
            };
            return chosen.iter().enumerate().map(weight).collect();
        }
        let scores = self.scores(isa, logits);
        let total = self.total(&scores, &chosen);
        let route = |expert: &usize| Route {
            expert: *expert,
            weight: self.scale * scores[*expert] / total,
        };
        chosen.iter().map(route).collect()
    }

    /// From the derivatives of the weights of [`Self::routes`], in that order, to those of the logits.
    pub(super) fn routes_back(&self, isa: Isa, logits: &[f32], routes: &[Route], slopes: &[f32]) -> Vec<f32> {
        let chosen: Vec<usize> = routes.iter().map(|route| route.expert).collect();
        if let Router::SparseMixer { jitter } = self.router {
            let mut back = vec![0.0; logits.len()];
            for (place, slope) in slopes.iter().enumerate() {
                let shares = nearly_as_good(logits, &chosen, place, jitter);
                let own = shares[chosen[place]];
                back.iter_mut()
                    .zip(&shares)
                    .for_each(|(back, share)| *back -= slope * own * share);
                back[chosen[place]] += slope * own;
            }
            return back;
        }
        let scores = self.scores(isa, logits);
        let total = self.total(&scores, &chosen);
        // Of a sum that is divided by, each weight has its share.
        let along = match self.normalised {
            true => routes
                .iter()
                .zip(slopes)
                .map(|(route, slope)| route.weight * slope)
                .sum(),
            false => 0.0,
        };
        let mut of_scores = vec![0.0; logits.len()];
        for (expert, slope) in chosen.iter().zip(slopes) {
            of_scores[*expert] = (self.scale * slope - along) / total;
        }
        match self.router {
            Router::Sigmoid { .. } => of_scores
                .iter()
                .zip(&scores)
                .map(|(slope, s)| slope * s * (1.0 - s))
                .collect(),
            _ => {
                let usual: f32 = of_scores.iter().zip(&scores).map(|(slope, p)| slope * p).sum();
                of_scores
                    .iter()
                    .zip(&scores)
                    .map(|(slope, p)| p * (slope - usual))
                    .collect()
            }
        }
    }

    /// What the weights are divided by.
    fn total(&self, scores: &[f32], chosen: &[usize]) -> f32 {
        match self.normalised {
            true => self.floor + chosen.iter().map(|expert| scores[*expert]).sum::<f32>(),
            false => 1.0,
        }
    }

    fn scores(&self, isa: Isa, logits: &[f32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        match self.router {
            Router::Sigmoid { .. } => scores.iter_mut().for_each(|x| *x = kernels::sigmoid(*x)),
            _ => kernels::softmax(isa, &mut scores),
        }
        scores
    }

    fn choose(&self, isa: Isa, logits: &[f32], correction: &[f32]) -> Vec<usize> {
        let Router::Sigmoid { groups, best } = self.router else {
            // The order of probabilities is that of logits.
            return largest(logits, self.per_token);
        };
        let mut scores = self.scores(isa, logits);
        scores
            .iter_mut()
            .zip(correction)
            .for_each(|(score, correction)| *score += correction);
        let size = scores.len() / groups;
        let of_group = |group: &[f32]| largest(group, 2).into_iter().map(|i| group[i]).sum::<f32>();
        let of_groups: Vec<f32> = scores.chunks(size).map(of_group).collect();
        let good = largest(&of_groups, best);
        for (group, scores) in scores.chunks_mut(size).enumerate() {
            if !good.contains(&group) {
                scores.fill(f32::NEG_INFINITY);
            }
        }
        largest(&scores, self.per_token)
    }
}

/// The places of the largest numbers, the first of equals first; a NaN is smaller than any.
fn largest(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut found: Vec<usize> = Vec::with_capacity(count);
    for _ in 0..count.min(numbers.len()) {
        let mut best: Option<usize> = None;
        for (i, number) in numbers.iter().enumerate() {
            let beats = |best: usize| *number > numbers[best] || (numbers[best].is_nan() && !number.is_nan());
            if best.is_none_or(beats) && !found.contains(&i) {
                best = Some(i);
            }
        }
        found.extend(best);
    }
    found
}

/// Whether a logit is within `2 · jitter` of that of the expert chosen at `place`, relatively, and was not chosen before.
pub(super) fn is_nearly_as_good(logits: &[f32], chosen: &[usize], place: usize, expert: usize, jitter: f32) -> bool {
    let (x, largest) = (logits[expert], logits[chosen[place]]);
    let is_far = (largest - x) / x.abs().max(largest) > 2.0 * jitter;
    !is_far && !chosen[..place].contains(&expert)
}

/// The softmax over the logits that are nearly as good as the one chosen at `place`.
fn nearly_as_good(logits: &[f32], chosen: &[usize], place: usize, jitter: f32) -> Vec<f32> {
    let largest = logits[chosen[place]];
    let share = |i: usize| match is_nearly_as_good(logits, chosen, place, i, jitter) {
        true => (logits[i] - largest).exp(),
        false => 0.0,
    };
    let shares: Vec<f32> = (0..logits.len()).map(share).collect();
    let total: f32 = shares.iter().sum();
    shares.iter().map(|share| share / total).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DecoderSpec;

    fn experts(more: serde_json::Value) -> Experts {
        let mut config = json!({"model_type": "qwen3_moe", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_experts": 4,
            "num_experts_per_tok": 2});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        DecoderSpec::from_config(&config).unwrap().experts.unwrap()
    }

    fn routes(experts: &Experts, logits: &[f32], correction: &[f32]) -> Vec<(usize, f32)> {
        let routes = experts.routes(Isa::best(), logits, correction);
        routes.iter().map(|route| (route.expert, route.weight)).collect()
    }

    fn near(got: &[(usize, f32)], expected: &[(usize, f32)]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-6, "{got:?} {expected:?}");
        }
    }

    #[test]
    fn the_best_two_by_hand() {
        let ln = |x: f32| x.ln();
        let logits = [ln(2.0), ln(4.0), ln(1.0), ln(3.0)];
        let plain = experts(json!({}));
        near(&routes(&plain, &logits, &[]), &[(1, 0.4), (3, 0.3)]);
        let normalised = experts(json!({"norm_topk_prob": true}));
        near(&routes(&normalised, &logits, &[]), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        // Equal ones: the first.
        near(&routes(&normalised, &[0.0; 4], &[]), &[(0, 0.5), (1, 0.5)]);
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let glm = |more: serde_json::Value| {
            let mut config = json!({"model_type": "glm4_moe", "n_routed_experts": 4, "routed_scaling_factor": 2.0});
            for (key, value) in more.as_object().unwrap() {
                config[key] = value.clone();
            }
            experts(config)
        };
        // Sigmoids 1/4, 1/2, 3/4, 1/2.
        let logits = [(1.0f32 / 3.0).ln(), 0.0, 3f32.ln(), 0.0];
        near(
            &routes(&glm(json!({})), &logits, &[0.9, 0.0, 0.0, 0.0]),
            &[(0, 0.5), (2, 1.5)],
        );
        // Two groups, of which the one with the better two is looked into: 1/4 + 1/2 and 3/4 + 1/2.
        let grouped = glm(json!({"n_group": 2, "topk_group": 1}));
        near(&routes(&grouped, &logits, &[0.0; 4]), &[(2, 1.2), (3, 0.8)]);
        near(
            &routes(&grouped, &logits, &[1.0, 1.0, 0.0, 0.0]),
            &[(1, 4.0 / 3.0), (0, 2.0 / 3.0)],
        );
    }

    #[test]
    fn a_mixer_weighs_among_those_that_are_nearly_as_good() {
        let phi = |jitter: f64| {
            experts(
                json!({"model_type": "phimoe", "router_jitter_noise": jitter, "num_local_experts": 3,
            "num_experts": null}),
            )
        };
        near(&routes(&phi(0.01), &[1.0, 2.0, 1.5], &[]), &[(1, 1.0), (2, 1.0)]);
        // 1.5 is within 0.3 of 2, and 1 is not; of the other two, 1 is within 0.35 of 1.5.
        let half = 0.5f32.exp();
        let expected = [(1, half / (half + 1.0)), (2, half / (half + 1.0))];
        near(&routes(&phi(0.17), &[1.0, 2.0, 1.5], &[]), &expected);
    }

    #[test]
    fn derivatives_agree_with_differences() {
        let logits = [0.3, -0.2, 0.9, 0.7, 0.1, -0.5];
        let cases = [
            json!({"num_experts": 6}),
            json!({"num_experts": 6, "norm_topk_prob": true}),
            json!({"model_type": "glm4_moe", "num_experts": 6, "routed_scaling_factor": 1.7, "n_group": 2, "topk_group": 2}),
            json!({"model_type": "glm4_moe", "num_experts": 6, "norm_topk_prob": false}),
            json!({"model_type": "phimoe", "num_experts": 6, "router_jitter_noise": 0.3}),
        ];
        for case in cases {
            let experts = experts(case.clone());
            let routes = experts.routes(Isa::best(), &logits, &[0.0; 6]);
            let slopes = [0.7, -0.4];
            let back = experts.routes_back(Isa::best(), &logits, &routes, &slopes);
            for i in 0..6 {
                let at = |step: f32| {
                    let mut logits = logits;
                    logits[i] += step;
                    let routes = experts.routes(Isa::best(), &logits, &[0.0; 6]);
                    routes
                        .iter()
                        .zip(slopes)
                        .map(|(route, slope)| route.weight * slope)
                        .sum::<f32>()
                };
                let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!((back[i] - expected).abs() < 2e-4, "{case} {i}: {} {expected}", back[i]);
            }
        }
    }

    #[test]
    fn logits_that_are_no_numbers_still_choose() {
        let logits = [f32::NAN, 1.0, f32::NAN, f32::NAN];
        let chosen: Vec<usize> = routes(&experts(json!({})), &logits, &[]).iter().map(|r| r.0).collect();
        assert_eq!(chosen, [1, 0]);
    }
}
