//! What a check found, and in which order it is put right.

use crate::namespace::inode::Inode;
use crate::namespace::repair::{Field, Repair, Stamp};
use crate::sort::{Sorted, SortedReader};
use bytes::Bytes;
use dfs_common::{ErrorKind, FsResult};

/// Problems that are named; more are only counted.
const PROBLEMS_MAX: usize = 1000;
/// Repairs that are remembered; more are found by the next check. Those of usage are all there ([`Report::repairs_of`]).
const REPAIRS_MAX: usize = 8192;

/// Repairs that are made together. What a later stage says is true only if no repair of an earlier one was made since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Names, inodes, content, totals.
    Records,
    /// By which name inodes are counted, and which directories have usage records: sums move along them.
    Homes,
    /// Sums of usage.
    Sums,
}

impl Stage {
    /// In the order in which they are made.
    pub const ALL: [Stage; 3] = [Stage::Records, Stage::Homes, Stage::Sums];
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// One sentence per problem, at most 1000.
    pub problems: Vec<String>,
    /// All problems.
    pub problem_count: u64,
    /// Repairs of the first stage, as many as are remembered. None if a record could not be read.
    pub repairs: Vec<Repair>,
    /// Repairs of the later stages, in their order; as `repairs`.
    pub(super) corrections: Option<Sorted>,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Inodes that were looked at.
    pub inodes: u64,
    /// Chunks that were looked at.
    pub chunks: u64,
}

impl Report {
    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    /// True if something can be repaired.
    pub fn has_repairs(&self) -> bool {
        !self.repairs.is_empty() || self.corrections.as_ref().is_some_and(|sorted| !sorted.is_empty())
    }

    /// The repairs of one stage.
    ///
    /// # Errors
    /// `Io`: a temporary file cannot be read.
    pub fn repairs_of(&self, stage: Stage) -> FsResult<Repairs<'_>> {
        let (list, sorted) = match (stage, &self.corrections) {
            (Stage::Records, _) => (&self.repairs[..], None),
            (_, Some(corrections)) => (&[][..], Some(corrections.read()?)),
            (_, None) => (&[][..], None),
        };
        Ok(Repairs { stage, list, sorted })
    }

    /// Adds what another part of the check found.
    pub(super) fn append(&mut self, other: Report) {
        let room = PROBLEMS_MAX.saturating_sub(self.problems.len());
        self.problems.extend(other.problems.into_iter().take(room));
        self.problem_count += other.problem_count;
        other.repairs.into_iter().for_each(|repair| self.repair(repair));
    }

    pub(super) fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }

    pub(super) fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.problem(text());
        }
    }

    /// As [`Report::expect`], of what can be repaired.
    pub(super) fn expect_or_repair(
        &mut self,
        holds: bool,
        text: impl FnOnce() -> String,
        repair: impl FnOnce() -> Repair,
    ) {
        self.expect(holds, text);
        if !holds {
            self.repair(repair());
        }
    }

    pub(super) fn repair(&mut self, repair: Repair) {
        if self.repairs.len() < REPAIRS_MAX {
            self.repairs.push(repair);
        }
    }

    /// A number of an inode's record must be what was counted.
    pub(super) fn expect_field(
        &mut self,
        inode: &Inode,
        field: Field,
        (said, counted): (u64, u64),
        text: impl FnOnce() -> String,
    ) {
        self.expect_or_repair(said == counted, text, || Repair::Inode {
            ino: inode.ino(),
            stamp: Stamp::of(inode),
            field,
            said,
            counted,
        });
    }

    /// What was read of a record; a damaged one is named.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn readable<T>(&mut self, key: &Bytes, read: FsResult<T>) -> FsResult<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.unreadable += 1;
                self.problem(format!(
                    "the record of key {} cannot be read: restore the metadata from a backup",
                    key.escape_ascii()
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Repairs of one stage, one after the other.
pub struct Repairs<'a> {
    stage: Stage,
    list: &'a [Repair],
    sorted: Option<SortedReader<'a>>,
}

impl Repairs<'_> {
    /// The next repairs, at most `limit`; none at the end.
    ///
    /// # Errors
    /// `Io`: a temporary file cannot be read.
    pub fn next_portion(&mut self, limit: usize) -> FsResult<Vec<Repair>> {
        let (portion, rest) = self.list.split_at(limit.min(self.list.len()));
        let mut portion = portion.to_vec();
        self.list = rest;
        while let Some(sorted) = &mut self.sorted
            && portion.len() < limit
            && let Some(record) = sorted.next_record()?
        {
            let repair = Repair::decode(&record)?;
            if repair.stage() == self.stage {
                portion.push(repair);
            }
        }
        Ok(portion)
    }
}
