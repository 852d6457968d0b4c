//! Permissions, enforced by the service for the caller of each operation.

use super::kit::{Kit, user};
use crate::conformance::refused;
use dfs_common::ErrorKind::{NotPermitted, PermissionDenied};
use dfs_common::attr::{FileKind, SetAttr, SetTime, Timestamp};
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;

pub(super) async fn bits_are_enforced_for_every_class(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let (owner, group, member, other) = (
        user(1001, 1001, &[]),
        user(1002, 2000, &[]),
        user(1003, 9, &[8, 2000]),
        user(1004, 1004, &[]),
    );
    let sub = session.mkdir(&root, *dir, "sub", 0o755).await.unwrap().ino;
    session.mknod(&root, sub, "f", FileKind::File).await.unwrap();
    let own = SetAttr {
        uid: Some(1001),
        gid: Some(2000),
        ..SetAttr::default()
    };
    session.setattr(&root, sub, own).await.unwrap();
    for (who, shift) in [(&owner, 6), (&group, 3), (&member, 3), (&other, 0)] {
        for bits in 0..8 {
            // All but the caller's class may do everything.
            session
                .chmod(&root, sub, 0o777 & !(7 << shift) | bits << shift)
                .await
                .unwrap();
            let allowed = |wanted| bits & wanted == wanted;
            let list = service
                .readdir(session.identity(), who.clone(), sub, 0, 10, false)
                .await;
            assert_eq!(list.is_ok(), allowed(4), "list {who:?} {bits}");
            let search = session.lookup(who, sub, "f").await;
            assert_eq!(search.is_ok(), allowed(1), "search {who:?} {bits}");
            let make = session.mkdir(who, sub, "new", 0o755).await;
            assert_eq!(make.is_ok(), allowed(3), "make {who:?} {bits}");
            match allowed(3) {
                true => drop(session.rmdir(who, sub, "new").await.unwrap()),
                false => {
                    refused(make, PermissionDenied);
                    refused(session.unlink(who, sub, "f").await, PermissionDenied);
                    let renamed = session
                        .rename(who, (sub, "f"), (*dir, "f"), RenameMode::Replace)
                        .await;
                    refused(renamed, PermissionDenied);
                }
            }
            if !allowed(4) {
                refused(list, PermissionDenied);
                // Opened once, a directory stays readable.
                service
                    .readdir(session.identity(), who.clone(), sub, u64::MAX, 10, false)
                    .await
                    .unwrap();
            }
            if !allowed(1) {
                refused(search, PermissionDenied);
            }
        }
    }
    session.chmod(&root, sub, 0).await.unwrap();
    session.lookup(&root, sub, "f").await.unwrap();
    session.unlink(&root, sub, "f").await.unwrap();
}

pub(super) async fn only_owners_change_attributes(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let (owner, other) = (user(1001, 1001, &[]), user(1002, 1002, &[]));
    let ino = session.create(&owner, *dir, "f", 0o664).await.unwrap().ino;
    refused(session.chmod(&other, ino, 0o777).await, NotPermitted);
    assert_eq!(session.chmod(&owner, ino, 0o2644).await.unwrap().mode, 0o2644);
    let chgrp = SetAttr {
        gid: Some(5),
        ..SetAttr::default()
    };
    session.setattr(&Caller::root(), ino, chgrp).await.unwrap();
    assert_eq!(
        session.chmod(&owner, ino, 0o2755).await.unwrap().mode,
        0o755,
        "not of the group: no set-group-ID"
    );
    let times = |atime, mtime| SetAttr {
        atime,
        mtime,
        ..SetAttr::default()
    };
    let at = Some(SetTime::At(Timestamp { secs: 5, nanos: 0 }));
    let now = Some(SetTime::Now);
    refused(session.setattr(&other, ino, times(at, at)).await, NotPermitted);
    refused(session.setattr(&other, ino, times(now, None)).await, NotPermitted);
    refused(
        session.setattr(&other, ino, times(now, now)).await,
        PermissionDenied,
    );
    session.chmod(&owner, ino, 0o666).await.unwrap();
    session.setattr(&other, ino, times(now, now)).await.unwrap();
    refused(session.setattr(&other, ino, times(at, now)).await, NotPermitted);
    session.setattr(&owner, ino, times(at, None)).await.unwrap();
}

pub(super) async fn sticky_directories_protect_names(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let (owner, other, keeper) = (
        user(1001, 1001, &[]),
        user(1002, 1002, &[]),
        user(1003, 1003, &[]),
    );
    let sub = session.mkdir(&keeper, *dir, "tmp", 0o777).await.unwrap().ino;
    session.chmod(&keeper, sub, 0o1777).await.unwrap();
    for text in ["a", "b", "c"] {
        session.mknod(&owner, sub, text, FileKind::File).await.unwrap();
    }
    session.mknod(&other, sub, "mine", FileKind::File).await.unwrap();
    refused(session.unlink(&other, sub, "a").await, NotPermitted);
    refused(
        session
            .rename(&other, (sub, "a"), (sub, "z"), RenameMode::Replace)
            .await,
        NotPermitted,
    );
    refused(
        session
            .rename(&other, (sub, "mine"), (sub, "a"), RenameMode::Replace)
            .await,
        NotPermitted,
    );
    session.unlink(&owner, sub, "a").await.unwrap();
    session.unlink(&keeper, sub, "b").await.unwrap();
    session.unlink(&root, sub, "c").await.unwrap();
}

pub(super) async fn set_group_id_directories_give_their_group(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let (root, who) = (Caller::root(), user(1001, 1001, &[]));
    let sub = session.mkdir(&root, *dir, "shared", 0o777).await.unwrap().ino;
    let set = SetAttr {
        mode: Some(0o2777),
        gid: Some(3000),
        ..SetAttr::default()
    };
    let attr = session.setattr(&root, sub, set).await.unwrap();
    assert_eq!((attr.mode, attr.gid), (0o2777, 3000));
    let below = session.mkdir(&who, sub, "d", 0o755).await.unwrap();
    assert_eq!((below.mode, below.gid, below.uid), (0o2755, 3000, 1001));
    let file = session.create(&who, sub, "f", 0o2755).await.unwrap();
    assert_eq!(
        (file.mode, file.gid),
        (0o755, 3000),
        "not of the group: no set-group-ID program"
    );
    let file = session.create(&who, sub, "g", 0o2745).await.unwrap();
    assert_eq!((file.mode, file.gid), (0o2745, 3000));
    let file = session.create(&root, sub, "h", 0o2755).await.unwrap();
    assert_eq!((file.mode, file.gid), (0o2755, 3000));
    assert_eq!(session.symlink(&who, sub, "l", "x").await.unwrap().gid, 3000);
}

pub(super) async fn opens_are_checked(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let (owner, other) = (user(1001, 1001, &[]), user(1002, 1002, &[]));
    let ino = session.create(&owner, *dir, "f", 0o604).await.unwrap().ino;
    for (who, read, write, allowed) in [
        (&owner, true, true, true),
        (&other, true, false, true),
        (&other, false, true, false),
        (&other, true, true, false),
        (&user(1003, 1001, &[]), true, false, false),
        (&Caller::root(), true, true, true),
    ] {
        let opened = session.open_file(who, ino, read, write).await;
        match allowed {
            true => assert_eq!(opened.unwrap().attr.ino, ino),
            false => refused(opened, PermissionDenied),
        }
    }
}
