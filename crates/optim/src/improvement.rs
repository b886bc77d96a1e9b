//! The logarithm of expected improvement, which has a slope where the improvement itself has long been zero.
//!
//! **Source**: Ament et al. (2023), Unexpected improvements to expected improvement, arXiv:2310.20708, eq. 8 and 9.

use super::normal;

/// ln √(2π).
const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_8;

/// Beyond this many standard deviations Mills' ratio is taken from its series.
const FAR: f64 = 25.0;

/// ln h(z) with h(z) = φ(z) + z Φ(z), and the ratios Φ(z) / h(z) and φ(z) / h(z), of which its slopes are made.
#[derive(Clone, Copy, Debug)]
pub struct LogImprovement {
    pub value: f64,
    pub cumulative_share: f64,
    pub density_share: f64,
}

impl LogImprovement {
    pub fn at(z: f64) -> Self {
        let ln_density = -0.5 * z * z - LN_SQRT_TAU;
        if z > -1.0 {
            let (density, cumulative) = (libm::exp(ln_density), normal::cumulative(z));
            let h = density + z * cumulative;
            return Self {
                value: libm::log(h),
                cumulative_share: cumulative / h,
                density_share: density / h,
            };
        }
        // h(z) = φ(z) (1 − t R(t)) with t = −z and Mills' ratio R(t) = (1 − Φ(t)) / φ(t).
        let t = -z;
        let (mills, rest) = match t < FAR {
            true => {
                let mills = normal::cumulative(z) / libm::exp(ln_density);
                (mills, 1.0 - t * mills)
            }
            false => {
                let s = 1.0 / (t * t);
                let rest = s * (1.0 - s * (3.0 - s * (15.0 - 105.0 * s)));
                ((1.0 - rest) / t, rest)
            }
        };
        Self {
            value: ln_density + libm::log(rest),
            cumulative_share: mills / rest,
            density_share: 1.0 / rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_their_definition_and_from_the_series_far_out() {
        // h(0) = φ(0) = 1/√(2π); h(1) = φ(1) + Φ(1).
        assert!((LogImprovement::at(0.0).value + LN_SQRT_TAU).abs() < 1e-15);
        let one: f64 = 0.24197072451914337 + 0.8413447460685429;
        assert!((LogImprovement::at(1.0).value - one.ln()).abs() < 1e-14);
        // h(−t) = φ(t) (t⁻² − 3 t⁻⁴ + 15 t⁻⁶ − 105 t⁻⁸ …)
        let t = 40.0f64;
        let series = t.powi(-2) - 3.0 * t.powi(-4) + 15.0 * t.powi(-6) - 105.0 * t.powi(-8);
        let expected = -0.5 * t * t - LN_SQRT_TAU + series.ln();
        assert!((LogImprovement::at(-t).value - expected).abs() < 1e-6);
        assert!(LogImprovement::at(-1e8).value.is_finite());
    }

    /// Both joints are smooth, and the shares are the derivative: h' = Φ.
    #[test]
    fn slopes_are_those_of_the_value() {
        for z in [-300.0, -25.01, -25.0, -24.99, -6.0, -1.01, -1.0, -0.99, 0.3, 5.0] {
            let step = 1e-5 * f64::max(1.0, -z);
            let difference = (LogImprovement::at(z + step).value - LogImprovement::at(z - step).value) / (2.0 * step);
            let slope = LogImprovement::at(z).cumulative_share;
            assert!((difference / slope - 1.0).abs() < 1e-4, "{z}: {difference} and {slope}");
        }
        // z Φ + φ = h
        for z in [-300.0, -26.0, -24.0, -3.0, -0.5, 2.0] {
            let at = LogImprovement::at(z);
            assert!((z * at.cumulative_share + at.density_share - 1.0).abs() < 1e-6, "{z}");
        }
    }
}
