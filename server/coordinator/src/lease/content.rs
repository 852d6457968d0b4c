//! Leases on the content of files, and to buffer writes of them.
//!
//! Who reads attributes or content of a file that another session may buffer writes of has those saved first. Who opens it, too, and from
//! then on nobody buffers: each write is committed before it is acknowledged, until the file is one session's again.

use super::change::Change;
use super::table::{Grant, LeaseTable};
use crate::core::Core;
use dfs_common::lease::{Access, Lease, Part};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a call waits for the clients from before a restart before its client is told so.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a reader waits for a moment without changes of the content; then it gets what is committed, without a lease.
const CONTENT_PATIENCE: Duration = Duration::from_secs(3);

/// How long a change lets readers of the content go first that wait for a moment without changes. Longer than a change takes; without a bound, those
/// for whom readers wait might wait for them.
const READERS_FIRST: Duration = Duration::from_millis(20);

/// Readers that wait for a lease on content, by file.
#[derive(Default)]
pub(super) struct Readers {
    waiting: Mutex<HashMap<Ino, usize>>,
    /// Notified when one waits no more.
    served: Notify,
}

/// One that waits.
struct Waiting<'a>(&'a Readers, Ino);

impl<'a> Waiting<'a> {
    fn new(readers: &'a Readers, ino: Ino) -> Self {
        *readers.waiting.lock().entry(ino).or_default() += 1;
        Waiting(readers, ino)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if let Some(count) = waiting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.1);
            }
        }
        drop(waiting);
        self.0.served.notify_waiters();
    }
}

impl Readers {
    /// Before content is changed: lets those in who wait for it, so that changes without a gap do not keep them out.
    async fn first(&self, leases: &BTreeSet<Lease>) {
        let deadline = tokio::time::Instant::now() + READERS_FIRST;
        loop {
            let mut served = std::pin::pin!(self.served.notified());
            served.as_mut().enable();
            {
                let waiting = self.waiting.lock();
                let mut contents = leases.iter().filter(|lease| lease.part == Part::Content);
                if waiting.is_empty() || !contents.any(|lease| waiting.contains_key(&lease.ino)) {
                    return;
                }
            }
            if tokio::time::timeout_at(deadline, served).await.is_err() {
                return;
            }
        }
    }
}

impl LeaseTable {
    /// Recalls a lease of a session, whether it has it or not; returns when it has obeyed.
    async fn ask(&self, session: SessionId, lease: Lease) {
        for given_up in self.recall_anyway(session, lease) {
            // Dropped or sent, it has.
            let _ = given_up.await;
        }
    }

    /// A lease on a file's content, once nobody else changes it; false if there is no such moment for [`CONTENT_PATIENCE`], or none is granted.
    async fn content(&self, session: SessionId, ino: Ino) -> bool {
        let deadline = tokio::time::Instant::now() + CONTENT_PATIENCE;
        let mut waiting = None;
        loop {
            let mut settled = std::pin::pin!(self.content_settled.notified());
            settled.as_mut().enable();
            match self.grant_content(session, ino) {
                Grant::Granted => return true,
                Grant::Refused => return false,
                Grant::Later => {
                    waiting.get_or_insert_with(|| Waiting::new(&self.readers, ino));
                }
            }
            if tokio::time::timeout_at(deadline, settled).await.is_err() {
                return false;
            }
        }
    }
}

impl Core {
    /// See [`Readers::first`].
    pub(super) async fn readers_first(&self, leases: &BTreeSet<Lease>) {
        self.leases.readers.first(leases).await;
    }

    /// Waits for the other clients from before a restart: what they know, and what they changed without saying so, is not known.
    ///
    /// # Errors
    /// `Unavailable` after [`SETTLE_PATIENCE`].
    pub(super) async fn settled(&self, session: SessionId) -> FsResult<()> {
        if self.sessions.is_settled_beside(session) {
            return Ok(());
        }
        let settled = self.sessions.settled_beside(session);
        match tokio::time::timeout(SETTLE_PATIENCE, settled).await {
            Ok(()) => Ok(()),
            Err(_) => Err(FsError::new(
                ErrorKind::Unavailable,
                "after a restart changes, and reads of files, wait until the clients from before it have resumed their sessions or lost them",
            )),
        }
    }

    /// As [`Core::settled`]; but who is waited for himself, to become able to open a recall stream, does not wait for others like him.
    async fn settled_for_reading(&self, session: SessionId) -> FsResult<()> {
        match self.sessions.is_unattached(session) {
            true => Ok(()),
            false => self.settled(session).await,
        }
    }

    /// Has other sessions save what they buffer of these files; while the answer is kept, nobody begins to buffer more. `None`: nobody does.
    ///
    /// # Errors
    /// As [`Core::settled`].
    pub(super) async fn unbuffered(&self, session: SessionId, inos: &[Ino]) -> FsResult<Option<Change>> {
        self.settled_for_reading(session).await?;
        if !self.leases.is_buffered_beside(session, inos.iter().copied()) {
            return Ok(None);
        }
        let leases = inos.iter().copied().map(Lease::buffer).collect();
        let mut change = Change::begin(self.leases.clone(), self.applier.clone(), session, leases);
        change.recalled().await;
        Ok(Some(change))
    }

    /// What the session may do with a file that it has just opened; the caller reads attributes and map after this. Content that another
    /// session's programs may have mapped is saved, too. Before the clients from before a restart are back it is nothing; that is asked for again by
    /// who reads.
    pub(crate) async fn leased_open(&self, session: SessionId, ino: Ino, write: bool) -> Access {
        if !self.sessions.is_settled_beside(session) {
            return Access {
                ino,
                content: false,
                buffer: false,
                pages: false,
            };
        }
        let pages = self.opens.pages_beside(session, ino);
        if pages.is_some() || self.leases.is_buffered_beside(session, [ino]) {
            let leases = [Lease::buffer(ino), Lease::content(ino)].into();
            let mut change = Change::begin(self.leases.clone(), self.applier.clone(), session, leases);
            if let Some(other) = pages {
                // It may have closed the file, and says so before it obeys.
                self.leases.ask(other, Lease::content(ino)).await;
            }
            change.recalled().await;
            change.finish();
        }
        let content = self.leases.content(session, ino).await;
        self.access_of_open(session, ino, write, content)
    }

    /// What a session may do with a file that it has just opened, and of whose content it has a lease, or not.
    pub(super) fn access_of_open(&self, session: SessionId, ino: Ino, write: bool, content: bool) -> Access {
        Access {
            pages: write && self.opens.claim_pages(session, ino),
            ..self.access_of_write(session, ino, write && content, content)
        }
    }

    /// The same of one that it has written: how its handles were opened does not change.
    pub(super) fn access_of_write(
        &self,
        session: SessionId,
        ino: Ino,
        buffer: bool,
        content: bool,
    ) -> Access {
        Access {
            ino,
            content,
            buffer: buffer && self.leases.grant_buffer(session, ino, &self.opens),
            pages: self.opens.count(session, ino).pages,
        }
    }

    /// For a reader of the map: has others save first, and waits for a lease on the content. Answers whether it is leased.
    ///
    /// # Errors
    /// As [`Core::settled`].
    pub(crate) async fn leased_content(&self, session: SessionId, ino: Ino) -> FsResult<bool> {
        if let Some(reading) = self.unbuffered(session, &[ino]).await? {
            reading.finish();
        }
        Ok(self.leases.content(session, ino).await)
    }
}
