//! The coordinator's end of a lifeline: the session hangs on it, or on a later one.
//!
//! It does not keep the core: a coordinator that stops is not waited for by its clients' connections, and what ends with
//! its own end ends no session.

use crate::core::Core;
use async_trait::async_trait;
use dfs_common::service::Lifeline;
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// See [`Lifeline`].
pub struct SessionLifeline {
    core: Weak<Core>,
    identity: Identity,
    number: u64,
    /// Once it is held.
    over: Option<oneshot::Receiver<()>>,
}

impl SessionLifeline {
    /// Of a session that has passed.
    pub fn new(core: &Arc<Core>, identity: Identity, number: u64) -> Self {
        SessionLifeline {
            core: Arc::downgrade(core),
            identity,
            number,
            over: None,
        }
    }
}

impl Drop for SessionLifeline {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.sessions.let_go(&self.identity, self.number);
        }
    }
}

#[async_trait]
impl Lifeline for SessionLifeline {
    async fn hold(&mut self) -> FsResult<()> {
        let core = self.core.upgrade();
        let core = core.ok_or_else(|| FsError::new(ErrorKind::Unavailable, "the coordinator was stopped"))?;
        self.over = Some(core.sessions.hold_line(&self.identity, self.number)?);
        Ok(())
    }

    async fn broken(&mut self) -> FsError {
        if let Some(over) = &mut self.over {
            let _ = over.await;
        }
        // Not to be polled again.
        self.over = None;
        FsError::new(ErrorKind::Stale, "the session is over, or has a later lifeline")
    }

    async fn part(&mut self) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if !core.sessions.part(&self.identity, self.number) {
            return;
        }
        let session = self.identity.session;
        tracing::info!(%session, "session ends: its client's process is gone");
        if let Err(error) = core.take_apart(session).await {
            tracing::warn!(%session, %error, "session could not be ended yet");
        }
    }
}
