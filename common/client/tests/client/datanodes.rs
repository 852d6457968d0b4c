//! Datanodes that are down, full, damaged or slow.

use crate::rig::*;
use dfs_common::attr::SetAttr;
use dfs_common::{ErrorKind, Ino};
use dfs_testkit::faults::Fault;
use dfs_testkit::twin::TwinOptions;
use std::time::Duration;

#[tokio::test]
async fn one_node_down_reads_and_writes_go_on() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(500_000, 1);
    put(&client, handle, 0, &data).await;
    client.fsync(handle).await.unwrap();
    // Unreachable, and the cluster state does not say so yet.
    rig.cluster.chunks.node(1).set_down(true);
    assert!(saved(&rig, ino).await == data);
    let more = pattern(300_000, 2);
    put(&client, handle, 500_000, &more).await;
    client.fsync(handle).await.unwrap();
    let whole = [data, more].concat();
    assert!(saved(&rig, ino).await == whole);
    for chunk in rig.cluster.metadata.chunks_in_use() {
        assert!(rig.cluster.chunks.replicas(chunk) >= 2);
    }
    // The degraded chunks are read from who has them, also by a client that asks the returned node first.
    rig.cluster.chunks.node(1).set_down(false);
    assert!(saved(&rig, ino).await == whole);
}

#[tokio::test]
async fn below_the_floor_writers_wait_and_resume_by_themselves() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.cluster.metadata.set_node_down(0, true);
    rig.cluster.metadata.set_node_down(1, true);
    put(&client, handle, 0, &pattern(300_000, 1)).await;
    let sync = tokio::spawn({
        let client = client.clone();
        async move { client.fsync(handle).await }
    });
    until("it waits", || !client.waiting().is_empty()).await;
    assert!(!sync.is_finished());
    assert_eq!(client.read(handle, 0, 10).await.unwrap(), pattern(10, 1));
    rig.cluster.metadata.set_node_down(1, false);
    sync.await.unwrap().unwrap();
    assert!(saved(&rig, ino).await == pattern(300_000, 1));
}

#[tokio::test]
async fn below_the_floor_without_the_coordinator_knowing_writers_wait_too() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.cluster.chunks.node(0).set_down(true);
    rig.cluster.chunks.node(2).set_down(true);
    put(&client, handle, 0, &pattern(100_000, 1)).await;
    let sync = tokio::spawn({
        let client = client.clone();
        async move { client.fsync(handle).await }
    });
    until("it waits", || {
        client
            .waiting()
            .iter()
            .any(|line| line.contains("replicas of at least 2"))
    })
    .await;
    assert!(!sync.is_finished());
    rig.cluster.chunks.node(0).set_down(false);
    sync.await.unwrap().unwrap();
    assert!(saved(&rig, ino).await == pattern(100_000, 1));
}

#[tokio::test]
async fn reader_waits_while_every_replica_is_away() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(500_000, 1)).await;
    client.fsync(handle).await.unwrap();
    (0..3).for_each(|index| rig.cluster.chunks.node(index).set_down(true));
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let read = tokio::spawn({
        let other = other.clone();
        async move { get(&other, reader).await }
    });
    until("it waits", || {
        other
            .waiting()
            .iter()
            .any(|line| line.contains("reading of inode"))
    })
    .await;
    assert!(!read.is_finished());
    rig.cluster.chunks.node(2).set_down(false);
    assert!(read.await.unwrap().unwrap() == pattern(500_000, 1));
}

#[tokio::test]
async fn damaged_or_missing_replica_is_passed_over() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(500_000, 1)).await;
    client.fsync(handle).await.unwrap();
    for chunk in rig.cluster.metadata.chunks_in_use() {
        rig.cluster.chunks.node(0).damage(chunk);
    }
    rig.cluster.chunks.node(1).wipe();
    assert!(saved(&rig, ino).await == pattern(500_000, 1));
    for chunk in rig.cluster.metadata.chunks_in_use() {
        rig.cluster.chunks.node(2).damage(chunk);
    }
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let error = get(&other, reader).await.unwrap_err();
    assert_eq!(error.errno(), ErrorKind::Io.errno(), "{error}");
    rig.cluster.chunks.node(0).wipe();
    rig.cluster.chunks.node(2).wipe();
    let error = get(&other, reader).await.unwrap_err();
    assert_eq!(
        error.errno(),
        ErrorKind::Io.errno(),
        "a file that exists is never reported as missing: {error}"
    );
}

#[tokio::test]
async fn streams_that_break_are_continued_from_another_replica() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 4 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(9_000_000, 1)).await;
    client.fsync(handle).await.unwrap();
    rig.chunk_faults.replace(|attempt| match attempt.before % 2 {
        0 => Fault::CutStream,
        _ => Fault::None,
    });
    assert!(saved(&rig, ino).await == pattern(9_000_000, 1));
    assert!(rig.chunk_faults.faults() > 0);
}

#[tokio::test]
async fn full_cluster_is_told_and_room_made_by_truncating_is_used() {
    let rig = Rig::with(TwinOptions {
        node_bytes: 1 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let other = open(&client, ino, WRITE).await;
    let mut offset = 0;
    let error = loop {
        match client
            .write(&root(), handle, offset, &pattern(200_000, offset))
            .await
        {
            Ok(written) => offset += u64::from(written),
            Err(error) => break error,
        }
        if let Err(error) = client.fsync(handle).await {
            break error;
        }
        assert!(offset < 10_000_000, "the cluster is never full");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(client.fsync(other).await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(
        client.write(&root(), handle, 0, b"x").await.unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    // What was saved before is still there.
    assert!(client.read(handle, 0, 200_000).await.unwrap() == pattern(200_000, 0));
    let set = SetAttr {
        size: Some(100_000),
        ..SetAttr::default()
    };
    client.setattr(&root(), ino, set, Some(handle)).await.unwrap();
    assert!(get(&client, handle).await.unwrap() == pattern(200_000, 0)[..100_000]);
    client.release(handle).await;
    client.release(other).await;
    until("it is forgotten", || rig.cluster.metadata.open_files() == 0).await;
    assert!(saved(&rig, ino).await == pattern(200_000, 0)[..100_000]);
}

#[tokio::test]
async fn shutdown_misses_nothing_of_a_removed_file_that_could_not_be_saved() {
    let rig = Rig::with(TwinOptions {
        node_bytes: 100_000,
        ..TwinOptions::default()
    });
    for removed in [true, false] {
        let client = rig.client().await;
        let (_, handle) = make(&client, "file", WRITE).await;
        put(&client, handle, 0, &pattern(300_000, 1)).await;
        assert_eq!(client.fsync(handle).await.unwrap_err().kind(), ErrorKind::NoSpace);
        if removed {
            client.unlink(&root(), Ino::ROOT, &name("file")).await.unwrap();
        }
        client.release(handle).await;
        let ended = client.shutdown(Duration::from_secs(10)).await;
        assert_eq!(
            ended.err().map(|error| error.kind()),
            (!removed).then_some(ErrorKind::NoSpace)
        );
    }
}

#[tokio::test]
async fn unsaved_memory_is_bounded_and_writers_wait_for_it() {
    let rig = Rig::new();
    let client = rig.client_with(|config| config.dirty_bytes_max = 1 << 20).await;
    (0..3).for_each(|index| rig.cluster.metadata.set_node_down(index, true));
    let (ino, handle) = make(&client, "file", WRITE).await;
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            for i in 0..40u64 {
                put(&client, handle, i * 100_000, &pattern(100_000, i * 100_000)).await;
            }
        }
    });
    let mut size = 0;
    // It comes to rest within the budget.
    let rest = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = client.getattr(ino).await.unwrap().attr.size;
            if now == size && now > 0 {
                break;
            }
            size = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rest)
        .await
        .expect("the writer comes to rest");
    assert!(size <= 1 << 20 && !writer.is_finished(), "{size} unsaved bytes");
    (0..3).for_each(|index| rig.cluster.metadata.set_node_down(index, false));
    writer.await.unwrap();
    client.fsync(handle).await.unwrap();
    assert!(saved(&rig, ino).await == pattern(4_000_000, 0));
}

#[tokio::test]
async fn random_reads_fetch_little_and_repeated_ones_nothing() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 8 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(16 << 20, 1);
    put(&client, handle, 0, &data).await;
    client.fsync(handle).await.unwrap();
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let before = rig.chunk_faults.calls("read_chunk");
    for _ in 0..2 {
        for i in 0..20u64 {
            let offset = (i * 7_654_321 + 1_000_000) % (16 << 20);
            let read = other.read(reader, offset, 4096).await.unwrap();
            assert!(read == data[offset as usize..][..read.len()]);
        }
        let calls = rig.chunk_faults.calls("read_chunk") - before;
        assert!(calls <= 25, "{calls} calls for 20 reads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_read_is_fetched_ahead_in_few_calls() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 8 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(64 << 20, 1);
    for (i, piece) in data.chunks(1 << 20).enumerate() {
        put(&client, handle, (i as u64) << 20, piece).await;
    }
    client.fsync(handle).await.unwrap();
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let before = rig.chunk_faults.calls("read_chunk");
    let mut offset = 0;
    while offset < data.len() {
        let read = other.read(reader, offset as u64, 128 << 10).await.unwrap();
        assert!(read == data[offset..offset + read.len()]);
        offset += read.len();
    }
    let calls = rig.chunk_faults.calls("read_chunk") - before;
    assert!(calls < 80, "{calls} calls for 512 reads");
}
