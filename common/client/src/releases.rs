//! Tells the coordinator of closed files: in the background, in batches.
//!
//! A release is not repeatable, so one whose outcome is unknown is left to the end of the session.

use crate::client::Inner;
use crate::waiting::within;
use dfs_common::Ino;
use dfs_common::limits::CALL_DEADLINE;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

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
            let batch = self.releases.take();
            if batch.is_empty() {
                return;
            }
            let opens = batch.len();
            let identity = self.session.live().identity;
            if let Err(error) = within(CALL_DEADLINE, self.metadata.release(identity, batch)).await {
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
