//! The differentiable twin of the decoder: the same [`DecoderSpec`], the same numbers, and the gradient of a loss with
//! respect to every weight.
//!
//! Texts are read, never generated: the loss is the mean cross-entropy of the tokens that are to be learned, given what is
//! before them. Memory is bounded: going forward, only the input of each layer is kept; going back, one layer at a time is
//! computed again with its derivatives, its weights' gradients are handed to the caller, and all of it is dropped. So a pass
//! holds the weights, one layer's gradients, and of each text `tokens × hidden × layers` numbers.
//!
//! Reading order: `batch` (texts side by side), `layer` (one layer, written once), then the two ways to compute it and its
//! derivatives: `host` with `tape`, `fused` and `memory` on the CPU, `remote` with candle's operations and automatic differentiation
//! elsewhere. The tests hold both against transformers, the engine, central differences, and each other.
//!
//! What it does not do: keys and values kept from one token to the next, shared prefixes, generation. [`Engine`] does those.
//!
//! [`Engine`]: super::Engine

use std::collections::HashMap;
use std::ops::Range;

use super::Error;
use super::device::Device;
use super::rope::RopeTable;
use super::spec::DecoderSpec;
use super::tensors::Tensor;
use batch::{Batch, batches};
use host::Host;
use remote::Remote;

mod batch;
mod fused;
mod host;
mod layer;
mod memory;
mod remote;
mod tape;
#[cfg(test)]
mod tests;

/// A token sequence of which `tokens[from..]` is to be made likelier, given what is before it; `from` is at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    pub tokens: Vec<u32>,
    pub from: usize,
    /// How much each of its tokens counts; negative for what is to be made less likely.
    pub weight: f64,
}

/// What a batch of texts costs under the twin's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Σ weight · −log p over the tokens that are learned, divided by Σ |weight|.
    pub mean: f64,
    /// By text: its summed natural log-likelihood.
    pub log_likelihoods: Vec<f64>,
}

/// Takes what one tensor's gradient is; called for each tensor once.
pub type TakeGradient<'a, E> = &'a mut dyn FnMut(&str, Vec<f32>) -> Result<(), E>;

/// Derivatives by tensor, row by row.
type Gradients = Vec<(String, Vec<f32>)>;

/// What goes from layer to layer beside the stream, for one batch; or its derivatives.
struct Beside<S> {
    /// The tokens' embeddings, where layers read them.
    embedded: Option<S>,
    /// Keys and values that layers lend to others, by layer.
    lent: HashMap<usize, [S; 2]>,
}

/// Of a way forward: states by layer and batch, and what went beside by batch.
type Forward<S> = (Vec<Vec<S>>, Vec<Beside<S>>);

impl<S> Default for Beside<S> {
    fn default() -> Self {
        Beside {
            embedded: None,
            lent: HashMap::new(),
        }
    }
}

/// What a layer's way back reads and adds to, by batch.
struct Back<'a, S> {
    beside: &'a [Beside<S>],
    /// Derivatives of the layer's output, and then of its input.
    upstream: &'a mut [S],
    of_beside: &'a mut [Beside<S>],
    /// Those of tensors outside of the layers, by tensor, as arranged.
    outer: &'a mut HashMap<String, Vec<f32>>,
}

/// Rows of logits that are alive at one time, in numbers.
const LOGITS: usize = 1 << 24;

/// A model whose loss can be differentiated.
pub struct Twin {
    spec: DecoderSpec,
    ropes: Vec<RopeTable>,
    weights: Weights,
}

enum Weights {
    Host(Host),
    #[cfg_attr(
        not(any(test, feature = "learn-cuda")),
        expect(dead_code, reason = "without learn-cuda the processor learns")
    )]
    Device(Remote),
}

/// Bytes of the host that [`Twin::gradient`] takes for so many texts of so many tokens each, its own weights included and all
/// of each text taught: what a pass holds at most, before it is measured.
pub fn pass_bytes(spec: &DecoderSpec, texts: usize, tokens: usize) -> u64 {
    let all = texts * tokens;
    let states = (spec.layers.len() + 2) * all * spec.hidden;
    let mlp = match &spec.experts {
        Some(experts) => {
            let own = if experts.beside.is_some() { spec.intermediate } else { 0 };
            experts.width * (experts.per_token + experts.shared) + own
        }
        None => spec.intermediate,
    };
    let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    // What a token's layer notes (norms, sums, products, before and after they are turned), and the slopes of it.
    let attended = 3 * queries + 3 * keys;
    let remembered = spec.mixer.as_ref().map_or(0, |mixer| {
        mixer.input_columns() + 3 * mixer.channels() + 5 * mixer.width()
    });
    let noted = 2 * (7 * spec.hidden + attended.max(remembered) + 3 * mlp);
    let at_once = all.min(batch::BATCH_TOKENS);
    let matrices = spec
        .mixer
        .as_ref()
        .map_or(0, |mixer| memory::matrices_len(mixer, tokens));
    let logits = 2 * LOGITS.min(at_once * spec.vocab);
    // Derivatives of the output head, or of one layer.
    let of_layer = |index| {
        let tensors = spec.layer_tensors(index).into_iter();
        tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let layer: usize = (0..spec.layers.len()).map(of_layer).max().unwrap_or(0);
    let head = spec.vocab * spec.hidden;
    // Derivatives of what all layers read, and what goes beside the stream.
    let shared = spec.per_layer.map_or(0, |per_layer| {
        let columns = spec.layers.len() * per_layer.width;
        columns * (per_layer.vocab + spec.hidden) + per_layer.vocab * per_layer.width + 2 * all * spec.hidden
    });
    let lent = (0..spec.layers.len()).filter(|layer| spec.lends_keys(*layer));
    let lent: usize = lent
        .map(|layer| 4 * all * spec.layers[layer].kv_heads * spec.layers[layer].head_dim)
        .sum();
    let numbers = spec.parameters() + states + (noted * at_once + layer + matrices).max(logits) + head + shared + lent;
    (numbers * size_of::<f32>()) as u64
}

/// Where the weights are and how a pass is computed. `State` is a batch's hidden states, `[rows, width, hidden]`.
trait Side {
    type State: Clone;

    fn has_tensor(&self, name: &str) -> bool;
    fn put(&mut self, name: &str, shape: Vec<usize>, data: &[f32]) -> Result<(), Error>;
    fn embed(&self, spec: &DecoderSpec, batch: &Batch) -> Result<Self::State, Error>;
    /// The stream after a layer; what it lends to others goes beside.
    fn layer(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: &Self::State,
        beside: &mut Beside<Self::State>,
    ) -> Result<Self::State, Error>;
    /// One layer again, with derivatives: `upstream` goes from its output to its input; its weights' gradients.
    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        inputs: Vec<Self::State>,
        back: &mut Back<'_, Self::State>,
    ) -> Result<Gradients, Error>;
    fn sum(&self, a: Self::State, b: Self::State) -> Result<Self::State, Error>;
    /// Adds the log-likelihoods of the wanted tokens to `sum`.
    fn head(&self, spec: &DecoderSpec, batch: &Batch, h: &Self::State, sum: &mut Sum) -> Result<(), Error>;
    /// From the last layer's outputs to the loss and back: the derivatives with respect to those outputs, the final norm's,
    /// and the head's, its table as the last.
    fn head_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        outputs: Vec<Self::State>,
        sum: &mut Sum,
    ) -> Result<(Vec<Self::State>, Gradients), Error>;
    /// The embeddings' derivative, added to that of the head where the two are one table, and that of learned positions.
    fn embed_back(
        &self,
        spec: &DecoderSpec,
        batches: &[Batch],
        upstream: Vec<Self::State>,
        table: Option<Vec<f32>>,
    ) -> Result<Gradients, Error>;
    /// Logits after each token.
    #[cfg(test)]
    fn logits(&self, spec: &DecoderSpec, h: &Self::State) -> Result<Vec<f32>, Error>;
}

impl Twin {
    /// Builds the twin and reads every tensor of [`DecoderSpec::tensor_names`] with `read`.
    ///
    /// # Errors
    /// A tensor that cannot be read or has another size than config.json says.
    pub fn load(
        spec: DecoderSpec,
        device: Device,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        let weights = match device {
            #[cfg(feature = "learn-cuda")]
            Device::Cuda(ordinal) => Weights::Device(Remote::new(&candle_core::Device::new_cuda(ordinal)?)),
            // A GPU whose operations this program was built without: the processor learns beside it.
            _ => Weights::Host(Host::new(&spec)),
        };
        Self::load_to(spec, weights, read)
    }

    fn load_to(
        spec: DecoderSpec,
        weights: Weights,
        read: &mut dyn FnMut(&str) -> Result<Vec<f32>, String>,
    ) -> Result<Self, Error> {
        spec.check_ropes()?;
        let tensors = spec.tensors();
        let mut twin = Twin {
            ropes: spec.ropes.iter().cloned().map(RopeTable::new).collect(),
            weights,
            spec,
        };
        for tensor in tensors {
            let data = read(&tensor.name).map_err(|reason| Error::Read {
                tensor: tensor.name.clone(),
                reason,
            })?;
            twin.put(tensor, &data)?;
        }
        Ok(twin)
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Whether `name` is one of the twin's tensors; a tied `lm_head.weight` is not.
    pub fn has_tensor(&self, name: &str) -> bool {
        match &self.weights {
            Weights::Host(host) => host.has_tensor(name),
            Weights::Device(remote) => remote.has_tensor(name),
        }
    }

    /// Replaces one tensor, by its Hugging Face name.
    ///
    /// # Errors
    /// An unknown name, a wrong number of elements.
    pub fn set_tensor(&mut self, name: &str, data: &[f32]) -> Result<(), Error> {
        let tensor = self.spec.tensor(name).ok_or_else(|| self.spec.unknown_tensor(name))?;
        self.put(tensor, data)
    }

    fn put(&mut self, tensor: Tensor, data: &[f32]) -> Result<(), Error> {
        let expected = tensor.shape.iter().product();
        if data.len() != expected {
            return Err(Error::TensorSize {
                tensor: tensor.name,
                shape: tensor.shape,
                expected,
                got: data.len(),
            });
        }
        let (data, shape) = (self.spec.arranged(&tensor, data), self.spec.arranged_shape(&tensor));
        match &mut self.weights {
            Weights::Host(host) => host.put(&tensor.name, shape, &data),
            Weights::Device(remote) => remote.put(&tensor.name, shape, &data),
        }
    }

    /// The loss of `texts`, without its gradient.
    ///
    /// # Errors
    /// A text with nothing to learn or with tokens beyond the vocabulary; a device that is full.
    pub fn loss(&self, texts: &[Text]) -> Result<Loss, Error> {
        match &self.weights {
            Weights::Host(host) => self.loss_on(host, texts),
            Weights::Device(remote) => self.loss_on(remote, texts),
        }
    }

    fn loss_on<S: Side>(&self, side: &S, texts: &[Text]) -> Result<Loss, Error> {
        let mut sum = Sum::new(texts);
        for batch in &batches(&self.spec, &self.ropes, texts)? {
            let h = self.last_output(side, batch)?;
            side.head(&self.spec, batch, &h, &mut sum)?;
        }
        Ok(sum.finish())
    }

    fn last_output<S: Side>(&self, side: &S, batch: &Batch) -> Result<S::State, Error> {
        let first = side.embed(&self.spec, batch)?;
        let mut beside = self.beside(&first);
        (0..self.spec.layers.len()).try_fold(first, |h, index| side.layer(&self.spec, index, batch, &h, &mut beside))
    }

    /// What goes beside the stream from the beginning.
    fn beside<S: Clone>(&self, embedded: &S) -> Beside<S> {
        Beside {
            embedded: self.spec.per_layer.map(|_| embedded.clone()),
            ..Beside::default()
        }
    }

    /// The loss of `texts`; `take` is handed its derivative with respect to each tensor, row by row.
    ///
    /// # Errors
    /// As [`Twin::loss`], and whatever `take` says.
    pub fn gradient<E: From<Error>>(&self, texts: &[Text], take: TakeGradient<'_, E>) -> Result<Loss, E> {
        match &self.weights {
            Weights::Host(host) => self.gradient_on(host, texts, take),
            Weights::Device(remote) => self.gradient_on(remote, texts, take),
        }
    }

    fn gradient_on<S: Side, E: From<Error>>(
        &self,
        side: &S,
        texts: &[Text],
        take: TakeGradient<'_, E>,
    ) -> Result<Loss, E> {
        let spec = &self.spec;
        let batches = batches(spec, &self.ropes, texts)?;
        let (mut states, beside) = self.forward(side, &batches)?;
        let mut sum = Sum::new(texts);
        let outputs = states.pop().unwrap_or_default();
        let (mut upstream, mut of_head) = side.head_back(spec, &batches, outputs, &mut sum)?;
        let tied = if spec.tie_embeddings { of_head.pop() } else { None };
        // In the order of the file, as the caller knows them.
        let mut take = |name: &str, gradient: Vec<f32>| match spec.tensor(name) {
            Some(tensor) => take(name, spec.as_stored(&tensor, gradient)),
            None => Err(spec.unknown_tensor(name).into()),
        };
        for (name, gradient) in of_head {
            take(&name, gradient)?;
        }
        let mut of_beside: Vec<Beside<S::State>> = batches.iter().map(|_| Beside::default()).collect();
        let mut outer = HashMap::new();
        for index in (0..spec.layers.len()).rev() {
            let inputs = states.pop().unwrap_or_default();
            let mut back = Back {
                beside: &beside,
                upstream: &mut upstream,
                of_beside: &mut of_beside,
                outer: &mut outer,
            };
            let mut gradients = side.layer_back(spec, index, &batches, inputs, &mut back)?;
            gradients.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, gradient) in gradients {
                take(&format!("{}{index}.{name}", spec.names().layers), gradient)?;
            }
        }
        let mut outer: Gradients = outer.into_iter().collect();
        outer.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, gradient) in outer {
            take(&name, gradient)?;
        }
        let upstream = upstream
            .into_iter()
            .zip(of_beside)
            .map(|(of_h, beside)| match beside.embedded {
                Some(of_embedded) => side.sum(of_h, of_embedded),
                None => Ok(of_h),
            });
        let upstream = upstream.collect::<Result<_, _>>()?;
        for (name, gradient) in side.embed_back(spec, &batches, upstream, tied.map(|(_, table)| table))? {
            take(&name, gradient)?;
        }
        Ok(sum.finish())
    }

    /// By layer and batch, the layer's input, and at the end the last one's output; by batch, what went beside.
    fn forward<S: Side>(&self, side: &S, batches: &[Batch]) -> Result<Forward<S::State>, Error> {
        let first = batches.iter().map(|batch| side.embed(&self.spec, batch));
        let mut states = vec![first.collect::<Result<Vec<_>, _>>()?];
        let mut beside: Vec<Beside<S::State>> = states[0].iter().map(|h| self.beside(h)).collect();
        for index in 0..self.spec.layers.len() {
            let through = batches.iter().zip(&states[index]).zip(&mut beside);
            let through = through.map(|((batch, h), beside)| side.layer(&self.spec, index, batch, h, beside));
            states.push(through.collect::<Result<_, _>>()?);
        }
        Ok((states, beside))
    }

    /// Logits after every token of a text, `[tokens, vocab]` row by row.
    #[cfg(test)]
    fn logits(&self, text: &[u32]) -> Result<Vec<f32>, Error> {
        // One token more, which is predicted and not read.
        let tokens: Vec<u32> = text.iter().copied().chain([0]).collect();
        let texts = [Text {
            from: tokens.len() - 1,
            tokens,
            weight: 1.0,
        }];
        let batch = &batches(&self.spec, &self.ropes, &texts)?[0];
        match &self.weights {
            Weights::Host(host) => host.logits(&self.spec, &self.last_output(host, batch)?),
            Weights::Device(remote) => remote.logits(&self.spec, &self.last_output(remote, batch)?),
        }
    }
}

/// What a layer calls one of its weights, and the tensor that holds it: a file may have those of all experts in one.
#[derive(Debug)]
struct Piece {
    /// Within the layer.
    name: String,
    /// Whole.
    tensor: String,
    /// Where the name within the layer begins.
    prefix: usize,
    len: usize,
    /// Where in the tensor; `None`: all of it.
    range: Option<Range<usize>>,
    /// Whether other layers compute with the tensor too.
    is_outer: bool,
}

/// The weights of a layer; those of one tensor stand together and in order.
fn pieces(spec: &DecoderSpec, index: usize) -> Vec<Piece> {
    let prefix = format!("{}{index}.", spec.names().layers);
    let mut found = Vec::new();
    for tensor in spec.layer_tensors(index) {
        let mut add = |name: String, len: usize, range: Option<Range<usize>>| {
            found.push(Piece {
                name,
                tensor: tensor.name.clone(),
                prefix: prefix.len(),
                len,
                range,
                is_outer: false,
            });
        };
        match spec.pieces(&tensor) {
            Some(pieces) => pieces
                .into_iter()
                .for_each(|(name, range)| add(name, range.len(), Some(range))),
            None => add(tensor.name[prefix.len()..].into(), tensor.shape.iter().product(), None),
        }
    }
    let outer = spec.outer_pieces(index).into_iter();
    found.extend(outer.map(|(name, tensor, range)| Piece {
        name,
        tensor,
        prefix: 0,
        len: range.len(),
        range: Some(range),
        is_outer: true,
    }));
    found
}

/// Adds the derivatives of a layer's parts of tensors outside of it, which are taken from `found`, to those of these tensors,
/// which have so many numbers.
fn add_outer(
    spec: &DecoderSpec,
    pieces: &[Piece],
    found: &mut HashMap<String, Vec<f32>>,
    outer: &mut HashMap<String, Vec<f32>>,
) {
    for piece in pieces.iter().filter(|piece| piece.is_outer) {
        let len = || {
            spec.tensor(&piece.tensor)
                .map_or(0, |tensor| tensor.shape.iter().product())
        };
        let sum = outer.entry(piece.tensor.clone()).or_insert_with(|| vec![0.0; len()]);
        if let (Some(of_piece), Some(range)) = (found.remove(&piece.name), &piece.range) {
            fused::add(&mut sum[range.clone()], &of_piece, 1.0);
        }
    }
}

/// The gradients of a layer's tensors, from those of its weights; one that nothing reached has a gradient of zeros.
fn whole(pieces: &[Piece], mut found: HashMap<String, Vec<f32>>) -> Gradients {
    let mut whole: Gradients = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_outer) {
        let gradient = found.remove(&piece.name).unwrap_or_else(|| vec![0.0; piece.len]);
        let name = &piece.tensor[piece.prefix..];
        match whole.last_mut() {
            Some((last, gradients)) if last == name => gradients.extend(gradient),
            _ => whole.push((name.into(), gradient)),
        }
    }
    whole
}

fn embeddings_name(spec: &DecoderSpec) -> String {
    format!("{}.weight", spec.names().embeddings)
}

/// The tensor that the output head multiplies by.
fn head_name(spec: &DecoderSpec) -> String {
    match spec.tie_embeddings {
        true => embeddings_name(spec),
        false => format!("{}.weight", spec.names().head),
    }
}

/// The head's bias, where it has one.
fn head_bias_name(spec: &DecoderSpec) -> Option<String> {
    spec.head_bias.then(|| format!("{}.bias", spec.names().head))
}

/// The table of learned positions, where there is one.
fn positions_name(spec: &DecoderSpec) -> Option<String> {
    spec.names().positions.map(|name| format!("{name}.weight"))
}

/// The wanted tokens of a batch in stretches whose logits fit.
fn logit_rows(spec: &DecoderSpec, batch: &Batch) -> impl Iterator<Item = Range<usize>> + use<> {
    let (count, at_once) = (batch.wanted.len(), (LOGITS / spec.vocab).max(16));
    (0..count)
        .step_by(at_once)
        .map(move |from| from..(from + at_once).min(count))
}

/// The loss while it is added up.
struct Sum {
    /// By text: the factor of each of its log-likelihoods in the loss.
    factors: Vec<f64>,
    log_likelihoods: Vec<f64>,
}

impl Sum {
    fn new(texts: &[Text]) -> Self {
        let of_text = |text: &Text| text.weight.abs() * (text.tokens.len() - text.from.min(text.tokens.len())) as f64;
        let total: f64 = texts.iter().map(of_text).sum();
        Sum {
            factors: texts
                .iter()
                .map(|text| -text.weight / total.max(f64::MIN_POSITIVE))
                .collect(),
            log_likelihoods: vec![0.0; texts.len()],
        }
    }

    /// Takes the log-likelihoods of some tokens; gives their factors, which are the derivatives of the loss.
    fn add(&mut self, owners: &[usize], found: &[f32]) -> Vec<f32> {
        for (owner, found) in owners.iter().zip(found) {
            self.log_likelihoods[*owner] += f64::from(*found);
        }
        owners.iter().map(|owner| self.factors[*owner] as f32).collect()
    }

    fn finish(self) -> Loss {
        let shares = self.factors.iter().zip(&self.log_likelihoods);
        Loss {
            mean: shares.map(|(factor, log_likelihood)| factor * log_likelihood).sum(),
            log_likelihoods: self.log_likelihoods,
        }
    }
}
