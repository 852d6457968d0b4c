//! The kernel's view of the file system: for how long it may answer from what it is given, and taking that back.
//!
//! The kernel answers by itself only from what this mount holds a lease on, and never for longer than the session's lease. Names are the hard
//! part: to take one back waits for the lock of its directory, which an operation of this mount may hold while it waits for another mount, whose
//! kernel may be in the same state. So a name is taken back by its directory's lock where that is free, and else by raising the
//! connection's *epoch*, which makes the kernel ask for every name and waits for nothing (docs/adr/0019-names-in-the-kernel.md).
//! Invariant: nothing here that may wait is called from the thread of a request.

use super::below::Below;
use super::device::Device;
use super::given::Given;
use super::trial::Trial;
use dfs_client::Client;
use dfs_common::attr::Attr;
use dfs_common::{FsResult, Ino, Name};
use nix::libc;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Names of one directory taken back one by one; above that all names of all directories are at once.
const NAMES_ONE_BY_ONE_MAX: usize = 1024;
/// How long a directory's lock is waited for before all names are taken back.
const LOCK_PATIENCE: Duration = Duration::from_millis(50);
/// Between two looks whether waiting for the lock is in vain.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Between two attempts to take back the attributes of an inode that the kernel is just getting to know.
const ARRIVAL: Duration = Duration::from_millis(1);

/// An inode for the kernel, and for how long it may answer from its attributes and from its name.
#[derive(Debug)]
pub struct Seen {
    /// Attributes.
    pub attr: Attr,
    /// They hold for this long.
    pub attr_valid: Duration,
    /// The name does.
    pub name_valid: Duration,
}

/// What it was given, and how to take it back.
pub struct KernelView {
    client: Client,
    device: Arc<Device>,
    given: Mutex<Given>,
    below: Below,
    /// Names may be given at all: this kernel can raise the epoch.
    names: AtomicBool,
    /// Also that there is no such name: this kernel takes those back.
    absences: AtomicBool,
    epochs: AtomicU64,
    trial: Trial,
}

impl KernelView {
    /// Over `client`; names are given from [`KernelView::permit_names`] on.
    pub fn new(client: Client, device: Device, below: Below) -> Self {
        KernelView {
            client,
            device: Arc::new(device),
            given: Mutex::default(),
            below,
            names: AtomicBool::new(false),
            absences: AtomicBool::new(false),
            epochs: AtomicU64::new(0),
            trial: Trial::default(),
        }
    }

    /// The name that the kernel is tried with.
    pub fn trial(&self) -> &Trial {
        &self.trial
    }

    /// From now on names are given, and that there is no such name if `absences`.
    pub fn permit_names(&self, absences: bool) {
        self.absences.store(absences, Ordering::SeqCst);
        self.names.store(true, Ordering::SeqCst);
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// What is mounted below.
    pub fn below(&self) -> &Below {
        &self.below
    }

    /// A name that was found, as the answer to a lookup.
    pub fn found(&self, directory: Ino, name: &Name, attr: Attr) -> Seen {
        let ino = attr.ino;
        self.given.lock().note_inode(ino, true, true);
        Seen {
            attr_valid: self.client.attributes_hold(&attr),
            name_valid: self.give_name(directory, name, Some(ino)),
            attr,
        }
    }

    /// A name that is not there; answers for how long that holds.
    pub fn absent(&self, directory: Ino, name: &Name) -> Duration {
        match self.absences.load(Ordering::Relaxed) {
            true => self.give_name(directory, name, None),
            false => Duration::ZERO,
        }
    }

    /// Something that was made, or is told with a change of it: the kernel takes the attributes of such an answer whatever it heard meanwhile, so that it
    /// must ask for them once more.
    pub fn made(&self, attr: Attr) -> Seen {
        self.given.lock().note_inode(attr.ino, true, false);
        Seen {
            attr,
            attr_valid: Duration::ZERO,
            name_valid: Duration::ZERO,
        }
    }

    /// Entries that a listing tells, which is with a reference to each.
    pub fn listed(&self, inos: &[Ino]) {
        let mut given = self.given.lock();
        inos.iter().for_each(|ino| given.note_inode(*ino, true, false));
    }

    /// Attributes, asked for by inode; answers for how long they hold.
    pub fn attributes(&self, attr: &Attr) -> Duration {
        self.given.lock().note_inode(attr.ino, false, true);
        self.client.attributes_hold(attr)
    }

    /// The kernel gave references back.
    pub fn forgotten(&self, ino: Ino, lookups: u64) {
        self.given.lock().forgotten(ino, lookups);
    }

    /// A change of names in `directories` begins; it ends with what is answered.
    pub fn naming(self: &Arc<Self>, directories: &[Ino]) -> Naming {
        let mut given = self.given.lock();
        directories.iter().for_each(|ino| given.begin_naming(*ino));
        Naming {
            view: self.clone(),
            directories: directories.to_vec(),
        }
    }

    fn give_name(&self, directory: Ino, name: &Name, ino: Option<Ino>) -> Duration {
        if !self.names.load(Ordering::Relaxed)
            || !self.below.is_clear()
            || !self.given.lock().note_name(directory, name, ino)
        {
            return Duration::ZERO;
        }
        let holds = self.client.name_holds(directory, name, ino);
        self.given.lock().give_name(directory, name, holds)
    }

    /// This mount changed the inode: answers about it that the kernel has not taken yet are old.
    pub fn changed(&self, ino: Ino) {
        let mut given = self.given.lock();
        if given.may_have_attributes(ino) {
            given.attributes_taken(ino);
            drop(given);
            if let Err(error) = self.device.forget_attributes(ino) {
                tracing::debug!(%ino, %error, "the kernel did not take a change of attributes");
            }
        }
    }

    /// This mount moved a name, and has not said so yet: the kernel will move what it has, with its validity.
    pub fn moved(&self, from: (Ino, &Name), to: (Ino, &Name), exchanged: bool) {
        let mut held = true;
        let before = {
            let given = self.given.lock();
            [given.name(from.0, from.1), given.name(to.0, to.1)]
        };
        let [moved, other] = before;
        held &= self.name_moves(moved, to);
        if exchanged {
            held &= self.name_moves(other, from);
        } else {
            self.given.lock().remove_name(from.0, from.1);
        }
        for (ino, _) in [moved, other].into_iter().flatten() {
            ino.into_iter().for_each(|ino| self.changed(ino));
        }
        if !held {
            // Nobody would take it back from where it goes: there is no lease on that directory.
            let mut given = self.given.lock();
            given.keep_quiet(from.0);
            given.keep_quiet(to.0);
            drop(given);
            self.raise_epoch("a name was moved to a directory without a lease");
        }
    }

    /// A name that the kernel has becomes `to`; false if that will not be taken back.
    fn name_moves(&self, moved: Option<(Option<Ino>, Instant)>, to: (Ino, &Name)) -> bool {
        let Some((Some(ino), until)) = moved else {
            return true;
        };
        if !self.given.lock().note_name(to.0, to.1, Some(ino)) {
            return false;
        }
        let holds = self.client.name_holds(to.0, to.1, Some(ino));
        let left = until.saturating_duration_since(Instant::now());
        let mut given = self.given.lock();
        match holds.is_zero() {
            true => {
                given.give_name(to.0, to.1, Duration::ZERO);
                false
            }
            false => !given.give_name(to.0, to.1, left).is_zero() || left.is_zero(),
        }
    }

    /// The lease on an inode was given up: takes back its attributes and, of a directory, its names.
    pub fn take_back(&self, ino: Ino) {
        self.take_back_attributes(ino);
        self.take_back_names(ino);
    }

    /// Takes attributes back, also those that are on their way to the kernel. May wait for the kernel.
    pub fn take_back_attributes(&self, ino: Ino) {
        loop {
            match self.device.forget_attributes(ino) {
                // It does not know the inode, and is not about to get to know it.
                Ok(false) if !self.given.lock().may_have_attributes(ino) => return,
                Ok(false) => std::thread::sleep(ARRIVAL),
                Ok(true) => break,
                Err(error) => {
                    tracing::debug!(%ino, %error, "the kernel did not take an invalidation of attributes");
                    break;
                }
            }
        }
    }

    fn take_back_names(&self, directory: Ino) {
        let names = self.given.lock().take_names(directory);
        if names.is_empty() {
            return;
        }
        if self.below.look() {
            // Names are not given any more; those that were before must not take a mount away.
            for name in names {
                self.forget_name(directory, &name, true);
            }
            return;
        }
        if names.len() > NAMES_ONE_BY_ONE_MAX {
            return self.raise_epoch("a directory has many names");
        }
        let (done, all_taken) = channel();
        let device = self.device.clone();
        let started = std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                let taken = names
                    .iter()
                    .all(|name| device.forget_name(directory, name.as_bytes(), false).is_ok());
                let _ = done.send(taken);
            });
        if let Err(error) = started {
            tracing::debug!(%error, "no thread for names");
        }
        let begun = Instant::now();
        loop {
            match all_taken.recv_timeout(LOOK_AGAIN) {
                Ok(true) => return,
                Err(RecvTimeoutError::Timeout)
                    if begun.elapsed() < LOCK_PATIENCE && !self.given.lock().is_naming(directory) => {}
                _ => return self.raise_epoch("a directory's lock is not free"),
            }
        }
    }

    fn forget_name(&self, directory: Ino, name: &Name, expire: bool) {
        if let Err(error) = self.device.forget_name(directory, name.as_bytes(), expire) {
            tracing::debug!(%directory, %error, "the kernel did not take an invalidation of a name");
        }
    }

    /// Makes the kernel ask for every name.
    fn raise_epoch(&self, why: &'static str) {
        // What is noted from here on was asked for after the epoch was raised, or is given for no time.
        let mut given = self.given.lock();
        let raised = self.device.forget_all_names();
        given.take_all_names();
        drop(given);
        let epochs = self.epochs.fetch_add(1, Ordering::Relaxed) + 1;
        match raised {
            Ok(()) => tracing::debug!(why, epochs, "the kernel asks for every name again"),
            Err(error) => tracing::debug!(why, %error, "the epoch was not raised"),
        }
    }

    /// Every lease was lost: takes everything back. Waits for what cannot be taken back to end by itself.
    pub fn take_back_everything(&self) {
        if self.below.look() {
            let until = self.given.lock().take_all_names();
            let left = until.map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(Instant::now())
            });
            std::thread::sleep(left);
        } else {
            self.raise_epoch("every lease was lost");
        }
        let inodes = self.given.lock().with_attributes();
        for ino in inodes {
            self.take_back_attributes(ino);
        }
    }
}

/// A change of names that is under way. Its end makes answers about the directories old that the kernel has not taken yet.
pub struct Naming {
    view: Arc<KernelView>,
    directories: Vec<Ino>,
}

impl Naming {
    /// Passes its outcome on. One that is not known is one that nobody recalls: the kernel asks for the names.
    pub fn settled<T>(&self, outcome: FsResult<T>) -> FsResult<T> {
        if let Err(error) = &outcome
            && (error.kind().is_retryable() || error.errno() == libc::EIO)
        {
            self.view
                .raise_epoch("the outcome of a change of names is not known");
        }
        outcome
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        for ino in &self.directories {
            self.view.given.lock().end_naming(*ino);
            self.view.changed(*ino);
        }
    }
}
