//! Commits: extents are spliced, chunks need receipts, what is not in order is refused whole.

use super::kit::{Kit, commit_of, inline, of_chunk, text_of, user};
use crate::conformance::{refused, refused_above_limit};
use dfs_common::attr::SetAttr;
use dfs_common::capability::ChunkAccess;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData};
use dfs_common::op::{CommitWrite, OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, NodeId, Timestamp, limits};
use std::collections::BTreeSet;

pub(super) async fn inline_extents_are_spliced(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let before = session.getattr(ino).await.unwrap();
    let attr = session.put(ino, 0, b"0123456789").await.unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (10, 10));
    assert_eq!(
        attr.mtime,
        Timestamp {
            secs: 1_700_000_000,
            nanos: 123_456_789
        },
        "the writer's time"
    );
    assert!(attr.ctime > before.ctime && attr.map_version != before.map_version);
    let mut expected = b"0123456789".to_vec();
    // Inside, at both ends, over several at once, behind the end.
    for (offset, text) in [
        (3, "abc"),
        (0, "x"),
        (9, "yz"),
        (4, "ABCDE"),
        (0, "<>"),
        (11, "!"),
        (1, "........"),
    ] {
        let attr = session.put(ino, offset, text.as_bytes()).await.unwrap();
        let end = offset as usize + text.len();
        expected.resize(expected.len().max(end), b'.');
        expected[offset as usize..end].copy_from_slice(text.as_bytes());
        let page = session.extents(ino, 0, u64::MAX).await.unwrap();
        assert_eq!(text_of(&page).as_bytes(), expected, "after {text} at {offset}");
        assert_eq!((page.size, page.map_version), (attr.size, attr.map_version));
        assert_eq!(page.covered_to, u64::MAX);
    }
    // Several extents in one commit, and only what overlaps a range is described.
    let extents = vec![inline(0, b"aa"), inline(5, b"bb"), inline(100, b"cc")];
    session.commit(commit_of(ino, extents)).await.unwrap();
    let page = session.extents(ino, 101, 1).await.unwrap();
    assert!(
        page.extents.iter().all(|resolved| resolved.extent.offset >= 100),
        "{page:?}"
    );
    assert_eq!(page.extents.len(), 1);
    assert!(session.extents(ino, 50, 20).await.unwrap().extents.is_empty());
    // A commit without extents takes the time over.
    let mtime = Timestamp { secs: 5, nanos: 6 };
    let (attr, _) = session
        .commit(CommitWrite {
            mtime,
            ..commit_of(ino, Vec::new())
        })
        .await
        .unwrap();
    assert_eq!((attr.mtime, attr.size), (mtime, 102));
}

pub(super) async fn holes_are_not_described_and_truncation_is_final(kit: Kit) {
    let Kit { session, .. } = &kit;
    let root = Caller::root();
    let ino = kit.file("f").await;
    session.put(ino, 5, b"abcdef").await.unwrap();
    session.truncate(&root, ino, 8).await.unwrap();
    let attr = session.truncate(&root, ino, 14).await.unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (14, 3));
    assert_eq!(
        text_of(&session.extents(ino, 0, 100).await.unwrap()),
        ".....abc......"
    );
    session.put(ino, 13, b"z").await.unwrap();
    assert_eq!(
        text_of(&session.extents(ino, 0, 100).await.unwrap()),
        ".....abc.....z"
    );
    let opened = session.open_file(&root, ino, true, false).await.unwrap();
    assert_eq!(text_of(&opened.extents), ".....abc.....z");
    let version = opened.attr.map_version;
    session.truncate(&root, ino, 0).await.unwrap();
    let page = session.extents(ino, 0, 100).await.unwrap();
    assert!(page.extents.is_empty() && page.size == 0 && page.map_version != version);
}

pub(super) async fn appends_land_at_the_end(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let other = kit.another_session().await;
    other.open_file(&Caller::root(), ino, true, true).await.unwrap();
    let append = |extents| CommitWrite {
        append: true,
        ..commit_of(ino, extents)
    };
    let (_, at) = session.commit(append(vec![inline(0, b"one")])).await.unwrap();
    assert_eq!(at, 0);
    let (_, at) = other
        .commit(append(vec![inline(0, b"two"), inline(5, b"x")]))
        .await
        .unwrap();
    assert_eq!(at, 3);
    let (attr, at) = session.commit(append(vec![inline(0, b"three")])).await.unwrap();
    assert_eq!((at, attr.size), (9, 14));
    assert_eq!(
        text_of(&session.extents(ino, 0, 100).await.unwrap()),
        "onetwo..xthree"
    );
}

pub(super) async fn commits_need_an_open_for_writing(kit: Kit) {
    let Kit { session, dir, .. } = &kit;
    let root = Caller::root();
    let ino = kit.file("f").await;
    let other = kit.another_session().await;
    refused(other.put(ino, 0, b"x").await, ErrorKind::BadHandle);
    other.open_file(&root, ino, true, false).await.unwrap();
    refused(other.put(ino, 0, b"x").await, ErrorKind::BadHandle);
    session.release(ino).await.unwrap();
    refused(session.put(ino, 0, b"x").await, ErrorKind::BadHandle);
    assert!(session.put(*dir, 0, b"x").await.is_err());
    assert_eq!(session.getattr(ino).await.unwrap().size, 0);
}

pub(super) async fn malformed_commits_are_refused_whole(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    session.put(ino, 0, b"as it was").await.unwrap();
    let before = session.getattr(ino).await.unwrap();
    let chunk = session.chunk(100).await;
    let id = chunk.chunk;
    let wrong_length = Extent {
        length: 2,
        ..inline(0, b"x")
    };
    for (extents, kind) in [
        (vec![inline(5, b"x"), inline(0, b"y")], ErrorKind::Invalid),
        (vec![inline(0, b"xx"), inline(1, b"y")], ErrorKind::Invalid),
        (vec![inline(0, b"")], ErrorKind::Invalid),
        (vec![wrong_length], ErrorKind::Invalid),
        (vec![of_chunk(0, 101, id, 0)], ErrorKind::Invalid),
        (vec![of_chunk(0, 1, id, 100)], ErrorKind::Invalid),
        (vec![of_chunk(0, 2, id, u64::MAX)], ErrorKind::Invalid),
        (
            vec![inline(0, b"good"), of_chunk(10, 101, id, 0)],
            ErrorKind::Invalid,
        ),
        (
            vec![of_chunk(limits::FILE_BYTES_MAX - 1, 2, id, 0)],
            ErrorKind::FileTooBig,
        ),
    ] {
        let shown = format!("{extents:?}");
        let commit = CommitWrite {
            chunks: vec![chunk.clone()],
            ..commit_of(ino, extents)
        };
        println!("{shown}");
        refused_above_limit(session.commit(commit).await, kind);
    }
    assert_eq!(session.getattr(ino).await.unwrap(), before);
    // The chunk is still fresh.
    let commit = CommitWrite {
        chunks: vec![chunk],
        ..commit_of(ino, vec![of_chunk(0, 100, id, 0)])
    };
    session.commit(commit).await.unwrap();
}

pub(super) async fn inline_bytes_are_bounded(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let piece = vec![b'i'; limits::INLINE_EXTENT_BYTES_MAX];
    let too_big = vec![b'i'; limits::INLINE_EXTENT_BYTES_MAX + 1];
    refused(session.put(ino, 0, &too_big).await, ErrorKind::TooBig);
    let pieces = limits::INLINE_INODE_BYTES_MAX / piece.len() as u64;
    for i in 0..pieces {
        session.put(ino, i * piece.len() as u64, &piece).await.unwrap();
    }
    refused(
        session.put(ino, pieces * piece.len() as u64, b"x").await,
        ErrorKind::TooBig,
    );
    // What replaces inline bytes does not add to them, and chunks make room.
    session.put(ino, 10, &piece).await.unwrap();
    let chunk = session.chunk(piece.len() as u64).await;
    let extents = vec![of_chunk(0, piece.len() as u64, chunk.chunk, 0)];
    session
        .commit(CommitWrite {
            chunks: vec![chunk],
            ..commit_of(ino, extents)
        })
        .await
        .unwrap();
    session.put(ino, pieces * piece.len() as u64, b"x").await.unwrap();
}

pub(super) async fn grants_are_unique_and_signed(kit: Kit) {
    let Kit { session, .. } = &kit;
    let other = kit.another_session().await;
    let mut all = BTreeSet::new();
    for (session, count) in [(session, 1), (&other, 5), (session, limits::GRANT_CHUNKS_MAX)] {
        let chunks = session.grant_chunks(count).await.unwrap();
        assert_eq!(chunks.len(), count as usize);
        for capability in chunks {
            assert_eq!(capability.access, ChunkAccess::Write);
            assert_eq!(capability.session, session.identity().session);
            assert_eq!(capability.chunk.session(), session.identity().session);
            assert!(
                all.insert(capability.chunk),
                "{:?} was granted twice",
                capability.chunk
            );
        }
    }
    refused(session.grant_chunks(0).await, ErrorKind::Invalid);
    refused(
        session.grant_chunks(limits::GRANT_CHUNKS_MAX + 1).await,
        ErrorKind::Invalid,
    );
}

pub(super) async fn chunks_need_receipts_of_enough_members(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let good = session.chunk(1000).await;
    let floor = session.grant.replication_floor as usize;
    let extents = || vec![of_chunk(0, 1000, good.chunk, 0)];
    let commit = |chunk: CommittedChunk| {
        session.commit(CommitWrite {
            chunks: vec![chunk],
            ..commit_of(ino, extents())
        })
    };
    let with = |change: &dyn Fn(&mut CommittedChunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        chunk
    };
    let wrong = [
        with(&|chunk| chunk.receipts.clear()),
        with(&|chunk| chunk.receipts.truncate(floor - 1)),
        with(&|chunk| {
            // The same node several times counts once.
            let first = chunk.receipts[0].clone();
            chunk.receipts.truncate(floor - 1);
            chunk.receipts.push(first);
        }),
        with(&|chunk| chunk.receipts[0].node = NodeId(60_000)),
        with(&|chunk| chunk.receipts[0].sha256[0] ^= 1),
        with(&|chunk| chunk.receipts[0].length += 1),
    ];
    for chunk in wrong {
        if floor == 1 && chunk.receipts.len() == 1 && chunk.receipts[0] == good.receipts[0] {
            continue;
        }
        let shown = format!("{:?}", chunk.receipts);
        assert_eq!(
            commit(chunk).await.expect_err(&shown).kind(),
            ErrorKind::Invalid,
            "{shown}"
        );
    }
    assert_eq!(session.getattr(ino).await.unwrap().size, 0);
    let (attr, _) = commit(with(&|chunk| chunk.receipts.truncate(floor)))
        .await
        .unwrap();
    assert_eq!((attr.size, attr.allocated_bytes), (1000, 1000));
    let page = session.extents(ino, 0, 10).await.unwrap();
    let capability = page.extents[0]
        .capability
        .as_ref()
        .expect("a chunk comes with the right to read it");
    assert_eq!(
        (capability.access, capability.chunk),
        (ChunkAccess::Read, good.chunk)
    );
    assert_eq!(capability.session, session.identity().session);
}

pub(super) async fn chunks_belong_to_one_session_and_one_file(kit: Kit) {
    let Kit { session, .. } = &kit;
    let (ino, second) = (kit.file("f").await, kit.file("g").await);
    let other = kit.another_session().await;
    let foreign = other.chunk(100).await;
    let commit = |ino, extents, chunks: &[&CommittedChunk]| {
        let chunks = chunks.iter().map(|chunk| (*chunk).clone()).collect();
        session.commit(CommitWrite {
            chunks,
            ..commit_of(ino, extents)
        })
    };
    let extent = |chunk: &CommittedChunk, offset, at| vec![of_chunk(offset, 10, chunk.chunk, at)];
    refused(
        commit(ino, extent(&foreign, 0, 0), &[&foreign]).await,
        ErrorKind::Invalid,
    );
    let own = session.chunk(100).await;
    refused(commit(ino, extent(&own, 0, 0), &[]).await, ErrorKind::Invalid);
    commit(ino, extent(&own, 0, 0), &[&own]).await.unwrap();
    // Further ranges of it need no receipts; told again, they change nothing.
    commit(ino, extent(&own, 50, 90), &[]).await.unwrap();
    commit(ino, extent(&own, 60, 80), &[&own]).await.unwrap();
    let mut differing = own.clone();
    differing
        .receipts
        .iter_mut()
        .for_each(|receipt| receipt.sha256[0] ^= 1);
    refused(
        commit(ino, extent(&own, 0, 0), &[&differing]).await,
        ErrorKind::ChunkConflict,
    );
    // Another session may use it in the same file, and nowhere else.
    for ino in [ino, second] {
        other.open_file(&Caller::root(), ino, true, true).await.unwrap();
    }
    let by_other = |ino| other.commit(commit_of(ino, extent(&own, 20, 20)));
    by_other(ino).await.unwrap();
    refused(by_other(second).await, ErrorKind::Invalid);
    let never = CommittedChunk {
        chunk: dfs_common::ChunkId(own.chunk.0 + (1 << 62)),
        ..own.clone()
    };
    refused(
        commit(ino, extent(&never, 0, 0), &[&never]).await,
        ErrorKind::Invalid,
    );
}

pub(super) async fn freed_chunks_never_come_back(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let chunk = session.chunk(100).await;
    let commit = |chunks: Vec<CommittedChunk>| {
        let extents = vec![of_chunk(0, 100, chunk.chunk, 0)];
        session.commit(CommitWrite {
            chunks,
            ..commit_of(ino, extents)
        })
    };
    commit(vec![chunk.clone()]).await.unwrap();
    session.put(ino, 0, &[1; 100]).await.unwrap();
    refused(commit(Vec::new()).await, ErrorKind::NotFound);
    refused(commit(vec![chunk.clone()]).await, ErrorKind::NotFound);
    let page = session.extents(ino, 0, 100).await.unwrap();
    assert!(
        page.extents
            .iter()
            .all(|resolved| matches!(resolved.extent.data, ExtentData::Inline(_)))
    );
}

pub(super) async fn long_maps_come_in_pages(kit: Kit) {
    let Kit { session, .. } = &kit;
    let ino = kit.file("f").await;
    let count = limits::COMMIT_EXTENTS_MAX as u64;
    // Every second byte: nothing can be joined.
    let text = |i: u64| [b'a' + (i % 26) as u8];
    for part in 0..2 {
        let extents = (0..count)
            .map(|i| inline((part * count + i) * 2, &text(i)))
            .collect();
        session.commit(commit_of(ino, extents)).await.unwrap();
    }
    let (mut at, mut found, mut pages) = (0, 0, 0);
    loop {
        let page = session.extents(ino, at, u64::MAX).await.unwrap();
        assert!(page.extents.len() <= limits::EXTENTS_PAGE_MAX as usize);
        for resolved in &page.extents {
            assert_eq!(resolved.extent, inline(found * 2, &text(found % count)));
            found += 1;
        }
        pages += 1;
        if page.covered_to == u64::MAX {
            break;
        }
        assert!(page.covered_to > at, "a page describes something");
        at = page.covered_to;
    }
    assert_eq!(found, 2 * count);
    assert!(pages > 1);
}

pub(super) async fn commits_may_clear_set_id_bits(kit: Kit) {
    let Kit { session, .. } = &kit;
    let root = Caller::root();
    let ino = kit.file("f").await;
    for (mode, left) in [(0o6777, 0o777), (0o6767, 0o2767), (0o755, 0o755)] {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        session.setattr(&root, ino, set).await.unwrap();
        let commit = |clear_setid| {
            let commit = CommitWrite {
                clear_setid,
                ..commit_of(ino, vec![inline(0, b"x")])
            };
            session.apply(&root, Operation::CommitWrite(commit))
        };
        for (clear, expected) in [(false, mode), (true, left)] {
            match commit(clear).await.unwrap() {
                OpReply::Committed { attr, .. } => assert_eq!(attr.mode, expected, "{mode:o} {clear}"),
                other => panic!("not the reply of a commit: {other:?}"),
            }
        }
    }
    // Data may be committed after the writer lost the right to open the file: it is open.
    session.chmod(&root, ino, 0).await.unwrap();
    let commit = commit_of(ino, vec![inline(0, b"y")]);
    session
        .apply(&user(1001, 1001, &[]), Operation::CommitWrite(commit))
        .await
        .unwrap();
}
