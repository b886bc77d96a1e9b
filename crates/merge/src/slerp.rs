//! SLERP: along the great circle from the base (t = 0) to the other model (t = 1), as one vector for the whole tensor.
//!
//! Source: Shoemake 1985, section 3.3. The angle is that of the normalised tensors, the coefficients are applied to the
//! raw ones; directions closer than |cos| > 0.9995 are interpolated linearly, and a norm of 1e-8 or less counts as 1
//! (mergekit).

use super::{
    gradient::inner,
    parents::{Parents, Refusal},
    view::Target,
};

const LINEAR_ABOVE: f64 = 0.9995;
const NO_NORM: f64 = 1e-8;

/// `base` is the index of the tensor at t = 0.
pub(crate) fn merge(parents: &Parents<'_>, base: usize, t: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let weights = weights(parents, base, t);
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            for ((o, x), y) in out.iter_mut().zip(chunks[0]).zip(chunks[1]) {
                *o = weights[0] * x + weights[1] * y;
            }
        },
    ))
}

/// The factors of both tensors, in the recipe's order.
pub(crate) fn weights(parents: &Parents<'_>, base: usize, t: f32) -> [f32; 2] {
    let gram = parents.gram();
    let (a, b) = coefficients(gram[0], gram[3], gram[1], f64::from(t));
    if base == 0 { [a, b] } else { [b, a] }
}

/// The factors of both tensors, from their squared norms and their inner product.
fn coefficients(aa: f64, bb: f64, ab: f64, t: f64) -> (f32, f32) {
    let cos = cosine(aa, bb, ab);
    let (a, b) = if cos.abs() > LINEAR_ABOVE {
        (1.0 - t, t)
    } else {
        arc(cos.acos(), t)
    };
    (a as f32, b as f32)
}

fn cosine(aa: f64, bb: f64, ab: f64) -> f64 {
    let norm = |square: f64| {
        let norm = square.sqrt();
        if norm > NO_NORM { norm } else { 1.0 }
    };
    (ab / (norm(aa) * norm(bb))).clamp(-1.0, 1.0)
}

/// The derivatives of both coefficients with respect to `t`.
pub(crate) fn slopes(aa: f64, bb: f64, ab: f64, t: f64) -> (f64, f64) {
    let cos = cosine(aa, bb, ab);
    if cos.abs() > LINEAR_ABOVE {
        (-1.0, 1.0)
    } else {
        arc_slopes(cos.acos(), t)
    }
}

/// −θ cos((1−t)θ)/sin θ and θ cos(tθ)/sin θ.
pub(crate) fn arc_slopes(theta: f64, t: f64) -> (f64, f64) {
    let factor = theta / libm::sin(theta);
    (-factor * libm::cos((1.0 - t) * theta), factor * libm::cos(t * theta))
}

/// sin((1−t)θ)/sin θ and sin(tθ)/sin θ.
pub(crate) fn arc(theta: f64, t: f64) -> (f64, f64) {
    let sin = libm::sin(theta);
    (libm::sin((1.0 - t) * theta) / sin, libm::sin(t * theta) / sin)
}

/// The derivative with respect to t.
pub(crate) fn gradient(parents: &Parents<'_>, base: usize, t: f64, upstream: &[f32]) -> f64 {
    let (gram, inner) = (parents.gram(), inner(parents, upstream));
    let (a, b) = slopes(gram[0], gram[3], gram[1], t);
    a * inner[base] + b * inner[1 - base]
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    fn slerp(a: &[f32], b: &[f32], base: usize, t: f32) -> Vec<f32> {
        run(&[a, b], None, |p, out| merge(p, base, t, out)).unwrap()
    }

    #[test]
    fn a_right_angle_by_hand() {
        let out = slerp(&[2.0, 0.0], &[0.0, 4.0], 0, 0.5);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert!((out[0] - 2.0 * half).abs() < 1e-6 && (out[1] - 4.0 * half).abs() < 1e-6);
    }

    #[test]
    fn endpoints_are_the_models() {
        let (a, b) = ([1.0, 2.0, -3.0], [0.5, -1.0, 2.0]);
        assert_eq!(slerp(&a, &b, 0, 0.0), a);
        assert_eq!(slerp(&a, &b, 0, 1.0), b);
        assert_eq!(slerp(&a, &b, 1, 0.0), b);
    }

    #[test]
    fn close_or_opposite_or_empty_directions_are_interpolated_linearly() {
        assert_eq!(slerp(&[1.0, 1.0], &[3.0, 3.0], 0, 0.25), [1.5, 1.5]);
        assert_eq!(slerp(&[1.0, 1.0], &[-1.0, -1.0], 0, 0.25), [0.5, 0.5]);
        // A zero tensor has no direction: cos = 0, θ = π/2.
        let out = slerp(&[0.0, 0.0], &[3.0, 4.0], 0, 1.0);
        assert_eq!(out, [3.0, 4.0]);
        assert!(slerp(&[], &[], 0, 0.5).is_empty());
    }
}
