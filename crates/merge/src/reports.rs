//! What the kernels of several tensors report, on one stretch of the device's memory, so that the host waits for all of them at once.

use super::device::{Clear, Device};
use crate::recipe::DType;

/// Words of a report before its open entries, and of one of these; as in `device.cu`.
const HEAD_WORDS: usize = 2;
const OPEN_WORDS: usize = 3;

/// Reports of kernels that were launched and are not waited for.
pub(crate) struct Reports {
    address: u64,
    /// In words of 4 bytes.
    room: usize,
    used: usize,
    /// Whose program clears and fetches them.
    dtype: DType,
}

/// Where one of them is.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub address: u64,
    first: usize,
    words: usize,
}

impl Reports {
    /// `None`: the device has no room for any.
    pub fn new<D: Device>(dtype: DType, device: &mut D) -> Result<Option<Self>, D::Error> {
        let room = device.report_bytes() / 4;
        let Some(address) = device.scratch("reports", 4 * room)? else {
            return Ok(None);
        };
        let clear = Clear::new(address, room);
        device.run("clear", dtype, room, bytemuck::bytes_of(&clear), &mut [])?;
        Ok(Some(Reports {
            address,
            room,
            used: 0,
            dtype,
        }))
    }

    /// A place for a report with so many open entries, which is zero before; `None`: there is no room.
    pub fn take(&mut self, open: usize) -> Option<Slot> {
        let words = HEAD_WORDS + OPEN_WORDS * open;
        if self.used + words > self.room {
            return None;
        }
        let slot = Slot {
            address: self.address + 4 * self.used as u64,
            first: self.used,
            words,
        };
        self.used += words;
        Some(slot)
    }

    /// Waits for all kernels.
    pub fn read<D: Device>(&self, device: &mut D) -> Result<Vec<u32>, D::Error> {
        let mut words = vec![0; self.used];
        let fetch = Clear::new(self.address, self.used);
        let bytes = bytemuck::cast_slice_mut(&mut words);
        device.run("fetch", self.dtype, self.used, bytemuck::bytes_of(&fetch), bytes)?;
        Ok(words)
    }
}

/// What a launch found out.
pub(crate) struct Report {
    pub is_finite: bool,
    /// Whether there was room for all open entries.
    pub is_complete: bool,
    /// Model, index and magnitude of each.
    pub open: Vec<[u32; OPEN_WORDS]>,
}

impl Report {
    /// The one in `slot`, of what [`Reports::read`] gave.
    pub fn of(all: &[u32], slot: Slot) -> Self {
        let (head, places) = all[slot.first..slot.first + slot.words].split_at(HEAD_WORDS);
        let places: &[[u32; OPEN_WORDS]] = bytemuck::cast_slice(places);
        let found = head[0] as usize;
        Report {
            is_finite: head[1] == 0,
            is_complete: found <= places.len(),
            open: places[..found.min(places.len())].to_vec(),
        }
    }
}
