//! Records appended to a file by several writers.
//!
//! Owns: what a record looks like, finding all of them in the file afterwards, and the model. A record says who wrote it, its number and its
//! length, and all of its bytes follow from these, so that the file can be taken apart again: a lost, doubled, divided or overwritten
//! record shows. With the offset at which each was found, an append is a call whose moment is known by the size of the file before it.

use super::check::Model;
use super::record::Record;

/// Records of this length or more have a header; shorter ones are bytes that say who wrote them.
const HEADER: usize = 16;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordText {
    /// Who, below 32.
    pub writer: u8,
    /// Its number among those of its writer; 0 if it is one byte long, which has no room for it.
    pub number: u32,
    /// In bytes: 1, or from 16 on.
    pub length: usize,
}

impl RecordText {
    /// Its bytes.
    ///
    /// # Panics
    /// When the length is not one that a record can have.
    pub fn bytes(&self) -> Vec<u8> {
        if self.length == 1 {
            return vec![0xc0 | self.writer];
        }
        assert!(self.length >= HEADER, "a record of {} bytes", self.length);
        let mut bytes = vec![0xa0 | self.writer; 4];
        bytes.extend(self.number.to_le_bytes());
        bytes.extend((self.length as u64).to_le_bytes());
        // No byte of the middle is like one of the begin: a lost piece does not go unnoticed.
        bytes.extend((HEADER..self.length).map(|at| ((at * 7 + self.number as usize) % 96) as u8));
        bytes
    }
}

/// Takes a file apart into records and their offsets.
///
/// # Errors
/// Where no whole record is.
pub fn parse_records(file: &[u8]) -> Result<Vec<(u64, RecordText)>, String> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(first) = file.get(at) {
        let record = match first & 0xe0 {
            0xc0 => RecordText {
                writer: first & 0x1f,
                number: 0,
                length: 1,
            },
            0xa0 => header(&file[at..]).ok_or_else(|| wrong(file, at, &records, "a header is cut off"))?,
            _ => return Err(wrong(file, at, &records, "no record begins here")),
        };
        let found = &file[at..file.len().min(at + record.length)];
        let expected = record.bytes();
        if found != expected {
            let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let what = format!("{record:?} goes on with something else after {same} bytes");
            return Err(wrong(file, at + same, &records, &what));
        }
        records.push((at as u64, record));
        at += record.length;
    }
    Ok(records)
}

fn header(bytes: &[u8]) -> Option<RecordText> {
    let number = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let length = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    // Bounded: the bytes may be anything.
    let length = usize::try_from(length)
        .ok()
        .filter(|length| (HEADER..=1 << 24).contains(length))?;
    Some(RecordText {
        writer: bytes[0] & 0x1f,
        number,
        length,
    })
}

fn wrong(file: &[u8], at: usize, before: &[(u64, RecordText)], what: &str) -> String {
    let shown = &file[at..file.len().min(at + 24)];
    format!(
        "at offset {at} of {}: {what}; there: {shown:02x?}; the last records before: {:?}",
        file.len(),
        &before[before.len().saturating_sub(3)..]
    )
}

/// The size of a file that is appended to, 0 in the beginning.
#[derive(Debug)]
pub struct Appends;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendCall {
    /// Appends this record; `at` is where it was found afterwards ([`AppendedFile::place`]).
    Append { record: RecordText, at: Option<u64> },
    /// Asks for the size, or reads to the end: `how` is a note for the reader.
    Size { how: &'static str },
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendReply {
    /// It is done.
    Done,
    /// So many bytes.
    Bytes(u64),
}

impl Model for Appends {
    type State = u64;
    type Call = AppendCall;
    type Reply = AppendReply;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, call: &AppendCall, reply: Option<&AppendReply>) -> Vec<u64> {
        let next = match call {
            AppendCall::Append { at: Some(at), .. } if at != state => None,
            AppendCall::Append { record, .. } => Some(state + record.length as u64),
            AppendCall::Size { .. } if reply.is_none_or(|reply| *reply == AppendReply::Bytes(*state)) => {
                Some(*state)
            }
            AppendCall::Size { .. } => None,
        };
        next.into_iter().collect()
    }

    fn is_read(&self, call: &AppendCall, _: Option<&AppendReply>) -> bool {
        matches!(call, AppendCall::Size { .. })
    }
}

/// The file when all is over.
#[derive(Debug)]
pub struct AppendedFile {
    records: Vec<(u64, RecordText)>,
}

impl AppendedFile {
    /// Takes it apart.
    ///
    /// # Errors
    /// When it is not records one after the other.
    pub fn new(content: &[u8]) -> Result<Self, String> {
        let records = parse_records(content)?;
        Ok(AppendedFile { records })
    }

    /// Finds the records of the history in the file and says in each append where it is; appends whose end is not known and that are not there
    /// are taken out.
    ///
    /// # Errors
    /// When an acknowledged one is missing, one is there twice or unasked, or those of one writer are in another order than they were written.
    pub fn place(&self, history: &mut Vec<Record<Appends>>) -> Result<(), String> {
        let mut taken = vec![false; self.records.len()];
        // Per writer: where in the file the search for its next one begins.
        let mut next = [0; 32];
        let mut lost = Vec::new();
        for record in history.iter_mut() {
            let AppendCall::Append { record: text, at } = &mut record.call else {
                continue;
            };
            let from = next[text.writer as usize];
            let found =
                (from..self.records.len()).find(|index| !taken[*index] && self.records[*index].1 == *text);
            match found {
                Some(index) => {
                    taken[index] = true;
                    next[text.writer as usize] = index + 1;
                    *at = Some(self.records[index].0);
                }
                None if record.reply.is_some() => lost.push(format!("{}: {text:?}", record.worker)),
                None => (),
            }
        }
        if !lost.is_empty() {
            return Err(format!(
                "{} acknowledged records are not in the file, or behind later ones of their writer: {}",
                lost.len(),
                lost.join(", ")
            ));
        }
        if let Some(index) = taken.iter().position(|taken| !taken) {
            return Err(format!(
                "{:?} is in the file, but nobody wrote it (again)",
                self.records[index]
            ));
        }
        history.retain(|record| !matches!(record.call, AppendCall::Append { at: None, .. }));
        Ok(())
    }
}
