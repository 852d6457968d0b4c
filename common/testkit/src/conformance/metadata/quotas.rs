//! Limits on what lies below directories.

use super::checks;
use super::kit::{Kit, Session};
use crate::conformance::refused;
use dfs_common::op::{OpReply, RenameMode};
use dfs_common::service::MetadataService;
use dfs_common::session::Caller;
use dfs_common::{Allowance, ErrorKind, FsResult, Ino, Quota};
use futures::future::BoxFuture;
use std::sync::Arc;

/// Sets the quota of a directory of the service under test; an empty one is none.
pub type QuotaSetter = Arc<dyn Fn(Ino, Quota) -> BoxFuture<'static, FsResult<()>> + Send + Sync>;

type Check = (&'static str, fn(Limited) -> BoxFuture<'static, ()>);

const CHECKS: &[Check] = checks![Limited:
    bytes_and_inodes_end_at_the_limit,
    quotas_nest_and_move_with_their_directories,
    removed_open_files_count_until_they_are_released,
    held_content_counts_where_its_directory_was,
    replaced_files_make_room_unless_they_are_open,
    names_of_one_file_do_not_cross_an_edge,
    quotas_are_refused_where_they_cannot_be,
];

/// Checks quotas of `service`, whose quotas `setter` sets, as [`super::metadata`] checks everything else.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn quotas(service: Arc<dyn MetadataService>, setter: QuotaSetter) {
    for (name, check) in CHECKS {
        println!("conformance of quotas: {name}");
        let kit = Kit::new(service.clone(), name).await;
        let setter = setter.clone();
        check(Limited { kit, setter }).await;
    }
}

/// A kit, and the way to set quotas.
struct Limited {
    kit: Kit,
    setter: QuotaSetter,
}

impl Limited {
    fn session(&self) -> &Session {
        &self.kit.session
    }

    async fn limit(&self, ino: Ino, bytes: Option<u64>, inodes: Option<u64>) -> FsResult<()> {
        (self.setter)(ino, Quota { bytes, inodes }).await
    }

    async fn mkdir(&self, parent: Ino, text: &str) -> Ino {
        let made = self.session().mkdir(&Caller::root(), parent, text, 0o755).await;
        made.unwrap().ino
    }

    /// A new file with content, open.
    async fn file(&self, parent: Ino, text: &str, bytes: usize) -> Ino {
        let made = self.session().create(&Caller::root(), parent, text, 0o644).await;
        let ino = made.unwrap().ino;
        self.put(ino, 0, bytes).await.unwrap();
        ino
    }

    async fn put(&self, ino: Ino, offset: u64, bytes: usize) -> FsResult<()> {
        match bytes {
            0 => Ok(()),
            _ => self.session().put(ino, offset, &vec![1; bytes]).await.map(drop),
        }
    }

    async fn release(&self, ino: Ino) {
        let identity = self.session().identity();
        self.kit.service.release(identity, vec![ino]).await.unwrap();
    }

    async fn unlink(&self, parent: Ino, text: &str) {
        self.session()
            .unlink(&Caller::root(), parent, text)
            .await
            .unwrap();
    }

    async fn rmdir(&self, parent: Ino, text: &str) {
        self.session().rmdir(&Caller::root(), parent, text).await.unwrap();
    }

    async fn rename(&self, from: (Ino, &str), to: (Ino, &str)) -> FsResult<OpReply> {
        self.session()
            .rename(&Caller::root(), from, to, RenameMode::Replace)
            .await
    }

    /// Bytes and inodes that count against the tightest quotas above.
    async fn used(&self, ino: Ino) -> [Option<u64>; 2] {
        let identity = self.session().identity();
        let usage = self.kit.service.usage(identity, ino).await.unwrap();
        let used = |allowed: Option<Allowance>| allowed.map(|allowed| allowed.used);
        [used(usage.bytes_allowed), used(usage.inodes_allowed)]
    }
}

async fn bytes_and_inodes_end_at_the_limit(limited: Limited) {
    let (root, session) = (Caller::root(), limited.session());
    let q = limited.mkdir(limited.kit.dir, "q").await;
    let f = limited.file(q, "f", 10).await;
    limited.limit(q, Some(100), Some(2)).await.unwrap();
    limited.put(f, 10, 90).await.unwrap();
    refused(limited.put(f, 100, 1).await, ErrorKind::QuotaExceeded);
    limited.put(f, 0, 100).await.unwrap();
    session.truncate(&root, f, 1 << 40).await.unwrap();
    refused(limited.put(f, 1000, 1).await, ErrorKind::QuotaExceeded);
    session.truncate(&root, f, 50).await.unwrap();
    limited.put(f, 50, 50).await.unwrap();
    let inner = limited.mkdir(q, "inner").await;
    refused(
        session.create(&root, inner, "x", 0o644).await,
        ErrorKind::QuotaExceeded,
    );
    refused(
        session.symlink(&root, q, "x", "target").await,
        ErrorKind::QuotaExceeded,
    );
    session.link(&root, f, inner, "g").await.unwrap();
    assert_eq!(limited.used(f).await, [Some(100), Some(2)]);
    // Lowered below what is there, nothing grows, and everything else goes on.
    limited.limit(q, Some(10), Some(1)).await.unwrap();
    limited.put(f, 0, 100).await.unwrap();
    refused(limited.put(f, 0, 101).await, ErrorKind::QuotaExceeded);
    limited.unlink(q, "f").await;
    limited.limit(q, None, None).await.unwrap();
    limited.put(f, 0, 1000).await.unwrap();
    assert_eq!(limited.used(f).await, [None, None]);
}

async fn quotas_nest_and_move_with_their_directories(limited: Limited) {
    let outer = limited.mkdir(limited.kit.dir, "outer").await;
    let inner = limited.mkdir(limited.kit.dir, "inner").await;
    let f = limited.file(inner, "f", 60).await;
    limited.limit(outer, Some(59), None).await.unwrap();
    limited.limit(inner, Some(80), None).await.unwrap();
    let into = ((limited.kit.dir, "inner"), (outer, "inner"));
    refused(limited.rename(into.0, into.1).await, ErrorKind::QuotaExceeded);
    limited.limit(outer, Some(70), None).await.unwrap();
    limited.rename(into.0, into.1).await.unwrap();
    refused(limited.put(f, 60, 11).await, ErrorKind::QuotaExceeded);
    limited.rename(into.1, into.0).await.unwrap();
    limited.put(f, 60, 20).await.unwrap();
    refused(limited.put(f, 80, 1).await, ErrorKind::QuotaExceeded);
}

async fn removed_open_files_count_until_they_are_released(limited: Limited) {
    let (root, session) = (Caller::root(), limited.session());
    let q = limited.mkdir(limited.kit.dir, "q").await;
    limited.limit(q, Some(100), Some(3)).await.unwrap();
    let (f, g) = (limited.file(q, "f", 10).await, limited.file(q, "g", 40).await);
    limited.unlink(q, "f").await;
    limited.unlink(q, "g").await;
    assert_eq!(limited.used(q).await, [Some(50), Some(2)]);
    limited.put(f, 10, 30).await.unwrap();
    refused(limited.put(g, 40, 21).await, ErrorKind::QuotaExceeded);
    limited.put(g, 40, 20).await.unwrap();
    let h = limited.file(q, "h", 0).await;
    refused(limited.put(h, 0, 1).await, ErrorKind::QuotaExceeded);
    refused(
        session.create(&root, q, "i", 0o644).await,
        ErrorKind::QuotaExceeded,
    );
    limited.release(f).await;
    limited.put(h, 0, 40).await.unwrap();
    session.create(&root, q, "i", 0o644).await.unwrap();
    refused(limited.put(g, 60, 1).await, ErrorKind::QuotaExceeded);
}

async fn held_content_counts_where_its_directory_was(limited: Limited) {
    let q = limited.mkdir(limited.kit.dir, "q").await;
    let one = limited.mkdir(q, "one").await;
    let two = limited.mkdir(one, "two").await;
    let f = limited.file(two, "f", 60).await;
    limited.unlink(two, "f").await;
    limited.rmdir(one, "two").await;
    limited.rmdir(q, "one").await;
    limited.limit(q, Some(100), None).await.unwrap();
    assert_eq!(limited.used(q).await, [Some(60), None]);
    refused(limited.put(f, 60, 41).await, ErrorKind::QuotaExceeded);
    let other = limited.mkdir(limited.kit.dir, "other").await;
    limited.limit(other, Some(59), None).await.unwrap();
    let into = ((limited.kit.dir, "q"), (other, "q"));
    refused(limited.rename(into.0, into.1).await, ErrorKind::QuotaExceeded);
    limited.limit(other, Some(61), None).await.unwrap();
    limited.rename(into.0, into.1).await.unwrap();
    refused(limited.put(f, 60, 2).await, ErrorKind::QuotaExceeded);
    limited.put(f, 60, 1).await.unwrap();
    limited.release(f).await;
    assert_eq!(limited.used(q).await, [Some(0), None]);
}

async fn replaced_files_make_room_unless_they_are_open(limited: Limited) {
    let q = limited.mkdir(limited.kit.dir, "q").await;
    let f = limited.file(q, "f", 100).await;
    limited.limit(q, Some(100), Some(1)).await.unwrap();
    let new = limited.file(limited.kit.dir, "new", 100).await;
    limited.release(new).await;
    let into = ((limited.kit.dir, "new"), (q, "f"));
    refused(limited.rename(into.0, into.1).await, ErrorKind::QuotaExceeded);
    limited.release(f).await;
    limited.rename(into.0, into.1).await.unwrap();
    assert_eq!(limited.used(q).await, [Some(100), Some(1)]);
    let identity = limited.session().identity();
    limited
        .kit
        .service
        .open(identity, Caller::root(), f, true, true)
        .await
        .unwrap();
    refused(limited.put(f, 100, 1).await, ErrorKind::QuotaExceeded);
    limited.release(f).await;
    // Above a quota that was lowered, what is less on the whole is no growth.
    limited.limit(q, Some(50), None).await.unwrap();
    for (bytes, fits) in [(101, false), (99, true), (100, false)] {
        let name = format!("of {bytes}");
        let new = limited.file(limited.kit.dir, &name, bytes).await;
        limited.release(new).await;
        let renamed = limited.rename((limited.kit.dir, &name), (q, "f")).await;
        match fits {
            true => drop(renamed.unwrap()),
            false => refused(renamed, ErrorKind::QuotaExceeded),
        }
    }
}

async fn names_of_one_file_do_not_cross_an_edge(limited: Limited) {
    let (root, session) = (Caller::root(), limited.session());
    let (q, out) = (
        limited.mkdir(limited.kit.dir, "q").await,
        limited.mkdir(limited.kit.dir, "out").await,
    );
    let inner = limited.mkdir(q, "inner").await;
    let (f, g) = (limited.file(q, "f", 1).await, limited.file(out, "g", 1).await);
    limited.limit(q, Some(100), None).await.unwrap();
    refused(session.link(&root, g, inner, "g").await, ErrorKind::CrossDevice);
    refused(session.link(&root, f, out, "f").await, ErrorKind::CrossDevice);
    session.link(&root, f, inner, "f").await.unwrap();
    for (from, to) in [
        ((q, "f"), (out, "f")),
        ((inner, "f"), (out, "f")),
        ((q, "inner"), (out, "inner")),
    ] {
        refused(limited.rename(from, to).await, ErrorKind::CrossDevice);
    }
    limited.rename((q, "f"), (inner, "f2")).await.unwrap();
    limited.unlink(inner, "f2").await;
    limited.rename((q, "inner"), (out, "inner")).await.unwrap();
}

async fn quotas_are_refused_where_they_cannot_be(limited: Limited) {
    let (root, session) = (Caller::root(), limited.session());
    let (q, out) = (
        limited.mkdir(limited.kit.dir, "q").await,
        limited.mkdir(limited.kit.dir, "out").await,
    );
    let f = limited.file(q, "f", 1).await;
    session.link(&root, f, out, "f").await.unwrap();
    for directory in [q, out] {
        refused(limited.limit(directory, Some(10), None).await, ErrorKind::Invalid);
    }
    limited.limit(limited.kit.dir, Some(10), None).await.unwrap();
    limited.unlink(out, "f").await;
    limited.limit(q, Some(10), None).await.unwrap();
    refused(limited.limit(f, Some(10), None).await, ErrorKind::NotDirectory);
    limited.rmdir(limited.kit.dir, "out").await;
    refused(limited.limit(out, Some(10), None).await, ErrorKind::Stale);
    let gone = limited.limit(Ino(u64::MAX), Some(10), None).await;
    refused(gone, ErrorKind::Stale);
}
