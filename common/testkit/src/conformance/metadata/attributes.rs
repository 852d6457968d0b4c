//! Attributes and totals.

use super::kit::{Kit, commit_of, of_chunk, user};
use crate::conformance::{refused, refused_above_limit};
use dfs_common::attr::{FileKind, SetAttr, SetTime, Timestamp};
use dfs_common::op::{CommitWrite, Operation};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, limits};

pub(super) async fn totals_follow_what_is_stored(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let before = service.statfs(session.identity()).await.unwrap();
    assert!(
        before.capacity_bytes > 0 && before.available_bytes <= before.capacity_bytes,
        "{before:?}"
    );
    let file = kit.file("f").await;
    session.mkdir(&root, *dir, "d", 0o755).await.unwrap();
    session.put(file, 100, &[1; 1000]).await.unwrap();
    let chunk = session.chunk(5000).await;
    let extents = vec![of_chunk(10_000, 4000, chunk.chunk, 500)];
    session
        .commit(CommitWrite {
            chunks: vec![chunk],
            ..commit_of(file, extents)
        })
        .await
        .unwrap();
    let after = service.statfs(session.identity()).await.unwrap();
    assert_eq!(
        (after.inodes, after.used_bytes),
        (before.inodes + 2, before.used_bytes + 5000)
    );
    let attr = session.getattr(file).await.unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (14_000, 5000));
}

pub(super) async fn attributes_are_set_one_by_one(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let ino = session.mknod(&root, *dir, "f", FileKind::File).await.unwrap().ino;
    let mut expected = session.getattr(ino).await.unwrap();
    let moment = |secs| Timestamp {
        secs,
        nanos: 987_654_321,
    };
    let none = SetAttr::default;
    for set in [
        SetAttr {
            mode: Some(0o7654),
            ..none()
        },
        SetAttr {
            uid: Some(77),
            ..none()
        },
        SetAttr {
            gid: Some(78),
            ..none()
        },
        SetAttr {
            size: Some(1 << 40),
            ..none()
        },
        SetAttr {
            atime: Some(SetTime::At(moment(-5))),
            ..none()
        },
        SetAttr {
            mtime: Some(SetTime::At(moment(1 << 33))),
            ..none()
        },
    ] {
        let attr = session.setattr(&root, ino, set.clone()).await.unwrap();
        assert!(
            attr.ctime > expected.ctime,
            "every change moves the change time: {set:?}"
        );
        expected.ctime = attr.ctime;
        if let Some(mode) = set.mode {
            expected.mode = mode;
        }
        if set.uid.is_some() || set.gid.is_some() {
            // A change of owner takes the set-id bits, where the group may execute.
            expected.mode = if expected.mode & 0o010 == 0 {
                expected.mode & !0o4000
            } else {
                expected.mode & !0o6000
            };
        }
        expected.uid = set.uid.unwrap_or(expected.uid);
        expected.gid = set.gid.unwrap_or(expected.gid);
        if let Some(size) = set.size {
            assert!(attr.mtime > expected.mtime && attr.map_version != expected.map_version);
            (expected.size, expected.mtime, expected.map_version) = (size, attr.mtime, attr.map_version);
        }
        if set.atime.is_some() {
            expected.atime = moment(-5);
        }
        if set.mtime.is_some() {
            expected.mtime = moment(1 << 33);
        }
        assert_eq!(attr, expected, "{set:?}");
        assert_eq!(session.getattr(ino).await.unwrap(), expected);
    }
    let now = SetAttr {
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::Now),
        ..none()
    };
    let attr = session.setattr(&root, ino, now).await.unwrap();
    assert_eq!((attr.atime, attr.mtime), (attr.ctime, attr.ctime));
    assert!(attr.ctime > expected.ctime);
}

pub(super) async fn owner_changes_drop_set_id_bits(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let owner = user(1001, 1001, &[3000]);
    let ino = session.create(&owner, *dir, "f", 0o644).await.unwrap().ino;
    let chown = |uid, gid| SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    };
    refused(
        session.setattr(&owner, ino, chown(Some(1002), None)).await,
        ErrorKind::NotPermitted,
    );
    refused(
        session.setattr(&owner, ino, chown(None, Some(9))).await,
        ErrorKind::NotPermitted,
    );
    refused(
        session
            .setattr(&user(1002, 3000, &[]), ino, chown(None, Some(3000)))
            .await,
        ErrorKind::NotPermitted,
    );
    session.chmod(&owner, ino, 0o6777).await.unwrap();
    let attr = session
        .setattr(&owner, ino, chown(None, Some(3000)))
        .await
        .unwrap();
    assert_eq!((attr.gid, attr.mode), (3000, 0o777));
    session.chmod(&root, ino, 0o6777).await.unwrap();
    let attr = session
        .setattr(&root, ino, chown(Some(5), Some(6)))
        .await
        .unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode), (5, 6, 0o777));
    // Directories keep theirs.
    let sub = session.mkdir(&root, *dir, "d", 0o755).await.unwrap().ino;
    session.chmod(&root, sub, 0o6755).await.unwrap();
    assert_eq!(
        session
            .setattr(&root, sub, chown(Some(5), Some(6)))
            .await
            .unwrap()
            .mode,
        0o6755
    );
}

pub(super) async fn sizes_are_set_by_those_who_may_write(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let owner = user(1001, 1001, &[]);
    let ino = session.create(&owner, *dir, "f", 0o444).await.unwrap().ino;
    refused(
        session.truncate(&owner, ino, 5).await,
        ErrorKind::PermissionDenied,
    );
    // The session has it open for writing: a program's descriptor outlives a change of mode.
    let set = SetAttr {
        size: Some(5),
        ..SetAttr::default()
    };
    session
        .apply(
            &owner,
            Operation::Setattr {
                ino,
                set: set.clone(),
                by_handle: true,
            },
        )
        .await
        .unwrap();
    assert_eq!(session.getattr(ino).await.unwrap().size, 5);
    let other = kit.another_session().await;
    let by_handle = other
        .apply(
            &owner,
            Operation::Setattr {
                ino,
                set,
                by_handle: true,
            },
        )
        .await;
    refused(by_handle, ErrorKind::BadHandle);
    session.chmod(&root, ino, 0o6777).await.unwrap();
    let attr = session.truncate(&user(1003, 1003, &[]), ino, 2).await.unwrap();
    assert_eq!(
        (attr.size, attr.mode),
        (2, 0o777),
        "others' truncation takes the set-id bits"
    );
    session
        .truncate(&root, ino, limits::FILE_BYTES_MAX)
        .await
        .unwrap();
    let too_big = session.truncate(&root, ino, limits::FILE_BYTES_MAX + 1).await;
    refused_above_limit(too_big, ErrorKind::FileTooBig);
    refused(session.truncate(&root, *dir, 0).await, ErrorKind::IsDirectory);
    let fifo = session.mknod(&root, *dir, "p", FileKind::Fifo).await.unwrap().ino;
    refused(session.truncate(&root, fifo, 0).await, ErrorKind::Invalid);
}
