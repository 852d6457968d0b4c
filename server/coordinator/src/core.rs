//! A running coordinator's parts, put together from an open data directory.

use crate::applier::persistence::{Persistence, Persister, Progress};
use crate::applier::reserve::{DISK_RESERVE_BYTES, DiskReserve};
use crate::applier::{Applier, ApplierParts};
use crate::cluster::health::{ClusterWorker, GroupMaker};
use crate::cluster::placement::{Placement, Replication};
use crate::cluster::state::ClusterState;
use crate::config::CoordinatorConfig;
use crate::gc::collector::{ChunkCollector, CollectorParts};
use crate::gc::hold::Hold;
use crate::gc::reaper::Reaper;
use crate::identity::DataDir;
use crate::lease::LeaseTable;
use crate::lock::LockTable;
use crate::namespace;
use crate::session::expiry::SessionExpiry;
use crate::session::opens::OpenTable;
use crate::session::table::SessionTable;
use crate::sort::Scratch;
use crate::store::MetaStore;
use crate::store::fence::FencedStore;
use crate::stored;
use crate::worker::Workers;
use dfs_common::capability::CapabilityKey;
use dfs_common::clock::Clock;
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::service::ChunkConnector;
use dfs_common::{ClusterId, FsResult, Ino, SessionEpoch, SessionId};
use std::sync::Arc;
use std::time::Duration;

/// What the services work with.
pub struct Core {
    /// The fenced store.
    pub store: Arc<dyn MetaStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Monotonic time of the start.
    pub started: Duration,
    /// This cluster.
    pub cluster_id: ClusterId,
    /// Shared with the datanodes.
    pub capability_key: CapabilityKey,
    /// Replicas of a new chunk, floor, chunk size.
    pub replication: Replication,
    /// How long freed chunks are kept.
    pub freed_chunk_delay: Duration,
    /// Whether chunks may be deleted.
    pub hold: Arc<Hold>,
    /// Leases.
    pub sessions: Arc<SessionTable>,
    /// Open files.
    pub opens: Arc<OpenTable>,
    /// Advisory locks.
    pub locks: Arc<LockTable>,
    /// What clients may answer from memory.
    pub leases: Arc<LeaseTable>,
    /// Nodes and groups.
    pub cluster: Arc<ClusterState>,
    /// The single writer.
    pub applier: Arc<Applier>,
    /// How far the store is.
    pub progress: Arc<Progress>,
    /// Makes placement groups.
    pub groups: Arc<GroupMaker>,
    /// Background work.
    pub workers: Workers,
    /// Held by the one check that runs.
    pub checking: tokio::sync::Mutex<()>,
    /// For its temporary files.
    pub scratch: Scratch,
    /// Held by the one quota that is being set.
    pub setting_quota: tokio::sync::Mutex<()>,
    // Dropped last: the lock goes after the store is closed.
    _data: DataDir,
}

impl Core {
    /// Opens the data directory and loads sessions, nodes and groups. No worker runs yet.
    ///
    /// # Errors
    /// Those of [`DataDir::open`], and `Corrupt` or `UnknownVersion` if the store's content is not readable.
    pub fn open(config: &CoordinatorConfig, clock: Arc<dyn Clock>) -> FsResult<Self> {
        config.validate()?;
        let data = DataDir::open(&config.data_dir, config.store, config.cache_bytes)?;
        if data.fresh && namespace::check_schema(&*data.store).is_err() {
            let mut txn = namespace::txn::Txn::new(&*data.store);
            namespace::initialize(&mut txn, clock.now())?;
            data.store.commit(txn.into_batch())?;
        }
        namespace::check_schema(&*data.store)?;
        failpoint::reach(Failpoint::StartAfterStore);
        let fence = data.take()?;
        failpoint::reach(Failpoint::StartAfterFence);
        let epoch = fence.epoch();
        let store: Arc<dyn MetaStore> = Arc::new(FencedStore::new(data.store.clone(), fence));

        // Before anything else is written.
        namespace::usage::rebuild::open(&*store, epoch)?;
        namespace::quota::open_edges(&*store)?;
        let persistence = Persistence::open(&*store, epoch, clock.clone())?;
        failpoint::reach(Failpoint::StartAfterPersistence);
        let progress = persistence.progress();

        let sessions = Arc::new(SessionTable::new(clock.clone()));
        let opens = Arc::new(OpenTable::default());
        let locks = Arc::new(LockTable::default());
        for (session, record) in stored::sessions(&*store)? {
            let secret = stored::session_secret(&record)?;
            sessions.insert_grace(session, SessionEpoch(record.epoch), secret);
            opens.begin_grace(session);
            locks.begin_grace(session);
        }
        let cluster = Arc::new(ClusterState::new(clock.clone(), epoch));
        for node in stored::nodes(&*store)? {
            cluster.load_node(node.uuid, node.secret, node.info);
        }
        for group in stored::groups(&*store)? {
            cluster.put_group(group);
        }
        let hold = Arc::new(Hold::new(stored::restore(&*store)?, epoch, clock.clone()));
        let replication = Replication {
            factor: config.replication,
            floor: config.replication_floor,
            chunk_bytes: config.chunk_bytes,
        };
        let placement = Arc::new(Placement::new(cluster.clone(), replication));
        let applier = Arc::new(Applier::start(ApplierParts {
            store: store.clone(),
            persistence,
            clock: clock.clone(),
            reserve: DiskReserve::new(config.data_dir.clone(), DISK_RESERVE_BYTES),
            sessions: sessions.clone(),
            opens: opens.clone(),
            locks: locks.clone(),
            cluster: cluster.clone(),
            placement: placement.clone(),
            capability_key: data.capability_key,
            cluster_id: data.cluster,
            chunk_bytes: config.chunk_bytes,
            replication: config.replication,
            replication_floor: config.replication_floor,
        })?);
        tracing::info!(
            data_dir = %config.data_dir.display(),
            cluster = %data.cluster,
            store = store.kind(),
            sessions = sessions.count(),
            nodes = cluster.nodes().len(),
            epoch,
            durability = %progress.durability(),
            "metadata is open"
        );
        Ok(Core {
            started: clock.monotonic(),
            store,
            clock,
            cluster_id: data.cluster,
            capability_key: data.capability_key,
            replication,
            freed_chunk_delay: config.freed_chunk_delay,
            hold,
            groups: Arc::new(GroupMaker::new(cluster.clone(), placement, applier.clone())),
            sessions,
            opens,
            locks,
            leases: Arc::default(),
            cluster,
            applier,
            progress,
            workers: Workers::default(),
            checking: tokio::sync::Mutex::default(),
            scratch: Scratch::in_dir(&config.data_dir),
            setting_quota: tokio::sync::Mutex::default(),
            _data: data,
        })
    }

    /// Starts background work; needs a tokio runtime. Freed chunks are deleted through `chunks`.
    pub fn start_workers(&self, chunks: Arc<dyn ChunkConnector>) {
        let expiry = SessionExpiry::new(self.sessions.clone(), self.applier.clone(), self.leases.clone());
        self.workers.spawn(Arc::new(expiry));
        let cluster = ClusterWorker::new(self.cluster.clone(), self.groups.clone());
        self.workers.spawn(Arc::new(cluster));
        let persister = Persister::new(self.progress.clone(), self.applier.clone());
        self.workers.spawn(Arc::new(persister));
        self.workers.spawn(Arc::new(Reaper::new(self.applier.clone())));
        let collector = ChunkCollector::new(CollectorParts {
            store: self.store.clone(),
            clock: self.clock.clone(),
            cluster: self.cluster.clone(),
            applier: self.applier.clone(),
            chunks,
            capability_key: self.capability_key,
            delay: self.freed_chunk_delay,
            hold: self.hold.clone(),
        });
        self.workers.spawn(Arc::new(collector));
    }

    /// Takes one open back, and lets the inode go if it was the last open of an orphan that is not kept for others.
    ///
    /// # Errors
    /// `BadHandle` if the session does not have it open.
    pub async fn release(&self, session: SessionId, ino: Ino) -> FsResult<()> {
        use crate::session::opens::Counted;
        loop {
            match self.opens.release(session, ino)? {
                Counted::Done(0) => {
                    self.leases.closed(session, ino, &self.opens);
                    break;
                }
                Counted::Done(_) => return Ok(()),
                Counted::Settling => self.applier.barrier().await?,
            }
        }
        match namespace::orphans::holders(&*self.store, ino)?.contains(&session) {
            true => self.applier.release_orphan(session, ino).await,
            false => Ok(()),
        }
    }

    /// Ends a session: it is refused from now on, and its records are taken away.
    pub async fn end_session(&self, session: SessionId) -> FsResult<()> {
        if self.sessions.begin_end(session) {
            self.take_apart(session).await?;
        }
        Ok(())
    }

    /// The rest of ending a session, which is refused already.
    pub(crate) async fn take_apart(&self, session: SessionId) -> FsResult<()> {
        self.leases.end(session);
        self.applier.end_session(session).await
    }

    /// Chunks with fewer live replicas than they shall have.
    pub fn under_replicated(&self) -> FsResult<u64> {
        use dfs_common::cluster::NodeHealth;
        let live: std::collections::BTreeSet<_> = self
            .cluster
            .nodes()
            .into_iter()
            .filter(|node| node.health != NodeHealth::Down)
            .map(|node| node.id)
            .collect();
        let mut chunks = 0;
        for (replicas, count) in namespace::read::replica_sets(&*self.store)? {
            let alive = replicas.iter().filter(|id| live.contains(id)).count();
            if alive < self.replication.factor as usize {
                chunks += count;
            }
        }
        Ok(chunks)
    }
}
