//! Ends sessions whose lease ran out, and finishes the ending of those that was interrupted.

use super::table::{EXPIRY_INTERVAL, SessionTable};
use crate::applier::Applier;
use crate::lease::LeaseTable;
use crate::worker::Worker;
use async_trait::async_trait;
use dfs_common::failpoint::{self, Failpoint};
use std::sync::Arc;
use std::time::Duration;

/// The expiry worker.
pub struct SessionExpiry {
    sessions: Arc<SessionTable>,
    applier: Arc<Applier>,
    leases: Arc<LeaseTable>,
}

impl SessionExpiry {
    /// Over these sessions.
    pub fn new(sessions: Arc<SessionTable>, applier: Arc<Applier>, leases: Arc<LeaseTable>) -> Self {
        SessionExpiry {
            sessions,
            applier,
            leases,
        }
    }
}

#[async_trait]
impl Worker for SessionExpiry {
    fn name(&self) -> &'static str {
        "session-expiry"
    }
    fn status(&self) -> String {
        format!(
            "{} sessions, {} of them with a lifeline",
            self.sessions.count(),
            self.sessions.lifelines()
        )
    }
    async fn step(&self) -> Duration {
        for session in self.leases.overdue() {
            tracing::warn!(%session, "session is ended: its client does not obey recalls");
            self.sessions.begin_end(session);
        }
        for session in self.sessions.expire_due() {
            self.leases.end(session);
            failpoint::reach(Failpoint::ExpireSessionAfterFence);
            if let Err(error) = self.applier.end_session(session).await {
                tracing::warn!(%session, %error, "session could not be ended yet");
                break;
            }
        }
        EXPIRY_INTERVAL
    }
}
