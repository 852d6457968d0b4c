//! The reply table: an operation number is applied at most once, a retry gets the first reply (invariant I6).
//!
//! A reply is stored in the batch of the operation's effects. It goes when the client has acknowledged it; from then on its
//! number is stale for ever, which the session's record says (`acknowledged_below`, written with the trimming). A reply that
//! was not acknowledged is never dropped: at [`SESSION_REPLIES_MAX`] new operations are refused instead. An operation that
//! failed with a passing condition had no effect and leaves no reply: the same number may be tried again.

use crate::namespace::keys;
use crate::namespace::txn::Txn;
use crate::stored;
use bytes::Bytes;
use dfs_common::limits::{BATCH_OPS_MAX, SESSION_REPLIES_MAX};
use dfs_common::op::OpResult;
use dfs_common::{ErrorKind, FsError, FsResult, OpNumber, SessionId};
use dfs_proto::{convert, v1};
use prost::Message;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Acknowledged replies that gather before they are trimmed together, which saves a write of the session's record.
const TRIM_AT_LEAST: usize = 64;

/// What is known of an operation number.
#[derive(Debug)]
pub enum Known {
    /// Never applied.
    New,
    /// Acknowledged long ago: refused, never executed again.
    Stale,
    /// Applied; this was its result.
    Applied(OpResult),
}

#[derive(Default)]
struct Session {
    /// Numbers with a stored reply.
    numbers: BTreeSet<u64>,
    acknowledged_below: u64,
    /// Creates whose open was counted by this process (see [`Replies::count_open`]).
    counted: HashSet<u64>,
}

/// Which replies the store has, per session; read from the store when a session is first met.
#[derive(Default)]
pub struct Replies {
    sessions: HashMap<SessionId, Session>,
}

/// True for failures that may pass by themselves: nothing was done, and the same number may be tried again.
fn may_pass(result: &OpResult) -> bool {
    result.as_ref().is_err_and(|error| {
        error.kind().is_retryable() || matches!(error.kind(), ErrorKind::Io | ErrorKind::BatchAborted)
    })
}

impl Replies {
    fn session(&mut self, txn: &Txn<'_>, session: SessionId) -> FsResult<&mut Session> {
        let vacant = match self.sessions.entry(session) {
            Entry::Occupied(known) => return Ok(known.into_mut()),
            Entry::Vacant(vacant) => vacant,
        };
        let record = stored::get_session(txn, session)?.ok_or_else(|| {
            FsError::new(
                ErrorKind::SessionFenced,
                "the session has no record: open a new one",
            )
        })?;
        let (start, end) = keys::replies(session);
        let mut found = Session {
            acknowledged_below: record.acknowledged_below,
            ..Session::default()
        };
        for (key, _) in txn.scan(&start, &end, SESSION_REPLIES_MAX + 1)? {
            let number = keys::parse_reply(&key).ok_or_else(|| {
                FsError::new(
                    ErrorKind::Corrupt,
                    "a reply record in the metadata store is damaged",
                )
            })?;
            found.numbers.insert(number.0);
        }
        Ok(vacant.insert(found))
    }

    /// What is known of `number`.
    pub fn find(&mut self, txn: &Txn<'_>, session: SessionId, number: OpNumber) -> FsResult<Known> {
        let state = self.session(txn, session)?;
        if state.numbers.contains(&number.0) && number.0 >= state.acknowledged_below {
            let value = txn
                .get(&keys::reply(session, number))?
                .ok_or_else(|| FsError::new(ErrorKind::Corrupt, "a stored reply is missing"))?;
            let message = v1::OpResult::decode(value)
                .map_err(|_| FsError::new(ErrorKind::Corrupt, "a stored reply is damaged"))?;
            return Ok(Known::Applied(convert::op_result_from_wire(message)?));
        }
        Ok(if number.0 < state.acknowledged_below {
            Known::Stale
        } else {
            Known::New
        })
    }

    /// # Errors
    /// `Busy` if no further reply of the session can be kept.
    pub fn check_room(&mut self, txn: &Txn<'_>, session: SessionId) -> FsResult<()> {
        if self.session(txn, session)?.numbers.len() >= SESSION_REPLIES_MAX {
            return Err(FsError::new(
                ErrorKind::Busy,
                format!(
                    "{SESSION_REPLIES_MAX} replies of this session are not acknowledged: acknowledge some first"
                ),
            ));
        }
        Ok(())
    }

    /// Keeps the result of an operation, in the transaction of its effects.
    pub fn keep(
        &mut self,
        txn: &mut Txn<'_>,
        session: SessionId,
        number: OpNumber,
        result: &OpResult,
    ) -> FsResult<()> {
        if may_pass(result) {
            return Ok(());
        }
        self.session(txn, session)?.numbers.insert(number.0);
        let message = convert::op_result_to_wire(result);
        txn.put(keys::reply(session, number), Bytes::from(message.encode_to_vec()));
        Ok(())
    }

    /// True the first time that this process meets a create: its open must be counted. A retry after a restart is met for
    /// the first time too, since the client did not know of that open when it declared the others.
    pub fn count_open(&mut self, txn: &Txn<'_>, session: SessionId, number: OpNumber) -> FsResult<bool> {
        Ok(self.session(txn, session)?.counted.insert(number.0))
    }

    /// The client has the replies of all operations below `below`: they become stale, and are deleted in portions.
    pub fn acknowledge(&mut self, txn: &mut Txn<'_>, session: SessionId, below: OpNumber) -> FsResult<()> {
        let state = self.session(txn, session)?;
        state.acknowledged_below = state.acknowledged_below.max(below.0);
        let below = state.acknowledged_below;
        let full = state.numbers.len() + BATCH_OPS_MAX > SESSION_REPLIES_MAX;
        let at_least = if full { 1 } else { TRIM_AT_LEAST };
        if state.numbers.range(..below).nth(at_least - 1).is_none() {
            return Ok(());
        }
        let kept = state.numbers.split_off(&below);
        for number in std::mem::replace(&mut state.numbers, kept) {
            state.counted.remove(&number);
            txn.delete(keys::reply(session, OpNumber(number)));
        }
        let mut record = stored::get_session(txn, session)?.ok_or_else(|| {
            FsError::new(
                ErrorKind::SessionFenced,
                "the session has no record: open a new one",
            )
        })?;
        record.acknowledged_below = below;
        stored::put_session(txn, session, &record);
        Ok(())
    }

    /// The session is gone.
    pub fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }
}
