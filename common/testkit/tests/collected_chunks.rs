//! A chunk that was freed and collected never comes back: its replicas are gone, so no late commit may refer to it.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_client::OpenFlags;
use dfs_common::attr::SetAttr;
use dfs_common::chunk::ChunkLabel;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData};
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::piece::Piece;
use dfs_common::service::{ContentHash, MetadataService, WriteChunk};
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{ErrorKind, Ino, Name, OpNumber, Timestamp};
use dfs_testkit::cluster::{ClusterOptions, InProcessCluster};
use futures::StreamExt;
use std::time::{Duration, Instant};

async fn apply(metadata: &dyn MetadataService, identity: Identity, number: u64, op: Operation) -> OpResult {
    let op = NumberedOp {
        number: OpNumber(number),
        caller: Caller::root(),
        op,
    };
    let batch = MutationBatch {
        ops: vec![op],
        acknowledged_below: OpNumber(number),
        stop_on_error: true,
        durable: false,
    };
    metadata.mutate(identity, batch).await?.results.remove(0)
}

/// Chunk files in the datanodes' directories.
fn chunk_files(cluster: &InProcessCluster) -> usize {
    fn count(directory: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.file_type() {
                Ok(kind) if kind.is_dir() => count(&entry.path()),
                _ => 1,
            })
            .sum()
    }
    (0..3)
        .map(|index| count(&cluster.datanode_dir(index).join("chunks")))
        .sum()
}

/// Waits for the collector; it must not go further.
async fn until_chunks_are_left(cluster: &InProcessCluster, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while chunk_files(cluster) > wanted {
        assert!(
            Instant::now() < deadline,
            "{} chunk files are left",
            chunk_files(cluster)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(chunk_files(cluster), wanted);
}

async fn collecting_at_once() -> InProcessCluster {
    InProcessCluster::start_with(ClusterOptions {
        freed_chunk_delay: Duration::ZERO,
        ..ClusterOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_commit_of_a_collected_chunk_is_refused() {
    let cluster = collecting_at_once().await;
    let metadata = cluster.metadata();
    let request = OpenSession {
        client_name: "test".into(),
        resume: None,
        opened: Vec::new(),
        unsynced: None,
        locks: Default::default(),
        leases: false,
    };
    let identity = metadata.open_session(request).await.unwrap().identity;
    let apply = |number, op| apply(&*metadata, identity, number, op);
    let create = Operation::Create {
        parent: Ino::ROOT,
        name: Name::new(&b"f"[..]).unwrap(),
        mode: 0o644,
        exclusive: true,
        read: true,
        write: true,
    };
    let ino = match apply(1, create).await.unwrap() {
        OpReply::Created { entry, .. } => entry.attr.ino,
        other => panic!("not the reply of a create: {other:?}"),
    };
    let capability = match apply(2, Operation::GrantChunks { count: 1 }).await.unwrap() {
        OpReply::Chunks(mut chunks) => chunks.remove(0),
        other => panic!("not the reply of a grant: {other:?}"),
    };
    let content = bytes::Bytes::from(vec![7; 100_000]);
    let chunk = capability.chunk;
    let write = WriteChunk {
        label: ChunkLabel {
            chunk,
            ino,
            file_offset: 0,
            length: 100_000,
            epoch: identity.epoch,
        },
        hash: ContentHash::Computed,
        capability,
        forward: (1..3).map(|index| cluster.datanode_address(index)).collect(),
        content: futures::stream::iter([Ok(Piece::new(content))]).boxed(),
    };
    let receipts = cluster.chunks(0).write_chunk(write).await.unwrap().receipts;
    assert_eq!((receipts.len(), chunk_files(&cluster)), (3, 3));
    let commit = |chunks| {
        let data = ExtentData::Chunk {
            chunk,
            chunk_offset: 0,
        };
        Operation::CommitWrite(CommitWrite {
            ino,
            extents: vec![Extent {
                offset: 0,
                length: 100_000,
                data,
            }],
            chunks,
            append: false,
            mtime: Timestamp::default(),
            clear_setid: false,
        })
    };
    let with_receipts = || {
        vec![CommittedChunk {
            chunk,
            receipts: receipts.clone(),
        }]
    };
    apply(3, commit(with_receipts())).await.unwrap();
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    let cut = Operation::Setattr {
        ino,
        set,
        by_handle: true,
    };
    apply(4, cut).await.unwrap();
    until_chunks_are_left(&cluster, 0).await;
    for (number, chunks) in [(5, with_receipts()), (6, Vec::new())] {
        let late = apply(number, commit(chunks)).await.unwrap_err();
        assert!(
            matches!(late.kind(), ErrorKind::NotFound | ErrorKind::Invalid),
            "{late}"
        );
    }
    assert_eq!(metadata.getattr(identity, ino).await.unwrap().attr.size, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_files_leave_nothing_on_the_datanodes_and_others_stay() {
    let cluster = collecting_at_once().await;
    let client = cluster.client().await;
    let root = Caller::root();
    let flags = OpenFlags {
        read: true,
        write: true,
        ..OpenFlags::default()
    };
    let name = |text: &'static str| Name::new(text.as_bytes()).unwrap();
    let kept = vec![5; 700_000];
    for text in ["kept", "removed", "removed later"] {
        let made = client
            .create(&root, Ino::ROOT, &name(text), 0o644, true, flags)
            .await
            .unwrap();
        client.write(&root, made.handle, 0, &kept).await.unwrap();
        client.flush(made.handle).await.unwrap();
        client.release(made.handle).await;
    }
    // Another client opens one of them and reads nothing yet.
    let reader = cluster.client().await;
    let ino = reader
        .lookup(&root, Ino::ROOT, &name("kept"))
        .await
        .unwrap()
        .attr
        .ino;
    let handle = reader.open(&root, ino, flags).await.unwrap().handle;
    let each = chunk_files(&cluster) / 3;
    assert!(each > 0);
    client.unlink(&root, Ino::ROOT, &name("removed")).await.unwrap();
    until_chunks_are_left(&cluster, 2 * each).await;
    client.unlink(&root, Ino::ROOT, &name("kept")).await.unwrap();
    client
        .unlink(&root, Ino::ROOT, &name("removed later"))
        .await
        .unwrap();
    until_chunks_are_left(&cluster, each).await;
    assert!(
        reader.read(handle, 0, 700_000).await.unwrap() == kept,
        "it is open"
    );
    reader.release(handle).await;
    until_chunks_are_left(&cluster, 0).await;
    for client in [client, reader] {
        client.shutdown(Duration::from_secs(20)).await.unwrap();
    }
}
