//! The client library: sessions, metadata operations, reading and writing with a memory cache, a path API and an
//! administration API. The FUSE daemon and the command line are thin faces of it.

pub mod admin;
pub mod config;
pub mod paths;
mod skeleton;
pub mod types;

pub use admin::{AdminClient, ClusterStatus};
pub use config::ClientConfig;
pub use paths::{FileReader, FileWriter, PathApi};
pub use skeleton::Client;
pub use types::{Created, Entry, FileHandle, Invalidation, OpenFlags, OpenedFile};
