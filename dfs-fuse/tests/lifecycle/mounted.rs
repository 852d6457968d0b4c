//! A daemon in the background, found again by its mount point.

use super::LIMIT;
use dfs_testkit::process::{Finished, ProcessCluster, Program, attempt, until};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mount point with whatever daemon serves it. Dropped, neither is left.
pub struct Daemon {
    path: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// An empty directory to mount at; nothing is started.
    pub fn none(cluster: &ProcessCluster, name: &str) -> Self {
        Daemon {
            path: cluster.base().subdir(name),
            log: cluster.base().path().join(format!("{name}.log")),
        }
    }

    /// The command that mounts here, in the background.
    pub fn command(&self, cluster: &ProcessCluster) -> Command {
        let mut command = cluster.binaries().command(Program::Mount);
        command.args(["--coordinator", cluster.coordinator(), "--log"]);
        command.arg(&self.log);
        command
    }

    /// Runs the command with more arguments, to its end.
    pub fn attempt(&self, cluster: &ProcessCluster, args: &[&str]) -> Finished {
        attempt(self.command(cluster).args(args).arg(&self.path), LIMIT)
    }

    /// Mounts; the command must succeed.
    #[track_caller]
    pub fn start(cluster: &ProcessCluster, name: &str, args: &[&str]) -> Self {
        let daemon = Daemon::none(cluster, name);
        daemon.start_again(cluster, args);
        daemon
    }

    /// As [`Daemon::start`], here.
    #[track_caller]
    pub fn start_again(&self, cluster: &ProcessCluster, args: &[&str]) {
        let finished = self.attempt(cluster, args);
        assert!(
            finished.status.success(),
            "{} {}",
            finished.describe(),
            self.log()
        );
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Line of the mount table, if it is mounted.
    pub fn mounted(&self) -> Option<String> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let path = self.path.to_str().unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(1) == Some(path));
        line.map(str::to_owned)
    }

    /// The processes that have this mount point in their command line and still run.
    pub fn processes(&self) -> Vec<Pid> {
        let is_ours = |dir: &Path| {
            let line = fs::read(dir.join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            program.ends_with(b"/dfs-mount") && words.any(|word| word == self.path.as_os_str().as_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|entry| is_ours(&entry.path()))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw)
            .collect()
    }

    /// The one process that serves it.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let processes = self.processes();
        assert_eq!(processes.len(), 1, "one process serves the mount: {processes:?}");
        processes[0]
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until no process serves it.
    #[track_caller]
    pub fn wait_end(&self) {
        until("end of the daemon", LIMIT, || {
            self.processes().is_empty().then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of dfs-mount:\n{}", self.log());
        }
        for process in self.processes() {
            let _ = kill(process, Signal::SIGKILL);
        }
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
