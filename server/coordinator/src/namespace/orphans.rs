//! Inodes that lose their last name: kept as orphans while somebody has them open, destroyed afterwards.
//!
//! One that a rename replaced is kept for [`REPLACED_INODE_KEPT`] besides, open or not. Somebody may have just found it under
//! the name and be about to open it by its number. Were it gone by then, a kernel would look the name up once more, and when
//! the name is renamed over all the time it would find the next one gone as well: neither the old file nor the new one. What
//! holds such an inode is the namespace itself ([`NAMESPACE`] among its holders), and a mark under the time of the rename, so
//! that [`reap_replaced`] finds those whose time is over without looking at the others. Opens meanwhile are not recorded;
//! whoever has it open when it grows, or when its time is over, becomes its holder then.
//!
//! An orphan that a session holds counts against the quotas of the tree that it was in ([`usage::held`]); one that only the namespace keeps does
//! not: a program that replaces a small file many times in a second does not fill its tree with what it has replaced.
//!
//! What unlink and rmdir remove is not kept: a name that is looked up again is rightly absent, and removing many files
//! writes no more than it must.

use super::counters;
use super::inode::Inode;
use super::txn::Txn;
use super::{ApplyContext, OpenFiles, damaged, keys, reap, usage, xattrs};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::limits::REPLACED_INODE_KEPT;
use dfs_common::{FsResult, Ino, SessionId, Timestamp};
use dfs_proto::v1;
use prost::Message;

/// The holder of an inode that is kept for whoever has just found it. No session has this number.
pub const NAMESPACE: SessionId = SessionId(0);
/// Replaced inodes that one step lets go.
pub const REPLACED_AT_ONCE_MAX: usize = 256;
/// A step goes on to the next inode only below so many changes of records; one inode makes at most a few thousand.
const STEP_CHANGES_MAX: usize = 4096;

/// What a step of [`reap_replaced`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    /// Inodes that are kept no longer; those that are open stay as orphans of their holders.
    pub inodes: u64,
    /// There may be more whose time is over.
    pub more: bool,
}

/// Takes one link away (of a directory: its only one) and writes the inode, or lets it go. Answers the links that are left.
pub fn drop_link(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, mut inode: Inode) -> FsResult<u32> {
    let left = take_link(ctx, &mut inode);
    if left > 0 {
        inode.put(txn);
        return Ok(left);
    }
    let holders = ctx.opened.holders(inode.ino());
    if holders.is_empty() {
        destroy(txn, ctx.now, inode)?;
    } else {
        inode.put(txn);
        set_holders(txn, &inode, &[], &holders)?;
    }
    Ok(0)
}

/// [`drop_link`] of a name that now is another inode's: without a name the inode is kept for a while, open or not.
pub fn drop_replaced_link(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, mut inode: Inode) -> FsResult<u32> {
    let left = take_link(ctx, &mut inode);
    inode.put(txn);
    if left == 0 {
        let holders = ctx.opened.holders(inode.ino());
        keep(txn, ctx.now, inode.ino(), &holders);
        if is_counted(&holders) {
            usage::held(txn, &inode, true)?;
        }
    }
    Ok(left)
}

/// The namespace keeps the orphan `ino` for a while from now on, beside these holders.
pub(super) fn keep(txn: &mut Txn<'_>, now: Timestamp, ino: Ino, holders: &[SessionId]) {
    let mut holders = holders.to_vec();
    if !holders.contains(&NAMESPACE) {
        holders.insert(0, NAMESPACE);
    }
    put(txn, ino, &holders);
    txn.put(keys::replaced(unix_ms(now), ino), Bytes::new());
}

fn take_link(ctx: &ApplyContext<'_>, inode: &mut Inode) -> u32 {
    inode.attr.nlink = match inode.is_directory() {
        true => 0,
        false => inode.attr.nlink.saturating_sub(1),
    };
    inode.attr.ctime = ctx.now;
    inode.attr.nlink
}

fn unix_ms(time: Timestamp) -> u64 {
    u64::try_from(time.secs)
        .unwrap_or(0)
        .saturating_mul(1000)
        .saturating_add(u64::from(time.nanos / 1_000_000))
}

/// True if a session is among these holders: the inode counts against the quotas of its last tree.
pub fn is_counted(holders: &[SessionId]) -> bool {
    holders.iter().any(|holder| *holder != NAMESPACE)
}

/// True if a session is known to hold the orphan `ino`.
///
/// # Errors
/// `Corrupt`.
pub fn is_held(read: &dyn MetaRead, ino: Ino) -> FsResult<bool> {
    Ok(is_counted(&holders(read, ino)?))
}

/// Whoever has the orphan `inode` open is known to hold it from now on.
///
/// # Errors
/// `Corrupt`.
pub fn hold(txn: &mut Txn<'_>, opened: &dyn OpenFiles, inode: &Inode) -> FsResult<()> {
    let before = holders(txn, inode.ino())?;
    let mut after = before.clone();
    after.extend(
        opened
            .holders(inode.ino())
            .iter()
            .filter(|open| !before.contains(open)),
    );
    set_holders(txn, inode, &before, &after)
}

/// The orphan `inode` was held by some and is by others.
fn set_holders(txn: &mut Txn<'_>, inode: &Inode, before: &[SessionId], after: &[SessionId]) -> FsResult<()> {
    put(txn, inode.ino(), after);
    match (is_counted(before), is_counted(after)) {
        (false, true) => usage::held(txn, inode, true),
        (true, false) => usage::held(txn, inode, false),
        _ => Ok(()),
    }
}

fn put(txn: &mut Txn<'_>, ino: Ino, holders: &[SessionId]) {
    let record = v1::StoredOrphan {
        sessions: holders.iter().map(|session| session.0).collect(),
    };
    txn.put(keys::orphan(ino), Bytes::from(record.encode_to_vec()));
}

/// Reads an orphan record: the inode and who holds it: sessions, or [`NAMESPACE`].
///
/// # Errors
/// `Corrupt`.
pub fn parse_orphan(key: &[u8], value: Bytes) -> FsResult<(Ino, Vec<SessionId>)> {
    let ino = keys::parse_orphan(key).ok_or_else(|| damaged("orphan"))?;
    let record = v1::StoredOrphan::decode(value).map_err(|_| damaged("orphan"))?;
    Ok((ino, record.sessions.into_iter().map(SessionId).collect()))
}

/// Who holds the orphan `ino`; nobody if it is no orphan.
///
/// # Errors
/// `Corrupt`.
pub fn holders(read: &dyn MetaRead, ino: Ino) -> FsResult<Vec<SessionId>> {
    let key = keys::orphan(ino);
    match read.get(&key)? {
        Some(value) => parse_orphan(&key, value).map(|(_, holders)| holders),
        None => Ok(Vec::new()),
    }
}

/// `session` no longer holds the orphan `ino`: it is destroyed if nobody does. No effect if `session` is not recorded as a
/// holder, or `ino` is no orphan.
pub fn release_orphan(txn: &mut Txn<'_>, now: Timestamp, ino: Ino, session: SessionId) -> FsResult<()> {
    let before = holders(txn, ino)?;
    let mut left = before.clone();
    left.retain(|holder| *holder != session);
    if left.len() == before.len() {
        return Ok(());
    }
    settle(txn, now, ino, &before, &left)
}

/// The orphan `ino` is held by other holders from now on; without any it is destroyed.
fn settle(
    txn: &mut Txn<'_>,
    now: Timestamp,
    ino: Ino,
    before: &[SessionId],
    after: &[SessionId],
) -> FsResult<()> {
    let inode = Inode::find(txn, ino)?.ok_or_else(|| damaged("orphan"))?;
    set_holders(txn, &inode, before, after)?;
    if after.is_empty() {
        txn.delete(keys::orphan(ino));
        destroy(txn, now, inode)?;
    }
    Ok(())
}

/// Lets replaced inodes go that were kept for [`REPLACED_INODE_KEPT`], at most `limit` of them, with bounded work. One that
/// was replaced by a clock that has been set back since is not waited for.
///
/// # Errors
/// `Corrupt`.
pub fn reap_replaced(
    txn: &mut Txn<'_>,
    now: Timestamp,
    opened: &dyn OpenFiles,
    limit: usize,
) -> FsResult<LetGo> {
    let (now_ms, kept_ms) = (unix_ms(now), REPLACED_INODE_KEPT.as_millis() as u64);
    let begin = txn.savepoint();
    let mut let_go = LetGo::default();
    let over = now_ms.checked_sub(kept_ms).and_then(|at| at.checked_add(1));
    let ranges = [
        over.map(keys::replaced_before),
        now_ms.checked_add(kept_ms).map(keys::replaced_after),
    ];
    for (start, end) in ranges.into_iter().flatten() {
        let room = limit - let_go.inodes as usize;
        let marks = txn.scan(&start, &end, room)?;
        let_go.more |= marks.len() == room;
        for (mark, _) in marks {
            if txn.changes_since(begin) >= STEP_CHANGES_MAX {
                let_go.more = true;
                return Ok(let_go);
            }
            let (_, ino) = keys::parse_replaced(&mark).ok_or_else(|| damaged("replaced inode"))?;
            txn.delete(mark);
            // A mark alone, of a damaged store, lets nothing go.
            let before = holders(txn, ino)?;
            if before.contains(&NAMESPACE) {
                settle(txn, now, ino, &before, &opened.holders(ino))?;
            }
            let_go.inodes += 1;
        }
    }
    Ok(let_go)
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

#[cfg(test)]
mod tests;
