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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Room {
    pub rows: usize,
    /// Of each of [`Layout::asked`].
    asked: Vec<RoomOfAsked>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoomOfAsked {
    pub items: usize,
    pub entries: usize,
}

impl Room {
    /// Rows in steps of an eighth of the next power of two, for every row is computed; the rest, which costs next to nothing
    /// where it is empty, in steps of a half.
    fn rounded(self) -> Self {
        let round = |n: usize, part: usize| n.next_multiple_of((n.next_power_of_two() / part).max(1));
        let of_asked = |asked: RoomOfAsked| RoomOfAsked {
            items: round(asked.items, 2),
            entries: round(asked.entries, 2),
        };
        Room {
            rows: round(self.rows, 8),
            asked: self.asked.into_iter().map(of_asked).collect(),
        }
    }
}

/// What the layers with so many key heads ask, and where that stands in the words.
#[derive(Debug)]
pub struct Asked {
    pub kv_heads: usize,
    pub items: usize,
    pub entries: usize,
    pub starts: usize,
    pub lists: usize,
    pub room: RoomOfAsked,
}

/// What a model's layers want of a layout.
#[derive(Debug)]
pub struct Wants<'a> {
    /// Query heads.
    pub heads: usize,
    /// The numbers of key heads that its layers have, each once.
    pub kv_heads: &'a [usize],
    /// As [`super::super::arithmetic::Arithmetic::begin`] has them.
    pub rotations: &'a [Vec<f32>],
    /// Of each row's queries, or empty.
    pub growth: &'a [f32],
    /// Layers remember.
    pub states: bool,
}

/// Where the device has things, by their indices.
pub struct Addresses<'a> {
    pub block: &'a dyn Fn(usize) -> u64,
    pub state: &'a dyn Fn(usize) -> u64,
}

/// Where chunks stand, for layers that remember. A step has a chunk for each row that it has room for.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    pub count: usize,
    /// Addresses of the memory of their states; 0 where there is no chunk.
    pub states: usize,
    /// Their first rows, and the last one's end.
    pub firsts: usize,
    /// The chunk of each row.
    pub of_row: usize,
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
    pub asked: Vec<Asked>,
    pub chunks: Option<Chunks>,
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

/// Addresses of the blocks that items read, of all layers.
struct Blocks<'a> {
    of_index: &'a dyn Fn(usize) -> u64,
    addresses: Vec<u64>,
}

struct Work {
    kv_heads: usize,
    items: Vec<[u32; ITEM]>,
    entries: Vec<Query>,
}

impl Work {
    /// What `heads` query heads ask so many key heads, of all that a batch's tokens may look at.
    fn of(chunks: &[Chunk], heads: usize, kv_heads: usize, blocks: &mut Blocks<'_>) -> Work {
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let busy = rows * (heads / kv_heads) / QUERIES * kv_heads >= BUSY;
        let stretch = if busy { LONG } else { SHORT };
        let queries = queries(chunks, heads / kv_heads);
        let mut work = Work {
            kv_heads,
            items: Vec::new(),
            entries: Vec::new(),
        };
        let mut first = 0;
        for same in chunks.chunk_by(|a, b| prefix_of(a) == prefix_of(b)) {
            let asked: Vec<Query> = queries[first..first + same.len()].concat();
            let mut position = 0;
            for segment in same.first().map_or(&[][..], |chunk| chunk.prefix) {
                work.ask(&asked, segment, (position, segment.len), stretch, blocks);
                position += segment.len;
            }
            first += same.len();
        }
        for (chunk, queries) in chunks.iter().zip(&queries) {
            let keys = (chunk.own_start(), chunk.own.len + chunk.tokens.len());
            work.ask(queries, chunk.own, keys, stretch, blocks);
        }
        work
    }

    /// All of `queries` against the keys of a segment that begins at `position`, of which the first `len` exist.
    fn ask(
        &mut self,
        queries: &[Query],
        segment: &Segment,
        (position, len): (usize, usize),
        stretch: usize,
        all: &mut Blocks<'_>,
    ) {
        for from in (0..len).step_by(stretch) {
            let to = (from + stretch).min(len);
            let first_block = all.addresses.len();
            let blocks = &segment.blocks[from / BLOCK..to.div_ceil(BLOCK)];
            let addresses = blocks.iter().map(|block| (all.of_index)(block.index));
            all.addresses.extend(addresses);
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
    pub fn new(chunks: &[Chunk], wants: &Wants<'_>, addresses: &Addresses<'_>) -> Layout {
        let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let mut blocks = Blocks {
            of_index: addresses.block,
            addresses: Vec::new(),
        };
        let kv_heads = wants.kv_heads.iter();
        let work: Vec<Work> = kv_heads
            .map(|kv_heads| Work::of(chunks, wants.heads, *kv_heads, &mut blocks))
            .collect();
        let wanted: Vec<u32> = wanted_rows(chunks).map(|row| row as u32).collect();
        let is_step = chunks.len() == rows && wanted.len() == rows;
        let of_work = |work: &Work| RoomOfAsked {
            items: work.items.len(),
            entries: work.entries.len(),
        };
        let exact = Room {
            rows,
            asked: work.iter().map(of_work).collect(),
        };
        let room = if is_step { exact.rounded() } else { exact };

        let mut layout = Layout {
            rows,
            wanted_count: wanted.len(),
            is_step,
            ..Layout::default()
        };
        let slots = chunks.iter().flat_map(|c| c.own.len..c.own.len + c.tokens.len());
        let row_blocks = chunks.iter().flat_map(|chunk| {
            let slots = chunk.own.len..chunk.own.len + chunk.tokens.len();
            slots.map(|slot| (addresses.block)(chunk.own.blocks[slot / BLOCK].index))
        });
        // Addresses are aligned; those of the items' blocks come last, as their number changes from step to step.
        layout.row_blocks = layout.put(row_blocks.flat_map(halves), 2 * room.rows);
        layout.chunks = wants.states.then(|| {
            let count = if is_step { room.rows } else { chunks.len() };
            layout.put_chunks(chunks, count, addresses.state)
        });
        layout.tokens = layout.put(chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()), room.rows);
        layout.positions = layout.put(positions(chunks).map(|position| position as u32), room.rows);
        let growth = wants.growth.iter().map(|factor| factor.to_bits());
        layout.growth = (growth.len() > 0).then(|| layout.put(growth, room.rows));
        layout.slots = layout.put(slots.map(|slot| (slot % BLOCK) as u32), room.rows);
        for (work, room_of) in work.into_iter().zip(&room.asked) {
            let group = wants.heads / work.kv_heads;
            let (starts, lists) = entries_by_query(&work.entries, room.rows, group);
            let entries = work.entries.iter();
            let entries = entries.flat_map(|query| [query.row, query.group_head, query.limit].map(|word| word as u32));
            let asked = Asked {
                kv_heads: work.kv_heads,
                items: layout.put(work.items.into_iter().flatten(), ITEM * room_of.items),
                entries: layout.put(entries, ENTRY * room_of.entries),
                starts: layout.put(starts.into_iter(), room.rows * group + 1),
                lists: layout.put(lists.into_iter(), room_of.entries),
                room: *room_of,
            };
            layout.asked.push(asked);
        }
        layout.wanted = layout.put(wanted.into_iter(), room.rows);
        for rotation in wants.rotations {
            let width = rotation.len() / rows.max(1);
            let at = layout.put(rotation.iter().map(|x| x.to_bits()), width * room.rows);
            layout.rotations.push(at);
            layout.half_widths.push(width / 2);
        }
        layout.words.resize(layout.words.len().next_multiple_of(2), 0);
        let count = 2 * blocks.addresses.len();
        layout.item_blocks = layout.put(blocks.addresses.into_iter().flat_map(halves), count);
        layout.room = room;
        layout
    }

    /// Adds where chunks stand; those beyond have no state, and a row each.
    fn put_chunks(&mut self, chunks: &[Chunk], count: usize, state: &dyn Fn(usize) -> u64) -> Chunks {
        let address = |chunk: &Chunk| chunk.own.state.as_ref().map_or(0, |own| state(own.index));
        let states = self.put(chunks.iter().map(address).flat_map(halves), 2 * count);
        let lens = chunks.iter().map(|chunk| chunk.tokens.len());
        let lens: Vec<usize> = lens.chain(std::iter::repeat(1)).take(count).collect();
        let firsts: Vec<u32> = std::iter::once(0)
            .chain(lens.iter().scan(0, |end, len| {
                *end += *len as u32;
                Some(*end)
            }))
            .collect();
        let of_row = (0u32..)
            .zip(&lens)
            .flat_map(|(chunk, len)| std::iter::repeat_n(chunk, *len));
        let of_row: Vec<u32> = of_row.collect();
        let rows = of_row.len();
        Chunks {
            count,
            states,
            firsts: self.put(firsts.into_iter(), count + 1),
            of_row: self.put(of_row.into_iter(), rows),
        }
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
