//! Which session holds which inode open. In memory: clients declare their opens again after a restart.
//!
//! Two parties use the table at once: the applier asks for an inode's holders when it removes a last name or lets a replaced
//! inode go, and the service counts opens and releases without going through the applier. The invariant between them: an inode for which
//! the running group commit asked is *settling* until that group is committed; opening or releasing it meanwhile must wait
//! for the group (see [`OpenTable::open`]), so that nobody opens an inode that is being destroyed and no release misses an
//! orphan that is being recorded.

use crate::namespace::OpenFiles;
use dfs_common::limits::SESSION_OPEN_INODES_MAX;
use dfs_common::session::OpenDeclaration;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Opens of one inode by one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCount {
    /// Opens not yet released.
    pub count: u64,
    /// One of them was for reading.
    pub read: bool,
    /// One of them was for writing.
    pub write: bool,
    /// Of those, the session's kernel may keep pages.
    pub pages: bool,
}

/// Answer to an open or a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Done; opens of the session that are left.
    Done(u64),
    /// The running group commit is deciding on the inode: wait until it is committed, then ask again.
    Settling,
}

#[derive(Default)]
struct Inner {
    by_session: HashMap<SessionId, HashMap<Ino, OpenCount>>,
    by_inode: HashMap<Ino, BTreeSet<SessionId>>,
    /// Sessions from before the restart that did not resume yet: they may hold anything.
    grace: BTreeSet<SessionId>,
    settling: HashSet<Ino>,
}

impl Inner {
    fn add(&mut self, session: SessionId, ino: Ino, read: bool, write: bool) -> FsResult<u64> {
        let opens = self.by_session.entry(session).or_default();
        if opens.len() >= SESSION_OPEN_INODES_MAX && !opens.contains_key(&ino) {
            return Err(FsError::new(
                ErrorKind::Busy,
                "the session has too many files open",
            ));
        }
        let open = opens.entry(ino).or_default();
        open.count += 1;
        open.read |= read;
        open.write |= write;
        let count = open.count;
        self.by_inode.entry(ino).or_default().insert(session);
        Ok(count)
    }

    fn pages_beside(&self, session: SessionId, ino: Ino) -> Option<SessionId> {
        let has = |other: &&SessionId| {
            let opens = self.by_session.get(other).and_then(|opens| opens.get(&ino));
            **other != session && opens.is_some_and(|open| open.pages)
        };
        self.by_inode.get(&ino).into_iter().flatten().find(has).copied()
    }

    fn forget(&mut self, session: SessionId, ino: Ino) {
        if let Some(holders) = self.by_inode.get_mut(&ino) {
            holders.remove(&session);
            if holders.is_empty() {
                self.by_inode.remove(&ino);
            }
        }
    }
}

/// Open files of all sessions.
#[derive(Default)]
pub struct OpenTable {
    inner: Mutex<Inner>,
}

impl OpenTable {
    /// Counts one open, unless the inode is settling.
    ///
    /// # Errors
    /// `Busy` if the session has [`SESSION_OPEN_INODES_MAX`] inodes open.
    pub fn open(&self, session: SessionId, ino: Ino, read: bool, write: bool) -> FsResult<Counted> {
        let mut inner = self.inner.lock();
        if inner.settling.contains(&ino) {
            return Ok(Counted::Settling);
        }
        inner.add(session, ino, read, write).map(Counted::Done)
    }

    /// Counts one open that the applier itself has just applied: it is never in conflict with its own group.
    pub fn open_applied(&self, session: SessionId, ino: Ino, read: bool, write: bool) -> FsResult<()> {
        self.inner.lock().add(session, ino, read, write).map(drop)
    }

    /// Takes one open back, unless the inode is settling. `Done(0)`: the session has no open of it left.
    ///
    /// # Errors
    /// `BadHandle` if the session does not have it open.
    pub fn release(&self, session: SessionId, ino: Ino) -> FsResult<Counted> {
        let mut inner = self.inner.lock();
        if inner.settling.contains(&ino) {
            return Ok(Counted::Settling);
        }
        let opens = inner.by_session.get_mut(&session);
        let Some(open) = opens.and_then(|opens| opens.get_mut(&ino)) else {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                format!("inode {ino} is not open"),
            ));
        };
        open.count -= 1;
        let left = open.count;
        if left == 0 {
            if let Some(opens) = inner.by_session.get_mut(&session) {
                opens.remove(&ino);
            }
            inner.forget(session, ino);
        }
        Ok(Counted::Done(left))
    }

    /// A session from before the restart: it may hold anything until [`OpenTable::resume`] or [`OpenTable::end`].
    pub fn begin_grace(&self, session: SessionId) {
        self.inner.lock().grace.insert(session);
    }

    /// True while sessions from before the restart may hold anything.
    pub fn anybody_in_grace(&self) -> bool {
        !self.inner.lock().grace.is_empty()
    }

    /// What a session declares when it resumes: one declaration per open. What the table has already stays, since an
    /// open may have been counted after the client made its list.
    ///
    /// # Errors
    /// `Busy` above [`SESSION_OPEN_INODES_MAX`] inodes; nothing is changed then.
    pub fn resume(&self, session: SessionId, declared: &[OpenDeclaration]) -> FsResult<()> {
        let mut wanted: HashMap<Ino, OpenCount> = HashMap::new();
        for open in declared {
            let entry = wanted.entry(open.ino).or_default();
            entry.count += 1;
            entry.read |= open.read;
            entry.write |= open.write;
            entry.pages |= open.pages;
        }
        if wanted.len() > SESSION_OPEN_INODES_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                "the session has too many files open",
            ));
        }
        let mut inner = self.inner.lock();
        inner.grace.remove(&session);
        for (ino, open) in wanted {
            let entry = inner
                .by_session
                .entry(session)
                .or_default()
                .entry(ino)
                .or_default();
            entry.count = entry.count.max(open.count);
            entry.read |= open.read;
            entry.write |= open.write;
            entry.pages |= open.pages;
            inner.by_inode.entry(ino).or_default().insert(session);
        }
        Ok(())
    }

    /// Forgets a session and everything that it holds.
    pub fn end(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        inner.grace.remove(&session);
        for (ino, _) in inner.by_session.remove(&session).unwrap_or_default() {
            inner.forget(session, ino);
        }
    }

    /// The opens of `ino` by `session`.
    pub fn count(&self, session: SessionId, ino: Ino) -> OpenCount {
        let inner = self.inner.lock();
        let opens = inner.by_session.get(&session);
        opens
            .and_then(|opens| opens.get(&ino))
            .copied()
            .unwrap_or_default()
    }

    /// True if a session beside `session` has the inode open, or may have.
    pub fn is_open_beside(&self, session: SessionId, ino: Ino) -> bool {
        let inner = self.inner.lock();
        let beside = |other: &SessionId| *other != session;
        let open = inner.by_inode.get(&ino);
        inner.grace.iter().any(beside) || open.is_some_and(|sessions| sessions.iter().any(beside))
    }

    /// The other session whose kernel may keep pages that its programs write to.
    pub fn pages_beside(&self, session: SessionId, ino: Ino) -> Option<SessionId> {
        self.inner.lock().pages_beside(session, ino)
    }

    /// Whether the session's kernel may keep pages of an inode that it has open for writing: for one session at a time, until it has closed it.
    pub fn claim_pages(&self, session: SessionId, ino: Ino) -> bool {
        let mut inner = self.inner.lock();
        if inner.pages_beside(session, ino).is_some() || inner.grace.iter().any(|other| *other != session) {
            return false;
        }
        let opens = inner.by_session.get_mut(&session);
        match opens.and_then(|opens| opens.get_mut(&ino)) {
            Some(open) if open.write => {
                open.pages = true;
                true
            }
            _ => false,
        }
    }

    /// The group for which inodes were settling is committed.
    pub fn settled(&self) {
        self.inner.lock().settling.clear();
    }
}

impl OpenFiles for OpenTable {
    /// The answer decides an inode's fate, so the inode is settling until [`OpenTable::settled`].
    fn holders(&self, ino: Ino) -> Vec<SessionId> {
        let mut inner = self.inner.lock();
        inner.settling.insert(ino);
        let mut holders = inner.grace.clone();
        if let Some(open) = inner.by_inode.get(&ino) {
            holders.extend(open);
        }
        holders.into_iter().collect()
    }
    fn is_open(&self, session: SessionId, ino: Ino, write: bool) -> bool {
        let open = self.count(session, ino);
        open.count > 0 && (open.write || !write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const FILE: Ino = Ino(7);

    #[test]
    fn opens_are_counted_per_session() {
        let table = OpenTable::default();
        assert_eq!(table.open(A, FILE, true, false), Ok(Counted::Done(1)));
        assert_eq!(table.open(A, FILE, false, true), Ok(Counted::Done(2)));
        table.open(B, FILE, true, false).unwrap();
        assert!(table.is_open(A, FILE, true) && table.is_open(B, FILE, false));
        assert!(!table.is_open(B, FILE, true));
        assert_eq!(table.holders(FILE), [A, B]);
        table.settled();
        assert_eq!(table.release(A, FILE), Ok(Counted::Done(1)));
        assert_eq!(table.release(A, FILE), Ok(Counted::Done(0)));
        assert_eq!(table.release(A, FILE).unwrap_err().kind(), ErrorKind::BadHandle);
        table.end(B);
        assert!(table.holders(FILE).is_empty());
    }

    #[test]
    fn inode_that_a_group_decides_on_waits() {
        let table = OpenTable::default();
        assert!(table.holders(FILE).is_empty());
        assert_eq!(table.open(A, FILE, true, false), Ok(Counted::Settling));
        assert_eq!(table.open(A, Ino(8), true, false), Ok(Counted::Done(1)));
        table.settled();
        assert_eq!(table.open(A, FILE, true, false), Ok(Counted::Done(1)));
        table.holders(FILE);
        assert_eq!(table.release(A, FILE), Ok(Counted::Settling));
    }

    #[test]
    fn session_in_grace_may_hold_anything_until_it_resumes() {
        let table = OpenTable::default();
        table.begin_grace(A);
        table.begin_grace(B);
        table.open(SessionId(9), FILE, true, false).unwrap();
        assert_eq!(table.holders(FILE), [A, B, SessionId(9)]);
        let declared = [true, false].map(|write| OpenDeclaration {
            ino: FILE,
            read: true,
            write,
            pages: false,
            buffer: false,
        });
        table.resume(A, &declared).unwrap();
        table.end(B);
        assert!(table.holders(Ino(8)).is_empty());
        assert_eq!(table.holders(FILE), [A, SessionId(9)]);
        assert_eq!(
            table.count(A, FILE),
            OpenCount {
                count: 2,
                read: true,
                write: true,
                pages: false,
            }
        );
    }

    #[test]
    fn one_session_at_a_time_has_pages_that_it_writes_to() {
        let table = OpenTable::default();
        table.open(A, FILE, true, true).unwrap();
        assert!(!table.is_open_beside(A, FILE) && table.is_open_beside(B, FILE));
        assert!(table.claim_pages(A, FILE) && table.claim_pages(A, FILE));
        table.open(B, FILE, true, false).unwrap();
        assert!(!table.claim_pages(B, FILE), "not even open for writing");
        table.open(B, FILE, false, true).unwrap();
        assert!(!table.claim_pages(B, FILE) && table.pages_beside(B, FILE) == Some(A));
        table.release(A, FILE).unwrap();
        assert!(table.claim_pages(B, FILE) && table.pages_beside(B, FILE).is_none());
        table.begin_grace(SessionId(9));
        assert!(!table.claim_pages(B, FILE), "that one may have some");
        let declared = OpenDeclaration {
            ino: FILE,
            read: true,
            write: true,
            pages: true,
            buffer: false,
        };
        table.end(B);
        table.resume(SessionId(9), &[declared]).unwrap();
        table.open(A, FILE, true, true).unwrap();
        assert!(!table.claim_pages(A, FILE), "that one has some");
    }
}
