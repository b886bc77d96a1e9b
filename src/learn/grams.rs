//! What a model's linear maps read, as Gram matrices, for `merge_method: regmean`.
//!
//! Source: Jin et al. 2023, arXiv:2212.09849: with X, what a map reads of some texts, row by row, G = Xᵀ X. Here it is the mean over all
//! tokens of the texts, Xᵀ X / tokens, so that models count alike however many texts each has read. An expert of a mixture reads the tokens
//! that come to it, and its matrix is divided by all tokens too: whoever is asked more has more to say.
//!
//! Layer by layer: what all texts are at one layer is held, and the matrices of that layer. Maps that read the same (queries, keys and
//! values; gate and up) have one matrix, which is called after the first of them.

use std::collections::BTreeMap;

use super::Error;
use crate::{
    merge::Grams,
    model::{LinearInput, LinearMap, Reading, Text, Twin},
};

/// The Gram matrices that a model has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// Names and shapes, layer by layer.
    pub tensors: Vec<(String, Vec<usize>)>,
    /// Which is whose.
    pub grams: Grams,
}

impl Inventory {
    /// Looks with a text of one token.
    ///
    /// # Errors
    /// [`Error::MixedInputs`]; a twin that is not on the processor.
    pub fn of(twin: &Twin) -> Result<Self, Error> {
        let text = Text {
            tokens: vec![0, 0],
            from: 1,
            weight: 1.0,
            expected: Vec::new(),
        };
        let mut reading = twin.begin(&[text])?;
        let mut inventory = Inventory::default();
        for layer in 0..twin.spec().layers.len() {
            let mut refused = None;
            twin.show(layer, &reading, &mut |input| {
                if let Err(e) = inventory.add(layer, input) {
                    refused = Some(e);
                }
            })?;
            if let Some(refused) = refused {
                return Err(refused);
            }
            twin.advance(layer, &mut reading)?;
        }
        Ok(inventory)
    }

    fn add(&mut self, layer: usize, input: &LinearInput<'_>) -> Result<(), Error> {
        let Some(first) = input.maps.first() else {
            return Ok(());
        };
        let name = gram_name(first);
        let mut shape = vec![input.columns; 2];
        shape.splice(0..0, first.part.map(|(_, count)| count));
        if !self.tensors.iter().any(|(known, _)| *known == name) {
            self.tensors.push((name.clone(), shape));
        }
        for map in &input.maps {
            let (of, gram) = (in_layer(&map.tensor, layer), in_layer(&name, layer));
            let before = self.grams.of.insert(of.clone(), gram.clone());
            if before.is_some_and(|before| before != gram) {
                return Err(Error::MixedInputs {
                    tensor: map.tensor.clone(),
                });
            }
            if map.turned {
                self.grams.turned.insert(of);
            }
        }
        Ok(())
    }
}

/// `model.layers.3.self_attn.q_proj.weight` → `model.layers.3.self_attn.q_proj.gram`
fn gram_name(map: &LinearMap) -> String {
    format!("{}.gram", map.tensor.strip_suffix(".weight").unwrap_or(&map.tensor))
}

/// `model.layers.3.self_attn.q_proj.gram` → `.self_attn.q_proj.gram`
fn in_layer(name: &str, layer: usize) -> String {
    let rest = name.split_once(&format!(".{layer}.")).map_or(name, |(_, rest)| rest);
    format!(".{rest}")
}

/// The Gram matrices of one layer, by name: `[inputs, inputs]`, or those of all experts one after the other.
///
/// # Errors
/// [`Error::InputNotFinite`]; a twin that is not on the processor.
pub fn of_layer(twin: &Twin, layer: usize, reading: &Reading) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    twin.show(layer, reading, &mut |input| add(&mut sums, input))?;
    let tokens = reading.tokens().max(1) as f64;
    let mut means = BTreeMap::new();
    for (name, sum) in sums {
        let mean: Vec<f32> = sum.iter().map(|x| (x / tokens) as f32).collect();
        if !mean.iter().all(|x| x.is_finite()) {
            return Err(Error::InputNotFinite { tensor: name });
        }
        means.insert(name, mean);
    }
    Ok(means)
}

fn add(sums: &mut BTreeMap<String, Vec<f64>>, input: &LinearInput<'_>) {
    let Some(first) = input.maps.first() else { return };
    let (part, count) = first.part.unwrap_or((0, 1));
    let size = input.columns * input.columns;
    let sum = sums.entry(gram_name(first)).or_insert_with(|| vec![0.0; count * size]);
    if input.rows.is_empty() {
        return;
    }
    let sum = &mut sum[part * size..][..size];
    sum.iter_mut()
        .zip(input.gram())
        .for_each(|(sum, x)| *sum += f64::from(x));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::twin;
    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        merge::Plan,
        model::{DType, Device},
        models::{Parents, verbatim},
    };

    fn tiny() -> Twin {
        let mut parents = Parents::default();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base");
        parents.add("base", Checkpoint::open(&dir).unwrap()).unwrap();
        let plan = Plan::new(&verbatim("base"), &parents).unwrap();
        twin(&plan, &parents, Device::Cpu, DType::F32).unwrap()
    }

    fn text(tokens: &[u32]) -> Text {
        Text {
            tokens: tokens.to_vec(),
            from: 1,
            weight: 1.0,
            expected: Vec::new(),
        }
    }

    #[test]
    fn maps_that_read_the_same_share_a_matrix() {
        let twin = tiny();
        let inventory = Inventory::of(&twin).unwrap();
        let layers = twin.spec().layers.len();
        assert_eq!(inventory.tensors.len(), 4 * layers, "of seven maps in each layer");
        let of = |weight: &str| inventory.grams.of[&format!(".{weight}.weight")].as_str();
        for (weight, gram) in [
            ("self_attn.q_proj", ".self_attn.q_proj.gram"),
            ("self_attn.k_proj", ".self_attn.q_proj.gram"),
            ("self_attn.v_proj", ".self_attn.q_proj.gram"),
            ("self_attn.o_proj", ".self_attn.o_proj.gram"),
            ("mlp.gate_proj", ".mlp.gate_proj.gram"),
            ("mlp.up_proj", ".mlp.gate_proj.gram"),
            ("mlp.down_proj", ".mlp.down_proj.gram"),
        ] {
            assert_eq!(of(weight), gram);
        }
        assert!(inventory.grams.turned.is_empty());
        let (hidden, inner) = (twin.spec().hidden, twin.spec().intermediate);
        let shape = |name: &str| &inventory.tensors.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(*shape("model.layers.1.mlp.gate_proj.gram"), [hidden, hidden]);
        assert_eq!(*shape("model.layers.1.mlp.down_proj.gram"), [inner, inner]);
    }

    /// Texts count by their tokens: a mean of texts' means would give a short one the say of a long one, and texts filled up to a
    /// common length would count what nobody wrote.
    #[test]
    fn texts_together_are_their_tokens_together() {
        let twin = tiny();
        let (long, short) = (text(&[3, 17, 42, 8, 25, 90, 7, 11]), text(&[60, 5, 33]));
        let of = |texts: &[Text], layer: usize| {
            let mut reading = twin.begin(texts).unwrap();
            (0..layer).for_each(|before| twin.advance(before, &mut reading).unwrap());
            (reading.tokens(), of_layer(&twin, layer, &reading).unwrap())
        };
        for layer in [0, 3] {
            let (n, a) = of(std::slice::from_ref(&long), layer);
            let (m, b) = of(std::slice::from_ref(&short), layer);
            let (all, both) = of(&[long.clone(), short.clone()], layer);
            assert_eq!((n, m, all), (7, 2, 9));
            assert_eq!(both.len(), 4);
            for (name, values) in &both {
                let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (i, x) in values.iter().enumerate() {
                    let expected = (7.0 * a[name][i] + 2.0 * b[name][i]) / 9.0;
                    assert!((x - expected).abs() < 1e-5 * largest, "{name} {i}: {x} {expected}");
                }
                let columns = (values.len() as f64).sqrt() as usize;
                assert!((0..columns).all(|i| values[i * columns + i] >= 0.0));
                assert!(largest > 0.0, "{name}");
            }
        }
    }
}
