//! A program of its own that takes a lock and holds it, or waits for it.

use super::LIMIT;
use dfs_testkit::process::{Pending, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

const PROGRAM: &str = "
import fcntl, os, signal, sys
path, call, kind, mode = sys.argv[1:5]
signal.signal(signal.SIGUSR1, lambda *_: (_ for _ in ()).throw(InterruptedError()))
file = os.open(path, os.O_RDWR if mode == 'rw' else os.O_RDONLY)
try:
    getattr(fcntl, call)(file, {'sh': fcntl.LOCK_SH, 'ex': fcntl.LOCK_EX}[kind])
    print('held', flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
sys.stdin.readline()
";

/// The program.
pub struct Holder {
    child: Child,
    said: Option<Pending<String>>,
}

impl Holder {
    /// Asks with `call` (`flock` or `lockf`) for a lock of `kind` (`sh` or `ex`), waiting for it; `mode` is how it opens the file, `rw` or `r`.
    pub fn start(path: &Path, call: &str, kind: &str, mode: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(path).args([call, kind, mode]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let said = start("a word of the holder", move || {
            let mut line = String::new();
            out.read_line(&mut line).unwrap();
            line.trim().to_owned()
        });
        Holder {
            child,
            said: Some(said),
        }
    }

    /// What its call came to: `held`, or the exception's name.
    pub fn outcome(&mut self) -> String {
        self.said.take().unwrap().wait(LIMIT)
    }

    /// True while its call has not returned.
    pub fn waits(&mut self) -> bool {
        !self.said.as_mut().unwrap().is_done()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, in a thread: one that hangs in the kernel fails the test.
    pub fn ended(mut self) -> ExitStatus {
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        start("the end of the holder", move || child.wait().unwrap()).wait(LIMIT)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
