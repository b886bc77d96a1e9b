//! Sparse soup: the weighted average of pruned models under their shared mask.
//!
//! Source: Zimmer et al. 2024, Sparse model soups, arXiv:2306.16788, section 3. Models retrained from one pruned model
//! share its mask, so what is zero in all of them stays exactly zero, and the average is as sparse as they are.

use super::{
    linear::weighted_sum,
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, weights: &[f32], out: &mut Target<'_>) -> Result<bool, Refusal> {
    let total: f32 = weights.iter().sum();
    if total == 0.0 {
        return Err(Refusal::ZeroWeights);
    }
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            weighted_sum(chunks, weights, out);
            for (i, o) in out.iter_mut().enumerate() {
                let pruned = chunks.iter().all(|c| c[i] == 0.0);
                *o = if pruned { 0.0 } else { *o / total };
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    #[test]
    fn zeros_of_all_stay_zero() {
        let models: [&[f32]; 2] = [&[0.0, 2.0, 0.0], &[-0.0, 4.0, 1.0]];
        let out = run(&models, None, |p, out| merge(p, &[1.0, 3.0], out)).unwrap();
        assert_eq!(out, [0.0, 14.0 / 4.0, 3.0 / 4.0]);
        assert!(out[0].is_sign_positive());
        let refused = run(&models, None, |p, out| merge(p, &[1.0, -1.0], out));
        assert_eq!(refused, Err(Refusal::ZeroWeights));
    }
}
