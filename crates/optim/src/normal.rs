//! The normal distribution: its cumulative function and its quantile, on `libm` alone, so that bits do not depend on
//! the platform.

// Wichura's coefficients stand as he printed them.
#![allow(clippy::excessive_precision)]

/// Pr(Z ≤ x) for a standard normal Z; accurate in both tails.
pub fn cumulative(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// The x with Pr(Z ≤ x) = `p`, to about 1e-16 relative; ±∞ at 1 and 0.
///
/// **Source**: Wichura (1988), algorithm AS 241, routine PPND16.
pub fn quantile(p: f64) -> f64 {
    let centred = p - 0.5;
    if centred.abs() <= CENTRAL {
        central_quantile(centred)
    } else {
        outer_quantile(p)
    }
}

/// Replaces probabilities by quantiles. The rational function of the centre is taken for all of them, so that the
/// compiler vectorises it, and then put right where it does not apply.
pub fn quantiles(values: &mut [f64]) {
    const BLOCK: usize = 32;
    for block in values.chunks_mut(BLOCK) {
        let mut probabilities = [0.5; BLOCK];
        probabilities[..block.len()].copy_from_slice(block);
        let quantiles = probabilities.map(|p| central_quantile(p - 0.5));
        for ((value, q), p) in block.iter_mut().zip(quantiles).zip(probabilities) {
            *value = if (p - 0.5).abs() <= CENTRAL {
                q
            } else {
                outer_quantile(p)
            };
        }
    }
}

/// Within this distance of one half, the quantile is one rational function.
const CENTRAL: f64 = 0.425;

#[inline]
fn central_quantile(centred: f64) -> f64 {
    centred * CENTRE.at(0.180625 - centred * centred)
}

fn outer_quantile(p: f64) -> f64 {
    let side = if p < 0.5 { -1.0 } else { 1.0 };
    let tail = if p < 0.5 { p } else { 1.0 - p };
    if tail <= 0.0 {
        return side * f64::INFINITY;
    }
    let r = (-libm::log(tail)).sqrt();
    side * if r <= 5.0 {
        SHOULDER.at(r - 1.6)
    } else {
        TAIL.at(r - 5.0)
    }
}

/// The distance x > 0 that a standard normal exceeds on one side with probability `p` ≤ ½.
///
/// It is √χ²₁⁻¹(1 − 2p), as the papers on the margin write it.
pub fn one_sided_distance(p: f64) -> f64 {
    -quantile(p)
}

/// A rational function, coefficients of ascending powers.
struct Rational {
    above: [f64; 8],
    below: [f64; 8],
}

impl Rational {
    #[inline]
    fn at(&self, x: f64) -> f64 {
        let horner = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, &a| sum * x + a);
        horner(&self.above) / horner(&self.below)
    }
}

const CENTRE: Rational = Rational {
    above: [
        3.3871328727963666080e0,
        1.3314166789178437745e+2,
        1.9715909503065514427e+3,
        1.3731693765509461125e+4,
        4.5921953931549871457e+4,
        6.7265770927008700853e+4,
        3.3430575583588128105e+4,
        2.5090809287301226727e+3,
    ],
    below: [
        1.0,
        4.2313330701600911252e+1,
        6.8718700749205790830e+2,
        5.3941960214247511077e+3,
        2.1213794301586595867e+4,
        3.9307895800092710610e+4,
        2.8729085735721942674e+4,
        5.2264952788528545610e+3,
    ],
};

const SHOULDER: Rational = Rational {
    above: [
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ],
    below: [
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ],
};

const TAIL: Rational = Rational {
    above: [
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ],
    below: [
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_from_tables() {
        for (p, x) in [
            (0.5, 0.0),
            (0.975, 1.959963984540054),
            (0.9, 1.2815515655446004),
            (0.001, -3.090232306167813),
            (1e-10, -6.361340902404056),
            (1e-300, -37.0471),
        ] {
            let tolerance = if p < 1e-200 { 1e-4 } else { 1e-13 };
            assert!((quantile(p) - x).abs() <= tolerance, "{p}: {} vs {x}", quantile(p));
        }
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(quantile(1.0), f64::INFINITY);
    }

    #[test]
    fn the_quantile_inverts_the_cumulative() {
        for i in 1..2000 {
            let p = i as f64 / 2000.0;
            assert!((cumulative(quantile(p)) - p).abs() < 1e-15, "{p}");
        }
        for exponent in 4..300 {
            let p = libm::pow(10.0, -f64::from(exponent));
            assert!((cumulative(quantile(p)) / p - 1.0).abs() < 1e-12, "1e-{exponent}");
        }
    }

    #[test]
    fn one_sided_distance_is_the_root_of_the_chi_square_quantile() {
        // chi²₁ quantile at 0.95 is 3.841458820694124; so Pr(Z > √3.84…) = 0.025.
        assert!((one_sided_distance(0.025) - 3.841458820694124f64.sqrt()).abs() < 1e-13);
        assert_eq!(one_sided_distance(0.5), 0.0);
    }
}
