//! The admin service: what an administrator sees of the cluster, and has it do.

use crate::backup::stream::PieceWriter;
use crate::backup::{self, Source};
use crate::fsck::{self, Event, Summary};
use crate::lock::listing;
use crate::namespace::{self, quota, read};
use crate::service::{CoordinatorService, total};
use crate::store::snapshot::Stoppable;
use dfs_common::cluster::NodeHealth;
use dfs_common::limits::QUOTAS_PAGE_MAX;
use dfs_common::service::ChunkConnector;
use dfs_common::{Durability, ErrorKind, FsError, FsResult, Ino};
use dfs_proto::v1::fsck_reply::Part as FsckPart;
use dfs_proto::{convert, status, v1};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Serves the admin service on the coordinator's core.
pub struct AdminService {
    coordinator: Arc<CoordinatorService>,
    /// Reaches datanodes.
    chunks: Arc<dyn ChunkConnector>,
    /// Cancelled when the coordinator stops.
    stop: CancellationToken,
}

/// Messages that wait for a slow client.
const STREAM_QUEUE: usize = 64;
/// While nothing happens the client is told this often that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Pieces of an export that wait for a slow client.
const EXPORT_QUEUE: usize = 4;
/// Format of an export: a backup.
const FORMAT_BACKUP: u32 = 1;
/// Format of an export: a dump.
const FORMAT_DUMP: u32 = 2;

type ExportStream = ReceiverStream<Result<v1::ExportMetadataReply, Status>>;
type CompactStream = ReceiverStream<Result<v1::CompactMetadataReply, Status>>;
type FsckStream = ReceiverStream<Result<v1::FsckReply, Status>>;

impl AdminService {
    /// On the core of `coordinator`, until `stop`; datanodes are asked through `chunks`.
    pub fn new(
        coordinator: Arc<CoordinatorService>,
        chunks: Arc<dyn ChunkConnector>,
        stop: CancellationToken,
    ) -> Self {
        AdminService {
            coordinator,
            chunks,
            stop,
        }
    }

    /// Starts a check; the stream ends with its summary or its error.
    fn check(&self, request: v1::FsckRequest) -> FsResult<FsckStream> {
        let core = self.coordinator.core()?;
        let options = fsck::Options {
            repair: request.repair,
            skip_chunks: request.skip_chunks,
        };
        let (replies, stream) = mpsc::channel(STREAM_QUEUE);
        let (events, told) = mpsc::channel(STREAM_QUEUE);
        let check = fsck::run(
            core,
            self.chunks.clone(),
            options,
            self.stop.child_token(),
            events,
        );
        tokio::spawn(tell(check, told, replies));
        Ok(ReceiverStream::new(stream))
    }

    /// Starts to send a file with all metadata.
    async fn export(&self, request: v1::ExportMetadataRequest) -> FsResult<ExportStream> {
        let write = match request.format {
            FORMAT_BACKUP => backup::write,
            FORMAT_DUMP => backup::dump::write,
            other => {
                return Err(FsError::new(
                    ErrorKind::NotSupported,
                    format!("the coordinator does not know export format {other}"),
                ));
            }
        };
        let core = self.coordinator.core()?;
        // What was acknowledged before is in it, and will still be there if the coordinator's machine loses power.
        core.applier.barrier().await?;
        let snapshot = Stoppable::new(core.store.snapshot()?, self.stop.child_token());
        let source = Source {
            cluster: core.cluster_id,
            capability_key: core.capability_key,
            epoch: core.progress.point().last.epoch,
            created: core.clock.now(),
        };
        drop(core);
        let (sender, receiver) = mpsc::channel(EXPORT_QUEUE);
        tokio::task::spawn_blocking(move || {
            let mut writer = PieceWriter::new(sender);
            let written = write(&snapshot, &source, &mut writer);
            match &written {
                Ok(records) => tracing::info!(records, "metadata was exported"),
                Err(error) => tracing::warn!(%error, "the metadata could not be exported"),
            }
            writer.end(written.map(drop));
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Starts to compact the store; it ends by itself, whoever waits.
    fn compact(&self) -> FsResult<CompactStream> {
        let core = self.coordinator.core()?;
        let store = core.store.clone();
        drop(core);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut compacting = tokio::task::spawn_blocking(move || store.compact());
            let outcome = loop {
                tokio::select! {
                    ended = &mut compacting => break ended,
                    () = tokio::time::sleep(SIGN_OF_LIFE) => {
                        // Its error means that nobody waits any more.
                        let _ = sender.send(Ok(v1::CompactMetadataReply::default())).await;
                    }
                }
            };
            let outcome = outcome.unwrap_or_else(|error| Err(FsError::new(ErrorKind::Io, error.to_string())));
            let reply = outcome.map(|(bytes_before, bytes_after)| {
                tracing::info!(bytes_before, bytes_after, "metadata was compacted");
                v1::CompactMetadataReply {
                    done: true,
                    bytes_before,
                    bytes_after,
                }
            });
            let _ = sender
                .send(reply.map_err(|error| status::to_status(&error)))
                .await;
        });
        Ok(ReceiverStream::new(receiver))
    }

    fn state(&self) -> FsResult<v1::MetadataStateReply> {
        let core = self.coordinator.core()?;
        let holding = core.hold.is_holding();
        let restored = core.hold.restored().cloned().unwrap_or_default();
        let waited_for = match holding {
            true => core.hold.waited_for(&core.cluster),
            false => Vec::new(),
        };
        Ok(v1::MetadataStateReply {
            schema_version: namespace::SCHEMA_VERSION,
            store: core.store.kind().to_string(),
            epoch: core.progress.point().last.epoch,
            incarnation: restored.incarnation,
            restored: restored.restored,
            backup_created: restored.created,
            holding,
            nodes_waited_for: waited_for.into_iter().map(|node| node.0).collect(),
            unknown_chunks: core.hold.unknown_chunks(),
            freed_chunks: read::statfs_counters(&*core.store)?.freed_chunks,
        })
    }

    async fn end_hold(&self) -> FsResult<v1::Empty> {
        let core = self.coordinator.core()?;
        core.hold.release(&core.applier).await?;
        tracing::warn!("the hold after a restore was ended by an administrator");
        Ok(v1::Empty {})
    }

    fn report(&self) -> FsResult<v1::StatusReply> {
        let core = self.coordinator.core()?;
        let nodes = core.cluster.nodes();
        let counters = read::statfs_counters(&*core.store)?;
        let under_replicated = core.under_replicated()?;
        let nodes_up = nodes
            .iter()
            .all(|node| node.health == NodeHealth::Up && node.writable);
        let uptime = core.clock.monotonic().saturating_sub(core.started);
        Ok(v1::StatusReply {
            cluster: core.cluster_id.to_string(),
            coordinator_version: env!("CARGO_PKG_VERSION").to_string(),
            store: core.store.kind().to_string(),
            healthy: !nodes.is_empty() && nodes_up && under_replicated == 0 && core.applier.check().is_ok(),
            under_replicated,
            capacity_bytes: total(nodes.iter().map(|node| node.capacity_bytes)),
            used_bytes: total(nodes.iter().map(|node| node.used_bytes)),
            available_bytes: total(nodes.iter().map(|node| node.available_bytes)),
            nodes: nodes.iter().map(convert::node_info_to_wire).collect(),
            inodes: counters.inodes,
            chunks: counters.chunks,
            content_bytes: counters.content_bytes,
            sessions: u32::try_from(core.sessions.count()).unwrap_or(u32::MAX),
            lifelines: u32::try_from(core.sessions.lifelines()).unwrap_or(u32::MAX),
            replication: core.replication.factor,
            replication_floor: core.replication.floor,
            uptime_secs: uptime.as_secs(),
            freed_chunks: counters.freed_chunks,
            freed_bytes: counters.freed_bytes,
            durability_delay_ms: core.progress.durability().delay_ms(),
        })
    }

    async fn choose_quota(&self, request: v1::SetQuotaRequest) -> FsResult<v1::Empty> {
        let (ino, quota) = (Ino(request.ino), convert::quota_from_wire(request.quota));
        let core = self.coordinator.core()?;
        core.set_quota(ino, quota).await?;
        tracing::info!(%ino, bytes = ?quota.bytes, inodes = ?quota.inodes, "a quota was set");
        Ok(v1::Empty {})
    }

    fn quotas(&self, after: Ino) -> FsResult<v1::ListQuotasReply> {
        let snapshot = self.coordinator.core()?.store.snapshot()?;
        let page = quota::list(&*snapshot, after, QUOTAS_PAGE_MAX)?;
        Ok(v1::ListQuotasReply {
            entries: page.iter().map(convert::quota_entry_to_wire).collect(),
        })
    }

    fn locks(&self, request: v1::ListLocksRequest) -> FsResult<v1::ListLocksReply> {
        let core = self.coordinator.core()?;
        let only = Some(Ino(request.ino)).filter(|ino| ino.0 != 0);
        let page = listing::page(&core, Ino(request.after), only)?;
        Ok(v1::ListLocksReply {
            inodes: page.iter().map(convert::locked_inode_to_wire).collect(),
        })
    }

    async fn choose_durability(&self, delay_ms: u64) -> FsResult<v1::Empty> {
        let durability = Durability::from_delay_ms(delay_ms)?;
        let core = self.coordinator.core()?;
        core.applier.set_durability(durability).await?;
        tracing::info!(%durability, "durability was set");
        Ok(v1::Empty {})
    }
}

/// Carries what a check tells to its client, with a sign of life while it has nothing to tell.
async fn tell(
    check: impl Future<Output = FsResult<Summary>>,
    mut events: mpsc::Receiver<Event>,
    replies: mpsc::Sender<Result<v1::FsckReply, Status>>,
) {
    let mut check = std::pin::pin!(check);
    let mut phase = String::new();
    let reply = |part| v1::FsckReply { part: Some(part) };
    let ended = loop {
        let part = tokio::select! {
            Some(event) = events.recv() => event_to_wire(event, &mut phase),
            ended = &mut check => break ended,
            () = tokio::time::sleep(SIGN_OF_LIFE) => FsckPart::Phase(phase.clone()),
            () = replies.closed() => return,
        };
        if replies.send(Ok(reply(part))).await.is_err() {
            return;
        }
    };
    while let Ok(event) = events.try_recv() {
        if replies
            .send(Ok(reply(event_to_wire(event, &mut phase))))
            .await
            .is_err()
        {
            return;
        }
    }
    let last = match ended {
        Ok(summary) => Ok(reply(FsckPart::Summary(summary_to_wire(summary)))),
        Err(error) => Err(status::to_status(&error)),
    };
    // It fails if nobody waits any more.
    let _ = replies.send(last).await;
}

fn event_to_wire(event: Event, phase: &mut String) -> FsckPart {
    match event {
        Event::Phase(now) => {
            *phase = now.to_string();
            FsckPart::Phase(phase.clone())
        }
        Event::Found(text) => FsckPart::Found(text),
        Event::Repaired(repair) => FsckPart::Repaired(repair.to_string()),
        Event::Left(text) => FsckPart::Left(text),
        Event::Lost(file) => FsckPart::Lost(v1::FsckLostFile {
            ino: file.ino.0,
            path: file.path.unwrap_or_default().into(),
            chunks: file.chunks,
            bytes: file.bytes,
        }),
    }
}

fn summary_to_wire(summary: Summary) -> v1::FsckSummary {
    let asked_datanodes = summary.presence.is_some();
    let presence = summary.presence.unwrap_or_default();
    v1::FsckSummary {
        inodes: summary.inodes,
        chunks: summary.chunks,
        found: summary.found,
        repaired: summary.repaired,
        left: summary.left,
        asked_datanodes,
        whole: presence.whole,
        degraded: presence.degraded,
        lost: presence.lost,
        unknown: presence.unknown,
        silent_nodes: presence.silent.into_iter().map(|node| node.0).collect(),
        lost_files: summary.lost_files,
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    type FsckStream = FsckStream;
    type ExportMetadataStream = ExportStream;
    type CompactMetadataStream = CompactStream;

    async fn compact_metadata(
        &self,
        _request: Request<v1::CompactMetadataRequest>,
    ) -> Result<Response<CompactStream>, Status> {
        self.compact()
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn export_metadata(
        &self,
        request: Request<v1::ExportMetadataRequest>,
    ) -> Result<Response<ExportStream>, Status> {
        let stream = self.export(request.into_inner()).await;
        stream
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn metadata_state(
        &self,
        _request: Request<v1::MetadataStateRequest>,
    ) -> Result<Response<v1::MetadataStateReply>, Status> {
        self.state()
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn release_hold(
        &self,
        _request: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.end_hold()
            .await
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn fsck(&self, request: Request<v1::FsckRequest>) -> Result<Response<FsckStream>, Status> {
        self.check(request.into_inner())
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        self.report()
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Result<Response<v1::Empty>, Status> {
        self.choose_quota(request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasReply>, Status> {
        self.quotas(Ino(request.into_inner().after))
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksReply>, Status> {
        self.locks(request.into_inner())
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn set_durability(
        &self,
        request: Request<v1::SetDurabilityRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.choose_durability(request.into_inner().delay_ms)
            .await
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }
}
