//! Advisory locks: who excludes whom, across sessions; that requests may be sent again, late, or be cancelled; that locks end
//! with their session.

use super::kit::{Kit, Session, fresh_session};
use crate::conformance::refused;
use crate::faults::{Fault, FaultPlan, FaultyMetadata};
use dfs_common::lock::LockKind::{self, Exclusive, Shared};
use dfs_common::lock::{
    HeldLock, LockDeclaration, LockDeclarations, LockOutcome, LockOwner, LockRange, LockSpec, LockStyle,
    LockTicket,
};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession};
use dfs_common::{ErrorKind, FsResult, Ino};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A wait that should have ended by now has not.
const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(1);
const AT_ONCE: Duration = Duration::ZERO;

fn range(first: u64, last: u64) -> LockRange {
    LockRange::new(first, last).unwrap()
}

fn owner(style: LockStyle, number: u64) -> LockOwner {
    LockOwner { style, number }
}

fn posix(number: u64, kind: LockKind, first: u64, last: u64) -> LockSpec {
    LockSpec {
        owner: owner(LockStyle::Process, number),
        kind,
        range: range(first, last),
        pid: 100 + number as u32,
    }
}

fn flock(number: u64, kind: LockKind) -> LockSpec {
    LockSpec {
        owner: owner(LockStyle::Flock, number),
        range: LockRange::WHOLE,
        ..posix(number, kind, 0, 0)
    }
}

fn ticket(number: u64) -> LockTicket {
    LockTicket {
        number,
        ..LockTicket::default()
    }
}

/// A session's lock calls on one file that it has open.
struct Locker {
    service: Arc<dyn MetadataService>,
    identity: Identity,
    ino: Ino,
}

impl Locker {
    async fn new(session: &Session, ino: Ino) -> Locker {
        session.open_file(&Caller::root(), ino, true, true).await.unwrap();
        Locker {
            service: session.service.clone(),
            identity: session.identity(),
            ino,
        }
    }

    async fn ask(&self, number: u64, lock: LockSpec, patience: Duration) -> FsResult<LockOutcome> {
        self.service
            .lock(self.identity, ticket(number), self.ino, lock, patience)
            .await
    }

    #[track_caller]
    fn told(
        &self,
        number: u64,
        lock: LockSpec,
        patience: Duration,
        outcome: LockOutcome,
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let told = self.ask(number, lock, patience).await;
            assert_eq!(told, Ok(outcome), "request {number} at {place}");
        }
    }

    async fn take(&self, number: u64, lock: LockSpec) {
        self.told(number, lock, AT_ONCE, LockOutcome::Granted).await;
    }

    async fn unlock(&self, number: u64, owner: LockOwner, range: LockRange) {
        let unlocked = self
            .service
            .unlock(self.identity, ticket(number), self.ino, owner, range)
            .await;
        assert_eq!(unlocked, Ok(LockOutcome::Granted));
    }

    async fn cancel(&self, number: u64) -> FsResult<LockOutcome> {
        self.service.cancel_lock(self.identity, ticket(number)).await
    }

    async fn test(&self, lock: LockSpec) -> Option<HeldLock> {
        self.service
            .test_lock(self.identity, self.ino, lock)
            .await
            .unwrap()
    }

    /// Polls until the request ends.
    async fn outcome(&self, number: u64, lock: LockSpec) -> LockOutcome {
        let began = Instant::now();
        loop {
            match self.ask(number, lock, Duration::from_secs(1)).await.unwrap() {
                LockOutcome::Waiting => {
                    assert!(began.elapsed() < DEADLINE, "request {number} waits for ever")
                }
                outcome => return outcome,
            }
        }
    }

    /// What this session is told to be in its way, byte by byte, of a range that is all its own or others'.
    async fn exclusive_ranges(&self, asked: LockSpec) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut from = asked.range.first();
        while let Some(held) = self
            .test(LockSpec {
                range: range(from, asked.range.last()),
                ..asked
            })
            .await
        {
            let last = held.lock.range.last();
            found.push((held.lock.range.first(), last));
            match last.checked_add(1) {
                Some(next) if next <= asked.range.last() => from = next,
                _ => break,
            }
        }
        found
    }
}

async fn pair(kit: &Kit) -> (Locker, Locker, Session) {
    let other = kit.another_session().await;
    let ino = kit.file("f").await;
    let (a, b) = (
        Locker::new(&kit.session, ino).await,
        Locker::new(&other, ino).await,
    );
    (a, b, other)
}

pub(super) async fn exclusive_locks_exclude_and_shared_ones_share(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    a.take(1, posix(1, Exclusive, 0, 9)).await;
    for kind in [Shared, Exclusive] {
        let number = 1 + kind as u64;
        let refused = posix(1, kind, 9, 9);
        b.told(number, refused, AT_ONCE, LockOutcome::Conflict).await;
    }
    b.take(3, posix(1, Exclusive, 10, 19)).await;
    a.take(2, posix(1, Shared, 0, 9)).await;
    b.take(4, posix(1, Shared, 5, 9)).await;
    let upgrade = posix(1, Exclusive, 0, 9);
    a.told(3, upgrade, AT_ONCE, LockOutcome::Conflict).await;
    // Owners of one session exclude each other like those of two.
    a.told(4, posix(2, Exclusive, 0, 0), AT_ONCE, LockOutcome::Conflict)
        .await;
    a.unlock(5, owner(LockStyle::Process, 1), LockRange::WHOLE).await;
    a.take(6, posix(2, Exclusive, 0, 4)).await;
}

pub(super) async fn styles_know_of_each_other_as_on_linux(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    a.take(1, flock(1, Exclusive)).await;
    b.told(1, flock(1, Shared), AT_ONCE, LockOutcome::Conflict).await;
    b.take(2, posix(1, Exclusive, 0, 9)).await;
    let open_file = LockSpec {
        owner: owner(LockStyle::OpenFile, 1),
        ..posix(1, Shared, 5, 5)
    };
    b.told(3, open_file, AT_ONCE, LockOutcome::Conflict).await;
    // A flock is converted by giving it up first; a second reader is let in between.
    a.take(2, flock(1, Shared)).await;
    b.take(4, flock(1, Shared)).await;
    let part = LockSpec {
        range: range(0, 9),
        ..flock(1, Shared)
    };
    refused(a.ask(3, part, AT_ONCE).await, ErrorKind::Invalid);
}

pub(super) async fn flock_of_another_kind_gives_up_the_old_one(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let (shared, exclusive) = (flock(1, Shared), flock(1, Exclusive));
    let others = || a.test(exclusive);
    a.take(1, shared).await;
    b.take(1, shared).await;
    b.told(2, exclusive, AT_ONCE, LockOutcome::Conflict).await;
    assert_eq!(others().await, None, "after a conflict");
    b.take(3, shared).await;
    assert!(others().await.is_some());
    b.told(4, exclusive, SHORT, LockOutcome::Waiting).await;
    assert_eq!(others().await, None, "while it waits");
    assert_eq!(b.cancel(4).await, Ok(LockOutcome::Cancelled));
    assert_eq!(others().await, None, "after a cancellation");
    // So two who upgrade do not wait for each other.
    b.take(5, shared).await;
    a.told(2, exclusive, SHORT, LockOutcome::Waiting).await;
    b.told(6, exclusive, SHORT, LockOutcome::Waiting).await;
    assert_eq!(a.outcome(2, exclusive).await, LockOutcome::Granted);
    // Whoever waits comes in between when one is made weaker.
    a.told(3, shared, AT_ONCE, LockOutcome::Conflict).await;
    assert_eq!(b.outcome(6, exclusive).await, LockOutcome::Granted);
}

pub(super) async fn ranges_split_merge_and_are_told(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let asked = posix(1, Shared, 0, u64::MAX);
    a.take(1, posix(1, Exclusive, 0, 99)).await;
    a.unlock(2, owner(LockStyle::Process, 1), range(20, 29)).await;
    assert_eq!(b.exclusive_ranges(asked).await, [(0, 19), (30, 99)]);
    a.take(3, posix(1, Shared, 40, 49)).await;
    assert_eq!(
        b.exclusive_ranges(asked).await,
        [(0, 19), (30, 39), (50, 99)],
        "a reader is not in a reader's way"
    );
    a.take(4, posix(1, Exclusive, 20, 29)).await;
    a.take(5, posix(1, Exclusive, 40, u64::MAX)).await;
    assert_eq!(b.exclusive_ranges(asked).await, [(0, u64::MAX)]);
    let held = b.test(asked).await.unwrap();
    assert_eq!(held.session, a.identity.session);
    assert_eq!(
        (held.lock.pid, held.lock.kind, held.lock.owner.style),
        (101, Exclusive, LockStyle::Process)
    );
    assert_eq!(a.test(asked).await, None, "nobody is in his own way");
    a.unlock(6, owner(LockStyle::Process, 1), LockRange::WHOLE).await;
    assert_eq!(b.test(asked).await, None);
}

pub(super) async fn waits_are_served_in_order_and_keep_their_place(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let third = kit.another_session().await;
    let c = Locker::new(&third, a.ino).await;
    a.take(1, posix(1, Shared, 0, 9)).await;
    let (writer, reader) = (posix(1, Exclusive, 0, 9), posix(1, Shared, 0, 9));
    b.told(1, writer, SHORT, LockOutcome::Waiting).await;
    c.told(1, reader, SHORT, LockOutcome::Waiting).await;
    let waiting = async { tokio::join!(b.outcome(1, writer), c.ask(1, reader, SHORT)) };
    let freeing = a.unlock(2, owner(LockStyle::Process, 1), LockRange::WHOLE);
    let ((first, second), ()) = tokio::join!(waiting, freeing);
    assert_eq!(first, LockOutcome::Granted);
    assert_eq!(second, Ok(LockOutcome::Waiting), "the writer came first");
    b.unlock(2, owner(LockStyle::Process, 1), LockRange::WHOLE).await;
    assert_eq!(c.outcome(1, reader).await, LockOutcome::Granted);
}

pub(super) async fn a_poll_ends_with_its_request(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let lock = posix(1, Exclusive, 0, 9);
    let long = Duration::from_secs(3600);
    // One poll that hears of the grant will do: on a machine that stands still for seconds a poll may be over before.
    let mut heard = 0;
    for round in 0..5 {
        a.take(2 * round, lock).await;
        b.told(2 * round, lock, SHORT, LockOutcome::Waiting).await;
        let freeing = a.unlock(2 * round + 1, lock.owner, lock.range);
        let (polled, ()) = tokio::join!(b.ask(2 * round, lock, long), freeing);
        heard += u32::from(polled == Ok(LockOutcome::Granted));
        assert_eq!(b.outcome(2 * round, lock).await, LockOutcome::Granted);
        b.unlock(2 * round + 1, lock.owner, lock.range).await;
        if heard > 0 {
            break;
        }
    }
    assert!(heard > 0, "polls end with their time only");
}

pub(super) async fn lock_requests_may_be_sent_again_and_late(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let (lock, of) = (posix(1, Exclusive, 0, 9), owner(LockStyle::Process, 1));
    a.take(1, lock).await;
    a.unlock(2, of, LockRange::WHOLE).await;
    a.take(1, lock).await;
    assert_eq!(
        b.test(lock).await,
        None,
        "the first outcome is told, nothing is locked"
    );
    a.take(3, lock).await;
    a.unlock(2, of, LockRange::WHOLE).await;
    assert!(b.test(lock).await.is_some(), "nor unlocked");
    b.told(1, lock, AT_ONCE, LockOutcome::Conflict).await;
    b.told(2, lock, SHORT, LockOutcome::Waiting).await;
    let settled = |number, settled, answered: &[u64]| LockTicket {
        number,
        settled,
        answered: answered.to_vec(),
    };
    let unlock = a
        .service
        .unlock(a.identity, settled(9, 9, &[]), a.ino, of, LockRange::WHOLE);
    assert_eq!(unlock.await, Ok(LockOutcome::Granted));
    refused(a.ask(8, lock, AT_ONCE).await, ErrorKind::StaleOperation);
    refused(a.ask(3, lock, SHORT).await, ErrorKind::StaleOperation);
    refused(a.cancel(7).await, ErrorKind::StaleOperation);
    // The outcome of a wait stays until it is said to have arrived.
    assert_eq!(b.outcome(2, lock).await, LockOutcome::Granted);
    let other = posix(2, Shared, 50, 50);
    let ask = |ticket| b.service.lock(b.identity, ticket, b.ino, other, AT_ONCE);
    assert_eq!(ask(settled(5, 5, &[])).await, Ok(LockOutcome::Granted));
    b.told(2, lock, SHORT, LockOutcome::Granted).await;
    assert_eq!(ask(settled(6, 5, &[2])).await, Ok(LockOutcome::Granted));
    refused(b.ask(2, lock, SHORT).await, ErrorKind::StaleOperation);
}

pub(super) async fn waits_are_cancelled_whenever_they_arrive(kit: Kit) {
    let (a, b, _other) = pair(&kit).await;
    let lock = posix(1, Exclusive, 0, 9);
    a.take(1, lock).await;
    b.told(1, lock, SHORT, LockOutcome::Waiting).await;
    // A poll that is on its way hears of it.
    let (polled, cancelled) = tokio::join!(b.outcome(1, lock), b.cancel(1));
    assert_eq!(
        (polled, cancelled),
        (LockOutcome::Cancelled, Ok(LockOutcome::Cancelled))
    );
    assert_eq!(b.cancel(2).await, Ok(LockOutcome::Cancelled), "before it arrives");
    a.unlock(2, owner(LockStyle::Process, 1), LockRange::WHOLE).await;
    b.told(2, lock, SHORT, LockOutcome::Cancelled).await;
    assert_eq!(a.test(lock).await, None);
    b.take(3, lock).await;
    assert_eq!(
        b.cancel(3).await,
        Ok(LockOutcome::Granted),
        "too late: it is held"
    );
    assert!(a.test(lock).await.is_some());
}

pub(super) async fn deadlocks_are_found_across_files(kit: Kit) {
    let (a, b, other) = pair(&kit).await;
    let second = kit.file("g").await;
    let (a2, b2) = (
        Locker::new(&kit.session, second).await,
        Locker::new(&other, second).await,
    );
    let lock = posix(1, Exclusive, 0, 9);
    a.take(1, lock).await;
    b2.take(1, lock).await;
    a2.told(2, lock, SHORT, LockOutcome::Waiting).await;
    b.told(2, lock, AT_ONCE, LockOutcome::Conflict).await;
    b.told(3, lock, SHORT, LockOutcome::Deadlock).await;
    b2.unlock(4, owner(LockStyle::Process, 1), LockRange::WHOLE).await;
    assert_eq!(a2.outcome(2, lock).await, LockOutcome::Granted);
}

pub(super) async fn locks_end_with_their_session(kit: Kit) {
    let (a, b, other) = pair(&kit).await;
    let third = kit.another_session().await;
    let c = Locker::new(&third, a.ino).await;
    let lock = posix(1, Exclusive, 0, 9);
    b.take(1, lock).await;
    c.told(1, lock, SHORT, LockOutcome::Waiting).await;
    a.told(1, lock, SHORT, LockOutcome::Waiting).await;
    kit.service.close_session(third.identity()).await.unwrap();
    let (woken, closed) = tokio::join!(a.outcome(1, lock), kit.service.close_session(other.identity()));
    closed.unwrap();
    assert_eq!(woken, LockOutcome::Granted);
    // One that is over locks and unlocks nothing, nor does a stranger.
    let free = posix(1, Shared, 50, 59);
    let stranger = Locker {
        service: a.service.clone(),
        identity: Identity {
            epoch: dfs_common::SessionEpoch(a.identity.epoch.0 + 1),
            ..a.identity
        },
        ino: a.ino,
    };
    for gone in [&b, &c, &stranger] {
        refused(gone.ask(7, free, AT_ONCE).await, ErrorKind::SessionFenced);
        let unlock = gone
            .service
            .unlock(gone.identity, ticket(8), gone.ino, lock.owner, lock.range);
        refused(unlock.await, ErrorKind::SessionFenced);
        refused(gone.cancel(1).await, ErrorKind::SessionFenced);
        let test = gone.service.test_lock(gone.identity, gone.ino, lock);
        refused(test.await, ErrorKind::SessionFenced);
    }
    let fourth = kit.another_session().await;
    let d = Locker::new(&fourth, a.ino).await;
    d.told(1, lock, AT_ONCE, LockOutcome::Conflict).await;
}

pub(super) async fn locks_need_an_open_file_and_outlive_its_release(kit: Kit) {
    let (a, b, other) = pair(&kit).await;
    let lock = posix(1, Exclusive, 0, 9);
    b.take(1, lock).await;
    other.release(b.ino).await.unwrap();
    assert!(a.test(lock).await.is_some(), "a release alone frees no lock");
    refused(
        b.ask(2, posix(1, Shared, 50, 59), AT_ONCE).await,
        ErrorKind::BadHandle,
    );
    b.unlock(3, lock.owner, LockRange::WHOLE).await;
    a.take(1, lock).await;
}

pub(super) async fn a_session_that_resumes_is_told_what_it_holds(kit: Kit) {
    let (a, b, other) = pair(&kit).await;
    let (held, lost) = (posix(1, Exclusive, 0, 9), posix(1, Exclusive, 5, 14));
    b.take(1, held).await;
    let declared = [held, posix(1, Shared, 2, 3), lost].map(|lock| LockDeclaration { ino: b.ino, lock });
    let opened = vec![OpenDeclaration {
        ino: b.ino,
        read: true,
        write: true,
        pages: false,
        buffer: false,
    }];
    let resume = |more, opened: &[OpenDeclaration]| OpenSession {
        resume: Some(other.identity()),
        opened: opened.to_vec(),
        locks: LockDeclarations {
            settled: 2,
            held: declared.to_vec(),
            more,
        },
        ..fresh_session("again")
    };
    for (more, opened) in [(true, &[][..]), (false, &opened[..])] {
        let grant = kit.service.open_session(resume(more, opened)).await.unwrap();
        assert_eq!(grant.identity.session, other.identity().session);
        assert_eq!(grant.lost_locks, declared[2..]);
    }
    refused(
        kit.service.open_session(resume(true, &opened)).await,
        ErrorKind::Invalid,
    );
    let mut part = resume(true, &[]);
    part.locks.held = vec![LockDeclaration {
        ino: b.ino,
        lock: LockSpec {
            range: range(0, 9),
            ..flock(1, Shared)
        },
    }];
    refused(kit.service.open_session(part).await, ErrorKind::Invalid);
    refused(b.ask(1, held, AT_ONCE).await, ErrorKind::StaleOperation);
    a.told(1, held, AT_ONCE, LockOutcome::Conflict).await;
    a.take(2, posix(1, Exclusive, 10, 14)).await;
}

pub(super) async fn lost_messages_neither_leave_nor_take_locks(kit: Kit) {
    let (a, b, other) = pair(&kit).await;
    let mut calls = 0_u32;
    let plan = FaultPlan::new(move |attempt| {
        let concerned = ["lock", "unlock", "cancel_lock"].contains(&attempt.method);
        calls += u32::from(concerned);
        match (concerned, calls % 3) {
            (true, 1) => Fault::LoseReply,
            (true, 2) => Fault::LoseRequest,
            _ => Fault::None,
        }
    });
    let faulty = Locker {
        service: Arc::new(FaultyMetadata::new(other.service.clone(), plan.clone())),
        identity: b.identity,
        ino: b.ino,
    };
    let again = async |number: u64, what: u32, lock: LockSpec| {
        for _ in 0..5 {
            let result = match what {
                0 => faulty.ask(number, lock, AT_ONCE).await,
                1 => faulty.ask(number, lock, SHORT).await,
                2 => {
                    let unlock = faulty.service.unlock(
                        faulty.identity,
                        ticket(number),
                        faulty.ino,
                        lock.owner,
                        lock.range,
                    );
                    unlock.await
                }
                _ => faulty.cancel(number).await,
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Unavailable => continue,
                outcome => return outcome.unwrap(),
            }
        }
        panic!("the plan loses two of three");
    };
    let lock = posix(1, Exclusive, 0, 9);
    for round in 0..4 {
        let number = 10 * round;
        assert_eq!(again(number, 0, lock).await, LockOutcome::Granted);
        assert!(a.test(lock).await.is_some());
        assert_eq!(again(number + 1, 2, lock).await, LockOutcome::Granted);
        assert_eq!(a.test(lock).await, None);
        a.take(number, lock).await;
        assert_eq!(again(number + 2, 1, lock).await, LockOutcome::Waiting);
        assert_eq!(again(number + 2, 3, lock).await, LockOutcome::Cancelled);
        a.unlock(number + 1, lock.owner, lock.range).await;
        assert_eq!(a.test(lock).await, None);
    }
    assert!(plan.faults() >= 16, "{} faults", plan.faults());
}
