//! The local store on disks that fail or are full.

use crate::support::*;
use dfs_common::piece::{Piece, pieces};
use dfs_common::{DiskIncarnation, ErrorKind, FsResult};
use dfs_datanode::inventory::Inventory;
use dfs_datanode::store::{ChunkStore, DiskHealth, DiskSync, KernelSync, LocalStore};
use nix::libc;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was made durable, in order, with what was under `chunks/` at that moment; fails when told.
#[derive(Default)]
struct Watched {
    root: Mutex<PathBuf>,
    events: Mutex<Vec<Event>>,
    fail_files: Mutex<Option<i32>>,
    fail_directories: Mutex<Option<i32>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// A file of so many bytes, while so many chunks had a name.
    File(u64, usize),
    Directory(PathBuf, usize),
}

impl Watched {
    fn named(&self) -> usize {
        files(&self.root.lock().join("chunks")).len()
    }
}

impl DiskSync for Watched {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        if let Some(errno) = *self.fail_files.lock() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let event = Event::File(file.metadata()?.len(), self.named());
        self.events.lock().push(event);
        KernelSync.sync_file(file)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if let Some(errno) = *self.fail_directories.lock() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let event = Event::Directory(dir.to_path_buf(), self.named());
        self.events.lock().push(event);
        KernelSync.sync_dir(dir)
    }
}

async fn put(store: &LocalStore, sequence: u64, length: usize) -> dfs_common::FsResult<DiskIncarnation> {
    let bytes = content(length, sequence);
    store
        .write(describe(chunk(sequence), &bytes), stream(&bytes, 65_536))
        .await
}

#[tokio::test]
async fn chunk_gets_its_name_after_its_bytes_and_its_receipt_after_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let sync = Arc::new(Watched::default());
    *sync.root.lock() = dir.path().to_path_buf();
    let store = store_with(dir.path(), sync.clone());
    put(&store, 1, 100_000).await.unwrap();
    let leaf = file_of(dir.path(), chunk(1)).parent().unwrap().to_path_buf();
    let parent = leaf.parent().unwrap().to_path_buf();
    let root = parent.parent().unwrap().to_path_buf();
    let whole = std::fs::metadata(file_of(dir.path(), chunk(1))).unwrap().len();
    let first = std::mem::take(&mut *sync.events.lock());
    let at = |event: &Event| {
        first
            .iter()
            .position(|known| known == event)
            .unwrap_or_else(|| panic!("{event:?} is not in {first:?}"))
    };
    // The whole file before its name; the new directories; the name last.
    at(&Event::File(whole, 0));
    at(&Event::Directory(root, 0));
    at(&Event::Directory(parent, 0));
    assert_eq!(at(&Event::Directory(leaf.clone(), 1)), first.len() - 1);
    // A further chunk of the same directory costs two syncs.
    put(&store, 2, 5).await.unwrap();
    let second = std::mem::take(&mut *sync.events.lock());
    assert_eq!(second.len(), 2, "{second:?}");
    assert!(matches!(second[0], Event::File(_, 1)));
    assert_eq!(second[1], Event::Directory(leaf.clone(), 2));
    // The same bytes again are answered only when the name is durable.
    put(&store, 2, 5).await.unwrap();
    assert_eq!(*sync.events.lock(), [Event::Directory(leaf, 2)]);
}

#[tokio::test]
async fn failed_sync_fails_the_disk_for_good_and_reads_go_on() {
    for directories in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let sync = Arc::new(Watched::default());
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let recorder = recorded.clone();
        let health = Arc::new(DiskHealth::new(
            DiskIncarnation(11),
            None,
            Box::new(move |why, disk| recorder.lock().push((why.to_owned(), disk))),
        ));
        let store = LocalStore::open(
            dir.path(),
            SETTINGS,
            health.clone(),
            sync.clone(),
            Arc::new(Inventory::default()),
        )
        .unwrap();
        put(&store, 1, 100_000).await.unwrap();
        let failing = if directories {
            &sync.fail_directories
        } else {
            &sync.fail_files
        };
        *failing.lock() = Some(libc::EIO);
        assert_eq!(
            put(&store, 2, 1000).await.unwrap_err().kind(),
            ErrorKind::ReadOnly
        );
        *failing.lock() = None;
        // Never tried again and acknowledged, neither that chunk, nor one that was here before, nor a new one.
        for sequence in [2, 3, 1] {
            let length = if sequence == 1 { 100_000 } else { 1000 };
            let error = put(&store, sequence, length).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "chunk {sequence}: {error}");
        }
        assert_eq!(
            store.delete(chunk(1)).await.unwrap_err().kind(),
            ErrorKind::ReadOnly
        );
        let read = store.read(chunk(1), 0, 100_000).await.unwrap();
        assert!(collect(read).await.unwrap() == content(100_000, 1));
        let load = store.load().await.unwrap();
        assert!(!load.writable && load.available_bytes == 0);
        assert_ne!(load.disk, DiskIncarnation(11));
        let recorded = recorded.lock();
        assert_eq!(recorded.len(), 1, "written down once");
        assert_eq!(recorded[0].1, load.disk);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_ran_while_the_disk_failed_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let sync = Arc::new(Watched::default());
    let store = Arc::new(store_with(dir.path(), sync.clone()));
    let bytes = content(1 << 20, 1);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let writing = tokio::spawn({
        let (store, description) = (store.clone(), describe(chunk(1), &bytes));
        async move {
            let content = Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver));
            store.write(description, content).await
        }
    });
    let pieces: Vec<_> = bytes
        .chunks(256 << 10)
        .map(|piece| Piece::new(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    // Three quarters: the first step is at the disk.
    for piece in &pieces[..3] {
        sender.send(Ok(piece.clone())).await.unwrap();
    }
    let tmp = dir.path().join("tmp");
    until("the write's beginning", || !files(&tmp).is_empty()).await;
    *sync.fail_files.lock() = Some(libc::EIO);
    put(&store, 2, 10).await.unwrap_err();
    *sync.fail_files.lock() = None;
    sender.send(Ok(pieces[3].clone())).await.unwrap();
    drop(sender);
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[tokio::test]
async fn sync_without_room_is_no_failure_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let sync = Arc::new(Watched::default());
    let store = store_with(dir.path(), sync.clone());
    *sync.fail_files.lock() = Some(libc::ENOSPC);
    assert_eq!(put(&store, 1, 1000).await.unwrap_err().kind(), ErrorKind::NoSpace);
    *sync.fail_files.lock() = None;
    assert!(files(&dir.path().join("tmp")).is_empty());
    assert_eq!(put(&store, 1, 1000).await.unwrap(), DiskIncarnation(11));
}

/// A small disk of its own; needs root. Unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mebibytes}m");
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        match mounted {
            Ok(()) => Some(SmallDisk(dir)),
            Err(nix::errno::Errno::EPERM) => None,
            Err(errno) => panic!("mounting a tmpfs: {errno}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let flags = nix::mount::MntFlags::MNT_DETACH;
        if let Err(errno) = nix::mount::umount2(self.0.path(), flags) {
            eprintln!("unmounting {}: {errno}", self.0.path().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_writes_keeps_its_reserve_and_recovers() {
    let Some(disk) = SmallDisk::mount(16) else {
        eprintln!("not root: a full disk cannot be made");
        return;
    };
    let root = disk.0.path();
    let store = Arc::new(open_store(root));
    let before = store.load().await.unwrap();
    assert!(before.available_bytes <= (15 << 20), "the reserve is not offered");
    // More at once than there is room for, so that each alone would have fitted.
    let writers: Vec<_> = (0..8)
        .map(|sequence| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, sequence, 4 << 20).await })
        })
        .collect();
    let mut stored = Vec::new();
    for (sequence, writer) in writers.into_iter().enumerate() {
        match writer.await.unwrap() {
            Ok(_) => stored.push(sequence as u64),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
    }
    assert!((1..=3).contains(&stored.len()), "{} of 8 fit", stored.len());
    assert!(files(&root.join("tmp")).is_empty());
    let full = store.load().await.unwrap();
    assert!(full.writable && full.available_bytes < 8 << 20);
    let free = nix::sys::statvfs::statvfs(root).unwrap();
    assert!(
        free.blocks_available() * free.fragment_size() >= 1 << 20,
        "the reserve is there"
    );
    for sequence in &stored {
        let read = store.read(chunk(*sequence), 0, 4 << 20).await.unwrap();
        assert!(collect(read).await.unwrap() == content(4 << 20, *sequence));
    }
    // Others fill it to the last byte: the disk itself says so then.
    let _ = std::fs::write(root.join("others"), vec![0; 16 << 20]);
    assert_eq!(
        put(&store, 100, 1000).await.unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    std::fs::remove_file(root.join("others")).unwrap();
    for sequence in &stored {
        store.delete(chunk(*sequence)).await.unwrap();
    }
    put(&store, 100, 4 << 20).await.unwrap();
    assert!(store.load().await.unwrap().writable);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_under_way_count_as_written() {
    let Some(disk) = SmallDisk::mount(16) else {
        eprintln!("not root: a full disk cannot be made");
        return;
    };
    let root = disk.0.path();
    let store = Arc::new(open_store(root));
    let mut writers = Vec::new();
    for sequence in 1..=2 {
        let bytes = content(6 << 20, sequence);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let (store, description) = (store.clone(), describe(chunk(sequence), &bytes));
        let writing = tokio::spawn(async move {
            let content = Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver));
            store.write(description, content).await
        });
        let mut pieces: Vec<_> = bytes
            .chunks(256 << 10)
            .map(|piece| Piece::new(bytes::Bytes::copy_from_slice(piece)))
            .collect();
        let rest = pieces.split_off(3);
        for piece in pieces {
            sender.send(Ok(piece)).await.unwrap();
        }
        writers.push((sender, rest, writing));
    }
    let tmp = root.join("tmp");
    until("the beginning of both", || files(&tmp).len() == 2).await;
    assert_eq!(
        put(&store, 3, 6 << 20).await.unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    assert!(store.load().await.unwrap().available_bytes < 6 << 20);
    for (sender, rest, writing) in writers {
        for piece in rest {
            sender.send(Ok(piece)).await.unwrap();
        }
        drop(sender);
        writing.await.unwrap().unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn disk_that_is_full_in_the_middle_of_a_write_leaves_nothing() {
    let Some(disk) = SmallDisk::mount(8) else {
        eprintln!("not root: a full disk cannot be made");
        return;
    };
    let root = disk.0.path();
    let store = open_store(root);
    // A large chunk has its room from the beginning; what a small one was promised can be taken by somebody else.
    while_others_fill_the_disk(root, &store, &content(5 << 20, 1))
        .await
        .unwrap();
    store.delete(chunk(1)).await.unwrap();
    let written = while_others_fill_the_disk(root, &store, &content(500 << 10, 1)).await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::NoSpace);
    let tmp = root.join("tmp");
    until("cleaning up", || files(&tmp).is_empty()).await;
    assert!(files(&root.join("chunks")).is_empty());
    put(&store, 1, 1 << 20).await.unwrap();
}

/// Writes chunk 1; after a third of it others take the rest of the disk, which they give back later.
async fn while_others_fill_the_disk(
    root: &Path,
    store: &LocalStore,
    bytes: &[u8],
) -> FsResult<DiskIncarnation> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let content = pieces(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)));
    let writing = store.write(describe(chunk(1), bytes), content);
    let feeding = async {
        for (number, piece) in bytes.chunks(bytes.len() / 12).enumerate() {
            if number == 4 {
                if bytes.len() > 1 << 20 {
                    let has_room = |file: &PathBuf| {
                        file.metadata()
                            .is_ok_and(|found| found.len() > bytes.len() as u64)
                    };
                    until("the chunk's room", || {
                        files(&root.join("tmp")).iter().any(has_room)
                    })
                    .await;
                }
                let _ = std::fs::write(root.join("others"), vec![0; 8 << 20]);
            }
            if sender
                .send(Ok(bytes::Bytes::copy_from_slice(piece)))
                .await
                .is_err()
            {
                break;
            }
        }
        drop(sender);
    };
    let (written, ()) = tokio::join!(writing, feeding);
    std::fs::remove_file(root.join("others")).unwrap();
    written
}
