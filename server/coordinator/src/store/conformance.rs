//! What every [`MetaStore`] must do. One suite, run on each implementation.

use super::{MetaRead, MetaStore, WriteBatch};
use bytes::Bytes;

/// A batch that puts text pairs.
pub fn put(pairs: &[(&str, &str)]) -> WriteBatch {
    WriteBatch {
        changes: pairs
            .iter()
            .map(|(key, value)| {
                (
                    Bytes::copy_from_slice(key.as_bytes()),
                    Some(Bytes::copy_from_slice(value.as_bytes())),
                )
            })
            .collect(),
    }
}

fn change(key: &[u8], value: Option<&[u8]>) -> (Bytes, Option<Bytes>) {
    (Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice))
}

#[track_caller]
fn keys(read: &dyn MetaRead, start: &[u8], end: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let pairs = read.scan(start, end, limit).expect("scan");
    pairs.into_iter().map(|(key, _)| key.to_vec()).collect()
}

#[track_caller]
fn assert_value(read: &dyn MetaRead, key: &[u8], value: Option<&[u8]>) {
    assert_eq!(read.get(key).expect("get").as_deref(), value, "key {key:?}");
}

/// Runs the suite on an empty store.
///
/// # Panics
/// If the store breaks the contract.
pub fn run(store: &dyn MetaStore) {
    scans_are_ordered_and_limited(store);
    later_change_of_a_key_wins(store);
    empty_values_and_high_bytes_are_kept(store);
    unsynced_batches_are_read_at_once(store);
    snapshot_does_not_see_later_commits(store);
    big_batch_is_whole(store);
    concurrent_readers_see_whole_batches(store);
    compacting_changes_nothing(store);
}

fn scans_are_ordered_and_limited(store: &dyn MetaStore) {
    store
        .commit(put(&[("s/b", "2"), ("s/a", "1"), ("s/d", "4"), ("s/c", "3")]))
        .expect("commit");
    assert_eq!(keys(store, b"s/", b"s0", 10), [b"s/a", b"s/b", b"s/c", b"s/d"]);
    assert_eq!(keys(store, b"s/", b"s0", 2), [b"s/a", b"s/b"]);
    assert_eq!(
        keys(store, b"s/b", b"s/d", 10),
        [b"s/b", b"s/c"],
        "start is inclusive, end is not"
    );
    assert!(keys(store, b"s/", b"s0", 0).is_empty());
    assert!(
        keys(store, b"s0", b"s/", 10).is_empty(),
        "an inverted range is empty"
    );
    assert!(keys(store, b"s/b", b"s/b", 10).is_empty());
    assert!(keys(store, b"nothing", b"nothinh", 10).is_empty());
    assert_value(store, b"s/c", Some(b"3"));
    assert_value(store, b"s/", None);
}

fn unsynced_batches_are_read_at_once(store: &dyn MetaStore) {
    store
        .commit_unsynced(put(&[("u/a", "1"), ("u/b", "1")]))
        .expect("commit");
    let before = store.snapshot().expect("snapshot");
    store.commit_unsynced(put(&[("u/a", "2")])).expect("commit");
    assert_value(store, b"u/a", Some(b"2"));
    assert_value(&*before, b"u/a", Some(b"1"));
    store.persist().expect("persist");
    store.persist().expect("persist with nothing to do");
    store
        .commit_unsynced(WriteBatch::default())
        .expect("an empty batch");
    store.commit(put(&[("u/b", "3")])).expect("commit");
    assert_eq!(keys(store, b"u/", b"u0", 10), [b"u/a", b"u/b"]);
    assert_value(store, b"u/b", Some(b"3"));
}

fn later_change_of_a_key_wins(store: &dyn MetaStore) {
    let batch = WriteBatch {
        changes: vec![
            change(b"w/put", Some(b"1")),
            change(b"w/put", Some(b"2")),
            change(b"w/gone", Some(b"1")),
            change(b"w/gone", None),
            change(b"w/back", None),
            change(b"w/back", Some(b"3")),
        ],
    };
    store.commit(batch).expect("commit");
    assert_value(store, b"w/put", Some(b"2"));
    assert_value(store, b"w/gone", None);
    assert_value(store, b"w/back", Some(b"3"));
    let batch = WriteBatch {
        changes: vec![change(b"w/put", None), change(b"w/never", None)],
    };
    store.commit(batch).expect("commit");
    assert_value(store, b"w/put", None);
    assert_eq!(keys(store, b"w/", b"w0", 10), [b"w/back"]);
    store
        .commit(WriteBatch::default())
        .expect("an empty batch is fine");
}

fn empty_values_and_high_bytes_are_kept(store: &dyn MetaStore) {
    let batch = WriteBatch {
        changes: vec![
            change(b"e", Some(b"")),
            change(b"h\xff", Some(b"1")),
            change(b"h\xff\xff", Some(b"2")),
            change(b"h\xff\x00", Some(b"\xff\x00")),
            change(b"h\xfe\xff", Some(b"0")),
        ],
    };
    store.commit(batch).expect("commit");
    assert_value(store, b"e", Some(b""));
    assert_eq!(
        keys(store, b"h", b"i", 10),
        [&b"h\xfe\xff"[..], b"h\xff", b"h\xff\x00", b"h\xff\xff"]
    );
    assert_value(store, b"h\xff\x00", Some(b"\xff\x00"));
}

fn snapshot_does_not_see_later_commits(store: &dyn MetaStore) {
    store
        .commit(put(&[("n/keep", "1"), ("n/change", "1"), ("n/delete", "1")]))
        .expect("commit");
    let before = store.snapshot().expect("snapshot");
    let batch = WriteBatch {
        changes: vec![
            change(b"n/change", Some(b"2")),
            change(b"n/delete", None),
            change(b"n/add", Some(b"2")),
        ],
    };
    store.commit(batch).expect("commit");
    let between = store.snapshot().expect("snapshot");
    store
        .commit(put(&[("n/change", "3"), ("n/delete", "3")]))
        .expect("commit");

    assert_eq!(
        keys(&*before, b"n/", b"n0", 10),
        [&b"n/change"[..], b"n/delete", b"n/keep"]
    );
    assert_eq!(keys(&*before, b"n/", b"n0", 2), [&b"n/change"[..], b"n/delete"]);
    assert_value(&*before, b"n/change", Some(b"1"));
    assert_value(&*before, b"n/delete", Some(b"1"));
    assert_value(&*before, b"n/add", None);
    assert_eq!(
        keys(&*between, b"n/", b"n0", 10),
        [&b"n/add"[..], b"n/change", b"n/keep"]
    );
    assert_value(&*between, b"n/change", Some(b"2"));
    assert_eq!(keys(store, b"n/", b"n0", 10).len(), 4);
    assert_value(store, b"n/change", Some(b"3"));
    drop(before);
    assert_value(&*between, b"n/delete", None);
}

fn big_batch_is_whole(store: &dyn MetaStore) {
    const COUNT: u32 = 20_000;
    let value = vec![7u8; 200];
    let changes = (0..COUNT)
        .rev()
        .map(|number| change(&[b"B", &number.to_be_bytes()[..]].concat(), Some(&value)))
        .collect();
    store.commit(WriteBatch { changes }).expect("commit");
    let mut start = b"B".to_vec();
    let mut seen = 0u32;
    loop {
        let page = store.scan(&start, b"C", 777).expect("scan");
        let Some((last, _)) = page.last() else { break };
        start = [&last[..], b"\0"].concat();
        for (key, got) in &page {
            assert_eq!(key[1..], seen.to_be_bytes());
            assert_eq!(got[..], value);
            seen += 1;
        }
    }
    assert_eq!(seen, COUNT);
}

/// What is there stays, for snapshots too.
fn compacting_changes_nothing(store: &dyn MetaStore) {
    let noise = |round: u32| -> Bytes {
        (0..1000u32)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ round).to_be_bytes())
            .collect()
    };
    for round in 0..300u32 {
        let changes = (0..4u8).map(|key| (Bytes::from(vec![b'C', key]), Some(noise(round + u32::from(key)))));
        let changes = changes.collect();
        store.commit(WriteBatch { changes }).expect("a commit");
    }
    let old = store.snapshot().expect("a snapshot");
    store.commit(put(&[("C\0", "new")])).expect("a commit");
    if let Err(error) = store.compact() {
        assert_eq!(error.kind(), dfs_common::ErrorKind::NotSupported);
    }
    assert_value(store, b"C\0", Some(b"new"));
    assert_value(store, &[b'C', 3], Some(&noise(302)));
    assert_value(&*old, b"C\0", Some(&noise(299)));
    drop(old);
    store.commit(put(&[("C\0", "newer")])).expect("a commit");
    assert_value(store, b"C\0", Some(b"newer"));
}

fn concurrent_readers_see_whole_batches(store: &dyn MetaStore) {
    const ROUNDS: u32 = 50;
    let all: Vec<String> = (0..64).map(|number| format!("c/{number:02}")).collect();
    let write = |round: u32| {
        let value = round.to_string();
        let pairs: Vec<(&str, &str)> = all.iter().map(|key| (key.as_str(), value.as_str())).collect();
        store.commit(put(&pairs)).expect("commit");
    };
    write(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let page = store.scan(b"c/", b"c0", 100).expect("scan");
                    assert_eq!(page.len(), all.len());
                    assert!(
                        page.iter().all(|(_, value)| *value == page[0].1),
                        "half a batch was visible"
                    );
                }
            });
        }
        for round in 1..=ROUNDS {
            write(round);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_value(store, b"c/63", Some(ROUNDS.to_string().as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreKind, open};

    fn check(kind: StoreKind) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(kind, dir.path(), 8 << 20).unwrap();
        assert_eq!(store.kind(), kind.as_str());
        run(&*store);
    }

    fn reopen_keeps_everything(kind: StoreKind) {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..3u32 {
            let store = open(kind, dir.path(), 8 << 20).unwrap();
            for earlier in 0..round {
                assert_value(&*store, format!("r/{earlier}").as_bytes(), Some(b"x"));
            }
            assert_value(&*store, b"r/gone", None);
            assert_eq!(keys(&*store, b"r/", b"r0", 10).len(), round as usize);
            store
                .commit(put(&[(&format!("r/{round}"), "x"), ("r/gone", "x")]))
                .unwrap();
            let changes = vec![change(b"r/gone", None)];
            store.commit(WriteBatch { changes }).unwrap();
        }
    }

    #[test]
    fn memory_conforms() {
        check(StoreKind::Memory);
    }
    #[test]
    fn fjall_conforms() {
        check(StoreKind::Fjall);
    }
    #[test]
    fn sled_conforms() {
        check(StoreKind::Sled);
    }
    #[test]
    fn fjall_keeps_everything_over_a_reopen() {
        reopen_keeps_everything(StoreKind::Fjall);
    }
    #[test]
    fn sled_keeps_everything_over_a_reopen() {
        reopen_keeps_everything(StoreKind::Sled);
    }
}
