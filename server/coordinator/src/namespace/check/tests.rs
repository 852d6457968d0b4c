use super::*;
use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, received};
use crate::namespace::keys;
use crate::namespace::txn::Txn;
use crate::store::{MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::session::Caller;
use std::collections::{BTreeSet, HashMap};

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

/// Everything that a report says, in no order.
fn said(report: &Report) -> BTreeSet<String> {
    let stages = Stage::ALL.into_iter().flat_map(|stage| {
        let mut repairs = report.repairs_of(stage).unwrap();
        repairs.next_portion(usize::MAX).unwrap()
    });
    let repairs = stages.map(|repair| format!("{repair:?}"));
    repairs.chain(report.problems.iter().cloned()).collect()
}

#[test]
fn through_files_a_check_finds_what_it_finds_in_memory() {
    let small = Scratch {
        memory_bytes: 200,
        ..Scratch::in_dir(std::env::temp_dir())
    };
    let mut fixture = populated();
    for number in 0..40 {
        let directory = fixture.mkdir(Ino::ROOT, &format!("d{number}"));
        let file = fixture.file(directory, "file");
        fixture
            .link_as(&Caller::root(), file, directory, "other name")
            .unwrap();
    }
    let all = records(&fixture);
    let mut names = 0;
    for (index, (key, value)) in all.iter().enumerate() {
        if matches!(key[0], b's' | b'm') || index % 2 == 1 {
            continue;
        }
        // Several at once, so that findings come from many places.
        let others = all.iter().skip(index % 7).step_by(29);
        let damaged: Vec<_> = others.filter(|(key, _)| !matches!(key[0], b's' | b'm')).collect();
        change(&fixture, key, None);
        damaged.iter().for_each(|(key, _)| change(&fixture, key, None));
        let in_memory = said(&check(&fixture.store).unwrap());
        let through_files = said(&check_in(&fixture.store, &small).unwrap());
        assert_eq!(through_files, in_memory, "{key:?}");
        names += in_memory.len();
        damaged
            .iter()
            .for_each(|(key, value)| change(&fixture, key, Some(value.clone())));
        change(&fixture, key, Some(value.clone()));
    }
    assert!(names > 1000, "{names}");
    assert!(check_in(&fixture.store, &small).unwrap().is_clean());
}

#[test]
fn way_up_that_goes_round_in_circles_is_found_from_where_a_sum_is_wrong() {
    let mut fixture = Fixture::default();
    let mut at = Ino::ROOT;
    let mut chain = Vec::new();
    for depth in 0..50 {
        at = fixture.mkdir(at, &format!("d{depth}"));
        chain.push(at);
    }
    for length in [1, 2, 3, 17, 40] {
        let mut txn = Txn::new(&fixture.store);
        let mut top = Inode::get(&txn, chain[5]).unwrap();
        top.parent = chain[5 + length - 1];
        top.put(&mut txn);
        let report = check(&txn).unwrap();
        let loops = report
            .problems
            .iter()
            .filter(|problem| problem.contains("loop of directories"));
        assert!(loops.count() > 0, "{length}: {report:#?}");
    }
}
