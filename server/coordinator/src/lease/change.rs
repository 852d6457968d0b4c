//! One call's change of what leases cover: marked, recalled from others, applied, unmarked. To read what somebody may buffer is a change of
//! that, too.

use super::holder::GivenUp;
use super::table::LeaseTable;
use crate::applier::Applier;
use dfs_common::lease::Lease;
use dfs_common::{Ino, SessionId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a call is changing. It stays marked until [`Change::finish`]; a call that goes away before leaves it
/// marked until the applier has passed what it had been given.
pub(super) struct Change {
    table: Arc<LeaseTable>,
    applier: Arc<Applier>,
    session: SessionId,
    leases: BTreeSet<Lease>,
    waits: Vec<GivenUp>,
    finished: bool,
}

impl Change {
    /// Marks `leases` and recalls them from all sessions but `session`.
    pub fn begin(
        table: Arc<LeaseTable>,
        applier: Arc<Applier>,
        session: SessionId,
        leases: BTreeSet<Lease>,
    ) -> Self {
        let waits = table.begin_change(session, &leases);
        Change {
            table,
            applier,
            session,
            leases,
            waits,
            finished: false,
        }
    }

    /// Marks and recalls leases beside those of the beginning.
    pub fn extend(&mut self, leases: impl IntoIterator<Item = Lease>) {
        let is_new = |lease: &Lease| !self.leases.contains(lease);
        let more: BTreeSet<Lease> = leases.into_iter().filter(is_new).collect();
        if more.is_empty() {
            return;
        }
        self.waits.extend(self.table.begin_change(self.session, &more));
        self.leases.extend(more);
    }

    /// Waits until every other session has given up what was recalled from it: at most the rest of its session's lease.
    pub async fn recalled(&mut self) {
        while let Some(wait) = self.waits.last_mut() {
            // An acknowledgement, a new stream and the session's end all drop the sender.
            let _ = wait.await;
            self.waits.pop();
        }
    }

    /// Leases on attributes and names for the session that made the change, where nobody else has begun to change them since.
    pub fn grant(&self) -> Vec<Ino> {
        let attributes = self.leases.iter().map(|lease| lease.ino);
        let of_inodes = attributes.filter(|ino| self.leases.contains(&Lease::attributes(*ino)));
        let mut inos: Vec<Ino> = of_inodes.collect();
        inos.dedup();
        inos.retain(|ino| self.table.grant_to_changer(self.session, *ino));
        inos
    }

    /// The change is committed, or was refused as a whole.
    pub fn finish(mut self) {
        self.finished = true;
        self.table.end_change(self.session, &self.leases);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (table, applier, session) = (self.table.clone(), self.applier.clone(), self.session);
        let leases = std::mem::take(&mut self.leases);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    // Its error means that nothing is applied any more.
                    let _ = applier.barrier().await;
                    table.end_change(session, &leases);
                });
            }
            // Without a runtime the coordinator is being torn down.
            Err(_) => table.end_change(session, &leases),
        }
    }
}
