//! Directory listings.

use super::kit::{Kit, Session};
use crate::conformance::refused;
use dfs_common::attr::FileKind;
use dfs_common::op::RenameMode;
use dfs_common::service::DirEntry;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Ino};
use std::collections::{BTreeMap, BTreeSet};

async fn page(session: &Session, ino: Ino, cursor: u64, limit: u32) -> (Vec<DirEntry>, bool) {
    let page = session
        .service
        .readdir(session.identity(), Caller::root(), ino, cursor, limit, false)
        .await
        .unwrap();
    let cursors: Vec<u64> = page.entries.iter().map(|entry| entry.cursor).collect();
    assert!(
        cursors.is_sorted_by(|a, b| a < b) && cursors.iter().all(|at| *at > cursor && *at >= 3),
        "{cursors:?}"
    );
    assert!(page.entries.len() <= limit as usize);
    assert!(
        page.end || !page.entries.is_empty(),
        "a page that is not the last has entries"
    );
    (page.entries, page.end)
}

pub(super) async fn pages_show_each_entry_once_while_the_directory_changes(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = &Caller::root();
    let made = |text: String| async move {
        session.mknod(root, *dir, &text, FileKind::File).await.unwrap();
    };
    for i in 0..60 {
        made(format!("stays{i}")).await;
        made(format!("goes{i}")).await;
    }
    let mut seen = BTreeMap::<Vec<u8>, u32>::new();
    let (mut cursor, mut round) = (0, 0);
    loop {
        let (entries, end) = page(session, *dir, cursor, 7).await;
        for entry in &entries {
            *seen.entry(entry.name.as_bytes().to_vec()).or_default() += 1;
            cursor = entry.cursor;
        }
        if end {
            break;
        }
        // Between two pages: some go, some come, one is renamed away and back, and the last one seen goes too.
        if round < 60 {
            session.unlink(root, *dir, &format!("goes{round}")).await.unwrap();
            made(format!("comes{round}")).await;
            let (old, new) = (format!("comes{round}"), format!("moved{round}"));
            session
                .rename(root, (*dir, &old), (*dir, &new), RenameMode::Replace)
                .await
                .unwrap();
        }
        round += 1;
        assert!(round < 200, "a listing ends");
    }
    for i in 0..60 {
        assert_eq!(
            seen.get(format!("stays{i}").as_bytes()),
            Some(&1),
            "stays{i} was there throughout"
        );
    }
    assert!(
        seen.iter()
            .all(|(text, count)| *count == 1 || text.starts_with(b"moved")),
        "{seen:?}"
    );
}

pub(super) async fn pages_carry_attributes_and_the_parent(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let sub = session.mkdir(&root, *dir, "sub", 0o755).await.unwrap().ino;
    let file = session.create(&root, sub, "f", 0o640).await.unwrap().ino;
    session.put(file, 0, b"12345").await.unwrap();
    session.mkdir(&root, sub, "d", 0o700).await.unwrap();
    let listed = service
        .readdir(session.identity(), root.clone(), sub, 0, 100, true)
        .await
        .unwrap();
    assert_eq!((listed.parent, listed.end, listed.entries.len()), (*dir, true, 2));
    for entry in &listed.entries {
        let attr = entry.attr.as_ref().expect("asked for");
        assert_eq!(attr, &session.getattr(entry.ino).await.unwrap());
        assert_eq!((attr.kind, attr.ino), (entry.kind, entry.ino));
    }
    let top = service
        .readdir(session.identity(), root.clone(), Ino::ROOT, 0, 1, false)
        .await
        .unwrap();
    assert_eq!(top.parent, Ino::ROOT, "the root is its own parent");
    assert!(top.entries.iter().all(|entry| entry.attr.is_none()));
    let (entries, end) = page(session, sub, 0, 1).await;
    assert!(!end);
    let (rest, _) = page(session, sub, entries[0].cursor, 1).await;
    let names: BTreeSet<&[u8]> = [&entries[0], &rest[0]].map(|entry| entry.name.as_bytes()).into();
    assert_eq!(names, BTreeSet::from([&b"f"[..], b"d"]));
    assert_eq!(page(session, sub, rest[0].cursor, 1).await, (Vec::new(), true));
    refused(
        service
            .readdir(session.identity(), root.clone(), file, 0, 1, false)
            .await,
        ErrorKind::NotDirectory,
    );
    session.rmdir(&root, sub, "d").await.unwrap();
    session.unlink(&root, sub, "f").await.unwrap();
    session.rmdir(&root, *dir, "sub").await.unwrap();
    refused(
        service.readdir(session.identity(), root, sub, 0, 1, false).await,
        ErrorKind::Stale,
    );
}
