//! A mounted cluster: one `dfs-mount --foreground` and its mount point.
//!
//! Invariant: a value of this type is usable when it is returned; dropped, it leaves neither process nor mount, whatever
//! state the daemon is in.

use super::base::{Base, detach, mounts_below};
use super::binaries::{Binaries, Program};
use super::command::tail;
use super::deadline::{start, until};
use super::launcher::{Launcher, Process};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// From start to the first answer.
const USABLE: Duration = Duration::from_secs(60);
/// From `umount` or SIGTERM to the end: everything unsaved is saved first.
const END: Duration = Duration::from_secs(120);
/// From SIGKILL to the end.
const KILL: Duration = Duration::from_secs(20);
/// Log shown when a test fails, in bytes.
const LOG_SHOWN: usize = 10_000;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// More arguments of `dfs-mount`, such as `-o ro`.
    pub args: Vec<String>,
}

/// A mount.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    log: PathBuf,
    coordinator: String,
    options: MountOptions,
    program: PathBuf,
    process: Option<Process>,
    launcher: Arc<Launcher>,
    // Last: the directory goes after the mount.
    _base: Arc<Base>,
}

impl Mount {
    pub(super) fn start(
        binaries: &Binaries,
        launcher: &Arc<Launcher>,
        base: &Arc<Base>,
        coordinator: &str,
        options: MountOptions,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("mount-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut mount = Mount {
            path: base.subdir(&name),
            log: base.path().join(format!("{name}.log")),
            coordinator: coordinator.to_owned(),
            options,
            program: binaries.path(Program::Mount),
            process: None,
            launcher: launcher.clone(),
            _base: base.clone(),
        };
        mount.mount();
        mount
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the daemon's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Everything the daemon logged, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Starts the daemon and waits until the root directory answers.
    fn mount(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        let mut words = vec![self.program.as_os_str(), OsStr::new("--coordinator")];
        words.extend([OsStr::new(&self.coordinator), OsStr::new("--foreground")]);
        words.extend(self.options.args.iter().map(OsStr::new));
        words.push(self.path.as_os_str());
        let process = self.launcher.start(&words, Path::new("/dev/null"), &self.log);
        self.process = Some(process);
        let outside = fs::metadata(self.path.parent().expect("a mount point is in a directory"));
        let outside = outside.expect("the test's directory is there").dev();
        let mut stat = None;
        until(&format!("usable mount: {}", self.path.display()), USABLE, || {
            if let Some(status) = self.running().status() {
                panic!("dfs-mount ended with {status}: {}", tail(&self.log(), LOG_SHOWN));
            }
            // A stat may hang until the daemon answers: it gets a thread of its own.
            let path = self.path.clone();
            let pending = stat.get_or_insert_with(|| start("stat of the root", move || fs::metadata(path)));
            if !pending.is_done() {
                return None;
            }
            let pending = stat.take().expect("just looked at");
            pending
                .wait(Duration::ZERO)
                .is_ok_and(|meta| meta.dev() != outside)
                .then_some(())
        });
    }

    /// Kills the daemon as a crash does; the mount point stays and answers ENOTCONN.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_killed();
    }

    /// Sends SIGKILL without waiting, so that several processes die at one moment.
    pub fn start_killing(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// The rest of [`Mount::start_killing`].
    pub fn wait_killed(&mut self) {
        let killed = self.process.take();
        let ended = killed.is_none_or(|process| process.ends_within(KILL).is_some());
        assert!(ended, "dfs-mount did not end after SIGKILL");
    }

    /// Suspends the daemon, as a machine that hangs. [`Mount::resume`] lets it go on.
    pub fn suspend(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGTERM: the daemon saves, unmounts and ends.
    ///
    /// # Panics
    /// When it does not end in time, or leaves the mount point.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_end()
    }

    /// `umount`, then waits for the daemon's end.
    ///
    /// # Panics
    /// When something still uses the mount, or the daemon does not end in time.
    pub fn unmount(&mut self) -> ExitStatus {
        let path = self.path.clone();
        // The kernel may wait for the daemon here.
        let unmounted = start("umount", move || umount2(&path, MntFlags::empty())).wait(END);
        unmounted.unwrap_or_else(|error| panic!("umount {}: {error}", self.path.display()));
        self.wait_end()
    }

    /// `umount -f`: ends every call that waits. The name stays while it is in use: see [`Mount::detach`].
    pub fn force(&self) {
        let path = self.path.clone();
        // EBUSY is usual: the calls are ended all the same.
        let _ = start("umount -f", move || umount2(&path, MntFlags::MNT_FORCE)).wait(END);
    }

    /// `umount -l`: the mount point is an ordinary directory again at once.
    pub fn detach(&self) {
        detach(&self.path);
    }

    /// Whether the kernel has something mounted here.
    pub fn is_mounted(&self) -> bool {
        mounts_below(&self.path).contains(&self.path)
    }

    /// Ends the daemon in good order if it runs, clears the mount point, and mounts the cluster again with nothing
    /// cached.
    ///
    /// # Panics
    /// When one of these fails.
    pub fn remount(&mut self) {
        if self.process.is_some() {
            let status = self.unmount();
            assert!(
                status.success(),
                "dfs-mount ended with {status}: {}",
                tail(&self.log(), LOG_SHOWN)
            );
        }
        if self.is_mounted() {
            self.detach();
        }
        drop_caches();
        self.mount();
    }

    /// Waits for the daemon's end by itself.
    ///
    /// # Panics
    /// When it does not end in time, or leaves the mount point.
    pub fn wait_end(&mut self) -> ExitStatus {
        let process = self.process.take().expect("the daemon runs");
        let status = process.ends_within(END);
        let status =
            status.unwrap_or_else(|| panic!("dfs-mount did not end: {}", tail(&self.log(), LOG_SHOWN)));
        assert!(
            !self.is_mounted(),
            "{} is still a mount point",
            self.path.display()
        );
        status
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the daemon runs")
    }

    fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of dfs-mount:\n{}", tail(&self.log(), LOG_SHOWN));
        }
        // The daemon first: its death ends every call that waits for it.
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            let _ = process.ends_within(KILL);
        }
        if self.is_mounted() {
            self.detach();
        }
        // Only an empty directory goes: never anything through a mount.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Drops clean pages, entries and inodes of the whole machine's cache; does nothing where that is not permitted.
pub fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}
