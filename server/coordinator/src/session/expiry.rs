//! Ends sessions whose lease ran out, and finishes the ending of those that was interrupted.

use super::table::{EXPIRY_INTERVAL, SessionTable};
use crate::applier::Applier;
use crate::worker::Worker;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// The expiry worker.
pub struct SessionExpiry {
    sessions: Arc<SessionTable>,
    applier: Arc<Applier>,
}

impl SessionExpiry {
    /// Over these sessions.
    pub fn new(sessions: Arc<SessionTable>, applier: Arc<Applier>) -> Self {
        SessionExpiry { sessions, applier }
    }
}

#[async_trait]
impl Worker for SessionExpiry {
    fn name(&self) -> &'static str {
        "session-expiry"
    }
    fn status(&self) -> String {
        format!("{} sessions", self.sessions.count())
    }
    async fn step(&self) -> Duration {
        for session in self.sessions.expire_due() {
            if let Err(error) = self.applier.end_session(session).await {
                tracing::warn!(%session, %error, "session could not be ended yet");
                break;
            }
        }
        EXPIRY_INTERVAL
    }
}
