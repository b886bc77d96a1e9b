//! Passthrough: a copy, times `scale`. The layers' order is the engine's work; this is what one tensor goes through.

use super::{
    parents::{Parents, Refusal},
    view::Target,
};

pub(crate) fn merge(parents: &Parents<'_>, scale: f32, out: &mut Target<'_>) -> Result<bool, Refusal> {
    Ok(parents.inputs.write(out, |_, chunks, _, out| {
        for (o, x) in out.iter_mut().zip(chunks[0]) {
            *o = x * scale;
        }
    }))
}
