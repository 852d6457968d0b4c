//! `dfs`: files in a DFS cluster, and the state of the cluster, from the command line.
//!
//! Owns the process: arguments, runtime, signals, exit code. The commands are in `commands/`, one file each. Invariant: exit
//! code 0 means that everything asked for was done and is durable where it was put into DFS.

mod args;
mod commands;
mod context;
mod format;
mod local;
mod mount_type;
mod output;
mod path;
mod progress;
mod transfer;

use args::{Args, Command};
use clap::Parser;
use clap::error::ErrorKind as UsageKind;
use context::Context;
use dfs_client::profile;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, telemetry};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid, getgroups};
use output::{EXIT_CLOSED, EXIT_FAILED, EXIT_USAGE, Output};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Local files are read and written here, and content is hashed.
const BLOCKING_THREADS_MAX: usize = 64;
const WORKER_THREADS_MAX: usize = 8;
/// How long tasks may take to end after the command.
const RUNTIME_END: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let args: Vec<_> = std::env::args_os().skip(1).collect();
            if let Some(why) = mount_type::become_mount(&args) {
                eprintln!("dfs: dfs-mount cannot be run: {why}");
                return ExitCode::from(EXIT_FAILED);
            }
            return usage(&error);
        }
    };
    // Results and errors are what users see; logs only when they ask.
    if std::env::var_os("DFS_LOG").is_some() {
        telemetry::init();
    }
    let output = Arc::new(Output::new(args.global.json, args.global.quiet));
    let context = match context(&args, &output) {
        Ok(context) => context,
        Err(error) => {
            output.error(None, &error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.clamp(2, WORKER_THREADS_MAX))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("dfs")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(None, &FsError::from(error).context("starting threads"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let code = runtime.block_on(run(args.command, &context));
    runtime.shutdown_timeout(RUNTIME_END);
    ExitCode::from(code)
}

/// Shows an error of usage, or the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(
        error.kind(),
        UsageKind::DisplayHelp
            | UsageKind::DisplayVersion
            | UsageKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let json = std::env::args_os().any(|argument| argument == "--json");
    if json && !asked {
        let text = error.render().to_string();
        let text = text.trim_start_matches("error: ").trim_end();
        let object = serde_json::json!({ "error": { "kind": "usage", "message": text } });
        eprintln!("{object}");
    } else {
        // Nobody may be reading: the exit code says it all the same.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
}

fn context(args: &Args, output: &Arc<Output>) -> FsResult<Context> {
    let coordinator = match &args.command {
        Command::Connect(connect) => connect.address.clone(),
        _ => profile::coordinator(args.global.coordinator.as_deref())?,
    };
    let mask = umask(Mode::empty());
    umask(mask);
    let groups = getgroups().map_err(|errno| {
        FsError::new(
            ErrorKind::Io,
            format!("this process's groups are not known: {errno}"),
        )
    })?;
    Ok(Context {
        output: output.clone(),
        coordinator,
        timeout: args.global.timeout,
        umask: mask.bits(),
        caller: Caller {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: groups.into_iter().map(|gid| gid.as_raw()).collect(),
        },
        stop: CancellationToken::new(),
    })
}

/// Runs the command; a signal stops it in good order, a second one at once.
async fn run(command: Command, context: &Context) -> u8 {
    let output = &context.output;
    let signalled = Arc::new(AtomicU8::new(0));
    let signals = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            output.error(None, &FsError::from(error).context("waiting for signals"));
            return EXIT_FAILED;
        }
    };
    let watcher = tokio::spawn(watch(signals, context.stop.clone(), signalled.clone()));
    let result = commands::run(command, context)
        .await
        .and_then(|()| output.flush());
    watcher.abort();
    let signalled = signalled.load(Ordering::Relaxed);
    if let Err(error) = result {
        // The results until then are shown even so.
        let _ = output.flush();
        if output.is_closed() {
            return EXIT_CLOSED;
        }
        if signalled == 0 || error.kind() != ErrorKind::Interrupted {
            output.error(None, &error);
        }
    }
    if signalled != 0 { signalled } else { output.code() }
}

async fn watch(
    (mut interrupt, mut terminate): (Signal, Signal),
    stop: CancellationToken,
    code: Arc<AtomicU8>,
) {
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        let exit = u8::try_from(128 + number.as_raw_value()).unwrap_or(EXIT_FAILED);
        if stop.is_cancelled() {
            std::process::exit(i32::from(exit));
        }
        code.store(exit, Ordering::Relaxed);
        stop.cancel();
    }
}
