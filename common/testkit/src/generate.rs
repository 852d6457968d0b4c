//! Random sequences of calls, made beside a model so that most of them mean something.
//!
//! A sequence is determined by its seed, its length, the profile and the rules. Its calls name concrete paths and slots, and
//! no slot is used twice: a sequence from which calls were dropped is still a sequence, which is what shrinking needs.

use crate::call::{Call, FsPath, OpenHow, Outcome, Slot, Target};
use crate::model::{Model, Rules};
use dfs_common::Quota;
use dfs_common::attr::{FileKind, SetTime, Timestamp};
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::session::Caller;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::fmt;

/// How much of a call is shown.
const CALL_CHARS_MAX: usize = 300;

/// One call and who makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// On whose behalf.
    pub who: Caller,
    /// What.
    pub call: Call,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caller { uid, gid, groups } = &self.who;
        let call = format!("{:?}", self.call);
        let shown = call
            .char_indices()
            .nth(CALL_CHARS_MAX)
            .map_or(&call[..], |(end, _)| &call[..end]);
        let more = if shown.len() < call.len() { " ..." } else { "" };
        write!(f, "[{uid}:{gid} {groups:?}] {shown}{more}")
    }
}

/// What a sequence is made of.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Who calls; the first one does so most often.
    pub callers: Vec<Caller>,
    /// Largest file, in bytes.
    pub file_bytes_max: u64,
    /// Largest write, in bytes.
    pub write_bytes_max: u32,
    /// Files open at a time.
    pub slots_max: usize,
    /// Names in the tree; above it removals become frequent.
    pub names_max: usize,
    /// Deepest directory.
    pub depth_max: usize,
    /// Share of calls on open files, in percent.
    pub file_percent: u32,
    /// Share of calls that set a directory's quota, in percent; only for targets that have quotas.
    pub quota_percent: u32,
}

impl Profile {
    /// Everything, by root and three users who share some groups.
    pub fn full() -> Self {
        let caller = |uid, gid, groups: &[u32]| Caller {
            uid,
            gid,
            groups: groups.to_vec(),
        };
        Profile {
            callers: vec![
                Caller::root(),
                caller(1001, 1001, &[3000]),
                caller(1002, 1002, &[1001, 3000]),
                caller(1003, 1003, &[]),
            ],
            file_bytes_max: 600_000,
            write_bytes_max: 150_000,
            slots_max: 12,
            names_max: 40,
            depth_max: 6,
            file_percent: 40,
            quota_percent: 0,
        }
    }
    /// Only root calls: for processes without the right to take on other users.
    pub fn root_only() -> Self {
        Profile {
            callers: vec![Caller::root()],
            ..Profile::full()
        }
    }
    /// Mostly reads, writes and truncations of a few files.
    pub fn files() -> Self {
        Profile {
            file_percent: 85,
            names_max: 12,
            file_bytes_max: 2_000_000,
            ..Profile::full()
        }
    }
    /// Everything, by root, below quotas that are nearly full: set, changed and cleared all the time. Small files, so that many fit.
    pub fn quotas() -> Self {
        Profile {
            file_bytes_max: 30_000,
            write_bytes_max: 9_000,
            names_max: 30,
            depth_max: 4,
            file_percent: 45,
            quota_percent: 5,
            ..Profile::root_only()
        }
    }
    /// Names, attributes and permissions, hardly any content.
    pub fn names() -> Self {
        Profile {
            file_percent: 10,
            ..Profile::full()
        }
    }
}

/// The sequence of `seed`.
pub fn sequence(seed: u64, length: usize, profile: &Profile, rules: Rules) -> Vec<Step> {
    let mut generator = Generator {
        rng: StdRng::seed_from_u64(seed),
        model: Model::new(rules),
        profile: profile.clone(),
        next_slot: 0,
    };
    (0..length).map(|_| generator.step()).collect()
}

struct Generator {
    rng: StdRng,
    model: Model,
    profile: Profile,
    next_slot: Slot,
}

impl Generator {
    fn step(&mut self) -> Step {
        let who = match self.rng.random_range(0..10) {
            0..5 => self.profile.callers[0].clone(),
            _ => self
                .profile
                .callers
                .choose(&mut self.rng)
                .expect("a profile has callers")
                .clone(),
        };
        let call = loop {
            let call = match self.rng.random_range(0..100) {
                at if at < self.profile.file_percent => self.file_call(),
                at if at >= 100 - self.profile.quota_percent => self.quota(),
                _ => self.name_call(),
            };
            if self.model.defines(&call) {
                break call;
            }
        };
        self.model.call(&who, &call);
        Step { who, call }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    // Names and paths.

    fn name(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..40) {
            0 => vec![b'L'; 255],
            1 => vec![b'M'; 256],
            2 => b"\xff\xfe\x80".to_vec(),
            3 => "žluťoučký".as_bytes().to_vec(),
            4 => b" spaces\nand\\more".to_vec(),
            n => vec![b'a' + (n % 13) as u8],
        }
    }

    fn existing(&mut self, wanted: impl Fn(FileKind) -> bool) -> Option<FsPath> {
        let paths = self.model.paths();
        let fitting: Vec<_> = paths
            .into_iter()
            .filter(|(path, kind)| !path.0.is_empty() && wanted(*kind))
            .collect();
        fitting.choose(&mut self.rng).map(|(path, _)| path.clone())
    }

    fn directory(&mut self) -> FsPath {
        let mut directories = self.model.directories();
        let depth_max = self.profile.depth_max;
        directories.retain(|path| path.0.len() < depth_max);
        directories.choose(&mut self.rng).cloned().unwrap_or_default()
    }

    /// A name that may or may not exist; now and then below something that is no directory or is not there.
    fn some_child(&mut self) -> FsPath {
        let parent = match self.rng.random_range(0..30) {
            0 => self
                .existing(|kind| kind != FileKind::Directory)
                .unwrap_or_default(),
            1 => self.directory().child(b"missing"),
            _ => self.directory(),
        };
        let name = self.name();
        parent.child(&name)
    }

    /// Mostly something of the wanted kind.
    fn some(&mut self, wanted: impl Fn(FileKind) -> bool) -> FsPath {
        match self.rng.random_range(0..12) {
            0 => self.some_child(),
            1 => self.existing(|_| true).unwrap_or_default(),
            _ => match self.existing(wanted) {
                Some(path) => path,
                None => self.some_child(),
            },
        }
    }

    /// Something, and sometimes the root.
    fn anything(&mut self) -> FsPath {
        if self.one_in(15) {
            FsPath::default()
        } else {
            self.some(|_| true)
        }
    }

    fn mode(&mut self) -> u32 {
        match self.rng.random_range(0..8) {
            0 => self.rng.random_range(0..0o10000),
            1 => 0o1777,
            2 => 0o2775,
            3 => 0o6755,
            4 => 0o750,
            _ => 0o777 & !(self.rng.random_range(0..0o100) & self.rng.random_range(0..0o100)),
        }
    }

    // Calls.

    fn name_call(&mut self) -> Call {
        let full = self.model.paths().len() > self.profile.names_max;
        match self.rng.random_range(0..if full { 150 } else { 100 }) {
            0..10 => Call::Mkdir {
                path: self.some_child(),
                mode: self.mode(),
            },
            10..16 => self.mknod(),
            16..21 => self.symlink(),
            21..29 => Call::Link {
                from: self.some(|kind| kind != FileKind::Directory),
                to: self.some_child(),
            },
            29..36 => Call::Unlink {
                path: self.some(|kind| kind != FileKind::Directory),
            },
            36..40 => Call::Rmdir {
                path: self.some(|kind| kind == FileKind::Directory),
            },
            40..54 => self.rename(),
            54..58 => Call::Stat {
                path: self.anything(),
            },
            58..60 => Call::Readlink {
                path: self.some(|kind| kind == FileKind::Symlink),
            },
            60..64 => self.readdir(),
            64..71 => Call::Chmod {
                path: self.anything(),
                mode: self.mode(),
            },
            71..76 => self.chown(),
            76..79 => self.truncate(),
            79..85 => self.utimens(),
            85..100 => self.xattr(),
            100..130 => Call::Unlink {
                path: self.some(|kind| kind != FileKind::Directory),
            },
            _ => Call::Rmdir {
                path: self.some(|kind| kind == FileKind::Directory),
            },
        }
    }

    fn mknod(&mut self) -> Call {
        let kinds = [
            FileKind::File,
            FileKind::Fifo,
            FileKind::Socket,
            FileKind::CharDevice,
            FileKind::BlockDevice,
        ];
        let kind = *kinds.choose(&mut self.rng).expect("not empty");
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let rdev = if device {
            0x0703 + self.rng.random_range(0..3) * 0x10_0000
        } else {
            0
        };
        Call::Mknod {
            path: self.some_child(),
            kind,
            mode: self.mode(),
            rdev,
        }
    }

    fn symlink(&mut self) -> Call {
        let target = match self.rng.random_range(0..4) {
            0 => vec![b't'; self.rng.random_range(1..1000)],
            1 => b"dangling/\xff".to_vec(),
            _ => self.existing(|_| true).unwrap_or_default().relative(),
        };
        Call::Symlink {
            path: self.some_child(),
            target,
        }
    }

    fn readdir(&mut self) -> Call {
        let path = if self.one_in(4) {
            self.anything()
        } else {
            self.directory()
        };
        Call::Readdir { path }
    }

    fn rename(&mut self) -> Call {
        let from = self.some(|_| true);
        let to = match self.rng.random_range(0..3) {
            0 => self.some(|_| true),
            _ => self.some_child(),
        };
        let mode = match self.rng.random_range(0..5) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        // Two existing names, mostly, where both must exist.
        let to = if mode == RenameMode::Exchange && !self.one_in(4) {
            self.some(|_| true)
        } else {
            to
        };
        Call::Rename { from, to, mode }
    }

    fn id(&mut self, group: bool) -> Option<u32> {
        let ids: Vec<u32> = match group {
            true => self
                .profile
                .callers
                .iter()
                .flat_map(|c| c.groups.iter().copied().chain([c.gid]))
                .collect(),
            false => self.profile.callers.iter().map(|c| c.uid).collect(),
        };
        if self.one_in(3) {
            None
        } else {
            ids.choose(&mut self.rng).copied()
        }
    }

    fn chown(&mut self) -> Call {
        Call::Chown {
            path: self.anything(),
            uid: self.id(false),
            gid: self.id(true),
        }
    }

    fn truncate(&mut self) -> Call {
        Call::Truncate {
            path: self.some(|kind| kind == FileKind::File),
            size: self.size(0),
        }
    }

    fn time(&mut self) -> Option<SetTime> {
        match self.rng.random_range(0..5) {
            0 => None,
            1 | 2 => Some(SetTime::Now),
            _ => Some(SetTime::At(Timestamp {
                secs: self.rng.random_range(-1_000_000..2_000_000_000),
                nanos: self.rng.random_range(0..1_000_000_000),
            })),
        }
    }

    fn utimens(&mut self) -> Call {
        let atime = self.time();
        let mtime = if self.one_in(3) { atime } else { self.time() };
        Call::Utimens {
            path: self.anything(),
            atime,
            mtime,
        }
    }

    fn xattr_name(&mut self) -> Vec<u8> {
        let name: &[u8] = match self.rng.random_range(0..20) {
            0 => b"unknown.x",
            1 => b"user.\xc3\xa9\xff",
            2..5 => b"trusted.t",
            5..9 => b"user.b",
            _ => b"user.a",
        };
        name.to_vec()
    }

    fn xattr(&mut self) -> Call {
        let path = match self.one_in(5) {
            true => self.anything(),
            false => self.some(|kind| matches!(kind, FileKind::File | FileKind::Directory)),
        };
        let (mut path, mut name) = (path, self.xattr_name());
        let what = self.rng.random_range(0..8);
        if what >= 3
            && !self.one_in(4)
            && let Some(there) = self.model.attributes().choose(&mut self.rng)
        {
            (path, name) = there.clone();
        }
        match what {
            0..4 => {
                let value = vec![self.rng.random(); self.rng.random_range(0..120)];
                let modes = [
                    XattrMode::Set,
                    XattrMode::Set,
                    XattrMode::Create,
                    XattrMode::Replace,
                ];
                let mode = *modes.choose(&mut self.rng).expect("not empty");
                Call::Setxattr {
                    path,
                    name,
                    value,
                    mode,
                }
            }
            4 | 5 => Call::Getxattr { path, name },
            6 => Call::Listxattr { path },
            _ => Call::Removexattr { path, name },
        }
    }

    /// Mostly a limit a little above what there is, sometimes one below, or none.
    fn quota(&mut self) -> Call {
        let path = match self.one_in(12) {
            true => self.some(|_| true),
            false => self.directory(),
        };
        let (bytes, inodes) = self.model.used(&path);
        let mut limit = |used: u64, room: u64| match self.rng.random_range(0..10) {
            0..3 => None,
            3 => Some(self.rng.random_range(0..=used)),
            _ => Some(used + self.rng.random_range(0..room)),
        };
        let quota = Quota {
            bytes: limit(bytes, 20_000),
            inodes: limit(inodes, 6),
        };
        Call::Quota { path, quota }
    }

    fn slot(&mut self) -> Slot {
        // Now and then one that was closed.
        match self.model.slots().choose(&mut self.rng) {
            Some(slot) if !self.rng.random_ratio(1, 60) => *slot,
            _ => self.rng.random_range(0..=self.next_slot),
        }
    }

    fn size_of(&mut self, slot: Slot) -> u64 {
        match self.model.call(&Caller::root(), &Call::Fstat { slot }) {
            Outcome::Stat(stat) => stat.size,
            _ => 0,
        }
    }

    /// A file offset or size: small, at a boundary, near `end`, or anywhere.
    fn size(&mut self, end: u64) -> u64 {
        let max = self.profile.file_bytes_max;
        let boundaries = [512, 4096, 16_384, 65_536, 131_072];
        let at = match self.rng.random_range(0..8) {
            0 => 0,
            1 => self.rng.random_range(0..100),
            2 | 3 => {
                let boundary = *boundaries.choose(&mut self.rng).expect("not empty");
                (boundary * self.rng.random_range(0..4u64) + self.rng.random_range(0..3)).saturating_sub(1)
            }
            4 | 5 => (end + self.rng.random_range(0..20)).saturating_sub(10),
            6 => end,
            _ => self.rng.random_range(0..max),
        };
        at.min(max)
    }

    fn length(&mut self) -> u32 {
        let max = self.profile.write_bytes_max;
        let length = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..3),
            1..5 => self.rng.random_range(1..200),
            5..7 => 4096,
            7 | 8 => self.rng.random_range(1..20_000),
            _ => self.rng.random_range(1..=max),
        };
        length.min(max)
    }

    fn file_call(&mut self) -> Call {
        let open = self.model.slots().len();
        if open == 0 || (open < self.profile.slots_max && self.one_in(6)) {
            return self.open();
        }
        let slot = self.slot();
        let end = self.size_of(slot);
        match self.rng.random_range(0..100) {
            0..30 => Call::Read {
                slot,
                offset: self.size(end),
                length: self.length(),
            },
            30..65 => Call::Write {
                slot,
                offset: self.size(end),
                length: self.length(),
                pattern: self.rng.random(),
            },
            65..75 => Call::Ftruncate {
                slot,
                size: self.size(end),
            },
            75..83 => Call::Fsync { slot },
            83..90 => Call::Fstat { slot },
            _ => Call::Close { slot },
        }
    }

    fn open(&mut self) -> Call {
        let slot = self.next_slot;
        self.next_slot += 1;
        let (read, write) = *[(true, false), (true, true), (true, true), (false, true)]
            .choose(&mut self.rng)
            .expect("not empty");
        let create = self.one_in(2);
        let how = OpenHow {
            read,
            write,
            create,
            exclusive: create && self.one_in(4),
            truncate: write && self.one_in(5),
            append: write && self.one_in(5),
        };
        let path = match create && self.one_in(2) {
            true => self.some_child(),
            false => self.some(|kind| kind == FileKind::File),
        };
        Call::Open {
            slot,
            path,
            how,
            mode: self.mode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;

    #[test]
    fn same_seed_gives_the_same_sequence_and_another_seed_another() {
        let make = |seed| sequence(seed, 200, &Profile::full(), Rules::default());
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn quotas_refuse_every_kind_of_call_that_may_grow_a_tree() {
        let mut refused = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let mut model = Model::new(Rules::default());
            for step in sequence(seed, 500, &Profile::quotas(), Rules::default()) {
                if let Outcome::Failed(errno) = model.call(&step.who, &step.call)
                    && [libc::EDQUOT, libc::EXDEV].contains(&errno)
                {
                    let call = format!("{:?}", step.call);
                    refused.insert((call[..call.find(' ').unwrap()].to_string(), errno));
                }
            }
        }
        let grows = ["Mkdir", "Mknod", "Open", "Rename", "Symlink", "Write"].map(|call| (call, libc::EDQUOT));
        let crosses = ["Link", "Rename"].map(|call| (call, libc::EXDEV));
        let expected = grows.into_iter().chain(crosses);
        let expected = expected.map(|(call, errno)| (call.to_string(), errno)).collect();
        assert_eq!(refused, expected);
    }

    #[test]
    fn most_calls_of_a_sequence_succeed_and_every_call_occurs() {
        let steps = sequence(3, 4000, &Profile::full(), Rules::default());
        let mut model = Model::new(Rules::default());
        let mut kinds = std::collections::BTreeMap::<String, (u32, u32)>::new();
        for step in &steps {
            let failed = matches!(model.call(&step.who, &step.call), Outcome::Failed(_));
            let call = format!("{:?}", step.call);
            let count = kinds
                .entry(call[..call.find(' ').unwrap()].to_string())
                .or_default();
            count.0 += 1;
            count.1 += u32::from(failed);
        }
        let failed: u32 = kinds.values().map(|(_, failed)| failed).sum();
        assert_eq!(kinds.len(), 25, "{kinds:?}");
        assert!(kinds.values().all(|(all, failed)| failed < all), "{kinds:?}");
        assert!(
            failed * 2 < steps.len() as u32,
            "{failed} of {} failed: {kinds:?}",
            steps.len()
        );
    }
}
