use super::*;
use crate::config::CoordinatorConfig;
use crate::service::CoordinatorService;
use dfs_common::Name;
use dfs_common::clock::ManualClock;
use dfs_common::lease::Obeyed;
use dfs_common::lock::LockDeclarations;
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{Allowance, OpNumber};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const TEN: Quota = Quota {
    bytes: Some(10),
    inodes: None,
};

struct Rig {
    core: Arc<Core>,
    service: CoordinatorService,
    numbers: u64,
}

impl Rig {
    fn start(dir: &Path) -> Rig {
        let config = CoordinatorConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)));
        let core = Arc::new(Core::open(&config, Arc::new(ManualClock::default())).unwrap());
        Rig {
            service: CoordinatorService::new(core.clone()),
            core,
            numbers: 0,
        }
    }

    async fn session(&self) -> Identity {
        let request = OpenSession {
            client_name: "test".to_string(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: LockDeclarations::default(),
            leases: false,
        };
        self.service.open_session(request).await.unwrap().identity
    }

    async fn apply(&mut self, who: Identity, op: Operation) -> OpResult {
        self.numbers += 1;
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number: OpNumber(self.numbers),
                caller: Caller::root(),
                op,
            }],
            acknowledged_below: OpNumber(self.numbers),
            stop_on_error: false,
            durable: false,
        };
        self.service.mutate(who, batch).await.unwrap().results.remove(0)
    }

    async fn mkdir(&mut self, who: Identity, text: &'static str) -> Ino {
        let op = Operation::Mkdir {
            parent: Ino::ROOT,
            name: name(text),
            mode: 0o700,
        };
        match self.apply(who, op).await {
            Ok(OpReply::Entry(entry)) => entry.attr.ino,
            other => panic!("{other:?}"),
        }
    }

    async fn link(&mut self, who: Identity, ino: Ino, parent: Ino, text: &'static str) -> OpResult {
        let name = name(text);
        self.apply(who, Operation::Link { ino, parent, name }).await
    }
}

fn name(text: &'static str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn quota_is_set_when_every_session_has_given_up_what_it_knew_of_quotas() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path());
    let (holder, stranger) = (rig.session().await, rig.session().await);
    let usage = async |who| rig.service.usage(who, Ino::ROOT).await.unwrap();
    assert!(!usage(stranger).await.leased, "without a recall stream");
    let stream = rig
        .service
        .recalls(holder, 0, Obeyed::default())
        .await
        .unwrap()
        .stream;
    let known = usage(holder).await;
    assert!(known.leased && !known.quotas);

    let core = rig.core.clone();
    let set = tokio::spawn(async move { core.set_quota(Ino::ROOT, TEN).await });
    let page = rig
        .service
        .recalls(holder, stream, Obeyed::default())
        .await
        .unwrap();
    assert_eq!(page.recalls[0].inos, [Ino::QUOTAS]);
    // Told is not obeyed: whatever was sent to the writer is applied by now.
    rig.core.applier.barrier().await.unwrap();
    assert!(!set.is_finished());
    let known = usage(holder).await;
    assert!(!known.leased, "no lease meanwhile");
    assert!(!known.quotas, "nor is it set");
    let service = CoordinatorService::new(rig.core.clone());
    let obeyed = Obeyed {
        received: page.recalls[0].sequence,
        below: page.recalls[0].sequence,
        beside: Vec::new(),
    };
    let obey = tokio::spawn(async move { service.recalls(holder, stream, obeyed).await });
    set.await.unwrap().unwrap();
    obey.abort();
    let known = usage(holder).await;
    assert_eq!(known.bytes_allowed, Some(Allowance { limit: 10, used: 0 }));
    rig.core.set_quota(Ino::ROOT, Quota::default()).await.unwrap();
}

#[tokio::test]
async fn hard_links_are_looked_at_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(dir.path());
    let who = rig.session().await;
    let (q, out) = (rig.mkdir(who, "q").await, rig.mkdir(who, "out").await);
    let create = Operation::Create {
        parent: q,
        name: name("f"),
        mode: 0o600,
        exclusive: true,
        read: true,
        write: true,
    };
    let Ok(OpReply::Created { entry, .. }) = rig.apply(who, create).await else {
        panic!("no file");
    };
    let f = entry.attr.ino;
    rig.link(who, f, q, "g").await.unwrap();
    // What a call leaves that goes away while it looks: the edge is closed until it is opened.
    assert!(rig.core.applier.set_quota(q, QuotaStep::CloseEdge).await.unwrap());
    let refused = rig.link(who, f, out, "h").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::CrossDevice);
    drop(Closing::new(rig.core.applier.clone(), q));
    // By a task; until then it is refused.
    let deadline = Instant::now() + Duration::from_secs(30);
    while rig.link(who, f, out, "h").await.is_err() {
        assert!(Instant::now() < deadline, "the edge was not opened");
    }
    let refused = rig.core.set_quota(q, TEN).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let unlink = Operation::Unlink {
        parent: out,
        name: name("h"),
    };
    rig.apply(who, unlink).await.unwrap();
    rig.core.set_quota(q, TEN).await.unwrap();
    let refused = rig.link(who, f, out, "h").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::CrossDevice);
}
