//! Buffers of written data, used again: touching fresh memory costs more than copying into it.

use dfs_common::limits::WIRE_FRAME_BYTES;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Buffers kept for the next writer: 32 MiB.
const KEPT_MAX: usize = (32 << 20) / WIRE_FRAME_BYTES;
/// Smallest buffer: a small file does not need more.
const BUFFER_BYTES_MIN: usize = 4096;

/// Free buffers of [`WIRE_FRAME_BYTES`].
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that goes back to its pool.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Weak<Pool>,
}

impl Pool {
    /// An empty buffer for about `wanted` bytes: 4 KiB to [`WIRE_FRAME_BYTES`].
    pub(crate) fn take(self: &Arc<Self>, wanted: usize) -> Buffer {
        let capacity = wanted
            .clamp(BUFFER_BYTES_MIN, WIRE_FRAME_BYTES)
            .next_power_of_two()
            .min(WIRE_FRAME_BYTES);
        let kept = (capacity == WIRE_FRAME_BYTES)
            .then(|| self.free.lock().pop())
            .flatten();
        Buffer {
            bytes: kept.unwrap_or_else(|| Vec::with_capacity(capacity)),
            pool: Arc::downgrade(self),
        }
    }

    /// Gives the memory back to the system.
    pub(crate) fn trim(&self) {
        let free = std::mem::take(&mut *self.free.lock());
        drop(free);
    }
}

impl Buffer {
    /// Bytes that still fit without growing.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity().min(WIRE_FRAME_BYTES) - self.bytes.len()
    }
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room(), "buffers never grow");
        self.bytes.extend_from_slice(bytes);
    }
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() != WIRE_FRAME_BYTES {
            return;
        }
        if let Some(pool) = self.pool.upgrade() {
            let mut free = pool.free.lock();
            if free.len() < KEPT_MAX {
                let mut bytes = std::mem::take(&mut self.bytes);
                bytes.clear();
                free.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_used_again_and_trimmed() {
        let pool = Arc::new(Pool::default());
        let mut buffer = pool.take(1 << 30);
        assert_eq!(buffer.room(), WIRE_FRAME_BYTES);
        buffer.push(b"abc");
        let at = buffer.as_ref().as_ptr();
        drop(buffer);
        let again = pool.take(WIRE_FRAME_BYTES);
        assert_eq!((again.as_ref().as_ptr(), again.as_ref().len()), (at, 0));
        drop(again);
        drop(pool.take(10));
        assert_eq!(pool.free.lock().len(), 1);
        pool.trim();
        assert!(pool.free.lock().is_empty());
    }
}
