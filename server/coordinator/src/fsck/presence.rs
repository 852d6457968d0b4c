//! Which chunks the datanodes have: each is asked for the description of every chunk that it may have.
//!
//! A node that is down, or does not answer, leaves its copies unknown; after some failures in a row it is not asked any more in
//! this run, so that a check ends. Invariant: no answer is never taken for "missing".

use super::blocking;
use crate::core::Core;
use crate::namespace::chunks::Chunk;
use crate::namespace::{damaged, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::capability::ChunkAccess;
use dfs_common::cluster::NodeHealth;
use dfs_common::limits::FSCK_LOST_CHUNKS_MAX;
use dfs_common::service::ChunkConnector;
use dfs_common::{ChunkId, ErrorKind, FsResult, NodeId, SessionId};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Chunks that are read from the snapshot at once.
const PAGE: usize = 1024;
/// Chunks that are asked for at once.
const CHUNKS_AT_ONCE: usize = 64;
/// Failures in a row after which a node is left alone.
const FAILURES_MAX: u32 = 3;
/// Validity of a capability to read a description.
const VALIDITY_MS: u64 = 60_000;

/// How many chunks are where they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Chunks with as many copies as they shall have.
    pub whole: u64,
    /// Chunks with fewer; every datanode that may have more answered.
    pub degraded: u64,
    /// Chunks without a copy.
    pub lost: u64,
    /// Chunks of which fewer copies than they shall have are known, and a datanode that may have one did not answer.
    pub unknown: u64,
    /// Datanodes that did not answer.
    pub silent: BTreeSet<NodeId>,
}

enum Answer {
    Here,
    NotHere,
    Unknown,
}

enum Verdict {
    Whole,
    Degraded,
    Lost,
    Unknown,
    /// It was freed since the snapshot.
    Gone,
}

struct Asking<'a> {
    core: &'a Core,
    connector: &'a dyn ChunkConnector,
    addresses: BTreeMap<NodeId, Option<String>>,
    failures: Mutex<BTreeMap<NodeId, u32>>,
    silent: Mutex<BTreeSet<NodeId>>,
}

/// Asks for every chunk of the snapshot; answers the lost ones too, as many as are named.
pub(super) async fn ask(
    core: &Core,
    connector: &dyn ChunkConnector,
    snapshot: &Arc<dyn MetaRead>,
) -> FsResult<(Presence, HashSet<ChunkId>)> {
    let asking = Asking {
        core,
        connector,
        addresses: core
            .cluster
            .nodes()
            .into_iter()
            .map(|node| (node.id, (node.health != NodeHealth::Down).then_some(node.address)))
            .collect(),
        failures: Mutex::default(),
        silent: Mutex::default(),
    };
    let mut presence = Presence::default();
    let mut lost = HashSet::new();
    let (mut from, end) = keys::chunks();
    loop {
        let (read, start, end) = (snapshot.clone(), from.clone(), end.clone());
        let page = blocking(move || read.scan(&start, &end, PAGE)).await?;
        let Some((last, _)) = page.last() else { break };
        from = Bytes::from([&last[..], b"\0"].concat());
        let mut verdicts = futures::stream::iter(page)
            .map(|(key, value)| asking.verdict(key, value))
            .buffer_unordered(CHUNKS_AT_ONCE);
        while let Some(verdict) = verdicts.next().await {
            match verdict? {
                (_, Verdict::Whole) => presence.whole += 1,
                (_, Verdict::Degraded) => presence.degraded += 1,
                (_, Verdict::Unknown) => presence.unknown += 1,
                (id, Verdict::Lost) => {
                    presence.lost += 1;
                    if lost.len() < FSCK_LOST_CHUNKS_MAX {
                        lost.insert(id);
                    }
                }
                (_, Verdict::Gone) => {}
            }
        }
    }
    presence.silent = asking.silent.into_inner();
    Ok((presence, lost))
}

impl Asking<'_> {
    async fn verdict(&self, key: Bytes, value: Bytes) -> FsResult<(ChunkId, Verdict)> {
        let id = keys::parse_chunk(&key).ok_or_else(|| damaged("chunk"))?;
        // A record that cannot be read was named by the check.
        let Ok(chunk) = Chunk::decode(value) else {
            return Ok((id, Verdict::Unknown));
        };
        let wanted = self.core.replication.factor as usize;
        // Those with a receipt first; the others of its group may have got it without one.
        let members = self.core.cluster.members(id.group()).unwrap_or_default();
        let others = members.iter().filter(|node| !chunk.replicas.contains(node));
        let (mut here, mut unknown) = (0, 0);
        for node in chunk.replicas.iter().chain(others) {
            match self.ask(*node, id, &chunk).await {
                Answer::Here => here += 1,
                Answer::NotHere => {}
                Answer::Unknown => unknown += 1,
            }
            if here >= wanted {
                return Ok((id, Verdict::Whole));
            }
        }
        // What was removed since the snapshot may rightly be deleted by now.
        if Chunk::find(&*self.core.store, id)?.is_none() {
            return Ok((id, Verdict::Gone));
        }
        Ok((
            id,
            match (here, unknown) {
                (0, 0) => Verdict::Lost,
                (_, 0) => Verdict::Degraded,
                _ => Verdict::Unknown,
            },
        ))
    }

    async fn ask(&self, node: NodeId, id: ChunkId, chunk: &Chunk) -> Answer {
        let address = self.addresses.get(&node).and_then(Option::as_ref);
        let tried_enough = self
            .failures
            .lock()
            .get(&node)
            .is_some_and(|failures| *failures >= FAILURES_MAX);
        let Some(address) = address.filter(|_| !tried_enough) else {
            self.silent.lock().insert(node);
            return Answer::Unknown;
        };
        let expires_unix_ms = self.core.clock.now_unix_ms() + VALIDITY_MS;
        let capability = self
            .core
            .capability_key
            .sign(SessionId(0), id, ChunkAccess::Read, expires_unix_ms);
        let described = match self.connector.chunk_service(address) {
            Ok(service) => service.stat_chunk(capability).await,
            Err(error) => Err(error),
        };
        let answer = match described {
            Ok(stored) if (stored.length, stored.sha256) == (chunk.length, chunk.sha256) => Answer::Here,
            Ok(_) => Answer::NotHere,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Answer::NotHere,
            Err(error) => {
                tracing::debug!(chunk = %id, %node, %error, "a datanode does not say whether it has a chunk");
                *self.failures.lock().entry(node).or_default() += 1;
                self.silent.lock().insert(node);
                return Answer::Unknown;
            }
        };
        self.failures.lock().remove(&node);
        answer
    }
}
