//! RAM and RAM+ (tensor-local): add what one task vector alone changes, average what several change.
//!
//! Source: Reinforced agent merging, arXiv:2601.13572. A change of at most `epsilon` counts as none. RAM+ multiplies the
//! unique part of model k by 1 + r · clamp(shared_k / max(unique_k, epsilon), 0, alpha), counted within the tensor.

use serde::Serialize;

use super::{
    parents::{Parents, Refusal, vectors},
    view::Target,
};

/// RAM+'s gain of the unique part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Gain {
    pub r: f64,
    pub alpha: f64,
}

pub(crate) fn merge(
    parents: &Parents<'_>,
    epsilon: f64,
    gain: Option<Gain>,
    out: &mut Target<'_>,
) -> Result<bool, Refusal> {
    let Some(base) = parents.base else {
        return Ok(false);
    };
    let models = parents.models();
    if models.is_empty() {
        return Ok(out.fill(&parents.whole(base)));
    }
    let gains: Vec<f32> = match gain {
        None => vec![1.0; models.len()],
        Some(gain) => overlaps(parents, &models, epsilon)
            .iter()
            .map(|[shared, unique]| {
                let ratio = *shared as f64 / (*unique as f64).max(epsilon);
                // clamp as torch does it: the upper bound wins where the two cross
                (1.0 + gain.r * ratio.max(0.0).min(gain.alpha)) as f32
            })
            .collect(),
    };
    let epsilon = epsilon as f32;
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, scratch, out| {
            let taus = vectors(chunks, &models, parents.base, scratch);
            for (i, (o, b)) in out.iter_mut().zip(chunks[base]).enumerate() {
                let changes = taus.iter().filter(|t| t[i].abs() > epsilon).count();
                let mut sum = 0.0f32;
                for (tau, gain) in taus.iter().zip(&gains) {
                    let d = tau[i];
                    if d.abs() > epsilon {
                        sum += if changes == 1 { d * gain } else { d / changes as f32 };
                    }
                }
                *o = b + sum;
            }
        },
    ))
}

/// For each model: positions that it changes with others, and alone.
fn overlaps(parents: &Parents<'_>, models: &[usize], epsilon: f64) -> Vec<[usize; 2]> {
    let epsilon = epsilon as f32;
    let parts = parents.inputs.each(
        #[inline(always)]
        |_, chunks, scratch| {
            let taus = vectors(chunks, models, parents.base, scratch);
            let mut counts = vec![[0usize; 2]; models.len()];
            for i in 0..taus[0].len() {
                let changes = taus.iter().filter(|t| t[i].abs() > epsilon).count();
                for (count, tau) in counts.iter_mut().zip(&taus) {
                    if tau[i].abs() > epsilon {
                        count[usize::from(changes == 1)] += 1;
                    }
                }
            }
            counts
        },
    );
    let mut total = vec![[0; 2]; models.len()];
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            t[0] += p[0];
            t[1] += p[1];
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    #[test]
    fn by_hand() {
        let (base, a, b) = ([1.0; 4], [2.0, 1.0, 3.0, 1.0], [2.0, 3.0, 1.0, 1.0]);
        let ram = |gain| run(&[&base, &a, &b], Some(0), |p, out| merge(p, 1e-5, gain, out)).unwrap();
        // Shared: the first position, (1 + 1)/2. Unique: 2 each.
        assert_eq!(ram(None), [2.0, 3.0, 3.0, 1.0]);
        // One shared and one unique position each: ratio 1, clamped to 0.5.
        let gain = Some(Gain { r: 0.5, alpha: 0.5 });
        assert_eq!(ram(gain), [2.0, 1.0 + 2.0 * 1.25, 1.0 + 2.0 * 1.25, 1.0]);
    }
}
