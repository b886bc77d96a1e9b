//! Whose what was measured of a model is. Gram matrices and Fisher information of another model of the same shape merge as well as a model's
//! own, into a child that nobody meant.

use serde::Deserialize;
use serde_json::Value;

use super::{Error, Grams, TensorSource};
use crate::recipe::Stage;

/// Where the `config.json` of Fisher information says with what it was measured, as that of Gram matrices does under [`Grams::KEY`].
pub const FISHER_KEY: &str = "heterosis_fisher";

/// With what somebody measured.
#[derive(Deserialize)]
struct Measured {
    /// The model's word.
    model: String,
    /// All models that were open.
    #[serde(default)]
    models: Vec<Opened>,
}

#[derive(Deserialize)]
struct Opened {
    model: String,
    digest: String,
}

/// Refuses what was measured of another model than the one beside which it stands, and what was measured in the place of a model.
/// Of a file that does not say, or of a model that was merged in memory, nothing is known.
///
/// # Errors
/// [`Error::OfAnother`], [`Error::MeasuredOnly`].
pub(crate) fn check(stage: &Stage, source: &dyn TensorSource) -> Result<(), Error> {
    let is_measured = |word: &&String| source.config(word).is_some_and(|config| measured_in(config).is_some());
    let mut models = stage.sources().map(|of| &of.model).chain(&stage.base_model);
    if let Some(model) = models.find(is_measured) {
        return Err(Error::MeasuredOnly { model: model.clone() });
    }
    for of in stage.sources() {
        let Some(word) = of.measured() else { continue };
        let digest = source.config(word).and_then(digest_of);
        if digest.is_some_and(|digest| digest != source.model_digest(&of.model)) {
            return Err(Error::OfAnother {
                measured: word.into(),
                model: of.model.clone(),
            });
        }
    }
    Ok(())
}

/// What the `config.json` of something that was measured says of that.
fn measured_in(config: &Value) -> Option<&Value> {
    [Grams::KEY, FISHER_KEY].iter().find_map(|key| config.get(*key))
}

/// Of the model that was measured.
fn digest_of(config: &Value) -> Option<String> {
    let measured = Measured::deserialize(measured_in(config)?.get("measured")?).ok()?;
    let is_it = |opened: &Opened| opened.model == measured.model;
    measured.models.into_iter().find(is_it).map(|opened| opened.digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_model_s_own_digest_is_found_and_nothing_else() {
        let config = |of: &str| {
            json!({"heterosis_grams": {"of": {}, "measured": {"model": of, "models": [
            {"model": "a", "digest": "1"}, {"model": "b", "digest": "2"}]}}})
        };
        assert_eq!(digest_of(&config("b")), Some("2".into()));
        assert_eq!(digest_of(&config("merged.yaml")), None);
        assert_eq!(digest_of(&json!({"heterosis_fisher": {}})), None);
        assert_eq!(digest_of(&json!({})), None);
    }
}
