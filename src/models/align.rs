//! A model with its neurons and heads where another's stand that they are most like: before models without a common base are merged.
//!
//! What `merge::Likeness` matches, `DecoderSpec` says where to find. The aligned model computes what the model computed.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{Error, Opened};
use crate::{
    merge::{Likeness, Plan, TensorSource, Vocabulary, matched_heads},
    model::{self, DecoderSpec, UnitPlace, Units},
    recipe::DType,
};

/// An aligned model, as it is read.
pub struct Aligned<'a> {
    model: &'a Opened,
    /// The model whose name and files it has.
    donor: String,
    /// Output by name.
    index: HashMap<String, usize>,
    /// By tensor, which units of it come where.
    orders: HashMap<String, Vec<Order>>,
    pub moved: Moved,
}

/// Units, and which of them comes where.
type Order = (UnitPlace, Arc<[usize]>);

/// What an alignment did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moved {
    /// That changed places, of all.
    pub neurons: (usize, usize),
    /// Heads of queries; keys and values go with them.
    pub heads: (usize, usize),
    /// How far the weights of all units are from the base's, before and after: the root of the sum of squares.
    pub distance: (f64, f64),
}

/// A model that is read tensor by tensor, and what its decoder is.
struct Side<'a> {
    opened: &'a Opened,
    spec: DecoderSpec,
    index: HashMap<String, usize>,
}

impl<'a> Side<'a> {
    fn new(opened: &'a Opened) -> Result<Self, Error> {
        let spec = super::checked_spec_of(&opened.plan)?;
        Ok(Side {
            opened,
            spec,
            index: index(&opened.plan),
        })
    }

    fn name(&self) -> String {
        self.opened.plan.tokenizer().donor
    }

    fn read(&self, tensor: &str) -> Result<Vec<f32>, Error> {
        let i = self.index.get(tensor).ok_or_else(|| model::Error::Read {
            tensor: tensor.into(),
            reason: "the model has no such tensor".into(),
        })?;
        Ok(self.opened.plan.compute(*i, &self.opened.parents)?)
    }
}

fn index(plan: &Plan) -> HashMap<String, usize> {
    let outputs = plan.outputs().iter().enumerate();
    outputs.map(|(i, o)| (o.name.clone(), i)).collect()
}

impl<'a> Aligned<'a> {
    /// Matches layer by layer. `see` is told how many layers are done.
    ///
    /// # Errors
    /// Models of different architectures or sizes, mixtures of experts, a tensor that cannot be read or holds what is not finite; a
    /// recipe that makes a vocabulary of its own.
    pub fn new(model: &'a Opened, base: &Opened, see: &mut dyn FnMut(usize)) -> Result<Self, Error> {
        let (own, to) = (Side::new(model)?, Side::new(base)?);
        if !model.plan.tokenizer().added.is_empty() {
            return Err(Error::AddsTokens { model: own.name() });
        }
        let mut aligned = Aligned {
            model,
            donor: own.name(),
            index: index(&model.plan),
            orders: HashMap::new(),
            moved: Moved::default(),
        };
        if own.spec.layers.len() != to.spec.layers.len() {
            return Err(unlike(&own, &to, own.spec.layers.len().min(to.spec.layers.len())));
        }
        for layer in 0..own.spec.layers.len() {
            aligned.layer(&own, &to, layer)?;
            see(layer + 1);
        }
        let (before, after) = aligned.moved.distance;
        aligned.moved.distance = (before.sqrt(), after.sqrt());
        Ok(aligned)
    }

    fn layer(&mut self, own: &Side<'_>, to: &Side<'_>, layer: usize) -> Result<(), Error> {
        if own.spec.neurons(layer) != to.spec.neurons(layer)
            || own.spec.attention_heads(layer) != to.spec.attention_heads(layer)
        {
            return Err(unlike(own, to, layer));
        }
        let Some(neurons) = own.spec.neurons(layer) else {
            return Err(Error::MixtureUnits { model: own.name() });
        };
        let not_finite = || Error::NotMatched {
            model: own.name(),
            base: to.name(),
            layer,
        };
        let order = likeness(&neurons, own, to)?.matched().ok_or_else(not_finite)?;
        self.moved.neurons = counted(self.moved.neurons, &order);
        self.take(&neurons, order.into(), own, to)?;
        if let Some(heads) = own.spec.attention_heads(layer) {
            let (shared, queries) = (likeness(&heads.shared, own, to)?, likeness(&heads.queries, own, to)?);
            let (of_groups, of_queries) = matched_heads(&shared, &queries).ok_or_else(not_finite)?;
            self.moved.heads = counted(self.moved.heads, &of_queries);
            self.take(&heads.shared, of_groups.into(), own, to)?;
            self.take(&heads.queries, of_queries.into(), own, to)?;
        }
        Ok(())
    }

    /// Takes an order of units.
    fn take(&mut self, units: &Units, order: Arc<[usize]>, own: &Side<'_>, to: &Side<'_>) -> Result<(), Error> {
        for place in &units.places {
            let (base, mut model) = (to.read(&place.tensor)?, own.read(&place.tensor)?);
            let gathered = |values: &[f32]| place.gathered(units.count, values);
            let base = gathered(&base);
            self.moved.distance.0 += squares(&base, &gathered(&model));
            place.reorder(&order, &mut model);
            self.moved.distance.1 += squares(&base, &gathered(&model));
            let orders = self.orders.entry(place.tensor.clone()).or_default();
            orders.push((place.clone(), order.clone()));
        }
        Ok(())
    }

    /// The word that it answers to as a source of tensors.
    pub fn model(&self) -> &str {
        &self.donor
    }

    fn output(&self, model: &str, tensor: &str) -> Option<usize> {
        self.index.get(tensor).copied().filter(|_| model == self.donor)
    }
}

fn unlike(own: &Side<'_>, to: &Side<'_>, layer: usize) -> Error {
    Error::UnlikeUnits {
        model: own.name(),
        base: to.name(),
        layer,
    }
}

fn likeness(units: &Units, own: &Side<'_>, to: &Side<'_>) -> Result<Likeness, Error> {
    let mut likeness = Likeness::new(units.count);
    for place in &units.places {
        let (base, model) = (to.read(&place.tensor)?, own.read(&place.tensor)?);
        likeness.add(
            &place.gathered(units.count, &base),
            &place.gathered(units.count, &model),
        );
    }
    Ok(likeness)
}

fn counted((moved, all): (usize, usize), order: &[usize]) -> (usize, usize) {
    let more = order.iter().enumerate().filter(|(i, from)| i != *from).count();
    (moved + more, all + order.len())
}

fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

impl TensorSource for Aligned<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        let names = self.index.keys().filter(|_| model == self.donor);
        names.cloned().collect()
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        Some(self.model.plan.outputs()[self.output(model, tensor)?].shape.clone())
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        Some(self.model.plan.outputs()[self.output(model, tensor)?].dtype)
    }

    fn config(&self, model: &str) -> Option<&Value> {
        (model == self.donor).then_some(self.model.plan.config())
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let i = self.output(model, tensor).ok_or("no such tensor")?;
        let computed = self.model.plan.compute(i, &self.model.parents);
        let mut values = computed.map_err(|e| e.to_string())?;
        for (place, order) in self.orders.get(tensor).into_iter().flatten() {
            place.reorder(order, &mut values);
        }
        Ok(Cow::Owned(values))
    }

    fn model_digest(&self, _model: &str) -> String {
        String::new()
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        self.model.parents.vocab(model)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        checkpoint::HubOptions,
        model::{Device, Text, Twin},
        models::{begin, verbatim, write_from},
    };

    fn open(dir: &Path) -> Opened {
        Opened::open(&dir.display().to_string(), &HubOptions::default()).unwrap()
    }

    fn embedded(name: &str) -> Opened {
        open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name))
    }

    /// An order that depends on a seed.
    fn order(seed: usize, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|i| (i + 1).wrapping_mul(2_654_435_761).wrapping_mul(seed + 7) % 1009);
        order
    }

    /// The model with its neurons and heads in some other order, on disk.
    fn shuffled(model: &Opened, out: &Path) {
        let own = Side::new(model).unwrap();
        let mut aligned = Aligned::new(model, model, &mut |_| {}).unwrap();
        aligned.orders.clear();
        for layer in 0..own.spec.layers.len() {
            let neurons = own.spec.neurons(layer).unwrap();
            aligned
                .take(&neurons, order(layer, neurons.count).into(), &own, &own)
                .unwrap();
            let heads = own.spec.attention_heads(layer).unwrap();
            let (groups, size) = (heads.shared.count, heads.queries.count / heads.shared.count);
            let of_groups = order(layer + 1, groups);
            let within = |(place, group): (usize, &usize)| -> Vec<usize> {
                order(layer + place, size)
                    .into_iter()
                    .map(|j| group * size + j)
                    .collect()
            };
            let of_queries: Vec<usize> = of_groups.iter().enumerate().flat_map(within).collect();
            aligned.take(&heads.shared, of_groups.into(), &own, &own).unwrap();
            aligned.take(&heads.queries, of_queries.into(), &own, &own).unwrap();
        }
        write(&aligned, out);
    }

    fn write(aligned: &Aligned<'_>, out: &Path) {
        let mut writer = begin(out, 1 << 30, false).unwrap();
        let plan = Plan::new(&verbatim(aligned.model()), aligned).unwrap();
        write_from(&mut writer, &plan, (aligned, &aligned.model.parents), &mut |_| {}).unwrap();
        writer.finish().unwrap();
    }

    fn tensors(model: &Opened) -> Vec<(String, Vec<u32>)> {
        let bits = |values: Vec<f32>| values.iter().map(|x| x.to_bits()).collect();
        let outputs = model.plan.outputs().iter().enumerate();
        outputs
            .map(|(i, o)| (o.name.clone(), bits(model.plan.compute(i, &model.parents).unwrap())))
            .collect()
    }

    /// What the model holds likely, text by text.
    fn likelihoods(model: &Opened) -> Vec<f64> {
        let side = Side::new(model).unwrap();
        let mut read = |name: &str| side.read(name).map_err(|e| e.to_string());
        let twin = Twin::load(side.spec.clone(), Device::Cpu, &mut read).unwrap();
        let text = |tokens: &[u32]| Text {
            tokens: tokens.to_vec(),
            from: 1,
            weight: 1.0,
            expected: Vec::new(),
        };
        let texts = [text(&[3, 17, 42, 8, 25, 90, 7, 11, 4]), text(&[60, 5, 33, 71])];
        twin.loss(&texts).unwrap().log_likelihoods
    }

    /// Whose units stand in another order is brought back bit by bit, and computes the same before and after: otherwise merges of
    /// what was aligned would be merges of something else.
    #[test]
    fn a_shuffled_model_is_brought_back_and_computes_the_same_all_along() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["tiny-base", "tiny-maths-en"] {
            let model = embedded(name);
            let other = dir.path().join(name);
            shuffled(&model, &other);
            let other = open(&other);
            let differ = tensors(&model)
                .iter()
                .zip(&tensors(&other))
                .filter(|(a, b)| a != b)
                .count();
            assert!(differ >= 6 * Side::new(&model).unwrap().spec.layers.len(), "{differ}");
            let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs());
            let (before, after) = (likelihoods(&model), likelihoods(&other));
            assert!(same(&before, &after), "{before:?} {after:?}");
            let aligned = Aligned::new(&other, &model, &mut |_| {}).unwrap();
            let moved = aligned.moved;
            assert!(
                moved.neurons.0 * 10 > moved.neurons.1 * 9 && moved.heads.0 > 0,
                "{moved:?}"
            );
            assert!(moved.distance.0 > 0.0 && moved.distance.1 == 0.0, "{moved:?}");
            let back = dir.path().join(format!("{name}-back"));
            write(&aligned, &back);
            assert_eq!(tensors(&open(&back)), tensors(&model), "{name}");
        }
    }

    /// A shuffled expert of another training is found by its likeness to the base, which it shares.
    #[test]
    fn a_shuffled_expert_is_aligned_to_the_base_as_the_expert_was() {
        let dir = tempfile::tempdir().unwrap();
        let (expert, base) = (embedded("tiny-spanish"), embedded("tiny-base"));
        shuffled(&expert, &dir.path().join("other"));
        let other = open(&dir.path().join("other"));
        let aligned = Aligned::new(&other, &base, &mut |_| {}).unwrap();
        write(&aligned, &dir.path().join("back"));
        assert_eq!(tensors(&open(&dir.path().join("back"))), tensors(&expert));
        assert!(aligned.moved.distance.1 < aligned.moved.distance.0);
    }
}
