//! A new data directory from a backup, of the same cluster in a new incarnation.
//!
//! Between the backup and the loss of the directory a lost future happened: sessions were opened, numbers given, chunks written. What must
//! not be taken for that future's, or be given a second time, is moved out of its way: the sessions are gone (their clients open
//! new ones), inode, cursor, map and session numbers go on far above, and so does the epoch of starts, so that
//! clients forget what they had in memory. In the sessions' place stands one that nobody has: it holds what they
//! had open, and for the length of its lease changes wait, as they do for every client from before a restart. No chunk is
//! deleted until the datanodes have told what they have ([`crate::gc::hold`]).
//!
//! Invariant: the directory is no coordinator's before everything in it is durable: the identity file is its last.

use super::file::Record;
use super::{Source, Verified, open, source, verify};
use crate::identity::{self, NewDataDir};
use crate::namespace::counters::{self, Counters};
use crate::namespace::orphans::NAMESPACE;
use crate::namespace::txn::Txn;
use crate::namespace::{self, check, keys, parse_orphan};
use crate::store::{StoreKind, WriteBatch};
use crate::stored;
use bytes::Bytes;
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::{ErrorKind, FsError, FsResult, SessionId, Timestamp};
use dfs_proto::{convert, v1};
use prost::Message;
use std::path::Path;

/// Sessions that the lost future may have opened.
const SESSIONS_SKIPPED: u64 = 1 << 32;
/// Inode, cursor and map numbers that it may have given.
const NUMBERS_SKIPPED: u64 = 1 << 40;
/// Starts that its coordinator may have had.
const EPOCHS_SKIPPED: u64 = 1 << 16;
/// Name of the session in the place of all that were.
const LOST_SESSIONS: &str = "sessions from before the restore";

/// What a restore made.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The backup.
    pub backup: Verified,
    /// Restores of this cluster so far, this one included.
    pub incarnation: u64,
    /// Problems that a check of the restored metadata found; the backup has them.
    pub problems: u64,
}

/// Makes the data directory `data_dir`, which must be new or empty, from the backup `file`. Durable on return; after an error the
/// directory is as it was.
///
/// # Errors
/// Those of [`verify`], before anything is made; `Invalid` (the directory is not empty), `Busy`, `NoSpace`, `Io`.
pub fn restore(file: &Path, data_dir: &Path, kind: StoreKind, now: Timestamp) -> FsResult<Restored> {
    // The whole of it first: a damaged one makes nothing.
    let backup = verify(file)?;
    let new = NewDataDir::make(data_dir, kind)?;
    match fill(file, &new, &backup.source, now) {
        Ok((incarnation, problems)) => Ok(Restored {
            backup,
            incarnation,
            problems,
        }),
        Err(error) => {
            new.discard();
            Err(error)
        }
    }
}

fn fill(file: &Path, new: &NewDataDir, verified: &Source, now: Timestamp) -> FsResult<(u64, u64)> {
    let mut reader = open(file)?;
    let source = source(reader.header(), file)?;
    let epoch = source.epoch + EPOCHS_SKIPPED;
    let store = new.open_store()?;
    // The number of the session in the others' place stands behind the orphans.
    let mut orphans = Vec::new();
    while let Some(records) = reader.block()? {
        let changes = records
            .into_iter()
            .filter_map(|record| keep(record, &mut orphans));
        let changes = changes.map(|(key, value)| (key, Some(value))).collect();
        store.commit_unsynced(WriteBatch { changes })?;
    }
    failpoint::reach(Failpoint::RestoreAfterRecords);
    namespace::check_schema(&*store)?;
    let mut txn = Txn::new(&*store);
    let incarnation = begin_incarnation(&mut txn, &source, epoch, now)?;
    let lost = begin_session(&mut txn, now)?;
    for (key, value) in orphans {
        hand_over(&mut txn, key, value, lost)?;
    }
    store.commit(txn.into_batch())?;
    // Other holders count against quotas; and the backup may be of a release that did not count.
    namespace::usage::rebuild::open(&*store, epoch)?;
    store.persist()?;
    failpoint::reach(Failpoint::RestoreAfterStore);
    let problems = check::check_in(&*store, &new.scratch())?.problem_count;
    drop(store);
    if source.cluster != verified.cluster {
        return Err(FsError::new(
            ErrorKind::Busy,
            "the backup was replaced while it was read",
        ));
    }
    new.finish(identity::Owner {
        cluster: source.cluster,
        capability_key: source.capability_key,
        epoch,
    })?;
    failpoint::reach(Failpoint::RestoreAfterIdentity);
    Ok((incarnation, problems))
}

/// A record of the backup that is kept; orphans are put aside.
fn keep((key, value): Record, orphans: &mut Vec<Record>) -> Option<Record> {
    match keys::table_of(&key) {
        keys::Table::OfSessions => None,
        keys::Table::Orphans => {
            orphans.push((key, value));
            None
        }
        keys::Table::Other => Some((key, value)),
    }
}

/// Numbers go on above those of the lost future, and nothing is deleted for a while.
fn begin_incarnation(txn: &mut Txn<'_>, source: &Source, epoch: u64, now: Timestamp) -> FsResult<u64> {
    let mut totals: Counters = counters::get(txn)?;
    totals.numbers_below = above(totals.numbers_below, NUMBERS_SKIPPED, counters::NUMBERS_MAX)?;
    counters::put(txn, &totals);
    let mut durability = stored::durability(txn)?;
    durability.numbers_reserved = 0;
    // The next start: what clients have in memory is from before it.
    durability.rollback_epoch = epoch + 1;
    stored::put_durability(txn, &durability);
    let before = stored::restore(txn)?.unwrap_or_default();
    let record = v1::StoredRestore {
        incarnation: before.incarnation + 1,
        restored: Some(convert::timestamp_to_wire(&now)),
        created: Some(convert::timestamp_to_wire(&source.created)),
        holding: true,
    };
    stored::put_restore(txn, &record);
    Ok(record.incarnation)
}

/// The session in the place of all that were; nobody knows its secret.
fn begin_session(txn: &mut Txn<'_>, now: Timestamp) -> FsResult<SessionId> {
    let next = match txn.get(&keys::next_session())? {
        None => 1,
        Some(value) => u64::from_be_bytes(
            value[..]
                .try_into()
                .map_err(|_| namespace::damaged("session number"))?,
        ),
    };
    let session = SessionId(above(next, SESSIONS_SKIPPED, SessionId::MAX)?);
    let secret: [u8; 16] = rand::random();
    let record = v1::StoredSession {
        epoch: 1,
        secret: Bytes::copy_from_slice(&secret),
        client_name: LOST_SESSIONS.to_string(),
        opened: Some(convert::timestamp_to_wire(&now)),
        ..v1::StoredSession::default()
    };
    stored::put_session(txn, session, &record);
    let next = Bytes::copy_from_slice(&(session.0 + 1).to_be_bytes());
    txn.put(keys::next_session(), next);
    Ok(session)
}

/// What sessions held open is held by the one in their place.
fn hand_over(txn: &mut Txn<'_>, key: Bytes, value: Bytes, lost: SessionId) -> FsResult<()> {
    let (_, holders) = parse_orphan(&key, value)?;
    let mut sessions = vec![lost.0];
    if holders.contains(&NAMESPACE) {
        sessions.insert(0, NAMESPACE.0);
    }
    txn.put(key, Bytes::from(v1::StoredOrphan { sessions }.encode_to_vec()));
    Ok(())
}

fn above(number: u64, skipped: u64, max: u64) -> FsResult<u64> {
    number
        .checked_add(skipped)
        .filter(|number| *number < max)
        .ok_or_else(|| {
            FsError::new(
                ErrorKind::NoSpace,
                "the numbers of the cluster are used up: it cannot be restored once more",
            )
        })
}
