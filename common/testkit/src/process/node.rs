//! One server process: a coordinator or a datanode with its data directory, address and log.
//!
//! Invariant: a node that is started again has the address and the data it had; it counts as running only after it
//! said that it is ready.

use super::binaries::{Binaries, Program};
use super::command::tail;
use super::deadline::until;
use super::launcher::{Launcher, Process};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// From start to the ready line.
const READY: Duration = Duration::from_secs(60);
/// From SIGTERM to the end; the server itself allows 30 s.
const STOP: Duration = Duration::from_secs(45);
/// From SIGKILL to the end.
const KILL: Duration = Duration::from_secs(20);
/// Below the range from which the kernel takes ports of outgoing connections, so that a stopped node's port stays free.
const PORTS: std::ops::Range<u16> = 15_000..31_000;
/// Free ports tried before giving up.
const PORT_ATTEMPTS: usize = 20;

/// A server process and what it leaves when it stops. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    /// Arguments before `--data`.
    role: Vec<String>,
    program: PathBuf,
    launcher: Arc<Launcher>,
    dir: PathBuf,
    data: PathBuf,
    address: Option<String>,
    process: Option<Process>,
    /// Of the next start.
    failpoint: Option<String>,
}

impl Node {
    /// A node that has not been started; `dir` holds its log and its data.
    pub(super) fn new(
        binaries: &Binaries,
        launcher: &Arc<Launcher>,
        name: &str,
        dir: PathBuf,
        role: Vec<String>,
    ) -> Self {
        let data = dir.join("data");
        Node {
            name: name.to_owned(),
            role,
            program: binaries.path(Program::Server),
            launcher: launcher.clone(),
            dir,
            data,
            address: None,
            process: None,
            failpoint: None,
        }
    }

    /// Its name: `coordinator`, `datanode-1`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// `HOST:PORT` it has had since its first start.
    ///
    /// # Panics
    /// When it was never started.
    pub fn address(&self) -> &str {
        self.address.as_deref().expect("the node was started")
    }

    /// The id of its process while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Everything it logged, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap_or_default()).into_owned()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already, ends instead or is not ready in time, with the end of its log.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        for _ in 0..PORT_ATTEMPTS {
            let listen = self.address.clone().unwrap_or_else(free_address);
            let before = self.log().len();
            let process = self.launch(&listen);
            match self.ready(&process) {
                Some(address) => {
                    assert_eq!(address, listen, "{} listens where it was told to", self.name);
                    self.address = Some(address);
                    self.process = Some(process);
                    return;
                }
                None => {
                    let log = self.log();
                    // A stranger may have taken the port since it was found free.
                    let taken = self.address.is_none() && log[before.min(log.len())..].contains("in use");
                    assert!(taken, "{} did not start: {}", self.name, tail(&log, 4000));
                }
            }
        }
        panic!("{}: no free port in {PORT_ATTEMPTS} attempts", self.name);
    }

    /// Starts it such that it dies when it reaches this failpoint for the `count`-th time; it may die before it is ready.
    ///
    /// # Panics
    /// When it was never started, or runs already.
    pub fn start_armed(&mut self, failpoint: &str, count: u32) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        self.failpoint = Some(format!("DFS_FAILPOINT={failpoint}:{count}"));
        let listen = self.address().to_owned();
        let process = self.launch(&listen);
        self.failpoint = None;
        self.ready(&process);
        self.process = Some(process);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.process
            .as_ref()
            .is_none_or(|process| process.status().is_some())
    }

    /// It has ended by itself, or does so in time: how.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub fn wait_ended(&mut self, limit: Duration) -> ExitStatus {
        let status = self.running().ends_within(limit);
        let status =
            status.unwrap_or_else(|| panic!("{} did not end: {}", self.name, tail(&self.log(), 4000)));
        self.process = None;
        status
    }

    /// Kills it as a crash does.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_killed();
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let status = self.running().ends_within(STOP);
        self.process = None;
        status.unwrap_or_else(|| panic!("{} did not stop: {}", self.name, tail(&self.log(), 4000)))
    }

    /// Suspends it, as a machine that hangs; SIGCONT lets it go on.
    pub fn suspend(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn running(&self) -> &Process {
        self.process
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    pub(super) fn wait_killed(&mut self) {
        if let Some(process) = self.process.take() {
            let ended = process.ends_within(KILL).is_some();
            assert!(ended, "{} did not end after SIGKILL", self.name);
        }
    }

    fn launch(&self, listen: &str) -> Process {
        let ready = self.dir.join("ready");
        // What an earlier start said does not count.
        let _ = fs::remove_file(&ready);
        let mut words = Vec::new();
        if let Some(failpoint) = &self.failpoint {
            words.extend([OsStr::new("env"), OsStr::new(failpoint)]);
        }
        words.push(self.program.as_os_str());
        words.extend(self.role.iter().map(OsStr::new));
        words.extend([OsStr::new("--data"), self.data.as_os_str()]);
        words.extend([OsStr::new("--listen"), OsStr::new(listen)]);
        self.launcher.start(&words, &ready, &self.dir.join("log"))
    }

    /// The address of its ready line; `None` when it ended instead.
    fn ready(&self, process: &Process) -> Option<String> {
        let what = format!("ready line of {}", self.name);
        until(&what, READY, || {
            let text = fs::read_to_string(self.dir.join("ready")).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                let address = line.strip_prefix("listening on ");
                return Some(Some(
                    address.unwrap_or_else(|| panic!("{what}: {line:?}")).to_owned(),
                ));
            }
            process.status().map(|_| None)
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            let _ = process.ends_within(KILL);
        }
    }
}

/// An address of the loopback device on which nothing listens now.
fn free_address() -> String {
    let span = PORTS.end - PORTS.start;
    let address = (0..1000).map(|_| format!("127.0.0.1:{}", PORTS.start + rand::random::<u16>() % span));
    let mut free = address.filter(|address| TcpListener::bind(address).is_ok());
    free.next().expect("a port is free")
}
