//! Connections that wait for their next transfer.

use super::connection::Connection;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Connections to one datanode that are kept.
const IDLE_MAX: usize = 16;
/// A connection that was not used for so long is closed rather than used again: whether its peer is still there is better asked anew.
const IDLE_AGE_MAX: Duration = Duration::from_secs(5);

/// Idle connections to one peer, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct Idle {
    kept: Mutex<Vec<(Connection, Instant)>>,
}

impl Idle {
    /// One that can be used, if there is any. Closes those that cannot.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut kept = self.kept.lock();
        kept.retain(|(_, since)| since.elapsed() < IDLE_AGE_MAX);
        while let Some((connection, _)) = kept.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps one whose transfer ended well.
    pub(super) fn keep(&self, connection: Connection) {
        let mut kept = self.kept.lock();
        kept.retain(|(_, since)| since.elapsed() < IDLE_AGE_MAX);
        if kept.len() < IDLE_MAX {
            kept.push((connection, Instant::now()));
        }
    }
}
