//! Copying many files at once, in either direction: what `upload` and `download` share.
//!
//! Owns the bound on files under way, what is said of each, and the end. Invariants: at most [`TRANSFERS_MAX`] files are under
//! way; when this is finished none is, and every failure was shown.

use crate::context::{Context, interrupted};
use crate::output::insert_bytes;
use crate::path::printable;
use crate::progress::Progress;
use dfs_common::{ErrorKind, FsError, FsResult};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Map, Value, json};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Files under way at once: enough to hide the round trips of small ones; large ones are parallel within themselves.
pub const TRANSFERS_MAX: usize = 8;

/// What happened to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Copied, so many bytes.
    File(u64),
    /// Made, or there already.
    Directory,
    /// Made.
    Symlink,
    /// There already, and left alone.
    Skipped,
}

/// A failure and the path that it is about, which may be here or in DFS.
#[derive(Debug)]
pub struct Failure {
    /// The path.
    pub path: Vec<u8>,
    /// What went wrong.
    pub error: FsError,
}

/// Says which path a result is about.
pub trait About<T> {
    /// An error becomes the failure of `path`.
    fn about(self, path: &[u8]) -> Result<T, Failure>;
}

impl<T> About<T> for FsResult<T> {
    fn about(self, path: &[u8]) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            path: path.to_vec(),
            error,
        })
    }
}

/// The outcome of one file.
pub struct Done {
    /// Where from.
    pub source: Vec<u8>,
    /// Where to.
    pub target: Vec<u8>,
    /// What happened.
    pub result: Result<Copied, Failure>,
}

#[derive(Default)]
struct Sum {
    files: u64,
    directories: u64,
    symlinks: u64,
    skipped: u64,
    failed: u64,
    bytes: u64,
}

/// The files of one command.
pub struct Transfers<'a> {
    context: &'a Context,
    verbose: bool,
    verb: &'static str,
    jobs: JoinSet<Done>,
    stop: CancellationToken,
    progress: Arc<Progress>,
    sum: Sum,
    started: Instant,
}

impl<'a> Transfers<'a> {
    /// Nothing under way yet. `verb` is what is done: `upload`.
    pub fn new(context: &'a Context, verbose: bool, verb: &'static str) -> Self {
        Transfers {
            context,
            verbose,
            verb,
            jobs: JoinSet::new(),
            stop: context.stop.child_token(),
            progress: Arc::new(Progress::start(&context.output, format!("{verb}ing"))),
            sum: Sum::default(),
            started: Instant::now(),
        }
    }

    /// The bars.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Cancelled when files under way shall be given up.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts copying one file; waits while too many are under way.
    ///
    /// # Errors
    /// A failure of an earlier one after which going on makes no sense.
    pub async fn start(&mut self, job: impl Future<Output = Done> + Send + 'static) -> FsResult<()> {
        while let Some(done) = self.jobs.try_join_next() {
            self.settle(done)?;
        }
        while self.jobs.len() >= TRANSFERS_MAX {
            if let Some(done) = self.jobs.join_next().await {
                self.settle(done)?;
            }
        }
        self.jobs.spawn(job);
        Ok(())
    }

    /// Waits for all that were started.
    ///
    /// # Errors
    /// As [`Transfers::start`].
    pub async fn drain(&mut self) -> FsResult<()> {
        while let Some(done) = self.jobs.join_next().await {
            self.settle(done)?;
        }
        Ok(())
    }

    fn settle(&mut self, done: Result<Done, tokio::task::JoinError>) -> FsResult<()> {
        let done = done.map_err(|error| {
            FsError::new(ErrorKind::Io, format!("a transfer ended unexpectedly: {error}"))
        })?;
        self.record(done)
    }

    /// Says what happened to one file.
    ///
    /// # Errors
    /// Its failure, if going on makes no sense after it; those of standard output.
    pub fn record(&mut self, done: Done) -> FsResult<()> {
        let (event, bytes) = match done.result {
            Err(failure) => {
                self.sum.failed += 1;
                return self.context.failed(&failure.path, failure.error);
            }
            Ok(Copied::File(bytes)) => {
                self.sum.files += 1;
                self.sum.bytes += bytes;
                ("file", Some(bytes))
            }
            Ok(Copied::Directory) => {
                self.sum.directories += 1;
                ("directory", None)
            }
            Ok(Copied::Symlink) => {
                self.sum.symlinks += 1;
                ("symlink", None)
            }
            Ok(Copied::Skipped) => {
                self.sum.skipped += 1;
                ("skipped", None)
            }
        };
        let output = &self.context.output;
        if !self.verbose && !output.is_json() {
            return Ok(());
        }
        output.result(
            || {
                let arrow = if event == "skipped" {
                    "exists, left alone:"
                } else {
                    "->"
                };
                format!("{} {arrow} {}", printable(&done.source), printable(&done.target))
            },
            || {
                let mut object = Map::new();
                object.insert("event".to_owned(), event.into());
                insert_bytes(&mut object, "source", &done.source);
                insert_bytes(&mut object, "target", &done.target);
                if let Some(bytes) = bytes {
                    object.insert("bytes".to_owned(), bytes.into());
                }
                Value::from(object)
            },
        )?;
        output.flush()
    }

    /// Ends everything: waits for what is under way, or gives it up if `walked` is an error; then says the sum.
    ///
    /// # Errors
    /// `walked`, or the first failure after which going on made no sense.
    pub async fn finish(mut self, walked: FsResult<()>) -> FsResult<()> {
        let mut result = walked;
        loop {
            if result.is_err() {
                self.stop.cancel();
            }
            let Some(done) = self.jobs.join_next().await else {
                break;
            };
            let settled = self.settle(done);
            result = result.and(settled);
        }
        self.progress.finish();
        if result.is_ok() {
            self.say_sum()?;
        }
        result
    }

    fn say_sum(&self) -> FsResult<()> {
        let (sum, output) = (&self.sum, &self.context.output);
        if output.is_json() {
            return output.result(String::new, || {
                json!({
                    "event": "summary", "files": sum.files, "directories": sum.directories, "symlinks": sum.symlinks,
                    "skipped": sum.skipped, "failed": sum.failed, "bytes": sum.bytes,
                })
            });
        }
        if output.bars().is_some() {
            output.note(&sum_text(sum, self.verb, self.started.elapsed()));
        }
        Ok(())
    }
}

fn sum_text(sum: &Sum, verb: &str, elapsed: std::time::Duration) -> String {
    let plural = if sum.files == 1 { "" } else { "s" };
    let mut text = format!("{verb}ed {} file{plural}, {}", sum.files, HumanBytes(sum.bytes));
    if elapsed.as_secs() >= 1 {
        let rate = (sum.bytes as f64 / elapsed.as_secs_f64()) as u64;
        text.push_str(&format!(
            " in {} ({}/s)",
            HumanDuration(elapsed),
            HumanBytes(rate)
        ));
    }
    for (count, what) in [(sum.skipped, "left alone"), (sum.failed, "failed")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// `work`, given up when `stop` is cancelled. It must be safe to drop.
///
/// # Errors
/// `Interrupted` then.
pub async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(interrupted()),
        result = work => result,
    }
}

/// Runs `work` on a thread for blocking work.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> FsResult<T> + Send + 'static) -> FsResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FsError::new(
            ErrorKind::Io,
            format!("work on a local file ended unexpectedly: {error}"),
        )),
    }
}
