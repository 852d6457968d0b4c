use super::*;
use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, received};
use crate::namespace::txn::Txn;
use crate::store::{MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::session::Caller;

/// A store with every kind of record.
pub(crate) fn populated() -> Fixture {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let above = fixture.mkdir(Ino::ROOT, "above");
    fixture.mkdir(above, "inner");
    fixture.symlink(above, "l", b"target").unwrap();
    let file = fixture.open_file("f");
    fixture.link_as(&root, file, above, "g").unwrap();
    let chunks = fixture.grant(3);
    for (at, chunk) in (0..).zip(&chunks) {
        let extents = vec![inline(at * 100, b"abc"), in_chunk(at * 100 + 10, 20, *chunk, 5)];
        let brought = vec![received(*chunk, 40, &[2, 3])];
        fixture.commit(commit(file, extents, brought)).unwrap();
    }
    fixture.truncate(file, 150).unwrap();
    fixture
        .setxattr_as(&root, file, "user.a", b"value", XattrMode::Set)
        .unwrap();
    fixture.open_file("orphan");
    fixture.unlink_as(&root, Ino::ROOT, "orphan").unwrap();
    for text in ["old", "new"] {
        fixture.file(Ino::ROOT, text);
    }
    fixture
        .rename_as(&root, (Ino::ROOT, "new"), (Ino::ROOT, "old"), RenameMode::Replace)
        .unwrap();
    let many = fixture.open_file("many");
    for part in 0..2 {
        let extents = (0..400).map(|n| inline((part * 400 + n) * 5, b"x")).collect();
        fixture.commit(commit(many, extents, vec![])).unwrap();
    }
    fixture.truncate(many, 0).unwrap();
    fixture.set_quota(Ino::ROOT, Some(1 << 30), None).unwrap();
    fixture
}

/// Some records of every table.
pub(crate) fn records(fixture: &Fixture) -> Vec<(Bytes, Bytes)> {
    let all = fixture.store.scan(&[0], &[255], usize::MAX).unwrap();
    let mut taken: HashMap<u8, usize> = HashMap::new();
    all.into_iter()
        .filter(|(key, _)| {
            let count = taken.entry(key[0]).or_default();
            *count += 1;
            *count <= 50
        })
        .collect()
}

pub(crate) fn change(fixture: &Fixture, key: &Bytes, value: Option<Bytes>) {
    let changes = vec![(key.clone(), value)];
    fixture.store.commit(WriteBatch { changes }).unwrap();
}

fn is_clean(fixture: &Fixture) -> bool {
    check(&fixture.store).is_ok_and(|report| report.is_clean())
}

#[test]
fn any_missing_record_is_noticed() {
    let fixture = populated();
    assert!(is_clean(&fixture));
    let mut tables = BTreeSet::new();
    for (key, value) in records(&fixture) {
        if key[0] == b's' || key == keys::schema() {
            continue;
        }
        tables.insert(key[0]);
        change(&fixture, &key, None);
        assert!(!is_clean(&fixture), "{key:?} is missing");
        change(&fixture, &key, Some(value));
    }
    assert!(is_clean(&fixture));
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), b"cdefhijlmoqtvwx");
}

#[test]
fn any_doubled_record_is_noticed() {
    let fixture = populated();
    for (key, value) in records(&fixture) {
        // A map that is left to the reaper may be empty.
        if matches!(key[0], b's' | b'm' | b'w') {
            continue;
        }
        // Under the key with its last byte raised, which is a key of the same table.
        let mut other = key.to_vec();
        *other.last_mut().unwrap() ^= 0x55;
        let other = Bytes::from(other);
        if fixture.store.get(&other).unwrap().is_some() {
            continue;
        }
        change(&fixture, &other, Some(value));
        assert!(!is_clean(&fixture), "{other:?} is too many");
        change(&fixture, &other, None);
    }
    assert!(is_clean(&fixture));
}

#[track_caller]
fn expect_problem(fixture: &Fixture, inode: &Inode, change: impl Fn(&mut Inode), words: &str) {
    let mut changed = inode.clone();
    change(&mut changed);
    let mut txn = Txn::new(&fixture.store);
    changed.put(&mut txn);
    let report = check(&txn).unwrap();
    let named = report.problems.iter().any(|problem| problem.contains(words));
    assert!(named, "{words}: {report:?}");
}

#[test]
fn wrong_counts_loops_and_overlaps_are_named() {
    let fixture = populated();
    let get = |parent, text| Inode::get(&fixture.store, fixture.ino(parent, text)).unwrap();
    let above = get(Ino::ROOT, "above");
    let inner = get(above.ino(), "inner").ino();
    expect_problem(&fixture, &above, |inode| inode.attr.nlink += 1, "subdirectories");
    expect_problem(&fixture, &above, |inode| inode.attr.size += 1, "entries and says");
    expect_problem(&fixture, &above, |inode| inode.parent = Ino(77), "wrong parent");
    expect_problem(
        &fixture,
        &above,
        |inode| inode.parent = inner,
        "loop of directories",
    );
    let file = get(Ino::ROOT, "f");
    expect_problem(&fixture, &file, |inode| inode.attr.nlink = 1, "names and says");
    expect_problem(&fixture, &file, |inode| inode.attr.size = 120, "behind its size");
    expect_problem(
        &fixture,
        &file,
        |inode| inode.attr.allocated_bytes += 1,
        "allocated",
    );
    expect_problem(
        &fixture,
        &file,
        |inode| inode.xattr_value_bytes += 1,
        "extended attributes",
    );
    let mut txn = Txn::new(&fixture.store);
    let record = txn.get(&keys::extent(file.map(), 103)).unwrap().unwrap();
    txn.put(keys::extent(file.map(), 105), record);
    let report = check(&txn).unwrap();
    let named = report.problems.iter().any(|problem| problem.contains("overlap"));
    assert!(named, "{report:?}");
}
