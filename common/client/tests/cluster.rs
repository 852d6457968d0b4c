//! The client library on real servers in this process, while they are killed and come back.

#![allow(clippy::unwrap_used)] // the whole program is test code

use bytes::Bytes;
use dfs_client::{Client, FileHandle, OpenFlags};
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::name::Name;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Ino, SetAttr};
use dfs_proto::socket::LocalSockets;
use dfs_proto::{ChunkChannels, Transport};
use dfs_testkit::cluster::InProcessCluster;
use dfs_testkit::faults::{Fault, FaultPlan, FaultyMetadata};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};
const APPEND: OpenFlags = OpenFlags {
    append: true,
    ..WRITE
};
const READ: OpenFlags = OpenFlags {
    write: false,
    ..WRITE
};

fn root() -> Caller {
    Caller::root()
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

fn pattern(length: usize, salt: u64) -> Vec<u8> {
    (0..length as u64)
        .map(|i| ((i + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

async fn make(client: &Client, text: &str, flags: OpenFlags) -> (Ino, FileHandle) {
    let created = client
        .create(&root(), Ino::ROOT, &name(text), 0o644, false, flags)
        .await
        .unwrap();
    (created.entry.attr.ino, created.handle)
}

async fn put(client: &Client, handle: FileHandle, offset: u64, data: &[u8]) {
    let written = client.write(&root(), handle, offset, data).await.unwrap();
    assert_eq!(written as usize, data.len());
}

/// What a new client reads.
async fn saved(cluster: &InProcessCluster, ino: Ino) -> Bytes {
    let client = cluster.client().await;
    let handle = client.open(&root(), ino, READ).await.unwrap().handle;
    let bytes = client.read(handle, 0, u32::MAX).await.unwrap();
    client.shutdown(Duration::from_secs(5)).await.unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_goes_on_while_a_datanode_dies_and_everything_is_read_back() {
    let mut cluster = InProcessCluster::start(3).await;
    let client = cluster.client().await;
    let (ino, handle) = make(&client, "stream", WRITE).await;
    let data = pattern(12 << 20, 1);
    for (i, piece) in data.chunks(256 << 10).enumerate() {
        if i == 16 {
            cluster.kill_datanode(1).await;
        }
        put(&client, handle, (i * (256 << 10)) as u64, piece).await;
    }
    client.fsync(handle).await.unwrap();
    assert!(saved(&cluster, ino).await == data);
    // Another datanode goes too, the first comes back: every chunk has two replicas, one of which is up.
    cluster.start_datanode(1).await;
    assert!(saved(&cluster, ino).await == data);
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_that_dies_again_and_again_loses_and_repeats_nothing() {
    let mut cluster = InProcessCluster::start(3).await;
    let client = cluster.client().await;
    let done = Arc::new(AtomicU64::new(0));
    let (log, handle) = make(&client, "log", APPEND).await;
    let appender = tokio::spawn({
        let (client, done) = (client.clone(), done.clone());
        async move {
            for i in 0..300u64 {
                let record = format!("{i:06}\n").into_bytes();
                put(&client, handle, 0, &record).await;
                client.fsync(handle).await.unwrap();
                done.store(i + 1, Ordering::SeqCst);
            }
        }
    });
    let maker = tokio::spawn({
        let client = client.clone();
        async move {
            for i in 0..300u64 {
                let place = name(&format!("new {i}"));
                let made = client
                    .create(&root(), Ino::ROOT, &place, 0o600, true, WRITE)
                    .await
                    .unwrap();
                assert!(!made.existed);
                put(&client, made.handle, 0, &pattern(3000, i)).await;
                client.flush(made.handle).await.unwrap();
                client.release(made.handle).await;
                let moved = name(&format!("moved {i}"));
                client
                    .rename(
                        &root(),
                        Ino::ROOT,
                        &place,
                        Ino::ROOT,
                        &moved,
                        dfs_common::op::RenameMode::NoReplace,
                    )
                    .await
                    .unwrap();
            }
        }
    });
    for _ in 0..3 {
        let before = done.load(Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < before + 40 && !appender.is_finished() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        cluster.restart_coordinator().await;
    }
    appender.await.unwrap();
    maker.await.unwrap();
    let expected: String = (0..300).map(|i| format!("{i:06}\n")).collect();
    assert_eq!(saved(&cluster, log).await, expected.as_bytes());
    let mut found = 0;
    let mut cursor = 0;
    loop {
        let page = client
            .readdir(&root(), Ino::ROOT, cursor, 100, true)
            .await
            .unwrap();
        for entry in &page.entries {
            let text = entry.name.to_string();
            if let Some(number) = text.strip_prefix("moved ") {
                found += 1;
                let number: u64 = number.parse().unwrap();
                assert!(saved(&cluster, entry.ino).await == pattern(3000, number));
            } else {
                assert_eq!(text, "log");
            }
        }
        if page.end {
            break;
        }
        cursor = page.entries.last().unwrap().cursor;
    }
    assert_eq!(found, 300);
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlinked_open_file_survives_the_coordinator_and_goes_with_its_last_close() {
    let mut cluster = InProcessCluster::start(3).await;
    let client = cluster.client().await;
    let inodes = cluster.status().await.unwrap().inodes;
    let (ino, handle) = make(&client, "gone", WRITE).await;
    put(&client, handle, 0, &pattern(400_000, 1)).await;
    client.fsync(handle).await.unwrap();
    client.unlink(&root(), Ino::ROOT, &name("gone")).await.unwrap();
    cluster.restart_coordinator().await;
    put(&client, handle, 400_000, &pattern(400_000, 400_001)).await;
    client.fsync(handle).await.unwrap();
    let bytes = client.read(handle, 0, u32::MAX).await.unwrap();
    assert!(bytes[..400_000] == pattern(400_000, 1));
    assert!(bytes[400_000..] == pattern(400_000, 400_001));
    assert_eq!(client.getattr(ino).await.unwrap().attr.nlink, 0);
    client.release(handle).await;
    cluster
        .wait_status("the inode goes", |status| status.inodes == inodes)
        .await;
    assert_eq!(client.getattr(ino).await.unwrap_err().kind(), ErrorKind::Stale);
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// A close that is on its way while the session is resumed must not take back, afterwards, the open that was declared then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_that_a_restart_overtakes_does_not_end_another_open_of_the_file() {
    const LATE: Duration = Duration::from_secs(4);
    let mut cluster = InProcessCluster::start(3).await;
    let late = FaultPlan::new(|attempt| match attempt.method {
        "release" => Fault::Delay(LATE),
        _ => Fault::None,
    });
    let metadata = FaultyMetadata::new(cluster.metadata_over_frames(), late.clone());
    let chunks = ChunkChannels::new(Transport::default(), CALL_DEADLINE, LocalSockets::default());
    let client = Client::with_services(cluster.client_config(), Arc::new(metadata), Arc::new(chunks));
    let client = client.await.unwrap();
    let (ino, kept) = make(&client, "gone", WRITE).await;
    let closed = client.open(&root(), ino, WRITE).await.unwrap().handle;
    client.unlink(&root(), Ino::ROOT, &name("gone")).await.unwrap();
    client.release(closed).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while late.calls("release") == 0 {
        assert!(Instant::now() < deadline, "no release is sent");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let sent = Instant::now();
    cluster.restart_coordinator().await;
    // Resumes the session.
    client.mkdir(&root(), Ino::ROOT, &name("d"), 0o755).await.unwrap();
    assert!(sent.elapsed() < LATE, "too slow a machine: nothing was overtaken");
    let until = sent + LATE + Duration::from_secs(2);
    for size in 1.. {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let truncated = client.setattr(&root(), ino, set, Some(kept)).await;
        truncated.expect("the file is open");
        if Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_synced_is_there_after_all_servers_died() {
    let mut cluster = InProcessCluster::start(3).await;
    let client = cluster.client().await;
    let mut files = Vec::new();
    for i in 0..20usize {
        let (ino, handle) = make(&client, &format!("file {i}"), WRITE).await;
        let data = pattern(i * 40_000 + 10, i as u64);
        put(&client, handle, 0, &data).await;
        client.fsync(handle).await.unwrap();
        files.push((ino, handle, data));
    }
    cluster.kill_coordinator().await;
    for index in 0..3 {
        cluster.kill_datanode(index).await;
    }
    cluster.start_coordinator().await;
    for index in 0..3 {
        cluster.start_datanode(index).await;
    }
    for (ino, handle, data) in &files {
        assert!(saved(&cluster, *ino).await == *data);
        // The client that was there before goes on with its open files.
        assert!(client.read(*handle, 0, u32::MAX).await.unwrap() == *data);
        put(&client, *handle, 0, b"more").await;
        client.flush(*handle).await.unwrap();
        assert_eq!(&saved(&cluster, *ino).await[..4], b"more");
    }
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

const DEADLINE: Duration = Duration::from_secs(20);

/// Shorter than anything that waits for a lease to end, longer than a call.
async fn stays_pending<T>(task: &tokio::task::JoinHandle<T>) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!task.is_finished());
}

/// The cache above is slow to forget pages: a read that it may be waiting for is answered from what is committed, and what that read is dropped, too; a later
/// read waits for the change that waits for the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_given_up_in_rounds_that_wait_for_no_read() {
    let cluster = InProcessCluster::start(3).await;
    let (reader, writer) = (cluster.client().await, cluster.client().await);
    let mut above = reader.invalidations().unwrap();
    let (ino, writing) = make(&writer, "shared", WRITE).await;
    put(&writer, writing, 0, b"old old old").await;
    let reading = reader.open(&root(), ino, READ).await.unwrap().handle;
    assert_eq!(reader.read(reading, 0, 100).await.unwrap(), "old old old");

    let changing = tokio::spawn({
        let writer = writer.clone();
        async move { put(&writer, writing, 0, b"new").await }
    });
    let whole = async {
        loop {
            let invalidation = above.recv().await.unwrap();
            if invalidation.again.is_some() {
                return invalidation;
            }
            drop(invalidation.done);
        }
    };
    let mut round = tokio::time::timeout(DEADLINE, whole).await.unwrap();
    assert_eq!(round.change, dfs_client::Change::Inode { ino });
    stays_pending(&changing).await;
    let during = tokio::time::timeout(DEADLINE, reader.read(reading, 4, 3)).await;
    assert_eq!(during.unwrap().unwrap(), "old");

    let mut again = round.again.take().unwrap();
    let touched = dfs_client::Change::Pages {
        ino,
        offset: 4,
        length: 3,
    };
    assert_eq!(again(), [touched]);
    assert_eq!(again(), [], "nothing was read in this round");
    let after = tokio::spawn({
        let reader = reader.clone();
        async move { reader.read(reading, 0, 100).await.unwrap() }
    });
    stays_pending(&after).await;
    assert!(!changing.is_finished());
    drop(round.done);
    let drain = tokio::spawn(async move { while above.recv().await.is_some() {} });
    tokio::time::timeout(DEADLINE, changing).await.unwrap().unwrap();
    let after = tokio::time::timeout(DEADLINE, after).await.unwrap().unwrap();
    assert_eq!(after, "new old old");
    drain.abort();
}

/// While nobody else has the file it is written from memory; not any more when somebody has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_buffered_as_long_as_nobody_else_has_the_file_open() {
    let cluster = InProcessCluster::start(3).await;
    let plan = FaultPlan::new(|_| Fault::None);
    let metadata = FaultyMetadata::new(cluster.metadata_over_frames(), plan.clone());
    let chunks = ChunkChannels::new(Transport::default(), CALL_DEADLINE, LocalSockets::default());
    let writer = Client::with_services(cluster.client_config(), Arc::new(metadata), Arc::new(chunks));
    let writer = writer.await.unwrap();
    let other = cluster.client().await;
    let (ino, writing) = make(&writer, "f", WRITE).await;
    let before = plan.calls("mutate");
    for at in 0..10 {
        put(&writer, writing, at, b"x").await;
    }
    assert_eq!(plan.calls("mutate"), before, "from memory");
    assert_eq!(
        other.getattr(ino).await.unwrap().attr.size,
        10,
        "saved for who looks"
    );
    assert_eq!(plan.calls("mutate"), before + 1);
    put(&writer, writing, 10, b"y").await;
    let one = plan.calls("mutate");
    assert_eq!(one, before + 2, "the first one after that takes the right back");
    put(&writer, writing, 11, b"y").await;
    assert_eq!(plan.calls("mutate"), one);

    let reading = other.open(&root(), ino, READ).await.unwrap().handle;
    let open = plan.calls("mutate");
    for at in 0..5 {
        put(&writer, writing, at, &[b'0' + at as u8]).await;
        let found = other.read(reading, at, 1).await.unwrap();
        assert_eq!(found[0], b'0' + at as u8);
    }
    assert_eq!(
        plan.calls("mutate"),
        open + 5,
        "each is committed before it is answered"
    );
    other.release(reading).await;
    other.send_releases().await;
    put(&writer, writing, 0, b"z").await;
    let alone = plan.calls("mutate");
    put(&writer, writing, 1, b"z").await;
    assert_eq!(plan.calls("mutate"), alone, "alone again");
}
