//! Lets replaced inodes go when their time is over, and takes abandoned maps away: a portion of each per step.

use crate::applier::Applier;
use crate::worker::Worker;
use async_trait::async_trait;
use dfs_common::failpoint::{self, Failpoint};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks when there was nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// Between two portions: leaves the applier to others most of the time.
const PAUSE: Duration = Duration::from_millis(10);

/// The reaper.
pub struct Reaper {
    applier: Arc<Applier>,
    inodes: AtomicU64,
    portions: AtomicU64,
}

impl Reaper {
    /// Over the state of `applier`.
    pub fn new(applier: Arc<Applier>) -> Self {
        Reaper {
            applier,
            inodes: AtomicU64::new(0),
            portions: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Worker for Reaper {
    fn name(&self) -> &'static str {
        "reaper"
    }
    fn status(&self) -> String {
        let inodes = self.inodes.load(Ordering::Relaxed);
        let portions = self.portions.load(Ordering::Relaxed);
        format!("{inodes} replaced inodes let go, {portions} portions of extents taken away")
    }
    async fn step(&self) -> Duration {
        match self.applier.reap().await {
            Ok(reaped) => {
                if reaped.did_something() {
                    failpoint::reach(Failpoint::ReapAfterCommit);
                }
                self.inodes.fetch_add(reaped.inodes, Ordering::Relaxed);
                self.portions
                    .fetch_add(u64::from(reaped.extents), Ordering::Relaxed);
                match reaped.more_inodes || reaped.extents {
                    true => PAUSE,
                    false => IDLE,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "replaced inodes or abandoned extents could not be taken away");
                IDLE
            }
        }
    }
}

#[cfg(test)]
mod tests;
