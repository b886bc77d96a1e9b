//! Passthrough: a copy, times `scale`; with `gain`, of a tensor whose 1 + value counts (Gemma's norms). The layers' order is the engine's work; this is what one tensor goes through.

use super::{
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, scale: f32, gain: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    // (1 + x) · gain − 1, in the form that is exact at gain 1.
    let shift = gain - 1.0;
    Ok(parents.inputs.write(
        out,
        #[inline(always)]
        |_, chunks, _, out| {
            for (o, x) in out.iter_mut().zip(chunks[0]) {
                *o = if shift == 0.0 {
                    x * scale
                } else {
                    x * scale * gain + shift
                };
            }
        },
    ))
}
