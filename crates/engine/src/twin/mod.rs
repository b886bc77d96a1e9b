//! The differentiable twin of the decoder: the same [`DecoderSpec`], the same numbers, and the gradient of a loss with
//! respect to every weight.
//!
//! Texts are read, never generated: the loss is the mean cross-entropy of the tokens that are to be learned, given what is
//! before them. Memory is bounded: going forward, only the input of each layer is kept; going back, one layer at a time is
//! computed again with its derivatives, its weights' gradients are handed to the caller, and all of it is dropped. So a pass
//! holds the weights, one layer's gradients, and of each text `tokens × hidden × layers` numbers. Where little was computed,
//! as of a small model, the processor keeps what the last layers noted (up to [`KEPT`] numbers) and computes those only once.
//!
//! Reading order: `batch` (texts side by side), `layer` (one layer, written once), then the two ways to compute it and its
//! derivatives: `host` with `tape`, `fused` and `memory` on the CPU, `remote` with candle's operations and automatic differentiation
//! elsewhere. `reading` looks at what linear maps read on the way. The tests hold both against transformers, the engine, central differences, and each other.
//!
//! What it does not do: keys and values kept from one token to the next, shared prefixes, generation. [`Engine`] does those.
//!
//! [`Engine`]: super::Engine

use std::collections::HashMap;
use std::ops::Range;

use super::Error;
use super::device::Device;
use super::heap::GivenBack;
use super::rope::RopeTable;
use super::spec::{DecoderSpec, Keys, LayerSpec};
use super::tensors::Tensor;
use batch::{Batch, batches};
use host::Host;
pub use reading::{LinearInput, LinearMap, Reading};
use remote::Remote;

mod batch;
mod fused;
mod host;
mod layer;
mod memory;
mod reading;
mod remote;
mod tape;
#[cfg(test)]
mod tests;

/// A token sequence of which `tokens[from..]` is to be made likelier, given what is before it; `from` is at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// All of the sequence, what is given and what is learned.
    pub tokens: Vec<u32>,
    /// The first token that is learned, from 1.
    pub from: usize,
    /// How much each of its tokens counts; negative for what is to be made less likely.
    pub weight: f64,
    /// What a teacher expects in the place of each token that is learned, one for each; the loss is then the cross-entropy to that.
    /// Empty: the tokens themselves.
    pub expected: Vec<Shares>,
}

/// Tokens and their probabilities, which sum to 1.
pub type Shares = Vec<(u32, f32)>;

/// What a batch of texts costs under the twin's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Σ weight · −log p over the tokens that are learned, divided by Σ |weight|.
    pub mean: f64,
    /// By text: its summed natural log-likelihood; under what is `expected`, where that is given.
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

/// A way forward.
struct Forward<S: Side> {
    /// By layer and batch, what is needed to go back.
    noted: Vec<Vec<S::Noted>>,
    /// By batch, the last layer's.
    outputs: Vec<S::State>,
    /// By batch, what went beside the stream.
    beside: Vec<Beside<S::State>>,
}

impl<S> Default for Beside<S> {
    fn default() -> Self {
        Beside {
            embedded: None,
            lent: HashMap::new(),
        }
    }
}

impl<S> Beside<S> {
    /// The keys and values of another layer that this one takes.
    fn lent_to(&self, layer: &LayerSpec) -> Option<&[S; 2]> {
        match layer.keys {
            Keys::Of(source) => self.lent.get(&source),
            Keys::Own | Keys::OneProduct => None,
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

/// What layers noted going forward and is kept for going back, in numbers: 256 MB.
const KEPT: usize = 1 << 26;

/// A model whose loss can be differentiated.
pub struct Twin {
    spec: DecoderSpec,
    ropes: Vec<RopeTable>,
    weights: Weights,
    /// As [`KEPT`]; what the tests hold against each other.
    kept: usize,
    _last: GivenBack,
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
    let noted = 2 * noted_of_a_token(spec);
    let kept = kept_layers(spec, all, KEPT) * noted_of_a_token(spec) * all;
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
    let of_pass = (noted * at_once + layer + matrices).max(logits);
    let numbers = spec.parameters() + states + kept + of_pass + head + shared + lent;
    (numbers * size_of::<f32>()) as u64
}

/// Numbers that a layer notes of each token: norms, sums, products, before and after they are turned.
fn noted_of_a_token(spec: &DecoderSpec) -> usize {
    let widest = |of: fn(&LayerSpec) -> usize| spec.layers.iter().map(of).max().unwrap_or(0);
    let own = widest(|layer| layer.intermediate);
    let mlp = match &spec.experts {
        Some(experts) => {
            let beside = if experts.beside.is_some() { own } else { 0 };
            experts.width * (experts.per_token + experts.shared) + beside
        }
        None => own,
    };
    let queries = spec.heads * widest(|layer| layer.head_dim);
    let keys = widest(|layer| layer.kv_heads * layer.head_dim);
    let attended = 3 * queries + 5 * keys;
    let embedded = spec
        .per_layer
        .map_or(0, |per_layer| 5 * spec.hidden + 10 * per_layer.width);
    let remembered = spec.mixer.as_ref().map_or(0, |mixer| {
        mixer.input_columns() + 3 * mixer.channels() + 5 * mixer.width()
    });
    7 * spec.hidden + attended.max(remembered) + 3 * mlp + embedded
}

/// How many layers' notes on so many tokens are kept, if they may be so many numbers.
fn kept_layers(spec: &DecoderSpec, tokens: usize, kept: usize) -> usize {
    (kept / (noted_of_a_token(spec) * tokens).max(1)).min(spec.layers.len())
}

/// Where the weights are and how a pass is computed. `State` is a batch's hidden states, `[rows, width, hidden]`.
trait Side {
    type State: Clone;
    /// What a layer needs to be gone back through: its input, or what it noted.
    type Noted;

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
    /// As `layer`; may keep what it notes, if `keeps`.
    fn layer_noted(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batch: &Batch,
        h: Self::State,
        beside: &mut Beside<Self::State>,
        keeps: bool,
    ) -> Result<(Self::Noted, Self::State), Error>;
    /// One layer's derivatives: `upstream` goes from its output to its input; its weights' gradients.
    fn layer_back(
        &self,
        spec: &DecoderSpec,
        index: usize,
        batches: &[Batch],
        noted: Vec<Self::Noted>,
        back: &mut Back<'_, Self::State>,
    ) -> Result<Gradients, Error>;
    fn sum(&self, a: Self::State, b: Self::State) -> Result<Self::State, Error>;
    /// Logits after the wanted tokens of a stretch, `[rows, vocab]` row by row.
    fn logits_after(&self, spec: &DecoderSpec, h: &Self::State, wanted: &[u32]) -> Result<Vec<f32>, Error>;
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
            kept: KEPT,
            spec,
            _last: GivenBack,
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

    /// What `config.json` says of the model.
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

    /// By text, what this model expects in the place of each token that is learned: its `most` likeliest tokens, whose probabilities
    /// are scaled to sum to 1.
    ///
    /// # Errors
    /// As [`Twin::loss`].
    pub fn expectations(&self, texts: &[Text], most: usize) -> Result<Vec<Vec<Shares>>, Error> {
        match &self.weights {
            Weights::Host(host) => self.expectations_on(host, texts, most),
            Weights::Device(remote) => self.expectations_on(remote, texts, most),
        }
    }

    fn expectations_on<S: Side>(&self, side: &S, texts: &[Text], most: usize) -> Result<Vec<Vec<Shares>>, Error> {
        let mut found = vec![Vec::new(); texts.len()];
        for batch in &batches(&self.spec, &self.ropes, texts)? {
            let h = self.last_output(side, batch)?;
            for rows in logit_rows(&self.spec, batch) {
                let logits = side.logits_after(&self.spec, &h, &batch.wanted[rows.clone()])?;
                for (owner, logits) in batch.owners[rows].iter().zip(logits.chunks(self.spec.vocab)) {
                    found[*owner].push(likeliest(logits, most));
                }
            }
        }
        Ok(found)
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
        let Forward {
            mut noted,
            outputs,
            beside,
        } = self.forward(side, &batches)?;
        let mut sum = Sum::new(texts);
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
            let of_layer = noted.pop().unwrap_or_default();
            let mut back = Back {
                beside: &beside,
                upstream: &mut upstream,
                of_beside: &mut of_beside,
                outer: &mut outer,
            };
            let mut gradients = side.layer_back(spec, index, &batches, of_layer, &mut back)?;
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

    fn forward<S: Side>(&self, side: &S, batches: &[Batch]) -> Result<Forward<S>, Error> {
        let layers = self.spec.layers.len();
        let tokens = batches.iter().map(Batch::tokens).sum();
        // The last ones are needed first, and dropped first.
        let first_kept = layers - kept_layers(&self.spec, tokens, self.kept);
        let first = batches.iter().map(|batch| side.embed(&self.spec, batch));
        let mut states: Vec<S::State> = first.collect::<Result<_, _>>()?;
        let mut beside: Vec<Beside<S::State>> = states.iter().map(|h| self.beside(h)).collect();
        let mut noted = Vec::new();
        for index in 0..layers {
            let keeps = index >= first_kept;
            let through = batches.iter().zip(states).zip(&mut beside);
            let through =
                through.map(|((batch, h), beside)| side.layer_noted(&self.spec, index, batch, h, beside, keeps));
            let (of_layer, outputs): (Vec<_>, Vec<_>) = through.collect::<Result<_, Error>>()?;
            noted.push(of_layer);
            states = outputs;
        }
        Ok(Forward {
            noted,
            outputs: states,
            beside,
        })
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
            expected: Vec::new(),
        }];
        let batch = &batches(&self.spec, &self.ropes, &texts)?[0];
        let all: Vec<u32> = (0..text.len() as u32).collect();
        match &self.weights {
            Weights::Host(host) => host.logits_after(&self.spec, &self.last_output(host, batch)?, &all),
            Weights::Device(remote) => remote.logits_after(&self.spec, &self.last_output(remote, batch)?, &all),
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

/// The likeliest tokens, the first of equals before the others, with their shares of what they have together.
fn likeliest(logits: &[f32], most: usize) -> Shares {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |token: &u32| logits[*token as usize];
    let by_logit = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
    if most < order.len() {
        order.select_nth_unstable_by(most, by_logit);
        order.truncate(most);
    }
    order.sort_unstable_by(by_logit);
    let largest = order.first().map_or(0.0, logit);
    let parts: Vec<f64> = order.iter().map(|t| libm::exp(f64::from(logit(t) - largest))).collect();
    let total: f64 = parts.iter().sum();
    order
        .into_iter()
        .zip(parts)
        .map(|(token, part)| (token, (part / total) as f32))
        .collect()
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
