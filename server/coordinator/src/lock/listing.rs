//! What an administrator is shown of the locks.

use super::types::Ask;
use crate::core::Core;
use crate::namespace::read;
use crate::stored;
use dfs_common::limits::{LISTED_LOCKS_MAX, LOCKED_INODES_PAGE_MAX};
use dfs_common::lock::{ListedLock, LockedInode};
use dfs_common::{FsResult, Ino, SessionId};
use std::collections::HashMap;
use std::time::Instant;

/// A page of the inodes with locks or waits behind `after`, or `only` that one. Each inode is as of one moment, the page is not. At
/// most [`LISTED_LOCKS_MAX`] locks and waits in all, so that a page fits into a message.
///
/// # Errors
/// Those of the store.
pub fn page(core: &Core, after: Ino, only: Option<Ino>) -> FsResult<Vec<LockedInode>> {
    let snapshot = core.store.snapshot()?;
    let mut clients: HashMap<SessionId, String> = HashMap::new();
    let mut client = |session| -> FsResult<String> {
        if let Some(known) = clients.get(&session) {
            return Ok(known.clone());
        }
        let record = stored::get_session(&*snapshot, session)?;
        let name = record.map(|record| record.client_name).unwrap_or_default();
        clients.insert(session, name.clone());
        Ok(name)
    };
    let mut listed = |ask: &Ask, since: Instant| -> FsResult<ListedLock> {
        Ok(ListedLock {
            session: ask.owner.session,
            client: client(ask.owner.session)?,
            lock: ask.lock(),
            age: since.elapsed(),
        })
    };
    let inodes = match only {
        Some(ino) => vec![ino],
        None => core.locks.inodes(after, LOCKED_INODES_PAGE_MAX),
    };
    let mut page: Vec<LockedInode> = Vec::new();
    let mut room = LISTED_LOCKS_MAX;
    for ino in inodes {
        let (held, waiting) = core.locks.of_inode(ino);
        let all = held.len() + waiting.len();
        if all == 0 {
            continue;
        }
        if all > room && !page.is_empty() {
            break;
        }
        // Of too many, at least half the room is for each of the two.
        let shown_held = held.len().min(room - waiting.len().min(room / 2));
        let shown_waiting = waiting.len().min(room - shown_held);
        let held = held[..shown_held].iter();
        let waiting = waiting[..shown_waiting].iter();
        room -= shown_held + shown_waiting;
        page.push(LockedInode {
            ino,
            path: read::known_path(&*snapshot, ino)?,
            held: held
                .map(|lock| listed(&lock.ask, lock.since))
                .collect::<FsResult<_>>()?,
            waiting: waiting
                .map(|wait| listed(&wait.ask, wait.since))
                .collect::<FsResult<_>>()?,
            more: (all - shown_held - shown_waiting) as u64,
        });
    }
    Ok(page)
}
