//! The calls of the metadata service that grant leases or take them away.

use super::affected::{predicted, really};
use super::change::Change;
use super::table::{Grant, LeaseTable, Recalls};
use crate::core::Core;
use crate::namespace::orphans::NAMESPACE;
use crate::namespace::read;
use crate::namespace::repair::Repair;
use dfs_common::attr::FileKind;
use dfs_common::lease::{Access, Lease, Obeyed, RecallPage};
use dfs_common::limits::RECALL_POLL;
use dfs_common::op::{MutationBatch, OpReply, Operation};
use dfs_common::service::{DirPage, Found, Mutated};
use dfs_common::session::{Caller, Identity};
use dfs_common::{FsResult, Ino, Name, SessionId};
use std::collections::BTreeSet;

impl LeaseTable {
    /// The next recalls of a stream; waits for them up to [`RECALL_POLL`], or until the session calls again.
    ///
    /// # Errors
    /// `Stale`: the stream is over. `Unavailable` after [`LeaseTable::close`].
    pub async fn recalls(&self, session: SessionId, stream: u64, obeyed: &Obeyed) -> FsResult<RecallPage> {
        let deadline = tokio::time::Instant::now() + RECALL_POLL;
        let poll = self.begin_poll(session, stream)?;
        loop {
            let recalls = match self.pending(session, stream, poll, obeyed)? {
                Recalls::Now(recalls) => recalls,
                Recalls::Superseded => Vec::new(),
                Recalls::Later(arrived) => {
                    match tokio::time::timeout_at(deadline, arrived.notified()).await {
                        Ok(()) => continue,
                        Err(_) => Vec::new(),
                    }
                }
            };
            return Ok(RecallPage { stream, recalls });
        }
    }
}

/// Files that a batch opens or writes, in its order: whether for writing; `None` for every other operation.
fn accesses(batch: &MutationBatch) -> Vec<Option<bool>> {
    let access = |op: &Operation| match op {
        Operation::Create { write, .. } => Some(*write),
        Operation::CommitWrite(_) => Some(true),
        _ => None,
    };
    batch.ops.iter().map(|numbered| access(&numbered.op)).collect()
}

impl Core {
    /// Applies a batch after every other session has given up its leases on what the batch changes.
    ///
    /// # Errors
    /// Those of [`crate::applier::Applier::mutate`]; `Unavailable` while clients from before a restart may still answer
    /// from memory.
    pub(crate) async fn change(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        let session = identity.session;
        self.settled(session).await?;
        let leases = predicted(&*self.store, &batch)?;
        let accesses = accesses(&batch);
        self.readers_first(&leases).await;
        let mut change = Change::begin(self.leases.clone(), self.applier.clone(), session, leases);
        change.recalled().await;
        let (mut results, point) = self.applier.mutate(identity, batch).await?;
        change.extend(really(&results));
        change.recalled().await;
        let mut access = Vec::new();
        for (result, write) in results.iter_mut().zip(accesses) {
            if let (Ok(reply), Some(write)) = (result, write) {
                access.extend(self.opened_or_written(session, reply, write));
            }
        }
        // Leases first, then what they cover. An inode that is gone has no attributes.
        let granted = change.grant();
        let attr = |ino: Ino| read::getattr(&*self.store, ino).ok();
        let leased = granted.into_iter().filter_map(attr).collect();
        change.finish();
        Ok(Mutated {
            results,
            leased,
            access,
            point,
        })
    }

    /// What the session may do with a file that an operation opened or wrote. One that was there is answered as it is now: somebody may have saved
    /// what he buffered of it.
    fn opened_or_written(&self, session: SessionId, reply: &mut OpReply, write: bool) -> Option<Access> {
        let (attr, existed, opened) = match reply {
            OpReply::Created { entry, existed } => (&mut entry.attr, *existed, true),
            OpReply::Committed { attr, .. } => (attr, false, false),
            _ => return None,
        };
        let granted = self.leases.grant_content(session, attr.ino) == Grant::Granted;
        let now = read::getattr(&*self.store, attr.ino).ok()?;
        // With another version the client's map is not that of now.
        let content = granted && (existed || now.map_version == attr.map_version);
        if existed {
            *attr = now;
        }
        Some(match opened {
            true => self.access_of_open(session, attr.ino, write, content),
            false => self.access_of_write(session, attr.ino, content, content),
        })
    }

    /// Repairs what a check found, after every session has given up its leases on it. Answers for each repair whether it was made.
    ///
    /// # Errors
    /// Those of [`crate::applier::Applier::repair`].
    pub(crate) async fn repair(&self, repairs: Vec<Repair>) -> FsResult<Vec<bool>> {
        self.sessions.settled_beside(NAMESPACE).await;
        let parts = |ino| [Lease::attributes(ino), Lease::content(ino), Lease::buffer(ino)];
        let leases: BTreeSet<Lease> = repairs.iter().flat_map(Repair::inodes).flat_map(parts).collect();
        let mut change = Change::begin(self.leases.clone(), self.applier.clone(), NAMESPACE, leases);
        change.recalled().await;
        let repaired = self.applier.repair(repairs).await?;
        change.finish();
        Ok(repaired)
    }

    /// Finds a name; leases on both inodes are registered before each is read.
    ///
    /// # Errors
    /// Those of [`read::lookup`]; `Unavailable` as of [`Core::change`], for files.
    pub(crate) async fn leased_lookup(
        &self,
        session: SessionId,
        caller: &Caller,
        parent: Ino,
        name: &Name,
    ) -> FsResult<Found> {
        let parent_leased = self.leases.grant(session, parent);
        let entry = read::lookup(&*self.store, caller, parent, name)?;
        let reading = match entry.attr.kind {
            FileKind::File => self.unbuffered(session, &[entry.attr.ino]).await?,
            _ => None,
        };
        let leased = self.leases.grant(session, entry.attr.ino);
        // What was read before the lease was there, or something was saved, may be old.
        let again = (leased || reading.is_some()).then(|| read::getattr(&*self.store, entry.attr.ino));
        if let Some(reading) = reading {
            reading.finish();
        }
        Ok(match again {
            Some(Ok(attr)) => Found {
                attr,
                leased,
                parent_leased,
            },
            _ => Found {
                attr: entry.attr,
                leased: false,
                parent_leased,
            },
        })
    }

    /// Attributes; the lease is registered before they are read.
    ///
    /// # Errors
    /// `Stale`; `Unavailable` as of [`Core::change`], for files.
    pub(crate) async fn leased_getattr(&self, session: SessionId, ino: Ino) -> FsResult<Found> {
        let reading = match read::getattr(&*self.store, ino)?.kind {
            FileKind::File => self.unbuffered(session, &[ino]).await?,
            _ => None,
        };
        let leased = self.leases.grant(session, ino);
        let attr = read::getattr(&*self.store, ino);
        if let Some(reading) = reading {
            reading.finish();
        }
        Ok(Found {
            attr: attr?,
            leased,
            parent_leased: false,
        })
    }

    /// A page of a directory; leases on the directory and, with `attrs`, on its entries are registered before each is read.
    ///
    /// # Errors
    /// Those of [`read::readdir`]; with `attrs` `Unavailable` as of [`Core::change`].
    pub(crate) async fn leased_readdir(
        &self,
        session: SessionId,
        caller: &Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let directory_leased = self.leases.grant(session, ino);
        let mut page = {
            let snapshot = self.store.snapshot()?;
            read::readdir(&*snapshot, caller, ino, cursor, limit, false)?
        };
        page.leased = directory_leased;
        if !attrs {
            return Ok(page);
        }
        let inos: Vec<Ino> = page.entries.iter().map(|entry| entry.ino).collect();
        let reading = self.unbuffered(session, &inos).await?;
        for entry in &page.entries {
            page.leased &= directory_leased && self.leases.grant(session, entry.ino);
        }
        let snapshot = self.store.snapshot()?;
        for entry in &mut page.entries {
            entry.attr = read::getattr(&*snapshot, entry.ino).ok();
            page.leased &= entry.attr.is_some();
        }
        if let Some(reading) = reading {
            reading.finish();
        }
        Ok(page)
    }
}
