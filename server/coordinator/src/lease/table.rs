//! Who holds which lease, and what is being changed.

use super::content::Readers;
use super::holder::{GivenUp, Holder};
use crate::session::opens::OpenTable;
use dfs_common::lease::{Lease, Obeyed, Part, Recall};
use dfs_common::limits::{LEASE_COOLDOWN, RECALL_PATIENCE};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Inodes remembered as contended.
const CONTENDED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

struct Inner {
    holders: HashMap<SessionId, Holder>,
    /// Who has a lease, those that were recalled and not given up among them.
    by_lease: HashMap<Lease, Vec<SessionId>>,
    changing: HashMap<Lease, Changing>,
    /// Recalled a moment ago: leases on these would only go to and fro.
    contended: LruCache<Ino, Instant>,
    streams: u64,
    closed: bool,
}

impl Inner {
    fn forget(&mut self, session: SessionId, leases: impl IntoIterator<Item = Lease>) {
        for lease in leases {
            if let Some(sessions) = self.by_lease.get_mut(&lease) {
                sessions.retain(|holder| *holder != session);
                if sessions.is_empty() {
                    self.by_lease.remove(&lease);
                }
            }
        }
    }

    fn is_contended(&mut self, ino: Ino) -> bool {
        match self.contended.peek(&ino) {
            Some(since) if since.elapsed() < LEASE_COOLDOWN => true,
            Some(_) => {
                self.contended.pop(&ino);
                false
            }
            None => false,
        }
    }

    /// Somebody else has it, or was asked to give it up and has not said yet that it did.
    fn is_held_beside(&self, session: SessionId, lease: Lease) -> bool {
        let holders = self.by_lease.get(&lease);
        holders.is_some_and(|holders| holders.iter().any(|holder| *holder != session))
    }

    fn is_changed_beside(&self, session: SessionId, lease: Lease) -> bool {
        let changing = self.changing.get(&lease);
        changing.is_some_and(|changing| changing.by.iter().any(|by| *by != session))
    }

    /// Grants what nothing speaks against any more, unless the session has no recall stream or does not obey.
    fn put(&mut self, session: SessionId, lease: Lease) -> bool {
        let Some(holder) = self.holders.get_mut(&session) else {
            return false;
        };
        if holder.broken || holder.stream == 0 {
            return false;
        }
        if holder.has(lease) {
            return true;
        }
        // There is always room for the one on quotas.
        if holder.is_leaving(lease) || !(holder.make_room() || lease.ino == Ino::QUOTAS) {
            return false;
        }
        holder.put(lease);
        self.by_lease.entry(lease).or_default().push(session);
        true
    }
}

/// Running changes of what a lease covers.
#[derive(Default)]
struct Changing {
    /// Whose; one entry for each.
    by: Vec<SessionId>,
    /// Changes that ran at some time since the first of them.
    begun: u32,
}

/// What a session that asks for its recalls is told.
pub(super) enum Recalls {
    /// These.
    Now(Vec<Recall>),
    /// None yet: ask again when this is notified.
    Later(Arc<Notify>),
    /// A later call is the one that is answered.
    Superseded,
}

/// Answer to a request for a lease on content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// It is there.
    Granted,
    /// Somebody changes it, or the session has not given up the one before: ask again when something has ended.
    Later,
    /// The session has no recall stream, or does not obey.
    Refused,
}

/// All leases of the cluster.
pub struct LeaseTable {
    inner: Mutex<Inner>,
    /// Notified when a change of content has ended, or a lease on content was given up.
    pub(super) content_settled: Notify,
    pub(super) readers: Readers,
}

impl Default for LeaseTable {
    fn default() -> Self {
        LeaseTable {
            inner: Mutex::new(Inner {
                holders: HashMap::new(),
                by_lease: HashMap::new(),
                changing: HashMap::new(),
                contended: LruCache::new(CONTENDED_MAX),
                streams: 0,
                closed: false,
            }),
            content_settled: Notify::new(),
            readers: Readers::default(),
        }
    }
}

impl LeaseTable {
    /// A new recall stream of a session, which has forgotten everything that it was granted before, but for what it buffers. Answers its
    /// number.
    pub fn attach(&self, session: SessionId) -> u64 {
        let mut inner = self.inner.lock();
        inner.streams += 1;
        let stream = inner.streams;
        let old = inner.holders.remove(&session);
        let (holder, given_up) = match old {
            Some(old) => old.attach(stream),
            None => (Holder::new(stream), Vec::new()),
        };
        inner.holders.insert(session, holder);
        inner.forget(session, given_up);
        drop(inner);
        self.content_settled.notify_waiters();
        stream
    }

    /// A session that resumes says that it buffers writes of these files: nobody reads them before it has saved them.
    pub fn declare_buffers(&self, session: SessionId, inos: impl IntoIterator<Item = Ino>) {
        let mut inner = self.inner.lock();
        for lease in inos.into_iter().map(Lease::buffer) {
            let holder = inner.holders.entry(session).or_insert_with(|| Holder::new(0));
            if !holder.has(lease) && !holder.is_leaving(lease) {
                holder.put(lease);
                inner.by_lease.entry(lease).or_default().push(session);
            }
        }
    }

    /// A call for the recalls of a session begins. Answers its number among them.
    ///
    /// # Errors
    /// As [`LeaseTable::pending`].
    pub(super) fn begin_poll(&self, session: SessionId, stream: u64) -> FsResult<u64> {
        let mut inner = self.inner.lock();
        let holder = inner.attached(session, stream)?;
        holder.polls += 1;
        holder.arrived.notify_one();
        Ok(holder.polls)
    }

    /// The recalls of a session that it has not received, for call number `poll`; takes note of what it obeyed.
    ///
    /// # Errors
    /// `Stale` if the stream is not the session's present one, or missed a recall: forget everything, attach again.
    pub(super) fn pending(
        &self,
        session: SessionId,
        stream: u64,
        poll: u64,
        obeyed: &Obeyed,
    ) -> FsResult<Recalls> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(FsError::new(
                ErrorKind::Unavailable,
                "the coordinator was stopped",
            ));
        }
        let holder = inner.attached(session, stream)?;
        let given_up = holder.obeyed(obeyed);
        let recalls = if holder.polls != poll {
            // It may have taken the notification of the one that is answered.
            holder.arrived.notify_one();
            Recalls::Superseded
        } else {
            match holder.unreceived() {
                none if none.is_empty() => Recalls::Later(holder.arrived.clone()),
                recalls => Recalls::Now(recalls),
            }
        };
        let content = given_up.iter().any(|lease| lease.part == Part::Content);
        inner.forget(session, given_up);
        drop(inner);
        if content {
            self.content_settled.notify_waiters();
        }
        Ok(recalls)
    }

    /// The session has ended: its client answers from memory no more.
    pub fn end(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        if let Some(holder) = inner.holders.remove(&session) {
            holder.arrived.notify_one();
            // Before those who wait for it hear of it.
            inner.forget(session, holder.all());
        }
        drop(inner);
        self.content_settled.notify_waiters();
    }

    /// Sessions that did not obey a recall for [`RECALL_PATIENCE`], though they are alive: to be ended.
    pub fn overdue(&self) -> Vec<SessionId> {
        let inner = self.inner.lock();
        let overdue = |holder: &Holder| {
            let since = holder.waiting_since();
            since.is_some_and(|since| since.elapsed() > RECALL_PATIENCE)
        };
        let sessions = inner.holders.iter().filter(|(_, holder)| overdue(holder));
        sessions.map(|(session, _)| *session).collect()
    }

    /// Grants a lease on attributes and names, before they are read; above [`dfs_common::limits::SESSION_LEASES_MAX`] the session's oldest
    /// are recalled. False if the inode is being changed or contended, or somebody else buffers writes of it, or the session has no recall stream or does not
    /// obey.
    pub fn grant(&self, session: SessionId, ino: Ino) -> bool {
        self.grant_beside(session, ino, 0)
    }

    /// Grants it to the session whose running change of the inode is the only one since it began.
    pub(super) fn grant_to_changer(&self, session: SessionId, ino: Ino) -> bool {
        self.grant_beside(session, ino, 1)
    }

    fn grant_beside(&self, session: SessionId, ino: Ino, own: u32) -> bool {
        let mut inner = self.inner.lock();
        let lease = Lease::attributes(ino);
        let begun = inner.changing.get(&lease).map_or(0, |changing| changing.begun);
        let buffered = inner.is_held_beside(session, Lease::buffer(ino));
        if begun > own || buffered || inner.is_contended(ino) {
            return false;
        }
        inner.put(session, lease)
    }

    /// Grants a lease on a file's content, before the map is read.
    pub(super) fn grant_content(&self, session: SessionId, ino: Ino) -> Grant {
        let mut inner = self.inner.lock();
        let lease = Lease::content(ino);
        let leaving = inner
            .holders
            .get(&session)
            .is_some_and(|holder| holder.is_leaving(lease));
        let beside =
            inner.is_changed_beside(session, lease) || inner.is_held_beside(session, Lease::buffer(ino));
        match leaving || beside {
            true => Grant::Later,
            false if inner.put(session, lease) => Grant::Granted,
            false => Grant::Refused,
        }
    }

    /// Grants the right to buffer writes of a file that the session has open. False if anybody else has it open, has any lease on it, or is
    /// reading or changing it.
    pub(super) fn grant_buffer(&self, session: SessionId, ino: Ino, opens: &OpenTable) -> bool {
        let mut inner = self.inner.lock();
        let parts = [Lease::attributes(ino), Lease::content(ino), Lease::buffer(ino)];
        let alone = parts
            .iter()
            .all(|lease| !inner.is_held_beside(session, *lease) && !inner.is_changed_beside(session, *lease));
        // One that opens it after this recalls what is granted here.
        alone && !opens.is_open_beside(session, ino) && inner.put(session, Lease::buffer(ino))
    }

    /// The session may have closed the file: if it has, what it was leased of its content is over, unless it was recalled.
    pub fn closed(&self, session: SessionId, ino: Ino, opens: &OpenTable) {
        let mut inner = self.inner.lock();
        if opens.count(session, ino).count > 0 {
            return;
        }
        for lease in [Lease::content(ino), Lease::buffer(ino)] {
            if let Some(holder) = inner.holders.get_mut(&session)
                && holder.remove(lease)
            {
                inner.forget(session, [lease]);
            }
        }
    }

    /// Whether any of these files may have writes that another session than `session` acknowledged and did not commit yet.
    pub(super) fn is_buffered_beside(&self, session: SessionId, inos: impl IntoIterator<Item = Ino>) -> bool {
        let inner = self.inner.lock();
        inos.into_iter()
            .any(|ino| inner.is_held_beside(session, Lease::buffer(ino)))
    }

    /// Marks what these leases cover as being changed (of [`Part::Buffer`]: read) and takes the leases away from all sessions but `by`.
    /// Answers what to wait for, and that is also what others are waiting for already.
    pub(super) fn begin_change(&self, by: SessionId, leases: &BTreeSet<Lease>) -> Vec<GivenUp> {
        let mut inner = self.inner.lock();
        let mut taken: HashMap<SessionId, Vec<Lease>> = HashMap::new();
        for lease in leases {
            let changing = inner.changing.entry(*lease).or_default();
            changing.by.push(by);
            changing.begun += 1;
            for session in inner.by_lease.get(lease).into_iter().flatten() {
                if *session != by {
                    taken.entry(*session).or_default().push(*lease);
                }
            }
        }
        let mut waits = Vec::with_capacity(taken.len());
        for (session, leases) in taken {
            for lease in leases.iter().filter(|lease| lease.part == Part::Attributes) {
                inner.contended.put(lease.ino, Instant::now());
            }
            if let Some(holder) = inner.holders.get_mut(&session) {
                holder.take(leases, &mut waits);
            }
        }
        waits
    }

    /// Recalls a lease of a session that may not have it. Answers what to wait for.
    pub(super) fn recall_anyway(&self, session: SessionId, lease: Lease) -> Vec<GivenUp> {
        let mut waits = Vec::new();
        let mut inner = self.inner.lock();
        if let Some(holder) = inner.holders.get_mut(&session) {
            holder.take(vec![lease], &mut waits);
        }
        waits
    }

    /// The changes of `by` are committed, or did not happen.
    pub(super) fn end_change(&self, by: SessionId, leases: &BTreeSet<Lease>) {
        let mut inner = self.inner.lock();
        let mut content = false;
        for lease in leases {
            content |= lease.part == Part::Content;
            if let Some(changing) = inner.changing.get_mut(lease) {
                if let Some(at) = changing.by.iter().position(|other| *other == by) {
                    changing.by.swap_remove(at);
                }
                if changing.by.is_empty() {
                    inner.changing.remove(lease);
                }
            }
        }
        drop(inner);
        if content {
            self.content_settled.notify_waiters();
        }
    }

    /// Answers every call for recalls, now and later, with `Unavailable`.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for holder in inner.holders.values() {
            holder.arrived.notify_one();
        }
    }

    /// Sessions with leases or a stream, and leases.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let leases = inner.holders.values().map(Holder::count).sum();
        (inner.holders.len(), leases)
    }
}

impl Inner {
    /// # Errors
    /// `Stale` if the stream is not the session's present one, or missed a recall.
    fn attached(&mut self, session: SessionId, stream: u64) -> FsResult<&mut Holder> {
        let holder = self.holders.get_mut(&session);
        let holder = holder.filter(|holder| holder.stream == stream && stream != 0 && !holder.broken);
        holder.ok_or_else(|| {
            FsError::new(
                ErrorKind::Stale,
                "the recall stream is over: forget what was leased and open a new one",
            )
        })
    }
}

#[cfg(test)]
mod tests;
