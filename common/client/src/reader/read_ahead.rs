//! Reading ahead of sequential streams: recognised per handle, fetched in parallel into the block cache, within one budget.

use super::block_cache::BLOCK;
use super::plan::ChunkRange;
use crate::client::Inner;
use crate::file::Handle;
use std::sync::Arc;

/// A read this far from where the stream is still belongs to it: the kernel sends reads of one stream out of order.
const SLACK: u64 = 512 << 10;
/// First window, and the least that is fetched at once.
const WINDOW_MIN: u64 = 256 << 10;
/// Most that one fetch has.
const UNIT_MAX: u64 = 2 << 20;
/// A first read smaller than this does not begin a stream by itself.
const FIRST_READ_MIN: u64 = 64 << 10;

/// How a handle is read.
#[derive(Debug, Default)]
pub(crate) struct Pattern {
    /// Where the stream goes on.
    next: u64,
    /// Reads of the stream.
    reads: u32,
    /// Bytes of the stream.
    bytes: u64,
    /// Fetched or being fetched up to here.
    ahead_to: u64,
}

impl Pattern {
    /// A read of `length` bytes at `offset`; answers the range to read ahead.
    fn observe(&mut self, offset: u64, length: u64, window_max: u64) -> Option<(u64, u64)> {
        let end = offset + length;
        let near = offset <= self.next.saturating_add(SLACK) && end.saturating_add(SLACK) >= self.next;
        if !near {
            *self = Pattern {
                next: end,
                ahead_to: end,
                ..Pattern::default()
            };
            return None;
        }
        self.reads += 1;
        self.bytes += length;
        self.next = self.next.max(end);
        if self.reads == 1 && length < FIRST_READ_MIN {
            return None;
        }
        // Never much more than what the stream has shown that it wants.
        let window = (self.bytes * 4).clamp(WINDOW_MIN, window_max.max(WINDOW_MIN));
        self.ahead_to = self.ahead_to.max(self.next);
        let unit = (window / 4).clamp(BLOCK, UNIT_MAX);
        let unit = 1 << unit.ilog2();
        let target = (self.next + window) / unit * unit;
        if target < self.ahead_to + unit {
            return None;
        }
        let from = self.ahead_to;
        self.ahead_to = target;
        Some((from, target))
    }

    /// Only up to `to` could be fetched.
    fn stopped(&mut self, to: u64) {
        self.ahead_to = self.ahead_to.min(to);
    }
}

impl Inner {
    /// Notes a read and fetches what comes next, without waiting.
    pub(crate) fn read_ahead(self: &Arc<Self>, handle: &Arc<Handle>, offset: u64, length: usize) {
        if length == 0 || self.read_ahead_bytes == 0 {
            return;
        }
        let observed = handle
            .pattern
            .lock()
            .observe(offset, length as u64, self.read_ahead_bytes);
        let Some((from, to)) = observed else {
            return;
        };
        let ranges: Vec<(u64, ChunkRange)> = {
            let state = handle.file.state.lock();
            let known = state.map.known_to(from);
            if known < to.min(state.attr.size) {
                // Goes on when the reader itself has asked for the next page of the map.
                handle.pattern.lock().stopped(known);
            }
            let to = to.min(state.attr.size).min(known);
            let overlapping = state.map.overlapping(from, to.max(from));
            overlapping
                .filter_map(|resolved| {
                    resolved.capability.as_ref()?;
                    let offset = resolved.extent.offset.max(from);
                    let end = resolved.extent.end().min(to);
                    Some((offset, ChunkRange::of(resolved, offset, end)?))
                })
                .collect()
        };
        for (offset, range) in ranges {
            if let Err(done) = self.fetch_ahead(&range) {
                handle.pattern.lock().stopped(offset + done);
                return;
            }
        }
    }

    /// Starts fetching a range in units; `Err` with the bytes that were started if the budget is used up.
    fn fetch_ahead(self: &Arc<Self>, range: &ChunkRange) -> Result<(), u64> {
        let (first, to) = range.want;
        let mut from = first;
        while from < to {
            let end = ((from / UNIT_MAX + 1) * UNIT_MAX).min(to);
            let unit = ChunkRange {
                want: (from, end),
                ..range.clone()
            };
            let Ok(permit) = self
                .ahead_budget
                .clone()
                .try_acquire_many_owned((end - from) as u32)
            else {
                return Err(from - first);
            };
            let (_, own) = self.cache.claim(&unit);
            if !own.is_empty() {
                let inner = self.clone();
                self.spawn(async move {
                    let _permit = permit;
                    let Ok(_turn) = inner.ahead_turns.acquire().await else {
                        return;
                    };
                    for running in own {
                        if let Err(error) = inner.run(running, unit.capability.as_ref()).await {
                            tracing::debug!(chunk = %unit.chunk, %error, "reading ahead failed");
                            return;
                        }
                    }
                });
            }
            from = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 32 << 20;

    #[test]
    fn sequential_stream_is_read_ahead_more_and_more_and_never_twice() {
        let mut pattern = Pattern::default();
        let (mut at, mut ahead_to, mut largest) = (0, 0, 0);
        while at < 256 << 20 {
            if let Some((from, to)) = pattern.observe(at, 128 << 10, MAX) {
                assert!(from >= ahead_to && to > from);
                ahead_to = to;
            }
            at += 128 << 10;
            largest = largest.max(ahead_to.saturating_sub(at));
        }
        assert!(largest <= MAX && largest > MAX / 2, "{largest}");
    }

    #[test]
    fn random_reads_and_a_small_first_read_fetch_nothing_ahead() {
        let mut pattern = Pattern::default();
        assert_eq!(pattern.observe(0, 4096, MAX), None);
        for i in 1..100u64 {
            let offset = (i * 7919 % 100) * (10 << 20) + (5 << 20);
            assert_eq!(pattern.observe(offset, 4096, MAX), None);
        }
    }

    #[test]
    fn reads_of_one_stream_may_arrive_out_of_order() {
        let mut pattern = Pattern::default();
        pattern.observe(0, 128 << 10, MAX);
        pattern.observe(256 << 10, 128 << 10, MAX);
        pattern.observe(128 << 10, 128 << 10, MAX);
        pattern.observe(384 << 10, 128 << 10, MAX);
        assert_eq!(pattern.reads, 4);
    }
}
