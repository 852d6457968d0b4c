//! Rename in its three modes.

use super::kit::{Kit, Session};
use crate::conformance::refused;
use dfs_common::attr::FileKind;
use dfs_common::op::{OpReply, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Ino};

use RenameMode::{Exchange, NoReplace, Replace};

async fn ino(session: &Session, dir: Ino, text: &str) -> Option<Ino> {
    match session.lookup(&Caller::root(), dir, text).await {
        Ok(attr) => Some(attr.ino),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// Directories `d` (with `inside`) and `e` (empty), files `f` and `g`.
async fn things(kit: &Kit) -> [Ino; 4] {
    let (session, root) = (&kit.session, Caller::root());
    let d = session.mkdir(&root, kit.dir, "d", 0o755).await.unwrap().ino;
    let e = session.mkdir(&root, kit.dir, "e", 0o755).await.unwrap().ino;
    let f = session
        .mknod(&root, kit.dir, "f", FileKind::File)
        .await
        .unwrap()
        .ino;
    let g = session
        .mknod(&root, kit.dir, "g", FileKind::File)
        .await
        .unwrap()
        .ino;
    session.mknod(&root, d, "inside", FileKind::File).await.unwrap();
    [d, e, f, g]
}

pub(super) async fn rename_replaces_what_is_there(kit: Kit) {
    let [d, e, f, g] = things(&kit).await;
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let before = session.getattr(f).await.unwrap();
    let reply = session
        .rename(&root, (*dir, "f"), (*dir, "g"), Replace)
        .await
        .unwrap();
    assert_eq!(
        reply,
        OpReply::Renamed {
            ino: f,
            other: Some(g)
        }
    );
    assert_eq!(
        (ino(session, *dir, "f").await, ino(session, *dir, "g").await),
        (None, Some(f))
    );
    let replaced = session.getattr(g).await.unwrap();
    assert_eq!(replaced.nlink, 0, "it is kept for whoever has just found it");
    assert!(session.getattr(f).await.unwrap().ctime > before.ctime);
    // To a free name elsewhere, and a directory over an empty one.
    let reply = session
        .rename(&root, (*dir, "g"), (e, "h"), Replace)
        .await
        .unwrap();
    assert_eq!(reply, OpReply::Renamed { ino: f, other: None });
    assert_eq!(ino(session, e, "h").await, Some(f));
    session.unlink(&root, e, "h").await.unwrap();
    session
        .rename(&root, (*dir, "d"), (*dir, "e"), Replace)
        .await
        .unwrap();
    assert_eq!(ino(session, *dir, "e").await, Some(d));
    assert!(
        ino(session, d, "inside").await.is_some(),
        "what lies beneath moves along"
    );
    assert_eq!(session.getattr(*dir).await.unwrap().nlink, 3);
    assert_eq!(session.getattr(e).await.unwrap().nlink, 0);
    refused(session.mkdir(&root, e, "new", 0o755).await, ErrorKind::NotFound);
}

pub(super) async fn rename_refuses_what_does_not_fit(kit: Kit) {
    let [d, _, f, _] = things(&kit).await;
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    refused(
        session.rename(&root, (*dir, "f"), (*dir, "e"), Replace).await,
        ErrorKind::IsDirectory,
    );
    refused(
        session.rename(&root, (*dir, "e"), (*dir, "f"), Replace).await,
        ErrorKind::NotDirectory,
    );
    refused(
        session.rename(&root, (*dir, "e"), (*dir, "d"), Replace).await,
        ErrorKind::NotEmpty,
    );
    refused(
        session.rename(&root, (*dir, "no"), (*dir, "x"), Replace).await,
        ErrorKind::NotFound,
    );
    refused(
        session.rename(&root, (*dir, "e"), (f, "x"), Replace).await,
        ErrorKind::NotDirectory,
    );
    refused(
        session.rename(&root, (f, "e"), (*dir, "x"), Replace).await,
        ErrorKind::NotDirectory,
    );
    // A directory is not replaced by something within it.
    refused(
        session.rename(&root, (d, "inside"), (*dir, "d"), Replace).await,
        ErrorKind::NotEmpty,
    );
    for text in ["d", "e", "f", "g"] {
        assert!(ino(session, *dir, text).await.is_some(), "{text} is still there");
    }
}

pub(super) async fn exchange_and_noreplace(kit: Kit) {
    let [d, e, f, g] = things(&kit).await;
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    refused(
        session.rename(&root, (*dir, "f"), (*dir, "g"), NoReplace).await,
        ErrorKind::Exists,
    );
    session
        .rename(&root, (*dir, "f"), (*dir, "n"), NoReplace)
        .await
        .unwrap();
    assert_eq!(
        (ino(session, *dir, "f").await, ino(session, *dir, "n").await),
        (None, Some(f))
    );
    refused(
        session.rename(&root, (*dir, "n"), (*dir, "f"), Exchange).await,
        ErrorKind::NotFound,
    );
    let reply = session
        .rename(&root, (*dir, "n"), (*dir, "g"), Exchange)
        .await
        .unwrap();
    assert_eq!(
        reply,
        OpReply::Renamed {
            ino: f,
            other: Some(g)
        }
    );
    assert_eq!(
        (ino(session, *dir, "n").await, ino(session, *dir, "g").await),
        (Some(g), Some(f))
    );
    // A file and a full directory, across directories: link counts follow.
    session
        .rename(&root, (*dir, "d"), (e, "d"), Replace)
        .await
        .unwrap();
    session
        .rename(&root, (*dir, "n"), (e, "d"), Exchange)
        .await
        .unwrap();
    assert_eq!(
        (ino(session, *dir, "n").await, ino(session, e, "d").await),
        (Some(d), Some(g))
    );
    assert_eq!(session.getattr(*dir).await.unwrap().nlink, 4);
    assert_eq!(session.getattr(e).await.unwrap().nlink, 2);
    let page = kit
        .service
        .readdir(session.identity(), root, d, 0, 10, false)
        .await
        .unwrap();
    assert_eq!(page.parent, *dir);
}

pub(super) async fn directories_do_not_move_below_themselves(kit: Kit) {
    let [d, ..] = things(&kit).await;
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let low = session.mkdir(&root, d, "low", 0o755).await.unwrap().ino;
    refused(
        session.rename(&root, (*dir, "d"), (d, "x"), Replace).await,
        ErrorKind::Invalid,
    );
    refused(
        session.rename(&root, (*dir, "d"), (low, "x"), Replace).await,
        ErrorKind::Invalid,
    );
    refused(
        session.rename(&root, (*dir, "d"), (d, "low"), Exchange).await,
        ErrorKind::Invalid,
    );
    refused(
        session.rename(&root, (d, "low"), (*dir, "d"), Exchange).await,
        ErrorKind::Invalid,
    );
    assert_eq!(ino(session, d, "low").await, Some(low));
    // Upwards is fine, and `..` follows.
    session
        .rename(&root, (d, "low"), (*dir, "high"), Replace)
        .await
        .unwrap();
    let page = kit
        .service
        .readdir(session.identity(), root, low, 0, 10, false)
        .await
        .unwrap();
    assert_eq!(page.parent, *dir);
}

pub(super) async fn two_names_of_one_file_stay(kit: Kit) {
    let [_, _, f, _] = things(&kit).await;
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    session.link(&root, f, *dir, "other").await.unwrap();
    for mode in [Replace, Exchange] {
        let reply = session
            .rename(&root, (*dir, "f"), (*dir, "other"), mode)
            .await
            .unwrap();
        let unchanged = OpReply::Renamed {
            ino: f,
            other: Some(f),
        };
        assert_eq!(reply, unchanged, "the caller can tell that the old name stays");
        assert_eq!(
            (ino(session, *dir, "f").await, ino(session, *dir, "other").await),
            (Some(f), Some(f))
        );
    }
    refused(
        session
            .rename(&root, (*dir, "f"), (*dir, "other"), NoReplace)
            .await,
        ErrorKind::Exists,
    );
    session
        .rename(&root, (*dir, "f"), (*dir, "f"), Replace)
        .await
        .unwrap();
    assert_eq!(session.getattr(f).await.unwrap().nlink, 2);
}
