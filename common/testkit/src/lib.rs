//! What the tests of every part stand on: a reference model of POSIX, random sequences of calls, targets that answer them,
//! in-memory twins of the two service seams, fault-injecting wrappers, conformance suites and clusters to run them on.
//!
//! A dev-dependency only: no product crate depends on it. Everything here may panic with a clear message, as tests do.

#![allow(clippy::unwrap_used)] // the whole crate is test code

pub mod alternating;
pub mod call;
#[cfg(feature = "cluster")]
pub mod client_target;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod compare;
pub mod conformance;
pub mod faults;
pub mod generate;
pub mod history;
#[cfg(feature = "cluster")]
pub mod idle;
pub mod local;
pub mod model;
pub mod process;
pub mod twin;
