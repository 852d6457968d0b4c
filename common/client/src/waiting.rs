//! What this client waits for, and how long it keeps trying.
//!
//! Every call to a server goes through [`Attempts`]: passing failures are tried again with growing pauses until the
//! patience ends; from the first failure on the call is listed, and the log says every few seconds what is waited for.

use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use rand::Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First pause between two attempts; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause: a server that is back is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two log lines about one wait.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What a call does, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct What {
    verb: &'static str,
    ino: Option<Ino>,
}

impl What {
    pub(crate) fn new(verb: &'static str) -> Self {
        What { verb, ino: None }
    }
    pub(crate) fn of(verb: &'static str, ino: Ino) -> Self {
        What { verb, ino: Some(ino) }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ino {
            Some(ino) => write!(f, "{} of inode {ino}", self.verb),
            None => f.write_str(self.verb),
        }
    }
}

struct Waiting {
    what: What,
    since: Instant,
    error: FsError,
}

/// The calls that wait right now.
#[derive(Default)]
pub(crate) struct WaitList {
    inner: Mutex<(u64, BTreeMap<u64, Waiting>)>,
}

impl WaitList {
    /// One sentence per waiting call, the longest wait first.
    pub(crate) fn describe(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let line = |waiting: &Waiting| {
            let secs = waiting.since.elapsed().as_secs();
            format!("{} waits for {secs} s: {}", waiting.what, waiting.error)
        };
        inner.1.values().map(line).collect()
    }
}

/// One call's attempts.
pub(crate) struct Attempts {
    list: Arc<WaitList>,
    what: What,
    deadline: Option<Instant>,
    pause: Duration,
    listed: Option<u64>,
    began: Option<Instant>,
    logged: Option<Instant>,
}

impl Attempts {
    /// `patience` `None`: try for ever.
    pub(crate) fn new(list: &Arc<WaitList>, what: What, patience: Option<Duration>) -> Self {
        Attempts {
            list: list.clone(),
            what,
            deadline: patience.map(|patience| Instant::now() + patience),
            pause: PAUSE_MIN,
            listed: None,
            began: None,
            logged: None,
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// `error` itself if it does not pass by itself or the patience ended.
    pub(crate) async fn pause(&mut self, error: FsError) -> FsResult<()> {
        if !error.kind().is_retryable() {
            return Err(error);
        }
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(error.context(format_args!("{} gave up", self.what)));
        }
        self.note(now, &error);
        let jitter = rand::rng().random_range(0.75..1.25);
        let mut pause = self.pause.mul_f64(jitter);
        if let Some(deadline) = self.deadline {
            pause = pause.min(deadline.saturating_duration_since(now));
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    fn note(&mut self, now: Instant, error: &FsError) {
        let since = *self.began.get_or_insert(now);
        let waiting = Waiting {
            what: self.what,
            since,
            error: error.clone(),
        };
        let mut inner = self.list.inner.lock();
        let id = *self.listed.get_or_insert_with(|| {
            inner.0 += 1;
            inner.0
        });
        inner.1.insert(id, waiting);
        drop(inner);
        if self.logged.is_none_or(|logged| now - logged >= LOG_INTERVAL) {
            self.logged = Some(now);
            let waited_secs = (now - since).as_secs();
            tracing::warn!(waiting = %self.what, waited_secs, %error, "waiting for a server");
        }
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        if let Some(id) = self.listed {
            self.list.inner.lock().1.remove(&id);
            if self
                .logged
                .is_some_and(|_| self.began.is_some_and(|began| began.elapsed() >= LOG_INTERVAL))
            {
                tracing::info!(waiting = %self.what, "no longer waiting");
            }
        }
    }
}

/// Bounds one attempt.
///
/// # Errors
/// `TimedOut` after `deadline`; else those of `attempt`.
pub(crate) async fn within<T>(deadline: Duration, attempt: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    tokio::time::timeout(deadline, attempt)
        .await
        .unwrap_or_else(|_| Err(FsError::new(ErrorKind::TimedOut, "no answer within the deadline")))
}
