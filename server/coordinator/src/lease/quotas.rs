//! The calls about quotas: usage, which comes with a lease on them, and setting one, which recalls it.
//!
//! A new quota takes three steps, so that the writer never looks through the cluster's hard links. The directory's *edge* is closed: no
//! further link crosses it. Whether one did before is looked up in a snapshot, beside the writer. Then the limits come, or the edge is opened.
//! One that a dead coordinator left closed is opened at the next start.

use super::change::Change;
use crate::applier::{Applier, QuotaStep};
use crate::core::Core;
use crate::namespace::orphans::NAMESPACE;
use crate::namespace::quota;
use dfs_common::lease::Lease;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Quota, SessionId, TreeUsage};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hard links may come before the edge is closed for them; then the quota is begun again, at most so often.
const ATTEMPTS_MAX: usize = 8;

impl Core {
    /// Sets a quota after every session has given up what it knows of quotas: a write that begins after this returned is measured by the new
    /// one, on every client. Durable on return. Waits for a session that does not answer until its lease ends.
    ///
    /// # Errors
    /// Those of [`quota::set`]; `Invalid` also if an inode has names below the directory and elsewhere.
    pub(crate) async fn set_quota(&self, ino: Ino, quota: Quota) -> FsResult<()> {
        self.sessions.settled_beside(NAMESPACE).await;
        let _one = self.setting_quota.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let mut closing = None;
            if quota != Quota::default() && self.applier.set_quota(ino, QuotaStep::CloseEdge).await? {
                let edge = closing.insert(Closing::new(self.applier.clone(), ino));
                self.check_links(ino, edge.abandoned.clone()).await?;
            }
            let quotas = BTreeSet::from([Lease::attributes(Ino::QUOTAS)]);
            let mut change = Change::begin(self.leases.clone(), self.applier.clone(), NAMESPACE, quotas);
            change.recalled().await;
            let set = self.applier.set_quota(ino, QuotaStep::Set(quota)).await;
            change.finish();
            match set {
                Err(error) if error.kind() == ErrorKind::Busy => continue,
                set => set?,
            };
            if let Some(edge) = closing {
                edge.done();
            }
            return Ok(());
        }
        Err(FsError::new(
            ErrorKind::Busy,
            "hard links are made below the directory all the time: try again",
        ))
    }

    /// Looks through all hard links, beside the writer; ends early once `abandoned`.
    async fn check_links(&self, ino: Ino, abandoned: Arc<AtomicBool>) -> FsResult<()> {
        let store = self.store.clone();
        let look = move || {
            let snapshot = store.snapshot()?;
            quota::check_links(&*snapshot, ino, &abandoned)
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|error| FsError::new(ErrorKind::Io, error.to_string()))?
    }

    /// What lies below an inode, and what quotas leave; a lease on the quotas is registered before they are read.
    pub(crate) fn leased_usage(&self, session: SessionId, ino: Ino) -> FsResult<TreeUsage> {
        let leased = self.leases.grant(session, Ino::QUOTAS);
        let snapshot = self.store.snapshot()?;
        let usage = quota::tree_usage(&*snapshot, ino)?;
        Ok(TreeUsage { leased, ..usage })
    }
}

/// An edge that is closed and gets no quota unless [`Closing::done`] is called: dropped, it is opened.
struct Closing {
    applier: Arc<Applier>,
    ino: Ino,
    abandoned: Arc<AtomicBool>,
    done: bool,
}

impl Closing {
    fn new(applier: Arc<Applier>, ino: Ino) -> Self {
        Closing {
            applier,
            ino,
            abandoned: Arc::default(),
            done: false,
        }
    }

    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::SeqCst);
        // Without a runtime the coordinator is being torn down, and its next start opens the edge.
        if let (false, Ok(runtime)) = (self.done, tokio::runtime::Handle::try_current()) {
            let (applier, ino) = (self.applier.clone(), self.ino);
            runtime.spawn(async move {
                if let Err(error) = applier.set_quota(ino, QuotaStep::OpenEdge).await {
                    tracing::warn!(%ino, %error, "hard links may be refused at this directory until a restart, or until its quota is cleared");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
