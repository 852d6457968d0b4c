//! The recall stream: opened, obeyed, and opened again after it broke.
//!
//! Recalls are obeyed side by side: one may have to wait for a save, or for reads that the kernel has in flight, and those for what another recall
//! takes away.

use crate::client::Inner;
use crate::session::Live;
use crate::types::Change;
use crate::waiting::within;
use dfs_common::lease::{Obeyed, Recall};
use dfs_common::limits::{CALL_DEADLINE, RECALL_POLL, RECALLS_PENDING_MAX, SESSION_LEASE};
use dfs_common::{ErrorKind, FsError, Ino};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// Between two attempts to open a stream.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);
/// From the end of one to the next: changes of others may wait for that.
const ATTACH_SOON: Duration = Duration::from_millis(100);
/// For the answer to a call for recalls, which the coordinator may hold back for [`RECALL_POLL`].
const POLL_PATIENCE: Duration = RECALL_POLL.saturating_add(Duration::from_secs(2));
/// After a call for recalls that failed.
const POLL_AGAIN: Duration = Duration::from_millis(50);

impl Inner {
    /// Keeps a recall stream open until the client stops; without one nothing is answered from memory.
    pub(crate) async fn follow_recalls(self: Arc<Self>) {
        loop {
            let losses = self.leased.losses.subscribe();
            let live = self.session.live();
            let attach = self.metadata.recalls(live.identity, 0, Obeyed::default());
            match within(CALL_DEADLINE, attach).await {
                Ok(page) => {
                    self.leased.attached(live.lease_until);
                    let error = self.obey(live, page.stream, losses).await;
                    self.leased.detached();
                    tracing::debug!(%error, "the recall stream ended");
                    // To attach says that nothing of before is used any more, by a kernel neither.
                    tokio::join!(self.give_up_all_content(), self.give_up_all_metadata());
                    tokio::time::sleep(ATTACH_SOON).await;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::NotSupported => {
                    self.leased.unsupported();
                    return;
                }
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    if let Err(error) = self.recover(live.stamp).await {
                        tracing::debug!(%error, "no session for a recall stream yet");
                    }
                }
                Err(error) => tracing::debug!(%error, "no recall stream yet"),
            }
            tokio::time::sleep(ATTACH_AGAIN).await;
        }
    }

    /// Obeys recalls until the stream ends; answers why it did.
    async fn obey(self: &Arc<Self>, live: Live, stream: u64, mut losses: watch::Receiver<u64>) -> FsError {
        let (done, mut obeyed_now) = unbounded_channel();
        let mut progress = Progress::default();
        loop {
            let ask = self.metadata.recalls(live.identity, stream, progress.obeyed());
            let page = tokio::select! {
                biased;
                // Whoever waits for it is told at once.
                Some(sequence) = obeyed_now.recv() => {
                    progress.end(sequence, &mut obeyed_now);
                    continue;
                }
                _ = losses.changed() => {
                    return FsError::new(ErrorKind::Stale, "the session was resumed, or replaced by another one");
                }
                page = within(POLL_PATIENCE, ask) => page,
            };
            let page = match page {
                Ok(page) => page,
                // Nothing is lost: the coordinator keeps what was not received, and leases hold as long as the session's.
                Err(error) if error.kind().is_retryable() && self.leased.is_valid() => {
                    tracing::debug!(%error, "asking for recalls again");
                    tokio::time::sleep(POLL_AGAIN).await;
                    continue;
                }
                Err(error) => return error,
            };
            for recall in page.recalls {
                if !progress.begin(recall.sequence) {
                    continue;
                }
                // Before anything waits: an answer that was granted before it is not remembered.
                let named = recall.inos.iter().chain(&recall.contents).chain(&recall.buffers);
                let inos: BTreeSet<Ino> = named.copied().collect();
                self.leased.recall(&inos);
                let (inner, done) = (self.clone(), done.clone());
                self.spawn(async move {
                    let sequence = recall.sequence;
                    inner.give_up(recall).await;
                    // Nobody is told of a stream that is over.
                    let _ = done.send(sequence);
                });
            }
        }
    }

    /// After all leases were lost: returns when nothing of before is answered by a cache above.
    async fn give_up_all_metadata(&self) {
        let given_up = self.forget_above(vec![Change::Leases]);
        // What is not given back ends with the lease that it was given under.
        let _ = tokio::time::timeout(SESSION_LEASE, given_up).await;
    }

    async fn give_up(self: &Arc<Self>, recall: Recall) {
        if recall.inos.contains(&Ino::QUOTAS) {
            self.quotas.expect();
        }
        let leases = recall.inos.iter().filter(|ino| **ino != Ino::QUOTAS);
        let leases = leases.map(|ino| Change::Lease { ino: *ino }).collect();
        tokio::join!(
            self.forget_above(leases),
            self.give_up_files(&recall.contents, &recall.buffers)
        );
    }
}

/// Which recalls of a stream were received, and which are obeyed.
#[derive(Default)]
struct Progress {
    received: u64,
    running: BTreeSet<u64>,
}

impl Progress {
    /// False if it was received before.
    fn begin(&mut self, sequence: u64) -> bool {
        if sequence <= self.received {
            return false;
        }
        self.received = sequence;
        self.running.insert(sequence)
    }

    /// This one is obeyed, and those that are known to be by now.
    fn end(&mut self, sequence: u64, more: &mut UnboundedReceiver<u64>) {
        self.running.remove(&sequence);
        while let Ok(sequence) = more.try_recv() {
            self.running.remove(&sequence);
        }
    }

    fn obeyed(&self) -> Obeyed {
        let Some(first) = self.running.first() else {
            return Obeyed {
                received: self.received,
                below: self.received,
                beside: Vec::new(),
            };
        };
        Obeyed {
            received: self.received,
            below: first - 1,
            beside: (*first..=self.received)
                .filter(|sequence| !self.running.contains(sequence))
                .take(RECALLS_PENDING_MAX)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recalls_that_are_obeyed_out_of_order_are_named() {
        let mut progress = Progress::default();
        let (_sender, mut none) = unbounded_channel();
        assert_eq!(progress.obeyed(), Obeyed::default());
        assert!((1..=4).all(|sequence| progress.begin(sequence)));
        assert!(!progress.begin(3), "it is obeyed already");
        for (ended, below, beside) in [(3, 0, vec![3]), (1, 1, vec![3]), (2, 3, vec![]), (4, 4, vec![])] {
            progress.end(ended, &mut none);
            let received = 4;
            let obeyed = Obeyed {
                received,
                below,
                beside,
            };
            assert_eq!(progress.obeyed(), obeyed, "after {ended}");
        }
    }
}
