//! Tries at mount time whether this kernel can take names back, with a name that nobody else asks for.
//!
//! The name is answered by this program alone, never looked up, so that it need not be free and nothing stays behind. Kernels from 7.44 of the
//! protocol on can raise the epoch; some are reported not to take back that there is no such name.

use super::device::Device;
use super::view::KernelView;
use dfs_common::{FsResult, Ino, Name};
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than the trial takes.
const VALIDITY: Duration = Duration::from_secs(60);

/// What the kernel is tried with.
#[derive(Debug, Default)]
pub struct Trial {
    running: AtomicBool,
    /// The name, and how often the kernel has asked for it.
    name: Mutex<Option<(Name, u32)>>,
}

impl Trial {
    /// For how long there is no such name, if it is the one of the trial.
    pub fn answers(&self, directory: Ino, name: &Name) -> Option<Duration> {
        if directory != Ino::ROOT || !self.running.load(Ordering::Relaxed) {
            return None;
        }
        match &mut *self.name.lock() {
            Some((tried, asked)) if tried == name => {
                *asked += 1;
                Some(VALIDITY)
            }
            _ => None,
        }
    }

    fn begin(&self) -> FsResult<Name> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = format!(".dfs-trial-{}-{}", std::process::id(), now.as_nanos());
        let name = Name::new(text.into_bytes())?;
        *self.name.lock() = Some((name.clone(), 0));
        self.running.store(true, Ordering::SeqCst);
        Ok(name)
    }

    fn asked(&self) -> u32 {
        self.name.lock().as_ref().map_or(0, |(_, asked)| *asked)
    }

    fn end(&self) {
        self.running.store(false, Ordering::SeqCst);
        *self.name.lock() = None;
    }
}

/// Tries the kernel of the mount at `root`, and lets names be given as far as it takes them back. Blocks.
pub fn run(view: &KernelView, root: &Path) {
    let trial = view.trial();
    let Ok(name) = trial.begin() else {
        return;
    };
    // True if the kernel asked.
    let asks = || {
        let before = trial.asked();
        let _ = std::fs::symlink_metadata(root.join(OsStr::from_bytes(name.as_bytes())));
        trial.asked() != before
    };
    let outcome = attempt(view.device(), &name, asks);
    trial.end();
    match outcome {
        Some(absences) => {
            if !absences {
                tracing::info!(
                    "this kernel does not take back that a name is not there: it asks for those every time"
                );
            }
            view.below().look();
            view.permit_names(absences);
        }
        None => tracing::info!(
            "this kernel cannot be made to ask for every name again: it asks for names every time"
        ),
    }
}

/// `None` if the epoch cannot be raised; else whether absences are taken back.
fn attempt(device: &Device, name: &Name, asks: impl Fn() -> bool) -> Option<bool> {
    let is_asked_once = asks() && !asks();
    device.forget_all_names().ok()?;
    if !is_asked_once || !asks() {
        return None;
    }
    let remembered = !asks();
    let taken = device.forget_name(Ino::ROOT, name.as_bytes(), false).is_ok() && asks();
    // Nothing of it stays.
    device.forget_all_names().ok()?;
    Some(remembered && taken)
}
