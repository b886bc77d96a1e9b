//! Adapter mean: the newest adapter, drawn towards the mean of those before it.
//!
//! Source: MOS, arXiv:2412.09441, eq. 5: A ← (1 − α) A_new + α · mean(A_old), tensor by tensor. The last model of the
//! recipe is the new one; alone, it stays as it is.

use super::{
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, alpha: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            let Some((new, old)) = chunks.split_last() else {
                return;
            };
            if old.is_empty() {
                out.copy_from_slice(new);
                return;
            }
            let count = old.len() as f32;
            out.fill(0.0);
            for chunk in old {
                for (o, x) in out.iter_mut().zip(*chunk) {
                    *o += x;
                }
            }
            for (o, n) in out.iter_mut().zip(*new) {
                *o = (1.0 - alpha) * n + alpha * (*o / count);
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    #[test]
    fn by_hand() {
        let models: [&[f32]; 3] = [&[1.0], &[3.0], &[10.0]];
        let mean = |n: usize, alpha| run(&models[..n], None, |p, out| merge(p, alpha, out)).unwrap();
        assert_eq!(mean(3, 0.25), [0.75 * 10.0 + 0.25 * 2.0]);
        assert_eq!(mean(1, 0.25), [1.0]);
        assert_eq!(mean(3, 0.0), [10.0]);
    }
}
