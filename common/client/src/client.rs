//! The client: its parts put together, its background tasks, and its end.

use crate::config::ClientConfig;
use crate::dirty::{DirtyBudget, Pool};
use crate::kernel_pages::KernelPages;
use crate::leased::{LeasedCache, Listings};
use crate::locks::Locks;
use crate::paths::PathApi;
use crate::placement::ClusterView;
use crate::reader::block_cache::BlockCache;
use crate::releases::Releases;
use crate::session::Session;
use crate::session::recovery::client_name;
use crate::table::Table;
use crate::types::{Again, Change, Invalidation};
use crate::waiting::{Attempts, WaitList, What, within};
use crate::writer::flusher::Unsaved;
use crate::writer::grants::Grants;
use crate::writer::quota::Quotas;
use dfs_common::clock::SystemClock;
use dfs_common::error::ADVICE_NO_COORDINATOR;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::service::{ChunkConnector, MetadataService};
use dfs_common::session::{Caller, OpenSession};
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult};
use dfs_proto::socket::Peer;
use dfs_proto::{ChunkChannels, connect_metadata};
use futures::StreamExt;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Invalidations that wait for the cache above.
const INVALIDATIONS_MAX: usize = 4096;
/// Chunks uploaded in the background at the same time.
const UPLOADS_AT_ONCE: usize = 4;
/// Ranges read ahead at the same time.
const READS_AHEAD_AT_ONCE: usize = 6;
/// Files saved at the same time at shutdown.
const SAVES_AT_ONCE: usize = 16;
/// For the recall stream of a new session; without one the client works, and remembers nothing.
const FIRST_STREAM: Duration = Duration::from_secs(1);
/// Patience of the last words to the coordinator.
const FAREWELL: Duration = Duration::from_secs(3);

/// Everything that the operations share.
pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) metadata: Arc<dyn MetadataService>,
    pub(crate) chunks: Arc<dyn ChunkConnector>,
    pub(crate) clock: SystemClock,
    pub(crate) session: Session,
    pub(crate) leased: Arc<LeasedCache>,
    pub(crate) listings: Listings,
    pub(crate) locks: Locks,
    pub(crate) waits: Arc<WaitList>,
    pub(crate) cluster: ClusterView,
    pub(crate) grants: Grants,
    pub(crate) table: Table,
    pub(crate) releases: Releases,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) pages: KernelPages,
    pub(crate) dirty: DirtyBudget,
    pub(crate) pool: Arc<Pool>,
    pub(crate) unsaved: Unsaved,
    pub(crate) quotas: Quotas,
    pub(crate) upload_turns: Semaphore,
    /// Window of one stream; never so large that blocks are dropped before they are read.
    pub(crate) read_ahead_bytes: u64,
    pub(crate) ahead_budget: Arc<Semaphore>,
    pub(crate) ahead_turns: Semaphore,
    invalidations: mpsc::Sender<Invalidation>,
    invalidations_out: Mutex<Option<mpsc::Receiver<Invalidation>>>,
    /// Shutdown has begun.
    closing: AtomicBool,
    /// Everything is saved, or given up: sessions are not resumed or opened any more.
    pub(crate) ended: AtomicBool,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inner {
    /// A task that ends by itself or with the client.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// As [`Inner::spawn`], for destructors: does nothing outside a runtime.
    pub(crate) fn spawn_if_running(&self, task: impl Future<Output = ()> + Send + 'static) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.spawn(task);
        }
    }

    /// The way to the cache above, if there is one.
    pub(crate) fn above(&self) -> Option<&mpsc::Sender<Invalidation>> {
        self.invalidations_out
            .lock()
            .is_none()
            .then_some(&self.invalidations)
    }

    /// Tells the cache above. Never waits.
    pub(crate) fn invalidate(&self, change: Change) {
        let invalidation = Invalidation {
            change,
            again: None,
            done: None,
        };
        if let Err(error) = self.invalidations.try_send(invalidation)
            && self.invalidations_out.lock().is_none()
        {
            tracing::warn!(%error, "an invalidation was dropped: the cache above does not keep up");
        }
    }
}

impl Inner {
    /// Makes the cache above forget; returns when it has.
    pub(crate) async fn forget_above(&self, changes: Vec<Change>) {
        let Some(above) = self.above() else {
            return;
        };
        let mut waits = Vec::new();
        for change in changes {
            let (done, forgotten) = oneshot::channel();
            let invalidation = Invalidation {
                change,
                again: None,
                done: Some(done),
            };
            // A receiver that is gone has nothing cached.
            if above.send(invalidation).await.is_ok() {
                waits.push(forgotten);
            }
        }
        for forgotten in waits {
            let _ = forgotten.await;
        }
    }

    /// Makes the cache above forget `change`, and then whatever `again` says until it says nothing; returns when it has. False if there is none.
    pub(crate) async fn forget_above_until(&self, change: Change, again: Again) -> bool {
        let Some(above) = self.above() else {
            return false;
        };
        let (done, forgotten) = oneshot::channel();
        let invalidation = Invalidation {
            change,
            again: Some(again),
            done: Some(done),
        };
        above.send(invalidation).await.is_ok() && forgotten.await.is_ok()
    }
}

struct Shared {
    inner: Arc<Inner>,
    /// The background tasks end with the last handle.
    _guard: DropGuard,
}

/// A client of one cluster: a cheap handle. Dropping the last one without [`Client::shutdown`] loses what is unsaved.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

impl Client {
    /// Connects to the coordinator and opens a session, waiting for it as long as `config.connect_timeout`.
    ///
    /// # Errors
    /// `Invalid` if the address is not `host:port`; `Unavailable` or `TimedOut` if nobody answers in time.
    pub async fn connect(config: ClientConfig) -> FsResult<Client> {
        let coordinator = Peer::new(&config.coordinator, config.local_sockets);
        let metadata = connect_metadata(config.transport, coordinator, CALL_DEADLINE)?;
        let chunks = ChunkChannels::new(config.transport, CALL_DEADLINE, config.local_sockets);
        Client::with_services(config, metadata, Arc::new(chunks)).await
    }

    /// With other implementations of the two seams, for tests and embedders.
    ///
    /// # Errors
    /// Those of opening a session.
    pub async fn with_services(
        config: ClientConfig,
        metadata: Arc<dyn MetadataService>,
        chunks: Arc<dyn ChunkConnector>,
    ) -> FsResult<Client> {
        let waits = Arc::new(WaitList::default());
        let mut attempts = Attempts::new(&waits, What::new("connecting"), Some(config.connect_timeout));
        let (grant, sent) = loop {
            let sent = Instant::now();
            let request = OpenSession {
                client_name: client_name(&config.client_name),
                resume: None,
                opened: Vec::new(),
                unsynced: None,
                locks: Default::default(),
                leases: false,
            };
            let deadline = CALL_DEADLINE.min(config.connect_timeout);
            match within(deadline, metadata.open_session(request)).await {
                Ok(grant) => break (grant, sent),
                Err(error) => attempts
                    .pause(error)
                    .await
                    .map_err(|error| error.context(format_args!("coordinator {}", config.coordinator)))
                    .map_err(|error| error.advise_unreached(ADVICE_NO_COORDINATOR))?,
            }
        };
        drop(attempts);
        let (invalidations, invalidations_out) = mpsc::channel(INVALIDATIONS_MAX);
        let read_ahead_bytes = config.read_ahead_bytes.min(config.cache_bytes / 4);
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            metadata,
            chunks,
            clock: SystemClock::default(),
            session: Session::new(&grant, sent),
            leased: Arc::default(),
            listings: Listings::default(),
            locks: Locks::default(),
            waits,
            cluster: ClusterView::default(),
            grants: Grants::default(),
            table: Table::default(),
            releases: Releases::default(),
            cache: Arc::new(BlockCache::new(config.cache_bytes)),
            pages: KernelPages::new(),
            dirty: DirtyBudget::new(config.dirty_bytes_max),
            pool: Arc::default(),
            unsaved: Unsaved::default(),
            quotas: Quotas::default(),
            upload_turns: Semaphore::new(UPLOADS_AT_ONCE),
            read_ahead_bytes,
            ahead_budget: Arc::new(Semaphore::new(
                (read_ahead_bytes as usize * 2).min(Semaphore::MAX_PERMITS),
            )),
            ahead_turns: Semaphore::new(READS_AHEAD_AT_ONCE),
            invalidations,
            invalidations_out: Mutex::new(Some(invalidations_out)),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
            config,
        });
        inner.spawn(inner.clone().keep_alive());
        inner.spawn(inner.clone().hold_lifeline());
        inner.spawn(inner.clone().follow_recalls());
        inner.spawn(inner.clone().send_releases());
        inner.spawn(inner.clone().flush_old());
        tracing::debug!(session = %grant.identity.session, cluster = %grant.cluster, "session opened");
        // Without it the first writes would be committed one by one.
        inner.leased.wait_for_stream(FIRST_STREAM).await;
        Ok(Client(Arc::new(Shared {
            inner,
            _guard: stop.drop_guard(),
        })))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }

    /// Saves everything unsaved, waiting up to `patience`, tells the coordinator of closed files and ends the session.
    /// Idempotent; operations after it fail with `Unavailable`.
    ///
    /// # Errors
    /// The first error of saving, or `TimedOut` if something is still unsaved: it is lost.
    pub async fn shutdown(&self, patience: Duration) -> FsResult<()> {
        let inner = self.inner();
        if inner.closing.swap(true, Ordering::SeqCst) {
            inner.tasks.wait().await;
            return Ok(());
        }
        let first_error = Mutex::new(Ok(()));
        let saving =
            futures::stream::iter(inner.unsaved.files()).for_each_concurrent(SAVES_AT_ONCE, |file| {
                let first_error = &first_error;
                async move {
                    if let Err(error) = inner.save(&file).await
                        && file.is_wanted()
                    {
                        let mut first = first_error.lock();
                        if first.is_ok() {
                            *first = Err(error);
                        }
                    }
                }
            });
        let unsaved_files = match tokio::time::timeout(patience, saving).await {
            Ok(()) => 0,
            Err(_) => inner
                .unsaved
                .files()
                .iter()
                .filter(|file| file.is_wanted())
                .count(),
        };
        if unsaved_files > 0 {
            tracing::error!(unsaved_files, "shut down with unsaved writes: they are lost");
            let mut first = first_error.lock();
            if first.is_ok() {
                *first = Err(FsError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "{unsaved_files} files could not be saved in time: their unsaved writes are lost"
                    ),
                ));
            }
        }
        // Until here the session could be resumed, for saving may have needed that.
        inner.ended.store(true, Ordering::SeqCst);
        // Closed files need not be told one by one: the session ends.
        let identity = inner.session.live().identity;
        if let Err(error) = within(FAREWELL, inner.metadata.close_session(identity)).await {
            tracing::debug!(%error, "the session was not closed: it ends with its lease");
        }
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        first_error.into_inner()
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.inner().session.live().cluster
    }

    /// What waits for an unreachable server right now, one sentence each.
    pub fn waiting(&self) -> Vec<String> {
        self.inner().waits.describe()
    }

    /// Changes that the kernel (or another cache above) must hear of: the receiver, the first time; then `None`.
    pub fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        self.inner().invalidations_out.lock().take()
    }

    /// Operations by path on behalf of `caller`.
    pub fn paths(&self, caller: Caller) -> PathApi {
        PathApi::new(self.clone(), caller)
    }
}
