//! Texts of like length side by side.

use super::{Error, Shares, Text};
use crate::{rope::RopeTable, spec::DecoderSpec};

/// Tokens of texts, filled up to their longest, that go through a layer together.
pub(super) const BATCH_TOKENS: usize = 2048;

/// Texts that are computed together, each filled up at its end, where no token looks at it.
pub(super) struct Batch {
    pub rows: usize,
    pub width: usize,
    /// `[rows, width]`.
    pub ids: Vec<u32>,
    /// Places in `ids` after which a token is learned, what it is to be, and whose it is.
    pub wanted: Vec<u32>,
    pub targets: Vec<Shares>,
    pub owners: Vec<usize>,
    /// By kind of rotation.
    pub rotations: Vec<Rotation>,
}

/// cos and sin of every token, `[rows, width, half]`: texts of one batch may rotate differently, by their length.
pub(super) struct Rotation {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Batch {
    pub fn tokens(&self) -> usize {
        self.rows * self.width
    }
}

/// # Errors
/// A text with nothing to learn or with tokens beyond the vocabulary.
pub(super) fn batches(spec: &DecoderSpec, ropes: &[RopeTable], texts: &[Text]) -> Result<Vec<Batch>, Error> {
    for (request, text) in texts.iter().enumerate() {
        check(spec.vocab, request, text)?;
        spec.check_positions(request, text.tokens.len() - 1)?;
    }
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|i| texts[*i].tokens.len());
    let mut batches = Vec::new();
    let mut members: Vec<usize> = Vec::new();
    for i in order {
        // The last token predicts nothing.
        let width = texts[i].tokens.len() - 1;
        if !members.is_empty() && (members.len() + 1) * width > BATCH_TOKENS {
            batches.push(batch(ropes, texts, std::mem::take(&mut members)));
        }
        members.push(i);
    }
    if !members.is_empty() {
        batches.push(batch(ropes, texts, members));
    }
    Ok(batches)
}

fn check(vocab: usize, request: usize, text: &Text) -> Result<(), Error> {
    if text.from == 0 {
        return Err(Error::ScoreFromZero { request });
    }
    if text.from >= text.tokens.len() {
        return Err(Error::NothingToScore {
            tokens: text.tokens.len(),
        });
    }
    let learned = text.tokens.len() - text.from;
    let got = text.expected.iter().filter(|shares| !shares.is_empty()).count();
    if !text.expected.is_empty() && got != learned {
        return Err(Error::Expectations { request, learned, got });
    }
    let expected = text.expected.iter().flatten().map(|(token, _)| token);
    match text
        .tokens
        .iter()
        .chain(expected)
        .find(|token| **token as usize >= vocab)
    {
        Some(token) => Err(Error::TokenOutOfRange {
            request,
            token: *token,
            vocab,
        }),
        None => Ok(()),
    }
}

fn batch(ropes: &[RopeTable], texts: &[Text], members: Vec<usize>) -> Batch {
    let width = members.iter().map(|i| texts[*i].tokens.len() - 1).max().unwrap_or(1);
    let mut batch = Batch {
        rows: members.len(),
        width,
        ids: vec![0; members.len() * width],
        wanted: Vec::new(),
        targets: Vec::new(),
        owners: Vec::new(),
        rotations: Vec::new(),
    };
    for (row, i) in members.iter().enumerate() {
        let Text {
            tokens, from, expected, ..
        } = &texts[*i];
        batch.ids[row * width..][..tokens.len() - 1].copy_from_slice(&tokens[..tokens.len() - 1]);
        for (place, token) in tokens.iter().enumerate().skip(*from) {
            batch.wanted.push((row * width + place - 1) as u32);
            let expected = expected.get(place - from);
            batch
                .targets
                .push(expected.cloned().unwrap_or_else(|| vec![(*token, 1.0)]));
            batch.owners.push(*i);
        }
    }
    let rotations = ropes.iter().map(|rope| rotation(rope, texts, &members, width));
    batch.rotations = rotations.collect();
    batch
}

fn rotation(rope: &RopeTable, texts: &[Text], members: &[usize], width: usize) -> Rotation {
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    let mut angles = Vec::new();
    for i in members {
        for position in 0..width {
            angles.clear();
            rope.append(position, texts[*i].tokens.len() - 1, &mut angles);
            let (c, s) = angles.split_at(angles.len() / 2);
            cos.extend_from_slice(c);
            sin.extend_from_slice(s);
        }
    }
    Rotation { cos, sin }
}
