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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::fixture::{Fixture, ME, kind};
    use dfs_common::PgId;
    use dfs_common::op::Operation;

    #[test]
    fn numbers_are_given_once_each_with_a_capability_to_write() {
        let mut fixture = Fixture::default();
        let mut seen = std::collections::BTreeSet::new();
        for count in [1, 3, GRANT_CHUNKS_MAX] {
            let Ok(OpReply::Chunks(granted)) = fixture.root(Operation::GrantChunks { count }) else {
                panic!("not granted");
            };
            assert_eq!(granted.len(), count as usize);
            for capability in granted {
                let chunk = capability.chunk;
                assert_eq!(chunk.session(), ME);
                assert!([PgId(1), PgId(2)].contains(&chunk.group()));
                assert!(seen.insert(chunk.sequence()));
                let verified = fixture.key.verify(&capability, chunk, ChunkAccess::Write, 0);
                assert!(verified.is_ok());
            }
        }
        assert_eq!(seen.last(), Some(&(u64::from(GRANT_CHUNKS_MAX) + 3)));
        for count in [0, GRANT_CHUNKS_MAX + 1] {
            assert_eq!(
                kind(&fixture.root(Operation::GrantChunks { count })),
                ErrorKind::Invalid
            );
        }
    }

    #[test]
    fn ended_session_gets_nothing() {
        let mut fixture = Fixture {
            session: SessionId(77),
            ..Fixture::default()
        };
        assert_eq!(
            kind(&fixture.root(Operation::GrantChunks { count: 1 })),
            ErrorKind::SessionFenced
        );
    }
}
