//! What this program needs of the kernel besides file operations: mount points, tuning, invalidations.

pub mod below;
pub mod device;
pub mod given;
pub mod invalidation;
pub mod mount;
pub mod place;
pub mod trial;
pub mod tuning;
pub mod view;

/// Type of our mounts in mount tables.
pub const FILE_SYSTEM_TYPE: &str = "fuse.dfs";
/// The program that mounts and unmounts for users who are not root.
pub const HELPER: &str = "fusermount3";
