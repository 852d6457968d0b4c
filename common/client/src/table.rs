//! Open files of this client: handles, and the inodes that they share.
//!
//! An inode stays in the table while a handle is open, something is unsaved, or its release is not queued yet.

use crate::content::Phase;
use crate::extent_map::ExtentMap;
use crate::file::{File, Handle};
use crate::releases::Releases;
use crate::types::FileHandle;
use dfs_common::attr::Attr;
use dfs_common::session::OpenDeclaration;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Handles and open inodes.
#[derive(Default)]
pub(crate) struct Table {
    next: AtomicU64,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    files: Mutex<HashMap<Ino, Arc<File>>>,
    moving: Mutex<Moving>,
}

/// The right to take an open from one of handles, inodes and releases to the next: declared is each of them once.
#[derive(Default)]
pub(crate) struct Moving {
    /// Times that the open files were listed for a session.
    listed: u64,
    /// The last of these lists that a coordinator has.
    known: u64,
}

impl Table {
    /// The open inode, counted one handle more; made from `attr` and `map` if it is not open.
    pub(crate) fn join(&self, attr: &Attr, map: impl FnOnce() -> ExtentMap) -> (Arc<File>, bool) {
        let mut files = self.files.lock();
        let mut new = false;
        let file = files.entry(attr.ino).or_insert_with(|| {
            new = true;
            Arc::new(File::new(attr.clone(), map()))
        });
        file.state.lock().handles += 1;
        (file.clone(), new)
    }

    pub(crate) fn insert(&self, handle: Handle) -> FileHandle {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.handles.write().insert(id, Arc::new(handle));
        FileHandle(id)
    }

    /// # Errors
    /// `BadHandle` if it is not open; `Stale` if it was lost with its session.
    pub(crate) fn get(&self, handle: FileHandle) -> FsResult<Arc<Handle>> {
        let found = self.handles.read().get(&handle.0).cloned();
        let found = found.ok_or_else(|| FsError::new(ErrorKind::BadHandle, "the file is not open"))?;
        if found.stale.load(Ordering::SeqCst) {
            return Err(FsError::new(
                ErrorKind::Stale,
                "the file was open in a session that was lost, and could not be opened again",
            ));
        }
        Ok(found)
    }

    pub(crate) fn remove(&self, handle: FileHandle) -> Option<Arc<Handle>> {
        self.handles.write().remove(&handle.0)
    }

    /// The inode if it is open.
    pub(crate) fn file(&self, ino: Ino) -> Option<Arc<File>> {
        self.files.lock().get(&ino).cloned()
    }

    /// Forgets the inode unless it is still needed. If it was forgotten, answers the last known attributes, and whether pages above may be of
    /// another version.
    pub(crate) fn forget_unused(&self, file: &Arc<File>) -> Option<(Attr, bool)> {
        let mut files = self.files.lock();
        let state = file.state.lock();
        let unused = state.handles == 0 && state.releases == 0 && !state.is_dirty() && !state.saving;
        if !unused || !files.get(&file.ino).is_some_and(|known| Arc::ptr_eq(known, file)) {
            return None;
        }
        files.remove(&file.ino);
        let leased = state.content.phase() == Phase::Leased;
        let mut attr = state.attr.clone();
        if state.nameless {
            attr.nlink = 0;
        }
        Some((attr, state.foreign || !leased))
    }

    /// Every open inode.
    pub(crate) fn files(&self) -> Vec<Arc<File>> {
        self.files.lock().values().cloned().collect()
    }

    /// Every open handle, to be opened in a new session, in which nothing is open yet: so what was closed before needs no release.
    pub(crate) fn handles_to_open(&self, releases: &Releases) -> Vec<Arc<Handle>> {
        let mut moving = self.moving.lock();
        moving.listed += 1;
        releases.clear();
        self.files().iter().for_each(|file| file.forget_releases());
        self.handles()
    }

    /// Every open handle.
    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        self.handles.read().values().cloned().collect()
    }

    /// Locks were lost: these open files fail from now on (or not any more).
    pub(crate) fn fail_locks(&self, files: &[FileHandle], fail: bool) {
        let handles = self.handles.read();
        for handle in files.iter().filter_map(|handle| handles.get(&handle.0)) {
            handle.lock_lost.store(fail, Ordering::SeqCst);
        }
    }

    /// Taken while an open moves.
    pub(crate) fn moving(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock()
    }

    /// How often the open files were listed for a session. An open that the coordinator counted before such a list and that came into the table
    /// after it may be counted nowhere.
    pub(crate) fn listed(&self) -> u64 {
        self.moving.lock().listed
    }

    /// The coordinator has the last list.
    pub(crate) fn list_is_known(&self) {
        let mut moving = self.moving.lock();
        moving.known = moving.listed;
    }

    /// True if the coordinator has a list that was made after the one of this number.
    pub(crate) fn is_known_since(&self, listed: u64) -> bool {
        self.moving.lock().known > listed
    }

    /// What a resumed session declares: one entry per open, those included whose release was not sent yet.
    pub(crate) fn declarations(&self, releases: &Releases) -> Vec<OpenDeclaration> {
        let closing = |ino| OpenDeclaration {
            ino,
            read: true,
            write: false,
            pages: false,
            buffer: false,
        };
        let mut moving = self.moving.lock();
        moving.listed += 1;
        let mut opened: Vec<OpenDeclaration> = releases.pending().into_iter().map(closing).collect();
        // Before anything is listed: what is written from now on to a file that is not listed as unsaved is not acknowledged before it is committed.
        let files: Vec<Arc<File>> = self.files.lock().values().cloned().collect();
        let unsaved: HashSet<Ino> = files
            .iter()
            .filter(|file| file.is_unsaved())
            .map(|file| file.ino)
            .collect();
        for handle in self.handles.read().values() {
            opened.push(OpenDeclaration {
                ino: handle.file.ino,
                read: handle.read,
                write: handle.write,
                pages: handle.write && handle.pages,
                buffer: unsaved.contains(&handle.file.ino),
            });
        }
        for file in files {
            let closing = OpenDeclaration {
                ino: file.ino,
                read: true,
                // It may have to be saved before.
                write: true,
                pages: false,
                buffer: unsaved.contains(&file.ino),
            };
            let count = file.state.lock().releases;
            opened.extend(std::iter::repeat_n(closing, count));
        }
        opened
    }
}
