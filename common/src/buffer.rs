//! Buffers that are used again: fresh memory costs more than filling it.
//!
//! Their memory starts where direct input and output wants it, so that content goes from a socket to the disk without being copied.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

/// Alignment of a buffer's start, and of what direct input and output takes: no disk in use has larger sectors.
pub const ALIGNMENT: usize = 4096;

/// A bounded pool of buffers of one size. Clones share it.
#[derive(Clone, Debug)]
pub struct Buffers {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    size: usize,
    kept_max: usize,
    kept: Mutex<Vec<Memory>>,
}

/// Memory of a pool's size that starts at a multiple of [`ALIGNMENT`]; empty once it went back.
#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    start: usize,
}

impl Memory {
    fn aligned(size: usize) -> Self {
        let bytes = vec![0; size + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        // `align_offset` may refuse, in theory; the memory is then as good, but for direct writes.
        let start = if start < ALIGNMENT { start } else { 0 };
        Memory { bytes, start }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    length: usize,
    pool: Arc<Pool>,
}

impl Buffers {
    /// A pool of buffers of `size` bytes, of which it keeps at most `kept_max` when nobody uses them.
    pub fn new(size: usize, kept_max: usize) -> Self {
        Buffers {
            pool: Arc::new(Pool {
                size,
                kept_max,
                kept: Mutex::default(),
            }),
        }
    }

    /// A buffer of `length` bytes with arbitrary content. It occupies the pool's size until it goes back.
    ///
    /// # Panics
    /// If `length` is above the pool's size.
    pub fn take(&self, length: usize) -> Buffer {
        assert!(length <= self.pool.size, "a buffer of this pool is smaller");
        let kept = self.pool.kept.lock().pop();
        Buffer {
            memory: kept.unwrap_or_else(|| Memory::aligned(self.pool.size)),
            length,
            pool: self.pool.clone(),
        }
    }

    /// Buffers that nobody uses.
    pub fn kept(&self) -> usize {
        self.pool.kept.lock().len()
    }
}

impl Buffer {
    /// The bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes[self.memory.start..][..self.length]
    }

    /// The filled buffer, shared without copying; it goes back when the last part of it is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory.bytes[self.memory.start..][..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        if kept.len() < self.pool.kept_max {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again_up_to_the_bound() {
        let buffers = Buffers::new(10_000, 2);
        let taken: Vec<Buffer> = (0..3).map(|_| buffers.take(5000)).collect();
        let starts: Vec<usize> = taken
            .iter()
            .map(|buffer| buffer.as_ref().as_ptr().addr())
            .collect();
        assert!(starts.iter().all(|start| start.is_multiple_of(ALIGNMENT)));
        let shared: Vec<Bytes> = taken.into_iter().map(Buffer::freeze).collect();
        assert!(shared.iter().all(|bytes| bytes.len() == 5000));
        let part = shared[0].slice(10..20);
        assert_eq!(buffers.kept(), 0);
        drop(shared);
        assert_eq!(
            buffers.kept(),
            2,
            "a part is still in use, one is above the bound or used"
        );
        drop(part);
        assert_eq!(buffers.kept(), 2);
        let again = buffers.take(10_000);
        assert!(starts.contains(&again.as_ref().as_ptr().addr()));
    }
}
