//! `dfs-mount`: a DFS cluster as a directory of this machine.
//!
//! Owns the process: command line, fork, exit code. The mount's life is in `service`, the file operations in `adapter`,
//! and `kernel` has everything about mount points. Invariant: exit code 0 of the command means that the mount is usable,
//! and of the daemon that everything written was saved.

mod adapter;
mod answer;
mod args;
mod caller;
mod capability;
mod convert;
mod daemon;
mod directory;
mod kernel;
mod locking;
mod options;
mod service;

use args::{Args, Settings};
use clap::Parser;
use daemon::Ready;
use dfs_common::{FsError, FsResult};
use std::process::ExitCode;

/// The mount or its end failed.
const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let settings = match Args::parse().settings() {
        Ok(settings) => settings,
        Err(error) => return complain(&error, EXIT_USAGE),
    };
    match start(&settings) {
        Ok(Some((mountpoint, ready))) => service::run(&settings, &mountpoint, ready),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => complain(&error, EXIT_FAILED),
    }
}

/// Checks what can be checked before anything is started, and goes to the background if that is wanted. `None`: nothing
/// else is to be done. The parent of a daemon does not return.
fn start(settings: &Settings) -> FsResult<Option<(std::path::PathBuf, Ready)>> {
    let mountpoint = kernel::place::check(&settings.mountpoint)?;
    if settings.fake {
        return Ok(None);
    }
    let log = daemon::open_log(settings)?;
    let ready = match settings.foreground {
        true => Ready::foreground(log)?,
        false => daemon::start(log)?,
    };
    dfs_common::telemetry::init();
    Ok(Some((mountpoint, ready)))
}

/// One line on standard error; the sentence carries what to do.
fn complain(error: &FsError, code: u8) -> ExitCode {
    daemon::say(&sentence(error));
    ExitCode::from(code)
}

/// An error for people.
fn sentence(error: &FsError) -> String {
    match error.message() {
        "" => format!("{:?}", error.kind()),
        text => text.to_owned(),
    }
}
