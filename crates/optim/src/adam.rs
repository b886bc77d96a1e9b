//! Adam: a step along the gradient, each coordinate by its own pace, inside a box.
//!
//! Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; after each step the point is projected onto the box. A
//! coordinate's step is measured in its own width, so that ranges of different size are searched alike.

use serde::{Deserialize, Serialize};

/// The state of one descent. Minimises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    /// Longest step of a coordinate, in its own units.
    rates: Vec<f64>,
    bounds: Vec<(f64, f64)>,
    /// m and v of the algorithm.
    first: Vec<f64>,
    second: Vec<f64>,
    /// β₁ᵗ and β₂ᵗ.
    decay: [f64; 2],
}

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-12;

impl Adam {
    /// One rate and one range for each coordinate; a range may be open at either end.
    pub fn new(rates: Vec<f64>, bounds: Vec<(f64, f64)>) -> Self {
        let n = rates.len();
        Adam {
            rates,
            bounds,
            first: vec![0.0; n],
            second: vec![0.0; n],
            decay: [1.0; 2],
        }
    }

    /// Moves `point` against `gradient`; `share` shortens the step. A gradient that is not finite moves nothing.
    pub fn step(&mut self, point: &mut [f64], gradient: &[f64], share: f64) {
        if gradient.iter().any(|g| !g.is_finite()) {
            return;
        }
        self.decay = [self.decay[0] * BETA_1, self.decay[1] * BETA_2];
        let [bias_1, bias_2] = self.decay.map(|decay| 1.0 - decay);
        for (i, (x, g)) in point.iter_mut().zip(gradient).enumerate() {
            self.first[i] = BETA_1 * self.first[i] + (1.0 - BETA_1) * g;
            self.second[i] = BETA_2 * self.second[i] + (1.0 - BETA_2) * g * g;
            let (m, v) = (self.first[i] / bias_1, self.second[i] / bias_2);
            let (low, high) = self.bounds[i];
            *x = (*x - share * self.rates[i] * m / (v.sqrt() + EPSILON)).clamp(low, high);
        }
    }

    /// The mean squared gradient seen, coordinate by coordinate: how steep the loss is there.
    pub fn second_moments(&self) -> Vec<f64> {
        let bias = 1.0 - self.decay[1];
        let of = |v: &f64| if bias > 0.0 { v / bias } else { 0.0 };
        self.second.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

    #[test]
    fn the_first_steps_by_hand() {
        let mut adam = Adam::new(vec![0.1], vec![OPEN]);
        let mut x = [1.0];
        // m̂ = g and v̂ = g²: a step of the rate, whatever the gradient's size.
        adam.step(&mut x, &[4.0], 1.0);
        assert!((x[0] - 0.9).abs() < 1e-12);
        adam.step(&mut x, &[-4.0], 0.5);
        // m = 0.9 · 0.4 − 0.4 = −0.04, m̂ = −0.04 / 0.19; v̂ = 16
        let expected = 0.9 + 0.05 * (0.04 / 0.19) / 4.0;
        assert!((x[0] - expected).abs() < 1e-9, "{}", x[0]);
        assert!((adam.second_moments()[0] - 16.0).abs() < 1e-9);
    }

    #[test]
    fn it_stays_in_its_box_and_comes_back_from_the_wall() {
        let mut adam = Adam::new(vec![0.3; 2], vec![(0.0, 1.0), OPEN]);
        let mut x = [0.2, 0.0];
        for _ in 0..20 {
            adam.step(&mut x, &[1.0, 1.0], 1.0);
        }
        assert!(x[0] == 0.0 && x[1] < -2.0);
        for _ in 0..40 {
            adam.step(&mut x, &[-1.0, 0.0], 1.0);
        }
        assert!(x[0] > 0.5);
    }

    #[test]
    fn a_stretched_bowl_is_descended_and_a_gradient_that_is_not_finite_moves_nothing() {
        let mut adam = Adam::new(vec![0.05; 2], vec![OPEN; 2]);
        let mut x = [2.0, -1.0];
        for step in 0..400 {
            let gradient = [2.0 * (x[0] - 0.5), 2000.0 * (x[1] - 0.25)];
            adam.step(&mut x, &gradient, 1.0 - f64::from(step) / 400.0);
        }
        assert!((x[0] - 0.5).abs() < 1e-2 && (x[1] - 0.25).abs() < 1e-2, "{x:?}");
        let before = x;
        adam.step(&mut x, &[f64::NAN, 1.0], 1.0);
        assert_eq!(x, before);
    }
}
