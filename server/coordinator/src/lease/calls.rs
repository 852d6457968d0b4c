//! The calls of the metadata service that grant leases or take them away.

use super::affected::{predicted, really};
use super::change::Change;
use super::table::{LeaseTable, Pending};
use crate::core::Core;
use crate::namespace::orphans::NAMESPACE;
use crate::namespace::read;
use crate::namespace::repair::Repair;
use dfs_common::lease::RecallPage;
use dfs_common::limits::RECALL_POLL;
use dfs_common::op::MutationBatch;
use dfs_common::service::{DirPage, Found, Mutated};
use dfs_common::session::{Caller, Identity};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name, SessionId};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a mutation waits for the clients from before a restart before its client is told so.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);

impl LeaseTable {
    /// The next recalls of a stream; waits for them up to [`RECALL_POLL`].
    ///
    /// # Errors
    /// `Stale`: the stream is over. `Unavailable` after [`LeaseTable::close`].
    pub async fn recalls(&self, session: SessionId, stream: u64, acknowledged: u64) -> FsResult<RecallPage> {
        let deadline = tokio::time::Instant::now() + RECALL_POLL;
        loop {
            let recalls = match self.pending(session, stream, acknowledged)? {
                Pending::Recalls(recalls) => recalls,
                Pending::None(arrived) => match tokio::time::timeout_at(deadline, arrived.notified()).await {
                    Ok(()) => continue,
                    Err(_) => Vec::new(),
                },
            };
            return Ok(RecallPage { stream, recalls });
        }
    }
}

impl Core {
    /// Applies a batch after every other session has given up its leases on what the batch changes.
    ///
    /// # Errors
    /// Those of [`crate::applier::Applier::mutate`]; `Unavailable` while clients from before a restart may still answer
    /// from memory.
    pub(crate) async fn change(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        if tokio::time::timeout(SETTLE_PATIENCE, self.sessions.settled())
            .await
            .is_err()
        {
            return Err(FsError::new(
                ErrorKind::Unavailable,
                "after a restart changes wait until the clients from before it have resumed their sessions or lost them",
            ));
        }
        let inos = predicted(&*self.store, &batch)?;
        let mut change = Change::begin(self.leases.clone(), self.applier.clone(), identity.session, inos);
        change.recalled().await;
        let (results, point) = self.applier.mutate(identity, batch).await?;
        change.extend(really(&results));
        change.recalled().await;
        // Leases first, then what they cover. An inode that is gone has no attributes.
        let granted = change.grant();
        let attr = |ino: Ino| read::getattr(&*self.store, ino).ok();
        let leased = granted.into_iter().filter_map(attr).collect();
        change.finish();
        Ok(Mutated {
            results,
            leased,
            point,
        })
    }

    /// Repairs what a check found, after every session has given up its leases on it. Answers for each repair whether it was made.
    ///
    /// # Errors
    /// Those of [`crate::applier::Applier::repair`].
    pub(crate) async fn repair(&self, repairs: Vec<Repair>) -> FsResult<Vec<bool>> {
        self.sessions.settled().await;
        let inos: BTreeSet<Ino> = repairs.iter().flat_map(Repair::inodes).collect();
        let mut change = Change::begin(self.leases.clone(), self.applier.clone(), NAMESPACE, inos);
        change.recalled().await;
        let repaired = self.applier.repair(repairs).await?;
        change.finish();
        Ok(repaired)
    }

    /// Finds a name; leases on both inodes are registered before each is read.
    pub(crate) fn leased_lookup(
        &self,
        session: SessionId,
        caller: &Caller,
        parent: Ino,
        name: &Name,
    ) -> FsResult<Found> {
        let parent_leased = self.leases.grant(session, parent);
        let entry = read::lookup(&*self.store, caller, parent, name)?;
        let leased = self.leases.grant(session, entry.attr.ino);
        // What was read before the lease was there may be old.
        let again = leased.then(|| read::getattr(&*self.store, entry.attr.ino));
        Ok(match again {
            Some(Ok(attr)) => Found {
                attr,
                leased: true,
                parent_leased,
            },
            _ => Found {
                attr: entry.attr,
                leased: false,
                parent_leased,
            },
        })
    }

    /// A page of a directory; leases on the directory and, with `attrs`, on its entries are registered before each is read.
    pub(crate) fn leased_readdir(
        &self,
        session: SessionId,
        caller: &Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let directory_leased = self.leases.grant(session, ino);
        let snapshot = self.store.snapshot()?;
        if !attrs || !directory_leased {
            let mut page = read::readdir(&*snapshot, caller, ino, cursor, limit, attrs)?;
            page.leased = directory_leased;
            return Ok(page);
        }
        let mut page = read::readdir(&*snapshot, caller, ino, cursor, limit, false)?;
        page.leased = true;
        for entry in &page.entries {
            page.leased &= self.leases.grant(session, entry.ino);
        }
        let snapshot = self.store.snapshot()?;
        for entry in &mut page.entries {
            entry.attr = read::getattr(&*snapshot, entry.ino).ok();
            page.leased &= entry.attr.is_some();
        }
        Ok(page)
    }
}
