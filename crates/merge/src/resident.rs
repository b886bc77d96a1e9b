//! The search's side of merging: facts about the parents are kept, and only what changed since the last child is redone.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use super::{
    Device, Error, Plan, Slopes, TensorSource, Vocabulary,
    kept::{Kept, LIMIT_BYTES},
    magnitude::Index,
    view::Put,
};
use crate::recipe::DType;

/// Names the parents of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct FactKey {
    /// All of them in their order, over which base.
    pub all: Arc<str>,
    /// Each of them over the base.
    pub pairs: Vec<Arc<str>>,
}

/// What depends on the parents alone: inner products, norms and indices (half a byte for each element), for each set of
/// parents that was asked for; and, within a bound, the larger things that few recipes have in common.
#[derive(Debug)]
pub struct Cache {
    grams: Mutex<HashMap<Arc<str>, Vec<f64>>>,
    l1: Mutex<HashMap<Arc<str>, f64>>,
    indices: Mutex<HashMap<Arc<str>, Option<Arc<Index>>>>,
    pub(crate) kept: Kept,
}

impl Default for Cache {
    fn default() -> Self {
        Cache::with_limit(LIMIT_BYTES)
    }
}

impl Cache {
    /// `limit_bytes` bounds the results of earlier stages and the factors of decompositions.
    pub fn with_limit(limit_bytes: usize) -> Self {
        Cache {
            grams: Mutex::default(),
            l1: Mutex::default(),
            indices: Mutex::default(),
            kept: Kept::new(limit_bytes),
        }
    }

    pub(crate) fn gram(&self, key: &Arc<str>, compute: impl FnOnce() -> Vec<f64>) -> Vec<f64> {
        known(&self.grams, key, compute)
    }

    pub(crate) fn l1(&self, key: &Arc<str>, compute: impl FnOnce() -> f64) -> f64 {
        known(&self.l1, key, compute)
    }

    pub(crate) fn index(&self, key: &Arc<str>, build: impl FnOnce() -> Option<Index>) -> Option<Arc<Index>> {
        known(&self.indices, key, || build().map(Arc::new))
    }
}

/// The value under `key`, computed on the first call.
fn known<T: Clone>(map: &Mutex<HashMap<Arc<str>, T>>, key: &Arc<str>, compute: impl FnOnce() -> T) -> T {
    let lock = || map.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(value) = lock().get(key) {
        return value.clone();
    }
    // Not under the lock: two threads may compute the same value, none waits for another's.
    let value = compute();
    lock().insert(key.clone(), value.clone());
    value
}

/// Children of one set of parents, made one after the other in the same buffers.
///
/// Keeps the facts about the parents, the tensors that cannot be read in place (adapters, quantised parents) as f32, and
/// what each output was made of, so that [`Resident::changed`] names only what a new recipe changes. Results of earlier
/// stages and factors of decompositions are kept while they are used and fit into [`Resident::limit`].
pub struct Resident<'a> {
    source: Arc<Held<'a>>,
    cache: Arc<Cache>,
    written: HashMap<String, u64>,
    /// Digest of the recipe that was computed last.
    recipe: String,
    scratch: Vec<f32>,
}

impl<'a> Resident<'a> {
    /// `models` are the words of all models that recipes will name.
    pub fn new(source: &'a dyn TensorSource, models: &[&str]) -> Self {
        Resident::over(Arc::new(Held::new(source, models)), Arc::default())
    }

    fn over(source: Arc<Held<'a>>, cache: Arc<Cache>) -> Self {
        Resident {
            source,
            cache,
            written: HashMap::new(),
            recipe: String::new(),
            scratch: Vec::new(),
        }
    }

    /// Bounds what is kept of earlier stages and of decompositions; 2 GiB otherwise.
    pub fn limit(self, limit_bytes: usize) -> Self {
        Resident {
            cache: Arc::new(Cache::with_limit(limit_bytes)),
            ..self
        }
    }

    /// Children of the same parents in other buffers: what is known of the parents, and their copies, are shared.
    pub fn beside(&self) -> Self {
        Resident::over(self.source.clone(), self.cache.clone())
    }

    /// Where the parents are read.
    pub fn source(&self) -> &'a dyn TensorSource {
        self.source.source
    }

    /// The outputs of `plan` that differ from what was [`Resident::compute_into`]d last under the same name.
    pub fn changed(&self, plan: &Plan) -> Vec<usize> {
        let outputs = plan.outputs().iter().enumerate();
        outputs
            .filter(|(i, o)| self.written.get(&o.name) != Some(&plan.fingerprint(*i)))
            .map(|(i, _)| i)
            .collect()
    }

    /// Computes output `i` into `out`, and remembers that its buffer now holds it.
    ///
    /// # Errors
    /// As [`Plan::compute`]; what the buffer holds is unknown then.
    pub fn compute_into(&mut self, plan: &Plan, i: usize, out: &mut [f32]) -> Result<(), Error> {
        self.begin(plan, i);
        plan.compute_into(i, &*self.source, Some(&self.cache), out)?;
        self.end(plan, i);
        Ok(())
    }

    /// As [`Resident::compute_into`], as the little-endian bytes of the output's dtype, in pieces of at most `most_bytes`.
    ///
    /// # Errors
    /// As [`Plan::compute`]. That `put` did not want them all is not an error, and not remembered as done.
    pub fn compute_pieces(&mut self, plan: &Plan, i: usize, most_bytes: usize, put: &mut Put<'_>) -> Result<(), Error> {
        self.begin(plan, i);
        let mut all = true;
        plan.compute_pieces(
            i,
            &*self.source,
            Some(&self.cache),
            most_bytes,
            &mut |first, bytes, write| {
                all &= put(first, bytes, write);
                all
            },
        )?;
        if all {
            self.end(plan, i);
        }
        Ok(())
    }

    /// As [`Resident::compute_into`] for many outputs, on a device where the parents lie there and its kernels know how; those that are
    /// still to be merged by the host.
    ///
    /// # Errors
    /// Whatever the device refuses; what the buffers hold is unknown then.
    pub fn compute_on<D: Device>(
        &mut self,
        device: &mut D,
        plan: &Plan,
        outputs: &[usize],
    ) -> Result<Vec<usize>, D::Error> {
        outputs.iter().for_each(|i| self.begin(plan, *i));
        let left = plan.compute_on(outputs, &*self.source, &self.cache, device)?;
        for i in outputs.iter().filter(|i| left.binary_search(i).is_err()) {
            self.end(plan, *i);
        }
        Ok(left)
    }

    /// What output `i` is held in is about to be written.
    fn begin(&mut self, plan: &Plan, i: usize) {
        if self.recipe != plan.digest() {
            self.recipe = plan.digest().to_string();
            self.cache.kept.next_recipe();
        }
        self.written.remove(&plan.outputs()[i].name);
    }

    fn end(&mut self, plan: &Plan, i: usize) {
        let name = plan.outputs()[i].name.clone();
        self.written.insert(name, plan.fingerprint(i));
    }

    /// As [`Resident::compute_into`], into new memory.
    pub fn compute(&mut self, plan: &Plan, i: usize) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; plan.outputs()[i].elements()];
        self.compute_into(plan, i, &mut out)?;
        Ok(out)
    }

    /// As [`Resident::compute_into`], into memory that is used again; what `f` makes of it.
    ///
    /// # Errors
    /// As [`Plan::compute`].
    pub fn with<R>(&mut self, plan: &Plan, i: usize, f: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let elements = plan.outputs()[i].elements();
        if scratch.len() < elements {
            scratch.resize(elements, 0.0);
        }
        let computed = self.compute_into(plan, i, &mut scratch[..elements]);
        let made = computed.map(|()| f(&scratch[..elements]));
        self.scratch = scratch;
        made
    }

    /// Adds the part of output `i` to the derivative of a loss, where `upstream` is that with respect to the output.
    ///
    /// # Errors
    /// As [`Plan::compute`].
    pub fn add_slopes(&self, slopes: &mut Slopes, plan: &Plan, i: usize, upstream: &[f32]) -> Result<(), Error> {
        slopes.add(plan, i, &*self.source, Some(&self.cache), upstream)
    }

    /// Memory that kept results of earlier stages and kept factors take.
    pub fn kept_bytes(&self) -> usize {
        self.cache.kept.size_bytes()
    }

    /// Forgets what the buffers hold, after something else wrote into them.
    pub fn forget(&mut self) {
        self.written.clear();
    }
}

/// A source whose tensors are read once: those that `raw` cannot give are kept as f32.
struct Held<'a> {
    source: &'a dyn TensorSource,
    /// By model, then tensor; filled when first read.
    copies: HashMap<String, HashMap<String, OnceLock<Vec<f32>>>>,
}

impl<'a> Held<'a> {
    fn new(source: &'a dyn TensorSource, models: &[&str]) -> Self {
        let places = |model: &str| {
            let names = source.tensor_names(model).into_iter();
            names.map(|name| (name, OnceLock::new())).collect()
        };
        Held {
            source,
            copies: models.iter().map(|m| (m.to_string(), places(m))).collect(),
        }
    }
}

impl TensorSource for Held<'_> {
    fn tensor_names(&self, model: &str) -> Vec<String> {
        self.source.tensor_names(model)
    }

    fn shape(&self, model: &str, tensor: &str) -> Option<Vec<usize>> {
        self.source.shape(model, tensor)
    }

    fn dtype(&self, model: &str, tensor: &str) -> Option<DType> {
        self.source.dtype(model, tensor)
    }

    fn config(&self, model: &str) -> Option<&serde_json::Value> {
        self.source.config(model)
    }

    fn read_f32(&self, model: &str, tensor: &str) -> Result<Cow<'_, [f32]>, String> {
        let place = self.copies.get(model).and_then(|m| m.get(tensor));
        if let Some(values) = place.and_then(OnceLock::get) {
            return Ok(values[..].into());
        }
        let values = self.source.read_f32(model, tensor)?;
        match (values, place) {
            (Cow::Owned(values), Some(place)) => Ok(place.get_or_init(|| values)[..].into()),
            (values, _) => Ok(values),
        }
    }

    fn raw(&self, model: &str, tensor: &str) -> Option<(DType, &[u8])> {
        self.source.raw(model, tensor)
    }

    fn model_digest(&self, model: &str) -> String {
        self.source.model_digest(model)
    }

    fn vocab(&self, model: &str) -> Option<Arc<Vocabulary>> {
        self.source.vocab(model)
    }
}
