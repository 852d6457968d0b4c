//! `admin locks` on a real cluster.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::TestCluster;
use dfs_common::lock::{LockKind, LockOutcome, LockOwner, LockRange, LockSpec, LockStyle, LockTicket};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{Ino, Name};
use dfs_proto::grpc::MetadataGrpcClient;
use serde_json::{Value, json};
use std::time::Duration;

/// A client with a session of its own.
struct Holder {
    metadata: MetadataGrpcClient,
    me: Identity,
}

impl Holder {
    async fn new(coordinator: &str, client_name: &str) -> Holder {
        let metadata = MetadataGrpcClient::connect_lazy(coordinator, Duration::from_secs(30)).unwrap();
        let request = OpenSession {
            client_name: client_name.to_owned(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        let me = metadata.open_session(request).await.unwrap().identity;
        Holder { metadata, me }
    }

    async fn open(&self, names: &[&str]) -> Ino {
        let mut ino = Ino::ROOT;
        for name in names {
            let name = Name::new(name.as_bytes().to_vec()).unwrap();
            let found = self.metadata.lookup(self.me, Caller::root(), ino, name).await;
            ino = found.unwrap().attr.ino;
        }
        let opened = self.metadata.open(self.me, Caller::root(), ino, true, false);
        opened.await.unwrap();
        ino
    }

    async fn lock(&self, number: u64, ino: Ino, lock: LockSpec) -> LockOutcome {
        let ticket = LockTicket {
            number,
            ..LockTicket::default()
        };
        let patience = Duration::from_millis(1);
        let outcome = self.metadata.lock(self.me, ticket, ino, lock, patience).await;
        outcome.unwrap()
    }
}

fn lock(style: LockStyle, kind: LockKind, range: LockRange) -> LockSpec {
    LockSpec {
        owner: LockOwner { style, number: 17 },
        kind,
        range,
        pid: 4711,
    }
}

fn without_age(object: &Value) -> Value {
    let mut object = object.clone();
    let age = object.as_object_mut().unwrap().remove("age_ms").unwrap();
    assert!(age.is_u64(), "{age}");
    object
}

#[test]
fn holders_and_waits_are_listed_with_their_clients_and_paths() {
    let cluster = TestCluster::start();
    let file = cluster.file("f", b"content");
    cluster.ok(&["mkdir", "-p", "/a/b"]);
    cluster.ok(&["upload", &file, "/a/b/f"]);
    cluster.ok(&["upload", &file, "/g"]);
    assert_eq!(cluster.ok(&["admin", "locks"]), "no locks are held\n");
    assert!(cluster.json(&["admin", "locks"]).is_empty());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let coordinator = cluster.cluster.coordinator().to_owned();
    let (first, second, f) = runtime.block_on(async {
        let first = Holder::new(&coordinator, "alpha dfs-mount").await;
        let second = Holder::new(&coordinator, "beta dfs-mount").await;
        let (f, g) = (first.open(&["a", "b", "f"]).await, first.open(&["g"]).await);
        second.open(&["a", "b", "f"]).await;
        let flock = lock(LockStyle::Flock, LockKind::Exclusive, LockRange::WHOLE);
        assert_eq!(first.lock(1, f, flock).await, LockOutcome::Granted);
        assert_eq!(second.lock(1, f, flock).await, LockOutcome::Waiting);
        let range = LockRange::new(5, 9).unwrap();
        let shared = lock(LockStyle::Process, LockKind::Shared, range);
        assert_eq!(first.lock(2, g, shared).await, LockOutcome::Granted);
        (first, second, f)
    });
    let listed: Vec<Value> = cluster
        .json(&["admin", "locks", "/a/b/f"])
        .iter()
        .map(without_age)
        .collect();
    let expected = |state: &str, of: &Holder, client: &str| {
        let mut object = listed[0].clone();
        // The cluster may have renamed what it uploaded into its place: then its path takes a search.
        object.as_object_mut().unwrap().remove("path");
        assert_eq!(
            object.as_object().unwrap().len(),
            10,
            "every field is looked at: {object}"
        );
        json!({
            "ino": f.0, "state": state, "session": of.me.session.0, "client": client, "pid": 4711,
            "style": "flock", "owner": 17, "kind": "exclusive", "first": 0, "last": null,
        })
    };
    let without_path = |object: &Value| {
        let mut object = object.clone();
        object.as_object_mut().unwrap().remove("path");
        object
    };
    assert_eq!(
        listed.iter().map(without_path).collect::<Vec<_>>(),
        [
            expected("held", &first, "alpha dfs-mount"),
            expected("waits", &second, "beta dfs-mount")
        ]
    );
    let all = cluster.json(&["admin", "locks"]);
    assert_eq!(all.len(), 3, "{all:?}");
    let table = cluster.ok(&["admin", "locks"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.contains("5-9") && table.contains("beta dfs-mount"),
        "{table}"
    );
    cluster.fails(&["admin", "locks", "/missing"], 1);
    runtime.block_on(async {
        first.metadata.close_session(first.me).await.unwrap();
        second.metadata.close_session(second.me).await.unwrap();
    });
    assert_eq!(cluster.ok(&["admin", "locks", "/a/b/f"]), "no locks are held\n");
}
