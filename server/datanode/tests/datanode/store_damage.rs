//! The local store after crashes and bit rot: damage is noticed, never served; the index is made again.

use crate::support::*;
use dfs_common::limits::FRAME_BYTES;
use dfs_common::{ChunkId, ErrorKind};
use dfs_datanode::store::{ChunkStore, LocalStore};
use std::path::Path;

async fn put(store: &LocalStore, sequence: u64, length: usize) -> Vec<u8> {
    let bytes = content(length, sequence);
    store
        .write(describe(chunk(sequence), &bytes), stream(&bytes, 65_536))
        .await
        .unwrap();
    bytes
}

async fn get(store: &LocalStore, chunk: ChunkId, offset: u64, length: u64) -> dfs_common::FsResult<Vec<u8>> {
    collect(store.read(chunk, offset, length).await?).await
}

async fn listed(store: &LocalStore) -> Vec<(ChunkId, u64)> {
    let load = store.load().await.unwrap();
    let page = store.list(None, 1000).await.unwrap();
    let total: u64 = page.iter().map(|stored| stored.length).sum();
    assert_eq!((load.chunks, load.used_bytes), (page.len() as u64, total));
    page.iter().map(|stored| (stored.chunk, stored.length)).collect()
}

#[tokio::test]
async fn flipped_bit_fails_the_reads_of_its_frame_and_of_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let length = 10 * FRAME_BYTES + 100;
    let store = open_store(dir.path());
    let bytes = put(&store, 1, length).await;
    let path = file_of(dir.path(), chunk(1));
    let start = std::fs::metadata(&path).unwrap().len() - length as u64;
    for frame in [0, 4, 10] {
        let at = frame * FRAME_BYTES as u64;
        flip(&path, start + at + 57);
        let whole = get(&store, chunk(1), 0, length as u64).await;
        assert_eq!(whole.unwrap_err().kind(), ErrorKind::Corrupt);
        // One byte of the frame, and not the damaged one.
        assert_eq!(
            get(&store, chunk(1), at + 3, 1).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        let (offset, part) = if frame == 0 {
            (FRAME_BYTES, 70_000)
        } else {
            (0, at as usize)
        };
        let other = get(&store, chunk(1), offset as u64, part as u64).await.unwrap();
        assert!(other == bytes[offset..offset + part]);
        assert_eq!(store.load().await.unwrap().suspect_chunks, 1);
        flip(&path, start + at + 57);
    }
    assert!(get(&store, chunk(1), 0, length as u64).await.unwrap() == bytes);
    assert!(path.exists(), "a damaged chunk is never deleted");
}

#[tokio::test]
async fn damage_before_the_content_is_noticed_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    put(&store, 1, 1000).await;
    store.close().await;
    drop(store);
    let path = file_of(dir.path(), chunk(1));
    let bytes = std::fs::read(&path).unwrap();
    let table = 20 + u64::from(u32::from_le_bytes(bytes[12..16].try_into().unwrap()));
    // Magic, version, length, checksum and fields of the header, the checksum of the only frame.
    for at in [0, 8, 12, 16, 30, 60, table, table + 3] {
        flip(&path, at);
        let store = open_store(dir.path());
        let error = get(&store, chunk(1), 0, 1000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
        store.close().await;
        drop(store);
        flip(&path, at);
    }
    let store = open_store(dir.path());
    get(&store, chunk(1), 0, 1000).await.unwrap();
}

#[tokio::test]
async fn truncated_file_is_noticed_whether_open_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    put(&store, 1, 3 * FRAME_BYTES).await;
    put(&store, 2, 3 * FRAME_BYTES).await;
    get(&store, chunk(1), 0, 10).await.unwrap();
    for sequence in [1, 2] {
        let path = file_of(dir.path(), chunk(sequence));
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let error = get(&store, chunk(sequence), 0, 3 * FRAME_BYTES as u64)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    drop(store);
    // An empty file, as a file system may leave it that did not sync.
    std::fs::write(file_of(dir.path(), chunk(1)), b"").unwrap();
    let store = open_store(dir.path());
    assert_eq!(store.stat(chunk(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn damaged_chunk_is_replaced_by_the_same_bytes_and_the_old_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let bytes = put(&store, 1, 100_000).await;
    let other = content(100_000, 99);
    let path = file_of(dir.path(), chunk(1));
    // First in the content, then in the header: there only the index knows what it was.
    for (round, at) in [(1, 4096 + 5), (2, 3)] {
        flip(&path, at);
        if round == 2 {
            // As after a restart: the open file is not there to know it.
            assert!(get(&store, chunk(1), 0, 1).await.is_ok());
            std::fs::copy(&path, dir.path().join("copy")).unwrap();
            std::fs::rename(dir.path().join("copy"), &path).unwrap();
        } else {
            assert_eq!(
                get(&store, chunk(1), 0, 1).await.unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        let error = store
            .write(describe(chunk(1), &other), stream(&other, 65_536))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ChunkConflict,
            "other bytes are never accepted"
        );
        put(&store, 1, 100_000).await;
        assert!(get(&store, chunk(1), 0, 100_000).await.unwrap() == bytes);
        assert_eq!(files(&dir.path().join("damaged")).len(), round);
        assert_eq!(listed(&store).await, [(chunk(1), 100_000)]);
    }
}

#[tokio::test]
async fn leftovers_of_writes_are_removed_at_the_start_and_never_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    put(&store, 1, 1000).await;
    drop(store);
    let whole = std::fs::read(file_of(dir.path(), chunk(1))).unwrap();
    std::fs::write(dir.path().join("tmp").join(format!("{}.7", chunk(2))), &whole).unwrap();
    std::fs::write(dir.path().join("tmp/anything"), b"x").unwrap();
    let store = open_store(dir.path());
    assert!(files(&dir.path().join("tmp")).is_empty());
    assert_eq!(listed(&store).await, [(chunk(1), 1000)]);
}

/// What happens to the index between two runs.
type Mishap = fn(&Path);

#[tokio::test]
async fn index_is_made_again_whatever_happened_to_it() {
    fn for_each_index_file(root: &Path, damage: impl Fn(&Path)) {
        let files = files(&root.join("index"));
        assert!(!files.is_empty());
        files.iter().for_each(|file| damage(file));
    }
    let mishaps: [(&str, Mishap); 7] = [
        ("nothing", |_| {}),
        ("not closed", |root| {
            std::fs::remove_file(root.join("index.clean")).unwrap();
        }),
        ("deleted", |root| {
            std::fs::remove_dir_all(root.join("index")).unwrap()
        }),
        ("replaced by garbage", |root| {
            for_each_index_file(root, |file| std::fs::write(file, [0xa5; 100_000]).unwrap());
        }),
        ("emptied", |root| {
            for_each_index_file(root, |file| std::fs::write(file, b"").unwrap());
        }),
        ("damaged here and there", |root| {
            for_each_index_file(root, |file| {
                let length = std::fs::metadata(file).unwrap().len();
                (0..length).step_by(97).for_each(|at| flip(file, at));
            });
        }),
        ("marker damaged", |root| {
            std::fs::write(root.join("index.clean"), b"{").unwrap();
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let mut expected = Vec::new();
    for sequence in 0..300 {
        put(&store, sequence, 100 + sequence as usize).await;
        expected.push((chunk(sequence), 100 + sequence));
    }
    store.delete(chunk(299)).await.unwrap();
    expected.pop();
    store.close().await;
    drop(store);
    for (name, mishap) in mishaps {
        mishap(dir.path());
        let store = open_store(dir.path());
        assert_eq!(listed(&store).await, expected, "index {name}");
        assert!(!dir.path().join("index.clean").exists());
        store.close().await;
        drop(store);
        assert!(dir.path().join("index.clean").exists());
    }
}

#[tokio::test]
async fn index_that_was_not_closed_follows_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    put(&store, 1, 1000).await;
    put(&store, 2, 2000).await;
    drop(store);
    assert!(!dir.path().join("index.clean").exists());
    // A file that the index has and that is gone; one that it lacks; one that is damaged; and strangers.
    let path = file_of(dir.path(), chunk(2));
    let whole = std::fs::read(file_of(dir.path(), chunk(1))).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path.with_file_name(chunk(3).to_string()), &whole).unwrap();
    std::fs::write(path.with_file_name("notes.txt"), b"text").unwrap();
    std::fs::create_dir(dir.path().join("chunks/zz")).unwrap();
    std::fs::write(dir.path().join("chunks/zz/file"), b"text").unwrap();
    let store = open_store(dir.path());
    assert_eq!(listed(&store).await, [(chunk(1), 1000)]);
    assert_eq!(
        store.stat(chunk(2)).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let error = store.stat(chunk(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "the file of another chunk");
    assert_eq!(store.load().await.unwrap().suspect_chunks, 1);
    assert!(
        path.with_file_name("notes.txt").exists(),
        "strangers are left alone"
    );
}
