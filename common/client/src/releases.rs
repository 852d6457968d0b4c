//! Tells the coordinator of closed files: in the background, in batches.
//!
//! A release is not repeatable, so one whose outcome is unknown is left to the end of the session. None is on its way while the session is
//! resumed: what is declared open then is without it, and a release that arrived afterwards would take back another open of the
//! same inode, and with it, once that has no name, the inode of a file that is open.

use crate::client::Inner;
use crate::waiting::within;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::{ErrorKind, FsError, Ino};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex as TurnMutex, MutexGuard, Notify, watch};

/// Releases wait this long for company.
const DELAY: Duration = Duration::from_millis(20);
/// So many do not wait; the most that travel together.
const BATCH: usize = 256;
/// Pause after a failed release.
const PAUSE: Duration = Duration::from_millis(500);

/// Closed files that the coordinator does not know of yet.
#[derive(Default)]
pub(crate) struct Releases {
    pending: Mutex<Vec<Ino>>,
    some: Notify,
    many: Notify,
    /// Held by who sends releases, and by who resumes the session.
    turn: TurnMutex<()>,
    /// How many wait to resume the session: what is being sent is given up.
    pausing: watch::Sender<usize>,
}

/// Somebody waits to resume the session, until this is dropped.
struct Pausing<'a>(&'a watch::Sender<usize>);

impl<'a> Pausing<'a> {
    fn new(pausing: &'a watch::Sender<usize>) -> Self {
        pausing.send_modify(|waiting| *waiting += 1);
        Pausing(pausing)
    }
}

impl Drop for Pausing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Releases {
    /// Queues one release. Never waits.
    pub(crate) fn push(&self, ino: Ino) {
        let mut pending = self.pending.lock();
        pending.push(ino);
        match pending.len() {
            1 => self.some.notify_one(),
            BATCH => self.many.notify_one(),
            _ => {}
        }
    }

    pub(crate) fn pending(&self) -> Vec<Ino> {
        self.pending.lock().clone()
    }

    /// Gives up the release that is on its way, and keeps others from being sent until the guard is dropped. Cancel-safe.
    pub(crate) async fn pause(&self) -> MutexGuard<'_, ()> {
        let _pausing = Pausing::new(&self.pausing);
        self.turn.lock().await
    }

    /// The session ended: there is nothing to take back.
    pub(crate) fn clear(&self) {
        self.pending.lock().clear();
    }

    fn take(&self) -> Vec<Ino> {
        let mut pending = self.pending.lock();
        let rest = pending.len().min(BATCH);
        let rest = pending.split_off(rest);
        std::mem::replace(&mut pending, rest)
    }
}

impl Inner {
    /// Sends releases until the client stops.
    pub(crate) async fn send_releases(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.releases.some.notified() => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.releases.many.notified() => {}
                () = tokio::time::sleep(DELAY) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.send_pending_releases() => {}
            }
        }
    }

    /// Sends what is queued now.
    pub(crate) async fn send_pending_releases(&self) {
        loop {
            let mut pausing = self.releases.pausing.subscribe();
            // From before they are taken: what is taken is declared no more.
            let turn = self.releases.turn.lock().await;
            let batch = self.releases.take();
            if batch.is_empty() {
                return;
            }
            let opens = batch.len();
            let identity = self.session.live().identity;
            let sent = tokio::select! {
                sent = within(CALL_DEADLINE, self.metadata.release(identity, batch)) => sent,
                _ = pausing.wait_for(|waiting| *waiting > 0) => {
                    Err(FsError::new(ErrorKind::Unavailable, "the session is resumed"))
                }
            };
            drop(turn);
            if let Err(error) = sent {
                tracing::debug!(%error, opens, "releases were not confirmed: they end with the session");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_leave_in_order_and_in_bounded_batches() {
        let releases = Releases::default();
        for ino in 0..600 {
            releases.push(Ino(ino));
        }
        let sizes: Vec<usize> =
            std::iter::from_fn(|| Some(releases.take().len()).filter(|n| *n > 0)).collect();
        assert_eq!(sizes, [256, 256, 88]);
    }
}
