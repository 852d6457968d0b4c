//! The face of the table: requests, unlocks, waits and their ends, sessions and the time after a restart.

use super::declared::Sorted;
use super::state::{Answer, Inner, in_grace};
use super::types::{Ask, Held, Owner, Waiting};
use dfs_common::limits::SESSION_LOCKS_MAX;
use dfs_common::lock::{LockOutcome, LockRange};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// All locks of the cluster. Every method is short and takes one mutex; only [`LockTable::lock`] waits, and outside of it.
#[derive(Default)]
pub struct LockTable {
    inner: Mutex<Inner>,
}

impl LockTable {
    /// A new session, which holds nothing.
    pub fn begin(&self, session: SessionId) {
        self.inner.lock().by_session.entry(session).or_default();
    }

    /// A session from before the restart: nothing new is granted to anybody until it declares its locks or ends.
    pub fn begin_grace(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        inner.by_session.entry(session).or_default();
        inner.grace.insert(session);
    }

    /// What a session held before the restart, and what it has settled since ever. Answers those locks that it does not hold any
    /// more. It is awaited until its `last` declaration. Of a session that is not awaited, the table knows better: nothing is
    /// changed then.
    ///
    /// # Errors
    /// `SessionFenced` if the session has ended; `Invalid` if an owner is another session's, or for a flock of a part; `Busy` above
    /// [`SESSION_LOCKS_MAX`].
    pub fn declare(
        &self,
        session: SessionId,
        settled: u64,
        declared: &[(Ino, Ask)],
        last: bool,
    ) -> FsResult<Vec<(Ino, Ask)>> {
        let mut inner = self.inner.lock();
        let held = inner.settle(session, settled)?.held;
        if declared.iter().any(|(_, ask)| ask.owner.session != session) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a session declares its own locks only",
            ));
        }
        declared.iter().try_for_each(|(_, ask)| ask.check())?;
        let awaited = inner.grace.contains(&session);
        let mut inodes: BTreeMap<Ino, Sorted> = BTreeMap::new();
        let mut lost = Vec::new();
        for (ino, ask) in declared {
            let sorted = inodes.entry(*ino).or_insert_with(|| Sorted::of(inner.held(*ino)));
            if sorted.covers(ask) {
                continue;
            }
            if awaited && !sorted.is_in_the_way(ask) {
                sorted.put(*ask);
            } else {
                lost.push((*ino, *ask));
            }
        }
        // Counted is what there is in the end: a part that is sent again adds nothing.
        let more: isize = inodes.values().flat_map(Sorted::more).map(|(_, more)| more).sum();
        if more > 0 && held.saturating_add_signed(more) > SESSION_LOCKS_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                format!("session {session} declares more than {SESSION_LOCKS_MAX} locks"),
            ));
        }
        if awaited {
            inodes
                .into_iter()
                .for_each(|(ino, sorted)| inner.replace(ino, sorted));
        }
        if last && inner.grace.remove(&session) && inner.grace.is_empty() {
            inner.pump_all();
        }
        Ok(lost)
    }

    /// Everything that a session holds and waits for goes.
    pub fn end(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        let awaited = inner.grace.remove(&session);
        let Some(gone) = inner.by_session.remove(&session) else {
            return;
        };
        let mut inodes = gone.inodes;
        for wait in gone.waits.into_values() {
            inodes.insert(wait.ino);
            wait.over.notify_one();
        }
        for ino in &inodes {
            if let Some(inode) = inner.by_inode.get_mut(ino) {
                inode.held.retain(|lock| lock.ask.owner.session != session);
                inode.waiting.retain(|wait| wait.ask.owner.session != session);
            }
        }
        inodes.into_iter().for_each(|ino| inner.pump(ino));
        if awaited && inner.grace.is_empty() {
            inner.pump_all();
        }
    }

    /// Asks for a lock, and waits for it at most `patience` (zero: the request is not to wait at all). `Waiting`: ask again
    /// with the same number, its place in the queue is kept. `settled`: the client has the answers of all requests with
    /// lower numbers, if only that they wait; that it has the outcome of such a one, it says with [`LockTable::settle`].
    /// Dropping the future leaves the wait; [`LockTable::cancel`] ends it. A flock of another kind gives up the owner's flock
    /// first, whatever the outcome. `TooMany`: above [`SESSION_LOCKS_MAX`] locks,
    /// [`dfs_common::limits::SESSION_LOCK_REQUESTS_MAX`] waits, or half of
    /// [`dfs_common::limits::SESSION_LOCK_OUTCOMES_MAX`] outcomes that the session has not settled.
    ///
    /// # Errors
    /// `SessionFenced` if the session has ended; `StaleOperation` if the request was settled; `Invalid` for a flock of a part;
    /// `Busy` above [`dfs_common::limits::SESSION_LOCK_OUTCOMES_MAX`], nothing came of it; `Unavailable` after a restart, if it
    /// is not to wait: try again.
    pub async fn lock(
        &self,
        ino: Ino,
        number: u64,
        settled: u64,
        ask: Ask,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let answer = {
                let mut inner = self.inner.lock();
                if inner.closed {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the coordinator was stopped",
                    ));
                }
                inner.lock(ino, number, settled, ask, !patience.is_zero())?
            };
            match answer {
                Answer::Done(outcome) => return Ok(outcome),
                Answer::Waits(over) => {
                    if tokio::time::timeout_at(deadline, over.notified()).await.is_err() {
                        return Ok(LockOutcome::Waiting);
                    }
                    // For another poll of the same request, if there is one: its caller gave up a connection, say.
                    over.notify_one();
                }
            }
        }
    }

    /// Gives up what `owner` holds of a range; holding nothing of it is no error.
    ///
    /// # Errors
    /// As of [`LockTable::lock`].
    pub fn unlock(
        &self,
        ino: Ino,
        number: u64,
        settled: u64,
        owner: Owner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let mut inner = self.inner.lock();
        match inner.admit(owner.session, number, settled)? {
            Some(Answer::Done(outcome)) => return Ok(outcome),
            Some(Answer::Waits(_)) => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!("request {number} is a lock that waits"),
                ));
            }
            None => {}
        }
        let outcome = if inner.may_take(ino, owner, range) {
            inner.take(ino, owner, range);
            inner.pump(ino);
            LockOutcome::Granted
        } else {
            LockOutcome::TooMany
        };
        inner.conclude(owner.session, number, outcome);
        Ok(outcome)
    }

    /// Ends a wait. Answers how the request has ended: if it was granted before, the lock is held. One that was never seen
    /// is cancelled for when it arrives.
    ///
    /// # Errors
    /// `SessionFenced` if the session has ended; `StaleOperation` if the request was settled; `Busy` as of [`LockTable::lock`].
    pub fn cancel(&self, session: SessionId, number: u64, settled: u64) -> FsResult<LockOutcome> {
        let mut inner = self.inner.lock();
        if let Some(Answer::Done(outcome)) = inner.admit(session, number, settled)? {
            return Ok(outcome);
        }
        let ino = inner
            .by_session
            .get(&session)
            .and_then(|locks| locks.waits.get(&number))
            .map(|wait| wait.ino);
        inner.conclude(session, number, LockOutcome::Cancelled);
        if let Some(ino) = ino {
            if let Some(inode) = inner.by_inode.get_mut(&ino) {
                inode.waiting.retain(|wait| !wait.is(session, number));
            }
            inner.pump(ino);
        }
        Ok(LockOutcome::Cancelled)
    }

    /// The client has the answers of all requests below `settled`, and of these, which have waited, the outcome. It is
    /// forgotten if they are below `settled`, too (else one that arrives late could not be told from a new one).
    ///
    /// # Errors
    /// `SessionFenced` if the session has ended.
    pub fn settle(&self, session: SessionId, settled: u64, answered: &[u64]) -> FsResult<()> {
        let mut inner = self.inner.lock();
        let session = inner.settle(session, settled)?;
        for number in answered.iter().filter(|number| **number < session.settled) {
            session.waited.remove(number);
        }
        Ok(())
    }

    /// Ends all polls, and refuses further ones: the coordinator stops.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let waits = inner
            .by_session
            .values()
            .flat_map(|session| session.waits.values());
        waits.for_each(|wait| wait.over.notify_one());
    }

    /// The first lock that stands in the way of `ask` (`F_GETLK`).
    ///
    /// # Errors
    /// `Unavailable` after a restart, if none is known yet.
    pub fn test(&self, ino: Ino, ask: &Ask) -> FsResult<Option<Held>> {
        let inner = self.inner.lock();
        let held = inner.in_the_way(ino, ask);
        match held.min_by_key(|lock| lock.ask.range.first()).copied() {
            None if !inner.grace.is_empty() => Err(in_grace()),
            held => Ok(held),
        }
    }

    /// Inodes with locks or waits behind `after`, at most `limit`.
    pub fn inodes(&self, after: Ino, limit: usize) -> Vec<Ino> {
        let inner = self.inner.lock();
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        inner
            .by_inode
            .range(behind)
            .take(limit)
            .map(|(ino, _)| *ino)
            .collect()
    }

    /// What is held of an inode, and who waits, in the order of the queue.
    pub fn of_inode(&self, ino: Ino) -> (Vec<Held>, Vec<Waiting>) {
        let inner = self.inner.lock();
        let inode = inner.by_inode.get(&ino);
        inode.map_or_else(Default::default, |inode| {
            (inode.held.clone(), inode.waiting.iter().copied().collect())
        })
    }
}

#[cfg(test)]
mod tests;
