//! Totals, changed in the batch of what they count, and the one source of numbers that are never given twice.

use super::txn::Txn;
use super::{damaged, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_proto::v1;
use prost::Message;

/// Totals: inodes, file content (each byte once, holes not), chunks, freed chunks, inline bytes.
pub type Counters = v1::StoredCounters;

/// Numbers are also directory cursors, which programs see as a signed offset.
pub const NUMBERS_MAX: u64 = i64::MAX as u64;

/// The totals.
pub fn get(read: &dyn MetaRead) -> FsResult<Counters> {
    let value = read.get(&keys::counters())?.ok_or_else(|| damaged("counter"))?;
    Counters::decode(value).map_err(|_| damaged("counter"))
}

/// Writes the totals.
pub fn put(txn: &mut Txn<'_>, counters: &Counters) {
    txn.put(keys::counters(), Bytes::from(counters.encode_to_vec()));
}

/// A number that was never given before: an inode's, a cursor or a map's.
pub fn take_number(counters: &mut Counters) -> FsResult<u64> {
    let number = counters.numbers_below;
    if number >= NUMBERS_MAX {
        return Err(FsError::new(
            ErrorKind::NoSpace,
            "all inode numbers of the cluster were used",
        ));
    }
    counters.numbers_below += 1;
    Ok(number)
}

/// Adds to a total.
///
/// # Errors
/// `Corrupt` if the total would become negative: it did not match what it counts.
pub fn add(total: &mut u64, change: i64) -> FsResult<()> {
    *total = total
        .checked_add_signed(change)
        .ok_or_else(|| damaged("counter"))?;
    Ok(())
}
