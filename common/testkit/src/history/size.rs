//! The size of a file.

use super::check::Model;

/// The size of one file, in bytes; 0 in the beginning.
#[derive(Debug)]
pub struct FileSize;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeCall {
    /// Sets the size.
    Truncate(u64),
    /// Writes up to this offset: the file is at least that long afterwards.
    WriteTo(u64),
    /// Asks for the size: `how` is a note for the reader.
    Stat { how: &'static str },
    /// Reads from an offset, at most so many bytes: tells the size if it is between.
    Read { offset: u64, length: u64 },
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeReply {
    /// It is done.
    Done,
    /// So many bytes.
    Bytes(u64),
}

impl Model for FileSize {
    type State = u64;
    type Call = SizeCall;
    type Reply = SizeReply;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, call: &SizeCall, reply: Option<&SizeReply>) -> Vec<u64> {
        let (next, so) = match *call {
            SizeCall::Truncate(size) => (size, SizeReply::Done),
            SizeCall::WriteTo(end) => ((*state).max(end), SizeReply::Done),
            SizeCall::Stat { .. } => (*state, SizeReply::Bytes(*state)),
            SizeCall::Read { offset, length } => {
                (*state, SizeReply::Bytes(state.saturating_sub(offset).min(length)))
            }
        };
        let agrees = reply.is_none_or(|reply| *reply == so);
        agrees.then_some(next).into_iter().collect()
    }

    fn is_read(&self, call: &SizeCall, _: Option<&SizeReply>) -> bool {
        matches!(call, SizeCall::Stat { .. } | SizeCall::Read { .. })
    }
}
