//! Replaced inodes through the service: who may open them, for how long, and across a restart.

use super::*;
use crate::config::CoordinatorConfig;
use crate::core::Core;
use crate::namespace::{check, read};
use crate::service::CoordinatorService;
use bytes::Bytes;
use dfs_common::clock::ManualClock;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::limits::{REPLACED_INODE_KEPT, SESSION_LEASE};
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, OpReply, Operation, RenameMode};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession};
use dfs_common::{ErrorKind, FsResult, Ino, Name, OpNumber, Timestamp};
use std::net::SocketAddr;
use std::path::Path;

struct Rig {
    core: Arc<Core>,
    service: CoordinatorService,
    reaper: Reaper,
    clock: Arc<ManualClock>,
}

fn name(text: &'static str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

impl Rig {
    /// A coordinator over `dir`, without workers; wall clock and monotonic time go on from `since`.
    fn start(dir: &Path, since: Duration) -> Rig {
        let clock = Arc::new(ManualClock::default());
        clock.advance(since);
        let config = CoordinatorConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)));
        let core = Arc::new(Core::open(&config, clock.clone()).unwrap());
        Rig {
            service: CoordinatorService::new(core.clone()),
            reaper: Reaper::new(core.applier.clone()),
            core,
            clock,
        }
    }

    async fn session(&self, resume: Option<Identity>, opened: Vec<OpenDeclaration>) -> Identity {
        let request = OpenSession {
            client_name: "test".to_string(),
            resume,
            opened,
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        self.service.open_session(request).await.unwrap().identity
    }

    async fn apply(&self, who: Identity, number: u64, op: Operation) -> OpReply {
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number: OpNumber(number),
                caller: Caller::root(),
                op,
            }],
            acknowledged_below: OpNumber(number),
            stop_on_error: false,
            durable: false,
        };
        let mut mutated = self.service.mutate(who, batch).await.unwrap();
        mutated.results.remove(0).unwrap()
    }

    /// A new file `text` with three bytes, closed. Takes two numbers.
    async fn file(&self, who: Identity, number: u64, text: &'static str) -> Ino {
        let create = Operation::Create {
            parent: Ino::ROOT,
            name: name(text),
            mode: 0o600,
            exclusive: true,
            read: true,
            write: true,
        };
        let OpReply::Created { entry, .. } = self.apply(who, number, create).await else {
            panic!("not created");
        };
        let ino = entry.attr.ino;
        let write = CommitWrite {
            ino,
            extents: vec![Extent {
                offset: 0,
                length: 3,
                data: ExtentData::Inline(Bytes::from_static(b"old")),
            }],
            chunks: vec![],
            append: false,
            mtime: Timestamp::default(),
            clear_setid: false,
        };
        self.apply(who, number + 1, Operation::CommitWrite(write)).await;
        self.service.release(who, vec![ino]).await.unwrap();
        ino
    }

    /// Renames the new file "new" over "f". Takes three numbers.
    async fn replace(&self, who: Identity, number: u64) {
        self.file(who, number, "new").await;
        let rename = Operation::Rename {
            parent: Ino::ROOT,
            name: name("new"),
            new_parent: Ino::ROOT,
            new_name: name("f"),
            mode: RenameMode::Replace,
        };
        self.apply(who, number + 2, rename).await;
    }

    async fn open_as(&self, who: Identity, uid: u32, ino: Ino) -> FsResult<()> {
        let caller = Caller {
            uid,
            ..Caller::root()
        };
        let opened = self.service.open(who, caller, ino, true, false).await?;
        assert_eq!((opened.attr.nlink, opened.attr.size), (0, 3));
        assert_eq!(opened.extents.extents.len(), 1);
        // What is committed: a lease is for when all sessions from before a restart are back.
        let extents = self.service.read_extents(who, ino, 0, 10, false).await?;
        assert_eq!(extents.page.size, 3);
        Ok(())
    }

    async fn release(&self, who: Identity, ino: Ino) {
        self.service.release(who, vec![ino]).await.unwrap();
    }

    fn inodes(&self) -> u64 {
        read::statfs_counters(&*self.core.store).unwrap().inodes
    }

    fn is_gone(&self, ino: Ino) -> bool {
        match read::getattr(&*self.core.store, ino) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Stale);
                true
            }
        }
    }

    /// Checks the store and stops; answers the time.
    async fn stop(self) -> Duration {
        use dfs_common::clock::Clock;
        let report = check::check(&*self.core.store).unwrap();
        assert!(report.is_clean(), "{report:#?}");
        self.core.applier.stop().await;
        self.clock.monotonic()
    }
}

fn kind(result: FsResult<()>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_session_opens_a_replaced_file_until_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path(), Duration::from_secs(1000));
    let (writer, reader) = (rig.session(None, vec![]).await, rig.session(None, vec![]).await);
    let old = rig.file(writer, 1, "f").await;
    rig.replace(writer, 3).await;
    rig.reaper.step().await;
    rig.open_as(reader, 0, old).await.unwrap();
    assert_eq!(
        kind(rig.open_as(writer, 5, old).await),
        ErrorKind::PermissionDenied
    );
    assert_eq!(rig.service.getattr(reader, old).await.unwrap().attr.nlink, 0);
    // Released and opened again, by the reader and by one that never had it.
    rig.release(reader, old).await;
    assert!(!rig.is_gone(old));
    for who in [reader, writer] {
        rig.open_as(who, 0, old).await.unwrap();
    }
    rig.release(writer, old).await;
    assert_eq!(rig.inodes(), 3);

    rig.clock.advance(REPLACED_INODE_KEPT);
    rig.reaper.step().await;
    assert_eq!(
        rig.reaper.status(),
        "1 replaced inodes let go, 0 portions of extents taken away"
    );
    // The reader has it open still, and again; others come too late.
    rig.open_as(reader, 0, old).await.unwrap();
    assert_eq!(kind(rig.open_as(writer, 0, old).await), ErrorKind::Stale);
    rig.release(reader, old).await;
    assert!(!rig.is_gone(old));
    rig.release(reader, old).await;
    assert!(rig.is_gone(old));
    assert_eq!(rig.inodes(), 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_survive_a_restart_and_go_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path(), Duration::from_secs(1000));
    let sessions = [
        rig.session(None, vec![]).await,
        rig.session(None, vec![]).await,
        rig.session(None, vec![]).await,
    ];
    let [writer, reader, lost] = sessions;
    let held = rig.file(writer, 1, "f").await;
    rig.replace(writer, 3).await;
    let found = read::resolve(&*rig.core.store, Ino::ROOT, &name("f"))
        .unwrap()
        .unwrap();
    rig.replace(writer, 6).await;
    rig.open_as(reader, 0, held).await.unwrap();
    rig.open_as(lost, 0, held).await.unwrap();
    let now = rig.stop().await;

    let rig = Rig::start(dir.path(), now);
    rig.session(Some(writer), vec![]).await;
    let declared = OpenDeclaration {
        ino: held,
        read: true,
        write: false,
        pages: false,
        buffer: false,
    };
    rig.session(Some(reader), vec![declared]).await;
    // Found before the restart, opened after it.
    rig.open_as(writer, 0, found).await.unwrap();
    rig.release(writer, found).await;
    // Their time is over, but one session may still have anything open.
    rig.clock.advance(REPLACED_INODE_KEPT);
    rig.reaper.step().await;
    assert!(!rig.is_gone(held) && !rig.is_gone(found));
    assert!(
        rig.reaper.status().starts_with("0 replaced"),
        "{}",
        rig.reaper.status()
    );
    for _ in 0..SESSION_LEASE.as_secs() * 2 {
        rig.clock.advance(Duration::from_secs(1));
        for who in [writer, reader] {
            rig.core.sessions.renew(&who).unwrap();
        }
        for ended in rig.core.sessions.expire_due() {
            rig.core.applier.end_session(ended).await.unwrap();
        }
    }
    assert_eq!(rig.core.sessions.count(), 2);
    rig.reaper.step().await;
    assert!(rig.is_gone(found));
    rig.open_as(reader, 0, held).await.unwrap();
    for _ in 0..2 {
        assert!(!rig.is_gone(held));
        rig.release(reader, held).await;
    }
    assert!(rig.is_gone(held));
    assert_eq!(rig.inodes(), 2);
    rig.stop().await;
}

/// Whatever the order of an open and the end of its time: an inode that was opened stays until it is released.
#[tokio::test(flavor = "multi_thread")]
async fn open_at_the_end_of_the_time_is_refused_or_holds() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path(), Duration::from_secs(1000));
    let (writer, reader) = (rig.session(None, vec![]).await, rig.session(None, vec![]).await);
    let mut old = rig.file(writer, 1, "f").await;
    for round in 0..50 {
        rig.replace(writer, 3 + round * 3).await;
        rig.clock.advance(REPLACED_INODE_KEPT);
        rig.core.sessions.renew(&writer).unwrap();
        rig.core.sessions.renew(&reader).unwrap();
        let (opened, _) = tokio::join!(rig.open_as(reader, 0, old), rig.reaper.step());
        match opened {
            Ok(()) => {
                assert!(!rig.is_gone(old));
                rig.service.read_extents(reader, old, 0, 10, true).await.unwrap();
                rig.release(reader, old).await;
            }
            Err(error) => assert!(error.kind() == ErrorKind::Stale, "{error}"),
        }
        assert!(rig.is_gone(old));
        old = read::resolve(&*rig.core.store, Ino::ROOT, &name("f"))
            .unwrap()
            .unwrap();
    }
    rig.stop().await;
}
