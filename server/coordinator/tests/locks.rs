//! Advisory locks of a whole coordinator: what a restart leaves of them, and what ends their waits.

#![allow(clippy::unwrap_used)] // the whole file is test code

use bytes::Bytes;
use dfs_common::limits::{LOCK_DECLARATIONS_MAX, SESSION_LOCKS_MAX};
use dfs_common::lock::LockKind::{self, Exclusive, Shared};
use dfs_common::lock::{
    LockDeclaration, LockDeclarations, LockOutcome, LockOwner, LockRange, LockSpec, LockStyle, LockTicket,
};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, Operation};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession, SessionGrant};
use dfs_common::{ErrorKind, FsResult, Ino, Name, OpNumber};
use dfs_coordinator::{Coordinator, CoordinatorConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A wait that should have ended by now has not.
const DEADLINE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(1);
const AT_ONCE: Duration = Duration::ZERO;

async fn start(dir: &Path) -> Coordinator {
    let config = CoordinatorConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)));
    Coordinator::start(config).await.unwrap()
}

fn posix(kind: LockKind, first: u64, last: u64) -> LockSpec {
    LockSpec {
        owner: LockOwner {
            style: LockStyle::Process,
            number: 1,
        },
        kind,
        range: LockRange::new(first, last).unwrap(),
        pid: 7,
    }
}

/// One client and the file that everybody locks.
struct Client {
    metadata: Arc<dyn MetadataService>,
    me: Identity,
    ino: Ino,
}

impl Client {
    async fn open(metadata: Arc<dyn MetadataService>) -> Client {
        let request = request(None, LockDeclarations::default());
        let me = metadata.open_session(request).await.unwrap().identity;
        let create = Operation::Create {
            parent: Ino::ROOT,
            name: Name::new(Bytes::from_static(b"locked")).unwrap(),
            mode: 0o666,
            exclusive: false,
            read: true,
            write: true,
        };
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number: OpNumber(1),
                caller: Caller::root(),
                op: create,
            }],
            acknowledged_below: OpNumber(0),
            stop_on_error: false,
            durable: false,
        };
        let created = metadata.mutate(me, batch).await.unwrap().results.remove(0);
        let Ok(OpReply::Created { entry, .. }) = created else {
            panic!("{created:?}")
        };
        let ino = entry.attr.ino;
        Client { metadata, me, ino }
    }

    /// Another client with that file: changes wait until all sessions from before a restart have resumed, opens do not.
    async fn with(metadata: Arc<dyn MetadataService>, ino: Ino) -> Client {
        let request = request(None, LockDeclarations::default());
        let me = metadata.open_session(request).await.unwrap().identity;
        metadata.open(me, Caller::root(), ino, true, true).await.unwrap();
        Client { metadata, me, ino }
    }

    /// The same client at a coordinator that was restarted; it has not resumed its session.
    fn at(&self, metadata: Arc<dyn MetadataService>) -> Client {
        Client { metadata, ..*self }
    }

    async fn resume(&self, locks: &[LockSpec], more: bool) -> FsResult<SessionGrant> {
        let declared = |lock: &LockSpec| LockDeclaration {
            ino: self.ino,
            lock: *lock,
        };
        let locks = LockDeclarations {
            settled: 0,
            held: locks.iter().map(declared).collect(),
            more,
        };
        let mut request = request(Some(self.me), locks);
        if !more {
            request.opened.push(OpenDeclaration {
                ino: self.ino,
                read: true,
                write: true,
                pages: false,
                buffer: false,
            });
        }
        self.metadata.open_session(request).await
    }

    async fn lock(&self, number: u64, lock: LockSpec, patience: Duration) -> FsResult<LockOutcome> {
        let ticket = LockTicket {
            number,
            ..LockTicket::default()
        };
        self.metadata
            .lock(self.me, ticket, self.ino, lock, patience)
            .await
    }

    async fn take(&self, number: u64, lock: LockSpec) {
        let taken = self.lock(number, lock, AT_ONCE).await;
        assert_eq!(taken, Ok(LockOutcome::Granted));
    }

    /// Polls until the request ends.
    async fn outcome(&self, number: u64, lock: LockSpec) -> LockOutcome {
        let began = Instant::now();
        loop {
            match self.lock(number, lock, Duration::from_secs(1)).await.unwrap() {
                LockOutcome::Waiting => assert!(began.elapsed() < DEADLINE, "it waits for ever"),
                outcome => return outcome,
            }
        }
    }
}

fn request(resume: Option<Identity>, locks: LockDeclarations) -> OpenSession {
    OpenSession {
        client_name: "test".to_string(),
        resume,
        opened: vec![],
        unsynced: None,
        locks,
        leases: false,
    }
}

fn kind<T: std::fmt::Debug>(result: FsResult<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_locks_are_declared_before_new_ones_are_granted() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let a = Client::open(coordinator.metadata()).await;
    let b = Client::open(coordinator.metadata()).await;
    assert_eq!(a.ino, b.ino);
    let (first, second) = (posix(Exclusive, 0, 9), posix(Shared, 50, 59));
    a.take(1, first).await;
    a.take(2, second).await;
    coordinator.shutdown().await;

    let coordinator = start(dir.path()).await;
    let (a, b) = (a.at(coordinator.metadata()), b.at(coordinator.metadata()));
    let c = Client::with(coordinator.metadata(), a.ino).await;
    let (elsewhere, later) = (posix(Exclusive, 100, 109), posix(Exclusive, 200, 209));
    let nothing_new = async |when: &str| {
        let refused = c.lock(1, elsewhere, AT_ONCE).await;
        assert_eq!(kind(refused), ErrorKind::Unavailable, "{when}");
        let waits = c.lock(2, later, SHORT).await;
        assert_eq!(waits, Ok(LockOutcome::Waiting), "{when}");
        let test = c.metadata.test_lock(c.me, c.ino, elsewhere).await;
        assert_eq!(kind(test), ErrorKind::Unavailable, "{when}");
    };
    nothing_new("before anybody has declared").await;
    assert_eq!(
        kind(a.lock(3, elsewhere, AT_ONCE).await),
        ErrorKind::SessionFenced
    );
    assert!(a.resume(&[first], true).await.unwrap().lost_locks.is_empty());
    nothing_new("while A declares").await;
    let fenced = a.lock(3, elsewhere, AT_ONCE).await;
    assert_eq!(
        kind(fenced),
        ErrorKind::SessionFenced,
        "live with the last part only"
    );
    let told = c.metadata.test_lock(c.me, c.ino, posix(Shared, 0, 99)).await;
    assert_eq!(told.unwrap().unwrap().session, a.me.session);
    assert!(a.resume(&[second], false).await.unwrap().lost_locks.is_empty());
    a.metadata.keep_alive(a.me).await.unwrap();
    nothing_new("before B has declared").await;

    let (stolen, shared) = (posix(Shared, 5, 9), posix(Shared, 55, 59));
    let lost = b.resume(&[stolen, shared], false).await.unwrap().lost_locks;
    assert_eq!(
        lost,
        [LockDeclaration {
            ino: b.ino,
            lock: stolen
        }]
    );
    assert_eq!(c.outcome(2, later).await, LockOutcome::Granted);
    c.take(1, elsewhere).await;
    for (number, held) in [(3, first), (4, second)] {
        let lock = LockSpec {
            kind: Exclusive,
            ..held
        };
        assert_eq!(c.lock(number, lock, AT_ONCE).await, Ok(LockOutcome::Conflict));
    }
    // What is declared again after that is compared only.
    let unknown = posix(Shared, 300, 309);
    let lost = b.resume(&[shared, unknown], false).await.unwrap().lost_locks;
    assert_eq!(
        lost,
        [LockDeclaration {
            ino: b.ino,
            lock: unknown
        }]
    );
    c.take(5, posix(Exclusive, 300, 309)).await;
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_session_that_ends_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let gone = Client::open(coordinator.metadata()).await;
    let lock = posix(Exclusive, 0, 9);
    gone.take(1, lock).await;
    coordinator.shutdown().await;

    let coordinator = start(dir.path()).await;
    let c = Client::with(coordinator.metadata(), gone.ino).await;
    assert_eq!(c.lock(1, lock, SHORT).await, Ok(LockOutcome::Waiting));
    let gone = gone.at(coordinator.metadata());
    let (woken, closed) = tokio::join!(c.outcome(1, lock), gone.metadata.close_session(gone.me));
    closed.unwrap();
    assert_eq!(woken, LockOutcome::Granted);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_stops_does_not_wait_for_its_waits() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let (a, b) = (
        Client::open(coordinator.metadata()).await,
        Client::open(coordinator.metadata()).await,
    );
    let lock = posix(Exclusive, 0, 9);
    a.take(1, lock).await;
    assert_eq!(b.lock(1, lock, SHORT).await, Ok(LockOutcome::Waiting));
    let poll = b.lock(1, lock, Duration::from_secs(3600));
    let began = Instant::now();
    let (polled, ()) = tokio::join!(poll, async {
        // The poll is under way: join polls it first.
        coordinator.shutdown().await
    });
    assert_eq!(kind(polled), ErrorKind::Unavailable);
    assert!(began.elapsed() < DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn declarations_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path()).await;
    let a = Client::open(coordinator.metadata()).await;
    coordinator.shutdown().await;
    let coordinator = start(dir.path()).await;
    let a = a.at(coordinator.metadata());
    let too_many = vec![posix(Shared, 1, 1); LOCK_DECLARATIONS_MAX + 1];
    assert_eq!(kind(a.resume(&too_many, true).await), ErrorKind::Invalid);
    // Every part is on inodes of its own: one file with this many ranges is slow to build.
    let mut declared = 0;
    let refused = loop {
        let locks: Vec<LockDeclaration> = (0..LOCK_DECLARATIONS_MAX as u64)
            .map(|place| LockDeclaration {
                ino: Ino(1000 + declared + place),
                lock: posix(Shared, 1, 1),
            })
            .collect();
        declared += locks.len() as u64;
        let locks = LockDeclarations {
            settled: 0,
            held: locks,
            more: true,
        };
        match a.metadata.open_session(request(Some(a.me), locks)).await {
            Ok(grant) => assert!(grant.lost_locks.is_empty()),
            Err(error) => break error,
        }
        assert!(declared <= SESSION_LOCKS_MAX as u64, "{declared} were taken");
    };
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(a.resume(&[], false).await.unwrap().lost_locks.is_empty());
    coordinator.shutdown().await;
}
