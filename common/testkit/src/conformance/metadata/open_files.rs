//! Open files: removed ones live on for those who have them open.

use super::kit::{Kit, Session, fresh_session, text_of, user};
use crate::conformance::refused;
use dfs_common::op::{OpReply, RenameMode};
use dfs_common::session::{Caller, OpenDeclaration, OpenSession};
use dfs_common::{ErrorKind, Ino, limits};

async fn is_gone(session: &Session, ino: Ino) {
    refused(session.getattr(ino).await, ErrorKind::Stale);
}

pub(super) async fn removed_files_live_until_the_last_release(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let ino = kit.file("f").await;
    session.put(ino, 0, b"content").await.unwrap();
    session.open_file(&root, ino, true, false).await.unwrap();
    let removed = session.unlink(&root, *dir, "f").await.unwrap();
    assert_eq!(removed, OpReply::Removed { ino, nlink: 0 });
    assert_eq!(session.getattr(ino).await.unwrap().nlink, 0);
    session.put(ino, 7, b" more").await.unwrap();
    assert_eq!(
        text_of(&session.extents(ino, 0, 100).await.unwrap()),
        "content more"
    );
    session.truncate(&root, ino, 3).await.unwrap();
    refused(session.link(&root, ino, *dir, "again").await, ErrorKind::NotFound);
    session.release(ino).await.unwrap();
    assert_eq!(text_of(&session.extents(ino, 0, 100).await.unwrap()), "con");
    session.release(ino).await.unwrap();
    is_gone(session, ino).await;
    refused(session.extents(ino, 0, 100).await, ErrorKind::BadHandle);
}

pub(super) async fn replaced_files_can_be_opened_for_a_while(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let (root, other) = (Caller::root(), kit.another_session().await);
    let replace = async |new: &str, old: &str| {
        session
            .rename(&root, (*dir, new), (*dir, old), RenameMode::Replace)
            .await
            .unwrap()
    };
    let [first, second, last] = [
        kit.file("f").await,
        kit.file("second").await,
        kit.file("last").await,
    ];
    for ino in [first, second] {
        session.put(ino, 0, b"content").await.unwrap();
        session.release(ino).await.unwrap();
    }
    replace("second", "f").await;
    replace("last", "f").await;
    // Whoever may opens what it has just found, and has it until its release. Others are still refused.
    for ino in [first, second] {
        let opened = other.open_file(&root, ino, true, false).await.unwrap();
        assert_eq!((opened.attr.nlink, opened.attr.size), (0, 7));
        refused(
            other.open_file(&user(7, 7, &[]), ino, true, true).await,
            ErrorKind::PermissionDenied,
        );
        assert_eq!(text_of(&other.extents(ino, 0, 100).await.unwrap()), "content");
        refused(session.link(&root, ino, *dir, "again").await, ErrorKind::NotFound);
    }
    other.release(first).await.unwrap();
    // After some seconds only what is open stays.
    let (began, deadline) = (std::time::Instant::now(), limits::REPLACED_INODE_KEPT * 4);
    while session.getattr(first).await.is_ok() {
        assert!(began.elapsed() < deadline, "still there after {deadline:?}");
        for alive in [session, &other] {
            kit.service.keep_alive(alive.identity()).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    is_gone(session, first).await;
    refused(
        session.open_file(&root, first, true, false).await,
        ErrorKind::Stale,
    );
    assert_eq!(text_of(&other.extents(second, 0, 100).await.unwrap()), "content");
    other.release(second).await.unwrap();
    assert_eq!(session.getattr(last).await.unwrap().nlink, 1);
}

pub(super) async fn removed_files_are_open_only_to_those_who_had_them(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let ino = kit.file("f").await;
    let (second, third) = (kit.another_session().await, kit.another_session().await);
    second.open_file(&root, ino, true, false).await.unwrap();
    session.unlink(&root, *dir, "f").await.unwrap();
    session.release(ino).await.unwrap();
    assert_eq!(
        third.getattr(ino).await.unwrap().nlink,
        0,
        "the second session keeps it"
    );
    refused(third.open_file(&root, ino, true, false).await, ErrorKind::Stale);
    refused(third.extents(ino, 0, 1).await, ErrorKind::BadHandle);
    second.open_file(&root, ino, true, true).await.unwrap();
    second.put(ino, 0, b"x").await.unwrap();
    second.release(ino).await.unwrap();
    second.release(ino).await.unwrap();
    is_gone(session, ino).await;
}

pub(super) async fn ended_sessions_release_everything(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let other = kit.another_session().await;
    let ino = other.create(&root, *dir, "f", 0o644).await.unwrap().ino;
    other.open_file(&root, ino, true, true).await.unwrap();
    session.unlink(&root, *dir, "f").await.unwrap();
    session.getattr(ino).await.unwrap();
    service.close_session(other.identity()).await.unwrap();
    is_gone(session, ino).await;
    // A resumed session has what it declares, as often as it declares it.
    let ino = kit.file("g").await;
    let opened = vec![
        OpenDeclaration {
            ino,
            read: true,
            write: true,
            pages: false,
            buffer: false,
        };
        2
    ];
    let resume = OpenSession {
        resume: Some(session.identity()),
        opened,
        ..fresh_session("conformance")
    };
    service.open_session(resume).await.unwrap();
    session.unlink(&root, *dir, "g").await.unwrap();
    session.release(ino).await.unwrap();
    session.put(ino, 0, b"x").await.unwrap();
    session.release(ino).await.unwrap();
    is_gone(session, ino).await;
}

pub(super) async fn releases_are_counted_and_bounded(kit: Kit) {
    let Kit { service, session, .. } = &kit;
    let ino = kit.file("f").await;
    session
        .open_file(&Caller::root(), ino, true, false)
        .await
        .unwrap();
    let other = kit.file("g").await;
    let never_opened = Ino(ino.0 + 1_000_000);
    // Twice the same, one other, one that is not open: what is open is released.
    service
        .release(session.identity(), vec![ino, never_opened, other, ino])
        .await
        .unwrap();
    refused(session.extents(ino, 0, 1).await, ErrorKind::BadHandle);
    refused(session.extents(other, 0, 1).await, ErrorKind::BadHandle);
    service.release(session.identity(), vec![ino]).await.unwrap();
    refused(
        service.release(session.identity(), Vec::new()).await,
        ErrorKind::Invalid,
    );
    let many = vec![ino; limits::RELEASES_MAX + 1];
    refused(
        service.release(session.identity(), many).await,
        ErrorKind::Invalid,
    );
    service
        .release(session.identity(), vec![ino; limits::RELEASES_MAX])
        .await
        .unwrap();
}
