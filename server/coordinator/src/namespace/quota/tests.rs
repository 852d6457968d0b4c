use super::{check_edge, list, tree_usage};
use crate::namespace::fixture::{Fixture, kind, name};
use ErrorKind::{CrossDevice, QuotaExceeded};
use dfs_common::op::{OpReply, Operation, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{Allowance, ErrorKind, FileKind, Ino, SessionId};

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
    let (mut fixture, q, _) = limited(Some(100), Some(3));
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
    file(&mut fixture, inner, "a", 1);
    file(&mut fixture, inner, "b", 1);
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
