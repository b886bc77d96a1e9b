//! NearSwap: move the base to the other model where the two are close, less the further apart they are.
//!
//! Source: alchemonaut's QuartetAnemoi (mergekit): w = clamp(t / max(|a − b|, 1e-6), 0, 1), θ = w·b + (1 − w)·a.

use super::{
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, t: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    let (Some(base), &[other]) = (parents.base, &parents.models()[..]) else {
        return Ok(false);
    };
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            for ((o, a), b) in out.iter_mut().zip(chunks[base]).zip(chunks[other]) {
                let w = (t / (a - b).abs().max(1e-6)).clamp(0.0, 1.0);
                *o = w * b + (1.0 - w) * a;
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
        let models: [&[f32]; 2] = [&[0.0, 0.0, 1.0], &[0.25, 2.0, 1.0]];
        let near = |t| run(&models, Some(0), |p, out| merge(p, t, out)).unwrap();
        assert_eq!(near(0.5), [0.25, 0.5, 1.0]);
        assert_eq!(near(0.0), [0.0, 0.0, 1.0]);
        assert_eq!(near(-1.0), [0.0, 0.0, 1.0]);
    }
}
