//! The parents of one output tensor, and the facts about them that several methods need.
//!
//! Facts depend on the parents alone and not on a recipe's numbers, so a [`Cache`] can keep them for a whole search.

use std::{any::Any, borrow::Cow, sync::Arc};

use super::{
    magnitude::{self, Bracket, Cut, Index},
    resident::{Cache, FactKey},
    view::{CHUNK, Inputs, View, dot, isa, sum_abs},
};

/// Why a method cannot merge a tensor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // of the fields, which the messages explain
pub enum Refusal {
    /// A weighted mean whose weights cancel out.
    #[error("the weights sum to zero, so there is nothing to divide by")]
    ZeroWeights,
    /// A mean on the sphere of points that cancel out.
    #[error("the models' directions cancel each other out, so they have no mean direction; change the weights")]
    NoDirection,
    /// Probabilities that leave (0, 1).
    #[error(
        "density {density} ± epsilon {epsilon} must lie inside (0, 1), since entries are kept with such probabilities (a density of 1 keeps everything)"
    )]
    KeepProbability { density: f64, epsilon: f64 },
    /// Fisher information that is none.
    #[error(
        "Fisher information is a mean of squares, and some of it is negative here; make it anew with `heterosis fisher`"
    )]
    NegativeFisher,
    /// A Gram matrix that cannot be one.
    #[error(
        "a Gram matrix has nothing negative on its diagonal, and one has here; make it anew with `heterosis grams`"
    )]
    NoGram,
    /// A system of equations with more than one solution.
    #[error(
        "the models' Gram matrices together are singular: their texts leave open what the weights should be. Give `alpha` \
         below 1, or measure them with more texts"
    )]
    SingularGrams,
    /// A matrix without a decomposition.
    #[error("the singular value decomposition did not converge")]
    Svd,
}

/// What the kernels get: the tensors, which of them is the base, and their common shape.
pub(crate) struct Parents<'a> {
    pub inputs: Inputs<'a>,
    /// Of each input the Gram matrix of what it reads, where the method needs it.
    pub grams: Vec<View<'a>>,
    /// Index of the base, where the method works on task vectors.
    pub base: Option<usize>,
    pub shape: &'a [usize],
    pub cache: Option<(&'a Cache, FactKey)>,
}

impl Parents<'_> {
    /// Indices of the models besides the base, in recipe order.
    pub fn models(&self) -> Vec<usize> {
        (0..self.inputs.count()).filter(|k| Some(*k) != self.base).collect()
    }

    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Rows and their length: the last axis is the row, a vector is one row.
    pub fn rows(&self) -> (usize, usize) {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        (self.len() / width, width)
    }

    /// One tensor as f32.
    pub fn whole(&self, k: usize) -> Cow<'_, [f32]> {
        self.inputs.view(k).to_f32()
    }

    /// τ of one model as a whole.
    pub fn task_vector(&self, k: usize) -> Vec<f32> {
        let mut tau = self.whole(k).into_owned();
        if let Some(base) = self.base {
            let base = self.whole(base);
            subtract(&mut tau, &base);
        }
        tau
    }

    /// The cut that keeps the `count` largest entries of τ of model `k`.
    pub fn top(&self, k: usize, count: usize) -> Cut {
        let Some(base) = self.base else {
            return Cut::Everything;
        };
        magnitude::top(&self.inputs, k, base, count)
    }

    /// As [`Parents::top`], but for a few entries, where a cache holds an index of the task vector's magnitudes.
    pub fn bracket(&self, k: usize, count: usize) -> Option<Bracket> {
        let ((cache, key), base) = (self.cache.as_ref()?, self.base?);
        let index = cache.index(&key.pairs[k], || Index::build(&self.inputs, k, base))?;
        Some(index.bracket(count))
    }

    /// What `make` makes of the parents and of `what` alone, in words; kept where there is a cache with room.
    pub fn kept<T: Any + Send + Sync>(
        &self,
        what: &str,
        size_bytes: impl FnOnce(&T) -> usize,
        make: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Arc<T>, Refusal> {
        let Some((cache, key)) = &self.cache else {
            return make().map(Arc::new);
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(what.as_bytes());
        hasher.update(&[0]);
        hasher.update(key.all.as_bytes());
        cache.kept.get(*hasher.finalize().as_bytes(), size_bytes, make)
    }

    /// ‖τ‖₁ of model `k`.
    pub fn l1(&self, k: usize) -> f64 {
        let sum = || {
            let base = self.base.unwrap_or(k);
            self.inputs
                .each(
                    #[inline(always)]
                    |_, chunks, scratch| sum_abs(difference(chunks[k], chunks[base], scratch)),
                )
                .iter()
                .sum()
        };
        match &self.cache {
            Some((cache, key)) => cache.l1(&key.pairs[k], sum),
            None => sum(),
        }
    }

    /// Inner products of the models' tensors, or of their task vectors where there is a base; row-major, in f64.
    pub fn gram(&self) -> Vec<f64> {
        match &self.cache {
            Some((cache, key)) => cache.gram(&key.all, || self.compute_gram()),
            None => self.compute_gram(),
        }
    }

    fn compute_gram(&self) -> Vec<f64> {
        let models = self.models();
        let n = models.len();
        let parts = self.inputs.each(
            #[inline(always)]
            |_, chunks, scratch| {
                let vectors = vectors(chunks, &models, self.base, scratch);
                gram_of(&vectors)
            },
        );
        let mut gram = vec![0.0; n * n];
        for part in parts {
            for (total, part) in gram.iter_mut().zip(part) {
                *total += part;
            }
        }
        gram
    }
}

/// x − base into `scratch`, for one chunk.
#[inline(always)]
pub(crate) fn difference<'s>(x: &[f32], base: &[f32], scratch: &'s mut Vec<f32>) -> &'s mut [f32] {
    scratch.resize(CHUNK, 0.0);
    let out = &mut scratch[..x.len()];
    for ((d, x), b) in out.iter_mut().zip(x).zip(base) {
        *d = x - b;
    }
    out
}

pub(crate) fn subtract(x: &mut [f32], base: &[f32]) {
    isa().run(
        #[inline(always)]
        || x.iter_mut().zip(base).for_each(|(x, b)| *x -= b),
    );
}

/// The models' chunks themselves, or their task vectors in `scratch`.
#[inline(always)]
pub(crate) fn vectors<'s>(
    chunks: &[&'s [f32]],
    models: &[usize],
    base: Option<usize>,
    scratch: &'s mut Vec<f32>,
) -> Vec<&'s [f32]> {
    let Some(base) = base else {
        return models.iter().map(|k| chunks[*k]).collect();
    };
    let len = chunks[base].len();
    scratch.resize(CHUNK * models.len(), 0.0);
    for (place, k) in scratch.chunks_mut(CHUNK).zip(models) {
        for ((d, x), b) in place.iter_mut().zip(chunks[*k]).zip(chunks[base]) {
            *d = x - b;
        }
    }
    scratch
        .chunks(CHUNK)
        .take(models.len())
        .map(|place| &place[..len])
        .collect()
}

/// All inner products of a few vectors, row-major.
pub(crate) fn gram_of(vectors: &[&[f32]]) -> Vec<f64> {
    let n = vectors.len();
    let mut gram = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let product = dot(vectors[i], vectors[j]);
            gram[i * n + j] = product;
            gram[j * n + i] = product;
        }
    }
    gram
}
