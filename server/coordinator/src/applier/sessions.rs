//! What the writer thread does for sessions: opened, resumed, taken apart step by step.

use super::EndStep;
use super::group::{Group, next_number};
use crate::lock::Ask;
use crate::namespace::keys::KeyRange;
use crate::namespace::txn::Txn;
use crate::namespace::{self, OpenFiles, keys};
use crate::stored;
use bytes::Bytes;
use dfs_common::limits::{CLIENT_NAME_BYTES_MAX, LOCK_DECLARATIONS_MAX, SESSION_LEASE};
use dfs_common::lock::{LockDeclaration, LockDeclarations};
use dfs_common::session::{Identity, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{ErrorKind, FsError, FsResult, SessionEpoch, SessionId};
use dfs_proto::v1;

/// Records that one step of taking a session apart looks at.
const END_STEP_RECORDS_MAX: usize = 1024;

impl Group {
    fn grant(&self, txn: &Txn<'_>, identity: Identity, request: &OpenSession) -> FsResult<SessionGrant> {
        let progress = self.parts.persistence.progress();
        Ok(SessionGrant {
            identity,
            cluster: self.parts.cluster_id,
            lease: SESSION_LEASE,
            chunk_bytes: self.parts.chunk_bytes,
            replication: self.parts.replication,
            replication_floor: self.parts.replication_floor,
            coordinator_epoch: progress.point().last.epoch,
            rollback_epoch: progress.rollback_epoch(),
            kept_commits: progress.kept(txn, request.unsynced)?,
            lost_locks: Vec::new(),
        })
    }

    pub(super) fn open_session(
        &mut self,
        txn: &mut Txn<'_>,
        request: OpenSession,
        secret: SessionSecret,
    ) -> FsResult<SessionGrant> {
        if request.client_name.len() > CLIENT_NAME_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("a client name has at most {CLIENT_NAME_BYTES_MAX} bytes"),
            ));
        }
        self.parts.sessions.check_room()?;
        let session = SessionId(next_number(txn, keys::next_session())?);
        if session.0 > SessionId::MAX {
            return Err(FsError::new(
                ErrorKind::NoSpace,
                "all session numbers of the cluster were used",
            ));
        }
        let epoch = SessionEpoch(1);
        let opened = self.parts.clock.now();
        let record = v1::StoredSession {
            epoch: epoch.0,
            secret: Bytes::copy_from_slice(&secret.0),
            client_name: request.client_name.clone(),
            opened: Some(v1::Timestamp {
                secs: opened.secs,
                nanos: opened.nanos,
            }),
            ..v1::StoredSession::default()
        };
        stored::put_session(txn, session, &record);
        let identity = Identity {
            session,
            epoch,
            secret,
            trace: 0,
        };
        self.grant(txn, identity, &request)
    }

    pub(super) fn resume(
        &mut self,
        txn: &mut Txn<'_>,
        identity: &Identity,
        request: &OpenSession,
    ) -> FsResult<SessionGrant> {
        self.parts.sessions.check_resume(identity)?;
        let session = identity.session;
        if !request.locks.more {
            self.declare_opens(txn, session, request)?;
        }
        let lost_locks = self.declare_locks(session, request)?;
        let grant = self.grant(txn, *identity, request)?;
        Ok(SessionGrant { lost_locks, ..grant })
    }

    fn declare_opens(
        &mut self,
        txn: &mut Txn<'_>,
        session: SessionId,
        request: &OpenSession,
    ) -> FsResult<()> {
        self.parts.opens.resume(session, &request.opened)?;
        // Orphans that it held before the restart and does not declare any more.
        let opens = self.parts.opens.clone();
        let (start, end) = keys::orphans();
        let mut from = start;
        while let Some(next) = self.release_page(txn, session, from, &end, &|ino| {
            !opens.is_open(session, ino, false)
        })? {
            from = next;
        }
        Ok(())
    }

    /// Puts the locks of a session that resumes into the table; answers those that it does not hold any more.
    fn declare_locks(&self, session: SessionId, request: &OpenSession) -> FsResult<Vec<LockDeclaration>> {
        let LockDeclarations { settled, held, more } = &request.locks;
        if held.len() > LOCK_DECLARATIONS_MAX {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("a client declares at most {LOCK_DECLARATIONS_MAX} locks at once"),
            ));
        }
        if *more && !request.opened.is_empty() {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "open files are declared with the last part of the locks",
            ));
        }
        let ask = |declared: &LockDeclaration| (declared.ino, Ask::of(session, &declared.lock));
        let declared: Vec<_> = held.iter().map(ask).collect();
        let lost = self.parts.locks.declare(session, *settled, &declared, !more)?;
        let lost = lost.into_iter().map(|(ino, ask)| LockDeclaration {
            ino,
            lock: ask.lock(),
        });
        Ok(lost.collect())
    }

    /// Releases a page of the orphans that `session` holds and `gone` says are not open; answers where to go on.
    fn release_page(
        &mut self,
        txn: &mut Txn<'_>,
        session: SessionId,
        from: Bytes,
        end: &Bytes,
        gone: &dyn Fn(dfs_common::Ino) -> bool,
    ) -> FsResult<Option<Bytes>> {
        let page = txn.scan(&from, end, END_STEP_RECORDS_MAX)?;
        let next = page
            .last()
            .filter(|_| page.len() == END_STEP_RECORDS_MAX)
            .map(|(last, _)| Bytes::from([&last[..], b"\0"].concat()));
        for (key, value) in page {
            let (ino, holders) = namespace::parse_orphan(&key, value)?;
            if holders.contains(&session) && gone(ino) {
                namespace::release_orphan(txn, self.parts.clock.now(), ino, session)?;
            }
        }
        Ok(next)
    }

    pub(super) fn end_session(
        &mut self,
        txn: &mut Txn<'_>,
        session: SessionId,
        step: EndStep,
    ) -> FsResult<Option<EndStep>> {
        match step {
            EndStep::Orphans(from) => {
                self.parts.opens.end(session);
                let (start, end) = keys::orphans();
                let from = if from.is_empty() { start } else { from };
                let next = self.release_page(txn, session, from, &end, &|_| true)?;
                Ok(Some(next.map_or(EndStep::Replies, EndStep::Orphans)))
            }
            EndStep::Replies => {
                self.replies.forget(session);
                let more = delete_page(txn, keys::replies(session))?;
                Ok(Some(if more { EndStep::Replies } else { EndStep::Spent }))
            }
            EndStep::Spent => {
                let more = delete_page(txn, keys::spent_chunks(session))?;
                Ok(Some(if more { EndStep::Spent } else { EndStep::Record }))
            }
            EndStep::Record => {
                txn.delete(keys::session(session));
                Ok(None)
            }
        }
    }
}

/// Deletes a page of the records of `range`; true if there may be more.
fn delete_page(txn: &mut Txn<'_>, (start, end): KeyRange) -> FsResult<bool> {
    let page = txn.scan(&start, &end, END_STEP_RECORDS_MAX)?;
    let more = page.len() == END_STEP_RECORDS_MAX;
    for (key, _) in page {
        txn.delete(key);
    }
    Ok(more)
}
