use super::rebuild;
use crate::namespace::check::Stage;
use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, name as test_name, received};
use crate::namespace::inode::Inode;
use crate::namespace::keys;
use crate::namespace::read;
use crate::namespace::txn::Txn;
use crate::store::{MetaRead, MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::limits::REPLACED_INODE_KEPT;
use dfs_common::op::{Operation, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file with `length` bytes that the session has open.
fn file(fixture: &mut Fixture, parent: Ino, text: &str, length: usize) -> Ino {
    let ino = fixture.file(parent, text);
    fixture.open(ino, true);
    fixture.write(ino, 0, length).unwrap();
    ino
}

fn rename(fixture: &mut Fixture, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) {
    fixture.rename_as(&Caller::root(), from, to, mode).unwrap();
}

fn unlink(fixture: &mut Fixture, parent: Ino, text: &str) {
    fixture.unlink_as(&Caller::root(), parent, text).unwrap();
}

#[test]
fn everything_above_counts_what_is_made_written_cut_and_removed() {
    let mut fixture = Fixture::default();
    let a = fixture.mkdir(Ino::ROOT, "a");
    let b = fixture.mkdir(a, "b");
    let other = fixture.mkdir(Ino::ROOT, "other");
    let f = file(&mut fixture, b, "f", 100);
    fixture.symlink(b, "l", b"target").unwrap();
    assert_eq!(fixture.usage(b), (100, 2, 0), "a link's target is not counted");
    assert_eq!(fixture.usage(a), (100, 2, 1));
    assert_eq!(fixture.usage(Ino::ROOT), (100, 2, 3));
    assert_eq!(fixture.usage(other), (0, 0, 0));
    assert_eq!(fixture.usage(f), (100, 1, 0), "of a file: itself");
    let chunk = fixture.chunk();
    let brought = vec![received(chunk, 1000, &[1, 2])];
    fixture
        .commit(commit(f, vec![in_chunk(5000, 1000, chunk, 0)], brought))
        .unwrap();
    assert_eq!(fixture.usage(a).0, 1100, "the hole is not counted");
    fixture.write(f, 50, 100).unwrap();
    assert_eq!(fixture.usage(a).0, 1150, "what is overwritten is counted once");
    fixture.truncate(f, 5100).unwrap();
    assert_eq!(fixture.usage(a).0, 250);
    fixture.truncate(f, 1 << 30).unwrap();
    assert_eq!(fixture.usage(a).0, 250);
    fixture.truncate(f, 0).unwrap();
    assert_eq!(fixture.usage(a), (0, 2, 1));
    unlink(&mut fixture, b, "l");
    unlink(&mut fixture, b, "f");
    assert_eq!(fixture.usage(Ino::ROOT), (0, 0, 3));
    fixture.rmdir_as(&Caller::root(), a, "b").unwrap();
    assert_eq!(fixture.usage(Ino::ROOT), (0, 0, 2));
    fixture.assert_clean();
}

#[test]
fn directory_that_moves_takes_its_usage_along() {
    let mut fixture = Fixture::default();
    let [a, b] = ["a", "b"].map(|text| fixture.mkdir(Ino::ROOT, text));
    let inner = fixture.mkdir(a, "inner");
    let moved = fixture.mkdir(inner, "moved");
    file(&mut fixture, moved, "f", 70);
    rename(&mut fixture, (inner, "moved"), (b, "here"), RenameMode::Replace);
    assert_eq!((fixture.usage(a), fixture.usage(b)), ((0, 0, 1), (70, 1, 1)));
    assert_eq!(fixture.usage(Ino::ROOT), (70, 1, 4));
    // What is written into it afterwards is counted on its new way up.
    file(&mut fixture, moved, "g", 7);
    assert_eq!((fixture.usage(a).0, fixture.usage(b).0), (0, 77));
    file(&mut fixture, a, "h", 5);
    rename(&mut fixture, (a, "h"), (b, "here"), RenameMode::Exchange);
    assert_eq!((fixture.usage(a), fixture.usage(b)), ((77, 2, 2), (5, 1, 0)));
    fixture.assert_clean();
}

#[test]
fn file_with_several_names_is_counted_by_its_first_one() {
    let mut fixture = Fixture::default();
    let [a, b, c] = ["a", "b", "c"].map(|text| fixture.mkdir(Ino::ROOT, text));
    let f = file(&mut fixture, a, "f", 10);
    fixture.link_as(&Caller::root(), f, b, "g").unwrap();
    fixture.link_as(&Caller::root(), f, c, "h").unwrap();
    let counts = |fixture: &Fixture| [a, b, c].map(|ino| fixture.usage(ino).0);
    assert_eq!(counts(&fixture), [10, 0, 0]);
    assert_eq!(fixture.usage(Ino::ROOT), (10, 1, 3));
    rename(&mut fixture, (b, "g"), (c, "g"), RenameMode::Replace);
    assert_eq!(counts(&fixture), [10, 0, 0]);
    unlink(&mut fixture, a, "f");
    assert_eq!(counts(&fixture), [0, 0, 10], "another name takes its place");
    fixture.write(f, 10, 5).unwrap();
    assert_eq!(counts(&fixture), [0, 0, 15]);
    rename(&mut fixture, (c, "g"), (b, "g"), RenameMode::Replace);
    rename(&mut fixture, (c, "h"), (a, "h"), RenameMode::Replace);
    assert_eq!(counts(&fixture).iter().sum::<u64>(), 15);
    fixture.assert_clean();
    unlink(&mut fixture, a, "h");
    assert_eq!(counts(&fixture), [0, 15, 0]);
    rename(&mut fixture, (b, "g"), (c, "g"), RenameMode::Replace);
    assert_eq!(counts(&fixture), [0, 0, 15]);
    fixture.assert_clean();
}

#[test]
fn inodes_without_a_name_are_in_the_totals_and_in_no_tree() {
    let mut fixture = Fixture::default();
    let a = fixture.mkdir(Ino::ROOT, "a");
    let totals = |fixture: &Fixture| {
        let totals = read::statfs_counters(&fixture.store).unwrap();
        (totals.content_bytes, totals.inodes)
    };
    let open = file(&mut fixture, a, "open", 30);
    unlink(&mut fixture, a, "open");
    assert_eq!((fixture.usage(a), totals(&fixture)), ((0, 0, 0), (30, 3)));
    fixture.write(open, 30, 10).unwrap();
    assert_eq!((fixture.usage(a), totals(&fixture)), ((0, 0, 0), (40, 3)));
    fixture.release(open);
    assert_eq!(totals(&fixture), (0, 2));
    let old = file(&mut fixture, a, "old", 50);
    file(&mut fixture, a, "new", 5);
    rename(&mut fixture, (a, "new"), (a, "old"), RenameMode::Replace);
    fixture.release(old);
    assert_eq!((fixture.usage(a), totals(&fixture)), ((5, 1, 0), (55, 4)));
    fixture.seconds += REPLACED_INODE_KEPT.as_secs() as i64 + 1;
    fixture.reap_replaced(10);
    assert_eq!((fixture.usage(a), totals(&fixture)), ((5, 1, 0), (5, 3)));
    fixture.assert_clean();
}

#[test]
fn many_extents_leave_the_tree_at_once_and_the_totals_when_they_are_reaped() {
    let mut fixture = Fixture::default();
    let a = fixture.mkdir(Ino::ROOT, "a");
    let many = fixture.file(a, "many");
    fixture.open(many, true);
    for part in 0..2 {
        let extents = (0..400).map(|n| inline((part * 400 + n) * 5, b"x")).collect();
        fixture.commit(commit(many, extents, vec![])).unwrap();
    }
    assert_eq!(fixture.usage(a).0, 800);
    unlink(&mut fixture, a, "many");
    fixture.release(many);
    let content = |fixture: &Fixture| read::statfs_counters(&fixture.store).unwrap().content_bytes;
    assert_eq!((fixture.usage(a), content(&fixture)), ((0, 0, 0), 800));
    fixture.assert_clean();
    while fixture.reap_step(100) {}
    assert_eq!(content(&fixture), 0);
}

#[test]
fn refused_operation_leaves_the_counts_alone() {
    let mut fixture = Fixture::default();
    let a = fixture.mkdir(Ino::ROOT, "a");
    file(&mut fixture, a, "f", 10);
    let mut txn = Txn::new(&fixture.store);
    let before = txn.savepoint();
    super::charge(&mut txn, a, super::Delta::bytes(5)).unwrap();
    let within = txn.savepoint();
    super::charge(&mut txn, a, super::Delta::file(7)).unwrap();
    assert_eq!(txn.usage(a).unwrap().unwrap().bytes, 22);
    txn.rollback_to(within);
    assert_eq!(txn.usage(a).unwrap().unwrap().bytes, 15);
    let stored = super::decode(txn.get(&keys::usage(a)).unwrap().unwrap()).unwrap();
    assert_eq!(stored.bytes, 15, "reads see what is not committed yet");
    let (start, end) = keys::usages();
    assert_eq!(txn.scan(&start, &end, 10).unwrap().len(), 2);
    txn.rollback_to(before);
    assert!(txn.is_empty() && txn.into_batch().changes.is_empty());
}

/// Every record that a release without usage records would not have written.
fn forget_usage(fixture: &Fixture) {
    let mut txn = Txn::new(&fixture.store);
    for (start, end) in [keys::links(), keys::inodes()] {
        for (key, value) in fixture.store.scan(&start, &end, usize::MAX).unwrap() {
            match keys::parse_inode(&key) {
                None => txn.delete(key),
                Some(_) => {
                    let mut inode = Inode::decode(value).unwrap();
                    if !inode.is_directory() {
                        inode.parent = Ino(0);
                        inode.put(&mut txn);
                    }
                }
            }
        }
    }
    let (start, end) = keys::usages();
    for (key, _) in fixture.store.scan(&start, &end, usize::MAX).unwrap() {
        txn.put_usage(keys::parse_usage(&key).unwrap(), None);
    }
    txn.delete(keys::usage_epoch());
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
}

fn populated() -> Fixture {
    let mut fixture = Fixture::default();
    let a = fixture.mkdir(Ino::ROOT, "a");
    let b = fixture.mkdir(a, "b");
    let f = file(&mut fixture, b, "f", 10);
    file(&mut fixture, a, "g", 20);
    for (parent, text) in [(a, "f2"), (Ino::ROOT, "f3"), (b, "f4")] {
        fixture.link_as(&Caller::root(), f, parent, text).unwrap();
    }
    file(&mut fixture, a, "gone", 40);
    unlink(&mut fixture, a, "gone");
    fixture.set_quota(Ino::ROOT, Some(1000), None).unwrap();
    fixture
}

#[test]
fn store_of_an_earlier_release_is_counted_once_at_its_opening() {
    let fixture = populated();
    let quota = fixture.store.get(&keys::usage(Ino::ROOT)).unwrap();
    forget_usage(&fixture);
    assert!(!crate::namespace::check::check(&fixture.store).unwrap().is_clean());
    rebuild::open(&fixture.store, 7).unwrap();
    fixture.assert_clean();
    assert_eq!(fixture.usage(Ino::ROOT), (30, 2, 2));
    assert_eq!(
        fixture.store.get(&keys::usage(Ino::ROOT)).unwrap(),
        quota,
        "with its limits"
    );
    let records = || fixture.store.scan(&[0], &[255], usize::MAX).unwrap();
    let before = records();
    rebuild::open(&fixture.store, 8).unwrap();
    let changed: Vec<_> = records()
        .into_iter()
        .filter(|pair| !before.contains(pair))
        .collect();
    assert_eq!(changed.len(), 1, "from then on only the mark is written");
}

#[test]
fn what_is_wrong_is_put_right_whatever_is_wrong_with_it() {
    let mut fixture = populated();
    let b = fixture.ino(fixture.ino(Ino::ROOT, "a"), "b");
    let mut txn = Txn::new(&fixture.store);
    let (start, end) = keys::links();
    for (key, _) in fixture.store.scan(&start, &end, 10).unwrap() {
        txn.delete(key);
    }
    let wrong = super::get(&txn, b).unwrap();
    txn.put_usage(b, Some(super::Usage { bytes: 7, ..wrong }));
    txn.put_usage(Ino(99), Some(wrong));
    txn.put(keys::quota(Ino(98)), Bytes::new());
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    let left = fixture.repair();
    assert!(left.is_clean(), "{left:#?}");
    assert_eq!(fixture.usage(b), (10, 1, 0), "its first name there is its home");
    // All records gone, or none of them right.
    forget_usage(&fixture);
    let left = fixture.repair();
    assert!(!left.has_repairs() && left.problem_count <= 1, "{left:#?}");
    let mut txn = Txn::new(&fixture.store);
    let (start, end) = keys::usages();
    let records = fixture.store.scan(&start, &end, 10).unwrap();
    for (index, (key, _)) in records.iter().enumerate() {
        let directory = keys::parse_usage(key).unwrap();
        let wrong = super::Usage {
            parent: 77 + index as u64,
            bytes: 1 << (20 * index),
            links: 5,
            ..Default::default()
        };
        txn.put_usage(directory, Some(wrong));
    }
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    let left = fixture.repair();
    assert!(left.is_clean(), "{left:#?}");
    assert_eq!(fixture.usage(Ino::ROOT), (30, 2, 2));
}

/// A file that is held below a directory that was removed, below one that was not; both, and the file.
fn with_grave() -> (Fixture, [Ino; 3]) {
    let mut fixture = Fixture::default();
    let directory = fixture.mkdir(Ino::ROOT, "d");
    let removed = fixture.mkdir(directory, "removed");
    let file = fixture.file(removed, "f");
    fixture.open(file, true);
    fixture.write(file, 0, 10).unwrap();
    fixture.unlink_as(&Caller::root(), removed, "f").unwrap();
    fixture.rmdir_as(&Caller::root(), directory, "removed").unwrap();
    fixture.assert_clean();
    (fixture, [directory, removed, file])
}

fn held(fixture: &Fixture, directory: Ino) -> Option<(u64, u64)> {
    let usage = super::find(&fixture.store, directory).unwrap()?;
    Some((usage.held_bytes, usage.held_inodes))
}

#[test]
fn what_is_held_is_put_right_whatever_is_wrong_with_it() {
    type Damage = fn(&mut super::Usage);
    let damages: [(Damage, bool); 4] = [
        (|usage| usage.held_bytes = 7, true),
        (|usage| usage.held_inodes = 5, true),
        (|usage| usage.held_inodes = 0, false),
        (|usage| usage.parent = 99, false),
    ];
    for (damage, keeps_its_place) in damages {
        let (mut fixture, [directory, removed, file]) = with_grave();
        let wrong = |txn: &mut Txn<'_>| {
            let mut usage = super::get(txn, removed)?;
            damage(&mut usage);
            txn.put_usage(removed, Some(usage));
            Ok(())
        };
        fixture.commit_txn(wrong).unwrap();
        assert!(!crate::namespace::check::check(&fixture.store).unwrap().is_clean());
        let left = fixture.repair();
        assert!(left.is_clean(), "{left:#?}");
        let place = keeps_its_place.then_some((10, 1));
        assert_eq!(held(&fixture, removed), place);
        assert_eq!(held(&fixture, directory), place.or(Some((0, 0))));
        assert_eq!(held(&fixture, Ino::ROOT), Some((10, 1)), "it counts in any case");
        fixture.write(file, 10, 5).unwrap();
        fixture.assert_clean();
        fixture.release(file);
        fixture.assert_clean();
        assert_eq!(
            (held(&fixture, removed), held(&fixture, Ino::ROOT)),
            (None, Some((0, 0)))
        );
    }
}

#[test]
fn directory_that_is_there_is_no_grave_and_its_edge_is_as_its_quota_says() {
    let damages: [fn(&mut super::Usage); 3] = [
        |usage| usage.removed = true,
        |usage| usage.closing = true,
        |usage| (usage.held_bytes, usage.held_inodes) = (3, 1),
    ];
    for damage in damages {
        let (mut fixture, [directory, ..]) = with_grave();
        let wrong = |txn: &mut Txn<'_>| {
            let mut usage = super::get(txn, directory)?;
            damage(&mut usage);
            txn.put_usage(directory, Some(usage));
            Ok(())
        };
        fixture.commit_txn(wrong).unwrap();
        assert!(!crate::namespace::check::check(&fixture.store).unwrap().is_clean());
        let left = fixture.repair();
        assert!(left.is_clean(), "{left:#?}");
        assert_eq!(held(&fixture, directory), Some((10, 1)));
    }
}

/// Some change of names and content below `directories`; most are possible. In a damaged store some are not.
fn wander(fixture: &mut Fixture, random: &mut impl FnMut(u64) -> u64, directories: &[Ino], step: usize) {
    let mut any = || directories[random(directories.len() as u64) as usize];
    let (parent, new_parent) = (any(), any());
    let mut name = || test_name(&format!("n{}", random(4)));
    let (one, two) = (name(), name());
    let found =
        |name| read::lookup(&fixture.store, &Caller::root(), parent, name).map(|entry| entry.attr.ino);
    let operation = match (step % 6, found(&one)) {
        (0, _) => Operation::Create {
            parent,
            name: one,
            mode: 0o644,
            exclusive: true,
            read: true,
            write: true,
        },
        (1, _) => Operation::Rename {
            parent,
            name: one,
            new_parent,
            new_name: two,
            mode: RenameMode::Replace,
        },
        (2, _) => Operation::Unlink { parent, name: one },
        (3, Ok(ino)) => Operation::Link {
            ino,
            parent: new_parent,
            name: two,
        },
        (4, Ok(ino)) => {
            fixture.open(ino, true);
            Operation::CommitWrite(commit(ino, vec![inline(random(50), b"some bytes")], vec![]))
        }
        _ => {
            // Directories move with what is below them.
            let index = random(directories.len() as u64 - 1) as usize + 1;
            let name = test_name(&format!("d{index}"));
            Operation::Rename {
                parent: Inode::get(&fixture.store, directories[index]).unwrap().parent,
                name: name.clone(),
                new_parent,
                new_name: name,
                mode: RenameMode::NoReplace,
            }
        }
    };
    let (_, batch) = fixture.try_apply(&Caller::root(), &operation);
    fixture.store.commit(batch).unwrap();
}

#[test]
fn sums_are_put_right_one_by_one_while_everything_changes() {
    for seed in 1..40u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut fixture = Fixture::default();
        let mut directories = vec![Ino::ROOT];
        for index in 1..8 {
            let parent = directories[random(directories.len() as u64) as usize];
            directories.push(fixture.mkdir(parent, &format!("d{index}")));
        }
        for step in 0..60 {
            wander(&mut fixture, &mut random, &directories, step);
        }
        fixture.assert_clean();
        let mut txn = Txn::new(&fixture.store);
        for directory in &directories {
            let right = super::get(&txn, *directory).unwrap();
            let mut wrong = |right: u64| match random(3) {
                0 => right,
                1 => random(20),
                _ => right + random(1000),
            };
            let usage = super::Usage {
                bytes: wrong(right.bytes),
                files: wrong(right.files),
                directories: wrong(right.directories),
                links: wrong(right.links),
                ..right
            };
            txn.put_usage(*directory, Some(usage));
        }
        let batch = txn.into_batch();
        fixture.store.commit(batch).unwrap();
        let report = crate::namespace::check::check(&fixture.store).unwrap();
        assert!(report.repairs.is_empty(), "{report:#?}");
        let mut repairs = report.repairs_of(Stage::Sums).unwrap();
        while let Some(repair) = repairs.next_portion(1).unwrap().pop() {
            for step in 0..5 {
                wander(&mut fixture, &mut random, &directories, step);
            }
            fixture.apply_repair(&repair).unwrap();
        }
        fixture.assert_clean();
    }
}

#[test]
fn what_a_release_without_counts_changed_meanwhile_is_counted_anew() {
    let mut fixture = populated();
    rebuild::open(&fixture.store, 1).unwrap();
    // A release that knows nothing of usage opened the store as 2, and wrote.
    let a = fixture.ino(Ino::ROOT, "a");
    let before: Vec<_> = [keys::usages(), keys::links()]
        .iter()
        .flat_map(|(start, end)| fixture.store.scan(start, end, usize::MAX).unwrap())
        .collect();
    unlink(&mut fixture, a, "g");
    unlink(&mut fixture, a, "f2");
    fixture.mkdir(a, "new");
    let changes = before
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    fixture.store.commit(WriteBatch { changes }).unwrap();
    assert!(!crate::namespace::check::check(&fixture.store).unwrap().is_clean());
    rebuild::open(&fixture.store, 3).unwrap();
    fixture.assert_clean();
    assert_eq!(fixture.usage(a), (0, 0, 2));
    assert_eq!(
        fixture.usage(Ino::ROOT),
        (10, 1, 3),
        "the file's first name is the root's"
    );
}

/// Fails every commit behind the first so many.
struct Breaks<'a> {
    store: &'a crate::store::memory::MemoryStore,
    left: AtomicU64,
}

impl Breaks<'_> {
    fn allowed(&self) -> FsResult<()> {
        match self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        {
            Ok(_) => Ok(()),
            Err(_) => Err(FsError::new(ErrorKind::Io, "the machine stopped")),
        }
    }
}

impl MetaRead for Breaks<'static> {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.store.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.store.scan(start, end, limit)
    }
}

impl MetaStore for Breaks<'static> {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.allowed()?;
        self.store.commit(batch)
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.allowed()?;
        self.store.commit_unsynced(batch)
    }
    fn persist(&self) -> FsResult<()> {
        self.store.persist()
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        self.store.snapshot()
    }
    fn kind(&self) -> &'static str {
        "memory"
    }
}

#[test]
fn counting_that_was_cut_off_begins_again() {
    for commits in 0.. {
        let fixture: &'static Fixture = Box::leak(Box::new(populated()));
        forget_usage(fixture);
        let store = Breaks {
            store: &fixture.store,
            left: AtomicU64::new(commits),
        };
        let whole = rebuild::open(&store, 5).is_ok();
        assert_eq!(rebuild::marked(&fixture.store).unwrap(), whole.then_some(5));
        if whole {
            assert!(commits > 3, "it takes several commits");
            break;
        }
        rebuild::open(&fixture.store, 6).unwrap();
        fixture.assert_clean();
        assert_eq!(fixture.usage(Ino::ROOT), (30, 2, 2));
    }
}
