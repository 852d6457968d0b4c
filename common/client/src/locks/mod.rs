//! Advisory locks: asked for at the coordinator, remembered here.
//!
//! What is remembered is what a resumed session declares, so it must never say too much, nor too little: a lock is noted before
//! the program hears of it, and forgotten before its unlock is sent. A grant that may be a coordinator's that has forgotten it is
//! asked for again. A lock that is lost with its session fails the open files that it was held through, until they are closed or
//! unlocked, since somebody else may hold it now (as NFS does).
//!
//! A lock brings what others wrote under it, and takes along what was written under it: see [`Client::lock`], [`Client::unlock`].

mod held;
mod numbers;
mod requests;

use crate::client::{Client, Inner};
use crate::file::File;
use crate::types::{Change, FileHandle};
use crate::waiting::What;
use dfs_common::limits::{LOCK_DECLARATIONS_MAX, LOCK_POLLS_MAX};
use dfs_common::lock::{
    HeldLock, LockDeclaration, LockDeclarations, LockOwner, LockRange, LockSpec, LockStyle,
};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use held::{Held, HeldLocks};
use numbers::LockNumbers;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Of a close this program hears a little after the one that closed has gone on: who finds a lock in its way looks again after
/// this long.
const CLOSING: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    /// Of the session.
    generation: u64,
    numbers: LockNumbers,
    held: HeldLocks,
    /// Grows when the session begins to be resumed, which declares what is held, and when that ends: odd while it is under way.
    resumes: u64,
    /// What was lost, and not given up since.
    lost: HeldLocks,
}

/// The locks of a client.
pub(crate) struct Locks {
    state: Mutex<State>,
    /// Of requests that wait, the oldest are polled all the time.
    polls: Semaphore,
    /// First polls at a time.
    firsts: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Locks {
    fn default() -> Self {
        Locks {
            state: Mutex::default(),
            polls: Semaphore::new(LOCK_POLLS_MAX / 2),
            firsts: Semaphore::new(LOCK_POLLS_MAX / 2),
            waiting: AtomicUsize::new(0),
        }
    }
}

/// While it is there, no grant is noted: what the coordinator is told may not have it.
pub(crate) struct Declaring<'a>(&'a Locks);

impl Drop for Declaring<'_> {
    fn drop(&mut self) {
        self.0.state.lock().resumes += 1;
    }
}

/// Advisory locks.
impl Client {
    /// Asks for an advisory lock for `lock.owner`, in the place of whatever it has of that range; with `wait` until it is granted or
    /// `interrupted` is ready. On success the content is that of now: pages that the cache above has of an older one are gone.
    ///
    /// # Errors
    /// Those of fcntl(2) and flock(2): `WouldBlock`, `Deadlock`, `Interrupted`, `TooManyLocks`, `BadHandle`.
    pub async fn lock(
        &self,
        handle: FileHandle,
        lock: LockSpec,
        wait: bool,
        interrupted: impl Future<Output = ()>,
    ) -> FsResult<()> {
        let inner = self.inner();
        let open = inner.table.get(handle)?;
        let mut interrupted = std::pin::pin!(interrupted);
        let mut granted = inner
            .ask_lock(&open, handle, lock, wait, interrupted.as_mut())
            .await;
        let in_the_way = |error: &FsError| error.kind() == ErrorKind::WouldBlock;
        if lock.owner.style != LockStyle::Process && granted.as_ref().is_err_and(in_the_way) {
            tokio::time::sleep(CLOSING).await;
            granted = inner.ask_lock(&open, handle, lock, wait, interrupted).await;
        }
        granted?;
        let renewed = inner.renew_content(&open.file).await;
        if renewed.is_err() {
            inner.send_unlock(open.file.ino, lock.owner, lock.range).await?;
        }
        renewed
    }

    /// Gives up what `owner` has of `range`; nothing is no error. What was written to the file is saved first, so that the next one to lock
    /// it finds it; an error of that is told by fsync and close, as always.
    ///
    /// # Errors
    /// `TooManyLocks` if a lock would be split and there are too many: all of it is held then.
    pub async fn unlock(&self, handle: FileHandle, owner: LockOwner, range: LockRange) -> FsResult<()> {
        let inner = self.inner();
        let open = inner.table.get(handle)?;
        inner.forgive(open.file.ino, owner, range);
        inner.unlock(&open.file, owner, range).await
    }

    /// A process has closed a descriptor of the file: gives up every lock of that process on it, as POSIX has it. To be called after
    /// [`Client::flush`].
    ///
    /// # Errors
    /// None that the process could do anything about.
    pub async fn unlock_closed(&self, handle: FileHandle, number: u64) -> FsResult<()> {
        let owner = LockOwner {
            style: LockStyle::Process,
            number,
        };
        self.unlock(handle, owner, LockRange::WHOLE).await
    }

    /// True if [`Client::unlock_closed`] has something to do.
    pub fn has_locks(&self, handle: FileHandle, number: u64) -> bool {
        let inner = self.inner();
        let is_owner =
            |held: &Held| held.lock.owner.style == LockStyle::Process && held.lock.owner.number == number;
        inner.table.get(handle).is_ok_and(|open| {
            let state = inner.locks.state.lock();
            let any = |locks: &HeldLocks| locks.any(open.file.ino, is_owner);
            any(&state.held) || any(&state.lost)
        })
    }

    /// The first lock that stands in the way of `lock` (`F_GETLK`), and whether it is one of this client's.
    ///
    /// # Errors
    /// Those of asking the coordinator.
    pub async fn test_lock(&self, handle: FileHandle, lock: LockSpec) -> FsResult<Option<(HeldLock, bool)>> {
        let inner = self.inner();
        let ino = inner.table.get(handle)?.file.ino;
        let ask = |identity: dfs_common::session::Identity| async move {
            let found = inner.metadata.test_lock(identity, ino, lock).await?;
            Ok(found.map(|held| (held, held.session == identity.session)))
        };
        inner.call(What::of("test_lock", ino), ask).await
    }
}

impl Inner {
    /// Saves, then unlocks.
    async fn unlock(self: &Arc<Self>, file: &Arc<File>, owner: LockOwner, range: LockRange) -> FsResult<()> {
        let is_owner = |held: &Held| held.lock.owner == owner;
        if !self.locks.state.lock().held.any(file.ino, is_owner) {
            return Ok(());
        }
        if let Err(error) = self.save(file).await {
            tracing::debug!(ino = %file.ino, %error, "unlocked with unsaved writes");
        }
        self.send_unlock(file.ino, owner, range).await
    }

    /// The open file is closed: what was locked through it is unlocked, in the background. It was saved when its descriptors were closed.
    pub(crate) fn unlock_released(self: &Arc<Self>, handle: FileHandle, ino: Ino) {
        let owners = {
            let mut state = self.locks.state.lock();
            state.lost.forget_through(ino, handle);
            state.held.owners(ino, |held| held.through == handle)
        };
        if owners.is_empty() {
            return;
        }
        let inner = self.clone();
        self.spawn(async move {
            for owner in owners {
                if let Err(error) = inner.send_unlock(ino, owner, LockRange::WHOLE).await {
                    tracing::warn!(%ino, %error, "a lock of a closed file stays until the session ends");
                }
            }
        });
    }

    /// The owner of lost locks gives some up: open files through which nothing else was lost need not fail any more.
    fn forgive(&self, ino: Ino, owner: LockOwner, range: LockRange) {
        let mut state = self.locks.state.lock();
        for given_up in state.lost.cut(ino, owner, range) {
            if !state.lost.any(ino, |lost| lost.through == given_up.through) {
                self.table.fail_locks(&[given_up.through], false);
            }
        }
    }

    /// Asks whether the content is still what this client knows; if not, drops it, here and above. Who locks at the same time does not
    /// go on before that either. With leases that is done already: who had the lock before has saved, and that recalled them.
    async fn renew_content(&self, file: &File) -> FsResult<()> {
        if self.leased.is_supported() {
            return Ok(());
        }
        let mut attr = self.attributes(file.ino).await?;
        let _one = file.renewing.lock().await;
        let version = {
            let mut state = file.state.lock();
            state.overlay(&mut attr);
            match state.foreign || state.dropping {
                true => state.attr.map_version,
                false => return Ok(()),
            }
        };
        self.forget_above(vec![Change::Inode { ino: file.ino }]).await;
        let mut state = file.state.lock();
        if state.attr.map_version == version {
            (state.foreign, state.dropping) = (false, false);
        }
        Ok(())
    }
}

impl Locks {
    /// Begins to resume the session.
    pub(crate) fn declaring(&self) -> Declaring<'_> {
        self.state.lock().resumes += 1;
        Declaring(self)
    }

    /// What is held now, in as many parts as requests to resume are needed for it; at least one.
    pub(crate) fn declarations(&self) -> Vec<LockDeclarations> {
        let state = self.state.lock();
        let (settled, all) = (state.numbers.settled(), state.held.declarations());
        let mut parts: Vec<LockDeclarations> = all
            .chunks(LOCK_DECLARATIONS_MAX)
            .map(|part| LockDeclarations {
                settled,
                held: part.to_vec(),
                more: true,
            })
            .collect();
        match parts.last_mut() {
            Some(last) => last.more = false,
            None => parts.push(LockDeclarations {
                settled,
                held: Vec::new(),
                more: false,
            }),
        }
        parts
    }

    /// The coordinator does not know these any more, though the session lives. Answers the open files that fail from now on.
    pub(crate) fn lose(&self, session: SessionId, lost: &[LockDeclaration]) -> Vec<FileHandle> {
        let mut state = self.state.lock();
        let mut failed = Vec::new();
        for lock in lost {
            tracing::error!(%session, ino = %lock.ino, pid = lock.lock.pid, "a lock was lost: its open files fail until they are closed");
            for held in state.held.lose(lock) {
                failed.push(held.through);
                state.lost.put(lock.ino, held);
            }
        }
        failed
    }

    /// The session is gone and a new one of `generation` begins, which holds nothing. Answers the open files that fail from now on.
    pub(crate) fn restart(&self, generation: u64) -> Vec<FileHandle> {
        let mut state = self.state.lock();
        state.generation = generation;
        state.numbers = LockNumbers::default();
        let mut failed = Vec::new();
        for (ino, held) in state.held.clear() {
            tracing::error!(%ino, pid = held.lock.pid, "a lock was lost with the session: its open files fail until they are closed");
            failed.push(held.through);
            state.lost.put(ino, held);
        }
        failed
    }
}
