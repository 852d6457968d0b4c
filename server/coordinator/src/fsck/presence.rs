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
use dfs_common::chunk::ChunkDescription;
use dfs_common::cluster::NodeHealth;
use dfs_common::limits::{CHUNK_STATS_MAX, FSCK_LOST_CHUNKS_MAX};
use dfs_common::service::{ChunkConnector, ChunkService};
use dfs_common::{ChunkId, ErrorKind, FsResult, NodeId, SessionId};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Chunks that are read from the snapshot, and asked for, at once.
const PAGE: usize = 4096;
/// Datanodes that are asked at once.
const NODES_AT_ONCE: usize = 16;
/// Chunks for which a datanode is asked at once that can be asked for one at a time only.
const SINGLE_AT_ONCE: usize = 32;
/// Questions in a row without an answer after which a node is left alone.
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

#[derive(Clone, Copy)]
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

/// A chunk that is asked for.
struct Asked {
    id: ChunkId,
    chunk: Chunk,
    here: usize,
    unknown: usize,
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
        for verdict in asking.verdicts(page).await? {
            match verdict {
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
    async fn verdicts(&self, page: Vec<(Bytes, Bytes)>) -> FsResult<Vec<(ChunkId, Verdict)>> {
        let mut verdicts = Vec::with_capacity(page.len());
        let mut asked = Vec::with_capacity(page.len());
        for (key, value) in page {
            let id = keys::parse_chunk(&key).ok_or_else(|| damaged("chunk"))?;
            match Chunk::decode(value) {
                Ok(chunk) => asked.push(Asked {
                    id,
                    chunk,
                    here: 0,
                    unknown: 0,
                }),
                // A record that cannot be read was named by the check.
                Err(_) => verdicts.push((id, Verdict::Unknown)),
            }
        }
        // Those with a receipt first; the others of its group may have got it without one.
        self.ask_all(&mut asked, |chunk| chunk.chunk.replicas.clone())
            .await;
        self.ask_all(&mut asked, |chunk| {
            let members = self.core.cluster.members(chunk.id.group()).unwrap_or_default();
            let others = members.into_iter();
            others
                .filter(|node| !chunk.chunk.replicas.contains(node))
                .collect()
        })
        .await;
        for asked in &asked {
            verdicts.push((asked.id, self.verdict(asked)?));
        }
        Ok(verdicts)
    }

    fn is_whole(&self, asked: &Asked) -> bool {
        asked.here >= self.core.replication.factor as usize
    }

    fn verdict(&self, asked: &Asked) -> FsResult<Verdict> {
        if self.is_whole(asked) {
            return Ok(Verdict::Whole);
        }
        // What was removed since the snapshot may rightly be deleted by now.
        if Chunk::find(&*self.core.store, asked.id)?.is_none() {
            return Ok(Verdict::Gone);
        }
        Ok(match (asked.here, asked.unknown) {
            (0, 0) => Verdict::Lost,
            (_, 0) => Verdict::Degraded,
            _ => Verdict::Unknown,
        })
    }

    /// Asks `nodes` for each chunk of which not all copies are known yet, many at once of each node.
    async fn ask_all(&self, asked: &mut [Asked], nodes: impl Fn(&Asked) -> Vec<NodeId>) {
        let mut questions: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (index, chunk) in asked.iter().enumerate() {
            if !self.is_whole(chunk) {
                for node in nodes(chunk) {
                    questions.entry(node).or_default().push(index);
                }
            }
        }
        let of_nodes = questions.iter().map(|(node, indexes)| {
            let parts: Vec<_> = indexes.chunks(CHUNK_STATS_MAX).collect();
            let asked = &*asked;
            async move {
                // One after the other, so that a node that does not answer is left alone soon.
                let mut answers = Vec::with_capacity(indexes.len());
                for part in parts {
                    let chunks: Vec<&Asked> = part.iter().filter_map(|index| asked.get(*index)).collect();
                    let answered = self.ask(*node, &chunks).await;
                    answers.extend(part.iter().copied().zip(answered));
                }
                answers
            }
        });
        let answers: Vec<(usize, Answer)> = futures::stream::iter(of_nodes.collect::<Vec<_>>())
            .buffer_unordered(NODES_AT_ONCE)
            .flat_map(futures::stream::iter)
            .collect()
            .await;
        for (index, answer) in answers {
            if let Some(chunk) = asked.get_mut(index) {
                chunk.here += usize::from(matches!(answer, Answer::Here));
                chunk.unknown += usize::from(matches!(answer, Answer::Unknown));
            }
        }
    }

    /// Asks a node for these chunks, at most [`CHUNK_STATS_MAX`]: an answer for each.
    async fn ask(&self, node: NodeId, chunks: &[&Asked]) -> Vec<Answer> {
        let nothing = vec![Answer::Unknown; chunks.len()];
        let address = self.addresses.get(&node).and_then(Option::as_ref);
        let tried_enough = self
            .failures
            .lock()
            .get(&node)
            .is_some_and(|failures| *failures >= FAILURES_MAX);
        let Some(address) = address.filter(|_| !tried_enough) else {
            self.silent.lock().insert(node);
            return nothing;
        };
        let described = match self.connector.chunk_service(address) {
            Ok(service) => self.describe(&*service, chunks).await,
            Err(error) => Err(error),
        };
        let described = described.unwrap_or_else(|error| vec![Err(error); chunks.len()]);
        let answer = |(chunk, described): (&&Asked, FsResult<ChunkDescription>)| match described {
            Ok(stored) if (stored.length, stored.sha256) == (chunk.chunk.length, chunk.chunk.sha256) => {
                Answer::Here
            }
            Ok(_) => Answer::NotHere,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Answer::NotHere,
            Err(error) => {
                tracing::debug!(chunk = %chunk.id, %node, %error, "a datanode does not say whether it has a chunk");
                Answer::Unknown
            }
        };
        let answers: Vec<Answer> = chunks.iter().zip(described).map(answer).collect();
        let silent = answers
            .iter()
            .filter(|answer| matches!(answer, Answer::Unknown))
            .count();
        if silent > 0 {
            self.silent.lock().insert(node);
        }
        let mut failures = self.failures.lock();
        match silent == chunks.len() {
            true => *failures.entry(node).or_default() += 1,
            false => drop(failures.remove(&node)),
        }
        answers
    }

    /// What a datanode says of these chunks, one answer for each.
    async fn describe(
        &self,
        service: &dyn ChunkService,
        chunks: &[&Asked],
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        let expires_unix_ms = self.core.clock.now_unix_ms() + VALIDITY_MS;
        let sign = |chunk: &&Asked| {
            let key = self.core.capability_key;
            key.sign(SessionId(0), chunk.id, ChunkAccess::Read, expires_unix_ms)
        };
        let capabilities: Vec<_> = chunks.iter().map(sign).collect();
        match service.stat_chunks(capabilities.clone()).await {
            Ok(described) if described.len() == chunks.len() => Ok(described),
            Ok(_) => Err(ErrorKind::Invalid.into()),
            // A datanode of an earlier release is asked for one at a time.
            Err(error) if error.kind() == ErrorKind::UnknownVersion => {
                Ok(futures::stream::iter(capabilities)
                    .map(|capability| service.stat_chunk(capability))
                    .buffered(SINGLE_AT_ONCE)
                    .collect()
                    .await)
            }
            Err(error) => Err(error),
        }
    }
}
