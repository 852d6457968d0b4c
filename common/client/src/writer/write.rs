//! write(2): into the active generation, within the budget of unsaved bytes.

use crate::client::Inner;
use crate::dirty::Active;
use crate::file::{File, Handle};
use crate::types::Change;
use dfs_common::clock::Clock;
use dfs_common::limits::FILE_BYTES_MAX;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::sync::Arc;
use std::time::Duration;

/// A writer that waits for memory looks this often whether saving works at all.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// # Errors
/// Why saving the file does not work: memory must not fill with more that cannot be saved.
fn not_failing(file: &Arc<File>) -> FsResult<()> {
    match &file.state.lock().failing {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

/// For a page to be dropped that is not locked.
const LOCKED_PAGE: Duration = Duration::from_millis(2);

/// A write that is in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) length: u32,
    /// The first byte of what the cache above may have wrong of an append.
    pub(crate) elsewhere: Option<u64>,
}

/// What one step of a write did.
struct Step {
    at: u64,
    taken: usize,
    grew: u64,
    /// A generation was sealed: its sequence number, first offset and body.
    full: bool,
}

impl Inner {
    /// Takes all of `data` into memory; waits while too much is unsaved. Cancelled, it may have taken a part. Not to be acknowledged before
    /// [`Inner::settle_write`].
    pub(crate) async fn write_range(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        caller: &Caller,
        offset: u64,
        data: &[u8],
    ) -> FsResult<Written> {
        let length = u32::try_from(data.len())
            .map_err(|_| FsError::new(ErrorKind::Invalid, "a write has less than 4 GiB"))?;
        let end = offset.saturating_add(u64::from(length));
        if !handle.append && end > FILE_BYTES_MAX {
            return Err(FsError::new(ErrorKind::FileTooBig, "the file would be too large"));
        }
        let file = &handle.file;
        not_failing(file)?;
        if handle.pages {
            // The kernel has the pages of this write by now.
            self.enter(file, offset, end).await?;
        }
        if let Some(done) = self.write_if_tight(handle, caller, offset, data).await? {
            let (length, elsewhere) = (done, None);
            return Ok(Written { length, elsewhere });
        }
        // What the kernel has in its pages programs of this mount see at once, and must not see vanish. Appends go past them.
        let hidden = !handle.pages && !self.may_buffer(file);
        let mut done = 0;
        let mut elsewhere = None;
        // An append that fits in one commit is one, so that nobody's append comes between its parts.
        let mut whole = handle.append;
        while done < data.len() {
            let rest = &data[done..];
            let part = &rest[..rest.len().min(self.dirty.reservation_max())];
            self.reserve(file, part.len()).await?;
            let step = self.step(handle, caller, offset + done as u64, part, (whole, hidden));
            self.dirty.give_back(part.len() as u64 - step.grew);
            whole &= step.taken == 0;
            if step.taken > 0 && step.at != offset + done as u64 {
                elsewhere = Some(step.at.min(offset));
            }
            done += step.taken;
            if step.full {
                self.save_in_background(file);
            }
        }
        Ok(Written { length, elsewhere })
    }

    /// What a write needs before it may be acknowledged: if the file is not this client's alone, that it is committed, and that the cache above has no
    /// page that is not of now.
    pub(crate) async fn settle_write(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        offset: u64,
        written: Written,
    ) -> FsResult<u32> {
        let file = &handle.file;
        let Written { length, elsewhere } = written;
        let pages = |from: u64, length: u64| {
            vec![Change::Pages {
                ino: file.ino,
                offset: from,
                length,
            }]
        };
        if !self.may_buffer(file) {
            self.save(file).await?;
            if handle.append {
                // Where it landed the coordinator said, and to others maybe in between.
                self.forget_above(pages(0, 0)).await;
            } else if handle.pages {
                // The kernel dropped its page of this write if somebody else changed the file meanwhile, and may have read an older one since. One
                // that only waits for the answer to this write is locked, and no older one comes into its place: that is not waited for.
                let forgotten = self.forget_above(pages(offset, u64::from(length)));
                let _ = tokio::time::timeout(LOCKED_PAGE, forgotten).await;
            }
        } else if let Some(from) = elsewhere {
            // The kernel thinks that it wrote at `offset`: of the pages where it did not it knows nothing.
            self.forget_above(pages(from, 0)).await;
        }
        Ok(length)
    }

    /// Takes `bytes` of the budget, waiting for others to be saved.
    pub(super) async fn reserve(&self, file: &Arc<File>, bytes: usize) -> FsResult<()> {
        while !self.dirty.try_reserve(bytes) {
            let waiting = self.dirty.reserve(bytes);
            if tokio::time::timeout(LOOK_AGAIN, waiting).await.is_ok() {
                break;
            }
            not_failing(file)?;
        }
        Ok(())
    }

    /// One step under the lock: takes a part, or seals what is in the way.
    fn step(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        caller: &Caller,
        offset: u64,
        part: &[u8],
        (whole, hidden): (bool, bool),
    ) -> Step {
        let log_max = self.session.live().chunk_bytes;
        let file = &handle.file;
        let mut state = file.state.lock();
        let size = state.size();
        let was_clean = !state.is_dirty();
        if let Some(active) = &state.active {
            let other_mode = active.append_base.is_some() != handle.append || active.hidden != hidden;
            let too_full = whole && active.length() + part.len() as u64 > log_max;
            let done = active.length() >= log_max;
            if other_mode || too_full || done {
                self.seal_locked(&mut state, file);
                return Step {
                    at: offset,
                    taken: 0,
                    grew: 0,
                    full: true,
                };
            }
        }
        let mtime = self.clock.now();
        let base = handle.append.then_some(size);
        let active = state.active.get_or_insert_with(|| Active::new(base, caller));
        let at = if handle.append { size } else { offset };
        let (taken, grew) = active.write(&self.pool, at, part, log_max);
        active.mtime = mtime;
        active.hidden = hidden;
        active.clear_setid |= caller.uid != 0;
        let full = active.length() >= log_max || taken < part.len();
        if full {
            self.seal_locked(&mut state, file);
        }
        drop(state);
        if was_clean {
            self.unsaved.add(file);
        }
        Step {
            at,
            taken,
            grew,
            full,
        }
    }

    fn seal_locked(self: &Arc<Self>, state: &mut crate::file::FileState, file: &Arc<File>) {
        state.seal();
        if let Some(sealed) = state.sealed.back() {
            let offset = sealed.spans.first().map_or(0, |span| span.offset);
            if sealed.body.length >= super::save::UPLOAD_AHEAD_MIN {
                self.upload_ahead(file, offset, sealed.body.clone());
            }
        }
    }

    /// Makes sure that somebody saves the sealed generations.
    fn save_in_background(self: &Arc<Self>, file: &Arc<File>) {
        {
            let mut state = file.state.lock();
            if state.saving || state.sealed.is_empty() {
                return;
            }
            state.saving = true;
        }
        let (inner, file) = (self.clone(), file.clone());
        self.spawn(async move {
            loop {
                let last = {
                    let mut state = file.state.lock();
                    match state.sealed.back() {
                        Some(sealed) => sealed.sequence,
                        None => {
                            state.saving = false;
                            break;
                        }
                    }
                };
                let _order = file.order.lock().await;
                if let Err(error) = inner.save_up_to(&file, last).await {
                    tracing::warn!(ino = %file.ino, %error, "unsaved data could not be saved");
                    file.state.lock().saving = false;
                    break;
                }
            }
            inner.finish(&file);
        });
    }
}
