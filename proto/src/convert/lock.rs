//! Advisory locks: what is asked, held and declared, the numbers of requests, and how they end.

use super::session::{duration_to_ms, session_id};
use super::{at_most, invalid, required};
use crate::v1;
use dfs_common::limits::{
    CLIENT_NAME_BYTES_MAX, LISTED_LOCKS_MAX, LOCK_DECLARATIONS_MAX, LOCKED_INODES_PAGE_MAX, PATH_BYTES_MAX,
    SESSION_LOCK_REQUESTS_MAX,
};
use dfs_common::lock::{
    HeldLock, ListedLock, LockDeclaration, LockDeclarations, LockKind, LockOutcome, LockOwner, LockRange,
    LockSpec, LockStyle, LockTicket, LockedInode,
};
use dfs_common::{FsResult, Ino};
use std::time::Duration;

fn style_to_wire(style: LockStyle) -> u32 {
    match style {
        LockStyle::Flock => 1,
        LockStyle::Process => 2,
        LockStyle::OpenFile => 3,
    }
}

fn kind_to_wire(kind: LockKind) -> u32 {
    match kind {
        LockKind::Shared => 1,
        LockKind::Exclusive => 2,
    }
}

/// A lock's wire form.
pub fn lock_to_wire(lock: &LockSpec) -> v1::Lock {
    v1::Lock {
        kind: kind_to_wire(lock.kind),
        pid: lock.pid,
        ..unlock_to_wire(lock.owner, lock.range)
    }
}

/// The wire form of what is unlocked.
pub fn unlock_to_wire(owner: LockOwner, range: LockRange) -> v1::Lock {
    v1::Lock {
        style: style_to_wire(owner.style),
        owner: owner.number,
        first: range.first(),
        last: range.last(),
        ..v1::Lock::default()
    }
}

fn owner_and_range(lock: &v1::Lock) -> FsResult<(LockOwner, LockRange)> {
    let style = match lock.style {
        1 => LockStyle::Flock,
        2 => LockStyle::Process,
        3 => LockStyle::OpenFile,
        other => return Err(invalid(format!("unknown style {other} of a lock"))),
    };
    let range = LockRange::new(lock.first, lock.last)?;
    if style == LockStyle::Flock && range != LockRange::WHOLE {
        return Err(invalid("a flock is always of the whole file"));
    }
    let number = lock.owner;
    Ok((LockOwner { style, number }, range))
}

/// A lock from the wire.
///
/// # Errors
/// `Invalid`: an unknown style or kind, a range that ends before it begins, a flock of a part.
pub fn lock_from_wire(lock: v1::Lock) -> FsResult<LockSpec> {
    let (owner, range) = owner_and_range(&lock)?;
    let kind = match lock.kind {
        1 => LockKind::Shared,
        2 => LockKind::Exclusive,
        other => return Err(invalid(format!("unknown kind {other} of a lock"))),
    };
    Ok(LockSpec {
        owner,
        kind,
        range,
        pid: lock.pid,
    })
}

/// A lock that a message must have.
pub(crate) fn required_lock(lock: Option<v1::Lock>) -> FsResult<LockSpec> {
    lock_from_wire(required(lock, "lock")?)
}

/// Whose lock of which range is given up; its kind does not matter.
///
/// # Errors
/// `Invalid`: as [`lock_from_wire`], or if there is none.
pub fn unlock_from_wire(lock: Option<v1::Lock>) -> FsResult<(LockOwner, LockRange)> {
    owner_and_range(&required(lock, "lock")?)
}

/// A ticket's wire form.
pub fn lock_ticket_to_wire(ticket: &LockTicket) -> v1::LockTicket {
    v1::LockTicket {
        number: ticket.number,
        settled: ticket.settled,
        answered: ticket.answered.clone(),
    }
}

/// A ticket from the wire.
///
/// # Errors
/// `Invalid` for more answered requests than [`SESSION_LOCK_REQUESTS_MAX`].
pub fn lock_ticket_from_wire(ticket: v1::LockTicket) -> FsResult<LockTicket> {
    at_most(
        ticket.answered.len(),
        SESSION_LOCK_REQUESTS_MAX,
        "answered lock requests",
    )?;
    Ok(LockTicket {
        number: ticket.number,
        settled: ticket.settled,
        answered: ticket.answered,
    })
}

/// A ticket that a message must have.
pub(crate) fn required_ticket(ticket: Option<v1::LockTicket>) -> FsResult<LockTicket> {
    lock_ticket_from_wire(required(ticket, "ticket")?)
}

/// An outcome's wire form.
pub fn lock_outcome_to_wire(outcome: LockOutcome) -> v1::LockReply {
    let outcome = match outcome {
        LockOutcome::Granted => 1,
        LockOutcome::Waiting => 2,
        LockOutcome::Conflict => 3,
        LockOutcome::Deadlock => 4,
        LockOutcome::Cancelled => 5,
        LockOutcome::TooMany => 6,
    };
    v1::LockReply { outcome }
}

/// An outcome from the wire.
///
/// # Errors
/// `Invalid` for an unknown one.
pub fn lock_outcome_from_wire(reply: v1::LockReply) -> FsResult<LockOutcome> {
    Ok(match reply.outcome {
        1 => LockOutcome::Granted,
        2 => LockOutcome::Waiting,
        3 => LockOutcome::Conflict,
        4 => LockOutcome::Deadlock,
        5 => LockOutcome::Cancelled,
        6 => LockOutcome::TooMany,
        other => return Err(invalid(format!("unknown outcome {other} of a lock request"))),
    })
}

/// The wire form of a lock that somebody holds.
pub fn held_lock_to_wire(held: &HeldLock) -> v1::HeldLock {
    v1::HeldLock {
        session: held.session.0,
        lock: Some(lock_to_wire(&held.lock)),
    }
}

/// A lock that somebody holds, from the wire.
///
/// # Errors
/// `Invalid`: a session above 48 bits, no lock, and as [`lock_from_wire`].
pub fn held_lock_from_wire(held: v1::HeldLock) -> FsResult<HeldLock> {
    Ok(HeldLock {
        session: session_id(held.session)?,
        lock: required_lock(held.lock)?,
    })
}

fn declaration_to_wire(declaration: &LockDeclaration) -> v1::LockDeclaration {
    v1::LockDeclaration {
        ino: declaration.ino.0,
        lock: Some(lock_to_wire(&declaration.lock)),
    }
}

fn declarations_from_wire(declarations: Vec<v1::LockDeclaration>) -> FsResult<Vec<LockDeclaration>> {
    at_most(declarations.len(), LOCK_DECLARATIONS_MAX, "declared locks")?;
    let declaration = |declaration: v1::LockDeclaration| {
        Ok(LockDeclaration {
            ino: Ino(declaration.ino),
            lock: required_lock(declaration.lock)?,
        })
    };
    declarations.into_iter().map(declaration).collect()
}

/// The wire form of what a client declares; nothing if it has nothing to say.
pub(super) fn lock_declarations_to_wire(locks: &LockDeclarations) -> Option<v1::LockDeclarations> {
    (*locks != LockDeclarations::default()).then(|| v1::LockDeclarations {
        settled: locks.settled,
        held: locks.held.iter().map(declaration_to_wire).collect(),
        more: locks.more,
    })
}

/// What a client declares, from the wire.
///
/// # Errors
/// `Invalid` above [`LOCK_DECLARATIONS_MAX`], and as [`lock_from_wire`].
pub(super) fn lock_declarations_from_wire(locks: Option<v1::LockDeclarations>) -> FsResult<LockDeclarations> {
    let locks = locks.unwrap_or_default();
    Ok(LockDeclarations {
        settled: locks.settled,
        held: declarations_from_wire(locks.held)?,
        more: locks.more,
    })
}

/// The wire form of the declared locks that are lost.
pub(super) fn lost_locks_to_wire(lost: &[LockDeclaration]) -> Vec<v1::LockDeclaration> {
    lost.iter().map(declaration_to_wire).collect()
}

/// The declared locks that are lost, from the wire.
///
/// # Errors
/// `Invalid` above [`LOCK_DECLARATIONS_MAX`], and as [`lock_from_wire`].
pub(super) fn lost_locks_from_wire(lost: Vec<v1::LockDeclaration>) -> FsResult<Vec<LockDeclaration>> {
    declarations_from_wire(lost)
}

/// The wire form of an inode's locks.
pub fn locked_inode_to_wire(inode: &LockedInode) -> v1::LockedInode {
    let listed = |listed: &ListedLock| v1::ListedLock {
        session: listed.session.0,
        client_name: listed.client.clone(),
        lock: Some(lock_to_wire(&listed.lock)),
        age_ms: duration_to_ms(listed.age),
    };
    v1::LockedInode {
        ino: inode.ino.0,
        path: inode.path.clone(),
        held: inode.held.iter().map(listed).collect(),
        waiting: inode.waiting.iter().map(listed).collect(),
        more: inode.more,
    }
}

/// An inode's locks from the wire.
///
/// # Errors
/// `Invalid`: more than [`LISTED_LOCKS_MAX`], a path or a client's name above its limit, and as [`lock_from_wire`].
pub fn locked_inode_from_wire(inode: v1::LockedInode) -> FsResult<LockedInode> {
    let listed = |listed: v1::ListedLock| {
        at_most(
            listed.client_name.len(),
            CLIENT_NAME_BYTES_MAX,
            "bytes of a client name",
        )?;
        Ok(ListedLock {
            session: session_id(listed.session)?,
            client: listed.client_name,
            lock: required_lock(listed.lock)?,
            age: Duration::from_millis(listed.age_ms),
        })
    };
    let path_bytes = inode.path.as_ref().map_or(0, |path| path.len());
    at_most(path_bytes, PATH_BYTES_MAX, "bytes of a path")?;
    at_most(
        inode.held.len() + inode.waiting.len(),
        LISTED_LOCKS_MAX,
        "listed locks",
    )?;
    Ok(LockedInode {
        ino: Ino(inode.ino),
        path: inode.path,
        held: inode.held.into_iter().map(listed).collect::<FsResult<_>>()?,
        waiting: inode.waiting.into_iter().map(listed).collect::<FsResult<_>>()?,
        more: inode.more,
    })
}

/// A page of locked inodes from the wire.
///
/// # Errors
/// `Invalid` for more than [`LOCKED_INODES_PAGE_MAX`], and as [`locked_inode_from_wire`].
pub fn locks_from_wire(reply: v1::ListLocksReply) -> FsResult<Vec<LockedInode>> {
    at_most(reply.inodes.len(), LOCKED_INODES_PAGE_MAX, "locked inodes")?;
    reply.inodes.into_iter().map(locked_inode_from_wire).collect()
}
