//! Buffers for reads, used again: fresh memory costs more than reading it from the page cache.

use bytes::Bytes;
use dfs_common::limits::WIRE_FRAME_BYTES;
use parking_lot::Mutex;
use std::sync::Arc;

/// Buffers that are kept when nobody uses them: 4 MiB.
const KEPT_MAX: usize = 16;

/// A bounded pool of buffers of [`WIRE_FRAME_BYTES`].
#[derive(Clone, Default)]
pub struct Buffers {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A buffer that goes back to its pool.
pub struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes, at most [`WIRE_FRAME_BYTES`], with arbitrary content.
    pub fn take(&self, length: usize) -> Buffer {
        debug_assert!(length <= WIRE_FRAME_BYTES, "a buffer holds one piece");
        let kept = self.kept.lock().pop();
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; WIRE_FRAME_BYTES]),
            length,
            pool: self.clone(),
        }
    }
}

impl Buffer {
    /// The bytes, to be filled.
    pub fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
    /// The filled buffer, shared without copying; it goes back when the last part of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        if kept.len() < KEPT_MAX {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}
