//! What holds whatever the transport: content arrives whole or not at all, in bounded memory, and nobody waits for a peer that went
//! away.

use crate::kit::*;
use crate::loopback::{PATIENCE, until};
use dfs_common::capability::ChunkAccess;
use dfs_common::limits::{CHUNK_BYTES_MAX, CHUNK_CHANNELS_MAX, WIRE_FRAME_BYTES};
use dfs_common::piece::{Piece, pieces};
use dfs_common::service::{ChunkConnector, ContentHash, WriteChunk};
use dfs_common::{ErrorKind, FsError};
use dfs_proto::socket::LocalSockets;
use dfs_proto::{ChunkChannels, Transport};
use futures::stream;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Each of these tests over each transport.
macro_rules! over_both {
    ($($test:ident),+ $(,)?) => {
        mod grpc {
            $(#[tokio::test]
            async fn $test() {
                super::$test(dfs_proto::Transport::Grpc).await;
            })+
        }
        mod framed {
            $(#[tokio::test]
            async fn $test() {
                super::$test(dfs_proto::Transport::Framed).await;
            })+
        }
    };
}

over_both! {
    largest_chunk_is_written_and_read_whole,
    odd_sizes_and_ranges_are_exact,
    transfers_at_once_do_not_mix,
    content_that_does_not_fit_its_description_is_not_sent_as_whole,
    hash_follows_its_content_or_the_upload_is_not_whole,
    writer_that_goes_away_fails_the_upload,
    upload_that_brings_nothing_is_given_up_by_the_server,
    server_that_does_not_take_the_content_is_given_up_in_bounded_memory,
    slow_source_is_not_taken_for_a_dead_server,
    reader_that_does_not_read_stops_the_server_in_bounded_memory,
    reader_that_goes_away_ends_the_servers_stream,
    error_in_the_middle_of_a_read_keeps_its_kind_and_ends_it,
    thousands_of_refused_writes_and_dropped_reads_do_not_cost_the_connection,
    connector_shares_bounds_and_revives_its_channels,
}

async fn largest_chunk_is_written_and_read_whole(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let content = noise(CHUNK_BYTES_MAX as usize);
    let mut request = write(1, &content, WIRE_FRAME_BYTES);
    request.forward = vec!["peer-1:7402".to_string(), "[::1]:7403".to_string()];
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, describe(1, &content).sha256);
    assert_eq!(written.receipts[0].length, CHUNK_BYTES_MAX);
    let failed: Vec<_> = written
        .failures
        .iter()
        .map(|(address, _)| address.clone())
        .collect();
    assert_eq!(failed, *store.forwards.lock().unwrap());
    assert_eq!(failed, ["peer-1:7402", "[::1]:7403"]);
    assert_eq!(written.failures[0].1.kind(), ErrorKind::Unavailable);
    assert!(store.content(1).unwrap() == content);
    assert!(read(&*client, 1, 0, CHUNK_BYTES_MAX).await.unwrap() == content);
    let described = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap();
    assert_eq!(described, describe(1, &content));
    client.delete_chunk(permit(1, ChunkAccess::Delete)).await.unwrap();
    let gone = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap_err();
    assert_eq!(gone, not_found());
    drop(client);
    server.stop().await;
}

async fn odd_sizes_and_ranges_are_exact(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    for (id, size) in [
        1,
        2,
        1000,
        WIRE_FRAME_BYTES - 1,
        WIRE_FRAME_BYTES,
        WIRE_FRAME_BYTES + 1,
        1 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        let content = noise(size);
        for step in [size, 1 << 19, 65_536, 999_983] {
            client
                .write_chunk(write(id as u64, &content, step))
                .await
                .unwrap();
            assert!(
                store.content(id as u64).unwrap() == content,
                "{size} in steps of {step}"
            );
            store.step.store(step, Ordering::SeqCst);
            assert!(read(&*client, id as u64, 0, size as u64).await.unwrap() == content);
        }
        let (from, to) = (size / 3, size - size / 4);
        let range = read(&*client, id as u64, from as u64, (to - from) as u64)
            .await
            .unwrap();
        assert!(range == content[from..to]);
    }
    assert_eq!(read(&*client, 3, 5, 0).await.unwrap(), b"");
    let behind = read(&*client, 2, 500, 501).await.unwrap_err();
    assert_eq!(
        (behind.kind(), behind.message()),
        (ErrorKind::Invalid, "behind the chunk's end")
    );
    let far = read(&*client, 2, u64::MAX, 2).await.unwrap_err();
    assert_eq!(far.kind(), ErrorKind::Invalid);
    let missing = read(&*client, 99, 0, 1).await.unwrap_err();
    assert_eq!(missing, not_found());
    drop(client);
    server.stop().await;
}

async fn transfers_at_once_do_not_mix(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let transfers = (0..16_u64).map(|id| {
        let client = client.clone();
        async move {
            let content = noise(1_000_000 + id as usize * 77_777).slice(id as usize..);
            client.write_chunk(write(id, &content, 100_000)).await.unwrap();
            assert!(read(&*client, id, 0, content.len() as u64).await.unwrap() == content);
        }
    });
    let tasks: Vec<_> = transfers.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
    drop(client);
    server.stop().await;
}

async fn content_that_does_not_fit_its_description_is_not_sent_as_whole(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let content = noise(300_000);
    let failing = FsError::new(ErrorKind::Io, "the source broke");
    let broken = pieces(stream::iter([Ok(content.slice(..200_000)), Err(failing.clone())]).boxed());
    let cases = [
        ("an error", broken, failing.kind()),
        (
            "too little",
            pieces_of(&content.slice(1..), 100_000),
            ErrorKind::Corrupt,
        ),
        (
            "too much",
            pieces_of(&noise(300_001), 150_001),
            ErrorKind::Corrupt,
        ),
    ];
    for (case, source, kind) in cases {
        *store.upload.lock().unwrap() = None;
        let request = WriteChunk {
            content: source,
            ..write(1, &content, 1)
        };
        let error = client.write_chunk(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        until("the service sees the upload fail", || store.upload().is_some()).await;
        assert!(store.upload().unwrap().is_err(), "{case} looked whole");
        assert!(store.content(1).is_none());
    }
    drop(client);
    server.stop().await;
}

async fn hash_follows_its_content_or_the_upload_is_not_whole(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let content = noise(300_000);
    let (end, hash) = tokio::sync::oneshot::channel();
    end.send(VOUCHED).unwrap();
    let request = WriteChunk {
        hash: ContentHash::Follows(hash),
        ..write(1, &content, WIRE_FRAME_BYTES)
    };
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, VOUCHED.sha256);
    assert_eq!(*store.voucher.lock().unwrap(), Some(VOUCHED.voucher));
    assert!(store.content(1).unwrap() == content);
    // Everything is sent but the hash.
    *store.upload.lock().unwrap() = None;
    let (end, hash) = tokio::sync::oneshot::channel();
    drop(end);
    let request = WriteChunk {
        hash: ContentHash::Follows(hash),
        ..write(2, &content, WIRE_FRAME_BYTES)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    until("the service sees the upload fail", || store.upload().is_some()).await;
    assert!(store.upload().unwrap().is_err(), "it looked whole");
    assert!(store.content(2).is_none());
    // A hash that is known travels in the header.
    let request = WriteChunk {
        hash: ContentHash::Known([3; 32]),
        ..write(3, &content, WIRE_FRAME_BYTES)
    };
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, [3; 32]);
    drop(client);
    server.stop().await;
}

async fn writer_that_goes_away_fails_the_upload(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let content = noise(2 << 20);
    let sent = Arc::new(AtomicU64::new(0));
    let counting = sent.clone();
    let source = pieces_of(&content, WIRE_FRAME_BYTES)
        .take(4)
        .inspect(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
        })
        .chain(stream::pending());
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    let upload = client.write_chunk(request);
    tokio::select! {
        _ = upload => panic!("it cannot be complete"),
        () = until("some was sent", || sent.load(Ordering::SeqCst) == 4) => {}
    }
    until("the service sees the upload fail", || store.upload().is_some()).await;
    assert!(store.upload().unwrap().is_err());
    drop(client);
    server.stop().await;
}

async fn upload_that_brings_nothing_is_given_up_by_the_server(transport: Transport) {
    let store = Store::shared();
    let server = serve_at(ANY, &store, Duration::from_millis(100)).await;
    let content = noise(1 << 20);
    let client = client(transport, server.address, PATIENCE);
    let request = WriteChunk {
        content: pieces_of(&content, WIRE_FRAME_BYTES)
            .take(2)
            .chain(stream::pending())
            .boxed(),
        ..write(1, &content, 1)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(store.upload().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    drop(client);
    server.stop().await;
}

async fn server_that_does_not_take_the_content_is_given_up_in_bounded_memory(transport: Transport) {
    let store = Store::shared();
    store.deaf.store(true, Ordering::SeqCst);
    let server = serve(&store).await;
    let client = client(transport, server.address, Duration::from_millis(300));
    let content = noise(CHUNK_BYTES_MAX as usize);
    let taken = Arc::new(AtomicU64::new(0));
    let counting = taken.clone();
    let source = pieces_of(&content, WIRE_FRAME_BYTES).inspect(move |piece| {
        let bytes = piece.as_ref().map_or(0, Piece::len) as u64;
        counting.fetch_add(bytes, Ordering::SeqCst);
    });
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken > 0 && taken <= AHEAD_BYTES_MAX, "{taken} bytes were taken");
    drop(client);
    server.stop().await;
}

async fn slow_source_is_not_taken_for_a_dead_server(transport: Transport) {
    let store = Store::shared();
    let server = serve(&store).await;
    let deadline = Duration::from_millis(60);
    let client = client(transport, server.address, deadline);
    let content = noise(500_000);
    let source = pieces_of(&content, 250_000).then(move |piece| async move {
        // Longer than any deadline of the call: the time itself is what is tried here.
        tokio::time::sleep(5 * deadline).await;
        piece
    });
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    client.write_chunk(request).await.unwrap();
    assert!(store.content(1).unwrap() == content);
    drop(client);
    server.stop().await;
}

async fn reader_that_does_not_read_stops_the_server_in_bounded_memory(transport: Transport) {
    let store = Store::shared();
    store.put(1, noise(CHUNK_BYTES_MAX as usize));
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let mut pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, CHUNK_BYTES_MAX)
        .await
        .unwrap();
    let served = || store.served_bytes.load(Ordering::SeqCst);
    let mut seen = u64::MAX;
    // Until nothing moved for a whole interval.
    while served() != seen || seen == 0 {
        seen = served();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(seen <= AHEAD_BYTES_MAX, "{seen} bytes were sent ahead");
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        received += piece.unwrap().len() as u64;
    }
    assert_eq!(received, CHUNK_BYTES_MAX);
    drop((pieces, client));
    server.stop().await;
}

async fn reader_that_goes_away_ends_the_servers_stream(transport: Transport) {
    let store = Store::shared();
    store.put(1, noise(CHUNK_BYTES_MAX as usize));
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let mut pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, CHUNK_BYTES_MAX)
        .await
        .unwrap();
    pieces.next().await.unwrap().unwrap();
    assert!(!store.reader_left.load(Ordering::SeqCst));
    drop(pieces);
    until("the service's stream is dropped", || {
        store.reader_left.load(Ordering::SeqCst)
    })
    .await;
    assert!(store.served_bytes.load(Ordering::SeqCst) < CHUNK_BYTES_MAX);
    drop(client);
    server.stop().await;
}

async fn error_in_the_middle_of_a_read_keeps_its_kind_and_ends_it(transport: Transport) {
    let store = Store::shared();
    store.put(1, noise(1 << 20));
    store.fail_read_after.store(2, Ordering::SeqCst);
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, 1 << 20)
        .await
        .unwrap();
    let mut pieces: Vec<_> = pieces.collect().await;
    let error = pieces.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Corrupt, "frame 7 does not verify")
    );
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(Result::is_ok));
    drop(client);
    server.stop().await;
}

async fn thousands_of_refused_writes_and_dropped_reads_do_not_cost_the_connection(transport: Transport) {
    let store = Store::shared();
    let content = noise(1 << 20);
    store.put(1, content.clone());
    *store.refuse.lock().unwrap() = Some(FsError::new(ErrorKind::NoSpace, "the disk is full"));
    let server = serve(&store).await;
    let client = client(transport, server.address, PATIENCE);
    let refused = (0..8).map(|_| {
        let (client, content) = (client.clone(), content.clone());
        tokio::spawn(async move {
            for _ in 0..150 {
                let error = client
                    .write_chunk(write(2, &content, WIRE_FRAME_BYTES))
                    .await
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            }
        })
    });
    for task in refused.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for early in 0..2500 {
        let mut pieces = client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 1 << 20)
            .await
            .unwrap();
        if early % 2 == 0 {
            let _ = pieces.next().now_or_never();
        } else {
            pieces.next().await.unwrap().unwrap();
        }
    }
    assert!(read(&*client, 1, 0, 1 << 20).await.unwrap() == content);
    drop(client);
    server.stop().await;
}

async fn connector_shares_bounds_and_revives_its_channels(transport: Transport) {
    let store = Store::shared();
    store.put(1, noise(10));
    let server = serve(&store).await;
    let address = server.address;
    let connector = ChunkChannels::new(transport, PATIENCE, LocalSockets::On);
    let connect = |address: &str| connector.chunk_service(address);
    let service = connect(&address.to_string()).unwrap();
    assert!(Arc::ptr_eq(&service, &connect(&address.to_string()).unwrap()));
    let permit = permit(1, ChunkAccess::Read);
    service.stat_chunk(permit.clone()).await.unwrap();

    server.stop().await;
    let away = service.stat_chunk(permit.clone()).await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Unavailable);
    let server = serve_at(address, &store, PATIENCE).await;
    service.stat_chunk(permit.clone()).await.unwrap();

    assert_eq!(connect("nowhere").err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(connector.channels(), 1, "what is refused is not kept");
    for port in 1..=CHUNK_CHANNELS_MAX {
        connect(&format!("127.0.0.1:{port}")).unwrap();
    }
    assert_eq!(connector.channels(), CHUNK_CHANNELS_MAX);
    let newer = connect(&address.to_string()).unwrap();
    assert!(!Arc::ptr_eq(&service, &newer), "the oldest was forgotten");
    service
        .stat_chunk(permit.clone())
        .await
        .expect("whoever holds it may go on");
    newer.stat_chunk(permit).await.unwrap();
    connector.forget(&address.to_string());
    assert_eq!(connector.channels(), CHUNK_CHANNELS_MAX - 1);
    drop((service, newer, connector));
    server.stop().await;
}
