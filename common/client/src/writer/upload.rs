//! Uploading a sealed generation as one chunk: to the members of its placement group, until enough of them have it.
//!
//! The first good member forwards to the others. A member that failed is tried once more by itself; then the chunk is
//! accepted with fewer replicas, at least the floor (degraded). A group that does not reach the floor is given up for
//! another. What was achieved is kept in the generation, so that a cancelled upload goes on where it was.
//!
//! Nothing is hashed here: the datanode that content arrives at computes its SHA-256 for all
//! (docs/adr/0009-hash-where-content-arrives.md). What the first receipt of a group says is what every other one of that group must
//! say, and what a member that is tried alone compares.

use crate::client::Inner;
use crate::dirty::Body;
use crate::dirty::generation::Upload;
use crate::placement::Member;
use crate::waiting::{What, within};
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkLabel;
use dfs_common::extent::{CommittedChunk, Receipt};
use dfs_common::piece::pieces;
use dfs_common::service::{ContentHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, NodeId};
use futures::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Bound of one attempt to send a chunk, whatever its size; stalls are noticed earlier by the transport.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(60);
/// Placement groups found full, one after the other, before the program is told.
const FULL_GROUPS_MAX: u32 = 3;

impl Inner {
    /// Makes a generation durable on datanodes; answers the chunk with its receipts. Cancel-safe: call again.
    ///
    /// # Errors
    /// `NoSpace`: the cluster is full. `Unavailable`, `TimedOut` when the patience ends.
    pub(crate) async fn upload(
        &self,
        ino: Ino,
        file_offset: u64,
        body: &Arc<Body>,
        upload: &mut Upload,
    ) -> FsResult<CommittedChunk> {
        if let Some(done) = &upload.done {
            return Ok(done.clone());
        }
        let mut attempts = self.attempts(What::of("saving data", ino));
        let mut full = 0;
        loop {
            let capability = match upload.capability.clone() {
                Some(capability) => capability,
                None => {
                    upload.receipts.clear();
                    upload.capability.insert(self.grant().await?).clone()
                }
            };
            let live = self.session.live();
            let label = ChunkLabel {
                chunk: capability.chunk,
                ino,
                file_offset,
                length: body.length,
                epoch: live.identity.epoch,
            };
            let mut round = Round {
                inner: self,
                label,
                capability,
                body,
                outcome: None,
                unusable: false,
            };
            round.send(&mut upload.receipts).await?;
            if upload.receipts.len() >= live.replication_floor as usize {
                let done = CommittedChunk {
                    chunk: round.label.chunk,
                    receipts: std::mem::take(&mut upload.receipts),
                };
                upload.done = Some(done.clone());
                return Ok(done);
            }
            let (chunk, receipts) = (round.label.chunk, upload.receipts.len());
            let error = round.outcome.unwrap_or_else(|| {
                FsError::new(
                    ErrorKind::Unavailable,
                    "no datanode of the placement group is known",
                )
            });
            tracing::warn!(%ino, %chunk, receipts, %error, "too few replicas: trying another placement group");
            full += u32::from(error.kind() == ErrorKind::NoSpace);
            if full == FULL_GROUPS_MAX {
                return Err(error);
            }
            upload.capability = None;
            self.grants.clear();
            attempts
                .pause(FsError::new(
                    ErrorKind::Unavailable,
                    format!(
                        "{receipts} replicas of at least {}: {}",
                        live.replication_floor,
                        error.message()
                    ),
                ))
                .await?;
            self.refresh_cluster().await?;
        }
    }
}

/// Sending one chunk to one group.
struct Round<'a> {
    inner: &'a Inner,
    label: ChunkLabel,
    capability: ChunkCapability,
    body: &'a Arc<Body>,
    /// The last failure.
    outcome: Option<FsError>,
    /// The id cannot be used any more.
    unusable: bool,
}

impl Round<'_> {
    async fn send(&mut self, receipts: &mut Vec<Receipt>) -> FsResult<()> {
        let members = self.inner.members_of(self.label.chunk).await?;
        let good = members.iter().filter(|member| member.good).count();
        let floor = self.inner.session.live().replication_floor as usize;
        // Members that failed once are tried again, alone, after the others; those that failed twice are not.
        let mut failed_once: HashSet<NodeId> = HashSet::new();
        let mut failed_twice: HashSet<NodeId> = HashSet::new();
        loop {
            let has = |receipts: &[Receipt], node| receipts.iter().any(|receipt| receipt.node == node);
            // Doubtful members only when the good ones are not enough.
            let wanted = |member: &&Member| {
                (member.good || good < floor)
                    && !has(receipts, member.node)
                    && !failed_twice.contains(&member.node)
            };
            let (again, fresh): (Vec<&Member>, Vec<&Member>) = members
                .iter()
                .filter(wanted)
                .partition(|member| failed_once.contains(&member.node));
            let (first, others) = match (fresh.split_first(), again.first()) {
                (Some((first, others)), _) => (*first, others),
                (None, Some(first)) => (*first, &[][..]),
                (None, None) => return Ok(()),
            };
            let reached = self.send_to(first, others, receipts).await;
            if self.unusable {
                return Ok(());
            }
            let sent_to = std::iter::once(first).chain(others.iter().copied().filter(|_| reached));
            for member in sent_to {
                if has(receipts, member.node) {
                    self.inner.cluster.trust(member.node);
                } else if !failed_once.insert(member.node) {
                    failed_twice.insert(member.node);
                    self.inner.cluster.avoid(member.node);
                }
            }
        }
    }

    /// False if `first` failed as a whole: then nothing is known of the others.
    async fn send_to(&mut self, first: &Member, others: &[&Member], receipts: &mut Vec<Receipt>) -> bool {
        let parts = futures::stream::iter(self.body.pieces().into_iter().map(Ok)).boxed();
        let known = receipts.first().map(|receipt| receipt.sha256);
        let request = WriteChunk {
            label: self.label.clone(),
            hash: known.map_or(ContentHash::Computed, ContentHash::Known),
            capability: self.capability.clone(),
            forward: others.iter().map(|member| member.address.clone()).collect(),
            content: pieces(parts),
        };
        let written = match self.inner.chunk_service(first) {
            Ok(service) => within(ATTEMPT_DEADLINE, service.write_chunk(request)).await,
            Err(error) => Err(error),
        };
        let reached = written.is_ok();
        let mut failures = Vec::new();
        match written {
            Ok(written) => {
                for receipt in written.receipts {
                    let member = std::iter::once(first).chain(others.iter().copied());
                    let of_member = member.into_iter().any(|member| member.node == receipt.node);
                    // The first one says the hash; the others agree.
                    let agrees = receipts
                        .first()
                        .is_none_or(|known| known.sha256 == receipt.sha256)
                        && receipt.length == self.label.length;
                    let known = receipts.iter().any(|known| known.node == receipt.node);
                    if of_member && agrees && !known {
                        receipts.push(receipt);
                    }
                }
                failures.extend(written.failures);
            }
            Err(error) => failures.push((first.address.clone(), error)),
        }
        for (node, error) in failures {
            tracing::warn!(chunk = %self.label.chunk, node, %error, "replica could not be written");
            self.unusable |= matches!(
                error.kind(),
                ErrorKind::ChunkConflict | ErrorKind::Unauthenticated
            );
            self.outcome = Some(error);
        }
        reached
    }
}
