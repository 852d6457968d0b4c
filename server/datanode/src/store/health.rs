//! Whether the disk can be trusted with writes. Invariant: after the first failed sync nothing is ever acknowledged again under the
//! incarnation in which it happened: the kernel may have dropped what it could not write.

use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult};
use parking_lot::Mutex;

/// Called once when the disk fails, with the reason and the disk's new incarnation, to write both down. May block.
pub type OnFailure = Box<dyn Fn(&str, DiskIncarnation) + Send + Sync>;

struct State {
    disk: DiskIncarnation,
    failure: Option<String>,
}

/// The state of a disk.
pub struct DiskHealth {
    state: Mutex<State>,
    on_failure: OnFailure,
}

impl DiskHealth {
    /// A disk of incarnation `disk`, which failed in an earlier run if there is a `failure`.
    pub fn new(disk: DiskIncarnation, failure: Option<String>, on_failure: OnFailure) -> Self {
        if let Some(why) = &failure {
            tracing::error!(why, "the disk failed earlier: chunks are only read");
        }
        DiskHealth {
            state: Mutex::new(State { disk, failure }),
            on_failure,
        }
    }

    /// The incarnation, and whether the disk takes writes.
    pub fn state(&self) -> (DiskIncarnation, bool) {
        let state = self.state.lock();
        (state.disk, state.failure.is_none())
    }

    /// The incarnation under which a write may begin.
    ///
    /// # Errors
    /// `ReadOnly` with the reason.
    pub fn writable(&self) -> FsResult<DiskIncarnation> {
        let state = self.state.lock();
        match &state.failure {
            None => Ok(state.disk),
            Some(why) => Err(FsError::new(
                ErrorKind::ReadOnly,
                format!("the datanode's disk failed ({why}): it only reads, replace the disk"),
            )),
        }
    }

    /// The disk failed; later calls change nothing. May block. Answers the error for the write that met it.
    pub fn fail(&self, why: &str) -> FsError {
        // Drawn, not counted: a wiped disk must not repeat one.
        let disk = DiskIncarnation(rand::random::<u64>() | 1);
        let first = {
            let mut state = self.state.lock();
            let first = state.failure.is_none();
            if first {
                state.failure = Some(why.to_owned());
                state.disk = disk;
            }
            first
        };
        if first {
            tracing::error!(why, "the disk failed: from now on chunks are only read");
            (self.on_failure)(why, disk);
        }
        FsError::new(
            ErrorKind::ReadOnly,
            format!("the datanode's disk failed: {why}; write elsewhere"),
        )
    }
}
