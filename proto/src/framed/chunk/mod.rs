//! The chunk seam over frames: one transfer at a time on a connection, as many connections as there are transfers.
//!
//! There is nothing between a transfer and its socket: the task that has a piece writes it, the task that wants one reads it, into
//! memory from which it can go to the disk, and back-pressure is the socket's. Idle connections are kept and used again.
//!
//! ```text
//! write: Request(Write, WriteChunkHeader), Data..., End(WriteChunkEnd, or empty)  ->  Reply(WriteChunkReply) | Error
//! read:  Request(Read, ReadChunkRequest)                                          ->  Data..., End(empty) | Error
//! stat:  Request(Stat, ChunkRequest)                                              ->  Reply(ChunkDescription) | Error
//! delete: Request(Delete, ChunkRequest)                                           ->  Reply(Empty) | Error
//! ```
//!
//! Invariant: content that was cut short never looks whole. A write is whole by its End, a read by its End and the length that was asked
//! for; whoever gives up in between closes the connection. A server may answer a write with an Error before its End; it then
//! closes, too.

mod client;
mod connection;
mod idle;
mod server;

pub use client::ChunkFramedClient;
pub(crate) use client::receive_buffers;
pub use server::serve_chunks;

/// What is asked for. Its number is its code in frames and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Method {
    Write = 1,
    Read = 2,
    Stat = 3,
    Delete = 4,
    StatAll = 5,
}

impl Method {
    fn from_number(number: u16) -> Option<Self> {
        [
            Method::Write,
            Method::Read,
            Method::Stat,
            Method::Delete,
            Method::StatAll,
        ]
        .into_iter()
        .find(|method| *method as u16 == number)
    }
}
