//! Between genes and the coordinates of a normal distribution: a bounded gene becomes [0, 1], with mirrors at its
//! bounds; an unbounded one stays as it is.

use super::domain::Gene;

/// Gene units in one unit of the coordinate.
pub fn unit(gene: &Gene) -> f64 {
    if gene.is_bounded() {
        gene.high() - gene.low()
    } else {
        1.0
    }
}

fn origin(gene: &Gene) -> f64 {
    if gene.is_bounded() { gene.low() } else { 0.0 }
}

pub fn encode(gene: &Gene, value: f64) -> f64 {
    (value - origin(gene)) / unit(gene)
}

/// The gene's value at coordinate `u`, mirrored into the bounds; a whole number for a discrete gene.
pub fn decode(gene: &Gene, u: f64) -> f64 {
    match gene {
        Gene::Real { .. } => (origin(gene) + unit(gene) * mirror(gene, u)).clamp(gene.low(), gene.high()),
        Gene::Int { .. } | Gene::Choice { .. } => nearest_step(gene, u),
    }
}

/// The allowed whole number nearest to coordinate `u`, halves downwards; ends beyond the ends.
fn nearest_step(gene: &Gene, u: f64) -> f64 {
    (origin(gene) + unit(gene) * u - 0.5)
        .ceil()
        .clamp(gene.low(), gene.high())
}

/// The image of `u` inside the bounds, as a mirror at each of them makes it.
fn mirror(gene: &Gene, u: f64) -> f64 {
    let (low, high) = (encode(gene, gene.low()), encode(gene, gene.high()));
    match (low.is_finite(), high.is_finite()) {
        (true, true) => {
            let t = u.rem_euclid(2.0);
            if t > 1.0 { 2.0 - t } else { t }
        }
        (true, false) => low + (u - low).abs(),
        (false, true) => high - (high - u).abs(),
        (false, false) => u,
    }
}

/// The mirror that brings a mean at `u` back inside, if it is outside.
pub fn crossed_bound(gene: &Gene, u: f64) -> Option<f64> {
    let (low, high) = (encode(gene, gene.low()), encode(gene, gene.high()));
    if u < low {
        Some(low)
    } else if u > high {
        Some(high)
    } else {
        None
    }
}

/// The largest standard deviation that makes sense: a third of the range (pycma's `maxstd_boundrange`).
pub fn std_cap(gene: &Gene) -> f64 {
    if gene.is_bounded() { 1.0 / 3.0 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENE: Gene = Gene::Real { low: -1.0, high: 3.0 };

    #[test]
    fn bounds_are_mirrors() {
        for (u, value) in [
            (0.0, -1.0),
            (1.0, 3.0),
            (0.5, 1.0),
            (-0.25, 0.0),
            (1.25, 2.0),
            (2.25, 0.0),
            (-1.25, 2.0),
        ] {
            assert!((decode(&GENE, u) - value).abs() < 1e-15, "{u}");
        }
        assert_eq!(encode(&GENE, 0.0), 0.25);
        let half = Gene::Real {
            low: 2.0,
            high: f64::INFINITY,
        };
        assert_eq!(
            (decode(&half, 1.0), decode(&half, 5.0), encode(&half, 5.0)),
            (3.0, 5.0, 5.0)
        );
    }

    #[test]
    fn a_mean_outside_finds_its_mirror() {
        assert_eq!(
            [-0.1, 0.0, 0.4, 1.0, 1.1].map(|u| crossed_bound(&GENE, u)),
            [Some(0.0), None, None, None, Some(1.0)]
        );
        assert_eq!(
            crossed_bound(
                &Gene::Real {
                    low: f64::NEG_INFINITY,
                    high: f64::INFINITY
                },
                -1e9
            ),
            None
        );
    }

    #[test]
    fn whole_numbers_round_and_stay_inside() {
        let gene = Gene::Int { low: -2, high: 2 };
        for (u, value) in [
            (0.0, -2.0),
            (-3.0, -2.0),
            (0.125, -2.0),
            (0.126, -1.0),
            (0.5, 0.0),
            (9.0, 2.0),
        ] {
            assert_eq!(decode(&gene, u), value, "{u}");
        }
        assert_eq!(encode(&gene, 1.0), 0.75);
    }
}
