//! Blocks of chunks in memory: least recently used ones go first, within a budget of bytes.
//!
//! Chunks are immutable, so a block never needs invalidation. A block that is being fetched is fetched once: others wait for
//! it. Sharded, so that readers on several threads seldom meet.

use super::plan::ChunkRange;
use bytes::Bytes;
use dfs_common::ChunkId;
use dfs_common::limits::FRAME_BYTES;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes of a block: a frame of the chunk file, which a datanode verifies as a whole.
pub(crate) const BLOCK: u64 = FRAME_BYTES as u64;
const SHARDS: usize = 16;
/// What a block costs beside its bytes.
const BLOCK_OVERHEAD: usize = 160;
/// A block this small does not keep a larger buffer alive: it is copied.
const COPY_BELOW: usize = 16 << 10;

type Key = (ChunkId, u64);

/// Part of a block's bytes, as far as they were known to exist.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Chunk offset of the first byte.
    pub(crate) from: u64,
    pub(crate) bytes: Bytes,
}

impl Block {
    fn slice(&self, from: u64, to: u64) -> Option<Bytes> {
        let end = self.from + self.bytes.len() as u64;
        (self.from <= from && to <= end).then(|| {
            self.bytes
                .slice((from - self.from) as usize..(to - self.from) as usize)
        })
    }
}

#[derive(Default)]
struct Shard {
    blocks: Option<LruCache<Key, Block>>,
    bytes: usize,
    running: HashMap<Key, Arc<Fetch>>,
}

/// Blocks in memory.
pub(crate) struct BlockCache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
}

/// Adjacent blocks of a chunk that somebody fetches.
pub(crate) struct Fetch {
    pub(crate) chunk: ChunkId,
    first: u64,
    /// Chunk offsets that exist.
    exists: (u64, u64),
    progress: Mutex<Progress>,
    changed: Notify,
}

struct Progress {
    blocks: Vec<Option<Block>>,
    /// Nobody fetches what is missing any more.
    over: bool,
}

/// A wanted piece.
pub(crate) enum Slot {
    Ready(Bytes),
    /// Comes with this fetch: chunk offsets from and to, within one block.
    Wait(Arc<Fetch>, u64, u64),
}

impl Fetch {
    /// Chunk offsets to be fetched, from and to.
    pub(crate) fn range(&self) -> (u64, u64) {
        let blocks = self.progress.lock().blocks.len() as u64;
        let from = (self.first * BLOCK).max(self.exists.0);
        (from, ((self.first + blocks) * BLOCK).min(self.exists.1))
    }

    /// Waits for a piece of one block; `None` if the fetch ended without it.
    pub(crate) async fn wait(&self, from: u64, to: u64) -> Option<Bytes> {
        let index = (from / BLOCK - self.first) as usize;
        let mut changed = std::pin::pin!(self.changed.notified());
        loop {
            changed.as_mut().enable();
            {
                let progress = self.progress.lock();
                if let Some(Some(block)) = progress.blocks.get(index) {
                    return block.slice(from, to);
                }
                if progress.over {
                    return None;
                }
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }
}

impl BlockCache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        BlockCache {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) / SHARDS,
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let spread = key.0.sequence().wrapping_mul(31).wrapping_add(key.1);
        self.shards[spread as usize % SHARDS].lock()
    }

    /// Finds the wanted range block by block. What neither is here nor on its way is claimed: the caller must run the
    /// returned fetches (or drop their [`Running`]), and run them before it waits for others'.
    pub(crate) fn claim(self: &Arc<Self>, range: &ChunkRange) -> (Vec<Slot>, Vec<Running>) {
        let (want_from, want_to) = range.want;
        let mut slots = Vec::new();
        let mut own: Vec<Running> = Vec::new();
        let mut growing = false;
        let mut index = want_from / BLOCK;
        while index * BLOCK < want_to {
            let from = want_from.max(index * BLOCK);
            let to = want_to.min((index + 1) * BLOCK);
            let key = (range.chunk, index);
            let mut shard = self.shard(&key);
            let cached = shard
                .blocks
                .as_mut()
                .and_then(|blocks| blocks.get(&key)?.slice(from, to));
            if let Some(bytes) = cached {
                slots.push(Slot::Ready(bytes));
                growing = false;
            } else if let Some(fetch) = shard.running.get(&key)
                && fetch.exists.0 <= from
                && to <= fetch.exists.1
            {
                slots.push(Slot::Wait(fetch.clone(), from, to));
                growing = false;
            } else {
                if !growing {
                    let fetch = Fetch {
                        chunk: range.chunk,
                        first: index,
                        exists: range.exists,
                        progress: Mutex::new(Progress {
                            blocks: Vec::new(),
                            over: false,
                        }),
                        changed: Notify::new(),
                    };
                    own.push(Running {
                        cache: self.clone(),
                        fetch: Arc::new(fetch),
                    });
                }
                growing = true;
                let fetch = own.last().expect("it was just made").fetch.clone();
                fetch.progress.lock().blocks.push(None);
                shard.running.insert(key, fetch.clone());
                slots.push(Slot::Wait(fetch, from, to));
            }
            index += 1;
        }
        (slots, own)
    }

    /// Takes a block that was fetched or written.
    pub(crate) fn insert(&self, chunk: ChunkId, index: u64, mut block: Block) {
        let cost = |block: &Block| block.bytes.len() + BLOCK_OVERHEAD;
        if cost(&block) > self.shard_bytes_max {
            return;
        }
        if block.bytes.len() < COPY_BELOW {
            block.bytes = Bytes::copy_from_slice(&block.bytes);
        }
        let key = (chunk, index);
        let mut shard = self.shard(&key);
        let mut bytes = shard.bytes + cost(&block);
        let blocks = shard.blocks.get_or_insert_with(LruCache::unbounded);
        if let Some(old) = blocks.put(key, block) {
            bytes -= cost(&old);
        }
        while bytes > self.shard_bytes_max
            && let Some((_, old)) = blocks.pop_lru()
        {
            bytes -= cost(&old);
        }
        shard.bytes = bytes;
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

/// A claimed fetch: ends when dropped, whatever is missing then.
pub(crate) struct Running {
    cache: Arc<BlockCache>,
    pub(crate) fetch: Arc<Fetch>,
}

impl Running {
    /// The block at chunk offset `from` is here.
    pub(crate) fn arrived(&self, from: u64, bytes: Bytes) {
        let index = from / BLOCK;
        let block = Block { from, bytes };
        self.cache.insert(self.fetch.chunk, index, block.clone());
        self.fetch.progress.lock().blocks[(index - self.fetch.first) as usize] = Some(block);
        self.forget(index);
        self.fetch.changed.notify_waiters();
    }

    fn forget(&self, index: u64) {
        let key = (self.fetch.chunk, index);
        let mut shard = self.cache.shard(&key);
        if shard
            .running
            .get(&key)
            .is_some_and(|running| Arc::ptr_eq(running, &self.fetch))
        {
            shard.running.remove(&key);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let missing: Vec<u64> = {
            let mut progress = self.fetch.progress.lock();
            progress.over = true;
            let missing = progress
                .blocks
                .iter()
                .enumerate()
                .filter(|(_, block)| block.is_none());
            missing.map(|(i, _)| self.fetch.first + i as u64).collect()
        };
        for index in missing {
            self.forget(index);
        }
        self.fetch.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::{PgId, SessionId};

    fn range(sequence: u64, want: (u64, u64), exists: (u64, u64)) -> ChunkRange {
        ChunkRange {
            chunk: ChunkId::new(SessionId(1), sequence, PgId(1)),
            capability: None,
            want,
            exists,
        }
    }

    fn fill(own: Vec<Running>) {
        for running in own {
            let (mut from, to) = running.fetch.range();
            while from < to {
                let end = ((from / BLOCK + 1) * BLOCK).min(to);
                running.arrived(from, vec![(from / BLOCK) as u8; (end - from) as usize].into());
                from = end;
            }
        }
    }

    #[tokio::test]
    async fn blocks_are_fetched_once_whole_and_within_what_exists() {
        let cache = Arc::new(BlockCache::new(64 << 20));
        let wanted = range(1, (BLOCK + 10, 3 * BLOCK + 5), (100, 3 * BLOCK + 50));
        let (slots, own) = cache.claim(&wanted);
        assert_eq!((slots.len(), own.len()), (3, 1));
        assert_eq!(own[0].fetch.range(), (BLOCK, 3 * BLOCK + 50));
        let (others, none) = cache.claim(&range(1, (2 * BLOCK, 2 * BLOCK + 1), (0, 3 * BLOCK)));
        assert!(none.is_empty(), "a block on its way is not fetched again");
        let Slot::Wait(fetch, from, to) = &others[0] else {
            panic!("it is on its way")
        };
        let (waited, ()) = tokio::join!(fetch.wait(*from, *to), async { fill(own) });
        assert_eq!(waited.unwrap(), &[2u8][..]);
        let (slots, own) = cache.claim(&wanted);
        assert!(own.is_empty());
        assert!(slots.iter().all(|slot| matches!(slot, Slot::Ready(_))));
    }

    #[tokio::test]
    async fn fetch_that_is_given_up_wakes_those_who_wait_and_can_be_claimed_again() {
        let cache = Arc::new(BlockCache::new(64 << 20));
        let wanted = range(1, (0, 10), (0, 10));
        let (_, own) = cache.claim(&wanted);
        let (slots, _) = cache.claim(&wanted);
        let Slot::Wait(fetch, from, to) = &slots[0] else {
            panic!("it is on its way")
        };
        let (waited, ()) = tokio::join!(fetch.wait(*from, *to), async { drop(own) });
        assert!(waited.is_none());
        assert_eq!(cache.claim(&wanted).1.len(), 1);
    }

    #[test]
    fn bytes_stay_within_the_budget_and_the_oldest_go_first() {
        let max = SHARDS * 5 * BLOCK as usize;
        let cache = Arc::new(BlockCache::new(max as u64));
        for sequence in 0..200 {
            fill(cache.claim(&range(sequence, (0, BLOCK), (0, BLOCK))).1);
            assert!(cache.bytes() <= max);
        }
        assert_eq!(cache.claim(&range(0, (0, BLOCK), (0, BLOCK))).1.len(), 1);
        assert!(cache.claim(&range(199, (0, BLOCK), (0, BLOCK))).1.is_empty());
    }
}
