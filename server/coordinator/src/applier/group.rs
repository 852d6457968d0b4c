//! One group commit: what each command does to the transaction, and how it is answered.

use super::replies::{Known, Replies};
use super::reserve::Room;
use super::{ApplierParts, Command, EndStep, QuotaStep, Reaped, Reply, nodes};
use crate::namespace::repair::{self, Repair};
use crate::namespace::txn::Txn;
use crate::namespace::{self, ApplyContext, OpenFiles, chunks, orphans, reap};
use crate::stored;
use bytes::Bytes;
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::limits::{BATCH_OPS_MAX, CAPABILITY_VALIDITY};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::session::Identity;
use dfs_common::{CommitPoint, ErrorKind, FsError, FsResult, SessionId};

/// Told the outcome of the group's commit: takes effect in memory, then answers the caller.
type Answer = Box<dyn FnOnce(FsResult<CommitPoint>) + Send>;

pub(super) struct Group {
    pub(super) parts: ApplierParts,
    pub(super) replies: Replies,
    /// What the disk had room for when this group began.
    room: Room,
}

/// An answer that carries `result` once it is committed.
fn answer<T: Send + 'static>(reply: Reply<T>, result: FsResult<T>) -> Answer {
    // A caller that went away asks again and finds the stored reply.
    Box::new(move |committed| drop(reply.send(committed.and(result))))
}

/// Like [`answer`], with an effect in memory before it.
fn answer_after<T: Send + 'static>(
    reply: Reply<T>,
    result: FsResult<T>,
    effect: impl FnOnce(&T) + Send + 'static,
) -> Answer {
    Box::new(move |committed| {
        let result = committed.and(result);
        if let Ok(value) = &result {
            effect(value);
        }
        drop(reply.send(result));
    })
}

impl Group {
    pub(super) fn new(parts: ApplierParts) -> Self {
        Group {
            parts,
            replies: Replies::default(),
            room: Room::unlimited(),
        }
    }

    /// Applies and commits these commands together, and answers them. `urgent`: the commit is durable, whatever is set.
    ///
    /// # Errors
    /// Those of the commit: its outcome is unknown.
    pub(super) fn commit(&mut self, commands: Vec<Command>, urgent: bool) -> FsResult<()> {
        let store = self.parts.store.clone();
        self.room = self.parts.reserve.room();
        let mut txn = Txn::new(&*store);
        let answers: Vec<Answer> = commands
            .into_iter()
            .map(|command| self.apply(&mut txn, command))
            .collect();
        failpoint::reach(Failpoint::CommitAfterApply);
        let outcome = self.parts.persistence.commit(&*store, txn, urgent);
        failpoint::reach(Failpoint::CommitAfterStore);
        let told = outcome.clone().map_err(|error| {
            FsError::new(
                ErrorKind::Io,
                format!("the commit failed, its outcome is unknown: {}", error.message()),
            )
        });
        if outcome.is_ok() {
            self.parts.opens.settled();
        }
        for answer in answers {
            answer(told.clone());
        }
        failpoint::reach(Failpoint::ReplyAfterCommit);
        outcome.map(drop)
    }

    /// Runs `change`, which is one operation; if it fails, nothing of it stays in the transaction. Not within another.
    fn whole<T>(
        &mut self,
        txn: &mut Txn<'_>,
        change: impl FnOnce(&mut Self, &mut Txn<'_>) -> FsResult<T>,
    ) -> FsResult<T> {
        let before = txn.begin();
        let result = change(self, txn);
        if result.is_err() {
            txn.rollback_to(before);
        }
        result
    }

    fn apply(&mut self, txn: &mut Txn<'_>, command: Command) -> Answer {
        match command {
            Command::Mutate {
                identity,
                batch,
                reply,
            } => {
                let results = self.mutate(txn, &identity, batch);
                Box::new(move |committed| {
                    let answer = committed.and_then(|point| results.map(|results| (results, point)));
                    drop(reply.send(answer));
                })
            }
            Command::OpenSession {
                request,
                secret,
                reply,
            } => match request.resume {
                Some(identity) => {
                    let result = self.whole(txn, |group, txn| group.resume(txn, &identity, &request));
                    let sessions = self.parts.sessions.clone();
                    answer_after(reply, result, move |_| {
                        failpoint::reach(Failpoint::ResumeSessionAfterCommit);
                        if !request.locks.more {
                            sessions.resumed(identity.session, request.leases);
                        }
                    })
                }
                None => {
                    let result = self.whole(txn, |group, txn| group.open_session(txn, request, secret));
                    let (sessions, locks) = (self.parts.sessions.clone(), self.parts.locks.clone());
                    failpoint::reach(Failpoint::OpenSessionAfterApply);
                    answer_after(reply, result, move |grant| {
                        failpoint::reach(Failpoint::OpenSessionAfterCommit);
                        let identity = grant.identity;
                        locks.begin(identity.session);
                        sessions.insert_live(identity.session, identity.epoch, identity.secret);
                    })
                }
            },
            Command::EndSession { session, step, reply } => {
                let done = match step {
                    EndStep::Orphans(_) => Failpoint::EndSessionAfterOrphans,
                    EndStep::Replies => Failpoint::EndSessionAfterReplies,
                    EndStep::Spent => Failpoint::EndSessionAfterSpent,
                    EndStep::Record => Failpoint::EndSessionAfterRecord,
                };
                let result = self.whole(txn, |group, txn| group.end_session(txn, session, step));
                let (sessions, opens) = (self.parts.sessions.clone(), self.parts.opens.clone());
                let locks = self.parts.locks.clone();
                answer_after(reply, result, move |next| {
                    failpoint::reach(done);
                    // Only now is everything that it did under its locks applied, for the next holder to see.
                    locks.end(session);
                    if next.is_none() {
                        opens.end(session);
                        sessions.remove(session);
                    }
                })
            }
            Command::ReleaseOrphan { session, ino, reply } => {
                let opens = self.parts.opens.clone();
                let result = self.whole(txn, |group, txn| match opens.is_open(session, ino, false) {
                    true => Ok(()),
                    false => namespace::release_orphan(txn, group.parts.clock.now(), ino, session),
                });
                failpoint::reach(Failpoint::ReleaseAfterApply);
                answer(reply, result)
            }
            Command::RegisterNode { registration, reply } => {
                let result = self.whole(txn, |_, txn| nodes::register(txn, &registration));
                let cluster = self.parts.cluster.clone();
                answer_after(reply, result, move |id| {
                    failpoint::reach(Failpoint::RegisterNodeAfterCommit);
                    let info = nodes::info(*id, &registration);
                    cluster.registered(registration.uuid, registration.secret, info);
                })
            }
            Command::CreateGroups { groups, reply } => {
                let result = self.whole(txn, |_, txn| nodes::create_groups(txn, groups));
                failpoint::reach(Failpoint::CreateGroupsAfterApply);
                let cluster = self.parts.cluster.clone();
                answer_after(reply, result, move |groups| {
                    failpoint::reach(Failpoint::CreateGroupsAfterCommit);
                    for group in groups {
                        cluster.put_group(group.clone());
                    }
                })
            }
            Command::Reap { reply } => {
                let result = self.whole(txn, |group, txn| group.reap(txn));
                answer(reply, result)
            }
            Command::ForgetFreed { chunks, reply } => {
                let result = self.whole(txn, |_, txn| {
                    chunks
                        .iter()
                        .try_for_each(|chunk| chunks::forget_freed(txn, *chunk))
                });
                answer(reply, result)
            }
            Command::Repair { repairs, reply } => {
                let done = repairs.iter().map(|repair| self.repair(txn, repair)).collect();
                failpoint::reach(Failpoint::RepairAfterApply);
                answer_after(reply, Ok(done), |_| {
                    failpoint::reach(Failpoint::RepairAfterCommit);
                })
            }
            Command::EndHold { reply } => {
                let result = self.whole(txn, |_, txn| {
                    if let Some(mut restore) = stored::restore(txn)? {
                        restore.holding = false;
                        stored::put_restore(txn, &restore);
                    }
                    Ok(())
                });
                failpoint::reach(Failpoint::ReleaseHoldAfterApply);
                answer_after(reply, result, |()| {
                    failpoint::reach(Failpoint::ReleaseHoldAfterCommit);
                })
            }
            Command::SetQuota { ino, step, reply } => {
                let result = self.whole(txn, |_, txn| match step {
                    QuotaStep::CloseEdge => namespace::quota::close_edge(txn, ino),
                    QuotaStep::OpenEdge => namespace::quota::open_edge(txn, ino).map(|()| false),
                    QuotaStep::Set(quota) => namespace::quota::set(txn, ino, quota).map(|()| false),
                });
                // The other steps only prepare it.
                let sets = matches!(step, QuotaStep::Set(_));
                if sets {
                    failpoint::reach(Failpoint::SetQuotaAfterApply);
                }
                answer_after(reply, result, move |_| {
                    if sets {
                        failpoint::reach(Failpoint::SetQuotaAfterCommit);
                    }
                })
            }
            Command::SetDurability { durability, reply } => {
                self.parts.persistence.set(txn, durability);
                answer(reply, Ok(()))
            }
            Command::Barrier { reply } => answer(reply, Ok(())),
            Command::Stop => Box::new(|_| {}),
        }
    }

    fn mutate(
        &mut self,
        txn: &mut Txn<'_>,
        identity: &Identity,
        batch: MutationBatch,
    ) -> FsResult<Vec<OpResult>> {
        self.parts.sessions.check(identity)?;
        if batch.ops.is_empty() || batch.ops.len() > BATCH_OPS_MAX {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "a batch has 1 to {BATCH_OPS_MAX} operations, not {}",
                    batch.ops.len()
                ),
            ));
        }
        if !batch.ops.windows(2).all(|pair| pair[0].number < pair[1].number) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "operation numbers of a batch must increase",
            ));
        }
        let session = identity.session;
        self.whole(txn, |group, txn| {
            group.replies.acknowledge(txn, session, batch.acknowledged_below)
        })?;
        let mut results = Vec::with_capacity(batch.ops.len());
        let mut aborted = false;
        for op in &batch.ops {
            let result = if aborted {
                Err(FsError::new(
                    ErrorKind::BatchAborted,
                    "an earlier operation of the batch failed",
                ))
            } else {
                self.apply_once(txn, session, op)
            };
            aborted |= batch.stop_on_error && result.is_err();
            results.push(result);
        }
        Ok(results)
    }

    /// Applies an operation unless its number was applied before; then answers the first reply.
    fn apply_once(&mut self, txn: &mut Txn<'_>, session: SessionId, op: &NumberedOp) -> OpResult {
        match self.replies.find(txn, session, op.number)? {
            Known::Stale => {
                return Err(FsError::new(
                    ErrorKind::StaleOperation,
                    format!(
                        "operation {} was acknowledged before: it is not executed again",
                        op.number
                    ),
                ));
            }
            Known::Applied(result) => {
                if let Ok(reply) = &result {
                    self.count_created(txn, session, op, reply)?;
                }
                return result;
            }
            Known::New => self.replies.check_room(txn, session)?,
        }
        // Not kept as a reply: it would take room, and a retry may find some.
        self.room.check(&op.op)?;
        let result = self.whole(txn, |group, txn| {
            let reply = namespace::apply(txn, &group.context(session), &op.caller, &op.op)?;
            group.count_created(txn, session, op, &reply)?;
            Ok(reply)
        });
        self.replies.keep(txn, session, op.number, &result)?;
        result
    }

    fn reap(&self, txn: &mut Txn<'_>) -> FsResult<Reaped> {
        let (now, opens) = (self.parts.clock.now(), &*self.parts.opens);
        // While sessions from before a restart may hold anything, all of them would become holders: it waits for the truth.
        let let_go = match opens.anybody_in_grace() {
            true => orphans::LetGo::default(),
            false => orphans::reap_replaced(txn, now, opens, orphans::REPLACED_AT_ONCE_MAX)?,
        };
        let reaped = Reaped {
            inodes: let_go.inodes,
            more_inodes: let_go.more,
            extents: reap::step(txn, now, reap::EXTENTS_AT_ONCE_MAX)?,
        };
        if reaped.did_something() {
            failpoint::reach(Failpoint::ReapAfterApply);
        }
        Ok(reaped)
    }

    /// Applies a repair if what it repairs is still as it was seen; true if so.
    fn repair(&mut self, txn: &mut Txn<'_>, repair: &Repair) -> bool {
        let repaired = self.whole(txn, |group, txn| {
            repair::apply(txn, &group.context(orphans::NAMESPACE), repair)
        });
        repaired
            .inspect_err(|error| tracing::warn!(?repair, %error, "a repair could not be made"))
            .unwrap_or(false)
    }

    fn context(&self, session: SessionId) -> ApplyContext<'_> {
        let parts = &self.parts;
        let validity_ms = CAPABILITY_VALIDITY.as_millis() as u64;
        ApplyContext {
            now: parts.clock.now(),
            session,
            opened: &*parts.opens,
            placement: &*parts.placement,
            capability_key: &parts.capability_key,
            capability_expires_unix_ms: parts.clock.now_unix_ms() + validity_ms,
            replication: parts.replication,
            replication_floor: parts.replication_floor,
        }
    }

    /// A create leaves its file open, counted once.
    fn count_created(
        &mut self,
        txn: &Txn<'_>,
        session: SessionId,
        op: &NumberedOp,
        reply: &OpReply,
    ) -> FsResult<()> {
        if let (Operation::Create { read, write, .. }, OpReply::Created { entry, .. }) = (&op.op, reply)
            && self.replies.count_open(txn, session, op.number)?
        {
            self.parts
                .opens
                .open_applied(session, entry.attr.ino, *read, *write)?;
        }
        Ok(())
    }
}

/// The next number of a durable counter, at least 1; never given twice.
pub(super) fn next_number(txn: &mut Txn<'_>, key: Bytes) -> FsResult<u64> {
    let next =
        match txn.get(&key)? {
            None => 1,
            Some(value) => u64::from_be_bytes(value[..].try_into().map_err(|_| {
                FsError::new(ErrorKind::Corrupt, "a counter in the metadata store is damaged")
            })?),
        };
    txn.put(key, Bytes::copy_from_slice(&(next + 1).to_be_bytes()));
    Ok(next)
}
