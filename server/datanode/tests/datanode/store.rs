//! The local store in good days: what is written is read, once and for ever.

use crate::support::*;
use bytes::Bytes;
use dfs_common::piece::Piece;
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult};
use dfs_datanode::store::{ChunkStore, Durable, HashSource, LocalStore};
use futures::{FutureExt, StreamExt};

#[tokio::test]
async fn stored_chunk_is_read_whole_and_in_every_kind_of_range() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    for (sequence, length) in [(1, 1), (2, 65_536), (3, 65_537), (4, 3 * 262_144 + 777)] {
        let bytes = content(length, sequence);
        let description = describe(chunk(sequence), &bytes);
        // Pieces of odd size, so that frames and pieces do not meet.
        let disk = store
            .write(description.clone(), stream(&bytes, 50_001))
            .await
            .unwrap();
        assert_eq!(disk, DiskIncarnation(11));
        assert_eq!(store.stat(chunk(sequence)).await.unwrap(), description);
        let end = length as u64;
        let ranges = [
            (0, end),
            (0, 1),
            (end - 1, 1),
            (end / 3, end / 2),
            (65_535.min(end - 1), 2.min(end - 65_535.min(end - 1))),
            (end, 0),
            (end / 2, 0),
            (end - end / 7, end / 7),
        ];
        for (offset, length) in ranges {
            let read = store.read(chunk(sequence), offset, length).await.unwrap();
            let read = collect(read).await.unwrap();
            assert!(
                read == bytes[offset as usize..(offset + length) as usize],
                "chunk of {end}, {length} bytes from {offset}"
            );
        }
        for (offset, length) in [(0, end + 1), (end, 1), (end + 1, 0), (u64::MAX, 2)] {
            let error = store.read(chunk(sequence), offset, length).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{length} bytes from {offset}");
        }
    }
    let load = store.load().await.unwrap();
    assert_eq!(
        (load.chunks, load.used_bytes),
        (4, 1 + 65_536 + 65_537 + 3 * 262_144 + 777)
    );
    assert!(load.writable && load.capacity_bytes > load.available_bytes);
}

#[tokio::test]
async fn missing_chunk_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let error = store.read(chunk(1), 0, 1).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        store.stat(chunk(1)).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    store.delete(chunk(1)).await.unwrap();
}

#[tokio::test]
async fn same_bytes_again_are_accepted_and_other_bytes_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let (bytes, other) = (content(300_000, 1), content(300_000, 2));
    for _ in 0..3 {
        store
            .write(describe(chunk(1), &bytes), stream(&bytes, 65_536))
            .await
            .unwrap();
    }
    for different in [&other[..], &bytes[..299_999]] {
        let error = store
            .write(describe(chunk(1), different), stream(different, 65_536))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ChunkConflict);
    }
    // The description of what is there, but not its bytes.
    let error = store
        .write(describe(chunk(1), &bytes), stream(&other, 65_536))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let read = store.read(chunk(1), 0, 300_000).await.unwrap();
    assert!(collect(read).await.unwrap() == bytes);
    assert_eq!(store.load().await.unwrap().chunks, 1);
    assert_eq!(files(&dir.path().join("tmp")), Vec::<std::path::PathBuf>::new());
}

/// Stores `bytes` as chunk 1 without a hash that is known beforehand, or told behind the content.
async fn store_unknown(store: &LocalStore, bytes: &[u8], told: Option<[u8; 32]>) -> FsResult<Durable> {
    let hash = match told {
        None => HashSource::Here {
            expected: None,
            found: None,
        },
        Some(sha256) => HashSource::Told(async move { Ok(sha256) }.boxed()),
    };
    let label = describe(chunk(1), bytes).label();
    store.store(label, stream(bytes, 65_536), hash).await
}

#[tokio::test]
async fn bytes_decide_whether_a_chunk_is_the_same_when_its_hash_is_not_known_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let (bytes, other) = (content(700_000, 1), content(700_000, 2));
    let right = describe(chunk(1), &bytes);
    for told in [None, None, Some(right.sha256)] {
        let durable = store_unknown(&store, &bytes, told).await.unwrap();
        assert_eq!(durable.sha256, right.sha256);
        assert_eq!(store.stat(chunk(1)).await.unwrap(), right);
    }
    let other_hash = describe(chunk(1), &other).sha256;
    for (different, told) in [
        (&other[..], None),
        (&other[..], Some(other_hash)),
        (&bytes[..699_999], None),
    ] {
        let error = store_unknown(&store, different, told).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ChunkConflict);
    }
    let read = store.read(chunk(1), 0, 700_000).await.unwrap();
    assert!(collect(read).await.unwrap() == bytes);
    assert_eq!(store.load().await.unwrap().chunks, 1);
    assert!(files(&dir.path().join("tmp")).is_empty());
}

#[tokio::test]
async fn chunk_that_is_deleted_while_it_is_sent_again_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open_store(dir.path()));
    let bytes = content(2 << 20, 1);
    store_unknown(&store, &bytes, None).await.unwrap();
    let (told, hash) = tokio::sync::oneshot::channel();
    let deleting = store.clone();
    let hash = HashSource::Told(
        async move {
            // The content was taken, and compared with what was there.
            deleting.delete(chunk(1)).await?;
            Ok(hash.await.unwrap())
        }
        .boxed(),
    );
    let described = describe(chunk(1), &bytes);
    told.send(described.sha256).unwrap();
    let again = store.store(described.label(), stream(&bytes, 65_536), hash).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Unavailable);
    store_unknown(&store, &bytes, None).await.unwrap();
    assert_eq!(store.stat(chunk(1)).await.unwrap(), described);
}

#[tokio::test]
async fn content_whose_hash_is_not_told_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let bytes = content(700_000, 1);
    let untold = HashSource::Told(async { Err(FsError::from(ErrorKind::Unauthenticated)) }.boxed());
    let label = describe(chunk(1), &bytes).label();
    let error = store
        .store(label, stream(&bytes, 65_536), untold)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    until("cleaning up", || files(&dir.path().join("tmp")).is_empty()).await;
    assert_eq!(store.load().await.unwrap().chunks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_at_once_one_content_wins_and_all_hear_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open_store(dir.path()));
    for sequence in 0..20 {
        let contents = [content(600_000, 1), content(600_000, 2)];
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                let (store, bytes) = (store.clone(), contents[writer % 2].clone());
                tokio::spawn(async move {
                    store
                        .write(describe(chunk(sequence), &bytes), stream(&bytes, 65_536))
                        .await
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for writer in writers {
            outcomes.push(writer.await.unwrap());
        }
        let read = store.read(chunk(sequence), 0, 600_000).await.unwrap();
        let read = collect(read).await.unwrap();
        let winner = usize::from(read == contents[1]);
        assert!(read == contents[winner], "the content of one writer");
        for (writer, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(_) => assert_eq!(writer % 2, winner, "an acknowledged write is what is read"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ChunkConflict);
                    assert_ne!(writer % 2, winner);
                }
            }
        }
    }
    assert_eq!(store.load().await.unwrap().chunks, 20);
}

#[tokio::test]
async fn content_that_is_not_as_described_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let bytes = content(700_000, 1);
    let mut damaged = bytes.clone();
    damaged[650_000] ^= 1;
    let longer = content(700_001, 1);
    for wrong in [&damaged[..], &bytes[..699_999], &longer, &[]] {
        let error = store
            .write(describe(chunk(1), &bytes), stream(wrong, 65_536))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let failing = stream(&bytes[..600_000], 65_536)
        .chain(futures::stream::iter([Err(FsError::from(
            ErrorKind::Interrupted,
        ))]))
        .boxed();
    let error = store
        .write(describe(chunk(1), &bytes), failing)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let tmp = dir.path().join("tmp");
    until("cleaning up", || files(&tmp).is_empty()).await;
    assert!(files(&dir.path().join("chunks")).is_empty());
    assert_eq!(store.load().await.unwrap().chunks, 0);
}

#[tokio::test]
async fn write_whose_caller_left_leaves_nothing_and_its_place_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(open_store(dir.path()));
    let bytes = content(2 << 20, 1);
    // More than may write at once, so that a place that is lost is noticed.
    for _ in 0..2 * SETTINGS.writes_max {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let writing = tokio::spawn({
            let (store, description) = (store.clone(), describe(chunk(1), &bytes));
            async move {
                let content = tokio_stream::wrappers::ReceiverStream::new(receiver).boxed();
                store.write(description, content).await
            }
        });
        for piece in bytes.chunks(256 << 10).take(5) {
            let piece = Piece::new(Bytes::copy_from_slice(piece));
            sender.send(Ok(piece)).await.unwrap();
        }
        writing.abort();
        assert!(writing.await.unwrap_err().is_cancelled());
    }
    let tmp = dir.path().join("tmp");
    until("cleaning up", || files(&tmp).is_empty()).await;
    assert!(files(&dir.path().join("chunks")).is_empty());
    store
        .write(describe(chunk(1), &bytes), stream(&bytes, 65_536))
        .await
        .unwrap();
}

#[tokio::test]
async fn deleted_chunk_is_gone_and_may_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let (bytes, other) = (content(1000, 1), content(2000, 2));
    store
        .write(describe(chunk(1), &bytes), stream(&bytes, 65_536))
        .await
        .unwrap();
    collect(store.read(chunk(1), 0, 1000).await.unwrap())
        .await
        .unwrap();
    store.delete(chunk(1)).await.unwrap();
    store.delete(chunk(1)).await.unwrap();
    let error = store.read(chunk(1), 0, 1000).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let load = store.load().await.unwrap();
    assert_eq!((load.chunks, load.used_bytes), (0, 0));
    assert!(files(&dir.path().join("chunks")).is_empty());
    store
        .write(describe(chunk(1), &other), stream(&other, 65_536))
        .await
        .unwrap();
    let read = store.read(chunk(1), 0, 2000).await.unwrap();
    assert!(collect(read).await.unwrap() == other);
}

#[tokio::test]
async fn listing_goes_through_everything_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    for sequence in 0..25 {
        let bytes = content(10 + sequence as usize, sequence);
        store
            .write(describe(chunk(sequence), &bytes), stream(&bytes, 65_536))
            .await
            .unwrap();
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(after, 10).await.unwrap();
        listed.extend(page.iter().map(|stored| (stored.chunk, stored.length)));
        if page.len() < 10 {
            break;
        }
        after = Some(page[9].chunk);
    }
    let expected: Vec<_> = (0..25).map(|sequence| (chunk(sequence), 10 + sequence)).collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn closed_store_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    store.close().await;
    let bytes = content(10, 1);
    let error = store
        .write(describe(chunk(1), &bytes), stream(&bytes, 10))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
