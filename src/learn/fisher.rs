//! How much a model minds a change of each of its weights: the diagonal of its Fisher information, for `merge_method: fisher`.
//!
//! **Source**: Matena and Raffel 2022, arXiv:2111.09832, section 3: the mean over questions of the squared derivative of
//! log p(answer | question), weight by weight. With answers that are drawn from the model itself it is an unbiased estimate of the
//! Fisher information; with a task's worked solutions it is the *empirical* Fisher, which is something else where the model is
//! far from them (Kunstner et al. 2019). Which of the two it is, the texts decide, so it is the caller's business.
//!
//! The square is of each text's whole derivative, so texts are read one by one. Memory: the model in f32 twice, once for its weights
//! and once for the sums, and one layer's derivatives.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::Error;
use crate::{
    merge::{Plan, TensorSource, Vocabulary},
    model::{DType, DecoderSpec, Device, Text, Twin},
};

/// The diagonal Fisher information of one model, in the shape of that model.
pub struct Fisher<'a> {
    /// The model whose name and vocabulary it has.
    donor: String,
    models: &'a dyn TensorSource,
    config: serde_json::Value,
    shapes: HashMap<String, Vec<usize>>,
    sums: HashMap<String, Vec<f32>>,
    texts: usize,
}

impl<'a> Fisher<'a> {
    /// Reads the texts with the child of a plan over some models. `see` is told how many are done, and ends the reading by returning false.
    ///
    /// # Errors
    /// No text; a model that has no decoder here, or cannot be read; a loss that is not finite.
    pub fn measure(
        plan: &Plan,
        models: &'a dyn TensorSource,
        texts: &[Text],
        (device, dtype): (Device, DType),
        see: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, Error> {
        if texts.is_empty() {
            return Err(Error::TooFewTexts {
                texts: 0,
                least: 1,
                way_out: "ask more questions, or give the task reference solutions",
            });
        }
        let twin = twin(plan, models, device, dtype)?;
        let mut fisher = Fisher {
            donor: plan.tokenizer().donor,
            models,
            config: plan.config().clone(),
            shapes: plan
                .outputs()
                .iter()
                .map(|o| (o.name.clone(), o.shape.clone()))
                .collect(),
            sums: HashMap::new(),
            texts: 0,
        };
        for text in texts {
            fisher.add(&twin, text)?;
            if !see(fisher.texts) {
                break;
            }
        }
        Ok(fisher)
    }

    /// Adds the square of one text's derivative.
    fn add(&mut self, twin: &Twin, text: &Text) -> Result<(), Error> {
        // The twin's loss is a mean over the text's tokens, and the likelihood of an answer is that of all of them.
        let tokens = (text.tokens.len() - text.from) as f32;
        let text = Text {
            weight: 1.0,
            ..text.clone()
        };
        let sums = &mut self.sums;
        let mut take = |name: &str, gradient: Vec<f32>| -> Result<(), Error> {
            let square = |g: &f32| (tokens * g) * (tokens * g);
            match sums.get_mut(name) {
                Some(sum) => sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += square(g)),
                None => drop(sums.insert(name.to_string(), gradient.iter().map(square).collect())),
            }
            Ok(())
        };
        let loss = twin.gradient(&[text], &mut take)?.mean;
        self.texts += 1;
        match loss.is_finite() {
            true => Ok(()),
            false => Err(Error::NotFinite { step: self.texts, loss }),
        }
    }

    /// Texts that were read.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// The mean over all weights that the texts reached.
    pub fn mean(&self) -> f64 {
        let all = self.sums.values().flatten().map(|sum| f64::from(*sum));
        let count: usize = self.sums.values().map(Vec::len).sum();
        all.sum::<f64>() / (self.texts.max(1) * count.max(1)) as f64
    }

    /// The word that it answers to as a source of tensors.
    pub fn model(&self) -> &str {
        &self.donor
    }

    fn is(&self, model: &str) -> bool {
        model == self.donor
    }
}

/// The differentiable twin of a plan's child.
fn twin(plan: &Plan, models: &dyn TensorSource, device: Device, dtype: DType) -> Result<Twin, Error> {
    let outputs = plan.outputs();
    let spec = DecoderSpec::from_config(plan.config())?
        .stored_as(outputs.iter().map(|o| (o.name.as_str(), o.shape.as_slice())));
    spec.check_tensors(outputs.iter().map(|o| (o.name.as_str(), o.shape.as_slice())))?;
    let place: HashMap<&str, usize> = outputs.iter().enumerate().map(|(i, o)| (o.name.as_str(), i)).collect();
    let mut read = |name: &str| {
        let i = place.get(name).ok_or("the model has no such tensor")?;
        let mut data = plan.compute(*i, models).map_err(|e| e.to_string())?;
        dtype.round(&mut data);
        Ok::<_, String>(data)
    };
    Ok(Twin::load(spec, device, &mut read)?)
}

/// As a model is read: tensors that no text reached, such as a vision tower's, are zeros.
impl TensorSource for Fisher<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        let names = self.shapes.keys().filter(|_| self.is(model));
        names.cloned().collect()
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        self.shapes.get(tensor).filter(|_| self.is(model)).cloned()
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        self.shape(model, tensor).map(|_| DType::F32)
    }

    fn config(&self, model: &str) -> Option<&serde_json::Value> {
        self.is(model).then_some(&self.config)
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let shape = self.shape(model, tensor).ok_or("no such tensor")?;
        let zeros = || vec![0.0; shape.iter().product()];
        let mean = |sum: &Vec<f32>| sum.iter().map(|s| s / self.texts.max(1) as f32).collect();
        Ok(Cow::Owned(self.sums.get(tensor).map_or_else(zeros, mean)))
    }

    fn model_digest(&self, _model: &str) -> String {
        String::new()
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        self.models.vocab(model)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{checkpoint::Checkpoint, models::Parents};

    fn base() -> Parents {
        let mut parents = Parents::default();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base");
        parents.add("base", Checkpoint::open(&dir).unwrap()).unwrap();
        parents
    }

    fn texts() -> Vec<Text> {
        let text = |tokens: &[u32], from: usize| Text {
            tokens: tokens.to_vec(),
            from,
            weight: 1.0,
        };
        vec![
            text(&[3, 17, 42, 8, 25, 90, 7], 2),
            text(&[60, 5, 33, 71], 1),
            text(&[12, 12, 40, 2, 9], 4),
        ]
    }

    /// Each number is the mean of the squared slopes of the texts' log-likelihoods, which a difference of two losses gives too. A
    /// slope of the mean token, or the square of the mean slope, would be another number.
    #[test]
    fn it_is_the_mean_of_squared_slopes_of_each_texts_likelihood() {
        let parents = base();
        let plan = Plan::new(&crate::models::verbatim("base"), &parents).unwrap();
        let on = (Device::Cpu, DType::F32);
        let fisher = Fisher::measure(&plan, &parents, &texts(), on, &mut |_| true).unwrap();
        assert_eq!(fisher.texts(), 3);
        let mut twin = twin(&plan, &parents, on.0, on.1).unwrap();
        let tensors = [
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.3.mlp.down_proj.weight",
            "model.norm.weight",
        ];
        for name in tensors {
            let found = fisher.read_f32("base", name).unwrap();
            // The entry that counts most: differences of small ones are rounding.
            let (place, most) = found
                .iter()
                .enumerate()
                .fold((0, 0.0f32), |m, (i, f)| if *f > m.1 { (i, *f) } else { m });
            assert!(most > 0.0, "{name}");
            let i = plan.outputs().iter().position(|o| o.name == name).unwrap();
            let weights = plan.compute(i, &parents).unwrap();
            let step = 2e-2 * weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let mut at = |step: f32| {
                let mut moved = weights.clone();
                moved[place] += step;
                twin.set_tensor(name, &moved).unwrap();
                twin.loss(&texts()).unwrap().log_likelihoods
            };
            let (up, down) = (at(step), at(-step));
            at(0.0);
            let slope = |(u, d): (&f64, &f64)| ((u - d) / (2.0 * f64::from(step))).powi(2);
            let expected = up.iter().zip(&down).map(slope).sum::<f64>() / 3.0;
            let off = (f64::from(most) - expected).abs() / expected;
            assert!(off < 0.05, "{name}: {most} {expected}");
        }
    }

    #[test]
    fn it_is_read_as_a_model_of_its_own_name_and_shape() {
        let parents = base();
        let plan = Plan::new(&crate::models::verbatim("base"), &parents).unwrap();
        let fisher = Fisher::measure(&plan, &parents, &texts(), (Device::Cpu, DType::F32), &mut |done| {
            done < 2
        })
        .unwrap();
        assert_eq!(fisher.texts(), 2, "whoever ends it early gets what there is");
        let copy = Plan::new(&crate::models::verbatim(fisher.model()), &fisher).unwrap();
        assert_eq!(copy.outputs().len(), plan.outputs().len());
        for (i, output) in copy.outputs().iter().enumerate() {
            assert_eq!((&output.shape, output.dtype), (&plan.outputs()[i].shape, DType::F32));
            assert!(copy.compute(i, &fisher).unwrap().iter().all(|f| *f >= 0.0));
        }
        let none = Fisher::measure(&plan, &parents, &[], (Device::Cpu, DType::F32), &mut |_| true)
            .err()
            .unwrap();
        assert!(none.to_string().contains("questions"), "{none}");
    }
}
