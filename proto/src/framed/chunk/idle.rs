//! Connections that wait for their next transfer.

use super::connection::Connection;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Connections to one datanode that are kept.
const KEPT_MAX: usize = 16;
/// A connection that was not used for so long is closed rather than used again: whether its peer is still there is better asked anew.
const IDLE_AGE_MAX: Duration = Duration::from_secs(5);

/// Idle connections to one peer, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct Idle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<(Connection, Instant)>,
    /// A task closes what is too old.
    closing: bool,
}

impl State {
    fn close_old(&mut self) {
        self.kept.retain(|(_, since)| since.elapsed() < IDLE_AGE_MAX);
    }
}

impl Idle {
    /// One that can be used, if there is any. Closes those that cannot.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut state = self.state.lock();
        state.close_old();
        while let Some((connection, _)) = state.kept.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps one whose transfer ended well, for a while. Call it within a runtime.
    pub(super) fn keep(self: &Arc<Self>, connection: Connection) {
        let mut state = self.state.lock();
        state.close_old();
        if state.kept.len() < KEPT_MAX {
            state.kept.push((connection, Instant::now()));
        }
        if !std::mem::replace(&mut state.closing, true) {
            tokio::spawn(close_old(Arc::downgrade(self)));
        }
    }
}

/// Closes what gets too old, until nothing is kept.
async fn close_old(idle: Weak<Idle>) {
    loop {
        tokio::time::sleep(IDLE_AGE_MAX / 2).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut state = idle.state.lock();
        state.close_old();
        if state.kept.is_empty() {
            state.closing = false;
            return;
        }
    }
}
