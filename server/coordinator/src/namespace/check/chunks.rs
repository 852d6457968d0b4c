//! Chunks: as many references as extents, replicas, and freed ones.

use super::Check;
use super::maps::needed;
use super::rows::Rows;
use crate::namespace::chunks::{self, Chunk, FreedChunk};
use crate::namespace::repair::Repair;
use crate::namespace::{damaged, keys};
use crate::sort::{Sorted, SortedReader};
use crate::stored;
use dfs_common::{ChunkId, FsResult, NodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is known beside the chunks. Sessions and sets of replicas are few.
struct Beside<'a> {
    references: SortedReader<'a>,
    freed: Rows<'a>,
    spent: Rows<'a>,
    granted_below: HashMap<SessionId, u64>,
    replica_sets: BTreeMap<Vec<NodeId>, u64>,
}

/// Checks every chunk; `references` are the extents'.
pub(super) fn check(check: &mut Check<'_>, references: &Sorted) -> FsResult<()> {
    let read = check.read;
    let granted = stored::sessions(read)?.into_iter();
    let mut beside = Beside {
        references: references.read()?,
        freed: Rows::new(read, keys::freed_chunks()),
        spent: Rows::new(read, keys::all_spent_chunks()),
        granted_below: granted
            .map(|(session, record)| (session, record.granted_below))
            .collect(),
        replica_sets: BTreeMap::new(),
    };
    let mut rows = Rows::new(read, keys::chunks());
    while let Some((key, value)) = rows.next()? {
        let id = keys::parse_chunk(&key).ok_or_else(|| damaged("chunk"));
        let chunk = id.and_then(|id| Ok((id, Chunk::decode(value)?)));
        if let Some((id, chunk)) = check.report.readable(&key, chunk)? {
            beside.recordless(check, Some(id))?;
            beside.chunk(check, id, &chunk)?;
        }
    }
    beside.recordless(check, None)?;
    check.report.chunks = check.seen.chunks;
    freed(check)?;
    replica_sets(check, &beside.replica_sets)
}

impl Beside<'_> {
    fn next_id(&self) -> Option<ChunkId> {
        self.references
            .peek()
            .and_then(|reference| ChunkId::from_slice(reference.get(..16)?))
    }

    /// How many extents refer to `id`, and which length they need.
    fn references_of(&mut self, id: ChunkId) -> FsResult<(u64, u64)> {
        let (mut count, mut length) = (0, 0);
        while self.next_id() == Some(id) {
            let reference = self.references.next_record()?.unwrap_or_default();
            count += 1;
            length = needed(&reference).max(length);
        }
        Ok((count, length))
    }

    /// Chunks below `until` (`None`: all that are left), which have no record.
    fn recordless(&mut self, check: &mut Check<'_>, until: Option<ChunkId>) -> FsResult<()> {
        while let Some(id) = self.next_id().filter(|id| until.is_none_or(|until| *id < until)) {
            let (counted, _) = self.references_of(id)?;
            let text = || format!("chunk {id} is referred to and has no record");
            // Its record is at hand if it was freed; otherwise nothing tells where its replicas are.
            match check.read.get(&keys::freed_chunk(id))? {
                Some(_) => {
                    check
                        .report
                        .expect_or_repair(false, text, || Repair::Freed { chunk: id, counted });
                }
                None => check.report.problem(text()),
            }
        }
        Ok(())
    }

    fn chunk(&mut self, check: &mut Check<'_>, id: ChunkId, chunk: &Chunk) -> FsResult<()> {
        check.seen.chunks += 1;
        *self.replica_sets.entry(chunk.replicas.clone()).or_default() += 1;
        let (references, needed) = self.references_of(id)?;
        let report = &mut check.report;
        let text = || {
            format!(
                "chunk {id} has {references} references and says {}",
                chunk.references
            )
        };
        // One that nobody refers to is kept: it takes room, and may be all that is left of something.
        match references {
            0 => report.problem(text()),
            _ => report.expect_or_repair(references == chunk.references, text, || Repair::References {
                chunk: id,
                said: chunk.references,
                counted: references,
            }),
        }
        report.expect(needed <= chunk.length, || {
            format!("an extent reaches behind the end of chunk {id}")
        });
        report.expect(chunk.replicas.is_sorted() && !chunk.replicas.is_empty(), || {
            format!("chunk {id} has no replicas or an unsorted list")
        });
        let was_granted = self
            .granted_below
            .get(&id.session())
            .is_none_or(|below| id.sequence() < *below);
        report.expect(was_granted, || format!("chunk {id} was never granted"));
        let freed = self.freed.has(&id.to_bytes())?;
        report.expect_or_repair(
            !freed || references == 0,
            || format!("chunk {id} is freed and referred to"),
            || Repair::Freed {
                chunk: id,
                counted: references,
            },
        );
        let spent = self.spent.has(&id.to_bytes())?;
        report.expect(freed || !spent, || {
            format!("chunk {id} was deleted and is referred to")
        });
        Ok(())
    }
}

fn freed(check: &mut Check<'_>) -> FsResult<()> {
    let read = check.read;
    stored::for_each(read, keys::freed_chunks(), |key, value| {
        if let Some(freed) = check.report.readable(&key, FreedChunk::decode(value))? {
            check.seen.freed_chunks += 1;
            check.seen.freed_bytes += freed.chunk.length;
        }
        Ok(())
    })
}

fn replica_sets(check: &mut Check<'_>, there: &BTreeMap<Vec<NodeId>, u64>) -> FsResult<()> {
    let read = check.read;
    let mut sets = BTreeMap::new();
    stored::for_each(read, keys::replica_sets(), |key, value| {
        let replicas = keys::parse_replica_set(&key).ok_or_else(|| damaged("replica set"));
        let set = replicas.and_then(|replicas| Ok((replicas, chunks::decode_replica_count(&value)?)));
        if let Some((replicas, said)) = check.report.readable(&key, set)? {
            sets.insert(replicas, said);
        }
        Ok(())
    })?;
    let known: BTreeSet<&Vec<NodeId>> = sets.keys().chain(there.keys()).collect();
    for replicas in known {
        let count = |of: &BTreeMap<Vec<NodeId>, u64>| of.get(replicas).copied().unwrap_or(0);
        let (said, counted) = (count(&sets), count(there));
        // A count of none is no record.
        check.report.expect_or_repair(
            said == counted && sets.get(replicas) != Some(&0),
            || format!("{counted} chunks have replicas on {replicas:?}, their count says {said}"),
            || Repair::ReplicaSet {
                replicas: replicas.clone(),
                said,
                counted,
            },
        );
    }
    Ok(())
}
