//! A ring of host memory that the device copies from while the host writes the next piece. Which parts are free again is worked out
//! here; the memory itself, and waiting, are [`gpu`](super::gpu)'s.

use std::collections::VecDeque;
use std::ops::Range;

/// Pieces begin at a multiple of so many bytes.
const ALIGNED: usize = 256;

/// Which parts of some memory are being copied. Copies end in the order in which they were begun.
pub struct Ring<T> {
    len: usize,
    next: usize,
    /// With what tells that the copy is over; the oldest first.
    under_way: VecDeque<(Range<usize>, T)>,
}

impl<T> Ring<T> {
    /// Over `len` bytes.
    pub fn new(len: usize) -> Self {
        Ring {
            len,
            next: 0,
            under_way: VecDeque::new(),
        }
    }

    /// A place for `bytes`, of which there are at most as many as there is memory. It may be written once `wait` was called with
    /// the youngest copy from there; `None`: at once.
    pub fn take(&mut self, bytes: usize) -> (Range<usize>, Option<T>) {
        debug_assert!(bytes <= self.len);
        let start = if self.next + bytes <= self.len { self.next } else { 0 };
        let place = start..start + bytes;
        self.next = place.end.next_multiple_of(ALIGNED);
        let meets = |(other, _): &(Range<usize>, T)| other.start < place.end && place.start < other.end;
        // With the youngest, all that are older are over.
        let over = self
            .under_way
            .iter()
            .rposition(meets)
            .map_or(0, |youngest| youngest + 1);
        let awaited = self.under_way.drain(..over).next_back().map(|(_, copy)| copy);
        (place, awaited)
    }

    /// A copy from a place has begun.
    pub fn begun(&mut self, place: Range<usize>, copy: T) {
        self.under_way.push_back((place, copy));
    }

    /// The copy that ends last.
    pub fn youngest(&self) -> Option<&T> {
        self.under_way.back().map(|(_, copy)| copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy reads the memory as late as it may: when somebody waits for it, or for one after it.
    #[test]
    fn what_is_still_copied_is_not_written() {
        const LEN: usize = 5000;
        let (mut ring, mut memory) = (Ring::new(LEN), vec![0u32; LEN]);
        let mut late: VecDeque<(usize, Range<usize>, u32)> = VecDeque::new();
        let mut copied = 0;
        let mut copy_until = |late: &mut VecDeque<(usize, Range<usize>, u32)>, memory: &[u32], last: usize| {
            while late.front().is_some_and(|(copy, ..)| *copy <= last) {
                let (_, place, value) = late.pop_front().unwrap();
                assert!(memory[place].iter().all(|x| *x == value), "copy {value}");
                copied += 1;
            }
        };
        let (mut waits, mut state) = (0, 9u32);
        for piece in 0..10_000usize {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Many small ones, some as large as there is room, some empty.
            let bytes = [state as usize % 300, state as usize % (LEN + 1), LEN / 4, 0][(state >> 16) as usize % 4];
            let (place, awaited) = ring.take(bytes);
            assert!(place.len() == bytes && place.end <= LEN);
            if let Some(copy) = awaited {
                copy_until(&mut late, &memory, copy);
                waits += 1;
            }
            memory[place.clone()].fill(piece as u32);
            late.push_back((piece, place.clone(), piece as u32));
            ring.begun(place, piece);
        }
        copy_until(&mut late, &memory, *ring.youngest().unwrap());
        assert_eq!((copied, late.len()), (10_000, 0));
        assert!(waits > 100 && waits < 9_000, "{waits} waits");
    }
}
