//! The way of weights to an engine: a file in memory with two slots. One is filled while the engine takes the other.
//!
//! Elements lie there little-endian in the run's dtype, each piece at a multiple of [`ALIGNMENT`] bytes; a tensor that is
//! larger than a slot comes in several pieces. The file is written and never mapped here; the engine may map it.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::protocol::Piece;
use crate::checkpoint::DType;

/// What a piece begins at a multiple of: enough for any element, and for vector loads.
pub const ALIGNMENT: usize = 64;

/// A slot, where there is room for that.
const SLOT_BYTES: usize = 64 << 20;

/// The smallest slot that is worth filling.
const LEAST_SLOT_BYTES: usize = 1 << 20;

/// Slots of the file.
const SLOTS: usize = 2;

/// The file, and the slot that is being filled.
pub struct Ring {
    file: File,
    dtype: DType,
    slot_bytes: usize,
    slot: usize,
    filled: usize,
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
}

impl Ring {
    /// Makes a file for the tensors of a model, which take `total_bytes`; on a file system with little room it is smaller.
    ///
    /// # Errors
    /// There is no room for it at all.
    pub fn create(path: &Path, dtype: DType, total_bytes: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        let free = rustix::fs::fstatvfs(&file)?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        // Half of what is free is left to others.
        let most = usize::try_from(free / (2 * SLOTS as u64)).unwrap_or(usize::MAX);
        let slot_bytes = aligned(total_bytes).clamp(LEAST_SLOT_BYTES, SLOT_BYTES);
        let slot_bytes = slot_bytes.min(most) / ALIGNMENT * ALIGNMENT;
        if slot_bytes < LEAST_SLOT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{free} bytes are free, and {} are needed", 2 * SLOTS * LEAST_SLOT_BYTES),
            ));
        }
        file.set_len((SLOTS * slot_bytes) as u64)?;
        Ok(Self {
            file,
            dtype,
            slot_bytes,
            slot: 0,
            filled: 0,
            pieces: Vec::new(),
            bytes: Vec::new(),
        })
    }

    pub fn size_bytes(&self) -> u64 {
        (SLOTS * self.slot_bytes) as u64
    }

    /// Puts as much of a tensor's elements, from one on, into the slot as there is room for; gives how many that were.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, tensor: &str, data: &[f32], from: usize) -> io::Result<usize> {
        let size = self.dtype.size_bytes();
        let count = (data.len() - from).min((self.slot_bytes - self.filled) / size);
        if count == 0 {
            return Ok(0);
        }
        self.bytes.resize(count * size, 0);
        self.dtype.narrow(&data[from..from + count], &mut self.bytes);
        let at = (self.slot * self.slot_bytes + self.filled) as u64;
        self.file.write_all_at(&self.bytes, at)?;
        self.pieces.push(Piece {
            tensor: tensor.into(),
            from,
            count,
            at,
        });
        self.filled = aligned(self.filled + self.bytes.len()).min(self.slot_bytes);
        Ok(count)
    }

    /// Whether there is anything in the slot.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What is in the slot; the next one is filled from now on.
    pub fn turn(&mut self) -> Vec<Piece> {
        self.slot = (self.slot + 1) % SLOTS;
        self.filled = 0;
        std::mem::take(&mut self.pieces)
    }
}

fn aligned(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an engine sees of a tensor: its pieces, put together.
    fn taken(path: &Path, pieces: &[Piece], elements: usize) -> Vec<f32> {
        let file = std::fs::read(path).unwrap();
        let mut whole = vec![f32::NAN; elements];
        for piece in pieces {
            assert_eq!(piece.at as usize % ALIGNMENT, 0);
            let bytes = &file[piece.at as usize..][..4 * piece.count];
            for (place, four) in whole[piece.from..].iter_mut().zip(bytes.chunks_exact(4)) {
                *place = f32::from_le_bytes(four.try_into().unwrap());
            }
        }
        whole
    }

    #[test]
    fn a_tensor_larger_than_a_slot_comes_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::create(&path, DType::F32, 1).unwrap();
        assert_eq!(ring.size_bytes(), 2 << 20, "two slots of the smallest size");
        let (small, large): (Vec<f32>, Vec<f32>) = (vec![1.5; 3], (0..400_000).map(|i| i as f32).collect());
        assert_eq!(ring.put("small", &small, 0).unwrap(), 3);
        let first = ring.put("large", &large, 0).unwrap();
        assert_eq!(first, (1 << 18) - 16, "what is left beside the first one's 64 bytes");
        assert_eq!(ring.put("large", &large, first).unwrap(), 0);
        let mut pieces = ring.turn();
        let rest = ring.put("large", &large, first).unwrap();
        assert_eq!(first + rest, large.len());
        pieces.extend(ring.turn());
        assert!(ring.is_empty() && pieces.len() == 3);
        assert_eq!(taken(&path, &pieces[..1], 3), small);
        assert_eq!(taken(&path, &pieces[1..], large.len()), large);
    }

    #[test]
    fn elements_are_rounded_to_the_dtype() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::create(&path, DType::Bf16, 1).unwrap();
        ring.put("t", &[1.0, 1.0 + 1.0 / 512.0], 0).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[..4], [0x80, 0x3f, 0x80, 0x3f]);
    }
}
