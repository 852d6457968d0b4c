//! Reads a table, or sorted records, one after the other, so that several can be gone through side by side.

use crate::sort::SortedReader;
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::FsResult;
use std::collections::VecDeque;

/// Records read at once.
const PAGE: usize = 256;

/// The number that begins `bytes`, which sort as it does; what is missing of it is zero.
pub(super) fn number_of(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    let there = bytes.len().min(8);
    number[..there].copy_from_slice(&bytes[..there]);
    u64::from_be_bytes(number)
}

/// Pairs of a range of keys, ascending.
pub(super) struct Rows<'a> {
    read: &'a dyn MetaRead,
    start: Bytes,
    end: Bytes,
    page: VecDeque<(Bytes, Bytes)>,
    exhausted: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(read: &'a dyn MetaRead, (start, end): (Bytes, Bytes)) -> Self {
        Rows {
            read,
            start,
            end,
            page: VecDeque::new(),
            exhausted: false,
        }
    }

    /// The next key, which stays.
    pub(super) fn peek(&mut self) -> FsResult<Option<&Bytes>> {
        if self.page.is_empty() && !self.exhausted {
            let page = self.read.scan(&self.start, &self.end, PAGE)?;
            self.exhausted = page.len() < PAGE;
            if let Some((last, _)) = page.last() {
                self.start = Bytes::from([&last[..], b"\0"].concat());
            }
            self.page = page.into();
        }
        Ok(self.page.front().map(|(key, _)| key))
    }

    pub(super) fn next(&mut self) -> FsResult<Option<(Bytes, Bytes)>> {
        self.peek()?;
        Ok(self.page.pop_front())
    }

    /// The next key behind the letter of its table.
    fn id(&mut self) -> FsResult<Option<&[u8]>> {
        Ok(self.peek()?.map(|key| &key[1..]))
    }

    /// The number that the next key begins with.
    pub(super) fn number(&mut self) -> FsResult<Option<u64>> {
        Ok(self.id()?.map(number_of))
    }

    /// The next pair, if its key begins with `number`.
    pub(super) fn next_of(&mut self, number: u64) -> FsResult<Option<(Bytes, Bytes)>> {
        match self.number()? == Some(number) {
            true => self.next(),
            false => Ok(None),
        }
    }

    /// Goes on to `id`, and says whether there is such a key.
    pub(super) fn has(&mut self, id: &[u8]) -> FsResult<bool> {
        while self.id()?.is_some_and(|next| next < id) {
            self.next()?;
        }
        Ok(self.id()? == Some(id))
    }

    /// Goes on to `number`, and answers the value of the key that is it.
    pub(super) fn value_of(&mut self, number: u64) -> FsResult<Option<Bytes>> {
        Ok(match self.has(&number.to_be_bytes())? {
            true => self.page.front().map(|(_, value)| value.clone()),
            false => None,
        })
    }
}

/// Records that begin with a number, read as [`Rows`] are.
pub(super) trait Numbered {
    fn first_number(&self) -> Option<u64>;
    /// The next record, if it begins with `number`.
    fn next_of(&mut self, number: u64) -> FsResult<Option<Vec<u8>>>;
}

impl Numbered for SortedReader<'_> {
    fn first_number(&self) -> Option<u64> {
        self.peek().map(number_of)
    }

    fn next_of(&mut self, number: u64) -> FsResult<Option<Vec<u8>>> {
        match self.first_number() == Some(number) {
            true => self.next_record(),
            false => Ok(None),
        }
    }
}

/// A record of numbers, in the order of the numbers.
pub(super) fn record<const COUNT: usize>(numbers: [u64; COUNT]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// The numbers of a [`record`]; what is missing is zero.
pub(super) fn numbers<const COUNT: usize>(record: &[u8]) -> [u64; COUNT] {
    std::array::from_fn(|index| number_of(record.get(index * 8..).unwrap_or_default()))
}
