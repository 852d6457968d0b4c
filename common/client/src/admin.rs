//! Administration: what an administrator may ask of a cluster.

use dfs_common::cluster::NodeInfo;
use dfs_common::limits::{MESSAGE_BYTES_MAX, QUOTA_SET_DEADLINE, QUOTAS_MAX};
use dfs_common::lock::LockedInode;
use dfs_common::{Durability, ErrorKind, FsError, FsResult, Ino, Quota, QuotaEntry};
use dfs_proto::convert::{locks_from_wire, node_info_from_wire, quota_to_wire, quotas_from_wire};
use dfs_proto::grpc::{channel_lazy, within};
use dfs_proto::v1;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tonic::Response;
use tonic::transport::Channel;

/// State of a cluster.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: String,
    /// Version of the coordinator's program.
    pub coordinator_version: String,
    /// Metadata store: `fjall`, `sled` or `memory`.
    pub store: String,
    /// Every node up, every chunk with all its replicas.
    pub healthy: bool,
    /// Datanodes.
    pub nodes: Vec<NodeInfo>,
    /// Chunks with fewer live replicas than they shall have.
    pub under_replicated: u64,
    /// Raw size of all nodes in bytes.
    pub capacity_bytes: u64,
    /// Raw bytes used on all nodes.
    pub used_bytes: u64,
    /// Raw bytes that can still be written.
    pub available_bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of file content, each once.
    pub content_bytes: u64,
    /// Open sessions.
    pub sessions: u32,
    /// Those of them that end at once when their client's process does.
    pub lifelines: u32,
    /// Replicas that a new chunk shall have.
    pub replication: u32,
    /// Replicas without which a write is not acknowledged.
    pub replication_floor: u32,
    /// Seconds since the coordinator started.
    pub uptime_secs: u64,
    /// Within this many milliseconds an acknowledged change of metadata is durable; 0: when it is acknowledged.
    pub durability_delay_ms: u64,
}

/// What is told of a check of the file system while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsckEvent {
    /// What it does now; said again while it does it.
    Phase(String),
    /// A problem.
    Found(String),
    /// A repair that was made.
    Repaired(String),
    /// A problem that is left after the repairs.
    Left(String),
    /// A file with content that no datanode has.
    Lost {
        /// Its inode.
        ino: u64,
        /// One of its paths; empty if it has none.
        path: Vec<u8>,
        /// Chunks of it that are lost.
        chunks: u64,
        /// Bytes of it in them.
        bytes: u64,
    },
}

/// What a check of the file system came to.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckSummary {
    /// Inodes.
    pub inodes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Problems of names, counts and maps that were found.
    pub found: u64,
    /// Repairs that were made.
    pub repaired: u64,
    /// Problems of names, counts and maps that are left.
    pub left: u64,
    /// Whether the datanodes were asked: what follows is 0 otherwise.
    pub asked_datanodes: bool,
    /// Chunks with as many copies as they shall have.
    pub whole: u64,
    /// Chunks with fewer.
    pub degraded: u64,
    /// Chunks without a copy.
    pub lost: u64,
    /// Chunks with fewer known copies, of which a datanode that did not answer may have one.
    pub unknown: u64,
    /// Datanodes that did not answer.
    pub silent_nodes: Vec<u32>,
    /// Files with lost content.
    pub lost_files: u64,
}

/// A file that a coordinator makes of its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A backup, for a restore.
    Backup,
    /// A dump: lines of JSON.
    Dump,
}

/// What there is to say of a coordinator's metadata.
#[derive(Serialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataState {
    /// Layout of keys and values.
    pub schema_version: u32,
    /// `fjall`, `sled` or `memory`.
    pub store: String,
    /// Starts of the coordinator.
    pub epoch: u64,
    /// Restores from a backup.
    pub incarnation: u64,
    /// When it was restored, seconds since 1970; 0: never.
    pub restored_unix_secs: i64,
    /// Moment of the backup that it was restored from, seconds since 1970; 0: none.
    pub backup_created_unix_secs: i64,
    /// No chunk is deleted.
    pub holding: bool,
    /// Datanodes that have not told all that they have.
    pub nodes_waited_for: Vec<u32>,
    /// Reports of chunks that the metadata does not know.
    pub unknown_chunks: u64,
    /// Chunks that wait to be deleted.
    pub freed_chunks: u64,
}

/// Connection to a coordinator's admin service; clones share it.
#[derive(Clone)]
pub struct AdminClient {
    service: v1::admin_client::AdminClient<Channel>,
    deadline: Duration,
}

impl AdminClient {
    /// For the coordinator at `host:port`; connects at the first call. `deadline` bounds each call.
    ///
    /// # Errors
    /// `Invalid` if `coordinator` is not `host:port`, or outside a tokio runtime.
    pub fn connect_lazy(coordinator: &str, deadline: Duration) -> FsResult<Self> {
        let channel = channel_lazy(coordinator, deadline.max(QUOTA_SET_DEADLINE))?;
        Ok(AdminClient {
            service: v1::admin_client::AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            deadline,
        })
    }

    /// State of the cluster.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn status(&self) -> FsResult<ClusterStatus> {
        let mut service = self.service.clone();
        let reply = within(self.deadline, service.status(v1::StatusRequest {})).await?;
        let nodes: FsResult<Vec<NodeInfo>> = reply.nodes.into_iter().map(node_info_from_wire).collect();
        Ok(ClusterStatus {
            cluster: reply.cluster,
            coordinator_version: reply.coordinator_version,
            store: reply.store,
            healthy: reply.healthy,
            nodes: nodes?,
            under_replicated: reply.under_replicated,
            capacity_bytes: reply.capacity_bytes,
            used_bytes: reply.used_bytes,
            available_bytes: reply.available_bytes,
            inodes: reply.inodes,
            chunks: reply.chunks,
            content_bytes: reply.content_bytes,
            sessions: reply.sessions,
            lifelines: reply.lifelines,
            replication: reply.replication,
            replication_floor: reply.replication_floor,
            uptime_secs: reply.uptime_secs,
            durability_delay_ms: reply.durability_delay_ms,
        })
    }

    /// Limits what may lie below the directory `ino`, whoever adds to it; a quota without limits is none. Once it returned every write that
    /// begins is measured by it, on every client: waits, beyond the deadline if need be, for one that does not answer until its session ends.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`; `Invalid` if a file has names below the directory and elsewhere; `Unavailable`, `TimedOut`, `Io`.
    pub async fn set_quota(&self, ino: Ino, quota: Quota) -> FsResult<()> {
        let mut service = self.service.clone();
        let request = v1::SetQuotaRequest {
            ino: ino.0,
            quota: Some(quota_to_wire(&quota)),
        };
        within(self.deadline.max(QUOTA_SET_DEADLINE), service.set_quota(request)).await?;
        Ok(())
    }

    /// All quotas, by inode number.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn quotas(&self) -> FsResult<Vec<QuotaEntry>> {
        let mut quotas: Vec<QuotaEntry> = Vec::new();
        while quotas.len() < QUOTAS_MAX {
            let mut service = self.service.clone();
            let after = quotas.last().map_or(0, |last| last.ino.0);
            let request = v1::ListQuotasRequest { after };
            let page = quotas_from_wire(within(self.deadline, service.list_quotas(request)).await?)?;
            // One that goes backwards would never end.
            if page.first().is_none_or(|first| first.ino.0 <= after) {
                break;
            }
            quotas.extend(page);
        }
        Ok(quotas)
    }

    /// A page of the inodes with advisory locks behind `after`, by inode number, or what `only` that inode has; none: that was all.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn locks(&self, after: Ino, only: Option<Ino>) -> FsResult<Vec<LockedInode>> {
        let mut service = self.service.clone();
        let request = v1::ListLocksRequest {
            after: after.0,
            ino: only.map_or(0, |ino| ino.0),
        };
        locks_from_wire(within(self.deadline, service.list_locks(request)).await?)
    }

    /// Chooses when changes of metadata are durable, for all clients from now on and across restarts.
    ///
    /// # Errors
    /// `Invalid` (delay), `Unavailable`, `TimedOut`, `Io`.
    pub async fn set_durability(&self, durability: Durability) -> FsResult<()> {
        let mut service = self.service.clone();
        let request = v1::SetDurabilityRequest {
            delay_ms: durability.delay_ms(),
        };
        within(self.deadline, service.set_durability(request)).await?;
        Ok(())
    }

    /// A file with all metadata of one moment, given to `take` in pieces; answers its length when it came whole.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`, `Corrupt` (it did not arrive as it was sent), those of the coordinator's store and of `take`.
    pub async fn export(
        &self,
        format: ExportFormat,
        mut take: impl FnMut(&[u8]) -> FsResult<()>,
    ) -> FsResult<u64> {
        use v1::export_metadata_reply::Part;
        let format = match format {
            ExportFormat::Backup => 1,
            ExportFormat::Dump => 2,
        };
        let mut service = self.service.clone();
        let request = v1::ExportMetadataRequest { format };
        let mut stream = within(self.deadline, service.export_metadata(request)).await?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        loop {
            let next = within(self.deadline, async { stream.message().await.map(Response::new) });
            match next.await?.map(|reply| reply.part) {
                None => {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the coordinator stopped before the end of the file",
                    ));
                }
                Some(None) => {}
                Some(Some(Part::Data(data))) => {
                    hash.update(&data);
                    bytes += data.len() as u64;
                    take(&data)?;
                }
                Some(Some(Part::End(end))) => {
                    let sha256: [u8; 32] = hash.finalize().into();
                    if end.bytes != bytes || end.sha256[..] != sha256 {
                        return Err(FsError::new(
                            ErrorKind::Corrupt,
                            "the file did not arrive as the coordinator sent it: try again",
                        ));
                    }
                    return Ok(bytes);
                }
            }
        }
    }

    /// Has the coordinator give back the room of deleted and replaced records; answers the bytes on its disk before and after. However
    /// long it takes: the deadline is for signs of life.
    ///
    /// # Errors
    /// `NotSupported` (the store does that by itself), `Unavailable`, `TimedOut`, `Io`.
    pub async fn compact_metadata(&self) -> FsResult<(u64, u64)> {
        let mut service = self.service.clone();
        let request = v1::CompactMetadataRequest {};
        let mut stream = within(self.deadline, service.compact_metadata(request)).await?;
        loop {
            let next = within(self.deadline, async { stream.message().await.map(Response::new) });
            match next.await? {
                Some(reply) if reply.done => return Ok((reply.bytes_before, reply.bytes_after)),
                Some(_) => {}
                None => {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the coordinator stopped before the store was compacted",
                    ));
                }
            }
        }
    }

    /// What there is to say of the metadata.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn metadata_state(&self) -> FsResult<MetadataState> {
        let mut service = self.service.clone();
        let reply = within(self.deadline, service.metadata_state(v1::MetadataStateRequest {})).await?;
        Ok(MetadataState {
            schema_version: reply.schema_version,
            store: reply.store,
            epoch: reply.epoch,
            incarnation: reply.incarnation,
            restored_unix_secs: reply.restored.map_or(0, |time| time.secs),
            backup_created_unix_secs: reply.backup_created.map_or(0, |time| time.secs),
            holding: reply.holding,
            nodes_waited_for: reply.nodes_waited_for,
            unknown_chunks: reply.unknown_chunks,
            freed_chunks: reply.freed_chunks,
        })
    }

    /// After a restore: lets the coordinator delete chunks again, whatever datanodes have not told yet.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`, `Io`.
    pub async fn release_hold(&self) -> FsResult<()> {
        let mut service = self.service.clone();
        within(self.deadline, service.release_hold(v1::ReleaseHoldRequest {})).await?;
        Ok(())
    }

    /// Checks the file system, and repairs it if `repair`; without `chunks` the datanodes are not asked. Tells of it through
    /// `tell`, whose error ends the check. However long it takes: the deadline is for signs of life.
    ///
    /// # Errors
    /// `Busy` (another check runs), `Unavailable`, `TimedOut`, `Corrupt`, `Io`, and those of `tell`.
    pub async fn fsck(
        &self,
        repair: bool,
        chunks: bool,
        mut tell: impl FnMut(FsckEvent) -> FsResult<()>,
    ) -> FsResult<FsckSummary> {
        use v1::fsck_reply::Part;
        let mut service = self.service.clone();
        let request = v1::FsckRequest {
            repair,
            skip_chunks: !chunks,
        };
        let mut stream = within(self.deadline, service.fsck(request)).await?;
        loop {
            let next = within(self.deadline, async { stream.message().await.map(Response::new) });
            // A part that this release does not know is passed over.
            let event = match next.await? {
                None => {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the coordinator stopped before the check ended",
                    ));
                }
                Some(v1::FsckReply { part: None }) => continue,
                Some(v1::FsckReply { part: Some(part) }) => match part {
                    Part::Summary(summary) => return Ok(fsck_summary(summary)),
                    Part::Phase(text) => FsckEvent::Phase(text),
                    Part::Found(text) => FsckEvent::Found(text),
                    Part::Repaired(text) => FsckEvent::Repaired(text),
                    Part::Left(text) => FsckEvent::Left(text),
                    Part::Lost(file) => FsckEvent::Lost {
                        ino: file.ino,
                        path: file.path.to_vec(),
                        chunks: file.chunks,
                        bytes: file.bytes,
                    },
                },
            };
            tell(event)?;
        }
    }
}

fn fsck_summary(summary: v1::FsckSummary) -> FsckSummary {
    FsckSummary {
        inodes: summary.inodes,
        chunks: summary.chunks,
        found: summary.found,
        repaired: summary.repaired,
        left: summary.left,
        asked_datanodes: summary.asked_datanodes,
        whole: summary.whole,
        degraded: summary.degraded,
        lost: summary.lost,
        unknown: summary.unknown,
        silent_nodes: summary.silent_nodes,
        lost_files: summary.lost_files,
    }
}
