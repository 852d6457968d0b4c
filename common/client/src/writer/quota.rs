//! How a program learns at its write that a quota is used up, though writes go into memory first.
//!
//! The coordinator decides, when it applies a commit; a client only guesses. While there is room for everything that is unsaved, writes go on
//! as ever. A write for which there may be none is saved before it is answered, by itself, after what was written to other files before: refused,
//! it alone is taken back and fails, and nothing that was acknowledged is. Invariant: a guess never loses anything; a wrong one (somebody else filled the tree meanwhile) is told at
//! fsync and close.
//!
//! What is known of limits is known under the lease on [`Ino::QUOTAS`]: a quota that is set is waited for until every client has given that
//! up, and so no write that begins afterwards goes by an earlier one. Where no directory has a quota this costs one question for
//! each recall stream, and no long wait for a coordinator that is away.

use crate::client::Inner;
use crate::dirty::Active;
use crate::file::{File, Handle};
use crate::leased::Stamp;
use dfs_common::clock::Clock;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a file's tree has left is asked for again after this: others add to it, too.
const ROOM_KNOWN_FOR: Duration = Duration::from_secs(1);
/// A coordinator that did not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// For how long an answer is waited for that cannot be expected: there was no quota, and the recall stream is gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same if it can: better a late write than one that is refused after it was acknowledged.
const PATIENCE_WITH_QUOTAS: Duration = Duration::from_secs(10);

/// What is known of the quotas of the cluster, and what counts against them.
#[derive(Default)]
pub(crate) struct Quotas {
    unlimited: Mutex<Unlimited>,
    /// The last answer spoke of some, or one was set since.
    exist: AtomicBool,
    /// Bytes of all writes so far.
    written: AtomicU64,
}

impl Quotas {
    /// A quota is being set, or changed: who asks waits for the answer.
    pub(crate) fn expect(&self) {
        self.exist.store(true, Ordering::SeqCst);
    }
}

/// Why a write need not be measured.
#[derive(Clone, Copy, Default)]
enum Unlimited {
    /// It must be.
    #[default]
    No,
    /// There are no quotas, as long as the lease holds that came with this answer.
    Leased(Stamp),
    /// Nobody could say, at that time: the coordinator decides when it is back.
    Unanswered(Stamp, Instant),
}

/// What a file's tree had left when it was asked for, less what was unsaved then.
#[derive(Default)]
pub(crate) struct Room {
    /// When, and before which recalls.
    asked: Option<(Instant, Stamp)>,
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
        let holds = |stamp| self.leased.unchanged(stamp, Ino::QUOTAS);
        let unlimited = match *self.quotas.unlimited.lock() {
            Unlimited::No => false,
            Unlimited::Leased(stamp) => holds(stamp) && self.leased.is_valid(),
            Unlimited::Unanswered(stamp, since) => since.elapsed() < ASK_AGAIN && holds(stamp),
        };
        if unlimited {
            return Guess::Fits;
        }
        let room = &file.state.lock().room;
        let fresh = room.asked.is_some_and(|(asked, stamp)| {
            asked.elapsed() < ROOM_KNOWN_FOR && holds(stamp) && self.leased.is_valid()
        });
        match fresh && room.left >= written.saturating_sub(room.written) {
            true => Guess::Fits,
            false => Guess::Unknown,
        }
    }

    /// Asks once. `bytes` are counted as written already.
    async fn ask_for_room(&self, file: &File, bytes: u64) -> Guess {
        // In this order, and before the question: what is saved meanwhile may or may not be in the answer.
        let written = self.quotas.written.load(Ordering::SeqCst).saturating_sub(bytes);
        let unsaved = self.dirty.unsaved();
        let stamp = self.leased.stamp();
        let identity = self.session.live().identity;
        let asking = self.metadata.usage(identity, file.ino);
        let patience = match self.quotas.exist.load(Ordering::SeqCst) || self.leased.is_valid() {
            true => PATIENCE_WITH_QUOTAS,
            false => PATIENCE,
        };
        let answer = tokio::time::timeout(patience, asking).await;
        let now = Instant::now();
        let Ok(Ok(usage)) = answer else {
            *self.quotas.unlimited.lock() = Unlimited::Unanswered(stamp, now);
            return Guess::Fits;
        };
        self.quotas.exist.store(usage.quotas, Ordering::SeqCst);
        // Without a lease an answer is good for this write alone.
        *self.quotas.unlimited.lock() = match usage.leased && !usage.quotas {
            true => Unlimited::Leased(stamp),
            false => Unlimited::No,
        };
        let left = usage.bytes_allowed.map_or(u64::MAX, |allowed| allowed.left());
        let room = Room {
            asked: usage.leased.then_some((now, stamp)),
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
        let mut guess = match self.guess(file, bytes) {
            Guess::Unknown => self.ask_for_room(file, bytes).await,
            known => known,
        };
        if matches!(guess, Guess::Tight(_)) {
            let mut others = self.unsaved.files();
            others.retain(|other| other.ino != file.ino);
            if !others.is_empty() {
                // They were acknowledged, and the room is theirs: this write would take it from them.
                self.save_files(others).await;
                guess = self.ask_for_room(file, bytes).await;
            }
        }
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
