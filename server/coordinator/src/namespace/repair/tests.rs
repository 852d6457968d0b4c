use super::*;
use crate::namespace::check::check;
use crate::namespace::check::tests::{change, populated, records};
use crate::namespace::fixture::{Fixture, commit, in_chunk, received};
use crate::namespace::{read, reap};
use crate::store::{MetaRead, MetaStore};
use dfs_common::op::Operation;

/// Records that hold or reach content; none of them may go in a repair.
fn content(fixture: &Fixture) -> BTreeSet<Bytes> {
    let keys = records(fixture).into_iter().map(|(key, _)| key);
    keys.filter(|key| matches!(key[0], b'e' | b'x' | b'c' | b'i'))
        .collect()
}

#[track_caller]
fn edit(fixture: &Fixture, ino: Ino, change: impl FnOnce(&mut Inode)) {
    let mut txn = Txn::new(&fixture.store);
    let mut inode = Inode::get(&txn, ino).unwrap();
    change(&mut inode);
    inode.put(&mut txn);
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
}

#[test]
fn every_lost_record_that_others_tell_comes_back_and_no_content_goes() {
    let tables = b"dltoqfm";
    for index in 0..records(&populated()).len() {
        let mut fixture = populated();
        let (key, _) = records(&fixture)[index].clone();
        if matches!(key[0], b's' | b'm') {
            continue;
        }
        change(&fixture, &key, None);
        let before = content(&fixture);
        let found = check(&fixture.store).unwrap();
        assert!(!found.is_clean(), "{key:?}");
        let left = fixture.repair();
        let directory = [Ino::ROOT, populated().ino(Ino::ROOT, "above")]
            .map(keys::inode)
            .contains(&key);
        if tables.contains(&key[0]) || directory {
            assert!(left.is_clean(), "{key:?} left {left:#?}");
        }
        let after = content(&fixture);
        assert!(
            before.is_subset(&after),
            "{key:?} took {:?}",
            before.difference(&after)
        );
    }
}

#[test]
fn doubled_records_take_no_content_along() {
    for index in 0..records(&populated()).len() {
        let mut fixture = populated();
        let (key, value) = records(&fixture)[index].clone();
        let mut other = key.to_vec();
        *other.last_mut().unwrap() ^= 0x55;
        let other = Bytes::from(other);
        if matches!(key[0], b's' | b'm') || fixture.store.get(&other).unwrap().is_some() {
            continue;
        }
        change(&fixture, &other, Some(value));
        let before = content(&fixture);
        let left = fixture.repair();
        if b"dlo".contains(&key[0]) {
            assert!(left.is_clean(), "{other:?} left {left:#?}");
        }
        assert!(before.is_subset(&content(&fixture)), "{other:?}");
    }
}

#[test]
fn wrong_numbers_are_counted_anew() {
    let mut fixture = populated();
    let above = fixture.ino(Ino::ROOT, "above");
    let inner = fixture.ino(above, "inner");
    let file = fixture.ino(Ino::ROOT, "f");
    let link = fixture.ino(above, "l");
    edit(&fixture, above, |inode| {
        inode.attr.nlink += 3;
        inode.attr.size = 99;
        inode.xattr_list_bytes = 5;
    });
    edit(&fixture, inner, |inode| inode.parent = Ino(77));
    edit(&fixture, link, |inode| inode.attr.size += 1);
    edit(&fixture, file, |inode| {
        inode.attr.nlink = 1;
        inode.attr.allocated_bytes += 7;
        inode.inline_bytes = 0;
        inode.xattr_value_bytes += 1;
    });
    let mut txn = Txn::new(&fixture.store);
    let mut totals = counters::get(&txn).unwrap();
    (totals.inodes, totals.chunks, totals.content_bytes) = (1, 1 << 40, 0);
    totals.numbers_below = 4;
    counters::put(&mut txn, &totals);
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    assert!(check(&fixture.store).unwrap().problem_count >= 10);
    let left = fixture.repair();
    assert!(left.is_clean(), "{left:#?}");
    assert_eq!(fixture.attr(file).nlink, 2);
    // What is made now takes nobody's number.
    fixture.file(above, "new");
    fixture.assert_clean();
}

#[test]
fn what_has_no_name_is_found_in_lost_and_found() {
    let mut fixture = populated();
    let above = fixture.ino(Ino::ROOT, "above");
    let file = fixture.ino(Ino::ROOT, "f");
    let name = |text: &str| Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap();
    for (parent, text) in [(Ino::ROOT, "above"), (Ino::ROOT, "f"), (above, "g")] {
        let entry = dentry::find(&fixture.store, parent, &name(text))
            .unwrap()
            .unwrap();
        change(&fixture, &keys::dentry(parent, &name(text)), None);
        change(&fixture, &keys::cursor(parent, entry.cursor), None);
    }
    let content = read::read_extents(&fixture.store, file, 0, 1 << 20, 100, |chunk| {
        fixture.key.sign(
            fixture.session,
            chunk,
            dfs_common::capability::ChunkAccess::Read,
            1,
        )
    });
    let left = fixture.repair();
    assert!(left.is_clean(), "{left:#?}");
    let lost = fixture.ino(Ino::ROOT, LOST_AND_FOUND);
    assert_eq!(fixture.attr(lost).mode, 0o700);
    assert_eq!(fixture.ino(lost, &format!("#{file}")), file);
    assert_eq!(fixture.ino(lost, &format!("#{above}")), above);
    assert_eq!(
        fixture.ino(above, "inner"),
        fixture.ino(fixture.ino(lost, &format!("#{above}")), "inner")
    );
    assert_eq!(fixture.attr(file).nlink, 1);
    let now = read::read_extents(&fixture.store, file, 0, 1 << 20, 100, |chunk| {
        fixture.key.sign(
            fixture.session,
            chunk,
            dfs_common::capability::ChunkAccess::Read,
            1,
        )
    });
    assert_eq!(now.unwrap().extents, content.unwrap().extents);
}

#[test]
fn inode_without_name_links_and_holder_goes_the_way_of_removed_ones() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.grant(1)[0];
    let brought = vec![received(chunk, 40, &[1, 2])];
    fixture
        .commit(commit(file, vec![in_chunk(0, 40, chunk, 0)], brought))
        .unwrap();
    fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
    change(&fixture, &keys::orphan(file), None);
    assert!(fixture.repair().is_clean());
    let marks = fixture
        .store
        .scan(&keys::replaced_inodes().0, &keys::replaced_inodes().1, 9)
        .unwrap();
    assert_eq!(marks.len(), 1);
    // The session that has it open becomes its holder when the time is over.
    assert_eq!(
        orphans::holders(&fixture.store, file).unwrap(),
        [orphans::NAMESPACE]
    );
}

#[test]
fn freed_chunk_that_is_referred_to_is_taken_back_before_it_is_deleted() {
    let mut fixture = populated();
    let (key, value) = records(&fixture)
        .into_iter()
        .find(|(key, _)| key[0] == b'c')
        .unwrap();
    let id = keys::parse_chunk(&key).unwrap();
    let record = Chunk::decode(value.clone()).unwrap();
    for with_record in [true, false] {
        use prost::Message;
        let freed = dfs_proto::v1::StoredFreedChunk {
            freed: Some(Default::default()),
            chunk: Some(dfs_proto::v1::StoredChunk::decode(value.clone()).unwrap()),
        };
        change(
            &fixture,
            &keys::freed_chunk(id),
            Some(Bytes::from(freed.encode_to_vec())),
        );
        if !with_record {
            change(&fixture, &key, None);
        }
        let left = fixture.repair();
        assert!(left.is_clean(), "{left:#?}");
        assert_eq!(Chunk::find(&fixture.store, id).unwrap().unwrap(), record);
        assert_eq!(fixture.store.get(&keys::freed_chunk(id)).unwrap(), None);
    }
}

#[test]
fn live_map_is_not_left_to_the_reaper() {
    let mut fixture = populated();
    let file = fixture.ino(Ino::ROOT, "f");
    let map = Inode::get(&fixture.store, file).unwrap().map();
    let record = records(&fixture)
        .into_iter()
        .find(|(key, _)| key[0] == b'w')
        .unwrap()
        .1;
    change(&fixture, &keys::reap(map), Some(record));
    assert!(fixture.repair().is_clean());
    let mut txn = Txn::new(&fixture.store);
    while reap::step(&mut txn, fixture.now(), 100).unwrap() {}
    assert_ne!(fixture.attr(file).allocated_bytes, 0);
}

#[test]
fn mark_without_orphan_lets_nothing_go() {
    let mut fixture = populated();
    let file = fixture.ino(Ino::ROOT, "f");
    change(&fixture, &keys::replaced(1, file), Some(Bytes::new()));
    let mut txn = Txn::new(&fixture.store);
    orphans::reap_replaced(&mut txn, fixture.now(), &fixture.opens, 100).unwrap();
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    assert_eq!(fixture.ino(Ino::ROOT, "f"), file);
    fixture.assert_clean();
    change(&fixture, &keys::replaced(u64::MAX, file), Some(Bytes::new()));
    assert!(fixture.repair().is_clean());
}

#[test]
fn what_changed_since_it_was_seen_is_left_alone() {
    let mut fixture = populated();
    let above = fixture.ino(Ino::ROOT, "above");
    let file = fixture.ino(Ino::ROOT, "f");
    edit(&fixture, above, |inode| inode.attr.size = 99);
    edit(&fixture, file, |inode| inode.attr.allocated_bytes += 7);
    let found = check(&fixture.store).unwrap();
    assert_eq!(found.repairs.len(), 2);
    fixture.file(above, "new");
    fixture.truncate(file, 3).unwrap();
    let before: Vec<_> = records(&fixture);
    for repair in &found.repairs {
        let ctx_store = fixture.store.snapshot().unwrap();
        let mut txn = Txn::new(&*ctx_store);
        let Repair::Inode {
            ino,
            stamp,
            field,
            said,
            counted,
        } = repair
        else {
            panic!("{repair:?}");
        };
        assert!(!set_field(&mut txn, *ino, stamp, *field, (*said, *counted)).unwrap());
        assert!(txn.is_empty());
    }
    assert_eq!(before, records(&fixture));
    assert!(fixture.repair().is_clean());
}

#[test]
fn nothing_is_repaired_beside_a_record_that_cannot_be_read() {
    let fixture = populated();
    let file = fixture.ino(Ino::ROOT, "f");
    change(
        &fixture,
        &keys::inode(file),
        Some(Bytes::from_static(b"\xff\xff")),
    );
    let report = check(&fixture.store).unwrap();
    assert_eq!((report.unreadable, report.repairs.len()), (1, 0));
    assert!(report.problems.iter().any(|text| text.contains("cannot be read")));
    // A repair from before would not take its names either.
    let name = Name::new(Bytes::from_static(b"f")).unwrap();
    let entry = dentry::find(&fixture.store, Ino::ROOT, &name).unwrap().unwrap();
    let mut txn = Txn::new(&fixture.store);
    assert!(!repair_entry(&mut txn, Ino::ROOT, &name, &entry, &EntryFault::Dangling).unwrap());
}

#[test]
fn totals_that_are_missing_or_cannot_be_read_are_counted_anew() {
    for value in [None, Some(Bytes::from_static(b"\xff\xff"))] {
        let mut fixture = populated();
        let before = counters::get(&fixture.store).unwrap();
        change(&fixture, &keys::counters(), value);
        let report = check(&fixture.store).unwrap();
        assert_eq!((report.problem_count, report.unreadable), (1, 0), "{report:#?}");
        // Nothing that is counted changes meanwhile.
        let mkdir = Operation::Mkdir {
            parent: Ino::ROOT,
            name: Name::new(Bytes::from_static(b"refused")).unwrap(),
            mode: 0o755,
        };
        let (refused, _) = fixture.try_apply(&Caller::root(), &mkdir);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
        let left = fixture.repair();
        assert!(left.is_clean(), "{left:#?}");
        let after = counters::get(&fixture.store).unwrap();
        assert!(after.numbers_below > before.numbers_below + (1 << 20));
        assert_eq!(
            after,
            Counters {
                numbers_below: after.numbers_below,
                ..before
            }
        );
        // One that came back by itself stays.
        let repair = report.repairs[0].clone();
        assert!(matches!(repair, Repair::Totals { said: None, .. }));
        assert!(!fixture.apply_repair(&repair).unwrap());
        fixture.file(Ino::ROOT, "new");
        fixture.assert_clean();
    }
}
