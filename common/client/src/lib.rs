//! The client library: sessions, metadata operations, reading and writing with a memory cache, a path API and an
//! administration API. The FUSE daemon, the command line and the gateway are thin faces of it.
//!
//! Entry points: [`Client`] (operations by inode number, one method per operation), [`PathApi`] (by path), [`AdminClient`].
//! A program's unsaved writes live in `dirty`; `writer` makes them durable and visible in order; `reader` puts a read
//! together from them, the extent map and the block cache; `session` keeps every call going while servers come and go.

pub mod admin;
mod client;
pub mod config;
mod content;
mod dirty;
mod extent_map;
mod file;
mod files;
mod inodes;
mod kernel_pages;
mod leased;
mod locks;
mod names;
pub mod paths;
mod placement;
pub mod profile;
mod reader;
mod releases;
mod session;
mod table;
pub mod types;
mod waiting;
mod writer;

pub use admin::{AdminClient, ClusterStatus, ExportFormat, FsckEvent, FsckSummary, MetadataState};
pub use client::Client;
pub use config::{ClientConfig, LocalSockets, Transport};
pub use paths::{FileReader, FileWriter, PathApi};
pub use types::{Again, Change, Created, Entry, FileHandle, Invalidation, OpenFlags, OpenedFile};
