//! What every command works with: the cluster to talk to, on whose behalf, and the sign to stop.
//!
//! Owns connecting, the end of the session, and saying what is being waited for. Invariant: a session that was opened is
//! closed again, whichever way the command ends.

use crate::output::{Output, is_unreachable, sentence};
use crate::path::printable;
use dfs_client::{AdminClient, Client, ClientConfig, PathApi};
use dfs_common::error::ADVICE_NO_COORDINATOR;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After this long without a connection the user is told.
const FIRST_NOTE: Duration = Duration::from_secs(2);
/// Between two notes on what is being waited for.
const NOTES: Duration = Duration::from_secs(5);
/// Patience with closing the session: the coordinator ends it by itself later.
const CLOSING: Duration = Duration::from_secs(3);

/// One run of the program.
pub struct Context {
    /// Both streams.
    pub output: Arc<Output>,
    /// `host:port`.
    pub coordinator: String,
    /// Patience with servers that are away.
    pub timeout: Duration,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// The user.
    pub caller: Caller,
    /// Cancelled when the user wants to stop.
    pub stop: CancellationToken,
}

/// A session with the cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Files by path, as the user.
    pub paths: Arc<PathApi>,
    client: Client,
    patience: Duration,
}

impl Cluster {
    /// `work` that the client library holds up while too much is unsaved, which has no end of its own: given up when it was
    /// held up for the whole timeout and a server is being waited for. It must be safe to drop.
    ///
    /// # Errors
    /// `Unavailable` then, with what is being waited for.
    pub async fn held_up<T>(&self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::pin!(work);
        loop {
            if let Ok(result) = tokio::time::timeout(self.patience, &mut work).await {
                return result;
            }
            // Without one the disks are slow: that is no reason to give up.
            if let Some(waiting) = self.client.waiting().into_iter().next() {
                let secs = self.patience.as_secs_f64();
                let text = format!("nothing could be saved for {secs} s: {waiting}");
                return Err(FsError::new(ErrorKind::Unavailable, text));
            }
        }
    }
}

impl Context {
    /// The admin service; answers or fails at once, within the timeout.
    ///
    /// # Errors
    /// `Invalid` if the address is not one.
    pub fn admin(&self) -> FsResult<AdminClient> {
        AdminClient::connect_lazy(&self.coordinator, self.timeout)
    }

    /// Opens a session, does `work` in it and closes it.
    ///
    /// # Errors
    /// Those of connecting (`Unavailable`, `TimedOut`) and of `work`.
    pub async fn with_cluster<W, T>(&self, work: impl FnOnce(Cluster) -> W) -> FsResult<T>
    where
        W: Future<Output = FsResult<T>>,
    {
        let client = self.stoppable(self.connect()).await?;
        let cluster = Cluster {
            paths: Arc::new(client.paths(self.caller.clone())),
            client: client.clone(),
            patience: self.timeout,
        };
        let result = tokio::select! {
            result = work(cluster) => result,
            never = self.tell_waits(&client) => match never {},
        };
        if let Err(error) = client.shutdown(CLOSING.min(self.timeout)).await {
            tracing::debug!(%error, "the session was not closed; it ends with its lease");
        }
        result
    }

    async fn connect(&self) -> FsResult<Client> {
        let mut config = ClientConfig::new(self.coordinator.clone());
        config.connect_timeout = self.timeout;
        config.call_patience = Some(self.timeout);
        let connecting = Client::connect(config);
        tokio::pin!(connecting);
        let connected = match tokio::time::timeout(FIRST_NOTE, &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                self.output
                    .note(&format!("waiting for the coordinator at {}", self.coordinator));
                connecting.await
            }
        };
        connected.map_err(|error| self.unreachable(error))
    }

    /// Names the coordinator in an error of not reaching it, and says what to do.
    pub fn unreachable(&self, error: FsError) -> FsError {
        let named = error.message().contains(&self.coordinator);
        let error = match is_unreachable(error.kind()) && !named {
            true => error.context(format_args!(
                "no answer from the coordinator at {}",
                self.coordinator
            )),
            false => error,
        };
        error.advise_unreached(ADVICE_NO_COORDINATOR)
    }

    /// Tells from time to time what the client waits for.
    async fn tell_waits(&self, client: &Client) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(NOTES).await;
            let waiting = client.waiting();
            if let Some(first) = waiting.first() {
                let more = match waiting.len() - 1 {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                self.output.note(&format!("still waiting: {first}{more}"));
            }
        }
    }

    /// `work`, given up when the user wants to stop.
    ///
    /// # Errors
    /// `Interrupted` then.
    pub async fn stoppable<T>(&self, work: impl Future<Output = FsResult<T>>) -> FsResult<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(interrupted()),
            result = work => result,
        }
    }

    /// Shows the error of one path, after which the command goes on with the next.
    ///
    /// # Errors
    /// `error` again if going on makes no sense: the cluster is away, the user stops, nobody reads the results.
    pub fn failed(&self, path: &[u8], error: FsError) -> FsResult<()> {
        if self.output.is_closed() || is_unreachable(error.kind()) || error.kind() == ErrorKind::Interrupted {
            let text = format!("{}: {}", printable(path), sentence(Some(path), &error));
            return Err(FsError::new(error.kind(), text));
        }
        self.output.error(Some(path), &error);
        Ok(())
    }

    /// Permissions of something new whose maker wants `mode`.
    pub fn masked(&self, mode: u32) -> u32 {
        mode & 0o777 & !self.umask
    }
}

/// The error of a command that the user stopped.
pub fn interrupted() -> FsError {
    FsError::new(ErrorKind::Interrupted, "interrupted")
}
