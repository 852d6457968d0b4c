//! What the kernel was given and may answer from by itself: names of directories and attributes of inodes, each for a time.
//!
//! Something is noted *before* its validity is asked for and before it is sent. A recall is obeyed in the opposite order: first the client knows
//! nothing any more, then what is noted is taken back. So either the validity comes out as none, or what is noted is found. Bounded by
//! [`NAMES_MAX`] and, for inodes, by what the kernel remembers (it tells what it forgot).

use dfs_common::limits::SESSION_LEASE;
use dfs_common::{Ino, Name};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Names that the kernel may have at the same time; above it they are given for no time.
const NAMES_MAX: usize = 1 << 18;
/// Directories whose names were taken back lately that are remembered; above it no names are given until some are old.
const QUIET_MAX: usize = 1 << 14;
/// After its names were taken back a directory's names are given for no time for this long: several mounts work there.
pub const QUIET: Duration = Duration::from_secs(10);
/// Between two looks for what is over.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct GivenName {
    /// `None`: there is no such name.
    ino: Option<Ino>,
    /// The latest end of what was given.
    until: Option<Instant>,
    /// Answers under way.
    pending: u32,
}

#[derive(Debug, Default)]
struct GivenInode {
    /// References of the kernel: entries that it was sent less those that it forgot.
    lookups: u64,
    /// The latest end of attributes that it was given, or may have been.
    until: Option<Instant>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Given {
    inodes: HashMap<Ino, GivenInode>,
    directories: HashMap<Ino, HashMap<Name, GivenName>>,
    names: usize,
    swept: Option<Instant>,
    quiet: HashMap<Ino, Instant>,
    /// Changes of names by this mount that are under way, for each directory: the kernel holds its lock, alone.
    naming: HashMap<Ino, u32>,
}

impl Given {
    /// A name is about to be given. False: give it for no time.
    pub fn note_name(&mut self, directory: Ino, name: &Name, ino: Option<Ino>) -> bool {
        let now = Instant::now();
        if self.names >= NAMES_MAX || self.quiet.len() >= QUIET_MAX {
            self.sweep(now);
        }
        let is_quiet = self.quiet.get(&directory).is_some_and(|until| *until > now);
        if is_quiet || self.names >= NAMES_MAX || self.quiet.len() >= QUIET_MAX {
            return false;
        }
        let names = self.directories.entry(directory).or_default();
        let before = names.len();
        let given = names.entry(name.clone()).or_insert(GivenName {
            ino,
            until: None,
            pending: 0,
        });
        given.ino = ino;
        given.pending += 1;
        self.names += names.len() - before;
        true
    }

    /// It is given for `validity`; answers for how long it may be: not at all if it was taken back meanwhile.
    pub fn give_name(&mut self, directory: Ino, name: &Name, validity: Duration) -> Duration {
        let Some(given) = self
            .directories
            .get_mut(&directory)
            .and_then(|names| names.get_mut(name))
        else {
            return Duration::ZERO;
        };
        given.pending = given.pending.saturating_sub(1);
        if !validity.is_zero() {
            given.until = given.until.max(Some(Instant::now() + validity));
        } else if given.pending == 0 && given.until.is_none() {
            self.remove_name(directory, name);
        }
        validity
    }

    /// What a name was given as that the kernel may still have, and until when.
    pub fn name(&self, directory: Ino, name: &Name) -> Option<(Option<Ino>, Instant)> {
        let now = Instant::now();
        let given = self.directories.get(&directory)?.get(name)?;
        match given.pending > 0 {
            true => Some((given.ino, now + SESSION_LEASE)),
            false => given
                .until
                .filter(|until| *until > now)
                .map(|until| (given.ino, until)),
        }
    }

    /// The kernel's name is another one's now, or gone.
    pub fn remove_name(&mut self, directory: Ino, name: &Name) {
        if let Some(names) = self.directories.get_mut(&directory) {
            self.names -= usize::from(names.remove(name).is_some());
            if names.is_empty() {
                self.directories.remove(&directory);
            }
        }
    }

    /// The names of a directory that the kernel may have. They count as taken back, and new ones are given for no time for a while.
    pub fn take_names(&mut self, directory: Ino) -> Vec<Name> {
        let now = Instant::now();
        let Some(names) = self.directories.remove(&directory) else {
            return Vec::new();
        };
        self.names -= names.len();
        let names: Vec<Name> = names
            .into_iter()
            .filter(|(_, given)| given.pending > 0 || given.until.is_some_and(|until| until > now))
            .map(|(name, _)| name)
            .collect();
        if !names.is_empty() {
            self.keep_quiet(directory);
        }
        names
    }

    /// Names of a directory are given for no time for a while.
    pub fn keep_quiet(&mut self, directory: Ino) {
        self.quiet.insert(directory, Instant::now() + QUIET);
    }

    /// Every name counts as taken back. Answers until when the kernel may have one that was not.
    pub fn take_all_names(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.names = 0;
        let names = std::mem::take(&mut self.directories);
        names
            .into_values()
            .flat_map(HashMap::into_values)
            .filter_map(|given| match given.pending > 0 {
                true => Some(now + SESSION_LEASE),
                false => given.until.filter(|until| *until > now),
            })
            .max()
    }

    /// An inode is about to be sent, with a reference or without, and with attributes that may hold or not.
    pub fn note_inode(&mut self, ino: Ino, reference: bool, attributes: bool) {
        let given = self.inodes.entry(ino).or_default();
        given.lookups += u64::from(reference);
        if attributes {
            given.until = Some(Instant::now() + SESSION_LEASE);
        }
    }

    /// The kernel gave references back.
    pub fn forgotten(&mut self, ino: Ino, lookups: u64) {
        if let Some(given) = self.inodes.get_mut(&ino) {
            given.lookups = given.lookups.saturating_sub(lookups);
            if given.lookups == 0 {
                self.inodes.remove(&ino);
                // Names of a directory hold on to it.
                if let Some(names) = self.directories.remove(&ino) {
                    self.names -= names.len();
                }
            }
        }
    }

    /// True if the kernel has or will have the inode, with attributes that may hold.
    pub fn may_have_attributes(&self, ino: Ino) -> bool {
        let given = self.inodes.get(&ino);
        given.is_some_and(|given| given.until.is_some_and(|until| until > Instant::now()))
    }

    /// Its attributes were taken back.
    pub fn attributes_taken(&mut self, ino: Ino) {
        if let Some(given) = self.inodes.get_mut(&ino) {
            given.until = None;
        }
    }

    /// Inodes whose attributes the kernel may have.
    pub fn with_attributes(&self) -> Vec<Ino> {
        let now = Instant::now();
        let live = |given: &GivenInode| given.until.is_some_and(|until| until > now);
        let inodes = self.inodes.iter().filter(|(_, given)| live(given));
        inodes.map(|(ino, _)| *ino).collect()
    }

    /// A change of names in a directory begins.
    pub fn begin_naming(&mut self, directory: Ino) {
        *self.naming.entry(directory).or_insert(0) += 1;
    }

    /// It ended.
    pub fn end_naming(&mut self, directory: Ino) {
        if let Some(count) = self.naming.get_mut(&directory) {
            *count -= 1;
            if *count == 0 {
                self.naming.remove(&directory);
            }
        }
    }

    /// True between the two.
    pub fn is_naming(&self, directory: Ino) -> bool {
        self.naming.contains_key(&directory)
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now.duration_since(at) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.quiet.retain(|_, until| *until > now);
        for names in self.directories.values_mut() {
            names.retain(|_, given| given.pending > 0 || given.until.is_some_and(|until| until > now));
        }
        self.directories.retain(|_, names| !names.is_empty());
        self.names = self.directories.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Ino = Ino(7);
    const LONG: Duration = Duration::from_secs(9);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn name_under_way_is_taken_back_and_then_given_for_no_time() {
        let mut given = Given::default();
        assert!(given.note_name(D, &name("a"), Some(Ino(8))));
        assert_eq!(given.take_names(D), [name("a")]);
        assert_eq!(given.give_name(D, &name("a"), LONG), Duration::ZERO);
        assert!(
            !given.note_name(D, &name("a"), Some(Ino(8))),
            "it was taken back just now"
        );
        assert_eq!(given.names, 0);
    }

    #[test]
    fn name_given_for_no_time_leaves_nothing_and_takes_nothing_from_an_earlier_one() {
        let mut given = Given::default();
        given.note_name(D, &name("a"), None);
        assert_eq!(given.give_name(D, &name("a"), Duration::ZERO), Duration::ZERO);
        assert_eq!((given.names, given.directories.len()), (0, 0));
        assert!(given.take_names(D).is_empty());
        for validity in [LONG, Duration::ZERO] {
            assert!(given.note_name(D, &name("a"), None));
            given.give_name(D, &name("a"), validity);
        }
        assert!(given.name(D, &name("a")).is_some());
        assert_eq!(given.take_names(D), [name("a")]);
    }

    #[test]
    fn all_names_are_taken_with_the_last_end() {
        let mut given = Given::default();
        assert_eq!(given.take_all_names(), None);
        for (directory, seconds) in [(D, 3), (Ino(9), 9)] {
            given.note_name(directory, &name("a"), None);
            given.give_name(directory, &name("a"), Duration::from_secs(seconds));
        }
        let end = given.take_all_names().unwrap();
        assert!(end > Instant::now() + Duration::from_secs(8));
        assert_eq!((given.names, given.take_all_names()), (0, None));
    }

    #[test]
    fn inode_is_known_until_every_reference_came_back() {
        let mut given = Given::default();
        given.note_inode(D, true, true);
        given.note_inode(D, true, false);
        given.note_name(D, &name("a"), None);
        given.give_name(D, &name("a"), LONG);
        given.forgotten(D, 1);
        assert!(given.may_have_attributes(D));
        given.attributes_taken(D);
        assert!(!given.may_have_attributes(D) && given.with_attributes().is_empty());
        given.note_inode(D, false, true);
        assert_eq!(given.with_attributes(), [D]);
        given.forgotten(D, 1);
        assert!(given.inodes.is_empty() && given.directories.is_empty());
        assert_eq!(given.names, 0);
    }

    #[test]
    fn changes_of_names_are_counted_for_each_directory() {
        let mut given = Given::default();
        given.begin_naming(D);
        given.begin_naming(D);
        given.end_naming(D);
        assert!(given.is_naming(D) && !given.is_naming(Ino(1)));
        given.end_naming(D);
        assert!(!given.is_naming(D));
    }

    #[test]
    fn names_are_bounded_and_swept() {
        let mut given = Given::default();
        for number in 0..NAMES_MAX {
            assert!(given.note_name(D, &name(&number.to_string()), None));
            given.give_name(D, &name(&number.to_string()), Duration::from_nanos(1));
        }
        assert!(given.note_name(D, &name("more"), None), "what is over makes room");
        assert_eq!(given.names, 1);
    }
}
