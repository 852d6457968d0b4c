//! Content that nobody refers to any more, taken away in steps.
//!
//! A file with many extents loses them at once as far as anybody can see: its map gets a reap record and, if the inode goes
//! on, the inode a new map. The records themselves go in bounded steps, so that no group commit stands still for them.
//! Until then their bytes count as content, for the store and the datanodes still have them.

use super::counters::{self, Counters};
use super::extents::{MapEdit, scan_behind};
use super::inode::Inode;
use super::txn::Txn;
use super::{damaged, keys};
use bytes::Bytes;
use dfs_common::{FsResult, Ino, Timestamp};
use dfs_proto::v1;
use prost::Message;

/// Extents that an operation takes away itself; more are left to the reaper. Also the size of the reaper's steps.
pub const EXTENTS_AT_ONCE_MAX: usize = 512;

/// Takes all content away from `inode`, which is changed, not written. Its size stays.
pub fn drop_content(txn: &mut Txn<'_>, now: Timestamp, inode: &mut Inode) -> FsResult<()> {
    if inode.attr.allocated_bytes == 0 {
        return Ok(());
    }
    let mut counters = counters::get(txn)?;
    let map = inode.map();
    let extents = scan_behind(txn, map, 0, EXTENTS_AT_ONCE_MAX + 1)?;
    if extents.len() > EXTENTS_AT_ONCE_MAX {
        abandon(txn, inode, &mut counters)?;
    } else {
        let mut edit = MapEdit::new(map);
        edit.take(txn, &extents);
        edit.finish_of(txn, inode, now, &mut counters)?;
    }
    counters::put(txn, &counters);
    Ok(())
}

/// Leaves the map to the reaper and gives the inode an empty one.
fn abandon(txn: &mut Txn<'_>, inode: &mut Inode, counters: &mut Counters) -> FsResult<()> {
    let record = v1::StoredReap { ino: inode.ino().0 };
    txn.put(keys::reap(inode.map()), Bytes::from(record.encode_to_vec()));
    inode.map = counters::take_number(counters)?;
    inode.attr.allocated_bytes = 0;
    inode.inline_bytes = 0;
    Ok(())
}

/// Takes up to `limit` extents of one abandoned map away. True if there may be more to do.
pub fn step(txn: &mut Txn<'_>, now: Timestamp, limit: usize) -> FsResult<bool> {
    let (start, end) = keys::reaps();
    let Some((key, _)) = txn.scan(&start, &end, 1)?.pop() else {
        return Ok(false);
    };
    let map = keys::parse_reap(&key).ok_or_else(|| damaged("reap"))?;
    let mut counters = counters::get(txn)?;
    let mut edit = MapEdit::new(map);
    if edit.take_away(txn, limit)? {
        txn.delete(key);
    }
    edit.finish(txn, now, &mut counters)?;
    counters::put(txn, &counters);
    Ok(true)
}

/// The inode that an abandoned map was of.
pub fn decode(value: Bytes) -> FsResult<Ino> {
    let record = v1::StoredReap::decode(value).map_err(|_| damaged("reap"))?;
    Ok(Ino(record.ino))
}
