//! As much of fjall's journal format (disk format 3) as tells whole batches from damaged ones.
//!
//! A journal is a file of batches, one behind the other, and zeros behind the last. A batch is a start (tag 1, number of items as
//! `u32`, sequence number as `u64`), its items (tag 2 with lengths, key and value; or tag 4, a keyspace that is emptied) and an end (tag 3,
//! XXH3 of the items' bytes, four bytes of magic); all numbers little endian. Reads only what is in memory already, allocates nothing, and
//! takes any bytes: what is not a batch is not one.

use crate::store::WriteBatch;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";
/// Types of a value: put, delete, delete of a key that was put once. A fourth points into blob files, which we do not have.
const DELETE: u8 = 1;
const VALUE_TYPE_MAX: u8 = 2;
/// Not compressed, LZ4.
const COMPRESSION_MAX: u8 = 1;

/// Numbers above are not given in a life, and fjall fails at those with the highest bit.
const SEQNO_MAX: u64 = 1 << 56;
/// fjall takes a few numbers for itself between two batches, not as many as this.
const SEQNO_GAP_MAX: u64 = 1 << 40;

/// Bytes and items that a search looks at per byte of what it searches: more means that somebody made it to be slow.
const SEARCH_WORK_PER_BYTE: u64 = 64;
/// Work allowed for a small search.
const SEARCH_WORK_MIN: u64 = 1 << 20;

/// A key that never has a value. To delete it says of a batch that it is [`Batch::unsynced`].
pub const UNSYNCED_KEY: &[u8] = b"\0unsynced";

/// Bytes of a batch's start and end, and of an item beside its key and value.
const BATCH_FRAME: usize = 26;
const ITEM_FRAME: usize = 21;

/// What `batch` takes in a journal, or a little more: large values are compressed.
pub fn bytes_of(batch: &WriteBatch) -> u64 {
    let item =
        |(key, value): &(Bytes, Option<Bytes>)| ITEM_FRAME + key.len() + value.as_ref().map_or(0, Bytes::len);
    (BATCH_FRAME + batch.changes.iter().map(item).sum::<usize>()) as u64
}

/// A whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset behind its last byte.
    pub end: usize,
    /// Grows from batch to batch.
    pub seqno: u64,
    /// It deletes [`UNSYNCED_KEY`]: nobody synced the journal for it. A batch without was synced before the next one was begun.
    pub unsynced: bool,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// The number of items and the sequence number of the batch that begins at `at`, whole or not.
fn start_at(cursor: &mut Cursor<'_>) -> Option<(u32, u64)> {
    match cursor.u8()? {
        START => Some((cursor.u32()?, cursor.u64()?)),
        _ => None,
    }
}

/// The sequence number of the batch that begins at `at`, if its first bytes say one.
pub fn seqno_at(bytes: &[u8], at: usize) -> Option<u64> {
    start_at(&mut Cursor { bytes, at }).map(|(_, seqno)| seqno)
}

/// Passes over one item; whether it is the mark of an unsynced batch.
fn item(cursor: &mut Cursor<'_>) -> Option<bool> {
    match cursor.u8()? {
        ITEM => {
            let (value_type, compression) = (cursor.u8()?, cursor.u8()?);
            let _keyspace = cursor.u64()?;
            let (key_len, value_len, stored_len) = (cursor.u16()?, cursor.u32()?, cursor.u32()?);
            if value_type > VALUE_TYPE_MAX
                || compression > COMPRESSION_MAX
                || (compression == 0 && value_len != stored_len)
            {
                return None;
            }
            let key = cursor.take(usize::from(key_len))?;
            cursor.take(stored_len as usize)?;
            Some(value_type == DELETE && key == UNSYNCED_KEY)
        }
        CLEAR => cursor.u64().map(|_| false),
        _ => None,
    }
}

fn spend(work: &mut u64, amount: u64) -> Option<()> {
    let left = work.checked_sub(amount);
    *work = left.unwrap_or(0);
    left.map(drop)
}

/// The whole batch that begins at `at`. Takes items and hashed bytes from `work`, and gives up when nothing is left of it.
fn batch_at(bytes: &[u8], at: usize, work: &mut u64) -> Option<Batch> {
    let mut cursor = Cursor { bytes, at };
    let (items, seqno) = start_at(&mut cursor)?;
    let first = cursor.at;
    let mut unsynced = false;
    for _ in 0..items {
        spend(work, 1)?;
        unsynced |= item(&mut cursor)?;
    }
    let last = cursor.at;
    if items == 0 || cursor.u8()? != END {
        return None;
    }
    let checksum = cursor.u64()?;
    if cursor.take(MAGIC.len())? != MAGIC {
        return None;
    }
    spend(work, (last - first) as u64)?;
    (xxh3_64(&bytes[first..last]) == checksum).then_some(Batch {
        start: at,
        end: cursor.at,
        seqno,
        unsynced,
    })
}

/// What a journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Offset behind the whole batches at its beginning.
    pub whole_end: usize,
    /// The last of these, or the one before the journal.
    pub last: Option<Batch>,
    /// Offset behind the last byte that is not zero; above `whole_end` something stands there that is not a whole batch.
    pub content_end: usize,
}

/// Whether `batch` may follow `last`. The checksum does not cover the number.
fn follows(last: Option<Batch>, batch: &Batch) -> bool {
    match last {
        None => batch.seqno <= SEQNO_MAX,
        Some(last) => batch.seqno > last.seqno && batch.seqno - last.seqno <= SEQNO_GAP_MAX,
    }
}

/// Walks a journal, which begins with the batch behind `before`.
pub fn walk(bytes: &[u8], before: Option<Batch>) -> Contents {
    let content_end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let bytes = &bytes[..content_end];
    // Each byte is looked at once.
    let mut work = u64::MAX;
    let (mut whole_end, mut last) = (0, before);
    while let Some(batch) = batch_at(bytes, whole_end, &mut work).filter(|batch| follows(last, batch)) {
        whole_end = batch.end;
        last = Some(batch);
    }
    Contents {
        whole_end,
        last,
        content_end,
    }
}

/// Calls `found` with every whole batch that begins at `from` or behind it, until it answers false. Takes bytes that look like a batch for one, also
/// within the value of a damaged batch: it finds too much rather than too little.
///
/// True if everything was searched; false if these bytes make it too much work.
pub fn search(bytes: &[u8], from: usize, mut found: impl FnMut(Batch) -> bool) -> bool {
    let mut work = (bytes.len().saturating_sub(from) as u64)
        .saturating_mul(SEARCH_WORK_PER_BYTE)
        .max(SEARCH_WORK_MIN);
    let mut at = from;
    while let Some(next) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| *byte == START))
    {
        at += next;
        match batch_at(bytes, at, &mut work) {
            Some(batch) if !found(batch) => return true,
            Some(batch) => at = batch.end,
            None if work == 0 => return false,
            None => at += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests;
