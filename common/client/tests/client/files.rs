//! Reading and writing.

use crate::rig::*;
use dfs_common::attr::{SetAttr, SetTime, Timestamp};
use dfs_common::{ErrorKind, Ino};
use dfs_testkit::twin::TwinOptions;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_file_is_cut_in_chunks_replicated_and_read_back_by_another_client() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "large", WRITE).await;
    let data = pattern(5_000_000, 1);
    for (i, piece) in data.chunks(100_000).enumerate() {
        put(&client, handle, i as u64 * 100_000, piece).await;
    }
    client.flush(handle).await.unwrap();
    assert!(client.is_clean(handle));
    assert_eq!(saved(&rig, ino).await, data);
    let chunks = rig.cluster.metadata.chunks_in_use();
    // The first may have travelled in its commit: a chunk here is as large as what a file may have inline.
    let expected = data.len().div_ceil(64 << 10);
    assert!(
        (expected - 1..=expected).contains(&chunks.len()),
        "{} chunks",
        chunks.len()
    );
    for chunk in chunks {
        assert_eq!(rig.cluster.chunks.replicas(chunk), 3);
    }
    client.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn small_file_travels_in_its_commit() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "small", WRITE).await;
    let data = pattern(20_000, 2);
    put(&client, handle, 0, &data).await;
    client.flush(handle).await.unwrap();
    assert_eq!(rig.chunk_writes(), 0);
    assert_eq!(saved(&rig, ino).await, data);
}

#[tokio::test]
async fn file_that_outgrows_inline_goes_on_in_chunks() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 1 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "growing", WRITE).await;
    let data = pattern(200_000, 3);
    for (i, piece) in data.chunks(10_000).enumerate() {
        put(&client, handle, i as u64 * 10_000, piece).await;
        client.fsync(handle).await.unwrap();
    }
    assert!(rig.chunk_writes() > 0);
    assert_eq!(get(&client, handle).await.unwrap(), data);
    assert_eq!(saved(&rig, ino).await, data);
}

#[tokio::test]
async fn overwritten_inline_file_never_exceeds_the_inline_limit() {
    // Many small synced writes in a file of 60 KiB: the coordinator may answer that it is too much.
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "busy", WRITE).await;
    let mut model = vec![0; 60_000];
    for i in 0..200u64 {
        let offset = (i * 7919) % 59_000;
        let data = pattern(1000, i);
        model[offset as usize..offset as usize + 1000].copy_from_slice(&data);
        put(&client, handle, offset, &data).await;
        client.fsync(handle).await.unwrap();
    }
    let read = get(&client, handle).await.unwrap();
    assert_eq!(read, model[..read.len()]);
    assert_eq!(saved(&rig, ino).await, read);
}

#[tokio::test]
async fn sparse_file_reads_zeros_between_its_data() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "sparse", WRITE).await;
    put(&client, handle, 10_000_000_000, b"end").await;
    put(&client, handle, 5, b"start").await;
    client.fsync(handle).await.unwrap();
    assert_eq!(
        client.read(handle, 0, 12).await.unwrap(),
        &b"\0\0\0\0\0start\0\0"[..]
    );
    assert_eq!(
        client.read(handle, 9_999_999_998, 100).await.unwrap(),
        &b"\0\0end"[..]
    );
    assert_eq!(client.getattr(ino).await.unwrap().attr.size, 10_000_000_003);
    assert_eq!(client.read(handle, 10_000_000_003, 1).await.unwrap().len(), 0);
}

#[tokio::test]
async fn many_scattered_writes_share_chunks() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 8 << 20,
        extents_page: 100,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "scattered", WRITE).await;
    let mut model = vec![0u8; 20_000_000];
    for i in 0..3000u64 {
        let offset = (i * 7_654_321) % 19_990_000;
        let data = pattern(500, i);
        model[offset as usize..offset as usize + 500].copy_from_slice(&data);
        put(&client, handle, offset, &data).await;
    }
    client.fsync(handle).await.unwrap();
    assert!(rig.cluster.metadata.chunks_in_use().len() <= 4);
    let bytes = saved(&rig, ino).await;
    assert!(bytes[..] == model[..bytes.len()]);
}

#[tokio::test]
async fn truncation_with_unsaved_data_is_in_order() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "cut", WRITE).await;
    let data = pattern(150_000, 4);
    put(&client, handle, 0, &data).await;
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    let entry = client
        .setattr(&root(), ino, size(70_000), Some(handle))
        .await
        .unwrap();
    assert_eq!(entry.attr.size, 70_000);
    let entry = client
        .setattr(&root(), ino, size(90_000), Some(handle))
        .await
        .unwrap();
    assert_eq!(entry.attr.size, 90_000);
    put(&client, handle, 80_000, b"again").await;
    let mut model = data[..70_000].to_vec();
    model.resize(90_000, 0);
    model[80_000..80_005].copy_from_slice(b"again");
    assert_eq!(get(&client, handle).await.unwrap(), model);
    client.flush(handle).await.unwrap();
    assert_eq!(get(&client, handle).await.unwrap(), model);
    assert_eq!(saved(&rig, ino).await, model);
}

#[tokio::test]
async fn open_with_truncate_empties_the_file() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "old", WRITE).await;
    put(&client, handle, 0, b"old content").await;
    let flags = dfs_client::OpenFlags {
        truncate: true,
        ..WRITE
    };
    let opened = client.open(&root(), ino, flags).await.unwrap();
    assert_eq!(opened.attr.size, 0);
    assert_eq!(get(&client, handle).await.unwrap().len(), 0);
    put(&client, opened.handle, 0, b"new").await;
    client.flush(opened.handle).await.unwrap();
    assert_eq!(saved(&rig, ino).await, &b"new"[..]);
}

#[tokio::test]
async fn times_set_after_a_write_are_not_undone_by_saving_it() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "copy", WRITE).await;
    put(&client, handle, 0, b"content").await;
    let time = Timestamp {
        secs: 1_000_000,
        nanos: 77,
    };
    let set = SetAttr {
        mtime: Some(SetTime::At(time)),
        ..SetAttr::default()
    };
    client.setattr(&root(), ino, set, None).await.unwrap();
    client.flush(handle).await.unwrap();
    client.release(handle).await;
    assert_eq!(client.getattr(ino).await.unwrap().attr.mtime, time);
    assert_eq!(rig.client().await.getattr(ino).await.unwrap().attr.mtime, time);
}

#[tokio::test]
async fn appends_of_two_clients_are_all_there_once() {
    let rig = Rig::new();
    let (one, two) = (rig.client().await, rig.client().await);
    let (ino, first) = make(&one, "log", APPEND).await;
    let second = open(&two, ino, APPEND).await;
    for i in 0..40 {
        let (client, handle) = if i % 3 == 0 { (&two, second) } else { (&one, first) };
        put(client, handle, 0, format!("record {i:03} ").as_bytes()).await;
        if i % 4 == 1 {
            client.fsync(handle).await.unwrap();
        }
    }
    one.flush(first).await.unwrap();
    two.flush(second).await.unwrap();
    let text = String::from_utf8(saved(&rig, ino).await.to_vec()).unwrap();
    let mut records: Vec<&str> = text.split_terminator(' ').skip(1).step_by(2).collect();
    assert_eq!(records.len(), 40, "{text}");
    records.sort_unstable();
    records.dedup();
    assert_eq!(records.len(), 40, "{text}");
    // The clients see what is there, not what they believed.
    assert_eq!(get(&one, first).await.unwrap(), text.as_bytes());
    let again = open(&two, ino, READ).await;
    assert_eq!(get(&two, again).await.unwrap(), text.as_bytes());
}

#[tokio::test]
async fn append_that_lands_elsewhere_tells_the_cache_above() {
    let rig = Rig::new();
    let (one, two) = (rig.client().await, rig.client().await);
    let mut invalidations = one.invalidations().unwrap();
    assert!(one.invalidations().is_none());
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(invalidation) = invalidations.recv().await {
            told.send(invalidation.change).unwrap();
        }
    });
    let (ino, first) = make(&one, "log", APPEND).await;
    put(&one, first, 0, b"one").await;
    let second = open(&two, ino, APPEND).await;
    put(&two, second, 0, b"two").await;
    two.fsync(second).await.unwrap();
    put(&one, first, 0, b"more").await;
    assert_eq!(get(&one, first).await.unwrap(), &b"onemore"[..]);
    one.fsync(first).await.unwrap();
    assert_eq!(get(&one, first).await.unwrap(), &b"twoonemore"[..]);
    let landed = dfs_client::Change::Inode { ino };
    while heard.recv().await.unwrap() != landed {}
}

#[tokio::test]
async fn appends_behind_one_that_landed_elsewhere_are_read_where_they_will_be() {
    let rig = Rig::new();
    let (one, two) = (rig.client().await, rig.client().await);
    let (ino, first) = make(&one, "log", APPEND).await;
    let second = open(&two, ino, APPEND).await;
    put(&two, second, 0, b"two").await;
    two.fsync(second).await.unwrap();
    // The second and third do not fit in the chunk of the one before, which is saved at once.
    let records: Vec<Vec<u8>> = (0..3).map(|i| pattern(60_000, i)).collect();
    for record in &records {
        put(&one, first, 0, record).await;
    }
    while two.getattr(ino).await.unwrap().attr.size < 3 + 120_000 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let whole = [b"two".to_vec(), records.concat()].concat();
    assert!(!one.is_clean(first));
    assert!(get(&one, first).await.unwrap() == whole);
    one.fsync(first).await.unwrap();
    assert!(saved(&rig, ino).await == whole);
}

#[tokio::test]
async fn switching_between_appending_and_placed_writes_keeps_their_order() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, append) = make(&client, "both", APPEND).await;
    let placed = open(&client, ino, WRITE).await;
    put(&client, append, 999, b"aaaa").await;
    put(&client, placed, 2, b"bbbb").await;
    put(&client, append, 0, b"cc").await;
    put(&client, placed, 0, b"d").await;
    assert_eq!(get(&client, placed).await.unwrap(), &b"dabbbbcc"[..]);
    client.fsync(placed).await.unwrap();
    assert_eq!(get(&client, placed).await.unwrap(), &b"dabbbbcc"[..]);
    assert_eq!(saved(&rig, ino).await, &b"dabbbbcc"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_clients_see_a_growing_file_as_a_prefix_without_gaps() {
    let rig = Rig::new();
    // Later chunks are often durable before earlier ones.
    rig.chunk_faults.replace(|attempt| match attempt.before % 3 {
        0 => dfs_testkit::faults::Fault::Delay(Duration::from_millis(10)),
        _ => dfs_testkit::faults::Fault::None,
    });
    let (client, other) = (rig.client().await, rig.client().await);
    let (ino, handle) = make(&client, "stream", WRITE).await;
    let data = pattern(3_000_000, 5);
    let writer = tokio::spawn({
        let (client, data) = (client.clone(), data.clone());
        async move {
            for (i, piece) in data.chunks(30_000).enumerate() {
                put(&client, handle, i as u64 * 30_000, piece).await;
            }
            client.fsync(handle).await.unwrap();
        }
    });
    let mut sizes = std::collections::BTreeSet::new();
    loop {
        let reader = open(&other, ino, READ).await;
        let seen = get(&other, reader).await.unwrap();
        assert!(seen == data[..seen.len()], "a size preceded its data");
        sizes.insert(seen.len());
        other.release(reader).await;
        if seen.len() == data.len() {
            break;
        }
    }
    writer.await.unwrap();
    assert!(sizes.len() > 2, "intermediate sizes were seen: {sizes:?}");
}

#[tokio::test]
async fn handles_allow_what_they_were_opened_for() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let only_read = open(&client, ino, READ).await;
    let only_write = open(
        &client,
        ino,
        dfs_client::OpenFlags {
            write: true,
            ..Default::default()
        },
    )
    .await;
    let kind = |result: Result<u32, dfs_common::FsError>| result.unwrap_err().kind();
    assert_eq!(
        kind(client.write(&root(), only_read, 0, b"x").await),
        ErrorKind::BadHandle
    );
    let error = client.read(only_write, 0, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadHandle);
    let too_far = client.write(&root(), handle, i64::MAX as u64, b"xx").await;
    assert_eq!(kind(too_far), ErrorKind::FileTooBig);
    client.release(handle).await;
    assert_eq!(
        kind(client.write(&root(), handle, 0, b"x").await),
        ErrorKind::BadHandle
    );
    assert_eq!(
        client.flush(handle).await.unwrap_err().kind(),
        ErrorKind::BadHandle
    );
    client.release(handle).await;
}

#[tokio::test]
async fn unsaved_data_of_a_file_without_handles_is_saved_and_its_opens_are_taken_back() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "left", WRITE).await;
    let more = open(&client, ino, READ).await;
    put(&client, handle, 0, &pattern(100_000, 6)).await;
    client.release(handle).await;
    client.release(more).await;
    until("opens are taken back", || rig.cluster.metadata.open_files() == 0).await;
    assert_eq!(saved(&rig, ino).await, pattern(100_000, 6));
}

#[tokio::test]
async fn unlinked_open_file_stays_until_its_last_close() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "gone", WRITE).await;
    put(&client, handle, 0, b"still here").await;
    client.unlink(&root(), Ino::ROOT, &name("gone")).await.unwrap();
    client.fsync(handle).await.unwrap();
    assert_eq!(get(&client, handle).await.unwrap(), &b"still here"[..]);
    assert_eq!(client.getattr(ino).await.unwrap().attr.nlink, 0);
    client.release(handle).await;
    until("the inode goes", || rig.cluster.metadata.inodes() == 1).await;
}

#[tokio::test]
async fn old_unsaved_data_is_saved_without_being_asked_to() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "idle", WRITE).await;
    put(&client, handle, 0, b"written and forgotten").await;
    until("it is saved", || client.is_clean(handle)).await;
    assert_eq!(saved(&rig, ino).await, &b"written and forgotten"[..]);
}
