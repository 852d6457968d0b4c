//! Operations on open files: one method per operation, named like it.

use crate::client::{Client, Inner};
use crate::extent_map::ExtentMap;
use crate::file::{File, Handle};
use crate::session::recovery::OpensKnown;
use crate::session::{Granted, unexpected};
use crate::types::{Created, FileHandle, OpenFlags, OpenedFile};
use crate::waiting::What;
use crate::writer::write::Written;
use bytes::Bytes;
use dfs_common::attr::{Attr, SetAttr};
use dfs_common::extent::ExtentPage;
use dfs_common::name::Name;
use dfs_common::op::{OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A write that is in memory, and not to be acknowledged yet.
#[derive(Debug)]
pub struct BegunWrite {
    handle: FileHandle,
    offset: u64,
    written: Written,
}

/// What an open knows of the map.
enum MapSource {
    /// It made the file.
    New,
    /// The first page.
    Page(ExtentPage),
    Unknown,
}

impl OpenFlags {
    fn writes(self) -> bool {
        self.write || self.append
    }
}

/// Open files.
impl Client {
    /// Opens a file, making it if it is absent; `exclusive` fails with `Exists` instead. The name is as durable on return as
    /// [`dfs_common::Durability`] says.
    ///
    /// # Errors
    /// Those of open(2) with O_CREAT.
    pub async fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        exclusive: bool,
        flags: OpenFlags,
    ) -> FsResult<Created> {
        let inner = self.inner();
        let known = inner.opens_known();
        let op = Operation::Create {
            parent,
            name: name.clone(),
            mode,
            exclusive,
            read: flags.read,
            write: flags.writes(),
        };
        let (reply, granted) = inner
            .mutate_opening(What::of("create in the directory", parent), caller, op)
            .await?;
        let (attr, existed) = match reply {
            OpReply::Created { entry, existed } => (entry.attr, existed),
            other => return Err(unexpected(&other)),
        };
        let source = match existed {
            true => MapSource::Unknown,
            false => MapSource::New,
        };
        let opened = inner.attach(caller, attr, source, granted, flags);
        self.declared(opened.handle, &known).await?;
        let opened = match existed {
            true => self.truncated(caller, opened, flags).await?,
            false => opened,
        };
        let entry = inner.entry(opened.attr);
        Ok(Created {
            entry,
            handle: opened.handle,
            existed,
            keep_cache: opened.keep_cache,
            direct: opened.direct,
        })
    }

    /// Opens a file. What other clients saved before is seen by its reads.
    ///
    /// # Errors
    /// Those of open(2); `Stale` if the inode is gone.
    pub async fn open(&self, caller: &Caller, ino: Ino, flags: OpenFlags) -> FsResult<OpenedFile> {
        let inner = self.inner();
        let known = inner.opens_known();
        let ask = |identity| {
            inner
                .metadata
                .open(identity, caller.clone(), ino, flags.read, flags.writes())
        };
        let stamp = inner.leased.stamp();
        let opened = inner.call(What::of("open", ino), ask).await?;
        let access = opened.access;
        let granted = Some(Granted { stamp, access });
        let source = MapSource::Page(opened.extents);
        let opened = inner.attach(caller, opened.attr, source, granted, flags);
        self.declared(opened.handle, &known).await?;
        self.truncated(caller, opened, flags).await
    }

    /// Sees to it that the coordinator counts the open that came into the table just now.
    async fn declared(&self, handle: FileHandle, known: &OpensKnown) -> FsResult<()> {
        let declared = self.inner().declare_since(known).await;
        if declared.is_err() {
            self.release(handle).await;
        }
        declared
    }

    /// Does what O_TRUNC asks for with a file that was there: its times change even if it was empty.
    async fn truncated(&self, caller: &Caller, opened: OpenedFile, flags: OpenFlags) -> FsResult<OpenedFile> {
        let inner = self.inner();
        let file = inner.table.get(opened.handle)?.file.clone();
        if !flags.truncate {
            return Ok(opened);
        }
        let set = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        match self.setattr_open(caller, &file, set, flags.writes()).await {
            Ok(entry) => Ok(OpenedFile {
                attr: entry.attr,
                keep_cache: false,
                ..opened
            }),
            Err(error) => {
                self.release(opened.handle).await;
                Err(error)
            }
        }
    }

    /// Bytes from `offset`, at most `length`; short only at the end of the file. Sees every write of this client.
    ///
    /// # Errors
    /// `BadHandle` if it is not open for reading; `Io` if no replica has the data.
    pub async fn read(&self, handle: FileHandle, offset: u64, length: u32) -> FsResult<Bytes> {
        let handle = self.inner().table.get(handle)?;
        if !handle.read {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                "the file is not open for reading",
            ));
        }
        handle.check_locks()?;
        self.inner().read_range(&handle, offset, length).await
    }

    /// Writes all of `data` into memory, at `offset` or, if the file was opened for appending, at its end; waits while too
    /// much is unsaved. Not durable before [`Client::fsync`].
    ///
    /// # Errors
    /// `BadHandle` if it is not open for writing; `NoSpace` and others if earlier writes could not be saved; `FileTooBig`.
    pub async fn write(
        &self,
        caller: &Caller,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
    ) -> FsResult<u32> {
        let handle = self.writable(handle)?;
        let written = self.inner().write_range(&handle, caller, offset, data).await?;
        self.inner().settle_write(&handle, offset, written).await
    }

    /// The first part of [`Client::write`], of a file that this client buffers writes of ([`Client::buffers`]): may be dropped while it waits, and made
    /// again with the same data. What it answers is to be passed to [`Client::settle_write`] at once.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn begin_write(
        &self,
        caller: &Caller,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
    ) -> FsResult<BegunWrite> {
        let open = self.writable(handle)?;
        let written = self.inner().write_range(&open, caller, offset, data).await?;
        Ok(BegunWrite {
            handle,
            offset,
            written,
        })
    }

    /// The answer to a write that needs nothing more.
    pub fn is_settled(&self, begun: &BegunWrite) -> Option<u32> {
        let settled = begun.written.elsewhere.is_none() && self.buffers(begun.handle);
        settled.then_some(begun.written.length)
    }

    /// The second part of [`Client::write`].
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn settle_write(&self, begun: BegunWrite) -> FsResult<u32> {
        let handle = self.inner().table.get(begun.handle)?;
        self.inner()
            .settle_write(&handle, begun.offset, begun.written)
            .await
    }

    /// Writes of the file are acknowledged before they are committed, for now.
    pub fn buffers(&self, handle: FileHandle) -> bool {
        let handle = self.inner().table.get(handle);
        handle.is_ok_and(|handle| self.inner().may_buffer(&handle.file))
    }

    fn writable(&self, handle: FileHandle) -> FsResult<Arc<Handle>> {
        let handle = self.inner().table.get(handle)?;
        if !handle.write {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                "the file is not open for writing",
            ));
        }
        handle.check_locks()?;
        Ok(handle)
    }

    /// close(2) of one descriptor: saves what is unsaved of the file, and reports an error of saving once per open file.
    ///
    /// # Errors
    /// Why the file could not be saved.
    pub async fn flush(&self, handle: FileHandle) -> FsResult<()> {
        let handle = self.inner().table.get(handle)?;
        self.flushed(&handle).await.map(drop)
    }

    /// [`Client::flush`]; answers as [`Inner::save`].
    async fn flushed(&self, handle: &Handle) -> FsResult<bool> {
        let inner = self.inner();
        let saved = inner.save(&handle.file).await;
        let (errors, error) = {
            let state = handle.file.state.lock();
            (state.errors, state.error.clone())
        };
        let seen = handle.errors_seen.swap(errors, Ordering::SeqCst);
        let durable = saved?;
        match error {
            Some(error) if seen < errors => Err(error),
            _ => Ok(durable),
        }
    }

    /// On success everything written to the file is durable on the datanodes and in the file's map, and so is its name.
    ///
    /// # Errors
    /// As [`Client::flush`]; `Io`, once per handle, if acknowledged changes of the file were lost.
    pub async fn fsync(&self, handle: FileHandle) -> FsResult<()> {
        let inner = self.inner();
        let handle = inner.table.get(handle)?;
        let ino = handle.file.ino;
        let _fsyncing = inner.session.begin_fsync();
        let synced = match self.flushed(&handle).await {
            Ok(true) => Ok(()),
            Ok(false) => inner.sync_names(ino).await,
            Err(error) => Err(error),
        };
        // Whatever else happened: it is told once.
        inner.session.unsynced.report(ino, &handle.losses_seen)?;
        synced
    }

    /// On success every change of the directory's names that was acknowledged before is durable.
    ///
    /// # Errors
    /// `Stale`; `Io` for a minute after acknowledged changes of the directory were lost.
    pub async fn fsyncdir(&self, ino: Ino) -> FsResult<()> {
        let inner = self.inner();
        inner.sync_names(ino).await?;
        // Who asks, and whether it was told before, is not known: a directory is opened to be synced.
        inner.session.unsynced.report(ino, &AtomicU64::new(0))
    }

    /// Last close of the handle. Never fails for the program and waits for nothing.
    pub async fn release(&self, handle: FileHandle) {
        let inner = self.inner();
        let number = handle;
        let (handle, unsaved) = {
            let _moving = inner.table.moving();
            let Some(handle) = inner.table.remove(handle) else {
                return;
            };
            let mut state = handle.file.state.lock();
            state.handles -= 1;
            state.releases += usize::from(!handle.stale.load(Ordering::SeqCst));
            let unsaved = state.handles == 0 && state.is_dirty();
            drop(state);
            (handle, unsaved)
        };
        inner.unlock_released(number, handle.file.ino);
        if !unsaved {
            inner.finish(&handle.file);
            return;
        }
        let (task, file) = (inner.clone(), handle.file.clone());
        inner.spawn(async move {
            if let Err(error) = task.save(&file).await
                && file.state.lock().handles == 0
                && file.give_up(&task.dirty, None)
            {
                if file.is_wanted() {
                    tracing::error!(ino = %file.ino, %error, "unsaved writes of a closed file are lost");
                }
                task.unsaved.forget(file.ino);
            }
            task.finish(&file);
        });
    }

    /// Tells the coordinator now of every file that was closed: what a removed one held counts against quotas until then. A release that is not
    /// confirmed is left to the end of the session.
    pub async fn send_releases(&self) {
        self.inner().send_pending_releases().await;
    }

    /// Gives up what is unsaved of a file that is about to be removed.
    pub(crate) fn discard(&self, handle: FileHandle) {
        if let Ok(handle) = self.inner().table.get(handle) {
            handle.file.give_up(&self.inner().dirty, None);
            self.inner().unsaved.forget_clean(&handle.file);
        }
    }

    /// True if [`Client::flush`] has nothing to do.
    pub fn is_clean(&self, handle: FileHandle) -> bool {
        match self.inner().table.get(handle) {
            Ok(handle) => {
                let state = handle.file.state.lock();
                !state.is_dirty() && handle.errors_seen.load(Ordering::SeqCst) == state.errors
            }
            Err(_) => false,
        }
    }
}

impl Inner {
    async fn sync_names(&self, ino: Ino) -> FsResult<()> {
        let ask = |identity| self.metadata.fsync(identity, ino);
        let point = self.call(What::of("fsync", ino), ask).await?;
        self.catch_up(&point).await
    }

    /// A handle on what the coordinator opened.
    fn attach(
        &self,
        caller: &Caller,
        mut attr: Attr,
        source: MapSource,
        granted: Option<Granted>,
        flags: OpenFlags,
    ) -> OpenedFile {
        let version = attr.map_version;
        let new = matches!(source, MapSource::New);
        let map = || match new {
            true => ExtentMap::empty_file(version),
            false => ExtentMap::default(),
        };
        let (file, first) = self.table.join(&attr, map);
        let (keep_cache, errors) = {
            let mut state = file.state.lock();
            state.overlay(&mut attr);
            let leased =
                granted.is_some_and(|Granted { stamp, access }| self.granted(&mut state, stamp, &access));
            match source {
                MapSource::Page(extents) if leased => drop(state.map.load(0, extents)),
                _ if !leased => state.map.clear(),
                _ => {}
            }
            let keep = match first {
                true => leased && (new || self.pages.are(attr.ino, version)),
                // Opening drops the pages of all handles of the inode.
                false => !std::mem::take(&mut state.foreign),
            };
            state.dropping |= !keep;
            (keep, state.errors)
        };
        let may_keep = granted.is_some_and(|granted| granted.access.pages);
        let direct = flags.append || (flags.write && !may_keep);
        let handle = self.table.insert(Handle {
            file,
            caller: caller.clone(),
            read: flags.read,
            write: flags.writes(),
            append: flags.append,
            pages: !direct && self.above().is_some(),
            stale: AtomicBool::new(false),
            lock_lost: AtomicBool::new(false),
            errors_seen: AtomicU64::new(errors),
            losses_seen: AtomicU64::new(0),
            pattern: Mutex::default(),
        });
        OpenedFile {
            attr,
            handle,
            keep_cache,
            direct,
        }
    }

    /// Nothing may be left to do for the file: queues its releases and forgets it.
    pub(crate) fn finish(&self, file: &Arc<File>) {
        let moving = self.table.moving();
        let releases = {
            let mut state = file.state.lock();
            if state.handles == 0 && state.is_dirty() {
                return;
            }
            std::mem::take(&mut state.releases)
        };
        for _ in 0..releases {
            self.releases.push(file.ino);
        }
        drop(moving);
        if let Some((attr, foreign)) = self.table.forget_unused(file) {
            self.pages
                .closed(file.ino, (!foreign).then_some(attr.map_version));
            if attr.nlink == 0 {
                // Nothing says when it goes.
                self.leased.recall(&[file.ino]);
            }
        }
    }
}
