//! Going to the background: fork, log file, and the news to whoever started the command.
//!
//! Owns the pipe between daemon and command. Invariant: the command ends with 0 only after the daemon said that the mount
//! is usable, and a daemon whose command has gone away does not stay.

use crate::args::Settings;
use crate::{EXIT_FAILED, sentence};
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};
use std::fs::File;
use std::io::{Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The longest message that the command takes from its daemon.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;
/// First byte of the daemon's message when the mount is usable; else it is the exit code.
const USABLE: u8 = 0;

/// How the start of the mount is reported.
pub struct Ready(Option<std::io::PipeWriter>);

impl Ready {
    /// To nobody but the log.
    ///
    /// # Errors
    /// `Io` if standard error cannot be sent to `log`.
    pub fn foreground(log: Option<File>) -> FsResult<Ready> {
        if let Some(log) = log {
            dup2_stderr(&log).map_err(|errno| FsError::from(std::io::Error::from(errno)))?;
        }
        Ok(Ready(None))
    }

    /// The mount is usable: the command may end.
    ///
    /// # Errors
    /// If the command is gone.
    pub fn usable(self) -> std::io::Result<()> {
        match self.0 {
            Some(mut command) => command.write_all(&[USABLE]),
            None => Ok(()),
        }
    }

    /// The mount failed: says why, and gives the exit code.
    pub fn failed(self, error: &FsError) -> ExitCode {
        let text = sentence(error);
        match self.0 {
            Some(mut command) => {
                tracing::error!(%error, "not mounted");
                // A command that is gone has nobody to tell.
                let _ = command.write_all(&[&[EXIT_FAILED], text.as_bytes()].concat());
            }
            None => say(&text),
        }
        ExitCode::from(EXIT_FAILED)
    }
}

/// One line on standard error.
pub fn say(text: &str) {
    // Nobody may be reading: the exit code says it all the same.
    let _ = writeln!(std::io::stderr(), "dfs-mount: {text}");
}

/// Forks. Returns in the daemon, which is in a session of its own with standard error in `log`; the command waits for it
/// and ends the process.
///
/// Must be called before any thread is started.
///
/// # Errors
/// `Io` if the system refuses a process or a pipe.
pub fn start(log: Option<File>) -> FsResult<Ready> {
    let (from_daemon, to_command) = pipe()?;
    // SAFETY: no other thread exists yet, so the child may do whatever the parent may.
    match unsafe { fork() }.map_err(std::io::Error::from)? {
        ForkResult::Parent { child } => {
            drop(to_command);
            std::process::exit(i32::from(await_daemon(child, from_daemon)))
        }
        ForkResult::Child => {
            drop(from_daemon);
            let ready = Ready(Some(to_command));
            match detach(log) {
                Ok(()) => Ok(ready),
                Err(error) => {
                    ready.failed(&error);
                    std::process::exit(i32::from(EXIT_FAILED))
                }
            }
        }
    }
}

/// Leaves the terminal, the working directory and the standard streams of the command.
fn detach(log: Option<File>) -> FsResult<()> {
    let steps = || -> std::io::Result<()> {
        setsid()?;
        std::env::set_current_dir("/")?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(log.as_ref().unwrap_or(&null))?;
        Ok(())
    };
    steps().map_err(|error| FsError::from(error).context("going to the background"))
}

/// The command: its exit code is what the daemon says, or that it said nothing.
fn await_daemon(child: Pid, from_daemon: std::io::PipeReader) -> u8 {
    let mut message = Vec::new();
    // What came before an error counts.
    let _ = from_daemon.take(MESSAGE_BYTES_MAX).read_to_end(&mut message);
    match message.split_first() {
        Some((&USABLE, _)) => USABLE,
        Some((code, text)) => {
            say(&String::from_utf8_lossy(text));
            *code
        }
        None => {
            let how = match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => format!("with code {code}"),
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("by {signal}"),
                _ => "for an unknown reason".to_owned(),
            };
            say(&format!(
                "the daemon ended {how} before the mount was usable: see its log"
            ));
            EXIT_FAILED
        }
    }
}

/// The log file of these settings, opened to append to; `None`: standard error in the foreground, nowhere in the
/// background.
///
/// # Errors
/// Why the file that was asked for cannot be opened. The default one is done without.
pub fn open_log(settings: &Settings) -> FsResult<Option<File>> {
    if let Some(path) = &settings.log {
        let log = open(path);
        return log.map(Some).map_err(|error| {
            FsError::new(
                ErrorKind::Io,
                format!("cannot log to {}: {error}", path.display()),
            )
        });
    }
    if settings.foreground {
        return Ok(None);
    }
    Ok(default_log(nix::unistd::geteuid().is_root()).and_then(|path| {
        if let Some(dir) = path.parent() {
            // If it cannot be made, opening fails.
            let _ = std::fs::create_dir_all(dir);
        }
        open(&path).ok()
    }))
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn default_log(root: bool) -> Option<PathBuf> {
    if root {
        return Some("/var/log/dfs-mount.log".into());
    }
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("dfs/mount.log"))
}
