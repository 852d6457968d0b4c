//! The path API.

use crate::rig::*;
use dfs_client::PathApi;
use dfs_common::attr::{FileKind, SetAttr};
use dfs_common::op::RenameMode;
use dfs_common::{ErrorKind, FsResult};

async fn write(paths: &PathApi, path: &[u8], data: &[u8], overwrite: bool) -> FsResult<()> {
    let mut writer = paths.writer(path, 0o644, overwrite).await?;
    for piece in data.chunks(10_000) {
        writer.write(piece).await?;
    }
    assert_eq!(writer.finish().await?.size, data.len() as u64);
    Ok(())
}

async fn read(paths: &PathApi, path: &[u8]) -> FsResult<Vec<u8>> {
    let reader = paths.reader(path).await?;
    let bytes = reader.read(0, u32::MAX).await?;
    assert_eq!(reader.attr().size, bytes.len() as u64);
    reader.close().await;
    Ok(bytes.to_vec())
}

async fn names(paths: &PathApi, path: &[u8]) -> Vec<String> {
    let page = paths.list(path, 0, 1000).await.unwrap();
    assert!(page.end);
    let mut names: Vec<String> = page.entries.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    names
}

fn kind<T>(outcome: FsResult<T>) -> ErrorKind {
    outcome.err().expect("it is refused").kind()
}

#[tokio::test]
async fn paths_are_resolved_as_the_kernel_does() {
    let rig = Rig::new();
    let paths = rig.client().await.paths(root());
    paths.mkdir(b"/a/b/c", 0o755, true).await.unwrap();
    paths.mkdir(b"/a/b/c/", 0o755, true).await.unwrap();
    assert_eq!(kind(paths.mkdir(b"/a/b", 0o755, false).await), ErrorKind::Exists);
    assert_eq!(kind(paths.mkdir(b"/", 0o755, false).await), ErrorKind::Exists);
    assert_eq!(
        kind(paths.mkdir(b"/x/y", 0o755, false).await),
        ErrorKind::NotFound
    );
    write(&paths, b"/a/b/file", b"content", false).await.unwrap();
    assert_eq!(
        kind(paths.stat(b"/a/b/file/", true).await),
        ErrorKind::NotDirectory
    );
    assert_eq!(
        kind(paths.stat(b"/a/b/file/x", true).await),
        ErrorKind::NotDirectory
    );
    assert_eq!(
        kind(paths.mkdir(b"/a/b/file", 0o755, true).await),
        ErrorKind::Exists
    );
    paths.symlink(b"/a/up", b"../a/b").await.unwrap();
    paths.symlink(b"/a/b/abs", b"/a/b/file").await.unwrap();
    paths.symlink(b"/loop", b"loop").await.unwrap();
    assert_eq!(read(&paths, b"/a/up/../b/./file").await.unwrap(), b"content");
    assert_eq!(read(&paths, b"/a/up/abs").await.unwrap(), b"content");
    assert_eq!(read(&paths, b"../..//a/up/c/../abs").await.unwrap(), b"content");
    assert_eq!(kind(paths.stat(b"/loop", true).await), ErrorKind::Loop);
    assert_eq!(paths.stat(b"/loop", false).await.unwrap().kind, FileKind::Symlink);
    assert_eq!(paths.stat(b"/a/up", false).await.unwrap().kind, FileKind::Symlink);
    assert_eq!(
        paths.stat(b"/a/up/", false).await.unwrap().kind,
        FileKind::Directory
    );
    assert_eq!(&paths.readlink(b"/a/up").await.unwrap()[..], b"../a/b");
    assert_eq!(paths.stat(b"/", true).await.unwrap().kind, FileKind::Directory);
    assert_eq!(names(&paths, b"/a").await, ["b", "up"]);
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    assert_eq!(
        paths.set_attributes(b"/a/b/abs", set, true).await.unwrap().mode,
        0o600
    );
    assert_eq!(paths.stat(b"/a/b/file", true).await.unwrap().mode, 0o600);
}

#[tokio::test]
async fn removing_and_moving_take_the_name_itself() {
    let rig = Rig::new();
    let paths = rig.client().await.paths(root());
    paths.mkdir(b"/d/sub", 0o755, true).await.unwrap();
    write(&paths, b"/d/file", b"1", false).await.unwrap();
    paths.symlink(b"/link", b"/d").await.unwrap();
    assert_eq!(kind(paths.remove(b"/d").await), ErrorKind::NotEmpty);
    assert_eq!(kind(paths.remove(b"/d/file/").await), ErrorKind::NotDirectory);
    assert_eq!(kind(paths.remove(b"/").await), ErrorKind::Busy);
    assert_eq!(kind(paths.remove(b"/d/.").await), ErrorKind::Busy);
    paths.remove(b"/link").await.unwrap();
    paths.remove(b"/d/sub/").await.unwrap();
    write(&paths, b"/other", b"2", false).await.unwrap();
    let no_replace = paths.rename(b"/other", b"/d/file", RenameMode::NoReplace).await;
    assert_eq!(kind(no_replace), ErrorKind::Exists);
    paths
        .rename(b"/other", b"/d/file", RenameMode::Exchange)
        .await
        .unwrap();
    assert_eq!(read(&paths, b"/other").await.unwrap(), b"1");
    paths
        .rename(b"/other", b"/d/file", RenameMode::Replace)
        .await
        .unwrap();
    assert_eq!(read(&paths, b"/d/file").await.unwrap(), b"1");
    assert_eq!(names(&paths, b"/").await, ["d"]);
}

#[tokio::test]
async fn written_file_appears_whole_or_not_at_all() {
    let rig = Rig::new();
    let client = rig.client().await;
    let paths = client.paths(root());
    let data = pattern(300_000, 1);
    write(&paths, b"/file", &data, false).await.unwrap();
    assert!(read(&paths, b"/file").await.unwrap() == data);
    assert_eq!(
        kind(paths.writer(b"/file", 0o644, false).await),
        ErrorKind::Exists
    );
    let mut writer = paths.writer(b"/file", 0o644, true).await.unwrap();
    writer.write(b"new").await.unwrap();
    assert!(read(&paths, b"/file").await.unwrap() == data);
    writer.abort().await;
    assert_eq!(names(&paths, b"/").await, ["file"]);
    write(&paths, b"/file", b"new", true).await.unwrap();
    assert_eq!(read(&paths, b"/file").await.unwrap(), b"new");
    // Somebody else was faster.
    let writer = paths.writer(b"/raced", 0o644, false).await.unwrap();
    write(&paths, b"/raced", b"theirs", false).await.unwrap();
    assert_eq!(kind(writer.finish().await), ErrorKind::Exists);
    assert_eq!(read(&paths, b"/raced").await.unwrap(), b"theirs");
    let mut dropped = paths.writer(b"/dropped", 0o644, false).await.unwrap();
    dropped.write(&data).await.unwrap();
    drop(dropped);
    until("it is removed", || {
        rig.cluster.metadata.inodes() == 3 && rig.cluster.metadata.open_files() == 0
    })
    .await;
    assert_eq!(names(&paths, b"/").await, ["file", "raced"]);
    paths.mkdir(b"/dir", 0o755, false).await.unwrap();
    assert_eq!(
        kind(paths.writer(b"/dir", 0o644, true).await),
        ErrorKind::IsDirectory
    );
    assert_eq!(
        kind(paths.writer(b"/", 0o644, true).await),
        ErrorKind::IsDirectory
    );
    assert_eq!(kind(paths.reader(b"/dir").await), ErrorKind::IsDirectory);
    assert_eq!(kind(paths.reader(b"/none").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn tree_is_removed_bottom_up_without_following_links() {
    let rig = Rig::new();
    let paths = rig.client().await.paths(root());
    paths.mkdir(b"/keep", 0o755, false).await.unwrap();
    write(&paths, b"/keep/file", b"kept", false).await.unwrap();
    for i in 0..20 {
        let dir = format!("/tree/{}/{i}", i % 3);
        paths.mkdir(dir.as_bytes(), 0o755, true).await.unwrap();
        for file in 0..i {
            write(&paths, format!("{dir}/{file}").as_bytes(), b"x", false)
                .await
                .unwrap();
        }
    }
    paths.symlink(b"/tree/0/out", b"/keep").await.unwrap();
    let mut removed = Vec::new();
    let count = paths
        .remove_tree(b"/tree/", &mut |path| removed.push(path.to_vec()))
        .await
        .unwrap();
    assert_eq!(count as usize, removed.len());
    assert_eq!(count, (0..20).sum::<u64>() + 20 + 3 + 1 + 1);
    assert_eq!(removed.last().unwrap(), b"/tree");
    assert!(removed.contains(&b"/tree/0/out".to_vec()));
    assert_eq!(names(&paths, b"/").await, ["keep"]);
    assert_eq!(names(&paths, b"/keep").await, ["file"]);
    assert_eq!(paths.remove_tree(b"/keep/file", &mut |_| {}).await.unwrap(), 1);
    assert_eq!(
        kind(paths.remove_tree(b"/none", &mut |_| {}).await),
        ErrorKind::NotFound
    );
}
