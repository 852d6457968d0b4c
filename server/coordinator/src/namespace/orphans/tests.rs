use super::*;
use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, kind, received, user};
use crate::namespace::read;
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Name};

const ROOT: Ino = Ino::ROOT;
const KEPT_SECS: i64 = REPLACED_INODE_KEPT.as_secs() as i64;

/// Renames a new file over `text`; answers the inode that was replaced.
fn replace(fixture: &mut Fixture, text: &str) -> Ino {
    let old = fixture.ino(ROOT, text);
    fixture.file(ROOT, "new");
    let replaced = fixture.rename_as(&Caller::root(), (ROOT, "new"), (ROOT, text), RenameMode::Replace);
    assert!(replaced.is_ok(), "{replaced:?}");
    old
}

fn is_gone(fixture: &Fixture, ino: Ino) -> bool {
    fixture.assert_clean();
    match read::getattr(&fixture.store, ino) {
        Ok(attr) => {
            assert_eq!(attr.nlink, 0);
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Stale);
            true
        }
    }
}

fn let_go(inodes: u64, more: bool) -> LetGo {
    LetGo { inodes, more }
}

#[test]
fn replaced_inode_is_whole_until_its_time_is_over() {
    let mut fixture = Fixture::default();
    let old = fixture.open_file("f");
    let chunk = fixture.chunk();
    let extents = vec![inline(0, b"abc"), in_chunk(10, 100, chunk, 0)];
    fixture
        .commit(commit(old, extents, vec![received(chunk, 100, &[1, 2])]))
        .unwrap();
    fixture.chown(old, 5, 5).unwrap();
    fixture.chmod(old, 0o600).unwrap();
    fixture.release(old);
    let before = read::statfs_counters(&fixture.store).unwrap();
    replace(&mut fixture, "f");
    assert!(!is_gone(&fixture, old));
    assert_eq!(fixture.attr(old).ctime, fixture.now());
    assert_eq!(holders(&fixture.store, old), Ok(vec![NAMESPACE]));
    assert_eq!(fixture.runs(old), [(0, 3), (10, 100)]);
    let open = |uid| read::open_check(&fixture.store, &user(uid), old, true, true);
    assert_eq!(open(5).unwrap().size, 110);
    assert_eq!(kind(&open(6)), ErrorKind::PermissionDenied);
    // It counts for as long as it is there.
    let after = read::statfs_counters(&fixture.store).unwrap();
    assert_eq!(
        (after.inodes, after.content_bytes, after.chunks),
        (before.inodes + 1, before.content_bytes, before.chunks)
    );

    fixture.seconds += KEPT_SECS - 1;
    assert_eq!(fixture.reap_replaced(10), let_go(0, false));
    assert!(!is_gone(&fixture, old));
    fixture.seconds += 1;
    assert_eq!(fixture.reap_replaced(10), let_go(1, false));
    assert!(is_gone(&fixture, old));
    let after = read::statfs_counters(&fixture.store).unwrap();
    assert_eq!(
        (
            after.inodes,
            after.content_bytes,
            after.chunks,
            after.freed_chunks
        ),
        (before.inodes, 0, 0, 1)
    );
    assert_eq!(fixture.reap_replaced(10), let_go(0, false));
}

#[test]
fn who_has_it_open_when_its_time_is_over_holds_it() {
    let mut fixture = Fixture::default();
    fixture.file(ROOT, "f");
    let old = replace(&mut fixture, "f");
    // Opened and released before: nobody is recorded.
    fixture.open(old, false);
    fixture.release(old);
    assert_eq!(holders(&fixture.store, old), Ok(vec![NAMESPACE]));
    for session in [8, 9] {
        fixture.session = SessionId(session);
        fixture.open(old, false);
    }
    fixture.seconds += KEPT_SECS;
    assert_eq!(fixture.reap_replaced(10), let_go(1, false));
    assert_eq!(holders(&fixture.store, old), Ok(vec![SessionId(8), SessionId(9)]));
    fixture.release(old);
    assert!(!is_gone(&fixture, old));
    fixture.session = SessionId(8);
    fixture.release(old);
    assert!(is_gone(&fixture, old));
}

#[test]
fn every_kind_is_kept_and_gets_no_new_names() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let link = fixture.symlink(ROOT, "l", b"target").unwrap();
    replace(&mut fixture, "l");
    assert_eq!(read::readlink(&fixture.store, link).unwrap(), "target");
    assert_eq!(
        kind(&fixture.link_as(&root, link, ROOT, "again")),
        ErrorKind::NotFound
    );
    let directory = fixture.mkdir(ROOT, "d");
    fixture.mkdir(ROOT, "e");
    fixture
        .rename_as(&root, (ROOT, "e"), (ROOT, "d"), RenameMode::Replace)
        .unwrap();
    assert_eq!(fixture.listing(directory), [""; 0]);
    assert_eq!(
        kind(&fixture.create_as(&root, directory, "f", 0o644)),
        ErrorKind::NotFound
    );
    assert!(!is_gone(&fixture, directory));
    fixture.seconds += KEPT_SECS;
    assert_eq!(fixture.reap_replaced(10), let_go(2, false));
    assert!(is_gone(&fixture, directory) && is_gone(&fixture, link));
}

#[test]
fn inode_with_another_name_is_no_orphan() {
    let mut fixture = Fixture::default();
    let file = fixture.file(ROOT, "f");
    fixture.link_as(&Caller::root(), file, ROOT, "g").unwrap();
    replace(&mut fixture, "f");
    assert_eq!(fixture.attr(file).nlink, 1);
    assert_eq!(holders(&fixture.store, file), Ok(vec![]));
    fixture.assert_clean();
    fixture.seconds += KEPT_SECS;
    assert_eq!(fixture.reap_replaced(10), let_go(0, false));
    assert_eq!(fixture.attr(file).nlink, 1);
}

#[test]
fn steps_are_bounded_in_inodes_and_in_changes() {
    let mut fixture = Fixture::default();
    fixture.file(ROOT, "f");
    for _ in 0..5 {
        replace(&mut fixture, "f");
    }
    fixture.seconds += KEPT_SECS;
    assert_eq!(fixture.reap_replaced(2), let_go(2, true));
    fixture.assert_clean();
    assert_eq!(fixture.reap_replaced(2), let_go(2, true));
    assert_eq!(fixture.reap_replaced(2), let_go(1, false));
    fixture.assert_clean();

    let all = 20;
    for _ in 0..all {
        let file = fixture.ino(ROOT, "f");
        fixture.open(file, true);
        let extents = (0..500).map(|n| inline(n * 2, b"x")).collect();
        fixture.commit(commit(file, extents, vec![])).unwrap();
        fixture.release(file);
        replace(&mut fixture, "f");
    }
    fixture.seconds += KEPT_SECS;
    let mut total = 0;
    loop {
        let let_go = fixture.reap_replaced(100);
        assert!((1..=9).contains(&let_go.inodes), "{let_go:?}");
        fixture.assert_clean();
        total += let_go.inodes;
        if !let_go.more {
            break;
        }
    }
    assert_eq!(total, all);
}

#[test]
fn clock_that_was_set_back_lets_inodes_go_too() {
    let mut fixture = Fixture::default();
    fixture.file(ROOT, "f");
    let old = replace(&mut fixture, "f");
    fixture.seconds -= KEPT_SECS;
    assert_eq!(fixture.reap_replaced(10), let_go(0, false));
    assert!(!is_gone(&fixture, old));
    fixture.seconds -= 1;
    assert_eq!(fixture.reap_replaced(10), let_go(1, false));
    assert!(is_gone(&fixture, old));
}

#[test]
fn unlinked_inode_is_not_kept() {
    let mut fixture = Fixture::default();
    let file = fixture.file(ROOT, "f");
    fixture.unlink_as(&Caller::root(), ROOT, "f").unwrap();
    assert!(is_gone(&fixture, file));
    assert!(Name::new(&b"f"[..]).is_ok_and(|name| read::resolve(&fixture.store, ROOT, &name) == Ok(None)));
}
