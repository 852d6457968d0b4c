//! Inodes that lose their last name: kept as orphans while somebody has them open, destroyed afterwards.

use super::counters;
use super::inode::Inode;
use super::txn::Txn;
use super::{ApplyContext, damaged, keys, reap, xattrs};
use bytes::Bytes;
use dfs_common::{FsResult, Ino, SessionId, Timestamp};
use dfs_proto::v1;
use prost::Message;

/// Takes one link away (of a directory: its only one) and writes the inode, or lets it go. Answers the links that are left.
pub fn drop_link(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, mut inode: Inode) -> FsResult<u32> {
    let left = match inode.is_directory() {
        true => 0,
        false => inode.attr.nlink.saturating_sub(1),
    };
    inode.attr.nlink = left;
    inode.attr.ctime = ctx.now;
    if left > 0 {
        inode.put(txn);
        return Ok(left);
    }
    let holders = ctx.opened.holders(inode.ino());
    if holders.is_empty() {
        destroy(txn, ctx.now, inode)?;
    } else {
        put(txn, inode.ino(), &holders);
        inode.put(txn);
    }
    Ok(0)
}

fn put(txn: &mut Txn<'_>, ino: Ino, holders: &[SessionId]) {
    let record = v1::StoredOrphan {
        sessions: holders.iter().map(|session| session.0).collect(),
    };
    txn.put(keys::orphan(ino), Bytes::from(record.encode_to_vec()));
}

/// Reads an orphan record: the inode and the sessions that hold it open.
///
/// # Errors
/// `Corrupt`.
pub fn parse_orphan(key: &[u8], value: Bytes) -> FsResult<(Ino, Vec<SessionId>)> {
    let ino = keys::parse_orphan(key).ok_or_else(|| damaged("orphan"))?;
    let record = v1::StoredOrphan::decode(value).map_err(|_| damaged("orphan"))?;
    Ok((ino, record.sessions.into_iter().map(SessionId).collect()))
}

/// `session` no longer holds the orphan `ino`: it is destroyed if nobody does. No effect if it is no orphan.
pub fn release_orphan(txn: &mut Txn<'_>, now: Timestamp, ino: Ino, session: SessionId) -> FsResult<()> {
    let key = keys::orphan(ino);
    let Some(value) = txn.get(&key)? else {
        return Ok(());
    };
    let (_, mut holders) = parse_orphan(&key, value)?;
    holders.retain(|holder| *holder != session);
    if !holders.is_empty() {
        put(txn, ino, &holders);
        return Ok(());
    }
    txn.delete(key);
    let inode = Inode::find(txn, ino)?.ok_or_else(|| damaged("orphan"))?;
    destroy(txn, now, inode)
}

/// Takes an inode away, with its content and extended attributes.
fn destroy(txn: &mut Txn<'_>, now: Timestamp, mut inode: Inode) -> FsResult<()> {
    reap::drop_content(txn, now, &mut inode)?;
    xattrs::remove_all(txn, &inode)?;
    txn.delete(keys::inode(inode.ino()));
    let mut counters = counters::get(txn)?;
    counters::add(&mut counters.inodes, -1)?;
    counters::put(txn, &counters);
    Ok(())
}
