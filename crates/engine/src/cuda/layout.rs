//! A batch as the kernels read it: one list of words, sent to the device at once.
//!
//! Attention is cut into items of up to [`QUERIES`] queries against a stretch of keys. Neighbouring rows of one shared
//! prefix ask it together, so its keys are read once for all of them; then each row asks its own keys. Long stretches are
//! split while the device would otherwise idle; the partial results of a query are put together afterwards (flash decoding,
//! Dao et al. 2023; a prefix read once for many rows: Juravsky et al. 2024, Hydragen, arXiv:2402.05099).

use std::sync::Arc;

use super::super::cpu::{positions, wanted_rows};
use super::super::decoder::Chunk;
use super::super::kv::{BLOCK, Segment};

/// Queries in an item: the rows of a tensor core's product.
pub const QUERIES: usize = 16;
/// Keys in a stretch while there are few queries.
const SHORT: usize = 256;
/// Keys in a stretch when there are queries enough to keep a device busy.
const LONG: usize = 4096;
/// Items over all key heads that keep a device busy.
const BUSY: usize = 1024;

/// Words of an item and of an entry, as `kernels.cu` has them.
const ITEM: usize = 5;
const ENTRY: usize = 3;

/// What a layout has room for. A decoding step, one token of each row, takes a little more room than it needs, so that many
/// steps have the same places and can be one recording; what is left empty has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Room {
    pub rows: usize,
    pub items: usize,
    pub entries: usize,
}

impl Room {
    /// Rows in steps of an eighth of the next power of two, for every row is computed; the rest, which costs next to nothing
    /// where it is empty, in steps of a half.
    fn rounded(self) -> Self {
        let round = |n: usize, part: usize| n.next_multiple_of((n.next_power_of_two() / part).max(1));
        Room {
            rows: round(self.rows, 8),
            items: round(self.items, 2),
            entries: round(self.entries, 2),
        }
    }
}

/// Where things stand in `words`, and how many there are.
#[derive(Debug, Default)]
pub struct Layout {
    pub words: Vec<u32>,
    /// Addresses (two words each) of the blocks that take each row's keys and values.
    pub row_blocks: usize,
    /// Addresses of the blocks that items read.
    pub item_blocks: usize,
    pub tokens: usize,
    pub positions: usize,
    /// By which each row's queries grow, where they do.
    pub growth: Option<usize>,
    pub slots: usize,
    pub items: usize,
    pub entries: usize,
    pub starts: usize,
    pub lists: usize,
    pub wanted: usize,
    pub rotations: Vec<usize>,
    /// `half` of each rotation.
    pub half_widths: Vec<usize>,
    pub rows: usize,
    pub wanted_count: usize,
    pub room: Room,
    /// One token of each row, all wanted.
    pub is_step: bool,
}

/// A query: a row of the batch, which of the heads that share a key head, and before which position keys are visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Query {
    row: usize,
    group_head: usize,
    limit: usize,
}

#[derive(Default)]
struct Work {
    blocks: Vec<u64>,
    items: Vec<[u32; ITEM]>,
    entries: Vec<Query>,
}

impl Work {
    /// All of `queries` against the keys of a segment that begins at `position`, of which the first `len` exist.
    fn ask(
        &mut self,
        queries: &[Query],
        segment: &Segment,
        (position, len): (usize, usize),
        stretch: usize,
        address: &dyn Fn(usize) -> u64,
    ) {
        for from in (0..len).step_by(stretch) {
            let to = (from + stretch).min(len);
            let first_block = self.blocks.len();
            let blocks = &segment.blocks[from / BLOCK..to.div_ceil(BLOCK)];
            self.blocks.extend(blocks.iter().map(|block| address(block.index)));
            for queries in queries.chunks(QUERIES) {
                let limit = queries.iter().map(|query| query.limit).max().unwrap_or(0);
                if limit <= position + from {
                    continue; // all of it is in their future
                }
                self.items.push([
                    self.entries.len() as u32,
                    queries.len() as u32,
                    first_block as u32,
                    (to.min(limit - position) - from) as u32,
                    (position + from) as u32,
                ]);
                self.entries.extend(queries);
            }
        }
    }
}

impl Layout {
    /// `group` query heads share each of `kv_heads` key heads; `address` finds a block by its index. Rotations as
    /// [`super::super::arithmetic::Arithmetic::begin`] has them; `growth` is of each row's queries, or empty.
    pub fn new(
        chunks: &[Chunk],
        group: usize,
        kv_heads: usize,
        rotations: &[Vec<f32>],
        growth: &[f32],
        address: &dyn Fn(usize) -> u64,
    ) -> Layout {
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let busy = rows * group / QUERIES * kv_heads >= BUSY;
        let stretch = if busy { LONG } else { SHORT };
        let queries = queries(chunks, group);
        let mut work = Work::default();
        let mut first = 0;
        for same in chunks.chunk_by(|a, b| prefix_of(a) == prefix_of(b)) {
            let asked: Vec<Query> = queries[first..first + same.len()].concat();
            let mut position = 0;
            for segment in same.first().map_or(&[][..], |chunk| chunk.prefix) {
                work.ask(&asked, segment, (position, segment.len), stretch, address);
                position += segment.len;
            }
            first += same.len();
        }
        for (chunk, queries) in chunks.iter().zip(&queries) {
            let keys = (chunk.own_start(), chunk.own.len + chunk.tokens.len());
            work.ask(queries, chunk.own, keys, stretch, address);
        }
        let wanted: Vec<u32> = wanted_rows(chunks).map(|row| row as u32).collect();
        let is_step = chunks.len() == rows && wanted.len() == rows;
        let exact = Room {
            rows,
            items: work.items.len(),
            entries: work.entries.len(),
        };
        let room = if is_step { exact.rounded() } else { exact };
        let (starts, lists) = entries_by_query(&work.entries, room.rows, group);

        let mut layout = Layout {
            rows,
            wanted_count: wanted.len(),
            room,
            is_step,
            ..Layout::default()
        };
        let slots = chunks.iter().flat_map(|c| c.own.len..c.own.len + c.tokens.len());
        let row_blocks = chunks.iter().flat_map(|chunk| {
            let slots = chunk.own.len..chunk.own.len + chunk.tokens.len();
            slots.map(|slot| address(chunk.own.blocks[slot / BLOCK].index))
        });
        // Addresses are aligned; those of the items' blocks come last, as their number changes from step to step.
        layout.row_blocks = layout.put(row_blocks.flat_map(halves), 2 * room.rows);
        layout.tokens = layout.put(chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()), room.rows);
        layout.positions = layout.put(positions(chunks).map(|position| position as u32), room.rows);
        let growth = growth.iter().map(|factor| factor.to_bits());
        layout.growth = (growth.len() > 0).then(|| layout.put(growth, room.rows));
        layout.slots = layout.put(slots.map(|slot| (slot % BLOCK) as u32), room.rows);
        layout.items = layout.put(work.items.into_iter().flatten(), ITEM * room.items);
        let entries = work.entries.iter();
        let entries = entries.flat_map(|query| [query.row, query.group_head, query.limit].map(|word| word as u32));
        layout.entries = layout.put(entries, ENTRY * room.entries);
        layout.starts = layout.put(starts.into_iter(), room.rows * group + 1);
        layout.lists = layout.put(lists.into_iter(), room.entries);
        layout.wanted = layout.put(wanted.into_iter(), room.rows);
        for rotation in rotations {
            let width = rotation.len() / rows.max(1);
            let at = layout.put(rotation.iter().map(|x| x.to_bits()), width * room.rows);
            layout.rotations.push(at);
            layout.half_widths.push(width / 2);
        }
        layout.words.resize(layout.words.len().next_multiple_of(2), 0);
        let count = 2 * work.blocks.len();
        layout.item_blocks = layout.put(work.blocks.into_iter().flat_map(halves), count);
        layout
    }

    /// Adds a list with room for `room` words; the rest of it is 0.
    fn put(&mut self, words: impl Iterator<Item = u32>, room: usize) -> usize {
        let at = self.words.len();
        self.words.extend(words);
        self.words.resize(at + room, 0);
        at
    }
}

fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

fn prefix_of(chunk: &Chunk) -> Option<*const Segment> {
    chunk.prefix.last().map(Arc::as_ptr)
}

/// The queries of each chunk.
fn queries(chunks: &[Chunk], group: usize) -> Vec<Vec<Query>> {
    let mut first = 0;
    let of_chunk = |chunk: &Chunk| {
        let (row, start) = (first, chunk.start());
        first += chunk.tokens.len();
        let tokens = (0..chunk.tokens.len()).flat_map(|token| (0..group).map(move |head| (token, head)));
        tokens
            .map(|(token, group_head)| Query {
                row: row + token,
                group_head,
                limit: start + token + 1,
            })
            .collect()
    };
    chunks.iter().map(of_chunk).collect()
}

/// For query (row, group head): the entries from `starts[row · group + head]` to the next one, in the order of the keys.
fn entries_by_query(entries: &[Query], rows: usize, group: usize) -> (Vec<u32>, Vec<u32>) {
    let of = |query: &Query| query.row * group + query.group_head;
    let mut starts = vec![0u32; rows * group + 1];
    for entry in entries {
        starts[of(entry) + 1] += 1;
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut next = starts.clone();
    let mut lists = vec![0; entries.len()];
    for (i, entry) in entries.iter().enumerate() {
        let at = &mut next[of(entry)];
        lists[*at as usize] = i as u32;
        *at += 1;
    }
    (starts, lists)
}
