//! Attention over a packed batch: rows of different lengths, grouped-query heads, windows, softcap; no mask and no copy of
//! a key is ever made.
//!
//! The queries of a batch are cut into tiles of up to [`MR`] that refer to the same shared prefix: neighbouring tokens of a
//! prompt, or the current tokens of many rows. A tile reads each block of the shared prefix once, then each row its own
//! blocks. Scores of all visible keys are kept, the softmax is taken in two passes over them, and values are added in order
//! of position: the result does not depend on where blocks and segments begin, nor on what else is in the tile.

use std::ops::Range;
use std::sync::Arc;

use heterosis_isa::{Isa, Set, with_set};
use rayon::prelude::*;

use super::arithmetic::Settings;
use super::kernels::{self, MR, Matrix, Threads, Tiles, tile, with_rows};
use super::kv::{BLOCK, Block, KvHeads, KvShape, Segment};

/// What attention needs to know of a row's share of the batch.
pub(super) struct RowView<'a> {
    pub prefix: &'a [Arc<Segment>],
    pub own: &'a [Block],
    /// Position of the first token in `own`.
    pub own_start: usize,
}

/// One query: a row of the batch matrix, one of the heads that share a key head.
#[derive(Clone, Copy, Debug)]
struct Query {
    matrix_row: usize,
    group_head: usize,
    /// Keys before this position are visible.
    limit: usize,
}

/// Queries computed together, and which of them belong to which row.
struct Tile {
    queries: Vec<Query>,
    /// Ranges of `queries` with the index of their row.
    runs: Vec<(Range<usize>, usize)>,
}

/// How the queries of a batch are grouped.
pub(super) struct Attention {
    shape: KvShape,
    /// The same for all layers in which as many query heads share a key head.
    groups: Vec<Group>,
    /// Results by head and tile, `[MR × head_dim]` each, before they are put in their places.
    results: Vec<f32>,
}

/// The tiles of layers in which so many query heads share a key head.
struct Group {
    heads: usize,
    tiles: Vec<Tile>,
}

impl Group {
    fn new<'a>(group: usize, rows: impl Iterator<Item = (&'a [Arc<Segment>], usize, usize)>) -> Self {
        let mut tiles: Vec<Tile> = Vec::new();
        let (mut matrix_row, mut last_prefix) = (0, None);
        for (row, (prefix, start, count)) in rows.enumerate() {
            let prefix_id = prefix.last().map(Arc::as_ptr);
            for (token, group_head) in (0..count).flat_map(|token| (0..group).map(move |head| (token, head))) {
                let query = Query {
                    matrix_row: matrix_row + token,
                    group_head,
                    limit: start + token + 1,
                };
                match tiles.last_mut() {
                    Some(tile) if last_prefix == Some(prefix_id) && tile.queries.len() < MR => tile.push(query, row),
                    _ => {
                        let mut tile = Tile {
                            queries: Vec::with_capacity(MR),
                            runs: Vec::with_capacity(1),
                        };
                        tile.push(query, row);
                        tiles.push(tile);
                    }
                }
                last_prefix = Some(prefix_id);
            }
            matrix_row += count;
        }
        Group { heads: group, tiles }
    }
}

impl Attention {
    /// `rows` gives, for each row in order, its prefix, the position of its first token in the batch and their count; there
    /// are `heads` query heads.
    pub fn new<'a>(
        shape: KvShape,
        heads: usize,
        rows: impl Iterator<Item = (&'a [Arc<Segment>], usize, usize)> + Clone,
    ) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for layer in shape.layers.iter() {
            let group = heads / layer.kv_heads;
            if groups.iter().all(|known| known.heads != group) {
                groups.push(Group::new(group, rows.clone()));
            }
        }
        Attention {
            shape,
            groups,
            results: Vec::new(),
        }
    }

    /// `out = softmax(q · kᵀ) · v` for every query head of every token in the batch.
    ///
    /// **Shapes** `qkv`: `[tokens, ≥ heads · head_dim]`, of which the first `heads · head_dim` columns are read; `out` becomes
    /// `[tokens, heads · head_dim]`.
    pub fn attend(
        &mut self,
        qkv: &Matrix,
        rows: &[RowView],
        settings: &Settings<'_, Vec<f32>>,
        out: &mut Matrix,
        threads: Threads,
    ) {
        let (of_layer, heads) = (self.shape.layers[settings.layer], settings.heads);
        let (d, group) = (of_layer.head_dim, heads / of_layer.kv_heads);
        let Some(Group { tiles, .. }) = self.groups.iter().find(|known| known.heads == group) else {
            return;
        };
        let task_len = MR * d;
        let count = tiles.len();
        let tasks = count * of_layer.kv_heads;
        let mut results = std::mem::take(&mut self.results);
        results.resize(tasks * task_len, 0.0);
        let run = |scratch: &mut Scratch, (task, out): (usize, &mut [f32])| {
            let work = Work {
                qkv,
                rows,
                tile: &tiles[task % count],
                head: task / count,
                group,
            };
            scratch.attend_tile(&work, &self.shape, settings, out);
        };
        if threads.0 > 1 && tasks > 1 {
            results
                .par_chunks_mut(task_len)
                .enumerate()
                .for_each_init(Scratch::default, run);
        } else {
            let mut scratch = Scratch::default();
            results
                .chunks_mut(task_len)
                .enumerate()
                .for_each(|task| run(&mut scratch, task));
        }
        out.reshape(qkv.rows, heads * d);
        for (task, values) in results.chunks_exact(task_len).enumerate() {
            let head = task / count;
            for (query, values) in tiles[task % count].queries.iter().zip(values.chunks_exact(d)) {
                let column = (head * group + query.group_head) * d;
                out.row_mut(query.matrix_row)[column..column + d].copy_from_slice(values);
            }
        }
        self.results = results;
    }
}

impl Tile {
    fn push(&mut self, query: Query, row: usize) {
        let at = self.queries.len();
        self.queries.push(query);
        match self.runs.last_mut() {
            Some((range, owner)) if *owner == row => range.end = at + 1,
            _ => self.runs.push((at..at + 1, row)),
        }
    }
}

/// One tile under one key head.
struct Work<'a> {
    qkv: &'a Matrix,
    rows: &'a [RowView<'a>],
    tile: &'a Tile,
    head: usize,
    group: usize,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    run_queries: Vec<f32>,
    scores: Vec<f32>,
    weights: Vec<f32>,
    sums: Vec<f32>,
}

/// A stretch of keys: a block, the position of its first token, how many of its tokens may be looked at.
struct Span<'a> {
    block: &'a [f32],
    position: usize,
    len: usize,
}

fn prefix_spans<'a>(prefix: &'a [Arc<Segment>], from: usize, to: usize) -> impl Iterator<Item = Span<'a>> {
    let starts = prefix.iter().scan(0, |position, segment| {
        let start = *position;
        *position += segment.len;
        Some((start, segment))
    });
    starts.flat_map(move |(start, segment)| spans(&segment.blocks, start, from, to.min(start + segment.len)))
}

/// The blocks from `start` on that hold positions in `from..to`.
fn spans(blocks: &[Block], start: usize, from: usize, to: usize) -> impl Iterator<Item = Span<'_>> {
    let first = from.saturating_sub(start) / BLOCK;
    blocks.iter().enumerate().skip(first).map_while(move |(i, block)| {
        let position = start + i * BLOCK;
        (position < to).then(|| Span {
            block: &block.values,
            position,
            len: BLOCK.min(to - position),
        })
    })
}

impl Scratch {
    fn attend_tile(&mut self, work: &Work, shape: &KvShape, settings: &Settings<'_, Vec<f32>>, out: &mut [f32]) {
        let Work {
            qkv,
            rows,
            tile,
            head,
            group,
        } = *work;
        let (isa, heads, m) = (shape.isa, shape.layers[settings.layer], tile.queries.len());
        let d = heads.head_dim;
        let lower = |query: &Query| settings.window.map_or(0, |window| query.limit.saturating_sub(window));
        let base = tile.queries.iter().map(lower).min().unwrap_or(0);
        let limit = tile.queries.iter().map(|q| q.limit).max().unwrap_or(0);
        let stride = limit - base.min(limit) + 2 * BLOCK;

        // Scores against every visible key, at column `position - base + BLOCK` (a block may begin before `base`).
        self.scores.clear();
        self.scores.resize(m * stride, 0.0);
        let column = |position: usize| position + BLOCK - base;
        let query = |i: usize| {
            let q = &tile.queries[i];
            let start = (head * group + q.group_head) * d;
            &qkv.row(q.matrix_row)[start..start + d]
        };
        pack((0..m).map(query), d, m, &mut self.queries);
        let prefix = tile.runs.first().map_or(&[][..], |(_, row)| rows[*row].prefix);
        for span in prefix_spans(prefix, base, limit) {
            let keys = shape.keys(span.block, settings.layer, head);
            score(
                (isa, d),
                m,
                &self.queries,
                keys,
                &mut self.scores[column(span.position)..],
                stride,
            );
        }
        for (range, row) in &tile.runs {
            let row_limit = tile.queries[range.clone()].iter().map(|q| q.limit).max().unwrap_or(0);
            if range.len() < m {
                pack(range.clone().map(query), d, range.len(), &mut self.run_queries);
            }
            let queries = if range.len() < m {
                &self.run_queries
            } else {
                &self.queries
            };
            for span in spans(rows[*row].own, rows[*row].own_start, base, row_limit) {
                let keys = shape.keys(span.block, settings.layer, head);
                score(
                    (isa, d),
                    range.len(),
                    queries,
                    keys,
                    &mut self.scores[range.start * stride + column(span.position)..],
                    stride,
                );
            }
        }

        // Softmax of what each query sees; nothing for what it does not.
        for (q, scores) in tile.queries.iter().zip(self.scores.chunks_exact_mut(stride)) {
            let (from, to) = (column(lower(q)), column(q.limit));
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
            let seen = &mut scores[from..to];
            kernels::scale(isa, seen, settings.scale);
            if let Some(cap) = settings.softcap {
                kernels::softcap(isa, seen, cap);
            }
            match settings.sinks.get(head * group + q.group_head) {
                None => kernels::softmax(isa, seen),
                Some(sink) => kernels::softmax_beside(isa, seen, *sink),
            }
        }

        // Weighted sum of the values, in order of position.
        self.sums.clear();
        self.sums.resize(m * heads.value_dim, 0.0);
        for span in prefix_spans(prefix, base, limit) {
            let values = shape.values(span.block, settings.layer, head);
            pack_weights(
                &self.scores[column(span.position)..],
                stride,
                m,
                span.len,
                &mut self.weights,
            );
            add_values((isa, heads), m, &self.weights, values, &mut self.sums, m, 0);
        }
        for (range, row) in &tile.runs {
            let row_limit = tile.queries[range.clone()].iter().map(|q| q.limit).max().unwrap_or(0);
            for span in spans(rows[*row].own, rows[*row].own_start, base, row_limit) {
                let values = shape.values(span.block, settings.layer, head);
                let scores = &self.scores[range.start * stride + column(span.position)..];
                pack_weights(scores, stride, range.len(), span.len, &mut self.weights);
                add_values(
                    (isa, heads),
                    range.len(),
                    &self.weights,
                    values,
                    &mut self.sums,
                    m,
                    range.start,
                );
            }
        }
        // `sums` is [value_dim / width][m][width]: put each query's dimensions together.
        let width = heads.value_width;
        for (panel, sums) in self.sums.chunks_exact(m * width).enumerate() {
            for (i, sums) in sums.chunks_exact(width).enumerate() {
                let to = (panel * width + width).min(d);
                out[i * d + panel * width..i * d + to].copy_from_slice(&sums[..to - panel * width]);
            }
        }
    }
}

/// `out[k][i] = queries[i][k]`.
fn pack<'a>(queries: impl Iterator<Item = &'a [f32]>, d: usize, m: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(d * m, 0.0);
    for (i, query) in queries.enumerate() {
        for (slot, value) in out[i..].iter_mut().step_by(m).zip(query) {
            *slot = *value;
        }
    }
}

/// `out[t][i] = scores[i][t]` for the tokens of one block.
fn pack_weights(scores: &[f32], stride: usize, m: usize, len: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(len * m, 0.0);
    for i in 0..m {
        for (slot, value) in out[i..]
            .iter_mut()
            .step_by(m)
            .zip(&scores[i * stride..i * stride + len])
        {
            *slot = *value;
        }
    }
}

/// Dot products of `m` queries (`[head_dim][m]`) with the keys of a block, written to `scores[i × stride..][..BLOCK]`.
fn score((isa, d): (Isa, usize), m: usize, queries: &[f32], keys: &[f32], scores: &mut [f32], stride: usize) {
    with_set!(isa, S => with_rows!(m, M => {
        score_rows::<S, M, { S::KEYS }>(queries, keys, d, scores, stride)
    }));
}

#[inline(always)]
fn score_rows<S: Set, const M: usize, const W: usize>(
    queries: &[f32],
    keys: &[f32],
    d: usize,
    scores: &mut [f32],
    stride: usize,
) {
    for (part, keys) in keys.chunks_exact(d * W).enumerate() {
        let mut acc = [[0.0; W]; M];
        tile::<S, M, W>(queries, keys, &mut acc);
        for (i, acc) in acc.iter().enumerate() {
            scores[i * stride + part * W..][..W].copy_from_slice(acc);
        }
    }
}

/// Adds `weights` (`[tokens][m]`) times the values of a block to queries `first..first + m` of `sums`
/// (`[value_dim / width][total][width]`).
fn add_values(
    (isa, heads): (Isa, KvHeads),
    m: usize,
    weights: &[f32],
    values: &[f32],
    sums: &mut [f32],
    total: usize,
    first: usize,
) {
    let width = heads.value_width;
    for (values, sums) in values
        .chunks_exact(BLOCK * width)
        .zip(sums.chunks_exact_mut(total * width))
    {
        let sums = &mut sums[first * width..(first + m) * width];
        with_set!(isa, S => with_rows!(m, M => {
            if width == S::VALUES[0] {
                add_panel::<S, M, { S::VALUES[0] }>(weights, values, sums)
            } else if width == S::VALUES[1] {
                add_panel::<S, M, { S::VALUES[1] }>(weights, values, sums)
            } else {
                add_panel::<S, M, { S::VALUES[2] }>(weights, values, sums)
            }
        }));
    }
}

#[inline(always)]
fn add_panel<S: Set, const M: usize, const W: usize>(weights: &[f32], values: &[f32], sums: &mut [f32]) {
    let mut acc = [[0.0; W]; M];
    let (rows, _) = sums.as_chunks_mut::<W>();
    for (acc, row) in acc.iter_mut().zip(rows.iter()) {
        *acc = *row;
    }
    tile::<S, M, W>(weights, values, &mut acc);
    for (acc, row) in acc.iter().zip(rows.iter_mut()) {
        *row = *acc;
    }
}
