//! Starts the processes of a cluster from a process of its own.
//!
//! A test has files open on the mount, often with unsaved data. Starting a program from there would copy its descriptors,
//! and closing the copies (which exec does) waits until that data is saved: a server that is to be started because it is
//! away would wait for itself. So a shell that was started before any mount does it, and keeps pids and exit codes as
//! files.
//!
//! Invariant: when the launcher ends, by the end of the test or of its process, so do all that it started.

use super::binaries::Binaries;
use super::deadline::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// From the request to the pid.
const START: Duration = Duration::from_secs(30);
/// Runs lines until its input ends, then kills what still runs. `$0` is the directory of pids and exit codes.
const SCRIPT: &str = r#"
while IFS= read -r line; do eval "$line"; done
for pid in "$0"/*.pid; do [ -e "${pid%.pid}.exit" ] || kill -KILL "$(cat "$pid")"; done 2>/dev/null
wait
"#;

/// A shell that starts processes on request.
#[derive(Debug)]
pub(super) struct Launcher {
    shell: Child,
    lines: Mutex<Option<ChildStdin>>,
    dir: PathBuf,
    number: AtomicU32,
}

/// A process that was started; left alone when dropped.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    exit: PathBuf,
}

impl Launcher {
    /// A launcher for `binaries`; `dir` is an empty directory for its notes.
    pub(super) fn new(binaries: &Binaries, dir: PathBuf) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).arg(&dir).current_dir("/");
        binaries.set_environment(&mut command);
        let mut shell = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let lines = Mutex::new(shell.stdin.take());
        Launcher {
            shell,
            lines,
            dir,
            number: AtomicU32::new(0),
        }
    }

    /// Starts a program: standard output replaces `stdout`, standard error is appended to `stderr`.
    ///
    /// # Panics
    /// When it cannot be started in time.
    pub(super) fn start(&self, words: &[&OsStr], stdout: &Path, stderr: &Path) -> Process {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let [pid, exit] = ["pid", "exit"].map(|name| self.dir.join(format!("{number}.{name}")));
        let mut line = b"{ ".to_vec();
        for word in words {
            line.extend(quoted(word));
            line.push(b' ');
        }
        let mut add = |text: &str, path: &Path| {
            line.extend(text.as_bytes());
            line.extend(quoted(path.as_os_str()));
        };
        // Each note appears whole, by a rename.
        let fresh = |path: &Path| path.with_extension("new");
        add("</dev/null >", stdout);
        add(" 2>>", stderr);
        add(" & started=$!; echo $started >", &fresh(&pid));
        add("; mv ", &fresh(&pid));
        add(" ", &pid);
        add("; wait $started; echo $? >", &fresh(&exit));
        add("; mv ", &fresh(&exit));
        add(" ", &exit);
        line.extend(b"; } &\n");
        {
            let mut lines = self.lines.lock().expect("no holder panics");
            let lines = lines.as_mut().expect("open until drop");
            lines.write_all(&line).expect("the shell lives until drop");
        }
        let text = until("pid of a started process", START, || {
            fs::read_to_string(&pid).ok()
        });
        Process {
            pid: text.trim().parse().expect("the shell wrote a number"),
            exit,
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if let Ok(mut lines) = self.lines.lock() {
            lines.take();
        }
        let _ = self.shell.wait();
    }
}

impl Process {
    /// Its id; of nobody, or of a stranger, once it has ended.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        let code: i32 = fs::read_to_string(&self.exit).ok()?.trim().parse().ok()?;
        // As the shell tells it: 128 and the signal.
        Some(ExitStatus::from_raw(if code > 128 {
            code - 128
        } else {
            code << 8
        }))
    }

    /// Sends a signal if it still runs.
    pub(super) fn signal(&self, signal: Signal) {
        if self.status().is_none() {
            let _ = kill(Pid::from_raw(self.pid as i32), signal);
        }
    }

    /// Waits for its end; `None` when `limit` has passed.
    pub(super) fn ends_within(&self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        until("end of a process", limit + START, || {
            let status = self.status();
            (status.is_some() || Instant::now() >= end).then_some(status)
        })
    }
}

/// As one word of a shell.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(launcher: &Launcher, dir: &Path, script: &str) -> Process {
        let words = ["sh", "-c", script, "it's $0"].map(OsStr::new);
        launcher.start(&words, &dir.join("out"), &dir.join("err"))
    }

    #[test]
    fn output_exit_code_and_signal_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("notes of 'launcher'");
        fs::create_dir(&notes).unwrap();
        let launcher = Launcher::new(&Binaries::anywhere(), notes);
        let limit = Duration::from_secs(20);
        let process = start(&launcher, dir.path(), "echo \"$0\"; echo error >&2; exit 7");
        assert_eq!(
            process.ends_within(limit).and_then(|status| status.code()),
            Some(7)
        );
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"it's $0\n");
        assert_eq!(fs::read(dir.path().join("err")).unwrap(), b"error\n");
        let process = start(&launcher, dir.path(), "exec sleep 1000");
        assert_eq!(process.ends_within(Duration::ZERO), None);
        process.signal(Signal::SIGKILL);
        let status = process.ends_within(limit).unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
        // What runs at the end does not outlive it.
        let left = start(&launcher, dir.path(), "exec sleep 1000");
        drop(launcher);
        assert!(!Path::new(&format!("/proc/{}", left.pid())).exists());
    }
}
