//! Grants chunk ids: numbers of the session that are never given twice, spread over placement groups.

use crate::namespace::ApplyContext;
use crate::namespace::txn::Txn;
use crate::stored;
use dfs_common::capability::ChunkAccess;
use dfs_common::limits::GRANT_CHUNKS_MAX;
use dfs_common::op::OpReply;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, SessionId};

/// Grants `count` ids, each with a capability to write it.
///
/// # Errors
/// `Invalid` (count), `SessionFenced`, and those of [`crate::namespace::ChunkPlacement::choose`].
pub fn apply(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, count: u32) -> FsResult<OpReply> {
    if !(1..=GRANT_CHUNKS_MAX).contains(&count) {
        return Err(FsError::new(
            ErrorKind::Invalid,
            format!("1 to {GRANT_CHUNKS_MAX} chunks are granted at once, not {count}"),
        ));
    }
    let mut record = stored::get_session(txn, ctx.session)?.ok_or_else(|| {
        FsError::new(
            ErrorKind::SessionFenced,
            "the session has no record: open a new one",
        )
    })?;
    let first = record.granted_below;
    let below = first + u64::from(count);
    if below > SessionId::MAX {
        return Err(FsError::new(
            ErrorKind::NoSpace,
            "all chunk numbers of the session were used: open a new one",
        ));
    }
    let groups = ctx.placement.choose(count)?;
    if groups.len() != count as usize {
        return Err(FsError::new(
            ErrorKind::Unavailable,
            "no placement groups for new chunks just now",
        ));
    }
    record.granted_below = below;
    stored::put_session(txn, ctx.session, &record);
    let sign = |(sequence, group)| {
        let chunk = ChunkId::new(ctx.session, sequence, group);
        let expires = ctx.capability_expires_unix_ms;
        ctx.capability_key
            .sign(ctx.session, chunk, ChunkAccess::Write, expires)
    };
    Ok(OpReply::Chunks((first..below).zip(groups).map(sign).collect()))
}
