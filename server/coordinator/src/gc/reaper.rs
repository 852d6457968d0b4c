//! Takes abandoned maps away, a portion per step.

use crate::applier::Applier;
use crate::worker::Worker;
use async_trait::async_trait;
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
    portions: AtomicU64,
}

impl Reaper {
    /// Over the state of `applier`.
    pub fn new(applier: Arc<Applier>) -> Self {
        Reaper {
            applier,
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
        let portions = self.portions.load(Ordering::Relaxed);
        format!("{portions} portions of extents taken away")
    }
    async fn step(&self) -> Duration {
        match self.applier.reap().await {
            Ok(true) => {
                self.portions.fetch_add(1, Ordering::Relaxed);
                PAUSE
            }
            Ok(false) => IDLE,
            Err(error) => {
                tracing::warn!(%error, "abandoned extents could not be taken away");
                IDLE
            }
        }
    }
}
