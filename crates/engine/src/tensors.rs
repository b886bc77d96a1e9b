//! Which tensors a decoder is made of, what each is for, and how those of the file stand where the decoder computes with
//! others: rows of queries and keys in the order of their rotation, weights turned, queries, keys and values apart.
//!
//! A rotation of neighbours `(2i, 2i + 1)` is one of `(i, i + half)` after the rows of queries and keys have changed their
//! places alike, which no score can tell. So every family rotates halves, on every device, and the difference stays here.

use std::borrow::Cow;
use std::ops::Range;

use super::families::{BesideMlp, HEAD, Qkv, Stored};
use super::mixer::MixerPart;
use super::spec::{Activation, DecoderSpec, Experts, Keys, NormKind, PerLayer, QkNorm, last_word};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Embeddings,
    Positions,
    FinalNorm,
    Head,
    Q,
    K,
    V,
    Qkv,
    O,
    Mlp(Of, Part),
    /// Norms of queries and keys, from one of their numbers on: there may be a tensor for each head.
    QNorm(usize),
    KNorm(usize),
    /// One of the four of a layer.
    Norm(usize),
    Sinks,
    /// One of the four numbers of a layer's activation.
    Xielu(usize),
    Router,
    Correction,
    SharedGate,
    Mixer(MixerPart),
    PerLayer(PerLayerPart),
    /// What a layer's output is multiplied by.
    Scalar,
    /// One of the norms of experts that stand beside an MLP.
    BesideNorm(usize),
    /// What the router reads is multiplied by, and the weights of the experts.
    RouterScale,
    ExpertScales,
}

impl Slot {
    /// Whether the host computes with its numbers, or hands them to kernels as they are; a device has all others.
    pub fn is_on_host(self) -> bool {
        matches!(self, Slot::Scalar | Slot::Xielu(_))
    }
}

/// What a token's embeddings in every layer are made of, and what a layer makes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PerLayerPart {
    /// Those of all layers side by side.
    Table,
    /// From a token's embeddings in the stream to those in all layers, one layer after the other.
    Projection,
    ProjectionNorm,
    Gate,
    Output,
    Norm,
}

/// Whose matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Of a layer without experts.
    Layer,
    Expert(usize),
    /// Those of all experts, one after the other.
    Experts,
    /// Of the expert that every token goes to.
    Shared,
}

/// The matrices of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Gate,
    Up,
    GateUp,
    Down,
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub name: String,
    /// As it is stored.
    pub shape: Vec<usize>,
    pub slot: Slot,
    pub layer: usize,
    pub is_bias: bool,
}

/// How a tensor comes into the order in which the decoder computes: turned first, then row by row.
struct Arrangement {
    /// So many matrices, one after the other, each arranged by itself.
    matrices: usize,
    /// `[columns, rows]` in the file.
    turned: bool,
    columns: usize,
    /// For each row, which row it was.
    rows: Option<Vec<usize>>,
}

/// The tensors outside of the layers of a token's embeddings in each: a table, a projection, its norm.
pub(super) const PER_LAYER: [&str; 3] = [
    "embed_tokens_per_layer",
    "per_layer_model_projection",
    "per_layer_projection_norm",
];
pub(super) const PER_LAYER_GATE: &str = "per_layer_input_gate";
pub(super) const PER_LAYER_OUTPUT: &str = "per_layer_projection";
pub(super) const PER_LAYER_NORM: &str = "post_per_layer_input_norm";
pub(super) const LAYER_SCALAR: &str = "layer_scalar";

/// What a layer's xIELU is made of: the logarithms behind its two curves, and what all layers begin with.
const XIELU: [(&str, &[usize]); 4] = [("alpha_p", &[1]), ("alpha_n", &[1]), ("beta", &[]), ("eps", &[])];

impl DecoderSpec {
    /// The tensors that the decoder needs, by their names in the checkpoint, with their shapes.
    pub fn tensor_names(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors().into_iter().map(|t| (t.name, t.shape)).collect()
    }

    pub(super) fn tensors(&self) -> Vec<Tensor> {
        let [mut tensors, mut after] = self.outer_tensors();
        tensors.extend((0..self.layers.len()).flat_map(|layer| self.layer_tensors(layer)));
        tensors.append(&mut after);
        tensors
    }

    /// What stands before the layers, and after them.
    fn outer_tensors(&self) -> [Vec<Tensor>; 2] {
        let (mut before, mut after) = (List::new(self, 0), List::new(self, 0));
        before.table(self.names().embeddings, Slot::Embeddings, self.vocab);
        if let Some(positions) = self.names().positions {
            before.table(positions, Slot::Positions, self.max_positions);
        }
        self.per_layer_tensors(&mut before);
        after.norm(self.names().norm, Slot::FinalNorm);
        if !self.tie_embeddings {
            after.table(self.names().head, Slot::Head, self.vocab);
        }
        if self.head_bias {
            let name = format!("{}.bias", self.names().head);
            after.add(name, vec![self.vocab], Slot::Head, true);
        }
        [before.tensors, after.tensors]
    }

    /// What stands outside of the layers of a token's embeddings in each.
    fn per_layer_tensors(&self, list: &mut List) {
        let Some(PerLayer { width, vocab }) = self.per_layer else {
            return;
        };
        let all = self.layers.len() * width;
        let [table, projection, norm] = self.per_layer_names();
        for (name, shape, part) in [
            (table, vec![vocab, all], PerLayerPart::Table),
            (projection, vec![all, self.hidden], PerLayerPart::Projection),
            (norm, vec![width], PerLayerPart::ProjectionNorm),
        ] {
            list.add(name, shape, Slot::PerLayer(part), false);
        }
    }

    /// The tensors of [`PerLayerPart`] that stand outside of the layers: table, projection and its norm.
    pub(super) fn per_layer_names(&self) -> [String; 3] {
        let before = self.names().embeddings.trim_end_matches("embed_tokens");
        PER_LAYER.map(|name| format!("{before}{name}.weight"))
    }

    pub(super) fn layer_tensors(&self, layer: usize) -> Vec<Tensor> {
        let (h, names, of_layer) = (self.hidden, self.names(), &self.layers[layer]);
        let (q, kv) = (self.heads * of_layer.head_dim, of_layer.kv_heads * of_layer.head_dim);
        let mut list = List::new(self, layer);
        let mixer = self.mixer_of(layer);
        if let Some(mixer) = mixer {
            mixer.tensors(h, &mut list);
        } else if self.fused_qkv() {
            list.linear(names.qkv, Slot::Qkv, [q + 2 * kv, h], self.qkv_bias);
        } else {
            let gates = if self.gates_heads() { q } else { 0 };
            list.linear(names.q, Slot::Q, [q + gates, h], self.qkv_bias);
            if of_layer.has_keys() {
                list.linear(names.k, Slot::K, [kv, h], self.qkv_bias);
            }
            if of_layer.keys == Keys::Own {
                list.linear(names.v, Slot::V, [kv, h], self.qkv_bias);
            }
        }
        if mixer.is_none() {
            list.linear(names.o, Slot::O, [h, q], self.o_bias);
        }
        match self.experts_of(layer) {
            None => self.mlp_tensors(of_layer.intermediate, &mut list),
            Some(experts) => {
                if let Some(beside) = experts.beside {
                    self.mlp_tensors(of_layer.intermediate, &mut list);
                    self.beside_tensors(beside, experts.count, &mut list);
                }
                self.mixture_tensors(experts, 0..experts.count, &mut list);
            }
        }
        if self.family.sinks {
            list.in_layer("self_attn.sinks", vec![self.heads], Slot::Sinks, false);
        }
        if matches!(self.activation, Activation::Xielu(_)) {
            for (i, (name, shape)) in XIELU.into_iter().enumerate() {
                list.in_layer(&format!("mlp.act_fn.{name}"), shape.to_vec(), Slot::Xielu(i), false);
            }
        }
        if mixer.is_none() {
            let d = of_layer.head_dim;
            self.head_norm_tensors(&mut list, names.q_norm, (self.heads, d), Slot::QNorm);
            if of_layer.has_keys() {
                self.head_norm_tensors(&mut list, names.k_norm, (of_layer.kv_heads, d), Slot::KNorm);
            }
        }
        for (i, norm) in self.layer_norms().into_iter().enumerate() {
            if let Some(norm) = norm {
                list.norm(&format!("{}{layer}.{norm}", names.layers), Slot::Norm(i));
            }
        }
        if let Some(PerLayer { width, .. }) = self.per_layer {
            let slot = Slot::PerLayer;
            list.linear(PER_LAYER_GATE, slot(PerLayerPart::Gate), [width, h], false);
            list.linear(PER_LAYER_OUTPUT, slot(PerLayerPart::Output), [h, width], false);
            let norm = format!("{}{layer}.{PER_LAYER_NORM}", names.layers);
            list.norm(&norm, slot(PerLayerPart::Norm));
        }
        if self.family.scales_layers {
            list.in_layer(LAYER_SCALAR, vec![1], Slot::Scalar, false);
        }
        list.tensors
    }

    /// The norm of so many heads of queries, or of keys, of so many dimensions.
    fn head_norm_tensors(&self, list: &mut List, name: &str, heads: (usize, usize), slot: impl Fn(usize) -> Slot) {
        let (heads, d) = heads;
        let shape = match self.qk_norm {
            QkNorm::None => return,
            QkNorm::PerHead | QkNorm::PerHeadRotated => vec![d],
            QkNorm::FullWidth => vec![heads * d],
            QkNorm::EachHead if name.contains(HEAD) => vec![d],
            QkNorm::EachHead => vec![heads, d],
        };
        let has_bias = matches!(self.family.qk_norm_kind, NormKind::Layer { bias: true, .. });
        for (i, name) in head_norms(name, heads).iter().enumerate() {
            list.in_layer(&format!("{name}.weight"), shape.clone(), slot(i * d), false);
            if has_bias {
                list.in_layer(&format!("{name}.bias"), shape.clone(), slot(i * d), true);
            }
        }
    }

    /// The experts of a layer that has them.
    pub(super) fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|_| self.layers[layer].sparse)
    }

    fn mlp_tensors(&self, inner: usize, list: &mut List) {
        let (h, names) = (self.hidden, self.names());
        let slot = |matrix| Slot::Mlp(Of::Layer, matrix);
        match (self.gated(), self.family.fused_gate_up) {
            (true, true) => list.linear(names.gate_up, slot(Part::GateUp), [2 * inner, h], self.mlp_bias),
            (true, false) => {
                list.linear(names.gate, slot(Part::Gate), [inner, h], self.mlp_bias);
                list.linear(names.up, slot(Part::Up), [inner, h], self.mlp_bias);
            }
            (false, _) => list.linear(names.up, slot(Part::Up), [inner, h], self.mlp_bias),
        }
        list.linear(names.down, slot(Part::Down), [h, inner], self.mlp_bias);
    }

    /// Norms and scales of experts that stand beside an MLP.
    fn beside_tensors(&self, beside: BesideMlp, experts: usize, list: &mut List) {
        for (i, norm) in beside.norms.iter().enumerate() {
            list.norm(
                &format!("{}{}.{norm}", self.names().layers, list.layer),
                Slot::BesideNorm(i),
            );
        }
        list.in_layer(beside.router_scale, vec![self.hidden], Slot::RouterScale, false);
        list.in_layer(beside.expert_scales, vec![experts], Slot::ExpertScales, false);
    }

    /// The router, some of the experts, and the shared one.
    fn mixture_tensors(&self, experts: &Experts, some: Range<usize>, list: &mut List) {
        let (h, width, names) = (self.hidden, experts.width, experts.names);
        list.linear(names.router, Slot::Router, [experts.count, h], experts.biases);
        if let Some(correction) = names.correction {
            list.in_layer(correction, vec![experts.count], Slot::Correction, false);
        }
        let sizes = |width| [[width, h], [width, h], [h, width]];
        const MATRICES: [Part; 3] = [Part::Gate, Part::Up, Part::Down];
        match names.experts {
            Stored::Each { prefix, matrices } => {
                for expert in some {
                    for ((name, matrix), size) in matrices.iter().zip(MATRICES).zip(sizes(width)) {
                        let slot = Slot::Mlp(Of::Expert(expert), matrix);
                        list.linear(&format!("{prefix}.{expert}.{name}"), slot, size, experts.biases);
                    }
                }
            }
            Stored::Fused {
                gate_up, down, turned, ..
            } => {
                for (name, matrix, [out, inner]) in
                    [(gate_up, Part::GateUp, [2 * width, h]), (down, Part::Down, [h, width])]
                {
                    let slot = Slot::Mlp(Of::Experts, matrix);
                    let shape = match turned {
                        true => vec![experts.count, inner, out],
                        false => vec![experts.count, out, inner],
                    };
                    list.in_layer(name, shape, slot, false);
                    if experts.biases {
                        list.in_layer(&format!("{name}_bias"), vec![experts.count, out], slot, true);
                    }
                }
            }
        }
        if experts.shared > 0 {
            let shared = self.shared_names(experts);
            let [one, _, back] = sizes(experts.shared);
            let matrices = match self.family.fused_gate_up {
                true => vec![(Part::GateUp, [2 * experts.shared, h]), (Part::Down, back)],
                false => vec![(Part::Gate, one), (Part::Up, one), (Part::Down, back)],
            };
            for (name, (matrix, size)) in shared.iter().zip(matrices) {
                list.linear(name, Slot::Mlp(Of::Shared, matrix), size, false);
            }
            if experts.shared_is_weighed {
                list.linear(names.shared_gate, Slot::SharedGate, [1, h], false);
            }
        }
    }

    /// The matrices of the expert that every token goes to: gate, up and down, or both of the former in one.
    pub(super) fn shared_names(&self, experts: &Experts) -> Vec<String> {
        let names = self.names();
        let matrices = match self.family.fused_gate_up {
            true => vec![names.gate_up, names.down],
            false => vec![names.gate, names.up, names.down],
        };
        let named = |name: &str| format!("{}.{}", experts.names.shared, last_word(name));
        matrices.into_iter().map(named).collect()
    }

    /// What the twin calls the matrices of one expert, where a file has those of all in one tensor: gate and up, and down,
    /// without `.weight` or `.bias`.
    pub(super) fn expert_names(&self, expert: usize, fused: [&str; 2]) -> [String; 2] {
        fused.map(|name| format!("{name}.{expert}"))
    }

    /// What a layer computes with of the tensors outside of it, with the names that the twin has for them: the tensor, and where
    /// it stands in the arranged one.
    pub(super) fn outer_pieces(&self, layer: usize) -> Vec<(String, String, Range<usize>)> {
        let Some(PerLayer { width, vocab }) = self.per_layer else {
            return Vec::new();
        };
        let of_layer = |len: usize| layer * len..(layer + 1) * len;
        let ranges = [of_layer(vocab * width), of_layer(width * self.hidden), 0..width];
        let named = PER_LAYER.iter().zip(self.per_layer_names()).zip(ranges);
        named
            .map(|((name, tensor), range)| (format!("{name}.weight"), tensor, range))
            .collect()
    }

    /// A tensor of all experts, one by one: what the twin calls each, and where it stands in the arranged tensor.
    pub(super) fn pieces(&self, tensor: &Tensor) -> Option<Vec<(String, Range<usize>)>> {
        let experts = self.experts_of(tensor.layer)?;
        let Stored::Fused { gate_up, down, .. } = experts.names.experts else {
            return None;
        };
        let which = match tensor.slot {
            Slot::Mlp(Of::Experts, Part::GateUp) => 0,
            Slot::Mlp(Of::Experts, Part::Down) => 1,
            _ => return None,
        };
        let len = tensor.shape.iter().product::<usize>() / experts.count;
        let kind = if tensor.is_bias { "bias" } else { "weight" };
        let piece = |expert: usize| {
            let name = &self.expert_names(expert, [gate_up, down])[which];
            (format!("{name}.{kind}"), expert * len..(expert + 1) * len)
        };
        Some((0..experts.count).map(piece).collect())
    }

    /// A tensor by its name in the checkpoint.
    pub(super) fn tensor(&self, name: &str) -> Option<Tensor> {
        match self.split_layer(name) {
            Some((layer, _)) if layer >= self.layers.len() => None,
            Some((layer, rest)) => match self.one_expert(layer, rest) {
                Some(tensors) => tensors.into_iter().find(|t| t.name == name),
                None => self.layer_tensors(layer).into_iter().find(|t| t.name == name),
            },
            None => self.outer_tensors().into_iter().flatten().find(|t| t.name == name),
        }
    }

    /// The tensors about the expert that a name within a layer belongs to: there can be many others.
    fn one_expert(&self, layer: usize, rest: &str) -> Option<Vec<Tensor>> {
        let experts = self.experts_of(layer)?;
        let Stored::Each { prefix, .. } = experts.names.experts else {
            return None;
        };
        let (expert, _) = rest.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?;
        let expert: usize = expert.parse().ok().filter(|expert| *expert < experts.count)?;
        let mut list = List::new(self, layer);
        self.mixture_tensors(experts, expert..expert + 1, &mut list);
        Some(list.tensors)
    }

    /// `model.layers.7.mlp.up_proj.weight` → `(7, "mlp.up_proj.weight")`.
    pub(super) fn split_layer<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        let (layer, rest) = name.strip_prefix(self.names().layers)?.split_once('.')?;
        // A leading zero or sign would be another spelling of the same layer.
        let number: usize = layer.parse().ok()?;
        (number.to_string() == layer).then_some((number, rest))
    }

    /// A tensor of the file as the decoder computes with it.
    pub(super) fn arranged<'d>(&self, tensor: &Tensor, data: &'d [f32]) -> Cow<'d, [f32]> {
        match self.arrangement(tensor) {
            None => Cow::Borrowed(data),
            Some(arrangement) => Cow::Owned(arrangement.apply(data)),
        }
    }

    /// Whether the decoder's order is the file's.
    #[cfg(feature = "cuda")]
    pub(super) fn stands_as_stored(&self, tensor: &Tensor) -> bool {
        self.arrangement(tensor).is_none()
    }

    /// The inverse: in the file's order.
    pub(super) fn as_stored(&self, tensor: &Tensor, data: Vec<f32>) -> Vec<f32> {
        match self.arrangement(tensor) {
            None => data,
            Some(arrangement) => arrangement.undo(&data),
        }
    }

    /// The shape that [`Self::arranged`] gives.
    pub(super) fn arranged_shape(&self, tensor: &Tensor) -> Vec<usize> {
        let mut shape = tensor.shape.clone();
        if let (Slot::PerLayer(part), Some(PerLayer { width, vocab })) = (tensor.slot, self.per_layer) {
            match part {
                PerLayerPart::Table => return vec![self.layers.len(), vocab, width],
                PerLayerPart::Projection => return vec![self.layers.len(), width, self.hidden],
                _ => {}
            }
        }
        if self.is_turned(tensor) {
            let matrix = shape.len() - 2;
            shape[matrix..].reverse();
        }
        shape
    }

    fn turned_experts(&self) -> bool {
        let stored = self.experts.as_ref().map(|experts| experts.names.experts);
        matches!(stored, Some(Stored::Fused { turned: true, .. }))
    }

    fn experts_in_turns(&self) -> bool {
        let stored = self.experts.as_ref().map(|experts| experts.names.experts);
        matches!(stored, Some(Stored::Fused { in_turns: true, .. }))
    }

    /// Whether the file has a weight by column, `[inputs, outputs]`.
    pub(super) fn is_turned(&self, tensor: &Tensor) -> bool {
        match tensor.slot {
            Slot::Mlp(Of::Experts, _) => self.turned_experts() && !tensor.is_bias,
            Slot::Q | Slot::K | Slot::V | Slot::Qkv | Slot::O | Slot::Mlp(..) => {
                self.family.turned && tensor.shape.len() == 2
            }
            _ => false,
        }
    }

    fn arrangement(&self, tensor: &Tensor) -> Option<Arrangement> {
        let (matrices, columns) = match (&self.arranged_shape(tensor)[..], tensor.slot) {
            ([_, _, width], Slot::PerLayer(_)) => (1, *width),
            ([experts, _, columns], _) => (*experts, *columns),
            ([experts, _], Slot::Mlp(Of::Experts, _)) => (*experts, 1),
            (_, Slot::QNorm(_) | Slot::KNorm(_)) => (1, 1),
            ([_, columns], _) => (1, *columns),
            _ => (1, 1),
        };
        let arrangement = Arrangement {
            matrices,
            turned: self.is_turned(tensor),
            columns,
            rows: self.row_order(tensor.slot),
        };
        (arrangement.turned || arrangement.rows.is_some()).then_some(arrangement)
    }

    fn row_order(&self, slot: Slot) -> Option<Vec<usize>> {
        let d = self.head_dim;
        match slot {
            Slot::Qkv if self.family.qkv == Qkv::ByHead => {
                let places = (0..3).flat_map(|part| (0..self.heads).map(move |head| (3 * head + part) * d));
                Some(places.flat_map(|from| from..from + d).collect())
            }
            Slot::Q if self.gates_heads() => {
                let parts = (0..2).flat_map(|part| (0..self.heads).map(move |head| (2 * head + part) * d));
                Some(parts.flat_map(|from| from..from + d).collect())
            }
            // Layer by layer, and not token by token.
            Slot::PerLayer(PerLayerPart::Table) => {
                let (layers, PerLayer { vocab, .. }) = (self.layers.len(), self.per_layer?);
                let of_layer = |layer: usize| (0..vocab).map(move |token| token * layers + layer);
                Some((0..layers).flat_map(of_layer).collect())
            }
            Slot::Mixer(MixerPart::Input(first)) => self.mixer.as_ref()?.ungrouped(first),
            Slot::Q if self.family.rope.neighbours => Some(self.halves(self.heads)),
            Slot::K if self.family.rope.neighbours => Some(self.halves(self.kv_heads)),
            Slot::QNorm(_) if self.family.rope.neighbours => Some(self.halves(self.heads)),
            Slot::KNorm(_) if self.family.rope.neighbours => Some(self.halves(self.kv_heads)),
            // Gates and ups take turns.
            Slot::Mlp(Of::Experts, Part::GateUp) if self.experts_in_turns() => {
                let rows = 2 * self.experts.as_ref().map_or(0, |experts| experts.width);
                Some((0..rows).step_by(2).chain((1..rows).step_by(2)).collect())
            }
            _ => None,
        }
    }

    /// Heads whose rotating dimensions stand as neighbours in the file: the first of each pair, the second, and the rest.
    fn halves(&self, heads: usize) -> Vec<usize> {
        let (d, rotary) = (self.head_dim, self.ropes.first().map_or(0, |rope| rope.rotary_dim()));
        let in_head = (0..rotary).step_by(2).chain((1..rotary).step_by(2)).chain(rotary..d);
        let in_head: Vec<usize> = in_head.collect();
        let of_head = |head: usize| in_head.iter().map(move |i| head * d + i);
        (0..heads).flat_map(of_head).collect()
    }
}

impl Arrangement {
    fn apply(&self, data: &[f32]) -> Vec<f32> {
        let matrices = data.chunks_exact(data.len() / self.matrices);
        matrices.flat_map(|data| self.apply_to_one(data)).collect()
    }

    fn undo(&self, data: &[f32]) -> Vec<f32> {
        let matrices = data.chunks_exact(data.len() / self.matrices);
        matrices.flat_map(|data| self.undo_one(data)).collect()
    }

    fn apply_to_one(&self, data: &[f32]) -> Vec<f32> {
        let turned = match self.turned {
            true => Cow::Owned(turn(data, data.len() / self.columns)),
            false => Cow::Borrowed(data),
        };
        let Some(rows) = &self.rows else {
            return turned.into_owned();
        };
        let row = |from: &usize| &turned[from * self.columns..][..self.columns];
        rows.iter().flat_map(row).copied().collect()
    }

    fn undo_one(&self, data: &[f32]) -> Vec<f32> {
        let mut rows = data.to_vec();
        if let Some(order) = &self.rows {
            for (to, row) in order.iter().zip(data.chunks_exact(self.columns)) {
                rows[to * self.columns..][..self.columns].copy_from_slice(row);
            }
        }
        match self.turned {
            true => turn(&rows, self.columns),
            false => rows,
        }
    }
}

/// The tensors that a norm of so many heads is: one, or one for each.
pub(super) fn head_norms(name: &str, heads: usize) -> Vec<String> {
    match name.contains(HEAD) {
        true => (0..heads).map(|head| name.replace(HEAD, &head.to_string())).collect(),
        false => vec![name.to_string()],
    }
}

/// `[n, columns]` row by row → `[columns, n]`.
fn turn(data: &[f32], columns: usize) -> Vec<f32> {
    let rows = data.len() / columns.max(1);
    let column = |c: usize| (0..rows).map(move |r| data[r * columns + c]);
    (0..columns).flat_map(column).collect()
}

/// The tensors of one layer, or of what stands outside of the layers.
pub(super) struct List<'s> {
    spec: &'s DecoderSpec,
    layer: usize,
    tensors: Vec<Tensor>,
}

impl<'s> List<'s> {
    fn new(spec: &'s DecoderSpec, layer: usize) -> Self {
        List {
            spec,
            layer,
            tensors: Vec::new(),
        }
    }

    fn add(&mut self, name: String, shape: Vec<usize>, slot: Slot, is_bias: bool) {
        self.tensors.push(Tensor {
            name,
            shape,
            slot,
            layer: self.layer,
            is_bias,
        });
    }

    pub fn in_layer(&mut self, name: &str, shape: Vec<usize>, slot: Slot, is_bias: bool) {
        self.add(
            format!("{}{}.{name}", self.spec.names().layers, self.layer),
            shape,
            slot,
            is_bias,
        );
    }

    fn table(&mut self, name: &str, slot: Slot, rows: usize) {
        self.add(format!("{name}.weight"), vec![rows, self.spec.hidden], slot, false);
    }

    pub fn linear(&mut self, name: &str, slot: Slot, [out, inner]: [usize; 2], bias: bool) {
        let shape = match self.spec.family.turned {
            true => vec![inner, out],
            false => vec![out, inner],
        };
        self.in_layer(&format!("{name}.weight"), shape, slot, false);
        if bias {
            self.in_layer(&format!("{name}.bias"), vec![out], slot, true);
        }
    }

    /// A norm of the stream.
    fn norm(&mut self, name: &str, slot: Slot) {
        let (weight, bias) = self.spec.norm.learns();
        for (there, kind, is_bias) in [(weight, "weight", false), (bias, "bias", true)] {
            if there {
                self.add(format!("{name}.{kind}"), vec![self.spec.hidden], slot, is_bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(family: &str) -> DecoderSpec {
        let config = json!({"model_type": family, "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
            "n_embd": 8, "n_head": 2, "n_layer": 2, "rotary_pct": 0.5});
        DecoderSpec::from_config(&config).unwrap()
    }

    #[test]
    fn neighbours_come_to_stand_in_halves_and_go_back() {
        let spec = spec("helium");
        let tensor = spec.tensor("model.layers.1.self_attn.q_proj.weight").unwrap();
        let data: Vec<f32> = (0..64).map(|i| (i / 8) as f32).collect();
        let arranged = spec.arranged(&tensor, &data).into_owned();
        let firsts: Vec<f32> = arranged.iter().step_by(8).copied().collect();
        assert_eq!(firsts, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert_eq!(spec.as_stored(&tensor, arranged), data);
        let values = spec.tensor("model.layers.1.self_attn.v_proj.weight").unwrap();
        assert!(matches!(spec.arranged(&values, &data), Cow::Borrowed(_)));
    }

    #[test]
    fn heads_of_queries_keys_and_values_are_sorted() {
        let spec = spec("gpt_neox");
        let tensor = spec.tensor("gpt_neox.layers.0.attention.query_key_value.bias").unwrap();
        let data: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let arranged = spec.arranged(&tensor, &data).into_owned();
        assert_eq!(arranged[..8], [0.0, 1.0, 2.0, 3.0, 12.0, 13.0, 14.0, 15.0]);
        assert_eq!(arranged[8..12], [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(spec.as_stored(&tensor, arranged), data);
    }

    #[test]
    fn weights_stored_by_column_are_turned() {
        let spec = spec("gpt2");
        let tensor = spec.tensor("transformer.h.1.mlp.c_fc.weight").unwrap();
        assert_eq!(
            (&tensor.shape[..], &spec.arranged_shape(&tensor)[..]),
            (&[8, 32][..], &[32, 8][..])
        );
        let data: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let arranged = spec.arranged(&tensor, &data).into_owned();
        assert_eq!(arranged[..3], [0.0, 32.0, 64.0]);
        assert_eq!(spec.as_stored(&tensor, arranged), data);
        let table = spec.tensor("transformer.wpe.weight").unwrap();
        assert_eq!(spec.arranged_shape(&table), [1024, 8]);
    }

    /// Qwen3-Next's file has the rows of each key head together, and each head's gate behind its query.
    #[test]
    fn inputs_that_stand_by_head_are_sorted() {
        let config = json!({"model_type": "qwen3_next", "vocab_size": 10, "hidden_size": 1, "intermediate_size": 12,
            "num_hidden_layers": 2, "full_attention_interval": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 1, "linear_value_head_dim": 1, "num_experts": 0});
        let spec = DecoderSpec::from_config(&config).unwrap();
        let sorted = |name: &str, rows: usize| {
            let tensor = spec.tensor(name).unwrap();
            assert_eq!(tensor.shape, [rows, 1], "{name}");
            let data: Vec<f32> = (0..rows).map(|i| i as f32).collect();
            let arranged = spec.arranged(&tensor, &data).into_owned();
            assert_eq!(spec.as_stored(&tensor, arranged.clone()), data);
            arranged
        };
        // By head: query, key, two values, two gates.
        assert_eq!(
            sorted("model.layers.0.linear_attn.in_proj_qkvz.weight", 12),
            [0.0, 6.0, 1.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]
        );
        assert_eq!(
            sorted("model.layers.0.linear_attn.in_proj_ba.weight", 8),
            [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]
        );
        assert_eq!(
            sorted("model.layers.1.self_attn.q_proj.weight", 8),
            [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]
        );
        assert!(spec.tensor("model.layers.0.self_attn.q_proj.weight").is_none());
    }

    #[test]
    fn names_that_no_layer_has() {
        let spec = spec("llama");
        for name in [
            "model.layers.2.mlp.up_proj.weight",
            "model.layers.01.mlp.up_proj.weight",
            "model.layers.0.x",
            "x",
        ] {
            assert!(spec.tensor(name).is_none(), "{name}");
        }
        assert_eq!(spec.tensor("lm_head.weight").unwrap().slot, Slot::Head);
    }
}
