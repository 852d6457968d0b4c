//! The recall stream: opened, obeyed, and opened again after it broke.

use crate::client::Inner;
use crate::session::Live;
use crate::types::Invalidation;
use crate::waiting::within;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::{ErrorKind, FsError, Ino};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Between two attempts to open a stream.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

impl Inner {
    /// Keeps a recall stream open until the client stops; without one nothing is answered from memory.
    pub(crate) async fn follow_recalls(self: Arc<Self>) {
        loop {
            let live = self.session.live();
            match within(CALL_DEADLINE, self.metadata.recalls(live.identity, 0, 0)).await {
                Ok(page) => {
                    self.leased.attached(live.lease_until);
                    let error = self.obey(live, page.stream).await;
                    self.leased.lost();
                    tracing::debug!(%error, "the recall stream ended");
                }
                Err(error) if error.kind() == ErrorKind::NotSupported => return,
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    if let Err(error) = self.recover(live.stamp).await {
                        tracing::debug!(%error, "no session for a recall stream yet");
                    }
                }
                Err(error) => tracing::debug!(%error, "no recall stream yet"),
            }
            // To attach says that nothing of before is used any more, by a kernel neither.
            tokio::time::sleep(ATTACH_AGAIN.max(super::cache::KERNEL_VALIDITY_MAX)).await;
        }
    }

    /// Obeys recalls until the stream ends; answers why it did.
    async fn obey(&self, live: Live, stream: u64) -> FsError {
        let mut acknowledged = 0;
        loop {
            let ask = self.metadata.recalls(live.identity, stream, acknowledged);
            let page = match within(CALL_DEADLINE, ask).await {
                Ok(page) => page,
                Err(error) => return error,
            };
            let Some(last) = page.recalls.last() else {
                continue;
            };
            acknowledged = last.sequence;
            let inos: Vec<Ino> = page.recalls.into_iter().flat_map(|recall| recall.inos).collect();
            self.leased.recall(&inos);
            if inos.contains(&Ino::QUOTAS) {
                self.quotas.expect();
            }
            self.forget_above(inos).await;
        }
    }

    /// Makes the cache above forget attributes; returns when it has.
    async fn forget_above(&self, inos: Vec<Ino>) {
        let Some(above) = self.above() else {
            return;
        };
        for ino in inos.into_iter().filter(|ino| *ino != Ino::QUOTAS) {
            // A receiver that is gone has nothing cached.
            let _ = above.send(Invalidation::Attributes { ino }).await;
        }
        let (done, forgotten) = oneshot::channel();
        let _ = above.send(Invalidation::Barrier(done)).await;
        let _ = forgotten.await;
    }
}
