//! Tells the coordinator of closed files: in the background, in batches.
//!
//! A release is not repeatable, so one whose outcome is unknown is left to the end of the session. One that is under way may reach a
//! coordinator that was started meanwhile: until it has an outcome, a session that is resumed declares its opens too, or that coordinator would take
//! back opens of handles that are still there.

use crate::client::Inner;
use crate::waiting::within;
use dfs_common::Ino;
use dfs_common::limits::CALL_DEADLINE;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Releases wait this long for company.
const DELAY: Duration = Duration::from_millis(20);
/// So many do not wait; the most that travel together.
const BATCH: usize = 256;
/// Pause after a failed release.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    pending: Vec<Ino>,
    /// Batches under way.
    sent: HashMap<u64, Vec<Ino>>,
    batches: u64,
}

/// Closed files that the coordinator does not know of yet.
#[derive(Default)]
pub(crate) struct Releases {
    state: Mutex<State>,
    some: Notify,
    many: Notify,
}

impl Releases {
    /// Queues one release. Never waits.
    pub(crate) fn push(&self, ino: Ino) {
        let mut state = self.state.lock();
        state.pending.push(ino);
        match state.pending.len() {
            1 => self.some.notify_one(),
            BATCH => self.many.notify_one(),
            _ => {}
        }
    }

    /// Those that wait, and those under way.
    pub(crate) fn unconfirmed(&self) -> Vec<Ino> {
        let state = self.state.lock();
        let sent = state.sent.values().flatten();
        state.pending.iter().chain(sent).copied().collect()
    }

    /// The session ended: there is nothing to take back.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.pending.clear();
        state.sent.clear();
    }

    /// The next ones, from now on under way until the batch is dropped.
    fn take(&self) -> Option<Batch<'_>> {
        let mut state = self.state.lock();
        let count = state.pending.len().min(BATCH);
        let inos: Vec<Ino> = state.pending.drain(..count).collect();
        if inos.is_empty() {
            return None;
        }
        state.batches += 1;
        let number = state.batches;
        state.sent.insert(number, inos.clone());
        Some(Batch {
            releases: self,
            number,
            inos,
        })
    }
}

/// Releases under way.
struct Batch<'a> {
    releases: &'a Releases,
    number: u64,
    inos: Vec<Ino>,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.releases.state.lock().sent.remove(&self.number);
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
        while let Some(batch) = self.releases.take() {
            let opens = batch.inos.len();
            let identity = self.session.live().identity;
            if let Err(error) =
                within(CALL_DEADLINE, self.metadata.release(identity, batch.inos.clone())).await
            {
                drop(batch);
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
        for (length, left) in [(256, 344), (256, 88), (88, 0)] {
            let batch = releases.take().unwrap();
            assert_eq!(batch.inos.len(), length);
            assert_eq!(
                releases.unconfirmed().len(),
                length + left,
                "one under way counts"
            );
            drop(batch);
            assert_eq!(releases.unconfirmed().len(), left);
        }
        assert!(releases.take().is_none());
    }
}
