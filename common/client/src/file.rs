//! One open inode: its committed attributes and map as this client knows them, and its unsaved data.
//!
//! All handles of an inode share it. Short work is under `state`, a mutex never held across an await; the order of commits
//! and of attribute changes is kept by `order`, which is held while one is in flight.

use crate::content::ContentLease;
use crate::dirty::generation::Span;
use crate::dirty::{Active, DirtyBudget, Sealed};
use crate::extent_map::ExtentMap;
use dfs_common::attr::{Attr, Timestamp};
use dfs_common::service::Opened;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// State of an open inode.
pub(crate) struct FileState {
    /// As the coordinator last said.
    pub(crate) attr: Attr,
    pub(crate) map: ExtentMap,
    pub(crate) content: ContentLease,
    pub(crate) active: Option<Active>,
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) next_sequence: u64,
    /// A task saves the sealed generations.
    pub(crate) saving: bool,
    /// The last attempt to save failed for good.
    pub(crate) failing: Option<FsError>,
    /// Errors of saving so far, and the last of them.
    pub(crate) errors: u64,
    pub(crate) error: Option<FsError>,
    /// Handles that are open.
    pub(crate) handles: usize,
    /// Opens that the coordinator has to be told are over, once everything is saved.
    pub(crate) releases: usize,
    /// The file changed by somebody else while it was open: pages above are not those of `attr.map_version`.
    pub(crate) foreign: bool,
    /// An open has told the cache above to drop its pages, which it does once it hears of it: until then some may be old.
    pub(crate) dropping: bool,
    /// An own change is on its way: a newer version is not somebody else's.
    pub(crate) changing: bool,
    /// What quotas leave for it.
    pub(crate) room: crate::writer::quota::Room,
    /// Its last name was removed here: what cannot be saved of it is no loss once it is closed.
    pub(crate) nameless: bool,
}

/// An open inode.
pub(crate) struct File {
    pub(crate) ino: Ino,
    pub(crate) state: Mutex<FileState>,
    pub(crate) order: tokio::sync::Mutex<()>,
    /// Held while pages above are being dropped: who relies on that waits for it.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    /// Notified when the lease on the content begins to be given up.
    pub(crate) leaving: tokio::sync::Notify,
}

/// An open file.
pub(crate) struct Handle {
    pub(crate) file: Arc<File>,
    pub(crate) caller: Caller,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) append: bool,
    /// A cache above may keep pages of what is read and written through it.
    pub(crate) pages: bool,
    /// It could not be opened again after its session was lost.
    pub(crate) stale: AtomicBool,
    /// A lock that was held through it is lost: somebody else may have changed the file since, and think that it has it alone.
    pub(crate) lock_lost: AtomicBool,
    /// Errors of the file that this handle has reported.
    pub(crate) errors_seen: AtomicU64,
    /// Losses of acknowledged changes that it has reported.
    pub(crate) losses_seen: AtomicU64,
    pub(crate) pattern: Mutex<crate::reader::read_ahead::Pattern>,
}

/// See [`File::changing`].
pub(crate) struct Changing<'a>(&'a File);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().changing = false;
    }
}

impl FileState {
    /// Size with unsaved data.
    pub(crate) fn size(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, Active::end);
        let sealed = self.sealed.iter().map(Sealed::end).max().unwrap_or(0);
        self.attr.size.max(active).max(sealed)
    }

    /// Something is unsaved.
    pub(crate) fn is_dirty(&self) -> bool {
        self.active.is_some() || !self.sealed.is_empty()
    }

    /// When the oldest unsaved byte came.
    pub(crate) fn dirty_since(&self) -> Option<Instant> {
        let sealed = self.sealed.front().map(|sealed| sealed.born);
        sealed.or_else(|| self.active.as_ref().map(|active| active.born))
    }

    fn unsaved_mtime(&self) -> Option<Timestamp> {
        let active = self.active.as_ref().map(|active| active.mtime);
        active.or_else(|| self.sealed.back().map(|sealed| sealed.mtime))
    }

    /// Ends the active generation; answers the sequence number of the last sealed one.
    pub(crate) fn seal(&mut self) -> Option<u64> {
        if let Some(active) = self.active.take() {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            self.sealed.push_back(active.seal(sequence));
        }
        self.sealed.back().map(|sealed| sealed.sequence)
    }

    /// Corrects attributes that the coordinator just answered: by what it answered later, and by what is unsaved.
    pub(crate) fn overlay(&mut self, attr: &mut Attr) {
        if attr.map_version < self.attr.map_version {
            attr.size = self.attr.size;
            attr.allocated_bytes = self.attr.allocated_bytes;
            attr.map_version = self.attr.map_version;
            attr.mtime = self.attr.mtime;
            attr.ctime = attr.ctime.max(self.attr.ctime);
        } else if !self.changing {
            self.learn(attr);
        }
        if let Some(mtime) = self.unsaved_mtime() {
            attr.size = attr.size.max(self.size());
            // Not the later of both: a program may have set a time that is still to come.
            attr.mtime = mtime;
            attr.ctime = attr.ctime.max(mtime);
        }
    }

    /// Takes attributes that are newer than the known ones and not the result of an own change.
    pub(crate) fn learn(&mut self, attr: &Attr) {
        if attr.map_version > self.attr.map_version {
            self.foreign = true;
            self.attr = attr.clone();
            if self.map.version() != attr.map_version {
                self.map.clear();
            }
        }
    }

    /// Takes the attributes after an own change. The map has been changed already.
    pub(crate) fn changed(&mut self, attr: Attr) {
        if attr.map_version > self.attr.map_version + 1 {
            self.foreign = true;
        }
        if attr.map_version >= self.attr.map_version {
            self.attr = attr;
        }
    }

    /// Forgets what is unsaved from `size` on; answers the bytes of the budget that became free.
    pub(crate) fn cut(&mut self, size: u64) -> u64 {
        for sealed in &mut self.sealed {
            sealed.cut(size);
        }
        if let Some(active) = &mut self.active {
            active.cut(size);
            if active.is_empty() {
                let length = active.length();
                self.active = None;
                return length;
            }
        }
        0
    }

    /// Remembers an error of saving, for every open file to report once.
    pub(crate) fn fail(&mut self, error: &FsError) {
        let again = self
            .failing
            .as_ref()
            .is_some_and(|failing| failing.kind() == error.kind());
        self.failing = Some(error.clone());
        if !again {
            self.report(error);
        }
    }

    /// Every open file reports `error` once.
    pub(crate) fn report(&mut self, error: &FsError) {
        self.errors += 1;
        self.error = Some(error.clone());
    }

    /// The first sealed generation, for the one who saves it.
    pub(crate) fn spans_of(&self, sequence: u64) -> Option<(&Sealed, &[Span])> {
        let front = self.sealed.front().filter(|sealed| sealed.sequence == sequence)?;
        Some((front, &front.spans))
    }
}

impl Handle {
    /// # Errors
    /// `Io` if the program relies on a lock that it does not have any more.
    pub(crate) fn check_locks(&self) -> FsResult<()> {
        match self.lock_lost.load(Ordering::SeqCst) {
            true => Err(FsError::new(
                ErrorKind::Io,
                "a lock on this open file was lost with the session: unlock or close it, lock it again, and look what is there",
            )),
            false => Ok(()),
        }
    }
}

impl File {
    pub(crate) fn new(attr: Attr, map: ExtentMap) -> Self {
        File {
            ino: attr.ino,
            state: Mutex::new(FileState {
                attr,
                map,
                content: ContentLease::default(),
                active: None,
                sealed: VecDeque::new(),
                next_sequence: 1,
                saving: false,
                failing: None,
                errors: 0,
                error: None,
                handles: 0,
                releases: 0,
                foreign: false,
                dropping: false,
                changing: false,
                room: Default::default(),
                nameless: false,
            }),
            order: tokio::sync::Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            leaving: tokio::sync::Notify::new(),
        }
    }

    /// Until it is dropped, an own change may be on its way. The caller holds `order`.
    pub(crate) fn changing(&self) -> Changing<'_> {
        self.state.lock().changing = true;
        Changing(self)
    }

    /// Takes what an open answered that grants nothing.
    pub(crate) fn refresh(&self, opened: &Opened) {
        self.state.lock().learn(&opened.attr);
    }

    /// Something is unsaved. If not, nothing is buffered any more, until that is granted again.
    pub(crate) fn is_unsaved(&self) -> bool {
        let mut state = self.state.lock();
        let unsaved = state.is_dirty();
        if !unsaved {
            state.content.stop_buffering();
        }
        unsaved
    }

    /// Takes the attributes of now, whatever was known before.
    pub(crate) fn replace(&self, attr: Attr) {
        let mut state = self.state.lock();
        state.attr = attr;
        state.map.clear();
        state.foreign = true;
    }

    /// False if nobody of this client can miss what is unsaved: it is closed and has no name.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.handles > 0 || !state.nameless
    }

    /// The session that its opens were counted in is gone.
    pub(crate) fn forget_releases(&self) {
        self.state.lock().releases = 0;
    }

    /// Drops everything unsaved; true if there was something. `error` is reported by the open files.
    pub(crate) fn give_up(&self, budget: &DirtyBudget, error: Option<FsError>) -> bool {
        let mut state = self.state.lock();
        if !state.is_dirty() {
            return false;
        }
        let active = state.active.take().map_or(0, |active| active.length());
        let sealed: u64 = state.sealed.drain(..).map(|sealed| sealed.body.length).sum();
        budget.give_back(active + sealed);
        if let Some(error) = error {
            state.report(&error);
        }
        state.failing = None;
        true
    }
}
