//! What lies below each directory, and quotas.
//!
//! A record is the sum of what stands directly in its directory and of its subdirectories' records. That is checked for each directory
//! by itself, so memory does not grow with the depth or the number of directories; if it holds everywhere then every record is right. And then
//! no directory lies below itself: each record counts more directories than those of its subdirectories, which cannot go round in a circle. So only
//! from directories whose sum is wrong the way up is looked at.

use super::Check;
use super::readable_inode;
use super::rows::{Numbered, Rows, numbers, record};
use crate::namespace::inode::Inode;
use crate::namespace::repair::Repair;
use crate::namespace::usage::{self, Delta, Usage};
use crate::namespace::{damaged, keys, quota};
use crate::sort::{Sorted, Sorter};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::{ErrorKind, FsResult, Ino, Quota};
use std::collections::HashMap;

/// Directories whose sums are held back, because more for them comes soon.
const HELD_MAX: usize = 16_384;
/// Steps that all ways up take together: a store with more has more problems than these.
const STEPS_MAX: u64 = 1 << 22;

/// Usage records and quotas, beside the inodes; and sums by directory.
pub(super) struct Trees<'a> {
    usages: Rows<'a>,
    quotas: Rows<'a>,
    held: HashMap<Ino, Delta>,
    sums: Sorter,
}

impl<'a> Trees<'a> {
    pub(super) fn new(check: &Check<'a>) -> Self {
        Trees {
            usages: Rows::new(check.read, keys::usages()),
            quotas: Rows::new(check.read, keys::quotas()),
            held: HashMap::new(),
            sums: Sorter::new(check.scratch),
        }
    }

    /// Something stands directly in `directory`.
    pub(super) fn add(&mut self, directory: Ino, delta: Delta) -> FsResult<()> {
        let sum = self.held.entry(directory).or_default();
        *sum = *sum + delta;
        match self.held.len() {
            HELD_MAX.. => self.flush(),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> FsResult<()> {
        for (directory, delta) in self.held.drain() {
            let numbers = [
                delta.bytes,
                delta.files,
                delta.directories,
                delta.links,
                delta.held_bytes,
                delta.held_inodes,
            ]
            .map(|count| count as u64);
            let [bytes, files, directories, links, held_bytes, held_inodes] = numbers;
            let sum = [
                directory.0,
                bytes,
                files,
                directories,
                links,
                held_bytes,
                held_inodes,
            ];
            self.sums.push(&record(sum))?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> FsResult<Sorted> {
        self.flush()?;
        self.sums.finish()
    }

    /// Records of numbers below `number` (`None`: of all that are left) are no directory's.
    pub(super) fn strays(&mut self, check: &mut Check<'_>, number: Option<u64>) -> FsResult<()> {
        let is_below = |next: Option<u64>| next.filter(|next| number.is_none_or(|number| *next < number));
        while let Some(next) = is_below(
            self.usages
                .number()?
                .into_iter()
                .chain(self.quotas.number()?)
                .min(),
        ) {
            self.stray(check, next)?;
        }
        Ok(())
    }

    fn stray(&mut self, check: &mut Check<'_>, number: u64) -> FsResult<()> {
        let directory = Ino(number);
        while let Some((key, value)) = self.usages.next_of(number)? {
            let parsed = keys::parse_usage(&key).ok_or_else(|| damaged("usage"));
            if check.report.readable(&key, parsed)?.is_some() {
                if let Some(said) = super::readable(usage::decode(value))?
                    && usage::repair::is_grave(check.read, &said)?
                {
                    self.add(Ino(said.parent), Delta::of(&said))?;
                    continue;
                }
                check
                    .counts
                    .problem(format!("the usage of {directory} is that of no directory"));
                check.correct(&Repair::UsageRecord { directory })?;
            }
        }
        while self.quotas.next_of(number)?.is_some() {
            check.counts.problem(format!(
                "a quota is that of {directory}, which is no directory with a name"
            ));
            check.correct(&Repair::UsageRecord { directory })?;
        }
        Ok(())
    }

    /// The usage record and the quota of an inode, which is counted where it lies, or, if it is `held` without a name, where it lay.
    pub(super) fn inode(&mut self, check: &mut Check<'_>, inode: &Inode, held: bool) -> FsResult<()> {
        let ino = inode.ino();
        if inode.attr.nlink == 0 || !inode.is_directory() {
            self.stray(check, ino.0)?;
            if inode.attr.nlink == 0 && !held {
                return Ok(());
            }
            if inode.attr.nlink == 0 {
                if usage::repair::has_place(check.read, inode)? {
                    return self.add(inode.parent, Delta::held(inode.attr.allocated_bytes));
                }
                check
                    .counts
                    .problem(format!("inode {ino}, which has no name, counts against no quota"));
                return check.correct(&Repair::Held { ino });
            }
            let home_of_several = i64::from(inode.attr.nlink > 1);
            let counted = Delta::file(inode.attr.allocated_bytes) + Delta::links(home_of_several);
            return self.add(inode.parent, counted);
        }
        let said = self.usages.value_of(ino.0)?.map(usage::decode);
        self.usages.next_of(ino.0)?;
        let limits = self.quota(check, ino.0)?;
        let (said, problem) = match said {
            Some(Ok(said)) => {
                let copied = Quota {
                    bytes: said.limit_bytes,
                    inodes: said.limit_inodes,
                };
                let same = limits.is_none_or(|limits| {
                    limits.unwrap_or_default() == copied && said.closing == (limits == Some(Quota::default()))
                });
                let problem = match (said.parent == inode.parent.0 && !said.removed, same) {
                    (true, true) => None,
                    (true, false) => Some(format!(
                        "directory {ino} has the quota {limits:?} and its usage says {copied:?}"
                    )),
                    (false, _) => Some(format!(
                        "the usage of directory {ino} lies in {} (removed: {}), the directory in {}",
                        said.parent, said.removed, inode.parent
                    )),
                };
                (said, problem)
            }
            Some(Err(error)) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Some(Err(_)) => (
                Usage::default(),
                Some(format!("the usage record of directory {ino} cannot be read")),
            ),
            None => {
                check.look_for_loop(ino)?;
                let problem = format!("directory {ino} has no usage record");
                (Usage::default(), Some(problem))
            }
        };
        if let Some(problem) = problem {
            check.counts.problem(problem);
            check.correct(&Repair::UsageRecord { directory: ino })?;
        }
        match ino {
            Ino::ROOT => Ok(()),
            _ => self.add(inode.parent, Delta::tree(&said)),
        }
    }

    /// The quota of a directory, if it has one, perhaps without limits; `None` if it cannot be read.
    fn quota(&mut self, check: &mut Check<'_>, number: u64) -> FsResult<Option<Option<Quota>>> {
        let mut found = Some(None);
        while let Some((key, value)) = self.quotas.next_of(number)? {
            let parsed = keys::parse_quota(&key).ok_or_else(|| damaged("quota"));
            found = match parsed.and_then(|_| quota::decode(value)) {
                Ok(quota) => Some(Some(quota)),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    check.counts.problem(format!(
                        "the quota of directory {number} cannot be read: set it again"
                    ));
                    None
                }
                Err(error) => return Err(error),
            };
        }
        Ok(found)
    }
}

/// Every usage record says what was counted in its directory, with what its subdirectories' records say.
pub(super) fn check(check: &mut Check<'_>, sums: &Sorted) -> FsResult<()> {
    let mut sums = sums.read()?;
    let mut usages = Rows::new(check.read, keys::usages());
    while let Some((key, value)) = usages.next()? {
        let (Some(directory), Ok(said)) = (keys::parse_usage(&key), usage::decode(value)) else {
            // Named before.
            continue;
        };
        // Directories without a usage record were named.
        while sums.first_number().is_some_and(|next| next < directory.0) {
            sums.next_record()?;
        }
        let mut counted = Delta::default();
        while let Some(bytes) = sums.next_of(directory.0)? {
            let [_, counts @ ..]: [u64; 7] = numbers(&bytes);
            let [bytes, files, directories, links, held_bytes, held_inodes] =
                counts.map(|count| count as i64);
            counted = counted
                + Delta {
                    bytes,
                    files,
                    directories,
                    links,
                    held_bytes,
                    held_inodes,
                };
        }
        let said = Delta::of(&said);
        if said == counted {
            continue;
        }
        check.counts.problem(format!(
            "the usage of directory {directory} says {said:?}, there is {counted:?}"
        ));
        // What is missing comes first, so that no record is ever below what lies there.
        let difference = counted - said;
        for difference in [difference.rising(), difference - difference.rising()] {
            if difference != Delta::default() {
                check.correct(&Repair::Usage {
                    directory,
                    difference,
                })?;
            }
        }
        if said.directories != counted.directories {
            check.look_for_loop(directory)?;
        }
    }
    Ok(())
}

impl Check<'_> {
    /// From `directory` the way up leads to the root, or to what does not exist.
    pub(super) fn look_for_loop(&mut self, directory: Ino) -> FsResult<()> {
        // As Brent finds cycles: a mark that is left behind at each power of two.
        let (mut at, mut mark, mut steps, mut until) = (directory, directory, 0u64, 1u64);
        while at != Ino::ROOT && self.steps < STEPS_MAX {
            let Some(above) = parent(self.read, at)? else {
                break;
            };
            at = above;
            steps += 1;
            self.steps += 1;
            if at == mark {
                self.report
                    .problem(format!("directory {directory} lies in a loop of directories"));
                break;
            }
            if steps == until {
                (mark, until) = (at, until * 2);
            }
        }
        Ok(())
    }
}

fn parent(read: &dyn MetaRead, directory: Ino) -> FsResult<Option<Ino>> {
    let inode = readable_inode(read, directory)?;
    Ok(inode.filter(Inode::is_directory).map(|inode| inode.parent))
}

/// What a record says was counted to the end, by this release or an earlier one.
pub(super) fn check_mark(check: &mut Check<'_>) -> FsResult<()> {
    let marked: Option<Bytes> = check.read.get(&keys::usage_epoch())?;
    if marked.is_none_or(|value| value.len() != 8) {
        check
            .counts
            .problem("what lies in each directory was not counted to the end".to_string());
        check.counts.repair(Repair::UsageMark);
    }
    Ok(())
}
