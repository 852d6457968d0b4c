//! Sorts more records than memory holds: byte strings, ascending, through one temporary file.
//!
//! Records are gathered up to a bound, then sorted and written to the file as a run; reading merges the runs. The file has no name: it goes
//! with the process, however that ends. Invariant: memory for a sorter and for one reader of what it sorted is about
//! [`Scratch::memory_bytes`] each, whatever their number of records.

use dfs_common::limits::{FSCK_DISK_KEPT_FREE_BYTES, FSCK_SORT_MEMORY_BYTES};
use dfs_common::{ErrorKind, FsError, FsResult};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes before each record in a run: its length.
const LENGTH_BYTES: usize = 2;
/// Bytes of a run that are read at once: at most, and at least.
const READ_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;

/// Where sorters have their files, and how much memory each may take.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// Directory of the files.
    pub dir: PathBuf,
    /// Of one sorter.
    pub memory_bytes: usize,
}

impl Scratch {
    /// Files in `dir`, and as much memory as a check may take.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Scratch {
            dir: dir.into(),
            memory_bytes: FSCK_SORT_MEMORY_BYTES,
        }
    }

    fn failed(&self, error: std::io::Error) -> FsError {
        FsError::from(error).context(format_args!(
            "sorting in a temporary file in {}",
            self.dir.display()
        ))
    }

    /// A new run of `bytes` must leave the room that the store itself needs.
    fn check_room(&self, bytes: u64) -> FsResult<()> {
        let stat = nix::sys::statvfs::statvfs(&self.dir).map_err(|errno| self.failed(errno.into()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        match free < FSCK_DISK_KEPT_FREE_BYTES.saturating_add(bytes) {
            true => Err(FsError::new(
                ErrorKind::NoSpace,
                format!(
                    "the check needs room for a temporary file in {}: {free} bytes are left",
                    self.dir.display()
                ),
            )),
            false => Ok(()),
        }
    }
}

/// Records, in memory: their bytes one behind the other, and where each begins and ends.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    places: Vec<(usize, usize)>,
}

impl Gathered {
    fn get(&self, index: usize) -> Option<&[u8]> {
        let (from, to) = *self.places.get(index)?;
        self.bytes.get(from..to)
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.places
            .sort_unstable_by(|a, b| bytes[a.0..a.1].cmp(&bytes[b.0..b.1]));
    }

    fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<(usize, usize)>()
    }
}

/// Takes records in any order.
#[derive(Debug)]
pub struct Sorter {
    scratch: Scratch,
    gathered: Gathered,
    file: Option<File>,
    /// Where each run ends in the file.
    runs: Vec<u64>,
}

impl Sorter {
    /// Without records.
    pub fn new(scratch: &Scratch) -> Self {
        Sorter {
            scratch: scratch.clone(),
            gathered: Gathered::default(),
            file: None,
            runs: Vec::new(),
        }
    }

    /// Adds a record; equal ones stay as often as they were added.
    ///
    /// # Errors
    /// `Invalid` above 64 KiB; `NoSpace`, `Io`.
    pub fn push(&mut self, record: &[u8]) -> FsResult<()> {
        if record.len() > usize::from(u16::MAX) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a record is too long to be sorted",
            ));
        }
        let more = record.len() + size_of::<(usize, usize)>();
        if !self.gathered.places.is_empty() && self.gathered.memory_bytes() + more > self.scratch.memory_bytes
        {
            self.spill()?;
        }
        let from = self.gathered.bytes.len();
        self.gathered.bytes.extend_from_slice(record);
        self.gathered.places.push((from, from + record.len()));
        Ok(())
    }

    /// True without a record.
    pub fn is_empty(&self) -> bool {
        self.gathered.places.is_empty() && self.runs.is_empty()
    }

    fn spill(&mut self) -> FsResult<()> {
        self.gathered.sort();
        let length = self.gathered.bytes.len() + LENGTH_BYTES * self.gathered.places.len();
        self.scratch.check_room(length as u64)?;
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let new =
                    tempfile::tempfile_in(&self.scratch.dir).map_err(|error| self.scratch.failed(error))?;
                none.insert(new)
            }
        };
        let mut out = std::io::BufWriter::with_capacity(*READ_BYTES.end(), file);
        let mut written = Ok(());
        for (from, to) in &self.gathered.places {
            let record = &self.gathered.bytes[*from..*to];
            written = written
                .and_then(|()| out.write_all(&(record.len() as u16).to_be_bytes()))
                .and_then(|()| out.write_all(record));
        }
        written
            .and_then(|()| out.flush())
            .map_err(|error| self.scratch.failed(error))?;
        drop(out);
        let begin = self.runs.last().copied().unwrap_or(0);
        self.runs.push(begin + length as u64);
        self.gathered.bytes.clear();
        self.gathered.places.clear();
        Ok(())
    }

    /// Everything that was added, in order.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn finish(mut self) -> FsResult<Sorted> {
        if !self.runs.is_empty() {
            self.spill()?;
            self.gathered = Gathered::default();
        }
        self.gathered.sort();
        Ok(Sorted {
            scratch: self.scratch,
            gathered: self.gathered,
            file: self.file,
            runs: self.runs,
        })
    }
}

/// Sorted records; may be read more than once.
#[derive(Debug)]
pub struct Sorted {
    scratch: Scratch,
    /// All of them, if there are no runs.
    gathered: Gathered,
    file: Option<File>,
    runs: Vec<u64>,
}

impl Sorted {
    /// True without a record.
    pub fn is_empty(&self) -> bool {
        self.gathered.places.is_empty() && self.runs.is_empty()
    }

    /// Runs that were written to the file.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Reads all records from the first.
    ///
    /// # Errors
    /// `Io`.
    pub fn read(&self) -> FsResult<SortedReader<'_>> {
        let buffer_bytes = (self.scratch.memory_bytes / self.runs.len().max(1))
            .clamp(*READ_BYTES.start(), *READ_BYTES.end());
        let mut heads = BinaryHeap::new();
        let mut begin = 0;
        for (end, file) in self.runs.iter().zip(std::iter::repeat(self.file.as_ref())) {
            let Some(file) = file else { break };
            let mut run = Run {
                scratch: &self.scratch,
                file,
                at: begin,
                end: *end,
                buffer: Vec::new(),
                from: 0,
                buffer_bytes,
            };
            begin = *end;
            if let Some(record) = run.next()? {
                heads.push(Reverse(Head { record, run }));
            }
        }
        Ok(SortedReader {
            sorted: self,
            next: 0,
            heads,
        })
    }
}

/// A run that is read.
struct Run<'a> {
    scratch: &'a Scratch,
    file: &'a File,
    /// What is read of the file next, and where the run ends.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Where the next record begins in the buffer.
    from: usize,
    buffer_bytes: usize,
}

impl Run<'_> {
    /// At least `wanted` bytes are in the buffer from [`Run::from`] on; false if the run has none at all.
    fn fill(&mut self, wanted: usize) -> FsResult<bool> {
        if self.buffer.len() - self.from >= wanted {
            return Ok(true);
        }
        self.buffer.drain(..self.from);
        self.from = 0;
        let have = self.buffer.len();
        let more = (self.end - self.at).min(self.buffer_bytes.max(wanted) as u64) as usize;
        self.buffer.resize(have + more, 0);
        self.file
            .read_exact_at(&mut self.buffer[have..], self.at)
            .map_err(|error| self.scratch.failed(error))?;
        self.at += more as u64;
        match self.buffer.len() {
            0 => Ok(false),
            length if length >= wanted => Ok(true),
            _ => Err(FsError::new(
                ErrorKind::Io,
                "a temporary file of the check ends too early",
            )),
        }
    }

    fn next(&mut self) -> FsResult<Option<Vec<u8>>> {
        if !self.fill(LENGTH_BYTES)? {
            return Ok(None);
        }
        let length = u16::from_be_bytes([self.buffer[self.from], self.buffer[self.from + 1]]);
        let length = usize::from(length);
        self.fill(LENGTH_BYTES + length)?;
        let begin = self.from + LENGTH_BYTES;
        self.from = begin + length;
        Ok(Some(self.buffer[begin..self.from].to_vec()))
    }
}

/// The next record of a run.
struct Head<'a> {
    record: Vec<u8>,
    run: Run<'a>,
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.record == other.record
    }
}
impl Eq for Head<'_> {}
impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.record.cmp(&other.record)
    }
}

/// Reads sorted records.
pub struct SortedReader<'a> {
    sorted: &'a Sorted,
    next: usize,
    heads: BinaryHeap<Reverse<Head<'a>>>,
}

impl SortedReader<'_> {
    /// The next record, which stays.
    pub fn peek(&self) -> Option<&[u8]> {
        match self.sorted.runs.is_empty() {
            true => self.sorted.gathered.get(self.next),
            false => self.heads.peek().map(|Reverse(head)| &head.record[..]),
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// `Io`.
    pub fn next_record(&mut self) -> FsResult<Option<Vec<u8>>> {
        if self.sorted.runs.is_empty() {
            let record = self.sorted.gathered.get(self.next).map(<[u8]>::to_vec);
            self.next += 1;
            return Ok(record);
        }
        let Some(mut head) = self.heads.peek_mut() else {
            return Ok(None);
        };
        Ok(Some(match head.0.run.next()? {
            Some(following) => std::mem::replace(&mut head.0.record, following),
            None => PeekMut::pop(head).0.record,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(memory_bytes: usize, records: &[Vec<u8>]) -> Sorted {
        let scratch = Scratch {
            memory_bytes,
            ..Scratch::in_dir(std::env::temp_dir())
        };
        let mut sorter = Sorter::new(&scratch);
        for record in records {
            sorter.push(record).unwrap();
        }
        sorter.finish().unwrap()
    }

    fn all(sorted: &Sorted) -> Vec<Vec<u8>> {
        let mut reader = sorted.read().unwrap();
        let mut all = Vec::new();
        while let Some(peeked) = reader.peek().map(<[u8]>::to_vec) {
            let record = reader.next_record().unwrap().unwrap();
            assert_eq!(record, peeked);
            all.push(record);
        }
        assert_eq!(reader.next_record().unwrap(), None);
        all
    }

    proptest! {
        #[test]
        fn what_was_added_comes_back_in_order(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..200),
            memory_bytes in 1usize..4000,
        ) {
            let mut expected = records.clone();
            expected.sort();
            let sorted = sorted(memory_bytes, &records);
            prop_assert_eq!(all(&sorted), expected.clone());
            prop_assert_eq!(all(&sorted), expected);
        }
    }

    #[test]
    fn more_than_memory_holds_goes_through_a_file() {
        let records: Vec<Vec<u8>> = (0..50_000u32)
            .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes().repeat(20))
            .collect();
        let sorted = sorted(64 << 10, &records);
        assert!(sorted.runs() > 50, "{}", sorted.runs());
        assert_eq!(sorted.gathered.memory_bytes(), 0, "nothing stays in memory");
        let mut expected = records;
        expected.sort();
        assert_eq!(all(&sorted), expected);
    }

    #[test]
    fn directory_that_cannot_be_written_is_named() {
        let scratch = Scratch {
            memory_bytes: 1,
            ..Scratch::in_dir("/nowhere")
        };
        let mut sorter = Sorter::new(&scratch);
        sorter.push(b"a").unwrap();
        let error = sorter.push(b"b").unwrap_err();
        assert!(error.message().contains("/nowhere"), "{error}");
    }
}
