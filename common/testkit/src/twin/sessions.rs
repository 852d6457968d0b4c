//! Sessions: leases, open files, the reply table, granted chunks.

use super::TWIN_KEY;
use super::state::State;
use dfs_common::capability::{ChunkAccess, ChunkCapability};
use dfs_common::cluster::NodeHealth;
use dfs_common::limits::{
    BATCH_OPS_MAX, CAPABILITY_VALIDITY, GRANT_CHUNKS_MAX, SESSION_LEASE, SESSION_REPLIES_MAX,
};
use dfs_common::lock::{LockDeclaration, LockRange, LockStyle};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::session::{Identity, OpenDeclaration, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, Ino, PgId, SessionEpoch, SessionId};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Default)]
pub(super) struct Open {
    pub(super) count: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

#[derive(Clone)]
pub(super) struct Session {
    epoch: SessionEpoch,
    secret: SessionSecret,
    renewed: Duration,
    pub(super) opens: BTreeMap<Ino, Open>,
    /// Not since the last restart, otherwise: it may hold anything until it is.
    pub(super) resumed: bool,
    replies: BTreeMap<u64, OpResult>,
    acknowledged_below: u64,
    /// Chunk sequence numbers below it were granted.
    pub(super) granted_below: u64,
}

fn fenced() -> FsError {
    FsError::new(
        ErrorKind::SessionFenced,
        "the session is unknown or ended: open a new one",
    )
}

impl State {
    /// The caller's session, if it is alive.
    pub(super) fn session(&mut self, identity: &Identity) -> FsResult<&mut Session> {
        self.expire();
        self.forget_replaced();
        let session = self.sessions.get_mut(&identity.session).ok_or_else(fenced)?;
        match session.is_of(identity) && session.resumed {
            true => Ok(session),
            false => Err(fenced()),
        }
    }

    /// Of open files is known from now on what sessions declare when they are resumed, which they must be first.
    pub(super) fn restart(&mut self) {
        for session in self.sessions.values_mut() {
            session.resumed = false;
            session.opens.clear();
        }
    }

    fn expire(&mut self) {
        let now = self.clock.monotonic();
        let late = |session: &Session| now.saturating_sub(session.renewed) > SESSION_LEASE;
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| late(session))
            .map(|(id, _)| *id)
            .collect();
        for session in gone {
            self.end_session(session);
        }
    }

    pub(super) fn end_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            for ino in session.opens.into_keys() {
                self.forget_if_unused(ino);
            }
        }
        self.locks.end(id);
    }

    pub(super) fn open_session(&mut self, request: OpenSession) -> FsResult<SessionGrant> {
        if request.client_name.len() > 255 {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a client name has at most 255 bytes",
            ));
        }
        let now = self.clock.monotonic();
        if request.locks.more && !request.opened.is_empty() {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "open files come with the last locks",
            ));
        }
        let partial = |declared: &LockDeclaration| {
            declared.lock.owner.style == LockStyle::Flock && declared.lock.range != LockRange::WHOLE
        };
        if request.locks.held.iter().any(partial) {
            return Err(FsError::new(ErrorKind::Invalid, "a flock is of the whole file"));
        }
        let identity = match request.resume {
            Some(identity) => {
                let known = self.sessions.get_mut(&identity.session).ok_or_else(fenced)?;
                known.resumed |= known.is_of(&identity);
                let session = self.session(&identity)?;
                session.renewed = now;
                session.declare(&request.opened);
                self.locks.settle(identity.session, request.locks.settled);
                identity
            }
            None => {
                let session = SessionId(self.next_session);
                self.next_session += 1;
                let (epoch, secret) = (SessionEpoch(1), SessionSecret(rand::random()));
                let fresh = Session {
                    epoch,
                    secret,
                    renewed: now,
                    opens: BTreeMap::new(),
                    resumed: true,
                    replies: BTreeMap::new(),
                    acknowledged_below: 0,
                    granted_below: 0,
                };
                self.sessions.insert(session, fresh);
                Identity {
                    session,
                    epoch,
                    secret,
                    trace: 0,
                }
            }
        };
        let lost =
            |declared: &LockDeclaration| !self.locks.holds(identity.session, declared.ino, &declared.lock);
        let lost_locks = request.locks.held.into_iter().filter(lost).collect();
        Ok(SessionGrant {
            identity,
            cluster: self.cluster,
            lease: SESSION_LEASE,
            chunk_bytes: self.options.chunk_bytes,
            replication: self.options.replication,
            replication_floor: self.options.replication_floor,
            coordinator_epoch: 1,
            rollback_epoch: 0,
            kept_commits: u64::MAX,
            lost_locks,
        })
    }

    pub(super) fn keep_alive(&mut self, identity: &Identity) -> FsResult<Duration> {
        let now = self.clock.monotonic();
        self.session(identity)?.renewed = now;
        Ok(SESSION_LEASE)
    }

    /// Counts one open.
    pub(super) fn count_open(&mut self, session: SessionId, ino: Ino, read: bool, write: bool) {
        let session = self.sessions.get_mut(&session).expect("checked by the caller");
        session.opens.entry(ino).or_default().add(1, read, write);
    }

    /// Takes one open back.
    pub(super) fn release(&mut self, session: SessionId, ino: Ino) {
        let opens = &mut self
            .sessions
            .get_mut(&session)
            .expect("checked by the caller")
            .opens;
        if let Some(open) = opens.get_mut(&ino) {
            open.count -= 1;
            if open.count == 0 {
                opens.remove(&ino);
                self.forget_if_unused(ino);
            }
        }
    }

    pub(super) fn has_open(&self, session: SessionId, ino: Ino) -> Option<Open> {
        self.sessions
            .get(&session)
            .and_then(|session| session.opens.get(&ino))
            .copied()
    }

    pub(super) fn mutate(&mut self, identity: &Identity, batch: MutationBatch) -> FsResult<Vec<OpResult>> {
        let session = self.session(identity)?;
        let increasing = batch.ops.windows(2).all(|pair| pair[0].number < pair[1].number);
        if !(1..=BATCH_OPS_MAX).contains(&batch.ops.len()) || !increasing {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a batch has 1 to 1024 operations with increasing numbers",
            ));
        }
        session.acknowledged_below = session.acknowledged_below.max(batch.acknowledged_below.0);
        session.replies = session.replies.split_off(&session.acknowledged_below);
        let mut results = Vec::new();
        let mut failed = false;
        for op in &batch.ops {
            let result = match failed {
                true => Err(FsError::new(
                    ErrorKind::BatchAborted,
                    "an earlier operation of the batch failed",
                )),
                false => self.apply_once(identity.session, op),
            };
            failed |= batch.stop_on_error && result.is_err();
            results.push(result);
        }
        Ok(results)
    }

    /// A number is applied at most once; a retry gets the first reply.
    fn apply_once(&mut self, session: SessionId, op: &NumberedOp) -> OpResult {
        let known = self.sessions.get(&session).expect("checked by the caller");
        if op.number.0 < known.acknowledged_below {
            return Err(FsError::new(
                ErrorKind::StaleOperation,
                "the operation was acknowledged long ago",
            ));
        }
        if let Some(reply) = known.replies.get(&op.number.0) {
            return reply.clone();
        }
        if known.replies.len() >= SESSION_REPLIES_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                "too many replies are not acknowledged",
            ));
        }
        self.now = self.clock.now();
        let makes_inodes = !matches!(op.op, Operation::CommitWrite(_));
        let result = self.within_quotas(makes_inodes, |state| state.apply(session, op));
        let passing = result.as_ref().is_err_and(|error| error.kind().is_retryable());
        if !passing {
            let known = self
                .sessions
                .get_mut(&session)
                .expect("an operation ends no session");
            known.replies.insert(op.number.0, result.clone());
        }
        result
    }

    fn apply(&mut self, session: SessionId, numbered: &NumberedOp) -> OpResult {
        let who = &numbered.caller;
        match &numbered.op {
            Operation::Mkdir { parent, name, mode } => self.mkdir(who, *parent, name, *mode),
            Operation::Mknod {
                parent,
                name,
                kind,
                mode,
                rdev,
            } => self.mknod(who, *parent, name, *kind, *mode, *rdev),
            Operation::Create {
                parent,
                name,
                mode,
                exclusive,
                read,
                write,
            } => {
                let reply = self.create(who, *parent, name, *mode, *exclusive, (*read, *write))?;
                if let OpReply::Created { entry, .. } = &reply {
                    self.count_open(session, entry.attr.ino, *read, *write);
                }
                Ok(reply)
            }
            Operation::Symlink { parent, name, target } => self.symlink(who, *parent, name, target),
            Operation::Link { ino, parent, name } => self.link(who, *ino, *parent, name),
            Operation::Unlink { parent, name } => self.unlink(who, *parent, name),
            Operation::Rmdir { parent, name } => self.rmdir(who, *parent, name),
            Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
            } => self.rename(who, (*parent, name), (*new_parent, new_name), *mode),
            Operation::Setattr { ino, set, by_handle } => self.setattr(session, who, *ino, set, *by_handle),
            Operation::Setxattr {
                ino,
                name,
                value,
                mode,
            } => self.setxattr(who, *ino, name, value, *mode),
            Operation::Removexattr { ino, name } => self.removexattr(who, *ino, name),
            Operation::GrantChunks { count } => self.grant_chunks(session, *count),
            Operation::CommitWrite(commit) => self.commit_write(session, commit),
        }
    }

    fn grant_chunks(&mut self, session: SessionId, count: u32) -> OpResult {
        if !(1..=GRANT_CHUNKS_MAX).contains(&count) {
            return Err(FsError::new(ErrorKind::Invalid, "a grant has 1 to 256 chunks"));
        }
        let groups = self.groups_for_new_chunks()?;
        let chunks = (0..count)
            .map(|_| {
                self.next_group += 1;
                let group = groups[self.next_group % groups.len()];
                let granted = &mut self
                    .sessions
                    .get_mut(&session)
                    .expect("checked by the caller")
                    .granted_below;
                let chunk = ChunkId::new(session, *granted, group);
                *granted += 1;
                self.capability(session, chunk, ChunkAccess::Write)
            })
            .collect();
        Ok(OpReply::Chunks(chunks))
    }

    fn groups_for_new_chunks(&self) -> FsResult<Vec<PgId>> {
        let up = |id| {
            self.nodes
                .iter()
                .any(|node| node.id == id && node.health == NodeHealth::Up && node.writable)
        };
        let groups = self.groups.iter().map(|group| {
            let members = group.members.iter().filter(|id| up(**id)).count();
            (members, group.id)
        });
        let most = groups.clone().map(|(members, _)| members).max().unwrap_or(0);
        if most < self.options.replication_floor as usize {
            return Err(FsError::new(ErrorKind::Unavailable, "too few datanodes are up"));
        }
        Ok(groups
            .filter(|(members, _)| *members == most)
            .map(|(_, id)| id)
            .collect())
    }

    pub(super) fn capability(
        &self,
        session: SessionId,
        chunk: ChunkId,
        access: ChunkAccess,
    ) -> ChunkCapability {
        let expires = self.clock.now_unix_ms() + CAPABILITY_VALIDITY.as_millis() as u64;
        TWIN_KEY.sign(session, chunk, access, expires)
    }
}

impl Open {
    fn add(&mut self, count: u64, read: bool, write: bool) {
        self.count += count;
        self.read |= read;
        self.write |= write;
    }
}

impl Session {
    fn is_of(&self, identity: &Identity) -> bool {
        self.epoch == identity.epoch && self.secret == identity.secret
    }

    /// What the client says it has open, one declaration per open; what is known beyond that stays.
    fn declare(&mut self, opened: &[OpenDeclaration]) {
        let mut declared = BTreeMap::<Ino, Open>::new();
        for open in opened {
            declared
                .entry(open.ino)
                .or_default()
                .add(1, open.read, open.write);
        }
        for (ino, open) in declared {
            let known = self.opens.entry(ino).or_default();
            let missing = open.count.saturating_sub(known.count);
            known.add(missing, open.read, open.write);
        }
    }
}
