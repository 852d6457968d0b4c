//! Requests for locks and unlocks, sent under their number until the outcome is known.

use super::held::Held;
use super::{Locks, State};
use crate::client::Inner;
use crate::file::Handle;
use crate::types::FileHandle;
use crate::waiting::{Attempts, What, within};
use dfs_common::limits::{CALL_DEADLINE, LOCK_POLL};
use dfs_common::lock::{LockOutcome, LockOwner, LockRange, LockSpec, LockStyle, LockTicket};
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first poll is short: until it is answered, the coordinator keeps the outcomes of everything after it.
const FIRST_POLL: Duration = Duration::from_millis(50);
/// Patience of a poll that only looks whether the wait is over. None at all would say not to wait.
const LOOK: Duration = Duration::from_millis(1);
/// Between two looks at a request that waits and is not among the oldest: at least, and for each request that waits.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const LOOK_AGAIN_EACH: Duration = Duration::from_millis(1);
/// Before what cannot be noted or asked now is asked again.
const PAUSE: Duration = Duration::from_millis(10);

/// A numbered request of one session, from before it is sent until its outcome is known (or its session gone).
struct Request<'a> {
    locks: &'a Locks,
    generation: u64,
    number: u64,
    /// It may wait, so that its outcome is kept until the client says to have it.
    patient: bool,
    /// It is known to wait.
    waits: bool,
}

impl<'a> Request<'a> {
    fn new(locks: &'a Locks, patient: bool) -> Self {
        let mut state = locks.state.lock();
        Request {
            locks,
            generation: state.generation,
            number: state.numbers.take(),
            patient,
            waits: false,
        }
    }

    /// The state, if the session is still the one that the request belongs to.
    fn state(&self) -> Option<parking_lot::MutexGuard<'_, State>> {
        let state = self.locks.state.lock();
        (state.generation == self.generation).then_some(state)
    }

    fn ticket(&self) -> LockTicket {
        match self.state() {
            Some(state) => state.numbers.ticket(self.number),
            None => LockTicket::default(),
        }
    }

    fn waits(&mut self) {
        if !self.waits {
            self.waits = true;
            self.locks.waiting.fetch_add(1, Ordering::Relaxed);
            if let Some(mut state) = self.state() {
                state.numbers.waits(self.number);
            }
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.waits {
            self.locks.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(mut state) = self.state() {
            state.numbers.end(self.number, self.patient);
        }
    }
}

/// What a call under a number came to.
enum Told {
    Outcome(LockOutcome),
    /// The request belongs to a session that is gone.
    SessionGone,
    /// Nothing came of the request, nor will: the coordinator does not know it, and takes its number for settled.
    Forgotten,
}

impl Inner {
    /// One answer to a call under a number, over whatever stands in the way of it.
    async fn ask_once<F>(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
        call: impl Fn(Identity, LockTicket) -> F,
    ) -> FsResult<Told>
    where
        F: Future<Output = FsResult<LockOutcome>>,
    {
        let mut fenced = 0;
        loop {
            let live = self.session.live();
            if live.generation != request.generation {
                return Ok(Told::SessionGone);
            }
            let ticket = request.ticket();
            match within(CALL_DEADLINE, call(live.identity, ticket.clone())).await {
                Ok(outcome) => {
                    if let Some(mut state) = request.state() {
                        state.numbers.told(&ticket);
                    }
                    return Ok(Told::Outcome(outcome));
                }
                Err(error) if error.kind() == ErrorKind::StaleOperation => return Ok(Told::Forgotten),
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    self.recover_from(live.stamp, &mut fenced, attempts, error)
                        .await?;
                }
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    /// Notes a grant. False if it may be of a coordinator that has forgotten it, or of a session that is gone: to be asked
    /// for again. `resumes`: their count when it was asked for.
    fn note_grant(&self, request: &Request<'_>, resumes: u64, ino: Ino, held: Held) -> bool {
        let Some(mut state) = request.state() else {
            return false;
        };
        let sure = state.resumes == resumes && resumes.is_multiple_of(2);
        if sure {
            state.held.put(ino, held);
        }
        sure
    }

    /// See [`crate::Client::lock`].
    pub(super) async fn ask_lock(
        &self,
        open: &Handle,
        through: FileHandle,
        lock: LockSpec,
        wait: bool,
        interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> FsResult<()> {
        let ino = open.file.ino;
        let forgotten = lock.owner.style == LockStyle::Flock
            && self.locks.state.lock().held.forget_other_kind(ino, &lock);
        let asked = self.ask_until_told(ino, through, lock, wait, interrupted).await;
        if let Err(error) = &asked
            && forgotten
            && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TooManyLocks)
        {
            // If the request never arrived, the coordinator has the old one still.
            self.tell_unlock(ino, lock.owner, LockRange::WHOLE).await?;
        }
        asked
    }

    async fn ask_until_told(
        &self,
        ino: Ino,
        through: FileHandle,
        lock: LockSpec,
        wait: bool,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> FsResult<()> {
        let held = Held { lock, through };
        let mut attempts = self.attempts(What::of("lock", ino));
        let mut request = Request::new(&self.locks, wait);
        // The oldest waits have one until their end, so that the next one to be granted hears of it at once.
        let mut turn = None;
        let mut next_turn = pin!(self.locks.polls.acquire());
        loop {
            let resumes = self.locks.state.lock().resumes;
            let poll = async {
                let mut first = None;
                if wait && !request.waits {
                    first = self.locks.firsts.acquire().await.ok();
                } else if request.waits && turn.is_none() {
                    let looking = tokio::time::timeout(self.locks.look_again(), next_turn.as_mut());
                    turn = looking.await.ok().and_then(Result::ok);
                }
                let patience = match (wait, request.waits, &turn) {
                    (false, ..) => Duration::ZERO,
                    (true, false, _) => FIRST_POLL,
                    (true, true, Some(_)) => LOCK_POLL,
                    (true, true, None) => LOOK,
                };
                let _first = first;
                let call = |identity, ticket| self.metadata.lock(identity, ticket, ino, lock, patience);
                self.ask_once(&request, &mut attempts, call).await
            };
            let told = tokio::select! {
                biased;
                told = poll => match told {
                    Ok(told) => told,
                    // Refused outright: nothing waits.
                    Err(error) if matches!(error.kind(), ErrorKind::BadHandle | ErrorKind::Invalid) => return Err(error),
                    // It may wait, or hold, all the same.
                    Err(error) => return self.cancel_lock(&request, ino, held).await.map_err(|_| error),
                },
                () = interrupted.as_mut(), if wait => return self.cancel_lock(&request, ino, held).await,
            };
            match told {
                Told::Outcome(LockOutcome::Waiting) => request.waits(),
                Told::Outcome(LockOutcome::Granted) => {
                    if self.note_grant(&request, resumes, ino, held) {
                        return Ok(());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Told::Outcome(refused) => return Err(refusal(refused)),
                // The next session may not be there yet.
                Told::SessionGone => {
                    tokio::time::sleep(PAUSE).await;
                    request = Request::new(&self.locks, wait);
                }
                Told::Forgotten => request = Request::new(&self.locks, wait),
            }
        }
    }

    /// The program was interrupted while it waited. If the lock was granted just before, it has it.
    async fn cancel_lock(&self, request: &Request<'_>, ino: Ino, held: Held) -> FsResult<()> {
        let mut attempts = self.attempts(What::of("cancel_lock", ino));
        loop {
            let resumes = self.locks.state.lock().resumes;
            let call = |identity, ticket| self.metadata.cancel_lock(identity, ticket);
            match self.ask_once(request, &mut attempts, call).await? {
                Told::Outcome(LockOutcome::Granted) => {
                    if self.note_grant(request, resumes, ino, held) {
                        return Ok(());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Told::Outcome(refused) => return Err(refusal(refused)),
                Told::SessionGone | Told::Forgotten => return Err(refusal(LockOutcome::Cancelled)),
            }
        }
    }

    /// Gives up what `owner` has of `range`; asks nobody if that is nothing.
    pub(super) async fn send_unlock(&self, ino: Ino, owner: LockOwner, range: LockRange) -> FsResult<()> {
        let before = self.locks.state.lock().held.cut(ino, owner, range);
        if !before.iter().any(|held| held.lock.range.overlaps(range)) {
            return Ok(());
        }
        let generation = self.locks.state.lock().generation;
        let told = self.tell_unlock(ino, owner, range).await;
        let mut state = self.locks.state.lock();
        if told.is_err() && state.generation == generation {
            state.held.restore(ino, owner, before);
        }
        told
    }

    /// Tells the coordinator of an unlock.
    async fn tell_unlock(&self, ino: Ino, owner: LockOwner, range: LockRange) -> FsResult<()> {
        let request = Request::new(&self.locks, false);
        let mut attempts = self.attempts(What::of("unlock", ino));
        let call = |identity, ticket| self.metadata.unlock(identity, ticket, ino, owner, range);
        match self.ask_once(&request, &mut attempts, call).await? {
            Told::Outcome(LockOutcome::TooMany) => Err(refusal(LockOutcome::TooMany)),
            // With a session its locks are gone too.
            Told::Outcome(_) | Told::SessionGone | Told::Forgotten => Ok(()),
        }
    }
}

impl Locks {
    /// When to look again at a request that is not among the oldest that wait.
    fn look_again(&self) -> Duration {
        let waiting = u32::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        LOOK_AGAIN.max(LOOK_AGAIN_EACH.saturating_mul(waiting))
    }
}

fn refusal(outcome: LockOutcome) -> FsError {
    let text = match outcome {
        LockOutcome::Conflict => "somebody else has a lock on it",
        LockOutcome::Deadlock => "the one who has the lock waits for one that this process has",
        LockOutcome::TooMany => "this mount has as many locks as it may: give some up",
        LockOutcome::Cancelled | LockOutcome::Granted | LockOutcome::Waiting => {
            "the wait for the lock was interrupted"
        }
    };
    FsError::new(outcome.refusal().unwrap_or(ErrorKind::Interrupted), text)
}
