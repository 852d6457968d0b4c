//! Copying one local file or link into DFS.
//!
//! Invariant: what was begun under a temporary name is finished or taken back, as long as the cluster answers.

use super::walk::Found;
use crate::context::{Cluster, interrupted};
use crate::local::{atime_of, kind_of, local_error, mtime_of, read_pieces};
use crate::path::DfsPath;
use crate::progress::{FileProgress, Progress};
use crate::transfer::{About, Copied, Failure, blocking, unless};
use dfs_client::FileWriter;
use dfs_common::attr::{Attr, FileKind, SetAttr, SetTime};
use dfs_common::op::RenameMode;
use dfs_common::{ErrorKind, FsResult};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces of one file that reading may be ahead of the client library.
const PIECES_QUEUE: usize = 2;
/// Patience with taking back or finishing a copy after the user stopped the command.
const SETTLING: Duration = Duration::from_secs(5);

/// Everything that copying one file needs.
pub(super) struct Job {
    /// Where to.
    pub(super) cluster: Cluster,
    /// Cancelled when the copy shall be given up.
    pub(super) stop: CancellationToken,
    /// The bars.
    pub(super) progress: Arc<Progress>,
    /// Replace what is there.
    pub(super) overwrite: bool,
    /// Keep modes and times.
    pub(super) preserve: bool,
    /// Keep owners too.
    pub(super) as_root: bool,
    /// Permission bits that are not copied.
    pub(super) umask: u32,
}

impl Job {
    /// What the copy gets at the end.
    pub(super) fn attributes(&self, metadata: &Metadata, made: &Attr) -> SetAttr {
        if !self.preserve {
            // The group of a set-group-id directory is inherited with the bit.
            let mode = metadata.mode() & 0o777 & !self.umask | made.mode & 0o2000;
            return SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            };
        }
        SetAttr {
            mode: (kind_of(metadata) != FileKind::Symlink).then_some(metadata.mode() & 0o7777),
            uid: self.as_root.then_some(metadata.uid()),
            gid: self.as_root.then_some(metadata.gid()),
            size: None,
            atime: Some(SetTime::At(atime_of(metadata))),
            mtime: Some(SetTime::At(mtime_of(metadata))),
        }
    }

    async fn exists(&self, target: &DfsPath) -> Result<bool, Failure> {
        match unless(&self.stop, self.cluster.paths.stat(target.as_bytes(), false)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).about(target.as_bytes()),
        }
    }

    /// Copies a regular file.
    pub(super) async fn file(self, found: Found) -> Result<Copied, Failure> {
        let (source, target) = (found.local.as_os_str().as_bytes(), found.target.as_bytes());
        let size = found.metadata.size();
        if !self.overwrite && self.exists(&found.target).await? {
            self.progress.skip(size);
            return Ok(Copied::Skipped);
        }
        let local = found.local.clone();
        let file = blocking(move || std::fs::File::open(local).map_err(local_error)).await;
        let file = file.about(source)?;
        let mode = found.metadata.mode() & 0o777 & !self.umask;
        let opening = self.cluster.paths.writer(target, mode, self.overwrite);
        let mut writer = match unless(&self.stop, opening).await {
            Err(error) if error.kind() == ErrorKind::Exists && !self.overwrite => return Ok(Copied::Skipped),
            opened => opened.about(target)?,
        };
        let bar = self.progress.file(source, size);
        let (sender, mut pieces) = mpsc::channel(PIECES_QUEUE);
        let reader = tokio::task::spawn_blocking(move || read_pieces(file, &sender));
        let copying = copy(&self.cluster, &mut writer, &mut pieces, &bar, source, target);
        let copied = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(interrupted()).about(source),
            copied = copying => copied,
        };
        drop(pieces);
        let _ = reader.await;
        let bytes = match copied {
            Ok(bytes) => bytes,
            Err(failure) => {
                if tokio::time::timeout(SETTLING, writer.abort()).await.is_err() {
                    tracing::warn!(target = %found.target, "the temporary file was not taken back in time");
                }
                return Err(failure);
            }
        };
        let finished = tokio::select! {
            finished = writer.finish() => finished,
            () = async {
                self.stop.cancelled().await;
                tokio::time::sleep(SETTLING).await;
            } => Err(interrupted()),
        };
        let made = match finished {
            Err(error) if error.kind() == ErrorKind::Exists && !self.overwrite => return Ok(Copied::Skipped),
            finished => finished.about(target)?,
        };
        if self.preserve {
            let set = self.attributes(&found.metadata, &made);
            unless(&self.stop, self.cluster.paths.set_attributes(target, set, false))
                .await
                .about(target)?;
        }
        Ok(Copied::File(bytes))
    }

    /// Copies a symbolic link.
    pub(super) async fn symlink(self, found: Found) -> Result<Copied, Failure> {
        let (source, target) = (found.local.as_os_str().as_bytes(), found.target.as_bytes());
        let local = found.local.clone();
        let points_to = blocking(move || std::fs::read_link(local).map_err(local_error)).await;
        let points_to = points_to.about(source)?;
        let points_to = points_to.as_os_str().as_bytes();
        let made = unless(&self.stop, self.link(&found.target, points_to)).await;
        if !made.about(target)? {
            return Ok(Copied::Skipped);
        }
        if self.preserve {
            let set = SetAttr {
                uid: self.as_root.then_some(found.metadata.uid()),
                gid: self.as_root.then_some(found.metadata.gid()),
                atime: Some(SetTime::At(atime_of(&found.metadata))),
                mtime: Some(SetTime::At(mtime_of(&found.metadata))),
                ..SetAttr::default()
            };
            unless(&self.stop, self.cluster.paths.set_attributes(target, set, false))
                .await
                .about(target)?;
        }
        Ok(Copied::Symlink)
    }

    /// Makes a link; one that is there is replaced at once by way of a temporary name. False if it was left alone.
    async fn link(&self, target: &DfsPath, points_to: &[u8]) -> FsResult<bool> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        match self.cluster.paths.symlink(target.as_bytes(), points_to).await {
            Err(error) if error.kind() == ErrorKind::Exists => {}
            made => return made.map(|_| true),
        }
        if !self.overwrite {
            return Ok(false);
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".dfs-upload-{}-{}-{number}", std::process::id(), time_stamp());
        let temporary = target.parent().join(name.as_bytes());
        self.cluster
            .paths
            .symlink(temporary.as_bytes(), points_to)
            .await?;
        let renamed = self
            .cluster
            .paths
            .rename(temporary.as_bytes(), target.as_bytes(), RenameMode::Replace)
            .await;
        if renamed.is_err() {
            // What made the renaming fail counts, not this.
            let _ = self.cluster.paths.remove(temporary.as_bytes()).await;
        }
        renamed.map(|()| true)
    }
}

/// Keeps temporary names of two machines apart.
fn time_stamp() -> u64 {
    use dfs_common::clock::{Clock, SystemClock};
    SystemClock::default().now_unix_ms()
}

async fn copy(
    cluster: &Cluster,
    writer: &mut FileWriter,
    pieces: &mut mpsc::Receiver<FsResult<Vec<u8>>>,
    bar: &FileProgress,
    source: &[u8],
    target: &[u8],
) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(piece) = pieces.recv().await {
        let piece = piece.about(source)?;
        cluster.held_up(writer.write(&piece)).await.about(target)?;
        bytes += piece.len() as u64;
        bar.advance(piece.len() as u64);
    }
    Ok(bytes)
}
