//! The session with the coordinator: its identity, its operation numbers, and how a call survives servers that go away.
//!
//! A read is sent again until it is answered. A mutation is sent again under the same number until it is answered
//! (invariant I6). A fenced session is resumed, or replaced by a new one ([`recovery`]); a mutation whose outcome was unknown
//! when its session was lost fails, since sending it again could apply it twice.

pub(crate) mod lanes;
mod lifeline;
pub(crate) mod numbers;
pub(crate) mod recovery;
pub(crate) mod unsynced;

use crate::client::Inner;
use crate::leased::{Stamp, changed_inos};
use crate::waiting::{Attempts, What, within};
use dfs_common::lease::Access;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::session::{Caller, Identity, SessionGrant};
use dfs_common::{Attr, ClusterId, ErrorKind, FsError, FsResult, Ino};
use lanes::{Answered, Lanes};
use numbers::{Numbers, Ticket};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use unsynced::Unsynced;

/// Fenced answers in a row, each followed by a resume, before a pause is made.
const FENCED_IN_A_ROW_MAX: u32 = 3;

/// The session as it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterId,
    /// Grows with every new session.
    pub(crate) generation: u64,
    /// Grows with every new or resumed session.
    pub(crate) stamp: u64,
    /// The coordinator keeps the session at least until then.
    pub(crate) lease_until: Instant,
    pub(crate) chunk_bytes: u64,
    pub(crate) replication_floor: u32,
    /// Of the coordinator that granted it.
    pub(crate) coordinator_epoch: u64,
}

impl Live {
    fn new(grant: &SessionGrant, sent: Instant, generation: u64, stamp: u64) -> Self {
        Live {
            identity: grant.identity,
            cluster: grant.cluster,
            generation,
            stamp,
            lease_until: sent + grant.lease,
            chunk_bytes: grant.chunk_bytes.clamp(4096, dfs_common::limits::CHUNK_BYTES_MAX),
            replication_floor: grant.replication_floor.max(1),
            coordinator_epoch: grant.coordinator_epoch,
        }
    }
}

/// The session, shared by everything that calls the coordinator.
pub(crate) struct Session {
    live: RwLock<Live>,
    pub(crate) numbers: Arc<Numbers>,
    lanes: Arc<Lanes>,
    recovering: tokio::sync::Mutex<()>,
    pub(crate) unsynced: Unsynced,
    /// Running calls of fsync: what is sent meanwhile asks for durable answers.
    fsyncs: AtomicUsize,
}

/// See [`Session::begin_fsync`].
pub(crate) struct Fsyncing<'a>(&'a AtomicUsize);

impl Drop for Fsyncing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Session {
    /// From the grant of a request that was sent at `sent`.
    pub(crate) fn new(grant: &SessionGrant, sent: Instant) -> Self {
        Session {
            live: RwLock::new(Live::new(grant, sent, 0, 0)),
            numbers: Arc::new(Numbers::new()),
            lanes: Arc::default(),
            recovering: tokio::sync::Mutex::default(),
            unsynced: Unsynced::new(grant.coordinator_epoch),
            fsyncs: AtomicUsize::new(0),
        }
    }

    /// Until it is dropped, changes are answered when they are durable.
    pub(crate) fn begin_fsync(&self) -> Fsyncing<'_> {
        self.fsyncs.fetch_add(1, Ordering::SeqCst);
        Fsyncing(&self.fsyncs)
    }

    pub(crate) fn live(&self) -> Live {
        *self.live.read()
    }
}

/// What an answer says that this client may do with a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// From before the call.
    pub(crate) stamp: Stamp,
    pub(crate) access: Access,
}

/// What became of a numbered mutation.
pub(crate) struct Outcome {
    pub(crate) result: OpResult,
    pub(crate) durable: bool,
    pub(crate) granted: Option<Granted>,
}

fn opened_or_written(result: &OpResult) -> Option<Ino> {
    match result {
        Ok(OpReply::Created { entry, .. }) => Some(entry.attr.ino),
        Ok(OpReply::Committed { attr, .. }) => Some(attr.ino),
        _ => None,
    }
}

/// Why a numbered mutation has no result.
pub(crate) enum Unanswered {
    /// Its session ended. `sent`: it may have been applied before.
    SessionLost { sent: bool },
    /// The patience ended, or the batch was refused.
    Failed(FsError),
}

impl From<Unanswered> for FsError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Failed(error) => error,
            Unanswered::SessionLost { .. } => FsError::new(
                ErrorKind::SessionFenced,
                "the session ended before the outcome of the operation was known: look what is there and try again",
            ),
        }
    }
}

impl Inner {
    pub(crate) fn attempts(&self, what: What) -> Attempts {
        Attempts::new(&self.waits, what, self.config.call_patience)
    }

    /// Calls the coordinator until it answers. `call` may be sent more than once.
    pub(crate) async fn call<T, F>(&self, what: What, call: impl Fn(Identity) -> F) -> FsResult<T>
    where
        F: Future<Output = FsResult<T>>,
    {
        let mut attempts = self.attempts(what);
        let mut fenced = 0;
        loop {
            let live = self.session.live();
            match within(CALL_DEADLINE, call(live.identity)).await {
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    self.recover_from(live.stamp, &mut fenced, &mut attempts, error)
                        .await?;
                }
                Err(error) if error.kind().is_retryable() => attempts.pause(error).await?,
                answer => return answer,
            }
        }
    }

    pub(crate) async fn recover_from(
        &self,
        stamp: u64,
        fenced: &mut u32,
        attempts: &mut Attempts,
        error: FsError,
    ) -> FsResult<()> {
        *fenced += 1;
        if *fenced > FENCED_IN_A_ROW_MAX {
            let error = FsError::new(
                ErrorKind::Unavailable,
                format!("the coordinator keeps refusing the session: {}", error.message()),
            );
            attempts.pause(error).await?;
        }
        self.recover(stamp).await
    }

    /// Applies a mutation exactly once, unless its session is lost.
    pub(crate) async fn mutate(&self, what: What, caller: &Caller, op: Operation) -> FsResult<OpReply> {
        self.mutate_opening(what, caller, op)
            .await
            .map(|(reply, _)| reply)
    }

    /// As [`Inner::mutate`]; answers also what this client may do with the file that the operation opened.
    pub(crate) async fn mutate_opening(
        &self,
        what: What,
        caller: &Caller,
        op: Operation,
    ) -> FsResult<(OpReply, Option<Granted>)> {
        let mut attempts = self.attempts(what);
        let mut lost = 0;
        loop {
            let ticket = self.session.numbers.take().await;
            match self.mutate_numbered(&mut attempts, &ticket, caller, &op).await {
                // Without effect and without a stored reply: the next attempt has a number of its own, so that this one
                // does not hold up the acknowledgement of others.
                Ok(Outcome {
                    result: Err(error), ..
                }) if error.kind().is_retryable() => {
                    drop(ticket);
                    attempts.pause(error).await?;
                }
                Ok(Outcome { result, granted, .. }) => return result.map(|reply| (reply, granted)),
                Err(Unanswered::SessionLost { sent: false }) if lost < FENCED_IN_A_ROW_MAX => lost += 1,
                Err(unanswered) => return Err(unanswered.into()),
            }
        }
    }

    /// Sends a mutation under its number until the result is known.
    pub(crate) async fn mutate_numbered(
        &self,
        attempts: &mut Attempts,
        ticket: &Ticket,
        caller: &Caller,
        op: &Operation,
    ) -> Result<Outcome, Unanswered> {
        let mut fenced = 0;
        let mut sent = false;
        loop {
            let live = self.session.live();
            if live.generation != ticket.generation {
                return Err(Unanswered::SessionLost { sent });
            }
            let numbered = NumberedOp {
                number: ticket.number,
                caller: caller.clone(),
                op: op.clone(),
            };
            let send = |ops| self.send_batch(live.identity, ops);
            let change = self.leased.begin(op);
            let stamp = self.leased.stamp();
            let lanes = self.session.lanes.send(numbered, live.generation, send);
            match within(CALL_DEADLINE, lanes).await {
                Ok(Answered {
                    result,
                    leased,
                    access,
                    point,
                }) => {
                    self.catch_up(&point).await.map_err(Unanswered::Failed)?;
                    if let Ok(reply) = &result {
                        self.session.unsynced.answered(&point, || changed_inos(op, reply));
                    }
                    change.answered(op, &result, &leased);
                    let file = opened_or_written(&result);
                    let access = access.iter().find(|access| Some(access.ino) == file);
                    return Ok(Outcome {
                        result,
                        durable: point.is_durable(),
                        granted: access.map(|access| Granted {
                            stamp,
                            access: *access,
                        }),
                    });
                }
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    let recovered = self.recover_from(live.stamp, &mut fenced, attempts, error).await;
                    recovered.map_err(Unanswered::Failed)?;
                }
                Err(error) => {
                    sent = true;
                    attempts.pause(error).await.map_err(Unanswered::Failed)?;
                }
            }
        }
    }

    async fn send_batch(&self, identity: Identity, ops: Vec<NumberedOp>) -> FsResult<Vec<Answered>> {
        let batch = MutationBatch {
            ops,
            acknowledged_below: self.session.numbers.acknowledged_below(),
            stop_on_error: false,
            durable: self.session.fsyncs.load(Ordering::SeqCst) > 0 || self.session.unsynced.is_full(),
        };
        let mutated = self.metadata.mutate(identity, batch).await?;
        let leased: Arc<[Attr]> = mutated.leased.into();
        let access: Arc<[Access]> = mutated.access.into();
        Ok(mutated
            .results
            .into_iter()
            .map(|result| Answered {
                result,
                leased: leased.clone(),
                access: access.clone(),
                point: mutated.point,
            })
            .collect())
    }
}

/// The answer to an operation is of another kind than the operation.
pub(crate) fn unexpected(reply: &OpReply) -> FsError {
    FsError::new(
        ErrorKind::Io,
        format!("the coordinator answered something else: {reply:?}"),
    )
}
