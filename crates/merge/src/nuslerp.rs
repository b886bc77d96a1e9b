//! NuSLERP: spherical interpolation of two models, or of their task vectors, at t = w₂ / (w₁ + w₂).
//!
//! Source: mergekit. One angle for the tensor (`flatten`), or one for each line along the last axis (or the first, if
//! `row_wise`). Norms are at least 1e-7; t is ½ where the weights cancel; parallel lines are interpolated linearly.

use serde::Serialize;

use super::{
    combine,
    gradient::along_models,
    parents::{Parents, Refusal},
    slerp::{arc, arc_slopes},
    view::{Target, dot},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Lines {
    Whole,
    LastAxis,
    FirstAxis,
}

pub(crate) fn merge(
    parents: &Parents<'_>,
    weights: [f64; 2],
    lines: Lines,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let total = weights[0] + weights[1];
    let t = if total.abs() < 1e-6 { 0.5 } else { weights[1] / total };
    if lines == Lines::Whole {
        let gram = parents.gram();
        let (a, b) = coefficients(gram[0], gram[3], gram[1], t);
        return Ok(combine::write(parents, &[a, b], out));
    }
    let models = parents.models();
    let (mut x, y) = (parents.task_vector(models[0]), parents.task_vector(models[1]));
    let (_, last) = parents.rows();
    if lines == Lines::LastAxis || parents.shape.len() < 2 {
        for (x, y) in x.chunks_mut(last).zip(y.chunks(last)) {
            let (a, b) = coefficients(dot(x, x), dot(y, y), dot(x, y), t);
            mix(x, y, a as f32, b as f32);
        }
    } else {
        columns(&mut x, &y, parents.shape[0], t);
    }
    if let Some(base) = parents.base {
        for (x, b) in x.iter_mut().zip(&*parents.whole(base)) {
            *x += b;
        }
    }
    Ok(out.fill(&x))
}

fn mix(x: &mut [f32], y: &[f32], a: f32, b: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = a * *x + b * y;
    }
}

/// Lines along the first axis: every column of a matrix has its own angle.
fn columns(x: &mut [f32], y: &[f32], rows: usize, t: f64) {
    let width = x.len() / rows.max(1);
    let mut sums = vec![[0.0f64; 3]; width];
    for (x, y) in x.chunks(width).zip(y.chunks(width)) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            s[0] += x * x;
            s[1] += y * y;
            s[2] += x * y;
        }
    }
    let factors: Vec<(f64, f64)> = sums.iter().map(|s| coefficients(s[0], s[1], s[2], t)).collect();
    for (x, y) in x.chunks_mut(width).zip(y.chunks(width)) {
        for ((x, y), (a, b)) in x.iter_mut().zip(y).zip(&factors) {
            *x = *a as f32 * *x + *b as f32 * y;
        }
    }
}

fn coefficients(xx: f64, yy: f64, xy: f64, t: f64) -> (f64, f64) {
    angle(xx, yy, xy).map_or((1.0 - t, t), |theta| arc(theta, t))
}

/// The derivatives of both coefficients with respect to `t`.
pub(crate) fn slopes(xx: f64, yy: f64, xy: f64, t: f64) -> (f64, f64) {
    angle(xx, yy, xy).map_or((-1.0, 1.0), |theta| arc_slopes(theta, t))
}

/// Between two lines; `None` where they are parallel.
fn angle(xx: f64, yy: f64, xy: f64) -> Option<f64> {
    let norm = |square: f64| square.max(0.0).sqrt().max(1e-7);
    let cos = (xy / (norm(xx) * norm(yy))).clamp(-1.0, 1.0);
    (1.0 - cos * cos > 1e-16).then(|| libm::acos(cos))
}

/// The derivative with respect to `t` of the result times `upstream`, where each line has an angle of its own.
pub(crate) fn slope_by_lines(parents: &Parents<'_>, lines: Lines, t: f64, upstream: &[f32]) -> f64 {
    let models = parents.models();
    let (x, y) = (parents.task_vector(models[0]), parents.task_vector(models[1]));
    let (_, last) = parents.rows();
    let by_columns = lines == Lines::FirstAxis && parents.shape.len() >= 2;
    let width = if by_columns {
        x.len() / parents.shape[0].max(1)
    } else {
        last
    };
    let count = if by_columns { width } else { x.len() / width.max(1) };
    // Of each line: x·x, y·y, x·y, x·g, y·g.
    let mut sums = vec![[0.0f64; 5]; count];
    for (i, ((x, y), g)) in x.iter().zip(&y).zip(upstream).enumerate() {
        let line = &mut sums[if by_columns { i % width } else { i / width }];
        let (x, y, g) = (f64::from(*x), f64::from(*y), f64::from(*g));
        let products = [x * x, y * y, x * y, x * g, y * g];
        line.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
    }
    let of_line = |[xx, yy, xy, xg, yg]: &[f64; 5]| {
        let (a, b) = slopes(*xx, *yy, *xy, t);
        a * xg + b * yg
    };
    sums.iter().map(of_line).sum()
}

/// The derivative with respect to each weight: t = w₂ / (w₁ + w₂), and the result by its lines.
pub(crate) fn gradient(parents: &Parents<'_>, weights: [f64; 2], lines: Lines, upstream: &[f32]) -> Vec<f64> {
    let total = weights[0] + weights[1];
    if total.abs() < 1e-6 {
        return vec![0.0; 2]; // t is ½ whatever the weights
    }
    let t = weights[1] / total;
    let slope = match lines {
        Lines::Whole => {
            let (gram, along) = (parents.gram(), along_models(parents, upstream));
            let (a, b) = slopes(gram[0], gram[3], gram[1], t);
            a * along[0] + b * along[1]
        }
        Lines::LastAxis | Lines::FirstAxis => slope_by_lines(parents, lines, t, upstream),
    };
    vec![
        -slope * weights[1] / (total * total),
        slope * weights[0] / (total * total),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::testing::run_shaped;
    use super::*;

    const A: [f32; 4] = [2.0, 0.0, 0.0, 2.0];
    const B: [f32; 4] = [0.0, 2.0, 0.0, 2.0];

    fn nuslerp(lines: Lines, weights: [f64; 2]) -> Vec<f32> {
        run_shaped(&[&A, &B], None, &[2, 2], |p, out| merge(p, weights, lines, out)).unwrap()
    }

    #[test]
    fn lines_by_hand() {
        let h = std::f32::consts::SQRT_2;
        let near = |a: Vec<f32>, b: [f32; 4]| {
            assert!(a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-6), "{a:?} {b:?}");
        };
        // First row at a right angle, second row parallel.
        near(nuslerp(Lines::LastAxis, [1.0, 1.0]), [h, h, 0.0, 2.0]);
        // Columns (2, 0), (0, 0) and (0, 2), (2, 2): no direction, and 45°.
        let (a, b) = arc(std::f64::consts::FRAC_PI_4, 0.5);
        let column = [b as f32 * 2.0, (a + b) as f32 * 2.0];
        let (p, _) = arc(std::f64::consts::FRAC_PI_2, 0.5);
        near(
            nuslerp(Lines::FirstAxis, [1.0, 1.0]),
            [p as f32 * 2.0, column[0], 0.0, column[1]],
        );
        // 60° for the whole: cos = 4/8
        let (a, b) = arc(std::f64::consts::FRAC_PI_3, 0.25);
        let (a, b) = (a as f32, b as f32);
        near(
            nuslerp(Lines::Whole, [3.0, 1.0]),
            [2.0 * a, 2.0 * b, 0.0, 2.0 * (a + b)],
        );
    }

    #[test]
    fn weights_that_cancel_mean_half_way() {
        assert_eq!(nuslerp(Lines::Whole, [1.0, -1.0]), nuslerp(Lines::Whole, [1.0, 1.0]));
    }
}
