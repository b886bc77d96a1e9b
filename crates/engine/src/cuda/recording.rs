//! Recordings of decoding steps (CUDA graphs). A small model's step is hundreds of launches of a few microseconds each; a
//! recording is one.
//!
//! A recording has the addresses of its buffers and the sizes of its grids in it. So it serves batches that fit the same
//! [`Room`], and is forgotten when a buffer has moved and, with all others, when a weight or the path has changed.

use std::collections::HashMap;

use super::gpu::Graph;
use super::layout::Room;

/// Recordings at once; each takes some of the device's memory.
const MOST: usize = 128;

#[derive(Default)]
pub struct Recordings {
    /// Under which the recordings hold: the decoder's epoch, the GPU's moves.
    held: (u64, u64),
    /// Rooms that a step has had; of some there is a recording.
    known: HashMap<Room, Option<Graph>>,
    given_up: bool,
    #[cfg(test)]
    pub replays: usize,
}

/// What is known of a room.
pub enum Recorded<'a> {
    Ready(&'a Graph),
    /// A step of this room was computed without a recording.
    Seen,
    No,
}

impl Recordings {
    /// Forgets all recordings if they were made under another epoch or before a buffer moved.
    pub fn forget_unless(&mut self, epoch: u64, moves: u64) {
        if self.held != (epoch, moves) || self.known.len() >= MOST {
            self.known.clear();
            self.held = (epoch, moves);
        }
    }

    pub fn find(&mut self, room: Room) -> Recorded<'_> {
        match self.known.get(&room) {
            Some(Some(graph)) => {
                #[cfg(test)]
                (self.replays += 1);
                Recorded::Ready(graph)
            }
            Some(None) if !self.given_up => Recorded::Seen,
            _ => Recorded::No,
        }
    }

    pub fn see(&mut self, room: Room) {
        self.known.insert(room, None);
    }

    pub fn keep(&mut self, room: Room, graph: Graph) {
        self.known.insert(room, Some(graph));
    }

    /// The device does not record: it goes on without.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }
}
