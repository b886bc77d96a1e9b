//! Layer swapping: which of two models each layer comes from.
//!
//! Source: Bandarkar et al. 2024, arXiv:2410.01335, eq. 1: layers l < bottom and l ≥ L − top come from the outer
//! (language) expert, the layers next to them are blended, the rest comes from the inner (task) expert. One blended layer
//! is the plain mean; in a wider zone the inner model's share rises linearly, j/(w + 1). Embeddings, norm and head are
//! choices of their own, the outer model unless a recipe says otherwise.

use super::Error;

/// Sizes of the zones, in layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zones {
    pub bottom: usize,
    pub top: usize,
    pub transition_bottom: usize,
    pub transition_top: usize,
}

impl Zones {
    /// # Errors
    /// If the zones are more layers than there are. Transitions that the recipe does not give are one layer where there
    /// is room.
    pub fn new(layers: usize, bottom: usize, top: usize, transitions: [Option<usize>; 2]) -> Result<Self, Error> {
        let too_many = |wanted| Error::SwapZones { wanted, layers };
        let outer = bottom + top;
        let given: usize = transitions.iter().flatten().sum();
        let room = layers.checked_sub(outer + given).ok_or(too_many(outer + given))?;
        let transition_bottom = transitions[0].unwrap_or(usize::from(bottom > 0).min(room));
        let left = room - if transitions[0].is_none() { transition_bottom } else { 0 };
        let transition_top = transitions[1].unwrap_or(usize::from(top > 0).min(left));
        Ok(Zones {
            bottom,
            top,
            transition_bottom,
            transition_top,
        })
    }

    /// The inner model's share of a layer: 0 outer, 1 inner, between where they are blended.
    pub fn inner_share(&self, layer: usize, layers: usize) -> f64 {
        if layer < self.bottom || layer >= layers - self.top {
            return 0.0;
        }
        let (from_bottom, from_top) = (layer - self.bottom, layers - self.top - 1 - layer);
        if from_bottom < self.transition_bottom {
            (from_bottom + 1) as f64 / (self.transition_bottom + 1) as f64
        } else if from_top < self.transition_top {
            (from_top + 1) as f64 / (self.transition_top + 1) as f64
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(layers: usize, zones: Zones) -> Vec<f64> {
        (0..layers).map(|l| zones.inner_share(l, layers)).collect()
    }

    #[test]
    fn the_papers_shape_in_small() {
        let zones = Zones::new(8, 2, 1, [None, None]).unwrap();
        assert_eq!(shares(8, zones), [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]);
        let zones = Zones::new(8, 1, 1, [Some(3), Some(0)]).unwrap();
        assert_eq!(shares(8, zones), [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn transitions_give_way_where_there_is_no_room() {
        let zones = Zones::new(3, 1, 1, [None, None]).unwrap();
        assert_eq!(shares(3, zones), [0.0, 0.5, 0.0]);
        let zones = Zones::new(2, 1, 1, [None, None]).unwrap();
        assert_eq!(shares(2, zones), [0.0, 0.0]);
        assert!(Zones::new(3, 2, 2, [None, None]).is_err());
        assert!(Zones::new(3, 1, 1, [Some(2), None]).is_err());
        let zones = Zones::new(3, 0, 0, [None, None]).unwrap();
        assert_eq!(shares(3, zones), [1.0, 1.0, 1.0]);
    }
}
