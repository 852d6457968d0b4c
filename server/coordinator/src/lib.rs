//! The coordinator: namespace, sessions, membership and placement over an ordered key-value store.
//!
//! Code map: [`namespace`] applies operations and reads (the state machine); [`store`] keeps keys and values; [`applier`] is the
//! only writer; [`session`] knows who may call and what is open; [`lease`]
//! what clients may answer from memory; [`lock`] who holds which `flock` and `fcntl` locks (no call of the wire uses it yet); [`cluster`] knows the datanodes; [`gc`] takes away what
//! nobody refers to; [`service`] and [`admin`] are
//! the faces; [`fsck`] checks everything for an administrator, [`sort`] its records, [`backup`] carries the metadata into files and back; [`core`](crate::core) puts the parts together. Nothing here knows FUSE, and nothing but [`applier`] writes to the store.

pub mod admin;
pub mod applier;
pub mod backup;
pub mod cluster;
pub mod config;
pub mod core;
pub mod fsck;
pub mod gc;
pub mod identity;
pub mod lease;
pub mod lock;
pub mod namespace;
pub mod server;
pub mod service;
pub mod session;
pub mod sort;
pub mod store;
pub mod stored;
pub mod worker;

pub use config::{CoordinatorConfig, LocalSockets, StoreKind};
pub use server::Coordinator;
