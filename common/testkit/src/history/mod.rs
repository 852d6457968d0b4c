//! Histories of calls that several workers made at the same time, and whether they are linearizable: whether every call can be given one
//! moment between its begin and its end, such that the calls in the order of these moments did what a single machine does.
//!
//! Owns: recording ([`Log`]), the check ([`check`]) with its counterexample ([`Violation`]), and the models of what is shared: names, the size
//! of a file, a value in it, records appended to it, a counter under a lock. It does not own the calls: tests make them.
//!
//! Why not a crate: of those that check linearizability none has models with several possible outcomes (a mount that was cut off may or may
//! not have saved its last writes), bounds its memory, and shows where the history goes wrong. The search is some hundred lines.

#![allow(missing_docs)] // the fields of calls say what they are

mod append;
mod check;
mod explain;
mod locked;
mod names;
mod record;
mod register;
mod size;

pub use append::{AppendCall, AppendReply, AppendedFile, Appends, RecordText, parse_records};
pub use check::{Model, check};
pub use explain::Violation;
pub use locked::{LockedCall, LockedCounter, LockedReply};
pub use names::{NameCall, NameReply, Names};
pub use record::{Log, Record, Reply, by_object, gather};
pub use register::{Register, RegisterCall, RegisterReply};
pub use size::{FileSize, SizeCall, SizeReply};
