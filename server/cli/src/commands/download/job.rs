//! Copying one file or link from DFS to this machine.
//!
//! Invariant: until a copy is complete it is a [`Temporary`], which is gone when it is given up.

use crate::local::{Attributes, PIECE_BYTES, SparseFile, Temporary};
use crate::path::DfsPath;
use crate::progress::{FileProgress, Progress};
use crate::transfer::{About, Copied, Failure, blocking, unless};
use bytes::Bytes;
use dfs_client::{FileReader, PathApi};
use dfs_common::attr::{Attr, FileKind};
use dfs_common::{ErrorKind, FsError, FsResult};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces of one file that the client library may be ahead of writing.
const PIECES_QUEUE: usize = 4;

/// Everything that copying one file needs.
pub(super) struct Job {
    /// Files in DFS.
    pub(super) paths: Arc<PathApi>,
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
    pub(super) fn attributes(&self, attr: &Attr) -> Attributes {
        if !self.preserve {
            return Attributes {
                mode: Some(attr.mode & 0o777 & !self.umask),
                ..Attributes::default()
            };
        }
        Attributes {
            mode: Some(attr.mode & 0o7777),
            times: Some((attr.atime, attr.mtime)),
            owner: self.as_root.then_some((attr.uid, attr.gid)),
        }
    }

    /// Whether the target is there and shall be left alone.
    fn is_kept(&self, target: &Path) -> bool {
        !self.overwrite && target.symlink_metadata().is_ok()
    }

    /// Copies a regular file.
    pub(super) async fn file(&self, source: &DfsPath, target: &Path, attr: &Attr) -> Result<Copied, Failure> {
        let (from, to) = (source.as_bytes(), target.as_os_str().as_bytes());
        if self.is_kept(target) {
            self.progress.skip(attr.size);
            return Ok(Copied::Skipped);
        }
        let reader = unless(&self.stop, self.paths.reader(from)).await.about(from)?;
        let copied = self.content(&reader, from, target, attr).await;
        reader.close().await;
        let (temporary, bytes) = copied?;
        let attributes = self.attributes(attr);
        let (path, overwrite) = (target.to_owned(), self.overwrite);
        let named = blocking(move || {
            attributes.apply(temporary.path(), FileKind::File)?;
            temporary.persist(&path, overwrite)
        });
        match named.await {
            Err(error) if error.kind() == ErrorKind::Exists && !self.overwrite => Ok(Copied::Skipped),
            named => named.map(|()| Copied::File(bytes)).about(to),
        }
    }

    /// Copies the content into a temporary file beside `target`.
    async fn content(
        &self,
        reader: &FileReader,
        from: &[u8],
        target: &Path,
        attr: &Attr,
    ) -> Result<(Temporary, u64), Failure> {
        let to = target.as_os_str().as_bytes();
        let beside = target.to_owned();
        let (temporary, file) = blocking(move || Temporary::file(&beside)).await.about(to)?;
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES_QUEUE);
        let writing = tokio::spawn(blocking(move || {
            let mut file = SparseFile::new(file);
            while let Some(piece) = pieces.blocking_recv() {
                file.write(&piece)?;
            }
            file.finish()
        }));
        let bar = self.progress.file(from, attr.size);
        let read = unless(&self.stop, read(reader, &sender, &bar)).await;
        drop(sender);
        let written = writing.await.unwrap_or_else(|error| {
            Err(FsError::new(
                ErrorKind::Io,
                format!("writing ended unexpectedly: {error}"),
            ))
        });
        // A failed disk is why nobody took the pieces.
        written.about(to)?;
        Ok((temporary, read.about(from)?))
    }

    /// Copies a symbolic link.
    pub(super) async fn symlink(
        &self,
        source: &DfsPath,
        target: &Path,
        attr: &Attr,
    ) -> Result<Copied, Failure> {
        let (from, to) = (source.as_bytes(), target.as_os_str().as_bytes());
        if self.is_kept(target) {
            return Ok(Copied::Skipped);
        }
        let points_to = unless(&self.stop, self.paths.readlink(from)).await.about(from)?;
        let mut attributes = self.attributes(attr);
        attributes.mode = None;
        let (path, overwrite) = (target.to_owned(), self.overwrite);
        let made = blocking(move || {
            let temporary = Temporary::symlink(&path, &points_to)?;
            attributes.apply(temporary.path(), FileKind::Symlink)?;
            temporary.persist(&path, overwrite)
        });
        match made.await {
            Err(error) if error.kind() == ErrorKind::Exists && !self.overwrite => Ok(Copied::Skipped),
            made => made.map(|()| Copied::Symlink).about(to),
        }
    }
}

/// Reads to the end of the file; ends early when nobody receives any more.
async fn read(reader: &FileReader, pieces: &mpsc::Sender<Bytes>, bar: &FileProgress) -> FsResult<u64> {
    let mut offset = 0;
    loop {
        let piece = reader.read(offset, PIECE_BYTES as u32).await?;
        let length = piece.len();
        if length > 0 && pieces.send(piece).await.is_err() {
            return Ok(offset);
        }
        offset += length as u64;
        bar.advance(length as u64);
        if length < PIECE_BYTES {
            return Ok(offset);
        }
    }
}
