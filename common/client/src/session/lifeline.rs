//! Keeps a lifeline of the session, so that it ends with this process and not with its lease.
//!
//! Invariant: a lifeline that may be held is not dropped while the session is in use. One that broke is replaced by another.

use crate::client::Inner;
use crate::waiting::within;
use dfs_common::limits::{CALL_DEADLINE, SESSION_KEEPALIVE};
use dfs_common::service::Lifeline;
use dfs_common::{ErrorKind, FsError, FsResult, SessionId};
use std::sync::Arc;
use std::time::Duration;

/// Before the next attempt: a coordinator that starts again is back soon.
const AGAIN: Duration = Duration::from_millis(250);
/// Between attempts, at most.
const AGAIN_MAX: Duration = Duration::from_secs(5);

impl Inner {
    /// Holds lifelines, one after the other, until the client stops or it is known that there are none.
    pub(crate) async fn hold_lifeline(self: Arc<Self>) {
        let mut pause = AGAIN;
        for number in 1.. {
            let live = self.session.live();
            let line = within(CALL_DEADLINE, self.metadata.lifeline(live.identity, number)).await;
            let held = match line {
                Ok(line) => self.hold(line, live.identity.session).await,
                Err(error) => Err(error),
            };
            match held {
                Ok(why) => {
                    pause = AGAIN;
                    tracing::debug!(%why, "the lifeline ended");
                }
                Err(error) if error.kind() == ErrorKind::NotSupported => {
                    tracing::info!(%error, "if this process dies its session stays until its lease has ended");
                    return;
                }
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    if let Err(error) = self.recover(live.stamp).await {
                        tracing::debug!(%error, "no session for a lifeline yet");
                    }
                }
                Err(error) => tracing::debug!(%error, "no lifeline yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// Holds a lifeline until it breaks, or the session is another one; answers what happened to it.
    async fn hold(&self, mut line: Box<dyn Lifeline>, session: SessionId) -> FsResult<FsError> {
        line.hold().await?;
        loop {
            // A network that was cut may never tell.
            match tokio::time::timeout(SESSION_KEEPALIVE, line.broken()).await {
                Ok(error) => return Ok(error),
                Err(_) if self.session.live().identity.session != session => {
                    return Ok(ErrorKind::SessionFenced.into());
                }
                Err(_) => {}
            }
        }
    }
}
