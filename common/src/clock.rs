//! Time and randomness as arguments (invariant I10): code that is replayed or tested takes a [`Clock`].

use crate::attr::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Source of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock.
    fn now(&self) -> Timestamp;
    /// Monotonic time since an arbitrary start; leases are measured with it.
    fn monotonic(&self) -> Duration;
    /// Wall clock in milliseconds since 1970.
    fn now_unix_ms(&self) -> u64 {
        let now = self.now();
        u64::try_from(now.secs).unwrap_or(0) * 1000 + u64::from(now.nanos / 1_000_000)
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp {
                secs: since.as_secs() as i64,
                nanos: since.subsec_nanos(),
            },
            Err(_) => Timestamp::default(),
        }
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told; both of its times move together.
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let since = self.monotonic();
        Timestamp {
            secs: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        }
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}
