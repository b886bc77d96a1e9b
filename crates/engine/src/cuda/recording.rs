//! Recordings of decoding steps (CUDA graphs). A small model's step is hundreds of launches of a few microseconds each; a
//! recording is one.
//!
//! A recording has the addresses of its buffers and weights and the sizes of its grids in it. So it serves batches that fit the same
//! [`Room`], also with other weights, which are written where those before them were; it is forgotten when a buffer has moved and, with
//! all others, when the path has changed.

use std::collections::HashMap;

use super::gpu::Graph;
use super::layout::Room;

/// Recordings at once; each takes some of the device's memory.
const MOST: usize = 128;

#[derive(Default)]
pub struct Recordings {
    /// Under which the recordings hold: the decoder's route, the GPU's moves.
    held: (u64, u64),
    /// Rooms that a step has had; of some there is a recording.
    known: HashMap<Room, Option<Graph>>,
    given_up: bool,
    #[cfg(test)]
    pub replays: usize,
    #[cfg(test)]
    pub made: usize,
}

/// What is known of a room.
pub enum Recorded<'a> {
    Ready(&'a Graph),
    /// A step of this room was computed without a recording.
    Seen,
    No,
}

impl Recordings {
    /// Forgets all recordings if they were made on another route or before a buffer moved.
    pub fn forget_unless(&mut self, route: u64, moves: u64) {
        if self.held != (route, moves) || self.known.len() >= MOST {
            self.known.clear();
            self.held = (route, moves);
        }
    }

    pub fn find(&mut self, room: &Room) -> Recorded<'_> {
        match self.known.get(room) {
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
        #[cfg(test)]
        (self.made += 1);
        self.known.insert(room, Some(graph));
    }

    /// The device does not record: it goes on without.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }
}
