//! What the linear maps of each layer read while texts go through the model, layer by layer.
//!
//! A caller may send the texts through the layers of another model of the same shape than the one that it looks at.

use std::collections::HashMap;

use super::{
    Beside, Error, Piece, Side, Text, Twin, Weights,
    batch::{Batch, batches},
    fused,
    host::Host,
};
use crate::families::Stored;
use crate::spec::DecoderSpec;

/// Texts on their way through the layers, each by itself, so that nothing is filled up.
pub struct Reading {
    batches: Vec<Batch>,
    /// Of each text, what the next layer reads: `[tokens, hidden]`.
    states: Vec<Vec<f32>>,
    /// Of each text, what the layers before it lend.
    beside: Vec<Beside<Vec<f32>>>,
}

impl Reading {
    /// Tokens that are read: of each text all but its last, which predicts nothing.
    pub fn tokens(&self) -> usize {
        self.batches.iter().map(Batch::tokens).sum()
    }
}

/// One input of linear maps, and the maps that read it.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearInput<'a> {
    /// Those that read it.
    pub maps: Vec<LinearMap>,
    /// `[tokens, columns]`; no tokens where none came to an expert.
    pub rows: &'a [f32],
    /// As many as the maps have inputs.
    pub columns: usize,
}

impl LinearInput<'_> {
    /// The Gram matrix of the rows, `[columns, columns]`: Σ x xᵀ over tokens.
    pub fn gram(&self) -> Vec<f32> {
        let mut gram = vec![0.0; self.columns * self.columns];
        fused::add_outer(self.rows, self.rows, self.columns, self.columns, &mut gram);
        gram
    }
}

/// A linear map, by the tensor of the file that holds its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearMap {
    /// By its name in the file.
    pub tensor: String,
    /// Where the tensor holds the matrices of all experts: which one, and of how many.
    pub part: Option<(usize, usize)>,
    /// Whether the file has the weights as `[inputs, outputs]`.
    pub turned: bool,
}

impl Twin {
    /// Puts texts before the first layer.
    ///
    /// # Errors
    /// As [`Twin::loss`]; a twin that is not on the processor.
    pub fn begin(&self, texts: &[Text]) -> Result<Reading, Error> {
        let host = self.host()?;
        let alone = texts
            .iter()
            .map(|text| batches(&self.spec, &self.ropes, std::slice::from_ref(text)));
        let batches: Vec<Batch> = alone.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let states = batches.iter().map(|batch| host.embed(&self.spec, batch));
        let states: Vec<Vec<f32>> = states.collect::<Result<_, _>>()?;
        Ok(Reading {
            beside: states.iter().map(|h| self.beside(h)).collect(),
            states,
            batches,
        })
    }

    /// Shows what the linear maps of a layer read where this layer, the next of the reading, were the twin's own. `see` is called for
    /// each text and each input; experts that no token comes to are shown without rows, and what all layers share is not shown. The reading
    /// stays where it is.
    ///
    /// # Errors
    /// A twin that is not on the processor.
    pub fn show(&self, index: usize, reading: &Reading, see: &mut dyn FnMut(&LinearInput<'_>)) -> Result<(), Error> {
        let host = self.host()?;
        let weights = host.of_layer(index)?;
        let places = Places::new(&self.spec, index, host.pieces(index));
        let read = reading.batches.iter().zip(&reading.states).zip(&reading.beside);
        for ((batch, state), beside) in read {
            let (tape, _) = Host::lay(&self.spec, index, (batch, &weights), state.clone(), beside)?;
            let mut inputs: Vec<(usize, Vec<LinearMap>)> = Vec::new();
            for (name, place) in tape.linear_maps() {
                let piece = places.piece(name)?;
                if piece.is_outer {
                    continue;
                }
                let map = places.of_piece(piece);
                match inputs.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, maps)) => maps.push(map),
                    None => inputs.push((place, vec![map])),
                }
            }
            for input in places.unreached(&inputs) {
                see(&input);
            }
            for (place, maps) in inputs {
                let (rows, columns) = tape.value(place);
                see(&LinearInput { maps, rows, columns });
            }
        }
        Ok(())
    }

    /// Sends the texts through a layer of the twin.
    ///
    /// # Errors
    /// A twin that is not on the processor.
    pub fn advance(&self, index: usize, reading: &mut Reading) -> Result<(), Error> {
        let host = self.host()?;
        let read = reading.batches.iter().zip(&mut reading.states).zip(&mut reading.beside);
        for ((batch, state), beside) in read {
            *state = host.layer(&self.spec, index, batch, state, beside)?;
        }
        Ok(())
    }

    fn host(&self) -> Result<&Host, Error> {
        match &self.weights {
            Weights::Host(host) => Ok(host),
            Weights::Device(_) => Err(Error::Device {
                what: "looking at what linear maps read".into(),
                device: "cuda".into(),
            }),
        }
    }
}

/// The weights of a layer, as the file has them.
struct Places<'a> {
    pieces: HashMap<&'a str, &'a Piece>,
    /// By tensor, whether it stands as `[inputs, outputs]`, and how many matrices it holds.
    tensors: HashMap<String, (bool, usize)>,
    experts: Vec<Unreached>,
}

/// The maps of an expert that read one thing, and how wide that is.
struct Unreached {
    maps: Vec<LinearMap>,
    columns: usize,
}

impl<'a> Places<'a> {
    fn new(spec: &DecoderSpec, index: usize, pieces: &'a [Piece]) -> Self {
        let tensors = spec.layer_tensors(index).into_iter();
        let mut tensors: HashMap<String, (bool, usize)> =
            tensors.map(|t| (t.name.clone(), (spec.is_turned(&t), 0))).collect();
        for piece in pieces {
            tensors.entry(piece.tensor.clone()).or_default().1 += 1;
        }
        let mut places = Places {
            pieces: pieces.iter().map(|piece| (piece.name.as_str(), piece)).collect(),
            tensors,
            experts: Vec::new(),
        };
        places.experts = places.of_experts(spec, index);
        places
    }

    fn piece(&self, name: &str) -> Result<&'a Piece, Error> {
        let weight = format!("{name}.weight");
        self.pieces.get(weight.as_str()).copied().ok_or_else(|| Error::Read {
            tensor: weight.clone(),
            reason: "the layer has no such tensor".into(),
        })
    }

    fn of_piece(&self, piece: &Piece) -> LinearMap {
        let (turned, count) = self.tensors.get(&piece.tensor).copied().unwrap_or_default();
        LinearMap {
            tensor: piece.tensor.clone(),
            part: piece.range.as_ref().map(|range| (range.start / piece.len, count)),
            turned,
        }
    }

    /// The maps of each expert, whether or not a token comes to it.
    fn of_experts(&self, spec: &DecoderSpec, index: usize) -> Vec<Unreached> {
        let Some(experts) = spec.experts_of(index) else {
            return Vec::new();
        };
        let named = |expert: usize| -> Vec<(Vec<String>, usize)> {
            match experts.names.experts {
                Stored::Each { prefix, matrices } => {
                    let [gate, up, down] = matrices.map(|name| format!("{prefix}.{expert}.{name}"));
                    vec![(vec![gate, up], spec.hidden), (vec![down], experts.width)]
                }
                Stored::Fused { gate_up, down, .. } => {
                    let [gate_up, down] = spec.expert_names(expert, [gate_up, down]);
                    vec![(vec![gate_up], spec.hidden), (vec![down], experts.width)]
                }
            }
        };
        let known = |(names, columns): (Vec<String>, usize)| Unreached {
            maps: names
                .iter()
                .filter_map(|name| self.piece(name).ok())
                .map(|piece| self.of_piece(piece))
                .collect(),
            columns,
        };
        (0..experts.count).flat_map(named).map(known).collect()
    }

    fn unreached(&self, inputs: &[(usize, Vec<LinearMap>)]) -> impl Iterator<Item = LinearInput<'static>> {
        let reached = |maps: &[LinearMap]| inputs.iter().any(|(_, seen)| seen.first() == maps.first());
        let missing = self.experts.iter().filter(move |expert| !reached(&expert.maps));
        missing.map(|expert| LinearInput {
            maps: expert.maps.clone(),
            rows: &[],
            columns: expert.columns,
        })
    }
}
