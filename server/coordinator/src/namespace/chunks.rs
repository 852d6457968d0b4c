//! Chunk records: how many extents refer to a chunk, where its replicas are, and what becomes of it when nobody does.
//!
//! Invariants: a chunk with a record has at least one reference (between operations); one without references has a freed
//! record instead, and is never referred to again: when its replicas are deleted, a mark of it stays (spent) as long as the
//! session that it was granted to could commit it once more. Chunks are counted by the exact set of their replicas, so that how many
//! are below their replication follows from the health of nodes without looking at chunks.

use super::counters::{self, Counters};
use super::txn::Txn;
use super::{damaged, keys};
use crate::store::MetaRead;
use crate::stored;
use bytes::Bytes;
use dfs_common::{ChunkId, FsResult, Ino, NodeId, SessionId, Timestamp};
use dfs_proto::{convert, v1};
use prost::Message;
use std::collections::BTreeMap;

/// A chunk that extents refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Content length in bytes.
    pub length: u64,
    /// Extents that refer to it.
    pub references: u64,
    /// Nodes with a receipt, sorted.
    pub replicas: Vec<NodeId>,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// Inode that it was committed for.
    pub ino: Ino,
}

impl Chunk {
    /// The record of `id`, if there is one.
    pub fn find(read: &dyn MetaRead, id: ChunkId) -> FsResult<Option<Chunk>> {
        let Some(value) = read.get(&keys::chunk(id))? else {
            return Ok(None);
        };
        Chunk::decode(value).map(Some)
    }

    /// Reads a record's value.
    pub fn decode(value: Bytes) -> FsResult<Chunk> {
        Chunk::from_record(v1::StoredChunk::decode(value).map_err(|_| damaged("chunk"))?)
    }

    /// Reads a record.
    pub fn from_record(record: v1::StoredChunk) -> FsResult<Chunk> {
        Ok(Chunk {
            length: record.length,
            references: record.references,
            replicas: record.replicas.into_iter().map(NodeId).collect(),
            sha256: record.sha256[..].try_into().map_err(|_| damaged("chunk"))?,
            ino: Ino(record.ino),
        })
    }

    fn to_record(&self) -> v1::StoredChunk {
        v1::StoredChunk {
            length: self.length,
            references: self.references,
            replicas: self.replicas.iter().map(|node| node.0).collect(),
            sha256: Bytes::copy_from_slice(&self.sha256),
            ino: self.ino.0,
        }
    }

    /// Writes the record.
    pub(super) fn put(&self, txn: &mut Txn<'_>, id: ChunkId) {
        txn.put(keys::chunk(id), Bytes::from(self.to_record().encode_to_vec()));
    }

    /// Writes a new chunk's record and counts it. Its references follow with [`References::apply`].
    pub fn add(&self, txn: &mut Txn<'_>, id: ChunkId, counters: &mut Counters) -> FsResult<()> {
        self.put(txn, id);
        counters.chunks += 1;
        count_replica_set(txn, &self.replicas, 1)
    }

    /// Replicas that were made later.
    pub fn add_replicas(&mut self, txn: &mut Txn<'_>, id: ChunkId, more: &[NodeId]) -> FsResult<()> {
        let mut replicas = self.replicas.clone();
        replicas.extend(more);
        replicas.sort_unstable();
        replicas.dedup();
        if replicas != self.replicas {
            count_replica_set(txn, &self.replicas, -1)?;
            count_replica_set(txn, &replicas, 1)?;
            self.replicas = replicas;
            self.put(txn, id);
        }
        Ok(())
    }
}

/// A chunk that waits for its replicas to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreedChunk {
    /// When its last reference went.
    pub freed: Timestamp,
    /// Its record, without references.
    pub chunk: Chunk,
}

impl FreedChunk {
    /// Reads a record's value.
    pub fn decode(value: Bytes) -> FsResult<FreedChunk> {
        let record = v1::StoredFreedChunk::decode(value).map_err(|_| damaged("freed chunk"))?;
        let freed = record.freed.ok_or_else(|| damaged("freed chunk"))?;
        Ok(FreedChunk {
            freed: convert::timestamp_from_wire(freed).map_err(|_| damaged("freed chunk"))?,
            chunk: Chunk::from_record(record.chunk.ok_or_else(|| damaged("freed chunk"))?)?,
        })
    }
}

/// Chunks that a session may be granted after one before that one lapses: it can no longer be committed. Bounds the marks of
/// spent chunks.
pub const GRANTS_UNTIL_LAPSE: u64 = 1 << 20;

/// True if the last reference to the chunk went before.
pub fn was_freed(read: &dyn MetaRead, id: ChunkId) -> FsResult<bool> {
    Ok(read.get(&keys::freed_chunk(id))?.is_some() || read.get(&keys::spent_chunk(id))?.is_some())
}

/// True if `session`, which was granted the numbers below `granted_below`, may commit `id` for the first time.
pub fn may_commit(id: ChunkId, session: SessionId, granted_below: u64) -> bool {
    let number = id.sequence();
    id.session() == session && number < granted_below && number + GRANTS_UNTIL_LAPSE >= granted_below
}

/// Forgets a freed chunk: every replica was deleted. No effect if there is no such record.
pub fn forget_freed(txn: &mut Txn<'_>, id: ChunkId) -> FsResult<()> {
    let key = keys::freed_chunk(id);
    let Some(value) = txn.get(&key)? else {
        return Ok(());
    };
    let length = FreedChunk::decode(value)?.chunk.length;
    let mut counters = counters::get(txn)?;
    counters::add(&mut counters.freed_chunks, -1)?;
    counters::add(&mut counters.freed_bytes, -(length as i64))?;
    counters::put(txn, &counters);
    txn.delete(key);
    if let Some(session) = stored::get_session(txn, id.session())? {
        let granted_below = session.granted_below;
        // Two old marks go for each that comes, so that those that lapsed do not gather.
        let (start, end) = keys::spent_chunks(id.session());
        for (key, _) in txn.scan(&start, &end, 2)? {
            let spent = keys::parse_spent_chunk(&key).ok_or_else(|| damaged("spent chunk"))?;
            if !may_commit(spent, id.session(), granted_below) {
                txn.delete(key);
            }
        }
        if may_commit(id, id.session(), granted_below) {
            txn.put(keys::spent_chunk(id), Bytes::new());
        }
    }
    Ok(())
}

/// Takes a freed chunk back that `references` extents refer to: it must not be deleted. False if it is not freed.
pub(super) fn take_back(txn: &mut Txn<'_>, id: ChunkId, references: u64) -> FsResult<bool> {
    let key = keys::freed_chunk(id);
    let Some(value) = txn.get(&key)? else {
        return Ok(false);
    };
    let mut chunk = FreedChunk::decode(value)?.chunk;
    let mut counters = counters::get(txn)?;
    counters::add(&mut counters.freed_chunks, -1)?;
    counters::add(&mut counters.freed_bytes, -(chunk.length as i64))?;
    txn.delete(key);
    if Chunk::find(txn, id)?.is_none() {
        chunk.references = references;
        chunk.add(txn, id, &mut counters)?;
    }
    counters::put(txn, &counters);
    Ok(true)
}

/// Changes the number of chunks with exactly these replicas.
pub(super) fn count_replica_set(txn: &mut Txn<'_>, replicas: &[NodeId], change: i64) -> FsResult<()> {
    let key = keys::replica_set(replicas);
    let mut count = txn
        .get(&key)?
        .map_or(Ok(0), |value| decode_replica_count(&value))?;
    counters::add(&mut count, change)?;
    if count == 0 {
        txn.delete(key);
    } else {
        txn.put(key, Bytes::copy_from_slice(&count.to_be_bytes()));
    }
    Ok(())
}

/// Reads the number of chunks of a replica set.
pub fn decode_replica_count(value: &[u8]) -> FsResult<u64> {
    Ok(u64::from_be_bytes(
        value.try_into().map_err(|_| damaged("replica set"))?,
    ))
}

/// Changes of reference counts, gathered over an edit of a map and applied once per chunk.
#[derive(Default)]
pub struct References {
    changes: BTreeMap<ChunkId, i64>,
}

impl References {
    /// An extent refers to `chunk` (+1), or does no longer (-1).
    pub fn add(&mut self, chunk: ChunkId, change: i64) {
        *self.changes.entry(chunk).or_default() += change;
    }

    /// Writes the new counts; chunks that nobody refers to any more are freed.
    pub fn apply(self, txn: &mut Txn<'_>, now: Timestamp, counters: &mut Counters) -> FsResult<()> {
        for (id, change) in self.changes {
            if change == 0 {
                continue;
            }
            let mut chunk = Chunk::find(txn, id)?.ok_or_else(|| damaged("chunk"))?;
            counters::add(&mut chunk.references, change)?;
            if chunk.references > 0 {
                chunk.put(txn, id);
                continue;
            }
            txn.delete(keys::chunk(id));
            let record = v1::StoredFreedChunk {
                freed: Some(convert::timestamp_to_wire(&now)),
                chunk: Some(chunk.to_record()),
            };
            txn.put(keys::freed_chunk(id), Bytes::from(record.encode_to_vec()));
            counters::add(&mut counters.chunks, -1)?;
            counters.freed_chunks += 1;
            counters.freed_bytes += chunk.length;
            count_replica_set(txn, &chunk.replicas, -1)?;
        }
        Ok(())
    }
}
