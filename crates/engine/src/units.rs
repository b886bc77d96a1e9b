//! Parts of a layer that may change places without a change of what the model computes: neurons of an MLP, heads of attention.

use super::families::Qkv;
use super::spec::{DecoderSpec, Keys, QkNorm};
use super::tensors::{Of, Part, Slot, Tensor};

/// Units that are alike, and where they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// How many.
    pub count: usize,
    /// In which tensors.
    pub places: Vec<UnitPlace>,
}

/// Where the units stand in one tensor of the file: unit `i` is `len` rows (or columns) from `start + i · len` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitPlace {
    /// By its name in the file.
    pub tensor: String,
    /// Of the whole tensor.
    pub shape: Vec<usize>,
    /// Along which axis.
    pub axis: usize,
    /// Of the first unit.
    pub start: usize,
    /// Of one unit, in rows or columns.
    pub len: usize,
}

/// The heads of a layer that attends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Heads of keys and values.
    pub shared: Units,
    /// Queries: as many of the first head of keys, then those of the second.
    pub queries: Units,
}

impl DecoderSpec {
    /// The neurons of a layer's MLP; `None` of a mixture of experts, which may change places themselves.
    pub fn neurons(&self, layer: usize) -> Option<Units> {
        if self.experts_of(layer).is_some_and(|experts| experts.beside.is_none()) {
            return None;
        }
        let count = self.layers[layer].intermediate;
        let mut units = Units {
            count,
            places: Vec::new(),
        };
        for tensor in self.layer_tensors(layer) {
            let place = |axis, start| place(self, &tensor, axis, start, 1);
            match tensor.slot {
                Slot::Mlp(Of::Layer, Part::Gate | Part::Up) => units.places.push(place(Axis::Outputs, 0)),
                Slot::Mlp(Of::Layer, Part::GateUp) => {
                    units.places.push(place(Axis::Outputs, 0));
                    units.places.push(place(Axis::Outputs, count));
                }
                Slot::Mlp(Of::Layer, Part::Down) if !tensor.is_bias => units.places.push(place(Axis::Inputs, 0)),
                _ => {}
            }
        }
        Some(units)
    }

    /// The heads of a layer; `None` of one that remembers instead of attending, shares its keys and values with others, or has a
    /// tensor for each head.
    pub fn attention_heads(&self, layer: usize) -> Option<Heads> {
        let of_layer = &self.layers[layer];
        let borrows = matches!(of_layer.keys, Keys::Of(_));
        if self.mixer_of(layer).is_some() || borrows || self.lends_keys(layer) {
            return None;
        }
        let (d, kv_heads) = (of_layer.head_dim, of_layer.kv_heads);
        let (q, kv) = (self.heads * d, kv_heads * d);
        let (mut shared, mut queries) = (Vec::new(), Vec::new());
        for tensor in self.layer_tensors(layer) {
            let place = |axis, start, len| place(self, &tensor, axis, start, len);
            match tensor.slot {
                // A head's gate stands behind it.
                Slot::Q => queries.push(place(Axis::Outputs, 0, if self.gates_heads() { 2 * d } else { d })),
                Slot::K | Slot::V => shared.push(place(Axis::Outputs, 0, d)),
                Slot::Qkv if self.family.qkv == Qkv::ByHead => shared.push(place(Axis::Outputs, 0, 3 * d)),
                Slot::Qkv => {
                    queries.push(place(Axis::Outputs, 0, d));
                    shared.push(place(Axis::Outputs, q, d));
                    shared.push(place(Axis::Outputs, q + kv, d));
                }
                Slot::O if !tensor.is_bias => queries.push(place(Axis::Inputs, 0, d)),
                Slot::QNorm(_) if self.qk_norm == QkNorm::FullWidth => queries.push(place(Axis::Outputs, 0, d)),
                Slot::KNorm(_) if self.qk_norm == QkNorm::FullWidth => shared.push(place(Axis::Outputs, 0, d)),
                Slot::QNorm(_) | Slot::KNorm(_) if self.qk_norm == QkNorm::EachHead => {
                    let [_, _] = tensor.shape[..] else { return None };
                    let units = if matches!(tensor.slot, Slot::QNorm(_)) {
                        &mut queries
                    } else {
                        &mut shared
                    };
                    units.push(place(Axis::Outputs, 0, 1));
                }
                Slot::Sinks => queries.push(place(Axis::Outputs, 0, 1)),
                _ => {}
            }
        }
        let units = |count, places| Units { count, places };
        Some(Heads {
            shared: units(kv_heads, shared),
            queries: units(self.heads, queries),
        })
    }
}

enum Axis {
    Outputs,
    Inputs,
}

fn place(spec: &DecoderSpec, tensor: &Tensor, axis: Axis, start: usize, len: usize) -> UnitPlace {
    let inputs_first = spec.is_turned(tensor);
    let axis = match (axis, tensor.shape.len()) {
        (Axis::Outputs, 1) => 0,
        (Axis::Outputs, _) => usize::from(inputs_first),
        (Axis::Inputs, _) => usize::from(!inputs_first),
    };
    UnitPlace {
        tensor: tensor.name.clone(),
        shape: tensor.shape.clone(),
        axis,
        start,
        len,
    }
}

impl UnitPlace {
    /// Where number `k` of a unit stands in the tensor: row after row, or column after column.
    fn index(&self, unit: usize, k: usize) -> usize {
        let columns = self.shape.get(1).copied().unwrap_or(1);
        let across = if self.axis == 0 { columns } else { self.shape[0] };
        let (along, across) = (self.start + unit * self.len + k / across, k % across);
        match self.axis {
            0 => along * columns + across,
            _ => across * columns + along,
        }
    }

    /// Numbers of one unit.
    fn size(&self) -> usize {
        let elements: usize = self.shape.iter().product();
        elements / self.shape[self.axis] * self.len
    }

    /// The units of a tensor, `[count, any]` row by row.
    pub fn gathered(&self, count: usize, values: &[f32]) -> Vec<f32> {
        let size = self.size();
        (0..count * size)
            .map(|at| values[self.index(at / size, at % size)])
            .collect()
    }

    /// Puts unit `order[i]` where unit `i` was.
    pub fn reorder(&self, order: &[usize], values: &mut [f32]) {
        let size = self.size();
        let before = self.gathered(order.len(), values);
        for (unit, from) in order.iter().enumerate() {
            for k in 0..size {
                values[self.index(unit, k)] = before[from * size + k];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Small, hashed_weight};
    use super::super::{Device, Text, Twin};
    use super::*;

    /// Neighbours change places, but the first goes last.
    fn order(count: usize) -> Vec<usize> {
        (0..count).map(|i| (i + 1) % count).collect()
    }

    /// Groups of queries move with their keys, and within each they move too.
    fn orders_of_heads(heads: &Heads) -> (Vec<usize>, Vec<usize>) {
        let of_groups = order(heads.shared.count);
        let size = heads.queries.count / heads.shared.count;
        let of_queries = of_groups
            .iter()
            .flat_map(|g| order(size).into_iter().map(move |j| g * size + j));
        (of_groups.clone(), of_queries.collect())
    }

    /// A permutation that forgets a bias, a norm over all heads, or the order of a fused tensor is a broken model that still runs.
    #[test]
    fn every_family_computes_the_same_with_its_units_in_another_order() {
        let small = Small::open();
        let ids = &small.ids("ids")[..12];
        let text = [Text {
            tokens: ids.to_vec(),
            from: 1,
            weight: 1.0,
            expected: Vec::new(),
        }];
        let (mut with_neurons, mut with_heads) = (0, 0);
        for name in small.names() {
            let spec = small.spec(name);
            let weight = |tensor: &str| {
                let names = spec.tensor_names();
                let (_, shape) = names.iter().find(|(known, _)| known == tensor).unwrap();
                hashed_weight(tensor, shape.iter().product(), spec.norm_plus_one)
            };
            let mut twin = Twin::load(spec.clone(), Device::Cpu, &mut |tensor| Ok(weight(tensor))).unwrap();
            let before = twin.loss(&text).unwrap().log_likelihoods;
            let mut changed: std::collections::HashMap<String, Vec<f32>> = Default::default();
            let mut reorder = |units: &Units, order: &[usize]| {
                for place in &units.places {
                    let values = changed
                        .entry(place.tensor.clone())
                        .or_insert_with(|| weight(&place.tensor));
                    place.reorder(order, values);
                }
            };
            for layer in 0..spec.layers.len() {
                if let Some(units) = spec.neurons(layer) {
                    reorder(&units, &order(units.count));
                    with_neurons += 1;
                }
                if let Some(heads) = spec.attention_heads(layer) {
                    let (of_groups, of_queries) = orders_of_heads(&heads);
                    reorder(&heads.shared, &of_groups);
                    // What each head has by itself goes with its keys.
                    reorder(&heads.queries, &of_queries);
                    with_heads += usize::from(heads.queries.count > 1);
                }
            }
            let moved = changed
                .iter()
                .filter(|(tensor, values)| **values != weight(tensor))
                .count();
            assert!(moved >= 2, "{name}: {moved} tensors changed");
            for (tensor, values) in &changed {
                twin.set_tensor(tensor, values).unwrap();
            }
            let after = twin.loss(&text).unwrap().log_likelihoods;
            let off = (after[0] - before[0]).abs() / before[0].abs();
            assert!(off < 1e-5, "{name}: {before:?} {after:?}");
        }
        assert!(with_neurons > 30 && with_heads > 30, "{with_neurons} {with_heads}");
    }

    #[test]
    fn units_are_gathered_and_reordered_along_either_axis() {
        let place = |axis, start, len| UnitPlace {
            tensor: "t".into(),
            shape: vec![3, 4],
            axis,
            start,
            len,
        };
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(
            place(0, 1, 1).gathered(2, &values),
            [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
        );
        assert_eq!(
            place(1, 0, 2).gathered(2, &values),
            [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]
        );
        let mut moved = values.clone();
        place(1, 0, 2).reorder(&[1, 0], &mut moved);
        assert_eq!(moved, [2.0, 3.0, 0.0, 1.0, 6.0, 7.0, 4.0, 5.0, 10.0, 11.0, 8.0, 9.0]);
        let mut moved = values.clone();
        place(0, 0, 1).reorder(&[2, 0, 1], &mut moved);
        assert_eq!(moved[..4], [8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn a_mixture_has_no_neurons_of_its_own() {
        let config = json!({"model_type": "mixtral", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
            "num_experts_per_tok": 2});
        let spec = DecoderSpec::from_config(&config).unwrap();
        assert_eq!(spec.neurons(0), None);
        let heads = spec.attention_heads(0).unwrap();
        assert_eq!((heads.shared.count, heads.queries.count), (2, 4));
        let tensors: Vec<&str> = heads.queries.places.iter().map(|p| p.tensor.as_str()).collect();
        assert_eq!(
            tensors,
            [
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.o_proj.weight"
            ]
        );
    }
}
