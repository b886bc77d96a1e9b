//! The twin on the CPU: plain numbers, the kernels of `fused`, and a tape for each layer.

use std::collections::HashMap;

use super::{
    Back, Beside, Error, Gradients, Piece, Side, Sum, add_outer,
    batch::Batch,
    embeddings_name, fused, head_bias_name, head_name,
    layer::{Given, Out, layer},
    logit_rows, pieces, positions_name,
    tape::{self, Notes, Place, Tape, Weights},
    whole,
};
use crate::spec::{DecoderSpec, Keys};

/// The weights, row by row, by Hugging Face name.
pub(super) struct Host {
    weights: HashMap<String, Vec<f32>>,
    /// By layer, what it is made of.
    layers: Vec<Vec<Piece>>,
}

impl Host {
    pub fn new(spec: &DecoderSpec) -> Self {
        Host {
            weights: HashMap::new(),
            layers: (0..spec.layers.len()).map(|index| pieces(spec, index)).collect(),
        }
    }

    fn weight(&self, name: &str) -> Result<&[f32], Error> {
        let weight = self.weights.get(name);
        weight.map(Vec::as_slice).ok_or_else(|| Error::Read {
            tensor: name.into(),
            reason: "it was not loaded".into(),
        })
    }

    /// What a layer is made of.
    pub fn pieces(&self, index: usize) -> &[Piece] {
        &self.layers[index]
    }

    pub fn of_layer(&self, index: usize) -> Result<Weights<'_>, Error> {
        let of_piece = |piece: &'_ Piece| {
            let weight = self.weight(&piece.tensor)?;
            Ok::<_, Error>(match &piece.range {
                None => weight,
                Some(range) => &weight[range.clone()],
            })
        };
        let pieces = self.layers[index].iter();
        pieces
            .map(|piece| Ok((piece.name.as_str(), of_piece(piece)?)))
            .collect()
    }

    /// A layer, written down.
    pub fn lay<'t>(
        spec: &'t DecoderSpec,
        index: usize,
        (batch, weights): (&'t Batch, &'t Weights<'t>),
        h: Vec<f32>,
        beside: &Beside<Vec<f32>>,
    ) -> Result<(Tape<'t>, Laid), Error> {
        let mut tape = Tape::new(spec, batch, weights);
        let of_layer = &spec.layers[index];
        let given = Given {
            h: tape.given(h, spec.hidden),
            embedded: beside.embedded.as_ref().map(|x| tape.given(x.clone(), spec.hidden)),
            keys_and_values: beside.lent_to(of_layer).map(|both| {
                let cols = of_layer.kv_heads * of_layer.head_dim;
                both.each_ref().map(|numbers| tape.given(numbers.clone(), cols))
            }),
        };
        let out = layer(spec, index, &mut tape, given)?;
        Ok((tape, Laid { given, out }))
    }

    fn head_weights<'a>(&'a self, spec: &'a DecoderSpec) -> Result<Head<'a>, Error> {
        let weight = |name: &str| self.weight(name);
        Ok(Head {
            spec,
            norm: tape::norm(spec, spec.names().norm, spec.norm, &weight)?,
            table: self.weight(&head_name(spec))?,
            bias: head_bias_name(spec).map(|name| self.weight(&name)).transpose()?,
        })
    }
}

/// Where on its tape a layer's inputs and outputs are.
pub(super) struct Laid {
    given: Given<Place>,
    out: Out<Place>,
}

impl Laid {
    /// Puts what the layer lends to others beside the stream.
    fn lend(&self, spec: &DecoderSpec, index: usize, tape: &Tape<'_>, beside: &mut Beside<Vec<f32>>) {
        if let Some(both) = self.out.keys_and_values.filter(|_| spec.lends_keys(index)) {
            let numbers = both.map(|place| tape.numbers(place).to_vec());
            beside.lent.insert(index, numbers);
        }
    }
}

/// What is kept of a layer going forward: its input, from which it is computed again, or all that it noted.
pub(super) enum Noted {
    Input(Vec<f32>),
    All(Notes, Laid),
}

/// From the last layer's output to logits: the final norm, and the output head.
struct Head<'a> {
    spec: &'a DecoderSpec,
    norm: fused::Norm<'a>,
    table: &'a [f32],
    bias: Option<&'a [f32]>,
}

/// Logits of some rows, and what is needed to go back from them.
struct Logits {
    /// Hidden states before and after the final norm.
    h: Vec<f32>,
    x: Vec<f32>,
    numbers: Vec<f32>,
    bends: Option<Vec<f32>>,
}

/// Derivatives of the head's weights.
struct OfHead {
    norm: Vec<f32>,
    norm_bias: Vec<f32>,
    bias: Vec<f32>,
    table: Vec<f32>,
}

impl Head<'_> {
    fn logits(&self, h: Vec<f32>) -> Logits {
        let spec = self.spec;
        let x = self.norm.forward(&h);
        let mut numbers = fused::product_transposed(&x, self.table, spec.hidden, spec.vocab);
        if let Some(bias) = self.bias {
            numbers
                .chunks_mut(spec.vocab)
                .for_each(|row| fused::add(row, bias, 1.0));
        }
        fused::scale(&mut numbers, 1.0 / spec.logits_divisor);
        let bends = spec.final_softcap.map(|cap| fused::softcap(&mut numbers, cap));
        Logits { h, x, numbers, bends }
    }

    /// From the derivatives of logits, in place of these, to those of the states; the weights' are added to `of`.
    fn back(&self, mut at: Logits, of: &mut OfHead) -> Vec<f32> {
        let spec = self.spec;
        if let Some(bends) = &at.bends {
            at.numbers.iter_mut().zip(bends).for_each(|(x, bend)| *x *= bend);
        }
        fused::scale(&mut at.numbers, 1.0 / spec.logits_divisor);
        if self.bias.is_some() {
            fused::add_rows(&at.numbers, &mut of.bias);
        }
        fused::add_outer(&at.numbers, &at.x, spec.hidden, spec.vocab, &mut of.table);
        let mut of_x = vec![0.0; at.x.len()];
        fused::add_product(&at.numbers, self.table, spec.hidden, spec.vocab, &mut of_x);
        if self.norm.bias.is_some() {
            fused::add_rows(&of_x, &mut of.norm_bias);
        }
        self.norm.back(&at.h, &of_x, &mut of.norm)
    }

    fn zeros(&self) -> OfHead {
        OfHead {
            norm: vec![0.0; self.norm.weight.len()],
            norm_bias: vec![0.0; self.norm.bias.map_or(0, <[f32]>::len)],
            bias: vec![0.0; self.bias.map_or(0, <[f32]>::len)],
            table: vec![0.0; self.table.len()],
        }
    }

    /// By name, the table as the last.
    fn named(&self, of: OfHead) -> Gradients {
        let norm = self.spec.names().norm;
        let mut named = Vec::new();
        if tape::has_weight(self.spec.norm) {
            named.push((format!("{norm}.weight"), of.norm));
        }
        if self.norm.bias.is_some() {
            named.push((format!("{norm}.bias"), of.norm_bias));
        }
        named.extend(head_bias_name(self.spec).map(|name| (name, of.bias)));
        named.push((head_name(self.spec), of.table));
        named
    }
}

fn rows_of(h: &[f32], rows: &[u32], cols: usize) -> Vec<f32> {
    let rows = rows.iter().map(|row| &h[*row as usize * cols..][..cols]);
    rows.flatten().copied().collect()
}

impl Side for Host {
    type State = Vec<f32>;
    type Noted = Noted;

    fn has_tensor(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    fn put(&mut self, name: &str, _: Vec<usize>, data: &[f32]) -> Result<(), Error> {
        self.weights.insert(name.into(), data.to_vec());
        Ok(())
    }

    fn embed(&self, spec: &DecoderSpec, batch: &Batch) -> Result<Vec<f32>, Error> {
        let mut h = rows_of(self.weight(&embeddings_name(spec))?, &batch.ids, spec.hidden);
        fused::scale(&mut h, spec.embed_scale);
        if let Some(name) = positions_name(spec) {
            let table = self.weight(&name)?;
            let n = batch.width * spec.hidden;
            h.chunks_mut(n).for_each(|row| fused::add(row, &table[..n], 1.0));
        }
        Ok(h)
    }

    fn layer(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: &Vec<f32>,
        beside: &mut Beside<Vec<f32>>,
    ) -> Result<Vec<f32>, Error> {
        let weights = self.of_layer(index)?;
        let (tape, laid) = Self::lay(spec, index, (batch, &weights), h.clone(), beside)?;
        laid.lend(spec, index, &tape, beside);
        Ok(tape.into_value(laid.out.h))
    }

    fn layer_noted(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: Vec<f32>,
        beside: &mut Beside<Vec<f32>>,
        keeps: bool,
    ) -> Result<(Noted, Vec<f32>), Error> {
        if !keeps {
            let out = self.layer(spec, index, batch, &h, beside)?;
            return Ok((Noted::Input(h), out));
        }
        let weights = self.of_layer(index)?;
        let (tape, laid) = Self::lay(spec, index, (batch, &weights), h, beside)?;
        laid.lend(spec, index, &tape, beside);
        let (notes, out) = tape.into_notes(laid.out.h);
        Ok((Noted::All(notes, laid), out))
    }

    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        noted: Vec<Noted>,
        back: &mut Back<'_, Vec<f32>>,
    ) -> Result<Gradients, Error> {
        let weights = self.of_layer(index)?;
        let mut gradients = HashMap::new();
        for (i, (batch, noted)) in batches.iter().zip(noted).enumerate() {
            let (tape, laid) = match noted {
                Noted::All(notes, laid) => (Tape::again(spec, batch, &weights, notes), laid),
                Noted::Input(h) => Self::lay(spec, index, (batch, &weights), h, &back.beside[i])?,
            };
            let (given, out) = (laid.given, laid.out);
            let of_beside = &mut back.of_beside[i];
            let mut slopes = vec![(out.h, std::mem::take(&mut back.upstream[i]))];
            if let (Some(both), Some(of_both)) = (out.keys_and_values, of_beside.lent.remove(&index)) {
                slopes.extend(both.into_iter().zip(of_both));
            }
            let mut found = tape.back(slopes, &mut gradients)?;
            let mut take = |place: Place| found[place].take().unwrap_or_default();
            back.upstream[i] = take(given.h);
            if let Some(place) = given.embedded {
                tape::give(&mut of_beside.embedded, take(place));
            }
            if let (Some(both), Keys::Of(source)) = (given.keys_and_values, spec.layers[index].keys) {
                let of_both = both.map(&mut take);
                match of_beside.lent.get_mut(&source) {
                    Some(known) => known
                        .iter_mut()
                        .zip(&of_both)
                        .for_each(|(sum, x)| fused::add(sum, x, 1.0)),
                    None => {
                        of_beside.lent.insert(source, of_both);
                    }
                }
            }
        }
        add_outer(spec, &self.layers[index], &mut gradients, back.outer);
        Ok(whole(&self.layers[index], gradients))
    }

    fn sum(&self, mut a: Vec<f32>, b: Vec<f32>) -> Result<Vec<f32>, Error> {
        fused::add(&mut a, &b, 1.0);
        Ok(a)
    }

    fn logits_after(&self, spec: &DecoderSpec, h: &Vec<f32>, wanted: &[u32]) -> Result<Vec<f32>, Error> {
        Ok(self.head_weights(spec)?.logits(rows_of(h, wanted, spec.hidden)).numbers)
    }

    fn head(&self, spec: &DecoderSpec, batch: &Batch, h: &Vec<f32>, sum: &mut Sum) -> Result<(), Error> {
        let head = self.head_weights(spec)?;
        for rows in logit_rows(spec, batch) {
            let targets = &batch.targets[rows.clone()];
            let logits = head.logits(rows_of(h, &batch.wanted[rows.clone()], spec.hidden));
            let found = fused::log_probabilities(&logits.numbers, targets);
            sum.add(&batch.owners[rows], &found);
        }
        Ok(())
    }

    fn head_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        outputs: Vec<Vec<f32>>,
        sum: &mut Sum,
    ) -> Result<(Vec<Vec<f32>>, Gradients), Error> {
        let head = self.head_weights(spec)?;
        let mut of_head = head.zeros();
        let mut upstream = Vec::new();
        for (batch, h) in batches.iter().zip(outputs) {
            let mut of_h = vec![0.0; h.len()];
            for rows in logit_rows(spec, batch) {
                let (wanted, targets) = (&batch.wanted[rows.clone()], &batch.targets[rows.clone()]);
                let mut at = head.logits(rows_of(&h, wanted, spec.hidden));
                let found = fused::log_probabilities(&at.numbers, targets);
                let slopes = sum.add(&batch.owners[rows], &found);
                fused::log_probabilities_back(&mut at.numbers, targets, &slopes);
                let of_rows = head.back(at, &mut of_head);
                for (row, slope) in wanted.iter().zip(of_rows.chunks(spec.hidden)) {
                    fused::add(&mut of_h[*row as usize * spec.hidden..][..spec.hidden], slope, 1.0);
                }
            }
            upstream.push(of_h);
        }
        Ok((upstream, head.named(of_head)))
    }

    fn embed_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        upstream: Vec<Vec<f32>>,
        table: Option<Vec<f32>>,
    ) -> Result<Gradients, Error> {
        let mut table = table.unwrap_or_else(|| vec![0.0; spec.vocab * spec.hidden]);
        let mut learned = positions_name(spec).map(|name| (name, vec![0.0; spec.max_positions * spec.hidden]));
        for (batch, upstream) in batches.iter().zip(upstream) {
            for (id, slope) in batch.ids.iter().zip(upstream.chunks(spec.hidden)) {
                let row = &mut table[*id as usize * spec.hidden..][..spec.hidden];
                fused::add(row, slope, spec.embed_scale);
            }
            if let Some((_, learned)) = &mut learned {
                let rows = upstream.chunks(batch.width * spec.hidden);
                rows.for_each(|row| fused::add(&mut learned[..row.len()], row, 1.0));
            }
        }
        let table = [(embeddings_name(spec), table)];
        Ok(table.into_iter().chain(learned).collect())
    }
}
