//! A store in memory, for tests: an ordered map behind an `Arc`.
//!
//! A snapshot shares the map; the first commit afterwards copies it (once per snapshot taken), so neither sees the other.

use super::{MetaRead, MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::FsResult;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

type Map = BTreeMap<Bytes, Bytes>;

/// A [`MetaStore`] that forgets everything when dropped.
#[derive(Default)]
pub struct MemoryStore {
    map: RwLock<Arc<Map>>,
}

fn scan(map: &Map, start: &[u8], end: &[u8], limit: usize) -> Vec<(Bytes, Bytes)> {
    if start >= end {
        return Vec::new();
    }
    map.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
        .take(limit)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

impl MetaRead for MemoryStore {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        Ok(self.map.read().get(key).cloned())
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        Ok(scan(&self.map.read(), start, end, limit))
    }
}

impl MetaStore for MemoryStore {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        let mut shared = self.map.write();
        let map = Arc::make_mut(&mut shared);
        for (key, value) in batch.changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.commit(batch)
    }
    fn persist(&self) -> FsResult<()> {
        Ok(())
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        Ok(Box::new(MemorySnapshot {
            map: self.map.read().clone(),
        }))
    }
    fn kind(&self) -> &'static str {
        "memory"
    }
}

struct MemorySnapshot {
    map: Arc<Map>,
}

impl MetaRead for MemorySnapshot {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        Ok(scan(&self.map, start, end, limit))
    }
}
