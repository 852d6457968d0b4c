//! Operations by path, for the command line and the gateway: a path is resolved name by name at every call.

mod transfer;
mod tree;
mod walk;

pub use transfer::{FileReader, FileWriter};

use crate::client::Client;
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind, SetAttr};
use dfs_common::op::RenameMode;
use dfs_common::service::DirPage;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsResult, TreeUsage};

/// Operations on paths (`/a/b`, any bytes), on behalf of one caller. Symbolic links are followed, the last one unless
/// said otherwise.
///
/// Common errors: `NotFound`, `NotDirectory`, `Loop`, `NameTooLong`, `PermissionDenied`.
#[derive(Clone)]
pub struct PathApi {
    client: Client,
    caller: Caller,
}

impl PathApi {
    pub(crate) fn new(client: Client, caller: Caller) -> Self {
        PathApi { client, caller }
    }

    /// Attributes; of a symbolic link itself unless `follow`.
    pub async fn stat(&self, path: &[u8], follow: bool) -> FsResult<Attr> {
        Ok(self.find(path, follow).await?.attr)
    }

    /// What lies below a directory, or of anything else the inode itself; of a symbolic link itself unless `follow`.
    pub async fn usage(&self, path: &[u8], follow: bool) -> FsResult<TreeUsage> {
        let found = self.find(path, follow).await?;
        self.client.usage(found.attr.ino).await
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` if it is none.
    pub async fn readlink(&self, path: &[u8]) -> FsResult<Bytes> {
        let found = self.find(path, false).await?;
        self.client.readlink(found.attr.ino).await
    }

    /// A page of a directory after `cursor` (0: from the start), with attributes.
    pub async fn list(&self, path: &[u8], cursor: u64, limit: u32) -> FsResult<DirPage> {
        let found = self.find(path, true).await?;
        self.client
            .readdir(&self.caller, found.attr.ino, cursor, limit, true)
            .await
    }

    /// Makes a directory. With `parents` the missing ones above it too, and one that exists is no error.
    pub async fn mkdir(&self, path: &[u8], mode: u32, parents: bool) -> FsResult<Attr> {
        if parents {
            return self.make_directories(path, mode).await;
        }
        let place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::Exists)?;
        Ok(self.client.mkdir(&self.caller, parent, name, mode).await?.attr)
    }

    /// Removes a file, a link or an empty directory; the last link is not followed.
    pub async fn remove(&self, path: &[u8]) -> FsResult<()> {
        let place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::Busy)?;
        let found = self.client.lookup(&self.caller, parent, name).await?;
        match found.attr.kind {
            FileKind::Directory => self.client.rmdir(&self.caller, parent, name).await,
            _ if place.directory => Err(walk::not_directory(path)),
            _ => self.client.unlink(&self.caller, parent, name).await,
        }
    }

    /// Moves a name; neither last link is followed.
    pub async fn rename(&self, from: &[u8], to: &[u8], mode: RenameMode) -> FsResult<()> {
        let (from, to) = (self.place(from).await?, self.place(to).await?);
        let (parent, name) = from.named(ErrorKind::Busy)?;
        let (new_parent, new_name) = to.named(ErrorKind::Busy)?;
        self.client
            .rename(&self.caller, parent, name, new_parent, new_name, mode)
            .await
    }

    /// Makes a symbolic link at `path`.
    pub async fn symlink(&self, path: &[u8], target: &[u8]) -> FsResult<Attr> {
        let place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::Exists)?;
        let target = Bytes::copy_from_slice(target);
        Ok(self
            .client
            .symlink(&self.caller, parent, name, target)
            .await?
            .attr)
    }

    /// Changes attributes; of a symbolic link itself unless `follow`.
    pub async fn set_attributes(&self, path: &[u8], set: SetAttr, follow: bool) -> FsResult<Attr> {
        let found = self.find(path, follow).await?;
        Ok(self
            .client
            .setattr(&self.caller, found.attr.ino, set, None)
            .await?
            .attr)
    }
}
