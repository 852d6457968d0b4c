//! Real programs on a real cluster: `dfs-server`, `dfs` and `dfs-mount` as processes of this machine, and what tests
//! need around them.
//!
//! Owns: finding the binaries, starting, killing and restarting every process on the address and data it had, mounts,
//! deadlines on every wait, and cleaning up. It knows the product only by its command line, so that it tests what users
//! run. It does not own what the tests expect.
//!
//! Invariant: whatever a test does, when its values are dropped no process, mount or directory of it is left, and
//! nothing is ever removed through a mount.

mod base;
mod binaries;
#[cfg(feature = "cluster")]
mod check;
mod cluster;
mod command;
mod content;
mod control;
mod deadline;
mod disk;
mod launcher;
mod mount;
mod node;
mod place;
mod source;
mod user;

pub use base::Base;
pub use binaries::{Binaries, Program};
#[cfg(feature = "cluster")]
pub use check::{StoppedStore, check_store, damaged_chunks};
pub use cluster::{ClusterOptions, ProcessCluster};
pub use command::{Finished, attempt, run};
pub use content::{Content, digest, digest_hex};
pub use control::PowerCut;
pub use deadline::{Pending, start, until, within};
pub use mount::{Mount, MountOptions, drop_caches};
pub use node::Node;
pub use place::Place;
pub use source::SourceTree;
pub use user::{User, as_user};
