//! Runs one role: start, say so, wait for a signal or a final failure, stop in good order.
//!
//! Invariant: the ready line is printed once, after everything it promises; on every way out what was started is shut down.

use crate::args::Role;
use crate::standalone::Standalone;
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_coordinator::Coordinator;
use dfs_datanode::{Datanode, DatanodeConfig};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// How long an orderly shutdown may take before the process ends without it.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// A started role.
enum Running {
    Coordinator(Coordinator),
    Datanode(Datanode),
    Standalone(Standalone),
}

/// Runs `role` until a signal; `Ok` after an orderly shutdown.
///
/// # Errors
/// What kept it from starting, made it give up, or kept it from stopping in time.
pub async fn run(role: Role) -> FsResult<()> {
    let mut signals = Signals::listen()?;
    let running = tokio::select! {
        started = start(&role) => started?,
        name = signals.next() => {
            info!(signal = name, "stopped before it was ready");
            return Ok(());
        }
    };
    announce(running.address());
    let failure = tokio::select! {
        name = signals.next() => {
            info!(signal = name, "stopping");
            None
        }
        error = running.failed() => Some(error),
    };
    tokio::select! {
        () = running.shutdown() => info!("stopped"),
        () = tokio::time::sleep(SHUTDOWN) => {
            return Err(FsError::new(
                ErrorKind::TimedOut,
                format!("did not stop within {} s; nothing acknowledged is lost", SHUTDOWN.as_secs()),
            ));
        }
        name = signals.next() => {
            warn!(signal = name, "stopped at once by a second signal");
            return Err(FsError::new(ErrorKind::Interrupted, "stopped at once by a second signal"));
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn start(role: &Role) -> FsResult<Running> {
    match role {
        Role::Coordinator(args) => {
            let listen = args.listen;
            let started = Coordinator::start(args.config()).await;
            started
                .map(Running::Coordinator)
                .map_err(|error| explain(error, listen))
        }
        Role::Datanode(args) => {
            let config = DatanodeConfig {
                data_dir: args.data.clone(),
                listen: args.listen,
                local_sockets: args.local_sockets,
                advertise: args.advertise.clone(),
                coordinator: args.coordinator.clone(),
            };
            let started = Datanode::start(config).await;
            started
                .map(Running::Datanode)
                .map_err(|error| explain(error, args.listen))
        }
        Role::Metadata(_) => Err(FsError::new(
            ErrorKind::Invalid,
            "work on metadata is no role of a server",
        )),
        Role::Standalone(args) => {
            let started = Standalone::start(args).await;
            started
                .map(Running::Standalone)
                .map_err(|error| explain(error, args.listen))
        }
    }
}

/// Adds what to do to the errors that administrators meet first.
fn explain(error: FsError, listen: SocketAddr) -> FsError {
    let message = error.message();
    if message.contains("Address already in use") {
        return FsError::new(
            ErrorKind::Busy,
            format!(
                "{listen} is in use by another process: stop that one, or choose another --listen ({message})"
            ),
        );
    }
    match error.kind() {
        ErrorKind::NoSpace => FsError::new(
            ErrorKind::NoSpace,
            format!("{message}: free space on the disk of the data directory and start again"),
        ),
        _ => error,
    }
}

impl Running {
    fn address(&self) -> SocketAddr {
        match self {
            Running::Coordinator(coordinator) => coordinator.address(),
            Running::Datanode(datanode) => datanode.address(),
            Running::Standalone(standalone) => standalone.address(),
        }
    }

    /// Resolves when the role cannot go on.
    async fn failed(&self) -> FsError {
        match self {
            Running::Coordinator(_) => std::future::pending().await,
            Running::Datanode(datanode) => datanode.failed().await,
            Running::Standalone(standalone) => standalone.failed().await,
        }
    }

    async fn shutdown(self) {
        match self {
            Running::Coordinator(coordinator) => coordinator.shutdown().await,
            Running::Datanode(datanode) => datanode.shutdown().await,
            Running::Standalone(standalone) => standalone.shutdown().await,
        }
    }
}

/// The ready line. A closed standard output is no reason to stop serving.
fn announce(address: SocketAddr) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "listening on {address}").and_then(|()| out.flush()) {
        warn!(%error, "standard output is closed");
    }
    info!(%address, "listening");
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn listen() -> FsResult<Self> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
