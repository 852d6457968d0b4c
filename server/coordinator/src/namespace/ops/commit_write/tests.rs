use super::*;
use crate::namespace::chunks::GRANTS_UNTIL_LAPSE;
use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, kind, received};
use crate::namespace::{keys, read};
use crate::store::{MetaRead, MetaStore};
use dfs_common::{SessionId, Timestamp};

fn forget(fixture: &Fixture, chunk: ChunkId) {
    let mut txn = Txn::new(&fixture.store);
    chunks::forget_freed(&mut txn, chunk).unwrap();
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
}

#[test]
fn committed_bytes_are_the_map_s_with_size_times_and_totals() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.chunk();
    let before = fixture.attr(file);
    let extents = vec![inline(5, b"abc"), in_chunk(100, 50, chunk, 10)];
    let committed = fixture.commit(commit(file, extents.clone(), vec![received(chunk, 60, &[3, 1])]));
    let attr = fixture.attr(file);
    assert_eq!(
        committed,
        Ok(OpReply::Committed {
            attr: attr.clone(),
            append_offset: 0
        })
    );
    assert_eq!((attr.size, attr.allocated_bytes), (150, 53));
    assert_eq!(
        (attr.mtime, attr.ctime),
        (Timestamp { secs: 5000, nanos: 5 }, fixture.now())
    );
    assert!(attr.map_version > before.map_version);
    let page = fixture.extents(file);
    assert_eq!((page.size, page.covered_to), (150, u64::MAX));
    let found: Vec<Extent> = page
        .extents
        .iter()
        .map(|resolved| resolved.extent.clone())
        .collect();
    assert_eq!(found, extents);
    assert!(page.extents[0].capability.is_none());
    assert_eq!(page.extents[1].capability.as_ref().map(|c| c.chunk), Some(chunk));
    assert_eq!(
        read::replica_sets(&fixture.store).unwrap(),
        [(vec![NodeId(1), NodeId(3)], 1)]
    );
    let counters = read::statfs_counters(&fixture.store).unwrap();
    assert_eq!(
        (counters.content_bytes, counters.inline_bytes, counters.chunks),
        (53, 3, 1)
    );
    fixture.assert_clean();
}

#[test]
fn pages_of_a_map_say_how_far_they_reach() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let extents = (0..10).map(|n| inline(n * 10, b"12345")).collect();
    fixture.commit(commit(file, extents, vec![])).unwrap();
    let page = |offset, length, limit| {
        let sign = |_| unreachable!("there is no chunk");
        let page = read::read_extents(&fixture.store, file, offset, length, limit, sign).unwrap();
        let offsets: Vec<u64> = page.extents.iter().map(|r| r.extent.offset).collect();
        (offsets, page.covered_to)
    };
    assert_eq!(page(0, u64::MAX, 3), (vec![0, 10, 20], 30));
    assert_eq!(page(24, 10, 100), (vec![20, 30], 40));
    assert_eq!(page(25, 1, 100), (vec![], 30));
    assert_eq!(page(90, 100, 100), (vec![90], u64::MAX));
    assert_eq!(page(95, 100, 100), (vec![], u64::MAX));
}

#[test]
fn append_lands_at_the_end_that_is_found_when_applied() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let append = |bytes: &[u8]| CommitWrite {
        append: true,
        ..commit(file, vec![inline(0, bytes)], vec![])
    };
    for (text, expected) in [(&b"one"[..], 0), (b"two", 3)] {
        let Ok(OpReply::Committed { append_offset, .. }) = fixture.commit(append(text)) else {
            panic!("not committed");
        };
        assert_eq!(append_offset, expected);
    }
    fixture.truncate(file, 100).unwrap();
    fixture.commit(append(b"three")).unwrap();
    assert_eq!(fixture.runs(file), [(0, 3), (3, 3), (100, 5)]);
    fixture.truncate(file, FILE_BYTES_MAX - 2).unwrap();
    assert_eq!(kind(&fixture.commit(append(b"abc"))), ErrorKind::FileTooBig);
    assert!(fixture.commit(append(b"ab")).is_ok());
    fixture.assert_clean();
}

#[test]
fn only_the_session_that_has_it_open_for_writing_commits() {
    let mut fixture = Fixture::default();
    let file = fixture.file(Ino::ROOT, "f");
    let write = || commit(file, vec![inline(0, b"x")], vec![]);
    assert_eq!(kind(&fixture.commit(write())), ErrorKind::BadHandle);
    fixture.open(file, false);
    assert_eq!(kind(&fixture.commit(write())), ErrorKind::BadHandle);
    fixture.open(file, true);
    fixture.session = SessionId(8);
    assert_eq!(kind(&fixture.commit(write())), ErrorKind::BadHandle);
    let gone = commit(Ino(99), vec![], vec![]);
    assert_eq!(kind(&fixture.commit(gone)), ErrorKind::Stale);
}

#[test]
fn malformed_extents_are_refused() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.chunk();
    let long = Extent {
        length: 5,
        ..inline(0, b"x")
    };
    let empty = Extent {
        length: 0,
        ..inline(0, b"")
    };
    for (extents, error) in [
        (vec![inline(5, b"ab"), inline(6, b"c")], ErrorKind::Invalid),
        (vec![inline(5, b"ab"), inline(0, b"c")], ErrorKind::Invalid),
        (vec![long], ErrorKind::Invalid),
        (vec![empty], ErrorKind::Invalid),
        (vec![inline(FILE_BYTES_MAX, b"c")], ErrorKind::FileTooBig),
        (vec![inline(u64::MAX, b"c")], ErrorKind::FileTooBig),
        (vec![in_chunk(0, 11, chunk, 0)], ErrorKind::Invalid),
        (vec![in_chunk(0, 1, chunk, 10)], ErrorKind::Invalid),
        (vec![in_chunk(0, 1, chunk, u64::MAX)], ErrorKind::Invalid),
        (
            vec![inline(0, &[0; INLINE_EXTENT_BYTES_MAX + 1])],
            ErrorKind::TooBig,
        ),
    ] {
        let uses_chunk = matches!(extents[0].data, ExtentData::Chunk { .. });
        let chunks = match uses_chunk {
            true => vec![received(chunk, 10, &[1, 2])],
            false => vec![],
        };
        assert_eq!(
            kind(&fixture.commit(commit(file, extents.clone(), chunks))),
            error,
            "{extents:?}"
        );
    }
    let many = (0..=COMMIT_EXTENTS_MAX as u64)
        .map(|n| inline(n * 2, b"x"))
        .collect();
    assert_eq!(
        kind(&fixture.commit(commit(file, many, vec![]))),
        ErrorKind::Invalid
    );
}

#[test]
fn receipts_must_prove_enough_equal_replicas_in_the_group() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.chunk();
    let mut other_length = received(chunk, 10, &[1, 2]);
    other_length.receipts[1].length = 11;
    let mut other_hash = received(chunk, 10, &[1, 2]);
    other_hash.receipts[1].sha256 = [0xff; 32];
    for chunks in [
        vec![received(chunk, 10, &[1])],
        vec![received(chunk, 10, &[1, 1])],
        vec![received(chunk, 10, &[1, 4])],
        vec![received(chunk, 10, &[])],
        vec![received(chunk, CHUNK_BYTES_MAX + 1, &[1, 2])],
        vec![other_length],
        vec![other_hash],
        vec![],
        vec![received(chunk, 10, &[1, 2]), received(chunk, 10, &[1, 2])],
    ] {
        let write = commit(file, vec![in_chunk(0, 10, chunk, 0)], chunks.clone());
        assert_eq!(kind(&fixture.commit(write)), ErrorKind::Invalid, "{chunks:?}");
    }
    let unused = commit(file, vec![], vec![received(chunk, 10, &[1, 2])]);
    assert_eq!(kind(&fixture.commit(unused)), ErrorKind::Invalid);
    let enough = commit(
        file,
        vec![in_chunk(0, 10, chunk, 0)],
        vec![received(chunk, 10, &[1, 2])],
    );
    fixture.commit(enough).unwrap();
}

#[test]
fn foreign_and_ungranted_chunks_are_refused() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let mine = fixture.chunk();
    let write = |chunk: ChunkId| {
        let chunks = vec![received(chunk, 10, &[2, 3])];
        commit(file, vec![in_chunk(0, 10, chunk, 0)], chunks)
    };
    let ahead = ChunkId::new(mine.session(), 1, mine.group());
    assert_eq!(kind(&fixture.commit(write(ahead))), ErrorKind::Invalid);
    let foreign = ChunkId::new(SessionId(8), 0, mine.group());
    assert_eq!(kind(&fixture.commit(write(foreign))), ErrorKind::Invalid);
    fixture.commit(write(mine)).unwrap();

    // Another session: the file's own chunk it may use, that of another file not.
    fixture.session = SessionId(8);
    fixture.open(file, true);
    let other = fixture.open_file("g");
    let again = commit(file, vec![in_chunk(50, 5, mine, 5)], vec![]);
    fixture.commit(again).unwrap();
    let stolen = commit(other, vec![in_chunk(0, 5, mine, 5)], vec![]);
    assert_eq!(kind(&fixture.commit(stolen)), ErrorKind::Invalid);
    fixture.assert_clean();
}

#[test]
fn chunk_spread_over_several_commits_gathers_replicas_and_keeps_its_content() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.chunk();
    let write = |offset, committed| commit(file, vec![in_chunk(offset, 5, chunk, 0)], vec![committed]);
    fixture.commit(write(0, received(chunk, 10, &[1, 2]))).unwrap();
    fixture.commit(write(50, received(chunk, 10, &[2, 3]))).unwrap();
    let all = vec![NodeId(1), NodeId(2), NodeId(3)];
    assert_eq!(read::replica_sets(&fixture.store).unwrap(), [(all, 1)]);
    assert_eq!(
        kind(&fixture.commit(write(90, received(chunk, 11, &[1, 2])))),
        ErrorKind::ChunkConflict
    );
    fixture.assert_clean();
}

#[test]
fn freed_chunk_is_never_referred_to_again() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let chunk = fixture.chunk();
    let write = || {
        let chunks = vec![received(chunk, 10, &[1, 2])];
        commit(file, vec![in_chunk(0, 10, chunk, 0)], chunks)
    };
    fixture.commit(write()).unwrap();
    fixture.truncate(file, 0).unwrap();
    assert_eq!(kind(&fixture.commit(write())), ErrorKind::NotFound);
    let bare = commit(file, vec![in_chunk(0, 10, chunk, 0)], vec![]);
    assert_eq!(kind(&fixture.commit(bare)), ErrorKind::NotFound);
    forget(&fixture, chunk);
    assert_eq!(
        kind(&fixture.commit(write())),
        ErrorKind::NotFound,
        "its replicas are deleted: old receipts prove nothing"
    );
    let counters = read::statfs_counters(&fixture.store).unwrap();
    assert_eq!((counters.freed_chunks, counters.freed_bytes), (0, 0));
    fixture.assert_clean();
}

#[test]
fn grants_lapse_and_marks_of_spent_chunks_do_not_gather() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let mut spent = Vec::new();
    for _ in 0..5 {
        let chunk = fixture.chunk();
        let chunks = vec![received(chunk, 10, &[1, 2])];
        fixture
            .commit(commit(file, vec![in_chunk(0, 10, chunk, 0)], chunks))
            .unwrap();
        fixture.truncate(file, 0).unwrap();
        spent.push(chunk);
    }
    let late = fixture.chunk();
    for chunk in &spent[..4] {
        forget(&fixture, *chunk);
    }
    let marks = |fixture: &Fixture| {
        let (start, end) = keys::spent_chunks(fixture.session);
        fixture.store.scan(&start, &end, 100).unwrap().len()
    };
    assert_eq!(marks(&fixture), 4);
    // As after a million grants.
    let mut txn = Txn::new(&fixture.store);
    let record = dfs_proto::v1::StoredSession {
        granted_below: late.sequence() + GRANTS_UNTIL_LAPSE + 1,
        ..Default::default()
    };
    stored::put_session(&mut txn, fixture.session, &record);
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    let write = commit(
        file,
        vec![in_chunk(0, 10, late, 0)],
        vec![received(late, 10, &[1, 2])],
    );
    assert_eq!(kind(&fixture.commit(write)), ErrorKind::Invalid);
    forget(&fixture, spent[4]);
    assert_eq!(
        marks(&fixture),
        2,
        "two go for each that comes, and this one is not needed"
    );
}

#[test]
fn inline_bytes_are_bounded_per_inode_and_in_total() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let full = INLINE_EXTENT_BYTES_MAX as u64;
    let bytes = vec![7; INLINE_EXTENT_BYTES_MAX];
    for n in 0..4 {
        fixture
            .commit(commit(file, vec![inline(n * full, &bytes)], vec![]))
            .unwrap();
    }
    let more = commit(file, vec![inline(4 * full, b"x")], vec![]);
    assert_eq!(kind(&fixture.commit(more)), ErrorKind::TooBig);
    let over = commit(file, vec![inline(100, &bytes)], vec![]);
    assert!(fixture.commit(over).is_ok(), "what is written over makes room");
    fixture.assert_clean();

    let other = fixture.open_file("g");
    let mut txn = Txn::new(&fixture.store);
    let mut counters = counters::get(&txn).unwrap();
    counters.inline_bytes = INLINE_TOTAL_BYTES_MAX - 2;
    counters::put(&mut txn, &counters);
    let batch = txn.into_batch();
    fixture.store.commit(batch).unwrap();
    let write =
        |bytes: &[u8]| dfs_common::op::Operation::CommitWrite(commit(other, vec![inline(0, bytes)], vec![]));
    let root = dfs_common::session::Caller::root();
    assert!(fixture.try_apply(&root, &write(b"12")).0.is_ok());
    assert_eq!(
        kind(&fixture.try_apply(&root, &write(b"123")).0),
        ErrorKind::TooBig
    );
}

#[test]
fn set_id_bits_go_when_the_writer_says_so() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    for (before, clear_setid, after) in [
        (0o6755, true, 0o755),
        (0o6745, true, 0o2745),
        (0o6755, false, 0o6755),
    ] {
        fixture.chmod(file, before).unwrap();
        let write = CommitWrite {
            clear_setid,
            ..commit(file, vec![inline(0, b"x")], vec![])
        };
        fixture.commit(write).unwrap();
        assert_eq!(fixture.attr(file).mode, after);
    }
}

#[test]
fn commit_without_extents_moves_the_time_only() {
    let mut fixture = Fixture::default();
    let file = fixture.open_file("f");
    let before = fixture.attr(file);
    fixture.commit(commit(file, vec![], vec![])).unwrap();
    let attr = fixture.attr(file);
    assert_eq!(attr.mtime, Timestamp { secs: 5000, nanos: 5 });
    assert_eq!((attr.size, attr.map_version), (before.size, before.map_version));
}
