//! The chunk seam over loopback connections of both transports.

#![allow(clippy::unwrap_used)] // a test may fail

mod frames;
mod grpc;
mod kit;
#[path = "../loopback/mod.rs"]
mod loopback;
mod transfers;
