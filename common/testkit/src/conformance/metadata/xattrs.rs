//! Extended attributes.

use super::kit::{Kit, Session, user};
use crate::conformance::{refused, refused_above_limit};
use bytes::Bytes;
use dfs_common::attr::FileKind;
use dfs_common::op::{Operation, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsResult, Ino, limits};
use std::collections::BTreeSet;

use XattrMode::{Create, Replace, Set};

async fn get(session: &Session, who: &Caller, ino: Ino, name: &str) -> FsResult<Bytes> {
    let name = Bytes::copy_from_slice(name.as_bytes());
    session
        .service
        .getxattr(session.identity(), who.clone(), ino, name)
        .await
}

async fn list(session: &Session, who: &Caller, ino: Ino) -> BTreeSet<String> {
    let names = session
        .service
        .listxattr(session.identity(), who.clone(), ino)
        .await
        .unwrap();
    names
        .into_iter()
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

async fn remove(session: &Session, who: &Caller, ino: Ino, name: &str) -> FsResult<()> {
    let name = Bytes::copy_from_slice(name.as_bytes());
    session
        .apply(who, Operation::Removexattr { ino, name })
        .await
        .map(drop)
}

pub(super) async fn attributes_are_set_read_listed_and_removed(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let file = kit.file("f").await;
    for ino in [file, *dir] {
        let before = session.getattr(ino).await.unwrap();
        refused(get(session, &root, ino, "user.a").await, ErrorKind::NoAttribute);
        refused(
            session.setxattr(&root, ino, "user.a", b"1", Replace).await,
            ErrorKind::NoAttribute,
        );
        let attr = session
            .setxattr(&root, ino, "user.a", b"1", Create)
            .await
            .unwrap();
        assert!(attr.ctime > before.ctime && attr.mtime == before.mtime);
        refused(
            session.setxattr(&root, ino, "user.a", b"2", Create).await,
            ErrorKind::Exists,
        );
        assert_eq!(get(session, &root, ino, "user.a").await.unwrap(), "1");
        session
            .setxattr(&root, ino, "user.a", b"", Replace)
            .await
            .unwrap();
        assert_eq!(get(session, &root, ino, "user.a").await.unwrap(), "");
        session
            .setxattr(&root, ino, "user.b", &[0xff; 300], Set)
            .await
            .unwrap();
        session
            .setxattr(&root, ino, "user.b", &[0xfe; 301], Set)
            .await
            .unwrap();
        assert_eq!(get(session, &root, ino, "user.b").await.unwrap(), vec![0xfe; 301]);
        assert_eq!(
            list(session, &root, ino).await,
            BTreeSet::from(["user.a".into(), "user.b".into()])
        );
        remove(session, &root, ino, "user.a").await.unwrap();
        refused(
            remove(session, &root, ino, "user.a").await,
            ErrorKind::NoAttribute,
        );
        assert_eq!(list(session, &root, ino).await, BTreeSet::from(["user.b".into()]));
    }
    refused(
        get(session, &root, Ino(u64::MAX), "user.a").await,
        ErrorKind::Stale,
    );
}

pub(super) async fn namespaces_have_their_rules(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let (root, owner, other) = (Caller::root(), user(1001, 1001, &[]), user(1002, 1002, &[]));
    let file = session.create(&owner, *dir, "f", 0o640).await.unwrap().ino;
    session.setxattr(&owner, file, "user.x", b"1", Set).await.unwrap();
    refused(
        session.setxattr(&other, file, "user.x", b"2", Set).await,
        ErrorKind::PermissionDenied,
    );
    refused(
        get(session, &other, file, "user.x").await,
        ErrorKind::PermissionDenied,
    );
    refused(
        session.setxattr(&owner, file, "trusted.x", b"1", Set).await,
        ErrorKind::NotPermitted,
    );
    session
        .setxattr(&root, file, "trusted.x", b"1", Set)
        .await
        .unwrap();
    refused(
        get(session, &owner, file, "trusted.x").await,
        ErrorKind::NoAttribute,
    );
    assert_eq!(get(session, &root, file, "trusted.x").await.unwrap(), "1");
    assert_eq!(
        list(session, &owner, file).await,
        BTreeSet::from(["user.x".into()])
    );
    assert_eq!(list(session, &root, file).await.len(), 2);
    session
        .setxattr(&root, file, "security.x", b"1", Set)
        .await
        .unwrap();
    assert_eq!(get(session, &other, file, "security.x").await.unwrap(), "1");
    refused(
        session.setxattr(&owner, file, "security.x", b"1", Set).await,
        ErrorKind::NotPermitted,
    );
    refused(
        session.setxattr(&root, file, "none.x", b"1", Set).await,
        ErrorKind::NotSupported,
    );
    refused(get(session, &root, file, "none.x").await, ErrorKind::NotSupported);
    // Users' attributes are for files and directories, and in sticky directories for the owner.
    let link = session.symlink(&owner, *dir, "l", "f").await.unwrap().ino;
    let fifo = session
        .mknod(&owner, *dir, "p", FileKind::Fifo)
        .await
        .unwrap()
        .ino;
    for ino in [link, fifo] {
        refused(
            session.setxattr(&root, ino, "user.x", b"1", Set).await,
            ErrorKind::NotPermitted,
        );
        refused(get(session, &root, ino, "user.x").await, ErrorKind::NoAttribute);
        session
            .setxattr(&root, ino, "trusted.x", b"1", Set)
            .await
            .unwrap();
    }
    let sticky = session.mkdir(&owner, *dir, "d", 0o777).await.unwrap().ino;
    session
        .setxattr(&other, sticky, "user.x", b"1", Set)
        .await
        .unwrap();
    session.chmod(&owner, sticky, 0o1777).await.unwrap();
    refused(
        session.setxattr(&other, sticky, "user.x", b"2", Set).await,
        ErrorKind::NotPermitted,
    );
    session
        .setxattr(&owner, sticky, "user.x", b"2", Set)
        .await
        .unwrap();
}

pub(super) async fn limits_are_kept(kit: Kit) {
    let Kit { session, .. } = &kit;
    let root = Caller::root();
    let file = kit.file("f").await;
    let big = vec![7; limits::XATTR_VALUE_BYTES_MAX];
    session
        .setxattr(&root, file, "user.big", &big, Set)
        .await
        .unwrap();
    assert_eq!(get(session, &root, file, "user.big").await.unwrap(), big);
    let bigger = vec![7; limits::XATTR_VALUE_BYTES_MAX + 1];
    refused_above_limit(
        session.setxattr(&root, file, "user.big", &bigger, Set).await,
        ErrorKind::TooBig,
    );
    let longest = format!("user.{}", "n".repeat(250));
    session.setxattr(&root, file, &longest, b"1", Set).await.unwrap();
    assert_eq!(get(session, &root, file, &longest).await.unwrap(), "1");
    refused_above_limit(
        session
            .setxattr(&root, file, &format!("{longest}n"), b"1", Set)
            .await,
        ErrorKind::Range,
    );
    // As many names as fit a list, not one more.
    let mut fitted = 0;
    let refusal = loop {
        let name = format!("user.{}{fitted:05}", "n".repeat(240));
        match session.setxattr(&root, file, &name, b"", Set).await {
            Ok(_) => fitted += 1,
            Err(error) => break error,
        }
        assert!(fitted < 300, "the names of one inode are bounded");
    };
    assert_eq!(refusal.kind(), ErrorKind::NoSpace);
    assert!(
        list(session, &root, file)
            .await
            .iter()
            .map(|name| name.len() + 1)
            .sum::<usize>()
            <= 65_536
    );
}
