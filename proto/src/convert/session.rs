//! Who calls: identities, callers, the opening of a session and its grant.

use super::{
    at_most, fixed, invalid, lock_declarations_from_wire, lock_declarations_to_wire, lost_locks_from_wire,
    lost_locks_to_wire, required,
};
use crate::{PROTOCOL_VERSION, v1};
use bytes::Bytes;
use dfs_common::limits::{
    CHUNK_BYTES_MAX, CLIENT_NAME_BYTES_MAX, GROUPS_MAX, REPLICATION_MAX, SESSION_OPEN_INODES_MAX,
};
use dfs_common::lock::LockDeclarations;
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{ClusterId, CommitId, ErrorKind, FsError, FsResult, Ino, SessionEpoch, SessionId};
use std::time::Duration;

/// A session id: 48 bits.
pub(super) fn session_id(session: u64) -> FsResult<SessionId> {
    if session > SessionId::MAX {
        return Err(invalid(format!("session id {session} has more than 48 bits")));
    }
    Ok(SessionId(session))
}

/// An identity's wire form.
pub fn identity_to_wire(identity: &Identity) -> v1::Identity {
    v1::Identity {
        session: identity.session.0,
        epoch: identity.epoch.0,
        secret: Bytes::copy_from_slice(&identity.secret.0),
        trace: identity.trace,
    }
}

/// An identity from the wire.
///
/// # Errors
/// `Invalid`: a session above 48 bits, a secret that has not 16 bytes.
pub fn identity_from_wire(identity: v1::Identity) -> FsResult<Identity> {
    Ok(Identity {
        session: session_id(identity.session)?,
        epoch: SessionEpoch(identity.epoch),
        secret: SessionSecret(fixed(&identity.secret, "session secret")?),
        trace: identity.trace,
    })
}

/// An identity that a message must have.
pub(crate) fn required_identity(identity: Option<v1::Identity>) -> FsResult<Identity> {
    identity_from_wire(required(identity, "identity")?)
}

/// A caller's wire form.
pub fn caller_to_wire(caller: &Caller) -> v1::Caller {
    v1::Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups: caller.groups.clone(),
    }
}

/// A caller from the wire.
///
/// # Errors
/// `Invalid` for more groups than [`GROUPS_MAX`].
pub fn caller_from_wire(caller: v1::Caller) -> FsResult<Caller> {
    at_most(caller.groups.len(), GROUPS_MAX, "supplementary groups")?;
    Ok(Caller {
        uid: caller.uid,
        gid: caller.gid,
        groups: caller.groups,
    })
}

/// A caller that a message must have: a missing one must not pass for root.
pub(crate) fn required_caller(caller: Option<v1::Caller>) -> FsResult<Caller> {
    caller_from_wire(required(caller, "caller")?)
}

/// The wire form of a request for a session, with this release's [`PROTOCOL_VERSION`].
pub fn open_session_to_wire(request: &OpenSession) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        protocol_version: PROTOCOL_VERSION,
        client_name: request.client_name.clone(),
        resume: request.resume.as_ref().map(identity_to_wire),
        opened: request
            .opened
            .iter()
            .map(|open| v1::OpenDeclaration {
                ino: open.ino.0,
                read: open.read,
                write: open.write,
                pages: open.pages,
                buffer: open.buffer,
            })
            .collect(),
        unsynced: request.unsynced.map(commit_id_to_wire),
        locks: lock_declarations_to_wire(&request.locks),
        leases: request.leases,
    }
}

/// A commit's wire form.
pub(crate) fn commit_id_to_wire(commit: CommitId) -> v1::CommitId {
    v1::CommitId {
        epoch: commit.epoch,
        number: commit.number,
    }
}

/// A commit from the wire.
pub(crate) fn commit_id_from_wire(commit: v1::CommitId) -> CommitId {
    CommitId {
        epoch: commit.epoch,
        number: commit.number,
    }
}

/// A request for a session from the wire.
///
/// # Errors
/// `UnknownVersion` for another protocol version; `Invalid`: a name above [`CLIENT_NAME_BYTES_MAX`], more open inodes
/// than [`SESSION_OPEN_INODES_MAX`], locks without a session to resume, open inodes before the last part of the locks, and as
/// [`identity_from_wire`] and of locks above their limit or malformed.
pub fn open_session_from_wire(request: v1::OpenSessionRequest) -> FsResult<OpenSession> {
    check_protocol_version(request.protocol_version)?;
    at_most(
        request.client_name.len(),
        CLIENT_NAME_BYTES_MAX,
        "bytes of a client name",
    )?;
    at_most(request.opened.len(), SESSION_OPEN_INODES_MAX, "open inodes")?;
    let locks = lock_declarations_from_wire(request.locks)?;
    if request.resume.is_none() && locks != LockDeclarations::default() {
        return Err(invalid("a new session holds no locks"));
    }
    if locks.more && !request.opened.is_empty() {
        return Err(invalid("open files are declared with the last part of the locks"));
    }
    Ok(OpenSession {
        client_name: request.client_name,
        resume: request.resume.map(identity_from_wire).transpose()?,
        opened: request
            .opened
            .into_iter()
            .map(|open| OpenDeclaration {
                ino: Ino(open.ino),
                read: open.read,
                write: open.write,
                pages: open.pages,
                buffer: open.buffer,
            })
            .collect(),
        unsynced: request.unsynced.map(commit_id_from_wire),
        locks,
        leases: request.leases,
    })
}

/// Refuses a peer's protocol version unless it is [`PROTOCOL_VERSION`].
///
/// # Errors
/// `UnknownVersion` with both versions.
pub fn check_protocol_version(version: u32) -> FsResult<()> {
    if version != PROTOCOL_VERSION {
        return Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "the peer speaks protocol version {version}, this server {PROTOCOL_VERSION}: run the same release on both"
            ),
        ));
    }
    Ok(())
}

/// A grant's wire form; the lease is cut to milliseconds.
pub fn session_grant_to_wire(grant: &SessionGrant) -> v1::OpenSessionReply {
    v1::OpenSessionReply {
        identity: Some(identity_to_wire(&grant.identity)),
        cluster: grant.cluster.to_string(),
        lease_ms: duration_to_ms(grant.lease),
        chunk_bytes: grant.chunk_bytes,
        replication: grant.replication,
        replication_floor: grant.replication_floor,
        coordinator_epoch: grant.coordinator_epoch,
        rollback_epoch: grant.rollback_epoch,
        kept_commits: Some(grant.kept_commits).filter(|kept| *kept != u64::MAX),
        lost_locks: lost_locks_to_wire(&grant.lost_locks),
    }
}

/// A grant from the wire.
///
/// # Errors
/// `Invalid`: no or a malformed identity, a cluster that is not a UUID, a chunk size or replication factor out of range.
pub fn session_grant_from_wire(reply: v1::OpenSessionReply) -> FsResult<SessionGrant> {
    if reply.chunk_bytes == 0 || reply.chunk_bytes > CHUNK_BYTES_MAX {
        return Err(invalid(format!("impossible chunk size {}", reply.chunk_bytes)));
    }
    let (factor, floor) = (reply.replication, reply.replication_floor);
    if floor == 0 || floor > factor || factor > REPLICATION_MAX {
        return Err(invalid(format!(
            "impossible replication factor {factor} with floor {floor}"
        )));
    }
    let cluster = uuid::Uuid::try_parse(&reply.cluster).map_err(|_| invalid("a cluster id is a UUID"))?;
    Ok(SessionGrant {
        identity: required_identity(reply.identity)?,
        cluster: ClusterId(cluster),
        lease: Duration::from_millis(reply.lease_ms),
        chunk_bytes: reply.chunk_bytes,
        replication: factor,
        replication_floor: floor,
        coordinator_epoch: reply.coordinator_epoch,
        rollback_epoch: reply.rollback_epoch,
        kept_commits: reply.kept_commits.unwrap_or(u64::MAX),
        lost_locks: lost_locks_from_wire(reply.lost_locks)?,
    })
}

/// Whole milliseconds of a duration.
pub(crate) fn duration_to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
