//! Waiting with an end. Every wait of a test on another process goes through here, so that none is endless and none
//! is a sleep that hopes.
//!
//! Invariant: a wait returns what it waited for, or panics and says what that was and how long it waited.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

/// Polls `condition` until it gives a value.
///
/// # Panics
/// When `limit` has passed, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::park_timeout(POLL);
    }
}

/// Runs `work` on a thread of its own and waits for it: a system call that hangs fails the test instead of stopping it.
///
/// # Panics
/// When `limit` has passed, or `work` panicked.
#[track_caller]
pub fn within<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    start(what, work).wait(limit)
}

/// Starts `work` on a thread of its own, to be waited for later.
pub fn start<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name(what.chars().take(15).collect())
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // Nobody waits any more if this fails: the test is over.
            let _ = sender.send(result);
        })
        .expect("this process may have one thread more");
    Pending {
        what: what.to_owned(),
        receiver,
        done: None,
    }
}

/// Work under way on another thread. Dropped, it is left alone: a thread that hangs in the kernel cannot be ended.
pub struct Pending<T> {
    what: String,
    receiver: mpsc::Receiver<std::thread::Result<T>>,
    done: Option<std::thread::Result<T>>,
}

impl<T> Pending<T> {
    /// Whether the result is there.
    pub fn is_done(&mut self) -> bool {
        if self.done.is_none() {
            self.done = self.receiver.try_recv().ok();
        }
        self.done.is_some()
    }

    /// The result.
    ///
    /// # Panics
    /// When `limit` has passed; with the work's own panic if it had one.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> T {
        let result = match self.done.take() {
            Some(result) => result,
            None => match self.receiver.recv_timeout(limit) {
                Ok(result) => result,
                Err(_) => panic!("{}: not done within {limit:?}", self.what),
            },
        };
        result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }
}
