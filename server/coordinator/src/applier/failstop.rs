//! Fail-stop: after a commit of unknown fate nothing is written or acknowledged any more.

use dfs_common::{ErrorKind, FsError, FsResult};
use tokio::sync::watch;

/// Set once, when a store commit failed.
pub struct FailStop {
    error: watch::Sender<Option<FsError>>,
}

impl Default for FailStop {
    fn default() -> Self {
        FailStop {
            error: watch::Sender::new(None),
        }
    }
}

impl FailStop {
    /// Stops all writing; the first error stays.
    pub fn set(&self, error: &FsError) {
        self.error.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                tracing::error!(%error, "a commit failed: the coordinator writes no more until it is restarted");
                *state = Some(FsError::new(
                    ErrorKind::Io,
                    format!("the coordinator stopped writing after a failed commit: {}", error.message()),
                ));
            }
            first
        });
    }

    /// # Errors
    /// `Io` once writing was stopped.
    pub fn check(&self) -> FsResult<()> {
        match &*self.error.borrow() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Waits until writing is stopped and answers why.
    pub async fn stopped(&self) -> FsError {
        let mut receiver = self.error.subscribe();
        let stopped = receiver.wait_for(Option::is_some).await;
        let error = stopped.ok().and_then(|state| state.clone());
        error.unwrap_or_else(|| ErrorKind::Io.into())
    }
}
