//! Keys and values in blocks of [`BLOCK`] tokens: a pool with a fixed budget, and segments that rows own or share. Where a
//! model has layers that remember instead of attending, a segment has their state after its last token, and whoever goes on
//! from a shared one begins with a copy of it.
//!
//! A block holds every layer's keys and values of its tokens in the shape that attention reads them: keys with the token
//! as the fastest index (scores of many tokens at once), values with the head's dimension fastest. A shared prefix is an
//! `Arc<Segment>` that rows refer to; nothing is ever copied for a row.

use std::sync::Arc;

use heterosis_isa::{Isa, with_set};

use super::kernels::Tiles;

/// Tokens in a block.
pub(super) const BLOCK: usize = 32;

/// Memory for the keys and values of [`BLOCK`] tokens.
pub(super) struct Block {
    /// Under which a device finds its own memory for the block.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub index: usize,
    /// Empty where a device keeps keys and values itself.
    pub values: Box<[f32]>,
}

/// The heads whose keys and values a layer keeps, and where they lie in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KvHeads {
    /// Where the layer begins.
    start: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Dimensions of a value that stand side by side.
    pub value_width: usize,
    /// `head_dim` rounded up to a multiple of `value_width`; the padding stays zero.
    pub value_dim: usize,
}

impl KvHeads {
    fn len(&self) -> usize {
        self.kv_heads * (self.head_dim + self.value_dim) * BLOCK
    }
}

/// Where things lie in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KvShape {
    /// Whose kernels read it.
    pub isa: Isa,
    /// Of each layer that keeps keys and values, by place on the path.
    pub layers: Arc<[KvHeads]>,
    /// Keys of this many tokens stand side by side.
    pub key_width: usize,
    /// Bytes of one element where a device keeps keys, values and states itself, unpadded.
    pub device_element: Option<usize>,
    /// Numbers of what a row's layers remember that do not attend; 0 where all do.
    pub state_len: usize,
}

impl KvShape {
    /// Laid out for the kernels of `isa`; `layers` gives the heads of each layer and their dimensions.
    pub fn new(isa: Isa, layers: impl Iterator<Item = (usize, usize)>, device_element: Option<usize>) -> Self {
        let (key_width, widths) = with_set!(isa, S => (S::KEYS, S::VALUES));
        let mut start = 0;
        let layers = layers.map(|(kv_heads, head_dim)| {
            let fits = |width: &usize| head_dim.is_multiple_of(*width);
            let value_width = widths.into_iter().find(fits).unwrap_or(widths[2]);
            let heads = KvHeads {
                start,
                kv_heads,
                head_dim,
                value_width,
                value_dim: head_dim.next_multiple_of(value_width),
            };
            start += heads.len();
            heads
        });
        KvShape {
            isa,
            layers: layers.collect(),
            key_width,
            device_element,
            state_len: 0,
        }
    }

    /// Numbers in a block.
    fn len(&self) -> usize {
        self.layers.last().map_or(0, |heads| heads.start + heads.len())
    }

    pub fn block_bytes(&self) -> u64 {
        let bytes = match self.device_element {
            Some(element) => self.device_start(self.layers.len()) * element,
            None => self.len() * size_of::<f32>(),
        };
        bytes as u64
    }

    /// Elements of a device's block before those of a layer.
    pub fn device_start(&self, layer: usize) -> usize {
        let unpadded = |heads: &KvHeads| 2 * heads.kv_heads * heads.head_dim * BLOCK;
        self.layers[..layer].iter().map(unpadded).sum()
    }

    /// The bytes of what a row's layers remember.
    pub fn state_bytes(&self) -> u64 {
        (self.state_len * size_of::<f32>()) as u64
    }

    /// What the pool counts by: the bytes of a block, also where no layer keeps keys.
    pub fn unit_bytes(&self) -> u64 {
        self.block_bytes().max(1)
    }

    /// What a segment's state counts as, in blocks.
    pub fn state_blocks(&self) -> usize {
        self.state_bytes().div_ceil(self.unit_bytes()) as usize
    }

    fn block(&self, index: usize) -> Block {
        let len = match self.device_element {
            Some(_) => 0,
            None => self.len(),
        };
        Block {
            index,
            values: vec![0.0; len].into(),
        }
    }

    fn state(&self, index: usize) -> State {
        let len = match self.device_element {
            Some(_) => 0,
            None => self.state_len,
        };
        State {
            index,
            values: vec![0.0; len].into(),
        }
    }

    /// Keys of one head: `[BLOCK / key_width][head_dim][key_width]`.
    pub fn keys<'a>(&self, block: &'a [f32], layer: usize, head: usize) -> &'a [f32] {
        let heads = &self.layers[layer];
        let start = heads.start + head * heads.head_dim * BLOCK;
        &block[start..start + heads.head_dim * BLOCK]
    }

    /// Values of one head: `[value_dim / value_width][BLOCK][value_width]`.
    pub fn values<'a>(&self, block: &'a [f32], layer: usize, head: usize) -> &'a [f32] {
        let heads = &self.layers[layer];
        let start = heads.start + (heads.kv_heads * heads.head_dim + head * heads.value_dim) * BLOCK;
        &block[start..start + heads.value_dim * BLOCK]
    }

    /// Writes one token's keys and values (`[kv_heads × head_dim]` each) into slot `t` of a block.
    pub fn write(&self, block: &mut [f32], layer: usize, t: usize, keys: &[f32], values: &[f32]) {
        let heads = self.layers[layer];
        let (d, width) = (heads.head_dim, heads.value_width);
        let (key_part, value_part) =
            block[heads.start..heads.start + heads.len()].split_at_mut(heads.kv_heads * d * BLOCK);
        let first = t / self.key_width * d * self.key_width + t % self.key_width;
        for (head, part) in keys.chunks_exact(d).zip(key_part.chunks_exact_mut(d * BLOCK)) {
            for (slot, k) in part[first..].iter_mut().step_by(self.key_width).zip(head) {
                *slot = *k;
            }
        }
        for (head, part) in values
            .chunks_exact(d)
            .zip(value_part.chunks_exact_mut(heads.value_dim * BLOCK))
        {
            let panels = part.chunks_exact_mut(BLOCK * width);
            for (from, panel) in head.chunks(width).zip(panels) {
                panel[t * width..][..from.len()].copy_from_slice(from);
            }
        }
    }
}

/// What the layers of a row remember that do not attend.
pub(super) struct State {
    /// Under which a device finds its own memory for it. It begins there with a copy of the shared segment's before it, or
    /// with zeros, when the first token of its segment is computed.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub index: usize,
    /// By stop of the path at such a layer; empty where a device keeps it.
    pub values: Box<[f32]>,
}

/// Keys and values of consecutive tokens, and what the layers that do not attend remember after the last of them.
#[derive(Default)]
pub(super) struct Segment {
    pub blocks: Vec<Block>,
    pub len: usize,
    /// Where there are such layers.
    pub state: Option<State>,
}

impl Segment {
    /// Forgets all tokens of a segment that none came before.
    pub fn clear(&mut self) {
        self.len = 0;
        if let Some(state) = &mut self.state {
            state.values.fill(0.0);
        }
    }
}

/// Blocks needed for `tokens` tokens.
pub(super) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}

/// Hands out blocks up to a budget; what comes back is used again.
pub(super) struct Pool {
    shape: KvShape,
    free: Vec<Block>,
    free_states: Vec<State>,
    /// Blocks and states that were ever made.
    made: usize,
    states_made: usize,
    used: usize,
    /// The most that was used at a time, in this call and those before it, since somebody asked.
    most_used: usize,
    capacity: usize,
}

impl Pool {
    /// A pool of at most `memory_bytes`; takes over the memory of an older one where the blocks are alike.
    pub fn new(shape: KvShape, memory_bytes: u64, older: Option<Pool>) -> Self {
        let capacity = usize::try_from(memory_bytes / shape.unit_bytes()).unwrap_or(usize::MAX);
        let older = older.filter(|pool| pool.shape == shape);
        let state_blocks = shape.state_blocks();
        let mut pool = older.unwrap_or_else(|| Pool {
            shape,
            free: Vec::new(),
            free_states: Vec::new(),
            made: 0,
            states_made: 0,
            used: 0,
            most_used: 0,
            capacity,
        });
        pool.free.truncate(capacity);
        pool.free_states.truncate(capacity / state_blocks.max(1));
        (pool.used, pool.capacity) = (0, capacity);
        pool
    }

    /// Memory that was used at a time, at most, since this was asked last.
    pub fn take_peak_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.most_used) as u64 * self.shape.unit_bytes()
    }

    /// Memory that is held for blocks to come.
    pub fn held_bytes(&self) -> u64 {
        self.made as u64 * self.shape.block_bytes() + self.states_made as u64 * self.shape.state_bytes()
    }

    /// Blocks that can still be taken.
    pub fn available(&self) -> usize {
        self.capacity - self.used
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A segment with room for `tokens` that come after a prefix, whose state it begins with; `None` when the budget does not
    /// allow it.
    pub fn segment(&mut self, tokens: usize, prefix: &[Arc<Segment>]) -> Option<Segment> {
        let (count, state) = (blocks_for(tokens), self.shape.state_blocks());
        if count + state > self.available() {
            return None;
        }
        self.used += count + state;
        self.most_used = self.most_used.max(self.used);
        let blocks = (0..count)
            .map(|_| {
                self.free.pop().unwrap_or_else(|| {
                    self.made += 1;
                    self.shape.block(self.made - 1)
                })
            })
            .collect();
        Some(Segment {
            blocks,
            len: 0,
            state: self.state_after(prefix.last()),
        })
    }

    /// A copy of what was remembered at the end of a segment, or nothing yet.
    fn state_after(&mut self, before: Option<&Arc<Segment>>) -> Option<State> {
        if self.shape.state_len == 0 {
            return None;
        }
        let mut state = self.free_states.pop().unwrap_or_else(|| {
            self.states_made += 1;
            self.shape.state(self.states_made - 1)
        });
        match before.and_then(|before| before.state.as_ref()) {
            Some(before) => state.values.copy_from_slice(&before.values),
            None => state.values.fill(0.0),
        }
        Some(state)
    }

    pub fn release(&mut self, segment: Segment) {
        self.used -= segment.blocks.len() + self.shape.state_blocks();
        self.free.extend(segment.blocks);
        self.free_states.extend(segment.state);
    }

    /// Gives up one holder of a shared segment; the last one returns its blocks.
    pub fn release_shared(&mut self, segment: Arc<Segment>) {
        if let Some(segment) = Arc::into_inner(segment) {
            self.release(segment);
        }
    }
}
