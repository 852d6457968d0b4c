//! How a program learns at its write that a quota is used up, though writes go into memory first.
//!
//! The coordinator decides, when it applies a commit; a client only guesses. While there is room for everything that is unsaved, writes go on
//! as ever. A write for which there may be none is saved before it is answered, by itself: refused, it alone is taken back and fails, and
//! nothing that was acknowledged is. Invariant: a guess never loses anything; a wrong one (somebody else filled the tree meanwhile) is told at
//! fsync and close. Where no directory has a quota this costs one question every few seconds of writing, and no long wait for a
//! coordinator that is away.

use crate::client::Inner;
use crate::dirty::Active;
use crate::file::{File, Handle};
use dfs_common::clock::Clock;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, TreeUsage};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is known of a file's tree is asked for again after this.
const ROOM_KNOWN_FOR: Duration = Duration::from_secs(1);
/// That there are no quotas is asked for again after this.
const NONE_KNOWN_FOR: Duration = Duration::from_secs(2);
/// A coordinator that does not answer by then is not asked again for [`NONE_KNOWN_FOR`].
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where there are quotas: better a late write than one that is refused after it was acknowledged.
const PATIENCE_WITH_QUOTAS: Duration = Duration::from_secs(10);

/// What is known of the quotas of the cluster, and what counts against them.
#[derive(Default)]
pub(crate) struct Quotas {
    /// When the cluster was last seen to have none, or to give no answer.
    none: Mutex<Option<Instant>>,
    /// The last answer spoke of some.
    exist: AtomicBool,
    /// Bytes of all writes so far.
    written: AtomicU64,
}

/// What a file's tree had left when it was asked for, less what was unsaved then.
#[derive(Default)]
pub(crate) struct Room {
    asked: Option<Instant>,
    left: u64,
    /// [`Quotas::written`] of then: all that was written since may be in the same tree.
    written: u64,
}

/// What is known about a write.
enum Guess {
    Fits,
    /// So much is left, less than might be needed.
    Tight(u64),
    Unknown,
}

impl Inner {
    fn guess(&self, file: &File, bytes: u64) -> Guess {
        let written = self.quotas.written.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let none = *self.quotas.none.lock();
        if none.is_some_and(|seen| seen.elapsed() < NONE_KNOWN_FOR) {
            return Guess::Fits;
        }
        let room = &file.state.lock().room;
        let fresh = room.asked.is_some_and(|asked| asked.elapsed() < ROOM_KNOWN_FOR);
        match fresh && room.left >= written.saturating_sub(room.written) {
            true => Guess::Fits,
            false => Guess::Unknown,
        }
    }

    /// Asks once, not for long. `bytes` are counted as written already.
    async fn ask_for_room(&self, file: &File, bytes: u64) -> Guess {
        // In this order, and before the question: what is saved meanwhile may or may not be in the answer.
        let written = self.quotas.written.load(Ordering::SeqCst).saturating_sub(bytes);
        let unsaved = self.dirty.unsaved();
        let identity = self.session.live().identity;
        let asking = self.metadata.usage(identity, file.ino);
        let patience = match self.quotas.exist.load(Ordering::SeqCst) {
            true => PATIENCE_WITH_QUOTAS,
            false => PATIENCE,
        };
        let usage = match tokio::time::timeout(patience, asking).await {
            Ok(Ok(usage)) => {
                self.quotas.exist.store(usage.quotas, Ordering::SeqCst);
                usage
            }
            // Nobody who could say: the coordinator decides when it is back.
            Ok(Err(_)) | Err(_) => TreeUsage::default(),
        };
        let now = Instant::now();
        *self.quotas.none.lock() = (!usage.quotas).then_some(now);
        let left = usage.bytes_allowed.map_or(u64::MAX, |allowed| allowed.left());
        let room = Room {
            asked: Some(now),
            left: left.saturating_sub(unsaved),
            written,
        };
        let since = self.quotas.written.load(Ordering::SeqCst).saturating_sub(written);
        let fits = room.left >= since;
        file.state.lock().room = room;
        match fits {
            true => Guess::Fits,
            false => Guess::Tight(left),
        }
    }

    /// Writes `data` and saves it, if a quota may leave no room for it; `None` if there is room, and nothing was done.
    ///
    /// # Errors
    /// `QuotaExceeded`, and those of saving: nothing of `data` was written then.
    pub(crate) async fn write_if_tight(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        caller: &Caller,
        offset: u64,
        data: &[u8],
    ) -> FsResult<Option<u32>> {
        let (file, bytes) = (&handle.file, data.len() as u64);
        let guess = match self.guess(file, bytes) {
            Guess::Unknown => self.ask_for_room(file, bytes).await,
            known => known,
        };
        let Guess::Tight(left) = guess else {
            return Ok(None);
        };
        // What lies behind the end is new for certain: it need not be sent to be refused.
        let size = file.state.lock().size();
        let start = if handle.append { size } else { offset.max(size) };
        let end = if handle.append {
            size + bytes
        } else {
            offset + bytes
        };
        if end.saturating_sub(start) > left {
            return Err(FsError::new(
                ErrorKind::QuotaExceeded,
                format!(
                    "a quota above the file leaves room for {left} bytes: remove something, or ask for more"
                ),
            ));
        }
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let part = &rest[..rest.len().min(self.dirty.reservation_max())];
            self.reserve(file, part.len()).await?;
            // Held from before the generation is there until it is saved or gone: nobody else saves it, fails, and remembers that.
            let order = file.order.lock().await;
            let (sequence, taken, grew) = self.write_alone(handle, caller, offset + done as u64, part);
            self.dirty.give_back(part.len() as u64 - grew);
            let saved = self.save_alone(file, sequence).await;
            drop(order);
            match saved {
                Ok(()) => done += taken,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Some(done as u32))
    }

    /// Makes a generation of `part` alone; answers its number, and as [`Active::write`].
    fn write_alone(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        caller: &Caller,
        offset: u64,
        part: &[u8],
    ) -> (u64, usize, u64) {
        let log_max = self.session.live().chunk_bytes;
        let mut state = handle.file.state.lock();
        state.seal();
        let size = state.size();
        let at = if handle.append { size } else { offset };
        let mut active = Active::new(handle.append.then_some(size), caller);
        let (taken, grew) = active.write(&self.pool, at, part, log_max);
        active.mtime = self.clock.now();
        active.clear_setid = caller.uid != 0;
        state.active = Some(active);
        let sequence = state.seal().expect("a generation was just made");
        drop(state);
        self.unsaved.add(&handle.file);
        (sequence, taken, grew)
    }

    /// Saves up to generation `sequence`, which nobody was told of; refused, it is taken back. The caller holds `order`.
    async fn save_alone(self: &Arc<Self>, file: &Arc<File>, sequence: u64) -> FsResult<()> {
        let Err(error) = self.try_save_up_to(file, sequence).await else {
            return Ok(());
        };
        if !matches!(error.kind(), ErrorKind::QuotaExceeded | ErrorKind::NoSpace) {
            self.failed(file, &error);
            return Err(error);
        }
        let others = {
            let mut state = file.state.lock();
            let at = state.sealed.iter().position(|sealed| sealed.sequence == sequence);
            if let Some(sealed) = at.and_then(|at| state.sealed.remove(at)) {
                self.dirty.give_back(sealed.body.length);
            }
            state
                .sealed
                .front()
                .is_some_and(|first| first.sequence < sequence)
        };
        match others {
            // Acknowledged writes that cannot be saved.
            true => self.failed(file, &error),
            false => self.unsaved.forget_clean(file),
        }
        Err(error)
    }
}
