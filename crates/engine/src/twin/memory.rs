//! What layers that do not attend compute, with its derivatives, on the CPU: the causal convolution of single channels, and the
//! matrix of each head that every token decays, writes to and reads.
//!
//! Going back, a head's matrix is needed as it was at every token. It is kept at each [`STRETCH`]-th, and the tokens between
//! are gone through once more.

use heterosis_isa::Isa;
use rayon::prelude::*;

use super::fused;
use crate::kernels::{sigmoid, softplus};
use crate::mixer::{Mixer, MixerKind};
use crate::recurrence::NO_LENGTH;

/// A causal convolution of each of `channels` columns within each row of `width` tokens.
pub(super) struct Convolution<'a> {
    pub width: usize,
    pub channels: usize,
    /// `[channels, kernel]`.
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

impl Convolution<'_> {
    fn kernel(&self) -> usize {
        self.weight.len() / self.channels
    }

    /// How many tokens before a token the weight at a place looks.
    fn back_by(&self, place: usize) -> usize {
        self.kernel() - 1 - place
    }

    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (channels, kernel) = (self.channels, self.kernel());
        let mut out = vec![0.0; x.len()];
        let rows = out
            .par_chunks_mut(self.width * channels)
            .zip(x.par_chunks(self.width * channels));
        rows.for_each(|(out, x)| {
            for (token, out) in out.chunks_mut(channels).enumerate() {
                if let Some(bias) = self.bias {
                    out.copy_from_slice(bias);
                }
                for place in 0..kernel {
                    let Some(seen) = token.checked_sub(self.back_by(place)) else {
                        continue;
                    };
                    let weights = self.weight[place..].iter().step_by(kernel);
                    let seen = &x[seen * channels..][..channels];
                    for ((out, x), w) in out.iter_mut().zip(seen).zip(weights) {
                        *out += w * x;
                    }
                }
            }
        });
        out
    }

    /// The derivative of x; the weight's is added to `of_weight`. (The bias's is the sum of the slopes.)
    pub fn back(&self, x: &[f32], slope: &[f32], of_weight: &mut [f32]) -> Vec<f32> {
        let (channels, kernel, row) = (self.channels, self.kernel(), self.width * self.channels);
        let mut of_x = vec![0.0; x.len()];
        for ((of_x, x), slope) in of_x.chunks_mut(row).zip(x.chunks(row)).zip(slope.chunks(row)) {
            for (token, slope) in slope.chunks(channels).enumerate() {
                for place in 0..kernel {
                    let Some(seen) = token.checked_sub(self.back_by(place)) else {
                        continue;
                    };
                    let columns = seen * channels..(seen + 1) * channels;
                    let weights = self.weight[place..].iter().step_by(kernel);
                    let of_weights = of_weight[place..].iter_mut().step_by(kernel);
                    let seen = of_x[columns.clone()].iter_mut().zip(&x[columns]);
                    for ((((of_x, x), slope), w), of_w) in seen.zip(slope).zip(weights).zip(of_weights) {
                        *of_x += w * slope;
                        *of_w += x * slope;
                    }
                }
            }
        }
        of_x
    }
}

/// The tensors of a mixer's heads.
#[derive(Clone, Copy)]
pub(super) struct HeadNumbers<'a> {
    pub decay: &'a [f32],
    pub step: &'a [f32],
    /// Empty where the kind has none.
    pub skip: &'a [f32],
}

/// Derivatives with respect to [`HeadNumbers`].
pub(super) struct OfHeadNumbers {
    pub decay: Vec<f32>,
    pub step: Vec<f32>,
    pub skip: Vec<f32>,
}

/// What is read and written, for texts of `width` tokens: queries, keys and values side by side (Mamba's the other way round),
/// and by head the strength and the step before their curves.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub width: usize,
    /// `[tokens, channels]`.
    pub mixed: &'a [f32],
    /// `[tokens, heads]`; `None`: the step is the strength.
    pub strengths: Option<&'a [f32]>,
    /// `[tokens, heads]`.
    pub steps: &'a [f32],
}

/// Derivatives with respect to [`Inputs`].
#[derive(Default)]
pub(super) struct OfInputs {
    pub mixed: Vec<f32>,
    pub strengths: Vec<f32>,
    pub steps: Vec<f32>,
}

/// Tokens between matrices that are kept.
const STRETCH: usize = 64;

/// Numbers of the matrices that are alive at one time going back through texts of so many tokens.
pub(super) fn matrices_len(mixer: &Mixer, tokens: usize) -> usize {
    let of_a_head = tokens.div_ceil(STRETCH) + STRETCH + 3;
    rayon::current_num_threads() * of_a_head * mixer.key_dim * mixer.value_dim
}

/// The heads of one text that share queries and keys.
struct Group<'a> {
    mixer: &'a Mixer,
    inputs: Inputs<'a>,
    numbers: HeadNumbers<'a>,
    text: usize,
    key_head: usize,
}

/// What a token brings to one head.
struct Token {
    query: Vec<f32>,
    key: Vec<f32>,
    /// Over the lengths of query and key, and the query's factor.
    lengths: [f32; 2],
    values: Vec<f32>,
    rate: f32,
    step: f32,
    decay: f32,
    strength: f32,
}

/// `[tokens, width]`: what each head reads.
pub(super) fn forward(mixer: &Mixer, inputs: Inputs, numbers: HeadNumbers) -> Vec<f32> {
    let groups = groups(mixer, inputs, numbers);
    let of_group = |group: &Group| group.heads().map(|head| group.forward(head)).collect::<Vec<_>>();
    let results: Vec<Vec<Vec<f32>>> = groups.par_iter().map(of_group).collect();
    let mut out = vec![0.0; inputs.steps.len() / mixer.heads * mixer.width()];
    for (group, heads) in groups.iter().zip(&results) {
        for (head, read) in group.heads().zip(heads) {
            group.put(read, &mut out, (mixer.width(), head * mixer.value_dim, mixer.value_dim));
        }
    }
    out
}

/// From the derivatives of what was read to those of everything that it came from.
pub(super) fn back(mixer: &Mixer, inputs: Inputs, numbers: HeadNumbers, slope: &[f32]) -> (OfInputs, OfHeadNumbers) {
    let groups = groups(mixer, inputs, numbers);
    let results: Vec<OfGroup> = groups.par_iter().map(|group| group.back(slope)).collect();
    let (tokens, heads) = (inputs.steps.len() / mixer.heads, mixer.heads);
    let mut of = OfInputs {
        mixed: vec![0.0; inputs.mixed.len()],
        strengths: vec![0.0; inputs.strengths.map_or(0, <[f32]>::len)],
        steps: vec![0.0; tokens * heads],
    };
    let mut of_numbers = OfHeadNumbers {
        decay: vec![0.0; heads],
        step: vec![0.0; heads],
        skip: vec![0.0; numbers.skip.len()],
    };
    let (channels, key_dim) = (mixer.channels(), mixer.key_dim);
    for (group, found) in groups.iter().zip(&results) {
        let [queries, keys, values] = group.columns();
        group.put(&found.queries, &mut of.mixed, (channels, queries, key_dim));
        group.put(&found.keys, &mut of.mixed, (channels, keys, key_dim));
        for (head, found) in group.heads().zip(&found.heads) {
            let first = values + head * mixer.value_dim;
            group.put(&found.values, &mut of.mixed, (channels, first, mixer.value_dim));
            group.put(&found.steps, &mut of.steps, (heads, head, 1));
            if !of.strengths.is_empty() {
                group.put(&found.strengths, &mut of.strengths, (heads, head, 1));
            }
            of_numbers.decay[head] += found.decay;
            of_numbers.step[head] += found.steps.iter().sum::<f32>();
            if let Some(skip) = of_numbers.skip.get_mut(head) {
                *skip += found.skip;
            }
        }
    }
    (of, of_numbers)
}

fn groups<'a>(mixer: &'a Mixer, inputs: Inputs<'a>, numbers: HeadNumbers<'a>) -> Vec<Group<'a>> {
    let texts = inputs.steps.len() / mixer.heads / inputs.width;
    let of_text = |text: usize| {
        (0..mixer.key_heads).map(move |key_head| Group {
            mixer,
            inputs,
            numbers,
            text,
            key_head,
        })
    };
    (0..texts).flat_map(of_text).collect()
}

/// Derivatives of a group, token by token.
struct OfGroup {
    queries: Vec<f32>,
    keys: Vec<f32>,
    heads: Vec<OfHead>,
}

struct OfHead {
    values: Vec<f32>,
    strengths: Vec<f32>,
    steps: Vec<f32>,
    decay: f32,
    skip: f32,
}

impl Group<'_> {
    fn heads(&self) -> std::ops::Range<usize> {
        let shared = self.mixer.heads / self.mixer.key_heads;
        self.key_head * shared..(self.key_head + 1) * shared
    }

    /// Where its queries and its keys, and all heads' values, begin in a row.
    fn columns(&self) -> [usize; 3] {
        let (keys, own) = (
            self.mixer.key_heads * self.mixer.key_dim,
            self.key_head * self.mixer.key_dim,
        );
        let width = self.mixer.width();
        match self.mixer.kind {
            MixerKind::DeltaNet => [own, keys + own, 2 * keys],
            _ => [width + keys + own, width + own, 0],
        }
    }

    /// Adds some columns of each of its tokens to rows of all texts.
    fn put(&self, from: &[f32], to: &mut [f32], (cols, first, len): (usize, usize, usize)) {
        let rows = to[self.text * self.inputs.width * cols..].chunks_mut(cols);
        for (to, from) in rows.zip(from.chunks(len)) {
            fused::add(&mut to[first..first + len], from, 1.0);
        }
    }

    fn is_delta(&self) -> bool {
        self.mixer.kind == MixerKind::DeltaNet
    }

    fn token(&self, place: usize, head: usize) -> Token {
        let Mixer { key_dim, value_dim, .. } = *self.mixer;
        let row = self.text * self.inputs.width + place;
        let mixed = &self.inputs.mixed[row * self.mixer.channels()..][..self.mixer.channels()];
        let [queries, keys, values] = self.columns();
        let number = row * self.mixer.heads + head;
        let (rate, step) = (
            self.numbers.decay[head].exp(),
            softplus(self.inputs.steps[number] + self.numbers.step[head]),
        );
        let unit = |x: &[f32], factor: f32| match self.is_delta() {
            true => factor / (fused::product(x, x) + NO_LENGTH).sqrt(),
            false => 1.0,
        };
        let (query, key) = (&mixed[queries..][..key_dim], &mixed[keys..][..key_dim]);
        let lengths = [unit(query, (key_dim as f32).powf(-0.5)), unit(key, 1.0)];
        let scaled = |x: &[f32], factor: f32| x.iter().map(|x| factor * x).collect();
        Token {
            query: scaled(query, lengths[0]),
            key: scaled(key, lengths[1]),
            lengths,
            values: mixed[values + head * value_dim..][..value_dim].to_vec(),
            rate,
            step,
            decay: (-rate * step).exp(),
            strength: self
                .inputs
                .strengths
                .map_or(step, |strengths| sigmoid(strengths[number])),
        }
    }

    /// What one head reads, token by token.
    fn forward(&self, head: usize) -> Vec<f32> {
        let Mixer { key_dim, value_dim, .. } = *self.mixer;
        let mut matrix = vec![0.0; key_dim * value_dim];
        let mut out = Vec::with_capacity(self.inputs.width * value_dim);
        for place in 0..self.inputs.width {
            let token = self.token(place, head);
            token.write(self.is_delta(), &mut matrix);
            let mut read = transposed(&matrix, &token.query, value_dim);
            if let Some(skip) = self.numbers.skip.get(head) {
                fused::add(&mut read, &token.values, *skip);
            }
            out.extend(read);
        }
        out
    }

    fn back(&self, slope: &[f32]) -> OfGroup {
        let len = self.inputs.width * self.mixer.key_dim;
        let mut of = OfGroup {
            queries: vec![0.0; len],
            keys: vec![0.0; len],
            heads: Vec::new(),
        };
        for head in self.heads() {
            let found = self.head_back(head, slope, &mut of.queries, &mut of.keys);
            of.heads.push(found);
        }
        of
    }

    /// Backwards through one head's tokens; the queries' and keys' derivatives are added to.
    fn head_back(&self, head: usize, slope: &[f32], of_queries: &mut [f32], of_keys: &mut [f32]) -> OfHead {
        let Mixer { key_dim, value_dim, .. } = *self.mixer;
        let (width, len) = (self.inputs.width, key_dim * value_dim);
        let mut of = OfHead {
            values: vec![0.0; width * value_dim],
            strengths: vec![0.0; width],
            steps: vec![0.0; width],
            decay: 0.0,
            skip: 0.0,
        };
        let kept = self.matrices(head);
        let mut upstream = vec![0.0; len];
        for stretch in (0..kept.len()).rev() {
            let places = stretch * STRETCH..(stretch * STRETCH + STRETCH).min(width);
            let tokens: Vec<Token> = places.clone().map(|place| self.token(place, head)).collect();
            // Before each token, and after the last.
            let mut matrices = vec![kept[stretch].clone()];
            for (i, token) in tokens.iter().enumerate() {
                let mut next = matrices[i].clone();
                token.write(self.is_delta(), &mut next);
                matrices.push(next);
            }
            for (i, (place, token)) in places.zip(&tokens).enumerate().rev() {
                let row = self.text * width + place;
                let slope = &slope[row * self.mixer.width() + head * value_dim..][..value_dim];
                let (before, after) = (&matrices[i], &matrices[i + 1]);
                let of_token = token.back(self.is_delta(), (before, after), slope, &mut upstream);
                let of_values = &mut of.values[place * value_dim..][..value_dim];
                fused::add(of_values, &of_token.values, 1.0);
                if let Some(skip) = self.numbers.skip.get(head) {
                    fused::add(of_values, slope, *skip);
                    of.skip += fused::product(slope, &token.values);
                }
                // The step is in the decay, and is the strength where nothing else is.
                let mut of_step = -of_token.decay * token.decay * token.rate;
                match self.inputs.strengths {
                    Some(_) => of.strengths[place] = of_token.strength * token.strength * (1.0 - token.strength),
                    None => of_step += of_token.strength,
                }
                of.decay -= of_token.decay * token.decay * token.rate * token.step;
                // The derivative of softplus is 1 − e^−softplus.
                of.steps[place] = -of_step * (-token.step).exp_m1();
                let keys = place * key_dim..(place + 1) * key_dim;
                self.unit_back(
                    &token.query,
                    token.lengths[0],
                    &of_token.query,
                    &mut of_queries[keys.clone()],
                    key_dim,
                );
                self.unit_back(&token.key, token.lengths[1], &of_token.key, &mut of_keys[keys], 1);
            }
        }
        of
    }

    /// A head's matrix before each stretch.
    fn matrices(&self, head: usize) -> Vec<Vec<f32>> {
        let mut matrix = vec![0.0; self.mixer.key_dim * self.mixer.value_dim];
        let mut kept = Vec::new();
        for place in 0..self.inputs.width {
            if place.is_multiple_of(STRETCH) {
                kept.push(matrix.clone());
            }
            self.token(place, head).write(self.is_delta(), &mut matrix);
        }
        kept
    }

    /// With y = f·x / √(Σx² + ε): `∂x = r·∂y − r·y·⟨∂y, y⟩ / f²`, r being what x was multiplied by, and f² one over `root`.
    fn unit_back(&self, y: &[f32], r: f32, slope: &[f32], of_x: &mut [f32], root: usize) {
        fused::add(of_x, slope, r);
        if self.is_delta() {
            fused::add(of_x, y, -r * fused::product(slope, y) * root as f32);
        }
    }
}

/// Derivatives of what a token brings, of unit length where it has that.
struct OfToken {
    query: Vec<f32>,
    key: Vec<f32>,
    values: Vec<f32>,
    decay: f32,
    strength: f32,
}

impl Token {
    /// What is written, before the strength: the values, or what they differ by from what is known of the key.
    fn news(&self, is_delta: bool, matrix: &[f32]) -> Vec<f32> {
        let mut news = self.values.clone();
        if is_delta {
            fused::add(
                &mut news,
                &transposed(matrix, &self.key, self.values.len()),
                -self.decay,
            );
        }
        news
    }

    fn write(&self, is_delta: bool, matrix: &mut [f32]) {
        let news = self.news(is_delta, matrix);
        Isa::best().run(
            #[inline(always)]
            || {
                for (row, key) in matrix.chunks_mut(news.len()).zip(&self.key) {
                    let strength = self.strength * key;
                    row.iter_mut()
                        .zip(&news)
                        .for_each(|(x, new)| *x = self.decay * *x + strength * new);
                }
            },
        );
    }

    /// `upstream` is the derivative with respect to the matrix after the token, without what this token reads of it; it becomes
    /// that of the matrix before.
    fn back(&self, is_delta: bool, (before, after): (&[f32], &[f32]), slope: &[f32], upstream: &mut [f32]) -> OfToken {
        let n = self.values.len();
        let query = along(after, slope);
        add_outer(upstream, &self.query, slope, 1.0);
        let news = self.news(is_delta, before);
        // With u = β·news, of which the key makes k ⊗ u.
        let of_written = transposed(upstream, &self.key, n);
        let mut key: Vec<f32> = along(upstream, &news).iter().map(|x| self.strength * x).collect();
        let strength = fused::product(&of_written, &news);
        let mut values = of_written;
        fused::scale(&mut values, self.strength);
        // The decayed matrix is in the sum, and in what is known: S' − β·k ⊗ (S'ᵀk).
        if is_delta {
            fused::add(&mut key, &along(before, &values), -self.decay);
            add_outer(upstream, &self.key, &values, -1.0);
        }
        let decay = fused::product(upstream, before);
        fused::scale(upstream, self.decay);
        OfToken {
            query,
            key,
            values,
            decay,
            strength,
        }
    }
}

/// `Sᵀx` for a matrix with rows of n.
fn transposed(matrix: &[f32], x: &[f32], n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    for (row, x) in matrix.chunks(n).zip(x) {
        fused::add(&mut out, row, *x);
    }
    out
}

/// `S·x`.
fn along(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    matrix.chunks(x.len()).map(|row| fused::product(row, x)).collect()
}

/// `S += factor · a ⊗ b`.
fn add_outer(matrix: &mut [f32], a: &[f32], b: &[f32], factor: f32) {
    for (row, a) in matrix.chunks_mut(b.len()).zip(a) {
        fused::add(row, b, factor * a);
    }
}
