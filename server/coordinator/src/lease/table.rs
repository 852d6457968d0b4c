//! Who holds which lease, which inodes are being changed, and what recalls are on their way.

use dfs_common::lease::Recall;
use dfs_common::limits::{
    LEASE_COOLDOWN, LEASES_RECALLED_AT_ONCE, RECALL_PATIENCE, RECALLS_PENDING_MAX, SESSION_LEASES_MAX,
};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// Resolves (with or without a value) when a recalled session has given its leases up.
pub(super) type GivenUp = oneshot::Receiver<()>;

/// Inodes remembered as contended.
const CONTENDED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// A session with a recall stream, or one whose stream broke and that may still use what it was granted.
struct Holder {
    /// From the one that was asked for longest ago on.
    leases: LruCache<Ino, ()>,
    /// Leases that were recalled to make room, and the number of that recall: not granted again, and respected, until it is
    /// acknowledged.
    leaving: Option<(u64, HashSet<Ino>)>,
    /// Tells streams of one session apart.
    stream: u64,
    queue: VecDeque<Recall>,
    arrived: Arc<Notify>,
    /// It missed a recall: it is granted nothing more, and must open a new stream.
    broken: bool,
    next_sequence: u64,
    /// Recalls without an acknowledgement; dropping one tells its waiter.
    unacknowledged: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

impl Holder {
    fn new(stream: u64) -> Self {
        Holder {
            leases: LruCache::unbounded(),
            leaving: None,
            stream,
            queue: VecDeque::new(),
            arrived: Arc::new(Notify::new()),
            broken: false,
            next_sequence: 1,
            unacknowledged: BTreeMap::new(),
        }
    }

    fn is_leaving(&self, ino: Ino) -> bool {
        self.leaving.as_ref().is_some_and(|(_, inos)| inos.contains(&ino))
    }

    /// Everything that it was granted and has not acknowledged to have given up.
    fn into_leases(self) -> impl Iterator<Item = Ino> {
        let leaving = self.leaving.into_iter().flat_map(|(_, inos)| inos);
        self.leases.into_iter().map(|(ino, ())| ino).chain(leaving)
    }

    /// Asks for these leases back. Answers what to wait for, and the recall's number.
    fn recall(&mut self, inos: Vec<Ino>) -> (u64, GivenUp) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let (sender, given_up) = oneshot::channel();
        self.unacknowledged.insert(sequence, (Instant::now(), sender));
        // One that does not ask for its recalls gives up everything when it attaches again or ends.
        if self.queue.len() < RECALLS_PENDING_MAX {
            self.queue.push_back(Recall { sequence, inos });
        } else {
            self.broken = true;
            self.queue.clear();
        }
        self.arrived.notify_one();
        (sequence, given_up)
    }

    /// Makes room for one lease more, sooner or later; false if there is none now.
    fn make_room(&mut self) -> bool {
        if self.leases.len() < SESSION_LEASES_MAX {
            return true;
        }
        if self.leaving.is_some() {
            return false;
        }
        let oldest = std::iter::from_fn(|| self.leases.pop_lru().map(|(ino, ())| ino));
        let oldest: Vec<Ino> = oldest.take(LEASES_RECALLED_AT_ONCE).collect();
        let (sequence, _) = self.recall(oldest.clone());
        self.leaving = Some((sequence, oldest.into_iter().collect()));
        true
    }
}

struct Inner {
    holders: HashMap<SessionId, Holder>,
    by_inode: HashMap<Ino, Vec<SessionId>>,
    changing: HashMap<Ino, Changing>,
    /// Recalled a moment ago: leases on these would only go to and fro.
    contended: LruCache<Ino, Instant>,
    streams: u64,
    closed: bool,
}

impl Inner {
    fn forget(&mut self, session: SessionId, leases: impl IntoIterator<Item = Ino>) {
        for ino in leases {
            if let Some(sessions) = self.by_inode.get_mut(&ino) {
                sessions.retain(|holder| *holder != session);
                if sessions.is_empty() {
                    self.by_inode.remove(&ino);
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
}

/// Running changes of an inode.
#[derive(Default)]
struct Changing {
    running: u32,
    /// Changes that ran at some time since the first of them.
    begun: u32,
}

/// What a session that asks for its recalls is told.
pub(super) enum Pending {
    /// These.
    Recalls(Vec<Recall>),
    /// None yet: ask again when this is notified.
    None(Arc<Notify>),
}

/// All leases of the cluster.
pub struct LeaseTable {
    inner: Mutex<Inner>,
}

impl Default for LeaseTable {
    fn default() -> Self {
        LeaseTable {
            inner: Mutex::new(Inner {
                holders: HashMap::new(),
                by_inode: HashMap::new(),
                changing: HashMap::new(),
                contended: LruCache::new(CONTENDED_MAX),
                streams: 0,
                closed: false,
            }),
        }
    }
}

impl LeaseTable {
    /// A new recall stream of a session, which has forgotten everything that it was granted before. Answers its number.
    pub fn attach(&self, session: SessionId) -> u64 {
        let mut inner = self.inner.lock();
        inner.streams += 1;
        let stream = inner.streams;
        if let Some(old) = inner.holders.insert(session, Holder::new(stream)) {
            old.arrived.notify_one();
            inner.forget(session, old.into_leases());
        }
        stream
    }

    /// The recalls of a session behind `acknowledged`, the last one that it has obeyed.
    ///
    /// # Errors
    /// `Stale` if the stream is not the session's present one, or missed a recall: forget everything, attach again.
    pub(super) fn pending(&self, session: SessionId, stream: u64, acknowledged: u64) -> FsResult<Pending> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(FsError::new(
                ErrorKind::Unavailable,
                "the coordinator was stopped",
            ));
        }
        let holder = inner
            .holders
            .get_mut(&session)
            .filter(|holder| holder.stream == stream && !holder.broken);
        let holder = holder.ok_or_else(|| {
            FsError::new(
                ErrorKind::Stale,
                "the recall stream is over: forget what was leased and open a new one",
            )
        })?;
        holder.unacknowledged = holder.unacknowledged.split_off(&acknowledged.saturating_add(1));
        holder.queue.retain(|recall| recall.sequence > acknowledged);
        // They stay queued until acknowledged: a reply may be lost.
        let pending = match holder.queue.is_empty() {
            true => Pending::None(holder.arrived.clone()),
            false => Pending::Recalls(holder.queue.iter().cloned().collect()),
        };
        if let Some((_, left)) = holder.leaving.take_if(|(sequence, _)| *sequence <= acknowledged) {
            inner.forget(session, left);
        }
        Ok(pending)
    }

    /// The session has ended: its client answers from memory no more.
    pub fn end(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        if let Some(holder) = inner.holders.remove(&session) {
            holder.arrived.notify_one();
            inner.forget(session, holder.into_leases());
        }
    }

    /// Sessions that did not obey a recall for [`RECALL_PATIENCE`], though they are alive: to be ended.
    pub fn overdue(&self) -> Vec<SessionId> {
        let inner = self.inner.lock();
        let overdue = |holder: &Holder| {
            let first = holder.unacknowledged.values().next();
            first.is_some_and(|(since, _)| since.elapsed() > RECALL_PATIENCE)
        };
        let sessions = inner.holders.iter().filter(|(_, holder)| overdue(holder));
        sessions.map(|(session, _)| *session).collect()
    }

    /// Grants a lease, before the state that it covers is read; above [`SESSION_LEASES_MAX`] the session's oldest are recalled. False if the
    /// inode is being changed or contended, or the session has no recall stream or does not obey.
    pub fn grant(&self, session: SessionId, ino: Ino) -> bool {
        self.grant_beside(session, ino, 0)
    }

    /// Grants a lease to the session whose running change of the inode is the only one since it began.
    pub(super) fn grant_to_changer(&self, session: SessionId, ino: Ino) -> bool {
        self.grant_beside(session, ino, 1)
    }

    fn grant_beside(&self, session: SessionId, ino: Ino, own: u32) -> bool {
        let mut inner = self.inner.lock();
        let begun = inner.changing.get(&ino).map_or(0, |changing| changing.begun);
        if begun > own || inner.is_contended(ino) {
            return false;
        }
        let Some(holder) = inner.holders.get_mut(&session) else {
            return false;
        };
        if holder.broken {
            return false;
        }
        if holder.leases.get(&ino).is_some() {
            return true;
        }
        // There is always room for the one on quotas.
        if holder.is_leaving(ino) || !(holder.make_room() || ino == Ino::QUOTAS) {
            return false;
        }
        holder.leases.put(ino, ());
        inner.by_inode.entry(ino).or_default().push(session);
        true
    }

    /// Marks inodes as being changed and takes the leases of all sessions but `by` on them away. Answers what to wait for.
    pub(super) fn begin_change(&self, by: SessionId, inos: &BTreeSet<Ino>) -> Vec<GivenUp> {
        let mut inner = self.inner.lock();
        let mut taken: HashMap<SessionId, Vec<Ino>> = HashMap::new();
        for ino in inos {
            let changing = inner.changing.entry(*ino).or_default();
            changing.running += 1;
            changing.begun += 1;
            for session in inner.by_inode.get(ino).into_iter().flatten() {
                if *session != by {
                    taken.entry(*session).or_default().push(*ino);
                }
            }
        }
        let mut waits = Vec::with_capacity(taken.len());
        for (session, inos) in taken {
            inner.forget(session, inos.iter().copied());
            for ino in &inos {
                inner.contended.put(*ino, Instant::now());
            }
            let Some(holder) = inner.holders.get_mut(&session) else {
                continue;
            };
            for ino in &inos {
                holder.leases.pop(ino);
            }
            waits.push(holder.recall(inos).1);
        }
        waits
    }

    /// The changes are committed, or did not happen.
    pub(super) fn end_change(&self, inos: &BTreeSet<Ino>) {
        let mut inner = self.inner.lock();
        for ino in inos {
            if let Some(changing) = inner.changing.get_mut(ino) {
                changing.running -= 1;
                if changing.running == 0 {
                    inner.changing.remove(ino);
                }
            }
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
        let leases = inner.holders.values().map(|holder| holder.leases.len()).sum();
        (inner.holders.len(), leases)
    }
}

#[cfg(test)]
mod tests;
