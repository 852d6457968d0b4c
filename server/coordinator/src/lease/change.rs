//! One call's change of inodes: marked, recalled from others, applied, unmarked.

use super::table::{GivenUp, LeaseTable};
use crate::applier::Applier;
use dfs_common::{Ino, SessionId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Inodes that a call is changing. They stay marked until [`Change::finish`]; a call that goes away before leaves them
/// marked until the applier has passed what it had been given.
pub(super) struct Change {
    table: Arc<LeaseTable>,
    applier: Arc<Applier>,
    session: SessionId,
    inos: BTreeSet<Ino>,
    waits: Vec<GivenUp>,
    finished: bool,
}

impl Change {
    /// Marks `inos` and recalls them from all sessions but `session`.
    pub fn begin(
        table: Arc<LeaseTable>,
        applier: Arc<Applier>,
        session: SessionId,
        inos: BTreeSet<Ino>,
    ) -> Self {
        let waits = table.begin_change(session, &inos);
        Change {
            table,
            applier,
            session,
            inos,
            waits,
            finished: false,
        }
    }

    /// Marks and recalls inodes beside those of the beginning.
    pub fn extend(&mut self, inos: impl IntoIterator<Item = Ino>) {
        let more: BTreeSet<Ino> = inos.into_iter().filter(|ino| !self.inos.contains(ino)).collect();
        if more.is_empty() {
            return;
        }
        self.waits.extend(self.table.begin_change(self.session, &more));
        self.inos.extend(more);
    }

    /// Waits until every other session has given up what was recalled from it: at most the rest of its session's lease.
    pub async fn recalled(&mut self) {
        while let Some(wait) = self.waits.last_mut() {
            // An acknowledgement, a new stream and the session's end all drop the sender.
            let _ = wait.await;
            self.waits.pop();
        }
    }

    /// Leases for the session that made the change, on those of its inodes that nobody else has begun to change since.
    pub fn grant(&self) -> Vec<Ino> {
        let granted = |ino: &&Ino| self.table.grant_to_changer(self.session, **ino);
        self.inos.iter().filter(granted).copied().collect()
    }

    /// The change is committed, or was refused as a whole.
    pub fn finish(mut self) {
        self.finished = true;
        self.table.end_change(&self.inos);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (table, applier, inos) = (
            self.table.clone(),
            self.applier.clone(),
            std::mem::take(&mut self.inos),
        );
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    // Its error means that nothing is applied any more.
                    let _ = applier.barrier().await;
                    table.end_change(&inos);
                });
            }
            // Without a runtime the coordinator is being torn down.
            Err(_) => table.end_change(&inos),
        }
    }
}
