//! Proves that the records of a store belong together: names and inodes, link counts, maps, chunks, usage, totals.
//!
//! Goes through the tables side by side, in the order of their keys; what must be looked at in another order is sorted through temporary
//! files ([`crate::sort`]). So memory is bounded, whatever the number of inodes: a few times [`Scratch::memory_bytes`], and the sessions,
//! the sets of replicas and the problems, which are few. Finds and names what is wrong, and says which [`Repair`] would put it right
//! where there is one answer; changes nothing. The store must not change meanwhile: give it a snapshot. A record that cannot be read is a
//! problem like any other, but with one there are no repairs: what it said is not known, so what is missing beside it proves
//! nothing.

mod chunks;
mod homes;
mod inodes;
mod maps;
mod names;
mod report;
mod rows;
mod totals;
mod usage;

pub use report::{Repairs, Report, Stage};

use super::counters::{self, Counters};
use super::inode::Inode;
use super::repair::Repair;
use crate::sort::{Scratch, Sorter};
use crate::store::MetaRead;
use dfs_common::{ErrorKind, FsResult, Ino};

/// A check under way.
struct Check<'a> {
    read: &'a dyn MetaRead,
    scratch: &'a Scratch,
    report: Report,
    /// What is wrong with usage: told if every record could be read, for otherwise nothing is known of what lies where.
    counts: Report,
    /// Repairs of usage, encoded.
    corrections: Sorter,
    /// The totals; `None` if they are missing or cannot be read.
    said: Option<Counters>,
    seen: Counters,
    /// Numbers below it were given.
    numbers_given: u64,
    /// One above the largest number in use.
    numbers_below: u64,
    /// Steps of all looks for loops of directories.
    steps: u64,
}

/// Checks everything, with temporary files in the system's directory for them.
///
/// # Errors
/// Those of [`check_in`].
pub fn check(read: &dyn MetaRead) -> FsResult<Report> {
    check_in(read, &Scratch::in_dir(std::env::temp_dir()))
}

/// Checks everything, with temporary files in `scratch`.
///
/// # Errors
/// `NoSpace` and `Io` of the temporary files; those of the store.
pub fn check_in(read: &dyn MetaRead, scratch: &Scratch) -> FsResult<Report> {
    let said = readable(counters::get(read))?;
    let mut check = Check {
        read,
        scratch,
        report: Report::default(),
        counts: Report::default(),
        corrections: Sorter::new(scratch),
        said,
        seen: Counters::default(),
        numbers_given: said.map_or(u64::MAX, |said| said.numbers_below),
        numbers_below: 0,
        steps: 0,
    };
    check.root()?;
    let names = names::check(&mut check)?;
    let handed = inodes::check(&mut check, &names)?;
    drop(names);
    usage::check(&mut check, &handed.sums)?;
    drop(handed.sums);
    let references = maps::check(&mut check, &handed.maps)?;
    drop(handed.maps);
    chunks::check(&mut check, &references)?;
    totals::check(&mut check)?;
    usage::check_mark(&mut check)?;
    check.finish()
}

impl Check<'_> {
    fn root(&mut self) -> FsResult<()> {
        let root = readable_inode(self.read, Ino::ROOT)?;
        let is_directory = root.as_ref().is_some_and(Inode::is_directory);
        self.report
            .expect(is_directory, || "there is no root directory".to_string());
        if root.is_none() {
            self.report.repair(Repair::Directory { ino: Ino::ROOT });
        }
        Ok(())
    }

    /// Remembers a repair of usage.
    fn correct(&mut self, repair: &Repair) -> FsResult<()> {
        match repair.encode() {
            Some(record) => self.corrections.push(&record),
            None => Ok(()),
        }
    }

    fn finish(self) -> FsResult<Report> {
        let mut report = self.report;
        if report.unreadable > 0 {
            report.repairs.clear();
            return Ok(report);
        }
        report.append(self.counts);
        report.corrections = Some(self.corrections.finish()?);
        report.repairs.sort_by_key(Repair::rank);
        Ok(report)
    }
}

/// What was read; `None` of a damaged record.
fn readable<T>(read: FsResult<T>) -> FsResult<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// The inode that stands under `ino` and says that it is `ino`, if it can be read.
fn readable_inode(read: &dyn MetaRead, ino: Ino) -> FsResult<Option<Inode>> {
    let found = readable(Inode::find(read, ino))?.flatten();
    Ok(found.filter(|inode| inode.ino() == ino))
}

#[cfg(test)]
pub(crate) mod tests;
