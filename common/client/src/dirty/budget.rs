//! The bound on unsaved bytes of all files: writers wait above it.

use std::sync::Arc;
use tokio::sync::{Notify, Semaphore};

/// Unsaved bytes that may still be taken.
pub(crate) struct DirtyBudget {
    bytes: Semaphore,
    max: usize,
    /// A writer waits: everything unsaved should be saved.
    pub(crate) pressure: Arc<Notify>,
}

impl DirtyBudget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let max = usize::try_from(bytes_max)
            .unwrap_or(usize::MAX)
            .clamp(1 << 20, Semaphore::MAX_PERMITS);
        DirtyBudget {
            bytes: Semaphore::new(max),
            max,
            pressure: Arc::default(),
        }
    }

    /// Largest reservation: a quarter of the budget, so that several writers go on.
    pub(crate) fn reservation_max(&self) -> usize {
        (self.max / 4).min(1 << 20)
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn try_reserve(&self, bytes: usize) -> bool {
        match self.bytes.try_acquire_many(bytes as u32) {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes `bytes` (at most [`DirtyBudget::reservation_max`]); waits for others to be saved. Cancel-safe.
    pub(crate) async fn reserve(&self, bytes: usize) {
        if self.try_reserve(bytes) {
            return;
        }
        self.pressure.notify_one();
        let permit = self.bytes.acquire_many(bytes as u32).await;
        permit.expect("the budget is never closed").forget();
    }

    /// What is taken now, by unsaved data and by writes that are about to make some.
    pub(crate) fn unsaved(&self) -> u64 {
        (self.max - self.bytes.available_permits().min(self.max)) as u64
    }

    /// Gives back what was reserved.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.bytes.add_permits(bytes as usize);
    }
}
