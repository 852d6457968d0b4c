//! Failpoints: named places where a server can be made to die, as by SIGKILL, to see what a crash there leaves.
//!
//! Only in builds with debug assertions, which is how tests run: in a release build [`reach`] is nothing, and a server that is told
//! of a failpoint refuses to start. Armed once, from the environment, when the server starts. The crate `fail` was looked at and not taken: it
//! cannot end a process without unwinding, its points are strings that nobody can list, and its last release brings an old `rand`.
//!
//! Invariant: [`Failpoint::ALL`] is the one list; the test of failpoints takes each of it, and fails for one that was not reached.

use crate::error::{ErrorKind, FsError, FsResult};

/// `NAME`, or `NAME:N`: die when the failpoint is reached for the N-th time.
pub const VARIABLE: &str = "DFS_FAILPOINT";

/// Whose failpoint it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The coordinator.
    Coordinator,
    /// A datanode.
    Datanode,
    /// The program that makes a coordinator's data directory from a backup.
    Restore,
}

macro_rules! failpoints {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal of $victim:ident,)+) => {
        /// A place to die; the line of each says what a crash there must leave true.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failpoint {
            $($(#[doc = $doc])+ $point,)+
        }

        impl Failpoint {
            /// Each of them.
            pub const ALL: &[Failpoint] = &[$(Failpoint::$point,)+];

            /// `<OPERATION>_AFTER_<STEP>`.
            pub fn name(self) -> &'static str {
                match self { $(Failpoint::$point => $name,)+ }
            }

            /// Whose it is.
            pub fn victim(self) -> Victim {
                match self { $(Failpoint::$point => Victim::$victim,)+ }
            }
        }
    };
}

failpoints! {
    /// The store is open, nobody took it yet: the next start takes it.
    StartAfterStore = "START_AFTER_STORE" of Coordinator,
    /// The epoch is raised: the next start raises it again, nothing else has changed.
    StartAfterFence = "START_AFTER_FENCE" of Coordinator,
    /// What an earlier process left is durable, numbers are passed over: once more, harmlessly.
    StartAfterPersistence = "START_AFTER_PERSISTENCE" of Coordinator,
    /// Commands wait for the writer: none of them has happened.
    CommitAfterGather = "COMMIT_AFTER_GATHER" of Coordinator,
    /// Applied to the transaction only: none of the group has happened.
    CommitAfterApply = "COMMIT_AFTER_APPLY" of Coordinator,
    /// The group is durable and nobody was told: each command has happened, and a retry gets the first reply.
    CommitAfterStore = "COMMIT_AFTER_STORE" of Coordinator,
    /// The callers' replies are on their way, or not: the same.
    ReplyAfterCommit = "REPLY_AFTER_COMMIT" of Coordinator,
    /// Relaxed: the group is in the journal and survives the process; nobody was told.
    CommitAfterAppend = "COMMIT_AFTER_APPEND" of Coordinator,
    /// Relaxed: the journal is synced, who asked for that was not told.
    PersistAfterSync = "PERSIST_AFTER_SYNC" of Coordinator,
    /// Relaxed: numbers are reserved and durable with the first that was given: no other is given twice.
    ReserveAfterStore = "RESERVE_AFTER_STORE" of Coordinator,
    /// Everything is closed but the process: the next start takes it for a good end.
    CloseAfterStore = "CLOSE_AFTER_STORE" of Coordinator,
    /// A session has a number in the transaction only: no session, and the number may be given to another.
    OpenSessionAfterApply = "OPEN_SESSION_AFTER_APPLY" of Coordinator,
    /// The session is durable, its client does not know: it ends by its lease.
    OpenSessionAfterCommit = "OPEN_SESSION_AFTER_COMMIT" of Coordinator,
    /// A client came back and was not told: it comes back once more.
    ResumeSessionAfterCommit = "RESUME_SESSION_AFTER_COMMIT" of Coordinator,
    /// A session's lease is over and it is refused, in memory only: it has another lease from the next start on.
    ExpireSessionAfterFence = "EXPIRE_SESSION_AFTER_FENCE" of Coordinator,
    /// The orphans that a session held are let go: its lease ends the rest.
    EndSessionAfterOrphans = "END_SESSION_AFTER_ORPHANS" of Coordinator,
    /// Its replies are gone too: the same, and nobody is answered from them any more.
    EndSessionAfterReplies = "END_SESSION_AFTER_REPLIES" of Coordinator,
    /// The marks of its deleted chunks are gone too: it may not commit them, for it is refused.
    EndSessionAfterSpent = "END_SESSION_AFTER_SPENT" of Coordinator,
    /// Its record is gone: it has never been.
    EndSessionAfterRecord = "END_SESSION_AFTER_RECORD" of Coordinator,
    /// The last close of an unlinked file, not committed: the file is kept until its session says again that it is closed.
    ReleaseAfterApply = "RELEASE_AFTER_APPLY" of Coordinator,
    /// Replaced inodes let go in the transaction only: they are let go later.
    ReapAfterApply = "REAP_AFTER_APPLY" of Coordinator,
    /// Let go, or extents taken away: not a second time.
    ReapAfterCommit = "REAP_AFTER_COMMIT" of Coordinator,
    /// Freed chunks are known to be freed for good, no replica is deleted yet.
    CollectAfterBarrier = "COLLECT_AFTER_BARRIER" of Coordinator,
    /// Replicas are deleted, the records of the chunks are there: deleted once more.
    CollectAfterDelete = "COLLECT_AFTER_DELETE" of Coordinator,
    /// The records are gone too.
    CollectAfterForget = "COLLECT_AFTER_FORGET" of Coordinator,
    /// A datanode is registered and was not told: it registers again, as the same.
    RegisterNodeAfterCommit = "REGISTER_NODE_AFTER_COMMIT" of Coordinator,
    /// Placement groups have numbers in the transaction only: there are none, and they are made after the next start.
    CreateGroupsAfterApply = "CREATE_GROUPS_AFTER_APPLY" of Coordinator,
    /// They are durable, and no chunk was granted in them: they are there, and not made twice.
    CreateGroupsAfterCommit = "CREATE_GROUPS_AFTER_COMMIT" of Coordinator,
    /// A quota is set in the transaction only: it is not.
    SetQuotaAfterApply = "SET_QUOTA_AFTER_APPLY" of Coordinator,
    /// It is durable, who asked was not told: it is set, in both of its places.
    SetQuotaAfterCommit = "SET_QUOTA_AFTER_COMMIT" of Coordinator,
    /// Repairs are made in the transaction only: none is.
    RepairAfterApply = "REPAIR_AFTER_APPLY" of Coordinator,
    /// A portion of the repairs is durable: another check finds only what is left.
    RepairAfterCommit = "REPAIR_AFTER_COMMIT" of Coordinator,
    /// The hold after a restore is over in the transaction only: it lasts.
    ReleaseHoldAfterApply = "RELEASE_HOLD_AFTER_APPLY" of Coordinator,
    /// It is over for good, and the collector does not know yet.
    ReleaseHoldAfterCommit = "RELEASE_HOLD_AFTER_COMMIT" of Coordinator,
    /// The records of a backup are in a store: no coordinator's, and it is begun anew in an empty directory.
    RestoreAfterRecords = "RESTORE_AFTER_RECORDS" of Restore,
    /// The store is whole and durable: the same.
    RestoreAfterStore = "RESTORE_AFTER_STORE" of Restore,
    /// The number of starts is durable, whose the directory is is not: the same.
    RestoreAfterFence = "RESTORE_AFTER_FENCE" of Restore,
    /// The directory is a coordinator's, who asked was not told: it starts.
    RestoreAfterIdentity = "RESTORE_AFTER_IDENTITY" of Restore,
    /// A chunk has a temporary file: no chunk, and the file goes at the next start.
    ChunkAfterTemp = "CHUNK_AFTER_TEMP" of Datanode,
    /// Its content is written and not synced: the same.
    ChunkAfterContent = "CHUNK_AFTER_CONTENT" of Datanode,
    /// Synced under its temporary name: the same.
    ChunkAfterSync = "CHUNK_AFTER_SYNC" of Datanode,
    /// It has its name, the directory is not synced, no receipt is given: it is there whole or not at all.
    ChunkAfterRename = "CHUNK_AFTER_RENAME" of Datanode,
    /// Durable, no receipt is given: writing it again confirms it.
    ChunkAfterPublish = "CHUNK_AFTER_PUBLISH" of Datanode,
    /// A deleted chunk's file is gone, the index has it still: the next start finds out.
    DeleteAfterUnlink = "DELETE_AFTER_UNLINK" of Datanode,
}

#[cfg(debug_assertions)]
mod armed {
    use super::{Failpoint, FsError, VARIABLE};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<(Failpoint, AtomicU32)> = OnceLock::new();

    pub(super) fn arm(text: &str) -> Result<(), FsError> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let point = Failpoint::ALL.iter().find(|point| point.name() == name);
        let count = count.parse::<u32>().ok().filter(|count| *count > 0);
        let (Some(point), Some(count)) = (point, count) else {
            return Err(super::refused(&format!(
                "{VARIABLE}={text} is not NAME or NAME:N"
            )));
        };
        tracing::warn!(failpoint = name, count, "this server is told to die");
        let _ = ARMED.set((*point, AtomicU32::new(count)));
        Ok(())
    }

    pub(super) fn reach(reached: Failpoint) {
        let Some((point, left)) = ARMED.get() else { return };
        if *point == reached && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            eprintln!("failpoint {} reached", reached.name());
            // As a crash: nothing is unwound, flushed or closed.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn refused(why: &str) -> FsError {
    FsError::new(ErrorKind::Invalid, format!("{why}: unset {VARIABLE}"))
}

/// What a build without failpoints says to one that is asked for.
#[cfg(any(test, not(debug_assertions)))]
fn has_none(text: &str) -> FsError {
    refused(&format!(
        "{VARIABLE}={text} is set, and a release build has no failpoints"
    ))
}

/// Arms what the environment says. Once, at the start of a server.
///
/// # Errors
/// `Invalid` if it says something that is no failpoint, or this build has none.
pub fn arm_from_environment() -> FsResult<()> {
    let Some(text) = std::env::var_os(VARIABLE) else {
        return Ok(());
    };
    #[cfg(debug_assertions)]
    return armed::arm(&text.to_string_lossy());
    #[cfg(not(debug_assertions))]
    return Err(has_none(&text.to_string_lossy()));
}

/// Dies here if this failpoint is armed, and it is its time.
#[inline]
pub fn reach(point: Failpoint) {
    #[cfg(debug_assertions)]
    armed::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn names_say_operation_and_step_and_differ() {
        let mut names: Vec<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        assert!(names.iter().all(|name| name.contains("_AFTER_")));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn release_build_refuses_whatever_failpoint_is_asked_for() {
        let error = has_none("COMMIT_AFTER_APPLY");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("release build") && error.message().contains("unset DFS_FAILPOINT"));
    }

    #[test]
    fn unknown_failpoint_is_refused_and_an_unarmed_one_is_nothing() {
        for text in ["", "COMMIT", "COMMIT_AFTER_APPLY:0", "COMMIT_AFTER_APPLY:x"] {
            let error = armed::arm(text).unwrap_err();
            assert!(error.message().contains("unset DFS_FAILPOINT"), "{error}");
        }
        Failpoint::ALL.iter().copied().for_each(reach);
    }
}
