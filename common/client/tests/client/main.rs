//! The client library over in-memory twins of both seams, with and without faults.

#![allow(clippy::unwrap_used)] // the whole program is test code

mod datanodes;
mod files;
mod locks;
mod paths;
mod random;
mod rig;
mod sessions;
mod views;
