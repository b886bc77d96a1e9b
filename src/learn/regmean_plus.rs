//! RegMean++: Gram matrices of what linear maps read behind layers that are merged already.
//!
//! Source: Nguyen et al. 2025, arXiv:2508.03121: RegMean takes what layer l of model k reads behind the model's own layers, and the merged
//! layer will read something else. Here it is what the *merged* layer l − 1 made of model k's texts; within the layer the model's own maps
//! make what its next ones read. Layer l is then merged by RegMean's formula, and all texts go through it. Embeddings, which are
//! averaged, come first.
//!
//! All that differs from RegMean is the matrices, so they are what is kept: the recipe merges with them as with any others.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    Error,
    grams::{Inventory, of_layer},
};
use crate::{
    merge::{Grams, Plan, TensorSource, Vocabulary},
    model::{DType, Device, Reading, Text, Twin},
    models,
    recipe::Recipe,
};

/// A model of the recipe with its texts.
pub struct Own {
    /// The recipe's word for the model's Gram matrices.
    pub grams: String,
    pub twin: Twin,
    pub inventory: Inventory,
    pub texts: Vec<Text>,
}

/// Takes a matrix: the place of its model, its name, and its numbers.
pub type Take<'a, E> = &'a mut dyn FnMut(usize, &str, &[f32]) -> Result<(), E>;

/// Measures the matrices of all models, layer by layer; `take` is given the model's place in `own`, a name and the matrix.
/// Gives the tokens that each model has read.
///
/// # Errors
/// What the plan of the recipe refuses, and the twins; whatever `take` says.
pub fn measure<E: From<Error>>(
    recipe: &Recipe,
    models: &dyn TensorSource,
    (own, dtype): (&[Own], DType),
    take: Take<'_, E>,
    see: &mut dyn FnMut(usize),
) -> Result<Vec<usize>, E> {
    let mut source = Measured::new(models, own);
    let plan = Plan::new(recipe, &source).map_err(Error::from)?;
    let mut merged = Merged::new(&plan, &source, dtype)?;
    let readings = own.iter().map(|own| merged.twin.begin(&own.texts));
    let mut readings: Vec<Reading> = readings.collect::<Result<_, _>>().map_err(Error::from)?;
    for layer in 0..merged.twin.spec().layers.len() {
        source.layer.clear();
        for (k, (own, reading)) in own.iter().zip(&readings).enumerate() {
            for (name, values) in of_layer(&own.twin, layer, reading)? {
                take(k, &name, &values)?;
                source.layer.insert((own.grams.clone(), name), values);
            }
        }
        merged.merge(&plan, &source, Some(layer))?;
        for reading in &mut readings {
            merged.twin.advance(layer, reading).map_err(Error::from)?;
        }
        see(layer + 1);
    }
    Ok(readings.iter().map(Reading::tokens).collect())
}

/// The child as far as it is merged.
struct Merged {
    twin: Twin,
    dtype: DType,
}

impl Merged {
    /// What is outside of the layers; these are zero.
    fn new(plan: &Plan, source: &dyn TensorSource, dtype: DType) -> Result<Self, Error> {
        let outputs = plan.outputs();
        let spec = models::checked_spec_of(plan)?;
        let sizes: HashMap<&str, usize> = outputs.iter().map(|o| (o.name.as_str(), o.elements())).collect();
        let mut zeros = |name: &str| Ok::<_, String>(vec![0.0; sizes.get(name).copied().unwrap_or_default()]);
        let twin = Twin::load(spec, Device::Cpu, &mut zeros)?;
        let mut merged = Merged { twin, dtype };
        merged.merge(plan, source, None)?;
        Ok(merged)
    }

    /// Merges one layer, or what is outside of them.
    fn merge(&mut self, plan: &Plan, source: &dyn TensorSource, layer: Option<usize>) -> Result<(), Error> {
        let outputs = plan.outputs().iter().enumerate();
        for (i, output) in outputs.filter(|(_, output)| output.layer == layer) {
            // What no decoder uses, such as a vision tower, is not computed.
            if self.twin.has_tensor(&output.name) {
                let mut values = plan.compute(i, source)?;
                self.dtype.round(&mut values);
                self.twin.set_tensor(&output.name, &values)?;
            }
        }
        Ok(())
    }
}

/// The models, and the Gram matrices of the layer that is merged now.
struct Measured<'a> {
    models: &'a dyn TensorSource,
    shapes: HashMap<String, HashMap<String, Vec<usize>>>,
    configs: HashMap<String, Value>,
    layer: HashMap<(String, String), Vec<f32>>,
}

impl<'a> Measured<'a> {
    fn new(models: &'a dyn TensorSource, own: &[Own]) -> Self {
        let shapes = own
            .iter()
            .map(|own| (own.grams.clone(), own.inventory.tensors.iter().cloned().collect()));
        let config = |own: &Own| json!({ Grams::KEY: own.inventory.grams });
        Measured {
            models,
            shapes: shapes.collect(),
            configs: own.iter().map(|own| (own.grams.clone(), config(own))).collect(),
            layer: HashMap::new(),
        }
    }
}

impl TensorSource for Measured<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        match self.shapes.get(model) {
            Some(shapes) => shapes.keys().cloned().collect(),
            None => self.models.tensor_names(model),
        }
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        match self.shapes.get(model) {
            Some(shapes) => shapes.get(tensor).cloned(),
            None => self.models.shape(model, tensor),
        }
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        match self.shapes.get(model) {
            Some(shapes) => shapes.get(tensor).map(|_| DType::F32),
            None => self.models.dtype(model, tensor),
        }
    }

    fn config(&self, model: &str) -> Option<&Value> {
        self.configs.get(model).or_else(|| self.models.config(model))
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        if !self.shapes.contains_key(model) {
            return self.models.read_f32(model, tensor);
        }
        let values = self.layer.get(&(model.to_string(), tensor.to_string()));
        values
            .map(|values| Cow::Borrowed(&values[..]))
            .ok_or_else(|| "its layer is not merged now".into())
    }

    fn raw(&self, model: &str, tensor: &str) -> Option<(DType, &[u8])> {
        match self.shapes.contains_key(model) {
            true => None,
            false => self.models.raw(model, tensor),
        }
    }

    fn model_digest(&self, model: &str) -> String {
        self.models.model_digest(model)
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        match self.shapes.contains_key(model) {
            true => None,
            false => self.models.vocab(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::twin;
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        models::{Parents, verbatim},
        recipe::read,
    };

    fn parents(names: &[(&str, &str)]) -> Parents {
        let mut parents = Parents::default();
        for (name, dir) in names {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(dir);
            parents.add(name, Checkpoint::open(&dir).unwrap()).unwrap();
        }
        parents
    }

    fn own(parents: &Parents, name: &str, texts: &[&[u32]]) -> Own {
        let plan = Plan::new(&verbatim(name), parents).unwrap();
        let twin = twin(&plan, parents, Device::Cpu, DType::F32).unwrap();
        let text = |tokens: &&[u32]| Text {
            tokens: tokens.to_vec(),
            from: 1,
            weight: 1.0,
            expected: Vec::new(),
        };
        Own {
            grams: format!("g-{name}"),
            inventory: Inventory::of(&twin).unwrap(),
            twin,
            texts: texts.iter().map(text).collect(),
        }
    }

    const RECIPE: &str = "merge_method: regmean\ndtype: float32\nmodels:\n- {model: a, grams: g-a}\n\
                          - {model: b, grams: g-b, parameters: {weight: 0.6}}\n";

    type Taken = HashMap<(String, String), Vec<f32>>;

    fn measured(parents: &Parents, own: &[Own]) -> Taken {
        let recipe = read::parse(Path::new("r.yaml"), RECIPE).unwrap();
        let mut taken = Taken::new();
        let mut take = |k: usize, name: &str, values: &[f32]| {
            taken.insert((own[k].grams.clone(), name.into()), values.to_vec());
            Ok::<_, Error>(())
        };
        let tokens = measure(&recipe, parents, (own, DType::F32), &mut take, &mut |_| {}).unwrap();
        assert_eq!(tokens, [10, 4]);
        taken
    }

    const TEXTS: [&[&[u32]]; 2] = [
        &[&[3, 17, 42, 8, 25, 90, 7, 11], &[60, 5, 33, 71]],
        &[&[12, 12, 40, 2, 9]],
    ];

    /// What is kept has to be what the method says of the model that it leads to: merged with the matrices, layers before l make of a
    /// model's texts what its layer l was measured with.
    #[test]
    fn each_layer_reads_what_the_merged_layers_before_it_make() {
        let parents = parents(&[("a", "tiny-maths-en"), ("b", "tiny-spanish")]);
        let own = [own(&parents, "a", TEXTS[0]), own(&parents, "b", TEXTS[1])];
        let taken = measured(&parents, &own);
        let mut source = Measured::new(&parents, &own);
        source.layer = taken.clone();
        let recipe = read::parse(Path::new("r.yaml"), RECIPE).unwrap();
        let child = twin(&Plan::new(&recipe, &source).unwrap(), &source, Device::Cpu, DType::F32).unwrap();
        let mut differs = false;
        for own in &own {
            let (mut reading, mut alone) = (child.begin(&own.texts).unwrap(), own.twin.begin(&own.texts).unwrap());
            for layer in 0..child.spec().layers.len() {
                for (name, values) in of_layer(&own.twin, layer, &reading).unwrap() {
                    assert_eq!(values, taken[&(own.grams.clone(), name.clone())], "{name}");
                }
                let plain = of_layer(&own.twin, layer, &alone).unwrap();
                differs |= plain
                    .iter()
                    .any(|(name, values)| *values != taken[&(own.grams.clone(), name.clone())]);
                child.advance(layer, &mut reading).unwrap();
                own.twin.advance(layer, &mut alone).unwrap();
            }
        }
        assert!(differs, "RegMean's own matrices are others");
    }

    #[test]
    fn of_equal_models_it_measures_what_regmean_does() {
        let parents = parents(&[("a", "tiny-base"), ("b", "tiny-base")]);
        let own = [own(&parents, "a", TEXTS[0]), own(&parents, "b", TEXTS[1])];
        let taken = measured(&parents, &own);
        for own in &own {
            let mut reading = own.twin.begin(&own.texts).unwrap();
            for layer in 0..own.twin.spec().layers.len() {
                for (name, values) in of_layer(&own.twin, layer, &reading).unwrap() {
                    let found = &taken[&(own.grams.clone(), name.clone())];
                    let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    assert!(
                        found.iter().zip(&values).all(|(x, y)| (x - y).abs() < 1e-4 * largest),
                        "{name}"
                    );
                }
                own.twin.advance(layer, &mut reading).unwrap();
            }
        }
    }
}
