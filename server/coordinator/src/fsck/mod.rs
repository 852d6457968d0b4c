//! The check of a running file system: [`namespace::check`](crate::namespace::check) on a snapshot, the chunks on the datanodes,
//! repairs through the applier.
//!
//! Writes go on meanwhile. Invariants: one check at a time; what reads everything runs on a blocking thread, and ends when nobody
//! waits for it or the coordinator stops; a chunk is lost only if every datanode that may have it answered that it has not, or has
//! other bytes.

mod paths;
mod presence;

pub use presence::Presence;

use crate::core::Core;
use crate::namespace::check::{self, Report, Stage};
use crate::namespace::repair::Repair;
use crate::store::MetaRead;
use crate::store::snapshot::Stoppable;
use dfs_common::limits::FSCK_REPAIRS_AT_ONCE;
use dfs_common::service::ChunkConnector;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Checks that a repair takes at most: one repair may uncover the next.
const ROUNDS_MAX: usize = 12;

/// Repairs that are told and logged one by one; more are only counted.
const REPAIRS_TOLD_MAX: u64 = 10_000;

/// What to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Repair what can be repaired without guessing.
    pub repair: bool,
    /// Leave the datanodes alone.
    pub skip_chunks: bool,
}

/// A file with content that no datanode has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostFile {
    /// Its inode.
    pub ino: Ino,
    /// One of its paths; `None` if it has none, or none was found.
    pub path: Option<Vec<u8>>,
    /// Chunks of it that are lost.
    pub chunks: u64,
    /// Bytes of it that are in them.
    pub bytes: u64,
}

/// What is told while a check goes on.
#[derive(Clone, Debug)]
pub enum Event {
    /// What it does now.
    Phase(&'static str),
    /// A problem that the first check found.
    Found(String),
    /// A repair that was made.
    Repaired(Repair),
    /// A problem that is left after the repairs.
    Left(String),
    /// A file with lost content.
    Lost(LostFile),
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Inodes.
    pub inodes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Problems of names, counts and maps that were found.
    pub found: u64,
    /// Repairs that were made.
    pub repaired: u64,
    /// Problems of names, counts and maps that are left.
    pub left: u64,
    /// The datanodes' side; `None` if it was left out.
    pub presence: Option<Presence>,
    /// Files with lost content.
    pub lost_files: u64,
}

/// Runs one check, and tells of it through `events`; ends when nobody listens any more.
///
/// # Errors
/// `Busy` (another check runs, or the store gave the snapshot up), `Interrupted` (`stop`), `Corrupt` (the totals cannot be read),
/// those of the store and the applier.
pub async fn run(
    core: Arc<Core>,
    connector: Arc<dyn ChunkConnector>,
    options: Options,
    stop: CancellationToken,
    events: mpsc::Sender<Event>,
) -> FsResult<Summary> {
    let _one = core.checking.try_lock().map_err(|_| {
        FsError::new(
            ErrorKind::Busy,
            "another check is running: wait until it has ended",
        )
    })?;
    let _ended = stop.clone().drop_guard();
    let tell = async |event| {
        let gone = |_| FsError::new(ErrorKind::Interrupted, "nobody waits for the check any more");
        events.send(event).await.map_err(gone)
    };
    tell(Event::Phase("checking names, counts and maps")).await?;
    let (mut snapshot, mut report) = look(&core, &stop).await?;
    for problem in &report.problems {
        tell(Event::Found(problem.clone())).await?;
    }
    let mut summary = Summary {
        found: report.problem_count,
        ..Summary::default()
    };
    let mut rounds = 1;
    while options.repair && report.has_repairs() && rounds < ROUNDS_MAX {
        tell(Event::Phase("repairing")).await?;
        let mut made = 0;
        for stage in Stage::ALL {
            let mut repairs = report.repairs_of(stage)?;
            loop {
                let portion = repairs.next_portion(FSCK_REPAIRS_AT_ONCE)?;
                if portion.is_empty() {
                    break;
                }
                // Others write between two portions.
                let outcomes = core.repair(portion.clone()).await?;
                for (repair, _) in portion.into_iter().zip(outcomes).filter(|(_, made)| *made) {
                    made += 1;
                    if summary.repaired + made <= REPAIRS_TOLD_MAX {
                        tracing::warn!(?repair, "metadata was repaired");
                        tell(Event::Repaired(repair)).await?;
                    }
                }
            }
            // What a later stage says is of names and inodes as they were.
            if made > 0 {
                break;
            }
        }
        summary.repaired += made;
        rounds += 1;
        tell(Event::Phase("checking again")).await?;
        (snapshot, report) = look(&core, &stop).await?;
        if made == 0 && rounds > 3 {
            break;
        }
    }
    if options.repair {
        for problem in &report.problems {
            tell(Event::Left(problem.clone())).await?;
        }
    }
    summary.left = report.problem_count;
    summary.inodes = report.inodes;
    summary.chunks = report.chunks;
    if !options.skip_chunks {
        tell(Event::Phase("asking the datanodes for chunks")).await?;
        let (presence, lost) = presence::ask(&core, &*connector, &snapshot).await?;
        summary.presence = Some(presence);
        if !lost.is_empty() {
            let files = blocking(move || paths::files_with(&*snapshot, &lost)).await?;
            summary.lost_files = files.len() as u64;
            for file in files {
                tell(Event::Lost(file)).await?;
            }
        }
    }
    Ok(summary)
}

/// A check of a new snapshot.
async fn look(core: &Core, stop: &CancellationToken) -> FsResult<(Arc<dyn MetaRead>, Report)> {
    let snapshot: Arc<dyn MetaRead> = Arc::new(Stoppable::new(core.store.snapshot()?, stop.clone()));
    let (read, scratch) = (snapshot.clone(), core.scratch.clone());
    let report = blocking(move || check::check_in(&*read, &scratch)).await?;
    Ok((snapshot, report))
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> FsResult<T> + Send + 'static) -> FsResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FsError::new(
            ErrorKind::Io,
            format!("the check ended by accident: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests;
