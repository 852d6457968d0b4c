//! Runs a sequence on the model and on a target and compares: every outcome, the attributes that a call touched, the order
//! of time stamps, and at the end the whole tree. A failing sequence is shrunk by dropping calls.

use crate::call::{Call, FsPath, OpenHow, Outcome, Slot, Stat, Target, Time};
use crate::generate::{Profile, Step, sequence};
use crate::model::{Model, Rules};
use dfs_common::attr::{FileKind, Timestamp};
use dfs_common::session::Caller;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

/// Where a target may differ from the model without being wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tolerance {
    /// What a write changes besides content, size and modification time may wait until the write is saved: set-id bits of
    /// open files go later, and change times are not compared with other calls'.
    pub saves_later: bool,
}

/// The first difference.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Index of the step after which it was seen; the length of the sequence for the comparison of the whole tree.
    pub at: usize,
    /// What differs.
    pub what: String,
}

/// Slots that the comparison of the whole tree uses; a sequence stays below.
const OWN_SLOT: Slot = Slot::MAX;
const SET_ID: u32 = 0o6000;
/// Unit in which whole files are compared.
const PIECE: u32 = 1 << 20;

/// Runs `steps` on a fresh model and on `target`, whose root is empty.
///
/// # Errors
/// The first [`Mismatch`].
pub fn compare(
    rules: Rules,
    target: &mut dyn Target,
    steps: &[Step],
    tolerance: Tolerance,
) -> Result<(), Mismatch> {
    let mut pair = Pair::new(rules, target, tolerance);
    for (at, step) in steps.iter().enumerate() {
        pair.step(step).map_err(|what| Mismatch { at, what })?;
    }
    pair.end().map_err(|what| Mismatch {
        at: steps.len(),
        what,
    })
}

/// A model and a target side by side.
pub struct Pair<'t> {
    model: Model,
    target: &'t mut dyn Target,
    tolerance: Tolerance,
    /// Inode number of the target for each of the model's.
    inos: HashMap<u64, u64>,
    clock: Ticks,
}

impl<'t> Pair<'t> {
    /// A fresh model beside `target`, whose root is empty.
    pub fn new(rules: Rules, target: &'t mut dyn Target, tolerance: Tolerance) -> Self {
        let (inos, clock) = (HashMap::new(), Ticks::default());
        Pair {
            model: Model::new(rules),
            target,
            tolerance,
            inos,
            clock,
        }
    }

    /// Makes one call on both. Calls that the model does not define are passed over.
    ///
    /// # Errors
    /// What differs.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        if !self.model.defines(&step.call) {
            return Ok(());
        }
        self.both(&step.who, &step.call)?;
        for path in step.call.touched() {
            self.both(&Caller::root(), &Call::Stat { path })?;
        }
        match step.call {
            Call::Open { slot, .. } | Call::Write { slot, .. } | Call::Ftruncate { slot, .. } => {
                self.both(&Caller::root(), &Call::Fstat { slot })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn both(&mut self, who: &Caller, call: &Call) -> Result<Outcome, String> {
        let expected = self.model.call(who, call);
        let found = self.target.call(who, call);
        let same = match (&expected, &found) {
            (Outcome::Stat(expected), Outcome::Stat(found)) => self.same_stat(expected, found),
            _ if expected == found => Ok(()),
            _ => Err(differing(&expected, &found)),
        };
        same.map(|()| expected)
            .map_err(|what| format!("{call:?} by {}:{}: {what}", who.uid, who.gid))
    }

    fn same_stat(&mut self, expected: &Stat, found: &Stat) -> Result<(), String> {
        let known = *self.inos.entry(expected.ino).or_insert(found.ino);
        if known != found.ino {
            return Err(format!("inode number changed from {known} to {}", found.ino));
        }
        let open_file = expected.kind == FileKind::File && !self.model.slots().is_empty();
        let ignored = match self.tolerance.saves_later && open_file {
            true => found.mode & !expected.mode & SET_ID,
            false => 0,
        };
        let plain = |stat: &Stat| Stat {
            ino: 0,
            mode: stat.mode & !ignored,
            atime: Time::Any,
            mtime: Time::Any,
            ctime: Time::Any,
            ..*stat
        };
        if plain(expected) != plain(found) {
            return Err(format!(
                "expected {:?}\n   found {:?}",
                plain(expected),
                plain(found)
            ));
        }
        let times = [
            ("atime", expected.atime, found.atime, false),
            ("mtime", expected.mtime, found.mtime, false),
            ("ctime", expected.ctime, found.ctime, self.tolerance.saves_later),
        ];
        for (name, expected, found, late) in times {
            self.clock
                .compare(expected, found, late)
                .map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(())
    }

    /// Compares everything that there is, as root; again when all files are closed and the target was renewed.
    ///
    /// # Errors
    /// What differs.
    pub fn end(&mut self) -> Result<(), String> {
        self.whole_tree()?;
        for slot in self.model.slots() {
            self.both(&Caller::root(), &Call::Close { slot })?;
        }
        self.target.renew();
        self.whole_tree()
            .map_err(|what| format!("after the target was renewed: {what}"))
    }

    /// Compares everything that there is, as root.
    ///
    /// # Errors
    /// What differs.
    pub fn whole_tree(&mut self) -> Result<(), String> {
        let root = Caller::root();
        let mut model_inos = HashMap::new();
        for (path, kind) in self.model.paths() {
            let Outcome::Stat(stat) = self.both(&root, &Call::Stat { path: path.clone() })? else {
                return Err(format!("{path:?} is not in the model"));
            };
            let target_ino = self.inos[&stat.ino];
            if let Some(other) = model_inos
                .insert(target_ino, stat.ino)
                .filter(|other| *other != stat.ino)
            {
                return Err(format!(
                    "{path:?} has inode number {target_ino}, as has model inode {other}"
                ));
            }
            self.both(&root, &Call::Listxattr { path: path.clone() })
                .and_then(|names| self.values(&path, names))?;
            match kind {
                FileKind::Directory => {
                    self.usage(&path)?;
                    self.both(&root, &Call::Readdir { path })?;
                }
                FileKind::Symlink => {
                    self.both(&root, &Call::Readlink { path })?;
                }
                FileKind::File => self.content(&path, stat.size)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything written must have been saved.
    fn usage(&mut self, path: &FsPath) -> Result<(), String> {
        if !self.model.slots().is_empty() {
            return Ok(());
        }
        let expected = self.model.usage(path);
        match self.target.usage(path) {
            Some(found) if !expected.allows(found) => Err(format!(
                "usage of {path:?}: expected {expected:?}, found {found:?}"
            )),
            _ => Ok(()),
        }
    }

    fn values(&mut self, path: &FsPath, names: Outcome) -> Result<(), String> {
        let Outcome::Names(names) = names else {
            return Ok(());
        };
        for name in names {
            self.both(
                &Caller::root(),
                &Call::Getxattr {
                    path: path.clone(),
                    name,
                },
            )?;
        }
        Ok(())
    }

    fn content(&mut self, path: &FsPath, size: u64) -> Result<(), String> {
        let (root, slot) = (Caller::root(), OWN_SLOT);
        let how = OpenHow {
            read: true,
            ..OpenHow::default()
        };
        self.both(
            &root,
            &Call::Open {
                slot,
                path: path.clone(),
                how,
                mode: 0,
            },
        )?;
        for offset in (0..=size).step_by(PIECE as usize) {
            self.both(
                &root,
                &Call::Read {
                    slot,
                    offset,
                    length: PIECE,
                },
            )
            .map_err(|what| format!("{path:?}: {what}"))?;
        }
        self.both(&root, &Call::Close { slot }).map(drop)
    }
}

fn differing(expected: &Outcome, found: &Outcome) -> String {
    if let (Outcome::Bytes(expected), Outcome::Bytes(found)) = (expected, found) {
        let at = expected.iter().zip(found).position(|(a, b)| a != b);
        let at = at.unwrap_or(expected.len().min(found.len()));
        let excerpt = |bytes: &[u8]| bytes[at..bytes.len().min(at + 8)].escape_ascii().to_string();
        return format!(
            "expected {} bytes, found {}; they differ from byte {at} on: expected \"{}\", found \"{}\"",
            expected.len(),
            found.len(),
            excerpt(expected),
            excerpt(found)
        );
    }
    format!("expected {expected:?}\n   found {found:?}")
}

/// Times that a target's clock gave, by the model's call that took them: a later call never has an earlier time.
#[derive(Default)]
struct Ticks {
    seen: BTreeMap<u64, (Timestamp, Timestamp)>,
}

impl Ticks {
    fn compare(&mut self, expected: Time, found: Time, late: bool) -> Result<(), String> {
        let (Time::Tick(tick), Time::At(at)) = (expected, found) else {
            return match (expected, found) {
                (Time::Any, _) => Ok(()),
                (Time::At(expected), Time::At(found)) if expected == found => Ok(()),
                _ => Err(format!("expected {expected:?}, found {found:?}")),
            };
        };
        if late {
            return Ok(());
        }
        if let Some((earlier, (_, last))) = self.seen.range(..tick).next_back()
            && at < *last
        {
            return Err(format!(
                "call {tick} left {at:?}, but the earlier call {earlier} {last:?}"
            ));
        }
        if let Some((later, (first, _))) = self.seen.range(tick + 1..).next()
            && at > *first
        {
            return Err(format!(
                "call {tick} left {at:?}, but the later call {later} {first:?}"
            ));
        }
        let (first, last) = self.seen.entry(tick).or_insert((at, at));
        (*first, *last) = ((*first).min(at), (*last).max(at));
        Ok(())
    }
}

/// A kind of random test: what the sequences are made of and where the target may differ.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Calls per sequence.
    pub length: usize,
    /// What they are.
    pub profile: Profile,
    /// The model's rules.
    pub rules: Rules,
    /// Where the target may differ.
    pub tolerance: Tolerance,
}

impl Trial {
    /// Runs the sequence of each seed on a fresh target. A failing one is shrunk and printed with its seed; setting
    /// `DFS_SEED` to that number runs it alone.
    ///
    /// # Panics
    /// With the shrunk sequence and the mismatch.
    pub fn run<T: Target>(&self, seeds: &[u64], mut fresh: impl FnMut() -> T) {
        for seed in chosen_seeds(seeds) {
            let steps = sequence(seed, self.length, &self.profile, self.rules);
            let mut attempt = |steps: &[Step]| compare(self.rules, &mut fresh(), steps, self.tolerance).err();
            if let Some(mismatch) = attempt(&steps) {
                let failure = shrink(steps, mismatch, attempt);
                panic!("DFS_SEED={seed}, {} calls, shrunk:\n{failure}", self.length);
            }
        }
    }
}

/// `seeds` and a random one; only `DFS_SEED` if that is set.
pub fn chosen_seeds(seeds: &[u64]) -> Vec<u64> {
    if let Ok(seed) = std::env::var("DFS_SEED") {
        return vec![seed.parse().expect("DFS_SEED is a number")];
    }
    let random: u64 = rand::random();
    println!("random seed: DFS_SEED={random}");
    seeds.iter().copied().chain([random]).collect()
}

/// A shrunk failing sequence.
pub struct Failure {
    steps: Vec<Step>,
    mismatch: Mismatch,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{index:4} {step:?}")?;
        }
        match self.steps.get(self.mismatch.at) {
            Some(_) => writeln!(f, "after step {}:", self.mismatch.at)?,
            None => writeln!(f, "in the whole tree:")?,
        }
        f.write_str(&self.mismatch.what)
    }
}

/// For how long a failing sequence is shrunk.
const SHRINK_TIME: Duration = Duration::from_secs(20);

/// Drops calls from a failing sequence for as long as it still fails (in any way) and time permits.
pub fn shrink(
    steps: Vec<Step>,
    mismatch: Mismatch,
    mut attempt: impl FnMut(&[Step]) -> Option<Mismatch>,
) -> Failure {
    let deadline = Instant::now() + SHRINK_TIME;
    let mut failure = Failure { steps, mismatch };
    failure.cut();
    let mut size = failure.steps.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < failure.steps.len() {
            if Instant::now() > deadline {
                return failure;
            }
            let end = (start + size).min(failure.steps.len());
            let rest = [&failure.steps[..start], &failure.steps[end..]].concat();
            match attempt(&rest) {
                Some(mismatch) => {
                    failure = Failure {
                        steps: rest,
                        mismatch,
                    };
                    failure.cut();
                }
                None => start = end,
            }
        }
        size /= 2;
    }
    failure
}

impl Failure {
    /// What comes after the mismatch does not matter.
    fn cut(&mut self) {
        self.steps.truncate(self.mismatch.at + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::op::RenameMode;

    /// The model with a defect: a rename to an existing name does nothing but succeed.
    struct Defective(Model);

    impl Target for Defective {
        fn name(&self) -> String {
            "defective".into()
        }
        fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
            match call {
                Call::Rename {
                    to,
                    mode: RenameMode::Replace,
                    ..
                } if self.0.kind_at(to).is_some() => self.0.clone().call(who, call),
                _ => self.0.call(who, call),
            }
        }
    }

    fn steps(seed: u64) -> Vec<Step> {
        sequence(seed, 500, &Profile::full(), Rules::default())
    }

    #[test]
    fn model_agrees_with_itself() {
        let mut target = NoTimes(Model::new(Rules::default()));
        compare(Rules::default(), &mut target, &steps(1), Tolerance::default()).unwrap();
    }

    #[test]
    fn defect_is_found_and_shrunk_to_the_calls_that_show_it() {
        let attempt = |steps: &[Step]| {
            let mut target = NoTimes(Defective(Model::new(Rules::default())));
            compare(Rules::default(), &mut target, steps, Tolerance::default()).err()
        };
        let steps = steps(2);
        let mismatch = attempt(&steps).expect("500 calls contain such a rename");
        let failure = shrink(steps, mismatch, attempt);
        assert!(failure.steps.len() <= 12, "{failure}");
        assert!(failure.to_string().contains("Rename"), "{failure}");
    }

    /// Shows the model's ticks as times of day.
    struct NoTimes<T>(T);

    impl<T: Target> Target for NoTimes<T> {
        fn name(&self) -> String {
            self.0.name()
        }
        fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
            let day = |time| match time {
                Time::Tick(tick) => Time::At(Timestamp {
                    secs: tick as i64,
                    nanos: 0,
                }),
                Time::Any => Time::At(Timestamp::default()),
                at => at,
            };
            match self.0.call(who, call) {
                Outcome::Stat(stat) => Outcome::Stat(Stat {
                    atime: day(stat.atime),
                    mtime: day(stat.mtime),
                    ctime: day(stat.ctime),
                    ..stat
                }),
                outcome => outcome,
            }
        }
    }

    #[test]
    fn later_call_with_an_earlier_time_is_found() {
        let mut ticks = Ticks::default();
        let at = |secs| Time::At(Timestamp { secs, nanos: 0 });
        assert!(ticks.compare(Time::Tick(5), at(100), false).is_ok());
        assert!(ticks.compare(Time::Tick(7), at(100), false).is_ok());
        assert!(ticks.compare(Time::Tick(6), at(100), false).is_ok());
        assert!(ticks.compare(Time::Tick(6), at(101), false).is_err());
        assert!(ticks.compare(Time::Tick(8), at(99), false).is_err());
        assert!(ticks.compare(at(7), at(8), false).is_err());
        assert!(ticks.compare(Time::Any, at(8), false).is_ok());
    }
}
