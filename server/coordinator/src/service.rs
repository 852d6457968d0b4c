//! The metadata service: sessions are checked, reads go to the store, mutations to the applier.

use crate::core::Core;
use crate::lock::{Ask, Owner};
use crate::namespace::{OpenFiles, orphans, read};
use crate::session::lifeline::SessionLifeline;
use crate::session::opens::Counted;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::cluster::{ClusterUpdate, StatFs};
use dfs_common::extent::ExtentPage;
use dfs_common::lease::{Access, Obeyed, RecallPage};
use dfs_common::limits::{
    CAPABILITY_VALIDITY, EXTENTS_PAGE_MAX, GROUPS_MAX, LOCK_POLL, READDIR_ENTRIES_MAX, RELEASES_MAX,
    SESSION_LEASE, XATTR_LIST_BYTES_MAX,
};
use dfs_common::lock::{HeldLock, LockOutcome, LockOwner, LockRange, LockSpec, LockTicket};
use dfs_common::op::MutationBatch;
use dfs_common::service::{DirPage, Extents, Found, Lifeline, MetadataService, Mutated, Opened};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{CommitPoint, ErrorKind, FsError, FsResult, Ino, Name, TreeUsage};
use parking_lot::RwLock;
use std::sync::Arc;
use std::time::Duration;

/// The coordinator's [`MetadataService`]. After the coordinator was shut down every call answers `Unavailable`.
pub struct CoordinatorService {
    core: RwLock<Option<Arc<Core>>>,
}

impl CoordinatorService {
    /// Serves `core`.
    pub fn new(core: Arc<Core>) -> Self {
        CoordinatorService {
            core: RwLock::new(Some(core)),
        }
    }

    /// The running core.
    ///
    /// # Errors
    /// `Unavailable` after [`CoordinatorService::close`].
    pub fn core(&self) -> FsResult<Arc<Core>> {
        let core = self.core.read();
        core.clone()
            .ok_or_else(|| FsError::new(ErrorKind::Unavailable, "the coordinator was stopped"))
    }

    /// Refuses further calls; answers the core, which running calls may still use.
    pub fn close(&self) -> Option<Arc<Core>> {
        let core = self.core.write().take();
        if let Some(core) = &core {
            core.leases.close();
            core.locks.close();
        }
        core
    }

    fn live(&self, identity: &Identity) -> FsResult<Arc<Core>> {
        let core = self.core()?;
        core.sessions.check(identity)?;
        Ok(core)
    }
}

/// The sum of what datanodes report; they may report nonsense.
pub(crate) fn total(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn check_caller(caller: &Caller) -> FsResult<()> {
    if caller.groups.len() > GROUPS_MAX {
        return Err(FsError::new(ErrorKind::Invalid, "a caller has too many groups"));
    }
    Ok(())
}

impl Core {
    fn extents(
        &self,
        store: &dyn crate::store::MetaRead,
        identity: &Identity,
        ino: Ino,
        offset: u64,
        length: u64,
    ) -> FsResult<ExtentPage> {
        let expires_unix_ms = self.clock.now_unix_ms() + CAPABILITY_VALIDITY.as_millis() as u64;
        read::read_extents(store, ino, offset, length, EXTENTS_PAGE_MAX as usize, |chunk| {
            self.capability_key.sign(
                identity.session,
                chunk,
                dfs_common::capability::ChunkAccess::Read,
                expires_unix_ms,
            )
        })
    }

    /// What an open answers once it is counted. `again`: the session had the inode open before. Without a name an inode is
    /// opened again by its holders only, or by anybody who may, as long as the namespace keeps it.
    fn opened(
        &self,
        identity: &Identity,
        caller: &Caller,
        access: Access,
        (read, write): (bool, bool),
        again: bool,
    ) -> FsResult<Opened> {
        let ino = access.ino;
        // The session may have ended between the check and the count.
        self.sessions.check(identity)?;
        let snapshot = self.store.snapshot()?;
        let attr = read::open_check(&*snapshot, caller, ino, read, write)?;
        if attr.nlink == 0 {
            let holders = orphans::holders(&*snapshot, ino)?;
            let held = again && holders.contains(&identity.session);
            if !held && !holders.contains(&orphans::NAMESPACE) {
                return Err(FsError::new(ErrorKind::Stale, "the file was removed"));
            }
        }
        let extents = self.extents(&*snapshot, identity, ino, 0, u64::MAX)?;
        Ok(Opened {
            attr,
            extents,
            access,
        })
    }
}

#[async_trait]
impl MetadataService for CoordinatorService {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        let core = self.core()?;
        if let Some(identity) = &request.resume {
            core.sessions.check_resume(identity)?;
            let buffered = request.opened.iter().filter(|open| open.buffer);
            core.leases
                .declare_buffers(identity.session, buffered.map(|open| open.ino));
        }
        core.applier
            .open_session(request, SessionSecret(rand::random()))
            .await
    }

    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        self.core()?.sessions.renew(&identity)?;
        Ok(SESSION_LEASE)
    }

    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        let core = self.core()?;
        core.sessions.check_resume(&identity)?;
        core.end_session(identity.session).await
    }

    async fn lifeline(&self, identity: Identity, number: u64) -> FsResult<Box<dyn Lifeline>> {
        let core = self.core()?;
        core.sessions.check_line(&identity, number)?;
        Ok(Box::new(SessionLifeline::new(&core, identity, number)))
    }

    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        let core = self.live(&identity)?;
        for op in &batch.ops {
            check_caller(&op.caller)?;
        }
        core.change(identity, batch).await
    }

    async fn recalls(&self, identity: Identity, stream: u64, obeyed: Obeyed) -> FsResult<RecallPage> {
        let core = self.live(&identity)?;
        if stream != 0 {
            return core.leases.recalls(identity.session, stream, &obeyed).await;
        }
        let stream = core.leases.attach(identity.session);
        core.sessions.attached(identity.session);
        Ok(RecallPage {
            stream,
            recalls: Vec::new(),
        })
    }

    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint> {
        let core = self.live(&identity)?;
        read::getattr(&*core.store, ino)?;
        if core.progress.point().is_durable() {
            core.applier.check()?;
        } else {
            core.applier.barrier().await?;
        }
        Ok(core.progress.point())
    }

    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found> {
        let core = self.live(&identity)?;
        core.leased_lookup(identity.session, &caller, parent, &name).await
    }

    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found> {
        let core = self.live(&identity)?;
        core.leased_getattr(identity.session, ino).await
    }

    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        let core = self.live(&identity)?;
        read::readlink(&*core.store, ino)
    }

    async fn readdir(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let core = self.live(&identity)?;
        let limit = limit.clamp(1, READDIR_ENTRIES_MAX);
        core.leased_readdir(identity.session, &caller, ino, cursor, limit, attrs)
            .await
    }

    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let core = self.live(&identity)?;
        read::getxattr(&*core.store, &caller, ino, &name)
    }

    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let core = self.live(&identity)?;
        let names = read::listxattr(&*core.store, &caller, ino)?;
        debug_assert!(names.iter().map(|name| name.len() + 1).sum::<usize>() <= XATTR_LIST_BYTES_MAX);
        Ok(names)
    }

    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
        settle: bool,
    ) -> FsResult<Extents> {
        let core = self.live(&identity)?;
        if !core.opens.is_open(identity.session, ino, false) {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                format!("inode {ino} is not open"),
            ));
        }
        let leased = settle && core.leased_content(identity.session, ino).await?;
        let snapshot = core.store.snapshot()?;
        let page = core.extents(&*snapshot, &identity, ino, offset, length)?;
        Ok(Extents { page, leased })
    }

    /// Cancel-safe: an open whose caller went away stays counted until the session ends, as one whose reply was lost.
    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        let core = self.live(&identity)?;
        check_caller(&caller)?;
        let session = identity.session;
        let opens = loop {
            match core.opens.open(session, ino, read, write)? {
                Counted::Done(opens) => break opens,
                Counted::Settling => core.applier.barrier().await?,
            }
        };
        let access = core.leased_open(session, ino, write).await;
        let opened = core.opened(&identity, &caller, access, (read, write), opens > 1);
        if opened.is_err()
            && let Err(error) = core.release(session, ino).await
        {
            tracing::warn!(%session, %ino, %error, "a refused open could not be taken back");
        }
        opened
    }

    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        let core = self.live(&identity)?;
        if inos.is_empty() || inos.len() > RELEASES_MAX {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("a release has 1 to {RELEASES_MAX} inodes, not {}", inos.len()),
            ));
        }
        let mut first_error = Ok(());
        for ino in inos {
            match core.release(identity.session, ino).await {
                Err(error) if error.kind() != ErrorKind::BadHandle => {
                    first_error = first_error.and(Err(error))
                }
                _ => {}
            }
        }
        first_error
    }

    /// Cancel-safe: the request stays, in the queue or granted, for the next poll of its number.
    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        let core = self.live(&identity)?;
        let session = identity.session;
        let LockTicket {
            number,
            settled,
            answered,
        } = ticket;
        if !core.opens.is_open(session, ino, false) {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                format!("inode {ino} is not open"),
            ));
        }
        core.locks.settle(session, settled, &answered)?;
        let ask = Ask::of(session, &lock);
        core.locks
            .lock(ino, number, settled, ask, patience.min(LOCK_POLL))
            .await
    }

    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let core = self.live(&identity)?;
        let session = identity.session;
        let LockTicket {
            number,
            settled,
            answered,
        } = ticket;
        core.locks.settle(session, settled, &answered)?;
        let owner = Owner::of(session, owner);
        core.locks.unlock(ino, number, settled, owner, range)
    }

    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome> {
        let core = self.live(&identity)?;
        let session = identity.session;
        core.locks.settle(session, ticket.settled, &ticket.answered)?;
        core.locks.cancel(session, ticket.number, ticket.settled)
    }

    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>> {
        let core = self.live(&identity)?;
        let held = core.locks.test(ino, &Ask::of(identity.session, &lock))?;
        Ok(held.map(|held| HeldLock {
            session: held.ask.owner.session,
            lock: held.ask.lock(),
        }))
    }

    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        let core = self.live(&identity)?;
        let counters = read::statfs_counters(&*core.store)?;
        let copies = u64::from(core.replication.factor.max(1));
        let nodes = core.cluster.nodes();
        let writable = nodes
            .iter()
            .filter(|node| node.writable && node.health != dfs_common::cluster::NodeHealth::Down);
        Ok(StatFs {
            capacity_bytes: total(nodes.iter().map(|node| node.capacity_bytes)) / copies,
            available_bytes: total(writable.map(|node| node.available_bytes)) / copies,
            used_bytes: counters.content_bytes,
            inodes: counters.inodes,
        })
    }

    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage> {
        self.live(&identity)?.leased_usage(identity.session, ino)
    }

    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        let core = self.live(&identity)?;
        Ok(core.cluster.update_since(known_version))
    }
}
