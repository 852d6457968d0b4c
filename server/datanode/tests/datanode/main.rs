//! The datanode: its store alone, its service over the network, its dealings with a coordinator.

#![allow(clippy::unwrap_used)] // the whole program is test code

mod coordinator;
mod membership;
mod replication;
mod service;
mod store;
mod store_damage;
mod store_disk;
mod support;
mod wire_damage;
