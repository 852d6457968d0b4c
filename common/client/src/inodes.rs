//! Operations on inodes: one method per operation, named like it.

use crate::client::Client;
use crate::file::File;
use crate::session::unexpected;
use crate::types::{Entry, FileHandle};
use crate::waiting::What;
use bytes::Bytes;
use dfs_common::attr::SetAttr;
use dfs_common::cluster::StatFs;
use dfs_common::op::{OpReply, Operation, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino, TreeUsage};
use std::sync::Arc;

/// Inodes. Changes are as durable on return as [`dfs_common::Durability`] says.
impl Client {
    /// Attributes, with this client's unsaved writes.
    ///
    /// # Errors
    /// `Stale`.
    pub async fn getattr(&self, ino: Ino) -> FsResult<Entry> {
        let inner = self.inner();
        let attr = inner.attributes(ino).await?;
        Ok(inner.entry(attr))
    }

    /// Changes attributes. What is unsaved of the file is saved first, so that a later commit does not undo the change.
    /// With a `handle` open for writing, its size may be changed whatever the mode says (ftruncate).
    ///
    /// # Errors
    /// Those of chmod(2), chown(2), truncate(2), utimensat(2).
    pub async fn setattr(
        &self,
        caller: &Caller,
        ino: Ino,
        set: SetAttr,
        handle: Option<FileHandle>,
    ) -> FsResult<Entry> {
        let inner = self.inner();
        let by_handle = match handle {
            Some(handle) if set.size.is_some() => {
                let handle = inner.table.get(handle)?;
                handle.check_locks()?;
                handle.file.ino == ino && handle.write
            }
            _ => false,
        };
        if let Some(file) = inner.table.file(ino) {
            return self.setattr_open(caller, &file, set, by_handle).await;
        }
        let op = Operation::Setattr { ino, set, by_handle };
        match inner.mutate(What::of("setattr", ino), caller, op).await? {
            OpReply::Attr(attr) => Ok(inner.entry(attr)),
            other => Err(unexpected(&other)),
        }
    }

    /// Of a file that is open here.
    pub(crate) async fn setattr_open(
        &self,
        caller: &Caller,
        file: &Arc<File>,
        set: SetAttr,
        by_handle: bool,
    ) -> FsResult<Entry> {
        let inner = self.inner();
        let ino = file.ino;
        let last = inner.seal(file);
        let _order = file.order.lock().await;
        let mut unsaved = false;
        if let Some(last) = last {
            match inner.save_up_to(file, last).await {
                Ok(_) => {}
                Err(error) if error.kind().is_retryable() => return Err(error),
                // Remembered for fsync and close. A truncation may be what makes room.
                Err(_) => unsaved = true,
            }
        }
        let _changing = file.changing();
        let size = set.size;
        let op = Operation::Setattr { ino, set, by_handle };
        let attr = match inner.mutate(What::of("setattr", ino), caller, op).await? {
            OpReply::Attr(attr) => attr,
            other => return Err(unexpected(&other)),
        };
        let mut entry = Entry { attr: attr.clone() };
        let mut state = file.state.lock();
        if let Some(size) = size {
            state.map.truncate(attr.map_version, size);
            if unsaved {
                let cut = state.cut(size);
                inner.dirty.give_back(cut);
            }
        }
        state.changed(attr);
        state.overlay(&mut entry.attr);
        drop(state);
        if unsaved {
            inner.unsaved.forget_clean(file);
        }
        Ok(entry)
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `PermissionDenied`, `Stale`.
    pub async fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
        let inner = self.inner();
        let name = Bytes::copy_from_slice(name);
        let ask = |identity| {
            inner
                .metadata
                .getxattr(identity, caller.clone(), ino, name.clone())
        };
        inner.call(What::of("getxattr", ino), ask).await
    }

    /// Names of the extended attributes that `caller` may see.
    ///
    /// # Errors
    /// `Stale`.
    pub async fn listxattr(&self, caller: &Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let inner = self.inner();
        let ask = |identity| inner.metadata.listxattr(identity, caller.clone(), ino);
        inner.call(What::of("listxattr", ino), ask).await
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub async fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        mode: XattrMode,
    ) -> FsResult<()> {
        let op = Operation::Setxattr {
            ino,
            name: Bytes::copy_from_slice(name),
            value,
            mode,
        };
        self.change_xattr(What::of("setxattr", ino), caller, op).await
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Those of removexattr(2).
    pub async fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> FsResult<()> {
        let name = Bytes::copy_from_slice(name);
        let op = Operation::Removexattr { ino, name };
        self.change_xattr(What::of("removexattr", ino), caller, op).await
    }

    async fn change_xattr(&self, what: What, caller: &Caller, op: Operation) -> FsResult<()> {
        match self.inner().mutate(what, caller, op).await? {
            OpReply::Attr(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// What lies below a directory, or of anything else the inode itself, and what quotas leave. Unsaved data is not counted.
    ///
    /// # Errors
    /// `Stale`; `Unavailable` when the patience ends; `UnknownVersion` by a coordinator that does not count.
    pub async fn usage(&self, ino: Ino) -> FsResult<TreeUsage> {
        let inner = self.inner();
        let ask = |identity| inner.metadata.usage(identity, ino);
        inner.call(What::of("usage", ino), ask).await
    }

    /// Totals as `ino` sees them: below a quota no more than that allows is there, and used is what lies below its directory.
    ///
    /// # Errors
    /// As [`Client::statfs`].
    pub async fn statfs_at(&self, ino: Ino) -> FsResult<StatFs> {
        let mut totals = self.statfs().await?;
        // Asked of an inode that is gone, or a coordinator that does not count, the totals are true as well.
        let Ok(usage) = self.usage(ino).await else {
            return Ok(totals);
        };
        if let Some(allowed) = usage.bytes_allowed
            && allowed.limit < totals.capacity_bytes
        {
            totals.capacity_bytes = allowed.limit;
            totals.available_bytes = totals.available_bytes.min(allowed.left());
            totals.used_bytes = allowed.used;
        }
        Ok(totals)
    }

    /// Totals of the cluster.
    ///
    /// # Errors
    /// `Unavailable` when the patience ends.
    pub async fn statfs(&self) -> FsResult<StatFs> {
        let inner = self.inner();
        let ask = |identity| inner.metadata.statfs(identity);
        inner.call(What::new("statfs"), ask).await
    }
}
