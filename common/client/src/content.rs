//! Leases on the content of open files: taken with opens and map pages, and given up so that no cache above keeps an old page.
//!
//! The kernel answers reads of pages that it has by itself. So a page may come into it only under a lease, and giving the lease up means to have
//! the page dropped. The kernel drops a page only when reads and writes of it that are in flight are answered; these cannot wait for the change that waits
//! for them. So giving up goes in rounds ([`Inner::give_up_content`]): while the kernel drops pages, reads and writes are answered from what is
//! committed, and what they touched is dropped once more; when a round touched nothing, the lease is given up, and whoever comes later
//! waits for a new one, behind the change.
//!
//! The lease to buffer writes is given up by saving ([`Inner::give_up_buffer`]). Without it each write is saved before it is answered.

use crate::client::Inner;
use crate::file::{File, FileState};
use crate::leased::Stamp;
use crate::types::{Again, Change};
use crate::waiting::What;
use dfs_common::lease::Access;
use dfs_common::service::Extents;
use dfs_common::{FsResult, Ino};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Rounds of dropping pages; the reads that came in between are dropped afterwards if there are more.
const ROUNDS_MAX: usize = 100;
/// Ranges of a round; more are dropped as a whole file.
const RANGES_MAX: usize = 64;
/// How long the saving of a file whose buffer is recalled is waited for. It goes on after that, and others see what is committed until then:
/// a cluster that cannot take data must not stop those who only look.
const SAVE_PATIENCE: Duration = Duration::from_secs(10);
/// A reader that gets no lease, for there is no recall stream just now, asks again after this long at most.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Then it reads without. What it read is dropped when the stream is opened.
const ASKS_MAX: usize = 20;

/// What this client may do with the content of an open file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has no lease: the map must be asked for.
    #[default]
    Unleased,
    /// It has one.
    Leased,
    /// It is giving it up.
    Leaving,
}

/// The lease on a file's content.
#[derive(Debug, Default)]
pub(crate) struct ContentLease {
    phase: Phase,
    /// Grows with every recall: an answer from before one grants nothing.
    recalls: u64,
    /// Writes may be acknowledged before they are committed.
    buffer: bool,
    /// Touched while the lease is being given up: from, to.
    touched: Vec<(u64, u64)>,
}

impl ContentLease {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Writes may be acknowledged before they are committed, as long as the session's lease holds.
    pub(crate) fn buffers(&self) -> bool {
        self.buffer && self.phase == Phase::Leased
    }

    /// Who reads or writes `from..to`, and now: remembers it if the lease is being given up.
    fn touch(&mut self, from: u64, to: u64) -> (Phase, u64) {
        if self.phase == Phase::Leaving {
            match self.touched.len() < RANGES_MAX {
                true => self.touched.push((from, to)),
                false => self.touched = vec![(0, u64::MAX)],
            }
        }
        (self.phase, self.recalls)
    }

    /// The right to buffer is over. True if it was there.
    pub(crate) fn stop_buffering(&mut self) -> bool {
        std::mem::take(&mut self.buffer)
    }

    /// The lease is lost with the session, and what it was granted there.
    pub(crate) fn lost(&mut self) {
        self.buffer = false;
        self.recalls += 1;
        if self.phase == Phase::Leased {
            self.phase = Phase::Unleased;
        }
    }
}

/// A lease that is being given up.
struct Leaving(Arc<File>);

impl Leaving {
    /// After each round of dropping pages: what was touched meanwhile is dropped in another one, or the lease is given up. To be asked at once after
    /// a round, for readers that do not stop touch something soon.
    fn rounds(&self) -> Again {
        let file = self.0.clone();
        let mut rounds = 0;
        Box::new(move || {
            rounds += 1;
            let ino = file.ino;
            let mut state = file.state.lock();
            let touched = std::mem::take(&mut state.content.touched);
            if touched.is_empty() || rounds > ROUNDS_MAX {
                Leaving::end_locked(&mut state);
                drop(state);
                return match (touched.is_empty(), rounds > ROUNDS_MAX + 1) {
                    (true, _) | (_, true) => Vec::new(),
                    (false, false) => {
                        tracing::warn!(%ino, "pages of a file are read all the time while somebody else changes it");
                        vec![Change::Inode { ino }]
                    }
                };
            }
            let pages = |(from, to): (u64, u64)| Change::Pages {
                ino,
                offset: from,
                length: if to == u64::MAX { 0 } else { to - from },
            };
            touched.into_iter().map(pages).collect()
        })
    }

    fn end(&self) {
        Leaving::end_locked(&mut self.0.state.lock());
    }

    /// The lease is given up. The map goes with it, for reads have filled it with what was committed before the change.
    fn end_locked(state: &mut FileState) {
        if state.content.phase == Phase::Leaving {
            state.content.phase = Phase::Unleased;
            (state.foreign, state.dropping) = (false, false);
            state.map.clear();
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.end();
    }
}

impl Inner {
    /// An answer to a call of `stamp` says what this client may do with an open file. True if it has a lease on the content now.
    pub(crate) fn granted(&self, state: &mut FileState, stamp: Stamp, access: &Access) -> bool {
        if !access.content
            || state.content.phase == Phase::Leaving
            || !self.leased.unrecalled(stamp, access.ino)
        {
            return state.content.phase == Phase::Leased;
        }
        state.content.phase = Phase::Leased;
        state.content.buffer |= access.buffer;
        true
    }

    /// Writes of the file may be acknowledged before they are committed.
    pub(crate) fn may_buffer(&self, file: &File) -> bool {
        file.state.lock().content.buffers() && self.leased.holds()
    }

    /// Who is about to read or write `from..to` says so: afterwards either there is a lease on the content, and the map and the size are those
    /// of now, or one is being given up, and what is read is what is committed.
    ///
    /// # Errors
    /// Those of asking for extents.
    pub(crate) async fn enter(&self, file: &File, from: u64, to: u64) -> FsResult<()> {
        if file.state.lock().content.phase == Phase::Leased && self.leased.holds() {
            return Ok(());
        }
        let mut asked = 0;
        loop {
            let mut leaving = std::pin::pin!(file.leaving.notified());
            leaving.as_mut().enable();
            let (phase, recalls) = file.state.lock().content.touch(from, to);
            if phase == Phase::Leased && self.leased.holds() {
                return Ok(());
            }
            let settle = phase != Phase::Leaving;
            let ask = |identity| {
                self.metadata
                    .read_extents(identity, file.ino, from, u64::MAX - from, settle)
            };
            let asking = self.call(What::of("asking for extents", file.ino), ask);
            let extents = tokio::select! {
                extents = asking => extents?,
                // The change that the answer would wait for may wait for this very read.
                () = leaving, if settle => continue,
            };
            let leased = extents.leased;
            if !self.learned(file, from, extents, recalls) {
                continue;
            }
            if leased || !settle {
                return Ok(());
            }
            asked += 1;
            if asked == ASKS_MAX {
                tracing::debug!(ino = %file.ino, "read without a lease on the content");
                return Ok(());
            }
            self.leased.wait_for_stream(ASK_AGAIN).await;
        }
    }

    /// Takes a page of the map that was asked for when the file had been recalled `recalls` times; false if that is over.
    fn learned(&self, file: &File, at: u64, extents: Extents, recalls: u64) -> bool {
        let mut state = file.state.lock();
        if state.content.recalls != recalls {
            return false;
        }
        let Extents { page, leased } = extents;
        if page.map_version > state.attr.map_version {
            let foreign = !state.changing;
            state.foreign |= foreign;
            state.attr.map_version = page.map_version;
            state.attr.size = page.size;
        }
        state.map.load(at, page);
        if leased && state.content.phase == Phase::Unleased {
            state.content.phase = Phase::Leased;
        }
        true
    }

    /// Asks for the map from `at` on, which is not known; for who has entered.
    ///
    /// # Errors
    /// Those of asking for extents.
    pub(crate) async fn ask_extents(&self, file: &File, at: u64) -> FsResult<()> {
        let (phase, recalls) = {
            let state = file.state.lock();
            (state.content.phase, state.content.recalls)
        };
        // One that is leased is answered at once; one that is not, or not any more, is entered again.
        let settle = phase == Phase::Leased;
        let ask = |identity| {
            self.metadata
                .read_extents(identity, file.ino, at, u64::MAX - at, settle)
        };
        let mut leaving = std::pin::pin!(file.leaving.notified());
        leaving.as_mut().enable();
        tokio::select! {
            extents = self.call(What::of("asking for extents", file.ino), ask) => {
                self.learned(file, at, extents?, recalls);
            }
            () = leaving, if settle => {}
        }
        Ok(())
    }

    /// Somebody else is about to change the content: has the pages of it above dropped, and forgets its map. See the module.
    async fn give_up_content(&self, file: &Arc<File>) {
        let _one = file.renewing.lock().await;
        {
            let mut state = file.state.lock();
            state.content.phase = Phase::Leaving;
            state.content.recalls += 1;
            state.content.touched.clear();
        }
        let leaving = Leaving(file.clone());
        file.leaving.notify_waiters();
        let whole = Change::Inode { ino: file.ino };
        let again = leaving.rounds();
        if self.forget_above_until(whole.clone(), again).await {
            return;
        }
        // Nobody above has pages; or it is going away.
        leaving.end();
    }

    /// Somebody else is about to read what this client buffers: saves it, and buffers no more.
    async fn give_up_buffer(self: &Arc<Self>, file: &Arc<File>) {
        let buffered = {
            let mut state = file.state.lock();
            state.content.stop_buffering() | state.is_dirty()
        };
        if !buffered {
            return;
        }
        match tokio::time::timeout(SAVE_PATIENCE, self.save(file)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(ino = %file.ino, %error, "others do not see what is unsaved of a file");
            }
            Err(_) => {
                tracing::warn!(ino = %file.ino, "others do not see yet what is unsaved of a file: the cluster does not take it");
            }
        }
    }

    /// Obeys recalls of files: of `contents` pages and map go, of all nothing is buffered any more.
    pub(crate) async fn give_up_files(self: &Arc<Self>, contents: &[Ino], buffers: &[Ino]) {
        let contents: BTreeSet<Ino> = contents.iter().copied().collect();
        let all: BTreeSet<Ino> = contents.iter().chain(buffers).copied().collect();
        let is_open = |ino: Ino| {
            self.table
                .file(ino)
                .is_some_and(|file| file.state.lock().handles > 0)
        };
        let closed = !all.iter().all(|ino| is_open(*ino));
        let files = all.into_iter().filter_map(|ino| self.table.file(ino));
        let giving_up: Vec<_> = files
            .map(|file| {
                let content = contents.contains(&file.ino);
                self.clone().give_up_file(file, content)
            })
            .collect();
        join_all(giving_up).await;
        if closed {
            // Who asks may do more once it is known that the file is closed here.
            self.send_pending_releases().await;
        }
    }

    async fn give_up_file(self: Arc<Self>, file: Arc<File>, content: bool) {
        if content {
            // What the kernel writes back while it drops pages is committed at once, and so is everything that comes later.
            let buffered = file.state.lock().content.stop_buffering();
            self.give_up_content(&file).await;
            if !buffered {
                return;
            }
        }
        // After the pages: the kernel has written back what programs changed in them.
        self.give_up_buffer(&file).await;
    }

    /// The recall stream is over, and nobody knows what was changed since: pages and maps of all open files go.
    pub(crate) async fn give_up_all_content(&self) {
        let files = self.table.files();
        let giving_up: Vec<_> = files.iter().map(|file| self.give_up_content(file)).collect();
        join_all(giving_up).await;
    }
}
