use super::{check_edge, close_edge, list, open_edges, set, tree_usage};
use crate::namespace::check::check;
use crate::namespace::fixture::{Fixture, kind, name};
use crate::namespace::keys;
use crate::namespace::txn::Txn;
use crate::namespace::usage::{self, Usage};
use crate::store::{MetaRead, MetaStore};
use ErrorKind::{CrossDevice, QuotaExceeded};
use dfs_common::op::{OpReply, Operation, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{Allowance, ErrorKind, FileKind, Ino, Quota, SessionId};

/// A directory with a quota, and an open file of ten bytes in it.
fn limited(bytes: Option<u64>, inodes: Option<u64>) -> (Fixture, Ino, Ino) {
    let mut fixture = Fixture::default();
    let q = fixture.mkdir(Ino::ROOT, "q");
    let f = file(&mut fixture, q, "f", 10);
    fixture.set_quota(q, bytes, inodes).unwrap();
    (fixture, q, f)
}

fn file(fixture: &mut Fixture, parent: Ino, text: &str, length: usize) -> Ino {
    let ino = fixture.file(parent, text);
    fixture.open(ino, true);
    fixture.write(ino, 0, length).unwrap();
    ino
}

#[test]
fn bytes_end_exactly_at_the_limit_and_only_growth_is_refused() {
    let (mut fixture, q, f) = limited(Some(100), None);
    fixture.write(f, 10, 90).unwrap();
    assert_eq!(kind(&fixture.write(f, 100, 1)), QuotaExceeded);
    fixture.write(f, 0, 100).unwrap();
    fixture.truncate(f, 1 << 40).unwrap();
    assert_eq!(kind(&fixture.write(f, 1000, 1)), QuotaExceeded);
    fixture.truncate(f, 50).unwrap();
    fixture.write(f, 50, 50).unwrap();
    fixture.file(q, "empty");
    fixture.set_quota(q, Some(20), None).unwrap();
    fixture.write(f, 0, 100).unwrap();
    assert_eq!(kind(&fixture.write(f, 0, 101)), QuotaExceeded);
    fixture.truncate(f, 60).unwrap();
    fixture.set_quota(q, None, None).unwrap();
    fixture.write(f, 0, 1000).unwrap();
    assert!(list(&fixture.store, Ino(0), 10).unwrap().is_empty());
    fixture.assert_clean();
}

#[test]
fn every_way_to_make_an_inode_is_refused_at_the_limit_for_root_too() {
    let (mut fixture, q, _) = limited(None, Some(2));
    let inner = fixture.mkdir(q, "inner");
    let root = Caller::root();
    let made = [
        kind(&fixture.create_as(&root, inner, "x", 0o644)),
        kind(&fixture.mkdir_as(&root, q, "x", 0o755)),
        kind(&fixture.symlink(inner, "x", b"target")),
        kind(&fixture.mknod_as(&root, q, "x", FileKind::Fifo, 0o644)),
    ];
    assert_eq!(made, [QuotaExceeded; 4]);
    let f = fixture.ino(q, "f");
    fixture.release(f);
    fixture.link_as(&root, f, inner, "g").unwrap();
    assert_eq!(
        tree_usage(&fixture.store, q).unwrap().files,
        1,
        "a name is no inode"
    );
    fixture.unlink_as(&root, q, "f").unwrap();
    fixture.unlink_as(&root, inner, "g").unwrap();
    fixture.file(inner, "x");
    fixture.assert_clean();
}

#[test]
fn the_tightest_of_nested_quotas_decides() {
    let (mut fixture, q, f) = limited(Some(100), None);
    let inner = fixture.mkdir(q, "inner");
    let g = file(&mut fixture, inner, "g", 10);
    fixture.set_quota(inner, Some(1000), Some(1)).unwrap();
    assert_eq!(kind(&fixture.write(g, 0, 91)), QuotaExceeded, "the outer one");
    assert_eq!(
        kind(&fixture.create_as(&Caller::root(), inner, "h", 0o644)),
        QuotaExceeded
    );
    fixture.set_quota(inner, Some(40), None).unwrap();
    assert_eq!(kind(&fixture.write(g, 0, 41)), QuotaExceeded, "the inner one");
    fixture.write(f, 0, 60).unwrap();
    let tree = tree_usage(&fixture.store, g).unwrap();
    assert_eq!(
        tree.bytes_allowed,
        Some(Allowance { limit: 40, used: 10 }),
        "both have 30 left"
    );
    fixture.write(f, 0, 61).unwrap();
    let tree = tree_usage(&fixture.store, inner).unwrap();
    assert_eq!(tree.bytes_allowed, Some(Allowance { limit: 100, used: 71 }));
    assert_eq!(tree.inodes_allowed, None);
    fixture.assert_clean();
}

#[test]
fn moving_into_a_full_tree_is_refused_and_within_it_is_not() {
    let (mut fixture, q, f) = limited(Some(100), Some(3));
    fixture.release(f);
    let root = Caller::root();
    let out = fixture.mkdir(Ino::ROOT, "out");
    file(&mut fixture, out, "big", 91);
    let into =
        |fixture: &mut Fixture, text: &str, mode| fixture.rename_as(&root, (out, text), (q, text), mode);
    assert_eq!(
        kind(&into(&mut fixture, "big", RenameMode::Replace)),
        QuotaExceeded
    );
    let inner = fixture.mkdir(out, "inner");
    for text in ["a", "b"] {
        let file = file(&mut fixture, inner, text, 1);
        fixture.release(file);
    }
    assert_eq!(
        kind(&into(&mut fixture, "inner", RenameMode::Replace)),
        QuotaExceeded,
        "inodes"
    );
    fixture.unlink_as(&root, inner, "b").unwrap();
    into(&mut fixture, "inner", RenameMode::Replace).unwrap();
    // Full by inodes now: a rename within, over a name, and an exchange that brings no more.
    fixture
        .rename_as(&root, (q, "f"), (inner, "f"), RenameMode::Replace)
        .unwrap();
    file(&mut fixture, out, "f", 99);
    fixture
        .rename_as(&root, (out, "f"), (inner, "f"), RenameMode::Replace)
        .unwrap();
    file(&mut fixture, out, "g", 100);
    assert_eq!(
        kind(&fixture.rename_as(&root, (out, "g"), (inner, "f"), RenameMode::Exchange)),
        QuotaExceeded
    );
    file(&mut fixture, out, "h", 98);
    fixture
        .rename_as(&root, (out, "h"), (inner, "f"), RenameMode::Exchange)
        .unwrap();
    assert_eq!(fixture.usage(q), (99, 2, 1));
    fixture.set_quota(q, Some(1), Some(1)).unwrap();
    fixture
        .rename_as(&root, (inner, "f"), (q, "f"), RenameMode::Replace)
        .unwrap();
    fixture
        .rename_as(&root, (q, "inner"), (out, "inner"), RenameMode::Replace)
        .unwrap();
    fixture.assert_clean();
}

#[test]
fn hard_links_do_not_cross_an_edge() {
    let (mut fixture, q, f) = limited(Some(100), None);
    let root = Caller::root();
    let out = fixture.mkdir(Ino::ROOT, "out");
    let inner = fixture.mkdir(q, "inner");
    let g = file(&mut fixture, out, "g", 5);
    assert_eq!(kind(&fixture.link_as(&root, g, inner, "g")), CrossDevice);
    assert_eq!(kind(&fixture.link_as(&root, f, out, "f")), CrossDevice);
    fixture.link_as(&root, f, inner, "f").unwrap();
    for (from, to) in [
        ((q, "f"), (out, "f")),
        ((inner, "f"), (out, "f")),
        ((q, "inner"), (out, "inner")),
    ] {
        assert_eq!(
            kind(&fixture.rename_as(&root, from, to, RenameMode::Replace)),
            CrossDevice
        );
    }
    let with_links = fixture.mkdir(out, "with");
    fixture.link_as(&root, g, with_links, "g").unwrap();
    assert_eq!(
        kind(&fixture.rename_as(&root, (out, "with"), (q, "with"), RenameMode::Replace)),
        CrossDevice,
        "its file would be counted outside"
    );
    fixture
        .rename_as(&root, (q, "f"), (inner, "f2"), RenameMode::Replace)
        .unwrap();
    fixture.unlink_as(&root, inner, "f2").unwrap();
    fixture
        .rename_as(&root, (q, "inner"), (out, "inner"), RenameMode::Replace)
        .unwrap();
    assert!(check_edge(&fixture.store, out, Ino::ROOT).is_ok());
    fixture.assert_clean();
}

#[test]
fn quota_is_not_set_where_hard_links_cross_its_edge() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let [q, out] = ["q", "out"].map(|text| fixture.mkdir(Ino::ROOT, text));
    let f = file(&mut fixture, q, "f", 5);
    fixture.link_as(&root, f, q, "g").unwrap();
    fixture.set_quota(q, Some(10), None).unwrap();
    fixture.set_quota(q, None, None).unwrap();
    fixture.link_as(&root, f, out, "h").unwrap();
    assert_eq!(kind(&fixture.set_quota(q, Some(10), None)), ErrorKind::Invalid);
    assert_eq!(kind(&fixture.set_quota(out, Some(10), None)), ErrorKind::Invalid);
    fixture.set_quota(Ino::ROOT, Some(10), None).unwrap();
    fixture.assert_clean();
}

#[test]
fn edge_is_closed_before_hard_links_are_looked_at() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let (q, out) = (fixture.mkdir(Ino::ROOT, "q"), fixture.mkdir(Ino::ROOT, "out"));
    let f = file(&mut fixture, q, "f", 10);
    let close = |fixture: &mut Fixture| fixture.commit_txn(|txn| close_edge(txn, q)).unwrap();
    let set = |fixture: &mut Fixture, bytes| {
        let quota = Quota { bytes, inodes: None };
        fixture.commit_txn(|txn| set(txn, q, quota))
    };
    assert!(!close(&mut fixture), "nothing to look at");
    fixture.link_as(&root, f, q, "g").unwrap();
    assert_eq!(
        kind(&set(&mut fixture, Some(100))),
        ErrorKind::Busy,
        "links came meanwhile"
    );
    assert!(close(&mut fixture) && close(&mut fixture));
    fixture.assert_clean();
    assert_eq!(kind(&fixture.link_as(&root, f, out, "h")), CrossDevice);
    fixture.write(f, 0, 1000).unwrap();
    // A coordinator that ends here opens it at its next start; a repair leaves it as it is.
    fixture
        .commit_txn(|txn| {
            txn.put_usage(q, None);
            Ok(())
        })
        .unwrap();
    fixture.repair();
    fixture.assert_clean();
    open_edges(&fixture.store).unwrap();
    fixture.assert_clean();
    assert!(list(&fixture.store, Ino(0), 10).unwrap().is_empty());
    fixture.link_as(&root, f, out, "h").unwrap();
    assert_eq!(kind(&set(&mut fixture, Some(100))), ErrorKind::Busy);
    fixture.unlink_as(&root, out, "h").unwrap();
    assert!(close(&mut fixture));
    set(&mut fixture, Some(2000)).unwrap();
    open_edges(&fixture.store).unwrap();
    assert_eq!(kind(&fixture.link_as(&root, f, out, "h")), CrossDevice);
    set(&mut fixture, None).unwrap();
    assert!(close(&mut fixture));
    set(&mut fixture, None).unwrap();
    fixture.link_as(&root, f, out, "h").unwrap();
    fixture.assert_clean();
}

#[test]
fn removed_file_grows_no_further_than_its_tree_has_left() {
    let (mut fixture, q, f) = limited(Some(100), None);
    file(&mut fixture, q, "g", 40);
    fixture.unlink_as(&Caller::root(), q, "f").unwrap();
    fixture.write(f, 0, 60).unwrap();
    assert_eq!(kind(&fixture.write(f, 60, 1)), QuotaExceeded);
    fixture.write(f, 0, 10).unwrap();
    fixture.unlink_as(&Caller::root(), q, "g").unwrap();
    fixture.rmdir_as(&Caller::root(), Ino::ROOT, "q").unwrap();
    fixture.write(f, 0, 200).unwrap();
    fixture.session = SessionId(7);
    fixture.assert_clean();
}

#[test]
fn removed_files_count_together_until_the_last_release() {
    let (mut fixture, q, f) = limited(Some(100), Some(3));
    let root = Caller::root();
    let g = file(&mut fixture, q, "g", 40);
    for text in ["f", "g"] {
        fixture.unlink_as(&root, q, text).unwrap();
    }
    assert_eq!(fixture.usage(q), (0, 0, 0), "as du counts");
    let entry = list(&fixture.store, Ino(0), 10).unwrap().remove(0);
    assert_eq!((entry.bytes, entry.inodes), (50, 2), "as the quota counts");
    fixture.write(f, 10, 30).unwrap();
    assert_eq!(kind(&fixture.write(g, 40, 21)), QuotaExceeded);
    fixture.write(g, 40, 20).unwrap();
    let allowed = tree_usage(&fixture.store, g).unwrap().bytes_allowed;
    assert_eq!(
        allowed,
        Some(Allowance {
            limit: 100,
            used: 100
        })
    );
    let h = fixture.file(q, "h");
    fixture.open(h, true);
    assert_eq!(kind(&fixture.write(h, 0, 1)), QuotaExceeded);
    assert_eq!(
        kind(&fixture.create_as(&root, q, "i", 0o644)),
        QuotaExceeded,
        "they are inodes, too"
    );
    fixture.assert_clean();
    fixture.truncate(g, 10).unwrap();
    fixture.write(h, 0, 50).unwrap();
    fixture.release(f);
    fixture.write(h, 0, 90).unwrap();
    fixture.file(q, "i");
    fixture.assert_clean();
}

#[test]
fn what_is_held_stays_below_directories_that_were_removed() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let top = fixture.mkdir(Ino::ROOT, "top");
    let q = fixture.mkdir(top, "q");
    let (one, other) = (fixture.mkdir(q, "one"), fixture.mkdir(Ino::ROOT, "other"));
    let two = fixture.mkdir(one, "two");
    let f = file(&mut fixture, two, "f", 60);
    fixture.unlink_as(&root, two, "f").unwrap();
    fixture.rmdir_as(&root, one, "two").unwrap();
    fixture.rmdir_as(&root, q, "one").unwrap();
    fixture.assert_clean();
    // A quota that is set afterwards counts them, and they move with what is above.
    fixture.set_quota(q, Some(100), None).unwrap();
    let g = file(&mut fixture, q, "g", 30);
    assert_eq!(kind(&fixture.write(f, 60, 11)), QuotaExceeded);
    assert_eq!(kind(&fixture.write(g, 30, 11)), QuotaExceeded);
    fixture.set_quota(other, Some(89), None).unwrap();
    let into = ((top, "q"), (other, "q"));
    assert_eq!(
        kind(&fixture.rename_as(&root, into.0, into.1, RenameMode::Replace)),
        QuotaExceeded
    );
    fixture.set_quota(other, Some(90), None).unwrap();
    fixture
        .rename_as(&root, into.0, into.1, RenameMode::Replace)
        .unwrap();
    assert_eq!(kind(&fixture.write(f, 60, 1)), QuotaExceeded, "below other now");
    assert_eq!(kind(&fixture.set_quota(one, Some(1), None)), ErrorKind::Stale);
    fixture.assert_clean();
    fixture.release(f);
    for gone in [one, two] {
        assert_eq!(fixture.store.get(&keys::usage(gone)).unwrap(), None);
    }
    fixture.write(g, 30, 60).unwrap();
    fixture.assert_clean();
}

#[test]
fn check_finds_what_is_held_and_counts_it_anew() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let q = fixture.mkdir(Ino::ROOT, "q");
    let inner = fixture.mkdir(q, "inner");
    let f = file(&mut fixture, inner, "f", 60);
    fixture.unlink_as(&root, inner, "f").unwrap();
    fixture.rmdir_as(&root, q, "inner").unwrap();
    let held = |fixture: &Fixture, directory| {
        let usage = usage::find(&fixture.store, directory).unwrap();
        usage.map(|usage| (usage.held_bytes, usage.held_inodes))
    };
    let damage = |fixture: &Fixture, directory, record: Option<Usage>| {
        let mut txn = Txn::new(&fixture.store);
        txn.put_usage(directory, record);
        let batch = txn.into_batch();
        fixture.store.commit(batch).unwrap();
        assert!(!check(&fixture.store).unwrap().is_clean());
    };
    let mut wrong = usage::get(&fixture.store, q).unwrap();
    wrong.held_bytes += 1;
    damage(&fixture, q, Some(wrong));
    assert!(fixture.repair().is_clean());
    assert_eq!(held(&fixture, q), Some((60, 1)));
    let stray = Usage {
        parent: q.0,
        removed: true,
        ..Usage::default()
    };
    damage(&fixture, Ino(1000), Some(stray));
    assert!(fixture.repair().is_clean());
    assert_eq!(held(&fixture, Ino(1000)), None);
    damage(&fixture, inner, None);
    assert!(fixture.repair().is_clean());
    assert_eq!(held(&fixture, q), Some((0, 0)), "nothing says that it was there");
    assert_eq!(held(&fixture, Ino::ROOT), Some((60, 1)));
    fixture.release(f);
    assert_eq!(held(&fixture, Ino::ROOT), Some((0, 0)));
    fixture.assert_clean();
}

#[test]
fn replaced_file_makes_room_unless_somebody_has_it_open() {
    let (mut fixture, q, f) = limited(Some(100), Some(2));
    let root = Caller::root();
    let out = fixture.mkdir(Ino::ROOT, "out");
    let replace = |fixture: &mut Fixture, text: &str| {
        let new = file(fixture, out, text, 100);
        fixture.release(new);
        fixture
            .rename_as(&root, (out, text), (q, "f"), RenameMode::Replace)
            .map(|_| new)
    };
    fixture.write(f, 0, 100).unwrap();
    assert_eq!(kind(&replace(&mut fixture, "a")), QuotaExceeded, "open");
    fixture.release(f);
    let before = replace(&mut fixture, "a").unwrap();
    replace(&mut fixture, "b").unwrap();
    assert_eq!(fixture.usage(q), (100, 1, 0));
    fixture.assert_clean();
    // Above a quota that was lowered, what is less on the whole is no growth.
    fixture.set_quota(q, Some(50), None).unwrap();
    for (text, length, fits) in [("c", 101, false), ("d", 99, true), ("e", 100, false)] {
        let new = file(&mut fixture, out, text, length);
        fixture.release(new);
        let renamed = fixture.rename_as(&root, (out, text), (q, "f"), RenameMode::Replace);
        assert_eq!(renamed.is_ok(), fits, "{renamed:?}");
    }
    let after = fixture.ino(q, "f");
    fixture.open(after, true);
    fixture.write(after, 0, 1).unwrap();
    fixture.set_quota(q, None, None).unwrap();
    fixture.write(after, 99, 1).unwrap();
    fixture.release(after);
    fixture.set_quota(q, Some(100), None).unwrap();
    // Opened in the time that it is kept, it counts from its growth on.
    fixture.open(before, true);
    fixture.write(before, 0, 100).unwrap();
    assert_eq!(kind(&fixture.write(before, 100, 1)), QuotaExceeded);
    fixture.truncate(after, 0).unwrap();
    assert_eq!(kind(&fixture.write(before, 100, 1)), QuotaExceeded);
    fixture.truncate(before, 50).unwrap();
    fixture.write(before, 50, 50).unwrap();
    assert_eq!(kind(&fixture.write(before, 100, 1)), QuotaExceeded);
    fixture.open(after, true);
    assert_eq!(kind(&fixture.write(after, 0, 1)), QuotaExceeded);
    fixture.assert_clean();
    fixture.release(before);
    fixture.write(after, 0, 100).unwrap();
    fixture.assert_clean();
}

#[test]
fn quotas_are_listed_with_paths_and_go_with_their_directory() {
    let (mut fixture, q, _) = limited(Some(100), None);
    let root = Caller::root();
    let inner = fixture.mkdir(q, "inner");
    fixture.set_quota(inner, None, Some(5)).unwrap();
    fixture.set_quota(Ino::ROOT, Some(1000), Some(50)).unwrap();
    fixture
        .rename_as(&root, (Ino::ROOT, "q"), (Ino::ROOT, "other"), RenameMode::Replace)
        .unwrap();
    let paths = |fixture: &Fixture, after| -> Vec<String> {
        let page = list(&fixture.store, after, 10).unwrap();
        let path = |path: &bytes::Bytes| String::from_utf8(path.to_vec()).unwrap();
        page.iter()
            .map(|entry| entry.path.as_ref().map_or("?".to_string(), path))
            .collect()
    };
    assert_eq!(paths(&fixture, Ino(0)), ["/", "/other", "/other/inner"]);
    assert_eq!(paths(&fixture, q), ["/other/inner"]);
    fixture.rmdir_as(&root, q, "inner").unwrap();
    fixture.unlink_as(&root, q, "f").unwrap();
    let empty = fixture.mkdir(Ino::ROOT, "empty");
    let replace = Operation::Rename {
        parent: Ino::ROOT,
        name: name("empty"),
        new_parent: Ino::ROOT,
        new_name: name("other"),
        mode: RenameMode::Replace,
    };
    assert_eq!(
        fixture.root(replace),
        Ok(OpReply::Renamed {
            ino: empty,
            other: Some(q)
        })
    );
    assert_eq!(paths(&fixture, Ino(0)), ["/"]);
    assert_eq!(kind(&fixture.set_quota(q, Some(1), None)), ErrorKind::Stale);
    fixture.assert_clean();
}
