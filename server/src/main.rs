//! `dfs-server`: the composition root of the servers.
//!
//! Owns the command line, the runtime, signals and exit codes; everything else is in the crates of the roles. Invariant: the
//! line `listening on HOST:PORT` on standard output means that requests are answered, and exit code 0 means that
//! everything acknowledged is durable and every task has ended.

mod args;
mod descriptors;
mod metadata;
mod role;
mod standalone;

use args::{Args, Role};
use clap::Parser;
use dfs_common::{FsError, telemetry};
use std::process::ExitCode;
use std::time::Duration;

/// Blocking disk work waits here, not on the worker threads.
const BLOCKING_THREADS_MAX: usize = 128;
/// More workers only cost memory: a server's work is hashing, syncing and waiting.
const WORKER_THREADS_MAX: usize = 16;
/// How long tasks may take to end after an orderly shutdown.
const RUNTIME_END: Duration = Duration::from_secs(5);

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let role = match Args::parse().role.checked() {
        Ok(role) => role,
        Err(error) => return complain(&error, EXIT_USAGE),
    };
    telemetry::init();
    descriptors::raise_limit();
    if let Err(error) = dfs_common::failpoint::arm_from_environment() {
        return complain(&error, EXIT_USAGE);
    }
    if let Role::Metadata(command) = role {
        return match metadata::run(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error, EXIT_FAILURE),
        };
    }
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.clamp(2, WORKER_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("dfs-server")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return complain(&FsError::from(error).context("starting threads"), EXIT_FAILURE),
    };
    let outcome = runtime.block_on(role::run(role));
    runtime.shutdown_timeout(RUNTIME_END);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, EXIT_FAILURE),
    }
}

/// One line on standard error; the sentence carries what to do.
fn complain(error: &FsError, code: u8) -> ExitCode {
    use std::io::Write;
    let text = match error.message() {
        "" => format!("{:?}", error.kind()),
        text => text.to_owned(),
    };
    // Nobody may be reading: the exit code says it all the same.
    let _ = writeln!(std::io::stderr(), "dfs-server: {text}");
    ExitCode::from(code)
}
