//! Operations on names: one method per operation, named like it.

use crate::client::{Client, Inner};
use crate::session::unexpected;
use crate::types::Entry;
use crate::waiting::What;
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::limits::READDIR_ENTRIES_MAX;
use dfs_common::name::Name;
use dfs_common::op::{OpReply, Operation, RenameMode};
use dfs_common::service::DirPage;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino};
use std::time::Duration;

impl Inner {
    /// Attributes as a program of this client sees them.
    pub(crate) fn entry(&self, mut attr: Attr) -> Entry {
        self.overlay(&mut attr);
        Entry { attr }
    }

    /// Puts this client's unsaved writes over attributes; true if there are any.
    pub(crate) fn overlay(&self, attr: &mut Attr) -> bool {
        if attr.kind == FileKind::File
            && let Some(file) = self.table.file(attr.ino)
        {
            let mut state = file.state.lock();
            state.overlay(attr);
            return state.is_dirty();
        }
        false
    }

    async fn make(&self, what: What, caller: &Caller, op: Operation) -> FsResult<Entry> {
        match self.mutate(what, caller, op).await? {
            OpReply::Entry(entry) => Ok(self.entry(entry.attr)),
            other => Err(unexpected(&other)),
        }
    }

    async fn remove(&self, what: What, caller: &Caller, op: Operation) -> FsResult<()> {
        match self.mutate(what, caller, op).await? {
            OpReply::Removed { ino, nlink } => {
                if nlink == 0
                    && let Some(file) = self.table.file(ino)
                {
                    file.state.lock().nameless = true;
                }
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// Names. Changes are as durable on return as [`dfs_common::Durability`] says. Cancelled, a change may have been made or not.
impl Client {
    /// Finds a name.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `PermissionDenied`, `Stale`.
    pub async fn lookup(&self, caller: &Caller, parent: Ino, name: &Name) -> FsResult<Entry> {
        let inner = self.inner();
        let attr = inner.find(caller, parent, name).await?;
        Ok(inner.entry(attr))
    }

    /// For how long a cache above (the kernel) may answer by itself that `name` is `ino`, or, with `None`, that it is not there: as long as the lease, if
    /// that is what is true now, and else not at all. To be asked *after* the cache above has noted what it will be given: then either a recall
    /// finds that note, or it came before and is seen here.
    pub fn name_holds(&self, parent: Ino, name: &Name, ino: Option<Ino>) -> Duration {
        self.inner().leased.name_holds(parent, name, ino)
    }

    /// As [`Client::name_holds`], of attributes. What is unsaved will change them again when it is saved.
    pub fn attributes_hold(&self, attr: &Attr) -> Duration {
        let inner = self.inner();
        let mut unsaved = false;
        let holds = inner
            .leased
            .attr_holds(attr, |leased| unsaved = inner.overlay(leased));
        match unsaved {
            true => Duration::ZERO,
            false => holds,
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub async fn mkdir(&self, caller: &Caller, parent: Ino, name: &Name, mode: u32) -> FsResult<Entry> {
        let op = Operation::Mkdir {
            parent,
            name: name.clone(),
            mode,
        };
        self.inner()
            .make(What::of("mkdir in the directory", parent), caller, op)
            .await
    }

    /// Makes a fifo, socket, device or empty file.
    ///
    /// # Errors
    /// Those of mknod(2).
    pub async fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> FsResult<Entry> {
        let op = Operation::Mknod {
            parent,
            name: name.clone(),
            kind,
            mode,
            rdev,
        };
        self.inner()
            .make(What::of("mknod in the directory", parent), caller, op)
            .await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlink(2).
    pub async fn symlink(&self, caller: &Caller, parent: Ino, name: &Name, target: Bytes) -> FsResult<Entry> {
        let op = Operation::Symlink {
            parent,
            name: name.clone(),
            target,
        };
        self.inner()
            .make(What::of("symlink in the directory", parent), caller, op)
            .await
    }

    /// Adds a name to an inode.
    ///
    /// # Errors
    /// Those of link(2).
    pub async fn link(&self, caller: &Caller, ino: Ino, parent: Ino, name: &Name) -> FsResult<Entry> {
        let op = Operation::Link {
            ino,
            parent,
            name: name.clone(),
        };
        self.inner().make(What::of("link", ino), caller, op).await
    }

    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub async fn unlink(&self, caller: &Caller, parent: Ino, name: &Name) -> FsResult<()> {
        let op = Operation::Unlink {
            parent,
            name: name.clone(),
        };
        self.inner()
            .remove(What::of("unlink in the directory", parent), caller, op)
            .await
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub async fn rmdir(&self, caller: &Caller, parent: Ino, name: &Name) -> FsResult<()> {
        let op = Operation::Rmdir {
            parent,
            name: name.clone(),
        };
        self.inner()
            .remove(What::of("rmdir in the directory", parent), caller, op)
            .await
    }

    /// Moves a name; atomic for every observer.
    ///
    /// # Errors
    /// Those of renameat2(2).
    pub async fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        new_parent: Ino,
        new_name: &Name,
        mode: RenameMode,
    ) -> FsResult<()> {
        let op = Operation::Rename {
            parent,
            name: name.clone(),
            new_parent,
            new_name: new_name.clone(),
            mode,
        };
        let what = What::of("rename in the directory", parent);
        match self.inner().mutate(what, caller, op).await? {
            OpReply::Renamed { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` if it is none, `Stale`.
    pub async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        let inner = self.inner();
        let ask = |identity| inner.metadata.readlink(identity, ino);
        inner.call(What::of("readlink", ino), ask).await
    }

    /// A page of a directory after `cursor` (0: from the start), without `.` and `..`; `DirPage::parent` tells `..`.
    /// Attributes include this client's unsaved writes.
    ///
    /// # Errors
    /// `NotDirectory`, `PermissionDenied` (at the start), `Stale`.
    pub async fn readdir(
        &self,
        caller: &Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let inner = self.inner();
        let limit = limit.clamp(1, READDIR_ENTRIES_MAX);
        let mut page = inner.list(caller, ino, cursor, limit, attrs).await?;
        for attr in page.entries.iter_mut().filter_map(|entry| entry.attr.as_mut()) {
            inner.overlay(attr);
        }
        Ok(page)
    }
}
