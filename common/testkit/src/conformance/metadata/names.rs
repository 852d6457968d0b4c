//! Names: what is made is found, what exists is not made again, what is removed is gone.

use super::kit::{Kit, name, user};
use crate::conformance::refused;
use dfs_common::attr::FileKind;
use dfs_common::op::{OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Ino};

pub(super) async fn made_things_are_found_with_their_attributes(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let who = user(1001, 1002, &[]);
    let made = [
        (
            session.mkdir(&who, *dir, "dir", 0o750).await.unwrap(),
            FileKind::Directory,
            0o750,
            2,
        ),
        (
            session.create(&who, *dir, "file", 0o4711).await.unwrap(),
            FileKind::File,
            0o4711,
            1,
        ),
        (
            session.mknod(&who, *dir, "fifo", FileKind::Fifo).await.unwrap(),
            FileKind::Fifo,
            0o644,
            1,
        ),
        (
            session
                .mknod(&who, *dir, "socket", FileKind::Socket)
                .await
                .unwrap(),
            FileKind::Socket,
            0o644,
            1,
        ),
        (
            session.mknod(&who, *dir, "plain", FileKind::File).await.unwrap(),
            FileKind::File,
            0o644,
            1,
        ),
        (
            session.symlink(&who, *dir, "link", "to/\u{e9}").await.unwrap(),
            FileKind::Symlink,
            0o777,
            1,
        ),
    ];
    for ((attr, kind, mode, nlink), text) in made
        .iter()
        .zip(["dir", "file", "fifo", "socket", "plain", "link"])
    {
        assert_eq!(
            (attr.kind, attr.mode, attr.nlink),
            (*kind, *mode, *nlink),
            "{text}"
        );
        assert_eq!((attr.uid, attr.gid, attr.rdev), (1001, 1002, 0), "{text}");
        assert!(attr.ino > Ino::ROOT);
        assert_eq!(&session.lookup(&who, *dir, text).await.unwrap(), attr, "{text}");
        assert_eq!(&session.getattr(attr.ino).await.unwrap(), attr, "{text}");
    }
    let link = &made[5].0;
    assert_eq!(
        &kit.service.readlink(session.identity(), link.ino).await.unwrap()[..],
        "to/\u{e9}".as_bytes()
    );
    assert_eq!(link.size, 5);
    refused(
        kit.service.readlink(session.identity(), made[1].0.ino).await,
        ErrorKind::Invalid,
    );
    let device = session
        .mknod(&Caller::root(), *dir, "null", FileKind::CharDevice)
        .await
        .unwrap();
    assert_eq!((device.kind, device.rdev), (FileKind::CharDevice, 0x0103));
    refused(
        session.mknod(&who, *dir, "disk", FileKind::BlockDevice).await,
        ErrorKind::NotPermitted,
    );
    let numbers: std::collections::BTreeSet<Ino> = made.iter().map(|(attr, ..)| attr.ino).collect();
    assert_eq!(numbers.len(), made.len(), "inode numbers differ");
}

pub(super) async fn missing_names_and_wrong_parents_are_told_apart(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let file = kit.file("file").await;
    refused(session.lookup(&root, *dir, "missing").await, ErrorKind::NotFound);
    refused(
        session.lookup(&root, file, "below").await,
        ErrorKind::NotDirectory,
    );
    refused(
        session.mkdir(&root, file, "below", 0o755).await,
        ErrorKind::NotDirectory,
    );
    refused(session.unlink(&root, *dir, "missing").await, ErrorKind::NotFound);
    refused(session.rmdir(&root, *dir, "missing").await, ErrorKind::NotFound);
    let gone = session.mkdir(&root, *dir, "gone", 0o755).await.unwrap().ino;
    session.rmdir(&root, *dir, "gone").await.unwrap();
    refused(session.getattr(gone).await, ErrorKind::Stale);
    refused(session.lookup(&root, gone, "x").await, ErrorKind::Stale);
    refused(session.mkdir(&root, gone, "x", 0o755).await, ErrorKind::Stale);
    refused(session.chmod(&root, gone, 0o700).await, ErrorKind::Stale);
    refused(session.link(&root, gone, *dir, "x").await, ErrorKind::Stale);
    refused(
        session.open_file(&root, gone, true, false).await,
        ErrorKind::Stale,
    );
    refused(session.getattr(Ino(u64::MAX)).await, ErrorKind::Stale);
}

pub(super) async fn existing_names_are_not_made_again(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let file = kit.file("x").await;
    // Somebody who could not make the name hears that it exists, as open(2) with O_EXCL promises.
    session.chmod(&root, *dir, 0o755).await.unwrap();
    for who in [&root, &user(1001, 1001, &[])] {
        refused(session.mkdir(who, *dir, "x", 0o755).await, ErrorKind::Exists);
        refused(
            session.mknod(who, *dir, "x", FileKind::Fifo).await,
            ErrorKind::Exists,
        );
        refused(session.symlink(who, *dir, "x", "y").await, ErrorKind::Exists);
        refused(session.create(who, *dir, "x", 0o644).await, ErrorKind::Exists);
        refused(session.link(who, file, *dir, "x").await, ErrorKind::Exists);
    }
    let again = |text: &'static str, write| {
        let parent = *dir;
        Operation::Create {
            parent,
            name: name(text),
            mode: 0o600,
            exclusive: false,
            read: true,
            write,
        }
    };
    match session.apply(&root, again("x", true)).await.unwrap() {
        OpReply::Created { entry, existed } => assert_eq!((entry.attr.ino, existed), (file, true)),
        other => panic!("not the reply of a create: {other:?}"),
    }
    session.mkdir(&root, *dir, "d", 0o755).await.unwrap();
    session.symlink(&root, *dir, "l", "x").await.unwrap();
    refused(
        session.apply(&root, again("d", true)).await,
        ErrorKind::IsDirectory,
    );
    refused(session.apply(&root, again("l", false)).await, ErrorKind::Loop);
    let stranger = user(1001, 1001, &[]);
    refused(
        session.apply(&stranger, again("x", true)).await,
        ErrorKind::PermissionDenied,
    );
    refused(
        session.apply(&stranger, again("new", true)).await,
        ErrorKind::PermissionDenied,
    );
}

pub(super) async fn removing_needs_the_right_call(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let sub = session.mkdir(&root, *dir, "d", 0o755).await.unwrap().ino;
    let file = session.mknod(&root, sub, "f", FileKind::File).await.unwrap().ino;
    refused(session.unlink(&root, *dir, "d").await, ErrorKind::IsDirectory);
    refused(session.rmdir(&root, sub, "f").await, ErrorKind::NotDirectory);
    refused(session.rmdir(&root, *dir, "d").await, ErrorKind::NotEmpty);
    let removed = session.unlink(&root, sub, "f").await.unwrap();
    assert_eq!(removed, OpReply::Removed { ino: file, nlink: 0 });
    refused(session.getattr(file).await, ErrorKind::Stale);
    refused(session.lookup(&root, sub, "f").await, ErrorKind::NotFound);
    match session.rmdir(&root, *dir, "d").await.unwrap() {
        OpReply::Removed { ino, nlink } => assert_eq!((ino, nlink), (sub, 0)),
        other => panic!("not the reply of a removal: {other:?}"),
    }
    refused(session.lookup(&root, *dir, "d").await, ErrorKind::NotFound);
}

pub(super) async fn hard_links_are_counted(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let file = session.mknod(&root, *dir, "a", FileKind::File).await.unwrap().ino;
    let sub = session.mkdir(&root, *dir, "d", 0o755).await.unwrap().ino;
    assert_eq!(session.link(&root, file, sub, "b").await.unwrap().nlink, 2);
    let link = session.symlink(&root, *dir, "s", "a").await.unwrap().ino;
    assert_eq!(session.link(&root, link, *dir, "t").await.unwrap().nlink, 2);
    refused(session.link(&root, sub, *dir, "e").await, ErrorKind::NotPermitted);
    assert_eq!(session.lookup(&root, sub, "b").await.unwrap().ino, file);
    let removed = session.unlink(&root, *dir, "a").await.unwrap();
    assert_eq!(removed, OpReply::Removed { ino: file, nlink: 1 });
    assert_eq!(session.getattr(file).await.unwrap().nlink, 1);
    session.unlink(&root, sub, "b").await.unwrap();
    refused(session.getattr(file).await, ErrorKind::Stale);
}

pub(super) async fn names_are_any_bytes(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let long = vec![b'n'; 255];
    for bytes in [&b"\xff\xfe\x80"[..], b" \n\\", b"...", &long] {
        let op = Operation::Mkdir {
            parent: *dir,
            name: name(bytes),
            mode: 0o755,
        };
        session.apply(&Caller::root(), op).await.unwrap();
        let found = service
            .lookup(session.identity(), Caller::root(), *dir, name(bytes))
            .await
            .unwrap();
        assert_eq!(found.attr.kind, FileKind::Directory);
    }
    let page = service
        .readdir(session.identity(), Caller::root(), *dir, 0, 100, false)
        .await
        .unwrap();
    assert!(page.entries.iter().any(|entry| entry.name.as_bytes() == long));
    assert!(
        page.entries
            .iter()
            .any(|entry| entry.name.as_bytes() == b"\xff\xfe\x80")
    );
}

pub(super) async fn parents_change_with_their_entries(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let start = session.getattr(*dir).await.unwrap();
    let sub = session.mkdir(&root, *dir, "sub", 0o755).await.unwrap();
    let after = session.getattr(*dir).await.unwrap();
    assert_eq!((after.nlink, after.size), (start.nlink + 1, start.size + 1));
    assert!(
        after.mtime > start.mtime && after.ctime == after.mtime,
        "{start:?} {after:?}"
    );
    assert!(sub.btime >= start.btime && sub.btime == sub.mtime);
    session.mknod(&root, *dir, "f", FileKind::File).await.unwrap();
    let with_file = session.getattr(*dir).await.unwrap();
    assert_eq!((with_file.nlink, with_file.size), (after.nlink, after.size + 1));
    assert!(with_file.mtime > after.mtime);
    session.unlink(&root, *dir, "f").await.unwrap();
    session.rmdir(&root, *dir, "sub").await.unwrap();
    let end = session.getattr(*dir).await.unwrap();
    assert_eq!((end.nlink, end.size), (start.nlink, start.size));
    assert!(end.mtime > with_file.mtime);
    // Nothing changes when nothing is done.
    refused(session.unlink(&root, *dir, "f").await, ErrorKind::NotFound);
    assert_eq!(session.getattr(*dir).await.unwrap(), end);
}
