//! Live sessions and their leases, by the monotonic clock.
//!
//! A lease runs from the last keep-alive (or opening, or resuming). It is ended only by [`SessionTable::expire_due`], so a
//! keep-alive that arrives late but before that renews it. From the moment a session is ending, every call of it is
//! refused, at the service and again in the applier.

use dfs_common::clock::Clock;
use dfs_common::limits::{RECALL_PATIENCE, SESSION_LEASE, SESSIONS_MAX};
use dfs_common::session::{Identity, SessionSecret};
use dfs_common::{ErrorKind, FsError, FsResult, SessionEpoch, SessionId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Between two looks at the leases. A gap longer than this and a half means that the coordinator itself stood still: the
/// leases are extended by it, since no keep-alive could have been answered.
pub const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Known from before the restart, not resumed yet.
    Grace,
    Live,
    /// Closed or expired: being taken apart.
    Ending,
}

struct Session {
    epoch: SessionEpoch,
    secret: SessionSecret,
    state: State,
    renewed: Duration,
    /// Number of the last lifeline that it was hung on, from 1; 0: none.
    last_line: u64,
    /// If it hangs on that one; dropped when that is over.
    line: Option<oneshot::Sender<()>>,
}

/// All sessions that the store has.
pub struct SessionTable {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// Notified when a session leaves grace.
    settled: Notify,
}

struct Inner {
    sessions: HashMap<SessionId, Session>,
    in_grace: usize,
    /// Resumed after the restart, then, and still answering from what was leased before it.
    unattached: HashMap<SessionId, Duration>,
    last_look: Duration,
}

fn fenced(why: &'static str) -> FsError {
    FsError::new(ErrorKind::SessionFenced, why)
}

/// What the first call of a session after a restart is told.
pub const RESUME: &str = "the coordinator was restarted: resume the session";
const UNKNOWN: &str = "the session is unknown or ended: open a new session";
const WRONG: &str = "wrong secret or epoch for this session: open a new session";

fn same_secret(a: &SessionSecret, b: &SessionSecret) -> bool {
    // Every byte is looked at: the time tells nothing of the secret.
    a.0.iter().zip(&b.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

impl Session {
    fn later_line(&self, number: u64) -> FsResult<()> {
        if number > self.last_line {
            return Ok(());
        }
        Err(FsError::new(ErrorKind::Stale, "the session has a later lifeline"))
    }
}

impl Inner {
    fn proven(&mut self, identity: &Identity) -> FsResult<&mut Session> {
        let session = self
            .sessions
            .get_mut(&identity.session)
            .ok_or_else(|| fenced(UNKNOWN))?;
        if !same_secret(&session.secret, &identity.secret) || session.epoch != identity.epoch {
            return Err(fenced(WRONG));
        }
        if session.state == State::Ending {
            return Err(fenced(UNKNOWN));
        }
        Ok(session)
    }
}

impl SessionTable {
    /// An empty table.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let last_look = clock.monotonic();
        SessionTable {
            clock,
            inner: Mutex::new(Inner {
                sessions: HashMap::new(),
                in_grace: 0,
                unattached: HashMap::new(),
                last_look,
            }),
            settled: Notify::new(),
        }
    }

    fn insert(&self, session: SessionId, epoch: SessionEpoch, secret: SessionSecret, state: State) {
        let renewed = self.clock.monotonic();
        let entry = Session {
            epoch,
            secret,
            state,
            renewed,
            last_line: 0,
            line: None,
        };
        let mut inner = self.inner.lock();
        inner.in_grace += usize::from(state == State::Grace);
        inner.sessions.insert(session, entry);
    }

    /// Changes the state of a session; wakes those who wait for the end of its grace.
    fn set_state(&self, inner: &mut Inner, session: SessionId, state: State) {
        if let Some(session) = inner.sessions.get_mut(&session) {
            if session.state == State::Grace && state != State::Grace {
                inner.in_grace -= 1;
                self.settled.notify_waiters();
            }
            session.state = state;
            if state == State::Ending {
                session.line = None;
            }
        }
        if state == State::Ending {
            self.attach(inner, session);
        }
    }

    fn attach(&self, inner: &mut Inner, session: SessionId) {
        if inner.unattached.remove(&session).is_some() {
            self.settled.notify_waiters();
        }
    }

    /// The session has a recall stream: its client has forgotten what it was leased before.
    pub fn attached(&self, session: SessionId) {
        self.attach(&mut self.inner.lock(), session);
    }

    /// True between [`SessionTable::resumed`] and [`SessionTable::attached`].
    pub fn is_unattached(&self, session: SessionId) -> bool {
        self.inner.lock().unattached.contains_key(&session)
    }

    /// See [`SessionTable::settled_beside`].
    pub fn is_settled_beside(&self, session: SessionId) -> bool {
        let inner = self.inner.lock();
        let mut unattached = inner.unattached.keys();
        inner.in_grace == 0 && unattached.all(|other| *other == session)
    }

    /// Waits until every client from before the restart, but for `session`'s, has resumed and forgotten what it was leased, or its lease has
    /// ended.
    pub async fn settled_beside(&self, session: SessionId) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if self.is_settled_beside(session) {
                return;
            }
            settled.await;
        }
    }

    /// A session found in the store at start: in grace for one lease.
    pub fn insert_grace(&self, session: SessionId, epoch: SessionEpoch, secret: SessionSecret) {
        self.insert(session, epoch, secret, State::Grace);
    }

    /// A session that was just made durable.
    pub fn insert_live(&self, session: SessionId, epoch: SessionEpoch, secret: SessionSecret) {
        self.insert(session, epoch, secret, State::Live);
    }

    /// Passes a call of a live session.
    ///
    /// # Errors
    /// `SessionFenced`: unknown, wrong secret or epoch, ended, or from before the restart and not resumed.
    pub fn check(&self, identity: &Identity) -> FsResult<()> {
        match self.inner.lock().proven(identity)?.state {
            State::Live => Ok(()),
            _ => Err(fenced(RESUME)),
        }
    }

    /// [`SessionTable::check`], and renews the lease.
    pub fn renew(&self, identity: &Identity) -> FsResult<()> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let session = inner.proven(identity)?;
        if session.state != State::Live {
            return Err(fenced(RESUME));
        }
        session.renewed = now;
        Ok(())
    }

    /// Passes a request to resume a session: proven, live or in grace. It is not live before [`SessionTable::resumed`].
    ///
    /// # Errors
    /// `SessionFenced`: the client must open a new session.
    pub fn check_resume(&self, identity: &Identity) -> FsResult<()> {
        self.inner.lock().proven(identity).map(drop)
    }

    /// The session declared its opens: it is live. `leases`: it still answers from what was leased before a restart, until
    /// [`SessionTable::attached`].
    pub fn resumed(&self, session: SessionId, leases: bool) {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let Some(entry) = inner.sessions.get_mut(&session) else {
            return;
        };
        if entry.state != State::Ending {
            entry.renewed = now;
            if entry.state == State::Grace && leases {
                inner.unattached.insert(session, now);
            }
            self.set_state(&mut inner, session, State::Live);
        }
    }

    /// Passes a lifeline of a session that is live or in grace, and has none with this number or a greater one.
    ///
    /// # Errors
    /// `SessionFenced`, or `Stale`: there is a later one.
    pub fn check_line(&self, identity: &Identity, number: u64) -> FsResult<()> {
        self.inner.lock().proven(identity)?.later_line(number)
    }

    /// From now on the session hangs on the lifeline of this number, and on no other. Answers what resolves when that is over.
    ///
    /// # Errors
    /// As of [`SessionTable::check_line`].
    pub fn hold_line(&self, identity: &Identity, number: u64) -> FsResult<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        let session = inner.proven(identity)?;
        session.later_line(number)?;
        let (sender, over) = oneshot::channel();
        session.last_line = number;
        session.line = Some(sender);
        Ok(over)
    }

    /// The process at the other end of a lifeline is gone. If the session hangs on that one, every further call of it is refused, and the
    /// answer is true: it is to be taken apart.
    pub fn part(&self, identity: &Identity, number: u64) -> bool {
        let mut inner = self.inner.lock();
        let hangs = inner
            .proven(identity)
            .is_ok_and(|session| session.line.is_some() && session.last_line == number);
        if hangs {
            self.set_state(&mut inner, identity.session, State::Ending);
        }
        hangs
    }

    /// A lifeline broke, which says nothing of the client: if the session hung on it, it hangs on none.
    pub fn let_go(&self, identity: &Identity, number: u64) {
        let mut inner = self.inner.lock();
        if let Ok(session) = inner.proven(identity)
            && session.last_line == number
        {
            session.line = None;
        }
    }

    /// Sessions that hang on a lifeline.
    pub fn lifelines(&self) -> usize {
        let inner = self.inner.lock();
        inner
            .sessions
            .values()
            .filter(|session| session.line.is_some())
            .count()
    }

    /// Refuses every further call of a session, which is about to be taken apart. False if it is unknown.
    pub fn begin_end(&self, session: SessionId) -> bool {
        let mut inner = self.inner.lock();
        let known = inner.sessions.contains_key(&session);
        self.set_state(&mut inner, session, State::Ending);
        known
    }

    /// The session's records are gone.
    pub fn remove(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        self.set_state(&mut inner, session, State::Ending);
        inner.sessions.remove(&session);
    }

    /// Ends the sessions whose lease ran out and returns every session that is ending, those whose taking apart was
    /// interrupted among them.
    pub fn expire_due(&self) -> Vec<SessionId> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let gap = now.saturating_sub(inner.last_look);
        inner.last_look = now;
        let stood_still = if gap > EXPIRY_INTERVAL * 3 / 2 {
            gap
        } else {
            Duration::ZERO
        };
        let mut ending = Vec::new();
        let Inner {
            sessions, unattached, ..
        } = &mut *inner;
        for (id, session) in sessions {
            session.renewed = (session.renewed + stood_still).min(now);
            let expired = now.saturating_sub(session.renewed) > SESSION_LEASE;
            if session.state != State::Ending && expired {
                tracing::info!(session = %id, "session expired: no keep-alive within its lease");
            }
            let since = unattached.get_mut(id).map(|since| {
                *since = (*since + stood_still).min(now);
                now.saturating_sub(*since)
            });
            let silent = since.is_some_and(|since| since > RECALL_PATIENCE);
            if silent {
                tracing::warn!(session = %id, "session is ended: its client does not ask for its recalls");
            }
            if session.state == State::Ending || expired || silent {
                ending.push(*id);
            }
        }
        ending.sort();
        for session in &ending {
            self.set_state(&mut inner, *session, State::Ending);
        }
        ending
    }

    /// Sessions, those in grace and ending included.
    pub fn count(&self) -> usize {
        self.inner.lock().sessions.len()
    }

    /// # Errors
    /// `Busy` if there are [`SESSIONS_MAX`] sessions.
    pub fn check_room(&self) -> FsResult<()> {
        if self.count() >= SESSIONS_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                format!("the coordinator has {SESSIONS_MAX} sessions: unmount unused clients first"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::clock::ManualClock;

    fn identity(session: u64, secret: u8) -> Identity {
        Identity {
            session: SessionId(session),
            epoch: SessionEpoch(1),
            secret: SessionSecret([secret; 16]),
            trace: 0,
        }
    }

    fn table() -> (Arc<ManualClock>, SessionTable) {
        let clock = Arc::new(ManualClock::default());
        let table = SessionTable::new(clock.clone());
        table.insert_live(SessionId(1), SessionEpoch(1), SessionSecret([1; 16]));
        table.insert_grace(SessionId(2), SessionEpoch(1), SessionSecret([2; 16]));
        (clock, table)
    }

    /// The worker's look at every interval, for `secs` seconds.
    fn pass(clock: &ManualClock, table: &SessionTable, secs: u64) -> Vec<SessionId> {
        let mut ending = Vec::new();
        for _ in 0..secs {
            clock.advance(EXPIRY_INTERVAL);
            ending = table.expire_due();
        }
        ending
    }

    #[test]
    fn only_the_owner_of_a_live_session_passes() {
        let (_, table) = table();
        table.check(&identity(1, 1)).unwrap();
        for (wrong, message) in [
            (identity(1, 9), WRONG),
            (identity(3, 1), UNKNOWN),
            (identity(2, 2), RESUME),
            (
                Identity {
                    epoch: SessionEpoch(0),
                    ..identity(1, 1)
                },
                WRONG,
            ),
        ] {
            let error = table.check(&wrong).unwrap_err();
            assert_eq!(
                (error.kind(), error.message()),
                (ErrorKind::SessionFenced, message)
            );
            assert_eq!(table.renew(&wrong).unwrap_err().message(), message);
        }
        table.check_resume(&identity(2, 2)).unwrap();
        table.resumed(SessionId(2), false);
        table.check(&identity(2, 2)).unwrap();
    }

    #[test]
    fn session_that_resumed_and_still_uses_its_leases_is_waited_for_until_it_attaches_or_ends() {
        use futures::FutureExt;
        let (clock, table) = table();
        let settled = |beside| table.settled_beside(SessionId(beside)).now_or_never().is_some();
        assert!(!settled(1), "in grace");
        table.resumed(SessionId(2), true);
        assert!(!settled(1) && settled(2) && table.is_unattached(SessionId(2)));
        table.attached(SessionId(2));
        assert!(settled(1));

        table.insert_grace(SessionId(3), SessionEpoch(1), SessionSecret([3; 16]));
        table.resumed(SessionId(3), true);
        for _ in 0..=RECALL_PATIENCE.as_secs() {
            clock.advance(EXPIRY_INTERVAL);
            table.renew(&identity(3, 3)).unwrap();
            table.expire_due();
        }
        assert!(settled(1), "it does not ask for its recalls");
        table.renew(&identity(3, 3)).unwrap_err();
    }

    #[test]
    fn silent_session_expires_after_its_lease_and_a_renewed_one_does_not() {
        let (clock, table) = table();
        assert!(pass(&clock, &table, 15).is_empty());
        table.renew(&identity(1, 1)).unwrap();
        assert_eq!(pass(&clock, &table, 6), [SessionId(2)]);
        assert_eq!(
            table.check_resume(&identity(2, 2)).unwrap_err().message(),
            UNKNOWN
        );
        table.resumed(SessionId(2), false);
        assert_eq!(table.check(&identity(2, 2)).unwrap_err().message(), UNKNOWN);
        assert_eq!(pass(&clock, &table, 20), [SessionId(1), SessionId(2)]);
        assert_eq!(table.renew(&identity(1, 1)).unwrap_err().message(), UNKNOWN);
    }

    #[test]
    fn session_ends_with_the_last_lifeline_that_it_was_hung_on() {
        let (clock, table) = table();
        let one = identity(1, 1);
        let mut first = table.hold_line(&one, 1).unwrap();
        let mut second = table.hold_line(&one, 2).unwrap();
        assert!(
            first
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        );
        assert!(
            second
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
        assert_eq!(table.lifelines(), 1);
        // Late words of those before, and of strangers.
        assert!(!table.part(&one, 1));
        for late in [1, 2] {
            assert_eq!(table.hold_line(&one, late).unwrap_err().kind(), ErrorKind::Stale);
            assert_eq!(table.check_line(&one, late).unwrap_err().kind(), ErrorKind::Stale);
        }
        for wrong in [
            identity(1, 9),
            Identity {
                epoch: SessionEpoch(0),
                ..one
            },
        ] {
            assert!(!table.part(&wrong, 2));
            assert_eq!(table.hold_line(&wrong, 3).unwrap_err().message(), WRONG);
        }
        table.let_go(&one, 1);
        assert_eq!(table.lifelines(), 1);
        table.check(&one).unwrap();
        // It broke: its end means nothing any more, nor can it be held again.
        table.let_go(&one, 2);
        assert!(!table.part(&one, 2));
        assert_eq!(table.hold_line(&one, 2).unwrap_err().kind(), ErrorKind::Stale);
        let mut third = table.hold_line(&one, 3).unwrap();
        assert!(table.part(&one, 3));
        assert!(!table.part(&one, 3), "it is taken apart once");
        assert_eq!(table.check(&one).unwrap_err().message(), UNKNOWN);
        assert_eq!(table.hold_line(&one, 3).unwrap_err().message(), UNKNOWN);
        assert!(
            third
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        );
        assert_eq!(pass(&clock, &table, 1), [SessionId(1)], "if that was interrupted");
        // One from before a restart is not waited for any longer.
        let mut line = table.hold_line(&identity(2, 2), 7).unwrap();
        table.resumed(SessionId(2), false);
        assert!(
            line.try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
        assert!(table.part(&identity(2, 2), 7));
        assert_eq!(table.lifelines(), 0);
    }

    #[test]
    fn nobody_expires_because_the_coordinator_stood_still() {
        let (clock, table) = table();
        clock.advance(Duration::from_secs(3600));
        assert!(table.expire_due().is_empty());
        assert!(pass(&clock, &table, 20).is_empty());
        assert_eq!(pass(&clock, &table, 1).len(), 2);
    }
}
