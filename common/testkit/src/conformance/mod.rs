//! One suite per seam that every implementation passes: twin, real server in process, over each transport, behind wrappers.
//!
//! A suite panics with a message at the first promise that is not kept; the checks that ran are printed before. What an
//! implementation may choose (the order of groups in a grant, a message's text) is not looked at.

mod chunks;
mod metadata;

pub use chunks::{ChunkSubject, chunks};
pub use metadata::{QuotaSetter, metadata, quotas};

use dfs_common::{ErrorKind, FsResult};
use std::fmt::Debug;

/// Panics unless `result` failed with `kind`.
#[track_caller]
fn refused<T: Debug>(result: FsResult<T>, kind: ErrorKind) {
    match result {
        Err(error) if error.kind() == kind => {}
        other => panic!("expected {kind:?}, not {other:?}"),
    }
}

/// Panics unless `result` failed with `kind`, or with `Invalid`: what is above a limit of the wire is refused by the
/// conversion, before the operation is seen.
#[track_caller]
fn refused_above_limit<T: Debug>(result: FsResult<T>, kind: ErrorKind) {
    match result {
        Err(error) if error.kind() == kind || error.kind() == ErrorKind::Invalid => {}
        other => panic!("expected {kind:?} or Invalid, not {other:?}"),
    }
}

/// A list of checks: functions of one argument, by name.
macro_rules! checks {
    ($argument:ty: $($check:path),+ $(,)?) => {
        &[$((stringify!($check), |argument: $argument| Box::pin($check(argument)))),+]
    };
}
pub(crate) use checks;
