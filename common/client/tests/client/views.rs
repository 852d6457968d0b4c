//! What is seen of unsaved data, by this client and by others, and what caches above may keep.

use crate::rig::*;
use dfs_common::Ino;

#[tokio::test]
async fn unsaved_data_is_seen_by_every_call_of_its_client_and_by_no_other() {
    let rig = Rig::new();
    let (client, other) = (rig.client().await, rig.client().await);
    let (ino, handle) = make(&client, "new", WRITE).await;
    put(&client, handle, 0, &pattern(1000, 1)).await;
    let reader = open(&client, ino, READ).await;
    assert_eq!(get(&client, reader).await.unwrap(), pattern(1000, 1));
    let mine = client.getattr(ino).await.unwrap().attr;
    assert_eq!(mine.size, 1000);
    let found = client
        .lookup(&root(), Ino::ROOT, &name("new"))
        .await
        .unwrap()
        .attr;
    assert_eq!((found.size, found.mtime), (1000, mine.mtime));
    let page = client.readdir(&root(), Ino::ROOT, 0, 10, true).await.unwrap();
    assert_eq!(page.entries[0].attr.as_ref().unwrap().size, 1000);
    let linked = client.link(&root(), ino, Ino::ROOT, &name("also")).await.unwrap();
    assert_eq!(linked.attr.size, 1000);
    assert_eq!(other.getattr(ino).await.unwrap().attr.size, 0);
    let theirs = open(&other, ino, READ).await;
    assert_eq!(get(&other, theirs).await.unwrap().len(), 0);
    client.fsync(handle).await.unwrap();
    assert_eq!(other.getattr(ino).await.unwrap().attr.size, 1000);
    let saved = client.getattr(ino).await.unwrap().attr;
    assert_eq!(
        saved.mtime, mine.mtime,
        "saving does not move the time of the write"
    );
}

#[tokio::test]
async fn open_sees_what_others_saved_before_it() {
    let rig = Rig::new();
    let (client, other) = (rig.client().await, rig.client().await);
    let (ino, handle) = make(&client, "shared", WRITE).await;
    let theirs = open(&other, ino, WRITE).await;
    for round in 0..5 {
        let data = pattern(100_000 + round * 10_000, round as u64);
        put(&client, handle, 0, &data).await;
        client.flush(handle).await.unwrap();
        let again = open(&other, ino, READ).await;
        assert_eq!(get(&other, again).await.unwrap(), data);
        assert_eq!(get(&other, theirs).await.unwrap(), data);
        other.release(again).await;
    }
}

#[tokio::test]
async fn pages_above_are_kept_until_somebody_else_changes_the_file() {
    let rig = Rig::new();
    let (client, other) = (rig.client().await, rig.client().await);
    let (ino, handle) = make(&client, "cached", WRITE).await;
    let reopened = client.open(&root(), ino, READ).await.unwrap();
    assert!(reopened.keep_cache);
    put(&client, handle, 0, b"mine").await;
    client.flush(handle).await.unwrap();
    client.release(reopened.handle).await;
    client.release(handle).await;
    let again = client.open(&root(), ino, WRITE).await.unwrap();
    assert!(again.keep_cache, "only this client wrote");
    let theirs = open(&other, ino, WRITE).await;
    put(&other, theirs, 0, b"theirs").await;
    other.flush(theirs).await.unwrap();
    let changed = client.open(&root(), ino, READ).await.unwrap();
    assert!(!changed.keep_cache);
    assert_eq!(get(&client, again.handle).await.unwrap(), &b"theirs"[..]);
    let unchanged = client.open(&root(), ino, READ).await.unwrap();
    assert!(unchanged.keep_cache);
    for handle in [again.handle, changed.handle, unchanged.handle] {
        client.release(handle).await;
    }
    put(&other, theirs, 0, b"more").await;
    other.flush(theirs).await.unwrap();
    assert!(!client.open(&root(), ino, READ).await.unwrap().keep_cache);
    assert!(
        !rig.client()
            .await
            .open(&root(), ino, READ)
            .await
            .unwrap()
            .keep_cache
    );
}

#[tokio::test]
async fn pages_are_dropped_if_others_changed_the_file_between_own_commits() {
    let rig = Rig::new();
    let (client, other) = (rig.client().await, rig.client().await);
    let mut invalidations = client.invalidations().unwrap();
    let (ino, handle) = make(&client, "mixed", WRITE).await;
    put(&client, handle, 0, b"aaaaaaaa").await;
    client.flush(handle).await.unwrap();
    let theirs = open(&other, ino, WRITE).await;
    put(&other, theirs, 0, b"bb").await;
    other.flush(theirs).await.unwrap();
    put(&client, handle, 4, b"cc").await;
    client.flush(handle).await.unwrap();
    assert_eq!(get(&client, handle).await.unwrap(), &b"bbaaccaa"[..]);
    let heard = invalidations.try_recv().unwrap();
    assert_eq!(heard.change, dfs_client::Change::Inode { ino });
    assert!(!client.open(&root(), ino, READ).await.unwrap().keep_cache);
}
