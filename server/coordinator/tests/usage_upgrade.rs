//! A coordinator that opens a store which a release without usage records made, or wrote to since, counts before it does anything else.

#![allow(clippy::unwrap_used)] // the whole file is test code

use dfs_common::capability::CapabilityKey;
use dfs_common::clock::SystemClock;
use dfs_common::op::Operation;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino, Name, NodeId, PgId, Quota, SessionId, Timestamp};
use dfs_coordinator::config::{CoordinatorConfig, StoreKind};
use dfs_coordinator::core::Core;
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::namespace::{self, ApplyContext, ChunkPlacement, OpenFiles, check, keys, quota, usage};
use dfs_coordinator::store::fence::Fence;
use dfs_coordinator::store::{self, MetaStore};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

struct Nothing;

impl OpenFiles for Nothing {
    fn holders(&self, _ino: Ino) -> Vec<SessionId> {
        Vec::new()
    }
    fn is_open(&self, _session: SessionId, _ino: Ino, _write: bool) -> bool {
        false
    }
}

impl ChunkPlacement for Nothing {
    fn choose(&self, _count: u32) -> FsResult<Vec<PgId>> {
        Ok(Vec::new())
    }
    fn members(&self, _group: PgId) -> Option<Vec<NodeId>> {
        None
    }
}

fn start(dir: &Path) -> Core {
    let config = CoordinatorConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)));
    Core::open(&config, Arc::new(SystemClock::default())).unwrap()
}

fn apply(store: &dyn MetaStore, operations: &[Operation]) {
    let mut txn = Txn::new(store);
    for operation in operations {
        let ctx = ApplyContext {
            now: Timestamp::default(),
            session: SessionId(1),
            opened: &Nothing,
            placement: &Nothing,
            capability_key: &CapabilityKey([1; 32]),
            capability_expires_unix_ms: 1,
            replication: 3,
            replication_floor: 2,
        };
        namespace::apply(&mut txn, &ctx, &Caller::root(), operation).unwrap();
    }
    store.commit(txn.into_batch()).unwrap();
}

fn name(text: &'static str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn mkdir(text: &'static str) -> Operation {
    Operation::Mkdir {
        parent: Ino::ROOT,
        name: name(text),
        mode: 0o755,
    }
}

fn below_root(core: &Core) -> (u64, u64) {
    let report = check::check(&*core.store).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let tree = quota::tree_usage(&*core.store, Ino::ROOT).unwrap();
    (tree.files, tree.directories)
}

/// The store of a coordinator that is not running.
fn store_of(dir: &Path) -> Arc<dyn MetaStore> {
    store::open(StoreKind::Fjall, &dir.join("meta"), 1 << 20).unwrap()
}

#[test]
fn usage_is_counted_at_the_start_after_a_release_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let core = start(dir.path());
    let file = Operation::Symlink {
        parent: Ino::ROOT,
        name: name("l"),
        target: "target".into(),
    };
    apply(&*core.store, &[mkdir("a"), file, mkdir("b")]);
    let mut txn = Txn::new(&*core.store);
    let limit = Quota {
        bytes: None,
        inodes: Some(10),
    };
    quota::set(&mut txn, Ino::ROOT, limit).unwrap();
    core.store.commit(txn.into_batch()).unwrap();
    drop(core);
    let core = start(dir.path());
    assert_eq!(below_root(&core), (1, 2));
    drop(core);

    // As a release made it that has none of these records.
    let store = store_of(dir.path());
    let mut txn = Txn::new(&*store);
    let (first, behind) = keys::usages();
    for (key, _) in store.scan(&first, &behind, 100).unwrap() {
        txn.put_usage(keys::parse_usage(&key).unwrap(), None);
    }
    txn.delete(keys::usage_epoch());
    store.commit(txn.into_batch()).unwrap();
    assert!(!check::check(&*store).unwrap().is_clean());
    drop(store);
    let core = start(dir.path());
    assert_eq!(below_root(&core), (1, 2));
    let counted = usage::get(&*core.store, Ino::ROOT).unwrap();
    assert_eq!(counted.limit_inodes, Some(10), "quotas are kept");
    drop(core);

    // As one leaves it that opened it, wrote, and let the records be.
    Fence::take(dir.path()).unwrap();
    let store = store_of(dir.path());
    let (first, behind) = keys::usages();
    let before = store.scan(&first, &behind, 100).unwrap();
    apply(&*store, &[mkdir("c")]);
    let changes = before
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    store.commit(store::WriteBatch { changes }).unwrap();
    assert!(!check::check(&*store).unwrap().is_clean());
    drop(store);
    assert_eq!(below_root(&start(dir.path())), (1, 3));
}
